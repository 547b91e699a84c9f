"""Defective columns and rows of a CCD: found in an average of unregistered frames, subtracted from each frame.

A line is ``(axis, index, start, stop)``: axis 0 is a column, 1 a row; `index` its x or y; `start` to `stop`
(excluded) the rows or columns that it covers. `step` is the distance to the nearest line of the same colours: 1 for
mono, 2 for a Bayer mosaic.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wbpy.kernels.jit import exact
from wbpy.kernels.statistics import median_mad

COLUMN, ROW = 0, 1
_NEAR = 3
"""Lines on each side that tell what a line should hold."""
_WINDOW = 25
"""Length of the running median along a line, px; longer than a star."""
_WHOLE = 0.9
"""Share of a line from which on it is defective as a whole."""


def find_lines(image: NDArray[np.float32], step: int, k_sigma: float, shortest: int) -> NDArray[np.int64]:
    """Return the columns and rows, whole or in part, that differ from those beside them.

    Each pixel is compared with the median of its three neighbours on the left and with that on the right, which
    removes sky, nebulae and vignetting; of the two differences the one nearer to zero counts, so that a slope or the
    edge of something bright is no line. A line is defective as a whole when the medians of its differences lie
    `k_sigma` of 1.4826 MAD of all lines off zero; in part where their running median over 25 pixels does so: stars
    are shorter than that (after V. Peris, LinearDefectDetection; own measure of the background).

    Parameters
    ----------
    image : (H, W) float32 ndarray, DN
        Average of calibrated frames as they were taken, not registered: stars move, defects stay. NaN is left out.
    step : int
        1 for mono, 2 for a Bayer mosaic.
    k_sigma : float
        Threshold.
    shortest : int, px
        Least length of a partial line.

    Returns
    -------
    (n, 4) int64 ndarray
        Sorted lines.
    """
    found = [(COLUMN, *line) for line in _find_columns(image, step, k_sigma, shortest)]
    found += [(ROW, *line) for line in _find_columns(np.ascontiguousarray(image.T), step, k_sigma, shortest)]
    return np.array(sorted(found), dtype=np.int64).reshape(-1, 4)


def _find_columns(image: NDArray[np.float32], step: int, k_sigma: float, shortest: int) -> list[tuple[int, int, int]]:
    from scipy.ndimage import median_filter

    h, w = image.shape
    if w <= 2 * _NEAR * step or h < 2 * shortest:
        return []
    sides = across(image, step)
    columns = [np.array([clipped_middle(side[:, x].copy(), 3.0) for x in range(w)]) for side in sides]
    whole = np.abs(_isolated(_nearer(*columns)[np.newaxis], step)[0]) >= k_sigma * _spread(columns, step)
    running = [median_filter(np.nan_to_num(side), size=(_WINDOW, 1), mode="nearest") for side in sides]
    strange = np.abs(_isolated(_nearer(*running), step)) >= k_sigma * _spread(running, step)
    lines: list[tuple[int, int, int]] = []
    # The outermost lines have neighbours on one side only, where a slope of the sky looks like a defect.
    for x in range(step, w - step):
        runs = _runs(strange[:, x], shortest)
        if whole[x] and (not runs or sum(stop - start for start, stop in runs) >= _WHOLE * h):
            lines.append((x, 0, h))
        else:
            lines += [(x, start, stop) for start, stop in runs]
    return lines


def _nearer(left: NDArray[np.floating], right: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return of two values the one nearer to zero, 0 where their signs differ or one is unknown."""
    same = np.sign(left) * np.sign(right) > 0
    return np.where(same, np.where(np.abs(left) < np.abs(right), left, right), 0.0)


def _isolated(values: NDArray[np.float64], step: int) -> NDArray[np.float64]:
    """Return (h, W) values minus the median of eleven columns of the same colours: what a nebula bends is no line."""
    from scipy.ndimage import median_filter

    out = np.empty_like(values)
    for phase in range(step):
        part = values[:, phase::step]
        out[:, phase::step] = part - median_filter(part, size=(1, 11), mode="nearest")
    return out


def _spread(sides: list[NDArray[np.floating]], step: int) -> NDArray[np.float64]:
    """Return the larger 1.4826 MAD of the differences to either side, above zero, as (W,).

    The columns of a mosaic hold colours of different noise: each kind has a value of its own.
    """
    spread = np.empty(sides[0].shape[-1])
    for phase in range(step):
        parts = [np.ascontiguousarray(side[..., phase::step], dtype=np.float32) for side in sides]
        mads = [median_mad(part.reshape(-1))[1] for part in parts]
        spread[phase::step] = max(1.4826 * max(mads), 1e-6)
    return spread


def _runs(marked: NDArray[np.bool_], shortest: int) -> list[tuple[int, int]]:
    """Return (start, stop) of the runs of at least `shortest`; gaps shorter than that are closed."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], marked.astype(np.int8), [0]])))
    runs: list[tuple[int, int]] = []
    for start, stop in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        if runs and start - runs[-1][1] < shortest:
            runs[-1] = (runs[-1][0], stop)
        else:
            runs.append((start, stop))
    return [run for run in runs if run[1] - run[0] >= shortest]


@exact
def across(image: NDArray[np.float32], step: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return each pixel minus the median of the three on its left, and minus that of the three on its right.

    They stand at distances of 1 to 3 times `step`; at an edge fewer are left. NaN where the pixel is NaN or has no
    neighbour on that side.
    """
    h, w = image.shape
    left = np.empty((h, w), dtype=np.float32)
    right = np.empty((h, w), dtype=np.float32)
    near = np.empty(_NEAR, dtype=np.float32)
    for y in range(h):
        for x in range(w):
            for side in (-1, 1):
                n = 0
                for k in range(1, _NEAR + 1):
                    i = x + side * k * step
                    if 0 <= i < w:
                        v = image[y, i]
                        if v == v:
                            near[n] = v
                            n += 1
                value = image[y, x] - _middle(near, n) if n else np.float32(np.nan)
                if side < 0:
                    left[y, x] = value
                else:
                    right[y, x] = value
    return left, right


@exact
def _middle(values: NDArray[np.float32], n: int) -> np.float32:
    """Return the median of the first `n` values and leave them sorted."""
    for i in range(1, n):
        v = values[i]
        j = i - 1
        while j >= 0 and values[j] > v:
            values[j + 1] = values[j]
            j -= 1
        values[j + 1] = v
    return np.float32(np.float32(0.5) * (values[(n - 1) // 2] + values[n // 2]))


@exact
def clipped_middle(values: NDArray[np.float32], k_sigma: float) -> float:
    """Return the median after values above median + `k_sigma` x 1.4826 MAD were left out, again and again.

    Only high values are cut: they are stars. NaN does not count; NaN without values. `values` is changed.
    """
    n = 0
    for i in range(values.size):
        if values[i] == values[i]:
            values[n] = values[i]
            n += 1
    if n == 0:
        return np.nan
    ordered = np.sort(values[:n])
    while True:
        middle = 0.5 * (np.float64(ordered[(n - 1) // 2]) + np.float64(ordered[n // 2]))
        deviations = np.sort(np.abs(ordered[:n] - np.float32(middle)))
        mad = 0.5 * (np.float64(deviations[(n - 1) // 2]) + np.float64(deviations[n // 2]))
        limit = middle + k_sigma * 1.4826 * mad
        kept = n
        while kept > 1 and np.float64(ordered[kept - 1]) > limit:
            kept -= 1
        if kept == n or mad == 0.0:
            return middle
        n = kept


@exact
def subtract_lines(image: NDArray[np.float32], lines: NDArray[np.int64], step: int, k_sigma: float) -> None:
    """Subtract from each line what it lies above its surroundings; the line keeps its own detail.

    One number a line and colour: the median of the differences between its pixels and the median of their
    neighbours across the line, high values left out. Other defective lines are no neighbours.

    Parameters
    ----------
    image : (H, W) float32 ndarray, DN
        Changed along `lines`.
    lines : (n, 4) int64 ndarray
        From `find_lines`.
    step : int
        As there: with 2, the two colours along a line are treated apart.
    k_sigma : float
        High values beyond are left out.
    """
    h, w = image.shape
    near = np.empty(2 * _NEAR, dtype=np.float32)
    shifts = np.zeros((lines.shape[0], step), dtype=np.float64)
    for k in range(lines.shape[0]):
        axis, index, start, stop = lines[k, 0], lines[k, 1], lines[k, 2], lines[k, 3]
        across_size = w if axis == COLUMN else h
        for phase in range(step):
            values = np.empty((stop - start - phase + step - 1) // step, dtype=np.float32)
            for m in range(values.size):
                at = start + phase + m * step
                n = 0
                for d in range(1, _NEAR + 1):
                    for other in (index - d * step, index + d * step):
                        if other < 0 or other >= across_size:
                            continue
                        listed = False
                        for q in range(lines.shape[0]):
                            if lines[q, 0] == axis and lines[q, 1] == other and lines[q, 2] <= at and at < lines[q, 3]:
                                listed = True
                                break
                        if listed:
                            continue
                        v = image[at, other] if axis == COLUMN else image[other, at]
                        if v == v:
                            near[n] = v
                            n += 1
                own = image[at, index] if axis == COLUMN else image[index, at]
                values[m] = own - _middle(near, n) if n else np.float32(np.nan)
            shift = clipped_middle(values, k_sigma)
            shifts[k, phase] = shift if shift == shift else 0.0
        # At once, so that rows see the columns that were corrected before them.
        for at in range(start, stop):
            value = np.float32(shifts[k, (at - start) % step])
            if axis == COLUMN:
                image[at, index] -= value
            else:
                image[index, at] -= value
