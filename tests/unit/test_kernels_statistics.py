import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from wbpy.kernels import statistics
from wbpy.kernels.statistics import (
    background_mesh,
    bwmv,
    dispersion,
    expand_mesh,
    median,
    median_mad,
    noise_mrs,
    sampled,
    trimmed_mean,
)

RGGB = np.array([[0, 1], [1, 2]], dtype=np.uint8)

pixels = st.lists(
    st.one_of(
        st.floats(width=32, min_value=-1e6, max_value=1e6),
        st.sampled_from([0.0, -0.0, 1.0, 65535.0, math.nan]),
    ),
    min_size=1,
    max_size=40,
)


def slow_median(values):
    kept = np.sort(values[~np.isnan(values)].astype(np.float64))
    if not kept.size:
        return math.nan
    return 0.5 * (kept[(kept.size - 1) // 2] + kept[kept.size // 2]) + 0.0


def slow_mad(values, centre):
    return slow_median(np.abs(values.astype(np.float64) - centre).astype(np.float32))


@settings(max_examples=50, deadline=None)
@given(pixels, st.sampled_from([1, 700]))
def test_median_and_mad_are_exact(values, repeats):
    # 700 repeats of the longer lists take the histogram path, single lists the partition path.
    data = np.tile(np.array(values, dtype=np.float32), repeats)
    expected = slow_median(data)
    np.testing.assert_equal(median(data), expected)
    centre, mad = median_mad(data)
    np.testing.assert_equal(centre, expected)
    np.testing.assert_equal(mad, slow_mad(data, expected))


@pytest.mark.parametrize("n", [16383, 16384, 16385, 30001, 30002])
@pytest.mark.parametrize("kind", ["noise", "around zero", "integers", "constant", "two levels", "gaps"])
def test_median_of_large_samples_is_exact(n, kind):
    rng = np.random.default_rng(n)
    data = {
        "noise": rng.normal(1000, 20, n),
        "around zero": rng.normal(0, 1, n),
        "integers": rng.integers(100, 110, n),
        "constant": np.full(n, 7.25),
        "two levels": np.repeat([-5.0, 60000.0], [n // 2, n - n // 2]),
        "gaps": np.where(rng.random(n) < 0.3, np.nan, rng.exponential(100, n)),
    }[kind].astype(np.float32)
    expected = slow_median(data)
    centre, mad = median_mad(data)
    assert centre == median(data) == expected
    assert mad == slow_mad(data, expected)


def test_median_of_nothing_is_nan():
    for n in (0, 1, 20000):
        empty = np.full(n, np.nan, dtype=np.float32)
        assert math.isnan(median(empty))
        assert all(math.isnan(v) for v in median_mad(empty))
        assert math.isnan(trimmed_mean(empty, 0.05))
        assert math.isnan(bwmv(empty, math.nan, math.nan))
        assert all(math.isnan(v) for v in dispersion(empty, math.nan))


@settings(max_examples=50, deadline=None)
@given(pixels, st.sampled_from([0.0, 0.05, 0.25]), st.sampled_from([1, 700]))
def test_trimmed_mean_cuts_whole_pixels_at_each_end(values, clip, repeats):
    data = np.tile(np.array(values, dtype=np.float32), repeats)
    ordered = np.sort(data[~np.isnan(data)].astype(np.float64))
    cut = max(1, int(clip * ordered.size))
    kept = ordered[cut : ordered.size - cut]
    expected = kept.mean() if kept.size else slow_median(data)
    # Sums of up to 28000 numbers below 1e6 in another order: 1e-12 relative to the largest of them.
    np.testing.assert_allclose(trimmed_mean(data, clip), expected, rtol=1e-10, atol=1e-6)


def slow_bwmv(values, centre, mad):
    values = values[~np.isnan(values)].astype(np.float64)
    y = (values - centre) / (9 * mad)
    inside = np.abs(y) < 1
    q = 1 - y[inside] ** 2
    top = values.size * np.sum((values[inside] - centre) ** 2 * q**4)
    return top / np.sum(q * (1 - 5 * y[inside] ** 2)) ** 2


def test_biweight_midvariance_equals_its_formula_and_ignores_outliers():
    rng = np.random.default_rng(5)
    data = rng.normal(1000, 20, 20000).astype(np.float32)
    data[::500] = 60000
    data[1::500] = np.nan
    centre, mad = median_mad(data)
    assert bwmv(data, centre, mad) == pytest.approx(slow_bwmv(data, centre, mad), rel=1e-10)
    # sigma of sigma for 20000 samples is 0.5 %; the biweight is 2 % inefficient and 0.2 % of outliers add as much.
    assert math.sqrt(bwmv(data, centre, mad)) == pytest.approx(20, rel=0.02)
    assert bwmv(np.full(10, 3, dtype=np.float32), 3.0, 0.0) == 0.0


def test_biweight_midvariance_agrees_with_astropy():
    astropy_stats = pytest.importorskip("astropy.stats")
    data = np.random.default_rng(6).normal(5, 2, 5000).astype(np.float32)
    centre, mad = median_mad(data)
    assert bwmv(data, centre, mad) == pytest.approx(
        astropy_stats.biweight_midvariance(data.astype(np.float64), M=centre), rel=1e-6
    )


def test_dispersion_sees_each_side_alone():
    rng = np.random.default_rng(7)
    half = np.abs(rng.normal(0, 1, 40000))
    data = np.concatenate([100 - 10 * half, 100 + 30 * half, [100.0]]).astype(np.float32)
    low, high = dispersion(data, 100.0)
    for scale, sign in ((low, -1), (high, 1)):
        side = data[sign * (data - 100) >= 0]
        mad = slow_mad(side, 100.0)
        assert scale == pytest.approx(math.sqrt(slow_bwmv(side, 100.0, mad)), rel=1e-6)
    # 40000 samples a side: 0.4 % of statistical error.
    assert low == pytest.approx(10, rel=0.02)
    assert high == pytest.approx(30, rel=0.02)
    assert dispersion(np.full(9, 4, dtype=np.float32), 4.0) == (0.0, 0.0)


@pytest.mark.parametrize("stride", [10, 12])
def test_sample_takes_every_row_and_column_alike(stride):
    rows, columns = 240, 250
    index = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)
    (picked,) = sampled(index, target=rows * columns // stride)
    assert picked.size == rows * columns // stride
    assert np.unique(picked).size == picked.size
    in_row = np.bincount(picked.astype(int) // columns, minlength=rows)
    in_column = np.bincount(picked.astype(int) % columns, minlength=columns)
    assert in_row.min() >= columns // stride and in_row.max() <= columns // stride + 1
    assert in_column.min() >= rows // stride and in_column.max() <= rows // stride


def test_sample_of_a_mosaic_keeps_the_colours_apart_and_in_proportion():
    y, x = np.mgrid[0:101, 0:99]
    colour = RGGB[y % 2, x % 2].astype(np.float32)
    planes = sampled(colour, RGGB, target=1000)
    assert len(planes) == 3
    for c, plane in enumerate(planes):
        assert (plane == c).all()
    assert planes[1].size == pytest.approx(2 * planes[0].size, rel=0.05)
    whole = sampled(colour, RGGB, target=10**6)
    assert [p.size for p in whole] == [np.count_nonzero(colour == c) for c in range(3)]
    np.testing.assert_array_equal(sampled(colour)[0], colour.ravel())


def test_sample_of_a_six_by_six_mosaic_keeps_the_colours_apart():
    cell = np.array(["RGB".index(c) for c in "GBGGRGRGRBGBGBGGRGGRGGBGBGBRGRGRGGBG"], np.uint8).reshape(6, 6)
    y, x = np.indices((101, 99)) % 6
    colour = cell[y, x].astype(np.float32)
    planes = sampled(colour, cell, target=10**6)
    assert [(p.size, set(p.tolist())) for p in planes] == [(np.count_nonzero(colour == c), {c}) for c in range(3)]


# --------------------------------------------------------------------------------------------------------------


def star_field(seed, shape, sigma, n_stars=None, gradient=0.3):
    """White noise on a gradient with Moffat stars; sigma does not change under the stars."""
    rng = np.random.default_rng(seed)
    h, w = shape
    y, x = np.mgrid[0:h, 0:w].astype(np.float64)
    image = 1000 + gradient * (x + 0.5 * y)
    for _ in range(n_stars if n_stars is not None else h * w // 3000):
        cy, cx, peak = rng.uniform(0, h), rng.uniform(0, w), rng.exponential(40 * sigma)
        a, b = max(0, int(cy) - 25), max(0, int(cx) - 25)
        window = np.s_[a : int(cy) + 26, b : int(cx) + 26]
        r2 = (y[window] - cy) ** 2 + (x[window] - cx) ** 2
        image[window] += peak * (1 + r2 / 2.5**2) ** -3
    return (image + rng.normal(0, sigma, shape)).astype(np.float32)


def slow_mrs(image, layers=4):
    smooth = image.astype(np.float64)
    kernel = np.array([1, 4, 6, 4, 1]) / 16
    details = []
    for j in range(layers):
        taps = np.zeros(4 * 2**j + 1)
        taps[:: 2**j] = kernel
        following = ndimage.convolve1d(ndimage.convolve1d(smooth, taps, 0, mode="mirror"), taps, 1, mode="mirror")
        details.append(smooth - following)
        smooth = following
    signal = image - smooth
    unit = [0.8907, 0.2007, 0.0856, 0.0413]
    sigma = 1.4826 * np.median(np.abs(details[0])) / unit[0]
    for _ in range(20):
        support = np.all([np.abs(d) <= 3 * sigma * k for d, k in zip(details, unit, strict=False)], axis=0)
        sigma = signal[support].std()
    return sigma / 0.9782, support.mean()


def test_noise_equals_the_slow_multiresolution_support():
    image = star_field(8, (200, 230), 15.0)
    sigma, fraction, method = noise_mrs(image)
    expected, share = slow_mrs(image)
    # Both iterate to 1e-4 from different starts.
    assert sigma == pytest.approx(expected, rel=1e-3)
    assert fraction == pytest.approx(share, rel=1e-2)
    assert method == "mrs"


@pytest.mark.parametrize("sigma", [3.0, 50.0])
def test_noise_of_a_star_field_is_within_two_percent(sigma):
    for seed in range(3):
        # 90000 pixels: 0.25 % of statistical error; the rest is unresolved star light.
        assert noise_mrs(star_field(seed, (300, 300), sigma))[0] == pytest.approx(sigma, rel=0.02)


def test_noise_of_a_large_image_comes_from_patches_and_agrees():
    image = star_field(9, (2400, 2000), 20.0, n_stars=1500, gradient=0.02)
    # One million of 4.8 million pixels are used: the expected error is 0.08 %, stars add the rest.
    assert noise_mrs(image)[0] == pytest.approx(20.0, rel=0.01)
    corners, (h, w) = statistics._patch_corners((4176, 6248))
    assert (h, w) == (256, 256)
    assert 12 <= len(corners) <= 16
    assert min(corners) == (0, 0) and max(corners) == (4176 - 256, 6248 - 256)


def test_noise_skips_missing_pixels_and_uncovered_borders():
    image = star_field(10, (300, 300), 20.0)
    image[:60] = np.nan
    image[:, 280:] = np.nan
    image[np.random.default_rng(0).random(image.shape) < 0.01] = np.nan
    assert noise_mrs(image)[0] == pytest.approx(20.0, rel=0.02)


def test_noise_of_nothing_and_of_a_constant():
    sigma, fraction, method = noise_mrs(np.full((40, 40), np.nan, dtype=np.float32))
    assert math.isnan(sigma) and fraction == 0.0 and method == "none"
    assert noise_mrs(np.full((40, 40), 500, dtype=np.float32))[0] == 0.0
    assert noise_mrs(np.array([[3.0]], dtype=np.float32))[0] == 0.0


# --------------------------------------------------------------------------------------------------------------


def test_background_follows_the_sky_under_stars():
    image = star_field(11, (512, 448), 20.0, gradient=0.4)
    level, rms = background_mesh(image, 64)
    assert level.shape == rms.shape == (8, 7)
    y, x = np.mgrid[0:512, 0:448]
    error = expand_mesh(level, image.shape, 64) - (1000 + 0.4 * (x + 0.5 * y))
    # A cell of 2048 samples knows its level to 0.03 sigma; faint star light raises it further.
    assert abs(error.mean()) < 0.1 * 20
    assert error.std() < 0.1 * 20
    # Within a cell the gradient of 0.45 DN/px adds 8 DN to 20 DN of noise: 21.6 DN.
    assert rms.mean() == pytest.approx(21.6, rel=0.05)


def test_background_agrees_with_sep():
    sep = pytest.importorskip("sep")
    # Without a gradient: at the edges SEP pulls it inwards.
    image = star_field(12, (512, 512), 20.0, gradient=0.0)
    oracle = sep.Background(image, bw=64, bh=64, fw=3, fh=3)
    level, rms = background_mesh(image, 64)
    difference = expand_mesh(level, image.shape, 64) - oracle.back()
    assert abs(difference.mean()) < 0.05 * 20
    assert np.abs(difference).max() < 0.3 * 20
    # The clipped deviation there is 1.5 % low by construction.
    assert float(rms.mean()) == pytest.approx(oracle.globalrms, rel=0.04)


def test_background_level_and_rms_are_unbiased_on_white_noise():
    image = np.random.default_rng(13).normal(-5, 30, (512, 512)).astype(np.float32)
    level, rms = background_mesh(image, 32)
    # 256 cells of 512 samples, median filtered: 30 x 1.3 x 2.5 / sqrt(131072) = 0.27 DN for the mean level.
    assert level.mean() == pytest.approx(-5, abs=0.8)
    assert rms.mean() == pytest.approx(30, rel=0.01)


def test_background_of_a_crowded_field_is_the_mode():
    rng = np.random.default_rng(17)
    image = rng.normal(500, 20, (512, 512))
    faint = rng.random(image.shape) < 0.15
    image[faint] += rng.exponential(40, np.count_nonzero(faint))
    level, _ = background_mesh(image.astype(np.float32), 64)
    # The plain mean is 6 DN high, that of the pixels within 3 sigma 3.4 DN; the statistical error is 0.1 DN.
    assert level.mean() == pytest.approx(500, abs=1.5)


def test_background_of_integers_is_not_caught_by_their_steps():
    rng = np.random.default_rng(14)
    image = np.round(rng.normal(700.4, 1.0, (256, 256))).astype(np.float32)
    level, rms = background_mesh(image, 64)
    assert level.mean() == pytest.approx(700.4, abs=0.2)
    # Rounding adds 1/12 to the variance.
    assert rms.mean() == pytest.approx(math.sqrt(1 + 1 / 12), rel=0.05)


def test_cells_without_pixels_take_the_level_of_their_neighbours():
    image = np.random.default_rng(15).normal(100, 5, (320, 320)).astype(np.float32)
    image[:130] = np.nan
    image[200, 200] = np.nan
    level, rms = background_mesh(image, 64)
    assert np.abs(level - 100).max() < 1
    assert np.abs(rms - 5).max() < 0.5
    level, rms = background_mesh(np.full((64, 64), np.nan, dtype=np.float32), 16)
    assert np.isnan(level).all() and np.isnan(rms).all()


def test_constant_image_has_its_level_and_no_noise():
    level, rms = background_mesh(np.full((100, 70), 12.5, dtype=np.float32), 16)
    assert (level == 12.5).all() and (rms == 0).all()


@pytest.mark.parametrize("shape", [(1, 1), (5, 300), (64, 64), (95, 97), (200, 161)])
def test_mesh_of_a_plane_expands_to_the_plane(shape):
    edges_y, edges_x = statistics._edges(shape[0], 32), statistics._edges(shape[1], 32)
    cy = 0.5 * (edges_y[:-1] + edges_y[1:]) - 0.5
    cx = 0.5 * (edges_x[:-1] + edges_x[1:]) - 0.5
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float64)
    plane = 50 + 2 * (y if cy.size > 1 else 0 * y) - 3 * (x if cx.size > 1 else 0 * x)
    grid = 50 + 2 * (cy if cy.size > 1 else 0 * cy)[:, None] - 3 * (cx if cx.size > 1 else 0 * cx)[None]
    # float32 of numbers below 1000
    np.testing.assert_allclose(expand_mesh(grid.astype(np.float32), shape, 32), plane, atol=1e-3)


def test_expanded_mesh_passes_through_the_cell_centres_and_is_smooth():
    grid = np.random.default_rng(16).normal(100, 10, (5, 6)).astype(np.float32)
    box = 33
    full = expand_mesh(grid, (5 * box, 6 * box), box)
    np.testing.assert_allclose(full[16::box, 16::box], grid, atol=1e-3)
    # One cell is 33 px: no pixel step may exceed the steepest cell to cell change by more than a cubic's factor 3.
    steepest = np.abs(np.diff(grid, axis=0)).max() * 3 / box
    assert np.abs(np.diff(full, axis=0)).max() < steepest


def test_mesh_of_another_image_is_refused():
    with pytest.raises(ValueError, match=r"expected \(4, 4\)"):
        expand_mesh(np.zeros((3, 4), dtype=np.float32), (256, 256), 64)
    with pytest.raises(ValueError, match="box is 2 px"):
        background_mesh(np.zeros((8, 8), dtype=np.float32), 2)


def test_the_median_of_what_is_known_is_nan_only_where_nothing_is():
    values = np.array([[1, np.nan, np.nan], [4, 7, np.nan], [np.nan, 9, np.nan], [8, 2, np.nan]], np.float32)
    found = statistics.median_of_known(values)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [4, 7, np.nan])
