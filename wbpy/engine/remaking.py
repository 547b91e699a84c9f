"""Keep a calibrated light as what makes it: its raw words, what is subtracted and multiplied, and the mended pixels.

A light of 16-bit words whose calibration is one subtraction and one product is made again for each rectangle that is
read, bit for bit, for less than it costs to write it and to read it back. Two frames of a group are written, the offset
and the gain that all its lights share, instead of one for each light.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wbpy.engine.context import Context, FrameReader
from wbpy.engine.overscanning import RawReader
from wbpy.engine.store import Maps, StoredImage, make_key

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from wbpy.stages.calibrate import Calibration

FEWEST = 4
"""Lights of a group from which on two shared frames are worth it."""
_MENDED = 0.02
"""Largest share of pixels that is listed with their values; a light with more is written as it is."""


@dataclass(frozen=True)
class Shared:
    """What the lights of a group have in common: None where nothing is subtracted, or no factor applied."""

    offset: StoredImage | None
    gain: StoredImage | None


@dataclass(frozen=True)
class RemadeImage:
    """A calibrated light that is made again where it is read; see :class:`wbpy.engine.store.StoredImage`."""

    path: Path
    """The raw frame."""
    shape: tuple[int, int]
    start: int
    """Byte at which its words begin."""
    level: float
    """Added to a word, DN: BZERO without the pedestal."""
    shared: Shared
    indices: npt.NDArray[np.int64]
    """Sorted flat indices of the pixels whose values were replaced."""
    values: npt.NDArray[np.float32]
    """These values, DN."""
    maps: Maps

    def read(self, y0: int, y1: int, x0: int, x1: int) -> npt.NDArray[np.float32]:
        """Return the pixels of a rectangle as a contiguous array."""
        import numpy as np

        from wbpy.kernels import calibration

        width = self.shape[1]
        out = np.empty((y1 - y0, x1 - x0), np.float32)
        offset, gain = (
            np.empty((0, 0), np.float32) if one is None else self.maps.array(one.path)
            for one in (self.shared.offset, self.shared.gain)
        )
        words = self.maps.words(self.path, self.start, self.shape)
        calibration.calibrate_rectangle(words, np.float32(self.level), offset, gain, y0, x0, out)
        first, last = np.searchsorted(self.indices, [y0 * width, y1 * width])
        rows, columns = np.divmod(self.indices[first:last], width)
        inside = (columns >= x0) & (columns < x1)
        out[rows[inside] - y0, columns[inside] - x0] = self.values[first:last][inside]
        return out


Image = StoredImage | RemadeImage


def suits(reader: RawReader) -> bool:
    """Return whether rectangles of a raw light can be read as stored words."""
    return isinstance(reader, FrameReader) and reader.words_start is not None


def share(context: Context, key: Any, calibration: Calibration, shape: tuple[int, int]) -> Shared | None:
    """Return the shared frames of a group, stored; None when its lights cannot be made again from them.

    Parameters
    ----------
    context : Context
        The execution.
    key : JSON-like
        What decides the calibration.
    calibration : Calibration
        Of the group.
    shape : tuple of int
        (height, width) of its frames.
    """
    if calibration.thermal is not None:
        return None
    stored = []
    for name, flat in (("offset", calibration.subtract), ("gain", calibration.gain)):
        own = make_key(name, key)
        image = context.store.image(own) if flat.size else None
        stored.append(context.store.put_image(own, flat.reshape(shape)) if flat.size and image is None else image)
    context.store.put_record(_shared_key(key), {"stored": [image is not None for image in stored]})
    return Shared(*stored)


def shared(context: Context, key: Any) -> Shared | None:
    """Return the shared frames that an earlier run stored; None when there are none."""
    found = context.store.record(_shared_key(key))
    if found is None:
        return None
    images = [
        context.store.image(make_key(name, key)) if is_stored else None
        for name, is_stored in zip(("offset", "gain"), found[0]["stored"], strict=True)
    ]
    whole = all(image is not None or not is_stored for image, is_stored in zip(images, found[0]["stored"], strict=True))
    return Shared(*images) if whole else None


def _shared_key(key: Any) -> str:
    return make_key("shared", key)


def keep(
    context: Context, key: str, reader: RawReader, group: Shared | None, pedestal: float, image: npt.NDArray[np.float32]
) -> Image:
    """Store a treated light, the shorter way where that makes the same pixels, and return it.

    Parameters
    ----------
    context : Context
        The execution.
    key : str
        The light's.
    reader : RawReader
        The raw light.
    group : Shared or None
        What it was calibrated with.
    pedestal : float, DN
        What was taken off it first.
    image : (H, W) float32 ndarray, DN
        The light, calibrated and mended.
    """
    import numpy as np

    height, width = image.shape
    none = np.empty(0, np.int64), np.empty(0, np.float32)
    remade = None if group is None else _remade(context, reader, group, pedestal, *none)
    if remade is None:
        return context.store.put_image(key, image)
    mended = []
    # A quarter of a million pixels stay in a core's cache from being made to being compared.
    rows = max(1, 250_000 // width)
    for y in range(0, height, rows):
        end = min(height, y + rows)
        # As bits, so that NaN equals NaN.
        other = remade.read(y, end, 0, width).view(np.int32) != image[y:end].view(np.int32)
        mended.append(np.flatnonzero(other) + y * width)
    indices = np.concatenate(mended)
    if indices.size > _MENDED * image.size:
        return context.store.put_image(key, image)
    values = image.reshape(-1)[indices]
    context.store.put_mended(key, indices, values)
    return RemadeImage(
        remade.path, remade.shape, remade.start, remade.level, remade.shared, indices, values, remade.maps
    )


def kept(context: Context, key: str, reader: RawReader, group: Shared | None, pedestal: float) -> Image | None:
    """Return a light that an earlier run stored either way; None when there is none."""
    image = context.store.image(key)
    if image is not None or group is None:
        return image
    found = context.store.mended(key)
    return None if found is None else _remade(context, reader, group, pedestal, *found)


def _remade(
    context: Context,
    reader: RawReader,
    group: Shared,
    pedestal: float,
    indices: npt.NDArray[np.int64],
    values: npt.NDArray[np.float32],
) -> RemadeImage | None:
    if not isinstance(reader, FrameReader) or reader.words_start is None:
        return None
    level = reader.bzero - pedestal
    path = Path(reader.frame.path)
    return RemadeImage(path, reader.shape, reader.words_start, level, group, indices, values, context.store.maps)
