"""XISF: every block layout and codec gives the same pixels, metadata become cards, what lies is refused unread."""

import base64
import hashlib
import tracemalloc
import zlib
from datetime import UTC, datetime

import numpy as np
import pytest
from conftest import REAL_DATA

from wbpy.config import ScanSettings
from wbpy.errors import ReadError
from wbpy.io.headers import load_header, read_header
from wbpy.io.images import open_image
from wbpy.io.xisf import XisfWriter, write_xisf
from wbpy.rules import load_rules
from wbpy.scanning.scanner import scan

RNG = np.random.default_rng(12)
SHAPE = (21, 13)
RULES = load_rules()
STORED = {
    "UInt8": RNG.integers(0, 256, SHAPE, dtype=np.uint8),
    "UInt16": RNG.integers(0, 65536, SHAPE, dtype=np.uint16),
    "UInt32": RNG.integers(0, 2**32, SHAPE, dtype=np.uint32),
    "Float32": RNG.random(SHAPE, dtype=np.float32),
    "Float64": RNG.random(SHAPE),
}
FULL_RANGE = {"UInt8": 255, "UInt16": 65535, "UInt32": 2**32 - 1, "Float32": 1, "Float64": 1}


def document(image):
    header = f'<?xml version="1.0"?><xisf version="1.0" xmlns="http://www.pixinsight.com/xisf">{image}</xisf>'.encode()
    return b"XISF0100" + len(header).to_bytes(4, "little") + bytes(4) + header


def attached(data, attributes="", inside="", geometry=None):
    """Return a file with one attached block of `data`."""
    geometry = geometry or 'geometry="13:21:1" sampleFormat="UInt16"'
    image = f'<Image {geometry} {attributes} location="attachment:2000:{len(data)}">{inside}</Image>'
    return document(image).ljust(2000, b"\0") + data


def shuffled(content, item):
    """Return the bytes in the order that the specification calls shuffled, written out as loops."""
    count = len(content) // item
    out = bytearray()
    for byte in range(item):
        for number in range(count):
            out.append(content[number * item + byte])
    return bytes(out) + content[count * item :]


def write(path, content):
    path.write_bytes(content)
    return path


def read(path, channel=0):
    header = load_header(path)
    with open_image(path, header.dn_per_unit or 1.0) as image:
        whole = image.read(channel=channel)
        parts = [image.read(0, 5, channel), image.read(5, 6, channel), image.read(6, None, channel)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert whole.dtype == np.float32
    return whole


def cards(path):
    found = {}
    for card in read_header(path):
        found.setdefault(card.keyword, card.value)
    return found


def as_dn(kind, data):
    return (data.astype(np.float64) * (65535.0 / FULL_RANGE[kind])).astype(np.float32)


# Samples and layouts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", STORED)
def test_every_sample_format_reads_as_dn_of_the_16_bit_scale(tmp_path, kind, order):
    data = STORED[kind].astype(STORED[kind].dtype.newbyteorder(order))
    attributes = 'bounds="0:1"' if "Float" in kind else ""
    attributes += ' byteOrder="big"' if order == ">" else ""
    geometry = f'geometry="13:21:1" sampleFormat="{kind}"'
    path = write(tmp_path / "a.xisf", attached(data.tobytes(), attributes, geometry=geometry))
    # float32 has 24 bits: what is scaled in it is right to a unit or two of the last.
    np.testing.assert_allclose(read(path), as_dn(kind, STORED[kind]), rtol=2e-7)
    if kind in ("UInt8", "UInt16"):
        np.testing.assert_array_equal(read(path), as_dn(kind, STORED[kind]))


def test_bounds_say_what_is_black_and_white(tmp_path):
    data = RNG.uniform(-1, 3, SHAPE).astype(np.float32)
    geometry = 'geometry="13:21:1" sampleFormat="Float32" bounds="-1:3"'
    path = write(tmp_path / "a.xisf", attached(data.tobytes(), geometry=geometry))
    np.testing.assert_allclose(read(path), (data.astype(np.float64) + 1) / 4 * 65535, rtol=1e-6, atol=1e-2)


def test_missing_and_infinite_values_are_missing_pixels(tmp_path):
    data = STORED["Float32"].copy()
    data[2, 3], data[4, 5], data[6, 7] = np.nan, np.inf, -np.inf
    write_xisf(tmp_path / "a.xisf", data)
    assert np.argwhere(np.isnan(read(tmp_path / "a.xisf"))).tolist() == [[2, 3], [4, 5], [6, 7]]


@pytest.mark.parametrize("storage", ["Planar", "Normal"])
@pytest.mark.parametrize("packed", [True, False])
def test_planes_are_told_apart_in_both_storage_models(tmp_path, storage, packed):
    planes = RNG.integers(0, 65536, (3, *SHAPE), dtype=np.uint16)
    content = (planes if storage == "Planar" else np.moveaxis(planes, 0, -1)).tobytes()
    attributes = f'pixelStorage="{storage}" colorSpace="RGB"'
    if packed:
        attributes += f' compression="zlib:{len(content)}"'
        content = zlib.compress(content)
    geometry = 'geometry="13:21:3" sampleFormat="UInt16"'
    path = write(tmp_path / "a.xisf", attached(content, attributes, geometry=geometry))
    assert load_header(path).axes == (13, 21, 3)
    for channel in range(3):
        np.testing.assert_array_equal(read(path, channel), planes[channel].astype(np.float32))
    with open_image(path) as image:
        assert image.banded is not packed
        with pytest.raises(ValueError, match="channel 3"):
            image.read(channel=3)
        with pytest.raises(ValueError, match="rows 0 to 22"):
            image.read(0, 22)


@pytest.mark.parametrize("encoding", ["base64", "hex"])
@pytest.mark.parametrize("place", ["embedded", "inline"])
def test_blocks_in_the_header_read_like_attached_ones(tmp_path, place, encoding):
    content = STORED["UInt16"].tobytes()
    text = base64.b64encode(content).decode() if encoding == "base64" else content.hex()
    text = "\n  ".join(text[at : at + 60] for at in range(0, len(text), 60))
    inside = f'<Data encoding="{encoding}">{text}</Data>' if place == "embedded" else text
    location = place if place == "embedded" else f"inline:{encoding}"
    image = f'<Image geometry="13:21:1" sampleFormat="UInt16" location="{location}">{inside}</Image>'
    path = write(tmp_path / "a.xisf", document(image))
    np.testing.assert_array_equal(read(path), STORED["UInt16"].astype(np.float32))


def test_embedded_block_may_be_compressed_at_its_own_element(tmp_path):
    content = STORED["UInt16"].tobytes()
    text = base64.b64encode(zlib.compress(shuffled(content, 2))).decode()
    data = f'<Data encoding="base64" compression="zlib+sh:{len(content)}:2">{text}</Data>'
    image = f'<Image geometry="13:21:1" sampleFormat="UInt16" location="embedded">{data}</Image>'
    np.testing.assert_array_equal(read(write(tmp_path / "a.xisf", document(image))), STORED["UInt16"])


def packers():
    import lz4.block
    import zstandard

    return {
        "zlib": zlib.compress,
        "lz4": lambda content: lz4.block.compress(content, store_size=False),
        "lz4hc": lambda content: lz4.block.compress(content, mode="high_compression", store_size=False),
        "zstd": zstandard.ZstdCompressor().compress,
    }


@pytest.mark.parametrize("item", [1, 2, 4])
@pytest.mark.parametrize("codec", ["zlib", "lz4", "lz4hc", "zstd"])
def test_every_codec_unpacks_with_and_without_shuffling(tmp_path, codec, item):
    content = STORED["UInt16"].tobytes()
    packed = packers()[codec](shuffled(content, item))
    mark = f"{codec}:{len(content)}" if item == 1 else f"{codec}+sh:{len(content)}:{item}"
    path = write(tmp_path / "a.xisf", attached(packed, f'compression="{mark}"'))
    np.testing.assert_array_equal(read(path), STORED["UInt16"].astype(np.float32))


@pytest.mark.parametrize("codec", ["zlib", "lz4", "zstd"])
def test_parts_of_a_block_are_joined_before_unshuffling(tmp_path, codec):
    content = shuffled(STORED["UInt16"].tobytes(), 2)
    pieces = [content[:100], content[100:101], content[101:]]
    packed = [packers()[codec](piece) for piece in pieces]
    sizes = ":".join(f"{len(a)},{len(b)}" for a, b in zip(packed, pieces, strict=True))
    attributes = f'compression="{codec}+sh:{len(content)}:2" subblocks="{sizes}"'
    path = write(tmp_path / "a.xisf", attached(b"".join(packed), attributes))
    np.testing.assert_array_equal(read(path), STORED["UInt16"].astype(np.float32))


@pytest.mark.parametrize("name", ["sha1", "sha-1", "SHA-256", "sha512", "sha3-256", "sha3-512"])
@pytest.mark.parametrize("packed", [True, False])
def test_checksums_are_verified_over_the_stored_bytes(tmp_path, name, packed):
    content = STORED["UInt16"].tobytes()
    attributes = f'compression="zlib:{len(content)}" ' if packed else ""
    content = zlib.compress(content) if packed else content
    plain = name.lower().replace("-", "")
    digest = hashlib.new({"sha3256": "sha3_256", "sha3512": "sha3_512"}.get(plain, plain), content).hexdigest()
    good = write(tmp_path / "a.xisf", attached(content, f'{attributes}checksum="{name}:{digest}"'))
    np.testing.assert_array_equal(read(good), STORED["UInt16"].astype(np.float32))
    damaged = bytearray(good.read_bytes())
    damaged[-3] ^= 1
    bad = write(tmp_path / "b.xisf", bytes(damaged))
    with open_image(bad) as image, pytest.raises(ReadError, match="checksum"):
        image.read(0, 1)


# What lies -----------------------------------------------------------------------------------------------------

GOOD = STORED["UInt16"].tobytes()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"XISF0100", "begins with"),
        (b"XISF0100\xff\xff\xff\xff" + bytes(4), "of at least"),
        (document("<Image"), "XML header is damaged"),
        (document(""), "holds no image"),
        (document("<A>" * 100), "nests deeper"),
        (attached(GOOD)[:-1], "ends after 2545 of 2546 bytes"),
        (attached(GOOD, geometry='geometry="13:21:1" sampleFormat="UInt64"'), "UInt64"),
        (attached(GOOD, geometry='geometry="13:21:1" sampleFormat="Complex32"'), "Complex32"),
        (attached(GOOD, geometry='geometry="13:1" sampleFormat="UInt16"'), "geometry is '13:1'"),
        (attached(GOOD, geometry='geometry="13:-21:1" sampleFormat="UInt16"'), "geometry is"),
        (attached(GOOD, geometry='geometry="0:21:1" sampleFormat="UInt16"'), "geometry is"),
        (attached(GOOD, geometry='geometry="13:22:1" sampleFormat="UInt16"'), "have 546 bytes, expected 572"),
        (attached(GOOD, geometry='geometry="9999999:9999999:9" sampleFormat="UInt16"'), "geometry is"),
        (attached(GOOD, 'bounds="1:0"'), "bounds"),
        (attached(GOOD, 'bounds="nan:1"'), "bounds"),
        (attached(GOOD, 'byteOrder="middle"'), "byteOrder"),
        (attached(GOOD, 'compression="rar:546"'), "compression is"),
        (attached(GOOD, 'compression="zlib:546:2"'), "compression is"),
        (attached(GOOD, 'compression="zlib+sh:546:99"'), "item size"),
        (attached(GOOD, 'compression="zlib:546" subblocks="1,2:3"'), "subblocks"),
        (attached(GOOD, 'compression="zlib:546" subblocks="1,2:3,4"'), "do not add up"),
        (attached(GOOD, 'checksum="sha1:00"'), "checksum is"),
        (attached(GOOD, 'checksum="md5:00"'), "checksum is"),
        (document('<Image geometry="13:21:1" sampleFormat="UInt16" location="url(file:/etc/passwd)"/>'), "outside"),
        (document('<Image geometry="13:21:1" sampleFormat="UInt16" location="embedded"/>'), "element Data"),
        (document('<Image geometry="1:1:1" sampleFormat="UInt8" location="inline:base64">!!</Image>'), "damaged"),
        (document('<Image geometry="1:1:1" sampleFormat="UInt8" location="inline:rot13">aa</Image>'), "encoding"),
    ],
)
def test_header_that_lies_is_refused_with_a_sentence(tmp_path, content, says):
    path = write(tmp_path / "a.xisf", content)
    for attempt in (load_header, open_image):
        with pytest.raises(ReadError, match=says):
            attempt(path)


@pytest.mark.parametrize("codec", ["zlib", "lz4", "zstd"])
@pytest.mark.parametrize("content", [b"", b"nonsense" * 9, "short", "long"])
def test_damaged_compression_is_a_read_error(tmp_path, codec, content):
    if content == "short":
        content = packers()[codec](GOOD[:-1])
    elif content == "long":
        content = packers()[codec](GOOD + b"\0")
    path = write(tmp_path / "a.xisf", attached(content, f'compression="{codec}:{len(GOOD)}"'))
    with open_image(path) as image, pytest.raises(ReadError, match=r"a\.xisf: the (pixels|zlib|lz4|zstd)"):
        image.read()


ENTITIES = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))


@pytest.mark.parametrize(
    "kind",
    [
        f'<!DOCTYPE xisf [<!ENTITY a0 "lol">{ENTITIES}]>',
        '<!DOCTYPE xisf [<!ENTITY a9 SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE xisf SYSTEM "http://localhost/a.dtd">',
    ],
)
def test_entities_are_never_expanded(tmp_path, kind):
    header = f'<?xml version="1.0"?>{kind}<xisf><Image>&a9;</Image></xisf>'.encode()
    path = write(tmp_path / "a.xisf", b"XISF0100" + len(header).to_bytes(4, "little") + bytes(4) + header)
    with pytest.raises(ReadError, match="document type"):
        load_header(path)


@pytest.mark.parametrize("codec", ["zlib", "lz4", "zstd"])
def test_announced_gigabytes_are_not_allocated(tmp_path, codec):
    side = 60_000
    geometry = f'geometry="{side}:{side}:1" sampleFormat="UInt16"'
    packed = packers()[codec](bytes(1_000_000))
    path = write(tmp_path / "a.xisf", attached(packed, f'compression="{codec}:{2 * side**2}"', geometry=geometry))
    tracemalloc.start()
    with pytest.raises(ReadError, match="is not unpacked"):
        open_image(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


@pytest.mark.parametrize("codec", ["zlib", "zstd"])
def test_block_that_unpacks_to_more_than_announced_stops_at_that(tmp_path, codec):
    packed = packers()[codec](bytes(200_000_000))
    path = write(tmp_path / "a.xisf", attached(packed, f'compression="{codec}:{len(GOOD)}"'))
    tracemalloc.start()
    with open_image(path) as image, pytest.raises(ReadError, match="unpack to 547 bytes"):
        image.read()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


def test_file_that_shrinks_while_being_read_is_an_error(tmp_path):
    path = write(tmp_path / "a.xisf", attached(GOOD))
    with open_image(path) as image:
        write(path, attached(GOOD)[:-200])
        with pytest.raises(ReadError, match="became shorter"):
            image.read()


# Cards ---------------------------------------------------------------------------------------------------------


def keyword(name, value, comment=""):
    return f'<FITSKeyword name="{name}" value="{value}" comment="{comment}"/>'


def prop(id, value, kind="Float32"):
    if kind == "String":
        return f'<Property id="{id}" type="String">{value}</Property>'
    return f'<Property id="{id}" type="{kind}" value="{value}"/>'


def test_fits_keywords_are_typed_like_those_of_fits_files(tmp_path):
    inside = keyword("EXPTIME", "30.", "Exposure (s)") + keyword("OBJECT", "'M 42    '") + keyword("XBINNING", "2")
    inside += keyword("FLIPPED", "T") + keyword("HISTORY", "", "one &amp; only") + keyword("COMMENT", "'quoted'")
    inside += keyword("NOTE", "'it''s'") + keyword("PATH", "a/b") + keyword("BITPIX", "16") + keyword("NAXIS1", "13")
    path = write(tmp_path / "a.xisf", attached(GOOD, inside=inside))
    found = cards(path)
    assert (found["EXPTIME"], found["OBJECT"], found["XBINNING"], found["FLIPPED"]) == (30.0, "M 42", 2, True)
    assert (found["HISTORY"], found["COMMENT"], found["NOTE"], found["PATH"]) == ("one & only", "quoted", "it's", "a/b")
    assert not {"BITPIX", "NAXIS1"} & set(found)
    assert {card.keyword: card.comment for card in read_header(path)}["EXPTIME"] == "Exposure (s)"


def test_properties_fill_in_what_keywords_do_not_say(tmp_path):
    inside = keyword("EXPTIME", "30.") + prop("Instrument:ExposureTime", 31) + prop("Instrument:Camera:Gain", 0.25)
    inside += prop("Instrument:Telescope:FocalLength", 0.53) + prop("Instrument:Camera:Name", "ASI 2600", "String")
    inside += prop("Observation:Time:Start", "2024-03-01T22:03:04.5Z", "TimePoint")
    inside += prop("Instrument:Sensor:Temperature", -10.5) + prop("Instrument:Sensor:TargetTemperature", -10)
    found = cards(write(tmp_path / "a.xisf", attached(GOOD, inside=inside)))
    assert found["EXPTIME"] == 30.0
    assert (found["EGAIN"], found["FOCALLEN"], found["INSTRUME"]) == (0.25, 530.0, "ASI 2600")
    assert (found["DATE-OBS"], found["CCD-TEMP"], found["SET-TEMP"]) == ("2024-03-01T22:03:04.5Z", -10.5, -10)
    assert "GAIN" not in found


def test_properties_may_stand_outside_of_the_image(tmp_path):
    image = f'<Image geometry="13:21:1" sampleFormat="UInt16" location="inline:hex">{GOOD.hex()}'
    image += '<Reference ref="exposure"/></Image>'
    image += prop("Instrument:Filter:Name", "Ha", "String")
    image += '<Property uid="exposure" id="Instrument:ExposureTime" type="Float32" value="2"/>'
    found = cards(write(tmp_path / "a.xisf", document(image)))
    assert (found["EXPTIME"], found["FILTER"]) == (2, "Ha")


@pytest.mark.parametrize("attribute", ["Light", "MasterDark", "Bias"])
def test_image_type_counts_where_no_keyword_says_it(tmp_path, attribute):
    path = write(tmp_path / "a.xisf", attached(GOOD, f'imageType="{attribute}"'))
    (entry,) = scan([path], RULES, ScanSettings()).entries
    roles = {"Light": ("light", False), "MasterDark": ("dark", True), "Bias": ("bias", False)}
    assert (entry.frame.role, entry.frame.is_master) == roles[attribute]


def test_contradiction_between_image_type_and_keyword_is_reported(tmp_path):
    inside = keyword("IMAGETYP", "'Flat Field'")
    path = write(tmp_path / "a.xisf", attached(GOOD, 'imageType="Dark"', inside))
    (entry,) = scan([path], RULES, ScanSettings()).entries
    assert entry.frame.role == "flat"
    assert "SCN005" in [finding.id for finding in entry.findings]


def test_rows_begin_at_the_top_whatever_a_copied_keyword_says(tmp_path):
    inside = keyword("ROWORDER", "'BOTTOM-UP'") + keyword("BAYERPAT", "'RGGB'") + keyword("IMAGETYP", "'LIGHT'")
    path = write(
        tmp_path / "a.xisf", attached(GOOD[:520], inside=inside, geometry='geometry="13:20:1" sampleFormat="UInt16"')
    )
    (entry,) = scan([path], RULES, ScanSettings()).entries
    assert (entry.frame.row_order, entry.frame.cfa) == ("TOP-DOWN", "RGGB")


@pytest.mark.parametrize(
    "inside",
    [
        prop("PCL:CFASourcePattern", "GBRG", "String"),
        '<ColorFilterArray pattern="GBRG" width="2" height="2"/>',
        keyword("BAYERPAT", "'RGGB'") + prop("PCL:CFASourcePattern", "GBRG", "String"),
    ],
)
def test_pattern_of_the_format_goes_before_the_keyword(tmp_path, inside):
    assert cards(write(tmp_path / "a.xisf", attached(GOOD, inside=inside)))["BAYERPAT"] == "GBRG"


def test_pattern_that_debayered_images_keep_is_not_theirs(tmp_path):
    inside = prop("PCL:CFASourcePattern", "GBRG", "String")
    geometry = 'geometry="13:7:3" sampleFormat="UInt16"'
    assert "BAYERPAT" not in cards(write(tmp_path / "a.xisf", attached(GOOD, inside=inside, geometry=geometry)))


def test_scale_of_the_format_reaches_the_frame(tmp_path):
    cases = [("UInt16", "", 1.0), ("UInt16", 'bounds="0:4095"', 65535 / 4095), ("Float32", 'bounds="0:1"', 65535.0)]
    cases.append(("Float32", 'bounds="0:65535"', 1.0))
    for kind, bounds, wanted in cases:
        data = STORED[kind].tobytes()
        geometry = f'geometry="13:21:1" sampleFormat="{kind}" {bounds} imageType="Light"'
        path = write(tmp_path / "a.xisf", attached(data, geometry=geometry))
        (entry,) = scan([path], RULES, ScanSettings()).entries
        assert (entry.frame.dn_per_unit, entry.frame.format) == (pytest.approx(wanted), "xisf")


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="files of PixInsight are not here")
def test_files_of_pixinsight_read_right():
    folder = REAL_DATA / "odd_headers" / "xisf"
    header = load_header(folder / "test.xisf")
    assert (header.axes, header.bitpix, header.get("EXPTIME"), header.get("FILTER")) == ((8, 10), 16, 1.0, "Red")
    assert (header.get("IMAGETYP"), header.get("GAIN"), header.get("OBJCTRA")) == ("Light Frame", 90.0, "23 57 19.63")
    first, last = [5, 7, 4, 2, 1, 1, 1, 5], [4, 8, 9, 7, 6, 7, 6, 3]
    with open_image(folder / "test.xisf") as image:
        pixels = image.read()
    assert (pixels[0].tolist(), pixels[-1].tolist()) == (first, last)
    with open_image(folder / "2ch.xisf") as image:
        both = np.concatenate([image.read(channel=0), image.read(channel=1)])
    np.testing.assert_array_equal(both.ravel(), pixels.ravel())


# Writing -------------------------------------------------------------------------------------------------------

CARDS = [
    ("IMAGETYP", "Master Dark", "type of image"),
    ("EXPTIME", 1.5, "[s]"),
    ("OBJECT", 'M 42 <O\'Hara> & "co"', ""),
    ("NCOMBINE", 3, "frames"),
    ("FOCALLEN", 530.0, "[mm]"),
    ("BAYERPAT", "GBRG", ""),
    ("FLIPPED", True, ""),
    ("ROWORDER", "TOP-DOWN", ""),
    ("NOTHING", None, ""),
]


@pytest.mark.parametrize("checksum", [None, "sha-1", "sha-256"])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("compression", [None, "zlib", "lz4", "lz4hc", "zstd"])
def test_what_is_written_reads_back_bit_for_bit(tmp_path, compression, shuffle, checksum):
    path = tmp_path / "a.xisf"
    data = RNG.random((3, *SHAPE), dtype=np.float32)
    write_xisf(path, data, CARDS, ["a < b"], compression=compression, shuffle=shuffle, checksum=checksum)
    with open_image(path) as image:
        assert image.banded is (compression is None and checksum is None)
        for channel in range(3):
            np.testing.assert_array_equal(image.read(channel=channel), data[channel])
    assert load_header(path).dn_per_unit == 65535.0
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.xisf"]


@pytest.mark.parametrize("pattern", ["GBRG", "GBGGRGRGRBGBGBGGRGGRGGBGBGBRGRGRGGBG"])
@pytest.mark.parametrize("height", [20, 21])
def test_rows_from_the_bottom_are_turned_over_with_their_pattern(tmp_path, height, pattern):
    data = RNG.random((height, 12), dtype=np.float32)
    cards = [("ROWORDER", "BOTTOM-UP", ""), ("BAYERPAT", pattern, ""), ("IMAGETYP", "Flat", "")]
    path = tmp_path / "a.xisf"
    write_xisf(path, data, cards, images=[("map", data)])
    with open_image(path, 1.0) as image:
        np.testing.assert_array_equal(image.read(), data[::-1])
    side = 2 if len(pattern) == 4 else 6
    colours = np.tile(np.array(list(pattern)).reshape(side, side), (11, 6))[:height]
    (entry,) = scan([path], RULES, ScanSettings()).entries
    assert entry.frame.cfa == "".join(colours[::-1][:side, :side].ravel())
    assert path.read_bytes().count(data[::-1].tobytes()) == 2
    assert b"BOTTOM-UP" not in path.read_bytes()


@pytest.mark.parametrize("kind", STORED)
def test_every_sample_format_can_be_written(tmp_path, kind):
    write_xisf(tmp_path / "a.xisf", STORED[kind])
    np.testing.assert_allclose(read(tmp_path / "a.xisf"), as_dn(kind, STORED[kind]), rtol=2e-7)


def test_cards_come_back_as_they_were(tmp_path):
    path = tmp_path / "a.xisf"
    write_xisf(path, STORED["Float32"], CARDS, ["a < b", "c"])
    found = cards(path)
    assert {name: found[name] for name, value, _ in CARDS if value is not None and name != "ROWORDER"} == {
        name: value for name, value, _ in CARDS if value is not None and name != "ROWORDER"
    }
    assert found["ROWORDER"] == "TOP-DOWN"
    assert [card.value for card in read_header(path) if card.keyword == "HISTORY"] == ["a < b", "c"]
    assert "NOTHING" in found
    (entry,) = scan([path], RULES, ScanSettings()).entries
    assert (entry.frame.role, entry.frame.is_master, entry.frame.cfa, entry.frame.exposure) == (
        "dark",
        True,
        "GBRG",
        1.5,
    )


def test_blocks_begin_at_multiples_of_the_alignment(tmp_path):
    path = tmp_path / "a.xisf"
    write_xisf(path, STORED["UInt16"], images=[("low", STORED["UInt8"]), ("high", STORED["Float64"])])
    content = path.read_bytes()
    at = [content.index(STORED[kind].tobytes()) for kind in ("UInt16", "UInt8", "Float64")]
    assert at == sorted(at)
    assert [place % 4096 for place in at] == [0, 0, 0]
    assert len(content) == at[-1] + STORED["Float64"].nbytes


def test_same_content_gives_the_same_bytes(tmp_path):
    made = datetime(2024, 3, 1, tzinfo=UTC)
    for name in ("a.xisf", "b.xisf"):
        write_xisf(tmp_path / name, STORED["Float32"], CARDS, compression="zstd", created=made)
    assert (tmp_path / "a.xisf").read_bytes() == (tmp_path / "b.xisf").read_bytes()


@pytest.mark.parametrize(
    ("data", "options"),
    [
        (np.zeros(5, np.float32), {}),
        (np.zeros((0, 5), np.float32), {}),
        (np.zeros((5, 5), np.int16), {}),
        (np.zeros((5, 5), np.complex64), {}),
        (np.zeros((5, 5), np.float32), {"compression": "rar"}),
        (np.zeros((5, 5), np.float32), {"checksum": "md5"}),
        (np.zeros((5, 5), np.float32), {"cards": [("too long a keyword", 1, "")]}),
        (np.zeros((5, 5), np.float32), {"cards": [("VALUE", float("nan"), "")]}),
    ],
)
def test_what_cannot_be_written_is_refused_and_leaves_no_file(tmp_path, data, options):
    with pytest.raises(ValueError, match="cannot be written"):
        write_xisf(tmp_path / "a.xisf", data, **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("compression", [None, "zlib", "lz4", "lz4hc", "zstd"])
@pytest.mark.parametrize("shuffle", [True, False])
def test_other_reader_sees_pixels_keywords_and_properties(tmp_path, compression, shuffle):
    other = pytest.importorskip("xisf", reason="the reader of PyPI is not installed")
    path = tmp_path / "a.xisf"
    data = RNG.random((3, *SHAPE), dtype=np.float32)
    write_xisf(path, data, CARDS, compression=compression, shuffle=shuffle, images=[("map", data[0])])
    opened = other.XISF(str(path))
    np.testing.assert_array_equal(opened.read_image(0, "channels_first"), data)
    np.testing.assert_array_equal(opened.read_image(1, "channels_first"), data[:1])
    found = opened.get_images_metadata()[0]
    assert found["FITSKeywords"]["EXPTIME"] == [{"value": "1.5", "comment": "[s]"}]
    assert found["XISFProperties"]["PCL:CFASourcePattern"]["value"] == "GBRG"
    assert found["XISFProperties"]["Instrument:Telescope:FocalLength"]["value"] == pytest.approx(0.53)


@pytest.mark.parametrize("codec", [None, "zlib", "lz4", "lz4hc", "zstd"])
@pytest.mark.parametrize("shuffle", [True, False])
def test_files_of_another_writer_read_bit_for_bit(tmp_path, codec, shuffle):
    other = pytest.importorskip("xisf", reason="the reader of PyPI is not installed")
    data = RNG.integers(0, 65536, (*SHAPE, 3), dtype=np.uint16)
    path = str(tmp_path / "a.xisf")
    other.XISF.write(path, data, creator_app="test", codec=codec, shuffle=shuffle)
    for channel in range(3):
        np.testing.assert_array_equal(read(path, channel), data[:, :, channel].astype(np.float32))


# Written tile by tile -------------------------------------------------------------------------------------------


def test_a_file_written_by_rows_is_the_one_written_at_once(tmp_path):
    colour = RNG.random((3, 9, 7), dtype=np.float32)
    low, made, path = STORED["Float32"], datetime(2024, 3, 1, tzinfo=UTC), tmp_path / "a.xisf"
    images = [("image", colour.shape), ("low", low.shape)]
    with XisfWriter(path, images, CARDS, ["a < b"], created=made) as writer:
        writer.write_rows("low", 0, 0, low)
        for y0, y1 in ((4, 9), (0, 4)):
            for channel in range(3):
                writer.write_rows("image", channel, y0, colour[channel, y0:y1])
        assert not path.exists(), "nothing stands under the name before it is whole"
        writer.commit()
    write_xisf(tmp_path / "b.xisf", colour, CARDS, ["a < b"], images=[("low", low)], created=made)
    assert path.read_bytes() == (tmp_path / "b.xisf").read_bytes()


def test_rows_that_begin_at_the_bottom_are_turned_over_in_every_tile(tmp_path):
    data = np.arange(60, dtype=np.float32).reshape(10, 6)
    path = tmp_path / "a.xisf"
    with XisfWriter(path, [("a", (10, 6))], [("ROWORDER", "BOTTOM-UP", "")]) as writer:
        for y0, y1 in ((0, 3), (3, 4), (4, 10)):
            writer.write_rows("a", 0, y0, data[y0:y1])
        writer.commit()
    with open_image(path) as image:
        np.testing.assert_array_equal(image.read(), data[::-1])


def test_rows_that_were_never_written_leave_no_file(tmp_path):
    path = tmp_path / "a.xisf"
    with (
        pytest.raises(ValueError, match="3 rows were not written"),
        XisfWriter(path, [("a", (4, 6)), ("b", (4, 6))]) as writer,
    ):
        writer.write_rows("a", 0, 0, np.zeros((4, 6), np.float32))
        writer.write_rows("b", 0, 1, np.zeros((1, 6), np.float32))
        writer.commit()
    assert list(tmp_path.iterdir()) == []


def test_rows_that_do_not_fit_are_refused(tmp_path):
    with XisfWriter(tmp_path / "a.xisf", [("a", (4, 6)), ("b", (2, 6))]) as writer:
        for name, channel, y0, shape in (
            ("a", 0, 2, (3, 6)),
            ("b", 0, 0, (3, 6)),
            ("b", 1, 0, (1, 6)),
            ("a", 0, 0, (4, 5)),
        ):
            with pytest.raises(ValueError, match="do not fit"):
                writer.write_rows(name, channel, y0, np.zeros(shape, np.float32))


def test_a_gnomonic_solution_also_stands_in_the_properties_of_pixinsight(tmp_path):
    """Row 4 of 21 counted from the bottom and from 1 has its centre 17.5 px below the upper edge."""
    cards = [("CTYPE1", "RA---TAN", ""), ("CTYPE2", "DEC--TAN", ""), ("CRVAL1", 312.75, ""), ("CRVAL2", 30.7, "")]
    cards += [("CRPIX1", 3.0, ""), ("CRPIX2", 4.0, ""), ("CD1_1", -5e-4, ""), ("CD1_2", 2e-5, "")]
    cards += [("CD2_1", 1e-5, ""), ("CD2_2", 4e-4, "")]
    path = tmp_path / "a.xisf"
    write_xisf(path, STORED["Float32"], cards)
    with XisfWriter(tmp_path / "b.xisf", [("image", SHAPE)], cards) as writer:
        writer.write_rows("image", 0, 0, STORED["Float32"])
        writer.commit()
    for file in (path, tmp_path / "b.xisf"):
        header = file.read_bytes().partition(b"</xisf>")[0].decode("utf-8", "replace")

        def numbers(name, header=header):
            text = header.partition(f"PCL:AstrometricSolution:{name}")[2].partition(">")[2].partition("<")[0]
            return list(np.frombuffer(base64.b64decode(text), "<f8"))

        assert numbers("ReferenceCelestialCoordinates") == [312.75, 30.7]
        assert numbers("ReferenceImageCoordinates") == [2.5, 17.5]
        assert numbers("LinearTransformationMatrix") == [-5e-4, -2e-5, 1e-5, -4e-4]
        assert load_header(file).get("CRPIX2") == 4.0
    write_xisf(path, STORED["Float32"], [("CTYPE1", "RA---SIN", ""), *cards[1:]])
    assert b"AstrometricSolution" not in path.read_bytes(), "of another projection the keywords say all"
