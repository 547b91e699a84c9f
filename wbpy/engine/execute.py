"""Execute a plan: each step in order, failures kept to what depends on them, everything recorded."""

from __future__ import annotations

import contextlib
import errno
import platform
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from wbpy.config import RunSettings, memory_limit_bytes, store_limit_bytes
from wbpy.engine import checking, memory
from wbpy.engine.approving import approve_lights
from wbpy.engine.cataloguing import list_stars
from wbpy.engine.context import Context
from wbpy.engine.drizzling import drizzle_lights
from wbpy.engine.events import Listener
from wbpy.engine.finishing import combine_colours, crop_pictures
from wbpy.engine.framing import frame_lights
from wbpy.engine.integrating import integrate_lights
from wbpy.engine.logfile import LogFiles
from wbpy.engine.mastering import make_master
from wbpy.engine.normalizing import normalize_lights
from wbpy.engine.products import version
from wbpy.engine.registering import choose_reference, register_lights
from wbpy.engine.results import Decisions, MasterFile, Treated
from wbpy.engine.speed import cores
from wbpy.engine.treating import treat_lights
from wbpy.engine.warmup import warm_up
from wbpy.engine.weighing import weigh_lights
from wbpy.errors import BusyError, Cancelled
from wbpy.io.products import write_atomic
from wbpy.model import Outcome, Plan, Run, Step, StepResult, encode
from wbpy.rules import Rules

LOCK = ".lock"
"""File in the output folder that a run holds while it works."""


def execute(
    plan: Plan,
    rules: Rules,
    *,
    out: Path | None = None,
    listeners: Sequence[Listener] = (),
    cancel: threading.Event | None = None,
) -> Run:
    """Execute `plan` and return the record of it, which is also written to ``OUT/run.json``.

    Parameters
    ----------
    plan : Plan
        What is to be done; nothing else is.
    rules : Rules
        Wording and limits of the findings.
    out : Path, optional
        Output folder; the plan's own by default.
    listeners : sequence of callables
        Receive every event; called from several threads, one at a time.
    cancel : threading.Event, optional
        Set it to stop; finished work is kept and the record says ``cancelled``.

    Returns
    -------
    Run
        Whose outcome is the worst of its steps': failed and blocked steps make it ``failed`` when no product came
        out, else ``partial``.

    Raises
    ------
    BusyError
        If another run is working in the output folder.
    """
    out = Path(plan.out) if out is None else Path(out).absolute()
    out.mkdir(parents=True, exist_ok=True)
    with _alone(out):
        return _execute(plan, rules, out, listeners, cancel or threading.Event())


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Keep other runs out of an output folder; the system drops the lock of a process that was killed."""
    from filelock import FileLock, Timeout

    lock = FileLock(out / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise BusyError(
            f"{out}: another run is working in this folder; wait for its end, or choose another folder with -o"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _execute(plan: Plan, rules: Rules, out: Path, listeners: Sequence[Listener], cancel: threading.Event) -> Run:
    log = LogFiles(out / "logs", time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()))
    settings = plan.settings["run"]
    workers = settings["workers"].value or cores()
    limit = memory_limit_bytes(settings["memory_limit"].value)
    try:
        log.write_plan(plan)
        with memory.kept(), ThreadPoolExecutor(workers, thread_name_prefix="wbpy") as pool:
            context = Context(plan, rules, out, pool, workers, limit, [log, *listeners], cancel)
            run = _walk(context, str(log.path))
            log.write_run(run)
            return run
    finally:
        log.close()


def _walk(context: Context, log: str) -> Run:
    plan = context.plan
    done: dict[str, MasterFile] = {}
    treated: dict[str, Treated] = {}
    decisions = Decisions()
    results: list[StepResult] = []
    cancelled = False
    context.emit(
        "run_started",
        message=f"{len(plan.steps)} steps, {context.workers} workers, at most {context.memory / 1e9:.1f} GB of memory",
        total=len(plan.steps),
    )
    if plan.steps:
        warm_up(context)
    for step in plan.steps:
        started = time.monotonic()
        context.emit("step_started", step=step.id, stage=step.stage)
        try:
            context.check_cancelled()
            outcome, why = _dispatch(context, step, done, treated, decisions, results)
        except (Cancelled, KeyboardInterrupt):
            outcome, why, cancelled = "cancelled", "stopped by the user", True
        except OSError as error:
            # The disk is full, a folder is not writable: what does not need this step goes on.
            full = error.errno == errno.ENOSPC
            context.find(
                "ENG002", step.id, reason=str(error), disk="the disk is full" if full else "not the disk space"
            )
            outcome, why = "failed", str(error)
        except Exception as error:  # noqa: BLE001 - a defect in one step must not cost the rest of the night
            context.find("ENG001", step.id, reason=f"{type(error).__name__}: {error}")
            context.say(traceback.format_exc(), step)
            outcome, why = "failed", f"{type(error).__name__}: {error}"
        seconds = time.monotonic() - started
        if step.stage not in ("calibrate", "linedefects", "cosmetic", "measure"):
            context.timings[step.stage] += seconds
        results.append(StepResult(id=step.id, outcome=outcome, seconds=round(seconds, 3), why=why))
        context.emit("step_finished", step=step.id, stage=step.stage, outcome=outcome, message=why)
        if cancelled:
            break
    if not cancelled and results:
        _report_leftovers(context)
    run = Run(
        outcome="cancelled" if cancelled else _overall(results, bool(context.products), _lost_inputs(plan)),
        products=tuple(context.products),
        frames=tuple(context.frame_results[path] for path in sorted(context.frame_results)),
        steps=tuple(results),
        findings=tuple(context.findings),
        timings={stage: round(seconds, 3) for stage, seconds in context.timings.items()},
        versions=_versions(),
        log=log,
    )
    write_atomic(context.out / "run.json", encode(run))
    if not cancelled:
        _shrink_store(context)
    closing = "Run the same command again to go on: finished work is kept." if cancelled else ""
    context.emit("run_finished", outcome=run.outcome, message=closing)
    return run


def _shrink_store(context: Context) -> None:
    """Keep the store within its limit, and say what that took."""
    # Plans of earlier versions do not hold the setting.
    param = context.plan.settings["run"].get("store_limit")
    text = RunSettings().store_limit if param is None else str(param.value)
    limit = store_limit_bytes(text)
    removed, freed, left = context.store.shrink(limit)
    if removed:
        context.say(
            f"Intermediate results removed from .store because this run did not use them: {removed}, "
            f"{freed / 1e9:.3g} GB; {left / 1e9:.3g} GB stay (run.store_limit {text})",
            removed=removed,
            freed_bytes=freed,
            left_bytes=left,
        )
    if left > limit:
        context.say(
            f".store holds {left / 1e9:.3g} GB, more than run.store_limit {text}, because this run used all of it; "
            "delete the folder when the pictures are as you want them, or raise the limit",
            left_bytes=left,
        )


def _dispatch(
    context: Context,
    step: Step,
    done: dict[str, MasterFile],
    treated: dict[str, Treated],
    decisions: Decisions,
    results: list[StepResult],
) -> tuple[Outcome, str]:
    broken = _broken_decision(context, step, {result.id: result.outcome for result in results})
    if broken is not None:
        return "blocked", f"{broken} failed"
    if step.stage == "masters":
        made = make_master(context, step, done)
        with _counted_apart(context, step):
            checking.check_set(context, step)
        return made
    if step.stage == "calibrate":
        fused_steps = _fused(context.plan, step)
        made = treat_lights(context, fused_steps, done, treated)
        with _counted_apart(context, step):
            checking.check_lights(context, fused_steps, done, treated)
        return made
    if step.stage in ("linedefects", "cosmetic", "measure"):
        # Done together with the calibration of the same lights, in one reading.
        fused = next(r for r in results if r.id == f"calibrate/{step.group}")
        return fused.outcome, f"together with {fused.id}"
    if step.stage == "approve":
        return approve_lights(context, step, treated, decisions)
    if step.stage == "reference":
        return choose_reference(context, step, treated, decisions)
    if step.stage == "register":
        return register_lights(context, step, treated, decisions)
    if step.stage == "framing":
        return frame_lights(context, step, treated, decisions)
    if step.stage == "normalize":
        return normalize_lights(context, step, treated, decisions)
    if step.stage == "weigh":
        return weigh_lights(context, step, treated, decisions)
    if step.stage == "debayer":
        return "done", "tile by tile during the integration"
    if step.stage == "integrate":
        return integrate_lights(context, step, _upstream(context.plan, step), treated, decisions)
    if step.stage == "drizzle":
        return drizzle_lights(context, step, _upstream(context.plan, step), treated, decisions)
    if step.stage == "photometry":
        return list_stars(context, step)
    if step.stage == "crop":
        return crop_pictures(context, step, treated, decisions)
    if step.stage == "rgb":
        return combine_colours(context, step, treated, decisions)
    raise ValueError(f"{step.id}: no such stage in this version: {step.stage}")


def _broken_decision(context: Context, step: Step, outcomes: Mapping[str, Outcome]) -> str | None:
    """Return the id of a step that failed and decides for the given one, by way of others too; None without one.

    What it left behind is not taken for a decision: half of the lights registered, the others still on the grid that
    was to be replaced, or all approved.
    """
    for source in dict.fromkeys(source for names in step.inputs.values() for source in names):
        if source in outcomes and source.split("/")[0] in DECISIONS:
            broken = source if outcomes[source] == "failed" else None
            broken = broken or _broken_decision(context, context.steps[source], outcomes)
            if broken is not None:
                return broken
    return None


@contextlib.contextmanager
def _counted_apart(context: Context, step: Step) -> Iterator[None]:
    """Count the time that the block takes as that of the checks, not of the step's stage."""
    started = time.monotonic()
    try:
        yield
    finally:
        seconds = time.monotonic() - started
        context.timings["checks"] += seconds
        if step.stage == "masters":
            context.timings["masters"] -= seconds


def _fused(plan: Plan, first: Step) -> dict[str, Step]:
    """Return the per-light steps of one group: calibrate, cosmetic, measure."""
    return {step.stage: step for step in plan.steps if step.group == first.group and step.stage != "masters"}


def _upstream(plan: Plan, last: Step) -> list[Step]:
    """Return the steps that lead to `last`, in order, masters left out, one per stage, `last` included.

    The step that stands for several of a stage carries what was decided by hand about any of them.
    """
    by_id = {step.id: step for step in plan.steps}
    wanted = {last.id}
    queue = [last]
    while queue:
        for sources in queue.pop().inputs.values():
            for source in sources:
                if source in by_id and source not in wanted:
                    wanted.add(source)
                    queue.append(by_id[source])
    chain: dict[str, Step] = {}
    for step in plan.steps:
        if step.id in wanted and step.stage != "masters":
            first = chain.setdefault(step.stage, step)
            notes = tuple(dict.fromkeys((*first.notes, *step.notes)))
            chain[step.stage] = msgspec.structs.replace(first, notes=notes)
    return list(chain.values())


def _report_leftovers(context: Context) -> None:
    """Report files that earlier runs made and this plan does not; they are left alone."""
    planned = {
        context.path_of(output) for step in context.plan.steps for output in step.outputs if output.path is not None
    }
    found = [
        path
        for folder in ("masters", "integrations")
        if (context.out / folder).is_dir()
        for path in sorted((context.out / folder).iterdir())
        if path.is_file() and path not in planned and not path.name.startswith(".")
    ]
    if found:
        names = [path.name for path in found[:LISTED]]
        more = [f"and {len(found) - LISTED} more"] if len(found) > LISTED else []
        context.find("ENG003", str(context.out), count=len(found), names=", ".join([*names, *more]))


def _lost_inputs(plan: Plan) -> bool:
    """Return whether the plan had to go without a file that could not be read."""
    held_back = {held.path for held in plan.held_back}
    return any(f.severity == "error" and f.subject in held_back for f in plan.findings)


LISTED = 5
"""Names of files of earlier runs in a finding."""

DECISIONS = ("approve", "reference", "register", "framing", "normalize", "weigh", "debayer")
"""Stages whose results are tables, or nothing, which every run works out again from what is kept."""


def _overall(results: Sequence[StepResult], products: bool, lost_inputs: bool) -> Outcome:
    outcomes = {result.outcome for result in results}
    if not outcomes:
        return "no_work"
    if outcomes & {"failed", "blocked"}:
        return "partial" if products else "failed"
    if "partial" in outcomes or lost_inputs:
        return "partial"
    kept = {result.outcome for result in results if result.id.split("/")[0] not in DECISIONS}
    return "reused" if kept - {"no_work"} == {"reused"} else "done"


def _versions() -> dict[str, str]:
    from importlib.metadata import version as installed

    names = ("numpy", "numba", "scipy", "astropy", "pandas")
    found = {name: installed(name) for name in names}
    return {"wbpy": version(), "python": platform.python_version(), "platform": platform.platform(), **found}
