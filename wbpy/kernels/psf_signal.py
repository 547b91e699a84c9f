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

Image = NDArray[np.float32]
Vector = NDArray[np.float64]

# Full widths of a Moffat profile of beta 4: sqrt((10^(1/4) - 1) / (2^(1/4) - 1)) tenth maxima in a half maximum.
_TENTH_OVER_HALF = math.sqrt((10.0**0.25 - 1.0) / (2.0**0.25 - 1.0))
# Median absolute deviation of |z| about its median, for a normal z.
_MAD_OF_HALF_NORMAL = 0.3990584
_SAMPLES = 400_000


@exact
def _hybrid(
    image: Image,
    x: Vector,
    y: Vector,
    background: Vector,
    major: Vector,
    minor: Vector,
    theta: Vector,
    saturation: np.float32,
    flux: Vector,
    area: Vector,
) -> None:
    h, w = image.shape
    shape = 4.0 * (2.0**0.25 - 1.0)
    for s in range(x.size):
        flux[s] = math.nan
        a = 0.5 * _TENTH_OVER_HALF * major[s] + 1.0
        b = 0.5 * _TENTH_OVER_HALF * minor[s] + 1.0
        area[s] = 0.25 * math.pi * _TENTH_OVER_HALF**2 * major[s] * minor[s]
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
                value = image[j, i]
                if not value < saturation:
                    whole = False
                base = 1.0 + shape * ((u / major[s]) ** 2 + (v / minor[s]) ** 2)
                model += 1.0 / (base * base * base * base)
                total += value - background[s]
        if whole:
            # The share of the fitted profile that these very pixels hold; its integral is pi A B / (beta - 1).
            flux[s] = total / model * (math.pi * major[s] * minor[s] / shape / 3.0)


def hybrid_flux(image: Image, fits: Any, saturation: float = math.inf) -> tuple[Vector, Vector]:
    """Return the flux of fitted stars, from the pixels inside and the profile outside of an ellipse.

    The pixels, less the background of the fit, are summed over the ellipse at a tenth of the maximum widened by 1 px,
    and divided by the share of the fitted Moffat profile (beta 4) that falls on the same pixels. The sum does not
    depend on how well the core follows the model, and the division does without a wide aperture and its noise. Of
    profiles with other wings it takes the same share of every star: 0.90 for beta 2.5, 1.06 for beta 10.

    Parameters
    ----------
    image : (H, W) float32 ndarray, DN
    fits : (n,) record array
        From `stars.fit_stars` with the default `beta`.
    saturation : float, DN
        Pixels from this value on make the flux unknown.

    Returns
    -------
    flux : (n,) float64 ndarray, DN
        NaN where the fit failed or a pixel of the ellipse is missing, saturated or outside of the image.
    area : (n,) float64 ndarray, px^2
        Of the ellipse at a tenth of the maximum, without the widening.
    """
    flux, area = np.empty(len(fits)), np.empty(len(fits))
    columns = [
        np.ascontiguousarray(fits[name], dtype=np.float64)
        for name in ("x", "y", "background", "fwhm_major", "fwhm_minor", "theta")
    ]
    pixels = np.ascontiguousarray(image, dtype=np.float32)
    x, y, background, major, minor, theta = columns
    _hybrid(pixels, x, y, background, major, minor, theta, np.float32(saturation), flux, area)
    flux[~fits["ok"]] = math.nan
    return flux, area


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


def local_background(image: Image, model: Image) -> tuple[float, float]:
    """Return M* and N*: the level of the large-scale background and the noise below it, DN.

    N* is measured on the pixels that lie below the model, where neither stars nor small-scale structures are: the
    median absolute deviation of the depths, over that of the half-normal distribution. A sample of about 400,000
    pixels is used.

    Parameters
    ----------
    image, model : (H, W) float32 ndarray, DN
        The frame and its large-scale background.

    Returns
    -------
    level, noise : float, DN
        NaN when every pixel is missing.
    """
    stride = max(1, math.isqrt(image.size // _SAMPLES))
    sky = np.asarray(model[::stride, ::stride], dtype=np.float64)
    depth = sky - image[::stride, ::stride]
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
