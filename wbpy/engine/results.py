"""What the steps of an execution hand on to each other: masters, treated lights, decisions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wbpy.engine.context import Context
from wbpy.engine.remaking import Image
from wbpy.model import Frame
from wbpy.stages.framing import Grid
from wbpy.stages.integrate import Light
from wbpy.stages.measure import Measurement
from wbpy.stages.normalize import Normalization
from wbpy.stages.register import Transform

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from wbpy.io.wcs import Wcs


@dataclass(frozen=True)
class MasterFile:
    """A master on disk: made by this run, by an earlier one or by another program."""

    path: Path
    key: str
    dn_per_unit: float
    pedestal: float = 0.0
    """DN that its pixels are too high by on purpose."""
    noise: float = math.nan
    """Noise of its pixels in time, DN; NaN when it is not known."""
    exposure: float | None = None
    """Seconds."""
    temperature: float | None = None
    """Degrees C."""
    overscan: float | None = None
    """Level of the overscan in its frames, DN."""
    level: float | None = None
    """Median of its pixels without their pedestal, DN; None when that has to be read from the file."""
    fit: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]] | None = None
    """Brings the pixels into the geometry of the frames that it serves."""

    def read(self) -> npt.NDArray[np.float32]:
        """Return the (H, W) image, DN, its pedestal taken off."""
        import numpy as np

        from wbpy.io.images import open_image

        with open_image(self.path, self.dn_per_unit) as image:
            pixels = image.read()
        if self.fit is not None:
            pixels = self.fit(pixels)
        return pixels - np.float32(self.pedestal) if self.pedestal else pixels


@dataclass(frozen=True)
class Treated:
    """One light after the first pass."""

    frame: Frame
    key: str
    """Of the image."""
    stars: str
    """Key of the measurement; it follows from that of the image and the parameters of measure."""
    image: Image
    measurement: Measurement
    numbers: dict[str, float | None]
    """What the calibration found, see `Calibrated.numbers`."""
    statistics: list[list[Any]]
    """Rows of the statistics table, one for each plane of the raw frame."""


@dataclass(frozen=True)
class Integrated:
    """What an integration used, for another one of the same lights."""

    paths: tuple[str, ...]
    lights: tuple[Light, ...]
    shape: tuple[int, int]
    """(height, width) of its grid."""
    key: str
    refused: str
    """Key of the bits of the samples that it rejected, where a drizzle follows."""
    pedestal: float
    """DN that were added to the result."""
    sky: Wcs | None
    """Celestial coordinates of its grid."""
    lost: bool
    """Whether lights of the plan are missing."""


@dataclass
class Decisions:
    """What the first pass led to, by path of the light or by group."""

    excluded: dict[str, str] = field(default_factory=dict)
    """Path -> id of the finding that excluded it."""
    approval: list[dict[str, Any]] = field(default_factory=list)
    """Rows of ``approval.csv``."""
    references: dict[str, str] = field(default_factory=dict)
    """Registration group -> path of its reference."""
    transforms: dict[str, Transform] = field(default_factory=dict)
    """Path -> transform from the output grid; absent for lights that were lost or could not be registered."""
    grids: dict[str, Grid] = field(default_factory=dict)
    """Registration group -> its output grid, where that is not the reference's own."""
    normalizations: dict[str, dict[str, Normalization]] = field(default_factory=dict)
    """Integration group -> path -> normalization."""
    weights: dict[str, dict[str, tuple[float, ...]]] = field(default_factory=dict)
    """Integration group -> path -> weight of each channel."""
    integrated: dict[str, Integrated] = field(default_factory=dict)
    """Integration group -> what its integration used."""


def cfa_matrix(frame: Frame) -> npt.NDArray[np.uint8] | None:
    """Return the (p, p) colours of a frame's CFA, 0 R, 1 G, 2 B, with p = 2 (Bayer) or 6 (X-Trans); None for mono."""
    import numpy as np

    if frame.cfa is None:
        return None
    period = math.isqrt(len(frame.cfa))
    return np.array(["RGB".index(colour) for colour in frame.cfa], np.uint8).reshape(period, period)


def grid_of(context: Context, treated: dict[str, Treated], decisions: Decisions, paths: Sequence[str]) -> Grid:
    """Return the grid on which the transforms of `paths` lie."""
    for group, leader in decisions.references.items():
        if paths[0] in context.groups[group].frames:
            height, width = treated[leader].image.shape
            return decisions.grids.get(group, Grid(0, 0, width, height))
    raise KeyError(paths[0])


def leader_of(context: Context, decisions: Decisions, paths: Sequence[str]) -> str:
    """Return the registration reference on whose grid `paths` lie."""
    for group, leader in decisions.references.items():
        if paths[0] in context.groups[group].frames:
            return leader
    raise KeyError(paths[0])
