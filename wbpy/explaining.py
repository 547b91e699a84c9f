"""Say why: print the reasons that stand in catalog, plan and run. Nothing is computed again."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from wbpy.errors import WbpyError
from wbpy.hints import failures, hint, tells_apart
from wbpy.model import Candidate, Finding, Frame, Group, Match, Plan, Run, Scalar, Step, reason_text
from wbpy.rules import Rules, SensorRule, find_sensor, page_text

if TYPE_CHECKING:
    from wbpy.catalog import Catalog


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """One part of an explanation."""

    title: str
    lines: tuple[str, ...]
    """Sentences; two leading blanks a level below the line before."""


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why things are as they are for one target."""

    target: str
    """Path or id, in full."""
    kind: str
    """``file``, ``group``, ``step`` or ``finding``."""
    title: str
    sections: tuple[Section, ...]

    def text(self) -> str:
        """Return it as plain text."""
        blocks = [self.title]
        blocks += ["\n".join((section.title, *(f"  {line}" for line in section.lines))) for section in self.sections]
        return "\n\n".join(blocks) + "\n"


def explain(
    target: str, plan: Plan, run: Run | None = None, catalog: Catalog | None = None, rules: Rules | None = None
) -> Explanation:
    """Return why things are as they are for a file, group, step or finding.

    Parameters
    ----------
    target : str
        Path of a frame, held-back file or product; its file name, if only one file has it; group, step or finding id.
    plan : Plan
        What was planned.
    run : Run, optional
        Its last execution: adds outcomes.
    catalog : Catalog, optional
        Adds the keyword and rule behind each value of a file.
    rules : Rules, optional
        Adds what the rungs of matches mean and the pages of findings.

    Raises
    ------
    WbpyError
        If nothing or more than one thing goes by that name; near matches are named.
    """
    return _Explainer(plan, run, catalog, rules).explain(target)


class _Explainer:
    def __init__(self, plan: Plan, run: Run | None, catalog: Catalog | None, rules: Rules | None) -> None:
        self.plan, self.run, self.catalog, self.rules = plan, run, catalog, rules
        self.frames = {frame.path: frame for frame in plan.frames}
        self.groups = {group.id: group for group in plan.groups}
        self.steps = {step.id: step for step in plan.steps}
        self.products = {a.path: step for step in plan.steps for a in step.outputs if a.path is not None}
        self.held = {one.path: one.finding for one in plan.held_back}
        self.findings = (*plan.findings, *(f for f in (run.findings if run else ()) if f not in plan.findings))

    def explain(self, target: str) -> Explanation:
        files = dict.fromkeys((*self.frames, *self.held, *self.products))
        if target in files:
            return self._file(target)
        if target in self.groups:
            return self._group(self.groups[target])
        if target in self.steps:
            return self._step(self.steps[target])
        pages = {f.id for f in self.findings} | set(self.rules.findings if self.rules else ())
        if target.upper() in pages:
            return self._finding(target.upper())
        named = [path for path in files if path.endswith(("/" + target, "\\" + target))]
        if len(named) == 1:
            return self._file(named[0])
        if named:
            raise WbpyError(f"{target}: {len(named)} files have this name; give the path: {', '.join(named[:5])}")
        near = _near(target, [*self.groups, *self.steps, *pages, *dict.fromkeys(Path(path).name for path in files)])
        hint = f"did you mean {', '.join(near)}?" if near else "give a file, a group, a step or a finding of this plan"
        raise WbpyError(f"{target}: nothing in this plan has this name; {hint}")

    def _file(self, path: str) -> Explanation:
        name = Path(path).name
        sections: list[Section] = []
        if path in self.products:
            step = self.products[path]
            made = self._step(step)
            return Explanation(
                target=path,
                kind="file",
                title=f"{name}: made by {step.id}",
                sections=(*made.sections, *self._group(self.groups[step.group]).sections),
            )
        frame = self.frames.get(path)
        if frame is None:
            title = f"{name}: held back by {self.held[path]}, it takes no part"
        else:
            what = f"master {frame.role}" if frame.is_master else str(frame.role)
            title = f"{name}: {what.replace('_', '-')}, {self._fate(path)}"
        sections.append(Section(title="File", lines=(path,)))
        sections += self._values(path, frame)
        groups = [group for group in self.plan.groups if path in group.frames]
        if groups:
            lines = tuple(
                f"{group.id}: {group.kind}, {_count(len(group.frames), 'frame')}; {_key(group)}" for group in groups
            )
            sections.append(Section(title="Groups", lines=lines))
        for group in groups:
            sections += self._matches(group)
        ids = {group.id for group in groups}
        steps = [step for step in self.plan.steps if step.group in ids]
        if steps:
            sections.append(Section(title="Steps", lines=tuple(line for step in steps for line in self._outcome(step))))
        sections += self._result(path)
        sections += self._about({path, *ids, *(step.id for step in steps)})
        return Explanation(target=path, kind="file", title=title, sections=tuple(sections))

    def _fate(self, path: str) -> str:
        integrated = [step.group for step in self.plan.steps if path in step.frames]
        if integrated:
            return f"goes into {', '.join(integrated)}"
        users = {
            match.subject
            for group in self.plan.groups
            if path in group.frames
            for match in self.plan.matches
            if match.chosen == group.id
        }
        return f"serves {', '.join(sorted(users))}" if users else "serves nothing in this plan"

    def _values(self, path: str, frame: Frame | None) -> list[Section]:
        """Return each known value with the keyword and the rule behind it."""
        sources = {source.field: source for source in self.catalog.sources(path)} if self.catalog else {}
        lines = []
        for field in Frame.__struct_fields__ if frame is not None else ():
            value = getattr(frame, field)
            if field in ("path", "size", "modified_ns") or value is None or value == {}:
                continue
            source = sources.pop(field, None)
            line = f"{field} = {_shown(value)}"
            if source is not None:
                origin = f"{source.keyword} = {source.raw}" if source.keyword else source.raw
                line += f"  ({', '.join(filter(None, (origin, f'rule {source.rule}')))})"
            lines.append(line)
        for source in sources.values():
            origin = f"{source.keyword} = {source.raw}" if source.keyword else source.raw
            # What only helped to find other values, such as the longitude, is no field of a frame.
            word = f"{source.field} unknown" if source.field in Frame.__struct_fields__ else source.field
            lines.append(f"{word}  ({', '.join(filter(None, (origin, f'rule {source.rule}')))})")
        missing = [
            field
            for field in Frame.__struct_fields__
            if frame is not None and getattr(frame, field) is None and field not in sources
        ]
        if missing:
            lines.append(f"not in the header: {', '.join(missing)}")
        return [Section(title="Values", lines=tuple(lines))] if lines else []

    def _matches(self, group: Group) -> list[Section]:
        own = [match for match in self.plan.matches if match.subject == group.id]
        return [
            Section(title=f"{_capital(match.role.replace('_', '-'))} for {group.id}", lines=tuple(self._match(match)))
            for match in own
        ]

    def _match(self, match: Match) -> list[str]:
        meaning = ""
        if self.rules is not None:
            meaning = next((f": {rung.meaning}" for rung in self.rules.matches if rung.id == match.rule), "")
        if match.rule == "pin":
            meaning = ": decided by hand"
        if match.chosen is None:
            lines = [f"none, rule {match.rule}{meaning}", *(f"  {line}" for line in self._conclusion(match))]
        else:
            lines = [f"chosen: {self._described(match.chosen)}, rule {match.rule}{meaning}"]
        lines += [f"  sets {name} = {_shown(value)}" for name, value in match.sets.items()]
        for candidate in match.candidates:
            # Without a master, the chain above has named the refused ones already.
            if match.chosen is not None or candidate.verdict != "rejected":
                lines += self._candidate(candidate)
        return lines

    def _conclusion(self, match: Match) -> list[str]:
        """Return why a match has no master: what is needed, what there is, what follows, and what would help."""
        role = match.role.replace("_", "-")
        if match.rule == "pin":
            return [f"because you asked for no {role}"]
        refused = [candidate for candidate in match.candidates if candidate.verdict == "rejected"]
        subject = self.groups.get(match.subject)
        lines = []
        if not refused:
            lines.append(f"because there are no frames that could serve as {role}")
        elif subject is not None:
            asked = dict.fromkeys(
                r.field for c in refused for r in failures(c) if r.operator not in ("fixed", "without")
            )
            needed = [f"{name.replace('_', ' ')} {_shown(subject.key[name])}" for name in asked if name in subject.key]
            lines.append(f"because {match.subject} needs a {role}{' with ' if needed else ''}{_and(needed)}")
            failing: dict[tuple[str, ...], list[str]] = {}
            for candidate in refused:
                texts = tuple(reason_text(r) for r in failures(candidate))
                failing.setdefault(texts, []).append(candidate.id)
            for texts, ids in failing.items():
                lines.append(f"and there is {_and(ids)}: {_and(texts)}")
        other = next((one for one in self.plan.matches if one.subject == match.subject and one.role == "bias"), None)
        if match.role in ("dark", "flat_dark") and other is not None and other.chosen is not None:
            lines.append(f"therefore only the offset is taken off, with {other.chosen}")
        else:
            lines.append(f"therefore {match.subject} gets no {role}")
        advice = hint(match)
        return [*lines, f"hint: {advice}"] if advice else lines

    def _candidate(self, candidate: Candidate) -> list[str]:
        """Return why a candidate was chosen, came second, or was refused with what failed first."""
        if candidate.verdict == "chosen":
            return [f"  {line}" for line in _reasons(candidate)]
        if candidate.verdict == "eligible":
            apart = [reason_text(r) for r in candidate.reasons if r.verdict == "unverified" or tells_apart(r)]
            return [f"rank {candidate.rank}: {self._described(candidate.id)}: {'; '.join(apart) or 'equal settings'}"]
        failed = [reason_text(r) for r in candidate.reasons if r.verdict == "fail"]
        rule = candidate.reasons[0].rule if candidate.reasons else "none"
        return [f"refused: {self._described(candidate.id)} by {rule}: {'; '.join(failed)}"]

    def _described(self, id: str) -> str:
        group = self.groups.get(id)
        if group is None:
            return id
        return f"{id} ({'finished master' if group.is_master else _count(len(group.frames), 'frame')})"

    def _group(self, group: Group) -> Explanation:
        sections = [Section(title="Common to all", lines=(_key(group),))]
        sections.append(Section(title=_capital(_count(len(group.frames), "frame")), lines=group.frames))
        sections += self._matches(group)
        users = [
            f"{match.role.replace('_', '-')} for {match.subject}, rule {match.rule}"
            for match in self.plan.matches
            if match.chosen == group.id
        ]
        if group.kind == "calibration" and group.role != "light":
            sections.append(Section(title="Used as", lines=tuple(users) or ("nothing: no group chose it",)))
            lost = [
                line
                for match in self.plan.matches
                for candidate in match.candidates
                if candidate.id == group.id and candidate.verdict != "chosen"
                for line in (f"{match.role.replace('_', '-')} for {match.subject}:", *self._lost(candidate))
            ]
            if lost:
                sections.append(Section(title="Not used as", lines=tuple(lost)))
            sections += self._left_out(group)
            sections += self._sensor(group)
        steps = [step for step in self.plan.steps if step.group == group.id]
        if steps:
            sections.append(Section(title="Steps", lines=tuple(line for step in steps for line in self._outcome(step))))
        sections += self._about({group.id, *(step.id for step in steps)})
        role = f"{'master ' if group.is_master else ''}{group.role.replace('_', '-')}"
        title = f"{group.id}: {group.kind} group of {_count(len(group.frames), role + ' frame')}"
        return Explanation(target=group.id, kind="group", title=title, sections=tuple(sections))

    def _left_out(self, group: Group) -> list[Section]:
        """Return the frames of the same role that are not in a master, with what sets them apart."""
        others = [g for g in self.groups.values() if g.role == group.role and g.kind == group.kind and g is not group]
        apart = []
        for other in others:
            names = [
                name
                for name, value in group.key.items()
                if name != "stack_count" and value != other.key.get(name) and None not in (value, other.key.get(name))
            ]
            apart.append((len(names), other.id, other, names))
        lines = [
            f"{self._described(id)}: "
            + _and(
                [f"{n.replace('_', ' ')} {_shown(other.key.get(n))} instead of {_shown(group.key[n])}" for n in names]
            )
            if names
            else f"{self._described(id)}: {'a finished master' if other.is_master else 'equal settings'}"
            for _, id, other, names in sorted(apart, key=lambda one: one[:2])[:12]
        ]
        if len(apart) > 12:
            lines.append(f"and {len(apart) - 12} more groups")
        gone = [r for r in (self.run.frames if self.run else ()) if r.path in group.frames and r.excluded_by]
        lines += [f"{Path(r.path).name}: excluded from this group by {r.excluded_by} in the last run" for r in gone]
        return (
            [Section(title=f"Other {group.role.replace('_', '-')} frames, left out", lines=tuple(lines))]
            if lines
            else []
        )

    def _sensor(self, group: Group) -> list[Section]:
        """Return what is known of the sensor that a calibration group comes from."""
        camera = group.key.get("camera")
        sensor = find_sensor(self.rules, camera) if self.rules is not None and isinstance(camera, str) else None
        if sensor is None:
            return []
        return [Section(title=f"Sensor {sensor.id}", lines=tuple(_facts(sensor, group)))]

    def _lost(self, candidate: Candidate) -> list[str]:
        return [f"  {line}" for line in self._candidate(candidate)]

    def _step(self, step: Step) -> Explanation:
        sections = [Section(title="Why", lines=tuple(self._outcome(step)))]
        inputs = [
            f"{name}: {self._described(source)}" if source in self.groups else f"{name}: {source}"
            for name, sources in step.inputs.items()
            for source in sources
        ]
        sections.append(Section(title="Inputs", lines=tuple(inputs)))
        params = tuple(f"{name} = {_shown(param.value)}  ({param.origin})" for name, param in step.params.items())
        if params:
            sections.append(Section(title="Parameters", lines=params))
        outputs = tuple(
            f"{a.name}: {a.path}" if a.path else f"{a.name}: {a.kind}, kept in the store" for a in step.outputs
        )
        sections.append(Section(title="Outputs", lines=outputs))
        readers = [one.id for one in self.plan.steps if any(step.id in ids for ids in one.inputs.values())]
        if readers:
            sections.append(Section(title="Read by", lines=tuple(readers)))
        sections += self._about({step.id, step.group})
        title = f"{step.id}: stage {step.stage}, version {step.version}"
        return Explanation(target=step.id, kind="step", title=title, sections=tuple(sections))

    def _outcome(self, step: Step) -> list[str]:
        lines = [f"{step.id}: {step.why}"]
        for result in self.run.steps if self.run else ():
            if result.id == step.id:
                lines.append(f"  last run: {result.outcome}, {result.why} ({result.seconds:.3g} s)")
        return lines

    def _result(self, path: str) -> list[Section]:
        for result in self.run.frames if self.run else ():
            if result.path == path:
                lines = [f"outcome: {result.outcome}"]
                if result.excluded_by is not None:
                    lines.append(f"excluded by {result.excluded_by}")
                if result.weight is not None:
                    lines.append(f"weight: {result.weight:.4g} of the best frame's")
                lines += [f"{name} = {_shown(value)}" for name, value in result.measurements.items()]
                return [Section(title="Last run", lines=tuple(lines))]
        return []

    def _about(self, subjects: set[str]) -> list[Section]:
        found = [f for f in self.findings if f.subject in subjects]
        return [Section(title="Findings", lines=tuple(_finding_lines(found)))] if found else []

    def _finding(self, id: str) -> Explanation:
        rule = self.rules.findings.get(id) if self.rules else None
        subjects = [f for f in self.findings if f.id == id]
        sections: list[Section] = []
        title = id
        if rule is not None:
            title = f"{id}: {rule.title} ({rule.severity})"
            sections.append(Section(title="Why it matters", lines=tuple(rule.why.strip().splitlines())))
            sections.append(Section(title="What to do", lines=(page_text(rule.remedy),)))
            if rule.limits:
                limits = tuple(f"{name} = {_shown(value)}" for name, value in rule.limits.items())
                sections.append(Section(title="Limits", lines=limits))
            if rule.guide:
                sections.append(Section(title="Guide", lines=(f"section {rule.guide.lstrip('§')}",)))
        lines = tuple(line for finding in subjects for line in (finding.subject, *_finding_lines([finding]))) or (
            "not raised in this plan or its last run",
        )
        sections.append(Section(title="In this plan", lines=lines))
        return Explanation(target=id, kind="finding", title=title, sections=tuple(sections))


def _facts(sensor: SensorRule, group: Group) -> list[str]:
    lines = []
    if sensor.saturation_dn is not None:
        lines.append(f"{sensor.adc_bits} bit x {sensor.scale}: a 16-bit file saturates at {sensor.saturation_dn} DN")
    offset = group.key.get("offset")
    level = sensor.offset_level_dn(float(offset)) if isinstance(offset, (int, float)) else None
    if level is not None and group.role in ("bias", "dark", "flat_dark"):
        lines.append(
            f"offset {_shown(offset)} x {_shown(sensor.offset_dn)} x {sensor.scale} should raise the bias to "
            f"{_shown(level)} DN"
        )
    return [*lines, *sensor.notes]


def _and(items: Sequence[str]) -> str:
    """Return a list as words, shortened when it is long."""
    if len(items) > 5:
        return f"{', '.join(items[:4])} and {len(items) - 4} more"
    return " and ".join(filter(None, (", ".join(items[:-1]), *items[-1:])))


def _near(target: str, names: Sequence[str]) -> list[str]:
    """Return up to five names that `target` begins or resembles; of a path, its last part counts too."""
    begun = [name for name in names if name.casefold().startswith(target.casefold())]
    alike = difflib.get_close_matches(target, names, n=5, cutoff=0.6)
    last = difflib.get_close_matches(Path(target).name, names, n=5, cutoff=0.6)
    by_turns = [name for pair in itertools.zip_longest(last, alike) for name in pair if name is not None]
    return list(dict.fromkeys((*begun[:5], *by_turns)))[:5]


def _reasons(candidate: Candidate) -> list[str]:
    """Return the reasons of a chosen candidate: what differs or is unknown one a line, what is equal in one line."""
    told = [r for r in candidate.reasons if r.verdict != "pass" or tells_apart(r)]
    lines = [f"{reason_text(r)}{', unverified' if r.verdict == 'unverified' else ''}" for r in told]
    same = [r for r in candidate.reasons if r not in told and r.operator != "without"]
    if same:
        known = [reason_text(r) for r in same if r.subject_value is not None and r.candidate_value is not None]
        absent = [r.field.replace("_", " ") for r in same if r.subject_value is None and r.candidate_value is None]
        lines.append(f"same {', '.join(known)}" + (f"; on both sides no {', '.join(absent)}" if absent else ""))
    return lines


def _finding_lines(findings: Iterable[Finding]) -> list[str]:
    lines = []
    for finding in findings:
        lines += [f"{finding.id} {finding.severity}: {finding.message}", f"  to do: {finding.remedy}"]
    return lines


def _key(group: Group) -> str:
    return ", ".join(f"{name} {_shown(value)}" for name, value in group.key.items() if value is not None) or "nothing"


def _shown(value: Scalar | Sequence[Scalar]) -> str:
    if value is None:
        return "unknown"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
