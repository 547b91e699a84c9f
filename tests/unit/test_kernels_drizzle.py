"""Drops on an output grid: against clipped polygons in float64 and against STScI's drizzle, whole and in tiles."""

from __future__ import annotations

import math
import os
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wbpy.kernels import distortion
from wbpy.kernels.drizzle import BLOCK, NO_MASK, deposit, finish, make_drop, places

MONO = np.zeros((1, 1), np.uint8)
NOTHING = np.zeros((1, 1, 1, 1), np.float32)
COMPILED = os.environ.get("NUMBA_DISABLE_JIT") != "1"
SIDE = 40 if COMPILED else 20


def clipped(polygon, axis, limit, keep_above):
    """Return a polygon cut by one axis-parallel line (Sutherland and Hodgman 1974)."""
    result = []
    for a, b in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        inside_a, inside_b = ((p[axis] >= limit) == keep_above for p in (a, b))
        if inside_a:
            result.append(a)
        if inside_a != inside_b:
            result.append(a + (b - a) * (limit - a[axis]) / (b[axis] - a[axis]))
    return np.array(result).reshape(-1, 2)


def area(polygon):
    x, y = polygon.T
    return 0.5 * abs(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))


def overlap(polygon, i, j):
    """Return the area of a polygon within the pixel from (i, j) to (i + 1, j + 1)."""
    for axis, limit, above in ((0, i, True), (0, i + 1, False), (1, j, True), (1, j + 1, False)):
        if len(polygon):
            polygon = clipped(polygon, axis, limit, above)
    return area(polygon) if len(polygon) > 2 else 0.0


def twin(image, mapping, outline, shape):
    """Return sums of share x value and of share: every corner of every drop mapped by itself."""
    total = np.zeros((*shape, 2))
    for y, x in np.ndindex(image.shape):
        if np.isnan(image[y, x]):
            continue
        corners = mapping(np.array([x, y]) + outline)
        whole = area(corners)
        for j in range(max(0, math.floor(corners[:, 1].min())), min(shape[0], math.ceil(corners[:, 1].max()))):
            for i in range(max(0, math.floor(corners[:, 0].min())), min(shape[1], math.ceil(corners[:, 0].max()))):
                share = overlap(corners, i, j) / whole
                total[j, i] += share * image[y, x], share
    return total


def similarity(degrees, magnification, shift, centre):
    c, s = magnification * np.cos(np.radians(degrees)), magnification * np.sin(np.radians(degrees))
    matrix = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    matrix[:2, 2] = np.asarray(centre) - matrix[:2, :2] @ centre + shift
    return matrix


def dropped(
    image,
    matrix,
    *,
    scale=2,
    shrink=0.9,
    kernel="square",
    cfa=MONO,
    shape=None,
    tile=None,
    nodes=distortion.NONE,
    step=0,
    rejected=NO_MASK,
    offsets=None,
    factor=1.0,
    weight=1.0,
    inner=None,
    colour=-1,
    total=None,
):
    """Return the sums (C, h, w, 2) of one frame in a rectangle of the output."""
    h, w = image.shape
    reference = shape or (h, w)
    y0, x0, y1, x1 = tile or (0, 0, scale * reference[0], scale * reference[1])
    blocks = (0, 0, -(-w // BLOCK), -(-h // BLOCK))
    grid = places(matrix, nodes, step, scale, blocks)
    drop = make_drop(kernel, shrink, np.linalg.inv(matrix)[:2, :2] * scale)
    border = math.ceil(2 * drop.reach) + 3
    planes = int(cfa.max()) + 1
    sums = np.zeros((planes, y1 - y0 + 2 * border, x1 - x0 + 2 * border, 2)) if total is None else total
    deposit(
        image.astype(np.float32),
        0,
        0,
        grid,
        drop,
        cfa,
        colour,
        np.full(planes, factor, np.float64),
        np.full(planes, weight, np.float64),
        np.zeros((planes, 1, 1, 1), np.float32) if offsets is None else offsets,
        rejected,
        inner or (0, 0, -(-reference[1] // 8) * 8, reference[0]),
        reference,
        scale,
        sums,
        x0,
        y0,
        border,
    )
    return sums[:, border : border + y1 - y0, border : border + x1 - x0]


def outline_of(kernel, shrink):
    return make_drop(kernel, shrink, np.eye(2)).outline


@pytest.mark.parametrize("kernel", ["square", "circular"])
@pytest.mark.parametrize(
    ("degrees", "magnification", "scale", "shrink"),
    [(0.0, 1.0, 2, 0.9), (0.7, 1.0, 2, 0.9), (180.3, 1.02, 1, 1.0), (90.0, 1.0, 3, 0.5), (33.0, 0.93, 4, 0.1)],
)
def test_shares_are_the_areas_of_the_mapped_drops(kernel, degrees, magnification, scale, shrink):
    rng = np.random.default_rng(3)
    size = 13 if COMPILED else 6
    image = rng.normal(1000, 200, (size, size))
    image[4, 3] = np.nan
    matrix = similarity(degrees, magnification, (0.37, -0.81), (size / 2, size / 2))
    inverse = np.linalg.inv(matrix)
    found = dropped(image, matrix, scale=scale, shrink=shrink, kernel=kernel)[0]
    expected = twin(
        image,
        lambda p: (p @ inverse[:2, :2].T + inverse[:2, 2] + 0.5) * scale,
        outline_of(kernel, shrink),
        found.shape[:2],
    )
    # Single precision: places to 5e-7 px, shares of up to 24 sides to 2e-6; values below are 1000 DN.
    np.testing.assert_allclose(found[..., 1], expected[..., 1], atol=5e-6)
    np.testing.assert_allclose(found[..., 0], expected[..., 0], atol=5e-3)


def test_shares_of_a_homography_with_displacement_are_those_of_every_drop_mapped_by_itself():
    size = 40 if COMPILED else 20
    image = np.random.default_rng(4).normal(1000, 200, (size, size))
    matrix = similarity(1.3, 1.01, (0.4, 0.2), (size / 2, size / 2))
    matrix[2, :2] = 2e-6, -1e-6
    y, x = np.mgrid[0:5, 0:5] * 16.0
    # Three pixels at the far corner, growing with the square of the distance.
    nodes = 3 * np.stack([(x / 64) ** 2, (y / 64) ** 2], axis=-1)
    found = dropped(image, matrix, nodes=nodes, step=16)[0]

    def mapping(points):
        return (distortion.invert(matrix, nodes, 16, points) + 0.5) * 2

    expected = twin(image, mapping, outline_of("square", 0.9), found.shape[:2])
    # The kinks of the displacement lie within blocks: its slope changes by 2 x 3 / 64 x 16 / 64 = 2.3 % at a node, so
    # that a place within a block is off by up to 0.023 x 16 / 4 = 0.1 px of the frame at these extreme bends.
    assert abs(found[..., 1].sum() - expected[..., 1].sum()) < 0.01 * expected[..., 1].sum()
    inside = np.s_[10 : 2 * size - 20, 10 : 2 * size - 20]
    flat = expected[..., 1][inside]
    assert np.abs(found[..., 1][inside] - flat).max() < 0.1 * flat.mean()


def test_places_undo_the_transform():
    matrix = similarity(1.3, 1.01, (4.4, -3.2), (2000, 1500))
    matrix[2, :2] = 2e-6, -1e-6
    y, x = np.mgrid[0:48, 0:64] * 64.0
    r2 = ((x - 2000) ** 2 + (y - 1500) ** 2) / 2500**2
    nodes = 5 * np.stack([(x - 2000) / 2500 * r2, (y - 1500) / 2500 * r2], axis=-1)
    grid = places(matrix, nodes, 64, 2, (0, 0, 250, 190))
    reference = grid.reshape(-1, 2) / 2 - 0.5
    back = distortion.apply(matrix, nodes, 64, reference).reshape(grid.shape)
    there = np.stack(np.meshgrid(np.arange(251) * BLOCK, np.arange(191) * BLOCK), axis=-1)
    # Corrections end at 1e-6 px; along a displacement with slopes below 1 % the rest is a hundredth of that.
    assert np.abs(back - there).max() < 1e-6
    # Between the corners of a block, over the reference: bends of 6 x 5 / 2500^2 per px, gathered at nodes 64 px apart,
    # change the slope there by 3e-4, which is worth a quarter of a block of 16 px: 1.2e-3 px.
    middle = (0.25 * (grid[:-1, :-1] + grid[1:, 1:]) - 0.5).reshape(-1, 2)
    exact = distortion.invert(matrix, nodes, 64, (there[:-1, :-1] + BLOCK / 2).reshape(-1, 2))
    over = (exact > BLOCK).all(axis=1) & (exact < [63 * 64 - BLOCK, 47 * 64 - BLOCK]).all(axis=1)
    assert np.abs(middle - exact)[over].max() < 2e-3


def test_pixels_behind_the_horizon_of_a_homography_fall_nowhere():
    matrix = np.eye(3)
    matrix[2, 0] = 0.05
    image = np.ones((SIDE, SIDE))
    found = dropped(image, matrix, shape=(SIDE, SIDE))
    assert np.isfinite(found).all()


@pytest.mark.parametrize("kernel", ["square", "circular", "gaussian", "point"])
def test_every_drop_is_shared_out_completely(kernel):
    """Sum of the shares: number of pixels, whatever the form; flux in DN x area is kept."""
    image = np.zeros((SIDE, SIDE))
    image[SIDE // 2, SIDE // 2] = 30000.0
    image[SIDE // 2 + 3, SIDE // 2 - 3] = 500.0
    matrix = similarity(12.0, 1.0, (0.3, 0.1), (SIDE / 2, SIDE / 2))
    found = dropped(image, matrix, kernel=kernel, scale=3, shrink=0.8, shape=(2 * SIDE, 2 * SIDE))
    # The frame's corner is at the output's corner: some drops of the border fall beside.
    assert found[..., 0].sum() == pytest.approx(30500.0, rel=2e-6)


@pytest.mark.parametrize("kernel", ["square", "gaussian", "point"])
def test_mosaic_pixels_fall_into_the_plane_of_their_colour_only(kernel):
    rng = np.random.default_rng(5)
    pattern = rng.integers(0, 3, (6, 6)).astype(np.uint8)
    pattern[0, :3] = 0, 1, 2
    image = rng.normal(1000, 100, (SIDE, SIDE))
    colours = np.tile(pattern, (SIDE // 6 + 1, SIDE // 6 + 1))[:SIDE, :SIDE]
    matrix = similarity(2.0, 1.0, (0.3, 0.6), (SIDE / 2, SIDE / 2))
    found = dropped(image, matrix, cfa=pattern, kernel=kernel)
    for c in range(3):
        alone = dropped(np.where(colours == c, image, np.nan), matrix, kernel=kernel)
        np.testing.assert_array_equal(found[c], alone[0])
        one = dropped(image, matrix, cfa=pattern, kernel=kernel, colour=c)
        np.testing.assert_array_equal(one[c], found[c])
        assert one[(c + 1) % 3].sum() == 0.0


@given(
    degrees=st.floats(0, 360),
    scale=st.integers(1, 4),
    shrink=st.floats(0.1, 1.0),
    kernel=st.sampled_from(["square", "circular", "gaussian", "point"]),
    x=st.integers(0, SIDE - 1),
    y=st.integers(0, SIDE - 1),
)
@settings(max_examples=40 if COMPILED else 3, deadline=None)
def test_a_tile_holds_what_the_whole_output_has_there(degrees, scale, shrink, kernel, x, y):
    rng = np.random.default_rng(6)
    image = rng.normal(1000, 300, (SIDE, SIDE))
    matrix = similarity(degrees, 1.01, rng.normal(0, 2, 2), (SIDE / 2, SIDE / 2))
    matrix[2, :2] = 1e-6, 2e-6
    whole = dropped(image, matrix, scale=scale, shrink=shrink, kernel=kernel)
    y, x = y * scale, x * scale
    box = (y, x, min(y + 13, scale * SIDE), min(x + 17, scale * SIDE))
    part = dropped(image, matrix, scale=scale, shrink=shrink, kernel=kernel, tile=box)
    np.testing.assert_array_equal(part, whole[:, box[0] : box[2], box[1] : box[3]])


def test_rejection_is_looked_up_at_the_reference_pixel_nearest_to_the_centre():
    size = 32
    image = np.full((size, size), 7.0)
    matrix = similarity(0.0, 1.0, (0.4, -0.3), (0, 0))
    mask = np.zeros((1, size, size), np.uint8)
    mask[0, 10, 12] = mask[0, 20, 9] = 1
    bits = np.packbits(mask, axis=2)
    found = dropped(image, matrix, kernel="point", scale=1, rejected=bits, inner=(0, 0, size, size))[0]
    # With scale 1 the output pixel under the centre is the reference pixel nearest to it.
    assert found[10, 12, 1] == found[20, 9, 1] == 0.0
    rest = found[2:-2, 2:-2, 1].copy()
    rest[8, 10] = rest[18, 7] = 1.0
    assert (rest == 1.0).all()


def test_offsets_and_factor_are_those_of_the_reference_pixel_and_weights_multiply():
    size = 32
    rng = np.random.default_rng(8)
    image = rng.normal(500, 50, (size, size))
    offsets = rng.normal(0, 30, (1, 1, size, size)).astype(np.float32)
    matrix = np.eye(3)
    found = dropped(image, matrix, offsets=offsets, inner=(0, 0, size, size), factor=1.5, weight=0.25, scale=1)[0]
    np.testing.assert_allclose(found[..., 1], 0.25, rtol=1e-6)
    np.testing.assert_allclose(found[..., 0] / 0.25, 1.5 * image.astype(np.float32) + offsets[0, 0], rtol=1e-6)


def test_scales_below_and_above_a_level_differ():
    size = 32
    rng = np.random.default_rng(10)
    image = rng.normal(500, 50, (size, size)).astype(np.float32)
    layers = rng.normal(
        [[[500.0]], [[600.0]], [[1.2]], [[0.8]]], [[[20.0]], [[20.0]], [[0.1]], [[0.1]]], (4, size, size)
    )
    layers = layers.astype(np.float32)
    found = dropped(image, np.eye(3), offsets=layers[None], inner=(0, 0, size, size), factor=7.0, scale=1)[0]
    away = image - layers[0]
    np.testing.assert_allclose(found[..., 0], away * np.where(away < 0, layers[2], layers[3]) + layers[1], rtol=1e-6)


def test_offsets_of_a_part_of_the_reference_are_found_there():
    size = 48
    image = np.zeros((size, size))
    offsets = np.arange(size * size, dtype=np.float32).reshape(1, 1, size, size)
    whole = dropped(image, np.eye(3), offsets=offsets, inner=(0, 0, size, size), scale=2)[0]
    part = dropped(
        image,
        np.eye(3),
        offsets=offsets[:, :, 10:40, 16:48],
        inner=(16, 10, 48, 40),
        scale=2,
        tile=(40, 50, 60, 80),
    )[0]
    np.testing.assert_array_equal(part, whole[40:60, 50:80])


def test_finish_divides_and_leaves_holes_empty():
    total = np.zeros((6, 7, 2))
    total[2, 2], total[3, 3] = (30.0, 2.0), (10.0, 0.25)
    image, weight = np.empty((2, 3), np.float32), np.empty((2, 3), np.float32)
    first, end = np.array([0, 1], np.int32), np.array([2, 3], np.int32)
    # Looked at are the first two pixels of the upper row and the last two of the lower one.
    assert finish(total, 2, 4.0, 2.0, first, end, image, weight) == (2, 3)
    np.testing.assert_array_equal(image, [[15.0, np.nan, np.nan], [np.nan, 40.0, np.nan]])
    np.testing.assert_array_equal(weight, [[8.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


def test_wrong_arguments_are_refused():
    image = np.zeros((20, 20))
    with pytest.raises(ValueError, match="shrink"):
        make_drop("square", 0.0, np.eye(2))
    with pytest.raises(ValueError, match="rejected"):
        dropped(image, np.eye(3), rejected=np.zeros((1, 5, 5), np.uint8), inner=(0, 0, 24, 20))
    with pytest.raises(ValueError, match="offsets"):
        dropped(image, np.eye(3), offsets=np.zeros((1, 1, 5, 5), np.float32), inner=(0, 0, 24, 20))
    with pytest.raises(ValueError, match="border"):
        drop = make_drop("square", 1.0, 2 * np.eye(2))
        grid = places(np.eye(3), distortion.NONE, 0, 2, (0, 0, 2, 2))
        none = np.zeros((1, 46, 46, 2))
        ones = np.ones(1)
        pixels = image.astype(np.float32)
        whole = (0, 0, 24, 20)
        deposit(pixels, 0, 0, grid, drop, MONO, -1, ones, ones, NOTHING, NO_MASK, whole, (20, 20), 2, none, 0, 0, 3)


@pytest.mark.parametrize("degrees", [0.0, 0.7, 30.0, 180.4])
@pytest.mark.parametrize("scale", [1, 2, 3])
def test_square_point_and_gaussian_agree_with_stsci(degrees, scale):
    """STScI's program on the same places, weights all one."""
    stsci = pytest.importorskip("drizzle.resample")
    size = 60 if COMPILED else 24
    rng = np.random.default_rng(9)
    image = rng.normal(1000, 200, (size, size)).astype(np.float32)
    matrix = similarity(degrees, 1.0, (0.3, -0.2), (size / 2, size / 2))
    inverse = np.linalg.inv(matrix)
    points = np.stack(np.meshgrid(np.arange(size), np.arange(size)), axis=-1).astype(np.float64)
    pixmap = (points @ inverse[:2, :2].T + inverse[:2, 2] + 0.5) * scale - 0.5
    inside = np.s_[4:-4, 4:-4]

    def theirs(kernel):
        made = stsci.Drizzle(kernel=kernel, out_shape=(scale * size, scale * size), fillval="NAN", disable_ctx=True)
        with warnings.catch_warnings():
            # It says that its Gaussian does not conserve flux.
            warnings.simplefilter("ignore")
            made.add_image(
                image, exptime=1.0, pixmap=pixmap, pixfrac=0.8, in_units="cps", pixel_scale_ratio=1 / scale, iscale=1.0
            )
        return np.asarray(made.out_img)[inside], np.asarray(made.out_wht)[inside]

    def ours(kernel):
        sums = dropped(image, matrix, scale=scale, shrink=0.8, kernel=kernel)[0][inside]
        with np.errstate(invalid="ignore"):
            return sums[..., 0] / sums[..., 1], sums[..., 1]

    for kernel, value_tolerance, weight_tolerance in (("square", 2e-4, 1e-5), ("point", 1e-6, 1e-6)):
        (value, weight), (their_value, their_weight) = ours(kernel), theirs(kernel)
        # Their weights are areas in output pixels, ours shares of the drop.
        ratio = np.nanmedian(their_weight[weight > 0] / weight[weight > 0])
        np.testing.assert_allclose(their_weight / ratio, weight, atol=10 * weight_tolerance)
        # A sliver of a drop that one of the two rounds away has another value but no weight.
        solid = weight > 1e-3
        np.testing.assert_allclose(value[solid], their_value[solid], rtol=value_tolerance)
    if scale == 3:
        # Theirs takes the Gaussian at the centres of output pixels and ends it at 2.5 sigma; ours integrates it and
        # goes on to 3. At scale 3 the two forms differ by pixels of 1/3: 1/12 of a variance of (0.8 x 3 / 2.355)^2.
        value, their_value = ours("gaussian")[0], theirs("gaussian")[0]
        both = np.isfinite(value) & np.isfinite(their_value)
        assert both.mean() > 0.8
        assert np.std((value - their_value)[both]) < 0.1 * 200
        assert np.corrcoef(value[both], their_value[both])[0, 1] > 0.99
