"""Where integrations lie on the sky: linear maps nearest to a transform, and pixels that a treatment cut or joined."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from wbpy.engine import astrometry, overscanning
from wbpy.io.products import write_fits
from wbpy.stages.overscan import Overscan, Rect
from wbpy.stages.register import Transform

SHAPE = (80, 120)
CARDS = [
    ("CTYPE1", "RA---TAN", ""),
    ("CTYPE2", "DEC--TAN", ""),
    ("CRVAL1", 83.6, ""),
    ("CRVAL2", 22.0, ""),
    ("CRPIX1", 50.0, ""),
    ("CRPIX2", 30.0, ""),
    ("CD1_1", -2e-4, ""),
    ("CD1_2", 1e-5, ""),
    ("CD2_1", 2e-5, ""),
    ("CD2_2", 2e-4, ""),
]


def sky(cards: list, point: tuple[float, float]) -> np.ndarray:
    return WCS(fits.Header([(k, v, c) for k, v, c in cards])).all_pix2world([point], 0)[0]


def test_a_linear_transform_is_its_own_nearest_linear_map():
    matrix = np.array([[0.98, 0.17, 12.0], [-0.17, 0.98, -5.0], [0, 0, 1.0]])
    found, error = astrometry.linearized(Transform(matrix, 0.1, 9, "affine"), SHAPE)
    np.testing.assert_allclose(found, matrix, atol=1e-10)
    assert error < 1e-9


def test_the_error_of_a_perspective_is_that_of_the_worst_point():
    matrix = np.array([[1.0, 0, 3.0], [0, 1.0, 4.0], [2e-5, -1e-5, 1.0]])
    found, error = astrometry.linearized(Transform(matrix, 0.1, 9, "homography"), SHAPE)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    points = np.column_stack([x.ravel(), y.ravel()])
    exact = Transform(matrix, 0.1, 9, "homography").apply(points.astype(float))
    linear = points @ found[:2, :2].T + found[:2, 2]
    worst = np.hypot(*(np.linalg.inv(found[:2, :2]) @ (exact - linear).T)).max()
    assert error == pytest.approx(worst, rel=1e-3), "a corner, which is one of the points of the fit"
    assert 0.05 < error < 0.5


def test_a_displacement_counts_as_error_too():
    nodes = np.zeros((1, 2, 3, 2))
    nodes[0, 0, 1] = 0.5, 0.0
    bent = Transform(np.eye(3), 0.1, 9, "similarity", nodes, 60)
    assert astrometry.linearized(bent, SHAPE)[1] > 0.1


def of_light(path: Path, image: tuple[int, int], monkeypatch: Any, where: Overscan | None = None) -> Any:
    monkeypatch.setattr(overscanning, "where", lambda context, frame: where)
    frame = SimpleNamespace(path=str(path), format="fits")
    light = SimpleNamespace(frame=frame, image=SimpleNamespace(shape=image))
    return astrometry._sky_of_light(SimpleNamespace(frames={str(path): frame}), light)


def test_coordinates_follow_pixels_that_an_overscan_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_fits(tmp_path / "a.fits", np.zeros(SHAPE, np.float32), CARDS)
    where = Overscan((), Rect(16, 116, 4, 74))
    found = of_light(tmp_path / "a.fits", (70, 100), monkeypatch, where)
    np.testing.assert_allclose(sky(found.cards(), (10, 20)), sky(CARDS, (26, 24)), atol=1e-11)


def test_coordinates_follow_pixels_that_were_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_fits(tmp_path / "a.fits", np.zeros(SHAPE, np.float32), CARDS)
    found = of_light(tmp_path / "a.fits", (40, 60), monkeypatch)
    # The centre of the first of 2 x 2 joined pixels lies half a pixel to the right and below of the first one's.
    np.testing.assert_allclose(sky(found.cards(), (0, 0)), sky(CARDS, (0.5, 0.5)), atol=1e-11)
    np.testing.assert_allclose(sky(found.cards(), (10, 20)), sky(CARDS, (20.5, 40.5)), atol=1e-11)


def test_a_light_without_coordinates_or_without_a_readable_file_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_fits(tmp_path / "a.fits", np.zeros(SHAPE, np.float32))
    assert of_light(tmp_path / "a.fits", SHAPE, monkeypatch) is None
    assert of_light(tmp_path / "gone.fits", SHAPE, monkeypatch) is None
