"""Celestial coordinates are moved with the pixels: same star, same place on the sky."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st

from wbpy.io.headers import load_header
from wbpy.io.products import write_fits
from wbpy.io.wcs import Wcs, is_wcs_keyword, read_wcs
from wbpy.io.xisf import write_xisf

PIXELS = np.zeros((40, 60), np.float32)
SCALE = 2e-4
"""Degrees for each pixel."""

LINEAR = [
    ("CTYPE1", "RA---TAN", ""),
    ("CTYPE2", "DEC--TAN", ""),
    ("CRVAL1", 83.633, ""),
    ("CRVAL2", 22.014, ""),
    ("CRPIX1", 25.5, ""),
    ("CRPIX2", 31.25, ""),
]
CD = [("CD1_1", -SCALE, ""), ("CD1_2", 3e-5, ""), ("CD2_1", 2.8e-5, ""), ("CD2_2", SCALE, "")]
POLYNOMIALS = [
    ("A_ORDER", 3, ""),
    ("A_2_0", 2e-5, ""),
    ("A_1_1", -1.5e-5, ""),
    ("A_0_3", 3e-7, ""),
    ("B_ORDER", 2, ""),
    ("B_0_2", 1e-5, ""),
    ("B_2_0", 2.5e-5, ""),
    ("AP_ORDER", 2, ""),
    ("AP_2_0", -2e-5, ""),
    ("BP_ORDER", 2, ""),
    ("BP_0_1", 1e-7, ""),
]


def sip(cards: list[tuple[str, object, str]]) -> list[tuple[str, object, str]]:
    return [(k, f"{v}-SIP" if k.startswith("CTYPE") else v, c) for k, v, c in cards] + POLYNOMIALS


def sky(cards: list, points: np.ndarray) -> np.ndarray:
    """Return what astropy makes of the cards: degrees at 0-based points."""
    header = fits.Header([(k, v, c) for k, v, c in cards])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return WCS(header).all_pix2world(points, 0)


def written(tmp_path: Path, cards: list) -> Wcs | None:
    path = tmp_path / "a.fits"
    write_fits(path, PIXELS, cards)
    return read_wcs(load_header(path))


@pytest.mark.parametrize(
    "cards",
    [
        LINEAR + CD,
        sip(LINEAR + CD),
        [*LINEAR, ("CDELT1", -SCALE, ""), ("CDELT2", SCALE, ""), ("PC1_2", 0.3, ""), ("PC2_1", -0.2, "")],
        [*LINEAR, ("CDELT1", -SCALE, ""), ("CDELT2", SCALE, ""), ("CROTA2", 33.0, "")],
        [*LINEAR, ("CDELT1", -SCALE, ""), ("CDELT2", SCALE, "")],
        [*LINEAR, ("CD1_1", -SCALE, ""), ("CD2_2", SCALE, "")],
        [*LINEAR, *CD, ("LONPOLE", 170.0, ""), ("EQUINOX", 2000.0, ""), ("RADESYS", "ICRS", "")],
    ],
    ids=["CD", "SIP", "PC", "CROTA", "CDELT", "CD with gaps", "pole"],
)
def test_what_is_read_and_written_again_says_the_same_sky(tmp_path: Path, cards: list):
    found = written(tmp_path, cards)
    assert found is not None
    points = np.array([(0, 0), (59, 0), (30.25, 17.5), (59, 39)], float)
    np.testing.assert_allclose(sky(found.cards(), points), sky(cards, points), atol=1e-11)
    assert all(is_wcs_keyword(keyword) for keyword, _, _ in found.cards())


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"RADESYS": "ICRS", "EQUINOX": 2000.0}),
        ({"RADESYS": "FK5"}, {"RADESYS": "FK5", "EQUINOX": 2000.0}),
        ({"EQUINOX": 1950.0}, {"EQUINOX": 1950.0}),
        ({"RADESYS": "FK4"}, {"RADESYS": "FK4"}),
    ],
)
def test_what_the_standard_takes_for_granted_is_written(tmp_path: Path, given: dict, expected: dict):
    found = written(tmp_path, [*LINEAR, *CD, *((k, v, "") for k, v in given.items())])
    assert found is not None
    cards = {k: v for k, v, _ in found.cards()}
    assert {k: cards[k] for k in ("RADESYS", "EQUINOX") if k in cards} == expected
    assert cards["CUNIT1"] == cards["CUNIT2"] == "deg"


@settings(max_examples=30, deadline=None)
@given(
    st.floats(-180, 180), st.floats(0.3, 3), st.floats(-200, 200), st.floats(-200, 200), st.booleans(), st.booleans()
)
def test_moved_coordinates_show_the_same_sky(
    tmp_path_factory: pytest.TempPathFactory, angle: float, scale: float, dx: float, dy: float, mirror: bool, bent: bool
):
    """Exact to the rounding of coordinates: 1e-9 degrees are 5e-6 px."""
    found = written(tmp_path_factory.mktemp("wcs"), sip(LINEAR + CD) if bent else LINEAR + CD)
    assert found is not None
    c, s = scale * np.cos(np.radians(angle)), scale * np.sin(np.radians(angle))
    matrix = np.array([[c, -s, dx], [s, c, dy], [0, 0, 1]]) @ np.diag([-1.0 if mirror else 1.0, 1.0, 1.0])
    new = np.array([(0, 0), (20, 3), (11, 30)], float)
    old = new @ matrix[:2, :2].T + matrix[:2, 2]
    np.testing.assert_allclose(sky(found.moved(matrix).cards(), new), sky(found.cards(), old), atol=1e-9)


def test_a_polynomial_of_one_axis_is_written_with_an_order_for_both(tmp_path: Path):
    found = written(tmp_path, [*LINEAR, *CD, ("A_ORDER", 2, ""), ("A_2_0", 2e-5, "")])
    assert found is not None
    cards = found.cards()
    assert {k: v for k, v, _ in cards if "ORDER" in k} == {"A_ORDER": 2, "B_ORDER": 2}
    assert sky(cards, np.array([[3.0, 4.0]])).shape == (1, 2), "astropy refuses one alone"


def test_inverse_polynomials_move_along(tmp_path: Path):
    """AP and BP give the pixel from the undistorted one; the same star must have the same pixel in both grids."""
    found = written(tmp_path, sip(LINEAR + CD))
    assert found is not None
    matrix = np.array([[0.3, -2.0, 11.0], [2.0, 0.1, -7.0], [0, 0, 1]])
    moved = found.moved(matrix)
    undistorted = np.array([20.0, -9.0])

    def pixel(wcs: Wcs, point: np.ndarray) -> np.ndarray:
        u, v = point
        terms = [sum(k * u**p * v**q for (p, q), k in wcs.sip[name].items()) for name in ("AP", "BP")]
        return wcs.crpix + point + terms

    old = pixel(found, matrix[:2, :2] @ undistorted)
    np.testing.assert_allclose(matrix[:2, :2] @ pixel(moved, undistorted) + matrix[:2, 2], old, atol=1e-9)


@pytest.mark.parametrize(
    "cards",
    [
        [],
        CD,
        LINEAR,
        [*LINEAR, ("CD1_1", 0.0, ""), ("CD2_2", 0.0, "")],
        [*LINEAR[2:], *CD],
        [("CTYPE1", "LAMBDA", ""), ("CTYPE2", "DEC--TAN", ""), *LINEAR[2:], *CD],
        [*LINEAR[:2], ("CRVAL1", "", ""), *LINEAR[3:], *CD],
    ],
    ids=["nothing", "matrix only", "no matrix", "singular", "no type", "a spectrum", "text"],
)
def test_a_header_without_usable_coordinates_gives_none(tmp_path: Path, cards: list):
    assert written(tmp_path, cards) is None


def test_rows_of_xisf_are_counted_from_the_bottom(tmp_path: Path):
    path = tmp_path / "a.xisf"
    write_xisf(path, PIXELS, sip(LINEAR + CD))
    found = read_wcs(load_header(path))
    assert found is not None
    here, there = np.array([[12.0, 5.0]]), np.array([[12.0, 40 - 1 - 5.0]])
    np.testing.assert_allclose(sky(found.cards(), here), sky(sip(LINEAR + CD), there), atol=1e-10)
