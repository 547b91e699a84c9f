import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wbpy.kernels import defects
from wbpy.kernels.defects import defects_from_dark, detect_outliers, replace_defects

MONO = np.empty((0, 0), dtype=np.uint8)
RGGB = np.array([[0, 1], [1, 2]], dtype=np.uint8)


def slow_replacement(image, indices, step):
    """Median over the first ring of same-colour pixels that has a good one."""
    h, w = image.shape
    bad = np.zeros(image.shape, dtype=bool)
    bad.flat[indices] = True
    bad |= np.isnan(image)
    result = image.astype(np.float64).copy()
    for index in indices:
        y, x = divmod(int(index), w)
        result[y, x] = np.nan
        for ring in range(1, 17):
            around = [
                (y + step * dy, x + step * dx)
                for dy in range(-ring, ring + 1)
                for dx in range(-ring, ring + 1)
                if max(abs(dy), abs(dx)) == ring
            ]
            good = [image[j, i] for j, i in around if 0 <= j < h and 0 <= i < w and not bad[j, i]]
            if good:
                result[y, x] = np.median(np.array(good, dtype=np.float64))
                break
    return result


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_defects_take_the_median_of_good_neighbours(data):
    h = data.draw(st.integers(1, 9))
    w = data.draw(st.integers(1, 9))
    step = data.draw(st.sampled_from([1, 2]))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    image = np.round(rng.normal(100, 20, (h, w))).astype(np.float32)
    image[rng.random((h, w)) < 0.1] = np.nan
    share = data.draw(st.sampled_from([0.1, 0.5, 1.0]))
    indices = np.flatnonzero(rng.random(h * w) < share).astype(np.int64)
    expected = slow_replacement(image, indices, step)
    shuffled = image.copy()
    left = replace_defects(image, indices, step)
    np.testing.assert_array_equal(image, expected.astype(np.float32))
    assert left == np.count_nonzero(np.isnan(expected.flat[indices]))
    assert replace_defects(shuffled, rng.permutation(indices), step) == left
    np.testing.assert_array_equal(shuffled, image)


def test_a_cluster_is_filled_from_outside_and_not_from_itself():
    image = np.full((20, 20), 10, dtype=np.float32)
    image[5:10, 5:10] = 5000
    y, x = np.mgrid[5:10, 5:10]
    assert replace_defects(image, np.sort((y * 20 + x).ravel()), 1) == 0
    assert (image == 10).all()


# --------------------------------------------------------------------------------------------------------------


def dark_with_glow(seed, shape=(192, 256)):
    """Master dark with a glow of 1000 DN in a corner, its noise rising with it."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]]
    glow = 1000 * np.exp(-((x - shape[1]) ** 2 + y**2) / (2 * 60.0**2))
    return (500 + glow + rng.normal(0, 1, shape) * (2 + 0.1 * np.sqrt(glow))).astype(np.float32)


@pytest.mark.parametrize("cfa", [MONO, RGGB])
def test_hot_and_cold_pixels_of_a_dark_are_listed_and_the_glow_is_not(cfa):
    dark = dark_with_glow(1)
    rng = np.random.default_rng(2)
    chosen = rng.choice(dark.size, 60, replace=False)
    hot, cold = np.sort(chosen[:40]), np.sort(chosen[40:])
    # The glow falls by up to 10 DN a pixel, 20 in a plane: over seven pixels that is a MAD of 35 DN, sigma 52.
    dark.flat[hot] += 700
    dark.flat[cold] -= 700
    # Nothing else: 49152 pixels of normal noise stay far below 10 sigma.
    np.testing.assert_array_equal(defects_from_dark(dark, cfa), hot)
    np.testing.assert_array_equal(defects_from_dark(dark, cfa, 0.0, 10.0), cold)
    np.testing.assert_array_equal(defects_from_dark(dark, cfa, 10.0, 10.0), np.sort(chosen))
    assert defects_from_dark(dark, cfa, 0.0, 0.0).size == 0


def test_colour_planes_of_a_dark_are_judged_apart():
    rng = np.random.default_rng(3)
    dark = rng.normal(0, 2, (128, 128)).astype(np.float32)
    dark[0::2, 0::2] += 100
    dark[60, 60] += 50
    dark[61, 61] += 50
    np.testing.assert_array_equal(defects_from_dark(dark, RGGB), [60 * 128 + 60, 61 * 128 + 61])


def test_missing_pixels_of_a_dark_are_listed_always():
    dark = dark_with_glow(4)
    dark[10, 20] = np.nan
    np.testing.assert_array_equal(defects_from_dark(dark, MONO, 0.0, 0.0), [10 * 256 + 20])


def test_a_dark_of_coarse_integers_is_not_all_defects():
    rng = np.random.default_rng(5)
    dark = np.round(rng.normal(100, 0.2, (128, 128))).astype(np.float32)
    dark[40, 50] = 200
    np.testing.assert_array_equal(defects_from_dark(dark, MONO), [40 * 128 + 50])
    assert defects_from_dark(np.full((64, 64), 7, dtype=np.float32), MONO, 10.0, 10.0).size == 0


# --------------------------------------------------------------------------------------------------------------


def star(kind, fwhm, dy, dx, integrated, radius=10):
    """Profile of peak 1 at sub-pixel offset (dy, dx), sampled or averaged over the pixels."""
    k = 5 if integrated else 1
    offsets = (np.arange(k) - (k - 1) / 2) / k
    y = (np.arange(-radius, radius + 1)[:, None] + offsets).ravel()[:, None] - dy
    x = (np.arange(-radius, radius + 1)[:, None] + offsets).ravel()[None, :] - dx
    r2 = y * y + x * x
    if kind == "gaussian":
        value = np.exp(-4 * np.log(2) * r2 / fwhm**2)
    else:
        value = (1 + r2 / (fwhm / (2 * np.sqrt(2 ** (1 / 3) - 1))) ** 2) ** -3
    n = 2 * radius + 1
    return value.reshape(n, k, n, k).mean((1, 3))


SIGMA = 20.0


def star_field(seed, step, kind, fwhm, integrated, n=384, spacing=21):
    """About 250 stars of 2 to 6000 sigma at random sub-pixel positions, any colour from 0.3 to 1."""
    rng = np.random.default_rng(seed)
    image = np.full((n, n), 500.0)
    grid = np.arange(24, n - 24, spacing)
    for gy in grid:
        for gx in grid:
            y, x = gy + rng.uniform(-5, 5), gx + rng.uniform(-5, 5)
            iy, ix = round(y), round(x)
            light = star(kind, fwhm, y - iy, x - ix, integrated) * SIGMA * 10 ** rng.uniform(0.3, 3.8)
            if step == 2:
                colour = rng.uniform(0.3, 1.0, 3)
                j, i = np.mgrid[iy - 10 : iy + 11, ix - 10 : ix + 11]
                light = light * colour[RGGB[j % 2, i % 2]]
            image[iy - 10 : iy + 11, ix - 10 : ix + 11] += light
    e_per_dn = 0.5
    photons = rng.poisson(np.maximum(image - 500, 0) * e_per_dn) / e_per_dn
    return (photons + 500 + rng.normal(0, SIGMA, image.shape)).astype(np.float32)


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("kind", ["gaussian", "moffat"])
@pytest.mark.parametrize("integrated", [True, False])
def test_no_star_is_ever_taken_for_a_defect(step, kind, integrated):
    for seed, fwhm in enumerate([1.5, 1.5, 1.5, 2.0, 3.5]):
        image = star_field(seed, step, kind, fwhm, integrated)
        # 5 sigma: half of the usual threshold, to press the test.
        assert detect_outliers(image, step, 5.0, 0.0).size == 0
        assert detect_outliers(image, step, 0.0, 6.0).size == 0


@pytest.mark.parametrize("step", [1, 2])
def test_a_star_beside_a_dead_pixel_is_not_a_defect(step):
    rng = np.random.default_rng(15)
    for k in range(40):
        image = rng.normal(500, SIGMA, (41, 41))
        light = star("gaussian", 1.8, *rng.uniform(-0.3, 0.3, 2), True)
        image[10:31, 10:31] += light * SIGMA * (20 + 5 * k)
        image[20, 19] = image[20, 21] = 0
        assert 20 * 41 + 20 not in detect_outliers(image.astype(np.float32), step, 5.0, 0.0)


def test_without_the_star_test_stars_would_be_eaten(monkeypatch):
    monkeypatch.setattr(defects, "_least_halo", lambda fwhm: 100.0)
    assert detect_outliers(star_field(0, 1, "gaussian", 1.5, False), 1, 5.0, 0.0).size > 10


@pytest.mark.parametrize(("step", "height"), [(1, 40.0), (2, 100.0)])
def test_hot_pixels_between_stars_are_found(step, height):
    image = star_field(6, step, "moffat", 2.5, True, spacing=42)
    clean = image.copy()
    rng = np.random.default_rng(7)
    y, x = rng.integers(3, 381, (2, 200))
    indices = np.unique(y * 384 + x)
    image.flat[indices] += height * SIGMA
    found = detect_outliers(image, step)
    assert np.isin(found, indices).all()
    # Those that lie on a star or touch two others may stay.
    assert np.isin(indices, found).mean() > 0.9
    replace_defects(image, found, step)
    # The median of eight has 0.4 sigma of noise, the replaced pixel had 1: 5 sigma on an even background.
    error = np.abs(image.flat[found] - clean.flat[found])
    assert np.percentile(error, 90) < 5 * SIGMA


def test_faint_defects_are_left_where_a_star_could_look_the_same():
    rng = np.random.default_rng(8)
    image = rng.normal(500, SIGMA, (128, 128)).astype(np.float32)
    image[64, 64] += 15 * SIGMA
    assert detect_outliers(image, 2, 5.0).size == 0
    assert detect_outliers(image, 1, 5.0).tolist() in ([], [64 * 128 + 64])
    image[64, 64] += 15 * SIGMA
    assert detect_outliers(image, 1, 5.0).tolist() == [64 * 128 + 64]
    # Well sampled stars put more light beside their peak, so the same pixel is told apart in a mosaic, too.
    image[64, 64] += 15 * SIGMA
    assert detect_outliers(image, 2, 5.0, min_fwhm=2.5).tolist() == [64 * 128 + 64]


@pytest.mark.parametrize("step", [1, 2])
def test_a_pair_of_hot_pixels_is_found(step):
    image = np.random.default_rng(9).normal(500, SIGMA, (100, 100)).astype(np.float32)
    image[50, 50] += 200 * SIGMA
    image[50, 50 + step] += 150 * SIGMA
    assert detect_outliers(image, step).tolist() == [5050, 5050 + step]


@pytest.mark.parametrize("step", [1, 2])
def test_cold_pixels_are_found(step):
    image = star_field(10, step, "moffat", 2.5, True, spacing=42)
    rng = np.random.default_rng(11)
    y, x = rng.integers(3, 381, (2, 100))
    indices = np.unique(y * 384 + x)
    image.flat[indices] -= 20 * SIGMA
    found = detect_outliers(image, step)
    assert np.isin(found, indices).all()
    assert np.isin(indices, found).mean() > 0.9


def slow_candidates(image, step, threshold):
    h, w = image.shape
    found = []
    for y in range(step, h - step):
        for x in range(step, w - step):
            ring = image[y - step : y + step + 1 : step, x - step : x + step + 1 : step].ravel()
            ring = np.delete(ring, 4).astype(np.float64)
            ring[np.isnan(ring)] = -np.inf
            if image[y, x] - np.sort(ring)[-2] > threshold:
                found.append(y * w + x)
    return found


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("shape", [(3, 3), (5, 5), (4, 9), (17, 80), (40, 150)])
def test_candidates_stand_above_their_second_highest_neighbour(step, shape):
    rng = np.random.default_rng(12)
    image = np.round(rng.normal(0, 3, shape)).astype(np.float32)
    image[rng.random(shape) < 0.05] = np.nan
    found = np.empty(image.size, dtype=np.int64)
    threshold = np.full((1, 1), 2.0, dtype=np.float32)
    n = defects._candidates(image, step, np.float32(1), threshold, 1000, found)
    assert found[:n].tolist() == slow_candidates(image, step, 2.0)
    n = defects._candidates(image, step, np.float32(-1), threshold, 1000, found)
    assert found[:n].tolist() == slow_candidates(-image, step, 2.0)


def test_more_candidates_than_expected_are_all_judged():
    image = np.zeros((300, 300), dtype=np.float32)
    image += np.random.default_rng(13).normal(0, 1, image.shape)
    image[4:-4:6, 4:-4:6] += 1000
    image[6:-4:6, 4:-4:6] += 1000
    assert detect_outliers(image, 1).size == np.count_nonzero(image > 500)


def test_missing_pixels_edges_and_tiny_images_are_harmless():
    image = np.random.default_rng(14).normal(500, SIGMA, (64, 64)).astype(np.float32)
    image[20:40, 20:40] = np.nan
    image[19, 30] += 1000
    image[0, 5] += 5000
    image[50, 50] += 5000
    found = detect_outliers(image, 1)
    assert 50 * 64 + 50 in found
    assert 5 not in found
    assert detect_outliers(np.full((64, 64), np.nan, dtype=np.float32), 1).size == 0
    assert detect_outliers(np.ones((2, 2), dtype=np.float32), 1).size == 0
    assert detect_outliers(np.ones((30, 30), dtype=np.float32), 2).size == 0
    with pytest.raises(ValueError, match="step is 3"):
        detect_outliers(image, 3)
