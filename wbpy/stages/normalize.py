"""Normalize: the frames of an integration brought to one background and one scale (guide, section 9.6).

Nearly every method is ``v x scale + offset`` with one scale for each channel of a frame. Stars, and not the spread of
the pixels, measure how much light passed: the spread of a background is mostly noise, so that scaling by it would dim
frames of a bright sky (docs/decisions/0003). Globally the offset is one number for a channel; locally it is a smooth
surface, which takes out what differs between the gradients of the frames. Two-sided and adaptive ones have a scale
below and one above the background, as PixInsight's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from wbpy.stages.base import Input, Output, Params, Stage
from wbpy.stages.measure import Measurement, aperture_radius
from wbpy.stages.register import Transform, channel_nodes

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from wbpy.stages.base import FloatArray

Method = Literal[
    "none", "additive", "multiplicative", "additive_scaling", "multiplicative_scaling", "adaptive", "local"
]

SCALING = ("additive_scaling", "multiplicative_scaling", "adaptive", "local")
"""Methods that scale a frame beyond its level."""

NEAR = 9.0
"""Median absolute deviations within which a pixel counts for an average deviation: stars shall not."""
AVERAGE_DEVIATION = 1.2533
"""Standard deviation of a normal distribution over its average deviation."""
CELL_SAMPLES = 8192
"""Pixels of a colour that are read in a cell of an adaptive normalization."""


class NormalizeParams(Params, frozen=True, kw_only=True):
    """How frames are brought to one level."""

    method: Annotated[Method, Meta(description="what is equalized between the frames")] = "local"
    scale: Annotated[
        Literal["stars", "dispersion", "bwmv", "average_deviation", "ikss"],
        Meta(
            description="what the scale follows: fluxes of common stars, or the spread of the background as median "
            "absolute deviation, biweight midvariance, average deviation or iterative k-sigma (IKSS, as in Siril)"
        ),
    ] = "stars"
    two_sided: Annotated[
        bool,
        Meta(description="additive_scaling, adaptive: spreads below and above the background have a scale each"),
    ] = False
    rejection: Annotated[
        Literal["output", "none", "additive_scaling", "equalize"],
        Meta(
            description="what the rejection compares: the normalized frames, the frames as they are, or frames "
            "normalized apart, by level and scale or by multiplying their levels equal"
        ),
    ] = "output"
    adaptive_cells: Annotated[
        int,
        Meta(ge=2, le=64, description="adaptive: cells along the longer side in which level and spread are measured"),
    ] = 16
    min_stars: Annotated[int, Meta(ge=1, description="common stars below which the spread is taken instead")] = 3
    local_scale: Annotated[
        float, Meta(ge=32, description="local: size of the smallest structure of the sky that is equalized, px")
    ] = 128.0
    local_cell: Annotated[int, Meta(ge=16, description="local: cell in which a background is measured, px")] = 48
    local_reference: Annotated[
        Literal["frame", "integration"],
        Meta(description="local: whose background all frames take, the best one's or that of the best ones together"),
    ] = "integration"
    local_reference_frames: Annotated[
        int,
        Meta(ge=0, description="local: how many are the best ones; 0: a third of the frames, 3 at least, 20 at most"),
    ] = 0


@dataclass(frozen=True)
class Sketch:
    """What the pixels of a frame say beyond its measurement, as far as the method asks for it."""

    dispersion: tuple[float, ...]
    """Spread of each channel as the parameters define it, DN; empty where that of the measurement serves."""
    level: FloatArray
    """(C, gy, gx): background in the cells of the output grid, DN; empty when not local."""
    sides: tuple[tuple[float, float], ...] = ()
    """Spread of each channel below and above its location, DN; alike unless two-sided."""
    location: tuple[float, ...] = ()
    """Background of each channel, DN, that belongs to the spread."""
    cells: FloatArray | None = None
    """(3, C, gy, gx): location and spread below and above it in the cells of the output grid; for adaptive."""
    reach: int = 0
    """Cells that the whole frame covers, those beside the output grid included; for local and adaptive."""


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
    """Why a frame that was to be normalized locally or adaptively could not be; empty otherwise."""
    sided: tuple[npt.NDArray[np.float64], ...] = ()
    """Of each channel (4, ny, nx), nodes of `wbpy.kernels.local_normalization.apply_sided` at `surface_step`: takes the
    place of scale and offset, which then are what comes closest to it."""
    judged: tuple[tuple[float, float], ...] = ()
    """Scale and offset of each channel for the rejection; empty when it sees what the result is made of."""


def needs_pixels(params: NormalizeParams) -> bool:
    """Return whether `run` needs sketches of the frames."""
    return params.method in ("local", "adaptive") or (params.method in SCALING and _spread_of_pixels(params))


def _spread_of_pixels(params: NormalizeParams) -> bool:
    return params.two_sided or params.scale in ("bwmv", "average_deviation", "ikss")


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
    if _spread_of_pixels(params):
        spreads = [spread(params, values) for values in statistics.sampled(image, cfa)]
    # Lateral colour is far smaller than a cell: the displacement of the middle channel serves all.
    nodes = channel_nodes(transform.displacement, 1)
    step = transform.displacement_step
    level, cells, reach = np.empty((0, 0, 0), np.float32), None, 0
    if params.method == "local":
        level = local_normalization.cell_levels(image, cfa, transform.matrix, shape, params.local_cell, nodes, step)
    elif params.method == "adaptive":
        side = _adaptive_cell(params, shape)

        def measure(values: FloatArray) -> tuple[float, float, float]:
            return spread(params, values)

        cells = local_normalization.cell_statistics(
            image, cfa, transform.matrix, shape, side, measure, CELL_SAMPLES, nodes, step
        )
    if params.method in ("local", "adaptive"):
        rows, columns = (level if cells is None else cells).shape[-2:]
        matrix = transform.matrix / transform.matrix[2, 2]
        area = image.size / abs(float(np.linalg.det(matrix[:2, :2])))
        reach = round(area * rows * columns / (shape[0] * shape[1]))
    return Sketch(
        dispersion=tuple(0.5 * (low + high) for _, low, high in spreads),
        level=level,
        sides=tuple((low, high) for _, low, high in spreads),
        location=tuple(location for location, _, _ in spreads),
        cells=cells,
        reach=reach,
    )


def _adaptive_cell(params: NormalizeParams, shape: tuple[int, int]) -> int:
    return max(8, max(shape) // params.adaptive_cells)


def spread(params: NormalizeParams, values: FloatArray) -> tuple[float, float, float]:
    """Return the location of values and their spread below and above it, alike unless two-sided.

    The location is the median; for IKSS that of the values which its clipping leaves. Every spread is the standard
    deviation if the values are normal.

    Parameters
    ----------
    params : NormalizeParams
        `scale` and `two_sided`; stars count as the median absolute deviation.
    values : (n,) float32 ndarray, DN
        NaN is left out.
    """
    import numpy as np

    from wbpy.kernels import statistics

    middle, mad = statistics.median_mad(values)
    if params.scale == "ikss":
        values, middle, mad = clipped(values, params.two_sided)
    if params.scale in ("bwmv", "ikss"):
        if params.two_sided:
            return (middle, *statistics.dispersion(values, middle))
        both = float(np.sqrt(statistics.bwmv(values, middle, mad)))
        return middle, both, both
    away = values - np.float32(middle)
    sides = (-away[away <= 0], away[away >= 0]) if params.two_sided else (np.abs(away),)
    found = []
    for side in sides:
        if params.scale == "average_deviation":
            near = side[side <= NEAR * mad]
            found.append(AVERAGE_DEVIATION * float(np.mean(near, dtype=np.float64)) if near.size else 0.0)
        else:
            found.append(1.4826 * statistics.median(np.ascontiguousarray(side)))
    return middle, found[0], found[-1]


def clipped(values: FloatArray, two_sided: bool = False) -> tuple[FloatArray, float, float]:
    """Return the values that iterative k-sigma clipping leaves, their median and their median absolute deviation.

    What is farther than four median absolute deviations from the median goes, two-sided those of its own side, until
    the biweight midvariance of the rest stands to 5e-6 or nothing goes any more (Conejero, PixInsight Forum, "Dynamic
    range and local contrast", 2013: the iterative k-sigma estimator of location and scale that Siril uses).
    """
    import numpy as np

    from wbpy.kernels import statistics

    last = 0.0
    while True:
        middle, mad = statistics.median_mad(values)
        away = values - np.float32(middle)
        below = above = 4 * mad
        if two_sided and mad > 0:
            sides = -away[away <= 0], away[away >= 0]
            below, above = (4 * statistics.median(np.ascontiguousarray(side)) for side in sides)
        kept = (away >= np.float32(-below)) & (away <= np.float32(above))
        values = values[kept]
        middle, mad = statistics.median_mad(values)
        scale = float(np.sqrt(statistics.bwmv(values, middle, mad)))
        if kept.all() or not mad > 0 or abs(scale - last) <= 5e-6 * scale:
            return values, middle, mad
        last = scale


def run(
    params: NormalizeParams,
    reference: int,
    measurements: Sequence[Measurement],
    transforms: Sequence[Transform],
    sketches: Sequence[Sketch] = (),
    shape: tuple[int, int] = (0, 0),
    best: Sequence[int] = (),
) -> list[Normalization]:
    """Return the normalization of each frame of one integration.

    With m the background of a channel, k the scale and index 0 the reference: additive ``v + m0 - m``, multiplicative
    ``v m0 / m``, additive with scaling ``(v - m) k + m0``, multiplicative with scaling ``v m0 / m k``. Adaptive is
    additive with scaling where m, m0 and k are smooth surfaces through the cells of a grid. Local is additive with
    scaling, m0 - m k being a surface through the differences of the two backgrounds in the cells of a grid; where that
    cannot be had, additive with scaling takes its place and `Normalization.failure` says why.

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
        (height, width) of the output grid; for local and adaptive.
    best : sequence of int
        Indices of the frames whose background together all frames take locally, the reference's included; empty: that
        of the reference alone.
    """
    target, at = measurements[reference], transforms[reference]
    results = []
    for index, (frame, transform) in enumerate(zip(measurements, transforms, strict=True)):
        channels = range(len(frame.background))
        here = sketches[reference] if sketches else None
        there = sketches[index] if sketches else None
        m0 = (here and here.location) or target.background
        m = (there and there.location) or frame.background
        scales, stars = [1.0] * len(channels), 0
        if index != reference and (params.method in SCALING or params.rejection == "additive_scaling"):
            ratio, stars = star_scale(target, at, frame, transform) if params.scale == "stars" else (1.0, 0)
            if stars >= params.min_stars:
                scales = [ratio] * len(channels)
            else:
                stars = 0
                ours = (here and here.dispersion) or target.dispersion
                theirs = (there and there.dispersion) or frame.dispersion
                scales = [_divide(ours[c], theirs[c]) for c in channels]
        level = [m0[c] - scales[c] * m[c] for c in channels]
        judged: tuple[tuple[float, float], ...] = ()
        if params.rejection == "additive_scaling":
            judged = tuple(zip(scales, level, strict=True))
        elif params.rejection == "equalize":
            judged = tuple((_divide(m0[c], m[c]), 0.0) for c in channels)
        elif params.rejection == "none":
            judged = ((1.0, 0.0),) * len(channels)
        offsets = [0.0] * len(channels)
        if params.method not in SCALING:
            scales = [1.0] * len(channels)
        if params.method.startswith("multiplicative"):
            scales = [scales[c] * _divide(m0[c], m[c]) for c in channels]
        elif params.method != "none":
            offsets = [m0[c] - scales[c] * m[c] for c in channels]
        result = Normalization(tuple(scales), tuple(offsets), stars, judged=judged)
        if here and there and index != reference:
            if params.method == "adaptive":
                result = _adapted(params, result, here, there, shape)
            elif params.two_sided:
                result = _two_sided(result, here, there, shape)
        results.append(result)
    if params.method == "local":
        level0 = target_level(reference, results, sketches, best)
        for index, result in enumerate(results):
            if index != reference or best:
                results[index] = _localized(params, result, level0, sketches[index], shape)
    return results


def best_frames(params: NormalizeParams, scores: Sequence[float], reference: int) -> list[int]:
    """Return the indices of the frames whose background together is the reference of a local normalization.

    The reference and those with the highest scores, ``max(3, min(20, n / 3))`` or as many as the parameters say; none
    when the background of the reference alone is to be taken, or when there are no three frames.
    """
    count = params.local_reference_frames or max(3, min(20, len(scores) // 3))
    if params.method != "local" or params.local_reference == "frame" or len(scores) < 3 or count < 2:
        return []
    others = sorted((i for i in range(len(scores)) if i != reference), key=lambda i: (-scores[i], i))
    return sorted([reference, *others[: count - 1]])


def target_level(
    reference: int, results: Sequence[Normalization], sketches: Sequence[Sketch], best: Sequence[int] = ()
) -> FloatArray:
    """Return the background that all frames take locally in the cells of the output grid, (C, gy, gx) float32, DN.

    That of the reference, or the median of those of the best frames, brought to its level and scale.
    """
    import numpy as np

    from wbpy.kernels import statistics

    if not best:
        return sketches[reference].level
    levels = np.array([sketches[i].level for i in best])
    scale, offset = (
        np.array([getattr(results[i], name) for i in best], np.float32)[..., None, None] for name in ("scale", "offset")
    )
    return np.asarray(statistics.median_of_known(levels * scale + offset), np.float32)


def _adapted(
    params: NormalizeParams, result: Normalization, target: Sketch, frame: Sketch, shape: tuple[int, int]
) -> Normalization:
    """Return the normalization by surfaces of level and scale, or with the reason why there are none."""
    import dataclasses

    import numpy as np

    from wbpy.kernels import local_normalization

    assert target.cells is not None and frame.cells is not None
    cell = _adaptive_cell(params, shape)
    sided = []
    for c, scale in enumerate(result.scale):
        level0, level = target.cells[0, c], frame.cells[0, c]
        ratios = np.full((2, *level.shape), np.float32(scale))
        if params.scale != "stars":
            with np.errstate(divide="ignore", invalid="ignore"):
                ratios = target.cells[1:, c] / frame.cells[1:, c]
            ratios[~np.isfinite(ratios)] = np.nan
        # Only where both frames are: the surfaces of the two levels must leave out the same structures of the sky.
        shared = np.isfinite(level0) & np.isfinite(level)
        planes = [np.where(shared, plane, np.float32(np.nan)) for plane in (level, level0, *ratios)]
        found = [local_normalization.fit_surface(plane, shape, cell, 2.0 * cell, cell, frame.reach) for plane in planes]
        nodes = [surface[0] for surface in found if surface is not None]
        if len(nodes) < len(planes):
            return dataclasses.replace(
                result, failure="fewer than a third of the cells can be compared with the reference's"
            )
        sided.append(np.stack(nodes))
    return dataclasses.replace(result, sided=tuple(sided), surface_step=cell)


def _two_sided(result: Normalization, target: Sketch, frame: Sketch, shape: tuple[int, int]) -> Normalization:
    """Return the normalization with a scale below and one above the background."""
    import dataclasses

    import numpy as np

    step = max(shape)
    sided = []
    for c in range(len(result.scale)):
        scales = [_divide(target.sides[c][side], frame.sides[c][side]) for side in (0, 1)]
        values = np.array([frame.location[c], target.location[c], *scales])
        # Four nodes along either axis reach over all pixels: -step to 2 step.
        sided.append(np.ascontiguousarray(np.broadcast_to(values[:, None, None], (4, 4, 4))))
    return dataclasses.replace(result, sided=tuple(sided), surface_step=step)


def _localized(
    params: NormalizeParams, result: Normalization, target: FloatArray, frame: Sketch, shape: tuple[int, int]
) -> Normalization:
    """Return the normalization with surfaces for offsets, or with the reason why there are none."""
    import dataclasses

    from wbpy.kernels import local_normalization

    surfaces, scatter = [], 0.0
    for c, scale in enumerate(result.scale):
        difference = target[c] - scale * frame.level[c]
        found = local_normalization.fit_surface(
            difference, shape, params.local_cell, params.local_scale, params.local_cell, frame.reach
        )
        if found is None:
            return dataclasses.replace(
                result, failure="fewer than a third of the cells can be compared with the reference's"
            )
        nodes, deviation = found
        surfaces.append(nodes)
        scatter = max(scatter, deviation)
    return dataclasses.replace(result, surfaces=tuple(surfaces), surface_step=params.local_cell, scatter=scatter)


def gradient(levels: FloatArray) -> float:
    """Return how much the background changes across the frame, as a share of its level, the largest of the channels.

    The difference between the highest and the lowest corner of a plane through the cells.

    Parameters
    ----------
    levels : (C, gy, gx) float32 ndarray, DN
        From `target_level`.
    """
    import numpy as np

    shares = [0.0]
    for level in levels:
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

    matrix = transform.matrix @ np.linalg.inv(at.matrix)
    ours = np.flatnonzero(target.usable)
    theirs = np.flatnonzero(frame.usable)
    if ours.size == 0 or theirs.size == 0:
        return 1.0, 0
    there = transform.apply(at.invert(np.column_stack([target.x[ours], target.y[ours]])), 1)
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
    version=4,
    per="integration group",
    title="Bring the frames to one background and scale",
    run=run,
    params=NormalizeParams,
    inputs=(Input("stars", "measurement"), Input("image", "cosmetic"), Input("transforms", "transform")),
    outputs=(Output("normalization", "normalization", "DN"),),
    findings=("NRM001", "NRM002", "NRM003"),
    memory=lambda height, width: 4 * height * width,
)
