"""Star fluxes, robust Chauvenet rejection, M* and N* against slow twins and the truth."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wbpy.kernels import psf_signal, stars

SKY, NOISE = 400.0, 12.0


def profile(shape, x, y, flux, major, minor, theta=0.0, beta=4.0, sub=1):
    if sub > 1:
        offsets = (np.arange(sub) + 0.5) / sub - 0.5
        parts = [profile(shape, x - i, y - j, flux, major, minor, theta, beta) for j in offsets for i in offsets]
        return np.mean(parts, axis=0)
    if math.isinf(beta):
        yy, xx = np.mgrid[: shape[0], : shape[1]]
        u = (xx - x) * math.cos(theta) + (yy - y) * math.sin(theta)
        v = (yy - y) * math.cos(theta) - (xx - x) * math.sin(theta)
        height = np.exp(-4.0 * math.log(2.0) * ((u / major) ** 2 + (v / minor) ** 2))
        return flux * height * 4.0 * math.log(2.0) / (math.pi * major * minor)
    level = 4.0 * (2.0 ** (1.0 / beta) - 1.0)
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    u = (xx - x) * math.cos(theta) + (yy - y) * math.sin(theta)
    v = (yy - y) * math.cos(theta) - (xx - x) * math.sin(theta)
    amplitude = flux * (beta - 1.0) * level / (major * minor) / math.pi
    return amplitude * (1.0 + level * ((u / major) ** 2 + (v / minor) ** 2)) ** -beta


def fits_of(image, x, y, **options):
    return stars.fit_stars(image.astype(np.float32), np.atleast_1d(x), np.atleast_1d(y), **options)


@pytest.mark.parametrize("axes", [(3.2, 3.2, 0.0), (4.0, 2.6, 0.9), (1.6, 1.5, -1.2), (6.0, 5.0, 0.3)])
@pytest.mark.parametrize("beta", [2.5, 3.3, 4.0, 10.0, math.inf])
def test_flux_of_a_noiseless_star_is_exact(axes, beta):
    # Light that varies across a pixel is averaged over it: seen in narrow stars only.
    narrow = axes[1] < 2.0
    image = SKY + profile((81, 81), 40.3, 39.8, 1e5, *axes, beta=beta, sub=7 if narrow else 1)
    fits = fits_of(image, 40.0, 40.0, beta=beta)
    flux, area = psf_signal.hybrid_flux(image.astype(np.float32), fits, beta=beta)
    assert flux[0] == pytest.approx(1e5, rel=5e-3 if narrow else 1e-3)
    # Tenth over half maximum of a Moffat profile of beta 4: 1.76440 / 0.86996.
    seen = fits.fwhm_major[0] * fits.fwhm_minor[0]
    assert area[0] == pytest.approx(math.pi / 4 * (1.76440 / 0.86996) ** 2 * seen, rel=2e-3)


@pytest.mark.parametrize("beta", [2.5, 4.0, 10.0])
def test_flux_with_the_wrong_profile_is_off_by_the_same_share_for_every_star(beta):
    rng = np.random.default_rng(4)
    grid = np.arange(30, 271, 30)
    x, y = (g.ravel() + rng.uniform(-0.5, 0.5, g.size) for g in np.meshgrid(grid, grid))
    image = np.full((300, 300), SKY)
    for a, b in zip(x, y, strict=True):
        image += profile(image.shape, a, b, 5e4, 4.0, 4.0, beta=beta)
    image = (image + rng.normal(0.0, NOISE, image.shape)).astype(np.float32)
    flux, _ = psf_signal.hybrid_flux(image, fits_of(image, x, y))
    # Noise in the ellipse of about 80 px^2: 0.25 % of the flux, and 0.03 % for the mean of 81. What remains is the
    # difference between the wings of the profile and those of the fitted one.
    share = {2.5: 0.90, 4.0: 1.0, 10.0: 1.06}[beta]
    assert np.median(flux) / 5e4 == pytest.approx(share, abs=0.02 if beta != 4.0 else 0.01)
    assert np.std(flux) / 5e4 < 0.01
    flux, _ = psf_signal.hybrid_flux(image, fits_of(image, x, y, beta=beta), beta=beta)
    assert np.median(flux) / 5e4 == pytest.approx(1.0, abs=0.005)


def test_light_of_a_neighbour_does_not_count():
    star, neighbour = (profile((81, 81), x, 40.2, f, 4.0, 4.0) for x, f in ((40.3, 1e5), (47.3, 6e4)))
    image = (SKY + star + np.random.default_rng(1).normal(0.0, NOISE, star.shape)).astype(np.float32)
    fits = fits_of(image, 40.0, 40.0)
    image += neighbour.astype(np.float32)
    yy, xx = np.mgrid[:81, :81]
    assert neighbour[np.hypot(xx - 40.3, yy - 40.2) < 6.4].sum() > 0.15 * 1e5
    # On its near side the neighbour is too faint beside the star to be told.
    assert psf_signal.hybrid_flux(image, fits)[0][0] == pytest.approx(1e5, rel=0.04)


def test_noise_of_the_flux_is_foretold():
    rng = np.random.default_rng(8)
    grid = np.arange(40, 561, 40)
    x, y = (g.ravel() + rng.uniform(-0.5, 0.5, g.size) for g in np.meshgrid(grid, grid))
    image = np.full((600, 600), SKY)
    for a, b in zip(x, y, strict=True):
        box = slice(int(b) - 19, int(b) + 20), slice(int(a) - 19, int(a) + 20)
        image[box] += profile((39, 39), a - int(a) + 19, b - int(b) + 19, 2e4, 3.5, 3.5, beta=3.0)
    image = (image + rng.normal(0.0, NOISE, image.shape)).astype(np.float32)
    flux, _ = psf_signal.hybrid_flux(image, fits_of(image, x, y, beta=3.0), beta=3.0)
    # The scatter of 196 stars is known to 5 %; the background and the widths of the fits add some of their own.
    assert 1.0 < np.std(flux) / psf_signal.hybrid_noise(NOISE, 3.5, 3.0) < 1.7


def test_flux_equals_its_slow_twin():
    rng = np.random.default_rng(2)
    image = (SKY + profile((61, 61), 30.4, 29.7, 8e4, 4.0, 2.6, 0.7) + rng.normal(0, NOISE, (61, 61))).astype(
        np.float32
    )
    fit = fits_of(image, 30.0, 30.0)[0]
    k = math.sqrt((10**0.25 - 1) / (2**0.25 - 1)) / 2
    yy, xx = np.mgrid[:61, :61].astype(float)
    u = (xx - fit.x) * math.cos(fit.theta) + (yy - fit.y) * math.sin(fit.theta)
    v = (yy - fit.y) * math.cos(fit.theta) - (xx - fit.x) * math.sin(fit.theta)
    inside = (u / (k * fit.fwhm_major + 1)) ** 2 + (v / (k * fit.fwhm_minor + 1)) ** 2 <= 1
    model = profile((61, 61), fit.x, fit.y, 1.0, fit.fwhm_major, fit.fwhm_minor, fit.theta)
    want = (image[inside] - fit.background).sum() / model[inside].sum()
    got, _ = psf_signal.hybrid_flux(image, np.array([fit], fit.dtype).view(np.recarray))
    assert got[0] == pytest.approx(want, rel=1e-9)


def test_stars_with_missing_or_saturated_pixels_or_at_the_border_have_no_flux():
    image = (SKY + profile((61, 61), 30.0, 30.0, 8e4, 3.0, 3.0)).astype(np.float32)
    fits = fits_of(image, 30.0, 30.0)
    holed = image.copy()
    holed[31, 33] = np.nan
    assert np.isnan(psf_signal.hybrid_flux(holed, fits)[0][0])
    assert np.isnan(psf_signal.hybrid_flux(image, fits, saturation=float(image.max()))[0][0])
    assert np.isnan(psf_signal.hybrid_flux(image[:33], fits)[0][0])
    failed = fits.copy()
    failed["ok"] = False
    assert np.isnan(psf_signal.hybrid_flux(image, failed)[0][0])
    assert psf_signal.hybrid_flux(image, fits[:0])[0].shape == (0,)


# --------------------------------------------------------------------------------------------------------------------
# rejection


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.45])
def test_rejection_recovers_the_middle_under_one_sided_contamination(share):
    rng = np.random.default_rng(int(share * 100))
    n = 400
    values = rng.normal(10.0, 1.0, n)
    bad = rng.random(n) < share
    values[bad] += np.abs(rng.normal(0.0, 10.0, bad.sum()))
    kept = psf_signal.keep_typical(values)
    # Contamination that lies among the good values cannot be told from them; it draws the mean of what is kept by
    # less than half a sigma, where the mean of all moves by 8 x share.
    assert abs(values[kept].mean() - 10.0) < 0.1 + 0.9 * share
    assert kept[~bad].mean() > 0.97


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=0, max_size=40))
def test_rejection_keeps_one_run_of_the_ordered_values_and_does_not_depend_on_their_order(values):
    data = np.array(values, dtype=float)
    kept = psf_signal.keep_typical(data)
    assert kept.shape == data.shape and (kept.any() or not data.size)
    if data.size:
        inside = (data > data[kept].min()) & (data < data[kept].max())
        assert kept[inside].all()
    assert sorted(data[::-1][psf_signal.keep_typical(data[::-1])]) == sorted(data[kept])


def test_equal_values_are_all_kept():
    assert psf_signal.keep_typical(np.full(20, 3.0)).all()


def test_a_wildly_bright_star_counts_with_the_brightness_of_the_brightest_typical_one():
    flux = np.append(np.linspace(900.0, 1100.0, 50), 1e6)
    total, brightness = psf_signal.total_fluxes(np.append(flux, [np.nan, -5.0]), np.full(53, 10.0))
    assert total == pytest.approx(flux.sum())
    assert brightness == pytest.approx((flux[:50].sum() + 1100.0) / 10.0)
    assert psf_signal.total_fluxes(np.array([np.nan]), np.array([1.0])) == (0.0, 0.0)


# --------------------------------------------------------------------------------------------------------------------
# background


@pytest.mark.parametrize("crowd", [0, 300])
def test_m_star_and_n_star_are_those_of_the_sky_whatever_the_stars(crowd):
    rng = np.random.default_rng(crowd)
    image = rng.normal(SKY, NOISE, (600, 600)).astype(np.float32)
    for x, y in rng.integers(5, 590, (crowd, 2)):
        image[y - 3 : y + 4, x - 3 : x + 4] += 2000.0
    image[:, 17] = np.nan
    level, noise = psf_signal.local_background(image, np.full_like(image, SKY))
    assert level == pytest.approx(SKY)
    # 180,000 depths: 0.3 %; where stars hide a few percent of the depths nothing changes.
    assert noise == pytest.approx(NOISE, rel=0.015)


def test_background_of_nothing_is_unknown():
    empty = np.full((8, 8), np.nan, np.float32)
    assert all(math.isnan(v) for v in psf_signal.local_background(empty, np.zeros_like(empty)))


def test_weights_without_stars_noise_or_sky_are_unknown():
    assert psf_signal.signal_weight(100.0, 10.0, 2.0, 50.0) == 10.0
    assert psf_signal.signal_to_noise(100.0, 2.0) == 2500.0
    for wrong in ((0.0, 1.0, 1.0, 1.0), (1.0, 1.0, 0.0, 1.0), (1.0, 1.0, 1.0, -2.0), (math.nan, 1.0, 1.0, 1.0)):
        assert math.isnan(psf_signal.signal_weight(*wrong))
    assert math.isnan(psf_signal.signal_to_noise(0.0, 1.0))
