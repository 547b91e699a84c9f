"""Pictures to look through many frames at once: a contact sheet of stretched thumbnails, histograms, curves."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wbpy.io.preview import auto_stretch, shrink
from wbpy.io.products import write_atomic

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

THUMB = 240
"""Longer side of a thumbnail, px."""
_MARGIN = 8
_LINE = 14
_PLOT = (1200, 480)
_CURVES = ((90, 140, 255), (235, 160, 60), (90, 200, 90), (235, 80, 70), (190, 120, 235), (230, 230, 230))
_COLOURS = {"all": (230, 230, 230), "R": (235, 80, 70), "G": (90, 200, 90), "G2": (150, 220, 120), "B": (90, 140, 255)}


def thumbnail(image: NDArray[np.float32], *, bottom_up: bool = False) -> NDArray[np.uint8]:
    """Return a stretched picture of a frame, its longer side at most 240 px.

    Parameters
    ----------
    image : (H, W) float32 ndarray, DN
        NaN becomes black. CFA frames become grey: each block of at least two pixels a side is averaged.
    bottom_up : bool
        The first stored row is the lowest one of the picture.
    """
    step = max(1, -(-max(image.shape) // THUMB))
    # An even step averages whole CFA cells, so that no colour shows as a pattern.
    levels = auto_stretch(shrink(image, step + step % 2 if step > 1 else 1))
    picture = np.rint(levels * 255.0).astype(np.uint8)
    return picture[::-1] if bottom_up else picture


def write_contact_sheet(
    path: str | os.PathLike[str], thumbnails: Sequence[tuple[str, NDArray[np.uint8]]], columns: int = 6
) -> None:
    """Write thumbnails side by side with a line of text below each, as PNG, atomically.

    Parameters
    ----------
    path : path-like
        Final name.
    thumbnails : sequence of (str, (h, w) uint8 ndarray)
        At least one; texts are cut to the width of a thumbnail.
    columns : int
        Most thumbnails in a row.
    """
    from PIL import Image, ImageDraw

    columns = min(columns, len(thumbnails))
    rows = -(-len(thumbnails) // columns)
    tallest = max(picture.shape[0] for _, picture in thumbnails)
    wide, high = THUMB + _MARGIN, tallest + _LINE + _MARGIN
    sheet = Image.new("L", (columns * wide + _MARGIN, rows * high + _MARGIN), 24)
    draw = ImageDraw.Draw(sheet)
    for number, (text, picture) in enumerate(thumbnails):
        x, y = _MARGIN + number % columns * wide, _MARGIN + number // columns * high
        sheet.paste(Image.fromarray(np.ascontiguousarray(picture)), (x, y))
        shown = _plain(text)
        while shown and draw.textlength(shown) > THUMB:
            shown = shown[:-1]
        draw.text((x, y + tallest + 1), shown, fill=220)
    _save(path, sheet)


def write_histogram(
    path: str | os.PathLike[str], title: str, planes: Sequence[tuple[str, NDArray[np.int64]]], first: int
) -> None:
    """Write the histogram of a frame as PNG, one line for each plane, counts on a logarithmic scale.

    Parameters
    ----------
    path : path-like
        Final name.
    title : str
    planes : sequence of (str, (n,) int64 ndarray)
        Name (``all``, ``R``, ``G``, ``G2``, ``B``) and pixels at each DN.
    first : int
        DN of the first bin.
    """
    from PIL import Image, ImageDraw

    width, height = _PLOT
    picture = Image.new("RGB", (width, height), (24, 24, 24))
    draw = ImageDraw.Draw(picture)
    draw.text((_MARGIN, 2), _plain(title), fill=(220, 220, 220))
    total = np.sum([counts for _, counts in planes], axis=0)
    used = np.flatnonzero(total)
    left, right, top, bottom = _MARGIN, width - _MARGIN, 2 * _LINE, height - 2 * _LINE
    if used.size:
        low, high = int(used[0]), int(used[-1]) + 1
        edges = np.unique(np.linspace(low, high, min(right - left, high - low) + 1).astype(int))
        heights = [np.add.reduceat(counts[:high], edges[:-1]) for _, counts in planes]
        most = max(int(heights_of.max()) for heights_of in heights)
        span = math.log1p(most)
        for (name, _), heights_of in zip(planes, heights, strict=True):
            x = left + (edges[:-1] - low) * (right - left) / max(1, high - low)
            y = bottom - np.log1p(heights_of) / span * (bottom - top)
            colour = _COLOURS.get(name, _COLOURS["all"])
            if len(x) == 1:
                draw.line([(left, bottom), (left, float(y[0]))], fill=colour)
            else:
                draw.line([(float(a), float(b)) for a, b in zip(x, y, strict=True)], fill=colour)
        draw.text((left, bottom + 4), f"{low + first} DN", fill=(180, 180, 180))
        text = f"{high - 1 + first} DN"
        draw.text((right - draw.textlength(text), bottom + 4), text, fill=(180, 180, 180))
    _save(path, picture)


def write_curves(
    path: str | os.PathLike[str],
    title: str,
    panels: Sequence[tuple[str, Sequence[tuple[Sequence[float], Sequence[float]]]]],
    unit: str,
) -> None:
    """Write curves in panels side by side as PNG, x from 0, y from 0 to 1, atomically.

    Parameters
    ----------
    path : path-like
        Final name.
    title : str
    panels : sequence of (str, sequence of (x, y))
        Caption and curves, at least one curve of two points; values of y beyond 0 and 1 are cut.
    unit : str
        Of x.
    """
    from PIL import Image, ImageDraw

    width, height = _PLOT
    picture = Image.new("RGB", (width, height), (24, 24, 24))
    draw = ImageDraw.Draw(picture)
    draw.text((_MARGIN, 2), _plain(title), fill=(220, 220, 220))
    wide = width // len(panels)
    for number, (caption, curves) in enumerate(panels):
        left, right = number * wide + _MARGIN, (number + 1) * wide - 2 * _MARGIN
        top, bottom = 3 * _LINE, height - 2 * _LINE
        most = max(max(x) for x, _ in curves)
        draw.text((left, _LINE + 4), _plain(caption), fill=(180, 180, 180))
        for level in (0.0, 0.5, 1.0):
            at = bottom - level * (bottom - top)
            draw.line([(left, at), (right, at)], fill=(60, 60, 60))
        for index, (x, y) in enumerate(curves):
            points = [
                (left + a / most * (right - left), bottom - min(max(b, 0.0), 1.0) * (bottom - top))
                for a, b in zip(x, y, strict=True)
            ]
            draw.line(points, fill=_CURVES[index % len(_CURVES)], width=2)
        draw.text((left, bottom + 4), "0", fill=(180, 180, 180))
        text = f"{most:g} {unit}"
        draw.text((right - draw.textlength(text), bottom + 4), text, fill=(180, 180, 180))
    _save(path, picture)


def _plain(text: str) -> str:
    # The built-in font has no other characters.
    return text.encode("ascii", "replace").decode("ascii")


def _save(path: str | os.PathLike[str], picture: Picture) -> None:
    content = io.BytesIO()
    picture.save(content, "PNG")
    write_atomic(path, content.getvalue())
