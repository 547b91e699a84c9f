"""A run looks for what the pattern of the sensor left in its integrations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import wbpy
from wbpy.simulate import Sensor, SessionSpec, write_session

SPEC = SessionSpec(
    seed=41,
    sensor=Sensor(width=360, height=300, seed=8, prnu=0.0, hot_fraction=0, warm_fraction=0, cold_fraction=0),
    n_lights=10,
    n_stars=60,
    nebula_e_per_s=0.0,
    sky_e_per_s=8.0,
    n_darks=0,
    n_flats=0,
    n_flat_darks=0,
    n_bias=0,
    cosmic_rays=0.0,
    dither_px=0.0,
    drift_px=(2.0, 0.6),
)
PATTERN = replace(SPEC.sensor, prnu=0.04)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"sensor": PATTERN}, {"INT008"}),
        ({}, set()),
        ({"sensor": PATTERN, "dither_px": 8.0, "drift_px": (0.0, 0.0)}, set()),
        ({"sensor": PATTERN, "drift_px": (0.05, 0.0)}, {"INT009"}),
        ({"drift_px": (0.05, 0.0)}, set()),
    ],
    ids=["drift", "drift without a pattern", "dithered", "still", "still without a pattern"],
)
def test_streaks_and_mottling_are_reported_where_a_pattern_meets_lights_without_dithering(
    tmp_path: Path, changes: dict[str, object], expected: set[str]
):
    write_session(tmp_path / "in", replace(SPEC, **changes))
    run = wbpy.run(wbpy.plan(tmp_path / "in", tmp_path / "out"))
    found = {finding.id: finding.evidence for finding in run.findings if finding.id in ("INT008", "INT009")}
    assert set(found) == expected, found
    if "INT008" in found:
        # A pattern of 15 DN beside noise of 28 DN is 22 % of the variance; steps of 2.1 px, at two to four of which six
        # to eight of ten lights share it.
        assert 8 < found["INT008"]["percent"] < 20
        assert found["INT008"]["direction_deg"] % 180 == pytest.approx(16.7, abs=6)
        assert found["INT008"]["drift_px"] == pytest.approx(18.8, abs=1)
    if "INT009" in found:
        # Ten lights: sqrt((1 + 10 x 0.28) / 1.28) = 1.7, what interpolation takes from both alike.
        assert 1.3 < found["INT009"]["ratio"] < 2.2
