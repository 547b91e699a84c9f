"""Calibrated pixels from raw words or floats, and the gain of a flat field.

The arithmetic of a frame is one subtraction and one product, ``(raw - subtract) * gain``: the caller folds the
bias, the scaled dark and the pedestal into `subtract`, and `flat_gain` turns the division by the flat into a
product. Everything is elementwise, so bands and tiles of any shape give the same bits.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from wbpy.kernels.jit import exact, inline
from wbpy.kernels.statistics import trimmed_mean

_SIGN_OFFSET = np.float32(32768.0)
_FLAT_FLOOR = np.float32(1e-15 * 65535.0)


@exact
def calibrate_int16(
    words: NDArray[np.uint16],
    bzero: np.float32,
    subtract: NDArray[np.float32],
    gain: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Write the calibrated pixels of a 16-bit FITS image, straight from the bytes on disk.

    ``out = (signed(words) + bzero - subtract) * gain``, one pass over the memory.

    Parameters
    ----------
    words : (n,) uint16 ndarray
        Signed 16-bit FITS words as stored: big-endian, not byte-swapped, BZERO not applied.
    bzero : float32, DN
        BZERO of the header: 32768 for unsigned cameras, 0 for signed data. BSCALE is taken as 1.
    subtract : (n,) or (0,) float32 ndarray, DN
        Effective dark; length 0 means that nothing is subtracted.
    gain : (n,) or (0,) float32 ndarray
        Factor of every pixel, see `flat_gain`; length 0 means 1.
    out : (n,) float32 ndarray, DN
        Filled. NaN where `subtract` or `gain` is NaN; negative values are kept.
    """
    n = out.size
    # Flipping the sign bit gives the word + 32768 as an unsigned number, which converts to float in one step.
    offset = np.float32(bzero) - _SIGN_OFFSET
    if subtract.size and gain.size:
        for i in range(n):
            word = words[i]
            value = np.float32(np.uint16(((word >> 8) | ((word & 0xFF) << 8)) ^ 0x8000)) + offset
            out[i] = (value - subtract[i]) * gain[i]
    elif subtract.size:
        for i in range(n):
            word = words[i]
            value = np.float32(np.uint16(((word >> 8) | ((word & 0xFF) << 8)) ^ 0x8000)) + offset
            out[i] = value - subtract[i]
    elif gain.size:
        for i in range(n):
            word = words[i]
            value = np.float32(np.uint16(((word >> 8) | ((word & 0xFF) << 8)) ^ 0x8000)) + offset
            out[i] = value * gain[i]
    else:
        for i in range(n):
            word = words[i]
            out[i] = np.float32(np.uint16(((word >> 8) | ((word & 0xFF) << 8)) ^ 0x8000)) + offset


@exact
def calibrate_rectangle(
    words: NDArray[np.uint16],
    bzero: np.float32,
    subtract: NDArray[np.float32],
    gain: NDArray[np.float32],
    y0: int,
    x0: int,
    out: NDArray[np.float32],
) -> None:
    """Write a rectangle of what `calibrate_int16` makes of a whole frame, bit for bit.

    Parameters
    ----------
    words : (H, W) uint16 ndarray
        Signed 16-bit FITS words as stored.
    bzero : float32, DN
        As for `calibrate_int16`.
    subtract, gain : (H, W) or (0, 0) float32 ndarray
        As for `calibrate_int16`; without pixels nothing is subtracted, and the factor is 1.
    y0, x0 : int
        First row and column of the rectangle.
    out : (h, w) float32 ndarray, DN
        Filled.
    """
    h, w = out.shape
    for y in range(h):
        row = words[y0 + y]
        offset = subtract[y0 + y] if subtract.size else subtract.reshape(-1)
        factor = gain[y0 + y] if gain.size else gain.reshape(-1)
        calibrate_int16(
            row[x0 : x0 + w],
            bzero,
            offset[x0 : x0 + w] if subtract.size else offset,
            factor[x0 : x0 + w] if gain.size else factor,
            out[y],
        )


@exact
def calibrate_float(
    values: NDArray[np.float32],
    subtract: NDArray[np.float32],
    gain: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Write ``(values - subtract) * gain``.

    Parameters
    ----------
    values : (n,) float32 ndarray, DN
        Pixels; `out` may be the same array.
    subtract : (n,) or (0,) float32 ndarray, DN
        Effective dark; length 0 means that nothing is subtracted.
    gain : (n,) or (0,) float32 ndarray
        Factor of every pixel; length 0 means 1.
    out : (n,) float32 ndarray, DN
        Filled. NaN where any operand is NaN; negative values are kept.
    """
    n = out.size
    if subtract.size and gain.size:
        for i in range(n):
            out[i] = (values[i] - subtract[i]) * gain[i]
    elif subtract.size:
        for i in range(n):
            out[i] = values[i] - subtract[i]
    elif gain.size:
        for i in range(n):
            out[i] = values[i] * gain[i]
    else:
        for i in range(n):
            out[i] = values[i]


@exact
def subtract_scaled(
    values: NDArray[np.float32],
    thermal: NDArray[np.float32],
    scale: np.float32,
    gain: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Write ``(values - scale * thermal) * gain``: the second half of equation {1} of the guide's section 7.2.

    Parameters
    ----------
    values : (n,) float32 ndarray, DN
        Light without bias; `out` may be the same array.
    thermal : (n,) float32 ndarray, DN
        Master dark without bias.
    scale : float32
        Factor of the dark signal.
    gain : (n,) or (0,) float32 ndarray
        Factor of every pixel; length 0 means 1.
    out : (n,) float32 ndarray, DN
        Filled. NaN where any operand is NaN; negative values are kept.
    """
    n = out.size
    if gain.size:
        for i in range(n):
            out[i] = (values[i] - scale * thermal[i]) * gain[i]
    else:
        for i in range(n):
            out[i] = values[i] - scale * thermal[i]


@exact
def value_range(values: NDArray[np.float32]) -> tuple[float, float, int]:
    """Return the least and the largest value and how many lie below zero; NaN does not count."""
    lowest = np.float32(np.inf)
    highest = np.float32(-np.inf)
    below = 0
    for i in range(values.size):
        v = values[i]
        lowest = v if v < lowest else lowest
        highest = v if v > highest else highest
        below += 1 if v < np.float32(0.0) else 0
    return np.float64(lowest), np.float64(highest), below


@inline
def _level(word: int) -> np.uint16:
    """Return a stored word, swapped, as a level from 0 on: an index that needs no test for its sign."""
    return np.uint16(((word >> 8) | ((word & 0xFF) << 8)) ^ 0x8000)


@exact
def count_words(
    words: NDArray[np.uint16], width: int, y0: int, cell: int, shift: int, counts: NDArray[np.int64]
) -> None:
    """Add the levels of 16-bit FITS words to the histogram of each plane.

    Parameters
    ----------
    words : (h * width,) uint16 ndarray
        As for `calibrate_int16`: rows `y0` and following of a frame.
    width : int
        Pixels in a row.
    y0 : int
        Number of the first row, which decides the plane.
    cell : int
        1 for mono, 2 for a CFA.
    shift : int
        Index of the bin of the value -32768 + BZERO.
    counts : (cell * cell, n) int64 ndarray
        Added to; plane ``(y % cell) * cell + x % cell``. Levels beyond the bins count in the outermost ones.
    """
    h = words.size // width
    bins = counts.shape[1]
    whole = shift >= 0 and shift + 65536 <= bins
    for j in range(h):
        row = ((y0 + j) % cell) * cell
        line = words[j * width : (j + 1) * width]
        for phase in range(cell):
            if whole:
                plane = counts[row + phase, shift : shift + 65536]
                for i in range(phase, width, cell):
                    plane[_level(line[i])] += 1
            else:
                # Signed data reach below the first bin, where all that is lower is counted.
                for i in range(phase, width, cell):
                    place = np.int64(_level(line[i])) + shift
                    counts[row + phase, min(max(place, 0), bins - 1)] += 1


def needed_pedestal(image: NDArray[np.float32], share: float, largest: int = 1000) -> int:
    """Return the DN to add so that at most `share` of the pixels lies below zero.

    Rounded to whole DN, at most `largest`; 0 when no more than that share is negative as it is (PCL 1.8.9,
    ImageCalibration, automatic output pedestal).

    Parameters
    ----------
    image : float32 ndarray, DN
        NaN does not count.
    share : float
        Of all pixels.
    """
    negative = image[image < 0.0]
    allowed = int(share * np.count_nonzero(image == image))
    if negative.size <= allowed:
        return 0
    last = float(np.partition(negative, allowed)[allowed])
    return min(largest, max(1, math.ceil(-last)))


def flat_gain(
    flat: NDArray[np.float32], cfa: NDArray[np.uint8], clip: float = 0.05
) -> tuple[NDArray[np.float32], NDArray[np.float64], int]:
    """Return the factor by which a flat field corrects every pixel.

    ``gain = s / flat`` with `s` the trimmed mean of the flat: the whole frame for a mono sensor, each of R, G and
    B apart (both greens together) for a colour sensor, so that the colour of the flat lamp does not tint the
    light.

    Parameters
    ----------
    flat : (H, W) float32 ndarray, DN
        Master flat, bias or flat-dark already subtracted.
    cfa : (p, p) or (0, 0) uint8 ndarray
        Colour (0 R, 1 G, 2 B) at ``[y % p, x % p]``; empty for mono.
    clip : float
        Fraction of the pixels that is cut at each end before the mean.

    Returns
    -------
    gain : (H, W) float32 ndarray
        NaN where the flat is zero, negative or NaN: such a pixel saw no light and its value is unknown.
    factors : (1,) or (3,) float64 ndarray, DN
        The scale `s` of the frame, or of R, G, B.
    n_missing : int
        Number of NaN in `gain`.

    Raises
    ------
    ValueError
        If a scale is not above zero: the flat, or one colour of it, holds no light.
    """
    cells = _colour_cells(cfa)
    factors = np.empty(len(cells), dtype=np.float64)
    for k, offsets in enumerate(cells):
        parts = [flat[y :: cfa.shape[0] or 1, x :: cfa.shape[1] or 1].ravel() for y, x in offsets]
        factors[k] = trimmed_mean(np.concatenate(parts) if len(parts) > 1 else parts[0], clip)
        if not factors[k] > 0.0:
            what = "flat" if len(cells) == 1 else f"{'RGB'[k]} part of the flat"
            raise ValueError(f"the {what} has a trimmed mean of {factors[k]:g} DN, expected a level above zero")
    gain = np.empty(flat.shape, dtype=np.float32)
    for k, offsets in enumerate(cells):
        for y, x in offsets:
            plane = (slice(y, None, cfa.shape[0] or 1), slice(x, None, cfa.shape[1] or 1))
            np.divide(np.float32(factors[k]), np.maximum(flat[plane], _FLAT_FLOOR), out=gain[plane])
    missing = ~(flat > 0.0)
    gain[missing] = np.nan
    return gain, factors, int(np.count_nonzero(missing))


def _colour_cells(cfa: NDArray[np.uint8]) -> list[list[tuple[int, int]]]:
    """Return the ``(y, x)`` cell offsets of each colour, one list of one offset for mono."""
    if cfa.size == 0:
        return [[(0, 0)]]
    rows, columns = cfa.shape
    return [[(y, x) for y in range(rows) for x in range(columns) if cfa[y, x] == colour] for colour in range(3)]
