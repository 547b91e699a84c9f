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

Method = Literal["guided", "malvar", "rcd", "vng", "bilinear", "superpixel"]

BAYER_LETTERS = 4
"""Of the pattern of a Bayer mosaic, as a frame states it."""

BAYER_ONLY = ("malvar", "rcd", "vng")
"""Methods that count on the 2x2 cell; :func:`run` interpolates frames with another one by ``guided``."""


class DebayerParams(Params, frozen=True, kw_only=True):
    """How colours are interpolated."""

    method: Annotated[
        Method,
        Meta(
            description="guided averages each colour and adds the detail of green in the ratio of the colours around; "
            "malvar, rcd and vng carry detail from one colour to the other, which bends the colours of stars; bilinear "
            "averages neighbours, which broadens stars; superpixel joins 2x2 pixels (X-Trans: 3x3) into one. X-Trans "
            "frames: guided, bilinear, superpixel"
        ),
    ] = "guided"


def joined(params: DebayerParams, cfa: npt.NDArray[np.uint8] | None) -> int:
    """Return the side in pixels of what becomes one pixel: 1, or that of a superpixel.

    2 for a Bayer mosaic; 3 for X-Trans, where each 3 x 3 pixels hold two red, two blue and five green ones.
    """
    if cfa is None or params.method != "superpixel":
        return 1
    return 2 if len(cfa) == 2 else 3


def run(params: DebayerParams, image: FloatArray, cfa: npt.NDArray[np.uint8]) -> FloatArray:
    """Return the three colour planes of a CFA frame or rectangle.

    Parameters
    ----------
    params : DebayerParams
        The stage's parameters.
    image : (h, w) float32 ndarray, DN
        Calibrated CFA data; NaN is missing and spreads over at most ``HALO`` pixels.
    cfa : (p, p) uint8 ndarray
        Colour (0 R, 1 G, 2 B) at ``[y % p, x % p]`` of this rectangle; p is 2 (Bayer) or 6 (X-Trans).

    Returns
    -------
    (3, h, w) float32 ndarray, DN
        Measured samples unchanged in their own colour. Of superpixels (3, h // s, w // s), see :func:`joined`: pixel
        (X, Y) lies at ``s X + (s - 1) / 2`` and so on of the rectangle, and rows and columns left over are dropped.
    """
    import numpy as np

    from wbpy.kernels import debayer, guided, vng, xtrans

    side = joined(params, cfa)
    out = np.empty((3, image.shape[0] // side, image.shape[1] // side), np.float32)
    if side == 2:
        debayer.superpixel(image, cfa, out)
        return out
    if side == 3:
        xtrans.superpixel(image, cfa, out)
        return out
    if len(cfa) != 2:
        (xtrans.bilinear if params.method == "bilinear" else xtrans.guided)(image, cfa, out)
        return out
    {
        "guided": guided.guided,
        "malvar": debayer.malvar,
        "rcd": debayer.rcd,
        "vng": vng.vng,
        "bilinear": debayer.bilinear,
    }[params.method](image, cfa, out)
    return out


def halo(params: DebayerParams, cfa: npt.NDArray[np.uint8]) -> int:
    """Return how many pixels beyond a rectangle the method reads."""
    from wbpy.kernels import debayer, guided, vng, xtrans

    if params.method == "superpixel":
        return 0
    if len(cfa) != 2:
        return xtrans.HALO
    return {**debayer.HALO, "guided": guided.HALO, "vng": vng.HALO}[params.method]


DEBAYER = Stage(
    name="debayer",
    version=2,
    per="light",
    title="Interpolate the colours of CFA frames",
    run=run,
    params=DebayerParams,
    inputs=(Input("image", "cosmetic"),),
    outputs=(Output("image", "debayered", "DN"),),
    findings=("DEB001",),
    memory=lambda height, width: 4 * height * width * 4,
)
