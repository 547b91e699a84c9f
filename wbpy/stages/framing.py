"""Framing: which part of the sky the integrations of one reference show (guide, section 9.7)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from wbpy.stages.base import Input, Output, Params, Stage
from wbpy.stages.register import Transform, channel_nodes

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

EDGE = 4
"""Pixels at each edge of a light that do not count as covered: the widest interpolation reaches that far."""


class FramingParams(Params, frozen=True, kw_only=True):
    """Which grid the lights of one reference are laid on."""

    grid: Annotated[
        Literal["reference", "min", "max", "cog"],
        Meta(
            description="the reference's own; the largest rectangle that all lights cover; one that holds all of "
            "them, for mosaics; one of the reference's size around the mean of their centres"
        ),
    ] = "reference"
    largest: Annotated[float, Meta(ge=1, le=100, description="grid max: largest area, in areas of the reference")] = 6.0
    smallest: Annotated[
        float,
        Meta(
            gt=0, le=1, description="grid min: smallest area in areas of the reference, below which its grid is taken"
        ),
    ] = 0.1


@dataclass(frozen=True)
class Grid:
    """A rectangle of pixels of the reference, which may reach beyond it."""

    x0: int
    """Column of the reference that is its first; below zero left of the reference."""
    y0: int
    width: int
    height: int

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width), px."""
        return self.height, self.width


@dataclass(frozen=True)
class Framing:
    """The grid that was found, and what was in the way."""

    grid: Grid
    wanted: tuple[float, float] | None = None
    """Grid max: width and height that would hold all lights, px, where that was more than is allowed."""
    common: float | None = None
    """Grid min: share of the reference that all lights cover, where that was too little."""


def run(
    params: FramingParams,
    transforms: Sequence[Transform],
    frames: Sequence[tuple[int, int]],
    reference: tuple[int, int],
) -> Framing:
    """Return the grid for the lights of one reference.

    Its pixels are those of the reference, moved by whole pixels, so that the reference is never resampled.

    Parameters
    ----------
    params : FramingParams
        The stage's parameters.
    transforms : sequence of Transform
        Reference -> light, of each light.
    frames : sequence of tuple of int
        (height, width) of each light.
    reference : tuple of int
        (height, width) of the reference.
    """
    height, width = reference
    own = Grid(0, 0, width, height)
    if params.grid == "reference" or not transforms:
        return Framing(own)
    if params.grid == "min":
        return _common(params, transforms, frames, own)
    if params.grid == "max":
        return _hull(params, transforms, frames, own)
    centres = [_centre(transform, frame) for transform, frame in zip(transforms, frames, strict=True)]
    x = sum(x for x, _ in centres) / len(centres) - (width - 1) / 2
    y = sum(y for _, y in centres) / len(centres) - (height - 1) / 2
    return Framing(Grid(round(x), round(y), width, height))


def moved(transform: Transform, grid: Grid) -> Transform:
    """Return the transform from the pixels of a grid, where `transform` is that from the pixels of the reference."""
    import numpy as np

    from wbpy.kernels import distortion

    if (grid.x0, grid.y0) == (0, 0):
        return transform
    shift = np.array([[1.0, 0.0, grid.x0], [0.0, 1.0, grid.y0], [0.0, 0.0, 1.0]])
    displacement, step = transform.displacement, transform.displacement_step
    if len(displacement):
        rectangle = grid.x0, grid.y0, grid.width, grid.height
        displacement = np.stack([distortion.moved(nodes, step, *rectangle) for nodes in displacement])
    return dataclasses.replace(transform, matrix=transform.matrix @ shift, displacement=displacement)


def footprint(transform: Transform, frame: tuple[int, int], inset: float = 0.0) -> npt.NDArray[np.float64]:
    """Return the outline (n, 2) of a light of shape `frame` on the grid of its transform, px."""
    from wbpy.kernels import footprints

    nodes = channel_nodes(transform.displacement, 1)
    return footprints.outline(transform.matrix, nodes, transform.displacement_step, frame, inset)


def covered(transform: Transform, frame: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Return the outline (n, 2) of what a light of shape `frame` gives after resampling, px."""
    return footprint(transform, frame, 0 if _only_copies(transform) else EDGE)


def _centre(transform: Transform, frame: tuple[int, int]) -> tuple[float, float]:
    import numpy as np

    x, y = transform.invert(np.array([[(frame[1] - 1) / 2, (frame[0] - 1) / 2]]))[0]
    return float(x), float(y)


def _hull(
    params: FramingParams, transforms: Sequence[Transform], frames: Sequence[tuple[int, int]], own: Grid
) -> Framing:
    """Return the rectangle around all lights and the reference, cut evenly on all sides where it is too large."""
    import numpy as np

    outlines = [footprint(transform, frame) for transform, frame in zip(transforms, frames, strict=True)]
    points = np.concatenate([*outlines, [(0, 0), (own.width - 1, own.height - 1)]])
    finite = points[np.isfinite(points).all(axis=1)]
    # A thousandth less, so that rounding of the identity adds no empty column.
    left, top = (float(value) for value in np.ceil(-finite.min(axis=0) - 1e-3))
    right, bottom = (float(value) for value in np.ceil(finite.max(axis=0) - (own.width - 1, own.height - 1) - 1e-3))
    wanted = own.width + left + right, own.height + top + bottom
    allowed = params.largest * own.width * own.height
    if wanted[0] * wanted[1] <= allowed:
        return Framing(Grid(-int(left), -int(top), int(wanted[0]), int(wanted[1])))
    # The share f of the overhangs with (w + f dw) (h + f dh) = allowed.
    dw, dh = left + right, top + bottom
    a, b, c = dw * dh, dw * own.height + dh * own.width, own.width * own.height - allowed
    share = 2 * -c / (b + math.sqrt(b * b - 4 * a * c))
    left, right, top, bottom = (math.floor(share * side) for side in (left, right, top, bottom))
    grid = Grid(-int(left), -int(top), own.width + int(left + right), own.height + int(top + bottom))
    return Framing(grid, wanted=wanted)


def _common(
    params: FramingParams, transforms: Sequence[Transform], frames: Sequence[tuple[int, int]], own: Grid
) -> Framing:
    """Return the largest rectangle that all lights cover; the reference's grid where there is next to none.

    The lights may overlap beside the reference, but what the reference lacks cannot be common to all.
    """
    import numpy as np

    from wbpy.kernels import footprints

    rows = [
        footprints.spans(covered(transform, frame), own.shape)
        for transform, frame in zip(transforms, frames, strict=True)
    ]
    first, last = (np.stack([span[side] for span in rows]) for side in (0, 1))
    owner, needed = np.zeros(len(rows), np.int32), np.array([len(rows)], np.int32)
    found = footprints.common_rectangle(first, last, owner, needed, own.width)
    x0, y0, x1, y1 = found or (0, 0, 0, 0)
    share = (x1 - x0) * (y1 - y0) / (own.width * own.height)
    if share < params.smallest:
        return Framing(own, common=share)
    return Framing(Grid(x0, y0, x1 - x0, y1 - y0))


def _only_copies(transform: Transform) -> bool:
    """Return whether a transform only copies pixels, whose neighbours nothing needs then."""
    import numpy as np

    matrix = transform.matrix / transform.matrix[2, 2]
    whole = np.eye(3)
    whole[:2, 2] = np.round(matrix[:2, 2])
    return not len(transform.displacement) and bool(np.abs(matrix - whole).max() < 1e-9)


FRAMING = Stage(
    name="framing",
    version=1,
    per="registration group",
    title="Choose the grid of the integrations",
    run=run,
    params=FramingParams,
    inputs=(Input("transforms", "transform"), Input("reference", "decision")),
    outputs=(Output("transforms", "transform", "px"),),
    findings=("FRM001", "FRM002"),
    memory=lambda height, width: 0,
)
