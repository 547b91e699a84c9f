"""Register: the transform that lays each frame on the reference, from star patterns (guide, section 9.5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from wbpy.stages.base import Input, Output, Params, Stage
from wbpy.stages.measure import Measurement

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


FEWEST_TRUSTED = 6
"""With fewer stars of good profile, all detections are matched."""
FEWEST_WEIGHTED = 6
"""With fewer pairs there is nothing to weigh."""


class RegisterParams(Params, frozen=True, kw_only=True):
    """How star patterns are matched."""

    model: Annotated[
        Literal["auto", "similarity", "affine", "homography"],
        Meta(description="form of the transform; auto takes the simplest that explains the stars"),
    ] = "auto"
    tolerance_px: Annotated[float, Meta(gt=0, description="largest distance of a matched star, px")] = 2.0


@dataclass(frozen=True)
class Transform:
    """Where the reference's pixels lie in a frame."""

    matrix: npt.NDArray[np.float64]
    """(3, 3): homogeneous (x, y, 1) of the reference -> frame, pixels, 0-based."""
    rms: float
    """Residual of the matched stars, weighted by the accuracy of their positions, px."""
    stars: int
    """Matched stars."""
    model: str


@dataclass(frozen=True)
class Failure:
    """Why a frame could not be registered."""

    reason: str


def run(params: RegisterParams, reference: Measurement, frame: Measurement) -> Transform | Failure:
    """Return the transform from the reference's pixels to the frame's, or why there is none.

    The pattern is sought among stars with a good profile; cosmic rays and saturated stars would mislead it. The
    transform is then fitted again with each star weighted by what its position is worth, because a faint star may be
    off by half a pixel where a bright one is good to a hundredth.

    Parameters
    ----------
    params : RegisterParams
        The stage's parameters.
    reference, frame : Measurement
        Star lists, brightest first.
    """
    import numpy as np

    from wbpy.kernels import patterns, transforms

    if frame is reference:
        return Transform(np.eye(3), 0.0, frame.count, "identity")
    ours, theirs = _trusted(reference), _trusted(frame)
    here = np.column_stack([reference.x, reference.y])[ours]
    there = np.column_stack([frame.x, frame.y])[theirs]
    found = patterns.match_stars(here, there, model=params.model, tolerance_px=params.tolerance_px)
    if isinstance(found, patterns.Mismatch):
        return Failure(found.reason)
    a, b = found.pairs[:, 0], found.pairs[:, 1]
    sigma = np.hypot(_position_error(reference)[ours[a]], _position_error(frame)[theirs[b]])
    src, dst = here[a], there[b]
    matrix = found.matrix
    kept = np.ones(a.size, bool)
    for _ in range(3):
        distance = transforms.residuals(matrix, src, dst)
        # Residuals in units of what the position errors allow; 1.177 is the median of a two-dimensional normal error.
        score = distance / sigma
        typical = np.median(score[kept]) / 1.177
        kept = score <= 3.5 * max(typical, 0.1)
        if kept.sum() < FEWEST_WEIGHTED:
            return Transform(found.matrix, float(found.rms), int(found.n_inliers), found.model)
        matrix = transforms.fit(found.model, src[kept], dst[kept], weights=1 / sigma[kept] ** 2)
    weight = 1 / sigma[kept] ** 2
    distance = transforms.residuals(matrix, src[kept], dst[kept])
    rms = float(np.sqrt(np.average(distance**2, weights=weight)))
    return Transform(matrix, rms, int(kept.sum()), found.model)


def _trusted(measurement: Measurement) -> npt.NDArray[np.intp]:
    """Return the indices of the stars to be matched: those with a good profile, or all where these are few."""
    import numpy as np

    good = np.flatnonzero(measurement.usable)
    return good if good.size >= FEWEST_TRUSTED else np.arange(measurement.x.size)


def _position_error(measurement: Measurement) -> npt.NDArray[np.float64]:
    """Return the standard deviation of each star's position per axis, px.

    Background noise gives ``sqrt(8 pi) s^2 n / F`` with the profile's sigma s, the pixel noise n and the flux F (King
    1983, PASP 95, 163); one percent of the FWHM stands for what no noise explains: undersampling, the profile's
    departure from the model.
    """
    import numpy as np

    fwhm = measurement.fwhm if np.isfinite(measurement.fwhm) else 3.0
    noise = measurement.noise[len(measurement.noise) // 2]
    s = fwhm / 2.3548
    flux = np.where(measurement.flux > 0, measurement.flux, np.nan)
    error = np.hypot(np.sqrt(8 * np.pi) * s**2 * noise / flux, 0.01 * fwhm)
    return np.where(np.isfinite(error), np.minimum(error, fwhm), fwhm)


REGISTER = Stage(
    name="register",
    version=1,
    per="registration group",
    title="Find each frame's transform to the reference",
    run=run,
    params=RegisterParams,
    inputs=(Input("stars", "measurement"), Input("reference", "decision")),
    outputs=(Output("transforms", "transform", "px"),),
    findings=("REG001", "REG002"),
    memory=lambda height, width: 0,
)
