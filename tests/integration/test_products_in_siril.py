"""Products open in Siril with the right values, orientation and keywords; skips where Siril is not installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Night

from wbpy.simulate import Sensor, SessionSpec

PROGRAM = shutil.which("siril-cli")
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="siril-cli is not installed")

SPEC = SessionSpec(
    seed=71,
    sensor=Sensor(width=200, height=150, cfa="GRBG"),
    n_lights=4,
    n_stars=120,
    n_darks=3,
    n_flats=3,
    n_flat_darks=3,
    n_bias=0,
    dialect="asiair",
)


def siril(folder: Path, *commands: str) -> str:
    script = folder / "script.ssf"
    script.write_text("\n".join(["requires 1.0.0", "setext fits", *commands, "close"]) + "\n", encoding="ascii")
    done = subprocess.run(
        [str(PROGRAM), "-d", str(folder), "-s", str(script)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def night(run_night: Callable[..., Night]) -> Night:
    return run_night(SPEC)


@pytest.mark.parametrize("kind", ["master_dark", "master_flat", "integration", "integration_autocrop"])
def test_what_siril_saves_is_what_it_was_given(night: Night, tmp_path: Path, kind: str) -> None:
    from astropy.io import fits

    product = tmp_path / "product.fits"
    shutil.copy(night.product(kind), product)
    output = siril(tmp_path, "load product", "stat", "save copy")
    with fits.open(product) as ours, fits.open(tmp_path / "copy.fits") as theirs:
        np.testing.assert_allclose(theirs[0].data, ours[0].data, atol=1e-7)
        assert theirs[0].header.get("BAYERPAT", "").strip() == ours[0].header.get("BAYERPAT", "").strip()
        assert theirs[0].header["EXPTIME"] == pytest.approx(ours[0].header["EXPTIME"])
        mean = float(np.mean(ours[0].data if ours[0].data.ndim == 2 else ours[0].data[0])) * 65535
    shown = [float(value) for value in re.findall(r"Mean: ([0-9.]+)", output)]
    assert shown and shown[0] == pytest.approx(mean, rel=1e-3, abs=0.2)


def test_siril_keeps_time_number_and_place_on_the_sky(tmp_path: Path) -> None:
    from astropy.io import fits
    from astropy.wcs import WCS

    import wbpy
    from wbpy.simulate import write_session

    truth = write_session(tmp_path / "in", SPEC)
    cards = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 312.75, "CRVAL2": 30.7, "CRPIX1": 90.0}
    cards |= {"CRPIX2": 70.0, "CD1_1": -5e-4, "CD1_2": 2e-5, "CD2_1": 1e-5, "CD2_2": 5e-4}
    for light in truth.lights:
        with fits.open(light.path, mode="update") as units:
            units[0].header.update(cards)
    run = wbpy.run(wbpy.plan(tmp_path / "in", tmp_path / "out"))
    shutil.copy(next(p.path for p in run.products if p.kind == "integration_autocrop"), tmp_path / "product.fits")
    siril(tmp_path, "load product", "save copy")
    ours, theirs = (fits.getheader(tmp_path / name) for name in ("product.fits", "copy.fits"))
    assert theirs["STACKCNT"] == 4
    assert theirs["LIVETIME"] == pytest.approx(ours["LIVETIME"])
    assert theirs["DATE-OBS"][:19] == ours["DATE-OBS"][:19]
    points = [(0.0, 0.0), (150.0, 100.0)]
    for point in points:
        here, there = (WCS(header, naxis=2).all_pix2world([point], 0)[0] for header in (ours, theirs))
        # A tenth of a pixel of 5e-4 degrees.
        np.testing.assert_allclose(there, here, atol=5e-5)
