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
SHAPE_ERROR = 1.3
"""Error of the logarithm of a width, and of an ellipticity, in noise over amplitude times width."""
CROWDED = 15.0
"""Stars with another one within so many px do not tell the wings of the profile."""
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
    """Aperture flux within one and a half FWHM, DN."""
    usable: npt.NDArray[np.bool_]
    """Neither saturated nor cut off nor overlapped: fit for photometry."""
    count: int
    """Stars found, those beyond the ones listed here included."""
    fwhm: float
    """Median full width at half maximum, px; NaN without fitted stars."""
    eccentricity: float
    """Eccentricity of the profile at the median star, the noise of the fits taken off; NaN without fitted stars."""
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
    """Eccentricity of the mean profile in the same cells."""
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
    beta: float = 4.0
    """Exponent of the Moffat profile that the stars share; infinity for a Gaussian."""
    hybrid_flux: npt.NDArray[np.float64] | None = None
    """Flux of each star from the pixels inside and the profile outside of an ellipse, DN; NaN where not usable."""
    hybrid_noise: float = math.nan
    """Noise that the background gives a `hybrid_flux`, DN."""
    noise_share: tuple[float, ...] = ()
    """Share of the pixels that the noise of each channel rests on."""
    noise_method: tuple[str, ...] = ()
    """How the noise of each channel was measured: ``mrs``, or ``k-sigma`` where that failed."""

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
            "psf_beta": self.beta if math.isfinite(self.fwhm) else math.nan,
            "tilt_percent": 100 * self.tilt,
            "curvature_percent": 100 * self.curvature,
            **{f"fwhm_r{i // 3}c{i % 3}_px": value for i, value in enumerate(self.fwhm_map)},
            **{f"eccentricity_r{i // 3}c{i % 3}": value for i, value in enumerate(self.eccentricity_map)},
            "m_star_dn": self.local_level,
            "n_star_dn": self.local_noise,
            "psf_flux_dn": self.total_flux,
            "psf_mean_flux_dn": self.total_brightness,
            "psf_signal_weight": self.psf_signal_weight,
            "psf_snr": self.psf_snr,
        }
        # JSON has neither NaN nor infinity.
        values: dict[str, float | None] = {n: value if math.isfinite(value) else None for n, value in found.items()}
        for name, background, noise in zip(names, self.background, self.noise, strict=True):
            values[f"background{name}_dn"] = background
            values[f"noise{name}_dn"] = noise
        for name, share in zip(names, self.noise_share, strict=False):
            values[f"noise{name}_share"] = share
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

    from wbpy.kernels import psf_signal, stars, statistics

    background, noise, dispersion = [], [], []
    noise_share: list[float] = []
    noise_method: list[str] = []
    for values, planes in zip(statistics.sampled(image, cfa), _planes(image, cfa), strict=True):
        middle, mad = statistics.median_mad(values)
        background.append(middle)
        dispersion.append(1.4826 * mad)
        # The planes of a mosaic together need no more than twice the patches of one.
        patches = 16 if cfa is None else max(1, 32 // cfa.size)
        sigmas, shares, methods = zip(*(statistics.noise_mrs(plane, patches) for plane in planes), strict=True)
        noise.append(float(np.sqrt(np.mean(np.square(sigmas)))))
        noise_share.append(float(np.mean(shares)))
        noise_method.append("/".join(dict.fromkeys(methods)))
    plane = star_plane(image, cfa)
    sigma = noise[len(noise) // 2]
    if not (sigma > 0 and np.isfinite(sigma)):
        empty = np.empty(0)
        return Measurement(
            x=empty, y=empty, flux=empty, usable=np.empty(0, bool), count=0, fwhm=math.nan, eccentricity=math.nan,
            background=tuple(background), noise=tuple(noise), dispersion=tuple(dispersion), hybrid_flux=empty,
            noise_share=tuple(noise_share), noise_method=tuple(noise_method),
        )  # fmt: skip
    level, _ = statistics.background_mesh(plane, params.mesh, max(1, params.mesh // 16))
    # Interpolated pixels have too little noise: of CFA data those of one green site are taken.
    row, column = (0, 0) if cfa is None else (0, int(np.argmax(cfa[0] == 1)))
    every = (1 if cfa is None else len(cfa)) * psf_signal.sample_stride(image.size if cfa is None else image.size // 4)
    sites = slice(row, None, every), slice(column, None, every)
    local_level, local_noise = psf_signal.local_background(
        image[sites], statistics.expand_mesh(level, plane.shape, params.mesh, *sites)
    )
    found = stars.detect_stars(plane, level, sigma, params.threshold, image.size, params.saturation, mesh=params.mesh)
    x, y, flags = found.x[: params.max_stars].copy(), found.y[: params.max_stars].copy(), found.flags
    order = np.flatnonzero(flags[: params.max_stars] == 0)[: params.max_fits]
    alone = order[isolated(found.x, found.y, order)]
    everyone = np.column_stack([found.x, found.y])
    beta = likely_beta(*stars.typical_beta(plane, x[alone], y[alone], params.saturation, everyone))
    fits = stars.fit_stars(plane, x[order], y[order], params.saturation, beta, others=everyone)
    away = np.full(len(fits), math.inf)
    away[fits.ok], limit = profile_distances(fits[fits.ok])
    good = away <= limit
    with np.errstate(invalid="ignore", divide="ignore"):
        # Noise alone may give a faint star a strange profile, or none.
        doubt = 4.0 * SHAPE_ERROR * sigma / (fits.amplitude * np.sqrt(fits.fwhm_major * fits.fwhm_minor))
        strange = order[np.isfinite(doubt) & ~fits.saturated & (np.minimum(away, 1.0) > limit + doubt)]
    fitted = fits[good]
    x[order[good]], y[order[good]] = fitted.x, fitted.y
    at = np.column_stack([fitted.x, fitted.y])
    width = np.sqrt(fitted.fwhm_major * fitted.fwhm_minor)
    seen = shape_field(fitted, sigma, plane.shape)
    hybrid, area = psf_signal.hybrid_flux(plane, fitted, params.saturation, beta, everyone)
    total, brightness = psf_signal.total_fluxes(hybrid, area)
    fwhm = float(np.median(width)) if width.size else math.nan
    radius = aperture_radius(fwhm)
    flux, _ = stars.aperture_flux(plane, x, y, radius, 2.0 * radius, 3.0 * radius)
    hybrids = np.full(x.size, math.nan)
    hybrids[order[good]] = hybrid
    usable = np.zeros(x.size, bool)
    usable[order[good]] = True
    usable &= np.isfinite(flux) & (flux > 0)
    # A profile was found, but not that of a star or of these stars: cosmic rays, knots of a nebula, galaxies.
    x, y, flux, hybrids, usable = (np.delete(column, strange) for column in (x, y, flux, hybrids, usable))
    angle, coherence = mean_direction(fitted.theta) if width.size else (math.nan, 0.0)
    tilt, curvature = field_shape(at, width, plane.shape)
    return Measurement(
        x=x,
        y=y,
        flux=flux,
        usable=usable,
        count=len(found) - len(strange),
        fwhm=fwhm,
        eccentricity=seen.eccentricity,
        angle=angle,
        coherence=coherence,
        residual=float(np.median(fitted.residual)) if width.size else math.nan,
        fwhm_map=field_map(at, width, plane.shape),
        eccentricity_map=seen.cells,
        tilt=tilt,
        curvature=curvature,
        total_flux=total,
        total_brightness=brightness,
        local_level=local_level,
        local_noise=local_noise,
        beta=beta,
        hybrid_flux=hybrids,
        hybrid_noise=psf_signal.hybrid_noise(sigma, fwhm, beta),
        background=tuple(background),
        noise=tuple(noise),
        dispersion=tuple(dispersion),
        noise_share=tuple(noise_share),
        noise_method=tuple(noise_method),
    )


def star_plane(image: FloatArray, cfa: npt.NDArray[np.uint8] | None) -> FloatArray:
    """Return the plane on which stars are measured: the frame itself, or an interpolated green one of a mosaic."""
    import numpy as np

    from wbpy.kernels import debayer, xtrans

    if cfa is None:
        return image
    plane = np.empty_like(image)
    (debayer.green if len(cfa) == 2 else xtrans.green)(image, cfa, plane)
    return plane


def isolated(
    x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], order: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Return places in `order`, those of stars without a neighbour first, all in their own order.

    Parameters
    ----------
    x, y : (n,) arrays, px
        All stars.
    order : (m,) int array
        Indices of those that are wanted.
    """
    import numpy as np
    from scipy.spatial import cKDTree

    if not order.size:
        return order
    tree = cKDTree(np.column_stack([x, y]))
    near = tree.query_ball_point(np.column_stack([x[order], y[order]]), CROWDED, return_length=True)
    return np.argsort(near > 1, kind="stable")


def likely_beta(beta: float, error: float) -> float:
    """Return an exponent drawn towards 4 as far as `error`, that of its inverse, says that it is not known.

    Where the seeing decides, 1 / beta is 0.25 +- 0.05 or so (Trujillo et al. 2001, MNRAS 328, 977, sect. 4). The share
    of the light that falls outside of an aperture follows it: what few faint stars say of the wings would shift all
    fluxes of a frame.

    Parameters
    ----------
    beta, error : float
        From `stars.typical_beta`; NaN when not known.
    """
    if math.isnan(beta):
        return 4.0
    trust = 1.0 / (1.0 + (error / 0.05) ** 2)
    inverse = trust / beta + (1.0 - trust) * 0.25
    return 1.0 / inverse if inverse > 0.02 else math.inf


@dataclass(frozen=True)
class ShapeField:
    """How far the stars of a frame are drawn out."""

    eccentricity: float
    cells: tuple[float, ...]
    """In three rows of three cells; NaN where fewer than three stars were fitted."""


def shape_field(fits: Any, noise: float, shape: tuple[int, int]) -> ShapeField:
    """Return the eccentricity of the profile, the noise of single stars taken off.

    The eccentricity of a round star measured with noise is not zero: at a signal-to-noise ratio of 100 it is 0.2, and
    the median of many such stars no less. So the two components of the ellipticity ``(1 - q) / (1 + q)``, which
    average to zero, are fitted over the frame first: a constant, or second-order polynomials where these explain
    the stars better (F above 3); from the mean square of the fit its own expected noise is subtracted.

    Parameters
    ----------
    fits : (n,) record array
        From `stars.fit_stars`, all ok.
    noise : float, DN
        Standard deviation of the background noise.
    shape : (int, int)
        Height and width of the frame.
    """
    import numpy as np

    if not len(fits):
        return ShapeField(math.nan, (math.nan,) * 9)
    ratio = fits["fwhm_minor"] / fits["fwhm_major"]
    drawn = (1 - ratio) / (1 + ratio)
    vector = np.column_stack([drawn * np.cos(2 * fits["theta"]), drawn * np.sin(2 * fits["theta"])])
    width = np.sqrt(fits["fwhm_major"] * fits["fwhm_minor"])
    # The error of a component is that of the flux, plus what is the same for the brightest.
    weight = 1.0 / (0.005**2 + (SHAPE_ERROR * noise / (fits["amplitude"] * width)) ** 2)
    u = 2 * (fits["x"] + 0.5) / shape[1] - 1
    v = 2 * (fits["y"] + 0.5) / shape[0] - 1
    quadratic = np.column_stack([np.ones_like(u), u, v, u * u, u * v, v * v])
    even = _fit_vectors(quadratic[:, :1], vector, weight)
    best = even
    if len(fits) >= FEWEST_FOR_FIELD:
        uneven = _fit_vectors(quadratic, vector, weight)
        degrees = 2 * int(uneven.kept.sum()) - 12
        gained = float((weight[uneven.kept, None] * (vector - even.model)[uneven.kept] ** 2).sum()) / uneven.chi2 - 1
        if degrees > 0 and gained * degrees / 10 > 3.0:
            best = uneven
    column = np.clip((1.5 * (u + 1)).astype(int), 0, 2)
    row = np.clip((1.5 * (v + 1)).astype(int), 0, 2)
    cells = []
    for cell in range(9):
        own = (3 * row + column == cell) & best.kept
        if own.sum() < 3:
            cells.append(math.nan)
            continue
        w = weight[own]
        mean = np.average(vector[own], axis=0, weights=w)
        spread = float((w[:, None] * (vector[own] - mean) ** 2).sum() / w.sum())
        few = float((w**2).sum() / w.sum() ** 2)
        cells.append(_eccentricity(float(mean @ mean), spread * few / (1 - few) if few < 1 else 0.0))
    return ShapeField(_eccentricity(float(np.median((best.model**2).sum(axis=1))), best.noise), tuple(cells))


@dataclass(frozen=True)
class _Vectors:
    """A smooth field fitted to the vectors of some stars."""

    model: npt.NDArray[np.float64]
    kept: npt.NDArray[np.bool_]
    chi2: float
    noise: float
    """Mean square of what noise alone puts into the model."""


def _fit_vectors(
    terms: npt.NDArray[np.float64], vector: npt.NDArray[np.float64], weight: npt.NDArray[np.float64]
) -> _Vectors:
    """Fit both components of `vector` (n, 2), twice again without what lies beyond 3.5 sigma."""
    import numpy as np

    root = np.sqrt(weight)[:, None]
    kept = np.ones(len(vector), bool)
    fit: npt.NDArray[Any] = np.zeros((terms.shape[1], 2))
    for _ in range(3):
        fit = np.linalg.lstsq((terms * root)[kept], (vector * root)[kept], rcond=None)[0]
        away = np.hypot(*((vector - terms @ fit) * root).T)
        # The median of a Rayleigh distribution is 1.1774 sigma.
        limit = 3.5 * float(np.median(away[kept])) / 1.1774
        if not limit > 0 or (away <= limit).sum() < 2 * terms.shape[1]:
            break
        kept = away <= limit
    away = np.hypot(*((vector - terms @ fit) * root).T)
    chi2 = float((away[kept] ** 2).sum())
    degrees = 2 * (int(kept.sum()) - terms.shape[1])
    if degrees <= 0:
        return _Vectors(terms @ fit, kept, chi2, 0.0)
    design = (terms * root)[kept]
    covariance = np.linalg.pinv(design.T @ design) * chi2 / degrees
    own = np.einsum("ij,jk,ik->i", terms, covariance, terms)
    return _Vectors(terms @ fit, kept, chi2, 2 * float(np.mean(own[kept])))


def _eccentricity(square: float, noise: float) -> float:
    """Return the eccentricity of an ellipticity whose square is known with an added `noise`."""
    drawn = math.sqrt(max(square - noise, 0.0))
    ratio = (1 - drawn) / (1 + drawn) if drawn < 1 else 0.0
    return math.sqrt(1 - ratio * ratio)


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


def profile_distances(fits: Any) -> tuple[npt.NDArray[np.float64], float]:
    """Return how far each fit is from the profile that most have, and up to where it is about the same.

    Stars of one frame share their width and, when they are drawn out, its direction; cosmic rays and knots of a nebula
    share nothing. In the space of the logarithm of the width and the two components of the ellipticity
    ``(1 - q) / (1 + q)`` the densest place is sought. What lies within four times the typical distance of it is about
    the same: at least 0.2 and at most 0.6, so that an optics' aberrations towards the corners are no reason to go.

    Parameters
    ----------
    fits : (n,) record array
        From `stars.fit_stars`, all ok.
    """
    import numpy as np
    from scipy.spatial import cKDTree

    if len(fits) < FEWEST_COMPARED:
        return np.zeros(len(fits)), 0.0
    ratio = fits["fwhm_minor"] / fits["fwhm_major"]
    drawn = (1 - ratio) / (1 + ratio)
    size = 0.5 * np.log(fits["fwhm_major"] * fits["fwhm_minor"])
    points = np.column_stack([size, drawn * np.cos(2 * fits["theta"]), drawn * np.sin(2 * fits["theta"])])
    tree = cKDTree(points)
    densest = points[int(np.argmax(tree.query_ball_point(points, 0.15, return_length=True)))]
    centre = points[tree.query_ball_point(densest, 0.15)].mean(axis=0)
    distance = np.linalg.norm(points - centre, axis=1)
    spread = float(np.median(distance[distance < 0.6]))
    return distance, min(max(4 * spread, 0.2), 0.6)


def aperture_radius(fwhm: float) -> float:
    """Return the radius of the aperture in which a star's flux is summed, px: 1.5 FWHM, at least 3 px.

    Narrow enough to keep the noise of the sky and most neighbours out, and as it goes with the width of the stars, it
    holds the same share of every frame's: the scale between frames is good to 0.5 % where two FWHM gave 0.65 %
    (docs/decisions/0704).
    """
    return 4.0 if math.isnan(fwhm) else max(3.0, 1.5 * fwhm)


def _planes(image: FloatArray, cfa: npt.NDArray[np.uint8] | None) -> list[list[FloatArray]]:
    """Return views of the raw pixels that make up each channel."""
    if cfa is None:
        return [[image]]
    p = len(cfa)
    return [[image[y::p, x::p] for y in range(p) for x in range(p) if cfa[y, x] == colour] for colour in (0, 1, 2)]


MEASURE = Stage(
    name="measure",
    version=3,
    per="light",
    title="Measure stars, background and noise",
    run=run,
    params=MeasureParams,
    inputs=(Input("image", "cosmetic"),),
    outputs=(Output("stars", "measurement", "px, DN"),),
    findings=("MEA001",),
    # The green plane, and the patches of the noise estimate.
    memory=lambda height, width: height * width * 4 + 32_000_000,
)
