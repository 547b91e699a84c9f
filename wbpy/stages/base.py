"""What a stage is: a declaration and a function.

From the declaration follow the edges of the plan, the options of the configuration, the parameter docs, the
input checks and the admission by memory. There is no base class: a stage is a value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import msgspec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    FloatArray: TypeAlias = npt.NDArray[np.float32]


class Params(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of a stage: one field each, with a default, limits and a description.

    Every parameter enters the step's key: what does not change a result belongs into the section ``run``.
    """


@dataclass(frozen=True)
class Input:
    """One thing that a stage reads."""

    name: str
    kind: str
    optional: bool = False


@dataclass(frozen=True)
class Output:
    """One thing that a stage makes."""

    name: str
    kind: str
    unit: str


@dataclass(frozen=True)
class Stage:
    """A step of the treatment: what it reads, makes and can report, and the function that does it."""

    name: str
    """The same word in the file name, the configuration, the docs and the headers."""
    version: int
    """Raised whenever the stage's pixels or numbers change."""
    per: Literal["calibration group", "light", "registration group", "integration group"]
    run: Callable[..., Any]
    params: type[Params]
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    findings: tuple[str, ...]
    """Ids that it can raise."""
    memory: Callable[[int, int], int]
    """Working memory in bytes for a frame of (height, width), input and output included."""
    title: str
    """One line for people."""


class Reader(Protocol):
    """One image on disk, read by row band; the engine provides it, so that stages never see files."""

    @property
    def name(self) -> str:
        """File name for messages."""

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in pixels."""

    def read(self, y0: int, y1: int) -> FloatArray:
        """Return rows y0 <= y < y1 as (y1 - y0, width) float32, DN."""

    def words(self, y0: int, y1: int) -> tuple[npt.NDArray[np.uint16], float] | None:
        """Return the stored big-endian 16-bit words of these rows (flat) and BZERO; None for other layouts."""


class Window(Protocol):
    """A calibrated frame in the store, read by rectangle."""

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in pixels."""

    def read(self, y0: int, y1: int, x0: int, x1: int) -> FloatArray:
        """Return the pixels of a rectangle as a contiguous float32 array, DN; NaN is missing."""


@dataclass(frozen=True)
class Work:
    """What the engine lends to a stage that spreads its work: a pool, a memory allowance, a progress report."""

    map: Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]
    """Like the built-in, in order, spread over the workers; no more items are under way than there are workers."""
    workers: int
    memory: int
    """Bytes that the stage may use for its buffers."""
    report: Callable[[int, int, str], None]
    """Called with units done, units in all and the unit's name."""
