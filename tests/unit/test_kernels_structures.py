"""Large structures in the maps of rejected samples, against SciPy and on trails."""

import numpy as np
import pytest
from scipy import ndimage

from wbpy.kernels import structures


def twin(mask: np.ndarray, layers: int, growth: int) -> np.ndarray:
    """The same by SciPy's median filter and dilation."""
    current = mask
    for layer in range(layers):
        current = ndimage.median_filter(current, size=2 ** (layer + 1) + 1, mode="constant", cval=0)
    y, x = np.mgrid[-growth : growth + 1, -growth : growth + 1]
    disc = y**2 + x**2 <= growth**2
    return ndimage.binary_dilation(current, disc).astype(np.uint8)


def trail(width: int) -> np.ndarray:
    mask = np.zeros((50, 70), np.uint8)
    for x in range(70):
        top = 10 + x // 3
        mask[top : top + width, x] = 1
    return mask


@pytest.mark.parametrize(("layers", "growth"), [(0, 0), (0, 3), (1, 1), (2, 2), (3, 5)])
def test_result_equals_median_filters_and_a_dilation(layers: int, growth: int):
    rng = np.random.default_rng(layers)
    for mask in (trail(4), (rng.random((41, 37)) < 0.45).astype(np.uint8), np.ones((5, 3), np.uint8)):
        np.testing.assert_array_equal(structures.large(mask, layers, growth), twin(mask, layers, growth))


def test_a_trail_is_widened_and_noise_is_forgotten():
    noise = (np.random.default_rng(1).random((50, 70)) < 0.03).astype(np.uint8)
    assert structures.large(noise, 2, 2).sum() == 0
    wide = structures.large(trail(4) | noise, 2, 2)
    inner = np.s_[:, 10:60]
    assert (wide[inner] >= trail(4)[inner]).all()
    # Two pixels above and below a slope of one third.
    assert 7 <= wide[inner].sum() / 50 <= 10


def test_nothing_acts_beyond_the_reach():
    mask = (np.random.default_rng(2).random((80, 80)) < 0.5).astype(np.uint8)
    for layers, growth in ((2, 2), (1, 4), (0, 0)):
        reach = structures.reach(layers, growth)
        whole = structures.large(mask, layers, growth)
        part = structures.large(np.ascontiguousarray(mask[20:60, 20:60]), layers, growth)
        inner = np.s_[reach : 40 - reach, reach : 40 - reach]
        np.testing.assert_array_equal(part[inner], whole[20:60, 20:60][inner])
    assert structures.reach(2, 2) == 5


def test_negative_numbers_are_refused():
    with pytest.raises(ValueError, match="growth -1"):
        structures.large(trail(2), 1, -1)
