"""What the raw frames of a group look like: the numbers of the statistics table (guide, section 5.3).

The guide reads them from Blink, frame by frame, to find light leaks, drifts and frames that do not belong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wbpy.stages.base import Reader

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

HIGH_DN = 60000.0
"""From here to 65535 DN a pixel counts as high: the range of the guide's test of flats (section 5.6)."""

COLUMNS = ("plane", "mean_dn", "median_dn", "mad_dn", "min_dn", "max_dn", "zero_count", "high_count")
"""Columns of the table, after the file's name."""


@dataclass(frozen=True)
class PlaneLevels:
    """Statistics of one colour plane of one raw frame."""

    plane: str
    """``mono``, or ``R``, ``G1``, ``G2``, ``B`` of a Bayer mosaic, or ``CFA`` for all colours of an X-Trans one."""
    mean: float
    """DN, as are the four that follow; NaN for a plane without pixels."""
    median: float
    mad: float
    """Median absolute deviation, unscaled."""
    lowest: float
    highest: float
    zeros: int
    """Pixels at or below 0 DN: cut off by the camera, or by a subtraction."""
    high: int
    """Pixels from `HIGH_DN` on."""

    def row(self) -> tuple[str | float | int, ...]:
        """Return the values in the order of `COLUMNS`, rounded to a thousandth of a DN."""
        numbers = (self.mean, self.median, self.mad, self.lowest, self.highest)
        return (self.plane, *(round(number, 3) for number in numbers), self.zeros, self.high)


def cell_of(cfa: npt.NDArray[np.uint8] | None) -> int:
    """Return the side of the cell whose pixels are counted apart: 2 for a Bayer mosaic, else 1.

    The 36 pixels of an X-Trans cell are counted as one plane: apart they would fill a table that nobody reads.
    """
    return 2 if cfa is not None and len(cfa) == 2 else 1


def plane_names(cfa: npt.NDArray[np.uint8] | None) -> tuple[str, ...]:
    """Return the names of the planes in the order of the cell: row by row."""
    if cfa is None:
        return ("mono",)
    if cell_of(cfa) == 1:
        return ("CFA",)
    names, greens = [], 0
    for colour in cfa.reshape(-1):
        greens += colour == 1
        names.append(f"G{greens}" if colour == 1 else "RGB"[colour])
    return tuple(names)


def from_counts(counts: npt.NDArray[np.int64], names: Sequence[str]) -> tuple[PlaneLevels, ...]:
    """Return the statistics of each plane from its histogram, as :mod:`wbpy.kernels.histograms` counts it."""
    from wbpy.kernels import histograms

    rows = []
    for name, plane in zip(names, counts, strict=True):
        mean, median, mad, lowest, highest = histograms.describe(plane)
        zeros = histograms.count_within(plane, histograms.FIRST, 0.0)
        high = histograms.count_within(plane, HIGH_DN, histograms.FIRST + histograms.SIZE)
        rows.append(PlaneLevels(name, mean, median, mad, lowest, highest, zeros, high))
    return tuple(rows)


def count(reader: Reader, cell: int, y0: int, y1: int, counts: npt.NDArray[np.int64]) -> None:
    """Add rows y0 <= y < y1 of a raw frame to the histograms of its planes, (cell * cell, SIZE)."""
    from wbpy.kernels import calibration, histograms

    stored = reader.words(y0, y1)
    if stored is None:
        histograms.count_levels(reader.read(y0, y1), y0, cell, counts)
    else:
        words, zero = stored
        shift = int(zero) - 32768 - histograms.FIRST
        calibration.count_words(words, reader.shape[1], y0, cell, shift, counts)


def of_frame(reader: Reader, cfa: npt.NDArray[np.uint8] | None) -> tuple[PlaneLevels, ...]:
    """Return the statistics of each plane of a raw frame, as stored."""
    import numpy as np

    from wbpy.kernels import histograms

    height, width = reader.shape
    cell = cell_of(cfa)
    counts = np.zeros((cell * cell, histograms.SIZE), np.int64)
    rows = max(2, 4_000_000 // (2 * width))
    for y in range(0, height, rows):
        count(reader, cell, y, min(height, y + rows), counts)
    return from_counts(counts, plane_names(cfa))
