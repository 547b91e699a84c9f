"""Read and write XISF 1.0, the format of PixInsight: an XML header and blocks of pixels behind or inside it.

Read are monolithic files with attached, embedded and inline blocks, plain or compressed with zlib, lz4, lz4hc or
zstd, with and without byte shuffling, checksums verified; real samples of 8 to 64 bits, planar or interleaved.

Metadata become cards with FITS keywords, the first of a keyword counting:

1. ROWORDER is TOP-DOWN, because XISF stores the top row first whatever a copied FITS keyword says. A ColorFilterArray
   element or the property PCL:CFASourcePattern is the pattern (PixInsight keeps the property on debayered images:
   it counts for images of one channel).
2. FITSKeyword elements as they stand; those that describe the storage in a FITS file are left out.
3. The attribute imageType, as IMAGETYP, or as FRAMETYP where a keyword IMAGETYP exists, so that a contradiction shows.
4. Properties of the namespaces Instrument, Observation and Observer, in the units of FITS headers: focal length from
   m to mm. Instrument:Camera:Gain is EGAIN, because the specification defines it in electrons per data number.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
import os
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from numpy.typing import NDArray

from wbpy.errors import ReadError
from wbpy.io.headers import Card, FitsHeader, Value, parse_value
from wbpy.io.products import CardText, PlanesWriter, write_atomic
from wbpy.model import Scalar

_SIGNATURE = b"XISF0100"
_START = 16
"""Bytes before the XML: signature, its length, four reserved bytes."""
_SPACE = "http://www.pixinsight.com/xisf"
_DEEPEST = 32
_MOST_PIXELS = 1 << 40
_FREE_SIZE = 1 << 26
"""A block up to this size may come from any number of compressed bytes."""
_HIGHEST_RATIO = 1100
"""Larger blocks hold at most this many bytes for each compressed one: zlib's limit; no picture comes near it."""
_ALIGNMENT = 4096
"""Blocks are written at multiples of this, as PixInsight does."""
_DIGESTS = {"sha1": 20, "sha256": 32, "sha512": 64, "sha3256": 32, "sha3512": 64}
_DIGEST_NAMES = {"sha3256": "sha3_256", "sha3512": "sha3_512"}
_SAMPLES = {
    "UInt8": ("u1", 8, 255),
    "UInt16": ("u2", 16, 65535),
    "UInt32": ("u4", 32, 2**32 - 1),
    "Float32": ("f4", -32, None),
    "Float64": ("f8", -64, None),
}
"""Sample format -> numpy kind, BITPIX of the same meaning, value of white for integers."""
_STORAGE = frozenset(("SIMPLE", "BITPIX", "NAXIS", "BZERO", "BSCALE", "BLANK", "EXTEND", "PCOUNT", "GCOUNT", "END"))
_DN_RANGE = 65535.0
_PROPERTIES: dict[str, tuple[str, float]] = {
    "Instrument:ExposureTime": ("EXPTIME", 1.0),
    "Instrument:FrameExposureTime": ("EXPTIME", 1.0),
    "Instrument:Camera:Gain": ("EGAIN", 1.0),
    "Instrument:Camera:ISOSpeed": ("ISOSPEED", 1.0),
    "Instrument:Camera:Name": ("INSTRUME", 1.0),
    "Instrument:Camera:Rotation": ("ROTATANG", 1.0),
    "Instrument:Camera:XBinning": ("XBINNING", 1.0),
    "Instrument:Camera:YBinning": ("YBINNING", 1.0),
    "Instrument:Filter:Name": ("FILTER", 1.0),
    "Instrument:Focuser:Position": ("FOCUSPOS", 1.0),
    "Instrument:Sensor:TargetTemperature": ("SET-TEMP", 1.0),
    "Instrument:Sensor:Temperature": ("CCD-TEMP", 1.0),
    "Instrument:Sensor:XPixelSize": ("XPIXSZ", 1.0),
    "Instrument:Sensor:YPixelSize": ("YPIXSZ", 1.0),
    "Instrument:Telescope:Aperture": ("APTDIA", 1000.0),
    "Instrument:Telescope:FocalLength": ("FOCALLEN", 1000.0),
    "Instrument:Telescope:Name": ("TELESCOP", 1.0),
    "Observation:Center:Dec": ("DEC", 1.0),
    "Observation:Center:RA": ("RA", 1.0),
    "Observation:Location:Latitude": ("SITELAT", 1.0),
    "Observation:Location:Longitude": ("SITELONG", 1.0),
    "Observation:Object:Dec": ("OBJCTDEC", 1.0),
    "Observation:Object:Name": ("OBJECT", 1.0),
    "Observation:Time:End": ("DATE-END", 1.0),
    "Observation:Time:Start": ("DATE-OBS", 1.0),
    "Observer:Name": ("OBSERVER", 1.0),
}
"""Property -> FITS keyword, and by what its number is multiplied."""
_WRITTEN = {
    "EXPTIME": ("Instrument:ExposureTime", "Float32"),
    "EGAIN": ("Instrument:Camera:Gain", "Float32"),
    "ISOSPEED": ("Instrument:Camera:ISOSpeed", "Int32"),
    "INSTRUME": ("Instrument:Camera:Name", "String"),
    "XBINNING": ("Instrument:Camera:XBinning", "Int32"),
    "YBINNING": ("Instrument:Camera:YBinning", "Int32"),
    "FILTER": ("Instrument:Filter:Name", "String"),
    "CCD-TEMP": ("Instrument:Sensor:Temperature", "Float32"),
    "SET-TEMP": ("Instrument:Sensor:TargetTemperature", "Float32"),
    "XPIXSZ": ("Instrument:Sensor:XPixelSize", "Float32"),
    "FOCALLEN": ("Instrument:Telescope:FocalLength", "Float32"),
    "TELESCOP": ("Instrument:Telescope:Name", "String"),
    "OBJECT": ("Observation:Object:Name", "String"),
    "BAYERPAT": ("PCL:CFASourcePattern", "String"),
}
"""FITS keyword -> property that says the same, and its type."""
_KEYWORD = re.compile(r"[A-Z0-9_-]{1,8}")
_IMAGE_TYPES = {
    "".join(name.split()).casefold(): "".join(name.split())
    for name in ("Bias", "Dark", "Flat", "Light", "Master Bias", "Master Dark", "Master Flat", "Master Light")
}


# Header --------------------------------------------------------------------------------------------------------


@dataclass
class _Node:
    """One element of the header."""

    tag: str
    attributes: dict[str, str]
    children: list[_Node] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def get(self, name: str, default: str = "") -> str:
        return self.attributes.get(name, default)

    def all(self, tag: str) -> list[_Node]:
        return [child for child in self.children if child.tag == tag]


class _Refused(Exception):
    """What is wrong with a header; the reader adds the file's name."""


class _Block(NamedTuple):
    """Where the bytes of a block stand and how they are packed."""

    start: int | None
    """Bytes from the start of the file; None when `content` holds the block."""
    stored: int
    """Bytes as stored."""
    content: bytes
    codec: str | None
    """``zlib``, ``lz4`` or ``zstd``."""
    item: int
    """Size of the items whose bytes were shuffled; 1 when they were not."""
    parts: tuple[tuple[int, int], ...]
    """(compressed, uncompressed) bytes of each part."""
    digest: tuple[str, bytes] | None


class _Image(NamedTuple):
    """What the header says about the first image."""

    node: _Node
    width: int
    height: int
    channels: int
    dtype: np.dtype[Any]
    bitpix: int
    low: float
    dn_per_unit: float | None
    interleaved: bool
    block: _Block

    @property
    def size(self) -> int:
        return self.width * self.height * self.channels * self.dtype.itemsize


def load_header(path: str) -> FitsHeader:
    """Return the header of the first image of an XISF file in the terms of FITS.

    Parameters
    ----------
    path : str

    Returns
    -------
    FitsHeader
        ``dn_per_unit`` follows from the sample format and the attribute ``bounds``.

    Raises
    ------
    ReadError
        If the file is cut off, its XML is damaged or uses entities, or the image is of a kind that is not read
        (complex or 64-bit integer samples, one or three and more axes, blocks in other files).
    """
    image, nodes = _open_header(path)
    axes = (image.width, image.height) if image.channels == 1 else (image.width, image.height, image.channels)
    cards = tuple(_cards(image, nodes))
    return FitsHeader(
        path, cards, 0, 0, image.bitpix, axes, gzipped=False, tiled=False, format="xisf", dn_per_unit=image.dn_per_unit
    )


def _open_header(path: str) -> tuple[_Image, list[_Node]]:
    """Return the first image and all elements that carry metadata for it."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(_START)
            if not start.startswith(_SIGNATURE) or len(start) < _START:
                raise _Refused(f"begins with {start[:8]!r}, expected an XISF file, which begins with {_SIGNATURE!r}")
            length = int.from_bytes(start[8:12], "little")
            if _START + length > size:
                raise _Refused(
                    f"the file ends after {size} of at least {_START + length} bytes, expected a whole XML header; "
                    "it was cut off while being written or copied"
                )
            root = _parse(file.read(length))
        images = root.all("Image")
        if root.tag != "xisf" or not images:
            raise _Refused("holds no image, expected an element Image")
        named = {node.get("uid"): node for node in root.children if node.get("uid")}
        referred = [named[node.get("ref")] for node in images[0].all("Reference") if node.get("ref") in named]
        return _image(images[0], size), [*images[0].children, *referred, *root.all("Property")]
    except OSError as error:
        raise ReadError(f"{path}: cannot be read: {error.strerror or error}") from error
    except _Refused as error:
        raise ReadError(f"{path}: {error}") from error


def _parse(text: bytes) -> _Node:
    """Return the root element.

    Document types are refused: they are the only place where XML can define entities, with which a short text
    expands without limit. XISF has none.
    """
    root = _Node("", {})
    open_nodes = [root]

    def begin(tag: str, attributes: dict[str, str]) -> None:
        if len(open_nodes) > _DEEPEST:
            raise _Refused(f"the XML header nests deeper than {_DEEPEST} elements")
        node = _Node(tag.removeprefix(f"{_SPACE} "), attributes)
        open_nodes[-1].children.append(node)
        open_nodes.append(node)

    def finish(tag: str) -> None:
        open_nodes.pop()

    def refuse(*_: object) -> None:
        raise _Refused("the XML header has a document type, which XISF does not know; it is not read")

    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartElementHandler = begin
    parser.EndElementHandler = finish
    parser.CharacterDataHandler = lambda text: open_nodes[-1].pieces.append(text)
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    try:
        # Some writers fill the header up with zeros.
        parser.Parse(text.rstrip(b"\0"), True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise _Refused(f"the XML header is damaged ({error})") from error
    return root.children[0]


def _image(node: _Node, size: int) -> _Image:
    geometry = node.get("geometry")
    numbers = [_whole(number, f"geometry is {geometry!r}") for number in geometry.split(":")]
    if len(numbers) != 3 or min(numbers) < 1 or math.prod(numbers) > _MOST_PIXELS:
        raise _Refused(f"geometry is {geometry!r}, expected width, height and number of channels")
    width, height, channels = numbers
    sample = node.get("sampleFormat")
    if sample not in _SAMPLES:
        raise _Refused(f"sampleFormat is {sample!r}, expected one of {', '.join(_SAMPLES)}")
    kind, bitpix, white = _SAMPLES[sample]
    order = {"little": "<", "big": ">"}.get(node.get("byteOrder", "little").lower())
    storage = node.get("pixelStorage", "Planar")
    if order is None or storage not in ("Planar", "Normal"):
        raise _Refused(f"byteOrder {node.get('byteOrder')!r} and pixelStorage {storage!r} are not known")
    low, high = 0.0, float(white) if white is not None else None
    if node.get("bounds"):
        low, high = _bounds(node.get("bounds"))
    dtype = np.dtype(f"{order}{kind}")
    dn_per_unit = None if high is None else _DN_RANGE / (high - low)
    image = _Image(
        node, width, height, channels, dtype, bitpix, low, dn_per_unit, storage == "Normal", _block(node, size)
    )
    held = sum(uncompressed for _, uncompressed in image.block.parts)
    if held != image.size:
        raise _Refused(f"the pixels have {held} bytes, expected {image.size} for {geometry} of {sample}")
    return image


def _bounds(text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError:
        low, high = 0.0, 0.0
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise _Refused(f"bounds is {text!r}, expected two numbers, the lower first")
    return low, high


def _whole(text: str, found: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise _Refused(f"{found}, expected whole numbers")
    return int(text)


def _block(node: _Node, size: int) -> _Block:
    """Return where the pixels of an element stand, after checks against the size of the file."""
    location = node.get("location")
    kind, _, rest = location.partition(":")
    start, content = None, b""
    if kind == "attachment":
        begin, _, length = rest.partition(":")
        start, stored = (_whole(part, f"location is {location!r}") for part in (begin, length))
        if start + stored > size:
            raise _Refused(
                f"the file ends after {size} of {start + stored} bytes, expected the whole image; "
                "it was cut off while being written or copied"
            )
    elif kind == "embedded":
        data = node.all("Data")
        if not data:
            raise _Refused("the location is embedded, expected an element Data")
        # The attributes of the block may stand at either element.
        node = _Node("Data", {**node.attributes, **data[0].attributes})
        content = _decode(data[0].get("encoding"), data[0].text)
        stored = len(content)
    elif kind == "inline":
        content = _decode(rest, node.text)
        stored = len(content)
    else:
        raise _Refused(f"location is {location!r}: blocks outside of the file are not read")
    codec, item, parts = _packing(node, stored)
    return _Block(start, stored, content, codec, item, parts, _digest(node.get("checksum")))


def _decode(encoding: str, text: str) -> bytes:
    try:
        if encoding == "base64":
            return base64.b64decode("".join(text.split()), validate=True)
        if encoding in ("hex", "base16"):
            return bytes.fromhex(text)
    except (ValueError, binascii.Error) as error:
        raise _Refused(f"a block of the header is damaged ({error}), expected {encoding}") from error
    raise _Refused(f"the encoding of a block is {encoding!r}, expected base64 or hex")


def _packing(node: _Node, stored: int) -> tuple[str | None, int, tuple[tuple[int, int], ...]]:
    text = node.get("compression")
    if not text:
        return None, 1, ((stored, stored),)
    found = f"compression is {text!r}"
    name, *numbers = text.split(":")
    codec, shuffled = name.removesuffix("+sh"), name.endswith("+sh")
    if codec not in ("zlib", "lz4", "lz4hc", "zstd") or len(numbers) != 1 + shuffled:
        raise _Refused(f"{found}, expected zlib, lz4, lz4hc or zstd with the size, and the item size after +sh")
    whole = _whole(numbers[0], found)
    item = _whole(numbers[1], found) if shuffled else 1
    if not 1 <= item <= 16:
        raise _Refused(f"{found}, expected an item size of 1 to 16 bytes")
    parts: tuple[tuple[int, int], ...] = ((stored, whole),)
    if listed := node.get("subblocks"):
        pairs = [part.split(",") for part in listed.split(":")]
        if any(len(pair) != 2 for pair in pairs):
            raise _Refused("subblocks are damaged, expected pairs of sizes")
        parts = tuple((_whole(a, "subblocks"), _whole(b, "subblocks")) for a, b in pairs)
        if sum(part[0] for part in parts) != stored or sum(part[1] for part in parts) != whole:
            raise _Refused(f"the subblocks do not add up to {stored} compressed and {whole} other bytes")
    if whole > max(_FREE_SIZE, _HIGHEST_RATIO * stored):
        raise _Refused(f"{stored} compressed bytes announce {whole}, which no picture reaches; it is not unpacked")
    return "lz4" if codec == "lz4hc" else codec, item, parts


def _digest(text: str) -> tuple[str, bytes] | None:
    if not text:
        return None
    name, _, digits = text.partition(":")
    name = name.lower().replace("-", "")
    try:
        value = bytes.fromhex(digits)
    except ValueError:
        value = b""
    if name not in _DIGESTS or len(value) != _DIGESTS[name]:
        raise _Refused(f"checksum is {text!r}, expected sha1, sha256, sha512, sha3-256 or sha3-512 with its digits")
    return _DIGEST_NAMES.get(name, name), value


# Cards ---------------------------------------------------------------------------------------------------------


def _cards(image: _Image, nodes: Sequence[_Node]) -> list[Card]:
    cards = [Card("ROWORDER", "TOP-DOWN", "XISF stores the top row first", "TOP-DOWN")]

    def add(keyword: str, text: str, comment: str, *, number: bool = False) -> None:
        value, raw = _fits_value(text) if number else (text, text)
        if raw:
            cards.append(Card(keyword, value, comment, raw))

    properties = {node.get("id"): node for node in reversed(nodes) if node.tag == "Property"}
    if image.channels == 1:
        for node in nodes:
            if node.tag == "ColorFilterArray":
                add("BAYERPAT", node.get("pattern"), "ColorFilterArray")
        if (pattern := properties.get("PCL:CFASourcePattern")) is not None:
            add("BAYERPAT", _property_text(pattern), "PCL:CFASourcePattern")
    for node in nodes:
        if node.tag == "FITSKeyword":
            name, value, comment = (node.get(part) for part in ("name", "value", "comment"))
            keyword = name.strip().upper()
            if keyword in ("COMMENT", "HISTORY", ""):
                text = (value.strip().strip("'") or comment).strip()
                cards.append(Card(keyword, text, "", text))
            elif keyword not in _STORAGE and not keyword.startswith("NAXIS"):
                parsed, raw = _fits_value(value.strip())
                cards.append(Card(keyword, parsed, comment, raw))
    kind = "FRAMETYP" if any(card.keyword == "IMAGETYP" for card in cards) else "IMAGETYP"
    add(kind, image.node.get("imageType"), "attribute imageType")
    for id, (keyword, factor) in _PROPERTIES.items():
        if (node_ := properties.get(id)) is None:
            continue
        text = _property_text(node_)
        is_number = node_.get("type") not in ("String", "TimePoint")
        if is_number and factor != 1.0:
            try:
                text = repr(float(f"{float(text) * factor:.9g}"))
            except ValueError:
                continue
        add(keyword, text, id, number=is_number)
    return cards


def _fits_value(text: str) -> tuple[Value, str]:
    """Return the typed value and the text of a value as it stands in a FITS card; here a slash begins no comment."""
    if "/" in text and not text.startswith("'"):
        return text, text
    value, _, raw = parse_value(text)
    return value, raw


def _property_text(node: _Node) -> str:
    return (node.get("value") or node.text).strip()


# Pixels --------------------------------------------------------------------------------------------------------


class XisfFile:
    """One XISF image, open for reading; see :class:`wbpy.io.images.ImageFile`.

    Parameters
    ----------
    path : str
        A monolithic XISF file; its first image is read.
    dn_per_unit : float
        (Stored value - lower bound) x this = DN of the 16-bit scale; :func:`load_header` says what the file asks for.

    Raises
    ------
    ReadError
        If the header is damaged, the file ends early, or a block does not unpack to what the header announces.
    """

    bzero = 0.0
    words_start = None

    def __init__(self, path: str, dn_per_unit: float = 1.0) -> None:
        image, _ = _open_header(path)
        self.path = path
        self.height, self.width, self.channels = image.height, image.width, image.channels
        self._image = image
        self._dn_per_unit = float(dn_per_unit)
        self._stored: NDArray[np.generic] | None = None
        self._file: BinaryIO | None = None
        # A checksum covers the whole block, so that such a file has to be read as a whole to be trusted.
        self._banded = image.block.start is not None and image.block.codec is None and image.block.digest is None
        try:
            self._file = open(path, "rb")  # noqa: SIM115  closed by close()
        except OSError as error:
            raise ReadError(f"{path}: cannot be read: {error.strerror or error}") from error

    @property
    def banded(self) -> bool:
        """Whether `read` fetches just the rows that are asked for: for attached blocks without compression."""
        return self._banded

    def read(self, y0: int = 0, y1: int | None = None, channel: int = 0) -> NDArray[np.float32]:
        """Return rows `y0` to `y1` of one channel as float32 DN; see :class:`wbpy.io.images.ImageFile`.

        Raises
        ------
        ReadError
            If the block is damaged: its checksum or its unpacked size is another one.
        """
        y1 = self.height if y1 is None else y1
        if not 0 <= y0 <= y1 <= self.height:
            raise ValueError(f"rows {y0} to {y1} are not within the {self.height} rows of {self.path}")
        if not 0 <= channel < self.channels:
            raise ValueError(f"channel {channel} is not one of the {self.channels} of {self.path}")
        image = self._image
        stored = self._rows(y0, y1, channel)
        exact = image.dtype.itemsize <= 2 or (image.dtype.kind == "f" and image.dtype.itemsize == 4)
        if image.low != 0.0 or not exact:
            # Scale in float64, so that rounding happens once.
            values = (stored.astype(np.float64) - image.low) * self._dn_per_unit
            with np.errstate(over="ignore", invalid="ignore"):
                pixels = values.astype(np.float32)
        else:
            pixels = stored.astype(np.float32)
            if self._dn_per_unit != 1.0:
                pixels *= np.float32(self._dn_per_unit)
        if image.dtype.kind == "f":
            pixels[np.isinf(pixels)] = np.nan
        return pixels

    def words(self, y0: int = 0, y1: int | None = None) -> NDArray[np.uint16] | None:
        """Return None: there are no stored words of FITS here."""
        return None

    def reopen(self) -> XisfFile:
        """Return the file opened once more; see :class:`wbpy.io.images.ImageFile`."""
        return XisfFile(self.path, self._dn_per_unit)

    def close(self) -> None:
        """Close the file and let go of unpacked pixels."""
        if self._file is not None:
            self._file.close()
        self._stored = None

    def __enter__(self) -> XisfFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _rows(self, y0: int, y1: int, channel: int) -> NDArray[Any]:
        """Return stored values of some rows, (y1 - y0, W)."""
        image = self._image
        shape = (y1 - y0, self.width)
        if not self._banded:
            if self._stored is None:
                self._stored = np.frombuffer(self._unpacked(), image.dtype)
            if image.interleaved:
                return self._stored.reshape(self.height, self.width, self.channels)[y0:y1, :, channel]
            return self._stored.reshape(self.channels, self.height, self.width)[channel, y0:y1]
        assert image.block.start is not None
        row = self.width * image.dtype.itemsize
        if image.interleaved:
            row *= self.channels
            content = self._bytes(image.block.start + y0 * row, (y1 - y0) * row)
            return np.frombuffer(content, image.dtype).reshape(*shape, self.channels)[:, :, channel]
        content = self._bytes(image.block.start + (channel * self.height + y0) * row, (y1 - y0) * row)
        return np.frombuffer(content, image.dtype).reshape(shape)

    def _bytes(self, start: int, size: int) -> bytes:
        assert self._file is not None
        try:
            self._file.seek(start)
            content = self._file.read(size)
        except OSError as error:
            raise ReadError(f"{self.path}: cannot be read: {error.strerror or error}") from error
        if len(content) < size:
            raise ReadError(f"{self.path}: the file ends before its last pixel; it became shorter while it was read")
        return content

    def _unpacked(self) -> bytes:
        block = self._image.block
        content = block.content if block.start is None else self._bytes(block.start, block.stored)
        if block.digest is not None and hashlib.new(block.digest[0], content).digest() != block.digest[1]:
            raise ReadError(
                f"{self.path}: the {block.digest[0]} checksum of the pixels is another one; they are damaged"
            )
        if block.codec is not None:
            pieces, at = [], 0
            for stored, size in block.parts:
                pieces.append(self._decompress(block.codec, content[at : at + stored], size))
                at += stored
            content = b"".join(pieces)
        return content if block.item == 1 else _unshuffle(content, block.item)

    def _decompress(self, codec: str, content: bytes, size: int) -> bytes:
        try:
            result = _DECOMPRESS[codec](content, size)
        except (ValueError, RuntimeError, MemoryError, zlib.error) as error:
            raise ReadError(f"{self.path}: the {codec} compression of the pixels is damaged ({error})") from error
        if len(result) != size:
            raise ReadError(f"{self.path}: the pixels unpack to {len(result)} bytes, expected {size}")
        return result


def _inflate(content: bytes, size: int) -> bytes:
    # One byte more than announced is enough to see that there is too much.
    return zlib.decompressobj().decompress(content, size + 1)


def _unpack_lz4(content: bytes, size: int) -> bytes:
    from lz4 import block

    try:
        return bytes(block.decompress(content, uncompressed_size=size))
    except block.LZ4BlockError as error:
        raise ValueError(str(error)) from error


def _unpack_zstd(content: bytes, size: int) -> bytes:
    import zstandard

    reader = zstandard.ZstdDecompressor().stream_reader(content, read_across_frames=True)
    try:
        return reader.read(size + 1)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from error


_DECOMPRESS: dict[str, Callable[[bytes, int], bytes]] = {"zlib": _inflate, "lz4": _unpack_lz4, "zstd": _unpack_zstd}


def _shuffle(content: bytes, item: int) -> bytes:
    """Return the first bytes of all items, then the second ones, and so on; an incomplete last item stays behind."""
    whole = len(content) // item * item
    items = np.frombuffer(content, np.uint8, whole).reshape(-1, item)
    return items.T.tobytes() + content[whole:]


def _unshuffle(content: bytes, item: int) -> bytes:
    whole = len(content) // item * item
    planes = np.frombuffer(content, np.uint8, whole).reshape(item, -1)
    return planes.T.tobytes() + content[whole:]


# Writing -------------------------------------------------------------------------------------------------------


def write_xisf(
    path: str | os.PathLike[str],
    data: NDArray[Any],
    cards: Sequence[CardText] = (),
    history: Sequence[str] = (),
    *,
    images: Sequence[tuple[str, NDArray[Any]]] = (),
    compression: str | None = None,
    shuffle: bool = True,
    checksum: str | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    creator: str = "wbpy",
    created: datetime | None = None,
) -> None:
    """Write an image as monolithic XISF, atomically.

    Parameters
    ----------
    path : path-like
        Final name; an existing file is replaced.
    data : (H, W) or (C, H, W) ndarray
        8, 16 or 32-bit unsigned integers, or 32 or 64-bit floats; NaN is kept as NaN. Top row first, unless a card
        ROWORDER says BOTTOM-UP: XISF has one order only, so that the rows are turned over then, and BAYERPAT (the
        pattern of the given rows) with them.
    cards : sequence of (keyword, value, comment)
        Become FITSKeyword elements; those with a standard property are written as that as well. None leaves the value
        empty. IMAGETYP becomes the attribute imageType where XISF knows the type.
    history : sequence of str
        Lines of HISTORY.
    images : sequence of (name, ndarray)
        Further images of the file, such as rejection maps; names are identifiers.
    compression : str, optional
        ``zlib``, ``lz4``, ``lz4hc`` or ``zstd``.
    shuffle : bool
        Whether bytes are shuffled before compression, which packs noise better.
    checksum : str, optional
        ``sha-1``, ``sha-256`` or ``sha-512`` of the stored blocks.
    bounds : (low, high) of float
        Black and white of floating-point images.
    creator : str
        The program, for the file's metadata.
    created : datetime, optional
        What the file says about when it was made; now where it is left out.

    Raises
    ------
    ValueError
        If the shape, the type of the pixels, the codec, the checksum or a card is not one of these.

    Notes
    -----
    XISF 1.0, sections on monolithic files, data blocks and the Image core element.
    """
    if compression not in (None, "zlib", "lz4", "lz4hc", "zstd") or checksum not in (
        None,
        "sha-1",
        "sha-256",
        "sha-512",
    ):
        raise ValueError(f"compression {compression!r} with checksum {checksum!r} cannot be written")
    if data.ndim not in (2, 3):
        raise ValueError(f"pixels of shape {data.shape} cannot be written as XISF")
    if any(keyword == "ROWORDER" and value == "BOTTOM-UP" for keyword, value, _ in cards):
        cards = [(k, _turned_over(v, data.shape[-2]) if k == "BAYERPAT" else v, comment) for k, v, comment in cards]
        data = data[..., ::-1, :]
        images = [(name, image[..., ::-1, :]) for name, image in images]
    created = (created or datetime.now(UTC)).astimezone(UTC)
    packed = [_pack(pixels, compression, shuffle, checksum) for pixels in (data, *(image for _, image in images))]
    names = ("image", *(name for name, _ in images))
    extra = [_metadata(cards, history) + _astrometry(cards, data.shape[-2]), *([""] * len(images))]
    attributes = [_image_attributes(pixels, bounds) for pixels in (data, *(image for _, image in images))]
    attributes[0] += _image_type(cards)
    parts = [
        (name, f"{attribute}{packing}", inner, len(content))
        for name, attribute, (content, packing), inner in zip(names, attributes, packed, extra, strict=True)
    ]
    header, starts = _laid_out(parts, created, creator)
    pieces: list[bytes | memoryview] = [header]
    at = len(header)
    for start, (content, _) in zip(starts, packed, strict=True):
        pieces += [bytes(start - at), content]
        at = start + len(content)
    write_atomic(path, *pieces)


def _laid_out(parts: Sequence[tuple[str, str, str, int]], created: datetime, creator: str) -> tuple[bytes, list[int]]:
    """Return all that stands before the first block, and where the blocks begin.

    Parameters
    ----------
    parts : sequence of (name, attributes, inner elements, bytes of the block)
        The images.
    """
    starts = [0] * len(parts)
    while True:
        # The positions stand in the header whose length decides them: repeat until it does not grow any more.
        elements = "".join(
            f'<Image id={quoteattr(name)} {attributes} location="attachment:{start}:{size}">{inner}</Image>'
            for (name, attributes, inner, size), start in zip(parts, starts, strict=True)
        )
        header = _document(elements, created, creator).encode("utf-8")
        at, wanted = _START + len(header), []
        for *_, size in parts:
            at = -(-at // _ALIGNMENT) * _ALIGNMENT
            wanted.append(at)
            at += size
        if wanted == starts:
            return b"".join((_SIGNATURE, len(header).to_bytes(4, "little"), bytes(4), header)), starts
        starts = wanted


class XisfWriter(PlanesWriter):
    """An XISF file of one or more images that are written tile by tile; it appears under its name when committed.

    Parameters
    ----------
    path : path-like
        Final name.
    images : sequence of (name, shape)
        Each (H, W) or (C, H, W), of 32-bit floats, stored plainly; the first one is the picture.
    cards, history, creator, created
        As for :func:`write_xisf`: also the rows are turned over where a card ROWORDER says BOTTOM-UP.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        images: Sequence[tuple[str, Sequence[int]]],
        cards: Sequence[CardText] = (),
        history: Sequence[str] = (),
        *,
        creator: str = "wbpy",
        created: datetime | None = None,
    ) -> None:
        parts, sizes = [], []
        for number, (name, shape) in enumerate(images):
            attributes = _image_attributes(np.broadcast_to(np.float32(0), tuple(shape)), (0.0, 1.0))
            inner = _metadata(cards, history) + _astrometry(cards, shape[-2]) if number == 0 else ""
            parts.append((name, attributes + ("" if number else _image_type(cards)), inner, 4 * math.prod(shape)))
            sizes.append((shape[0] if len(shape) == 3 else 1, shape[-2], shape[-1]))
        header, starts = _laid_out(parts, (created or datetime.now(UTC)).astimezone(UTC), creator)
        planes: list[tuple[int, int, int]] = []
        self._first: dict[str, int] = {}
        for (name, _), start, (channels, height, width) in zip(images, starts, sizes, strict=True):
            self._first[name] = len(planes)
            planes += [(start + 4 * number * height * width, height, width) for number in range(channels)]
        end = starts[-1] + parts[-1][3]
        turned = any(keyword == "ROWORDER" and value == "BOTTOM-UP" for keyword, value, _ in cards)
        super().__init__(path, header, planes, end, "<f4", turned)

    def write_rows(self, name: str, channel: int, y0: int, rows: NDArray[np.float32]) -> None:
        """Write `rows` (n, W) float32 of a channel of one image; see :meth:`PlanesWriter.write_plane`."""
        self.write_plane(self._first[name] + channel, y0, rows)


def _document(elements: str, created: datetime, creator: str) -> str:
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<xisf version="1.0" xmlns="{_SPACE}" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
        f'xsi:schemaLocation="{_SPACE} http://pixinsight.com/xisf/xisf-1.0.xsd">{elements}<Metadata>'
        f'<Property id="XISF:CreationTime" type="TimePoint" value="{created:%Y-%m-%dT%H:%M:%SZ}"/>'
        f'<Property id="XISF:CreatorApplication" type="String">{escape(creator)}</Property>'
        f'<Property id="XISF:BlockAlignmentSize" type="UInt16" value="{_ALIGNMENT}"/></Metadata></xisf>'
    )


def _turned_over(pattern: Scalar, height: int) -> Scalar:
    """Return the CFA pattern of an image of `height` rows whose last row becomes the first."""
    text = str(pattern)
    side = math.isqrt(len(text))
    if not isinstance(pattern, str) or side * side != len(text) or not side:
        return pattern
    return "".join(text[(height - 1 - y) % side * side :][:side] for y in range(side))


def _pack(
    pixels: NDArray[Any], compression: str | None, shuffle: bool, checksum: str | None
) -> tuple[bytes | memoryview, str]:
    """Return the stored bytes of an image and the attributes that say how they are packed."""
    little = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("<"))
    content: bytes | memoryview = little.reshape(-1).view(np.uint8).data
    attributes = ""
    if compression is not None:
        item = little.dtype.itemsize if shuffle else 1
        plain = _shuffle(bytes(content), item) if item > 1 else bytes(content)
        content = _compress(compression, plain)
        mark = f"+sh:{len(plain)}:{item}" if item > 1 else f":{len(plain)}"
        attributes += f' compression="{compression}{mark}"'
    if checksum is not None:
        digest = hashlib.new(checksum.replace("-", ""), content).hexdigest()
        attributes += f' checksum="{checksum}:{digest}"'
    return content, attributes


def _compress(codec: str, plain: bytes) -> bytes:
    if codec == "zlib":
        return zlib.compress(plain, 1)
    if codec == "zstd":
        import zstandard

        return zstandard.ZstdCompressor(level=1).compress(plain)
    from lz4 import block

    mode = "high_compression" if codec == "lz4hc" else "default"
    return bytes(block.compress(plain, mode=mode, store_size=False))


def _image_attributes(pixels: NDArray[Any], bounds: tuple[float, float]) -> str:
    kind = pixels.dtype.newbyteorder("=").str[1:]
    sample = next((name for name, (known, _, _) in _SAMPLES.items() if known == kind), None)
    if sample is None or pixels.ndim not in (2, 3) or 0 in pixels.shape:
        raise ValueError(f"pixels of type {pixels.dtype} and shape {pixels.shape} cannot be written as XISF")
    height, width = pixels.shape[-2:]
    channels = pixels.shape[0] if pixels.ndim == 3 else 1
    space = "RGB" if channels == 3 else "Gray"
    text = f'geometry="{width}:{height}:{channels}" sampleFormat="{sample}" colorSpace="{space}"'
    return text + (f' bounds="{bounds[0]!r}:{bounds[1]!r}"' if pixels.dtype.kind == "f" else "")


def _image_type(cards: Sequence[CardText]) -> str:
    for keyword, value, _ in cards:
        known = _IMAGE_TYPES.get("".join(str(value).casefold().split()).removesuffix("frame"))
        if keyword == "IMAGETYP" and known is not None:
            return f' imageType="{known}"'
    return ""


def _metadata(cards: Sequence[CardText], history: Sequence[str]) -> str:
    elements = []
    for keyword, value, comment in cards:
        if not _KEYWORD.fullmatch(keyword) or (isinstance(value, float) and not math.isfinite(value)):
            raise ValueError(f"the card {keyword!r} = {value!r} cannot be written")
        if keyword == "ROWORDER":
            continue
        elements.append(_keyword(keyword, _value_text(value), comment))
        if keyword in _WRITTEN and value is not None:
            elements.append(_property(keyword, value))
    elements += [_keyword("HISTORY", "", line) for line in history]
    return "".join(elements)


def _astrometry(cards: Sequence[CardText], height: int) -> str:
    """Return the linear part of a gnomonic solution among the cards as the properties that PixInsight reads first.

    Cards count rows from the bottom, from 1 on and at their centres; the properties count from the top of the top row
    and from the left of the first column, as PixInsight does for points of an image.
    """
    values = {keyword: value for keyword, value, _ in cards}
    names = ("CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2", "CD1_1", "CD1_2", "CD2_1", "CD2_2")
    numbers = [float(v) for v in map(values.get, names) if isinstance(v, int | float)]
    if not str(values.get("CTYPE1")).startswith("RA---TAN") or len(numbers) < len(names):
        return ""
    ra, dec, x, y, a, b, c, d = numbers
    prefix = "PCL:AstrometricSolution"
    texts = [f'<Property id="{prefix}:ProjectionSystem" type="String">Gnomonic</Property>']
    for id, vector in (
        ("ReferenceCelestialCoordinates", (ra, dec)),
        ("ReferenceImageCoordinates", (x - 0.5, height + 0.5 - y)),
        ("ReferenceNativeCoordinates", (0.0, 90.0)),
    ):
        texts.append(f'<Property id="{prefix}:{id}" type="F64Vector" length="2" {_inline(vector)}</Property>')
    shape = 'type="F64Matrix" rows="2" columns="2"'
    texts.append(f'<Property id="{prefix}:LinearTransformationMatrix" {shape} {_inline((a, -b, c, -d))}</Property>')
    return "".join(texts)


def _inline(values: Sequence[float]) -> str:
    return 'location="inline:base64">' + base64.b64encode(np.array(values, "<f8").tobytes()).decode("ascii")


def _keyword(name: str, value: str, comment: str) -> str:
    attributes = " ".join(
        f"{key}={quoteattr(_printable(text))}" for key, text in (("name", name), ("value", value), ("comment", comment))
    )
    return f"<FITSKeyword {attributes}/>"


def _value_text(value: Scalar) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "T" if value else "F"
    return "'{}'".format(value.replace("'", "''")) if isinstance(value, str) else repr(value)


def _property(keyword: str, value: Scalar) -> str:
    id, kind = _WRITTEN[keyword]
    if kind == "String":
        return f'<Property id="{id}" type="String">{escape(_printable(str(value)))}</Property>'
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    number = value / _PROPERTIES[id][1]
    return f'<Property id="{id}" type="{kind}" value="{int(number) if kind == "Int32" else number}"/>'


def _printable(text: str) -> str:
    """Return the text without characters that XML 1.0 cannot hold."""
    return "".join(character if character.isprintable() else " " for character in text)
