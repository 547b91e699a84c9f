"""The second pass once more, onto a finer grid: make the drizzle integration of lights that were integrated."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from wbpy.engine import products
from wbpy.engine.context import Context
from wbpy.engine.results import Decisions, Integrated, Treated, cfa_matrix, leader_of
from wbpy.engine.store import make_key
from wbpy.io.preview import write_preview
from wbpy.model import Frame, Outcome, Product, Step
from wbpy.stages import drizzle, integrate, measure, weigh
from wbpy.stages.drizzle import Coverage, DrizzleParams, Strip
from wbpy.stages.measure import MeasureParams


def drizzle_lights(
    context: Context,
    step: Step,
    chain: Sequence[Step],
    treated: dict[str, Treated],
    decisions: Decisions,
) -> tuple[Outcome, str]:
    """Make the drizzle integration of one group, unless it stands already.

    Parameters
    ----------
    context : Context
        The execution.
    step : Step
        The drizzle integration.
    chain : sequence of Step
        All steps of the plan that its frames went through, for HISTORY.
    treated : dict of str to Treated
        By path.
    decisions : Decisions
        What the integration of the same lights left.
    """
    import numpy as np

    done = decisions.integrated.get(step.group)
    if done is None:
        return "blocked", "the lights are not integrated"
    params = context.params(step, DrizzleParams)
    light = treated[done.paths[0]].frame
    cfa = cfa_matrix(light)
    channels = 1 if cfa is None else 3
    shape = channels, done.shape[0] * params.scale, done.shape[1] * params.scale
    key = make_key(context.params_key(step), done.key)
    files = {artifact.name: context.path_of(artifact) for artifact in step.outputs}
    abouts = {name: context.store.product(make_key(key, name), path) for name, path in files.items()}
    outcome: Outcome = "partial" if done.lost else "done"
    _judge(context, step, params, done, treated)
    # The first output is the picture, or the red one of three.
    main = next(iter(files))
    about = abouts[main]
    if about is not None and all(value is not None for value in abouts.values()):
        why = "lights, decisions, parameters and files are unchanged"
        outcome = "partial" if done.lost else "reused"
    else:
        why = f"made from {len(done.paths)} lights"
        refused = context.store.bits(done.refused)
        coverage = drizzle.no_coverage(channels)
        strips = drizzle.run(params, context.work(step), done.lights, done.shape, cfa, refused, coverage)
        frames = [treated[path].frame for path in done.paths]
        leader = treated[leader_of(context, decisions, done.paths)].frame
        headers = _headers(context, params, files, done, frames, leader, shape[1], key)
        about = _write(strips, files, headers, products.history(chain, {}, frames), shape, done.pedestal)
        about |= {name: getattr(coverage, name).tolist() for name in ("common", "holes", "thin")}
        for name, path in files.items():
            context.store.put_product(make_key(key, name), path, about if name == main else {})
    coverage = Coverage(*(np.array(about[name], np.int64) for name in ("common", "holes", "thin")))
    found = _report(context, step, params, about, coverage, cfa is not None)
    exposures = [e for path in done.paths if (e := treated[path].frame.exposure) is not None]
    for name, path in files.items():
        context.products.append(
            Product(
                kind=products.split_name(name, channels)[0],
                path=str(path),
                group=step.group,
                frames_used=len(done.paths),
                frames_excluded=len(context.groups[step.group].frames) - len(done.paths),
                exposure_total=round(sum(exposures), 6) if exposures else None,
                outcome=outcome,
                measurements=found if name == main else {},
            )
        )
    return outcome, why


def _judge(context: Context, step: Step, params: DrizzleParams, done: Integrated, treated: dict[str, Treated]) -> None:
    """Report what speaks against a drizzle of these lights (guide, section 9.8)."""
    import statistics

    is_cfa = treated[done.paths[0]].frame.cfa is not None
    limits = context.rules.findings["DRZ001"].limits
    factor, fewest = (limits["cfa_factor"], limits["cfa_fewest"]) if is_cfa else (1, limits["fewest"])
    needed = max(int(fewest), math.ceil(limits["lights"] * (params.scale / 2) ** 2 * factor))
    covered = weigh.phases_covered([(light.matrix, light.window.shape) for light in done.lights], 2 if is_cfa else 1)
    # What random dithering covers of the sixteen positions, less something for chance.
    wanted = (1 - limits["chance"]) * (1 - (15 / 16) ** needed)
    if len(done.paths) < needed or covered < wanted:
        context.find(
            "DRZ001",
            step.id,
            scale=params.scale,
            lights=len(done.paths),
            needed=needed,
            covered_percent=100 * covered,
            wanted_percent=100 * wanted,
        )
    widths = [treated[path].measurement.fwhm for path in done.paths]
    widths = [width for width in widths if math.isfinite(width)]
    sampled = context.rules.findings["DRZ003"].limits
    limit = sampled["fwhm_px"] * (sampled["cfa_factor"] if is_cfa else 1)
    if params.scale > 1 and widths and statistics.median(widths) > limit:
        context.find("DRZ003", step.id, scale=params.scale, fwhm_px=statistics.median(widths), limit_px=limit)


def _headers(
    context: Context,
    params: DrizzleParams,
    files: dict[str, Path],
    done: Integrated,
    frames: Sequence[Frame],
    leader: Frame,
    height: int,
    key: str,
) -> dict[str, list[products.Card]]:
    """Return the cards of every file: those of an integration, with the size of its own pixels."""
    import numpy as np

    order = products.row_order(context.plan, leader)
    finer = 1 / params.scale
    corner = (finer - 1) / 2
    sky = done.sky and done.sky.moved(np.array([[finer, 0.0, corner], [0.0, finer, corner], [0.0, 0.0, 1.0]]))
    headers = {}
    for name, path in files.items():
        what, planes = products.split_name(name, len(products.COLOURS))
        cards = [
            (keyword, value / params.scale if keyword in products.PIXEL_SIZES else value, comment)
            for keyword, value, comment in products.integration_cards(frames, leader, what, key, order)
        ]
        if what != name:
            cards = [card for card in cards if card[0] != "FILTER"]
            cards.append(("FILTER", products.COLOURS[planes.start], "channel of frames with a CFA"))
        cards += [
            ("DRIZSCAL", params.scale, "pixels per pixel of the reference, each axis"),
            ("DRIZFRAC", drizzle.shrink_of(params, frames[0].cfa is not None), "side of the drop, pixels of a light"),
            ("DRIZKERN", params.kernel, "form of the drop"),
        ]
        headers[name] = cards + products.sky_cards(sky, path, order, height)
    return headers


def _write(
    strips: Iterable[Strip],
    files: dict[str, Path],
    headers: dict[str, list[products.Card]],
    history: Sequence[str],
    shape: tuple[int, int, int],
    pedestal: float,
) -> dict[str, Any]:
    """Write result, weight map and preview as the strips arrive; return what is to be remembered."""
    import numpy as np

    channels, height, width = shape
    thumbnail = products.Thumbnail(shape)
    added: list[products.Card] = [("PEDESTAL", round(pedestal), "[DN] added to the result")] if pedestal else []
    below = above = 0
    y0, y1, x0, x1 = integrate.middle_of(shape[1:])
    middle = np.empty((y1 - y0, x1 - x0), np.float32)
    files["drizzle_preview"].parent.mkdir(exist_ok=True)
    with products.PictureFiles() as pictures:
        sheets: dict[str, list[tuple[str, slice]]] = {"drizzle": [], "drizzle_weight": []}
        for name, path in files.items():
            if name == "drizzle_preview":
                continue
            what, planes = products.split_name(name, channels)
            size = (planes.stop - planes.start, height, width) if planes.stop - planes.start > 1 else (height, width)
            is_picture = what == "drizzle"
            # In XISF the weights are a further image of the same file.
            inside = ["drizzle", "drizzle_weight"] if is_picture and "drizzle_weight" not in files else [what]
            images = [(f"{name}/{one}", one.removeprefix("drizzle_"), size) for one in inside]
            for one in inside:
                sheets[one].append((f"{name}/{one}", planes))
            pictures.add(path, images, headers[name] + (added if is_picture else []), history if is_picture else ())
        for strip in strips:
            rows = slice(max(y0, strip.y0), min(y1, strip.y0 + strip.image.shape[1]))
            if rows.start < rows.stop:
                inner = slice(rows.start - strip.y0, rows.stop - strip.y0)
                middle[rows.start - y0 : rows.stop - y0] = strip.image[channels // 2, inner, x0:x1]
            if pedestal:
                strip.image[:] += np.float32(pedestal)
            thumbnail.add(strip.y0, strip.image)
            for c in range(channels):
                pixels, cut_below, cut_above = products.to_unit_range(strip.image[c])
                below, above = below + cut_below, above + cut_above
                for what, rows_of in (("drizzle", pixels), ("drizzle_weight", strip.weight[c])):
                    for sheet, planes in sheets[what]:
                        if planes.start <= c < planes.stop:
                            pictures.write_rows(sheet, c - planes.start, strip.y0, rows_of)
        pictures.commit()
    small = thumbnail.image()
    write_preview(files["drizzle_preview"], small if channels > 1 else small[0])
    total = math.prod(shape)
    fwhm = measure.run(MeasureParams(), middle, None).fwhm
    return {"below": below / total, "above": above / total, "fwhm_px": fwhm if math.isfinite(fwhm) else None}


def _report(
    context: Context, step: Step, params: DrizzleParams, about: dict[str, Any], coverage: Coverage, is_cfa: bool
) -> dict[str, float | None]:
    """Report how the output is covered, from a fresh or an earlier drizzle; return its measurements."""
    import numpy as np

    common = np.maximum(coverage.common, 1)
    holes, thin = 100 * coverage.holes / common, 100 * coverage.thin / common
    worst = int(np.argmax(holes + thin))
    channel = ("red", "green", "blue")[worst] if is_cfa else "only"
    limits = context.rules.findings["DRZ002"].limits
    if holes[worst] > 100 * limits["holes"] or thin[worst] > 100 * limits["thin"]:
        context.find(
            "DRZ002",
            step.id,
            channel=channel,
            hole_percent=round(float(holes[worst]), 2),
            thin_percent=round(float(thin[worst]), 2),
            thin_share_percent=100 * drizzle.THIN,
            scale=params.scale,
        )
    limit = context.rules.findings["INT005"].limits["share"]
    if about["below"] + about["above"] > limit:
        context.find("INT005", step.id, below_percent=100 * about["below"], above_percent=100 * about["above"])
    fwhm = about["fwhm_px"]
    found = {
        "fwhm_px": fwhm,
        "fwhm_reference_px": fwhm / params.scale if fwhm is not None else None,
        "hole_percent": float(holes[worst]),
        "thin_percent": float(thin[worst]),
    }
    sharpness = f"; FWHM {fwhm:.2f} px, {fwhm / params.scale:.2f} px of the reference" if fwhm is not None else ""
    context.say(
        f"Where all lights overlap, nothing fell into {holes[worst]:.2f} % of the pixels, and less than "
        f"{100 * drizzle.THIN:.0f} % of the even share into {thin[worst]:.2f} %{sharpness}",
        step,
        **found,
    )
    return found
