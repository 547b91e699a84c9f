"""Tell which lights show the same: by the name of the target together with where the telescope pointed.

Pointings nearer to each other than a limit are one field, whatever lies between them, so that a drift over the night
does not cut a set. Fields of one name that lie side by side are the panels of a mosaic; fields far apart are different
targets in spite of the name.
"""

from __future__ import annotations

import math
import re
import statistics
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wbpy.config import ScanSettings
from wbpy.findings import make_finding
from wbpy.model import Finding, Frame
from wbpy.rules import Rules

OVERLAP = 0.5
"""Fields that are shifted by less than this share of the frame's short side are one field."""
REACH = 3.0
"""Panels of one mosaic lie nearer to the next one than this share of the frame's diagonal, or one degree."""
UNKNOWN_REACH = 3.0
"""The same in degrees where focal length or pixel size are not known."""

_PANEL = re.compile(r"(.*?\w)[\s_-]*(?:panel|pane|tile)[\s_-]*([0-9]{1,3})", re.IGNORECASE)
_PARTS = re.compile(r"\s*(?:[-,;&+/]|\band\b)\s*", re.IGNORECASE)


class Place(NamedTuple):
    """What a light shows and how that is known."""

    target: str | None
    panel: int | None
    rule: str


def name_key(text: str) -> str:
    """Return the name of a target without case, blanks and dashes: what must be equal for two names to be one."""
    return re.sub(r"[\s_-]+", "", unicodedata.normalize("NFKC", text)).casefold()


def find_targets(
    lights: Iterable[Frame], rules: Rules, settings: ScanSettings
) -> tuple[dict[str, Place], list[Finding]]:
    """Return what each light shows, by path, and what is doubtful about it.

    Parameters
    ----------
    lights : iterable of Frame
        In any order; `object`, `ra`, `dec`, focal length, pixel and frame size are looked at.
    rules : Rules
        Wording of the findings.
    settings : ScanSettings
        `panel_separation` in degrees, `target_by`.
    """
    frames = sorted(lights, key=lambda frame: frame.path)
    if not frames:
        return {}, []
    return _Fields(frames, rules, settings).places()


class _Fields:
    """The fields in which lights lie, with the names they carry."""

    def __init__(self, frames: Sequence[Frame], rules: Rules, settings: ScanSettings) -> None:
        self.frames, self.rules = frames, rules
        self.by_pointing = settings.target_by == "pointing"
        short, diagonal = _view(frames)
        self.reach = UNKNOWN_REACH if diagonal is None else max(REACH * diagonal, 1.0)
        self.reach = max(self.reach, 2.0 * settings.panel_separation)
        separation = max(settings.panel_separation, OVERLAP * short if short is not None else 0.0)
        vectors = np.array([_vector(frame) for frame in frames])
        self.field = _clusters(vectors, separation)
        self.centre: dict[int, NDArray[np.float64]] = {}
        for field in sorted({field for field in self.field if field is not None}):
            mean = np.nanmean(vectors[[own == field for own in self.field]], axis=0)
            self.centre[field] = mean / np.linalg.norm(mean)
        self.stated = [_PANEL.fullmatch(frame.object.strip()) if frame.object else None for frame in frames]
        bases = [
            match[1] if match else (frame.object.strip() if frame.object else None)
            for frame, match in zip(frames, self.stated, strict=True)
        ]
        self.key = [name_key(base) or None if base else None for base in bases]
        spellings: dict[str, Counter[str]] = defaultdict(Counter)
        for key, base in zip(self.key, bases, strict=True):
            if key is not None and base is not None:
                spellings[key][base] += 1
        self.shown = {key: min(count, key=lambda text: (-count[text], text)) for key, count in spellings.items()}
        self.findings: list[Finding] = []

    def places(self) -> tuple[dict[str, Place], list[Finding]]:
        self._dissolve_compounds()
        names = self._names_of_fields()
        found = self._by_pointing(names) if self.by_pointing else self._by_name(names)
        return {frame.path: place for frame, place in zip(self.frames, found, strict=True)}, self.findings

    def _note(self, id: str, indices: Sequence[int], **evidence: str | int | float) -> None:
        first = self.frames[indices[0]].path
        self.findings.append(make_finding(self.rules, id, first, count=len(indices), first=first, **evidence))

    def _names_of_fields(self) -> dict[int, list[str]]:
        names: dict[int, set[str]] = {field: set() for field in self.centre}
        for field, key in zip(self.field, self.key, strict=True):
            if field is not None and key is not None:
                names[field].add(key)
        return {field: sorted(keys) for field, keys in names.items()}

    def _dissolve_compounds(self) -> None:
        """Give lights whose name joins those of others, such as ``M42-M33``, the one of them that lies there."""
        known = set(self.shown)
        parts = {key: {name_key(part) for part in _PARTS.split(text)} for key, text in self.shown.items()}
        compounds = {key: own for key, own in parts.items() if len(own) > 1 and own <= known - {key}}
        for compound, own in sorted(compounds.items()):
            there: dict[int, set[str]] = defaultdict(set)
            for field, key in zip(self.field, self.key, strict=True):
                if field is not None and key in own:
                    there[field].add(key)
            moved = []
            for index, (field, key) in enumerate(zip(self.field, self.key, strict=True)):
                if key == compound and field is not None and len(there.get(field, ())) == 1:
                    moved.append(index)
            for index in moved:
                self.key[index] = next(iter(there[self.field[index] or 0]))
            indices = moved or [index for index, key in enumerate(self.key) if key == compound]
            text = self.shown[compound]
            fate = "were joined with the target that lies there" if moved else "are a target of their own"
            self._note("SCN043", indices, name=text, fate=fate)

    def _by_pointing(self, names: dict[int, list[str]]) -> list[Place]:
        titles: dict[int, str] = {}
        for field, keys in names.items():
            count = Counter(
                key for own, key in zip(self.field, self.key, strict=True) if own == field and key is not None
            )
            best = min(keys, key=lambda key: (-count[key], key), default=None)
            titles[field] = self.shown[best] if best is not None else self._position(field)
        twice = Counter(titles.values())
        titles = {
            field: f"{title} {self._position(field)}" if twice[title] > 1 and title in self.shown.values() else title
            for field, title in titles.items()
        }
        found = []
        for own_field, key in zip(self.field, self.key, strict=True):
            homes = [other for other, keys in names.items() if key in keys]
            if own_field is not None:
                found.append(Place(titles[own_field], None, "pointing"))
            elif len(homes) == 1:
                found.append(Place(titles[homes[0]], None, "name: its field is the only one of this name"))
            else:
                found.append(Place(self.shown[key] if key else None, None, "name: no pointing"))
        return found

    def _by_name(self, names: dict[int, list[str]]) -> list[Place]:
        for shared, keys in names.items():
            if len(keys) > 1:
                indices = [index for index, own in enumerate(self.field) if own == shared]
                shown = ", ".join(self.shown[key] for key in keys)
                self._note("SCN028", indices, names=shown, position=self._position(shared))
        homes = {key: self._home(key) for key in sorted(self.shown)}
        found = []
        joined, lost = [], []
        for index, (field, key) in enumerate(zip(self.field, self.key, strict=True)):
            if key is not None:
                place = homes[key].get(field)
                if place is None:
                    place = self._without_pointing(index, key, homes[key])
                    if place.panel is None and len(homes[key]) > 1:
                        lost.append(index)
                found.append(place)
            elif field is None:
                found.append(Place(None, None, "neither name nor pointing"))
            elif len(names[field]) == 1:
                home = homes[names[field][0]][field]
                found.append(home._replace(rule=f"pointing: the other lights there show {home.target}"))
                joined.append(index)
            else:
                found.append(Place(self._position(field), None, "pointing: no name"))
        if joined:
            self._note("SCN029", joined, target=str(found[joined[0]].target))
        if lost:
            self._note("SCN042", lost, target=str(found[lost[0]].target))
        return found

    def _home(self, key: str) -> dict[int | None, Place]:
        """Return field -> place for the lights of one name."""
        fields = sorted(
            {field for field, own in zip(self.field, self.key, strict=True) if own == key and field is not None}
        )
        named = {
            field
            for field, own, stated in zip(self.field, self.key, self.stated, strict=True)
            if own == key and stated is not None
        }
        # Who numbers panels knows that they belong together, however far apart.
        areas = [fields] if fields and named >= set(fields) else _neighbours(fields, self.centre, self.reach)
        if len(areas) > 1:
            indices = [index for index, own in enumerate(self.key) if own == key]
            positions = "; ".join(self._position(min(area)) for area in areas)
            self._note("SCN027", indices, name=self.shown[key], fields=len(areas), positions=positions)
        home: dict[int | None, Place] = {}
        for area in areas:
            title = self.shown[key] if len(areas) == 1 else f"{self.shown[key]} {self._position(min(area))}"
            if len(area) == 1:
                home[area[0]] = Place(title, None, "name and pointing")
                continue
            numbers = self._panel_numbers(key, area)
            for field in area:
                home[field] = Place(title, numbers[field], "name; the panel by pointing")
            indices = [i for i, own in enumerate(self.field) if own in area and self.key[i] == key]
            self._note("SCN030", indices, target=title, panels=len(area), separation=self._nearest(area))
        return home

    def _panel_numbers(self, key: str, area: Sequence[int]) -> dict[int, int]:
        """Return field -> panel: the numbers in the names where each field has its own, else along right ascension."""
        named: dict[int, set[int]] = {field: set() for field in area}
        for field, own, stated in zip(self.field, self.key, self.stated, strict=True):
            if own == key and field in named and stated is not None:
                named[field].add(int(stated[2]))
        numbers = [next(iter(said)) for said in named.values() if len(said) == 1]
        if len(numbers) == len(area) == len(set(numbers)):
            return {field: next(iter(said)) for field, said in named.items()}
        middle = np.mean([self.centre[field] for field in area], axis=0)
        start = math.degrees(math.atan2(middle[1], middle[0])) - 180.0

        def order(field: int) -> tuple[float, float]:
            ra, dec = _degrees(self.centre[field])
            return round((ra - start) % 360.0, 2), round(dec, 2)

        return {field: number for number, field in enumerate(sorted(area, key=order), 1)}

    def _without_pointing(self, index: int, key: str, home: dict[int | None, Place]) -> Place:
        stated = self.stated[index]
        panel = int(stated[2]) if stated is not None else None
        targets = {place.target for place in home.values()}
        panels = {place.panel for place in home.values()}
        if panel is not None and len(targets) == 1 and home and panel not in panels:
            panel = None
        target = targets.pop() if len(targets) == 1 else self.shown[key]
        return Place(target, panel, "name: no pointing")

    def _nearest(self, area: Sequence[int]) -> float:
        gaps = [_angle(self.centre[a], self.centre[b]) for a in area for b in area if a < b]
        return round(min(gaps), 3)

    def _position(self, field: int) -> str:
        ra, dec = _degrees(self.centre[field])
        return f"RA {ra:.1f} Dec {dec:+.1f}"


def _view(frames: Sequence[Frame]) -> tuple[float | None, float | None]:
    """Return short side and diagonal of the typical frame in degrees, None where a header lacks what they need."""
    sides = [
        (
            math.degrees(frame.width * frame.pixel_size / 1000.0 / frame.focal_length),
            math.degrees(frame.height * frame.pixel_size / 1000.0 / frame.focal_length),
        )
        for frame in frames
        if frame.width and frame.height and frame.pixel_size and frame.focal_length
    ]
    if not sides:
        return None, None
    # The smallest of several cameras: what it would not see together is told apart.
    short = min(statistics.median_low([min(side) for side in sides]), 20.0)
    return short, min(statistics.median_low([math.hypot(*side) for side in sides]), 30.0)


def _vector(frame: Frame) -> tuple[float, float, float]:
    if frame.ra is None or frame.dec is None:
        return (math.nan, math.nan, math.nan)
    ra, dec = math.radians(frame.ra), math.radians(frame.dec)
    return (math.cos(dec) * math.cos(ra), math.cos(dec) * math.sin(ra), math.sin(dec))


def _degrees(vector: NDArray[np.float64]) -> tuple[float, float]:
    ra = math.degrees(math.atan2(float(vector[1]), float(vector[0]))) % 360.0
    return ra, math.degrees(math.asin(max(-1.0, min(1.0, float(vector[2])))))


def _angle(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return the angle between two unit vectors in degrees, from the chord, which is exact for small ones."""
    return math.degrees(2.0 * math.asin(min(1.0, float(np.linalg.norm(a - b)) / 2.0)))


def _clusters(vectors: NDArray[np.float64], separation: float) -> list[int | None]:
    """Return the number of the cluster of each unit vector, None for NaN: chains of steps below `separation` degrees.

    Vectors are binned into cubes so small that all in one belong together; only cubes near each other are compared,
    which keeps many thousands of pointings fast. The numbers do not depend on the order of the vectors.
    """
    known = np.flatnonzero(np.isfinite(vectors).all(axis=1))
    result: list[int | None] = [None] * len(vectors)
    if not len(known):
        return result
    chord = 2.0 * math.sin(math.radians(separation) / 2.0)
    unique, inverse = np.unique(np.round(vectors[known], 9), axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    side = chord / math.sqrt(3.0) * 0.999
    cubes: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, cube in enumerate(np.floor(unique / side).astype(np.int64).tolist()):
        cubes[tuple(cube)].append(index)
    parent = {cube: cube for cube in cubes}

    def root(cube: tuple[int, ...]) -> tuple[int, ...]:
        while parent[cube] != cube:
            parent[cube] = parent[parent[cube]]
            cube = parent[cube]
        return cube

    steps = [(x, y, z) for x in range(3) for y in range(-2, 3) for z in range(-2, 3) if (x, y, z) > (0, 0, 0)]
    for cube, members in cubes.items():
        for x, y, z in steps:
            other = (cube[0] + x, cube[1] + y, cube[2] + z)
            if other in cubes and root(cube) != root(other) and _touch(unique[members], unique[cubes[other]], chord):
                parent[root(cube)] = root(other)
    numbers: dict[tuple[int, ...], int] = {}
    label = [0] * len(unique)
    owner = {index: root(cube) for cube, members in cubes.items() for index in members}
    for index in range(len(unique)):
        label[index] = numbers.setdefault(owner[index], len(numbers))
    for position, index in zip(known.tolist(), inverse.tolist(), strict=True):
        result[position] = label[index]
    return result


def _touch(a: NDArray[np.float64], b: NDArray[np.float64], chord: float) -> bool:
    """Return whether any vector of `a` lies within `chord` of any of `b`."""
    step = max(1, 1_000_000 // max(len(b), 1))
    for start in range(0, len(a), step):
        gaps = a[start : start + step, None, :] - b[None, :, :]
        if bool((np.einsum("ijk,ijk->ij", gaps, gaps) <= chord * chord).any()):
            return True
    return False


def _neighbours(fields: Sequence[int], centre: dict[int, NDArray[np.float64]], reach: float) -> list[list[int]]:
    """Return the fields joined to areas whose members lie within `reach` degrees of the next one."""
    areas: list[list[int]] = []
    for field in fields:
        near = [area for area in areas if any(_angle(centre[field], centre[other]) <= reach for other in area)]
        areas = [area for area in areas if area not in near]
        areas.append(sorted([field, *(other for area in near for other in area)]))
    return sorted(areas)
