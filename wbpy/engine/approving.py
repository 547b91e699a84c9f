"""Judge the measured lights: those beyond a limit are excluded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wbpy.engine.context import Context
from wbpy.engine.registering import find_transform
from wbpy.engine.results import Decisions, Treated
from wbpy.errors import ReadError
from wbpy.io.approval import read_list, write_rows
from wbpy.model import Frame, Outcome, Step
from wbpy.stages import approve, normalize, reference
from wbpy.stages.approve import ApproveParams, Candidate, Verdict
from wbpy.stages.measure import Measurement
from wbpy.stages.reference import ReferenceParams
from wbpy.stages.register import Transform

if TYPE_CHECKING:
    pass


def approve_lights(
    context: Context, step: Step, treated: dict[str, Treated], decisions: Decisions
) -> tuple[Outcome, str]:
    """Judge the lights of an integration group; those beyond a limit or not on the user's list are excluded."""
    params = context.params(step, ApproveParams)
    paths = [path for path in context.groups[step.group].frames if path in treated]
    if not paths:
        return "blocked", "no light was treated"
    listed: dict[str, bool] = {}
    if params.list:
        try:
            listed = read_list(Path(params.list), list(context.frames))
        except ReadError as error:
            context.find("APP005", step.id, list=params.list, reason=str(error))
            decisions.excluded |= dict.fromkeys(paths, "APP005")
            return "failed", f"{params.list}: {error}"
    fluxes = _fluxes(context, step, [treated[path] for path in paths])
    lights = [_candidate(treated[path], fluxes[path], listed.get(path)) for path in paths]
    limits = {name: context.rules.findings[id].limits for name, id in approve.NAMED.items()}
    verdicts, unusable = approve.run(params, lights, limits)
    for metric in unusable:
        context.find("APP004", step.id, metric=metric)
    excluded = 0
    for path, light, verdict in zip(paths, lights, verdicts, strict=True):
        known = {**verdict.values, **context.frame_results[path].measurements}
        context.frame_result(path, measurements=known)
        for name, evidence in verdict.names.items():
            context.find(approve.NAMED[name], path, **evidence)
        id = None
        if not verdict.approved:
            excluded += 1
            id = "APP002" if verdict.metric is None else "APP001"
            if verdict.metric is None:
                context.find(id, path, list=params.list)
            else:
                compared = sum(other.comparable == light.comparable for other in lights)
                context.find(
                    id,
                    path,
                    metric=verdict.metric,
                    value=verdict.values[verdict.metric],
                    limit=verdict.limit,
                    rule=verdict.rule,
                    lights=compared,
                )
            decisions.excluded[path] = id
            context.frame_result(path, weight=0.0, excluded_by=id)
        decisions.approval.append(_approval_row(step, path, verdict, id))
    _report_field(context, step, [treated[path].measurement for path in paths])
    limit = context.rules.findings["APP003"].limits["share"]
    if excluded > limit * len(paths):
        context.find("APP003", step.id, excluded=excluded, lights=len(paths), limit_percent=100 * limit)
    target = context.out / "approval.csv"
    if not params.list or Path(params.list).resolve() != target.resolve():
        write_rows(target, decisions.approval)
    return "done", f"{len(paths) - excluded} of {len(paths)} lights approved"


def _report_field(context: Context, step: Step, measurements: Sequence[Measurement]) -> None:
    """Say how sharpness and roundness change across the field in the middle light of a group."""
    import numpy as np

    from wbpy.kernels import statistics

    def middle(values: Any) -> Any:
        return statistics.median_of_known(np.array(values, np.float64))

    def rows(cells: Any) -> str:
        return " | ".join(" ".join(f"{value:.2f}" for value in row) for row in cells.reshape(3, 3))

    widths = middle([m.fwhm_map for m in measurements])
    shapes = middle([m.eccentricity_map for m in measurements])
    tilt, curvature = middle([(m.tilt, m.curvature) for m in measurements]).tolist()
    if not np.isfinite(widths).any():
        return
    data = {f"fwhm_r{i // 3}c{i % 3}_px": float(value) for i, value in enumerate(widths) if np.isfinite(value)}
    context.say(f"Field, rows from the top: FWHM {rows(widths)} px; eccentricity {rows(shapes)}", step, **data)
    limits = context.rules.findings["MEA002"].limits
    if tilt > limits["tilt"] or abs(curvature) > limits["curvature"]:
        context.find(
            "MEA002",
            step.id,
            lights=len(measurements),
            tilt_percent=100 * tilt,
            curvature_percent=100 * curvature,
            fwhm_map=rows(widths),
        )


def _fluxes(context: Context, step: Step, lights: Sequence[Treated]) -> dict[str, float | None]:
    """Return the flux of each light's stars over that in the best light, by path; None where no pattern matches.

    The best light is most often the registration reference too, so that the transforms found here are used again.
    """
    import numpy as np

    names = [light.frame.path for light in lights]
    best = reference.run(ReferenceParams(), names, [light.measurement for light in lights])
    follows = next((s for s in context.plan.steps if s.stage == "register" and _share(context, s, step)), None)
    if best is None or follows is None:
        return dict.fromkeys(names)
    leader = lights[best.index]
    at = Transform(np.eye(3), 0.0, 0, "identity")
    found = context.map(lambda light: find_transform(context, follows, leader, light), lights)
    fluxes: dict[str, float | None] = {}
    for light, transform in zip(lights, found, strict=True):
        fluxes[light.frame.path] = None
        if isinstance(transform, Transform):
            scale, stars = normalize.star_scale(leader.measurement, at, light.measurement, transform)
            fluxes[light.frame.path] = 1 / scale if stars else None
    return fluxes


def _share(context: Context, one: Step, other: Step) -> bool:
    return not set(context.groups[one.group].frames).isdisjoint(context.groups[other.group].frames)


def _candidate(light: Treated, flux: float | None, listed: bool | None) -> Candidate:
    from datetime import datetime

    frame = light.frame
    return Candidate(
        measurement=light.measurement,
        comparable=(frame.exposure, frame.camera, frame.gain, frame.xbinning, frame.filter),
        time=math.nan if frame.date_obs is None else datetime.fromisoformat(frame.date_obs).timestamp(),
        arcsec_per_px=arcsec_per_px(frame),
        flux=flux,
        listed=listed,
    )


def arcsec_per_px(frame: Frame) -> float | None:
    """Return the scale of a frame in its middle; None when its header lacks focal length or pixel size."""
    if frame.focal_length is None or frame.pixel_size is None:
        return None
    return math.degrees(1e-3 * frame.pixel_size / frame.focal_length) * 3600


def _approval_row(step: Step, path: str, verdict: Verdict, finding: str | None) -> dict[str, Any]:
    return {
        "frame": path,
        "approved": "yes" if verdict.approved else "no",
        "finding": finding,
        "metric": verdict.metric,
        "value": verdict.values[verdict.metric] if verdict.metric else None,
        "limit": verdict.limit,
        "rule": verdict.rule,
        "looks_like": " ".join(verdict.names),
        **verdict.values,
        "integration": step.group,
    }
