"""Rejection kernels against slow float64 twins written from the definitions, one column at a time."""

import numpy as np
import pytest

from wbpy.kernels import rejection

SIZES = (1, 2, 3, 4, 5, 10, 20, 57, 130)
LIMITS = {
    "none": (0.0, 0.0),
    "minmax": (1.0, 2.0),
    "percentile": (0.2, 0.1),
    "sigma": (4.0, 3.0),
    "winsorized": (4.0, 3.0),
}


@pytest.fixture(autouse=True)
def _quiet_scalars():
    """With the JIT off the kernels are NumPy scalars, which warn of inf - inf where compiled code does not."""
    with np.errstate(invalid="ignore"):
        yield


def twin(column, algorithm, low, high, tolerance=1e-10):
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
    while len(x) > 3:
        m = np.median(x)
        sd = np.std(x, ddof=1) if algorithm == "sigma" else winsorized_deviation(x, m, tolerance)
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


@pytest.mark.parametrize("algorithm", ["sigma", "winsorized"])
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


@pytest.mark.parametrize("algorithm", ["sigma", "winsorized"])
def test_a_cosmic_ray_and_a_dead_sample_are_rejected(algorithm):
    # 20 samples, noise 10 DN; a plain sigma of 300 DN outliers still leaves them above 3 sigma: (n-1)/sqrt(n) = 4.2
    stack = np.random.default_rng(1).normal(1000, 10, (20, 500)).astype(np.float32)
    stack[7] = 60000
    lo, hi = run(stack, algorithm, 3.0, 3.0)
    assert hi.max() < 1100
    stack[7] = 0
    lo, hi = run(stack, algorithm, 3.0, 3.0)
    assert lo.min() > 900


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
        np.testing.assert_array_equal(run(stack, name, 1, 1), run(stack, code, 1, 1))


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
    with pytest.raises(ValueError, match="at least one frame"):
        rejection.bounds(stack[:0], "sigma", 3, 3, lo, lo)
