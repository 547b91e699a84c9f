"""Open an image of any readable format and read its rows: the door to all pixels.

A new format is one more file with a class like :class:`ImageFile` and a function ``load_header``, one more line in
``_READERS`` here, and one in `wbpy.io.headers`.
"""

from __future__ import annotations

import importlib
import os
from types import TracebackType
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from wbpy.errors import ReadError
from wbpy.io.formats import HEAD_SIZE, identify

_READERS: dict[str, tuple[str, str]] = {
    "fits": ("wbpy.io.fits", "FitsFile"),
    "raw": ("wbpy.io.raw", "RawFile"),
    "xisf": ("wbpy.io.xisf", "XisfFile"),
}
"""Format -> module and class, imported when such a file is opened."""

READABLE = frozenset(_READERS)
"""Formats that `open_image` reads."""


class ImageFile(Protocol):
    """An open image, read by bands of rows. One thread uses one object; files are cheap to open twice."""

    height: int
    width: int
    channels: int
    bzero: float
    """What to add to a stored word after `bscale`; 32768 for unsigned 16-bit FITS."""

    @property
    def banded(self) -> bool:
        """Whether `read` fetches just the rows that are asked for.

        False where the file has to be decoded as a whole, once for each time that it is opened: whoever reads such
        a file in pieces keeps it open, or a decoded copy.
        """

    def read(self, y0: int = 0, y1: int | None = None, channel: int = 0) -> NDArray[np.float32]:
        """Return rows `y0` to `y1` (exclusive; None is the end) of one channel.

        Returns
        -------
        (y1 - y0, W) float32 ndarray, DN of the 16-bit scale
            NaN where the file marks a pixel as missing. Rows in stored order.
        """

    def words(self, y0: int = 0, y1: int | None = None) -> NDArray[np.uint16] | None:
        """Return the stored 16-bit words of some rows as they are, or None where the format has no such thing.

        Returns
        -------
        ((y1 - y0) * W,) uint16 ndarray or None
            Big-endian two's complement words that were not swapped: the value in DN of word ``w`` is
            ``int16(byteswap(w)) + bzero``. None unless the file is BITPIX 16, BSCALE 1, one plane, without BLANK
            and without scaling to DN, so that a caller may decode them itself.
        """

    @property
    def words_start(self) -> int | None:
        """Byte of the file at which the words that `words` returns begin, None where that returns None."""

    def reopen(self) -> ImageFile:
        """Return the file opened once more, whether this one is closed or not.

        The header is taken as it was read: a run reads each of its frames in hundreds of bands.

        Raises
        ------
        ReadError
            If the file cannot be opened or has become shorter.
        """

    def close(self) -> None:
        """Close the file; reading afterwards is an error."""

    def __enter__(self) -> ImageFile: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_image(path: str | os.PathLike[str], dn_per_unit: float = 1.0) -> ImageFile:
    """Return an open image; use it in a ``with`` statement.

    Parameters
    ----------
    path : path-like
        FITS, plain, gzip-compressed or tile-compressed; XISF; camera raw.
    dn_per_unit : float
        Stored (physical) value x this = DN of the 16-bit scale; 65535 for files scaled to [0, 1].

    Raises
    ------
    ReadError
        If the file cannot be opened, its format is not read, its header is damaged, or it holds fewer bytes than
        its header announces. No pixel was returned before.

    Examples
    --------
    >>> with open_image("light_0001.fits") as image:  # doctest: +SKIP
    ...     rows = image.read(0, 128)
    """
    name = os.fspath(path)
    try:
        with open(name, "rb") as file:
            head = file.read(HEAD_SIZE)
    except OSError as error:
        raise ReadError(f"{name}: cannot be read: {error.strerror or error}") from error
    if not head:
        raise ReadError(f"{name}: the file is empty (0 bytes), expected an image")
    form = identify(name, head)
    if form not in _READERS:
        found = f"a file of format {form}" if form else f"no known image format (begins with {head[:8]!r})"
        raise ReadError(f"{name}: found {found}, expected one of {', '.join(sorted(_READERS))}")
    module, kind = _READERS[form]
    return cast(ImageFile, getattr(importlib.import_module(module), kind)(name, dn_per_unit))
