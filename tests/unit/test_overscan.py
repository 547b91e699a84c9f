"""Overscan regions from texts and headers, and frames that are read through them."""

from __future__ import annotations

import numpy as np
import pytest

from wbpy.errors import ConfigError
from wbpy.rules import load_rules
from wbpy.stages.overscan import (
    CorrectedReader,
    Overscan,
    Rect,
    Whole,
    from_header,
    from_settings,
    of_master,
    parse_rect,
    region_level,
)


def test_rectangles_are_counted_from_zero_with_ends_excluded() -> None:
    assert parse_rect(" 0:24; 0:6388 ") == parse_rect("0:24,0:6388") == Rect(0, 24, 0, 6388)


@pytest.mark.parametrize("text", ["", "1:2", "5:5;0:9", "9:3;0:9", "a:b;c:d", "[1:2,3:4]"])
def test_text_that_is_no_rectangle_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="rectangle"):
        parse_rect(text)


def test_settings_take_one_to_four_regions() -> None:
    region = "0:4;0:9 > 4:12;0:9"
    assert from_settings([region] * 4, "4:12;0:9").regions[3] == (Rect(0, 4, 0, 9), Rect(4, 12, 0, 9))
    for wrong in ([], [region] * 5, ["0:4;0:9"]):
        with pytest.raises(ConfigError, match="overscan.regions"):
            from_settings(wrong, "4:12;0:9")


def test_header_sections_are_counted_from_one_with_ends_included() -> None:
    found = from_header({"BIASSEC": "[101:110,1:50]", "TRIMSEC": "[3:100,1:50]"})
    assert found == Overscan(((Rect(100, 110, 0, 50), Rect(2, 100, 0, 50)),), Rect(2, 100, 0, 50))
    assert from_header({"BIASSEC": "[101:110,1:50]"}) is None
    assert from_header({"BIASSEC": "none", "TRIMSEC": 4}) is None


def test_sections_of_several_amplifiers_each_correct_their_own_part() -> None:
    halves = {
        "BIASSEC1": "[1:10,1:50]",
        "DATASEC1": "[11:60,1:50]",
        "BIASSEC2": "[111:120,1:50]",
        "TRIMSEC2": "[61:110,1:50]",
        "BIASSEC": "[1:10,1:50]",
    }
    regions = ((Rect(0, 10, 0, 50), Rect(10, 60, 0, 50)), (Rect(110, 120, 0, 50), Rect(60, 110, 0, 50)))
    assert from_header(halves) == Overscan(regions, Rect(10, 110, 0, 50))
    assert from_header({**halves, "TRIMSEC": "[13:108,3:48]"}) == Overscan(regions, Rect(12, 108, 2, 48))
    four = {f"{name}{n}": f"[{n},1:9]" for name in ("BIASSEC", "TRIMSEC") for n in range(1, 5)}
    assert from_header(four) is None
    four = {f"{name}{n}": f"[{n}:{n},1:9]" for name in ("BIASSEC", "TRIMSEC") for n in range(1, 5)}
    assert len(from_header(four).regions) == 4


def test_section_of_the_data_serves_where_none_is_to_be_kept() -> None:
    cards = {"BIASSEC": "[101:110,1:50]", "DATASEC": "[3:100,1:50]"}
    assert from_header(cards) == Overscan(((Rect(100, 110, 0, 50), Rect(2, 100, 0, 50)),), Rect(2, 100, 0, 50))


def test_rectangles_turn_with_the_rows() -> None:
    there = from_settings(["0:60;0:4 > 6:54;4:40"], "6:54;4:38")
    image = frame()
    image[:4] -= 100
    up = CorrectedReader(Whole(image[::-1].copy(), "x"), there.turned(40)).read(0, 34)
    np.testing.assert_array_equal(up[::-1], CorrectedReader(Whole(image, "x"), there).read(0, 34))


def test_what_is_known_of_cameras_describes_their_frames() -> None:
    known = [one for sensor in load_rules().sensors.values() for one in sensor.overscan]
    assert known
    for one in known:
        found = from_settings(one.regions, one.image)
        assert found.matches((one.height, one.width))
        assert found.on_whole_cells(2) == found
        # No source reaches into what it corrects, nor into the picture.
        for source, target in (*found.regions, *((source, found.image) for source, _ in found.regions)):
            apart = source.x1 <= target.x0 or source.x0 >= target.x1 or source.y1 <= target.y0 or source.y0 >= target.y1
            assert apart


def test_picture_of_a_mosaic_begins_on_even_pixels() -> None:
    odd = Overscan(((Rect(0, 3, 0, 9), Rect(3, 9, 0, 9)),), Rect(3, 9, 1, 9))
    assert odd.on_whole_cells(2).image == Rect(4, 9, 2, 9)


def frame() -> np.ndarray:
    rng = np.random.default_rng(1)
    image = rng.normal(900, 4, (40, 60)).astype(np.float32)
    image[:, :6] -= 400
    image[:, 54:] -= 300
    return image


TWO_SIDES = Overscan(
    ((Rect(0, 6, 0, 40), Rect(6, 30, 0, 40)), (Rect(54, 60, 0, 40), Rect(30, 54, 0, 40))), Rect(6, 54, 2, 38)
)


def test_each_target_loses_the_median_of_its_source() -> None:
    image = frame()
    image[3, 2], image[4, 2] = 0, 65535  # ends of the range do not count
    reader = CorrectedReader(Whole(image, "x"), TWO_SIDES)
    valid = np.sort(image[:, :6].ravel())[1:-1]
    expected = image.astype(np.float64)
    expected[:, 6:30] -= np.median(valid)
    expected[:, 30:54] -= np.median(image[:, 54:])
    assert reader.shape == (36, 48)
    np.testing.assert_allclose(reader.read(0, 36), expected[2:38, 6:54], atol=1e-4)
    np.testing.assert_array_equal(np.vstack([reader.read(0, 5), reader.read(5, 36)]), reader.read(0, 36))
    assert reader.words(0, 3) is None


def test_target_with_two_sources_loses_their_mean() -> None:
    target = Rect(6, 54, 0, 40)
    both = Overscan(((Rect(0, 6, 0, 40), target), (Rect(54, 60, 0, 40), target)), target)
    image = frame()
    mean = (np.median(image[:, :6]) + np.median(image[:, 54:])) / 2
    np.testing.assert_allclose(CorrectedReader(Whole(image, "x"), both).read(0, 40), image[:, 6:54] - mean, atol=1e-4)


def test_spread_shows_a_slope_within_the_region() -> None:
    image = frame()
    flat_level, flat_spread = region_level(Whole(image, "x"), Rect(0, 6, 0, 40))
    image[:, :6] += np.linspace(-20, 20, 40, dtype=np.float32)[:, None]
    level, spread = region_level(Whole(image, "x"), Rect(0, 6, 0, 40))
    # Thirty pixels of 4 DN a part: medians good to 0.9 DN; the outer eighths are 35 DN apart.
    assert flat_spread < 6 and 30 < spread < 42
    assert level == pytest.approx(flat_level, abs=3)


def test_region_without_valid_pixels_corrects_nothing() -> None:
    image = frame()
    image[:, :6] = 65535
    reader = CorrectedReader(Whole(image, "x"), TWO_SIDES)
    np.testing.assert_array_equal(reader.read(0, 36)[:, :24], image[2:38, 6:30])


def test_finished_masters_are_brought_into_the_size_of_the_picture() -> None:
    image = frame()
    whole = CorrectedReader(Whole(image, "x"), TWO_SIDES).read(0, 36)
    np.testing.assert_array_equal(of_master(image, TWO_SIDES, is_flat=False), whole)
    np.testing.assert_array_equal(of_master(image, TWO_SIDES, is_flat=True), image[2:38, 6:54])
    np.testing.assert_array_equal(of_master(whole, TWO_SIDES, is_flat=False), whole)
