"""The functions of ``import wbpy``: what they check, write and pass on."""

import inspect
import os
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import msgspec
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
    monkeypatch.setattr("wbpy.engine.speed.record_run", lambda *_: None)
    return calls


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder of this test alone."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr("wbpy.config.cache_folder", lambda: folder)
    return folder


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
    assert names_below(tmp_path) == {"out", "out/plan.json", "out/plan.html"}
    assert (tmp_path / "out" / "plan.json").read_bytes() == encode(plan)
    assert names_below(night) == before


def test_plan_from_a_catalog_is_the_plan_from_its_paths(night: Path, tmp_path: Path):
    of_catalog, of_paths = wbpy.plan(wbpy.scan(night), tmp_path), wbpy.plan(night, tmp_path)
    assert of_paths.inputs == (str(night),)
    assert of_catalog == msgspec.structs.replace(of_paths, inputs=())


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
    assert names_below(tmp_path / "out") == {"plan.json", "plan.html", "catalog.sqlite"}
    [call] = executed
    assert encode(call.plan) == (tmp_path / "out" / "plan.json").read_bytes()
    assert (list(call.listeners), call.cancel) == ([listener], None)
    assert wbpy.Catalog.load(tmp_path / "out" / "catalog.sqlite").frames == wbpy.scan(night).frames


def test_a_second_run_reads_only_what_changed(night: Path, tmp_path: Path, executed: list[SimpleNamespace]):
    wbpy.run(night, tmp_path / "out")
    earlier = wbpy.Catalog.load(tmp_path / "out" / "catalog.sqlite")
    previous = []
    scan = import_module("wbpy.scanning.scanner").scan

    def watched(*args: object, **kwargs: object) -> object:
        previous.append(kwargs["previous"])
        return scan(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wbpy.scanning.scanner.scan", watched)
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
    assert names_below(tmp_path / "out") == {"plan.json", "plan.html"}


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
    assert f"{first} (gone)" in str(refused.value)
    assert "wbpy plan" in str(refused.value)
    assert not executed

    heard: list[str] = []
    wbpy.run(tmp_path / "out" / "plan.json", replan=True, listeners=[lambda event: heard.append(event.message)])
    [call] = executed
    assert first.name not in {Path(frame.path).name for frame in call.plan.frames}
    assert encode(call.plan) == (tmp_path / "out" / "plan.json").read_bytes()
    assert heard[0].startswith("Planned again: 1 file changed, 1 file removed")


def test_a_plan_made_again_keeps_its_settings_and_where_they_were_set(
    night: Path, tmp_path: Path, executed: list[SimpleNamespace]
):
    plan = wbpy.plan(night, tmp_path, set=["calibrate.flat_trim=0.1", "group.by=night"], memory_limit="2GB")
    given = {name: (param.value, param.origin) for name, param in plan.given.items()}
    assert given == {
        "calibrate.flat_trim": (0.1, "--set"),
        "group.by": (["night"], "--set"),
        "run.memory_limit": ("2GB", "--memory-limit"),
    }
    wbpy.run(tmp_path / "plan.json", replan=True)
    assert encode(executed[0].plan) == encode(plan)


def test_only_a_saved_plan_that_knows_its_inputs_is_made_again(
    night: Path, tmp_path: Path, executed: list[SimpleNamespace]
):
    with pytest.raises(ConfigError, match="--replan makes a saved plan again"):
        wbpy.run(night, tmp_path, replan=True)
    with pytest.raises(PlanError, match="does not say which folders"):
        wbpy.run(wbpy.plan(wbpy.scan(night), tmp_path), replan=True)
    assert not executed


def test_a_run_that_would_fill_the_disk_is_refused_unless_it_is_forced(
    night: Path, tmp_path: Path, executed: list[SimpleNamespace], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    plan = wbpy.plan(night, tmp_path)
    with pytest.raises(ConfigError, match=r"the disk has 1 kB free.*would write about .*--force-disk"):
        wbpy.run(plan)
    assert not executed
    wbpy.run(plan, check_disk=False)
    wbpy.run(night, tmp_path, set="run.check_disk=false")
    assert len(executed) == 2
    # What an interrupted run left in the store need not be written again.
    (tmp_path / ".store").mkdir()
    (tmp_path / ".store" / "x").write_bytes(bytes(plan.estimate.bytes_written))
    wbpy.run(plan)


def test_the_page_of_the_plan_tells_of_a_disk_that_is_too_small(
    night: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    wbpy.plan(night, tmp_path)
    assert "will refuse to start" not in (tmp_path / "plan.html").read_text()
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    wbpy.plan(night, tmp_path)
    assert "will refuse to start" in (tmp_path / "plan.html").read_text()


def test_plans_are_compared_as_values_or_files(night: Path, tmp_path: Path):
    first = wbpy.plan(night, tmp_path / "a")
    wbpy.plan(night, tmp_path / "b", set="integrate.high=2.5")
    compared = wbpy.compare(first, tmp_path / "b" / "plan.json")
    assert any(change.kind == "step" and "high 2.5 instead of" in change.why for change in compared.changes)


def test_a_plan_has_the_same_bytes_whatever_this_machine_has_measured(night: Path, tmp_path: Path, cache: Path):
    before = encode(wbpy.plan(night, tmp_path))
    (cache / wbpy.SPEEDS).write_text('{"schema": 1, "runs": 9, "startup": 1.0, "stages": {"masters": [9e7, 1.0]}}')
    plan = wbpy.plan(night, tmp_path)
    assert encode(plan) == before
    assert wbpy.forecast(plan).runs == 9
    assert wbpy.forecast(plan).seconds > 1000


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


def test_choices_by_hand_stand_in_the_plan_with_their_origin(night: Path, tmp_path: Path):
    made = wbpy.plan(
        night,
        tmp_path / "out",
        group_by="night",
        merge=["exposure"],
        use="dark=none",
        exclude="gain > 9000",
        force=True,
    )
    given = {(part, name): param for part in ("group", "pins") for name, param in made.settings[part].items()}
    assert {key: (param.value, param.origin) for key, param in given.items()} == {
        ("group", "by"): (["night"], "--group-by"),
        ("group", "merge"): (["exposure"], "--merge"),
        ("pins", "use"): (["dark=none"], "--use"),
        ("pins", "exclude"): (["gain > 9000"], "--exclude"),
        ("pins", "force"): (True, "--force"),
    }
    with pytest.raises(ConfigError, match=r"--use, --exclude .*cannot change it"):
        wbpy.run(made, use="dark=none")


def test_keyword_that_groups_is_read_from_the_header(tmp_path: Path):
    import numpy as np
    from astropy.io import fits

    for number, tile in enumerate(("east", "west", "west")):
        header = fits.Header({"IMAGETYP": "LIGHT", "EXPTIME": 60.0, "OBJECT": "M 42", "TILE": tile})
        fits.PrimaryHDU(np.zeros((64, 64), np.uint16), header).writeto(tmp_path / f"light_{number}.fits")
    made = wbpy.plan(tmp_path, tmp_path / "out", group_by="TILE")
    assert [len(g.frames) for g in made.groups if g.kind == "integration"] == [1, 2]


def test_master_named_by_its_file_is_read_though_it_lies_elsewhere(night: Path, tmp_path: Path):
    source = next((night / "DARK").iterdir())
    elsewhere = tmp_path / "library"
    elsewhere.mkdir()
    file = elsewhere / f"master_{source.name}"
    file.write_bytes(source.read_bytes())
    made = wbpy.plan(night / "LIGHT", tmp_path / "out", use=f"dark={file}")
    [match] = [m for m in made.matches if m.role == "dark"]
    assert match.rule == "pin"
    assert str(file) in next(g.frames for g in made.groups if g.id == match.chosen)
