"""Whatever bytes a file holds: it is read or refused with a ReadError, and memory stays within reach of its size.

``WBPY_FUZZ_EXAMPLES`` sets how many examples each test tries, 40 where it is not set.
"""

import base64
import os
import tempfile
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wbpy.config import ScanSettings
from wbpy.errors import ReadError
from wbpy.io.formats import HEAD_SIZE, identify
from wbpy.io.headers import load_header
from wbpy.io.images import open_image
from wbpy.io.raw import read_exif
from wbpy.io.xisf import write_xisf
from wbpy.rules import load_rules
from wbpy.scanning.scanner import scan
from wbpy.simulate.dng import XTRANS, DngInfo, dng_bytes

EXAMPLES = int(os.environ.get("WBPY_FUZZ_EXAMPLES", "40"))
BOUNDED = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
RULES = load_rules()
PIXELS = np.random.default_rng(2).integers(0, 16384, (24, 30)).astype(np.uint16)


def _xisf_seeds():
    cards = [("IMAGETYP", "Light", ""), ("EXPTIME", 3.5, ""), ("BAYERPAT", "RGGB", ""), ("OBJECT", "M 1", "")]
    seeds = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.xisf"
        for compression in (None, "zlib", "lz4", "zstd"):
            for data in (PIXELS, PIXELS.astype(np.float32)):
                write_xisf(path, data, cards, ["made"], compression=compression, checksum=None)
                # The gap before the pixels says nothing: without it more mutations hit something.
                seeds.append(path.read_bytes())
    text = base64.b64encode(zlib.compress(PIXELS.tobytes())).decode()
    data = f'<Data encoding="base64" compression="zlib:{PIXELS.nbytes}">{text}</Data>'
    image = f'<Image geometry="30:24:1" sampleFormat="UInt16" location="embedded">{data}</Image>'
    header = f'<xisf xmlns="http://www.pixinsight.com/xisf">{image}</xisf>'.encode()
    return [*seeds, b"XISF0100" + len(header).to_bytes(4, "little") + bytes(4) + header]


XISF_SEEDS = _xisf_seeds()
DNG_SEEDS = [
    dng_bytes(PIXELS, cfa, DngInfo(margins=margins))
    for cfa, margins in (("RGGB", (0, 0, 0, 0)), (XTRANS, (2, 7, 0, 1)), (None, (0, 0, 0, 0)))
]


@st.composite
def damaged(draw, seeds, span):
    """Return one of the seeds with bytes changed, cut out, doubled or cut off, mostly within the first `span`."""
    content = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, min(span, max(len(content) - 1, 0))))
        match draw(st.integers(0, 3)):
            case 0:
                content[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case 1:
                content[at : at + 4] = draw(st.sampled_from([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"9999"]))
            case 2:
                del content[at : at + draw(st.integers(1, 40))]
            case 3:
                content[at:at] = content[at : at + draw(st.integers(1, 40))]
    return bytes(content[: draw(st.integers(0, len(content)))] if draw(st.booleans()) else content)


def read_all(name, content):
    """Read a file of this content to its last pixel; return the peak of the memory that Python took for it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        tracemalloc.start()
        try:
            header = load_header(path)
            assert header.axes[0] > 0
            with open_image(path, header.dn_per_unit or 1.0) as image:
                for channel in range(image.channels):
                    pixels = image.read(channel=channel)
                    assert pixels.shape == (image.height, image.width)
                    assert not np.isinf(pixels).any()
        except ReadError as error:
            assert str(error).startswith(str(path))
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        return peak


@BOUNDED
@given(damaged(XISF_SEEDS, 2600))
def test_damaged_xisf_is_read_or_refused(content):
    assert read_all("a.xisf", content) < 400_000_000


@BOUNDED
@given(st.binary(max_size=300))
def test_any_bytes_as_xisf_are_read_or_refused(content):
    read_all("a.xisf", content)
    read_all("a.xisf", b"XISF0100" + len(content).to_bytes(4, "little") + bytes(4) + content)


small = st.one_of(st.integers(0, 9).map(str), st.sampled_from(["", "-1", "1e9", "999999999", "9" * 30, "nan", "²"]))
attribute = {
    "geometry": st.lists(small, min_size=1, max_size=4).map(":".join),
    "sampleFormat": st.sampled_from(["UInt8", "UInt16", "UInt32", "Float32", "Float64", "UInt64", "", "Complex32"]),
    "location": st.one_of(
        st.tuples(small, small).map(lambda pair: f"attachment:{pair[0]}:{pair[1]}"),
        st.sampled_from(["embedded", "inline:base64", "inline:hex", "attachment", "url(x)", ""]),
    ),
    "compression": st.tuples(
        st.sampled_from(["zlib", "lz4", "lz4hc+sh", "zstd+sh", "zlib+sh", "none", ""]), st.lists(small, max_size=3)
    ).map(lambda parts: ":".join((parts[0], *parts[1]))),
    "subblocks": st.lists(st.tuples(small, small).map(",".join), max_size=3).map(":".join),
    "bounds": st.tuples(small, small).map(":".join),
    "checksum": st.sampled_from(["sha1:00", "sha-256:zz", "", ":", "md5:aa"]),
    "pixelStorage": st.sampled_from(["Planar", "Normal", "x"]),
    "byteOrder": st.sampled_from(["little", "big", "x"]),
    "imageType": st.sampled_from(["Light", "MasterDark", "DefectMap", "?"]),
}


@BOUNDED
@given(
    st.fixed_dictionaries({}, optional=attribute), st.text("0123456789abcdef+/= ", max_size=40), st.binary(max_size=200)
)
def test_attributes_of_any_content_are_read_or_refused(attributes, text, tail):
    values = " ".join(f'{name}="{value}"' for name, value in attributes.items())
    image = f'<Image {values}>{text}<Data encoding="hex">{text}</Data></Image>'
    header = f'<xisf xmlns="http://www.pixinsight.com/xisf">{image}</xisf>'.encode()
    content = b"XISF0100" + len(header).to_bytes(4, "little") + bytes(4) + header + tail
    assert read_all("a.xisf", content) < 400_000_000


@BOUNDED
@given(damaged(DNG_SEEDS, 700), st.sampled_from(["a.dng", "a.cr2", "a.nef", "a.arw", "a.orf"]))
def test_damaged_raw_is_read_or_refused(content, name):
    read_all(name, content)


@BOUNDED
@given(
    st.sampled_from(
        [b"", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08", b"FUJIFILMCCD-RAW ", b"\0\0\0\x18ftypcrx ", b"IIU\0", b"FOVb"]
    ),
    st.binary(max_size=300),
    st.sampled_from(["cr2", "cr3", "nef", "arw", "raf", "pef", "orf", "rw2", "dng", "x3f", "mrw", "raw"]),
)
def test_any_bytes_as_raw_are_read_or_refused(start, rest, kind):
    read_all(f"a.{kind}", start + rest)


@BOUNDED
@given(damaged(DNG_SEEDS, 700))
def test_damaged_exif_never_raises(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.dng"
        path.write_bytes(content)
        assert isinstance(read_exif(str(path)), dict)


@BOUNDED
@given(st.text(max_size=30), st.binary(max_size=HEAD_SIZE))
def test_every_name_and_start_has_a_format_or_none(name, head):
    form = identify(name, head)
    assert form is None or form.isalnum()


@BOUNDED
@given(damaged(XISF_SEEDS + DNG_SEEDS, 2600), st.sampled_from(["a.xisf", "a.dng", "a.fits"]))
def test_scan_gives_a_frame_or_one_finding(content, name):
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_bytes(content)
        catalog = scan([folder], RULES, ScanSettings(role="light"))
    (entry,) = catalog.entries
    assert entry.frame is not None or [finding.id for finding in entry.findings] == [entry.held_back]
    assert [finding.id for finding in entry.findings].count(entry.held_back) == (entry.held_back is not None)
