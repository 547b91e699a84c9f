import numpy as np
import pytest

from wbpy.kernels.vng import HALO, vng

PATTERNS = {
    "RGGB": np.array([[0, 1], [1, 2]], dtype=np.uint8),
    "BGGR": np.array([[2, 1], [1, 0]], dtype=np.uint8),
    "GRBG": np.array([[1, 0], [2, 1]], dtype=np.uint8),
    "GBRG": np.array([[1, 2], [0, 1]], dtype=np.uint8),
}
ALL = pytest.mark.parametrize("cfa", PATTERNS.values(), ids=PATTERNS.keys())


def run(mosaic, cfa):
    out = np.full((3, *mosaic.shape), -9999, dtype=np.float32)
    vng(mosaic, cfa, out)
    return out


def picture(cfa, side=70, seed=1):
    """Mosaic of coloured stars and noise, negative and beyond 65535 DN in places."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((side, side), dtype=np.float64)
    rgb = np.zeros((3, side, side))
    for u, v in rng.uniform(0, side, (20, 2)):
        rgb += np.exp(rng.normal(9.5, 1.2, 3))[:, None, None] * np.exp(-((x - u) ** 2 + (y - v) ** 2) / 3)
    rgb += rng.normal(0, 40, rgb.shape)
    rows, columns = np.indices((side, side)) % 2
    return np.take_along_axis(rgb, cfa[rows, columns][None].astype(np.int64), 0)[0].astype(np.float32)


def slow_vng(mosaic, cfa):
    """Pixel by pixel in float64, every sum written out as in the paper's figures for one direction and then turned."""
    h, w = mosaic.shape
    c = np.pad(mosaic.astype(np.float64), 4, mode="reflect")
    out = np.empty((3, h, w))
    for y in range(h):
        for x in range(w):
            # The window and its colours, turned by quarters, so that only north and north-east need formulas.
            values = c[y + 2 : y + 7, x + 2 : x + 7]
            kinds = np.array([[cfa[(y + j) % 2, (x + i) % 2] for i in range(-2, 3)] for j in range(-2, 3)])
            gradients, means = [], []
            for turn in range(4):
                v, k = np.rot90(values, turn), np.rot90(kinds, turn)
                side = [abs(v[1, i] - v[3, i]) + abs(v[0, i] - v[2, i]) for i in (1, 2, 3)]
                gradients.append(side[1] + 0.5 * side[0] + 0.5 * side[2])
                means.append(north(v, k))
                diagonal = abs(v[1, 3] - v[3, 1]) + abs(v[0, 4] - v[2, 2])
                if k[2, 2] == 1:
                    diagonal += abs(v[0, 3] - v[2, 1]) + abs(v[1, 4] - v[3, 2])
                else:
                    diagonal += 0.5 * (abs(v[1, 2] - v[2, 1]) + abs(v[2, 3] - v[3, 2]))
                    diagonal += 0.5 * (abs(v[0, 3] - v[1, 2]) + abs(v[1, 4] - v[2, 3]))
                gradients.append(diagonal)
                means.append(north_east(v, k))
            limit = 1.5 * min(gradients) + 0.5 * (max(gradients) - min(gradients))
            chosen = np.mean([m for g, m in zip(gradients, means, strict=True) if g <= limit], axis=0)
            own = kinds[2, 2]
            out[:, y, x] = values[2, 2] + chosen - chosen[own]
            out[own, y, x] = values[2, 2]
    return out


def north(v, k):
    """Mean of each colour about the pixel above the middle."""
    means, own = np.empty(3), k[2, 2]
    means[own] = (v[2, 2] + v[0, 2]) / 2
    means[k[1, 2]] = v[1, 2]
    rest = 3 - own - k[1, 2]
    means[rest] = (v[1, 1] + v[1, 3]) / 2 if own != 1 else (v[2, 1] + v[2, 3] + v[0, 1] + v[0, 3]) / 4
    return means


def north_east(v, k):
    means, own = np.empty(3), k[2, 2]
    if own == 1:
        means[1] = v[1, 3]
        means[k[2, 3]] = (v[2, 3] + v[0, 3]) / 2
        means[k[1, 2]] = (v[1, 2] + v[1, 4]) / 2
    else:
        means[own] = (v[2, 2] + v[0, 4]) / 2
        means[1] = (v[1, 2] + v[2, 3] + v[0, 3] + v[1, 4]) / 4
        means[2 - own] = v[1, 3]
    return means


@ALL
@pytest.mark.parametrize("shape", [(2, 2), (3, 5), (14, 19)])
def test_vng_equals_its_slow_twin(cfa, shape):
    mosaic = np.random.default_rng(3).normal(500, 300, shape).astype(np.float32)
    np.testing.assert_allclose(run(mosaic, cfa), slow_vng(mosaic, cfa), rtol=1e-5, atol=0.01)


@ALL
def test_measured_samples_are_kept_and_flat_colour_stays_flat(cfa):
    mosaic = picture(cfa)
    y, x = np.indices(mosaic.shape) % 2
    kept = np.take_along_axis(run(mosaic, cfa), cfa[y, x][None].astype(np.int64), 0)[0]
    np.testing.assert_array_equal(kept, mosaic)
    truth = np.array([500.0, 2000.0, -1200.0])
    flat = truth[cfa[y, x]].astype(np.float32)
    np.testing.assert_allclose(run(flat, cfa), truth[:, None, None] * np.ones((3, *flat.shape)), rtol=1e-6)


@ALL
@pytest.mark.parametrize("gaps", [False, True])
def test_a_window_with_its_halo_has_the_bits_of_the_frame(cfa, gaps):
    frame = picture(cfa)
    if gaps:
        frame[np.random.default_rng(2).random(frame.shape) < 0.02] = np.nan
        frame[:, 50:] = np.nan
    whole = run(frame, cfa)
    for y0, y1, x0, x1 in [(20, 41, 16, 47), (0, 13, 30, 31), (51, 70, 25, 70), (22, 23, 0, 70)]:
        top, left = max(0, y0 - HALO), max(0, x0 - HALO)
        window = np.ascontiguousarray(frame[top : y1 + HALO, left : x1 + HALO])
        part = run(window, np.roll(cfa, (-top, -left), (0, 1)))
        np.testing.assert_array_equal(part[:, y0 - top : y1 - top, x0 - left : x1 - left], whole[:, y0:y1, x0:x1])


@ALL
def test_a_missing_pixel_is_missing_in_all_colours_and_beside_it_only_where_interpolated(cfa):
    mosaic = picture(cfa, 40)
    mosaic[20, 21] = np.nan
    y, x = np.indices((40, 40)) % 2
    expected = np.zeros((3, 40, 40), bool)
    expected[:, 19:22, 20:23] = np.arange(3)[:, None, None] != cfa[y, x][19:22, 20:23]
    expected[:, 20, 21] = True
    np.testing.assert_array_equal(np.isnan(run(mosaic, cfa)), expected)


def test_the_decoder_of_camera_raw_files_has_the_same_algorithm(tmp_path):
    """LibRaw's VNG of the same mosaic, in whole DN: equal but for ties and rounding."""
    import rawpy

    from wbpy.simulate.dng import DngInfo, write_dng

    y, x = np.indices((600, 600), dtype=np.float64)
    rgb = np.stack([9000 + 5000 * np.sin(x / (5 + c)) * np.cos(y / (7 - c)) for c in range(3)])
    cfa = PATTERNS["RGGB"]
    mosaic = np.rint(np.take_along_axis(rgb, cfa[y.astype(int) % 2, x.astype(int) % 2][None], 0)[0])
    write_dng(tmp_path / "a.dng", mosaic.astype(np.uint16), "RGGB", DngInfo(black_level=0))
    with rawpy.imread(str(tmp_path / "a.dng")) as raw:
        theirs = raw.postprocess(
            demosaic_algorithm=rawpy.DemosaicAlgorithm.VNG, output_color=rawpy.ColorSpace.raw, gamma=(1, 1),
            no_auto_bright=True, no_auto_scale=True, output_bps=16, user_wb=[1, 1, 1, 1], user_black=0, user_flip=0,
        )  # fmt: skip
    inner = np.s_[20:-20, 20:-20]
    ours = run(mosaic.astype(np.float32), cfa)
    for c in range(3):
        difference = np.abs(ours[c][inner] - theirs[..., c][inner])
        assert np.median(difference) < 2 and np.mean(difference > 4) < 0.1, c
