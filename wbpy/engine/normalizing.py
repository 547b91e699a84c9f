"""Find what brings the lights of an integration to one level."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wbpy.engine.context import Context
from wbpy.engine.results import Decisions, Treated, cfa_matrix, grid_of
from wbpy.engine.store import make_key
from wbpy.model import Outcome, Step
from wbpy.stages import normalize, reference
from wbpy.stages.normalize import NormalizeParams, Sketch
from wbpy.stages.reference import ReferenceParams
from wbpy.stages.register import Transform


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
    ranking = reference.run(ReferenceParams(), [Path(path).name for path in paths], measurements)
    if leader is None:
        leader = ranking.index if ranking is not None else 0
    best = normalize.best_frames(params, ranking.scores, leader) if ranking is not None else []
    shape = grid_of(context, treated, decisions, paths).shape
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
    results = normalize.run(params, leader, measurements, transforms, sketches, shape, best)
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
        share = normalize.gradient(normalize.target_level(leader, results, sketches, best))
        if best:
            name = f"the {len(best)} best lights together"
            chosen = [Path(paths[i]).name for i in best]
            context.say(f"Backgrounds follow {name}: {', '.join(chosen)}", step)
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
    geometry = [transform.matrix.tolist(), transform.displacement.tolist(), transform.displacement_step, list(shape)]
    key = make_key("sketch", context.params_key(step), light.key, geometry)
    known = context.store.record(key)
    if known is not None:
        values, arrays = known
        sides = tuple((low, high) for low, high in values["sides"])
        location = tuple(values["location"])
        dispersion, reach = tuple(values["dispersion"]), values["reach"]
        return Sketch(dispersion, arrays["level"], sides, location, arrays.get("cells"), reach)
    height, width = light.image.shape
    image = light.image.read(0, height, 0, width)
    made = normalize.sketch(params, image, cfa_matrix(light.frame), transform, shape)
    numbers: dict[str, Any] = {name: list(getattr(made, name)) for name in ("dispersion", "sides", "location")}
    numbers["reach"] = made.reach
    grids = {"level": made.level} | ({} if made.cells is None else {"cells": made.cells})
    context.store.put_record(key, numbers, **grids)
    return made
