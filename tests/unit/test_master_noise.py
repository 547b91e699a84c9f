"""Noise of masters in time, whatever the step of the converter."""

from __future__ import annotations

import numpy as np
import pytest

from wbpy.stages import masters
from wbpy.stages.base import Work
from wbpy.stages.masters import MastersParams

SHAPE = (256, 200)


class Frame:
    """A frame in memory."""

    def __init__(self, image: np.ndarray) -> None:
        self.image, self.name, self.shape = image.astype(np.float32), "frame.fits", image.shape

    def read(self, y0: int, y1: int) -> np.ndarray:
        return self.image[y0:y1]

    def words(self, y0: int, y1: int) -> None:
        return None


def noise_of(images: list[np.ndarray]) -> masters.Noise:
    work = Work(map=map, workers=1, memory=1 << 30, report=lambda *_: None)
    params = MastersParams(rejection="none")
    return masters.run(params, work, [Frame(image) for image in images], "dark", None).noise


@pytest.mark.parametrize("sigma", [9.0, 14.0, 16.8, 23.0, 40.0])
@pytest.mark.parametrize("step", [1.0, 4.0, 16.0])
def test_steps_of_the_converter_do_not_change_the_noise_of_a_master(sigma: float, step: float) -> None:
    rng = np.random.default_rng(4)
    pattern = rng.normal(700, 60, SHAPE)
    images = [step * np.round((pattern + rng.normal(0, sigma, SHAPE)) / step) for _ in range(4)]
    found = noise_of(images)
    # Rounding adds the variance of an even spread over one step. Between levels 0.7 sigma of the difference apart the
    # even rise of the share misses a quartile by 6 %; 40,000 samples leave 1 %.
    expected = np.hypot(sigma, step / np.sqrt(12))
    assert found.frame == pytest.approx(expected, rel=0.07)
    assert found.measured == pytest.approx(expected / 2, rel=0.07)
    assert found.measured / found.expected == pytest.approx(1.0, abs=0.08)


def test_cosmic_rays_and_empty_pixels_leave_the_noise_alone() -> None:
    rng = np.random.default_rng(5)
    images = [700 + rng.normal(0, 12, SHAPE) for _ in range(4)]
    for image in images:
        image[rng.random(SHAPE) < 0.01] += 20_000
        image[rng.random(SHAPE) < 0.01] = np.nan
    # Two per cent of the differences are outliers, which moves the quartiles by 2 to 4 %.
    assert noise_of(images).frame == pytest.approx(12, rel=0.05)


def test_frames_without_noise_have_none() -> None:
    assert noise_of([np.full(SHAPE, 700.0)] * 4).frame == 0.0
