"""What rejection and combination promise for any stack."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from wbpy.kernels import combine, rejection

# Whole numbers make ties common; NaN and infinity stand for missing samples.
SAMPLES = st.one_of(
    st.integers(-3, 6).map(float),
    st.floats(-1000, 66000, width=32),
    st.sampled_from([float("nan"), float("inf"), float("-inf")]),
)
COLUMNS = st.lists(SAMPLES, min_size=1, max_size=24)
ALGORITHMS = st.sampled_from(sorted(rejection.ALGORITHMS))
CLIPPING = ("sigma", "winsorized", "averaged", "linear", "esd", "rcr", "mad", "ccd")
LIMITS = st.tuples(st.integers(0, 5), st.integers(0, 5))


@pytest.fixture(autouse=True, scope="module")
def _quiet_scalars():
    """With the JIT off the kernels are NumPy scalars, which warn of inf - inf where compiled code does not."""
    with np.errstate(invalid="ignore"):
        yield


def bounds(stack, algorithm, limits):
    lo, hi = np.empty((2, stack.shape[1]), np.float32)
    if algorithm == "esd":
        limits = (1 + limits[0], (1 + limits[1]) / 10)
    rejection.bounds(stack, algorithm, *limits, lo, hi)
    return lo, hi


def mean(stack, lo, hi):
    n, pixels = stack.shape
    out, weight_sum = np.empty((2, pixels), np.float32)
    low, high = np.empty((2, pixels), np.uint16)
    frames = np.zeros((n, 2), np.int64)
    combine.mean(stack, stack, lo, hi, np.ones(n), out, weight_sum, low, high, frames)
    return out, weight_sum, low, high


@settings(max_examples=50, deadline=None)
@given(COLUMNS, ALGORITHMS, LIMITS, st.randoms(use_true_random=False))
def test_the_order_of_the_frames_does_not_matter(column, algorithm, limits, random):
    shuffled = column.copy()
    random.shuffle(shuffled)
    one, other = (np.array(c, np.float32)[:, None] for c in (column, shuffled))
    np.testing.assert_array_equal(bounds(one, algorithm, limits), bounds(other, algorithm, limits))


@settings(max_examples=50, deadline=None)
@given(COLUMNS, ALGORITHMS, LIMITS, st.integers(1, 130), st.integers(0, 129))
def test_a_column_is_judged_alone(column, algorithm, limits, pixels, at):
    at %= pixels
    stack = np.random.default_rng(len(column)).normal(0, 10, (len(column), pixels)).astype(np.float32)
    stack[:, at] = column
    alone = bounds(stack[:, at : at + 1].copy(), algorithm, limits)
    lo, hi = bounds(stack, algorithm, limits)
    assert (lo[at], hi[at]) == (alone[0][0], alone[1][0])


@settings(max_examples=50, deadline=None)
@given(COLUMNS, st.sampled_from(CLIPPING), LIMITS)
def test_clipping_keeps_three_samples_and_ends_in_samples(column, algorithm, limits):
    stack = np.array(column, np.float32)[:, None]
    present = stack[np.isfinite(stack)]
    assume(present.size > 0)
    lo, hi = bounds(stack, algorithm, limits)
    assert lo[0] in present
    assert hi[0] in present
    kept = present[(present >= lo[0]) & (present <= hi[0])]
    assert kept.size >= min(3, present.size)


@settings(max_examples=50, deadline=None)
@given(COLUMNS, ALGORITHMS, LIMITS)
def test_every_sample_is_kept_rejected_low_or_rejected_high(column, algorithm, limits):
    stack = np.array(column, np.float32)[:, None]
    present = stack[np.isfinite(stack)]
    lo, hi = bounds(stack, algorithm, limits)
    out, weight_sum, low, high = mean(stack, lo, hi)
    assert weight_sum[0] + low[0] + high[0] == present.size
    assert np.isfinite(out[0]) == (present.size > 0)
    if present.size > 0:
        assert present.min() <= out[0] <= present.max()


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(0, 4000), min_size=4, max_size=24),
    st.sampled_from(["sigma", "winsorized", "linear", "esd", "rcr", "mad", "minmax", "none"]),
    LIMITS,
    st.sampled_from([0.25, 0.5, 2.0, 8.0]),
    st.integers(-4000, 4000),
)
def test_scaling_and_shifting_a_column_moves_its_bounds_along(column, algorithm, limits, scale, shift):
    # Powers of two and whole numbers, so that the moved samples are exact in float32.
    stack = np.array(column, np.float32)[:, None]
    moved = stack * np.float32(scale) + np.float32(shift)
    for one, other in zip(bounds(stack, algorithm, limits), bounds(moved, algorithm, limits), strict=True):
        assert other[0] == one[0] * scale + shift
