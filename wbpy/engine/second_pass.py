"""Decisions and the second pass: reference, transforms, normalization, weights, integration."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wbpy.engine import products
from wbpy.engine.context import Context
from wbpy.engine.first_pass import Treated, cfa_matrix, kept_path, write_kept
from wbpy.engine.store import file_digest, make_key
from wbpy.errors import ReadError
from wbpy.io.approval import read_list, write_rows
from wbpy.io.preview import write_preview
from wbpy.io.products import FitsWriter
from wbpy.model import Frame, Outcome, Product, Step
from wbpy.stages import approve, debayer, integrate, measure, normalize, reference, register, weigh
from wbpy.stages.approve import ApproveParams, Candidate, Verdict
from wbpy.stages.debayer import DebayerParams
from wbpy.stages.integrate import Counts, IntegrateParams, Light
from wbpy.stages.measure import Measurement, MeasureParams
from wbpy.stages.normalize import Normalization, NormalizeParams, Sketch
from wbpy.stages.reference import ReferenceParams
from wbpy.stages.register import Failure, RegisterParams, Transform
from wbpy.stages.weigh import WeighParams

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass
class Decisions:
    """What the first pass led to, by path of the light or by group."""

    excluded: dict[str, str] = field(default_factory=dict)
    """Path -> id of the finding that excluded it."""
    approval: list[dict[str, Any]] = field(default_factory=list)
    """Rows of ``approval.csv``."""
    references: dict[str, str] = field(default_factory=dict)
    """Registration group -> path of its reference."""
    transforms: dict[str, Transform] = field(default_factory=dict)
    """Path -> transform; absent for lights that were lost or could not be registered."""
    normalizations: dict[str, dict[str, Normalization]] = field(default_factory=dict)
    """Integration group -> path -> normalization."""
    weights: dict[str, dict[str, tuple[float, ...]]] = field(default_factory=dict)
    """Integration group -> path -> weight of each channel."""


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

    def middle(values: Any) -> Any:
        table = np.array(values, np.float64)
        known = np.isfinite(table).sum(axis=0) > 0
        return np.where(known, np.nanmedian(np.where(known, table, 0.0), axis=0), np.nan)

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


def _hint_at_drizzle(
    context: Context, step: Step, paths: Sequence[str], treated: dict[str, Treated], decisions: Decisions
) -> None:
    """Report undersampled stars, and how many sub-pixel positions the lights cover together."""
    import statistics

    cfa = treated[paths[0]].frame.cfa is not None
    widths = [treated[path].measurement.fwhm for path in paths if math.isfinite(treated[path].measurement.fwhm)]
    transforms = [(decisions.transforms[path].matrix, treated[path].image.shape) for path in paths]
    under = context.rules.findings["MEA003"].limits
    if widths and statistics.median(widths) < under["fwhm_px"]:
        context.find(
            "MEA003",
            step.id,
            fwhm_px=statistics.median(widths),
            limit_px=under["fwhm_px"],
            lights=len(paths),
            covered_percent=100 * weigh.phases_covered(transforms, 1),
            needed=int(under["lights"]),
        )
    limits = context.rules.findings["MEA004"].limits
    if cfa and len(paths) >= limits["lights"]:
        covered = weigh.phases_covered(transforms, 2)
        if covered >= limits["covered"]:
            context.find("MEA004", step.id, lights=len(paths), covered_percent=100 * covered)


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


def choose_reference(
    context: Context, step: Step, treated: dict[str, Treated], decisions: Decisions
) -> tuple[Outcome, str]:
    """Choose the reference of a registration group."""
    params = context.params(step, ReferenceParams)
    group = context.groups[step.group].frames
    paths = [path for path in group if path in treated and path not in decisions.excluded]
    if not paths:
        return "blocked", "no light was treated and approved"
    names = [Path(path).name for path in paths]
    if params.frame in paths:
        params = ReferenceParams(frame=Path(params.frame).name)
    elif params.frame not in names and Path(params.frame).is_file():
        pinned = _pinned(context, Path(params.frame).absolute(), treated[paths[0]])
        if isinstance(pinned, Treated) and pinned.measurement.count >= 3:
            decisions.references[step.group] = pinned.frame.path
            treated[pinned.frame.path] = pinned
            context.say(f"Registration reference {params.frame}, {pinned.measurement.count} stars", step)
            return "done", "given by the user"
        reason = "it has no stars" if isinstance(pinned, Treated) else pinned
        context.find("REF003", step.id, wanted=params.frame, reason=reason)
        return "failed", f"{params.frame}: {reason}"
    chosen = reference.run(params, names, [treated[path].measurement for path in paths])
    if chosen is None:
        context.find("REF001", step.id, frames=len(paths))
        return "failed", "no light has measured stars"
    decisions.references[step.group] = paths[chosen.index]
    ranking = sorted(range(len(paths)), key=lambda i: -chosen.scores[i])
    runners = ", ".join(f"{names[i]} {chosen.scores[i]:.2f}" for i in ranking[:4] if i != chosen.index)
    context.say(
        f"Registration reference {names[chosen.index]}, score {chosen.scores[chosen.index]:.2f}"
        + (f"; next {runners}" if runners else ""),
        step,
        path=paths[chosen.index],
        score=chosen.scores[chosen.index],
    )
    if params.frame not in ("auto", names[chosen.index]):
        context.find("REF002", step.id, wanted=params.frame, used=names[chosen.index])
    return "done", "chosen among the treated lights"


def _pinned(context: Context, path: Path, like: Treated) -> Treated | str:
    """Return a finished picture as if it were a treated light like another, or why it cannot be read."""
    from dataclasses import replace

    import msgspec
    import numpy as np

    from wbpy.io.images import open_image

    try:
        with open_image(path) as image:
            # Of colour the middle channel, on which the stars of CFA lights are measured too.
            plane = image.read(channel=image.channels // 2)
        key = make_key("reference", file_digest(path))
    except (ReadError, OSError) as error:
        return str(error)
    # Products hold values from 0 to 1, and 0 where no light covers.
    plane = np.where(plane == 0, np.nan, plane).astype(np.float32)
    if np.nanmax(plane, initial=0.0) <= 1.0:
        plane *= np.float32(products.DN_RANGE)
    frame = msgspec.structs.replace(like.frame, path=str(path), cfa=None)
    measurement = measure.run(MeasureParams(), plane, None)
    return replace(like, frame=frame, key=key, image=context.store.put_image(key, plane), measurement=measurement)


def find_transform(context: Context, step: Step, target: Treated, light: Treated) -> Transform | Failure:
    """Return the transform of a light to `target`, from the store when it stands there."""
    key = make_key(context.params_key(step), target.key, light.key)
    known = context.store.record(key)
    if known is not None:
        values, arrays = known
        return Transform(arrays["matrix"], values["rms"], values["stars"], values["model"])
    found = register.run(context.params(step, RegisterParams), target.measurement, light.measurement)
    if isinstance(found, Transform):
        context.store.put_record(
            key, {"rms": found.rms, "stars": found.stars, "model": found.model}, matrix=found.matrix
        )
    return found


def register_lights(
    context: Context, step: Step, treated: dict[str, Treated], decisions: Decisions
) -> tuple[Outcome, str]:
    """Find the transforms of a registration group's lights to its reference."""
    leader = decisions.references.get(step.group)
    if leader is None:
        return "blocked", "there is no reference"
    group = context.groups[step.group].frames
    paths = [path for path in group if path in treated and path not in decisions.excluded]
    target = treated[leader]

    def find(path: str) -> tuple[str, Transform | Failure]:
        return path, find_transform(context, step, target, treated[path])

    limit = context.rules.findings["REG002"].limits["rms_px"]
    for done, (path, found) in enumerate(context.map(find, paths), 1):
        context.emit("progress", step=step.id, stage="register", done=done, total=len(paths), unit="frames")
        if isinstance(found, Failure):
            context.find("REG001", path, reason=found.reason)
            context.frame_result(path, outcome="done", excluded_by="REG001", weight=0.0)
            continue
        decisions.transforms[path] = found
        shape = _geometry(found, treated[path].image.shape)
        measured = {**context.frame_results[path].measurements, "registration_rms_px": found.rms, **shape}
        matrix = tuple(tuple(row) for row in found.matrix.tolist())
        context.frame_result(path, measurements=measured, transform=matrix)
        context.say(
            f"{Path(path).name}: {found.model} from {found.stars} stars, rms {found.rms:.3f} px, "
            f"shift {shape['shift_px']:.1f} px, rotation {shape['rotation_deg']:.3f} deg",
            step,
            path=path,
            **shape,
        )
        if found.rms > limit:
            context.find("REG002", path, rms_px=found.rms, limit_px=limit, stars=found.stars)
    excluded = len(paths) - sum(path in decisions.transforms for path in paths)
    if excluded:
        return "done", f"{excluded} of {len(paths)} lights excluded, no consistent star pattern"
    return "done", "all treated lights registered"


def normalize_lights(
    context: Context, step: Step, treated: dict[str, Treated], decisions: Decisions
) -> tuple[Outcome, str]:
    """Find the normalization of an integration group's registered lights."""
    paths = [path for path in context.groups[step.group].frames if path in decisions.transforms]
    if not paths:
        return "blocked", "no light is registered"
    params = context.params(step, NormalizeParams)
    measurements = [treated[path].measurement for path in paths]
    leaders = set(decisions.references.values())
    leader = next((i for i, path in enumerate(paths) if path in leaders), None)
    if leader is None:
        best = reference.run(ReferenceParams(), [Path(path).name for path in paths], measurements)
        leader = best.index if best is not None else 0
    shape = treated[_leader(context, decisions, paths)].image.shape
    transforms = [decisions.transforms[path] for path in paths]
    sketches = []
    if normalize.needs_pixels(params):
        lights = zip([treated[path] for path in paths], transforms, strict=True)
        # A sketch holds its frame in memory.
        at_once = max(1, min(context.workers, context.free_memory() // (5 * shape[0] * shape[1])))
        for sketch in context.map(lambda pair: _sketch(context, step, params, *pair, shape), lights, at_once):
            sketches.append(sketch)
            context.emit(
                "progress", step=step.id, stage="normalize", done=len(sketches), total=len(paths), unit="frames"
            )
    results = normalize.run(params, leader, measurements, transforms, sketches, shape)
    for index, (path, result) in enumerate(zip(paths, results, strict=True)):
        if params.method in normalize.SCALING and params.scale == "stars" and not result.stars and index != leader:
            context.find("NRM001", path, fewest=params.min_stars)
        if result.failure:
            context.find("NRM002", path, reason=result.failure)
        measured = context.frame_results[path].measurements
        context.frame_result(path, measurements={**measured, "scale": result.scale[len(result.scale) // 2]})
    decisions.normalizations[step.group] = dict(zip(paths, results, strict=True))
    name = Path(paths[leader]).name
    context.say(f"Levels and scales follow {name}", step, path=paths[leader])
    if params.method == "local":
        share = normalize.gradient(sketches[leader])
        if share > context.rules.findings["NRM003"].limits["share"]:
            context.find("NRM003", step.id, name=name, percent=100 * share)
        scatter = max(result.scatter for result in results)
        context.say(
            f"Backgrounds follow those of {name}, its gradient of {100 * share:.1f} % included; what the surfaces "
            f"leave is at most {scatter:.2f} DN in a cell",
            step,
            gradient=share,
            scatter_dn=scatter,
        )
    return "done", "from the measurements of the registered lights"


def _sketch(
    context: Context, step: Step, params: NormalizeParams, light: Treated, transform: Transform, shape: tuple[int, int]
) -> Sketch:
    """Return the sketch of a light, from the store if it is there."""
    key = make_key("sketch", context.params_key(step), light.key, transform.matrix.tolist(), list(shape))
    known = context.store.record(key)
    if known is not None:
        values, arrays = known
        return Sketch(tuple(values["dispersion"]), arrays["level"])
    height, width = light.image.shape
    image = light.image.read(0, height, 0, width)
    made = normalize.sketch(params, image, cfa_matrix(light.frame), transform, shape)
    context.store.put_record(key, {"dispersion": list(made.dispersion)}, level=made.level)
    return made


def weigh_lights(
    context: Context, step: Step, treated: dict[str, Treated], decisions: Decisions
) -> tuple[Outcome, str]:
    """Find the weights of an integration group's lights; those below the minimum are excluded."""
    normalized = decisions.normalizations.get(step.group)
    if normalized is None:
        return "blocked", "no light is normalized"
    params = context.params(step, WeighParams)
    paths = list(normalized)
    texts = [
        next((v for k, v in context.frames[path].keywords.items() if k.upper() == params.keyword.upper()), None)
        for path in paths
    ]
    values, unknown = weigh.run(params, [treated[path].measurement for path in paths], list(normalized.values()), texts)
    nameless = {paths[i] for i in unknown}
    kept = {}
    for path, weights in zip(paths, values, strict=True):
        share = sum(weights) / len(weights)
        if path in nameless:
            context.find("WGT002", path, method=params.method)
            context.frame_result(path, weight=0.0, excluded_by="WGT002")
        elif share < params.minimum:
            context.find("WGT001", path, weight=share, minimum=params.minimum)
            context.frame_result(path, weight=0.0, excluded_by="WGT001")
        else:
            kept[path] = weights
            context.frame_result(path, weight=share)
    decisions.weights[step.group] = kept
    if kept:
        _hint_at_drizzle(context, step, list(kept), treated, decisions)
    return "done", "from noise and scale of the registered lights"


def integrate_lights(
    context: Context,
    step: Step,
    chain: Sequence[Step],
    treated: dict[str, Treated],
    decisions: Decisions,
) -> tuple[Outcome, str]:
    """Integrate one group, unless the result stands already.

    Parameters
    ----------
    context : Context
        The execution.
    step : Step
        The integration.
    chain : sequence of Step
        All steps of the plan that its frames went through, for HISTORY.
    treated : dict of str to Treated
        By path.
    decisions : Decisions
        Transforms, normalizations, weights.
    """
    import numpy as np

    group = context.groups[step.group]
    weights = decisions.weights.get(step.group)
    if weights is None:
        return "blocked", "no light is weighed"
    paths = list(weights)
    lost = [path for path in group.frames if path not in treated]
    fewest = int(context.rules.findings["INT002"].limits["frames"])
    if not paths or (lost and len(paths) < fewest):
        context.find("INT002", step.id, left=len(paths), planned=len(group.frames), fewest=fewest)
        return "failed", f"{len(paths)} of {len(group.frames)} lights are left"
    outcome: Outcome = "partial" if lost else "done"
    params = context.params(step, IntegrateParams)
    debayer_step = next((s for s in chain if s.stage == "debayer"), None)
    debayer_params = context.params(debayer_step, DebayerParams) if debayer_step else DebayerParams()
    normalized = decisions.normalizations[step.group]
    leader = _leader(context, decisions, paths)
    cfa = cfa_matrix(treated[paths[0]].frame)
    channels = 1 if cfa is None else 3
    lights = [
        Light(
            treated[path].image,
            decisions.transforms[path].matrix,
            normalized[path].scale,
            normalized[path].offset,
            weights[path],
            normalized[path].surfaces,
            normalized[path].surface_step,
        )
        for path in paths
    ]
    height, width = treated[leader].image.shape
    key = make_key(
        context.params_key(step),
        context.params_key(debayer_step) if debayer_step else None,
        [height, width],
        [
            [
                treated[path].key,
                light.matrix.tolist(),
                light.scale,
                light.offset,
                light.weight,
                [surface.tolist() for surface in light.surfaces],
            ]
            for path, light in zip(paths, lights, strict=True)
        ],
    )
    files = {
        artifact.name: context.out / Path(artifact.path or "").relative_to(context.plan.out)
        for artifact in step.outputs
    }
    abouts = {name: context.store.product(make_key(key, name), path) for name, path in files.items()}
    frames = [treated[path].frame for path in paths]
    _write_resampled(context, params, debayer_params, debayer_step, frames, lights, (height, width), key, chain)
    about = abouts["integration"]
    if about is not None and all(value is not None for value in abouts.values()):
        why = "lights, decisions, parameters and files are unchanged"
        outcome = "partial" if lost else "reused"
    else:
        why = f"made from {len(paths)} lights"
        pedestal = _pedestal(context, step, params, treated, decisions, paths)
        counts = Counts(*(np.zeros(len(paths), np.int64) for _ in range(3)))
        strips = integrate.run(params, debayer_params, context.work(step), lights, (height, width), cfa, counts)
        about, middle = _write_integration(
            context, step, chain, strips, files, frames, treated[leader].frame, (channels, height, width), pedestal, key
        )
        offered = np.maximum(counts.offered, 1)
        about["rejected_low"] = (counts.low / offered).tolist()
        about["rejected_high"] = (counts.high / offered).tolist()
        noises = [treated[path].measurement.noise[channels // 2] for path in paths]
        found = integrate.quality(params, debayer_params, middle, lights, noises, (height, width), cfa)
        about["quality"] = found.numbers()
        for name, path in files.items():
            context.store.put_product(make_key(key, name), path, about if name == "integration" else {})
    _report(context, step, about, paths)
    excluded = len(group.frames) - len(paths)
    if lost:
        context.find("INT001", step.id, lost=len(lost), used=len(paths), names=", ".join(Path(p).name for p in lost))
    for name, path in files.items():
        kind = {artifact.name: artifact.kind for artifact in step.outputs}[name]
        exposures = [frame.exposure for frame in frames if frame.exposure is not None]
        context.products.append(
            Product(
                kind=kind if name in ("integration", "preview") else name,
                path=str(path),
                group=step.group,
                frames_used=len(paths),
                frames_excluded=excluded,
                exposure_total=round(sum(exposures), 6) if exposures else None,
                outcome=outcome,
                measurements=about["quality"] if name == "integration" else {},
            )
        )
    return outcome, why


def _leader(context: Context, decisions: Decisions, paths: Sequence[str]) -> str:
    """Return the registration reference on whose grid `paths` lie."""
    for group, leader in decisions.references.items():
        if paths[0] in context.groups[group].frames:
            return leader
    raise KeyError(paths[0])


def _pedestal(
    context: Context,
    step: Step,
    params: IntegrateParams,
    treated: dict[str, Treated],
    decisions: Decisions,
    paths: Sequence[str],
) -> float:
    """Return the DN to add to the result, so that cutting it to [0, 1] loses no noise below a faint background.

    Automatic: when the background lies less than 5 sigma of a single light above zero, as much as brings it there, in
    whole DN. The noise of one light, not of the average, because borders are covered by few lights, and to leave
    room for the darker corners of a gradient.
    """
    if params.pedestal != "auto":
        return float(params.pedestal)
    normalized = decisions.normalizations[step.group]
    needed = 0.0
    for c in range(len(normalized[paths[0]].scale)):
        noise = max(normalized[path].scale[c] * treated[path].measurement.noise[c] for path in paths)
        level = min(
            normalized[path].scale[c] * treated[path].measurement.background[c] + normalized[path].offset[c]
            for path in paths
        )
        needed = max(needed, 5 * noise - level)
    pedestal = float(math.ceil(needed)) if needed > 0 else 0.0
    if pedestal:
        context.find("INT003", step.id, pedestal_dn=pedestal)
    return pedestal


def _write_integration(
    context: Context,
    step: Step,
    chain: Sequence[Step],
    strips: Any,
    files: dict[str, Path],
    frames: Sequence[Frame],
    leader: Frame,
    shape: tuple[int, int, int],
    pedestal: float,
    key: str,
) -> tuple[dict[str, Any], npt.NDArray[np.float32]]:
    """Write result, maps and preview as the strips arrive.

    Return what is to be remembered, and the middle of the green or only channel, DN, without the pedestal.
    """
    import numpy as np

    notes = products.history(chain, {}, frames)
    size = shape if shape[0] > 1 else shape[1:]
    thumbnail = products.Thumbnail(shape)
    cards = products.integration_cards(frames, leader, "integration", key)
    if pedestal:
        cards.append(("PEDESTAL", round(pedestal), "[DN] added to the result"))
    below = above = uncovered = 0
    files["integration"].parent.mkdir(exist_ok=True)
    writers = {"integration": FitsWriter(files["integration"], size, cards, notes)}
    for name in files.keys() - {"integration", "preview"}:
        map_cards = products.integration_cards(frames, leader, name, key)
        writers[name] = FitsWriter(files[name], size, map_cards, notes[:0])
    # Variance in the unit of the picture.
    units = {"variance": np.float32(1 / products.DN_RANGE**2)}
    y0, y1, x0, x1 = integrate.middle_of(shape[1:])
    middle = np.empty((y1 - y0, x1 - x0), np.float32)
    with contextlib.ExitStack() as stack:
        for writer in writers.values():
            stack.enter_context(writer)
        for strip in strips:
            rows = slice(max(y0, strip.y0), min(y1, strip.y0 + strip.image.shape[1]))
            if rows.start < rows.stop:
                own = slice(rows.start - strip.y0, rows.stop - strip.y0)
                middle[rows.start - y0 : rows.stop - y0] = strip.image[shape[0] // 2, own, x0:x1]
            image = strip.image + np.float32(pedestal) if pedestal else strip.image
            thumbnail.add(strip.y0, image)
            pixels, cut_below, cut_above = products.to_unit_range(image)
            below, above = below + cut_below, above + cut_above
            uncovered += int(np.count_nonzero(np.isnan(image)))
            written = {"integration": pixels, "rejection_low": strip.low, "rejection_high": strip.high}
            written |= {name: plane * units.get(name, np.float32(1)) for name, plane in strip.maps.items()}
            for name, planes in written.items():
                for channel in range(shape[0]):
                    writers[name].write_rows(channel, strip.y0, planes[channel])
        for writer in writers.values():
            writer.commit()
    small = thumbnail.image()
    write_preview(files["preview"], small if shape[0] > 1 else small[0])
    total = math.prod(shape)
    return {"below": below / total, "above": above / total, "uncovered": uncovered / total}, middle


def _report(context: Context, step: Step, about: dict[str, Any], paths: Sequence[str]) -> None:
    """Report what was rejected and cut, from a fresh or an earlier integration."""
    limit = context.rules.findings["INT004"].limits["share"]
    for path, low, high in zip(paths, about["rejected_low"], about["rejected_high"], strict=True):
        measured = context.frame_results[path].measurements
        context.frame_result(path, measurements={**measured, "rejected_low": low, "rejected_high": high})
        if low + high > limit:
            context.find("INT004", path, percent=100 * (low + high), limit_percent=100 * limit)
    limit = context.rules.findings["INT005"].limits["share"]
    if about["below"] + about["above"] > limit:
        context.find("INT005", step.id, below_percent=100 * about["below"], above_percent=100 * about["above"])
    share = sum(about["rejected_low"]) / len(paths), sum(about["rejected_high"]) / len(paths)
    context.say(
        f"{len(paths)} lights integrated; rejected {100 * share[0]:.2f} % low, {100 * share[1]:.2f} % high; "
        f"{100 * about['uncovered']:.2f} % of the frame not covered by any light",
        step,
        rejected_low=share[0],
        rejected_high=share[1],
        uncovered=about["uncovered"],
    )
    numbers = about["quality"]
    if numbers["noise_dn"] is not None and numbers["snr_gain"] is not None:
        text = (
            f"Noise {numbers['noise_dn']:.2f} DN, {numbers['snr_gain']:.2f} times below that of the best light "
            f"({numbers['snr_gain_predicted'] or math.nan:.2f} expected)"
        )
        if numbers["fwhm_px"] is not None and numbers["fwhm_best_light_px"] is not None:
            text += f"; FWHM {numbers['fwhm_px']:.2f} px, {numbers['fwhm_best_light_px']:.2f} px in that light"
        context.say(text, step, **numbers)


def _write_resampled(
    context: Context,
    params: IntegrateParams,
    debayer_params: DebayerParams,
    debayer_step: Step | None,
    frames: Sequence[Frame],
    lights: Sequence[Light],
    shape: tuple[int, int],
    key: str,
    chain: Sequence[Step],
) -> None:
    """Write the debayered and registered frames that were asked for with --keep and do not stand yet."""
    import numpy as np

    for frame, light in zip(frames, lights, strict=True):
        cfa = cfa_matrix(frame)
        if "debayered" in context.keep and cfa is not None and debayer_step is not None:
            own = make_key(context.params_key(debayer_step), context.digest(frame.path), key)
            if context.store.product(make_key("debayered", own), kept_path(context, frame, "debayered")) is None:
                height, width = light.window.shape
                planes = debayer.run(debayer_params, light.window.read(0, height, 0, width), cfa)
                write_kept(context, frame, "debayered", planes, own, chain)
        if "registered" in context.keep:
            own = make_key(context.digest(frame.path), key)
            if context.store.product(make_key("registered", own), kept_path(context, frame, "registered")) is None:
                planes = np.empty((1 if cfa is None else 3, *shape), np.float32)
                side = 512
                for y in range(0, shape[0], side):
                    for x in range(0, shape[1], side):
                        tile = np.empty((planes.shape[0], min(side, shape[0] - y), min(side, shape[1] - x)), np.float32)
                        integrate.resample(params, debayer_params, light.window, light.matrix, cfa, tile, x, y)
                        planes[:, y : y + side, x : x + side] = tile
                write_kept(context, frame, "registered", planes if cfa is not None else planes[0], own, chain)


def _geometry(transform: Transform, shape: tuple[int, int]) -> dict[str, float | None]:
    """Return shift of the frame's centre in px, rotation in degrees and scale of a transform."""
    import numpy as np

    height, width = shape
    centre = np.array([(width - 1) / 2, (height - 1) / 2, 1.0])
    moved = transform.matrix @ centre
    shift = moved[:2] / moved[2] - centre[:2]
    a = transform.matrix[:2, :2]
    return {
        "shift_px": float(np.hypot(*shift)),
        "rotation_deg": float(np.degrees(np.arctan2(a[1, 0], a[0, 0]))),
        "magnification": float(np.sqrt(abs(np.linalg.det(a)))),
    }
