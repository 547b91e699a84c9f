"""Real headers of many capture programs against values that were read by eye from their text."""

import csv
from pathlib import Path

import pytest

from wbpy.config import ScanSettings
from wbpy.rules import load_rules
from wbpy.scanning.scanner import scan

DATA = Path(__file__).parents[3] / "shared" / "data"
HEADERS = DATA / "headers"
RULES = load_rules()

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data with real headers is not here")


def fits_of(text, folder):
    """Write a header text, one card a line, as a FITS file whose pixels are a hole, and return its path."""
    lines = [line[:80].rstrip() for line in text.read_bytes().decode("latin-1").splitlines()]
    cards = [line for line in lines if line != "END"]
    if not cards[0].startswith("SIMPLE"):
        # The header of an XISF file has no structural keywords.
        cards = ["SIMPLE  = T", "BITPIX  = 16", "NAXIS   = 2", "NAXIS1  = 100", "NAXIS2  = 100", *cards]
    block = b"".join(card.encode("latin-1").ljust(80) for card in [*cards, "END"])
    block = block.ljust(-(-len(block) // 2880) * 2880)
    values = {card[:8].rstrip(): card[9:].partition("/")[0].strip() for card in reversed(cards) if card[8:9] == "="}
    size = abs(int(values["BITPIX"])) // 8
    for axis in range(int(values["NAXIS"])):
        size *= int(values[f"NAXIS{axis + 1}"])
    path = folder / f"{text.name.removesuffix('.hdr.txt')}.fits"
    with open(path, "wb") as file:
        file.write(block)
        file.truncate(len(block) + size)
    return path


def cell(value):
    """Return a value as the table writes it: nothing for unknown, numbers to nine digits."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.9g}" if isinstance(value, int | float) else str(value)


with open(Path(__file__).with_name("headers.csv"), encoding="utf-8", newline="") as table:
    EXPECTED = {row.pop("file"): row for row in csv.DictReader(table)}
FIELDS = [name for name in next(iter(EXPECTED.values())) if name not in ("held_back", "findings")]
HEADER_ONLY = ScanSettings(pixel_checks=False)


def entry_of(name, folder):
    path = DATA / name
    path = fits_of(path, folder) if name.startswith("headers/") else path
    (entry,) = scan([path], RULES, HEADER_ONLY).entries
    return entry


def test_the_table_has_every_header_there_is():
    texts = {path.relative_to(DATA).as_posix() for path in HEADERS.rglob("*.hdr.txt")}
    odd = {path.relative_to(DATA).as_posix() for path in (DATA / "odd_headers").rglob("*") if path.is_file()}
    assert set(EXPECTED) == texts | odd - {"odd_headers/SOURCE.txt"}


@pytest.mark.parametrize("name", EXPECTED)
def test_real_header_is_held_back_and_reported_as_read_by_eye(name, tmp_path):
    entry, expected = entry_of(name, tmp_path), EXPECTED[name]
    assert entry.held_back == (expected["held_back"] or None)
    assert sorted(one.id for one in entry.findings) == sorted(
        [*expected["findings"].split(), *expected["held_back"].split()]
    )


def test_values_are_those_read_by_eye_and_what_is_not_is_unknown_and_reported(tmp_path):
    right = total = 0
    for name, expected in EXPECTED.items():
        entry = entry_of(name, tmp_path)
        for field in FIELDS:
            found = cell(getattr(entry.frame, field))
            total += 1
            right += found == expected[field]
            if found != expected[field]:
                assert found == "", f"{name}: {field} is {found}, the header says {expected[field]}"
                assert entry.findings, f"{name}: {field} is unknown without a word"
    assert total > 3000
    assert right >= 0.98 * total


def test_every_header_text_is_understood_or_reported(tmp_path):
    texts = sorted(HEADERS.rglob("*.hdr.txt"))
    assert len(texts) > 40
    for text in texts:
        (entry,) = scan([fits_of(text, tmp_path)], RULES, ScanSettings()).entries
        assert entry.frame is not None
        assert (entry.frame.role is None) <= (entry.held_back is not None)


def test_every_real_file_is_a_frame_or_has_exactly_one_finding_that_holds_it_back():
    catalog = scan([DATA / "odd_headers", DATA / "raw_samples"], RULES, ScanSettings())
    assert len(catalog.entries) > 60
    for entry in catalog.entries:
        holding = [finding for finding in entry.findings if finding.id == entry.held_back]
        assert len(holding) == (entry.held_back is not None)
        assert entry.frame is not None or len(entry.findings) == 1
    by_format = {Path(entry.path).suffix.lower(): entry.held_back for entry in catalog.entries}
    assert (by_format[".cr3"], by_format[".nef"], by_format[".xisf"]) == ("FIL002", "FIL002", None)


def test_orion_night_has_its_roles_and_one_night_for_all_but_the_flats():
    catalog = scan([DATA / "m13_orion_g3"], RULES, ScanSettings())
    counts = {}
    for frame in catalog.frames:
        counts[frame.role, frame.night] = counts.get((frame.role, frame.night), 0) + 1
        assert frame.dn_per_unit == 1.0
    assert counts == {
        ("bias", "2021-09-17"): 6,
        ("dark", "2021-09-17"): 6,
        ("flat", "2021-09-20"): 6,
        ("light", "2021-09-17"): 7,
    }
    assert catalog.held_back == ()


def test_seestar_sessions_are_lights_of_one_night():
    catalog = scan([DATA / "m94_seestar_s50"], RULES, ScanSettings())
    assert [(frame.role, frame.cfa, frame.night) for frame in catalog.frames] == [("light", "GRBG", "2025-03-26")] * 6


def test_frames_without_a_type_run_as_lights_on_request_only():
    folder = DATA / "hatp32_microobservatory"
    without = scan([folder], RULES, ScanSettings())
    assert without.frames == ()
    assert [held.finding for held in without.held_back] == ["SCN001"] * 8
    assert {frame.role for frame in scan([folder], RULES, ScanSettings(role="light")).frames} == {"light"}
