"""Counts of the levels that occur in a frame, and what follows from them: statistics, scale, gaps, saturation.

A histogram with one bin for each DN holds everything that is to be known about the values of an integer frame, in
constant memory and with one pass over the pixels. Bins lie on whole DN from `FIRST` to `FIRST + SIZE - 1`, so that
calibrated frames with negative values fit as well.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from wbpy.kernels.jit import exact, inline
from wbpy.kernels.statistics import median_mad

FIRST = -16384
"""DN of the first bin; lower values are counted in it."""
SIZE = 98304
"""Number of bins; values above the last one, 81919 DN, are counted in it."""

_TOP_DN = 256
"""Width of the range below the highest level in which a saturation peak is looked for, DN."""
_GAP_NEAR = 4
"""Occupied levels on each side that tell how many pixels a level holds."""
_GAP_EXPECTED = 14.0
"""Least number of pixels in such levels: chance leaves a level with so many expected empty once in 10^6."""
_GAP_LONGEST = 64
"""Distance of occupied levels, DN, above which they belong to different heaps."""


@exact
def count_levels(pixels: NDArray[np.float32], y0: int, cell: int, counts: NDArray[np.int64]) -> tuple[int, int]:
    """Add the pixels of some rows to the histogram of each plane.

    Parameters
    ----------
    pixels : (h, W) float32 ndarray, DN
        Rows `y0` and following of a frame; NaN and infinite pixels are left out.
    y0 : int
        Number of the first row, which decides the plane.
    cell : int
        1 for mono, 2 for a CFA with 2x2 cells.
    counts : (cell * cell, SIZE) int64 ndarray
        Added to; plane ``(y % cell) * cell + x % cell``, values rounded to the nearest bin, half up.

    Returns
    -------
    missing, broken : int
        Pixels without a finite value; pixels whose value is no whole number.
    """
    h, w = pixels.shape
    missing = 0
    broken = 0
    for j in range(h):
        row = ((y0 + j) % cell) * cell
        for x in range(w):
            v = pixels[j, x]
            if not np.isfinite(v):
                missing += 1
                continue
            level = math.floor(np.float64(v) + 0.5)
            if np.float64(v) != level:
                broken += 1
            place = int(min(max(level, FIRST), FIRST + SIZE - 1)) - FIRST
            counts[row + x % cell, place] += 1
    return missing, broken


def level_at(counts: NDArray[np.int64], share: float) -> float:
    """Return the level below or at which a share of the pixels lies, DN; NaN for an empty histogram.

    Parameters
    ----------
    counts : (SIZE,) int64 ndarray
    share : float
        0 is the minimum, 0.5 the lower median, 1 the maximum.
    """
    total = int(counts.sum())
    if total == 0:
        return math.nan
    rank = min(total - 1, max(0, math.ceil(share * total) - 1))
    return float(np.searchsorted(np.cumsum(counts), rank, side="right") + FIRST)


def describe(counts: NDArray[np.int64]) -> tuple[float, float, float, float, float]:
    """Return mean, median, median absolute deviation, minimum and maximum of a histogram, DN.

    Exact for frames of whole numbers, to half a DN for others; the median of an even number of pixels is the mean
    of the two middle ones. NaN for an empty histogram.
    """
    total = int(counts.sum())
    if total == 0:
        return (math.nan,) * 5
    used = np.flatnonzero(counts)
    number = counts[used]
    levels = used.astype(np.float64) + FIRST
    # In whole numbers, which no order of summation can change.
    mean = int(np.sum(used * number)) / total + FIRST
    median = _middle(levels, number, total)
    deviations = np.abs(levels - median)
    order = np.argsort(deviations, kind="stable")
    return mean, median, _middle(deviations[order], number[order], total), float(levels[0]), float(levels[-1])


def _middle(values: NDArray[np.float64], number: NDArray[np.int64], total: int) -> float:
    sums = np.cumsum(number)
    low = values[np.searchsorted(sums, (total - 1) // 2, side="right")]
    high = values[np.searchsorted(sums, total // 2, side="right")]
    return 0.5 * float(low + high)


def count_within(counts: NDArray[np.int64], low: float, high: float) -> int:
    """Return the number of pixels with ``low <= level <= high``, DN, both ends included."""
    first = min(max(math.ceil(low) - FIRST, 0), SIZE)
    last = min(max(math.floor(high) - FIRST + 1, first), SIZE)
    return int(counts[first:last].sum())


def level_step(counts: NDArray[np.int64]) -> int:
    """Return the distance of neighbouring levels, DN: 16 for 12-bit data scaled to 16 bits, 4 for 14 bits, else 1.

    The largest power of two up to 256 on whose multiples, with any common offset, 99.9 % of the pixels lie; pixels
    on the highest level are left out, because software sets it to 65535 whatever the scale. 1 where fewer than four
    levels occur, which say nothing about a scale.
    """
    used = np.flatnonzero(counts)
    if used.size < 4:
        return 1
    inner = used[:-1]
    number = counts[inner]
    total = int(number.sum())
    for step in (256, 128, 64, 32, 16, 8, 4, 2):
        on_grid = np.bincount(inner % step, weights=number, minlength=step).max()
        if on_grid >= 0.999 * total and inner.size * step <= 2 * (inner[-1] - inner[0]) + 8 * step:
            return step
    return 1


def level_spacing(counts: NDArray[np.int64]) -> tuple[float, int]:
    """Return the mean distance of the levels that occur, and over how many distances it was averaged.

    A driver that multiplies the values of a colour by 52/50 leaves one level in 26 empty: its spacing is 1.04 times
    that of a colour that it left alone. Only levels count around which the occupied levels hold at least 14 pixels
    on average, so that chance leaves none of them empty.

    Parameters
    ----------
    counts : (SIZE,) int64 ndarray

    Returns
    -------
    spacing : float, DN
        NaN where nothing could be judged.
    number : int
    """
    used = np.flatnonzero(counts[:-1])
    if used.size < 2 * _GAP_NEAR + 2:
        return math.nan, 0
    sums = np.concatenate([[0], np.cumsum(counts[used])])
    place = np.arange(_GAP_NEAR, used.size - _GAP_NEAR)
    filled = np.zeros(used.size, bool)
    before = (sums[place] - sums[place - _GAP_NEAR]) / _GAP_NEAR
    after = (sums[place + _GAP_NEAR + 1] - sums[place + 1]) / _GAP_NEAR
    filled[place] = np.minimum(before, after) >= _GAP_EXPECTED
    steps = np.diff(used)
    # A long gap parts two heaps, such as sky and saturation; it is none of the scale.
    judged = filled[:-1] & filled[1:] & (steps <= _GAP_LONGEST)
    number = int(judged.sum())
    return (float(steps[judged].mean()), number) if number else (math.nan, 0)


def saturation(counts: NDArray[np.int64], noise: float, least: int = 30) -> float:
    """Return the level on which bright pixels pile up, DN; NaN when none do.

    Looked for among the 256 DN below the highest level that occurs: at least `least` pixels there, and ten times as
    many as the four times wider range below lets expect, and closer together than the noise of the frame: saturated
    pixels have no photon noise. The result is their median, because the full well has read noise.

    Parameters
    ----------
    counts : (SIZE,) int64 ndarray
        Of one plane: the sky of the brightest colour would look like a pile above that of the others.
    noise : float, DN
        Standard deviation of neighbouring pixels in the frame.
    least : int
        Fewest pixels.
    """
    used = np.flatnonzero(counts)
    if used.size < 2:
        return math.nan
    top = int(used[-1])
    first = max(0, top - _TOP_DN + 1)
    number = int(counts[first:].sum())
    before = int(counts[max(0, first - 4 * _TOP_DN) : first].sum()) / 4.0
    if number < least or number < 10.0 * before or int(counts[:first].sum()) < number:
        return math.nan
    sums = np.cumsum(counts[first:])
    low, middle, high = (int(np.searchsorted(sums, number * share, side="right")) for share in (0.3, 0.5, 0.7))
    # Half of what a normal distribution as wide as the noise has between these ranks.
    if high - low > 0.5 * 1.05 * noise:
        return math.nan
    return float(first + middle + FIRST)


@exact
def clipped(values: NDArray[np.float32], least: float) -> tuple[float, float, int]:
    """Return mean and standard deviation of the values near the median, and how many those are.

    A mean, because the median of data in steps of 16 DN knows no value between two steps.

    Parameters
    ----------
    values : (n,) float32 ndarray, DN
        Contiguous; NaN is left out.
    least : float, DN
        Values count within four sigma of the median, sigma from the median absolute deviation, and always within
        `least`.

    Returns
    -------
    mean, deviation : float, DN
        NaN when there is no value.
    number : int
    """
    middle, mad = median_mad(values)
    reach = max(4.0 * 1.4826 * mad, least)
    total = 0.0
    squares = 0.0
    n = 0
    for i in range(values.size):
        d = np.float64(values[i]) - middle
        if abs(d) <= reach:
            total += d
            squares += d * d
            n += 1
    if n == 0:
        return np.nan, np.nan, 0
    mean = total / n
    return middle + mean, math.sqrt(max(0.0, squares / n - mean * mean)), n


def tile_levels(
    pixels: NDArray[np.float32], y0: int, cell: int, columns: int, least: float = 40.0, most: int = 4096
) -> NDArray[np.float64]:
    """Return level, deviation and number of pixels of each plane in tiles side by side.

    Parameters
    ----------
    pixels : (h, W) float32 ndarray, DN
        Rows `y0` and following of a frame; NaN is left out.
    y0 : int
        Number of the first row, which decides the planes.
    cell : int
        1 for mono, 2 for a CFA.
    columns : int
        Number of tiles.
    least : float, DN
        See `clipped`.
    most : int
        At most about so many pixels of a plane and tile are looked at, evenly chosen.

    Returns
    -------
    (3, cell * cell, columns) float64 ndarray
        Clipped mean and deviation in DN, NaN where a tile holds no pixel of a plane, and the number of pixels.
    """
    out = np.full((3, cell * cell, columns), np.nan)
    _tiles_of_pixels(pixels, y0, cell, _edges(pixels.shape[1], cell, columns), least, most, out)
    return out


def tile_levels_of_words(
    words: NDArray[np.uint16],
    width: int,
    bzero: float,
    y0: int,
    cell: int,
    columns: int,
    least: float = 40.0,
    most: int = 4096,
) -> NDArray[np.float64]:
    """Return the same as `tile_levels` from 16-bit FITS words as stored: big-endian, BZERO not applied.

    Parameters
    ----------
    words : (h * width,) uint16 ndarray
        Rows `y0` and following of a frame.
    width : int
        Pixels in a row.
    bzero : float, DN
        Added to each word.
    y0, cell, columns, least, most
        As for `tile_levels`.

    Returns
    -------
    (3, cell * cell, columns) float64 ndarray
    """
    out = np.full((3, cell * cell, columns), np.nan)
    rows = words.reshape(-1, width)
    _tiles_of_words(rows, np.float32(bzero), y0, cell, _edges(width, cell, columns), least, most, out)
    return out


def _edges(width: int, cell: int, columns: int) -> NDArray[np.int64]:
    """Return the first columns of tiles of whole cells, and the width."""
    return np.array([cell * (column * (-(-width // cell)) // columns) for column in range(columns)] + [width])


@inline
def _sampling(
    h: int, y0: int, cell: int, plane: int, first: int, last: int, most: int
) -> tuple[int, int, int, int, int]:
    """Return first row, first column, columns, pixels and stride of what is looked at of one plane of a tile."""
    y = (plane // cell - y0) % cell
    x = first + plane % cell
    columns = max(0, (last - x + cell - 1) // cell)
    pixels = max(0, (h - y + cell - 1) // cell) * columns
    # An odd stride meets all columns in turn.
    return y, x, columns, pixels, max(1, pixels // most) | 1


@exact
def _tiles_of_pixels(
    pixels: NDArray[np.float32],
    y0: int,
    cell: int,
    edges: NDArray[np.int64],
    least: float,
    most: int,
    out: NDArray[np.float64],
) -> None:
    """Fill `out` of `tile_levels`."""
    values = np.empty(2 * most + 2, np.float32)
    for plane in range(cell * cell):
        for tile in range(edges.size - 1):
            y, x, columns, number, stride = _sampling(
                pixels.shape[0], y0, cell, plane, edges[tile], edges[tile + 1], most
            )
            n = 0
            for place in range(0, number, stride):
                values[n] = pixels[y + cell * (place // columns), x + cell * (place % columns)]
                n += 1
            out[0, plane, tile], out[1, plane, tile], out[2, plane, tile] = clipped(values[:n], least)


@exact
def _clipped_levels(
    counts: NDArray[np.int32], lowest: int, highest: int, n: int, shift: float, least: float
) -> tuple[float, float, int]:
    """Return the same as `clipped` from the number of values on each level; level 0 stands for `shift`, DN."""
    if n == 0:
        return np.nan, np.nan, 0
    # The two middle ones of the levels, then of their distances from the median, outwards from there.
    seen = 0
    low = lowest - 1
    while seen <= (n - 1) // 2:
        low += 1
        seen += counts[low]
    high = low
    while seen <= n // 2:
        high += 1
        seen += counts[high]
    middle = 0.5 * (low + high)
    below = low
    above = low + 1
    seen = 0
    near = -1.0
    far = -1.0
    while far < 0.0:
        if above > highest or (below >= lowest and middle - below <= above - middle):
            distance = middle - below
            seen += counts[below]
            below -= 1
        else:
            distance = above - middle
            seen += counts[above]
            above += 1
        if near < 0.0 and seen > (n - 1) // 2:
            near = distance
        if seen > n // 2:
            far = distance
    reach = max(4.0 * 1.4826 * 0.5 * (near + far), least)
    total = 0.0
    squares = 0.0
    used = 0
    for level in range(max(lowest, int(math.ceil(middle - reach))), min(highest, int(math.floor(middle + reach))) + 1):
        d = level - middle
        c = counts[level]
        total += c * d
        squares += c * d * d
        used += c
    mean = total / used
    return shift + middle + mean, math.sqrt(max(0.0, squares / used - mean * mean)), used


@exact
def _tiles_of_words(
    words: NDArray[np.uint16],
    bzero: np.float32,
    y0: int,
    cell: int,
    edges: NDArray[np.int64],
    least: float,
    most: int,
    out: NDArray[np.float64],
) -> None:
    """Fill `out` of `tile_levels_of_words`: counting ranks few whole numbers faster than comparing does."""
    counts = np.zeros(65536, np.int32)
    shift = np.float64(bzero) - 32768.0
    for plane in range(cell * cell):
        for tile in range(edges.size - 1):
            y, x, columns, number, stride = _sampling(
                words.shape[0], y0, cell, plane, edges[tile], edges[tile + 1], most
            )
            n = 0
            lowest = 65535
            highest = 0
            for place in range(0, number, stride):
                word = words[y + cell * (place // columns), x + cell * (place % columns)]
                # Flipping the sign bit gives the word + 32768 as an unsigned number.
                level = int(np.uint16(((word >> 8) | ((word & 0xFF) << 8)) ^ 0x8000))
                counts[level] += 1
                lowest = level if level < lowest else lowest
                highest = level if level > highest else highest
                n += 1
            found = _clipped_levels(counts, lowest, highest, n, shift, least)
            out[0, plane, tile], out[1, plane, tile], out[2, plane, tile] = found
            counts[lowest : highest + 1] = 0


@exact
def block_medians(
    pixels: NDArray[np.float32], block: int, cell: int, scale: NDArray[np.float64], out: NDArray[np.float32]
) -> None:
    """Write the medians of square blocks, each plane divided by its own scale.

    Parameters
    ----------
    pixels : (H, W) float32 ndarray, DN
        NaN is left out.
    block : int
        Side of a block, px, a multiple of `cell`; of more than 16 px an even sample is ranked.
        Incomplete blocks at the right and lower edge are left out.
    cell : int
        1 for mono, 2 for a CFA.
    scale : (cell * cell,) float64 ndarray
        Each pixel is divided by the scale of its plane before it is ranked.
    out : (H // block, W // block) float32 ndarray
        Filled; NaN where a block has no value.
    """
    rows, columns = out.shape
    values = np.empty(block * block, np.float32)
    # Every k-th cell in each direction, so that large blocks cost no more than blocks of 16 pixels a side.
    jump = cell * max(1, -(-block // 16))
    for r in range(rows):
        for c in range(columns):
            n = 0
            for j in range(block):
                if j % jump >= cell:
                    continue
                y = r * block + j
                for i in range(block):
                    if i % jump >= cell:
                        continue
                    x = c * block + i
                    v = pixels[y, x]
                    if np.isfinite(v):
                        values[n] = np.float32(np.float64(v) / scale[(y % cell) * cell + x % cell])
                        n += 1
            if n == 0:
                out[r, c] = np.nan
                continue
            out[r, c] = np.float32(np.median(values[:n]))


@exact
def isolated_pixels(
    pixels: NDArray[np.float32], cell: int, limit: NDArray[np.float64], marked: NDArray[np.uint8]
) -> int:
    """Mark the pixels that stand out alone, brighter than all eight neighbours of their plane by a limit.

    The light of a star falls on its neighbours too: a pixel counts only where it exceeds the brightest neighbour by
    `limit` and by four times what that neighbour has above the median of the eight.

    Parameters
    ----------
    pixels : (H, W) float32 ndarray, DN
    cell : int
        Distance of neighbours, px: 1 for mono, 2 for a CFA. The outer `cell` pixels are not looked at.
    limit : (cell * cell,) float64 ndarray, DN
        Least excess over the brightest neighbour for each plane.
    marked : (H, W) uint8 ndarray
        Raised by one at each pixel found, up to 255.

    Returns
    -------
    int
        Number of pixels found.
    """
    h, w = pixels.shape
    around = np.empty(8, np.float32)
    found = 0
    for y in range(cell, h - cell):
        for x in range(cell, w - cell):
            v = pixels[y, x]
            least = limit[(y % cell) * cell + x % cell]
            if not v - pixels[y, x - cell] > least or not v - pixels[y, x + cell] > least:
                continue
            n = 0
            for dy in (-cell, 0, cell):
                for dx in (-cell, 0, cell):
                    if dy != 0 or dx != 0:
                        around[n] = pixels[y + dy, x + dx]
                        n += 1
            brightest = np.max(around)
            middle = np.median(around)
            if v - brightest > least + 4.0 * (brightest - middle):
                found += 1
                if marked[y, x] < 255:
                    marked[y, x] += 1
    return found
