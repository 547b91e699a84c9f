import numpy as np
import pytest

from wbpy.kernels import debayer
from wbpy.kernels.debayer import HALO, bilinear, green, malvar, rcd, superpixel

PATTERNS = {
    "RGGB": np.array([[0, 1], [1, 2]], dtype=np.uint8),
    "BGGR": np.array([[2, 1], [1, 0]], dtype=np.uint8),
    "GRBG": np.array([[1, 0], [2, 1]], dtype=np.uint8),
    "GBRG": np.array([[1, 2], [0, 1]], dtype=np.uint8),
}
ALL = pytest.mark.parametrize("cfa", PATTERNS.values(), ids=PATTERNS.keys())
RGGB = PATTERNS["RGGB"]


def colours(shape, cfa):
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]]
    return cfa[y % 2, x % 2]


def mosaic_of(rgb, cfa):
    return np.take_along_axis(rgb, colours(rgb.shape[1:], cfa)[None].astype(np.int64), axis=0)[0].astype(np.float32)


def run(method, mosaic, cfa):
    out = np.full((3, *mosaic.shape), -9999, dtype=np.float32)
    method(mosaic, cfa, out)
    return out


def star_scene(size=300, fwhm=3.0, sky=2000.0, seed=1):
    """Coloured stars on a sky whose colour varies slowly, DN."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size].astype(np.float64)
    rgb = np.stack([sky * (1 + 0.1 * c + 0.2 * np.sin(x / (17 + c)) * np.cos(y / (19 - c))) for c in range(3)])
    s = fwhm / 2.3548
    for _ in range(60):
        cy, cx, peak = rng.uniform(12, size - 12), rng.uniform(12, size - 12), rng.exponential(10000)
        light = peak * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * s * s))
        rgb += light * np.array([0.85, 1.0, 1.1])[:, None, None]
    return np.minimum(rgb, 65535)


def psnr(result, truth, border=16):
    error = (result - truth)[..., border:-border, border:-border].astype(np.float64)
    return 10 * np.log10(65535**2 / np.mean(error**2))


# --------------------------------------------------------------------------------------------------------------
# simple methods against their definition


def neighbours(mosaic, reach):
    """Reflected mosaic and a function that shifts it: at(dy, dx)[y, x] = mosaic[y + dy, x + dx]."""
    padded = np.pad(mosaic.astype(np.float64), reach, mode="reflect")
    h, w = mosaic.shape
    return lambda dy, dx: padded[reach + dy : reach + dy + h, reach + dx : reach + dx + w]


@ALL
@pytest.mark.parametrize("shape", [(2, 2), (3, 5), (6, 4), (9, 33)])
def test_bilinear_is_the_mean_of_the_nearest_samples(cfa, shape):
    mosaic = np.random.default_rng(2).normal(0, 100, shape).astype(np.float32)
    at = neighbours(mosaic, 1)
    where = neighbours(colours(shape, cfa), 1)
    out = run(bilinear, mosaic, cfa)
    steps = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    for c in range(3):
        total, count = np.zeros(shape), np.zeros(shape)
        # At a green pixel the mean over the diagonal greens is not asked for: the sample itself is the answer.
        for dy, dx in steps:
            same = where(dy, dx) == c
            total += np.where(same, at(dy, dx), 0)
            count += same
        own = where(0, 0) == c
        np.testing.assert_allclose(out[c], np.where(own, mosaic, total / count), atol=1e-4)


@ALL
def test_superpixel_takes_one_cell_for_one_pixel(cfa):
    mosaic = np.random.default_rng(3).normal(100, 20, (9, 13)).astype(np.float32)
    out = np.empty((3, 4, 6), dtype=np.float32)
    superpixel(mosaic, cfa, out)
    which = colours(mosaic.shape, cfa)
    for y in range(4):
        for x in range(6):
            cell, colour = mosaic[2 * y : 2 * y + 2, 2 * x : 2 * x + 2], which[:2, :2]
            expected = [cell[colour == c].astype(np.float64).mean() for c in range(3)]
            np.testing.assert_allclose(out[:, y, x], expected, rtol=1e-6)


CROSS = np.array([[0, 0, -1, 0, 0], [0, 0, 2, 0, 0], [-1, 2, 4, 2, -1], [0, 0, 2, 0, 0], [0, 0, -1, 0, 0]]) / 8
ROW = np.array([[0, 0, 0.5, 0, 0], [0, -1, 0, -1, 0], [-1, 4, 5, 4, -1], [0, -1, 0, -1, 0], [0, 0, 0.5, 0, 0]]) / 8
OTHER = np.array([[0, 0, -1.5, 0, 0], [0, 2, 0, 2, 0], [-1.5, 0, 6, 0, -1.5], [0, 2, 0, 2, 0], [0, 0, -1.5, 0, 0]]) / 8


@ALL
@pytest.mark.parametrize("shape", [(3, 3), (5, 8), (12, 31)])
def test_malvar_is_the_published_set_of_filters(cfa, shape):
    from scipy.ndimage import correlate

    mosaic = np.random.default_rng(4).normal(500, 100, shape).astype(np.float32)
    cross, row, column, other = (
        correlate(mosaic.astype(np.float64), kernel, mode="mirror") for kernel in (CROSS, ROW, ROW.T, OTHER)
    )
    which = colours(shape, cfa)
    beside = colours((shape[0], shape[1] + 1), cfa)[:, 1:]
    expected = np.empty((3, *shape))
    expected[1] = np.where(which == 1, mosaic, cross)
    for c in (0, 2):
        at_green = np.where(beside == c, row, column)
        expected[c] = np.where(which == c, mosaic, np.where(which == 1, at_green, other))
    np.testing.assert_allclose(run(malvar, mosaic, cfa), expected, rtol=2e-6, atol=1e-3)


def test_malvar_keeps_the_flux_of_coloured_stars():
    """Noiseless red and blue stars at random places on a dark sky: mean flux within 0.5 %, scatter below 2.5 %."""
    rng = np.random.default_rng(11)
    y, x = np.mgrid[0:40, 0:40].astype(np.float64)
    ratios = []
    for _ in range(60):
        cy, cx = rng.uniform(19, 21, 2)
        colour = np.array([rng.uniform(0.2, 1), 0.7, rng.uniform(0.2, 1)])[:, None, None]
        truth = 8000 * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * (3.0 / 2.3548) ** 2)) * colour
        out = run(malvar, mosaic_of(truth + 80, RGGB), RGGB) - 80
        ratios.append(out.sum(axis=(1, 2)) / truth.sum(axis=(1, 2)))
    assert np.all(np.abs(np.mean(ratios, axis=0) - 1) < 0.005)
    assert np.all(np.std(ratios, axis=0) < 0.025)


# --------------------------------------------------------------------------------------------------------------
# ratio corrected demosaicing against a slow twin


def slow_rcd(mosaic, cfa, reach=14):
    """Whole-plane float64 form of the published algorithm, every value computed at every pixel."""
    h, w = mosaic.shape
    c = np.pad(mosaic.astype(np.float64), reach, mode="reflect")
    big = colours(c.shape, cfa)  # reach is even: the pattern keeps its phase
    eps, eps2, offset = 0.65, 0.43, 1000.0

    def at(a, dy, dx):
        return np.roll(a, (-dy, -dx), (0, 1))

    def high_pass(dy, dx):
        odd = at(c, -3 * dy, -3 * dx) - at(c, -dy, -dx) - at(c, dy, dx) + at(c, 3 * dy, 3 * dx)
        return (odd - 3 * (at(c, -2 * dy, -2 * dx) + at(c, 2 * dy, 2 * dx)) + 6 * c) ** 2

    def three(a, dy, dx):
        return np.maximum(eps2, at(a, -dy, -dx) + a + at(a, dy, dx))

    def decide(d):
        mean = 0.25 * (at(d, -1, -1) + at(d, -1, 1) + at(d, 1, -1) + at(d, 1, 1))
        return np.where(np.abs(0.5 - d) < np.abs(0.5 - mean), mean, d)

    def weighted(a, grad_a, b, grad_b):
        return (a * grad_b + b * grad_a) / (grad_a + grad_b)

    vertical, horizontal = three(high_pass(1, 0), 1, 0), three(high_pass(0, 1), 0, 1)
    vh = decide(vertical / (vertical + horizontal))
    falling, rising = three(high_pass(1, 1), 1, 1), three(high_pass(1, -1), 1, -1)
    pq = decide(falling / (falling + rising))
    low = sum(at(c, dy, dx) / (1, 2, 4)[abs(dy) + abs(dx)] for dy in (-1, 0, 1) for dx in (-1, 0, 1))

    def towards(dy, dx):
        gradient = (
            eps
            + np.abs(at(c, dy, dx) - at(c, -dy, -dx))
            + np.abs(c - at(c, 2 * dy, 2 * dx))
            + np.abs(at(c, dy, dx) - at(c, 3 * dy, 3 * dx))
            + np.abs(at(c, 2 * dy, 2 * dx) - at(c, 4 * dy, 4 * dx))
        )
        total = np.maximum(low + at(low, 2 * dy, 2 * dx) + 8 * offset, offset)
        near = at(c, dy, dx)
        return near + np.maximum(near + offset, 0) * (low - at(low, 2 * dy, 2 * dx)) / total, gradient

    across = weighted(*towards(-1, 0), *towards(1, 0))
    along = weighted(*towards(0, -1), *towards(0, 1))
    g = np.where(big == 1, c, vh * along + (1 - vh) * across)

    def diagonal(dy, dx):
        gradient = (
            eps
            + np.abs(at(c, dy, dx) - at(c, -dy, -dx))
            + np.abs(at(c, dy, dx) - at(c, 3 * dy, 3 * dx))
            + np.abs(g - at(g, 2 * dy, 2 * dx))
        )
        return at(c - g, dy, dx), gradient

    p_estimate = weighted(*diagonal(-1, -1), *diagonal(1, 1))
    q_estimate = weighted(*diagonal(-1, 1), *diagonal(1, -1))
    opposite = g + (1 - pq) * p_estimate + pq * q_estimate
    planes = []
    for colour in (0, 2):
        k = np.where(big == colour, c, opposite)  # right at red and blue pixels

        def side(dy, dx, k=k):
            gradient = (
                eps
                + np.abs(g - at(g, 2 * dy, 2 * dx))
                + np.abs(at(k, dy, dx) - at(k, -dy, -dx))
                + np.abs(at(k, dy, dx) - at(k, 3 * dy, 3 * dx))
            )
            return at(k - g, dy, dx), gradient

        vertical_d = weighted(*side(-1, 0), *side(1, 0))
        horizontal_d = weighted(*side(0, -1), *side(0, 1))
        planes.append(np.where(big == 1, g + vh * horizontal_d + (1 - vh) * vertical_d, k))
    return np.stack([planes[0], g, planes[1]])[:, reach : reach + h, reach : reach + w]


@ALL
@pytest.mark.parametrize("shape", [(2, 2), (2, 3), (3, 2), (5, 8), (16, 31), (150, 9)])
def test_rcd_equals_its_slow_twin(cfa, shape):
    mosaic = np.random.default_rng(4).normal(1500, 600, shape).astype(np.float32)
    out = run(rcd, mosaic, cfa)
    expected = slow_rcd(mosaic, cfa)
    close = np.isclose(out, expected, rtol=1e-4, atol=0.05)
    assert close.all()


def test_rcd_equals_its_slow_twin_on_stars_above_a_zero_background():
    scene = star_scene(80, sky=0.0) + np.random.default_rng(5).normal(0, 20, (3, 80, 80))
    mosaic = mosaic_of(scene, RGGB)
    close = np.isclose(run(rcd, mosaic, RGGB), slow_rcd(mosaic, RGGB), rtol=1e-4, atol=0.1)
    assert close.mean() > 0.998


@ALL
def test_green_is_the_green_of_rcd(cfa):
    mosaic = np.random.default_rng(6).normal(500, 300, (41, 38)).astype(np.float32)
    mosaic[20, 20] = np.nan
    plane = np.empty(mosaic.shape, dtype=np.float32)
    green(mosaic, cfa, plane)
    np.testing.assert_array_equal(plane, run(rcd, mosaic, cfa)[1])


@ALL
@pytest.mark.parametrize("method", [bilinear, malvar, rcd])
def test_measured_samples_are_kept(method, cfa):
    mosaic = np.random.default_rng(7).normal(0, 1000, (37, 42)).astype(np.float32)
    out = run(method, mosaic, cfa)
    np.testing.assert_array_equal(mosaic_of(out, cfa), mosaic)


@ALL
@pytest.mark.parametrize("method", [bilinear, malvar, rcd])
@pytest.mark.parametrize("level", [0.0, 700.0, -40.0, 65535.0])
def test_flat_grey_stays_flat(method, cfa, level):
    out = run(method, np.full((33, 30), level, dtype=np.float32), cfa)
    np.testing.assert_allclose(out, level, rtol=1e-6)


@ALL
def test_flat_colour_stays_flat(cfa):
    truth = np.array([500.0, 2000.0, 1200.0])[:, None, None] * np.ones((3, 40, 42))
    out = run(rcd, mosaic_of(truth, cfa), cfa)
    np.testing.assert_allclose(out, truth, rtol=1e-5)


@pytest.mark.parametrize("sky", [0.0, 2000.0])
def test_rcd_of_a_star_field_beats_bilinear_by_far(sky):
    truth = star_scene(sky=sky)
    mosaic = mosaic_of(truth, RGGB)
    sharp, soft = psnr(run(rcd, mosaic, RGGB), truth), psnr(run(bilinear, mosaic, RGGB), truth)
    assert sharp > 60
    assert sharp > soft + 6


def test_noise_around_zero_makes_no_artefacts_and_no_bias():
    sigma = 100.0
    mosaic = np.random.default_rng(8).normal(0, sigma, (600, 600)).astype(np.float32)
    out = run(rcd, mosaic, RGGB)
    # Interpolation averages noise, it must not create any. 6.5 sigma: largest of 10^6 values is near 5 sigma.
    assert out.std() < sigma
    assert np.abs(out).max() < 6.5 * sigma
    # The mean of the interpolated samples against that of the measured ones of the same colour: 90000 red
    # samples have 0.0033 sigma of statistical error, the weighted mean of the others as much.
    for c in range(3):
        measured = mosaic[colours(mosaic.shape, RGGB) == c].mean()
        assert abs(out[c].mean() - measured) < 0.005 * sigma


def test_no_dark_ring_and_little_colour_fringe_at_a_star_on_a_zero_background():
    y, x = np.mgrid[0:40, 0:40]
    for cy, cx in np.random.default_rng(11).uniform(19, 21, (20, 2)):
        light = 30000 * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * (3.0 / 2.3548) ** 2))
        truth = light * np.array([0.85, 1, 1.1])[:, None, None]
        mosaic = mosaic_of(truth, RGGB)
        out = run(rcd, mosaic, RGGB)
        assert out.min() > -0.001 * 30000
        assert np.abs(out - truth).max() < 0.4 * np.abs(run(bilinear, mosaic, RGGB) - truth).max()


@ALL
@pytest.mark.parametrize(
    ("name", "method"), [("bilinear", bilinear), ("malvar", malvar), ("green", green), ("rcd", rcd)]
)
@pytest.mark.parametrize("gaps", [False, True])
def test_a_window_with_its_halo_has_the_bits_of_the_frame(cfa, name, method, gaps):
    rng = np.random.default_rng(9)
    frame = mosaic_of(star_scene(140, seed=3) + rng.normal(0, 30, (3, 140, 140)), cfa)
    if gaps:
        frame[rng.random(frame.shape) < 0.02] = np.nan
        frame[:, 100:] = np.nan
    halo = HALO[name]
    whole = np.empty((3, *frame.shape) if name != "green" else frame.shape, dtype=np.float32)
    method(frame, cfa, whole)
    for y0, y1, x0, x1 in [(40, 71, 36, 87), (0, 33, 60, 61), (101, 140, 55, 140), (42, 43, 0, 140), (31, 60, 33, 90)]:
        top, left = max(0, y0 - halo), max(0, x0 - halo)
        window = np.ascontiguousarray(frame[top : y1 + halo, left : x1 + halo])
        phase = np.roll(cfa, (-top, -left), (0, 1))
        part = np.empty((*whole.shape[:-2], *window.shape), dtype=np.float32)
        method(window, phase, part)
        inner = part[..., y0 - top : y1 - top, x0 - left : x1 - left]
        np.testing.assert_array_equal(inner, whole[..., y0:y1, x0:x1])


@ALL
def test_a_missing_pixel_is_missing_in_all_colours_and_beside_it_only_where_interpolated(cfa):
    mosaic = mosaic_of(star_scene(60), cfa)
    clean = run(rcd, mosaic, cfa)
    mosaic[30, 31] = np.nan
    out = run(rcd, mosaic, cfa)
    gone = np.isnan(out)
    expected = np.zeros_like(gone)
    expected[:, 29:32, 30:33] = np.arange(3)[:, None, None] != colours((60, 60), cfa)[29:32, 30:33]
    expected[:, 30, 31] = True
    np.testing.assert_array_equal(gone, expected)
    far = np.ones((60, 60), dtype=bool)
    reach = HALO["rcd"] - 4
    far[30 - reach : 31 + reach, 31 - reach : 32 + reach] = False
    np.testing.assert_array_equal(out[:, far], clean[:, far])
    # The bridge is good: the neighbourhood changes by less than the 10 % of a star that a hole would cost.
    assert np.nanmax(np.abs(out - clean)) < 0.1 * clean.max()


def test_a_missing_pixel_spreads_by_one_pixel_in_bilinear():
    mosaic = np.ones((12, 12), dtype=np.float32)
    mosaic[6, 6] = np.nan
    gone = np.isnan(run(bilinear, mosaic, RGGB))
    assert not gone[:, :5].any() and not gone[:, 8:].any() and not gone[:, :, :5].any() and not gone[:, :, 8:].any()
    assert gone[:, 6, 6].sum() == 1  # red is lost there; green and blue come from the neighbours
    assert np.count_nonzero(gone[0]) == 9


def test_a_frame_of_nothing_is_nothing():
    assert np.isnan(run(rcd, np.full((20, 20), np.nan, dtype=np.float32), RGGB)[RGGB[0, 0]]).all()


@pytest.mark.parametrize("method", [bilinear, malvar, rcd, superpixel, green])
def test_other_patterns_are_refused(method):
    for wrong in ([[0, 1], [2, 1]], [[1, 1], [1, 1]], [[0, 1], [1, 0]], [[0, 2], [2, 1]]):
        out = np.empty((3, 8, 8) if method is not green else (8, 8), dtype=np.float32)
        with pytest.raises(ValueError, match="green on one diagonal"):
            method(np.ones((8, 8), dtype=np.float32), np.array(wrong, dtype=np.uint8), out)


def test_too_small_a_mosaic_is_refused_by_malvar():
    with pytest.raises(ValueError, match="3 x 3"):
        malvar(np.ones((2, 8), dtype=np.float32), RGGB, np.empty((3, 2, 8), dtype=np.float32))


def test_one_row_is_refused():
    with pytest.raises(ValueError, match="2 x 2"):
        rcd(np.ones((1, 8), dtype=np.float32), RGGB, np.empty((3, 1, 8), dtype=np.float32))


def test_stars_keep_their_place_and_flux_on_the_green_plane():
    rng = np.random.default_rng(10)
    y, x = np.mgrid[0:32, 0:32].astype(np.float64)
    shifts, fluxes = [], []
    for _ in range(40):
        cy, cx, colour = *rng.uniform(15, 17, 2), rng.uniform(0.4, 1.2, 3)
        light = 20000 * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * (2.8 / 2.3548) ** 2))
        plane = np.empty((32, 32), dtype=np.float32)
        green(mosaic_of(light * colour[:, None, None], RGGB), RGGB, plane)
        # Gaussian weighted moments about the true place: half the shift of the profile for equal widths.
        weight = light * plane
        shifts += [2 * ((weight * y).sum() / weight.sum() - cy), 2 * ((weight * x).sum() / weight.sum() - cx)]
        fluxes.append(weight.sum() / (light * light).sum() / colour[1])
    assert np.std(shifts) < 0.01
    assert abs(np.mean(fluxes) - 1) < 0.02


def test_halos_are_even_so_that_windows_keep_the_pattern():
    assert all(halo % 2 == 0 for halo in debayer.HALO.values())
