"""Overscan: take the level of the bias from columns and rows of each frame that never see light (guide, section 7.1).

Every raw frame is corrected when it is read - bias, darks, flats, lights - and cut to its picture, so that masters
hold what the overscan does not show and need no correction of their own. That is worth it where the level drifts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from wbpy.errors import ConfigError
from wbpy.stages.base import Reader

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from wbpy.stages.base import FloatArray

MOST_REGIONS = 4
LOWEST_VALID, HIGHEST_VALID = 2e-5 * 65535.0, 0.99998 * 65535.0
"""Pixels at the ends of the range tell no level, DN (PCL 1.8.9, ImageCalibration)."""


class Rect(NamedTuple):
    """A rectangle of pixels, ends excluded; rows in stored order."""

    x0: int
    x1: int
    y0: int
    y1: int

    def fits(self, shape: tuple[int, int]) -> bool:
        """Return whether it is not empty and lies within a frame of (height, width)."""
        return 0 <= self.x0 < self.x1 <= shape[1] and 0 <= self.y0 < self.y1 <= shape[0]


@dataclass(frozen=True)
class Overscan:
    """Where a sensor's overscan is and which pixels it corrects."""

    regions: tuple[tuple[Rect, Rect], ...]
    """(source, target): the median of the source is subtracted from the target."""
    image: Rect
    """What is left of the frame."""

    def on_whole_cells(self, period: int) -> Overscan:
        """Return the same with a picture that begins a multiple of `period` from the corner, where the CFA repeats."""
        image = self.image
        return Overscan(
            self.regions, image._replace(x0=image.x0 + -image.x0 % period, y0=image.y0 + -image.y0 % period)
        )

    def turned(self, height: int) -> Overscan:
        """Return the same for a frame of `height` rows that is stored from the bottom up."""

        def turn(rect: Rect) -> Rect:
            return rect._replace(y0=height - rect.y1, y1=height - rect.y0)

        return Overscan(tuple((turn(source), turn(target)) for source, target in self.regions), turn(self.image))

    def matches(self, shape: tuple[int, int]) -> bool:
        """Return whether a frame of (height, width) holds all rectangles: False for one that was cut before."""
        return all(rect.fits(shape) for pair in self.regions for rect in pair) and self.image.fits(shape)


def parse_rect(text: str) -> Rect:
    """Return the rectangle of ``x0:x1;y0:y1``: counted from 0, ends excluded. A comma serves as well.

    Raises
    ------
    ConfigError
        If the text is anything else.
    """
    found = re.fullmatch(r"\s*(\d+)\s*:\s*(\d+)\s*[;,]\s*(\d+)\s*:\s*(\d+)\s*", text)
    if not found or int(found[1]) >= int(found[2]) or int(found[3]) >= int(found[4]):
        raise ConfigError(f"overscan: {text!r} is no rectangle; expected x0:x1;y0:y1 from 0 on, ends excluded")
    return Rect(*(int(number) for number in found.groups()))


def from_settings(regions: Sequence[str], image: str) -> Overscan:
    """Return the overscan that the configuration describes.

    Parameters
    ----------
    regions : sequence of str
        ``SOURCE > TARGET`` each, at most four; a target may have several sources.
    image : str
        The picture, as for `parse_rect`.

    Raises
    ------
    ConfigError
        If a text is not understood or there are too many.
    """
    if not 1 <= len(regions) <= MOST_REGIONS:
        raise ConfigError(f"overscan.regions has {len(regions)} entries; expected 1 to {MOST_REGIONS}")
    pairs = []
    for region in regions:
        source, arrow, target = region.partition(">")
        if not arrow:
            raise ConfigError(f"overscan.regions: {region!r} has no target; expected SOURCE > TARGET")
        pairs.append((parse_rect(source), parse_rect(target)))
    return Overscan(tuple(pairs), parse_rect(image))


def from_header(cards: Mapping[str, object]) -> Overscan | None:
    """Return the overscan of BIASSEC and TRIMSEC, None when the header lacks one of them.

    Sections are those of IRAF, ``[x1:x2,y1:y2]``: counted from 1, ends included. DATASEC serves where there is no
    TRIMSEC. Sensors that are read through several amplifiers have a pair for each, numbered from 1 to 4; what is left
    is TRIMSEC without a number, or else the smallest rectangle around all that is corrected.
    """

    def pair(number: str) -> tuple[Rect, Rect] | None:
        source = _section(cards.get(f"BIASSEC{number}"))
        target = _section(cards.get(f"TRIMSEC{number}")) or _section(cards.get(f"DATASEC{number}"))
        return None if source is None or target is None else (source, target)

    parts = [found for number in range(1, MOST_REGIONS + 1) if (found := pair(str(number))) is not None]
    whole = pair("")
    pairs = parts or ([whole] if whole is not None else [])
    if not pairs:
        return None
    targets = [target for _, target in pairs]
    image = _section(cards.get("TRIMSEC")) or Rect(
        min(rect.x0 for rect in targets),
        max(rect.x1 for rect in targets),
        min(rect.y0 for rect in targets),
        max(rect.y1 for rect in targets),
    )
    return Overscan(tuple(pairs), image)


def _section(value: object) -> Rect | None:
    found = re.fullmatch(
        r"\s*\[\s*(\d+)\s*:\s*(\d+)\s*,\s*(\d+)\s*:\s*(\d+)\s*\]\s*", value if isinstance(value, str) else ""
    )
    if not found:
        return None
    x1, x2, y1, y2 = (int(number) for number in found.groups())
    rect = Rect(min(x1, x2) - 1, max(x1, x2), min(y1, y2) - 1, max(y1, y2))
    return rect if min(rect.x0, rect.y0) >= 0 else None


def region_level(frame: Reader, source: Rect) -> tuple[float, float]:
    """Return the median of the valid pixels of a region and the spread of its eighths, DN; NaN without any.

    The spread is the largest minus the smallest of the medians of eight parts along the longer side: what a uniform
    overscan keeps near its noise.
    """
    import numpy as np

    from wbpy.kernels import statistics

    pixels = frame.read(source.y0, source.y1)[:, source.x0 : source.x1]
    pixels = np.where((pixels > LOWEST_VALID) & (pixels < HIGHEST_VALID), pixels, np.float32(np.nan))
    along = 0 if pixels.shape[0] >= pixels.shape[1] else 1
    parts = [
        statistics.median(part.ravel()) for part in np.array_split(pixels, min(8, pixels.shape[along]), axis=along)
    ]
    return statistics.median(pixels.ravel()), float(np.max(parts) - np.min(parts))


class CorrectedReader:
    """A raw frame without its overscan: level taken off, cut to the picture.

    Parameters
    ----------
    frame : Reader
        The whole frame.
    overscan : Overscan
        Must match the frame's shape.
    """

    def __init__(self, frame: Reader, overscan: Overscan) -> None:
        import math

        self._frame = frame
        self._image = overscan.image
        self.levels = tuple(region_level(frame, source) for source, _ in overscan.regions)
        by_target: dict[Rect, list[float]] = {}
        for (_, target), (level, _spread) in zip(overscan.regions, self.levels, strict=True):
            if math.isfinite(level):
                by_target.setdefault(target, []).append(level)
        self._targets = [(target, sum(found) / len(found)) for target, found in by_target.items()]

    @property
    def name(self) -> str:
        """File name."""
        return self._frame.name

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of the picture, px."""
        return self._image.y1 - self._image.y0, self._image.x1 - self._image.x0

    def read(self, y0: int, y1: int) -> FloatArray:
        """Return rows of the picture as (y1 - y0, width) float32, DN."""
        import numpy as np

        first, last = self._image.y0 + y0, self._image.y0 + y1
        rows = self._frame.read(first, last).copy()
        for target, level in self._targets:
            top, bottom = max(first, target.y0), min(last, target.y1)
            if top < bottom:
                rows[top - first : bottom - first, target.x0 : target.x1] -= np.float32(level)
        return np.ascontiguousarray(rows[:, self._image.x0 : self._image.x1])

    def words(self, y0: int, y1: int) -> tuple[npt.NDArray[np.uint16], float] | None:
        """Return None: corrected pixels are no stored words."""
        return None


class Whole:
    """An image in memory, read as a frame is."""

    def __init__(self, image: FloatArray, name: str) -> None:
        self._image = image
        self.name = name

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self._image.shape[0], self._image.shape[1]

    def read(self, y0: int, y1: int) -> FloatArray:
        """Return rows as (y1 - y0, width) float32, DN."""
        return self._image[y0:y1]

    def words(self, y0: int, y1: int) -> tuple[npt.NDArray[np.uint16], float] | None:
        """Return None: the image is not in a file."""
        return None


def of_master(image: FloatArray, overscan: Overscan, is_flat: bool) -> FloatArray:
    """Return a finished master in the geometry of corrected frames.

    One of whole frames is corrected and cut, a master flat only cut: its frames were corrected before they were
    averaged. One that has the size of the picture stays as it is (guide, section 7.1).
    """
    import numpy as np

    if not overscan.matches((image.shape[0], image.shape[1])):
        return image
    rect = overscan.image
    if is_flat:
        return np.ascontiguousarray(image[rect.y0 : rect.y1, rect.x0 : rect.x1])
    corrected = CorrectedReader(Whole(image, "master"), overscan)
    return corrected.read(0, corrected.shape[0])
