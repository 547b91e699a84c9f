"""Calibrate: subtract the dark or the bias, divide by the flat (guide, section 7.2).

``(L - D) / F x s`` with a dark, ``(L - B) / F x s`` with a bias only; `s` is the master flat's trimmed mean, one for
each colour of a CFA, so that a calibrated frame keeps its level and its colour. Negative values stay: cutting
them here would bias every average made later.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from wbpy.stages.base import Input, Output, Params, Reader, Stage

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from wbpy.stages.base import FloatArray


class CalibrateParams(Params, frozen=True, kw_only=True):
    """How lights are calibrated."""

    separate_flat_factors: Annotated[bool, Meta(description="scale a CFA flat by colour, which keeps the colours")] = (
        True
    )
    flat_trim: Annotated[
        float, Meta(ge=0, lt=0.5, description="share of the flat's pixels cut at each end for its mean")
    ] = 0.05


@dataclass(frozen=True)
class Calibration:
    """Masters brought into the form in which every light of a group uses them."""

    subtract: FloatArray
    """(H W,) float32, DN; of length 0 when nothing is subtracted."""
    gain: FloatArray
    """(H W,) float32, flat factor over flat; NaN where the flat has no signal; of length 0 without a flat."""
    flat_factors: tuple[float, ...]
    """Trimmed means of the flat, DN: one, or R, G, B."""
    flat_dead: int
    """Pixels where the flat is not above zero."""


def prepare(
    params: CalibrateParams,
    dark: FloatArray | None,
    bias: FloatArray | None,
    flat: FloatArray | None,
    cfa: npt.NDArray[np.uint8] | None,
) -> Calibration:
    """Return the masters in the form in which :func:`run` applies them.

    Parameters
    ----------
    params : CalibrateParams
        The stage's parameters.
    dark, bias, flat : (H, W) float32 ndarray or None, DN
        Masters; the dark still contains the bias, so a bias counts only where there is no dark.
    cfa : (2, 2) uint8 ndarray or None
        Colours of the CFA, None for mono.
    """
    import numpy as np

    from wbpy.kernels import calibration

    nothing = np.empty(0, np.float32)
    offset = dark if dark is not None else bias
    subtract = nothing if offset is None else np.ascontiguousarray(offset).reshape(-1)
    if flat is None:
        return Calibration(subtract, nothing, (), 0)
    colours = cfa if cfa is not None and params.separate_flat_factors else np.empty((0, 0), np.uint8)
    gain, factors, dead = calibration.flat_gain(flat, colours, params.flat_trim)
    return Calibration(subtract, gain.reshape(-1), tuple(float(factor) for factor in factors), int(dead))


def run(params: CalibrateParams, light: Reader, calibration: Calibration) -> FloatArray:
    """Return one light calibrated.

    Parameters
    ----------
    params : CalibrateParams
        The stage's parameters.
    light : Reader
        The raw light.
    calibration : Calibration
        From :func:`prepare`, for the same shape.

    Returns
    -------
    (H, W) float32 ndarray, DN
        Negative values kept; NaN where the flat has no signal.
    """
    import numpy as np

    from wbpy.kernels import calibration as kernels

    height, width = light.shape
    out = np.empty(height * width, np.float32)
    rows = max(1, 4_000_000 // (2 * width))
    for y in range(0, height, rows):
        end = min(height, y + rows)
        band = slice(y * width, end * width)
        subtract = calibration.subtract[band] if calibration.subtract.size else calibration.subtract
        gain = calibration.gain[band] if calibration.gain.size else calibration.gain
        stored = light.words(y, end)
        if stored is None:
            kernels.calibrate_float(light.read(y, end).reshape(-1), subtract, gain, out[band])
        else:
            words, zero = stored
            kernels.calibrate_int16(words, np.float32(zero), subtract, gain, out[band])
    return out.reshape(height, width)


CALIBRATE = Stage(
    name="calibrate",
    version=1,
    per="light",
    title="Subtract dark or bias, divide by the flat",
    run=run,
    params=CalibrateParams,
    inputs=(
        Input("light", "raw"),
        Input("dark", "master_dark", optional=True),
        Input("bias", "master_bias", optional=True),
        Input("flat", "master_flat", optional=True),
    ),
    outputs=(Output("image", "calibrated", "DN"),),
    findings=("CAL001", "CAL002", "CAL003", "CAL004"),
    memory=lambda height, width: 4 * height * width + 16_000_000,
)
