"""Weights in runs: what the parameters of the stage weigh do to the frames' weights and to the picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

import wbpy
from wbpy.model import Run
from wbpy.simulate import Sensor, SessionSpec, write_session

UNEVEN = SessionSpec(
    seed=51,
    sensor=Sensor(width=220, height=180, seed=5),
    n_lights=5,
    n_stars=60,
    brightest_e_per_s=3000.0,
    faintest_e_per_s=100.0,
    nebula_e_per_s=0.0,
    n_darks=4,
    n_flats=4,
    n_flat_darks=4,
    n_bias=0,
    dither_px=2.0,
    fwhm_px=(2.4, 4.6),
    cosmic_rays=0.0,
)


def weights(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Return weight and FWHM of each light."""
    lights = sorted((f for f in run.frames if f.role == "light"), key=lambda f: f.path)
    return np.array([f.weight for f in lights]), np.array([f.measurements["fwhm_px"] for f in lights])


def test_sharpness_reaches_the_weights_and_the_picture(tmp_path: Path) -> None:
    write_session(tmp_path / "in", UNEVEN)
    runs, pictures = [], []
    for power in (0, 3):
        # The same folder: the lights are treated once.
        plan = wbpy.plan(tmp_path / "in", tmp_path / "out", set=f"weigh.sharpness={power}")
        runs.append(wbpy.run(plan))
        path = next(p.path for p in runs[-1].products if p.kind == "integration")
        pictures.append(np.asarray(fits.getdata(path)))
    (even, width), (sharp, _) = map(weights, runs)
    assert width.max() > 1.3 * width.min()
    factor = sharp / even * width**3
    np.testing.assert_allclose(factor / factor[0], 1.0, rtol=1e-6)
    assert not np.array_equal(pictures[0], pictures[1])


def test_a_sharpness_out_of_range_is_refused_before_the_run(tmp_path: Path) -> None:
    write_session(tmp_path / "in", UNEVEN)
    with pytest.raises(wbpy.ConfigError, match="sharpness"):
        wbpy.plan(tmp_path / "in", tmp_path / "out", set="weigh.sharpness=9")
