"""Line defects: subtract what defective columns and rows of a CCD add to a frame (guide, section 9.1).

Off unless asked for: CMOS sensors have no columns through which charge is moved, and a correction that finds nothing
to correct can only add noise.
"""

from __future__ import annotations

from collections.abc import Iterable
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
    cfa : (2, 2) uint8 ndarray or None
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
    return lines.find_lines(average, 1 if cfa is None else 2, params.sigma, params.shortest)


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
        From :func:`find`.
    cfa : (2, 2) uint8 ndarray or None
        With a CFA, the colours along a line are corrected apart.
    """
    from wbpy.kernels import lines

    if found.size:
        lines.subtract_lines(image, found, 1 if cfa is None else 2, params.reject)
    return image


LINEDEFECTS = Stage(
    name="linedefects",
    version=1,
    per="light",
    title="Subtract defective columns and rows",
    run=run,
    params=LineDefectsParams,
    inputs=(Input("image", "calibrated"),),
    outputs=(Output("image", "linedefects", "DN"),),
    findings=("LIN001",),
    # The average in double precision, its differences and their running median, once for a group.
    memory=lambda height, width: 4 * height * width * 5,
)
