"""Real headers of many capture programs against values that were read by eye from their text."""

from pathlib import Path

import pytest

from wbpy.config import ScanSettings
from wbpy.rules import load_rules
from wbpy.scanner import scan

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


def entry_of(name, folder):
    (entry,) = scan([fits_of(HEADERS / f"{name}.hdr.txt", folder)], RULES, ScanSettings()).entries
    return entry


def values_of(entry, fields):
    """Return the named fields, numbers to the nine decimals of the tables below."""
    values = {field: getattr(entry.frame, field) for field in fields}
    return {field: round(value, 9) if isinstance(value, float) else value for field, value in values.items()}


GOLDEN = {
    "NINA/1.10.2_ASI294MC_MarsM45": {
        "role": "light",
        "exposure": 30.0,
        "gain": 120.0,
        "offset": 30.0,
        "temp_ccd": -10.0,
        "temp_set": -10.0,
        "filter": None,
        "xbinning": 1,
        "cfa": "RGGB",
        "row_order": "TOP-DOWN",
        "camera": "ZWO ASI294MC Pro",
        "date_obs": "2021-03-02T20:19:00.455Z",
        "night": "2021-03-02",
        "object": "MarsM45",
        "pixel_size": 4.63,
        "ra": None,
        "dec": None,
        "program": "N.I.N.A.",
    },
    "NINA/1.9.0_ASI183MM_M42": {
        "role": "light",
        "exposure": 60.0,
        "gain": 50.0,
        "offset": 8.0,
        "temp_ccd": -20.0,
        "filter": "L",
        "cfa": None,
        "date_obs": "2020-01-21T20:29:08.357Z",
        "night": "2020-01-21",
        "focal_length": 456.0,
        "ra": 84.066666667,
        "dec": -5.379722222,
        "object": "Great Orion Nebula",
    },
    "NINA/2.0.0_QHY268C_NGC2244": {
        "role": "light",
        "exposure": 300.0,
        "gain": 26.0,
        "offset": 0.0,
        "read_mode": "PhotoGraphic DSO",
        "pier_side": "east",
        "rotator": None,
        "night": "2022-02-28",
        "e_per_dn": None,
        "focal_length": 1200.0,
    },
    "SGP/v3.1_ASI294MC": {
        "role": "light",
        "exposure": 30.0,
        "gain": 120.0,
        "offset": 30.0,
        "e_per_dn": 3.99,
        "temp_ccd": -17.5,
        "temp_set": -18.0,
        "filter": "HaOIII",
        "date_obs": "2020-05-30T00:22:49.097Z",
        "night": "2020-05-29",
        "rotator": 258.37,
        "object": "M57",
        "program": "Sequence Generator Pro",
        "pixel_size": None,
    },
    "ASIAIR/Plus_ASI183MC_300s_keyvalues": {
        "role": "light",
        "exposure": 300.0,
        "gain": 111.0,
        "offset": 10.0,
        "temp_ccd": -10.0,
        "temp_set": -10.0,
        "pixel_size": 2.4,
        "cfa": "RGGB",
        "row_order": None,
        "date_obs": "2025-09-08T02:46:15.614Z",
        "program": "ZWO ASIAIR",
        "focal_length": 247.0,
    },
    "Seestar/S50_fw4.27_M94": {
        "role": "light",
        "exposure": 10.0,
        "gain": 80.0,
        "offset": None,
        "temp_ccd": 25.125,
        "temp_set": None,
        "filter": "IRCUT",
        "cfa": "GRBG",
        "width": 1080,
        "height": 1920,
        "object": "M 94",
        "night": "2025-03-26",
        "date_obs": "2025-03-27T01:20:32.955Z",
        "pixel_size": 2.9,
        "focal_length": 250.0,
        "program": "ZWO Seestar",
    },
    "Dwarf/DwarfII_2023": {
        "role": "light",
        "exposure": 15.0,
        "gain": 110.0,
        "xbinning": 2,
        "ybinning": 2,
        "cfa": "GBRG",
        "object": None,
        "ra": None,
        "dec": None,
        "program": "DWARF II",
    },
    "Ekos_INDI/QSI_Ha_900s_MountWizzard4": {
        "role": "light",
        "exposure": 900.0,
        "gain": None,
        "e_per_dn": 0.251,
        "temp_ccd": -20.0,
        "filter": "Ha",
        "pixel_size": 3.69,
        "date_obs": "2018-10-13T21:12:41.560Z",
        "object": "ced214",
        "program": "INDI / Ekos",
        "rotator": None,
    },
    "Ekos_INDI/simulator_bayer_RGGB": {
        "role": "light",
        "exposure": 1.0,
        "gain": 90.0,
        "temp_ccd": 0.0,
        "filter": "L",
        "cfa": "RGGB",
        "rotator": 0.0,
        "pier_side": "east",
        "pixel_size": 5.2,
        "night": "2023-11-19",
    },
    "MaxImDL/aspen_trimmed": {
        "role": "flat",
        "exposure": 1.0,
        "filter": "R",
        "temp_set": -40.0,
        "read_mode": "Monochrome",
        "focal_length": None,
        "object": None,
        "date_obs": "2017-04-12T03:28:40.000Z",
        "program": "MaxIm DL",
    },
    "MaxImDL/v4.07_ST-7_dark_120s": {
        "role": "dark",
        "exposure": 120.0,
        "e_per_dn": 2.55,
        "gain": None,
        "temp_set": -17.0,
        "camera": "ST-7",
        "date_obs": "2019-10-28T21:53:05.000Z",
        "filter": None,
        "pixel_size": 9.0,
    },
    "MaxImDL/biastest1": {"role": "bias", "exposure": 0.0, "night": "2012-02-05", "ra": 210.804166667},
    "MaxImDL/maximdl_6_18_header": {
        "role": "light",
        "filter": "r",
        "temp_ccd": -19.9847835,
        "focal_length": 3292.9,
        "night": "2018-08-22",
        "object": "kelt-16-b",
        "calibrated": False,
    },
    "OrionCameraStudio/G3mono_light_M13_20s": {
        "role": "light",
        "exposure": 20.0,
        "gain": None,
        "offset": None,
        "filter": None,
        "date_obs": None,
        "night": "2021-09-17",
        "pixel_size": 8.6,
        "temp_set": 1.963141026,
        "program": "Orion Camera Studio",
    },
    "OrionCameraStudio/G3mono_flat": {"role": "flat", "exposure": 0.03, "night": "2021-09-20", "cfa": None},
    "OrionCameraStudio/G3mono_bias": {"role": "bias", "exposure": 0.001, "temp_set": 0.0, "night": "2021-09-17"},
    "CelestronAstroFX/nightscape_10100_v106": {
        "role": "light",
        "exposure": 60.0,
        "temp_set": -6.0,
        "temp_ccd": -5.94,
        "cfa": None,
        "read_mode": "Raw",
        "date_obs": "2016-06-29T04:58:11.000Z",
        "object": "Mette",
    },
    "SAAO_STE3/object": {
        "role": "light",
        "exposure": 150.04,
        "gain": None,
        "e_per_dn": 1.9,
        "temp_ccd": -92.95,
        "filter": None,
        "date_obs": "2013-07-13T00:57:33.000Z",
        "ra": 331.033333333,
        "dec": -0.925277778,
    },
    "PixInsight/Ekos_ASI1600_cropped_by_PixInsight": {
        "role": "light",
        "exposure": 2.0,
        "gain": 200.0,
        "offset": 50.0,
        "temp_ccd": -20.0,
        "filter": "LPR",
        "xbinning": 2,
        "ybinning": 2,
        "pixel_size": 7.6,
        "night": "2020-04-12",
        "program": "INDI / Ekos",
    },
}

HELD_BACK = {
    "AstroPixelProcessor/1.062_ASI294MC": ("SCN009", {"exposure": 900.0, "gain": None, "cfa": None}),
    "AstroPixelProcessor/bahtinov_processed": ("SCN009", {"camera": None, "filter": None, "date_obs": None}),
    "CCDOPS/v5.47_ST-7": (
        "SCN001",
        {"exposure": 10.0, "e_per_dn": 1.74, "filter": None, "calibrated": True, "focal_length": 3251.2},
    ),
    "Ekos_INDI/simulator_bayer_GRBG": ("SCN010", {"role": "light", "gain": 10.0, "offset": 0.0, "cfa": "GRBG"}),
    "IRAF_spectra/object": ("SCN007", {"role": "light", "e_per_dn": 4.65, "gain": None, "exposure": 180.0}),
    "MaxImDL/maximdl_5_21_header": ("SCN007", {"role": "light", "filter": "R", "calibrated": True}),
    "MaxImDL/v5.24_Apogee": ("SCN007", {"role": "light", "filter": "SII", "pier_side": "east", "calibrated": True}),
    "MicroObservatory/HATP32": (
        "SCN001",
        {
            "role": None,
            "exposure": 60.0,
            "temp_ccd": -2.15,
            "date_obs": "2017-12-20T01:33:43.317Z",
            "night": "2017-12-19",
        },
    ),
    "POCS/unsolved_120s": ("SCN001", {"iso": 100.0, "temp_ccd": 11.0, "cfa": "RGGB", "filter": None, "ra": 301.56439}),
    "POCS/noheader": ("SCN001", {"role": None, "exposure": None, "program": None}),
    "PixInsight/1.8.9-2_color_f32_4planes": ("SCN008", {"channels": 4, "cfa": None}),
    "PixInsight/Ekos_ASI6200_Kocab_saved_by_PixInsight": ("SCN010", {"filter": "UV-IR", "xbinning": 4}),
    "PixInsight/master_light_ASI183MC": (
        "SCN006",
        {"exposure": 120.0, "e_per_dn": 3.62, "filter": "LP", "xbinning": 1},
    ),
    "Seestar/S50_fw4.43_stack_PhotonFinder": ("SCN006", {"stack_count": 187, "cfa": None, "channels": 3}),
    "SharpCap/ASI290MM_then_AstroImageJ": ("SCN001", {"exposure": 2.0, "temp_ccd": 12.7, "ra": 251.337418297}),
    "allsky_custom/uwmro_10s": ("SCN001", {"exposure": 10.0, "gain": 8.0, "xbinning": 1}),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_real_header_gives_the_values_read_by_eye(name, tmp_path):
    entry = entry_of(name, tmp_path)
    assert entry.held_back is None
    assert values_of(entry, GOLDEN[name]) == GOLDEN[name]


@pytest.mark.parametrize("name", HELD_BACK)
def test_real_header_that_must_not_be_used_is_held_back(name, tmp_path):
    finding, values = HELD_BACK[name]
    entry = entry_of(name, tmp_path)
    assert entry.held_back == finding
    assert [one.id for one in entry.findings].count(finding) == 1
    assert values_of(entry, values) == values


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
    assert (by_format[".cr3"], by_format[".nef"], by_format[".xisf"]) == ("FIL004", "FIL004", "FIL005")


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
