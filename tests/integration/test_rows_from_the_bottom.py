"""Frames whose first row is the bottom one: what is made of their pictures is the same in FITS and in XISF."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from conftest import STARS_ALONE
from numpy.typing import NDArray

import wbpy
from wbpy.io.headers import load_header
from wbpy.io.images import open_image
from wbpy.io.wcs import read_wcs
from wbpy.model import Run
from wbpy.simulate import write_session

SPEC = replace(STARS_ALONE, filters={"R": 3, "G": 3, "B": 3}, drift_px=(2.0, 3.0))
SKY = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 312.75, "CRVAL2": 30.7, "CRPIX1": 100.0, "CRPIX2": 60.0}
SKY |= {"CD1_1": -5.4e-4, "CD1_2": 2e-5, "CD2_1": 1.8e-5, "CD2_2": 5.4e-4}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("bottom")
    truth = write_session(folder / "in", SPEC)
    # The first light of each filter knows its place on the sky.
    solved = {light.filter_name: light.path for light in reversed(truth.lights)}.values()
    for path in (folder / "in").rglob("*.fits"):
        with fits.open(path, mode="update") as units:
            units[0].header["ROWORDER"] = "BOTTOM-UP"
            if path in solved:
                units[0].header.update(SKY)
    return {form: wbpy.run(folder / "in", folder / form, set=f"run.format={form}") for form in ("fits", "xisf")}


def products(run: Run, kind: str) -> list[str]:
    return [product.path for product in run.products if product.kind == kind]


def planes(path: str) -> NDArray[np.float32]:
    with open_image(path) as image:
        return np.stack([image.read(channel=channel) for channel in range(image.channels)])


@pytest.mark.parametrize("kind", ["integration", "integration_autocrop", "rgb", "rgb_autocrop"])
def test_every_picture_shows_the_same_part_of_the_sky_in_both_forms(runs: dict[str, Run], kind: str):
    pairs = list(zip(products(runs["fits"], kind), products(runs["xisf"], kind), strict=True))
    assert pairs
    for plain, turned in pairs:
        pixels = planes(plain)
        assert not np.array_equal(pixels, pixels[:, ::-1])
        np.testing.assert_array_equal(planes(turned), pixels[:, ::-1])
        ours, theirs = read_wcs(load_header(plain)), read_wcs(load_header(turned))
        assert ours is not None and theirs is not None
        np.testing.assert_allclose(theirs.upside_down(pixels.shape[1]).crpix, ours.crpix, atol=1e-9)
        np.testing.assert_allclose(theirs.upside_down(pixels.shape[1]).cd, ours.cd, atol=1e-15)


def test_the_crop_says_its_rows_as_the_file_has_them(runs: dict[str, Run]):
    plain, turned = (load_header(products(runs[form], "integration_autocrop")[0]) for form in ("fits", "xisf"))
    # Dithered and drifting: otherwise the middle is cut out, and turning it over would not show.
    assert plain.get("CROPY0") + plain.get("CROPY1") != SPEC.sensor.height
    assert turned.get("CROPY0") == SPEC.sensor.height - plain.get("CROPY1")
    assert turned.get("CROPY1") == SPEC.sensor.height - plain.get("CROPY0")


def test_the_stars_of_both_forms_have_the_same_coordinates(runs: dict[str, Run]):
    plain, turned = (
        Table.read(next(path for path in products(runs[form], "star_catalogue") if Path(path).suffix == ".ecsv"))
        for form in ("fits", "xisf")
    )
    assert len(plain) == len(turned) > 10
    order = np.argsort(plain["flux_dn"]), np.argsort(turned["flux_dn"])
    plain, turned = plain[order[0]], turned[order[1]]
    # The table has five decimals of a degree; the fit begins at another corner of the star.
    np.testing.assert_allclose(turned["dec_deg"], plain["dec_deg"], atol=3e-5)
    np.testing.assert_allclose(turned["y_px"] + plain["y_px"], SPEC.sensor.height - 1, atol=0.02)


def test_another_order_for_frames_that_do_not_say_theirs_reaches_the_pictures(tmp_path: Path):
    write_session(tmp_path / "in", replace(SPEC, filters={"R": 3}))
    for path in (tmp_path / "in").rglob("*.fits"):
        with fits.open(path, mode="update") as units:
            units[0].header.remove("ROWORDER", ignore_missing=True)
    for order in ("TOP-DOWN", "BOTTOM-UP"):
        run = wbpy.run(tmp_path / "in", tmp_path / "out", set=f"scan.row_order={order}")
        assert fits.getheader(products(run, "integration")[0])["ROWORDER"] == order
