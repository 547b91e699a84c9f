"""Freed memory stays with the process while a run lasts, and goes back when it is wanted."""

import numpy as np
import psutil
import pytest

from wbpy.engine import memory

SIZE = 96_000_000

pytestmark = pytest.mark.skipif(memory._library() is None, reason="the C library is not glibc")


def resident() -> int:
    return int(psutil.Process().memory_info().rss)


def test_freed_blocks_stay_until_they_are_given_back() -> None:
    with memory.kept():
        # What earlier tests of this process have freed would serve the block without new memory.
        memory.give_back()
        before = resident()
        block = np.full(SIZE, 1, np.uint8)
        held = resident()
        assert held - before > 0.8 * SIZE
        del block
        assert held - resident() < 0.2 * SIZE, "the block went back at once"
        memory.give_back()
        assert held - resident() > 0.8 * SIZE


def test_the_end_of_a_run_leaves_nothing_behind() -> None:
    before = resident()
    with memory.kept():
        block = np.full(SIZE, 1, np.uint8)
        del block
    assert resident() - before < 0.2 * SIZE
    block = np.full(SIZE, 1, np.uint8)
    del block
    assert resident() - before < 0.2 * SIZE, "blocks are kept after the run"
