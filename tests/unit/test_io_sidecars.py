"""Texts beside images: only known names are taken, in the form that headers have."""

import pytest

from wbpy.errors import ReadError
from wbpy.io.sidecars import LONGEST, find_sidecar, parse_sidecar, read_sidecar

FIRECAPTURE = b"""FireCapture v2.7 Settings
------------------------------------
Camera=ZWO ASI290MM
Filter=L
Shutter=12.34ms
Gain=300 (50%)
Binning=2x2
ROI=1936x1096
Sensor temperature=12.3 \xc2\xb0C
FPS (avg.)=80
"""


def values(cards):
    return {card.keyword: card.raw for card in cards}


def test_sharpcap_text_gives_header_values():
    text = (
        b"[ZWO ASI533MC Pro]\r\nFrameType=Light\r\nBinning=1\r\nBlack Level=30\r\nAnalogue Gain=101\r\n"
        b"Exposure=315.0000ms\r\nTemperature=-9.8\r\nTarget Temperature=-10\r\n"
        b"Subtract Dark=None\r\nDebayer Preview=On\r\n"
        b"[Display]\r\n"
    )
    assert values(parse_sidecar(text, sharpcap=True)) == {
        "INSTRUME": "ZWO ASI533MC Pro",
        "IMAGETYP": "Light",
        "BINNING": "1",
        "BLKLEVEL": "30",
        "GAIN": "101",
        "EXPTIME": "315.0000ms",
        "CCD-TEMP": "-9.8",
        "SET-TEMP": "-10",
    }


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Subtract Dark=C:\\d.fits", {"CALSTAT": "subtract dark: C:\\d.fits"}),
        ("Apply Flat=None", {}),
        ("Exposure=1m30.5s", {"EXPTIME": "90.5"}),
        ("Exposure=2s", {"EXPTIME": "2s"}),
        ("Exposure=", {}),
        ("Temperature=-9.8 C", {"CCD-TEMP": "-9.8"}),
        ("Gain=300 (50%)", {"GAIN": "300"}),
        ("no equals sign", {}),
    ],
)
def test_lines_are_read_in_their_forms(line, expected):
    assert values(parse_sidecar(line.encode(), sharpcap=True)) == expected


def test_firecapture_text_gives_header_values():
    assert values(parse_sidecar(FIRECAPTURE, sharpcap=False)) == {
        "INSTRUME": "ZWO ASI290MM",
        "FILTER": "L",
        "EXPTIME": "12.34ms",
        "GAIN": "300",
        "BINNING": "2x2",
        "CCD-TEMP": "12.3",
    }


def test_text_that_is_no_log_of_a_capture_gives_nothing():
    assert parse_sidecar(b"Gain=300\nNotes=rain\n", sharpcap=False) == []


def test_text_in_utf16_is_read():
    assert values(parse_sidecar("Gain=7\r\n".encode("utf-16"), sharpcap=True)) == {"GAIN": "7"}


@pytest.mark.parametrize(
    ("stem", "names", "found"),
    [
        ("a", {"a.txt", "a.CameraSettings.txt"}, "a.CameraSettings.txt"),
        ("a", {"a.txt"}, "a.txt"),
        ("a", {"b.txt"}, None),
        # One text for a numbered run.
        ("run_00007", {"run_00001.CameraSettings.txt"}, "run_00001.CameraSettings.txt"),
        ("run_00007", {"run.CameraSettings.txt"}, "run.CameraSettings.txt"),
        ("run_00007", {"run_00001.CameraSettings.txt", "run_00002.CameraSettings.txt"}, None),
        ("run_00007", {"other_00001.CameraSettings.txt"}, None),
        ("run_00007", {"run_00001.txt"}, None),
    ],
)
def test_text_of_an_image_is_found(stem, names, found):
    assert find_sidecar(stem, frozenset(names)) == found


def test_very_long_text_is_not_looked_at(tmp_path):
    path = tmp_path / "a.CameraSettings.txt"
    path.write_bytes(b"Gain=1\n" + b" " * LONGEST)
    assert read_sidecar(path) == []


def test_text_that_cannot_be_read_is_an_error(tmp_path):
    with pytest.raises(ReadError, match="cannot be read"):
        read_sidecar(tmp_path / "gone.txt")
