"""Drizzle: the lights of an integration once more, dropped onto a finer grid (guide, section 9.8).

The transforms, weights, normalization and rejected pixels are those of the integration. What is dropped are the
calibrated pixels themselves: lights of a mosaic are not debayered, each pixel falls into the plane of its colour.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, Protocol

from msgspec import Meta

from wbpy.stages.base import Input, Output, Params, Stage, Work
from wbpy.stages.integrate import Light
from wbpy.stages.register import channel_nodes

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from wbpy.kernels.drizzle import Drop
    from wbpy.stages.base import FloatArray

THIN = 0.25
"""Share of the weight of even coverage below which a pixel of the output counts as thinly covered."""

LARGEST_TILE = 1024
"""px"""


class DrizzleParams(Params, frozen=True, kw_only=True):
    """Whether and how the lights are drizzled."""

    use: Annotated[bool, Meta(description="make a drizzle integration beside each integration")] = False
    scale: Annotated[int, Meta(ge=1, le=4, description="output pixels per pixel of the reference along each axis")] = 2
    drop_shrink: Annotated[
        Annotated[float, Meta(ge=0.1, le=1)] | None,
        Meta(description="side of the drop, pixels of a light; none: 0.9 of mono lights, 1 of those with a CFA"),
    ] = None
    kernel: Annotated[
        Literal["square", "circular", "gaussian", "point"],
        Meta(
            description="form of the drop: the pixel itself, shrunk; a disc of its width; a Gaussian of that full "
            "width at half maximum; everything into the pixel under its centre"
        ),
    ] = "square"


class Refused(Protocol):
    """Which samples the integration rejected, read by rectangle."""

    def read(self, light: int, y0: int, y1: int, x0: int, x1: int) -> npt.NDArray[np.uint8]:
        """Return the bits (C, y1 - y0, (x1 - x0) / 8) of a light, first in the highest; x0 is a multiple of 8."""


@dataclass(frozen=True)
class Strip:
    """Finished rows of the result."""

    y0: int
    image: FloatArray
    """(C, h, W) float32, DN per pixel of the reference; NaN where nothing fell."""
    weight: FloatArray
    """(C, h, W) float32: sum of weights; where pixels fall evenly that of the lights, as in an integration."""


@dataclass
class Coverage:
    """Output pixels of each channel where all lights overlap, filled while the strips are made."""

    common: npt.NDArray[np.int64]
    """(C,)"""
    holes: npt.NDArray[np.int64]
    """(C,) of them those into which nothing fell."""
    thin: npt.NDArray[np.int64]
    """(C,) of them those with less than `THIN` of the weight of even coverage, holes included."""


def run(
    params: DrizzleParams,
    work: Work,
    lights: Sequence[Light],
    shape: tuple[int, int],
    cfa: npt.NDArray[np.uint8] | None,
    refused: Refused | None,
    coverage: Coverage,
) -> Iterator[Strip]:
    """Yield the drizzle integration of `lights` from top to bottom.

    Parameters
    ----------
    params : DrizzleParams
        The stage's parameters.
    work : Work
        Pool and memory; the tile size follows from them and does not change a bit of the result.
    lights : sequence of Light
        Those of the integration, at least one.
    shape : tuple of int
        (height, width) of the integration.
    cfa : (p, q) uint8 ndarray or None
        Plane of the pixels at ``[y % p, x % q]`` of the lights; (2, 2) for Bayer, (6, 6) for X-Trans.
    refused : Refused or None
        What the integration rejected; None when it rejected nothing.
    coverage : Coverage
        Filled in.
    """
    import numpy as np

    height, width = shape[0] * params.scale, shape[1] * params.scale
    channels = 1 if cfa is None else 3
    drops = [drop_of(params, light, cfa is not None) for light in lights]
    common = common_spans(lights, shape, 2 if cfa is None else 1 + max(cfa.shape))
    side = _tile_side(work.memory // 2, work.workers, channels, width)
    tiles = [
        (y, x, min(height, y + side), min(width, x + side))
        for y in range(0, height, side)
        for x in range(0, width, side)
    ]

    def tile(box: tuple[int, int, int, int]) -> _Tile:
        return _tile(params, lights, drops, shape, cfa, refused, common, box)

    strip: Strip | None = None
    for done, (box, result) in enumerate(zip(tiles, work.map(tile, tiles), strict=True), 1):
        y0, x0, y1, x1 = box
        if x0 == 0:
            strip = Strip(y0, *(np.empty((channels, y1 - y0, width), np.float32) for _ in range(2)))
        assert strip is not None
        strip.image[:, :, x0:x1], strip.weight[:, :, x0:x1] = result.image, result.weight
        coverage.common += result.coverage.common
        coverage.holes += result.coverage.holes
        coverage.thin += result.coverage.thin
        work.report(done, len(tiles), "tiles")
        if x1 == width:
            yield strip


def no_coverage(channels: int) -> Coverage:
    """Return a coverage to be filled in."""
    import numpy as np

    return Coverage(*(np.zeros(channels, np.int64) for _ in range(3)))


def shrink_of(params: DrizzleParams, is_cfa: bool) -> float:
    """Return the side of the drops, px of a light."""
    if params.drop_shrink is not None:
        return params.drop_shrink
    return 1.0 if is_cfa else 0.9


def drop_of(params: DrizzleParams, light: Light, is_cfa: bool) -> Drop:
    """Return the drop of one light, by its transform in its middle."""
    import numpy as np

    from wbpy.kernels import distortion, drizzle

    height, width = light.window.shape
    x, y = (width - 1) / 2, (height - 1) / 2
    points = np.array([(x - 0.5, y), (x + 0.5, y), (x, y - 0.5), (x, y + 0.5)])
    nodes = channel_nodes(light.displacement, 1)
    left, right, above, below = distortion.invert(light.matrix, nodes, light.displacement_step, points)
    derivative = np.column_stack([right - left, below - above]) * params.scale
    return drizzle.make_drop(params.kernel, shrink_of(params, is_cfa), derivative)


def common_spans(
    lights: Sequence[Light], shape: tuple[int, int], inset: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Return the first and last column of each row of the reference that all lights cover.

    Parameters
    ----------
    lights : sequence of Light
    shape : tuple of int
        (height, width) of the reference.
    inset : int, px
        What does not count at the edges of each light: there pixels miss the neighbours that share a cell of the CFA.
    """
    import numpy as np

    from wbpy.kernels import footprints

    first, last = np.zeros(shape[0], np.int32), np.full(shape[0], shape[1] - 1, np.int32)
    for light in lights:
        nodes = channel_nodes(light.displacement, 1)
        polygon = footprints.outline(light.matrix, nodes, light.displacement_step, light.window.shape, inset)
        begin, end = footprints.spans(polygon, shape)
        np.maximum(first, begin, out=first)
        np.minimum(last, end, out=last)
    return first, last


@dataclass(frozen=True)
class _Tile:
    """A finished rectangle of the result; see `Strip` and `Coverage`."""

    image: FloatArray
    weight: FloatArray
    coverage: Coverage


def _tile_side(memory: int, workers: int, channels: int, width: int) -> int:
    """Return the side of a square tile, px, a multiple of 32 from 64 to `LARGEST_TILE`.

    Half of the memory is for the tiles under way: their sums, two results, and the offsets and pixels of one light.
    The other half for strips: one is written while the next is made.
    """
    tile = (memory / (2 * workers * (channels * (16 + 8 + 16) + 16))) ** 0.5
    strip = memory / (2 * 2 * 2 * 4 * channels * width)
    side = int(min(tile, strip, LARGEST_TILE))
    return max(64, side - side % 32)


def _tile(
    params: DrizzleParams,
    lights: Sequence[Light],
    drops: Sequence[Drop],
    shape: tuple[int, int],
    cfa: npt.NDArray[np.uint8] | None,
    refused: Refused | None,
    common: tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]],
    box: tuple[int, int, int, int],
) -> _Tile:
    """Return one tile: what all lights drop into it, in their order."""
    import numpy as np

    from wbpy.kernels import drizzle

    y0, x0, y1, x1 = box
    h, w = y1 - y0, x1 - x0
    pattern = np.zeros((1, 1), np.uint8) if cfa is None else np.ascontiguousarray(cfa)
    channels = 1 if cfa is None else 3
    border = math.ceil(max(2 * drop.reach for drop in drops)) + 3
    total = np.zeros((channels, h + 2 * border, w + 2 * border, 2), np.float64)
    for number, (light, drop) in enumerate(zip(lights, drops, strict=True)):
        _add(params, number, light, drop, shape, pattern, refused, total, border, box)
    image, weight = (np.empty((channels, h, w), np.float32) for _ in range(2))
    found = no_coverage(channels)
    first, end = _inside(common, params.scale, box)
    found.common[:] = np.sum(end - first)
    for c in range(channels):
        # Even coverage gives the sum of the weights: a frame has one pixel of the colour in 1 / share of its own.
        share = np.count_nonzero(pattern == c) / pattern.size
        norm = params.scale**2 / share if share else 0.0
        little = THIN * sum(light.weight[c] for light in lights)
        found.holes[c], found.thin[c] = drizzle.finish(total[c], border, norm, little, first, end, image[c], weight[c])
    return _Tile(image, weight, found)


def _add(
    params: DrizzleParams,
    number: int,
    light: Light,
    drop: Drop,
    shape: tuple[int, int],
    pattern: npt.NDArray[np.uint8],
    refused: Refused | None,
    total: npt.NDArray[np.float64],
    border: int,
    box: tuple[int, int, int, int],
) -> None:
    """Add what one light drops into a tile."""
    import numpy as np

    from wbpy.kernels import drizzle, local_normalization, warp

    y0, x0, y1, x1 = box
    scale, channels = params.scale, len(total)
    # The pixels of the reference on which centres of drops on the tile may lie.
    margin = math.ceil((drop.reach + 1) / scale) + 1
    top, bottom = max(0, y0 // scale - margin), min(shape[0], -(-y1 // scale) + margin)
    left, right = max(0, x0 // scale - margin), min(shape[1], -(-x1 // scale) + margin)
    left -= left % 8
    height, width = light.window.shape
    # Beyond the edge of the reference, too, centres may lie, hence the rectangle before it was cut.
    sx0, sy0, sx1, sy1 = warp.source_window(
        light.matrix,
        x0 // scale - margin,
        y0 // scale - margin,
        -(-x1 // scale) - x0 // scale + 2 * margin,
        -(-y1 // scale) - y0 // scale + 2 * margin,
        width,
        height,
        1,
        light.displacement,
        light.displacement_step,
    )
    if sx1 <= sx0 or sy1 <= sy0:
        return
    pixels = light.window.read(sy0, sy1, sx0, sx1)
    surfaces = light.sided or [nodes[None] for nodes in light.surfaces]
    if surfaces:
        offsets = np.zeros((channels, len(surfaces[0]), bottom - top, right - left), np.float32)
        for planes, layers in zip(offsets, surfaces, strict=True):
            for plane, nodes in zip(planes, layers, strict=True):
                local_normalization.apply(plane, 0.0, nodes, light.surface_step, left, top, plane)
    else:
        offsets = np.array(light.offset, np.float32).reshape(-1, 1, 1, 1)
    bits = drizzle.NO_MASK if refused is None else refused.read(number, top, bottom, left, right)
    size = drizzle.BLOCK
    blocks = sx0 // size, sy0 // size, -(-sx1 // size), -(-sy1 // size)
    grids = max(1, len(light.displacement))
    for c in range(grids):
        nodes = channel_nodes(light.displacement, c)
        drizzle.deposit(
            pixels,
            sx0,
            sy0,
            drizzle.places(light.matrix, nodes, light.displacement_step, scale, blocks),
            drop,
            pattern,
            c if grids > 1 else -1,
            np.array(light.scale, np.float64),
            np.array(light.weight, np.float64),
            offsets,
            bits,
            (left, top, right, bottom),
            shape,
            scale,
            total,
            x0,
            y0,
            border,
        )


def _inside(
    common: tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]], scale: int, box: tuple[int, int, int, int]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Return the first column of each row of a tile that all lights cover, and the first behind them."""
    import numpy as np

    y0, x0, y1, x1 = box
    rows = np.arange(y0, y1) // scale
    first = np.clip(common[0][rows] * scale - x0, 0, x1 - x0)
    end = np.clip((common[1][rows] + 1) * scale - x0, first, x1 - x0)
    return first.astype(np.int32), end.astype(np.int32)


DRIZZLE = Stage(
    name="drizzle",
    version=1,
    per="integration group",
    title="Drop the lights onto a finer grid",
    run=run,
    params=DrizzleParams,
    inputs=(
        Input("image", "cosmetic"),
        Input("transforms", "transform"),
        Input("normalization", "normalization"),
        Input("weights", "weight"),
        Input("integration", "integration"),
    ),
    outputs=(
        Output("drizzle", "drizzle", "1"),
        Output("drizzle_preview", "preview", ""),
        Output("drizzle_weight", "map", "1"),
    ),
    findings=("DRZ001", "DRZ002", "DRZ003", "INT005"),
    memory=lambda height, width: 64_000_000,
)
