"""Bounds that widen at stars by what the seeing changes, against a slow twin and against profiles."""

import numpy as np
import pytest

from wbpy.kernels import seeing


@pytest.fixture(autouse=True)
def _quiet_scalars():
    """With the JIT off the kernels are NumPy scalars, which warn of inf - inf where compiled code does not."""
    with np.errstate(invalid="ignore"):
        yield


def twin(lo, hi, tolerance, noise):
    h, w = lo.shape
    middle = 0.5 * (lo.astype(np.float64) + hi)
    size = np.zeros((h, w))
    for y in range(1, h - 1):
        for x in range(1, w - 1):
            value = middle[y - 1, x] + middle[y + 1, x] + middle[y, x - 1] + middle[y, x + 1] - 4 * middle[y, x]
            size[y, x] = abs(value) if np.isfinite(value) else 0
    low, high = lo.astype(np.float64), hi.astype(np.float64)
    for y in range(h):
        for x in range(w):
            most = size[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3].max()
            if most > 10 * noise:
                low[y, x] -= tolerance * most
                high[y, x] += tolerance * most
    return low, high


@pytest.mark.parametrize("shape", [(1, 1), (2, 5), (3, 3), (20, 31)])
def test_bounds_widen_as_the_twin_says(shape):
    rng = np.random.default_rng(sum(shape))
    lo = rng.normal(100, 10, shape).astype(np.float32)
    hi = lo + np.float32(40)
    lo[shape[0] // 2, shape[1] // 2] += 900
    hi[shape[0] // 2, shape[1] // 2] += 1100
    lo[0, 0], hi[0, 0] = np.inf, -np.inf
    low, high = twin(lo, hi, 1.25, 12.0)
    seeing.widen_bounds(lo, hi, 1.25, 12.0)
    np.testing.assert_allclose(lo, low, rtol=1e-5)
    np.testing.assert_allclose(hi, high, rtol=1e-5)


def test_bounds_of_a_sky_with_a_gradient_and_a_nebula_stay():
    y, x = np.mgrid[:60, :80]
    level = 500 + 0.8 * x + 400 * np.exp(-((x - 40) ** 2 + (y - 30) ** 2) / (2 * 15.0**2))
    lo, hi = (level - 30).astype(np.float32), (level + 30).astype(np.float32)
    before = lo.copy(), hi.copy()
    # The nebula's Laplacian is 2 x 400 / 15^2 = 3.6 DN at most, the noise 10.
    seeing.widen_bounds(lo, hi, 3.0, 10.0)
    np.testing.assert_array_equal(lo, before[0])
    np.testing.assert_array_equal(hi, before[1])


def test_the_change_covers_what_the_sharpest_and_the_widest_profile_do_to_a_star():
    def star(fwhm):
        y, x = np.mgrid[-20:21, -20:21]
        variance = (fwhm / 2.3548) ** 2
        return 1000 / variance * np.exp(-(x**2 + y**2) / (2 * variance))

    widths = [3.6, 3.6, 3.6, 2.6, 4.8]
    middle = star(3.6)
    lo, hi = middle.astype(np.float32) - 1, middle.astype(np.float32) + 1
    seeing.widen_bounds(lo, hi, 1.5 * seeing.change(widths), 0.5)
    for width in (2.6, 4.8):
        profile = star(width)
        outside = np.maximum(profile - hi, lo - profile)
        # Beyond the bounds lies only what is faint: below a tenth of the star's peak there is noise enough.
        assert outside.max() < 0.02 * middle.max()
    flat = middle.astype(np.float32) - 1, middle.astype(np.float32) + 1
    assert max((star(2.6) - flat[1]).max(), (flat[0] - star(4.8)).max()) > 0.4 * middle.max()


@pytest.mark.parametrize("widths", [[], [3.0], [np.nan, 3.0], [3.0, 3.0, 3.02], [np.nan] * 4])
def test_steady_or_unknown_seeing_changes_nothing(widths):
    assert seeing.change(widths) == 0.0


def test_one_sharp_frame_among_many_sets_the_change():
    assert seeing.change([3.0] * 20 + [2.2]) == seeing.change([3.0, 3.0, 2.2, np.nan]) > 0.5
