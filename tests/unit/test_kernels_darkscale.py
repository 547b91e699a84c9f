"""The factor of the dark signal against plain NumPy and against simulated sensors whose factor is known."""

from __future__ import annotations

import numpy as np
import pytest

from wbpy.kernels.darkscale import (
    FEWEST,
    binned,
    central,
    contrasts,
    dark_set,
    least,
    scale_by_contrast,
    scale_by_deviation,
)
from wbpy.simulate import Optics, Sensor

SHAPE = (300, 400)


def slow_contrast(image, y, x, step):
    near = []
    for dy in (-step, 0, step):
        for dx in (-step, 0, step):
            j, i = y + dy, x + dx
            if (dy, dx) != (0, 0) and 0 <= j < image.shape[0] and 0 <= i < image.shape[1]:
                near.append(image[j, i])
    return float(image[y, x]) - float(np.nanmean(near))


@pytest.mark.parametrize("step", [1, 2])
def test_contrast_is_that_against_the_mean_of_the_neighbours(step):
    rng = np.random.default_rng(1)
    image = rng.normal(100, 20, (9, 11)).astype(np.float32)
    image[4, 5] = np.nan
    indices = np.arange(image.size)
    with np.errstate(all="ignore"):
        slow = [slow_contrast(image.astype(np.float64), k // 11, k % 11, step) for k in indices]
    np.testing.assert_allclose(contrasts(image, indices, step), slow, rtol=1e-12)


def test_contrast_beside_a_saturated_pixel_is_unknown():
    image = np.full((7, 7), 10, np.float32)
    image[3, 3] = 50000
    found = contrasts(image, np.arange(49), 1, 40000.0).reshape(7, 7)
    assert np.isnan(found[2:5, 2:5]).all() and np.count_nonzero(np.isnan(found)) == 9


def search_of_the_reference(light, thermal, cell):
    """The deviation of `light - k dark` tried out on a fine grid of k."""
    t, d = (p.astype(np.float64).reshape(p.shape[0] // cell, cell, -1, cell).mean((1, 3)) for p in (light, thermal))
    middle = np.median(d)
    d = np.where(d < middle + 3 * 1.4826 * np.median(np.abs(d - middle)), 0, d)
    factors = np.arange(0, 4, 0.002)
    return factors[np.argmin([np.std(t - k * d) for k in factors])]


@pytest.mark.parametrize("cell", [1, 2])
def test_factor_by_deviation_makes_the_standard_deviation_least(cell):
    rng = np.random.default_rng(2)
    thermal = rng.normal(0, 2, (40, 60)).astype(np.float32)
    thermal[rng.random(thermal.shape) < 0.02] += 500
    light = (rng.normal(800, 25, thermal.shape) + 1.37 * thermal).astype(np.float32)
    found = scale_by_deviation(light, thermal, cell)
    assert found.k == pytest.approx(search_of_the_reference(light, thermal, cell), abs=0.003)


@pytest.mark.parametrize("minimum", [-3.0, 0.2, 0.9, 1.9, 7.0, 40.0])
def test_search_finds_the_least_value_wherever_it_is(minimum):
    # The bracket ends below 0.0005; the golden section halves it about the minimum.
    assert least(lambda k: (k - minimum) ** 2, 0.5, 2.0) == pytest.approx(minimum, abs=0.0005)
    assert least(lambda k: abs(k - minimum) ** 1.5, 0.5, 2.0) == pytest.approx(minimum, abs=0.0005)


def test_window_is_the_middle_of_the_frame_on_whole_cells():
    rows, columns = central((100, 205), 40, 2)
    assert (rows, columns) == (slice(30, 70), slice(82, 122))
    assert central((10, 10), 0) == (slice(0, 10), slice(0, 10))
    assert central((10, 10), 50) == (slice(0, 10), slice(0, 10))


def test_only_pixels_of_the_window_are_chosen():
    thermal = np.zeros((50, 60), np.float32)
    thermal[::7, ::5] = 900
    chosen = dark_set(thermal, 1, window=20)
    y, x = np.divmod(chosen.indices, 60)
    y, x = y[chosen.bright], x[chosen.bright]
    assert chosen.pixels == y.size > 0
    assert y.min() >= 15 and y.max() < 35 and x.min() >= 20 and x.max() < 40
    np.testing.assert_array_equal(thermal[y, x], 900)


def test_binning_cuts_off_what_fills_no_cell():
    image = np.arange(35, dtype=np.float32).reshape(5, 7)
    np.testing.assert_array_equal(binned(image, 2), image[:4, :6].reshape(2, 2, 3, 2).mean((1, 3)))


@pytest.mark.parametrize("scale", [scale_by_contrast, scale_by_deviation])
def test_too_few_pixels_tell_nothing(scale):
    rng = np.random.default_rng(3)
    thermal = np.zeros((30, 30), np.float32)
    thermal.flat[rng.choice(900, FEWEST - 1, replace=False)] = 500
    light = (thermal + rng.normal(100, 1, thermal.shape)).astype(np.float32)
    found = scale(light, thermal if scale is scale_by_deviation else dark_set(thermal, 1), 1)
    assert np.isnan(found.k)


def uncooled(seed, cfa, glow, exposure, dark_exposure, drift):
    """Return light, master dark, master bias (DN) and the true factor of a warm camera with stars and vignetting."""
    sensor = Sensor(
        width=SHAPE[1], height=SHAPE[0], seed=seed, cfa=cfa, dark_e_per_s=0.3, dark_temperature_c=20, glow_e_per_s=glow
    )
    rng = np.random.default_rng(seed)
    temperature = 20.0
    bias = np.mean([sensor.expose(None, 0.001, temperature, rng) for _ in range(16)], axis=0)
    dark = np.mean([sensor.expose(None, dark_exposure, temperature + drift, rng) for _ in range(16)], axis=0)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    sky = np.full(SHAPE, 8.0)
    for _ in range(120):
        cx, cy, flux = rng.uniform(0, SHAPE[1]), rng.uniform(0, SHAPE[0]), 10 ** rng.uniform(1, 4.3)
        sky += flux / 10.6 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 3.4)
    light = sensor.expose(sky * Optics(seed=seed).flat(SHAPE[1], SHAPE[0]), exposure, temperature, rng)
    truth = exposure / dark_exposure * 2.0 ** (-drift / 6.0)
    return (p.astype(np.float32) for p in (light, dark, bias)), truth


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(
    ("cfa", "glow", "exposure", "dark_exposure", "drift"),
    [(None, 0.0, 60, 120, 0.0), (None, 0.0, 120, 120, 4.0), ("RGGB", 0.0, 90, 120, -3.0), ("RGGB", 1.0, 60, 120, 0.0)],
)
def test_factor_of_an_uncooled_night_is_within_a_percent(seed, cfa, glow, exposure, dark_exposure, drift):
    """400 warm pixels of 500 to 5000 DN, each known to 5 %: 0.25 % of statistical error. Saturated hot pixels, stars
    and vignetting must not add to that."""
    (light, dark, bias), truth = uncooled(seed, cfa, glow, exposure, dark_exposure, drift)
    step = 1 if cfa is None else 2
    level = float(np.median(bias))
    chosen = dark_set(dark - bias, step, highest=0.9 * float(dark.max()) - level)
    found = scale_by_contrast(light - bias, chosen, step, 0.9 * float((light - bias).max()))
    assert found.k == pytest.approx(truth, rel=0.01)
    assert abs(found.k - truth) < 5 * found.error


def test_least_deviation_is_led_astray_by_saturated_pixels():
    """Why the factor is told by contrast: hot pixels that saturate in the dark look alike in both frames."""
    (light, dark, bias), truth = uncooled(1, None, 0.0, 60, 120, 0.0)
    assert scale_by_deviation(light - bias, dark - bias, 1).k > 1.1 * truth


def test_light_without_dark_signal_has_a_factor_of_zero():
    (_, dark, bias), _ = uncooled(4, None, 0.0, 60, 120, 0.0)
    chosen = dark_set(dark - bias, 1)
    empty = np.random.default_rng(5).normal(300, 8, SHAPE).astype(np.float32)
    assert scale_by_contrast(empty, chosen, 1).k < 0.005
