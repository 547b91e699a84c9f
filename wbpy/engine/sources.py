"""Open what a step reads: raw frames and the masters that serve them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from wbpy.engine import overscanning
from wbpy.engine.context import Context, FrameReader
from wbpy.engine.overscanning import RawReader
from wbpy.engine.results import MasterFile
from wbpy.engine.store import make_key
from wbpy.errors import ReadError
from wbpy.model import Frame, Group, Step
from wbpy.stages.calibrate import is_pre_calibrated

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def readable(context: Context, paths: Sequence[str], finding: str) -> list[RawReader]:
    """Return readers for the files that open; the others become findings."""
    readers: list[RawReader] = []
    for path in paths:
        frame = context.frames[path]
        try:
            reader = overscanning.open_raw(context, frame)
        except ReadError as error:
            context.find(finding, path, reason=str(error))
            context.frame_result(path, outcome="failed", excluded_by=finding)
            continue
        if reader is None:
            use = context.plan.settings["overscan"]["use"].value
            context.find(overscanning.MISSING, path, width=frame.width, height=frame.height, use=use)
            context.frame_result(path, outcome="failed", excluded_by=overscanning.MISSING)
        else:
            readers.append(reader)
    return readers


def provide(context: Context, source: str, done: dict[str, MasterFile]) -> MasterFile | None:
    """Return the master that a step or a group of one provides; None when its step failed."""
    if source in done:
        return done[source]
    if source not in context.groups:
        return None
    group: Group = context.groups[source]
    frame = context.frames[group.frames[0]]
    try:
        FrameReader(frame)
    except ReadError as error:
        context.find("MAS001", frame.path, reason=str(error))
        return None
    done[source] = MasterFile(
        Path(frame.path),
        make_key(context.digest(frame.path), frame.dn_per_unit, frame.pedestal),
        frame.dn_per_unit,
        frame.pedestal or 0.0,
        math.nan,
        *exposure_and_temperature([frame]),
        fit=lambda image: overscanning.read_master(context, frame, image),
    )
    return done[source]


_SETTINGS = ("camera", "gain", "offset", "iso", "xbinning", "ybinning", "width", "height")
"""What two frames share whose levels may be compared."""


def same_settings(one: Frame, other: Frame) -> bool:
    """Return whether two frames were taken with one camera at the same settings, so that their levels compare."""
    return all(getattr(one, field) == getattr(other, field) for field in _SETTINGS)


def lacks_bias(
    context: Context, step: Step, dark: MasterFile, bias: MasterFile | None, done: dict[str, MasterFile], use: str
) -> bool:
    """Report a dark from which the bias was subtracted before, and return whether it is one.

    Only frames with a known bias level can tell: a camera without offset has darks near zero too.

    Parameters
    ----------
    context : Context
        The execution.
    step : Step
        The step that would use the dark.
    dark : MasterFile
        A dark or a flat-dark.
    bias : MasterFile, optional
        The bias that is used with it; without one, any bias frames of the same camera and settings tell.
    done : dict of str to MasterFile
        Masters by step id; masters found on disk are added.
    use : str
        What the dark is for, in words.
    """
    if overscanning.in_use(context):
        # All frames lost their level, and what is left of it tells nothing.
        return False
    bias_dn = _bias_level(context, step, done) if bias is None else _master_level(context, bias)
    dark_dn = _master_level(context, dark)
    if bias_dn is None or not is_pre_calibrated(dark_dn, bias_dn):
        return False
    context.find("CAL006", step.id, dark=dark.path.name, dark_dn=dark_dn, bias_dn=bias_dn, use=use)
    return True


def _master_level(context: Context, master: MasterFile) -> float:
    return master.level if master.level is not None else _level(context, master.key, master.read)


def _level(context: Context, key: str, read: Callable[[], npt.NDArray[np.float32]]) -> float:
    """Return the median of an image, measured once; `key` tells which image it is."""
    own = make_key("level", key)
    known = context.store.record(own)
    if known is not None:
        return float(known[0]["level_dn"])
    level = finite_median(read())
    context.store.put_record(own, {"level_dn": level})
    return level


def _bias_level(context: Context, step: Step, done: dict[str, MasterFile]) -> float | None:
    """Return the level of bias frames of a group's camera and settings, whether this plan uses them or not."""
    own = context.frames[context.groups[step.group].frames[0]]
    for group in context.groups.values():
        frame = context.frames[group.frames[0]]
        if group.kind != "calibration" or group.role != "bias" or not same_settings(frame, own):
            continue
        made = next((done[one.id] for one in context.steps.values() if one.group == group.id and one.id in done), None)
        if group.is_master:
            made = provide(context, group.id, done)
        if made is not None:
            return _master_level(context, made)
        try:
            reader = FrameReader(frame, context.store)
            key = make_key(context.digest(frame.path), frame.dn_per_unit)
            whole = partial(reader.read, 0, reader.shape[0])
            return _level(context, key, whole) - (frame.pedestal or 0.0)
        except ReadError:
            # Another set of bias frames may tell; the step that needs this frame reports it.
            continue
    return None


def exposure_and_temperature(frames: Sequence[Frame]) -> tuple[float | None, float | None]:
    """Return the median exposure, s, and the mean temperature, degC, of frames that say them."""
    exposures = sorted(frame.exposure for frame in frames if frame.exposure is not None)
    temperatures = [frame.temp_ccd for frame in frames if frame.temp_ccd is not None]
    exposure = exposures[len(exposures) // 2] if exposures else None
    return exposure, sum(temperatures) / len(temperatures) if temperatures else None


def finite_median(image: npt.NDArray[np.float32]) -> float:
    """Return the median of the pixels that are finite."""
    from wbpy.kernels import statistics

    return statistics.median(image.reshape(-1))
