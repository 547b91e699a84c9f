import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wbpy.kernels.calibration import calibrate_float, calibrate_int16, flat_gain

NONE = np.empty(0, dtype=np.float32)
MONO = np.empty((0, 0), dtype=np.uint8)
RGGB = np.array([[0, 1], [1, 2]], dtype=np.uint8)
GBRG = np.array([[1, 2], [0, 1]], dtype=np.uint8)


def stored_words(signed):
    return np.asarray(signed, dtype=">i2").view(np.uint8).view(np.uint16)


def twin(values, subtract, gain):
    result = values.astype(np.float64)
    if subtract.size:
        result = result - subtract
    if gain.size:
        result = result * gain
    return result


@pytest.mark.parametrize("bzero", [32768.0, 0.0])
@pytest.mark.parametrize("with_subtract", [True, False])
@pytest.mark.parametrize("with_gain", [True, False])
def test_stored_words_become_calibrated_pixels(bzero, with_subtract, with_gain):
    rng = np.random.default_rng(1)
    signed = np.concatenate([rng.integers(-32768, 32768, 200), [-32768, 32767, 0, -1, 255, 256]])
    subtract = rng.normal(500, 30, signed.size).astype(np.float32) if with_subtract else NONE
    gain = rng.normal(1, 0.1, signed.size).astype(np.float32) if with_gain else NONE
    out = np.empty(signed.size, dtype=np.float32)
    calibrate_int16(stored_words(signed), np.float32(bzero), subtract, gain, out)
    # Two roundings to float32 of numbers below 65536: 2 x 2^-24 relative, 0.01 DN absolute is generous.
    np.testing.assert_allclose(out, twin(signed + bzero, subtract, gain), rtol=3e-7, atol=0.01)
    if not with_subtract and not with_gain:
        np.testing.assert_array_equal(out, signed + bzero)


def test_bands_give_the_bits_of_the_whole():
    rng = np.random.default_rng(2)
    words = rng.integers(0, 65536, 1000).astype(np.uint16)
    subtract = rng.normal(500, 30, 1000).astype(np.float32)
    gain = rng.normal(1, 0.1, 1000).astype(np.float32)
    whole = np.empty(1000, dtype=np.float32)
    calibrate_int16(words, np.float32(32768), subtract, gain, whole)
    banded = np.empty_like(whole)
    for a, b in [(0, 1), (1, 334), (334, 1000)]:
        calibrate_int16(words[a:b], np.float32(32768), subtract[a:b], gain[a:b], banded[a:b])
    np.testing.assert_array_equal(banded, whole)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-1000, 70000, width=32), min_size=1, max_size=20),
    st.booleans(),
    st.booleans(),
)
def test_float_pixels_are_calibrated_in_place_or_not(values, with_subtract, with_gain):
    pixels = np.array(values, dtype=np.float32)
    subtract = np.linspace(0, 900, pixels.size, dtype=np.float32) if with_subtract else NONE
    gain = np.linspace(0.5, 2, pixels.size, dtype=np.float32) if with_gain else NONE
    expected = twin(pixels, subtract, gain)
    out = np.empty_like(pixels)
    calibrate_float(pixels, subtract, gain, out)
    np.testing.assert_allclose(out, expected, rtol=3e-7, atol=0.02)
    calibrate_float(pixels, subtract, gain, pixels)
    np.testing.assert_array_equal(pixels, out)


def test_missing_dark_or_flat_pixel_is_missing_in_the_light():
    nan = np.float32(np.nan)
    subtract = np.array([1, nan, 1, 1], dtype=np.float32)
    gain = np.array([1, 1, nan, 1], dtype=np.float32)
    out = np.empty(4, dtype=np.float32)
    calibrate_float(np.array([5, 5, 5, nan], dtype=np.float32), subtract, gain, out)
    np.testing.assert_array_equal(np.isnan(out), [False, True, True, True])
    calibrate_int16(stored_words([5, 5, 5, 5]), np.float32(0), subtract, gain, out)
    np.testing.assert_array_equal(np.isnan(out), [False, True, True, False])


def slow_trimmed_mean(values, clip):
    ordered = np.sort(values[~np.isnan(values)].astype(np.float64))
    cut = max(1, int(clip * ordered.size))
    return ordered[cut : ordered.size - cut].mean()


def test_mono_flat_is_scaled_by_its_trimmed_mean():
    rng = np.random.default_rng(3)
    flat = rng.normal(20000, 500, (40, 50)).astype(np.float32)
    flat[3, 4] = 65535 * 100
    gain, factors, missing = flat_gain(flat, MONO)
    assert factors.shape == (1,)
    assert factors[0] == pytest.approx(slow_trimmed_mean(flat.ravel(), 0.05), rel=1e-12)
    np.testing.assert_allclose(gain, factors[0] / flat.astype(np.float64), rtol=2e-7)
    assert missing == 0


@pytest.mark.parametrize("cfa", [RGGB, GBRG])
def test_colour_flat_has_one_scale_for_each_colour_and_both_greens_together(cfa):
    rng = np.random.default_rng(4)
    level = np.array([8000.0, 20000.0, 12000.0])
    y, x = np.mgrid[0:41, 0:50]
    colour = cfa[y % 2, x % 2]
    flat = (level[colour] * rng.normal(1, 0.01, colour.shape)).astype(np.float32)
    gain, factors, missing = flat_gain(flat, cfa)
    for c in range(3):
        assert factors[c] == pytest.approx(slow_trimmed_mean(flat[colour == c], 0.05), rel=1e-12)
    np.testing.assert_allclose(gain, factors[colour] / flat.astype(np.float64), rtol=2e-7)
    assert missing == 0


def test_flat_of_a_six_by_six_mosaic_has_one_scale_for_each_colour():
    cell = np.array(["RGB".index(c) for c in "GBGGRGRGRBGBGBGGRGGRGGBGBGBRGRGRGGBG"], np.uint8).reshape(6, 6)
    y, x = np.indices((41, 50)) % 6
    level = np.array([8000.0, 20000.0, 12000.0])[cell[y, x]]
    flat = (level * np.random.default_rng(4).normal(1, 0.01, level.shape)).astype(np.float32)
    gain, factors, _ = flat_gain(flat, cell)
    for c in range(3):
        assert factors[c] == pytest.approx(slow_trimmed_mean(flat[cell[y, x] == c], 0.05), rel=1e-12)
    np.testing.assert_allclose(gain, factors[cell[y, x]] / flat.astype(np.float64), rtol=2e-7)


def test_dead_flat_pixels_are_missing_and_counted():
    flat = np.full((10, 10), 1000, dtype=np.float32)
    flat[0, 0], flat[5, 5], flat[9, 9] = 0, -3, np.nan
    gain, factors, missing = flat_gain(flat, MONO)
    assert missing == 3
    assert np.isnan(gain[[0, 5, 9], [0, 5, 9]]).all()
    assert np.count_nonzero(np.isnan(gain)) == 3
    assert factors[0] == pytest.approx(1000)


def test_dark_flat_is_refused_and_the_colour_named():
    with pytest.raises(ValueError, match="flat has a trimmed mean of 0 DN"):
        flat_gain(np.zeros((8, 8), dtype=np.float32), MONO)
    flat = np.full((8, 8), 1000, dtype=np.float32)
    flat[1::2, 1::2] = np.nan
    with pytest.raises(ValueError, match="B part"):
        flat_gain(flat, RGGB)
