"""The second pass: integrate the lights and write the products."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wbpy.engine import products
from wbpy.engine.astrometry import sky_of
from wbpy.engine.context import Context
from wbpy.engine.keeping import kept_path, write_kept
from wbpy.engine.results import Decisions, Integrated, Treated, cfa_matrix, grid_of, leader_of
from wbpy.engine.store import make_key
from wbpy.io.preview import write_preview
from wbpy.model import Frame, Outcome, Product, Step
from wbpy.stages import debayer, dither, integrate
from wbpy.stages.debayer import DebayerParams
from wbpy.stages.integrate import Counts, IntegrateParams, Light
from wbpy.stages.register import Transform

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from wbpy.io.wcs import Wcs


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
    leader = leader_of(context, decisions, paths)
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
            decisions.transforms[path].displacement,
            decisions.transforms[path].displacement_step,
            saturation=treated[path].numbers.get("saturation_dn") or math.inf,
            fwhm=treated[path].measurement.fwhm,
            noise=treated[path].measurement.noise,
            background=treated[path].measurement.background,
            e_per_dn=treated[path].frame.e_per_dn,
            sided=normalized[path].sided,
            judged=normalized[path].judged,
        )
        for path in paths
    ]
    height, width = grid_of(context, treated, decisions, paths).shape
    sky = sky_of(context, step, treated, decisions, paths)
    side = debayer.joined(debayer_params, cfa)
    if cfa is not None and side > 1:
        samples = (np.bincount(cfa.ravel(), minlength=3) * side * side // cfa.size).tolist()
        lights = [integrate.on_joined_pixels(light, side, samples) for light in lights]
        height, width = height // side, width // side
        shift = (side - 1) / 2
        sky = sky and sky.moved(np.array([[side, 0.0, shift], [0.0, side, shift], [0.0, 0.0, 1.0]]))
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
                light.surface_step,
                [surface.tolist() for surface in light.surfaces],
                [light.displacement.tolist(), light.displacement_step],
                [light.fwhm, light.noise, light.background, light.e_per_dn],
                [[nodes.tolist() for nodes in light.sided], light.judged],
            ]
            for path, light in zip(paths, lights, strict=True)
        ],
        None if sky is None else [list(card) for card in sky.cards()],
        # The header tells it, and it turns the rows of an XISF file.
        products.row_order(context.plan, treated[leader].frame),
    )
    files = {artifact.name: context.path_of(artifact) for artifact in step.outputs}
    abouts = {name: context.store.product(make_key(key, name), path) for name, path in files.items()}
    frames = [treated[path].frame for path in paths]
    _write_resampled(context, params, debayer_params, debayer_step, frames, lights, (height, width), key, chain)
    # The first output is the picture, or the red one of three.
    main = next(iter(files))
    about = abouts[main]
    drizzled = any((other.stage, other.group) == ("drizzle", step.group) for other in context.plan.steps)
    refused = make_key("refused", key)
    pedestal = _needed_pedestal(params, treated, decisions, step.group, paths)
    known = not drizzled or context.store.bits(refused) is not None
    if about is not None and known and all(value is not None for value in abouts.values()):
        why = "lights, decisions, parameters and files are unchanged"
        outcome = "partial" if lost else "reused"
    else:
        why = f"made from {len(paths)} lights"
        if pedestal and params.pedestal == "auto":
            context.find("INT003", step.id, pedestal_dn=pedestal)
        counts = Counts(*(np.zeros(len(paths), np.int64) for _ in range(3)))
        headers = _headers(context, files, frames, treated[leader].frame, sky, side, height, key)
        shape = channels, height, width
        with contextlib.ExitStack() as stack:
            bits = (channels, len(lights), height, width)
            sink = stack.enter_context(context.store.put_bits(refused, bits)) if drizzled else None
            work = context.work(step)
            strips = integrate.run(params, debayer_params, work, lights, (height, width), cfa, counts, sink)
            odd_share = context.rules.findings["INT007"].limits["lights"]
            about, middle = _write_integration(
                params, chain, strips, files, frames, headers, shape, pedestal, odd_share
            )
        offered = np.maximum(counts.offered, 1)
        about["rejected_low"] = (counts.low / offered).tolist()
        about["rejected_high"] = (counts.high / offered).tolist()
        noises = [light.noise[channels // 2] for light in lights]
        found = integrate.quality(params, debayer_params, middle, lights, noises, (height, width), cfa)
        about["quality"] = found.numbers()
        about["pattern"] = _left_pattern(context, step, middle, side, [decisions.transforms[path] for path in paths])
        for name, path in files.items():
            context.store.put_product(make_key(key, name), path, about if name == main else {})
    _report(context, step, about, paths)
    excluded = len(group.frames) - len(paths)
    if lost:
        context.find("INT001", step.id, lost=len(lost), used=len(paths), names=", ".join(Path(p).name for p in lost))
    for name, path in files.items():
        exposures = [frame.exposure for frame in frames if frame.exposure is not None]
        context.products.append(
            Product(
                kind=products.split_name(name, channels)[0],
                path=str(path),
                group=step.group,
                frames_used=len(paths),
                frames_excluded=excluded,
                exposure_total=round(sum(exposures), 6) if exposures else None,
                outcome=outcome,
                measurements=about["quality"] if name == main else {},
            )
        )
    decisions.integrated[step.group] = Integrated(
        tuple(paths), tuple(lights), (height, width), key, refused, pedestal, sky, bool(lost)
    )
    return outcome, why


def _headers(
    context: Context,
    files: dict[str, Path],
    frames: Sequence[Frame],
    reference: Frame,
    sky: Wcs | None,
    side: int,
    height: int,
    key: str,
) -> dict[str, list[products.Card]]:
    """Return the cards of every file of an integration whose pixels are `side` of a light's, by name of the output."""
    order = products.row_order(context.plan, reference)
    headers = {}
    for name, path in files.items():
        what, planes = products.split_name(name, len(products.COLOURS))
        cards = [
            (keyword, side * value if side > 1 and keyword in products.PIXEL_SIZES else value, comment)
            for keyword, value, comment in products.integration_cards(frames, reference, what, key, order)
        ]
        if what != name:
            cards = [card for card in cards if card[0] != "FILTER"]
            cards.append(("FILTER", products.COLOURS[planes.start], "channel of frames with a CFA"))
        headers[name] = cards + products.sky_cards(sky, path, order, height)
    return headers


def _needed_pedestal(
    params: IntegrateParams,
    treated: dict[str, Treated],
    decisions: Decisions,
    group: str,
    paths: Sequence[str],
) -> float:
    """Return the DN to add to the result, so that cutting it to [0, 1] loses no noise below a faint background.

    Automatic: when the background lies less than 5 sigma of a single light above zero, as much as brings it there, in
    whole DN. The noise of one light, not of the average, because borders are covered by few lights, and to leave
    room for the darker corners of a gradient.
    """
    if params.pedestal != "auto":
        return float(params.pedestal)
    normalized = decisions.normalizations[group]
    needed = 0.0
    for c in range(len(normalized[paths[0]].scale)):
        noise = max(normalized[path].scale[c] * treated[path].measurement.noise[c] for path in paths)
        level = min(
            normalized[path].scale[c] * treated[path].measurement.background[c] + normalized[path].offset[c]
            for path in paths
        )
        needed = max(needed, 5 * noise - level)
    return float(math.ceil(needed)) if needed > 0 else 0.0


def _write_integration(
    params: IntegrateParams,
    chain: Sequence[Step],
    strips: Any,
    files: dict[str, Path],
    frames: Sequence[Frame],
    headers: dict[str, list[products.Card]],
    shape: tuple[int, int, int],
    pedestal: float,
    odd_share: float,
) -> tuple[dict[str, Any], npt.NDArray[np.float32]]:
    """Write result, maps and preview as the strips arrive.

    Return what is to be remembered, and the middle of the green or only channel, DN, without the pedestal.
    """
    import numpy as np

    notes = products.history(chain, {}, frames)
    thumbnail = products.Thumbnail(shape)
    added: list[products.Card] = [("PEDESTAL", round(pedestal), "[DN] added to the result")] if pedestal else []
    below = above = uncovered = 0
    files["preview"].parent.mkdir(exist_ok=True)
    maps = ("rejection_low", "rejection_high", *params.maps)
    # Variance in the unit of the picture.
    units = {name: np.float32(1 / products.DN_RANGE**2) for name in ("variance", "variance_expected")}
    y0, y1, x0, x1 = integrate.middle_of(shape[1:])
    middle = np.empty((y1 - y0, x1 - x0), np.float32)
    regions = integrate.Regions(shape[1:])
    with products.PictureFiles() as pictures:
        sheets: dict[str, list[tuple[str, slice]]] = {}
        for name, path in files.items():
            if name == "preview":
                continue
            what, planes = products.split_name(name, shape[0])
            size = (planes.stop - planes.start, *shape[1:]) if planes.stop - planes.start > 1 else shape[1:]
            is_picture = what == "integration"
            inside = [what, *(one for one in maps if is_picture and one not in files)]
            images = [(f"{name}/{one}", one, size) for one in inside]
            for one in inside:
                sheets.setdefault(one, []).append((f"{name}/{one}", planes))
            pictures.add(path, images, headers[name] + (added if is_picture else []), notes if is_picture else ())
        for strip in strips:
            regions.add(strip)
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
            for what, image in written.items():
                for sheet, planes in sheets.get(what, ()):
                    for channel, plane in enumerate(image[planes]):
                        pictures.write_rows(sheet, channel, strip.y0, plane)
        pictures.commit()
    small = thumbnail.image()
    write_preview(files["preview"], small if shape[0] > 1 else small[0])
    total = math.prod(shape)
    about: dict[str, Any] = {"below": below / total, "above": above / total, "uncovered": uncovered / total}
    about["odd_region"] = regions.odd(len(frames), odd_share)
    return about, middle


def _report(context: Context, step: Step, about: dict[str, Any], paths: Sequence[str]) -> None:
    """Report what was rejected and cut, from a fresh or an earlier integration."""
    params = context.params(step, IntegrateParams)
    shares = [low + high for low, high in zip(about["rejected_low"], about["rejected_high"], strict=True)]
    limit = integrate.plausible_share(params, shares, context.rules.findings["INT004"].limits)
    for path, low, high in zip(paths, about["rejected_low"], about["rejected_high"], strict=True):
        measured = context.frame_results[path].measurements
        context.frame_result(path, measurements={**measured, "rejected_low": low, "rejected_high": high})
        if low + high > limit:
            context.find("INT004", path, percent=100 * (low + high), limit_percent=100 * limit)
    if about["odd_region"] is not None:
        x, y, part, share = about["odd_region"]
        context.find("INT007", step.id, x_px=round(x), y_px=round(y), picture_percent=100 * part, percent=100 * share)
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
    _report_pattern(context, step, about, len(paths))
    numbers = about["quality"]
    if numbers["noise_dn"] is not None and numbers["snr_gain"] is not None:
        text = (
            f"Noise {numbers['noise_dn']:.2f} DN, {numbers['snr_gain']:.2f} times below that of the best light "
            f"({numbers['snr_gain_predicted'] or math.nan:.2f} expected)"
        )
        if numbers["fwhm_px"] is not None and numbers["fwhm_best_light_px"] is not None:
            text += f"; FWHM {numbers['fwhm_px']:.2f} px, {numbers['fwhm_best_light_px']:.2f} px in that light"
        context.say(text, step, **numbers)


def _left_pattern(
    context: Context, step: Step, middle: npt.NDArray[np.float32], side: int, transforms: Sequence[Transform]
) -> dict[str, Any]:
    """Return how the lights were dithered, and the share of the noise in streaks where they drifted.

    `side` is the number of pixels of a light that make one of the picture.
    """
    import numpy as np

    from wbpy.kernels import texture

    if len(transforms) < 2:
        return {"dither": None}
    centre = np.array([[(side * size - 1) / 2 for size in middle.shape[::-1]]])
    series = dither.measure(np.concatenate([transform.invert(centre) for transform in transforms]) / side)
    limits = [dict(context.rules.findings[id].limits) for id in ("DTH002", "DTH003", "DTH001")]
    found: dict[str, Any] = {"dither": dither.finding(series, *limits)}
    if found["dither"] == "DTH002":
        share, error = texture.streaks(middle, series.direction, series.step, series.drift)
        if math.isfinite(share):
            found |= {"share": share, "error": error, "direction": series.direction, "drift": series.drift}
            context.say(
                f"{100 * share:.1f} +- {100 * error:.1f} % of the noise variance runs in streaks along the drift",
                step,
                share=share,
                error=error,
            )
    return found


def _report_pattern(context: Context, step: Step, about: dict[str, Any], lights: int) -> None:
    """Report what the pattern of the sensor left in an integration."""
    pattern, quality = about["pattern"], about["quality"]
    limits = context.rules.findings["INT008"].limits
    share = pattern.get("share", 0.0)
    if share > max(limits["share"], limits["errors"] * pattern.get("error", 0.0)):
        context.find(
            "INT008",
            step.id,
            percent=100 * share,
            direction_deg=pattern["direction"],
            drift_px=pattern["drift"],
        )
    noise, promised = quality["noise_dn"], quality["noise_predicted_dn"]
    limit = context.rules.findings["INT009"].limits["ratio"]
    if pattern["dither"] in ("DTH001", "DTH003") and noise and promised and noise > limit * promised:
        context.find("INT009", step.id, noise_dn=noise, ratio=noise / promised, lights=lights, promised_dn=promised)


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
                        integrate.resample(params, debayer_params, light, cfa, tile, x, y)
                        planes[:, y : y + side, x : x + side] = tile
                write_kept(context, frame, "registered", planes if cfa is not None else planes[0], own, chain)
