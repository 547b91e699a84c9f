"""Explanations print the stored reasons for files, groups, steps and findings."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from session_frames import FakeCatalog, frame, frames, night

from wbpy.config import load_config
from wbpy.errors import WbpyError
from wbpy.explaining import Explanation, explain
from wbpy.model import FrameResult, HeldBack, Run, StepResult
from wbpy.planner import make_plan
from wbpy.rules import load_rules
from wbpy.stages import STAGES

RULES = load_rules()
LIGHT = "/night/light/light_0000.fits"
HELD = frame("strange", "light", path="/night/strange.fits")
CATALOG: Any = FakeCatalog(
    (
        *night(),
        HELD,
        *frames(3, "dark", "other_gain", gain=200.0),
        *frames(3, "dark", "other_both", gain=200.0, offset=10.0),
        *frames(3, "dark", "warmer", temp_set=-8.0, temp_ccd=-8.0),
    ),
    held_back=(HeldBack(path=HELD.path, finding="SCN001"),),
)
PLAN = make_plan(
    CATALOG, Path("/out"), RULES, load_config(RULES, {stage.name: stage.params for stage in STAGES}), STAGES
)
RUN = Run(
    outcome="done",
    products=(),
    frames=(
        FrameResult(path=LIGHT, role="light", outcome="done", weight=0.875, measurements={"fwhm_px": 2.5}),
        FrameResult(path="/night/light/light_0001.fits", role="light", outcome="done", excluded_by="REG001"),
    ),
    steps=(StepResult(id="calibrate/light-M42-Ha-300s", outcome="reused", seconds=0.5, why="frames are unchanged"),),
    findings=(),
    timings={},
    versions={},
    log="/out/logs/x.log",
)


def told(target: str, **more: Any) -> str:
    return explain(target, PLAN, rules=RULES, **more).text()


def lines(explanation: Explanation, title: str) -> list[str]:
    return [line for section in explanation.sections if section.title == title for line in section.lines]


def test_file_shows_its_values_with_keyword_and_rule():
    text = told(LIGHT, catalog=CATALOG)
    assert "gain = 100  (GAIN = 100, rule fields.gain)" in text
    assert "exposure = 300" in text
    assert "not in the header: iso, cfa" in text


def test_file_shows_its_groups_steps_and_what_it_goes_into():
    text = told(LIGHT)
    assert text.startswith("light_0000.fits: light, goes into integration-M42-Ha-300s\n")
    assert "light-M42-Ha-300s: calibration, 8 frames" in text
    assert "integrate/integration-M42-Ha-300s: 8 lights of M42 become one image." in text


def test_match_names_the_chosen_then_the_runner_up_then_the_nearest_miss():
    shown = lines(explain(LIGHT, PLAN, rules=RULES), "Dark for light-M42-Ha-300s")
    assert shown[0].startswith("chosen: dark-300s-g100-o50-m10C (6 frames), rule light.dark.exact: Same camera")
    others = [line for line in shown if not line.startswith(("chosen", "  "))]
    assert others == [
        "rank 2: dark-300s-g100-o50-m8C (3 frames): temperature -8 degC for -10 degC (at most 3 degC apart)",
        "refused: dark-300s-g200-o50-m10C (3 frames) by light.dark.exact: gain 200 instead of 100",
        "refused: dark-300s-g200-o10-m10C (3 frames) by light.dark.exact: gain 200 instead of 100; "
        "offset 10 instead of 50",
    ]


def test_unverified_values_are_marked_where_the_match_is_shown():
    catalog: Any = FakeCatalog(tuple(night(gain=None)))
    config = load_config(RULES, {stage.name: stage.params for stage in STAGES})
    plan = make_plan(catalog, Path("/out"), RULES, config, STAGES)
    shown = lines(explain(LIGHT, plan), "Dark for light-M42-Ha-300s")
    assert "  gain unknown on both sides, unverified" in shown


def test_file_is_found_by_its_name_alone():
    assert explain("light_0000.fits", PLAN).target == LIGHT


def test_name_of_two_files_asks_for_the_path():
    given = (frame("a", path="/one/a.fits"), frame("b", path="/two/a.fits"))
    catalog: Any = FakeCatalog(given)
    config = load_config(RULES, {stage.name: stage.params for stage in STAGES})
    plan = make_plan(catalog, Path("/out"), RULES, config, STAGES)
    with pytest.raises(WbpyError, match="2 files have this name.*/one/a.fits, /two/a.fits"):
        explain("a.fits", plan)


def test_last_run_adds_what_became_of_frame_and_steps():
    text = told(LIGHT, run=RUN)
    assert "last run: reused, frames are unchanged (0.5 s)" in text
    assert "weight: 0.875 of the best frame's" in text
    assert "fwhm_px = 2.5" in text
    assert "excluded by REG001" in told("light_0001.fits", run=RUN)


def test_held_back_file_names_the_finding():
    assert told("strange.fits").startswith("strange.fits: held back by SCN001, it takes no part")


def test_calibration_frame_says_whom_it_serves():
    assert told("dark_0000.fits").startswith("dark_0000.fits: dark, serves light-M42-Ha-300s")
    assert told("other_gain_0000.fits").startswith("other_gain_0000.fits: dark, serves nothing in this plan")


def test_group_shows_frames_users_and_where_it_lost():
    used = told("dark-300s-g100-o50-m10C")
    assert "dark for light-M42-Ha-300s, rule light.dark.exact" in used
    assert "/night/dark/dark_0005.fits" in used
    lost = told("dark-300s-g200-o50-m10C")
    assert "nothing: no group chose it" in lost
    assert "gain 200 instead of 100" in lost
    assert "PLN001 info" in lost


def test_step_shows_inputs_parameters_and_outputs():
    text = told("calibrate/light-M42-Ha-300s", run=RUN)
    assert "dark: masters/dark-300s-g100-o50-m10C" in text
    assert "flat_trim = 0.05  (default)" in text
    assert "image: calibrated, kept in the store" in text
    assert "cosmetic/light-M42-Ha-300s" in text
    assert "last run: reused, frames are unchanged" in text
    master = told("masters/dark-300s-g100-o50-m10C")
    assert "rejection = winsorized  (rule integration.masters, any number of frames)" in master
    assert "master: /out/masters/master_dark_300s_gain100" in master


def test_product_is_explained_by_the_step_that_makes_it():
    text = told("M42_Ha_300s.fits")
    assert text.startswith("M42_Ha_300s.fits: made by integrate/integration-M42-Ha-300s")
    assert LIGHT in text


def test_finding_shows_its_page_and_its_subjects():
    text = told("pln001")
    assert text.startswith("PLN001: Calibration frames are not used (info)")
    assert "bias-g100-o50-m10C (6 frames) serves no light" in text
    assert "In this plan\n  bias-g100-o50-m10C\n  PLN001" in text, "whom it concerns"
    assert "Limits" in told("MAT007") and "days = 30" in told("MAT007")
    assert "not raised in this plan" in told("MAT007")


@pytest.mark.parametrize(
    ("target", "near"),
    [
        ("/other/lite_0007.fits", "light_0007.fits"),
        ("dark-300s-g100-o50", "dark-300s-g100-o50-m10C"),
        ("calibrate/light-M42", "calibrate/light-M42-Ha-300s"),
        ("MAT07", "MAT007"),
    ],
)
def test_unknown_target_names_near_matches(target: str, near: str):
    with pytest.raises(WbpyError) as caught:
        explain(target, PLAN, rules=RULES)
    assert near in str(caught.value)


def test_target_like_nothing_says_what_to_give():
    with pytest.raises(WbpyError, match="give a file, a group, a step or a finding"):
        explain("zzzzzzzzzz", PLAN)


@pytest.mark.parametrize("target", [LIGHT, "light-M42-Ha-300s", "measure/light-M42-Ha-300s", "PLN001"])
def test_explanation_is_json(target: str):
    explanation = explain(target, PLAN, rules=RULES)
    assert msgspec.json.decode(msgspec.json.encode(explanation), type=Explanation) == explanation


def test_every_target_of_a_plan_can_be_explained():
    targets = [f.path for f in PLAN.frames] + [g.id for g in PLAN.groups] + [s.id for s in PLAN.steps]
    for target in targets:
        assert explain(target, PLAN, RUN, CATALOG, RULES).target == target


def planned(given: list[Any]) -> Any:
    config = load_config(RULES, {stage.name: stage.params for stage in STAGES})
    return make_plan(FakeCatalog(tuple(given)), Path("/out"), RULES, config, STAGES)  # type: ignore[arg-type]


def test_master_says_who_uses_it_and_which_frames_are_not_in_it():
    frames_of = [*night(), *frames(3, "dark", "loud", gain=200.0), *frames(4, "dark", "short", exposure=60.0)]
    frames_of.append(frame("library", "dark", is_master=True, stack_count=2))
    plan = planned(frames_of)
    text = explain("dark-300s-g100-o50-m10C", plan, rules=RULES).text()
    used, _, rest = text.partition("Other dark frames, left out")
    assert "dark for light-M42-Ha-300s, rule light.dark.exact" in used
    lines = [line.strip() for line in rest.splitlines() if line.startswith("  ")]
    assert lines[:3] == [
        "master-dark-300s-g100-o50-m10C (finished master): a finished master",
        "dark-300s-g200-o50-m10C (3 frames): gain 200 instead of 100",
        "dark-60s-g100-o50-m10C (4 frames): exposure 60 instead of 300",
    ]
    product = next(a.path for s in plan.steps if s.group == "dark-300s-g100-o50-m10C" for a in s.outputs)
    assert "Other dark frames, left out" in explain(str(product), plan, rules=RULES).text()


def test_frames_that_a_run_excluded_from_a_master_are_named():
    plan = planned(night())
    lost = FrameResult(path="/night/dark/dark_0002.fits", role="dark", outcome="failed", excluded_by="MAS001")
    run = Run(
        outcome="partial", products=(), frames=(lost,), steps=(), findings=(), timings={}, versions={}, log="/out/log"
    )
    text = explain("dark-300s-g100-o50-m10C", plan, run=run).text()
    assert "dark_0002.fits: excluded from this group by MAS001 in the last run" in text
