"""Read frames into the catalog: every value with where it came from, and what keeps a file out.

Which files there are is found in `walking`, what a header's text means in `values`, what kind of frame it is in
`roles`.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Callable, Sequence
from typing import cast

import msgspec
import numpy as np

from wbpy.catalog import Catalog, Entry
from wbpy.config import ScanSettings
from wbpy.errors import ReadError
from wbpy.findings import make_finding
from wbpy.io.formats import HEAD_SIZE, identify, stem
from wbpy.io.headers import Card, FitsHeader, load_header
from wbpy.io.images import READABLE, open_image
from wbpy.io.sidecars import read_sidecar
from wbpy.model import Finding, Frame, Role, Source
from wbpy.rules import DialectRule, Rules
from wbpy.scanning.conclusions import CFA_SETTING, as_read, conclude
from wbpy.scanning.libraries import LibraryIndex
from wbpy.scanning.roles import RoleReader, Verdict
from wbpy.scanning.values import Context, FieldPlan, clean, field_plans, filter_names, night_of, read_field
from wbpy.scanning.walking import FoundFile, Walk, printable

VERSION = 3
"""Raised when the same header would be read differently: saved catalogs are then read anew."""

_SMALLEST_SIDE = 8
_SAMPLED_ROWS = 64
_UNIT_RANGE = 1.001
_DN_RANGE = 65535.0
_DARK_ROLES = ("bias", "dark", "flat_dark")
USER_NAME = "setting scan.keywords: NAME_value in the path"
_SETTINGS_OF_A_FILE = ("role", "row_order", "cfa", "cfa_by_camera", "keywords", "focal_length")


def scan(
    paths: Sequence[str | os.PathLike[str]],
    rules: Rules,
    settings: ScanSettings,
    previous: Catalog | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> Catalog:
    """Return the catalog of all frames in the given files and folders.

    Parameters
    ----------
    paths : sequence of path-like
        Files and folders; folders are searched to any depth, in the order of names.
    rules : Rules
        Keywords, dialects, spellings and findings.
    settings : ScanSettings
        Section ``scan`` of the configuration. Below the folders of `library` calibration frames are looked for.
    previous : Catalog, optional
        An earlier scan: files with the same path, size and modification time are taken over from it.
    on_progress : callable, optional
        Called with (files done, files found) after each file.
    cache : path-like, optional
        Folder in which the index of each library root is kept from one scan to the next, whatever is scanned with it.

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
    found = Walk(rules, settings)
    # Outer folders first: the words of a path count from the outermost folder that was given, in whatever order.
    for path in sorted({os.path.abspath(os.fspath(path)) for path in paths}, key=lambda path: (len(path), path)):
        found.add(path)
    indexes = [LibraryIndex(root, cache, reader.basis) for root in sorted(set(settings.library))]
    for index in indexes:
        found.add(index.root, library=True)
    known = {entry.path: entry for index in indexes for entry in index.entries}
    if previous is not None and previous.basis == reader.basis:
        known |= {entry.path: as_read(entry) for entry in previous.entries}
    entries = []
    for number, file in enumerate(found.files, 1):
        old = known.get(file.path)
        entry = old if old is not None and _is_unchanged(old, file) else reader.read(file)
        if entry is None:
            found.passed_over(file.path)
        else:
            entries.append(entry)
        if on_progress is not None:
            on_progress(number, len(found.files))
    entries.sort(key=lambda entry: entry.path)
    unkept = [(index.root, problem) for index in indexes if (problem := index.keep(entries)) is not None]
    notes = [make_finding(rules, "SCN040", root, problem=problem) for root, problem in unkept]
    entries, about_many = conclude(entries, rules, settings)
    return Catalog(entries, (*found.findings(), *notes, *about_many), reader.basis)


def _is_unchanged(entry: Entry, file: FoundFile) -> bool:
    """Return whether a file is still what an earlier scan read, the text beside it included."""
    library = entry.frame.library if entry.frame is not None else file.library
    return (entry.size, entry.modified_ns, entry.below, entry.sidecar, library) == (
        file.size,
        file.modified_ns,
        file.below,
        file.sidecar_state,
        file.library,
    )


class _Reader:
    """Reads single files with the rules prepared for speed."""

    def __init__(self, rules: Rules, settings: ScanSettings) -> None:
        self.rules = rules
        self.settings = settings
        self.roles = RoleReader(rules.roles)
        self.filters = filter_names(rules)
        # Only what a single file is read with: the rest of the settings counts for all frames together.
        used = {name: getattr(settings, name) for name in _SETTINGS_OF_A_FILE}
        content = (VERSION, rules.fields, rules.dialects, rules.roles, rules.filters, rules.findings, used)
        self.basis = hashlib.sha256(msgspec.json.encode(content)).hexdigest()
        self._asked = [
            (name, re.compile(rf"(?:^|[/_\s-]){re.escape(name)}_([^/_\s]+)", re.IGNORECASE))
            for name in settings.keywords
        ]
        self._generic = field_plans(rules, None)
        self._dialects: dict[str, tuple[FieldPlan, ...]] = {
            id: field_plans(rules, dialect) for id, dialect in rules.dialects.items()
        }
        self._marks: dict[str, list[tuple[str, int, DialectRule]]] = {}
        for order, dialect in enumerate(rules.dialects.values()):
            for keyword, start in dialect.identify:
                self._marks.setdefault(keyword, []).append((start, order, dialect))

    def read(self, file: FoundFile) -> Entry | None:
        """Return what one file says, or None when it is no image."""
        try:
            file.path.encode("utf-8")
        except UnicodeEncodeError:
            return self._refused(file._replace(path=printable(file.path), below=printable(file.below)), "SCN020")
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
        if form not in READABLE:
            return self._refused(file, "FIL006", format=form)
        try:
            header = load_header(file.path)
        except ReadError as error:
            problem = str(error).removeprefix(f"{file.path}: ")
            return self._refused(file, "FIL002", problem=problem)
        try:
            size = os.stat(file.path).st_size
        except OSError as error:
            return self._refused(file, "FIL002", problem=error.strerror or str(error))
        if size != file.size:
            return self._refused(file, "SCN025", before=file.size, after=size)
        return self._frame(file, header)

    def _refused(self, file: FoundFile, id: str, **evidence: str | int) -> Entry:
        return Entry(
            path=file.path,
            below=file.below,
            size=max(file.size, 0),
            modified_ns=file.modified_ns,
            findings=(make_finding(self.rules, id, file.path, **evidence),),
            held_back=id,
            sidecar=file.sidecar_state,
        )

    def _frame(self, file: FoundFile, header: FitsHeader) -> Entry:
        cards: dict[str, Card] = {}
        commentary: dict[str, list[Card]] = {"COMMENT": [], "HISTORY": []}
        for card in header.cards:
            cards.setdefault(card.keyword, card)
            if card.keyword in commentary:
                commentary[card.keyword].append(card)
        beside = _beside(file)
        for keyword, card in beside.items():
            cards.setdefault(keyword, card)
        dialect = self._dialect(cards, commentary)
        context = Context(cards, commentary, self.rules, self.filters, beside)
        name = stem(os.path.basename(file.path))
        for plan in self._generic if dialect is None else self._dialects[dialect.id]:
            read_field(file.path, name, plan, context)
        self._set_by_hand(context)
        own_kind = cards["WBPYKIND"].raw if "WBPYKIND" in cards else None
        verdict = self.roles.decide(context, file, header.bitpix < 0, own_kind, dialect, self.settings.role)
        width, height = header.axes[0], header.axes[1]
        channels = math.prod(header.axes[2:])
        self._adjust_filter(verdict.role, context)
        row_order = context.values.get("row_order")
        cfa = self._cfa(file.path, context, height, channels, own_kind is not None)
        night = night_of(context)
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
            format=header.format,
            calibrated=verdict.calibrated,
            stack_count=values.get("stack_count"),
            dn_per_unit=scale,
            size=file.size,
            modified_ns=file.modified_ns,
            pedestal=values.get("pedestal"),
            library=file.library,
            whole_width=values.get("whole_width"),
            whole_height=values.get("whole_height"),
            keywords=self._keywords(file, context),
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
            sidecar=file.sidecar_state,
        )

    def _set_by_hand(self, context: Context) -> None:
        """Put the values that the configuration overrides into the context."""
        if self.settings.focal_length is not None:
            old = [source for source in context.sources if source.field == "focal_length"]
            context.sources = [source for source in context.sources if source.field != "focal_length"]
            context.values["focal_length"] = self.settings.focal_length
            raw = old[0].raw if old else None
            context.sources.append(
                Source(field="focal_length", keyword=None, raw=raw, rule="setting scan.focal_length")
            )

    def _keywords(self, file: FoundFile, context: Context) -> dict[str, str]:
        """Return what the user's keywords hold: ``NAME_value`` in the path, the innermost last, beats the header."""
        found = {}
        for name, pattern in self._asked:
            texts = pattern.findall(file.below.removesuffix(os.path.splitext(file.below)[1]))
            if texts:
                found[name] = texts[-1]
                context.sources.append(Source(field=f"keywords.{name}", keyword=None, raw=file.below, rule=USER_NAME))
            elif name.upper() in context.cards and (text := clean(context.cards[name.upper()].raw)):
                found[name] = text
                context.sources.append(
                    Source(field=f"keywords.{name}", keyword=name.upper(), raw=text, rule="setting scan.keywords")
                )
        return found

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

    def _adjust_filter(self, role: Role | None, context: Context) -> None:
        """Forget the filter of frames that no light reached: programs write whatever was in the light path."""
        if role in _DARK_ROLES and context.values.pop("filter", None) is not None:
            for number, source in enumerate(context.sources):
                if source.field == "filter":
                    rule = f"not taken: no light passes the filter in a {role} frame"
                    context.sources[number] = msgspec.structs.replace(source, rule=rule)

    def _cfa(self, path: str, context: Context, height: int, channels: int, own: bool) -> str | None:
        """Return the pattern of the stored rows.

        Programs that write ROWORDER state BAYERPAT for the picture with its top row first (Siril's and
        DeepSkyStacker's reading). When the stored rows begin at the bottom, the pattern is counted from the last
        row: with an even number of rows a Bayer pattern has its rows exchanged, with an odd one it stays.
        Our own products state the stored pattern.
        """
        stated = context.values.get("cfa")
        forced, rule = self._forced_cfa(context)
        if forced != "auto":
            used = None if forced == "none" or channels != 1 else forced
            if stated != used:
                source = Source(field="cfa", keyword=None, raw=stated, rule=rule)
                context.sources.append(source)
            return used
        if stated is None and channels == 1 and context.values.get("colour"):
            source = next(source for source in context.sources if source.field == "colour")
            context.findings.append(make_finding(self.rules, "SCN037", path, keyword=source.keyword, value=source.raw))
        if stated is None or channels != 1:
            return None
        side = math.isqrt(len(stated))
        right, down = (context.values.get(name, 0) for name in ("bayer_x", "bayer_y"))
        order = context.values.get("row_order") or self.settings.row_order
        from_bottom = order == "BOTTOM-UP" and not own
        rows = [(height - 1 - y if from_bottom else y) + down for y in range(side)]
        return "".join(stated[row % side * side + (x + right) % side] for row in rows for x in range(side))

    def _forced_cfa(self, context: Context) -> tuple[str, str]:
        """Return the pattern that the configuration gives this camera, ``auto`` for none, and which setting it is."""
        camera = context.values.get("camera")
        if camera is not None:
            for name, pattern in self.settings.cfa_by_camera.items():
                if name.casefold() == camera.casefold():
                    return pattern, f"{CFA_SETTING}_by_camera"
        return self.settings.cfa, CFA_SETTING

    def _program(self, dialect: DialectRule | None, context: Context) -> str | None:
        written = context.values.get("program")
        if dialect is None:
            return cast("str | None", written)
        context.sources = [source for source in context.sources if source.field != "program"]
        context.sources.append(Source(field="program", keyword=None, raw=written, rule=f"dialects/{dialect.id}"))
        return dialect.name

    def _dn_per_unit(self, file: FoundFile, header: FitsHeader, cards: dict[str, Card], own_kind: str | None) -> float:
        """Return what the format states; else 65535 for floating-point files scaled to [0, 1], 1 for others."""
        if header.dn_per_unit is not None:
            return header.dn_per_unit
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

    def _hold_back(self, frame: Frame, header: FitsHeader, verdict: Verdict, context: Context) -> str | None:
        """Return the id of the finding that keeps the frame out, the first that applies, or None."""
        role = frame.role or "frame"
        small = min(frame.width or 0, frame.height or 0) < _SMALLEST_SIDE
        finding: Finding | None = None

        def make(id: str, **evidence: str | int | None) -> Finding:
            return make_finding(self.rules, id, frame.path, **evidence)

        if frame.size < header.expected_size:
            finding = make("FIL003", found_bytes=frame.size, expected_bytes=header.expected_size)
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
        elif frame.library and role == "light":
            finding = make("SCN026")
        if finding is None:
            return None
        context.findings.append(finding)
        return finding.id


def _beside(file: FoundFile) -> dict[str, Card]:
    """Return what the text beside a file says: keyword -> card that names text and line as its origin."""
    if file.sidecar is None:
        return {}
    name = os.path.basename(file.sidecar)
    try:
        read = read_sidecar(file.sidecar)
    except ReadError:
        # The image itself is there; what the text would have said is then reported as unknown.
        return {}
    found: dict[str, Card] = {}
    for card in read:
        found.setdefault(card.keyword, card._replace(keyword=f"{name}: {card.comment}", comment=""))
    return found
