"""What a plan says, arranged for people: coverage, calibration of each group of lights, results, unused files.

Nothing is decided here: every value is taken from the plan, so that the terminal and the page show the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import PurePath
from typing import Literal

from wbpy.model import Candidate, Finding, Frame, Group, Match, Plan, Severity, Step, reason_text

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")

State = Literal["exact", "pinned", "unverified", "compromise", "missing"]
"""How well a master serves: by the first rung; decided by hand; with values that a side does not say; by a lower rung;
not at all."""

ROLE_WORDS = {"light": "light", "dark": "dark", "flat": "flat", "bias": "bias", "flat_dark": "flat-dark"}


@dataclass(frozen=True)
class Serving:
    """One master as it serves one group, or the lack of it."""

    role: str
    match: Match
    group: Group | None
    """The calibration group or the finished master that serves; None when none does."""
    state: State
    temperature: float | None
    """Master less subject, degC."""
    exposure: float | None
    """Master less subject, s."""
    age: int | None
    """Nights from the master's last frame to the subject's first one; below 0 when the master is younger."""
    unverified: tuple[str, ...]
    """Fields that one or both sides do not say."""
    refused: tuple[Candidate, ...]
    """Candidates that failed a requirement, nearest miss first."""
    passed_over: tuple[Candidate, ...]
    """Candidates that would serve as well but rank lower."""
    offset: Serving | None = None
    """For a flat: what takes its offset off."""

    @property
    def words(self) -> str:
        """The role as a word."""
        return ROLE_WORDS[self.role]


@dataclass(frozen=True)
class Calibration:
    """How one group of lights is calibrated."""

    group: Group
    dark: Serving | None
    bias: Serving | None
    flat: Serving | None
    step: Step | None
    results: tuple[str, ...]
    """Names of the integrations that the lights go into."""

    @property
    def scaled(self) -> Literal["measured", "exposure"] | None:
        """How the dark signal is scaled: by what each light shows of it, by the exposures, or not at all."""
        if self.step is None or any(one is None or one.group is None for one in (self.dark, self.bias)):
            return None
        params = self.step.params
        if "optimize_dark" in params and params["optimize_dark"].value:
            return "measured"
        return "exposure" if "scale_dark" in params and params["scale_dark"].value else None

    @property
    def operations(self) -> tuple[tuple[str, Serving], ...]:
        """What is done to the lights, in order: ``-`` and ``/`` with what serves, which may be nothing."""
        subtracted = [one for one in (self.dark, self.bias) if one is not None]
        if self.scaled and self.bias is not None and self.dark is not None:
            taken = [("-", self.bias), ("-k", self.dark)]
        else:
            present = [one for one in subtracted if one.group is not None]
            taken = [("-", one) for one in (present or subtracted)[:1]]
        return (*taken, *([("/", self.flat)] if self.flat is not None else ()))

    @property
    def served(self) -> dict[str, Serving]:
        """Symbol of the formula -> what serves: B, D, F and O, the offset of the flats."""
        found = {SYMBOLS[one.role]: one for _, one in self.operations if one.group is not None}
        offset = found["F"].offset if "F" in found else None
        return found | ({"O": offset} if offset is not None and offset.group is not None else {})

    @property
    def servings(self) -> tuple[Serving, ...]:
        """Dark, bias and flat, those that the rules looked for."""
        return tuple(one for one in (self.dark, self.bias, self.flat) if one is not None)

    @property
    def formula(self) -> str:
        """What is computed for each pixel, in plain characters: ``(L - D) / F x s``."""
        served = self.served
        if self.scaled:
            top = "L - B - k (D - B)"
        else:
            top = next((f"L - {symbol}" for symbol in ("D", "B") if symbol in served), "L")
        if "F" not in served:
            return top
        return f"{top} / F x s" if top == "L" else f"({top}) / F x s"

    @property
    def state(self) -> State:
        """The worst state of what serves; a bias instead of a dark is a compromise."""
        states: list[State] = [one.state for _, one in self.operations]
        if self.flat is not None and self.flat.offset is not None:
            states.append(self.flat.offset.state)
        if self.dark is not None and self.dark.group is None and "B" in self.served:
            states.append("compromise")
        return max(states, key=_WORSE.index, default="missing")

    @property
    def remark(self) -> str:
        """The state in a word or two; of what is missing, its name."""
        missing = [one.words for _, one in self.operations if one.state == "missing"]
        return f"no {' and no '.join(missing)}" if missing else self.state


_WORSE: tuple[State, ...] = ("exact", "pinned", "unverified", "compromise", "missing")

SYMBOLS = {"dark": "D", "bias": "B", "flat": "F"}


@dataclass(frozen=True)
class CoverageRow:
    """Lights of one night, filter and exposure, and what serves them."""

    night: str | None
    filter: str
    exposure: float | None
    frames: int
    calibration: Calibration


@dataclass(frozen=True)
class Result:
    """One integration."""

    step: Step
    group: Group
    name: str
    frames: int
    exposure_total: float | None
    nights: int
    calibrations: int
    """Groups of lights with calibrations of their own that go into it."""


@dataclass(frozen=True)
class Unused:
    """Files that take no part for one reason."""

    what: str
    """What they are: the role, or ``file`` where nothing says it."""
    paths: tuple[str, ...]
    reason: str
    finding: str | None
    severity: Severity
    group: str | None = None


@dataclass(frozen=True)
class Bundle:
    """Findings with one id and one remedy."""

    id: str
    severity: Severity
    remedy: str
    guide: str | None
    members: tuple[Finding, ...]


def bundles(findings: Iterable[Finding]) -> list[Bundle]:
    """Return findings, errors first, those with one id and one remedy together."""
    found: dict[tuple[int, str, str], list[Finding]] = defaultdict(list)
    for finding in findings:
        found[SEVERITIES.index(finding.severity), finding.id, finding.remedy].append(finding)
    return [
        Bundle(id, SEVERITIES[rank], remedy, members[0].guide, tuple(members))
        for (rank, id, remedy), members in sorted(found.items(), key=lambda item: item[0][:2])
    ]


class PlanView:
    """A plan arranged for people.

    Parameters
    ----------
    plan : Plan
        What is to be shown.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.frames: Mapping[str, Frame] = {frame.path: frame for frame in plan.frames}
        self.groups: Mapping[str, Group] = {group.id: group for group in plan.groups}
        self._matches: dict[str, dict[str, Match]] = defaultdict(dict)
        for match in plan.matches:
            self._matches[match.subject][match.role] = match

    @cached_property
    def calibrations(self) -> list[Calibration]:
        """How each group of lights is calibrated, by target, filter, exposure and night."""
        steps = {step.group: step for step in self.plan.steps if step.stage == "calibrate"}
        results: dict[str, list[str]] = defaultdict(list)
        for result in self.results:
            for path in result.group.frames:
                if result.name not in results[path]:
                    results[path].append(result.name)
        found = []
        for group in self.plan.groups:
            if group.kind != "calibration" or group.role != "light":
                continue
            names = dict.fromkeys(name for path in group.frames for name in results.get(path, ()))
            served = {role: self._serving(group, role) for role in ("dark", "bias", "flat")}
            found.append(Calibration(group=group, step=steps.get(group.id), results=tuple(names), **served))
        return sorted(found, key=lambda one: (*_order(one.group), one.group.id))

    @cached_property
    def coverage(self) -> list[CoverageRow]:
        """Every night, filter and exposure of the lights with the masters that serve it."""
        rows = []
        for calibration in self.calibrations:
            cells: dict[tuple[str | None, float | None], int] = defaultdict(int)
            for path in calibration.group.frames:
                frame = self.frames.get(path)
                if frame is not None:
                    cells[frame.night, _rounded(calibration.group.key.get("exposure"), frame.exposure)] += 1
            rows += [
                CoverageRow(night, filter_of(calibration.group), exposure, number, calibration)
                for (night, exposure), number in cells.items()
            ]
        return sorted(
            rows, key=lambda row: (row.night or "", row.filter, row.exposure or 0.0, row.calibration.group.id)
        )

    @cached_property
    def results(self) -> list[Result]:
        """The integrations in the order in which they are made."""
        home = {
            path: group.id
            for group in self.plan.groups
            if group.kind == "calibration" and group.role == "light"
            for path in group.frames
        }
        found = []
        for step in self.plan.steps:
            if step.stage != "integrate" or step.group not in self.groups:
                continue
            group = self.groups[step.group]
            paths = step.frames or group.frames
            frames = [self.frames[path] for path in paths if path in self.frames]
            exposures = [frame.exposure for frame in frames]
            known = [exposure for exposure in exposures if exposure is not None]
            product = next((artifact.path for artifact in step.outputs if artifact.kind == "integration"), None)
            found.append(
                Result(
                    step=step,
                    group=group,
                    name=PurePath(product).stem if product else group.id,
                    frames=len(paths),
                    exposure_total=sum(known) if known and len(known) == len(exposures) else None,
                    nights=len({frame.night for frame in frames}),
                    calibrations=len({home[path] for path in paths if path in home}),
                )
            )
        return found

    @cached_property
    def unused(self) -> list[Unused]:
        """Files that take no part: held back, or calibration frames that serve nothing; errors first."""
        about: dict[tuple[str, str], Finding] = {(one.id, one.subject): one for one in self.plan.findings}
        titles: dict[str, Finding] = {}
        for finding in self.plan.findings:
            titles.setdefault(finding.id, finding)
        held: dict[tuple[str, str], list[str]] = defaultdict(list)
        for one in self.plan.held_back:
            told = about.get((one.finding, one.path))
            held[one.finding, "" if told is None else _without_name(told)].append(one.path)
        found = []
        for (id, message), paths in held.items():
            known = titles.get(id)
            found.append(Unused("file", tuple(paths), message, id, "info" if known is None else known.severity))
        used = {step.group for step in self.plan.steps} | {
            source for step in self.plan.steps for sources in step.inputs.values() for source in sources
        }
        for group in self.plan.groups:
            if group.kind == "calibration" and group.id not in used:
                raised = next((f for f in self.plan.findings if f.subject == group.id), None)
                words = ROLE_WORDS[group.role]
                found.append(
                    Unused(
                        f"master {words}" if group.is_master else words,
                        group.frames,
                        self._why_unused(group),
                        None if raised is None else raised.id,
                        "info",
                        group.id,
                    )
                )
        return sorted(found, key=lambda one: (SEVERITIES.index(one.severity), one.finding or "", one.group or ""))

    @cached_property
    def _candidacies(self) -> Mapping[str, list[tuple[Match, Candidate]]]:
        """Group id -> the matches for which it was considered."""
        found: dict[str, list[tuple[Match, Candidate]]] = defaultdict(list)
        for match in self.plan.matches:
            for candidate in match.candidates:
                found[candidate.id].append((match, candidate))
        return found

    def nights_of(self, group: Group) -> list[str]:
        """Return the nights of a group's frames, oldest first."""
        nights = (self.frames[path].night for path in group.frames if path in self.frames)
        return sorted({night for night in nights if night is not None})

    def _serving(self, subject: Group, role: str) -> Serving | None:
        match = self._matches.get(subject.id, {}).get(role)
        if match is None:
            return None
        group = None if match.chosen is None else self.groups.get(match.chosen)
        chosen = next((one for one in match.candidates if one.verdict == "chosen"), None)
        unverified = [] if chosen is None else [r.field for r in chosen.reasons if r.verdict == "unverified"]
        state: State
        if group is None:
            state = "missing"
        elif match.rule == "pin":
            state = "pinned"
        elif not match.rule.endswith(".exact"):
            state = "compromise"
        else:
            state = "unverified" if unverified else "exact"
        offset = None
        if role == "flat" and group is not None and not group.is_master:
            options = [self._serving(group, name) for name in ("flat_dark", "bias")]
            looked_for = [one for one in options if one is not None]
            offset = next((one for one in looked_for if one.group is not None), looked_for[0] if looked_for else None)
        return Serving(
            role=role,
            match=match,
            group=group,
            state=state,
            temperature=_difference(group, subject, "temperature"),
            exposure=_difference(group, subject, "exposure") if role in ("dark", "flat_dark") else None,
            age=self._age(group, subject),
            unverified=tuple(dict.fromkeys(unverified)),
            refused=tuple(one for one in match.candidates if one.verdict == "rejected"),
            passed_over=tuple(one for one in match.candidates if one.verdict == "eligible"),
            offset=offset,
        )

    def _age(self, group: Group | None, subject: Group) -> int | None:
        ours, theirs = self.nights_of(subject), [] if group is None else self.nights_of(group)
        if not ours or not theirs:
            return None
        try:
            first, last = date.fromisoformat(ours[0]), date.fromisoformat(theirs[-1])
            latest, earliest = date.fromisoformat(ours[-1]), date.fromisoformat(theirs[0])
        except ValueError:
            return None
        if earliest > latest:
            return -(earliest - latest).days
        return max(0, (first - last).days)

    def _why_unused(self, group: Group) -> str:
        """Return why a group serves nothing: the match that it came nearest to."""
        misses: list[tuple[int, str]] = []
        for match, candidate in self._candidacies.get(group.id, ()):
            if candidate.verdict == "eligible" and match.chosen is not None:
                misses.append((0, f"{match.chosen} serves {match.subject} better"))
            elif candidate.verdict == "rejected":
                failed = failures(candidate)
                misses.append((len(failed), f"for {match.subject}: {'; '.join(failed[:3])}"))
        if not misses:
            return f"nothing in this plan needs a {ROLE_WORDS[group.role]} like this"
        return min(misses)[1]


TELLING = ("camera", "gain", "iso", "offset", "filter", "read_mode")
"""Fields that are named first where many are equal."""


def failures(candidate: Candidate) -> list[str]:
    """Return the requirements that a candidate failed, as words, each once."""
    return list(dict.fromkeys(reason_text(reason) for reason in candidate.reasons if reason.verdict == "fail"))


def differences(candidate: Candidate) -> tuple[list[str], list[str]]:
    """Return what differs or is unknown about a candidate as words, and the fields that are simply equal.

    Of the equal ones those come first that decide most often.
    """
    told = [reason for reason in candidate.reasons if reason.verdict != "pass" or reason.operator != "equal"]
    words = (f"{reason_text(r)}{' (unverified)' if r.verdict == 'unverified' else ''}" for r in told)
    equal = {reason.field for reason in candidate.reasons if reason not in told}
    return list(dict.fromkeys(words)), sorted(
        equal, key=lambda field: (TELLING.index(field) if field in TELLING else len(TELLING), field)
    )


def filter_of(group: Group) -> str:
    """Return the filter of a group of lights or flats; ``OSC`` and ``no filter`` where the header names none."""
    name = group.key.get("filter")
    if name is not None:
        return str(name)
    return "OSC" if group.key.get("cfa") is not None else "no filter"


def target_of(group: Group) -> str:
    """Return the target of a group of lights."""
    return str(group.key.get("target") or group.key.get("object") or "unnamed target")


def _order(group: Group) -> tuple[str, str, float, str]:
    exposure = group.key.get("exposure")
    number = float(exposure) if isinstance(exposure, int | float) else 0.0
    return target_of(group).casefold(), filter_of(group), number, str(group.key.get("night") or "")


def _difference(group: Group | None, subject: Group, field: str) -> float | None:
    ours, theirs = subject.key.get(field), None if group is None else group.key.get(field)
    if isinstance(ours, int | float) and isinstance(theirs, int | float):
        return float(theirs) - float(ours)
    return None


def _rounded(of_group: object, of_frame: float | None) -> float | None:
    """Return the exposure of a frame's row: that of the group, which holds small differences together."""
    return float(of_group) if isinstance(of_group, int | float) else of_frame


def _without_name(finding: Finding) -> str:
    """Return a finding's message without the file's name, so that files with one reason stand together."""
    name = PurePath(finding.subject).name
    message = finding.message
    for start in (f"{name}: ", f"{name} "):
        if message.startswith(start):
            return message[len(start) :]
    return message.replace(name, "the file")


def files_text(paths: Sequence[str], shown: int = 4) -> str:
    """Return the names of files, the first ones and the last where there are many."""
    names = [PurePath(path).name for path in paths]
    if len(names) <= shown:
        return ", ".join(names)
    return f"{', '.join(names[: shown - 1])} … {names[-1]}"
