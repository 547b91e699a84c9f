"""Choose references and find the lights' transforms to them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from wbpy.engine import products
from wbpy.engine.context import Context
from wbpy.engine.results import Decisions, Treated
from wbpy.engine.store import file_digest, make_key
from wbpy.errors import ReadError
from wbpy.model import Outcome, Step
from wbpy.stages import measure, reference, register
from wbpy.stages.measure import MeasureParams
from wbpy.stages.reference import ReferenceParams
from wbpy.stages.register import Failure, RegisterParams, Transform

if TYPE_CHECKING:
    pass


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
