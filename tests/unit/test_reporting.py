"""Reports and progress: what people read, from hand-made values."""

import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pandas as pd
import pytest
from rich.console import Console

from wbpy.costs import Forecast
from wbpy.engine.events import Event
from wbpy.model import (
    Candidate,
    Change,
    Comparison,
    Estimate,
    Finding,
    Frame,
    FrameResult,
    Group,
    HeldBack,
    Match,
    Param,
    Plan,
    Product,
    Reason,
    Run,
    Step,
    StepResult,
)
from wbpy.reporting import wording
from wbpy.reporting.progress import Display
from wbpy.reporting.terminal import make_console, show_comparison, show_plan, show_run, show_scan

LIGHTS = Group(
    id="light-M42-Ha-120s",
    kind="calibration",
    role="light",
    key={"filter": "Ha", "exposure": 120.0, "gain": None},
    frames=("/in/light_1.fits", "/in/light_2.fits"),
)
DARKS = Group(
    id="dark-120s", kind="calibration", role="dark", key={"exposure": 120.0}, frames=("/in/d1.fits", "/in/d2.fits")
)


def reason(field: str, subject: object, candidate: object, **other: object) -> Reason:
    given = {"operator": "equal", "tolerance": None, "verdict": "pass"} | other
    return Reason(rule="dark-exact", field=field, subject_value=subject, candidate_value=candidate, **given)


MATCH = Match(
    subject=LIGHTS.id,
    role="dark",
    chosen=DARKS.id,
    rule="dark-exact",
    candidates=(
        Candidate(
            id=DARKS.id,
            rank=1,
            verdict="chosen",
            reasons=(
                reason("camera", "ASI2600MM", "ASI2600MM"),
                reason("temperature", -10.0, -10.4, operator="within", tolerance=3.0),
                reason("offset", None, 50.0, verdict="unverified"),
            ),
        ),
        Candidate(id="dark-120s-old", rank=2, verdict="eligible", reasons=()),
        Candidate(
            id="dark-60s",
            rank=None,
            verdict="rejected",
            reasons=(reason("exposure", 120.0, 60.0, operator="within", tolerance=0.12, verdict="fail"),),
        ),
        Candidate(
            id="dark-30s",
            rank=None,
            verdict="rejected",
            reasons=(reason("exposure", 120.0, 30.0, operator="within", tolerance=0.12, verdict="fail"),),
        ),
    ),
)


def finding(id: str, severity: str, message: str, subject: str = "") -> Finding:
    return Finding(id=id, severity=severity, subject=subject, message=message, remedy="Take more darks.", guide="4.2")


def step(id: str, stage: str, group: str, **params: Param) -> Step:
    return Step(id=id, stage=stage, version=1, group=group, params=params, outputs=(), why=f"{stage} is needed.")


def make_plan(**other: object) -> Plan:
    given: dict[str, object] = {
        "schema": 1,
        "wbpy": "0",
        "out": "/out",
        "frames": (),
        "groups": (DARKS, LIGHTS),
        "matches": (MATCH,),
        "steps": (
            step("masters/dark-120s", "masters", DARKS.id, rejection=Param(value="winsorized", origin="rule masters")),
            step("calibrate/light-M42-Ha-120s", "calibrate", LIGHTS.id, flat_trim=Param(value=0.05, origin="default")),
            step("integrate/i", "integrate", "i"),
        ),
        "held_back": (HeldBack(path="/in/what.fits", finding="SCN003"),),
        "findings": (
            finding("GRP001", "info", "a note"),
            finding("AAA009", "warning", "the flat is 40 days old"),
            finding("FIL002", "error", "light_9.fits ends after 100 of 2880 bytes"),
        ),
        "settings": {},
        "estimate": Estimate(bytes_read=1_230_000_000, bytes_written=480_000_000, peak_memory=2 * 10**9, seconds=200.0),
    }
    return Plan(**(given | other))


def shown(show: object, *values: object, verbosity: int = 0) -> str:
    console = Console(file=io.StringIO(), markup=False, highlight=False, emoji=False, width=120)
    show(console, *values, verbosity=verbosity)
    return console.file.getvalue()


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.6, "1 min"), (200, "3 min 20 s"), (3599.6, "1 h")]
    + [(7500, "2 h 5 min")],
)
def test_durations_carry_at_most_two_units(seconds: float, expected: str):
    assert wording.duration(seconds) == expected


@pytest.mark.parametrize(
    ("number", "expected"),
    [(0, "0 B"), (999, "999 B"), (1230, "1.23 kB"), (999_600, "1 MB"), (48_200_000, "48.2 MB"), (5e15, "5000 TB")],
)
def test_sizes_carry_three_digits_and_a_decimal_unit(number: float, expected: str):
    assert wording.size(number) == expected


def test_values_carry_the_unit_of_their_field():
    assert wording.value("exposure", 0.30000001) == "0.3 s"
    assert wording.value("temperature", None) == "unknown"
    assert wording.value("filter", "Ha") == "Ha"


def test_text_that_would_control_the_terminal_is_shown_as_escapes():
    assert wording.plain("a\x1b[31mb\nc ü") == "a\\x1b[31mb\\nc ü"


def test_plan_shows_the_winning_reason_and_the_nearest_refused_candidate_only():
    text = words(shown(show_plan, make_plan()))
    assert (
        "dark dark-120s (2 frames), rule dark-exact: temperature -10.4 degC for -10 degC (at most 3 degC apart)" in text
    )
    assert "offset 50 for unknown (unverified); same camera" in text
    assert "refused: dark-60s: exposure 60 s instead of 120 s (at most 0.12 s apart)" in text
    assert "dark-30s" not in text
    assert "dark-120s-old" not in text


def test_verbose_plan_shows_every_candidate_and_every_parameter():
    text = words(shown(show_plan, make_plan(), verbosity=1))
    assert "not taken: dark-120s-old, rank 2" in text
    assert "refused: dark-30s" in text
    assert "flat_trim = 0.05 (default)" in text
    assert "note GRP001 a note" in text


def test_plan_shows_parameters_that_are_not_defaults_with_their_origin():
    text = words(shown(show_plan, make_plan()))
    assert "rejection = winsorized (rule masters)" in text
    assert "flat_trim" not in text


def test_plan_numbers_its_steps_in_order():
    text = shown(show_plan, make_plan())
    assert text.index("masters/dark-120s") < text.index("calibrate/light-M42") < text.index("integrate/i")


def test_long_plans_are_cut_and_count_what_is_left_out_unless_verbose():
    groups = tuple(msgspec.structs.replace(DARKS, id=f"dark-{number:03}") for number in range(200))
    matches = tuple(msgspec.structs.replace(MATCH, subject=group.id) for group in groups)
    steps = tuple(step(f"masters/{group.id}", "masters", group.id) for group in groups)
    plan = make_plan(groups=groups, matches=matches, steps=steps)
    text = words(shown(show_plan, plan))
    assert text.count("and 80 more; -v shows them") == 2
    assert "and 140 more groups; -v shows them" in text
    assert "dark-199" not in text
    assert words(shown(show_plan, plan, verbosity=1)).count("masters/dark-199") == 1


def test_plan_ends_with_one_line_that_sums_it_up():
    last = shown(show_plan, make_plan()).strip().splitlines()[-1]
    assert last == (
        "Plan: 1 master to make, 2 lights to calibrate, 1 integration to make, 1 file held back. "
        "1 error, 1 warning, 1 note."
    )


def test_plan_states_its_cost_and_how_to_run_it():
    text = shown(show_plan, make_plan())
    assert "It reads 1.23 GB, writes 480 MB, needs up to 2 GB of memory and takes about 3 min 20 s." in text
    assert str(Path("/out/plan.json")) in text


FORECAST = Forecast(
    seconds=95.0,
    phases={"lights": 95.0},
    runs=3,
    workers=4,
    disk_needed=480_000_000,
    disk_free=3 * 10**9,
)


def shown_with(forecast: Forecast, verbosity: int = 0) -> str:
    return shown(lambda console, plan, verbosity: show_plan(console, plan, verbosity, forecast), make_plan())


def test_plan_states_its_cost_on_this_machine_where_that_is_known():
    text = shown_with(FORECAST)
    assert (
        "It reads 1.23 GB, writes 480 MB (3 GB are free), needs up to 2 GB of memory and takes about 1 min 35 s with "
        "4 threads, as 3 earlier runs on this machine took."
    ) in text
    assert "by rates of another machine: the first run will measure this one." in shown_with(replace(FORECAST, runs=0))
    assert "refuse to start" not in text


def test_plan_warns_of_a_disk_that_is_too_small():
    text = shown_with(replace(FORECAST, disk_free=10**6))
    assert "The disk has 1 MB free, 480 MB are needed: wbpy run will refuse to start." in text


def test_plan_shows_the_coverage_and_the_formula_of_each_group_of_lights():
    lights = replace_frames(LIGHTS, night="2026-01-05")
    text = words(shown(show_plan, make_plan(frames=lights)))
    assert "2026-01-05 unnamed target Ha 120 s 2 dark 2, compromise - -" in text
    assert "formula L - D dark dark-120s" in text


def replace_frames(group: Group, **changes: object) -> tuple[Frame, ...]:
    """Return frames for the paths of a group, of which only what the report needs is known."""
    unknown = dict.fromkeys(Frame.__struct_fields__[: -len(Frame.__struct_defaults__)])
    known = {"role": group.role, "is_master": False, "format": "fits", "calibrated": False, **changes}
    return tuple(Frame(**(unknown | known | {"path": path})) for path in group.frames)


def test_plan_names_files_that_take_no_part_with_the_reason():
    held = tuple(HeldBack(path=f"/in/p{number}.jpg", finding="FIL006") for number in range(5))
    told = tuple(finding("FIL006", "warning", "This is a picture.", one.path) for one in held)
    text = words(shown(show_plan, make_plan(held_back=held, findings=told)))
    assert "file 5 FIL006: This is a picture. p0.jpg … p4.jpg" in text
    assert "p3.jpg" not in text.partition("Findings")[0]
    assert "p3.jpg" in shown(show_plan, make_plan(held_back=held, findings=told), verbosity=1)


def test_comparison_shows_each_kind_of_change_with_before_after_and_why():
    changes = (
        Change(kind="frame", action="added", subject="/in/new.fits", after="light", why="new file"),
        Change(kind="match", action="changed", subject="dark for l", before="d1", after=None, why="d1: gain differs"),
        Change(kind="step", action="changed", subject="integrate/i", why="high 2.5 instead of 3.0 (--set)"),
        Change(kind="finding", action="removed", subject="PLN002 d1", before="warning", why="no longer the case"),
        Change(kind="cost", action="changed", subject="bytes_read", before=1_000, after=2_000_000, why="estimate"),
        Change(kind="cost", action="changed", subject="seconds", before=10.0, after=75.0, why="estimate"),
    )
    compared = Comparison(old="/a", new="/b", changes=changes, unchanged_steps=7)

    def show(console: Console, compared: Comparison, verbosity: int) -> None:
        show_comparison(console, compared, make_plan(findings=()), verbosity)

    text = words(shown(show, compared))
    assert "+ new.fits light new file" in text
    assert "~ dark for l d1 -> none d1: gain differs" in text
    assert "~ integrate/i high 2.5 instead of 3.0 (--set)" in text
    assert "- PLN002 d1 warning no longer the case" in text
    assert "bytes_read 1 kB -> 2 MB" in text
    assert "seconds 10 s -> 1 min 15 s" in text
    assert text.index("new.fits") < text.index("dark for l") < text.index("integrate/i") < text.index("bytes_read")
    assert text.endswith(
        "Plan against the earlier one: 1 file added, 1 match changed, 1 step changed, 1 finding removed, "
        "7 steps unchanged. No findings."
    )
    quiet = words(shown(show, compared, verbosity=-1))
    assert "dark for l" in quiet
    assert "integrate/i" not in quiet


def test_plan_says_when_no_master_serves_and_why():
    refused = Match(subject=LIGHTS.id, role="flat", chosen=None, rule="flat-none", candidates=MATCH.candidates[2:])
    absent = Match(subject=LIGHTS.id, role="bias", chosen=None, rule="bias-none", candidates=())
    text = words(shown(show_plan, make_plan(matches=(refused, absent))))
    assert "flat none: no candidate satisfies the requirements (rule flat-none)" in text
    assert "bias none: there are no frames that could serve as bias (rule bias-none)" in text


def test_plan_without_steps_says_that_there_is_nothing_to_do():
    text = shown(show_plan, make_plan(steps=(), groups=(), matches=(), findings=(), held_back=()))
    assert text.strip().splitlines()[-1] == "Plan: nothing to do. No findings."
    assert "wbpy run" not in text


def test_findings_stand_with_errors_first_and_name_the_remedy_and_the_guide():
    text = words(shown(show_plan, make_plan()))
    assert text.index("error FIL002") < text.index("warning AAA009")
    assert "To do: Take more darks. (guide, section 4.2)" in text
    assert "a note" not in text


def test_a_finding_is_shown_with_its_subject_unless_the_message_names_it():
    assert wording.sentence(finding("X001", "info", "has no stars", "/in/a.fits")) == "a.fits: has no stars"
    assert wording.sentence(finding("X001", "info", "a.fits has no stars", "/in/a.fits")) == "a.fits has no stars"
    assert wording.sentence(finding("X001", "info", "is old", "masters/dark-60s")) == "masters/dark-60s: is old"


def test_findings_of_one_kind_are_bundled():
    many = tuple(finding("MAT009", "warning", f"flat {number} is old") for number in range(5))
    text = words(shown(show_plan, make_plan(findings=many)))
    assert "flat 2 is old" in text
    assert "flat 3 is old" not in text
    assert "and 2 more like this" in text
    assert text.count("To do:") == 1
    assert "flat 4 is old" in shown(show_plan, make_plan(findings=many), verbosity=1)


def test_quiet_plan_holds_errors_and_the_closing_line():
    text = shown(show_plan, make_plan(), verbosity=-1)
    assert "FIL002" in text
    assert "AAA009" not in text
    assert "masters/dark-120s" not in text
    assert "Plan: 1 master" in text


def test_brackets_and_escapes_in_names_are_shown_literally():
    held = (HeldBack(path="/in/[red]x\x1b[2J.fits", finding="SCN003"),)
    text = shown(show_plan, make_plan(held_back=held))
    assert "[red]x\\x1b[2J.fits" in text
    assert "\x1b[2J" not in text


def test_the_console_of_the_commands_takes_text_literally(capsys: pytest.CaptureFixture[str]):
    show_plan(make_console(), make_plan(held_back=(HeldBack(path="/in/[red]x :star:.fits", finding="SCN003"),)))
    assert "[red]x :star:.fits" in capsys.readouterr().out


def make_run(**other: object) -> Run:
    given: dict[str, object] = {
        "outcome": "partial",
        "products": (
            Product(
                kind="master_dark",
                path="/out/masters/master_dark.fits",
                group=DARKS.id,
                frames_used=2,
                frames_excluded=0,
                exposure_total=240.0,
                outcome="done",
            ),
            Product(
                kind="integration",
                path="/out/integrations/M42_Ha.fits",
                group="i",
                frames_used=7,
                frames_excluded=1,
                exposure_total=840.0,
                outcome="partial",
            ),
        ),
        "frames": (
            FrameResult(path="/in/light_1.fits", role="light", outcome="done", weight=1.0),
            FrameResult(path="/in/light_2.fits", role="light", outcome="done", excluded_by="REG001"),
            FrameResult(path="/in/light_3.fits", role="light", outcome="failed"),
        ),
        "steps": (StepResult(id="masters/dark-120s", outcome="done", seconds=1.0, why="new"),),
        "findings": (finding("REG001", "warning", "too few stars", subject="/in/light_2.fits"),),
        "timings": {"masters": 3.1, "reference": 0.0, "integrate": 75.0},
        "versions": {},
        "log": "/out/logs/20260101T000000Z.log",
    }
    return Run(**(given | other))


def test_run_shows_products_with_the_share_of_frames_used():
    text = words(shown(show_run, make_run()))
    assert f"{Path('integrations/M42_Ha.fits')} 7 of 8 14 min partial" in text
    assert f"{Path('masters/master_dark.fits')} 2 4 min done" in text


def test_run_lists_what_stands_beside_an_integration_only_when_verbose():
    preview = Product(
        kind="preview",
        path="/out/integrations/M42_Ha.png",
        group="i",
        frames_used=7,
        frames_excluded=1,
        exposure_total=None,
        outcome="done",
    )
    run = make_run(products=(*make_run().products, preview))
    text = shown(show_run, run)
    assert "M42_Ha.png" not in text
    assert "Beside each integration stand its preview; -v lists them." in text
    assert f"{Path('integrations/M42_Ha.png')} 7 of 8 - done" in words(shown(show_run, run, verbosity=1))


def test_run_names_the_star_catalogue_beside_its_integration():
    stars = [
        msgspec.structs.replace(
            make_run().products[0], kind="star_catalogue", path=f"/out/integrations/M42_stars.{form}"
        )
        for form in ("csv", "ecsv")
    ]
    run = make_run(products=(*make_run().products, *stars))
    text = words(shown(show_run, run))
    assert "M42_stars" not in text
    assert "Beside each integration stand its star catalogue; -v lists them." in text
    assert "M42_stars.csv" in words(shown(show_run, run, verbosity=1))


def test_run_names_every_frame_that_was_left_out_with_its_reason():
    text = words(shown(show_run, make_run()))
    assert "light_2.fits REG001: too few stars" in text
    assert "light_3.fits failed" in text
    assert "light_1.fits" not in text


def test_run_shows_the_time_of_each_stage_and_the_log():
    text = shown(show_run, make_run())
    assert "Time in each stage, summed over workers: masters 3.1 s and integrate 1 min 15 s." in text
    assert "Log: /out/logs/20260101T000000Z.log" in text


def test_run_names_steps_that_failed_even_when_quiet():
    broken = (StepResult(id="integrate/i", outcome="failed", seconds=1.0, why="the disk is full"),)
    text = words(shown(show_run, make_run(steps=broken, outcome="failed"), verbosity=-1))
    assert "integrate/i failed the disk is full" in text
    assert "Failed, 1 step not done: " in text


def test_run_that_lost_something_names_what_to_begin_with():
    errors = (
        finding("FIL003", "error", "ends early", "/in/light_3.fits"),
        finding("ENG002", "error", "the disk is full", "integrate/i"),
    )
    steps = (
        StepResult(id="weigh/i", outcome="blocked", seconds=0.0, why="normalize/i failed"),
        StepResult(id="integrate/i", outcome="failed", seconds=1.0, why="the disk is full"),
    )
    text = words(shown(show_run, make_run(steps=steps, findings=errors, outcome="failed"), verbosity=-1))
    assert "Begin with ENG002: Take more darks. Then run the same command again: finished work is kept." in text
    assert text.index("integrate/i failed") < text.index("weigh/i blocked")
    assert "Begin with FIL003" in shown(show_run, make_run(findings=errors[:1]))
    assert "Begin with" not in shown(show_run, make_run(findings=errors, outcome="done"))


@pytest.mark.parametrize(
    ("outcome", "start"),
    [("done", "Done: 1 integration and 1 master in"), ("reused", "Nothing had changed"), ("cancelled", "Stopped")]
    + [("partial", "Done in part, some frames were lost: "), ("no_work", "Nothing to do")],
)
def test_closing_line_of_a_run_names_its_outcome(outcome: str, start: str):
    assert shown(show_run, make_run(outcome=outcome)).strip().splitlines()[-1].startswith(start)


def test_files_of_earlier_runs_are_told_without_asking_for_notes():
    old = finding("ENG003", "info", "2 files in masters and integrations are none of this plan's: a.fits, b.fits.")
    assert "none of this plan's: a.fits, b.fits." in words(shown(show_run, make_run(findings=(old,))))


def test_channels_in_files_of_their_own_are_one_integration():
    run = make_run()
    picture = next(p for p in run.products if p.kind == "integration")
    parts = tuple(msgspec.structs.replace(picture, path=f"/out/integrations/x_{letter}.fits") for letter in "RGB")
    others = tuple(p for p in run.products if p.kind != "integration")
    shown_last = shown(show_run, make_run(outcome="done", products=(*others, *parts))).strip().splitlines()[-1]
    assert shown_last.startswith("Done: 1 integration and 1 master in")


def test_scan_shows_the_summary_with_missing_values_as_dashes():
    summary = pd.DataFrame(
        {
            "role": pd.array(["light", "bias"], dtype="string"),
            "filter": pd.array(["Ha", pd.NA], dtype="string"),
            "exposure": pd.array([120.0, pd.NA], dtype="Float64"),
            "frames": [10, 5],
        }
    )
    catalog = SimpleNamespace(
        frames=(1, 2, 3),
        held_back=(HeldBack(path="/in/x.jpg", finding="FIL001"),),
        findings=(),
        summary=lambda: summary,
    )
    text = words(shown(show_scan, catalog, Path("/cache/c.sqlite")))
    assert "light Ha 120 s 10" in text
    assert "bias - - 5" in text
    assert "x.jpg FIL001" in text
    assert str(Path("/cache/c.sqlite")) in text
    assert "Scan: 3 frames in the catalog, 1 file held back. No findings." in text


def progress_text(events: list[Event], verbosity: int = 0, terminal: bool = False) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100)
    with Display(verbosity, console) as display:
        for event in events:
            display(event)
    return console.file.getvalue()


RUN = [
    Event(kind="run_started", seconds=0.0, total=3, message="3 steps, 2 workers"),
    Event(kind="message", seconds=0.1, message="Compiling the kernels, once for this version"),
    Event(kind="step_started", seconds=1.0, step="calibrate/a", stage="calibrate"),
    Event(kind="progress", seconds=2.0, step="calibrate/a", done=1, total=40, unit="frames"),
    Event(kind="progress", seconds=11.5, step="calibrate/a", done=10, total=40, unit="frames"),
    Event(kind="progress", seconds=13.0, step="calibrate/a", done=11, total=40, unit="frames"),
    Event(kind="message", seconds=13.0, step="calibrate/a", message="light_11.fits: 812 stars"),
    Event(kind="finding", seconds=14.0, finding=finding("REG001", "warning", "too few stars", "/in/light_2.fits")),
    Event(kind="finding", seconds=14.0, finding=finding("GRP001", "info", "a note")),
    Event(kind="step_finished", seconds=43.0, step="calibrate/a", outcome="done"),
    Event(kind="step_started", seconds=43.0, step="measure/a", stage="measure"),
    Event(kind="step_finished", seconds=43.0, step="measure/a", outcome="done", message="together with calibrate/a"),
    Event(kind="step_started", seconds=43.0, step="integrate/i", stage="integrate"),
    Event(kind="step_finished", seconds=43.5, step="integrate/i", outcome="failed", message="the disk is full"),
    Event(kind="run_finished", seconds=44.0, outcome="failed"),
]


def test_piped_progress_is_plain_lines_with_rate_and_time_left():
    # 10 frames in 10.5 s are 0.952 frames/s; the other 30 take 31.5 s.
    assert progress_text(RUN).splitlines() == [
        "3 steps, 2 workers",
        "Compiling the kernels, once for this version",
        "calibrate/a: 10 of 40 frames, 0.952 frames/s, 32 s left",
        "warning REG001: light_2.fits: too few stars",
        "calibrate/a: done in 42 s",
        "integrate/i: failed in 0.5 s (the disk is full)",
    ]


def test_verbose_progress_holds_the_messages_of_each_frame_and_the_notes():
    text = progress_text(RUN, verbosity=1)
    assert "light_11.fits: 812 stars" in text
    assert "info GRP001: a note" in text
    assert "measure/a: done" in text


def test_quiet_progress_is_silent():
    assert progress_text(RUN, verbosity=-1) == ""


def test_live_progress_shows_counts_and_leaves_the_plain_lines_behind():
    assert "10 of 40 frames" in progress_text(RUN[:5], terminal=True)
    assert "calibrate/a: done in 42 s" in progress_text(RUN, terminal=True)


def test_an_interrupted_live_display_is_closed():
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with pytest.raises(KeyboardInterrupt), Display(0, console) as display:
        display(RUN[2])
        raise KeyboardInterrupt
    # The cursor, hidden while bars are drawn, is shown again at the end.
    assert console.file.getvalue().rindex("\x1b[?25h") > console.file.getvalue().rindex("\x1b[?25l")


def test_reading_of_headers_is_counted_in_plain_lines():
    console = Console(file=io.StringIO(), width=100)
    with Display(0, console) as display:
        for done in range(4501):
            display.reading(done, 4500)
    assert console.file.getvalue().splitlines() == [
        "Read headers: 2000 of 4500 files",
        "Read headers: 4000 of 4500 files",
        "Read headers: 4500 of 4500 files",
    ]


def test_reading_and_running_share_one_terminal():
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with Display(0, console) as display:
        for done in range(5):
            display.reading(done, 4)
        for event in RUN:
            display(event)
    assert "calibrate/a: done" in console.file.getvalue()


def test_master_that_the_user_does_not_want_is_shown_as_a_choice():
    from wbpy.reporting.terminal import _why_none

    refused = Match(subject="light-1", role="dark", chosen=None, rule="pin", candidates=())
    assert _why_none(refused) == "by your choice"
    missing = Match(subject="light-1", role="dark", chosen=None, rule="light.dark.none", candidates=())
    assert "there are no frames that could serve as dark" in _why_none(missing)
