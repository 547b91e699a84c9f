"""Positions of stars in each colour of a CFA frame: how far red and blue lie beside green.

Positions ``(x, y)`` are 0-based, pixel centres on integers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wbpy.kernels.jit import exact

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Uint8 = NDArray[np.uint8]

_STEPS = 12
_FEWEST_PIXELS = 8
_PARAMETERS = 4


def colour_positions(stamp: Float32, x0: int, y0: int, cfa: Uint8, x: float, y: float, sigma: float) -> Float64:
    """Return where one star lies in each colour of the raw pixels around it.

    A round Gaussian of known width on a level background is fitted to the pixels of one colour at a time (Gauss-Newton,
    four parameters). Its width need not be exact: the fits of all colours err alike, and their differences are what is
    asked for.

    Parameters
    ----------
    stamp : (h, w) float32 ndarray, DN
        Raw pixels around the star; NaN is missing.
    x0, y0 : int
        Frame coordinates of ``stamp[0, 0]``.
    cfa : (p, p) uint8 ndarray
        Colours of the frame, 0 R, 1 G, 2 B.
    x, y : float
        About where the star is, frame px.
    sigma : float
        Width of the Gaussian, px.

    Returns
    -------
    (3, 3) float64 ndarray
        For R, G, B: x, y in frame px and the standard error of each of both in px; NaN where a fit does not converge
        within 1.5 sigma of the start or has no star in it.
    """
    found = np.full((3, 3), np.nan)
    for colour in range(3):
        _fit(np.ascontiguousarray(stamp, np.float32), x0, y0, cfa, colour, x, y, sigma, found[colour])
    return found


@exact
def _fit(
    stamp: Float32, x0: int, y0: int, cfa: Uint8, colour: int, x: float, y: float, sigma: float, found: Float64
) -> None:
    """Fill `found` with x, y and the error of the star in one colour; see `colour_positions`."""
    h, w = stamp.shape
    py, px = cfa.shape
    count = 0
    lowest, highest = np.inf, -np.inf
    for j in range(h):
        for i in range(w):
            if cfa[(y0 + j) % py, (x0 + i) % px] == colour and np.isfinite(stamp[j, i]):
                count += 1
                lowest, highest = min(lowest, float(stamp[j, i])), max(highest, float(stamp[j, i]))
    if count < _FEWEST_PIXELS or not highest > lowest:
        return
    amplitude, level, cx, cy = highest - lowest, lowest, x, y
    normal = np.zeros((_PARAMETERS, _PARAMETERS))
    right = np.zeros(_PARAMETERS)
    g = np.zeros(_PARAMETERS)
    square = 0.0
    for _ in range(_STEPS):
        normal[:] = 0.0
        right[:] = 0.0
        square = 0.0
        for j in range(h):
            for i in range(w):
                value = float(stamp[j, i])
                if cfa[(y0 + j) % py, (x0 + i) % px] != colour or not np.isfinite(value):
                    continue
                dx, dy = x0 + i - cx, y0 + j - cy
                profile = np.exp(-(dx * dx + dy * dy) / (2.0 * sigma * sigma))
                g[0], g[1] = profile, 1.0
                g[2] = amplitude * profile * dx / (sigma * sigma)
                g[3] = amplitude * profile * dy / (sigma * sigma)
                left = value - level - amplitude * profile
                square += left * left
                for a in range(_PARAMETERS):
                    right[a] += g[a] * left
                    for b in range(_PARAMETERS):
                        normal[a, b] += g[a] * g[b]
        # A flat profile leaves the position open: its rows are zero.
        if normal[2, 2] <= 0.0 or normal[3, 3] <= 0.0 or abs(np.linalg.det(normal)) <= 0.0:
            return
        change = np.linalg.solve(normal, right)
        amplitude += change[0]
        level += change[1]
        limit = 0.5 * sigma
        cx += min(max(change[2], -limit), limit)
        cy += min(max(change[3], -limit), limit)
        if not (amplitude > 0.0 and abs(cx - x) < 1.5 * sigma and abs(cy - y) < 1.5 * sigma):
            return
        if abs(change[2]) < 1e-4 and abs(change[3]) < 1e-4:
            variance = square / max(count - _PARAMETERS, 1)
            covariance = np.linalg.inv(normal)
            error = np.sqrt(0.5 * variance * (covariance[2, 2] + covariance[3, 3]))
            if error < 0.5 * sigma:
                found[0], found[1], found[2] = cx, cy, error
            return
