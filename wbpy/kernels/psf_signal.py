"""How much signal of stars an image holds beside its noise: fluxes, local background, and what weights are made of.

The estimators M*, N*, PSF signal weight and PSF SNR follow their published definitions (Conejero, Radice and
Sartori, PixInsight reference documentation, Image Weighting Algorithms), with fluxes and statistics of our own.
Images are (H, W) float32 in DN, NaN where missing.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wbpy.kernels.jit import exact
from wbpy.kernels.stars import CENTRE_NODE, PIXEL_NODES, neighbours

Image = NDArray[np.float32]
Vector = NDArray[np.float64]

# Full widths of a Moffat profile of beta 4: sqrt((10^(1/4) - 1) / (2^(1/4) - 1)) tenth maxima in a half maximum.
_TENTH_OVER_HALF = math.sqrt((10.0**0.25 - 1.0) / (2.0**0.25 - 1.0))
# Median absolute deviation of |z| about its median, for a normal z.
_MAD_OF_HALF_NORMAL = 0.3990584
_SAMPLES = 400_000
# Semi-axes of the ellipse of `hybrid_flux`: so many full widths, and so many px more.
_USED = (
    "x", "y", "background", "amplitude", "residual", "fwhm_major", "fwhm_minor", "sharp_major", "sharp_minor", "theta"
)  # fmt: skip
_RADIUS, _RIM = 0.5 * _TENTH_OVER_HALF, 1.0


@exact
def _hybrid(
    image: Image,
    x: Vector,
    y: Vector,
    first: NDArray[np.int64],
    other_x: Vector,
    other_y: Vector,
    background: Vector,
    peak: Vector,
    spread: Vector,
    seen: tuple[Vector, Vector],
    sharp: tuple[Vector, Vector],
    theta: Vector,
    beta: float,
    saturation: np.float32,
    flux: Vector,
) -> None:
    """Fill `flux`; `beta` 0 is the Gaussian."""
    h, w = image.shape
    shape = 4.0 * (2.0 ** (1.0 / beta) - 1.0) if beta > 0.0 else 4.0 * math.log(2.0)
    for s in range(x.size):
        flux[s] = math.nan
        a = _RADIUS * seen[0][s] + _RIM
        b = _RADIUS * seen[1][s] + _RIM
        major, minor = sharp[0][s], sharp[1][s]
        nodes = CENTRE_NODE if seen[1][s] == minor else PIXEL_NODES
        if not (x[s] - a >= 0.0 and y[s] - a >= 0.0 and x[s] + a <= w - 1.0 and y[s] + a <= h - 1.0):
            continue
        c = math.cos(theta[s])
        d = math.sin(theta[s])
        total = 0.0
        model = 0.0
        whole = True
        for j in range(int(math.ceil(y[s] - a)), int(math.floor(y[s] + a)) + 1):
            for i in range(int(math.ceil(x[s] - a)), int(math.floor(x[s] + a)) + 1):
                u = (i - x[s]) * c + (j - y[s]) * d
                v = (j - y[s]) * c - (i - x[s]) * d
                if (u / a) ** 2 + (v / b) ** 2 > 1.0:
                    continue
                taken = False
                for k in range(first[s], first[s + 1]):
                    away = (i - other_x[k]) ** 2 + (j - other_y[k]) ** 2
                    taken = taken or away < (i - x[s]) ** 2 + (j - y[s]) ** 2
                if taken:
                    continue
                value = image[j, i] - background[s]
                if not image[j, i] < saturation:
                    whole = False
                height = 0.0
                for n in range(nodes.shape[1]):
                    for m in range(nodes.shape[1]):
                        u = (i + nodes[0, m] - x[s]) * c + (j + nodes[0, n] - y[s]) * d
                        v = (j + nodes[0, n] - y[s]) * c - (i + nodes[0, m] - x[s]) * d
                        q = shape * ((u / major) ** 2 + (v / minor) ** 2)
                        part = math.exp(-beta * math.log1p(q)) if beta > 0.0 else math.exp(-q)
                        height += nodes[1, n] * nodes[1, m] * part
                # A neighbour's light is neither counted nor asked of the profile; the core is never left out.
                if value > peak[s] * (1.4 * height + 6.0 * spread[s]) and height < 0.2:
                    continue
                model += height
                total += value
        if whole:
            # The share of the profile that these very pixels hold; its integral is that of the fit.
            integral = math.pi * major * minor / shape / (beta - 1.0 if beta > 0.0 else 1.0)
            flux[s] = total / model * integral


def hybrid_flux(
    image: Image,
    fits: Any,
    saturation: float = math.inf,
    beta: float = 4.0,
    others: NDArray[Any] | None = None,
) -> tuple[Vector, Vector]:
    """Return the flux of fitted stars, from the pixels inside and the profile outside of an ellipse.

    The pixels, less the background of the fit, are summed over the ellipse at a tenth of the maximum widened by 1 px,
    and divided by the share of the profile that falls on the same pixels. The sum does not depend on how well the
    core follows the model, and the division does without a wide aperture and its noise. Pixels nearer to another star,
    and those outside of the core that something else raises, are left out of both.

    Parameters
    ----------
    image : (H, W) float32 ndarray, DN
    fits : (n,) record array
        From `stars.fit_stars` with the same `beta`.
    saturation : float, DN
        Pixels from this value on make the flux unknown.
    beta : float
        Exponent of the Moffat profile; infinity for a Gaussian.
    others : (m, 2) array, optional, px
        Places (x, y) of all stars of the image.

    Returns
    -------
    flux : (n,) float64 ndarray, DN
        NaN where the fit failed or a pixel of the ellipse is missing, saturated or outside of the image.
    area : (n,) float64 ndarray, px^2
        Of the ellipse at a tenth of the maximum of a profile with beta 4, without the widening.
    """
    flux = np.empty(len(fits))
    x, y, background, amplitude, residual, major, minor, sharp_major, sharp_minor, theta = (
        np.ascontiguousarray(fits[name], dtype=np.float64) for name in _USED
    )
    _hybrid(
        np.ascontiguousarray(image, dtype=np.float32),
        x,
        y,
        *neighbours(x, y, others, float(2.0 * _RADIUS * np.nanmax(major, initial=0.0) + 2.0 * _RIM)),
        background,
        amplitude,
        residual,
        (major, minor),
        (sharp_major, sharp_minor),
        theta,
        0.0 if math.isinf(beta) else beta,
        np.float32(saturation),
        flux,
    )
    flux[~fits["ok"]] = math.nan
    return flux, 0.25 * math.pi * _TENTH_OVER_HALF**2 * major * minor


def hybrid_noise(noise: float, fwhm: float, beta: float = 4.0) -> float:
    """Return the noise that the background of round stars gives a `hybrid_flux`, DN.

    Parameters
    ----------
    noise : float, DN
        Of one pixel.
    fwhm : float, px
    beta : float
    """
    radius = _RADIUS * fwhm + _RIM
    if math.isinf(beta):
        share = 1.0 - math.exp(-4.0 * math.log(2.0) * (radius / fwhm) ** 2)
    else:
        share = 1.0 - (1.0 + 4.0 * (2.0 ** (1.0 / beta) - 1.0) * (radius / fwhm) ** 2) ** (1.0 - beta)
    return math.sqrt(math.pi) * radius * noise / share


def keep_typical(values: NDArray[Any], limit: float = 0.5) -> NDArray[np.bool_]:
    """Return which values robust Chauvenet rejection keeps.

    Three rounds, each going on from the last: deviations from the median in units of a line fitted to the ordered
    deviations, then of their 68.3 percentile, then from the mean in units of the standard deviation. While the most
    deviant of n values is one of which fewer than `limit` are expected, ``n P(|z| > d) < limit``, it is left out
    (Maples et al. 2018, ApJS 238, 2, sect. 3 and 4; correction for small n as there).

    Parameters
    ----------
    values : (n,) array
        Finite.
    limit : float
        Expected number of values; Chauvenet's is 0.5.
    """
    from scipy.special import erfc, erfinv

    order = np.argsort(values, kind="stable")
    ordered = np.asarray(values, dtype=np.float64)[order]
    low, high = 0, len(ordered)
    for phase in ("line", "percentile", "mean"):
        while high - low > 2:
            x = ordered[low:high]
            n = high - low
            centre = float(np.mean(x)) if phase == "mean" else float(np.median(x))
            if phase == "mean":
                sigma = float(np.std(x, ddof=1))
            else:
                deviation = np.sort(np.abs(x - centre))
                count = int(0.683 * n + 0.317)
                if phase == "line" and count >= 8:
                    normal = math.sqrt(2.0) * erfinv((np.arange(1, count + 1) - 0.317) / n)
                    sigma = float(np.dot(normal, deviation[:count]) / np.dot(normal, normal))
                else:
                    sigma = float(np.interp(0.683 * n - 0.317, np.arange(n), deviation))
                # Below a dozen values the median follows outliers; the correction is theirs for two-sided samples.
                sigma /= max(1.0 - 2.9442 * n**-1.073, 0.1)
            below, above = centre - x[0], x[-1] - centre
            if not sigma > 0.0 or n * erfc(max(below, above) / sigma / math.sqrt(2.0)) >= limit:
                break
            if above >= below:
                high -= 1
            else:
                low += 1
    kept = np.zeros(len(ordered), np.bool_)
    kept[order[low:high]] = True
    return kept


def total_fluxes(flux: NDArray[Any], area: NDArray[Any]) -> tuple[float, float]:
    """Return the sum of the fluxes, DN, and the sum of the mean surface brightnesses, DN/px^2, of stars.

    Surface brightnesses that robust Chauvenet rejection leaves out count with the nearest one that it keeps.

    Parameters
    ----------
    flux, area : (n,) arrays, DN and px^2
        From `hybrid_flux`; NaN and fluxes not above zero are left out.
    """
    good = np.isfinite(flux) & (flux > 0.0)
    if not good.any():
        return 0.0, 0.0
    brightness = flux[good] / area[good]
    kept = brightness[keep_typical(np.log(brightness))]
    return float(np.sum(flux[good])), float(np.sum(np.clip(brightness, kept.min(), kept.max())))


def sample_stride(size: int) -> int:
    """Return the stride along both axes that leaves some 400,000 of `size` pixels."""
    return max(1, math.isqrt(size // _SAMPLES))


def local_background(image: Image, model: Image) -> tuple[float, float]:
    """Return M* and N*: the level of the large-scale background and the noise below it, DN.

    N* is measured on the pixels that lie below the model, where neither stars nor small-scale structures are: the
    median absolute deviation of the depths, over that of the half-normal distribution. Samples of every
    `sample_stride`-th row and column are enough.

    Parameters
    ----------
    image, model : (H, W) float32 ndarray, DN
        The frame and its large-scale background.

    Returns
    -------
    level, noise : float, DN
        NaN when every pixel is missing.
    """
    sky = np.asarray(model, dtype=np.float64)
    depth = sky - image
    depth = depth[depth > 0.0]
    if not depth.size:
        return math.nan, math.nan
    middle = np.median(depth)
    return float(np.median(sky)), float(np.median(np.abs(depth - middle)) / _MAD_OF_HALF_NORMAL)


def signal_weight(total: float, brightness: float, noise: float, level: float) -> float:
    """Return the PSF signal weight ``TFlux TMeanFlux / (sigma M*)``, without a constant; NaN without signal or sky.

    Parameters
    ----------
    total, brightness : float, DN and DN/px^2
        From `total_fluxes`.
    noise, level : float, DN
        Standard deviation of the noise, and M*.
    """
    return total * brightness / (noise * level) if min(total, noise, level) > 0.0 else math.nan


def signal_to_noise(total: float, noise: float) -> float:
    """Return the PSF SNR ``TFlux^2 / sigma^2``, without a constant; NaN without stars or noise."""
    return (total / noise) ** 2 if min(total, noise) > 0.0 else math.nan
