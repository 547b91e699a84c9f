"""Reference: the frame on whose grid all others are laid (guide, section 9.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from wbpy.stages.base import Input, Output, Params, Stage
from wbpy.stages.measure import Measurement


class ReferenceParams(Params, frozen=True, kw_only=True):
    """Which frame leads."""

    frame: Annotated[
        str,
        Meta(
            description="file name of a light, or path of an integration or another finished picture of the target, on "
            "whose grid all is laid; auto takes the best light"
        ),
    ] = "auto"


@dataclass(frozen=True)
class Reference:
    """The chosen frame and how all candidates scored."""

    index: int
    scores: tuple[float, ...]
    """1 would be the frame that is best in every respect; 0 for frames that cannot serve."""


def run(params: ReferenceParams, names: Sequence[str], measurements: Sequence[Measurement | None]) -> Reference | None:
    """Return the best frame, or None when no frame has measured stars.

    The score is the product of four ratios, each 1 for the best frame: FWHM squared (sharpness), star count (sky and
    transparency), noise of the middle channel, and roundness (minor over major axis). All of them worsen with what
    one does not want in a reference: seeing, clouds, a bright sky, trailing.

    Parameters
    ----------
    params : ReferenceParams
        The stage's parameters.
    names : sequence of str
        File names, for ``frame``.
    measurements : sequence of Measurement or None
        In the same order; None for frames that were lost.

    Returns
    -------
    Reference or None
        An explicit ``frame`` wins when it is there and has stars.
    """
    import math

    usable = [m is not None and m.count >= 3 and math.isfinite(m.fwhm) for m in measurements]
    good = [m for m, ok in zip(measurements, usable, strict=True) if ok and m is not None]
    if not good:
        return None
    sharpest = min(m.fwhm for m in good)
    richest = max(m.count for m in good)
    quietest = min(_noise(m) for m in good)
    scores = [
        (sharpest / m.fwhm) ** 2 * (m.count / richest) * _ratio(quietest, _noise(m)) * math.sqrt(1 - m.eccentricity**2)
        if ok and m is not None
        else 0.0
        for m, ok in zip(measurements, usable, strict=True)
    ]
    index = max(range(len(scores)), key=lambda i: (scores[i], -i))
    if params.frame != "auto":
        named = [i for i, name in enumerate(names) if name == params.frame and usable[i]]
        index = named[0] if named else index
    return Reference(index, tuple(scores))


def _noise(measurement: Measurement) -> float:
    return measurement.noise[len(measurement.noise) // 2]


def _ratio(best: float, value: float) -> float:
    return best / value if value > 0 else 1.0


REFERENCE = Stage(
    name="reference",
    version=1,
    per="registration group",
    title="Choose the registration reference",
    run=run,
    params=ReferenceParams,
    inputs=(Input("stars", "measurement"), Input("approval", "decision", optional=True)),
    outputs=(Output("reference", "decision", "frame"),),
    findings=("REF001", "REF002", "REF003"),
    memory=lambda height, width: 0,
)
