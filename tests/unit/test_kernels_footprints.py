"""Footprints of frames on an output grid, and the rectangles that they cover together."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wbpy.kernels import distortion, footprints


def rotated(degrees: float, shift: tuple[float, float], centre: tuple[float, float]) -> np.ndarray:
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1.0]])
    there, back = np.eye(3), np.eye(3)
    there[:2, 2], back[:2, 2] = -np.array(centre), np.array(centre) + shift
    return back @ turn @ there


def covered_twin(
    matrix: np.ndarray, nodes: np.ndarray, step: int, frame: tuple[int, int], shape: tuple[int, int], slack: float
) -> np.ndarray:
    """Return which pixels of the output have their position inside the frame, one by one."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    there = distortion.apply(matrix, nodes, step, np.column_stack([x.ravel(), y.ravel()]))
    inside = (there >= -slack) & (there <= np.array([frame[1] - 1, frame[0] - 1]) + slack)
    return inside.all(axis=1).reshape(shape)


def mask_of(first: np.ndarray, last: np.ndarray, width: int) -> np.ndarray:
    x = np.arange(width)
    return (x >= first[:, None]) & (x <= last[:, None])


@pytest.mark.parametrize("degrees", [0.0, 0.7, 37.0, 90.0, 180.0])
@pytest.mark.parametrize("shift", [(0.0, 0.0), (7.3, -4.6), (90.0, 3.0)])
def test_spans_are_the_pixels_whose_position_is_inside_the_frame(degrees: float, shift: tuple[float, float]):
    shape, frame = (60, 80), (50, 90)
    matrix = rotated(degrees, shift, (40, 30))
    matrix[2, :2] = 1e-5, -2e-5
    first, last = footprints.spans(footprints.outline(matrix, distortion.NONE, 0, frame), shape)
    found = mask_of(first, last, 80)
    # The slack of a thousandth of a pixel decides about pixels whose position is that near to the edge.
    assert not (covered_twin(matrix, distortion.NONE, 0, frame, shape, -0.01) & ~found).any()
    assert not (found & ~covered_twin(matrix, distortion.NONE, 0, frame, shape, 0.01)).any()


def test_spans_follow_a_displacement():
    """The edge is straight between points a node's distance apart: off by step^2 / 8 of the curvature at most."""
    shape = frame = (64, 96)
    step = 16
    y, x = np.mgrid[: 64 // step + 1, : 96 // step + 1] * float(step)
    nodes = np.stack([4e-3 * (x - 48) ** 2 / 4, 3e-3 * (y - 32) * (x - 48) / 4], axis=-1)
    first, last = footprints.spans(footprints.outline(np.eye(3), nodes, step, frame), shape)
    differs = mask_of(first, last, 96) != covered_twin(np.eye(3), nodes, step, frame, shape, 0.0)
    rows = np.count_nonzero(differs, axis=1)
    assert rows[1:-1].max() <= 1, "no row is off by more than a pixel"


def test_the_frame_itself_covers_its_grid():
    first, last = footprints.spans(footprints.outline(np.eye(3), distortion.NONE, 0, (30, 40)), (30, 40))
    assert (first == 0).all() and (last == 39).all()


def test_what_an_interpolation_needs_around_a_pixel_is_left_out():
    first, last = footprints.spans(footprints.outline(np.eye(3), distortion.NONE, 0, (30, 40), inset=3), (30, 40))
    assert mask_of(first, last, 40).sum() == (30 - 6) * (40 - 6)
    assert (first[3:27] == 3).all() and (last[3:27] == 36).all()


def test_a_frame_beside_the_grid_covers_nothing():
    first, last = footprints.spans(
        footprints.outline(rotated(5, (500, 0), (20, 15)), distortion.NONE, 0, (30, 40)), (30, 40)
    )
    assert (first > last).all()


def rectangle_twin(mask: np.ndarray) -> int:
    """Return the largest area, by trying all pairs of rows."""
    best = 0
    for top in range(mask.shape[0]):
        together = np.ones(mask.shape[1], bool)
        for bottom in range(top, mask.shape[0]):
            together &= mask[bottom]
            longest = run = 0
            for value in together:
                run = run + 1 if value else 0
                longest = max(longest, run)
            best = max(best, longest * (bottom - top + 1))
    return best


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.integers(1, 3))
def test_the_common_rectangle_is_the_largest_that_enough_frames_of_every_set_cover(seed: int, count: int, sets: int):
    random = np.random.default_rng(seed)
    height, width = (int(size) for size in random.integers(1, 20, 2))
    first = random.integers(0, width, (count, height)).astype(np.int32)
    last = np.minimum(first + random.integers(-3, width, (count, height)), width - 1).astype(np.int32)
    owner = random.integers(0, sets, count).astype(np.int32)
    needed = random.integers(0, 3, sets).astype(np.int32)
    mask = np.ones((height, width), bool)
    for number in range(sets):
        layers = [mask_of(first[i], last[i], width) for i in range(count) if owner[i] == number]
        mask &= np.sum(layers, axis=0, initial=0) >= needed[number] if layers else needed[number] == 0
    found = footprints.common_rectangle(first, last, owner, needed, width)
    if found is None:
        assert not mask.any()
        return
    x0, y0, x1, y1 = found
    assert mask[y0:y1, x0:x1].all()
    assert (x1 - x0) * (y1 - y0) == rectangle_twin(mask)


def test_of_rectangles_of_one_area_the_topmost_and_leftmost_is_taken():
    first = np.array([[0, 0, 1, 0, 0], [3, 3, 1, 3, 3]], np.int32)
    last = np.array([[1, 1, 0, 1, 1], [4, 4, 0, 4, 4]], np.int32)
    owner, needed = np.zeros(2, np.int32), np.ones(1, np.int32)
    assert footprints.common_rectangle(first, last, owner, needed, 5) == (0, 0, 2, 2)
