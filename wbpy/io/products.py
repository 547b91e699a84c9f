"""Write products whole or not at all: to a hidden temporary name in the same folder, flushed, then renamed.

Products are FITS files of 32-bit floats that keep to the FITS standard 4.0: fixed-format cards, ASCII text,
long texts continued on CONTINUE cards.
"""

from __future__ import annotations

import os
import re
import secrets
import threading
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from wbpy.io.headers import BLOCK
from wbpy.model import Scalar

CardText = tuple[str, Scalar, str]
"""Keyword, value and comment of one card to write."""

_KEYWORD = re.compile(r"[A-Z0-9_-]{1,8}")
_STRUCTURE = re.compile(r"SIMPLE|BITPIX|NAXIS\d*|EXTEND|BZERO|BSCALE|BLANK|END|XTENSION|CONTINUE|COMMENT|HISTORY")
_BAND_BYTES = 16_000_000
"""Pixels are converted to big-endian in pieces of this size, so that no second image stands in memory."""


def write_atomic(path: str | os.PathLike[str], *pieces: bytes | memoryview) -> None:
    """Write a file that appears under its name whole or not at all.

    Parameters
    ----------
    path : path-like
        Final name; an existing file is replaced.
    *pieces : bytes
        The whole content, in one piece or several that follow each other.
    """
    target = Path(path)
    temporary = _temporary(target)
    try:
        with open(temporary, "xb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_fits(
    path: str | os.PathLike[str],
    data: NDArray[np.float32],
    cards: Sequence[CardText] = (),
    history: Sequence[str] = (),
) -> None:
    """Write an image as FITS, atomically.

    Parameters
    ----------
    path : path-like
        Final name; an existing file is replaced.
    data : (H, W) or (3, H, W) float32 ndarray
        Pixels; NaN is kept as NaN.
    cards : sequence of (keyword, value, comment)
        Keywords of at most 8 characters (A-Z, 0-9, ``_``, ``-``); None leaves the value undefined.
        Text that is not ASCII is transliterated; long text continues on CONTINUE cards.
    history : sequence of str
        Lines of HISTORY; long ones continue on further cards.

    Raises
    ------
    ValueError
        If the shape is another one, a keyword is not allowed, or a number is not finite.
    """
    planes = data[np.newaxis] if data.ndim == 2 else data
    with FitsWriter(path, data.shape, cards, history) as writer:
        height, width = planes.shape[1:]
        step = max(1, _BAND_BYTES // (4 * width))
        for channel, plane in enumerate(planes):
            for y0 in range(0, height, step):
                writer.write_rows(channel, y0, plane[y0 : y0 + step])
        writer.commit()


class PlanesWriter:
    """A file of a header and planes of 32-bit floats, written tile by tile; it appears under its name when committed.

    Without :meth:`commit` (an exception, a kill) there is never a file under the final name.

    Parameters
    ----------
    path : path-like
        Final name.
    header : bytes
        What stands before the first plane.
    planes : sequence of (start, H, W)
        Position in the file, bytes, and size of each plane.
    end : int
        Size of the file; what follows the last plane is filled with zeros.
    dtype : str
        ``>f4`` or ``<f4``.
    turned : bool
        Whether the rows are stored in reverse order.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        header: bytes,
        planes: Sequence[tuple[int, int, int]],
        end: int,
        dtype: str,
        turned: bool = False,
    ) -> None:
        self.path = Path(path)
        self._planes = tuple(planes)
        self._end, self._dtype, self._turned = end, dtype, turned
        self._missing = [np.ones(height, np.bool_) for _, height, _ in self._planes]
        self._lock = threading.Lock()
        self._temporary = _temporary(self.path)
        self._file = open(self._temporary, "xb")  # noqa: SIM115  closed by commit() or abandon()
        try:
            self._file.write(header)
        except BaseException:
            self.abandon()
            raise

    def write_plane(self, number: int, y0: int, rows: NDArray[np.float32]) -> None:
        """Write `rows` (n, W) float32 of one plane from row `y0` on; threads may call this at the same time.

        Raises
        ------
        ValueError
            If the rows do not fit into the image.
        """
        y1 = y0 + rows.shape[0]
        known = 0 <= number < len(self._planes)
        start, height, width = self._planes[number] if known else (0, 0, 0)
        if not known or rows.shape[1:] != (width,) or not 0 <= y0 <= y1 <= height:
            sizes = " and ".join(dict.fromkeys(f"{h} x {w}" for _, h, w in self._planes))
            raise ValueError(
                f"rows {y0} to {y1} of {rows.shape[1:]} pixels, channel {number}, do not fit into "
                f"{len(self._planes)} x {sizes} of {self.path}"
            )
        content = np.ascontiguousarray(rows[::-1] if self._turned else rows, dtype=self._dtype)
        with self._lock:
            self._file.seek(start + (height - y1 if self._turned else y0) * width * 4)
            self._file.write(content.data)
            self._missing[number][y0:y1] = False

    def commit(self) -> None:
        """Publish the file under its final name.

        Raises
        ------
        ValueError
            If rows were never written: that is a mistake of the caller, and no file appears.
        """
        missing = sum(int(rows.sum()) for rows in self._missing)
        if missing:
            raise ValueError(f"{self.path}: {missing} rows were not written")
        self._file.seek(0, os.SEEK_END)
        self._file.write(b"\0" * (self._end - self._file.tell()))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._temporary, self.path)

    def abandon(self) -> None:
        """Remove what was written so far; after :meth:`commit` this does nothing."""
        self._file.close()
        self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abandon()


class FitsWriter(PlanesWriter):
    """A FITS image that is written tile by tile and appears under its name when committed.

    Parameters
    ----------
    path : path-like
        Final name.
    shape : (H, W) or (3, H, W)
    cards, history
        As for :func:`write_fits`.

    Examples
    --------
    >>> with FitsWriter("m42.fits", (2000, 3000)) as writer:  # doctest: +SKIP
    ...     writer.write_rows(0, 0, tile)
    ...     writer.commit()
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        shape: Sequence[int],
        cards: Sequence[CardText] = (),
        history: Sequence[str] = (),
    ) -> None:
        axes = tuple(int(length) for length in shape)
        if len(axes) not in (2, 3) or min(axes) < 1:
            raise ValueError(f"shape {axes} cannot be written, expected (H, W) or (3, H, W)")
        channels = axes[0] if len(axes) == 3 else 1
        height, width = axes[-2:]
        header = _header(axes, cards, history)
        size = height * width * 4
        planes = [(len(header) + number * size, height, width) for number in range(channels)]
        end = len(header) + -(-channels * size // BLOCK) * BLOCK
        super().__init__(path, header, planes, end, ">f4")

    def write_rows(self, channel: int, y0: int, rows: NDArray[np.float32]) -> None:
        """Write `rows` (n, W) float32 of a channel; see :meth:`PlanesWriter.write_plane`."""
        self.write_plane(channel, y0, rows)


def _temporary(target: Path) -> Path:
    """Return a name beside `target` that no scan looks at and no other writer uses."""
    return target.with_name(f".{target.name[:80]}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def _header(axes: tuple[int, ...], cards: Sequence[CardText], history: Sequence[str]) -> bytes:
    lines = _card("SIMPLE", True, "FITS standard 4.0") + _card("BITPIX", -32, "32-bit floating point")
    lines += _card("NAXIS", len(axes), "number of axes")
    names = ("columns", "rows", "channels")
    for number, length in enumerate(reversed(axes), 1):
        lines += _card(f"NAXIS{number}", length, names[number - 1])
    for keyword, value, comment in cards:
        if not _KEYWORD.fullmatch(keyword) or _STRUCTURE.fullmatch(keyword):
            raise ValueError(f"keyword {keyword!r} cannot be written: expected 1 to 8 of A-Z, 0-9, _ and -, not taken")
        lines += _card(keyword, value, comment)
    for entry in history:
        text = _ascii(entry)
        lines += [f"HISTORY {text[at : at + 72]}" for at in range(0, max(len(text), 1), 72)]
    lines.append("END")
    block = "".join(line.ljust(80) for line in lines).encode("ascii")
    return block.ljust(-(-len(block) // BLOCK) * BLOCK)


def _card(keyword: str, value: Scalar, comment: str) -> list[str]:
    """Return one card as its lines of at most 80 characters."""
    comment = _ascii(comment)
    if isinstance(value, str):
        return _text_card(keyword, _ascii(value).rstrip(), comment)
    if value is None:
        text = ""
    elif isinstance(value, bool):
        text = "T" if value else "F"
    elif isinstance(value, int):
        text = str(value)
    elif np.isfinite(value):
        text = _float(float(value))
    else:
        raise ValueError(f"{keyword} = {value} cannot be written, expected a finite number or None")
    line = f"{keyword:8}= {text:>20}"
    return [f"{line} / {comment}"[:80].rstrip() if comment else line]


def _float(value: float) -> str:
    """Return the shortest text that reads back as the same number, with a point, upper-case exponent."""
    mantissa, _, exponent = repr(value).partition("e")
    if "." not in mantissa:
        mantissa += ".0"
    return f"{mantissa}E{exponent}" if exponent else mantissa


def _text_card(keyword: str, value: str, comment: str) -> list[str]:
    quoted = value.replace("'", "''")
    if len(quoted) <= 68:
        line = f"{keyword:8}= {chr(39)}{quoted:8}{chr(39)}"
        return [f"{line:30} / {comment}"[:80].rstrip() if comment and len(line) < 75 else line]
    # Long texts, section 4.2.1.2 of the standard: every piece but the last ends with an ampersand.
    pieces: list[str] = []
    while quoted:
        size = 68 if len(quoted) <= 68 else 67
        if quoted[:size].count("'") % 2:
            size -= 1  # a doubled quote must not be torn apart
        pieces.append(quoted[:size])
        quoted = quoted[size:]
    ends = ["&"] * (len(pieces) - 1) + [""]
    starts = [f"{keyword:8}= "] + ["CONTINUE  "] * (len(pieces) - 1)
    return [f"{start}'{piece}{end}'" for start, piece, end in zip(starts, pieces, ends, strict=True)]


def _ascii(text: str) -> str:
    """Return the text in printable ASCII: accents dropped, unknown characters as question marks."""
    plain = unicodedata.normalize("NFKD", text)
    kept = "".join(character for character in plain if not unicodedata.combining(character))
    return "".join(character if " " <= character <= "~" else "?" for character in kept)
