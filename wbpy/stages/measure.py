"""Measure: stars, their shape, background and noise of one calibrated light (guide, sections 7 and 9.4)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from wbpy.stages.base import Input, Output, Params, Stage

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from wbpy.stages.base import FloatArray


class MeasureParams(Params, frozen=True, kw_only=True):
    """How stars are found and measured."""

    threshold: Annotated[float, Meta(gt=0, description="a star's peak over the noise of the smoothed frame")] = 5.0
    max_stars: Annotated[int, Meta(ge=10, description="brightest stars that are kept for registration")] = 3000
    max_fits: Annotated[int, Meta(ge=5, description="brightest unsaturated stars whose profile is fitted")] = 800
    saturation: Annotated[float, Meta(gt=0, description="stars that reach this level are not used for shapes, DN")] = (
        58000.0
    )
    mesh: Annotated[int, Meta(ge=8, description="cell of the background model, px")] = 64


@dataclass(frozen=True)
class Measurement:
    """What one light was found to hold.

    Channels are (mono,) or (R, G, B); values of a CFA's channels belong to its raw pixels, not to interpolated ones.
    """

    x: npt.NDArray[np.float64]
    """Star positions in pixels, brightest first."""
    y: npt.NDArray[np.float64]
    flux: npt.NDArray[np.float64]
    """Aperture flux within two FWHM, DN."""
    usable: npt.NDArray[np.bool_]
    """Neither saturated nor cut off nor overlapped: fit for photometry."""
    count: int
    """Stars found."""
    fwhm: float
    """Median full width at half maximum, px; NaN without fitted stars."""
    eccentricity: float
    """Median eccentricity; NaN without fitted stars."""
    background: tuple[float, ...]
    """Median of each channel, DN."""
    noise: tuple[float, ...]
    """Standard deviation of the noise of each channel, DN."""
    dispersion: tuple[float, ...]
    """1.4826 x MAD of each channel, DN."""

    def numbers(self) -> dict[str, float | None]:
        """Return the scalar results by the names under which reports show them."""
        names = ("",) if len(self.background) == 1 else ("_r", "_g", "_b")
        values: dict[str, float | None] = {
            "stars": float(self.count),
            "fwhm_px": None if math.isnan(self.fwhm) else self.fwhm,
            "eccentricity": None if math.isnan(self.eccentricity) else self.eccentricity,
        }
        for name, background, noise in zip(names, self.background, self.noise, strict=True):
            values[f"background{name}_dn"] = background
            values[f"noise{name}_dn"] = noise
        return values


def run(params: MeasureParams, image: FloatArray, cfa: npt.NDArray[np.uint8] | None) -> Measurement:
    """Return the measurement of one calibrated light.

    Parameters
    ----------
    params : MeasureParams
        The stage's parameters.
    image : (H, W) float32 ndarray, DN
        Calibrated and cosmetically corrected; NaN is missing.
    cfa : (2, 2) uint8 ndarray or None
        For CFA frames stars are measured on an interpolated green plane, which has the highest signal, and
        background and noise on the raw pixels of each colour, which are independent of each other.
    """
    import numpy as np

    from wbpy.kernels import debayer, stars, statistics

    background, noise, dispersion = [], [], []
    for values, planes in zip(statistics.sampled(image, cfa), _planes(image, cfa), strict=True):
        middle, mad = statistics.median_mad(values)
        background.append(middle)
        dispersion.append(1.4826 * mad)
        sigmas = [statistics.noise_mrs(plane)[0] for plane in planes]
        noise.append(float(np.sqrt(np.mean(np.square(sigmas)))))
    if cfa is None:
        plane = image
    else:
        plane = np.empty_like(image)
        debayer.green(image, cfa, plane)
    x = y = flux = width = shape = np.empty(0)
    usable = np.empty(0, bool)
    sigma = noise[len(noise) // 2]
    if sigma > 0 and np.isfinite(sigma):
        level, _ = statistics.background_mesh(plane, params.mesh)
        sky = statistics.expand_mesh(level, plane.shape, params.mesh)
        found = stars.detect_stars(plane, sky, sigma, params.threshold, params.max_stars, params.saturation)
        order = np.flatnonzero(found.flags == 0)[: params.max_fits]
        fits = stars.fit_stars(plane, found.x[order], found.y[order], params.saturation)
        good = fits.ok
        width = np.sqrt(fits.fwhm_major[good] * fits.fwhm_minor[good])
        shape = np.sqrt(np.maximum(0.0, 1.0 - (fits.fwhm_minor[good] / fits.fwhm_major[good]) ** 2))
        x, y = found.x.copy(), found.y.copy()
        x[order[good]], y[order[good]] = fits.x[good], fits.y[good]
        radius = aperture_radius(float(np.median(width)) if width.size else math.nan)
        flux, _ = stars.aperture_flux(plane, x, y, radius, 2.0 * radius, 3.0 * radius)
        usable = np.zeros(x.size, bool)
        usable[order[good]] = True
        usable &= np.isfinite(flux) & (flux > 0)
    return Measurement(
        x=x,
        y=y,
        flux=flux,
        usable=usable,
        count=int(x.size),
        fwhm=float(np.median(width)) if width.size else float("nan"),
        eccentricity=float(np.median(shape)) if shape.size else float("nan"),
        background=tuple(background),
        noise=tuple(noise),
        dispersion=tuple(dispersion),
    )


def aperture_radius(fwhm: float) -> float:
    """Return the radius of the aperture in which a star's flux is summed, px: two FWHM, at least 3 px."""
    return 4.0 if math.isnan(fwhm) else max(3.0, 2.0 * fwhm)


def _planes(image: FloatArray, cfa: npt.NDArray[np.uint8] | None) -> list[list[FloatArray]]:
    """Return the planes of raw pixels that make up each channel."""
    import numpy as np

    if cfa is None:
        return [[image]]
    return [
        [np.ascontiguousarray(image[y::2, x::2]) for y in (0, 1) for x in (0, 1) if cfa[y, x] == colour]
        for colour in (0, 1, 2)
    ]


MEASURE = Stage(
    name="measure",
    version=1,
    per="light",
    title="Measure stars, background and noise",
    run=run,
    params=MeasureParams,
    inputs=(Input("image", "cosmetic"),),
    outputs=(Output("stars", "measurement", "px, DN"),),
    findings=("MEA001",),
    # Green plane, background model, smoothed copy and the planes of the noise estimate.
    memory=lambda height, width: 4 * height * width * 4,
)
