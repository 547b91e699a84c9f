"""The catalog: one row for every image that was found, with where each value came from and what is wrong with it."""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from wbpy.errors import ReadError
from wbpy.model import ROLES, Finding, Frame, HeldBack, Scalar, Source

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 3
"""Version of the saved file; one of another version is not read."""


class Column(NamedTuple):
    """What one column of the table holds."""

    name: str
    dtype: str
    """Nullable pandas type."""
    unit: str
    meaning: str


COLUMNS: tuple[Column, ...] = (
    Column("path", "string", "", "absolute path"),
    Column("role", "string", "", "light, dark, flat, bias, flat_dark; missing when unknown"),
    Column("is_master", "boolean", "", "a finished master"),
    Column("exposure", "Float64", "s", "exposure of one frame"),
    Column("gain", "Float64", "driver units", "gain setting of the camera"),
    Column("offset", "Float64", "driver units", "offset setting of the camera"),
    Column("e_per_dn", "Float64", "e-/DN", "conversion gain"),
    Column("iso", "Float64", "", "ISO speed"),
    Column("temp_ccd", "Float64", "degC", "measured sensor temperature"),
    Column("temp_set", "Float64", "degC", "set point of the cooler"),
    Column("filter", "string", "", "canonical filter name"),
    Column("xbinning", "Int64", "px", "sensor pixels per stored pixel, horizontally"),
    Column("ybinning", "Int64", "px", "sensor pixels per stored pixel, vertically"),
    Column("width", "Int64", "px", "columns"),
    Column("height", "Int64", "px", "rows"),
    Column("channels", "Int64", "", "planes"),
    Column("cfa", "string", "", "CFA pattern of the stored rows"),
    Column("row_order", "string", "", "TOP-DOWN or BOTTOM-UP; missing when the file does not say"),
    Column("camera", "string", "", "camera name"),
    Column("read_mode", "string", "", "readout mode"),
    Column("date_obs", "string", "UTC", "start of the exposure, ISO 8601"),
    Column("night", "string", "", "local date of the evening, noon to noon"),
    Column("object", "string", "", "target"),
    Column("ra", "Float64", "deg", "right ascension"),
    Column("dec", "Float64", "deg", "declination"),
    Column("rotator", "Float64", "deg", "angle of the rotator"),
    Column("pier_side", "string", "", "east or west"),
    Column("focal_length", "Float64", "mm", "focal length"),
    Column("pixel_size", "Float64", "um", "pixel width, binning included"),
    Column("program", "string", "", "capture program"),
    Column("format", "string", "", "file format"),
    Column("calibrated", "boolean", "", "calibration was applied already"),
    Column("stack_count", "Int64", "", "frames combined into this one"),
    Column("dn_per_unit", "Float64", "DN", "stored value x this = DN of the 16-bit scale"),
    Column("size", "Int64", "bytes", "size of the file"),
    Column("modified_ns", "Int64", "ns", "modification time since 1970"),
    Column("target", "string", "", "what a light shows, by name and pointing"),
    Column("panel", "Int64", "", "panel of a mosaic; missing where the target has one field"),
    Column("pedestal", "Float64", "DN", "added to the pixels on purpose; positive when the data are too high"),
    Column("library", "boolean", "", "from a library root: serves as calibration only"),
    Column("whole_width", "Int64", "px", "columns of a master's frames before their overscan was cut off"),
    Column("whole_height", "Int64", "px", "rows, likewise"),
    Column("keywords", "string", "", "what the user asked for, as JSON"),
)

_SQL_TYPES = {"string": "TEXT", "boolean": "INTEGER", "Int64": "INTEGER", "Float64": "REAL"}
_BOOLEANS = tuple(number for number, column in enumerate(COLUMNS) if column.dtype == "boolean")


class Entry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a scan found out about one file."""

    path: str
    """Absolute path."""
    below: str
    """The part of the path below the folder that was given, from which words for the role were taken."""
    size: int
    modified_ns: int
    frame: Frame | None = None
    """None when no header could be read."""
    sources: tuple[Source, ...] = ()
    findings: tuple[Finding, ...] = ()
    held_back: str | None = None
    """Id of the finding that keeps the file out, or None when the frame takes part."""
    sidecar: str | None = None
    """Name, size and time of the text beside the file that was read with it; None when there was none."""


class Catalog:
    """All frames of a scan.

    Parameters
    ----------
    entries : iterable of Entry
        One for each image file.
    findings : iterable of Finding
        Those about the scan as a whole.
    basis : str
        Fingerprint of the rules and settings that read the headers; a later scan takes over unchanged files only
        when it is the same.
    """

    def __init__(self, entries: Iterable[Entry], findings: Iterable[Finding] = (), basis: str = "") -> None:
        self._entries = tuple(sorted(entries, key=lambda entry: entry.path))
        self._scan_findings = tuple(findings)
        self._table: pd.DataFrame | None = None
        self.basis = basis

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Everything that is known about each file, sorted by path."""
        return self._entries

    @property
    def frames(self) -> tuple[Frame, ...]:
        """The frames that take part, sorted by path; held-back files are not among them."""
        return tuple(entry.frame for entry in self._entries if entry.frame is not None and entry.held_back is None)

    @property
    def readable(self) -> tuple[Frame, ...]:
        """All frames whose headers could be read, those that are held back too, sorted by path."""
        return tuple(entry.frame for entry in self._entries if entry.frame is not None)

    @property
    def unreadable(self) -> tuple[HeldBack, ...]:
        """The files of which no header could be read, sorted by path."""
        return tuple(
            HeldBack(path=entry.path, finding=entry.held_back)
            for entry in self._entries
            if entry.frame is None and entry.held_back is not None
        )

    @property
    def held_back(self) -> tuple[HeldBack, ...]:
        """The files that take no part, sorted by path."""
        return tuple(
            HeldBack(path=entry.path, finding=entry.held_back) for entry in self._entries if entry.held_back is not None
        )

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All findings: those of the files in the order of their paths, then those of the scan as a whole."""
        return (*(finding for entry in self._entries for finding in entry.findings), *self._scan_findings)

    def sources(self, path: str | os.PathLike[str]) -> tuple[Source, ...]:
        """Return where each value of one file came from; empty when the file is not in the catalog."""
        name = os.path.abspath(os.fspath(path))
        return next((entry.sources for entry in self._entries if entry.path == name), ())

    @property
    def table(self) -> pd.DataFrame:
        """All files with a readable header as a table: the columns of `COLUMNS`, then ``held_back`` (finding id)."""
        if self._table is None:
            import pandas as pd

            rows = [entry for entry in self._entries if entry.frame is not None]
            data = {
                column.name: _array([_cell(entry.frame, column.name) for entry in rows], column.dtype)
                for column in COLUMNS
            }
            data["held_back"] = _array([entry.held_back for entry in rows], "string")
            self._table = pd.DataFrame(data)
        return self._table

    def select(self, **equals: Scalar) -> pd.DataFrame:
        """Return the rows of `table` in which all named columns have the given values; None means missing.

        Raises
        ------
        KeyError
            If there is no such column.

        Examples
        --------
        >>> catalog.select(role="light", filter="Ha")  # doctest: +SKIP
        """
        table = self.table
        keep = table["path"].notna()
        for name, value in equals.items():
            if name not in table.columns:
                raise KeyError(f"the catalog has no column {name!r}; it has {', '.join(table.columns)}")
            column = table[name]
            keep &= column.isna() if value is None else (column == value).fillna(False).astype(bool)
        return table[keep]

    def summary(self) -> pd.DataFrame:
        """Return the numbers of frames that take part, by role, filter, exposure and night."""
        import pandas as pd

        counts: dict[tuple[Any, ...], int] = {}
        for frame in self.frames:
            key = (frame.role, frame.is_master, frame.filter, frame.exposure, frame.night)
            counts[key] = counts.get(key, 0) + 1

        def order(key: tuple[Any, ...]) -> tuple[Any, ...]:
            rank = ROLES.index(key[0]) if key[0] in ROLES else len(ROLES)
            return (rank, key[1], key[2] or "", -1.0 if key[3] is None else key[3], key[4] or "")

        keys = sorted(counts, key=order)
        return pd.DataFrame(
            {
                "role": _array([f"{key[0]} master" if key[1] else key[0] for key in keys], "string"),
                "filter": _array([key[2] for key in keys], "string"),
                "exposure": _array([key[3] for key in keys], "Float64"),
                "night": _array([key[4] for key in keys], "string"),
                "frames": _array([counts[key] for key in keys], "Int64"),
            }
        )

    def to_json(self) -> dict[str, Any]:
        """Return what ``wbpy scan --json`` shows: every readable image, with role null when unknown, and all findings.

        Paths are absolute; missing values are None.
        """
        return {
            "frames": [msgspec.to_builtins(entry.frame) for entry in self._entries if entry.frame is not None],
            "findings": [msgspec.to_builtins(finding) for finding in self.findings],
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the catalog as one SQLite file that appears whole or not at all; an existing file is replaced.

        Table ``files`` has the columns of `COLUMNS` with their types, and ``below``, ``held_back``, ``readable``,
        ``sources``, ``findings`` (JSON) and ``sidecar``.
        """
        target = Path(path)
        temporary = target.with_name(f".{target.name[:80]}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
        try:
            connection = sqlite3.connect(temporary)
            try:
                # Nobody sees the file before it is complete, so the journal would only cost time.
                connection.execute("PRAGMA journal_mode = OFF")
                connection.execute("PRAGMA synchronous = OFF")
                self._write(connection)
                connection.commit()
            finally:
                connection.close()
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def _write(self, connection: sqlite3.Connection) -> None:
        types = ", ".join(f'"{column.name}" {_SQL_TYPES[column.dtype]}' for column in COLUMNS)
        connection.execute("CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT)")
        connection.execute(
            f"CREATE TABLE files ({types}, below TEXT, held_back TEXT, readable INTEGER, sources TEXT, findings TEXT, "
            "sidecar TEXT)"
        )
        meta = {"schema": str(SCHEMA), "basis": self.basis, "findings": _json(self._scan_findings)}
        connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
        places = ", ".join("?" * (len(COLUMNS) + 6))
        connection.executemany(f"INSERT INTO files VALUES ({places})", (_row(entry) for entry in self._entries))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Catalog:
        """Return a saved catalog.

        Raises
        ------
        ReadError
            If the file is missing, no catalog, damaged, or was written by another version of wbpy.
        """
        name = os.fspath(path)
        if not os.path.isfile(name):
            raise ReadError(f"{name}: no such file, expected a catalog that a scan saved")
        try:
            connection = sqlite3.connect(f"{Path(name).absolute().as_uri()}?mode=ro", uri=True)
            try:
                meta = dict(connection.execute("SELECT name, value FROM meta"))
                if meta.get("schema") != str(SCHEMA):
                    raise ReadError(
                        f"{name}: the catalog has version {meta.get('schema')}, expected {SCHEMA}; scan again"
                    )
                columns = ", ".join(f'"{column.name}"' for column in COLUMNS)
                rows = connection.execute(
                    f"SELECT {columns}, below, held_back, readable, sources, findings, sidecar FROM files"
                ).fetchall()
            finally:
                connection.close()
            entries = [_entry(row) for row in rows]
            findings = msgspec.json.decode(meta["findings"], type=tuple[Finding, ...])
        except (sqlite3.Error, msgspec.MsgspecError, KeyError, TypeError) as error:
            raise ReadError(f"{name}: is not a whole catalog ({error}), expected one; scan again") from error
        return cls(entries, findings, meta.get("basis", ""))


def _array(values: list[Any], dtype: Any) -> Any:
    """Return a nullable pandas array; the stubs cannot follow a type that is named in a table."""
    import pandas as pd

    return pd.array(values, dtype=dtype)


def _cell(frame: Frame | None, name: str) -> Any:
    """Return a field of a frame as its column holds it."""
    value = getattr(frame, name)
    return _json(value) if name == "keywords" else value


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode("utf-8")


def _row(entry: Entry) -> tuple[Any, ...]:
    if entry.frame is not None:
        values = [_cell(entry.frame, name) for name in _NAMES]
    else:
        known = {"path": entry.path, "size": entry.size, "modified_ns": entry.modified_ns}
        values = [known.get(column.name) for column in COLUMNS]
    readable = entry.frame is not None
    return (*values, entry.below, entry.held_back, readable, _json(entry.sources), _json(entry.findings), entry.sidecar)


_DECODE_SOURCES = msgspec.json.Decoder(tuple[Source, ...])
_DECODE_FINDINGS = msgspec.json.Decoder(tuple[Finding, ...])
_DECODE_KEYWORDS = msgspec.json.Decoder(dict[str, str])
_NAMES = tuple(column.name for column in COLUMNS)
_KEYWORDS = _NAMES.index("keywords")


def _entry(row: tuple[Any, ...]) -> Entry:
    count = len(COLUMNS)
    below, held_back, readable, sources, findings, sidecar = row[count:]
    values = list(row[:count])
    frame = None
    if readable:
        for number in _BOOLEANS:
            values[number] = bool(values[number])
        values[_KEYWORDS] = _DECODE_KEYWORDS.decode(values[_KEYWORDS])
        frame = Frame(**dict(zip(_NAMES, values, strict=True)))
    known = dict(zip(_NAMES, row, strict=False))
    return Entry(
        path=known["path"],
        below=below,
        size=known["size"],
        modified_ns=known["modified_ns"],
        frame=frame,
        sources=_DECODE_SOURCES.decode(sources),
        findings=_DECODE_FINDINGS.decode(findings),
        held_back=held_back,
        sidecar=sidecar,
    )
