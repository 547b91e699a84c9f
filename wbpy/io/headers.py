"""Read FITS headers: cards with typed values, in the order of the file, tolerant of what writers really write.

The parser follows the FITS standard 4.0, section 4 (cards, fixed and free format, CONTINUE) and the conventions
for HIERARCH keywords and tile-compressed images. What it forgives: values without quotes, a missing blank after
the equals sign, Fortran exponents, unterminated strings, text that is not ASCII.
"""

from __future__ import annotations

import gzip
import importlib
import os
import re
import zlib
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple, cast

from wbpy.errors import ReadError
from wbpy.io.formats import HEAD_SIZE, identify

Value = str | int | float | bool | None

BLOCK = 2880
"""FITS files come in blocks of this many bytes."""

_FIRST_READ = 4 * BLOCK
_LONGEST_HEADER = 1000 * BLOCK
_MOST_PIXELS = 1 << 40
_COMMENTARY = ("COMMENT", "HISTORY", "")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eEdD][+-]?[0-9]+)?")
_OTHER_FORMATS = {"raw": "wbpy.io.raw", "xisf": "wbpy.io.xisf"}
"""Format -> module with a `load_header` of its own, imported when such a file is met."""
_BITPIX = (8, 16, 32, 64, -32, -64)
_STRUCTURE = ("SIMPLE", "XTENSION", "BITPIX", "NAXIS", "PCOUNT", "GCOUNT", "TFIELDS", "EXTEND", "THEAP")


class Card(NamedTuple):
    """One line of a header."""

    keyword: str
    """Upper case; for HIERARCH cards the words without ``HIERARCH``."""
    value: Value
    """Typed; None when the card has no value. The text itself for COMMENT and HISTORY."""
    comment: str
    raw: str
    """The value as it stood there, without quotes and outer blanks."""


@dataclass(frozen=True)
class FitsHeader:
    """The header of the first image of a file in the terms of FITS, and where its pixels are.

    Other formats give the same: `wbpy.io.raw` and `wbpy.io.xisf` say how their metadata become cards.
    """

    path: str
    cards: tuple[Card, ...]
    """Cards of the header of the image; those of the primary header follow when it stands in an extension."""
    hdu: int
    """Number of the unit that holds the image, 0 for the primary one."""
    data_start: int
    """Bytes from the start of the (decompressed) file to the first pixel."""
    bitpix: int
    axes: tuple[int, ...]
    """Lengths of the axes, the fastest first."""
    gzipped: bool
    tiled: bool
    """True for a tile-compressed image (``.fz``): its pixels do not stand at `data_start`."""
    format: str = "fits"
    """``fits``, ``raw`` or ``xisf``."""
    dn_per_unit: float | None = None
    """Stored value x this = DN of the 16-bit scale, where the file states it; None where it does not."""

    @property
    def expected_size(self) -> int:
        """Bytes that the file must have to hold all pixels; 0 where only decoding them would tell."""
        if self.format != "fits" or self.gzipped or self.tiled:
            return 0
        return self.data_start + self.data_size

    @property
    def data_size(self) -> int:
        """Bytes of the pixels when stored plainly."""
        size = abs(self.bitpix) // 8
        for length in self.axes:
            size *= length
        return size

    def get(self, keyword: str, default: Value = None) -> Value:
        """Return the value of the first card with `keyword`: extensions override the primary header."""
        for card in self.cards:
            if card.keyword == keyword:
                return card.value
        return default


def read_header(path: str | os.PathLike[str]) -> list[Card]:
    """Return the cards of the first image in a file.

    Parameters
    ----------
    path : path-like
        A FITS file, plain, gzip-compressed or tile-compressed; XISF; camera raw.

    Returns
    -------
    list of Card
        In file order. For an image in an extension, the cards of the primary header follow after its own.

    Raises
    ------
    ReadError
        If the file cannot be opened, is of none of these formats, its header is damaged, or it holds no image.

    Examples
    --------
    >>> cards = read_header("light_0001.fits")  # doctest: +SKIP
    >>> {card.keyword: card.value for card in cards}["EXPTIME"]  # doctest: +SKIP
    300.0
    """
    return list(load_header(path).cards)


def load_header(path: str | os.PathLike[str]) -> FitsHeader:
    """Return the header of the first image in a file together with where its pixels are.

    Parameters and errors are those of :func:`read_header`.
    """
    name = os.fspath(path)
    try:
        with open(name, "rb", buffering=0) as file:
            start = file.read(_FIRST_READ)
            form = identify(name, start[:HEAD_SIZE])
            if start and form in _OTHER_FORMATS:
                return cast(FitsHeader, importlib.import_module(_OTHER_FORMATS[form]).load_header(name))
            if start[:2] == b"\x1f\x8b":
                file.seek(0)
                with gzip.GzipFile(fileobj=file) as unzipped:
                    return _load(name, cast(BinaryIO, unzipped), unzipped.read(_FIRST_READ), gzipped=True)
            return _load(name, cast(BinaryIO, file), start, gzipped=False)
    except OSError as error:
        raise ReadError(f"{name}: cannot be read: {error.strerror or error}") from error
    except (EOFError, zlib.error) as error:
        raise ReadError(f"{name}: the gzip compression is damaged ({error}), expected a whole .gz file") from error


def _load(name: str, file: BinaryIO, start: bytes, *, gzipped: bool) -> FitsHeader:
    if not start:
        raise ReadError(f"{name}: the file is empty (0 bytes), expected a FITS file")
    if not start.startswith(b"SIMPLE"):
        raise ReadError(f"{name}: begins with {start[:9]!r}, expected a FITS file, which begins with b'SIMPLE  ='")
    primary, size = _header_at(name, file, start, 0)
    unit = _structure(name, primary)
    if len(unit.axes) >= 2:
        return FitsHeader(name, tuple(primary), 0, size, unit.bitpix, unit.axes, gzipped, False)
    # No picture in the primary unit: take the first extension that holds one.
    position = size + _padded(unit.size)
    number = 0
    while True:
        number += 1
        file.seek(position)
        block = file.read(_FIRST_READ)
        if not block.startswith(b"XTENSION"):
            raise ReadError(f"{name}: holds no image (looked at {number} units), expected one of two axes or more")
        cards, size = _header_at(name, file, block, position)
        unit = _structure(name, cards)
        if unit.tiled or (unit.kind == "IMAGE" and len(unit.axes) >= 2):
            kept = [card for card in primary if card.keyword not in _STRUCTURE and card.keyword[:5] != "NAXIS"]
            return FitsHeader(
                name, (*cards, *kept), number, position + size, unit.bitpix, unit.axes, gzipped, unit.tiled
            )
        position += size + _padded(unit.size)


def _header_at(name: str, file: BinaryIO, block: bytes, position: int) -> tuple[list[Card], int]:
    """Return the cards of the header that begins with `block`, and the header's size in bytes."""
    while True:
        end = _find_end(block)
        if end >= 0:
            return parse_cards(block[:end]), _padded(end + 80)
        if len(block) > _LONGEST_HEADER:
            raise ReadError(f"{name}: no END card within {len(block)} bytes, expected a header that ends")
        more = file.read(len(block))
        if not more:
            whole = position + len(block)
            raise ReadError(f"{name}: the header stops after {whole} bytes, expected an END card")
        block += more


def _find_end(block: bytes) -> int:
    """Return where the END card starts, or -1."""
    at = -1
    while True:
        at = block.find(b"END", at + 1)
        if at < 0:
            return -1
        if at % 80 == 0 and not block[at + 3 : at + 80].strip(b" \x00"):
            return at


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


class _Unit(NamedTuple):
    kind: str
    bitpix: int
    axes: tuple[int, ...]
    size: int
    tiled: bool


def _structure(name: str, cards: list[Card]) -> _Unit:
    """Return what the mandatory keywords of one unit say."""
    values = {card.keyword: card.value for card in reversed(cards)}
    kind = str(values.get("XTENSION", "IMAGE")).strip()
    bitpix, axes = _shape(name, values, "")
    size = abs(bitpix) // 8 if axes else 0
    for length in axes:
        size *= length
    size += _count(name, values, "PCOUNT", 0) * abs(bitpix) // 8 if kind != "IMAGE" else 0
    tiled = values.get("ZIMAGE") is True
    if tiled:
        bitpix, axes = _shape(name, values, "Z")
    return _Unit(kind, bitpix, axes, size, tiled)


def _shape(name: str, values: dict[str, Value], prefix: str) -> tuple[int, tuple[int, ...]]:
    bitpix = values.get(f"{prefix}BITPIX")
    if bitpix not in _BITPIX or isinstance(bitpix, bool):
        raise ReadError(f"{name}: {prefix}BITPIX is {bitpix!r}, expected one of 8, 16, 32, 64, -32, -64")
    number = _count(name, values, f"{prefix}NAXIS", None)
    if number > 999:
        raise ReadError(f"{name}: {prefix}NAXIS is {number}, expected at most 999")
    axes = tuple(_count(name, values, f"{prefix}NAXIS{axis}", None) for axis in range(1, number + 1))
    pixels = 1
    for length in axes:
        pixels *= length
        if pixels > _MOST_PIXELS:
            raise ReadError(f"{name}: axes {axes} make more pixels than any image has, expected a sensible size")
    return int(bitpix), axes


def _count(name: str, values: dict[str, Value], keyword: str, default: int | None) -> int:
    value = values.get(keyword, default)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ReadError(f"{name}: {keyword} is {value!r}, expected a whole number from 0 on")
    return value


def parse_cards(block: bytes) -> list[Card]:
    """Return the cards in `block`, 80 bytes each; never raises, whatever the bytes are."""
    text = block.decode("latin-1")
    ascii_only = text.isascii()
    cards: list[Card] = []
    for at in range(0, len(text), 80):
        line = text[at : at + 80]
        keyword = line[:8].rstrip()
        if line[8:9] == "=" and keyword not in _COMMENTARY:
            value, comment, raw = parse_value(line[9:].strip())
        elif keyword == "HIERARCH" and "=" in line:
            words, _, rest = line[8:].partition("=")
            keyword = " ".join(words.split())
            value, comment, raw = parse_value(rest.strip())
        elif keyword == "CONTINUE" and cards and isinstance(cards[-1].value, str):
            last = cards.pop()
            more, comment, _ = parse_value(line[8:].strip())
            joined = str(last.value).removesuffix("&") + (more if isinstance(more, str) else "")
            keyword, value, raw = last.keyword, joined, joined
            comment = f"{last.comment} {comment}".strip()
        elif line.strip(" \x00"):
            value = raw = line[8:].strip()
            comment = ""
        else:
            continue
        if not ascii_only and not raw.isascii():
            raw = _recode(raw)
            value = raw if isinstance(value, str) else value
        cards.append(Card(keyword.upper(), value, comment, raw))
    return cards


def parse_value(text: str) -> tuple[Value, str, str]:
    """Return value, comment and raw text of what follows an equals sign, outer blanks taken off."""
    if text[:1] == "'":
        end = text.find("'", 1)
        while end >= 0 and text[end + 1 : end + 2] == "'":
            end = text.find("'", end + 2)
        if end < 0:
            content = text[1:].replace("''", "'").strip()
            return content, "", content
        content = text[1:end].replace("''", "'")
        comment = text[end + 1 :].partition("/")[2].strip()
        # Leading blanks are significant in FITS, trailing ones are not; no field of a frame needs either.
        return content.rstrip(), comment, content.strip()
    raw, _, comment = text.partition("/")
    raw = raw.rstrip()
    comment = comment.strip()
    if raw == "T":
        return True, comment, raw
    if raw == "F":
        return False, comment, raw
    if not raw:
        return None, comment, raw
    if _NUMBER.fullmatch(raw):
        try:
            return int(raw), comment, raw
        except ValueError:
            return float(raw.replace("D", "E").replace("d", "e")), comment, raw
    return raw, comment, raw


def _recode(text: str) -> str:
    """Return text that was read byte by byte as UTF-8 where it is that, else unchanged (Latin-1)."""
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeDecodeError:
        return text
