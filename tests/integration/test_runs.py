"""What holds for every run: the same bits however it is spread, work done once, products that explain themselves."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, Night, load_json

import wbpy
from wbpy.simulate import Sensor, SessionSpec, write_session

SPEC = SessionSpec(
    seed=41,
    sensor=Sensor(width=300, height=220, cfa="GRBG"),
    n_lights=7,
    n_stars=150,
    nebula_e_per_s=0,
    rotation_deg=0.4,
    n_darks=5,
    n_flats=5,
    n_flat_darks=5,
    n_bias=0,
    dialect="asiair",
)


@pytest.fixture(scope="module")
def night(run_night: Callable[..., Night]) -> Night:
    return run_night(SPEC)


def digests(out: Path) -> dict[str, str]:
    paths = [*out.glob("masters/*"), *out.glob("integrations/*")]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def inputs(night: Night) -> Path:
    return night.out.parent / "in"


@pytest.mark.parametrize("options", [["run.workers=1"], ["run.workers=3"], ["run.memory_limit=300MB"]])
def test_same_bits_however_the_work_is_spread(night: Night, tmp_path: Path, options: list[str]) -> None:
    wbpy.run(wbpy.plan(inputs(night), tmp_path, set=options))
    assert digests(tmp_path) == digests(night.out)


def test_a_second_run_makes_nothing_again(night: Night) -> None:
    before = {path: path.stat().st_mtime_ns for path in night.out.rglob("*.fits")}
    run = wbpy.run(wbpy.plan(inputs(night), night.out))
    assert run.outcome == "reused", "what is only decided again is no work"
    made = [step for step in run.steps if step.outcome == "done" and step.id.split("/")[0] in ("masters", "integrate")]
    assert made == []
    assert {path: path.stat().st_mtime_ns for path in night.out.rglob("*.fits")} == before


def test_files_of_earlier_runs_are_named_and_left_alone(night: Night, tmp_path: Path) -> None:
    assert "ENG003" not in night.finding_ids()
    out = tmp_path / "out"
    shutil.copytree(night.out, out)
    product = next(out.glob("integrations/*s.fits"))
    old = product.with_name("Sketch_Nebula_L_60s_drizzle_2x.fits")
    shutil.copy(product, old)
    run = wbpy.run(wbpy.plan(inputs(night), out))
    [found] = [f for f in run.findings if f.id == "ENG003"]
    assert found.evidence["count"] == 1 and old.name in found.message
    assert old.exists()


def test_deleting_the_store_loses_nothing_but_time(night: Night, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(night.out, out)
    shutil.rmtree(out / ".store")
    wbpy.run(wbpy.plan(inputs(night), out))
    assert digests(out) == digests(night.out)


def test_a_changed_product_is_made_again(night: Night, tmp_path: Path) -> None:
    out = tmp_path / "out"
    wbpy.run(wbpy.plan(inputs(night), out))
    product = next(out.glob("integrations/*s.fits"))
    product.write_bytes(product.read_bytes()[:-2880])
    wbpy.run(wbpy.plan(inputs(night), out))
    assert digests(out) == digests(night.out)


def test_one_more_light_treats_only_that_one(tmp_path: Path) -> None:
    write_session(tmp_path / "in", SPEC)
    latest = sorted((tmp_path / "in" / "LIGHT").iterdir())[-1]
    latest.rename(tmp_path / latest.name)
    wbpy.run(wbpy.plan(tmp_path / "in", tmp_path / "out"))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / ".store" / "image").iterdir()}
    (tmp_path / latest.name).rename(latest)
    run = wbpy.run(wbpy.plan(tmp_path / "in", tmp_path / "out"))
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / ".store" / "image").iterdir()}
    assert {path: after[path] for path in before} == before
    lights = {Path(frame.path).name: frame.outcome for frame in run.frames if frame.role == "light"}
    assert [name for name, outcome in lights.items() if outcome != "reused"] == [latest.name]
    assert next(p for p in run.products if p.kind == "integration").frames_used == SPEC.n_lights


def test_a_changed_parameter_redoes_what_depends_on_it(night: Night, tmp_path: Path) -> None:
    out = tmp_path / "out"
    wbpy.run(wbpy.plan(inputs(night), out))
    run = wbpy.run(wbpy.plan(inputs(night), out, set=["integrate.high=2.5"]))
    outcomes = {step.id.split("/")[0]: step.outcome for step in run.steps}
    assert outcomes["masters"] == "reused" and outcomes["calibrate"] == "reused" and outcomes["integrate"] == "done"


def test_the_reviewed_plan_is_what_runs(night: Night, tmp_path: Path) -> None:
    plan_file = tmp_path / "out" / "plan.json"
    from wbpy.model import encode

    plan = wbpy.plan(inputs(night), tmp_path / "out")
    assert load_json(night.out / "plan.json")["steps"]
    plan_file.parent.mkdir(exist_ok=True)
    plan_file.write_bytes(encode(plan))
    run = wbpy.run(plan_file)
    assert [step.id for step in run.steps] == [step.id for step in plan.steps]
    assert digests(tmp_path / "out") == digests(night.out)


def test_products_carry_full_headers(night: Night) -> None:
    from astropy.io import fits

    with fits.open(night.product("integration")) as units:
        units.verify("exception")
        header, data = units[0].header, units[0].data
    assert data.dtype == np.dtype(">f4") and data.min() >= 0 and data.max() <= 1
    assert header["NCOMBINE"] == SPEC.n_lights
    assert header["TOTALEXP"] == pytest.approx(SPEC.n_lights * SPEC.exposure_s)
    assert header["EXPTIME"] == SPEC.exposure_s and header["GAIN"] == SPEC.gain
    assert header["OBJECT"].strip() == SPEC.object_name and "BAYERPAT" not in header
    history = "\n".join(header["HISTORY"])
    for stage in ("calibrate", "cosmetic", "debayer", "register", "normalize", "weigh", "integrate"):
        assert f"wbpy {stage} " in history
    assert all(light.path.name[:40] in history.replace("\n", "") for light in night.truth.lights)
    with fits.open(night.product("master_dark")) as units:
        assert units[0].header["IMAGETYP"] == "Master Dark" and units[0].header["BAYERPAT"] == "GRBG"
        assert units[0].header["CCD-TEMP"] == pytest.approx(-10, abs=0.5)


def test_masters_are_recognised_and_used_again(night: Night, tmp_path: Path) -> None:
    """Lights and yesterday's masters give the same picture as lights and yesterday's frames, within their rounding."""
    folder = tmp_path / "in"
    shutil.copytree(inputs(night) / "LIGHT", folder / "LIGHT")
    shutil.copytree(night.out / "masters", folder / "masters")
    catalog = wbpy.scan([folder])
    found = {(frame.role, frame.is_master) for frame in catalog.frames}
    assert found == {("light", False), ("dark", True), ("flat", True), ("flat_dark", True)}
    run = wbpy.run(wbpy.plan(folder, tmp_path / "out"))
    image = next(p.path for p in run.products if p.kind == "integration")
    from astropy.io import fits

    with fits.open(image) as units:
        again = np.asarray(units[0].data, np.float64)
    with fits.open(night.product("integration")) as units:
        before = np.asarray(units[0].data, np.float64)
    # Masters are stored as float32 of [0, 1]: rounding of 2^-24 of a dark's level, far below a hundredth of a DN.
    assert np.max(np.abs(again - before)) * 65535 < 0.05


def test_every_frame_of_the_plan_has_a_result(night: Night) -> None:
    record = load_json(night.out / "run.json")
    planned = {frame["path"] for frame in load_json(night.out / "plan.json")["frames"]}
    assert {frame["path"] for frame in record["frames"]} == planned
    for frame in record["frames"]:
        if frame["role"] == "light":
            assert frame["weight"] is not None and frame["measurements"]["fwhm_px"] > 1


def test_both_logs_tell_the_whole_run(night: Night) -> None:
    import json

    log = Path(night.run.log)
    text = log.read_text(encoding="utf-8")
    for step in night.plan.steps:
        assert step.id in text
    for light in night.truth.lights:
        assert light.path.name in text
    events = [json.loads(line) for line in log.with_suffix(".jsonl").read_text(encoding="utf-8").splitlines()]
    assert events[0]["kind"] == "message" or events[0]["kind"] == "run_started"
    assert events[-1]["kind"] == "run_finished" and events[-1]["outcome"] == "done"


def test_kept_frames_are_written_on_request_only(night: Night, tmp_path: Path) -> None:
    from astropy.io import fits

    assert not (night.out / "frames").exists()
    kinds = ("calibrated", "cosmetic", "debayered", "registered")
    plan = wbpy.plan(inputs(night), tmp_path, set=[f"run.keep={','.join(kinds)}"])
    wbpy.run(plan)
    for kind in kinds:
        files = sorted((tmp_path / "frames" / kind).glob("*.fits"))
        assert len(files) == SPEC.n_lights
        with fits.open(files[0]) as units:
            assert units[0].data.ndim == (3 if kind in ("debayered", "registered") else 2)
            assert ("BAYERPAT" in units[0].header) == (kind in ("calibrated", "cosmetic"))
    assert digests(tmp_path) == digests(night.out)


def test_lights_alone_are_integrated_and_the_missing_masters_named(tmp_path: Path) -> None:
    write_session(tmp_path / "in", replace(SPEC, n_darks=0, n_flats=0, n_flat_darks=0))
    run = wbpy.run(wbpy.plan(tmp_path / "in", tmp_path / "out"))
    assert next(p for p in run.products if p.kind == "integration").frames_used == SPEC.n_lights
    assert {f.id[:3] for f in run.findings} >= {"MAT"}


def test_two_filters_of_a_target_lie_on_each_other(tmp_path: Path) -> None:
    spec = replace(
        SPEC, sensor=Sensor(width=300, height=220), filters={"L": 5, "Ha": 5}, dialect="nina", exposures_s={"Ha": 120.0}
    )
    write_session(tmp_path / "in", spec)
    run = wbpy.run(wbpy.plan(tmp_path / "in", tmp_path / "out"))
    assert len([p for p in run.products if p.kind == "integration"]) == 2
    references = [frame for frame in run.frames if frame.transform and np.allclose(frame.transform, np.eye(3))]
    assert len(references) == 1


def test_the_sample_night_of_the_readme(tmp_path: Path) -> None:
    run = wbpy.run(wbpy.plan(ROOT / "sample_data" / "night", tmp_path))
    assert run.outcome == "done"
    assert not [f for f in run.findings if f.severity == "error"]
    kinds = [p.kind for p in run.products]
    assert kinds.count("integration") == 3 and kinds.count("preview") == 3
    assert all(Path(p.path).exists() for p in run.products)


def test_moved_and_renamed_frames_are_the_same_frames(night: Night, tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    wbpy.run(wbpy.plan(inputs(night), out))
    shutil.copytree(inputs(night), elsewhere)
    for number, light in enumerate(sorted((elsewhere / "LIGHT").iterdir())):
        light.rename(light.with_name(f"Light_renamed_{number:03d}.fit"))
    before = {path: path.stat().st_mtime_ns for path in out.glob(".store/image/*")}
    run = wbpy.run(wbpy.plan(elsewhere, out))
    outcomes = {step.id: step.outcome for step in run.steps}
    assert all(outcome == "reused" for step, outcome in outcomes.items() if step.startswith(("masters/", "calibrate/")))
    assert {path: path.stat().st_mtime_ns for path in out.glob(".store/image/*")} == before
