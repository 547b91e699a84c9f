"""Weigh: how much each frame counts in its integration (guide, section 9.4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import Meta

from wbpy.stages.base import Input, Output, Params, Stage
from wbpy.stages.measure import Measurement
from wbpy.stages.normalize import Normalization


class WeighParams(Params, frozen=True, kw_only=True):
    """What the weight of a frame follows."""

    method: Annotated[
        Literal["psf_scale_snr", "none"],
        Meta(description="psf_scale_snr: inverse variance after scaling by star flux; none: all alike"),
    ] = "psf_scale_snr"
    minimum: Annotated[float, Meta(ge=0, lt=1, description="frames below this share of the best are excluded")] = 0.05


def run(
    params: WeighParams, measurements: Sequence[Measurement], normalizations: Sequence[Normalization]
) -> list[tuple[float, ...]]:
    """Return the weight of each frame, one value a channel, the best frame of a channel 1.

    ``1 / (k sigma)^2``: the inverse variance of a pixel once the frame is scaled to the reference's star flux. It is
    the weight that gives the average the highest signal-to-noise ratio, and it falls with a bright sky (sigma
    grows) as with cloud (k grows). This is what the reference implementation calls PSF Scale SNR.
    """
    channels = len(measurements[0].noise)
    if params.method == "none":
        return [(1.0,) * channels for _ in measurements]
    raw = [
        tuple(_inverse_square(k * sigma) for k, sigma in zip(n.scale, m.noise, strict=True))
        for m, n in zip(measurements, normalizations, strict=True)
    ]
    best = [max(weights[c] for weights in raw) for c in range(channels)]
    return [tuple(w / b if b > 0 else 1.0 for w, b in zip(weights, best, strict=True)) for weights in raw]


def _inverse_square(value: float) -> float:
    return 1.0 / value**2 if value > 0 else 0.0


WEIGH = Stage(
    name="weigh",
    version=1,
    per="integration group",
    title="Weigh the frames",
    run=run,
    params=WeighParams,
    inputs=(Input("stars", "measurement"), Input("normalization", "normalization")),
    outputs=(Output("weights", "weight", "1"),),
    findings=("WGT001",),
    memory=lambda height, width: 0,
)
