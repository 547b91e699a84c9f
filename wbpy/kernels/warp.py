"""Resampling through a plane transform: Lanczos-3 with clamped negative lobes, bilinear, nearest.

The transform maps output coordinates to source coordinates, the direction in which resampling asks. Every kernel
works on a tile of the output and a window of the source, both placed in their full frames by integer offsets.
Coordinates are computed in float64 from the absolute position of the output pixel and rounded to 1/4096 of a
source pixel (an error of at most 1/8192), so a sample depends on its position and the source values under it, never
on how the frame was cut.

References
----------
Duchon C. E. 1979, J. Appl. Meteor. 18, 1016 (the Lanczos window); Turkowski K. 1990, Graphics Gems I, "Filters for
common resampling tasks" (the three-lobed kernel).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wbpy.kernels.jit import exact, fast

Image = NDArray[np.float32]
Matrix = NDArray[np.float64]

LANCZOS3_HALO = 3
BILINEAR_HALO = 1
NEAREST_HALO = 1
HALO = {"lanczos3": LANCZOS3_HALO, "bilinear": BILINEAR_HALO, "nearest": NEAREST_HALO}

_PHASE_BITS = 12
_PHASES = 1 << _PHASE_BITS
# Far below zero, so that no rounding or halo brings it back into a frame.
_OUTSIDE = -(1 << 50)
# Beyond this no frame reaches; the test comes before the conversion to an integer, which would overflow.
_FAR = 2.0**40
# Expected minimum of 6 and of 36 standard normal deviates, sign dropped (Harter 1961, Biometrika 48, 151).
_LOWEST_OF_6 = 1.26721
_LOWEST_OF_36 = 2.11812


def _lanczos3_table() -> NDArray[np.float32]:
    """Return six normalised weights a phase; the row is padded to 8 so that an offset is a shift."""
    phase = np.arange(_PHASES) / _PHASES
    d = phase[:, None] - np.arange(-2, 4)[None, :]
    weight = np.sinc(d) * np.sinc(d / 3.0)
    weight /= weight.sum(axis=1, keepdims=True)
    table = np.zeros((_PHASES, 8), dtype=np.float32)
    table[:, :6] = weight
    return table


_LANCZOS3 = _lanczos3_table()


def source_window(
    matrix: Matrix, x0: int, y0: int, tw: int, th: int, width: int, height: int, halo: int
) -> tuple[int, int, int, int]:
    """Return the source rectangle that a tile of the output needs.

    Parameters
    ----------
    matrix : (3, 3) float64 ndarray
        Maps output ``(x, y)`` to source ``(x, y)``.
    x0, y0, tw, th : int
        Origin and size of the output tile.
    width, height : int
        Size of the source frame.
    halo : int
        Reach of the kernel: `LANCZOS3_HALO`, `BILINEAR_HALO` or `NEAREST_HALO`.

    Returns
    -------
    (sx0, sy0, sx1, sy1) : int
        Half-open rectangle inside the source frame; empty (``sx0 == sx1`` or ``sy0 == sy1``) where the tile does
        not meet it. The whole frame if the horizon of the homography crosses the tile.
    """
    x = np.array([x0, x0 + tw - 1, x0, x0 + tw - 1], dtype=np.float64)
    y = np.array([y0, y0, y0 + th - 1, y0 + th - 1], dtype=np.float64)
    depth = matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2]
    if not (np.isfinite(depth).all() and (depth > 0.0).all()):
        return (0, 0, 0, 0) if (depth <= 0.0).all() else (0, 0, width, height)
    # A homography without horizon in the tile maps it to a convex quadrilateral: the corners bound it.
    sx = (matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2]) / depth
    sy = (matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]) / depth
    if not (np.isfinite(sx).all() and np.isfinite(sy).all()):
        return (0, 0, width, height)
    left = min(max(math.floor(sx.min()) - halo, 0), width)
    top = min(max(math.floor(sy.min()) - halo, 0), height)
    # One more than the halo: a coordinate may be rounded up to the next integer.
    right = max(min(math.floor(sx.max()) + halo + 2, width), left)
    bottom = max(min(math.floor(sy.max()) + halo + 2, height), top)
    return left, top, right, bottom


def lanczos3(
    window: NDArray[Any],
    window_x0: int,
    window_y0: int,
    matrix: Matrix,
    out: Image,
    out_x0: int,
    out_y0: int,
    clamp: float = 0.3,
) -> None:
    """Fill `out` with `window` resampled by a Lanczos-3 kernel whose negative lobes are clamped.

    Weights are normalised to the sum 1. Beside a bright star the negative lobes can dig a hollow deeper than any
    pixel under the kernel. The local noise and background are taken from the six column minima of the footprint:
    in normal noise their mean lies 1.267 sigma and their minimum 2.118 sigma below the background, star or not.
    A sample more than `clamp` sigma below the lowest pixel is drawn towards the background, linearly with its
    depth, and set to it from one sigma deeper on.

    The rule used elsewhere (PixInsight class library, LanczosInterpolation: weaken the negative terms where their
    share exceeds a threshold) was measured and left: it assumes values above zero, and above the background it
    adds 4 % to the flux of a bright star of FWHM 2 px and 1 % at 2.5 px. This one adds 0.3 % and 0.003 %, and
    shifts the mean of pure noise by less than 0.1 % of its sigma.

    Parameters
    ----------
    window : (C, h, w) float32 ndarray, DN
        Part of the source frame; NaN is missing.
    window_x0, window_y0 : int
        Source coordinates of ``window[:, 0, 0]``.
    matrix : (3, 3) float64 ndarray
        Maps output ``(x, y)`` to source ``(x, y)``.
    out : (C, th, tw) float32 ndarray, C-contiguous
        Tile of the output, overwritten. NaN where the footprint leaves the window or holds a NaN. Where both
        source coordinates are integers (within 1/8192) the footprint is that one pixel and its value is copied.
    out_x0, out_y0 : int
        Output coordinates of ``out[:, 0, 0]``.
    clamp : float
        Standard deviations of the local noise below the lowest pixel at which clamping starts, zero or more;
        infinity makes the kernel linear.

    Raises
    ------
    ValueError
        If the numbers of planes differ, `out` is not C-contiguous, or `clamp` is negative.
    """
    if not clamp >= 0.0:
        raise ValueError(f"clamp must not be negative, it is {clamp}")
    source, m = _prepared(window, matrix, out)
    # A large finite number stands for infinity: infinity times a sigma of zero would be NaN.
    limit = np.float32(min(clamp, 1e30))
    _lanczos3(source, window_x0, window_y0, m, out, out_x0, out_y0, limit, _LANCZOS3)


def bilinear(
    window: NDArray[Any],
    window_x0: int,
    window_y0: int,
    matrix: Matrix,
    out: Image,
    out_x0: int,
    out_y0: int,
    clamp: float = 0.0,
) -> None:
    """Fill `out` with `window` resampled by linear interpolation in x and y.

    Parameters and NaN rules are those of `lanczos3`; the footprint is 2x2, 1x2, 2x1 or one pixel. `clamp` has no
    effect: weights are never negative. It is there so that the three kernels can be exchanged.
    """
    source, m = _prepared(window, matrix, out)
    _bilinear(source, window_x0, window_y0, m, out, out_x0, out_y0)


def nearest(
    window: NDArray[Any],
    window_x0: int,
    window_y0: int,
    matrix: Matrix,
    out: Image,
    out_x0: int,
    out_y0: int,
    clamp: float = 0.0,
) -> None:
    """Fill `out` with the source pixel nearest to each output pixel; half-way coordinates go up.

    Parameters and NaN rules are those of `lanczos3`; the footprint is one pixel. `clamp` has no effect.
    """
    source, m = _prepared(window, matrix, out)
    _nearest(source, window_x0, window_y0, m, out, out_x0, out_y0)


def _prepared(window: NDArray[Any], matrix: Matrix, out: Image) -> tuple[Image, Matrix]:
    if window.ndim != 3 or out.ndim != 3 or window.shape[0] != out.shape[0]:
        raise ValueError(f"window {window.shape} and out {out.shape} must have the same number of planes")
    if out.dtype != np.float32 or not out.flags.c_contiguous:
        raise ValueError("out must be a C-contiguous float32 array")
    return (
        np.ascontiguousarray(window, dtype=np.float32),
        np.ascontiguousarray(matrix, dtype=np.float64),
    )


@exact
def _row_coordinates(
    matrix: Matrix,
    y: int,
    x0: int,
    window_x0: int,
    window_y0: int,
    px: NDArray[np.int64],
    py: NDArray[np.int64],
) -> None:
    """Fill `px`, `py` with window coordinates in 1/4096 px for one output row; `_OUTSIDE` if not in any frame.

    Compiled on its own without fused operations: the last bit must not depend on which loop it ends up in.
    """
    bx = matrix[0, 1] * y + matrix[0, 2]
    by = matrix[1, 1] * y + matrix[1, 2]
    bw = matrix[2, 1] * y + matrix[2, 2]
    affine = matrix[2, 0] == 0.0 and matrix[2, 1] == 0.0
    m00, m10, m20 = matrix[0, 0], matrix[1, 0], matrix[2, 0]
    if affine:
        m00, m10, bx, by, bw = m00 / bw, m10 / bw, bx / bw, by / bw, 1.0
    shift_x, shift_y = window_x0 * _PHASES, window_y0 * _PHASES
    for i in range(px.size):
        x = float(x0 + i)
        sx = m00 * x + bx
        sy = m10 * x + by
        depth = bw
        if not affine:
            depth = m20 * x + bw
            sx /= depth
            sy /= depth
        if depth > 0.0 and abs(sx) < _FAR and abs(sy) < _FAR:
            px[i] = int(math.floor(sx * _PHASES + 0.5)) - shift_x
            py[i] = int(math.floor(sy * _PHASES + 0.5)) - shift_y
        else:
            px[i] = _OUTSIDE
            py[i] = _OUTSIDE


@fast
def _clamped(flat: Image, offset: np.uintp, stride: np.uintp, sample: np.float32, clamp: np.float32) -> Any:
    """Return the sample raised out of a ringing hollow; the rule is in `lanczos3`."""
    lowest = flat[offset]
    mean = np.float32(0.0)
    for i in range(6):
        column = flat[offset + np.uintp(i)]
        for j in range(1, 6):
            value = flat[offset + np.uintp(i) + np.uintp(j) * stride]
            if value < column:
                column = value
        # One pixel at or below the sample proves that it is no hollow: nearly all calls end here.
        if not column > sample:
            return sample
        if column < lowest:
            lowest = column
        mean += column
    mean = mean * np.float32(1.0 / 6.0)
    sigma = (mean - lowest) * np.float32(1.0 / (_LOWEST_OF_36 - _LOWEST_OF_6))
    depth = lowest - clamp * sigma - sample
    if not depth > np.float32(0.0):
        return sample
    background = mean + np.float32(_LOWEST_OF_6) * sigma
    if depth >= sigma:
        return background
    return sample + depth / sigma * (background - sample)


@fast
def _lanczos3(
    window: Image,
    window_x0: int,
    window_y0: int,
    matrix: Matrix,
    out: Image,
    out_x0: int,
    out_y0: int,
    clamp: np.float32,
    table: NDArray[np.float32],
) -> None:
    planes, h, w = window.shape
    th, tw = out.shape[1], out.shape[2]
    px = np.empty(tw, np.int64)
    py = np.empty(tw, np.int64)
    # Unsigned flat offsets: a signed index costs a test for negative values at every access.
    stride = np.uintp(w)
    weights = table.reshape(-1)
    for y in range(th):
        _row_coordinates(matrix, out_y0 + y, out_x0, window_x0, window_y0, px, py)
        for c in range(planes):
            flat = window[c].reshape(-1)
            row = out[c, y]
            for x in range(tw):
                ix = px[x] >> _PHASE_BITS
                iy = py[x] >> _PHASE_BITS
                phase_x = px[x] & (_PHASES - 1)
                phase_y = py[x] & (_PHASES - 1)
                if phase_x == 0 and phase_y == 0:
                    inside = ix >= 0 and iy >= 0 and ix < w and iy < h
                    row[x] = flat[np.uintp(iy * w + ix)] if inside else np.float32(np.nan)
                    continue
                if ix < 2 or iy < 2 or ix > w - 4 or iy > h - 4:
                    row[x] = np.float32(np.nan)
                    continue
                offset = np.uintp((iy - 2) * w + ix - 2)
                kx = np.uintp(phase_x * 8)
                ky = np.uintp(phase_y * 8)
                y0 = weights[ky]
                y1 = weights[ky + np.uintp(1)]
                y2 = weights[ky + np.uintp(2)]
                y3 = weights[ky + np.uintp(3)]
                y4 = weights[ky + np.uintp(4)]
                y5 = weights[ky + np.uintp(5)]
                o1 = offset + stride
                o2 = o1 + stride
                o3 = o2 + stride
                o4 = o3 + stride
                o5 = o4 + stride
                total = np.float32(0.0)
                for k in range(6):
                    i = np.uintp(k)
                    total += weights[kx + i] * (
                        y0 * flat[offset + i]
                        + y1 * flat[o1 + i]
                        + y2 * flat[o2 + i]
                        + y3 * flat[o3 + i]
                        + y4 * flat[o4 + i]
                        + y5 * flat[o5 + i]
                    )
                # A hollow lies below every pixel of its footprint: the inner four settle nearly all cases.
                a = o2 + np.uintp(2)
                b = o3 + np.uintp(2)
                low = flat[a]
                if flat[a + np.uintp(1)] < low:
                    low = flat[a + np.uintp(1)]
                if flat[b] < low:
                    low = flat[b]
                if flat[b + np.uintp(1)] < low:
                    low = flat[b + np.uintp(1)]
                if total < low:
                    total = _clamped(flat, offset, stride, total, clamp)
                row[x] = total


@fast
def _bilinear(
    window: Image, window_x0: int, window_y0: int, matrix: Matrix, out: Image, out_x0: int, out_y0: int
) -> None:
    planes, h, w = window.shape
    px = np.empty(out.shape[2], np.int64)
    py = np.empty(out.shape[2], np.int64)
    for y in range(out.shape[1]):
        _row_coordinates(matrix, out_y0 + y, out_x0, window_x0, window_y0, px, py)
        for c in range(planes):
            flat = window[c].reshape(-1)
            for x in range(out.shape[2]):
                ix = px[x] >> _PHASE_BITS
                iy = py[x] >> _PHASE_BITS
                phase_x = px[x] & (_PHASES - 1)
                phase_y = py[x] & (_PHASES - 1)
                # The right and lower neighbours are needed only where they carry weight.
                jx = ix + (1 if phase_x > 0 else 0)
                jy = iy + (1 if phase_y > 0 else 0)
                if ix < 0 or iy < 0 or jx >= w or jy >= h:
                    out[c, y, x] = np.float32(np.nan)
                    continue
                fx = np.float32(phase_x) * np.float32(1.0 / _PHASES)
                fy = np.float32(phase_y) * np.float32(1.0 / _PHASES)
                upper = flat[np.uintp(iy * w + ix)]
                lower = flat[np.uintp(jy * w + ix)]
                upper = upper + fx * (flat[np.uintp(iy * w + jx)] - upper)
                lower = lower + fx * (flat[np.uintp(jy * w + jx)] - lower)
                out[c, y, x] = upper + fy * (lower - upper)


@fast
def _nearest(
    window: Image, window_x0: int, window_y0: int, matrix: Matrix, out: Image, out_x0: int, out_y0: int
) -> None:
    planes, h, w = window.shape
    px = np.empty(out.shape[2], np.int64)
    py = np.empty(out.shape[2], np.int64)
    for y in range(out.shape[1]):
        _row_coordinates(matrix, out_y0 + y, out_x0, window_x0, window_y0, px, py)
        for c in range(planes):
            flat = window[c].reshape(-1)
            for x in range(out.shape[2]):
                ix = (px[x] + _PHASES // 2) >> _PHASE_BITS
                iy = (py[x] + _PHASES // 2) >> _PHASE_BITS
                if ix >= 0 and iy >= 0 and ix < w and iy < h:
                    out[c, y, x] = flat[np.uintp(iy * w + ix)]
                else:
                    out[c, y, x] = np.float32(np.nan)
