"""The reports on a terminal: what was found, what will be done and why, what was done.

Each function writes to a console and decides nothing: all reasons stand in the values that it is given.
Verbosity: below 0 errors and the closing line, 0 the report, above 0 also notes, all candidates and parameters.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from wbpy.model import (
    Candidate,
    Finding,
    FrameResult,
    Group,
    HeldBack,
    Match,
    Param,
    Plan,
    Product,
    Reason,
    Run,
    Severity,
    Step,
    reason_text,
)
from wbpy.reporting.wording import count, duration, listing, plain, sentence, size, value

if TYPE_CHECKING:
    from rich.console import Console

    from wbpy.catalog import Catalog

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")
STYLES = {"error": "bold red", "warning": "yellow", "info": "dim"}
NAMES = {"error": "error", "warning": "warning", "info": "note"}

BESIDE = ("preview", "rejection_low", "rejection_high")
"""Products that belong to an integration and are listed with -v only."""

SHOWN = 3
"""How many findings of one kind, failed requirements or equal fields are listed without -v."""

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
            _table(
                console,
                [name.replace("_", " ") for name in names],
                [
                    [_cell(name, content) for name, content in zip(names, row, strict=True)]
                    for row in summary.itertuples(index=False, name=None)
                ],
            )
            console.print()
    _held_back(console, catalog.held_back, verbosity)
    _findings(console, catalog.findings, verbosity)
    if saved is not None:
        console.print(f"The catalog is saved in {plain(str(saved))}", soft_wrap=True)
    parts = [f"{count(len(catalog.frames), 'frame')} in the catalog"]
    if catalog.held_back:
        parts.append(f"{count(len(catalog.held_back), 'file')} held back")
    console.print(_closing(f"Scan: {', '.join(parts)}", catalog.findings), style="bold")


def show_plan(console: Console, plan: Plan, verbosity: int = 0) -> None:
    """Write a plan: groups, matches with their reasons, ordered steps, findings, cost and one closing line."""
    if verbosity >= 0 and plan.groups:
        _heading(console, "Groups")
        _groups(console, plan.groups, verbosity)
        _heading(console, "Masters for each group, and why")
        _matches(console, plan, verbosity)
    if verbosity >= 0 and plan.steps:
        _heading(console, "Steps, in this order")
        _steps(console, plan.steps, verbosity)
    _held_back(console, plan.held_back, verbosity)
    _findings(console, plan.findings, verbosity)
    estimate = plan.estimate
    if verbosity >= 0 and plan.steps:
        console.print(
            f"It reads {size(estimate.bytes_read)}, writes {size(estimate.bytes_written)}, needs up to "
            f"{size(estimate.peak_memory)} of memory and takes about {duration(estimate.seconds)}."
        )
    if plan.steps:
        file = plain(str(PurePath(plan.out) / "plan.json"))
        quoted = f'"{file}"' if " " in file else file
        console.print(f"To run it unchanged: wbpy run {quoted}", soft_wrap=True)
    console.print(_closing(_plan_line(plan), plan.findings), style="bold")


def show_run(console: Console, run: Run, verbosity: int = 0) -> None:
    """Write the result of a run: products, excluded frames, failed steps, findings, times and one closing line."""
    out = Path(run.log).parent.parent
    if verbosity >= 0 and run.products:
        _heading(console, "Products")
        _products(console, run.products, out, verbosity)
    excluded = [frame for frame in run.frames if frame.excluded_by is not None]
    lost = [frame for frame in run.frames if frame.excluded_by is None and frame.outcome in ("failed", "blocked")]
    if verbosity >= 0 and (excluded or lost):
        _heading(console, "Frames that were left out")
        reasons: dict[str, list[Finding]] = defaultdict(list)
        for finding in run.findings:
            reasons[finding.subject].append(finding)
        shown = [[PurePath(frame.path).name, _why_left_out(frame, reasons[frame.path])] for frame in excluded + lost]
        _table(console, ["frame", "why"], _some(shown, verbosity))
        console.print()
    broken = [step for step in run.steps if step.outcome in ("failed", "blocked")]
    if broken:
        _heading(console, "Steps that were not done")
        _table(console, ["step", "outcome", "why"], [[step.id, step.outcome, step.why] for step in broken])
        console.print()
    _findings(console, run.findings, verbosity)
    if verbosity >= 0 and run.timings:
        spent = [f"{stage} {duration(seconds)}" for stage, seconds in run.timings.items() if seconds >= 0.05]
        if spent:
            console.print(f"Time in each stage, summed over workers: {listing(spent)}.")
    if verbosity >= 0:
        console.print(f"Log: {plain(run.log)}", soft_wrap=True)
    console.print(_closing(_run_line(run, out), run.findings), style="bold")


def _heading(console: Console, text: str) -> None:
    console.print(text, style="bold underline")


def _table(console: Console, names: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = ()) -> None:
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


def _some(rows: list[list[str]], verbosity: int, shown: int = 20) -> list[list[str]]:
    """Return all rows when verbose, else the first ones and a last row that counts the others."""
    if verbosity > 0 or len(rows) <= shown:
        return rows
    return [*rows[:shown], [f"and {len(rows) - shown} more; -v shows them", *[""] * (len(rows[0]) - 1)]]


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
    _table(console, ["group", "role", "frames", "common to all"], rows, right=["frames"])
    console.print()


def _words(name: str) -> str:
    return name.replace("_", "-" if name == "flat_dark" else " ")


def _matches(console: Console, plan: Plan, verbosity: int) -> None:
    from rich.table import Table
    from rich.text import Text

    groups = {group.id: group for group in plan.groups}
    by_subject: dict[str, list[Match]] = defaultdict(list)
    for match in plan.matches:
        by_subject[match.subject].append(match)
    if not by_subject:
        console.print("No group needs a master.")
    for subject, matches in by_subject.items():
        console.print(f"{plain(subject)} ({_frames_of(groups.get(subject))})", style="bold", soft_wrap=True)
        grid = Table.grid(padding=(0, 2))
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")
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
    console.print()


def _frames_of(group: Group | None) -> str:
    if group is None:
        return "not in this plan"
    return "a finished master" if group.is_master else count(len(group.frames), "frame")


def _why_none(match: Match) -> str:
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
    _table(console, ["", "step", "why"], rows, right=[""])
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
    _table(console, names, rows, right=["frames", "exposure"])
    if len(rows) < len(products):
        console.print("Beside each integration stand its preview and its rejection maps.")
    console.print()


def _held_back(console: Console, held_back: Sequence[HeldBack], verbosity: int) -> None:
    if not held_back or verbosity < 0:
        return
    _heading(console, "Held back: these files take no part")
    rows = [[PurePath(one.path).name, one.finding] for one in held_back]
    _table(console, ["file", "finding"], _some(rows, verbosity, shown=10))
    console.print()


def _findings(console: Console, findings: Sequence[Finding], verbosity: int) -> None:
    """Write the findings, errors first, those of one id and one remedy together."""
    from rich.table import Table
    from rich.text import Text

    visible = {"error"} if verbosity < 0 else {"error", "warning"} if verbosity == 0 else set(SEVERITIES)
    bundles: dict[tuple[int, str, str], list[Finding]] = defaultdict(list)
    for finding in findings:
        if finding.severity in visible:
            bundles[SEVERITIES.index(finding.severity), finding.id, finding.remedy].append(finding)
    if bundles:
        _heading(console, "Findings")
        grid = Table.grid(padding=(0, 2))
        grid.add_column(no_wrap=True)
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")
        for (rank, id, remedy), members in sorted(bundles.items(), key=lambda item: item[0][:2]):
            severity = SEVERITIES[rank]
            shown = members if verbosity > 0 else members[:SHOWN]
            for number, finding in enumerate(shown):
                label = (Text(NAMES[severity], style=STYLES[severity]), id) if number == 0 else ("", "")
                grid.add_row(*label, plain(sentence(finding)))
            if len(members) > len(shown):
                grid.add_row("", "", f"and {len(members) - len(shown)} more like this; -v shows them")
            guide = f" (guide, section {members[0].guide.lstrip('§')})" if members[0].guide else ""
            grid.add_row("", "", Text(plain(f"To do: {remedy}{guide}"), style="cyan"))
        console.print(grid)
        console.print()


def _closing(text: str, findings: Sequence[Finding]) -> str:
    """Return the closing line: what happened, then how many findings of each severity there are."""
    numbers = Counter(finding.severity for finding in findings)
    counted = [count(numbers[severity], NAMES[severity]) for severity in SEVERITIES if numbers[severity]]
    return f"{text}. {', '.join(counted).capitalize() if counted else 'No findings'}."


def _plan_line(plan: Plan) -> str:
    if not plan.steps:
        return "Plan: nothing to do"
    stages = Counter(step.stage for step in plan.steps)
    groups = {group.id: group for group in plan.groups}
    lights = sum(len(groups[step.group].frames) for step in plan.steps if step.stage == "calibrate")
    parts = [
        f"{count(stages['masters'], 'master')} to make",
        f"{count(lights, 'light')} to calibrate",
        f"{count(stages['integrate'], 'integration')} to make",
    ]
    if plan.held_back:
        parts.append(f"{count(len(plan.held_back), 'file')} held back")
    return f"Plan: {', '.join(parts)}"


def _run_line(run: Run, out: Path) -> str:
    masters = sum(product.kind.startswith("master_") for product in run.products)
    integrations = sum(product.kind == "integration" for product in run.products)
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
