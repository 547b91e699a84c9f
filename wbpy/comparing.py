"""What changed from one plan to another, and why: values are compared, nothing is planned again."""

from __future__ import annotations

from typing import Any

from wbpy.model import Candidate, Change, Comparison, Frame, Match, Plan, Step, reason_text

IDENTITY = ("size", "modified_ns")
"""Fields of a frame that tell that its file was written anew."""


def compare_plans(old: Plan, new: Plan) -> Comparison:
    """Return what changed from `old` to `new`: files, settings, groups, masters, steps, findings, costs.

    Parameters
    ----------
    old, new : Plan
        Two plans, as a rule of the same frames at two times or with two configurations.
    """
    return _Comparer(old, new).compare()


class _Comparer:
    def __init__(self, old: Plan, new: Plan) -> None:
        self.old, self.new = old, new
        self.changes: list[Change] = []
        self.unchanged = 0

    def compare(self) -> Comparison:
        self._frames()
        self._held_back()
        self._settings()
        self._groups()
        self._matches()
        self._steps()
        self._findings()
        self._costs()
        return Comparison(
            old=self.old.out, new=self.new.out, changes=tuple(self.changes), unchanged_steps=self.unchanged
        )

    def _add(self, kind: Any, action: Any, subject: str, why: str, before: Any = None, after: Any = None) -> None:
        self.changes.append(
            Change(kind=kind, action=action, subject=subject, before=_scalar(before), after=_scalar(after), why=why)
        )

    def _frames(self) -> None:
        before, after = ({frame.path: frame for frame in plan.frames} for plan in (self.old, self.new))
        held = {one.path: one.finding for one in self.new.held_back}
        was_held = {one.path: one.finding for one in self.old.held_back}
        for path, frame in after.items():
            if path not in before:
                why = f"was held back by {was_held[path]}" if path in was_held else "new file"
                self._add("frame", "added", path, why, after=frame.role)
        for path, frame in before.items():
            if path not in after:
                why = f"held back by {held[path]}" if path in held else "no longer among the inputs"
                self._add("frame", "removed", path, why, before=frame.role)
        for path in sorted(before.keys() & after.keys()):
            if before[path] != after[path]:
                self._frame(path, before[path], after[path])

    def _frame(self, path: str, before: Frame, after: Frame) -> None:
        fields = [name for name in before.__struct_fields__ if getattr(before, name) != getattr(after, name)]
        told = [name for name in fields if name not in IDENTITY]
        for name in told:
            rewritten = "the file was written anew" if len(told) < len(fields) else "the header is read differently"
            self._add("frame", "changed", path, f"{name}: {rewritten}", getattr(before, name), getattr(after, name))
        if not told:
            self._add("frame", "changed", path, "the file was written anew", before.modified_ns, after.modified_ns)

    def _held_back(self) -> None:
        before, after = ({one.path: one.finding for one in plan.held_back} for plan in (self.old, self.new))
        known = {frame.path for plan in (self.old, self.new) for frame in plan.frames}
        for path in sorted(after.keys() - before.keys() - known):
            self._add("held_back", "added", path, f"new file, held back by {after[path]}", after=after[path])
        for path in sorted(before.keys() - after.keys() - known):
            self._add("held_back", "removed", path, "no longer among the inputs", before=before[path])
        for path in sorted(before.keys() & after.keys()):
            if before[path] != after[path]:
                self._add("held_back", "changed", path, "another finding decides", before[path], after[path])

    def _settings(self) -> None:
        for section in sorted(self.old.settings.keys() | self.new.settings.keys()):
            before, after = (plan.settings.get(section, {}) for plan in (self.old, self.new))
            for name in sorted(before.keys() | after.keys()):
                was, now = before.get(name), after.get(name)
                if (was and was.value) != (now and now.value):
                    origin = now.origin if now is not None else "not in the new plan"
                    why = f"set by {origin}" if origin != "default" else "no longer set"
                    self._add("setting", "changed", f"{section}.{name}", why, was and was.value, now and now.value)

    def _groups(self) -> None:
        before, after = ({group.id: group for group in plan.groups} for plan in (self.old, self.new))
        there = {frame.path for frame in self.old.frames}
        here = {frame.path for frame in self.new.frames}
        for id in sorted(after.keys() - before.keys()):
            moved = sum(path in there for path in after[id].frames)
            why = f"{moved} of its frames were in other groups" if moved else "its frames are new"
            self._add("group", "added", id, why, after=len(after[id].frames))
        for id in sorted(before.keys() - after.keys()):
            moved = sum(path in here for path in before[id].frames)
            why = f"{moved} of its frames are in other groups" if moved else "its frames are gone"
            self._add("group", "removed", id, why, before=len(before[id].frames))
        for id in sorted(before.keys() & after.keys()):
            was, now = set(before[id].frames), set(after[id].frames)
            if was != now:
                parts = [f"{len(now - was)} more" if now - was else "", f"{len(was - now)} fewer" if was - now else ""]
                self._add("group", "changed", id, " and ".join(filter(None, parts)), len(was), len(now))

    def _matches(self) -> None:
        before, after = ({(m.subject, m.role): m for m in plan.matches} for plan in (self.old, self.new))
        for key in sorted(before.keys() & after.keys()):
            was, now = before[key], after[key]
            if (was.chosen, was.rule) != (now.chosen, now.rule):
                self._add(
                    "match",
                    "changed",
                    f"{now.role} for {now.subject}",
                    self._why_match(was, now),
                    was.chosen,
                    now.chosen,
                )
        for key in sorted(after.keys() - before.keys()):
            self._add("match", "added", f"{key[1]} for {key[0]}", f"rule {after[key].rule}", after=after[key].chosen)
        for key in sorted(before.keys() - after.keys()):
            self._add("match", "removed", f"{key[1]} for {key[0]}", "no longer needed", before=before[key].chosen)

    def _why_match(self, was: Match, now: Match) -> str:
        """Return why another master serves: what speaks against the old one, or for the new one."""
        rules = f"rule {now.rule}" if was.rule == now.rule else f"rule {now.rule} instead of {was.rule}"
        if was.chosen == now.chosen:
            return rules
        if was.chosen is None:
            earlier = next((one for one in was.candidates if one.id == now.chosen), None)
            return f"{rules}; it {_against(earlier) if earlier else 'is new'}"
        still = next((one for one in now.candidates if one.id == was.chosen), None)
        if still is None:
            there = any(group.id == was.chosen for group in self.new.groups)
            return f"{rules}; {was.chosen} {'is no candidate any more' if there else 'is gone'}"
        if still.verdict == "rejected":
            failed = [reason_text(reason) for reason in still.reasons if reason.verdict == "fail"]
            return f"{rules}; {was.chosen}: {'; '.join(dict.fromkeys(failed))}"
        return f"{rules}; {was.chosen} would serve as well but ranks {still.rank}"

    def _steps(self) -> None:
        before, after = ({step.id: step for step in plan.steps} for plan in (self.old, self.new))
        frames = {one.subject for one in self.changes if one.kind == "frame" and one.action == "changed"}
        members = [{group.id: group.frames for group in plan.groups} for plan in (self.old, self.new)]
        redone: set[str] = set()
        for step in self.new.steps:
            was = before.get(step.id)
            if was is None:
                redone.add(step.id)
                self._add("step", "added", step.id, step.why)
                continue
            causes = _causes(was, step)
            ours, theirs = (set(groups.get(step.group, ())) for groups in members)
            if ours != theirs:
                causes.append(f"{len(theirs)} frames instead of {len(ours)}")
            elif ours & frames:
                causes.append(f"{len(ours & frames)} of its files changed")
            follows = [s for sources in step.inputs.values() for s in sources if s in redone]
            if not causes and follows:
                causes = [f"follows {follows[0]}" + (f" and {len(follows) - 1} more" if len(follows) > 1 else "")]
            if causes:
                redone.add(step.id)
                self._add("step", "changed", step.id, "; ".join(causes))
            else:
                self.unchanged += 1
        for id in sorted(before.keys() - after.keys()):
            self._add("step", "removed", id, "the new plan does not need it")

    def _findings(self) -> None:
        before, after = ({(f.id, f.subject): f for f in plan.findings} for plan in (self.old, self.new))
        for key, finding in after.items():
            if key not in before:
                self._add(
                    "finding", "added", f"{finding.id} {finding.subject}", finding.message, after=finding.severity
                )
        for key, finding in before.items():
            if key not in after:
                self._add(
                    "finding", "removed", f"{finding.id} {finding.subject}", "no longer the case", finding.severity
                )

    def _costs(self) -> None:
        was, now = self.old.estimate, self.new.estimate
        for name in was.__struct_fields__:
            if getattr(was, name) != getattr(now, name):
                self._add("cost", "changed", name, "estimate", getattr(was, name), getattr(now, name))


def _against(candidate: Candidate) -> str:
    failed = [reason_text(reason) for reason in candidate.reasons if reason.verdict == "fail"]
    return f"was refused before: {'; '.join(dict.fromkeys(failed))}" if failed else "was a candidate before"


def _causes(was: Step, now: Step) -> list[str]:
    """Return what of the step itself differs."""
    causes = []
    if was.version != now.version:
        causes.append(f"stage version {now.version} instead of {was.version}")
    for name in sorted(was.params.keys() | now.params.keys()):
        before, after = was.params.get(name), now.params.get(name)
        if (before and before.value) != (after and after.value):
            origin = f" ({after.origin})" if after is not None else ""
            causes.append(f"{name} {_word(after and after.value)} instead of {_word(before and before.value)}{origin}")
    for name in sorted(was.inputs.keys() | now.inputs.keys()):
        if was.inputs.get(name) != now.inputs.get(name):
            before_names, after_names = (
                ", ".join(inputs.get(name, ())) or "none" for inputs in (was.inputs, now.inputs)
            )
            causes.append(f"{name} from {after_names} instead of {before_names}")
    if [one.path for one in was.outputs] != [one.path for one in now.outputs]:
        causes.append("its files have other names")
    return causes


def _scalar(value: Any) -> Any:
    """Return a value that JSON and people can show in one cell: lists and tables as text."""
    return value if value is None or isinstance(value, str | int | float | bool) else _word(value)


def _word(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(str(part) for part in value) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{name} = {part}" for name, part in value.items()) or "none"
    return "none" if value is None else str(value)
