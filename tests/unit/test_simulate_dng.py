"""The simulator's camera raw files: what stands in them, read with a TIFF parser that shares nothing with wbpy."""

import struct
from datetime import datetime

import exifread
import numpy as np
import pytest

from wbpy.errors import ConfigError
from wbpy.simulate.dng import XTRANS, DngInfo, dng_bytes, write_dng

PIXELS = np.random.default_rng(3).integers(0, 16384, (13, 20)).astype(np.uint16)


def tags(path):
    with path.open("rb") as file:
        return exifread.process_file(file)


@pytest.mark.parametrize("cfa", ["GBRG", XTRANS, None])
def test_tags_describe_mosaic_and_exposure(tmp_path, cfa):
    info = DngInfo(0.25, 1600, datetime(2024, 3, 1, 22, 3, 4, 250_000), "+01:00", 135.0, 4.0, margins=(1, 2, 0, 0))
    write_dng(tmp_path / "a.dng", PIXELS, cfa, info)
    found = tags(tmp_path / "a.dng")
    assert found["Image ImageWidth"].values == [20]
    assert found["Image ImageLength"].values == [13]
    assert found["Image Tag 0xC68D"].values == [1, 2, 13, 20]
    assert found["Image BlackLevel"].values == [512]
    assert (found["EXIF ExposureTime"].values[0], found["EXIF FocalLength"].values[0]) == (0.25, 135)
    assert found["EXIF ISOSpeedRatings"].values == [1600]
    assert found["EXIF DateTimeOriginal"].values == "2024:03:01 22:03:04"
    assert (found["EXIF SubSecTimeOriginal"].values, found["EXIF OffsetTimeOriginal"].values) == ("250", "+01:00")
    if cfa is None:
        assert "Image CFAPattern" not in found
    else:
        side = 2 if len(cfa) == 4 else 6
        assert found["Image CFARepeatPatternDim"].values == [side, side]
        assert "".join("RGB"[number] for number in found["Image CFAPattern"].values) == cfa


def test_strip_holds_the_pixels_to_the_last_byte(tmp_path):
    content = dng_bytes(PIXELS, "RGGB")
    (tmp_path / "a.dng").write_bytes(content)
    found = tags(tmp_path / "a.dng")
    start, size = found["Image StripOffsets"].values[0], found["Image StripByteCounts"].values[0]
    assert start + size == len(content)
    np.testing.assert_array_equal(np.frombuffer(content, "<u2", offset=start).reshape(PIXELS.shape), PIXELS)


def test_directory_is_sorted_by_tag():
    content = dng_bytes(PIXELS, XTRANS)
    (count,) = struct.unpack_from("<H", content, 8)
    numbers = [struct.unpack_from("<H", content, 10 + 12 * entry)[0] for entry in range(count)]
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize("absent", ["exposure_s", "iso", "start", "zone", "focal_length_mm", "f_number"])
def test_what_is_not_given_is_not_written(tmp_path, absent):
    given = {"start": datetime(2024, 3, 1), "zone": "+00:00", absent: None}
    write_dng(tmp_path / "a.dng", PIXELS, "RGGB", DngInfo(**given))
    names = {
        "exposure_s": "ExposureTime",
        "iso": "ISOSpeedRatings",
        "start": "DateTimeOriginal",
        "zone": "OffsetTimeOriginal",
        "focal_length_mm": "FocalLength",
        "f_number": "FNumber",
    }
    found = set(tags(tmp_path / "a.dng"))
    assert {name for name in names if f"EXIF {names[name]}" not in found} == {absent}


def test_xtrans_pattern_has_the_shares_of_the_sensor():
    rows = [XTRANS[6 * y : 6 * y + 6] for y in range(6)]
    assert {colour: XTRANS.count(colour) for colour in "RGB"} == {"R": 8, "G": 20, "B": 8}
    assert all(set(row) == set("RGB") for row in rows)
    assert all(set(column) == set("RGB") for column in zip(*rows, strict=True))


@pytest.mark.parametrize(
    ("cfa", "info", "says"),
    [
        ("RGB", DngInfo(), "pattern"),
        ("RGGW", DngInfo(), "pattern"),
        ("RGGB", DngInfo(margins=(13, 0, 0, 0)), "margins"),
        ("RGGB", DngInfo(margins=(0, -1, 0, 0)), "margins"),
    ],
)
def test_impossible_files_are_refused(cfa, info, says):
    with pytest.raises(ConfigError, match=says):
        dng_bytes(PIXELS, cfa, info)
