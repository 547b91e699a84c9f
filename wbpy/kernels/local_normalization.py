"""The background of a frame on a coarse grid, and the surface that brings one frame's to another's.

Cells are laid over the *reference*; a frame's level in a cell is measured on its own pixels around the point that its
transform names. Both levels then belong to the same patch of sky, so that nebulae, galaxies and faint stars cancel in
their difference, and what is left is smooth: gradients of the sky, moonlight, clouds.

Points are (x, y), 0-based, pixel centres on integers.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from wbpy.kernels import distortion
from wbpy.kernels.jit import exact

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Uint8 = NDArray[np.uint8]

SAMPLES = 512  # pixels read in a cell: its level is good to 5 % of a pixel's noise
COVERED = 0.8  # share of a cell's pixels that must lie in the frame
CLIP = 2.5  # deviations beyond which a sample is a star
WIDENED = 1.0476  # standard deviation of a normal distribution over that of its part within CLIP
REJECTED = 4.5  # robust deviations from its neighbours beyond which a cell is left out
START = 64  # samples whose median and MAD the clipping starts from
NORMAL_MAD = 1.4826  # MAD of a normal distribution -> its standard deviation


def cell_centres(size: int, cell: int) -> Float64:
    """Return the middles of the cells along an axis of `size` pixels, evenly spread, about `cell` px wide each."""
    count = max(1, round(size / cell))
    return np.asarray((np.arange(count) + 0.5) * (size / count) - 0.5)


def cell_levels(
    image: Float32,
    cfa: Uint8 | None,
    matrix: Float64,
    shape: tuple[int, int],
    cell: int,
    nodes: Float64 = distortion.NONE,
    step: int = 0,
) -> Float32:
    """Return the background of a frame in the cells of its reference.

    Parameters
    ----------
    image : (H, W) float32 ndarray, DN
        Calibrated frame, mono or un-debayered; NaN is missing.
    cfa : (2, 2) uint8 ndarray or None
        Colours of the frame; None for mono.
    matrix : (3, 3) float64 ndarray
        Homogeneous points of the reference -> this frame.
    shape : tuple of int
        (height, width) of the reference.
    cell : int
        Approximate side of a cell, px; at least 8.
    nodes : (gy, gx, 2) float64 ndarray, px
        Displacement of the transform, see `wbpy.kernels.distortion`; without rows there is none.
    step : int
        Distance of its nodes, px of the reference.

    Returns
    -------
    (C, gy, gx) float32 ndarray, DN
        Mean of the pixels within 2.5 standard deviations of it, until nothing changes, from their median and MAD on. C
        is 1, or 3 for R, G, B. NaN where less than 80 % of a cell lies in the frame or it has fewer than 8 pixels of
        a colour.

    Raises
    ------
    ValueError
        If the cell is smaller than 8 px.
    """
    if cell < 8:
        raise ValueError(f"cell is {cell} px; expected at least 8")
    y, x = cell_centres(shape[0], cell), cell_centres(shape[1], cell)
    centres = np.column_stack([np.tile(x, y.size), np.repeat(y, x.size)])
    there = np.ascontiguousarray(distortion.apply(matrix, nodes, step, centres).T)
    pattern = np.full((2, 2), 1, np.uint8) if cfa is None else cfa
    period = len(pattern)
    colours = np.array([1] if cfa is None else [0, 1, 2], np.uint8)
    # Whole periods hold each colour of a CFA equally often.
    width = max(-(-8 // period), int(shape[1] / x.size) // period) * period
    height = max(-(-8 // period), int(shape[0] / y.size) // period) * period
    level = np.full((colours.size, y.size * x.size), np.nan, np.float32)
    _levels(image, pattern, colours, there[0], there[1], height, width, level)
    return level.reshape(-1, y.size, x.size)


def cell_statistics(
    image: Float32,
    cfa: Uint8 | None,
    matrix: Float64,
    shape: tuple[int, int],
    cell: int,
    measure: Callable[[Float32], tuple[float, ...]],
    samples: int,
    nodes: Float64 = distortion.NONE,
    step: int = 0,
) -> Float32:
    """Return statistics of a frame in the cells of its reference.

    Parameters
    ----------
    image, cfa, matrix, shape, cell, nodes, step
        As for `cell_levels`.
    measure : callable
        Takes (n,) float32 values, DN, all finite, and returns K statistics.
    samples : int
        About as many pixels of a colour are read at most.

    Returns
    -------
    (K, C, gy, gx) float32 ndarray
        NaN where less than 80 % of a cell lies in the frame or it has fewer than 8 pixels of a colour.
    """
    y, x = cell_centres(shape[0], cell), cell_centres(shape[1], cell)
    there = distortion.apply(matrix, nodes, step, np.column_stack([np.tile(x, y.size), np.repeat(y, x.size)]))
    pattern = np.zeros((1, 1), np.uint8) if cfa is None else cfa
    period = len(pattern)
    colours = 1 if cfa is None else 3
    height, width = shape[0] / y.size, shape[1] / x.size
    found: list[list[tuple[float, ...] | None]] = [[] for _ in range(colours)]
    for u, v in there:
        top, left = round(v - 0.5 * (height - 1)), round(u - 0.5 * (width - 1))
        y0, y1 = max(top, 0), min(top + round(height), image.shape[0])
        x0, x1 = max(left, 0), min(left + round(width), image.shape[1])
        inside = max(y1 - y0, 0) * max(x1 - x0, 0)
        for colour in range(colours):
            planes = [
                image[y0 + (j - y0) % period : y1 : period, x0 + (i - x0) % period : x1 : period].ravel()
                for j, i in np.argwhere(pattern == colour)
            ]
            values = np.concatenate(planes)
            values = values[np.isfinite(values)][:: max(1, values.size // samples)]
            enough = inside >= COVERED * height * width and values.size >= 8
            found[colour].append(measure(np.ascontiguousarray(values)) if enough else None)
    count = max((len(row) for rows in found for row in rows if row is not None), default=0)
    missing = (math.nan,) * count
    table = np.array([[missing if row is None else row for row in rows] for rows in found], np.float32)
    return np.ascontiguousarray(np.moveaxis(table.reshape(colours, y.size, x.size, count), -1, 0))


@exact
def _levels(
    image: Float32,
    pattern: Uint8,
    colours: Uint8,
    xs: Float64,
    ys: Float64,
    height: int,
    width: int,
    level: Float32,
) -> None:
    """Fill the level of each colour in windows around the points; see `cell_levels`."""
    rows, columns = image.shape
    period = pattern.shape[0]
    phases = period * period
    samples = np.empty(height * width, np.float32)
    start = np.empty(START, np.float32)
    for point in range(xs.size):
        left = int(np.rint(xs[point] - 0.5 * (width - 1)))
        top = int(np.rint(ys[point] - 0.5 * (height - 1)))
        x0, x1 = max(left, 0), min(left + width, columns)
        y0, y1 = max(top, 0), min(top + height, rows)
        if (x1 - x0) * (y1 - y0) < COVERED * height * width or x1 <= x0 or y1 <= y0:
            continue
        for c in range(colours.size):
            total = 0
            for phase in range(phases):
                total += int(pattern[phase // period, phase % period] == colours[c])
            # Of each phase of the CFA every stride-th pixel of every stride-th row, shifted from row to row, so that
            # neither columns nor rows weigh more.
            stride = max(1, int(np.sqrt((y1 - y0) * (x1 - x0) * total / (np.float64(phases) * SAMPLES))))
            count = 0
            for phase in range(phases):
                dy = (phase // period - y0) % period
                dx = (phase % period - x0) % period
                if pattern[phase // period, phase % period] != colours[c]:
                    continue
                shift = 0
                for y in range(y0 + dy, y1, period * stride):
                    for x in range(x0 + dx + period * shift, x1, period * stride):
                        value = image[y, x]
                        if value - value == np.float32(0):
                            samples[count] = value
                            count += 1
                    shift = (shift + 1) % stride
            if count < 8:
                continue
            few = min(count, START)
            for i in range(few):
                start[i] = samples[i * count // few]
            run = np.sort(start[:few])
            middle = float(0.5 * (np.float64(run[few >> 1]) + np.float64(run[(few - 1) >> 1])))
            for i in range(few):
                run[i] = abs(run[i] - middle)
            run = np.sort(run)
            sd = float(NORMAL_MAD * 0.5 * (np.float64(run[few >> 1]) + np.float64(run[(few - 1) >> 1])))
            before = -1
            for _ in range(12):
                limit = CLIP * sd
                kept = 0
                mean = 0.0
                square = 0.0
                for i in range(count):
                    d = np.float64(samples[i]) - middle
                    inside = abs(d) <= limit
                    kept += int(inside)
                    mean += d if inside else 0.0
                    square += d * d if inside else 0.0
                if kept < 8:
                    break
                mean /= kept
                truncated = math.sqrt(max(square / kept - mean * mean, 0.0))
                middle += mean
                sd = WIDENED * truncated
                level[c, point] = middle
                if kept == before:
                    break
                before = kept


def fit_surface(
    values: Float32, shape: tuple[int, int], cell: int, scale: float, step: int, whole: int | None = None
) -> tuple[Float64, float] | None:
    """Return a smooth surface through the values of cells, as nodes for `apply`.

    Local linear regression with Gaussian weights (Cleveland and Devlin 1988, J. Am. Stat. Assoc. 83, 596), which keeps
    its slope up to the edges. Cells that stand out from their neighbours by more than 4.5 robust deviations are left
    out and the rest is fitted again.

    Parameters
    ----------
    values : (gy, gx) float32 ndarray, DN
        One value for each cell of `cell_levels`; NaN is missing.
    shape : tuple of int
        (height, width) of the reference, px.
    cell : int
        As in `cell_levels`.
    scale : float
        Size of the smallest structure that is followed, px: twice the standard deviation of the weights.
    step : int
        Distance of the nodes, px.
    whole : int, optional
        Cells that the frame covers, where that is less than all: on the grid of a mosaic, or of a larger sensor.

    Returns
    -------
    nodes : (ny, nx) float64 ndarray, DN
        Node ``[j, i]`` stands at ``x = (i - 1) step``, ``y = (j - 1) step``; they reach beyond all edges.
    scatter : float
        Robust deviation of the cells from the surface, DN.

    None
        If less than a third of the cells of a frame have a value or stay after rejection, or fewer than three.
    """
    height, width = shape
    fewest = max(3.0, min(values.size, values.size if whole is None else whole) / 3)
    y, x = cell_centres(height, cell), cell_centres(width, cell)
    node_y, node_x = _node_places(height, step), _node_places(width, step)
    kept = np.isfinite(values)
    centre = float(np.median(values[kept])) if kept.any() else 0.0
    data = np.where(kept, values, centre).astype(np.float64) - centre
    sigma = 0.5 * scale
    for _ in range(4):
        if kept.sum() < fewest:
            return None
        fitted = _regress(data, kept, y, x, y, x, sigma)
        # Smoothing flattens what is hardly larger than its weights; smoothing what is left gives it back
        # ("twicing": Tukey 1977, Exploratory Data Analysis, 16).
        fitted += _regress(data - fitted, kept, y, x, y, x, sigma)
        rest = np.where(kept, data - fitted, np.nan)
        # A cell is judged by its neighbours and not by the surface: a cloud that the surface does not follow closely
        # raises them all, a satellite or the halo of a star one or two.
        alone = np.abs(rest - _median_of_neighbours(rest))
        scatter = 1.4826 * float(np.median(alone[kept]))
        keep = kept & (alone <= REJECTED * max(scatter, 1e-6))
        if np.array_equal(keep, kept):
            break
        kept = keep
    if kept.sum() < fewest:
        return None
    deviation = 1.4826 * float(np.median(np.abs(data - fitted)[kept]))
    first = _regress(data, kept, y, x, y, x, sigma)
    nodes = _regress(data, kept, y, x, node_y, node_x, sigma)
    nodes += _regress(data - first, kept, y, x, node_y, node_x, sigma)
    return nodes + centre, deviation


def _median_of_neighbours(values: Float64) -> Float64:
    """Return the median of each cell and its up to eight neighbours, NaN left out; NaN where there is none."""
    h, w = values.shape
    padded = np.full((h + 2, w + 2), np.nan)
    padded[1:-1, 1:-1] = values
    around = np.sort(np.stack([padded[j : j + h, i : i + w] for j in range(3) for i in range(3)]), axis=0)
    count = np.maximum(np.isfinite(around).sum(axis=0), 1)[None]
    upper = np.take_along_axis(around, count // 2, axis=0)
    lower = np.take_along_axis(around, (count - 1) // 2, axis=0)
    return np.asarray(0.5 * (upper + lower)[0])


def _node_places(size: int, step: int) -> Float64:
    return np.asarray((np.arange(-(-(size - 1) // step) + 3) - 1.0) * step, np.float64)


def _regress(
    data: Float64, kept: NDArray[np.bool_], y: Float64, x: Float64, at_y: Float64, at_x: Float64, sigma: float
) -> Float64:
    """Return the plane through all kept cells plus the local regression of what it leaves, at a grid of points."""
    size = max(float(y[-1] - y[0]), float(x[-1] - x[0]), 1.0)
    v, u = (y - y.mean()) / size, (x - x.mean()) / size
    at_v, at_u = (at_y - y.mean()) / size, (at_x - x.mean()) / size
    s = sigma / size
    weight = kept.astype(np.float64)
    plane = _plane(data, weight, v, u)
    rest = np.where(kept, data - (plane[0] + plane[1] * v[:, None] + plane[2] * u[None, :]), 0.0)
    # The regression at a point needs sums of weight, rest and offsets; the weights are products of an x and a y part.
    dv, du = v[None, :] - at_v[:, None], u[None, :] - at_u[:, None]
    gv, gu = np.exp(-0.5 * (dv / s) ** 2), np.exp(-0.5 * (du / s) ** 2)

    def total(values: Float64, power_v: int, power_u: int) -> Float64:
        # einsum without BLAS: its order of summation does not depend on the number of threads.
        partial = np.einsum("aj,ji->ai", gv * dv**power_v, values, optimize=False)
        return np.asarray(np.einsum("ai,bi->ab", partial, gu * du**power_u, optimize=False))

    w, wv, wu = total(weight, 0, 0), total(weight, 1, 0), total(weight, 0, 1)
    wvv, wvu, wuu = total(weight, 2, 0), total(weight, 1, 1), total(weight, 0, 2)
    r, rv, ru = total(rest, 0, 0), total(rest, 1, 0), total(rest, 0, 1)
    # A ridge of a fifth of a cell: where the cells of a window lie on one line, or there are none, the slope is nought.
    ridge = 0.04 * s * s
    floor = 0.05
    a, b = w + floor, wvv + ridge * (w + floor)
    d = wuu + ridge * (w + floor)
    matrix = np.stack([np.stack([a, wv, wu], -1), np.stack([wv, b, wvu], -1), np.stack([wu, wvu, d], -1)], -2)
    solved = np.linalg.solve(matrix, np.stack([r, rv, ru], -1)[..., None])[..., 0, 0]
    return np.asarray(solved + plane[0] + plane[1] * at_v[:, None] + plane[2] * at_u[None, :])


def _plane(data: Float64, weight: Float64, v: Float64, u: Float64) -> Float64:
    """Return (3,) level and slopes along v and u of the weighted least-squares plane."""
    vv, uu = np.meshgrid(v, u, indexing="ij")
    chosen = weight > 0
    design = np.stack([np.ones(int(chosen.sum())), vv[chosen], uu[chosen]], axis=1)
    return np.asarray(np.linalg.lstsq(design, data[chosen], rcond=None)[0])


def apply(plane: Float32, scale: float, nodes: Float64, step: int, x0: int, y0: int, out: Float32) -> None:
    """Fill ``plane x scale + surface`` of one tile.

    The surface is the bicubic interpolation of Catmull and Rom (1974) of its nodes; a pixel's value does not depend on
    how the picture is cut into tiles.

    Parameters
    ----------
    plane : (h, w) float32 ndarray, DN
        Registered pixels whose first is (x0, y0) of the reference; NaN stays NaN.
    scale : float
        Ratio of star fluxes, reference over frame.
    nodes : (ny, nx) float64 ndarray, DN
        From `fit_surface`.
    step : int
        Distance of the nodes, px.
    x0, y0 : int
        First pixel of the tile.
    out : (h, w) float32 ndarray, DN
        Filled; may be `plane`.

    Raises
    ------
    ValueError
        If the nodes do not reach over the tile or the shapes differ.
    """
    h, w = plane.shape
    ny, nx = nodes.shape
    if out.shape != (h, w) or x0 < 0 or y0 < 0 or x0 + w - 1 > (nx - 3) * step or y0 + h - 1 > (ny - 3) * step:
        raise ValueError(
            f"tile is {plane.shape} at ({x0}, {y0}), out {out.shape}; expected one shape inside the "
            f"{(nx - 3) * step + 1} x {(ny - 3) * step + 1} px over which the nodes reach"
        )
    _apply(plane, float(scale), nodes, step, x0, y0, out)


def apply_sided(plane: Float32, nodes: Float64, step: int, x0: int, y0: int, out: Float32) -> None:
    """Fill ``(plane - m) k + m0`` of one tile, with k one scale where the plane lies below m and another above.

    Parameters
    ----------
    plane, step, x0, y0, out
        As for `apply`.
    nodes : (4, ny, nx) float64 ndarray
        Of m and m0, DN, and of the scales below and above, each as from `fit_surface`.

    Raises
    ------
    ValueError
        If the nodes do not reach over the tile or the shapes differ.
    """
    m, m0, below, above = (np.zeros(plane.shape, np.float32) for _ in range(4))
    for surface, values in zip((m, m0, below, above), nodes, strict=True):
        apply(surface, 0.0, values, step, x0, y0, surface)
    np.subtract(plane, m, out=m)
    np.multiply(m, np.where(m < 0, below, above), out=m)
    np.add(m, m0, out=out)


@exact
def _apply(plane: Float32, scale: float, nodes: Float64, step: int, x0: int, y0: int, out: Float32) -> None:
    """Fill the tile of `apply` row by row: nodes are first interpolated along y, then each span of a row along x."""
    h, w = plane.shape
    nx = nodes.shape[1]
    row = np.empty(nx, np.float64)
    for i in range(h):
        y = y0 + i
        at = y // step
        t = (y - at * step) / step
        # Node 0 stands one step before the first pixel. The last pixel may fall on the last inner node.
        for k in range(nx):
            a = nodes[at, k]
            b = nodes[at + 1, k]
            c = nodes[at + 2, k]
            d = nodes[min(at + 3, nodes.shape[0] - 1), k]
            row[k] = b + 0.5 * t * (c - a + t * (2.0 * a - 5.0 * b + 4.0 * c - d + t * (3.0 * (b - c) + d - a)))
        j = 0
        while j < w:
            at = (x0 + j) // step
            end = min(w, (at + 1) * step - x0)
            a = row[at]
            b = row[at + 1]
            c = row[at + 2]
            d = row[min(at + 3, nx - 1)]
            p1 = 0.5 * (c - a)
            p2 = 0.5 * (2.0 * a - 5.0 * b + 4.0 * c - d)
            p3 = 0.5 * (3.0 * (b - c) + d - a)
            for k in range(j, end):
                u = float(x0 + k - at * step) / step
                out[i, k] = scale * np.float64(plane[i, k]) + (b + u * (p1 + u * (p2 + u * p3)))
            j = end
