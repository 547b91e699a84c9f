"""The plan as one HTML page: self-contained, without scripts, readable on a phone and on paper."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from wbpy.model import Plan, Scalar, Step
from wbpy.reporting import plan_view
from wbpy.reporting.plan_view import Calibration, PlanView, Serving
from wbpy.reporting.wording import count, duration, listing, plain, plan_summary, quoted, sentence, size

if TYPE_CHECKING:
    from wbpy.costs import Forecast

MOST_CALIBRATIONS = 250
"""Groups of lights that are shown in full; a page of more would take seconds to open."""

MOST_ROWS = 2000
"""Rows of the coverage table."""

MOST_STEPS = 1500

MOST_IN_BUNDLE = 50
"""Findings of one kind."""

OPEN_CALIBRATIONS = 6
"""Up to this number all diagrams are open from the start."""

PHASES = (
    ("Masters", ("masters",)),
    ("Each light, in one reading", ("calibrate", "overscan", "linedefects", "cosmetic", "measure")),
    ("Approval and registration", ("approve", "reference", "register", "framing")),
    ("Integrations", ("normalize", "weigh", "debayer", "integrate", "drizzle", "photometry", "crop", "rgb")),
)
"""Heads over runs of steps: a head stands wherever the kind of work changes."""


def plan_page(plan: Plan, forecast: Forecast | None = None) -> str:
    """Return the plan as an HTML document.

    Parameters
    ----------
    plan : Plan
        What is to be shown.
    forecast : Forecast, optional
        What it will cost on this machine; without it the plan's own estimate is shown.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("wbpy.reporting", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": count,
        "duration": duration,
        "size": size,
        "signed": signed,
        "seconds": seconds,
        "listing": listing,
        "plain": plain,
        "sentence": lambda finding: plain(sentence(finding)),
        "files": lambda paths: plain(plan_view.files_text(paths)),
    }
    view = PlanView(plan)
    return environment.get_template("plan.html").render(
        plan=plan,
        view=view,
        title=_title(view),
        summary=plan_summary(plan),
        command=f"wbpy run {quoted(_plan_file(plan))}",
        costs=_costs(plan, forecast),
        forecast=forecast,
        findings=[bundle for bundle in plan_view.bundles(plan.findings) if bundle.severity != "info"],
        notes=[bundle for bundle in plan_view.bundles(plan.findings) if bundle.severity == "info"],
        notes_number=sum(finding.severity == "info" for finding in plan.findings),
        coverage=[(row, _cells(row.calibration)) for row in view.coverage[:MOST_ROWS]],
        hidden_rows=max(0, len(view.coverage) - MOST_ROWS),
        calibrations=[
            (number, one, _diagram(view, one, number), _terms(one))
            for number, one in enumerate(view.calibrations[:MOST_CALIBRATIONS], 1)
        ],
        hidden_calibrations=max(0, len(view.calibrations) - MOST_CALIBRATIONS),
        all_open=len(view.calibrations) <= OPEN_CALIBRATIONS,
        anchors={one.group.id: f"light-{n}" for n, one in enumerate(view.calibrations[:MOST_CALIBRATIONS], 1)},
        phases=_phases(plan.steps[:MOST_STEPS]),
        hidden_steps=max(0, len(plan.steps) - MOST_STEPS),
        given=_given(plan),
        most_in_bundle=MOST_IN_BUNDLE,
        about=_about,
        changed=_changed,
        nearest=_nearest,
        failures=plan_view.failures,
        filter_of=plan_view.filter_of,
        target_of=plan_view.target_of,
        differences=plan_view.differences,
        same=_same,
        math=_math,
    )


def signed(number: float, unit: str = "") -> str:
    """Return a difference with its sign, one decimal at most: ``+1.5 °C``; 0 without one."""
    rounded = round(number, 1)
    text = f"{abs(rounded):g}"
    sign = "" if rounded == 0 else "+" if rounded > 0 else "−"
    return f"{sign}{text}{unit}"


def seconds(number: Scalar) -> str:
    """Return an exposure: ``300 s``, ``0.8 s``, ``1/500 s`` stays a decimal number."""
    return "unknown exposure" if not isinstance(number, int | float) else f"{float(number):.4g} s"


def _plan_file(plan: Plan) -> str:
    from pathlib import PurePath

    return str(PurePath(plan.out) / "plan.json")


def _title(view: PlanView) -> str:
    """Return what the plan is about: its targets, or its folder when it has none."""
    from pathlib import PurePath

    targets = list(dict.fromkeys(plan_view.target_of(result.group) for result in view.results))
    if not targets:
        return PurePath(view.plan.out).name or view.plan.out
    shown = targets if len(targets) <= 3 else [*targets[:3], f"{len(targets) - 3} more"]
    return listing([name[:1].upper() + name[1:] for name in shown])


def _costs(plan: Plan, forecast: Forecast | None) -> list[tuple[str, str, str]]:
    """Return the figures at the head of the page: name, value, remark."""
    estimate = plan.estimate
    if forecast is None:
        time, disk = ("Time", duration(estimate.seconds), "an order of magnitude"), ""
    else:
        basis = f"from {count(forecast.runs, 'earlier run')} here" if forecast.runs else "rates of another machine"
        time = ("Time", duration(forecast.seconds), f"{count(forecast.workers, 'thread')}, {basis}")
        disk = "" if forecast.disk_free is None else f"{size(forecast.disk_free)} free"
    total = sum(frame.size for frame in plan.frames)
    return [
        ("Frames", f"{len(plan.frames):,}".replace(",", " "), size(total)),
        time,
        ("Memory", size(estimate.peak_memory), "at most"),
        ("Disk", size(estimate.bytes_written), disk or "to write"),
        ("Read", size(estimate.bytes_read), "from disk, in all passes"),
    ]


def _given(plan: Plan) -> list[tuple[str, str, str]]:
    """Return what was set by preset, file or option: name, value, origin."""
    if plan.given:
        return [(name, _plain_value(param.value), param.origin) for name, param in sorted(plan.given.items())]
    return [
        (f"{section}.{name}", _plain_value(param.value), param.origin)
        for section, values in plan.settings.items()
        for name, param in values.items()
        if param.origin != "default"
    ]


def _phases(steps: Sequence[Step]) -> list[tuple[str, list[tuple[int, Step]]]]:
    found: list[tuple[str, list[tuple[int, Step]]]] = []
    for number, step in enumerate(steps, 1):
        name = next((name for name, stages in PHASES if step.stage in stages), step.stage)
        if not found or found[-1][0] != name:
            found.append((name, []))
        found[-1][1].append((number, step))
    return found


def _changed(step: Step) -> list[tuple[str, str]]:
    """Return parameters that are not defaults as words, those of one origin together."""
    by_origin: dict[str, list[str]] = {}
    for name, param in step.params.items():
        if param.origin != "default":
            by_origin.setdefault(param.origin, []).append(f"{name} {_plain_value(param.value)}")
    return [(", ".join(values), origin) for origin, values in by_origin.items()]


def _plain_value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} = {part}" for name, part in value.items())
    return ", ".join(str(part) for part in value) if isinstance(value, list | tuple) else str(value)


def _same(fields: Sequence[str]) -> str:
    """Return fields that are equal on both sides as words, the first ones by name."""
    named = ["CFA pattern" if name == "cfa" else name.replace("_", " ") for name in fields]
    return listing(named if len(named) <= 4 else [*named[:3], f"{len(named) - 3} more"])


def _about(view: PlanView, serving: Serving) -> str:
    """Return what a master is, in a few words: ``20 frames · 300 s · −10 °C``."""
    group = serving.group
    if group is None:
        return ""
    key = group.key
    parts = ["finished master" if group.is_master else count(len(group.frames), "frame")]
    if serving.role == "flat" and isinstance(key.get("filter"), str):
        parts.append(str(key["filter"]))
    if serving.role in ("dark", "flat_dark"):
        parts.append(seconds(key.get("exposure")))
    temperature = key.get("temperature")
    if serving.role != "flat" and isinstance(temperature, int | float):
        parts.append(_degrees(temperature))
    nights = view.nights_of(group)
    if serving.role == "flat" and nights:
        parts.append(nights[0] if len(nights) == 1 else f"{len(nights)} nights")
    return " · ".join(plain(part) for part in parts)


def _degrees(temperature: float) -> str:
    return f"{temperature:.1f} °C".replace("-", "−").replace(".0 ", " ")


def _nearest(serving: Serving) -> str:
    """Return the requirement that the nearest refused candidate failed, or what is missing altogether."""
    if not serving.refused:
        return f"there are no {serving.words} frames that could serve"
    nearest = serving.refused[0]
    return f"the nearest, {nearest.id}: {'; '.join(plan_view.failures(nearest)[:3]) or 'a requirement failed'}"


def _cells(one: Calibration) -> list[tuple[str, list[tuple[Serving, list[str]]]]]:
    """Return the cells of a coverage row: head, and what serves with the figures below it."""
    subtracted = [serving for operator, serving in one.operations if operator != "/"]
    flat = [] if one.flat is None else [one.flat]
    offset = [] if one.flat is None or one.flat.offset is None else [one.flat.offset]
    heads = (("Dark or bias", subtracted), ("Flat", flat), ("Flat’s offset", offset))
    return [(head, [(serving, _figures(serving)) for serving in servings]) for head, servings in heads]


def _figures(serving: Serving) -> list[str]:
    """Return how far a master is from what it serves: exposure, temperature, age."""
    if serving.group is None:
        return []
    found = []
    if serving.exposure is not None and abs(serving.exposure) >= 0.05:
        found.append(f"Δ {signed(serving.exposure, ' s')}")
    if serving.temperature is not None and serving.role != "flat":
        found.append(f"Δ {signed(serving.temperature, ' °C')}")
    if serving.age is not None:
        found.append(_age(serving.age))
    # A figure stays on one line with its sign and unit.
    return [figure.replace(" ", "\N{NO-BREAK SPACE}") for figure in found]


def _age(nights: int) -> str:
    if nights == 0:
        return "same night"
    return count(nights, "day") if nights > 0 else f"{count(-nights, 'day')} after"


def _terms(one: Calibration) -> list[tuple[str, str, Serving | None]]:
    """Return the symbols of the formula: symbol, meaning, and the master behind it."""
    served = one.served
    terms: list[tuple[str, str, Serving | None]] = [("L", "each light", None)]
    for symbol in ("B", "D", "F", "O"):
        serving = served.get(symbol)
        if serving is None or serving.group is None:
            continue
        made = "a finished master"
        if not serving.group.is_master:
            made = f"the average of {count(len(serving.group.frames), 'frame')}"
        less = ", each less O" if symbol == "F" and "O" in served else ""
        terms.append((symbol, f"master {serving.words}, {made}{less}", serving))
    if one.scaled == "measured":
        terms.append(("k", "measured in each light, by what it shows of the dark signal", None))
    elif one.scaled == "exposure":
        terms.append(("k", "exposure of the light over that of the dark", None))
    if "F" in served:
        colour = one.group.key.get("cfa") is not None
        separate = one.step is None or one.step.params["separate_flat_factors"].value
        each = ", one for each colour," if colour and separate else ""
        terms.append(("s", f"mean of F{each} so that the level stays", None))
    return terms


def _math(one: Calibration) -> str:
    """Return the formula as MathML."""
    served = one.served
    light = "<mi>L</mi>"
    if one.scaled:
        thermal = "<mo>(</mo><mi>D</mi><mo>−</mo><mi>B</mi><mo>)</mo>"
        top = f"{light}<mo>−</mo><mi>B</mi><mo>−</mo><mi>k</mi>{thermal}"
    else:
        top = next((f"{light}<mo>−</mo><mi>{symbol}</mi>" for symbol in ("D", "B") if symbol in served), light)
    body = f"<mrow>{top}</mrow>"
    if "F" in served:
        body = f"<mfrac><mrow>{top}</mrow><mi>F</mi></mfrac><mo>·</mo><mi>s</mi>"
    return f'<math display="block" aria-label="calibrated = {escape(one.formula)}">{body}</math>'


# --------------------------------------------------------------------------------------------------------------------
# the diagram

WIDTH = 400
TRUNK = 26
LEFT = 78
"""Where the boxes of the masters begin."""


def _diagram(view: PlanView, one: Calibration, number: int) -> str:
    """Return the way of the lights through their masters as SVG, top to bottom, so that it fits a phone."""
    parts: list[str] = []
    group = one.group
    lights = count(len(group.frames), "light")
    temperature = group.key.get("temperature")
    facts = [plan_view.filter_of(group), seconds(group.key.get("exposure"))]
    if isinstance(temperature, int | float):
        facts.append(_degrees(temperature))
    parts.append(_box(0, 0, WIDTH, 40, "light", lights, "", " · ".join(facts)))
    y = 40.0
    spoken = [lights]
    for operator, serving in one.operations:
        top = y + 16
        tall = 46
        middle = top + tall / 2
        present = serving.group is not None
        kind = "" if present else " off"
        parts.append(_line(TRUNK, y, TRUNK, middle - 13))
        if present:
            parts.append(_arrow(LEFT, middle, TRUNK + 13, middle))
            parts.append(f'<circle class="op" cx="{TRUNK}" cy="{middle:g}" r="13"/>')
            parts.append(f'<text class="sign" x="{TRUNK}" y="{middle + 6:g}">{SIGNS[operator]}</text>')
            name = f"Master {serving.words}" + (", scaled" if operator == "-k" else "")
            parts.append(
                _box(LEFT, top, WIDTH - LEFT, tall, serving.state, name, _about(view, serving), MARKS[serving.state])
            )
            spoken.append(f"{SPOKEN[operator]} {name.lower()} of {_about(view, serving)}")
        else:
            parts.append(f'<circle class="op off" cx="{TRUNK}" cy="{middle:g}" r="13"/>')
            title = "No dark and no bias" if serving.role != "flat" else "No flat"
            parts.append(_box(LEFT, top, WIDTH - LEFT, tall, f"missing{kind}", title, _consequence(serving.role), ""))
            spoken.append(title.lower())
        y = middle + 13
        bottom = top + tall
        offset = serving.offset
        if present and offset is not None:
            below = bottom + 14
            if offset.group is not None:
                parts.append(_arrow(LEFT + 40, below, LEFT + 40, bottom))
                parts.append(f'<text class="sign small" x="{LEFT + 26}" y="{below - 2:g}">−</text>')
                name = f"Master {offset.words}"
                about = _about(view, offset)
                parts.append(
                    _box(LEFT + 20, below, WIDTH - LEFT - 20, tall, offset.state, name, about, MARKS[offset.state])
                )
                spoken.append(f"the flats less {name.lower()} of {about}")
            else:
                parts.append(
                    _box(
                        LEFT + 20,
                        below,
                        WIDTH - LEFT - 20,
                        tall,
                        "missing off",
                        "No flat-dark and no bias",
                        "the flats keep their offset",
                        "",
                    )
                )
                spoken.append("the flats keep their offset")
            bottom = below + tall
        parts.append(_line(TRUNK, y, TRUNK, bottom))
        y = bottom
    end = y + 22
    parts.append(_arrow(TRUNK, y, TRUNK, end))
    into = (
        f"to {_short(one.results[0], 30)}" if len(one.results) == 1 else f"to {count(len(one.results), 'integration')}"
    )
    parts.append(_box(0, end, WIDTH, 40, "light", "Calibrated", "", into if one.results else ""))
    height = end + 41
    label = escape("; ".join(spoken))
    return f'<svg viewBox="-1 -1 {WIDTH + 2} {height + 1:g}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


MARKS = {"exact": "", "pinned": "by hand", "unverified": "unverified", "compromise": "compromise", "missing": ""}
SIGNS = {"-": "−", "-k": "−", "/": "÷"}
SPOKEN = {"-": "less", "-k": "less", "/": "divided by"}


def _consequence(role: str) -> str:
    return "vignetting and dust stay" if role == "flat" else "offset and hot pixels stay"


def _short(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _box(x: float, y: float, w: float, h: float, kind: str, title: str, below: str, right: str) -> str:
    """Return a box with a title, a line below it and a remark at its right edge."""
    base = y + (h / 2 + 5 if not below else 19)
    text = f'<text class="name" x="{x + 12:g}" y="{base:g}">{escape(title)}</text>'
    if below:
        text += f'<text class="fact" x="{x + 12:g}" y="{base + 18:g}">{escape(_short(below, 44))}</text>'
    if right:
        style = "fact" if kind == "light" else "mark"
        text += f'<text class="{style} end" x="{x + w - 12:g}" y="{base:g}">{escape(_short(plain(right), 36))}</text>'
    return f'<rect class="box {kind}" x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="6"/>{text}'


def _line(x0: float, y0: float, x1: float, y1: float) -> str:
    return f'<path class="wire" d="M{x0:g} {y0:g}L{x1:g} {y1:g}"/>'


def _arrow(x0: float, y0: float, x1: float, y1: float) -> str:
    """Return a straight line with a head at its end."""
    if y0 == y1:
        step = -6 if x1 < x0 else 6
        head = f"M{x1 - step:g} {y1 - 4:g}L{x1:g} {y1:g}L{x1 - step:g} {y1 + 4:g}"
    else:
        step = -6 if y1 < y0 else 6
        head = f"M{x1 - 4:g} {y1 - step:g}L{x1:g} {y1:g}L{x1 + 4:g} {y1 - step:g}"
    return f'<path class="wire" d="M{x0:g} {y0:g}L{x1:g} {y1:g}{head}"/>'
