"""Defective lines: found where they were put, subtracted by what was added, and nothing else touched."""

from __future__ import annotations

import numpy as np
import pytest

from wbpy.kernels.lines import COLUMN, ROW, across, clipped_middle, find_lines, subtract_lines

SHAPE = (200, 240)


def sky(seed: int, noise: float, stars: int = 60) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    image = 900 + 0.4 * x - 0.2 * y + 300 * np.exp(-((x - 150) ** 2 + (y - 60) ** 2) / 1500)
    for _ in range(stars):
        cx, cy = rng.uniform(0, SHAPE[1]), rng.uniform(0, SHAPE[0])
        image += 10 ** rng.uniform(2, 4.3) * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 4)
    return (image + rng.normal(0, noise, SHAPE)).astype(np.float32)


def with_lines(image: np.ndarray) -> np.ndarray:
    out = image.copy()
    out[:, 40] += 20
    out[90:, 100] -= 25
    out[30:110, 101] += 30
    out[60, :] += 15
    return out


def twin_across(image: np.ndarray, step: int, side: int) -> np.ndarray:
    out = np.full(image.shape, np.nan)
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            at = [x + side * k * step for k in (1, 2, 3) if 0 <= x + side * k * step < image.shape[1]]
            near = image[y, at].astype(np.float64)
            if np.isfinite(near).any():
                out[y, x] = image[y, x] - np.nanmedian(near)
    return out


@pytest.mark.parametrize("step", [1, 2])
def test_difference_across_is_that_to_the_median_of_three_on_either_side(step: int) -> None:
    image = np.random.default_rng(1).normal(100, 10, (5, 17)).astype(np.float32)
    image[2, 3] = image[1, 16] = np.nan
    left, right = across(image, step)
    np.testing.assert_allclose(left, twin_across(image, step, -1), atol=1e-4)
    np.testing.assert_allclose(right, twin_across(image, step, 1), atol=1e-4)


def test_median_is_cut_from_above_only() -> None:
    rng = np.random.default_rng(2)
    values = rng.normal(0, 1, 4000).astype(np.float32)
    values[:800] = rng.uniform(20, 9000, 800)
    values[800] = np.nan
    # A median of 3200 values: 1.25 / sqrt(3200) = 0.022; the cut at 3 sigma shifts it by a hundredth at most.
    assert abs(clipped_middle(values.copy(), 3.0)) < 0.1
    assert np.isnan(clipped_middle(np.full(3, np.nan, np.float32), 3.0))
    assert clipped_middle(np.full(5, 7, np.float32), 3.0) == 7.0


def test_lines_are_found_whole_and_in_part() -> None:
    average = with_lines(sky(3, 2.0))
    found = [tuple(int(n) for n in line) for line in find_lines(average, 1, 5.0, 50)]
    whole = [line for line in found if line[3] - line[2] >= 200]
    assert whole == [(COLUMN, 40, 0, 200), (ROW, 60, 0, 240)]
    parts = {line[:2]: line[2:] for line in found if line not in whole}
    assert set(parts) == {(COLUMN, 100), (COLUMN, 101)}
    for key, ends in (((COLUMN, 100), (90, 200)), ((COLUMN, 101), (30, 110))):
        # A running median keeps an edge; noise of a tenth of the step moves it by a few pixels.
        assert np.abs(np.subtract(parts[key], ends)).max() <= 6


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_found_in_a_clean_field(seed: int) -> None:
    assert find_lines(sky(seed, 2.0), 1, 5.0, 50).size == 0


def test_lines_of_a_mosaic_are_compared_with_their_own_colours() -> None:
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    colours = np.array([[1.0, 2.0], [2.0, 0.5]])[y % 2, x % 2]
    average = (sky(5, 2.0, stars=20) * colours).astype(np.float32)
    assert find_lines(average, 2, 5.0, 50).size == 0
    average[:, 77] += 40
    assert find_lines(average, 2, 5.0, 50).tolist() == [[COLUMN, 77, 0, 200]]


def test_what_a_line_adds_is_subtracted_and_nothing_else() -> None:
    clean = sky(7, 8.0)
    lines = np.array([[0, 40, 0, 200], [0, 100, 90, 200], [0, 101, 30, 110], [1, 60, 0, 240]])
    image = with_lines(clean)
    subtract_lines(image, lines, 1, 5.0)
    on_lines = np.zeros(SHAPE, bool)
    on_lines[:, 40] = on_lines[90:, 100] = on_lines[30:110, 101] = on_lines[60, :] = True
    np.testing.assert_array_equal(image[~on_lines], clean[~on_lines])
    # One number a line: noise 8 DN, 80 to 240 pixels, and six neighbours: 8 x 1.25 x 1.2 / sqrt(80) = 1.3 DN.
    for part in (np.s_[:, 40], np.s_[110:, 100], np.s_[30:90, 101], np.s_[60, :]):
        shift = np.median(image[part] - clean[part])
        assert abs(shift) < 4 and np.ptp(image[part] - clean[part]) < 30


def test_colours_along_a_line_are_corrected_apart() -> None:
    image = np.full(SHAPE, 100, np.float32)
    image[::2, 50] += 10
    image[1::2, 50] += 30
    subtract_lines(image, np.array([[0, 50, 0, 200]]), 2, 5.0)
    np.testing.assert_array_equal(image, 100)
