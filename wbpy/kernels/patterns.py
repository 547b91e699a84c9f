"""Recognise the stars of one list in another: triangles, votes, verification, choice of the transform.

Lists of points ``(x, y)`` in pixels, brightest first. The ratios of the sides of a triangle do not change under
shift, rotation, scale and mirroring (Valdes et al. 1995, PASP 107, 1119), so triangles of neighbouring bright stars
are looked up by the logarithms of two ratios. Pairs of stars that share many similar triangles propose similarity
transforms; a proposal counts only if far more stars than chance explains coincide under it, judged a contrario:
the expected number of such coincidences in unrelated fields must be tiny (Moisan & Stival 2004, IJCV 57, 201).

Direction: every matrix maps REFERENCE coordinates to TARGET coordinates, which is what resampling the target on the
reference grid asks for.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.special import bdtrc

from wbpy.kernels import transforms
from wbpy.kernels.transforms import Matrix, Model, Points

Choice = Literal["auto", "similarity", "affine", "homography"]
Pairs = NDArray[np.int64]

MINIMUM_STARS = 5

# Attempts in order: brightest stars taken of the reference and of the target, and neighbours whose triangles are
# formed (0: all triangles). The unequal ones are for a field that is a small part of the other.
_BRIGHT = 200
_ALL_TRIANGLES_BELOW = 28
_ATTEMPTS = ((_BRIGHT, _BRIGHT, 6), (28, 28, 0), (600, 600, 5), (900, 100, 6), (100, 900, 6))
# Largest difference of the logarithms of two side ratios; 1 % also covers the distortion of common optics.
_RATIO_TOLERANCE = 0.01
_SIMILAR_TRIANGLES = 4
# A triangle with sides more unequal than this has a short side that noise alone changes too much.
_LARGEST_RATIO = 12.0
_PROPOSALS = 60
_SCALES = (0.3, 3.4)
# Expected number of false acceptances over all proposals of one match.
_FALSE_ALARMS = 1e-6
_HOPELESS = 1e-2
_NEIGHBOURS = 6
_FEW_STARS = 6
_FEW_STARS_TOLERANCE = 0.5
_HELD_OUT = 0.25
# Pairs above the minimum that a model must have before the more general one is considered.
_PAIRS_FOR: dict[Model, int] = {"similarity": 0, "affine": 8, "homography": 16}
# A difference of 10 in AICc leaves the lesser model essentially without support (Burnham & Anderson 2002, 2.6).
_AICC_GAIN = 10.0


@dataclass(frozen=True, eq=False)
class Alignment:
    """A verified transform between two star lists.

    Attributes
    ----------
    matrix : (3, 3) float64 ndarray
        Maps reference ``(x, y)`` to target ``(x, y)``.
    pairs : (k, 2) int64 ndarray
        Rows ``(reference index, target index)`` of the stars that agree, by reference index.
    rms : float
        Root mean square distance of the pairs after the transform, target pixels.
    n_inliers : int
        Number of pairs.
    held_out_rms : float
        The same for a random quarter of the pairs under a transform fitted to the others; NaN below 8 pairs.
    model : str
        "similarity", "affine" or "homography".
    """

    matrix: Matrix
    pairs: Pairs
    rms: float
    n_inliers: int
    held_out_rms: float
    model: Model


@dataclass(frozen=True)
class Mismatch:
    """Why two star lists could not be aligned.

    Attributes
    ----------
    reason : str
        One sentence.
    n_reference, n_target : int
        Number of stars given.
    n_votes : int
        Pairs of similar triangles in the most productive attempt.
    """

    reason: str
    n_reference: int
    n_target: int
    n_votes: int


def match_stars(
    reference: NDArray[Any],
    target: NDArray[Any],
    model: Choice = "auto",
    seed: int = 0,
    tolerance_px: float = 2.0,
) -> Alignment | Mismatch:
    """Return the transform from `reference` to `target` and the stars it joins, or why there is none.

    Works for any shift, rotation and mirroring and for scales from 0.3 to 3, from five common stars on.

    Parameters
    ----------
    reference : (n, 2) array, pixels
        Star positions, brightest first; rows that are not finite are ignored.
    target : (m, 2) array, pixels
        The same for the frame to be aligned.
    model : {"auto", "similarity", "affine", "homography"}
        "auto" takes the simplest model that the pairs support, by the corrected Akaike information criterion
        and the residual of held-out stars.
    seed : int
        Seed of the robust fit and of the held-out stars. The same arguments give the same answer.
    tolerance_px : float
        Largest distance of a pair after the transform, target pixels. Halved below six pairs.

    Returns
    -------
    Alignment or Mismatch

    Raises
    ------
    ValueError
        If an array is not (n, 2), the tolerance is not above zero, or the model is unknown.
    """
    if model not in ("auto", "similarity", "affine", "homography"):
        raise ValueError(f"unknown model {model!r}")
    if not tolerance_px > 0.0:
        raise ValueError(f"tolerance_px must be above zero, it is {tolerance_px}")
    ref, ref_index = _finite(reference, "reference")
    tgt, tgt_index = _finite(target, "target")
    n, m = len(ref), len(tgt)
    if min(n, m) < MINIMUM_STARS:
        few = f"{MINIMUM_STARS} stars are needed in each list, there are {n} and {m}"
        return Mismatch(few, n, m, 0)

    tree = cKDTree(tgt)
    most_votes = 0
    tried: set[tuple[int, int, int, int]] = set()
    for of_reference, of_target, neighbours in _ATTEMPTS:
        a, b = ref[:of_reference], tgt[:of_target]
        # Of a short list all triangles are formed: its few stars may be far apart in the other, longer one.
        near_a, near_b = (0 if len(points) <= _ALL_TRIANGLES_BELOW else neighbours for points in (a, b))
        if (len(a), len(b), near_a, near_b) in tried:
            continue
        tried.add((len(a), len(b), near_a, near_b))
        wanted = (max(len(a), _BRIGHT), max(len(b), _BRIGHT))
        ta, tb = _similar_triangles(a, b, near_a, near_b)
        most_votes = max(most_votes, len(ta))
        for matrix in _proposals(a, b, ta, tb):
            found = _verified(matrix, ref, tgt, tree, wanted, tolerance_px, len(ta), seed)
            if found is None:
                continue
            aligned = _aligned(found, ref, tgt, tree, model, tolerance_px, seed, len(ta))
            if aligned is not None:
                pairs = np.column_stack([ref_index[aligned.pairs[:, 0]], tgt_index[aligned.pairs[:, 1]]])
                return Alignment(aligned.matrix, pairs, aligned.rms, len(pairs), aligned.held_out_rms, aligned.model)
    if most_votes == 0:
        return Mismatch("no triangle of bright stars occurs in both lists", n, m, 0)
    return Mismatch("no transform brings more stars together than chance would", n, m, most_votes)


def _finite(points: NDArray[Any], name: str) -> tuple[Points, Pairs]:
    p = np.asarray(points, dtype=np.float64)
    if p.ndim != 2 or p.shape[1] != 2:
        raise ValueError(f"{name} must be (n, 2), not {p.shape}")
    index = np.flatnonzero(np.isfinite(p).all(axis=1))
    return p[index], index


def _triangles(points: Points, neighbours: int) -> tuple[Pairs, Points]:
    """Return triangles as vertex indices ordered by the opposite side, and their two log ratios."""
    n = len(points)
    if neighbours == 0 or neighbours >= n:
        corners = np.array(list(combinations(range(n), 3)), dtype=np.int64)
    else:
        near = cKDTree(points).query(points, k=neighbours + 1)[1]
        own = np.arange(n)
        corners = np.concatenate(
            [np.column_stack([own, near[:, i], near[:, j]]) for i, j in combinations(range(1, neighbours + 1), 2)]
        )
        corners = np.sort(corners, axis=1)
        code = np.unique((corners[:, 0] * n + corners[:, 1]) * n + corners[:, 2])
        corners = np.column_stack([code // (n * n), code // n % n, code % n])
    p = points[corners]
    sides = np.stack([np.hypot(*(p[:, i] - p[:, j]).T) for i, j in ((1, 2), (0, 2), (0, 1))], axis=1)
    order = np.argsort(sides, axis=1)
    corners = np.take_along_axis(corners, order, axis=1)
    sides = np.take_along_axis(sides, order, axis=1)
    usable = (sides[:, 0] > 0.0) & (sides[:, 2] < _LARGEST_RATIO * sides[:, 0])
    log = np.log(sides[usable])
    return corners[usable], np.column_stack([log[:, 2] - log[:, 1], log[:, 1] - log[:, 0]])


def _similar_triangles(a: Points, b: Points, near_a: int, near_b: int) -> tuple[Pairs, Pairs]:
    """Return the vertex indices of triangles in `a` and the similar ones in `b`, row by row."""
    corners_a, ratios_a = _triangles(a, near_a)
    corners_b, ratios_b = _triangles(b, near_b)
    if not (len(corners_a) and len(corners_b)):
        return np.empty((0, 3), np.int64), np.empty((0, 3), np.int64)
    k = min(_SIMILAR_TRIANGLES, len(corners_b))
    distance, which = cKDTree(ratios_b).query(ratios_a, k=k, distance_upper_bound=_RATIO_TOLERANCE)
    distance, which = distance.reshape(-1, k), which.reshape(-1, k)
    row, column = np.nonzero(np.isfinite(distance))
    return corners_a[row], corners_b[which[row, column]]


def _proposals(a: Points, b: Points, ta: Pairs, tb: Pairs) -> list[Matrix]:
    """Return similarities proposed by single pairs of triangles, those with the best supported corners first."""
    if not len(ta):
        return []
    votes = np.zeros((len(a), len(b)), dtype=np.int64)
    np.add.at(votes, (ta.ravel(), tb.ravel()), 1)
    score = np.sort(votes[ta, tb], axis=1)
    # The weakest corner decides, the sum breaks ties, a stable sort keeps the rest in order of brightness.
    order = np.lexsort((-score.sum(axis=1), -score[:, 0]))
    proposals: list[Matrix] = []
    seen: list[NDArray[np.float64]] = []
    probe = np.stack([a.min(axis=0), a.max(axis=0), [a[:, 0].min(), a[:, 1].max()]])
    size = float(np.ptp(b, axis=0).max()) + 1.0
    for t in order[: 6 * _PROPOSALS]:
        matrix = transforms.fit_similarity(a[ta[t]], b[tb[t]])
        scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
        if not _SCALES[0] <= scale <= _SCALES[1]:
            continue
        image = transforms.apply(matrix, probe)
        if any(np.abs(image - other).max() < 0.002 * size for other in seen):
            continue
        seen.append(image)
        proposals.append(matrix)
        if len(proposals) == _PROPOSALS:
            break
    return proposals


def _mutual(
    matrix: Matrix, ref: Points, tgt: Points, tree: cKDTree, tolerance: float
) -> tuple[Pairs, NDArray[np.float64], float]:
    """Return the one-to-one nearest pairs within `tolerance`, the stars inside the field, and the chance of a hit.

    The chance is that of one unrelated star, from the local density of the target: the disc that holds the five
    nearest further stars gives the density, so clusters and uneven fields count as what they are.
    """
    mapped = transforms.apply(matrix, ref)
    mapped = np.where(np.isfinite(mapped), mapped, 1e30)
    k = min(_NEIGHBOURS, len(tgt))
    distance, which = tree.query(mapped, k=k)
    low, high = tgt.min(axis=0) - tolerance, tgt.max(axis=0) + tolerance
    inside = ((mapped >= low) & (mapped <= high)).all(axis=1)
    chance = np.minimum((k - 1) * (tolerance / np.maximum(distance[:, -1], 1e-9)) ** 2, 1.0)
    near = np.flatnonzero(inside & (distance[:, 0] <= tolerance))
    order = near[np.argsort(distance[near, 0], kind="stable")]
    _, first = np.unique(which[order, 0], return_index=True)
    keep = np.sort(order[first])
    pairs = np.column_stack([keep, which[keep, 0]]).astype(np.int64)
    return pairs, inside, float(chance[inside].mean()) if inside.any() else 1.0


def _is_no_coincidence(
    hits: int, inside: int, chance: float, proposals: int, fitted: int, false_alarms: float = _FALSE_ALARMS
) -> bool:
    """Return whether `hits` of `inside` stars are too many for chance, over all `proposals` that were possible.

    The `fitted` pairs that determine the transform coincide by construction and are left out.
    """
    if hits < MINIMUM_STARS or inside <= fitted:
        return False
    tail = float(bdtrc(hits - fitted - 1, inside - fitted, min(chance, 1.0))) if hits > fitted else 1.0
    return proposals * tail < false_alarms


def _verified(
    matrix: Matrix,
    ref: Points,
    tgt: Points,
    tree: cKDTree,
    brightest: tuple[int, int],
    tolerance: float,
    proposals: int,
    seed: int,
) -> Matrix | None:
    """Return the proposed similarity improved on more and more stars, or None where it does not hold.

    A triangle is small beside the frame, so its transform misses distant stars by many pixels: the search starts
    wide and among bright stars, where chance hits are rare, and narrows.
    """
    a, b = ref[: brightest[0]], tgt[: brightest[1]]
    few = cKDTree(b)
    size = float(np.hypot(*np.ptp(tgt, axis=0)))
    wide = max(3.0 * tolerance, 0.002 * size)
    for t in (wide, wide, 0.5 * (wide + tolerance)):
        pairs, inside, chance = _mutual(matrix, a, b, few, t)
        # A hopeless proposal need not be improved: most of them end here.
        if not _is_no_coincidence(len(pairs), int(np.count_nonzero(inside)), chance, 1, 2, _HOPELESS):
            return None
        model: Model = "affine" if len(pairs) >= _PAIRS_FOR["affine"] else "similarity"
        fitted = transforms.ransac(model, a[pairs[:, 0]], b[pairs[:, 1]], t, seed, iterations=60)
        if fitted is None or np.count_nonzero(fitted[1]) < MINIMUM_STARS:
            return None
        matrix = fitted[0]
    pairs, inside, chance = _mutual(matrix, ref, tgt, tree, 0.5 * (wide + tolerance))
    points = transforms.MINIMUM_POINTS[model]
    narrow = _mutual(matrix, ref, tgt, tree, tolerance)
    for found, field, luck in ((pairs, inside, chance), narrow):
        if _is_no_coincidence(len(found), int(np.count_nonzero(field)), luck, proposals, points):
            return matrix
    return None


def _aligned(
    matrix: Matrix,
    ref: Points,
    tgt: Points,
    tree: cKDTree,
    choice: Choice,
    tolerance: float,
    seed: int,
    proposals: int,
) -> Alignment | None:
    """Return the alignment with the chosen or best supported model, or None where it fails the last test."""
    wide = 2.0 * tolerance
    pairs = _mutual(matrix, ref, tgt, tree, wide)[0]
    if len(pairs) < MINIMUM_STARS:
        return None
    ladder: list[Model] = ["similarity", "affine", "homography"] if choice == "auto" else [choice]
    allowed = [m for m in ladder if choice != "auto" or len(pairs) >= _PAIRS_FOR[m]]
    # All models are compared on the pairs that the most general one collects: the fairest common ground.
    for t in (wide, tolerance):
        fitted = transforms.ransac(allowed[-1], ref[pairs[:, 0]], tgt[pairs[:, 1]], t, seed)
        if fitted is None:
            return None
        matrix = fitted[0]
        pairs = _mutual(matrix, ref, tgt, tree, t)[0]
        if len(pairs) < MINIMUM_STARS:
            return None
    model = _best_model(allowed, ref[pairs[:, 0]], tgt[pairs[:, 1]], seed)
    limit = tolerance
    for _ in range(8):
        if len(pairs) < MINIMUM_STARS:
            return None
        try:
            matrix = transforms.fit(model, ref[pairs[:, 0]], tgt[pairs[:, 1]])
        except ValueError:
            return None
        distance = transforms.residuals(matrix, ref[pairs[:, 0]], tgt[pairs[:, 1]])
        # Six sigma of a circular normal error; wrong pairs within the tolerance of dense fields lie beyond.
        limit = min(tolerance, max(0.3, 5.0 * float(np.median(distance))))
        again = _mutual(matrix, ref, tgt, tree, limit)[0]
        if np.array_equal(again, pairs):
            break
        pairs = again
    if len(pairs) < _FEW_STARS:
        limit = min(limit, _FEW_STARS_TOLERANCE * tolerance)
    pairs, inside, chance = _mutual(matrix, ref, tgt, tree, limit)
    points = transforms.MINIMUM_POINTS[model]
    low, extent = ref.min(axis=0), np.ptp(ref, axis=0)
    shifted = matrix @ np.array([[1.0, 0.0, low[0]], [0.0, 1.0, low[1]], [0.0, 0.0, 1.0]])
    if not _is_no_coincidence(len(pairs), int(np.count_nonzero(inside)), chance, proposals, points):
        return None
    if not transforms.is_sane(shifted, int(extent[0]) + 1, int(extent[1]) + 1):
        return None
    src, dst = ref[pairs[:, 0]], tgt[pairs[:, 1]]
    rms = _rms(transforms.residuals(matrix, src, dst))
    return Alignment(matrix, pairs, rms, len(pairs), _held_out_rms(model, src, dst, seed), model)


def _rms(distance: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(distance * distance)))


def _held_out_rms(model: Model, src: Points, dst: Points, seed: int) -> float:
    n = len(src)
    held = max(1, int(_HELD_OUT * n))
    if n < 8 or n - held < transforms.MINIMUM_POINTS[model]:
        return float("nan")
    order = np.random.default_rng(seed).permutation(n)
    try:
        matrix = transforms.fit(model, src[order[held:]], dst[order[held:]])
    except ValueError:
        return float("nan")
    return _rms(transforms.residuals(matrix, src[order[:held]], dst[order[:held]]))


def _best_model(allowed: list[Model], src: Points, dst: Points, seed: int) -> Model:
    """Return the simplest model that a more general one does not beat on both criteria."""
    best = allowed[0]
    if len(allowed) == 1:
        return best
    scores: dict[Model, tuple[float, float]] = {}
    n = 2 * len(src)
    for model in allowed:
        try:
            matrix = transforms.fit(model, src, dst)
        except ValueError:
            break
        squares = float((transforms.residuals(matrix, src, dst) ** 2).sum())
        k = transforms.PARAMETERS[model] + 1
        # The floor stands for coordinates known to a thousandth of a pixel: exact lists have no residual.
        aicc = n * np.log(max(squares / n, 1e-6)) + 2.0 * k + 2.0 * k * (k + 1) / (n - k - 1)
        scores[model] = (aicc, _held_out_rms(model, src, dst, seed))
        if model == best:
            continue
        if aicc < scores[best][0] - _AICC_GAIN and not scores[model][1] >= scores[best][1]:
            best = model
    return best
