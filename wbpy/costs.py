"""What a plan costs: bytes, memory, disk and time, from the sizes of its frames and the rates of its stages.

The rates here were measured once and are the same everywhere, because a plan must not depend on where it is made.
What earlier runs measured on this machine stands in :mod:`wbpy.engine.speed` and replaces them where costs are shown.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from wbpy.config import RunSettings, memory_limit_bytes
from wbpy.model import Estimate, Frame, Group, Step
from wbpy.stages.base import Stage

NOMINAL_WORKERS = 4
"""Workers that the estimate assumes when the configuration leaves their number to the machine: a plan must not
depend on where it is made."""

PROGRAM_MEMORY = 350_000_000
"""Bytes that the interpreter, its libraries and the compiled kernels take."""

SECONDS_PER_MEGAPIXEL = {
    "masters": 0.010,
    "calibrate": 0.003,
    "cosmetic": 0.005,
    "measure": 0.015,
    "debayer": 0.006,
    "normalize": 0.007,
    "integrate": 0.018,
    "drizzle": 0.020,
}
"""Core-seconds per frame and megapixel (per plane for ``integrate``, of the output for ``drizzle``): rounded from
timings on one core of a 2.5 GHz server, reading included, of ten frames of 8 MP with winsorized rejection, local
normalization and the guided debayer, and of nights of 26 MP. Estimates for planning, good to a factor of two; other
stages handle tables."""

PLANES = {True: 3, False: 1}
"""Planes of an integration, by whether the frames have a CFA."""

PHASES = {
    "masters": "masters",
    "calibrate": "lights",
    "cosmetic": "lights",
    "measure": "lights",
    "reference": "registration",
    "register": "registration",
    "framing": "registration",
}
"""Stage -> the part of the work that its time is shown under; all others belong to the integrations."""


@dataclass(frozen=True)
class Forecast:
    """What a plan will cost on this machine."""

    seconds: float
    """From start to end."""
    phases: dict[str, float]
    """Part of the work -> seconds."""
    runs: int
    """Earlier runs on this machine that it rests on; 0: on rates of another machine."""
    workers: int
    disk_needed: int
    """Bytes that are still to be written: less what the output folder holds of an earlier run."""
    disk_free: int | None
    """Bytes on the disk of the output folder; None when the system does not say."""

    @property
    def short(self) -> bool:
        """True when the disk would fill up."""
        return self.disk_free is not None and self.disk_needed > self.disk_free

    @property
    def shares(self) -> list[tuple[str, float, float, float]]:
        """Part, its seconds, its share and the sum of the shares before it, for parts of at least 1 %."""
        total = sum(self.phases.values())
        shares = []
        start = 0.0
        for name, spent in self.phases.items():
            if total > 0 and spent / total >= 0.01:
                shares.append((name, spent, spent / total, start))
                start += spent / total
        return shares


def estimate(
    steps: Iterable[Step],
    groups: Mapping[str, Group],
    frames: Mapping[str, Frame],
    stages: Mapping[str, Stage],
    settings: RunSettings,
) -> Estimate:
    """Return what steps will cost, by the rates of this module.

    Parameters
    ----------
    steps : iterable of Step
        The steps of a plan.
    groups, frames : mapping
        By id and by path.
    stages : mapping of str to Stage
        By name: their working memory.
    settings : RunSettings
        Workers, memory limit and kept frames.
    """
    workers = settings.workers or NOMINAL_WORKERS
    steps = tuple(steps)
    by_id = {step.id: step for step in steps}
    # All drizzles of a plan have one scale.
    drizzles = [step for step in steps if step.stage == "drizzle"][:1]
    read = written = working = 0
    for step in steps:
        group = groups[step.group]
        members = [frames[path] for path in group.frames]
        pixels = [_pixels(frame) for frame in members]
        planes = PLANES[group.key.get("cfa") is not None]
        largest = max(members, key=_pixels)
        working = max(working, stages[step.stage].memory(largest.height or 0, largest.width or 0))
        if step.stage == "masters":
            # Flats are read twice: once for their levels.
            read += sum(frame.size for frame in members) * (2 if group.role == "flat" else 1)
            written += 4 * max(pixels)
        elif step.stage == "calibrate":
            read += sum(frame.size for frame in members)
            written += 4 * sum(pixels) * (1 + sum(kind in settings.keep for kind in ("calibrated", "cosmetic")))
        elif step.stage == "integrate":
            read += 4 * sum(pixels)
            # The product, the maps, and what is kept of each frame.
            maps = 2 + len(step.params["maps"].value)
            written += _picture_bytes(step, groups, frames) + maps * 4 * max(pixels) * planes
            written += 4 * sum(pixels) * planes * sum(kind in settings.keep for kind in ("debayered", "registered"))
        elif step.stage == "drizzle":
            read += 4 * sum(pixels)
            # The product and its weights, and the bits of the samples that the integration rejects.
            written += 2 * 4 * max(pixels) * planes * _drizzled(step) + sum(pixels) * planes // 8
        elif step.stage == "crop":
            made = [by_id[id] for sources in step.inputs.values() for id in sources]
            whole = sum(_picture_bytes(source, groups, frames) for source in made)
            read, written = read + whole, written + whole
        elif step.stage == "rgb":
            # Each picture in colour is as large as the three that it is made of.
            for output in step.outputs:
                if output.kind != "preview":
                    whole = 3 * 4 * max(pixels) * (_drizzled(*drizzles) if "drizzle" in output.kind else 1)
                    read, written = read + whole, written + whole
    peak = PROGRAM_MEMORY + workers * working
    if settings.memory_limit != "auto":
        peak = min(peak, memory_limit_bytes(settings.memory_limit))
    spent = sum(
        SECONDS_PER_MEGAPIXEL.get(stage, 0.0) * work for stage, work in megapixels(steps, groups, frames).items()
    )
    return Estimate(
        bytes_read=read,
        bytes_written=written,
        peak_memory=peak if steps else 0,
        seconds=round(spent / workers, 1),
    )


def megapixels(steps: Sequence[Step], groups: Mapping[str, Group], frames: Mapping[str, Frame]) -> dict[str, float]:
    """Return the work of each stage in frames x megapixels: of each plane to integrate, of the output to drizzle."""
    work: dict[str, float] = defaultdict(float)
    for step in steps:
        group = groups[step.group]
        planes = PLANES[group.key.get("cfa") is not None] if step.stage == "integrate" else 1
        planes *= _drizzled(step)
        work[step.stage] += planes * sum(_pixels(frames[path]) for path in group.frames) / 1e6
    return dict(work)


def _drizzled(step: Step) -> int:
    """Return the output pixels of a drizzle for each of the reference; 1 for other stages."""
    return int(step.params["scale"].value) ** 2 if step.stage == "drizzle" else 1


def _picture_bytes(step: Step, groups: Mapping[str, Group], frames: Mapping[str, Frame]) -> int:
    """Return the size of the pictures that an integration or a drizzle makes; one of a single colour has one plane."""
    group = groups[step.group]
    size = 4 * max(_pixels(frames[path]) for path in group.frames) * _drizzled(step)
    pictures = [output.name for output in step.outputs if output.kind in ("integration", "drizzle")]
    planes = PLANES[group.key.get("cfa") is not None]
    return sum(size * (1 if name.startswith("integration_") else planes) for name in pictures)


def _pixels(frame: Frame) -> int:
    return (frame.width or 0) * (frame.height or 0)
