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


@pytest.mark.parametrize("kind", ["master_dark", "master_flat", "integration"])
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
