"""Decide which master serves which group, and keep the reasons.

``rules/matches.toml`` holds one ladder for each pair of roles. Its rungs are tried in file order; the first rung
with a candidate that satisfies every requirement decides. A rung without candidates decides for none. What the user
pins by hand wins over the ladder, unless it breaks what must be equal.
"""

from __future__ import annotations

import fnmatch
import functools
import math
import os
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import NamedTuple, get_args

import msgspec

from wbpy.config import MatchSettings, PinSettings
from wbpy.errors import ConfigError
from wbpy.findings import make_finding
from wbpy.hints import DARK_ROLES, HARD_OPERATORS, IMPOSSIBLE, hint, is_hard, tells_apart
from wbpy.model import Candidate, Finding, Group, MasterRole, Match, Reason, Scalar, reason_text
from wbpy.rules import MatchRule, Preference, Requirement, Rules, Unknown

CANDIDATES_KEPT = 6
"""Eligible and refused candidates that a match keeps, of each the best: a library holds hundreds, and a plan of many
nights thousands of matches."""

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
        return _ordinal(b) - _ordinal(a)
    return math.nan


@functools.lru_cache(maxsize=4096)
def _ordinal(day: str) -> float:
    """Return the number of a day; NaN for a text that is no date."""
    try:
        return float(date.fromisoformat(day).toordinal())
    except ValueError:
        return math.nan


def _below(value: float, limit: float) -> bool:
    return value <= limit + ROUNDING * max(1.0, abs(limit))


def _turn(a: Scalar, b: Scalar, period: float = 360.0) -> float:
    return abs((_difference(a, b) + period / 2) % period - period / 2)


OPERATORS: dict[str, Callable[[Scalar, Scalar, float, Requirement], bool]] = {
    "equal": lambda a, b, _, __: a == b,
    "within": lambda a, b, tolerance, _: _below(abs(_difference(a, b)), tolerance),
    "not_above": lambda a, b, tolerance, _: _below(_difference(a, b), tolerance),
    "not_below": lambda a, b, tolerance, _: _below(-_difference(a, b), tolerance),
    "angle_within": lambda a, b, tolerance, asked: _below(_turn(a, b, asked.period), tolerance),
    "fixed": lambda a, b, _, __: a == b,
    "without": lambda a, b, _, __: a not in str(b).split(),
}
"""The closed set of operators: (subject's value, candidate's value, tolerance, requirement) -> satisfied.

For ``fixed`` and ``without`` the value that the rule names takes the place of the subject's; for ``without`` the words
of both sides take the place of the candidate's. Both values are known here."""


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
    wanted = requirement.value if requirement.operator in ("fixed", "without") else subject
    policy: Unknown | None = None
    miss = 0.0
    if requirement.operator == "without":
        candidate = " ".join(dict.fromkeys(f"{subject or ''} {candidate or ''}".split()))
    if wanted is None or candidate is None:
        both = wanted is None and candidate is None
        answer = (requirement.both_unknown if both else None) or requirement.unknown
        if answer != "equal":
            policy = answer
        if policy == "reject":
            miss = 1.0
    elif not OPERATORS[requirement.operator](
        wanted, candidate, tolerance := _tolerance(requirement, wanted) or 0.0, requirement
    ):
        apart = (
            _turn(wanted, candidate, requirement.period)
            if requirement.operator == "angle_within"
            else _difference(wanted, candidate)
        )
        miss = abs(apart) / tolerance if tolerance and math.isfinite(apart) else INCOMPARABLE
    return _Judged(requirement, rule, wanted, candidate, policy, miss)


def _tolerance(requirement: Requirement, subject: Scalar) -> float | None:
    if requirement.operator in HARD_OPERATORS:
        return None
    relative = requirement.relative * abs(subject) if isinstance(subject, (int, float)) else 0.0
    return max(requirement.absolute, relative)


def match_masters(
    groups: Sequence[Group],
    rules: Rules,
    settings: MatchSettings,
    *,
    by: Mapping[str, Sequence[str]] | None = None,
    pins: PinSettings | None = None,
    parameters: Collection[str] = (),
) -> tuple[tuple[Match, ...], tuple[Finding, ...]]:
    """Return which master plays which role for every raw group that needs one, and what was found on the way.

    Parameters
    ----------
    groups : sequence of Group
        All groups; registration and integration groups are passed over.
    rules : Rules
        ``matches`` is the ladder.
    settings : MatchSettings
        Tolerances that replace the rules' for darks and flat-darks, and what else may be chosen.
    by : mapping of str to sequence of str, optional
        ``calibration`` or a role -> fields and keywords that split its groups: a master that says another value than
        the group that it is to serve is refused.
    pins : PinSettings, optional
        What the user decided.
    parameters : collection of str
        ``stage.parameter`` of all stages: rungs that need one that is not here do not count.

    Returns
    -------
    matches : tuple of Match
        One for each subject and role for which there is a ladder, in the order of `groups` and of the ladder.
        Candidates: the chosen one, the eligible ones by preference, the refused ones, nearest miss first; at most
        `CANDIDATES_KEPT` beside the chosen one of either kind.
    findings : tuple of Finding
        Everything that is not an exact match.

    Raises
    ------
    ConfigError
        If a pin names nothing, or breaks what must be equal without being forced.
    """
    return _Matcher(groups, rules, settings, by or {}, pins or PinSettings(), parameters).match()


@dataclass(frozen=True)
class _Rung:
    """A rung as the rules have it, and with the tolerances of the settings."""

    asked: MatchRule
    ruled: MatchRule

    @functools.cached_property
    def exact(self) -> tuple[Requirement, ...]:
        """The requirements that depend on values of a bucket alone."""
        return tuple(r for r in self.asked.require if r.operator == "equal")

    @functools.cached_property
    def near(self) -> tuple[Requirement, ...]:
        """The other requirements."""
        return tuple(r for r in self.asked.require if r.operator != "equal")


Ladder = tuple[str, MasterRole]
"""Role of the subject, role of the master."""


def _ladders(
    rules: Rules, settings: MatchSettings, by: Mapping[str, Sequence[str]], parameters: Collection[str]
) -> dict[Ladder, list[_Rung]]:
    """Return the rungs by (subject, role); those that decide for none come last, so that a user's rungs count."""
    ladders: dict[Ladder, list[_Rung]] = defaultdict(list)
    for rule in sorted(rules.matches, key=lambda r: not r.candidates and not r.when_chosen):
        if rule.needs_parameter is not None and (rule.needs_parameter not in parameters or not settings.scale_darks):
            continue
        ruled = _with_keys(rule, dict.fromkeys((*by.get("calibration", ()), *by.get(rule.role, ()))), settings)
        ladders[rule.subject, rule.role].append(_Rung(_with_settings(ruled, settings), ruled))
    order = list(dict.fromkeys((rule.subject, rule.role) for rule in rules.matches))
    return {pair: ladders[pair] for pair in order}


def _with_keys(rule: MatchRule, names: Iterable[str], settings: MatchSettings) -> MatchRule:
    """Return a rung that also asks for the user's keys and follows the wish for raw frames or finished masters."""
    if not rule.candidates:
        return rule
    require = [Requirement(field=name, operator="equal", unknown="accept", both_unknown="equal") for name in names]
    prefer = [Preference(by="same", field=name) for name in names]
    if settings.prefer != "auto":
        prefer.insert(0, Preference(by="master_first" if settings.prefer == "library" else "raw_first"))
    return msgspec.structs.replace(rule, require=(*rule.require, *require), prefer=(*prefer, *rule.prefer))


def _with_settings(rule: MatchRule, settings: MatchSettings) -> MatchRule:
    if rule.role not in DARK_ROLES or rule.needs_parameter is not None:
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

    @property
    def reasons(self) -> tuple[Reason, ...]:
        return tuple(j.reason for j in self.judged)

    @property
    def telling_reasons(self) -> tuple[Reason, ...]:
        """Those that fail, are not verified, or stand between values that differ."""
        reasons = (j.reason for j in self.judged)
        return tuple(r for r in reasons if r.verdict != "pass" or tells_apart(r))


Score = tuple[int, float, str]
"""How far a candidate misses: failed requirements, tolerances, id."""


@dataclass(frozen=True)
class _Answer:
    """What a ladder says to all subjects of equal values."""

    rung: _Rung | None
    """None when the ladder ends without a decision."""
    good: tuple[_Assessed, ...]
    refused: tuple[_Assessed, ...]
    needed: bool = True
    """False when a rung says that no master is needed."""


class _Buckets:
    """Candidates of one role, put together where all that must be equal is equal."""

    def __init__(self, groups: Sequence[Group], fields: Sequence[str]) -> None:
        self.fields = tuple(fields)
        self.groups: dict[tuple[Scalar, ...], list[Group]] = defaultdict(list)
        for group in groups:
            self.groups[self.values(group)].append(group)

    def values(self, group: Group) -> tuple[Scalar, ...]:
        return tuple(group.key.get(name) for name in self.fields)


class _Matcher:
    """Matches the groups of one session; equal questions are answered once."""

    def __init__(
        self,
        groups: Sequence[Group],
        rules: Rules,
        settings: MatchSettings,
        by: Mapping[str, Sequence[str]],
        pins: PinSettings,
        parameters: Collection[str],
    ) -> None:
        self.rules = rules
        self.groups = [group for group in groups if group.kind == "calibration"]
        self.ladders = _ladders(rules, settings, by, parameters)
        self.by_role: dict[str, list[Group]] = defaultdict(list)
        for group in self.groups:
            self.by_role[group.role].append(group)
        self.served = {group.id for group in self.groups if group.is_master}
        self.pins = _resolve_pins(pins, self.groups, self.ladders)
        self.force = pins.force
        self._asked: dict[Ladder, tuple[str, ...]] = {}
        self._answers: dict[tuple[object, ...], _Answer] = {}
        self._buckets: dict[tuple[Ladder, str], _Buckets] = {}
        self._misses: dict[tuple[object, ...], tuple[int, float]] = {}

    def match(self) -> tuple[tuple[Match, ...], tuple[Finding, ...]]:
        matches: dict[str, list[Match]] = defaultdict(list)
        findings: dict[str, list[Finding]] = defaultdict(list)
        # Flats first: whether a flat has its own offset frames decides whether it may serve a light.
        for group in sorted(self.groups, key=lambda g: g.role == "light"):
            chosen: dict[str, str] = {}
            for ladder in self.ladders:
                if ladder[0] != group.role or group.is_master:
                    continue
                match, found = self._decide(group, ladder, chosen)
                findings[group.id] += found
                if match is not None:
                    matches[group.id].append(match)
                    if match.chosen is not None:
                        chosen[match.role] = match.rule
                        self.served.add(group.id)
        ordered = tuple(match for group in self.groups for match in matches[group.id])
        return ordered, tuple(finding for group in self.groups for finding in findings[group.id])

    def _decide(self, subject: Group, ladder: Ladder, earlier: Mapping[str, str]) -> tuple[Match | None, list[Finding]]:
        """Return the match of one subject and role, None when a rung says that it is not needed."""
        answer = self._answer(subject, ladder, earlier)
        pin = self.pins.get((subject.id, ladder[1]))
        rule = answer.rung.asked if answer.rung is not None else None
        if not answer.needed:
            if pin is None or pin.group is None or rule is None:
                return None, []
            match = Match(subject=subject.id, role=ladder[1], chosen=pin.group.id, rule=PIN, sets={}, candidates=())
            return None, [unneeded(self.rules, match, pin.text, rule.meaning)]
        sets = rule.sets if rule is not None and answer.good else {}
        match = _match(subject, ladder[1], rule.id if rule else "none", sets, answer.good, answer.refused)
        if pin is not None:
            return self._pinned(subject, ladder, pin, match)
        if answer.rung is None:
            return match, []
        if answer.good:
            return match, _chosen_findings(self.rules, answer.rung, subject, answer.good[0])
        return match, _none_findings(self.rules, answer.rung.asked, match, subject, answer.refused)

    def _answer(self, subject: Group, ladder: Ladder, earlier: Mapping[str, str]) -> _Answer:
        names = self._fields(ladder)
        question = (ladder, tuple(subject.key.get(name) for name in names), tuple(earlier.items()))
        if question not in self._answers:
            self._answers[question] = self._climb(subject, ladder, earlier)
        return self._answers[question]

    def _fields(self, ladder: Ladder) -> tuple[str, ...]:
        """Return the fields of the subject on which the answer of a ladder depends."""
        if ladder in self._asked:
            return self._asked[ladder]
        names: dict[str, None] = {}
        for rung in self.ladders[ladder]:
            names.update(dict.fromkeys(r.field for r in rung.asked.require))
            names.update(dict.fromkeys(p.field for p in rung.asked.prefer if p.field))
        bias = (ladder[0], "bias")
        if "with_bias" in names and bias in self.ladders and bias != ladder:
            names.update(dict.fromkeys(self._fields(bias)))
        self._asked[ladder] = tuple(names)
        return self._asked[ladder]

    def _climb(self, subject: Group, ladder: Ladder, earlier: Mapping[str, str]) -> _Answer:
        nearest: dict[str, tuple[Score, _Rung, Group]] = {}
        for rung in self.ladders[ladder]:
            rule = rung.asked
            if rule.when_chosen and not earlier.keys() & set(rule.when_chosen):
                continue
            if any(chosen in rule.unless_rung for chosen in earlier.values()):
                continue
            if not rule.candidates:
                refused = self._nearest(nearest.values(), subject)
                return _Answer(rung, (), refused, needed=not rule.when_chosen)
            good, missed = self._scores(ladder, rung, subject)
            if good:
                good.sort(key=lambda g: (*(_preference(p, subject, g) for p in rule.prefer), g.id))
                # Of those that lost, the reasons under the rung that decided count, also where an earlier one came
                # nearer.
                again = {
                    id: (self._score(rung, subject, group), rung, group)
                    for id, (_, _, group) in nearest.items()
                    if group.role in rule.candidates
                }
                again |= {score[2]: (score, rung, group) for score, group in missed}
                losers = {**nearest, **again}
                for group in good:
                    losers.pop(group.id, None)
                best = tuple(self._assess(rung, subject, group) for group in good[: CANDIDATES_KEPT + 1])
                return _Answer(rung, best, self._nearest(losers.values(), subject))
            for score, group in missed:
                known = nearest.get(group.id)
                if known is None or score < known[0]:
                    nearest[group.id] = (score, rung, group)
        return _Answer(None, (), self._nearest(nearest.values(), subject))

    def _scores(self, ladder: Ladder, rung: _Rung, subject: Group) -> tuple[list[Group], list[tuple[Score, Group]]]:
        """Return the candidates that satisfy a rung, and the nearest of those that do not, each with its score.

        Candidates are judged bucket by bucket, those first whose exact values agree best: as soon as enough near
        misses are known, the rest cannot come nearer.
        """
        good: list[Group] = []
        missed: list[tuple[Score, Group]] = []
        order: list[tuple[tuple[int, float], list[Group]]] = []
        for role in rung.asked.candidates:
            buckets = self._buckets_of(ladder, role)
            ours = buckets.values(subject)
            for theirs, members in buckets.groups.items():
                order.append((self._exact_miss(rung, buckets.fields, ours, theirs), members))
        order.sort(key=lambda item: item[0])
        for (failures, miss), members in order:
            if failures and len(missed) >= CANDIDATES_KEPT:
                missed.sort(key=lambda item: item[0])
                del missed[CANDIDATES_KEPT:]
                if missed[-1][0][:2] <= (failures, miss):
                    break
            for group in members:
                score = self._score(rung, subject, group, failures, miss)
                if score[0]:
                    missed.append((score, group))
                else:
                    good.append(group)
        return good, missed

    def _buckets_of(self, ladder: Ladder, role: str) -> _Buckets:
        key = (ladder, role)
        if key not in self._buckets:
            fields = dict.fromkeys(r.field for rung in self.ladders[ladder] for r in rung.exact)
            self._buckets[key] = _Buckets(self.by_role.get(role, ()), tuple(fields))
        return self._buckets[key]

    def _exact_miss(
        self, rung: _Rung, fields: Sequence[str], ours: tuple[Scalar, ...], theirs: tuple[Scalar, ...]
    ) -> tuple[int, float]:
        """Return how many requirements of equality fail between two sets of values, and by how much."""
        key = (rung.asked.id, ours, theirs)
        if key not in self._misses:
            mine, other = dict(zip(fields, ours, strict=True)), dict(zip(fields, theirs, strict=True))
            misses = [_judge(r, rung.asked.id, mine[r.field], other[r.field]).miss for r in rung.exact]
            self._misses[key] = (sum(miss > 0 for miss in misses), sum(misses))
        return self._misses[key]

    def _score(
        self, rung: _Rung, subject: Group, candidate: Group, failures: int | None = None, miss: float = 0.0
    ) -> Score:
        """Return how far a candidate misses a rung; the misses of exact values may be known already."""
        asked = rung.near if failures is not None else rung.asked.require
        failures = failures or 0
        for requirement in asked:
            ours, theirs = self._values(requirement, subject, candidate)
            one = _judge(requirement, rung.asked.id, ours, theirs).miss
            if one:
                failures, miss = failures + 1, miss + one
        return failures, miss, candidate.id

    def _values(self, requirement: Requirement, subject: Group, candidate: Group) -> tuple[Scalar, Scalar]:
        if requirement.field == "calibrated":
            return None, candidate.id in self.served
        if requirement.field == "with_bias":
            return None, self._has_bias(subject)
        return subject.key.get(requirement.field), candidate.key.get(requirement.field)

    def _has_bias(self, subject: Group) -> bool:
        """Return whether a bias would serve a subject if it needed one."""
        ladder: Ladder = (subject.role, "bias")
        pin = self.pins.get((subject.id, "bias"))
        if pin is not None:
            return pin.group is not None
        return ladder in self.ladders and bool(self._answer(subject, ladder, {}).good)

    def _assess(self, rung: _Rung, subject: Group, candidate: Group) -> _Assessed:
        return _Assessed(
            candidate,
            tuple(_judge(r, rung.asked.id, *self._values(r, subject, candidate)) for r in rung.asked.require),
        )

    def _nearest(self, missed: Iterable[tuple[Score, _Rung, Group]], subject: Group) -> tuple[_Assessed, ...]:
        best = sorted(missed, key=lambda item: item[0])[:CANDIDATES_KEPT]
        return tuple(self._assess(rung, subject, group) for _, rung, group in best)

    def _pinned(self, subject: Group, ladder: Ladder, pin: _Pin, regular: Match) -> tuple[Match, list[Finding]]:
        """Return the match that a pin asks for, instead of what the ladder says.

        Raises
        ------
        ConfigError
            If it breaks what must be equal and is not forced, or cannot be computed at all.
        """
        role = ladder[1].replace("_", "-")
        others = [c for c in regular.candidates if pin.group is None or c.id != pin.group.id]
        eligible = [c for c in others if c.verdict != "rejected"]
        losers = [
            *(msgspec.structs.replace(c, verdict="eligible", rank=rank) for rank, c in enumerate(eligible, 2)),
            *(c for c in others if c.verdict == "rejected"),
        ]
        evidence: dict[str, Scalar] = {
            "role": role,
            "chosen": "none" if pin.group is None else pin.group.id,
            "instead": regular.chosen or "none",
            "pin": pin.text,
        }
        if pin.group is None:
            match = msgspec.structs.replace(
                regular, chosen=None, rule=PIN, sets={}, candidates=_as_refused_by_hand(regular)
            )
            return match, [make_finding(self.rules, "MAT013", subject.id, **evidence, broken=None, differences="")]
        group = pin.group
        rungs = [rung for rung in self.ladders[ladder] if group.role in rung.asked.candidates]
        rung = min(rungs, key=lambda r: self._score(r, subject, group)[:2])
        assessed = self._assess(rung, subject, group)
        failed = [reason for reason in assessed.reasons if reason.verdict == "fail"]
        broken = [reason for reason in failed if is_hard(reason)]
        wrong = [reason_text(reason) for reason in broken]
        impossible = [reason_text(reason) for reason in broken if reason.field in IMPOSSIBLE]
        if impossible:
            raise ConfigError(
                f"{pin.text}: {group.id} cannot serve {subject.id} as {role}: {'; '.join(impossible)}, "
                "so that the pixels do not lie on each other"
            )
        if broken and not self.force:
            raise ConfigError(
                f"{pin.text}: {group.id} does not fit {subject.id} as {role}: {'; '.join(wrong)}. Name the groups that "
                f"it is for ({ladder[1]}=...@GROUP), or add --force to use it all the same, with a finding and a line "
                "in the headers"
            )
        chosen = Candidate(id=group.id, rank=1, verdict="chosen", reasons=assessed.reasons)
        match = Match(
            subject=subject.id,
            role=ladder[1],
            chosen=group.id,
            rule=PIN,
            sets={} if failed else dict(rung.asked.sets),
            candidates=(chosen, *losers),
        )
        told = "; ".join(reason_text(reason) for reason in failed)
        evidence |= {"broken": "; ".join(wrong) or None, "differences": f": {told}" if told else ""}
        return match, [make_finding(self.rules, "MAT014" if failed else "MAT013", subject.id, **evidence)]


def unneeded(rules: Rules, match: Match, pin: str, because: str) -> Finding:
    """Return the finding that the master of a match by hand has no part in the calibration of its subject."""
    role = match.role.replace("_", "-")
    return make_finding(rules, "MAT019", match.subject, role=role, chosen=match.chosen, pin=pin, because=because)


PIN = "pin"
"""What a match names as its rule when the user decided."""


def _as_refused_by_hand(match: Match) -> tuple[Candidate, ...]:
    """Return the candidates of a match of which none is used: those that would have been stand first, as eligible."""
    return tuple(
        msgspec.structs.replace(c, verdict="eligible") if c.verdict == "chosen" else c for c in match.candidates
    )


@dataclass(frozen=True)
class _Pin:
    """A master that the user chose, or none."""

    text: str
    """As it was written, for messages."""
    group: Group | None


_PIN = re.compile(r"\s*([A-Za-z_-]+)\s*=\s*(.+?)\s*(?:@([^@]+))?\s*")


def _resolve_pins(
    pins: PinSettings, groups: Sequence[Group], ladders: Mapping[Ladder, Sequence[_Rung]]
) -> dict[tuple[str, str], _Pin]:
    """Return the pins by (subject's id, role of the master); later ones replace earlier ones.

    Raises
    ------
    ConfigError
        If a pin is not written as one, names no group or file, or serves nobody.
    """
    by_id = {group.id.casefold(): group for group in groups}
    resolved: dict[tuple[str, str], _Pin] = {}
    for entry in pins.use:
        text = f"--use {entry}"
        found = _PIN.fullmatch(entry)
        if found is None:
            raise ConfigError(f"{text}: expected ROLE=FILE, ROLE=GROUP or ROLE=none, perhaps with @GROUP")
        role, target, where = found[1].replace("-", "_").lower(), found[2], found[3]
        if role not in get_args(MasterRole):
            raise ConfigError(
                f"{text}: {found[1]!r} is no role of a master; they are {', '.join(get_args(MasterRole))}"
            )
        master = None if target.lower() == "none" else by_id.get(target.casefold()) or _holding(target, groups)
        if target.lower() != "none" and master is None:
            raise ConfigError(
                f"{text}: there is neither a group nor a file {target!r} among the calibration frames. wbpy plan -v "
                "lists the groups"
            )
        subjects = [ladder[0] for ladder in ladders if ladder[1] == role]
        served = [group for group in groups if group.role in subjects and not group.is_master]
        if where is not None:
            served = [group for group in served if fnmatch.fnmatchcase(group.id.casefold(), where.casefold())]
        if not served:
            known = [group.id for group in groups if group.role in subjects and not group.is_master]
            shown = ", ".join(known[:8]) or "there are none"
            raise ConfigError(f"{text}: no group {where or ''} needs a {role}; those that may are: {shown}")
        playing = {
            r for ladder in ladders if ladder[1] == role for rung in ladders[ladder] for r in rung.asked.candidates
        }
        if master is not None and master.role not in playing:
            raise ConfigError(f"{text}: {master.id} is a {master.role}, which cannot serve as {role}")
        for group in served:
            rungs = next((rungs for ladder, rungs in ladders.items() if ladder == (group.role, role)), [])
            if master is None or any(master.role in rung.asked.candidates for rung in rungs):
                resolved[group.id, role] = _Pin(text, master)
    return resolved


def _holding(name: str, groups: Sequence[Group]) -> Group | None:
    """Return the calibration group that holds a file, given by its path or the end of it."""
    whole, end = os.path.abspath(name), name.replace("\\", "/").removeprefix("./")
    for group in groups:
        if group.role != "light" and any(
            path == whole or path.replace("\\", "/").endswith(f"/{end.lstrip('/')}") for path in group.frames
        ):
            return group
    return None


def _match(
    subject: Group,
    role: MasterRole,
    rule: str,
    sets: Mapping[str, Scalar],
    good: Sequence[_Assessed],
    refused: Sequence[_Assessed],
) -> Match:
    candidates = [Candidate(id=a.group.id, rank=1, verdict="chosen", reasons=a.reasons) for a in good[:1]]
    candidates += [
        Candidate(id=a.group.id, rank=rank, verdict="eligible", reasons=a.telling_reasons)
        for rank, a in enumerate(good[1:], 2)
    ]
    candidates += [Candidate(id=a.group.id, rank=None, verdict="rejected", reasons=a.telling_reasons) for a in refused]
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
            if not math.isfinite(apart):
                return math.inf
            return math.floor(apart / preference.step + ROUNDING) if preference.step else apart
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
            return -_ordinal(night) if isinstance(night, str) else 0.0


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
    unknown = [j.requirement.field for j in chosen.judged if j.policy == "warn"]
    if unknown:
        found.append(
            make_finding(rules, "MAT004", subject.id, **evidence, unverified=", ".join(dict.fromkeys(unknown)))
        )
    for asked, ruled in zip(chosen.judged, rung.ruled.require, strict=True):
        if asked.requirement is ruled or asked.miss:
            continue
        reason = asked.reason
        strict = judge(ruled, rung.ruled.id, reason.subject_value, reason.candidate_value)
        if strict.verdict == "fail":
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
    for advice in rung.ruled.advise:
        ours, theirs = subject.key.get(advice.field), chosen.group.key.get(advice.field)
        if judge(advice, rung.ruled.id, ours, theirs).verdict == "fail":
            more: dict[str, Scalar] = {"field": advice.field.replace("_", " "), "needed": ours, "found": theirs}
            found.append(make_finding(rules, advice.finding, subject.id, **evidence, **more))
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


def _none_findings(
    rules: Rules, rule: MatchRule, match: Match, subject: Group, refused: Sequence[_Assessed]
) -> list[Finding]:
    if rule.finding is None:
        return []
    nearest = refused[0] if refused else None
    role = rule.role.replace("_", "-")
    because = f"there is no {role} at all"
    if nearest is not None:
        failed = "; ".join(reason_text(r) for r in nearest.reasons if r.verdict == "fail")
        because = f"the nearest candidate is {nearest.group.id}: {failed}"
    advice = hint(match)
    evidence: dict[str, Scalar] = {"role": role, "nearest": nearest.group.id if nearest else None, "because": because}
    evidence["hint"] = f" {advice}" if advice else ""
    return [make_finding(rules, rule.finding, subject.id, **evidence)]
