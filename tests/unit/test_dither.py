"""Dithering: what series of shifts are called."""

import numpy as np
import pytest

from wbpy.rules import load_rules
from wbpy.stages import dither

LIMITS = {id: dict(load_rules().findings[id].limits) for id in ("DTH001", "DTH002", "DTH003")}


def judged(positions) -> str | None:
    found = dither.measure(np.asarray(positions, float))
    return dither.finding(found, LIMITS["DTH002"], LIMITS["DTH003"], LIMITS["DTH001"])


def scattered(n: int, px: float, seed: int = 1, drift=(0.0, 0.0)):
    rng = np.random.default_rng(seed)
    return rng.normal(0, px / 2, (n, 2)) + np.arange(n)[:, None] * np.asarray(drift)


def test_numbers_of_a_known_series():
    found = dither.measure(np.array([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0], [9.0, 12.0]]))
    assert found.lights == 4
    assert found.step == pytest.approx(5.0) and found.straightness == pytest.approx(1.0)
    assert found.drift == pytest.approx(15.0) and found.direction == pytest.approx(53.13, abs=0.01)
    pairs = [5.0 * abs(i - j) for i in range(4) for j in range(i)]
    assert found.spread == pytest.approx(np.sqrt(np.mean(np.square(pairs))))


def test_a_good_dither_is_not_reported():
    for seed in range(20):
        assert judged(scattered(20, 12.0, seed)) is None


def test_a_good_dither_on_top_of_a_drift_is_not_reported():
    for seed in range(20):
        assert judged(scattered(20, 12.0, seed, drift=(0.5, -0.3))) is None


def test_lights_that_stand_still_are_reported():
    assert judged(scattered(10, 0.3)) == "DTH001"
    assert judged(np.zeros((10, 2))) == "DTH001"


def test_a_small_dither_is_reported_as_small_only():
    assert judged(scattered(30, 3.0)) == "DTH003"


def test_a_slow_march_in_one_direction_is_walking_noise():
    assert judged(scattered(10, 0.3, drift=(0.6, 0.4))) == "DTH002"


@pytest.mark.parametrize(
    ("n", "drift", "why"),
    [
        (7, 0.7, "too few lights to speak of a march"),
        (10, 0.3, "the whole way is shorter than the pattern: it counts as standing still"),
        (10, 6.0, "steps beyond the pattern leave no streaks"),
    ],
)
def test_marches_that_leave_no_streaks_are_not_walking_noise(n, drift, why):
    assert judged(scattered(n, 0.2, drift=(drift, 0.0))) != "DTH002", why


def test_there_and_back_is_no_march():
    way = np.concatenate([np.arange(10.0), np.arange(10.0)[::-1]])
    assert (
        judged(np.column_stack([way, np.zeros(20)])) is None or judged(np.column_stack([way, np.zeros(20)])) == "DTH003"
    )
    assert dither.measure(np.column_stack([way, np.zeros(20)])).straightness == 0.0


def test_four_lights_are_too_few_to_say_anything():
    assert judged(np.zeros((4, 2))) is None
    assert judged(np.zeros((5, 2))) == "DTH001"


def test_a_small_random_dither_on_a_drift_is_not_walking_noise():
    for seed in range(20):
        assert judged(scattered(20, 4.0, seed, drift=(0.4, 0.0))) != "DTH002"
