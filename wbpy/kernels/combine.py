"""One value a pixel from a stack of frames: the averaging half of an integration.

`wbpy.kernels.rejection` decides which samples are accepted, these functions combine them. A stack is ``(N, P)``,
frames by pixels. Sums run over the frames in their order, in float64, so a result depends on its own column only.
A NaN or infinite sample is a missing one.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wbpy.kernels.jit import exact

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Uint16 = NDArray[np.uint16]

RANKS = {"median": 0, "min": 1, "max": 2}
"""What `ranked` can fill."""

BLOCK = 256  # pixels summed together: their sums stay in the first-level cache


def mean(
    values: Float32,
    judged: Float32,
    lo: Float32,
    hi: Float32,
    weights: ArrayLike,
    out: Float32,
    weight_sum_out: Float32,
    low_count: Uint16,
    high_count: Uint16,
    frame_rejected: Int64,
    var_out: Float32 | None = None,
) -> None:
    """Fill the weighted mean of the accepted samples of every column.

    A sample is accepted where ``lo <= judged <= hi`` and both its value and its judged value are present.

    Parameters
    ----------
    values : (N, P) float32 ndarray, DN
        The samples to average.
    judged : (N, P) float32 ndarray, DN
        The samples `lo` and `hi` refer to, for example normalised for rejection; may be `values` itself.
    lo, hi : (P,) float32 ndarray, DN
        Bounds from `wbpy.kernels.rejection.bounds`.
    weights : (N,) array_like
        Weight of each frame; finite, not negative.
    out : (P,) float32 ndarray, DN
        Filled with ``sum(w x) / sum(w)``. Where no sample of a weight above zero is accepted: the unweighted
        median of all samples present, NaN where there are none.
    weight_sum_out : (P,) float32 ndarray
        Filled with ``sum(w)`` over the accepted samples; zero marks the pixels that show the median or NaN.
    low_count, high_count : (P,) uint16 ndarray
        Filled with the number of samples rejected below `lo` and above `hi`. Missing samples are not counted.
    frame_rejected : (N, 2) int64 ndarray
        The number of low and high samples rejected in each frame is *added* to it. Threads must not share one.
    var_out : (P,) float32 ndarray, DN^2, optional
        Filled with the variance of the mean as the scatter of its samples shows it,
        ``n / (n - 1) sum(w^2 (x - mean)^2) / sum(w)^2`` with n accepted samples of a weight above zero (Cochran's
        ratio variance, which Gatz and Smith 1995, Atmospheric Environment 29, 1185, found closest to bootstrap).
        NaN where n < 2. None or an empty array skips it.

    Raises
    ------
    ValueError
        If the shapes disagree, or a weight is negative or not finite.
    """
    w = np.ascontiguousarray(weights, np.float64)
    variance = np.empty(0, np.float32) if var_out is None else var_out
    n, pixels = values.shape
    per_pixel = (lo, hi, out, weight_sum_out, low_count, high_count)
    if (
        judged.shape != (n, pixels)
        or w.shape != (n,)
        or frame_rejected.shape != (n, 2)
        or any(array.shape != (pixels,) for array in per_pixel)
        or variance.shape not in ((pixels,), (0,))
    ):
        raise ValueError(
            f"values are {values.shape}, judged {judged.shape}, weights {w.shape}, frame_rejected "
            f"{frame_rejected.shape}, maps {[a.shape for a in (*per_pixel, variance)]}; expected (N, P), (N, P), "
            f"(N,), (N, 2) and (P,)"
        )
    if not (np.isfinite(w).all() and (w >= 0).all()):
        raise ValueError(f"weights run from {w.min()} to {w.max()}; expected finite numbers not below zero")
    _mean(values, judged, lo, hi, w, out, weight_sum_out, low_count, high_count, frame_rejected, variance)


def ranked(
    values: Float32,
    judged: Float32,
    lo: Float32,
    hi: Float32,
    weights: ArrayLike,
    which: str,
    out: Float32,
    weight_sum_out: Float32,
    low_count: Uint16,
    high_count: Uint16,
    frame_rejected: Int64,
    var_out: Float32 | None = None,
) -> None:
    """Fill the weighted median, the smallest or the largest of the accepted samples of every column.

    The weighted median has half of the weight on either side; where that falls between two samples it is their mean,
    so that equal weights give the plain median. What is accepted, the other arguments and what is filled beside `out`
    are those of `mean`.

    Parameters
    ----------
    which : str
        ``median``, ``min`` or ``max``. Samples of weight zero count for none of them.
    var_out : (P,) float32 ndarray, DN^2, optional
        For the median pi / 2 times the variance of the mean of the same samples, which is that of the median of many
        normal ones; extremes have no such rule, and it is filled with NaN.

    Raises
    ------
    ValueError
        As `mean`; for another `which`.
    """
    if which not in RANKS:
        raise ValueError(f"which is {which!r}; expected one of {', '.join(RANKS)}")
    mean(values, judged, lo, hi, weights, out, weight_sum_out, low_count, high_count, frame_rejected, var_out)
    _ranked(values, judged, lo, hi, np.ascontiguousarray(weights, np.float64), RANKS[which], weight_sum_out, out)
    if var_out is not None:
        var_out *= np.float32(math.pi / 2 if which == "median" else math.nan)


def expected_variance(
    values: Float32,
    judged: Float32,
    lo: Float32,
    hi: Float32,
    weights: ArrayLike,
    noise: ArrayLike,
    photon: ArrayLike,
    level: ArrayLike,
    mean: Float32,
    out: Float32,
) -> None:
    """Fill the variance of the weighted mean that the noise of its frames promises.

    ``sum(w^2 (noise^2 + photon (mean - level))) / sum(w)^2`` over the accepted samples of a weight above zero: the
    noise of each frame at its background, and the photon noise of what stands out from that. The mean takes the place
    of the sample, whose own noise would bend the result.

    Parameters
    ----------
    values, judged, lo, hi, weights
        As for `mean`.
    noise : (N,) array_like, DN
        Standard deviation of a pixel of each frame where its background is `level`.
    photon : (N,) array_like, DN
        Variance that one DN of signal adds; 0 where the gain is not known.
    level : (N,) array_like, DN
        Background of each frame.
    mean : (P,) float32 ndarray, DN
        From `mean`.
    out : (P,) float32 ndarray, DN^2
        Filled; NaN where no sample counts. No frame counts with less than a tenth of its variance at `level`, however
        far a pixel lies below.

    Raises
    ------
    ValueError
        If the shapes disagree.
    """
    w, sigma, gain, base = (np.ascontiguousarray(v, np.float64) for v in (weights, noise, photon, level))
    n, pixels = values.shape
    per_pixel = (lo, hi, mean, out)
    if (
        judged.shape != (n, pixels)
        or any(v.shape != (n,) for v in (w, sigma, gain, base))
        or any(array.shape != (pixels,) for array in per_pixel)
    ):
        raise ValueError(
            f"values are {values.shape}, judged {judged.shape}, weights {w.shape}, noise {sigma.shape}, photon "
            f"{gain.shape}, level {base.shape}, the rest {[a.shape for a in per_pixel]}; expected (N, P) twice, (N,) "
            f"four times, and (P,)"
        )
    _expected_variance(values, judged, lo, hi, w, sigma * sigma, gain, base, mean, out)


@exact
def _mean(
    values: Float32,
    judged: Float32,
    lo: Float32,
    hi: Float32,
    weights: Float64,
    out: Float32,
    weight_sum_out: Float32,
    low_count: Uint16,
    high_count: Uint16,
    frame_rejected: Int64,
    var_out: Float32,
) -> None:
    """Fill the maps of `mean`, block by block."""
    n, pixels = values.shape
    total = np.empty(BLOCK, np.float64)
    weight = np.empty(BLOCK, np.float64)
    scatter = np.empty(BLOCK, np.float64)
    used = np.empty(BLOCK, np.int32)
    low = np.empty(BLOCK, np.int32)
    high = np.empty(BLOCK, np.int32)
    column = np.empty(n, np.float64)
    for start in range(0, pixels, BLOCK):
        width = min(BLOCK, pixels - start)
        least = lo[start : start + width]
        most = hi[start : start + width]
        total[:] = 0.0
        weight[:] = 0.0
        low[:] = 0
        high[:] = 0
        for i in range(n):
            w = weights[i]
            value = values[i, start : start + width]
            judge = judged[i, start : start + width]
            frame_low = np.int32(0)
            frame_high = np.int32(0)
            # Two loops, because one loop over this many arrays is not vectorised: 4 times slower.
            for j in range(width):
                v = value[j]
                x = judge[j]
                present = (v - v) + (x - x) == np.float32(0)
                under = np.int32(present & (x < least[j]))
                over = np.int32(present & (x > most[j]) & (x >= least[j]))
                low[j] += under
                high[j] += over
                frame_low += under
                frame_high += over
            for j in range(width):
                v = value[j]
                x = judge[j]
                accepted = (v - v == np.float32(0)) & (x >= least[j]) & (x <= most[j])
                total[j] += w * np.float64(v) if accepted else 0.0
                weight[j] += w if accepted else 0.0
            frame_rejected[i, 0] += frame_low
            frame_rejected[i, 1] += frame_high
        for j in range(width):
            low_count[start + j] = low[j]
            high_count[start + j] = high[j]
            weight_sum_out[start + j] = weight[j]
            if weight[j] > 0.0:
                total[j] /= weight[j]
                out[start + j] = total[j]
            else:
                c = 0
                for i in range(n):
                    v = values[i, start + j]
                    x = judged[i, start + j]
                    if (v - v) + (x - x) == np.float32(0):
                        column[c] = v
                        c += 1
                out[start + j] = np.median(column[:c]) if c > 0 else np.nan
        if var_out.size > 0:
            scatter[:] = 0.0
            used[:] = 0
            for i in range(n):
                w = weights[i]
                value = values[i, start : start + width]
                judge = judged[i, start : start + width]
                for j in range(width):
                    v = value[j]
                    x = judge[j]
                    accepted = (v - v == np.float32(0)) & (x >= least[j]) & (x <= most[j])
                    d = w * (np.float64(v) - total[j])
                    scatter[j] += d * d if accepted else 0.0
                    used[j] += np.int32(accepted & (w > 0.0))
            for j in range(width):
                c = used[j]
                var_out[start + j] = scatter[j] / (weight[j] * weight[j]) * c / (c - 1) if c > 1 else np.nan


@exact
def _ranked(
    values: Float32,
    judged: Float32,
    lo: Float32,
    hi: Float32,
    weights: Float64,
    which: int,
    weight_sum: Float32,
    out: Float32,
) -> None:
    """Replace the means of columns with accepted samples by what `ranked` asks for."""
    n, pixels = values.shape
    column = np.empty(n, np.float64)
    weight = np.empty(n, np.float64)
    for p in range(pixels):
        if not weight_sum[p] > 0.0:
            continue
        count = 0
        total = 0.0
        for i in range(n):
            v = values[i, p]
            x = judged[i, p]
            if v - v == np.float32(0) and lo[p] <= x <= hi[p] and weights[i] > 0.0:
                column[count] = v
                weight[count] = weights[i]
                total += weights[i]
                count += 1
        if which == 1:
            out[p] = column[:count].min()
        elif which == 2:
            out[p] = column[:count].max()
        else:
            order = np.argsort(column[:count])
            # Half of the weight, less what the rounding of the sums may take.
            half = 0.5 * total * (1.0 - 1e-12)
            run = 0.0
            k = 0
            while run + weight[order[k]] < half:
                run += weight[order[k]]
                k += 1
            run += weight[order[k]]
            out[p] = column[order[k]]
            if k + 1 < count and run <= 0.5 * total * (1.0 + 1e-12):
                out[p] = 0.5 * (column[order[k]] + column[order[k + 1]])


@exact
def _expected_variance(
    values: Float32,
    judged: Float32,
    lo: Float32,
    hi: Float32,
    weights: Float64,
    variance: Float64,
    photon: Float64,
    level: Float64,
    mean: Float32,
    out: Float32,
) -> None:
    """Fill the variances of `expected_variance`, block by block."""
    n, pixels = values.shape
    total = np.empty(BLOCK, np.float64)
    weight = np.empty(BLOCK, np.float64)
    for start in range(0, pixels, BLOCK):
        width = min(BLOCK, pixels - start)
        total[:] = 0.0
        weight[:] = 0.0
        for i in range(n):
            w = weights[i]
            for j in range(width):
                v = values[i, start + j]
                x = judged[i, start + j]
                accepted = (v - v == np.float32(0)) & (x >= lo[start + j]) & (x <= hi[start + j])
                own = variance[i] + photon[i] * (np.float64(mean[start + j]) - level[i])
                total[j] += w * w * max(own, 0.1 * variance[i]) if accepted else 0.0
                weight[j] += w if accepted else 0.0
        for j in range(width):
            out[start + j] = total[j] / (weight[j] * weight[j]) if weight[j] > 0.0 else np.nan
