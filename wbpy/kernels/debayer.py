"""Three colour planes from a Bayer mosaic.

All functions take a window of the mosaic (h, w) float32 and the pattern `cfa` (2, 2) uint8 of that window: 0 R,
1 G, 2 B at ``[y % 2, x % 2]``, green on one diagonal. Edges are reflected about the edge pixel, which keeps the
colour of every position. Values may be negative or above 65535. Measured samples are passed on unchanged.

A pixel at least ``HALO[method]`` pixels inside the window gets the bits that the whole frame would give it. The
halos are even, so a window that is cut at an even pixel keeps the pattern of the frame.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wbpy.kernels.jit import exact, fast

HALO = {"superpixel": 0, "bilinear": 2, "malvar": 4, "green": 10, "rcd": 14}

_NAN = np.float32(np.nan)
_HALF = np.float32(0.5)
_QUARTER = np.float32(0.25)
_EIGHTH = np.float32(0.125)


@exact
def reflected(i: int, n: int) -> int:
    """Return index `i` folded into 0..n-1 about the edge pixels."""
    while i < 0 or i >= n:
        i = -i if i < 0 else 2 * (n - 1) - i
    return i


@exact
def check_bayer(cfa: NDArray[np.uint8], h: int, w: int) -> None:
    """Raise for a pattern that is not Bayer or a window that cannot be reflected."""
    if h < 2 or w < 2:
        raise ValueError("a mosaic needs at least 2 x 2 pixels")
    rising = cfa[0, 1] == 1 and cfa[1, 0] == 1 and cfa[0, 0] + cfa[1, 1] == 2 and cfa[0, 0] != 1
    falling = cfa[0, 0] == 1 and cfa[1, 1] == 1 and cfa[0, 1] + cfa[1, 0] == 2 and cfa[0, 1] != 1
    if not (rising or falling):
        raise ValueError("the pattern must have green on one diagonal, red and blue on the other")


@exact
def superpixel(mosaic: NDArray[np.float32], cfa: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
    """Write one colour pixel for each cell of the mosaic: red, the mean of both greens, blue.

    Parameters
    ----------
    mosaic : (h, w) float32 ndarray, DN
    cfa : (2, 2) uint8 ndarray
    out : (3, h // 2, w // 2) float32 ndarray, DN
        Filled; pixel (X, Y) lies at (2 X + 0.5, 2 Y + 0.5) of the mosaic. An odd last row or column is dropped.
        NaN where a sample of that colour is NaN.

    Raises
    ------
    ValueError
        If the pattern is not Bayer or the mosaic smaller than one cell.
    """
    check_bayer(cfa, mosaic.shape[0], mosaic.shape[1])
    rows, columns = out.shape[1:]
    g = 0 if cfa[0, 0] == 1 else 1
    first = cfa[0, 1 - g]
    for y in range(rows):
        above = mosaic[2 * y]
        below = mosaic[2 * y + 1]
        a = out[first, y]
        b = out[2 - first, y]
        green_line = out[1, y]
        for x in range(columns):
            a[x] = above[2 * x + 1 - g]
        for x in range(columns):
            b[x] = below[2 * x + g]
        for x in range(columns):
            green_line[x] = _HALF * (above[2 * x + g] + below[2 * x + 1 - g])


@exact
def bilinear(mosaic: NDArray[np.float32], cfa: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
    """Write the mean of the two or four nearest samples for each missing colour.

    Parameters
    ----------
    mosaic : (h, w) float32 ndarray, DN
    cfa : (2, 2) uint8 ndarray
    out : (3, h, w) float32 ndarray, DN
        Filled; NaN where a sample that is used is NaN.

    Raises
    ------
    ValueError
        If the pattern is not Bayer or the mosaic smaller than one cell.
    """
    h, w = mosaic.shape
    check_bayer(cfa, h, w)
    lines = np.empty((3, w + 2), dtype=np.float32)
    for y in range(h):
        for k in range(3):
            source = mosaic[reflected(y + k - 1, h)]
            line = lines[k]
            line[1 : w + 1] = source
            line[0] = source[1]
            line[w + 1] = source[w - 2]
        site = 1 if cfa[y & 1, 0] == 1 else 0
        own = cfa[y & 1, site]
        u, c, d = lines[0], lines[1], lines[2]
        own_line, green_line, other_line = out[own, y], out[1, y], out[2 - own, y]
        # Both answers for every column, then a choice by its parity: contiguous, so it vectorises.
        for x in range(w):
            cross = _QUARTER * ((u[x + 1] + d[x + 1]) + (c[x] + c[x + 2]))
            green_line[x] = cross if (x & 1) == site else c[x + 1]
        for x in range(w):
            own_line[x] = c[x + 1] if (x & 1) == site else _HALF * (c[x] + c[x + 2])
        for x in range(w):
            diagonal = _QUARTER * ((u[x] + u[x + 2]) + (d[x] + d[x + 2]))
            vertical = _HALF * (u[x + 1] + d[x + 1])
            other_line[x] = diagonal if (x & 1) == site else vertical


@fast
def malvar(mosaic: NDArray[np.float32], cfa: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
    """Write bilinear estimates corrected by the curvature of the colour that was measured at the pixel.

    The 5 x 5 linear filters of Malvar, He and Cutler (2004, ICASSP, "High-quality linear interpolation for demosaicing
    of Bayer-patterned color images"). Each filter has a sum of 1 and the correction a sum of 0, so that a star
    keeps its flux in every colour; methods that decide by ratios or directions do not grant that.

    Parameters
    ----------
    mosaic : (h, w) float32 ndarray, DN
    cfa : (2, 2) uint8 ndarray
    out : (3, h, w) float32 ndarray, DN
        Filled; measured samples unchanged; NaN where a sample that is used is NaN.

    Raises
    ------
    ValueError
        If the pattern is not Bayer or the mosaic smaller than 3 x 3 pixels.
    """
    h, w = mosaic.shape
    check_bayer(cfa, h, w)
    if h < 3 or w < 3:
        raise ValueError("a mosaic needs at least 3 x 3 pixels")
    lines = np.empty((5, w + 4), dtype=np.float32)
    for y in range(h):
        for k in range(5):
            source = mosaic[reflected(y + k - 2, h)]
            line = lines[k]
            line[2 : w + 2] = source
            line[0], line[1] = source[2], source[1]
            line[w + 2], line[w + 3] = source[w - 2], source[w - 3]
        site = 1 if cfa[y & 1, 0] == 1 else 0
        own = cfa[y & 1, site]
        t, u, c, d, b = lines[0], lines[1], lines[2], lines[3], lines[4]
        own_line, green_line, other_line = out[own, y], out[1, y], out[2 - own, y]
        # Both answers for every column, then a choice by its parity: contiguous, so it vectorises.
        for x in range(w):
            far = (t[x + 2] + b[x + 2]) + (c[x] + c[x + 4])
            near = (u[x + 2] + d[x + 2]) + (c[x + 1] + c[x + 3])
            cross = _EIGHTH * (np.float32(4.0) * c[x + 2] + np.float32(2.0) * near - far)
            green_line[x] = cross if (x & 1) == site else c[x + 2]
        for x in range(w):
            corners = (u[x + 1] + u[x + 3]) + (d[x + 1] + d[x + 3])
            along, across = c[x] + c[x + 4], t[x + 2] + b[x + 2]
            row = (
                np.float32(5.0) * c[x + 2] + np.float32(4.0) * (c[x + 1] + c[x + 3]) - corners - along + _HALF * across
            )
            own_line[x] = c[x + 2] if (x & 1) == site else _EIGHTH * row
        for x in range(w):
            corners = (u[x + 1] + u[x + 3]) + (d[x + 1] + d[x + 3])
            along, across = c[x] + c[x + 4], t[x + 2] + b[x + 2]
            diagonal = np.float32(6.0) * c[x + 2] + np.float32(2.0) * corners - np.float32(1.5) * (along + across)
            column = (
                np.float32(5.0) * c[x + 2] + np.float32(4.0) * (u[x + 2] + d[x + 2]) - corners - across + _HALF * along
            )
            other_line[x] = _EIGHTH * (diagonal if (x & 1) == site else column)


# --------------------------------------------------------------------------------------------------------------
# ratio corrected demosaicing
# --------------------------------------------------------------------------------------------------------------
# Rows are kept split by column parity: `s` the red or blue samples of a row ("sites"), `g` its green samples.
# With p the parity of the sites of row y, s[j] is column 2 j + p and g[j] column 2 j + 1 - p. Then, from a site,
#     columns x-3, x-1, x+1, x+3 of its row      are  g[j+p-2], g[j+p-1], g[j+p], g[j+p+1]
#     rows y-3, y-1, y+1, y+3 of its column      are  g[j] of those rows
#     diagonal neighbours at (y-1 or y+1, x-1)   are  s[j+p-1] of those rows, at x+1 s[j+p]
# and from a green sample the same holds with s and g exchanged and 1 - p for p. Every pass runs over contiguous
# memory and touches only samples of the kind that it is for. Two traps of the vectoriser shape the passes: they read
# at most eight rows, because LLVM gives up on a loop that needs more run-time checks for overlap, and they count
# from 0 with the edge added to every index (j + 2 in a pass is the j above), because an index that could be negative
# for all that LLVM knows wraps around. Together they make the difference between 0.1 and 2 ns a sample.
_MARGIN = 12
_RING = 16  # rows kept of each intermediate; a power of two
_EDGE = 2  # half-row elements at both ends that no pass computes; _MARGIN covers what that spoils
_EPS = np.float32(0.65)  # 1e-5 of full scale, keeps 0/0 away in flat areas
_EPS_SQUARE = np.float32(0.43)
# Level that is added to the data for the colour ratios: they are then defined for a background of zero or below,
# where the estimate turns from ratios to differences smoothly.
_RATIO_OFFSET = np.float32(1000.0)
_THREE = np.float32(3.0)
_SIX = np.float32(6.0)
_ONE = np.float32(1.0)


@exact
def _curvature_along(own: NDArray[np.float32], other: NDArray[np.float32], p: int, out: NDArray[np.float32]) -> None:
    """Write the squared high-pass along a row, at the columns of `own`."""
    e = other[p:]
    for j in range(own.size - 2 * _EDGE):
        a = (e[j] - e[j + 1] - e[j + 2] + e[j + 3]) - _THREE * (own[j + 1] + own[j + 3]) + _SIX * own[j + 2]
        out[j + 2] = a * a


@exact
def _curvature_across(
    m3: NDArray[np.float32],
    m2: NDArray[np.float32],
    m1: NDArray[np.float32],
    c: NDArray[np.float32],
    p1: NDArray[np.float32],
    p2: NDArray[np.float32],
    p3: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Write the squared high-pass across seven rows of one column parity."""
    for j in range(c.size - 2 * _EDGE):
        a = (m3[j + 2] - m1[j + 2] - p1[j + 2] + p3[j + 2]) - _THREE * (m2[j + 2] + p2[j + 2]) + _SIX * c[j + 2]
        out[j + 2] = a * a


@exact
def _curvature_diagonal(
    m3: NDArray[np.float32],
    m2: NDArray[np.float32],
    m1: NDArray[np.float32],
    c: NDArray[np.float32],
    p1: NDArray[np.float32],
    p2: NDArray[np.float32],
    p3: NDArray[np.float32],
    p: int,
    out: NDArray[np.float32],
) -> None:
    """Write the squared high-pass from upper left to lower right at the sites; swap the rows for the other way."""
    m1w, p1e = m1[p:], p1[p:]
    m3w, p3e = m3[p:], p3[p:]
    for j in range(c.size - 2 * _EDGE):
        a = (m3w[j] - m1w[j + 1] - p1e[j + 2] + p3e[j + 3]) - _THREE * (m2[j + 1] + p2[j + 3]) + _SIX * c[j + 2]
        out[j + 2] = a * a


@exact
def _direction(
    v_above: NDArray[np.float32],
    v: NDArray[np.float32],
    v_below: NDArray[np.float32],
    h_beside: NDArray[np.float32],
    h: NDArray[np.float32],
    p: int,
    out: NDArray[np.float32],
) -> None:
    """Write the share of the vertical in the total curvature: near 0 for a vertical edge, 1 for a horizontal one."""
    e = h_beside[p:]
    for j in range(v.size - 2 * _EDGE):
        a = v_above[j + 2] + v[j + 2] + v_below[j + 2]
        b = e[j + 1] + h[j + 2] + e[j + 2]
        a = a if a > _EPS_SQUARE else _EPS_SQUARE
        b = b if b > _EPS_SQUARE else _EPS_SQUARE
        out[j + 2] = a / (a + b)


@exact
def _direction_diagonal(
    p_above: NDArray[np.float32],
    p_here: NDArray[np.float32],
    p_below: NDArray[np.float32],
    q_above: NDArray[np.float32],
    q_here: NDArray[np.float32],
    q_below: NDArray[np.float32],
    p: int,
    out: NDArray[np.float32],
) -> None:
    """Write the share of the falling diagonal in the total diagonal curvature."""
    pa, pb = p_above[p:], p_below[p:]
    qa, qb = q_above[p:], q_below[p:]
    for j in range(p_here.size - 2 * _EDGE):
        a = pa[j + 1] + p_here[j + 2] + pb[j + 2]
        b = qa[j + 2] + q_here[j + 2] + qb[j + 1]
        a = a if a > _EPS_SQUARE else _EPS_SQUARE
        b = b if b > _EPS_SQUARE else _EPS_SQUARE
        out[j + 2] = a / (a + b)


@exact
def _decided(
    above: NDArray[np.float32],
    here: NDArray[np.float32],
    below: NDArray[np.float32],
    p: int,
    out: NDArray[np.float32],
) -> None:
    """Write the direction of the pixel or the mean of its diagonal neighbours, whichever is further from 1/2."""
    a, b = above[p:], below[p:]
    for j in range(here.size - 2 * _EDGE):
        c = here[j + 2]
        n = _QUARTER * ((a[j + 1] + a[j + 2]) + (b[j + 1] + b[j + 2]))
        out[j + 2] = n if abs(_HALF - c) < abs(_HALF - n) else c


@exact
def _low_pass(
    above_s: NDArray[np.float32],
    above_g: NDArray[np.float32],
    s: NDArray[np.float32],
    g: NDArray[np.float32],
    below_s: NDArray[np.float32],
    below_g: NDArray[np.float32],
    p: int,
    out: NDArray[np.float32],
) -> None:
    """Write the sum of the 3x3 neighbourhood of the sites with weights 1, 1/2, 1/4: four times the local mean."""
    e = g[p:]
    a, b = above_s[p:], below_s[p:]
    for j in range(s.size - 2 * _EDGE):
        edges = (above_g[j + 2] + below_g[j + 2]) + (e[j + 1] + e[j + 2])
        corners = (a[j + 1] + a[j + 2]) + (b[j + 1] + b[j + 2])
        out[j + 2] = s[j + 2] + _HALF * edges + _QUARTER * corners


@exact
def _ratio_step(g: np.float32, low: np.float32, low_there: np.float32) -> np.float32:
    """Return the green expected here from a green neighbour on the side of `low_there`, colour ratios kept."""
    total = low + low_there + np.float32(8.0) * _RATIO_OFFSET
    total = total if total > _RATIO_OFFSET else _RATIO_OFFSET
    level = g + _RATIO_OFFSET
    level = level if level > np.float32(0.0) else np.float32(0.0)
    return g + level * (low - low_there) / total


@exact
def _gradient_across(
    opposite: NDArray[np.float32],
    c: NDArray[np.float32],
    n1: NDArray[np.float32],
    n2: NDArray[np.float32],
    n3: NDArray[np.float32],
    n4: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Write the gradient towards one side: rows `n1` to `n4` lead away, `opposite` is the first the other way."""
    for j in range(c.size - 2 * _EDGE):
        a = abs(n1[j + 2] - opposite[j + 2]) + abs(c[j + 2] - n2[j + 2])
        out[j + 2] = _EPS + a + abs(n1[j + 2] - n3[j + 2]) + abs(n2[j + 2] - n4[j + 2])


@exact
def _green_across(
    north: NDArray[np.float32],
    south: NDArray[np.float32],
    g_north: NDArray[np.float32],
    g_south: NDArray[np.float32],
    low_north: NDArray[np.float32],
    low: NDArray[np.float32],
    low_south: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Write the green at the sites from above and below, the smoother side weighing more."""
    for j in range(low.size - 2 * _EDGE):
        a = _ratio_step(g_north[j + 2], low[j + 2], low_north[j + 2])
        b = _ratio_step(g_south[j + 2], low[j + 2], low_south[j + 2])
        out[j + 2] = (south[j + 2] * a + north[j + 2] * b) / (north[j + 2] + south[j + 2])


@exact
def _green_along(
    s: NDArray[np.float32],
    g: NDArray[np.float32],
    low: NDArray[np.float32],
    p: int,
    out: NDArray[np.float32],
) -> None:
    """Write the green at the sites from left and right."""
    e = g[p:]
    for j in range(s.size - 2 * _EDGE):
        step = abs(e[j + 1] - e[j + 2])
        west = _EPS + step + abs(s[j + 2] - s[j + 1]) + abs(e[j + 1] - e[j]) + abs(s[j + 1] - s[j])
        east = _EPS + step + abs(s[j + 2] - s[j + 3]) + abs(e[j + 2] - e[j + 3]) + abs(s[j + 3] - s[j + 4])
        a = _ratio_step(e[j + 1], low[j + 2], low[j + 1])
        b = _ratio_step(e[j + 2], low[j + 2], low[j + 3])
        out[j + 2] = (east * a + west * b) / (east + west)


@exact
def _blend(
    direction: NDArray[np.float32],
    along: NDArray[np.float32],
    across: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Write ``direction * along + (1 - direction) * across``."""
    for j in range(out.size - 2 * _EDGE):
        out[j + 2] = direction[j + 2] * along[j + 2] + (_ONE - direction[j + 2]) * across[j + 2]


@exact
def _gradient_diagonal(
    near: NDArray[np.float32],
    opposite: NDArray[np.float32],
    third: NDArray[np.float32],
    green_here: NDArray[np.float32],
    green_second: NDArray[np.float32],
    side: int,
    p: int,
    out: NDArray[np.float32],
) -> None:
    """Write the gradient towards one corner; `side` 0 is left, 1 is right."""
    # One, two and three columns to that side, and one column to the other.
    n = near[p + side :]
    o = opposite[p + 1 - side :]
    t = third[p + 3 * side :]
    s = green_second[2 * side :]
    for j in range(out.size - 2 * _EDGE):
        a = abs(n[j + 1] - o[j + 1]) + abs(n[j + 1] - t[j])
        out[j + 2] = _EPS + a + abs(green_here[j + 2] - s[j + 1])


@exact
def _colour_at_site(
    nw: NDArray[np.float32],
    ne: NDArray[np.float32],
    sw: NDArray[np.float32],
    se: NDArray[np.float32],
    above: NDArray[np.float32],
    below: NDArray[np.float32],
    direction: NDArray[np.float32],
    p: int,
    out: NDArray[np.float32],
) -> None:
    """Write the difference of the colour of the diagonal sites to green, from the differences `above`, `below`."""
    a, b = above[p:], below[p:]
    for j in range(out.size - 2 * _EDGE):
        falling = (nw[j + 2] * b[j + 2] + se[j + 2] * a[j + 1]) / (nw[j + 2] + se[j + 2])
        rising = (ne[j + 2] * b[j + 1] + sw[j + 2] * a[j + 2]) / (ne[j + 2] + sw[j + 2])
        out[j + 2] = (_ONE - direction[j + 2]) * falling + direction[j + 2] * rising


@exact
def _colour_gradient_across(
    g: NDArray[np.float32],
    g2: NDArray[np.float32],
    near: NDArray[np.float32],
    opposite: NDArray[np.float32],
    third: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Write the gradient of one colour and green from a green sample upwards or downwards."""
    for j in range(g.size - 2 * _EDGE):
        out[j + 2] = (
            _EPS + abs(g[j + 2] - g2[j + 2]) + abs(near[j + 2] - opposite[j + 2]) + abs(near[j + 2] - third[j + 2])
        )


@exact
def _colour_along(
    g: NDArray[np.float32],
    colour: NDArray[np.float32],
    difference: NDArray[np.float32],
    q: int,
    out: NDArray[np.float32],
) -> None:
    """Write the colour difference at the green samples from left and right."""
    c, d = colour[q:], difference[q:]
    for j in range(g.size - 2 * _EDGE):
        step = abs(c[j + 1] - c[j + 2])
        west = _EPS + abs(g[j + 2] - g[j + 1]) + step + abs(c[j + 1] - c[j])
        east = _EPS + abs(g[j + 2] - g[j + 3]) + step + abs(c[j + 2] - c[j + 3])
        out[j + 2] = (east * d[j + 1] + west * d[j + 2]) / (east + west)


@exact
def _colour_at_green(
    g: NDArray[np.float32],
    north: NDArray[np.float32],
    south: NDArray[np.float32],
    above: NDArray[np.float32],
    below: NDArray[np.float32],
    along: NDArray[np.float32],
    direction: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Write the colour at the green samples from the differences above, below and along the row."""
    for j in range(g.size - 2 * _EDGE):
        across = (north[j + 2] * below[j + 2] + south[j + 2] * above[j + 2]) / (north[j + 2] + south[j + 2])
        out[j + 2] = g[j + 2] + direction[j + 2] * along[j + 2] + (_ONE - direction[j + 2]) * across


@exact
def _add(a: NDArray[np.float32], b: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Write ``a + b``."""
    for j in range(out.size - 2 * _EDGE):
        out[j + 2] = a[j + 2] + b[j + 2]


@exact
def _subtract(a: NDArray[np.float32], b: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Write ``a - b``."""
    for j in range(out.size - 2 * _EDGE):
        out[j + 2] = a[j + 2] - b[j + 2]


@exact
def _weave(even: NDArray[np.float32], odd: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Write the even and the odd columns of a row, the margin cut off."""
    a, b = even[_MARGIN // 2 :], odd[_MARGIN // 2 :]
    w = out.size
    for j in range(w // 2):
        out[2 * j] = a[j]
        out[2 * j + 1] = b[j]
    if w & 1:
        out[w - 1] = a[w // 2]


@exact
def _split_row(mosaic: NDArray[np.float32], y: int, p: int, s: NDArray[np.float32], g: NDArray[np.float32]) -> None:
    """Fill sites and green samples of the padded row `y`, reflected at the edges of the mosaic."""
    h, w = mosaic.shape
    source = mosaic[reflected(y - _MARGIN, h)]
    even, odd = (s, g) if p == 0 else (g, s)
    k = _MARGIN // 2
    a, b = even[k:], odd[k:]
    for j in range(w // 2):
        a[j] = source[2 * j]
        b[j] = source[2 * j + 1]
    for j in range(k):
        even[j] = source[reflected(2 * j - _MARGIN, w)]
        odd[j] = source[reflected(2 * j + 1 - _MARGIN, w)]
    for j in range(k + w // 2, s.size):
        even[j] = source[reflected(2 * j - _MARGIN, w)]
        odd[j] = source[reflected(2 * j + 1 - _MARGIN, w)]


@exact
def count_missing(mosaic: NDArray[np.float32]) -> int:
    """Return the number of NaN pixels of a mosaic (h, w)."""
    missing = 0
    for y in range(mosaic.shape[0]):
        line = mosaic[y]
        for x in range(line.size):
            missing += 0 if line[x] == line[x] else 1
    return missing


@exact
def reflect_row(source: NDArray[np.float32], pad: int, line: NDArray[np.float32]) -> None:
    """Write a row of a mosaic (w,) from element `pad` of `line` on, and what it is when reflected on either side."""
    w = source.size
    line[pad : pad + w] = source
    for i in range(pad):
        line[i] = source[reflected(i - pad, w)]
    for i in range(pad + w, line.size):
        line[i] = source[reflected(i - pad, w)]


@exact
def bridged(mosaic: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mosaic with each NaN replaced by the mean of the nearest samples of its colour, else by 0.

    Samples at up to two steps of the pattern, four pixels, are used: the last four pixels of the halo.
    """
    h, w = mosaic.shape
    out = mosaic.copy()
    for y in range(h):
        for x in range(w):
            if mosaic[y, x] == mosaic[y, x]:
                continue
            total = 0.0
            n = 0
            for reach in (2, 4):
                if n:
                    break
                for j in range(y - reach, y + reach + 1, 2):
                    for i in range(x - reach, x + reach + 1, 2):
                        v = mosaic[reflected(j, h), reflected(i, w)]
                        if v == v:
                            total += v
                            n += 1
            out[y, x] = np.float32(total / n) if n else np.float32(0.0)
    return out


@exact
def mark_missing(mosaic: NDArray[np.float32], cfa: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
    """Set every colour of a NaN pixel to NaN, and the interpolated colours of its eight neighbours."""
    h, w = mosaic.shape
    for y in range(h):
        for x in range(w):
            if mosaic[y, x] == mosaic[y, x]:
                continue
            for j in range(max(0, y - 1), min(h, y + 2)):
                for i in range(max(0, x - 1), min(w, x + 2)):
                    for k in range(out.shape[0]):
                        colour = k if out.shape[0] == 3 else 1
                        if colour != cfa[j % cfa.shape[0], i % cfa.shape[1]] or (j == y and i == x):
                            out[k, j, i] = _NAN


@exact
def rcd(mosaic: NDArray[np.float32], cfa: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
    """Write the ratio corrected demosaic.

    The algorithm of Luis Sanz Rodriguez (RCD 2.3): green at red and blue pixels from the green neighbours,
    corrected by the ratio of low-passed levels, weighted by gradients and by the local horizontal or vertical
    structure; then the opposite colour along the diagonals and both colours at green pixels, as differences to
    green. For linear data with a background near zero the ratios are taken 1000 DN above it, see
    `_RATIO_OFFSET`: without that, noise would divide by noise.

    Parameters
    ----------
    mosaic : (h, w) float32 ndarray, DN
    cfa : (2, 2) uint8 ndarray
    out : (3, h, w) float32 ndarray, DN
        Filled. A NaN pixel is NaN in all colours, and the interpolated colours of its eight neighbours are NaN;
        farther pixels are computed from the mean of the nearest samples in its place.

    Raises
    ------
    ValueError
        If the pattern is not Bayer or the mosaic smaller than one cell.
    """
    _demosaic_with_gaps(mosaic, cfa, out)


@exact
def green(mosaic: NDArray[np.float32], cfa: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
    """Write the green plane of `rcd`, for the measurement of stars, at twice the speed.

    Chosen over linear filters because coloured stars keep their place and width: at FWHM 2.5 px, centroids are
    within 0.005 px of those on a full green plane, against 0.016 px for the filter of Malvar, He and Cutler
    (2004), and the flux within 1 % against 6 %.

    Parameters
    ----------
    mosaic : (h, w) float32 ndarray, DN
    cfa : (2, 2) uint8 ndarray
    out : (h, w) float32 ndarray, DN
        Filled; the bits of ``rcd(...)[1]``, NaN included.

    Raises
    ------
    ValueError
        If the pattern is not Bayer or the mosaic smaller than one cell.
    """
    _demosaic_with_gaps(mosaic, cfa, out.reshape((1, out.shape[0], out.shape[1])))


@exact
def _demosaic_with_gaps(mosaic: NDArray[np.float32], cfa: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
    """Fill `out`, three planes or one, from a mosaic that may contain NaN."""
    h, w = mosaic.shape
    check_bayer(cfa, h, w)
    if count_missing(mosaic):
        _demosaic(bridged(mosaic), cfa, out)
        mark_missing(mosaic, cfa, out)
    else:
        _demosaic(mosaic, cfa, out)


@exact
def _demosaic(mosaic: NDArray[np.float32], cfa: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
    """Fill `out`, all colours (3, h, w) or green only (1, h, w), by RCD; the mosaic has no NaN.

    One loop over the rows in which each pass runs ahead of the next by the rows that the next one needs, so all
    intermediates live in rings of 16 rows that stay in the cache.
    """
    h, w = mosaic.shape
    rows = h + 2 * _MARGIN
    n = (w + 1) // 2 + _MARGIN
    m = _RING - 1
    colours = out.shape[0] == 3
    ring = np.zeros((16, _RING, n), dtype=np.float32)
    s, g, low = ring[0], ring[1], ring[2]
    vs, vg, hs, hg, ps, qs = ring[3], ring[4], ring[5], ring[6], ring[7], ring[8]
    ds, dg, pq = ring[9], ring[10], ring[11]
    green_s, colour_s = ring[12], ring[13]
    # Own and opposite colour of a site minus green.
    own_d, other_d = ring[14], ring[15]
    t = np.zeros((7, n), dtype=np.float32)
    t0, t1, t2, t3, t4, t5, t6 = t[0], t[1], t[2], t[3], t[4], t[5], t[6]
    for newest in range(rows):
        p = 1 if cfa[newest & 1, 0] == 1 else 0
        _split_row(mosaic, newest, p, s[newest & m], g[newest & m])
        y = newest - 3
        if 3 <= y < rows - 3:
            p = 1 if cfa[y & 1, 0] == 1 else 0
            a, b, c, d = (y - 3) & m, (y - 2) & m, (y - 1) & m, y & m
            e, f, k = (y + 1) & m, (y + 2) & m, (y + 3) & m
            _curvature_across(g[a], s[b], g[c], s[d], g[e], s[f], g[k], vs[d])
            _curvature_across(s[a], g[b], s[c], g[d], s[e], g[f], s[k], vg[d])
            _curvature_along(s[d], g[d], p, hs[d])
            _curvature_along(g[d], s[d], 1 - p, hg[d])
            if colours:
                _curvature_diagonal(s[a], s[b], s[c], s[d], s[e], s[f], s[k], p, ps[d])
                _curvature_diagonal(s[k], s[f], s[e], s[d], s[c], s[b], s[a], p, qs[d])
            _low_pass(s[c], g[c], s[d], g[d], s[e], g[e], p, low[d])
        y = newest - 4
        if 4 <= y < rows - 4:
            p = 1 if cfa[y & 1, 0] == 1 else 0
            c, d, e = (y - 1) & m, y & m, (y + 1) & m
            _direction(vg[c], vs[d], vg[e], hg[d], hs[d], p, ds[d])
            if colours:
                _direction(vs[c], vg[d], vs[e], hs[d], hg[d], 1 - p, dg[d])
                _direction_diagonal(ps[c], ps[d], ps[e], qs[c], qs[d], qs[e], p, pq[d])
        y = newest - 5
        if 5 <= y < rows - 5:
            p = 1 if cfa[y & 1, 0] == 1 else 0
            c, d, e = (y - 1) & m, y & m, (y + 1) & m
            _gradient_across(g[e], s[d], g[c], s[(y - 2) & m], g[(y - 3) & m], s[(y - 4) & m], t0)
            _gradient_across(g[c], s[d], g[e], s[(y + 2) & m], g[(y + 3) & m], s[(y + 4) & m], t1)
            _green_across(t0, t1, g[c], g[e], low[(y - 2) & m], low[d], low[(y + 2) & m], t2)
            _green_along(s[d], g[d], low[d], p, t3)
            _decided(ds[c], ds[d], ds[e], p, t4)
            _blend(t4, t3, t2, green_s[d])
            if not colours:
                if _MARGIN <= y < rows - _MARGIN:
                    even, odd = (green_s[d], g[d]) if p == 0 else (g[d], green_s[d])
                    _weave(even, odd, out[0, y - _MARGIN])
                continue
            _subtract(s[d], green_s[d], own_d[d])
        y = newest - 7
        if colours and 7 <= y < rows - 7:
            p = 1 if cfa[y & 1, 0] == 1 else 0
            b, c, d, e, f = (y - 2) & m, (y - 1) & m, y & m, (y + 1) & m, (y + 2) & m
            third_above, third_below = s[(y - 3) & m], s[(y + 3) & m]
            _gradient_diagonal(s[c], s[e], third_above, green_s[d], green_s[b], 0, p, t0)
            _gradient_diagonal(s[c], s[e], third_above, green_s[d], green_s[b], 1, p, t1)
            _gradient_diagonal(s[e], s[c], third_below, green_s[d], green_s[f], 0, p, t2)
            _gradient_diagonal(s[e], s[c], third_below, green_s[d], green_s[f], 1, p, t3)
            _decided(pq[c], pq[d], pq[e], p, t4)
            _colour_at_site(t0, t1, t2, t3, own_d[c], own_d[e], t4, p, other_d[d])
            _add(green_s[d], other_d[d], colour_s[d])
        y = newest - 10
        if colours and _MARGIN <= y < rows - _MARGIN:
            p = 1 if cfa[y & 1, 0] == 1 else 0
            b, c, d, e, f = (y - 2) & m, (y - 1) & m, y & m, (y + 1) & m, (y + 2) & m
            a, k = (y - 3) & m, (y + 3) & m
            _decided(dg[c], dg[d], dg[e], 1 - p, t4)
            # The colour of this row lies left and right; above and below it was interpolated.
            _colour_gradient_across(g[d], g[b], colour_s[c], colour_s[e], colour_s[a], t0)
            _colour_gradient_across(g[d], g[f], colour_s[e], colour_s[c], colour_s[k], t1)
            _colour_along(g[d], s[d], own_d[d], 1 - p, t2)
            _colour_at_green(g[d], t0, t1, other_d[c], other_d[e], t2, t4, t5)
            _colour_gradient_across(g[d], g[b], s[c], s[e], s[a], t0)
            _colour_gradient_across(g[d], g[f], s[e], s[c], s[k], t1)
            _colour_along(g[d], colour_s[d], other_d[d], 1 - p, t2)
            _colour_at_green(g[d], t0, t1, own_d[c], own_d[e], t2, t4, t6)
            own = cfa[y & 1, p]
            line = y - _MARGIN
            if p == 0:
                _weave(s[d], t5, out[own, line])
                _weave(green_s[d], g[d], out[1, line])
                _weave(colour_s[d], t6, out[2 - own, line])
            else:
                _weave(t5, s[d], out[own, line])
                _weave(g[d], green_s[d], out[1, line])
                _weave(t6, colour_s[d], out[2 - own, line])
