"""Masters: many calibration frames averaged into one, with outliers rejected (guide, section 6)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from wbpy.stages.base import Input, Output, Params, Reader, Stage, Work

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from wbpy.stages.base import FloatArray

_CACHED = 8_000_000
"""Bytes of a stack that stay in the cache from reading to averaging."""
_WORTHWHILE = 250_000
"""Bytes of a frame that are worth a reading."""

Rejection = Literal[
    "auto",
    "none",
    "minmax",
    "percentile",
    "sigma",
    "winsorized",
    "averaged",
    "linear",
    "esd",
    "rcr",
    "mad",
    "ccd",
]


class RejectionParams(Params, frozen=True, kw_only=True):
    """How outliers are rejected."""

    rejection: Annotated[Rejection, Meta(description="pixel rejection; auto takes it from rules/integration.toml")] = (
        "auto"
    )
    low: Annotated[float, Meta(ge=0, description="limit below the centre, in the unit of the algorithm")] = 4.0
    high: Annotated[float, Meta(ge=0, description="limit above the centre, in the unit of the algorithm")] = 3.0
    ccd_read_noise: Annotated[float, Meta(ge=0, description="rejection ccd: read noise of the sensor, e-")] = 10.0
    ccd_e_per_dn: Annotated[float, Meta(gt=0, description="rejection ccd: electrons per DN of the 16-bit scale")] = 1.0
    ccd_signal_noise: Annotated[float, Meta(ge=0, description="rejection ccd: noise in proportion to the signal")] = 0.0

    @property
    def ccd_noise(self) -> tuple[float, float, float]:
        """What the CCD model of the rejection takes."""
        return self.ccd_read_noise, self.ccd_e_per_dn, self.ccd_signal_noise


class MastersParams(RejectionParams, frozen=True, kw_only=True):
    """How calibration frames are combined."""


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
    noise: Noise


@dataclass(frozen=True)
class Noise:
    """How even the frames of a group are, and what noise that leaves in their master.

    Flats are compared after calibration and scaling, the others as stored.
    """

    frame: float
    """Temporal noise of one frame, DN: from the differences of neighbouring frames. NaN for a single one."""
    expected: float
    """``frame / sqrt(n)``: what the average of so many independent frames leaves, DN."""
    measured: float
    """Noise of the average, DN: half the difference of the averages of every other frame. NaN below four frames."""
    level_spread: float
    """Largest minus smallest level of the frames, DN."""
    gradient_spread: float
    """Largest change between two frames of the difference from one edge to the other, along x or y, DN."""


def run(
    params: MastersParams,
    work: Work,
    frames: Sequence[Reader],
    role: str,
    calibration: FloatArray | None = None,
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
    medians = _levels(work, frames, calibration)
    scales = np.ones(count, np.float32)
    if role == "flat":
        scales = np.array([medians[0] / level if level > 0 else 1.0 for level in medians], np.float32)
    algorithm = rejection.ALGORITHMS[params.rejection]
    weights = np.ones(count, np.float64)
    nothing = np.empty(0, np.float32)

    def band(rows: tuple[int, int]) -> npt.NDArray[np.int64]:
        y0, y1 = rows
        size = (y1 - y0) * width
        stack = np.empty((count, size), np.float32)
        below = nothing if calibration is None else calibration[y0:y1].reshape(-1)
        for number, frame in enumerate(frames):
            _fill(frame, y0, y1, below, stack[number])
            if scales[number] != 1:
                stack[number] *= scales[number]
        low, high = np.empty(size, np.float32), np.empty(size, np.float32)
        rejection.bounds(stack, algorithm, params.low, params.high, low, high, params.ccd_noise)
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
    bands = row_bands(height, width, per_row, work.memory // (2 * work.workers))
    for done, lost in enumerate(work.map(band, bands), 1):
        rejected += lost
        work.report(done, len(bands), "bands")
    shares = rejected / (height * width)
    return Master(
        image=image,
        levels=medians,
        rejected_low=tuple(shares[:, 0].tolist()),
        rejected_high=tuple(shares[:, 1].tolist()),
        noise=_noise(work, frames, calibration, scales, medians),
    )


def row_bands(height: int, width: int, bytes_per_row: int, memory: int) -> list[tuple[int, int]]:
    """Return (y0, y1) bands that cover `height` rows in order, each within `memory` bytes.

    As few rows as keep a stack in the cache that the cores share, which saves its way to the memory and back, but as
    many as make a reading of a quarter of a megabyte, because each costs the time of opening a file.
    """
    cached = _CACHED // max(1, bytes_per_row)
    worthwhile = -(-_WORTHWHILE // (2 * width))
    rows = max(1, min(max(cached, worthwhile), memory // max(1, bytes_per_row)))
    return [(y, min(height, y + rows)) for y in range(0, height, rows)]


def _fill(frame: Reader, y0: int, y1: int, calibration: FloatArray, out: FloatArray) -> None:
    """Fill `out`, flat, with rows of a frame minus those of a master; without one where that has no pixels."""
    from wbpy.kernels import calibration as kernels

    none = calibration[:0]
    stored = frame.words(y0, y1)
    if stored is None:
        kernels.calibrate_float(frame.read(y0, y1).reshape(-1), calibration, none, out)
    else:
        words, zero = stored
        kernels.calibrate_int16(words, out.dtype.type(zero), calibration, none, out)


def _levels(work: Work, frames: Sequence[Reader], calibration: FloatArray | None) -> tuple[float, ...]:
    """Return the median of each frame, calibrated, from pairs of rows spread over it.

    Pairs, so that a CFA's colours count as they occur; about half a million pixels, which puts the statistical error
    of a flat's level (photon noise below 1 % per pixel) near 1e-5.
    """
    from wbpy.kernels import statistics

    starts = _pairs(frames[0].shape, 250_000)
    return tuple(work.map(lambda frame: statistics.median(_sample(frame, calibration, starts).ravel()), frames))


def _pairs(shape: tuple[int, int], pixels: int) -> list[int]:
    """Return the first rows of pairs of rows spread over a frame, about twice `pixels` in all."""
    height, width = shape
    pairs = max(1, min(height // 2, pixels // width))
    return [2 * (pair * (height // 2) // pairs) for pair in range(pairs)]


def _sample(frame: Reader, calibration: FloatArray | None, starts: Sequence[int]) -> FloatArray:
    """Return pairs of rows of a frame, calibrated, as (2 len(starts), W)."""
    import numpy as np

    height, width = frame.shape
    rows = [(y, min(height, y + 2)) for y in starts]
    out = np.empty((sum(y1 - y0 for y0, y1 in rows), width), np.float32)
    at = 0
    for y0, y1 in rows:
        below = np.empty(0, np.float32) if calibration is None else calibration[y0:y1].reshape(-1)
        _fill(frame, y0, y1, below, out[at : at + y1 - y0].reshape(-1))
        at += y1 - y0
    return out


def _noise(
    work: Work,
    frames: Sequence[Reader],
    calibration: FloatArray | None,
    scales: npt.NDArray[np.float32],
    medians: Sequence[float],
) -> Noise:
    """Return noise and evenness of the frames from the same rows of each.

    A pixel's own pattern cancels in differences between frames, so that what is left is noise in time. Quartiles keep
    cosmic rays out.
    """
    import numpy as np

    count = len(frames)
    spread = max(medians) - min(medians)
    if count < 2:
        return Noise(math.nan, math.nan, math.nan, 0.0, 0.0)
    # All frames' samples stand in memory at once.
    starts = _pairs(frames[0].shape, max(2048, min(60_000, work.memory // (32 * count))))
    stack = np.stack([s * scale for s, scale in zip(_samples(work, frames, calibration, starts), scales, strict=True)])

    single = float(np.median([_spread(stack[i + 1] - stack[i]) for i in range(count - 1)])) / math.sqrt(2.0)
    measured = math.nan
    if count >= 4:
        halves = count // 2
        first, second = stack[0 : 2 * halves : 2].mean(axis=0), stack[1 : 2 * halves : 2].mean(axis=0)
        measured = _spread(first - second) / 2.0 * math.sqrt(2 * halves / count)
    return Noise(single, single / math.sqrt(count), measured, spread, _gradient_spread(stack))


def _spread(values: FloatArray) -> float:
    """Return the standard deviation of normal noise with the quartiles of `values`, DN, at any step of the converter.

    Between neighbouring levels the share of values below rises evenly. The median of the deviations would be a whole
    number of steps, and 12-bit data have steps of 16 DN, as large as their noise.
    """
    import numpy as np

    levels, counts = np.unique(values[np.isfinite(values)], return_counts=True)
    if levels.size < 2:
        return 0.0 if levels.size else math.nan
    below = np.cumsum(counts)[:-1] / counts.sum()
    lower, upper = np.interp((0.25, 0.75), below, (levels[1:] + levels[:-1]) / 2.0)
    # 0.6745 is the upper quartile of a standard normal distribution.
    return float(upper - lower) / (2.0 * 0.6744897501960817)


def _samples(
    work: Work, frames: Sequence[Reader], calibration: FloatArray | None, starts: Sequence[int]
) -> list[FloatArray]:
    return list(work.map(lambda frame: _sample(frame, calibration, starts), frames))


def _gradient_spread(stack: FloatArray) -> float:
    """Return the largest difference between frames of the change from edge to edge, DN.

    A frame's own pattern cancels against the first frame; the edges are the outer quarters of the sampled rows and
    of the columns.
    """
    import numpy as np

    from wbpy.kernels import statistics

    rows, columns = max(1, stack.shape[1] // 4), max(1, stack.shape[2] // 4)

    def middle(part: FloatArray) -> float:
        return statistics.median(np.ascontiguousarray(part).reshape(-1))

    slopes = []
    for image in stack:
        change = image - stack[0]
        slopes.append(
            (middle(change[-rows:]) - middle(change[:rows]), middle(change[:, -columns:]) - middle(change[:, :columns]))
        )
    return float(np.max(np.ptp(np.array(slopes), axis=0)))


MASTERS = Stage(
    name="masters",
    version=3,
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
    findings=(
        "MAS001",
        "MAS002",
        "MAS003",
        "MAS004",
        "CAL003",
        "CAL006",
        "OVS001",
        "OVS002",
        "OVS003",
        "OVS004",
        "INT006",
    ),
    memory=lambda height, width: 4 * height * width * 2,
)
