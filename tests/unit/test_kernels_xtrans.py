import numpy as np
import pytest

from wbpy.kernels import xtrans
from wbpy.kernels.xtrans import HALO
from wbpy.simulate.dng import XTRANS, DngInfo, write_dng

CELL = np.array(["RGB".index(letter) for letter in XTRANS], np.uint8).reshape(6, 6)
CELLS = [CELL, np.roll(CELL, (2, 3), (0, 1)), CELL[::-1].copy(), np.rot90(CELL).copy()]
ALL = pytest.mark.parametrize("cfa", CELLS, ids=["usual", "shifted", "turned over", "turned"])
METHODS = pytest.mark.parametrize("method", [xtrans.bilinear, xtrans.guided])


def colours(shape, cfa):
    y, x = np.indices(shape)
    return cfa[y % 6, x % 6]


def mosaic_of(rgb, cfa):
    return np.take_along_axis(rgb, colours(rgb.shape[1:], cfa)[None].astype(np.int64), 0)[0].astype(np.float32)


def run(mosaic, cfa, method=xtrans.guided):
    out = np.full((3, *mosaic.shape), -9999, dtype=np.float32)
    method(mosaic, cfa, out)
    return out


def coloured_stars(side, fwhm, seed, sky=300.0):
    rng = np.random.default_rng(seed)
    y, x = np.indices((side, side), dtype=np.float64)
    rgb = np.full((3, side, side), sky)
    for _ in range(side * side // 700):
        u, v = rng.uniform(8, side - 8, 2)
        tint = np.exp(rng.normal(0, 0.4, 3))[:, None, None]
        rgb += rng.exponential(9000) * tint * 2.0 ** (-4 * ((x - u) ** 2 + (y - v) ** 2) / fwhm**2)
    return rgb


def fit(image, there, y, x, colour, width, leave_out):
    """Plane through the samples of a colour in the 7 x 7 pixels around (y, x), by weighted least squares."""
    rows, columns = np.indices((7, 7)) - 3
    near = there[y - 3 : y + 4, x - 3 : x + 4] == colour
    if leave_out:
        near[3, 3] = False
    weight = np.exp(-(rows**2 + columns**2) / (4 * width**2))[near]
    terms = np.column_stack([np.ones(near.sum()), rows[near], columns[near]]) * weight[:, None]
    values = image[y - 3 : y + 4, x - 3 : x + 4][near] * weight
    return np.linalg.lstsq(terms, values, rcond=None)[0][0]


def fitted(image, there, colour, width, own_too=False):
    out = np.full(image.shape, np.nan)
    for y in range(3, image.shape[0] - 3):
        for x in range(3, image.shape[1] - 3):
            if there[y, x] == colour and not own_too:
                out[y, x] = image[y, x]
            elif not own_too or there[y, x] == colour:
                out[y, x] = fit(image, there, y, x, colour, width, own_too)
    return out


def slow_guided(mosaic, cfa, sharpen=True):
    """The method on the whole plane in float64; NaN near the edges, where neighbours are missing."""
    c, there = mosaic.astype(np.float64), colours(mosaic.shape, cfa)
    green = fitted(c, there, 1, 0.7)
    ratio, detail = {}, np.zeros(c.shape)
    box, bell = np.ones((9, 9)), np.outer(*2 * [[1, 8, 28, 56, 70, 56, 28, 8, 1]]) / 256.0**2

    def window(image, taps):
        out = np.full(image.shape, np.nan)
        for y in range(4, image.shape[0] - 4):
            for x in range(4, image.shape[1] - 4):
                out[y, x] = np.sum(image[y - 4 : y + 5, x - 4 : x + 5] * taps)
        return out

    for k in (0, 2):
        sites = there == k
        difference = np.where(sites, c - fitted(c, there, k, 1.3, own_too=True), 0)
        number = window(sites.astype(float), box)
        a, b = (np.where(sites, v, 0) for v in (c - 0.3 * difference, green))
        a, b = (np.where(sites, v - window(v, box) / number, 0) for v in (a, b))
        ab, bb, aa = (window(product, bell) for product in (a * b, b * b, a * a))
        with np.errstate(invalid="ignore", divide="ignore"):
            t = np.clip((ab**2 / (aa * bb) - 0.2) / 0.5, 0, 1)
            trust = np.where(ab > 0, t * t * (3 - 2 * t), 0)
            ratio[k] = np.where(sites, trust * ab / bb, 0)
            detail = detail + np.where(sites, 0.45 * trust * ab / aa * difference, 0)
    if sharpen:
        green = green + detail
    planes = {1: green}
    for k in (0, 2):
        planes[k] = fitted(c, there, k, 1.0)
        if sharpen:
            planes[k] = planes[k] + fitted(ratio[k], there, k, 1.0) * (green - fitted(green, there, k, 1.0))
    return np.stack([planes[0], planes[1], planes[2]])


@ALL
@METHODS
def test_it_equals_its_slow_twin(cfa, method):
    rng = np.random.default_rng(3)
    mosaic = mosaic_of(coloured_stars(44, 2.6, 4, sky=-20.0) * 8 + rng.normal(0, 10, (3, 44, 44)), cfa)
    assert mosaic.max() > 65535 and mosaic.min() < 0
    inner = np.s_[:, 17:-17, 17:-17]
    expected = slow_guided(mosaic, cfa, method is xtrans.guided)[inner]
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(run(mosaic, cfa, method)[inner], expected, rtol=2e-5, atol=0.5)


@ALL
def test_green_is_the_green_of_guided(cfa):
    mosaic = mosaic_of(coloured_stars(60, 2.6, 4), cfa)
    mosaic[30, 31] = np.nan
    plane = np.empty(mosaic.shape, np.float32)
    xtrans.green(mosaic, cfa, plane)
    np.testing.assert_array_equal(plane, run(mosaic, cfa)[1])


@ALL
@METHODS
def test_measured_samples_are_kept(cfa, method):
    mosaic = np.random.default_rng(7).normal(0, 1000, (37, 42)).astype(np.float32)
    out = run(mosaic, cfa, method)
    np.testing.assert_array_equal(mosaic_of(out, cfa), mosaic)


@ALL
@METHODS
def test_a_plane_of_each_colour_stays_a_plane(cfa, method):
    y, x = np.indices((60, 66))
    truth = np.stack([100 + 2.0 * x, 5000 - 3.0 * y, -400 + 4.0 * x + 7.0 * y])
    inner = np.s_[:, HALO:-HALO, HALO:-HALO]
    np.testing.assert_allclose(run(mosaic_of(truth, cfa), cfa, method)[inner], truth[inner], atol=0.02)


@ALL
@METHODS
@pytest.mark.parametrize("gaps", [False, True])
def test_a_window_with_its_halo_has_the_bits_of_the_frame(cfa, method, gaps):
    rng = np.random.default_rng(9)
    frame = mosaic_of(coloured_stars(220, 2.6, 3) + rng.normal(0, 30, (3, 220, 220)), cfa)
    if gaps:
        frame[rng.random(frame.shape) < 0.02] = np.nan
        frame[:, 100:130] = np.nan
    whole = run(frame, cfa, method)
    for y0, y1, x0, x1 in [(40, 171, 36, 87), (0, 33, 60, 61), (181, 220, 55, 220), (42, 43, 0, 220)]:
        top, left = max(0, y0 - HALO), max(0, x0 - HALO)
        window = np.ascontiguousarray(frame[top : y1 + HALO, left : x1 + HALO])
        part = run(window, np.roll(cfa, (-top, -left), (0, 1)), method)
        np.testing.assert_array_equal(part[:, y0 - top : y1 - top, x0 - left : x1 - left], whole[:, y0:y1, x0:x1])


@ALL
def test_a_missing_pixel_is_missing_in_all_colours_and_beside_it_only_where_interpolated(cfa):
    mosaic = mosaic_of(coloured_stars(60, 3.0, 5), cfa)
    mosaic[30, 31] = np.nan
    expected = np.zeros((3, 60, 60), bool)
    expected[:, 29:32, 30:33] = np.arange(3)[:, None, None] != colours((60, 60), cfa)[29:32, 30:33]
    expected[:, 30, 31] = True
    np.testing.assert_array_equal(np.isnan(run(mosaic, cfa)), expected)


@pytest.mark.parametrize("shape", [(6, 6), (7, 11), (9, 40)])
def test_small_pictures_are_filled(shape):
    mosaic = np.random.default_rng(1).normal(100, 5, shape).astype(np.float32)
    out = run(mosaic, CELL)
    # Extrapolation over a pixel or two at the edges: a few sigma.
    assert np.isfinite(out).all() and np.all(np.abs(out - 100) < 60)
    with pytest.raises(ValueError, match="at least 6 x 6"):
        run(mosaic[:5], CELL)


def test_a_pattern_without_blue_is_refused():
    with pytest.raises(ValueError, match="too rare"):
        run(np.zeros((12, 12), np.float32), np.where(CELL == 2, 1, CELL).astype(np.uint8))


def test_superpixels_are_means_of_each_colour_in_three_by_three():
    mosaic = np.random.default_rng(1).normal(100, 5, (14, 16)).astype(np.float32)
    mosaic[4, 4] = np.nan
    out = np.empty((3, 4, 5), np.float32)
    xtrans.superpixel(mosaic, CELL, out)
    kinds = colours(mosaic.shape, CELL)
    for y in range(4):
        for x in range(5):
            box = np.s_[3 * y : 3 * y + 3, 3 * x : 3 * x + 3]
            wanted = [np.nanmean(mosaic[box][kinds[box] == c].astype(np.float64)) for c in range(3)]
            np.testing.assert_allclose(out[:, y, x], wanted, rtol=1e-6)


def test_coloured_stars_and_a_nebula_beat_markesteijn_of_the_decoder(tmp_path):
    """LibRaw's one-pass and three-pass interpolation of the same mosaic, in whole DN, by the mean square error."""
    import rawpy

    y, x = np.indices((540, 540), dtype=np.float64)
    stars = coloured_stars(540, 2.6, 6, sky=1000.0)
    nebula = np.stack([4000 + 2500 * np.sin(x / (8 + c) + c) * np.cos(y / (9 - c)) for c in range(3)])
    inner = np.s_[:, 20:-20, 20:-20]
    for truth in (np.minimum(stars, 60000), nebula):
        mosaic = np.rint(mosaic_of(truth, CELL)).astype(np.uint16)
        write_dng(tmp_path / "a.dng", mosaic, XTRANS, DngInfo(black_level=0))
        ours = np.mean((run(mosaic.astype(np.float32), CELL) - truth)[inner] ** 2)
        plain = np.mean((run(mosaic.astype(np.float32), CELL, xtrans.bilinear) - truth)[inner] ** 2)
        assert ours < plain
        for passes in (rawpy.DemosaicAlgorithm.PPG, rawpy.DemosaicAlgorithm.AHD):
            with rawpy.imread(str(tmp_path / "a.dng")) as raw:
                theirs = raw.postprocess(
                    demosaic_algorithm=passes, output_color=rawpy.ColorSpace.raw, gamma=(1, 1), no_auto_bright=True,
                    no_auto_scale=True, output_bps=16, user_wb=[1, 1, 1, 1], user_black=0, user_flip=0,
                )  # fmt: skip
            assert ours < 0.5 * np.mean((np.moveaxis(theirs, -1, 0) - truth)[inner] ** 2)
