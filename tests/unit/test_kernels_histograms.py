"""Levels of tiles: from pixels and from stored words the same, and as slow NumPy says."""

import math

import numpy as np
import pytest

from wbpy.kernels import histograms

SIZES = [(37, 61, 2, 0), (37, 61, 2, 3), (40, 33, 1, 5), (3, 5, 2, 1), (1, 1, 1, 0), (1, 40, 2, 1)]


def frame(h: int, w: int, seed: int = 1) -> np.ndarray:
    """Whole numbers around 500 DN with noise of 20 DN, one pixel in a hundred anywhere on the scale."""
    rng = np.random.default_rng(seed)
    image = rng.normal(500, 20, (h, w)).round()
    image += (rng.random((h, w)) < 0.01) * rng.integers(0, 60000, (h, w))
    return np.clip(image, 0, 65535).astype(np.float32)


def as_words(image: np.ndarray, bzero: float) -> np.ndarray:
    return (image - bzero).astype(">i2").ravel().view(np.uint16)


def twin(image: np.ndarray, y0: int, cell: int, columns: int, least: float, most: int) -> np.ndarray:
    """Level, deviation and number of each tile and plane by sorting."""
    h, w = image.shape
    out = np.full((3, cell * cell, columns), np.nan)
    edges = [cell * (column * (-(-w // cell)) // columns) for column in range(columns)] + [w]
    for plane in range(cell * cell):
        y = (plane // cell - y0) % cell
        for tile in range(columns):
            values = image[y::cell, edges[tile] + plane % cell : edges[tile + 1] : cell].ravel().astype(np.float64)
            values = values[:: max(1, values.size // most) | 1]
            values = values[np.isfinite(values)]
            if not values.size:
                out[2, plane, tile] = 0
                continue
            middle = np.median(values)
            reach = max(4 * 1.4826 * np.median(np.abs(values - middle)), least)
            near = values[np.abs(values - middle) <= reach]
            out[:, plane, tile] = near.mean(), near.std(), near.size
    return out


@pytest.mark.parametrize(("h", "w", "cell", "y0"), SIZES)
def test_levels_of_tiles_are_clipped_means(h: int, w: int, cell: int, y0: int) -> None:
    image = frame(h, w)
    if h > 3:
        image[2, 3:9] = np.nan
    found = histograms.tile_levels(image, y0, cell, 4, 40.0, 64)
    # Squares of numbers near 500 in float64.
    np.testing.assert_allclose(found, twin(image, y0, cell, 4, 40.0, 64), rtol=1e-12, atol=1e-5)


@pytest.mark.parametrize("bzero", [32768.0, 0.0])
@pytest.mark.parametrize(("h", "w", "cell", "y0"), SIZES)
def test_stored_words_give_the_same_levels_as_pixels(h: int, w: int, cell: int, y0: int, bzero: float) -> None:
    image = frame(h, w)
    if bzero == 0:
        image = np.minimum(image, 32767) - 200
    words = histograms.tile_levels_of_words(as_words(image, bzero), w, bzero, y0, cell, 4, 10.0, 64)
    np.testing.assert_array_equal(words, histograms.tile_levels(image, y0, cell, 4, 10.0, 64))


def test_flat_tiles_and_tiles_of_two_levels_are_ranked_like_any_other() -> None:
    for image in (np.full((8, 8), 7.0), np.arange(64).reshape(8, 8) % 2 * 65535.0, np.arange(64.0).reshape(8, 8)):
        pixels = image.astype(np.float32)
        found = histograms.tile_levels_of_words(as_words(pixels, 32768.0), 8, 32768.0, 0, 1, 2, 0.0)
        np.testing.assert_array_equal(found, histograms.tile_levels(pixels, 0, 1, 2, 0.0))


def test_the_mean_of_a_histogram_is_exact() -> None:
    counts = np.zeros(histograms.SIZE, np.int64)
    levels = np.random.default_rng(4).integers(-300, 66000, 500)
    number = np.random.default_rng(5).integers(1, 10**8, 500)
    np.add.at(counts, levels - histograms.FIRST, number)
    exact = math.fsum(int(a) * int(b) for a, b in zip(levels, number, strict=True)) / int(number.sum())
    # One rounding of the quotient, one of the sum.
    assert histograms.describe(counts)[0] == pytest.approx(exact, rel=3e-16, abs=1e-11)
