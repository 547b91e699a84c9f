"""The two logs of a run: plain text for people, JSON lines for programs."""

from __future__ import annotations

from pathlib import Path
from typing import TextIO

import msgspec

from wbpy.engine.events import Event
from wbpy.model import Match, Plan, Run, reason_text


class LogFiles:
    """A listener that writes ``logs/<UTC>.log`` and ``logs/<UTC>.jsonl``.

    Parameters
    ----------
    folder : Path
        The folder ``logs``; made when missing.
    stamp : str
        Start of the run in UTC, used as file name.
    """

    def __init__(self, folder: Path, stamp: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{stamp}.log"
        number = 1
        while self.path.exists():
            number += 1
            self.path = folder / f"{stamp}_{number}.log"
        self._text: TextIO = open(self.path, "w", encoding="utf-8")  # noqa: SIM115  closed by close()
        self._lines: TextIO = open(  # noqa: SIM115  closed by close()
            self.path.with_suffix(".jsonl"), "w", encoding="utf-8"
        )

    def __call__(self, event: Event) -> None:
        """Write one event; lines are flushed, so that a killed run leaves a whole log."""
        self._lines.write(msgspec.json.encode(event).decode() + "\n")
        self._lines.flush()
        text = _sentence(event)
        if text:
            self._text.write(f"{event.seconds:9.2f} s  {text}\n")
            self._text.flush()

    def write_plan(self, plan: Plan) -> None:
        """Write what will be done and why, ahead of the events."""
        lines = [f"wbpy {plan.wbpy}, output in {plan.out}", ""]
        lines += [f"{len(plan.frames)} frames in {len(plan.groups)} groups"]
        for group in plan.groups:
            kind = "master " + group.role if group.is_master else f"{len(group.frames)} x {group.role}"
            lines.append(f"  {group.id} ({group.kind}): {kind}")
        lines += ["", "Matches"]
        for match in plan.matches:
            lines += _match_lines(match)
        lines += ["", "Settings that differ from the defaults"]
        changed = [
            f"  {step.id}: {name} = {param.value} ({param.origin})"
            for step in plan.steps
            for name, param in step.params.items()
            if param.origin != "default"
        ]
        lines += changed or ["  none"]
        lines += ["", "Held back"]
        lines += [f"  {held.path}: {held.finding}" for held in plan.held_back] or ["  nothing"]
        lines += ["", "Findings of the plan"]
        for finding in plan.findings:
            lines += [
                f"  {finding.severity.upper()} {finding.id} {finding.subject}",
                f"    {finding.message}",
                f"    {finding.remedy}",
            ]
        if not plan.findings:
            lines.append("  none")
        lines += ["", "Steps"]
        lines += [f"  {step.id}: {step.why}" for step in plan.steps]
        self._text.write("\n".join(lines) + "\n\n")
        self._text.flush()

    def write_run(self, run: Run) -> None:
        """Write what came out, behind the events."""
        lines = ["", "Lights", *_frame_lines(run), "", "Products"]
        for product in run.products:
            total = "" if product.exposure_total is None else f", {product.exposure_total:g} s in all"
            excluded = f", {product.frames_excluded} left out" if product.frames_excluded else ""
            lines.append(f"  {product.path}: {product.frames_used} frames{excluded}{total}, {product.outcome}")
        if not run.products:
            lines.append("  none")
        spent = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in run.timings.items() if seconds >= 0.05)
        lines += ["", f"Time in each stage, summed over workers: {spent or 'next to none'}"]
        lines += ["Versions: " + ", ".join(f"{name} {number}" for name, number in run.versions.items())]
        lines += [f"Outcome: {run.outcome}"]
        self._text.write("\n".join(lines) + "\n")
        self._text.flush()

    def close(self) -> None:
        """Close both files."""
        self._text.close()
        self._lines.close()


def _sentence(event: Event) -> str:
    if event.kind == "progress":
        return ""
    if event.kind == "finding" and event.finding is not None:
        f = event.finding
        return f"{f.severity.upper()} {f.id} {f.subject}: {f.message} {f.remedy}"
    if event.kind == "step_started":
        return f"-- {event.step}"
    if event.kind == "step_finished":
        return f"   {event.step}: {event.outcome}, {event.message}"
    if event.kind == "run_finished":
        return f"Run {event.outcome}. {event.message}"
    return f"   {event.message}" if event.step else event.message


def _match_lines(match: Match) -> list[str]:
    lines = [f"  {match.role} for {match.subject}: {match.chosen or 'none'} (rule {match.rule})"]
    for candidate in match.candidates:
        telling = [reason_text(reason) for reason in candidate.reasons if reason.verdict != "pass"]
        lines.append(f"    {candidate.verdict} {candidate.id}" + (f": {'; '.join(telling)}" if telling else ""))
    return lines


def _frame_lines(run: Run) -> list[str]:
    """Return a table of the lights: weight, what was measured, and why a light takes no part."""
    lights = [frame for frame in run.frames if frame.role == "light"]
    if not lights:
        return ["  none"]
    lines = [f"  {'weight':>6} {'stars':>6} {'FWHM':>6} {'ecc':>5} {'rms':>6} {'rejected':>9}  file"]
    for frame in lights:
        m = frame.measurements
        low, high = m.get("rejected_low"), m.get("rejected_high")
        rejected = None if low is None or high is None else 100 * (low + high)
        cells = (
            _cell(frame.weight, 6, 3),
            _cell(m.get("stars"), 6, 0),
            _cell(m.get("fwhm_px"), 6, 2),
            _cell(m.get("eccentricity"), 5, 2),
            _cell(m.get("registration_rms_px"), 6, 3),
            _cell(rejected, 7, 2) + " %",
        )
        fate = "" if frame.excluded_by is None else f"  ({frame.outcome}, see {frame.excluded_by})"
        lines.append(f"  {' '.join(cells)}  {Path(frame.path).name}{fate}")
    return lines


def _cell(value: float | None, width: int, digits: int) -> str:
    return f"{'-':>{width}}" if value is None else f"{value:{width}.{digits}f}"
