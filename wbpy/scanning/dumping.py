"""Write headers as text that can be sent in, without what tells who took the frames and where."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from wbpy.catalog import Catalog, Entry
from wbpy.errors import ReadError
from wbpy.io.headers import Card, read_header
from wbpy.rules import Rules

REMOVED = "(removed)"

_HOMES = re.compile(r"((?:Users|home|Documents and Settings)[\\/]+)[^\\/'\"]+", re.IGNORECASE)
_COMMENTARY = ("COMMENT", "HISTORY", "")


def header_text(cards: Iterable[Card], personal: Iterable[str]) -> str:
    """Return cards as text, one a line, with the values of personal keywords replaced.

    Parameters
    ----------
    cards : iterable of Card
        In the order of the file.
    personal : iterable of str
        Keywords, upper case, whose values and comments are left out. User names in paths are left out everywhere.

    Returns
    -------
    str
        What FITS headers look like, without the limit of 80 characters a line; ends with ``END``.
    """
    hidden = frozenset(personal)
    lines = [_HOMES.sub(rf"\1{REMOVED}", _line(card, hidden)) for card in cards if card.keyword != "END"]
    return "\n".join([*lines, "END"]) + "\n"


def _line(card: Card, hidden: frozenset[str]) -> str:
    keyword = card.keyword
    if keyword in _COMMENTARY:
        return f"{keyword:8}  {card.raw}".rstrip()
    name = f"{keyword:8}=" if len(keyword) <= 8 and " " not in keyword else f"HIERARCH {keyword} ="
    if keyword.rpartition(" ")[2] in hidden:
        return f"{name} '{REMOVED}'"
    quoted = card.raw.replace("'", "''")
    value = f"'{quoted:8}'" if isinstance(card.value, str) else f"{card.raw:>20}"
    return f"{name} {value} / {card.comment}" if card.comment else f"{name} {value}"


def headers_by_kind(catalog: Catalog, rules: Rules) -> dict[str, str]:
    """Return one header text for each kind of file in a catalog: file name -> text.

    Files of one kind have program, camera, type, format and findings in common: what the rules have to understand.
    The name of the kind, which is that of its first file, says nothing about folders.

    Parameters
    ----------
    catalog : Catalog
        Of a scan.
    rules : Rules
        `personal` holds what is left out.
    """
    kinds: dict[tuple[object, ...], Entry] = {}
    for entry in catalog.entries:
        kinds.setdefault(_kind(entry), entry)
    texts: dict[str, str] = {}
    for number, entry in enumerate(kinds.values(), 1):
        try:
            cards = read_header(entry.path)
        except ReadError:
            # The scan has reported what is wrong with the file; there is no header to send.
            continue
        texts[f"{number:03d}_{_safe(os.path.basename(entry.path))}.hdr.txt"] = header_text(cards, rules.personal)
    return texts


def _kind(entry: Entry) -> tuple[object, ...]:
    frame = entry.frame
    found = tuple(sorted({finding.id for finding in entry.findings}))
    if frame is None:
        return (os.path.splitext(entry.path)[1].lower(), found)
    return (frame.program, frame.camera, frame.role, frame.is_master, frame.format, found)


def _safe(name: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", name)[:80]
