"""Masters chosen by hand: what they do, what they may not do, what is said about them; hints that tell the truth."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from session_frames import FakeCatalog, frame, frames, night

from wbpy.config import GroupSettings, MatchSettings, PinSettings, load_config
from wbpy.engine.products import history
from wbpy.errors import ConfigError
from wbpy.explaining import explain
from wbpy.grouping import make_groups
from wbpy.hints import hint
from wbpy.matching import match_masters
from wbpy.model import Finding, Frame, Match, Plan
from wbpy.planner import make_plan
from wbpy.rules import load_rules
from wbpy.stages import STAGES

RULES = load_rules()
LIGHT = "light-M42-Ha-300s"


def pinned(
    given: list[Frame], *use: str, force: bool = False, **settings: Any
) -> tuple[dict[tuple[str, str], Match], list[Finding]]:
    groups, _ = make_groups(given, RULES, GroupSettings())
    pins = PinSettings(use=use, force=force)
    matches, findings = match_masters(groups, RULES, MatchSettings(**settings), pins=pins)
    return {(m.subject, m.role): m for m in matches}, list(findings)


def planned(given: list[Frame], **options: Any) -> Plan:
    stages = {stage.name: stage.params for stage in STAGES}
    config = load_config(RULES, stages, options={f"pins.{name}": value for name, value in options.items()})
    return make_plan(FakeCatalog(tuple(given)), Path("/out"), RULES, config, STAGES)  # type: ignore[arg-type]


def two_darks() -> list[Frame]:
    return night() + frames(9, "dark", "warm", temp_set=-8.0, temp_ccd=-8.0)


def test_pinned_master_wins_over_the_better_one_and_is_told():
    matches, findings = pinned(two_darks(), "dark=dark-300s-g100-o50-m8C")
    match = matches[LIGHT, "dark"]
    assert (match.chosen, match.rule) == ("dark-300s-g100-o50-m8C", "pin")
    assert [(c.id, c.rank, c.verdict) for c in match.candidates] == [
        ("dark-300s-g100-o50-m8C", 1, "chosen"),
        ("dark-300s-g100-o50-m10C", 2, "eligible"),
    ]
    assert [(f.id, f.severity, f.evidence["instead"]) for f in findings] == [
        ("MAT013", "info", "dark-300s-g100-o50-m10C")
    ]


@pytest.mark.parametrize(
    "name",
    ["/night/dark/warm_0000.fits", "/night/light/../dark/warm_0000.fits", "warm_0003.fits", "dark/warm_0001.fits"],
)
def test_file_stands_for_its_group(name: str):
    assert pinned(two_darks(), f"dark={name}")[0][LIGHT, "dark"].chosen == "dark-300s-g100-o50-m8C"


def test_pin_for_one_group_leaves_the_others_alone():
    given = two_darks() + frames(4, "light", "o", filter="OIII")
    matches, _ = pinned(given, "dark=dark-300s-g100-o50-m8C@*-OIII-*")
    assert matches["light-M42-OIII-300s", "dark"].rule == "pin"
    assert matches[LIGHT, "dark"].rule == "light.dark.exact"


def test_later_pin_on_the_same_match_counts():
    uses = ("dark=dark-300s-g100-o50-m8C", f"dark=dark-300s-g100-o50-m10C@{LIGHT}")
    assert pinned(two_darks(), *uses)[0][LIGHT, "dark"].chosen == "dark-300s-g100-o50-m10C"


def test_no_dark_by_hand_leaves_the_bias_to_serve():
    matches, findings = pinned(night(), "dark=none")
    assert (matches[LIGHT, "dark"].chosen, matches[LIGHT, "dark"].rule) == (None, "pin")
    assert matches[LIGHT, "dark"].candidates[0].verdict == "eligible"
    assert matches[LIGHT, "bias"].chosen == "bias-g100-o50-m10C"
    assert [f.id for f in findings] == ["MAT013"]


def test_bias_by_hand_beside_a_dark_that_is_not_scaled_is_reported_not_used():
    matches, findings = pinned(night(), "bias=bias-g100-o50-m10C@light-*")
    assert (LIGHT, "bias") not in matches
    (finding,) = findings
    assert (finding.id, finding.subject) == ("MAT019", LIGHT)
    assert "subtracting it twice" in finding.message
    assert pinned(night(), "bias=none@light-*")[1] == []
    scaled = {"calibrate.optimize_dark": "true", "pins.use": ("bias=bias-g100-o50-m10C@light-*",)}
    stages = {stage.name: stage.params for stage in STAGES}
    plan = make_plan(
        FakeCatalog(tuple(night())), Path("/out"), RULES, load_config(RULES, stages, options=scaled), STAGES
    )  # type: ignore[arg-type]
    assert "MAT019" not in {f.id for f in plan.findings}


def test_pin_beyond_a_tolerance_is_accepted_with_a_warning():
    cold = frames(6, "dark", "cold", temp_set=-20.0, temp_ccd=-20.0)
    given = [f for f in night() if f.role != "dark"] + cold
    matches, findings = pinned(given, "dark=dark-300s-g100-o50-m20C")
    assert matches[LIGHT, "dark"].chosen == "dark-300s-g100-o50-m20C"
    (finding,) = [f for f in findings if f.id == "MAT014"]
    assert finding.severity == "warning"
    assert "temperature -20 degC instead of -10 degC" in finding.message


def test_pin_that_breaks_what_must_be_equal_is_refused_unless_forced():
    given = night() + frames(6, "dark", "loud", gain=200.0)
    with pytest.raises(ConfigError, match=r"gain 200 instead of 100.*--force"):
        pinned(given, "dark=dark-300s-g200-o50-m10C")
    matches, findings = pinned(given, "dark=dark-300s-g200-o50-m10C", force=True)
    assert matches[LIGHT, "dark"].chosen == "dark-300s-g200-o50-m10C"
    assert [(f.id, f.evidence["broken"]) for f in findings] == [("MAT014", "gain 200 instead of 100")]


def test_no_force_puts_pixels_of_another_size_onto_each_other():
    given = night() + frames(6, "dark", "small", width=200)
    with pytest.raises(ConfigError, match="width 200 instead of 400"):
        pinned(given, "dark=dark-300s-g100-o50-m10C-w200", force=True)


def test_foreign_master_of_unknown_settings_needs_no_force():
    given = night() + [frame("m", "dark", is_master=True, gain=None, offset=None)]
    assert pinned(given, "dark=m.fits")[0][LIGHT, "dark"].rule == "pin"


@pytest.mark.parametrize(
    ("use", "told"),
    [
        ("dark", "expected ROLE=FILE"),
        ("drak=none", "no role of a master"),
        ("dark=dark-9s", "neither a group nor a file"),
        ("dark=none@light-M31*", f"those that may are: {LIGHT}"),
        ("dark=flat-Ha-2026-01-05", "cannot serve as dark"),
        ("flat=light_0001.fits", "neither a group nor a file"),
    ],
)
def test_pin_that_means_nothing_is_a_configuration_error(use: str, told: str):
    with pytest.raises(ConfigError, match=re.escape(f"--use {use}")) as caught:
        pinned(night(), use)
    assert told in str(caught.value)


def test_dark_may_be_pinned_as_flat_dark():
    given = [f for f in night() if f.role != "flat_dark"] + frames(6, "dark", "short", exposure=2.0)
    match = pinned(given, "flat-dark=dark-2s-g100-o50-m10C")[0]["flat-Ha-2026-01-05", "flat_dark"]
    assert (match.chosen, match.rule) == ("dark-2s-g100-o50-m10C", "pin")


def test_decision_by_hand_stands_in_the_step_and_in_the_headers_of_its_products():
    loud = frames(6, "dark", "loud", gain=200.0)
    plan = planned(night() + loud, use=["dark=dark-300s-g200-o50-m10C"], force=True)
    step = next(s for s in plan.steps if s.id == f"calibrate/{LIGHT}")
    assert step.notes == (f"dark dark-300s-g200-o50-m10C for {LIGHT} although gain 200 instead of 100",)
    assert f"by hand: {step.notes[0]}" in history([step], {}, [])
    assert all(s.notes == () for s in planned(night()).steps)
    assert plan.settings["pins"]["use"].value == ["dark=dark-300s-g200-o50-m10C"]


def test_excluded_frames_are_held_back_with_the_condition():
    plan = planned(night(), exclude=["role == light and name ~ *_0003*", "flat_0002.fits", "exposure > 9000"])
    assert [(Path(one.path).name, one.finding) for one in plan.held_back] == [
        ("flat_0002.fits", "PLN006"),
        ("light_0003.fits", "PLN006"),
    ]
    assert len(plan.frames) == len(night()) - 2
    told = {f.subject: f.evidence.get("condition") for f in plan.findings if f.id in ("PLN006", "PLN007")}
    assert told == {
        "/night/flat/flat_0002.fits": "flat_0002.fits",
        "/night/light/light_0003.fits": "role == light and name ~ *_0003*",
        "pins.exclude": "exposure > 9000",
    }
    text = explain("/night/flat/flat_0002.fits", plan).text()
    assert "left out: --exclude flat_0002.fits" in text


def test_pins_of_files_and_options_add_up(tmp_path: Path):
    project = tmp_path / "project.toml"
    project.write_text('[pins]\nuse = ["dark=none@a"]\nexclude = ["x.fits"]\n')
    stages = {stage.name: stage.params for stage in STAGES}
    config = load_config(RULES, stages, files=[project], options={"pins.use": ["flat=none@b"]})
    assert config.section("pins", PinSettings).use == ("dark=none@a", "flat=none@b")
    assert config.params("pins")["use"].origin == "project.toml:pins.use, --use"


# --------------------------------------------------------------------------------------------------------------------
# hints


def dark_match(given: list[Frame], **options: Any) -> Match:
    return pinned(given, **options)[0][LIGHT, "dark"]


def with_darks(**changes: Any) -> list[Frame]:
    return [f for f in night() if f.role != "dark"] + frames(6, "dark", **changes)


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"temp_set": -4.0, "temp_ccd": -4.0}, "--set match.temperature=6"),
        ({"temp_set": None, "temp_ccd": -2.37}, "--set match.temperature=7.7"),
        ({"exposure": 310.0}, "--set match.exposure=10"),
        ({"exposure": 310.0, "temp_set": -5.0, "temp_ccd": -5.0}, "--set match.exposure=10 --set match.temperature=5"),
    ],
)
def test_hint_names_the_smallest_tolerance_that_gives_a_match(changes: dict[str, Any], option: str):
    given = with_darks(**changes)
    match = dark_match(given)
    assert match.chosen is None
    assert option in hint(match)
    limits = {name: float(value) for name, value in re.findall(r"match\.(\w+)=([\d.]+)", hint(match))}
    assert dark_match(given, **limits).chosen is not None
    for name in limits:
        smaller = limits | {name: limits[name] - 0.11}
        assert dark_match(given, **smaller).chosen is None


def test_hint_prefers_what_needs_no_force():
    given = with_darks(temp_set=-4.0, temp_ccd=-4.0) + frames(6, "dark", "loud", gain=200.0)
    assert "--set match.temperature=6" in hint(dark_match(given))


def test_hint_by_force_names_the_price_and_works():
    given = with_darks(gain=200.0)
    text = hint(dark_match(given))
    assert "gain 200 instead of 100" in text
    use = re.search(r"--use (\S+) --force", text)
    assert use is not None
    assert pinned(given, use[1], force=True)[0][LIGHT, "dark"].chosen == "dark-300s-g200-o50-m10C"


@pytest.mark.parametrize(
    "changes",
    [{"exposure": 30.0}, {"temp_set": 15.0, "temp_ccd": 15.0}, {"width": 200}],
    ids=["a tenth of the exposure", "25 degC away", "another size"],
)
def test_nobody_is_led_to_a_dark_that_does_harm(changes: dict[str, Any]):
    assert hint(dark_match(with_darks(**changes))) == ""


def test_hint_for_a_flat_out_of_tolerance_is_a_pin_that_works():
    given = [f for f in night() if f.role != "flat"] + frames(6, "flat", night="2024-01-01")
    match = pinned(given)[0][LIGHT, "flat"]
    use = re.search(r"--use (\S+)", hint(match))
    assert use is not None
    assert pinned(given, use[1])[0][LIGHT, "flat"].chosen == match.candidates[0].id


def test_explanation_goes_from_because_to_therefore_to_hint():
    plan = planned(with_darks(temp_set=-4.0, temp_ccd=-4.0))
    text = explain(LIGHT, plan, rules=RULES).text()
    lines = [line.strip() for line in text.splitlines()]
    at = lines.index(f"because {LIGHT} needs a dark with temperature -10")
    assert lines[at + 1].startswith("and there is dark-300s-g100-o50-m4C: temperature -4 degC instead of -10 degC")
    assert lines[at + 2] == "therefore only the offset is taken off, with bias-g100-o50-m10C"
    assert lines[at + 3].startswith("hint: dark-300s-g100-o50-m4C serves as dark with --set match.temperature=6")


def test_finding_of_a_missing_dark_gives_the_option():
    _, findings = pinned(with_darks(temp_set=-4.0, temp_ccd=-4.0))
    (finding,) = [f for f in findings if f.id == "MAT001"]
    assert "--set match.temperature=6" in finding.remedy


def test_decisions_about_all_lights_of_an_integration_reach_its_header():
    from wbpy.engine.execute import _upstream

    lights = frames(3, "light", "b", gain=0.0)
    plan = planned(night() + lights, use=["dark=none@*-g0", "flat=none@*-g100"])
    last = next(s for s in plan.steps if s.stage == "integrate")
    told = [line for line in history(_upstream(plan, last), {}, []) if line.startswith("by hand")]
    assert told == ["by hand: dark none for light-M42-Ha-300s-g0", "by hand: flat none for light-M42-Ha-300s-g100"]
