"""What changing seeing may do to the samples of a star, so that rejection does not take it for outliers.

On a night of changing seeing the core of a star is brighter in the sharp frames and its wings are brighter in the
blurred ones, by far more than noise. A blur that widens a profile of variance ``s^2`` by ``d`` changes it by about
``d / 2`` times its Laplacian (the heat equation), exactly so for the peak of a Gaussian when ``d`` is taken over
``s^2`` of the new width. So the Laplacian of the combined picture, which is nought on sky, gradients and nebulae, tells
where samples differ and by how much.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wbpy.kernels.jit import exact

Float32 = NDArray[np.float32]

SIGMA_PER_FWHM = 1 / 2.3548
SIGNIFICANT = 10.0
"""A Laplacian below this many times the noise of a single frame is taken for noise; the bounds stay there. The middle
between the extremes of five normal samples has half of their deviation, its Laplacian 2.2 of them."""
STEADY = 0.02
"""px^2: less than this the widths do not change a star by its noise."""
REACH = 2
"""A Laplacian counts so many pixels around: it passes nought where the core of a star turns into its wings."""
HALO = REACH + 1
"""Pixels around a pixel on which its bounds depend."""


def change(fwhm: ArrayLike) -> float:
    """Return how much the width of stars changes between frames: px^2 to multiply the Laplacian with.

    ``max((m / a)(m - a), b - m) / 2`` for the smallest, the median and the largest variance a, m, b of the profiles:
    what the peak of a Gaussian gains from m to a, and what its wings gain from m to b.

    Parameters
    ----------
    fwhm : (N,) array_like, px
        NaN where it is not known.

    Returns
    -------
    float
        0 with fewer than two known widths, and where they are steady.

    Examples
    --------
    >>> round(change([3.0, 3.0, 2.4]), 2)
    0.46
    """
    known = np.asarray(fwhm, np.float64)
    variance = (known[np.isfinite(known)] * SIGMA_PER_FWHM) ** 2
    if variance.size < 2:
        return 0.0
    least, middle, most = float(variance.min()), float(np.median(variance)), float(variance.max())
    found = 0.5 * max(middle / least * (middle - least), most - middle)
    return found if found > STEADY else 0.0


def widen_bounds(lo: Float32, hi: Float32, tolerance: float, noise: float) -> None:
    """Widen the bounds of a rejection at stars, in place.

    Parameters
    ----------
    lo, hi : (h, w) float32 ndarray, DN
        Smallest and largest accepted value of each pixel, from `wbpy.kernels.rejection.bounds`. Both move outwards by
        `tolerance` times the largest Laplacian, without its sign, of ``(lo + hi) / 2`` in the 5 x 5 pixels around;
        pixels on the edge have none. Where that is below `SIGNIFICANT` times the noise they stay.
    tolerance : float, px^2
        From `change`, times a factor of safety.
    noise : float, DN
        Of a single frame.
    """
    reached = np.zeros_like(lo)
    _spread_laplacian(lo, hi, SIGNIFICANT * noise, reached)
    _widen(reached, float(tolerance), lo, hi)


@exact
def _spread_laplacian(lo: Float32, hi: Float32, floor: float, out: Float32) -> None:
    """Fill the largest Laplacian above `floor`, without its sign, within `REACH` pixels; 0 where there is none."""
    h, w = lo.shape
    half = np.float32(0.5)
    for y in range(1, h - 1):
        for x in range(1, w - 1):
            around = (
                (lo[y - 1, x] + hi[y - 1, x])
                + (lo[y + 1, x] + hi[y + 1, x])
                + (lo[y, x - 1] + hi[y, x - 1])
                + (lo[y, x + 1] + hi[y, x + 1])
            )
            value = abs(half * (around - np.float32(4) * (lo[y, x] + hi[y, x])))
            # Bounds of a column without samples are infinite.
            if value > floor and value - value == np.float32(0):
                for j in range(max(y - REACH, 0), min(y + REACH + 1, h)):
                    for i in range(max(x - REACH, 0), min(x + REACH + 1, w)):
                        out[j, i] = max(out[j, i], value)


@exact
def _widen(reached: Float32, tolerance: float, lo: Float32, hi: Float32) -> None:
    """Move the bounds outwards by `tolerance` times what reaches them."""
    h, w = lo.shape
    for y in range(h):
        for x in range(w):
            if reached[y, x] > np.float32(0):
                lo[y, x] -= tolerance * reached[y, x]
                hi[y, x] += tolerance * reached[y, x]
