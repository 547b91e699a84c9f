"""Whatever stands in a header or a file: the scanner does not raise, and the order of files does not matter."""

import math
import os
import string
import tempfile
from pathlib import Path

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from wbpy.config import ScanSettings
from wbpy.io.headers import parse_cards
from wbpy.io.sidecars import find_sidecar, parse_sidecar
from wbpy.model import ROLES
from wbpy.rules import load_rules
from wbpy.scanning.conclusions import as_read
from wbpy.scanning.scanner import scan

EXAMPLES = int(os.environ.get("WBPY_FUZZ_EXAMPLES", "25"))
"""More of them search longer: WBPY_FUZZ_EXAMPLES=5000 python -m pytest tests/properties."""

RULES = load_rules()
KEYWORDS = sorted({keyword for rule in RULES.fields.values() for keyword in rule.keywords} | set(RULES.roles.keywords))
MARKS = sorted({start for dialect in RULES.dialects.values() for _, start in dialect.identify})
WORDS = [word for words in RULES.roles.header.values() for word in words]

raw_bytes = st.binary(max_size=400)
numbers = st.one_of(
    st.floats().map(repr), st.integers().map(str), st.floats(-1e3, 1e3).map(lambda value: f"{value:.3f}")
)
texts = st.one_of(
    st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=60),
    st.sampled_from([*MARKS, *WORDS, "2*2", "1 1", "05 35 17", "2021-03-02T20:19:00", "RGGB", "N/A", "T", "1e999"]),
    st.text(string.digits + " :+-.T/", max_size=25),
)
values = st.one_of(
    numbers, texts, texts.map(lambda text: f"'{text}'"), texts.map(lambda text: f"'{text}' / {text}"), st.just("")
)
cards = st.tuples(st.sampled_from([*KEYWORDS, "COMMENT", "HISTORY", "WBPYKIND", "DNSCALE"]), values)


def content(header, bitpix=16):
    lines = [b"SIMPLE  =                    T", f"BITPIX  = {bitpix}".encode(), b"NAXIS   = 2"]
    lines += [b"NAXIS1  = 9", b"NAXIS2  = 10"]
    lines += [f"{keyword:8}= {value}".encode("latin-1", "replace") for keyword, value in header]
    block = b"".join(line.replace(b"\n", b" ").ljust(80)[:80] for line in [*lines, b"END"])
    data = np.linspace(0, 1, 90).astype(">f4").tobytes() if bitpix == -32 else bytes(180)
    return block.ljust(-(-len(block) // 2880) * 2880) + data


def scan_bytes(*files):
    with tempfile.TemporaryDirectory() as folder:
        for number, data in enumerate(files):
            (Path(folder) / f"{number}.fits").write_bytes(data)
        return scan([folder], RULES, ScanSettings())


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(cards, max_size=25), st.sampled_from([16, -32]))
def test_header_of_any_content_gives_a_frame_and_never_raises(header, bitpix):
    catalog = scan_bytes(content(header, bitpix))
    (entry,) = catalog.entries
    frame = entry.frame
    assert frame is not None
    assert frame.role in (*ROLES, None)
    assert (entry.held_back is None) or entry.held_back in {finding.id for finding in entry.findings}
    assert frame.role is not None or entry.held_back is not None
    for name in frame.__struct_fields__:
        value = getattr(frame, name)
        assert value != ""
        assert not isinstance(value, float) or math.isfinite(value)
    # The contract types hold, and everything can be written as JSON and saved.
    assert msgspec.json.decode(msgspec.json.encode(frame), type=type(frame)) == frame
    with tempfile.TemporaryDirectory() as folder:
        catalog.save(Path(folder) / "c.sqlite")
        assert type(catalog).load(Path(folder) / "c.sqlite").entries == catalog.entries


@settings(max_examples=EXAMPLES, deadline=None)
@given(raw_bytes, st.booleans())
def test_file_of_any_bytes_is_a_frame_or_one_finding(data, with_start):
    catalog = scan_bytes((b"SIMPLE  =                    T".ljust(80) if with_start else b"") + data)
    (entry,) = catalog.entries
    assert entry.frame is not None or len(entry.findings) == 1


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.binary(max_size=1000))
def test_any_bytes_parse_to_cards(data):
    for card in parse_cards(data):
        assert card.keyword == card.keyword.upper()


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(cards, max_size=5), min_size=2, max_size=4))
def test_what_a_file_says_does_not_depend_on_the_files_beside_it(headers):
    files = [content(header) for header in headers]
    together = scan_bytes(*files)
    for number, entry in enumerate(map(as_read, together.entries)):
        (alone,) = map(as_read, scan_bytes(files[number]).entries)
        neutral = {"path": "", "modified_ns": 0}
        assert msgspec.structs.replace(entry.frame, **neutral) == msgspec.structs.replace(alone.frame, **neutral)
        assert entry.held_back == alone.held_back


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(cards, max_size=8), min_size=2, max_size=5), st.randoms(use_true_random=False))
def test_order_of_the_files_does_not_matter(headers, source):
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.fits" for number in range(len(headers))]
        for path, header in zip(paths, headers, strict=True):
            path.write_bytes(content(header))
        expected = scan(paths, RULES, ScanSettings())
        source.shuffle(paths)
        again = scan(paths, RULES, ScanSettings())
        assert again.entries == expected.entries
        assert again.findings == expected.findings


sidecar_lines = st.tuples(
    st.sampled_from(["FrameType", "Exposure", "Shutter", "Gain", "Camera", "Binning", "Temperature", "Subtract Dark"]),
    texts,
)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.one_of(st.binary(max_size=600), st.lists(sidecar_lines).map(lambda pairs: pair_text(pairs))), st.booleans())
def test_text_beside_an_image_of_any_content_gives_cards(data, sharpcap):
    for card in parse_sidecar(data, sharpcap=sharpcap):
        assert card.keyword == card.keyword.upper()
        assert card.raw
        assert card.value == card.raw
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a.fits").write_bytes(content([]))
        (Path(folder) / ("a.CameraSettings.txt" if sharpcap else "a.txt")).write_bytes(data)
        (entry,) = scan([folder], RULES, ScanSettings()).entries
        assert entry.frame is not None
        assert entry.sidecar is not None


def pair_text(pairs):
    return "\n".join(f"{name}={value}" for name, value in pairs).encode("utf-8")


names = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="/\\\x00"), min_size=1, max_size=40
).filter(lambda name: not name.startswith(".") and len(name.encode()) < 120)
words = st.sampled_from(["Light", "dark", "_", "gain100", "300s", "-10.0C", "bin2", "stack_20", "ISO800", " ", "T-5C"])


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(st.one_of(names, words), min_size=1, max_size=6).map("".join), st.lists(names, max_size=2))
def test_file_of_any_name_gives_a_frame(name, folders):
    with tempfile.TemporaryDirectory() as root:
        path = Path(root).joinpath(*folders, name[:60] + ".fits")
        if path.name.startswith("."):
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content([]))
        catalog = scan([root], RULES, ScanSettings(keywords=("SESSION",)))
        (entry,) = catalog.entries
        assert entry.frame is not None
        assert (entry.frame.role is None) <= (entry.held_back is not None)
        for value in (entry.frame.exposure, entry.frame.gain, entry.frame.temp_ccd):
            assert value is None or math.isfinite(value)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.text(max_size=30), st.frozensets(st.text(max_size=30), max_size=5))
def test_text_beside_an_image_is_one_of_those_there(stem, others):
    found = find_sidecar(stem, others)
    assert found is None or found in others
