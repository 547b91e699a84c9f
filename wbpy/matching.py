"""Decide which master serves which group, and keep the reasons.

``rules/matches.toml`` holds one ladder for each pair of roles. Its rungs are tried in file order; the first rung
with a candidate that satisfies every requirement decides. A rung without candidates decides for none.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import NamedTuple

import msgspec

from wbpy.config import MatchSettings
from wbpy.findings import make_finding
from wbpy.model import Candidate, Finding, Group, MasterRole, Match, Reason, Scalar, reason_text
from wbpy.rules import MatchRule, Preference, Requirement, Rules, Unknown

CANDIDATES_KEPT = 12
"""Eligible and refused candidates that a match keeps, of each the best: a library holds hundreds."""

DARK_ROLES = ("dark", "flat_dark")
"""Roles whose tolerances the settings replace: those that carry dark current."""

INCOMPARABLE = 1000.0
"""Tolerances by which a value misses that has no distance, such as another gain: farther than any that has."""

ROUNDING = 1e-9
"""Relative slack of numeric comparisons, so that 300.3 - 300 counts as 0.3."""


def _difference(a: Scalar, b: Scalar) -> float:
    """Return candidate minus subject as a number; days for dates; NaN where there is no such thing."""
    if isinstance(a, bool) or isinstance(b, bool):
        return math.nan
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return float(b) - float(a)
    if isinstance(a, str) and isinstance(b, str):
        try:
            return float((date.fromisoformat(b) - date.fromisoformat(a)).days)
        except ValueError:
            return math.nan
    return math.nan


def _below(value: float, limit: float) -> bool:
    return value <= limit + ROUNDING * max(1.0, abs(limit))


def _turn(a: Scalar, b: Scalar) -> float:
    return abs((_difference(a, b) + 180.0) % 360.0 - 180.0)


OPERATORS: dict[str, Callable[[Scalar, Scalar, float], bool]] = {
    "equal": lambda a, b, _: a == b,
    "within": lambda a, b, tolerance: _below(abs(_difference(a, b)), tolerance),
    "not_above": lambda a, b, tolerance: _below(_difference(a, b), tolerance),
    "angle_within": lambda a, b, tolerance: _below(_turn(a, b), tolerance),
    "fixed": lambda a, b, _: a == b,
}
"""The closed set of operators: (subject's value, candidate's value, tolerance) -> satisfied.

For ``fixed`` the value asked for takes the place of the subject's. Both values are known here."""


class _Judged(NamedTuple):
    """A requirement applied to two values."""

    requirement: Requirement
    rule: str
    wanted: Scalar
    candidate: Scalar
    policy: Unknown | None
    """What the rule says about the unknown value, None when both are known."""
    miss: float
    """How far beyond the tolerance, in tolerances; 0 when satisfied."""

    @property
    def reason(self) -> Reason:
        return Reason(
            rule=self.rule,
            field=self.requirement.field,
            subject_value=self.wanted,
            candidate_value=self.candidate,
            operator=self.requirement.operator,
            tolerance=_tolerance(self.requirement, self.wanted),
            verdict="fail" if self.miss else "unverified" if self.policy else "pass",
        )


def judge(requirement: Requirement, rule: str, subject: Scalar, candidate: Scalar) -> Reason:
    """Return the verdict of one requirement on two values.

    Parameters
    ----------
    requirement : Requirement
        Operator, tolerance and what an unknown value means.
    rule : str
        Id of the rung, for the reason.
    subject, candidate : scalar or None
        Values of the group that is served and of the one that might serve; None is unknown.
    """
    return _judge(requirement, rule, subject, candidate).reason


def _judge(requirement: Requirement, rule: str, subject: Scalar, candidate: Scalar) -> _Judged:
    wanted = requirement.value if requirement.operator == "fixed" else subject
    policy: Unknown | None = None
    miss = 0.0
    if wanted is None or candidate is None:
        both = wanted is None and candidate is None
        answer = (requirement.both_unknown if both else None) or requirement.unknown
        if answer != "equal":
            policy = answer
        if policy == "reject":
            miss = 1.0
    elif not OPERATORS[requirement.operator](wanted, candidate, tolerance := _tolerance(requirement, wanted) or 0.0):
        apart = _turn(wanted, candidate) if requirement.operator == "angle_within" else _difference(wanted, candidate)
        miss = abs(apart) / tolerance if tolerance and math.isfinite(apart) else INCOMPARABLE
    return _Judged(requirement, rule, wanted, candidate, policy, miss)


def _tolerance(requirement: Requirement, subject: Scalar) -> float | None:
    if requirement.operator in ("equal", "fixed"):
        return None
    relative = requirement.relative * abs(subject) if isinstance(subject, (int, float)) else 0.0
    return max(requirement.absolute, relative)


def match_masters(
    groups: Sequence[Group], rules: Rules, settings: MatchSettings
) -> tuple[tuple[Match, ...], tuple[Finding, ...]]:
    """Return which master plays which role for every raw group that needs one, and what was found on the way.

    Parameters
    ----------
    groups : sequence of Group
        All groups; registration and integration groups are passed over.
    rules : Rules
        ``matches`` is the ladder.
    settings : MatchSettings
        Tolerances that replace the rules' for darks and flat-darks.

    Returns
    -------
    matches : tuple of Match
        One for each subject and role for which there is a ladder, in the order of `groups` and of the ladder.
        Candidates: the chosen one, the eligible ones by preference, the refused ones, nearest miss first; at most
        `CANDIDATES_KEPT` beside the chosen one of either kind.
    findings : tuple of Finding
        Everything that is not an exact match.
    """
    calibration = [group for group in groups if group.kind == "calibration"]
    ladders = _ladders(rules, settings)
    by_role: dict[str, list[Group]] = defaultdict(list)
    for group in calibration:
        by_role[group.role].append(group)
    matches: dict[str, list[Match]] = defaultdict(list)
    findings: dict[str, list[Finding]] = defaultdict(list)
    served = {group.id: True for group in calibration if group.is_master}
    # Flats first: whether a flat has its own offset frames decides whether it may serve a light.
    for group in sorted(calibration, key=lambda g: g.role == "light"):
        chosen: set[str] = set()
        for (subject, role), ladder in ladders.items():
            if subject != group.role or group.is_master:
                continue
            match, found = _climb(group, role, ladder, chosen, by_role, served, rules)
            findings[group.id] += found
            if match is not None:
                matches[group.id].append(match)
                if match.chosen is not None:
                    chosen.add(role)
                    served[group.id] = True
    ordered = tuple(match for group in calibration for match in matches[group.id])
    return ordered, tuple(finding for group in calibration for finding in findings[group.id])


@dataclass(frozen=True)
class _Rung:
    """A rung as the rules have it, and with the tolerances of the settings."""

    asked: MatchRule
    ruled: MatchRule


def _ladders(rules: Rules, settings: MatchSettings) -> dict[tuple[str, MasterRole], list[_Rung]]:
    """Return the rungs by (subject, role); those that decide for none come last, so that a user's rungs count."""
    ladders: dict[tuple[str, MasterRole], list[_Rung]] = defaultdict(list)
    for rule in sorted(rules.matches, key=lambda r: not r.candidates and not r.when_chosen):
        ladders[rule.subject, rule.role].append(_Rung(_with_settings(rule, settings), rule))
    order = list(dict.fromkeys((rule.subject, rule.role) for rule in rules.matches))
    return {pair: ladders[pair] for pair in order}


def _with_settings(rule: MatchRule, settings: MatchSettings) -> MatchRule:
    if rule.role not in DARK_ROLES:
        return rule
    limits = {"exposure": settings.exposure, "temperature": settings.temperature}
    require = tuple(
        msgspec.structs.replace(r, absolute=limit, relative=0.0)
        if r.operator == "within" and (limit := limits.get(r.field)) is not None
        else r
        for r in rule.require
    )
    return msgspec.structs.replace(rule, require=require)


@dataclass(frozen=True)
class _Assessed:
    """A candidate judged by one rung."""

    group: Group
    judged: tuple[_Judged, ...]
    failures: int
    miss: float

    @property
    def reasons(self) -> tuple[Reason, ...]:
        return tuple(j.reason for j in self.judged)


def _assess(rule: MatchRule, subject: Group, candidate: Group, served: Mapping[str, bool]) -> _Assessed:
    judged = tuple(
        _judge(
            r,
            rule.id,
            subject.key.get(r.field),
            served.get(candidate.id, False) if r.field == "calibrated" else candidate.key.get(r.field),
        )
        for r in rule.require
    )
    misses = [j.miss for j in judged if j.miss]
    return _Assessed(candidate, judged, len(misses), sum(misses))


def _climb(
    subject: Group,
    role: MasterRole,
    ladder: Sequence[_Rung],
    earlier: set[str],
    by_role: Mapping[str, Sequence[Group]],
    served: Mapping[str, bool],
    rules: Rules,
) -> tuple[Match | None, list[Finding]]:
    """Return the match of one subject and role, None when a rung says that it is not needed."""
    nearest: dict[str, _Assessed] = {}
    for rung in ladder:
        rule = rung.asked
        if rule.when_chosen and not earlier.intersection(rule.when_chosen):
            continue
        if not rule.candidates:
            if rule.when_chosen:
                return None, []
            refused = _nearest_misses(nearest.values())
            return _match(subject, role, rule.id, {}, (), refused), _none_findings(rules, rule, subject, refused)
        assessed = [
            _assess(rule, subject, group, served) for kind in rule.candidates for group in by_role.get(kind, ())
        ]
        good = [a for a in assessed if a.failures == 0]
        if good:
            good.sort(key=lambda a: (*(_preference(p, subject, a.group) for p in rule.prefer), a.group.id))
            # Of those that lost, the reasons under the rung that decided count, also where an earlier one came nearer.
            nearest |= {a.group.id: a for a in assessed}
            for a in good:
                del nearest[a.group.id]
            match = _match(subject, role, rule.id, rule.sets, good, _nearest_misses(nearest.values()))
            return match, _chosen_findings(rules, rung, subject, good[0])
        for a in assessed:
            best = nearest.get(a.group.id)
            if best is None or (a.failures, a.miss) < (best.failures, best.miss):
                nearest[a.group.id] = a
    return _match(subject, role, "none", {}, (), _nearest_misses(nearest.values())), []


def _nearest_misses(assessed: Iterable[_Assessed]) -> list[_Assessed]:
    return sorted(assessed, key=lambda a: (a.failures, a.miss, a.group.id))[:CANDIDATES_KEPT]


def _match(
    subject: Group,
    role: MasterRole,
    rule: str,
    sets: Mapping[str, Scalar],
    good: Sequence[_Assessed],
    refused: Sequence[_Assessed],
) -> Match:
    candidates = [
        Candidate(id=a.group.id, rank=rank, verdict="chosen" if rank == 1 else "eligible", reasons=a.reasons)
        for rank, a in enumerate(good[: CANDIDATES_KEPT + 1], 1)
    ]
    candidates += [Candidate(id=a.group.id, rank=None, verdict="rejected", reasons=a.reasons) for a in refused]
    return Match(
        subject=subject.id,
        role=role,
        chosen=good[0].group.id if good else None,
        rule=rule,
        sets=dict(sets),
        candidates=tuple(candidates),
    )


def _preference(preference: Preference, subject: Group, candidate: Group) -> float:
    """Return a number that is smaller for the better candidate."""
    ours, theirs = subject.key.get(preference.field), candidate.key.get(preference.field)
    match preference.by:
        case "nearest":
            apart = abs(_turn(ours, theirs) if preference.field == "rotator" else _difference(ours, theirs))
            return apart if math.isfinite(apart) else math.inf
        case "same":
            return float(ours is None or ours != theirs)
        case "most_frames":
            return -float(_frame_count(candidate))
        case "master_first":
            return float(not candidate.is_master)
        case "raw_first":
            return float(candidate.is_master)
        case "newest":
            night = candidate.key.get("night")
            return -float(date.fromisoformat(night).toordinal()) if isinstance(night, str) else 0.0


def _frame_count(group: Group) -> int:
    """Return how many exposures stand behind a group; a master that does not say counts as one."""
    count = group.key.get("stack_count") if group.is_master else len(group.frames)
    return int(count) if isinstance(count, (int, float)) else 1


UNITS = {"exposure": "s", "temperature": "degc", "rotator": "deg", "night": "days"}


def _chosen_findings(rules: Rules, rung: _Rung, subject: Group, chosen: _Assessed) -> list[Finding]:
    """Return what a user should know about a choice: a rung below exact, unknown values, widened tolerances."""
    found = []
    evidence = _evidence(subject, chosen, rung.ruled.role)
    if rung.ruled.finding:
        found.append(make_finding(rules, rung.ruled.finding, subject.id, **evidence))
    unknown = [j.reason.field for j in chosen.judged if j.policy == "warn"]
    if unknown:
        found.append(
            make_finding(rules, "MAT004", subject.id, **evidence, unverified=", ".join(dict.fromkeys(unknown)))
        )
    for asked, ruled in zip(chosen.judged, rung.ruled.require, strict=True):
        reason = asked.reason
        strict = judge(ruled, rung.ruled.id, reason.subject_value, reason.candidate_value)
        if asked.miss == 0 and strict.verdict == "fail":
            found.append(
                make_finding(
                    rules,
                    "MAT010",
                    subject.id,
                    **evidence,
                    field=reason.field,
                    needed=reason.subject_value,
                    found=reason.candidate_value,
                    tolerance=strict.tolerance,
                    configured=reason.tolerance,
                )
            )
    return found


def _evidence(subject: Group, chosen: _Assessed, role: str) -> dict[str, Scalar]:
    """Return the values of both sides for all numeric requirements, with their units in the names."""
    evidence: dict[str, Scalar] = {"role": role.replace("_", "-"), "chosen": chosen.group.id}
    for name in dict.fromkeys(j.reason.field for j in chosen.judged):
        if name not in UNITS:
            continue
        ours, theirs = subject.key.get(name), chosen.group.key.get(name)
        unit = "" if name == "night" else f"_{UNITS[name]}"
        evidence[f"{name}_subject{unit}"], evidence[f"{name}_chosen{unit}"] = ours, theirs
        apart = _turn(ours, theirs) if name == "rotator" else abs(_difference(ours, theirs))
        evidence[f"{name}_difference_{UNITS[name]}"] = round(apart, 6) if math.isfinite(apart) else None
    return evidence


def _none_findings(rules: Rules, rule: MatchRule, subject: Group, refused: Sequence[_Assessed]) -> list[Finding]:
    if rule.finding is None:
        return []
    nearest = refused[0] if refused else None
    role = rule.role.replace("_", "-")
    because = f"there is no {role} at all"
    if nearest is not None:
        failed = "; ".join(reason_text(r) for r in nearest.reasons if r.verdict == "fail")
        because = f"the nearest candidate is {nearest.group.id}: {failed}"
    evidence = {"role": role, "nearest": nearest.group.id if nearest else None, "because": because}
    return [make_finding(rules, rule.finding, subject.id, **evidence)]
