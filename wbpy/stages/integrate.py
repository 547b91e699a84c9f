"""Integrate: the second pass over the pixels, tile by tile (guide, section 9.7).

For each tile of the output every frame is read where it is needed, debayered, resampled onto the reference's grid
and normalized; then outliers are rejected and the rest is averaged. No registered frame is ever written.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from wbpy.stages import debayer
from wbpy.stages.base import Input, Output, Stage, Window, Work
from wbpy.stages.debayer import DebayerParams
from wbpy.stages.masters import RejectionParams

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from wbpy.stages.base import FloatArray


class IntegrateParams(RejectionParams, frozen=True, kw_only=True):
    """How registered lights are combined."""

    range_low: Annotated[
        float | None,
        Meta(description="calibrated samples not above this count as rejected low, DN; none: no such limit"),
    ] = None
    range_high: Annotated[
        float | None,
        Meta(description="calibrated samples not below this count as rejected high, DN; none: no such limit"),
    ] = None
    large_scale_low: Annotated[
        bool, Meta(description="also reject around large structures of a light that were rejected as too dark")
    ] = False
    large_scale_high: Annotated[
        bool, Meta(description="also reject around large structures of a light that were rejected as too bright")
    ] = False
    large_scale_layers: Annotated[
        int, Meta(ge=0, le=6, description="median filters of 3, 5, 9 ... px that a large structure has to survive")
    ] = 2
    large_scale_growth: Annotated[
        int, Meta(ge=0, le=20, description="radius by which large structures are widened, px")
    ] = 2
    maps: Annotated[
        tuple[Literal["coverage", "variance", "weight"], ...],
        Meta(
            description="maps written beside the rejection maps: number of lights, variance of the mean, sum of weights"
        ),
    ] = ()
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
    surfaces: tuple[npt.NDArray[np.float64], ...] = ()
    """Of a local normalization: nodes of the offset of each channel instead of `offset`."""
    surface_step: int = 0
    """Distance of the nodes, px."""


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
    maps: dict[str, FloatArray]
    """(C, h, W) float32 for each name of `IntegrateParams.maps`: number of lights that have a sample; variance of the
    mean, DN^2, NaN where fewer than two samples were kept; sum of the weights of the samples kept."""


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
    per_pixel = 4 * channels * (len(lights) + 4 + len(params.maps)) + 4 * 24
    if params.large_scale_low or params.large_scale_high:
        # One channel's samples a second time, judged and cropped.
        per_pixel += 8 * len(lights)
    side = tile_side(work.memory // (2 * work.workers), per_pixel)
    tiles = [
        (y, x, min(height, y + side), min(width, x + side))
        for y in range(0, height, side)
        for x in range(0, width, side)
    ]

    def tile(box: tuple[int, int, int, int]) -> _Tile:
        return _tile(params, debayer_params, lights, shape, cfa, channels, box)

    strip: Strip | None = None
    for done, (box, result) in enumerate(zip(tiles, work.map(tile, tiles), strict=True), 1):
        y0, x0, y1, x1 = box
        if x0 == 0:
            image, low, high, *maps = (
                np.empty((channels, y1 - y0, width), np.float32) for _ in range(3 + len(params.maps))
            )
            strip = Strip(y0, image, low, high, dict(zip(params.maps, maps, strict=True)))
        assert strip is not None
        strip.image[:, :, x0:x1], strip.low[:, :, x0:x1], strip.high[:, :, x0:x1] = (
            result.image,
            result.low,
            result.high,
        )
        for name, plane in result.maps.items():
            strip.maps[name][:, :, x0:x1] = plane
        counts.offered += result.counts.offered
        counts.low += result.counts.low
        counts.high += result.counts.high
        work.report(done, len(tiles), "tiles")
        if x1 == width:
            yield strip


def tile_side(memory: int, bytes_per_pixel: int) -> int:
    """Return the side of a square tile in pixels, a multiple of 32 from 64 to 512, that fits into `memory` bytes."""
    side = int((memory / bytes_per_pixel) ** 0.5)
    return max(64, min(512, side - side % 32))


@dataclass(frozen=True)
class _Tile:
    """A finished rectangle of the result; see `Strip` and `Counts`."""

    image: FloatArray
    low: FloatArray
    high: FloatArray
    maps: dict[str, FloatArray]
    counts: Counts


def _tile(
    params: IntegrateParams,
    debayer_params: DebayerParams,
    lights: Sequence[Light],
    shape: tuple[int, int],
    cfa: npt.NDArray[np.uint8] | None,
    channels: int,
    box: tuple[int, int, int, int],
) -> _Tile:
    """Return one tile. Large structures are sought in a wider rectangle, so that they do not end at its edges."""
    import numpy as np

    from wbpy.kernels import combine, local_normalization, rejection, structures

    y0, x0, y1, x1 = box
    h, w = y1 - y0, x1 - x0
    grown = params.large_scale_low or params.large_scale_high
    margin = structures.reach(params.large_scale_layers, params.large_scale_growth) if grown else 0
    top, left = max(0, y0 - margin), max(0, x0 - margin)
    rows, columns = min(shape[0], y1 + margin) - top, min(shape[1], x1 + margin) - left
    inner = np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
    count = len(lights)
    stack = np.empty((channels, count, rows, columns), np.float32)
    resampled = np.empty((channels, rows, columns), np.float32)
    lost = np.zeros((count, 2), np.int64)
    out_of_range = np.zeros((2, channels, h, w), np.uint16)
    for number, light in enumerate(lights):
        resample(params, debayer_params, light.window, light.matrix, cfa, resampled, left, top)
        for c in range(channels):
            plane, target = resampled[c], stack[c, number]
            for side, limit in enumerate((params.range_low, params.range_high)):
                if limit is not None:
                    beyond = plane <= limit if side == 0 else plane >= limit
                    out_of_range[side, c] += beyond[inner]
                    lost[number, side] += np.count_nonzero(beyond[inner])
                    plane[beyond] = np.nan
            if light.surfaces:
                step = light.surface_step
                local_normalization.apply(plane, light.scale[c], light.surfaces[c], step, left, top, target)
            else:
                np.multiply(plane, np.float32(light.scale[c]), out=target)
                target += np.float32(light.offset[c])
    present = np.isfinite(stack[(..., *inner)])
    offered = present.sum(axis=(0, 2, 3), dtype=np.int64) + lost.sum(axis=1)
    image, low_share, high_share = (np.empty((channels, h, w), np.float32) for _ in range(3))
    maps: dict[str, FloatArray] = {name: np.empty((channels, h, w), np.float32) for name in params.maps}
    if "coverage" in maps:
        maps["coverage"][:] = present.sum(axis=1) + out_of_range.sum(axis=0)
    low, high = (np.empty(rows * columns, np.float32) for _ in range(2))
    weight_sum = np.empty(h * w, np.float32)
    low_count, high_count = np.empty(h * w, np.uint16), np.empty(h * w, np.uint16)
    algorithm = rejection.ALGORITHMS[params.rejection]
    for c in range(channels):
        weights = np.array([light.weight[c] for light in lights], np.float64)
        values = stack[c].reshape(count, rows * columns)
        rejection.bounds(values, algorithm, params.low, params.high, low, high, params.ccd_noise)
        judged, least, most = values, low, high
        if grown:
            judged = _judged(params, stack[c], low.reshape(rows, columns), high.reshape(rows, columns))[(..., *inner)]
            judged = judged.reshape(count, h * w)
            values = stack[c][(..., *inner)].reshape(count, h * w)
            least, most = (np.ascontiguousarray(b.reshape(rows, columns)[inner]).reshape(-1) for b in (low, high))
        flat = image[c].reshape(-1)
        variance = maps["variance"][c].reshape(-1) if "variance" in maps else None
        combine.mean(values, judged, least, most, weights, flat, weight_sum, low_count, high_count, lost, variance)
        if "weight" in maps:
            maps["weight"][c] = weight_sum.reshape(h, w)
        empty = np.isnan(image[c])
        shares = [
            (counted.reshape(h, w) + out_of_range[side, c]) / np.float32(count)
            for side, counted in enumerate((low_count, high_count))
        ]
        low_share[c] = np.where(empty, 1.0, shares[0])
        high_share[c] = shares[1]
    return _Tile(image, low_share, high_share, maps, Counts(offered, lost[:, 0], lost[:, 1]))


def _judged(params: IntegrateParams, stack: FloatArray, low: FloatArray, high: FloatArray) -> FloatArray:
    """Return the samples (N, h, w) with those on large structures of rejected ones moved beyond all bounds."""
    import numpy as np

    from wbpy.kernels import structures

    judged = stack.copy()
    beyond = np.finfo(np.float32).max
    for plane, moved in zip(stack, judged, strict=True):
        for wanted, rejected, away in (
            (params.large_scale_low, plane < low, -beyond),
            (params.large_scale_high, (plane > high) & (plane >= low), beyond),
        ):
            if wanted:
                wide = structures.large(rejected.view(np.uint8), params.large_scale_layers, params.large_scale_growth)
                moved[(wide > 0) & np.isfinite(plane)] = away
    return judged


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


@dataclass(frozen=True)
class Quality:
    """Noise and sharpness of an integration beside those of its best light, measured the same way.

    In the middle of the picture, of the green or only channel. Both have been resampled, which smooths noise, so that
    their ratio is fair; the light's is scaled as in the integration.
    """

    noise: float
    """Standard deviation of the noise, DN."""
    best_noise: float
    """Of the light with the highest weight, DN."""
    predicted_noise: float
    """What weights, scales and noise of the lights promise, DN."""
    fwhm: float
    """px; NaN without stars."""
    best_fwhm: float

    def numbers(self) -> dict[str, float | None]:
        """Return the results by the names under which reports show them."""
        values = {
            "noise_dn": self.noise,
            "noise_best_light_dn": self.best_noise,
            "noise_predicted_dn": self.predicted_noise,
            "snr_gain": self.best_noise / self.noise if self.noise > 0 else math.nan,
            "snr_gain_predicted": self.best_noise / self.predicted_noise if self.predicted_noise > 0 else math.nan,
            "fwhm_px": self.fwhm,
            "fwhm_best_light_px": self.best_fwhm,
        }
        return {name: None if math.isnan(value) else value for name, value in values.items()}


def middle_of(shape: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return (y0, y1, x0, x1) of the part of a picture in which its quality is measured: at most 1024 px a side."""
    (y0, y1), (x0, x1) = (((size - min(size, 1024)) // 2, (size + min(size, 1024)) // 2) for size in shape)
    return y0, y1, x0, x1


def quality(
    params: IntegrateParams,
    debayer_params: DebayerParams,
    image: FloatArray,
    lights: Sequence[Light],
    noise: Sequence[float],
    shape: tuple[int, int],
    cfa: npt.NDArray[np.uint8] | None,
) -> Quality:
    """Return the quality of an integration.

    Parameters
    ----------
    params, debayer_params : IntegrateParams, DebayerParams
        As for `run`.
    image : (h, w) float32 ndarray, DN
        The part of `middle_of` of the green or only channel of the result.
    lights : sequence of Light
        Of `run`.
    noise : sequence of float
        Noise of each light in that channel, DN, before it is scaled.
    shape : tuple of int
        (height, width) of the picture.
    cfa : (2, 2) uint8 ndarray or None
        Of the lights.
    """
    import numpy as np

    from wbpy.kernels import statistics
    from wbpy.stages import measure

    channel = 0 if cfa is None else 1
    weights = np.array([light.weight[channel] for light in lights])
    scaled = np.array([light.scale[channel] * sigma for light, sigma in zip(lights, noise, strict=True)])
    best = int(np.argmax(weights))
    y0, y1, x0, x1 = middle_of(shape)
    planes = np.empty((1 if cfa is None else 3, y1 - y0, x1 - x0), np.float32)
    resample(params, debayer_params, lights[best].window, lights[best].matrix, cfa, planes, x0, y0)
    single = planes[channel] * np.float32(lights[best].scale[channel])
    sigma, single_sigma = (statistics.noise_mrs(plane)[0] for plane in (image, single))
    share = np.sqrt(np.sum((weights * scaled) ** 2)) / np.sum(weights) / scaled[best] if scaled[best] > 0 else np.nan
    widths = [measure.run(measure.MeasureParams(), plane, None).fwhm for plane in (image, single)]
    return Quality(sigma, single_sigma, float(share * single_sigma), *widths)


INTEGRATE = Stage(
    name="integrate",
    version=2,
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
    findings=("INT001", "INT002", "INT003", "INT004", "INT005", "INT006"),
    memory=lambda height, width: 64_000_000,
)
