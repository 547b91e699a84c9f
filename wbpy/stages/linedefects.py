"""Line defects: subtract what defective columns and rows of a CCD add to a frame (guide, section 9.1).

Off unless asked for: CMOS sensors have no columns through which charge is moved, and a correction that finds nothing
to correct can only add noise.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from wbpy.stages.base import Input, Output, Params, Stage

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from wbpy.stages.base import FloatArray


class LineDefectsParams(Params, frozen=True, kw_only=True):
    """Which lines are corrected."""

    use: Annotated[bool, Meta(description="find defective columns and rows and subtract what they add")] = False
    sigma: Annotated[float, Meta(gt=0, description="a line differs from those beside it by this many sigma")] = 5.0
    shortest: Annotated[int, Meta(ge=25, description="least length of a part of a line, px")] = 50
    frames: Annotated[
        int, Meta(ge=1, description="lights that are averaged, unregistered, to find the lines; evenly chosen")
    ] = 20
    reject: Annotated[float, Meta(gt=0, description="stars on a line are left out above this many sigma")] = 5.0
    search: Annotated[
        bool, Meta(description="look for lines in the average of the lights; false takes those of the lists alone")
    ] = True
    lists: Annotated[
        tuple[str, ...],
        Meta(description="files with known lines, as PixInsight's LinearDefectDetection writes them: Col x, Row y"),
    ] = ()


@dataclass(frozen=True)
class LineList:
    """What a file with known lines says of a frame."""

    lines: npt.NDArray[np.int64]
    """(n, 4) lines as :mod:`wbpy.kernels.lines` describes them, sorted."""
    outside: int
    """Entries that lie, in whole or in part, outside of the frame."""


def parse_list(text: str, shape: tuple[int, int]) -> LineList:
    """Return the lines that a list names.

    One line each, ``#`` begins a comment: ``Col x``, ``Col x y0 y1``, ``Row y``, ``Row y x0 x1``; coordinates count
    from 0, both ends are included, rows in stored order. PixInsight's LinearDefectDetection writes such files.

    Parameters
    ----------
    text : str
        Content of the file.
    shape : (int, int)
        Height and width of the frame; what lies outside is cut off and counted.

    Raises
    ------
    ValueError
        If a line is none of these; it is named with its number.
    """
    import numpy as np

    found: list[tuple[int, int, int, int]] = []
    outside = 0
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        axis = {"col": 0, "column": 0, "row": 1}.get(words[0].lower())
        try:
            places = [int(round(float(word))) for word in words[1:]]
        except ValueError:
            places = []
        if axis is None or len(places) not in (1, 3):
            raise ValueError(f"line {number} is {line.strip()!r}; expected Col x [y0 y1] or Row y [x0 x1]")
        along, across = (shape[0], shape[1]) if axis == 0 else (shape[1], shape[0])
        first, last = (min(places[1:]), max(places[1:])) if len(places) == 3 else (0, along - 1)
        outside += not (0 <= places[0] < across and first >= 0 and last < along)
        first, last = max(0, first), min(along - 1, last)
        if 0 <= places[0] < across and first <= last:
            found.append((axis, places[0], first, last + 1))
    return LineList(np.array(sorted(found), np.int64).reshape(-1, 4), outside)


def merged(*sources: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return lines of several sources, (n, 4) each, sorted; parts of one line that touch or overlap become one.

    Subtracting from a pixel twice would bring its defect back with the other sign.
    """
    import numpy as np

    out: list[list[int]] = []
    for axis, index, start, stop in sorted(tuple(line) for source in sources for line in source.tolist()):
        if out and out[-1][:2] == [axis, index] and start <= out[-1][3]:
            out[-1][3] = max(out[-1][3], stop)
        else:
            out.append([axis, index, start, stop])
    return np.array(out, np.int64).reshape(-1, 4)


def find(
    params: LineDefectsParams, images: Iterable[FloatArray], cfa: npt.NDArray[np.uint8] | None
) -> npt.NDArray[np.int64]:
    """Return the defective lines that calibrated lights have in common.

    Parameters
    ----------
    params : LineDefectsParams
        The stage's parameters.
    images : iterable of (H, W) float32 ndarray, DN
        Calibrated, not registered; none gives no lines. They may be made one after the other.
    cfa : (p, p) uint8 ndarray or None
        With a CFA, lines are compared with those of the same colours.

    Returns
    -------
    (n, 4) int64 ndarray
        Lines as :mod:`wbpy.kernels.lines` describes them.
    """
    import numpy as np

    from wbpy.kernels import lines, statistics

    total: npt.NDArray[np.float64] | None = None
    count = 0
    for image in images:
        level = image - np.float32(statistics.median(image.reshape(-1)))
        total = level.astype(np.float64) if total is None else np.add(total, level, out=total)
        count += 1
    if total is None:
        return np.empty((0, 4), np.int64)
    average = (total / count).astype(np.float32)
    return lines.find_lines(average, 1 if cfa is None else len(cfa), params.sigma, params.shortest)


def run(
    params: LineDefectsParams,
    image: FloatArray,
    found: npt.NDArray[np.int64],
    cfa: npt.NDArray[np.uint8] | None,
) -> FloatArray:
    """Return `image` with the lines corrected, in place.

    Parameters
    ----------
    params : LineDefectsParams
        The stage's parameters.
    image : (H, W) float32 ndarray, DN
        Calibrated frame; changed along the lines.
    found : (n, 4) int64 ndarray
        From :func:`find`, :func:`parse_list` or both, see :func:`merged`.
    cfa : (p, p) uint8 ndarray or None
        With a CFA, the colours along a line are corrected apart.
    """
    from wbpy.kernels import lines

    if found.size:
        lines.subtract_lines(image, found, 1 if cfa is None else len(cfa), params.reject)
    return image


LINEDEFECTS = Stage(
    name="linedefects",
    version=2,
    per="light",
    title="Subtract defective columns and rows",
    run=run,
    params=LineDefectsParams,
    inputs=(Input("image", "calibrated"),),
    outputs=(Output("image", "linedefects", "DN"),),
    findings=("LIN001", "LIN002", "LIN003"),
    # The average in double precision, its differences and their running median, once for a group.
    memory=lambda height, width: 4 * height * width * 5,
)
