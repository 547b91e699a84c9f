"""Measure: stars, their shape, background and noise of one calibrated light (guide, sections 7 and 9.4)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

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


FEWEST_FOR_FIELD = 20
"""With fewer fitted stars tilt and curvature are not known."""
FEWEST_COMPARED = 6
"""With fewer fitted stars none is called strange."""


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
    angle: float = math.nan
    """Mean direction in which stars are drawn out, degrees from +x towards +y, -90 to 90."""
    coherence: float = 0.0
    """How far stars agree in that direction: 0 any, 1 all the same."""
    residual: float = math.nan
    """Median over the stars of the median absolute residual of the fit over the amplitude."""

    fwhm_map: tuple[float, ...] = (math.nan,) * 9
    """Median FWHM in three rows of three cells, px; NaN where fewer than three stars were fitted."""
    eccentricity_map: tuple[float, ...] = (math.nan,) * 9
    """Median eccentricity in the same cells."""
    tilt: float = math.nan
    """Change of the FWHM across the frame, from the sharpest to the opposite side, as a share of that in the middle."""
    curvature: float = math.nan
    """Growth of the FWHM from the middle to the corners, as a share of that in the middle."""
    total_flux: float = math.nan
    """Sum of the fluxes of the fitted stars, DN."""
    total_brightness: float = math.nan
    """Sum of the mean surface brightnesses of the fitted stars, DN/px^2."""
    local_level: float = math.nan
    """M*: median of the large-scale background, DN."""
    local_noise: float = math.nan
    """N*: noise of the pixels below the large-scale background, DN."""

    @property
    def psf_signal_weight(self) -> float:
        """``TFlux TMeanFlux / (sigma M*)``; NaN without stars or without a sky above zero."""
        from wbpy.kernels import psf_signal

        noise = self.noise[len(self.noise) // 2]
        return psf_signal.signal_weight(self.total_flux, self.total_brightness, noise, self.local_level)

    @property
    def psf_snr(self) -> float:
        """``TFlux^2 / sigma^2``; NaN without stars."""
        from wbpy.kernels import psf_signal

        return psf_signal.signal_to_noise(self.total_flux, self.noise[len(self.noise) // 2])

    def numbers(self) -> dict[str, float | None]:
        """Return the scalar results by the names under which reports show them."""
        names = ("",) if len(self.background) == 1 else ("_r", "_g", "_b")
        found = {
            "stars": float(self.count),
            "fwhm_px": self.fwhm,
            "eccentricity": self.eccentricity,
            "elongation_angle_deg": self.angle,
            "elongation_coherence": self.coherence,
            "fit_residual": self.residual,
            "tilt_percent": 100 * self.tilt,
            "curvature_percent": 100 * self.curvature,
            **{f"fwhm_r{i // 3}c{i % 3}_px": value for i, value in enumerate(self.fwhm_map)},
            **{f"eccentricity_r{i // 3}c{i % 3}": value for i, value in enumerate(self.eccentricity_map)},
            "m_star_dn": self.local_level,
            "n_star_dn": self.local_noise,
            "psf_flux_dn": self.total_flux,
            "psf_signal_weight": self.psf_signal_weight,
            "psf_snr": self.psf_snr,
        }
        values: dict[str, float | None] = {n: None if math.isnan(value) else value for n, value in found.items()}
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

    from wbpy.kernels import debayer, psf_signal, stars, statistics

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
    angle = residual = total = brightness = local_level = local_noise = math.nan
    coherence = 0.0
    widths: tuple[float, ...] = (math.nan,) * 9
    shapes = widths
    tilt = curvature = math.nan
    sigma = noise[len(noise) // 2]
    if sigma > 0 and np.isfinite(sigma):
        level, _ = statistics.background_mesh(plane, params.mesh)
        sky = statistics.expand_mesh(level, plane.shape, params.mesh)
        # Interpolated pixels have too little noise: of CFA data those of one green site are taken.
        row, column = (0, 0) if cfa is None else (0, int(np.argmax(cfa[0] == 1)))
        every = 1 if cfa is None else 2
        local_level, local_noise = psf_signal.local_background(
            image[row::every, column::every], sky[row::every, column::every]
        )
        found = stars.detect_stars(plane, sky, sigma, params.threshold, params.max_stars, params.saturation)
        order = np.flatnonzero(found.flags == 0)[: params.max_fits]
        fits = stars.fit_stars(plane, found.x[order], found.y[order], params.saturation)
        good = fits.ok.copy()
        typical = typical_profiles(fits[good])
        good[good] = typical
        strange = order[np.isfinite(fits.amplitude) & ~good & ~fits.saturated]
        total, brightness = psf_signal.total_fluxes(*psf_signal.hybrid_flux(plane, fits[good], params.saturation))
        width = np.sqrt(fits.fwhm_major[good] * fits.fwhm_minor[good])
        shape = np.sqrt(np.maximum(0.0, 1.0 - (fits.fwhm_minor[good] / fits.fwhm_major[good]) ** 2))
        if good.any():
            angle, coherence = mean_direction(fits.theta[good])
            residual = float(np.median(fits.residual[good]))
            at = np.column_stack([fits.x[good], fits.y[good]])
            widths, shapes = field_map(at, width, plane.shape), field_map(at, shape, plane.shape)
            tilt, curvature = field_shape(at, width, plane.shape)
        x, y = found.x.copy(), found.y.copy()
        x[order[good]], y[order[good]] = fits.x[good], fits.y[good]
        radius = aperture_radius(float(np.median(width)) if width.size else math.nan)
        flux, _ = stars.aperture_flux(plane, x, y, radius, 2.0 * radius, 3.0 * radius)
        usable = np.zeros(x.size, bool)
        usable[order[good]] = True
        usable &= np.isfinite(flux) & (flux > 0)
        # A profile was found, but not that of a star or of these stars: cosmic rays, knots of a nebula, galaxies.
        x, y, flux, usable = (np.delete(column, strange) for column in (x, y, flux, usable))
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
        angle=angle,
        coherence=coherence,
        residual=residual,
        fwhm_map=widths,
        eccentricity_map=shapes,
        tilt=tilt,
        curvature=curvature,
        total_flux=total,
        total_brightness=brightness,
        local_level=local_level,
        local_noise=local_noise,
    )


def mean_direction(theta: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return the mean of directions without a head, degrees in [-90, 90), and their agreement from 0 to 1.

    Twice the angle is averaged as a vector (Mardia and Jupp, Directional Statistics, sect. 1.1): 89 and -89 degrees
    are neighbours.

    Examples
    --------
    >>> import numpy as np
    >>> mean_direction(np.radians([89.0, -89.0, 90.0]))[1] > 0.99
    True
    """
    import numpy as np

    c, s = float(np.mean(np.cos(2 * theta))), float(np.mean(np.sin(2 * theta)))
    angle = math.degrees(0.5 * math.atan2(s, c))
    return (angle - 180.0 if angle >= 90.0 else angle), math.hypot(c, s)


def field_map(
    at: npt.NDArray[np.float64], values: npt.NDArray[np.float64], shape: tuple[int, int]
) -> tuple[float, ...]:
    """Return the median of values in three rows of three cells of the frame; NaN with fewer than three values.

    Parameters
    ----------
    at : (n, 2) array, px
        Points (x, y).
    values : (n,) array
    shape : (int, int)
        Height and width of the frame.
    """
    import numpy as np

    column = np.clip((3 * (at[:, 0] + 0.5) / shape[1]).astype(int), 0, 2)
    row = np.clip((3 * (at[:, 1] + 0.5) / shape[0]).astype(int), 0, 2)
    cells = [values[(row == j) & (column == i)] for j in range(3) for i in range(3)]
    return tuple(float(np.median(cell)) if cell.size >= 3 else math.nan for cell in cells)


def field_shape(
    at: npt.NDArray[np.float64], width: npt.NDArray[np.float64], shape: tuple[int, int]
) -> tuple[float, float]:
    """Return tilt and curvature of the field of sharpness; NaN with fewer than twenty stars.

    ``FWHM = a + b u + c v + d (u^2 + v^2) / 2`` is fitted, with u and v from -1 to 1 across the frame, twice again
    without what lies beyond 3 sigma. The tilt is ``2 hypot(b, c) / a``, the curvature ``d / a``.
    """
    import numpy as np

    if len(width) < FEWEST_FOR_FIELD:
        return math.nan, math.nan
    u = 2 * (at[:, 0] + 0.5) / shape[1] - 1
    v = 2 * (at[:, 1] + 0.5) / shape[0] - 1
    terms = np.column_stack([np.ones_like(u), u, v, (u * u + v * v) / 2])
    kept = np.ones(len(width), bool)
    for _ in range(3):
        fit = np.linalg.lstsq(terms[kept], width[kept], rcond=None)[0]
        away = np.abs(width - terms @ fit)
        kept = away <= 3 * 1.4826 * float(np.median(away[kept]))
        if kept.sum() < FEWEST_FOR_FIELD // 2:
            return math.nan, math.nan
    return float(2 * math.hypot(fit[1], fit[2]) / fit[0]), float(fit[3] / fit[0])


def typical_profiles(fits: Any) -> npt.NDArray[np.bool_]:
    """Return which fits have about the profile that most have.

    Stars of one frame share their width and, when they are drawn out, its direction; cosmic rays and knots of a nebula
    share nothing. In the space of the logarithm of the width and the two components of the ellipticity
    ``(1 - q) / (1 + q)`` the densest place is sought, and what lies within four times the typical distance of it
    is kept: at least 0.2 and at most 0.6, so that an optics' aberrations towards the corners are no reason to go.

    Parameters
    ----------
    fits : (n,) record array
        From `stars.fit_stars`, all ok.
    """
    import numpy as np
    from scipy.spatial import cKDTree

    if len(fits) < FEWEST_COMPARED:
        return np.ones(len(fits), bool)
    ratio = fits["fwhm_minor"] / fits["fwhm_major"]
    drawn = (1 - ratio) / (1 + ratio)
    size = 0.5 * np.log(fits["fwhm_major"] * fits["fwhm_minor"])
    points = np.column_stack([size, drawn * np.cos(2 * fits["theta"]), drawn * np.sin(2 * fits["theta"])])
    tree = cKDTree(points)
    densest = points[int(np.argmax(tree.query_ball_point(points, 0.15, return_length=True)))]
    centre = points[tree.query_ball_point(densest, 0.15)].mean(axis=0)
    distance = np.linalg.norm(points - centre, axis=1)
    spread = float(np.median(distance[distance < 0.6]))
    return np.asarray(distance <= min(max(4 * spread, 0.2), 0.6))


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
    version=2,
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
