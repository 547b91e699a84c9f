"""The normalize stage: what each method makes equal, on measurements and pixels with known levels."""

from typing import Any

import numpy as np
import pytest

from wbpy.kernels import local_normalization
from wbpy.stages import normalize
from wbpy.stages.measure import Measurement
from wbpy.stages.normalize import Normalization, NormalizeParams, Sketch
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


@pytest.mark.parametrize("statistic", ["bwmv", "average_deviation"])
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
    assert normalize.gradient(sketches[0]) == pytest.approx(0.2 * 256 / 1025, rel=0.2)


def test_a_light_that_hardly_overlaps_is_normalized_globally_and_says_why():
    params = NormalizeParams(local_cell=32)
    flat = np.full(SHAPE, 1000.0, np.float32)
    far = Transform(np.array([[1.0, 0, 200], [0, 1, 0], [0, 0, 1]]), 0.1, 40, "similarity")
    sketches = [normalize.sketch(params, flat, None, transform, SHAPE) for transform in (HERE, far)]
    result = normalize.run(params, 0, [REFERENCE, FRAME], [HERE, far], sketches, SHAPE)[1]
    assert result.surfaces == () and "third of the cells" in result.failure
    assert result.offset == (1000 - result.scale[0] * 1500,)


def test_the_gradient_of_a_flat_sky_is_nought():
    assert normalize.gradient(Sketch((), np.full((1, 4, 5), 100.0, np.float32))) == pytest.approx(0.0, abs=1e-12)
    assert normalize.gradient(Sketch((), np.full((1, 4, 5), np.nan, np.float32))) == 0.0
