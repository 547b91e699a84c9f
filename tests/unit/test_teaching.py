"""The page "Teach wbpy your camera" does what it says: its examples are followed word by word."""

import re
from pathlib import Path

import pytest
from test_docs import blocks
from test_scanner import LIGHT, write

from wbpy.config import ScanSettings, load_config
from wbpy.reporting import pages
from wbpy.rules import load_rules
from wbpy.scanning.scanner import scan
from wbpy.stages import STAGES

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def mine(tmp_path):
    """Write the examples of the page into a folder, as a reader would, and return it."""
    text = "\n".join(blocks(DOCS / "teach_your_camera.md"))
    for part in re.split(r"^(?=# mine/|# night)", text, flags=re.MULTILINE):
        name = part.splitlines()[0].removeprefix("# ")
        if name.startswith(("mine/", "night")):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(re.split(r"^wbpy ", part, flags=re.MULTILINE)[0], encoding="utf-8")
    return tmp_path / "mine"


def test_program_keywords_types_and_filters_of_the_page_are_read(mine, tmp_path):
    path = write(
        tmp_path / "night" / "a.fits",
        ("SWCREATE", "'Backyard Capture 1.2'"),
        ("IMAGETYP", "'Panel'"),
        ("CAMGAIN", "100"),
        ("GAIN", "7"),
        ("SENSTEMP", "263.15"),
        ("FILTER", "'Antlia 3nm'"),
        ("MYTARGET", "'M31'"),
    )
    settings = load_config(load_rules([mine]), {stage.name: stage.params for stage in STAGES})
    plain = scan([path], load_rules(), settings.section("scan", ScanSettings))
    (entry,) = plain.entries
    assert (entry.held_back, entry.frame.temp_ccd, entry.frame.gain) == ("SCN002", None, 7.0)
    catalog = scan([path], load_rules([mine]), settings.section("scan", ScanSettings))
    (frame,) = catalog.frames
    assert (frame.role, frame.gain, frame.temp_ccd, frame.filter) == ("flat", 100.0, -10.0, "Ha")
    assert (frame.object, frame.program) == ("M31", "Backyard Capture")
    (source,) = [one for one in catalog.sources(path) if one.field == "gain"]
    assert (source.keyword, source.raw, source.rule) == ("CAMGAIN", "100", "dialects/backyard/gain: plain_float")


def test_value_that_means_missing_in_the_page_is_missing(mine, tmp_path):
    path = write(tmp_path / "a.fits", LIGHT, ("SWCREATE", "'Backyard Capture'"), ("SENSTEMP", "0.0"))
    settings = load_config(load_rules(), {stage.name: stage.params for stage in STAGES})
    (frame,) = scan([path], load_rules([mine]), settings.section("scan", ScanSettings)).frames
    assert frame.temp_ccd is None


def test_pattern_of_a_camera_comes_from_the_configuration_of_the_page(mine, tmp_path):
    settings = load_config(
        load_rules(), {stage.name: stage.params for stage in STAGES}, files=[tmp_path / "night.toml"]
    )
    assert settings.params("scan")["cfa_by_camera"].value == {"ToupTek IMX715": "GBRG"}


def test_every_program_and_field_stands_on_the_page_of_programs():
    rules = load_rules()
    page = pages.programs_page(rules)
    for dialect in rules.dialects.values():
        assert f"| {dialect.name} |" in page
        for keyword, start in dialect.identify:
            assert f"`{keyword}` {'begins with' if start else 'is there'}" in page
    for field in rules.fields.values():
        assert f"| `{field.id}` |" in page
