import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from wbpy.kernels import warp

KERNELS = {
    "lanczos3": (warp.lanczos3, 3),
    "lanczos4": (warp.lanczos4, 4),
    "bicubic": (warp.bicubic, 2),
    "bilinear": (warp.bilinear, 1),
    "nearest": (warp.nearest, 1),
}
IDENTITY = np.eye(3)


def turn(degrees, shift=(0.0, 0.0), perspective=(0.0, 0.0), scale=1.0, centre=(32.0, 32.0)):
    c, s = scale * np.cos(np.deg2rad(degrees)), scale * np.sin(np.deg2rad(degrees))
    cx, cy = centre
    return np.array(
        [
            [c, -s, cx - c * cx + s * cy + shift[0]],
            [s, c, cy - s * cx - c * cy + shift[1]],
            [perspective[0], perspective[1], 1.0],
        ]
    )


def resample(image, matrix, kernel=warp.lanczos3, shape=None, **options):
    planes = image if image.ndim == 3 else image[None]
    out = np.zeros((planes.shape[0], *(shape or planes.shape[1:])), np.float32)
    kernel(planes, 0, 0, matrix, out, 0, 0, **options)
    return out if image.ndim == 3 else out[0]


def gaussian(shape, x, y, sigma):
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    return np.exp(-((xx - x) ** 2 + (yy - y) ** 2) / (2.0 * sigma**2))


LOWEST_OF = {4: 1.02938, 6: 1.26721, 8: 1.42360, 16: 1.76599, 36: 2.11812, 64: 2.34373}


def catmull_rom(d):
    d = np.abs(d)
    return np.where(d < 1, 1.5 * d**3 - 2.5 * d**2 + 1, np.where(d < 2, -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2, 0))


PROFILES = {
    "lanczos3": (6, lambda d: np.sinc(d) * np.sinc(d / 3)),
    "lanczos4": (8, lambda d: np.sinc(d) * np.sinc(d / 4)),
    "bicubic": (4, catmull_rom),
}


def twin(name, image, matrix, clamp, saturation=np.inf):
    """The formula of the docstring in float64, one pixel after the other."""
    h, w = image.shape
    taps, profile = PROFILES[name]
    before = taps // 2 - 1
    out = np.full((h, w), np.nan)
    for y in range(h):
        for x in range(w):
            sx, sy, d = matrix @ [x, y, 1.0]
            px, py = np.floor(np.array([sx / d, sy / d]) * 4096 + 0.5).astype(int)
            ix, iy, fx, fy = px // 4096, py // 4096, (px % 4096) / 4096, (py % 4096) / 4096
            if fx == 0 and fy == 0:
                if 0 <= ix < w and 0 <= iy < h:
                    out[y, x] = image[iy, ix]
                continue
            if ix < before or iy < before or ix > w - taps + before or iy > h - taps + before:
                continue
            k = np.arange(-before, taps - before)
            wx, wy = (profile(f - k) for f in (fx, fy))
            weight = np.outer(wy / wy.sum(), wx / wx.sum())
            v = image[iy - before : iy - before + taps, ix - before : ix - before + taps].astype(float)
            sample, column = (v * weight).sum(), v.min(axis=0)
            if v.max() >= saturation:
                inner = v[before : before + 2, before : before + 2]
                out[y, x] = np.clip(sample, inner.min(), inner.max())
                continue
            mean = min(column.mean(), v.min(axis=1).mean())
            sigma = (mean - column.min()) / (LOWEST_OF[taps * taps] - LOWEST_OF[taps])
            depth = column.min() - clamp * sigma - sample
            if depth > 0:
                share = min(depth / sigma, 1.0) if sigma > 0 else 1.0
                sample += share * (mean + LOWEST_OF[taps] * sigma - sample)
            out[y, x] = sample
    return out


MATRICES = [
    turn(0, (0.37, -1.21)),
    turn(33.0),
    turn(180.4, (0.3, 0.2)),
    turn(1.5, (0.0, 0.25)),
    turn(2.0, (1, 0), (1e-4, -2e-4)),
]


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize(("clamp", "saturation"), [(0.0, np.inf), (0.3, np.inf), (3.0, np.inf), (0.3, 25000.0)])
@pytest.mark.parametrize("matrix", MATRICES)
def test_kernels_with_negative_lobes_equal_their_slow_twin(name, matrix, clamp, saturation):
    rng = np.random.default_rng(1)
    image = rng.normal(0.0, 20.0, (40, 44)).astype(np.float32)
    image[20, 22] = 30000.0
    image[9, 9] = np.nan
    image[25:29, 10:14] = 40000.0
    image += (2000.0 * gaussian(image.shape, 30.3, 12.6, 0.7)).astype(np.float32)
    got = resample(image, matrix, KERNELS[name][0], clamp=clamp, saturation=saturation)
    want = twin(name, image, matrix, clamp, saturation)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    # float32 sums of 64 terms of up to 40000: 64 * 40000 * 2^-24 = 0.15.
    np.testing.assert_allclose(got, want, atol=0.2, rtol=0)


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("degrees", [0.0, 0.4, 2.0, 179.5])
def test_samples_computed_together_have_the_bits_of_single_ones(name, degrees):
    image = np.random.default_rng(12).normal(10.0, 300.0, (2, 80, 150)).astype(np.float32)
    image[:, 40, 60] = np.nan
    image[0, 20:24, 30] = 60000.0
    matrix = turn(degrees, (0.31, -0.47), centre=(75.0, 40.0))
    taps, table = warp._TABLES[name]
    near = warp._near_saturated(image, np.float32(50000.0), taps)
    results = []
    for kernel in (warp._lines, warp._points):
        out = np.empty_like(image)
        kernel(image, 0, 0, matrix, warp.distortion.NONE, 0, out, 0, 0, np.float32(0.3), table, near, (0,) * taps)
        results.append(out.view(np.uint32))
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("name", KERNELS)
def test_identity_is_an_exact_copy_up_to_the_border(name):
    image = np.random.default_rng(2).normal(500.0, 300.0, (3, 17, 23)).astype(np.float32)
    image[1, 4, 5] = np.nan
    np.testing.assert_array_equal(resample(image, IDENTITY, KERNELS[name][0]), image)


@pytest.mark.parametrize("name", KERNELS)
def test_integer_shift_is_exact_and_uncovered_pixels_are_nan(name):
    image = np.random.default_rng(3).normal(0.0, 300.0, (20, 24)).astype(np.float32)
    matrix = np.array([[1.0, 0.0, 3.0], [0.0, 1.0, -2.0], [0.0, 0.0, 1.0]])
    want = np.full_like(image, np.nan)
    want[2:, :-3] = image[:-2, 3:]
    np.testing.assert_array_equal(resample(image, matrix, KERNELS[name][0]), want)


@pytest.mark.parametrize("matrix", [np.diag([-1.0, -1.0, 1.0]), np.diag([1.0, -1.0, 1.0])])
def test_meridian_flip_and_mirror_are_exact(matrix):
    image = np.random.default_rng(4).normal(0.0, 300.0, (20, 24)).astype(np.float32)
    flip = matrix.copy()
    flip[:2, 2] = [23.0 if matrix[0, 0] < 0 else 0.0, 19.0]
    want = image[::-1, ::-1] if matrix[0, 0] < 0 else image[::-1]
    np.testing.assert_array_equal(resample(image, flip), want)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(
    "matrix", [turn(11.3, (2.4, -7.9)), turn(-170.0, (1.0, 3.0), (2e-4, -1e-4), 1.4), turn(0, (0.5, 0.5))]
)
def test_every_tiling_gives_the_same_bits(name, matrix):
    kernel, halo = KERNELS[name]
    rng = np.random.default_rng(5)
    image = rng.normal(10.0, 300.0, (2, 70, 61)).astype(np.float32)
    image[:, 30, 30] = 60000.0
    image[0, 50, 12] = np.nan
    whole = np.empty((2, 66, 75), np.float32)
    kernel(image, 0, 0, matrix, whole, 0, 0, 0.3)
    assert np.isfinite(whole).any()
    for tw, th in ((75, 1), (7, 66), (13, 9)):
        tiled = np.empty_like(whole)
        for y0 in range(0, 66, th):
            for x0 in range(0, 75, tw):
                part = np.empty((2, min(th, 66 - y0), min(tw, 75 - x0)), np.float32)
                x1, y1, x2, y2 = warp.source_window(matrix, x0, y0, part.shape[2], part.shape[1], 61, 70, halo)
                kernel(image[:, y1:y2, x1:x2], x1, y1, matrix, part, x0, y0, 0.3)
                tiled[:, y0 : y0 + th, x0 : x0 + tw] = part
        np.testing.assert_array_equal(tiled.view(np.uint32), whole.view(np.uint32))


@settings(max_examples=40, deadline=None)
@given(
    st.floats(-180, 180),
    st.floats(0.4, 2.5),
    st.tuples(st.floats(-80, 80), st.floats(-80, 80)),
    st.tuples(st.floats(-5e-4, 5e-4), st.floats(-5e-4, 5e-4)),
    st.tuples(st.integers(-20, 60), st.integers(-20, 60)),
)
def test_source_window_holds_all_that_a_tile_needs(angle, scale, shift, perspective, origin):
    matrix = turn(angle, shift, perspective, scale)
    image = np.arange(50 * 60, dtype=np.float32).reshape(1, 50, 60)
    full, cut = np.empty((1, 8, 9), np.float32), np.empty((1, 8, 9), np.float32)
    x0, y0 = origin
    sx0, sy0, sx1, sy1 = warp.source_window(matrix, x0, y0, 9, 8, 60, 50, 3)
    assert 0 <= sx0 <= sx1 <= 60 and 0 <= sy0 <= sy1 <= 50
    warp.lanczos3(image, 0, 0, matrix, full, x0, y0)
    warp.lanczos3(image[:, sy0:sy1, sx0:sx1], sx0, sy0, matrix, cut, x0, y0)
    np.testing.assert_array_equal(cut, full)


def test_source_window_is_empty_away_from_the_frame_and_tight_inside():
    far = warp.source_window(turn(0, (1000.0, 0.0)), 0, 0, 16, 16, 64, 64, 3)
    assert far[0] == far[2]
    near = warp.source_window(turn(0, (0.5, 0.5)), 20, 24, 10, 8, 64, 64, 3)
    assert near[2] - near[0] <= 10 + 7 and near[3] - near[1] <= 8 + 7


def test_a_tile_across_the_horizon_asks_for_the_whole_frame_and_stays_nan_beyond():
    matrix = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [-0.05, 0.0, 1.0]])
    assert warp.source_window(matrix, 0, 0, 40, 10, 30, 30, 3) == (0, 0, 30, 30)
    assert warp.source_window(matrix, 25, 0, 10, 10, 30, 30, 3) == (0, 0, 0, 0)
    out = resample(np.ones((30, 30), np.float32), matrix, shape=(10, 40))
    assert np.isnan(out[:, 20:]).all() and np.isfinite(out[5, 5])


@pytest.mark.parametrize("name", KERNELS)
def test_not_finite_matrix_gives_nan(name):
    out = resample(np.ones((8, 8), np.float32), np.full((3, 3), np.nan), KERNELS[name][0])
    assert np.isnan(out).all()


def test_a_missing_pixel_blanks_its_footprint_only():
    image = np.full((30, 30), 100.0, np.float32)
    image[14, 16] = np.nan
    missing = np.isnan(resample(image, turn(0, (0.5, 0.5))))
    want = np.zeros((30, 30), bool)
    want[11:17, 13:19] = True
    want[:2] = want[-3:] = want[:, :2] = want[:, -3:] = True
    np.testing.assert_array_equal(missing, want)


def test_constant_image_stays_constant():
    out = resample(np.full((40, 40), 1234.5, np.float32), turn(20.0))
    # Six float32 weights that sum to 1 within 6 * 2^-25 in each direction.
    np.testing.assert_allclose(out[np.isfinite(out)], 1234.5, rtol=1e-6)


def test_lanczos3_of_a_well_sampled_star_matches_the_analytic_profile():
    matrix = turn(17.0, (0.37, -0.21))
    x, y = np.linalg.solve(matrix, [31.3, 33.8, 1.0])[:2]
    truth = gaussian((64, 64), x, y, 1.5)
    image = (60000 * gaussian((64, 64), 31.3, 33.8, 1.5)).astype(np.float32)
    error = {name: resample(image, matrix, KERNELS[name][0]) / 60000 - truth for name in KERNELS}
    # The response of the kernel departs from 1 by up to 1 % below 0.3 cycles/px.
    assert np.nanmax(np.abs(error["lanczos3"])) < 0.01
    rms = {name: np.sqrt(np.nanmean(error[name] ** 2)) for name in KERNELS}
    assert rms["lanczos3"] < 0.2 * rms["bilinear"] < 0.2 * rms["nearest"]


@pytest.mark.parametrize(("fwhm", "tolerance"), [(1.8, 0.02), (2.0, 0.01), (2.5, 1e-3), (3.5, 1e-4)])
def test_the_flux_of_stars_is_kept_linearly_always_and_clamped_if_well_sampled(fwhm, tolerance):
    rng = np.random.default_rng(6)
    matrix = turn(31.0, (0.3, 0.7))
    for _ in range(10):
        x, y = rng.uniform(28, 36, 2)
        image = (20000 * gaussian((64, 64), x, y, fwhm / 2.3548)).astype(np.float32)
        flux = image.sum(dtype=np.float64)
        assert np.nansum(resample(image, matrix), dtype=np.float64) == pytest.approx(flux, rel=tolerance)
        linear = resample(image, matrix, clamp=np.inf)
        # The weights at one source pixel, summed over the rotated output grid, are 1 within 0.2 %.
        assert np.nansum(linear, dtype=np.float64) == pytest.approx(flux, rel=2e-3)


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("level", [0.0, 1000.0])
@pytest.mark.parametrize("matrix", [turn(7.0, (0.1, 0.2)), turn(0, (0.5, 0.5)), turn(0, (0.37, 0.0))])
def test_the_clamp_does_not_bias_noise(name, level, matrix):
    sigma, kernel = 30.0, KERNELS[name][0]
    image = np.random.default_rng(7).normal(level, sigma, (500, 500)).astype(np.float32)
    linear, clamped = resample(image, matrix, kernel, clamp=np.inf), resample(image, matrix, kernel)
    inner = np.isfinite(linear)
    shift = np.mean(clamped[inner].astype(float) - linear[inner])
    assert abs(shift) < 0.005 * sigma
    assert clamped[inner].std(dtype=float) == pytest.approx(linear[inner].std(dtype=float), rel=0.005)
    # Unbiased in absolute terms: the mean of 240000 samples is known to sigma / 490 = 0.2 % of sigma.
    assert abs(clamped[inner].mean(dtype=float) - level) < 0.008 * sigma


def test_a_sharp_star_leaves_no_ring_below_the_noise():
    rng = np.random.default_rng(8)
    sigma, level = 5.0, 100.0
    worst_linear, worst, mean_ring = 0.0, 0.0, []
    for _ in range(20):
        x, y = rng.uniform(30, 34, 2)
        star = 20000.0 * gaussian((64, 64), x, y, 0.5)
        image = (level + star + rng.normal(0.0, sigma, star.shape)).astype(np.float32)
        matrix = turn(rng.uniform(0, 90), rng.uniform(0, 1, 2))
        linear, clamped = resample(image, matrix, clamp=np.inf), resample(image, matrix)
        worst_linear = min(worst_linear, np.nanmin(linear) - level)
        worst = min(worst, np.nanmin(clamped) - level)
        sx, sy = np.linalg.solve(matrix, [x, y, 1.0])[:2]
        yy, xx = np.mgrid[:64, :64]
        ring = np.abs(np.hypot(xx - sx, yy - sy) - 3.0) < 1.5
        mean_ring.append(np.nanmean(clamped[ring]) - level)
    assert worst_linear < -500.0
    # The lowest of 20 x 4096 normal deviates is expected at 4.4 sigma.
    assert worst > -5.5 * sigma
    assert np.mean(mean_ring) > -sigma


def test_the_clamp_commutes_with_an_offset_so_negative_backgrounds_are_not_special():
    rng = np.random.default_rng(9)
    image = rng.normal(0.0, 10.0, (48, 48)).astype(np.float32)
    image[24, 24] += 20000.0
    low, high = resample(image - 500.0, turn(13.0)), resample(image + 3000.0, turn(13.0))
    np.testing.assert_allclose(high - low, np.where(np.isnan(low), np.nan, 3500.0), atol=0.05)


@pytest.mark.parametrize(("name", "order"), [("bilinear", 1), ("nearest", 0)])
def test_bilinear_and_nearest_equal_scipy(name, order):
    image = np.random.default_rng(10).normal(100.0, 10.0, (50, 50)).astype(np.float32)
    matrix = turn(23.0, (0.2, 0.4), (1e-4, 1e-4))
    got = resample(image, matrix, KERNELS[name][0])
    yy, xx = np.mgrid[:50, :50].astype(float)
    sx, sy, d = np.tensordot(matrix, np.stack([xx, yy, np.ones_like(xx)]), 1)
    where = np.floor(np.stack([sy / d, sx / d]) * 4096 + 0.5) / 4096
    want = ndimage.map_coordinates(image.astype(float), where, order=order, mode="constant", cval=np.nan)
    inner = ((where > 0.6) & (where < 48.4)).all(axis=0)
    np.testing.assert_allclose(got[inner], want[inner], rtol=1e-5)
    outside = ((where < -0.6) | (where > 49.6)).any(axis=0)
    assert outside.any() and np.isnan(got[outside]).all()


def test_sizes_smaller_than_the_kernel_give_nan_and_an_empty_window_too():
    half = turn(0, (0.5, 0.5))
    assert np.isnan(resample(np.ones((5, 5), np.float32), half)).all()
    assert np.isnan(resample(np.ones((1, 0, 7), np.float32), half, shape=(4, 4))).all()


def test_wrong_arguments_are_refused():
    image = np.ones((2, 8, 8), np.float32)
    with pytest.raises(ValueError, match="number of planes"):
        warp.lanczos3(image, 0, 0, IDENTITY, np.empty((1, 8, 8), np.float32), 0, 0)
    with pytest.raises(ValueError, match="C-contiguous float32"):
        warp.bilinear(image, 0, 0, IDENTITY, np.empty((2, 8, 8)), 0, 0)
    with pytest.raises(ValueError, match="clamp"):
        warp.lanczos3(image, 0, 0, IDENTITY, np.empty((2, 8, 8), np.float32), 0, 0, -0.1)


def bloomed(level=500.0, noise=3.0, wings=400.0):
    """A saturated star with a bleeding column in its own halo; returned with its smooth part."""
    rng = np.random.default_rng(14)
    halo = level + wings * gaussian((64, 64), 32, 32, 7.0)
    image = halo + 80000.0 * gaussian((64, 64), 32.2, 31.7, 1.6)
    image[32:60, 31:33] = 60000.0
    return (np.minimum(image, 60000.0) + rng.normal(0, noise, image.shape)).astype(np.float32), halo


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("matrix", [turn(0.2, (0.5, 0.5)), turn(40.0, (0.2, 0.3))])
def test_saturated_stars_have_no_rings_even_in_their_halo(name, matrix):
    image, halo = bloomed()
    kernel = KERNELS[name][0]
    smooth, ringing = resample(halo.astype(np.float32), matrix, kernel), resample(image, matrix, kernel, clamp=np.inf)
    held = resample(image, matrix, kernel, saturation=55000.0)
    assert np.nanmin(ringing - smooth) < -1000.0
    # The halo lies below all; 4.5 sigma of 4096 samples of noise of 3 DN, plus its slope of 34 DN/px over a pixel.
    assert np.nanmin(held - smooth) > -(4.5 * 3.0 + 34.0)
    assert np.nanmax(held) <= image.max()


def test_stars_below_saturation_are_left_as_they_are():
    image = (20000 * gaussian((64, 64), 31.3, 33.8, 1.0) + 100.0).astype(np.float32)
    matrix = turn(17.0, (0.37, -0.21))
    np.testing.assert_array_equal(resample(image, matrix, saturation=20500.0), resample(image, matrix))


def test_rings_of_bleeding_columns_are_damped_without_knowing_the_saturation():
    image, halo = bloomed(wings=0.0)
    smooth = resample(halo.astype(np.float32), turn(0.2, (0.5, 0.5)))
    clamped = resample(image, turn(0.2, (0.5, 0.5)))
    assert np.nanmin(clamped - smooth) > -5 * 3.0


@pytest.mark.parametrize("name", PROFILES)
def test_noise_after_a_shift_varies_as_the_kernel_says(name):
    image = np.random.default_rng(15).normal(0.0, 1.0, (400, 400)).astype(np.float32)
    taps, profile = PROFILES[name]
    for shift in (0.25, 0.5):
        weight = profile(shift - np.arange(1 - taps // 2, taps // 2 + 1))
        expected = (weight**2).sum() / weight.sum() ** 2
        got = np.nanstd(resample(image, turn(0, (shift, shift)), KERNELS[name][0], clamp=np.inf), dtype=float)
        # The variance of a weighted sum, per axis; 150000 samples, correlated over some pixels.
        assert got == pytest.approx(expected, rel=0.01)


def test_area_averages_what_an_output_pixel_covers():
    rng = np.random.default_rng(16)
    fine = rng.normal(100.0, 10.0, (60, 90)).astype(np.float32)
    # Output pixel (x, y) covers source pixels 3x to 3x + 2.
    matrix = np.array([[3.0, 0.0, 1.0], [0.0, 3.0, 1.0], [0.0, 0.0, 1.0]])
    got = resample(fine, matrix, warp.area, shape=(20, 30))
    want = fine.reshape(20, 3, 30, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(got, want, rtol=1e-5)
    fine[31, 31] = np.nan
    missing = np.isnan(resample(fine, matrix, warp.area, shape=(20, 30)))
    assert missing[10, 10] and missing.sum() == 1


def test_area_keeps_the_flux_of_stars_and_has_less_noise_than_lanczos():
    rng = np.random.default_rng(17)
    fine = rng.normal(0.0, 10.0, (240, 240)).astype(np.float32)
    fine += (30000 * gaussian(fine.shape, 120.3, 118.7, 0.9)).astype(np.float32)
    matrix = turn(20.0, scale=2.0, centre=(120.0, 120.0)) @ np.array([[1.0, 0, 60], [0, 1, 60], [0, 0, 1]])
    flux = 30000 * 2 * np.pi * 0.9**2
    area, lanczos = (resample(fine, matrix, k, shape=(120, 120)) for k in (warp.area, warp.lanczos3))
    box = np.s_[50:70, 50:70]
    # Four source pixels an output pixel; the noise of 400 pixels of 5 DN is 100 DN, four of it.
    assert 4 * area[box].sum(dtype=float) == pytest.approx(flux, abs=4 * 100 * 4)
    corner = np.s_[5:35, 80:110]
    assert np.nanstd(area[corner]) < 0.6 * np.nanstd(lanczos[corner])


@pytest.mark.parametrize(("origin", "size"), [((3, 5), (9, 7)), ((0, 0), (30, 20))])
def test_area_does_not_depend_on_the_tiling(origin, size):
    image = np.random.default_rng(18).normal(0.0, 10.0, (1, 80, 90)).astype(np.float32)
    matrix = turn(10.0, (2.0, 1.0), scale=2.4, centre=(20.0, 16.0))
    whole = np.empty((1, 32, 36), np.float32)
    warp.area(image, 0, 0, matrix, whole, 0, 0)
    part = np.empty((1, size[1], size[0]), np.float32)
    margin = warp.halo("area", matrix)
    x0, y0, x1, y1 = warp.source_window(matrix, *origin, *size, 90, 80, margin)
    warp.area(image[:, y0:y1, x0:x1], x0, y0, matrix, part, *origin)
    np.testing.assert_array_equal(part, whole[:, origin[1] : origin[1] + size[1], origin[0] : origin[0] + size[0]])
    assert np.isfinite(part).any()


@pytest.mark.parametrize(
    ("matrix", "displaced", "fwhm", "name"),
    [
        (turn(0, (5.0, -3.0)), False, 3.0, "nearest"),
        (turn(180.0, (1.0, 0.0), centre=(31.5, 31.5)), False, 3.0, "nearest"),
        (turn(0, (5.0, -3.0)), True, 3.0, "lanczos3"),
        (turn(0, (5.01, -3.0)), False, 3.0, "lanczos3"),
        (turn(0.01, (5.0, -3.0)), False, 3.0, "lanczos3"),
        (turn(3.0, (0.2, 0.3)), False, np.nan, "lanczos3"),
        (turn(3.0, (0.2, 0.3)), False, 1.4, "bicubic"),
        (turn(3.0, (0.2, 0.3)), False, 1.6, "lanczos3"),
        (turn(3.0, (0.2, 0.3), scale=1.4), False, 3.0, "lanczos3"),
        (turn(3.0, (0.2, 0.3), scale=2.0), False, 1.4, "area"),
        (turn(3.0, (0.2, 0.3), scale=0.5), False, 3.0, "lanczos3"),
    ],
)
def test_the_kernel_is_chosen_by_the_transform_and_the_stars(matrix, displaced, fwhm, name):
    assert warp.choose(matrix, 64, 64, displaced, fwhm) == name
