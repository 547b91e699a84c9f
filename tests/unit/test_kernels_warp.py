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


def twin_lanczos3(image, matrix, clamp):
    """The formula of the docstring in float64, one pixel after the other."""
    h, w = image.shape
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
            if ix < 2 or iy < 2 or ix > w - 4 or iy > h - 4:
                continue
            k = np.arange(-2, 4)
            wx, wy = (np.sinc(f - k) * np.sinc((f - k) / 3) for f in (fx, fy))
            weight = np.outer(wy / wy.sum(), wx / wx.sum())
            v = image[iy - 2 : iy + 4, ix - 2 : ix + 4].astype(float)
            sample, column = (v * weight).sum(), v.min(axis=0)
            mean = min(column.mean(), v.min(axis=1).mean())
            sigma = (mean - column.min()) / (2.11812 - 1.26721)
            depth = column.min() - clamp * sigma - sample
            if depth > 0:
                share = min(depth / sigma, 1.0) if sigma > 0 else 1.0
                sample += share * (mean + 1.26721 * sigma - sample)
            out[y, x] = sample
    return out


@pytest.mark.parametrize("clamp", [0.0, 0.3, 3.0])
@pytest.mark.parametrize("matrix", [turn(0, (0.37, -1.21)), turn(33.0), turn(2.0, (1, 0), (1e-4, -2e-4))])
def test_lanczos3_equals_its_slow_twin(matrix, clamp):
    rng = np.random.default_rng(1)
    image = rng.normal(0.0, 20.0, (40, 44)).astype(np.float32)
    image[20, 22] = 30000.0
    image[9, 9] = np.nan
    image += (2000.0 * gaussian(image.shape, 30.3, 12.6, 0.7)).astype(np.float32)
    got, want = resample(image, matrix, clamp=clamp), twin_lanczos3(image, matrix, clamp)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    # float32 sums of 36 terms of up to 30000: 36 * 30000 * 2^-24 = 0.06.
    np.testing.assert_allclose(got, want, atol=0.1, rtol=0)


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


@pytest.mark.parametrize("level", [0.0, 1000.0])
@pytest.mark.parametrize("matrix", [turn(7.0, (0.1, 0.2)), turn(0, (0.5, 0.5)), turn(0, (0.37, 0.0))])
def test_the_clamp_does_not_bias_noise(level, matrix):
    sigma = 30.0
    image = np.random.default_rng(7).normal(level, sigma, (500, 500)).astype(np.float32)
    linear, clamped = resample(image, matrix, clamp=np.inf), resample(image, matrix)
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
