import numpy as np
import pytest

from wbpy.kernels.mosaics import detect_outliers, replace_defects
from wbpy.simulate.dng import XTRANS

CELL = np.array(["RGB".index(letter) for letter in XTRANS], np.uint8).reshape(6, 6)
SKY = np.array([300.0, 520.0, 410.0])


def colours(shape):
    y, x = np.indices(shape)
    return CELL[y % 6, x % 6]


def sky(shape, seed=1, sigma=10.0):
    rng = np.random.default_rng(seed)
    return (SKY[colours(shape)] + rng.normal(0, sigma, shape)).astype(np.float32)


def test_defects_take_the_median_of_good_neighbours_of_their_colour():
    image = sky((40, 42))
    kinds = colours(image.shape)
    before = image.copy()
    listed = np.array([5 * 42 + 7, 5 * 42 + 8, 20 * 42 + 20, 39 * 42 + 41, 0])
    image[30, 30] = before[30, 30] = np.nan
    image.reshape(-1)[listed] = 60000
    good = before.copy()
    good.reshape(-1)[listed] = np.nan
    assert replace_defects(image, np.sort(listed), CELL) == 0
    for index in listed:
        y, x = divmod(int(index), 42)
        box = np.s_[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3]
        near = good[box][(kinds[box] == kinds[y, x]) & np.isfinite(good[box])]
        assert image[y, x] == pytest.approx(np.median(near), rel=1e-6)
    rest = np.ones(image.size, bool)
    rest[listed] = False
    np.testing.assert_array_equal(image.reshape(-1)[rest], before.reshape(-1)[rest])


def test_a_defect_without_good_neighbours_becomes_missing():
    image = np.full((20, 20), np.nan, np.float32)
    image[3, 3] = 100.0
    assert replace_defects(image, np.array([3 * 20 + 3]), CELL) == 1
    assert np.isnan(image).all()


def test_hot_and_cold_pixels_are_found_in_every_colour():
    image = sky((120, 120))
    rng = np.random.default_rng(2)
    spots = 6 * rng.permutation(324)[:60] + 0
    y, x = 3 + 6 * (spots // 6 // 18), 3 + 6 * (spots // 6 % 18)
    y, x = y + rng.integers(0, 3, 60), x + rng.integers(0, 3, 60)
    # A detection needs eight times the light beside it, which in noise is about two sigma: 25 sigma is sure.
    image[y[:30], x[:30]] += 250
    image[y[30:], x[30:]] -= 200
    found = detect_outliers(image, CELL, 6.0, 6.0)
    assert set(np.sort(y * 120 + x).tolist()) <= set(found.tolist())
    # 14,400 pixels of normal noise: none lies 6 sigma above the second highest beside it.
    assert len(found) == 60


@pytest.mark.parametrize("fwhm", [1.5, 2.0, 3.0])
def test_stars_of_all_colours_are_no_hot_pixels(fwhm):
    rng = np.random.default_rng(3)
    image = sky((240, 240)).astype(np.float64)
    kinds = colours(image.shape)
    y, x = np.indices(image.shape)
    for v in range(12, 232, 12):
        for u in range(12, 232, 12):
            at_y, at_x = v + rng.uniform(-0.5, 0.5), u + rng.uniform(-0.5, 0.5)
            tint = np.exp(rng.normal(0, 0.35, 3))
            light = 10 ** rng.uniform(2.5, 4.5) * 2.0 ** (-4 * ((x - at_x) ** 2 + (y - at_y) ** 2) / fwhm**2)
            image += tint[kinds] * light
    found = detect_outliers(image.astype(np.float32), CELL, 6.0, 6.0)
    # Of 361 stars at most one in a hundred may look like a defect, and then it is a sharp one of one colour.
    assert len(found) <= (4 if fwhm < 1.8 else 0)


def test_missing_pixels_are_not_listed_and_nothing_is_sought_with_zeros():
    image = sky((60, 60))
    image[20:24, 20:24] = np.nan
    assert detect_outliers(image, CELL, 6.0, 6.0).size == 0
    image[40, 40] = 9000
    assert detect_outliers(image, CELL, 0.0, 0.0).size == 0
    assert detect_outliers(image, CELL, 6.0, 0.0).tolist() == [40 * 60 + 40]
