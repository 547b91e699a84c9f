"""Three colour planes from a Bayer mosaic, sharp without knowing the colour of a star beforehand.

Averaging the nearest samples of a colour keeps every star's flux and never mixes colours, but it broadens stars. What
it takes away has the same shape in all colours; only the strength differs from star to star. So each missing sample is
the average of its own colour's neighbours plus what averaging would have taken from the other colour at that place,
times the ratio in which both colours vary around it. The ratio is a local regression, as in the guided filter of He,
Sun and Tang (2013, IEEE TPAMI 35, 1397) and the residual interpolation of Kiku et al. (2013, ICIP), and it counts only
as far as both colours vary together: where there is nothing but noise the plain average stands, and no noise travels
from one colour to the other. Decision 0706 has the measurements.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wbpy.kernels.debayer import bridged, check_bayer, count_missing, mark_missing, reflect_row, reflected
from wbpy.kernels.jit import exact, fast

HALO = 16
"""11 pixels of filters, 4 of bridging over missing pixels, and one to make it even."""

_PAD = 12
_BAND = 128
"""Rows that are worked on at a time, even: all intermediates of a wide frame stay in the cache."""
_LOOSE = np.float32(0.2)
"""Squared correlation up to which two colours count as unrelated. Pure noise reaches it at one pixel in a hundred."""
_TIGHT = np.float32(0.7)
"""Squared correlation from which the ratio counts in full."""
_SHARPEN = np.float32(0.375)
"""Share of a colour's Laplacian over four pixels that averaging four neighbours takes away: 1/4 for wide stars, 1/2 for
point sources. With 3/8 the width of stars comes out within 1 % from 2.6 px on, and 5 % too wide at 2 px."""
_HALF = np.float32(0.5)
_QUARTER = np.float32(0.25)
_ONE = np.float32(1.0)
_ZERO = np.float32(0.0)


@exact
def guided(mosaic: NDArray[np.float32], cfa: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
    """Write averages of each colour, sharpened by the local ratio of the colours.

    Parameters
    ----------
    mosaic : (h, w) float32 ndarray, DN
    cfa : (2, 2) uint8 ndarray
        Colour (0 R, 1 G, 2 B) at ``[y % 2, x % 2]``.
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
    for y0 in range(0, h, _BAND):
        _band(source, cfa, y0, min(h, y0 + _BAND), out)
    if missing:
        mark_missing(mosaic, cfa, out)


@exact
def _band(mosaic: NDArray[np.float32], cfa: NDArray[np.uint8], y0: int, y1: int, out: NDArray[np.float32]) -> None:
    """Fill rows y0 <= y < y1 of `out`; `y0` is even and the mosaic has no NaN."""
    w = mosaic.shape[1]
    padded = _padded(mosaic, y0, y1)
    rows, columns = padded.shape[0] // 2, padded.shape[1] // 2
    shape = (rows, columns)
    # [0] of red, [1] of blue.
    own = np.empty((2, *shape), np.float32)
    estimate = np.empty((2, *shape), np.float32)
    ratio = np.empty((2, *shape), np.float32)
    for k in range(2):
        row, column = _place(cfa, 2 * k)
        for j in range(rows):
            own[k, j] = padded[2 * j + row, column::2]
        _green_and_ratio(padded, row, column, own[k], estimate[k], ratio[k])
    for k in range(2):
        row, column = _place(cfa, 2 * k)
        for y in range(y0, y1):
            j = y - y0 + _PAD
            if (y & 1) == row:
                for x in range(column, w, 2):
                    out[1, y, x] = estimate[k, j >> 1, (x + _PAD) >> 1]
                for x in range(1 - column, w, 2):
                    out[1, y, x] = mosaic[y, x]
    for k in range(2):
        row, column = _place(cfa, 2 * k)
        spread = np.empty((3, columns), np.float32)
        for y in range(y0, y1):
            # Half-rows above and below; the same one twice on the rows that have the colour.
            a = (y - y0 + _PAD - row) >> 1
            b = (y - y0 + _PAD - row + 1) >> 1
            _mean(own[k, a], own[k, b], spread[0])
            _mean(ratio[k, a], ratio[k, b], spread[1])
            _mean(estimate[k, a], estimate[k, b], spread[2])
            _write_colour(spread, column, out[1, y], out[2 * k, y])
            if a == b:
                for x in range(column, w, 2):
                    out[2 * k, y, x] = mosaic[y, x]


@exact
def _place(cfa: NDArray[np.uint8], colour: int) -> tuple[int, int]:
    """Return row and column of a colour, red or blue, in the cell."""
    for row in range(2):
        for column in range(2):
            if cfa[row, column] == colour:
                return row, column
    return 0, 0


@exact
def _padded(mosaic: NDArray[np.float32], y0: int, y1: int) -> NDArray[np.float32]:
    """Return rows `y0` to `y1` with at least `_PAD` pixels more on every side, reflected about the edge pixels."""
    h, w = mosaic.shape
    rows, columns = y1 - y0 + 2 * _PAD, w + 2 * _PAD
    out = np.empty((rows + (rows & 1), columns + (columns & 1)), np.float32)
    for j in range(out.shape[0]):
        reflect_row(mosaic[reflected(y0 + j - _PAD, h)], _PAD, out[j])
    return out


@fast
def _green_and_ratio(
    padded: NDArray[np.float32],
    row: int,
    column: int,
    own: NDArray[np.float32],
    estimate: NDArray[np.float32],
    ratio: NDArray[np.float32],
) -> None:
    """Fill green and the ratio of a colour's variation to that of green at the sites of this colour.

    Elements within four of an edge of the arrays are not those of a whole frame; nothing inside the frame uses them.
    """
    rows, columns = own.shape
    cross = np.zeros_like(own)
    last = padded.shape[1] - 1
    for j in range(rows):
        y = 2 * j + row
        above, here, below = padded[max(y - 1, 0)], padded[y], padded[min(y + 1, padded.shape[0] - 1)]
        for i in range(columns):
            x = 2 * i + column
            beside = here[max(x - 1, 0)] + here[min(x + 1, last)]
            cross[j, i] = _QUARTER * ((above[x] + below[x]) + beside)
    # Averaged as much as the four neighbours of green are, so that both vary in the ratio of the colours.
    blurred = np.zeros_like(own)
    scratch = np.zeros_like(own)
    for j in range(1, rows - 1):
        for i in range(columns):
            scratch[j, i] = np.float32(0.1) * (own[j - 1, i] + own[j + 1, i]) + np.float32(0.8) * own[j, i]
    for j in range(rows):
        for i in range(columns - 2):
            blurred[j, i + 1] = (
                np.float32(0.1) * (scratch[j, i] + scratch[j, i + 2]) + np.float32(0.8) * scratch[j, i + 1]
            )
    flat = np.float32(0.2)
    _smooth(blurred, flat, flat, flat, scratch, ratio)
    for j in range(rows):
        for i in range(columns):
            blurred[j, i] -= ratio[j, i]
    _smooth(cross, flat, flat, flat, scratch, ratio)
    varying = np.empty_like(own)
    for j in range(rows):
        for i in range(columns):
            varying[j, i] = cross[j, i] - ratio[j, i]
    product = np.empty_like(own)
    both = np.zeros_like(own)
    of_green = np.zeros_like(own)
    of_own = np.zeros_like(own)
    for j in range(rows):
        for i in range(columns):
            product[j, i] = blurred[j, i] * varying[j, i]
    _bell(product, scratch, both)
    for j in range(rows):
        for i in range(columns):
            product[j, i] = varying[j, i] * varying[j, i]
    _bell(product, scratch, of_green)
    for j in range(rows):
        for i in range(columns):
            product[j, i] = blurred[j, i] * blurred[j, i]
    _bell(product, scratch, of_own)
    for j in range(rows):
        up, here, down = own[max(j - 1, 0)], own[j], own[min(j + 1, rows - 1)]
        for i in range(1, columns - 1):
            c, g, s = both[j, i], of_green[j, i], of_own[j, i]
            power = g * s
            related = c * c / power if power > _ZERO else _ZERO
            related = (related - _LOOSE) / (_TIGHT - _LOOSE)
            related = related if related > _ZERO else _ZERO
            related = related if related < _ONE else _ONE
            # Colours that vary against each other are no star.
            related = related * related * (np.float32(3.0) - _TWICE * related) if c > _ZERO else _ZERO
            laplacian = here[i] - _QUARTER * ((up[i] + down[i]) + (here[i - 1] + here[i + 1]))
            green_per_own = related * c / s if s > _ZERO else _ZERO
            estimate[j, i] = cross[j, i] + _SHARPEN * green_per_own * laplacian
            ratio[j, i] = related * c / g if g > _ZERO else _ZERO
        estimate[j, 0], estimate[j, columns - 1] = cross[j, 0], cross[j, columns - 1]
        ratio[j, 0] = ratio[j, columns - 1] = _ZERO


_TWICE = np.float32(2.0)


@fast
def _smooth(
    image: NDArray[np.float32],
    far: np.float32,
    near: np.float32,
    centre: np.float32,
    scratch: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Fill `out` with the separable symmetric filter of five taps; two elements along the edges are left as 0."""
    rows, columns = image.shape
    for j in range(2):
        scratch[j] = _ZERO
        scratch[rows - 1 - j] = _ZERO
    for j in range(2, rows - 2):
        a, b, c, d, e = image[j - 2], image[j - 1], image[j], image[j + 1], image[j + 2]
        line = scratch[j]
        for i in range(columns):
            line[i] = far * (a[i] + e[i]) + near * (b[i] + d[i]) + centre * c[i]
    for j in range(rows):
        source, line = scratch[j], out[j]
        line[0] = line[1] = line[columns - 1] = line[columns - 2] = _ZERO
        for i in range(columns - 4):
            line[i + 2] = far * (source[i] + source[i + 4]) + near * (source[i + 1] + source[i + 3])
        for i in range(columns - 4):
            line[i + 2] += centre * source[i + 2]


@fast
def _bell(image: NDArray[np.float32], scratch: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Fill `out` with the binomial mean over 5 x 5 sites."""
    _smooth(image, np.float32(1 / 16), np.float32(4 / 16), np.float32(6 / 16), scratch, out)


@fast
def _mean(a: NDArray[np.float32], b: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Write the mean of two half-rows."""
    for i in range(out.size):
        out[i] = _HALF * (a[i] + b[i])


@fast
def _write_colour(
    spread: NDArray[np.float32], column: int, green: NDArray[np.float32], out: NDArray[np.float32]
) -> None:
    """Write a row of a colour from its half-row, its ratio to green and green at its sites."""
    shift = _PAD // 2
    own, ratio, guide = spread[0, shift:], spread[1, shift:], spread[2, shift:]
    w = out.size
    for i in range((w - column + 1) // 2):
        x = 2 * i + column
        out[x] = own[i] + ratio[i] * (green[x] - guide[i])
    # Between the sites; with the first site at column 1 the element before it counts for column 0.
    own, ratio, guide = spread[0, shift - column :], spread[1, shift - column :], spread[2, shift - column :]
    for i in range((w + column) // 2):
        x = 2 * i + 1 - column
        average, slope = _HALF * (own[i] + own[i + 1]), _HALF * (ratio[i] + ratio[i + 1])
        out[x] = average + slope * (green[x] - _HALF * (guide[i] + guide[i + 1]))
