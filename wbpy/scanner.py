"""Find frames and turn their headers into typed values, each with where it came from.

What a keyword is called and which spelling means what stands in ``rules/``; here are the normalisers, the closed
set of functions that turn header text into values. A value that is not understood is unknown, never guessed.
"""

from __future__ import annotations

import functools
import hashlib
import math
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, cast

import msgspec
import numpy as np

from wbpy.catalog import Catalog, Entry
from wbpy.config import ScanSettings
from wbpy.errors import ReadError, RuleError
from wbpy.findings import make_finding
from wbpy.io.formats import HEAD_SIZE, identify, stem, suffix
from wbpy.io.headers import Card, FitsHeader, load_header
from wbpy.io.images import READABLE, open_image
from wbpy.model import ROLES, Finding, Frame, Role, Source
from wbpy.rules import DialectRule, RolesRules, Rules

VERSION = 1
"""Raised when the same header would be read differently: saved catalogs are then read anew."""

_FRAME_FIELDS = frozenset(Frame.__struct_fields__)
_DENOISED = 1e-12
_SMALLEST_SIDE = 8
_SAMPLED_ROWS = 64
_UNIT_RANGE = 1.001
_DN_RANGE = 65535.0
_PATTERNS = ("RGGB", "BGGR", "GRBG", "GBRG")
_DARK_ROLES = ("bias", "dark", "flat_dark")
_AMBIGUOUS = ("OFFSET", "OFFSETS", "ZERO")
"""Words that mean a frame type only when they stand alone: names like M31_gain100_offset30 hold settings."""
_SAME_KIND = ("flat_dark", "dark")
"""Roles in header and name that do not contradict each other."""
_SETTINGS = ("BIN", "SEC", "SECS", "EXP", "ISO", "GAIN", "OFFSET", "TEMP", "DEG", "FRAME", "FRAMES")
"""Words in names that cannot be the name of a target."""


def scan(
    paths: Sequence[str | os.PathLike[str]],
    rules: Rules,
    settings: ScanSettings,
    previous: Catalog | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Catalog:
    """Return the catalog of all frames in the given files and folders.

    Parameters
    ----------
    paths : sequence of path-like
        Files and folders; folders are searched to any depth, in the order of names.
    rules : Rules
        Keywords, dialects, spellings and findings.
    settings : ScanSettings
        Section ``scan`` of the configuration.
    previous : Catalog, optional
        An earlier scan: files with the same path, size and modification time are taken over from it.
    on_progress : callable, optional
        Called with (files done, files found) after each file.

    Returns
    -------
    Catalog
        Sorted by path. A file that cannot be read, or must not be used, is held back with exactly one finding that
        says so; nothing in a file makes this function raise.

    Raises
    ------
    RuleError
        If a rule names a normaliser that does not exist.
    """
    reader = _Reader(rules, settings)
    found = _Walk(rules, settings)
    # Outer folders first: the words of a path count from the outermost folder that was given, in whatever order.
    for path in sorted({os.path.abspath(os.fspath(path)) for path in paths}, key=lambda path: (len(path), path)):
        found.add(path)
    known = {}
    if previous is not None and previous.basis == reader.basis:
        known = {entry.path: entry for entry in previous.entries}
    entries = []
    for number, file in enumerate(found.files, 1):
        old = known.get(file.path)
        same = old is not None and (old.size, old.modified_ns, old.below) == (file.size, file.modified_ns, file.below)
        entry = old if same else reader.read(file)
        if entry is None:
            found.passed_over(file.path)
        else:
            entries.append(entry)
        if on_progress is not None:
            on_progress(number, len(found.files))
    entries.sort(key=lambda entry: entry.path)
    return Catalog(entries, (*found.findings(), *reader.remarks(entries)), reader.basis)


class _File(NamedTuple):
    """One file that the walk came across."""

    path: str
    below: str
    """Path below the folder that the user named, with slashes."""
    size: int
    modified_ns: int


class _Walk:
    """The files below the given paths, each once, and what was passed over on the way."""

    def __init__(self, rules: Rules, settings: ScanSettings) -> None:
        self.files: list[_File] = []
        self._rules = rules
        self._follow = settings.follow_links
        self._findings: list[Finding] = []
        self._paths: set[str] = set()
        self._identities: dict[tuple[int, int], str] = {}
        self._folders: set[tuple[int, int]] = set()
        self._hidden: dict[str, list[str]] = {}
        self._others: dict[str, int] = {}
        self._root = ""

    def add(self, path: str) -> None:
        """Search one path that the user named."""
        self._root = path
        if os.path.isdir(path):
            self._folder(path, "")
        else:
            self._file(path, os.path.basename(path))

    def passed_over(self, path: str) -> None:
        """Note a file that is no image."""
        kind = suffix(path) or "no suffix"
        self._others[kind] = self._others.get(kind, 0) + 1

    def findings(self) -> list[Finding]:
        """Return what is to be said about the search as a whole."""
        result = list(self._findings)
        for folder, names in self._hidden.items():
            result.append(make_finding(self._rules, "SCN012", folder, count=len(names), first=names[0]))
        if self._others:
            kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(self._others.items()))
            count = sum(self._others.values())
            result.append(make_finding(self._rules, "SCN013", self._root, count=count, kinds=kinds))
        return result

    def _note(self, id: str, subject: str, **evidence: str) -> None:
        self._findings.append(make_finding(self._rules, id, _printable(subject), **evidence))

    def _folder(self, path: str, below: str) -> None:
        try:
            state = os.stat(path)
            with os.scandir(path) as listing:
                children = sorted(listing, key=lambda child: child.name)
        except OSError as error:
            self._note("SCN016", path, problem=error.strerror or str(error))
            return
        identity = (state.st_dev, state.st_ino)
        if state.st_ino and identity in self._folders:
            # The user named a folder twice, or links lead in a circle: each folder is searched once.
            return
        self._folders.add(identity)
        names = {child.name for child in children}
        if ".store" in names and ("plan.json" in names or "run.json" in names):
            self._note("SCN011", path)
            children = [child for child in children if child.name == "masters"]
        for child in children:
            self._child(child, path, below)

    def _child(self, child: os.DirEntry[str], folder: str, below: str) -> None:
        if child.name.startswith("."):
            self._hidden.setdefault(_printable(folder), []).append(_printable(child.name))
            return
        inner = f"{below}/{child.name}" if below else child.name
        try:
            is_folder = child.is_dir()
            if is_folder and child.is_symlink():
                state = child.stat()
                if not self._follow:
                    self._note("SCN015", child.path, reason="scan.follow_links is false")
                    return
                if (state.st_dev, state.st_ino) in self._folders:
                    self._note("SCN015", child.path, reason="it leads to a folder that was searched already")
                    return
        except OSError as error:
            self._note("SCN016", child.path, problem=error.strerror or str(error))
            return
        if is_folder:
            self._folder(child.path, inner)
        else:
            self._file(child.path, inner)

    def _file(self, path: str, below: str) -> None:
        if path in self._paths:
            return
        self._paths.add(path)
        size, modified_ns = -1, 0
        try:
            state = os.stat(path)
        except OSError:
            # The reader will say what is wrong with it.
            pass
        else:
            if not stat.S_ISREG(state.st_mode):
                self.passed_over(path)
                return
            size, modified_ns = state.st_size, state.st_mtime_ns
            identity = (state.st_dev, state.st_ino)
            if state.st_ino and (other := self._identities.setdefault(identity, path)) != path:
                self._note("SCN018", path, other=_printable(other))
                return
        self.files.append(_File(path, below.replace(os.sep, "/"), size, modified_ns))


class _NotUnderstood:
    """What a normaliser returns for a text that it cannot read; None means that there is no value."""


_BAD = _NotUnderstood()


@dataclass
class _Context:
    """What the normalisers of one file may look at."""

    cards: dict[str, Card]
    rules: _Reader
    values: dict[str, Any] = field(default_factory=dict)
    sources: list[Source] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    utc_offset: timedelta | None = None
    """What DATE-OBS says about its zone."""


Normaliser = Callable[[Card, _Context], Any]


class _Attempt(NamedTuple):
    """One keyword to try for one field."""

    keyword: str
    normalise: Normaliser
    rule: str


class _FieldPlan(NamedTuple):
    """How one field is read in one dialect, looked up beforehand."""

    id: str
    attempts: tuple[_Attempt, ...]
    missing_texts: frozenset[str]
    missing_numbers: tuple[float, ...]


class _Reader:
    """Reads single files with the rules prepared for speed."""

    def __init__(self, rules: Rules, settings: ScanSettings) -> None:
        self.rules = rules
        self.settings = settings
        self.roles = _RoleReader(rules.roles)
        self.filters = _filter_names(rules)
        self.history_starts = rules.roles.calibrated_history
        content = (VERSION, rules.fields, rules.dialects, rules.roles, rules.filters, rules.findings, settings)
        self.basis = hashlib.sha256(msgspec.json.encode(content)).hexdigest()
        self._generic = _plans(rules, None)
        self._dialects: dict[str, tuple[_FieldPlan, ...]] = {
            id: _plans(rules, dialect) for id, dialect in rules.dialects.items()
        }
        self._marks: dict[str, list[tuple[str, int, DialectRule]]] = {}
        for order, dialect in enumerate(rules.dialects.values()):
            for keyword, start in dialect.identify:
                self._marks.setdefault(keyword, []).append((start, order, dialect))

    def read(self, file: _File) -> Entry | None:
        """Return what one file says, or None when it is no image."""
        try:
            file.path.encode("utf-8")
        except UnicodeEncodeError:
            return self._refused(file._replace(path=_printable(file.path), below=_printable(file.below)), "SCN020")
        try:
            with open(file.path, "rb") as stream:
                head = stream.read(HEAD_SIZE)
        except OSError as error:
            return self._refused(file, "FIL002", problem=error.strerror or str(error))
        form = identify(file.path, head)
        if form is None:
            return None
        if not head:
            return self._refused(file, "FIL001")
        if form == "raw":
            return self._refused(file, "FIL004", suffix=suffix(file.path))
        if form == "xisf":
            return self._refused(file, "FIL005")
        if form not in READABLE:
            return self._refused(file, "FIL006", format=form)
        try:
            header = load_header(file.path)
        except ReadError as error:
            problem = str(error).removeprefix(f"{file.path}: ")
            return self._refused(file, "FIL002", problem=problem)
        return self._frame(file, header)

    def remarks(self, entries: Sequence[Entry]) -> list[Finding]:
        """Return what is to be said once about many frames."""
        result = []
        frames = [(entry, entry.frame) for entry in entries if entry.frame is not None and entry.held_back is None]
        utc = [entry.path for entry, _ in frames if any(source.rule == _UTC_NIGHT for source in entry.sources)]
        if utc:
            result.append(make_finding(self.rules, "SCN014", utc[0], count=len(utc), first=utc[0]))
        by_setting = [path for path, source in _with_source(entries, "role") if source.rule == _ROLE_SETTING]
        if by_setting:
            result.append(
                make_finding(
                    self.rules,
                    "SCN017",
                    by_setting[0],
                    count=len(by_setting),
                    role=self.settings.role,
                    first=by_setting[0],
                )
            )
        forced: dict[str, list[str]] = {}
        for path, source in _with_source(entries, "cfa"):
            if source.rule == _CFA_SETTING and source.raw is not None:
                forced.setdefault(source.raw, []).append(path)
        for found, paths in sorted(forced.items()):
            result.append(
                make_finding(
                    self.rules,
                    "SCN021",
                    paths[0],
                    count=len(paths),
                    found=found,
                    used=self.settings.cfa,
                    first=paths[0],
                )
            )
        return result

    def _refused(self, file: _File, id: str, **evidence: str | int) -> Entry:
        return Entry(
            path=file.path,
            below=file.below,
            size=max(file.size, 0),
            modified_ns=file.modified_ns,
            findings=(make_finding(self.rules, id, file.path, **evidence),),
            held_back=id,
        )

    def _frame(self, file: _File, header: FitsHeader) -> Entry:
        cards: dict[str, Card] = {}
        commentary: dict[str, list[Card]] = {"COMMENT": [], "HISTORY": []}
        for card in header.cards:
            cards.setdefault(card.keyword, card)
            if card.keyword in commentary:
                commentary[card.keyword].append(card)
        dialect = self._dialect(cards, commentary)
        context = _Context(cards, self)
        for plan in self._generic if dialect is None else self._dialects[dialect.id]:
            self._read_field(file, plan, context, commentary)
        own_kind = cards["WBPYKIND"].raw if "WBPYKIND" in cards else None
        verdict = self.roles.decide(context, file, header.bitpix < 0, own_kind, dialect, self.settings.role)
        width, height = header.axes[0], header.axes[1]
        channels = math.prod(header.axes[2:])
        self._adjust_filter(verdict.role, context)
        row_order = context.values.get("row_order")
        cfa = self._cfa(context, height, channels, own_kind is not None)
        night = _night(context)
        program = self._program(dialect, context)
        scale = self._dn_per_unit(file, header, cards, own_kind)
        values = context.values
        frame = Frame(
            path=file.path,
            role=verdict.role,
            is_master=verdict.is_master,
            exposure=values.get("exposure"),
            gain=values.get("gain"),
            offset=values.get("offset"),
            e_per_dn=values.get("e_per_dn"),
            iso=values.get("iso"),
            temp_ccd=values.get("temp_ccd"),
            temp_set=values.get("temp_set"),
            filter=values.get("filter"),
            xbinning=values.get("xbinning"),
            ybinning=values.get("ybinning"),
            width=width,
            height=height,
            channels=channels,
            cfa=cfa,
            row_order=row_order,
            camera=values.get("camera"),
            read_mode=values.get("read_mode"),
            date_obs=values.get("date_obs"),
            night=night,
            object=values.get("object"),
            ra=values.get("ra") if values.get("dec") is not None else None,
            dec=values.get("dec") if values.get("ra") is not None else None,
            rotator=values.get("rotator"),
            pier_side=values.get("pier_side"),
            focal_length=values.get("focal_length"),
            pixel_size=values.get("pixel_size"),
            program=program,
            format="fits",
            calibrated=verdict.calibrated,
            stack_count=values.get("stack_count"),
            dn_per_unit=scale,
            size=file.size,
            modified_ns=file.modified_ns,
        )
        held_back = self._hold_back(frame, header, verdict, context)
        return Entry(
            path=file.path,
            below=file.below,
            size=file.size,
            modified_ns=file.modified_ns,
            frame=frame,
            sources=tuple(context.sources),
            findings=tuple(context.findings),
            held_back=held_back,
        )

    def _dialect(self, cards: dict[str, Card], commentary: dict[str, list[Card]]) -> DialectRule | None:
        """Return the dialect that matches and was read last, so that a user's overrules a built-in one."""
        best: tuple[int, DialectRule] | None = None
        for keyword, marks in self._marks.items():
            if keyword in commentary:
                texts = [card.raw for card in commentary[keyword]]
            elif keyword in cards:
                texts = [cards[keyword].raw]
            else:
                continue
            for start, order, dialect in marks:
                if (best is None or order > best[0]) and any(text.startswith(start) for text in texts):
                    best = (order, dialect)
        return best[1] if best else None

    def _read_field(self, file: _File, plan: _FieldPlan, context: _Context, commentary: dict[str, list[Card]]) -> None:
        doubtful: Card | None = None
        for keyword, normalise, rule in plan.attempts:
            if keyword in commentary:
                candidates = commentary[keyword]
            elif keyword in context.cards:
                candidates = [context.cards[keyword]]
            else:
                continue
            for card in candidates:
                if _is_missing(card, plan):
                    continue
                value = normalise(card, context)
                if value is None:
                    continue
                if isinstance(value, _NotUnderstood):
                    doubtful = doubtful or card
                    continue
                context.values[plan.id] = value
                raw = card.raw if card.keyword != "SIMPLE" else card.comment
                context.sources.append(Source(field=plan.id, keyword=card.keyword, raw=raw, rule=rule))
                return
        if doubtful is not None and plan.id in _FRAME_FIELDS:
            context.findings.append(
                make_finding(
                    self.rules, "SCN004", file.path, keyword=doubtful.keyword, value=doubtful.raw, field=plan.id
                )
            )

    def _adjust_filter(self, role: Role | None, context: _Context) -> None:
        """Forget the filter of frames that no light reached: programs write whatever was in the light path."""
        if role in _DARK_ROLES and context.values.pop("filter", None) is not None:
            for number, source in enumerate(context.sources):
                if source.field == "filter":
                    rule = f"not taken: no light passes the filter in a {role} frame"
                    context.sources[number] = msgspec.structs.replace(source, rule=rule)

    def _cfa(self, context: _Context, height: int, channels: int, own: bool) -> str | None:
        """Return the pattern of the stored rows.

        Programs that write ROWORDER state BAYERPAT for the picture with its top row first (Siril's and
        DeepSkyStacker's reading). When the stored rows begin at the bottom and their number is even, the stored
        pattern has its rows exchanged; with an odd number the last row has the parity of the first.
        Our own products state the stored pattern.
        """
        stated = context.values.get("cfa")
        forced = self.settings.cfa
        if forced != "auto":
            used = None if forced == "none" or channels != 1 else forced
            if stated != used:
                source = Source(field="cfa", keyword=None, raw=stated, rule=_CFA_SETTING)
                context.sources.append(source)
            return used
        if stated is None or channels != 1:
            return None
        rows = [stated[:2], stated[2:]]
        if context.values.get("bayer_x", 0) % 2:
            rows = [row[::-1] for row in rows]
        flip = context.values.get("bayer_y", 0) % 2
        order = context.values.get("row_order") or self.settings.row_order
        if order == "BOTTOM-UP" and height % 2 == 0 and not own:
            flip = 1 - flip
        return "".join(reversed(rows)) if flip else "".join(rows)

    def _program(self, dialect: DialectRule | None, context: _Context) -> str | None:
        written = context.values.get("program")
        if dialect is None:
            return cast("str | None", written)
        context.sources = [source for source in context.sources if source.field != "program"]
        context.sources.append(Source(field="program", keyword=None, raw=written, rule=f"dialects/{dialect.id}"))
        return dialect.name

    def _dn_per_unit(self, file: _File, header: FitsHeader, cards: dict[str, Card], own_kind: str | None) -> float:
        """Return 65535 for floating-point files scaled to [0, 1], else 1."""
        if header.bitpix > 0:
            return 1.0
        if own_kind is not None:
            scale = cards["DNSCALE"].value if "DNSCALE" in cards else None
            return float(scale) if isinstance(scale, int | float) and scale > 0 else _DN_RANGE
        try:
            with open_image(file.path) as image:
                highest = -math.inf
                for y in np.unique(np.linspace(0, image.height - 1, _SAMPLED_ROWS).astype(np.int64)):
                    row = image.read(int(y), int(y) + 1)
                    if not np.isnan(row).all():
                        highest = max(highest, float(np.nanmax(row)))
        except ReadError:
            # Whoever reads the pixels reports it; the header was fine.
            return 1.0
        return _DN_RANGE if 0.0 < highest <= _UNIT_RANGE else 1.0

    def _hold_back(self, frame: Frame, header: FitsHeader, verdict: _Verdict, context: _Context) -> str | None:
        """Return the id of the finding that keeps the frame out, the first that applies, or None."""
        role = frame.role or "frame"
        small = min(frame.width or 0, frame.height or 0) < _SMALLEST_SIDE
        finding: Finding | None = None

        def make(id: str, **evidence: str | int | None) -> Finding:
            return make_finding(self.rules, id, frame.path, **evidence)

        expected = header.data_start + header.data_size
        if not header.gzipped and not header.tiled and frame.size < expected:
            finding = make("FIL003", found_bytes=frame.size, expected_bytes=expected)
        elif verdict.result is not None:
            finding = make("SCN006", reason=verdict.result)
        elif small:
            finding = make("SCN019", width=frame.width, height=frame.height)
        elif frame.channels != 1:
            finding = make("SCN008", channels=frame.channels)
        elif verdict.ignored is not None:
            finding = make("SCN009", keyword=verdict.ignored.keyword, value=verdict.ignored.raw)
        elif verdict.unknown is not None:
            finding = make("SCN002", keyword=verdict.unknown.keyword, value=verdict.unknown.raw)
        elif frame.role is None:
            finding = make("SCN001")
        elif header.bitpix == 8:
            finding = make("SCN010")
        elif frame.calibrated and not frame.is_master:
            finding = make("SCN007", role=role, reason=verdict.calibrated_because)
        if finding is None:
            return None
        context.findings.append(finding)
        return finding.id


_UTC_NIGHT = "UTC date 12 h earlier: local time and longitude are unknown"
_ROLE_SETTING = "setting scan.role"
_CFA_SETTING = "setting scan.cfa"


def _with_source(entries: Sequence[Entry], name: str) -> Iterator[tuple[str, Source]]:
    for entry in entries:
        if entry.frame is not None and entry.held_back is None:
            for source in entry.sources:
                if source.field == name:
                    yield entry.path, source


def _printable(path: str) -> str:
    """Return a path that can be written as UTF-8, bytes that are no text as question marks."""
    return path.encode("utf-8", "replace").decode("utf-8")


def _plans(rules: Rules, dialect: DialectRule | None) -> tuple[_FieldPlan, ...]:
    plans = []
    for id, rule in rules.fields.items():
        keywords, normalise, missing, by_keyword = rule.keywords, rule.normalise, rule.missing, rule.by_keyword
        where = f"fields/{id}"
        over = dialect.fields.get(id) if dialect is not None else None
        if dialect is not None and over is not None:
            where = f"dialects/{dialect.id}/{id}"
            keywords = keywords if over.keywords is None else over.keywords
            missing = missing if over.missing is None else over.missing
            by_keyword = by_keyword if over.by_keyword is None else over.by_keyword
            if over.normalise is not None:
                normalise = over.normalise
        attempts = []
        for keyword in keywords:
            name = by_keyword.get(keyword, normalise)
            name = f"{name}_{rule.dtype}" if name == "plain" else name
            if name not in NORMALISERS:
                known = ", ".join(sorted(NORMALISERS))
                raise RuleError(f"{where}: there is no normaliser {name!r}, expected one of {known}")
            attempts.append(_Attempt(keyword, NORMALISERS[name], f"{where}: {name}"))
        texts = frozenset(str(value).casefold() for value in missing if isinstance(value, str))
        numbers = tuple(float(value) for value in missing if not isinstance(value, str))
        plans.append(_FieldPlan(id, tuple(attempts), texts, numbers))
    if dialect is not None and (unknown := set(dialect.fields) - set(rules.fields)):
        known = ", ".join(rules.fields)
        raise RuleError(f"dialects/{dialect.id}: there is no field {sorted(unknown)[0]!r}, expected one of {known}")
    return tuple(plans)


def _is_missing(card: Card, plan: _FieldPlan) -> bool:
    text = _clean(card.raw)
    if not text or text.casefold() in plan.missing_texts:
        return True
    if plan.missing_numbers:
        number = _number(card)
        return number is not None and any(math.isclose(number, value, abs_tol=1e-6) for value in plan.missing_numbers)
    return False


def _filter_names(rules: Rules) -> dict[str, str]:
    """Return spelling -> canonical name; single letters as they are, others without case and separators."""
    names: dict[str, str] = {}
    for rule in rules.filters.values():
        for alias in (rule.id, *rule.aliases):
            names[_filter_key(alias)] = rule.id
    return names


def _filter_key(text: str) -> str:
    return text if len(text) == 1 else re.sub(r"[\s_-]+", "", text).casefold()


# Roles ---------------------------------------------------------------------------------------------------------


@dataclass
class _Verdict:
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


class _RoleReader:
    """Decides what a frame is."""

    def __init__(self, rules: RolesRules) -> None:
        self._rules = rules
        self._header = {value: role for role, values in rules.header.items() for value in values}
        self._words = {word: cast(Role, role) for role, words in rules.path_words.items() for word in words}
        self._masters = frozenset(rules.master_words)
        self._results = frozenset(rules.result_words)
        self._folders = frozenset(rules.result_folders)

    def decide(
        self,
        context: _Context,
        file: _File,
        is_float: bool,
        own_kind: str | None,
        dialect: DialectRule | None,
        setting: Role | None,
    ) -> _Verdict:
        """Return the verdict; sources and findings go to the context."""
        parts = file.below.split("/")
        parts[-1] = stem(parts[-1])
        verdict = _Verdict()
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
    def _source(context: _Context, keyword: str | None, raw: str | None, rule: str) -> None:
        context.sources.append(Source(field="role", keyword=keyword, raw=raw, rule=rule))

    def _header_role(self, context: _Context, file: _File, verdict: _Verdict) -> tuple[Card, str] | None:
        """Return the first card with a known type and that type; unknown and ignored ones go to the verdict."""
        found: tuple[Card, str] | None = None
        for keyword in self._rules.keywords:
            card = context.cards.get(keyword)
            if card is None:
                continue
            role = self._card_role(card)
            if role is None:
                if isinstance(card.value, str) and re.search("[A-Za-z]", card.value):
                    verdict.unknown = verdict.unknown or card
            elif found is None:
                found = (card, role)
            elif role != found[1] and "ignore" not in (role, found[1]):
                context.findings.append(
                    make_finding(
                        context.rules.rules,
                        "SCN005",
                        file.path,
                        keyword=found[0].keyword,
                        role=found[1],
                        other_keyword=keyword,
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
            number = _number(card)
            return codes.get(f"{number:g}") if number is not None else None
        if not isinstance(card.value, str):
            return None
        return self._header.get(re.sub(r"[\s_-]+", " ", _clean(card.value)).upper())

    def _from_header(
        self, context: _Context, file: _File, verdict: _Verdict, found: tuple[Card, str], path: Sequence[_PathWords]
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
                    context.rules.rules,
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
        context: _Context,
        verdict: _Verdict,
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
            self._source(context, None, setting, _ROLE_SETTING)

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

    def _master_or_result(
        self, context: _Context, verdict: _Verdict, parts: Sequence[str], own_kind: str | None
    ) -> None:
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

    def _calibrated(self, context: _Context, verdict: _Verdict, parts: Sequence[str], is_float: bool) -> None:
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


# Normalisers ---------------------------------------------------------------------------------------------------

_NUMBER = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eEdD][+-]?[0-9]+)?)\s*([A-Za-z%°\"']*)")
_SEXAGESIMAL = re.compile(
    r"([+-]?)\s*([0-9]+(?:\.[0-9]*)?)[\s:hd°]+([0-9]+(?:\.[0-9]*)?)(?:[\s:m'′]+([0-9]+(?:\.[0-9]*)?))?[s\"″]?"
)
_E_PER_DN = re.compile(r"e\s*-?\s*/\s*(adu|dn)|electrons?\s*(per|/)|photo-?electrons?", re.IGNORECASE)
_ISO_CLOCK = re.compile(
    r"([0-9]{4})[-/]([0-9]{1,2})[-/]([0-9]{1,2})"
    r"(?:[T\s]+([0-9]{1,2}):([0-9]{1,2})(?::([0-9]{1,2}(?:\.[0-9]*)?))?)?"
    r"\s*(Z|UTC?|[+-][0-9]{2}:?[0-9]{2})?"
)
_OLD_DATE = re.compile(r"([0-9]{1,2})/([0-9]{1,2})/([0-9]{2})")
_US_CLOCK = re.compile(
    r"([0-9]{1,2})/([0-9]{1,2})/([0-9]{4})\s+([0-9]{1,2}):([0-9]{2})(?::([0-9]{2}))?\s*([AP])M", re.IGNORECASE
)
_TIME = re.compile(r"([0-9]{1,2}):([0-9]{1,2})(?::([0-9]{1,2}(?:\.[0-9]*)?))?")


def _clean(text: str) -> str:
    return text.replace("\x00", "").strip()


def _quantity(card: Card) -> tuple[float, str] | None:
    """Return number and unit letters of a card, or None when it does not hold one finite number."""
    value = card.value
    if isinstance(value, bool) or value is None:
        return None
    unit = ""
    if isinstance(value, str):
        text = _clean(value)
        if "." not in text:
            text = text.replace(",", ".")
        match = _NUMBER.fullmatch(text)
        if match is None:
            return None
        value = float(match[1].replace("D", "E").replace("d", "e"))
        unit = match[2].lower()
    try:
        number = float(value)
    except OverflowError:
        return None
    return (_denoise(number), unit) if math.isfinite(number) else None


def _denoise(number: float) -> float:
    """Return the shortest decimal of a 32-bit float that was written with more digits, such as 2.90000009536743."""
    if number.is_integer() or not 1e-30 < abs(number) < 1e30:
        return number
    short = np.float32(number)
    return float(str(short)) if abs(float(short) - number) <= _DENOISED * abs(number) else number


def _number(card: Card) -> float | None:
    """Return the number of a card that has no unit letters."""
    found = _quantity(card)
    return found[0] if found is not None and not found[1] else None


def _plain_float(card: Card, context: _Context) -> Any:
    number = _number(card)
    return _BAD if number is None else number


def _plain_text(card: Card, context: _Context) -> Any:
    return _clean(card.raw) or None


def _whole(card: Card, context: _Context) -> Any:
    number = _number(card)
    return int(number) if number is not None and number.is_integer() and abs(number) < 2**31 else _BAD


def _positive(card: Card, context: _Context) -> Any:
    number = _number(card)
    if number is None:
        return _BAD
    return number if number > 0.0 else None


def _metres_to_mm(card: Card, context: _Context) -> Any:
    metres = _positive(card, context)
    return round(metres * 1000.0, 6) if isinstance(metres, float) else metres


def _times_binning(card: Card, context: _Context) -> Any:
    size = _positive(card, context)
    return round(size * context.values.get("xbinning", 1), 6) if isinstance(size, float) else size


def _seconds(card: Card, context: _Context) -> Any:
    found = _quantity(card)
    if found is None or found[0] < 0.0:
        return _BAD
    number, unit = found
    if unit == "ms" or (not unit and re.search(r"\bms\b|\bmsec|millisec", card.comment, re.IGNORECASE)):
        return round(number / 1000.0, 9)
    if unit == "us":
        return round(number / 1e6, 9)
    return number if unit in ("", "s", "sec", "secs", "seconds") else _BAD


def _microseconds(card: Card, context: _Context) -> Any:
    number = _number(card)
    return _BAD if number is None or number < 0.0 else round(number / 1e6, 9)


def _is_conversion(card: Card, context: _Context) -> bool:
    """Return whether a GAIN card holds e-/DN: its comment says so, or it is broken and nothing else does."""
    if _E_PER_DN.search(card.comment):
        return True
    number = _number(card)
    others = any(keyword in context.cards for keyword in ("EGAIN", "CVF", "EPERADU"))
    return number is not None and not number.is_integer() and not others


def _camera_gain(card: Card, context: _Context) -> Any:
    return None if _is_conversion(card, context) else _plain_float(card, context)


def _conversion_gain(card: Card, context: _Context) -> Any:
    return _positive(card, context) if _is_conversion(card, context) else None


def _iso(card: Card, context: _Context) -> Any:
    match = re.fullmatch(r"(?:ISO)?\s*([0-9]+(?:\.[0-9]+)?)", _clean(card.raw), re.IGNORECASE)
    if match is None:
        return _BAD
    return float(match[1]) or None


def _celsius(card: Card, context: _Context) -> Any:
    found = _quantity(card)
    if found is None or found[1] not in ("", "c", "k", "°c", "°", "degc"):
        return _BAD
    number, unit = found
    if unit == "k" or number > 150.0:
        number = round(number - 273.15, 6)
    return number if -200.0 <= number <= 100.0 else _BAD


def _kelvin(card: Card, context: _Context) -> Any:
    number = _number(card)
    if number is None:
        return _BAD
    celsius = round(number - 273.15, 6)
    return celsius if -200.0 <= celsius <= 100.0 else _BAD


def _binning(card: Card, index: int) -> Any:
    number = _number(card)
    if number is None:
        match = re.fullmatch(r"([0-9]+)\s*[x×*,\s]\s*([0-9]+)", _clean(card.raw), re.IGNORECASE)
        if match is None:
            return _BAD
        number = float(match[index])
    if number <= 0.0:
        return None
    return int(number) if number.is_integer() and number <= 64.0 else _BAD


def _binning_x(card: Card, context: _Context) -> Any:
    return _binning(card, 1)


def _binning_y(card: Card, context: _Context) -> Any:
    return _binning(card, 2)


def _filter(card: Card, context: _Context) -> Any:
    text = _clean(card.raw)
    return context.rules.filters.get(_filter_key(text), text)


def _row_order(card: Card, context: _Context) -> Any:
    text = re.sub(r"[\s_-]+", "-", _clean(card.raw).upper())
    text = {"TOPDOWN": "TOP-DOWN", "BOTTOMUP": "BOTTOM-UP"}.get(text, text)
    return text if text in ("TOP-DOWN", "BOTTOM-UP") else _BAD


def _bayer(card: Card, context: _Context) -> Any:
    text = _clean(card.raw).upper()
    if text in _PATTERNS:
        return text
    # FILTER may hold the pattern at some places; any other filter is none.
    return None if card.keyword == "FILTER" else _BAD


def _angle(card: Card, context: _Context) -> Any:
    number = _number(card)
    return _BAD if number is None or abs(number) > 720.0 else round(number % 360.0, 6)


def _pier_side(card: Card, context: _Context) -> Any:
    text = _clean(card.raw).lower().removeprefix("pier").strip()
    return {"e": "east", "w": "west"}.get(text, text) if text in ("east", "west", "e", "w") else _BAD


def _sexagesimal(text: str) -> float | None:
    match = _SEXAGESIMAL.fullmatch(_clean(text))
    if match is None:
        return None
    minutes, seconds = float(match[3]), float(match[4] or 0.0)
    if minutes >= 60.0 or seconds > 60.0:
        return None
    value = float(match[2]) + minutes / 60.0 + seconds / 3600.0
    return -value if match[1] == "-" else value


def _right_ascension(degrees: float | None, context: _Context) -> Any:
    if degrees is None or not 0.0 <= degrees <= 360.0:
        return _BAD
    return round(degrees % 360.0, 9)


def _ra(card: Card, context: _Context) -> Any:
    number = _number(card)
    if number is None:
        return _ra_hours(card, context)
    return _right_ascension(number, context)


def _ra_hours(card: Card, context: _Context) -> Any:
    hours = _number(card)
    if hours is None:
        hours = _sexagesimal(card.raw)
    return _right_ascension(None if hours is None else hours * 15.0, context)


def _is_sky(context: _Context) -> bool:
    return "CTYPE1" in context.cards and context.cards["CTYPE1"].raw.startswith("RA")


def _ra_wcs(card: Card, context: _Context) -> Any:
    return _ra(card, context) if _is_sky(context) else None


def _dec(card: Card, context: _Context) -> Any:
    degrees = _number(card)
    if degrees is None:
        degrees = _sexagesimal(card.raw)
    if degrees is None or abs(degrees) > 90.0:
        return _BAD
    if degrees == 0.0 and context.values.get("ra") == 0.0:
        # Mounts that do not know where they point write zeros.
        del context.values["ra"]
        context.sources = [source for source in context.sources if source.field != "ra"]
        return None
    return round(degrees, 9)


def _dec_wcs(card: Card, context: _Context) -> Any:
    return _dec(card, context) if _is_sky(context) else None


def _longitude(card: Card, context: _Context) -> Any:
    degrees = _number(card)
    if degrees is None:
        degrees = _sexagesimal(card.raw)
    if degrees is None or abs(degrees) > 360.0:
        return _BAD
    return (degrees + 180.0) % 360.0 - 180.0


def _present(card: Card, context: _Context) -> Any:
    return None if card.value is False else True


def _calibration_history(card: Card, context: _Context) -> Any:
    text = card.raw.lower()
    return True if text.startswith(context.rules.history_starts) else None


def _moment(year: str, month: str, day: str, hour: str, minute: str, second: str | None) -> datetime | None:
    whole, _, fraction = (second or "0").partition(".")
    micro = int((fraction + "000000")[:6])
    try:
        # 60 stands for a leap second, which datetime does not know.
        base = datetime(int(year), int(month), int(day), int(hour), int(minute), min(int(whole), 59), micro)
    except ValueError:
        return None
    return base if 1900 < base.year <= 2150 else None


def _parse_clock(text: str) -> tuple[datetime, bool, timedelta | None] | None:
    """Return date and time, whether a time was there, and the stated offset from UTC."""
    text = _clean(text)
    if match := _ISO_CLOCK.fullmatch(text):
        moment = _moment(match[1], match[2], match[3], match[4] or "0", match[5] or "0", match[6])
        if moment is None:
            return None
        offset = None
        if match[7]:
            digits = match[7].replace(":", "")
            offset = timedelta(0)
            if digits[0] in "+-":
                offset = timedelta(hours=int(digits[1:3]), minutes=int(digits[3:5])) * (-1 if digits[0] == "-" else 1)
        return moment, match[4] is not None, offset
    if match := _OLD_DATE.fullmatch(text):
        # The form before 1999, day/month/year with two digits, is still written by some programs.
        year = int(match[3]) + (1900 if int(match[3]) >= 70 else 2000)
        moment = _moment(str(year), match[2], match[1], "0", "0", None)
        return None if moment is None else (moment, False, None)
    return None


def _parse_us_clock(text: str) -> datetime | None:
    match = _US_CLOCK.search(text)
    if match is None or not 1 <= int(match[4]) <= 12:
        return None
    hour = int(match[4]) % 12 + (12 if match[7].upper() == "P" else 0)
    return _moment(match[3], match[1], match[2], str(hour), match[5], match[6])


def _time_of_day(card: Card, context: _Context) -> Any:
    match = _TIME.fullmatch(_clean(card.raw))
    return _BAD if match is None else _clean(card.raw)


def _clock(card: Card, context: _Context) -> Any:
    parsed = _parse_clock(card.raw)
    if parsed is not None and parsed[1]:
        return parsed[0]
    return _parse_us_clock(card.raw) or _BAD


def _clock_in_comment(card: Card, context: _Context) -> Any:
    return _parse_us_clock(card.comment)


def _utc(card: Card, context: _Context) -> Any:
    parsed = _parse_clock(card.raw)
    if parsed is None:
        return _BAD
    moment, has_time, offset = parsed
    if not has_time:
        time = _TIME.fullmatch(context.values.get("time_obs", ""))
        if time is None:
            return _BAD
        combined = _moment(str(moment.year), str(moment.month), str(moment.day), time[1], time[2], time[3])
        if combined is None:
            return _BAD
        moment = combined
    context.utc_offset = offset
    moment = (moment - (offset or timedelta(0)) + timedelta(microseconds=500)).replace(tzinfo=UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def _night(context: _Context) -> str | None:
    """Return the local date of the evening, the night going from noon to noon."""
    utc = context.values.get("date_obs")
    moment = datetime.fromisoformat(utc.removesuffix("Z")) if utc is not None else None
    local = context.values.get("date_local")
    longitude = context.values.get("longitude")
    if local is not None:
        rule = "local time 12 h earlier"
    elif moment is None:
        return None
    elif context.utc_offset:
        local = moment + context.utc_offset
        rule = "local time 12 h earlier: DATE-OBS states its zone"
    elif longitude is not None:
        local = moment + timedelta(hours=longitude / 15.0)
        rule = "mean solar time 12 h earlier, from the longitude"
    else:
        local = moment
        rule = _UTC_NIGHT
    night = (local - timedelta(hours=12)).strftime("%Y-%m-%d")
    origin = "date_local" if rule == "local time 12 h earlier" else "date_obs"
    read = next((source for source in context.sources if source.field == origin), None)
    keyword, raw = (read.keyword, read.raw) if read is not None else (None, None)
    context.sources.append(Source(field="night", keyword=keyword, raw=raw, rule=rule))
    return night


NORMALISERS: dict[str, Normaliser] = {
    "plain_float": _plain_float,
    "plain_int": _whole,
    "plain_text": _plain_text,
    "plain_bool": _present,
    "whole": _whole,
    "positive": _positive,
    "metres_to_mm": _metres_to_mm,
    "times_binning": _times_binning,
    "seconds": _seconds,
    "microseconds": _microseconds,
    "camera_gain": _camera_gain,
    "conversion_gain": _conversion_gain,
    "iso": _iso,
    "celsius": _celsius,
    "kelvin": _kelvin,
    "binning_x": _binning_x,
    "binning_y": _binning_y,
    "filter": _filter,
    "row_order": _row_order,
    "bayer": _bayer,
    "angle": _angle,
    "pier_side": _pier_side,
    "ra": _ra,
    "ra_hours": _ra_hours,
    "ra_wcs": _ra_wcs,
    "dec": _dec,
    "dec_wcs": _dec_wcs,
    "longitude": _longitude,
    "present": _present,
    "calibration_history": _calibration_history,
    "time_of_day": _time_of_day,
    "clock": _clock,
    "clock_in_comment": _clock_in_comment,
    "utc": _utc,
}
"""Names that ``normalise`` and ``by_keyword`` in the rules may use; ``plain`` stands for ``plain_<dtype>``."""
