"""Whatever stands in a header or a file: the scanner does not raise, and the order of files does not matter."""

import math
import string
import tempfile
from pathlib import Path

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from wbpy.config import ScanSettings
from wbpy.io.headers import parse_cards
from wbpy.model import ROLES
from wbpy.rules import load_rules
from wbpy.scanner import scan

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


@settings(max_examples=50, deadline=None)
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


@settings(max_examples=50, deadline=None)
@given(raw_bytes, st.booleans())
def test_file_of_any_bytes_is_a_frame_or_one_finding(data, with_start):
    catalog = scan_bytes((b"SIMPLE  =                    T".ljust(80) if with_start else b"") + data)
    (entry,) = catalog.entries
    assert entry.frame is not None or len(entry.findings) == 1


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=1000))
def test_any_bytes_parse_to_cards(data):
    for card in parse_cards(data):
        assert card.keyword == card.keyword.upper()


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(cards, max_size=5), min_size=2, max_size=4))
def test_frame_does_not_depend_on_the_files_beside_it(headers):
    files = [content(header) for header in headers]
    together = scan_bytes(*files)
    for number, entry in enumerate(together.entries):
        (alone,) = scan_bytes(files[number]).entries
        neutral = {"path": "", "modified_ns": 0}
        assert msgspec.structs.replace(entry.frame, **neutral) == msgspec.structs.replace(alone.frame, **neutral)
        assert entry.held_back == alone.held_back
