"""Integrate: the second pass over the pixels, tile by tile (guide, section 9.7).

For each tile of the output every frame is read where it is needed, debayered, resampled onto the reference's grid
and normalized; then outliers are rejected and the rest is averaged. No registered frame is ever written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta

from wbpy.stages import debayer
from wbpy.stages.base import Input, Output, Params, Stage, Window, Work
from wbpy.stages.debayer import DebayerParams
from wbpy.stages.masters import Rejection

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from wbpy.stages.base import FloatArray


class IntegrateParams(Params, frozen=True, kw_only=True):
    """How registered lights are combined."""

    rejection: Annotated[Rejection, Meta(description="pixel rejection; auto takes it from rules/integration.toml")] = (
        "auto"
    )
    low: Annotated[float, Meta(ge=0, description="limit below the centre, in the unit of the algorithm")] = 4.0
    high: Annotated[float, Meta(ge=0, description="limit above the centre, in the unit of the algorithm")] = 3.0
    interpolation: Annotated[
        Literal["lanczos3", "bilinear", "nearest"], Meta(description="how frames are resampled onto the reference")
    ] = "lanczos3"
    clamping: Annotated[
        float,
        Meta(ge=0, description="Lanczos: sigma of the local noise below the lowest pixel from which ringing is damped"),
    ] = 0.3
    pedestal: Annotated[
        str, Meta(description="added to the result so that noise around zero survives the range [0, 1]: auto, or DN")
    ] = "auto"


@dataclass(frozen=True)
class Light:
    """One frame of an integration with what the decisions say about it."""

    window: Window
    matrix: npt.NDArray[np.float64]
    """(3, 3): output pixel -> frame pixel."""
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    weight: tuple[float, ...]


@dataclass(frozen=True)
class Strip:
    """Finished rows of the result."""

    y0: int
    image: FloatArray
    """(C, h, W) float32, DN; NaN where no frame reaches."""
    low: FloatArray
    """(C, h, W) float32: share of the samples rejected as too dark; 1 where no frame reaches."""
    high: FloatArray
    """(C, h, W) float32: share of the samples rejected as too bright."""


@dataclass
class Counts:
    """Samples of each frame, filled while the strips are made."""

    offered: npt.NDArray[np.int64]
    """(N,)"""
    low: npt.NDArray[np.int64]
    """(N,)"""
    high: npt.NDArray[np.int64]
    """(N,)"""


def run(
    params: IntegrateParams,
    debayer_params: DebayerParams,
    work: Work,
    lights: Sequence[Light],
    shape: tuple[int, int],
    cfa: npt.NDArray[np.uint8] | None,
    counts: Counts,
) -> Iterator[Strip]:
    """Yield the integration of `lights` from top to bottom.

    Parameters
    ----------
    params, debayer_params : IntegrateParams, DebayerParams
        Rejection already resolved (not ``auto``).
    work : Work
        Pool and memory; the tile size follows from them and does not change a bit of the result.
    lights : sequence of Light
        At least one.
    shape : tuple of int
        (height, width) of the output grid, the reference's.
    cfa : (2, 2) uint8 ndarray or None
        Of the frames.
    counts : Counts
        Filled in: samples offered and rejected per frame, summed over channels.
    """
    import numpy as np

    height, width = shape
    channels = 1 if cfa is None else 3
    # Stack and its sorted blocks, plus what one frame needs while it is debayered and resampled.
    per_pixel = 4 * channels * (len(lights) + 4) + 4 * 24
    side = tile_side(work.memory // (2 * work.workers), per_pixel)
    tiles = [
        (y, x, min(height, y + side), min(width, x + side))
        for y in range(0, height, side)
        for x in range(0, width, side)
    ]

    def tile(box: tuple[int, int, int, int]) -> Any:
        return _tile(params, debayer_params, lights, cfa, channels, box)

    strip: Strip | None = None
    for done, (box, result) in enumerate(zip(tiles, work.map(tile, tiles), strict=True), 1):
        y0, x0, y1, x1 = box
        if x0 == 0:
            planes = [np.empty((channels, y1 - y0, width), np.float32) for _ in range(3)]
            strip = Strip(y0, *planes)
        assert strip is not None
        strip.image[:, :, x0:x1], strip.low[:, :, x0:x1], strip.high[:, :, x0:x1] = result[:3]
        counts.offered += result[3]
        counts.low += result[4][:, 0]
        counts.high += result[4][:, 1]
        work.report(done, len(tiles), "tiles")
        if x1 == width:
            yield strip


def tile_side(memory: int, bytes_per_pixel: int) -> int:
    """Return the side of a square tile in pixels, a multiple of 32 from 64 to 512, that fits into `memory` bytes."""
    side = int((memory / bytes_per_pixel) ** 0.5)
    return max(64, min(512, side - side % 32))


def _tile(
    params: IntegrateParams,
    debayer_params: DebayerParams,
    lights: Sequence[Light],
    cfa: npt.NDArray[np.uint8] | None,
    channels: int,
    box: tuple[int, int, int, int],
) -> tuple[FloatArray, FloatArray, FloatArray, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return image, low and high shares, samples offered and samples rejected of one tile."""
    import numpy as np

    from wbpy.kernels import combine, rejection

    y0, x0, y1, x1 = box
    h, w = y1 - y0, x1 - x0
    count = len(lights)
    stack = np.empty((channels, count, h * w), np.float32)
    resampled = np.empty((channels, h, w), np.float32)
    for number, light in enumerate(lights):
        resample(params, debayer_params, light.window, light.matrix, cfa, resampled, x0, y0)
        for c in range(channels):
            np.multiply(resampled[c].reshape(-1), np.float32(light.scale[c]), out=stack[c, number])
            stack[c, number] += np.float32(light.offset[c])
    offered = np.isfinite(stack).sum(axis=(0, 2), dtype=np.int64)
    lost = np.zeros((count, 2), np.int64)
    image, low_share, high_share = (np.empty((channels, h, w), np.float32) for _ in range(3))
    low, high, weight_sum = (np.empty(h * w, np.float32) for _ in range(3))
    low_count, high_count = np.empty(h * w, np.uint16), np.empty(h * w, np.uint16)
    algorithm = rejection.ALGORITHMS[params.rejection]
    for c in range(channels):
        weights = np.array([light.weight[c] for light in lights], np.float64)
        rejection.bounds(stack[c], algorithm, params.low, params.high, low, high)
        flat = image[c].reshape(-1)
        combine.mean(stack[c], stack[c], low, high, weights, flat, weight_sum, low_count, high_count, lost)
        empty = np.isnan(flat)
        low_share[c] = np.where(empty, 1.0, low_count / np.float32(count)).reshape(h, w)
        high_share[c] = (high_count / np.float32(count)).reshape(h, w)
    return image, low_share, high_share, offered, lost


def resample(
    params: IntegrateParams,
    debayer_params: DebayerParams,
    window: Window,
    matrix: npt.NDArray[np.float64],
    cfa: npt.NDArray[np.uint8] | None,
    out: FloatArray,
    x0: int,
    y0: int,
) -> None:
    """Fill `out` (C, h, w), whose first pixel is (x0, y0) of the output grid, from one frame; NaN outside of it."""
    import numpy as np

    from wbpy.kernels import warp

    height, width = window.shape
    _, h, w = out.shape
    margin = warp.HALO[params.interpolation] + (0 if cfa is None else debayer.halo(debayer_params))
    sx0, sy0, sx1, sy1 = warp.source_window(matrix, x0, y0, w, h, width, height, margin)
    if sx1 <= sx0 or sy1 <= sy0:
        out.fill(np.nan)
        return
    # A sliver at the frame's edge is widened to what a debayer filter needs; an even origin keeps the phase of the CFA.
    sx0, sx1 = _widened(sx0, sx1, width)
    sy0, sy1 = _widened(sy0, sy1, height)
    pixels = window.read(sy0, sy1, sx0, sx1)
    source = pixels[None] if cfa is None else debayer.run(debayer_params, pixels, cfa)
    if params.interpolation == "lanczos3":
        warp.lanczos3(source, sx0, sy0, matrix, out, x0, y0, params.clamping)
    else:
        (warp.bilinear if params.interpolation == "bilinear" else warp.nearest)(source, sx0, sy0, matrix, out, x0, y0)


def _widened(start: int, end: int, size: int) -> tuple[int, int]:
    """Return an interval of at least 8 pixels around `start` to `end`, within 0 to `size`, from an even start on."""
    end = min(size, max(end, start + 8))
    start = max(0, min(start, end - 8))
    return start - start % 2, end


INTEGRATE = Stage(
    name="integrate",
    version=1,
    per="integration group",
    title="Reject outliers and average",
    run=run,
    params=IntegrateParams,
    inputs=(
        Input("image", "cosmetic"),
        Input("transforms", "transform"),
        Input("normalization", "normalization"),
        Input("weights", "weight"),
    ),
    outputs=(
        Output("integration", "integration", "1"),
        Output("preview", "preview", ""),
        Output("rejection_low", "rejection_map", "1"),
        Output("rejection_high", "rejection_map", "1"),
    ),
    findings=("INT001", "INT002", "INT003", "INT004", "INT005"),
    memory=lambda height, width: 64_000_000,
)
