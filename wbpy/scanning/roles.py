"""Decide what kind of frame a file is: from its header, its name and folders, its program, or a setting."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

from wbpy.findings import make_finding
from wbpy.io.formats import stem
from wbpy.io.headers import Card
from wbpy.model import ROLES, Role, Source
from wbpy.rules import DialectRule, RolesRules
from wbpy.scanning.values import Context, clean, number_of
from wbpy.scanning.walking import FoundFile

ROLE_SETTING = "setting scan.role"
"""Rule of the roles that the configuration gave."""

_AMBIGUOUS = ("OFFSET", "OFFSETS", "ZERO")
"""Words that mean a frame type only when they stand alone: names like M31_gain100_offset30 hold settings."""
_SAME_KIND = ("flat_dark", "dark")
"""Roles in header and name that do not contradict each other."""
_SETTINGS = ("BIN", "SEC", "SECS", "EXP", "ISO", "GAIN", "OFFSET", "TEMP", "DEG", "FRAME", "FRAMES")
"""Words in names that cannot be the name of a target."""


@dataclass
class Verdict:
    """What header, path and settings say about the kind of a frame."""

    role: Role | None = None
    is_master: bool = False
    calibrated: bool = False
    calibrated_because: str = ""
    result: str | None = None
    """Why the file is a result and no input."""
    ignored: Card | None = None
    """The card with a type that is not used."""
    unknown: Card | None = None
    """The card with a type that is not known."""


class _PathWords(NamedTuple):
    """The word for a frame type in one part of a path."""

    role: Role
    part: str
    alone: bool
    """True when the part holds no other word that could be a name."""


class RoleReader:
    """Decides what a frame is, from what is known about it alone."""

    def __init__(self, rules: RolesRules) -> None:
        self._rules = rules
        self._header = {value: role for role, values in rules.header.items() for value in values}
        self._words = {word: cast(Role, role) for role, words in rules.path_words.items() for word in words}
        self._masters = frozenset(rules.master_words)
        self._results = frozenset(rules.result_words)
        self._folders = frozenset(rules.result_folders)

    def decide(
        self,
        context: Context,
        file: FoundFile,
        is_float: bool,
        own_kind: str | None,
        dialect: DialectRule | None,
        setting: Role | None,
    ) -> Verdict:
        """Return the verdict; sources and findings go to the context."""
        parts = file.below.split("/")
        parts[-1] = stem(parts[-1])
        verdict = Verdict()
        path = self._path_roles(parts)
        found = self._header_role(context, file, verdict)
        if own_kind is not None and own_kind.startswith("master_") and own_kind.removeprefix("master_") in ROLES:
            verdict.role = cast(Role, own_kind.removeprefix("master_"))
            verdict.is_master = True
            self._source(context, "WBPYKIND", own_kind, "own product")
        elif found is not None:
            self._from_header(context, file, verdict, found, path)
        elif verdict.unknown is None and verdict.ignored is None:
            self._from_elsewhere(context, verdict, path, dialect, setting)
        self._master_or_result(context, verdict, parts, own_kind)
        self._calibrated(context, verdict, parts, is_float)
        return verdict

    @staticmethod
    def _source(context: Context, keyword: str | None, raw: str | None, rule: str) -> None:
        context.sources.append(Source(field="role", keyword=keyword, raw=raw, rule=rule))

    def _header_role(self, context: Context, file: FoundFile, verdict: Verdict) -> tuple[Card, str] | None:
        """Return the first card with a known type and that type; unknown and ignored ones go to the verdict."""
        found: tuple[Card, str] | None = None
        cards = [card for keyword in self._rules.keywords if (card := context.cards.get(keyword)) is not None]
        beside = context.beside.get("IMAGETYP")
        if beside is not None and beside not in cards:
            cards.append(beside)
        for card in cards:
            role = self._card_role(card)
            if role is None:
                if isinstance(card.value, str) and re.search("[A-Za-z]", card.value):
                    verdict.unknown = verdict.unknown or card
            elif found is None:
                found = (card, role)
            elif role != found[1] and "ignore" not in (role, found[1]):
                context.findings.append(
                    make_finding(
                        context.rules,
                        "SCN005",
                        file.path,
                        keyword=found[0].keyword,
                        role=found[1],
                        other_keyword=card.keyword,
                        other_role=role,
                    )
                )
        if found is not None:
            verdict.unknown = None
            if found[1] == "ignore":
                verdict.ignored = found[0]
                return None
        return found

    def _card_role(self, card: Card) -> str | None:
        codes = self._rules.codes.get(card.keyword)
        if codes is not None:
            number = number_of(card)
            return codes.get(f"{number:g}") if number is not None else None
        if not isinstance(card.value, str):
            return None
        return self._header.get(re.sub(r"[\s_-]+", " ", clean(card.value)).upper())

    def _from_header(
        self, context: Context, file: FoundFile, verdict: Verdict, found: tuple[Card, str], path: Sequence[_PathWords]
    ) -> None:
        card, name = found
        verdict.is_master = name.startswith("master_")
        verdict.role = cast(Role, name.removeprefix("master_"))
        self._source(context, card.keyword, card.raw, f"roles/header/{name}")
        roles = {words.role for words in path}
        if verdict.role == "dark" and "flat_dark" in roles:
            # Most programs know no flat-darks: a folder or name says more precisely what kind of dark it is.
            verdict.role = "flat_dark"
            part = next(words.part for words in path if words.role == "flat_dark")
            self._source(context, None, part, "roles/path_words/flat_dark: a dark of this name")
        elif path and path[0].alone and verdict.role not in roles and (verdict.role, path[0].role) != _SAME_KIND:
            context.findings.append(
                make_finding(
                    context.rules,
                    "SCN003",
                    file.path,
                    header_role=name,
                    keyword=card.keyword,
                    value=card.raw,
                    path_part=path[0].part,
                    path_role=path[0].role,
                )
            )

    def _from_elsewhere(
        self,
        context: Context,
        verdict: Verdict,
        path: Sequence[_PathWords],
        dialect: DialectRule | None,
        setting: Role | None,
    ) -> None:
        if path:
            words = path[0]
            if words.role == "dark":
                words = next((other for other in path if other.role == "flat_dark"), words)
            verdict.role = words.role
            self._source(context, None, words.part, f"roles/path_words/{words.role}")
        elif dialect is not None and dialect.role_default in ROLES:
            verdict.role = dialect.role_default
            self._source(context, None, None, f"dialects/{dialect.id}: {dialect.name} writes no type")
        elif setting is not None:
            verdict.role = setting
            self._source(context, None, setting, ROLE_SETTING)

    def _path_roles(self, parts: Sequence[str]) -> list[_PathWords]:
        """Return the first type word of each part of the path that has one, the innermost part first."""
        known = (*self._masters, *self._results, *_SETTINGS)
        found = []
        for part in reversed(parts):
            words = _words(part)
            for number, word in enumerate(words):
                pair = " ".join(words[number : number + 2])
                role = self._words.get(pair) if " " in pair else None
                if role is None and not (word in _AMBIGUOUS and len(words) > 1):
                    role = self._words.get(word)
                if role is not None:
                    others = [w for w in words if len(w) > 2 and w not in self._words and w not in known]
                    found.append(_PathWords(role, part, not others))
                    break
        return found

    def _master_or_result(self, context: Context, verdict: Verdict, parts: Sequence[str], own_kind: str | None) -> None:
        if own_kind is not None and not own_kind.startswith("master_"):
            verdict.result = f"WBPYKIND is {own_kind}"
            return
        words = set(_words(parts[-1]))
        folders = {" ".join(_words(part)) for part in parts[:-1]}
        count = context.values.get("stack_count") or 1
        master = words & self._masters or folders & self._masters
        if verdict.role in ("bias", "dark", "flat", "flat_dark"):
            if not verdict.is_master and (count > 1 or master):
                verdict.is_master = True
                said = f"{count} frames were combined" if count > 1 else f"the name says {sorted(master)[0].lower()}"
                self._source(context, None, None, f"master: {said}")
            return
        if verdict.role != "light":
            result = words & self._results
            if result:
                verdict.result = f"the name says {sorted(result)[0].lower()}"
            return
        result = words & self._results or words & self._masters
        if verdict.is_master:
            verdict.result = "the header says that it is a master light"
        elif count > 1:
            verdict.result = f"{count} frames were combined"
        elif result:
            verdict.result = f"the name says {sorted(result)[0].lower()}"
        verdict.is_master = False

    def _calibrated(self, context: Context, verdict: Verdict, parts: Sequence[str], is_float: bool) -> None:
        reason = ""
        if context.values.get("calibrated"):
            source = next(source for source in context.sources if source.field == "calibrated")
            reason = f"{source.keyword} {source.raw}"
        else:
            name = parts[-1]
            folder = next((part for part in parts[:-1] if " ".join(_words(part)) in self._folders), None)
            prefix = next((start for start in self._rules.calibrated_prefixes if name.lower().startswith(start)), None)
            if prefix is not None:
                reason = f"the name begins with {prefix}"
            elif folder is not None:
                reason = f"it lies in a folder named {folder}"
            elif is_float and name.endswith(self._rules.calibrated_endings):
                reason = f"the name ends with _{name.rpartition('_c')[2] or 'c'}"
            if reason:
                context.sources.append(Source(field="calibrated", keyword=None, raw=name, rule=reason))
        verdict.calibrated = bool(reason)
        verdict.calibrated_because = reason


@functools.lru_cache(maxsize=4096)
def _words(part: str) -> tuple[str, ...]:
    return tuple(word.upper() for word in re.findall("[A-Za-z]+", part))
