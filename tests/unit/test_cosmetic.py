"""Which pixels count as defects: lists of three programs, the master dark in three ways, the light itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wbpy.stages import cosmetic
from wbpy.stages.cosmetic import CosmeticParams, parse_list

SHAPE = (20, 30)
RGGB = np.array([[0, 1], [1, 2]], np.uint8)


def pixels(text: str, siril: bool = False) -> set[tuple[int, int]]:
    y, x = np.divmod(parse_list(text, SHAPE, siril).indices, SHAPE[1])
    return set(zip(x.tolist(), y.tolist(), strict=True))


def test_own_list_names_pixels_and_lines() -> None:
    text = "# made by hand\nPixel 3 4\npixel 29 19  # the last one\n\nCol 7 5 9\nRow 2 28 40\n"
    assert pixels(text) == {(3, 4), (29, 19)} | {(7, y) for y in range(5, 10)} | {(28, 2), (29, 2)}
    assert parse_list(text, SHAPE).outside == 1


def test_list_of_linear_defect_detection_is_read() -> None:
    assert pixels("Col 4\nCol 11 0 3\n") == {(4, y) for y in range(20)} | {(11, y) for y in range(4)}
    assert pixels("Row 0\nRow 19 29 27\n") == {(x, 0) for x in range(30)} | {(x, 19) for x in (27, 28, 29)}


def test_list_of_siril_counts_rows_from_the_top() -> None:
    """Siril stores the upper row of a picture last: row 0 of its list is the last one of the file."""
    assert pixels("P 5 0 H\nP 6 19 C\nP 7 3\n", siril=True) == {(5, 19), (6, 0), (7, 16)}
    assert pixels("L 0 0 H\n", siril=True) == {(x, 19) for x in range(30)}
    assert pixels("C 8 0\n", siril=True) == {(8, y) for y in range(20)}


@pytest.mark.parametrize("line", ["Pixel 3", "Col", "Row a", "Blob 1 2", "Col 1 2", "3 4"])
def test_line_that_is_not_understood_is_named(line: str) -> None:
    with pytest.raises(ValueError, match=f"line 2 is '{line}'"):
        parse_list(f"Pixel 1 1\n{line}\n", SHAPE)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(-5, 40), st.integers(-5, 40)), max_size=30))
def test_every_pixel_inside_is_listed_once_and_those_outside_are_counted(places: list[tuple[int, int]]) -> None:
    found = parse_list("\n".join(f"Pixel {x} {y}" for x, y in places), SHAPE)
    inside = [(x, y) for x, y in places if 0 <= x < 30 and 0 <= y < 20]
    assert sorted({y * 30 + x for x, y in inside}) == found.indices.tolist()
    assert found.outside == len(places) - len(inside)


def dark(seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    image = rng.normal(500, 3, (64, 80)).astype(np.float32)
    image[10, 20], image[11, 30], image[40, 50], image[5, 5] = 900, 700, 560, 300
    return image


def flat(*places: tuple[int, int]) -> list[int]:
    return sorted(y * 80 + x for y, x in places)


def test_dark_gives_defects_by_sigma_level_or_share() -> None:
    by_sigma = cosmetic.defects(CosmeticParams(), dark(), None)
    assert by_sigma.tolist() == flat((10, 20), (11, 30), (40, 50))
    by_level = cosmetic.defects(CosmeticParams(dark_by="level", dark_level=650), dark(), None)
    assert by_level.tolist() == flat((10, 20), (11, 30))
    by_share = cosmetic.defects(CosmeticParams(dark_by="share", dark_share=1.5 / 5120), dark(), None)
    assert by_share.tolist() == flat((10, 20))


def test_cold_pixels_of_the_dark_are_taken_when_asked_for() -> None:
    found = cosmetic.defects(CosmeticParams(dark_cold_sigma=10.0), dark(), None)
    assert found.tolist() == flat((10, 20), (11, 30), (40, 50), (5, 5))


@pytest.mark.parametrize("by", ["sigma", "level", "share"])
def test_missing_pixel_of_the_dark_is_a_defect(by: str) -> None:
    image = dark()
    image[33, 44] = np.nan
    params = CosmeticParams(dark_by=by, dark_level=650, dark_share=0.001)
    assert 33 * 80 + 44 in cosmetic.defects(params, image, None)


def test_nothing_is_known_without_a_dark() -> None:
    assert cosmetic.defects(CosmeticParams(dark_by="share"), None, None).size == 0


def test_replaced_pixels_are_counted_by_source_and_plane() -> None:
    rng = np.random.default_rng(2)
    light = rng.normal(1000, 5, (64, 80)).astype(np.float32)
    light[20, 20], light[21, 40], light[30, 31], light[31, 51] = 9000, 8000, 100, 7000
    known = np.array([31 * 80 + 51])
    result = cosmetic.run(CosmeticParams(hot_sigma=30, cold_sigma=30), light, known, RGGB)
    assert (result.known, result.hot, result.cold) == (1, 2, 1)
    assert result.planes == (1, 1, 1, 1)
    assert np.all(np.abs(light - 1000) < 40)
