"""Drizzle: pixels of frames dropped onto a finer grid (Fruchter and Hook 2002, PASP 114, 144).

Every pixel of a frame, shrunk to its drop, is mapped to the output by the inverse of the frame's transform and shared
among the output pixels under it. Nothing is interpolated, and a pixel of a mosaic falls into the plane of its own
colour only. A task owns a tile of the output and visits all frame pixels that reach it, in the order in which they
stand in the frame. What an output pixel receives and in which order therefore depends neither on the tiling nor on the
number of threads.

Output coordinates here are those of edges: pixel (i, j) of the output covers i <= x < i + 1 and j <= y < j + 1, so
that (x, y) of the reference, whose centres are on integers, lies at ((x + 0.5) scale, (y + 0.5) scale).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wbpy.kernels.jit import exact, fast, inline

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Bytes = NDArray[np.uint8]
Kernel = Literal["square", "circular", "gaussian", "point"]

BLOCK = 16
"""Distance of the frame pixels whose places are computed exactly; between them they are interpolated, which is exact
for affine transforms and off by less than 1e-3 px for the distortion of a lens. The form of a drop is that of its
block. Also the number of pixels that are treated side by side."""

CIRCLE_SIDES = 24
"""The disc is a regular polygon of this many sides and of its area: its radius varies by 0.9 %."""

GAUSSIAN_REACH = 3.0
"""Standard deviations at which the Gaussian ends."""

NO_MASK: Bytes = np.zeros((0, 0, 0), np.uint8)
"""Nothing was rejected."""

_FWHM = 2.0 * math.sqrt(2.0 * math.log(2.0))
_PHASES = 4096
_CORRECTIONS = 8
_CONVERGED = 1e-6
# Shares of a drop that are rounding errors of single precision, not overlap.
_NEGLIGIBLE = np.float32(1e-6)
# Places of frame pixels that no output reaches: behind the horizon of a homography.
_NOWHERE = -1e15


@dataclass(frozen=True)
class Drop:
    """The form of a drop, in units of a frame's pixel."""

    outline: Float64
    """(k, 2): corners around the centre, in order; empty for a form that is not a polygon."""
    shares: Float32
    """(phases, n): share of the drop along one axis that falls on each of n output pixels, by the phase of its centre
    within the middle one; empty for a polygon."""
    reach: float
    """Largest distance from the centre to an end of the drop along an axis, output px, with a tenth to spare: by so
    much may the scale of a transform differ between the middle and the corners of a frame."""


def make_drop(kernel: Kernel, shrink: float, matrix: Float64) -> Drop:
    """Return the drop of one frame.

    Parameters
    ----------
    kernel : str
        ``square``: the pixel itself, shrunk; mapped corner by corner, so that it turns with the frame. ``circular``:
        disc whose diameter is the shrunk pixel. ``gaussian``: of that full width at half maximum, of the same width
        in all directions, integrated over the output pixels, cut at 3 standard deviations. ``point``: everything falls
        into the output pixel under the centre.
    shrink : float
        Side of the drop, frame px; above 0, at most 1.
    matrix : (2, 2) float64 ndarray
        Derivative of output by frame coordinates in the middle of the frame, `scale` included.

    Raises
    ------
    ValueError
        If `shrink` is out of its range.
    """
    if not 0.0 < shrink <= 1.0:
        raise ValueError(f"shrink is {shrink}, expected above 0 and at most 1")
    stretch = 1.1 * float(np.linalg.norm(matrix, 2))
    none = np.zeros((0, 2)), np.zeros((0, 0), np.float32)
    if kernel == "square":
        outline = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]]) * shrink
        return Drop(outline, none[1], math.sqrt(0.5) * shrink * stretch)
    if kernel == "circular":
        # The radius of the circle around a polygon of the disc's area.
        turn = 2.0 * math.pi / CIRCLE_SIDES
        radius = 0.5 * shrink * math.sqrt(turn / math.sin(turn))
        angles = turn * (np.arange(CIRCLE_SIDES) + 0.5)
        outline = radius * np.column_stack([np.cos(angles), np.sin(angles)])
        return Drop(outline, none[1], radius * stretch)
    if kernel == "point":
        return Drop(none[0], np.ones((1, 1), np.float32), 0.5)
    sigma = shrink * math.sqrt(abs(float(np.linalg.det(matrix)))) / _FWHM
    cells = math.ceil(GAUSSIAN_REACH * sigma + 0.5)
    phase = (np.arange(_PHASES) + 0.5) / _PHASES
    edges = np.arange(-cells, cells + 2)[None, :] - phase[:, None]
    below = np.array([[math.erf(v / (sigma * math.sqrt(2.0))) for v in row] for row in edges])
    shares = np.diff(below, axis=1)
    shares /= shares.sum(axis=1, keepdims=True)
    return Drop(none[0], np.ascontiguousarray(shares, np.float32), cells + 1.0)


def places(
    matrix: Float64, nodes: Float64, step: int, scale: int, blocks: tuple[int, int, int, int]
) -> NDArray[np.float64]:
    """Return where the pixels at the corners of blocks of a frame lie in the output.

    Parameters
    ----------
    matrix : (3, 3) float64 ndarray
        Reference -> frame.
    nodes : (gy, gx, 2) float64 ndarray, frame px
        Displacement that is added in the frame, at multiples of `step` px of the reference; gy = 0: none.
    step : int
    scale : int
        Output pixels per reference pixel along an axis.
    blocks : (x0, y0, x1, y1)
        First and last corner, in units of `BLOCK` pixels.

    Returns
    -------
    (y1 - y0 + 1, x1 - x0 + 1, 2) float64 ndarray
        Output (x, y) of the centres, in the coordinates of edges; each node depends on itself only.
    """
    x0, y0, x1, y1 = blocks
    out = np.empty((y1 - y0 + 1, x1 - x0 + 1, 2), np.float64)
    inverse = np.ascontiguousarray(np.linalg.inv(matrix), np.float64)
    _places(inverse, np.ascontiguousarray(nodes, np.float64), max(step, 1), float(scale), x0, y0, out)
    return out


@inline
def _unmapped(inverse: Float64, x: float, y: float) -> tuple[float, float]:
    """Return the point of the reference that a plane transform maps to (x, y)."""
    depth = inverse[2, 0] * x + inverse[2, 1] * y + inverse[2, 2]
    if not depth > 0.0:
        return _NOWHERE, _NOWHERE
    return (
        (inverse[0, 0] * x + inverse[0, 1] * y + inverse[0, 2]) / depth,
        (inverse[1, 0] * x + inverse[1, 1] * y + inverse[1, 2]) / depth,
    )


@exact
def _places(
    inverse: Float64, nodes: Float64, step: int, scale: float, block_x0: int, block_y0: int, out: Float64
) -> None:
    """Fill the nodes of `places`."""
    gy, gx = nodes.shape[0], nodes.shape[1]
    for j in range(out.shape[0]):
        for i in range(out.shape[1]):
            px = float((block_x0 + i) * BLOCK)
            py = float((block_y0 + j) * BLOCK)
            x, y = _unmapped(inverse, px, py)
            if gy > 0:
                for _ in range(_CORRECTIONS):
                    u = min(max(x / step, 0.0), float(gx - 1))
                    v = min(max(y / step, 0.0), float(gy - 1))
                    m = min(int(u), max(gx - 2, 0))
                    n = min(int(v), max(gy - 2, 0))
                    right = min(m + 1, gx - 1)
                    below = min(n + 1, gy - 1)
                    u -= m
                    v -= n
                    dx = (nodes[n, m, 0] * (1.0 - u) + nodes[n, right, 0] * u) * (1.0 - v)
                    dx += (nodes[below, m, 0] * (1.0 - u) + nodes[below, right, 0] * u) * v
                    dy = (nodes[n, m, 1] * (1.0 - u) + nodes[n, right, 1] * u) * (1.0 - v)
                    dy += (nodes[below, m, 1] * (1.0 - u) + nodes[below, right, 1] * u) * v
                    before_x, before_y = x, y
                    x, y = _unmapped(inverse, px - dx, py - dy)
                    if abs(x - before_x) + abs(y - before_y) < _CONVERGED:
                        break
            out[j, i, 0] = (x + 0.5) * scale
            out[j, i, 1] = (y + 0.5) * scale


def deposit(
    window: Float32,
    window_x0: int,
    window_y0: int,
    grid: Float64,
    drop: Drop,
    cfa: Bytes,
    colour: int,
    factors: Float64,
    weights: Float64,
    offsets: Float32,
    rejected: Bytes,
    inner: tuple[int, int, int, int],
    reference: tuple[int, int],
    scale: int,
    total: Float64,
    out_x0: int,
    out_y0: int,
    border: int,
) -> None:
    """Add the pixels of one frame to a tile of the output.

    A pixel v of colour c adds ``w a n(v)`` and ``w a`` to every output pixel, a being the share of its drop that falls
    there, w the weight of the frame and n its normalization. NaN and rejected pixels add nothing.

    Parameters
    ----------
    window : (h, w) float32 ndarray, DN
        Part of the frame, un-debayered; NaN is missing.
    window_x0, window_y0 : int
        Frame coordinates of ``window[0, 0]``.
    grid : (gy, gx, 2) float64 ndarray
        From `places`; the blocks that hold the window, from ``window_x0 // BLOCK, window_y0 // BLOCK`` on.
    drop : Drop
        Form of the drops.
    cfa : (p, q) uint8 ndarray
        Plane of the frame's pixel at ``[y % p, x % q]``; (1, 1) for mono.
    colour : int
        Add the pixels of this plane only; -1 for all.
    factors, weights : (C,) float64 ndarray
        Of each plane.
    offsets : (C, k, rh, rw) float32 ndarray, DN
        At the pixels of the reference in the rectangle `inner`; (C, k, 1, 1) for the same everywhere. With k = 1 the
        normalization is ``v factor + offset``. With k = 4 it is ``(v - m) s + m0`` of the layers m, m0 and the scales
        s below and above m, as of `wbpy.kernels.local_normalization.apply_sided`, and `factors` has no part in it.
    rejected : (C, rh, rw / 8) uint8 ndarray
        Bits, first in the highest, of the samples of this frame in `inner` that the integration rejected, 1 for
        rejected; `NO_MASK` for none. A pixel counts as rejected where the reference pixel nearest to its centre is.
    inner : (x0, y0, x1, y1)
        Rectangle of the reference, x0 a multiple of 8 px; must hold all pixels of the reference that centres of
        drops on the tile may fall on.
    reference : (height, width)
        Size of the reference; centres beyond take the offset of its border and are not rejected.
    scale : int
        Output pixels per reference pixel along an axis.
    total : (C, h + 2 border, w + 2 border, 2) float64 ndarray
        Sums of weight x value and of weight; added to.
    out_x0, out_y0 : int
        Output coordinates of ``total[:, border, border]``.
    border : int
        Rim around the tile that takes what falls beside it, at least ``2 drop.reach + 2``, output px.

    Raises
    ------
    ValueError
        If grid, border or rectangle do not fit.
    """
    h, w = window.shape
    block_x0, block_y0 = window_x0 // BLOCK, window_y0 // BLOCK
    rows, columns = -(-(window_y0 + h) // BLOCK) - block_y0, -(-(window_x0 + w) // BLOCK) - block_x0
    if grid.shape[0] < rows + 1 or grid.shape[1] < columns + 1:
        raise ValueError(f"grid is {grid.shape[:2]}, expected at least {(rows + 1, columns + 1)}")
    if border < 2 * drop.reach + 2:
        raise ValueError(f"border is {border} px, expected at least {2 * drop.reach + 2}")
    x0, y0, x1, y1 = inner
    if x0 % 8 or (rejected.size and rejected.shape[1:] != (y1 - y0, -(-(x1 - x0) // 8))):
        raise ValueError(f"rejected is {rejected.shape} for {inner}")
    if offsets.shape[1] not in (1, 4) or offsets.shape[2:] not in ((1, 1), (y1 - y0, x1 - x0)):
        raise ValueError(f"offsets are {offsets.shape} for {inner}")
    _deposit(
        np.ascontiguousarray(window, np.float32),
        window_x0,
        window_y0,
        grid,
        drop.outline,
        drop.shares,
        drop.reach,
        cfa,
        colour,
        factors,
        weights,
        np.ascontiguousarray(offsets),
        np.ascontiguousarray(rejected),
        x0,
        y0,
        reference[0],
        reference[1],
        float(scale),
        total,
        out_x0,
        out_y0,
        border,
    )


@fast
def _deposit(
    window: Float32,
    window_x0: int,
    window_y0: int,
    grid: Float64,
    outline: Float64,
    shares: Float32,
    reach: float,
    cfa: Bytes,
    colour: int,
    factors: Float64,
    weights: Float64,
    offsets: Float32,
    rejected: Bytes,
    inner_x0: int,
    inner_y0: int,
    reference_h: int,
    reference_w: int,
    scale: float,
    total: Float64,
    out_x0: int,
    out_y0: int,
    border: int,
) -> None:
    """Visit the blocks of the window row by row; see `deposit`."""
    h, w = window.shape
    tile_h, tile_w = total.shape[1] - 2 * border, total.shape[2] - 2 * border
    period_y, period_x = cfa.shape
    block_x0, block_y0 = window_x0 // BLOCK, window_y0 // BLOCK
    most = outline.shape[0]
    largest = max(shares.shape[1], int(math.ceil(2.0 * reach)) + 2)
    edges = np.empty((max(most, 1), 6), np.float32)
    cells = np.empty((largest, largest, BLOCK), np.float32)
    left = np.empty((largest + 1, BLOCK), np.float32)
    spans = np.empty((3, BLOCK), np.float32)
    px = np.empty(BLOCK, np.float64)
    py = np.empty(BLOCK, np.float64)
    base_x = np.empty(BLOCK, np.int64)
    base_y = np.empty(BLOCK, np.int64)
    constant = offsets.shape[2] == 1 and offsets.shape[3] == 1
    sided = offsets.shape[1] == 4
    masked = rejected.shape[0] > 0
    # What cannot touch the tile is left out: rounding of a place must not decide, hence a pixel more.
    near = reach + 1.0
    for y in range(window_y0, window_y0 + h):
        j = y // BLOCK - block_y0
        v = (y - (block_y0 + j) * BLOCK) / BLOCK
        source = window[y - window_y0]
        for i in range((w + window_x0 - 1) // BLOCK - block_x0 + 1):
            first_x = grid[j, i, 0] + v * (grid[j + 1, i, 0] - grid[j, i, 0])
            first_y = grid[j, i, 1] + v * (grid[j + 1, i, 1] - grid[j, i, 1])
            last_x = grid[j, i + 1, 0] + v * (grid[j + 1, i + 1, 0] - grid[j, i + 1, 0])
            last_y = grid[j, i + 1, 1] + v * (grid[j + 1, i + 1, 1] - grid[j, i + 1, 1])
            if (
                max(first_x, last_x) + near < out_x0
                or min(first_x, last_x) - near > out_x0 + tile_w
                or max(first_y, last_y) + near < out_y0
                or min(first_y, last_y) - near > out_y0 + tile_h
                or min(first_x, first_y, last_x, last_y) < 0.5 * _NOWHERE
            ):
                continue
            step_x = (last_x - first_x) / BLOCK
            step_y = (last_y - first_y) / BLOCK
            for k in range(BLOCK):
                px[k] = first_x + k * step_x
                py[k] = first_y + k * step_y
            if most > 0:
                nx, ny, low_x, low_y = _mapped_edges(outline, grid, i, j, edges)
                # Only a homography that stretches its corners by more than a tenth gets here with a larger drop.
                nx = min(nx, largest)
                ny = min(ny, largest)
                _polygon_cells(px, py, edges, nx, ny, low_x, low_y, left, spans, cells, base_x, base_y)
            else:
                nx = ny = shares.shape[1]
                _separable_cells(px, py, shares, cells, base_x, base_y)
            x_start = (block_x0 + i) * BLOCK
            for k in range(max(0, window_x0 - x_start), min(BLOCK, window_x0 + w - x_start)):
                x = x_start + k
                c = int(cfa[y % period_y, x % period_x])
                value = np.float64(source[x - window_x0])
                if value - value != 0.0 or (colour >= 0 and c != colour):
                    continue
                row = base_y[k] - out_y0
                column = base_x[k] - out_x0
                if row + ny <= 0 or column + nx <= 0 or row >= tile_h or column >= tile_w:
                    continue
                row += border
                column += border
                if masked or not constant:
                    rx = int(math.floor(px[k] / scale))
                    ry = int(math.floor(py[k] / scale))
                    if masked and 0 <= rx < reference_w and 0 <= ry < reference_h:
                        at = rx - inner_x0
                        if rejected[c, ry - inner_y0, at >> 3] >> (7 - (at & 7)) & 1:
                            continue
                    rx = min(max(rx, 0), reference_w - 1)
                    ry = min(max(ry, 0), reference_h - 1)
                over = 0 if constant else ry - inner_y0
                along = 0 if constant else rx - inner_x0
                if sided:
                    away = value - np.float64(offsets[c, 0, over, along])
                    slope = offsets[c, 2, over, along] if away < 0.0 else offsets[c, 3, over, along]
                    value = away * np.float64(slope) + np.float64(offsets[c, 1, over, along])
                else:
                    value = value * factors[c] + np.float64(offsets[c, 0, over, along])
                weight = weights[c]
                for r in range(ny):
                    for s in range(nx):
                        share = np.float64(cells[r, s, k]) * weight
                        total[c, row + r, column + s, 0] += share * value
                        total[c, row + r, column + s, 1] += share


@exact
def _mapped_edges(outline: Float64, grid: Float64, i: int, j: int, edges: Float32) -> tuple[int, int, float, float]:
    """Fill the sides of the drop of one block; return the output pixels it may touch along x and y, and its low ends.

    ``edges[e]``: x and y of the upper end and y of the lower end from the centre, output px; dx / dy;
    dy / (2 dx); the sign of the side, minus on the right, over the area of the drop.
    """
    half = 0.5 / BLOCK
    xx = (grid[j, i + 1, 0] - grid[j, i, 0] + grid[j + 1, i + 1, 0] - grid[j + 1, i, 0]) * half
    yx = (grid[j, i + 1, 1] - grid[j, i, 1] + grid[j + 1, i + 1, 1] - grid[j + 1, i, 1]) * half
    xy = (grid[j + 1, i, 0] - grid[j, i, 0] + grid[j + 1, i + 1, 0] - grid[j, i + 1, 0]) * half
    yy = (grid[j + 1, i, 1] - grid[j, i, 1] + grid[j + 1, i + 1, 1] - grid[j, i + 1, 1]) * half
    most = outline.shape[0]
    area = 0.0
    low_x = low_y = high_x = high_y = 0.0
    for e in range(most):
        n = (e + 1) % most
        x = xx * outline[e, 0] + xy * outline[e, 1]
        y = yx * outline[e, 0] + yy * outline[e, 1]
        next_x = xx * outline[n, 0] + xy * outline[n, 1]
        next_y = yx * outline[n, 0] + yy * outline[n, 1]
        area += 0.5 * (x * next_y - next_x * y)
        low_x, high_x = min(low_x, x), max(high_x, x)
        low_y, high_y = min(low_y, y), max(high_y, y)
    for e in range(most):
        n = (e + 1) % most
        x = xx * outline[e, 0] + xy * outline[e, 1]
        y = yx * outline[e, 0] + yy * outline[e, 1]
        next_x = xx * outline[n, 0] + xy * outline[n, 1]
        next_y = yx * outline[n, 0] + yy * outline[n, 1]
        sign = -1.0 / area
        if next_y < y:
            x, y, next_x, next_y = next_x, next_y, x, y
            sign = -sign
        height = next_y - y
        slope = (next_x - x) / height if height > 1e-9 else 0.0
        edges[e, 0] = x
        edges[e, 1] = y
        edges[e, 2] = next_y if height > 1e-9 else y
        edges[e, 3] = slope
        edges[e, 4] = 0.5 / abs(slope) if abs(slope) > 1e-7 else 0.0
        edges[e, 5] = sign
    return int(math.ceil(high_x - low_x)) + 1, int(math.ceil(high_y - low_y)) + 1, low_x, low_y


@fast
def _polygon_cells(
    px: Float64,
    py: Float64,
    edges: Float32,
    nx: int,
    ny: int,
    low_x: float,
    low_y: float,
    left: Float32,
    spans: Float32,
    cells: Float32,
    base_x: NDArray[np.int64],
    base_y: NDArray[np.int64],
) -> None:
    """Fill the share of each drop in the ny x nx output pixels from its base on.

    Within one row of pixels the area of a drop left of x is the sum over its sides of the integral of
    max(0, x - x(t)) dt, minus on the right: for a side that runs from a to b along x, a quadratic up to b and linear
    from there on. The difference between the two ends of a pixel is what it holds. Exact up to rounding.
    """
    zero, one = np.float32(0.0), np.float32(1.0)
    fx = np.empty(BLOCK, np.float32)
    fy = np.empty(BLOCK, np.float32)
    for k in range(BLOCK):
        floor_x = math.floor(px[k] + low_x)
        floor_y = math.floor(py[k] + low_y)
        base_x[k] = int(floor_x)
        base_y[k] = int(floor_y)
        fx[k] = np.float32(px[k] - floor_x)
        fy[k] = np.float32(py[k] - floor_y)
    dy, near, far = spans[0], spans[1], spans[2]
    for r in range(ny):
        left[:] = zero
        for e in range(edges.shape[0]):
            top_x, slope = edges[e, 0], edges[e, 3]
            top, bottom = edges[e, 1] - np.float32(r), edges[e, 2] - np.float32(r)
            bend, sign = edges[e, 4], edges[e, 5]
            for k in range(BLOCK):
                a = top + fy[k]
                b = bottom + fy[k]
                t = a if a > zero else zero
                t = t if t < one else one
                u = b if b > zero else zero
                u = u if u < one else one
                start = fx[k] + top_x + slope * (t - a)
                end = start + slope * (u - t)
                dy[k] = u - t
                near[k] = start if start < end else end
                far[k] = end if start < end else start
            for line in range(1, nx + 1):
                x = np.float32(line)
                row = left[line]
                for k in range(BLOCK):
                    inside = x - near[k]
                    inside = inside if inside > zero else zero
                    width = far[k] - near[k]
                    inside = inside if inside < width else width
                    beyond = x - far[k]
                    beyond = beyond if beyond > zero else zero
                    row[k] += sign * (inside * inside * bend + dy[k] * beyond)
        for line in range(nx):
            for k in range(BLOCK):
                share = left[line + 1, k] - left[line, k]
                cells[r, line, k] = share if share > _NEGLIGIBLE else zero


@fast
def _separable_cells(
    px: Float64,
    py: Float64,
    shares: Float32,
    cells: Float32,
    base_x: NDArray[np.int64],
    base_y: NDArray[np.int64],
) -> None:
    """Fill the share of each drop in the output pixels around its centre."""
    n = shares.shape[1]
    for k in range(BLOCK):
        floor_x = math.floor(px[k])
        floor_y = math.floor(py[k])
        base_x[k] = int(floor_x) - n // 2
        base_y[k] = int(floor_y) - n // 2
        at_x = min(int((px[k] - floor_x) * shares.shape[0]), shares.shape[0] - 1)
        at_y = min(int((py[k] - floor_y) * shares.shape[0]), shares.shape[0] - 1)
        for r in range(n):
            for s in range(n):
                cells[r, s, k] = shares[at_y, r] * shares[at_x, s]


@exact
def finish(
    total: Float64,
    border: int,
    norm: float,
    little: float,
    first: NDArray[np.int32],
    end: NDArray[np.int32],
    image: Float32,
    weight: Float32,
) -> tuple[int, int]:
    """Fill the mean of one plane of a tile and its weight from the sums of `deposit`; return its holes and thin places.

    Parameters
    ----------
    total : (h + 2 border, w + 2 border, 2) float64 ndarray
    border : int
    norm : float
        Multiplies the weights.
    little : float
        Weight, multiplied, below which a pixel is thinly covered.
    first, end : (h,) int32 ndarray
        Columns ``first <= x < end`` of each row that are looked at for holes and thin places.
    image : (h, w) float32 ndarray, DN
        Filled; NaN where nothing fell.
    weight : (h, w) float32 ndarray
        Filled.

    Returns
    -------
    holes, thin : int
        Pixels into which nothing fell, and those with less than `little`, holes included.
    """
    h, w = image.shape
    holes = thin = 0
    for y in range(h):
        for x in range(w):
            below = total[y + border, x + border, 1]
            image[y, x] = total[y + border, x + border, 0] / below if below > 0.0 else np.nan
            weight[y, x] = below * norm
        for x in range(first[y], end[y]):
            holes += weight[y, x] == 0.0
            thin += weight[y, x] < little
    return holes, thin
