"""Where frames lie on an output grid, and the rectangles that they cover together.

A footprint is the outline of a frame's pixel centres on the output grid. It is a polygon that every row crosses twice:
a homography keeps lines straight, and a displacement of a few pixels bends them by less than that matters here.

Points are ``(x, y)``, 0-based, pixel centres on integers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wbpy.kernels import distortion
from wbpy.kernels.jit import exact

Float64 = NDArray[np.float64]
Int32 = NDArray[np.int32]

EMPTY = (1, 0)
"""First and last column of a row that a footprint does not reach."""


def outline(matrix: Float64, nodes: Float64, step: int, shape: tuple[int, int], inset: float = 0.0) -> Float64:
    """Return the footprint of a frame.

    Parameters
    ----------
    matrix : (3, 3) float64 ndarray
        Output pixel -> frame pixel.
    nodes : (gy, gx, 2) float64 ndarray, px
        Displacement of the transform, see `wbpy.kernels.distortion`; without rows there is none.
    step : int
        Distance of its nodes, px of the output.
    shape : tuple of int
        (height, width) of the frame.
    inset : float, px
        What is left out at each edge of the frame: an interpolation needs that many pixels on all sides.

    Returns
    -------
    (n, 2) float64 ndarray
        Corners in order around the frame: its own four, and points between them where a displacement bends the edges.
    """
    height, width = shape
    left, right, top, bottom = inset, width - 1 - inset, inset, height - 1 - inset
    corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float64)
    pieces = 1 if nodes.shape[0] == 0 else max(2, max(height, width) // max(step, 1))
    share = np.arange(pieces)[:, None] / pieces
    edges = [a + share * (b - a) for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True)]
    return distortion.invert(matrix, nodes, step, np.concatenate(edges))


def spans(polygon: Float64, shape: tuple[int, int]) -> tuple[Int32, Int32]:
    """Return the first and last column inside a footprint, for each row of the output grid.

    Parameters
    ----------
    polygon : (n, 2) float64 ndarray
        From `outline`.
    shape : tuple of int
        (height, width) of the output grid.

    Returns
    -------
    first, last : (height,) int32 ndarrays
        Both inclusive, within the grid; `EMPTY` in rows that the footprint does not reach.
    """
    height, width = shape
    left, right = np.full(height, np.inf), np.full(height, -np.inf)
    # A thousandth of a pixel, so that the rounding of an inverted matrix does not cost the reference its first column.
    slack = 1e-3
    for (xa, ya), (xb, yb) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if not np.isfinite([xa, ya, xb, yb]).all():
            return np.full(height, EMPTY[0], np.int32), np.full(height, EMPTY[1], np.int32)
        top = int(np.clip(np.ceil(min(ya, yb) - slack), 0, height))
        end = int(np.clip(np.floor(max(ya, yb) + slack) + 1, 0, height))
        if end <= top:
            continue
        if abs(yb - ya) <= 2 * slack:
            reached = np.array([xa, xb])
            lowest, highest = np.full(end - top, reached.min()), np.full(end - top, reached.max())
        else:
            share = np.clip((np.arange(top, end) - ya) / (yb - ya), 0, 1)
            lowest = highest = xa + share * (xb - xa)
        left[top:end] = np.minimum(left[top:end], lowest)
        right[top:end] = np.maximum(right[top:end], highest)
    first = np.clip(np.ceil(left - slack), 0, width).astype(np.int32)
    last = np.clip(np.floor(right + slack), -1, width - 1).astype(np.int32)
    outside = first > last
    first[outside], last[outside] = EMPTY
    return first, last


def common_rectangle(
    first: Int32, last: Int32, owner: Int32, needed: Int32, width: int
) -> tuple[int, int, int, int] | None:
    """Return the largest rectangle whose pixels are all covered by enough frames of every set.

    Parameters
    ----------
    first, last : (n, height) int32 ndarrays
        `spans` of n frames.
    owner : (n,) int32 ndarray
        Number of the set that each frame belongs to.
    needed : (sets,) int32 ndarray
        Frames of each set that have to cover a pixel.
    width : int
        Columns of the grid.

    Returns
    -------
    tuple of int or None
        (x0, y0, x1, y1), ends excluded; None when no pixel is covered. Of several of one area the topmost, then the
        leftmost.

    Notes
    -----
    The largest rectangle below a skyline, row by row: the columns' heights are how many rows up to this one are
    covered without a gap.
    """
    x0, y0, x1, y1 = _common_rectangle(first, last, owner, needed, width)
    return (int(x0), int(y0), int(x1), int(y1)) if x1 > x0 else None


@exact
def _common_rectangle(first: Int32, last: Int32, owner: Int32, needed: Int32, width: int) -> tuple[int, int, int, int]:
    frames, height = first.shape
    tall = np.zeros(width, np.int64)
    count = np.empty(width + 1, np.int64)
    enough = np.empty(width, np.bool_)
    stack = np.empty(width + 1, np.int64)
    best = 0
    x0, y0, x1, y1 = 0, 0, 0, 0
    for y in range(height):
        enough[:] = True
        for s in range(needed.size):
            count[:] = 0
            for i in range(frames):
                if owner[i] == s and first[i, y] <= last[i, y]:
                    count[first[i, y]] += 1
                    count[last[i, y] + 1] -= 1
            run = 0
            for x in range(width):
                run += count[x]
                if run < needed[s]:
                    enough[x] = False
        for x in range(width):
            tall[x] = tall[x] + 1 if enough[x] else 0
        depth = 0
        for x in range(width + 1):
            here = tall[x] if x < width else -1
            while depth > 0 and tall[stack[depth - 1]] >= here:
                depth -= 1
                rows = tall[stack[depth]]
                left = stack[depth - 1] + 1 if depth > 0 else 0
                area = rows * (x - left)
                if area > best:
                    best = area
                    x0, x1, y0, y1 = left, x, y - rows + 1, y + 1
            stack[depth] = x
            depth += 1
    return x0, y0, x1, y1
