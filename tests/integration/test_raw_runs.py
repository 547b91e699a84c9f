"""A night of camera raw files ends in the same pixels as the same night in FITS."""

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from numpy.typing import NDArray

import wbpy
from wbpy.io.xisf import write_xisf
from wbpy.simulate import Sensor, SessionSpec, write_session
from wbpy.simulate.dng import XTRANS, DngInfo, write_dng

SPEC = SessionSpec(
    seed=52,
    sensor=Sensor(width=240, height=180, cfa="GRBG"),
    n_lights=5,
    n_stars=120,
    nebula_e_per_s=0,
    n_darks=4,
    n_flats=4,
    n_flat_darks=4,
    n_bias=0,
    dialect="nina",
)
FOLDERS = {"LIGHT": "lights", "FLAT": "flats", "DARK": "darks", "DARKFLAT": "flatdarks"}


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("formats")
    write_session(folder / "fits", SPEC)
    for path in sorted((folder / "fits").rglob("*.fits")):
        with fits.open(path) as units:
            header, pixels = units[0].header, np.asarray(units[0].data)
        kind = header["IMAGETYP"]
        role = FOLDERS[kind]
        start = datetime.fromisoformat(header["DATE-OBS"])
        raw = folder / "raw" / role / f"{path.stem}.dng"
        raw.parent.mkdir(parents=True, exist_ok=True)
        info = DngInfo(float(header["EXPTIME"]), 800, start + timedelta(hours=1), "+01:00", 500.0, 5.0)
        write_dng(raw, pixels.astype(np.uint16), header["BAYERPAT"], replace(info, black_level=0, white_level=65535))
        xisf = folder / "xisf" / f"{path.stem}.xisf"
        xisf.parent.mkdir(exist_ok=True)
        cards = [
            (card.keyword, card.value, "") for card in units[0].header.cards if card.keyword not in ("", "COMMENT")
        ]
        write_xisf(xisf, pixels.astype(np.uint16), cards, compression="lz4", checksum="sha-1")
    return folder


def integration(source: Path, out: Path) -> tuple[wbpy.Run, NDArray[np.float32]]:
    run = wbpy.run(wbpy.plan(source, out))
    (product,) = [one for one in run.products if one.kind == "integration"]
    with fits.open(product.path) as units:
        return run, np.asarray(units[0].data)


@pytest.mark.parametrize("form", ["raw", "xisf"])
def test_night_in_another_format_ends_in_the_same_pixels(night: Path, tmp_path: Path, form: str) -> None:
    _, wanted = integration(night / "fits", tmp_path / "wanted")
    run, found = integration(night / form, tmp_path / "found")
    assert run.outcome == "done"
    assert {frame.path.rpartition(".")[2] for frame in run.frames} == {"dng" if form == "raw" else "xisf"}
    np.testing.assert_array_equal(found, wanted)


def test_masters_are_made_of_xtrans_frames(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    for role, level in (("darks", 300), ("flats", 20000), ("bias", 290)):
        (tmp_path / "in" / role).mkdir(parents=True)
        for number in range(4):
            exposure = {"bias": 0.001, "flats": 1.0}.get(role, 60.0)
            pixels = rng.poisson(level, (66, 90)).astype(np.uint16)
            write_dng(tmp_path / "in" / role / f"{number}.dng", pixels, XTRANS, DngInfo(exposure, 800, black_level=256))
    plan = wbpy.plan(tmp_path / "in", tmp_path / "out")
    assert plan.held_back == ()
    run = wbpy.run(plan)
    assert run.outcome == "done"
    kinds = {product.kind: Path(product.path) for product in run.products}
    assert set(kinds) == {"master_bias", "master_dark", "master_flat"}
    assert fits.getheader(kinds["master_flat"])["BAYERPAT"] == XTRANS
