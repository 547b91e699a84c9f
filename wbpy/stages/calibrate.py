"""Calibrate: subtract the dark or the bias, divide by the flat (guide, section 7.2).

``(L - D) / F x s`` with a dark, ``(L - B) / F x s`` with a bias only, ``((L - B) - k (D - B)) / F x s`` with a
scaled dark; `s` is the master flat's trimmed mean, one for each colour of a CFA, so that a calibrated frame keeps
its level and its colour. Negative values stay: cutting them here would bias every average made later.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from wbpy.stages import levels
from wbpy.stages.base import Input, Output, Params, Reader, Stage
from wbpy.stages.levels import PlaneLevels

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from wbpy.kernels.darkscale import DarkSet
    from wbpy.stages.base import FloatArray

PRE_CALIBRATED = 0.5
"""A master dark whose level is below this share of the bias cannot contain the bias any more."""

_UNSATURATED = 0.9
"""Share of a frame's highest value up to which a hot pixel surely tells its dark signal."""
_FEWEST_SATURATED = 8
"""Pixels of a plane on one level at the top that are no chance: the core of one star."""
_PILE = 0.99
"""Share of the level on which saturated pixels pile up from where on pixels count as saturated."""


class CalibrateParams(Params, frozen=True, kw_only=True):
    """How lights are calibrated."""

    separate_flat_factors: Annotated[
        bool,
        Meta(
            description="scale a CFA flat by colour, which keeps the colours; with one factor the lamp tints the "
            "lights, and nothing is lost: a colour calibration takes that out"
        ),
    ] = True
    flat_trim: Annotated[
        float, Meta(ge=0, lt=0.5, description="share of the flat's pixels cut at each end for its mean")
    ] = 0.05
    optimize_dark: Annotated[
        bool, Meta(description="scale the dark signal to each light by what the light shows of it; needs a bias")
    ] = False
    optimize_by: Annotated[
        Literal["contrast", "deviation"],
        Meta(description="bright pixels against their neighbours, or least standard deviation as PixInsight"),
    ] = "contrast"
    optimize_threshold: Annotated[
        float, Meta(ge=0, description="dark signal counts from the median plus this many sigma")
    ] = 3.0
    optimize_window: Annotated[
        int, Meta(ge=0, description="side of the central square that is compared, px; 0 is the whole frame")
    ] = 0
    scale_dark: Annotated[
        bool, Meta(description="scale the dark signal by the ratio of the exposures, which goes before; needs a bias")
    ] = False
    pedestal: Annotated[
        Annotated[float, Meta(ge=0, le=10000)] | Literal["auto"],
        Meta(description="DN added to kept frames, so that their noise is not cut at zero"),
    ] = "auto"
    pedestal_limit: Annotated[
        float, Meta(ge=0, le=0.1, description="share of pixels below zero that the automatic pedestal allows")
    ] = 0.001


FILES_ONLY = ("pedestal", "pedestal_limit")
"""Parameters that decide what a kept file looks like, but no pixel of an integration."""


@dataclass(frozen=True)
class Calibration:
    """Masters brought into the form in which every light of a group uses them."""

    subtract: FloatArray
    """(H W,) float32, DN: the dark or the bias; the bias with a scaled dark; length 0 when nothing is subtracted."""
    gain: FloatArray
    """(H W,) float32, flat factor over flat; NaN where the flat has no signal; of length 0 without a flat."""
    flat_factors: tuple[float, ...]
    """Trimmed means of the flat, DN: one, or R, G, B."""
    flat_dead: int
    """Pixels where the flat is not above zero."""
    thermal: FloatArray | None = None
    """(H, W) float32, DN: the dark without the bias, where it is scaled to each light."""
    dark_set: DarkSet | None = None
    """The pixels that tell the factor, where it is measured."""
    step: int = 1
    """Distance to the next pixel of the same colour."""
    level: float = 0.0
    """Median of what is subtracted, DN."""
    least_gain: float = 1.0
    """First percentile of the gain."""
    planes: tuple[str, ...] = ("mono",)
    """Names of the planes of the raw frame."""


@dataclass(frozen=True)
class Calibrated:
    """One calibrated light and what was found on the way."""

    image: FloatArray
    """(H, W) float32, DN; negative values kept; NaN where the flat has no signal."""
    dark_scale: float | None
    """Factor of the dark signal; None when the dark was used as it is."""
    dark_scale_error: float | None
    """Standard error of a measured factor."""
    dark_pixels: int
    """Pixels that told the factor."""
    saturation: float | None
    """Level from which on pixels of this calibrated frame may be saturated, DN; None when none are."""
    lowest: float
    """Least value, DN."""
    highest: float
    """Largest value, DN."""
    below: int
    """Pixels below zero."""
    levels: tuple[PlaneLevels, ...]
    """Statistics of the raw frame, plane by plane."""

    def numbers(self) -> dict[str, float | None]:
        """Return the scalar results by the names under which reports show them."""
        return {
            "dark_scale": self.dark_scale,
            "dark_scale_error": self.dark_scale_error,
            "saturation_dn": self.saturation,
            "lowest_dn": self.lowest if math.isfinite(self.lowest) else None,
            "highest_dn": self.highest if math.isfinite(self.highest) else None,
            "below_zero": self.below / max(1, self.image.size),
        }


def is_pre_calibrated(dark_dn: float, bias_dn: float) -> bool:
    """Return whether a dark of this level lies so far below the bias that the bias was subtracted from it before.

    A camera that has no offset, whose bias lies on zero like its darks, is none of these.
    """
    return dark_dn < PRE_CALIBRATED * bias_dn


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
        The stage's parameters. A dark is scaled only where there is a bias too.
    dark, bias, flat : (H, W) float32 ndarray or None, DN
        Masters; the dark still contains the bias, so a bias counts only where there is no dark or it is scaled.
    cfa : (p, p) uint8 ndarray or None
        Colours of the CFA, None for mono.
    """
    import numpy as np

    from wbpy.kernels import calibration, darkscale, statistics

    nothing = np.empty(0, np.float32)
    step = 1 if cfa is None else len(cfa)
    thermal: FloatArray | None = None
    chosen: DarkSet | None = None
    if dark is not None and bias is not None and (params.optimize_dark or params.scale_dark):
        thermal = dark - bias
        if params.optimize_dark and not params.scale_dark:
            highest = _UNSATURATED * float(np.nanmax(dark)) - statistics.median(bias.reshape(-1))
            chosen = darkscale.dark_set(thermal, step, params.optimize_threshold, params.optimize_window, highest)
        offset: FloatArray | None = bias
    else:
        offset = dark if dark is not None else bias
    subtract = nothing if offset is None else np.ascontiguousarray(offset).reshape(-1)
    gain, dead = nothing, 0
    factors: tuple[float, ...] = ()
    if flat is not None:
        colours = cfa if cfa is not None and params.separate_flat_factors else np.empty((0, 0), np.uint8)
        field, means, dead = calibration.flat_gain(flat, colours, params.flat_trim)
        gain, factors = field.reshape(-1), tuple(float(mean) for mean in means)
    return Calibration(
        subtract=subtract,
        gain=gain,
        flat_factors=factors,
        flat_dead=int(dead),
        thermal=thermal,
        dark_set=chosen,
        step=step,
        level=statistics.median(subtract) if subtract.size else 0.0,
        # Every 37th pixel: a step that keeps to no row and no colour.
        least_gain=float(np.nanpercentile(gain[::37], 1)) if gain.size else 1.0,
        planes=levels.plane_names(cfa),
    )


def run(
    params: CalibrateParams,
    light: Reader,
    calibration: Calibration,
    pedestal: float = 0.0,
    exposure_ratio: float | None = None,
) -> Calibrated:
    """Return one light calibrated.

    Parameters
    ----------
    params : CalibrateParams
        The stage's parameters.
    light : Reader
        The raw light.
    calibration : Calibration
        From :func:`prepare`, for the same shape.
    pedestal : float, DN
        What was added to the light on purpose; it is taken off first.
    exposure_ratio : float, optional
        The light's exposure over the dark's: the factor with `scale_dark`, and where too few pixels tell one.
    """
    import numpy as np

    from wbpy.kernels import calibration as kernels
    from wbpy.kernels import histograms

    height, width = light.shape
    out = np.empty(height * width, np.float32)
    cell = math.isqrt(len(calibration.planes))
    counts = np.zeros((cell * cell, histograms.SIZE), np.int64)
    # Half a million pixels stay in a core's cache from one pass over them to the next.
    rows = max(2, 500_000 // width)
    ranges = []
    nothing = np.empty(0, np.float32)
    scaled = calibration.thermal is not None
    for y in range(0, height, rows):
        end = min(height, y + rows)
        band = slice(y * width, end * width)
        subtract = calibration.subtract[band] if calibration.subtract.size else nothing
        # With a scaled dark the frame is needed whole, without bias, before the rest can be applied.
        gain = calibration.gain[band] if calibration.gain.size and not scaled else nothing
        stored = light.words(y, end)
        if stored is None:
            pixels = light.read(y, end)
            histograms.count_levels(pixels, y, cell, counts)
            if pedestal:
                pixels = pixels - np.float32(pedestal)
            kernels.calibrate_float(pixels.reshape(-1), subtract, gain, out[band])
        else:
            words, zero = stored
            kernels.count_words(words, width, y, cell, int(zero) - 32768 - histograms.FIRST, counts)
            kernels.calibrate_int16(words, np.float32(zero - pedestal), subtract, gain, out[band])
        if not scaled:
            ranges.append(kernels.value_range(out[band]))
    image = out.reshape(height, width)
    scale: float | None = None
    error: float | None = None
    told = 0
    if calibration.thermal is not None:
        scale, error, told = _dark_scale(params, image, calibration, exposure_ratio)
        thermal = calibration.thermal.reshape(-1)
        kernels.subtract_scaled(out, thermal, np.float32(scale), calibration.gain, out)
        ranges.append(kernels.value_range(out))
    planes = levels.from_counts(counts, calibration.planes)
    piles = [
        histograms.saturation(c, 1.4826 * plane.mad, _FEWEST_SATURATED) for c, plane in zip(counts, planes, strict=True)
    ]
    lowest_pile = min((_PILE * pile for pile in piles if not math.isnan(pile)), default=None)
    saturation = None
    if lowest_pile is not None:
        saturation = (lowest_pile - pedestal - calibration.level) * calibration.least_gain
    return Calibrated(
        image=image,
        dark_scale=scale,
        dark_scale_error=error,
        dark_pixels=told,
        saturation=saturation if saturation is not None and saturation > 0 else None,
        lowest=min(lowest for lowest, _, _ in ranges),
        highest=max(highest for _, highest, _ in ranges),
        below=sum(below for _, _, below in ranges),
        levels=planes,
    )


def _dark_scale(
    params: CalibrateParams, image: FloatArray, calibration: Calibration, exposure_ratio: float | None
) -> tuple[float, float | None, int]:
    """Return factor, error and number of pixels for a light without bias; too few pixels leave the exposures' ratio."""
    import numpy as np

    from wbpy.kernels import darkscale

    fallback = exposure_ratio if exposure_ratio is not None else 1.0
    if calibration.dark_set is None or calibration.thermal is None:
        return fallback, None, 0
    if params.optimize_by == "deviation":
        # X-Trans frames are binned by 3 (PCL 1.8.9), which mixes their colours as 2 does those of Bayer frames.
        cell = 3 if calibration.step == 6 else calibration.step
        found = darkscale.scale_by_deviation(
            image, calibration.thermal, cell, params.optimize_threshold, params.optimize_window
        )
    else:
        highest = _UNSATURATED * float(np.nanmax(image))
        found = darkscale.scale_by_contrast(image, calibration.dark_set, calibration.step, highest)
    if math.isnan(found.k):
        return fallback, None, 0
    return found.k, found.error, found.pixels


CALIBRATE = Stage(
    name="calibrate",
    version=3,
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
    findings=("CAL001", "CAL002", "CAL003", "CAL004", "CAL005", "CAL006", "CAL007", "CAL008", "CAL009", "OVS001"),
    memory=lambda height, width: 4 * height * width + 16_000_000,
)
