"""Cosmetic: replace hot and cold pixels by the median of their neighbours of the same colour (guide, section 9.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from wbpy.stages.base import Input, Output, Params, Stage

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from wbpy.stages.base import FloatArray


class CosmeticParams(Params, frozen=True, kw_only=True):
    """Which pixels are replaced."""

    dark_sigma: Annotated[
        float, Meta(ge=0, description="hot in the master dark: above its surroundings by this many sigma; 0 is off")
    ] = 10.0
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
    from_dark: int
    automatic: int


def defects(
    params: CosmeticParams, dark: FloatArray | None, cfa: npt.NDArray[np.uint8] | None
) -> npt.NDArray[np.int64]:
    """Return the flat indices of the pixels that are hot in the master dark, sorted; empty without a dark."""
    import numpy as np

    from wbpy.kernels import defects as kernels

    if dark is None or params.dark_sigma == 0:
        return np.empty(0, np.int64)
    colours = cfa if cfa is not None else np.empty((0, 0), np.uint8)
    return kernels.defects_from_dark(dark, colours, params.dark_sigma, 0.0)


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
        Flat indices from :func:`defects`.
    cfa : (2, 2) uint8 ndarray or None
        Neighbours of the same colour stand two pixels apart.
    """
    from wbpy.kernels import defects as kernels

    step = 1 if cfa is None else 2
    kernels.replace_defects(image, known, step)
    # After the listed ones, so that a cluster of them does not hide its neighbours from the test.
    found = kernels.detect_outliers(image, step, params.hot_sigma, params.cold_sigma)
    kernels.replace_defects(image, found, step)
    return Cosmetic(image, int(known.size), int(found.size))


COSMETIC = Stage(
    name="cosmetic",
    version=1,
    per="light",
    title="Replace hot and cold pixels",
    run=run,
    params=CosmeticParams,
    inputs=(Input("image", "calibrated"), Input("dark", "master_dark", optional=True)),
    outputs=(Output("image", "cosmetic", "DN"),),
    findings=("COS001",),
    memory=lambda height, width: 4 * height * width,
)
