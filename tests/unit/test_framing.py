"""Which grid the lights of one reference are laid on, and where their transforms lead from it."""

import math

import numpy as np
import pytest

from wbpy.kernels import distortion
from wbpy.stages import framing
from wbpy.stages.framing import FramingParams, Grid
from wbpy.stages.register import Transform

SHAPE = (60, 100)


def shifted(dx: float, dy: float, **more: object) -> Transform:
    """Return the transform of a light that shows the reference's (0, 0) at (dx, dy)."""
    return Transform(np.array([[1.0, 0, dx], [0, 1.0, dy], [0, 0, 1.0]]), 0.0, 10, "similarity", **more)


def grid(which: str, *transforms: Transform, **params: float) -> framing.Framing:
    return framing.run(FramingParams(grid=which, **params), transforms, [SHAPE] * len(transforms), SHAPE)


SAME = shifted(0, 0)


@pytest.mark.parametrize("which", ["reference", "min", "max", "cog"])
def test_one_light_alone_keeps_its_own_grid(which: str):
    assert grid(which, SAME) == framing.Framing(Grid(0, 0, 100, 60))


def test_the_reference_grid_does_not_look_at_the_lights():
    assert grid("reference", SAME, shifted(30, 30)).grid == Grid(0, 0, 100, 60)


def test_the_hull_holds_every_pixel_of_every_light():
    # A light that shows (0, 0) at (12.5, -3) reaches from -12.5 to 86.5 and from 3 to 62.
    found = grid("max", SAME, shifted(12.5, -3))
    assert found.grid == Grid(-13, 0, 100 + 13, 60 + 3)
    assert found.wanted is None


def test_the_common_part_leaves_out_what_the_interpolation_does_not_reach():
    found = grid("min", SAME, shifted(12.5, -3))
    # The light covers 4 px less at each edge: from -8.5 to 82.5 and from 7 to 58.
    assert found.grid == Grid(0, 7, 83, 52)


def test_a_light_moved_by_whole_pixels_is_copied_and_covers_its_edges():
    assert grid("min", SAME, shifted(10, -3)).grid == Grid(0, 3, 90, 57)


def test_the_window_follows_the_mean_of_the_centres():
    found = grid("cog", SAME, shifted(-20, 6), shifted(-20.6, 6)).grid
    assert found == Grid(round(40.6 / 3), -4, 100, 60)


def test_a_common_part_that_is_too_small_gives_the_reference_grid_and_the_share():
    found = grid("min", SAME, shifted(92, 0))
    assert found.grid == Grid(0, 0, 100, 60)
    assert found.common == pytest.approx(0.08)
    assert grid("min", SAME, shifted(92, 0), smallest=0.05).common is None, "a near miss"


def test_a_hull_that_is_too_large_is_cut_evenly():
    found = grid("max", SAME, shifted(-90, -54), largest=2.0)
    assert found.wanted == (190, 114)
    assert found.grid.x0 == found.grid.y0 == 0
    width, height = found.grid.width, found.grid.height
    assert width * height <= 2 * 6000 < (width + 1) * (height + 1)
    assert (width - 100) / 90 == pytest.approx((height - 60) / 54, abs=0.03)
    assert grid("max", SAME, shifted(-90, -54), largest=3.7).wanted is None, "a near miss: 3.61 areas"


def test_a_wild_transform_cannot_ask_for_more_than_allowed():
    wild = Transform(np.array([[1e-3, 0, 0], [0, 1e-3, 0], [0, 0, 1.0]]), 0.0, 10, "similarity")
    found = grid("max", SAME, wild)
    assert found.wanted is not None
    assert found.grid.width * found.grid.height <= 6 * 6000


def test_a_moved_transform_leads_to_the_same_pixels_of_the_light():
    step = 16
    y, x = np.mgrid[: math.ceil(59 / step) + 1, : math.ceil(99 / step) + 1] * float(step)
    nodes = np.stack([2e-3 * x - 1e-3 * y, 0.3 + 1e-3 * y], axis=-1)[None]
    matrix = np.array([[0.99, 0.02, 3.0], [-0.02, 0.99, -4.0], [1e-6, -2e-6, 1.0]])
    before = Transform(matrix, 0.1, 10, "homography", nodes, step)
    own = Grid(5, 9, 70, 40)
    after = framing.moved(before, own)
    points = np.random.default_rng(3).uniform((0, 0), (69, 39), (50, 2))
    # This displacement is linear, so that bilinear nodes hold it exactly wherever they stand.
    np.testing.assert_allclose(after.apply(points), before.apply(points + (5, 9)), atol=1e-9)
    assert after.displacement.shape == (1, math.ceil(39 / step) + 1, math.ceil(69 / step) + 1, 2)


def test_beyond_the_reference_the_border_of_the_displacement_holds():
    nodes = np.full((1, 2, 2, 2), 0.25)
    before = shifted(1, 2, displacement=nodes, displacement_step=64)
    after = framing.moved(before, Grid(-40, -20, 200, 120))
    points = np.array([[0.0, 0.0], [199.0, 119.0]])
    np.testing.assert_allclose(after.apply(points), points + (-40 + 1.25, -20 + 2.25), atol=1e-12)


def test_the_grid_of_the_reference_changes_no_transform():
    assert framing.moved(SAME, Grid(0, 0, 50, 30)) is SAME


def test_every_point_of_the_hull_is_where_a_light_lies():
    """The corners of a turned light are on the edges of the hull: not one row or column is empty."""
    angle = math.radians(20)
    turn = np.array([[math.cos(angle), -math.sin(angle), 30], [math.sin(angle), math.cos(angle), -5], [0, 0, 1]])
    found = grid("max", SAME, Transform(turn, 0.0, 10, "similarity")).grid
    corners = distortion.invert(turn, distortion.NONE, 0, np.array([(0, 0), (99, 0), (99, 59), (0, 59)]))
    low, high = np.minimum(corners.min(axis=0), 0), np.maximum(corners.max(axis=0), (99, 59))
    assert (found.x0, found.y0) == tuple(np.floor(low).astype(int))
    assert (found.x0 + found.width - 1, found.y0 + found.height - 1) == tuple(np.ceil(high).astype(int))
