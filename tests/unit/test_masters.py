"""Masters in bands: the same whatever the memory, from stored words as from pixels."""

import numpy as np
import pytest

from wbpy.stages import masters
from wbpy.stages.base import Work
from wbpy.stages.masters import MastersParams

SHAPE = (50, 36)


class Frame:
    """A frame of whole numbers in memory, as words or as pixels."""

    def __init__(self, image: np.ndarray, as_words: bool) -> None:
        self.image, self.as_words, self.name, self.shape = image, as_words, "frame.fits", image.shape

    def read(self, y0: int, y1: int) -> np.ndarray:
        return self.image[y0:y1].astype(np.float32)

    def words(self, y0: int, y1: int) -> tuple[np.ndarray, float] | None:
        if not self.as_words:
            return None
        return (self.image[y0:y1] - 32768).astype(">i2").ravel().view(np.uint16), 32768.0


def made(memory: int, as_words: bool, role: str) -> masters.Master:
    rng = np.random.default_rng(8)
    images = [rng.normal(20000 + 300 * number, 90, SHAPE).round() for number in range(9)]
    images[4][10, 11] = 60000
    work = Work(map=map, workers=1, memory=memory, report=lambda *_: None)
    calibration = rng.normal(500, 2, SHAPE).astype(np.float32) if role == "flat" else None
    params = MastersParams(rejection="winsorized", low=4.0, high=3.0)
    return masters.run(params, work, [Frame(image, as_words) for image in images], role, calibration)


@pytest.mark.parametrize("role", ["dark", "flat"])
def test_memory_and_layout_do_not_change_a_bit(role: str) -> None:
    expected = made(1 << 30, True, role)
    assert expected.rejected_high[4] > 0
    for memory, as_words in ((1, True), (40_000, True), (1 << 30, False)):
        found = made(memory, as_words, role)
        np.testing.assert_array_equal(found.image, expected.image)
        assert (found.levels, found.rejected_low, found.rejected_high, found.noise) == (
            expected.levels,
            expected.rejected_low,
            expected.rejected_high,
            expected.noise,
        )


@pytest.mark.parametrize(
    ("width", "count", "memory", "rows"),
    [
        # A stack of 26 rows of 6248 px and 12 frames is 8 MB with what belongs to it.
        (6248, 6, 1 << 40, 26),
        # A thousand frames: as many rows as make a quarter of a megabyte of each.
        (6248, 1000, 1 << 40, 21),
        (6248, 1000, 100_000_000, 3),
        (100, 5, 1 << 40, 1818),
        (6248, 1000, 1, 1),
    ],
)
def test_bands_fit_the_cache_and_the_memory(width: int, count: int, memory: int, rows: int) -> None:
    bands = masters.row_bands(4176, width, width * 4 * (count + 6), memory)
    assert bands[0] == (0, rows) and bands[-1][1] == 4176
    assert all(before[1] == after[0] for before, after in zip(bands, bands[1:], strict=False))
