"""What changed from one plan to another: the old and the new value of each, and why."""

from pathlib import Path

import msgspec
from session_frames import FakeCatalog, frames, night

from wbpy.comparing import compare_plans
from wbpy.config import load_config
from wbpy.model import Change, Comparison, Frame, HeldBack, Plan
from wbpy.planner import make_plan
from wbpy.reporting.wording import comparison_summary
from wbpy.rules import load_rules
from wbpy.stages import STAGES


def planned(taken: list[Frame], *sets: str, held: tuple[HeldBack, ...] = ()) -> Plan:
    rules = load_rules()
    config = load_config(rules, {stage.name: stage.params for stage in STAGES}, sets=sets)
    return make_plan(FakeCatalog(tuple(taken), held_back=held), Path("/out"), rules, config, STAGES)


def of_kind(comparison: Comparison, kind: str) -> list[Change]:
    return [change for change in comparison.changes if change.kind == kind]


def about(comparison: Comparison, kind: str, part: str) -> Change:
    [found] = [change for change in of_kind(comparison, kind) if part in change.subject]
    return found


def test_the_same_plan_has_no_changes_and_all_steps_unchanged():
    plan = planned(night())
    compared = compare_plans(plan, plan)
    assert compared.changes == ()
    assert compared.unchanged_steps == len(plan.steps)
    assert comparison_summary(compared) == "nothing changed"


def test_new_lights_change_their_groups_and_what_follows_but_no_master():
    more = [*night(), *frames(2, "light", "late")]
    compared = compare_plans(planned(night()), planned(more))
    added = [change for change in of_kind(compared, "frame") if change.action == "added"]
    assert [(Path(change.subject).name, change.after, change.why) for change in added] == [
        ("late_0000.fits", "light", "new file"),
        ("late_0001.fits", "light", "new file"),
    ]
    group = about(compared, "group", "light-M42")
    assert (group.before, group.after, group.why) == (8, 10, "2 more")
    steps = {change.subject.partition("/")[0]: change.why for change in of_kind(compared, "step")}
    assert "masters" not in steps
    assert "10 frames instead of 8" in steps["calibrate"]
    assert compared.unchanged_steps == sum(step.stage == "masters" for step in planned(night()).steps)
    assert comparison_summary(compared).startswith("2 files added")


def test_a_dark_that_is_lost_is_told_with_the_requirement_that_it_fails():
    other = [msgspec.structs.replace(f, gain=200.0) if f.role == "dark" else f for f in night()]
    compared = compare_plans(planned(night()), planned(other))
    change = about(compared, "match", "dark for light-M42")
    assert change.before is not None
    assert change.after is None
    assert "is gone" in change.why
    header = of_kind(compared, "frame")[0]
    assert (header.before, header.after, header.why) == (100.0, 200.0, "gain: the header is read differently")
    back = about(compare_plans(planned(other), planned(night())), "match", "dark for light-M42")
    assert (back.before, back.after) == (None, change.before)


def test_a_better_master_beside_the_old_one_is_told_by_rank():
    near = frames(6, "dark", "near", temp_set=-11.0, temp_ccd=-11.0)
    without = [f for f in night() if f.role != "dark"]
    compared = compare_plans(planned([*without, *near]), planned([*night(), *near]))
    change = about(compared, "match", "dark for light-M42")
    assert (change.before, change.after) == ("dark-300s-g100-o50-m11C", "dark-300s-g100-o50-m10C")
    assert "dark-300s-g100-o50-m11C would serve as well but ranks 2" in change.why


def test_a_tolerance_that_loses_a_match_names_requirement_and_setting():
    warm = [msgspec.structs.replace(f, temp_ccd=-12.0, temp_set=-12.0) if f.role == "dark" else f for f in night()]
    compared = compare_plans(planned(warm), planned(warm, "match.temperature=1", "match.scale_darks=false"))
    change = about(compared, "match", "dark for light-M42")
    assert change.before == "dark-300s-g100-o50-m12C"
    assert "temperature -12 degC instead of -10 degC" in change.why
    setting = about(compared, "setting", "match.temperature")
    assert (setting.before, setting.after, setting.why) == (None, 1.0, "set by --set")


def test_a_parameter_changes_its_step_and_nothing_before_it():
    compared = compare_plans(planned(night()), planned(night(), "integrate.rejection=sigma"))
    change, *after = of_kind(compared, "step")
    assert change.subject.startswith("integrate/")
    assert after and all(one.why.startswith("follows integrate/") for one in after)
    assert "rejection sigma instead of winsorized (--set)" in change.why


def test_what_follows_a_changed_step_names_it():
    compared = compare_plans(planned(night()), planned(night(), "cosmetic.hot_sigma=7"))
    why = {change.subject.partition("/")[0]: change.why for change in of_kind(compared, "step")}
    assert "hot_sigma" in why["cosmetic"]
    assert why["measure"].startswith("follows cosmetic/")
    assert "calibrate" not in why


def test_rewritten_files_change_their_steps():
    rewritten = [msgspec.structs.replace(f, modified_ns=f.modified_ns + 1) if f.role == "bias" else f for f in night()]
    compared = compare_plans(planned(night()), planned(rewritten))
    assert {change.why for change in of_kind(compared, "frame")} == {"the file was written anew"}
    lights = [msgspec.structs.replace(f, size=1) if f.role == "light" else f for f in night()]
    compared = compare_plans(planned(night()), planned(lights))
    assert "8 of its files changed" in about(compared, "step", "calibrate/").why


def test_files_that_are_held_back_or_taken_again_say_by_what():
    lost = night()[0]
    held = (HeldBack(path=lost.path, finding="FIL003"), HeldBack(path="/night/x.jpg", finding="FIL006"))
    before, after = planned(night()), planned(night()[1:], held=held)
    compared = compare_plans(before, after)
    gone = about(compared, "frame", lost.path)
    assert (gone.action, gone.why) == ("removed", "held back by FIL003")
    assert about(compared, "held_back", "x.jpg").action == "added"
    back = compare_plans(after, before)
    assert about(back, "frame", lost.path).why == "was held back by FIL003"
    assert about(back, "held_back", "x.jpg").action == "removed"
    other = planned(night()[1:], held=(HeldBack(path=lost.path, finding="FIL002"),))
    assert about(compare_plans(after, other), "held_back", lost.path).before == "FIL003"


def test_findings_and_costs_are_compared():
    few = [f for f in night() if f.role != "light"] + frames(2, "light")
    compared = compare_plans(planned(night()), planned(few))
    assert any(change.subject.startswith("PLN003") for change in of_kind(compared, "finding"))
    cost = about(compared, "cost", "bytes_read")
    assert isinstance(cost.before, int)
    assert cost.after < cost.before


def test_both_directions_report_the_same_subjects():
    plans = [planned(night()), planned([*night()[2:], *frames(3, "light", "late", filter="OIII")])]
    there, back = compare_plans(*plans), compare_plans(*plans[::-1])
    assert {(c.kind, c.subject) for c in there.changes} == {(c.kind, c.subject) for c in back.changes}
    assert len(there.changes) > 10
