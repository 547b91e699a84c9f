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

import msgspec

from wbpy.config import GroupSettings
from wbpy.errors import ConfigError, RuleError
from wbpy.findings import make_finding
from wbpy.model import ROLES, Finding, Frame, Group, Role, Scalar
from wbpy.rules import BandRule, GroupRule, Rules, find_sensor

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


def format_family(frame: Frame) -> str | None:
    """Return ``raw`` for files of photo cameras, else ``fits``; None for masters, which any program may have written.

    Drivers scale what they write as FITS to 16 bits, photo cameras do not (guide, section 2.2).
    """
    if frame.is_master:
        return None
    return "raw" if frame.format == "raw" else "fits"


def capture_program(frame: Frame) -> str | None:
    """Return the program that took the frame; None for masters, whose header names the program that made them."""
    return None if frame.is_master else frame.program


def target(frame: Frame) -> str | None:
    """Return what a light shows: by name and pointing, or by name alone where the frame does not come from a scan."""
    return frame.target or frame.object


_DERIVED: dict[str, Callable[[Frame], Scalar]] = {
    "target": target,
    "temperature": temperature,
    "cooled": cooled,
    "format_family": format_family,
    "capture_program": capture_program,
}


def field_value(frame: Frame, name: str) -> Scalar:
    """Return a canonical or derived field of a frame or one of the user's keywords; None where it does not say it."""
    derived = _DERIVED.get(name)
    if derived is not None:
        return derived(frame)
    if name in Frame.__struct_fields__:
        value: Scalar = getattr(frame, name)
        return value
    return keyword_value(frame, name)


def keyword_value(frame: Frame, keyword: str) -> str | None:
    """Return what a frame says about one of the user's keywords, in capitals or not; None where it says nothing."""
    for name, value in frame.keywords.items():
        if name.upper() == keyword.upper():
            return value
    return None


def scopes(entries: Sequence[str], option: str) -> dict[str, tuple[str, ...]]:
    """Return the names of ``group.by`` or ``group.merge`` by what they are about.

    Parameters
    ----------
    entries : sequence of str
        ``NAME`` for integrations, else ``SCOPE:NAME``.
    option : str
        For messages.

    Returns
    -------
    dict of str to tuple of str
        ``integration``, ``registration``, ``calibration`` or a role -> names: fields in lower case, keywords in
        capitals. What is written in capitals is a keyword, even where there is a field of that name.

    Raises
    ------
    ConfigError
        If there is no such scope.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for entry in entries:
        scope, colon, name = entry.rpartition(":")
        scope = scope.strip().lower() if colon else "integration"
        if scope not in (*_KINDS, *ROLES):
            raise ConfigError(
                f"{option}: {entry!r} is about {scope!r}, which is neither {', '.join(_KINDS)} nor a role "
                f"({', '.join(ROLES)})"
            )
        name = name.strip()
        if not name.isupper():
            lower = name.lower()
            known = lower in Frame.__struct_fields__ or lower in _DERIVED or lower in _MERGED_TOGETHER
            name = lower if known else name.upper()
        if name not in found[scope]:
            found[scope].append(name)
    return {scope: tuple(names) for scope, names in found.items()}


def user_keywords(settings: GroupSettings) -> tuple[str, ...]:
    """Return the names in ``group.by`` that are no fields: keywords that the scan is to read, in capitals."""
    names = [name for names in scopes(settings.by, "group.by").values() for name in names]
    return tuple(dict.fromkeys(name for name in names if name.isupper()))


def calibration_keys(rules: Rules, settings: GroupSettings) -> dict[Role, tuple[str, ...]]:
    """Return what ``group.by`` adds to the calibration groups of each role: a role and all that it serves."""
    by = scopes(settings.by, "group.by")
    found: dict[Role, dict[str, None]] = defaultdict(dict)
    for role in ROLES:
        found[role].update(dict.fromkeys(by.get("calibration", ())))
        for name in by.get(role, ()):
            found[role][name] = None
            for rung in rules.matches:
                if rung.role == role:
                    found[rung.subject][name] = None  # type: ignore[index]
    return {role: tuple(names) for role, names in found.items()}


_KINDS = ("integration", "registration", "calibration")

_MERGED_TOGETHER = {"binning": ("xbinning", "ybinning")}

_MERGEABLE: dict[str, tuple[str, ...]] = {
    "integration": ("exposure", "camera", "xbinning", "ybinning", "filter", "object", "target", "panel"),
    "registration": ("object", "target", "panel"),
    "calibration": ("night", "object", "target", "panel", "rotator", "temperature"),
}
"""Fields that the user may take out of a group's rule: what no kernel needs to be equal."""


def _merged(rules: Rules, settings: GroupSettings) -> dict[str, GroupRule]:
    """Return the group rules without the fields that ``group.merge`` names.

    Raises
    ------
    ConfigError
        If a field must not be merged: frames that share a master need equal settings.
    """
    merge = {scope: list(names) for scope, names in scopes(settings.merge, "group.merge").items()}
    # Lights of one integration share a reference, so what is merged there is merged in the registration, too.
    merge.setdefault("registration", []).extend(
        name for name in merge.get("integration", ()) if name in _MERGEABLE["registration"]
    )
    groups = dict(rules.groups)
    for scope, names in merge.items():
        kind = scope if scope in _KINDS else "calibration"
        fields = [field for name in names for field in _MERGED_TOGETHER.get(name, (name,))]
        for field in fields:
            if field not in _MERGEABLE[kind]:
                raise ConfigError(
                    f"group.merge: {field!r} cannot be merged in {kind} groups; "
                    f"what can be is {', '.join(_MERGEABLE[kind])}"
                )
        for id, rule in groups.items():
            if id.startswith(f"{kind}.") and (scope in _KINDS or id == f"calibration.{scope}"):
                groups[id] = msgspec.structs.replace(
                    rule,
                    exact=tuple(name for name in rule.exact if name not in fields),
                    bands=tuple(band for band in rule.bands if band.field not in fields),
                )
    return groups


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
        `by` names what also splits groups, `merge` what does not.

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
        If `settings.by` names neither a field nor a keyword that any frame has, or `settings.merge` a field that
        frames of a group must share.
    RuleError
        If a rule for a role is missing.
    """
    frames = sorted(frames, key=lambda f: (f.date_obs or "", f.path))
    for name in user_keywords(settings):
        if frames and all(keyword_value(frame, name) is None for frame in frames):
            fields = (*Frame.__struct_fields__, *_DERIVED)
            known = f"the fields are {', '.join(sorted(fields))}"
            if name.lower() in fields:
                known = f"for the field of that name write {name.lower()}"
            raise ConfigError(
                f"group.by: there is no field {name!r}, and no frame says {name} in its header or has "
                f"{name}_value in its file or folder name; {known}"
            )
    by = scopes(settings.by, "group.by")
    split: dict[str, tuple[str, ...]] = {kind: by.get(kind, ()) for kind in ("registration", "integration")}
    split |= {str(role): names for role, names in calibration_keys(rules, settings).items()}
    group_rules = _merged(rules, settings)
    by_role: dict[Role, list[Frame]] = defaultdict(list)
    for frame in frames:
        # Integrated lights are results; the scanner holds them back.
        if frame.role is not None and not (frame.role == "light" and frame.is_master):
            by_role[frame.role].append(frame)

    drafts: list[_Draft] = []
    close: list[_Close] = []
    for role in ("bias", "dark", "flat_dark", "flat", "light"):
        rule = _rule(group_rules, "calibration", role)
        members = by_role[role]
        raw = [f for f in members if not f.is_master]
        drafts += _split(rule, "calibration", role, raw, split.get(role, ()), close)
        drafts += [_Draft(rule, "calibration", role, [f], True) for f in members if f.is_master]
    lights = by_role["light"]
    for kind in ("registration", "integration"):
        rule = _rule(group_rules, kind, "light")
        drafts += _split(rule, kind, "light", lights, split[kind], close)

    compared = _compared_fields(rules)
    sensors = _Sensors(rules)
    names = [split.get(draft.role if draft.kind == "calibration" else draft.kind, ()) for draft in drafts]
    keys = [draft.key(compared, sensors, own) for draft, own in zip(drafts, names, strict=True)]
    bases = ["-".join(_tokens(draft, key, own)) for draft, key, own in zip(drafts, keys, names, strict=True)]
    ids = unique_names(bases, keys, [draft.frames[0].path for draft in drafts], "-")
    groups = [draft.group(id, key) for draft, id, key in zip(drafts, ids, keys, strict=True)]
    order = {"calibration": 0, "registration": 1, "integration": 2}
    groups.sort(key=lambda g: (order[g.kind], g.id))
    return tuple(groups), (*_near_edges(rules, close, drafts, ids), *_nameless(rules, groups))


def _rule(groups: Mapping[str, GroupRule], kind: Kind, role: Role) -> GroupRule:
    try:
        return groups[f"{kind}.{role}"]
    except KeyError:
        raise RuleError(f"groups.toml: there is no [[group]] with id '{kind}.{role}'") from None


class _Draft:
    """A group before it has an id."""

    def __init__(self, rule: GroupRule, kind: Kind, role: Role, frames: list[Frame], is_master: bool) -> None:
        self.rule, self.kind, self.role, self.frames, self.is_master = rule, kind, role, frames, is_master

    def key(self, compared: Mapping[Role, Sequence[str]], sensors: _Sensors, by: Sequence[str]) -> dict[str, Scalar]:
        """Return what the frames have in common, the fields that made the group first."""
        names = [*self.rule.exact, *(band.field for band in self.rule.bands), *by]
        grouped = set(names)
        names += compared.get(self.role, ()) if self.kind == "calibration" else ()
        key = {name: _typical(self.frames, name, name in grouped) for name in dict.fromkeys(names) if name != "traits"}
        if "traits" in names:
            camera = key.get("camera")
            key["traits"] = sensors.traits(camera if isinstance(camera, str) else None)
        if self.is_master:
            key["stack_count"] = self.frames[0].stack_count
        return key

    def group(self, id: str, key: dict[str, Scalar]) -> Group:
        paths = tuple(frame.path for frame in self.frames)
        return Group(id=id, kind=self.kind, role=self.role, key=key, frames=paths, is_master=self.is_master)


class _Sensors:
    """The traits of cameras' sensors, looked up once for each camera."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._known: dict[str | None, str | None] = {}

    def traits(self, camera: str | None) -> str | None:
        """Return the traits as words, None where none is known."""
        if camera not in self._known:
            sensor = find_sensor(self._rules, camera)
            self._known[camera] = " ".join(sensor.traits) or None if sensor else None
        return self._known[camera]


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
    if name != "target":
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
        asked = [*rung.require, *rung.advise]
        names = [one.field for one in asked if one.field not in ("calibrated", "with_bias")]
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
        words.append(name_token("target", key.get("target")) or "unnamed")
        words.append(name_token("panel", key.get("panel")))
    if draft.role in ("light", "flat") and draft.kind != "registration":
        words.append(name_token("filter", key.get("filter")) or ("OSC" if key.get("cfa") else ""))
    if draft.role != "flat" and draft.role != "bias" and draft.kind != "registration":
        words.append(name_token("exposure", key.get("exposure")))
    if draft.role in ("dark", "flat_dark", "bias"):
        words += [name_token(name, key.get(name)) for name in ("gain", "iso", "offset", "temperature")]
    if draft.role == "flat":
        words.append(name_token("night", key.get("night")))
    words += [name_token(name, key.get(name)) or f"no_{name}" for name in by if name in key]
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
        if group.kind == "registration" and group.key.get("target") is None
    ]
