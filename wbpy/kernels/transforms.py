"""Plane transforms between star lists: 3x3 float64 matrices that act on homogeneous points ``(x, y, 1)``.

Points are ``(n, 2)`` arrays of ``(x, y)``; 0-based, pixel centres on integers. All fits are centred and scaled
first (Hartley 1997), so that coordinates of several thousand pixels cost no digits.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
Matrix = NDArray[np.float64]
Model = Literal["similarity", "affine", "homography"]

MINIMUM_POINTS: dict[Model, int] = {"similarity": 2, "affine": 3, "homography": 4}
PARAMETERS: dict[Model, int] = {"similarity": 4, "affine": 6, "homography": 8}

_SINGULAR = 1e-9
_REFINEMENTS = 10


def apply(matrix: Matrix, points: NDArray[Any]) -> Points:
    """Return `points` mapped by `matrix`.

    Parameters
    ----------
    matrix : (3, 3) float64 ndarray
        Any homography.
    points : (..., 2) array
        Points ``(x, y)`` in pixels.

    Returns
    -------
    (..., 2) float64 ndarray
        Mapped points; infinite or NaN where the point lies on the horizon of the homography.
    """
    p = np.asarray(points, dtype=np.float64)
    mapped = p @ matrix[:2, :2].T + matrix[:2, 2]
    if matrix[2, 0] == 0.0 and matrix[2, 1] == 0.0:
        return np.asarray(mapped / matrix[2, 2], dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(mapped / (p @ matrix[2, :2] + matrix[2, 2])[..., None], dtype=np.float64)


def residuals(matrix: Matrix, src: NDArray[Any], dst: NDArray[Any]) -> NDArray[np.float64]:
    """Return the distances between `src` mapped by `matrix` and `dst`.

    Parameters
    ----------
    matrix : (3, 3) float64 ndarray
    src, dst : (n, 2) arrays, pixels

    Returns
    -------
    (n,) float64 ndarray, pixels of `dst`
    """
    d = apply(matrix, src) - np.asarray(dst, dtype=np.float64)
    return np.asarray(np.hypot(d[:, 0], d[:, 1]), dtype=np.float64)


def fit_similarity(
    src: NDArray[Any], dst: NDArray[Any], allow_mirror: bool = True, weights: NDArray[Any] | None = None
) -> Matrix:
    """Return the least-squares similarity (shift, rotation, one scale, perhaps a mirror) from `src` to `dst`.

    Written in complex numbers the model is ``w = a z + b``, mirrored ``w = a conj(z) + b``; both are linear.

    Parameters
    ----------
    src, dst : (n, 2) arrays, pixels
        Corresponding points, n >= 2.
    allow_mirror : bool
        Also try the mirrored model and keep the one with the smaller residual.
    weights : (n,) array, optional
        Weights of the squared residuals.

    Returns
    -------
    (3, 3) float64 ndarray

    Raises
    ------
    ValueError
        If there are fewer than two points, shapes differ, or all `src` coincide.
    """
    p, q, w = _checked(src, dst, weights, "similarity")
    z = p[:, 0] + 1j * p[:, 1]
    t = q[:, 0] + 1j * q[:, 1]
    total = w.sum()
    z0, t0 = (w @ z) / total, (w @ t) / total
    z, t = z - z0, t - t0
    spread = float(w @ np.abs(z) ** 2)
    if spread <= _SINGULAR**2 * total * (1.0 + abs(z0) ** 2):
        raise ValueError("a similarity needs two different source points")
    direct = complex((w * t) @ np.conj(z)) / spread
    mirrored = complex((w * t) @ z) / spread
    # The explained sum of squares is |a|^2 * spread, so the larger |a| is the smaller residual.
    if allow_mirror and abs(mirrored) > abs(direct):
        shift = t0 - mirrored * np.conj(z0)
        a, b = mirrored.real, mirrored.imag
        return np.array([[a, b, shift.real], [b, -a, shift.imag], [0.0, 0.0, 1.0]])
    shift = t0 - direct * z0
    a, b = direct.real, direct.imag
    return np.array([[a, -b, shift.real], [b, a, shift.imag], [0.0, 0.0, 1.0]])


def fit_affine(src: NDArray[Any], dst: NDArray[Any], weights: NDArray[Any] | None = None) -> Matrix:
    """Return the least-squares affine transform from `src` to `dst`.

    Parameters
    ----------
    src, dst : (n, 2) arrays, pixels
        Corresponding points, n >= 3, not on one line.
    weights : (n,) array, optional
        Weights of the squared residuals.

    Returns
    -------
    (3, 3) float64 ndarray
        Last row ``(0, 0, 1)``.

    Raises
    ------
    ValueError
        If there are fewer than three points, shapes differ, or `src` lies on one line.
    """
    p, q, w = _checked(src, dst, weights, "affine")
    to_unit = _normaliser(p, w)
    u = apply(to_unit, p)
    root = np.sqrt(w)[:, None]
    design = np.column_stack([u, np.ones(len(u))]) * root
    centre = (w @ q) / w.sum()
    solution, _, rank, _ = np.linalg.lstsq(design, (q - centre) * root, rcond=_SINGULAR)
    if rank < 3:
        raise ValueError("an affine transform needs three source points that are not on one line")
    matrix = np.eye(3)
    matrix[:2] = solution.T
    matrix = matrix @ to_unit
    matrix[:2, 2] += centre
    return np.asarray(matrix, dtype=np.float64)


def fit_homography(src: NDArray[Any], dst: NDArray[Any], weights: NDArray[Any] | None = None) -> Matrix:
    """Return the homography from `src` to `dst` with the least squared distances in `dst`.

    Normalised direct linear transform (Hartley & Zisserman 2004, algorithm 4.2) as the start, then Gauss-Newton
    on the distances themselves, because the linear solution minimises an algebraic error.

    Parameters
    ----------
    src, dst : (n, 2) arrays, pixels
        Corresponding points, n >= 4, no three of a minimal set on one line.
    weights : (n,) array, optional
        Weights of the squared residuals.

    Returns
    -------
    (3, 3) float64 ndarray
        Scaled so that ``matrix[2, 2] == 1``.

    Raises
    ------
    ValueError
        If there are fewer than four points, shapes differ, or the points do not fix a homography.
    """
    p, q, w = _checked(src, dst, weights, "homography")
    to_unit, to_unit_dst = _normaliser(p, w), _normaliser(q, w)
    u, v = apply(to_unit, p), apply(to_unit_dst, q)
    root = np.sqrt(w / w.max())[:, None]
    ones, zeros = np.ones((len(u), 1)), np.zeros((len(u), 3))
    h = np.hstack([u, ones])
    rows = np.concatenate([np.hstack([h, zeros, -v[:, :1] * h]) * root, np.hstack([zeros, h, -v[:, 1:] * h]) * root])
    _, singular, vt = np.linalg.svd(rows, full_matrices=len(u) == 4)
    if singular[7] <= _SINGULAR * singular[0] or vt[-1, 8] == 0.0:
        raise ValueError("these points do not fix a homography")
    unit = _refine_homography((vt[-1] / vt[-1, 8]).reshape(3, 3), u, v, root[:, 0])
    matrix = np.linalg.solve(to_unit_dst, unit @ to_unit)
    if abs(matrix[2, 2]) <= _SINGULAR * np.abs(matrix).max():
        raise ValueError("these points do not fix a homography")
    return np.asarray(matrix / matrix[2, 2], dtype=np.float64)


def fit(
    model: Model,
    src: NDArray[Any],
    dst: NDArray[Any],
    allow_mirror: bool = True,
    weights: NDArray[Any] | None = None,
) -> Matrix:
    """Return the least-squares transform of the named `model`; see the three ``fit_`` functions."""
    if model == "similarity":
        return fit_similarity(src, dst, allow_mirror, weights)
    if model == "affine":
        return fit_affine(src, dst, weights)
    return fit_homography(src, dst, weights)


def ransac(
    model: Model,
    src: NDArray[Any],
    dst: NDArray[Any],
    tolerance: float,
    seed: int,
    iterations: int = 500,
    confidence: float = 0.9999,
) -> tuple[Matrix, NDArray[np.bool_]] | None:
    """Return the transform most pairs agree on, and which pairs those are.

    Random minimal samples scored by the truncated squared distance (MSAC; Torr & Zisserman 2000), then
    least squares on the inliers until they no longer change. The same arguments give the same answer.

    Parameters
    ----------
    model : {"similarity", "affine", "homography"}
    src, dst : (n, 2) arrays, pixels
        Supposed correspondences, some of them wrong.
    tolerance : float
        Largest distance of an inlier, pixels of `dst`.
    seed : int
        Seed of the samples.
    iterations : int
        Most samples tried; fewer once `confidence` is reached.
    confidence : float
        Probability of having seen one sample free of outliers at which to stop.

    Returns
    -------
    (matrix, inliers) or None
        (3, 3) float64 and (n,) bool; None where no sample gives a transform or too few points are given.
    """
    p, q = np.asarray(src, dtype=np.float64), np.asarray(dst, dtype=np.float64)
    n, size = len(p), MINIMUM_POINTS[model]
    if n < size:
        return None
    generator = np.random.default_rng(seed)
    best: NDArray[np.bool_] | None = None
    best_cost, needed, tried = np.inf, float(iterations), 0
    while tried < min(needed, iterations):
        tried += 1
        sample = generator.choice(n, size, replace=False)
        try:
            matrix = fit(model, p[sample], q[sample])
        except ValueError:
            continue
        distance = residuals(matrix, p, q)
        distance = np.where(np.isfinite(distance), distance, np.inf)
        cost = float(np.minimum(distance, tolerance) @ np.minimum(distance, tolerance))
        if cost < best_cost:
            best, best_cost = distance <= tolerance, cost
            clean = (np.count_nonzero(best) / n) ** size
            needed = 1.0 if clean >= 1.0 else np.log1p(-confidence) / np.log1p(-max(clean, 1e-12))
    if best is None:
        return None
    refined: Matrix | None = None
    for _ in range(_REFINEMENTS):
        if np.count_nonzero(best) < size:
            return None
        try:
            refined = fit(model, p[best], q[best])
        except ValueError:
            return None
        inliers = residuals(refined, p, q) <= tolerance
        if np.array_equal(inliers, best):
            break
        best = inliers
    return None if refined is None else (refined, best)


def local_scales(matrix: Matrix, points: NDArray[Any]) -> NDArray[np.float64]:
    """Return the two local scales (smaller, larger) of `matrix` at each of `points`.

    They are the singular values of the Jacobian; the sign of the smaller is the sign of the determinant, so that
    a mirrored transform shows as negative.

    Parameters
    ----------
    matrix : (3, 3) float64 ndarray
    points : (n, 2) array, pixels

    Returns
    -------
    (n, 2) float64 ndarray, output pixels per input pixel
    """
    p = np.asarray(points, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        w = (p @ matrix[2, :2] + matrix[2, 2])[:, None, None]
        jacobian = (matrix[:2, :2][None] - apply(matrix, p)[:, :, None] * matrix[2, :2]) / w
    a, b, c, d = jacobian[:, 0, 0], jacobian[:, 0, 1], jacobian[:, 1, 0], jacobian[:, 1, 1]
    # Closed form of the 2x2 singular values: half the sum and difference of the two rotating parts.
    turn, mirror = np.hypot(a + d, c - b), np.hypot(a - d, b + c)
    return np.column_stack([(turn - mirror) / 2.0, (turn + mirror) / 2.0])


def is_sane(
    matrix: Matrix,
    width: int,
    height: int,
    scale: tuple[float, float] = (0.25, 4.0),
    anisotropy: float = 1.2,
) -> bool:
    """Return whether `matrix` could map one photograph of the sky to another.

    Parameters
    ----------
    matrix : (3, 3) float64 ndarray
    width, height : int
        Size in pixels of the frame `matrix` is applied to; its corners and centre are looked at.
    scale : (float, float)
        Smallest and largest local scale allowed.
    anisotropy : float
        Largest ratio of the two local scales at one point, and of the larger scale between two points.

    Returns
    -------
    bool
        False for NaN, a horizon or a change of handedness within the frame, or scales out of bounds.
    """
    if matrix.shape != (3, 3) or not np.isfinite(matrix).all() or matrix[2, 2] == 0.0:
        return False
    m = matrix / matrix[2, 2]
    r, b = float(width - 1), float(height - 1)
    points = np.array([[0.0, 0.0], [r, 0.0], [0.0, b], [r, b], [r / 2.0, b / 2.0]])
    if (points @ m[2, :2] + 1.0 <= 0.0).any():
        return False
    scales = local_scales(m, points)
    small, large = np.abs(scales[:, 0]), scales[:, 1]
    return bool(
        (np.sign(scales[:, 0]) == np.sign(scales[0, 0])).all()
        and small.min() >= scale[0]
        and large.max() <= scale[1]
        and (large <= anisotropy * small).all()
        and large.max() <= anisotropy * large.min()
    )


def _checked(
    src: NDArray[Any], dst: NDArray[Any], weights: NDArray[Any] | None, model: Model
) -> tuple[Points, Points, NDArray[np.float64]]:
    p, q = np.asarray(src, dtype=np.float64), np.asarray(dst, dtype=np.float64)
    if p.shape != q.shape or p.ndim != 2 or p.shape[1] != 2:
        raise ValueError(f"source and destination must both be (n, 2), not {p.shape} and {q.shape}")
    if len(p) < MINIMUM_POINTS[model]:
        raise ValueError(f"{model} needs {MINIMUM_POINTS[model]} points, there are {len(p)}")
    w = np.ones(len(p)) if weights is None else np.asarray(weights, dtype=np.float64)
    if w.shape != (len(p),) or not (w >= 0.0).all() or not w.any():
        raise ValueError("weights must be one non-negative number a point, not all zero")
    return p, q, w


def _normaliser(points: Points, weights: NDArray[np.float64]) -> Matrix:
    """Return the shift and scale that give `points` the mean 0 and the rms distance sqrt(2)."""
    centre = (weights @ points) / weights.sum()
    rms = np.sqrt(weights @ ((points - centre) ** 2).sum(axis=1) / weights.sum())
    if rms <= _SINGULAR:
        raise ValueError("the points coincide")
    s = np.sqrt(2.0) / rms
    return np.array([[s, 0.0, -s * centre[0]], [0.0, s, -s * centre[1]], [0.0, 0.0, 1.0]])


def _refine_homography(matrix: Matrix, u: Points, v: Points, root: NDArray[np.float64]) -> Matrix:
    """Return `matrix` after Gauss-Newton on the weighted distances; never worse than the start."""

    def cost(m: Matrix) -> float:
        r = (apply(m, u) - v) * root[:, None]
        value = float((r * r).sum())
        return value if np.isfinite(value) else np.inf

    best = cost(matrix)
    for _ in range(_REFINEMENTS):
        mapped = apply(matrix, u)
        depth = (u @ matrix[2, :2] + matrix[2, 2])[:, None]
        h = np.column_stack([u, np.ones(len(u))]) / depth * root[:, None]
        zero = np.zeros_like(h)
        jacobian = np.concatenate(
            [
                np.hstack([h, zero, -mapped[:, :1] * h[:, :2]]),
                np.hstack([zero, h, -mapped[:, 1:] * h[:, :2]]),
            ]
        )
        if not np.isfinite(jacobian).all():
            return matrix
        step = np.linalg.lstsq(jacobian, ((v - mapped) * root[:, None]).T.ravel(), rcond=None)[0]
        candidate = matrix + np.append(step, 0.0).reshape(3, 3)
        value = cost(candidate)
        if not value < best:
            return matrix
        matrix, converged = candidate, value > best * (1.0 - 1e-12)
        best = value
        if converged:
            return matrix
    return matrix
