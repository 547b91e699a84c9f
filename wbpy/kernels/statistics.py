"""Location, scale, noise and background of an image.

NaN is a missing pixel everywhere: it is skipped and never counted. Order statistics are exact and need about one
megabyte whatever the size of the image: a float32 is ranked by its bit pattern, upper half first.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wbpy.kernels.jit import exact

_NAN = np.float32(np.nan)
_INF = np.float32(np.inf)
_NAN_KEY = 0xFFC0  # upper half of the key of the quiet NaN
_BLOCK = 4096
_SMALL = 16384  # below this a copy and a partition is quicker than two histograms of 65536 bins


# --------------------------------------------------------------------------------------------------------------
# order statistics
# --------------------------------------------------------------------------------------------------------------
@exact
def _load_keys(
    values: NDArray[np.float32],
    start: int,
    stop: int,
    centre: float,
    deviation: bool,
    scratch: NDArray[np.float32],
    keys: NDArray[np.uint32],
) -> None:
    """Fill `keys`, a uint32 view of `scratch`, with unsigned numbers that sort as the values do, NaN last."""
    m = stop - start
    if deviation:
        for i in range(m):
            v = np.float32(abs(np.float64(values[start + i]) - centre))
            scratch[i] = v if v == v else _NAN
    else:
        for i in range(m):
            v = values[start + i]
            scratch[i] = v if v == v else _NAN
    for i in range(m):
        u = keys[i]
        keys[i] = (u ^ np.uint32(0xFFFFFFFF)) if u >> np.uint32(31) else (u | np.uint32(0x80000000))


@exact
def _key_value(key: int) -> np.float32:
    """Return the float32 whose sorting key is `key`."""
    bits = np.empty(1, dtype=np.uint32)
    bits[0] = np.uint32(key & 0x7FFFFFFF) if key & 0x80000000 else np.uint32(key ^ 0xFFFFFFFF)
    return np.float32(bits.view(np.float32)[0])


@exact
def _upper_histogram(values: NDArray[np.float32], centre: float, deviation: bool, counts: NDArray[np.int64]) -> int:
    """Add the upper halves of all keys to `counts` (65536,); return how many values are not NaN."""
    n = values.size
    scratch = np.empty(_BLOCK, dtype=np.float32)
    keys = scratch.view(np.uint32)
    # Neighbouring pixels fall into the same bin; four tables keep the increments independent of each other.
    part = np.zeros((4, 65536), dtype=np.uint32)
    for start in range(0, n, _BLOCK):
        stop = min(n, start + _BLOCK)
        _load_keys(values, start, stop, centre, deviation, scratch, keys)
        m = stop - start
        whole = m - m % 4
        for i in range(0, whole, 4):
            part[0, keys[i] >> np.uint32(16)] += np.uint32(1)
            part[1, keys[i + 1] >> np.uint32(16)] += np.uint32(1)
            part[2, keys[i + 2] >> np.uint32(16)] += np.uint32(1)
            part[3, keys[i + 3] >> np.uint32(16)] += np.uint32(1)
        for i in range(whole, m):
            part[0, keys[i] >> np.uint32(16)] += np.uint32(1)
    total = 0
    for b in range(65536):
        if b != _NAN_KEY:
            c = int(part[0, b]) + int(part[1, b]) + int(part[2, b]) + int(part[3, b])
            counts[b] += c
            total += c
    return total


@exact
def _lower_histogram(
    values: NDArray[np.float32], centre: float, deviation: bool, upper: int, counts: NDArray[np.int64]
) -> None:
    """Add the lower halves of the keys whose upper half is `upper` to `counts` (65536,)."""
    n = values.size
    scratch = np.empty(_BLOCK, dtype=np.float32)
    keys = scratch.view(np.uint32)
    inside = np.empty(_BLOCK + 1, dtype=np.uint32)
    wanted = np.uint32(upper)
    for start in range(0, n, _BLOCK):
        stop = min(n, start + _BLOCK)
        _load_keys(values, start, stop, centre, deviation, scratch, keys)
        # Compacting first keeps the loop free of a branch that is right half of the time.
        found = 0
        for i in range(stop - start):
            inside[found] = keys[i] & np.uint32(0xFFFF)
            found += (keys[i] >> np.uint32(16)) == wanted
        for i in range(found):
            counts[inside[i]] += 1


@exact
def _ranked(
    values: NDArray[np.float32], centre: float, deviation: bool, low_rank: float, high_rank: float, middle: bool
) -> tuple[float, float, int]:
    """Return two order statistics and the number of values that are not NaN.

    With `middle` the two middles are returned and the ranks ignored, otherwise the ranks ``floor(low_rank n)``
    and ``n - 1 - floor(high_rank n)``, at least one value being cut at each end.
    """
    if values.size <= _SMALL:
        kept = np.empty(values.size, dtype=np.float32)
        n = 0
        for i in range(values.size):
            v = values[i]
            if deviation:
                v = np.float32(abs(np.float64(v) - centre))
            if v == v:
                kept[n] = v
                n += 1
        if n == 0:
            return np.nan, np.nan, 0
        first, last = _ranks(n, low_rank, high_rank, middle)
        part = np.partition(kept[:n], first)
        low = np.float64(part[first])
        if last == first:
            return low, low, n
        part = np.partition(kept[:n], last)
        return low, np.float64(part[last]), n
    counts = np.zeros(65536, dtype=np.int64)
    n = _upper_histogram(values, centre, deviation, counts)
    if n == 0:
        return np.nan, np.nan, 0
    first, last = _ranks(n, low_rank, high_rank, middle)
    result = np.empty(2, dtype=np.float64)
    fine = np.zeros(65536, dtype=np.int64)
    done = -1
    for k in range(2):
        rank = first if k == 0 else last
        upper, below = _bin_of(counts, rank)
        if upper != done:
            fine[:] = 0
            _lower_histogram(values, centre, deviation, upper, fine)
            done = upper
        lower, _ = _bin_of(fine, rank - below)
        result[k] = _key_value((upper << 16) | lower)
    return result[0], result[1], n


@exact
def _ranks(n: int, low: float, high: float, middle: bool) -> tuple[int, int]:
    """Return the two 0-based ranks that `_ranked` is asked for."""
    if middle:
        return (n - 1) // 2, n // 2
    first = max(1, int(math.floor(low * n)))
    last = n - 1 - max(1, int(math.floor(high * n)))
    if last < first:
        return (n - 1) // 2, n // 2
    return first, last


@exact
def _bin_of(counts: NDArray[np.int64], rank: int) -> tuple[int, int]:
    """Return the bin that holds the value of the 0-based `rank`, and how many values lie in lower bins."""
    below = 0
    for b in range(counts.size):
        if below + counts[b] > rank:
            return b, below
        below += counts[b]
    return counts.size - 1, below


@exact
def median(values: NDArray[np.float32]) -> float:
    """Return the exact median.

    Parameters
    ----------
    values : (n,) float32 ndarray
        Contiguous; NaN is skipped.

    Returns
    -------
    float
        The mean of the two middles when their number is even; NaN when there is no value.
    """
    low, high, _ = _ranked(values, 0.0, False, 0.0, 0.0, True)
    return 0.5 * (low + high) + 0.0  # never -0.0, whichever of two zeros ranks first


@exact
def median_mad(values: NDArray[np.float32]) -> tuple[float, float]:
    """Return the exact median and the median absolute deviation from it.

    Parameters
    ----------
    values : (n,) float32 ndarray
        Contiguous; NaN is skipped.

    Returns
    -------
    median, mad : float
        Unscaled: a normal distribution has sigma = 1.4826 MAD. Deviations are rounded to float32 before they
        are ranked. NaN when there is no value.
    """
    low, high, _ = _ranked(values, 0.0, False, 0.0, 0.0, True)
    centre = 0.5 * (low + high) + 0.0
    low, high, _ = _ranked(values, centre, True, 0.0, 0.0, True)
    return centre, 0.5 * (low + high)


def median_of_known(values: NDArray[Any]) -> NDArray[Any]:
    """Return the median over the first axis, NaN left out; NaN, and no warning, where there is nothing else."""
    missing = np.isnan(values).all(axis=0)
    return np.where(missing, values.dtype.type(np.nan), np.nanmedian(np.where(missing, 0, values), axis=0))


@exact
def trimmed_mean(values: NDArray[np.float32], clip: float) -> float:
    """Return the mean of the values left after both ends are cut.

    Parameters
    ----------
    values : (n,) float32 ndarray
        Contiguous; NaN is skipped.
    clip : float
        ``floor(clip * n)`` values are cut at each end, at least one. When nothing would remain (fewer than three
        values, or `clip` of one half) the median is returned.

    Returns
    -------
    float
        NaN when there is no value.
    """
    low, high, n = _ranked(values, 0.0, False, clip, clip, False)
    if n == 0:
        return np.nan
    first, last = _ranks(n, clip, clip, False)
    if last - first < 1 or not low < high:
        return 0.5 * (low + high)
    # Values equal to a limit are ties of which only some are cut; they are added as a product.
    total = 0.0
    under = 0
    over = 0
    for i in range(values.size):
        v = np.float64(values[i])
        if v > low and v < high:
            total += v
        elif v <= low:
            under += 1
        elif v >= high:
            over += 1
    total += low * (under - first) + high * (over - (n - 1 - last))
    return total / (last - first + 1)


# --------------------------------------------------------------------------------------------------------------
# samples and scale
# --------------------------------------------------------------------------------------------------------------
@exact
def _sheared_sample(
    image: NDArray[np.float32], y0: int, x0: int, cell: int, stride: int, out: NDArray[np.float32]
) -> int:
    """Fill `out` with every `stride`-th pixel of one colour plane, shifted from row to row; return the count."""
    h, w = image.shape
    rows = (h - y0 + cell - 1) // cell
    columns = (w - x0 + cell - 1) // cell
    # A step near the golden section, with no divisor in common, visits every column.
    shear = max(1, int(stride * 0.6180339887 + 0.5))
    a, b = shear, stride
    while b:
        a, b = b, a % b
        if b == 0 and a != 1:
            shear += 1
            a, b = shear, stride
    n = 0
    for j in range(rows):
        y = y0 + cell * j
        for i in range((j * shear) % stride, columns, stride):
            out[n] = image[y, x0 + cell * i]
            n += 1
    return n


def sampled(
    image: NDArray[np.float32], cfa: NDArray[np.uint8] | None = None, target: int = 2_000_000
) -> tuple[NDArray[np.float32], ...]:
    """Return an even, repeatable sample of the pixels of each colour.

    Every s-th pixel of each row of a colour plane is taken, the start moving from row to row, so that every row
    and every column is represented alike: column patterns and readout rows do not bias the sample. Images of at
    most `target` pixels are returned whole.

    Parameters
    ----------
    image : (H, W) float32 ndarray, DN
        NaN pixels stay in the sample.
    cfa : (2, 2) uint8 ndarray or None
        Colour (0 R, 1 G, 2 B) at ``[y % 2, x % 2]``; None for mono.
    target : int
        About the largest number of samples, all colours together.

    Returns
    -------
    tuple of (n,) float32 ndarray, DN
        One array for mono; R, G and B for a colour sensor, green with both its pixels of a cell (empty where
        the pattern lacks the colour).
    """
    stride = max(1, -(-image.size // max(1, target)))
    planes: list[NDArray[np.float32]] = []
    if cfa is None:
        colours = [[(0, 0)]]
        cell = 1
    else:
        cell = len(cfa)
        colours = [[(y, x) for y in range(cell) for x in range(cell) if cfa[y, x] == c] for c in range(3)]
    for offsets in colours:
        parts = []
        for y, x in offsets:
            rows, columns = -(-(image.shape[0] - y) // cell), -(-(image.shape[1] - x) // cell)
            out = np.empty(rows * (-(-columns // stride)), dtype=np.float32)
            parts.append(out[: _sheared_sample(image, y, x, cell, stride, out)])
        planes.append(np.concatenate(parts) if parts else np.empty(0, dtype=np.float32))
    return tuple(planes)


@exact
def _biweight(
    values: NDArray[np.float32], centre: float, low_mad: float, high_mad: float
) -> tuple[float, float, float, float, float, float, float, float]:
    """Return the count, the number at the centre, numerator and denominator sums: below, then above."""
    low_scale = 1.0 / (9.0 * low_mad) if low_mad > 0.0 else 0.0
    high_scale = 1.0 / (9.0 * high_mad) if high_mad > 0.0 else 0.0
    n0 = n1 = ties = 0.0
    a0 = a1 = b0 = b1 = 0.0
    for i in range(values.size):
        v = np.float64(values[i])
        if v != v:
            continue
        d = v - centre
        if d < 0.0:
            n0 += 1.0
            y = d * low_scale
            if y > -1.0:
                q = 1.0 - y * y
                a0 += d * d * q * q * q * q
                b0 += q * (1.0 - 5.0 * y * y)
        elif d > 0.0:
            n1 += 1.0
            y = d * high_scale
            if y < 1.0:
                q = 1.0 - y * y
                a1 += d * d * q * q * q * q
                b1 += q * (1.0 - 5.0 * y * y)
        else:
            ties += 1.0
    return n0, ties, a0, b0, n1, ties, a1, b1


@exact
def bwmv(values: NDArray[np.float32], median: float, mad: float) -> float:
    """Return the biweight midvariance about the median.

    ``n sum((x - m)^2 (1 - y^2)^4) / sum((1 - y^2)(1 - 5 y^2))^2`` over ``|y| < 1`` with ``y = (x - m)/(9 MAD)``
    (Mosteller and Tukey 1977; Beers, Flynn and Gebhardt 1990, eq. 9); its root estimates sigma.

    Parameters
    ----------
    values : (n,) float32 ndarray
        NaN is skipped.
    median, mad : float
        From `median_mad`.

    Returns
    -------
    float
        Variance, in the square of the unit of `values`; 0 where `mad` is 0, NaN when there is no value.
    """
    n0, ties, a0, b0, n1, _, a1, b1 = _biweight(values, median, mad, mad)
    n = n0 + n1 + ties
    if n == 0.0:
        return np.nan
    if not mad > 0.0:
        return 0.0
    b = b0 + b1 + ties
    return n * (a0 + a1) / (b * b)


@exact
def dispersion(values: NDArray[np.float32], median: float) -> tuple[float, float]:
    """Return the scale below and above the median: two one-sided roots of the biweight midvariance.

    Each side uses its own MAD about the common median, k = 9. Values equal to the median count on both sides,
    which keeps coarsely quantised data symmetric.

    Parameters
    ----------
    values : (n,) float32 ndarray
        NaN is skipped.
    median : float
        From `median`.

    Returns
    -------
    low, high : float
        In the unit of `values`; both estimate sigma for a normal distribution. 0 where more than half of a side
        equals the median, NaN when there is no value.
    """
    below = np.empty(values.size, dtype=np.float32)
    above = np.empty(values.size, dtype=np.float32)
    n0 = 0
    n1 = 0
    for i in range(values.size):
        v = np.float64(values[i])
        if v <= median:
            below[n0] = np.float32(median - v)
            n0 += 1
        if v >= median:
            above[n1] = np.float32(v - median)
            n1 += 1
    if n0 == 0 and n1 == 0:
        return np.nan, np.nan
    a, b, _ = _ranked(below[:n0], 0.0, False, 0.0, 0.0, True)
    low_mad = 0.5 * (a + b)
    a, b, _ = _ranked(above[:n1], 0.0, False, 0.0, 0.0, True)
    high_mad = 0.5 * (a + b)
    m0, ties, a0, b0, m1, _, a1, b1 = _biweight(values, median, low_mad, high_mad)
    low = math.sqrt((m0 + ties) * a0) / abs(b0 + ties) if low_mad > 0.0 else 0.0
    high = math.sqrt((m1 + ties) * a1) / abs(b1 + ties) if high_mad > 0.0 else 0.0
    return low, high


# --------------------------------------------------------------------------------------------------------------
# noise
# --------------------------------------------------------------------------------------------------------------
_LAYERS = 4
_PATCH = 256
# Standard deviation of each a trous layer (B3 spline) of white noise with sigma 1.
_LAYER_SIGMA = np.array([0.8907, 0.2007, 0.0856, 0.0413])
# What remains of the sigma of white noise when |w| <= 3 sigma is asked of J layers at once (index J = 2, 3, 4;
# measured on 4 million pixels), and when values are clipped at 3 sigma until nothing changes: the fixed point of
# c^2 = 1 - 2 a phi(a) / (2 Phi(a) - 1) with a = 3 c.
_MRS_BIAS = (math.nan, math.nan, 0.9552, 0.9739, 0.9782)
_CLIPPED_SIGMA = 0.98485
_LANES = 64


@exact
def _smooth(
    source: NDArray[np.float32],
    distance: int,
    line: NDArray[np.float32],
    target: NDArray[np.float32],
) -> None:
    """Write `source` convolved with the B3 spline, its taps `distance` pixels apart, reflected at the edges."""
    h, w = source.shape
    a0 = np.float32(0.375)
    a1 = np.float32(0.25)
    a2 = np.float32(0.0625)
    d = distance
    padded = line[: w + 4 * d]
    for y in range(h):
        p1 = source[_reflected(y - d, h)]
        p2 = source[_reflected(y - 2 * d, h)]
        n1 = source[_reflected(y + d, h)]
        n2 = source[_reflected(y + 2 * d, h)]
        c = source[y]
        middle = padded[2 * d : 2 * d + w]
        for x in range(w):
            middle[x] = a0 * c[x] + a1 * (p1[x] + n1[x]) + a2 * (p2[x] + n2[x])
        for x in range(2 * d):
            padded[x] = middle[_reflected(x - 2 * d, w)]
            padded[w + 2 * d + x] = middle[_reflected(w + x, w)]
        l2 = padded[:w]
        l1 = padded[d : d + w]
        r1 = padded[3 * d : 3 * d + w]
        r2 = padded[4 * d : 4 * d + w]
        out = target[y]
        for x in range(w):
            out[x] = a0 * middle[x] + a1 * (l1[x] + r1[x]) + a2 * (l2[x] + r2[x])


@exact
def _reflected(i: int, n: int) -> int:
    """Return index `i` folded into 0..n-1 about the edge pixels."""
    if n == 1:
        return 0
    while i < 0 or i >= n:
        i = -i if i < 0 else 2 * (n - 1) - i
    return i


@exact
def _without_gaps(patch: NDArray[np.float32], level: np.float32, out: NDArray[np.float32]) -> int:
    """Copy `patch`, NaN replaced by the mean of its valid 5x5 neighbours or else `level`; return the NaN count."""
    h, w = patch.shape
    missing = 0
    for y in range(h):
        for x in range(w):
            v = patch[y, x]
            if v == v:
                out[y, x] = v
                continue
            missing += 1
            total = 0.0
            n = 0
            for j in range(max(0, y - 2), min(h, y + 3)):
                for i in range(max(0, x - 2), min(w, x + 3)):
                    u = patch[j, i]
                    if u == u:
                        total += u
                        n += 1
            out[y, x] = np.float32(total / n) if n else level
    return missing


@exact
def _decompose(
    patch: NDArray[np.float32],
    layers: int,
    layer_sigma: NDArray[np.float64],
    detail: NDArray[np.float32],
    ratio: NDArray[np.float32],
    signal: NDArray[np.float32],
) -> int:
    """Fill three (h, w) arrays from the a trous transform of one patch; return the number of valid pixels.

    `detail` is the first layer, `ratio` the largest ``|w_j| / k_j`` over the layers, `signal` the patch minus the
    last smooth plane. A missing pixel has a NaN detail and an infinite ratio.
    """
    h, w = patch.shape
    subset = np.empty((h * w + 15) // 16, dtype=np.float32)
    k = 0
    for i in range(0, h * w, 16):
        subset[k] = patch[i // w, i % w]
        k += 1
    first = np.empty((h, w), dtype=np.float32)
    missing = _without_gaps(patch, np.float32(median(subset[:k])), first)
    if missing == h * w:
        detail[:] = _NAN
        ratio[:] = _INF
        signal[:] = np.float32(0.0)
        return 0
    line = np.empty(w + 4 * (1 << (layers - 1)), dtype=np.float32)
    current = first
    spare = np.empty((2, h, w), dtype=np.float32)
    for j in range(layers):
        smooth = spare[j & 1]
        _smooth(current, 1 << j, line, smooth)
        scale = np.float32(1.0 / layer_sigma[j])
        for y in range(h):
            a = current[y]
            b = smooth[y]
            r = ratio[y]
            if j == 0:
                t = detail[y]
                for x in range(w):
                    t[x] = a[x] - b[x]
                for x in range(w):
                    r[x] = abs(t[x]) * scale
            else:
                for x in range(w):
                    v = abs(a[x] - b[x]) * scale
                    r[x] = v if v > r[x] else r[x]
        current = smooth
    for y in range(h):
        a = first[y]
        b = current[y]
        t = signal[y]
        for x in range(w):
            t[x] = a[x] - b[x]
    if missing:
        for y in range(h):
            for x in range(w):
                if patch[y, x] != patch[y, x]:
                    detail[y, x] = _NAN
                    ratio[y, x] = _INF
    valid: int = h * w - missing
    return valid


@exact
def _masked_moments(
    key: NDArray[np.float32], limit: np.float32, values: NDArray[np.float32]
) -> tuple[float, float, float]:
    """Return count, sum and sum of squares of the `values` where ``abs(key) <= limit``, in one fixed order."""
    n = values.size
    lanes = np.zeros(3 * _LANES, dtype=np.float64)
    zero = np.float32(0.0)
    whole = n - n % _LANES
    for start in range(0, whole, _LANES):
        k = key[start : start + _LANES]
        v = values[start : start + _LANES]
        for i in range(_LANES):
            inside = abs(k[i]) <= limit
            u = np.float64(v[i] if inside else zero)
            lanes[i] += 1.0 if inside else 0.0
            lanes[_LANES + i] += u
            lanes[2 * _LANES + i] += u * u
    for i in range(n - whole):
        if abs(key[whole + i]) <= limit:
            u = np.float64(values[whole + i])
            lanes[i] += 1.0
            lanes[_LANES + i] += u
            lanes[2 * _LANES + i] += u * u
    count = 0.0
    total = 0.0
    squares = 0.0
    for i in range(_LANES):
        count += lanes[i]
        total += lanes[_LANES + i]
        squares += lanes[2 * _LANES + i]
    return count, total, squares


@exact
def _deviation(count: float, total: float, squares: float) -> float:
    """Return the standard deviation from three sums."""
    if count < 1.0:
        return 0.0
    mean = total / count
    return math.sqrt(max(0.0, squares / count - mean * mean))


@exact
def _k_sigma(detail: NDArray[np.float32]) -> tuple[float, float]:
    """Return sigma of the values clipped at 3 sigma until it settles, and how many were used."""
    subset = detail[:: max(1, detail.size // 200_000)].copy()
    low, high, _ = _ranked(subset, 0.0, True, 0.0, 0.0, True)
    sigma = 0.5 * (low + high) / 0.6744897501960817
    if not sigma > 0.0:
        # More than half of the pixels have no detail at all (quantised or constant): start from all of them.
        sigma = _deviation(*_masked_moments(detail, _INF, detail))
    count = 0.0
    for _ in range(10):
        count, total, squares = _masked_moments(detail, np.float32(3.0 * sigma), detail)
        before = sigma
        sigma = _deviation(count, total, squares)
        if abs(sigma - before) <= 0.01 * before:
            break
    return sigma, count


@exact
def _mrs(ratio: NDArray[np.float32], signal: NDArray[np.float32], sigma: float) -> tuple[float, float]:
    """Return sigma over the pixels without significant structure and their number; sigma 0 when unsettled."""
    for _ in range(16):
        count, total, squares = _masked_moments(ratio, np.float32(3.0 * sigma), signal)
        before = sigma
        sigma = _deviation(count, total, squares)
        if not sigma > 0.0:
            return 0.0, 0.0
        if abs(sigma - before) < 1e-4 * before:
            return sigma, count
    return 0.0, 0.0


def _patch_corners(shape: tuple[int, int], patches: int = 16) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """Return the upper left corners ``(y, x)`` and the size of the patches that stand for an image."""
    h, w = shape
    if h * w <= patches * _PATCH * _PATCH:
        return [(0, 0)], shape
    ph, pw = min(h, _PATCH), min(w, _PATCH)
    ny = min(max(1, round(math.sqrt(patches * h / w))), h // ph)
    nx = min(max(1, patches // ny), w // pw)
    ys = [(h - ph) * i // (ny - 1) for i in range(ny)] if ny > 1 else [(h - ph) // 2]
    xs = [(w - pw) * i // (nx - 1) for i in range(nx)] if nx > 1 else [(w - pw) // 2]
    return [(y, x) for y in ys for x in xs], (ph, pw)


def noise_mrs(image: NDArray[np.float32], patches: int = 16) -> tuple[float, float, str]:
    """Return the standard deviation of the white noise of an image with stars and nebulae.

    Multiresolution support (Starck and Murtagh 1998, PASP 110, 193): sigma is measured on the pixels whose a trous
    coefficients stay within 3 sigma in each of the first four layers, and the choice is repeated with the sigma
    found until it settles. When fewer than 1 % of the pixels are left, layers are dropped one by one; below two
    layers the clipped deviation of the first layer is used.

    Images no larger than the patches together are used whole, of larger ones patches of 256 x 256 pixels, spread
    evenly up to the edges: the cost is bounded, the statistical error of sigma is 0.1 % with 16 of them. Interpolated
    or smoothed images have correlated noise, which this underestimates.

    Parameters
    ----------
    image : (H, W) float32 ndarray, DN
        One plane: mono, or one colour of a mosaic, also as a view of every second pixel. NaN is left out;
        saturated areas should be NaN.
    patches : int
        Number of patches.

    Returns
    -------
    sigma : float, DN
        Within 1 % of the truth for white noise under a typical star field; NaN when every pixel is missing.
    fraction : float
        Share of the examined valid pixels that the value rests on.
    method : str
        ``"mrs"``, ``"k-sigma"`` (fallback) or ``"none"`` (no valid pixel).
    """
    corners, (ph, pw) = _patch_corners((image.shape[0], image.shape[1]), patches)
    shape = (len(corners), ph, pw)
    detail = np.empty(shape, dtype=np.float32)
    ratio = np.empty(shape, dtype=np.float32)
    signal = np.empty(shape, dtype=np.float32)
    sigma = 0.0
    for layers in range(_LAYERS, 1, -1):
        valid = 0
        for k, (y, x) in enumerate(corners):
            patch = np.ascontiguousarray(image[y : y + ph, x : x + pw])
            valid += _decompose(patch, layers, _LAYER_SIGMA, detail[k], ratio[k], signal[k])
        if not valid:
            return math.nan, 0.0, "none"
        clipped, kept = _k_sigma(detail.reshape(-1))
        clipped /= _LAYER_SIGMA[0] * _CLIPPED_SIGMA
        sigma, count = _mrs(ratio.reshape(-1), signal.reshape(-1), clipped)
        if sigma > 0.0 and count >= 0.01 * valid:
            return sigma / _MRS_BIAS[layers], count / valid, "mrs"
    return clipped, kept / valid, "k-sigma"


# --------------------------------------------------------------------------------------------------------------
# background
# --------------------------------------------------------------------------------------------------------------
_BINS = 128
_BINS_PER_SIGMA = 8.0


@exact
def _cell_background(samples: NDArray[np.float32], n: int) -> tuple[float, float]:
    """Return level and rms of the first `n` samples, stars clipped away."""
    stride = max(1, n // 128)
    count = (n + stride - 1) // stride
    subset = np.empty(count, dtype=np.float32)
    for i in range(count):
        subset[i] = samples[i * stride]
    subset.sort()
    middle = np.float64(subset[count // 2])
    # Stars raise the upper quartile, so the first guess of sigma uses the lower one.
    sigma = (middle - np.float64(subset[count // 4])) / 0.6744897501960817
    if not sigma > 0.0:
        sigma = (np.float64(subset[(3 * count) // 4]) - middle) / 0.6744897501960817
    quantum = np.inf
    for i in range(1, count):
        gap = np.float64(subset[i]) - np.float64(subset[i - 1])
        if gap > 0.0 and gap < quantum:
            quantum = gap
    if quantum == np.inf:
        return middle, 0.0
    # Bins finer than the steps of integer data would make a comb; bins centred on the steps give the median of
    # grouped data.
    width = max(sigma / _BINS_PER_SIGMA, quantum)
    origin = middle - 0.5 * (_BINS + (1.0 if width == quantum else 0.0)) * width
    scale = 1.0 / width
    histogram = np.zeros(_BINS, dtype=np.int64)
    for i in range(n):
        position = (np.float64(samples[i]) - origin) * scale
        if position >= 0.0 and position < _BINS:
            histogram[int(position)] += 1
    first = 0
    last = _BINS - 1
    mean = 0.0
    centre = 0.0
    deviation = 0.0
    for _ in range(20):
        total = 0
        moment = 0.0
        square = 0.0
        for b in range(first, last + 1):
            c = histogram[b]
            at = b + 0.5
            total += c
            moment += c * at
            square += c * at * at
        mean = moment / total
        deviation = math.sqrt(max(0.0, square / total - mean * mean))
        below = 0
        centre = mean
        for b in range(first, last + 1):
            c = histogram[b]
            if 2 * (below + c) >= total:
                centre = b + (0.5 * total - below) / c
                break
            below += c
        low = max(first, int(math.ceil(centre - 3.0 * deviation - 0.5)))
        high = min(last, int(math.floor(centre + 3.0 * deviation - 0.5)))
        if low > high or (low == first and high == last):
            break
        first = low
        last = high
    level = centre
    if deviation > 0.0 and abs(mean - centre) < 0.3 * deviation:
        level = 2.5 * centre - 1.5 * mean
    return origin + level * width, deviation * width / _CLIPPED_SIGMA


@exact
def _mesh(
    image: NDArray[np.float32],
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    step: int,
    level: NDArray[np.float32],
    rms: NDArray[np.float32],
) -> None:
    """Fill `level` and `rms` (ny, nx) for the cells between the edges `rows` and `columns`."""
    ny, nx = level.shape
    widest = 0
    for i in range(nx):
        widest = max(widest, columns[i + 1] - columns[i])
    for j in range(ny):
        samples = np.empty((rows[j + 1] - rows[j] + step - 1) // step * widest, dtype=np.float32)
        for i in range(nx):
            n = 0
            seen = 0
            for y in range(rows[j], rows[j + 1], step):
                for x in range(columns[i], columns[i + 1]):
                    v = image[y, x]
                    samples[n] = v
                    n += v == v
                seen += columns[i + 1] - columns[i]
            if 4 * n < seen or n == 0:
                level[j, i] = _NAN
                rms[j, i] = _NAN
            else:
                a, b = _cell_background(samples, n)
                level[j, i] = np.float32(a)
                rms[j, i] = np.float32(b)


@exact
def _fill_cells(grid: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return `grid` with each NaN replaced by the mean of the nearest ring of cells that has a value."""
    ny, nx = grid.shape
    out = grid.copy()
    for j in range(ny):
        for i in range(nx):
            radius = 0
            while out[j, i] != out[j, i] and radius < max(ny, nx):
                radius += 1
                total = 0.0
                n = 0
                for b in range(max(0, j - radius), min(ny, j + radius + 1)):
                    for a in range(max(0, i - radius), min(nx, i + radius + 1)):
                        v = grid[b, a]
                        if v == v:
                            total += v
                            n += 1
                if n:
                    out[j, i] = np.float32(total / n)
    return out


@exact
def _median_of_nine(padded: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Write the 3x3 median of a grid that has one more cell on each side."""
    ny, nx = out.shape
    window = np.empty(9, dtype=np.float32)
    for j in range(ny):
        for i in range(nx):
            for b in range(3):
                for a in range(3):
                    window[3 * b + a] = padded[j + b, i + a]
            window.sort()
            out[j, i] = window[4]


def _median_filter_3x3(grid: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the 3x3 median of a grid that is continued by odd reflection.

    Continued that way a plane stays a plane; a window cut at the edge would pull gradients inwards.
    """
    padded = np.ascontiguousarray(np.pad(grid, 1, mode="reflect", reflect_type="odd"), dtype=np.float32)
    out = np.empty_like(grid)
    _median_of_nine(padded, out)
    return out


def _edges(size: int, box: int) -> NDArray[np.int64]:
    """Return the cell edges of one axis: cells of `box` pixels, the last one from 0.5 to 1.5 boxes."""
    n = max(1, (2 * size + box) // (2 * box))
    edges = np.arange(n + 1, dtype=np.int64) * box
    edges[-1] = size
    return edges


def background_mesh(
    image: NDArray[np.float32], box: int = 64, every: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the level and the rms of the background on a grid of cells.

    In each cell the samples are clipped at 3 sigma about the median until nothing changes; the level is
    ``2.5 median - 1.5 mean``, or the median where the two differ by 0.3 sigma and more (Bertin and Arnouts 1996,
    sect. 7.1, as in SExtractor and SEP), and the grid passes a 3x3 median filter. Of cells of 32 pixels and more,
    every second row is used. Unlike there, the rms is corrected for the tails that the clipping removes, the filter
    keeps gradients up to the edge, and a last cell narrower than half a box is joined to its neighbour.

    Parameters
    ----------
    image : (H, W) float32 ndarray, DN
        One plane; NaN is skipped.
    box : int, px
        Cell size.
    every : int
        Distance of the rows that are used, px; 0 for what is said above.

    Returns
    -------
    level, rms : (ny, nx) float32 ndarray, DN
        A cell with less than a quarter of its pixels takes the mean of the nearest cells. All NaN when every
        pixel is missing.

    Raises
    ------
    ValueError
        If `box` is below 4 or the image is empty.
    """
    if box < 4 or image.size == 0:
        raise ValueError(f"box is {box} px for an image of shape {image.shape}, expected at least 4 px and one pixel")
    rows = _edges(image.shape[0], box)
    columns = _edges(image.shape[1], box)
    level = np.empty((rows.size - 1, columns.size - 1), dtype=np.float32)
    rms = np.empty_like(level)
    _mesh(image, rows, columns, every or (2 if box >= 32 else 1), level, rms)
    return _median_filter_3x3(_fill_cells(level)), _median_filter_3x3(_fill_cells(rms))


def _cubic_taps(size: int, box: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return first node and four weights of every pixel of an axis; cubic Hermite between the cell centres."""
    edges = _edges(size, box).astype(np.float64)
    nodes = 0.5 * (edges[:-1] + edges[1:]) - 0.5
    n = nodes.size
    x = np.arange(size, dtype=np.float64)
    weights = np.zeros((size, 4))
    if n == 1:
        weights[:, 1] = 1.0
        return np.full(size, -1, dtype=np.int64), weights.astype(np.float32)
    gap = np.diff(nodes)
    i = np.clip(np.searchsorted(nodes, x, side="right") - 1, 0, n - 2)
    h = gap[i]
    t = (x - nodes[i]) / h
    # Tangents at both ends of the interval from the parabola through three nodes; at the ends of the axis the
    # slope of the last interval, along which the outer half cells are extrapolated.
    before = np.where(i > 0, gap[np.maximum(i - 1, 0)], 0.0)
    after = np.where(i < n - 2, gap[np.minimum(i + 1, n - 2)], 0.0)
    inside = (t >= 0.0) & (t <= 1.0)
    s = np.where(inside, t, 0.0)
    start = s * (1.0 - s) ** 2 * h
    stop = s * s * (s - 1.0) * h
    rise = s * s * (3.0 - 2.0 * s)
    weights[:, 1] = np.where(inside, 1.0 - rise, 1.0 - t)
    weights[:, 2] = np.where(inside, rise, t)
    # d: slope of this interval, b: of the one before, a: of the one after
    d = np.zeros(size)
    left = before / (before + h)
    d += start * np.where(i > 0, left, 1.0)
    b = start * np.where(i > 0, 1.0 - left, 0.0)
    right = after / (after + h)
    d += stop * np.where(i < n - 2, right, 1.0)
    a = stop * np.where(i < n - 2, 1.0 - right, 0.0)
    weights[:, 1] -= d / h
    weights[:, 2] += d / h
    safe = np.where(before > 0.0, before, 1.0)
    weights[:, 0] -= b / safe
    weights[:, 1] += b / safe
    safe = np.where(after > 0.0, after, 1.0)
    weights[:, 2] -= a / safe
    weights[:, 3] += a / safe
    return i - 1, weights.astype(np.float32)


@exact
def _widen(
    grid: NDArray[np.float32], x_first: NDArray[np.int64], x_weight: NDArray[np.float32], wide: NDArray[np.float32]
) -> None:
    """Fill `wide` (ny, W) with the four-tap interpolation of `grid` along its rows."""
    ny, nx = grid.shape
    for j in range(ny):
        for x in range(wide.shape[1]):
            total = 0.0
            for k in range(4):
                i = min(max(x_first[x] + k, 0), nx - 1)
                total += np.float64(x_weight[x, k]) * np.float64(grid[j, i])
            wide[j, x] = np.float32(total)


@exact
def _expand(
    grid: NDArray[np.float32],
    y_first: NDArray[np.int64],
    y_weight: NDArray[np.float32],
    x_first: NDArray[np.int64],
    x_weight: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Fill `out` (H, W) with the separable four-tap interpolation of `grid`."""
    ny = grid.shape[0]
    h, w = out.shape
    wide = np.empty((ny, w), dtype=np.float32)
    _widen(grid, x_first, x_weight, wide)
    for y in range(h):
        r0 = wide[min(max(y_first[y], 0), ny - 1)]
        r1 = wide[min(max(y_first[y] + 1, 0), ny - 1)]
        r2 = wide[min(max(y_first[y] + 2, 0), ny - 1)]
        r3 = wide[min(max(y_first[y] + 3, 0), ny - 1)]
        w0, w1, w2, w3 = y_weight[y, 0], y_weight[y, 1], y_weight[y, 2], y_weight[y, 3]
        line = out[y]
        for x in range(w):
            line[x] = w0 * r0[x] + w1 * r1[x] + w2 * r2[x] + w3 * r3[x]


def mesh_rows(
    grid: NDArray[np.float32], shape: tuple[int, int], box: int = 64
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
    """Return what each row of an expanded grid is made of, for kernels that need it a row at a time.

    Parameters
    ----------
    grid, shape, box
        As for `expand_mesh`.

    Returns
    -------
    wide : (ny, W) float32 ndarray, DN
        The grid interpolated along x.
    rows : (H, 4) int64 ndarray
        Rows of `wide` between which a row of the image lies.
    weights : (H, 4) float32 ndarray
        Of these rows.

    Raises
    ------
    ValueError
        If the grid does not belong to such an image.
    """
    y_first, weights = _cubic_taps(shape[0], box)
    x_first, x_weight = _cubic_taps(shape[1], box)
    _check_mesh(grid, shape, box)
    wide = np.empty((grid.shape[0], shape[1]), dtype=np.float32)
    _widen(grid, x_first, x_weight, wide)
    return wide, np.clip(y_first[:, None] + np.arange(4), 0, grid.shape[0] - 1), weights


def expand_mesh(
    grid: NDArray[np.float32],
    shape: tuple[int, int],
    box: int = 64,
    rows: slice = slice(None),
    columns: slice = slice(None),
) -> NDArray[np.float32]:
    """Return a grid of cells interpolated to every pixel.

    Cubic Hermite interpolation between the cell centres, linear extrapolation over the outer half cells.

    Parameters
    ----------
    grid : (ny, nx) float32 ndarray, DN
        From `background_mesh`; a NaN spreads to the pixels within two cells.
    shape : (int, int)
        Height and width of the image that the grid was made from.
    box : int, px
        Cell size that the grid was made with.
    rows, columns : slice
        Which pixels are wanted; all by default.

    Returns
    -------
    (H, W) float32 ndarray, DN
        The size of the slices.

    Raises
    ------
    ValueError
        If the grid does not belong to such an image.
    """
    y_first, y_weight = (taps[rows] for taps in _cubic_taps(shape[0], box))
    x_first, x_weight = (taps[columns] for taps in _cubic_taps(shape[1], box))
    _check_mesh(grid, shape, box)
    out = np.empty((len(y_first), len(x_first)), dtype=np.float32)
    _expand(
        grid,
        np.ascontiguousarray(y_first),
        np.ascontiguousarray(y_weight),
        np.ascontiguousarray(x_first),
        np.ascontiguousarray(x_weight),
        out,
    )
    return out


def _check_mesh(grid: NDArray[np.float32], shape: tuple[int, int], box: int) -> None:
    expected = (_edges(shape[0], box).size - 1, _edges(shape[1], box).size - 1)
    if grid.shape != expected:
        raise ValueError(f"the grid has shape {grid.shape}, expected {expected} for an image {shape}, box {box} px")
