"""Rows of docs/guide.md that are about what a stage does to pixels, each shown on small frames."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

import wbpy
from wbpy.engine.products import to_unit_range
from wbpy.stages import calibrate, masters, reference
from wbpy.stages.base import Work
from wbpy.stages.calibrate import CalibrateParams
from wbpy.stages.masters import MastersParams
from wbpy.stages.measure import Measurement
from wbpy.stages.reference import ReferenceParams

SHAPE = (24, 32)
WORK = Work(map=map, workers=1, memory=10_000_000, report=lambda done, total, unit: None)


class Pixels:
    """An image in memory, read like a file."""

    def __init__(self, image: np.ndarray, name: str = "frame.fits") -> None:
        self.image, self.name, self.shape = image.astype(np.float32), name, image.shape

    def read(self, y0: int, y1: int) -> np.ndarray:
        return self.image[y0:y1].copy()

    def words(self, y0: int, y1: int) -> None:
        return None


def noisy(rng: np.random.Generator, level: float, sigma: float, count: int) -> list[Pixels]:
    return [Pixels(rng.normal(level, sigma, SHAPE)) for _ in range(count)]


def make(frames: Sequence[Pixels], role: str, calibration: np.ndarray | None = None) -> masters.Master:
    return masters.run(MastersParams(rejection="winsorized", low=4.0, high=3.0), WORK, frames, role, calibration)


@pytest.mark.parametrize("role", ["bias", "dark", "flat_dark"])
def test_frames_without_light_are_averaged_as_they_are_with_cosmic_rays_rejected(role: str):
    rng = np.random.default_rng(1)
    frames = noisy(rng, 500.0, 10.0, 12)
    # Another level in one frame: an unscaled average keeps its full share, scaling would bring it to the others'.
    frames[3].image += 12.0
    clean = np.mean([frame.image for frame in frames], axis=0, dtype=np.float64)
    frames[5].image[7, 9] += 20_000
    master = make(frames, role)
    assert master.image.mean() == pytest.approx(500.0 + 12.0 / 12, abs=4 * 10 / np.sqrt(12 * SHAPE[0] * SHAPE[1]))
    # Without the sample that was hit: the mean of 11 frames, 3 standard errors around that of all 12.
    assert master.image[7, 9] == pytest.approx(clean[7, 9], abs=3 * 10 / np.sqrt(11) + 1)
    assert master.rejected_high[5] > 0


def test_a_master_dark_keeps_its_bias():
    frames = noisy(np.random.default_rng(2), 512.0, 5.0, 6)
    assert make(frames, "dark").image.mean() == pytest.approx(512.0, abs=0.5)


def test_flats_are_calibrated_scaled_to_one_level_and_given_no_pedestal():
    rng = np.random.default_rng(3)
    vignetting = np.linspace(1.0, 0.6, SHAPE[1])[None, :].repeat(SHAPE[0], axis=0)
    levels = [20_000, 21_500, 24_000, 19_000, 26_000, 22_000, 20_500, 23_000]
    # Photon noise at 1 e-/DN and an offset of 1000 DN that a flat must not keep.
    frames = [Pixels(rng.poisson(level * vignetting) + 1000.0) for level in levels]
    master = make(frames, "flat", np.full(SHAPE, 1000.0, np.float32))
    # Relative noise of the mean of 8 flats of about 16000 e-: 0.3 %; 4 standard errors.
    assert np.max(np.abs(master.image / (levels[0] * vignetting) - 1)) < 4 * 0.003
    # Limits of 4 and 3 sigma take a percent or two of 8 samples; a frame thrown out for its level would lose all.
    assert max(master.rejected_low) < 0.1
    assert max(master.rejected_high) < 0.1


def test_offset_is_subtracted_before_the_flat_divides_and_negatives_stay():
    flat = np.full(SHAPE, 20_000.0, np.float32)
    flat[:, SHAPE[1] // 2 :] = 10_000.0
    dark = np.full(SHAPE, 1000.0, np.float32)
    sky = np.full(SHAPE, 300.0)
    sky[4, 4] = -40.0
    light = Pixels(sky * flat / 15_000.0 + dark)
    prepared = calibrate.prepare(CalibrateParams(flat_trim=0.0), dark, None, flat, None)
    image = calibrate.run(CalibrateParams(), light, prepared).image
    # float32 of 1400 DN: steps of 1.2e-4 DN, doubled by the flat.
    np.testing.assert_allclose(image, sky, atol=1e-3)


def test_a_bias_is_not_subtracted_when_the_dark_holds_it():
    dark, bias = np.full(SHAPE, 1000.0, np.float32), np.full(SHAPE, 900.0, np.float32)
    prepared = calibrate.prepare(CalibrateParams(), dark, bias, None, None)
    image = calibrate.run(CalibrateParams(), Pixels(np.full(SHAPE, 1200.0)), prepared).image
    assert np.all(image == 200.0)


def test_range_is_cut_at_the_end_and_the_cut_pixels_are_counted():
    pixels, below, above = to_unit_range(np.array([-3.0, 0.0, 65535.0, 70000.0, 131070.0, np.nan], np.float32))
    assert pixels.tolist() == [0.0, 0.0, 1.0, 1.0, 1.0, 0.0]
    assert (below, above) == (1, 2)


def measured(**change: float | int) -> Measurement:
    given = {"count": 500, "fwhm": 3.0, "eccentricity": 0.3, "noise": 10.0} | change
    none = np.empty(0)
    return Measurement(
        x=none,
        y=none,
        flux=none,
        usable=none.astype(bool),
        count=int(given["count"]),
        fwhm=float(given["fwhm"]),
        eccentricity=float(given["eccentricity"]),
        background=(800.0,),
        noise=(float(given["noise"]),),
        dispersion=(12.0,),
    )


@pytest.mark.parametrize("worse", [{"fwhm": 3.4}, {"eccentricity": 0.6}, {"count": 350}, {"noise": 14.0}])
def test_the_reference_is_the_sharp_round_and_rich_frame(worse: dict[str, float]):
    frames = [measured(**worse), None, measured(), measured(**worse)]
    chosen = reference.run(ReferenceParams(), ["a", "b", "c", "d"], frames)
    assert chosen is not None
    assert chosen.index == 2


def test_the_user_can_name_the_reference():
    frames = [measured(), measured(fwhm=4.0)]
    chosen = reference.run(ReferenceParams(frame="b.fits"), ["a.fits", "b.fits"], frames)
    assert chosen is not None
    assert chosen.index == 1


@pytest.mark.parametrize("keyword", ["OFFSET", "BLKLEVEL"])
def test_offset_is_read_from_both_keywords(tmp_path: Path, keyword: str):
    header = fits.Header({"IMAGETYP": "DARK", "EXPTIME": 60.0, keyword: 25})
    if keyword == "BLKLEVEL":
        header["SWCREATE"] = "SharpCap, 4.1.11202.0"
    fits.PrimaryHDU(np.zeros((64, 64), np.uint16), header).writeto(tmp_path / "dark.fits")
    [frame] = wbpy.scan(tmp_path).frames
    assert frame.offset == 25
