"""Each check sees its fault at a strength that matters, and is silent just short of it."""

import math
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from checked_frames import RULES, Pixels, frame, ids, mean, measured, observe, take

from wbpy import inspecting
from wbpy.kernels import histograms
from wbpy.simulate import Optics, Sensor, SessionSpec, write_session
from wbpy.simulate.dng import XTRANS
from wbpy.stages import checks

SENSOR = Sensor(width=128, height=96, glow_e_per_s=0.0)
COLOUR = replace(SENSOR, cfa="RGGB")
SATURATION = SENSOR.saturation_dn


def check(frames, **levels):
    return checks.check_set(RULES, "set", frames, **levels)


@lru_cache
def bias(count: int = 6, **changes):
    return tuple(take("bias", count, replace(SENSOR, **changes)))


def flats(level: float = 0.45, sensor: Sensor = SENSOR, count: int = 6, vignetting: float = 0.3, **options):
    """Return flats whose brightest part has `level` of the range."""
    light = Optics(vignetting=vignetting, n_dust=0).flat(sensor.width, sensor.height)
    rate = level * (SATURATION - sensor.offset_dn) * sensor.e_per_dn / 2.0 * light
    options.setdefault("rate", lambda number: rate)
    return take("flat", count, sensor, 2.0, **options)


# --------------------------------------------------------------------------------------------------------------------
# statistics of one frame
def test_statistics_are_those_of_numpy():
    rng = np.random.default_rng(1)
    image = rng.normal(500, 40, (61, 83)).round().astype(np.float32)
    image[3, 4], image[10, 11], image[20, 30] = -3, 65535, np.nan
    for cfa, names in ((None, ["all"]), ("GRBG", ["G", "R", "B", "G2"])):
        seen = checks.measure_frame(Pixels(image), cfa)
        assert [plane.name for plane in seen.planes] == names
        assert seen.missing == 1
        assert seen.broken == 0
        values = image[np.isfinite(image)].astype(np.float64)
        assert seen.whole.mean == pytest.approx(values.mean(), abs=1e-9)
        assert seen.whole.median == np.median(values)
        assert seen.whole.mad == np.median(np.abs(values - np.median(values)))
        assert (seen.whole.minimum, seen.whole.maximum) == (-3, 65535)
        assert seen.whole.at_zero == 1
        assert seen.above[0] == values.size - 1
        assert seen.above[1] == np.count_nonzero(values >= 512)
        if cfa:
            for number, plane in enumerate(seen.planes):
                part = image[number // 2 :: 2, number % 2 :: 2]
                assert plane.median == np.nanmedian(part)
                assert plane.pixels == np.isfinite(part).sum()


def test_the_colours_of_an_xtrans_frame_are_told_apart():
    rng = np.random.default_rng(5)
    colours = np.array(list(XTRANS)).reshape(6, 6)
    colour = np.tile(colours, (31, 41))[:181, :243]
    level = np.where(colour == "R", 2000.0, np.where(colour == "G", 5000.0, 3000.0))
    image = rng.normal(level, 30.0).round().astype(np.float32)
    seen = checks.measure_frame(Pixels(image), XTRANS)
    assert [plane.name for plane in seen.planes] == ["R", "G", "B"]
    for plane in seen.planes:
        part = image[colour == plane.name].astype(np.float64)
        assert (plane.pixels, plane.mean, plane.median) == (part.size, pytest.approx(part.mean()), np.median(part))
    # The noise of one colour, not the differences between them: known to 30 / sqrt(2 x 8 samples of a tile) a tile, the
    # median of 64 tiles to a tenth of it.
    assert seen.noise == pytest.approx(30.0, abs=3.0)
    for grid, value in zip(seen.grid(), (2000.0, 5000.0, 3000.0), strict=True):
        assert np.abs(grid - value).max() < 5 * 30.0 / math.sqrt(100)
    stored = Pixels(image)
    words = (image.astype(np.int32) - 32768).astype(">i2").reshape(-1).view(np.uint16)
    stored.words = lambda y0, y1: (words[y0 * 243 : y1 * 243], 32768.0)
    assert checks.measure_frame(stored, XTRANS).planes == seen.planes
    assert checks.measure_frame(stored, XTRANS).grid() == pytest.approx(seen.grid(), abs=1e-6)


@pytest.mark.parametrize("cfa", [None, "RGGB", XTRANS])
def test_lights_without_a_background_above_zero_or_without_many_pixels_are_looked_at_quietly(cfa):
    image = np.random.default_rng(7).normal(-50, 10, (96, 128)).astype(np.float32)
    image[:48] = np.nan
    # Warnings are errors; a light below zero is told with the level of the half that it has.
    seen = checks.examine_lights(RULES, "light", [("a", image), ("b", image), ("c", image)], cfa)
    assert ids(seen) == ["CHK002"]
    assert seen[0].evidence["background_dn"] == pytest.approx(-50, abs=1)
    flat = np.ones_like(image)
    masters = {"flat": flat, "dark": flat, "bias": flat, "offset_dn": 500.0}
    assert ids(checks.examine_lights(RULES, "light", [("a", image), ("b", image), ("c", image)], cfa, **masters)) == [
        "CHK002"
    ]
    nothing = np.full_like(image, np.nan)
    assert checks.examine_lights(RULES, "light", [("a", nothing), ("b", nothing), ("c", nothing)], cfa, **masters) == []


def test_the_background_of_xtrans_lights_has_no_shape_of_its_own():
    colours = np.array(list(XTRANS)).reshape(6, 6)
    colour = np.tile(colours, (40, 40))
    image = np.where(colour == "R", 200.0, np.where(colour == "G", 500.0, 300.0)).astype(np.float32)
    assert checks.field_of(image, XTRANS) == pytest.approx(1.0, abs=1e-6)


def test_histogram_keeps_the_colours_apart_over_bands_of_any_height():
    rng = np.random.default_rng(2)
    image = rng.integers(-20000, 90000, (23, 17)).astype(np.float32) + np.float32(0.25)
    whole = np.zeros((4, histograms.SIZE), np.int64)
    histograms.count_levels(image, 0, 2, whole)
    parts = np.zeros_like(whole)
    broken = 0
    for y0, y1 in ((0, 5), (5, 6), (6, 23)):
        broken += histograms.count_levels(image[y0:y1], y0, 2, parts)[1]
    assert (whole == parts).all()
    assert broken == image.size
    low, high = histograms.FIRST, histograms.FIRST + histograms.SIZE - 1
    for plane in range(4):
        values = np.clip(np.floor(image[plane // 2 :: 2, plane % 2 :: 2].astype(np.float64) + 0.5), low, high)
        expected = np.bincount((values - low).astype(int).ravel(), minlength=histograms.SIZE)
        assert (whole[plane] == expected).all()


@pytest.mark.parametrize("cell", [1, 2])
def test_medians_of_blocks_and_isolated_pixels_are_those_of_numpy(cell: int):
    rng = np.random.default_rng(7)
    image = rng.normal(100, 10, (26, 34)).astype(np.float32)
    image[3, 4] = np.nan
    image[:8, 8:16] = np.nan
    image[20, 21] += 500
    image[12, 30] += 500
    image[12, 30 - cell] += 400
    scale = np.arange(1.0, cell * cell + 1)
    out = np.empty((3, 4), np.float32)
    histograms.block_medians(image, 8, cell, scale, out)
    planes = scale.reshape(cell, cell)[np.arange(26)[:, None] % cell, np.arange(34) % cell]
    for r in range(3):
        for c in range(4):
            part = (image.astype(np.float64) / planes)[8 * r : 8 * r + 8, 8 * c : 8 * c + 8]
            expected = np.nanmedian(part) if np.isfinite(part).any() else np.nan
            assert out[r, c] == pytest.approx(expected, rel=1e-6, nan_ok=True)
    marked = np.zeros(image.shape, np.uint8)
    # The first stands alone, the second has light beside it as a star has.
    assert histograms.isolated_pixels(image, cell, np.full(cell * cell, 80.0), marked) == 1
    assert marked[20, 21] == 1


@pytest.mark.parametrize(("bits", "step"), [(12, 16), (14, 4), (16, 1)])
def test_the_bit_scale_is_read_from_the_gaps(bits: int, step: int):
    [one] = take("dark", 1, replace(SENSOR, adc_bits=bits, read_noise_e=40.0), 60.0)
    assert one.statistics.whole.step == step


def test_saturation_is_measured_where_bright_pixels_pile_up():
    rng = np.random.default_rng(3)
    image = rng.normal(30_000, 9_000, (200, 200))
    full = np.minimum(image, 41_000) + rng.normal(0, 3, image.shape)
    seen = checks.measure_frame(Pixels(full.round()), None)
    assert seen.saturation == pytest.approx(41_000, abs=3)
    assert checks.measure_frame(Pixels(image.round()), None).saturation is None


def test_a_narrow_sky_at_the_top_of_the_histogram_is_no_saturation():
    rng = np.random.default_rng(4)
    image = rng.normal(3000, 30, (200, 200))
    image[:, :120] -= 1500
    assert checks.measure_frame(Pixels(image.round()), None).saturation is None


def test_level_of_coarse_steps_is_known_to_a_fraction_of_a_step():
    sensor = replace(SENSOR, adc_bits=12, bias_column_dn=0.0, bias_gradient_dn=0.0, read_noise_e=8.0)
    levels = [one.statistics.level for one in take("bias", 4, sensor)]
    # Noise sqrt((8/0.8)^2 + 16^2/12) = 11 DN over 12288 pixels: 0.1 DN; the grid of 16 DN adds at most 0.5.
    assert levels == pytest.approx([500.0] * 4, abs=0.9)


def test_a_frame_without_any_pixel_has_no_statistics():
    seen = checks.measure_frame(Pixels(np.full((16, 16), np.nan)), None)
    assert np.isnan(seen.level)
    assert seen.missing == 256


# --------------------------------------------------------------------------------------------------------------------
# bias and dark
def test_offset_too_small_is_seen_in_bias_and_dark():
    for role in ("bias", "dark"):
        # The noise is 4 DN with the column pattern: an offset of two sigma cuts 2 %, one of five sigma nothing.
        assert ids(check(take(role, 4, replace(SENSOR, offset_dn=8.0)))) == ["CHK001"]
        assert ids(check(take(role, 4, replace(SENSOR, offset_dn=25.0)))) == []


def test_darks_from_which_the_bias_was_subtracted_are_refused():
    def subtracted(number, pixels):
        return np.maximum(pixels - SENSOR.offset_dn, 0.0)

    seen = check(take("dark", 4, SENSOR, 60.0, treat=subtracted))
    assert ids(seen) == ["CHK005"]
    assert len(seen) == 4
    assert seen[0].evidence["percent"] > 20
    assert ids(check(take("dark", 4, SENSOR, 60.0), offset_dn=500.0)) == []


def test_darks_far_below_the_bias_are_refused_even_if_nothing_was_cut():
    def subtracted(number, pixels):
        return pixels - 400.0

    darks = take("dark", 4, SENSOR, 60.0, treat=subtracted)
    assert ids(check(darks, offset_dn=500.0)) == ["CHK005"]
    assert ids(check(darks)) == []


def leak(strength: float):
    y, x = np.indices((SENSOR.height, SENSOR.width))
    return strength * np.exp(-np.hypot(x, y) / 30.0)


def test_a_dark_with_light_in_a_corner_is_an_outlier_of_its_set():
    # 0.2 e-/s for 60 s are 15 DN in the corner, some 10 DN in its tile; the noise is 4 DN.
    seen = check(take("dark", 6, SENSOR, 60.0, rate=lambda number: leak(0.2) if number == 3 else 0 * leak(1)))
    assert ids(seen) == ["CHK007"]
    assert seen[0].subject.endswith("dark_3.fits")
    assert seen[0].evidence["place"] == "upper left"
    assert check(take("dark", 6, SENSOR, 60.0, rate=lambda number: leak(0.01) if number == 3 else 0 * leak(1))) == []


def test_darks_that_brighten_from_frame_to_frame_follow_a_trend():
    def rising(strength):
        return take("dark", 6, SENSOR, 60.0, rate=lambda number: np.full((96, 128), strength * number))

    # 0.02 e-/s more in each frame: 5 x 0.02 x 60 / 0.8 = 7.5 DN in all.
    seen = [one for one in check(rising(0.02)) if one.id == "CHK008"]
    assert seen
    assert seen[0].evidence["change_dn"] == pytest.approx(7.5, abs=0.5)
    assert "CHK008" not in ids(check(rising(0.001)))


def test_a_trend_of_the_temperature_is_no_leak():
    frames = [
        measured(np.full((64, 64), 500.0 + 5 * n) + np.random.default_rng(n).normal(0, 4, (64, 64)).round(), "dark",
                 f"d{n}", temp_ccd=10.0 + n)
        for n in range(6)
    ]  # fmt: skip
    assert check(frames) == []


def test_a_bias_level_that_wanders_is_reported():
    def drift(amount):
        return take("bias", 6, SENSOR, treat=lambda number, pixels: pixels + round(amount * number))

    seen = check(drift(1.0))
    assert ids(seen) == ["CHK009"]
    assert seen[0].evidence["range_dn"] == pytest.approx(5.0, abs=0.3)
    assert check(drift(0.05)) == []


def test_a_bias_gradient_that_changes_is_reported():
    def tilt(amount):
        slope = np.linspace(-0.5, 0.5, SENSOR.width)[None, :]
        return take("bias", 6, SENSOR, treat=lambda n, pixels: pixels + np.rint(amount * slope * (n == 2)))

    seen = check(tilt(12.0))
    assert ids(seen) == ["CHK010"]
    assert [one.subject for one in seen] == ["/night/bias/bias_2.fits"]
    assert check(tilt(1.5)) == []


def test_a_bias_of_half_a_second_is_no_bias():
    assert ids(check(take("bias", 3, SENSOR, 0.5))) == ["CHK011"]
    assert check(take("bias", 3, SENSOR, 0.05)) == []


def test_an_offset_that_costs_range_is_reported():
    assert ids(check(bias(offset_dn=8000.0))) == ["CHK030"]
    assert check(bias(offset_dn=5000.0)) == []


def test_a_bias_level_that_camera_and_offset_do_not_explain_is_reported():
    # The guide's example: 30 x 16 x 4 = 1920 DN.
    camera = {"camera": "ZWO ASI294MC Pro", "offset": 30.0}
    assert check(take("bias", 3, replace(SENSOR, offset_dn=1920.0), **camera)) == []
    seen = check(take("bias", 3, replace(SENSOR, offset_dn=480.0), **camera))
    assert ids(seen) == ["CHK031"]
    assert seen[0].evidence["expected_dn"] == 1920.0


def test_glow_is_measured_in_darks():
    def glow(strength):
        return checks.amplifier_glow(
            RULES, "dark", take("dark", 4, replace(SENSOR, glow_e_per_s=strength), 60.0), bias()
        )

    seen = glow(0.5)
    assert ids(seen) == ["CHK023"]
    assert seen[0].evidence["place"] == "lower right"
    assert glow(0.03) == []


# --------------------------------------------------------------------------------------------------------------------
# flats
def test_flats_of_common_levels_are_accepted():
    assert check(flats(0.45), offset_dn=500.0, saturation_dn=SATURATION) == []


def test_flat_levels_are_compared_with_half_way_between_bias_and_saturation():
    # Vignetting takes a tenth off the mean: 0.85 means about three quarters, 0.05 a twentieth.
    high = check(flats(0.85), offset_dn=500.0, saturation_dn=SATURATION)
    assert ids(high) == ["CHK013"]
    assert high[0].evidence["target_dn"] == pytest.approx(0.5 * (SATURATION + 500.0))
    assert ids(check(flats(0.05), offset_dn=500.0, saturation_dn=SATURATION)) == ["CHK014"]


def test_saturated_parts_of_a_flat_are_counted_and_hot_pixels_are_not():
    seen = check(flats(1.1, vignetting=0.6), offset_dn=500.0, saturation_dn=SATURATION)
    assert "CHK015" in ids(seen)

    def hot(number, pixels):
        pixels.ravel()[: pixels.size // 2000] = SATURATION
        return pixels

    assert check(flats(0.45, treat=hot), offset_dn=500.0, saturation_dn=SATURATION) == []


def test_a_weak_colour_of_the_flats_is_named():
    def panel(red):
        colours = np.ones((96, 128))
        colours[::2, ::2] = red
        rate = 0.5 * SATURATION * 0.8 / 2.0 * colours
        return take("flat", 3, COLOUR, 2.0, rate=lambda number: rate)

    seen = check(panel(0.12), offset_dn=500.0, saturation_dn=SATURATION)
    assert ids(seen) == ["CHK016"]
    assert seen[0].evidence["colour"] == "R"
    assert check(panel(0.5), offset_dn=500.0, saturation_dn=SATURATION) == []


def test_a_flat_that_is_lit_differently_is_told_from_one_that_is_brighter():
    x = np.linspace(-0.5, 0.5, SENSOR.width)[None, :]
    light = Optics(n_dust=0).flat(SENSOR.width, SENSOR.height) * 12_000.0

    def lit(tilt):
        return flats(rate=lambda n: light * (1.0 + tilt * x * (n == 1)) * (1.0 + 0.1 * n))

    seen = check(lit(0.05), offset_dn=500.0, saturation_dn=SATURATION)
    assert ids(seen) == ["CHK017"]
    assert [one.subject for one in seen] == ["/night/flat/flat_1.fits"]
    assert check(lit(0.002), offset_dn=500.0, saturation_dn=SATURATION) == []


def test_very_short_flats_are_reported_with_their_spread():
    def short(exposure):
        rate = 15_000.0 / exposure * np.ones((96, 128))
        return take("flat", 4, SENSOR, exposure, rate=lambda n: rate * (1.0 + 0.05 * n))

    seen = check(short(0.01), offset_dn=500.0, saturation_dn=SATURATION)
    assert ids(seen) == ["CHK018"]
    # From 1.00 to 1.15 times the light: 13 % of the brightest.
    assert seen[0].evidence["spread_percent"] == pytest.approx(13, abs=1)
    assert check(short(0.1), offset_dn=500.0, saturation_dn=SATURATION) == []


def test_flat_darks_are_asked_for_where_the_flats_hold_dark_signal():
    def needed(glow, exposure):
        sensor = replace(SENSOR, glow_e_per_s=glow)
        shots = [replace_exposure(one, exposure) for one in flats(0.4, count=3)]
        return checks.flat_dark_needed(RULES, "flat", shots, bias(), take("dark", 4, sensor, 60.0))

    # Narrowband flats of 30 s: 3 e-/s of glow give some 1 % of the flat's signal in the corner.
    assert ids(needed(3.0, 30.0)) == ["CHK019"]
    assert needed(3.0, 0.5) == []
    assert needed(0.05, 2.0) == []


def replace_exposure(one, exposure):
    return checks.Measured(frame("f", "flat", exposure=exposure), one.statistics)


# --------------------------------------------------------------------------------------------------------------------
# scale and colour
def test_data_of_another_bit_scale_is_refused():
    sensor = replace(SENSOR, adc_bits=12, read_noise_e=40.0)
    scaled, unscaled = take("dark", 2, sensor, 60.0), take("dark", 2, replace(sensor, scaled_to_16=False), 60.0)
    seen = checks.compare_sets(RULES, "light", unscaled, {"dark": ("dark-1", scaled)})
    assert "CHK020" in ids(seen)
    assert (seen[0].evidence["step_dn"], seen[0].evidence["other_step_dn"]) == (1, 16)
    assert checks.compare_sets(RULES, "light", scaled, {"dark": ("dark-1", scaled)}) == []


def test_an_average_has_no_bit_scale_to_compare():
    sensor = replace(SENSOR, adc_bits=12, read_noise_e=40.0)
    darks = take("dark", 4, sensor, 60.0)
    master = [measured(np.random.default_rng(1).normal(500, 5, (64, 64)), "dark")]
    assert checks.compare_sets(RULES, "light", darks, {"dark": ("m", master)}) == []


def white_balance(red: float, blue: float):
    factors = np.ones((2, 2))
    factors[0, 0], factors[1, 1] = red, blue
    scale = np.tile(factors, (48, 64))
    return lambda number, pixels: np.minimum(np.rint(pixels * scale), 65535)


@pytest.mark.parametrize("bits", [16, 14])
def test_multiplied_colours_show_by_their_gaps(bits: int):
    sensor = replace(COLOUR, adc_bits=bits, read_noise_e=60.0, offset_dn=2000.0, warm_fraction=0, hot_fraction=0)
    frames = take("dark", 12, sensor, 60.0, treat=white_balance(1.04, 1.9))
    seen = check(frames)
    assert ids(seen) == ["CHK021"]
    assert seen[0].evidence["red"] == pytest.approx(1.04, abs=0.015)
    assert seen[0].evidence["blue"] == pytest.approx(1.9, abs=0.03)
    assert check(take("dark", 12, sensor, 60.0)) == []


def test_a_light_without_offset_is_not_to_be_calibrated_again():
    darks = take("dark", 4, SENSOR, 60.0)
    light = [measured(np.random.default_rng(1).normal(150, 12, (96, 128)).round(), "light")]
    assert ids(checks.compare_sets(RULES, "light", light, {"dark": ("d", darks)})) == ["CHK006"]
    faint = take("light", 2, SENSOR, 60.0, rate=lambda n: np.full((96, 128), 0.01))
    assert checks.compare_sets(RULES, "light", faint, {"dark": ("d", darks)}) == []


# --------------------------------------------------------------------------------------------------------------------
# calibrated lights
def calibrated(level: float, noise: float = 10.0, **holes):
    return np.random.default_rng(5).normal(level, noise, (128, 160)).astype(np.float32)


def test_weak_signal_is_told_from_a_wrong_calibration():
    weak = checks.below_zero(RULES, "light", calibrated(8.0), None)
    assert ids(weak) == ["CHK003"]
    # 0.1 % of a normal distribution lie 3.09 sigma below its mean: 30.9 - 8 = 22.9 DN.
    assert weak[0].evidence["pedestal_dn"] == pytest.approx(23, abs=2)
    assert ids(checks.below_zero(RULES, "light", calibrated(-15.0), None)) == ["CHK002"]
    assert checks.below_zero(RULES, "light", calibrated(50.0), None) == []


def test_a_corner_below_zero_is_a_wrong_calibration():
    image = calibrated(60.0)
    image[:48, :48] -= 100.0
    seen = checks.below_zero(RULES, "light", image, None)
    assert ids(seen) == ["CHK002"]
    image[:48, :48] += 70.0
    assert ids(checks.below_zero(RULES, "light", image, None)) != ["CHK002"]


def test_a_pedestal_far_above_the_need_is_reported():
    assert ids(checks.pedestal_too_high(RULES, "light", 2000.0, 40.0, 0, 10_000)) == ["CHK004"]
    assert ids(checks.pedestal_too_high(RULES, "light", 500.0, 40.0, 5, 10_000)) == ["CHK004"]
    assert checks.pedestal_too_high(RULES, "light", 500.0, 40.0, 0, 10_000) == []


def test_an_interlaced_flat_prints_its_lines_into_the_lights(night):
    def printed(masters: dict[str, np.ndarray], share: float) -> np.ndarray:
        flat = masters["flat"] - masters["flat_dark"]
        flat[1::2] *= 1 - share
        return flat

    seen = observe(night, flat_of=lambda masters: printed(masters, 0.03))
    [found] = [one for one in seen if one.id == "CHK022"]
    assert found.evidence["lines"] == "Rows"
    assert found.evidence["percent"] == pytest.approx(3, abs=0.5)
    assert found.evidence["flat_percent"] == pytest.approx(-3, abs=0.5)
    # Half a percent is less than a tenth of the noise of a pixel.
    assert "CHK022" not in ids(observe(night, flat_of=lambda masters: printed(masters, 0.005)))


def test_lines_of_a_frame_of_any_shape_are_compared():
    rng = np.random.default_rng(8)
    image = rng.normal(500, 4, (61, 47)).astype(np.float32)
    image[:, 1::2] += 20
    image[5, 6] = np.nan
    rows, columns = checks.alternation(image), checks.alternation(image.T)
    # Medians of 1400 pixels of 4 or, of both kinds of columns together, 11 DN.
    assert abs(rows.difference) < 3 and columns.difference == pytest.approx(20, abs=6 * columns.error)
    assert columns.noise == pytest.approx(4, rel=0.1)
    [found] = checks.alternating_lines(RULES, "light", [(rows, columns)])
    assert (found.evidence["lines"], found.evidence["flat_percent"]) == ("Columns", None)


@pytest.mark.parametrize("cell", [1, 2])
def test_a_line_of_a_level_of_its_own_stands_out(cell: int):
    """128 pixels know a column to 0.13 of the noise, 64 of a colour to 0.18, five lights to 0.07 and 0.1: times six."""
    rng = np.random.default_rng(5)
    y, x = np.indices((128, 160))
    colours = np.where((y % 2 + x % 2) % 2, 40.0, 0.0) if cell == 2 else 0.0

    def lights(height: float) -> list[tuple[checks.LineProfile, checks.LineProfile]]:
        profiles = []
        for _ in range(5):
            image = (300 + 0.3 * x + colours + rng.normal(0, 10, x.shape)).astype(np.float32)
            image[:, 61] += height
            image[:, 90] = np.nan
            image[:60, 91] = np.nan
            before = image.copy()
            profiles.append((checks.line_profile(image, cell), checks.line_profile(image.T, cell)))
            np.testing.assert_array_equal(image, before)
            assert profiles[-1][0].noise == pytest.approx(10, rel=0.1)
        return profiles

    [found] = checks.standing_lines(RULES, "light", lights(-15.0))
    assert (found.id, found.evidence["worst"], found.evidence["lines"]) == ("CHK033", "column 61", 1)
    assert found.evidence["height_dn"] == pytest.approx(-15, abs=2)
    assert checks.standing_lines(RULES, "light", lights(6.0)) == []


def flat_with_dead_pixels(offset_dn: float, dead: int = 12, level: float = 20_000.0) -> np.ndarray:
    rng = np.random.default_rng(6)
    y, x = np.indices((120, 160))
    flat = level * (1 - 0.4 * np.hypot((x - 80) / 100, (y - 60) / 100) ** 2) + rng.normal(0, 30.0, (120, 160))
    flat.ravel()[rng.choice(flat.size, 60, replace=False)] *= rng.uniform(0.1, 0.4, 60)
    flat.ravel()[rng.choice(flat.size, dead, replace=False)] = rng.normal(0, 1.0, dead)
    return (flat + offset_dn).astype(np.float32)


def test_a_master_flat_with_its_offset_shows_by_its_dead_pixels():
    [seen] = checks.uncalibrated_flat(RULES, "flat", flat_with_dead_pixels(500.0), 500.0)
    assert seen.id == "CHK012"
    assert seen.evidence["pixels"] == 12
    # Centre of 20500 DN, median some 18 % lower.
    assert seen.evidence["left_percent"] == pytest.approx(3, abs=0.5)


@pytest.mark.parametrize(
    ("flat", "offset"),
    [
        (flat_with_dead_pixels(0.0), 500.0),
        # Only pixels without any light can tell.
        (flat_with_dead_pixels(500.0, dead=0), 500.0),
        # Another offset than that of the bias.
        (flat_with_dead_pixels(500.0), 620.0),
        # Dead pixels of which some keep a little, as in a calibrated flat whose bias lies in the same range.
        (flat_with_dead_pixels(0.0, level=1600.0), 500.0),
        (flat_with_dead_pixels(0.0), 0.0),
    ],
    ids=["calibrated", "no dead pixel", "other offset", "weak", "no offset"],
)
def test_a_flat_that_may_be_calibrated_is_not_reported(flat: np.ndarray, offset: float):
    assert checks.uncalibrated_flat(RULES, "flat", flat, offset) == []


def test_masters_of_few_frames_dominate_the_noise():
    # Darks as noisy as the light: two add 71 %, sixteen 25 %.
    assert ids(checks.masters_noise(RULES, "light", 5.0, 10.0, (5.0, 2), None)) == ["CHK029"]
    assert checks.masters_noise(RULES, "light", 5.0, 10.0, (5.0, 16), None) == []
    # A flat with 4 % noise under a background of 1000 DN: 40 DN, over four flats 20 DN.
    assert ids(checks.masters_noise(RULES, "light", 30.0, 1000.0, None, (800.0, 20_000.0, 4))) == ["CHK029"]
    assert checks.masters_noise(RULES, "light", 30.0, 1000.0, None, (800.0, 20_000.0, 20)) == []


SPEC = SessionSpec(
    sensor=replace(SENSOR, width=240, height=180),
    optics=Optics(vignetting=0.35, n_dust=6),
    n_stars=100,
    n_lights=5,
    n_darks=6,
    n_flats=6,
    n_flat_darks=6,
    n_bias=6,
    sky_e_per_s=5.0,
    nebula_e_per_s=1.0,
    dither_px=5.0,
)


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory):
    return write_session(tmp_path_factory.mktemp("checks"), SPEC)


def test_a_well_calibrated_night_is_silent(night):
    assert ids(observe(night)) == []


def test_a_flat_that_still_holds_its_bias_corrects_too_little(tmp_path: Path):
    # An offset of 10000 DN in flats of 25000 DN: 30 % of the vignetting stays.
    spec = replace(SPEC, sensor=replace(SPEC.sensor, offset_dn=5000.0), flat_level=0.2)
    seen = observe(write_session(tmp_path, spec), flat_of=lambda masters: masters["flat"])
    assert "CHK025" in ids(seen)
    assert "CHK026" not in ids(seen)


def test_a_light_that_still_holds_its_offset_is_corrected_too_much(night):
    seen = observe(night, subtract=lambda masters: masters["dark"] - 300.0)
    assert ids(seen) == ["CHK026"]
    assert ids(observe(night, subtract=lambda masters: masters["dark"] - 100.0)) == ["CHK026"]
    # An offset of 10 DN under a sky of 375 DN turns 3 % of the vignetting round, which is not worth a word.
    assert ids(observe(night, subtract=lambda masters: masters["dark"] - 10.0)) == []


def test_dust_that_moved_leaves_embossed_spots(tmp_path: Path):
    moved = replace(SPEC, flat_optics=replace(SPEC.optics, dust_shift_px=(24.0, 0.0)))
    seen = [one for one in observe(write_session(tmp_path / "a", moved)) if one.id == "CHK027"]
    assert seen
    assert "(-24, +0)" in str(seen[0].evidence["shift"])
    stayed = replace(SPEC, flat_optics=replace(SPEC.optics, dust_shift_px=(1.0, 0.0)))
    assert "CHK027" not in ids(observe(write_session(tmp_path / "b", stayed)))


def test_hot_pixels_left_after_the_correction_are_counted(night):
    seen = observe(
        night, corrected=False, subtract=lambda masters: np.full_like(masters["dark"], masters["dark"].mean())
    )
    assert "CHK028" in ids(seen)


def test_glow_left_in_the_lights_is_measured(tmp_path: Path):
    spec = replace(SPEC, sensor=replace(SPEC.sensor, glow_e_per_s=3.0))
    truth = write_session(tmp_path, spec)
    assert ids(observe(truth)) == ["CHK023"]
    seen = observe(truth, subtract=lambda masters: masters["bias"] + 0.3 * (masters["dark"] - masters["bias"]))
    left = [one for one in seen if one.id == "CHK024"]
    assert left
    assert left[0].evidence["percent"] == pytest.approx(70, abs=15)


def test_every_check_has_a_rule_and_every_rule_a_check():
    source = "".join(Path(module.__file__).read_text(encoding="utf-8") for module in (checks, inspecting))
    known = {id for id in RULES.findings if id.startswith("CHK")}
    assert known == {id for id in known if f'"{id}"' in source}


def test_the_mean_of_the_helper_drops_a_cosmic_ray():
    frames = [np.full((2, 2), 5.0, np.float32) for _ in range(4)]
    frames[1][0, 0] = 1e5
    assert (mean(frames) == 5.0).all()


# --------------------------------------------------------------------------------------------------------------------
# what the guide wants to be said
def in_order(id: str, *words: str) -> bool:
    places = [RULES.findings[id].remedy.find(word) for word in words]
    return -1 not in places and places == sorted(places)


def test_the_remedy_of_a_light_leak_names_where_light_gets_in():
    for id in ("CHK007", "CHK008"):
        assert in_order(id, "focuser", "rotator", "filter wheel", "mirror", "infrared")


def test_the_remedy_of_values_below_zero_names_the_causes_in_order():
    assert in_order("CHK002", "gain or ISO", "offset", "exposure", "light leak", "too little signal")


def test_the_remedy_of_moved_dust_says_how_to_avoid_it():
    assert in_order("CHK027", "one direction", "fill all its positions", "stray light")
