"""Pixels against headers: the phase of the CFA pattern, swapped types. Levels are those of a simple sensor."""

import numpy as np
import pytest

from wbpy.config import ScanSettings
from wbpy.io.products import write_fits
from wbpy.rules import load_rules
from wbpy.scanning.scanner import scan
from wbpy.scanning.second_look import green_diagonal, plane_levels

RULES = load_rules()
LIMITS = RULES.findings["SCN034"].limits
COLOURS = {"R": 9000.0, "G": 14000.0, "B": 7000.0}


def mosaic(pattern, levels=COLOURS, bias=1000.0, side=96, seed=1):
    """Return a flat of a mosaic sensor: Poisson noise of 1 e-/DN, and the vignetting of a lens."""
    colour = np.array([levels[letter] for letter in pattern]).reshape(2, 2)
    y, x = np.mgrid[0:side, 0:side] / side - 0.5
    light = np.tile(colour, (side // 2, side // 2)) * (1.0 - 0.5 * (x**2 + y**2))
    return (np.random.default_rng(seed).poisson(light) + bias).astype(np.float32)


def save(path, pixels, role, **cards):
    path.parent.mkdir(parents=True, exist_ok=True)
    every = {"IMAGETYP": role, "INSTRUME": "camera", "EXPTIME": 2.0, "SITELONG": 10.0, **cards}
    write_fits(path, pixels / 65535.0, [(name, value, "") for name, value in every.items()], [])


def findings(folder, **settings):
    return list(scan([folder], RULES, ScanSettings(**settings)).findings)


@pytest.mark.parametrize(
    ("pattern", "diagonal"), [("RGGB", "rising"), ("BGGR", "rising"), ("GRBG", "falling"), ("GBRG", "falling")]
)
def test_green_planes_are_found(pattern, diagonal):
    assert green_diagonal(plane_levels(mosaic(pattern)), LIMITS) == diagonal


@pytest.mark.parametrize(
    ("name", "levels"),
    [
        ("mono", {"R": 9000.0, "G": 9000.0, "B": 9000.0}),
        ("red and blue alike", {"R": 8000.0, "G": 14000.0, "B": 8000.0}),
    ],
)
def test_planes_that_say_nothing_give_no_verdict(name, levels):
    assert green_diagonal(plane_levels(mosaic("RGGB", levels)), LIMITS) is None


def test_planes_of_four_levels_give_no_verdict():
    planes = np.tile(np.array([[5000.0, 7000.0], [9000.0, 12000.0]]), (48, 48))
    assert green_diagonal(plane_levels(planes), LIMITS) is None


def test_small_samples_give_no_levels():
    assert plane_levels(np.ones((30, 30))) is None
    assert plane_levels(np.full((64, 64), np.nan)) is None


def test_pattern_that_contradicts_the_flats_is_reported(tmp_path):
    for n in range(4):
        save(tmp_path / f"{n}.fits", mosaic("GBRG", seed=n), "FLAT", BAYERPAT="RGGB")
    (finding,) = findings(tmp_path)
    assert (finding.id, finding.evidence["pattern"], finding.evidence["count"]) == ("SCN034", "RGGB", 4)
    assert finding.evidence["fits"] == "GRBG or GBRG"
    assert findings(tmp_path, cfa="GBRG")[0].id == "SCN021"
    assert findings(tmp_path, pixel_checks=False) == []


def test_pattern_that_agrees_is_not_mentioned(tmp_path):
    save(tmp_path / "f.fits", mosaic("GBRG"), "FLAT", BAYERPAT="GBRG")
    save(tmp_path / "m.fits", mosaic("RGGB", dict.fromkeys("RGB", 9000.0)), "FLAT", INSTRUME="mono camera")
    assert findings(tmp_path) == []


def test_light_whose_sky_contradicts_the_pattern_is_reported(tmp_path):
    sky = {"R": 700.0, "G": 900.0, "B": 520.0}
    save(tmp_path / "l.fits", mosaic("GRBG", sky, side=256), "LIGHT", BAYERPAT="BGGR", OBJECT="M31", SITELONG=10.0)
    assert [(one.id, one.evidence["role"]) for one in findings(tmp_path)] == [("SCN034", "light")]


def test_bottom_up_file_with_the_pattern_of_the_picture_agrees(tmp_path):
    save(tmp_path / "f.fits", mosaic("RGGB")[::-1], "FLAT", BAYERPAT="RGGB", ROWORDER="BOTTOM-UP")
    assert findings(tmp_path) == []
    assert [one.id for one in findings(tmp_path / "f.fits")] == []


def test_mosaic_without_a_pattern_is_reported(tmp_path):
    save(tmp_path / "f.fits", mosaic("RGGB"), "FLAT")
    (finding,) = findings(tmp_path)
    assert (finding.id, finding.evidence["fits"]) == ("SCN033", "RGGB or BGGR")


def test_dark_brighter_than_the_flats_is_reported(tmp_path):
    flat = np.full((64, 64), 900.0, np.float32)
    save(tmp_path / "f.fits", flat, "FLAT")
    save(tmp_path / "d.fits", flat * 20, "DARK", EXPTIME=300.0)
    save(tmp_path / "b.fits", flat, "BIAS", EXPTIME=0.001)
    (finding,) = findings(tmp_path)
    assert (finding.id, finding.subject, finding.evidence["role"]) == ("SCN024", str(tmp_path / "d.fits"), "dark")
    assert finding.evidence["flat"] == str(tmp_path / "f.fits")


@pytest.mark.parametrize("cards", [{"INSTRUME": "other"}, {"GAIN": 5}])
def test_dark_is_compared_with_flats_of_its_own_camera_and_gain_only(tmp_path, cards):
    flat = np.full((64, 64), 900.0, np.float32)
    save(tmp_path / "f.fits", flat, "FLAT")
    save(tmp_path / "d.fits", flat * 20, "DARK", EXPTIME=300.0, **cards)
    assert findings(tmp_path) == []


def test_dark_of_ordinary_level_is_not_mentioned(tmp_path):
    save(tmp_path / "f.fits", np.full((64, 64), 20000.0, np.float32), "FLAT")
    save(tmp_path / "d.fits", np.full((64, 64), 1000.0, np.float32), "DARK", EXPTIME=300.0)
    assert findings(tmp_path) == []
