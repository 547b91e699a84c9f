"""What a plane transform leaves over: distortion fitted to stars, and displacements on the nodes of a coarse grid.

A transform with displacement maps a point (x, y) of the output to ``matrix (x, y) + D(x, y)`` in the frame. D is kept
at multiples of `step` px of the output grid: ``nodes[j, i]`` is (dx, dy) in frame px at (i step, j step), bilinear in
between. Outside of the grid the value at its border holds. An array without rows stands for no displacement.

D is a polynomial through what the plane transform leaves at the stars, and a thin-plate spline through what that
leaves. What there is of both is decided by stars that were left out of the fit.

Points are ``(x, y)``, 0-based, pixel centres on integers.

References
----------
Duchon J. 1977, in Constructive Theory of Functions of Several Variables, Springer, 85 (thin-plate splines); Wahba G.
1990, Spline Models for Observational Data, chapter 2 (smoothing splines, choice of the smoothness by left-out data).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from wbpy.kernels import transforms
from wbpy.kernels.jit import exact

Nodes = NDArray[np.float64]
Points = NDArray[np.float64]
Matrix = NDArray[np.float64]
Choice = Literal["off", "auto", "polynomial", "spline"]
Surface = Callable[[Points], Points]
"""Displacement (n, 2) at points (n, 2) of the output, frame px."""

_CORRECTIONS = 12

NONE: Nodes = np.zeros((0, 0, 2))
"""No displacement, of one channel."""


def apply(matrix: Matrix, nodes: Nodes, step: int, points: NDArray[Any]) -> Points:
    """Return `points` of the output mapped to the frame, displacement included.

    Parameters
    ----------
    matrix : (3, 3) float64 ndarray
        Output -> frame.
    nodes : (gy, gx, 2) float64 ndarray, frame px
        Displacements; without rows there are none.
    step : int
        Distance of the nodes, px.
    points : (n, 2) array

    Returns
    -------
    (n, 2) float64 ndarray
    """
    p = np.asarray(points, dtype=np.float64)
    mapped = transforms.apply(matrix, p)
    return mapped if nodes.shape[0] == 0 else mapped + at(nodes, step, p)


def invert(matrix: Matrix, nodes: Nodes, step: int, points: NDArray[Any]) -> Points:
    """Return the points (n, 2) of the output that `apply` maps to `points` (n, 2) of the frame.

    By repeated correction, which converges where the displacement changes by less than a pixel in a pixel.
    """
    p = np.asarray(points, dtype=np.float64)
    back: Matrix = np.linalg.inv(matrix).astype(np.float64)
    found = transforms.apply(back, p)
    if nodes.shape[0] == 0:
        return found
    for _ in range(_CORRECTIONS):
        found = transforms.apply(back, p - at(nodes, step, found))
    return found


def at(nodes: Nodes, step: int, points: NDArray[Any]) -> Points:
    """Return the displacements (n, 2) at `points` (n, 2), frame px; see the module's text."""
    p = np.asarray(points, dtype=np.float64) / step
    gy, gx = nodes.shape[:2]
    x, y = np.clip(p[:, 0], 0, gx - 1), np.clip(p[:, 1], 0, gy - 1)
    i, j = np.minimum(x.astype(np.int64), max(gx - 2, 0)), np.minimum(y.astype(np.int64), max(gy - 2, 0))
    u, v = (x - i)[:, None], (y - j)[:, None]
    k, m = np.minimum(i + 1, gx - 1), np.minimum(j + 1, gy - 1)
    upper = nodes[j, i] * (1 - u) + nodes[j, k] * u
    lower = nodes[m, i] * (1 - u) + nodes[m, k] * u
    return np.asarray(upper * (1 - v) + lower * v)


def reach(nodes: Nodes, step: int, x0: int, y0: int, width: int, height: int) -> tuple[float, float, float, float]:
    """Return the smallest and largest dx, then dy, in a rectangle of the output: (left, right, up, down), px."""
    gy, gx = nodes.shape[:2]
    if gy == 0:
        return 0.0, 0.0, 0.0, 0.0
    # Between nodes the value is a mean of them, so the nodes around the rectangle bound it.
    i0, j0 = min(max(x0 // step, 0), gx - 1), min(max(y0 // step, 0), gy - 1)
    i1, j1 = min(max((x0 + width) // step + 1, 0), gx - 1), min(max((y0 + height) // step + 1, 0), gy - 1)
    part = nodes[j0 : j1 + 1, i0 : i1 + 1]
    low, high = part.min(axis=(0, 1)), part.max(axis=(0, 1))
    return float(low[0]), float(high[0]), float(low[1]), float(high[1])


@exact
def displace_row(
    nodes: Nodes, step: int, y: float, x0: float, spacing: float, dx: NDArray[np.float64], dy: NDArray[np.float64]
) -> None:
    """Fill `dx`, `dy` with the displacements at (x0, y), (x0 + spacing, y), ... of the output, frame px.

    They depend on the absolute position only, so that every tiling gives the same bits.
    """
    gy, gx = nodes.shape[0], nodes.shape[1]
    v = min(max(y / step, 0.0), float(gy - 1))
    j = min(int(v), max(gy - 2, 0))
    below = min(j + 1, gy - 1)
    v -= j
    line = np.empty((gx, 2), np.float64)
    for i in range(gx):
        for axis in range(2):
            line[i, axis] = nodes[j, i, axis] * (1.0 - v) + nodes[below, i, axis] * v
    scale = 1.0 / step
    last = float(gx - 1)
    for n in range(dx.size):
        u = min(max((x0 + n * spacing) * scale, 0.0), last)
        i = int(u)
        right = min(i + 1, gx - 1)
        u -= i
        dx[n] = line[i, 0] + (line[right, 0] - line[i, 0]) * u
        dy[n] = line[i, 1] + (line[right, 1] - line[i, 1]) * u


def sampled(
    surfaces: Sequence[Surface], width: int, height: int, error: float = 0.005
) -> tuple[NDArray[np.float64], int]:
    """Return the nodes of `surfaces` over a grid, and their distance.

    Parameters
    ----------
    surfaces : sequence of K callables
        Points (n, 2) -> displacements (n, 2), for all channels or one for each.
    width, height : int
        Size of the output, px.
    error : float
        What bilinear interpolation may be off by between nodes, frame px. The distance is the largest of 256, 128, 64,
        32, 16 and 8 px that keeps to it, 8 where none does.

    Returns
    -------
    nodes : (K, gy, gx, 2) float64 ndarray
    step : int
    """
    step = 256
    while True:
        gx, gy = (width + step - 2) // step + 1, (height + step - 2) // step + 1
        nodes = np.stack([surface(_grid(gx, gy, step)).reshape(gy, gx, 2) for surface in surfaces])
        if step == 8:
            break
        # Bilinear interpolation is worst in the middle of a cell.
        middle = _grid(max(gx - 1, 1), max(gy - 1, 1), step) + step / 2
        pairs = zip(surfaces, nodes, strict=True)
        if all(np.abs(surface(middle) - at(own, step, middle)).max() <= error for surface, own in pairs):
            break
        step //= 2
    return nodes, step


def moved(nodes: Nodes, step: int, x0: int, y0: int, width: int, height: int) -> Nodes:
    """Return the nodes for an output of another size whose first pixel is (x0, y0) of the present one, same step."""
    gx, gy = (width + step - 2) // step + 1, (height + step - 2) // step + 1
    return at(nodes, step, _grid(gx, gy, step) + (x0, y0)).reshape(gy, gx, 2)


def _grid(gx: int, gy: int, step: int) -> Points:
    return np.column_stack([np.tile(np.arange(gx), gy), np.repeat(np.arange(gy), gx)]).astype(np.float64) * step


ORDERS = (2, 3, 4, 5)
FOLDS = 5
"""Parts into which stars are dealt: each is predicted from the others."""
FEWEST_HELD_OUT = 10
"""With fewer pairs none is left out."""
_STARS_PER_TERM = 3
_STARS_FOR_SPLINE = 60
_CONTROL_POINTS = 400
_SMOOTHNESS = tuple(10.0**k for k in range(-4, 4))
# A difference must be four standard errors, and take a tenth off the squares, before it pays for its terms.
_SIGNIFICANT = 4.0
_WORTHWHILE = 0.10
_OUTLIER = 3.5
# Pairs that a model must have before it is considered.
_PAIRS_FOR: dict[transforms.Model, int] = {"similarity": 0, "affine": 10, "homography": 16}
_AICC_GAIN = 10.0
_NOTICEABLE = 1.0
_ROUNDS = 14
_GROWTH = 1.25
_WIDEST = 4.0


@dataclass(frozen=True, eq=False)
class Refined:
    """A transform fitted to all stars that agree with it."""

    matrix: Matrix
    """(3, 3): output -> frame."""
    model: transforms.Model
    """Its form."""
    surface: Surface | None
    """What is added to it; None without distortion."""
    kind: str
    """"none", "polynomial 3" or the like, "spline"."""
    pairs: NDArray[np.int64]
    """(k, 2): indices of the stars in the two lists."""
    near: NDArray[np.int64]
    """(m, 2): indices of all stars within the tolerance, those that do not fit the rest included."""
    residuals: Points
    """(m, 2): measured minus predicted position of these, frame px."""
    rms: float
    """Distance of the pairs, weighted by the inverse squares of the position errors, px."""
    heldout_rms: float
    """The same of stars predicted without their own help; NaN with fewer than ten pairs."""
    better_rms: float = float("nan")
    """What `heldout_rms` would be with the distortion that was left off though left-out stars ask for it; else NaN."""


def refine(
    matrix: Matrix,
    models: Sequence[transforms.Model],
    ours: Points,
    theirs: Points,
    our_sigma: NDArray[np.float64],
    their_sigma: NDArray[np.float64],
    pairs: NDArray[np.int64],
    choice: Choice = "off",
    tolerance: float = 2.0,
) -> Refined:
    """Return the transform fitted to as many stars as agree with it, with distortion where it is wanted and shows.

    Each star counts by what its position is worth. With distortion, stars are predicted by the present model, more
    are matched in a growing radius, and the model is fitted again, until the pairs stay the same; stars that a plane
    transform misses by several times the tolerance are reached from the middle outwards. Then left-out stars decide
    between the plane transform, polynomials of order 2 to 5 and a thin-plate spline whose smoothness they choose.

    Parameters
    ----------
    matrix : (3, 3) float64 ndarray
        Verified transform, see `wbpy.kernels.patterns`.
    models : sequence of {"similarity", "affine", "homography"}
        Forms that it may take, the simplest first. A later one is taken when it lowers the corrected Akaike criterion
        of the weighted residuals by ten, which leaves the simpler one no support (Burnham & Anderson 2002, 2.6), and
        left-out stars agree by a standard error.
    ours, theirs : (n, 2), (m, 2) float64 arrays, px
        Stars of the reference and of the frame.
    our_sigma, their_sigma : (n,), (m,) float64 arrays, px
        Standard deviation of their positions per axis.
    pairs : (k, 2) int64 ndarray
        Stars that agree under `matrix`.
    choice : {"off", "auto", "polynomial", "spline"}
        "auto" takes distortion only where left-out stars are predicted better by four standard errors and 10 % of
        the squares; the others take it whenever there are stars enough.
    tolerance : float
        Largest distance of a pair, frame px; during the search up to four times as much where stars stand far apart.

    Returns
    -------
    Refined
    """
    stars = _Stars(ours, theirs, our_sigma, their_sigma, models[-1])
    stars = replace(stars, model=_supported(stars, models, pairs))
    found = _finished(stars, _PLANE, pairs, matrix, tolerance)
    if len(pairs) < _STARS_PER_TERM * _terms(2):
        return found
    collected = _collected(stars, matrix, pairs, tolerance)
    form = _form(stars, collected, "auto" if choice == "off" else choice)
    if form is _PLANE and choice != "off":
        return _finished(stars, form, collected, matrix, tolerance)
    if form is _PLANE:
        return found
    bent = _finished(stars, form, collected, matrix, tolerance)
    return replace(found, better_rms=bent.heldout_rms) if choice == "off" else bent


@dataclass(frozen=True)
class _Form:
    """What is fitted: a plane transform, with a polynomial of some order, and a spline of some smoothness on top."""

    name: str
    order: int
    smoothness: float


@dataclass(frozen=True, eq=False)
class _Stars:
    ours: Points
    theirs: Points
    our_sigma: NDArray[np.float64]
    their_sigma: NDArray[np.float64]
    model: transforms.Model

    def sigma(self, pairs: NDArray[np.int64]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = np.hypot(self.our_sigma[pairs[:, 0]], self.their_sigma[pairs[:, 1]])
        return found


def _supported(stars: _Stars, models: Sequence[transforms.Model], pairs: NDArray[np.int64]) -> transforms.Model:
    """Return the simplest of the models that none of the later ones beats by the corrected Akaike criterion."""
    allowed = [model for model in models if len(pairs) >= _PAIRS_FOR[model]] or list(models[:1])
    if len(allowed) == 1 or len(pairs) < _PAIRS_FOR["affine"]:
        return allowed[0]
    # All are judged by the pairs that the most general one keeps.
    kept = pairs[_inliers(replace(stars, model=allowed[-1]), _PLANE, pairs)]
    n = 2 * len(kept)
    best, lowest, left_out = allowed[0], np.inf, np.empty(0)
    for model in allowed:
        own = replace(stars, model=model)
        score = _scores(own, *_fitted(own, _PLANE, kept), kept)
        k = transforms.PARAMETERS[model] + 1
        # The floor stands for positions that agree to a thousandth of what their errors allow: exact lists.
        criterion = n * np.log(max(float(np.sum(score**2)) / n, 1e-6)) + 2 * k + 2 * k * (k + 1) / max(n - k - 1, 1)
        other = _left_out(own, _PLANE, kept) ** 2
        if model == allowed[0] or (criterion < lowest - _AICC_GAIN and _gain(left_out, other)[0] > _NOTICEABLE):
            best, lowest, left_out = model, criterion, other
    return best


_PLANE = _Form("none", 0, 0.0)


def _form(stars: _Stars, pairs: NDArray[np.int64], choice: Choice) -> _Form:
    """Return what is to be fitted to the pairs: what left-out stars ask for, or of what is asked for the best."""
    forms = [_PLANE] + [_Form(f"polynomial {k}", k, 0.0) for k in ORDERS if _STARS_PER_TERM * _terms(k) <= len(pairs)]
    kept = pairs[_inliers(stars, forms[-1], pairs)]
    best = _simplest(stars, forms if choice != "polynomial" or len(forms) == 1 else forms[1:], kept)
    if choice != "polynomial" and len(kept) >= _STARS_FOR_SPLINE and (choice == "spline" or best is not _PLANE):
        splines = [_Form("spline", best.order, s) for s in _SMOOTHNESS]
        # Stars that no polynomial reaches are what a spline is for.
        kept = pairs[_inliers(stars, splines[len(splines) // 2], pairs)]
        smoothest = min(splines, key=lambda form: float(np.mean(_left_out(stars, form, kept) ** 2)))
        best = smoothest if choice == "spline" else _simplest(stars, [best, smoothest], kept)
    return best


def _terms(order: int) -> int:
    return (order + 1) * (order + 2) // 2


def _fitted(stars: _Stars, form: _Form, pairs: NDArray[np.int64]) -> tuple[Matrix, Surface | None]:
    """Return the plane transform of the pairs and the surface through what it leaves."""
    src, dst = stars.ours[pairs[:, 0]], stars.theirs[pairs[:, 1]]
    weights = 1.0 / stars.sigma(pairs) ** 2
    matrix = transforms.fit(stars.model, src, dst, weights=weights)
    left = dst - transforms.apply(matrix, src)
    if not form.order:
        return matrix, spline(src, left, weights, form.smoothness) if form.smoothness else None
    trend = polynomial(src, left, weights, form.order)
    if not form.smoothness:
        return matrix, trend
    rest = spline(src, left - trend(src), weights, form.smoothness)
    return matrix, lambda points: trend(points) + rest(points)


def chosen(
    src: Points, values: Points, sigma: NDArray[np.float64], orders: Sequence[int], forced: bool = False
) -> tuple[Surface | None, int]:
    """Return the polynomial through `values` that left-out points call for, and its order; (None, -1) for none.

    Parameters
    ----------
    src, values : (n, 2) float64 arrays
        Points and what was measured there.
    sigma : (n,) float64 array
        Standard deviation of the values per axis.
    orders : sequence of int
        Orders that may be taken, from 0 (a constant), ascending.
    forced : bool
        Take one even where left-out points do not call for it.

    Values beyond 3.5 typical deviations of the richest polynomial are left out.
    """
    allowed = [k for k in orders if len(src) >= max(FEWEST_HELD_OUT, _STARS_PER_TERM * _terms(k))]
    if not allowed:
        return None, -1
    kept = np.ones(len(src), bool)

    def score(fitted: NDArray[np.bool_], asked: NDArray[np.bool_], order: int) -> NDArray[np.float64]:
        left = values[asked]
        if order >= 0:
            left = left - polynomial(src[fitted], values[fitted], 1 / sigma[fitted] ** 2, order)(src[asked])
        return np.asarray(np.hypot(left[:, 0], left[:, 1]) / sigma[asked])

    everything = np.ones(len(src), bool)
    for _ in range(3):
        away = score(kept, everything, allowed[-1])
        kept = away <= _OUTLIER * max(float(np.median(away[kept])) / 1.177, 0.1)
    part = np.cumsum(kept) % FOLDS
    best, best_score = -1, score(kept, kept, -1) ** 2
    for order in allowed:
        other = np.empty(np.count_nonzero(kept))
        for fold in range(FOLDS):
            out = kept & (part == fold)
            other[part[kept] == fold] = score(kept & ~out, out, order) ** 2
        if _pays(best_score, other) or (forced and best < 0):
            best, best_score = order, other
    if best < 0:
        return None, -1
    return polynomial(src[kept], values[kept], 1 / sigma[kept] ** 2, best), best


def _gain(score: NDArray[np.float64], other: NDArray[np.float64]) -> tuple[float, float]:
    """Return by how much the squares of left-out stars are smaller in `other`: in standard errors, and as a share."""
    # One star that a form misses must not decide.
    limit = 4 * _OUTLIER**2 * 2 * float(np.median(np.minimum(score, other)))
    before = np.minimum(score, limit)
    gain = before - np.minimum(other, limit)
    error, total = float(gain.std()) / np.sqrt(len(gain)), float(before.sum())
    return float(gain.mean()) / error if error > 0 else 0.0, float(gain.sum()) / total if total > 0 else 0.0


def _pays(score: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    """Return whether left-out stars are convincingly better off under the second of two forms."""
    errors, share = _gain(score, other)
    return errors > _SIGNIFICANT and share > _WORTHWHILE


def _predicted(matrix: Matrix, surface: Surface | None, points: Points) -> Points:
    mapped = transforms.apply(matrix, points)
    return mapped if surface is None else mapped + surface(points)


def _scores(stars: _Stars, matrix: Matrix, surface: Surface | None, pairs: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the distance of each pair in units of what its position errors allow."""
    away = stars.theirs[pairs[:, 1]] - _predicted(matrix, surface, stars.ours[pairs[:, 0]])
    return np.asarray(np.hypot(away[:, 0], away[:, 1]) / stars.sigma(pairs))


def _inliers(stars: _Stars, form: _Form, pairs: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which pairs agree with each other under a form."""
    kept = np.ones(len(pairs), bool)
    needed = max(_STARS_PER_TERM, _terms(form.order), 2 * transforms.MINIMUM_POINTS[stars.model])
    for _ in range(3):
        score = _scores(stars, *_fitted(stars, form, pairs[kept]), pairs)
        # 1.177 is the median of a two-dimensional normal error.
        typical = float(np.median(score[kept])) / 1.177
        good = score <= _OUTLIER * max(typical, 0.1)
        if np.count_nonzero(good) < needed:
            break
        kept = good
    return kept


def _collected(stars: _Stars, matrix: Matrix, pairs: NDArray[np.int64], tolerance: float) -> NDArray[np.int64]:
    """Return the pairs found by predicting, matching in a growing radius and fitting again."""
    tree = cKDTree(stars.theirs)
    # A quarter of the distance to the next star: beyond it a nearest star is often another one.
    spacing = float(np.median(tree.query(stars.theirs, k=2)[0][:, 1]))
    widest = max(tolerance, min(_WIDEST * tolerance, 0.25 * spacing))
    surface: Surface | None = None
    before = pairs
    for turn in range(_ROUNDS):
        order = 3 if len(pairs) >= _STARS_PER_TERM * _terms(3) else 2
        form = _Form("", order, 0.0) if len(pairs) >= _STARS_PER_TERM * _terms(2) else _Form("", 0, 0.0)
        matrix, surface = _fitted(stars, form, pairs[_inliers(stars, form, pairs)])
        # The last rounds return to the tolerance.
        radius = min(tolerance * _GROWTH**turn, widest) if turn < _ROUNDS - 3 else tolerance
        pairs = mutual(_predicted(matrix, surface, stars.ours), stars.theirs, tree, radius)
        if len(pairs) < _STARS_PER_TERM * _terms(2):
            return before
        if turn > 3 and np.array_equal(pairs, before) and radius in (widest, tolerance):
            break
        before = pairs
    return mutual(_predicted(matrix, surface, stars.ours), stars.theirs, tree, tolerance)


def mutual(predicted: Points, theirs: Points, tree: cKDTree, radius: float) -> NDArray[np.int64]:
    """Return the pairs (k, 2) of stars that are each other's nearest within a radius, by index of the first."""
    distance, nearest = tree.query(predicted, distance_upper_bound=radius)
    near = np.flatnonzero(np.isfinite(distance))
    order = near[np.argsort(distance[near], kind="stable")]
    _, first = np.unique(nearest[order], return_index=True)
    keep = np.sort(order[first])
    return np.column_stack([keep, nearest[keep]]).astype(np.int64)


def _left_out(stars: _Stars, form: _Form, pairs: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the scores of the pairs, each predicted from the other four fifths."""
    score = np.empty(len(pairs))
    part = np.arange(len(pairs)) % FOLDS
    for fold in range(FOLDS):
        out = part == fold
        score[out] = _scores(stars, *_fitted(stars, form, pairs[~out]), pairs[out])
    return score


def _simplest(stars: _Stars, forms: Sequence[_Form], pairs: NDArray[np.int64]) -> _Form:
    """Return the first of the forms that no later one beats on left-out stars."""
    best = forms[0]
    if len(forms) == 1:
        return best
    score = _left_out(stars, best, pairs) ** 2
    for form in forms[1:]:
        other = _left_out(stars, form, pairs) ** 2
        if _pays(score, other):
            best, score = form, other
    return best


def _finished(stars: _Stars, form: _Form, pairs: NDArray[np.int64], matrix: Matrix, tolerance: float) -> Refined:
    """Return the fit of a form to the pairs that agree."""
    surface: Surface | None = None
    if len(pairs) >= max(6, 2 * transforms.MINIMUM_POINTS[stars.model]):
        pairs = pairs[_inliers(stars, form, pairs)]
        matrix, surface = _fitted(stars, form, pairs)
    sigma = stars.sigma(pairs)
    score = _scores(stars, matrix, surface, pairs)
    heldout = float("nan")
    if len(pairs) >= max(FEWEST_HELD_OUT, 2 * _terms(form.order)):
        heldout = _weighted_rms(_left_out(stars, form, pairs), sigma)
    predicted = _predicted(matrix, surface, stars.ours)
    near = mutual(predicted, stars.theirs, cKDTree(stars.theirs), tolerance)
    away = stars.theirs[near[:, 1]] - predicted[near[:, 0]]
    return Refined(matrix, stars.model, surface, form.name, pairs, near, away, _weighted_rms(score, sigma), heldout)


def _weighted_rms(score: NDArray[np.float64], sigma: NDArray[np.float64]) -> float:
    """Return the rms of distances from their scores, weighted by 1 / sigma^2."""
    return float(np.sqrt(np.sum(score**2) / np.sum(1.0 / sigma**2)))


def polynomial(src: Points, values: Points, weights: NDArray[np.float64], order: int) -> Surface:
    """Return the least-squares polynomial of total degree `order` through `values` at `src`.

    In products of Legendre polynomials of coordinates from -1 to 1 over the stars, which keeps the equations well
    conditioned. A tenth of the field beyond the stars' bounding box it stops changing: nothing is known there, and a
    polynomial of the fifth degree would run away.

    Parameters
    ----------
    src, values : (n, 2) float64 arrays
    weights : (n,) float64 array
        Of the squared residuals.
    order : int

    Returns
    -------
    callable
        Points (n, 2) -> values (n, 2).
    """
    unit = _unit(src)
    powers = [(i, k - i) for k in range(order + 1) for i in range(k + 1)]

    def design(points: Points) -> Points:
        u = np.clip(unit(points), -1.2, 1.2)
        px = np.polynomial.legendre.legvander(u[:, 0], order)
        py = np.polynomial.legendre.legvander(u[:, 1], order)
        return np.stack([px[:, i] * py[:, j] for i, j in powers], axis=1)

    root = np.sqrt(weights / weights.max())[:, None]
    solution = np.linalg.lstsq(design(src) * root, values * root, rcond=1e-10)[0]
    return lambda points: np.asarray(design(np.asarray(points, np.float64)) @ solution)


def spline(src: Points, values: Points, weights: NDArray[np.float64], smoothness: float) -> Surface:
    """Return the smoothing thin-plate spline through `values` at `src`.

    It minimises ``sum w (v - f)^2 + smoothness J`` with the bending energy J, in coordinates from -1 to 1 over the
    stars. Of more than 400 stars the means over the cells of a grid are taken, which changes little because a
    distortion is smooth, and bounds the equations.

    Parameters
    ----------
    src, values : (n, 2) float64 arrays
    weights : (n,) float64 array
    smoothness : float
        Above zero; in units of weight times squared value.

    Returns
    -------
    callable
        Points (n, 2) -> values (n, 2).
    """
    unit = _unit(src)
    u, v, w = unit(src), values, weights
    if len(u) > _CONTROL_POINTS:
        side = int(np.sqrt(_CONTROL_POINTS))
        place = np.clip(((u + 1) / 2 * side).astype(np.int64), 0, side - 1)
        cell = place[:, 1] * side + place[:, 0]
        total = np.asarray(np.bincount(cell, w, side * side), np.float64)
        used = total > 0
        columns = [np.bincount(cell, w * part, side * side)[used] / total[used] for part in (*u.T, *v.T)]
        u, v = np.column_stack(columns[:2]), np.column_stack(columns[2:])
        w = total[used]
    n = len(u)
    system = np.zeros((n + 3, n + 3))
    system[:n, :n] = _bending(u, u)
    system[np.arange(n), np.arange(n)] += smoothness / w
    system[:n, n], system[:n, n + 1 :] = 1.0, u
    system[n:, :n] = system[:n, n:].T
    solution = np.linalg.solve(system, np.vstack([v, np.zeros((3, 2))]))

    def surface(points: Points) -> Points:
        q = unit(np.asarray(points, np.float64))
        found = np.empty_like(q)
        # In parts: nodes times control points may be many.
        for start in range(0, len(q), 4096):
            part = q[start : start + 4096]
            found[start : start + 4096] = _bending(part, u) @ solution[:n] + solution[n] + part @ solution[n + 1 :]
        return found

    return surface


def _bending(a: Points, b: Points) -> Points:
    """Return ``r^2 log r / (8 pi)`` between the points of two lists."""
    square = ((a[:, None, :] - b[None, :, :]) ** 2).sum(axis=2)
    return np.asarray(square * np.log(np.where(square > 0, square, 1.0)) / (16 * np.pi))


def _unit(src: Points) -> Surface:
    """Return the function that brings the bounding box of `src` to -1 to 1, one scale for both axes."""
    low, high = src.min(axis=0), src.max(axis=0)
    centre, half = (low + high) / 2, max(float((high - low).max()) / 2, 1e-9)
    return lambda points: (np.asarray(points, np.float64) - centre) / half
