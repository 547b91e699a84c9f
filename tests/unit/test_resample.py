"""Tiles of a registered frame: the same pixels however the output is cut, wherever the frame lies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from wbpy.stages.debayer import DebayerParams
from wbpy.stages.integrate import IntegrateParams, Light, resample, tile_side

HEIGHT, WIDTH = 90, 110


@dataclass
class Frame:
    image: NDArray[np.float32]

    @property
    def shape(self) -> tuple[int, int]:
        return self.image.shape

    def read(self, y0: int, y1: int, x0: int, x1: int) -> NDArray[np.float32]:
        return np.ascontiguousarray(self.image[y0:y1, x0:x1])


def tiled(frame: Frame, matrix: NDArray[np.float64], cfa: NDArray[np.uint8] | None, side: int, **options: str):
    parameters, debayering = IntegrateParams(), DebayerParams(**options)
    light = Light(frame, matrix, (), (), ())
    out = np.empty((1 if cfa is None else 3, HEIGHT, WIDTH), np.float32)
    for y in range(0, HEIGHT, side):
        for x in range(0, WIDTH, side):
            part = np.empty((out.shape[0], min(side, HEIGHT - y), min(side, WIDTH - x)), np.float32)
            resample(parameters, debayering, light, cfa, part, x, y)
            out[:, y : y + side, x : x + side] = part
    return out


def moved(dx: float, dy: float, degrees: float = 0.0) -> NDArray[np.float64]:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, dx], [s, c, dy], [0, 0, 1]])


SHIFTS = [(0, 0), (3.3, -2.7), (-107.4, 0.2), (0.6, -87.1), (108.2, 88.3), (-109.5, -89.5), (-300, 5)]


@pytest.mark.parametrize("shift", SHIFTS, ids=str)
@pytest.mark.parametrize("pattern", [None, "RGGB", "GBRG"])
@pytest.mark.parametrize("method", ["malvar", "rcd", "bilinear"])
def test_tiles_have_the_bits_of_the_whole_even_where_a_frame_only_just_reaches_them(shift, pattern, method):
    frame = Frame(np.random.default_rng(2).normal(500, 40, (HEIGHT, WIDTH)).astype(np.float32))
    cfa = None if pattern is None else np.array(["RGB".index(c) for c in pattern], np.uint8).reshape(2, 2)
    matrix = moved(*shift, degrees=0.3)
    whole = tiled(frame, matrix, cfa, 200, method=method)
    for side in (64, 32):
        np.testing.assert_array_equal(tiled(frame, matrix, cfa, side, method=method), whole)


def test_a_frame_that_does_not_reach_a_tile_is_missing_there():
    frame = Frame(np.ones((HEIGHT, WIDTH), np.float32))
    assert np.isnan(tiled(frame, moved(-300, 5), None, 64)).all()


def test_the_side_of_a_tile_follows_memory_within_limits():
    assert tile_side(10**12, 100) == 512
    assert tile_side(10, 100) == 64
    assert tile_side(256 * 256 * 100, 100) == 256
