"""Look at what was read and made: the checks on each set of calibration frames and on each group of lights.

The statistics of every frame and the observations about every group are records of the store, so that a run that
reuses its results says the same again without reading a pixel.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from wbpy.engine.context import Context, FrameReader
from wbpy.engine.results import cfa_matrix
from wbpy.engine.store import make_key
from wbpy.errors import ReadError
from wbpy.model import Frame, Group, Step
from wbpy.stages import checks, levels
from wbpy.stages.checks import FrameStatistics, Measured, Observation
from wbpy.stages.debayer import BAYER_LETTERS
from wbpy.stages.levels import PlaneLevels

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from wbpy.engine.results import MasterFile, Treated

_VERSION = 6
"""Raised whenever the statistics or the observations change."""
_ALIKE = ("camera", "gain", "offset", "iso", "xbinning", "ybinning", "width", "height")
"""What two groups share whose levels may be compared."""
_FEW = 3
"""Raw lights that are measured beside each set."""


def check_set(context: Context, step: Step) -> None:
    """Report what the frames of a step's calibration group show."""
    group = context.groups[step.group]
    frames = measured(context, group.frames)
    if not frames:
        return
    bias = [] if group.role == "bias" else _companion(context, group, "bias")
    offset = _level(bias)
    saturation = None
    seen: list[Observation] = []
    if group.role == "flat":
        calibration = {
            name: (source, _of_source(context, source))
            for name in ("flat_dark", "dark", "bias")
            for source in step.inputs.get(name, ())
        }
        sets = {name: (source, found) for name, (source, found) in calibration.items() if found}
        offset = next((_level(found) for _, found in sets.values()), offset)
        saturation = checks.saturation_level([*frames, *_companion(context, group, "light", _FEW)])
        seen += checks.compare_sets(context.rules, group.id, frames[:_FEW], sets)
        if "bias" in sets and "flat_dark" not in sets:
            darks = _companion(context, group, "flat_dark") or _companion(context, group, "dark")
            seen += checks.flat_dark_needed(context.rules, group.id, frames, sets["bias"][1], darks)
    if group.role == "dark":
        seen += checks.amplifier_glow(context.rules, group.id, frames, bias)
    seen += checks.check_set(context.rules, group.id, frames, offset_dn=offset, saturation_dn=saturation)
    _report(context, seen)


def check_lights(
    context: Context, steps: Mapping[str, Step], done: Mapping[str, MasterFile], treated: Mapping[str, Treated]
) -> None:
    """Report what the raw and the treated lights of a group show beside the masters that calibrated them."""
    step = steps["calibrate"]
    group = context.groups[step.group]
    lights = [treated[path] for path in group.frames if path in treated]
    if not lights:
        return
    sources = {name: source for name in ("dark", "bias", "flat") for source in step.inputs.get(name, ())}
    sets = {name: (source, _of_source(context, source)) for name, source in sources.items()}
    raw = measured(context, _few(group.frames, _FEW))
    seen = checks.compare_sets(context.rules, group.id, raw, {name: pair for name, pair in sets.items() if pair[1]})
    for source in sources.values():
        found = context.groups.get(source)
        if found is not None and found.is_master and found.role in ("dark", "bias", "flat_dark"):
            bias = _level(_companion(context, found, "bias")) if found.role != "bias" else None
            seen += checks.pre_calibrated(context.rules, measured(context, found.frames), bias)
    few = _few(lights, checks.MOST_LIGHTS)
    offset = _level(_companion(context, group, "bias"))
    key = make_key(
        "checks",
        _VERSION,
        offset,
        [light.key for light in few],
        [[name, done[source].key] for name, source in sorted(sources.items()) if source in done],
        {id: rule.limits for id, rule in context.rules.findings.items() if id.startswith("CHK")},
    )
    known = context.store.record(key)
    if known is None:
        masters = {name: done[source].read() for name, source in sources.items() if source in done}
        found_out = checks.examine_lights(
            context.rules,
            group.id,
            _pixels(few),
            few[0].frame.cfa,
            flat=masters.get("flat"),
            dark=masters.get("dark"),
            bias=masters.get("bias"),
            offset_dn=offset,
            # Each light under way stands in memory, and one that was read ahead.
            spread=functools.partial(context.map, limit=context.workers + 1),
        )
        context.store.put_record(key, {"seen": [[one.id, one.subject, one.evidence] for one in found_out]})
    else:
        found_out = [Observation(*one) for one in known[0]["seen"]]
    seen += found_out
    seen += _noise_of_masters(context, group, few[0], sources, sets)
    _report(context, seen)


def _noise_of_masters(
    context: Context,
    group: Group,
    light: Treated,
    sources: Mapping[str, str],
    sets: Mapping[str, tuple[str, list[Measured]]],
) -> list[Observation]:
    """Return what the noise of the masters that this run made is beside that of a light."""

    def raw(name: str) -> list[FrameStatistics]:
        made = name in sources and sources[name] in context.steps
        return [one.statistics for one in sets[name][1]] if made else []

    offset = raw("dark") or raw("bias")
    # The statistics of an X-Trans frame are those of all colours together: in a flat they tell no noise.
    mixed = light.frame.cfa is not None and len(light.frame.cfa) > BAYER_LETTERS
    flats = [] if mixed else raw("flat")
    base = _level(_companion(context, group, "bias")) or 0.0
    return checks.masters_noise(
        context.rules,
        group.id,
        min(light.measurement.noise),
        max(light.measurement.background),
        (offset[0].noise, len(offset)) if offset else None,
        (flats[0].noise, flats[0].level - base, len(flats)) if flats else None,
    )


def _pixels(lights: Sequence[Treated]) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    for light in lights:
        height, width = light.image.shape
        yield light.frame.path, light.image.read(0, height, 0, width)


def _report(context: Context, seen: Sequence[Observation]) -> None:
    said = {(finding.id, finding.subject) for finding in context.findings}
    # What the plan told from the headers is not told again from the frames.
    said |= {("CHK011", subject) for id, subject in said if id == "MAT016"}
    for one in seen:
        if (one.id, one.subject) not in said:
            said.add((one.id, one.subject))
            context.find(one.id, one.subject, **one.evidence)


def _few(items: Sequence[Any], most: int) -> list[Any]:
    """Return at most `most` items, evenly spread, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(number * (len(items) - 1) / (most - 1))] for number in range(most)]


def _of_source(context: Context, source: str) -> list[Measured]:
    group = context.groups.get(context.steps[source].group if source in context.steps else source)
    return [] if group is None else measured(context, group.frames)


def _companion(context: Context, group: Group, role: str, most: int = 1000) -> list[Measured]:
    """Return frames of a role that were taken with the camera and the settings of `group`; empty if there are none."""
    own = context.frames[group.frames[0]]
    for other in context.groups.values():
        if other.kind != "calibration" or other.role != role or other.is_master:
            continue
        first = context.frames[other.frames[0]]
        if all(getattr(first, field) == getattr(own, field) for field in _ALIKE):
            return measured(context, _few(other.frames, most))
    return []


def _level(frames: Sequence[Measured]) -> float | None:
    import numpy as np

    return float(np.median([one.statistics.level for one in frames])) if frames else None


def measured(context: Context, paths: Sequence[str]) -> list[Measured]:
    """Return the frames that can be read with their statistics, in order."""
    frames = [context.frames[path] for path in paths if path in context.frames]
    found = context.map(lambda frame: _statistics(context, frame), frames)
    return [Measured(frame, numbers) for frame, numbers in zip(frames, list(found), strict=True) if numbers is not None]


def table_rows(one: Measured) -> list[tuple[str | float | int, ...]]:
    """Return the rows of a frame in the table of statistics, one for each plane."""
    names = levels.plane_names(cfa_matrix(one.frame))
    # Of X-Trans frames the table has one row.
    planes = one.statistics.planes if len(names) > 1 else (one.statistics.whole,)
    return [
        PlaneLevels(
            name, plane.mean, plane.median, plane.mad, plane.minimum, plane.maximum, plane.at_zero, plane.high
        ).row()
        for name, plane in zip(names, planes, strict=True)
    ]


def _statistics(context: Context, frame: Frame) -> FrameStatistics | None:
    try:
        key = make_key("statistics", _VERSION, context.digest(frame.path), frame.dn_per_unit, frame.cfa)
        known = context.store.record(key)
        if known is not None:
            return msgspec.convert(known[0], FrameStatistics)
        numbers = checks.measure_frame(FrameReader(frame, context.store), frame.cfa)
    except (ReadError, OSError):
        # The step that needs this frame reports it.
        return None
    context.store.put_record(key, msgspec.to_builtins(numbers))
    return numbers
