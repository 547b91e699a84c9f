"""The reports on a terminal: what was found, what will be done and why, what was done.

Each function writes to a console and decides nothing: all reasons stand in the values that it is given.
Verbosity: below 0 errors and the closing line, 0 the report, above 0 also notes, all candidates and parameters.
"""

from __future__ import annotations

import itertools
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from wbpy.model import (
    Candidate,
    Change,
    Comparison,
    Finding,
    FrameResult,
    Group,
    Match,
    Param,
    Plan,
    Product,
    Reason,
    Run,
    Scalar,
    Step,
    reason_text,
)
from wbpy.reporting.plan_view import (
    SEVERITIES,
    PlanView,
    Serving,
    Unused,
    bundles,
    files_text,
    target_of,
)
from wbpy.reporting.wording import (
    comparison_summary,
    count,
    duration,
    listing,
    plain,
    plan_summary,
    quoted,
    sentence,
    size,
    value,
)

if TYPE_CHECKING:
    from rich.console import Console

    from wbpy.catalog import Catalog
    from wbpy.costs import Forecast

STYLES = {"error": "bold red", "warning": "yellow", "info": "dim"}
NAMES = {"error": "error", "warning": "warning", "info": "note"}

BESIDE = ("preview", "rejection_low", "rejection_high", "drizzle_preview", "drizzle_weight", "star_catalogue")
"""Products that belong to an integration and are listed with -v only."""

SHOWN = 3
"""How many findings of one kind, failed requirements or equal fields are listed without -v."""

LINES = 120
"""How many groups and steps are listed without -v; of the groups with their masters half as many."""

TELLING = {
    "object": True,
    "filter": True,
    "exposure": True,
    "temperature": True,
    "gain": False,
    "iso": False,
    "offset": False,
    "rotator": False,
    "cfa": True,
    "night": True,
    "camera": True,
}
"""Values of a group that are shown without -v, in this order; True where the value is clear without its name."""

PIPED_WIDTH = 120
"""Columns of a report that does not go to a terminal."""


def make_console() -> Console:
    """Return a console on standard output that takes all text literally."""
    import os

    from rich.console import Console

    wide = None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPED_WIDTH
    return Console(markup=False, highlight=False, emoji=False, width=wide)


def show_scan(console: Console, catalog: Catalog, saved: Path | None, verbosity: int = 0) -> None:
    """Write the summary of a catalog: counts by role, filter, exposure and night, held-back files, findings."""
    if verbosity >= 0:
        summary = catalog.summary()
        if len(summary):
            names = [str(name) for name in summary.columns]
            print_table(
                console,
                [name.replace("_", " ") for name in names],
                [
                    [_cell(name, content) for name, content in zip(names, row, strict=True)]
                    for row in summary.itertuples(index=False, name=None)
                ],
            )
            console.print()
    _held_back(console, catalog, verbosity)
    print_findings(console, catalog.findings, verbosity)
    if saved is not None:
        console.print(f"The catalog is saved in {plain(str(saved))}", soft_wrap=True)
    parts = [f"{count(len(catalog.frames), 'frame')} in the catalog"]
    if catalog.held_back:
        parts.append(f"{count(len(catalog.held_back), 'file')} held back")
    console.print(closing_line(f"Scan: {', '.join(parts)}", catalog.findings), style="bold")


def show_plan(console: Console, plan: Plan, verbosity: int = 0, forecast: Forecast | None = None) -> None:
    """Write a plan: coverage, groups, matches with their reasons, ordered steps, findings, cost, one closing line.

    The cost is that of `forecast`, which knows this machine; without it, the plan's own estimate.
    """
    view = PlanView(plan)
    if verbosity >= 0 and view.coverage:
        _heading(console, "Coverage")
        _coverage(console, view, verbosity)
    if verbosity >= 0 and plan.groups:
        _heading(console, "Groups")
        _groups(console, plan.groups, verbosity)
        _heading(console, "Masters for each group, and why")
        _matches(console, view, verbosity)
    if verbosity >= 0 and plan.steps:
        _heading(console, "Steps, in this order")
        _steps(console, plan.steps, verbosity)
    if verbosity >= 0 and view.unused:
        _heading(console, "Files that take no part, and why")
        _unused(console, view.unused, verbosity)
    print_findings(console, plan.findings, verbosity)
    if verbosity >= 0 and plan.steps:
        console.print(_cost(plan, forecast), soft_wrap=True)
    if forecast is not None and forecast.short and forecast.disk_free is not None:
        console.print(
            f"The disk has {size(forecast.disk_free)} free, {size(forecast.disk_needed)} are needed: wbpy run will "
            f"refuse to start. Free some space, or choose another disk with -o.",
            style=STYLES["error"],
            soft_wrap=True,
        )
    if plan.steps:
        console.print(f"To read it in a browser: {quoted(str(PurePath(plan.out) / 'plan.html'))}", soft_wrap=True)
        console.print(f"To run it unchanged: wbpy run {quoted(str(PurePath(plan.out) / 'plan.json'))}", soft_wrap=True)
    summary = plan_summary(plan)
    console.print(closing_line(f"Plan: {summary[:1].lower()}{summary[1:]}", plan.findings), style="bold")


def show_comparison(console: Console, comparison: Comparison, plan: Plan, verbosity: int = 0) -> None:
    """Write what changed from an earlier plan to `plan`, by kind, and one closing line."""
    by_kind: dict[str, list[Change]] = defaultdict(list)
    for change in comparison.changes:
        by_kind[change.kind].append(change)
    for kind, title in COMPARED.items():
        # Steps follow from the rest: quiet shows masters and findings, which decide what comes out.
        if not by_kind[kind] or (verbosity < 0 and kind not in ("match", "finding")):
            continue
        _heading(console, title)
        rows = [[MARKS[change.action], _subject(change), _transition(change), change.why] for change in by_kind[kind]]
        print_table(console, ["", "what", "change", "why"], _some(rows, verbosity, column=1))
        console.print()
    if plan.steps:
        console.print(f"To run the new plan: wbpy run {quoted(str(PurePath(plan.out) / 'plan.json'))}", soft_wrap=True)
    console.print(
        closing_line(f"Plan against the earlier one: {comparison_summary(comparison)}", plan.findings), style="bold"
    )


def show_run(console: Console, run: Run, verbosity: int = 0) -> None:
    """Write the result of a run: products, excluded frames, failed steps, findings, times and one closing line."""
    out = Path(run.log).parent.parent
    if verbosity >= 0 and run.products:
        _heading(console, "Products")
        _products(console, run.products, out, verbosity)
        # A picture of another run beside those of this one is easily taken for one of them.
        leftovers = [finding for finding in run.findings if finding.id == "ENG003"]
        for finding in leftovers:
            console.print(plain(f"{finding.message} {finding.remedy}"), soft_wrap=True)
            console.print()
    excluded = [frame for frame in run.frames if frame.excluded_by is not None]
    lost = [frame for frame in run.frames if frame.excluded_by is None and frame.outcome in ("failed", "blocked")]
    if verbosity >= 0 and (excluded or lost):
        _heading(console, "Frames that were left out")
        reasons: dict[str, list[Finding]] = defaultdict(list)
        for finding in run.findings:
            reasons[finding.subject].append(finding)
        shown = [[PurePath(frame.path).name, _why_left_out(frame, reasons[frame.path])] for frame in excluded + lost]
        print_table(console, ["frame", "why"], _some(shown, verbosity))
        console.print()
    # What failed by itself comes before what only waited for it.
    broken = [step for outcome in ("failed", "blocked") for step in run.steps if step.outcome == outcome]
    if broken:
        _heading(console, "Steps that were not done")
        print_table(console, ["step", "outcome", "why"], [[step.id, step.outcome, step.why] for step in broken])
        console.print()
    print_findings(console, run.findings, verbosity)
    if verbosity >= 0 and run.timings:
        spent = [f"{stage} {duration(seconds)}" for stage, seconds in run.timings.items() if seconds >= 0.05]
        if spent:
            console.print(f"Time in each stage, summed over workers: {listing(spent)}.")
    if verbosity >= 0:
        console.print(f"Log: {plain(run.log)}", soft_wrap=True)
    first = _first_error(run)
    if first is not None:
        again = " Then run the same command again: finished work is kept."
        console.print(plain(f"Begin with {first.id}: {first.remedy}{again}"), style="cyan", soft_wrap=True)
    console.print(closing_line(_run_line(run, out), run.findings), style="bold")


def _first_error(run: Run) -> Finding | None:
    """Return the finding to begin with when a run lost something: the one about the first step that failed, if any."""
    if run.outcome not in ("failed", "blocked", "partial"):
        return None
    errors = [finding for finding in run.findings if finding.severity == "error"]
    failed = [step.id for step in run.steps if step.outcome == "failed"]
    about_steps = [finding for step in failed for finding in errors if finding.subject == step]
    return next(iter([*about_steps, *errors]), None)


def _heading(console: Console, text: str) -> None:
    console.print(text, style="bold underline")


def print_table(
    console: Console, names: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = ()
) -> None:
    """Write a table with one line of names, the columns `right` set to the right."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in names:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(plain(cell) for cell in row))
    console.print(table)


def _cell(field: str, content: object) -> str:
    """Return one cell of the summary; pandas marks what is missing by NA, which has no truth, or by NaN."""
    if content is None or type(content).__name__ == "NAType" or content != content:
        return "-"
    return value(field, content) if isinstance(content, str | int | float) else str(content)


def _some(rows: list[list[str]], verbosity: int, shown: int = 20, column: int = 0) -> list[list[str]]:
    """Return all rows when verbose, else the first ones and a last row that counts the others in one column."""
    if verbosity > 0 or len(rows) <= shown:
        return rows
    last = [""] * len(rows[0])
    last[column] = f"and {len(rows) - shown} more; -v shows them"
    return [*rows[:shown], last]


def _groups(console: Console, groups: Sequence[Group], verbosity: int) -> None:
    rows = []
    for group in groups:
        role = f"{_words(group.role)} master" if group.is_master else _words(group.role)
        told = {name: content for name, content in group.key.items() if content is not None}
        if verbosity > 0:
            key = ", ".join(f"{_words(name)} {value(name, content)}" for name, content in told.items())
        else:
            key = ", ".join(
                value(name, told[name]) if clear else f"{name} {value(name, told[name])}"
                for name, clear in TELLING.items()
                if name in told
            )
        rows.append([group.id, role if group.kind == "calibration" else group.kind, str(len(group.frames)), key])
    print_table(console, ["group", "role", "frames", "common to all"], _some(rows, verbosity, LINES), right=["frames"])
    console.print()


def _words(name: str) -> str:
    return name.replace("_", "-" if name == "flat_dark" else " ")


def _coverage(console: Console, view: PlanView, verbosity: int) -> None:
    """Write each night, filter and exposure with what serves it and how far that is."""
    rows = []
    for row in view.coverage:
        calibration = row.calibration
        offset = calibration.flat.offset if calibration.flat is not None else None
        subtracted = [serving for operator, serving in calibration.operations if operator != "/"]
        rows.append(
            [
                row.night or "unknown",
                target_of(calibration.group),
                row.filter,
                value("exposure", row.exposure),
                str(row.frames),
                ", ".join(_served(serving) for serving in subtracted) or "-",
                _served(calibration.flat),
                _served(offset),
            ]
        )
    names = ["night", "target", "filter", "exposure", "lights", "dark or bias", "flat", "flat's offset"]
    print_table(console, names, _some(rows, verbosity, LINES), right=["exposure", "lights"])
    console.print()


def _served(serving: Serving | None) -> str:
    """Return one cell of the coverage: what serves, how well, and how far it is in temperature and time."""
    if serving is None:
        return "-"
    if serving.group is None:
        return "none"
    parts = [f"{serving.words} {'master' if serving.group.is_master else len(serving.group.frames)}"]
    if serving.state != "exact":
        parts.append(serving.state)
    if serving.temperature is not None and serving.role != "flat" and abs(serving.temperature) >= 0.05:
        parts.append(f"{serving.temperature:+.1f} degC")
    if serving.age:
        parts.append(count(serving.age, "day") if serving.age > 0 else f"{count(-serving.age, 'day')} after")
    return ", ".join(parts)


def _unused(console: Console, unused: Sequence[Unused], verbosity: int) -> None:
    rows = []
    for one in unused:
        why = f"{one.finding}: {one.reason}" if one.finding and one.reason else one.finding or one.reason
        which = (
            ", ".join(PurePath(path).name for path in one.paths) if verbosity > 0 else files_text(one.paths, shown=2)
        )
        rows.append([one.group or one.what, str(len(one.paths)), why, which])
    print_table(console, ["what", "files", "why", "which"], _some(rows, verbosity), right=["files"])
    console.print()


def _cost(plan: Plan, forecast: Forecast | None) -> str:
    """Return what the plan will cost in one sentence."""
    estimate = plan.estimate
    seconds, free, basis = estimate.seconds, "", ""
    if forecast is not None:
        seconds = forecast.seconds
        free = "" if forecast.disk_free is None else f" ({size(forecast.disk_free)} are free)"
        known = (
            f"as {count(forecast.runs, 'earlier run')} on this machine took"
            if forecast.runs
            else "by rates of another machine: the first run will measure this one"
        )
        basis = f" with {count(forecast.workers, 'thread')}, {known}"
    return (
        f"It reads {size(estimate.bytes_read)}, writes {size(estimate.bytes_written)}{free}, needs up to "
        f"{size(estimate.peak_memory)} of memory and takes about {duration(seconds)}{basis}."
    )


COMPARED = {
    "setting": "Settings",
    "frame": "Files",
    "held_back": "Files held back",
    "group": "Groups",
    "match": "Masters for each group",
    "step": "Steps",
    "finding": "Findings",
    "cost": "Cost",
}
"""Kinds of changes in the order in which one follows from the other, with their headings."""

MARKS = {"added": "+", "changed": "~", "removed": "-"}


def _subject(change: Change) -> str:
    id, blank, rest = change.subject.partition(" ") if change.kind == "finding" else ("", "", change.subject)
    path = PurePath(rest)
    return f"{id}{blank}{path.name if path.is_absolute() else rest}"


def _transition(change: Change) -> str:
    """Return ``before -> after``, sizes and times with their units."""
    if change.action == "changed" and change.before is None and change.after is None:
        return ""

    def word(content: Scalar) -> str:
        if content is None:
            return "none"
        if change.kind == "cost" and isinstance(content, int | float):
            return duration(content) if change.subject == "seconds" else size(content)
        return f"{content:.6g}" if isinstance(content, float) else str(content)

    if change.action == "added":
        return "" if change.after is None else word(change.after)
    return word(change.before) if change.action == "removed" else f"{word(change.before)} -> {word(change.after)}"


def _matches(console: Console, view: PlanView, verbosity: int) -> None:
    from rich.table import Table
    from rich.text import Text

    plan = view.plan
    groups = view.groups
    formulas = {one.group.id: one.formula for one in view.calibrations}
    by_subject: dict[str, list[Match]] = defaultdict(list)
    for match in plan.matches:
        by_subject[match.subject].append(match)
    if not by_subject:
        console.print("No group needs a master.")
    shown = len(by_subject) if verbosity > 0 else LINES // 2
    for subject, matches in itertools.islice(by_subject.items(), shown):
        console.print(f"{plain(subject)} ({_frames_of(groups.get(subject))})", style="bold", soft_wrap=True)
        grid = Table.grid(padding=(0, 2))
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")
        if subject in formulas:
            grid.add_row("  formula", Text(formulas[subject]))
        for match in matches:
            chosen = next((one for one in match.candidates if one.verdict == "chosen"), None)
            if match.chosen is None:
                grid.add_row(f"  {_words(match.role)}", Text(f"none: {_why_none(match)}", style="yellow"))
            else:
                text = f"{match.chosen} ({_frames_of(groups.get(match.chosen))}), rule {match.rule}"
                reasons = f": {_reasons(chosen, verbosity)}" if chosen is not None else ""
                grid.add_row(f"  {_words(match.role)}", Text(plain(text + reasons), style="green"))
            for name, content in match.sets.items():
                grid.add_row("", f"sets {name} = {content}")
            others = [one for one in match.candidates if one.verdict != "chosen"]
            for other in others if verbosity > 0 else _nearest_refused(others):
                grid.add_row("", Text(plain(_other(other, verbosity)), style="dim"))
        console.print(grid)
    if len(by_subject) > shown:
        console.print(f"and {count(len(by_subject) - shown, 'more group', 'more groups')}; -v shows them")
    console.print()


def _frames_of(group: Group | None) -> str:
    if group is None:
        return "not in this plan"
    return "a finished master" if group.is_master else count(len(group.frames), "frame")


def _why_none(match: Match) -> str:
    if match.rule == "pin":
        return "by your choice"
    if not match.candidates:
        return f"there are no frames that could serve as {_words(match.role)} (rule {match.rule})"
    return f"no candidate satisfies the requirements (rule {match.rule})"


def _nearest_refused(others: Sequence[Candidate]) -> list[Candidate]:
    """Return the refused candidate that comes first; the matching lists the nearest miss first."""
    return [one for one in others if one.verdict == "rejected"][:1]


def _reasons(candidate: Candidate, verbosity: int) -> str:
    """Return why a candidate was chosen: the values that may differ or are unknown, then what is equal."""
    told = [reason for reason in candidate.reasons if reason.verdict != "pass" or reason.operator != "equal"]
    equal = [_words(reason.field) for reason in candidate.reasons if reason not in told]
    parts = list(dict.fromkeys(_reason(reason) for reason in told))
    if equal:
        shown = equal if verbosity > 0 or len(equal) <= SHOWN + 1 else [*equal[:SHOWN], f"{len(equal) - SHOWN} more"]
        parts.append(f"same {listing(shown)}")
    return "; ".join(parts) or "no requirement"


def _other(candidate: Candidate, verbosity: int) -> str:
    if candidate.verdict == "eligible":
        return f"not taken: {candidate.id}, rank {candidate.rank}"
    failed = list(dict.fromkeys(_reason(reason) for reason in candidate.reasons if reason.verdict == "fail"))
    if verbosity <= 0 and len(failed) > SHOWN + 1:
        failed = [*failed[:SHOWN], f"and {len(failed) - SHOWN} more"]
    return f"refused: {candidate.id}: {'; '.join(failed) or 'a requirement failed'}"


def _reason(reason: Reason) -> str:
    return f"{reason_text(reason)}{' (unverified)' if reason.verdict == 'unverified' else ''}"


def _steps(console: Console, steps: Sequence[Step], verbosity: int) -> None:
    rows = []
    for number, step in enumerate(steps, 1):
        chosen = {name: param for name, param in step.params.items() if verbosity > 0 or param.origin != "default"}
        why = step.why
        if chosen:
            why += f" Parameters: {_params(chosen)}."
        rows.append([str(number), step.id, why])
    print_table(console, ["", "step", "why"], _some(rows, verbosity, LINES, column=1), right=[""])
    console.print()


def _params(chosen: Mapping[str, Param]) -> str:
    """Return parameters as words, those of one origin together."""
    by_origin: dict[str, list[str]] = defaultdict(list)
    for name, param in chosen.items():
        by_origin[param.origin].append(f"{name} = {param.value}")
    return "; ".join(f"{', '.join(values)} ({origin})" for origin, values in by_origin.items())


def _why_left_out(frame: FrameResult, findings: Sequence[Finding]) -> str:
    """Return the findings that took a frame out: the one that excluded it, or the errors about it."""
    told = [
        f"{finding.id}: {finding.message}"
        for finding in findings
        if (finding.id == frame.excluded_by if frame.excluded_by else finding.severity == "error")
    ]
    return " ".join(told) or frame.excluded_by or frame.outcome


def _products(console: Console, products: Sequence[Product], out: Path, verbosity: int) -> None:
    names = ["file", "frames", "exposure", "outcome"]
    rows = []
    for product in products:
        if verbosity <= 0 and product.kind in BESIDE:
            continue
        path = Path(product.path)
        name = str(path.relative_to(out)) if path.is_relative_to(out) else str(path)
        used = str(product.frames_used)
        if product.frames_excluded:
            used += f" of {product.frames_used + product.frames_excluded}"
        exposure = "-" if product.exposure_total is None else duration(product.exposure_total)
        rows.append([name, used, exposure, product.outcome])
    print_table(console, names, rows, right=["frames", "exposure"])
    if len(rows) < len(products):
        kinds = {product.kind for product in products}
        called = {"preview": "preview", "rejection_low": "rejection maps", "star_catalogue": "star catalogue"}
        beside = listing([name for kind, name in called.items() if kind in kinds])
        console.print(f"Beside each integration stand its {beside}; -v lists them.")
    console.print()


def _held_back(console: Console, catalog: Catalog, verbosity: int) -> None:
    if not catalog.held_back or verbosity < 0:
        return
    _heading(console, "Held back: these files take no part")
    about = {(finding.id, finding.subject): finding.message for finding in catalog.findings}
    rows = [
        [PurePath(one.path).name, ": ".join(filter(None, (one.finding, about.get((one.finding, one.path)))))]
        for one in catalog.held_back
    ]
    print_table(console, ["file", "why"], _some(rows, verbosity, shown=10))
    console.print()


def print_findings(console: Console, findings: Sequence[Finding], verbosity: int) -> None:
    """Write the findings, errors first, those of one id and one remedy together."""
    from rich.table import Table
    from rich.text import Text

    visible = {"error"} if verbosity < 0 else {"error", "warning"} if verbosity == 0 else set(SEVERITIES)
    shown_findings = [finding for finding in findings if finding.severity in visible]
    found = bundles(shown_findings)
    if found:
        _heading(console, "Findings")
        grid = Table.grid(padding=(0, 2))
        grid.add_column(no_wrap=True)
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")
        for bundle in found:
            severity, members = bundle.severity, bundle.members
            shown = members if verbosity > 0 else members[:SHOWN]
            for number, finding in enumerate(shown):
                label = (Text(NAMES[severity], style=STYLES[severity]), bundle.id) if number == 0 else ("", "")
                grid.add_row(*label, plain(sentence(finding)))
            if len(members) > len(shown):
                grid.add_row("", "", f"and {len(members) - len(shown)} more like this; -v shows them")
            guide = f" (guide, section {bundle.guide.lstrip('§')})" if bundle.guide else ""
            grid.add_row("", "", Text(plain(f"To do: {bundle.remedy}{guide}"), style="cyan"))
        console.print(grid)
        console.print()


def closing_line(text: str, findings: Sequence[Finding]) -> str:
    """Return the closing line: what happened, then how many findings of each severity there are."""
    numbers = Counter(finding.severity for finding in findings)
    counted = [count(numbers[severity], NAMES[severity]) for severity in SEVERITIES if numbers[severity]]
    return f"{text}. {', '.join(counted).capitalize() if counted else 'No findings'}."


def _run_line(run: Run, out: Path) -> str:
    masters = sum(product.kind.startswith("master_") for product in run.products)
    # The channels of a colour camera may stand in files of their own.
    integrations = len({product.group for product in run.products if product.kind == "integration"})
    made = f"{count(integrations, 'integration')} and {count(masters, 'master')} in {plain(str(out))}"
    broken = sum(step.outcome in ("failed", "blocked") for step in run.steps)
    undone = f"{count(broken, 'step')} not done"
    return {
        "done": f"Done: {made}",
        "reused": f"Nothing had changed: {made}",
        "no_work": "Nothing to do",
        "partial": f"Done in part, {undone if broken else 'some frames were lost'}: {made}",
        "failed": f"Failed, {undone}: {made}",
        "blocked": f"Failed, {undone}: {made}",
        "cancelled": f"Stopped: {made}",
    }[run.outcome]
