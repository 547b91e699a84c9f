"""The register stage on star lists whose geometry is known."""

import dataclasses

import numpy as np
import pytest

from wbpy.stages import register
from wbpy.stages.measure import Measurement
from wbpy.stages.register import Failure, RegisterParams, Transform

WIDTH, HEIGHT = 900, 700
SHAPE = (HEIGHT, WIDTH)
RGGB = np.array([[0, 1], [1, 2]], np.uint8)


def bent(points, amount):
    away = (points - [WIDTH / 2, HEIGHT / 2]) / 570
    return points + amount * away * (away**2).sum(axis=1, keepdims=True)


def sky(n=300, seed=1):
    return np.random.default_rng(seed).uniform(0, 1, (n, 2)) * [WIDTH, HEIGHT]


def measured(points, seed=2, noise=0.03, usable=None):
    n = len(points)
    rng = np.random.default_rng(seed)
    at = points + rng.normal(0, noise, (n, 2))
    return Measurement(
        x=at[:, 0],
        y=at[:, 1],
        flux=np.linspace(4e5, 4e4, n),
        usable=np.ones(n, bool) if usable is None else usable,
        count=n,
        fwhm=3.0,
        eccentricity=0.3,
        background=(1000.0,),
        noise=(10.0,),
        dispersion=(12.0,),
    )


def test_a_frame_against_itself_is_the_identity():
    frame = measured(sky())
    found = register.run(RegisterParams(), frame, frame, SHAPE)
    assert isinstance(found, Transform) and found.model == "identity"
    np.testing.assert_array_equal(found.matrix, np.eye(3))
    assert found.displacement.size == 0 and found.distortion_px == 0.0


def test_points_follow_the_transform_with_its_displacement_and_back():
    at = sky()
    found = register.run(RegisterParams(), measured(at), measured(bent(at, 6.0) + [20, -10], seed=3), SHAPE)
    assert isinstance(found, Transform)
    assert found.distortion.startswith("polynomial") and found.displacement.shape[0] == 1
    points = sky(50, seed=9)
    # 300 stars of 0.03 px in both lists and ten terms: 0.042 sqrt(10 / 300) = 0.008 px an axis, more in the corners.
    np.testing.assert_allclose(found.apply(points), bent(points, 6.0) + [20, -10], atol=0.1)
    np.testing.assert_allclose(found.invert(found.apply(points, 1)), points, atol=1e-4)
    assert 0.5 < found.distortion_px < 7.0
    assert found.rms < found.heldout_rms < 0.08


def test_distortion_that_is_switched_off_is_told_of():
    at = sky()
    params = RegisterParams(distortion="off")
    found = register.run(params, measured(at), measured(bent(at, 6.0), seed=3), SHAPE)
    assert isinstance(found, Transform) and found.distortion == "none" and found.displacement.size == 0
    assert found.better_rms < 0.3 * found.heldout_rms
    plain = register.run(params, measured(at), measured(at, seed=3), SHAPE)
    assert isinstance(plain, Transform) and np.isnan(plain.better_rms)


def test_residuals_are_told_by_cell():
    at = sky(600)
    moved = at + np.where((at[:, :1] > 600) & (at[:, 1:] > 467), 0.4, 0.0) * [1.0, -1.0]
    params = RegisterParams(distortion="off", model="similarity")
    found = register.run(params, measured(at), measured(moved, seed=3), SHAPE)
    assert isinstance(found, Transform)
    dx, dy = found.residual_map[8]
    # A ninth of the stars pulls the transform along a little.
    assert dx == pytest.approx(0.35, abs=0.12) and dy == pytest.approx(-0.35, abs=0.12)
    assert np.hypot(*found.residual_map[0]) < 0.1
    few = register.run(params, measured(at[:12]), measured(at[:12], seed=3), SHAPE)
    assert isinstance(few, Transform) and np.isnan(few.residual_map).any()


def test_too_few_stars_and_no_pattern_are_reasons():
    few = register.run(RegisterParams(), measured(sky(4)), measured(sky()), SHAPE)
    assert few == Failure("5 stars are needed in each list, there are 4 and 300")
    other = register.run(RegisterParams(), measured(sky()), measured(sky(seed=77)), SHAPE)
    assert other == Failure("no transform brings more stars together than chance would")


def test_cosmic_rays_and_saturated_stars_are_not_matched():
    at = sky()
    usable = np.arange(300) % 2 == 0
    there = at.copy()
    there[~usable] += np.random.default_rng(4).uniform(-300, 300, (150, 2))
    found = register.run(RegisterParams(), measured(at), measured(there, seed=3, usable=usable), SHAPE)
    assert isinstance(found, Transform) and found.stars == 150


@dataclasses.dataclass
class Pixels:
    image: np.ndarray

    @property
    def shape(self):
        return self.image.shape

    def read(self, y0, y1, x0, x1):
        return self.image[y0:y1, x0:x1].copy()


def raw(at, growth, noise=10.0):
    """A frame with an RGGB pattern whose colours are magnified by `growth` about the middle."""
    planes = []
    middle = np.array([WIDTH / 2, HEIGHT / 2])
    s = 3.0 / 2.3548
    for factor in growth:
        plane = np.full((HEIGHT, WIDTH), 1000.0)
        for x, y in middle + (at - middle) * factor:
            x0, y0 = max(0, round(x) - 8), max(0, round(y) - 8)
            xs, ys = np.arange(x0, min(WIDTH, x0 + 17)), np.arange(y0, min(HEIGHT, y0 + 17))
            plane[y0 : y0 + 17, x0 : x0 + 17] += 6000 * np.outer(
                np.exp(-((ys - y) ** 2) / (2 * s * s)), np.exp(-((xs - x) ** 2) / (2 * s * s))
            )
        planes.append(plane)
    image = planes[1]
    image[0::2, 0::2], image[1::2, 1::2] = planes[0][0::2, 0::2], planes[2][1::2, 1::2]
    return Pixels((image + np.random.default_rng(5).normal(0, noise, image.shape)).astype(np.float32))


def spaced():
    x, y = np.meshgrid(np.arange(25, WIDTH - 20, 50.0), np.arange(25, HEIGHT - 20, 50.0))
    return np.column_stack([x.ravel(), y.ravel()]) + np.random.default_rng(6).uniform(-8, 8, (x.size, 2))


HERE = Transform(np.eye(3), 0.1, 100, "similarity")


def test_lateral_colour_is_measured_and_laid_on_green():
    at = spaced()
    window = raw(at, (1.001, 1.0, 0.9993))
    found = register.correct_colour(RegisterParams(), HERE, measured(at), window, RGGB, SHAPE)
    assert found.displacement.shape[0] == 3
    points = sky(60, seed=8)
    away = points - [WIDTH / 2, HEIGHT / 2]
    # 230 stars good to 0.02 px or so, three terms: a few thousandths, ten times that allowed.
    np.testing.assert_allclose(found.apply(points, 0), points + 0.001 * away, atol=0.03)
    np.testing.assert_allclose(found.apply(points, 1), points, atol=1e-9)
    np.testing.assert_allclose(found.apply(points, 2), points - 0.0007 * away, atol=0.03)
    # The corners lie 570 px from the middle.
    assert found.colour_shift == pytest.approx((0.57, 0.40), abs=0.04)


def test_lateral_colour_adds_to_a_distortion():
    at = spaced()
    nodes = np.full((1, 8, 10, 2), (2.0, -1.0))
    moved = dataclasses.replace(HERE, displacement=nodes, displacement_step=100)
    window = raw(at, (1.001, 1.0, 1.0))
    found = register.correct_colour(RegisterParams(), moved, measured(at), window, RGGB, SHAPE)
    points = sky(60, seed=8)
    there = points + [2.0, -1.0]
    np.testing.assert_allclose(found.apply(points, 1), there, atol=1e-9)
    np.testing.assert_allclose(found.apply(points, 0), there + 0.001 * (there - [WIDTH / 2, HEIGHT / 2]), atol=0.03)


@pytest.mark.parametrize("growth", [(1.0, 1.0, 1.0), (1.00004, 1.0, 1.0)])
def test_no_lateral_colour_or_too_little_of_it_changes_nothing(growth):
    at = spaced()
    found = register.correct_colour(RegisterParams(), HERE, measured(at), raw(at, growth), RGGB, SHAPE)
    assert found is HERE


def test_lateral_colour_can_be_forced():
    at = spaced()
    params = RegisterParams(lateral_colour="on")
    found = register.correct_colour(params, HERE, measured(at), raw(at, (1.0, 1.0, 1.0)), RGGB, SHAPE)
    assert found.displacement.shape[0] == 3 and max(found.colour_shift) < 0.05


def test_without_stars_there_is_no_lateral_colour():
    at = spaced()[:6]
    found = register.correct_colour(RegisterParams(), HERE, measured(at), raw(at, (1.01, 1.0, 1.0)), RGGB, SHAPE)
    assert found is HERE
