"""How much of a dark's signal a light holds: the factor that dark optimization applies.

The dark signal of a master is known pixel by pixel; its strength in a light depends on exposure and temperature,
which uncooled cameras do not hold. Two measures of the factor `k` are here: `scale_by_deviation` is the one that
PixInsight's ImageCalibration uses, `scale_by_contrast` compares each bright pixel of the dark with its neighbours
in both frames, so that neither vignetting over an amplifier glow nor saturated pixels bias it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wbpy.kernels.jit import exact
from wbpy.kernels.statistics import median_mad

FEWEST = 16
"""Pixels of dark signal below which no factor can be told (PixInsight, ImageCalibration)."""

_MOST = 200_000
_GOLDEN = 1.618034
_GOLDEN_SECTION = 0.61803399
_BRACKET = 0.0005
_ROUNDS = 12
_APART = 3


class DarkSet(NamedTuple):
    """The pixels of a master dark from which the factor is told.

    Attributes
    ----------
    indices : (n,) int64 ndarray
        Flat indices ``y * W + x``, sorted: bright pixels of the dark, and as many others for comparison.
    bright : (n,) bool ndarray
        Which of them lie above the threshold.
    contrast : (n,) float64 ndarray, DN
        Dark signal above the mean of the eight neighbours of the same colour.
    threshold : float, DN
        Least dark signal of a pixel of the set.
    pixels : int
        Pixels above the threshold in the whole window, before thinning.
    share : float
        `pixels` over the pixels of the window.
    """

    indices: NDArray[np.int64]
    bright: NDArray[np.bool_]
    contrast: NDArray[np.float64]
    threshold: float
    pixels: int
    share: float


class Scale(NamedTuple):
    """A factor, its standard error and how many pixels told it."""

    k: float
    error: float
    pixels: int


def central(shape: tuple[int, int], window: int, cell: int = 1) -> tuple[slice, slice]:
    """Return the rows and columns of the central square of `window` pixels, on whole cells; 0 is the whole frame."""
    if window <= 0:
        return slice(0, shape[0]), slice(0, shape[1])
    starts = [max(0, (side - window) // 2) // cell * cell for side in shape]
    return (
        slice(starts[0], min(shape[0], starts[0] + window)),
        slice(starts[1], min(shape[1], starts[1] + window)),
    )


def dark_set(
    thermal: NDArray[np.float32], step: int, sigmas: float = 3.0, window: int = 0, highest: float = math.inf
) -> DarkSet:
    """Return the pixels whose dark signal stands out of that of the frame.

    Parameters
    ----------
    thermal : (H, W) float32 ndarray, DN
        Master dark, bias subtracted.
    step : int
        Distance to the next pixel of the same colour: 1 for mono, 2 for a Bayer mosaic.
    sigmas : float
        The set begins at median + `sigmas` x 1.4826 MAD.
    window : int, px
        Side of the central square that is used; 0 is the whole frame.
    highest : float, DN
        Pixels above it are left out: a saturated pixel no longer says how much dark signal it had.
    """
    rows, columns = central(thermal.shape, window)
    part = np.ascontiguousarray(thermal[rows, columns])
    centre, mad = median_mad(part.reshape(-1))
    threshold = centre + sigmas * 1.4826 * mad
    y, x = np.nonzero((part > np.float32(threshold)) & (part < highest))
    indices = (y + rows.start) * thermal.shape[1] + x + columns.start
    count = indices.size
    # Far fewer tell a factor to a tenth of a percent; evenly thinned, so that every region keeps its share.
    indices = indices[:: max(1, math.ceil(count / _MOST))].astype(np.int64)
    # Pixels near them show what the sky does to a contrast, such as the bend of a vignetting.
    others = np.setdiff1d(np.minimum(indices + _APART * step, thermal.size - 1), indices)
    both = np.concatenate([indices, others])
    order = np.argsort(both)
    bright = (np.arange(both.size) < indices.size)[order]
    both = both[order]
    share = count / max(1, part.size)
    return DarkSet(both, bright, contrasts(thermal, both, step, highest), threshold, count, share)


@exact
def contrasts(
    image: NDArray[np.float32], indices: NDArray[np.int64], step: int, highest: float = np.inf
) -> NDArray[np.float64]:
    """Return how far pixels lie above the mean of their eight neighbours at distance `step`.

    The mean, because it is linear: what `k` does to the dark signal of pixel and neighbours it does to this number,
    where a median would mix noise and dark signal.

    Parameters
    ----------
    image : (H, W) float32 ndarray, DN
        NaN is no neighbour.
    indices : (n,) int64 ndarray
        Flat indices.
    step : int
        Distance to the next pixel of the same colour.
    highest : float, DN
        From here on pixels may be saturated.

    Returns
    -------
    (n,) float64 ndarray, DN
        NaN where the pixel is NaN, has no neighbour, or where it or a neighbour may be saturated.
    """
    h, w = image.shape
    out = np.empty(indices.size, dtype=np.float64)
    for k in range(indices.size):
        y = indices[k] // w
        x = indices[k] % w
        n = 0
        total = 0.0
        largest = np.float64(image[y, x])
        for dy in (-step, 0, step):
            for dx in (-step, 0, step):
                j = y + dy
                i = x + dx
                if (dy == 0 and dx == 0) or j < 0 or j >= h or i < 0 or i >= w:
                    continue
                v = np.float64(image[j, i])
                if v == v:
                    total += v
                    largest = max(largest, v)
                    n += 1
        usable = n > 0 and largest < highest
        out[k] = np.float64(image[y, x]) - total / n if usable else np.nan
    return out


def scale_by_contrast(light: NDArray[np.float32], chosen: DarkSet, step: int, highest: float = math.inf) -> Scale:
    """Return the factor from pixels against their neighbours, by weighted least squares without outliers.

    ``contrast in the light = a + k x contrast in the dark``, where `a` is what the sky does to all of them. The
    weight is the inverse of the variance, that of the light's noise (1.4826 MAD of the residuals) plus a part in
    proportion to the dark signal, which stands for its photon noise; residuals beyond four sigma (stars, cosmic
    rays) do not count.

    Parameters
    ----------
    light : (H, W) float32 ndarray, DN
        Raw light without bias.
    chosen : DarkSet
        From `dark_set`.
    step : int
        As for `dark_set`.
    highest : float, DN
        Pixels of the light above it are saturated and left out.

    Returns
    -------
    Scale
        `k` at least 0; NaN, with 0 pixels, when fewer than `FEWEST` pixels can be used.
    """
    seen = contrasts(light, chosen.indices, step, highest)
    usable = np.isfinite(seen) & np.isfinite(chosen.contrast)
    t, d, bright = seen[usable], chosen.contrast[usable], chosen.bright[usable]
    if np.count_nonzero(bright) < FEWEST:
        return Scale(math.nan, math.nan, 0)
    signal = np.maximum(d, 0.0)
    kept = np.ones(t.size, dtype=bool)
    weight = np.ones(t.size)
    k = a = 0.0
    for _ in range(_ROUNDS):
        w = np.where(kept, weight, 0.0)
        total = float(np.sum(w))
        mean_t, mean_d = float(np.sum(w * t)) / total, float(np.sum(w * d)) / total
        square = float(np.sum(w * (d - mean_d) ** 2))
        if not square > 0.0:
            return Scale(math.nan, math.nan, 0)
        previous, k = k, max(0.0, float(np.sum(w * (t - mean_t) * (d - mean_d))) / square)
        a = mean_t - k * mean_d
        residual = np.abs(t - a - k * d)
        sigma = max(1.4826 * float(np.median(residual)), 1e-6)
        # One electron is about one DN: enough for weights, which need no exact variance.
        variance = sigma * sigma + k * signal
        weight = 1.0 / variance
        kept = residual < 4.0 * np.sqrt(variance)
        if abs(k - previous) < 1e-6 * max(k, 1.0):
            break
    told = int(np.count_nonzero(kept & bright))
    if told < FEWEST:
        return Scale(math.nan, math.nan, 0)
    w = np.where(kept, weight, 0.0)
    information = float(np.sum(w * (d - np.sum(w * d) / np.sum(w)) ** 2))
    scatter = float(np.sum(w * residual * residual)) / np.count_nonzero(kept)
    return Scale(k, math.sqrt(scatter / information), told)


def scale_by_deviation(
    light: NDArray[np.float32], thermal: NDArray[np.float32], cell: int, sigmas: float = 3.0, window: int = 0
) -> Scale:
    """Return the factor that makes the standard deviation of ``light - k x thermal`` least, as PixInsight does.

    Both frames are binned by the cell of the mosaic. Of the dark only pixels of at least median + `sigmas` x
    1.4826 MAD count, the others are zero. The minimum is bracketed from 0.5 and 2 and narrowed by golden section
    to 0.0005 (PCL 1.8.9, ImageCalibration; Press et al., Numerical Recipes, section 10.1).

    Parameters
    ----------
    light, thermal : (H, W) float32 ndarray, DN
        Raw light and master dark, bias subtracted from both; NaN counts in neither.
    cell : int
        Side of the mosaic's cell: 1 for mono, 2 for Bayer.
    sigmas, window : float, int
        As for `dark_set`.

    Returns
    -------
    Scale
        `k` at least 0, `error` the width of the last bracket; NaN with fewer than `FEWEST` pixels.
    """
    rows, columns = central(light.shape, window, cell)
    t, d = binned(light[rows, columns], cell), binned(thermal[rows, columns], cell)
    centre, mad = median_mad(np.ascontiguousarray(d, dtype=np.float32).reshape(-1))
    d[d < centre + sigmas * 1.4826 * mad] = 0.0
    both = np.isfinite(t) & np.isfinite(d)
    t, d = t[both], d[both]
    count = int(np.count_nonzero(d))
    if count < FEWEST:
        return Scale(math.nan, math.nan, 0)
    t -= t.mean()
    d -= d.mean()
    tt, td, dd = float(np.mean(t * t)), float(np.mean(t * d)), float(np.mean(d * d))

    def deviation(k: float) -> float:
        return math.sqrt(max(tt - 2.0 * k * td + k * k * dd, 0.0))

    return Scale(max(0.0, least(deviation, 0.5, 2.0)), _BRACKET, count)


def binned(image: NDArray[np.float32], cell: int) -> NDArray[np.float64]:
    """Return the means of cells of `cell` x `cell` pixels as (H // cell, W // cell) float64; the rest is cut off."""
    h, w = image.shape[0] // cell, image.shape[1] // cell
    cut = image[: h * cell, : w * cell].astype(np.float64)
    return np.asarray(cut.reshape(h, cell, w, cell).mean(axis=(1, 3)))


def least(function: Callable[[float], float], a: float, b: float) -> float:
    """Return where `function` (float -> float) is least: bracketed from `a` and `b`, then by golden section."""
    fa, fb = function(a), function(b)
    if fb > fa:
        a, b, fa, fb = b, a, fb, fa
    c = b + _GOLDEN * (b - a)
    fc = function(c)
    while fb > fc:
        # A step to the lowest point of the parabola through the three, at most ten times the last one.
        r, q = (b - a) * (fb - fc), (b - c) * (fb - fa)
        apart = q - r
        u = b - ((b - c) * q - (b - a) * r) / (2.0 * math.copysign(max(abs(apart), 1e-20), apart))
        limit = b + 10.0 * (c - b)
        if (b - u) * (u - c) > 0.0:
            fu = function(u)
            if fu < fc:
                a, b, fa, fb = b, u, fb, fu
                break
            if fu > fb:
                c, fc = u, fu
                break
            u = c + _GOLDEN * (c - b)
        elif (u - limit) * (limit - c) < 0.0:
            u = limit
        fu = function(u)
        a, b, c, fa, fb, fc = b, c, u, fb, fc, fu
    low, high = min(a, c), max(a, c)
    left, right = high - _GOLDEN_SECTION * (high - low), low + _GOLDEN_SECTION * (high - low)
    f_left, f_right = function(left), function(right)
    while high - low > _BRACKET:
        if f_left < f_right:
            high, right, f_right = right, left, f_left
            left = high - _GOLDEN_SECTION * (high - low)
            f_left = function(left)
        else:
            low, left, f_left = left, right, f_right
            right = low + _GOLDEN_SECTION * (high - low)
            f_right = function(right)
    return 0.5 * (low + high)
