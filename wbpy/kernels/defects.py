"""Defective pixels: found in a master dark or in a light, and replaced by their neighbours.

A defect list is a sorted int64 array of flat indices ``y * W + x``. `step` is the distance to the nearest pixels
of the same colour: 1 for mono, 2 for a Bayer mosaic.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from wbpy.kernels.jit import exact
from wbpy.kernels.statistics import background_mesh, expand_mesh, median_mad

_NAN = np.float32(np.nan)
_LOWEST = np.float32(-np.inf)
_BOX = 32
_CELL = 64
_LARGEST_RING = 16
_BLOCK = 64
# A star is told from a defect by the light beside its peak; with this many sigma of that light the star is safe.
_STAR_MARGIN = 4.0
# Share of the light beside the peak of the sharpest star that still counts as a star.
_STAR_SHARE = 0.75


def defects_from_dark(
    dark: NDArray[np.float32], cfa: NDArray[np.uint8], hot_sigma: float = 10.0, cold_sigma: float = 0.0
) -> NDArray[np.int64]:
    """Return the pixels of a master dark that stand out of their surroundings.

    A pixel is compared with the median of the 48 pixels of its colour around it (7 x 7), so that amplifier glow
    and readout gradients are level, not defects. The unit is 1.4826 MAD of the colour plane, a smooth background
    removed, or 1.4826 MAD of those 48 pixels where that is larger: inside a glow the dark current varies more.

    Parameters
    ----------
    dark : (H, W) float32 ndarray, DN
        Master dark, with or without the bias.
    cfa : (p, p) or (0, 0) uint8 ndarray
        Colour pattern; empty for mono. With a Bayer pattern each of the four pixels of the cell is a plane of its own.
    hot_sigma, cold_sigma : float
        Thresholds above and below the level; 0 looks for none.

    Returns
    -------
    (n,) int64 ndarray
        Sorted flat indices. A NaN pixel is always listed: it would make every light NaN there.
    """
    # A dark has no colours. The planes of a Bayer sensor may be read out by amplifiers of their own.
    cell = 2 if len(cfa) == 2 else 1
    bad = np.isnan(dark)
    for y in range(min(cell, dark.shape[0])):
        for x in range(min(cell, dark.shape[1])):
            plane = np.ascontiguousarray(dark[y::cell, x::cell])
            level, _ = background_mesh(plane, _BOX)
            residual = plane - expand_mesh(level, plane.shape, _BOX)
            centre, mad = median_mad(residual.reshape(-1))
            # Integers of little noise have a MAD of zero: below one step nothing can be told.
            sigma = max(1.4826 * mad, _smallest_step(plane) / math.sqrt(12.0))
            found = bad[y::cell, x::cell]
            # The smooth background may be wrong in a steep glow; the neighbours decide.
            for sign, k_sigma in ((1.0, hot_sigma), (-1.0, cold_sigma)):
                if k_sigma > 0.0:
                    deviation = np.float32(sign) * (residual - np.float32(centre))
                    candidates = np.flatnonzero(deviation > np.float32(0.7 * k_sigma * sigma))
                    keep = _stands_out(plane, candidates, sign, k_sigma, sigma)
                    found.flat[candidates[keep]] = True
    return np.flatnonzero(bad).astype(np.int64)


def _smallest_step(plane: NDArray[np.float32]) -> float:
    """Return the smallest difference between two values, of a sample: 1 for integers, tiny for means of many."""
    values = np.unique(plane.reshape(-1)[:: max(1, plane.size // 100_000)])
    values = values[np.isfinite(values)]
    return float(np.diff(values).min()) if values.size > 1 else 0.0


@exact
def _stands_out(
    plane: NDArray[np.float32], indices: NDArray[np.int64], sign: float, k_sigma: float, sigma: float
) -> NDArray[np.bool_]:
    """Return which pixels differ from the median of the 7x7 around them by `k_sigma` of the larger sigma."""
    h, w = plane.shape
    keep = np.zeros(indices.size, dtype=np.bool_)
    window = np.empty(48, dtype=np.float32)
    for q in range(indices.size):
        y = indices[q] // w
        x = indices[q] % w
        n = 0
        for j in range(max(0, y - 3), min(h, y + 4)):
            for i in range(max(0, x - 3), min(w, x + 4)):
                v = plane[j, i]
                if (j != y or i != x) and v == v:
                    window[n] = v
                    n += 1
        if n == 0:
            continue
        centre = _middle(window, n)
        for k in range(n):
            window[k] = abs(window[k] - centre)
        unit = max(sigma, 1.4826 * np.float64(_middle(window, n)))
        keep[q] = sign * (np.float64(plane[y, x]) - np.float64(centre)) > k_sigma * unit
    return keep


@exact
def _middle(values: NDArray[np.float32], n: int) -> np.float32:
    """Return the median of the first `n` values and leave them sorted."""
    for i in range(1, n):
        v = values[i]
        j = i - 1
        while j >= 0 and values[j] > v:
            values[j + 1] = values[j]
            j -= 1
        values[j + 1] = v
    return np.float32(np.float32(0.5) * (values[(n - 1) // 2] + values[n // 2]))


@exact
def replace_defects(image: NDArray[np.float32], indices: NDArray[np.int64], step: int) -> int:
    """Replace defects in place by the median of their good neighbours of the same colour.

    The neighbours are the ring of eight pixels at distance `step`; when none of them is good the next ring is
    taken, up to 16 rings. Other defects and NaN are never used, so the order of the list does not matter.

    Parameters
    ----------
    image : (H, W) float32 ndarray, DN
        Changed at `indices` only.
    indices : (n,) int64 ndarray
        Flat indices of the defects.
    step : int
        1 for mono, 2 for a Bayer mosaic.

    Returns
    -------
    int
        Number of defects left NaN, because no good pixel was near.
    """
    h, w = image.shape
    replaced = np.empty(indices.size, dtype=np.float32)
    window = np.empty(8 * _LARGEST_RING, dtype=np.float32)
    for k in range(indices.size):
        image[indices[k] // w, indices[k] % w] = _NAN
    for k in range(indices.size):
        y = indices[k] // w
        x = indices[k] % w
        n = 0
        ring = 0
        while n == 0 and ring < _LARGEST_RING:
            ring += 1
            for dy in range(-ring, ring + 1):
                j = y + dy * step
                if j < 0 or j >= h:
                    continue
                stride = 1 if abs(dy) == ring else 2 * ring
                for dx in range(-ring, ring + 1, stride):
                    i = x + dx * step
                    if i < 0 or i >= w:
                        continue
                    v = image[j, i]
                    if v == v:
                        window[n] = v
                        n += 1
        replaced[k] = _middle(window, n) if n else _NAN
    left = 0
    for k in range(indices.size):
        image[indices[k] // w, indices[k] % w] = replaced[k]
        left += replaced[k] != replaced[k]
    return left


@exact
def _top_two_of_three(
    a: NDArray[np.float32],
    b: NDArray[np.float32],
    c: NDArray[np.float32],
    sign: np.float32,
    first: NDArray[np.float32],
    second: NDArray[np.float32],
) -> None:
    """Write the two largest of three rows, column by column, `sign` applied; NaN counts as the lowest value."""
    for x in range(first.size):
        p = a[x] * sign
        q = b[x] * sign
        r = c[x] * sign
        p = p if p == p else _LOWEST
        q = q if q == q else _LOWEST
        r = r if r == r else _LOWEST
        high = p if p > q else q
        low = q if p > q else p
        middle = high if high < r else r
        first[x] = high if high > r else r
        second[x] = low if low > middle else middle


@exact
def _sorted_pair(
    a: NDArray[np.float32],
    b: NDArray[np.float32],
    sign: np.float32,
    high: NDArray[np.float32],
    low: NDArray[np.float32],
) -> None:
    """Write the larger and the smaller of two rows, `sign` applied; NaN counts as the lowest value."""
    for x in range(high.size):
        p = a[x] * sign
        q = b[x] * sign
        p = p if p == p else _LOWEST
        q = q if q == q else _LOWEST
        high[x] = p if p > q else q
        low[x] = q if p > q else p


@exact
def _excess_over_second(
    centre: NDArray[np.float32],
    sign: np.float32,
    sides1: NDArray[np.float32],
    sides2: NDArray[np.float32],
    pair1: NDArray[np.float32],
    pair2: NDArray[np.float32],
    step: int,
    out: NDArray[np.float32],
) -> None:
    """Write how far each pixel lies above the second highest of its eight neighbours."""
    m = out.size
    right1 = sides1[2 * step :]
    right2 = sides2[2 * step :]
    for x in range(m):
        a, b = sides1[x], right1[x]
        c, d = sides2[x], right2[x]
        p, q = pair1[x], pair2[x]
        high = a if a > b else b
        low = b if a > b else a
        both = c if c > d else d
        low = low if low > both else both
        high = high if high < p else p
        low = low if low > q else q
        out[x] = centre[x] * sign - (high if high > low else low)


@exact
def _candidates(
    image: NDArray[np.float32],
    step: int,
    sign: np.float32,
    threshold: NDArray[np.float32],
    box: int,
    found: NDArray[np.int64],
) -> int:
    """Fill `found` with pixels above the second highest of their eight neighbours; return how many there are.

    The second highest lets a defect with one defective neighbour pass. `threshold` (ny, nx) has one value a cell
    of `box` pixels. When more than ``found.size`` pixels exist the rest is only counted.
    """
    h, w = image.shape
    ny, nx = threshold.shape
    m = w - 2 * step
    if m < 1:
        return 0
    first = np.empty(w, dtype=np.float32)
    second = np.empty(w, dtype=np.float32)
    high = np.empty(m, dtype=np.float32)
    low = np.empty(m, dtype=np.float32)
    excess = np.empty(m, dtype=np.float32)
    limit = np.empty(m, dtype=np.float32)
    row_of_limit = -1
    n = 0
    for y in range(step, h - step):
        above = image[y - step]
        below = image[y + step]
        _top_two_of_three(above, image[y], below, sign, first, second)
        _sorted_pair(above[step : step + m], below[step : step + m], sign, high, low)
        _excess_over_second(image[y, step : step + m], sign, first, second, high, low, step, excess)
        cell = min(y // box, ny - 1)
        if cell != row_of_limit:
            for x in range(m):
                limit[x] = threshold[cell, min((x + step) // box, nx - 1)]
            row_of_limit = cell
        for start in range(0, m, _BLOCK):
            stop = min(m, start + _BLOCK)
            hits = 0
            for x in range(start, stop):
                hits += 1 if excess[x] > limit[x] else 0
            if hits:
                for x in range(start, stop):
                    if excess[x] > limit[x]:
                        if n < found.size:
                            found[n] = y * w + x + step
                        n += 1
    return n


@exact
def _surroundings(
    image: NDArray[np.float32],
    y: int,
    x: int,
    step: int,
    rms: NDArray[np.float32],
    box: int,
    level: NDArray[np.float32],
    sigma: NDArray[np.float32],
    window: NDArray[np.float32],
) -> bool:
    """Fill `level` and `sigma` (step, step) around a pixel, one for each colour; return whether there are enough.

    The ring from distance 2 to 3 (mono) or 4 (mosaic) is used. Index [a, b] holds the pixels at offsets with
    parity (a, b). Sigma is that of the cell or that of the ring, whichever is larger: structure such as the wing
    of a star or a nebula counts as noise.
    """
    h, w = image.shape
    ny, nx = rms.shape[1:]
    cy = min(y // box, ny - 1)
    cx = min(x // box, nx - 1)
    reach = 3 if step == 1 else 4
    for a in range(step):
        for b in range(step):
            n = 0
            for dy in range(-reach, reach + 1):
                j = y + dy
                if j < 0 or j >= h or (step == 2 and (dy & 1) != a):
                    continue
                for dx in range(-reach, reach + 1):
                    i = x + dx
                    if i < 0 or i >= w or (step == 2 and (dx & 1) != b) or (abs(dy) < 2 and abs(dx) < 2):
                        continue
                    v = image[j, i]
                    if v == v:
                        window[n] = v
                        n += 1
            if n < 4:
                return False
            centre = _middle(window, n)
            for k in range(n):
                window[k] = abs(window[k] - centre)
            spread = np.float32(1.4826) * _middle(window, n)
            plane = ((y + a) & 1) * 2 + ((x + b) & 1) if step == 2 else 0
            noise = rms[plane, cy, cx]
            level[a, b] = centre
            sigma[a, b] = noise if noise > spread else spread
    return True


@exact
def _light_beside(
    image: NDArray[np.float32],
    y: int,
    x: int,
    distance: int,
    level: NDArray[np.float32],
    sigma: NDArray[np.float32],
) -> tuple[float, float, int]:
    """Return the light in the eight pixels at `distance`, its variance and the number of valid pixels.

    The brightest of the eight is left out, so that a pair of defects is not a star, and none counts less than
    -2 sigma, so that a cold pixel does not hide a star.
    """
    step = level.shape[0]
    total = 0.0
    variance = 0.0
    largest = -np.inf
    n = 0
    for dy in (-distance, 0, distance):
        for dx in (-distance, 0, distance):
            if dy == 0 and dx == 0:
                continue
            a = dy & (step - 1)
            b = dx & (step - 1)
            v = image[y + dy, x + dx]
            if v == v:
                s = np.float64(sigma[a, b])
                light = max(np.float64(v) - np.float64(level[a, b]), -2.0 * s)
                total += light
                variance += s * s
                largest = max(largest, light)
                n += 1
    return total - largest, variance, n


@exact
def _judge(
    image: NDArray[np.float32],
    step: int,
    indices: NDArray[np.int64],
    hot: bool,
    k_sigma: float,
    rms: NDArray[np.float32],
    box: int,
    halo: float,
    e_per_dn: float,
    keep: NDArray[np.bool_],
) -> None:
    """Mark in `keep` which candidates are defects; `halo` is the light beside the sharpest star of peak 1."""
    w = image.shape[1]
    level = np.empty((step, step), dtype=np.float32)
    sigma = np.empty((step, step), dtype=np.float32)
    window = np.empty(64, dtype=np.float32)
    for q in range(indices.size):
        y = indices[q] // w
        x = indices[q] % w
        keep[q] = False
        if not _surroundings(image, y, x, step, rms, box, level, sigma, window):
            continue
        n = 0
        for dy in (-step, 0, step):
            for dx in (-step, 0, step):
                v = image[y + dy, x + dx]
                if (dy != 0 or dx != 0) and v == v:
                    window[n] = v
                    n += 1
        if n < 5:
            continue
        middle = np.float64(_middle(window, n))
        noise = np.float64(sigma[0, 0])
        raised = max(middle - np.float64(level[0, 0]), 0.0)
        limit = k_sigma * math.sqrt(noise * noise + raised / e_per_dn)
        height = np.float64(image[y, x]) - middle
        if not hot:
            keep[q] = -height > limit
            continue
        if height <= limit:
            continue
        height = np.float64(image[y, x]) - np.float64(level[0, 0])
        light, variance, n = _light_beside(image, y, x, 1, level, sigma)
        if n < 6:
            continue
        star = halo * height * (n - 1) / 7.0
        if light + _STAR_MARGIN * math.sqrt(variance + star / e_per_dn) >= _STAR_SHARE * star:
            continue
        if step == 2:
            # Through a narrow filter a star may show in one colour only; then its wing must be seen there.
            light, variance, n = _light_beside(image, y, x, 2, level, sigma)
            if light > max(_STAR_MARGIN * math.sqrt(variance), 0.05 * height):
                continue
        keep[q] = True


def _least_halo(fwhm: float) -> float:
    """Return the least light beside the peak pixel of a Gaussian star, over its peak, at any sub-pixel position.

    Eight neighbours without the brightest. The profile is sampled, not integrated over the pixels: integration
    only spreads more light. Moffat profiles of the same width have more of it beside the peak as well.
    """
    phase = np.linspace(-0.6, 0.6, 25)
    at = np.exp(-4.0 * math.log(2.0) * ((np.arange(-1, 2)[:, None] - phase) / fwhm) ** 2)
    stars = at[:, None, :, None] * at[None, :, None, :]
    stars /= stars[1:2, 1:2].copy()
    around = np.delete(stars.reshape(9, -1), 4, axis=0)
    return float(np.min(around.sum(axis=0) - around.max(axis=0)))


def detect_outliers(
    image: NDArray[np.float32],
    step: int,
    hot_sigma: float = 10.0,
    cold_sigma: float = 10.0,
    min_fwhm: float = 1.5,
    least_colour: float = 0.25,
    e_per_dn: float = 0.25,
) -> NDArray[np.int64]:
    """Return the hot and cold pixels (and one-pixel cosmic ray hits) of a single light.

    A hot pixel stands alone. A star does not: the sharpest star that the optics can make puts a known share of
    its peak into the eight pixels beside it, at any sub-pixel position. A pixel is hot when it rises `hot_sigma`
    above the median of its eight neighbours of the same colour *and* the light beside it is at least 4 sigma
    below 75 % of that share. Where the data cannot tell the two apart the pixel stays: faint defects are the
    task of the dark and of the rejection during integration. With the default values that is the case below
    10 to 20 sigma for mono and 40 to 70 sigma for a mosaic, where the pixels beside the peak have other colours.

    A cold pixel lies `cold_sigma` below the median of its eight neighbours and below seven of them.

    Sigma is the noise of the cell (64 x 64 pixels of one colour) or of the ring around the pixel, whichever is
    larger, plus the photon noise of the light above the background.

    Parameters
    ----------
    image : (H, W) float32 ndarray, DN
        Calibrated light, not debayered. NaN is no neighbour.
    step : int
        1 for mono, 2 for a Bayer mosaic.
    hot_sigma, cold_sigma : float
        Thresholds; 0 looks for none.
    min_fwhm : float, px
        Full width at half maximum of the sharpest star; 2 finds fainter defects in well sampled images.
    least_colour : float
        For a mosaic, the least signal of a star in the other colours over that in the colour of the pixel.
    e_per_dn : float, electron/DN
        Conversion gain on the 16-bit scale; a value that is too small only makes the test more careful.

    Returns
    -------
    (n,) int64 ndarray
        Sorted flat indices. Pixels nearer than `step` to an edge are not examined.

    Raises
    ------
    ValueError
        If `step` is neither 1 nor 2.
    """
    if step not in (1, 2):
        raise ValueError(f"step is {step}, expected 1 (mono) or 2 (mosaic)")
    h, w = image.shape
    if h <= 2 * step or w <= 2 * step or not (hot_sigma > 0.0 or cold_sigma > 0.0):
        return np.empty(0, dtype=np.int64)
    box = _CELL * step
    planes = [image[y::step, x::step][: h // step, : w // step] for y in range(step) for x in range(step)]
    # An eighth of the rows: 512 pixels know the noise of a cell to 3 %, and its neighbours smooth that.
    rms = np.stack([background_mesh(plane, _CELL, 8)[1] for plane in planes])
    rms[np.isnan(rms)] = 0.0
    quietest = rms.min(axis=0)
    halo = _least_halo(min_fwhm) * (least_colour if step == 2 else 1.0)
    found = []
    for hot, k_sigma in ((True, hot_sigma), (False, cold_sigma)):
        if not k_sigma > 0.0:
            continue
        # A neighbour that is 2.5 sigma up must not hide a defect, nor may the judge see what it would refuse.
        least = max(k_sigma, _STAR_MARGIN * math.sqrt(7.0) / (_STAR_SHARE * halo)) if hot else k_sigma
        threshold = quietest * np.float32(max(least - 2.5, 0.7 * least))
        sign = np.float32(1.0 if hot else -1.0)
        indices = np.empty(max(4096, image.size // 256), dtype=np.int64)
        n = _candidates(image, step, sign, threshold, box, indices)
        if n > indices.size:
            indices = np.empty(n, dtype=np.int64)
            n = _candidates(image, step, sign, threshold, box, indices)
        indices = indices[:n]
        keep = np.empty(n, dtype=np.bool_)
        _judge(image, step, indices, hot, k_sigma, rms, box, halo, e_per_dn, keep)
        found.append(indices[keep])
    return np.unique(np.concatenate(found))
