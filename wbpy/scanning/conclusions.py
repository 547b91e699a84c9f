"""Draw the conclusions that need all frames of a scan: flat-darks, targets, and where headers contradict each other.

A saved catalog may be scanned again together with other files, so everything concluded here can be taken back:
`as_read` returns what a file said by itself.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence

import msgspec

from wbpy.catalog import Entry
from wbpy.config import ScanSettings
from wbpy.findings import make_finding
from wbpy.model import Finding, Frame, Scalar, Source
from wbpy.rules import Rules
from wbpy.scanning.roles import ROLE_SETTING
from wbpy.scanning.second_look import look_at_pixels
from wbpy.scanning.targets import find_targets
from wbpy.scanning.values import NAME_RULE, UTC_NIGHT

CFA_SETTING = "setting scan.cfa"
"""Rule of the patterns that the configuration gave; ``setting scan.cfa_by_camera`` begins with it."""

OWN_PROGRAM = "wbpy"
"""Name of the dialect of wbpy's own products."""

_CONCLUDED = "all frames: "
"""Start of the rules of values that were concluded here."""
_FLAT_DARK = f"{_CONCLUDED}a dark with the exposure of the flats that no light could use"


def as_read(entry: Entry) -> Entry:
    """Return an entry without what was concluded from other frames."""
    frame = entry.frame
    if frame is None or (frame.target is None and frame.role != "flat_dark"):
        return entry
    kept = tuple(source for source in entry.sources if not source.rule.startswith(_CONCLUDED))
    if len(kept) == len(entry.sources):
        return entry
    role = "dark" if frame.role == "flat_dark" else frame.role
    frame = msgspec.structs.replace(frame, role=role, target=None, panel=None)
    return msgspec.structs.replace(entry, frame=frame, sources=kept)


def conclude(entries: Sequence[Entry], rules: Rules, settings: ScanSettings) -> tuple[list[Entry], list[Finding]]:
    """Return the entries with what only all of them together tell, and findings about many frames at once.

    Parameters
    ----------
    entries : sequence of Entry
        As read, sorted by path.
    rules : Rules
        Wording and limits of the findings.
    settings : ScanSettings
        `target_by`, `panel_separation`, `pixel_checks`; `role` and `cfa` for the wording.

    Returns
    -------
    entries : list of Entry
        In the same order. Darks that only flats can use are flat-darks, lights have target and panel.
    findings : list of Finding
        One for each thing, with the number of frames and the first of them.
    """
    made, findings = _flat_darks(list(entries), rules)
    made, about_targets = _targets(made, rules, settings)
    findings += about_targets
    findings += _from_settings(made, rules, settings)
    frames = _taking_part(made)
    findings += _contradictions(frames, rules)
    findings += _odd_origins(made, rules)
    findings += _unverified_masters(frames, rules)
    if settings.pixel_checks:
        findings += look_at_pixels(frames, rules)
    return made, findings


def _taking_part(entries: Iterable[Entry]) -> list[Frame]:
    return [entry.frame for entry in entries if entry.frame is not None and entry.held_back is None]


def _about(rules: Rules, id: str, paths: Sequence[str], **evidence: Scalar) -> Finding:
    return make_finding(rules, id, paths[0], count=len(paths), first=paths[0], **evidence)


# Flat-darks ----------------------------------------------------------------------------------------------------


def _setup(frame: Frame) -> tuple[Hashable, ...]:
    """Return what a dark must share with the frames that it serves, temperature and exposure aside."""
    return (
        frame.camera,
        frame.width,
        frame.height,
        frame.xbinning,
        frame.ybinning,
        frame.gain,
        frame.iso,
        frame.offset,
        frame.read_mode,
    )


def _flat_darks(entries: list[Entry], rules: Rules) -> tuple[list[Entry], list[Finding]]:
    """Return the entries with darks that fit the flats, and no light by any rule, made flat-darks.

    A dark serves a light of its own exposure or, scaled, a shorter one, so it stays a dark as soon as there is one.
    """
    limits = rules.findings["SCN023"].limits
    flats: dict[Hashable, set[float]] = defaultdict(set)
    lights: dict[Hashable, set[float]] = defaultdict(set)
    for frame in _taking_part(entries):
        if frame.exposure is not None and frame.role in ("flat", "light"):
            (flats if frame.role == "flat" else lights)[_setup(frame)].add(frame.exposure)
    if not flats:
        return entries, []
    moved: dict[tuple[Hashable, float], list[str]] = defaultdict(list)
    made = []
    for entry in entries:
        dark = entry.frame
        if dark is not None and entry.held_back is None and dark.role == "dark" and not dark.is_master:
            setup, exposure = _setup(dark), dark.exposure
            if exposure is not None and _fits(exposure, flats[setup], limits) and not _serves(exposure, lights[setup]):
                source = Source(field="role", keyword=None, raw=f"{exposure:g} s", rule=_FLAT_DARK)
                entry = msgspec.structs.replace(
                    entry,
                    frame=msgspec.structs.replace(dark, role="flat_dark"),
                    sources=(*entry.sources, source),
                )
                moved[setup, exposure].append(entry.path)
        made.append(entry)
    return made, [_about(rules, "SCN023", paths, exposure=exposure) for (_, exposure), paths in moved.items()]


def _fits(exposure: float, flats: set[float], limits: dict[str, float]) -> bool:
    near = max(0.05, min(limits["seconds"], limits["share"] * exposure))
    return any(abs(exposure - flat) <= near for flat in flats)


def _serves(exposure: float, lights: set[float]) -> bool:
    return any(light <= exposure + max(0.05, 0.01 * exposure) for light in lights)


# Targets -------------------------------------------------------------------------------------------------------


def _targets(entries: list[Entry], rules: Rules, settings: ScanSettings) -> tuple[list[Entry], list[Finding]]:
    lights = [frame for frame in _taking_part(entries) if frame.role == "light" and not frame.is_master]
    places, findings = find_targets(lights, rules, settings)
    if not places:
        return entries, findings
    made = []
    for entry in entries:
        place = places.get(entry.path) if entry.held_back is None else None
        if place is not None and entry.frame is not None and place.target is not None:
            raw = entry.frame.object
            sources = [Source(field="target", keyword=None, raw=raw, rule=_CONCLUDED + place.rule)]
            if place.panel is not None:
                sources.append(Source(field="panel", keyword=None, raw=raw, rule=_CONCLUDED + place.rule))
            entry = msgspec.structs.replace(
                entry,
                frame=msgspec.structs.replace(entry.frame, target=place.target, panel=place.panel),
                sources=(*entry.sources, *sources),
            )
        made.append(entry)
    return made, findings


# What is said once about many frames ---------------------------------------------------------------------------


def _from_settings(entries: Sequence[Entry], rules: Rules, settings: ScanSettings) -> list[Finding]:
    """Return what was assumed: nights in UTC, roles and patterns from settings, values from file names."""
    result = []
    utc: list[str] = []
    by_setting: list[str] = []
    named: list[str] = []
    forced: dict[tuple[str, str], list[str]] = defaultdict(list)
    for path, frame, source in _sources(entries):
        if source.rule == UTC_NIGHT:
            utc.append(path)
        elif source.rule == ROLE_SETTING:
            by_setting.append(path)
        elif source.rule.startswith(NAME_RULE) and (not named or named[-1] != path):
            named.append(path)
        elif source.field == "cfa" and source.rule.startswith(CFA_SETTING) and source.raw is not None:
            forced[source.raw, frame.cfa or "none"].append(path)
    if utc:
        result.append(_about(rules, "SCN014", utc))
    if by_setting:
        result.append(_about(rules, "SCN017", by_setting, role=settings.role))
    for (found, used), paths in sorted(forced.items()):
        result.append(_about(rules, "SCN021", paths, found=found, used=used))
    if named:
        result.append(_about(rules, "SCN039", named))
    return result


def _sources(entries: Sequence[Entry]) -> Iterator[tuple[str, Frame, Source]]:
    for entry in entries:
        if entry.frame is not None and entry.held_back is None:
            for source in entry.sources:
                yield entry.path, entry.frame, source


def _contradictions(frames: Sequence[Frame], rules: Rules) -> list[Finding]:
    """Return where frames of one camera contradict each other: row order, pattern, sample format, pedestal."""
    cameras: dict[Hashable, list[Frame]] = defaultdict(list)
    for frame in frames:
        cameras[frame.camera, frame.xbinning].append(frame)
    result = []
    for own in cameras.values():
        camera = own[0].camera or "a camera without name"
        raws = [frame for frame in own if not frame.is_master]
        for id, name, chosen in (
            ("SCN031", "row_order", own),
            ("SCN032", "cfa", [frame for frame in raws if frame.xbinning in (None, 1)]),
            ("SCN041", "pedestal", raws),
        ):
            count = Counter(value for frame in chosen if (value := getattr(frame, name)) is not None)
            if len(count) > 1:
                rare = min(count, key=lambda value: (count[value], str(value)))
                paths = [frame.path for frame in chosen if getattr(frame, name) == rare]
                result.append(_about(rules, id, paths, camera=camera, values=_counts(count), value=str(rare)))
        result += _mixed_formats(raws, camera, rules)
    return result


def _counts(count: Counter[str]) -> str:
    return ", ".join(f"{value} in {count[value]}" for value in sorted(count, key=str))


def _mixed_formats(frames: Sequence[Frame], camera: str, rules: Rules) -> list[Finding]:
    """Return a finding where raw frames of one camera are stored as integers here and as floats there."""
    count = Counter(f"{frame.format} {'0 to 1' if frame.dn_per_unit != 1.0 else 'DN'}" for frame in frames)
    if len(count) < 2:
        return []
    rare = min(count, key=lambda value: (count[value], value))
    paths = [
        frame.path for frame in frames if f"{frame.format} {'0 to 1' if frame.dn_per_unit != 1.0 else 'DN'}" == rare
    ]
    return [_about(rules, "SCN036", paths, camera=camera, values=_counts(count))]


def _odd_origins(entries: Sequence[Entry], rules: Rules) -> list[Finding]:
    """Return a finding for CFA frames of a part of the sensor that does not begin with a whole cell of the pattern."""
    odd: dict[str, str] = {}
    for path, frame, source in _sources(entries):
        if source.field in ("subframe_x", "subframe_y") and frame.cfa is not None and source.raw is not None:
            number = source.raw.strip().partition(".")[0]
            if number.lstrip("+-").isdigit() and int(number) % math.isqrt(len(frame.cfa)):
                odd.setdefault(path, f"{source.keyword} = {source.raw}")
    if not odd:
        return []
    first = next(iter(odd))
    return [_about(rules, "SCN035", list(odd), origin=odd[first])]


def _unverified_masters(frames: Sequence[Frame], rules: Rules) -> list[Finding]:
    """Return a finding for each master whose header lacks settings that a match would compare."""
    result = []
    for frame in frames:
        if not frame.is_master or frame.program == OWN_PROGRAM:
            continue
        missing = [] if frame.gain is not None or frame.iso is not None else ["gain"]
        missing += ["offset"] if frame.offset is None and frame.iso is None else []
        missing += (
            ["temperature"] if frame.role in ("dark", "flat_dark") and frame.temp_ccd is frame.temp_set is None else []
        )
        if missing:
            result.append(make_finding(rules, "SCN038", frame.path, missing=", ".join(missing)))
    return result
