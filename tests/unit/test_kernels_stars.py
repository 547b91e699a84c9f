import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import least_squares
from scipy.spatial import cKDTree

from wbpy.kernels import stars, statistics

SKY, READ_NOISE = 1000.0, 8.0
NOISE = math.sqrt(SKY + READ_NOISE**2)  # 1 e-/DN


def profile(shape, x, y, flux, fwhm, axis_ratio=1.0, theta=0.0, beta=4.0, sub=1):
    """A Moffat star of the given total flux; `fwhm` is the geometric mean of the axes; sub x sub points a pixel."""
    if sub > 1:
        offsets = (np.arange(sub) + 0.5) / sub - 0.5
        parts = [profile(shape, x - i, y - j, flux, fwhm, axis_ratio, theta, beta) for j in offsets for i in offsets]
        return np.mean(parts, axis=0)
    major, minor = fwhm / math.sqrt(axis_ratio), fwhm * math.sqrt(axis_ratio)
    level = 4.0 * (2.0 ** (1.0 / beta) - 1.0)
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    u = (xx - x) * math.cos(theta) + (yy - y) * math.sin(theta)
    v = (yy - y) * math.cos(theta) - (xx - x) * math.sin(theta)
    amplitude = flux * (beta - 1.0) * level / (major * minor) / math.pi
    return amplitude * (1.0 + level * ((u / major) ** 2 + (v / minor) ** 2)) ** -beta


def seen_widths(fwhm, axis_ratio=1.0, theta=0.0, beta=4.0, sub=9):
    """Full widths at half maximum along both axes of a star whose light is averaged over pixels."""
    widths = []
    for angle in (theta, theta + math.pi / 2):
        c, s = math.cos(angle), math.sin(angle)
        low, high = 0.0, 2.0 * fwhm
        top = profile((1, 1), 0.0, 0.0, 1.0, fwhm, axis_ratio, theta, beta, sub)[0, 0]
        for _ in range(30):
            r = 0.5 * (low + high)
            above = profile((1, 1), -r * c, -r * s, 1.0, fwhm, axis_ratio, theta, beta, sub)[0, 0] > 0.5 * top
            low, high = (r, high) if above else (low, r)
        widths.append(2.0 * low)
    return widths


def exposed(signal, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.poisson(signal + SKY) + rng.normal(0.0, READ_NOISE, signal.shape)).astype(np.float32)


def star_grid(size, step, flux, fwhm, seed=0, **shape):
    rng = np.random.default_rng(seed)
    g = np.arange(step, size - step + 1, step)
    x, y = (c.ravel() + rng.uniform(-0.5, 0.5, c.size) for c in np.meshgrid(g, g))
    signal = np.zeros((size, size))
    for a, b in zip(x, y, strict=True):
        i, j, r = int(a), int(b), step - 1
        signal[j - r : j + r, i - r : i + r] += profile((2 * r, 2 * r), a - i + r, b - j + r, flux, fwhm, **shape)
    return exposed(signal, seed), np.column_stack([x, y])


def detect(image, **options):
    return stars.detect_stars(image, np.full_like(image, SKY), NOISE, **options)


def offsets(found, truth):
    return cKDTree(truth).query(np.column_stack([found.x, found.y]))


@pytest.mark.parametrize("fwhm", [1.5, 2.0, 3.2, 5.0, 8.0])
def test_stars_of_every_width_are_found_and_measured_without_bias(fwhm):
    flux = 3e5
    # Pixels average the light that falls on them, which widens narrow stars.
    sub = 1 if fwhm > 3.0 else 7
    image, truth = star_grid(400, 50, flux, fwhm, axis_ratio=0.8, theta=0.6, sub=sub)
    major, minor = seen_widths(fwhm, 0.8, 0.6) if sub > 1 else (fwhm / math.sqrt(0.8), fwhm * math.sqrt(0.8))
    found = detect(image)
    distance, which = offsets(found, truth)
    assert len(found) == len(truth) == len(set(which)) and distance.max() < 0.3
    fits = stars.fit_stars(image, found.x, found.y)
    assert fits.ok.all()
    error = np.column_stack([fits.x, fits.y]) - truth[which]
    # sigma_x = FWHM / 2.35 / SNR; aperture of 1 FWHM radius: SNR = flux / sqrt(flux + pi FWHM^2 NOISE^2). The
    # unweighted fit of a Moffat profile is allowed twice that.
    snr = flux / math.sqrt(flux + math.pi * fwhm**2 * NOISE**2)
    sigma = 2.0 * fwhm / 2.35 / snr
    assert np.sqrt(np.mean(error**2)) < sigma
    assert np.abs(error.mean(axis=0)).max() < 4.0 * sigma / math.sqrt(len(truth))
    width = np.sqrt(fits.fwhm_major * fits.fwhm_minor)
    assert np.median(width) == pytest.approx(math.sqrt(major * minor), rel=0.01)
    assert np.abs(width / math.sqrt(major * minor) - 1.0).max() < 0.04
    eccentricity = np.sqrt(1.0 - (fits.fwhm_minor / fits.fwhm_major) ** 2)
    assert np.median(eccentricity) == pytest.approx(math.sqrt(1.0 - (minor / major) ** 2), abs=0.015)
    assert np.median(fits.theta) == pytest.approx(0.6, abs=0.05)
    assert np.median(fits.flux) == pytest.approx(flux, rel=0.01)
    # Three nodes a side know the mean over a pixel of the narrowest stars to 1e-4 of their height.
    assert np.median(fits.background) == pytest.approx(SKY, abs=2.0 + 0.02 * fwhm**2 + (3.0 if sub > 1 else 0.0))


def test_centroids_of_stars_at_signal_to_noise_50_are_good_to_a_thirtieth_of_a_pixel():
    # In 2 FWHM diameter: 9900 / sqrt(9900 + 28 * 1064) = 50.
    image, truth = star_grid(600, 30, 9900.0, 3.0)
    found = detect(image)
    assert len(found) >= 0.99 * len(truth)
    fits = stars.fit_stars(image, found.x, found.y)
    distance, which = offsets(fits[fits.ok], truth)
    assert np.median(distance) < 0.05 and np.sqrt(np.mean(distance**2) / 2.0) < 0.06
    error = np.column_stack([fits.x, fits.y])[fits.ok] - truth[which]
    # 361 stars of 0.06 px: the mean is known to 0.003 px.
    assert np.abs(error.mean(axis=0)).max() < 0.01


def test_fit_equals_a_slow_least_squares_fit():
    signal = profile((31, 31), 15.2, 14.7, 5e4, 3.0, 0.7, 0.4)
    image = exposed(signal)
    fit = stars.fit_stars(image, [15.0], [15.0], half_size=9)[0]
    yy, xx = np.mgrid[:31, :31]
    disc = (xx - 15) ** 2 + (yy - 15) ** 2 <= 9.5**2
    dx, dy, v = xx[disc] - 15.0, yy[disc] - 15.0, image[disc].astype(float)

    def residual(p):
        x, y = dx - p[2], dy - p[3]
        return p[1] + p[0] * (1.0 + p[4] * x * x + 2.0 * p[5] * x * y + p[6] * y * y) ** -4.0 - v

    slow = least_squares(residual, [3000.0, 1000.0, 0.0, 0.0, 0.08, 0.0, 0.08], x_scale="jac", xtol=1e-12)
    assert fit.x == pytest.approx(15.0 + slow.x[2], abs=1e-3)
    assert fit.y == pytest.approx(15.0 + slow.x[3], abs=1e-3)
    assert fit.amplitude == pytest.approx(slow.x[0], rel=1e-3)
    assert fit.background == pytest.approx(slow.x[1], rel=1e-3)
    low, high = np.linalg.eigvalsh([[slow.x[4], slow.x[5]], [slow.x[5], slow.x[6]]])
    width = 2.0 * math.sqrt(2.0**0.25 - 1.0)
    assert fit.fwhm_major == pytest.approx(width / math.sqrt(low), rel=1e-3)
    assert fit.fwhm_minor == pytest.approx(width / math.sqrt(high), rel=1e-3)
    assert fit.residual == pytest.approx(np.median(np.abs(slow.fun)) / slow.x[0], rel=0.02)


@pytest.mark.parametrize("beta", [2.5, 4.0, 6.0, math.inf])
def test_noiseless_profiles_are_recovered_exactly(beta):
    theta = -1.2
    if math.isinf(beta):
        yy, xx = np.mgrid[:41, :41]
        u = (xx - 20.3) * math.cos(theta) + (yy - 19.6) * math.sin(theta)
        v = (yy - 19.6) * math.cos(theta) - (xx - 20.3) * math.sin(theta)
        image = 100.0 + 500.0 * np.exp(-4.0 * math.log(2.0) * ((u / 4.0) ** 2 + (v / 2.5) ** 2))
        flux = 500.0 * math.pi / 4.0 / math.log(2.0) * 10.0
    else:
        flux = 5000.0
        image = 100.0 + profile((41, 41), 20.3, 19.6, flux, math.sqrt(10.0), 0.625, theta, beta)
    fit = stars.fit_stars(image.astype(np.float32), [20.0], [20.0], beta=beta, half_size=12)[0]
    assert fit.ok and not fit.saturated
    got = [fit.x, fit.y, fit.fwhm_major, fit.fwhm_minor, fit.theta, fit.background, fit.flux / flux]
    np.testing.assert_allclose(got, [20.3, 19.6, 4.0, 2.5, theta, 100.0, 1.0], rtol=2e-3, atol=1e-3)


def test_a_close_neighbour_does_not_spoil_the_fit():
    signal = profile((41, 41), 20.0, 20.0, 1e5, 3.0) + profile((41, 41), 28.0, 22.0, 5e4, 3.0)
    fit = stars.fit_stars(exposed(signal), [20.0], [20.0], half_size=9)[0]
    assert fit.ok
    assert fit.flux == pytest.approx(1e5, rel=0.03)
    assert math.sqrt(fit.fwhm_major * fit.fwhm_minor) == pytest.approx(3.0, rel=0.02)
    assert math.hypot(fit.x - 20.0, fit.y - 20.0) < 0.05


def test_fit_of_nothing_is_not_ok():
    noise = exposed(np.zeros((60, 60)))
    missing = noise.copy()
    missing[20:40, 20:40] = np.nan
    for image, x in ((np.full((60, 60), 500.0, np.float32), 30.0), (missing, 30.0), (noise, -5.0), (noise, np.nan)):
        fit = stars.fit_stars(image, [x], [30.0], half_size=7)
        assert not fit.ok[0]
    assert len(stars.fit_stars(noise, [], [])) == 0


@pytest.mark.parametrize("flux", [8e7, 1e9, 1e10])
def test_saturated_stars_are_one_detection_flagged_and_left_out_of_shapes(flux):
    signal = profile((200, 200), 90.3, 89.8, flux, 4.0) + profile((200, 200), 20.0, 180.0, 1e5, 4.0)
    # The division by a flat makes the plateau uneven.
    flat = np.random.default_rng(1).normal(1.0, 0.005, signal.shape)
    image = (np.minimum(exposed(signal), 60000.0) / flat).astype(np.float32)
    assert (image >= 58000.0).sum() > 100
    found = detect(image, saturation=58000.0)
    assert found.flags.tolist() == [stars.SATURATED, 0]
    assert math.hypot(found.x[0] - 90.3, found.y[0] - 89.8) < 0.3
    fits = stars.fit_stars(image, found.x, found.y, saturation=58000.0)
    assert fits.saturated.tolist() == [True, False] and fits.ok.tolist() == [False, True]


def test_hot_pixels_and_pairs_of_saturated_ones_are_not_stars():
    rng = np.random.default_rng(3)
    image = exposed(np.zeros((300, 300)))
    y, x = rng.integers(10, 290, (2, 150))
    # From just above what the filter lets pass (9 sigma) to saturation.
    image[y, x] += (NOISE * 10.0 ** rng.uniform(0.95, 3.3, 150)).astype(np.float32)
    image[50, 50:52] = 65535.0
    found = detect(image, saturation=60000.0)
    # The odd pair of hot pixels side by side is allowed.
    assert len(found) <= 1


@pytest.mark.parametrize("angle", [0.0, 0.3, 0.8, 1.57])
def test_a_satellite_trail_is_not_a_row_of_stars(angle):
    yy, xx = np.mgrid[:300, :300]
    across = (yy - 150.0) * math.cos(angle) - (xx - 150.0) * math.sin(angle)
    image = exposed(800.0 * np.exp(-0.5 * (across / 1.3) ** 2))
    assert len(detect(image)) <= 1


def test_smooth_nebula_gives_no_stars_but_stars_on_it_are_found():
    yy, xx = np.mgrid[:300, :300]
    nebula = 3000.0 * np.exp(-((xx - 150.0) ** 2 + (yy - 140.0) ** 2) / (2.0 * 20.0**2))
    assert len(stars.detect_stars(exposed(nebula), np.full((300, 300), SKY, np.float32), 2.0 * NOISE)) <= 1
    truth = np.array([[140.2, 145.4], [170.0, 130.0], [60.0, 200.0]])
    signal = nebula + sum(profile((300, 300), x, y, 3e4, 3.0) for x, y in truth)
    found = stars.detect_stars(exposed(signal), np.full((300, 300), SKY, np.float32), 2.0 * NOISE)
    distance, which = offsets(found, truth)
    # The slope of the nebula draws a first guess aside; a fit has a background of its own.
    assert set(which[distance < 1.0]) == {0, 1, 2} and len(found) <= 4


def test_noise_alone_gives_next_to_nothing():
    # 5 sigma: 2.9e-7 for each of about 90000 independent samples in each of four frames.
    assert sum(len(detect(exposed(np.zeros((300, 300)), seed))) for seed in range(4)) <= 1


def test_blends_keep_the_brighter_and_separated_pairs_keep_both():
    close = profile((80, 80), 40.0, 40.0, 2e5, 4.0) + profile((80, 80), 42.0, 40.5, 8e4, 4.0)
    found = detect(exposed(close))
    assert len(found) == 1 and math.hypot(found.x[0] - 40.5, found.y[0] - 40.1) < 0.6
    equal = profile((80, 80), 38.0, 40.0, 2e5, 4.0) + profile((80, 80), 42.5, 40.5, 2e5, 4.0)
    assert len(detect(exposed(equal))) == 1
    apart = profile((80, 80), 37.0, 40.0, 2e5, 3.0) + profile((80, 80), 43.0, 40.5, 8e4, 3.0)
    found = detect(exposed(apart))
    assert len(found) == 2 and found.flux[0] > found.flux[1]
    np.testing.assert_allclose(found.x, [37.0, 43.0], atol=0.3)


def test_stars_at_the_border_or_on_missing_pixels_are_left_out_and_neighbours_of_missing_ones_kept():
    signal = sum(profile((100, 100), x, y, 1e5, 3.0) for x, y in ((2, 50), (50, 98), (30, 30), (70, 70)))
    image = exposed(signal)
    image[30, 30] = np.nan
    image[70, 74] = np.nan
    image[:, 20] = np.nan
    found = detect(image)
    assert len(found) == 1 and math.hypot(found.x[0] - 70, found.y[0] - 70) < 0.2


def test_order_is_by_flux_and_max_stars_keeps_the_brightest():
    signal = sum(profile((150, 150), 25 + 25 * k, 75, 2e4 * (k + 1), 3.0) for k in range(5))
    image = exposed(signal)
    found = detect(image)
    np.testing.assert_allclose(found.x, [125, 100, 75, 50, 25], atol=0.2)
    np.testing.assert_allclose(found.flux, [1e5, 8e4, 6e4, 4e4, 2e4], rtol=0.15)
    assert detect(image, max_stars=2).x.tolist() == found.x[:2].tolist()
    assert len(detect(image, max_stars=0)) == 0


def test_counts_and_positions_agree_with_sep():
    sep = pytest.importorskip("sep")
    rng = np.random.default_rng(5)
    signal = np.zeros((500, 500))
    truth = rng.uniform(15, 485, (150, 2))
    for x, y in truth:
        i, j = int(x), int(y)
        signal[j - 15 : j + 16, i - 15 : i + 16] += profile(
            (31, 31), x - i + 15, y - j + 15, 6000.0 * (1.0 + rng.pareto(1.2)), 3.0
        )
    image = exposed(signal)
    found = detect(image)
    objects = sep.extract((image - SKY).astype(np.float32), 2.0, err=NOISE, minarea=5)
    theirs = np.column_stack([objects["x"], objects["y"]])
    ours = np.column_stack([found.x, found.y])
    assert len(ours) == pytest.approx(len(theirs), rel=0.08)
    distance, _ = cKDTree(ours).query(theirs)
    assert np.mean(distance < 0.7) > 0.93
    # Ours follow the truth at least as well as the isophotal centroids.
    assert np.median(cKDTree(truth).query(ours)[0]) <= np.median(cKDTree(truth).query(theirs)[0])


@pytest.mark.parametrize("beta", [2.5, 3.3, 4.0, 8.0, math.inf])
@pytest.mark.parametrize("fwhm", [1.4, 3.4])
def test_exponent_that_the_stars_share_is_found(beta, fwhm):
    rng = np.random.default_rng(5)
    g = np.arange(25, 376, 50)
    x, y = (c.ravel() + rng.uniform(-0.5, 0.5, c.size) for c in np.meshgrid(g, g))
    signal = np.zeros((400, 400))
    for a, b in zip(x, y, strict=True):
        box = slice(int(b) - 20, int(b) + 21), slice(int(a) - 20, int(a) + 21)
        centre = a - int(a) + 20, b - int(b) + 20
        if math.isinf(beta):
            yy, xx = np.mgrid[:41, :41]
            s2 = (fwhm / 2.3548) ** 2 + (1 / 12 if fwhm < 3 else 0.0)
            signal[box] += 1e5 / (2 * math.pi * s2) * np.exp(-((xx - centre[0]) ** 2 + (yy - centre[1]) ** 2) / 2 / s2)
        else:
            signal[box] += profile((41, 41), *centre, 1e5, fwhm, beta=beta, sub=7 if fwhm < 3 else 1)
    image = exposed(signal, 3)
    found, error = stars.typical_beta(image, x, y)
    # Stars of SNR 250: the inverse of 40 of them together is known to 0.002, of narrow ones to 0.005.
    assert 1.0 / found == pytest.approx(1.0 / beta, abs=0.02 if fwhm < 3 else 0.008)
    assert 0.0 <= error < 0.01


def test_exponent_of_few_or_no_stars_is_unknown():
    image, truth = star_grid(200, 90, 1e5, 3.2)
    assert all(map(math.isnan, stars.typical_beta(image, truth[:4, 0], truth[:4, 1])))
    assert all(map(math.isnan, stars.typical_beta(image, truth[:0, 0], truth[:0, 1])))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6) | st.sampled_from([0.0, 1.0]), min_size=1, max_size=60), st.integers(0, 59))
def test_selection_gives_the_value_of_a_rank(values, rank):
    rank = min(rank, len(values) - 1)
    scratch = np.array([*values, -1e9])
    assert stars._select(scratch, len(values), rank) == sorted(values)[rank]
    assert scratch[-1] == -1e9


def test_sum_of_products_equals_its_slow_twin():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 103))
    for n in (0, 1, 3, 4, 101):
        assert stars._dot(a, b, n) == pytest.approx(float(a[:n] @ b[:n]), rel=1e-12, abs=1e-12)


def test_background_of_cells_gives_the_stars_of_the_same_background_of_pixels():
    image, _ = star_grid(300, 40, 2e5, 3.0)
    image += np.linspace(0.0, 500.0, 300, dtype=np.float32)
    image[20:24, 100:104] = 60000.0
    level, _ = statistics.background_mesh(image, 32)
    full = stars.detect_stars(image, statistics.expand_mesh(level, image.shape, 32), NOISE, saturation=6e4)
    cells = stars.detect_stars(image, level, NOISE, saturation=6e4, mesh=32)
    # The rows of cells are interpolated in float64 around a star, in float32 in the frame.
    np.testing.assert_allclose(np.column_stack([cells.x, cells.y]), np.column_stack([full.x, full.y]), atol=1e-4)
    np.testing.assert_allclose(cells.flux, full.flux, rtol=1e-4)
    assert len(cells) > 30 and cells.flags.sum() == 1


def test_detection_filter_equals_its_slow_twin():
    from scipy.ndimage import correlate1d

    rng = np.random.default_rng(6)
    image = rng.normal(0.0, 10.0, (40, 37)).astype(np.float32)
    image[10, 12] = np.nan
    k = np.exp(-0.5 * (np.arange(-3, 4) / 1.2) ** 2)
    k /= k.sum()
    smooth = np.where(np.isnan(image), 0.0, image).astype(float)
    smooth = correlate1d(correlate1d(smooth, k, axis=0, mode="constant"), k, axis=1, mode="constant")
    want = [
        y * 37 + x
        for y in range(4, 36)
        for x in range(4, 33)
        if smooth[y, x] > 2.0 and smooth[y, x] == smooth[y - 1 : y + 2, x - 1 : x + 2].max()
    ]
    where, full = np.empty(4000, np.int64), np.empty(4000, np.int64)
    count, saturated = stars._maxima(
        image,
        *stars._sky(np.zeros_like(image), image.shape, None),
        k[3:].astype(np.float32),
        np.float32(2.0),
        np.float32(25.0),
        where,
        full,
    )
    assert where[:count].tolist() == want
    assert full[:saturated].tolist() == np.flatnonzero(image.ravel() >= 25.0).tolist()
    assert stars._maxima(
        image,
        *stars._sky(np.zeros_like(image), image.shape, None),
        k[3:].astype(np.float32),
        np.float32(2.0),
        np.float32(25.0),
        where[:3],
        full[:0],
    ) == (count, saturated)


def test_aperture_flux_equals_sep_and_is_exact_on_a_flat_image():
    sep = pytest.importorskip("sep")
    rng = np.random.default_rng(7)
    image = rng.normal(100.0, 5.0, (80, 80)).astype(np.float32)
    x, y = rng.uniform(25, 55, (2, 20))
    flux, background = stars.aperture_flux(image, x, y, 5.3, 9.0, 14.0)
    total, _, _ = sep.sum_circle(image, x, y, 5.3, subpix=5)
    area, _, _ = sep.sum_circle(np.ones_like(image), x, y, 5.3, subpix=5)
    np.testing.assert_allclose(flux, total - area * background, atol=0.05)
    yy, xx = np.mgrid[:80, :80]
    for k in range(20):
        r2 = (xx - x[k]) ** 2 + (yy - y[k]) ** 2
        assert background[k] == pytest.approx(np.median(image[(r2 >= 81.0) & (r2 <= 196.0)]))
    np.testing.assert_array_equal(stars.aperture_flux(np.full_like(image, 7.0), x, y, 4.0, 6.0, 9.0)[0], 0.0)


def test_aperture_flux_of_a_star_is_within_one_per_cent():
    image, truth = star_grid(300, 60, 1e6, 3.0)
    flux, background = stars.aperture_flux(image, truth[:, 0], truth[:, 1], 9.0, 15.0, 25.0)
    # Outside 3 FWHM a Moffat profile of beta 4 keeps (1 + 36 * 0.189)^-3 = 0.2 %.
    np.testing.assert_allclose(flux, 1e6, rtol=0.01)
    np.testing.assert_allclose(background, SKY, atol=6.0)


def test_aperture_with_missing_pixels_or_beyond_the_border_is_nan():
    image = np.full((40, 40), 10.0, np.float32)
    image[20, 20] = np.nan
    flux, background = stars.aperture_flux(image, [20.0, 27.0, 2.0, -90.0, np.nan], [20.0] * 5, 4.0, 6.0, 9.0)
    assert np.isnan(flux).tolist() == [True, False, True, True, True]
    assert np.isnan(background).tolist() == [False, False, False, True, True]


def test_tiny_images_have_no_stars():
    for shape in ((0, 0), (1, 1), (8, 50), (9, 9)):
        image = np.full(shape, 100.0, np.float32)
        assert len(stars.detect_stars(image, np.zeros_like(image), 1.0)) == 0


def test_wrong_arguments_are_refused():
    image = np.zeros((20, 20), np.float32)
    with pytest.raises(ValueError, match="equal"):
        stars.detect_stars(image, image[1:], 1.0)
    with pytest.raises(ValueError, match="noise"):
        stars.detect_stars(image, image, 0.0)
    with pytest.raises(ValueError, match="beta"):
        stars.fit_stars(image, [5.0], [5.0], beta=1.0)
    with pytest.raises(ValueError, match="half_size"):
        stars.fit_stars(image, [5.0], [5.0], half_size=1)
    with pytest.raises(ValueError, match="x and y"):
        stars.fit_stars(image, [5.0], [5.0, 6.0])
    with pytest.raises(ValueError, match="radii"):
        stars.aperture_flux(image, [5.0], [5.0], 4.0, 3.0, 8.0)
    with pytest.raises(ValueError, match="x and y"):
        stars.aperture_flux(image, [5.0], [5.0, 2.0], 4.0, 5.0, 8.0)
