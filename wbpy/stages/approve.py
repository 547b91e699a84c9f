"""Approve: which lights take part, and what is wrong with the others (guide, section 9.4).

Three things are kept apart. *Limits* exclude; none is set by default. A *list* of the user's overrules them. *Names*
(cloud, haze, trailing, defocus, bright sky) follow from the pattern of all measurements and exclude nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from wbpy.stages.base import Input, Output, Params, Stage
from wbpy.stages.measure import Measurement

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

LIMIT = r"^(none|\d+(\.\d+)?(%(best|median)?)?|k\d+(\.\d+)?)$"
"""The whole grammar of limits: a value, a percentage of the best or the median light, or k sigma from the median."""


def _limit(what: str) -> Meta:
    return Meta(pattern=LIMIT, description=f"{what}: value, `N%best`, `N%median` or `kN`; none for no limit")


class ApproveParams(Params, frozen=True, kw_only=True):
    """Limits on measured values, and the user's own list."""

    stars: Annotated[str, _limit("fewest stars")] = "none"
    fwhm_px: Annotated[str, _limit("largest FWHM in px")] = "none"
    fwhm_arcsec: Annotated[str, _limit("largest FWHM in arcsec")] = "none"
    eccentricity: Annotated[str, _limit("largest eccentricity")] = "none"
    background_dn: Annotated[str, _limit("brightest background in DN")] = "none"
    noise_dn: Annotated[str, _limit("largest noise in DN")] = "none"
    transparency: Annotated[str, _limit("least flux of the stars, the median light 1")] = "none"
    list: Annotated[
        str,
        Meta(description="CSV file with the lights to take or to leave out, in the form of OUT/approval.csv"),
    ] = ""


HIGHER_IS_BETTER = {
    "stars": True,
    "fwhm_px": False,
    "fwhm_arcsec": False,
    "eccentricity": False,
    "background_dn": False,
    "noise_dn": False,
    "transparency": True,
}
"""Metrics that can be limited, and on which side the limit lies."""

Name = Literal["cloud", "haze", "trailing", "defocus", "bright_sky", "no_stars"]

NAMED: dict[Name, str] = {
    "cloud": "APP011",
    "haze": "APP012",
    "trailing": "APP013",
    "defocus": "APP014",
    "bright_sky": "APP015",
    "no_stars": "APP016",
}
"""What lights are called, and the finding that says so."""


@dataclass(frozen=True)
class Candidate:
    """One light that is judged."""

    measurement: Measurement
    comparable: Hashable
    """Lights are compared with those of an equal value: same exposure, camera, binning."""
    time: float
    """Start of the exposure in any unit; NaN when unknown."""
    arcsec_per_px: float | None
    flux: float | None
    """Flux of its stars over that of the same stars in a frame common to all; None when no star could be matched."""
    listed: bool | None
    """What the user's list says of it; None when it says nothing."""


@dataclass(frozen=True)
class Verdict:
    """What was decided about one light, and why."""

    approved: bool
    values: Mapping[str, float | None]
    """Metric -> value."""
    names: Mapping[Name, Mapping[str, float]]
    """What the light looks like -> the numbers that say so."""
    metric: str | None = None
    """The metric beyond its limit; None when approved or excluded by the list."""
    limit: float | None = None
    """The limit as a value of the metric."""
    rule: str = ""
    """The limit as it was given, or ``list``."""


def run(
    params: ApproveParams, lights: Sequence[Candidate], thresholds: Mapping[Name, Mapping[str, float]]
) -> tuple[list[Verdict], list[str]]:
    """Return what is decided about each light, and the metrics whose limit cannot be applied.

    Parameters
    ----------
    params : ApproveParams
        The limits.
    lights : sequence of Candidate
        The lights of one integration.
    thresholds : mapping of str to mapping
        Name -> its limits, as ``rules/findings/approve.toml`` has them.

    Returns
    -------
    verdicts : list of Verdict
        In the order of the lights. A light without a value for a limited metric is excluded, unless no light of its
        kind has one. A light that the list approves is kept whatever the limits say.
    unusable : list of str
        Limited metrics of which no light has a value.
    """
    values = [_values(light) for light in lights]
    names: list[dict[Name, dict[str, float]]] = [{}] * len(lights)
    beyond: list[tuple[str, float, str] | None] = [None] * len(lights)
    unusable = []
    for members in _sets(lights):
        some = [lights[i] for i in members]
        for i, clear in zip(members, _transparency(some), strict=True):
            values[i]["transparency"] = clear
        own = [values[i] for i in members]
        for i, found in zip(members, _names(some, own, thresholds), strict=True):
            names[i] = found
        for metric, higher in HIGHER_IS_BETTER.items():
            rule: str = getattr(params, metric)
            if rule == "none":
                continue
            limit = limit_value(rule, [v[metric] for v in own], higher)
            if limit is None:
                unusable.append(metric)
                continue
            for i in members:
                value = values[i][metric]
                bad = value is None or (value < limit if higher else value > limit)
                if bad and beyond[i] is None:
                    beyond[i] = (metric, limit, rule)
    verdicts = []
    for light, value_of, name, over in zip(lights, values, names, beyond, strict=True):
        if light.listed is False:
            verdicts.append(Verdict(False, value_of, name, rule="list"))
        elif over is None or light.listed:
            verdicts.append(Verdict(True, value_of, name))
        else:
            verdicts.append(Verdict(False, value_of, name, *over))
    return verdicts, list(dict.fromkeys(unusable))


def limit_value(rule: str, values: Sequence[float | None], higher_is_better: bool) -> float | None:
    """Return a limit as a value of its metric; None when it needs other values and there are none.

    Examples
    --------
    >>> limit_value("150%best", [2.0, 2.4, None], higher_is_better=False)
    3.0
    >>> limit_value("4.5", [None], higher_is_better=False) is None
    True
    """
    import statistics

    known = [value for value in values if value is not None]
    if not known:
        return None
    middle = statistics.median(known)
    if rule.startswith("k"):
        sigma = 1.4826 * statistics.median(abs(value - middle) for value in known)
        return middle - float(rule[1:]) * sigma if higher_is_better else middle + float(rule[1:]) * sigma
    number, percent, of = re.sub(r"%", " % ", rule).partition(" % ")
    if not percent:
        return float(number)
    best = max(known) if higher_is_better else min(known)
    return float(number) / 100 * (best if of == "best" else middle)


def _transparency(lights: Sequence[Candidate]) -> list[float | None]:
    """Return how much light of the stars came through in each frame, the median frame 1."""
    import statistics

    known = [light.flux for light in lights if light.flux is not None]
    middle = statistics.median(known) if known else 1.0
    return [None if light.flux is None else light.flux / middle for light in lights]


def _values(light: Candidate) -> dict[str, float | None]:
    m = light.measurement
    middle = len(m.noise) // 2
    fwhm = None if math.isnan(m.fwhm) else m.fwhm
    scale = light.arcsec_per_px
    return {
        "stars": float(m.count),
        "fwhm_px": fwhm,
        "fwhm_arcsec": None if fwhm is None or scale is None else fwhm * scale,
        "eccentricity": None if math.isnan(m.eccentricity) else m.eccentricity,
        "background_dn": m.background[middle],
        "noise_dn": m.noise[middle],
        "transparency": None,
    }


def _sets(lights: Sequence[Candidate]) -> list[list[int]]:
    """Return the indices of lights that can be compared with each other."""
    sets: dict[Hashable, list[int]] = {}
    for index, light in enumerate(lights):
        sets.setdefault(light.comparable, []).append(index)
    return list(sets.values())


def _names(
    lights: Sequence[Candidate],
    values: Sequence[Mapping[str, float | None]],
    thresholds: Mapping[Name, Mapping[str, float]],
) -> list[dict[Name, dict[str, float]]]:
    """Return what the measurements of each light look like beside those of the others.

    One cause shows in several numbers: cloud takes light from all stars, haze does so for a while, guiding errors
    draw all stars out in one direction, a lost focus widens them and leaves their light, moon and dawn raise sky and
    noise and leave the stars.
    """
    import numpy as np

    if len(lights) < 5:
        return [{} for _ in lights]

    def column(metric: str) -> npt.NDArray[np.float64]:
        return np.array([math.nan if v[metric] is None else v[metric] for v in values], dtype=np.float64)

    def middle(values: npt.NDArray[np.float64]) -> float:
        known = values[np.isfinite(values)]
        return float(np.median(known)) if known.size else math.nan

    clear, fwhm = column("transparency"), column("fwhm_px")
    background, noise = column("background_dn"), column("noise_dn")
    # Compared with the clearer half: where most of a night is cloudy, the median is no clear frame.
    clear = clear / np.nanpercentile(clear, 75) if np.isfinite(clear).any() else clear
    dip = _dips(clear, np.array([light.time for light in lights]))
    cloud, haze, trailing = thresholds["cloud"], thresholds["haze"], thresholds["trailing"]
    defocus, bright = thresholds["defocus"], thresholds["bright_sky"]
    rich = middle(column("stars"))
    width, sky, grain = fwhm / middle(fwhm), background / middle(background), noise / middle(noise)
    found: list[dict[Name, dict[str, float]]] = []
    for i, light in enumerate(lights):
        names: dict[Name, dict[str, float]] = {}
        m = light.measurement
        if clear[i] < cloud["transparency"]:
            names["cloud"] = {"percent": 100 * float(clear[i]), "stars": m.count}
        elif dip[i] < haze["dip"]:
            names["haze"] = {"percent": 100 * float(dip[i])}
        # Measured against nothing but themselves: in a night of trailed frames none stands out.
        if m.eccentricity > trailing["eccentricity"] and m.coherence > trailing["coherence"]:
            names["trailing"] = {"eccentricity": m.eccentricity, "angle_deg": m.angle}
        elif width[i] > defocus["fwhm_ratio"]:
            names["defocus"] = {"ratio": float(width[i]), "fwhm_px": m.fwhm}
        elif math.isnan(clear[i]) and m.count < thresholds["no_stars"]["stars"] * rich:
            # Too few stars are left to be matched with those of other frames, and their shape does not explain it.
            names["no_stars"] = {"stars": m.count, "usual": rich, "background_dn": float(background[i])}
            names["no_stars"]["sky_dn"] = middle(background)
        if (
            not names.keys() & {"cloud", "no_stars"}
            and sky[i] > bright["background_ratio"]
            and grain[i] > bright["noise_ratio"]
        ):
            names["bright_sky"] = {"ratio": float(sky[i]), "background_dn": float(background[i])}
        found.append(names)
    return found


def _dips(values: npt.NDArray[np.float64], times: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return each value over the lower of the highest before and the highest after it; 1 where that is unknown.

    Extinction near the horizon lowers one end of a night, a passing veil what lies between better frames.
    """
    import numpy as np

    dips = np.ones(len(values))
    order = np.argsort(times, kind="stable")
    if not np.isfinite(times).all():
        return dips
    series = np.nan_to_num(values[order])
    before = np.maximum.accumulate(series)
    after = np.maximum.accumulate(series[::-1])[::-1]
    shoulder = np.minimum(before, after)
    dips[order] = np.divide(series, shoulder, out=np.ones(len(series)), where=(shoulder > 0) & (series > 0))
    return dips


APPROVE = Stage(
    name="approve",
    version=1,
    per="integration group",
    title="Judge the lights and exclude those beyond the limits",
    run=run,
    params=ApproveParams,
    inputs=(Input("stars", "measurement"),),
    outputs=(Output("approved", "decision", "frame"),),
    findings=("APP001", "APP002", "APP003", "APP004", "APP005", *NAMED.values(), "MEA002"),
    memory=lambda height, width: 0,
)
