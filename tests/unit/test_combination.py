"""How the integration combines, what it compares, and how it spares stars of changing seeing."""

from typing import Any

import numpy as np
import pytest

from wbpy.stages import integrate
from wbpy.stages.base import Work
from wbpy.stages.debayer import DebayerParams
from wbpy.stages.integrate import Counts, IntegrateParams, Light

SHAPE = (140, 150)


class Pixels:
    """A calibrated frame in memory, read by rectangle."""

    def __init__(self, image: np.ndarray) -> None:
        self.image, self.shape = image.astype(np.float32), image.shape

    def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        return np.ascontiguousarray(self.image[y0:y1, x0:x1])


def light(image: np.ndarray, weight: float = 1.0, scale: float = 1.0, offset: float = 0.0, **more: Any) -> Light:
    return Light(Pixels(image), np.eye(3), (scale,), (offset,), (weight,), **more)


def integrated(lights: list[Light], memory: int = 1 << 28, **params: Any) -> tuple[dict[str, np.ndarray], Counts]:
    work = Work(map=map, workers=1, memory=memory, report=lambda *_: None)
    counts = Counts(*(np.zeros(len(lights), np.int64) for _ in range(3)))
    params = {"interpolation": "nearest", "rejection": "winsorized"} | params
    made = list(integrate.run(IntegrateParams(**params), DebayerParams(), work, lights, SHAPE, None, counts))
    planes = {name: np.concatenate([getattr(strip, name)[0] for strip in made]) for name in ("image", "low", "high")}
    return planes | {name: np.concatenate([strip.maps[name][0] for strip in made]) for name in made[0].maps}, counts


def frames(count: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(1000, 10, SHAPE).astype(np.float32) for _ in range(count)]


@pytest.mark.parametrize(("combination", "peer"), [("median", np.median), ("min", np.min), ("max", np.max)])
def test_the_samples_that_rejection_leaves_are_combined_as_asked(combination: str, peer: Any):
    images = frames(9, 1)
    images[3][40:50] += 4000
    images[5][60, 60] = 0
    planes, counts = integrated([light(image) for image in images], rejection="mad", combination=combination)
    plain, same = integrated([light(image) for image in images], rejection="mad")
    kept = np.stack(images)
    kept[3, 40:50] = np.nan
    whole = np.round(9 * (planes["low"] + planes["high"])) == np.isnan(kept).sum(axis=0)
    expected = {np.median: np.nanmedian, np.min: np.nanmin, np.max: np.nanmax}[peer](kept, axis=0)
    assert whole.mean() > 0.6 and whole[40:50].any()
    np.testing.assert_array_equal(planes["image"][whole], expected.astype(np.float32)[whole])
    np.testing.assert_array_equal(planes["high"], plain["high"])
    assert counts.high.tolist() == same.high.tolist()


def test_without_rejection_the_result_is_the_weighted_mean_to_one_ulp():
    images = frames(11, 30)
    images[2][50:60, 20:90] = np.nan
    weights = np.random.default_rng(31).uniform(0.1, 1, 11)
    lights = [
        light(image, weight, fwhm=width, noise=(10.0,))
        for image, weight, width in zip(images, weights, np.linspace(2, 4, 11), strict=True)
    ]
    image = integrated(lights, rejection="none")[0]["image"]
    stack = np.ma.masked_invalid(np.array(images, np.float64))
    expected = np.ma.average(stack, axis=0, weights=weights).filled(np.nan)
    np.testing.assert_array_max_ulp(image, expected.astype(np.float32), maxulp=1)


def test_rejection_may_compare_other_values_than_those_that_are_averaged():
    images = [image + level for image, level in zip(frames(12, 2), np.linspace(0, 500, 12), strict=True)]
    images[4] = images[4].copy()
    images[4][20:30] += 300
    alike = [light(image) for image in images]
    apart = [
        light(image, judged=((1.0, -float(level)),))
        for image, level in zip(images, np.linspace(0, 500, 12), strict=True)
    ]
    blind, _ = integrated(alike, low=4.0, high=3.0)
    seeing, counts = integrated(apart, low=4.0, high=3.0)
    # Among levels from 0 to 500 DN a trail of 300 does not stand out; among equal ones it is 30 sigma.
    assert blind["high"][20:30].mean() < 0.01
    assert seeing["high"][20:30].mean() > 0.99 / 12
    rest = np.mean([image for n, image in enumerate(images) if n != 4], axis=0, dtype=np.float64)[20:30]
    # What is averaged keeps the levels; a few samples more fall to the tails of the noise.
    assert np.median(np.abs(seeing["image"][20:30] - rest)) < 1e-3
    assert counts.high[4] >= 10 * SHAPE[1]
    grown, _ = integrated(apart, low=4.0, high=3.0, large_scale_high=True)
    assert grown["high"][20:30].min() >= np.float32(1 / 12)
    tiled, _ = integrated(apart, memory=1, low=4.0, high=3.0, large_scale_high=True)
    np.testing.assert_array_equal(tiled["image"], grown["image"])


def test_a_sided_normalization_reaches_the_pixels():
    image = frames(1, 3)[0]
    values = np.array([1000.0, 500.0, 0.5, 2.0])
    nodes = np.ascontiguousarray(np.broadcast_to(values[:, None, None], (4, 4, 4)))
    one = light(image, scale=9.0, offset=9.0, sided=(nodes,), surface_step=max(SHAPE))
    planes, _ = integrated([one, one], rejection="none")
    expected = (image - 1000.0) * np.where(image < 1000, 0.5, 2.0) + 500
    np.testing.assert_allclose(planes["image"], expected, rtol=1e-5)


def star(fwhm: float, flux: float) -> np.ndarray:
    """A Moffat profile of beta 4 in the middle."""
    y, x = np.indices(SHAPE)
    level = 4 * (2**0.25 - 1) / fwhm**2
    return flux * 3 * level / np.pi * (1 + level * ((x - 75.3) ** 2 + (y - 69.6) ** 2)) ** -4.0


def night(widths: np.ndarray, seed: int) -> tuple[list[Light], np.ndarray]:
    """Return frames of a star of 30,000 DN in changing seeing, sky of 200 e- and 1 e-/DN, and their plain mean."""
    rng = np.random.default_rng(seed)
    images = [rng.poisson(200 + star(width, 6e5)) + rng.normal(0, 5, SHAPE) for width in widths]
    known = [
        light(image, fwhm=width, noise=(15.0,), background=(200.0,), e_per_dn=1.0)
        for image, width in zip(images, widths, strict=True)
    ]
    return known, np.mean(images, axis=0)


def flux(image: np.ndarray) -> float:
    y, x = np.indices(SHAPE)
    return float(np.sum((image - np.median(image))[np.hypot(x - 75.3, y - 69.6) < 14]))


@pytest.mark.parametrize(
    ("rejection", "limits", "widths"),
    [
        ("percentile", (0.2, 0.1), np.linspace(2.5, 4.0, 5)),
        ("winsorized", (4.0, 3.0), np.linspace(2.2, 5.0, 20)),
        ("rcr", (0.1, 0.1), np.linspace(2.2, 5.0, 20)),
    ],
)
def test_changing_seeing_takes_nothing_from_a_star(rejection: str, limits: tuple[float, float], widths: np.ndarray):
    lights, plain = night(widths, 4)
    params = {"rejection": rejection, "low": limits[0], "high": limits[1]}
    spared, _ = integrated(lights, **params)
    eaten, _ = integrated(lights, seeing_tolerance=0.0, **params)
    # 700,000 electrons in n frames: 0.05 to 0.03 %.
    assert abs(flux(spared["image"]) / flux(plain) - 1) < 0.005
    assert abs(flux(eaten["image"]) / flux(plain) - 1) > 0.005
    # Away from the star nothing differs, but for a few pixels among five frames.
    assert np.mean(spared["image"][:40] != eaten["image"][:40]) < 1e-3


def test_a_satellite_beside_a_star_of_changing_seeing_still_goes():
    lights, plain = night(np.linspace(2.4, 4.0, 12), 5)
    trail = np.zeros(SHAPE)
    trail[20:23] = 900.0
    lights[5] = Light(**{**vars(lights[5]), "window": Pixels(lights[5].window.image + trail.astype(np.float32))})
    planes, _ = integrated(lights, low=4.0, high=3.0)
    # One of twelve samples less, and here and there the tail of the noise (50 DN in one of twelve), from 75 that were.
    assert np.abs(planes["image"][20:23] - plain[20:23]).max() < 5 * 15 / 12 + 2 * 50 / 12
    assert abs(np.mean(planes["image"][20:23] - plain[20:23])) < 1


def test_sparing_stars_does_not_depend_on_the_tiles():
    lights, _ = night(np.linspace(2.2, 4.5, 8), 6)
    lights = [Light(**{**vars(one), "judged": ((1.0, 0.0),)}) for one in lights]
    for params in ({}, {"large_scale_high": True}):
        whole, counts = integrated(lights, **params)
        tiled, tile_counts = integrated(lights, memory=1, **params)
        for name, plane in whole.items():
            np.testing.assert_array_equal(tiled[name], plane)
        assert tile_counts.high.tolist() == counts.high.tolist()
        assert tile_counts.offered.tolist() == counts.offered.tolist()


def test_steady_seeing_or_unknown_noise_leave_the_limits_alone():
    lights, _ = night(np.full(8, 3.0), 7)
    steady, _ = integrated(lights)
    off, _ = integrated(lights, seeing_tolerance=0.0)
    np.testing.assert_array_equal(steady["image"], off["image"])
    lights, _ = night(np.linspace(2.2, 4.5, 8), 7)
    unknown = [Light(**{**vars(one), "noise": ()}) for one in lights]
    off, _ = integrated(lights, seeing_tolerance=0.0)
    np.testing.assert_array_equal(integrated(unknown)[0]["image"], off["image"])


def test_the_expected_variance_is_a_map_of_its_own():
    lights, _ = night(np.full(16, 3.0), 8)
    scaled = [Light(**{**vars(one), "scale": (2.0,), "offset": (-100.0,)}) for one in lights]
    planes, _ = integrated(scaled, rejection="none", maps=("variance", "variance_expected"))
    # Sky of 200 e- and 5 e- of read noise are 15 DN, twice that scaled, a fourth of it in the mean of 16.
    assert np.median(planes["variance_expected"]) == pytest.approx((2 * 15 / 4) ** 2, rel=0.02)
    core = star(3.0, 6e5) > 5000
    expected = 4 * (star(3.0, 6e5) + 225) / 16
    # The mean takes the place of the truth: 0.4 % of 5000 and more electrons in 16 frames.
    np.testing.assert_allclose(planes["variance_expected"][core], expected[core], rtol=0.03)
    # Scatter of 16 samples: each variance is good to sqrt(2 / 15), the mean of the core's pixels to that over the root.
    ratio = planes["variance"][core] / expected[core]
    assert ratio.mean() == pytest.approx(1, abs=4 * np.sqrt(2 / 15 / core.sum()))
    unknown = [Light(**{**vars(one), "noise": ()}) for one in lights]
    assert np.isnan(integrated(unknown, maps=("variance_expected",))[0]["variance_expected"]).all()


def regions_of(images: list[np.ndarray], memory: int = 1 << 28) -> tuple[float, float, float, float] | None:
    work = Work(map=map, workers=1, memory=memory, report=lambda *_: None)
    lights = [light(image) for image in images]
    counts = Counts(*(np.zeros(len(lights), np.int64) for _ in range(3)))
    params = IntegrateParams(interpolation="nearest", rejection="winsorized")
    shape = images[0].shape
    regions = integrate.Regions(shape)
    for strip in integrate.run(params, DebayerParams(), work, lights, shape, None, counts):
        regions.add(strip)
    return regions.odd(len(lights), 0.8)


def wide_frames(seed: int) -> list[np.ndarray]:
    return [np.random.default_rng(seed + n).normal(1000, 10, (320, 400)).astype(np.float32) for n in range(8)]


def test_a_region_that_one_light_does_not_fit_is_found_with_its_place_and_size():
    images = wide_frames(20)
    images[2][64:256, 192:384] += 300
    found = regions_of(images)
    assert found is not None
    x, y, part, share = found
    assert (x, y) == pytest.approx((287.5, 159.5), abs=0.1)
    assert part == pytest.approx(192 * 192 / (320 * 400), rel=0.02)
    # One of eight lights and the tails of the noise.
    assert share == pytest.approx(1 / 8, abs=0.02)
    assert regions_of(images, memory=1) == pytest.approx(found, rel=1e-9)


def test_trails_noise_and_single_bright_cells_are_no_odd_region():
    images = wide_frames(40)
    y, x = np.indices((320, 400))
    images[1] += np.where(np.abs(y - 0.5 * x - 20) < 20, 500, 0).astype(np.float32)
    images[3] += np.where(np.abs(y + 0.3 * x - 250) < 20, 500, 0).astype(np.float32)
    images[5][128:192, 64:128] += 500
    images[6][:, :30] = np.nan
    assert regions_of(images) is None
    assert regions_of([image[:60, :60] for image in images]) is None
