"""Decisions and the second pass: reference, transforms, normalization, weights, integration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wbpy.engine import products
from wbpy.engine.context import Context
from wbpy.engine.first_pass import Treated, cfa_matrix, kept_path, write_kept
from wbpy.engine.store import make_key
from wbpy.io.preview import write_preview
from wbpy.io.products import FitsWriter
from wbpy.model import Frame, Outcome, Product, Step
from wbpy.stages import debayer, integrate, normalize, reference, register, weigh
from wbpy.stages.debayer import DebayerParams
from wbpy.stages.integrate import Counts, IntegrateParams, Light
from wbpy.stages.normalize import Normalization, NormalizeParams
from wbpy.stages.reference import ReferenceParams
from wbpy.stages.register import Failure, RegisterParams, Transform
from wbpy.stages.weigh import WeighParams


@dataclass
class Decisions:
    """What the first pass led to, by path of the light or by group."""

    references: dict[str, str] = field(default_factory=dict)
    """Registration group -> path of its reference."""
    transforms: dict[str, Transform] = field(default_factory=dict)
    """Path -> transform; absent for lights that were lost or could not be registered."""
    normalizations: dict[str, dict[str, Normalization]] = field(default_factory=dict)
    """Integration group -> path -> normalization."""
    weights: dict[str, dict[str, tuple[float, ...]]] = field(default_factory=dict)
    """Integration group -> path -> weight of each channel."""


def choose_reference(
    context: Context, step: Step, treated: dict[str, Treated], decisions: Decisions
) -> tuple[Outcome, str]:
    """Choose the reference of a registration group."""
    params = context.params(step, ReferenceParams)
    paths = [path for path in context.groups[step.group].frames if path in treated]
    if not paths:
        return "blocked", "no light was treated"
    names = [Path(path).name for path in paths]
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


def register_lights(
    context: Context, step: Step, treated: dict[str, Treated], decisions: Decisions
) -> tuple[Outcome, str]:
    """Find the transforms of a registration group's lights to its reference."""
    params = context.params(step, RegisterParams)
    leader = decisions.references.get(step.group)
    if leader is None:
        return "blocked", "there is no reference"
    paths = [path for path in context.groups[step.group].frames if path in treated]
    target = treated[leader]

    def find(path: str) -> tuple[str, Transform | Failure]:
        key = make_key(context.params_key(step), target.key, treated[path].key)
        known = context.store.record(key)
        if known is not None:
            values, arrays = known
            return path, Transform(arrays["matrix"], values["rms"], values["stars"], values["model"])
        found = register.run(params, target.measurement, treated[path].measurement)
        if isinstance(found, Transform):
            context.store.put_record(
                key, {"rms": found.rms, "stars": found.stars, "model": found.model}, matrix=found.matrix
            )
        return path, found

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
    results = normalize.run(params, leader, measurements, [decisions.transforms[path] for path in paths])
    for index, (path, result) in enumerate(zip(paths, results, strict=True)):
        if params.method == "additive_scaling" and params.scale == "stars" and not result.stars and index != leader:
            context.find("NRM001", path, fewest=params.min_stars)
        measured = context.frame_results[path].measurements
        context.frame_result(path, measurements={**measured, "scale": result.scale[len(result.scale) // 2]})
    decisions.normalizations[step.group] = dict(zip(paths, results, strict=True))
    context.say(f"Levels and scales follow {Path(paths[leader]).name}", step, path=paths[leader])
    return "done", "from the measurements of the registered lights"


def weigh_lights(
    context: Context, step: Step, treated: dict[str, Treated], decisions: Decisions
) -> tuple[Outcome, str]:
    """Find the weights of an integration group's lights; those below the minimum are excluded."""
    normalized = decisions.normalizations.get(step.group)
    if normalized is None:
        return "blocked", "no light is normalized"
    params = context.params(step, WeighParams)
    paths = list(normalized)
    values = weigh.run(params, [treated[path].measurement for path in paths], list(normalized.values()))
    kept = {}
    for path, weights in zip(paths, values, strict=True):
        share = sum(weights) / len(weights)
        if share < params.minimum:
            context.find("WGT001", path, weight=share, minimum=params.minimum)
            context.frame_result(path, weight=0.0, excluded_by="WGT001")
        else:
            kept[path] = weights
            context.frame_result(path, weight=share)
    decisions.weights[step.group] = kept
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
        )
        for path in paths
    ]
    height, width = treated[leader].image.shape
    key = make_key(
        context.params_key(step),
        context.params_key(debayer_step) if debayer_step else None,
        [height, width],
        [
            [treated[path].key, light.matrix.tolist(), light.scale, light.offset, light.weight]
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
        about = _write_integration(
            context, step, chain, strips, files, frames, treated[leader].frame, (channels, height, width), pedestal, key
        )
        offered = np.maximum(counts.offered, 1)
        about["rejected_low"] = (counts.low / offered).tolist()
        about["rejected_high"] = (counts.high / offered).tolist()
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

    Automatic: when the background lies less than 6 sigma of the expected noise above zero, as much as brings it
    there, in whole DN. The noise of the weighted mean is 1 / sqrt(sum of 1 / (k sigma)^2).
    """
    if params.pedestal != "auto":
        return float(params.pedestal)
    normalized = decisions.normalizations[step.group]
    needed = 0.0
    for c in range(len(normalized[paths[0]].scale)):
        scaled = [normalized[path].scale[c] * treated[path].measurement.noise[c] for path in paths]
        precision = sum(1 / value**2 for value in scaled if value > 0)
        noise = 1 / math.sqrt(precision) if precision > 0 else 0.0
        level = min(
            normalized[path].scale[c] * treated[path].measurement.background[c] + normalized[path].offset[c]
            for path in paths
        )
        needed = max(needed, 6 * noise - level)
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
) -> dict[str, Any]:
    """Write result, rejection maps and preview as the strips arrive; return what is to be remembered."""
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
    for name in ("rejection_low", "rejection_high"):
        map_cards = products.integration_cards(frames, leader, name, key)
        writers[name] = FitsWriter(files[name], size, map_cards, notes[:0])
    with writers["integration"], writers["rejection_low"], writers["rejection_high"]:
        for strip in strips:
            image = strip.image + np.float32(pedestal) if pedestal else strip.image
            thumbnail.add(strip.y0, image)
            pixels, cut_below, cut_above = products.to_unit_range(image)
            below, above = below + cut_below, above + cut_above
            uncovered += int(np.count_nonzero(np.isnan(image)))
            for name, planes in (("integration", pixels), ("rejection_low", strip.low), ("rejection_high", strip.high)):
                for channel in range(shape[0]):
                    writers[name].write_rows(channel, strip.y0, planes[channel])
        for writer in writers.values():
            writer.commit()
    small = thumbnail.image()
    write_preview(files["preview"], small if shape[0] > 1 else small[0])
    total = math.prod(shape)
    return {"below": below / total, "above": above / total, "uncovered": uncovered / total}


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
