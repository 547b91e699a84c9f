"""What is known of sensors, and what follows for bias frames, scaled darks and flats."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from session_frames import FakeCatalog, frame, frames, night

from wbpy.config import GroupSettings, MatchSettings, load_config
from wbpy.explaining import explain
from wbpy.grouping import make_groups
from wbpy.matching import match_masters
from wbpy.model import Frame, Match, Plan
from wbpy.planner import make_plan
from wbpy.rules import find_sensor, load_rules
from wbpy.stages import STAGES

RULES = load_rules()
LIGHT = "light-M42-Ha-300s"
SCALING = ("calibrate.optimize_dark",)


def matched(
    given: list[Frame], *, parameters: tuple[str, ...] = SCALING, **settings: Any
) -> dict[tuple[str, str], Match]:
    groups, _ = make_groups(given, RULES, GroupSettings())
    matches, _ = match_masters(groups, RULES, MatchSettings(**settings), parameters=parameters)
    return {(m.subject, m.role): m for m in matches}


def planned(
    given: list[Frame], *sets: str, preset: str | None = None, options: Mapping[str, Any] | None = None
) -> Plan:
    stages = {stage.name: stage.params for stage in STAGES}
    config = load_config(RULES, stages, preset=preset, sets=sets, options=options or {})
    return make_plan(FakeCatalog(tuple(given)), Path("/out"), RULES, config, STAGES)  # type: ignore[arg-type]


def ids(plan: Plan, family: str = "MAT") -> list[str]:
    return [f.id for f in plan.findings if f.id.startswith(family)]


@pytest.mark.parametrize(
    ("camera", "sensor"),
    [
        ("ZWO ASI1600MM-Cool", "MN34230"),
        ("ASI1600MM Pro", "MN34230"),
        ("ZWO CCD ASI294MC Pro(Cool)", "IMX294"),
        ("ZWO ASI294MM Pro", "IMX492"),
        ("ZWO ASI2600MC Duo", "IMX571"),
        ("Player One Poseidon-M PRO", "IMX571"),
        ("QHY600M-PH", "IMX455"),
        ("ASI183MC", "IMX183"),
        ("Canon EOS 6D", None),
        ("ASI1600", None),
        (None, None),
    ],
)
def test_sensor_is_found_by_the_name_of_the_camera(camera: str | None, sensor: str | None):
    found = find_sensor(RULES, camera)
    assert (found.id if found else None) == sensor


def test_saturation_and_offset_level_follow_the_guide():
    imx294, mn34230 = RULES.sensors["IMX294"], RULES.sensors["MN34230"]
    assert (imx294.saturation_dn, mn34230.saturation_dn) == (65532, 65520)
    assert imx294.offset_level_dn(30) == 1920
    assert mn34230.offset_level_dn(50) is None


def test_the_sensors_with_unstable_bias_and_glow_are_those_of_the_guide():
    by_trait = {t: {s.id for s in RULES.sensors.values() if t in s.traits} for t in ("unstable_bias", "glow")}
    assert by_trait == {"unstable_bias": {"MN34230", "IMX294"}, "glow": {"MN34230", "IMX294", "IMX183"}}


@pytest.mark.parametrize(
    ("camera", "served"), [("ZWO ASI294MC Pro", False), ("ZWO ASI1600MM Pro", False), ("ZWO ASI183MM Pro", True)]
)
def test_bias_of_an_unstable_sensor_calibrates_no_flat_and_no_light(camera: str, served: bool):
    given = [f for f in night(camera=camera) if f.role not in ("flat_dark", "dark")]
    matches = matched(given)
    for pair in (("flat-Ha-2026-01-05", "bias"), (LIGHT, "bias")):
        assert (matches[pair].chosen is not None) is served
    if not served:
        reasons = [r for r in matches[LIGHT, "bias"].candidates[0].reasons if r.verdict == "fail"]
        assert [r.field for r in reasons] == ["traits"]
    plan = planned(given)
    assert ("MAT015" in ids(plan)) is not served


def test_flats_of_an_unstable_sensor_take_flat_darks():
    match = matched(night(camera="ZWO ASI1600MM Pro"))["flat-Ha-2026-01-05", "flat_dark"]
    assert match.chosen == "flat_dark-2s-g100-o50-m10C"


def test_longer_dark_is_scaled_where_no_dark_has_the_exposure():
    given = [f for f in night() if f.role != "dark"] + frames(6, "dark", exposure=600.0)
    matches = matched(given)
    dark, bias = matches[LIGHT, "dark"], matches[LIGHT, "bias"]
    assert (dark.rule, dark.sets) == ("light.dark.scaled", {"calibrate.optimize_dark": True})
    assert bias.chosen == "bias-g100-o50-m10C"
    assert matched(given + frames(6, "dark", "exact"))[LIGHT, "dark"].rule == "light.dark.exact"
    plan = planned(given)
    step = next(s for s in plan.steps if s.id == f"calibrate/{LIGHT}")
    assert step.params["optimize_dark"].value is True
    assert step.params["optimize_dark"].origin == "rule light.dark.scaled"
    assert {"dark", "bias"} <= set(step.inputs)
    assert "MAT011" in ids(plan)


@pytest.mark.parametrize(
    ("change", "options"),
    [
        ({"exposure": 299.0 - 5}, {}),
        ({"exposure": 1501.0}, {}),
        ({"exposure": 600.0, "temp_set": -20.0, "temp_ccd": -20.0}, {}),
        ({"exposure": 600.0, "gain": 200.0}, {}),
        ({"exposure": 600.0}, {"scale_darks": False}),
        ({"exposure": 600.0}, {"parameters": ()}),
    ],
    ids=["shorter", "too long", "temperature", "gain", "forbidden", "stage cannot"],
)
def test_dark_is_not_scaled(change: dict[str, Any], options: dict[str, Any]):
    given = [f for f in night() if f.role != "dark"] + frames(6, "dark", **change)
    assert matched(given, **options)[LIGHT, "dark"].chosen is None


@pytest.mark.parametrize("camera", ["ZWO ASI183MM Pro", "ZWO ASI294MC Pro", "ZWO ASI1600MM Pro"])
def test_dark_of_a_glowing_sensor_is_never_scaled(camera: str):
    given = [f for f in night(camera=camera) if f.role != "dark"] + frames(6, "dark", exposure=600.0, camera=camera)
    match = matched(given)[LIGHT, "dark"]
    assert match.chosen is None


def test_dark_is_not_scaled_without_a_bias():
    given = [f for f in night() if f.role not in ("dark", "bias")] + frames(6, "dark", exposure=600.0)
    assert matched(given)[LIGHT, "dark"].chosen is None
    assert matched(given + frames(3, "bias"))[LIGHT, "dark"].chosen == "dark-600s-g100-o50-m10C"


def test_no_rung_for_flats_scales_a_dark():
    flats = [rung for rung in RULES.matches if rung.subject == "flat"]
    assert flats
    assert not any(rung.sets or rung.needs_parameter for rung in flats)


def test_preset_for_uncooled_cameras_scales_and_that_for_glowing_ones_does_not():
    scaled = planned(night(), preset="uncooled_dslr")
    step = next(s for s in scaled.steps if s.id == f"calibrate/{LIGHT}")
    assert step.params["optimize_dark"].value is True
    assert {"dark", "bias"} <= set(step.inputs)
    given = [f for f in night() if f.role != "dark"] + frames(6, "dark", exposure=600.0)
    plan = planned(given, preset="cooled_cmos_glow")
    assert next(m for m in plan.matches if m.role == "dark").chosen is None


def test_scaling_by_preset_is_taken_back_on_a_glowing_sensor_and_reported():
    plan = planned(night(camera="ZWO ASI183MM Pro"), preset="uncooled_dslr")
    step = next(s for s in plan.steps if s.id == f"calibrate/{LIGHT}")
    assert (step.params["optimize_dark"].value, step.params["optimize_dark"].origin) == (False, "rule sensors.IMX183")
    assert "MAT018" in ids(plan)
    # The dark holds the bias: what is not subtracted is no input, and said when it was asked for.
    assert "bias" not in step.inputs
    assert "MAT019" not in ids(plan)
    pin = {"pins.use": ("bias=bias-g100-o50-m10C@light-*",)}
    assert "MAT019" in ids(planned(night(camera="ZWO ASI183MM Pro"), preset="uncooled_dslr", options=pin))
    by_hand = planned(night(camera="ZWO ASI183MM Pro"), "calibrate.optimize_dark=true")
    step = next(s for s in by_hand.steps if s.id == f"calibrate/{LIGHT}")
    assert step.params["optimize_dark"].value is True
    assert "MAT018" in ids(by_hand)
    assert "MAT018" not in ids(planned(night(), "calibrate.optimize_dark=true"))


@pytest.mark.parametrize(("exposure", "told"), [(0.3, False), (0.31, True)])
def test_long_bias_is_reported(exposure: float, told: bool):
    given = [f for f in night() if f.role != "bias"] + frames(6, "bias", exposure=exposure)
    assert ("MAT016" in ids(planned(given))) is told


@pytest.mark.parametrize(
    ("exposures", "told"), [([5.0] * 5, False), ([5.1] * 5, True), ([1.0, 2.0, 3.0, 8.0, 12.0], False)]
)
def test_long_flats_with_a_bias_are_reported(exposures: list[float], told: bool):
    flats = [frame(f"f{n}", "flat", exposure=exposure) for n, exposure in enumerate(exposures)]
    given = [f for f in night() if f.role not in ("flat", "flat_dark")] + flats
    assert ("MAT017" in ids(planned(given))) is told


def test_long_flats_with_flat_darks_are_not_reported():
    given = [f for f in night() if f.role not in ("flat", "flat_dark")]
    given += frames(6, "flat", exposure=20.0) + frames(6, "flat_dark", exposure=20.0)
    assert "MAT017" not in ids(planned(given))


def test_explanation_of_a_bias_states_the_level_that_its_offset_should_give():
    given = night(camera="ZWO ASI294MC Pro", offset=30.0)
    text = explain("bias-g100-o30-m10C", planned(given), rules=RULES).text()
    assert "offset 30 x 16 x 4 should raise the bias to 1920 DN" in text
    assert "saturates at 65532 DN" in text
