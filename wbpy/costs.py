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
    "masters": 0.020,
    "calibrate": 0.006,
    "cosmetic": 0.006,
    "measure": 0.030,
    "debayer": 0.030,
    "integrate": 0.035,
}
"""Core-seconds per frame and megapixel (per plane for ``integrate``): rounded from kernel timings on one core of a
2.5 GHz server, reading included. Estimates for planning, good to a factor of two; other stages handle tables."""

PLANES = {True: 3, False: 1}
"""Planes of an integration, by whether the frames have a CFA."""

PHASES = {
    "masters": "masters",
    "calibrate": "lights",
    "cosmetic": "lights",
    "measure": "lights",
    "reference": "registration",
    "register": "registration",
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
            # The product, two rejection maps, and what is kept of each frame.
            written += 3 * 4 * max(pixels) * planes
            written += 4 * sum(pixels) * planes * sum(kind in settings.keep for kind in ("debayered", "registered"))
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
    """Return the work of each stage in frames x megapixels; for ``integrate`` each plane counts."""
    work: dict[str, float] = defaultdict(float)
    for step in steps:
        group = groups[step.group]
        planes = PLANES[group.key.get("cfa") is not None] if step.stage == "integrate" else 1
        work[step.stage] += planes * sum(_pixels(frames[path]) for path in group.frames) / 1e6
    return dict(work)


def _pixels(frame: Frame) -> int:
    return (frame.width or 0) * (frame.height or 0)
