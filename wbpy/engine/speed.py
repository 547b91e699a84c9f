"""How fast this machine is, by what earlier runs took, and whether its disk suffices.

The record is a small file in the user's cache folder: for each stage the core-seconds and the megapixels of past
runs, older runs counting for less. Nothing but the figures that are shown depends on it.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from wbpy.config import RunSettings
from wbpy.costs import PHASES, SECONDS_PER_MEGAPIXEL, Forecast, megapixels
from wbpy.io.products import write_atomic
from wbpy.model import Plan, Run

T = TypeVar("T")

FADING = 0.8
"""Weight of all earlier runs against the newest."""

PRIOR_SECONDS = 2.0
"""Core-seconds of work at the built-in rate that every stage is taken to have done before the first run: a run of a
few small frames must not decide what a night of large ones is expected to take."""

STARTUP = 5.0
"""Seconds to load the compiled kernels before the first run has measured them."""


class Speeds(msgspec.Struct, frozen=True, kw_only=True):
    """What runs on this machine took."""

    schema: int = 1
    runs: int = 0
    startup: float | None = None
    """Least number of seconds outside of all steps."""
    stages: dict[str, tuple[float, float]] = {}
    """Stage -> core-seconds, megapixels."""

    def rate(self, stage: str) -> float:
        """Return the core-seconds per megapixel of one stage."""
        built_in = SECONDS_PER_MEGAPIXEL.get(stage, 0.0)
        spent, work = self.stages.get(stage, (0.0, 0.0))
        if built_in == 0:
            # A table stage: its time follows the number of frames, of which the megapixels are a stand-in.
            return spent / (work + 100.0)
        return (spent + PRIOR_SECONDS) / (work + PRIOR_SECONDS / built_in)


def load_speeds(file: Path) -> Speeds:
    """Return the record, or an empty one where there is none that this version can read."""
    try:
        speeds = msgspec.json.decode(file.read_bytes(), type=Speeds)
    except (OSError, msgspec.DecodeError):
        # It is a cache: without it the built-in rates are shown, and named as such.
        return Speeds()
    numbers = [number for pair in speeds.stages.values() for number in pair]
    sound = speeds.schema == 1 and all(math.isfinite(number) and number >= 0 for number in numbers)
    return speeds if sound else Speeds()


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """Return what `work` returns and the seconds that it took."""
    started = time.monotonic()
    result = work()
    return result, time.monotonic() - started


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def record_run(file: Path, plan: Plan, run: Run, seconds: float) -> None:
    """Add what a run took to the record.

    Parameters
    ----------
    file : Path
        The record; made when missing.
    plan, run : Plan, Run
        What was executed and what became of it. Reused steps and frames tell nothing and are left out.
    seconds : float
        From start to end.

    Raises
    ------
    OSError
        If the record cannot be written.
    """
    if run.outcome in ("cancelled", "no_work"):
        return
    workers = _workers(plan)
    fresh = {step.id for step in run.steps if step.outcome in ("done", "partial")}
    reused = {frame.path for frame in run.frames if frame.outcome == "reused"}
    spent: dict[str, float] = defaultdict(float)
    for result in run.steps:
        if result.id in fresh:
            spent[result.id.partition("/")[0]] += result.seconds * workers
    groups = {
        group.id: msgspec.structs.replace(group, frames=tuple(path for path in group.frames if path not in reused))
        if group.kind == "calibration"
        else group
        for group in plan.groups
    }
    frames = {frame.path: frame for frame in plan.frames}
    work = megapixels([step for step in plan.steps if step.id in fresh], groups, frames)
    known = load_speeds(file)
    stages = {stage: (seconds * FADING, area * FADING) for stage, (seconds, area) in known.stages.items()}
    for stage, area in work.items():
        before = stages.get(stage, (0.0, 0.0))
        stages[stage] = (round(before[0] + spent[stage], 4), round(before[1] + area, 4))
    if not any(area > 0 for area in work.values()):
        return
    outside = max(0.0, seconds - sum(result.seconds for result in run.steps))
    startup = outside if known.startup is None else min(outside, known.startup)
    changed = Speeds(runs=known.runs + 1, startup=round(startup, 3), stages=dict(sorted(stages.items())))
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, msgspec.json.format(msgspec.json.encode(changed), indent=1) + b"\n")


def make_forecast(plan: Plan, file: Path) -> Forecast:
    """Return what a plan will cost on this machine.

    Parameters
    ----------
    plan : Plan
        What is to be done.
    file : Path
        The record of earlier runs.
    """
    speeds = load_speeds(file)
    workers = _workers(plan)
    groups = {group.id: group for group in plan.groups}
    frames = {frame.path: frame for frame in plan.frames}
    phases: dict[str, float] = defaultdict(float)
    for stage, work in megapixels(plan.steps, groups, frames).items():
        phases[PHASES.get(stage, "integrations")] += speeds.rate(stage) * work / workers
    startup = STARTUP if speeds.startup is None else speeds.startup
    out = Path(plan.out)
    return Forecast(
        seconds=sum(phases.values()) + (startup if plan.steps else 0.0),
        phases=dict(phases),
        runs=speeds.runs,
        workers=workers,
        disk_needed=max(0, plan.estimate.bytes_written - _written_before(out)),
        disk_free=_free(out),
    )


def checks_disk(plan: Plan) -> bool:
    """Return whether a run of this plan is to be refused when the disk would fill up."""
    param = plan.settings.get("run", {}).get("check_disk")
    return RunSettings().check_disk if param is None else bool(param.value)


def _workers(plan: Plan) -> int:
    """Return the threads of a run: as the plan says, else one for each core."""
    param = plan.settings.get("run", {}).get("workers")
    return int(param.value) if param is not None and param.value else cores()


def _written_before(out: Path) -> int:
    """Return the bytes in the folders that a run fills: an interrupted run does not need their space again."""
    total = 0
    for name in (".store", "masters", "integrations", "frames"):
        for path in (out / name).rglob("*"):
            try:
                total += path.stat().st_size if path.is_file() else 0
            except OSError:
                continue  # a temporary file that vanished
    return total


def _free(folder: Path) -> int | None:
    """Return the free bytes on the disk of a folder, which need not exist yet."""
    for parent in (folder, *folder.parents):
        if parent.exists():
            try:
                return shutil.disk_usage(parent).free
            except OSError:
                return None
    return None
