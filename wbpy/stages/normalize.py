"""Normalize: the frames of an integration brought to one background and one scale (guide, section 9.6).

Every method is ``v x scale + offset`` with one scale for each channel of a frame. Stars, and not the spread of the
pixels, measure how much light passed: the spread of a background is mostly noise, so that scaling by it would dim
frames of a bright sky (docs/decisions/0003). Globally the offset is one number for a channel; locally it is a smooth
surface, which takes out what differs between the gradients of the frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from wbpy.stages.base import Input, Output, Params, Stage
from wbpy.stages.measure import Measurement, aperture_radius
from wbpy.stages.register import Transform

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from wbpy.stages.base import FloatArray

Method = Literal["none", "additive", "multiplicative", "additive_scaling", "multiplicative_scaling", "local"]

SCALING = ("additive_scaling", "multiplicative_scaling", "local")
"""Methods that scale a frame beyond its level."""


class NormalizeParams(Params, frozen=True, kw_only=True):
    """How frames are brought to one level."""

    method: Annotated[Method, Meta(description="what is equalized between the frames")] = "local"
    scale: Annotated[
        Literal["stars", "dispersion", "bwmv", "average_deviation"],
        Meta(
            description="what the scale follows: fluxes of common stars, or the spread of the background as median "
            "absolute deviation, biweight midvariance or average deviation"
        ),
    ] = "stars"
    min_stars: Annotated[int, Meta(ge=1, description="common stars below which the spread is taken instead")] = 3
    local_scale: Annotated[
        float, Meta(ge=32, description="local: size of the smallest structure of the sky that is equalized, px")
    ] = 192.0
    local_cell: Annotated[int, Meta(ge=16, description="local: cell in which a background is measured, px")] = 64


@dataclass(frozen=True)
class Sketch:
    """What the pixels of a frame say beyond its measurement, as far as the method asks for it."""

    dispersion: tuple[float, ...]
    """Spread of each channel as the parameters define it, DN."""
    level: FloatArray
    """(C, gy, gx): background in the cells of the output grid, DN; empty when not local."""


@dataclass(frozen=True)
class Normalization:
    """How one frame is brought to the reference's level: ``v x scale + offset``."""

    scale: tuple[float, ...]
    """One for each channel."""
    offset: tuple[float, ...]
    """DN, one for each channel; where there are surfaces, about their middle."""
    stars: int
    """Common stars behind the scale; 0 when the spread was taken."""
    surfaces: tuple[npt.NDArray[np.float64], ...] = ()
    """Offset of each channel, DN, as nodes of `wbpy.kernels.local_normalization.apply`; empty for a global one."""
    surface_step: int = 0
    """Distance of the nodes, px."""
    scatter: float = 0.0
    """Robust deviation of the cells from the surface, DN, the largest of the channels."""
    failure: str = ""
    """Why a frame that was to be normalized locally could not be; empty otherwise."""


def needs_pixels(params: NormalizeParams) -> bool:
    """Return whether `run` needs sketches of the frames."""
    return params.method == "local" or (params.method in SCALING and params.scale in ("bwmv", "average_deviation"))


def sketch(
    params: NormalizeParams,
    image: FloatArray,
    cfa: npt.NDArray[np.uint8] | None,
    transform: Transform,
    shape: tuple[int, int],
) -> Sketch:
    """Return what `run` needs of a frame's pixels.

    Parameters
    ----------
    params : NormalizeParams
        The stage's parameters.
    image : (H, W) float32 ndarray, DN
        Calibrated, un-debayered; NaN is missing.
    cfa : (2, 2) uint8 ndarray or None
        Of the frame.
    transform : Transform
        Output grid -> frame.
    shape : tuple of int
        (height, width) of the output grid.
    """
    import numpy as np

    from wbpy.kernels import local_normalization, statistics

    spreads = []
    if params.scale in ("bwmv", "average_deviation"):
        for values in statistics.sampled(image, cfa):
            middle, mad = statistics.median_mad(values)
            if params.scale == "bwmv":
                spreads.append(float(np.sqrt(statistics.bwmv(values, middle, mad))))
            else:
                # 1.2533 makes it the standard deviation of normal noise; as everywhere, stars shall not count.
                near = values[np.abs(values - middle) <= 9 * mad]
                spreads.append(1.2533 * float(np.mean(np.abs(near - middle), dtype=np.float64)))
    if params.method == "local":
        level = local_normalization.cell_levels(image, cfa, transform.matrix, shape, params.local_cell)
    else:
        level = np.empty((0, 0, 0), np.float32)
    return Sketch(tuple(spreads), level)


def run(
    params: NormalizeParams,
    reference: int,
    measurements: Sequence[Measurement],
    transforms: Sequence[Transform],
    sketches: Sequence[Sketch] = (),
    shape: tuple[int, int] = (0, 0),
) -> list[Normalization]:
    """Return the normalization of each frame of one integration.

    With m the background of a channel, k the scale and index 0 the reference: additive ``v + m0 - m``, multiplicative
    ``v m0 / m``, additive with scaling ``(v - m) k + m0``, multiplicative with scaling ``v m0 / m k``. Local is
    additive with scaling, m0 - m k being a surface through the differences of the two backgrounds in the cells of a
    grid; where that cannot be had, additive with scaling takes its place and `Normalization.failure` says why.

    Parameters
    ----------
    params : NormalizeParams
        The stage's parameters.
    reference : int
        Index of the frame whose level and scale the others take.
    measurements, transforms : sequences
        Of all frames, in one order.
    sketches : sequence of Sketch
        Of all frames, when `needs_pixels` says so.
    shape : tuple of int
        (height, width) of the output grid; for local.
    """
    target, at = measurements[reference], transforms[reference]
    results = []
    for index, (frame, transform) in enumerate(zip(measurements, transforms, strict=True)):
        channels = range(len(frame.background))
        scales, stars = [1.0] * len(channels), 0
        if params.method in SCALING and index != reference:
            ratio, stars = star_scale(target, at, frame, transform) if params.scale == "stars" else (1.0, 0)
            if stars >= params.min_stars:
                scales = [ratio] * len(channels)
            else:
                stars = 0
                ours = sketches[reference].dispersion if sketches else ()
                theirs = sketches[index].dispersion if sketches else ()
                scales = [_divide((ours or target.dispersion)[c], (theirs or frame.dispersion)[c]) for c in channels]
        offsets = [0.0] * len(channels)
        if params.method.startswith("multiplicative"):
            scales = [scales[c] * _divide(target.background[c], frame.background[c]) for c in channels]
        elif params.method != "none":
            offsets = [target.background[c] - scales[c] * frame.background[c] for c in channels]
        result = Normalization(tuple(scales), tuple(offsets), stars)
        if params.method == "local" and index != reference:
            result = _localized(params, result, sketches[reference], sketches[index], shape)
        results.append(result)
    return results


def _localized(
    params: NormalizeParams, result: Normalization, target: Sketch, frame: Sketch, shape: tuple[int, int]
) -> Normalization:
    """Return the normalization with surfaces for offsets, or with the reason why there are none."""
    import dataclasses

    from wbpy.kernels import local_normalization

    surfaces, scatter = [], 0.0
    for c, scale in enumerate(result.scale):
        difference = target.level[c] - scale * frame.level[c]
        found = local_normalization.fit_surface(
            difference, shape, params.local_cell, params.local_scale, params.local_cell
        )
        if found is None:
            return dataclasses.replace(
                result, failure="fewer than a third of the cells can be compared with the reference's"
            )
        nodes, deviation = found
        surfaces.append(nodes)
        scatter = max(scatter, deviation)
    return dataclasses.replace(result, surfaces=tuple(surfaces), surface_step=params.local_cell, scatter=scatter)


def gradient(sketch: Sketch) -> float:
    """Return how much the background changes across the frame, as a share of its level, the largest of the channels.

    The difference between the highest and the lowest corner of a plane through the cells.
    """
    import numpy as np

    shares = [0.0]
    for level in sketch.level:
        kept = np.isfinite(level)
        middle = float(np.median(level[kept])) if kept.sum() >= 3 else 0.0
        if middle > 0:
            v, u = (np.linspace(-0.5, 0.5, size) if size > 1 else np.zeros(1) for size in level.shape)
            vv, uu = np.meshgrid(v, u, indexing="ij")
            design = np.stack([np.ones(int(kept.sum())), vv[kept], uu[kept]], axis=1)
            slopes = np.linalg.lstsq(design, level[kept].astype(np.float64), rcond=None)[0][1:]
            shares.append(float(np.abs(slopes).sum()) / middle)
    return max(shares)


def star_scale(target: Measurement, at: Transform, frame: Measurement, transform: Transform) -> tuple[float, int]:
    """Return the flux of common stars in `target` over that in `frame`, and how many stars said so.

    Resampling keeps surface brightness, not flux, so the ratio allows for the change of pixel area between the two.
    Ratios farther than 3.5 of their own standard deviations from the median are left out (variable stars, blends), and
    the rest is averaged by inverse variance: background noise within the aperture, and one percent for what a flat or
    a change of the profile leaves.
    """
    import numpy as np
    from scipy.spatial import cKDTree

    from wbpy.kernels import transforms

    matrix = transform.matrix @ np.linalg.inv(at.matrix)
    ours = np.flatnonzero(target.usable)
    theirs = np.flatnonzero(frame.usable)
    if ours.size == 0 or theirs.size == 0:
        return 1.0, 0
    there = transforms.apply(matrix, np.column_stack([target.x[ours], target.y[ours]]))
    distance, nearest = cKDTree(np.column_stack([frame.x[theirs], frame.y[theirs]])).query(there)
    close = distance < 1.5
    area = abs(float(np.linalg.det(matrix[:2, :2])))
    flux, flux_there = target.flux[ours[close]], frame.flux[theirs[nearest[close]]]
    log_ratio = np.log(flux * area / flux_there)
    variance = (aperture_noise(target) / flux) ** 2 + (aperture_noise(frame) / flux_there) ** 2 + 0.01**2
    for _ in range(3):
        if log_ratio.size < 3:
            break
        score = np.abs(log_ratio - np.median(log_ratio)) / np.sqrt(variance)
        # Where the noise estimate is too small for the data, the scatter of the ratios themselves decides.
        kept = score <= 3.5 * max(1.0, 1.4826 * float(np.median(score)))
        log_ratio, variance = log_ratio[kept], variance[kept]
    if log_ratio.size == 0:
        return 1.0, 0
    return float(np.exp(np.average(log_ratio, weights=1 / variance))), int(log_ratio.size)


def aperture_noise(measurement: Measurement) -> float:
    """Return the background noise of a star's aperture flux, DN."""
    import math

    radius = aperture_radius(measurement.fwhm)
    return math.sqrt(math.pi) * radius * measurement.noise[len(measurement.noise) // 2]


def _divide(above: float, below: float) -> float:
    return above / below if below > 0 and above > 0 else 1.0


NORMALIZE = Stage(
    name="normalize",
    version=2,
    per="integration group",
    title="Bring the frames to one background and scale",
    run=run,
    params=NormalizeParams,
    inputs=(Input("stars", "measurement"), Input("image", "cosmetic"), Input("transforms", "transform")),
    outputs=(Output("normalization", "normalization", "DN"),),
    findings=("NRM001", "NRM002", "NRM003"),
    memory=lambda height, width: 4 * height * width,
)
