"""Stars: detection by a matched filter, profile fits in batches, aperture photometry.

Images are (H, W) float32 in DN, NaN where missing; coordinates are 0-based with pixel centres on integers, x along
the row. Each function runs on one thread and releases the GIL.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wbpy.kernels.jit import exact, fast, inline
from wbpy.kernels.statistics import mesh_rows

Image = NDArray[np.float32]
Vector = NDArray[np.float64]

SATURATED = 1

_DETECTION = np.dtype([("x", "f8"), ("y", "f8"), ("peak", "f8"), ("flux", "f8"), ("flags", "i4")])
FIT = np.dtype(
    [
        ("x", "f8"),
        ("y", "f8"),
        ("amplitude", "f8"),
        ("background", "f8"),
        ("fwhm_major", "f8"),
        ("fwhm_minor", "f8"),
        ("theta", "f8"),
        ("sharp_major", "f8"),
        ("sharp_minor", "f8"),
        ("flux", "f8"),
        ("residual", "f8"),
        ("rms", "f8"),
        ("saturated", "?"),
        ("ok", "?"),
    ]
)

_FILTER_SIGMA = 1.2
_FILTER_RADIUS = 3
_BORDER = 4
# The eight neighbours of a sampled Gaussian star of FWHM 1.5 px sum to 1.5 peaks, those of a hot pixel to 0, and
# of one that went through bilinear interpolation of a mosaic to 1.
_LEAST_NEIGHBOURS = 1.1
# The mean of nine pixels has a third of the noise of one and 0.9 of the signal to noise of the matched filter.
_BOX_SHARE = 0.9
_INNER_RING = 3
_OUTER_RING = 6
# (peak - inner ring) / (peak - outer ring) is 1/4 for a smooth hill and 0.35 for a star of FWHM 10 px.
_LEAST_CONTRAST = 0.3
# Height on both sides at the outer ring over the height of the centre: 0.2 for a star of FWHM 8 px, 1 for a trail.
_LARGEST_RIDGE = 0.55
# Eight pairs give the scatter to 40 %: on an even sky the threshold must stay what it is.
_TEXTURE_SLACK = 1.3
_LEAST_SPREAD = 0.18
_BLEND_DISTANCE = 8.0
_BLEND_SADDLE = 0.85
_WINDOW_SIGMA = 2.0
_FLUX_RADIUS = 5
# Half of the patch that is looked at around a maximum: the outer ring and the boxes on it.
_REACH = _OUTER_RING + 1

_SMALLEST_HALF, _LARGEST_HALF = 5, 20
_NARROW, _VERY_NARROW = 3.0, 2.0
# Offsets, px, and weights of Gauss-Legendre nodes along each side of a pixel.
_TWO_NODES = np.array([[-0.28867513459481287, 0.28867513459481287], [0.5, 0.5]])
PIXEL_NODES = np.array([[-0.3872983346207417, 0.0, 0.3872983346207417], [5 / 18, 8 / 18, 5 / 18]])
CENTRE_NODE = np.array([[0.0], [1.0]])
_FIRST_HALF, _FIRST_FWHM, _FIRST_STARS = 8, 3.0, 40
_PARAMETERS = 7
_TABLE_STEPS = 2048
_BETA_STARS, _FEWEST_BETA = 40, 5
_INVERSES = (0.0, 0.125, 0.25, 0.375, 0.5)
_ITERATIONS = 40


@dataclass(frozen=True, eq=False)
class Detections:
    """Stars of one image, brightest first; (n,) arrays. A record array would hide `flags` behind its own.

    Attributes
    ----------
    x, y : float64, px
        Gaussian-windowed centroid (sigma 2 px); the centre of gravity of the plateau of a saturated star.
    peak, flux : float64, DN
        Highest pixel, and sum within 5 px, above the ring around the star.
    flags : int32
        `SATURATED` or 0.
    """

    x: Vector
    y: Vector
    peak: Vector
    flux: Vector
    flags: NDArray[np.int32]

    def __len__(self) -> int:
        """Return the number of stars."""
        return len(self.x)


def detect_stars(
    image: Image,
    background: Image,
    noise: float,
    threshold: float = 5.0,
    max_stars: int = 4000,
    saturation: float = math.inf,
    mesh: int | None = None,
) -> Detections:
    """Return the stars of `image`, brightest first.

    Local maxima of the image after a Gaussian filter of sigma 1.2 px that exceed `threshold` times the noise of the
    filtered image, both above `background` and above the median of a ring 6 px away. Left out are single raised
    pixels (their neighbours are too low), smooth hills (the ring 3 px away is too high), trails and spikes (the
    ring is high on two opposite sides), maxima that no dip separates from a brighter star, and stars within 4 px of
    the border or with a missing pixel among the central nine.

    Parameters
    ----------
    image : (H, W) float32 ndarray, DN
        NaN is missing.
    background : (H, W) or (ny, nx) float32 ndarray, DN
        Smooth background of each pixel, or of the cells of `statistics.background_mesh`.
    noise : float, DN
        Standard deviation of the background noise of one pixel.
    threshold : float
        In standard deviations of the filtered image.
    max_stars : int
        The brightest this many are returned.
    saturation : float, DN
        Pixels of `image` from this value on are saturated. Each connected area of them is one star.
    mesh : int, optional, px
        Cell size of a background of cells. It spares the memory and the traffic of a second frame.

    Returns
    -------
    Detections

    Raises
    ------
    ValueError
        If the shapes differ or `noise` is not above zero.
    """
    if image.ndim != 2 or (mesh is None and image.shape != background.shape):
        raise ValueError(f"image {image.shape} and background {background.shape} must be equal (H, W)")
    if not (noise > 0.0 and math.isfinite(noise)):
        raise ValueError(f"noise must be above zero, it is {noise}")
    pixels = np.ascontiguousarray(image, dtype=np.float32)
    grid = np.ascontiguousarray(background, dtype=np.float32)
    h, w = pixels.shape
    sky = _sky(grid, (h, w), mesh)
    if min(h, w) <= 2 * _BORDER:
        return _detections(np.zeros(0, _DETECTION))
    weights = np.exp(-0.5 * (np.arange(_FILTER_RADIUS + 1) / _FILTER_SIGMA) ** 2)
    weights /= weights[0] + 2.0 * weights[1:].sum()
    limit = threshold * noise * float(weights[0] ** 2 + 2.0 * (weights[1:] ** 2).sum())
    level = np.float32(saturation)
    capacity = max(4096, h * w // 256)
    while True:
        where = np.empty(capacity, np.int64)
        full = np.empty(capacity, np.int64)
        found, saturated = _maxima(pixels, *sky, weights.astype(np.float32), np.float32(limit), level, where, full)
        if max(found, saturated) <= capacity:
            break
        capacity = max(found, saturated)
    plateaus = _plateaus(full[:saturated], w)
    stars = np.zeros(found + len(plateaus), _DETECTION)
    grain = noise / 3.0
    kept = _characterise(pixels, *sky, where[:found], _BOX_SHARE * threshold * grain, grain, stars[:found])
    kept &= ~_on_plateau(where[:found], w, plateaus)
    kept_plateaus = _measure_plateaus(pixels, sky, plateaus, stars[found:])
    keep = np.concatenate([kept, kept_plateaus])
    stars = stars[keep]
    stars = stars[np.argsort(-stars["flux"], kind="stable")]
    stars = stars[~_blended(pixels, stars)][: max(max_stars, 0)]
    return _detections(stars)


def fit_stars(
    image: Image,
    x: NDArray[Any],
    y: NDArray[Any],
    saturation: float = math.inf,
    beta: float = 4.0,
    half_size: int | None = None,
    others: NDArray[Any] | None = None,
) -> Any:
    """Return elliptical Moffat or Gaussian profiles fitted to the stars at (`x`, `y`).

    The model is ``B + A (1 + q)^-beta`` with ``q = a dx^2 + 2 b dx dy + c dy^2`` (Moffat 1969, A&A 3, 455), or
    ``B + A exp(-q)``. It is compared with pixel values, narrow stars (below 3 px) by its mean over the pixel;
    widths and amplitude are in both cases those of the profile as pixels see it.
    Unweighted least squares by Levenberg-Marquardt in a disc around the star, once more without pixels that a
    neighbour or a defect has raised.

    Parameters
    ----------
    image : (H, W) float32 ndarray, DN
        With or without its background; NaN is missing and left out.
    x, y : (n,) arrays, px
        First guesses, good to 1.5 px.
    saturation : float, DN
        Pixels from this value on are left out and the star is marked.
    beta : float
        Exponent of the Moffat profile, above 1; infinity for a Gaussian.
    half_size : int, optional
        Radius of the disc, px. By default three times the typical FWHM of a sample of the stars, 5 to 20.
    others : (m, 2) array, optional, px
        Places (x, y) of all stars of the image, those to be fitted included. Pixels nearer to another one are left
        out.

    Returns
    -------
    (n,) record array
        x, y : float64, px
        amplitude, background : float64, DN
        fwhm_major, fwhm_minor : float64, px
        theta : float64, rad
            Angle of the major axis from +x towards +y, in [-pi/2, pi/2).
        sharp_major, sharp_minor : float64, px
            The same widths before the pixel: smaller where the profile was averaged over it, else equal.
        flux : float64, DN
            Integral of the profile over the plane.
        residual : float64
            Median absolute residual over the amplitude.
        rms : float64, DN
            Root of the mean square residual.
        saturated : bool
        ok : bool
            The fit converged on a star near the first guess, not saturated. NaN stand where it found nothing.

    Raises
    ------
    ValueError
        If x and y differ in shape, `beta` is not above 1, or `half_size` is below 2.
    """
    px, py = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if px.ndim != 1 or px.shape != py.shape:
        raise ValueError(f"x and y must be (n,), not {px.shape} and {py.shape}")
    if not beta > 1.0:
        raise ValueError(f"beta must be above 1, it is {beta}")
    if half_size is not None and half_size < 2:
        raise ValueError(f"half_size must be 2 px or more, it is {half_size}")
    pixels = np.ascontiguousarray(image, dtype=np.float32)
    level = np.float32(saturation)
    power = 0.0 if math.isinf(beta) else float(beta)
    table = _profile_table(power)
    fits = _no_fits(len(px))
    half, fwhm = _window(pixels, px, py, level, power, table, half_size)
    rivals = neighbours(px, py, others, 2.0 * half)
    _fit_all(pixels, px, py, *rivals, level, power, table, half, fwhm, fits)
    return fits.view(np.recarray)


def typical_beta(
    image: Image,
    x: NDArray[Any],
    y: NDArray[Any],
    saturation: float = math.inf,
    others: NDArray[Any] | None = None,
) -> tuple[float, float]:
    """Return the exponent of the Moffat profile that the stars share, and the standard error of its inverse.

    Each star is fitted with five exponents from 2 to infinity and two more around the best. The sum over the stars of
    the logarithm of the residual, a function of 1 / beta, has its minimum at the exponent that serves all best; the
    minima of halves of the stars, taken alternately, give the error.

    Parameters
    ----------
    image : (H, W) float32 ndarray, DN
    x, y : (n,) arrays, px
        Bright unsaturated stars; the first `_BETA_STARS` of them are used.
    saturation : float, DN
        Pixels from this value on are left out.
    others : (m, 2) array, optional, px
        As for `fit_stars`.

    Returns
    -------
    beta : float
        2 or more, infinity for a Gaussian; NaN with fewer than `_FEWEST_BETA` stars that every exponent can be fitted
        to.
    error : float
        Of 1 / beta; NaN as well.
    """
    px, py = (np.asarray(values[:_BETA_STARS], dtype=np.float64) for values in (x, y))
    pixels = np.ascontiguousarray(image, dtype=np.float32)
    level = np.float32(saturation)
    half, fwhm = _window(pixels, px, py, level, 4.0, _profile_table(4.0), None)
    rivals = neighbours(px, py, others, 2.0 * half)
    costs: dict[float, Vector] = {}

    def add(inverse: float) -> None:
        fits = _no_fits(len(px))
        power = 1.0 / inverse if inverse > 0.0 else 0.0
        _fit_all(pixels, px, py, *rivals, level, power, _profile_table(power), half, fwhm, fits)
        costs[inverse] = np.where(fits["ok"], np.log(np.maximum(fits["rms"], 1e-9)), math.nan)

    for inverse in _INVERSES:
        add(inverse)
    known = np.isfinite(sum(costs.values()))
    if known.sum() < _FEWEST_BETA:
        return math.nan, math.nan
    first, _ = _lowest(costs, known)
    for inverse in (max(first - 0.05, 0.01), min(first + 0.05, 0.49)):
        add(inverse)
    known &= np.isfinite(sum(costs.values()))
    if known.sum() < _FEWEST_BETA:
        return math.nan, math.nan
    best, error = _lowest(costs, known)
    return (1.0 / best if best > 0.0 else math.inf), error


def _lowest(costs: dict[float, Vector], stars: NDArray[np.bool_]) -> tuple[float, float]:
    """Return where the parabola through the lowest sum of costs and its neighbours has its minimum, and its error.

    The error is that of a minimum of a sum over stars: the root of the sum of their squared slopes there over the
    curvature of the sum (Huber 1981, Robust Statistics, sect. 6.3).
    """
    at = np.array(sorted(costs))
    table = np.stack([costs[inverse][stars] for inverse in at])
    total = table.sum(axis=1)
    k = int(np.clip(np.argmin(total), 1, len(at) - 2))
    curve, slope, _ = np.polyfit(at[k - 1 : k + 2] - at[k], table[k - 1 : k + 2] - table[k], 2)
    bend = float(curve.sum())
    if not bend > 0.0:
        return float(at[np.argmin(total)]), math.inf
    best = float(np.clip(at[k] - 0.5 * slope.sum() / bend, at[0], at[-1]))
    return best, float(np.sqrt(((slope + 2.0 * curve * (best - at[k])) ** 2).sum()) / (2.0 * bend))


def neighbours(
    x: Vector, y: Vector, others: NDArray[Any] | None, reach: float
) -> tuple[NDArray[np.int64], Vector, Vector]:
    """Return where the neighbours of each star begin in the two arrays of their x and y, and these."""
    if others is None or not len(x) or not len(others):
        return np.zeros(len(x) + 1, np.int64), np.empty(0), np.empty(0)
    from scipy.spatial import cKDTree

    at = np.column_stack([x, y])
    near = cKDTree(at).sparse_distance_matrix(cKDTree(others), reach, output_type="coo_matrix").tocsr()
    # What lies within 1.5 px of a guess is the star itself.
    near.sort_indices()
    own = near.data < 1.5
    star = np.repeat(np.arange(len(x)), np.diff(near.indptr))[~own]
    found = np.asarray(others, np.float64)[near.indices[~own]]
    first = np.concatenate([[0], np.cumsum(np.bincount(star, minlength=len(x)))]).astype(np.int64)
    return first, np.ascontiguousarray(found[:, 0]), np.ascontiguousarray(found[:, 1])


def _window(
    image: Image,
    x: Vector,
    y: Vector,
    saturation: np.float32,
    beta: float,
    table: Vector,
    half_size: int | None,
) -> tuple[int, float]:
    """Return the radius in which stars are fitted, and their typical FWHM, from a sample of them."""
    if half_size is not None:
        return half_size, half_size / 3.0
    fwhm, half = _FIRST_FWHM, _FIRST_HALF
    sample = np.unique(np.linspace(0, len(x) - 1, min(len(x), _FIRST_STARS)).astype(np.int64))
    for _ in range(2):
        trial = _no_fits(len(sample))
        rivals = neighbours(x[sample], y[sample], None, 0.0)
        _fit_all(image, x[sample], y[sample], *rivals, saturation, beta, table, half, fwhm, trial)
        good = trial["ok"]
        if not good.any():
            break
        fwhm = float(np.median(np.sqrt(trial["fwhm_major"][good] * trial["fwhm_minor"][good])))
        before, half = half, min(max(math.ceil(3.0 * fwhm), _SMALLEST_HALF), _LARGEST_HALF)
        if half <= before + 2:
            break
    return half, fwhm


def aperture_flux(
    image: Image, x: NDArray[Any], y: NDArray[Any], radius: float, inner: float, outer: float
) -> tuple[Vector, Vector]:
    """Return the flux in circular apertures and the background around them.

    Parameters
    ----------
    image : (H, W) float32 ndarray, DN
    x, y : (n,) arrays, px
        Centres.
    radius : float, px
        Of the aperture. A pixel counts by the share of its 5x5 sub-pixels whose centres lie inside.
    inner, outer : float, px
        Radii of the ring whose median pixel is the background; at least `radius` and above `inner`.

    Returns
    -------
    flux : (n,) float64 ndarray, DN
        Sum over the aperture less the background; NaN where the aperture holds a missing pixel, leaves the image,
        or has no background.
    background : (n,) float64 ndarray, DN
        For one pixel; missing pixels are left out; NaN where none is left.

    Raises
    ------
    ValueError
        If the radii are not ``0 < radius <= inner < outer``, or x and y differ in shape.
    """
    if not 0.0 < radius <= inner < outer < math.inf:
        raise ValueError(f"radii must satisfy 0 < radius <= inner < outer, not {radius}, {inner}, {outer}")
    px, py = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if px.ndim != 1 or px.shape != py.shape:
        raise ValueError(f"x and y must be (n,), not {px.shape} and {py.shape}")
    flux, background = np.empty(len(px)), np.empty(len(px))
    pixels = np.ascontiguousarray(image, dtype=np.float32)
    _aperture_flux(pixels, px, py, float(radius), float(inner), float(outer), flux, background)
    return flux, background


def _sky(
    background: Image, shape: tuple[int, int], mesh: int | None
) -> tuple[Image, NDArray[np.int64], NDArray[np.float32]]:
    """Return a background, of pixels or of cells, as `statistics.mesh_rows` describes it."""
    if mesh is not None:
        return mesh_rows(background, shape, mesh)
    # Row y of the image lies on row y of the background, and on no other.
    h = shape[0]
    return background, np.repeat(np.arange(h), 4).reshape(h, 4), np.tile(np.eye(1, 4, dtype=np.float32), (h, 1))


def _detections(stars: NDArray[Any]) -> Detections:
    return Detections(*(np.ascontiguousarray(stars[name]) for name in ("x", "y", "peak", "flux", "flags")))


def _no_fits(count: int) -> NDArray[Any]:
    fits = np.zeros(count, FIT)
    for name in FIT.names or ():
        if FIT[name].kind == "f":
            fits[name] = math.nan
    return fits


@fast
def _maxima(
    image: Image,
    wide: Image,
    sky_rows: NDArray[np.int64],
    sky_weights: NDArray[np.float32],
    weights: NDArray[np.float32],
    limit: np.float32,
    saturation: np.float32,
    where: NDArray[np.int64],
    full: NDArray[np.int64],
) -> tuple[int, int]:
    """Collect the flat positions of local maxima of the filtered image and of saturated pixels.

    Returns both counts, also beyond the capacity of the arrays. One pass with seven rows in hand: each row is
    filtered along x when it is read and along y when its last neighbour has been.
    """
    h, w = image.shape
    k0, k1, k2, k3 = weights[0], weights[1], weights[2], weights[3]
    padded = np.zeros(w + 6, np.float32)
    rows = np.zeros((7, w), np.float32)
    smooth = np.zeros((3, w), np.float32)
    found = 0
    saturated = 0
    for y in range(h):
        row = image[y]
        r0, r1 = wide[sky_rows[y, 0]], wide[sky_rows[y, 1]]
        r2, r3 = wide[sky_rows[y, 2]], wide[sky_rows[y, 3]]
        w0, w1, w2, w3 = sky_weights[y, 0], sky_weights[y, 1], sky_weights[y, 2], sky_weights[y, 3]
        for x in range(w):
            v = row[x] - (w0 * r0[x] + w1 * r1[x] + w2 * r2[x] + w3 * r3[x])
            # A missing pixel counts as background, so that it hides itself only and not the stars around.
            padded[x + 3] = v if v == v else np.float32(0.0)
        target = rows[y % 7]
        for x in range(w):
            target[x] = (
                k0 * padded[x + 3]
                + k1 * (padded[x + 2] + padded[x + 4])
                + k2 * (padded[x + 1] + padded[x + 5])
                + k3 * (padded[x] + padded[x + 6])
            )
        if saturation < np.float32(np.inf):
            for x in range(w):
                if row[x] >= saturation:
                    if saturated < full.size:
                        full[saturated] = y * w + x
                    saturated += 1
        if y < 6:
            continue
        a, b, c, d = rows[(y - 6) % 7], rows[(y - 5) % 7], rows[(y - 4) % 7], rows[(y - 3) % 7]
        e, f, g = rows[(y - 2) % 7], rows[(y - 1) % 7], rows[y % 7]
        out = smooth[y % 3]
        for x in range(w):
            out[x] = k0 * d[x] + k1 * (c[x] + e[x]) + k2 * (b[x] + f[x]) + k3 * (a[x] + g[x])
        # The middle of the three filtered rows is that of image row y - 4.
        if y - 4 < _BORDER or y - 4 >= h - _BORDER:
            continue
        upper, middle, lower = smooth[(y - 2) % 3], smooth[(y - 1) % 3], smooth[y % 3]
        for x in range(_BORDER, w - _BORDER):
            v = middle[x]
            # Not below the neighbours before, above those after: one maximum on a plateau of equal values.
            if (
                v > limit
                and v >= middle[x - 1]
                and v > middle[x + 1]
                and v >= upper[x - 1]
                and v >= upper[x]
                and v >= upper[x + 1]
                and v > lower[x - 1]
                and v > lower[x]
                and v > lower[x + 1]
            ):
                if found < where.size:
                    where[found] = (y - 4) * w + x
                found += 1
    return found, saturated


def _ring_offsets(radius: int) -> NDArray[np.int64]:
    """Return 16 offsets ``(dy, dx)`` on a circle; 8 steps on is the opposite one."""
    angle = np.arange(16) * (math.pi / 8.0)
    return np.round(radius * np.column_stack([np.sin(angle), np.cos(angle)])).astype(np.int64)


_INNER = _ring_offsets(_INNER_RING)
_OUTER = _ring_offsets(_OUTER_RING)


@exact
def _net(
    image: Image,
    wide: Image,
    sky_rows: NDArray[np.int64],
    sky_weights: NDArray[np.float32],
    y0: int,
    x0: int,
    out: NDArray[np.float64],
) -> None:
    """Fill `out` with the pixels above the background from row `y0` and column `x0` on; NaN beyond the border."""
    h, w = image.shape
    for j in range(out.shape[0]):
        y = y0 + j
        if not 0 <= y < h:
            out[j] = math.nan
            continue
        for i in range(out.shape[1]):
            x = x0 + i
            if not 0 <= x < w:
                out[j, i] = math.nan
                continue
            sky = 0.0
            for k in range(4):
                sky += sky_weights[y, k] * wide[sky_rows[y, k], x]
            out[j, i] = image[y, x] - sky


@exact
def _mean9(net: NDArray[np.float64], y: int, x: int) -> float:
    """Return the mean of the valid pixels of a 3x3 box; NaN if there is none."""
    total = 0.0
    count = 0
    for j in range(y - 1, y + 2):
        for i in range(x - 1, x + 2):
            v = net[j, i]
            if v == v:
                total += v
                count += 1
    return total / count if count > 0 else math.nan


@exact
def _ring_values(net: NDArray[np.float64], offsets: NDArray[np.int64], values: Vector) -> float:
    """Fill `values` with 3x3 means around a ring and return the median of those that are not NaN."""
    n = 0
    ordered = np.empty(16)
    for k in range(16):
        values[k] = _mean9(net, _REACH + offsets[k, 0], _REACH + offsets[k, 1])
        if values[k] == values[k]:
            ordered[n] = values[k]
            n += 1
    if n == 0:
        return math.nan
    ordered[:n].sort()
    return float(0.5 * (ordered[(n - 1) // 2] + ordered[n // 2]))


@exact
def _windowed_centroid(net: NDArray[np.float64], level: float) -> tuple[float, float]:
    """Return the centroid from the middle of `net` under a Gaussian window that moves along (Bertin's XWIN).

    It is 0, 0 where it strays.
    """
    cx = cy = 0.0
    narrow = -0.5 / (_WINDOW_SIGMA * _WINDOW_SIGMA)
    wx = np.empty(2 * _FLUX_RADIUS + 1)
    wy = np.empty(2 * _FLUX_RADIUS + 1)
    for _ in range(6):
        for k in range(2 * _FLUX_RADIUS + 1):
            wx[k] = math.exp(narrow * (k - _FLUX_RADIUS - cx) ** 2)
            wy[k] = math.exp(narrow * (k - _FLUX_RADIUS - cy) ** 2)
        total = 0.0
        sx = 0.0
        sy = 0.0
        for j in range(2 * _FLUX_RADIUS + 1):
            for i in range(2 * _FLUX_RADIUS + 1):
                v = net[_REACH - _FLUX_RADIUS + j, _REACH - _FLUX_RADIUS + i] - level
                if v == v:
                    v *= wy[j] * wx[i]
                    total += v
                    sx += v * (i - _FLUX_RADIUS - cx)
                    sy += v * (j - _FLUX_RADIUS - cy)
        if total <= 0.0:
            return 0.0, 0.0
        # The window halves the distance of a profile as wide as itself: twice the step converges quickly.
        step_x, step_y = 2.0 * sx / total, 2.0 * sy / total
        cx += step_x
        cy += step_y
        if abs(cx) > 1.5 or abs(cy) > 1.5:
            return 0.0, 0.0
        if abs(step_x) + abs(step_y) < 1e-3:
            break
    return cx, cy


@exact
def _texture(ring: Vector, pairs: Vector) -> float:
    """Return the scatter of the nine-pixel means on a ring, whose opposite values are averaged so that slopes cancel.

    It is the noise of these means on an even sky, more where photons of a nebula or its structure add to it, and
    0 where fewer than five pairs are known.
    """
    n = 0
    for k in range(8):
        mean = 0.5 * (ring[k] + ring[k + 8])
        if mean == mean:
            pairs[n] = mean
            n += 1
    if n < 5:
        return 0.0
    pairs[:n].sort()
    middle = 0.5 * (pairs[(n - 1) // 2] + pairs[n // 2])
    for k in range(n):
        pairs[k] = abs(pairs[k] - middle)
    pairs[:n].sort()
    # Eight values: the median absolute deviation is on average 0.42 of that of one mean.
    return float(2.36 * 0.5 * (pairs[(n - 1) // 2] + pairs[n // 2]))


@exact
def _spreads_both_ways(net: NDArray[np.float64], y: int, x: int, level: float, slack: float) -> bool:
    """Return whether light falls on both axes beside the highest pixel, as it does not beside a line one pixel wide.

    Of a star of FWHM 1.5 px, the neighbours of the highest pixel along either axis have 0.3 of its height on average.
    """
    rows = 0.5 * (net[y - 1, x] + net[y + 1, x]) - level
    columns = 0.5 * (net[y, x - 1] + net[y, x + 1]) - level
    least = _LEAST_SPREAD * (net[y, x] - level) - 2.0 * slack
    # A missing neighbour says nothing.
    return not (rows < least or columns < least)


@exact
def _characterise(
    image: Image,
    wide: Image,
    sky_rows: NDArray[np.int64],
    sky_weights: NDArray[np.float32],
    where: NDArray[np.int64],
    limit: float,
    grain: float,
    stars: Any,
) -> NDArray[np.bool_]:
    """Fill `stars`; return which maxima are stars. `grain` is the noise of the mean of nine pixels."""
    w = image.shape[1]
    net = np.empty((2 * _REACH + 1, 2 * _REACH + 1))
    pairs = np.empty(8)
    keep = np.zeros(where.size, np.bool_)
    outer = np.empty(16)
    inner = np.empty(16)
    for s in range(where.size):
        y = where[s] // w
        x = where[s] % w
        _net(image, wide, sky_rows, sky_weights, y - _REACH, x - _REACH, net)
        # The filter may move the maximum by a pixel; the tests look at the highest one.
        top_y, top_x, top = _REACH, _REACH, -math.inf
        whole = True
        for j in range(_REACH - 1, _REACH + 2):
            for i in range(_REACH - 1, _REACH + 2):
                v = net[j, i]
                if v != v:
                    whole = False
                elif v > top:
                    top_y, top_x, top = j, i, v
        if not whole:
            continue
        level = _ring_values(net, _OUTER, outer)
        centre = _mean9(net, _REACH, _REACH)
        if not (level == level and centre - level > 0.0):
            continue
        peak = top - level
        neighbours = 9.0 * (_mean9(net, top_y, top_x) - level) - peak
        if not neighbours >= _LEAST_NEIGHBOURS * peak:
            continue
        if centre - level < limit * max(1.0, _texture(outer, pairs) / (_TEXTURE_SLACK * grain)):
            continue
        if not _spreads_both_ways(net, top_y, top_x, level, 3.0 * grain):
            continue
        ring = _ring_values(net, _INNER, inner)
        if not centre - ring >= _LEAST_CONTRAST * (centre - level):
            continue
        ridge = -math.inf
        for k in range(8):
            ridge = max(ridge, min(outer[k], outer[k + 8]) - level)
        if ridge > _LARGEST_RIDGE * (centre - level):
            continue
        flux = 0.0
        for j in range(-_FLUX_RADIUS, _FLUX_RADIUS + 1):
            for i in range(-_FLUX_RADIUS, _FLUX_RADIUS + 1):
                v = net[_REACH + j, _REACH + i] - level
                if j * j + i * i <= _FLUX_RADIUS**2 and v == v:
                    flux += v
        if not flux > 0.0:
            continue
        cx, cy = _windowed_centroid(net, level)
        stars[s]["x"] = x + cx
        stars[s]["y"] = y + cy
        stars[s]["peak"] = peak
        stars[s]["flux"] = flux
        keep[s] = True
    return keep


def _plateaus(full: NDArray[np.int64], width: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return the connected areas (8 neighbours) of saturated pixels as arrays ``(y, x)``, in raster order."""
    if not len(full):
        return []
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    y, x = full // width, full % width
    links = []
    for dy, dx in ((0, 1), (1, -1), (1, 0), (1, 1)):
        step = full + dy * width + dx
        at = np.minimum(np.searchsorted(full, step), len(full) - 1)
        hit = np.flatnonzero((full[at] == step) & (x + dx >= 0) & (x + dx < width))
        links.append(np.column_stack([hit, at[hit]]))
    pairs = np.concatenate(links)
    graph = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(len(full),) * 2)
    count, label = connected_components(graph, directed=False)
    order = np.argsort(label, kind="stable")
    ends = np.cumsum(np.bincount(label, minlength=count))[:-1]
    return [(y[part], x[part]) for part in np.split(order, ends)]


def _on_plateau(
    where: NDArray[np.int64], width: int, plateaus: list[tuple[NDArray[np.int64], NDArray[np.int64]]]
) -> NDArray[np.bool_]:
    """Return which maxima lie on or within 4 px of the circle that a plateau fills."""
    from scipy.spatial import cKDTree

    near = np.zeros(len(where), bool)
    if plateaus and len(where):
        tree = cKDTree(np.column_stack([where % width, where // width]))
        for py, px in plateaus:
            reach = max(math.sqrt(len(px) / math.pi), float(np.hypot(px - px.mean(), py - py.mean()).max()))
            near[tree.query_ball_point([px.mean(), py.mean()], reach + 4.0)] = True
    return near


def _measure_plateaus(
    image: Image,
    sky: tuple[Image, NDArray[np.int64], NDArray[np.float32]],
    plateaus: list[tuple[NDArray[np.int64], NDArray[np.int64]]],
    stars: NDArray[Any],
) -> NDArray[np.bool_]:
    """Fill `stars` for saturated areas; return which are stars and not raised pixels or at the border."""
    h, w = image.shape
    keep = np.zeros(len(plateaus), bool)
    for s, (py, px) in enumerate(plateaus):
        y, x = float(py.mean()), float(px.mean())
        if not (_BORDER <= x < w - _BORDER and _BORDER <= y < h - _BORDER):
            continue
        reach = math.ceil(math.sqrt(len(px) / math.pi)) + _FLUX_RADIUS
        net = np.empty((2 * reach + 1, 2 * reach + 1))
        _net(image, *sky, int(y) - reach, int(x) - reach, net)
        top = int(np.argmax(image[py, px]))
        box = np.empty((3, 3))
        _net(image, *sky, int(py[top]) - 1, int(px[top]) - 1, box)
        peak = float(box[1, 1])
        # Connected raised pixels are no star either: the ring around the area must carry light as well.
        if len(px) <= 2 and not float(np.nansum(box)) - peak >= _LEAST_NEIGHBOURS * peak:
            continue
        stars[s] = (x, y, peak, float(np.nansum(net)), SATURATED)
        keep[s] = True
    return keep


def _blended(image: Image, stars: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which of `stars`, brightest first, no dip separates from a brighter one."""
    from scipy.spatial import cKDTree

    drop = np.zeros(len(stars), bool)
    if len(stars) < 2:
        return drop
    pairs = cKDTree(np.column_stack([stars["x"], stars["y"]])).query_pairs(_BLEND_DISTANCE, output_type="ndarray")
    pairs = np.sort(pairs, axis=1)
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    _drop_blends(image, stars["x"], stars["y"], stars["peak"], pairs, drop)
    return drop


@exact
def _drop_blends(
    image: Image, x: Vector, y: Vector, peak: Vector, pairs: NDArray[np.int64], drop: NDArray[np.bool_]
) -> None:
    for p in range(len(pairs)):
        bright, faint = pairs[p, 0], pairs[p, 1]
        if drop[bright] or drop[faint]:
            continue
        lowest = math.inf
        for k in range(1, 8):
            t = k / 8.0
            j = int(round(y[faint] + t * (y[bright] - y[faint])))
            i = int(round(x[faint] + t * (x[bright] - x[faint])))
            # Five pixels in a cross steady the profile and keep the dip between stars 4 px apart.
            total = 0.0
            count = 0
            for dy, dx in ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0)):
                v = float(image[j + dy, i + dx])
                if v == v:
                    total += v
                    count += 1
            if count > 0:
                lowest = min(lowest, total / count)
        top = 0.0
        count = 0
        j, i = int(round(y[faint])), int(round(x[faint]))
        for dy, dx in ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0)):
            v = float(image[j + dy, i + dx])
            if v == v:
                top += v
                count += 1
        # Heights are taken above the foot of the fainter star, whose peak is known above its surroundings.
        foot = float(image[j, i]) - peak[faint]
        if count > 0 and lowest - foot > _BLEND_SADDLE * (top / count - foot):
            drop[faint] = True


@exact
def _select(values: Vector, n: int, rank: int) -> float:
    """Return the value of 0-based `rank` among the first n, which are reordered (Hoare 1961, algorithm 65)."""
    low, high = 0, n - 1
    while low < high:
        # The median of three keeps ordered input from being the worst case.
        middle = (low + high) // 2
        a, b, c = values[low], values[middle], values[high]
        pivot = max(min(a, b), min(max(a, b), c))
        i, j = low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if rank <= j:
            high = j
        elif rank >= i:
            low = i
        else:
            break
    return float(values[rank])


def _profile_table(beta: float) -> Vector:
    """Return t^beta at equal steps of t from 0 to 1, and the last value once more.

    A Moffat profile is that of t = 1 / (1 + q). Linear interpolation between 2048 steps is good to 5e-7 for beta up to
    6 and 2e-6 for 12, of the height of the profile, and spares a logarithm and an exponential for each pixel.
    """
    table = (np.arange(_TABLE_STEPS + 2) / _TABLE_STEPS) ** beta
    table[-1] = table[-2]
    return table


@inline
def _moffat(q: float, table: Vector) -> float:
    """Return (1 + q)^-beta from a table of `_profile_table`."""
    at = _TABLE_STEPS / (1.0 + q)
    i = int(at)
    return float(table[i] + (at - i) * (table[i + 1] - table[i]))


@fast
def _dot(a: Vector, b: Vector, n: int) -> float:
    """Return the sum of the products of the first n values: four sums side by side, which a processor overlaps."""
    s0 = s1 = s2 = s3 = 0.0
    whole = n - n % 4
    for k in range(0, whole, 4):
        s0 += a[k] * b[k]
        s1 += a[k + 1] * b[k + 1]
        s2 += a[k + 2] * b[k + 2]
        s3 += a[k + 3] * b[k + 3]
    for k in range(whole, n):
        s0 += a[k] * b[k]
    return float((s0 + s1) + (s2 + s3))


@fast
def _normal_equations(
    dx: Vector,
    dy: Vector,
    value: Vector,
    n: int,
    p: Vector,
    beta: float,
    table: Vector,
    nodes: NDArray[np.float64],
    matrix: Any,
    rows: Any,
) -> float:
    """Fill `matrix` (7, 8) with the normal equations, right-hand side last; return the sum of squares.

    Parameters are amplitude, background, x, y, a, b, c; only the upper triangle is used. A pixel's value is the mean
    of the profile over `nodes`, (2, m) offsets and weights along both sides. `rows` (8, n or more) is scratch.
    """
    m = nodes.shape[1]
    amplitude, x0, y0, a, b, c = p[0], p[2], p[3], p[4], p[5], p[6]
    for k in range(n):
        profile = to_x = to_y = to_a = to_b = to_c = 0.0
        for v in range(m):
            y = dy[k] + nodes[0, v] - y0
            for u in range(m):
                x = dx[k] + nodes[0, u] - x0
                share = nodes[1, v] * nodes[1, u]
                q = a * x * x + 2.0 * b * x * y + c * y * y
                if beta > 0.0:
                    height = share * _moffat(q, table)
                    slope = -beta * amplitude * height / (1.0 + q)
                else:
                    height = share * math.exp(-q)
                    slope = -amplitude * height
                profile += height
                to_x -= 2.0 * slope * (a * x + b * y)
                to_y -= 2.0 * slope * (c * y + b * x)
                to_a += slope * x * x
                to_b += 2.0 * slope * x * y
                to_c += slope * y * y
        rows[0, k], rows[1, k], rows[2, k], rows[3, k] = profile, 1.0, to_x, to_y
        rows[4, k], rows[5, k], rows[6, k] = to_a, to_b, to_c
        rows[7, k] = value[k] - (p[1] + amplitude * profile)
    for i in range(_PARAMETERS):
        for j in range(i, _PARAMETERS + 1):
            matrix[i, j] = _dot(rows[i], rows[j], n)
    return _dot(rows[7], rows[7], n)


@exact
def _solve(matrix: Any, damping: float, lower: Any, step: Vector) -> bool:
    """Solve the damped normal equations by Cholesky decomposition; return False where it breaks down."""
    for i in range(_PARAMETERS):
        for j in range(i + 1):
            total = matrix[j, i] * (1.0 + damping if i == j else 1.0)
            for k in range(j):
                total -= lower[i, k] * lower[j, k]
            if i == j:
                if not total > 0.0:
                    return False
                lower[i, i] = math.sqrt(total)
            else:
                lower[i, j] = total / lower[j, j]
    for i in range(_PARAMETERS):
        total = matrix[i, _PARAMETERS]
        for k in range(i):
            total -= lower[i, k] * step[k]
        step[i] = total / lower[i, i]
    for i in range(_PARAMETERS - 1, -1, -1):
        total = step[i]
        for k in range(i + 1, _PARAMETERS):
            total -= lower[k, i] * step[k]
        step[i] = total / lower[i, i]
    return True


@exact
def _levenberg_marquardt(
    dx: Vector,
    dy: Vector,
    value: Vector,
    n: int,
    beta: float,
    table: Vector,
    nodes: NDArray[np.float64],
    reach: float,
    p: Vector,
    work: Any,
    trial_work: Any,
    lower: Any,
    rows: Any,
) -> bool:
    """Improve the parameters `p` in place; return whether the fit converged."""
    damping = 1e-3
    step = np.empty(_PARAMETERS)
    trial = np.empty(_PARAMETERS)
    cost = _normal_equations(dx, dy, value, n, p, beta, table, nodes, work, rows)
    for _ in range(_ITERATIONS):
        if not _solve(work, damping, lower, step):
            return False
        for i in range(_PARAMETERS):
            trial[i] = p[i] + step[i]
        # Steps that leave the ellipse, the window or a sensible width are refused like steps uphill.
        valid = (
            trial[4] > 0.0
            and trial[6] > 0.0
            and trial[4] * trial[6] > trial[5] * trial[5]
            and abs(trial[2]) <= reach
            and abs(trial[3]) <= reach
            and trial[4] < 50.0
            and trial[6] < 50.0
        )
        new_cost = cost
        if valid:
            new_cost = _normal_equations(dx, dy, value, n, trial, beta, table, nodes, trial_work, rows)
        moved = max(abs(step[2]), abs(step[3]))
        width = (abs(step[4]) + abs(step[6])) / (abs(trial[4]) + abs(trial[6]))
        if valid and new_cost <= cost:
            done = (cost - new_cost <= 1e-9 * cost) or (
                cost - new_cost <= 1e-3 * cost and moved < 3e-3 and width < 3e-3
            )
            for i in range(_PARAMETERS):
                p[i] = trial[i]
            work[:, :] = trial_work
            cost = new_cost
            damping = max(damping * 0.1, 1e-9)
            if done:
                return True
        else:
            # At the minimum of a profile that is interpolated from a table no step leads downhill any more.
            if valid and moved < 1e-4 and width < 1e-4 and new_cost <= cost * (1.0 + 1e-6):
                return True
            damping *= 10.0
            if damping > 1e8:
                return False
    return False


@exact
def _model_value(x: float, y: float, p: Vector, beta: float, table: Vector, nodes: NDArray[np.float64]) -> float:
    """Return what a pixel has of the profile of `p`, without its background."""
    total = 0.0
    for v in range(nodes.shape[1]):
        dy = y + nodes[0, v] - p[3]
        for u in range(nodes.shape[1]):
            dx = x + nodes[0, u] - p[2]
            q = p[4] * dx * dx + 2.0 * p[5] * dx * dy + p[6] * dy * dy
            total += nodes[1, v] * nodes[1, u] * (_moffat(q, table) if beta > 0.0 else math.exp(-q))
    return float(p[0] * total)


@exact
def _seen_width(
    c: float, s: float, start: float, p: Vector, beta: float, table: Vector, nodes: NDArray[np.float64]
) -> float:
    """Return the full width at half maximum along (c, s) of what pixels have of the profile of `p`."""
    half = 0.5 * _model_value(p[2], p[3], p, beta, table, nodes)
    low, high = 0.0, start + 1.0
    for _ in range(24):
        r = 0.5 * (low + high)
        if _model_value(p[2] + r * c, p[3] + r * s, p, beta, table, nodes) > half:
            low = r
        else:
            high = r
    return low + high


@exact
def _fit_all(
    image: Image,
    xs: Vector,
    ys: Vector,
    first: NDArray[np.int64],
    other_x: Vector,
    other_y: Vector,
    saturation: np.float32,
    beta: float,
    table: Vector,
    half: int,
    fwhm: float,
    fits: Any,
) -> None:
    """Fill `fits`; `first`, `other_x` and `other_y` are those of `neighbours`.

    `beta` 0 is the Gaussian, `table` that of `_profile_table`, `fwhm` the first guess of the width.
    """
    h, w = image.shape
    largest = (2 * half + 1) ** 2
    dx = np.empty(largest)
    dy = np.empty(largest)
    value = np.empty(largest)
    scratch = np.empty(largest)
    p = np.empty(_PARAMETERS)
    work = np.empty((_PARAMETERS, _PARAMETERS + 1))
    trial_work = np.empty((_PARAMETERS, _PARAMETERS + 1))
    lower = np.empty((_PARAMETERS, _PARAMETERS))
    rows = np.empty((_PARAMETERS + 1, largest))
    # The profile varies across a pixel of a narrow star: its centre does not stand for it.
    nodes = PIXEL_NODES if fwhm < _VERY_NARROW else _TWO_NODES if fwhm < _NARROW else CENTRE_NODE
    # Squared half width at half maximum in units of 1/a.
    half_level = 2.0 ** (1.0 / beta) - 1.0 if beta > 0.0 else math.log(2.0)
    for s in range(xs.size):
        if not (0.0 <= xs[s] <= w - 1 and 0.0 <= ys[s] <= h - 1):
            continue
        ix = int(math.floor(xs[s] + 0.5))
        iy = int(math.floor(ys[s] + 0.5))
        n = 0
        rim = 0
        top = -math.inf
        saturated = False
        for j in range(max(iy - half, 0), min(iy + half + 1, h)):
            for i in range(max(ix - half, 0), min(ix + half + 1, w)):
                square = (i - ix) ** 2 + (j - iy) ** 2
                v = image[j, i]
                if square > (half + 0.5) ** 2 or v != v:
                    continue
                taken = False
                for k in range(first[s], first[s + 1]):
                    away = (i - other_x[k]) ** 2 + (j - other_y[k]) ** 2
                    taken = taken or away < (i - xs[s]) ** 2 + (j - ys[s]) ** 2
                if taken:
                    continue
                if v >= saturation:
                    # A saturated neighbour is only left out; one on the star itself marks it.
                    saturated = saturated or square <= max(fwhm, 2.0) ** 2
                    continue
                dx[n] = i - ix
                dy[n] = j - iy
                value[n] = v
                if square > (0.75 * half) ** 2:
                    scratch[rim] = v
                    rim += 1
                if square <= 2 and v > top:
                    top = v
                n += 1
        fits[s]["saturated"] = saturated
        if n < 3 * _PARAMETERS or rim < 3 or not top > -math.inf:
            continue
        p[1] = _select(scratch, rim, rim // 2)
        p[0] = top - p[1]
        if not p[0] > 0.0:
            continue
        p[2] = xs[s] - ix
        p[3] = ys[s] - iy
        p[4] = 4.0 * half_level / (fwhm * fwhm)
        p[5] = 0.0
        p[6] = p[4]
        reach = max(2.0, 0.5 * fwhm)
        good = _levenberg_marquardt(dx, dy, value, n, beta, table, nodes, reach, p, work, trial_work, lower, rows)
        if not good:
            continue
        for k in range(n):
            scratch[k] = abs(value[k] - p[1] - _model_value(dx[k], dy[k], p, beta, table, nodes))
        spread = _select(scratch, n, n // 2)
        # Outliers exceed the noise and the errors that a slightly wrong profile makes in the core.
        left = 0
        for k in range(n):
            model = _model_value(dx[k], dy[k], p, beta, table, nodes)
            residual = abs(value[k] - p[1] - model)
            if residual <= 6.0 * spread + 0.25 * abs(model) or model > 0.5 * p[0]:
                dx[left] = dx[k]
                dy[left] = dy[k]
                value[left] = value[k]
                left += 1
        if left < n and left >= 3 * _PARAMETERS:
            n = left
            good = _levenberg_marquardt(dx, dy, value, n, beta, table, nodes, reach, p, work, trial_work, lower, rows)
            if not good:
                continue
            for k in range(n):
                scratch[k] = abs(value[k] - p[1] - _model_value(dx[k], dy[k], p, beta, table, nodes))
            spread = _select(scratch, n, n // 2)
        mean = 0.5 * (p[4] + p[6])
        difference = math.hypot(0.5 * (p[4] - p[6]), p[5])
        small = mean - difference
        if not (small > 0.0 and p[0] > 0.0):
            continue
        major = 2.0 * math.sqrt(half_level / small)
        minor = 2.0 * math.sqrt(half_level / (mean + difference))
        # The major axis is the eigenvector of the smaller eigenvalue of [[a, b], [b, c]].
        theta = 0.5 * math.atan2(-2.0 * p[5], p[6] - p[4]) if difference > 0.0 else 0.0
        if theta >= 0.5 * math.pi:
            theta -= math.pi
        fits[s]["sharp_major"] = major
        fits[s]["sharp_minor"] = minor
        if nodes.shape[1] > 1:
            major = _seen_width(math.cos(theta), math.sin(theta), major, p, beta, table, nodes)
            minor = _seen_width(-math.sin(theta), math.cos(theta), minor, p, beta, table, nodes)
        area = math.pi / math.sqrt(small * (mean + difference))
        if beta > 0.0:
            area /= beta - 1.0
        fits[s]["x"] = ix + p[2]
        fits[s]["y"] = iy + p[3]
        fits[s]["amplitude"] = _model_value(p[2], p[3], p, beta, table, nodes)
        fits[s]["background"] = p[1]
        fits[s]["fwhm_major"] = major
        fits[s]["fwhm_minor"] = minor
        fits[s]["theta"] = theta
        fits[s]["flux"] = p[0] * area
        fits[s]["residual"] = spread / p[0]
        total = 0.0
        for k in range(n):
            total += (value[k] - p[1] - _model_value(dx[k], dy[k], p, beta, table, nodes)) ** 2
        fits[s]["rms"] = math.sqrt(total / n)
        moved = math.hypot(ix + p[2] - xs[s], iy + p[3] - ys[s])
        fits[s]["ok"] = (
            not saturated
            and moved <= max(1.5, 0.4 * fwhm)
            and minor >= 0.7
            and major <= 2.0 * half
            and p[0] > 3.0 * spread
        )


@exact
def _aperture_flux(
    image: Image,
    xs: Vector,
    ys: Vector,
    radius: float,
    inner: float,
    outer: float,
    flux: Vector,
    background: Vector,
) -> None:
    h, w = image.shape
    ring = np.empty(int(2.0 * outer + 3.0) ** 2)
    for s in range(xs.size):
        flux[s] = math.nan
        background[s] = math.nan
        x, y = xs[s], ys[s]
        if not (-outer < x < w + outer and -outer < y < h + outer):
            continue
        n = 0
        for j in range(max(int(math.ceil(y - outer)), 0), min(int(math.floor(y + outer)) + 1, h)):
            reach = math.sqrt(outer * outer - (j - y) ** 2)
            for i in range(max(int(math.ceil(x - reach)), 0), min(int(math.floor(x + reach)) + 1, w)):
                v = image[j, i]
                if (i - x) ** 2 + (j - y) ** 2 >= inner * inner and v == v:
                    ring[n] = v
                    n += 1
        if n == 0:
            continue
        level = 0.5 * (_select(ring, n, (n - 1) // 2) + _select(ring, n, n // 2))
        background[s] = level
        y_low, y_high = int(math.floor(y - radius + 0.5)), int(math.floor(y + radius + 0.5))
        x_low, x_high = int(math.floor(x - radius + 0.5)), int(math.floor(x + radius + 0.5))
        if y_low < 0 or x_low < 0 or y_high >= h or x_high >= w:
            continue
        total = 0.0
        for j in range(y_low, y_high + 1):
            for i in range(x_low, x_high + 1):
                inside = 0
                distance = math.sqrt((i - x) ** 2 + (j - y) ** 2)
                # Half a diagonal from the edge of the circle the sub-pixels agree.
                if distance > radius + 0.75:
                    continue
                if distance < radius - 0.75:
                    total += float(image[j, i]) - level
                    continue
                for v in range(5):
                    sub_y = j + 0.2 * (v - 2) - y
                    for u in range(5):
                        sub_x = i + 0.2 * (u - 2) - x
                        if sub_x * sub_x + sub_y * sub_y < radius * radius:
                            inside += 1
                # Pixels outside the circle must not blank it, though zero times NaN would.
                if inside > 0:
                    total += (float(image[j, i]) - level) * (inside / 25.0)
        flux[s] = total
