"""Three colour planes from a Bayer mosaic by the smoothest of eight directions.

The algorithm of Chang, Cheung and Pang (1999, Proc. SPIE 3650, 36, "Color filter array recovery using a threshold-based
variable number of gradients"): eight gradients in a window of 5 x 5 pixels; the directions whose gradient is small tell
the differences of the colours.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wbpy.kernels.debayer import bridged, check_bayer, mark_missing, reflected
from wbpy.kernels.jit import exact

HALO = 6
"""2 pixels of the window and 4 of bridging over missing pixels."""

_PAD = 2
_HALF = np.float32(0.5)
_QUARTER = np.float32(0.25)
_DIRECTIONS = np.array([(-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1)], np.int64)
"""As (dy, dx): north, then clockwise."""


@exact
def vng(mosaic: NDArray[np.float32], cfa: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
    """Write the demosaic with a variable number of gradients.

    Parameters
    ----------
    mosaic : (h, w) float32 ndarray, DN
    cfa : (2, 2) uint8 ndarray
    out : (3, h, w) float32 ndarray, DN
        Filled; measured samples unchanged. A NaN pixel is NaN in all colours, and the interpolated colours of its eight
        neighbours are NaN; farther pixels are computed from the mean of the nearest samples in its place.

    Raises
    ------
    ValueError
        If the pattern is not Bayer or the mosaic smaller than one cell.
    """
    h, w = mosaic.shape
    check_bayer(cfa, h, w)
    missing = 0
    for y in range(h):
        line = mosaic[y]
        for x in range(w):
            missing += 0 if line[x] == line[x] else 1
    source = bridged(mosaic) if missing else mosaic
    window = np.empty((5, w + 2 * _PAD), np.float32)
    gradient = np.empty(8, np.float32)
    total = np.empty(3, np.float32)
    for y in range(h):
        for k in range(5):
            row, line = source[reflected(y + k - _PAD, h)], window[k]
            line[_PAD : _PAD + w] = row
            for i in range(_PAD):
                line[i] = row[reflected(i - _PAD, w)]
                line[_PAD + w + i] = row[reflected(w + i, w)]
        for x in range(w):
            colour = cfa[y & 1, x & 1]
            own_in_row = cfa[y & 1, (x + 1) & 1]
            _gradients(window, x + _PAD, colour == 1, gradient)
            least, most = gradient.min(), gradient.max()
            limit = np.float32(1.5) * least + _HALF * (most - least)
            total[:] = np.float32(0.0)
            count = np.float32(0.0)
            for k in range(8):
                if gradient[k] <= limit:
                    _add_colours(window, x + _PAD, _DIRECTIONS[k, 0], _DIRECTIONS[k, 1], colour, own_in_row, total)
                    count += np.float32(1.0)
            v = window[_PAD, x + _PAD]
            for c in range(3):
                out[c, y, x] = v if c == colour else v + (total[c] - total[colour]) / count
    if missing:
        mark_missing(mosaic, cfa, out)


@exact
def _gradients(window: NDArray[np.float32], x: int, is_green: bool, gradient: NDArray[np.float32]) -> None:
    """Fill the gradients in the order of `_DIRECTIONS` around column `x` of the five rows."""
    for k in range(0, 8, 2):
        dy, dx = _DIRECTIONS[k]
        # One step to the side.
        sy, sx = dx, dy
        g = _step(window, x, dy, dx, -dy, -dx) + _step(window, x, 2 * dy, 2 * dx, 0, 0)
        for side in (-1, 1):
            ay, ax = side * sy, side * sx
            g += _HALF * _step(window, x, dy + ay, dx + ax, ay - dy, ax - dx)
            g += _HALF * _step(window, x, 2 * dy + ay, 2 * dx + ax, ay, ax)
        gradient[k] = g
    for k in range(1, 8, 2):
        dy, dx = _DIRECTIONS[k]
        g = _step(window, x, dy, dx, -dy, -dx) + _step(window, x, 2 * dy, 2 * dx, 0, 0)
        if is_green:
            g += _step(window, x, 2 * dy, dx, 0, -dx) + _step(window, x, dy, 2 * dx, -dy, 0)
        else:
            g += _HALF * (_step(window, x, dy, 0, 0, -dx) + _step(window, x, 0, dx, -dy, 0))
            g += _HALF * (_step(window, x, 2 * dy, dx, dy, 0) + _step(window, x, dy, 2 * dx, 0, dx))
        gradient[k] = g


@exact
def _step(window: NDArray[np.float32], x: int, ay: int, ax: int, by: int, bx: int) -> np.float32:
    """Return the absolute difference of two pixels."""
    return np.float32(abs(window[_PAD + ay, x + ax] - window[_PAD + by, x + bx]))


@exact
def _add_colours(
    window: NDArray[np.float32], x: int, dy: int, dx: int, colour: int, in_row: int, total: NDArray[np.float32]
) -> None:
    """Add the three colours at the neighbour in one direction; `in_row` is the colour beside the pixel in its row."""
    here, far = window[_PAD, x], window[_PAD + 2 * dy, x + 2 * dx]
    near = window[_PAD + dy, x + dx]
    if colour != 1:
        if dy == 0 or dx == 0:
            total[1] += near
            total[2 - colour] += _HALF * (window[_PAD + dy + dx, x + dx + dy] + window[_PAD + dy - dx, x + dx - dy])
        else:
            beside = window[_PAD + dy, x] + window[_PAD, x + dx]
            beyond = window[_PAD + 2 * dy, x + dx] + window[_PAD + dy, x + 2 * dx]
            total[1] += _QUARTER * (beside + beyond)
            total[2 - colour] += near
        total[colour] += _HALF * (here + far)
    elif dy == 0 or dx == 0:
        # The colour that lies in this direction, and the other one around the neighbour.
        ahead = in_row if dy == 0 else 2 - in_row
        total[ahead] += near
        around = window[_PAD + dx, x + dy] + window[_PAD - dx, x - dy]
        around += window[_PAD + 2 * dy + dx, x + 2 * dx + dy] + window[_PAD + 2 * dy - dx, x + 2 * dx - dy]
        total[2 - ahead] += _QUARTER * around
        total[1] += _HALF * (here + far)
    else:
        total[1] += near
        total[in_row] += _HALF * (window[_PAD, x + dx] + window[_PAD + 2 * dy, x + dx])
        total[2 - in_row] += _HALF * (window[_PAD + dy, x] + window[_PAD + dy, x + 2 * dx])
