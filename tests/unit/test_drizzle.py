"""The drizzle stage on small frames in memory."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from wbpy.config import load_config
from wbpy.engine.store import Store
from wbpy.errors import ConfigError
from wbpy.rules import load_rules
from wbpy.stages import STAGES, drizzle, integrate
from wbpy.stages.base import Work
from wbpy.stages.debayer import DebayerParams
from wbpy.stages.drizzle import Coverage, DrizzleParams
from wbpy.stages.integrate import Counts, IntegrateParams, Light

SHAPE = (70, 90)
RGGB = np.array([[0, 1], [1, 2]], np.uint8)


class Pixels:
    """A calibrated frame in memory, read by rectangle."""

    def __init__(self, image: np.ndarray) -> None:
        self.image, self.shape = image.astype(np.float32), image.shape

    def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        return np.ascontiguousarray(self.image[y0:y1, x0:x1])


class Bits:
    """Rejected samples in memory."""

    def __init__(self, mask: np.ndarray) -> None:
        self.packed = np.packbits(mask, axis=-1)

    def read(self, light: int, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        return np.ascontiguousarray(self.packed[:, light, y0:y1, x0 // 8 : -(-x1 // 8)])


def shifted(dx: float, dy: float, degrees: float = 0.0) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    centre = np.array([SHAPE[1] / 2, SHAPE[0] / 2])
    matrix[:2, 2] = centre - matrix[:2, :2] @ centre + (dx, dy)
    return matrix


def light(image: np.ndarray, matrix: np.ndarray, channels: int = 1, **fields: Any) -> Light:
    given = {"scale": (1.0,) * channels, "offset": (0.0,) * channels, "weight": (1.0,) * channels} | fields
    return Light(Pixels(image), matrix, **given)


def made(
    lights: Sequence[Light],
    cfa: np.ndarray | None = None,
    refused: Bits | None = None,
    workers: int = 1,
    memory: int = 1 << 28,
    shape: tuple[int, int] = SHAPE,
    **params: Any,
) -> tuple[np.ndarray, np.ndarray, Coverage]:
    """Return picture (C, h, w), weights and coverage of a drizzle."""
    coverage = drizzle.no_coverage(1 if cfa is None else 3)
    with ThreadPoolExecutor(workers) as pool:
        spread = pool.map if workers > 1 else map
        work = Work(map=spread, workers=workers, memory=memory, report=lambda *_: None)
        strips = list(drizzle.run(DrizzleParams(**params), work, lights, shape, cfa, refused, coverage))
    return (
        np.concatenate([strip.image for strip in strips], axis=1),
        np.concatenate([strip.weight for strip in strips], axis=1),
        coverage,
    )


def field(seed: int, sigma: float = 30.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(1000.0, sigma, SHAPE)


def test_frames_that_lie_on_each_other_become_their_weighted_mean():
    images = [field(seed) for seed in range(3)]
    weights = (1.0, 0.5, 0.25)
    lights = [
        light(image, np.eye(3), weight=(w,), scale=(1.1,), offset=(-20.0,))
        for image, w in zip(images, weights, strict=True)
    ]
    picture, weight, coverage = made(lights, scale=1, drop_shrink=1.0)
    expected = np.average([1.1 * image - 20.0 for image in images], axis=0, weights=weights)
    # Single precision of pixels near 1000 DN and of shares: a few 1e-7 of the value.
    np.testing.assert_allclose(picture[0], expected, rtol=1e-6)
    np.testing.assert_allclose(weight[0], sum(weights), rtol=1e-5)
    assert coverage.holes.sum() == coverage.thin.sum() == 0
    assert coverage.common[0] == (SHAPE[0] - 4) * (SHAPE[1] - 4), "two pixels at each edge do not count"


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_a_constant_sky_stays_what_it_is_at_every_scale(scale: int):
    lights = [light(np.full(SHAPE, 123.5), shifted(0.3 * n, -0.2 * n, 5.0 * n)) for n in range(5)]
    picture, weight, _ = made(lights, scale=scale)
    assert picture.shape[1:] == weight.shape[1:] == (scale * SHAPE[0], scale * SHAPE[1])
    assert np.nanmax(np.abs(picture - 123.5)) < 1e-4
    inside = weight[0, 20 * scale : -20 * scale, 20 * scale : -20 * scale]
    # Whatever the scale, even coverage gives the number of lights; 0.9 of a pixel leaves gaps of 19 % in each light.
    assert inside.mean() == pytest.approx(5.0, rel=0.01)


@pytest.mark.parametrize("kernel", ["square", "gaussian"])
@pytest.mark.parametrize("cfa", [None, RGGB], ids=["mono", "cfa"])
def test_memory_and_workers_do_not_change_a_bit(kernel: str, cfa: np.ndarray | None):
    channels = 1 if cfa is None else 3
    rng = np.random.default_rng(11)
    surfaces = tuple(rng.normal(0, 20, (6, 6)) for _ in range(channels))
    lights = [
        light(field(n), shifted(*rng.normal(0, 2, 2), 3.0 * n), channels, surfaces=surfaces, surface_step=32)
        for n in range(4)
    ]
    refused = Bits(rng.random((channels, 4, *SHAPE)) < 0.05)
    args = {"cfa": cfa, "refused": refused, "kernel": kernel, "scale": 2}
    reference = made(lights, **args)
    for workers, memory in ((1, 1 << 20), (2, 1 << 21), (3, 1 << 28)):
        picture, weight, coverage = made(lights, workers=workers, memory=memory, **args)
        np.testing.assert_array_equal(picture, reference[0])
        np.testing.assert_array_equal(weight, reference[1])
        for name in ("common", "holes", "thin"):
            np.testing.assert_array_equal(getattr(coverage, name), getattr(reference[2], name))


def test_small_memory_makes_small_tiles():
    assert drizzle._tile_side(1 << 20, 1, 1, 180) < drizzle._tile_side(1 << 28, 1, 1, 180)


def test_what_the_integration_rejected_stays_out():
    """A satellite over one of six lights is found by the integration and absent from the drizzle."""
    images = [field(n) for n in range(6)]
    images[2][30:33, :] += 5000.0
    lights = [light(image, shifted(0.4 * n, 0.3 * n)) for n, image in enumerate(images)]
    mask = np.zeros((1, 6, *SHAPE), bool)

    def sink(y0: int, x0: int, bits: np.ndarray) -> None:
        mask[:, :, y0 : y0 + bits.shape[2], x0 : x0 + 8 * bits.shape[3]] = np.unpackbits(bits, axis=-1)[
            ..., : mask.shape[3] - x0
        ]

    work = Work(map=map, workers=1, memory=1 << 20, report=lambda *_: None)
    counts = Counts(*(np.zeros(6, np.int64) for _ in range(3)))
    params = IntegrateParams(rejection="winsorized", low=4.0, high=3.0)
    for _ in integrate.run(params, DebayerParams(), work, lights, SHAPE, None, counts, sink):
        pass
    assert mask[0].sum(axis=(1, 2)).tolist() == (counts.low + counts.high).tolist()
    clean, _, _ = made(lights, refused=Bits(mask))
    dirty, _, _ = made(lights)
    trail = np.s_[0, 58:68, 10:-10]
    # 5000 DN in one of six lights are 800 DN without rejection; noise of a pixel of the output is about 15 DN, and the
    # few pixels at the edges of the trail, of which a part falls elsewhere, count with their share.
    assert dirty[trail].mean() - 1000.0 > 300.0
    assert abs(np.median(clean[trail]) - 1000.0) < 5.0
    assert np.mean(clean[trail]) - 1000.0 < 20.0


def test_where_all_samples_are_rejected_none_is_told_apart():
    """The integration shows the median of all there, and so the drizzle takes all."""
    images = [np.full(SHAPE, 100.0), np.full(SHAPE, 100.0), np.full(SHAPE, 100.0)]
    for n, image in enumerate(images):
        image[20, 20] = 10.0 ** (n + 1)
    seen: list[np.ndarray] = []
    work = Work(map=map, workers=1, memory=1 << 28, report=lambda *_: None)
    counts = Counts(*(np.zeros(3, np.int64) for _ in range(3)))
    params = IntegrateParams(rejection="percentile", low=0.01, high=0.01, interpolation="nearest", range_low=5.0)
    given = [
        light(images[0], np.eye(3), weight=(1.0,)),
        light(images[1], np.eye(3), weight=(0.0,)),
        light(images[2], np.eye(3), weight=(1.0,)),
    ]
    for _ in integrate.run(
        params, DebayerParams(), work, given, SHAPE, None, counts, lambda y0, x0, bits: seen.append(bits)
    ):
        pass
    # Of 10, 100 and 1000 only the middle one lies within 1 % of the median, and it has no weight.
    assert np.unpackbits(seen[0], axis=-1).sum() == 0


def test_samples_out_of_range_are_among_the_rejected():
    images = [field(n) for n in range(4)]
    images[1][40, 50] = 65000.0
    lights = [light(image, np.eye(3)) for image in images]
    seen: list[np.ndarray] = []
    work = Work(map=map, workers=1, memory=1 << 28, report=lambda *_: None)
    counts = Counts(*(np.zeros(4, np.int64) for _ in range(3)))
    params = IntegrateParams(rejection="none", range_high=60000.0, interpolation="nearest")
    for _ in integrate.run(
        params, DebayerParams(), work, lights, SHAPE, None, counts, lambda y0, x0, bits: seen.append(bits)
    ):
        pass
    mask = np.unpackbits(seen[0], axis=-1)
    assert mask.sum() == 1 and mask[0, 1, 40, 50] == 1


def test_local_normalization_is_that_of_the_integration():
    """Frames with a gradient each, and surfaces that take it out."""
    rng = np.random.default_rng(5)
    surfaces = [rng.normal(0, 50, (6, 6)) for _ in range(3)]
    lights = [
        light(field(n, 0.0), np.eye(3), surfaces=(surface,), surface_step=32, scale=(0.9,))
        for n, surface in enumerate(surfaces)
    ]
    work = Work(map=map, workers=1, memory=1 << 28, report=lambda *_: None)
    counts = Counts(*(np.zeros(3, np.int64) for _ in range(3)))
    params = IntegrateParams(rejection="none")
    strips = list(integrate.run(params, DebayerParams(), work, lights, SHAPE, None, counts))
    expected = np.concatenate([strip.image for strip in strips], axis=1)
    picture, _, _ = made(lights, scale=1, drop_shrink=1.0)
    # Sums of some 1000 DN in single precision.
    np.testing.assert_allclose(picture, expected, atol=1e-3)
    fine, _, _ = made(lights, scale=3, drop_shrink=1.0)
    np.testing.assert_allclose(fine[:, 1::3, 1::3], expected, atol=1e-3)


def test_two_sided_normalization_is_that_of_the_integration():
    rng = np.random.default_rng(6)
    lights = []
    for n in range(3):
        sided = np.stack(
            [rng.normal(middle, spread, (6, 6)) for middle, spread in ((1e3, 9), (9e2, 9), (1, 0.1), (2, 0.1))]
        )
        lights.append(light(field(n), np.eye(3), sided=(sided,), surface_step=32, scale=(9.0,)))
    work = Work(map=map, workers=1, memory=1 << 28, report=lambda *_: None)
    counts = Counts(*(np.zeros(3, np.int64) for _ in range(3)))
    params = IntegrateParams(rejection="none")
    strips = list(integrate.run(params, DebayerParams(), work, lights, SHAPE, None, counts))
    expected = np.concatenate([strip.image for strip in strips], axis=1)
    picture, _, _ = made(lights, scale=1, drop_shrink=1.0)
    np.testing.assert_allclose(picture, expected, atol=1e-3)


@pytest.mark.parametrize("side", [2, 6])
def test_every_colour_of_a_mosaic_is_measured_and_nothing_interpolated(side: int):
    """Three skies of one level each: not a pixel of the output lies between two of them."""
    if side == 2:
        cfa = RGGB
    else:
        letters = ("GBGGRG", "RGRBGB", "GBGGRG", "GRGGBG", "BGBRGR", "GRGGBG")
        cfa = np.array([["RGB".index(c) for c in row] for row in letters], np.uint8)
    levels = np.array([300.0, 1000.0, 500.0])
    colours = np.tile(cfa, (SHAPE[0] // side + 1, SHAPE[1] // side + 1))[: SHAPE[0], : SHAPE[1]]
    rng = np.random.default_rng(2)
    lights = [light(levels[colours], shifted(*rng.normal(0, 3, 2), 180.0 * (n % 2)), 3) for n in range(30)]
    picture, weight, coverage = made(lights, cfa=cfa, scale=1)
    for c in range(3):
        assert np.nanmax(np.abs(picture[c] - levels[c])) < 1e-3
        # Even coverage is that of 30 lights in every colour, however often it stands in the pattern.
        assert weight[c, 15:-15, 15:-15].mean() == pytest.approx(30.0, rel=0.03)
    assert coverage.thin.sum() < 0.1 * coverage.common.sum()


def test_a_displacement_for_each_colour_lays_them_on_each_other():
    """Red lies a pixel to the left of green in the frame, blue a pixel to the right."""
    yy, xx = np.mgrid[0 : SHAPE[0], 0 : SHAPE[1]].astype(float)
    colours = np.tile(RGGB, (SHAPE[0] // 2 + 1, SHAPE[1] // 2 + 1))[: SHAPE[0], : SHAPE[1]]
    displacement = np.zeros((3, 3, 4, 2))
    displacement[0, ..., 0], displacement[2, ..., 0] = -1.0, 1.0
    lights = []
    for dx, dy in np.random.default_rng(3).uniform(-2, 2, (24, 2)):
        x = xx - 45.0 - dx - (colours - 1.0)
        image = 2000.0 * np.exp(-(x**2 + (yy - 35.0 - dy) ** 2) / 8.0)
        lights.append(light(image, shifted(dx, dy), 3, displacement=displacement, displacement_step=32))
    picture, _, _ = made(lights, cfa=RGGB, scale=1)
    window = np.nan_to_num(picture[:, 25:46, 35:56])
    x = (window * np.arange(35, 56)).sum(axis=(1, 2)) / window.sum(axis=(1, 2))
    # 24 dithered positions of a star of sigma 2 px sampled every second pixel: its centroid is good to 0.05 px.
    np.testing.assert_allclose(x, 45.0, atol=0.08)


def test_holes_are_counted_where_all_lights_overlap():
    one = light(field(1), np.eye(3))
    picture, weight, coverage = made([one], scale=2, kernel="point")
    # One light, points, twice as fine: one pixel in four is filled.
    inside = np.s_[0, 4:-4, 4:-4]
    assert np.isnan(picture[inside]).mean() == pytest.approx(0.75)
    assert coverage.holes[0] == 0.75 * coverage.common[0]
    assert coverage.thin[0] == coverage.holes[0]
    beside = light(field(2), shifted(40.0, 0.0))
    _, _, less = made([one, beside], scale=2, kernel="point")
    assert less.common[0] == pytest.approx(coverage.common[0] * (90 - 44) / (90 - 4), rel=0.01)
    assert (weight >= 0).all()


def test_drops_are_smaller_for_mono_than_for_mosaics_unless_set():
    assert drizzle.shrink_of(DrizzleParams(), False) == 0.9
    assert drizzle.shrink_of(DrizzleParams(), True) == 1.0
    assert drizzle.shrink_of(DrizzleParams(drop_shrink=0.5), True) == 0.5


def test_the_preset_and_the_option_switch_it_on():
    kinds = {"drizzle": DrizzleParams}
    by_preset = load_config(load_rules(), {stage.name: stage.params for stage in STAGES}, preset="undersampled")
    assert by_preset.section("drizzle", DrizzleParams) == DrizzleParams(use=True, scale=2)
    by_option = load_config(load_rules(), kinds, options={"drizzle.use": True, "drizzle.scale": 3})
    assert by_option.section("drizzle", DrizzleParams) == DrizzleParams(use=True, scale=3)
    assert by_option.params("drizzle")["scale"].origin == by_option.params("drizzle")["use"].origin == "--drizzle"
    assert not load_config(load_rules(), kinds).section("drizzle", DrizzleParams).use


@pytest.mark.parametrize(("name", "value"), [("scale", 5), ("scale", 0), ("drop_shrink", 0.05), ("kernel", "turbo")])
def test_parameters_out_of_their_range_are_refused(name: str, value: Any):
    with pytest.raises(ConfigError, match=f"drizzle.{name}"):
        load_config(load_rules(), {"drizzle": DrizzleParams}, sets=[f"drizzle.{name}={value}"])


def test_stored_bits_come_back_by_rectangle_and_only_when_complete(tmp_path: Any):
    store = Store(tmp_path)
    rng = np.random.default_rng(7)
    mask = rng.random((2, 3, 40, 70)) < 0.3
    with store.put_bits("a", (2, 3, 40, 70)) as put:
        for y0, x0, y1, x1 in ((0, 0, 32, 64), (0, 64, 32, 70), (32, 0, 40, 64), (32, 64, 40, 70)):
            put(y0, x0, np.packbits(mask[:, :, y0:y1, x0:x1], axis=-1))
    found = store.bits("a")
    assert found is not None
    read = np.unpackbits(found.read(1, 5, 37, 16, 70), axis=-1)[..., : 70 - 16]
    np.testing.assert_array_equal(read, mask[:, 1, 5:37, 16:70])
    with pytest.raises(RuntimeError), store.put_bits("b", (1, 1, 8, 8)):
        raise RuntimeError
    assert store.bits("b") is None
    assert not list((tmp_path / "bits").glob(".*"))
    (tmp_path / "bits" / ".c.1.tmp").write_bytes(b"of a killed run")
    Store(tmp_path)
    assert not list((tmp_path / "bits").glob(".*"))
