"""Normalize: one level and one scale for all frames of an integration.

Additive with scaling: ``(v - m_i) k_i + m_0``, where `m` is the background of a channel and `k` the ratio of star
fluxes to the reference's. Stars, and not the spread of the pixels, measure how much light passed: the spread of a
background is mostly noise, so that scaling by it would dim frames of a bright sky (docs/decisions/0003).
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
    pass


class NormalizeParams(Params, frozen=True, kw_only=True):
    """How frames are brought to one level."""

    method: Annotated[
        Literal["none", "additive", "additive_scaling"], Meta(description="what is equalized between the frames")
    ] = "additive_scaling"
    scale: Annotated[
        Literal["stars", "dispersion"],
        Meta(description="what the scale follows: fluxes of common stars, or the spread of the background"),
    ] = "stars"
    min_stars: Annotated[int, Meta(ge=1, description="common stars below which the spread is taken instead")] = 3


@dataclass(frozen=True)
class Normalization:
    """How one frame is brought to the reference's level: ``v x scale + offset``."""

    scale: tuple[float, ...]
    """One for each channel."""
    offset: tuple[float, ...]
    """DN, one for each channel."""
    stars: int
    """Common stars behind the scale; 0 when the spread was taken."""


def run(
    params: NormalizeParams,
    reference: int,
    measurements: Sequence[Measurement],
    transforms: Sequence[Transform],
) -> list[Normalization]:
    """Return the normalization of each frame of one integration.

    Parameters
    ----------
    params : NormalizeParams
        The stage's parameters.
    reference : int
        Index of the frame whose level and scale the others take.
    measurements, transforms : sequences
        Of all frames, in one order.
    """
    target, at = measurements[reference], transforms[reference]
    results = []
    for index, (frame, transform) in enumerate(zip(measurements, transforms, strict=True)):
        channels = range(len(frame.background))
        scales, stars = [1.0] * len(channels), 0
        if params.method == "additive_scaling" and index != reference:
            ratio, stars = star_scale(target, at, frame, transform) if params.scale == "stars" else (1.0, 0)
            if stars >= params.min_stars:
                scales = [ratio] * len(channels)
            else:
                stars = 0
                scales = [_divide(target.dispersion[c], frame.dispersion[c]) for c in channels]
        if params.method == "none":
            offsets = [0.0] * len(channels)
        else:
            offsets = [target.background[c] - scales[c] * frame.background[c] for c in channels]
        results.append(Normalization(tuple(scales), tuple(offsets), stars))
    return results


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
    version=1,
    per="integration group",
    title="Bring the frames to one level and scale",
    run=run,
    params=NormalizeParams,
    inputs=(Input("stars", "measurement"), Input("transforms", "transform")),
    outputs=(Output("normalization", "normalization", "DN"),),
    findings=("NRM001",),
    memory=lambda height, width: 0,
)
