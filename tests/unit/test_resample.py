"""Tiles of a registered frame: the same pixels however the output is cut, wherever the frame lies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from wbpy.kernels import distortion, local_normalization
from wbpy.simulate.dng import XTRANS
from wbpy.stages import integrate
from wbpy.stages.base import Work
from wbpy.stages.debayer import DebayerParams
from wbpy.stages.integrate import Counts, IntegrateParams, Light, on_joined_pixels, resample, tile_side

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
@pytest.mark.parametrize("method", ["guided", "malvar", "rcd", "vng", "bilinear"])
def test_tiles_have_the_bits_of_the_whole_even_where_a_frame_only_just_reaches_them(shift, pattern, method):
    frame = Frame(np.random.default_rng(2).normal(500, 40, (HEIGHT, WIDTH)).astype(np.float32))
    cfa = None if pattern is None else np.array(["RGB".index(c) for c in pattern], np.uint8).reshape(2, 2)
    matrix = moved(*shift, degrees=0.3)
    whole = tiled(frame, matrix, cfa, 200, method=method)
    for side in (64, 32):
        np.testing.assert_array_equal(tiled(frame, matrix, cfa, side, method=method), whole)


@pytest.mark.parametrize("shift", SHIFTS, ids=str)
@pytest.mark.parametrize("method", ["guided", "bilinear", "malvar"])
def test_tiles_of_xtrans_frames_have_the_bits_of_the_whole(shift, method):
    frame = Frame(np.random.default_rng(2).normal(500, 40, (HEIGHT, WIDTH)).astype(np.float32))
    cfa = np.array(["RGB".index(c) for c in XTRANS], np.uint8).reshape(6, 6)
    whole = tiled(frame, moved(*shift, degrees=0.3), cfa, 200, method=method)
    for side in (64, 32):
        np.testing.assert_array_equal(tiled(frame, moved(*shift, degrees=0.3), cfa, side, method=method), whole)


@pytest.mark.parametrize(("pattern", "side"), [("RGGB", 2), (XTRANS, 3)])
def test_joined_pixels_lie_in_the_middle_of_theirs(pattern, side):
    """A slope over the frame: a joined pixel has the value at the middle of its pixels, whichever way they move."""
    cfa = np.array(["RGB".index(c) for c in pattern], np.uint8).reshape(2 * side if side == 3 else 2, -1)
    y, x = np.indices((HEIGHT, WIDTH), dtype=np.float32)
    whole = Light(Frame(100 + 3 * x + 2 * y), moved(4.0, -3.0), (1.0,), (0.0,), (1.0,), noise=(2.0, 2.0, 2.0), fwhm=4.0)
    light = on_joined_pixels(whole, side, (1, 4, 1))
    assert light.noise == (2.0, 1.0, 2.0) and light.fwhm == 4.0 / side
    parameters, debayering = IntegrateParams(interpolation="bilinear"), DebayerParams(method="superpixel")
    parts = []
    for width in (HEIGHT // side, 16):
        out = np.empty((3, HEIGHT // side, HEIGHT // side), np.float32)
        for left in range(0, HEIGHT // side, width):
            part = np.empty((3, HEIGHT // side, min(width, HEIGHT // side - left)), np.float32)
            resample(parameters, debayering, light, cfa, part, left, 0)
            out[:, :, left : left + width] = part
        parts.append(out)
    np.testing.assert_array_equal(parts[0], parts[1])
    rows, columns = np.indices(out.shape[1:])
    middle = (side - 1) / 2
    expected = 100 + 3 * (side * columns + middle + 4.0) + 2 * (side * rows + middle - 3.0)
    # Means of samples that lie a pixel off the middle at most: 3 and 2 DN for each pixel.
    np.testing.assert_allclose(out[1][6:-6, 6:-6], expected[6:-6, 6:-6], atol=0.6)
    np.testing.assert_allclose(out[:, 6:-6, 6:-6].mean(), expected[6:-6, 6:-6].mean(), atol=2.6)


def test_the_photon_noise_of_joined_pixels_is_that_of_the_mean_of_their_samples():
    cfa = np.array([[0, 1], [1, 2]], np.uint8)
    # 1600 electrons in each sample over a sky of 400, 1 e-/DN: a variance of 1600, half of it where two are joined.
    known = {"noise": (20.0,) * 3, "background": (400.0,) * 3, "e_per_dn": 1.0}
    whole = Light(Frame(np.full((64, 64), 1600, np.float32)), np.eye(3), (1.0,) * 3, (0.0,) * 3, (1.0,) * 3, **known)
    joined = on_joined_pixels(whole, 2, (1, 2, 1))
    work = Work(map=map, workers=1, memory=1 << 28, report=lambda *_: None)
    params = IntegrateParams(rejection="none", maps=("variance_expected",))
    counts = Counts(*(np.zeros(1, np.int64) for _ in range(3)))
    (strip,) = integrate.run(params, DebayerParams(method="superpixel"), work, [joined], (32, 32), cfa, counts)
    np.testing.assert_allclose(strip.maps["variance_expected"][:, 16, 16], [1600.0, 800.0, 1600.0], rtol=1e-6)


def test_surfaces_and_displacements_of_joined_pixels_are_those_of_the_whole():
    step, side = 32, 3
    grid = np.indices((6, 7), dtype=np.float64)
    surface = 5 + 2 * (grid[1] - 1) * step + 3 * (grid[0] - 1) * step
    moves = np.stack([0.01 * grid[1] * step, 0.02 * grid[0] * step], axis=-1)[None]
    whole = Light(
        Frame(np.zeros((90, 110), np.float32)), np.eye(3), (1.0,), (0.0,), (1.0,), (surface,), step, moves, step
    )
    light = on_joined_pixels(whole, side, (1, 1, 1))
    plane = np.zeros((30, 36), np.float32)
    local_normalization.apply(plane, 1.0, light.surfaces[0], light.surface_step, 0, 0, plane)
    y, x = np.indices(plane.shape)
    np.testing.assert_allclose(plane, 5 + 2 * (3 * x + 1) + 3 * (3 * y + 1), rtol=1e-5)
    points = np.array([[4.0, 7.0], [30.0, 20.0]])
    there = distortion.apply(light.matrix, light.displacement[0], light.displacement_step, points)
    # The same point in whole pixels, moved, and back.
    at = 3 * points + 1
    np.testing.assert_allclose(3 * there + 1, at + at * [0.01, 0.02], atol=1e-9)


def test_a_frame_that_does_not_reach_a_tile_is_missing_there():
    frame = Frame(np.ones((HEIGHT, WIDTH), np.float32))
    assert np.isnan(tiled(frame, moved(-300, 5), None, 64)).all()


def test_the_side_of_a_tile_follows_memory_within_limits():
    assert tile_side(10**12, 100) == 512
    assert tile_side(10, 100) == 64
    assert tile_side(256 * 256 * 100, 100) == 256


def resampled(image: NDArray[np.float32], light: dict[str, object] | None = None, **params: object):
    out = np.empty((1, HEIGHT, WIDTH), np.float32)
    base = {"matrix": moved(0.3, 0.2, 0.5)} | (light or {})
    matrix = base.pop("matrix")
    resample(
        IntegrateParams(**params), DebayerParams(), Light(Frame(image), matrix, (), (), (), **base), None, out, 0, 0
    )
    return out[0]


def field(peak: float = 30000.0) -> NDArray[np.float32]:
    image = np.random.default_rng(3).normal(500, 10, (HEIGHT, WIDTH)).astype(np.float32)
    image[40:44, 50:53] = peak
    return image


def test_the_interpolation_asked_for_reaches_the_pixels():
    image = field()
    results = {n: resampled(image, interpolation=n) for n in ("lanczos3", "lanczos4", "bicubic", "bilinear", "nearest")}
    for name, one in results.items():
        for other, two in results.items():
            assert name == other or not np.array_equal(one, two, equal_nan=True)
    np.testing.assert_array_equal(resampled(image), results["lanczos3"])
    np.testing.assert_array_equal(resampled(image, {"fwhm": 1.3}), results["bicubic"])
    whole = {"matrix": moved(3, -2)}
    np.testing.assert_array_equal(resampled(image, whole), resampled(image, whole, interpolation="nearest"))
    coarse = {"matrix": np.diag([2.0, 2.0, 1.0])}
    np.testing.assert_array_equal(resampled(image, coarse), resampled(image, coarse, interpolation="area"))


def test_saturated_pixels_of_a_light_leave_no_ring():
    image = field(60000.0)
    ringing, held = resampled(image, clamping=1e9), resampled(image, {"saturation": 55000.0})
    assert np.nanmin(ringing) < 0.0
    # 9900 deviates of 10 DN.
    assert np.nanmin(held) > 500 - 5 * 10


@pytest.mark.parametrize("channels", [1, 3])
def test_a_displacement_moves_the_pixels_of_its_channel(channels: int):
    frame = Frame(np.random.default_rng(4).normal(500, 40, (HEIGHT, WIDTH)).astype(np.float32))
    cfa = None if channels == 1 else np.array([[0, 1], [1, 2]], np.uint8)
    shifts = [(2.0, 0.0), (0.0, 0.0), (0.0, -1.0)][:channels]
    displacement = np.stack([np.full((3, 3, 2), shift) for shift in shifts])
    plain, displaced = (np.empty((channels, HEIGHT, WIDTH), np.float32) for _ in range(2))
    resample(IntegrateParams(), DebayerParams(), Light(frame, np.eye(3), (), (), ()), cfa, plain, 0, 0)
    light = Light(frame, np.eye(3), (), (), (), displacement=displacement, displacement_step=64)
    resample(IntegrateParams(), DebayerParams(), light, cfa, displaced, 0, 0)
    inner = np.s_[20:-20, 20:-20]
    for own, there, (dx, dy) in zip(displaced, plain, shifts, strict=True):
        np.testing.assert_array_equal(own[inner], np.roll(there, (-int(dy), -int(dx)), (0, 1))[inner])
