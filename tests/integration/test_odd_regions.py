"""A run says where its lights did not fit each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

import wbpy
from wbpy.simulate import Sensor, SessionSpec, write_session

SPEC = SessionSpec(
    seed=31,
    sensor=Sensor(width=384, height=320, seed=6),
    n_lights=6,
    n_stars=60,
    nebula_e_per_s=0.0,
    n_darks=4,
    n_flats=4,
    n_flat_darks=4,
    n_bias=0,
    dither_px=1.0,
    drift_px=(0.0, 0.0),
)


@pytest.mark.parametrize("glow", [0, 1500])
def test_the_glow_of_a_lamp_in_one_light_is_reported_with_its_place(tmp_path: Path, glow: int):
    truth = write_session(tmp_path / "in", SPEC)
    path = truth.lights[3].path
    with fits.open(path, mode="update", do_not_scale_image_data=True) as units:
        units[0].data[100:300, 120:330] += np.int16(glow)
    run = wbpy.run(wbpy.plan(tmp_path / "in", tmp_path / "out", set=["normalize.method=additive_scaling"]))
    found = [finding for finding in run.findings if finding.id == "INT007"]
    assert len(found) == (1 if glow else 0)
    if glow:
        evidence = found[0].evidence
        assert evidence["x_px"] == pytest.approx(225, abs=40) and evidence["y_px"] == pytest.approx(200, abs=40)
        # 210 x 200 of 384 x 320 px, in whole cells of 64 px; a sixth of the samples.
        assert 15 < evidence["picture_percent"] < 45
        assert evidence["percent"] == pytest.approx(100 / 6, rel=0.3)
