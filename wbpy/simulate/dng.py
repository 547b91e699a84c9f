"""Write Digital Negatives: camera raw files with a 2x2 or 6x6 CFA, or none, whose every pixel is known.

Layout: Adobe's DNG specification 1.4 on top of TIFF 6.0; the mosaic is described by the TIFF/EP tags
CFARepeatPatternDim and CFAPattern (ISO 12234-2). One strip of uncompressed 16-bit values, little-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wbpy.errors import ConfigError

XTRANS = "GBGGRGRGRBGBGBGGRGGRGGBGBGBRGRGRGGBG"
"""A 6x6 pattern as Fujifilm's sensors have: 20 green, 8 red and 8 blue sites, every colour in every row and column."""

_MOSAIC = 32803
_LINEAR = 34892
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 10: 8}
"""Bytes of one value of a TIFF type: byte, text, 16-bit, 32-bit, fraction, signed fraction."""

_Tag = tuple[int, int, bytes]


@dataclass(frozen=True)
class DngInfo:
    """What the file says about its exposure; None leaves the tag out.

    Attributes
    ----------
    exposure_s, iso, focal_length_mm, f_number : float or None
    start : datetime or None
        Local time of the camera's clock, without a zone.
    zone : str or None
        Offset of that clock from UTC, such as ``+01:00``.
    make, model : str
    black_level, white_level : int
        DN of no light and of saturation.
    margins : (top, left, bottom, right) of int
        Rows and columns around the visible area, masked on real sensors.
    orientation : int
        How the camera was held, as EXIF counts it: 1 upright, 6 and 8 on its sides.
    """

    exposure_s: float | None = 30.0
    iso: int | None = 800
    start: datetime | None = None
    zone: str | None = None
    focal_length_mm: float | None = 200.0
    f_number: float | None = 2.8
    make: str = "Simulated"
    model: str = "Sensor"
    black_level: int = 512
    white_level: int = 16383
    margins: tuple[int, int, int, int] = (0, 0, 0, 0)
    orientation: int = 1


def write_dng(path: str | Path, pixels: NDArray[np.uint16], cfa: str | None, info: DngInfo | None = None) -> None:
    """Write one frame as DNG.

    Parameters
    ----------
    path : path-like
    pixels : (H, W) uint16 ndarray, DN
        The whole sensor, margins included; black level not subtracted.
    cfa : str or None
        Colours of the visible area row by row, 4 letters for 2x2 or 36 for 6x6; None for a sensor without colours.
    info : DngInfo, optional

    Raises
    ------
    ConfigError
        If the pattern has another length or other letters, or the margins leave nothing.
    """
    Path(path).write_bytes(dng_bytes(pixels, cfa, info))


def dng_bytes(pixels: NDArray[np.uint16], cfa: str | None, info: DngInfo | None = None) -> bytes:
    """Return the content of a DNG file; parameters and errors are those of :func:`write_dng`."""
    info = info or DngInfo()
    height, width = pixels.shape
    top, left, bottom, right = info.margins
    if min(info.margins) < 0 or top + bottom >= height or left + right >= width:
        raise ConfigError(f"margins {info.margins} leave nothing of {height} x {width} pixels")
    if cfa is not None and (len(cfa) not in (4, 36) or set(cfa) - set("RGB")):
        raise ConfigError(f"the CFA pattern is {cfa!r}, expected 4 or 36 letters of R, G and B")
    data = np.ascontiguousarray(pixels, "<u2").tobytes()
    tags: list[_Tag] = [
        _long(254, 0),
        _long(256, width),
        _long(257, height),
        _short(258, 16),
        _short(259, 1),
        _short(262, _LINEAR if cfa is None else _MOSAIC),
        _text(271, info.make),
        _text(272, info.model),
        _long(273, 0),
        _short(274, info.orientation),
        _short(277, 1),
        _long(278, height),
        _long(279, len(data)),
        _short(284, 1),
        _text(305, "wbpy simulator"),
        _long(34665, 0),
        _bytes(50706, bytes((1, 4, 0, 0))),
        _bytes(50707, bytes((1, 1, 0, 0))),
        _text(50708, f"{info.make} {info.model}"),
        _short(50714, info.black_level),
        _long(50717, info.white_level),
        _long(50829, top, left, height - bottom, width - right),
    ]
    if cfa is not None:
        side = 2 if len(cfa) == 4 else 6
        tags.append(_short(33421, side, side))
        tags.append(_bytes(33422, bytes("RGB".index(colour) for colour in cfa)))
        tags.append(_bytes(50710, bytes((0, 1, 2))))
        tags.append(_short(50711, 1))
    exif = _exif(info)
    # The directory is laid out twice: its size decides where the EXIF directory and the pixels stand.
    exif_at = 8 + len(_directory(tags, 8))
    data_at = exif_at + len(_directory(exif, exif_at))
    data_at += data_at % 2
    where = {273: data_at, 34665: exif_at}
    tags = [_long(number, where[number]) if number in where else (number, kind, value) for number, kind, value in tags]
    head = struct.pack("<2sHI", b"II", 42, 8) + _directory(tags, 8) + _directory(exif, exif_at)
    return head.ljust(data_at, b"\0") + data


def _exif(info: DngInfo) -> list[_Tag]:
    tags = [_bytes(36864, b"0231", kind=7)]
    if info.exposure_s is not None:
        tags.append(_fraction(33434, info.exposure_s))
    if info.f_number is not None:
        tags.append(_fraction(33437, info.f_number))
    if info.iso is not None:
        tags.append(_short(34855, info.iso))
    if info.start is not None:
        tags.append(_text(36867, info.start.strftime("%Y:%m:%d %H:%M:%S")))
        if info.start.microsecond:
            tags.append(_text(37521, f"{info.start.microsecond // 1000:03d}"))
    if info.zone is not None:
        tags.append(_text(36881, info.zone))
    if info.focal_length_mm is not None:
        tags.append(_fraction(37386, info.focal_length_mm))
    return tags


def _directory(tags: list[_Tag], start: int) -> bytes:
    """Return one TIFF directory that stands at `start`, the longer values behind its entries."""
    entries = sorted(tags)
    behind_at = start + 2 + 12 * len(entries) + 4
    fixed, behind = struct.pack("<H", len(entries)), b""
    for number, kind, value in entries:
        count = len(value) // _SIZES.get(kind, 1)
        if len(value) <= 4:
            place = value.ljust(4, b"\0")
        else:
            place = struct.pack("<I", behind_at + len(behind))
            behind += value + b"\0" * (len(value) % 2)
        fixed += struct.pack("<HHI", number, kind, count) + place
    return fixed + struct.pack("<I", 0) + behind


def _bytes(number: int, value: bytes, kind: int = 1) -> _Tag:
    return number, kind, value


def _text(number: int, value: str) -> _Tag:
    return number, 2, value.encode("ascii", "replace") + b"\0"


def _short(number: int, *values: int) -> _Tag:
    return number, 3, struct.pack(f"<{len(values)}H", *values)


def _long(number: int, *values: int) -> _Tag:
    return number, 4, struct.pack(f"<{len(values)}I", *values)


def _fraction(number: int, value: float) -> _Tag:
    part = Fraction(value).limit_denominator(1_000_000)
    return number, 5, struct.pack("<II", part.numerator, part.denominator)
