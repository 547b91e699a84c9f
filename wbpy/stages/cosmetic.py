"""Cosmetic: replace hot and cold pixels by the median of their neighbours of the same colour (guide, section 9.2).

Defects come from three sources: the master dark, lists, and the light itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from wbpy.stages import levels
from wbpy.stages.base import Input, Output, Params, Stage

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from wbpy.stages.base import FloatArray


class CosmeticParams(Params, frozen=True, kw_only=True):
    """Which pixels are replaced."""

    dark_by: Annotated[
        Literal["sigma", "level", "share"],
        Meta(description="what makes a pixel of the master dark hot: dark_sigma, dark_level or dark_share"),
    ] = "sigma"
    dark_sigma: Annotated[
        float, Meta(ge=0, description="hot in the master dark: above its surroundings by this many sigma; 0 is off")
    ] = 10.0
    dark_cold_sigma: Annotated[
        float, Meta(ge=0, description="cold in the master dark: below its surroundings by this many sigma; 0 is off")
    ] = 0.0
    dark_level: Annotated[float, Meta(ge=0, description="hot from this value of the master dark on, DN; 0 is off")] = (
        0.0
    )
    dark_share: Annotated[float, Meta(ge=0, le=0.1, description="share of the pixels, the brightest of the dark")] = (
        0.001
    )
    lists: Annotated[
        tuple[str, ...], Meta(description="files with known defects, of wbpy, PixInsight or Siril (*.lst)")
    ] = ()
    hot_sigma: Annotated[
        float, Meta(ge=0, description="hot in the light: a single raised pixel, this many sigma; 0 is off")
    ] = 6.0
    cold_sigma: Annotated[
        float, Meta(ge=0, description="cold in the light: a single low pixel, this many sigma; 0 is off")
    ] = 6.0


@dataclass(frozen=True)
class Cosmetic:
    """A corrected frame and the number of pixels replaced."""

    image: FloatArray
    known: int
    """From lists and from the master dark."""
    hot: int
    """Found in the light, too bright."""
    cold: int
    """Found in the light, too dark."""
    planes: tuple[int, ...]
    """All of them by plane of the CFA, row by row of its cell; one number for mono."""


@dataclass(frozen=True)
class DefectList:
    """What a file with known defects says of a frame."""

    indices: npt.NDArray[np.int64]
    """Flat indices, sorted, each once."""
    outside: int
    """Entries that lie, in whole or in part, outside of the frame."""


def parse_list(text: str, shape: tuple[int, int], siril: bool = False) -> DefectList:
    """Return the pixels that a list of defects names.

    One defect a line, ``#`` begins a comment, coordinates count from 0: ``Pixel x y``, ``Col x``, ``Col x y0 y1``,
    ``Row y``, ``Row y x0 x1``, both ends included. The last four are the lines of PixInsight's LinearDefectDetection
    and CosmeticCorrection. Lists of Siril hold ``P x y`` with an optional ``H`` or ``C``, ``C x`` and ``L y``, and
    count rows from the upper edge of the picture, which it stores last.

    Parameters
    ----------
    text : str
        Content of the file.
    shape : (int, int)
        Height and width of the frame; rows count in stored order.
    siril : bool
        Whether it is a list of Siril; its files end with ``.lst``.

    Raises
    ------
    ValueError
        If a line is none of these; it is named with its number.
    """
    import numpy as np

    height, width = shape
    mask = np.zeros(shape, bool)
    outside = 0
    for x0, x1, y0, y1 in _regions(text, shape, siril):
        if min(x0, y0) < 0 or x1 >= width or y1 >= height:
            outside += 1
        mask[max(0, y0) : max(0, y1 + 1), max(0, x0) : max(0, x1 + 1)] = True
    return DefectList(np.flatnonzero(mask).astype(np.int64), outside)


def _regions(text: str, shape: tuple[int, int], siril: bool) -> Iterator[tuple[int, int, int, int]]:
    """Yield x0, x1, y0, y1 of each entry, both ends included."""
    height, width = shape
    words = {"p": "pixel", "c": "col", "l": "row"} if siril else {"column": "col", "p": "pixel"}
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.partition("#")[0].split()
        if not fields:
            continue
        kind = words.get(fields[0].lower(), fields[0].lower())
        places = fields[1:]
        if siril:
            # What follows tells hot from cold, and for lines has no meaning.
            places = places[: 2 if kind == "pixel" else 1]
        try:
            numbers = [int(round(float(place))) for place in places]
        except ValueError:
            numbers = []
        if siril and numbers and kind in ("pixel", "row"):
            numbers[-1] = height - 1 - numbers[-1]
        match kind, len(numbers):
            case "pixel", 2:
                yield numbers[0], numbers[0], numbers[1], numbers[1]
            case "col", 1:
                yield numbers[0], numbers[0], 0, height - 1
            case "col", 3:
                yield numbers[0], numbers[0], min(numbers[1:]), max(numbers[1:])
            case "row", 1:
                yield 0, width - 1, numbers[0], numbers[0]
            case "row", 3:
                yield min(numbers[1:]), max(numbers[1:]), numbers[0], numbers[0]
            case _:
                raise ValueError(
                    f"line {number} is {line.strip()!r}; expected Pixel x y, Col x, Row y or parts of them"
                )


def defects(
    params: CosmeticParams, dark: FloatArray | None, cfa: npt.NDArray[np.uint8] | None
) -> npt.NDArray[np.int64]:
    """Return the flat indices of the defects of the master dark, sorted; empty without a dark."""
    import numpy as np

    from wbpy.kernels import defects as kernels

    if dark is None:
        return np.empty(0, np.int64)
    colours = cfa if cfa is not None else np.empty((0, 0), np.uint8)
    sigma = params.dark_sigma if params.dark_by == "sigma" else 0.0
    found = np.empty(0, np.int64)
    if sigma > 0 or params.dark_cold_sigma > 0:
        found = kernels.defects_from_dark(dark, colours, sigma, params.dark_cold_sigma)
    level = 0.0
    if params.dark_by == "level":
        level = params.dark_level
    elif params.dark_by == "share" and (count := int(params.dark_share * dark.size)):
        level = float(np.partition(np.nan_to_num(dark, nan=-np.inf).reshape(-1), -count)[-count])
    if level > 0:
        # A missing pixel of the dark would be missing in every light.
        found = np.union1d(found, np.flatnonzero((dark >= np.float32(level)) | np.isnan(dark)))
    return found.astype(np.int64)


def run(
    params: CosmeticParams,
    image: FloatArray,
    known: npt.NDArray[np.int64],
    cfa: npt.NDArray[np.uint8] | None,
) -> Cosmetic:
    """Return `image` with its defects replaced, in place.

    Parameters
    ----------
    params : CosmeticParams
        The stage's parameters.
    image : (H, W) float32 ndarray, DN
        Calibrated frame; changed.
    known : (n,) int64 ndarray
        Flat indices from :func:`defects` and :func:`parse_list`.
    cfa : (p, p) uint8 ndarray or None
        Colours of the CFA: defects are compared with and replaced by neighbours of their own.
    """
    import numpy as np

    from wbpy.kernels import defects as kernels
    from wbpy.kernels import mosaics

    # After the listed ones, so that a cluster of them does not hide its neighbours from the test.
    if cfa is not None and len(cfa) != 2:
        mosaics.replace_defects(image, known, cfa)
        found = mosaics.detect_outliers(image, cfa, params.hot_sigma, params.cold_sigma)
        before = image.reshape(-1)[found]
        mosaics.replace_defects(image, found, cfa)
    else:
        step = 1 if cfa is None else 2
        kernels.replace_defects(image, known, step)
        found = kernels.detect_outliers(image, step, params.hot_sigma, params.cold_sigma)
        before = image.reshape(-1)[found]
        kernels.replace_defects(image, found, step)
    hot = int(np.count_nonzero(before > image.reshape(-1)[found]))
    y, x = np.divmod(np.concatenate([known, found]), image.shape[1])
    cell = levels.cell_of(cfa)
    planes = np.bincount((y % cell) * cell + x % cell, minlength=cell * cell)
    return Cosmetic(image, int(known.size), hot, int(found.size) - hot, tuple(planes.tolist()))


COSMETIC = Stage(
    name="cosmetic",
    version=3,
    per="light",
    title="Replace hot and cold pixels",
    run=run,
    params=CosmeticParams,
    inputs=(Input("image", "calibrated"), Input("dark", "master_dark", optional=True)),
    outputs=(Output("image", "cosmetic", "DN"),),
    findings=("COS001", "COS002", "COS003"),
    memory=lambda height, width: 4 * height * width,
)
