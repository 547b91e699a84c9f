"""Backgrounds in cells and surfaces between them, against slow twins and known skies."""

import numpy as np
import pytest

from wbpy.kernels import local_normalization as local

SHAPE = (200, 320)
CELL = 32
XTRANS = np.array(["RGB".index(c) for c in "GBGGRGRGRBGBGBGGRGGRGGBGBGBRGRGRGGBG"], np.uint8).reshape(6, 6)
RGGB = np.array([[0, 1], [1, 2]], np.uint8)
EYE = np.eye(3)


@pytest.fixture(autouse=True)
def _quiet_scalars():
    """With the JIT off the kernels are NumPy scalars, which warn of inf - inf where compiled code does not."""
    with np.errstate(invalid="ignore"):
        yield


def sky(seed: int, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """A gradient of 150 DN in a direction of its own and a cloud of 100 DN, about 200 px wide."""
    rng = np.random.default_rng(seed)
    h, w = shape
    y, x = np.mgrid[0:h, 0:w].astype(np.float64)
    turn = rng.uniform(0, 2 * np.pi)
    at_x, at_y = rng.uniform(0, w), rng.uniform(0, h)
    cloud = 100 * np.exp(-((x - at_x) ** 2 + (y - at_y) ** 2) / (2 * 100.0**2))
    return 1000 + 150 * ((x - w / 2) * np.cos(turn) + (y - h / 2) * np.sin(turn)) / w + cloud


def objects(seed: int, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """A nebula and 60 stars."""
    rng = np.random.default_rng(seed)
    h, w = shape
    y, x = np.mgrid[0:h, 0:w].astype(np.float64)
    image = 200 * np.exp(-((x - 0.4 * w) ** 2 + (y - 0.6 * h) ** 2) / (2 * 30.0**2))
    for at_x, at_y, flux in zip(rng.uniform(0, w, 60), rng.uniform(0, h, 60), 300 * rng.pareto(1.2, 60), strict=True):
        image += min(flux, 20_000) * np.exp(-((x - at_x) ** 2 + (y - at_y) ** 2) / (2 * 1.5**2))
    return image


def noisy(image: np.ndarray, sigma: float, seed: int) -> np.ndarray:
    return (image + np.random.default_rng(seed).normal(0, sigma, image.shape)).astype(np.float32)


def test_a_level_is_the_clipped_mean_of_its_cell():
    image = noisy(np.full((64, 96), 500.0), 10.0, 1)
    image[5:9, 40:44] += 3000
    level = local.cell_levels(image, None, EYE, (64, 96), CELL)
    assert level.shape == (1, 2, 3)
    for j in range(2):
        for i in range(3):
            values = image[32 * j : 32 * j + 32, 32 * i : 32 * i + 32].astype(np.float64).ravel()
            for _ in range(20):
                middle, sd = values.mean(), 1.0476 * values.std()
                values = values[np.abs(values - middle) <= 2.5 * sd]
            # About half of the 1024 pixels are read: the two means differ by at most 4 x 10 / sqrt(512).
            assert abs(level[0, j, i] - values.mean()) < 4 * 10 / np.sqrt(512)


def test_every_pixel_is_read_where_a_cell_is_small():
    # 16 x 16 px: 256 pixels, all read, none clipped on a plane of two values.
    image = np.where(np.indices((32, 32)).sum(axis=0) % 2, 100.0, 104.0).astype(np.float32)
    np.testing.assert_array_equal(local.cell_levels(image, None, EYE, (32, 32), 16), 102.0)


@pytest.mark.parametrize("shift", [0, 1, 4])
def test_colours_of_an_xtrans_mosaic_have_levels_of_their_own(shift):
    y, x = np.indices((96, 96)) % 6
    image = np.array([100.0, 200.0, 300.0], np.float32)[XTRANS[y, x]]
    moved = np.array([[1.0, 0, shift], [0, 1, shift], [0, 0, 1]])
    level = local.cell_levels(image, XTRANS, moved, (64, 64), CELL)
    np.testing.assert_array_equal(level[:, 0, 0], [100, 200, 300])


def test_colours_of_a_cfa_have_levels_of_their_own():
    image = np.empty((64, 64), np.float32)
    image[0::2, 0::2], image[0::2, 1::2], image[1::2, 0::2], image[1::2, 1::2] = 100, 200, 202, 300
    level = local.cell_levels(image, RGGB, EYE, (64, 64), CELL)
    np.testing.assert_array_equal(level[:, 0, 0], [100, 201, 300])
    # A shift by one pixel moves the window onto another phase of the CFA: the colours stay what they are.
    shifted = np.array([[1.0, 0, 1], [0, 1, 1], [0, 0, 1]])
    np.testing.assert_allclose(
        local.cell_levels(image, RGGB, shifted, (64, 64), CELL)[:, 0, 0], [100, 201, 300], atol=0.1
    )


def test_a_cell_is_measured_where_the_transform_puts_it_and_missing_outside():
    image = noisy(sky(2), 0.01, 2)
    turned = np.array([[-1.0, 0, SHAPE[1] - 1], [0, -1, SHAPE[0] - 1], [0, 0, 1]])
    here, there = (local.cell_levels(image, None, m, SHAPE, CELL) for m in (EYE, turned))
    # 32 px hold up to 15 DN of gradient; the windows are the same pixels, read in another order.
    np.testing.assert_allclose(there[0, ::-1, ::-1], here[0], atol=0.5)
    moved = np.array([[1.0, 0, 20], [0, 1, 0], [0, 0, 1]])
    level = local.cell_levels(image, None, moved, SHAPE, CELL)
    assert np.isnan(level[0, :, -1]).all() and np.isfinite(level[0, :, :-1]).all()


def test_missing_pixels_are_left_out_and_an_empty_cell_has_no_level():
    image = noisy(np.full((64, 64), 50.0), 1.0, 3)
    image[:32, :32] = np.nan
    image[:32, 32:48] = np.nan
    level = local.cell_levels(image, None, EYE, (64, 64), CELL)
    assert np.isnan(level[0, 0, 0])
    assert level[0, 0, 1] == pytest.approx(50, abs=4 / np.sqrt(128))
    with pytest.raises(ValueError, match="at least 8"):
        local.cell_levels(image, None, EYE, (64, 64), 4)


def applied(values: np.ndarray, shape: tuple[int, int], scale: float = 96.0, cell: int = CELL) -> np.ndarray:
    """Return the surface through `values` at every pixel."""
    found = local.fit_surface(values, shape, cell, scale, cell)
    assert found is not None
    out = np.empty(shape, np.float32)
    local.apply(np.zeros(shape, np.float32), 1.0, found[0], cell, 0, 0, out)
    return out


def test_a_plane_is_kept_up_to_the_edges_and_through_gaps():
    y, x = local.cell_centres(SHAPE[0], CELL), local.cell_centres(SHAPE[1], CELL)
    values = (7 + 0.3 * x[None, :] - 0.2 * y[:, None]).astype(np.float32)
    values[1, 2] = np.nan
    values[:, -1] = np.nan
    rows, columns = np.indices(SHAPE)
    np.testing.assert_allclose(applied(values, SHAPE), 7 + 0.3 * columns - 0.2 * rows, atol=2e-3)


def test_a_cell_that_no_smooth_sky_explains_is_left_out():
    y, x = local.cell_centres(SHAPE[0], CELL), local.cell_centres(SHAPE[1], CELL)
    values = (0.1 * x[None, :] + 0.05 * y[:, None] + np.random.default_rng(4).normal(0, 0.2, (y.size, x.size))).astype(
        np.float32
    )
    clean = applied(values, SHAPE)
    values[3, 4] += 500
    # Without the cell its neighbours decide: within their noise.
    np.testing.assert_allclose(applied(values, SHAPE), clean, atol=0.5)


def test_too_few_cells_give_no_surface():
    values = np.full((6, 10), np.nan, np.float32)
    values[:2, :9] = 3.0
    assert local.fit_surface(values, SHAPE, CELL, 96.0, CELL) is None
    values[:2, :] = 3.0
    assert local.fit_surface(values, SHAPE, CELL, 96.0, CELL) is not None


def test_structures_of_the_asked_size_are_followed_and_smaller_ones_are_not():
    shape, cell = (512, 512), 32
    x = local.cell_centres(512, cell)
    for period, low, high in ((512, 0.85, 1.1), (80, -0.05, 0.35)):
        wave = np.sin(2 * np.pi * x / period) + np.random.default_rng(8).normal(0, 0.3, (x.size, x.size))
        surface = applied(wave.astype(np.float32), shape, scale=128.0, cell=cell)
        columns = np.arange(512)
        kept = np.s_[128:384, 64:448]
        truth = np.tile(np.sin(2 * np.pi * columns / period), (512, 1))
        gain = np.sum(surface[kept] * truth[kept]) / np.sum(truth[kept] ** 2)
        assert low < gain < high, (period, gain)


def test_apply_interpolates_between_its_nodes_as_catmull_and_rom_do():
    rng = np.random.default_rng(5)
    nodes = rng.normal(0, 10, (6, 7))
    plane = rng.normal(100, 5, (40, 50)).astype(np.float32)
    plane[3, 4] = np.nan
    step, x0, y0 = 16, 9, 5
    out = np.empty_like(plane)
    local.apply(plane, 1.25, nodes, step, x0, y0, out)

    def blend(p, t):
        m = 0.5 * np.array([[0, 2, 0, 0], [-1, 0, 1, 0], [2, -5, 4, -1], [-1, 3, -3, 1]])
        return np.array([1, t, t**2, t**3]) @ m @ p

    for i, j in rng.integers(0, 40, (60, 2)):
        (ky, ty), (kx, tx) = (divmod(v, step) for v in (y0 + i, x0 + j))
        surface = blend(np.array([blend(nodes[ky + k, kx : kx + 4], tx / step) for k in range(4)]), ty / step)
        expected = 1.25 * np.float64(plane[i, j]) + surface
        assert out[i, j] == pytest.approx(expected, rel=1e-6, nan_ok=True)
    with pytest.raises(ValueError, match="expected one shape inside the 65 x 49 px"):
        local.apply(plane, 1.0, nodes, step, 20, 0, out)


def test_apply_does_not_depend_on_the_tiles():
    nodes = np.random.default_rng(6).normal(0, 10, (7, 8))
    plane = noisy(sky(6, (60, 80)), 5.0, 6)
    whole = np.empty_like(plane)
    local.apply(plane, 0.9, nodes, 16, 0, 0, whole)
    for y, x, h, w in ((0, 0, 17, 33), (17, 33, 43, 47), (59, 79, 1, 1)):
        tile = np.ascontiguousarray(plane[y : y + h, x : x + w])
        local.apply(tile, 0.9, nodes, 16, x, y, tile)
        np.testing.assert_array_equal(tile, whole[y : y + h, x : x + w])


@pytest.mark.parametrize("cfa", [None, RGGB])
def test_turning_gradients_and_clouds_are_equalized_to_a_fifth_of_what_one_level_leaves(cfa):
    # Truth without noise goes through surfaces found from noisy frames: what is left is the method's own error.
    shape, cell = (384, 512), 64
    thing = objects(7, shape)
    target = thing + sky(70, shape)
    goal = local.cell_levels(noisy(target, 15.0, 70), cfa, EYE, shape, cell)
    left, before = [], []
    for seed in range(71, 76):
        transparency = np.random.default_rng(seed).uniform(0.6, 1.0)
        frame = transparency * thing + sky(seed, shape) * 1.1
        level = local.cell_levels(noisy(frame, 15.0, seed), cfa, EYE, shape, cell)
        k = 1 / transparency
        found = local.fit_surface(goal[-1] - np.float32(k) * level[-1], shape, cell, 192.0, cell)
        assert found is not None
        out = np.empty(shape, np.float32)
        local.apply(frame.astype(np.float32), k, found[0], cell, 0, 0, out)
        left.append(np.mean((out - target) ** 2))
        globally = k * frame - target
        before.append(np.mean((globally - np.median(globally)) ** 2))
    # Clouds 235 px wide, hardly larger than the 192 px that are followed, leave the most.
    assert np.sqrt(np.mean(left) / np.mean(before)) < 0.19


@pytest.mark.parametrize("cfa", [None, RGGB])
def test_statistics_of_a_cell_are_those_of_the_pixels_that_the_transform_names(cfa):
    image = noisy(sky(9), 5.0, 9)
    image[10, 12] = np.nan
    moved = np.array([[1.0, 0, 21], [0, 1, -7], [0, 0, 1]])

    def measure(values):
        assert np.isfinite(values).all() and values.flags.c_contiguous
        return float(values.min()), float(np.mean(values, dtype=np.float64)), float(values.size)

    found = local.cell_statistics(image, cfa, moved, SHAPE, 40, measure, 10**6)
    assert found.shape == (3, 1 if cfa is None else 3, 5, 8)
    rows, columns = np.indices(SHAPE)
    for c in range(found.shape[1]):
        own = np.ones(SHAPE, bool) if cfa is None else cfa[rows % 2, columns % 2] == c
        for j in range(5):
            for i in range(8):
                y0, x0 = 40 * j - 7, 40 * i + 21
                cut = np.s_[max(y0, 0) : y0 + 40, max(x0, 0) : x0 + 40]
                values = image[cut][own[cut] & np.isfinite(image[cut])].astype(np.float64)
                whole = image[cut].size >= 0.8 * 1600
                expected = (values.min(), values.mean(), values.size) if whole else (np.nan,) * 3
                np.testing.assert_allclose(found[:, c, j, i], expected, rtol=1e-6)
    few = local.cell_statistics(image, cfa, moved, SHAPE, 40, measure, 100)
    assert np.nanmax(few[2]) < 2 * 100


def test_a_sided_normalization_has_one_scale_below_and_one_above_its_level():
    rng = np.random.default_rng(10)
    nodes = np.stack([rng.normal(v, s, (6, 7)) for v, s in ((100, 3), (50, 3), (0.8, 0.05), (1.3, 0.05))])
    plane = rng.normal(100, 10, (40, 50)).astype(np.float32)
    plane[3, 4] = np.nan
    out = np.empty_like(plane)
    local.apply_sided(plane, nodes, 16, 9, 5, out)
    surfaces = []
    for values in nodes:
        surface = np.zeros((40, 50), np.float32)
        local.apply(surface, 1.0, values, 16, 9, 5, surface)
        surfaces.append(surface.astype(np.float64))
    m, m0, below, above = surfaces
    away = plane.astype(np.float64) - m
    np.testing.assert_allclose(out, away * np.where(away < 0, below, above) + m0, rtol=1e-5)
    tile = np.ascontiguousarray(plane[10:30, 20:45])
    local.apply_sided(tile, nodes, 16, 29, 15, tile)
    np.testing.assert_array_equal(tile, out[10:30, 20:45])
