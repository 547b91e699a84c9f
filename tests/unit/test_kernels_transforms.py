import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wbpy.kernels import transforms

FIELD = np.array([[0.0, 0.0], [6000.0, 0.0], [6000.0, 4000.0], [0.0, 4000.0], [2500.0, 1200.0], [900.0, 3300.0]])


def similarity(angle, scale, shift, mirror=False):
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    turn = np.array([[c, -s], [s, c]]) @ (np.diag([1.0, -1.0]) if mirror else np.eye(2))
    return np.block([[turn, np.reshape(shift, (2, 1))], [np.zeros((1, 2)), np.ones((1, 1))]])


AFFINE = np.array([[1.01, 0.02, 31.0], [-0.03, 0.98, -12.0], [0.0, 0.0, 1.0]])
HOMOGRAPHY = np.array([[1.01, 0.02, 31.0], [-0.03, 0.98, -12.0], [2e-6, -3e-6, 1.0]])


@settings(max_examples=50, deadline=None)
@given(
    st.floats(-np.pi, np.pi),
    st.floats(0.3, 3.0),
    st.tuples(st.floats(-5e3, 5e3), st.floats(-5e3, 5e3)),
    st.booleans(),
)
def test_every_fit_recovers_an_exact_similarity(angle, scale, shift, mirror):
    truth = similarity(angle, scale, shift, mirror)
    moved = transforms.apply(truth, FIELD)
    for model in ("similarity", "affine", "homography"):
        assert transforms.residuals(transforms.fit(model, FIELD, moved), FIELD, moved).max() < 1e-6


@pytest.mark.parametrize(("model", "truth"), [("affine", AFFINE), ("homography", HOMOGRAPHY)])
def test_exact_points_give_back_the_matrix(model, truth):
    minimum = transforms.MINIMUM_POINTS[model]
    for points in (FIELD[:minimum], FIELD):
        fitted = transforms.fit(model, points, transforms.apply(truth, points))
        np.testing.assert_allclose(fitted / truth[2, 2], truth, rtol=1e-6, atol=1e-10)


def test_a_mirror_is_refused_on_request():
    moved = transforms.apply(similarity(0.4, 1.1, (3.0, 4.0), mirror=True), FIELD)
    assert np.linalg.det(transforms.fit_similarity(FIELD, moved)[:2, :2]) < 0.0
    assert np.linalg.det(transforms.fit_similarity(FIELD, moved, allow_mirror=False)[:2, :2]) >= 0.0


@pytest.mark.parametrize("model", ["similarity", "affine", "homography"])
def test_no_nearby_matrix_has_a_smaller_weighted_sum_of_squares(model):
    rng = np.random.default_rng(1)
    src = rng.uniform(0, 4000, (40, 2))
    # A strong perspective: the linear solution alone is visibly not the best one.
    truth = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [3e-4, 1e-4, 1.0]])
    dst = transforms.apply(truth, src) + rng.normal(0, 20.0, src.shape)
    weights = rng.uniform(0.2, 3.0, 40)
    fitted = transforms.fit(model, src, dst, weights=weights)
    least = weights @ transforms.residuals(fitted, src, dst) ** 2
    basis = {
        "similarity": [[(0, 0), (1, 1)], [(0, 2)], [(1, 2)]],
        "affine": [[(i, j)] for i in range(2) for j in range(3)],
        "homography": [[(i, j)] for i in range(3) for j in range(3) if (i, j) != (2, 2)],
    }[model]
    for cells in basis:
        for sign in (-1.0, 1.0):
            other = fitted.copy()
            for i, j in cells:
                other[i, j] += sign * (0.1 if j == 2 else 1e-8 if i == 2 else 1e-4)
            assert weights @ transforms.residuals(other, src, dst) ** 2 > least * (1.0 - 1e-12)


def test_points_of_weight_zero_have_no_say():
    dst = transforms.apply(AFFINE, FIELD)
    dst[5] += 500.0
    weights = np.array([1.0, 1, 1, 1, 1, 0])
    for model in ("affine", "homography"):
        fitted = transforms.fit(model, FIELD, dst, weights=weights)
        np.testing.assert_allclose(fitted, AFFINE, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("model", ["similarity", "affine", "homography"])
def test_degenerate_points_are_refused(model):
    n = transforms.MINIMUM_POINTS[model]
    with pytest.raises(ValueError, match="points"):
        transforms.fit(model, FIELD[: n - 1], FIELD[: n - 1])
    with pytest.raises(ValueError, match=r"point|coincide"):
        transforms.fit(model, np.full((6, 2), 7.0), FIELD)
    with pytest.raises(ValueError, match="must both be"):
        transforms.fit(model, FIELD, FIELD[:-1])
    with pytest.raises(ValueError, match="weights"):
        transforms.fit(model, FIELD, FIELD, weights=np.zeros(6))
    if model != "similarity":
        line = np.column_stack([np.arange(6.0), 2.0 * np.arange(6.0)])
        with pytest.raises(ValueError, match="line|fix"):
            transforms.fit(model, line, line)


@pytest.mark.parametrize("model", ["similarity", "affine", "homography"])
def test_ransac_ignores_forty_per_cent_of_wrong_pairs_and_repeats_itself(model):
    truth = {"similarity": similarity(1.0, 0.8, (10.0, 20.0)), "affine": AFFINE, "homography": HOMOGRAPHY}[model]
    rng = np.random.default_rng(2)
    src = rng.uniform(0, 4000, (120, 2))
    dst = transforms.apply(truth, src) + rng.normal(0, 0.2, src.shape)
    wrong = rng.random(120) < 0.4
    dst[wrong] = rng.uniform(0, 4000, (wrong.sum(), 2))
    matrix, inliers = transforms.ransac(model, src, dst, 1.5, seed=3)
    assert np.mean(inliers == ~wrong) > 0.98
    # Eight parameters from 70 pairs of 0.2 px: about 0.2 * sqrt(8 / 140) rms, four times that at the corners.
    assert transforms.residuals(matrix, FIELD[:4] * 2 / 3, transforms.apply(truth, FIELD[:4] * 2 / 3)).max() < 0.5
    again = transforms.ransac(model, src, dst, 1.5, seed=3)
    assert np.array_equal(again[0], matrix) and np.array_equal(again[1], inliers)


def test_ransac_without_enough_points_gives_none():
    assert transforms.ransac("affine", FIELD[:2], FIELD[:2], 1.0, seed=0) is None
    same = np.full((10, 2), 3.0)
    assert transforms.ransac("affine", same, same, 1.0, seed=0) is None


def test_apply_keeps_shape_and_marks_the_horizon():
    matrix = np.array([[1.0, 0, 0], [0, 1.0, 0], [-0.1, 0, 1.0]])
    assert transforms.apply(matrix, np.zeros((4, 3, 2))).shape == (4, 3, 2)
    assert not np.isfinite(transforms.apply(matrix, np.array([[10.0, 5.0]]))).any()
    np.testing.assert_allclose(transforms.apply(matrix, np.array([5.0, 2.0])), [10.0, 4.0])


def test_local_scales_equal_singular_values_of_the_numeric_jacobian():
    mirrored = HOMOGRAPHY @ np.diag([-1.0, 1.0, 1.0])
    for matrix in (AFFINE, HOMOGRAPHY, mirrored):
        for p in FIELD:
            step = 0.5 * np.eye(2)
            jacobian = (transforms.apply(matrix, p + step) - transforms.apply(matrix, p - step)).T
            want = np.linalg.svd(jacobian, compute_uv=False)[::-1]
            want[0] *= np.sign(np.linalg.det(jacobian))
            np.testing.assert_allclose(transforms.local_scales(matrix, p[None])[0], want, rtol=1e-6)


@pytest.mark.parametrize(
    ("matrix", "sane"),
    [
        (np.eye(3), True),
        (similarity(2.0, 0.3, (900.0, -4000.0)), True),
        (similarity(2.0, 1.0, (0.0, 0.0), mirror=True), True),
        (AFFINE, True),
        (HOMOGRAPHY, True),
        (2.0 * HOMOGRAPHY, True),
        (similarity(0.0, 5.0, (0.0, 0.0)), False),
        (similarity(0.0, 0.1, (0.0, 0.0)), False),
        (np.diag([1.0, 1.5, 1.0]), False),
        (np.zeros((3, 3)), False),
        (np.full((3, 3), np.nan), False),
        (np.array([[1.0, 0, 0], [0, 1, 0], [-1e-3, 0, 1]]), False),
        (np.array([[1.0, 0, 0], [0, 1, 0], [2e-4, 0, 1]]), False),
    ],
)
def test_is_sane(matrix, sane):
    assert transforms.is_sane(matrix, 6000, 4000) is sane
