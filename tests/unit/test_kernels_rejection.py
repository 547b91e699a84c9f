"""Rejection kernels against slow float64 twins written from the definitions, one column at a time."""

import numpy as np
import pytest
from scipy import optimize, stats

from wbpy.kernels import rejection

SIZES = (1, 2, 3, 4, 5, 10, 20, 57, 130)
LIMITS = {
    "none": (0.0, 0.0),
    "minmax": (1.0, 2.0),
    "percentile": (0.2, 0.1),
    "sigma": (4.0, 3.0),
    "winsorized": (4.0, 3.0),
    "averaged": (4.0, 3.0),
    "linear": (5.0, 3.5),
    "esd": (1.0, 0.05),
    "rcr": (0.1, 0.1),
    "mad": (4.0, 3.0),
    "ccd": (4.0, 3.0),
}
CLIPPING = ("sigma", "winsorized", "averaged", "mad", "ccd")


@pytest.fixture(autouse=True)
def _quiet_scalars():
    """With the JIT off the kernels are NumPy scalars, which warn of inf - inf where compiled code does not."""
    with np.errstate(invalid="ignore"):
        yield


def twin(column, algorithm, low, high, tolerance=1e-10, noise=rejection.CCD_NOISE):
    """Return the accepted samples of one column, sorted."""
    x = np.sort(column[np.isfinite(column)].astype(np.float64))
    n = len(x)
    if n == 0 or algorithm == "none":
        return x
    if algorithm == "minmax":
        return x[int(low) : n - int(high)] if low + high < n else x[(n - 1) // 2 : n // 2 + 1]
    if algorithm == "percentile":
        m = np.median(x)
        scale = max(abs(m), 100.0)
        return x[((m - x) / scale <= low) & ((x - m) / scale <= high)]
    if algorithm in ("esd", "rcr", "linear"):
        return {"esd": esd, "rcr": rcr, "linear": linear}[algorithm](x, low, high)
    if algorithm == "averaged" and n > 3:
        m = max(np.median(x), 100.0)
        per_root = np.sqrt(np.sum((x - np.median(x)) ** 2) / (n - 1) / m)
    while len(x) > 3:
        m = np.median(x)
        if algorithm == "sigma":
            sd = np.std(x, ddof=1)
        elif algorithm == "winsorized":
            sd = winsorized_deviation(x, m, tolerance)
        elif algorithm == "averaged":
            sd = per_root * np.sqrt(max(m, 100.0))
        elif algorithm == "mad":
            sd = 1.4826 * np.median(np.abs(x - m))
            sd = np.std(x, ddof=1) if sd <= 1e-6 * np.std(x, ddof=1) else sd
        else:
            read, gain, share = noise
            sd = np.sqrt((read / gain) ** 2 + max(m, 0) / gain + (share * m) ** 2)
        kept = list(x)
        while len(kept) > 3:
            under, over = m - kept[0], kept[-1] - m
            low_out, high_out = under > low * sd, over > high * sd
            if low_out and (not high_out or under * high >= over * low):
                kept.pop(0)
            elif high_out:
                kept.pop()
            else:
                break
        if len(kept) == len(x):
            break
        x = np.array(kept)
    return x


def winsorized_deviation(x, m, tolerance):
    """Return the deviation by plain iteration, as the definition has it."""
    plain = sd = np.std(x, ddof=1)
    for _ in range(2000):
        old = sd
        sd = 1.134 * np.std(np.clip(x, m - 1.5 * sd, m + 1.5 * sd), ddof=1)
        if sd <= 1e-6 * plain:
            return plain
        if abs(sd - old) <= tolerance * sd:
            break
    return sd


def esd(x, relax, significance):
    """Rosner's test as in the paper: the last significant step says how many outliers there are."""
    left, steps = list(x), [tuple(x)]
    outliers = 0
    for i in range(max(int(0.3 * len(x)), 1)):
        m = len(left)
        if m <= 3:
            break
        mean, sd = np.mean(left), np.std(left, ddof=1)
        under, over = (mean - left[0]) / relax, left[-1] - mean
        t = stats.t.ppf(1 - significance / (2 * m), m - 2)
        critical = (m - 1) * t / np.sqrt((m - 2 + t**2) * m)
        left.pop(0 if under >= over else -1)
        steps.append(tuple(left))
        if max(under, over) > critical * sd:
            outliers = i + 1
    return np.array(steps[outliers])


def rcr(x, low, high):
    for phase in range(3):
        while len(x) > 3:
            n = len(x)
            if phase < 2:
                centre = np.median(x)
                d = np.sort(np.abs(x - centre))
                fitted = int(0.683 * n + 0.317)
                if phase == 0 and fitted >= 8:
                    line = stats.norm.ppf(0.5 + 0.5 * (np.arange(1, fitted + 1) - 0.317) / n)
                    sd = np.sum(line * d[:fitted]) / np.sum(line**2)
                else:
                    sd = np.interp(0.683, (np.arange(1, n + 1) - 0.317) / n, d)
                sd /= 1 - 2.9442 * n**-1.073
            else:
                centre, sd = np.mean(x), np.std(x, ddof=1)
            if sd <= 0:
                break
            under, over = centre - x[0], x[-1] - centre
            low_out = n * stats.norm.sf(under / sd) < low
            high_out = n * stats.norm.sf(over / sd) < high
            if low_out and (not high_out or under >= over):
                x = x[1:]
            elif high_out:
                x = x[:-1]
            else:
                break
    return x


def fitted_line(y):
    """Return slope and level in the middle by the same series of reweighted fits."""
    n = len(y)
    x = np.arange(n) - (n - 1) / 2
    quarter = n // 4
    slope = (y[n - 1 - quarter] - y[quarter]) / (n - 1 - 2 * quarter)
    level = np.median(y)
    for _ in range(8):
        r = np.abs(y - level - slope * x)
        if not r.any():
            break
        w = 1 / np.maximum(r, 0.01 * r.mean())
        a = np.stack([np.ones(n), x], axis=1)
        level, slope = np.linalg.solve(a.T @ (w[:, None] * a), a.T @ (w * y))
    return slope, level, x


def linear(x, low, high):
    while len(x) > 5:
        ref = x[len(x) // 2]
        slope, level, rank = fitted_line(x - ref)
        line = ref + level + slope * rank
        s = 2 * np.mean(np.abs(x - line))
        kept = list(range(len(x)))
        while len(kept) > 5:
            a, b = kept[0], kept[-1]
            under, over = line[a] - x[a], x[b] - line[b]
            low_out, high_out = under > low * s, over > high * s
            if low_out and (not high_out or under * high >= over * low):
                kept.pop(0)
            elif high_out:
                kept.pop()
            else:
                break
        if len(kept) == len(x):
            break
        x = x[kept]
    return x


def run(stack, algorithm, low, high):
    lo, hi = np.full((2, stack.shape[1]), np.nan, np.float32)
    rejection.bounds(stack, algorithm, low, high, lo, hi)
    return lo, hi


def twin_bounds(stack, algorithm, low, high, tolerance=1e-10):
    accepted = [twin(column, algorithm, low, high, tolerance) for column in stack.T]
    return np.array([(a[0], a[-1]) if len(a) else (np.inf, -np.inf) for a in accepted], np.float32).T


def sky(n, pixels, seed):
    """A sky of 1000 DN, noise 10 DN, with 3 % bright and 1 % dark outliers."""
    rng = np.random.default_rng(seed)
    stack = rng.normal(1000, 10, (n, pixels))
    stack += rng.exponential(300, stack.shape) * (rng.random(stack.shape) < 0.03)
    stack -= rng.exponential(300, stack.shape) * (rng.random(stack.shape) < 0.01)
    return stack.astype(np.float32)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("algorithm", LIMITS)
def test_bounds_equal_the_twin_on_a_sky_with_outliers_and_gaps(algorithm, n):
    stack = sky(n, 150, seed=n)
    rng = np.random.default_rng(n)
    gaps = stack.copy()
    gaps[rng.random(stack.shape) < 0.15] = np.nan
    for case in (stack, gaps):
        lo, hi = run(case, algorithm, *LIMITS[algorithm])
        expected_lo, expected_hi = twin_bounds(case, algorithm, *LIMITS[algorithm])
        some = expected_lo <= expected_hi
        np.testing.assert_array_equal(lo[some], expected_lo[some])
        np.testing.assert_array_equal(hi[some], expected_hi[some])
        assert np.all(lo[~some] > hi[~some])


@pytest.mark.parametrize("algorithm", CLIPPING)
@pytest.mark.parametrize("n", [4, 7, 20, 57])
def test_bounds_equal_the_twin_when_limits_cut_into_the_noise(algorithm, n):
    # Here a deviation that has not settled shows: some sample lies close to every limit.
    stack = sky(n, 300, seed=200 + n)
    lo, hi = run(stack, algorithm, 1.0, 0.8)
    expected_lo, expected_hi = twin_bounds(stack, algorithm, 1.0, 0.8)
    np.testing.assert_array_equal(lo, expected_lo)
    np.testing.assert_array_equal(hi, expected_hi)


@pytest.mark.parametrize("algorithm", LIMITS)
def test_a_column_that_most_frames_miss_is_judged_by_the_frames_that_cover_it(algorithm):
    stack = sky(18, 130, seed=6)
    stack[3] += 800
    covered = run(stack[:8], algorithm, *LIMITS[algorithm])
    stack[8:] = np.nan
    np.testing.assert_array_equal(run(stack, algorithm, *LIMITS[algorithm]), covered)


@pytest.mark.parametrize("algorithm", LIMITS)
def test_bounds_equal_the_twin_on_tied_whole_numbers(algorithm):
    # A bias of a camera whose read noise is below one DN: nearly all samples are tied.
    rng = np.random.default_rng(5)
    stack = np.round(rng.normal(100.3, 0.6, (21, 200))).astype(np.float32)
    lo, hi = run(stack, algorithm, *LIMITS[algorithm])
    expected_lo, expected_hi = twin_bounds(stack, algorithm, *LIMITS[algorithm])
    np.testing.assert_array_equal(lo, expected_lo)
    np.testing.assert_array_equal(hi, expected_hi)


def test_winsorized_agrees_with_iteration_stopped_at_the_customary_tolerance():
    # Iteration stopped at a relative change of 5e-4 is up to 0.6 % off the fixed point where it converges
    # slowly, which moves the limits across a sample in a few columns in ten thousand.
    total = different = 0
    for n in (5, 10, 20, 57):
        stack = sky(n, 600, seed=100 + n)
        lo, hi = run(stack, "winsorized", 4.0, 3.0)
        expected_lo, expected_hi = twin_bounds(stack, "winsorized", 4.0, 3.0, tolerance=5e-4)
        total += lo.size
        different += np.count_nonzero((lo != expected_lo) | (hi != expected_hi))
    assert different <= 1e-3 * total


@pytest.mark.parametrize("algorithm", sorted(set(LIMITS) - {"none"}))
def test_a_cosmic_ray_and_a_dead_sample_are_rejected(algorithm):
    # 20 samples, noise 10 DN; a plain sigma of 300 DN outliers still leaves them above 3 sigma: (n-1)/sqrt(n) = 4.2
    low, high = (3.0, 3.0) if algorithm in CLIPPING else LIMITS[algorithm]
    stack = np.random.default_rng(1).normal(1000, 10, (20, 500)).astype(np.float32)
    stack[7] = 60000
    lo, hi = run(stack, algorithm, low, high)
    assert hi.max() < 1100
    stack[7] = 0
    lo, hi = run(stack, algorithm, low, high)
    assert lo.min() > 900


def test_a_fitted_line_comes_within_two_percent_of_the_least_absolute_deviations():
    # The reference is a simplex search for the minimum that the series of reweighted fits approaches.
    for seed, n in enumerate((6, 10, 20, 50)):
        y = np.sort(np.random.default_rng(seed).normal(0, 10, n))
        y[-1] += 500
        slope, level, x = fitted_line(y)
        found = np.mean(np.abs(y - level - slope * x))

        def deviation(line, x=x, y=y):
            return np.mean(np.abs(y - line[0] - line[1] * x))

        best = min(
            optimize.minimize(deviation, start, method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-9}).fun
            for start in ((level, slope), (np.median(y), 0.0))
        )
        assert found < 1.02 * best


def test_esd_finds_two_outliers_that_hide_each_other_from_the_first_step():
    # Rosner's point: with two equal outliers of 12 the first deviate stays below its limit, the second does not.
    column = np.array([9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 40, 40], np.float32)
    mean, sd = column.mean(), column.std(ddof=1)
    t = stats.t.ppf(1 - 0.05 / 24, 10)
    assert (40 - mean) / sd < 11 * t / np.sqrt((10 + t**2) * 12)
    assert run(column[:, None], "esd", 1.0, 0.05)[1][0] == 14


def test_esd_spares_low_samples_when_they_are_relaxed():
    column = np.array([1, 10, 10.5, 11, 11, 11.5, 12, 12, 12.5, 13], np.float32)[:, None]
    assert run(column, "esd", 1.0, 0.05)[0][0] == 10
    assert run(column, "esd", 3.0, 0.05)[0][0] == 1


@pytest.mark.parametrize(
    ("noise", "kept"), [((10.0, 1.0, 0.0), False), ((10.0, 0.25, 0.0), True), ((10.0, 1.0, 0.1), True)]
)
def test_the_ccd_model_takes_its_noise_from_the_sensor_and_not_from_the_samples(noise, kept):
    # Median 1000 DN. At 1 e-/DN sigma is sqrt(100 + 1000) = 33 DN, at 0.25 sqrt(1600 + 4000) = 75 DN, with 10 % 105 DN.
    column = np.array([998, 999, 1000, 1000, 1001, 1150], np.float32)[:, None]
    lo, hi = np.empty((2, 1), np.float32)
    rejection.bounds(column, "ccd", 3.0, 3.0, lo, hi, noise)
    assert (hi[0] == 1150) == kept


def test_averaged_sigma_lets_the_noise_follow_the_median():
    # Outliers moved the median up from 900 to 1000; once they are out, the noise falls by sqrt(900 / 1000).
    stack = sky(40, 200, seed=3)
    stack[:12] += 300
    np.testing.assert_array_equal(run(stack, "averaged", 2.0, 1.0), twin_bounds(stack, "averaged", 2.0, 1.0))


@pytest.mark.parametrize("algorithm", ["sigma", "winsorized"])
@pytest.mark.parametrize("n", [6, 11, 64])
def test_columns_without_outliers_are_settled_as_the_exact_rule_would(algorithm, n):
    # Limits at the very deviation of the extreme sample, a little inside and outside: the quick test must not decide.
    stack = np.random.default_rng(n).normal(1000, 10, (n, 16)).astype(np.float32)
    for column in stack.T:
        m = np.median(column.astype(np.float64))
        sd = (
            np.std(column.astype(np.float64), ddof=1)
            if algorithm == "sigma"
            else winsorized_deviation(column.astype(np.float64), m, 1e-14)
        )
        k = (np.float64(column.max()) - m) / sd
        for factor in (1 - 1e-7, 1 + 1e-7):
            one = np.repeat(column[:, None], 64, axis=1)
            np.testing.assert_array_equal(run(one, algorithm, 9.0, k * factor)[1] == column.max(), factor > 1)


def test_winsorized_rejects_outliers_that_hide_from_plain_sigma():
    # Three equal outliers of 10 frames blow the plain deviation up to half their height: 3 sigma misses them.
    stack = np.random.default_rng(2).normal(1000, 10, (10, 300)).astype(np.float32)
    stack[:2] = 5000
    assert np.all(run(stack, "sigma", 3.0, 3.0)[1] == 5000)
    assert np.mean(run(stack, "winsorized", 3.0, 3.0)[1] < 1100) > 0.99


def test_winsorized_keeps_one_sided_ties_that_shrink_its_deviation_to_zero():
    # 14 samples of 10 DN, 6 of 11 DN: the only fixed point is zero and would reject every 11.
    stack = np.repeat([10.0, 11.0], [14, 6]).astype(np.float32)[:, None]
    lo, hi = run(stack, "winsorized", 3.0, 3.0)
    assert (lo[0], hi[0]) == (10.0, 11.0)


@pytest.mark.parametrize("algorithm", LIMITS)
@pytest.mark.parametrize("value", [0.0, 1000.0, -3.5])
def test_a_constant_column_keeps_every_sample(algorithm, value):
    lo, hi = run(np.full((12, 5), value, np.float32), algorithm, *LIMITS[algorithm])
    assert np.all(lo == value)
    assert np.all(hi == value)


@pytest.mark.parametrize("algorithm", LIMITS)
def test_a_column_without_samples_accepts_nothing(algorithm):
    stack = np.full((4, 3), np.nan, np.float32)
    stack[:, 1] = [np.inf, -np.inf, np.nan, np.inf]
    stack[:, 2] = [1000, np.inf, 1001, -np.inf]
    lo, hi = run(stack, algorithm, *LIMITS[algorithm])
    assert lo.tolist() == [np.inf, np.inf, 1000]
    assert hi.tolist() == [-np.inf, -np.inf, 1001]


@pytest.mark.parametrize("algorithm", ["sigma", "winsorized"])
def test_clipping_leaves_three_samples_and_takes_the_worst_first(algorithm):
    stack = np.array([[10.0], [11.0], [12.0], [13.0], [30.0]], np.float32)
    lo, hi = run(stack, algorithm, 0.1, 0.1)
    assert (lo[0], hi[0]) == (11.0, 13.0)


def test_minmax_keeps_the_middle_when_the_counts_exceed_the_column():
    stack = np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0], [4.0, np.nan]], np.float32)
    lo, hi = run(stack, "minmax", 2, 2)
    assert lo.tolist() == [2.0, 2.0]
    assert hi.tolist() == [3.0, 2.0]


def test_percentile_that_accepts_nothing_says_which_side_each_sample_fell():
    stack = np.array([[200.0], [800.0], [200.0], [900.0]], np.float32)
    lo, hi = run(stack, "percentile", 0.2, 0.1)
    assert (lo[0], hi[0]) == (800.0, 200.0)


@pytest.mark.parametrize("background", [-20.0, 0.0, 5.0])
def test_percentile_does_not_clip_the_noise_of_a_background_near_zero(background):
    # Floor 100 DN: limits 20 DN below and 10 DN above. Noise 2 DN: the high limit is 5 sigma.
    stack = np.random.default_rng(3).normal(background, 2, (5, 400)).astype(np.float32)
    stack[2, ::2] += 500
    lo, hi = run(stack, "percentile", 0.2, 0.1)
    kept = (stack >= lo) & (stack <= hi)
    assert not kept[2, ::2].any()
    assert kept[:, 1::2].mean() > 0.999


def test_an_outlier_leaves_the_deviation_of_the_rest_at_full_precision():
    # Squares of 6e4 next to a noise of 0.01 DN: sums in float32, or not anchored at the median, would lose it.
    rng = np.random.default_rng(4)
    stack = rng.normal(0, 0.01, (30, 100)).astype(np.float32)
    stack[3] = -60000
    stack[4] = 65000
    for algorithm in ("sigma", "winsorized"):
        lo, hi = run(stack, algorithm, 2.5, 2.5)
        np.testing.assert_array_equal((lo, hi), twin_bounds(stack, algorithm, 2.5, 2.5))


@pytest.mark.parametrize("algorithm", LIMITS)
def test_bounds_do_not_depend_on_how_the_pixels_are_cut_into_tiles(algorithm):
    stack = sky(9, 333, seed=8)
    stack[np.random.default_rng(8).random(stack.shape) < 0.2] = np.nan
    whole = run(stack, algorithm, *LIMITS[algorithm])
    for cuts in ([1], [64], [63, 65, 200], [100, 101, 332]):
        pieces = [run(t, algorithm, *LIMITS[algorithm]) for t in np.split(stack, cuts, axis=1)]
        np.testing.assert_array_equal(np.concatenate(pieces, axis=1), whole)


@pytest.mark.parametrize("n", [*range(1, 40), 64, 65, 200, 700, 2000])
def test_comparators_sort(n):
    first, second = rejection.comparators(n)
    rows = np.random.default_rng(n).integers(0, 2, (n, 50))
    rows[:, 0] = np.arange(n)[::-1]
    expected = np.sort(rows, axis=0)
    for a, b in zip(first, second, strict=True):
        rows[a], rows[b] = np.minimum(rows[a], rows[b]), np.maximum(rows[a], rows[b])
    np.testing.assert_array_equal(rows, expected)


def test_two_thousand_frames_are_judged_like_twenty():
    stack = sky(2000, 3, seed=9)
    for algorithm in ("sigma", "winsorized"):
        np.testing.assert_array_equal(run(stack, algorithm, 4.0, 3.0), twin_bounds(stack, algorithm, 4.0, 3.0))


def test_codes_and_names_mean_the_same():
    stack = sky(10, 20, seed=10)
    for name, code in rejection.ALGORITHMS.items():
        np.testing.assert_array_equal(run(stack, name, *LIMITS[name]), run(stack, code, *LIMITS[name]))


def test_wrong_arguments_raise_before_any_pixel_is_written():
    stack = np.zeros((3, 4), np.float32)
    lo = np.zeros(4, np.float32)
    with pytest.raises(ValueError, match="'median'"):
        rejection.bounds(stack, "median", 3, 3, lo, lo)
    with pytest.raises(ValueError, match="-1"):
        rejection.bounds(stack, "sigma", -1, 3, lo, lo)
    with pytest.raises(ValueError, match="nan"):
        rejection.bounds(stack, "sigma", 3, float("nan"), lo, lo)
    with pytest.raises(ValueError, match=r"\(3, 4\)"):
        rejection.bounds(stack, "sigma", 3, 3, lo[:3], lo)
    for low, high in ((0, 0.05), (1, 1.0), (1, 0.0)):
        with pytest.raises(ValueError, match="esd expects"):
            rejection.bounds(stack, "esd", low, high, lo, lo)
    with pytest.raises(ValueError, match="e-/DN above zero"):
        rejection.bounds(stack, "ccd", 3, 3, lo, lo, (10.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="at least one frame"):
        rejection.bounds(stack[:0], "sigma", 3, 3, lo, lo)
