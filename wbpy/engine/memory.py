"""Keep memory that was given back, instead of asking the system for the same megabytes again and again.

The C library hands large blocks straight back to the system, which must fill each page with zeros before it lends it
out again. A run allocates and frees images of a hundred megabytes thousands of times: a sixth of its processor time
went into zeros. With the settings here freed blocks stay with the process until :func:`give_back`.

Only glibc has these settings; elsewhere nothing happens.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import sys
from collections.abc import Iterator

# Names and numbers of malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_DEFAULT_THRESHOLD = 128 * 1024
_NEVER = 2**31 - 1


@functools.cache
def _library() -> ctypes.CDLL | None:
    """Return the C library where it is glibc."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Keep freed blocks of every size with the process while the context lasts, and give them back at its end."""
    library = _library()
    if library is None:
        yield
        return
    # One arena for all threads: what one has freed serves the others, and its size is not limited.
    for name, value in ((_MMAP_THRESHOLD, _NEVER), (_TRIM_THRESHOLD, _NEVER), (_ARENA_MAX, 1)):
        library.mallopt(name, value)
    try:
        yield
    finally:
        for name, value in ((_MMAP_THRESHOLD, _DEFAULT_THRESHOLD), (_TRIM_THRESHOLD, _DEFAULT_THRESHOLD)):
            library.mallopt(name, value)
        library.mallopt(_ARENA_MAX, 0)
        library.malloc_trim(0)


def give_back() -> None:
    """Return the freed blocks to the system, so that the process shows what it really holds."""
    library = _library()
    if library is not None:
        library.malloc_trim(0)
