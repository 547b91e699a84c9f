"""Read the pixels of FITS files by bands of rows, without loading or mapping the whole file."""

from __future__ import annotations

import copy
import gzip
import io
import math
import os
import threading
import warnings
import zlib
from types import TracebackType
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from wbpy.errors import ReadError
from wbpy.io.headers import FitsHeader, load_header

_DTYPES = {8: ">u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}
_WARNINGS = threading.Lock()
"""Warning filters belong to the whole process; only one thread changes them at a time."""


class FitsFile:
    """One FITS image, open for reading; see :class:`wbpy.io.images.ImageFile`.

    Parameters
    ----------
    path : str
        FITS file: plain (read by bands), gzip-compressed or tile-compressed (decompressed as a whole).
    dn_per_unit : float
        Physical value x this = DN of the 16-bit scale.

    Raises
    ------
    ReadError
        If the header is damaged or the file holds fewer bytes than it announces.
    """

    def __init__(self, path: str, dn_per_unit: float = 1.0) -> None:
        header = load_header(path)
        axes = header.axes
        self.path = path
        self.width, self.height = axes[0], axes[1]
        self.channels = math.prod(axes[2:])
        if 0 in axes:
            raise ReadError(f"{path}: the axes are {axes}, expected none of length 0")
        self.bzero = _number(header, "BZERO", 0.0)
        self._bscale = _number(header, "BSCALE", 1.0)
        blank = header.get("BLANK")
        self._blank = blank if isinstance(blank, int) and not isinstance(blank, bool) and header.bitpix > 0 else None
        self._dn_per_unit = float(dn_per_unit)
        self._dtype = np.dtype(_DTYPES[header.bitpix])
        self._start = header.data_start
        self._end = header.data_start + header.data_size
        self._gzipped = header.gzipped
        self._banded = not header.gzipped and not header.tiled
        self._file: BinaryIO | None = None
        self._pixels: NDArray[np.float32] | None = None
        if header.tiled:
            self._pixels = self._decompress(header)
        else:
            self._file = self._open()

    @property
    def banded(self) -> bool:
        """Whether `read` fetches just the rows that are asked for; False for compressed files."""
        return self._banded

    def read(self, y0: int = 0, y1: int | None = None, channel: int = 0) -> NDArray[np.float32]:
        """Return rows `y0` to `y1` of one channel as float32 DN; see :class:`wbpy.io.images.ImageFile`."""
        y0, y1 = self._rows(y0, y1, channel)
        if self._pixels is not None:
            return np.asarray(self._pixels[channel, y0:y1] * np.float32(self._dn_per_unit), np.float32)
        stored = self._stored(y0, y1, channel).reshape(y1 - y0, self.width)
        missing = None if self._blank is None else stored == self._blank
        exact_in_float32 = self._dtype.itemsize <= 2 or self._dtype == np.dtype(">f4")
        if self._bscale != 1.0 or not exact_in_float32:
            # Scale in float64, so that rounding happens once.
            values = stored.astype(np.float64)
            values *= self._bscale
            values += self.bzero
            values *= self._dn_per_unit
            pixels = _to_float32(values)
        else:
            pixels = stored.astype(np.float32)
            if self.bzero != 0.0:
                pixels += np.float32(self.bzero)
            if self._dn_per_unit != 1.0:
                pixels *= np.float32(self._dn_per_unit)
        if self._dtype.kind == "f":
            # Infinite values come from divisions by zero elsewhere; here they are missing pixels like NaN.
            _drop_infinite(pixels)
        elif missing is not None:
            pixels[missing] = np.nan
        return pixels

    def words(self, y0: int = 0, y1: int | None = None) -> NDArray[np.uint16] | None:
        """Return the stored big-endian words of some rows, or None; see :class:`wbpy.io.images.ImageFile`."""
        if not self._plain or self._file is None:
            return None
        y0, y1 = self._rows(y0, y1, 0)
        return self._stored(y0, y1, 0).view(np.uint16)

    @property
    def words_start(self) -> int | None:
        """Byte at which the words begin, None where `words` returns None."""
        return self._start if self._plain and self._banded else None

    @property
    def _plain(self) -> bool:
        scaled = self._bscale != 1.0 or self._dn_per_unit != 1.0 or self._blank is not None
        return self._dtype == np.dtype(">i2") and not scaled and self.channels == 1

    def reopen(self) -> FitsFile:
        """Return the file opened once more; see :class:`wbpy.io.images.ImageFile`."""
        again = copy.copy(self)
        if self._pixels is None:
            again._file = again._open()
        return again

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> FitsFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> BinaryIO:
        """Return the open file, after a look at whether all announced bytes are there."""
        expected = self._end
        try:
            if self._gzipped:
                with gzip.open(self.path, "rb") as unzipped:
                    content = unzipped.read(expected)
                found = len(content)
                file = cast(BinaryIO, io.BytesIO(content))
            else:
                file = cast(BinaryIO, open(self.path, "rb", buffering=0))  # noqa: SIM115  closed by close()
                found = os.fstat(file.fileno()).st_size
        except OSError as error:
            raise ReadError(f"{self.path}: cannot be read: {error.strerror or error}") from error
        except (EOFError, zlib.error) as error:
            raise ReadError(f"{self.path}: the gzip compression is damaged ({error}), expected a whole file") from error
        if found < expected:
            file.close()
            raise ReadError(
                f"{self.path}: the file ends after {found} of {expected} bytes, expected the whole image; "
                "it was cut off while being written or copied"
            )
        return file

    def _decompress(self, header: FitsHeader) -> NDArray[np.float32]:
        """Return all planes of a tile-compressed image as physical values, (C, H, W)."""
        from astropy.io import fits
        from astropy.utils.exceptions import AstropyWarning

        try:
            with _WARNINGS, warnings.catch_warnings():
                warnings.simplefilter("ignore", AstropyWarning)
                with fits.open(self.path, memmap=False, lazy_load_hdus=True) as units:
                    data = units[header.hdu].data
        except (OSError, ValueError, TypeError, KeyError, IndexError, RuntimeError, EOFError, zlib.error) as error:
            raise ReadError(f"{self.path}: the compressed image is damaged ({error}), expected whole tiles") from error
        if data is None or data.size != self.channels * self.height * self.width:
            raise ReadError(f"{self.path}: the compressed image has another size than its header announces")
        pixels = _to_float32(np.asarray(data)).reshape(self.channels, self.height, self.width)
        _drop_infinite(pixels)
        return pixels

    def _rows(self, y0: int, y1: int | None, channel: int) -> tuple[int, int]:
        y1 = self.height if y1 is None else y1
        if not 0 <= y0 <= y1 <= self.height:
            raise ValueError(f"rows {y0} to {y1} are not within the {self.height} rows of {self.path}")
        if not 0 <= channel < self.channels:
            raise ValueError(f"channel {channel} is not one of the {self.channels} of {self.path}")
        return y0, y1

    def _stored(self, y0: int, y1: int, channel: int) -> NDArray[np.generic]:
        """Return the stored values of some rows, flat and in the byte order of the file."""
        assert self._file is not None
        stored = np.empty((y1 - y0) * self.width, self._dtype)
        wanted = memoryview(stored.view(np.uint8))  # type: ignore[arg-type]
        offset = self._start + (channel * self.height + y0) * self.width * self._dtype.itemsize
        done = 0
        try:
            self._file.seek(offset)
            while done < len(wanted):
                count = cast(io.RawIOBase, self._file).readinto(wanted[done:])
                if not count:
                    raise ReadError(
                        f"{self.path}: the file ends after {offset + done} of {offset + len(wanted)} bytes, "
                        "expected the whole image; it became shorter while it was being read"
                    )
                done += count
        except OSError as error:
            raise ReadError(f"{self.path}: cannot be read: {error.strerror or error}") from error
        return stored


def _number(header: FitsHeader, keyword: str, default: float) -> float:
    value = header.get(keyword)
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            value = None
    if value is None or isinstance(value, bool):
        return default
    if not np.isfinite(value):
        raise ReadError(f"{header.path}: {keyword} is {value}, expected a finite number")
    return float(value)


def _drop_infinite(pixels: NDArray[np.float32]) -> None:
    """Replace infinite pixels by NaN in place; looking first is far cheaper than assigning where there are none."""
    infinite = np.isinf(pixels)
    if infinite.any():
        pixels[infinite] = np.nan


def _to_float32(values: NDArray[np.generic]) -> NDArray[np.float32]:
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(np.float32)
