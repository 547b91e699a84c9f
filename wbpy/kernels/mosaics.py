"""Find and replace defective pixels in mosaics whose cells are larger than 2 x 2 pixels, such as those of X-Trans.

:mod:`wbpy.kernels.defects` relies on a fixed distance to the next pixel of a colour, which these mosaics do not have.
`cfa` is (p, p) uint8: 0 R, 1 G, 2 B at ``[y % p, x % p]``. A defect list is a sorted int64 array of flat indices
``y * W + x``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wbpy.kernels.jit import exact
from wbpy.kernels.statistics import median_mad, sampled

_NEAR = 2
"""Pixels of its colour within this many columns and rows are compared with a pixel."""
_FARTHEST = 16
_SHARPEST = 0.125
"""Least light beside the peak of a star, as a share of the peak: a star of 1.5 px FWHM leaves 0.29 in the second
brightest of the eight pixels around it, and half of that where the filters beside it pass its colour worse."""


@exact
def replace_defects(image: NDArray[np.float32], indices: NDArray[np.int64], cfa: NDArray[np.uint8]) -> int:
    """Replace defects in place by the median of the good pixels of their colour within two pixels, or a wider square.

    Other defects and NaN are never used, so the order of the list does not matter.

    Parameters
    ----------
    image : (H, W) float32 ndarray, DN
    indices : (n,) int64 ndarray
    cfa : (p, p) uint8 ndarray

    Returns
    -------
    int
        How many found no good neighbour within 16 pixels; they become NaN.
    """
    h, w = image.shape
    p = len(cfa)
    values = image.reshape(-1)
    for k in range(indices.size):
        values[indices[k]] = np.float32(np.nan)
    found = np.empty(indices.size, np.float32)
    near = np.empty((2 * _FARTHEST + 1) ** 2, np.float32)
    lost = 0
    for k in range(indices.size):
        y, x = indices[k] // w, indices[k] % w
        colour = cfa[y % p, x % p]
        n = 0
        reach = _NEAR
        while n == 0 and reach <= _FARTHEST:
            for j in range(max(0, y - reach), min(h, y + reach + 1)):
                for i in range(max(0, x - reach), min(w, x + reach + 1)):
                    v = image[j, i]
                    if v == v and cfa[j % p, i % p] == colour:
                        near[n] = v
                        n += 1
            reach *= 2
        found[k] = _median(near, n) if n else np.float32(np.nan)
        lost += n == 0
    for k in range(indices.size):
        values[indices[k]] = found[k]
    return lost


def detect_outliers(
    image: NDArray[np.float32], cfa: NDArray[np.uint8], hot_sigma: float, cold_sigma: float
) -> NDArray[np.int64]:
    """Return pixels that stand out of the pixels of their colour around them and are no stars.

    Hot is what exceeds the second highest pixel of its colour within two pixels by `hot_sigma`, and its surroundings by
    more than a star could: light falls on all colours, so beside the peak of a star the neighbours of other colours are
    bright too. Sigma is the noise of the colour, from the differences of pixels to the median around them.

    Parameters
    ----------
    image : (H, W) float32 ndarray, DN
        Calibrated; NaN is missing and never listed.
    cfa : (p, p) uint8 ndarray
    hot_sigma, cold_sigma : float
        Thresholds; 0 looks for none.

    Returns
    -------
    (n,) int64 ndarray
        Sorted flat indices. The outermost pixel on every side is not examined.
    """
    if not (hot_sigma > 0 or cold_sigma > 0):
        return np.empty(0, np.int64)
    # A hundred thousand pixels tell the noise to half a per cent; the median of many is that of their sky.
    sigma = np.zeros(3, np.float32)
    stride = max(1, int((image.size / 1e5) ** 0.5))
    rest = _differences(image, cfa, stride)
    for colour, values in enumerate(rest):
        if values.size:
            sigma[colour] = 1.4826 * median_mad(values)[1]
    level = np.array([median_mad(values)[0] if values.size else 0.0 for values in sampled(image, cfa)], np.float32)
    return _outliers(image, cfa, sigma, level, hot_sigma, cold_sigma)


def _differences(image: NDArray[np.float32], cfa: NDArray[np.uint8], stride: int) -> list[NDArray[np.float32]]:
    """Return, for each colour, pixels minus the median of those of their colour around them."""
    found = _around(image, cfa, stride)
    return [found[colour][np.isfinite(found[colour])] for colour in range(3)]


@exact
def _around(image: NDArray[np.float32], cfa: NDArray[np.uint8], stride: int) -> NDArray[np.float32]:
    """Return (3, n) differences of every stride-th pixel of every stride-th row, NaN where the colour is another."""
    h, w = image.shape
    p = len(cfa)
    columns = (w + stride - 1) // stride
    out = np.full((3, ((h + stride - 1) // stride) * columns), np.nan, np.float32)
    near = np.empty((2 * _NEAR + 1) ** 2, np.float32)
    for a in range((h + stride - 1) // stride):
        y = a * stride
        # Shifted from row to row, so that the step keeps to no place in the cell.
        for b in range(columns):
            x = (b * stride + a) % w
            colour = cfa[y % p, x % p]
            n = 0
            for j in range(max(0, y - _NEAR), min(h, y + _NEAR + 1)):
                for i in range(max(0, x - _NEAR), min(w, x + _NEAR + 1)):
                    v = image[j, i]
                    if v == v and cfa[j % p, i % p] == colour and (j != y or i != x):
                        near[n] = v
                        n += 1
            if n:
                out[colour, a * columns + b] = image[y, x] - _median(near, n)
    return out


@exact
def _outliers(
    image: NDArray[np.float32],
    cfa: NDArray[np.uint8],
    sigma: NDArray[np.float32],
    level: NDArray[np.float32],
    hot_sigma: float,
    cold_sigma: float,
) -> NDArray[np.int64]:
    """Return the outliers; see `detect_outliers`."""
    h, w = image.shape
    p = len(cfa)
    steps, numbers = _same_colour(cfa)
    out = np.empty(image.size, np.int64)
    count = 0
    for y in range(1, h - 1):
        row, places, many = cfa[y % p], steps[y % p], numbers[y % p]
        place = 0
        for x in range(1, w - 1):
            v = image[y, x]
            place = place + 1 if place + 1 < p else 0
            unit = sigma[row[place]]
            if v != v or not unit > 0:
                continue
            hot_above = v - np.float32(hot_sigma) * unit
            cold_below = v + np.float32(cold_sigma) * unit
            # Two neighbours that are about as high and two about as low, which most pixels find at once: no defect.
            higher = 2 if not hot_sigma > 0 else 0
            lower = 2 if not cold_sigma > 0 else 0
            known = 0
            for t in range(many[place]):
                j, i = y + places[place, t, 0], x + places[place, t, 1]
                if j < 0 or j >= h or i < 0 or i >= w:
                    continue
                u = image[j, i]
                known += u == u
                higher += u >= hot_above
                lower += u <= cold_below
                if higher > 1 and lower > 1:
                    break
            if known < 2 or (higher > 1 and lower > 1):
                continue
            if lower < 2 or _is_sharp(image, cfa, level, y, x):
                out[count] = y * w + x
                count += 1
    return out[:count].copy()


@exact
def _same_colour(cfa: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return steps (p, p, k, 2) as (dy, dx) to the pixels of a place's colour, nearer ones first, and their number."""
    p = len(cfa)
    steps = np.zeros((p, p, (2 * _NEAR + 1) ** 2, 2), np.int64)
    numbers = np.zeros((p, p), np.int64)
    for y in range(p):
        for x in range(p):
            for reach in range(1, _NEAR + 1):
                for j in range(-reach, reach + 1):
                    for i in range(-reach, reach + 1):
                        if max(abs(j), abs(i)) == reach and cfa[(y + j) % p, (x + i) % p] == cfa[y, x]:
                            n = numbers[y, x]
                            steps[y, x, n, 0], steps[y, x, n, 1] = j, i
                            numbers[y, x] = n + 1
    return steps, numbers


@exact
def _is_sharp(image: NDArray[np.float32], cfa: NDArray[np.uint8], level: NDArray[np.float32], y: int, x: int) -> bool:
    """Return whether a pixel has less light beside it than the sharpest star."""
    p = len(cfa)
    first = second = np.float32(-np.inf)
    for j in range(y - 1, y + 2):
        for i in range(x - 1, x + 2):
            if j == y and i == x:
                continue
            u = image[j, i] - level[cfa[j % p, i % p]]
            if u > first:
                first, second = u, first
            elif u > second:
                second = u
    return bool(second < _SHARPEST * (image[y, x] - level[cfa[y % p, x % p]]))


@exact
def _median(values: NDArray[np.float32], n: int) -> np.float32:
    """Return the median of the first `n` values."""
    some = np.sort(values[:n])
    return np.float32(np.float32(0.5) * (some[(n - 1) // 2] + some[n // 2]))
