"""Read the texts that capture programs leave beside their images, as cards under the FITS keywords that they stand for.

SharpCap writes ``<stem>.CameraSettings.txt``, FireCapture ``<stem>.txt``: one ``name=value`` a line. Only names that
are known here are taken, so that another text with the stem of an image adds nothing.
"""

from __future__ import annotations

import os
import re

from wbpy.errors import ReadError
from wbpy.io.headers import Card

LONGEST = 1 << 20
"""Bytes of a sidecar that are looked at; what is longer was written by something else."""

_SHARPCAP = ".camerasettings.txt"
_SHARPCAP_KEYWORDS = {
    "frametype": "IMAGETYP",
    "exposure": "EXPTIME",
    "gain": "GAIN",
    "analogue gain": "GAIN",
    "offset": "BLKLEVEL",
    "black level": "BLKLEVEL",
    "binning": "BINNING",
    "temperature": "CCD-TEMP",
    "target temperature": "SET-TEMP",
    "subtract dark": "CALSTAT",
    "apply flat": "CALSTAT",
    "startcapture": "DATE-OBS",
}
_FIRECAPTURE_KEYWORDS = {
    "camera": "INSTRUME",
    "shutter": "EXPTIME",
    "gain": "GAIN",
    "binning": "BINNING",
    "sensor temperature": "CCD-TEMP",
    "filter": "FILTER",
}
_OFF = ("", "none", "off", "false", "0", "no")
_LINE = re.compile(r"\s*([^=\[\]]{1,40}?)\s*=\s*(.*?)\s*")
_COUNTER = re.compile(r"_[0-9]+$")


def find_sidecar(stem: str, names: frozenset[str]) -> str | None:
    """Return the name of the text that belongs to an image, or None.

    Parameters
    ----------
    stem : str
        Name of the image without its suffix.
    names : frozenset of str
        Names of the texts in the same folder.

    Returns
    -------
    str or None
        SharpCap leaves one text for each image or one for a numbered run: the own one comes first, then the only one
        whose name differs in the number at the end.
    """
    for ending in (".CameraSettings.txt", ".txt"):
        if stem + ending in names:
            return stem + ending
    base = _COUNTER.sub("", stem)
    if base == stem:
        return None
    runs = [
        name
        for name in names
        if name.lower().endswith(_SHARPCAP) and _COUNTER.sub("", name[: -len(_SHARPCAP)]) in (base, stem)
    ]
    return runs[0] if len(runs) == 1 else None


def read_sidecar(path: str | os.PathLike[str]) -> list[Card]:
    """Return what a sidecar says, as cards in the order of its lines.

    The cards carry FITS keywords; the comment is the name that stood in the text. Empty when the text is none of the
    known kinds.

    Raises
    ------
    ReadError
        If the file cannot be read.
    """
    name = os.fspath(path)
    try:
        with open(name, "rb") as file:
            content = file.read(LONGEST + 1)
    except OSError as error:
        raise ReadError(f"{name}: cannot be read: {error.strerror or error}") from error
    if len(content) > LONGEST:
        return []
    return parse_sidecar(content, sharpcap=name.lower().endswith(_SHARPCAP))


def parse_sidecar(content: bytes, *, sharpcap: bool) -> list[Card]:
    """Return the cards of the bytes of a sidecar; never raises, whatever the bytes are.

    A text that is no FireCapture log, which has at least ``Camera`` and ``Shutter``, gives none.
    """
    coded = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    text = content.decode(coded, "replace").replace("\x00", "")
    known = _SHARPCAP_KEYWORDS if sharpcap else _FIRECAPTURE_KEYWORDS
    cards: list[Card] = []
    seen = set()
    for line in text.splitlines():
        if sharpcap and line.strip().startswith("[") and line.strip().endswith("]") and "INSTRUME" not in seen:
            camera = line.strip()[1:-1].strip()
            seen.add("INSTRUME")
            if camera:
                cards.append(Card("INSTRUME", camera, "[camera]", camera))
            continue
        match = _LINE.fullmatch(line)
        if match is None or (keyword := known.get(match[1].lower())) is None:
            continue
        value = _value(match[1].lower(), match[2])
        if value:
            seen.add(keyword)
            cards.append(Card(keyword, value, match[1], value))
    return cards if sharpcap or {"INSTRUME", "EXPTIME"} <= seen else []


def _value(name: str, text: str) -> str:
    """Return the text of one line in the form that headers have."""
    if name in ("subtract dark", "apply flat"):
        return "" if text.lower() in _OFF else f"{name}: {text}"
    if name in ("exposure", "shutter"):
        # "315.0000ms", "1m30s" and "2s" occur; seconds and milliseconds are understood by whoever reads EXPTIME.
        minutes = re.fullmatch(r"([0-9]+)m(?:in)?\s*([0-9.]+)s", text)
        return f"{int(minutes[1]) * 60 + float(minutes[2])}" if minutes and _is_number(minutes[2]) else text
    if name == "gain":
        return text.partition("(")[0].strip()
    if name == "binning":
        return text.partition(" ")[0]
    if name.endswith("temperature"):
        return re.sub(r"\s*°?\s*C$", "", text)
    return text


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[0-9]+(?:\.[0-9]*)?", text) is not None
