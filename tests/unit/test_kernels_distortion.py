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
