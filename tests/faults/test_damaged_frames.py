"""Damaged, foreign and lost frames: the rest of the night goes on, and every loss is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Night

import wbpy
from wbpy.engine.execute import execute
from wbpy.errors import PlanError
from wbpy.rules import load_rules
from wbpy.simulate import Sensor, SessionSpec, write_session

SPEC = SessionSpec(
    seed=31,
    sensor=Sensor(width=260, height=200),
    n_lights=8,
    n_stars=120,
    nebula_e_per_s=0,
    n_darks=4,
    n_flats=4,
    n_flat_darks=4,
    n_bias=0,
)


def with_faults(faults: dict[int | tuple[str, int], str]) -> SessionSpec:
    from dataclasses import replace

    return replace(SPEC, faults=faults)


@pytest.mark.parametrize("fault", ["truncate", "garbage", "empty"])
def test_one_damaged_light_of_eight(run_night: Callable[..., Night], fault: str) -> None:
    night = run_night(with_faults({3: fault}))
    product = next(p for p in night.run.products if p.kind == "integration")
    assert product.frames_used == 7
    damaged = str(night.truth.lights[3].path)
    about = [f for f in night.run.findings if f.subject == damaged]
    assert len(about) == 1 and about[0].severity == "error", about
    assert night.run.outcome == "partial"


def test_a_file_that_changed_since_the_plan_stops_the_run(tmp_path: Path) -> None:
    truth = write_session(tmp_path / "in", SPEC)
    plan = wbpy.plan(tmp_path / "in", tmp_path / "out")
    victim = truth.lights[5].path
    victim.write_bytes(victim.read_bytes()[:40_000])
    with pytest.raises(PlanError, match=victim.name):
        wbpy.run(plan)


def test_a_light_damaged_between_check_and_reading(tmp_path: Path) -> None:
    truth = write_session(tmp_path / "in", SPEC)
    plan = wbpy.plan(tmp_path / "in", tmp_path / "out")
    victim = truth.lights[5].path
    victim.write_bytes(victim.read_bytes()[:40_000])
    run = execute(plan, load_rules())
    assert run.outcome == "partial"
    finding = next(f for f in run.findings if f.id == "CAL002")
    assert finding.subject == str(victim) and "40000" in finding.message
    assert next(p for p in run.products if p.kind == "integration").frames_used == 7
    lost = next(frame for frame in run.frames if frame.path == str(victim))
    assert lost.outcome == "failed" and lost.excluded_by == "CAL002"


def test_a_damaged_dark_leaves_the_master_of_the_others(run_night: Callable[..., Night], tmp_path: Path) -> None:
    truth = write_session(tmp_path / "in", SPEC)
    plan = wbpy.plan(tmp_path / "in", tmp_path / "out")
    victim = truth.files["dark"][1]
    victim.write_bytes(victim.read_bytes()[:50_000])
    run = execute(plan, load_rules())
    master = next(p for p in run.products if p.kind == "master_dark")
    assert master.frames_used == 3 and master.frames_excluded == 1 and master.outcome == "partial"
    assert next(f for f in run.findings if f.id == "MAS001").subject == str(victim)
    assert next(p for p in run.products if p.kind == "integration").frames_used == 8


def test_all_darks_damaged_blocks_their_lights_and_says_so(tmp_path: Path) -> None:
    truth = write_session(tmp_path / "in", SPEC)
    plan = wbpy.plan(tmp_path / "in", tmp_path / "out")
    for path in truth.files["dark"]:
        path.write_bytes(b"")
    run = execute(plan, load_rules())
    ids = {f.id for f in run.findings}
    assert {"MAS002", "CAL003"} <= ids
    assert not [p for p in run.products if p.kind == "integration"]
    assert all(f.outcome == "blocked" for f in run.frames if f.role == "light")
    # The flats do not need the darks; their master is made all the same.
    assert [p for p in run.products if p.kind == "master_flat"]


def test_a_frame_without_stars_is_excluded_with_a_reason(run_night: Callable[..., Night]) -> None:
    night = run_night(with_faults({2: "closed"}))
    dark_one = night.result(night.truth.lights[2].path)
    assert dark_one.excluded_by == "REG001"
    assert next(p for p in night.run.products if p.kind == "integration").frames_used == 7
    assert {"MEA001", "REG001"} <= {f.id for f in night.run.findings if f.subject == dark_one.path}


def test_a_light_behind_cloud_counts_little(run_night: Callable[..., Night]) -> None:
    night = run_night(with_faults({4: "cloud"}))
    cloudy = night.result(night.truth.lights[4].path)
    others = [night.result(light.path).weight or 0 for i, light in enumerate(night.truth.lights) if i != 4]
    # A fifth of the light at more noise: below 1/25 of the weight of a clear frame.
    assert (cloudy.weight or 0) < 0.05 * max(others) or cloudy.excluded_by == "WGT001"


def test_a_light_that_is_left_out_for_its_weight_says_what_it_looks_like(run_night: Callable[..., Night]) -> None:
    night = run_night(with_faults({4: "cloud"}), set=["weigh.minimum=0.3"])
    cloudy = night.truth.lights[4].path
    assert night.result(cloudy).excluded_by == "WGT001"
    said = next(f.message for f in night.run.findings if f.id == "WGT001" and f.subject.endswith(cloudy.name))
    assert said.endswith(": cloud."), said


def test_inputs_are_never_touched(tmp_path: Path) -> None:
    write_session(tmp_path / "in", SPEC)
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in (tmp_path / "in").rglob("*") if p.is_file()}
    wbpy.run(wbpy.plan(tmp_path / "in", tmp_path / "out"))
    after = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in (tmp_path / "in").rglob("*") if p.is_file()}
    assert after == before
