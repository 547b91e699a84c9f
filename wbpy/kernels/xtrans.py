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

from wbpy.kernels.debayer import mark_missing
from wbpy.kernels.jit import exact, fast

HALO = 18
"""3 pixels of the last fit, 8 of the regression, 3 of green and 4 of bridging over missing pixels."""

_PAD = 14
_BAND = 96
_REACH = 3
"""Of a fit, px. A window of 7 x 7 pixels of an X-Trans mosaic has at least nine red and nine blue samples."""
_WIDTH = (1.0, 0.7, 1.0, 1.3)
"""Standard deviation of the Gaussian that weighs the samples of each colour, px; last of the fit to the others."""
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
    offsets, weights, counts = _fits(cfa.tobytes(), cfa.shape[0])
    _fill(mosaic, cfa, offsets, weights, counts, sharpen, out)


@lru_cache(maxsize=16)
def _fits(pattern: bytes, period: int) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Return offsets (4, p, p, k, 2) as (dy, dx), weights (4, p, p, k) and how many of them count (4, p, p).

    The first index is the colour that is wanted at that place of the cell, where a measured sample has one weight of 1,
    or 3 for the fit to the other samples of the colour that was measured there.
    """
    cfa = np.frombuffer(pattern, np.uint8).reshape(period, period)
    steps = np.arange(-_REACH, _REACH + 1)
    dy, dx = (grid.ravel() for grid in np.meshgrid(steps, steps, indexing="ij"))
    offsets = np.zeros((4, period, period, dy.size, 2), np.int64)
    weights = np.zeros((4, period, period, dy.size), np.float32)
    counts = np.zeros((4, period, period), np.int64)
    for kind in range(4):
        for y in range(period):
            for x in range(period):
                if cfa[y, x] == kind:
                    weights[kind, y, x, 0], counts[kind, y, x] = 1.0, 1
                    continue
                colour = cfa[y, x] if kind == 3 else kind
                same = cfa[(y + dy) % period, (x + dx) % period] == colour
                at = np.flatnonzero(same & ((dy != 0) | (dx != 0)))
                near = np.exp(-(dy[at] ** 2 + dx[at] ** 2) / (2 * _WIDTH[kind] ** 2))
                terms = np.column_stack([np.ones(at.size), dy[at], dx[at]])
                moments = terms.T @ (near[:, None] * terms)
                if at.size < 3 or np.linalg.cond(moments) > 1e8:
                    raise ValueError("a colour is too rare in the pattern")
                found = near * (terms @ np.linalg.inv(moments)[0])
                offsets[kind, y, x, : at.size] = np.column_stack([dy[at], dx[at]])
                weights[kind, y, x, : at.size] = found / found.sum()
                counts[kind, y, x] = at.size
    for array in (offsets, weights, counts):
        array.setflags(write=False)
    return offsets, weights, counts


@exact
def _fill(
    mosaic: NDArray[np.float32],
    cfa: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    weights: NDArray[np.float32],
    counts: NDArray[np.int64],
    sharpen: bool,
    out: NDArray[np.float32],
) -> None:
    """Fill `out` band by band."""
    h, w = mosaic.shape
    p = cfa.shape[0]
    missing = 0
    for y in range(h):
        line = mosaic[y]
        for x in range(w):
            missing += 0 if line[x] == line[x] else 1
    source = _bridged(mosaic, cfa) if missing else mosaic
    for y0 in range(0, h, _BAND):
        y1 = min(h, y0 + _BAND)
        padded = _padded(source, p, y0, y1)
        # The cell of the padded band begins at its first pixel.
        top, left = (y0 - _PAD) % p, -_PAD % p
        mask = np.empty(padded.shape, np.uint8)
        for j in range(padded.shape[0]):
            for i in range(padded.shape[1]):
                mask[j, i] = cfa[(top + j) % p, (left + i) % p]
        plane = np.empty_like(padded)
        _apply(padded, 1, top, left, offsets, weights, counts, plane)
        ratio = np.zeros_like(padded)
        if sharpen:
            others = np.empty_like(padded)
            _apply(padded, 3, top, left, offsets, weights, counts, others)
            detail = np.zeros_like(padded)
            for k in (0, 2):
                _relate(padded, others, plane, mask, k, ratio, detail)
            _add(plane, detail)
        for y in range(y0, y1):
            out[out.shape[0] // 2, y] = plane[y - y0 + _PAD, _PAD : _PAD + w]
        if out.shape[0] == 1:
            continue
        average, slope, guide = np.empty_like(padded), np.empty_like(padded), np.empty_like(padded)
        for k in (0, 2):
            _apply(padded, k, top, left, offsets, weights, counts, average)
            if sharpen:
                _apply(ratio, k, top, left, offsets, weights, counts, slope)
                _apply(plane, k, top, left, offsets, weights, counts, guide)
                _add_detail(average, slope, plane, guide)
            for y in range(y0, y1):
                out[k, y] = average[y - y0 + _PAD, _PAD : _PAD + w]
    if missing:
        mark_missing(mosaic, cfa, out)


@exact
def _padded(mosaic: NDArray[np.float32], p: int, y0: int, y1: int) -> NDArray[np.float32]:
    """Return rows `y0` to `y1` with `_PAD` pixels more on every side, continued by whole periods."""
    h, w = mosaic.shape
    out = np.empty((y1 - y0 + 2 * _PAD, w + 2 * _PAD), np.float32)
    for j in range(out.shape[0]):
        source = mosaic[_inward(y0 + j - _PAD, h, p)]
        line = out[j]
        line[_PAD : _PAD + w] = source
        for i in range(_PAD):
            line[i] = source[_inward(i - _PAD, w, p)]
            line[_PAD + w + i] = source[_inward(w + i, w, p)]
    return out


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
def _apply(
    image: NDArray[np.float32],
    colour: int,
    top: int,
    left: int,
    offsets: NDArray[np.int64],
    weights: NDArray[np.float32],
    counts: NDArray[np.int64],
    out: NDArray[np.float32],
) -> None:
    """Write the fits to the samples of `colour` everywhere; a border of `_REACH` pixels is copied."""
    rows, columns = image.shape
    p = counts.shape[1]
    flat = image.reshape(-1)
    for y in range(rows):
        if y < _REACH or y >= rows - _REACH:
            out[y] = image[y]
            continue
        out[y, :_REACH] = image[y, :_REACH]
        out[y, columns - _REACH :] = image[y, columns - _REACH :]
        j = (top + y) % p
        for first in range(p):
            i = (left + _REACH + first) % p
            n = counts[colour, j, i]
            steps = np.empty(n, np.int64)
            for t in range(n):
                steps[t] = offsets[colour, j, i, t, 0] * columns + offsets[colour, j, i, t, 1]
            factors = weights[colour, j, i]
            for x in range(_REACH + first, columns - _REACH, p):
                at = y * columns + x
                total = _ZERO
                for t in range(n):
                    total += factors[t] * flat[at + steps[t]]
                out[y, x] = total


@fast
def _relate(
    mosaic: NDArray[np.float32],
    others: NDArray[np.float32],
    green_plane: NDArray[np.float32],
    mask: NDArray[np.uint8],
    colour: int,
    ratio: NDArray[np.float32],
    detail: NDArray[np.float32],
) -> None:
    """Fill, at the samples of a colour, its variation over that of green and what the fit of green has taken away.

    Both are 0 where the colours are unrelated.
    """
    shape = mosaic.shape
    own, guide, present = np.zeros(shape, np.float32), np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for y in range(shape[0]):
        for x in range(shape[1]):
            if mask[y, x] == colour:
                own[y, x] = mosaic[y, x] - _SOFTEN * (mosaic[y, x] - others[y, x])
                guide[y, x], present[y, x] = green_plane[y, x], _ONE
    box = np.ones(9, np.float32)
    own_sum, guide_sum, number = _window(own, box), _window(guide, box), _window(present, box)
    both, of_green, of_own = np.zeros(shape, np.float32), np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for y in range(shape[0]):
        for x in range(shape[1]):
            if mask[y, x] == colour and number[y, x] > _ZERO:
                a = own[y, x] - own_sum[y, x] / number[y, x]
                b = guide[y, x] - guide_sum[y, x] / number[y, x]
                both[y, x], of_green[y, x], of_own[y, x] = a * b, b * b, a * a
    bell = np.array([1, 8, 28, 56, 70, 56, 28, 8, 1], np.float32) / np.float32(256)
    both, of_green, of_own = _window(both, bell), _window(of_green, bell), _window(of_own, bell)
    for y in range(shape[0]):
        for x in range(shape[1]):
            c, g, s = both[y, x], of_green[y, x], of_own[y, x]
            power = g * s
            if mask[y, x] == colour and c > _ZERO and power > _ZERO:
                related = (c * c / power - _LOOSE) / (_TIGHT - _LOOSE)
                related = min(max(related, _ZERO), _ONE)
                related *= related * (_THREE - _TWO * related)
                ratio[y, x] = related * c / g
                detail[y, x] = _SHARPEN * related * c / s * (mosaic[y, x] - others[y, x])


@fast
def _window(image: NDArray[np.float32], taps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the separable correlation with nine taps; 0 within four pixels of an edge."""
    rows, columns = image.shape
    down, out = np.zeros(image.shape, np.float32), np.zeros(image.shape, np.float32)
    for y in range(4, rows - 4):
        for k in range(9):
            source, line, tap = image[y + k - 4], down[y], taps[k]
            for x in range(columns):
                line[x] += tap * source[x]
        line, source = out[y], down[y]
        for k in range(9):
            tap = taps[k]
            shifted = source[k:]
            for x in range(columns - 8):
                line[x + 4] += tap * shifted[x]
    return out


@fast
def _add(image: NDArray[np.float32], more: NDArray[np.float32]) -> None:
    """Add one image to another."""
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            image[y, x] += more[y, x]


@fast
def _add_detail(
    average: NDArray[np.float32],
    slope: NDArray[np.float32],
    green_plane: NDArray[np.float32],
    guide: NDArray[np.float32],
) -> None:
    """Add what averaging took from green, times the slope."""
    for y in range(average.shape[0]):
        for x in range(average.shape[1]):
            average[y, x] += slope[y, x] * (green_plane[y, x] - guide[y, x])


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
