"""What a run takes from earlier ones, what it throws away, and what it does not build on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import STARS_ALONE, load_json

import wbpy
from wbpy.engine import execute
from wbpy.engine.events import Event
from wbpy.errors import ConfigError
from wbpy.model import Run, StepResult
from wbpy.simulate import write_session

SPEC = replace(STARS_ALONE, rotation_deg=0.4)


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("night") / "in"
    write_session(folder, SPEC)
    return folder


def transforms(run: Run) -> dict[str, Any]:
    return {frame.path: frame.transform for frame in run.frames if frame.role == "light"}


def artifacts(out: Path) -> set[str]:
    return {f"{path.parent.name}/{path.name}" for path in (out / ".store").glob("*/*.np[yz]")}


def test_transforms_follow_the_stars_when_these_are_measured_anew(frames: Path, tmp_path: Path):
    first = wbpy.run(frames, tmp_path / "out")
    # Fewer stars lead to other transforms.
    again = wbpy.run(frames, tmp_path / "out", set="measure.max_stars=15")
    fresh = wbpy.run(frames, tmp_path / "fresh", set="measure.max_stars=15")
    assert transforms(again) == transforms(fresh) != transforms(first)


def test_a_store_above_its_limit_keeps_what_the_last_run_used(frames: Path, tmp_path: Path):
    said: list[Event] = []
    wbpy.run(frames, tmp_path, set="cosmetic.hot_sigma=4")
    before = artifacts(tmp_path)
    wbpy.run(frames, tmp_path)
    assert before < artifacts(tmp_path), "below the limit nothing is removed"
    # The limit is part of no key: this run makes nothing, and what it does not use is the first one's.
    run = wbpy.run(frames, tmp_path, set="run.store_limit=1kB", listeners=[said.append])
    left = artifacts(tmp_path)
    assert left and before - left
    told = [event for event in said if "freed_bytes" in (event.data or {})]
    assert len(told) == 1 and told[0].data["removed"] > 0 and "run.store_limit 1kB" in told[0].message
    assert any("more than run.store_limit" in event.message for event in said), "its own results alone are larger"
    again = wbpy.run(frames, tmp_path)
    assert artifacts(tmp_path) == left, "nothing had to be made again"
    outcomes = {step.id.split("/")[0]: step.outcome for step in again.steps}
    assert outcomes["masters"] == outcomes["calibrate"] == outcomes["integrate"] == "reused"
    assert transforms(again) == transforms(run)


def test_a_stopped_run_removes_nothing(frames: Path, tmp_path: Path):
    import threading

    wbpy.run(frames, tmp_path)
    before = artifacts(tmp_path)
    cancel = threading.Event()

    def stop(event: Event) -> None:
        if event.kind == "step_finished" and event.stage == "calibrate":
            cancel.set()

    run = wbpy.run(frames, tmp_path, set="run.store_limit=1kB", cancel=cancel, listeners=[stop])
    assert run.outcome == "cancelled"
    assert artifacts(tmp_path) >= before


def test_a_limit_that_is_no_size_is_refused_before_anything_is_done(frames: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"run\.store_limit 'plenty'"):
        wbpy.run(frames, tmp_path, set="run.store_limit=plenty")
    assert not (tmp_path / ".store").exists()


@pytest.mark.parametrize("stage", ["approve", "register", "framing", "weigh"])
def test_nothing_is_built_on_a_decision_that_was_cut_off(
    stage: str, frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    names = {
        "approve": "approve_lights",
        "register": "register_lights",
        "framing": "frame_lights",
        "weigh": "weigh_lights",
    }
    whole: Callable[..., Any] = getattr(execute, names[stage])

    def broken(*arguments: Any) -> Any:
        whole(*arguments)
        raise RuntimeError("in the middle")

    monkeypatch.setattr(execute, names[stage], broken)
    run = wbpy.run(frames, tmp_path, set="framing.grid=max")
    outcomes = {step.id.split("/")[0]: step for step in run.steps}
    assert outcomes[stage].outcome == "failed" and outcomes["integrate"].outcome == "blocked"
    assert not [product for product in run.products if product.kind == "integration"]
    told = [step for step in run.steps if step.outcome == "blocked" and step.why.startswith(f"{stage}/")]
    assert told and all(step.why.endswith(" failed") for step in told)
    assert run.outcome == "partial", "the masters are there"
    assert load_json(tmp_path / "run.json")["outcome"] == "partial"


def test_stars_that_another_version_measured_are_measured_again(frames: Path, tmp_path: Path):
    plan = wbpy.plan(frames, tmp_path)
    wbpy.run(plan)
    steps = [
        msgspec.structs.replace(step, version=step.version + 1) if step.stage == "measure" else step
        for step in plan.steps
    ]
    told = {}
    for name, of_version in (("same", plan), ("next", msgspec.structs.replace(plan, steps=tuple(steps)))):
        run = wbpy.run(of_version)
        told[name] = next(step.why for step in run.steps if step.id.startswith("calibrate/"))
    assert told["same"] == "lights, masters and parameters are unchanged"
    assert told["next"] == "4 lights treated, 0 taken from the store"


def test_a_run_that_only_reuses_says_so_where_no_star_could_be_listed():
    steps = [
        StepResult(id=f"{stage}/g", outcome=outcome, seconds=0.0, why="")
        for stage, outcome in (
            ("masters", "reused"),
            ("weigh", "done"),
            ("integrate", "reused"),
            ("photometry", "no_work"),
        )
    ]
    assert execute._overall(steps, True, False) == "reused"
    assert execute._overall([*steps, msgspec.structs.replace(steps[0], outcome="done")], True, False) == "done"
