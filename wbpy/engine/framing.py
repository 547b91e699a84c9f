"""Lay the lights of one reference on the grid that was asked for."""

from __future__ import annotations

from wbpy.engine.context import Context
from wbpy.engine.results import Decisions, Treated
from wbpy.model import Outcome, Step
from wbpy.stages import framing
from wbpy.stages.framing import FramingParams


def frame_lights(
    context: Context, step: Step, treated: dict[str, Treated], decisions: Decisions
) -> tuple[Outcome, str]:
    """Choose the grid of a registration group and take its lights' transforms to it."""
    leader = decisions.references.get(step.group)
    paths = [path for path in context.groups[step.group].frames if path in decisions.transforms]
    if leader is None or not paths:
        return "blocked", "no light is registered"
    params = context.params(step, FramingParams)
    reference = treated[leader].image.shape
    transforms = [decisions.transforms[path] for path in paths]
    found = framing.run(params, transforms, [treated[path].image.shape for path in paths], reference)
    grid = found.grid
    if found.wanted is not None:
        context.find(
            "FRM001",
            step.id,
            wanted_px=f"{found.wanted[0]:.0f} x {found.wanted[1]:.0f}",
            width_px=grid.width,
            height_px=grid.height,
            largest=params.largest,
        )
    if found.common is not None:
        context.find("FRM002", step.id, percent=100 * found.common, smallest_percent=100 * params.smallest)
    decisions.grids[step.group] = grid
    for path in paths:
        decisions.transforms[path] = framing.moved(decisions.transforms[path], grid)
    context.say(
        f"Grid {params.grid}: {grid.width} x {grid.height} px from column {grid.x0}, row {grid.y0} of the reference "
        f"({reference[1]} x {reference[0]} px)",
        step,
        x0=grid.x0,
        y0=grid.y0,
        width=grid.width,
        height=grid.height,
    )
    return "done", f"framing.grid={params.grid}"
