"""Resampling through a plane transform and a displacement: Lanczos, bicubic, bilinear, nearest, area.

The transform maps output coordinates to source coordinates, the direction in which resampling asks. Every kernel
works on a tile of the output and a window of the source, both placed in their full frames by integer offsets.
Coordinates are computed in float64 from the absolute position of the output pixel and rounded to 1/4096 of a
source pixel (an error of at most 1/8192), so a sample depends on its position and the source values under it, never
on how the frame was cut.

References
----------
Duchon C. E. 1979, J. Appl. Meteor. 18, 1016 (the Lanczos window); Turkowski K. 1990, Graphics Gems I, "Filters for
common resampling tasks" (the three-lobed kernel); Keys R. G. 1981, IEEE Trans. ASSP 29, 1153 (cubic convolution).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wbpy.kernels import distortion, transforms
from wbpy.kernels.jit import exact, fast

Image = NDArray[np.float32]
Matrix = NDArray[np.float64]
Taps = tuple[int, ...]
"""As many numbers as the kernel has taps: the length of a tuple is a constant for the compiler, which unrolls loops."""

_PHASE_BITS = 12
_PHASES = 1 << _PHASE_BITS
# Far below zero, so that no rounding or halo brings it back into a frame.
_OUTSIDE = -(1 << 50)
# Beyond this no frame reaches; the test comes before the conversion to an integer, which would overflow.
_FAR = 2.0**40
# Expected minimum of n normal deviates, sign dropped (Harter 1961, Biometrika 48, 151).
_LOWEST = np.zeros(65)
_LOWEST[[4, 6, 8, 16, 36, 64]] = 1.02938, 1.26721, 1.42360, 1.76599, 2.11812, 2.34373


def _lanczos(distance: NDArray[np.float64], lobes: int) -> NDArray[np.float64]:
    return np.asarray(np.sinc(distance) * np.sinc(distance / lobes))


def _catmull_rom(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the cubic of Keys 1981, eq. 4, with a = -1/2."""
    d = np.abs(distance)
    inner, outer = (1.5 * d - 2.5) * d * d + 1.0, ((-0.5 * d + 2.5) * d - 4.0) * d + 2.0
    return np.where(d < 1.0, inner, np.where(d < 2.0, outer, 0.0))


def _table(taps: int, kernel: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> NDArray[np.float32]:
    """Return normalised weights a phase; the row is padded to 8 so that an offset is a shift."""
    phase = np.arange(_PHASES) / _PHASES
    weight = kernel(phase[:, None] - np.arange(1 - taps // 2, taps // 2 + 1)[None, :])
    weight /= weight.sum(axis=1, keepdims=True)
    table = np.zeros((_PHASES, 8), dtype=np.float32)
    table[:, :taps] = weight
    return table


_TABLES = {
    "lanczos3": (6, _table(6, lambda d: _lanczos(d, 3))),
    "lanczos4": (8, _table(8, lambda d: _lanczos(d, 4))),
    "bicubic": (4, _table(4, _catmull_rom)),
}
# Samples that are computed together at most, and up to which slope that pays.
_RUN = 64
_LINED = 0.04
_AREA_FROM = 1.5
_UNDERSAMPLED = 1.5
_LARGEST_AREA = 16


def source_window(
    matrix: Matrix,
    x0: int,
    y0: int,
    tw: int,
    th: int,
    width: int,
    height: int,
    margin: int,
    displacement: NDArray[np.float64] | None = None,
    step: int = 0,
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
    margin : int
        Reach of the kernel, see `halo`.
    displacement : (K, gy, gx, 2) float64 ndarray, optional
        Of all channels that are to be read, see `wbpy.kernels.distortion`.
    step : int
        Distance of its nodes, px.

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
    reaches = [(0.0, 0.0, 0.0, 0.0)]
    if displacement is not None and displacement.size:
        reaches = [distortion.reach(nodes, step, x0, y0, tw, th) for nodes in displacement]
    west, east, north, south = (
        pick(side) for pick, side in zip((min, max, min, max), zip(*reaches, strict=True), strict=True)
    )
    left = min(max(math.floor(sx.min() + west) - margin, 0), width)
    top = min(max(math.floor(sy.min() + north) - margin, 0), height)
    # One more than the margin: a coordinate may be rounded up to the next integer.
    right = max(min(math.floor(sx.max() + east) + margin + 2, width), left)
    bottom = max(min(math.floor(sy.max() + south) + margin + 2, height), top)
    return left, top, right, bottom


def halo(name: str, matrix: Matrix) -> int:
    """Return how many source pixels beyond a sample's position a kernel reads."""
    if name == "area":
        # Samples spread over the output pixel, half of which lies on either side.
        return 1 + math.ceil(0.75 * _scale(matrix, 0.0, 0.0))
    return _TABLES[name][0] // 2 if name in _TABLES else 1


def choose(matrix: Matrix, width: int, height: int, displaced: bool, fwhm: float = math.nan) -> str:
    """Return the kernel that suits a transform.

    "nearest" where every pixel falls on a pixel (a shift by whole pixels, a half turn, a mirror): a copy loses nothing.
    "area" where an output pixel is more than 1.5 source pixels wide: the others would leave out most of the light and
    fold fine structure over. "bicubic" where stars are less than 1.5 px wide: there clamped Lanczos adds 2 to 6 % to
    their flux, with as much scatter, and bicubic half of that. "lanczos3" otherwise.

    Parameters
    ----------
    matrix : (3, 3) float64 ndarray
        Maps output ``(x, y)`` to source ``(x, y)``.
    width, height : int
        Size of the output, px.
    displaced : bool
        Whether a displacement is added.
    fwhm : float
        Of the source's stars, source px; NaN when it is not known.
    """
    x, y = np.array([0.0, width - 1.0, 0.0, width - 1.0]), np.array([0.0, 0.0, height - 1.0, height - 1.0])
    corners = transforms.apply(matrix, np.column_stack([x, y]))
    whole = np.abs(matrix[:2, :2]).round(6).tolist() in ([[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]])
    if not displaced and whole and bool((np.abs(corners - corners.round()) < 0.5 / _PHASES).all()):
        return "nearest"
    if _scale(matrix, (width - 1) / 2, (height - 1) / 2) > _AREA_FROM:
        return "area"
    return "bicubic" if fwhm < _UNDERSAMPLED else "lanczos3"


def _scale(matrix: Matrix, x: float, y: float) -> float:
    """Return how many source pixels wide an output pixel is at a point, the larger of its axes."""
    return float(np.abs(transforms.local_scales(matrix, np.array([[x, y]]))).max())


def lanczos3(
    window: NDArray[Any],
    window_x0: int,
    window_y0: int,
    matrix: Matrix,
    out: Image,
    out_x0: int,
    out_y0: int,
    clamp: float = 0.3,
    nodes: NDArray[np.float64] = distortion.NONE,
    step: int = 0,
    saturation: float = math.inf,
) -> None:
    """Fill `out` with `window` resampled by a Lanczos-3 kernel whose negative lobes are clamped.

    Weights are normalised to the sum 1. Beside a bright star the negative lobes can dig a hollow deeper than any
    pixel under the kernel. The local noise and background are taken from the minima of the footprint's columns or
    rows, whichever are darker: in normal noise the mean of six of them lies 1.267 sigma and the lowest 2.118 sigma
    below the background, star or not. A sample more than `clamp` sigma below the lowest pixel is drawn towards the
    background, linearly with its depth, and set to it from one sigma deeper on.

    Saturated stars have edges that no optics make, and every interpolation rings at them, into halos and nebulae that
    hide the hollow from the test above. Where a pixel of the footprint is saturated, the sample is held between the
    smallest and the largest of the four pixels around it.

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
    nodes : (gy, gx, 2) float64 ndarray, source px
        Added to what the matrix gives, see `wbpy.kernels.distortion`; without rows nothing is.
    step : int
        Distance of the nodes, output px.
    saturation : float
        Level from which on a source pixel counts as saturated, DN; infinity: none does.

    Raises
    ------
    ValueError
        If the numbers of planes differ, `out` is not C-contiguous, or `clamp` is negative.
    """
    _convolve("lanczos3", window, window_x0, window_y0, matrix, out, out_x0, out_y0, clamp, nodes, step, saturation)


def lanczos4(
    window: NDArray[Any],
    window_x0: int,
    window_y0: int,
    matrix: Matrix,
    out: Image,
    out_x0: int,
    out_y0: int,
    clamp: float = 0.3,
    nodes: NDArray[np.float64] = distortion.NONE,
    step: int = 0,
    saturation: float = math.inf,
) -> None:
    """Fill `out` with `window` resampled by a Lanczos-4 kernel; everything else is as in `lanczos3`."""
    _convolve("lanczos4", window, window_x0, window_y0, matrix, out, out_x0, out_y0, clamp, nodes, step, saturation)


def bicubic(
    window: NDArray[Any],
    window_x0: int,
    window_y0: int,
    matrix: Matrix,
    out: Image,
    out_x0: int,
    out_y0: int,
    clamp: float = 0.3,
    nodes: NDArray[np.float64] = distortion.NONE,
    step: int = 0,
    saturation: float = math.inf,
) -> None:
    """Fill `out` with `window` resampled by the cubic of Catmull and Rom; everything else is as in `lanczos3`."""
    _convolve("bicubic", window, window_x0, window_y0, matrix, out, out_x0, out_y0, clamp, nodes, step, saturation)


def bilinear(
    window: NDArray[Any],
    window_x0: int,
    window_y0: int,
    matrix: Matrix,
    out: Image,
    out_x0: int,
    out_y0: int,
    clamp: float = 0.0,
    nodes: NDArray[np.float64] = distortion.NONE,
    step: int = 0,
    saturation: float = math.inf,
) -> None:
    """Fill `out` with `window` resampled by linear interpolation in x and y.

    Parameters and NaN rules are those of `lanczos3`; the footprint is 2x2, 1x2, 2x1 or one pixel. `clamp` and
    `saturation` have no effect: weights are never negative. They are there so that kernels can be exchanged.
    """
    source, m, d = _prepared(window, matrix, out, nodes, step)
    _bilinear(source, window_x0, window_y0, m, d, step, out, out_x0, out_y0)


def nearest(
    window: NDArray[Any],
    window_x0: int,
    window_y0: int,
    matrix: Matrix,
    out: Image,
    out_x0: int,
    out_y0: int,
    clamp: float = 0.0,
    nodes: NDArray[np.float64] = distortion.NONE,
    step: int = 0,
    saturation: float = math.inf,
) -> None:
    """Fill `out` with the source pixel nearest to each output pixel; half-way coordinates go up.

    Parameters and NaN rules are those of `lanczos3`; the footprint is one pixel. `clamp` and `saturation` have no
    effect.
    """
    source, m, d = _prepared(window, matrix, out, nodes, step)
    _nearest(source, window_x0, window_y0, m, d, step, out, out_x0, out_y0)


def area(
    window: NDArray[Any],
    window_x0: int,
    window_y0: int,
    matrix: Matrix,
    out: Image,
    out_x0: int,
    out_y0: int,
    clamp: float = 0.0,
    nodes: NDArray[np.float64] = distortion.NONE,
    step: int = 0,
    saturation: float = math.inf,
) -> None:
    """Fill `out` with the mean of `window` over the area of each output pixel, for output pixels larger than source's.

    The mean of ``n x n`` linear interpolations spread evenly over the output pixel, n the number of source pixels
    across it at the frame's origin, rounded up. Parameters and NaN rules are those of `lanczos3`; the footprint is
    what the interpolations touch. `clamp` and `saturation` have no effect.
    """
    source, m, d = _prepared(window, matrix, out, nodes, step)
    parts = max(1, min(_LARGEST_AREA, math.ceil(_scale(m, 0.0, 0.0) - 1e-6)))
    _area(source, window_x0, window_y0, m, d, step, out, out_x0, out_y0, parts)


KERNELS = {
    "lanczos3": lanczos3,
    "lanczos4": lanczos4,
    "bicubic": bicubic,
    "bilinear": bilinear,
    "nearest": nearest,
    "area": area,
}


def _convolve(
    name: str,
    window: NDArray[Any],
    window_x0: int,
    window_y0: int,
    matrix: Matrix,
    out: Image,
    out_x0: int,
    out_y0: int,
    clamp: float,
    nodes: NDArray[np.float64],
    step: int,
    saturation: float,
) -> None:
    if not clamp >= 0.0:
        raise ValueError(f"clamp must not be negative, it is {clamp}")
    source, m, d = _prepared(window, matrix, out, nodes, step)
    # A large finite number stands for infinity: infinity times a sigma of zero would be NaN.
    limit = np.float32(min(clamp, 1e30))
    taps, table = _TABLES[name]
    near = np.zeros((0, 0, 0), np.bool_)
    if math.isfinite(saturation) and source.size:
        near = _near_saturated(source, np.float32(saturation), taps)
    unit = m[:2, :2] / m[2, 2] if m[2, 2] != 0.0 else m[:2, :2]
    lined = abs(abs(unit[0, 0]) - 1.0) < _LINED and abs(unit[1, 0]) < _LINED
    resample = _lines if lined else _points
    resample(source, window_x0, window_y0, m, d, step, out, out_x0, out_y0, limit, table, near, (0,) * taps)


@exact
def _near_saturated(window: Image, saturation: np.float32, taps: int) -> NDArray[np.bool_]:
    """Return (C, h, w) whether the footprint of `taps` pixels around a pixel has a saturated one; (0, 0, 0) if none."""
    planes, h, w = window.shape
    before, after = taps // 2, taps // 2 - 1
    near = np.zeros((0, 0, 0), np.bool_)
    for c in range(planes):
        for y in range(h):
            row = window[c, y]
            any_saturated = False
            for x in range(w):
                any_saturated |= row[x] >= saturation
            if not any_saturated:
                continue
            if near.size == 0:
                near = np.zeros((planes, h, w), np.bool_)
            for x in range(w):
                if row[x] >= saturation:
                    near[c, max(y - before, 0) : y + after + 1, max(x - before, 0) : x + after + 1] = True
    return near


def _prepared(
    window: NDArray[Any], matrix: Matrix, out: Image, nodes: NDArray[np.float64], step: int
) -> tuple[Image, Matrix, NDArray[np.float64]]:
    if window.ndim != 3 or out.ndim != 3 or window.shape[0] != out.shape[0]:
        raise ValueError(f"window {window.shape} and out {out.shape} must have the same number of planes")
    if out.dtype != np.float32 or not out.flags.c_contiguous:
        raise ValueError("out must be a C-contiguous float32 array")
    if nodes.ndim != 3 or nodes.shape[2] != 2 or (nodes.size and step < 1):
        raise ValueError(f"nodes must be (gy, gx, 2) with a step of at least 1, they are {nodes.shape} with {step}")
    return (
        np.ascontiguousarray(window, dtype=np.float32),
        np.ascontiguousarray(matrix, dtype=np.float64),
        np.ascontiguousarray(nodes, dtype=np.float64),
    )


@exact
def _row_coordinates(
    matrix: Matrix,
    nodes: NDArray[np.float64],
    step: int,
    y: float,
    x0: float,
    spacing: float,
    window_x0: int,
    window_y0: int,
    px: NDArray[np.int64],
    py: NDArray[np.int64],
) -> None:
    """Fill `px`, `py` with window coordinates in 1/4096 px for one output row; `_OUTSIDE` if not in any frame.

    Its points lie at x0, x0 + spacing, ...

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
    displaced = nodes.shape[0] > 0
    count = px.size if displaced else 0
    dx, dy = np.empty(count, np.float64), np.empty(count, np.float64)
    if displaced:
        distortion.displace_row(nodes, step, y, x0, spacing, dx, dy)
    for i in range(px.size):
        x = x0 + i * spacing
        sx = m00 * x + bx
        sy = m10 * x + by
        depth = bw
        if not affine:
            depth = m20 * x + bw
            sx /= depth
            sy /= depth
        if displaced:
            sx += dx[i]
            sy += dy[i]
        if depth > 0.0 and abs(sx) < _FAR and abs(sy) < _FAR:
            px[i] = int(math.floor(sx * _PHASES + 0.5)) - shift_x
            py[i] = int(math.floor(sy * _PHASES + 0.5)) - shift_y
        else:
            px[i] = _OUTSIDE
            py[i] = _OUTSIDE


@fast
def _clamped(flat: Image, offset: np.uintp, stride: np.uintp, sample: np.float32, clamp: np.float32, taps: Taps) -> Any:
    """Return the sample raised out of a ringing hollow; the rule is in `lanczos3`."""
    n = len(taps)
    expected = np.float32(_LOWEST[n])
    widening = np.float32(1.0 / (_LOWEST[n * n] - _LOWEST[n]))
    lowest = flat[offset]
    mean = np.float32(0.0)
    for i in range(len(taps)):
        column = flat[offset + np.uintp(i)]
        for j in range(1, len(taps)):
            column = min(column, flat[offset + np.uintp(i) + np.uintp(j) * stride])
        # One pixel at or below the sample proves that it is no hollow: nearly all calls end here.
        if not column > sample:
            return sample
        lowest = min(lowest, column)
        mean += column
    # A bright column has no dark minimum, but the rows that cross it have.
    across = np.float32(0.0)
    for j in range(len(taps)):
        row = flat[offset + np.uintp(j) * stride]
        for i in range(1, len(taps)):
            row = min(row, flat[offset + np.uintp(i) + np.uintp(j) * stride])
        across += row
    mean = min(mean, across) * np.float32(1.0 / n)
    sigma = (mean - lowest) * widening
    depth = lowest - clamp * sigma - sample
    if not depth > np.float32(0.0):
        return sample
    background = mean + expected * sigma
    if depth >= sigma:
        return background
    return sample + depth / sigma * (background - sample)


@fast
def _run(flat: Image, offset: np.uintp, stride: np.uintp, scratch: Image, count: int, taps: Taps) -> None:
    """Fill the last two rows of `scratch` with `count` samples in a row and the smallest of their inner pixels.

    Weights stand there by tap, so that neighbouring samples are computed together.
    """
    middle, one = np.uintp(len(taps) // 2 - 1), np.uintp(1)
    for k in range(count):
        n = np.uintp(k)
        start = offset + n
        total = np.float32(0.0)
        for i in range(len(taps)):
            column = np.float32(0.0)
            for j in range(len(taps)):
                weight = scratch[np.uintp((len(taps) + j) * _RUN) + n]
                column += weight * flat[start + np.uintp(i) + np.uintp(j) * stride]
            total += scratch[np.uintp(i * _RUN) + n] * column
        scratch[np.uintp(2 * len(taps) * _RUN) + n] = total
        a = start + middle * stride + middle
        b = a + stride
        upper = flat[a] if flat[a] < flat[a + one] else flat[a + one]
        lower = flat[b] if flat[b] < flat[b + one] else flat[b + one]
        scratch[np.uintp((2 * len(taps) + 1) * _RUN) + n] = upper if upper < lower else lower


@fast
def _lines(
    window: Image,
    window_x0: int,
    window_y0: int,
    matrix: Matrix,
    nodes: NDArray[np.float64],
    step: int,
    out: Image,
    out_x0: int,
    out_y0: int,
    clamp: np.float32,
    table: NDArray[np.float32],
    near: NDArray[np.bool_],
    taps: Taps,
) -> None:
    """Resample frames that are hardly turned or scaled: neighbouring samples lie on neighbouring pixels."""
    planes, h, w = window.shape
    first = len(taps) // 2 - 1
    th, tw = out.shape[1], out.shape[2]
    px = np.empty(tw, np.int64)
    py = np.empty(tw, np.int64)
    # Unsigned flat offsets: a signed index costs a test for negative values at every access.
    stride = np.uintp(w)
    weights = table.reshape(-1)
    scratch = np.zeros((2 * len(taps) + 2) * _RUN, np.float32)
    guarded = near.size > 0
    # Rows of a frame taken on the other side of the pier run backwards: then so does x.
    way = -1 if matrix[0, 0] * matrix[2, 2] < 0.0 else 1
    start = out_x0 + tw - 1 if way < 0 else out_x0
    for y in range(th):
        _row_coordinates(matrix, nodes, step, float(out_y0 + y), float(start), float(way), window_x0, window_y0, px, py)
        x = 0
        while x < tw:
            ix = px[x] >> _PHASE_BITS
            iy = py[x] >> _PHASE_BITS
            place = tw - 1 - x if way < 0 else x
            if ix < first or iy < first or ix > w - len(taps) + first or iy > h - len(taps) + first:
                copied = (px[x] | py[x]) & (_PHASES - 1) == 0 and ix >= 0 and iy >= 0 and ix < w and iy < h
                for c in range(planes):
                    out[c, y, place] = window[c, iy, ix] if copied else np.float32(np.nan)
                x += 1
                continue
            most = min(min(_RUN, tw - x), w - len(taps) + first - ix + 1)
            count = 1
            while count < most and px[x + count] >> _PHASE_BITS == ix + count and py[x + count] >> _PHASE_BITS == iy:
                count += 1
            copied = False
            for n in range(count):
                kx = np.uintp((px[x + n] & (_PHASES - 1)) * 8)
                ky = np.uintp((py[x + n] & (_PHASES - 1)) * 8)
                copied |= kx | ky == np.uintp(0)
                for i in range(len(taps)):
                    scratch[i * _RUN + n] = weights[kx + np.uintp(i)]
                    scratch[(len(taps) + i) * _RUN + n] = weights[ky + np.uintp(i)]
            offset = np.uintp((iy - first) * w + ix - first)
            for c in range(planes):
                flat = window[c].reshape(-1)
                row = out[c, y]
                _run(flat, offset, stride, scratch, count, taps)
                for n in range(count):
                    total = scratch[2 * len(taps) * _RUN + n]
                    if total < scratch[(2 * len(taps) + 1) * _RUN + n]:
                        total = _clamped(flat, offset + np.uintp(n), stride, total, clamp, taps)
                    row[place + way * n] = total
                if guarded:
                    for n in range(count):
                        if near[c, iy, ix + n]:
                            row[place + way * n] = _held(window[c], iy, ix + n, scratch[2 * len(taps) * _RUN + n])
                if copied:
                    for n in range(count):
                        if (px[x + n] | py[x + n]) & (_PHASES - 1) == 0:
                            row[place + way * n] = window[c, iy, ix + n]
            x += count


@fast
def _points(
    window: Image,
    window_x0: int,
    window_y0: int,
    matrix: Matrix,
    nodes: NDArray[np.float64],
    step: int,
    out: Image,
    out_x0: int,
    out_y0: int,
    clamp: np.float32,
    table: NDArray[np.float32],
    near: NDArray[np.bool_],
    taps: Taps,
) -> None:
    """Resample any frame, one sample after the other; the same bits as `lines`."""
    planes, h, w = window.shape
    first = len(taps) // 2 - 1
    th, tw = out.shape[1], out.shape[2]
    px = np.empty(tw, np.int64)
    py = np.empty(tw, np.int64)
    stride = np.uintp(w)
    middle, one = np.uintp(first), np.uintp(1)
    weights = table.reshape(-1)
    guarded = near.size > 0
    for y in range(th):
        _row_coordinates(matrix, nodes, step, float(out_y0 + y), float(out_x0), 1.0, window_x0, window_y0, px, py)
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
                if ix < first or iy < first or ix > w - len(taps) + first or iy > h - len(taps) + first:
                    row[x] = np.float32(np.nan)
                    continue
                offset = np.uintp((iy - first) * w + ix - first)
                kx = np.uintp(phase_x * 8)
                ky = np.uintp(phase_y * 8)
                total = np.float32(0.0)
                for i in range(len(taps)):
                    column = np.float32(0.0)
                    for j in range(len(taps)):
                        column += weights[ky + np.uintp(j)] * flat[offset + np.uintp(i) + np.uintp(j) * stride]
                    total += weights[kx + np.uintp(i)] * column
                if guarded and near[c, iy, ix]:
                    row[x] = _held(window[c], iy, ix, total)
                    continue
                # A hollow lies below every pixel of its footprint: the inner four settle nearly all cases.
                a = offset + middle * stride + middle
                b = a + stride
                if total < min(min(flat[a], flat[a + one]), min(flat[b], flat[b + one])):
                    total = _clamped(flat, offset, stride, total, clamp, taps)
                row[x] = total


@fast
def _held(plane: Image, iy: int, ix: int, total: np.float32) -> Any:
    """Return a sample held between the smallest and the largest of the four pixels around it; NaN stays NaN."""
    a, b, c, d = plane[iy, ix], plane[iy, ix + 1], plane[iy + 1, ix], plane[iy + 1, ix + 1]
    low, high = min(min(a, b), min(c, d)), max(max(a, b), max(c, d))
    if total < low:
        return low
    return high if total > high else total


@fast
def _bilinear(
    window: Image,
    window_x0: int,
    window_y0: int,
    matrix: Matrix,
    nodes: NDArray[np.float64],
    step: int,
    out: Image,
    out_x0: int,
    out_y0: int,
) -> None:
    planes, h, w = window.shape
    px = np.empty(out.shape[2], np.int64)
    py = np.empty(out.shape[2], np.int64)
    for y in range(out.shape[1]):
        _row_coordinates(matrix, nodes, step, float(out_y0 + y), float(out_x0), 1.0, window_x0, window_y0, px, py)
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
    window: Image,
    window_x0: int,
    window_y0: int,
    matrix: Matrix,
    nodes: NDArray[np.float64],
    step: int,
    out: Image,
    out_x0: int,
    out_y0: int,
) -> None:
    planes, h, w = window.shape
    px = np.empty(out.shape[2], np.int64)
    py = np.empty(out.shape[2], np.int64)
    for y in range(out.shape[1]):
        _row_coordinates(matrix, nodes, step, float(out_y0 + y), float(out_x0), 1.0, window_x0, window_y0, px, py)
        for c in range(planes):
            flat = window[c].reshape(-1)
            for x in range(out.shape[2]):
                ix = (px[x] + _PHASES // 2) >> _PHASE_BITS
                iy = (py[x] + _PHASES // 2) >> _PHASE_BITS
                if ix >= 0 and iy >= 0 and ix < w and iy < h:
                    out[c, y, x] = flat[np.uintp(iy * w + ix)]
                else:
                    out[c, y, x] = np.float32(np.nan)


@fast
def _area(
    window: Image,
    window_x0: int,
    window_y0: int,
    matrix: Matrix,
    nodes: NDArray[np.float64],
    step: int,
    out: Image,
    out_x0: int,
    out_y0: int,
    parts: int,
) -> None:
    planes, h, w = window.shape
    th, tw = out.shape[1], out.shape[2]
    px = np.empty(tw * parts, np.int64)
    py = np.empty(tw * parts, np.int64)
    spacing = 1.0 / parts
    shift = 0.5 * spacing - 0.5
    share = np.float32(1.0 / (parts * parts))
    for y in range(th):
        out[:, y] = np.float32(0.0)
        for part in range(parts):
            at_y = out_y0 + y + part * spacing + shift
            _row_coordinates(matrix, nodes, step, at_y, out_x0 + shift, spacing, window_x0, window_y0, px, py)
            for c in range(planes):
                flat = window[c].reshape(-1)
                row = out[c, y]
                for x in range(tw):
                    total = np.float32(0.0)
                    for i in range(x * parts, (x + 1) * parts):
                        ix = px[i] >> _PHASE_BITS
                        iy = py[i] >> _PHASE_BITS
                        phase_x = px[i] & (_PHASES - 1)
                        phase_y = py[i] & (_PHASES - 1)
                        jx = ix + (1 if phase_x > 0 else 0)
                        jy = iy + (1 if phase_y > 0 else 0)
                        if ix < 0 or iy < 0 or jx >= w or jy >= h:
                            total = np.float32(np.nan)
                            break
                        fx = np.float32(phase_x) * np.float32(1.0 / _PHASES)
                        fy = np.float32(phase_y) * np.float32(1.0 / _PHASES)
                        upper = flat[np.uintp(iy * w + ix)]
                        lower = flat[np.uintp(jy * w + ix)]
                        upper = upper + fx * (flat[np.uintp(iy * w + jx)] - upper)
                        lower = lower + fx * (flat[np.uintp(jy * w + jx)] - lower)
                        total += upper + fy * (lower - upper)
                    row[x] += total * share
