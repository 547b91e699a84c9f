"""Which samples of a pixel column to accept: the deciding half of an integration.

A tile is a stack ``(N, P)``: N frames, P pixels. A *column* is the N samples of one pixel. `bounds` returns the
smallest and largest accepted value of every column; `wbpy.kernels.combine` averages what lies between. A column
is judged from its own sorted samples alone, so tile height, threads and the order of the frames cannot change a
result.

How it is made fast: 64 columns at a time are copied to a buffer that fits the first cache levels, with one SIMD
lane a column; a table of comparators (Batcher's merge exchange, Knuth, The Art of Computer Programming vol. 3,
5.2.2 M) sorts all lanes at once. Most columns have no outlier: one more pass over all lanes settles those. For the
others sums over any run of sorted samples come from two prefix sums.

To add an algorithm: write its rule, a function of the sorted samples of lane j that returns the run
``(first, last)`` it accepts, give it a code in `ALGORITHMS` and a branch in `_bounds` or `_further_bounds`.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray
from scipy import special

from wbpy.kernels.jit import exact, inline

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int32 = NDArray[np.int32]

NONE, MINMAX, PERCENTILE, SIGMA, WINSORIZED, AVERAGED, LINEAR, ESD, RCR, MAD, CCD = range(11)

ALGORITHMS = {
    "none": NONE,
    "minmax": MINMAX,
    "percentile": PERCENTILE,
    "sigma": SIGMA,
    "winsorized": WINSORIZED,
    "averaged": AVERAGED,
    "linear": LINEAR,
    "esd": ESD,
    "rcr": RCR,
    "mad": MAD,
    "ccd": CCD,
}
"""Name of an algorithm -> its code."""

MINIMUM_KEPT = 3
"""The clipping algorithms stop rejecting when this many samples are left."""

PERCENTILE_FLOOR = 100.0
"""DN. Percentile clipping takes a fainter median for this one, so that the noise of a dark sky is not clipped; averaged
sigma clipping lets the noise fall with the root of the median down to this one."""

FLOOR_SIGMAS = 3.5
"""Deviations of the noise that percentile clipping leaves alone where the noise is known."""

CCD_NOISE = (10.0, 1.0, 0.0)
"""Read noise in e-, e- per DN and noise in proportion to the signal that the CCD model takes by default."""

LANES = 64  # columns sorted together: four 512-bit or eight 256-bit registers a row
BLOCK = 1024  # columns whose extremes are sought together
GROUP = 16  # columns whose prefix sums are held together, to keep them in cache for hundreds of frames

# Winsorization: clamp at 1.5 sigma; 1.134 undoes what that takes from the deviation of a normal distribution.
CLAMP = 1.5
UNDO = 1.134

NORMAL_MAD = 1.4826  # MAD of a normal distribution -> its standard deviation
ESD_SHARE = 0.3  # of the samples can be outliers
LINE_KEPT = 5  # samples that linear fit clipping leaves
LINE_TURNS = 8  # reweighted fits; more lower the mean deviation by less than 1 %
LINE_POINTS = 8  # deviations below which RCR reads the percentile instead of fitting a line
ONE_SIGMA = 0.683  # share of a normal distribution within one sigma


def bounds(
    stack: Float32,
    algorithm: int | str,
    low: float,
    high: float,
    lo_out: Float32,
    hi_out: Float32,
    noise: tuple[float, float, float] = CCD_NOISE,
    floor: float = PERCENTILE_FLOOR,
) -> None:
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
            ``s = max(|m|, floor)``. May reject every sample of a column of an even number.
        ``sigma``
            Reject ``(m - x) / sd > low`` and ``(x - m) / sd > high`` with the median and the standard deviation
            (n - 1) of the samples left, until nothing changes.
        ``winsorized``
            The same with ``sd`` the solution of ``sd = 1.134 std(clamp(x, m - 1.5 sd, m + 1.5 sd))`` (Huber,
            Robust Statistics, 1981, 6.7; constants as in common use). Where more than half of the samples are
            tied and the only solution is zero, the plain standard deviation takes its place.

        ``averaged``
            The same with ``sd = s sqrt(max(m, PERCENTILE_FLOOR))``, where s is found once, from all samples about
            their median, as ``sqrt(sum((x - m)^2) / (n - 1) / max(m, PERCENTILE_FLOOR))``: noise that goes with the
            root of the signal.
        ``mad``
            The same with ``sd = 1.4826 MAD``, or the plain standard deviation where more than half are tied.
        ``ccd``
            The same with ``sd^2 = (r / g)^2 + max(m, 0) / g + (f m)^2`` for the (r, g, f) of `noise`.
        ``linear``
            A line of least absolute deviations through the sorted samples over their rank; reject what lies below it
            by more than ``low s`` and above it by more than ``high s``, ``s`` twice the mean absolute deviation;
            until nothing changes. The fit is the eighth of a series of reweighted ones (Schlossmacher 1973, J. Am.
            Stat. Assoc. 68, 857) from the line through the quartiles. Never leaves fewer than five.
        ``esd``
            Generalized extreme studentized deviate test (Rosner 1983, Technometrics 25, 165) for up to 0.3 n outliers
            at the significance `high`; deviations below the mean are divided by `low` first. Rejects as many as the
            last significant step says, so that outliers that hide each other are found.
        ``rcr``
            Robust Chauvenet rejection (Maples et al. 2018, ApJS 238, 2): one sample at a time as long as fewer than
            `low` (`high`) samples of a normal distribution were to be expected as far out on its side; with the
            median and the 68.3 % deviation from a line fitted to the sorted deviations, then the 68.3 percentile, then
            mean and standard deviation.

        From ``sigma`` on, the clipping ones reject the worst sample first and never leave fewer than three.
    low, high : float
        Limits below and above the centre: counts, fractions, sigmas or chances, as the algorithm says; not negative.
    lo_out, hi_out : (P,) float32 ndarray, DN
        Filled. In a column where nothing is accepted ``lo_out > hi_out``: `lo_out` is then the smallest sample
        rejected as too high and `hi_out` the largest rejected as too low, ``+inf`` and ``-inf`` in a column
        without samples.
    noise : tuple of float
        For ``ccd``: read noise in e-, e- per DN, noise in proportion to the signal.
    floor : float, DN
        For ``percentile``: see `noise_floor` where the noise of the samples is known.

    Raises
    ------
    ValueError
        For an unknown algorithm, a limit that is negative or means nothing, a stack without frames or outputs of
        another length.
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
    if code <= WINSORIZED:
        _bounds(stack, first, second, code, float(low), float(high), float(floor), lo_out, hi_out)
        return
    limits = line = np.zeros((1, 1))
    if code == ESD:
        if not (low > 0 and 0 < high < 1):
            raise ValueError(f"rejection limits are {low} and {high}; esd expects low above 0 and high between 0 and 1")
        limits = _esd_limits(n, float(high))
    elif code == RCR:
        limits, line = _rcr_limits(n, float(low), float(high)), _rcr_line(n)
    elif code == CCD and not (noise[0] >= 0 and noise[1] > 0 and noise[2] >= 0):
        raise ValueError(f"noise is {noise}; expected a read noise and a share not below zero, and e-/DN above zero")
    model = np.array([(noise[0] / noise[1]) ** 2, 1 / noise[1], noise[2] ** 2])
    _further_bounds(stack, first, second, code, float(low), float(high), limits, line, model, lo_out, hi_out)


def noise_floor(low: float, high: float, noise: float) -> float:
    """Return the median below which percentile clipping shall not go, DN, so that noise is not clipped.

    That of which the tighter limit is `FLOOR_SIGMAS` of the noise: a tenth of a sky of 300 DN is 30 DN, which among
    samples with 20 DN of noise rejects one in ten and makes the mean of five noisier by 18 %.

    Parameters
    ----------
    low, high : float
        Limits of the percentile clipping.
    noise : float, DN
        Standard deviation of a sample at the background.
    """
    limit = min(low, high)
    return max(PERCENTILE_FLOOR, FLOOR_SIGMAS * noise / limit) if limit > 0 else PERCENTILE_FLOOR


@exact
def present(plane: Float32, y0: int, y1: int, x0: int, x1: int) -> int:
    """Return how many pixels of a rectangle are finite: rows y0 <= y < y1 and columns x0 <= x < x1 of `plane`."""
    n = 0
    for y in range(y0, y1):
        row = plane[y]
        for x in range(x0, x1):
            n += 1 if row[x] - row[x] == np.float32(0) else 0
    return n


@functools.lru_cache(maxsize=8)
def _esd_limits(n: int, significance: float) -> Float64:
    """Return the critical deviate of Rosner's test, (1, n + 1), by the number of samples left; eq. 2.5 there."""
    left = np.arange(n + 1, dtype=np.float64)
    critical = np.full((1, n + 1), np.inf)
    m = left[3:]
    t = -special.stdtrit(m - 2, significance / (2 * m))
    critical[0, 3:] = t * (m - 1) / np.sqrt((m - 2 + t * t) * m)
    return critical


@functools.lru_cache(maxsize=8)
def _rcr_limits(n: int, low: float, high: float) -> Float64:
    """Return (3, n + 1), by number of samples: Chauvenet's limits low and high in sigmas, the correction of sigma."""
    count = np.arange(n + 1, dtype=np.float64)
    limits = np.full((3, n + 1), np.inf)
    many = count[3:]
    for row, chance in enumerate((low, high)):
        limits[row, 3:] = -special.ndtri(np.minimum(chance / many, 0.5))
    # For medians and 68.3 % deviations of few samples; section 3.1 there.
    limits[2, 3:] = 1 / (1 - 2.9442 * many**-1.073)
    return limits


@functools.lru_cache(maxsize=4)
def _rcr_line(n: int) -> Float64:
    """Return the deviations of a normal distribution in sigmas by number of samples and rank, (n + 1, K).

    The last column holds the sum of their squares over the ranks that are fitted.
    """
    ranks = int(ONE_SIGMA * n + 1 - ONE_SIGMA)
    line = np.zeros((n + 1, ranks + 1))
    rank = np.arange(ranks)
    for count in range(1, n + 1):
        fitted = int(ONE_SIGMA * count + 1 - ONE_SIGMA)
        share = (rank[:fitted] + ONE_SIGMA) / count
        line[count, :fitted] = special.ndtri(0.5 * (1 + share))
        line[count, -1] = np.sum(line[count, :fitted] ** 2)
    return line


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
def _prefix_sums(
    rows: Float32, lanes: Int32, start: int, width: int, ref: Float64, sums: Float64, squares: Float64
) -> None:
    """Fill prefix sums of the deviations from `ref`: rows a to b - 1 of a lane sum to ``sums[b] - sums[a]``.

    They belong to the `width` lanes listed from ``lanes[start]`` on. They grow outwards from the middle row: an outlier
    at one end leaves the sums further in at full precision.
    """
    n = rows.shape[0]
    middle = n >> 1
    sums[middle, :] = 0.0
    squares[middle, :] = 0.0
    for i in range(middle, n):
        for k in range(width):
            d = np.float64(rows[i, lanes[start + k]]) - ref[k]
            d = d if d < np.inf else 0.0
            sums[i + 1, k] = sums[i, k] + d
            squares[i + 1, k] = squares[i, k] + d * d
    for i in range(middle - 1, -1, -1):
        for k in range(width):
            d = np.float64(rows[i, lanes[start + k]]) - ref[k]
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
def _minmax(n: int, low: float, high: float) -> tuple[int, int]:
    """Return the run of samples left by min/max rejection."""
    if low + high < n:
        return int(low), n - int(high)
    return (n - 1) >> 1, (n >> 1) + 1


@inline
def _percentile(rows: Float32, j: int, n: int, low: float, high: float, floor: float) -> tuple[int, int]:
    """Return the run of samples left by percentile clipping."""
    centre = _median(rows, j, 0, n)
    scale = max(abs(centre), floor)
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


@inline
def _averaged(
    rows: Float32, sums: Float64, squares: Float64, j: int, k: int, n: int, ref: float, low: float, high: float
) -> tuple[int, int]:
    """Return the run of samples left by averaged sigma clipping."""
    first = 0
    last = n
    if n <= MINIMUM_KEPT:
        return first, last
    m = _median(rows, j, 0, n) - ref
    s1 = sums[n, k] - sums[0, k]
    s2 = squares[n, k] - squares[0, k]
    about = max(s2 - m * (2.0 * s1 - n * m), 0.0)
    per_root = math.sqrt(about / (n - 1) / max(m + ref, PERCENTILE_FLOOR))
    size = n + 1
    while last - first < size and last - first > MINIMUM_KEPT:
        size = last - first
        centre = _median(rows, j, first, last)
        sd = per_root * math.sqrt(max(centre, PERCENTILE_FLOOR))
        first, last = _clip(rows, j, first, last, centre, low * sd, high * sd)
    return first, last


@inline
def _deviations(rows: Float32, j: int, first: int, last: int, centre: float, wanted: int, out: Float64) -> None:
    """Fill the `wanted` smallest absolute deviations of a run from its median, upwards."""
    below = (first + last - 1) >> 1
    above = below + 1
    for i in range(wanted):
        under = centre - np.float64(rows[below, j]) if below >= first else np.inf
        over = np.float64(rows[above, j]) - centre if above < last else np.inf
        if under <= over:
            out[i] = under
            below -= 1
        else:
            out[i] = over
            above += 1


@inline
def _mad(
    rows: Float32,
    sums: Float64,
    squares: Float64,
    j: int,
    k: int,
    n: int,
    ref: float,
    low: float,
    high: float,
    deviation: Float64,
) -> tuple[int, int]:
    """Return the run of samples left by clipping at multiples of the median absolute deviation."""
    first = 0
    last = n
    size = n + 1
    while last - first < size and last - first > MINIMUM_KEPT:
        size = last - first
        centre = _median(rows, j, first, last)
        half = (size >> 1) + 1
        _deviations(rows, j, first, last, centre, half, deviation)
        sd = NORMAL_MAD * 0.5 * (deviation[size >> 1] + deviation[(size - 1) >> 1])
        s1 = sums[last, k] - sums[first, k]
        s2 = squares[last, k] - squares[first, k]
        plain = math.sqrt(max((s2 - s1 * s1 / size) / (size - 1), 0.0))
        if sd <= 1e-6 * plain:
            sd = plain
        first, last = _clip(rows, j, first, last, centre, low * sd, high * sd)
    return first, last


@inline
def _ccd(rows: Float32, j: int, n: int, low: float, high: float, model: Float64) -> tuple[int, int]:
    """Return the run of samples left by clipping at the noise that a sensor is expected to have."""
    first = 0
    last = n
    size = n + 1
    while last - first < size and last - first > MINIMUM_KEPT:
        size = last - first
        centre = _median(rows, j, first, last)
        sd = math.sqrt(model[0] + max(centre, 0.0) * model[1] + centre * centre * model[2])
        first, last = _clip(rows, j, first, last, centre, low * sd, high * sd)
    return first, last


@inline
def _linear(rows: Float32, j: int, n: int, ref: float, low: float, high: float) -> tuple[int, int]:
    """Return the run of samples left by clipping about a line through the sorted samples."""
    first = 0
    last = n
    size = n + 1
    while last - first < size and last - first > LINE_KEPT:
        size = last - first
        middle = 0.5 * (first + last - 1)
        quarter = size >> 2
        rise = np.float64(rows[last - 1 - quarter, j]) - np.float64(rows[first + quarter, j])
        slope = float(rise / (size - 1 - 2 * quarter))
        level = _median(rows, j, first, last) - ref
        spread = 0.0
        for i in range(first, last):
            spread += abs(np.float64(rows[i, j]) - ref - level - slope * (i - middle))
        for _ in range(LINE_TURNS):
            if spread == 0.0:
                break
            # A point on the line would have all the weight.
            least = 0.01 * spread / size
            w0 = 0.0
            wx = 0.0
            wxx = 0.0
            wy = 0.0
            wxy = 0.0
            for i in range(first, last):
                x = float(i) - middle
                y = np.float64(rows[i, j]) - ref
                w = 1.0 / max(abs(y - level - slope * x), least)
                w0 += w
                wx += w * x
                wxx += w * x * x
                wy += w * y
                wxy += w * x * y
            slope = (w0 * wxy - wx * wy) / (w0 * wxx - wx * wx)
            level = (wy - slope * wx) / w0
            spread = 0.0
            for i in range(first, last):
                spread += abs(np.float64(rows[i, j]) - ref - level - slope * (i - middle))
        below = low * 2.0 * spread / size
        above = high * 2.0 * spread / size
        while last - first > LINE_KEPT:
            under = level + slope * (first - middle) - (np.float64(rows[first, j]) - ref)
            over = np.float64(rows[last - 1, j]) - ref - (level + slope * (last - 1 - middle))
            if under > below and (over <= above or under * above >= over * below):
                first += 1
            elif over > above:
                last -= 1
            else:
                break
    return first, last


@inline
def _esd(
    rows: Float32,
    sums: Float64,
    squares: Float64,
    j: int,
    k: int,
    n: int,
    ref: float,
    relax: float,
    critical: Float64,
) -> tuple[int, int]:
    """Return the run of samples left by the generalized extreme studentized deviate test."""
    first = 0
    last = n
    found_first = 0
    found_last = n
    for _ in range(max(int(ESD_SHARE * n), 1)):
        size = last - first
        if size <= MINIMUM_KEPT:
            break
        s1 = sums[last, k] - sums[first, k]
        s2 = squares[last, k] - squares[first, k]
        mean = s1 / size
        sd = math.sqrt(max((s2 - s1 * mean) / (size - 1), 0.0))
        under = (mean - (np.float64(rows[first, j]) - ref)) / relax
        over = np.float64(rows[last - 1, j]) - ref - mean
        limit = critical[0, size] * sd
        if under >= over:
            first += 1
        else:
            last -= 1
        if max(under, over) > limit:
            found_first = first
            found_last = last
    return found_first, found_last


@inline
def _rcr(
    rows: Float32,
    sums: Float64,
    squares: Float64,
    j: int,
    k: int,
    n: int,
    ref: float,
    limits: Float64,
    line: Float64,
    deviation: Float64,
) -> tuple[int, int]:
    """Return the run of samples left by robust Chauvenet rejection."""
    first = 0
    last = n
    centre = 0.0
    for phase in range(3):
        while last - first > MINIMUM_KEPT:
            size = last - first
            if phase < 2:
                centre = _median(rows, j, first, last)
                place = ONE_SIGMA * size - ONE_SIGMA
                fitted = int(place + 1.0)
                _deviations(rows, j, first, last, centre, min(fitted + 1, size), deviation)
                if phase == 0 and fitted >= LINE_POINTS:
                    sd = 0.0
                    for i in range(fitted):
                        sd += line[size, i] * deviation[i]
                    sd /= line[size, line.shape[1] - 1]
                else:
                    at = int(place)
                    sd = deviation[at] + (place - at) * (deviation[min(at + 1, size - 1)] - deviation[at])
                sd *= limits[2, size]
            else:
                s1 = sums[last, k] - sums[first, k]
                s2 = squares[last, k] - squares[first, k]
                centre = s1 / size + ref
                sd = math.sqrt(max((s2 - s1 * s1 / size) / (size - 1), 0.0))
            if sd <= 0.0:
                break
            below = limits[0, size] * sd
            above = limits[1, size] * sd
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
def _unsettled(
    rows: Float32,
    count: Int32,
    width: int,
    algorithm: int,
    low: float,
    high: float,
    samples: Float32,
    centre: Float32,
    cut: Float32,
    total: Float32,
    square: Float32,
    plain: Float32,
    plain_square: Float32,
    lanes: Int32,
) -> int:
    """Fill `lanes` with those of the first `width` in which clipping may reject a sample; return their number.

    With the deviation ``s`` that just spares the samples at both ends, sigma clipping rejects nothing if the
    standard deviation is not below s. For winsorized clipping let ``f(s) = 1.134 std(clamp(x, m - 1.5 s, m + 1.5 s))``,
    which does not fall as s grows. If ``f(s) >= s``, then iteration from any start above s, and so from a standard
    deviation above s, stays above it: nothing is rejected either. All in float32, many lanes at once; a margin above
    its rounding errors leaves close decisions to the exact rule.
    """
    n = rows.shape[0]
    per_low = np.float32(1.0 / low if low > 0.0 else np.inf)
    per_high = np.float32(1.0 / high if high > 0.0 else np.inf)
    clamp = np.float32(CLAMP)
    rounding = np.float32(1e-6)
    full = width == LANES
    for j in range(LANES):
        full &= count[j] == n
        samples[j] = count[j]
    if full:
        for j in range(LANES):
            centre[j] = np.float32(0.5) * (rows[n >> 1, j] + rows[(n - 1) >> 1, j])
            cut[j] = max((centre[j] - rows[0, j]) * per_low, (rows[n - 1, j] - centre[j]) * per_high)
    else:
        for j in range(LANES):
            c = count[j]
            centre[j] = np.float32(0.5) * (rows[c >> 1, j] + rows[(c - 1) >> 1, j]) if c > 0 else np.float32(0)
            last = rows[c - 1, j] if c > 0 else np.float32(0)
            cut[j] = max((centre[j] - rows[0, j]) * per_low, (last - centre[j]) * per_high)
    plain[:] = 0
    plain_square[:] = 0
    total[:] = 0
    square[:] = 0
    for i in range(n):
        for j in range(LANES):
            d = rows[i, j] - centre[j]
            d = d if d < np.float32(np.inf) else np.float32(0)
            plain[j] += d
            plain_square[j] += d * d
        if algorithm == WINSORIZED:
            for j in range(LANES):
                d = rows[i, j] - centre[j]
                edge = clamp * cut[j]
                e = d if d < edge else edge
                e = e if e > -edge else -edge
                e = e if d < np.float32(np.inf) else np.float32(0)
                total[j] += e
                square[j] += e * e
    margin = np.float32(1.0 + 1e-4 + 1e-6 * n)
    undo = np.float32(UNDO * UNDO)
    pending = 0
    for j in range(LANES):
        c = samples[j]
        # The median of an even number is rounded.
        least = margin * cut[j] + rounding * abs(centre[j])
        needed = least * least * (c - np.float32(1))
        settled = plain_square[j] - plain[j] * plain[j] / c >= needed
        if algorithm == WINSORIZED:
            settled &= undo * (square[j] - total[j] * total[j] / c) >= needed
        lanes[j] = np.int32(not settled)
        pending += lanes[j]
    if pending == 0:
        return 0
    found = 0
    for j in range(width):
        if lanes[j] != 0 and count[j] > MINIMUM_KEPT:
            lanes[found] = j
            found += 1
    return found


@inline
def _write(rows: Float32, j: int, c: int, a: int, b: int, at: int, lo_out: Float32, hi_out: Float32) -> None:
    """Store the bounds of lane j, of which samples a to b - 1 of c are accepted, as those of pixel `at`."""
    if a < b:
        lo_out[at] = rows[a, j]
        hi_out[at] = rows[b - 1, j]
    else:
        lo_out[at] = rows[b, j] if b < c else np.float32(np.inf)
        hi_out[at] = rows[a - 1, j] if a > 0 else np.float32(-np.inf)


@exact
def _bounds(
    stack: Float32,
    first: Int32,
    second: Int32,
    algorithm: int,
    low: float,
    high: float,
    floor: float,
    lo_out: Float32,
    hi_out: Float32,
) -> None:
    """Fill the bounds by min/max, percentile, sigma or winsorized clipping; see `bounds`."""
    n, pixels = stack.shape
    rows = np.empty((n, LANES), np.float32)
    count = np.empty(LANES, np.int32)
    lanes = np.empty(LANES, np.int32)
    samples = np.empty(LANES, np.float32)
    centre = np.empty(LANES, np.float32)
    cut = np.empty(LANES, np.float32)
    total = np.empty(LANES, np.float32)
    square = np.empty(LANES, np.float32)
    plain = np.empty(LANES, np.float32)
    plain_square = np.empty(LANES, np.float32)
    sums = np.empty((n + 1, GROUP), np.float64)
    squares = np.empty((n + 1, GROUP), np.float64)
    ref = np.zeros(GROUP, np.float64)
    for start in range(0, pixels, LANES):
        width = min(LANES, pixels - start)
        load_sorted(stack, start, width, first, second, rows, count)
        if algorithm in (MINMAX, PERCENTILE):
            for j in range(width):
                c = int(count[j])
                a = 0
                b = c
                if c > 0 and algorithm == MINMAX:
                    a, b = _minmax(c, low, high)
                elif c > 0:
                    a, b = _percentile(rows, j, c, low, high, floor)
                _write(rows, j, c, a, b, start + j, lo_out, hi_out)
            continue
        for j in range(width):
            c = int(count[j])
            lo_out[start + j] = rows[0, j]
            hi_out[start + j] = rows[c - 1, j] if c > 0 else np.float32(-np.inf)
        found = _unsettled(
            rows, count, width, algorithm, low, high, samples, centre, cut, total, square, plain, plain_square, lanes
        )
        for group in range(0, found, GROUP):
            size = min(GROUP, found - group)
            for k in range(size):
                j = lanes[group + k]
                ref[k] = rows[count[j] >> 1, j]
            _prefix_sums(rows, lanes, group, size, ref, sums, squares)
            for k in range(size):
                j = lanes[group + k]
                c = int(count[j])
                if algorithm == SIGMA:
                    a, b = _sigma(rows, sums, squares, j, k, c, ref[k], low, high)
                else:
                    a, b = _winsorized(rows, sums, squares, j, k, c, ref[k], low, high)
                _write(rows, j, c, a, b, start + j, lo_out, hi_out)


@exact
def _further_bounds(
    stack: Float32,
    first: Int32,
    second: Int32,
    algorithm: int,
    low: float,
    high: float,
    limits: Float64,
    line: Float64,
    model: Float64,
    lo_out: Float32,
    hi_out: Float32,
) -> None:
    """Fill the bounds by the other algorithms, a kernel of its own that most runs need not compile; see `bounds`."""
    n, pixels = stack.shape
    rows = np.empty((n, LANES), np.float32)
    count = np.empty(LANES, np.int32)
    lanes = np.arange(LANES, dtype=np.int32)
    sums = np.empty((n + 1, GROUP), np.float64)
    squares = np.empty((n + 1, GROUP), np.float64)
    ref = np.zeros(GROUP, np.float64)
    deviation = np.empty(n + 1, np.float64)
    for start in range(0, pixels, LANES):
        width = min(LANES, pixels - start)
        load_sorted(stack, start, width, first, second, rows, count)
        for group in range(0, width, GROUP):
            for k in range(GROUP):
                c = int(count[group + k])
                ref[k] = rows[c >> 1, group + k] if c > 0 else np.float32(0)
            if algorithm != CCD and algorithm != LINEAR:
                _prefix_sums(rows, lanes, group, GROUP, ref, sums, squares)
            for k in range(min(GROUP, width - group)):
                j = group + k
                c = int(count[j])
                if algorithm == AVERAGED:
                    a, b = _averaged(rows, sums, squares, j, k, c, ref[k], low, high)
                elif algorithm == LINEAR:
                    a, b = _linear(rows, j, c, ref[k], low, high)
                elif algorithm == ESD:
                    a, b = _esd(rows, sums, squares, j, k, c, ref[k], low, limits)
                elif algorithm == RCR:
                    a, b = _rcr(rows, sums, squares, j, k, c, ref[k], limits, line, deviation)
                elif algorithm == MAD:
                    a, b = _mad(rows, sums, squares, j, k, c, ref[k], low, high, deviation)
                else:
                    a, b = _ccd(rows, j, c, low, high, model)
                _write(rows, j, c, a, b, start + j, lo_out, hi_out)


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
