"""One place for the compiler options of every kernel.

Two decorators, both ``nogil`` (a pool of threads runs kernels side by side) and cached on disk (compiled once
per machine):

``exact``
    IEEE arithmetic as written. For statistics, sums and everything whose order matters.
``fast``
    Lets LLVM fuse multiply-add and ignore the sign of zero. NaN and infinity keep their meaning, and no sum is
    reordered, so a result does not depend on vector width or tile size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def exact(function: F) -> F:
    """Return `function` compiled with IEEE arithmetic; see the module docstring."""
    return cast(F, numba.njit(nogil=True, cache=True, error_model="numpy")(function))


def fast(function: F) -> F:
    """Return `function` compiled with fused multiply-add; see the module docstring."""
    options = {"contract", "nsz"}
    return cast(F, numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=options)(function))


def inline(function: F) -> F:
    """Return `function` compiled to be expanded into the kernel that calls it, under that kernel's options."""
    return cast(F, numba.njit(nogil=True, cache=True, error_model="numpy", inline="always")(function))
