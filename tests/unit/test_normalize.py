"""The normalize stage: what each method makes equal, on measurements and pixels with known levels."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from wbpy.kernels import local_normalization
from wbpy.stages import normalize
from wbpy.stages.measure import Measurement
from wbpy.stages.normalize import Normalization, NormalizeParams
from wbpy.stages.register import Transform

HERE = Transform(np.eye(3), 0.0, 50, "identity")
SHAPE = (192, 256)


def measured(background: float, dispersion: float, flux_scale: float, stars: int = 40) -> Measurement:
    rng = np.random.default_rng(1)
    x, y = rng.uniform(0, 256, stars), rng.uniform(0, 192, stars)
    flux = rng.uniform(5e4, 5e5, stars) * flux_scale
    return Measurement(
        x=x,
        y=y,
        flux=flux,
        usable=np.ones(stars, bool),
        count=stars,
        fwhm=3.0,
        eccentricity=0.3,
        background=(background,),
        noise=(10.0,),
        dispersion=(dispersion,),
    )


REFERENCE, FRAME = measured(1000.0, 12.0, 1.0), measured(1500.0, 16.0, 0.8)


def normalized(**params: Any) -> Normalization:
    return normalize.run(NormalizeParams(**params), 0, [REFERENCE, FRAME], [HERE, HERE])[1]


@pytest.mark.parametrize(
    ("params", "scale", "offset"),
    [
        ({"method": "none"}, 1.0, 0.0),
        ({"method": "additive"}, 1.0, 1000 - 1500),
        ({"method": "multiplicative"}, 1000 / 1500, 0.0),
        ({"method": "additive_scaling"}, 1.25, 1000 - 1.25 * 1500),
        ({"method": "additive_scaling", "scale": "dispersion"}, 12 / 16, 1000 - 0.75 * 1500),
        ({"method": "multiplicative_scaling"}, 1.25 * 1000 / 1500, 0.0),
    ],
)
def test_each_method_equalizes_what_its_name_says(params: dict[str, Any], scale: float, offset: float):
    result = normalized(**params)
    assert result.scale == pytest.approx((scale,), rel=1e-9)
    assert result.offset == pytest.approx((offset,), rel=1e-9, abs=1e-9)
    assert result.surfaces == ()


def test_the_reference_stays_as_it_is_under_every_method():
    for method in ("none", "additive", "multiplicative", "additive_scaling", "multiplicative_scaling"):
        first = normalize.run(NormalizeParams(method=method), 0, [REFERENCE, FRAME], [HERE, HERE])[0]
        assert (first.scale, first.offset) == ((1.0,), (0.0,)), method


def test_without_common_stars_the_spread_gives_the_scale():
    lonely = measured(1500.0, 16.0, 0.8, stars=2)
    result = normalize.run(NormalizeParams(method="additive_scaling"), 0, [REFERENCE, lonely], [HERE, HERE])[1]
    assert result.scale == (12 / 16,) and result.stars == 0


@pytest.mark.parametrize("statistic", ["bwmv", "average_deviation", "ikss"])
def test_other_statistics_of_spread_come_from_the_pixels(statistic: str):
    params = NormalizeParams(method="additive_scaling", scale=statistic)
    assert normalize.needs_pixels(params)
    rng = np.random.default_rng(2)
    sketches = []
    for sigma in (12.0, 20.0):
        image = rng.normal(1000, sigma, SHAPE).astype(np.float32)
        image[:8] += 20_000
        sketches.append(normalize.sketch(params, image, None, HERE, SHAPE))
        # Of n = 49152 normal samples the deviation is good to sigma / sqrt(2 n): 0.3 %; 4 % of stars widen it a little.
        assert sketches[-1].dispersion[0] == pytest.approx(sigma, rel=0.04)
    result = normalize.run(params, 0, [REFERENCE, FRAME], [HERE, HERE], sketches, SHAPE)[1]
    assert result.scale == pytest.approx((sketches[0].dispersion[0] / sketches[1].dispersion[0],))


def test_local_gives_a_surface_that_brings_a_gradient_to_that_of_the_reference():
    y, x = np.mgrid[0 : SHAPE[0], 0 : SHAPE[1]].astype(np.float64)
    params = NormalizeParams(local_cell=32)
    assert params.method == "local" and normalize.needs_pixels(params)
    target = 1000 + 0.2 * x
    frame = 1500 - 0.3 * y
    sketches = [normalize.sketch(params, image.astype(np.float32), None, HERE, SHAPE) for image in (target, frame)]
    first, result = normalize.run(params, 0, [REFERENCE, FRAME], [HERE, HERE], sketches, SHAPE)
    assert first.surfaces == () and first.scale == (1.0,)
    assert result.stars == 40 and result.failure == ""
    out = np.empty(SHAPE, np.float32)
    local_normalization.apply(
        frame.astype(np.float32), result.scale[0], result.surfaces[0], result.surface_step, 0, 0, out
    )
    np.testing.assert_allclose(out, target, atol=0.2)
    # A cell holds 6 DN of gradient; both gradients reach about 5 % across the frame.
    assert normalize.gradient(sketches[0].level) == pytest.approx(0.2 * 256 / 1025, rel=0.2)


def test_a_light_that_hardly_overlaps_is_normalized_globally_and_says_why():
    params = NormalizeParams(local_cell=32)
    flat = np.full(SHAPE, 1000.0, np.float32)
    far = Transform(np.array([[1.0, 0, 200], [0, 1, 0], [0, 0, 1]]), 0.1, 40, "similarity")
    sketches = [normalize.sketch(params, flat, None, transform, SHAPE) for transform in (HERE, far)]
    result = normalize.run(params, 0, [REFERENCE, FRAME], [HERE, far], sketches, SHAPE)[1]
    assert result.surfaces == () and "third of the cells" in result.failure
    assert result.offset == (1000 - result.scale[0] * 1500,)


@pytest.mark.parametrize("method", ["local", "adaptive"])
@pytest.mark.parametrize(("shift", "fits"), [(120, True), (200, False)])
def test_on_the_grid_of_a_mosaic_the_overlap_of_two_lights_counts(method: str, shift: int, fits: bool):
    params = NormalizeParams(method=method, local_cell=32, adaptive_cells=24)
    mosaic = (192, 768)
    y, x = np.mgrid[:192, :256].astype(np.float32)
    sky = np.random.default_rng(3).normal(0, 5, (192, 256)).astype(np.float32)
    there = Transform(np.array([[1.0, 0, -shift], [0, 1, 0], [0, 0, 1]]), 0.1, 40, "similarity")
    pixels = ((HERE, 1000 + sky), (there, 1500 + 0.1 * x + sky))
    sketches = [normalize.sketch(params, image, None, transform, mosaic) for transform, image in pixels]
    result = normalize.run(params, 0, [REFERENCE, FRAME], [HERE, there], sketches, mosaic)[1]
    # 136 of the frame's 256 columns lie on the reference, which is a sixth of the mosaic; or 56, less than a third.
    assert bool(result.surfaces or result.sided) == fits == (result.failure == "")


def test_a_light_of_a_small_sensor_within_the_reference_is_normalized_locally():
    params = NormalizeParams(method="local", local_cell=32)
    y, x = np.mgrid[:192, :256].astype(np.float32)
    sky = np.random.default_rng(3).normal(0, 5, (192, 256)).astype(np.float32)
    # A quarter of the reference: fewer than a third of its cells, but all of its own.
    there = Transform(np.array([[1.0, 0, -64], [0, 1, -48], [0, 0, 1]]), 0.1, 40, "similarity")
    part = (1500 + 0.1 * x + sky)[48:144, 64:192]
    sketches = [
        normalize.sketch(params, image, None, at, (192, 256)) for at, image in ((HERE, 1000 + sky), (there, part))
    ]
    result = normalize.run(params, 0, [REFERENCE, FRAME], [HERE, there], sketches, (192, 256))[1]
    assert result.failure == "" and len(result.surfaces) == 1


def test_the_gradient_of_a_flat_sky_is_nought():
    assert normalize.gradient(np.full((1, 4, 5), 100.0, np.float32)) == pytest.approx(0.0, abs=1e-12)
    assert normalize.gradient(np.full((1, 4, 5), np.nan, np.float32)) == 0.0


def star_field(count: int, seed: int) -> tuple[Measurement, Measurement]:
    """Return two measurements of the same stars, the second through air that passes 80 %, with 1 % of noise each."""
    rng = np.random.default_rng(seed)
    first = measured(1000.0, 12.0, 1.0, stars=count)
    fluxes = [first.flux * share * rng.normal(1, 0.01, count) for share in (1.0, 0.8)]
    return tuple(dataclasses.replace(first, flux=flux) for flux in fluxes)  # type: ignore[return-value]


def test_variable_stars_do_not_move_the_scale():
    first, second = star_field(60, 3)
    clean, stars = normalize.star_scale(first, HERE, second, HERE)
    assert clean == pytest.approx(1.25, rel=4 * 0.0141 / np.sqrt(60))
    assert stars > 50
    # Every sixth star is an eclipsing binary or a Cepheid: fainter by 0.05 to 1 magnitude.
    flux = second.flux.copy()
    flux[::6] *= 10 ** (-0.4 * np.linspace(0.05, 1.0, 10))
    found, left = normalize.star_scale(first, HERE, dataclasses.replace(second, flux=flux), HERE)
    # The one or two within 3.5 sigma (5 %) stay; ten left out cost less than a tenth of the others' mean error.
    assert found == pytest.approx(clean, rel=2.5e-3)
    assert stars - 10 <= left < stars - 6


def test_a_change_of_image_scale_is_no_change_of_transparency():
    """Resampling keeps surface brightness: a frame of twice the pixel area has twice the flux in a pixel."""
    first, second = star_field(60, 4)
    larger = Transform(np.diag([0.5, 0.5, 1.0]), 0.0, 60, "similarity")
    second = dataclasses.replace(second, x=0.5 * second.x, y=0.5 * second.y)
    # The area of a pixel of the frame is four of the reference: the same star has the flux of the reference's
    # pixels / 4 for the same brightness of the surface.
    assert normalize.star_scale(first, HERE, second, larger)[0] == pytest.approx(1.25 / 4, rel=0.01)


def lopsided(seed: int, level: float, below: float, above: float) -> np.ndarray:
    """A frame whose values spread by different deviations below and above their median."""
    z = np.random.default_rng(seed).normal(0, 1, SHAPE)
    return (level + np.where(z < 0, below, above) * z).astype(np.float32)


@pytest.mark.parametrize("statistic", ["dispersion", "bwmv", "average_deviation", "ikss"])
def test_two_sided_scales_bring_each_side_to_that_of_the_reference(statistic: str):
    params = NormalizeParams(method="additive_scaling", scale=statistic, two_sided=True)
    frames = [lopsided(1, 1000, 10, 15), lopsided(2, 1500, 20, 40)]
    sketches = [normalize.sketch(params, image, None, HERE, SHAPE) for image in frames]
    # 24,576 values a side: the deviation of one is good to 0.45 % (BWMV) to 0.8 % (MAD), a ratio to 1.1 %; 4 sigma.
    # Clipping at 2.7 deviations takes 5 % from them.
    assert sketches[1].sides[0] == pytest.approx((20, 40), rel=0.035 if statistic != "ikss" else 0.085)
    result = normalize.run(params, 0, [REFERENCE, FRAME], [HERE, HERE], sketches, SHAPE)[1]
    out = np.empty(SHAPE, np.float32)
    local_normalization.apply_sided(frames[1], result.sided[0], result.surface_step, 0, 0, out)
    low, high = (np.percentile(out, q) for q in (15.87, 84.13))
    assert np.median(out) == pytest.approx(1000, abs=0.3)
    assert (np.median(out) - low, high - np.median(out)) == pytest.approx((10, 15), rel=0.045)
    # One scale for both sides cannot do that: whatever it is, the sides keep their ratio of two.
    assert (high - np.median(out)) / (np.median(out) - low) == pytest.approx(1.5, rel=0.06)


def test_one_sided_statistics_have_one_scale_and_no_surfaces():
    params = NormalizeParams(method="additive_scaling", scale="bwmv")
    sketches = [normalize.sketch(params, lopsided(k, 1000, 10, 15), None, HERE, SHAPE) for k in (1, 2)]
    assert sketches[0].sides[0][0] == sketches[0].sides[0][1] == sketches[0].dispersion[0]
    assert normalize.run(params, 0, [REFERENCE, FRAME], [HERE, HERE], sketches, SHAPE)[1].sided == ()


def test_iterative_k_sigma_leaves_the_stars_and_nebulae_of_a_frame_out():
    values = np.random.default_rng(5).normal(1000, 12, 40_000).astype(np.float32)
    bright = values.copy()
    bright[:6000] += np.random.default_rng(6).exponential(300, 6000).astype(np.float32)
    params = NormalizeParams(method="additive_scaling", scale="ikss")
    location, low, high = normalize.spread(params, bright)
    assert low == high
    # A frame with 15 % of pixels in a nebula: its median is off by 2.2 DN (a sixth of sigma), its MAD by 18 %.
    plain = normalize.spread(NormalizeParams(method="additive_scaling", scale="dispersion"), bright)
    assert abs(location - 1000) < 0.75 * abs(plain[0] - 1000)
    assert low == pytest.approx(12, rel=0.09)
    assert plain[1] > 12 * 1.12
    kept, middle, mad = normalize.clipped(bright)
    assert np.abs(kept - middle).max() <= 4.5 * mad


@pytest.mark.parametrize("scale", ["stars", "bwmv"])
def test_adaptive_brings_level_and_spread_of_every_part_to_those_of_the_reference(scale: str):
    y, x = np.mgrid[0 : SHAPE[0], 0 : SHAPE[1]].astype(np.float64)
    rng = np.random.default_rng(7)
    params = NormalizeParams(method="adaptive", scale=scale, adaptive_cells=8)
    assert normalize.needs_pixels(params)
    # A cloud dims the right side to 60 %: the noise there is 60 % too, as that of a scene full of faint stars.
    veil = 1 - 0.4 * x / SHAPE[1]
    target = 1000 + 0.1 * x + rng.normal(0, 20, SHAPE)
    frame = 900 - 0.1 * y + veil * rng.normal(0, 20, SHAPE)
    images = [target.astype(np.float32), frame.astype(np.float32)]
    sketches = [normalize.sketch(params, image, None, HERE, SHAPE) for image in images]
    first, result = normalize.run(params, 0, [REFERENCE, FRAME], [HERE, HERE], sketches, SHAPE)
    assert first.sided == () and result.failure == ""
    out = np.empty(SHAPE, np.float32)
    local_normalization.apply_sided(images[1], result.sided[0], result.surface_step, 0, 0, out)
    for part in (np.s_[:96, :64], np.s_[96:, :64], np.s_[:96, 192:], np.s_[96:, 192:]):
        # 6144 pixels of 20 DN: 0.26 DN for a mean, of two frames and through surfaces; 1 % for a deviation.
        assert np.mean(out[part]) == pytest.approx(np.mean(target[part]), abs=2.0)
        ratio = np.std(out[part] - 0.1 * x[part]) / 20
        veiled = np.mean(veil[part]) * 1.25
        assert ratio == pytest.approx(1.0 if scale == "bwmv" else veiled, rel=0.06)


def test_an_adaptive_normalization_without_enough_overlap_falls_back_and_says_why():
    params = NormalizeParams(method="adaptive", scale="bwmv", adaptive_cells=8)
    flat = np.random.default_rng(8).normal(1000, 10, SHAPE).astype(np.float32)
    far = Transform(np.array([[1.0, 0, 200], [0, 1, 0], [0, 0, 1]]), 0.1, 40, "similarity")
    sketches = [normalize.sketch(params, flat, None, transform, SHAPE) for transform in (HERE, far)]
    result = normalize.run(params, 0, [REFERENCE, FRAME], [HERE, far], sketches, SHAPE)[1]
    assert result.sided == () and "third of the cells" in result.failure
    assert result.scale == pytest.approx((sketches[0].dispersion[0] / sketches[1].dispersion[0],))


@pytest.mark.parametrize(
    ("rejection", "judged"),
    [
        ("output", ()),
        ("none", ((1.0, 0.0),)),
        ("equalize", ((1000 / 1500, 0.0),)),
        ("additive_scaling", ((1.25, 1000 - 1.25 * 1500),)),
    ],
)
def test_the_rejection_can_be_normalized_apart_from_the_result(rejection: str, judged: tuple[Any, ...]):
    result = normalized(method="additive", rejection=rejection)
    assert result.scale == (1.0,) and result.offset == (-500.0,)
    assert len(result.judged) == len(judged)
    for found, expected in zip(result.judged, judged, strict=True):
        assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("frames", "params", "count"),
    [
        (2, {}, 0),
        (3, {}, 3),
        (8, {}, 3),
        (30, {}, 10),
        (90, {}, 20),
        (30, {"local_reference_frames": 7}, 7),
        (30, {"local_reference": "frame"}, 0),
        (30, {"method": "additive_scaling"}, 0),
    ],
)
def test_a_third_of_the_frames_are_the_best(frames: int, params: dict[str, Any], count: int):
    scores = np.random.default_rng(frames).permutation(frames).astype(float)
    best = normalize.best_frames(NormalizeParams(**params), scores.tolist(), 1)
    assert len(best) == count
    if count:
        assert 1 in best
        left = [scores[i] for i in range(frames) if i not in best]
        assert min(scores[i] for i in best if i != 1) >= max(left, default=0.0)


def test_the_background_of_the_best_frames_is_the_median_of_theirs_at_the_reference_s_level():
    y, x = np.mgrid[0 : SHAPE[0], 0 : SHAPE[1]].astype(np.float64)
    params = NormalizeParams(local_cell=32)
    slopes = [(0.4, 0.0), (-0.4, 0.1), (0.0, -0.1), (0.0, 0.0)]
    images = [(1000 + a * (x - 127.5) + b * (y - 95.5)).astype(np.float32) for a, b in slopes]
    images[2][:32, :32] += 5000
    measurements = [measured(1000.0, 12.0, 1.0)] * 4
    sketches = [normalize.sketch(params, image, None, HERE, SHAPE) for image in images]
    results = normalize.run(params, 0, measurements, [HERE] * 4, sketches, SHAPE, [0, 1, 2])
    level = normalize.target_level(0, results, sketches, [0, 1, 2])
    # The median of slopes 0.4, -0.4 and 0 along x is flat but for the small slopes along y; of the lamp of one frame
    # the cell keeps the brighter of the other two.
    assert np.abs(level - 1000)[0].ravel()[1:].max() < 12 and abs(level[0, 0, 0] - 1000) < 0.4 * 127.5
    assert normalize.gradient(level) < 0.03 < 0.08 < normalize.gradient(sketches[0].level)
    normalized_frames = []
    for image, result in zip(images, results, strict=True):
        out = np.empty(SHAPE, np.float32)
        local_normalization.apply(image, result.scale[0], result.surfaces[0], result.surface_step, 0, 0, out)
        normalized_frames.append(out[64:, 64:])
    # All four, the reference too, have the same background within the slope in a cell of 32 px.
    assert np.ptp(normalized_frames, axis=0).max() < 2.0
