"""Which samples of a pixel column to accept: the deciding half of an integration.

A tile is a stack ``(N, P)``: N frames, P pixels. A *column* is the N samples of one pixel. `bounds` returns the
smallest and largest accepted value of every column; `wbpy.kernels.combine` averages what lies between. A column
is judged from its own sorted samples alone, so tile height, threads and the order of the frames cannot change a
result.

How it is made fast: 64 columns at a time are copied to a buffer that fits the first cache levels, with one SIMD
lane a column; a table of comparators (Batcher's merge exchange, Knuth, The Art of Computer Programming vol. 3,
5.2.2 M) sorts all lanes at once; sums over any run of sorted samples then come from two prefix sums.

To add an algorithm: write its rule, ``(rows, sums, squares, j, k, n, ref, low, high) -> (first, last)``, give it a
code in `ALGORITHMS` and a branch in `_bounds`.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

from wbpy.kernels.jit import exact, inline

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int32 = NDArray[np.int32]

NONE, MINMAX, PERCENTILE, SIGMA, WINSORIZED = range(5)

ALGORITHMS = {
    "none": NONE,
    "minmax": MINMAX,
    "percentile": PERCENTILE,
    "sigma": SIGMA,
    "winsorized": WINSORIZED,
}
"""Name of an algorithm -> its code."""

MINIMUM_KEPT = 3
"""The clipping algorithms stop rejecting when this many samples are left."""

PERCENTILE_FLOOR = 100.0
"""DN. Percentile clipping takes a fainter median for this one, so that the noise of a dark sky is not clipped."""

LANES = 64  # columns sorted together: four 512-bit or eight 256-bit registers a row
BLOCK = 1024  # columns whose extremes are sought together
GROUP = 16  # columns whose prefix sums are held together, to keep them in cache for hundreds of frames

# Winsorization: clamp at 1.5 sigma; 1.134 undoes what that takes from the deviation of a normal distribution.
CLAMP = 1.5
UNDO = 1.134


def bounds(stack: Float32, algorithm: int | str, low: float, high: float, lo_out: Float32, hi_out: Float32) -> None:
    """Fill the smallest and largest accepted value of every column.

    A sample ``x`` of column ``p`` is accepted if and only if ``lo_out[p] <= x <= hi_out[p]``. Samples equal to a
    bound are accepted all together, ties included.

    Parameters
    ----------
    stack : (N, P) float32 ndarray, DN
        Frames by pixels, N >= 1; NaN or infinite where a frame has no sample. Fastest when C-contiguous.
    algorithm : int or str
        A code or a name of `ALGORITHMS`:

        ``none``
            Accept every sample.
        ``minmax``
            Reject the `low` smallest and the `high` largest samples. A column of no more than ``low + high``
            samples keeps its one or two middle ones.
        ``percentile``
            One pass: reject ``(m - x) / s > low`` and ``(x - m) / s > high`` with ``m`` the median and
            ``s = max(|m|, PERCENTILE_FLOOR)``. May reject every sample of a column of an even number.
        ``sigma``
            Reject ``(m - x) / sd > low`` and ``(x - m) / sd > high`` with the median and the standard deviation
            (n - 1) of the samples left, until nothing changes.
        ``winsorized``
            The same with ``sd`` the solution of ``sd = 1.134 std(clamp(x, m - 1.5 sd, m + 1.5 sd))`` (Huber,
            Robust Statistics, 1981, 6.7; constants as in common use). Where more than half of the samples are
            tied and the only solution is zero, the plain standard deviation takes its place.

        ``sigma`` and ``winsorized`` reject the worst sample first and never leave fewer than three.
    low, high : float
        Limits below and above the median: counts, fractions or sigmas, as the algorithm says; not negative.
    lo_out, hi_out : (P,) float32 ndarray, DN
        Filled. In a column where nothing is accepted ``lo_out > hi_out``: `lo_out` is then the smallest sample
        rejected as too high and `hi_out` the largest rejected as too low, ``+inf`` and ``-inf`` in a column
        without samples.

    Raises
    ------
    ValueError
        For an unknown algorithm, a negative limit, a stack without frames or outputs of another length.
    """
    code = ALGORITHMS.get(algorithm, -1) if isinstance(algorithm, str) else algorithm
    if code not in ALGORITHMS.values():
        raise ValueError(f"rejection algorithm is {algorithm!r}; expected one of {', '.join(ALGORITHMS)}")
    if not (low >= 0 and high >= 0):
        raise ValueError(f"rejection limits are {low} and {high}; expected two numbers not below zero")
    n, pixels = stack.shape
    if n == 0 or lo_out.shape != (pixels,) or hi_out.shape != (pixels,):
        raise ValueError(
            f"stack is {stack.shape} with bounds {lo_out.shape} and {hi_out.shape}; "
            f"expected at least one frame and bounds of {pixels} pixels"
        )
    if code == NONE:
        _extremes(stack, lo_out, hi_out)
        return
    first, second = comparators(n)
    _bounds(stack, first, second, code, float(low), float(high), lo_out, hi_out)


@functools.cache
def comparators(n: int) -> tuple[Int32, Int32]:
    """Return the pairs of rows to compare and exchange, in order, that sort n rows.

    Parameters
    ----------
    n : int
        Number of rows; at least one.

    Returns
    -------
    first, second : (K,) int32 ndarray
        The smaller of the two samples goes to row ``first[k]``. K grows as n log(n)^2 / 4. Batcher's merge
        exchange (Knuth, vol. 3, algorithm 5.2.2 M).
    """
    row = np.arange(n, dtype=np.int32)
    top = 1 << max((n - 1).bit_length() - 1, 0)
    pairs = [np.empty((2, 0), np.int32)]
    p = top
    while p > 0:
        q, r, d = top, 0, p
        while True:
            left = row[: max(n - d, 0)]
            left = left[(left & p) == r]
            pairs.append(np.stack([left, left + np.int32(d)]))
            if q == p:
                break
            d, q, r = q - p, q >> 1, p
        p >>= 1
    table = np.concatenate(pairs, axis=1)
    return np.ascontiguousarray(table[0]), np.ascontiguousarray(table[1])


@inline
def load_sorted(
    stack: Float32, start: int, width: int, first: Int32, second: Int32, rows: Float32, count: Int32
) -> None:
    """Fill `rows` (N, LANES) with `width` columns from `start` on, sorted upwards; `count` with their samples.

    Missing samples become ``+inf`` and so come last. Lanes from `width` on hold no samples.
    """
    n = stack.shape[0]
    missing = np.float32(np.inf)
    count[:] = 0
    for i in range(n):
        for j in range(width):
            x = stack[i, start + j]
            finite = x - x == np.float32(0)
            rows[i, j] = x if finite else missing
            count[j] += np.int32(finite)
        for j in range(width, LANES):
            rows[i, j] = missing
    for k in range(first.size):
        a = first[k]
        b = second[k]
        for j in range(LANES):
            x = rows[a, j]
            y = rows[b, j]
            rows[a, j] = x if x < y else y
            rows[b, j] = y if x < y else x


@inline
def _prefix_sums(rows: Float32, start: int, ref: Float64, sums: Float64, squares: Float64) -> None:
    """Fill prefix sums of the deviations from `ref`: rows a to b - 1 of a lane sum to ``sums[b] - sums[a]``.

    They grow outwards from the middle row: an outlier at one end leaves the sums further in at full precision.
    """
    n = rows.shape[0]
    middle = n >> 1
    sums[middle, :] = 0.0
    squares[middle, :] = 0.0
    for i in range(middle, n):
        for k in range(GROUP):
            d = np.float64(rows[i, start + k]) - ref[k]
            d = d if d < np.inf else 0.0
            sums[i + 1, k] = sums[i, k] + d
            squares[i + 1, k] = squares[i, k] + d * d
    for i in range(middle - 1, -1, -1):
        for k in range(GROUP):
            d = np.float64(rows[i, start + k]) - ref[k]
            d = d if d < np.inf else 0.0
            sums[i, k] = sums[i + 1, k] - d
            squares[i, k] = squares[i + 1, k] - d * d


@inline
def _median(rows: Float32, j: int, first: int, last: int) -> float:
    """Return the median of the sorted samples `first` to `last` - 1 of lane j."""
    return 0.5 * (np.float64(rows[(first + last) >> 1, j]) + np.float64(rows[(first + last - 1) >> 1, j]))


@inline
def _clip(rows: Float32, j: int, first: int, last: int, centre: float, below: float, above: float) -> tuple[int, int]:
    """Return the run left when samples off `centre` by more than the limits go, the worst one first."""
    while last - first > MINIMUM_KEPT:
        under = centre - np.float64(rows[first, j])
        over = np.float64(rows[last - 1, j]) - centre
        if under > below and (over <= above or under * above >= over * below):
            first += 1
        elif over > above:
            last -= 1
        else:
            break
    return first, last


@inline
def _minmax(
    rows: Float32,
    sums: Float64,
    squares: Float64,
    j: int,
    k: int,
    n: int,
    ref: float,
    low: float,
    high: float,
) -> tuple[int, int]:
    """Return the run of samples left by min/max rejection."""
    if low + high < n:
        return int(low), n - int(high)
    return (n - 1) >> 1, (n >> 1) + 1


@inline
def _percentile(
    rows: Float32,
    sums: Float64,
    squares: Float64,
    j: int,
    k: int,
    n: int,
    ref: float,
    low: float,
    high: float,
) -> tuple[int, int]:
    """Return the run of samples left by percentile clipping."""
    centre = _median(rows, j, 0, n)
    scale = max(abs(centre), PERCENTILE_FLOOR)
    first = 0
    last = n
    while first < last and centre - np.float64(rows[first, j]) > low * scale:
        first += 1
    while last > first and np.float64(rows[last - 1, j]) - centre > high * scale:
        last -= 1
    return first, last


@inline
def _sigma(
    rows: Float32,
    sums: Float64,
    squares: Float64,
    j: int,
    k: int,
    n: int,
    ref: float,
    low: float,
    high: float,
) -> tuple[int, int]:
    """Return the run of samples left by sigma clipping about the median."""
    first = 0
    last = n
    size = n + 1
    while last - first < size and last - first > MINIMUM_KEPT:
        size = last - first
        s1 = sums[last, k] - sums[first, k]
        s2 = squares[last, k] - squares[first, k]
        sd = math.sqrt(max((s2 - s1 * s1 / size) / (size - 1), 0.0))
        first, last = _clip(rows, j, first, last, _median(rows, j, first, last), low * sd, high * sd)
    return first, last


@inline
def _winsorized(
    rows: Float32,
    sums: Float64,
    squares: Float64,
    j: int,
    k: int,
    n: int,
    ref: float,
    low: float,
    high: float,
) -> tuple[int, int]:
    """Return the run of samples left by sigma clipping with a winsorized deviation."""
    first = 0
    last = n
    size = n + 1
    while last - first < size and last - first > MINIMUM_KEPT:
        size = last - first
        inverse = 1.0 / size
        centre = _median(rows, j, first, last)
        m = centre - ref
        s1 = sums[last, k] - sums[first, k]
        s2 = squares[last, k] - squares[first, k]
        plain = math.sqrt(max((s2 - s1 * s1 * inverse) / (size - 1), 0.0))
        sd = plain
        # Samples a to b - 1 lie inside the clamp. While they stay the same, the clamped variance is a quadratic
        # in sd, solved here directly: two or three turns where plain iteration takes eight to twenty.
        a = first
        b = last
        for turn in range(12):
            half = CLAMP * sd
            old_a = a
            old_b = b
            while a < last and np.float64(rows[a, j]) < centre - half:
                a += 1
            while a > first and np.float64(rows[a - 1, j]) >= centre - half:
                a -= 1
            while b > a and np.float64(rows[b - 1, j]) > centre + half:
                b -= 1
            while b < last and np.float64(rows[b, j]) <= centre + half:
                b += 1
            if turn > 0 and a == old_a and b == old_b:
                break
            inner = b - a
            clamped = size - inner
            excess = (last - b) - (a - first)
            s1 = sums[b, k] - sums[a, k]
            s2 = squares[b, k] - squares[a, k]
            s2 -= m * (2.0 * s1 - inner * m)
            s1 -= inner * m
            # size - 1 = UNDO^2 / sd^2 (s2 + clamped half^2 - (s1 + excess half)^2 / size)
            qa = (size - 1) / (UNDO * UNDO) - CLAMP * CLAMP * (clamped - excess * excess * inverse)
            qb = 2.0 * CLAMP * s1 * excess * inverse
            qc = s2 - s1 * s1 * inverse
            if qa > 0.05 * size:
                sd = (math.sqrt(max(qb * qb + 4.0 * qa * qc, 0.0)) - qb) / (2.0 * qa)
            else:
                total = s1 + half * excess
                square = s2 + half * half * clamped - total * total * inverse
                sd = UNDO * math.sqrt(max(square / (size - 1), 0.0))
        if sd <= 1e-6 * plain:
            sd = plain
        first, last = _clip(rows, j, first, last, centre, low * sd, high * sd)
    return first, last


@exact
def _bounds(
    stack: Float32,
    first: Int32,
    second: Int32,
    algorithm: int,
    low: float,
    high: float,
    lo_out: Float32,
    hi_out: Float32,
) -> None:
    """Fill the bounds by any algorithm that needs the samples in order; see `bounds`."""
    n, pixels = stack.shape
    rows = np.empty((n, LANES), np.float32)
    count = np.empty(LANES, np.int32)
    sums = np.empty((n + 1, GROUP), np.float64)
    squares = np.empty((n + 1, GROUP), np.float64)
    ref = np.zeros(GROUP, np.float64)
    for start in range(0, pixels, LANES):
        width = min(LANES, pixels - start)
        load_sorted(stack, start, width, first, second, rows, count)
        for group in range(0, width, GROUP):
            if algorithm in (SIGMA, WINSORIZED):
                for k in range(GROUP):
                    ref[k] = rows[count[group + k] >> 1, group + k]
                _prefix_sums(rows, group, ref, sums, squares)
            for k in range(min(GROUP, width - group)):
                j = group + k
                c = int(count[j])
                a = 0
                b = c
                if algorithm == SIGMA:
                    a, b = _sigma(rows, sums, squares, j, k, c, ref[k], low, high)
                elif algorithm == WINSORIZED:
                    a, b = _winsorized(rows, sums, squares, j, k, c, ref[k], low, high)
                elif algorithm == MINMAX and c > 0:
                    a, b = _minmax(rows, sums, squares, j, k, c, ref[k], low, high)
                elif algorithm == PERCENTILE and c > 0:
                    a, b = _percentile(rows, sums, squares, j, k, c, ref[k], low, high)
                if a < b:
                    lo_out[start + j] = rows[a, j]
                    hi_out[start + j] = rows[b - 1, j]
                else:
                    lo_out[start + j] = rows[b, j] if b < c else np.float32(np.inf)
                    hi_out[start + j] = rows[a - 1, j] if a > 0 else np.float32(-np.inf)


@exact
def _extremes(stack: Float32, lo_out: Float32, hi_out: Float32) -> None:
    """Fill the smallest and largest sample of every column, ``+inf`` and ``-inf`` where there is none."""
    n, pixels = stack.shape
    least = np.empty(BLOCK, np.float32)
    most = np.empty(BLOCK, np.float32)
    for start in range(0, pixels, BLOCK):
        width = min(BLOCK, pixels - start)
        least[:] = np.inf
        most[:] = -np.inf
        for i in range(n):
            row = stack[i, start : start + width]
            for j in range(width):
                x = row[j]
                finite = x - x == np.float32(0)
                least[j] = x if finite and x < least[j] else least[j]
                most[j] = x if finite and x > most[j] else most[j]
        lo_out[start : start + width] = least[:width]
        hi_out[start : start + width] = most[:width]
