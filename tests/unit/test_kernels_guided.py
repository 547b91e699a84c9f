import numpy as np
import pytest
from scipy.ndimage import correlate, correlate1d

from wbpy.kernels.debayer import bilinear, malvar, rcd
from wbpy.kernels.guided import HALO, guided

PATTERNS = {
    "RGGB": np.array([[0, 1], [1, 2]], dtype=np.uint8),
    "BGGR": np.array([[2, 1], [1, 0]], dtype=np.uint8),
    "GRBG": np.array([[1, 0], [2, 1]], dtype=np.uint8),
    "GBRG": np.array([[1, 2], [0, 1]], dtype=np.uint8),
}
ALL = pytest.mark.parametrize("cfa", PATTERNS.values(), ids=PATTERNS.keys())
RGGB = PATTERNS["RGGB"]


def mosaic_of(rgb, cfa):
    y, x = np.indices(rgb.shape[1:])
    return np.take_along_axis(rgb, cfa[y % 2, x % 2][None].astype(np.int64), axis=0)[0].astype(np.float32)


def run(mosaic, cfa, method=guided):
    out = np.full((3, *mosaic.shape), -9999, dtype=np.float32)
    method(mosaic, cfa, out)
    return out


def coloured_stars(side, fwhm, seed, sky=300.0, brightest=30000.0, offset=(0.0, 0.0)):
    """(3, side, side) Gaussians of all colours on a dark sky, DN."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((side, side), dtype=np.float64)
    rgb = np.full((3, side, side), sky)
    for _ in range(side * side // 700):
        u, v = rng.uniform(8, side - 8, 2) + offset
        tint = np.exp(rng.normal(0, 0.5, 3))[:, None, None]
        rgb += rng.exponential(brightest / 4) * tint * 2.0 ** (-4 * ((x - u) ** 2 + (y - v) ** 2) / fwhm**2)
    return rgb


def separable(image, taps):
    taps = np.array(taps, float) / np.sum(taps)
    return correlate1d(correlate1d(image, taps, 0, mode="mirror"), taps, 1, mode="mirror")


def spread(lattice, row, column, shape):
    """Tent interpolation from the sites of a colour to all pixels."""
    planes = np.zeros((2, *shape))
    planes[0, row::2, column::2] = lattice
    planes[1, row::2, column::2] = 1
    sums = [separable(plane, (1, 2, 1)) for plane in planes]
    return sums[0] / sums[1]


def slow_guided(mosaic, cfa, reach=24):
    """The method on whole planes in float64."""
    h, w = mosaic.shape
    c = np.pad(mosaic.astype(np.float64), reach, mode="reflect")
    green = c.copy()
    cross = correlate(c, np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]]) / 4)
    ratios = {}
    for colour in (0, 2):
        row, column = np.argwhere(cfa == colour)[0]
        own, guide = c[row::2, column::2], cross[row::2, column::2]
        a = separable(own, (1, 8, 1))
        a = a - separable(a, (1, 1, 1, 1, 1))
        b = guide - separable(guide, (1, 1, 1, 1, 1))
        ab, bb, aa = (separable(product, (1, 4, 6, 4, 1)) for product in (a * b, b * b, a * a))
        with np.errstate(invalid="ignore", divide="ignore"):
            t = np.clip((ab**2 / (aa * bb) - 0.2) / 0.5, 0, 1)
            trust = np.where(ab > 0, t * t * (3 - 2 * t), 0)
            ratios[colour] = np.nan_to_num(trust * ab / bb)
            back = np.nan_to_num(trust * ab / aa)
        laplacian = own - correlate(own, np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]]) / 4)
        green[row::2, column::2] = guide + 0.375 * back * laplacian
    planes = [None, green, None]
    for colour in (0, 2):
        row, column = np.argwhere(cfa == colour)[0]
        there = (row, column, c.shape)
        detail = green - spread(green[row::2, column::2], *there)
        planes[colour] = spread(c[row::2, column::2], *there) + spread(ratios[colour], *there) * detail
    return np.stack(planes)[:, reach : reach + h, reach : reach + w]


@ALL
@pytest.mark.parametrize("shape", [(2, 2), (3, 2), (2, 5), (9, 16), (21, 34), (150, 11)])
def test_guided_equals_its_slow_twin(cfa, shape):
    mosaic = np.random.default_rng(1).normal(1500, 600, shape).astype(np.float32)
    # Squares of 600 DN in float32, a ratio of their sums, times 600 DN: a few hundredths of a DN.
    np.testing.assert_allclose(run(mosaic, cfa), slow_guided(mosaic, cfa), rtol=1e-5, atol=0.05)


@ALL
def test_guided_equals_its_slow_twin_on_stars_far_beyond_the_range(cfa):
    rng = np.random.default_rng(2)
    scene = coloured_stars(150, 2.5, 3, sky=-50.0, brightest=300_000.0) + rng.normal(0, 20, (3, 150, 150))
    mosaic = mosaic_of(scene, cfa)
    assert mosaic.min() < 0 and mosaic.max() > 65535
    np.testing.assert_allclose(run(mosaic, cfa), slow_guided(mosaic, cfa), rtol=2e-5, atol=0.5)


@ALL
def test_measured_samples_are_kept(cfa):
    mosaic = np.random.default_rng(7).normal(0, 1000, (37, 42)).astype(np.float32)
    np.testing.assert_array_equal(mosaic_of(run(mosaic, cfa), cfa), mosaic)


@ALL
def test_flat_colour_stays_flat(cfa):
    truth = np.array([500.0, 2000.0, -1200.0])[:, None, None] * np.ones((3, 40, 42))
    np.testing.assert_allclose(run(mosaic_of(truth, cfa), cfa), truth, rtol=1e-6)


@ALL
def test_a_gradient_stays_a_gradient(cfa):
    y, x = np.indices((40, 60))
    truth = np.stack([100 + 2.0 * x, 5000 - 3.0 * y, 40.0 * x + 7.0 * y])
    inner = np.s_[:, HALO:-HALO, HALO:-HALO]
    np.testing.assert_allclose(run(mosaic_of(truth, cfa), cfa)[inner], truth[inner], atol=0.01)


@ALL
@pytest.mark.parametrize("gaps", [False, True])
def test_a_window_with_its_halo_has_the_bits_of_the_frame(cfa, gaps):
    rng = np.random.default_rng(9)
    # Higher than a band of the kernel, so that its seams are crossed, too.
    frame = mosaic_of(coloured_stars(300, 2.5, 3) + rng.normal(0, 30, (3, 300, 300)), cfa)
    if gaps:
        frame[rng.random(frame.shape) < 0.02] = np.nan
        frame[:, 100:180] = np.nan
    whole = run(frame, cfa)
    for y0, y1, x0, x1 in [(40, 171, 36, 87), (0, 33, 60, 61), (251, 300, 55, 300), (42, 43, 0, 300), (31, 60, 33, 90)]:
        top, left = max(0, y0 - HALO), max(0, x0 - HALO)
        window = np.ascontiguousarray(frame[top : y1 + HALO, left : x1 + HALO])
        part = run(window, np.roll(cfa, (-top, -left), (0, 1)))
        np.testing.assert_array_equal(part[:, y0 - top : y1 - top, x0 - left : x1 - left], whole[:, y0:y1, x0:x1])


@ALL
def test_a_missing_pixel_is_missing_in_all_colours_and_beside_it_only_where_interpolated(cfa):
    mosaic = mosaic_of(coloured_stars(60, 3.0, 5), cfa)
    mosaic[30, 31] = np.nan
    gone = np.isnan(run(mosaic, cfa))
    y, x = np.indices((60, 60)) % 2
    expected = np.zeros_like(gone)
    expected[:, 29:32, 30:33] = np.arange(3)[:, None, None] != cfa[y, x][29:32, 30:33]
    expected[:, 30, 31] = True
    np.testing.assert_array_equal(gone, expected)


def test_noise_of_one_colour_does_not_reach_another():
    """Red without noise below green full of it stays nearly still: chance relates them at one pixel in a hundred."""
    rng = np.random.default_rng(4)
    planes = np.stack([rng.normal(500, s, (300, 300)) for s in (1.0, 100.0, 1.0)])
    out = run(mosaic_of(planes, RGGB), RGGB)
    assert out[0].std() < 1.1 and out[2].std() < 1.1
    # The methods that carry detail over do carry this one.
    assert run(mosaic_of(planes, RGGB), RGGB, malvar)[0].std() > 20


@pytest.mark.parametrize("fwhm", [2.2, 2.8, 3.5])
def test_stars_of_all_colours_keep_flux_and_profile(fwhm):
    """Noiseless single stars: fluxes, and the mean square error against the truth, which is larger with all others."""
    rng = np.random.default_rng(11)
    y, x = np.indices((40, 40), dtype=np.float64)
    fluxes, worst = [], {guided: 0.0, rcd: 0.0, malvar: 0.0, bilinear: 0.0}
    for _ in range(40):
        cy, cx = rng.uniform(19, 21, 2)
        tint = np.array([rng.uniform(0.2, 1), 0.7, rng.uniform(0.2, 1)])[:, None, None]
        truth = 8000 * 2.0 ** (-4 * ((y - cy) ** 2 + (x - cx) ** 2) / fwhm**2) * tint
        mosaic = mosaic_of(truth + 80, RGGB)
        for method in worst:
            error = run(mosaic, RGGB, method) - 80 - truth
            worst[method] += float(np.mean(error**2))
            if method is guided:
                fluxes.append(1 + error.sum(axis=(1, 2)) / truth.sum(axis=(1, 2)))
    assert np.all(np.abs(np.mean(fluxes, axis=0) - 1) < 0.02)
    # One frame of 2.2 px seeing: the coarse grid of red and blue alone allows no better.
    assert np.all(np.std(fluxes, axis=0) < (0.06 if fwhm < 2.5 else 0.015))
    for method in (rcd, malvar, bilinear):
        assert worst[guided] < 0.5 * worst[method], method


def zipper(planes, truth):
    """Root mean square of what changes its sign from pixel to pixel, along rows and columns, as a share of the truth.

    The difference of a pixel's error to the mean error of its neighbours on both sides, where the stars are.
    """
    error = planes - truth
    lit = truth > 0.05 * truth.max()
    total = 0.0
    for axis in (1, 2):
        jump = error - 0.5 * (np.roll(error, 1, axis) + np.roll(error, -1, axis))
        total += np.mean(jump[lit] ** 2)
    return float(np.sqrt(total / 2) / np.mean(truth[lit]))


@pytest.mark.parametrize("fwhm", [2.2, 3.0])
def test_stars_show_less_of_a_zipper_than_with_the_peers(fwhm):
    truth = coloured_stars(160, fwhm, 12, sky=0.0)
    mosaic = mosaic_of(truth, RGGB)
    shown = {method: zipper(run(mosaic, RGGB, method), truth) for method in (guided, rcd, malvar, bilinear)}
    for method in (rcd, malvar, bilinear):
        assert shown[guided] < 0.75 * shown[method], (method, shown)


def test_stars_and_nebulae_beat_the_oracles():
    """PSNR against colour-demosaicing's Menon and Malvar on coloured stars and on a smooth nebula."""
    oracle = pytest.importorskip("colour_demosaicing")
    y, x = np.indices((160, 160), dtype=np.float64)
    nebula = np.stack([3000 + 2000 * np.sin(x / 9 + c) * np.cos(y / (11 - c)) for c in range(3)])
    for truth in (coloured_stars(160, 2.6, 21), nebula):
        mosaic = mosaic_of(truth, RGGB)
        inner = np.s_[:, 16:-16, 16:-16]

        def error(planes, truth=truth, inner=inner):
            return float(np.mean((planes[inner] - truth[inner]) ** 2))

        peers = [
            np.moveaxis(method(mosaic.astype(np.float64), "RGGB"), -1, 0)
            for method in (oracle.demosaicing_CFA_Bayer_Menon2007, oracle.demosaicing_CFA_Bayer_Malvar2004)
        ]
        assert all(error(run(mosaic, RGGB)) < error(peer) for peer in peers)


@pytest.mark.parametrize("cfa", [np.array([[0, 1], [2, 1]], np.uint8), np.array([[1, 1], [1, 1]], np.uint8)])
def test_other_patterns_are_refused(cfa):
    with pytest.raises(ValueError, match="green on one diagonal"):
        run(np.zeros((8, 8), np.float32), cfa)
