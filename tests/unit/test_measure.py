"""Measuring a light: which detections count as stars, and how sharpness changes across the field."""

import math

import numpy as np
import pytest
from scipy.spatial import cKDTree

from wbpy.kernels import stars
from wbpy.simulate import Psf, make_scene, render
from wbpy.simulate.sensor import draw_cosmic_rays
from wbpy.stages import measure
from wbpy.stages.measure import Measurement, MeasureParams, field_map, field_shape, profile_distances

SIZE, EXPOSURE, READ_NOISE = 480, 60.0, 3.0


def exposed(seed: int, n_stars: int, nebula: float = 0.0, rays: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a frame in e-, and positions and fluxes of its stars."""
    scene = make_scene(seed, SIZE, SIZE, n_stars, nebula_e_per_s=nebula, cluster_fraction=0.0)
    rng = np.random.default_rng(seed + 100)
    ideal = render(scene, np.eye(3), Psf(3.0), SIZE, SIZE, "L") * EXPOSURE
    image = rng.poisson(ideal) + rng.normal(0.0, READ_NOISE, ideal.shape)
    if rays:
        image += draw_cosmic_rays(rng, image.shape, rays)
    inside = (np.abs(scene.x - SIZE / 2) < SIZE / 2 - 6) & (np.abs(scene.y - SIZE / 2) < SIZE / 2 - 6)
    at = np.column_stack([scene.x, scene.y])[inside]
    return image.astype(np.float32), at, scene.flux["L"][inside] * EXPOSURE


def false_ones(m: Measurement, truth: np.ndarray) -> tuple[int, int]:
    """Return how many of all stars and of the usable ones stand where none is."""
    wrong = cKDTree(truth).query(np.column_stack([m.x, m.y]))[0] > 2.0
    return int(wrong.sum()), int((wrong & m.usable).sum())


def test_no_filament_of_a_nebula_is_a_usable_star():
    image, truth, flux = exposed(1, 100, nebula=20.0)
    m = measure.run(MeasureParams(), image, None)
    total, usable = false_ones(m, truth)
    assert usable == 0 and total <= 0.5 * m.count
    assert m.usable.sum() >= 12
    assert m.fwhm == pytest.approx(3.0, rel=0.05)
    # The ten brightest stars, far above the noise of the nebula too, are there.
    bright = truth[np.argsort(-flux)[:10]]
    assert (cKDTree(np.column_stack([m.x, m.y])).query(bright)[0] < 1.0).sum() >= 9


def test_cosmic_rays_are_neither_usable_nor_among_the_brightest():
    image, truth, _ = exposed(2, 150, rays=150)
    m = measure.run(MeasureParams(), image, None)
    total, usable = false_ones(m, truth)
    # One in twelve may pass: short ones, and those that cross each other.
    assert usable == 0 and total <= 150 / 12
    clean = measure.run(MeasureParams(), exposed(2, 150)[0], None)
    # Medians of some 60 noisy eccentricities: 0.15 x 1.25 / sqrt(60).
    assert m.eccentricity == pytest.approx(clean.eccentricity, abs=0.05)


@pytest.mark.parametrize("count", [20, 4000])
def test_few_stars_and_a_crowd_are_measured(count: int):
    image, truth, flux = exposed(3, count)
    m = measure.run(MeasureParams(), image, None)
    # In a crowd of one star in 58 px^2, two in one may stand a little off both.
    assert false_ones(m, truth)[1] <= 0.015 * m.usable.sum()
    # Five sigma in an aperture of 28 px^2 of sky noise sqrt(180 + 9) e-: 360 e-.
    visible = int((flux > 2 * 5 * math.sqrt(28 * 189)).sum())
    assert m.usable.sum() >= (0.8 * visible if count == 20 else 200)
    # Pixels widen stars of 3 px to 3.08 px.
    assert m.fwhm == pytest.approx(3.08, rel=0.03)


# --------------------------------------------------------------------------------------------------------------------
# profiles


def profiles(width: np.ndarray, ratio: np.ndarray, theta: np.ndarray) -> np.recarray:
    fits = np.zeros(len(width), stars.FIT)
    fits["fwhm_major"], fits["fwhm_minor"], fits["theta"] = width / np.sqrt(ratio), width * np.sqrt(ratio), theta
    return fits.view(np.recarray)


def typical_profiles(fits: np.recarray) -> np.ndarray:
    distance, limit = profile_distances(fits)
    return distance <= limit


def drawn(rng: np.random.Generator, good: int, bad: int, ratio: float, theta: float) -> np.recarray:
    return profiles(
        np.concatenate([rng.normal(3.0, 0.1, good), rng.uniform(1.0, 12.0, bad)]),
        np.concatenate([np.minimum(rng.normal(ratio, 0.03, good), 1.0), rng.uniform(0.1, 1.0, bad)]),
        np.concatenate([rng.normal(theta, 0.1, good), rng.uniform(-1.5, 1.5, bad)]),
    )


@pytest.mark.parametrize(("ratio", "theta"), [(0.9, 0.3), (0.35, 1.5)])
def test_strange_profiles_are_left_out_even_when_they_are_the_majority_and_the_stars_trailed(
    ratio: float, theta: float
):
    kept = typical_profiles(drawn(np.random.default_rng(1), 60, 120, ratio, theta))
    assert kept[:60].mean() > 0.95
    assert kept[60:].mean() < 0.25


def test_aberrations_towards_the_corners_are_no_reason_to_go():
    rng = np.random.default_rng(2)
    radius = np.sqrt(rng.random(400))
    fits = profiles(3.0 * (1 + 0.3 * radius**2), 1 - 0.25 * radius**2, rng.uniform(-math.pi / 2, math.pi / 2, 400))
    assert typical_profiles(fits).mean() > 0.97


def test_of_very_few_profiles_none_is_called_strange():
    assert typical_profiles(drawn(np.random.default_rng(3), 2, 3, 0.9, 0.0)).all()
    assert typical_profiles(drawn(np.random.default_rng(3), 0, 0, 0.9, 0.0)).shape == (0,)


# --------------------------------------------------------------------------------------------------------------------
# shapes


def noisy_shapes(rng: np.random.Generator, count: int, e1: np.ndarray, e2: np.ndarray, snr: float) -> np.recarray:
    """Fits of stars with the given components of the ellipticity and errors of 1 / snr in each."""
    e1, e2 = (np.broadcast_to(e, count) + rng.normal(0, 1 / snr, count) for e in (e1, e2))
    drawn = np.hypot(e1, e2)
    fits = profiles(np.full(count, 3.0), (1 - drawn) / (1 + drawn), 0.5 * np.arctan2(e2, e1))
    fits["x"], fits["y"] = rng.uniform(0, 600, count), rng.uniform(0, 400, count)
    fits["amplitude"] = 0.43 * snr * 10.0
    return fits


@pytest.mark.parametrize("snr", [30.0, 100.0])
@pytest.mark.parametrize("drawn", [0.0, 0.02, 0.1])
def test_noise_of_single_stars_is_no_eccentricity(drawn: float, snr: float):
    fits = noisy_shapes(np.random.default_rng(4), 400, drawn * 0.6, drawn * 0.8, snr)
    ratio = (1 - drawn) / (1 + drawn)
    found = measure.shape_field(fits, 10.0, (400, 600))
    single = np.sqrt(1 - (fits["fwhm_minor"] / fits["fwhm_major"]) ** 2)
    # The mean of 400 vectors is known to sqrt(2) / snr / 20; the eccentricity is about 2 sqrt(ellipticity).
    limit = 2 * math.sqrt(math.sqrt(2) / snr / 20 * 2) if drawn == 0 else 0.03
    assert found.eccentricity == pytest.approx(math.sqrt(1 - ratio**2), abs=limit)
    if drawn == 0.0:
        assert np.median(single) > 1.8 * limit


def test_noise_of_the_mean_is_taken_off_as_well():
    found = [
        measure.shape_field(
            noisy_shapes(np.random.default_rng(seed), 30, 0.0, 0.0, 50.0), 10.0, (400, 600)
        ).eccentricity
        for seed in range(40)
    ]
    # The square of a vector of noise is below its mean in 63 % of cases; these frames come out round.
    assert 15 <= sum(e == 0.0 for e in found) <= 35


def test_shapes_that_change_over_the_field_keep_their_eccentricity():
    rng = np.random.default_rng(5)
    fits = noisy_shapes(rng, 500, 0.0, 0.0, 1e4)
    # Stars drawn out away from the middle: their mean over the frame is round.
    u, v = 2 * fits["x"] / 600 - 1, 2 * fits["y"] / 400 - 1
    radius, towards = np.hypot(u, v), np.arctan2(v, u)
    drawn = 0.1 * radius**2
    fits = noisy_shapes(rng, 500, drawn * np.cos(2 * towards), drawn * np.sin(2 * towards), 100.0)
    fits["x"], fits["y"] = 300 * (u + 1), 200 * (v + 1)
    want = np.median(np.sqrt(1 - ((1 - drawn) / (1 + drawn)) ** 2))
    found = measure.shape_field(fits, 10.0, (400, 600))
    assert found.eccentricity == pytest.approx(want, abs=0.03)
    corner = 0.1 * (4 / 9 + 4 / 9)
    # The corner cells are wide: the ellipticity in them goes from 0.02 to 0.2.
    assert found.cells[0] == pytest.approx(math.sqrt(1 - ((1 - corner) / (1 + corner)) ** 2), abs=0.06)
    assert found.cells[4] < 0.2


def test_shapes_of_one_star_and_of_none():
    fits = noisy_shapes(np.random.default_rng(6), 1, 0.1, 0.0, 1e6)
    found = measure.shape_field(fits, 10.0, (400, 600))
    assert found.eccentricity == pytest.approx(math.sqrt(1 - (0.9 / 1.1) ** 2), abs=1e-3)
    assert all(map(math.isnan, found.cells))
    assert math.isnan(measure.shape_field(fits[:0], 10.0, (400, 600)).eccentricity)


def test_an_exponent_counts_as_far_as_it_is_known():
    assert measure.likely_beta(2.5, 0.0) == pytest.approx(2.5)
    assert measure.likely_beta(math.inf, 0.0) == math.inf
    assert measure.likely_beta(2.5, 10.0) == pytest.approx(4.0, abs=0.01)
    assert 2.5 < measure.likely_beta(2.5, 0.05) < 4.0
    assert measure.likely_beta(2.5, math.inf) == 4.0
    assert measure.likely_beta(math.nan, math.nan) == 4.0


def test_stars_without_neighbours_come_first():
    x, y = np.array([10.0, 14.0, 100.0, 200.0]), np.array([10.0, 10.0, 50.0, 50.0])
    assert measure.isolated(x, y, np.array([0, 3, 2])).tolist() == [1, 2, 0]
    assert measure.isolated(x, y, np.array([], int)).size == 0


def test_all_stars_count_though_only_the_brightest_are_kept():
    image, truth, flux = exposed(3, 600)
    full = measure.run(MeasureParams(), image, None)
    short = measure.run(MeasureParams(max_stars=50, max_fits=40), image, None)
    assert len(short.x) <= 50 < len(full.x)
    # What is left out as no star of these differs with the number of fits.
    assert short.count == pytest.approx(full.count, rel=0.1)
    assert short.hybrid_flux is not None and short.hybrid_flux.shape == short.x.shape
    known = np.isfinite(short.hybrid_flux)
    assert 20 <= known.sum() <= 40
    # 40 bright stars, good to 1 % each, in a crowd that adds to them what is too faint to be told.
    nearest = cKDTree(truth).query(np.column_stack([short.x, short.y])[known])[1]
    assert np.median(short.hybrid_flux[known] / flux[nearest]) == pytest.approx(1.0, abs=0.015)


# --------------------------------------------------------------------------------------------------------------------
# the field


def scattered(count: int) -> tuple[np.random.Generator, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(count)
    at = rng.uniform([0, 0], [600, 400], (count, 2))
    return rng, at, 2 * (at[:, 0] + 0.5) / 600 - 1, 2 * (at[:, 1] + 0.5) / 400 - 1


@pytest.mark.parametrize(("tilt", "curvature"), [(0.0, 0.0), (0.3, 0.0), (0.0, 0.4), (0.2, -0.1)])
def test_tilt_and_curvature_of_the_field_are_found(tilt: float, curvature: float):
    rng, at, u, v = scattered(300)
    width = 3.0 * (1 + tilt / 2 * (0.6 * u + 0.8 * v) + curvature * (u * u + v * v) / 2) + rng.normal(0, 0.1, 300)
    width[::20] *= 2.0
    found = field_shape(at, width, (400, 600))
    # 0.1 px for each of 285 stars, u^2 = 1/3: slope to 0.01 px, tilt 2 x 0.01 / 3 = 0.7 %; curvature a little worse.
    # The length of a vector of noise alone is above zero.
    assert found[0] == pytest.approx(tilt, abs=0.025)
    assert found[1] == pytest.approx(curvature, abs=0.04)


def test_the_map_of_the_field_has_rows_from_the_top():
    _, at, u, v = scattered(900)
    cells = field_map(at, 3.0 + u + 10.0 * v, (400, 600))
    want = [3.0 + 2 / 3 * i + 20 / 3 * j for j in (-1, 0, 1) for i in (-1, 0, 1)]
    # 100 stars a cell: the median is good to 1.25 x 2 / sqrt(100).
    np.testing.assert_allclose(cells, want, atol=0.9)


def test_too_few_stars_say_nothing_of_the_field():
    _, at, _, _ = scattered(19)
    assert all(map(math.isnan, field_shape(at, np.full(19, 3.0), (400, 600))))
    cells = field_map(np.array([[10.0, 10.0], [12.0, 12.0]]), np.ones(2), (400, 600))
    assert all(map(math.isnan, cells))


def test_a_tilted_frame_is_measured_as_such():
    rng = np.random.default_rng(9)
    yy, xx = np.mgrid[:480, :480]
    image = np.full((480, 480), 500.0)
    for x, y in rng.uniform(15, 465, (140, 2)):
        width = 3.0 * (1 + 0.25 * (x / 240 - 1))
        level = 4 * (2**0.25 - 1) / width**2
        box = (slice(int(y) - 14, int(y) + 15), slice(int(x) - 14, int(x) + 15))
        near = (xx[box] - x) ** 2 + (yy[box] - y) ** 2
        image[box] += 6e4 * 3 * level / math.pi * (1 + level * near) ** -4.0
    m = measure.run(MeasureParams(), (image + rng.normal(0, 22, image.shape)).astype(np.float32), None)
    assert m.tilt == pytest.approx(0.5, abs=0.05)
    assert abs(m.curvature) < 0.08
    numbers = m.numbers()
    assert numbers["tilt_percent"] == pytest.approx(100 * m.tilt)
    assert numbers["fwhm_r1c0_px"] < numbers["fwhm_r1c1_px"] < numbers["fwhm_r1c2_px"]  # type: ignore[operator]


def test_a_frame_without_stars_has_no_shapes_but_a_sky():
    rng = np.random.default_rng(4)
    numbers = measure.run(MeasureParams(), rng.normal(300, 10, (128, 128)).astype(np.float32), None).numbers()
    assert numbers["stars"] == 0 and numbers["fwhm_px"] is None and numbers["tilt_percent"] is None
    assert numbers["psf_snr"] is None and numbers["elongation_angle_deg"] is None
    assert numbers["m_star_dn"] == pytest.approx(300, abs=1.0)
    # 16,000 pixels, half of them below the sky: 1.5 %.
    assert numbers["n_star_dn"] == pytest.approx(10, rel=0.05)


def test_noise_below_the_sky_of_a_mosaic_is_that_of_raw_pixels():
    rng = np.random.default_rng(6)
    image = rng.normal(300, 10, (256, 256)).astype(np.float32)
    m = measure.run(MeasureParams(), image, np.array([[1, 0], [2, 1]], np.uint8))
    assert m.local_noise == pytest.approx(10, rel=0.05)
