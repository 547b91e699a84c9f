"""What runs took, and the forecasts that rest on it."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from session_frames import FakeCatalog, night

from wbpy.config import load_config
from wbpy.costs import SECONDS_PER_MEGAPIXEL
from wbpy.engine.speed import STARTUP, load_speeds, make_forecast, record_run
from wbpy.model import FrameResult, Plan, Run, StepResult
from wbpy.planner import make_plan
from wbpy.rules import load_rules
from wbpy.stages import STAGES

LARGE = {"width": 6248, "height": 4176}


def planned(tmp_path: Path, *sets: str, **changes: object) -> Plan:
    rules = load_rules()
    config = load_config(rules, {stage.name: stage.params for stage in STAGES}, sets=["run.workers=2", *sets])
    return make_plan(FakeCatalog(tuple(night(**changes))), tmp_path / "out", rules, config, STAGES)


def executed(plan: Plan, rate: float, *, outcome: str = "done", reused: tuple[str, ...] = ()) -> Run:
    """Return a run whose steps each took `rate` core-seconds per frame and megapixel on two workers."""
    groups = {group.id: group for group in plan.groups}
    size = {frame.path: (frame.width or 0) * (frame.height or 0) / 1e6 for frame in plan.frames}
    steps = tuple(
        StepResult(
            id=step.id,
            outcome=outcome,
            seconds=rate * sum(size[path] for path in groups[step.group].frames if path not in reused) / 2,
            why="",
        )
        for step in plan.steps
    )
    return Run(
        outcome=outcome,
        products=(),
        frames=tuple(FrameResult(path=path, role="light", outcome="reused") for path in reused),
        steps=steps,
        findings=(),
        timings={},
        versions={},
        log="/out/x.log",
    )


def test_a_machine_without_record_is_forecast_by_the_built_in_rates(tmp_path: Path):
    plan = planned(tmp_path, **LARGE)
    forecast = make_forecast(plan, tmp_path / "speeds.json")
    assert forecast.runs == 0
    assert forecast.workers == 2
    # The plan's own estimate has the same rates and workers, and is rounded to 0.1 s.
    assert forecast.seconds == pytest.approx(plan.estimate.seconds + STARTUP, abs=0.06)


def test_what_a_run_took_is_what_the_next_one_is_expected_to_take(tmp_path: Path):
    file, plan = tmp_path / "cache" / "speeds.json", planned(tmp_path, **LARGE)
    run = executed(plan, 0.1)
    took = sum(step.seconds for step in run.steps) + 3.0
    for _ in range(8):
        record_run(file, plan, run, took)
    forecast = make_forecast(plan, file)
    # The built-in rates fade, but still weigh like two core-seconds for each stage.
    assert forecast.seconds == pytest.approx(took, rel=0.2)
    assert forecast.runs == 8
    assert load_speeds(file).startup == pytest.approx(3.0, abs=0.01)


def test_a_run_of_small_frames_hardly_changes_what_is_expected_of_large_ones(tmp_path: Path):
    file, small = tmp_path / "speeds.json", planned(tmp_path, width=64, height=64)
    record_run(file, small, executed(small, 20.0), 30.0)
    rate = load_speeds(file).rate("integrate")
    assert rate < 3 * SECONDS_PER_MEGAPIXEL["integrate"]


def test_reused_steps_and_frames_tell_nothing(tmp_path: Path):
    file, plan = tmp_path / "speeds.json", planned(tmp_path, **LARGE)
    record_run(file, plan, executed(plan, 0.1, outcome="reused"), 1.0)
    assert not file.exists()
    lights = tuple(frame.path for frame in plan.frames if frame.role == "light")
    record_run(file, plan, executed(plan, 0.1, reused=lights[:6]), 60.0)
    spent, work = load_speeds(file).stages["calibrate"]
    assert work == pytest.approx(2 * 6248 * 4176 / 1e6, rel=1e-3)
    assert spent / work == pytest.approx(0.1, rel=1e-3)


@pytest.mark.parametrize("outcome", ["cancelled", "no_work"])
def test_a_run_that_did_not_end_is_not_kept(tmp_path: Path, outcome: str):
    plan = planned(tmp_path, **LARGE)
    record_run(tmp_path / "speeds.json", plan, executed(plan, 0.1, outcome=outcome), 1.0)
    assert not (tmp_path / "speeds.json").exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b'{"schema": 2, "runs": 3}', b'{"stages": {"masters": [-1.0, 2.0]}}', b'{"stages": {"masters": 3}}'],
)
def test_a_damaged_record_counts_as_none(tmp_path: Path, content: bytes):
    file = tmp_path / "speeds.json"
    file.write_bytes(content)
    assert load_speeds(file).runs == 0
    assert load_speeds(file).rate("masters") == pytest.approx(SECONDS_PER_MEGAPIXEL["masters"])


def test_time_falls_with_the_number_of_workers(tmp_path: Path):
    one, many = (
        make_forecast(planned(tmp_path, f"run.workers={n}", **LARGE), tmp_path / "speeds.json") for n in (1, 8)
    )
    assert one.seconds - STARTUP == pytest.approx(8 * (many.seconds - STARTUP))


def test_disk_is_what_is_still_to_be_written_against_what_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plan = planned(tmp_path)
    asked: list[Path] = []

    def usage(folder: Path) -> SimpleNamespace:
        asked.append(folder)
        return SimpleNamespace(free=plan.estimate.bytes_written - 1)

    monkeypatch.setattr("shutil.disk_usage", usage)
    forecast = make_forecast(plan, tmp_path / "speeds.json")
    assert (forecast.disk_needed, forecast.short) == (plan.estimate.bytes_written, True)
    assert asked == [tmp_path], "the output folder does not exist yet: its nearest parent tells"
    (tmp_path / "out" / "masters").mkdir(parents=True)
    (tmp_path / "out" / "masters" / "m.fits").write_bytes(bytes(1))
    assert not make_forecast(plan, tmp_path / "speeds.json").short


def test_a_disk_that_does_not_tell_is_no_reason_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def usage(_: Path) -> SimpleNamespace:
        raise OSError("not supported")

    monkeypatch.setattr("shutil.disk_usage", usage)
    forecast = make_forecast(planned(tmp_path), tmp_path / "speeds.json")
    assert (forecast.disk_free, forecast.short) == (None, False)


def test_shares_of_the_parts_add_up_and_follow_each_other(tmp_path: Path):
    shares = make_forecast(planned(tmp_path, **LARGE), tmp_path / "speeds.json").shares
    assert [name for name, *_ in shares] == ["masters", "lights", "integrations"]
    end = 0.0
    for _, _, share, start in shares:
        assert start == pytest.approx(end)
        end += share
    assert end == pytest.approx(1)


def test_a_plan_without_work_costs_nothing(tmp_path: Path):
    rules = load_rules()
    config = load_config(rules, {stage.name: stage.params for stage in STAGES})
    empty = make_plan(FakeCatalog(()), tmp_path, rules, config, STAGES)
    forecast = make_forecast(empty, tmp_path / "speeds.json")
    assert (forecast.seconds, forecast.shares) == (0.0, [])
