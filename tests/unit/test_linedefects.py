"""Lists of defective lines and how they join those that were found."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wbpy.stages.linedefects import merged, parse_list

SHAPE = (20, 30)


def test_list_of_linear_defect_detection_gives_lines() -> None:
    found = parse_list("# found\n\nCol 4\ncol 11 9 3\nRow 19 0 12  # the last\nRow 0\n", SHAPE)
    assert found.lines.tolist() == [[0, 4, 0, 20], [0, 11, 3, 10], [1, 0, 0, 30], [1, 19, 0, 13]]
    assert found.outside == 0


def test_what_lies_outside_is_cut_off_and_counted() -> None:
    found = parse_list("Col 30\nCol -1\nRow 20\nCol 3 15 40\nRow 2 -5 -1\n", SHAPE)
    assert found.lines.tolist() == [[0, 3, 15, 20]]
    assert found.outside == 5


@pytest.mark.parametrize("line", ["Pixel 3 4", "Col", "Col 1 2", "Row a", "4 5"])
def test_entry_that_is_no_line_is_named(line: str) -> None:
    with pytest.raises(ValueError, match=f"line 2 is '{line}'"):
        parse_list(f"Col 1\n{line}\n", SHAPE)


def test_empty_list_has_no_lines() -> None:
    assert parse_list("", SHAPE).lines.shape == (0, 4)
    assert merged(np.empty((0, 4), np.int64)).shape == (0, 4)


LINES = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 3), st.integers(0, 9), st.integers(1, 9)), max_size=12)


@settings(max_examples=50, deadline=None)
@given(LINES, LINES)
def test_merged_lines_cover_what_their_sources_cover_once(
    one: list[tuple[int, ...]], two: list[tuple[int, ...]]
) -> None:
    def cells(lines: np.ndarray) -> list[tuple[int, int, int]]:
        return [(a, i, at) for a, i, start, stop in lines.tolist() for at in range(start, stop)]

    sources = [np.array([(a, i, s, s + n) for a, i, s, n in lines], np.int64).reshape(-1, 4) for lines in (one, two)]
    found = cells(merged(*sources))
    assert len(found) == len(set(found))
    assert set(found) == {cell for source in sources for cell in cells(source)}
