"""Three colour planes from a mosaic of any period; written for the 6 x 6 cell of X-Trans sensors.

In such a cell the distance and the direction of the nearest red, green and blue samples change from pixel to pixel. A
missing sample is therefore interpolated by a plane that is fitted to the samples of its colour nearby, the nearer ones
weighing more (moving least squares: Lancaster and Salkauskas 1981, Math. Comp. 37, 141). The weights of this fit depend
on the place in the cell only. Beyond that, `guided` works as :mod:`wbpy.kernels.guided` does for Bayer mosaics.

Functions take a window of the mosaic (h, w) float32 and the pattern `cfa` (p, p) uint8 of that window: 0 R, 1 G, 2 B at
``[y % p, x % p]``. Beyond an edge the mosaic is continued by the pixels one period further in, which have the same
colours. A pixel at least ``HALO`` pixels inside the window gets the bits that the whole frame would give it.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from wbpy.kernels.debayer import count_missing, mark_missing
from wbpy.kernels.jit import exact, fast

HALO = 18
"""3 pixels of the last fit, 8 of the regression, 3 of green and 4 of bridging over missing pixels."""

_CELLS = 3
"""Cells that a band is padded with, of which the outermost is never right."""
_BAND = 16
"""Cells that are worked on at a time."""
_REACH = 3
"""Of a fit, px. A window of 7 x 7 pixels of an X-Trans mosaic has at least nine red and nine blue samples."""
_WIDTH = (1.0, 0.7, 1.0, 1.3)
"""Standard deviation of the Gaussian that weighs the samples of each colour, px; last of the fit to the others."""
_OTHERS, _AROUND, _BELL = 3, 4, 5
"""Sums at red and blue pixels over their own colour: a fit without the pixel itself, the mean over 9 x 9 pixels, and
the sum with binomial weights over as many."""
_SHARPEN = np.float32(0.45)
"""Share of the difference of a sample to its own colour around it that the fit of green at its place takes away."""
_SOFTEN = np.float32(0.3)
"""Share of the same difference that is taken from a sample before it is compared with green."""
_LOOSE = np.float32(0.2)
_TIGHT = np.float32(0.7)
_ZERO = np.float32(0.0)
_ONE = np.float32(1.0)
_TWO = np.float32(2.0)
_THREE = np.float32(3.0)

Planes = NDArray[np.float32]
"""(p p, rows, columns): the pixels of a band, those of each place in the cell together, so that the same sum is formed
along contiguous memory."""


def bilinear(mosaic: NDArray[np.float32], cfa: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
    """Write planes fitted to the samples of each colour nearby.

    Parameters
    ----------
    mosaic : (h, w) float32 ndarray, DN
    cfa : (p, p) uint8 ndarray
    out : (3, h, w) float32 ndarray, DN
        Filled; measured samples unchanged. A NaN pixel is NaN in all colours, and the interpolated colours of its eight
        neighbours are NaN; farther pixels are computed from the mean of the nearest samples in its place.

    Raises
    ------
    ValueError
        If the mosaic is smaller than one cell or a colour is too rare for a fit.
    """
    _interpolate(mosaic, cfa, out, False)


def guided(mosaic: NDArray[np.float32], cfa: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
    """Write planes fitted to the samples of each colour, sharpened by the local ratio of the colours to green.

    Parameters and exceptions are those of `bilinear`.
    """
    _interpolate(mosaic, cfa, out, True)


def green(mosaic: NDArray[np.float32], cfa: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
    """Write the green plane (h, w) of `guided`, for the measurement of stars; see `bilinear`."""
    _interpolate(mosaic, cfa, out.reshape(1, *out.shape), True)


def _interpolate(mosaic: NDArray[np.float32], cfa: NDArray[np.uint8], out: NDArray[np.float32], sharpen: bool) -> None:
    """Fill `out`, three planes or the green one."""
    if min(mosaic.shape) < cfa.shape[0]:
        raise ValueError(f"a mosaic needs at least {cfa.shape[0]} x {cfa.shape[0]} pixels")
    places, weights, counts = _sums(cfa.tobytes(), cfa.shape[0])
    _fill(mosaic, cfa, places, weights, counts, sharpen, out)


@lru_cache(maxsize=16)
def _sums(pattern: bytes, period: int) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Return places (6, p p, k, 3), weights (6, p p, k) and how many of them count (6, p p).

    The first index is the colour that is fitted, where a measured sample has one weight of 1, or one of `_OTHERS`,
    `_AROUND` and `_BELL`; the second is the place in the cell, row by row. A place is that in the cell and the steps to
    its cell down and to the right.
    """
    cfa = np.frombuffer(pattern, np.uint8).reshape(period, period)
    steps = np.arange(-4, 5)
    dy, dx = (grid.ravel() for grid in np.meshgrid(steps, steps, indexing="ij"))
    binomial = np.array([1, 8, 28, 56, 70, 56, 28, 8, 1]) / 256
    bell = np.outer(binomial, binomial).ravel()
    places = np.zeros((6, period * period, dy.size, 3), np.int64)
    weights = np.zeros((6, period * period, dy.size), np.float32)
    counts = np.zeros((6, period * period), np.int64)
    for kind in range(6):
        for at in range(period * period):
            y, x = divmod(at, period)
            here = cfa[y, x]
            if kind > 2 and here == 1:
                continue
            same = cfa[(y + dy) % period, (x + dx) % period] == (kind if kind < 3 else here)
            if kind < 3 and here == kind:
                chosen, found = (dy == 0) & (dx == 0), np.ones(1)
            elif kind == _AROUND:
                chosen, found = same, np.full(same.sum(), 1 / same.sum())
            elif kind == _BELL:
                chosen, found = same, bell[same]
            else:
                near = (np.abs(dy) <= _REACH) & (np.abs(dx) <= _REACH) & ((dy != 0) | (dx != 0))
                chosen = same & near
                found = _fit(dy[chosen], dx[chosen], _WIDTH[kind])
            v, u = y + dy[chosen], x + dx[chosen]
            n = found.size
            places[kind, at, :n] = np.column_stack([v % period * period + u % period, v // period, u // period])
            weights[kind, at, :n], counts[kind, at] = found, n
    for array in (places, weights, counts):
        array.setflags(write=False)
    return places, weights, counts


def _fit(dy: NDArray[np.int64], dx: NDArray[np.int64], width: float) -> NDArray[np.float64]:
    """Return the weights with which samples at (dy, dx) give the value of their plane in the middle."""
    near = np.exp(-(dy**2 + dx**2) / (2 * width**2))
    terms = np.column_stack([np.ones(dy.size), dy, dx])
    moments = terms.T @ (near[:, None] * terms)
    if dy.size < 3 or np.linalg.cond(moments) > 1e8:
        raise ValueError("a colour is too rare in the pattern")
    found = near * (terms @ np.linalg.inv(moments)[0])
    return np.asarray(found / found.sum())


@exact
def _fill(
    mosaic: NDArray[np.float32],
    cfa: NDArray[np.uint8],
    places: NDArray[np.int64],
    weights: NDArray[np.float32],
    counts: NDArray[np.int64],
    sharpen: bool,
    out: NDArray[np.float32],
) -> None:
    """Fill `out` band by band."""
    h, w = mosaic.shape
    p = cfa.shape[0]
    missing = count_missing(mosaic)
    source = _bridged(mosaic, cfa) if missing else mosaic
    for y0 in range(0, h, _BAND * p):
        y1 = min(h, y0 + _BAND * p)
        band = _cells(source, p, y0, y1)
        green_plane = np.zeros_like(band)
        _sum(band, 1, places, weights, counts, green_plane)
        ratio = np.zeros_like(band)
        if sharpen:
            _relate(band, places, weights, counts, green_plane, ratio)
        _unfold(green_plane, p, y0, y1, out[out.shape[0] // 2])
        if out.shape[0] == 1:
            continue
        average, slope, guide = np.zeros_like(band), np.zeros_like(band), np.zeros_like(band)
        for k in (0, 2):
            _sum(band, k, places, weights, counts, average)
            if sharpen:
                _sum(ratio, k, places, weights, counts, slope)
                _sum(green_plane, k, places, weights, counts, guide)
                _add_detail(average, slope, green_plane, guide)
            _unfold(average, p, y0, y1, out[k])
    if missing:
        mark_missing(mosaic, cfa, out)


@exact
def _cells(mosaic: NDArray[np.float32], p: int, y0: int, y1: int) -> Planes:
    """Return rows `y0` to `y1`, `y0` a multiple of `p`, and `_CELLS` cells more on every side."""
    h, w = mosaic.shape
    rows, columns = (y1 - y0 + p - 1) // p + 2 * _CELLS, (w + p - 1) // p + 2 * _CELLS
    out = np.empty((p * p, rows, columns), np.float32)
    for r in range(rows):
        for j in range(p):
            source = mosaic[_inward(y0 + (r - _CELLS) * p + j, h, p)]
            for i in range(p):
                line = out[j * p + i, r]
                for c in range(columns):
                    line[c] = source[_inward((c - _CELLS) * p + i, w, p)]
    return out


@exact
def _unfold(planes: Planes, p: int, y0: int, y1: int, out: NDArray[np.float32]) -> None:
    """Write rows `y0` to `y1` of a picture from its planes."""
    w = out.shape[1]
    for y in range(y0, y1):
        r, j = (y - y0) // p + _CELLS, (y - y0) % p
        for i in range(p):
            line = planes[j * p + i, r, _CELLS:]
            for c in range((w - i + p - 1) // p):
                out[y, c * p + i] = line[c]


@exact
def _inward(i: int, n: int, p: int) -> int:
    """Return the nearest index of 0..n-1 that lies whole periods from `i`."""
    while i < 0:
        i += p
    while i >= n:
        i -= p
    return i


@exact
def _bridged(mosaic: NDArray[np.float32], cfa: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the mosaic with each NaN replaced by the mean of the nearest samples of its colour, else by 0."""
    h, w = mosaic.shape
    p = cfa.shape[0]
    out = mosaic.copy()
    for y in range(h):
        for x in range(w):
            if mosaic[y, x] == mosaic[y, x]:
                continue
            colour = cfa[y % p, x % p]
            total = 0.0
            n = 0
            for reach in (2, 4):
                if n:
                    break
                for j in range(max(0, y - reach), min(h, y + reach + 1)):
                    for i in range(max(0, x - reach), min(w, x + reach + 1)):
                        v = mosaic[j, i]
                        if cfa[j % p, i % p] == colour and v == v:
                            total += v
                            n += 1
            out[y, x] = np.float32(total / n) if n else _ZERO
    return out


@fast
def _sum(
    planes: Planes,
    kind: int,
    places: NDArray[np.int64],
    weights: NDArray[np.float32],
    counts: NDArray[np.int64],
    out: Planes,
) -> None:
    """Write one kind of weighted sums where there are any; the outermost cells are left as they are."""
    rows, columns = planes.shape[1:]
    for at in range(planes.shape[0]):
        for r in range(1, rows - 1):
            line = out[at, r, 1:]
            for t in range(counts[kind, at]):
                place, down, right = places[kind, at, t]
                source, weight = planes[place, r + down, 1 + right :], weights[kind, at, t]
                if t == 0:
                    for c in range(columns - 2):
                        line[c] = weight * source[c]
                else:
                    for c in range(columns - 2):
                        line[c] += weight * source[c]


@fast
def _relate(
    band: Planes,
    places: NDArray[np.int64],
    weights: NDArray[np.float32],
    counts: NDArray[np.int64],
    green_plane: Planes,
    ratio: Planes,
) -> None:
    """Fill, at red and blue pixels, their variation over that of green, and add to green what its fit has taken away.

    Both are 0 where the colours are unrelated.
    """
    others, around = np.zeros_like(band), np.zeros_like(band)
    _sum(band, _OTHERS, places, weights, counts, others)
    sites = counts[_BELL] > 0
    own = np.zeros_like(band)
    for at in range(band.shape[0]):
        if sites[at]:
            _soften(band[at], others[at], own[at])
    _sum(own, _AROUND, places, weights, counts, around)
    for at in range(band.shape[0]):
        if sites[at]:
            _subtract(own[at], around[at], own[at])
    _sum(green_plane, _AROUND, places, weights, counts, around)
    guide = np.zeros_like(band)
    for at in range(band.shape[0]):
        if sites[at]:
            _subtract(green_plane[at], around[at], guide[at])
    product = np.zeros_like(band)
    both, of_green, of_own = around, np.zeros_like(band), np.zeros_like(band)
    for a, b, total in ((own, guide, both), (guide, guide, of_green), (own, own, of_own)):
        for at in range(band.shape[0]):
            if sites[at]:
                _multiply(a[at], b[at], product[at])
        _sum(product, _BELL, places, weights, counts, total)
    for at in range(band.shape[0]):
        if sites[at]:
            _sharpen(band[at], others[at], both[at], of_green[at], of_own[at], green_plane[at], ratio[at])


@fast
def _soften(image: NDArray[np.float32], others: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Write the samples with a part of their difference to the others taken away."""
    for r in range(image.shape[0]):
        for c in range(image.shape[1]):
            out[r, c] = image[r, c] - _SOFTEN * (image[r, c] - others[r, c])


@fast
def _subtract(a: NDArray[np.float32], b: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Write ``a - b``."""
    for r in range(a.shape[0]):
        for c in range(a.shape[1]):
            out[r, c] = a[r, c] - b[r, c]


@fast
def _multiply(a: NDArray[np.float32], b: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Write ``a b``."""
    for r in range(a.shape[0]):
        for c in range(a.shape[1]):
            out[r, c] = a[r, c] * b[r, c]


@fast
def _sharpen(
    image: NDArray[np.float32],
    others: NDArray[np.float32],
    both: NDArray[np.float32],
    of_green: NDArray[np.float32],
    of_own: NDArray[np.float32],
    green_plane: NDArray[np.float32],
    ratio: NDArray[np.float32],
) -> None:
    """Fill the ratio and sharpen green at the places of one kind; see `_relate`."""
    for r in range(image.shape[0]):
        for x in range(image.shape[1]):
            c, g, s = both[r, x], of_green[r, x], of_own[r, x]
            power = g * s
            if c > _ZERO and power > _ZERO:
                related = (c * c / power - _LOOSE) / (_TIGHT - _LOOSE)
                related = min(max(related, _ZERO), _ONE)
                related *= related * (_THREE - _TWO * related)
                ratio[r, x] = related * c / g
                green_plane[r, x] += _SHARPEN * related * c / s * (image[r, x] - others[r, x])
            else:
                ratio[r, x] = _ZERO


@fast
def _add_detail(average: Planes, slope: Planes, green_plane: Planes, guide: Planes) -> None:
    """Add what averaging took from green, times the slope."""
    for at in range(average.shape[0]):
        for r in range(average.shape[1]):
            for c in range(average.shape[2]):
                average[at, r, c] += slope[at, r, c] * (green_plane[at, r, c] - guide[at, r, c])


@exact
def superpixel(mosaic: NDArray[np.float32], cfa: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
    """Write one colour pixel for each 3 x 3 pixels: the mean of the samples of each colour, in X-Trans 2, 5 and 2.

    Parameters
    ----------
    mosaic : (h, w) float32 ndarray, DN
    cfa : (p, p) uint8 ndarray
        Each 3 x 3 pixels of it hold all colours.
    out : (3, h // 3, w // 3) float32 ndarray, DN
        Filled; pixel (X, Y) lies at (3 X + 1, 3 Y + 1) of the mosaic. Rows and columns beyond the last whole square are
        dropped. NaN where all samples of a colour are NaN.
    """
    side = 3
    p = len(cfa)
    total, count = np.empty(3, np.float32), np.empty(3, np.float32)
    for y in range(out.shape[1]):
        for x in range(out.shape[2]):
            total[:] = _ZERO
            count[:] = _ZERO
            for j in range(side * y, side * (y + 1)):
                for i in range(side * x, side * (x + 1)):
                    v = mosaic[j, i]
                    if v == v:
                        colour = cfa[j % p, i % p]
                        total[colour] += v
                        count[colour] += _ONE
            for c in range(3):
                out[c, y, x] = total[c] / count[c] if count[c] > _ZERO else np.float32(np.nan)
