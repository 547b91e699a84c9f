"""Debayer: three colours for every pixel of a CFA frame (guide, section 9.3).

It works on rectangles, because the integration debayers only what a tile needs. A rectangle that reaches ``HALO``
pixels beyond what is used gives the same values as the whole frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from wbpy.stages.base import Input, Output, Params, Stage

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from wbpy.stages.base import FloatArray


class DebayerParams(Params, frozen=True, kw_only=True):
    """How colours are interpolated."""

    method: Annotated[
        Literal["malvar", "rcd", "bilinear"],
        Meta(
            description="malvar keeps the fluxes of stars; rcd follows edges, which bends the colours of stars; "
            "bilinear averages neighbours"
        ),
    ] = "malvar"


def run(params: DebayerParams, image: FloatArray, cfa: npt.NDArray[np.uint8]) -> FloatArray:
    """Return the three colour planes of a CFA frame or rectangle.

    Parameters
    ----------
    params : DebayerParams
        The stage's parameters.
    image : (h, w) float32 ndarray, DN
        Calibrated CFA data; NaN is missing and spreads over at most ``HALO`` pixels.
    cfa : (2, 2) uint8 ndarray
        Colour (0 R, 1 G, 2 B) at ``[y % 2, x % 2]`` of this rectangle.

    Returns
    -------
    (3, h, w) float32 ndarray, DN
        Measured samples unchanged in their own colour.
    """
    import numpy as np

    from wbpy.kernels import debayer as kernels

    out = np.empty((3, *image.shape), np.float32)
    method = {"malvar": kernels.malvar, "rcd": kernels.rcd, "bilinear": kernels.bilinear}[params.method]
    method(image, cfa, out)
    return out


def halo(params: DebayerParams) -> int:
    """Return how many pixels beyond a rectangle the method reads; even, so that the CFA keeps its phase."""
    from wbpy.kernels import debayer as kernels

    reach: int = kernels.HALO[params.method]
    return reach + reach % 2


DEBAYER = Stage(
    name="debayer",
    version=1,
    per="light",
    title="Interpolate the colours of CFA frames",
    run=run,
    params=DebayerParams,
    inputs=(Input("image", "cosmetic"),),
    outputs=(Output("image", "debayered", "DN"),),
    findings=(),
    memory=lambda height, width: 4 * height * width * 4,
)
