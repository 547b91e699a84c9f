"""The plan: steps in order, wired to each other, with parameters, products and cost."""

import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
from session_frames import FakeCatalog, frame, frames, night, orion_night

from wbpy.config import load_config
from wbpy.errors import ConfigError, PlanError, RuleError
from wbpy.model import Finding, Frame, HeldBack, Plan, Step, encode
from wbpy.planner import check_inputs, load_plan, make_plan
from wbpy.rules import load_rules
from wbpy.simulate.dng import XTRANS
from wbpy.stages import STAGES

OUT = Path("/out")


def planned(given: list[Frame], *sets: str, stages: Any = STAGES, rules: Any = None, **config: Any) -> Plan:
    rules = rules or load_rules()
    settings = load_config(rules, {stage.name: stage.params for stage in STAGES}, sets=sets, **config)
    return make_plan(FakeCatalog(tuple(given)), OUT, rules, settings, stages)  # type: ignore[arg-type]


def step(plan: Plan, id: str) -> Step:
    return next(one for one in plan.steps if one.id == id)


def values(one: Step, *names: str) -> tuple[Any, ...]:
    return tuple(one.params[name].value for name in names)


def test_steps_come_in_order_and_every_input_exists_before_its_use():
    plan = planned(night() + frames(4, "light", "o", object="M31", cfa="RGGB", camera="OSC", filter=None))
    known = {group.id for group in plan.groups}
    for one in plan.steps:
        assert {source for sources in one.inputs.values() for source in sources} <= known, one.id
        known.add(one.id)
    assert len({one.id for one in plan.steps}) == len(plan.steps)


def test_each_light_group_passes_through_all_stages():
    plan = planned(night())
    assert [one.id for one in plan.steps] == [
        "masters/dark-300s-g100-o50-m10C",
        "masters/flat_dark-2s-g100-o50-m10C",
        "masters/flat-Ha-2026-01-05",
        "calibrate/light-M42-Ha-300s",
        "cosmetic/light-M42-Ha-300s",
        "measure/light-M42-Ha-300s",
        "approve/integration-M42-Ha-300s",
        "reference/registration-M42",
        "register/registration-M42",
        "normalize/integration-M42-Ha-300s",
        "weigh/integration-M42-Ha-300s",
        "integrate/integration-M42-Ha-300s",
        "photometry/integration-M42-Ha-300s",
        "crop/registration-M42",
    ]
    assert step(plan, "masters/flat-Ha-2026-01-05").inputs == {
        "frames": ("flat-Ha-2026-01-05",),
        "flat_dark": ("masters/flat_dark-2s-g100-o50-m10C",),
    }
    dark = ("masters/dark-300s-g100-o50-m10C",)
    assert step(plan, "calibrate/light-M42-Ha-300s").inputs == {
        "light": ("light-M42-Ha-300s",),
        "dark": dark,
        "flat": ("masters/flat-Ha-2026-01-05",),
    }
    assert step(plan, "cosmetic/light-M42-Ha-300s").inputs == {"image": ("calibrate/light-M42-Ha-300s",), "dark": dark}
    stars = ("measure/light-M42-Ha-300s",)
    assert step(plan, "register/registration-M42").inputs == {
        "stars": stars,
        "reference": ("reference/registration-M42",),
    }
    assert step(plan, "integrate/integration-M42-Ha-300s").inputs == {
        "image": ("cosmetic/light-M42-Ha-300s",),
        "transforms": ("register/registration-M42",),
        "normalization": ("normalize/integration-M42-Ha-300s",),
        "weights": ("weigh/integration-M42-Ha-300s",),
    }


def test_integration_step_holds_its_lights_and_its_products():
    plan = planned(night())
    last = step(plan, "integrate/integration-M42-Ha-300s")
    group = next(g for g in plan.groups if g.id == "integration-M42-Ha-300s")
    assert last.frames == group.frames and len(last.frames) == 8
    assert {(a.name, a.kind, a.path) for a in last.outputs} == {
        ("integration", "integration", "/out/integrations/M42_Ha_300s.fits"),
        ("preview", "preview", "/out/integrations/M42_Ha_300s.png"),
        ("rejection_low", "rejection_map", "/out/integrations/M42_Ha_300s_rejection_low.fits"),
        ("rejection_high", "rejection_map", "/out/integrations/M42_Ha_300s_rejection_high.fits"),
    }


def test_masters_are_named_by_what_they_hold():
    names = [Path(a.path).name for one in planned(night()).steps for a in one.outputs if a.kind.startswith("master")]
    assert names == [
        "master_dark_300s_gain100_offset50_-10C_ZWO_ASI2600MM_Pro.fits",
        "master_flat_dark_2s_gain100_offset50_-10C_ZWO_ASI2600MM_Pro.fits",
        "master_flat_Ha_2026-01-05_gain100_offset50_ZWO_ASI2600MM_Pro.fits",
    ]


def test_product_names_are_unique_and_safe():
    lights = [
        *frames(3, "light", "a", object="../M 42?"),
        *frames(3, "light", "b", object="../M 42?", camera="Other"),
        *frames(3, "light", "c", object=None),
        *frames(3, "light", "d", object=None, camera="Other", xbinning=2),
    ]
    paths = [a.path for one in planned(lights + night()).steps for a in one.outputs if a.path]
    assert len({path.casefold() for path in paths}) == len(paths)
    assert all(Path(path).parent in (OUT / "masters", OUT / "integrations") for path in paths)


def test_colour_lights_are_debayered_for_their_integration():
    given = frames(4, "light", cfa="RGGB", filter=None)
    plan = planned(given)
    assert step(plan, "debayer/integration-M42-OSC-300s").inputs == {"image": ("cosmetic/light-M42-OSC-300s",)}
    last = step(plan, "integrate/integration-M42-OSC-300s")
    assert last.inputs["image"] == ("debayer/integration-M42-OSC-300s",)
    assert last.outputs[0].path == "/out/integrations/M42_OSC_300s.fits"


@pytest.mark.parametrize(("method", "found"), [("rcd", True), ("guided", False), ("superpixel", False)])
def test_a_method_that_xtrans_does_not_know_is_reported(method, found):
    plan = planned(frames(4, "light", cfa=XTRANS, filter=None), f"debayer.method={method}")
    assert [one.id for one in plan.findings if one.id.startswith("DEB")] == ["DEB001"] * found
    bayer = planned(frames(4, "light", cfa="RGGB", filter=None), f"debayer.method={method}")
    assert not any(one.id.startswith("DEB") for one in bayer.findings)


def test_superpixels_and_drizzle_exclude_each_other():
    lights = frames(4, "light", cfa="RGGB", filter=None)
    with pytest.raises(ConfigError, match=r"debayer.method is superpixel and drizzle.use is true"):
        planned(lights, "debayer.method=superpixel", "drizzle.use=true")
    assert step(planned(lights, "debayer.method=superpixel"), "debayer/integration-M42-OSC-300s")
    assert planned(frames(4, "light"), "debayer.method=superpixel", "drizzle.use=true").steps


def test_overscan_of_xtrans_frames_leaves_whole_cells():
    area = ("overscan.use=regions", "overscan.image=4:100;6:90", "overscan.regions=0:4;6:90 > 4:100;6:90")
    assert planned(frames(4, "light", cfa="RGGB", filter=None), *area).steps
    with pytest.raises(ConfigError, match="multiples of 6"):
        planned(frames(4, "light", cfa=XTRANS, filter=None), *area)


def test_two_nights_become_one_integration_and_share_a_reference():
    given = night() + frames(4, "light", "second", night="2026-01-06") + frames(6, "flat", "f2", night="2026-01-06")
    plan = planned(given)
    lights = tuple(f"measure/light-M42-Ha-300s-2026-01-0{day}" for day in (5, 6))
    assert step(plan, "reference/registration-M42").inputs["stars"] == lights
    assert len(step(plan, "integrate/integration-M42-Ha-300s").frames) == 12
    split = planned(given, "group.by=night")
    assert sum(one.stage == "integrate" for one in split.steps) == 2


def test_master_on_disk_is_read_from_its_own_group():
    given = [f for f in night() if f.role == "light"] + [frame("m", "dark", is_master=True, stack_count=40)]
    plan = planned(given)
    assert step(plan, "calibrate/light-M42-Ha-300s").inputs["dark"] == ("master-dark-300s-g100-o50-m10C",)
    assert not [one for one in plan.steps if one.stage == "masters"]


def test_flats_calibrated_by_a_dark_or_bias_say_so():
    rest = [f for f in night() if f.role != "flat_dark"]
    by_bias = step(planned(rest), "masters/flat-Ha-2026-01-05")
    assert by_bias.inputs["bias"] == ("masters/bias-g100-o50-m10C",)
    by_dark = step(planned(rest + frames(6, "dark", "short", exposure=2.0)), "masters/flat-Ha-2026-01-05")
    assert by_dark.inputs["dark"] == ("masters/dark-2s-g100-o50-m10C",)
    assert "bias" not in by_dark.inputs


def test_frames_that_serve_no_light_are_left_out_and_named():
    plan = planned(night())
    assert [f.subject for f in plan.findings if f.id == "PLN001"] == ["bias-g100-o50-m10C"]
    assert "masters/bias-g100-o50-m10C" not in {one.id for one in plan.steps}


def test_without_lights_all_masters_are_made():
    plan = planned([f for f in night() if f.role != "light"])
    assert [one.stage for one in plan.steps] == ["masters"] * 4
    assert [f.id for f in plan.findings] == ["PLN004"]
    assert step(plan, "masters/flat-Ha-2026-01-05").inputs["flat_dark"]


def test_no_frames_at_all_is_a_plan_without_steps():
    plan = planned([])
    assert (plan.steps, [f.id for f in plan.findings]) == ((), ["PLN005"])
    assert plan.estimate.bytes_read == plan.estimate.peak_memory == 0


def test_frames_without_role_and_held_back_frames_take_no_part():
    held = frame("held", "light")
    rules = load_rules()
    finding = Finding(id="SCN001", severity="warning", subject=held.path, message="m", remedy="r")
    catalog = FakeCatalog((*night(), held, frame("x", None)), (finding,), (HeldBack(path=held.path, finding="SCN001"),))
    config = load_config(rules, {stage.name: stage.params for stage in STAGES})
    plan = make_plan(catalog, OUT, rules, config, STAGES)  # type: ignore[arg-type]
    assert len(plan.frames) == len(night())
    assert held.path not in {path for group in plan.groups for path in group.frames}
    assert plan.held_back == catalog.held_back
    assert finding in plan.findings


@pytest.mark.parametrize(
    ("count", "expected", "told"),
    [
        (1, ("none", 0.0, 0.0), True),
        (2, ("none", 0.0, 0.0), True),
        (3, ("percentile", 0.2, 0.1), False),
        (5, ("percentile", 0.2, 0.1), False),
        (6, ("winsorized", 4.0, 3.0), False),
        (300, ("winsorized", 4.0, 3.0), False),
    ],
)
def test_rejection_follows_the_number_of_lights(count: int, expected: tuple[Any, ...], told: bool):
    plan = planned(frames(count, "light"))
    last = step(plan, "integrate/integration-M42-Ha-300s")
    assert values(last, "rejection", "low", "high") == expected
    assert last.params["rejection"].origin.startswith("rule integration.lights")
    assert ("PLN003" in {f.id for f in plan.findings}) is told


def test_rejection_of_masters_and_flats_comes_from_their_own_tables():
    plan = planned(night())
    assert step(plan, "masters/dark-300s-g100-o50-m10C").params["low"].origin.startswith("rule integration.masters")
    assert step(plan, "masters/flat-Ha-2026-01-05").params["low"].origin.startswith("rule integration.flats")


def test_rejection_and_limits_set_by_the_user_stay():
    last = step(planned(night(), "integrate.rejection=sigma"), "integrate/integration-M42-Ha-300s")
    assert values(last, "rejection", "low", "high") == ("sigma", 4.0, 3.0)
    assert last.params["rejection"].origin == "--set"
    last = step(planned(night(), "integrate.rejection=auto"), "integrate/integration-M42-Ha-300s")
    assert values(last, "rejection") == ("winsorized",)
    last = step(planned(night(), "integrate.high=2.5"), "integrate/integration-M42-Ha-300s")
    assert values(last, "rejection", "low", "high") == ("winsorized", 4.0, 2.5)
    assert last.params["high"].origin == "--set"


@pytest.mark.parametrize(
    ("algorithm", "limits"),
    [
        ("percentile", (0.2, 0.1)),
        ("esd", (1.0, 0.02)),
        ("rcr", (0.01, 0.01)),
        ("linear", (5.0, 4.0)),
        ("minmax", (1.0, 1.0)),
    ],
)
def test_a_named_algorithm_takes_its_own_limits(algorithm: str, limits: tuple[float, float]):
    last = step(planned(night(), f"integrate.rejection={algorithm}"), "integrate/integration-M42-Ha-300s")
    assert values(last, "low", "high") == limits
    assert last.params["low"].origin == f"rule integration.algorithms, {algorithm}"


def test_an_algorithm_with_too_few_frames_is_reported_for_lights_and_masters_alike():
    few = [f.subject for f in planned(night(), "integrate.rejection=sigma").findings if f.id == "INT006"]
    assert few == ["integration-M42-Ha-300s"]
    few = [f.subject for f in planned(night(), "masters.rejection=sigma").findings if f.id == "INT006"]
    assert "dark-300s-g100-o50-m10C" in few and "integration-M42-Ha-300s" not in few
    enough = night() + frames(6, "light", "more", object="M42", filter="Ha")
    many = planned(enough, "integrate.rejection=winsorized")
    assert not [f for f in many.findings if f.id == "INT006" and f.subject.startswith("integration")]
    assert not [f for f in planned(night()).findings if f.id == "INT006"]


def test_limits_that_mean_nothing_to_the_algorithm_are_refused_before_any_pixel():
    with pytest.raises(ConfigError, match=r"integrate.high 3.0; rejection esd expects"):
        planned(night(), "integrate.rejection=esd", "integrate.high=3")


def test_parameters_fixed_by_a_rung_name_it():
    rules = load_rules()

    def with_sets(**sets: Any) -> Any:
        rungs = tuple(
            msgspec.structs.replace(r, sets=sets["sets"]) if r.id == "light.dark.exact" else r for r in rules.matches
        )
        return msgspec.structs.replace(rules, matches=rungs)

    plan = planned(night(), rules=with_sets(sets={"calibrate.flat_trim": 0.1}))
    param = step(plan, "calibrate/light-M42-Ha-300s").params["flat_trim"]
    assert (param.value, param.origin) == (0.1, "rule light.dark.exact")
    with pytest.raises(RuleError, match=r"light.dark.exact: sets 'calibrate.magic'"):
        planned(night(), rules=with_sets(sets={"calibrate.magic": 1}))


@pytest.mark.parametrize("count", [1, 4, 5])
def test_masters_of_few_frames_are_made_and_reported(count: int):
    plan = planned(frames(4, "light") + frames(count, "dark"))
    assert "masters/dark-300s-g100-o50-m10C" in {one.id for one in plan.steps}
    assert [f.evidence["frames"] for f in plan.findings if f.id == "PLN002"] == ([count] if count < 5 else [])


def test_a_missing_stage_is_wired_around():
    stages = [stage for stage in STAGES if stage.name not in ("cosmetic", "weigh", "debayer")]
    plan = planned(frames(4, "light", cfa="RGGB", filter=None), stages=stages)
    assert step(plan, "measure/light-M42-OSC-300s").inputs["image"] == ("calibrate/light-M42-OSC-300s",)
    last = step(plan, "integrate/integration-M42-OSC-300s")
    assert last.inputs["image"] == ("calibrate/light-M42-OSC-300s",)
    assert "weights" not in last.inputs


def test_every_parameter_of_a_step_has_its_origin():
    plan = planned(night(), "cosmetic.hot_sigma=9", preset="ccd")
    params = step(plan, "cosmetic/light-M42-Ha-300s").params
    origins = {name: param.origin for name, param in params.items()}
    assert (origins.pop("hot_sigma"), origins.pop("cold_sigma")) == ("--set", "preset ccd")
    assert set(origins.values()) == {"default"}
    assert plan.settings["match"]["temperature"].origin == "preset ccd"
    assert {"scan", "group", "match", "pins", "run"} <= set(plan.settings)


def test_same_inputs_give_the_same_bytes_in_any_order():
    given = night() + orion_night() + frames(3, "light", "o", object="M31", cfa="GBRG")
    expected = encode(planned(given))
    for seed in range(3):
        random.Random(seed).shuffle(given)
        assert encode(planned(given)) == expected


def test_estimate_counts_files_store_and_what_is_kept():
    plain = planned(night()).estimate
    # 8 lights and 18 calibration frames of 242,880 bytes are read, flats twice; 8 calibrated frames again, and the
    # integration to be cropped.
    assert plain.bytes_read == 242_880 * (8 + 18 + 6) + (8 + 1) * 4 * 400 * 300
    # 8 calibrated frames, 3 masters, an integration, its two maps and its crop.
    assert plain.bytes_written == 4 * 400 * 300 * (8 + 3 + 3 + 1)
    kept = planned(night(), "run.keep=registered,calibrated").estimate
    assert kept.bytes_written - plain.bytes_written == 4 * 400 * 300 * 16
    colour = planned(frames(4, "light", cfa="RGGB")).estimate
    mono = planned(frames(4, "light")).estimate
    assert colour.bytes_written > mono.bytes_written
    assert planned(night(), "run.memory_limit=300MB").estimate.peak_memory == 300_000_000
    one, many = (planned(night(), f"run.workers={n}").estimate for n in (1, 8))
    assert one.peak_memory < many.peak_memory
    assert one.seconds >= many.seconds


def test_wrong_field_to_split_by_is_a_configuration_error():
    with pytest.raises(ConfigError, match="MOON"):
        planned(night(), "group.by=moon")


def test_saved_plan_reads_back_equal(tmp_path: Path):
    plan = planned(night())
    path = tmp_path / "plan.json"
    path.write_bytes(encode(plan))
    assert load_plan(path) == plan


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda text: "{", "not a plan of wbpy"),
        (lambda text: "[1]", "not a plan of wbpy"),
        (lambda text: '{"schema": "one"}', "not a plan of wbpy"),
        (lambda text: text.replace('"schema": 1', '"schema": 2'), "has plan schema 2, this version reads 1"),
        (lambda text: text.replace('"steps":', '"stops":'), "not a complete plan"),
    ],
)
def test_wrong_plan_file_says_what_is_wrong(tmp_path: Path, change: Any, told: str):
    path = tmp_path / "plan.json"
    path.write_text(change(encode(planned(night())).decode()))
    with pytest.raises(PlanError, match=told) as caught:
        load_plan(path)
    assert str(path) in str(caught.value)


def test_missing_plan_file_is_named(tmp_path: Path):
    with pytest.raises(PlanError, match="cannot be read"):
        load_plan(tmp_path / "plan.json")


def test_changed_and_missing_inputs_are_listed(tmp_path: Path):
    given = []
    for name in ("same", "longer", "touched", "gone"):
        path = tmp_path / f"{name}.fits"
        path.write_bytes(b"x" * 10)
        found = path.stat()
        given.append(frame(name, "light", path=str(path), size=found.st_size, modified_ns=found.st_mtime_ns))
    plan = planned(given)
    assert check_inputs(plan) == []
    import os

    stamp = (tmp_path / "longer.fits").stat().st_mtime_ns
    (tmp_path / "longer.fits").write_bytes(b"x" * 11)
    os.utime(tmp_path / "longer.fits", ns=(stamp, stamp))
    os.utime(tmp_path / "touched.fits", ns=(stamp, stamp + 10_000_000_000))
    (tmp_path / "gone.fits").unlink()
    assert [Path(path).stem for path in check_inputs(plan)] == ["gone", "longer", "touched"]
