"""The integrate stage on small frames in memory."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from wbpy.kernels import rejection
from wbpy.stages import integrate
from wbpy.stages.base import Work
from wbpy.stages.debayer import DebayerParams
from wbpy.stages.integrate import Counts, IntegrateParams, Light

SHAPE = (70, 90)
LIMITS = {"percentile": (0.2, 0.1), "esd": (1.0, 0.05), "rcr": (0.1, 0.1), "linear": (5.0, 3.5), "minmax": (1.0, 1.0)}


class Pixels:
    """A calibrated frame in memory, read by rectangle."""

    def __init__(self, image: np.ndarray) -> None:
        self.image, self.shape = image.astype(np.float32), image.shape

    def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        return np.ascontiguousarray(self.image[y0:y1, x0:x1])


def stars_free(count: int, seed: int, level: float = 1000.0, sigma: float = 10.0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(level, sigma, SHAPE).astype(np.float32) for _ in range(count)]


def integrated(
    images: Sequence[np.ndarray], memory: int = 1 << 28, **params: Any
) -> tuple[dict[str, np.ndarray], Counts]:
    """Return the planes of the strips, joined, and the counts, of frames that lie on each other."""
    lights = [Light(Pixels(image), np.eye(3), (1.0,), (0.0,), (1.0,)) for image in images]
    return strips(lights, memory, **params)


def strips(lights: Sequence[Light], memory: int = 1 << 28, **params: Any) -> tuple[dict[str, np.ndarray], Counts]:
    work = Work(map=map, workers=1, memory=memory, report=lambda *_: None)
    counts = Counts(*(np.zeros(len(lights), np.int64) for _ in range(3)))
    made = list(
        integrate.run(
            IntegrateParams(interpolation="nearest", **params), DebayerParams(), work, lights, SHAPE, None, counts
        )
    )
    planes = {name: np.concatenate([getattr(strip, name)[0] for strip in made]) for name in ("image", "low", "high")}
    planes |= {name: np.concatenate([strip.maps[name][0] for strip in made]) for name in made[0].maps}
    return planes, counts


@pytest.mark.parametrize("algorithm", sorted(set(rejection.ALGORITHMS) - {"none"}))
def test_every_algorithm_takes_a_satellite_out_of_an_integration(algorithm: str):
    images = stars_free(14, seed=1)
    clean = np.mean(images, axis=0, dtype=np.float64)
    images[4][30:33, :] += 3000
    low, high = LIMITS.get(algorithm, (4.0, 3.0))
    planes, counts = integrated(images, rejection=algorithm, low=low, high=high)
    # One of 14 samples is missing: 10 / 14 DN rms; noise that is rejected as well adds its part.
    assert np.abs(planes["image"][30:33] - clean[30:33]).max() < 12
    assert planes["high"][30:33].min() >= np.float32(1 / 14)
    assert counts.high[4] >= 3 * SHAPE[1]
    assert (counts.offered == SHAPE[0] * SHAPE[1]).all()


def test_range_rejection_takes_samples_beyond_its_limits_and_counts_them():
    images = stars_free(8, seed=2)
    images[1][10, 10] = 0.0
    images[2][10, 10] = -5.0
    images[3][20, 20] = 60000.0
    planes, counts = integrated(images, rejection="none", range_low=0.0, range_high=60000.0)
    kept = np.mean([image[10, 10] for n, image in enumerate(images) if n not in (1, 2)], dtype=np.float64)
    assert planes["image"][10, 10] == np.float32(kept)
    assert planes["low"][10, 10] == np.float32(2 / 8)
    assert planes["high"][20, 20] == np.float32(1 / 8)
    assert counts.low.tolist() == [0, 1, 1, 0, 0, 0, 0, 0]
    assert counts.high.tolist() == [0, 0, 0, 1, 0, 0, 0, 0]
    assert (counts.offered == SHAPE[0] * SHAPE[1]).all()
    free, counts = integrated(images, rejection="none")
    assert counts.low.sum() == 0
    assert free["image"][10, 10] == np.float32(np.mean([image[10, 10] for image in images], dtype=np.float64))


def test_the_size_of_the_tiles_changes_no_bit():
    images = stars_free(9, seed=3)
    images[3][20:40, 50] += 900
    whole, counts = integrated(images, rejection="winsorized")
    tiled, tile_counts = integrated(images, memory=1, rejection="winsorized")
    for name, plane in whole.items():
        np.testing.assert_array_equal(tiled[name], plane)
    assert tile_counts.high.tolist() == counts.high.tolist()


def dim_trail(seed: int) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Return 12 frames, their clean mean and the flanks of a trail in one: 5 px at 12 sigma, flanks of 2 sigma."""
    images = stars_free(12, seed)
    clean = np.mean(images, axis=0, dtype=np.float64)
    y = np.arange(SHAPE[0])[:, None] - (15 + np.arange(SHAPE[1])[None, :] // 3)
    images[6] += (120.0 * (np.abs(y) <= 2) + 20.0 * ((np.abs(y) > 2) & (np.abs(y) <= 4))).astype(np.float32)
    return images, clean, (np.abs(y) > 2) & (np.abs(y) <= 4)


def test_large_scale_rejection_takes_the_flanks_of_a_trail_too():
    images, clean, flanks = dim_trail(seed=5)
    params = {"rejection": "winsorized", "low": 4.0, "high": 3.0}
    plain, _ = integrated(images, **params)
    grown, counts = integrated(images, large_scale_high=True, **params)
    # Flanks of 20 DN in one of 12 frames leave 1.7 DN in the mean; their 700 pixels average that to 3 / sqrt(700).
    assert (plain["image"] - clean)[flanks].mean() > 1.0
    assert abs((grown["image"] - clean)[flanks].mean()) < 4 * 3 / np.sqrt(flanks.sum())
    assert grown["high"][flanks].mean() > 0.9 / 12
    assert counts.high[6] > 2 * np.delete(counts.high, 6).max()
    np.testing.assert_array_equal(grown["image"][60:, :30], plain["image"][60:, :30])


def test_large_scale_rejection_of_dark_structures_mirrors_that_of_bright_ones():
    images, _, _ = dim_trail(seed=6)
    bright, up = integrated(images, rejection="winsorized", low=3.0, high=3.0, large_scale_high=True)
    dark, down = integrated(
        [2000 - image for image in images], rejection="winsorized", low=3.0, high=3.0, large_scale_low=True
    )
    # 2000 - x rounds in float32: a sample at its very limit may fall to the other side.
    assert np.mean(np.abs(dark["image"] - (2000 - bright["image"])) > 1e-3) < 1e-3
    assert down.low[6] == pytest.approx(up.high[6], rel=0.01)


def test_large_scale_rejection_does_not_depend_on_the_tiles():
    images, _, _ = dim_trail(seed=7)
    params = {"rejection": "winsorized", "large_scale_high": True, "maps": ("coverage", "variance", "weight")}
    whole, counts = integrated(images, **params)
    tiled, tile_counts = integrated(images, memory=1, **params)
    for name, plane in whole.items():
        np.testing.assert_array_equal(tiled[name], plane)
    assert tile_counts.high.tolist() == counts.high.tolist()
    assert tile_counts.offered.tolist() == counts.offered.tolist()


def test_maps_say_how_many_lights_made_a_pixel_and_how_well_it_is_known():
    images = stars_free(16, seed=8)
    images[0][:, :20] = np.nan
    weights = np.linspace(0.5, 1.0, 16)
    lights = [
        Light(Pixels(image), np.eye(3), (1.0,), (0.0,), (weight,))
        for image, weight in zip(images, weights, strict=True)
    ]
    planes, _ = strips(lights, rejection="none", maps=("coverage", "variance", "weight"))
    assert np.unique(planes["coverage"][:, :20]).tolist() == [15] and np.unique(
        planes["coverage"][:, 20:]
    ).tolist() == [16]
    np.testing.assert_allclose(planes["weight"][:, 20:], weights.sum(), rtol=1e-6)
    # Variance of a weighted mean of noise of 10 DN; over 6300 pixels its mean is good to 1 %.
    expected = 100 * np.sum(weights**2) / weights.sum() ** 2
    assert planes["variance"][:, 20:].mean() == pytest.approx(expected, rel=0.03)


def test_a_surface_takes_the_place_of_the_offset():
    y, x = np.mgrid[0 : SHAPE[0], 0 : SHAPE[1]]
    flat = np.full(SHAPE, 500.0)
    slope = 400.0 + 2.0 * x - 1.0 * y
    nodes_y, nodes_x = np.mgrid[-32:160:32, -32:160:32].astype(np.float64)
    surface = 500.0 - (400.0 + 2.0 * nodes_x - 1.0 * nodes_y)
    lights = [
        Light(Pixels(flat), np.eye(3), (1.0,), (0.0,), (1.0,)),
        Light(Pixels(slope), np.eye(3), (1.0,), (77.0,), (1.0,), (surface,), 32),
    ]
    planes, _ = strips(lights, rejection="none")
    np.testing.assert_allclose(planes["image"], 500.0, rtol=1e-6)


def test_quality_compares_with_the_best_light_on_the_same_pixels():
    images = stars_free(16, seed=9)
    images[3] = 1000 + 0.5 * (images[3] - 1000)
    noise = [10.0] * 16
    noise[3] = 5.0
    weights = [1.0] * 16
    weights[3] = 4.0
    lights = [Light(Pixels(i), np.eye(3), (1.0,), (0.0,), (w / 4,)) for i, w in zip(images, weights, strict=True)]
    planes, _ = strips(lights, rejection="none")
    params = IntegrateParams(interpolation="nearest")
    found = integrate.quality(params, DebayerParams(), planes["image"], lights, noise, SHAPE, None)
    # Optimal weights: sigma = 1 / sqrt(15 / 100 + 1 / 25) = 2.29 DN; 6300 pixels tell a deviation to 1 %.
    assert found.best_noise == pytest.approx(5.0, rel=0.06)
    assert found.predicted_noise == pytest.approx(2.29 * found.best_noise / 5, rel=0.01)
    assert found.noise == pytest.approx(2.29, rel=0.06)
    assert found.numbers()["fwhm_px"] is None, "there are no stars"


SHARES = {"share": 0.10, "times": 2.0, "most": 0.40}


@pytest.mark.parametrize(
    ("rejection", "shares", "odd"),
    [
        # Winsorized takes 1 % of alike frames; one lost a tenth and more.
        ("winsorized", [0.01, 0.012, 0.011, 0.011, 0.011, 0.11], [5]),
        ("winsorized", [0.01, 0.012, 0.011, 0.011, 0.011, 0.09], []),
        # Percentile at a dark sky takes much of all of them, and of a light with a gradient still more.
        ("percentile", [0.14, 0.15, 0.13, 0.16, 0.15], []),
        ("percentile", [0.14, 0.15, 0.13, 0.31, 0.15], [3]),
        # Two of six are taken whatever they are.
        ("minmax", [0.33, 0.34, 0.33, 0.32, 0.34, 0.34], []),
        ("minmax", [0.31, 0.32, 0.31, 0.3, 0.32, 0.44], [5]),
        # When most of all is lost none of the lights can be the measure.
        ("winsorized", [0.3, 0.3, 0.35, 0.3, 0.5], [4]),
    ],
)
def test_a_light_that_loses_more_than_its_like_is_odd(rejection: str, shares: list[float], odd: list[int]):
    params = IntegrateParams(rejection=rejection, low=1.0, high=1.0)
    limit = integrate.plausible_share(params, shares, SHARES)
    assert [number for number, share in enumerate(shares) if share > limit] == odd


def test_the_limits_of_odd_lights_are_those_of_the_rules():
    from wbpy.rules import load_rules

    assert load_rules().findings["INT004"].limits == SHARES


def test_present_samples_are_counted_within_a_rectangle():
    plane = np.random.default_rng(6).normal(size=(9, 13)).astype(np.float32)
    plane[2, 3], plane[0, 0], plane[8, 12] = np.nan, np.inf, -np.inf
    assert rejection.present(plane, 0, 9, 0, 13) == 9 * 13 - 3
    assert rejection.present(plane, 1, 8, 2, 5) == 7 * 3 - 1
    assert rejection.present(plane, 4, 4, 0, 13) == 0
