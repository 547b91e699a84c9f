"""Equations {1} and {2} of the guide against float64, saturation, pedestal and statistics of the raw frame."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wbpy.kernels import calibration as kernels
from wbpy.kernels import darkscale, histograms
from wbpy.stages import calibrate, levels
from wbpy.stages.calibrate import CalibrateParams

RGGB = np.array([[0, 1], [1, 2]], np.uint8)
SHAPE = (60, 80)
ULP = 1 / 256
"""Distance of neighbouring float32 numbers at the top of the range, DN."""


@dataclass
class Frame:
    """A frame in memory, read as words or as floats."""

    image: NDArray[np.uint16]
    as_words: bool = True
    name: str = "frame"

    @property
    def shape(self) -> tuple[int, int]:
        return self.image.shape[0], self.image.shape[1]

    def read(self, y0: int, y1: int) -> NDArray[np.float32]:
        return self.image[y0:y1].astype(np.float32)

    def words(self, y0: int, y1: int) -> tuple[NDArray[np.uint16], float] | None:
        stored = (self.image[y0:y1].astype(np.int32) - 32768).astype(">i2")
        return (stored.ravel().view(np.uint16), 32768.0) if self.as_words else None


def night(seed: int = 1) -> tuple[NDArray[np.uint16], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    bias = rng.normal(500, 3, SHAPE).astype(np.float32)
    thermal = rng.exponential(30, SHAPE)
    thermal[rng.random(SHAPE) < 0.02] += 2000
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    flat = 20000 * (1 - 0.4 * ((x - 40) ** 2 + (y - 30) ** 2) / 2500)
    light = rng.normal(bias + 0.7 * thermal + 6000 * flat / 20000, 20)
    return light.round().astype(np.uint16), (bias + thermal).astype(np.float32), bias, flat.astype(np.float32)


def factors(flat: NDArray[np.float32], cfa: NDArray[np.uint8] | None) -> NDArray[np.float64]:
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    colour = np.zeros(SHAPE, int) if cfa is None else cfa[y % 2, x % 2]
    out = np.empty(SHAPE)
    for c in np.unique(colour):
        values = np.sort(flat[colour == c].astype(np.float64))
        cut = int(0.05 * values.size)
        out[colour == c] = values[cut : values.size - cut].mean()
    return out


@pytest.mark.parametrize("as_words", [True, False])
@pytest.mark.parametrize("cfa", [None, RGGB])
@pytest.mark.parametrize("scaling", ["none", "exposure", "light"])
def test_calibrated_light_is_the_equation_in_float64(
    as_words: bool, cfa: NDArray[np.uint8] | None, scaling: str
) -> None:
    light, dark, bias, flat = night()
    params = CalibrateParams(scale_dark=scaling == "exposure", optimize_dark=scaling == "light")
    prepared = calibrate.prepare(params, dark, bias, flat, cfa)
    found = calibrate.run(params, Frame(light, as_words), prepared, 100.0, 0.6)
    wide = [image.astype(np.float64) for image in (light, dark, bias, flat)]
    factor = factors(flat, cfa)
    if scaling == "none":
        assert found.dark_scale is None
        expected = (wide[0] - 100 - wide[1]) / wide[3] * factor
    else:
        # The pedestal of the header is in the light alone, not in its dark signal.
        scale = 0.6 if scaling == "exposure" else found.dark_scale
        assert found.dark_scale == pytest.approx(0.7 if scaling == "light" else 0.6, rel=0.01)
        expected = ((wide[0] - 100 - wide[2]) - scale * (wide[1] - wide[2])) / wide[3] * factor
    assert np.abs(found.image - expected).max() < 2 * ULP
    assert (found.lowest, found.highest) == (found.image.min(), found.image.max())
    assert found.below == np.count_nonzero(found.image < 0)


def test_one_flat_factor_tints_the_lights_and_loses_nothing() -> None:
    light, dark, _, flat = night()
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]] % 2
    tinted = flat * np.array([0.6, 1.0, 0.8], np.float32)[RGGB[y, x]]
    images = []
    for separate in (True, False):
        params = CalibrateParams(separate_flat_factors=separate)
        images.append(calibrate.run(params, Frame(light), calibrate.prepare(params, dark, None, tinted, RGGB)).image)
    meaning = CalibrateParams.__annotations__["separate_flat_factors"]
    assert "nothing is lost" in str(meaning)
    for colour in range(3):
        here = (RGGB[y, x] == colour) & (np.abs(images[0]) > 100)
        ratio = images[1][here] / images[0][here]
        # The same factor in every pixel of a colour, another one for each.
        np.testing.assert_allclose(ratio, np.median(ratio), rtol=1e-5)
        assert abs(np.median(ratio) - 1) > 0.05


def test_least_deviation_of_an_x_trans_frame_is_sought_in_bins_of_three(monkeypatch: pytest.MonkeyPatch) -> None:
    light, dark, bias, _ = night()
    params = CalibrateParams(optimize_dark=True, optimize_by="deviation")
    cells = []
    real = darkscale.scale_by_deviation

    def spied(image, thermal, cell, *others):
        cells.append(cell)
        return real(image, thermal, cell, *others)

    monkeypatch.setattr(darkscale, "scale_by_deviation", spied)
    prepared = calibrate.prepare(params, dark, bias, None, None)
    for step in (1, 2, 6):
        calibrate._dark_scale(params, light.astype(np.float32), replace(prepared, step=step), None)
    assert cells == [1, 2, 3]


def test_too_few_pixels_leave_the_ratio_of_the_exposures() -> None:
    light, _, bias, flat = night()
    params = CalibrateParams(optimize_dark=True)
    prepared = calibrate.prepare(params, bias + np.float32(20), bias, flat, None)
    found = calibrate.run(params, Frame(light), prepared, 0.0, 0.25)
    assert (found.dark_scale, found.dark_pixels, found.dark_scale_error) == (0.25, 0, None)


def test_dark_below_the_bias_was_calibrated_before() -> None:
    assert calibrate.is_pre_calibrated(30.0, 500.0)
    assert calibrate.is_pre_calibrated(-1.0, 500.0)
    assert not calibrate.is_pre_calibrated(530.0, 500.0)
    assert not calibrate.is_pre_calibrated(480.0, 500.0)
    # A camera that takes its offset off by itself: half of the noise is cut at zero, in darks and bias alike.
    assert not calibrate.is_pre_calibrated(2.0, 1.5)


@pytest.mark.parametrize("as_words", [True, False])
def test_saturated_pixels_set_a_level_of_the_calibrated_frame(as_words: bool) -> None:
    light, dark, bias, flat = night()
    light[10:14, 20:24] = 60000
    prepared = calibrate.prepare(CalibrateParams(), dark, bias, flat, None)
    found = calibrate.run(CalibrateParams(), Frame(light, as_words), prepared)
    # No saturated pixel lies below the level, and no unsaturated one is as bright in the raw frame.
    assert found.saturation is not None
    assert found.saturation <= found.image[10:14, 20:24].min()
    assert found.saturation > 0.5 * 60000
    clean = calibrate.run(CalibrateParams(), Frame(night()[0], as_words), prepared)
    assert clean.saturation is None


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.floats(-30, 40), st.floats(0, 0.05))
def test_pedestal_leaves_the_allowed_share_below_zero_within_one_dn(seed: int, level: float, share: float) -> None:
    image = np.random.default_rng(seed).normal(level, 10, 3000).astype(np.float32)
    pedestal = kernels.needed_pedestal(image, share)
    allowed = int(share * image.size)
    assert np.count_nonzero(image + np.float32(pedestal) < 0) <= allowed
    assert pedestal == 0 or np.count_nonzero(image + np.float32(pedestal - 1) < 0) > allowed


def test_pedestal_ignores_missing_pixels_and_has_a_limit() -> None:
    image = np.full(100, np.nan, np.float32)
    assert kernels.needed_pedestal(image, 0.001) == 0
    image[:50] = -5000
    assert kernels.needed_pedestal(image, 0.001) == 1000


@pytest.mark.parametrize("bzero", [32768.0, 0.0])
@pytest.mark.parametrize("cell", [1, 2])
def test_words_are_counted_plane_by_plane(bzero: float, cell: int) -> None:
    rng = np.random.default_rng(4)
    values = rng.integers(0, 65536, (7, 10)) - 32768 + int(bzero)
    stored = (values - int(bzero)).astype(">i2").ravel().view(np.uint16)
    counts = np.zeros((cell * cell, histograms.SIZE), np.int64)
    for y0, y1 in ((0, 3), (3, 7)):
        part = stored[y0 * 10 : y1 * 10]
        kernels.count_words(part, 10, y0, cell, int(bzero) - 32768 - histograms.FIRST, counts)
    slow = np.zeros_like(counts)
    for (y, x), value in np.ndenumerate(values):
        slow[(y % cell) * cell + x % cell, max(value, histograms.FIRST) - histograms.FIRST] += 1
    np.testing.assert_array_equal(counts, slow)


def test_an_xtrans_frame_has_one_plane_and_a_factor_for_each_colour() -> None:
    light, dark, _, flat = night()
    cell = np.array(["RGB".index(c) for c in "GBGGRGRGRBGBGBGGRGGRGGBGBGBRGRGRGGBG"], np.uint8).reshape(6, 6)
    prepared = calibrate.prepare(CalibrateParams(), dark, None, flat, cell)
    assert (prepared.planes, len(prepared.flat_factors), prepared.step) == (("CFA",), 3, 6)
    found = calibrate.run(CalibrateParams(), Frame(light), prepared)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]] % 6
    wide = (light.astype(np.float64) - dark) / flat * np.array(prepared.flat_factors)[cell[y, x]]
    assert np.abs(found.image - wide).max() < 2 * ULP
    assert [plane.plane for plane in found.levels] == ["CFA"]


def test_planes_have_the_names_of_their_colours() -> None:
    assert levels.plane_names(None) == ("mono",)
    assert levels.plane_names(RGGB) == ("R", "G1", "G2", "B")
    assert levels.plane_names(RGGB[::-1]) == ("G1", "B", "R", "G2")
