"""Whether the noise of a picture runs in streaks.

A pattern of the sensor over which lights drift in one direction is laid beside itself again and again: pixels along the
drift resemble each other more than pixels across it (walking noise). Sky, nebulae and stars do not know the direction.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]

NEAREST = 3.5
"""px: nearer pixels share their noise by interpolation, in any direction."""
LAGS = 4
"""Distances that are compared."""
BRIGHT = 3.0
"""Deviations above the sky from which on a pixel is a star's."""
AROUND = 6
"""Pixels around a star's that are left out."""
FEWEST = 2000
"""Pairs of pixels; with fewer nothing is said."""


def streaks(image: Float32, direction: float, step: float, length: float) -> tuple[float, float]:
    """Return the share of the noise's variance that runs in streaks, and the error of that share.

    ``1 - V_along / V_across``, V being half the variance of the differences of pixels at a distance along the drift and
    across it, the mean over up to four multiples of the step of 3.5 px and more, no longer than half of the drift.

    Parameters
    ----------
    image : (h, w) float32 ndarray, DN
        NaN is missing. Stars, and where they are, are left out.
    direction : float, degrees
        Of the drift, from +x towards +y.
    step, length : float, px
        From light to light, and of the whole drift.

    Returns
    -------
    share, error : float
        NaN where there are too few pixels of sky, or no such distance.
    """
    sky = _sky(image)
    nearest = max(1, math.ceil(NEAREST / step)) if step > 0 else 0
    distances = [m * step for m in range(nearest, nearest + LAGS) if m == nearest or m * step <= 0.5 * length]
    if not nearest or distances[0] > length:
        return math.nan, math.nan
    shares, weights = [], []
    c, s = math.cos(math.radians(direction)), math.sin(math.radians(direction))
    for distance in distances:
        along, pairs = _half_variance(image, sky, round(distance * c), round(distance * s))
        across, others = _half_variance(image, sky, round(-distance * s), round(distance * c))
        if min(pairs, others) >= FEWEST and across > 0:
            shares.append(1 - along / across)
            weights.append(min(pairs, others))
    if not shares:
        return math.nan, math.nan
    # A variance of m normal differences is good to sqrt(2 / m), and each pixel is in two of them: sqrt(3 / m).
    error = math.sqrt(2 * 3 / max(weights) / len(shares))
    return float(np.average(shares, weights=weights)), error


def _sky(image: Float32) -> NDArray[np.bool_]:
    """Return which pixels are neither missing nor near a star nor in the brighter half of the picture at large."""
    from scipy import ndimage

    known = np.isfinite(image)
    middle = float(np.median(image[known])) if known.any() else 0.0
    filled = np.where(known, image, np.float32(middle))
    large = ndimage.uniform_filter(filled, 32, mode="nearest")
    away = filled - large
    sigma = 1.4826 * float(np.median(np.abs(away - np.median(away))))
    stars = ndimage.maximum_filter(
        (away > BRIGHT * sigma) & (ndimage.uniform_filter(away, 3) > 1.5 * sigma), 2 * AROUND + 1
    )
    clear = known & ~stars
    return np.asarray(clear & (large <= np.median(large[clear])) if clear.any() else clear)


def _half_variance(image: Float32, sky: NDArray[np.bool_], dx: int, dy: int) -> tuple[float, int]:
    """Return half the clipped variance of differences between pixels (dx, dy) apart, and the number of pairs."""
    h, w = image.shape
    if abs(dx) >= w or abs(dy) >= h:
        return math.nan, 0
    first = np.s_[max(0, -dy) : h - max(0, dy), max(0, -dx) : w - max(0, dx)]
    second = np.s_[max(0, dy) : h - max(0, -dy), max(0, dx) : w - max(0, -dx)]
    both = sky[first] & sky[second]
    if both.sum() < FEWEST:
        return math.nan, int(both.sum())
    difference = (image[second] - image[first])[both].astype(np.float64)
    sigma = 1.4826 * float(np.median(np.abs(difference)))
    difference = difference[np.abs(difference) <= 4 * sigma]
    return 0.5 * float(np.mean(difference**2)), difference.size
