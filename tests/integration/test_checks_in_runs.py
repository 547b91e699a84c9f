"""A run reports what its checks see, and says it again when it reuses its results."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import wbpy
from wbpy.simulate import Sensor, SessionSpec

SPEC = SessionSpec(
    sensor=Sensor(width=160, height=128, glow_e_per_s=0.0),
    n_lights=3,
    n_darks=6,
    n_flats=5,
    n_flat_darks=5,
    n_bias=0,
    n_stars=80,
)


def checks_of(run: wbpy.Run) -> set[tuple[str, str]]:
    return {(finding.id, Path(finding.subject).name) for finding in run.findings if finding.id.startswith("CHK")}


def test_a_good_night_has_no_finding_of_the_checks(run_night: Callable):
    assert checks_of(run_night(SPEC).run) == set()


def test_a_light_leak_is_reported_and_told_again(run_night: Callable):
    night = run_night(replace(SPEC, faults={("dark", 2): "leak"}, leak_e_per_s=2.0))
    assert ("CHK007", night.truth.files["dark"][2].name) in checks_of(night.run)
    again = wbpy.run(night.out / "plan.json")
    assert checks_of(again) == checks_of(night.run)


def test_flats_with_moved_dust_are_reported(run_night: Callable):
    larger = replace(SPEC, sensor=replace(SPEC.sensor, width=240, height=180), n_lights=5, nebula_e_per_s=1.0)
    moved = replace(larger, flat_optics=replace(SPEC.optics, dust_shift_px=(24.0, 0.0)), sky_e_per_s=5.0, dither_px=5.0)
    assert "CHK027" in {id for id, _ in checks_of(run_night(moved).run)}


def test_darks_without_their_offset_are_an_error(run_night: Callable):
    night = run_night(replace(SPEC, faults={("dark", number): "subtracted" for number in range(6)}))
    found = [finding for finding in night.run.findings if finding.id == "CHK005"]
    assert len(found) == 6
    assert found[0].severity == "error"


def test_a_flat_that_kept_its_offset_is_reported_and_a_calibrated_one_is_not(run_night: Callable):
    """A dead column of 128 pixels shows where zero is: on the level of the bias in a flat that was forced in raw."""
    spec = replace(SPEC, sensor=replace(SPEC.sensor, bad_columns=(37,)), n_bias=4)
    good = run_night(spec)
    assert "CHK012" not in {id for id, _ in checks_of(good.run)}
    flat = next(group.id for group in good.plan.groups if group.role == "flat")
    pins = f"pins.use=flat_dark=none,bias=none,flat={flat}"
    forced = run_night(spec, set=[pins, "pins.force=true"])
    found = [finding for finding in forced.run.findings if finding.id == "CHK012"]
    assert len(found) == 1
    assert found[0].evidence["pixels"] == 128


def test_long_bias_frames_are_told_once(run_night: Callable):
    night = run_night(replace(SPEC, n_flat_darks=0, n_bias=4, bias_exposure_s=0.5))
    assert [f.id for f in night.run.findings if f.id in ("MAT016", "CHK011")] == ["MAT016"]
    # Too short for the plan's remark, too long for a bias: the frames themselves tell.
    night = run_night(replace(SPEC, n_flat_darks=0, n_bias=4, bias_exposure_s=0.2))
    assert [f.id for f in night.run.findings if f.id in ("MAT016", "CHK011")] == ["CHK011"]
