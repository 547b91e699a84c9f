"""`wbpy inspect --stars`: profiles and curves of growth of chosen stars against the truth, table, picture, JSON."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from click.testing import CliRunner
from PIL import Image

import wbpy
from wbpy.cli import wbpy_command
from wbpy.simulate import Psf
from wbpy.simulate.scene import integrate_psf

SIZE, SKY, FWHM = 240, 500.0, 4.0
PLACES = [(40.3, 41.2), (200.4, 60.1), (120.7, 119.6), (60.2, 200.3), (190.1, 188.8), (118.0, 40.0), (35.0, 120.0)]
FLUX = 2e5


@pytest.fixture(scope="module")
def frame(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(3)
    image = np.full((SIZE, SIZE), SKY)
    psf = Psf(FWHM, ellipticity=0.2, angle_deg=20.0)
    for x, y in PLACES:
        columns, rows = np.arange(round(x) - 25, round(x) + 26), np.arange(round(y) - 25, round(y) + 26)
        image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] += FLUX * integrate_psf(psf, columns - x, rows - y)
    image = rng.poisson(image) + rng.normal(0, 5, image.shape)
    path = tmp_path_factory.mktemp("stars") / "light_1.fits"
    header = fits.Header({"IMAGETYP": "Light Frame", "FOCALLEN": 500.0, "XPIXSZ": 3.76, "EXPTIME": 60.0})
    fits.PrimaryHDU(np.clip(image, 0, 65535).astype(np.uint16), header).writeto(path)
    return path


def test_profile_and_growth_are_those_of_the_light(frame: Path) -> None:
    found = wbpy.inspect_stars(frame)
    (one,) = found.frames
    assert one.stars == len(PLACES) and 3 <= len(one.profiles) <= 5
    assert one.fwhm_arcsec == pytest.approx(one.fwhm_px * math.degrees(3.76e-3 / 500) * 3600)
    assert one.angle_deg == pytest.approx(20, abs=4)
    for star in one.profiles:
        assert min(math.hypot(star.x - x, star.y - y) for x, y in PLACES) < 0.1
        assert star.fwhm_px == pytest.approx(math.hypot(FWHM, 0.68), rel=0.04)
        assert star.background_dn == pytest.approx(SKY, abs=6) and not star.saturated
        profile, growth, radius = (np.array(v) for v in (star.profile_dn, star.growth_dn, star.radius_px))
        assert len(profile) == len(growth) == len(radius)
        # Half of the height at half of the width; noise of the ring 1 % of the peak.
        assert np.interp(FWHM / 2, radius - 0.25, profile / profile[0]) == pytest.approx(0.5, abs=0.06)
        # Beyond 4 FWHM lies less than a thousandth of the light of beta 4; background error 2 DN on 800 px^2: 0.8 %.
        assert growth[-1] == pytest.approx(FLUX, rel=0.02)
        assert (np.diff(growth[radius < 2 * FWHM]) > 0).all()


def test_stars_can_be_chosen_by_their_place(frame: Path) -> None:
    found = wbpy.inspect_stars(frame, at=[(119.0, 42.0)])
    (star,) = found.frames[0].profiles
    assert math.hypot(star.x - 118.0, star.y - 40.0) < 0.1


def test_command_writes_a_table_a_picture_and_json(frame: Path, tmp_path: Path) -> None:
    shown = CliRunner().invoke(
        wbpy_command, ["inspect", str(frame), "--stars", "-o", str(tmp_path / "p"), "--csv", str(tmp_path / "t.csv")]
    )
    assert shown.exit_code == 0, shown.output
    assert "7 stars, FWHM 4.0" in shown.output and "Star 1:" in shown.output and "Moffat" in shown.output
    rows = (tmp_path / "t.csv").read_text(encoding="utf-8").splitlines()
    assert rows[0].startswith("file,star,x_px") and len(rows) > 50
    (picture,) = (tmp_path / "p").glob("*_stars.png")
    with Image.open(picture) as image:
        # Background, and at least three colours of curves.
        assert len(image.convert("RGB").getcolors(1 << 20)) > 4
    done = CliRunner().invoke(wbpy_command, ["inspect", str(frame), "--at", "200", "60", "--json"])
    content = json.loads(done.stdout)
    assert len(content["frames"][0]["profiles"]) == 1


def test_a_mosaic_shows_the_stars_of_its_green(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    light = np.full((160, 160), 400.0)
    for x, y in [(40.0, 50.0), (110.0, 100.0), (60.0, 120.0)]:
        c, r = np.arange(int(x) - 20, int(x) + 21), np.arange(int(y) - 20, int(y) + 21)
        light[r[0] : r[-1] + 1, c[0] : c[-1] + 1] += 3e5 * integrate_psf(Psf(4.0), c - x, r - y)
    path = tmp_path / "light.fits"
    header = fits.Header({"IMAGETYP": "Light Frame", "BAYERPAT": "RGGB"})
    fits.PrimaryHDU(np.clip(rng.poisson(light), 0, 65535).astype(np.uint16), header).writeto(path)
    (one,) = wbpy.inspect_stars(path).frames
    assert one.stars == 3 and one.fwhm_arcsec is None
    assert one.profiles[0].growth_dn[-1] == pytest.approx(3e5, rel=0.04)


def test_frames_without_stars_and_damaged_files_are_told(tmp_path: Path) -> None:
    empty = np.random.default_rng(1).normal(500, 10, (80, 80)).astype(np.uint16)
    fits.PrimaryHDU(empty, fits.Header({"IMAGETYP": "Light Frame"})).writeto(tmp_path / "empty.fits")
    whole = (tmp_path / "empty.fits").read_bytes()
    (tmp_path / "cut.fits").write_bytes(whole[:9000])
    found = wbpy.inspect_stars(tmp_path)
    assert [frame.profiles for frame in found.frames] == [()]
    assert [Path(held.path).name for held in found.held_back] == ["cut.fits"]
    shown = CliRunner().invoke(wbpy_command, ["inspect", str(tmp_path), "--stars"])
    assert shown.exit_code == 0 and "none of which could be fitted" in shown.output and "1 file not" in shown.output


def test_stars_of_a_picture_in_colour_are_measured_in_green(frame: Path, tmp_path: Path) -> None:
    green = fits.getdata(frame)
    empty = np.random.default_rng(6).normal(SKY, 20, green.shape).astype(np.uint16)
    header = fits.Header({"IMAGETYP": "Master Light", "STACKCNT": 9})
    fits.PrimaryHDU(np.stack([empty, green, empty]), header).writeto(tmp_path / "picture.fits")
    (one,) = wbpy.inspect_stars(tmp_path / "picture.fits").frames
    assert one.stars == len(PLACES)
