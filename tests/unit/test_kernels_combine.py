"""Combination kernels against slow float64 twins."""

import threading
from typing import NamedTuple

import numpy as np
import pytest

from wbpy.kernels import combine, rejection

SIZES = (1, 2, 3, 4, 5, 10, 20, 57, 130)


@pytest.fixture(autouse=True)
def _quiet_scalars():
    """With the JIT off the kernels are NumPy scalars, which warn of inf - inf where compiled code does not."""
    with np.errstate(invalid="ignore"):
        yield


class Maps(NamedTuple):
    out: np.ndarray
    weight_sum: np.ndarray
    low: np.ndarray
    high: np.ndarray
    frames: np.ndarray
    variance: np.ndarray


def run(values, lo, hi, weights, judged=None):
    n, pixels = values.shape
    maps = Maps(
        *np.full((2, pixels), -1, np.float32),
        *np.full((2, pixels), 999, np.uint16),
        np.zeros((n, 2), np.int64),
        np.full(pixels, -1, np.float32),
    )
    combine.mean(values, values if judged is None else judged, lo, hi, weights, *maps)
    return maps


def twin(values, judged, lo, hi, weights):
    n, pixels = values.shape
    maps = Maps(*np.zeros((2, pixels)), *np.zeros((2, pixels), int), np.zeros((n, 2), int), np.full(pixels, np.nan))
    for p in range(pixels):
        present = np.isfinite(values[:, p]) & np.isfinite(judged[:, p])
        low = present & (judged[:, p] < lo[p])
        high = present & (judged[:, p] > hi[p]) & ~low
        kept = present & ~low & ~high
        x, w = values[kept, p].astype(np.float64), weights[kept]
        if w.sum() > 0:
            m = np.average(x, weights=w)
            count = np.count_nonzero(w)
            if count > 1:
                scatter = np.sum((w / w.sum()) ** 2 * (x - m) ** 2)
                maps.variance[p] = count / (count - 1) * scatter
        else:
            m = np.median(values[present, p].astype(np.float64)) if present.any() else np.nan
        maps.out[p], maps.weight_sum[p] = m, w.sum()
        maps.low[p], maps.high[p] = low.sum(), high.sum()
        maps.frames[:, 0] += low
        maps.frames[:, 1] += high
    return maps


def stack_of(n, pixels, seed, gaps=0.1):
    rng = np.random.default_rng(seed)
    stack = rng.normal(1000, 30, (n, pixels)).astype(np.float32)
    stack[rng.random(stack.shape) < 0.05] += 3000
    stack[rng.random(stack.shape) < gaps] = np.nan
    return stack


def bounds_of(stack, algorithm="sigma", low=2.0, high=2.0):
    lo, hi = np.empty((2, stack.shape[1]), np.float32)
    rejection.bounds(stack, algorithm, low, high, lo, hi)
    return lo, hi


@pytest.mark.parametrize("n", SIZES)
def test_mean_equals_the_twin(n):
    values = stack_of(n, 300, seed=n)
    rng = np.random.default_rng(n)
    judged = values * np.float32(0.5) + rng.normal(0, 5, values.shape).astype(np.float32)
    judged[rng.random(values.shape) < 0.05] = np.nan
    weights = rng.uniform(0.1, 1, n)
    weights[n // 2] = 0.0
    lo, hi = bounds_of(judged)
    # Some columns with nothing accepted: their samples lie on both sides of an empty interval.
    lo[::7], hi[::7] = 520, 480
    maps = run(values, lo, hi, weights, judged)
    expected = twin(values, judged, lo, hi, weights)
    # Both sum in float64; what is left is the rounding of the result to float32: half an ulp, 6e-8.
    np.testing.assert_allclose(maps.out, expected.out, rtol=1.2e-7)
    np.testing.assert_allclose(maps.weight_sum, expected.weight_sum, rtol=1.2e-7)
    np.testing.assert_allclose(maps.variance, expected.variance, rtol=1e-6)
    np.testing.assert_array_equal(maps.low, expected.low)
    np.testing.assert_array_equal(maps.high, expected.high)
    np.testing.assert_array_equal(maps.frames, expected.frames)


@pytest.mark.parametrize("algorithm", sorted(rejection.ALGORITHMS))
@pytest.mark.parametrize("kind", ["tied", "constant", "masked", "one sample", "outlier"])
def test_mean_equals_the_twin_on_columns_of_every_kind_after_every_rejection(algorithm, kind):
    rng = np.random.default_rng(5)
    values = rng.normal(500, 20, (13, 120)).astype(np.float32)
    if kind == "tied":
        values = np.round(values / 15) * np.float32(15)
    elif kind == "constant":
        values[:] = 321.0
    elif kind == "masked":
        values[rng.random(values.shape) < 0.6] = np.nan
        values[:, 7] = np.nan
    elif kind == "one sample":
        values[1:] = np.nan
    else:
        values[rng.integers(0, 13, 120), np.arange(120)] += 4000
    limits = {"percentile": (0.2, 0.1), "esd": (1.0, 0.02), "rcr": (0.01, 0.01), "minmax": (1.0, 1.0)}
    lo, hi = bounds_of(values, algorithm, *limits.get(algorithm, (4.0, 3.0)))
    weights = rng.uniform(0.1, 1, 13)
    maps, expected = run(values, lo, hi, weights), twin(values, values, lo, hi, weights)
    np.testing.assert_allclose(maps.out, expected.out, rtol=1.2e-7)
    np.testing.assert_allclose(maps.weight_sum, expected.weight_sum, rtol=1.2e-7)
    for name in ("low", "high", "frames"):
        np.testing.assert_array_equal(getattr(maps, name), getattr(expected, name))
    # A constant column has no scatter; what rounding leaves of the mean's is below an ulp of the level, squared.
    np.testing.assert_allclose(maps.variance, expected.variance, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_mean_without_rejection_is_the_float64_average_rounded_once(dtype):
    values = stack_of(37, 1000, seed=1, gaps=0)
    weights = np.random.default_rng(1).uniform(0.05, 1, 37).astype(dtype)
    maps = run(values, *bounds_of(values, "none"), weights)
    expected = np.average(values.astype(np.float64), axis=0, weights=weights.astype(np.float64))
    np.testing.assert_array_max_ulp(maps.out, expected.astype(np.float32), maxulp=1)
    assert not maps.low.any()
    assert not maps.high.any()
    assert not maps.frames.any()


def test_missing_samples_are_not_counted_as_rejected():
    values = np.array([[1, np.nan, np.inf], [2, 2, 2], [3, 3, 3], [50, 50, -np.inf]], np.float32)
    lo, hi = np.full(3, 2, np.float32), np.full(3, 3, np.float32)
    maps = run(values, lo, hi, np.ones(4))
    assert maps.out.tolist() == [2.5, 2.5, 2.5]
    assert maps.low.tolist() == [1, 0, 0]
    assert maps.high.tolist() == [1, 1, 0]
    assert maps.frames.tolist() == [[1, 0], [0, 0], [0, 0], [0, 2]]


def test_where_nothing_is_accepted_the_median_of_all_stands_with_weight_zero():
    values = np.array([[200, np.nan], [800, np.nan], [200, np.nan], [900, np.nan]], np.float32)
    maps = run(values, *bounds_of(values, "percentile", 0.2, 0.1), np.array([1, 1, 1, 5]))
    np.testing.assert_array_equal(maps.out, [500, np.nan])
    np.testing.assert_array_equal(maps.variance, [np.nan, np.nan])
    assert maps.weight_sum.tolist() == [0, 0]
    assert maps.low.tolist() == [2, 0]
    assert maps.high.tolist() == [2, 0]


def test_a_frame_of_weight_zero_changes_nothing_but_the_counts():
    values = stack_of(8, 100, seed=2)
    lo, hi = bounds_of(values)
    weights = np.array([1.0, 0.5, 0, 1, 1, 0.2, 1, 1])
    with_frame = run(values, lo, hi, weights)
    rest = np.delete(values, 2, axis=0)
    without = run(rest, lo, hi, np.delete(weights, 2))
    some = without.weight_sum > 0
    np.testing.assert_array_equal(with_frame.out[some], without.out[some])
    np.testing.assert_array_equal(with_frame.variance[some], without.variance[some])


def test_variance_predicts_the_scatter_of_the_mean():
    # 4000 means of 16 samples of variance 900: the mean variance 900/16 is known to
    # sqrt(2 / 15 / 4000) = 0.6 %, the scatter of the means to sqrt(2 / 4000) = 2.2 %; 4 sigma of each.
    values = np.random.default_rng(3).normal(0, 30, (16, 4000)).astype(np.float32)
    maps = run(values, *bounds_of(values, "none"), np.ones(16))
    assert maps.variance.mean() == pytest.approx(900 / 16, rel=0.024)
    assert maps.out.astype(np.float64).var() == pytest.approx(maps.variance.mean(dtype=np.float64), rel=0.09)


def test_frame_counts_add_up_over_tiles():
    values = stack_of(11, 700, seed=4)
    weights = np.linspace(0.5, 1, 11)
    lo, hi = bounds_of(values)
    whole = run(values, lo, hi, weights)
    for cuts in ([1], [256], [255, 257, 600]):
        tiles = [run(*tile, weights) for tile in zip(*(np.split(a, cuts, -1) for a in (values, lo, hi)), strict=True)]
        for name in ("out", "weight_sum", "low", "high", "variance"):
            np.testing.assert_array_equal(np.concatenate([getattr(t, name) for t in tiles]), getattr(whole, name))
        np.testing.assert_array_equal(sum(t.frames for t in tiles), whole.frames)
    assert whole.frames.sum() == whole.low.sum(dtype=int) + whole.high.sum(dtype=int)


def test_threads_side_by_side_give_the_bits_of_one():
    values = stack_of(12, 1200, seed=5)
    alone = run(values, *bounds_of(values, "winsorized"), np.ones(12))
    results = {}

    def work(k):
        tile = values[:, k * 400 : (k + 1) * 400]
        # Each thread has an error state of its own.
        with np.errstate(invalid="ignore"):
            results[k] = run(tile, *bounds_of(tile, "winsorized"), np.ones(12))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    np.testing.assert_array_equal(np.concatenate([results[k].out for k in range(3)]), alone.out)


def test_wrong_arguments_raise():
    values = stack_of(3, 4, seed=6)
    lo, hi = bounds_of(values, "none")
    with pytest.raises(ValueError, match="weights run from -1"):
        run(values, lo, hi, [1, -1, 1])
    with pytest.raises(ValueError, match="nan"):
        run(values, lo, hi, [1, np.nan, 1])
    with pytest.raises(ValueError, match=r"weights \(2,\)"):
        run(values, lo, hi, [1, 1])
    with pytest.raises(ValueError, match=r"judged \(2, 4\)"):
        run(values, lo, hi, [1, 1, 1], judged=values[:2])
    with pytest.raises(ValueError, match=r"\(3,\)"):
        run(values, lo[:3], hi, [1, 1, 1])


def weighted_median(x, w):
    order = np.argsort(x)
    x, w = x[order], w[order]
    share = np.cumsum(w) / w.sum()
    k = int(np.searchsorted(share, 0.5 - 1e-9))
    return 0.5 * (x[k] + x[k + 1]) if abs(share[k] - 0.5) < 1e-9 else x[k]


@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize("n", SIZES)
def test_ranked_combinations_equal_their_twins_on_the_accepted_samples(n, equal):
    values = stack_of(n, 200, seed=n)
    values[:, ::4] = np.round(values[:, ::4] / 40)
    values[:, 3] = 7.0
    weights = np.full(n, 0.1) if equal else np.random.default_rng(n).uniform(0.1, 1, n)
    if not equal:
        weights[n // 2] = 0.0
    lo, hi = bounds_of(values)
    plain = run(values, lo, hi, weights)
    for which, peer in (("median", weighted_median), ("min", lambda x, w: x.min()), ("max", lambda x, w: x.max())):
        maps = Maps(*(np.zeros_like(array) for array in plain))
        combine.ranked(values, values, lo, hi, weights, which, *maps)
        for p in range(200):
            kept = (values[:, p] >= lo[p]) & (values[:, p] <= hi[p]) & (weights > 0)
            if not kept.any():
                assert maps.out[p] == plain.out[p] or np.isnan(plain.out[p])
            else:
                assert maps.out[p] == np.float32(peer(values[kept, p].astype(np.float64), weights[kept])), (which, p)
        for name in ("weight_sum", "low", "high", "frames"):
            np.testing.assert_array_equal(getattr(maps, name), getattr(plain, name))
        if which == "median":
            np.testing.assert_allclose(maps.variance, plain.variance * np.pi / 2, rtol=1e-6)
        else:
            assert np.isnan(maps.variance).all()


def test_the_variance_of_a_median_is_that_of_many_medians():
    # 6000 medians of 25 samples: their variance is known to sqrt(2 / 6000) = 1.8 %, 4 sigma of it; pi / 2 is the limit
    # of many samples and 4 % too much at 25 (Kendall and Stuart 10.10).
    values = np.random.default_rng(9).normal(0, 30, (25, 6000)).astype(np.float32)
    lo, hi = bounds_of(values, "none")
    maps = Maps(*(np.zeros_like(array) for array in run(values, lo, hi, np.ones(25))))
    combine.ranked(values, values, lo, hi, np.ones(25), "median", *maps)
    expected = maps.variance.mean(dtype=np.float64)
    assert maps.out.var(dtype=np.float64) == pytest.approx(expected / 1.04, rel=0.075)


@pytest.mark.parametrize("n", (1, 2, 5, 31))
def test_the_expected_variance_equals_its_twin(n):
    values = stack_of(n, 300, seed=n)
    rng = np.random.default_rng(n)
    weights, noise, photon = rng.uniform(0.1, 1, n), rng.uniform(20, 40, n), rng.uniform(0, 2, n)
    photon[0] = 0.0
    level = rng.uniform(800, 1000, n)
    lo, hi = bounds_of(values)
    mean = run(values, lo, hi, weights).out
    mean[5] = 0.0
    out = np.empty(300, np.float32)
    combine.expected_variance(values, values, lo, hi, weights, noise, photon, level, mean, out)
    for p in range(300):
        kept = (values[:, p] >= lo[p]) & (values[:, p] <= hi[p])
        if not kept.any():
            assert np.isnan(out[p])
            continue
        own = np.maximum(noise**2 + photon * (np.float64(mean[p]) - level), 0.1 * noise**2)
        expected = np.sum((weights**2 * own)[kept]) / weights[kept].sum() ** 2
        assert out[p] == pytest.approx(expected, rel=1e-6)


def test_the_expected_variance_is_the_scatter_of_the_mean_on_sky_and_star():
    # 3000 means each of sky (300 e-) and of a star's core (20,300 e-), 2 e-/DN, read noise 5 e-, frames scaled by 1
    # to 1.4: their variance is known to sqrt(2 / 3000) = 2.6 %; 4 sigma.
    rng = np.random.default_rng(11)
    n, gain, scale = 12, 2.0, np.linspace(1, 1.4, 12)
    photons = np.where(np.arange(6000) < 3000, 300, 20_300) / scale[:, None]
    electrons = rng.poisson(photons) + rng.normal(0, 5, (n, 6000))
    values = (electrons / gain * scale[:, None]).astype(np.float32)
    sky = 300 / scale / gain
    noise = scale * np.sqrt(sky / gain + (5 / gain) ** 2)
    weights = 1 / noise**2
    lo, hi = bounds_of(values, "none")
    mean = run(values, lo, hi, weights).out
    out = np.empty(6000, np.float32)
    combine.expected_variance(values, values, lo, hi, weights, noise, scale / gain, scale * sky, mean, out)
    for part in (np.s_[:3000], np.s_[3000:]):
        assert mean[part].var(dtype=np.float64) == pytest.approx(out[part].mean(dtype=np.float64), rel=0.105)


def test_wrong_arguments_of_the_other_combinations_raise():
    values = stack_of(3, 4, seed=6)
    lo, hi = bounds_of(values, "none")
    maps = run(values, lo, hi, np.ones(3))
    with pytest.raises(ValueError, match="expected one of median, min, max"):
        combine.ranked(values, values, lo, hi, np.ones(3), "mode", *maps)
    with pytest.raises(ValueError, match=r"noise \(2,\)"):
        combine.expected_variance(
            values, values, lo, hi, np.ones(3), np.ones(2), np.ones(3), np.ones(3), maps.out, maps.variance
        )
