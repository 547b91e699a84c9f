"""The functions of ``import wbpy``: what they check, write and pass on."""

import inspect
import os
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

import wbpy
from wbpy.errors import ConfigError, PlanError, WbpyError
from wbpy.model import Plan, encode
from wbpy.simulate import Sensor, SessionSpec, write_session


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three tiny lights and their calibration frames."""
    folder = tmp_path_factory.mktemp("night")
    spec = SessionSpec(
        sensor=Sensor(width=64, height=48), n_stars=5, n_lights=3, n_darks=3, n_flats=3, n_flat_darks=3, n_bias=3
    )
    write_session(folder, spec)
    return folder


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[SimpleNamespace]:
    """The plans that would have been executed, with what else the engine was given."""
    calls: list[SimpleNamespace] = []

    def execute(plan: Plan, rules: object, **options: object) -> str:
        calls.append(SimpleNamespace(plan=plan, rules=rules, **options))
        return "record"

    monkeypatch.setattr("wbpy.engine.execute.execute", execute)
    return calls


def names_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder).as_posix()) for path in folder.rglob("*")}


@pytest.mark.parametrize("name", wbpy.__all__)
def test_every_public_name_can_be_had(name: str):
    assert getattr(wbpy, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="speed"):
        wbpy.speed  # noqa: B018


def test_the_functions_share_their_configuration_options():
    common = {"rules", "config", "preset", "set", "memory_limit", "workers", "keep", "previous", "progress"}
    for function in (wbpy.scan, wbpy.plan, wbpy.run):
        assert common <= set(inspect.signature(function).parameters), function.__name__


def test_scan_returns_the_catalog_of_all_paths_and_reports_progress(night: Path):
    seen: list[tuple[int, int]] = []
    catalog = wbpy.scan([night / "LIGHT", night / "DARK"], progress=lambda done, total: seen.append((done, total)))
    assert isinstance(catalog, wbpy.Catalog)
    assert {frame.role for frame in catalog.frames} == {"light", "dark"}
    assert seen[-1] == (6, 6)


def test_a_path_that_does_not_exist_is_named(night: Path, tmp_path: Path):
    for function in (lambda path: wbpy.scan(path), lambda path: wbpy.run([night, path], tmp_path / "out")):
        with pytest.raises(ConfigError, match="nihgt: no such file or folder"):
            function(night.parent / "nihgt")
    assert not (tmp_path / "out").exists()


def test_a_folder_without_images_is_named(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("clouds")
    with pytest.raises(ConfigError, match=r"no image files were found; wbpy reads FITS"):
        wbpy.scan(tmp_path)


def test_no_path_at_all_is_refused():
    with pytest.raises(ConfigError, match="no path was given"):
        wbpy.scan([])


def test_a_wrong_setting_is_refused_before_anything_is_read_or_written(tmp_path: Path):
    for options in (
        {"set": "calibrate.speed=1"},
        {"memory_limit": "lots"},
        {"keep": "everything"},
        {"preset": "none such"},
        {"config": tmp_path / "absent.toml"},
    ):
        with pytest.raises(ConfigError):
            wbpy.plan(tmp_path / "absent", tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_plan_writes_the_plan_and_nothing_else(night: Path, tmp_path: Path):
    before = names_below(night)
    plan = wbpy.plan(night, tmp_path / "out")
    assert names_below(tmp_path) == {"out", "out/plan.json"}
    assert (tmp_path / "out" / "plan.json").read_bytes() == encode(plan)
    assert names_below(night) == before


def test_plan_from_a_catalog_is_the_plan_from_its_paths(night: Path, tmp_path: Path):
    assert wbpy.plan(wbpy.scan(night), tmp_path) == wbpy.plan(night, tmp_path)


def test_options_stand_in_the_plan_with_their_origin(night: Path, tmp_path: Path):
    plan = wbpy.plan(night, tmp_path, set="calibrate.flat_trim=0.1", workers=3, keep="calibrated", memory_limit="2GB")
    [trim] = {step.params["flat_trim"] for step in plan.steps if step.stage == "calibrate"}
    assert (trim.value, trim.origin) == (0.1, "--set")
    run = {name: (param.value, param.origin) for name, param in plan.settings["run"].items()}
    assert run["workers"] == (3, "--workers")
    assert run["memory_limit"] == ("2GB", "--memory-limit")
    assert (list(run["keep"][0]), run["keep"][1]) == (["calibrated"], "--keep")


def test_results_never_go_into_a_folder_of_inputs(night: Path):
    with pytest.raises(ConfigError, match=r"results must not mix with inputs.*such as"):
        wbpy.plan(night, os.fspath(night) + os.sep + ".")


def test_an_output_folder_that_cannot_be_made_is_named(night: Path, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file: the output folder cannot be made"):
        wbpy.plan(night, tmp_path / "file")
    with pytest.raises(ConfigError, match="the output folder cannot be made"):
        wbpy.plan(night, tmp_path / "file" / "out")


def test_run_of_paths_needs_an_output_folder(night: Path):
    with pytest.raises(ConfigError, match="give -o OUT"):
        wbpy.run(night)


def test_run_of_paths_saves_plan_and_catalog_and_executes_the_plan(
    night: Path, tmp_path: Path, executed: list[SimpleNamespace]
):
    listener = print
    assert wbpy.run(night, tmp_path / "out", listeners=[listener]) == "record"
    assert names_below(tmp_path / "out") == {"plan.json", "catalog.sqlite"}
    [call] = executed
    assert encode(call.plan) == (tmp_path / "out" / "plan.json").read_bytes()
    assert (list(call.listeners), call.cancel) == ([listener], None)
    assert wbpy.Catalog.load(tmp_path / "out" / "catalog.sqlite").frames == wbpy.scan(night).frames


def test_a_second_run_reads_only_what_changed(night: Path, tmp_path: Path, executed: list[SimpleNamespace]):
    wbpy.run(night, tmp_path / "out")
    earlier = wbpy.Catalog.load(tmp_path / "out" / "catalog.sqlite")
    previous = []
    scan = import_module("wbpy.scanner").scan

    def watched(*args: object, **kwargs: object) -> object:
        previous.append(kwargs["previous"])
        return scan(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wbpy.scanner.scan", watched)
        wbpy.run(night, tmp_path / "out")
        (tmp_path / "out" / "catalog.sqlite").write_bytes(b"damaged")
        wbpy.run(night, tmp_path / "out")
    assert previous[0].frames == earlier.frames
    assert previous[1] is None
    assert executed[0].plan == executed[1].plan == executed[2].plan


def test_a_saved_plan_is_executed_as_it_is(night: Path, tmp_path: Path, executed: list[SimpleNamespace]):
    plan = wbpy.plan(night, tmp_path / "out", set="calibrate.flat_trim=0.1")
    for source in (plan, tmp_path / "out" / "plan.json", [tmp_path / "out" / "plan.json"]):
        wbpy.run(source)
        assert encode(executed.pop().plan) == encode(plan)
    assert names_below(tmp_path / "out") == {"plan.json"}


def test_a_saved_plan_takes_memory_and_threads_but_nothing_that_changes_pixels(
    night: Path, tmp_path: Path, executed: list[SimpleNamespace]
):
    plan = wbpy.plan(night, tmp_path / "out")
    wbpy.run(plan, workers=2, memory_limit="1GB")
    run = executed[0].plan.settings["run"]
    assert (run["workers"].value, run["workers"].origin, run["memory_limit"].value) == (2, "--workers", "1GB")
    assert executed[0].plan.steps == plan.steps
    for options in (
        {"set": "calibrate.flat_trim=0.1"},
        {"preset": "ccd"},
        {"keep": "calibrated"},
        {"config": "x.toml"},
    ):
        with pytest.raises(ConfigError, match="executed as it was reviewed"):
            wbpy.run(plan, **options)
    with pytest.raises(ConfigError, match="the plan writes to"):
        wbpy.run(plan, tmp_path / "elsewhere")
    assert wbpy.run(plan, tmp_path / "out") == "record"


def test_a_saved_plan_whose_inputs_changed_is_refused_and_they_are_named(
    tmp_path: Path, executed: list[SimpleNamespace]
):
    write_session(
        tmp_path / "night",
        SessionSpec(
            sensor=Sensor(width=64, height=48), n_stars=5, n_lights=3, n_darks=2, n_flats=2, n_flat_darks=2, n_bias=2
        ),
    )
    plan = wbpy.plan(tmp_path / "night", tmp_path / "out")
    first, second = (Path(frame.path) for frame in plan.frames[:2])
    first.unlink()
    os.utime(second, ns=(0, 0))
    with pytest.raises(
        PlanError, match=f"2 of the plan's {len(plan.frames)} input files changed or vanished"
    ) as refused:
        wbpy.run(tmp_path / "out" / "plan.json")
    assert first.name in str(refused.value)
    assert second.name in str(refused.value)
    assert "wbpy plan" in str(refused.value)
    assert not executed


def test_a_plan_among_other_paths_is_refused(night: Path, tmp_path: Path):
    wbpy.plan(night, tmp_path)
    with pytest.raises(ConfigError, match="a saved plan stands alone"):
        wbpy.run([tmp_path / "plan.json", night], tmp_path)


def test_a_file_that_is_no_plan_is_refused(tmp_path: Path):
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(PlanError, match=r"plan\.json"):
        wbpy.run(tmp_path / "plan.json")


def test_explain_takes_paths_ids_plans_and_folders(night: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plan = wbpy.plan(night, tmp_path)
    light = next(Path(frame.path) for frame in plan.frames if frame.role == "light")
    monkeypatch.chdir(light.parent)
    for target, out in ((light, plan), (light.name, tmp_path), (light, tmp_path), (str(light), str(tmp_path))):
        assert light.name in wbpy.explain(target, out).text()
    step = plan.steps[-1]
    assert step.id in wbpy.explain(step.id, tmp_path).text()


def test_explain_without_a_plan_says_how_to_make_one(tmp_path: Path):
    with pytest.raises(PlanError, match="wbpy plan PATH"):
        wbpy.explain("x.fits", tmp_path)


def test_explain_of_an_unknown_target_is_an_error_of_wbpy(night: Path, tmp_path: Path):
    wbpy.plan(night, tmp_path)
    with pytest.raises(WbpyError, match="light_999"):
        wbpy.explain("light_999.fits", tmp_path)


def test_explain_refuses_a_damaged_record_of_a_run(night: Path, tmp_path: Path):
    wbpy.plan(night, tmp_path)
    (tmp_path / "run.json").write_text('{"outcome": "done"}')
    with pytest.raises(PlanError, match=r"run\.json"):
        wbpy.explain("integrate", tmp_path)
