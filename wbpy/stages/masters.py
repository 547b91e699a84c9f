"""Masters: many calibration frames averaged into one, with outliers rejected (guide, section 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from wbpy.stages.base import Input, Output, Params, Reader, Stage, Work

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from wbpy.stages.base import FloatArray

Rejection = Literal["auto", "none", "minmax", "percentile", "sigma", "winsorized"]


class MastersParams(Params, frozen=True, kw_only=True):
    """How calibration frames are combined."""

    rejection: Annotated[Rejection, Meta(description="pixel rejection; auto takes it from rules/integration.toml")] = (
        "auto"
    )
    low: Annotated[float, Meta(ge=0, description="limit below the centre, in the unit of the algorithm")] = 4.0
    high: Annotated[float, Meta(ge=0, description="limit above the centre, in the unit of the algorithm")] = 3.0


@dataclass(frozen=True)
class Master:
    """A master and how it came about."""

    image: FloatArray
    """(H, W) float32, DN; NaN where no frame had a value."""
    levels: tuple[float, ...]
    """Median of each frame as read, after calibration for flats, DN."""
    rejected_low: tuple[float, ...]
    """Share of each frame's pixels that was rejected as too dark."""
    rejected_high: tuple[float, ...]
    """Share of each frame's pixels that was rejected as too bright."""


def run(
    params: MastersParams, work: Work, frames: Sequence[Reader], role: str, calibration: FloatArray | None = None
) -> Master:
    """Return the master of `frames`.

    Bias, dark and flat-dark frames are averaged as they are. Flats are calibrated first, then scaled to the median
    of the first one, both for the rejection (equalized fluxes) and for the average (multiplicative normalization),
    because the light of a flat panel or of the sky differs from frame to frame.

    Parameters
    ----------
    params : MastersParams
        Rejection, already resolved (not ``auto``).
    work : Work
        Pool and memory.
    frames : sequence of Reader
        At least one, all of the same shape.
    role : str
        Role of the frames.
    calibration : (H, W) float32 ndarray, optional
        Master flat-dark or bias to subtract from each flat, DN.

    Returns
    -------
    Master
        Mean of the samples kept, equal weights, float64 accumulation.
    """
    import numpy as np

    from wbpy.kernels import combine, rejection

    height, width = frames[0].shape
    count = len(frames)
    image = np.empty((height, width), np.float32)
    rejected = np.zeros((count, 2), np.int64)
    levels = _levels(work, frames, calibration)
    scales = np.ones(count, np.float32)
    if role == "flat":
        scales = np.array([levels[0] / level if level > 0 else 1.0 for level in levels], np.float32)
    algorithm = rejection.ALGORITHMS[params.rejection]
    weights = np.ones(count, np.float64)

    def band(rows: tuple[int, int]) -> npt.NDArray[np.int64]:
        y0, y1 = rows
        stack = np.empty((count, (y1 - y0) * width), np.float32)
        for number, frame in enumerate(frames):
            pixels = frame.read(y0, y1)
            if calibration is not None:
                pixels = pixels - calibration[y0:y1]
            if scales[number] != 1:
                pixels = pixels * scales[number]
            stack[number] = pixels.ravel()
        size = stack.shape[1]
        low, high = np.empty(size, np.float32), np.empty(size, np.float32)
        rejection.bounds(stack, algorithm, params.low, params.high, low, high)
        lost = np.zeros((count, 2), np.int64)
        combine.mean(
            stack,
            stack,
            low,
            high,
            weights,
            image[y0:y1].reshape(-1),
            np.empty(size, np.float32),
            np.empty(size, np.uint16),
            np.empty(size, np.uint16),
            lost,
        )
        return lost

    # Stack, bounds, counts and the frame being read; half of the allowance stays free for what the reader needs.
    per_row = width * 4 * (count + 6)
    bands = row_bands(height, per_row, work.memory // (2 * work.workers))
    for done, lost in enumerate(work.map(band, bands), 1):
        rejected += lost
        work.report(done, len(bands), "bands")
    shares = rejected / (height * width)
    return Master(image, levels, tuple(shares[:, 0].tolist()), tuple(shares[:, 1].tolist()))


def row_bands(height: int, bytes_per_row: int, memory: int) -> list[tuple[int, int]]:
    """Return (y0, y1) bands that cover `height` rows in order, each within `memory` bytes and at most 256 rows."""
    rows = max(1, min(256, memory // max(1, bytes_per_row)))
    return [(y, min(height, y + rows)) for y in range(0, height, rows)]


def _levels(work: Work, frames: Sequence[Reader], calibration: FloatArray | None) -> tuple[float, ...]:
    """Return the median of each frame, calibrated, from pairs of rows spread over it.

    Pairs, so that a CFA's colours count as they occur; about half a million pixels, which puts the statistical error
    of a flat's level (photon noise below 1 % per pixel) near 1e-5.
    """
    import numpy as np

    from wbpy.kernels import statistics

    height, width = frames[0].shape
    pairs = max(1, min(height // 2, 250_000 // width))
    starts = [2 * (pair * (height // 2) // pairs) for pair in range(pairs)]

    def level(frame: Reader) -> float:
        rows = []
        for y in starts:
            pixels = frame.read(y, min(height, y + 2))
            rows.append(pixels if calibration is None else pixels - calibration[y : y + 2])
        return float(statistics.median(np.concatenate(rows, axis=0).ravel()))

    return tuple(work.map(level, frames))


MASTERS = Stage(
    name="masters",
    version=1,
    per="calibration group",
    title="Average calibration frames into masters",
    run=run,
    params=MastersParams,
    inputs=(
        Input("frames", "raw"),
        Input("flat_dark", "master_flat_dark", optional=True),
        Input("dark", "master_dark", optional=True),
        Input("bias", "master_bias", optional=True),
    ),
    outputs=(Output("master", "master", "DN"),),
    findings=("MAS001", "MAS002", "MAS003", "CAL003"),
    memory=lambda height, width: 4 * height * width * 2,
)
