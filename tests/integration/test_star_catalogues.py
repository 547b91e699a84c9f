"""The star catalogue beside an integration: places, fluxes, sky coordinates, and what is left out or reused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from conftest import Night
from scipy.spatial import cKDTree

import wbpy
from wbpy.simulate import Sensor, SessionSpec, write_session

MONO = SessionSpec(
    seed=41,
    sensor=Sensor(width=260, height=200, seed=5),
    n_lights=5,
    n_stars=70,
    brightest_e_per_s=3000.0,
    faintest_e_per_s=60.0,
    nebula_e_per_s=0.0,
    n_darks=4,
    n_flats=4,
    n_flat_darks=4,
    n_bias=0,
    dither_px=2.0,
    cosmic_rays=0.0,
)
COLOUR = SessionSpec(
    seed=42,
    sensor=Sensor(width=300, height=240, seed=6, cfa="RGGB"),
    n_lights=5,
    n_stars=60,
    brightest_e_per_s=4000.0,
    faintest_e_per_s=100.0,
    nebula_e_per_s=0.0,
    n_darks=4,
    n_flats=4,
    n_flat_darks=4,
    n_bias=0,
    dither_px=2.0,
    cosmic_rays=0.0,
    dialect="asiair",
)
CARDS: dict[str, Any] = {
    "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 312.75, "CRVAL2": 30.7, "CRPIX1": 120.0, "CRPIX2": 90.0,
    "CD1_1": -5.4e-4, "CD1_2": 2e-5, "CD2_1": 1.8e-5, "CD2_2": 5.4e-4,
}  # fmt: skip


@pytest.fixture(scope="module")
def mono(tmp_path_factory: pytest.TempPathFactory) -> Night:
    """A night whose lights were all solved, with equal headers: the reference decides."""
    folder = tmp_path_factory.mktemp("catalogue")
    truth = write_session(folder / "in", MONO)
    for light in truth.lights:
        with fits.open(light.path, mode="update") as units:
            units[0].header.update(CARDS)
    plan = wbpy.plan(folder / "in", folder / "out")
    return Night(truth, plan, wbpy.run(plan), folder / "out")


def catalogue(night: Night) -> Table:
    ecsv = [Path(p.path) for p in night.run.products if p.kind == "star_catalogue" and p.path.endswith(".ecsv")]
    return Table.read(ecsv[0], format="ascii.ecsv")


def test_stars_stand_where_the_picture_is_brightest(mono: Night) -> None:
    table = catalogue(mono)
    image = mono.pixels("integration")
    assert len(table) > 25 and list(table["id"]) == list(range(1, len(table) + 1))
    good = table[(~table["saturated"]) & (table["snr"] > 50)]
    assert len(good) > 10
    away = []
    for row in good:
        x, y = max(round(row["x_px"]) - 3, 0), max(round(row["y_px"]) - 3, 0)
        box = image[y : y + 7, x : x + 7]
        top = np.unravel_index(np.argmax(box), box.shape)
        away.append(np.hypot(top[0] + y - row["y_px"], top[1] + x - row["x_px"]))
    # Half a pixel each way; a neighbour may be brighter than a star.
    assert np.mean(np.array(away) < 0.9) > 0.85
    assert np.nanmedian(table["fwhm_px"]) == pytest.approx(3.0, abs=1.0)


def test_photometry_follows_the_true_fluxes(mono: Night) -> None:
    table = catalogue(mono)
    scene = mono.truth.scene
    good = table[(~table["saturated"]) & (table["snr"] > 100)]
    places = np.column_stack([good["x_px"], good["y_px"]])
    found = None
    for light in mono.truth.lights:
        points = np.column_stack([scene.x, scene.y, np.ones(len(scene.x))]) @ np.asarray(light.transform).T
        distance, nearest = cKDTree(points[:, :2] / points[:, 2:]).query(places)
        if np.median(distance) < 0.3:
            found = distance, nearest
    assert found is not None, "the catalogue lies on the grid of no light"
    distance, nearest = found
    ratio = good["flux_dn"][distance < 0.5] / scene.flux["L"][nearest[distance < 0.5]]
    # One aperture for all: the same share of each; noise below 1 %, flat field and neighbours below 2 %.
    assert len(ratio) > 8
    assert 1.4826 * np.median(np.abs(ratio / np.median(ratio) - 1)) < 0.02


def test_sky_coordinates_are_those_of_the_header(mono: Night) -> None:
    table = catalogue(mono)
    with fits.open(mono.product("integration")) as units:
        world = WCS(units[0].header, fix=False).pixel_to_world(table["x_px"], table["y_px"]).icrs
    np.testing.assert_allclose(table["ra_deg"], world.ra.deg, atol=1e-8)
    np.testing.assert_allclose(table["dec_deg"], world.dec.deg, atol=1e-8)
    # The reference has the coordinates that every light was given.
    first = table[0]
    rough = CARDS["CRVAL2"] + CARDS["CD2_2"] * (first["y_px"] + 1 - CARDS["CRPIX2"])
    assert first["dec_deg"] == pytest.approx(rough, abs=0.02)
    assert str(table["ra_deg"].unit) == "deg" and str(table["x_px"].unit) == "pix"
    assert table.meta["aperture_px"] > 2


def test_csv_holds_the_same_and_leaves_the_unknown_empty(mono: Night) -> None:
    path = next(Path(p.path) for p in mono.run.products if p.kind == "star_catalogue" and p.path.endswith(".csv"))
    table, plain = catalogue(mono), Table.read(path, format="ascii.csv")
    assert plain.colnames == table.colnames and len(plain) == len(table)
    assert "nan" not in path.read_text(encoding="utf-8")
    # Six digits are written for people.
    np.testing.assert_allclose(np.ma.filled(plain["flux_dn"], np.nan), np.asarray(table["flux_dn"]), rtol=1e-5)


def test_each_colour_is_measured_at_the_same_places_and_a_second_run_reuses_it(
    run_night: Callable[..., Night],
) -> None:
    night = run_night(COLOUR)
    table = catalogue(night)
    for colour in "rgb":
        assert (np.isfinite(table[f"flux_{colour}_dn"])).sum() > 0.8 * len(table)
    assert "ra_deg" not in table.colnames
    again = wbpy.run(wbpy.plan(night.out.parent / "in", night.out))
    outcomes = {step.id.split("/")[0]: step.outcome for step in again.steps}
    assert outcomes["photometry"] == "reused"


def test_the_catalogue_can_be_left_out_and_its_aperture_set(tmp_path: Path) -> None:
    truth = write_session(tmp_path / "in", MONO)
    folder = truth.lights[0].path.parent
    off = wbpy.plan(folder, tmp_path / "off", set="photometry.use=false")
    assert not [step for step in off.steps if step.stage == "photometry"]
    wide = wbpy.plan(folder, tmp_path / "wide", set=["photometry.aperture=3", "photometry.max_stars=7"])
    table = catalogue(Night(truth, wide, wbpy.run(wide), tmp_path / "wide"))
    assert len(table) == 7
    assert table.meta["aperture_px"] == pytest.approx(3 * np.median(table["fwhm_px"]), rel=0.1)
