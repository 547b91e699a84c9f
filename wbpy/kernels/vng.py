"""Three colour planes from a Bayer mosaic by the smoothest of eight directions.

The algorithm of Chang, Cheung and Pang (1999, Proc. SPIE 3650, 36, "Color filter array recovery using a threshold-based
variable number of gradients"): eight gradients in a window of 5 x 5 pixels; the directions whose gradient is small tell
the differences of the colours.

A row is made by passes over all of its pixels, of which each reads few rows: so LLVM turns them into vector code.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wbpy.kernels.debayer import bridged, check_bayer, count_missing, mark_missing, reflect_row, reflected
from wbpy.kernels.jit import exact

HALO = 6
"""2 pixels of the window and 4 of bridging over missing pixels."""

_PAD = 2
_ZERO = np.float32(0.0)
_HALF = np.float32(0.5)
_QUARTER = np.float32(0.25)
_ONE = np.float32(1.0)
_DIRECTIONS = np.array([(-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1)], np.int64)
"""As (dy, dx): north, then clockwise."""

Row = NDArray[np.float32]


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
    missing = count_missing(mosaic)
    source = bridged(mosaic) if missing else mosaic
    window = np.empty((5, w + 2 * _PAD), np.float32)
    gradient = np.empty((8, w), np.float32)
    least, most = np.empty(w, np.float32), np.empty(w, np.float32)
    first, second, count = np.empty(w, np.float32), np.empty(w, np.float32), np.empty(w, np.float32)
    parts = np.empty((3, w), np.float32)
    for y in range(h):
        for k in range(5):
            reflect_row(source[reflected(y + k - _PAD, h)], _PAD, window[k])
        # Red or blue stand at columns of this parity.
        site = 1 if cfa[y & 1, 0] == 1 else 0
        for k in range(8):
            dy, dx = _DIRECTIONS[k]
            if k % 2 == 0:
                _straight(window, dy, dx, gradient[k])
            else:
                _diagonal(window, dy, dx, site, parts, gradient[k])
            if k == 0:
                least[:] = gradient[k]
                most[:] = gradient[k]
            else:
                _widen(gradient[k], least, most)
        _to_limit(least, most)
        first[:] = _ZERO
        second[:] = _ZERO
        count[:] = _ZERO
        for k in range(8):
            dy, dx = _DIRECTIONS[k]
            _colours(window, dy, dx, site, parts)
            _collect(gradient[k], most, parts[0], parts[1], first, second, count)
        own = cfa[y & 1, site]
        _write(_at(window, 0, 0, w), first, second, count, site, out[own, y], out[1, y], out[2 - own, y])
    if missing:
        mark_missing(mosaic, cfa, out)


@exact
def _at(window: NDArray[np.float32], dy: int, dx: int, w: int) -> Row:
    """Return the row of the neighbours of all pixels in one direction."""
    return window[_PAD + dy, _PAD + dx : _PAD + dx + w]


@exact
def _steps(factor: np.float32, a: Row, b: Row, c: Row, d: Row, out: Row) -> None:
    """Add ``factor (|a - b| + |c - d|)``."""
    for i in range(out.size):
        out[i] += factor * (abs(a[i] - b[i]) + abs(c[i] - d[i]))


@exact
def _straight(window: NDArray[np.float32], dy: int, dx: int, out: Row) -> None:
    """Fill the gradients towards north, east, south or west, which are the same for all colours."""
    w = out.size
    out[:] = _ZERO
    near, back = _at(window, dy, dx, w), _at(window, -dy, -dx, w)
    _steps(_ONE, near, back, _at(window, 2 * dy, 2 * dx, w), _at(window, 0, 0, w), out)
    for side in (-1, 1):
        # One step to the side.
        y, x = side * dx, side * dy
        near, back = _at(window, dy + y, dx + x, w), _at(window, y - dy, x - dx, w)
        _steps(_HALF, near, back, _at(window, 2 * dy + y, 2 * dx + x, w), _at(window, y, x, w), out)


@exact
def _diagonal(window: NDArray[np.float32], dy: int, dx: int, site: int, parts: NDArray[np.float32], out: Row) -> None:
    """Fill the gradients towards a corner: other differences count at green pixels than at red and blue ones."""
    w = out.size
    out[:] = _ZERO
    near, back = _at(window, dy, dx, w), _at(window, -dy, -dx, w)
    _steps(_ONE, near, back, _at(window, 2 * dy, 2 * dx, w), _at(window, 0, 0, w), out)
    at_green, at_site = parts[0], parts[1]
    at_green[:] = _ZERO
    at_site[:] = _ZERO
    beyond_y, beyond_x = _at(window, 2 * dy, dx, w), _at(window, dy, 2 * dx, w)
    _steps(_ONE, beyond_y, _at(window, 0, -dx, w), beyond_x, _at(window, -dy, 0, w), at_green)
    beside_y, beside_x = _at(window, dy, 0, w), _at(window, 0, dx, w)
    _steps(_HALF, beside_y, _at(window, 0, -dx, w), beside_x, _at(window, -dy, 0, w), at_site)
    _steps(_HALF, beyond_y, beside_y, beyond_x, beside_x, at_site)
    for i in range(w):
        out[i] += at_site[i] if (i & 1) == site else at_green[i]


@exact
def _widen(values: Row, least: Row, most: Row) -> None:
    """Lower `least` and raise `most` to the values."""
    for i in range(values.size):
        least[i] = min(least[i], values[i])
        most[i] = max(most[i], values[i])


@exact
def _to_limit(least: Row, most: Row) -> None:
    """Turn `most` into the largest gradient that counts."""
    for i in range(least.size):
        most[i] = np.float32(1.5) * least[i] + _HALF * (most[i] - least[i])


@exact
def _colours(window: NDArray[np.float32], dy: int, dx: int, site: int, parts: NDArray[np.float32]) -> None:
    """Fill `parts` with two colours minus the pixel's own, as the neighbour in one direction tells them.

    At red and blue pixels [0] is green and [1] the opposite colour; at green ones [0] is the colour that stands beside
    the pixel in its row, [1] that above and below.
    """
    w = parts.shape[1]
    near, far, here = _at(window, dy, dx, w), _at(window, 2 * dy, 2 * dx, w), _at(window, 0, 0, w)
    a, b, c = parts[0], parts[1], parts[2]
    if dy == 0 or dx == 0:
        _quarter(_at(window, dx, dy, w), _at(window, -dx, -dy, w),
                 _at(window, 2 * dy + dx, 2 * dx + dy, w), _at(window, 2 * dy - dx, 2 * dx - dy, w), c)  # fmt: skip
        one, other = _at(window, dy + dx, dx + dy, w), _at(window, dy - dx, dx - dy, w)
        for i in range(w):
            middle = _HALF * (here[i] + far[i])
            ahead = near[i] - middle
            around = (_HALF * (one[i] + other[i]) if (i & 1) == site else c[i]) - middle
            swapped = dx == 0 and (i & 1) != site
            a[i] = around if swapped else ahead
            b[i] = ahead if swapped else around
    else:
        beside_y, beside_x = _at(window, dy, 0, w), _at(window, 0, dx, w)
        beyond_y, beyond_x = _at(window, 2 * dy, dx, w), _at(window, dy, 2 * dx, w)
        for i in range(w):
            in_row, in_column = _HALF * (beside_x[i] + beyond_y[i]), _HALF * (beside_y[i] + beyond_x[i])
            middle = _HALF * (here[i] + far[i])
            at_site = (i & 1) == site
            a[i] = _HALF * (in_row + in_column) - middle if at_site else in_row - near[i]
            b[i] = near[i] - middle if at_site else in_column - near[i]


@exact
def _quarter(a: Row, b: Row, c: Row, d: Row, out: Row) -> None:
    """Write the mean of four."""
    for i in range(out.size):
        out[i] = _QUARTER * ((a[i] + b[i]) + (c[i] + d[i]))


@exact
def _collect(gradient: Row, limit: Row, a: Row, b: Row, first: Row, second: Row, count: Row) -> None:
    """Add the colours of one direction where its gradient is small."""
    for i in range(gradient.size):
        counts = _ONE if gradient[i] <= limit[i] else _ZERO
        first[i] += counts * a[i]
        second[i] += counts * b[i]
        count[i] += counts


@exact
def _write(here: Row, first: Row, second: Row, count: Row, site: int, own: Row, green: Row, other: Row) -> None:
    """Write a row of the three planes; `own` is the colour that stands in it beside green."""
    for i in range(here.size):
        a, b = here[i] + first[i] / count[i], here[i] + second[i] / count[i]
        at_site = (i & 1) == site
        own[i] = here[i] if at_site else a
        green[i] = a if at_site else here[i]
        other[i] = b
