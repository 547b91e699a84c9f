"""Integrate: the second pass over the pixels, tile by tile (guide, section 9.7).

For each tile of the output every frame is read where it is needed, debayered, resampled onto the reference's grid
and normalized; then outliers are rejected and the rest is averaged. No registered frame is ever written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from wbpy.stages import debayer
from wbpy.stages.base import Input, Output, Stage, Window, Work
from wbpy.stages.debayer import DebayerParams
from wbpy.stages.masters import RejectionParams
from wbpy.stages.register import channel_nodes, no_displacement

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
    combination: Annotated[
        Literal["mean", "median", "min", "max"],
        Meta(description="what is made of the samples kept: weighted mean, weighted median, the smallest, the largest"),
    ] = "mean"
    seeing_tolerance: Annotated[
        float,
        Meta(
            ge=0,
            description="at stars the limits of the rejection widen by this many times what the change of seeing "
            "between the lights does to a star; 0: never",
        ),
    ] = 1.5
    maps: Annotated[
        tuple[Literal["coverage", "variance", "variance_expected", "weight"], ...],
        Meta(
            description="maps written beside the rejection maps: number of lights, variance of the mean from the "
            "scatter of its samples, variance of the mean from the noise of the lights, sum of weights"
        ),
    ] = ()
    interpolation: Annotated[
        Literal["auto", "lanczos3", "lanczos4", "bicubic", "bilinear", "nearest", "area"],
        Meta(
            description="how frames are resampled onto the reference; auto: lanczos3, or bicubic for stars below 1.5 "
            "px, a copy for shifts by whole pixels, the mean over the area where its pixels are 1.5 times as wide"
        ),
    ] = "auto"
    clamping: Annotated[
        float,
        Meta(
            ge=0, description="sigma of the local noise below the lowest pixel from which Lanczos's ringing is damped"
        ),
    ] = 0.3
    channels: Annotated[
        Literal["combined", "separate", "both"],
        Meta(description="frames with a CFA: one file in colour, one file for each of red, green and blue, or both"),
    ] = "combined"
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
    displacement: npt.NDArray[np.float64] = field(default_factory=no_displacement)
    """(K, gy, gx, 2): as of `register.Transform`."""
    displacement_step: int = 0
    saturation: float = math.inf
    """Level from which on its pixels may be saturated, DN."""
    fwhm: float = math.nan
    """Of its stars, px."""
    noise: tuple[float, ...] = ()
    """Of each channel, DN before scaling; empty: not known, and neither are seeing and expected variance."""
    background: tuple[float, ...] = ()
    """Where the noise is that, of each channel, DN before scaling."""
    e_per_dn: float | None = None
    """Electrons per DN; None: not known."""
    joined: tuple[int, ...] = ()
    """Samples of each channel whose mean a pixel is, see `on_joined_pixels`; empty: one."""
    sided: tuple[npt.NDArray[np.float64], ...] = ()
    """As of `normalize.Normalization`: takes the place of scale, offset and surfaces."""
    judged: tuple[tuple[float, float], ...] = ()
    """Scale and offset of each channel for the rejection; empty: that sees what the result is made of."""


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
    mean, DN^2, NaN where fewer than two samples were kept; the same from the noise of the lights, NaN where none was
    kept; sum of the weights of the samples kept."""


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
    refused: Callable[[int, int, npt.NDArray[np.uint8]], None] | None = None,
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
    refused : callable, optional
        Called for each tile, from several threads, with its y0 and x0 (a multiple of 8) and the (C, N, h, w / 8) bits
        of the samples that do not count, first in the highest, 1 for rejected. None of a pixel's where all are.
    """
    import numpy as np

    height, width = shape
    channels = 1 if cfa is None else 3
    # Stack and its sorted blocks, plus what one frame needs while it is debayered and resampled.
    per_pixel = 4 * channels * (len(lights) + 4 + len(params.maps)) + 4 * 24
    if params.large_scale_low or params.large_scale_high:
        # One channel's samples a second time, judged.
        per_pixel += 4 * len(lights)
    if lights[0].judged:
        per_pixel += 4 * (channels + 1) * len(lights)
    side = tile_side(work.memory // (2 * work.workers), per_pixel)
    tiles = [
        (y, x, min(height, y + side), min(width, x + side))
        for y in range(0, height, side)
        for x in range(0, width, side)
    ]

    def tile(box: tuple[int, int, int, int]) -> _Tile:
        return _tile(params, debayer_params, lights, shape, cfa, channels, box, refused)

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
    refused: Callable[[int, int, npt.NDArray[np.uint8]], None] | None,
) -> _Tile:
    """Return one tile. Large structures are sought in a wider rectangle, so that they do not end at its edges."""
    import numpy as np

    from wbpy.kernels import combine, rejection, seeing, structures

    y0, x0, y1, x1 = box
    h, w = y1 - y0, x1 - x0
    grown = params.large_scale_low or params.large_scale_high
    margin = structures.reach(params.large_scale_layers, params.large_scale_growth) if grown else 0
    tolerance = _tolerance(params, lights)
    if tolerance:
        margin = max(margin, seeing.HALO)
    top, left = max(0, y0 - margin), max(0, x0 - margin)
    rows, columns = min(shape[0], y1 + margin) - top, min(shape[1], x1 + margin) - left
    edges = y0 - top, y1 - top, x0 - left, x1 - left
    inner = np.s_[edges[0] : edges[1], edges[2] : edges[3]]
    count = len(lights)
    stack = np.empty((channels, count, rows, columns), np.float32)
    # What the rejection sees.
    apart = all(light.judged for light in lights)
    compared = np.empty_like(stack) if apart else stack
    resampled = np.empty((channels, rows, columns), np.float32)
    lost = np.zeros((count, 2), np.int64)
    offered = np.zeros(count, np.int64)
    out_of_range = np.zeros((2, channels, h, w), np.uint16)
    bits = np.zeros((channels, count, h, -(-w // 8)) if refused is not None else 0, np.uint8)
    for number, light in enumerate(lights):
        resample(params, debayer_params, light, cfa, resampled, left, top)
        for c in range(channels):
            plane, target = resampled[c], stack[c, number]
            for side, limit in enumerate((params.range_low, params.range_high)):
                if limit is not None:
                    beyond = plane <= limit if side == 0 else plane >= limit
                    out_of_range[side, c] += beyond[inner]
                    lost[number, side] += np.count_nonzero(beyond[inner])
                    plane[beyond] = np.nan
                    if refused is not None:
                        bits[c, number] |= np.packbits(beyond[inner], axis=-1)
            _normalize(light, c, plane, left, top, target)
            offered[number] += rejection.present(target, *edges)
            if apart:
                scale, offset = light.judged[c]
                np.multiply(plane, np.float32(scale), out=compared[c, number])
                compared[c, number] += np.float32(offset)
    image, low_share, high_share = (np.empty((channels, h, w), np.float32) for _ in range(3))
    maps: dict[str, FloatArray] = {name: np.empty((channels, h, w), np.float32) for name in params.maps}
    if "coverage" in maps:
        maps["coverage"][:] = np.isfinite(stack[(..., *inner)]).sum(axis=1) + out_of_range.sum(axis=0)
    offered += lost.sum(axis=1)
    pixels = rows * columns
    low, high, combined, weight_sum, variance = (np.empty(pixels, np.float32) for _ in range(5))
    low_count, high_count = np.empty(pixels, np.uint16), np.empty(pixels, np.uint16)
    algorithm = rejection.ALGORITHMS[params.rejection]
    for c in range(channels):
        weights = np.array([light.weight[c] for light in lights], np.float64)
        values = stack[c].reshape(count, pixels)
        judged = compared[c].reshape(count, pixels)
        noise = _typical_noise(lights, c)
        floor = rejection.noise_floor(params.low, params.high, noise)
        rejection.bounds(judged, algorithm, params.low, params.high, low, high, params.ccd_noise, floor)
        bounds = low.reshape(rows, columns), high.reshape(rows, columns)
        if tolerance:
            seeing.widen_bounds(*bounds, tolerance, noise)
        if grown:
            judged = _judged(params, compared[c], *bounds).reshape(count, pixels)
        if margin:
            # Judged by the tiles whose pixels these are; here nothing of them may count as rejected.
            for bound, none in zip(bounds, (-np.inf, np.inf), strict=True):
                bound[: edges[0]] = bound[edges[1] :] = none
                bound[:, : edges[2]] = bound[:, edges[3] :] = none
        filled = (combined, weight_sum, low_count, high_count, lost, variance if "variance" in maps else None)
        if params.combination == "mean":
            combine.mean(values, judged, low, high, weights, *filled)
        else:
            combine.ranked(values, judged, low, high, weights, params.combination, *filled)
        image[c] = combined.reshape(rows, columns)[inner]
        if "variance" in maps:
            maps["variance"][c] = variance.reshape(rows, columns)[inner]
        if "variance_expected" in maps:
            combine.expected_variance(values, judged, low, high, weights, *_noise(lights, c), combined, variance)
            maps["variance_expected"][c] = variance.reshape(rows, columns)[inner]
        if "weight" in maps:
            maps["weight"][c] = weight_sum.reshape(rows, columns)[inner]
        if refused is not None:
            outside = ((judged < low) | (judged > high)) & (weight_sum > 0)
            bits[c] |= np.packbits(outside.reshape(count, rows, columns)[(..., *inner)], axis=-1)
        empty = np.isnan(image[c])
        shares = [
            (counted.reshape(rows, columns)[inner] + out_of_range[side, c]) / np.float32(count)
            for side, counted in enumerate((low_count, high_count))
        ]
        low_share[c] = np.where(empty, 1.0, shares[0])
        high_share[c] = shares[1]
    if refused is not None:
        refused(y0, x0, bits)
    return _Tile(image, low_share, high_share, maps, Counts(offered, lost[:, 0], lost[:, 1]))


def _normalize(light: Light, c: int, plane: FloatArray, x0: int, y0: int, out: FloatArray) -> None:
    """Fill `out` with a channel of a resampled frame, whose first pixel is (x0, y0), at the level of the result."""
    import numpy as np

    from wbpy.kernels import local_normalization

    if light.sided:
        local_normalization.apply_sided(plane, light.sided[c], light.surface_step, x0, y0, out)
    elif light.surfaces:
        local_normalization.apply(plane, light.scale[c], light.surfaces[c], light.surface_step, x0, y0, out)
    else:
        np.multiply(plane, np.float32(light.scale[c]), out=out)
        out += np.float32(light.offset[c])


def _tolerance(params: IntegrateParams, lights: Sequence[Light]) -> float:
    """Return what the Laplacian of the picture is multiplied with to widen the limits at stars, px^2; 0: nothing."""
    from wbpy.kernels import seeing

    if params.rejection == "none" or not all(light.noise for light in lights):
        return 0.0
    return params.seeing_tolerance * seeing.change([light.fwhm for light in lights])


def _typical_noise(lights: Sequence[Light], c: int) -> float:
    """Return the median noise of what the rejection sees of the lights, DN; 0 when it is not known."""
    import statistics

    scales = [light.judged[c][0] if light.judged else light.scale[c] for light in lights]
    known = [k * light.noise[c] for k, light in zip(scales, lights, strict=True) if light.noise]
    return statistics.median(known) if known else 0.0


def _noise(lights: Sequence[Light], c: int) -> tuple[list[float], list[float], list[float]]:
    """Return noise, variance of one DN of signal, and background of each light, all scaled; NaN where not known."""
    noise, photon, level = [], [], []
    for light in lights:
        scale = light.scale[c]
        noise.append(scale * light.noise[c] if light.noise else math.nan)
        samples = light.joined[c] if light.joined else 1
        photon.append(scale / (samples * light.e_per_dn) if light.e_per_dn else 0.0)
        level.append(scale * light.background[c] + light.offset[c] if light.background else 0.0)
    return noise, photon, level


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
    light: Light,
    cfa: npt.NDArray[np.uint8] | None,
    out: FloatArray,
    x0: int,
    y0: int,
) -> None:
    """Fill `out` (C, h, w), whose first pixel is (x0, y0) of the output grid, from one frame; NaN outside of it."""
    import numpy as np

    from wbpy.kernels import warp

    joined = debayer.joined(debayer_params, cfa)
    height, width = (side // joined for side in light.window.shape)
    _, h, w = out.shape
    matrix, displacement, step = light.matrix, light.displacement, light.displacement_step
    name: str = params.interpolation
    if name == "auto":
        # Of the whole frame, so that all tiles take the same.
        name = warp.choose(matrix, width, height, displacement.size > 0, light.fwhm)
    margin = warp.halo(name, matrix) + (0 if cfa is None else debayer.halo(debayer_params, cfa))
    sx0, sy0, sx1, sy1 = warp.source_window(matrix, x0, y0, w, h, width, height, margin, displacement, step)
    if sx1 <= sx0 or sy1 <= sy0:
        out.fill(np.nan)
        return
    # A sliver at the frame's edge is widened to what a debayer filter needs; a whole number of cells before the origin
    # keeps the phase of the CFA.
    period = 1 if cfa is None else len(cfa)
    period //= math.gcd(period, joined)
    sx0, sx1 = _widened(sx0, sx1, width, period)
    sy0, sy1 = _widened(sy0, sy1, height, period)
    pixels = light.window.read(*(joined * edge for edge in (sy0, sy1, sx0, sx1)))
    source = pixels[None] if cfa is None else debayer.run(debayer_params, pixels, cfa)
    kernel = warp.KERNELS[name]
    # Channels that share their displacement share the coordinates of a row.
    groups = [slice(c, c + 1) for c in range(len(out))] if len(displacement) > 1 else [slice(None)]
    for channels in groups:
        nodes = channel_nodes(displacement, channels.start or 0)
        planes, target = source[channels], out[channels]
        kernel(planes, sx0, sy0, matrix, target, x0, y0, params.clamping, nodes, step, light.saturation)


def _widened(start: int, end: int, size: int, period: int) -> tuple[int, int]:
    """Return at least 8 pixels around `start` to `end`, within 0 to `size`, from a multiple of `period` on."""
    end = min(size, max(end, start + 8))
    start = max(0, min(start, end - 8))
    return start - start % period, end


def on_joined_pixels(light: Light, side: int, counts: Sequence[int]) -> Light:
    """Return a light on a grid whose pixels are `side` x `side` of those of frame and output.

    Parameters
    ----------
    light : Light
        For whole pixels. Its window stays as it is: `resample` joins pixels as it reads them.
    side : int
    counts : sequence of int
        How many samples of each channel a joined pixel has; their mean has less noise.
    """
    import numpy as np
    from scipy.ndimage import map_coordinates

    # Joined pixel (X, Y) lies at side X + (side - 1) / 2 of the whole ones.
    shift = (side - 1) / 2
    whole = np.array([[side, 0.0, shift], [0.0, side, shift], [0.0, 0.0, 1.0]])
    matrix = np.linalg.inv(whole) @ light.matrix @ whole

    def coarser(nodes: npt.NDArray[np.float64], step: int, first: int) -> npt.NDArray[np.float64]:
        """Return nodes (gy, gx), of which number `first` lies at the origin, at a side-th of their distance."""
        own = max(1, step // side)
        places = [
            (side * own * (np.arange(-first, (count - first - 1) * step // (side * own) + first + 2)) + shift) / step
            for count in nodes.shape
        ]
        at = np.meshgrid(*(place + first for place in places), indexing="ij")
        return np.asarray(map_coordinates(nodes, at, order=1, mode="nearest"))

    displacement = light.displacement
    if len(displacement):
        displacement = np.stack(
            [
                np.stack([coarser(nodes[..., k], light.displacement_step, 0) / side for k in range(2)], axis=-1)
                for nodes in displacement
            ]
        )
    return replace(
        light,
        matrix=matrix,
        displacement=displacement,
        displacement_step=light.displacement_step // side,
        surfaces=tuple(coarser(nodes, light.surface_step, 1) for nodes in light.surfaces),
        sided=tuple(np.stack([coarser(one, light.surface_step, 1) for one in nodes]) for nodes in light.sided),
        surface_step=max(1, light.surface_step // side) if light.surface_step else 0,
        fwhm=light.fwhm / side,
        noise=tuple(sigma / math.sqrt(n) for sigma, n in zip(light.noise, counts, strict=bool(light.noise))),
        joined=tuple(counts),
    )


def plausible_share(params: RejectionParams, shares: Sequence[float], limits: Mapping[str, float]) -> float:
    """Return the share of its samples up to which a light may lose without being different from the others.

    Parameters
    ----------
    params : RejectionParams
        The rejection, resolved.
    shares : sequence of float
        Of the samples of each light, rejected; at least one.
    limits : mapping of str to float
        Those of INT004: what any light may lose, how often as much as the middle one of the group, and at the outside.
    """
    import statistics

    # Min/max takes its samples whatever they are.
    always = min(1.0, (params.low + params.high) / len(shares)) if params.rejection == "minmax" else 0.0
    usual = max(0.0, statistics.median(shares) - always)
    return always + max(limits["share"], min(limits["times"] * usual, limits["most"]))


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


class Regions:
    """How the share of rejected samples spreads over the picture, in cells, gathered from its strips."""

    CELL = 64
    """Side of a cell, px."""
    EVERY = 4
    """Rows that are left out between two."""

    def __init__(self, shape: tuple[int, int]) -> None:
        import numpy as np

        self._total = np.zeros(tuple(-(-size // self.CELL) for size in shape), np.float64)
        self._count = np.zeros(self._total.shape, np.int64)

    def add(self, strip: Strip) -> None:
        """Take in a strip; those of one picture come in any order."""
        import numpy as np

        starts = np.arange(0, strip.image.shape[2], self.CELL)
        first = -strip.y0 % self.EVERY
        for row in range(first, strip.image.shape[1], self.EVERY):
            covered = np.isfinite(strip.image[:, row])
            share = np.where(covered, strip.low[:, row] + strip.high[:, row], 0)
            cell = (strip.y0 + row) // self.CELL
            self._total[cell] += np.add.reduceat(share.sum(axis=0, dtype=np.float64), starts)
            self._count[cell] += np.add.reduceat(covered.sum(axis=0), starts)

    def odd(self, lights: int, limit: float) -> tuple[float, float, float, float] | None:
        """Return where much more is rejected than elsewhere: centre (x, y) in px, share of the picture, of the samples.

        There a square of four cells loses at least `limit` of a light more than the median of all cells. Trails of
        satellites and aeroplanes are narrower, outliers of noise are everywhere. None where there is no such place.
        """
        import numpy as np
        from scipy import ndimage

        share = self._total / np.maximum(self._count, 1)
        if min(share.shape) < 2 or not self._count.any():
            return None
        known = self._count > 0
        high = known & (share - np.median(share[known]) > limit / lights)
        square = high[1:, 1:] & high[:-1, 1:] & high[1:, :-1] & high[:-1, :-1]
        cells = np.zeros(high.shape, bool)
        for dy in (0, 1):
            for dx in (0, 1):
                cells[dy : dy + square.shape[0], dx : dx + square.shape[1]] |= square
        names, found = ndimage.label(cells)
        if not found:
            return None
        largest = names == 1 + int(np.argmax(np.bincount(names.ravel())[1:]))
        y, x = (float(np.mean(v)) * self.CELL + (self.CELL - 1) / 2 for v in np.nonzero(largest))
        part = self._count[largest].sum()
        return x, y, float(part / self._count.sum()), float(self._total[largest].sum() / part)


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
    resample(params, debayer_params, lights[best], cfa, planes, x0, y0)
    single = planes[channel] * np.float32(lights[best].scale[channel])
    sigma, single_sigma = (statistics.noise_mrs(plane)[0] for plane in (image, single))
    share = np.sqrt(np.sum((weights * scaled) ** 2)) / np.sum(weights) / scaled[best] if scaled[best] > 0 else np.nan
    widths = [measure.run(measure.MeasureParams(), plane, None).fwhm for plane in (image, single)]
    return Quality(sigma, single_sigma, float(share * single_sigma), *widths)


INTEGRATE = Stage(
    name="integrate",
    version=3,
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
    findings=("INT001", "INT002", "INT003", "INT004", "INT005", "INT006", "INT007", "INT008", "INT009"),
    memory=lambda height, width: 64_000_000,
)
