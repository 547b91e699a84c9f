"""Put frames that are treated as one into groups.

Calibration groups share masters, registration groups share a reference, integration groups make one stack. What
makes two frames one group stands in ``rules/groups.toml``: fields that agree exactly, and bands of values.
"""

from __future__ import annotations

import math
import re
import statistics
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Literal

from wbpy.config import GroupSettings
from wbpy.errors import ConfigError, RuleError
from wbpy.findings import make_finding
from wbpy.model import Finding, Frame, Group, Role, Scalar
from wbpy.rules import BandRule, GroupRule, Rules

Kind = Literal["calibration", "registration", "integration"]

SET_POINT_REACHED = 1.0
"""degC between sensor and set point up to which the cooler counts as regulating."""

EXPOSURES_ALIKE = 0.1
"""Relative spread of exposures up to which a group whose rule ignores exposure still has a typical one."""

LONGEST_TOKEN = 60
"""Characters of one part of an id or file name."""


def temperature(frame: Frame) -> float | None:
    """Return the sensor temperature that decides about dark current, degC.

    The set point where the cooler reached it, because all frames of a set then carry the same value; else what was
    measured; else the set point, when nothing was measured.
    """
    if frame.temp_ccd is None:
        return frame.temp_set
    return frame.temp_set if cooled(frame) else frame.temp_ccd


def cooled(frame: Frame) -> bool:
    """Return whether a set point is known and nothing contradicts that it was reached."""
    if frame.temp_set is None:
        return False
    return frame.temp_ccd is None or abs(frame.temp_ccd - frame.temp_set) <= SET_POINT_REACHED


_DERIVED: dict[str, Callable[[Frame], Scalar]] = {"temperature": temperature, "cooled": cooled}


def field_value(frame: Frame, name: str) -> Scalar:
    """Return a canonical or derived field of a frame; None where the frame does not say it."""
    derived = _DERIVED.get(name)
    value: Scalar = derived(frame) if derived else getattr(frame, name)
    return value


def make_groups(
    frames: Iterable[Frame], rules: Rules, settings: GroupSettings
) -> tuple[tuple[Group, ...], tuple[Finding, ...]]:
    """Return the groups of all kinds and what was found while making them.

    Parameters
    ----------
    frames : iterable of Frame
        Frames that take part, each with a role; their order does not matter.
    rules : Rules
        ``groups`` says what makes a group; the fields that ``matches`` compares become part of the keys.
    settings : GroupSettings
        `by` names further fields that split the integration groups.

    Returns
    -------
    groups : tuple of Group
        Calibration groups (raw ones and masters of one frame each), then registration, then integration groups, each
        sorted by id. Raw frames of one kind are partitioned: each stands in exactly one group.
    findings : tuple of Finding
        Neighbouring groups closer than a tolerance, lights without a target.

    Raises
    ------
    ConfigError
        If `settings.by` names a field that frames do not have.
    RuleError
        If a rule for a role is missing.
    """
    for name in settings.by:
        if name not in Frame.__struct_fields__ and name not in _DERIVED:
            known = ", ".join(sorted((*Frame.__struct_fields__, *_DERIVED)))
            raise ConfigError(f"group.by: frames have no field {name!r}; they have {known}")
    by_role: dict[Role, list[Frame]] = defaultdict(list)
    for frame in sorted(frames, key=lambda f: (f.date_obs or "", f.path)):
        # Integrated lights are results; the scanner holds them back.
        if frame.role is not None and not (frame.role == "light" and frame.is_master):
            by_role[frame.role].append(frame)

    drafts: list[_Draft] = []
    close: list[_Close] = []
    for role in ("bias", "dark", "flat_dark", "flat", "light"):
        rule = _rule(rules, "calibration", role)
        members = by_role[role]
        drafts += _split(rule, "calibration", role, [f for f in members if not f.is_master], (), close)
        drafts += [_Draft(rule, "calibration", role, [f], True) for f in members if f.is_master]
    lights = by_role["light"]
    drafts += _split(_rule(rules, "registration", "light"), "registration", "light", lights, (), close)
    drafts += _split(_rule(rules, "integration", "light"), "integration", "light", lights, settings.by, close)

    compared = _compared_fields(rules)
    keys = [draft.key(compared, settings.by) for draft in drafts]
    bases = ["-".join(_tokens(draft, key, settings.by)) for draft, key in zip(drafts, keys, strict=True)]
    ids = unique_names(bases, keys, [draft.frames[0].path for draft in drafts], "-")
    groups = [draft.group(id, key) for draft, id, key in zip(drafts, ids, keys, strict=True)]
    order = {"calibration": 0, "registration": 1, "integration": 2}
    groups.sort(key=lambda g: (order[g.kind], g.id))
    return tuple(groups), (*_near_edges(rules, close, drafts, ids), *_nameless(rules, groups))


def _rule(rules: Rules, kind: Kind, role: Role) -> GroupRule:
    try:
        return rules.groups[f"{kind}.{role}"]
    except KeyError:
        raise RuleError(f"groups.toml: there is no [[group]] with id '{kind}.{role}'") from None


class _Draft:
    """A group before it has an id."""

    def __init__(self, rule: GroupRule, kind: Kind, role: Role, frames: list[Frame], is_master: bool) -> None:
        self.rule, self.kind, self.role, self.frames, self.is_master = rule, kind, role, frames, is_master

    def key(self, compared: Mapping[Role, Sequence[str]], by: Sequence[str]) -> dict[str, Scalar]:
        """Return what the frames have in common, the fields that made the group first."""
        names = [*self.rule.exact, *(band.field for band in self.rule.bands)]
        names += by if self.kind == "integration" else ()
        grouped = set(names)
        names += compared.get(self.role, ()) if self.kind == "calibration" else ()
        key = {name: _typical(self.frames, name, name in grouped) for name in dict.fromkeys(names)}
        if self.is_master:
            key["stack_count"] = self.frames[0].stack_count
        return key

    def group(self, id: str, key: dict[str, Scalar]) -> Group:
        paths = tuple(frame.path for frame in self.frames)
        return Group(id=id, kind=self.kind, role=self.role, key=key, frames=paths, is_master=self.is_master)


class _Close:
    """Two neighbouring groups, by their frames at the common edge."""

    def __init__(self, kind: Kind, field: str, below: Frame, above: Frame, gap: float, tolerance: float) -> None:
        self.kind, self.field, self.below, self.above, self.gap, self.tolerance = (
            kind,
            field,
            below,
            above,
            gap,
            tolerance,
        )


def _identity(frame: Frame, name: str) -> Hashable:
    """Return what must be equal; targets are compared without blanks and case, nameless ones camera by camera."""
    value = field_value(frame, name)
    if name != "object":
        return value
    if not isinstance(value, str):
        return (None, frame.camera)
    return re.sub(r"[\s_-]+", "", unicodedata.normalize("NFKC", value)).casefold()


def _split(
    rule: GroupRule, kind: Kind, role: Role, frames: Sequence[Frame], by: Sequence[str], close: list[_Close]
) -> list[_Draft]:
    parts: dict[tuple[Hashable, ...], list[Frame]] = defaultdict(list)
    for frame in frames:
        parts[tuple(_identity(frame, name) for name in (*rule.exact, *by))].append(frame)
    drafts = []
    for part in parts.values():
        pieces = [part]
        for band in rule.bands:
            pieces = [piece for whole in pieces for piece in _band(band, kind, whole, close)]
        drafts += [
            _Draft(rule, kind, role, sorted(piece, key=lambda f: (f.date_obs or "", f.path)), False) for piece in pieces
        ]
    return drafts


def _band(band: BandRule, kind: Kind, frames: Sequence[Frame], close: list[_Close]) -> list[list[Frame]]:
    """Return `frames` cut into runs of values near their run's first value, unknown values apart.

    Sorting first makes the result independent of the order of files; the anchor keeps a slow drift from chaining
    values together that are far apart.
    """
    known: list[tuple[float, bool, str, Frame]] = []
    unknown: list[Frame] = []
    for frame in frames:
        value = field_value(frame, band.field)
        if isinstance(value, (int, float)):
            at = value % band.period if band.period else float(value)
            known.append((at, not cooled(frame), frame.path, frame))
        else:
            unknown.append(frame)
    known.sort(key=lambda item: item[:3])
    if band.period and known:
        known = _cut_circle(known, band.period)
    runs: list[list[Frame]] = []
    anchor = last = None
    for item in known:
        if anchor is None or last is None or abs(item[0] - anchor[0]) > _tolerance(band, anchor, item):
            if last is not None and item[0] - last[0] < (tolerance := _tolerance(band, last, item)):
                close.append(_Close(kind, band.field, last[3], item[3], item[0] - last[0], tolerance))
            runs.append([])
            anchor = item
        runs[-1].append(item[3])
        last = item
    return runs + ([unknown] if unknown else [])


def _tolerance(band: BandRule, a: tuple[float, bool, str, Frame], b: tuple[float, bool, str, Frame]) -> float:
    absolute = band.uncooled if band.uncooled is not None and a[1] and b[1] else band.absolute
    if not band.relative:
        return absolute
    relative = band.relative * abs(a[0])
    return min(absolute, relative) if band.smaller else max(absolute, relative)


def _cut_circle(items: list[tuple[float, bool, str, Frame]], period: float) -> list[tuple[float, bool, str, Frame]]:
    """Return angles unrolled from the widest gap on, so that no run is cut at 0."""
    gaps = [((items[i][0] - items[i - 1][0]) % period if len(items) > 1 else period, i) for i in range(len(items))]
    start = max(gaps, key=lambda gap: (gap[0], -gap[1]))[1]
    return items[start:] + [(value + period, *rest) for value, *rest in items[:start]]  # type: ignore[misc]


def _typical(frames: Sequence[Frame], name: str, grouped: bool) -> Scalar:
    """Return the value that stands for a group: the common one, else the median, else the most frequent text."""
    values = [value for frame in frames if (value := field_value(frame, name)) is not None]
    if not values:
        return None
    if isinstance(values[0], bool):
        return all(values)
    numbers = [value for value in values if isinstance(value, (int, float))]
    if numbers:
        middle = statistics.median_low(numbers)
        if name == "exposure" and not grouped and max(numbers) - min(numbers) > EXPOSURES_ALIKE * middle:
            return None
        if name == "rotator":
            return _middle_angle([float(number) for number in numbers])
        return middle
    counts = Counter(str(value) for value in values)
    if not grouped and len(counts) > 1:
        return None
    return min(counts, key=lambda text: (-counts[text], text))


def _middle_angle(angles: Sequence[float]) -> float:
    """Return the one of `angles` that lies nearest to their mean direction, degrees."""
    mean = math.degrees(
        math.atan2(
            math.fsum(math.sin(math.radians(a)) for a in angles), math.fsum(math.cos(math.radians(a)) for a in angles)
        )
    )
    return min(set(angles), key=lambda a: (abs((a - mean + 180) % 360 - 180), a))


def _compared_fields(rules: Rules) -> dict[Role, list[str]]:
    """Return the fields that the ladder compares, for the roles on either side."""
    fields: dict[Role, dict[str, None]] = defaultdict(dict)
    for rung in rules.matches:
        names = [requirement.field for requirement in rung.require if requirement.field != "calibrated"]
        names += [preference.field for preference in rung.prefer if preference.field]
        for role in (rung.subject, *rung.candidates):
            fields[role].update(dict.fromkeys(names))  # type: ignore[index]
    return {role: list(names) for role, names in fields.items()}


def _tokens(draft: _Draft, key: Mapping[str, Scalar], by: Sequence[str]) -> list[str]:
    """Return the parts of a group's id that people look for first."""
    words: list[str] = [draft.role if draft.kind == "calibration" else draft.kind]
    if draft.is_master:
        words.insert(0, "master")
    if draft.role == "light":
        words.append(name_token("object", key.get("object")) or "unnamed")
    if draft.role in ("light", "flat") and draft.kind != "registration":
        words.append(name_token("filter", key.get("filter")) or ("OSC" if key.get("cfa") else ""))
    if draft.role != "flat" and draft.role != "bias" and draft.kind != "registration":
        words.append(name_token("exposure", key.get("exposure")))
    if draft.role in ("dark", "flat_dark", "bias"):
        words += [name_token(name, key.get(name)) for name in ("gain", "iso", "offset", "temperature")]
    if draft.role == "flat":
        words.append(name_token("night", key.get("night")))
    if draft.kind == "integration":
        words += [name_token(name, key.get(name)) or f"no_{name}" for name in by]
    return [word for word in dict.fromkeys(words) if word]


def name_token(name: str, value: Scalar) -> str:
    """Return a value as a short, file-name safe word such as ``300s``, ``g100`` or ``m10C``; empty for None."""
    if value is None:
        return ""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if name == "temperature":
            return f"{round(value):d}C".replace("-", "m")
        prefix, unit = {
            "exposure": ("", "s"),
            "gain": ("g", ""),
            "offset": ("o", ""),
            "xbinning": ("bin", ""),
            "width": ("w", ""),
            "height": ("h", ""),
        }.get(name, (name, ""))
        return safe_name(f"{prefix}{value:.6g}{unit}".replace("-", "m"))
    if isinstance(value, bool):
        return name if value else f"not_{name}"
    return safe_name(value)


def safe_name(text: str) -> str:
    """Return `text` with everything that a file system or a shell might object to replaced by ``_``."""
    kept = re.sub(r"[^\w.+-]+", "_", unicodedata.normalize("NFC", text)).strip("._")
    return kept[:LONGEST_TOKEN] or "_"


def unique_names(
    bases: Sequence[str], keys: Sequence[Mapping[str, Scalar]], paths: Sequence[str], separator: str
) -> list[str]:
    """Return `bases` made unique by appending the values in which their owners differ.

    Parameters
    ----------
    bases : sequence of str
        Wanted names.
    keys : sequence of mappings
        Values to tell owners of one name apart, the most telling ones first.
    paths : sequence of str
        First file of each owner: fixes the numbers that are appended when no value differs.
    separator : str
        Placed before what is appended.

    Returns
    -------
    list of str
        In the order of `bases`, unique also where upper and lower case are the same.
    """
    names = list(bases)
    owners: dict[str, list[int]] = defaultdict(list)
    for index, base in enumerate(bases):
        owners[base.casefold()].append(index)
    for members in owners.values():
        distinct = len({names[i].casefold() for i in members})
        for field in dict.fromkeys(field for i in members for field in keys[i]):
            if distinct == len(members):
                break
            coarse, fine = (
                {i: f"{names[i]}{separator}{token(field, keys[i].get(field)) or f'no_{field}'}" for i in members}
                for token in (name_token, _fine_token)
            )
            longer = max(coarse, fine, key=lambda way: len({name.casefold() for name in way.values()}))
            found = len({name.casefold() for name in longer.values()})
            if found > distinct:
                distinct = found
                for i in members:
                    names[i] = longer[i]
    taken: set[str] = set()
    for index in sorted(range(len(names)), key=lambda i: (names[i], paths[i])):
        wanted, number = names[index], 2
        while names[index].casefold() in taken:
            names[index] = f"{wanted}{separator}{number}"
            number += 1
        taken.add(names[index].casefold())
    return names


def _fine_token(name: str, value: Scalar) -> str:
    """Return a token that tells neighbours apart: temperatures with their decimals."""
    if name == "temperature" and isinstance(value, float):
        return f"{value:.6g}C".replace("-", "m")
    return name_token(name, value)


def _near_edges(rules: Rules, close: Sequence[_Close], drafts: Sequence[_Draft], ids: Sequence[str]) -> list[Finding]:
    """Return a finding for each pair of groups that a small change of one value would have merged."""
    home = {
        (draft.kind, frame.path): id
        for draft, id in zip(drafts, ids, strict=True)
        for frame in draft.frames
        if not draft.is_master
    }
    findings = {}
    for edge in close:
        below, above = home[edge.kind, edge.below.path], home[edge.kind, edge.above.path]
        if (below, above, edge.field) not in findings:
            findings[below, above, edge.field] = make_finding(
                rules,
                "GRP001",
                above,
                neighbour=below,
                field=edge.field,
                gap=round(edge.gap, 6),
                tolerance=round(edge.tolerance, 6),
                unit={"exposure": "s", "temperature": "degC", "rotator": "degrees"}.get(edge.field, ""),
            )
    return [findings[pair] for pair in sorted(findings)]


def _nameless(rules: Rules, groups: Sequence[Group]) -> list[Finding]:
    return [
        make_finding(rules, "GRP002", group.id, frames=len(group.frames))
        for group in groups
        if group.kind == "registration" and group.key.get("object") is None
    ]
