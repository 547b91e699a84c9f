"""Read camera raw files as bare sensor values: visible area, no white balance, no interpolation, black level kept.

LibRaw (through rawpy) decodes the pixels and knows the mosaic; ExifRead reads what the camera wrote about the
exposure. Both end in cards with FITS keywords, so that the rules read a raw file like the file of any program:

=========  =================================================================================================
EXPTIME    ExposureTime, seconds; LibRaw's shutter speed where EXIF is absent
ISOSPEED   ISOSpeedRatings; where that is at its limit of 65535, the sensitivity tags of EXIF 2.3
DATE-LOC   DateTimeOriginal with its fractions: the camera's clock
DATE-OBS   the same with OffsetTimeOriginal; only where the camera states its zone, because UTC is not known else
INSTRUME   Make and Model, the make not repeated
FOCALLEN   FocalLength, mm; not taken without an F-number, because then no lens reported it and it is a placeholder
FOCRATIO   FNumber
CCD-TEMP   CameraTemperature of Canon's maker notes, degC
SITELONG   GPSLongitude, degrees east
BAYERPAT   colours of the visible area, 4 letters or 36 for X-Trans; absent for a sensor without colours
ROWORDER   TOP-DOWN: LibRaw returns the sensor's rows from the top, whatever way the camera was held
RAWBLACK   mean black level of the four channels, DN; it stays in the pixels as with any other camera
RAWWHITE   level at which LibRaw takes a pixel for saturated, DN
=========  =================================================================================================

IMAGETYP is absent: no camera knows what the picture is for.
"""

from __future__ import annotations

import io
import logging
import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wbpy.errors import ReadError
from wbpy.io.headers import Card, FitsHeader, Value

if TYPE_CHECKING:
    import rawpy

_Tags = dict[str, Any]

_PERIODS = {2: 4, 6: 36}
"""Side of a mosaic -> letters of its pattern."""
_SAMPLE = 12
"""Rows and columns from which the period of the mosaic is told."""
_MOST_DIRECTORIES = 64
_MOST_STRIPS = 1_000_000
_LAYOUT_TAGS = frozenset((256, 257, 273, 279, 280, 322, 323, 324, 325, 330, 513, 514))
"""TIFF tags that say where pixels and further directories stand."""
_CANON_BOX = bytes.fromhex("85c0b687820f11e08111f4ce462b6a48")
_CANON_SHOT_INFO = 12
"""Where Canon's ShotInfo holds the temperature, in degC + 128; 0 when it was not measured."""
_EXIF_ERRORS = (
    *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError),
    *(OSError, EOFError, MemoryError, RecursionError, NotImplementedError, struct.error),
)
"""What ExifRead lets through when the tags of a file are damaged."""


class RawFile:
    """One camera raw file, open for reading; see :class:`wbpy.io.images.ImageFile`.

    The pixels are decoded as a whole with the first row that is asked for, and kept until the file is closed.

    Parameters
    ----------
    path : str
        A file of a format that LibRaw reads: CR2, CR3, NEF, ARW, RAF, PEF, ORF, RW2, DNG, ...
    dn_per_unit : float
        Stored value x this = DN. Raw values stay on the scale of the camera's converter, so this is 1.

    Raises
    ------
    ReadError
        If the file ends early or LibRaw does not know it.
    """

    banded = False
    bzero = 0.0
    words_start = None
    channels = 1

    def __init__(self, path: str, dn_per_unit: float = 1.0) -> None:
        self.path = path
        self._dn_per_unit = float(dn_per_unit)
        self._pixels: NDArray[np.uint16] | None = None
        self._layout: _Layout | None = None
        _check_length(path)
        with _opened(path) as raw:
            self.height, self.width = int(raw.sizes.height), int(raw.sizes.width)

    @property
    def black_level(self) -> tuple[float, ...]:
        """DN of no light in the four channels of the mosaic, as LibRaw knows or measures it; not subtracted."""
        return self._decoded()[1].black

    @property
    def white_level(self) -> int:
        """DN at which LibRaw takes a pixel for saturated."""
        return self._decoded()[1].white

    def read(self, y0: int = 0, y1: int | None = None, channel: int = 0) -> NDArray[np.float32]:
        """Return rows `y0` to `y1` as float32 DN; see :class:`wbpy.io.images.ImageFile`.

        Raises
        ------
        ReadError
            If the pixels cannot be decoded, or the file holds more than one value for each pixel.
        """
        y1 = self.height if y1 is None else y1
        if not 0 <= y0 <= y1 <= self.height:
            raise ValueError(f"rows {y0} to {y1} are not within the {self.height} rows of {self.path}")
        if channel != 0:
            raise ValueError(f"channel {channel} is not one of the {self.channels} of {self.path}")
        pixels = self._decoded()[0][y0:y1].astype(np.float32)
        if self._dn_per_unit != 1.0:
            pixels *= np.float32(self._dn_per_unit)
        return pixels

    def words(self, y0: int = 0, y1: int | None = None) -> NDArray[np.uint16] | None:
        """Return None: there are no stored words of FITS here."""
        return None

    def reopen(self) -> RawFile:
        """Return the file opened once more; see :class:`wbpy.io.images.ImageFile`."""
        return RawFile(self.path, self._dn_per_unit)

    def close(self) -> None:
        """Let go of the pixels."""
        self._pixels = None

    def __enter__(self) -> RawFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _decoded(self) -> tuple[NDArray[np.uint16], _Layout]:
        if self._pixels is None or self._layout is None:
            with _opened(self.path) as raw:
                layout = _layout(self.path, raw)
                if layout.channels != 1:
                    raise ReadError(
                        f"{self.path}: holds {layout.channels} values for each pixel, expected the mosaic of a sensor"
                    )
                if (layout.height, layout.width) != (self.height, self.width):
                    raise ReadError(
                        f"{self.path}: announces {self.width} x {self.height} pixels and holds "
                        f"{layout.width} x {layout.height}"
                    )
                # LibRaw owns the memory: it is gone with the open file.
                self._pixels, self._layout = raw.raw_image_visible.copy(), layout
        return self._pixels, self._layout


def load_header(path: str) -> FitsHeader:
    """Return what camera and decoder say about a raw file, as cards with FITS keywords.

    The pixels are decoded once on the way: LibRaw knows the mosaic only then, and a file that is damaged inside is
    found before a plan is made with it.

    Parameters
    ----------
    path : str

    Returns
    -------
    FitsHeader
        ``bitpix`` 16, axes of the visible area; three axes where the file holds no mosaic (linear DNG, sRAW, Foveon).

    Raises
    ------
    ReadError
        If the file ends early, LibRaw cannot decode it, or the mosaic has other colours than red, green and blue.
    """
    _check_length(path)
    with _opened(path) as raw:
        layout = _layout(path, raw)
        tags = read_exif(path)
        cards = _cards(layout, tags, raw.other)
    axes = (layout.width, layout.height) if layout.channels == 1 else (layout.width, layout.height, layout.channels)
    return FitsHeader(path, tuple(cards), 0, 0, 16, axes, gzipped=False, tiled=False, format="raw")


class _Layout(NamedTuple):
    """What LibRaw knows of the sensor."""

    height: int
    width: int
    channels: int
    cfa: str | None
    black: tuple[float, ...]
    white: int


@contextmanager
def _opened(path: str) -> Iterator[rawpy.RawPy]:
    """Open a file with LibRaw; its errors come out as ReadError."""
    import rawpy

    raw = rawpy.RawPy()
    try:
        raw.open_file(path)
        yield raw
    except (rawpy.LibRawError, rawpy.NotSupportedError) as error:
        text = error.args[0] if error.args else error
        text = text.decode("ascii", "replace") if isinstance(text, bytes) else str(text)
        raise ReadError(
            f"{path}: cannot be decoded ({text}), expected a whole camera raw file; it is damaged, cut off, "
            "or of a camera that LibRaw does not know"
        ) from error
    finally:
        raw.close()


def _layout(path: str, raw: rawpy.RawPy) -> _Layout:
    import rawpy

    kind = raw.raw_type
    height, width = int(raw.sizes.height), int(raw.sizes.width)
    black = tuple(float(level) for level in raw.black_level_per_channel)
    white = int(raw.white_level)
    if kind != rawpy.RawType.Flat:
        return _Layout(height, width, 3, None, black, white)
    pixels = raw.raw_image_visible
    if pixels is None or pixels.dtype != np.uint16 or pixels.shape != (height, width):
        raise ReadError(f"{path}: the pixels are not 16-bit integers of one plane, expected the mosaic of a sensor")
    if pixels.min() == pixels.max():
        # What LibRaw returns for some files whose pixels were taken out: no sensor is that even.
        raise ReadError(f"{path}: all pixels are {pixels[0, 0]}, expected the picture of a sensor")
    cfa = None if raw.num_colors == 1 else _pattern(path, raw)
    return _Layout(height, width, 1, cfa, black, white)


def _pattern(path: str, raw: rawpy.RawPy) -> str:
    """Return the colours of the visible area's upper left corner, one period of the mosaic.

    rawpy's `raw_pattern` counts from the masked margins and is wrong for X-Trans sensors that have them.
    """
    names = raw.color_desc.decode("ascii", "replace")
    top, left = int(raw.sizes.top_margin), int(raw.sizes.left_margin)
    if min(raw.sizes.height, raw.sizes.width) < _SAMPLE:
        raise ReadError(f"{path}: the visible area is {raw.sizes.width} x {raw.sizes.height} pixels, too small")
    colours = np.array([[raw.raw_color(top + y, left + x) for x in range(_SAMPLE)] for y in range(_SAMPLE)])
    if colours.max() >= len(names) or not set(names) <= set("RGB"):
        raise ReadError(f"{path}: the mosaic has the colours {names}, expected red, green and blue")
    letters = np.array(list(names))[colours]
    for side in _PERIODS:
        cell = letters[:side, :side]
        if np.array_equal(letters, np.tile(cell, (_SAMPLE // side, _SAMPLE // side))):
            return "".join(cell.ravel())
    raise ReadError(f"{path}: the mosaic repeats neither after 2 nor after 6 pixels, expected Bayer or X-Trans")


# Cards ---------------------------------------------------------------------------------------------------------


def _cards(layout: _Layout, tags: _Tags, other: Any) -> list[Card]:
    cards: list[Card] = []

    def add(keyword: str, value: Value, comment: str) -> None:
        if value is not None:
            cards.append(Card(keyword, value, comment, str(value)))

    exposure = _number(tags, "EXIF ExposureTime", "Image ExposureTime") or _positive(other.shutter_speed)
    add("EXPTIME", exposure, "[s] EXIF ExposureTime")
    add("ISOSPEED", _iso(tags) or _positive(other.iso_speed), "EXIF ISOSpeedRatings")
    local, zone = _clock(tags)
    if local is None and other.timestamp is not None and other.timestamp.year > 1980:
        local = other.timestamp.strftime("%Y-%m-%dT%H:%M:%S")
    if local is not None:
        add("DATE-LOC", local, "clock of the camera")
        if zone is not None:
            add("DATE-OBS", f"{local}{zone}", "clock of the camera with its zone")
    add("INSTRUME", _camera(tags), "EXIF Make and Model")
    ratio = _number(tags, "EXIF FNumber", "Image FNumber") or _positive(other.aperture)
    if ratio is not None:
        focal_length = _number(tags, "EXIF FocalLength", "Image FocalLength") or _positive(other.focal_length)
        add("FOCALLEN", focal_length, "[mm] EXIF FocalLength")
        add("FOCRATIO", ratio, "EXIF FNumber")
    add("CCD-TEMP", _temperature(tags), "[degC] maker note CameraTemperature")
    add("SITELONG", _longitude(tags), "[deg] EXIF GPSLongitude")
    add("BAYERPAT", layout.cfa, "colours of the visible area")
    add("ROWORDER", "TOP-DOWN", "rows of the sensor")
    if layout.channels == 1:
        add("RAWBLACK", round(sum(layout.black) / len(layout.black), 3), "[DN] black level, not subtracted")
        add("RAWWHITE", layout.white, "[DN] saturation")
    return cards


def _values(tags: _Tags, name: str) -> list[Any]:
    values = getattr(tags.get(name), "values", None)
    if isinstance(values, str | bytes):
        return [values]
    return list(values) if isinstance(values, list | tuple) else []


def _positive(value: Any) -> float | None:
    """Return a positive finite number, or None; one that came from 32 bits as the short decimal that it stands for."""
    try:
        number = float(value)
    except _EXIF_ERRORS:
        return None
    if not 0.0 < number < 1e30:
        return None
    return float(str(np.float32(number))) if float(np.float32(number)) == number else number


def _number(tags: _Tags, *names: str) -> float | None:
    for name in names:
        values = _values(tags, name)
        number = _positive(values[0]) if values else None
        if number is not None:
            return number
    return None


def _text(tags: _Tags, *names: str) -> str | None:
    for name in names:
        values = _values(tags, name)
        if values and isinstance(values[0], str | bytes):
            text = values[0].decode("latin-1") if isinstance(values[0], bytes) else values[0]
            text = " ".join(text.replace("\0", " ").split())
            if text and text.isprintable():
                return text
    return None


def _iso(tags: _Tags) -> float | None:
    for name in ("ISOSpeedRatings", "ISOSpeed", "RecommendedExposureIndex", "StandardOutputSensitivity"):
        number = _number(tags, f"EXIF {name}", f"Image {name}")
        if number is not None and number < 65535:
            return number
    # Older Nikon cameras say it in their own notes alone, behind a zero.
    values = _values(tags, "MakerNote ISOSetting")
    return _positive(values[1]) if len(values) > 1 else None


def _clock(tags: _Tags) -> tuple[str | None, str | None]:
    """Return date and time of the camera's clock, and the zone where it is stated."""
    for date, fraction, offset in (
        ("DateTimeOriginal", "SubSecTimeOriginal", "OffsetTimeOriginal"),
        ("DateTimeDigitized", "SubSecTimeDigitized", "OffsetTimeDigitized"),
        ("DateTime", "SubSecTime", "OffsetTime"),
    ):
        text = _text(tags, f"EXIF {date}", f"Image {date}")
        match = re.fullmatch(r"(\d{4})[:/-](\d\d)[:/-](\d\d) (\d\d:\d\d:\d\d)", text or "")
        if match is None or match[1] < "1981":
            continue
        digits = _text(tags, f"EXIF {fraction}", f"Image {fraction}") or ""
        zone = _text(tags, f"EXIF {offset}", f"Image {offset}") or ""
        local = f"{match[1]}-{match[2]}-{match[3]}T{match[4]}"
        if re.fullmatch(r"\d{1,9}", digits):
            local += f".{digits}"
        return local, zone if re.fullmatch(r"[+-]\d\d:\d\d", zone) else None
    return None, None


def _camera(tags: _Tags) -> str | None:
    make, model = _text(tags, "Image Make"), _text(tags, "Image Model")
    if make is None or model is None:
        return model or make
    return model if model.casefold().startswith(make.split()[0].casefold()) else f"{make} {model}"


def _temperature(tags: _Tags) -> float | None:
    match = re.match(r"(-?\d+) C$", str(tags.get("MakerNote CameraTemperature", "")))
    if match is not None:
        return float(match[1]) if int(match[1]) > -128 else None
    # CR3 keeps the same record in a directory of its own.
    shot = _values(tags, "Canon Tag 0x0004")
    if len(shot) > _CANON_SHOT_INFO and isinstance(shot[_CANON_SHOT_INFO], int) and shot[_CANON_SHOT_INFO] > 0:
        return float(shot[_CANON_SHOT_INFO] - 128)
    return None


def _longitude(tags: _Tags) -> float | None:
    values, side = _values(tags, "GPS GPSLongitude"), _text(tags, "GPS GPSLongitudeRef")
    if len(values) != 3 or side not in ("E", "W"):
        return None
    parts = [_positive(value) or 0.0 for value in values]
    degrees = parts[0] + parts[1] / 60.0 + parts[2] / 3600.0
    if not 0.0 < degrees <= 180.0:
        return None
    return round(degrees if side == "E" else -degrees, 6)


def read_exif(path: str) -> _Tags:
    """Return the EXIF tags of a raw file by name, as ExifRead calls them; empty where there are none or all is damaged.

    TIFF-like files are read in place, RAF through its embedded JPEG, CR3 through its boxes CMT1 to CMT4.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(16)
            if head.startswith(b"FUJIFILMCCD-RAW"):
                file.seek(84)
                at, length = struct.unpack(">II", file.read(8))
                file.seek(at)
                return _tags(io.BytesIO(file.read(length)))
            if head[4:12] == b"ftypcrx ":
                return _canon_tags(file)
            return _tags(file)
    except _EXIF_ERRORS:
        return {}


def _tags(file: BinaryIO) -> _Tags:
    import exifread

    # Damaged or unknown tags are common in raw files and say nothing to the user.
    logging.getLogger("exifread").setLevel(logging.CRITICAL + 1)
    return dict(exifread.process_file(file, details=True, extract_thumbnail=False))


def _canon_tags(file: BinaryIO) -> _Tags:
    size = file.seek(0, os.SEEK_END)
    tags: _Tags = {}
    for kind, start, end in _boxes(file, 0, size):
        if kind != b"moov":
            continue
        for inner, inner_start, inner_end in _boxes(file, start, end):
            file.seek(inner_start)
            if inner != b"uuid" or file.read(16) != _CANON_BOX:
                continue
            for part, part_start, part_end in _boxes(file, inner_start + 16, inner_end):
                prefix = {b"CMT1": "Image", b"CMT2": "EXIF", b"CMT3": "Canon", b"CMT4": "GPS"}.get(part)
                if prefix is not None:
                    file.seek(part_start)
                    found = _tags(io.BytesIO(file.read(part_end - part_start)))
                    tags |= {name.replace("Image", prefix, 1): tag for name, tag in found.items()}
    return tags


# Lengths -------------------------------------------------------------------------------------------------------


def _check_length(path: str) -> None:
    """Raise when the file ends before the pixels or previews that it announces.

    LibRaw fills what is missing with zeros in some formats, and says no more than "input/output error" in others.
    """
    try:
        with open(path, "rb") as file:
            found = file.seek(0, os.SEEK_END)
            file.seek(0)
            head = file.read(16)
            if head[4:12] == b"ftypcrx ":
                needed = max((end for _, _, end in _boxes(file, 0, found)), default=0)
            elif head.startswith(b"FUJIFILMCCD-RAW"):
                file.seek(84)
                pairs = struct.unpack(">6I", file.read(24))
                needed = max(at + length for at, length in zip(pairs[::2], pairs[1::2], strict=True))
            elif head[:2] in (b"II", b"MM"):
                needed = _tiff_end(path, file, found, "<" if head[:2] == b"II" else ">")
            else:
                needed = 0
    except OSError as error:
        raise ReadError(f"{path}: cannot be read: {error.strerror or error}") from error
    except struct.error as error:
        raise ReadError(f"{path}: the file ends within its header, expected a whole camera raw file") from error
    if needed > found:
        raise ReadError(
            f"{path}: the file ends after {found} of {needed} bytes, expected the whole image; "
            "it was cut off while being written or copied"
        )


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, start of the content and end of the boxes of an ISO base media file (ISO 14496-12)."""
    while start + 8 <= end:
        file.seek(start)
        length, kind = struct.unpack(">I4s", file.read(8))
        content = start + 8
        if length == 1:
            (length,) = struct.unpack(">Q", file.read(8))
            content += 8
        elif length == 0:
            length = end - start
        if start + length < content:
            return
        yield kind, content, start + length
        start += length


def _tiff_end(path: str, file: BinaryIO, size: int, order: str) -> int:
    """Return the end of the last strip, tile or preview of a TIFF-like file, all its directories considered."""
    file.seek(4)
    (first,) = struct.unpack(f"{order}I", file.read(4))
    waiting, seen, last = [first], set[int](), 0
    while waiting and len(seen) < _MOST_DIRECTORIES:
        at = waiting.pop()
        if at in seen or not 8 <= at <= size - 2:
            continue
        seen.add(at)
        tags, following = _directory(file, size, order, at)
        waiting += [following, *tags.get(330, ())]
        width, height, across, down = (max(tags.get(number, (0,)), default=0) for number in (256, 257, 322, 323))
        tiles = -(-width // across) * -(-height // down) if across and down else 0
        if len(tags.get(324, ())) < tiles:
            # LibRaw would leave the memory of the other tiles as it found it.
            raise ReadError(f"{path}: holds {len(tags.get(324, ()))} of {tiles} tiles, expected the whole image")
        for starts, lengths in ((273, 279), (324, 325), (513, 514)):
            offsets = tags.get(starts, ())
            if starts == 273 and offsets == (0xFFFFFFFF,):
                # Panasonic: the real offset stands in a tag of its own.
                offsets = tags.get(280, ())
            ends = [at + length for at, length in zip(offsets, tags.get(lengths, ()), strict=False) if length]
            last = max(last, *ends, 0)
    return last


def _directory(file: BinaryIO, size: int, order: str, at: int) -> tuple[dict[int, tuple[int, ...]], int]:
    """Return the whole numbers in one TIFF directory by tag, and where the next directory stands."""
    file.seek(at)
    (count,) = struct.unpack(f"{order}H", file.read(2))
    entries = file.read(12 * count + 4)
    tags: dict[int, tuple[int, ...]] = {}
    for place in range(0, min(12 * count, len(entries) - 11), 12):
        number, kind, values = struct.unpack_from(f"{order}HHI", entries, place)
        if number not in _LAYOUT_TAGS or kind not in (3, 4, 13) or not 0 < values <= _MOST_STRIPS:
            continue
        letter, width = ("H", 2) if kind == 3 else ("I", 4)
        if values * width <= 4:
            content = entries[place + 8 : place + 12]
        else:
            (where,) = struct.unpack_from(f"{order}I", entries, place + 8)
            if where + values * width > size:
                continue
            file.seek(where)
            content = file.read(values * width)
        tags[number] = struct.unpack_from(f"{order}{values}{letter}", content)
    following = struct.unpack_from(f"{order}I", entries, 12 * count)[0] if len(entries) >= 12 * count + 4 else 0
    return tags, following
