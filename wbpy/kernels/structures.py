"""Which rejected samples of a frame belong to something large, such as the trail of a satellite.

Pixel rejection sees one column at a time and leaves the faint flanks of a trail. Here the map of a frame's rejected
samples is freed of what is small, and what remains is widened.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wbpy.kernels.jit import exact

Uint8 = NDArray[np.uint8]


def reach(layers: int, growth: int) -> int:
    """Return how far a map acts on the result of `large`, px."""
    return (1 << layers) - 1 + growth


def large(rejected: Uint8, layers: int, growth: int) -> Uint8:
    """Return a frame's large rejected structures, widened.

    Parameters
    ----------
    rejected : (h, w) uint8 ndarray
        1 where the frame's sample was rejected, else 0. Outside of it nothing is rejected.
    layers : int
        Number of median filters of 3, 5, 9, 17 ... px, one after the other, that a structure has to survive; a
        structure narrower than half of the widest does not.
    growth : int
        Radius of the disc by which the survivors are widened, px.

    Returns
    -------
    (h, w) uint8 ndarray
        1 on large structures and around them.

    Raises
    ------
    ValueError
        If a number is negative.
    """
    if layers < 0 or growth < 0:
        raise ValueError(f"layers is {layers}, growth {growth}; expected two numbers not below zero")
    current = rejected
    for layer in range(layers):
        filtered = np.empty_like(rejected)
        _majority(current, 1 << layer, filtered)
        current = filtered
    out = np.zeros_like(rejected)
    _widen(current, growth, out)
    return out


@exact
def _majority(mask: Uint8, half: int, out: Uint8) -> None:
    """Fill `out` with the median of each square of side ``2 half + 1``, zeros beyond the edges."""
    h, w = mask.shape
    columns = np.zeros(w, np.int32)
    least = ((2 * half + 1) * (2 * half + 1)) // 2 + 1
    for y in range(min(half, h)):
        for x in range(w):
            columns[x] += mask[y, x]
    for y in range(h):
        if y + half < h:
            for x in range(w):
                columns[x] += mask[y + half, x]
        if y - half - 1 >= 0:
            for x in range(w):
                columns[x] -= mask[y - half - 1, x]
        total = 0
        for x in range(min(half, w)):
            total += columns[x]
        for x in range(w):
            if x + half < w:
                total += columns[x + half]
            if x - half - 1 >= 0:
                total -= columns[x - half - 1]
            out[y, x] = 1 if total >= least else 0


@exact
def _widen(mask: Uint8, radius: int, out: Uint8) -> None:
    """Set `out` on all discs around the set pixels of `mask`."""
    h, w = mask.shape
    for y in range(h):
        for x in range(w):
            if mask[y, x] == 0:
                continue
            for dy in range(-radius, radius + 1):
                if y + dy < 0 or y + dy >= h:
                    continue
                for dx in range(-radius, radius + 1):
                    if dy * dy + dx * dx <= radius * radius and 0 <= x + dx < w:
                        out[y + dy, x + dx] = 1
