"""Previews: right place, right size, visible background."""

import numpy as np
import pytest
from PIL import Image

from wbpy.io.preview import auto_stretch, shrink, write_preview

RNG = np.random.default_rng(7)


def shrink_slowly(plane, step):
    height, width = plane.shape
    out = np.full((-(-height // step), -(-width // step)), np.nan)
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            cell = plane[y * step : (y + 1) * step, x * step : (x + 1) * step].astype(np.float64)
            if np.isfinite(cell).any():
                out[y, x] = cell[np.isfinite(cell)].mean()
    return out


@pytest.mark.parametrize("step", [1, 2, 3, 7, 50])
def test_shrunk_image_has_the_means_of_the_blocks(step):
    plane = RNG.normal(10, 1, (23, 31)).astype(np.float32)
    plane[3:9, 3:9] = np.nan
    np.testing.assert_allclose(shrink(plane, step), shrink_slowly(plane, step), rtol=1e-6)


@pytest.mark.parametrize("unit", [1.0, 65535.0, 1e-6])
def test_background_gets_a_quarter_of_the_brightness_in_any_unit(unit):
    image = (RNG.normal(0.01, 0.001, (100, 100)) + 0.1) * unit
    image[50, 50] = unit
    stretched = auto_stretch(image)
    assert abs(np.median(stretched) - 0.25) < 0.01
    assert stretched.min() >= 0.0
    assert stretched.max() == 1.0


def test_missing_pixels_are_black_and_a_constant_image_is_grey():
    image = np.full((4, 4), 3.0)
    image[0, 0] = np.nan
    stretched = auto_stretch(image)
    assert stretched[0, 0] == 0.0
    assert stretched[1, 1] == 0.25
    assert not auto_stretch(np.full((2, 2), np.nan)).any()


def test_preview_keeps_orientation_and_limits_its_size(tmp_path):
    image = RNG.normal(100, 1, (60, 90)).astype(np.float32)
    image[:10, :10] += 1000
    write_preview(tmp_path / "a.png", image, max_side=30)
    picture = np.asarray(Image.open(tmp_path / "a.png"))
    assert picture.shape == (20, 30)
    assert picture[0, 0] > 200
    assert picture[-1, -1] < 120
    write_preview(tmp_path / "b.png", image, max_side=30, bottom_up=True)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "b.png")), picture[::-1])


def test_unlinked_colours_lose_the_tint_of_the_sky(tmp_path):
    image = RNG.normal(0, 1, (3, 40, 40)).astype(np.float32) + np.array([100, 50, 20], np.float32)[:, None, None]
    write_preview(tmp_path / "a.png", image)
    unlinked = np.median(np.asarray(Image.open(tmp_path / "a.png")), axis=(0, 1))
    assert np.ptp(unlinked) <= 6
    write_preview(tmp_path / "b.png", image, linked=True)
    linked = np.median(np.asarray(Image.open(tmp_path / "b.png")), axis=(0, 1))
    assert np.ptp(linked) > 50


@pytest.mark.parametrize("shape", [(4,), (2, 4, 4), (0, 4)])
def test_shape_without_a_picture_is_refused(tmp_path, shape):
    with pytest.raises(ValueError, match="no preview"):
        write_preview(tmp_path / "a.png", np.zeros(shape, np.float32))
