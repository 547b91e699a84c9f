"""Choose references and find the lights' transforms to them."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import msgspec

from wbpy.engine import products
from wbpy.engine.context import Context
from wbpy.engine.results import Decisions, Treated, cfa_matrix
from wbpy.engine.store import file_digest, make_key
from wbpy.errors import ReadError
from wbpy.io.headers import load_header
from wbpy.model import Outcome, Step
from wbpy.stages import dither, measure, reference, register
from wbpy.stages.measure import MeasureParams
from wbpy.stages.reference import ReferenceParams
from wbpy.stages.register import Failure, RegisterParams, Transform


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
    order = load_header(path).get("ROWORDER")
    row_order = order if order in ("TOP-DOWN", "BOTTOM-UP") else None
    frame = msgspec.structs.replace(like.frame, path=str(path), cfa=None, row_order=row_order)
    measurement = measure.run(MeasureParams(), plane, None)
    stars = make_key(measure.MEASURE.version, key)
    stored = context.store.put_image(key, plane)
    return replace(like, frame=frame, key=key, stars=stars, image=stored, measurement=measurement)


def find_transform(context: Context, step: Step, target: Treated, light: Treated) -> Transform | Failure:
    """Return the transform of a light to `target`, from the store when it stands there."""
    key = make_key(context.params_key(step), target.stars, light.stars)
    known = _recalled(context, key)
    if known is not None:
        return known
    params = context.params(step, RegisterParams)
    found = register.run(params, target.measurement, light.measurement, target.image.shape)
    if isinstance(found, Transform):
        _remember(context, key, found)
    return found


def _colour_corrected(context: Context, step: Step, target: Treated, light: Treated, found: Transform) -> Transform:
    """Return a transform with red and blue brought onto green where that is needed, from the store if it is there."""
    params = context.params(step, RegisterParams)
    cfa = cfa_matrix(light.frame)
    if cfa is None or params.lateral_colour == "off":
        return found
    key = make_key("colour", context.params_key(step), target.stars, light.stars)
    known = _recalled(context, key)
    if known is not None:
        return known
    corrected = register.correct_colour(params, found, light.measurement, light.image, cfa, target.image.shape)
    _remember(context, key, corrected)
    return corrected


def _remember(context: Context, key: str, found: Transform) -> None:
    values = {field.name: getattr(found, field.name) for field in fields(found)}
    arrays = {name: values.pop(name) for name in ("matrix", "displacement")}
    context.store.put_record(key, values, **arrays)


def _recalled(context: Context, key: str) -> Transform | None:
    known = context.store.record(key)
    if known is None:
        return None
    values: dict[str, Any] = {**known[0], **known[1]}
    values["residual_map"] = tuple((dx, dy) for dx, dy in values["residual_map"])
    values["colour_shift"] = tuple(values["colour_shift"])
    return Transform(**values)


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
        found = find_transform(context, step, target, treated[path])
        if isinstance(found, Transform):
            found = _colour_corrected(context, step, target, treated[path], found)
        return path, found

    limit = context.rules.findings["REG002"].limits["rms_px"]
    registered: dict[str, Transform] = {}
    for done, (path, found) in enumerate(context.map(find, paths), 1):
        context.emit("progress", step=step.id, stage="register", done=done, total=len(paths), unit="frames")
        if isinstance(found, Failure):
            context.find("REG001", path, reason=found.reason)
            context.frame_result(path, outcome="done", excluded_by="REG001", weight=0.0)
            continue
        decisions.transforms[path] = registered[path] = found
        numbers = _numbers(found, treated[path].image.shape)
        matrix = tuple(tuple(row) for row in found.matrix.tolist())
        measured = {**context.frame_results[path].measurements, **numbers}
        context.frame_result(path, measurements=measured, transform=matrix)
        context.say(_sentence(Path(path).name, found, numbers), step, path=path, **numbers)
        if found.rms > limit:
            context.find("REG002", path, rms_px=found.rms, limit_px=limit, stars=found.stars)
    _report_optics(context, step, registered)
    _report_dither(context, step, registered, target.image.shape)
    excluded = len(paths) - len(registered)
    if excluded:
        return "done", f"{excluded} of {len(paths)} lights excluded, no consistent star pattern"
    return "done", "all treated lights registered"


def _numbers(transform: Transform, shape: tuple[int, int]) -> dict[str, float | None]:
    """Return what reports show of a transform: residuals, and shift, rotation and scale at the frame's middle."""
    import numpy as np

    height, width = shape
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    shift = transform.apply(centre[None], 1)[0] - centre
    a = transform.matrix[:2, :2]
    off = [float(np.hypot(dx, dy)) for dx, dy in transform.residual_map]
    numbers: dict[str, float] = {
        "registration_rms_px": transform.rms,
        "registration_heldout_rms_px": transform.heldout_rms,
        "registration_stars": float(transform.stars),
        **{f"registration_residual_r{i // 3}c{i % 3}_px": value for i, value in enumerate(off)},
        "distortion_px": transform.distortion_px,
        "shift_px": float(np.hypot(*shift)),
        "rotation_deg": float(np.degrees(np.arctan2(a[1, 0], a[0, 0]))),
        "magnification": float(np.sqrt(abs(np.linalg.det(a)))),
    }
    if transform.colour_shift:
        numbers["red_shift_px"], numbers["blue_shift_px"] = transform.colour_shift
    return {name: None if np.isnan(value) else value for name, value in numbers.items()}


def _sentence(name: str, transform: Transform, numbers: dict[str, float | None]) -> str:
    """Return one line for the log about a light's registration."""
    import math

    text = f"{name}: {transform.model} from {transform.stars} stars, rms {transform.rms:.3f} px"
    if not math.isnan(transform.heldout_rms):
        text += f" ({transform.heldout_rms:.3f} px left out)"
    if transform.distortion != "none":
        text += f", {transform.distortion} up to {transform.distortion_px:.2f} px"
    if transform.colour_shift:
        text += ", red and blue off by up to {:.2f} and {:.2f} px".format(*transform.colour_shift)
    return f"{text}, shift {numbers['shift_px']:.1f} px, rotation {numbers['rotation_deg']:.3f} deg"


def _report_optics(context: Context, step: Step, registered: dict[str, Transform]) -> None:
    """Say what residuals the lights have in common, and which distortion and lateral colour were corrected."""
    import numpy as np

    found = [transform for transform in registered.values() if transform.model != "identity"]
    if not found:
        return
    table = np.array([transform.residual_map for transform in found])
    known = np.isfinite(table[..., 0])
    count = known.sum(axis=0)
    mean = np.where(known[..., None], table, 0.0).sum(axis=0) / np.maximum(count, 1)[:, None]
    cells = [f"{dx:+.2f} {dy:+.2f}" if n else "-" for (dx, dy), n in zip(mean, count, strict=True)]
    rows = " | ".join(", ".join(cells[3 * j : 3 * j + 3]) for j in range(3))
    context.say(f"Median residuals (dx dy) of {len(found)} lights, rows from the top: {rows} px", step)
    left = [transform for transform in found if not np.isnan(transform.better_rms)]
    if left:
        context.find(
            "REG003",
            step.id,
            lights=len(left),
            total=len(registered),
            heldout_px=float(np.median([transform.heldout_rms for transform in left])),
            better_px=float(np.median([transform.better_rms for transform in left])),
        )
    bent = [transform for transform in found if transform.distortion != "none"]
    if bent:
        left_out = [transform.heldout_rms for transform in bent if np.isfinite(transform.heldout_rms)]
        context.find(
            "REG004",
            step.id,
            lights=len(bent),
            total=len(registered),
            distortion_px=max(transform.distortion_px for transform in bent),
            heldout_px=float(np.median(left_out)) if left_out else None,
        )
    coloured = [transform.colour_shift for transform in registered.values() if transform.colour_shift]
    if coloured:
        red, blue = np.median(coloured, axis=0).tolist()
        context.find("REG005", step.id, lights=len(coloured), total=len(registered), red_px=red, blue_px=blue)


def _report_dither(context: Context, step: Step, registered: dict[str, Transform], shape: tuple[int, int]) -> None:
    """Say how the lights of each night and filter are shifted against each other."""
    import numpy as np

    height, width = shape
    sessions: dict[tuple[str, str], list[Transform]] = {}
    # The frames of a group stand in the order of capture.
    for path in context.groups[step.group].frames:
        if path in registered:
            frame = context.frames[path]
            sessions.setdefault((frame.night or "", frame.filter or ""), []).append(registered[path])
    limits = {id: dict(context.rules.findings[id].limits) for id in ("DTH001", "DTH002", "DTH003")}
    centre = np.array([[(width - 1) / 2, (height - 1) / 2]])
    for (night, filter_name), transforms in sessions.items():
        if len(transforms) < 2:
            continue
        series = dither.measure(np.concatenate([transform.invert(centre) for transform in transforms]))
        name = " ".join(part for part in (night or "an unknown night", filter_name) if part)
        context.say(
            f"Dithering of {name}: {series.lights} lights, {series.step:.1f} px from one to the next, "
            f"{series.spread:.1f} px apart, drift {series.drift:.1f} px towards {series.direction:.0f} deg, "
            f"straightness {series.straightness:.2f}",
            step,
            lights=series.lights,
            step_px=series.step,
            spread_px=series.spread,
            drift_px=series.drift,
            straightness=series.straightness,
            direction_deg=series.direction,
        )
        id = dither.finding(series, limits["DTH002"], limits["DTH003"], limits["DTH001"])
        if id == "DTH002":
            context.find(
                id,
                step.id,
                lights=series.lights,
                session=name,
                drift_px=series.drift,
                direction_deg=series.direction,
                step_px=series.step,
            )
        elif id is not None:
            limit = limits[id]["px"]
            context.find(id, step.id, lights=series.lights, session=name, spread_px=series.spread, limit_px=limit)
