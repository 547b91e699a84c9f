import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wbpy.kernels import distortion, warp

STEP = 16
GRID = np.array([[[j * 0.1 - i * 0.3, i * 0.2 + 0.05 * j * j] for i in range(6)] for j in range(5)])


def twin(nodes, step, x, y):
    gy, gx, _ = nodes.shape
    x, y = np.clip(x / step, 0, gx - 1), np.clip(y / step, 0, gy - 1)
    i, j = min(int(x), gx - 2), min(int(y), gy - 2)
    u, v = x - i, y - j
    top = (1 - u) * nodes[j, i] + u * nodes[j, i + 1]
    return (1 - v) * top + v * ((1 - u) * nodes[j + 1, i] + u * nodes[j + 1, i + 1])


def test_displacement_is_bilinear_between_nodes_and_constant_beyond_the_border():
    rng = np.random.default_rng(1)
    points = rng.uniform(-30, 120, (200, 2))
    want = np.array([twin(GRID, STEP, *p) for p in points])
    np.testing.assert_allclose(distortion.at(GRID, STEP, points), want, atol=1e-12)
    on_nodes = np.array([[i * STEP, j * STEP] for j in range(5) for i in range(6)])
    np.testing.assert_allclose(distortion.at(GRID, STEP, on_nodes).reshape(5, 6, 2), GRID, atol=1e-12)


@pytest.mark.parametrize("y", [-3, 0, 15, 16, 63, 64, 200])
def test_a_row_of_displacements_equals_single_points_wherever_it_starts(y):
    dx, dy = np.empty(150), np.empty(150)
    distortion.displace_row(GRID, STEP, y, -20, 1.0, dx, dy)
    points = np.column_stack([np.arange(-20, 130), np.full(150, y)])
    np.testing.assert_allclose(np.column_stack([dx, dy]), distortion.at(GRID, STEP, points), atol=1e-12)
    later_x, later_y = np.empty(40), np.empty(40)
    distortion.displace_row(GRID, STEP, y, 33, 1.0, later_x, later_y)
    np.testing.assert_array_equal(later_x, dx[53:93])
    np.testing.assert_array_equal(later_y, dy[53:93])


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (4, 1)])
def test_grids_of_one_row_or_column_hold_everywhere(shape):
    nodes = np.arange(2.0 * shape[0] * shape[1]).reshape(*shape, 2)
    dx, dy = np.empty(60), np.empty(60)
    distortion.displace_row(nodes, STEP, 7, -5, 1.0, dx, dy)
    points = np.column_stack([np.arange(-5, 55), np.full(60, 7)])
    np.testing.assert_allclose(np.column_stack([dx, dy]), distortion.at(nodes, STEP, points), atol=1e-12)


def test_no_nodes_mean_no_displacement():
    matrix = np.array([[1.0, 0.1, 3.0], [-0.1, 1.0, -2.0], [0, 0, 1]])
    points = np.random.default_rng(2).uniform(0, 90, (10, 2))
    plain = (np.column_stack([points, np.ones(10)]) @ matrix.T)[:, :2]
    np.testing.assert_allclose(distortion.apply(matrix, distortion.NONE, 0, points), plain)
    np.testing.assert_allclose(distortion.apply(matrix, GRID, STEP, points), plain + distortion.at(GRID, STEP, points))


def test_inverse_leads_back():
    matrix = np.array([[0.99, 0.1, 3.0], [-0.1, 1.01, -2.0], [1e-5, 0, 1]])
    points = np.random.default_rng(3).uniform(5, 75, (50, 2))
    there = distortion.apply(matrix, GRID, STEP, points)
    np.testing.assert_allclose(distortion.invert(matrix, GRID, STEP, there), points, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(-40, 120), st.integers(-40, 100), st.integers(1, 40), st.integers(1, 40))
def test_reach_bounds_all_displacements_of_a_rectangle(x0, y0, w, h):
    left, right, up, down = distortion.reach(GRID, STEP, x0, y0, w, h)
    xs, ys = np.meshgrid(np.arange(x0, x0 + w), np.arange(y0, y0 + h))
    d = distortion.at(GRID, STEP, np.column_stack([xs.ravel(), ys.ravel()]))
    assert left - 1e-9 <= d[:, 0].min() and d[:, 0].max() <= right + 1e-9
    assert up - 1e-9 <= d[:, 1].min() and d[:, 1].max() <= down + 1e-9


@pytest.mark.parametrize("name", warp.KERNELS)
def test_every_tiling_of_a_displaced_frame_gives_the_same_bits(name):
    image = np.random.default_rng(5).normal(10.0, 300.0, (2, 70, 61)).astype(np.float32)
    matrix = np.array([[1.0, 0.02, 0.3], [-0.02, 1.0, 0.6], [0, 0, 1]])
    kernel, halo = warp.KERNELS[name], warp.halo(name, matrix)
    whole = np.empty((2, 66, 75), np.float32)
    kernel(image, 0, 0, matrix, whole, 0, 0, 0.3, GRID, STEP)
    plain = np.empty_like(whole)
    kernel(image, 0, 0, matrix, plain, 0, 0, 0.3)
    assert not np.array_equal(whole, plain, equal_nan=True)
    for tw, th in ((75, 1), (13, 9)):
        tiled = np.empty_like(whole)
        for y0 in range(0, 66, th):
            for x0 in range(0, 75, tw):
                part = np.empty((2, min(th, 66 - y0), min(tw, 75 - x0)), np.float32)
                size = part.shape[2], part.shape[1]
                x1, y1, x2, y2 = warp.source_window(matrix, x0, y0, *size, 61, 70, halo, GRID[None], STEP)
                kernel(image[:, y1:y2, x1:x2], x1, y1, matrix, part, x0, y0, 0.3, GRID, STEP)
                tiled[:, y0 : y0 + th, x0 : x0 + tw] = part
        np.testing.assert_array_equal(tiled.view(np.uint32), whole.view(np.uint32))


def test_a_uniform_displacement_equals_a_shift_of_the_matrix():
    image = np.random.default_rng(6).normal(10.0, 300.0, (1, 50, 61)).astype(np.float32)
    shifted = np.array([[1.0, 0, 1.25], [0, 1, -0.5], [0, 0, 1]])
    a, b = np.empty_like(image), np.empty_like(image)
    warp.lanczos3(image, 0, 0, shifted, a, 0, 0)
    warp.lanczos3(image, 0, 0, np.eye(3), b, 0, 0, 0.3, np.full((4, 4, 2), (1.25, -0.5)), 20)
    np.testing.assert_array_equal(a, b)


def test_nodes_of_a_wrong_form_are_refused():
    image, out = np.ones((1, 8, 8), np.float32), np.empty((1, 8, 8), np.float32)
    with pytest.raises(ValueError, match="nodes"):
        warp.bilinear(image, 0, 0, np.eye(3), out, 0, 0, 0.0, np.zeros((2, 2)), 4)
    with pytest.raises(ValueError, match="step"):
        warp.bilinear(image, 0, 0, np.eye(3), out, 0, 0, 0.0, np.zeros((2, 2, 2)), 0)


def bent(points, amount=4.0):
    """A third-order distortion, px, over a field of 1000 x 800 px."""
    u = (points - [500, 400]) / 640
    return amount * u * (u**2).sum(axis=1, keepdims=True)


def stars(n=300, seed=0, noise=0.05):
    rng = np.random.default_rng(seed)
    src = rng.uniform(0, 1, (n, 2)) * [1000, 800]
    return src, rng.normal(0, noise, (n, 2)), np.full(n, noise)


GRID_POINTS = np.stack(np.meshgrid(np.linspace(20, 980, 15), np.linspace(20, 780, 12)), -1).reshape(-1, 2)


@pytest.mark.parametrize("order", [2, 3, 4, 5])
def test_a_polynomial_reproduces_one_of_its_order(order):
    src, _, sigma = stars()
    rng = np.random.default_rng(order)
    powers = [(i, j) for i in range(order + 1) for j in range(order + 1 - i)]
    coefficients = rng.normal(0, 1, (len(powers), 2))

    def truth(points):
        u = (points - [500, 400]) / 500
        return np.stack([u[:, 0] ** i * u[:, 1] ** j for i, j in powers], axis=1) @ coefficients

    surface = distortion.polynomial(src, truth(src), 1 / sigma**2, order)
    np.testing.assert_allclose(surface(GRID_POINTS), truth(GRID_POINTS), atol=1e-8)


def test_a_polynomial_stays_what_it_is_far_beyond_the_stars():
    src, _, sigma = stars()
    surface = distortion.polynomial(src, bent(src), 1 / sigma**2, 5)
    far = surface(np.array([[5000.0, 400.0], [9000.0, 400.0]]))
    np.testing.assert_array_equal(far[0], far[1])
    assert np.abs(far).max() < 3 * np.abs(bent(src)).max()


def test_weights_decide_between_contradicting_stars():
    src, _, sigma = stars(100)
    values = np.zeros((100, 2))
    values[::2] = 1.0
    weights = np.where(np.arange(100) % 2 == 0, 1e6, 1.0)
    np.testing.assert_allclose(distortion.polynomial(src, values, weights, 1)(GRID_POINTS), 1.0, atol=1e-3)


@pytest.mark.parametrize("n", [80, 2000])
def test_a_spline_follows_a_smooth_field(n):
    src, noise, sigma = stars(n)
    surface = distortion.spline(src, bent(src) + noise, 1 / sigma**2, 1.0)
    error = surface(GRID_POINTS) - bent(GRID_POINTS)
    assert np.sqrt(np.mean(error**2)) < 0.06


def test_an_endlessly_smooth_spline_is_a_plane():
    src, _, sigma = stars(60)
    values = src @ np.array([[0.01, 0.0], [0.0, -0.02]]) + [1.0, 2.0]
    surface = distortion.spline(src, values, 1 / sigma**2, 1e12)
    np.testing.assert_allclose(surface(GRID_POINTS), GRID_POINTS @ [[0.01, 0], [0, -0.02]] + [1, 2], atol=1e-4)


def test_nodes_stand_as_far_apart_as_the_error_allows():
    coarse, step = distortion.sampled([bent], 1000, 800)
    assert step > 8 and coarse.shape[0] == 1
    points = np.random.default_rng(3).uniform(0, 1, (2000, 2)) * [999, 799]
    np.testing.assert_allclose(distortion.at(coarse[0], step, points), bent(points), atol=0.006)
    assert distortion.sampled([bent], 1000, 800, error=0.5)[1] > step
    flat, widest = distortion.sampled([lambda p: np.ones_like(p), lambda p: np.zeros_like(p)], 1000, 800)
    assert widest == 256 and flat.shape == (2, 5, 5, 2)


def test_nodes_of_a_moved_output_give_the_same_displacement():
    nodes, step = distortion.sampled([bent], 1000, 800, error=0.001)
    other = distortion.moved(nodes[0], step, 130, 20, 600, 500)
    points = np.random.default_rng(4).uniform(0, 1, (500, 2)) * [599, 499]
    np.testing.assert_allclose(distortion.at(other, step, points)[:, 0], bent(points + [130, 20])[:, 0], atol=0.005)


def refined(choice, amount, n=300, seed=0, wrong=0):
    src, noise, sigma = stars(n, seed)
    dst = src + [30, -12] + bent(src, amount) + noise
    rng = np.random.default_rng(seed + 99)
    dst = np.concatenate([dst, rng.uniform(0, 1, (60, 2)) * [1000, 800]])
    pairs = np.column_stack([np.arange(n), np.arange(n)])
    pairs[:wrong, 1] = rng.permutation(wrong)
    matrix = np.array([[1.0, 0, 30], [0, 1, -12], [0, 0, 1]])
    models = ["similarity", "affine", "homography"]
    return distortion.refine(matrix, models, src, dst, sigma, np.full(len(dst), 0.05), pairs, choice)


def test_distortion_is_taken_where_left_out_stars_ask_for_it_only():
    assert refined("auto", 0.0).kind == "none" and refined("auto", 0.0).surface is None
    found = refined("auto", 4.0)
    assert found.kind == "polynomial 3"
    surface = found.surface
    assert surface is not None
    from wbpy.kernels import transforms

    error = (
        transforms.apply(found.matrix, GRID_POINTS) + surface(GRID_POINTS) - GRID_POINTS - [30, -12] - bent(GRID_POINTS)
    )
    # 300 stars of 0.05 px in two lists, ten terms: 0.07 sqrt(10 / 300) = 0.013 px an axis.
    assert np.sqrt(np.mean(error**2)) < 0.03
    assert refined("off", 4.0).kind == "none"
    assert refined("off", 4.0).heldout_rms > 3 * found.heldout_rms


def test_no_distortion_is_seen_in_noise():
    assert sum(refined("auto", 0.0, n, seed).kind != "none" for seed in range(20) for n in (40, 150)) == 0


def test_polynomial_and_spline_are_taken_when_asked_for():
    assert refined("polynomial", 0.0).kind == "polynomial 2"
    assert refined("spline", 0.0).kind == "spline"
    # For which there must be stars: with fewer, what there is stays.
    assert refined("spline", 0.0, n=10).kind == "none"


def test_wrong_pairs_are_left_out_and_right_ones_found():
    found = refined("auto", 4.0, wrong=30)
    assert len(found.pairs) >= 290
    assert (found.pairs[:, 0] == found.pairs[:, 1]).mean() > 0.99


def test_left_out_stars_are_worse_than_fitted_ones_and_tell_the_truth():
    ratios = []
    for seed in range(10):
        found = refined("polynomial", 4.0, 60, seed)
        assert found.heldout_rms > found.rms
        ratios.append(found.heldout_rms / (0.05 * np.sqrt(2)))
    # Two coordinates of 0.05 px; ten terms on 48 stars add a tenth.
    assert 0.95 < np.mean(ratios) < 1.35


def test_too_few_stars_are_not_held_out():
    assert np.isnan(refined("off", 0.0, n=9).heldout_rms)
    assert np.isfinite(refined("off", 0.0, n=12).heldout_rms)


def test_the_model_grows_with_the_evidence():
    rng = np.random.default_rng(5)
    src = rng.uniform(0, 1, (200, 2)) * [1000, 800]
    sigma = np.full(200, 0.05)
    pairs = np.column_stack([np.arange(200)] * 2)
    for bend, model in (
        (np.eye(3), "similarity"),
        (np.array([[1.001, 0, 3], [0, 0.999, 0], [0, 0, 1]]), "affine"),
        (np.array([[1.0, 0, 3], [0, 1.0, 0], [3e-6, 0, 1]]), "homography"),
    ):
        from wbpy.kernels import transforms

        dst = transforms.apply(bend, src) + rng.normal(0, 0.05, src.shape)
        models = ["similarity", "affine", "homography"]
        assert distortion.refine(bend, models, src, dst, sigma, sigma, pairs).model == model


def test_a_shift_is_chosen_for_measured_vectors_and_nothing_for_noise():
    src, noise, sigma = stars(100)
    assert distortion.chosen(src, noise, sigma, (0, 1, 2, 3))[1] == -1
    surface, order = distortion.chosen(src, noise + [0.2, -0.1], sigma, (0, 1, 2, 3))
    assert order == 0 and surface is not None
    np.testing.assert_allclose(surface(GRID_POINTS), np.tile([0.2, -0.1], (len(GRID_POINTS), 1)), atol=0.02)
    magnified = (src - [500, 400]) * 0.0006
    assert distortion.chosen(src, noise + magnified, sigma, (0, 1, 2, 3))[1] == 1
    assert distortion.chosen(src, noise, sigma, (0, 1), forced=True)[1] == 0
    assert distortion.chosen(src[:5], noise[:5], sigma[:5], (0, 1), forced=True) == (None, -1)
