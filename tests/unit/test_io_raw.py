"""Camera raw: sensor values as they are, the mosaic of the visible area, EXIF as cards, broken files refused."""

import os
import struct
from datetime import datetime

import numpy as np
import pytest
from astropy.io import fits
from conftest import REAL_DATA

from wbpy.config import ScanSettings
from wbpy.errors import ReadError
from wbpy.io.headers import load_header, read_header
from wbpy.io.images import open_image
from wbpy.io.raw import RawFile, read_exif
from wbpy.rules import load_rules
from wbpy.scanning.scanner import scan
from wbpy.simulate.dng import XTRANS, DngInfo, dng_bytes, write_dng

PIXELS = np.random.default_rng(8).integers(0, 16384, (60, 91)).astype(np.uint16)
RULES = load_rules()


def cards(path):
    return {card.keyword: card.value for card in read_header(path)}


def shifted(cfa, down, right):
    side = 2 if len(cfa) == 4 else 6
    return "".join(cfa[(y + down) % side * side + (x + right) % side] for y in range(side) for x in range(side))


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("cfa", ["RGGB", "BGGR", "GRBG", "GBRG", XTRANS, None])
def test_pixels_are_the_values_of_the_sensor(tmp_path, cfa, orientation):
    path = tmp_path / "a.dng"
    write_dng(path, PIXELS, cfa, DngInfo(orientation=orientation))
    with open_image(path) as image:
        assert (image.height, image.width, image.channels, image.banded) == (60, 91, 1, False)
        whole = image.read()
        bands = np.concatenate([image.read(0, 7), image.read(7, 8), image.read(8)])
        assert image.words() is None
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(whole, PIXELS.astype(np.float32))
    np.testing.assert_array_equal(bands, whole)
    assert cards(path).get("BAYERPAT") == cfa
    assert cards(path)["ROWORDER"] == "TOP-DOWN"


@pytest.mark.parametrize("margins", [(0, 2, 4, 0), (3, 5, 1, 2), (13, 9, 0, 7), (20, 31, 5, 6)])
@pytest.mark.parametrize("cfa", ["RGGB", "GRBG", XTRANS])
def test_pattern_is_that_of_the_visible_area(tmp_path, cfa, margins):
    path = tmp_path / "a.dng"
    write_dng(path, PIXELS, cfa, DngInfo(margins=margins))
    header = load_header(path)
    with open_image(path) as image:
        pixels = image.read()
    assert header.axes == (image.width, image.height)
    # LibRaw lets Bayer areas begin at even rows and columns, so that one may be missing at each side.
    top, left = next(
        (y, x)
        for y in (margins[0], margins[0] + 1)
        for x in (margins[1], margins[1] + 1)
        if np.array_equal(pixels, PIXELS[y : y + image.height, x : x + image.width])
    )
    assert header.get("BAYERPAT") == shifted(cfa, top - margins[0], left - margins[1])
    assert image.height >= 60 - margins[0] - margins[2] - 1
    assert image.width >= 91 - margins[1] - margins[3] - 1


def test_black_level_is_known_and_stays_in_the_pixels(tmp_path):
    path = tmp_path / "a.dng"
    write_dng(path, np.full((40, 40), 600, np.uint16) + np.eye(40, dtype=np.uint16), "RGGB", DngInfo(black_level=512))
    with RawFile(str(path)) as image:
        assert image.black_level == (512.0,) * 4
        assert image.white_level == 16383
        assert image.read().min() == 600.0
    assert (cards(path)["RAWBLACK"], cards(path)["RAWWHITE"]) == (512.0, 16383)


def test_exif_becomes_cards_with_fits_keywords(tmp_path):
    path = tmp_path / "a.dng"
    start = datetime(2024, 3, 1, 22, 3, 4, 250_000)
    write_dng(path, PIXELS, "RGGB", DngInfo(1 / 15, 1600, start, "+01:00", 135.0, 4.0, "Canon", "Canon EOS 6D"))
    found = cards(path)
    assert found["EXPTIME"] == pytest.approx(1 / 15, rel=1e-6)  # the file stores a fraction of whole numbers
    assert found["ISOSPEED"] == 1600
    assert found["DATE-LOC"] == "2024-03-01T22:03:04.250"
    assert found["DATE-OBS"] == "2024-03-01T22:03:04.250+01:00"
    assert found["INSTRUME"] == "Canon EOS 6D"
    assert (found["FOCALLEN"], found["FOCRATIO"]) == (135.0, 4.0)
    assert "IMAGETYP" not in found


def test_clock_without_a_zone_is_local_time_and_no_utc(tmp_path):
    path = tmp_path / "a.dng"
    write_dng(path, PIXELS, "RGGB", DngInfo(start=datetime(2024, 3, 1, 22, 3, 4)))
    assert cards(path)["DATE-LOC"] == "2024-03-01T22:03:04"
    assert "DATE-OBS" not in cards(path)


def test_focal_length_without_an_aperture_is_a_placeholder(tmp_path):
    path = tmp_path / "a.dng"
    write_dng(path, PIXELS, "RGGB", DngInfo(focal_length_mm=50.0, f_number=None))
    assert "FOCALLEN" not in cards(path)


def test_make_is_put_before_a_model_that_does_not_name_it(tmp_path):
    path = tmp_path / "a.dng"
    write_dng(path, PIXELS, "RGGB", DngInfo(make="SONY", model="ILCE-7M3"))
    assert cards(path)["INSTRUME"] == "SONY ILCE-7M3"
    write_dng(path, PIXELS, "RGGB", DngInfo(make="NIKON CORPORATION", model="NIKON D750"))
    assert cards(path)["INSTRUME"] == "NIKON D750"


def test_what_the_camera_does_not_say_is_absent(tmp_path):
    path = tmp_path / "a.dng"
    write_dng(path, PIXELS, "RGGB", DngInfo(None, None, None, None, None, None))
    assert set(cards(path)) == {"INSTRUME", "BAYERPAT", "ROWORDER", "RAWBLACK", "RAWWHITE"}


@pytest.mark.parametrize("kept", [0, 3, 15, 100, 300, 500, 700, 5000, -1])
def test_file_that_ends_early_is_refused(tmp_path, kept):
    path = tmp_path / "a.dng"
    path.write_bytes(dng_bytes(PIXELS, "RGGB")[:kept])
    for attempt in (load_header, open_image):
        with pytest.raises(ReadError, match=r"a\.dng: "):
            attempt(path)


def test_file_that_ends_early_is_told_with_its_bytes(tmp_path):
    path = tmp_path / "a.dng"
    content = dng_bytes(PIXELS, "RGGB")
    path.write_bytes(content[:-100])
    with pytest.raises(ReadError, match=rf"ends after {len(content) - 100} of {len(content)} bytes"):
        load_header(path)


def test_picture_without_any_contrast_is_no_picture(tmp_path):
    path = tmp_path / "a.dng"
    write_dng(path, np.full((40, 40), 7, np.uint16), "RGGB")
    with pytest.raises(ReadError, match="all pixels are 7"):
        load_header(path)


def test_rows_and_channels_outside_are_mistakes_of_the_caller(tmp_path):
    path = tmp_path / "a.dng"
    write_dng(path, PIXELS, "RGGB")
    with open_image(path) as image:
        with pytest.raises(ValueError, match="rows 0 to 61"):
            image.read(0, 61)
        with pytest.raises(ValueError, match="channel 1"):
            image.read(channel=1)


# Containers that the simulator does not write ------------------------------------------------------------------


def box(kind, content):
    return struct.pack(">I4s", 8 + len(content), kind) + content


def directory(*entries):
    """Return a little-endian TIFF with one directory of (tag, kind, count, content)."""
    at = 8 + 2 + 12 * len(entries) + 4
    fixed, behind = struct.pack("<2sHIH", b"II", 42, 8, len(entries)), b""
    for tag, kind, count, content in entries:
        place = content.ljust(4, b"\0") if len(content) <= 4 else struct.pack("<I", at + len(behind))
        behind += content if len(content) > 4 else b""
        fixed += struct.pack("<HHI", tag, kind, count) + place
    return fixed + bytes(4) + behind


def canon_box(shot_info):
    parts = [
        box(b"CMT1", directory((271, 2, 6, b"Canon\0"), (272, 2, 10, b"Canon EOS\0"))),
        box(b"CMT2", directory((33434, 5, 1, struct.pack("<II", 30, 1)), (34855, 3, 1, struct.pack("<H", 3200)))),
        box(b"CMT3", directory((4, 3, len(shot_info), struct.pack(f"<{len(shot_info)}H", *shot_info)))),
    ]
    inner = box(b"uuid", bytes.fromhex("85c0b687820f11e08111f4ce462b6a48") + b"".join(parts))
    return box(b"ftyp", b"crx \0\0\0\1") + box(b"moov", box(b"mvhd", bytes(20)) + inner)


def test_boxes_of_cr3_hold_the_exif(tmp_path):
    path = tmp_path / "a.cr3"
    path.write_bytes(canon_box([0] * 12 + [150, 0]))
    found = read_exif(str(path))
    assert found["Image Model"].values == "Canon EOS"
    assert found["EXIF ExposureTime"].values[0] == 30
    assert found["EXIF ISOSpeedRatings"].values == [3200]
    assert found["Canon Tag 0x0004"].values[12] == 150


def test_cr3_whose_pixels_are_missing_is_refused_with_its_bytes(tmp_path):
    path = tmp_path / "a.cr3"
    content = canon_box([0] * 14)
    path.write_bytes(content + struct.pack(">I4s", 5000, b"mdat") + bytes(10))
    with pytest.raises(ReadError, match=rf"of {len(content) + 5000} bytes"):
        load_header(path)


def test_preview_of_raf_holds_the_exif(tmp_path):
    path = tmp_path / "a.raf"
    tiff = directory((271, 2, 9, b"FUJIFILM\0"), (272, 2, 5, b"X-T2\0"))
    exif = b"Exif\0\0" + tiff
    jpeg = b"\xff\xd8\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + b"\xff\xd9"
    head = b"FUJIFILMCCD-RAW ".ljust(84, b"0") + struct.pack(">6I", 108, len(jpeg), 0, 0, 0, 0)
    path.write_bytes(head + jpeg)
    assert read_exif(str(path))["Image Model"].values == "X-T2"
    path.write_bytes(head[:92] + struct.pack(">4I", 0, 0, 4000, 800) + jpeg)
    with pytest.raises(ReadError, match="of 4800 bytes"):
        load_header(path)


def test_real_offset_of_panasonic_counts(tmp_path):
    path = tmp_path / "a.rw2"
    strip = (273, 4, 1, b"\xff" * 4), (279, 4, 1, struct.pack("<I", 500))
    content = directory(*strip, (280, 4, 1, struct.pack("<I", 54))).ljust(554, b"\0")
    path.write_bytes(content)
    with pytest.raises(ReadError, match="cannot be decoded"):
        load_header(path)
    path.write_bytes(content[:-1])
    with pytest.raises(ReadError, match="ends after 553 of 554 bytes"):
        load_header(path)


@pytest.mark.parametrize("content", [b"", b"FUJIFILMCCD-RAW ", b"II*\0\xff\xff\xff\xff", b"\0\0\0\x18ftypcrx \0\0\0\1"])
def test_damaged_exif_is_none(tmp_path, content):
    path = tmp_path / "a.raw"
    path.write_bytes(content)
    assert read_exif(str(path)) == {}


# In the scan ---------------------------------------------------------------------------------------------------


def scan_one(path, **settings):
    (entry,) = scan([path.parent], RULES, ScanSettings(**settings)).entries
    return entry


def test_raw_frames_fill_the_columns_that_fits_frames_fill(tmp_path):
    start = datetime(2024, 3, 1, 22, 3, 4)
    path = tmp_path / "lights" / "a.dng"
    path.parent.mkdir()
    write_dng(path, PIXELS, "GRBG", DngInfo(60.0, 800, start, "+01:00", 135.0, 4.0, "Canon", "Canon EOS 6D"))
    (entry,) = scan([tmp_path], RULES, ScanSettings(row_order="BOTTOM-UP")).entries
    frame = entry.frame
    assert (entry.held_back, frame.role, frame.format, frame.camera) == (None, "light", "raw", "Canon EOS 6D")
    assert (frame.exposure, frame.iso, frame.focal_length, frame.dn_per_unit) == (60.0, 800.0, 135.0, 1.0)
    assert (frame.width, frame.height, frame.cfa, frame.row_order) == (91, 60, "GRBG", "TOP-DOWN")
    assert (frame.date_obs, frame.night) == ("2024-03-01T21:03:04.000Z", "2024-03-01")
    assert {source.field: source.keyword for source in entry.sources}["exposure"] == "EXPTIME"


@pytest.mark.parametrize("role", ["lights", "flats", "darks", "bias"])
def test_xtrans_frames_are_read_with_their_pattern(tmp_path, role):
    path = tmp_path / role / "a.dng"
    path.parent.mkdir()
    write_dng(path, PIXELS, XTRANS)
    entry = scan([tmp_path], RULES, ScanSettings()).entries[0]
    assert (entry.frame.cfa, entry.held_back) == (XTRANS, None)


def test_xtrans_lights_can_be_taken_as_grey(tmp_path):
    path = tmp_path / "lights" / "a.dng"
    path.parent.mkdir()
    write_dng(path, PIXELS, XTRANS)
    entry = scan_one(path, cfa="none", role="light")
    assert (entry.frame.cfa, entry.held_back) == (None, None)


BROKEN = "Canon-R6-pruned.CR3 CanonRaw.cr2 CanonRaw.cr3 CanonRaw.crw DNG.dng FujiFilm.raf IMG_1361.dng Issue_247-1.nef"
BROKEN += " Issue_247-2.nef Minolta.mrw Nikon.nef Panasonic.rw2 Sigma.x3f SigmaDP2.x3f canon.raw.cr2"


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="real camera raw files are not here")
@pytest.mark.parametrize("name", BROKEN.split())
def test_broken_raw_of_a_real_camera_is_one_finding(name):
    path = REAL_DATA / "raw_samples" / name
    with pytest.raises(ReadError, match="expected"):
        load_header(path)
    catalog = scan([path], RULES, ScanSettings(role="light"))
    (entry,) = catalog.entries
    assert [finding.id for finding in entry.findings] == [entry.held_back] == ["FIL002"]
    assert os.path.basename(entry.path) == name


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="real camera raw files are not here")
def test_whole_raw_of_other_people_reads():
    path = REAL_DATA / "raw_samples" / "emubayer_test.dng"
    header = load_header(path)
    assert (header.axes, header.bitpix, header.get("BAYERPAT")) == ((1024, 1024), 16, "RGGB")
    stored = np.frombuffer(path.read_bytes(), "<u2", 1024 * 1024, offset=266).reshape(1024, 1024)
    with open_image(path) as image:
        np.testing.assert_array_equal(image.read(), stored.astype(np.float32))


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="real camera raw files are not here")
def test_raw_without_a_mosaic_is_told_by_its_planes():
    path = REAL_DATA / "raw_samples" / "RAW_KODAK_C330_FORMAT_NONE_YRGB.raw"
    assert load_header(path).axes == (1216, 912, 3)
    (entry,) = scan([path], RULES, ScanSettings(role="light")).entries
    assert [finding.id for finding in entry.findings] == [entry.held_back] == ["SCN008"]
    with open_image(path) as image, pytest.raises(ReadError, match="holds 3 values for each pixel"):
        image.read()


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="real camera raw files are not here")
@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("CanonRaw.cr2", {"Image Model": "Canon EOS 350D DIGITAL", "EXIF DateTimeOriginal": "2005:08:03 18:59:18"}),
        ("Canon-R6-pruned.CR3", {"Image Model": "Canon EOS R6", "EXIF OffsetTimeOriginal": "+02:00"}),
        ("FujiFilm.raf", {"Image Model": "FinePix S5Pro  ", "EXIF DateTimeOriginal": "2007:05:22 13:58:30"}),
        ("Issue_247-1.nef", {"Image Model": "NIKON D70s", "EXIF DateTimeOriginal": "2010:03:01 21:50:21"}),
        ("Panasonic.rw2", {"Image Model": "DMC-LX3", "EXIF DateTimeOriginal": "2008:08:06 15:21:56"}),
    ],
)
def test_exif_of_real_cameras_is_found_in_every_container(name, wanted):
    found = read_exif(str(REAL_DATA / "raw_samples" / name))
    assert {key: found[key].values for key in wanted} == wanted


@pytest.mark.parametrize("height", [16, 17, 18])
@pytest.mark.parametrize("row_order", ["TOP-DOWN", "BOTTOM-UP"])
@pytest.mark.parametrize(("right", "down"), [(0, 0), (1, 0), (2, 5)])
def test_xtrans_pattern_in_fits_follows_rows_and_offsets(tmp_path, height, row_order, right, down):
    colours = np.array(list(XTRANS)).reshape(6, 6)
    picture = np.roll(np.tile(colours, (4, 4)), (-down, -right), (0, 1))[:height, :16]
    stored = picture[::-1] if row_order == "BOTTOM-UP" else picture
    unit = fits.PrimaryHDU(np.arange(16 * height, dtype=np.uint16).reshape(height, 16))
    unit.header.update(BAYERPAT=XTRANS, ROWORDER=row_order, XBAYROFF=right, YBAYROFF=down, IMAGETYP="FLAT")
    unit.writeto(tmp_path / "a.fits")
    entry = scan_one(tmp_path / "a.fits")
    assert entry.frame.cfa == "".join(stored[:6, :6].ravel())


def test_letters_that_are_no_xtrans_pattern_are_unknown(tmp_path):
    unit = fits.PrimaryHDU(np.arange(256, dtype=np.uint16).reshape(16, 16))
    unit.header.update(BAYERPAT="RGGB" * 9, IMAGETYP="FLAT")
    unit.writeto(tmp_path / "a.fits")
    entry = scan_one(tmp_path / "a.fits")
    assert entry.frame.cfa is None
    assert "SCN004" in [finding.id for finding in entry.findings]
