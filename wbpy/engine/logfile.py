"""The two logs of a run: plain text for people, JSON lines for programs."""

from __future__ import annotations

from pathlib import Path
from typing import TextIO

import msgspec

from wbpy.engine.events import Event
from wbpy.model import Match, Plan


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
        telling = [r for r in candidate.reasons if r.verdict != "pass"]
        why = "; ".join(
            f"{r.field} {_value(r.subject_value)} against {_value(r.candidate_value)}"
            + (f", {r.operator} {r.tolerance:g}" if r.tolerance is not None else f", {r.operator}")
            + f": {r.verdict}"
            for r in telling
        )
        lines.append(f"    {candidate.verdict} {candidate.id}" + (f": {why}" if why else ""))
    return lines


def _value(value: object) -> str:
    return "unknown" if value is None else str(value)
