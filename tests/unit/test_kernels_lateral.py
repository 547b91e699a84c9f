"""Positions of stars in the colours of a CFA."""

import numpy as np
import pytest

from wbpy.kernels import lateral

RGGB = np.array([[0, 1], [1, 2]], np.uint8)
XTRANS = np.array(["RGB".index(c) for c in "GBGGRGRGRBGBGBGGRGGRGGBGBGBRGRGRGGBG"], np.uint8).reshape(6, 6)


def mosaic(cfa, at, fwhm=2.8, peak=8000.0, noise=0.0, seed=1, size=21):
    """Raw pixels of a star whose three colours lie at `at`."""
    yy, xx = np.mgrid[:size, :size].astype(float)
    s = fwhm / 2.3548
    planes = np.stack([peak * np.exp(-((xx - x) ** 2 + (yy - y) ** 2) / (2 * s * s)) for x, y in at])
    colours = np.tile(cfa, (12, 12))[:size, :size]
    image = np.take_along_axis(planes, colours[None].astype(int), axis=0)[0] + 500.0
    return (image + np.random.default_rng(seed).normal(0, noise, image.shape)).astype(np.float32)


@pytest.mark.parametrize("cfa", [RGGB, RGGB[::-1].copy(), XTRANS], ids=["RGGB", "GBRG", "X-Trans"])
def test_colours_are_found_where_they_are(cfa):
    rng = np.random.default_rng(2)
    for _ in range(10):
        green = rng.uniform(9.5, 10.5, 2)
        at = np.array([green + rng.uniform(-0.5, 0.5, 2), green, green + rng.uniform(-0.5, 0.5, 2)])
        found = lateral.colour_positions(mosaic(cfa, at), 0, 0, cfa, *green, 2.8 / 2.3548)
        np.testing.assert_allclose(found[:, :2], at, atol=1e-3)


def test_the_phase_of_the_pattern_follows_the_frame_not_the_stamp():
    at = np.array([[10.2, 9.9], [10.0, 10.0], [9.8, 10.2]])
    image = mosaic(RGGB, at)
    whole = lateral.colour_positions(image, 0, 0, RGGB, 10.0, 10.0, 1.19)
    part = lateral.colour_positions(image[3:18, 3:18], 3, 3, RGGB, 10.0, 10.0, 1.19)
    np.testing.assert_allclose(part[:, :2], whole[:, :2], atol=2e-3)


def test_errors_are_those_of_the_noise():
    at = np.array([[10.2, 9.9], [10.0, 10.0], [9.8, 10.2]])
    found = np.array(
        [lateral.colour_positions(mosaic(RGGB, at, noise=60.0, seed=s), 0, 0, RGGB, 10, 10, 1.19) for s in range(300)]
    )
    scatter = found[:, :, :2].std(axis=0).mean(axis=1)
    # 300 trials of two axes: the scatter is known to 3 %.
    np.testing.assert_allclose(np.median(found[:, :, 2], axis=0), scatter, rtol=0.15)
    np.testing.assert_allclose(found[:, :, :2].mean(axis=0), at, atol=4 * scatter.max() / np.sqrt(300))


def test_a_wrong_width_does_not_move_colours_against_each_other():
    rng = np.random.default_rng(3)
    differences = []
    for _ in range(100):
        # Over a whole cell of the pattern, on which a single star's error depends.
        green = rng.uniform(9.0, 11.0, 2)
        image = mosaic(RGGB, [green + [0.3, 0.0], green, green - [0.3, 0.0]])
        found = lateral.colour_positions(image, 0, 0, RGGB, *green, 1.25 * 2.8 / 2.3548)
        differences.append(found[0, :2] - found[1, :2])
    assert np.mean(differences, axis=0) == pytest.approx([0.3, 0.0], abs=0.02)


def test_what_is_no_star_gives_nothing():
    flat = np.full((15, 15), 100.0, np.float32)
    assert np.isnan(lateral.colour_positions(flat, 0, 0, RGGB, 7, 7, 1.2)).all()
    tiny = mosaic(RGGB, [[10, 10]] * 3)[9:12, 9:12]
    assert np.isnan(lateral.colour_positions(tiny, 9, 9, RGGB, 10, 10, 1.2)[[0, 2]]).all()
    noise = np.random.default_rng(4).normal(0, 10, (15, 15)).astype(np.float32)
    found = lateral.colour_positions(noise, 0, 0, RGGB, 7, 7, 1.2)
    assert np.isnan(found[:, 0]).sum() >= 1


def test_missing_pixels_do_not_count():
    at = np.array([[10.2, 9.9], [10.0, 10.0], [9.8, 10.2]])
    image = mosaic(RGGB, at)
    image[4, 5] = np.nan
    image[12, 12] = np.nan
    np.testing.assert_allclose(lateral.colour_positions(image, 0, 0, RGGB, 10, 10, 1.19)[:, :2], at, atol=2e-3)
