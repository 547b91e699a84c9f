"""Write a stretched picture of an image, small enough for a browser and bright enough to judge."""

from __future__ import annotations

import io
import os

import numpy as np
from numpy.typing import NDArray

from wbpy.io.products import write_atomic

_SHADOWS = -2.8
"""Clipping point, in normalized median absolute deviations from the median."""
_BACKGROUND = 0.25
"""Brightness that the median gets."""
_MAD_TO_SIGMA = 1.4826


def write_preview(
    path: str | os.PathLike[str],
    image: NDArray[np.float32],
    max_side: int = 1600,
    *,
    linked: bool = False,
    bottom_up: bool = False,
) -> None:
    """Write an auto-stretched PNG, atomically.

    Parameters
    ----------
    path : path-like
        Final name of the PNG.
    image : (H, W) or (3, H, W) float32 ndarray
        Linear pixels in any unit; NaN becomes black.
    max_side : int
        The longer side of the picture has at most so many pixels; larger images are averaged over square blocks.
    linked : bool
        Stretch the colours alike. By default each on its own, which takes away the colour of the sky.
    bottom_up : bool
        The first stored row is the lowest one of the picture.

    Raises
    ------
    ValueError
        If the shape is another one.
    """
    from PIL import Image

    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[0] != 3) or 0 in image.shape:
        raise ValueError(f"an image of shape {image.shape} has no preview, expected (H, W) or (3, H, W)")
    planes = image[np.newaxis] if image.ndim == 2 else image
    step = max(1, -(-max(planes.shape[1:]) // max_side))
    small = np.stack([shrink(plane, step) for plane in planes])
    groups = [small] if linked else list(small[:, np.newaxis])
    stretched = np.concatenate([auto_stretch(group) for group in groups])
    if bottom_up:
        stretched = stretched[:, ::-1]
    levels = np.rint(stretched * 255.0).astype(np.uint8)
    picture = Image.fromarray(np.ascontiguousarray(levels[0] if len(levels) == 1 else np.moveaxis(levels, 0, -1)))
    content = io.BytesIO()
    picture.save(content, "PNG")
    write_atomic(path, content.getvalue())


def shrink(plane: NDArray[np.float32], step: int) -> NDArray[np.float64]:
    """Return the means of square blocks of `step` pixels a side.

    Parameters
    ----------
    plane : (H, W) float32 ndarray
    step : int
        Side of the blocks; those at the right and lower edge may be smaller.

    Returns
    -------
    (ceil(H / step), ceil(W / step)) float64 ndarray
        Means over the finite pixels of each block; NaN where there are none.
    """
    height, width = plane.shape
    columns = np.arange(0, width, step)
    means = np.empty((-(-height // step), len(columns)), np.float64)
    for row, y0 in enumerate(range(0, height, step)):
        band = plane[y0 : y0 + step]
        finite = np.isfinite(band)
        sums = np.where(finite, band, np.float32(0)).sum(axis=0, dtype=np.float64)
        total = np.add.reduceat(sums, columns)
        count = np.add.reduceat(finite.sum(axis=0, dtype=np.int64), columns)
        means[row] = np.divide(total, count, out=np.full(len(columns), np.nan), where=count > 0)
    return means


def auto_stretch(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the image in [0, 1] with its background at a quarter of the brightness.

    Parameters
    ----------
    image : float64 ndarray
        Linear values of any shape and unit; NaN marks missing pixels.

    Returns
    -------
    float64 ndarray, same shape
        Missing pixels are 0. Shadows end 2.8 normalized MAD below the median; the midtones transfer function
        ``mtf(m, x) = (m - 1) x / ((2 m - 1) x - m)`` lifts the median, as in the screen transfer function that
        PixInsight and Siril use (Siril documentation, "Autostretch algorithm").
    """
    finite = np.isfinite(image)
    stretched = np.zeros(image.shape)
    if not finite.any():
        return stretched
    values = image[finite]
    median = float(np.median(values))
    sigma = _MAD_TO_SIGMA * float(np.median(np.abs(values - median)))
    black = max(float(values.min()), median + _SHADOWS * sigma)
    span = float(values.max()) - black
    if not span > 0.0:
        stretched[finite] = _BACKGROUND
        return stretched
    middle = (median - black) / span
    balance = float(_midtones(_BACKGROUND, np.array(middle))) if 0.0 < middle < 1.0 else 0.5
    lifted = _midtones(balance, np.clip((values - black) / span, 0.0, 1.0))
    stretched[finite] = np.clip(lifted, 0.0, 1.0)
    return stretched


def _midtones(balance: float, values: NDArray[np.float64]) -> NDArray[np.float64]:
    return (balance - 1.0) * values / ((2.0 * balance - 1.0) * values - balance)
