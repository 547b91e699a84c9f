from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wbpy.kernels import stars, transforms
from wbpy.kernels.patterns import Alignment, Mismatch, match_stars

WIDTH, HEIGHT, NOISE = 6000.0, 4000.0, 0.15
Night = namedtuple("Night", "reference target matrix common")


def night(
    seed, n=600, common=0.75, angle=0.0, scale=1.0, mirror=False, shift=40.0, distortion=0.0, extra=100, noise=NOISE
):
    """Two star lists, brightest first, of one field; `common` true pairs appear in both."""
    rng = np.random.default_rng(seed)
    reference = rng.uniform(0, 1, (n, 2)) * [WIDTH, HEIGHT]
    light = rng.pareto(1.2, n)
    c, s = scale * np.cos(np.deg2rad(angle)), scale * np.sin(np.deg2rad(angle))
    turn = np.array([[c, -s], [s, c]]) @ np.diag([-1.0 if mirror else 1.0, 1.0])
    centre = np.array([WIDTH / 2, HEIGHT / 2])
    matrix = np.eye(3)
    matrix[:2, :2] = turn
    matrix[:2, 2] = centre - turn @ centre + rng.normal(0, shift, 2)
    target = transforms.apply(matrix, reference)
    radius = ((target - centre) / WIDTH) ** 2
    target = centre + (target - centre) * (1.0 + distortion * radius.sum(axis=1, keepdims=True))
    target = target + rng.normal(0, noise, target.shape)
    seen = (rng.random(n) < common) & ((target > 0) & (target < [WIDTH, HEIGHT])).all(axis=1)
    target = np.concatenate([target[seen], rng.uniform(0, 1, (extra, 2)) * [WIDTH, HEIGHT]])
    their_light = np.concatenate([(light * np.exp(rng.normal(0, 0.15, n)))[seen], rng.pareto(1.2, extra)])
    brightest = np.argsort(-light), np.argsort(-their_light)
    return Night(reference[brightest[0]], target[brightest[1]], matrix, int(seen.sum()))


def corner_error(found, matrix):
    corners = np.array([[0, 0], [WIDTH, 0], [0, HEIGHT], [WIDTH, HEIGHT], [WIDTH / 2, HEIGHT / 2]])
    return transforms.residuals(found, corners, transforms.apply(matrix, corners))


CASES = {
    "dither": {"angle": 0.3},
    "meridian flip": {"angle": 180.0},
    "any angle": {"angle": 37.0},
    "mirrored": {"angle": 5.0, "mirror": True},
    "mirrored and smaller": {"angle": 60.0, "mirror": True, "scale": 0.6},
    "larger": {"angle": 12.0, "scale": 1.7},
    "a third of the scale": {"angle": 12.0, "scale": 0.33},
    "few stars in common": {"angle": 3.0, "common": 0.35},
    "crowded": {"angle": 3.0, "n": 2000, "common": 0.35, "extra": 300},
}


@pytest.mark.parametrize("case", CASES)
def test_fields_are_aligned_in_the_direction_reference_to_target(case):
    for seed in range(3):
        sky = night(seed, **CASES[case])
        found = match_stars(sky.reference, sky.target)
        assert isinstance(found, Alignment), found
        assert found.model == "similarity"
        # 150 pairs or more of 0.15 px: 0.15 * sqrt(4 / 300) = 0.02 px rms, the corners three times that.
        assert corner_error(found.matrix, sky.matrix).max() < 0.15
        assert found.n_inliers == len(found.pairs) >= 0.97 * sky.common
        # Two coordinates of 0.15 px.
        assert found.rms == pytest.approx(NOISE * np.sqrt(2), rel=0.15)
        assert found.held_out_rms == pytest.approx(found.rms, rel=0.3)
        distance = transforms.residuals(sky.matrix, sky.reference[found.pairs[:, 0]], sky.target[found.pairs[:, 1]])
        assert np.mean(distance < 1.0) > 0.99
        assert len(np.unique(found.pairs[:, 0])) == len(np.unique(found.pairs[:, 1])) == len(found.pairs)


def test_a_small_part_of_the_field_at_three_times_the_scale_is_found():
    found = [match_stars(*night(seed, n=2000, scale=3.0, angle=50.0)[:2]) for seed in range(4)]
    assert sum(isinstance(f, Alignment) for f in found) >= 3


def test_radial_distortion_of_one_per_cent_does_not_prevent_alignment():
    for seed in range(3):
        sky = night(seed, n=2000, angle=20.0, distortion=0.01, common=0.35, extra=300)
        found = match_stars(sky.reference, sky.target)
        assert isinstance(found, Alignment)
        assert found.n_inliers > 0.6 * sky.common
        # The corners are moved by 0.01 * 0.36 * 3600 = 13 px.
        assert corner_error(found.matrix, sky.matrix).max() < 15.0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 360), st.floats(0.4, 2.2), st.booleans())
def test_any_similarity_is_recovered(seed, angle, scale, mirror):
    sky = night(seed, n=300, angle=angle, scale=scale, mirror=mirror, extra=40)
    found = match_stars(sky.reference, sky.target)
    assert isinstance(found, Alignment)
    assert corner_error(found.matrix, sky.matrix).max() < 0.5


@pytest.mark.parametrize("common", [5, 6, 8, 12])
def test_a_handful_of_stars_is_enough(common):
    aligned = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        reference = rng.uniform(0, 1, (common + 2, 2)) * [WIDTH, HEIGHT]
        angle = rng.uniform(0, 360)
        matrix = np.eye(3)
        c, s = np.cos(angle), np.sin(angle)
        matrix[:2] = [[c, -s, 100.0], [s, c, -50.0]]
        target = transforms.apply(matrix, reference[:common]) + rng.normal(0, NOISE, (common, 2))
        target = np.concatenate([target, rng.uniform(0, 1, (3, 2)) * [WIDTH, HEIGHT]])
        found = match_stars(rng.permutation(reference), rng.permutation(target))
        if isinstance(found, Alignment):
            aligned += 1
            assert transforms.residuals(found.matrix, reference[:common], target[:common]).max() < 1.5
    # A chance sliver of a triangle may hide one field of five.
    assert aligned >= 19


def test_four_stars_are_refused_with_the_count():
    points = np.random.default_rng(0).uniform(0, 1000, (4, 2))
    found = match_stars(points, points)
    assert isinstance(found, Mismatch)
    assert found.reason == "5 stars are needed in each list, there are 4 and 4"
    assert (found.n_reference, found.n_target, found.n_votes) == (4, 4, 0)


@pytest.mark.parametrize(("n", "pairs"), [(5, 150), (6, 150), (8, 100), (12, 100), (25, 60), (60, 30), (300, 10)])
def test_unrelated_fields_are_never_aligned(n, pairs):
    rng = np.random.default_rng(n)
    for _ in range(pairs):
        found = match_stars(*(rng.uniform(0, 1, (n, 2)) * [WIDTH, HEIGHT] for _ in range(2)))
        assert isinstance(found, Mismatch)
        assert found.n_reference == found.n_target == n


def test_unrelated_clusters_are_never_aligned():
    rng = np.random.default_rng(8)
    for _ in range(10):
        lists = [rng.normal(0, 150, (250, 2)) * rng.uniform(0.2, 1.0, (250, 1)) + 2000 for _ in range(2)]
        assert isinstance(match_stars(*lists), Mismatch)


def test_regular_grids_and_equal_points_do_not_crash():
    grid = np.stack(np.meshgrid(np.arange(8.0), np.arange(8.0)), -1).reshape(-1, 2) * 100.0
    assert isinstance(match_stars(grid, grid), Alignment | Mismatch)
    assert isinstance(match_stars(np.full((30, 2), 5.0), grid), Mismatch)
    line = np.column_stack([np.geomspace(1, 4000, 20), np.zeros(20)])
    assert isinstance(match_stars(line, line), Alignment | Mismatch)


@pytest.mark.parametrize(
    ("bottom", "model"),
    [([0.0, 0.0, 1.0], "affine"), ([3e-6, -2e-6, 1.0], "homography")],
)
def test_the_model_is_as_general_as_the_evidence_demands(bottom, model):
    sky = night(4, n=500, angle=10.0)
    bend = np.array([[1.0, 0.004, 0.0], [0.0, 0.997, 0.0], bottom])
    target = transforms.apply(bend, sky.target)
    found = match_stars(sky.reference, target)
    assert isinstance(found, Alignment) and found.model == model
    assert corner_error(found.matrix, bend @ sky.matrix).max() < 0.3
    forced = match_stars(sky.reference, target, model="similarity")
    assert isinstance(forced, Alignment) and forced.model == "similarity" and forced.rms > 2.0 * found.rms


def test_a_forced_general_model_is_used():
    sky = night(5, angle=10.0)
    for model in ("affine", "homography"):
        found = match_stars(sky.reference, sky.target, model=model)
        assert isinstance(found, Alignment) and found.model == model
        assert corner_error(found.matrix, sky.matrix).max() < 0.3


def test_the_same_arguments_give_the_same_bits():
    sky = night(6, angle=80.0)
    one, two = (match_stars(sky.reference, sky.target, seed=3) for _ in range(2))
    assert np.array_equal(one.matrix, two.matrix) and np.array_equal(one.pairs, two.pairs)
    assert (one.rms, one.held_out_rms) == (two.rms, two.held_out_rms)


def test_rows_that_are_not_finite_are_ignored_and_indices_stay_those_of_the_caller():
    sky = night(7, angle=10.0)
    reference = np.insert(sky.reference, [0, 3], np.nan, axis=0)
    found, plain = match_stars(reference, sky.target), match_stars(sky.reference, sky.target)
    np.testing.assert_array_equal(reference[found.pairs[:, 0]], sky.reference[plain.pairs[:, 0]])
    np.testing.assert_array_equal(found.matrix, plain.matrix)


def test_wrong_arguments_are_refused():
    points = np.zeros((9, 2))
    with pytest.raises(ValueError, match="unknown model"):
        match_stars(points, points, model="spline")
    with pytest.raises(ValueError, match="tolerance_px"):
        match_stars(points, points, tolerance_px=0.0)
    with pytest.raises(ValueError, match="target must be"):
        match_stars(points, np.zeros((9, 3)))


@pytest.mark.filterwarnings("ignore")
def test_it_aligns_all_that_astroalign_aligns_to_the_same_place():
    astroalign = pytest.importorskip("astroalign")
    for seed, options in enumerate(({"angle": 0.3}, {"angle": 120.0}, {"angle": 20.0, "common": 0.5})):
        sky = night(seed, n=200, extra=30, **options)
        found = match_stars(sky.reference, sky.target)
        assert isinstance(found, Alignment)
        try:
            theirs = astroalign.find_transform(sky.reference, sky.target)[0].params
        except astroalign.MaxIterError:
            continue
        # It fits to its 50 control points.
        assert corner_error(found.matrix, theirs).max() < 0.5
        assert corner_error(found.matrix, sky.matrix).max() < 0.2


def test_real_frames_that_drift_by_270_pixels_are_aligned():
    folder = Path(__file__).parents[3] / "shared" / "data" / "hatp32_microobservatory"
    files = sorted(folder.glob("**/*.FITS"))
    if not files:
        pytest.skip("the real frames in ../shared/data are not here")
    from astropy.io import fits
    from scipy.ndimage import median_filter

    lists = []
    for file in (files[0], files[-1]):
        image = fits.getdata(file).astype(np.float32)
        rough = median_filter(image[::4, ::4], 25)
        sky = np.kron(rough, np.ones((4, 4), np.float32))[: image.shape[0], : image.shape[1]]
        noise = 1.4826 * float(np.median(np.abs(image - sky - np.median(image - sky))))
        found = stars.detect_stars(image, sky, noise)
        lists.append(np.column_stack([found.x, found.y]))
    found = match_stars(*lists)
    assert isinstance(found, Alignment)
    assert found.n_inliers > 100 and found.held_out_rms < 0.6
    assert np.hypot(*found.matrix[:2, 2]) > 200.0
