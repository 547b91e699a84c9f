"""Find the lights' weights, and what their positions promise a drizzle integration."""

from __future__ import annotations

import math
from collections.abc import Sequence

from wbpy.engine.context import Context
from wbpy.engine.results import Decisions, Treated
from wbpy.model import Outcome, Step
from wbpy.stages import approve, weigh
from wbpy.stages.weigh import WeighParams


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
            because = _named(context, path)
            context.find("WGT001", path, weight=share, minimum=params.minimum, because=because)
            context.frame_result(path, weight=0.0, excluded_by="WGT001")
        else:
            kept[path] = weights
            context.frame_result(path, weight=share)
    decisions.weights[step.group] = kept
    if kept and not any((other.stage, other.group) == ("drizzle", step.group) for other in context.plan.steps):
        _hint_at_drizzle(context, step, list(kept), treated, decisions)
    return "done", "from noise and scale of the registered lights"


def _named(context: Context, path: str) -> str:
    """Return what was found of a light by the pattern of its measurements, as the end of a sentence."""
    ids = set(approve.NAMED.values())
    titles = [
        context.rules.findings[found.id].title.lower()
        for found in context.findings
        if found.subject == path and found.id in ids
    ]
    return f": {', '.join(titles)}" if titles else ""


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
