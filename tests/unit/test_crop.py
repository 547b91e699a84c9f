"""The rectangle that enough lights of every filter cover."""

import numpy as np
import pytest

from wbpy.stages import crop
from wbpy.stages.crop import Covering, CropParams, Rectangle
from wbpy.stages.register import Transform

SHAPE = (80, 120)


def lights(*shifts: tuple[float, float]) -> Covering:
    """Return lights whose first pixel lies at these points of the grid."""
    matrices = [np.array([[1.0, 0, -dx], [0, 1.0, -dy], [0, 0, 1.0]]) for dx, dy in shifts]
    return Covering([Transform(matrix, 0.0, 9, "similarity") for matrix in matrices], [SHAPE] * len(shifts))


def found(*integrations: Covering, coverage: float = 0.75) -> Rectangle | None:
    return crop.run(CropParams(coverage=coverage), integrations, SHAPE)


def test_lights_that_all_lie_on_the_grid_lose_nothing():
    assert found(lights((0, 0), (0, 0), (0, 0))) == Rectangle(0, 0, 120, 80)


def test_as_many_lights_as_asked_for_must_reach_every_pixel():
    four = lights((0, 0), (0, 0), (10, 0), (30, 0))
    assert found(four, coverage=0.75) == Rectangle(10, 0, 120, 80)
    assert found(four, coverage=0.5) == Rectangle(0, 0, 120, 80)
    assert found(four, coverage=1.0) == Rectangle(30, 0, 120, 80)


def test_a_share_that_is_no_exact_number_asks_for_no_light_more():
    """0.7 x 10 is 7.000000000000001 in some orders of arithmetic, never 8 lights."""
    ten = lights(*[(0, 0)] * 7, *[(20, 0)] * 3)
    assert found(ten, coverage=0.7) == Rectangle(0, 0, 120, 80)
    assert found(ten, coverage=0.71) == Rectangle(20, 0, 120, 80)


def test_filters_that_share_a_grid_get_one_rectangle():
    red, blue = lights((0, 5), (0, 5)), lights((-12, 0), (-12, 0))
    assert found(red) == Rectangle(0, 5, 120, 80)
    assert found(blue) == Rectangle(0, 0, 108, 80)
    assert found(red, blue) == Rectangle(0, 5, 108, 80)


def test_resampled_lights_do_not_cover_the_pixels_next_to_their_edges():
    assert found(lights((0.5, 0))) == Rectangle(5, 4, 116, 76)


def test_filters_without_a_common_part_give_none():
    assert found(lights((0, 0)), lights((200, 0))) is None
    assert found() is None


def test_a_turned_light_gives_the_largest_rectangle_inside_of_it():
    """At 45 degrees the largest rectangle in a square of half diagonal r is a square of side r."""
    c = np.sqrt(0.5)
    turn = np.array([[c, -c, 0], [c, c, 0], [0, 0, 1.0]])
    centre = np.array([[1, 0, -59.5], [0, 1, -39.5], [0, 0, 1.0]])
    frame = np.array([[1, 0, 29.5], [0, 1, 29.5], [0, 0, 1.0]])
    covering = Covering([Transform(frame @ turn @ centre, 0.0, 9, "similarity")], [(60, 60)])
    rectangle = found(covering)
    assert rectangle is not None
    # 60 px less four at each edge: side 51, half diagonal 36.06, so 36 px by 36 px, cut to whole pixels.
    area = (rectangle.x1 - rectangle.x0) * (rectangle.y1 - rectangle.y0)
    assert 35 * 36 <= area <= 37 * 37


@pytest.mark.parametrize("factor", [1, 3])
def test_a_finer_grid_has_the_rectangle_in_its_own_pixels(factor: int):
    assert Rectangle(2, 3, 10, 20).scaled(factor) == Rectangle(2 * factor, 3 * factor, 10 * factor, 20 * factor)
