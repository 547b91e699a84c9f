"""Streaks in noise against patterns that were laid along a drift."""

import math

import numpy as np
import pytest

from wbpy.kernels import texture


def walked(direction: float, step: float, lights: int, pattern: float, seed: int = 1) -> np.ndarray:
    """Return the mean of lights with noise 10 over a pattern of the sensor that they cross in one direction."""
    rng = np.random.default_rng(seed)
    fixed = rng.normal(0, pattern, (460, 460))
    total = np.zeros((320, 320))
    for n in range(lights):
        dx = round(n * step * math.cos(math.radians(direction)))
        dy = round(n * step * math.sin(math.radians(direction)))
        total += fixed[70 + dy : 390 + dy, 70 + dx : 390 + dx] + rng.normal(0, 10, (320, 320))
    y, x = np.indices((320, 320))
    image = 500 + total / lights + 40 * np.exp(-((x - 100) ** 2 + (y - 240) ** 2) / (2 * 40.0**2))
    for at_x, at_y in rng.uniform(10, 310, (40, 2)):
        image += 800 * np.exp(-((x - at_x) ** 2 + (y - at_y) ** 2) / (2 * 1.5**2))
    return image.astype(np.float32)


@pytest.mark.parametrize("direction", [0.0, 90.0])
def test_of_a_drift_longer_than_the_picture_nothing_is_said(direction: float):
    image = np.random.default_rng(2).normal(500, 10, (80, 90)).astype(np.float32)
    assert np.isnan(texture.streaks(image, direction, 50.0, 400.0)).all()


@pytest.mark.parametrize("direction", [0.0, 33.0, -120.0])
def test_a_pattern_under_drifting_lights_is_found_with_about_its_share(direction: float):
    # Pattern 5, noise 10: 25 / 125 of the variance; of lights 2 px apart for 60 px 80 % are shared 12 px on.
    share, error = texture.streaks(walked(direction, 2.0, 30, 5.0), direction, 2.0, 58.0)
    assert 0.10 < share < 0.22
    assert error < 0.03


@pytest.mark.parametrize("seed", range(6))
def test_noise_without_a_pattern_has_no_streaks(seed: int):
    share, error = texture.streaks(walked(20.0, 2.0, 30, 0.0, seed), 20.0, 2.0, 58.0)
    assert abs(share) < 4 * error


def test_streaks_are_sought_along_the_drift_only():
    image = walked(0.0, 2.0, 30, 6.0)
    assert texture.streaks(image, 90.0, 2.0, 58.0)[0] < -0.1


def test_where_there_is_no_sky_or_no_drift_nothing_is_said():
    image = walked(0.0, 2.0, 4, 0.0)
    for share in (
        texture.streaks(np.full((50, 50), np.nan, np.float32), 0.0, 2.0, 50.0),
        texture.streaks(image[:20, :20], 0.0, 2.0, 50.0),
        texture.streaks(image, 0.0, 0.0, 0.0),
        texture.streaks(image, 0.0, 1.0, 2.0),
    ):
        assert np.isnan(share).all()
