"""The scanner: what a header says becomes values, what it does not say stays unknown, nothing is dropped silently."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from wbpy.config import ScanSettings
from wbpy.errors import RuleError
from wbpy.io.products import write_fits
from wbpy.rules import load_rules
from wbpy.scanning.scanner import scan
from wbpy.simulate.dng import XTRANS

RULES = load_rules()


def header(cards=(), shape=(16, 16), bitpix=16):
    lines = ["SIMPLE  =                    T", f"BITPIX  = {bitpix}", f"NAXIS   = {len(shape)}"]
    lines += [f"NAXIS{number}  = {length}" for number, length in enumerate(reversed(shape), 1)]
    lines += [card if isinstance(card, str) else f"{card[0]:8}= {card[1]}" for card in cards]
    block = b"".join(line.encode("latin-1").ljust(80)[:80] for line in [*lines, "END"])
    return block.ljust(-(-len(block) // 2880) * 2880)


def write(path, *cards, shape=(16, 16), bitpix=16):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header(cards, shape, bitpix) + bytes(abs(bitpix) // 8 * int(np.prod(shape))))
    return path


def read(folder, rules=RULES, **settings):
    return scan([folder], rules, ScanSettings(**settings))


def one(tmp_path, *cards, name="image.fits", **options):
    """Return the frame, finding ids and catalog of one file with the given cards."""
    settings = {key: options.pop(key) for key in list(options) if key in ScanSettings.__struct_fields__}
    write(tmp_path / name, *cards, **options)
    catalog = read(tmp_path, **settings)
    (entry,) = catalog.entries
    return entry.frame, [finding.id for finding in entry.findings], catalog


LIGHT = ("IMAGETYP", "'LIGHT'")


# Roles


@pytest.mark.parametrize(
    ("value", "role"),
    [
        ("LIGHT", "light"),
        ("Light Frame", "light"),
        ("light_frame", "light"),
        ("object", "light"),
        ("Bias Frame", "bias"),
        ("zero", "bias"),
        ("DARK", "dark"),
        ("Flat Field", "flat"),
        ("FLAT-FIELD", "flat"),
        ("DARKFLAT", "flat_dark"),
        ("Dark Flat", "flat_dark"),
        ("FlatDark", "flat_dark"),
    ],
)
def test_type_in_the_header_is_matched_whole(tmp_path, value, role):
    frame, found, _ = one(tmp_path, ("IMAGETYP", f"'{value}'"))
    assert (frame.role, found) == (role, [])


@pytest.mark.parametrize("value", ["DARKISH", "LIGHT FRAMES TEST", "NOTDARK", "FLAT1X"])
def test_unknown_type_is_held_back_whatever_folder_and_setting_say(tmp_path, value):
    frame, found, catalog = one(tmp_path, ("IMAGETYP", f"'{value}'"), name="lights/light_1.fits", role="light")
    assert frame.role is None
    assert found == ["SCN002"]
    assert catalog.frames == ()
    assert [held.finding for held in catalog.held_back] == ["SCN002"]


@pytest.mark.parametrize("keyword", ["IMAGETYP", "IMAGTYP", "FRAMETYP", "FRAME", "OBSTYPE"])
def test_all_type_keywords_are_read(tmp_path, keyword):
    assert one(tmp_path, (keyword, "'DARK'"))[0].role == "dark"


def test_type_codes_are_read(tmp_path):
    assert one(tmp_path, ("PICTTYPE", "4"))[0].role == "flat"


def test_unused_type_is_held_back_as_such(tmp_path):
    frame, found, _ = one(tmp_path, ("IMAGETYP", "'comp'"))
    assert (frame.role, found) == (None, ["SCN009"])


def test_type_that_stands_nowhere_is_held_back_and_never_a_light(tmp_path):
    frame, found, catalog = one(tmp_path, ("EXPTIME", "60.0"))
    assert (frame.role, found, catalog.frames) == (None, ["SCN001"], ())
    assert "scan.role" in catalog.findings[0].remedy


def test_setting_gives_the_role_to_frames_without_one_only(tmp_path):
    write(tmp_path / "a.fits")
    write(tmp_path / "b.fits", ("IMAGETYP", "'DARK'"))
    catalog = read(tmp_path, role="light")
    assert [frame.role for frame in catalog.frames] == ["light", "dark"]
    (finding,) = catalog.findings
    assert (finding.id, finding.evidence["count"]) == ("SCN017", 1)


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("darks/x1.fits", "dark"),
        ("Dark_60.0s_Bin1_gain0.fit", "dark"),
        ("night1/BIAS/0001.fits", "bias"),
        ("flat-darks/0001.fits", "flat_dark"),
        ("darks/flat_001.fits", "flat"),
        ("M31_Light_001.fits", "light"),
        ("Light_Dark Shark_001.fits", "light"),
        ("MasterBias_1.0ms_gain100.fit", "bias"),
        ("offset/001.fits", "bias"),
        ("M31_300s_gain100_offset30.fits", None),
        ("delightful.fits", None),
    ],
)
def test_words_of_the_path_give_the_role_when_the_header_is_silent(tmp_path, name, role):
    assert one(tmp_path, name=name)[0].role == role


def test_folders_above_the_given_one_are_no_evidence(tmp_path):
    write(tmp_path / "darks" / "x.fits")
    assert read(tmp_path / "darks").frames == ()
    assert read(tmp_path).frames[0].role == "dark"


def test_header_wins_over_the_path_and_the_conflict_is_reported(tmp_path):
    frame, found, catalog = one(tmp_path, LIGHT, name="DARK/dark_0001.fits")
    assert (frame.role, found) == ("light", ["SCN003"])
    assert catalog.findings[0].evidence["path_role"] == "dark"
    assert len(catalog.frames) == 1


def test_target_named_like_a_type_is_no_conflict(tmp_path):
    assert one(tmp_path, LIGHT, name="Dark Shark Nebula/0001.fits")[1] == []


@pytest.mark.parametrize("cards", [[("IMAGETYP", "'DARK'")], []])
@pytest.mark.parametrize("name", ["DARKFLAT/0001.fits", "DARKFLAT/Dark_2.0s_Bin1_0001.fit", "dark_flat_0001.fits"])
def test_dark_in_a_folder_or_name_for_flat_darks_is_a_flat_dark(tmp_path, cards, name):
    frame, found, _ = one(tmp_path, *cards, name=name)
    assert (frame.role, found) == ("flat_dark", [])


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("BIAS", "BIAS/2025-09-21_07-31-16_Dark_-9.90_0.00s_0001.fits"),
        ("DARKFLAT", "2025-09-21_07-31-16_Dark_-9.90_2.00s_0001.fits"),
    ],
)
def test_filter_position_dark_in_a_name_is_no_conflict(tmp_path, kind, name):
    assert one(tmp_path, ("IMAGETYP", f"'{kind}'"), name=name)[1] == []


def test_two_type_keywords_that_disagree_are_reported(tmp_path):
    frame, found, _ = one(tmp_path, ("IMAGETYP", "'Dark Frame'"), ("FRAME", "'Light'"))
    assert (frame.role, found) == ("dark", ["SCN005"])


def test_program_that_writes_lights_without_a_type_is_known(tmp_path):
    frame, found, _ = one(tmp_path, ("INSTRUME", "'DWARFIII'"), ("ORIGIN", "'DWARFLAB'"))
    assert (frame.role, frame.program, found) == ("light", "DWARF III", [])


# Masters and results


@pytest.mark.parametrize(
    ("cards", "name"),
    [
        ([("IMAGETYP", "'Master Dark'")], "a.fits"),
        ([("IMAGETYP", "'DARK'"), ("STACKCNT", "20")], "a.fits"),
        ([("IMAGETYP", "'Dark Frame'"), ("NCOMBINE", "8")], "a.fits"),
        ([("IMAGETYP", "'Dark'")], "masterDark_300s.fits"),
        ([("IMAGETYP", "'Dark'")], "dark_stacked.fit"),
        ([("IMAGETYP", "'Dark'")], "masters/dark_300.fit"),
        ([], "MasterDark_300.fit"),
        ([("WBPYKIND", "'master_dark'"), ("IMAGETYP", "'Master Dark'")], "x.fits"),
        ([("CALFRAME", "'MasterDark'")], "x.fits"),
    ],
)
def test_masters_are_recognised(tmp_path, cards, name):
    frame, found, _ = one(tmp_path, *cards, name=name)
    assert (frame.role, frame.is_master, found) == ("dark", True, [])


def test_single_dark_is_no_master(tmp_path):
    assert not one(tmp_path, ("IMAGETYP", "'DARK'"), ("STACKCNT", "1"))[0].is_master


@pytest.mark.parametrize(
    ("cards", "name", "finding"),
    [
        ([LIGHT, ("STACKCNT", "187")], "a.fits", "SCN006"),
        ([("IMAGETYP", "'Master Light'")], "a.fits", "SCN006"),
        ([("IMAGETYP", "'Light'")], "Stacked_614_Sadr_10.0s.fit", "SCN006"),
        ([("IMAGETYP", "'Light'")], "failed_M31_60s.fits", "SCN006"),
        ([("WBPYKIND", "'integration'"), ("IMAGETYP", "'Master Light'")], "a.fits", "SCN006"),
        ([("WBPYKIND", "'rejection_low'")], "a.fits", "SCN006"),
        ([LIGHT, ("CALSTAT", "'BDF'")], "a.fits", "SCN007"),
        ([LIGHT, "HISTORY Bias corrected with mbias.fits"], "a.fits", "SCN007"),
        ([LIGHT], "pp_light_0001.fit", "SCN007"),
        ([LIGHT], "calibrated/light_0001.fit", "SCN007"),
    ],
)
def test_results_and_treated_frames_are_held_back_with_one_finding(tmp_path, cards, name, finding):
    frame, found, catalog = one(tmp_path, *cards, name=name)
    assert found == [finding]
    assert catalog.frames == ()
    assert frame.calibrated is (finding == "SCN007")


def test_planes_mean_debayered(tmp_path):
    frame, found, _ = one(tmp_path, LIGHT, ("BAYERPAT", "'RGGB'"), shape=(3, 16, 16))
    assert (found, frame.channels, frame.cfa) == (["SCN008"], 3, None)


def test_ending_of_a_calibrated_file_counts_for_floats_only(tmp_path):
    assert one(tmp_path / "a", LIGHT, name="m31_300s_c_cc.fits", bitpix=-32)[1] == ["SCN007"]
    assert one(tmp_path / "b", LIGHT, name="m31_300s_c.fits", bitpix=16)[1] == []


def test_master_flat_that_was_calibrated_is_a_master_flat(tmp_path):
    frame, found, _ = one(tmp_path, ("IMAGETYP", "'Master Flat'"), ("CALSTAT", "'BD'"))
    assert (frame.role, frame.is_master, frame.calibrated, found) == ("flat", True, True, [])


@pytest.mark.parametrize("bitpix", [8, 16])
def test_eight_bit_frames_are_held_back(tmp_path, bitpix):
    assert one(tmp_path, LIGHT, bitpix=bitpix)[1] == (["SCN010"] if bitpix == 8 else [])


def test_images_too_small_for_a_camera_are_held_back(tmp_path):
    assert one(tmp_path, LIGHT, shape=(100, 3))[1] == ["SCN019"]


# Values


@pytest.mark.parametrize(
    ("card", "seconds"),
    [
        ("EXPTIME = 300.0", 300.0),
        ("EXPTIME = 060.00 / s", 60.0),
        ("EXPTIME = '120.00  '", 120.0),
        ("EXPTIME = 0.00100000004749745", 0.001),
        ("EXPTIME = 160000 / exposure time in ms", 160.0),
        ("EXPTIME = '315.0000ms'", 0.315),
        ("EXPTIME = ' 1,5'", 1.5),
        ("EXPOSURE= 30", 30.0),
        ("EXP     = 15.", 15.0),
        ("EXPOINUS= 2500000", 2.5),
        ("EXPTIME = 0", 0.0),
        ("EXPTIME = 120.4", 120.4),
    ],
)
def test_exposure_is_seconds_however_it_is_written(tmp_path, card, seconds):
    frame, found, _ = one(tmp_path, LIGHT, card)
    assert (frame.exposure, found) == (seconds, [])


@pytest.mark.parametrize("card", ["EXPTIME = -5.0", "EXPTIME = 'long'", "EXPTIME = NaN", "EXPTIME = 1E999"])
def test_exposure_that_is_not_understood_is_unknown_with_a_finding(tmp_path, card):
    frame, found, _ = one(tmp_path, LIGHT, card)
    assert (frame.exposure, found) == (None, ["SCN004"])


def test_next_keyword_is_tried_when_the_first_is_not_usable(tmp_path):
    frame, found, catalog = one(tmp_path, LIGHT, "EXPTIME = ''", "EXPOSURE= 20.0")
    assert (frame.exposure, found) == (20.0, [])
    assert next(source.keyword for source in catalog.entries[0].sources if source.field == "exposure") == "EXPOSURE"


@pytest.mark.parametrize(
    ("cards", "gain", "e_per_dn"),
    [
        (["GAIN    = 100", "EGAIN   = 0.25"], 100.0, 0.25),
        (["GAIN    = 9.000E+01"], 90.0, None),
        (["GAIN    = 4.65"], None, 4.65),
        (["GAIN    = 4 / e-/ADU"], None, 4.0),
        (["GAIN    = 12.5", "EGAIN   = 0.7"], 12.5, 0.7),
        (["GAIN    = 12.5", "COMMENT Generated by INDI"], 12.5, None),
        (["GAIN    = 4", "ORIGIN  = 'NOAO-IRAF FITS'"], None, 4.0),
        (["GAIN    = -1"], None, None),
        (["EGAIN   = 0.0"], None, None),
        (["CVF     = 1.5"], None, 1.5),
        (["GAIN    = 0"], 0.0, None),
    ],
)
def test_gain_setting_and_conversion_are_not_mixed_up(tmp_path, cards, gain, e_per_dn):
    frame, found, _ = one(tmp_path, LIGHT, *cards)
    assert (frame.gain, frame.e_per_dn, found) == (gain, e_per_dn, [])


def test_gain_as_a_label_is_unknown_with_a_finding(tmp_path):
    frame, found, _ = one(tmp_path, LIGHT, "GAIN    = 'High'")
    assert (frame.gain, found) == (None, ["SCN004"])


@pytest.mark.parametrize(
    ("cards", "celsius"),
    [
        (["CCD-TEMP= -9.8"], -9.8),
        (["CCD-TEMP= 180.2"], -92.95),
        (["CAMTEMP = '11 C    '"], 11.0),
        (["CAMTEMP = 271.0"], -2.15),
        (["CAMTEMP = -1", "CREATOR = 'MicroObservatory2014'"], None),
        (["CAMTEMP = 271.0", "CREATOR = 'MicroObservatory2014'"], -2.15),
        (["CCD-TEMP= -1"], -1.0),
        (["CCD-TEMP= -273.15"], None),
        (["CCD-TEMP= -300"], None),
        (["DET-TEMP= 20"], 20.0),
    ],
)
def test_temperature_is_celsius_and_sentinels_are_missing(tmp_path, cards, celsius):
    frame, found, _ = one(tmp_path, LIGHT, *cards)
    assert (frame.temp_ccd, found) == (celsius, [])


@pytest.mark.parametrize("value", ["120", "'warm'"])
def test_impossible_temperature_is_unknown_with_a_finding(tmp_path, value):
    frame, found, _ = one(tmp_path, LIGHT, f"CCD-TEMP= {value}")
    assert (frame.temp_ccd, found) == (None, ["SCN004"])


@pytest.mark.parametrize(
    ("cards", "binning"),
    [
        (["XBINNING= 2", "YBINNING= 1"], (2, 1)),
        (["XBINNING= '2'", "YBINNING= '2 '"], (2, 2)),
        (["XBINNING= 2.", "YBINNING= 2."], (2, 2)),
        (["BINNING = '2*2'"], (2, 2)),
        (["BINNING = '1x2'"], (1, 2)),
        (["CCDSUM  = '3 3'"], (3, 3)),
        (["XBINNING= 0", "YBINNING= 0"], (None, None)),
    ],
)
def test_binning_is_read_in_all_its_forms(tmp_path, cards, binning):
    frame, _, _ = one(tmp_path, LIGHT, *cards)
    assert (frame.xbinning, frame.ybinning) == binning


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Luminance", "L"),
        ("H-Alpha", "Ha"),
        ("H_alpha", "Ha"),
        ("O3", "OIII"),
        ("Duo-Band", "HaOIII"),
        ("red", "R"),
        ("R", "R"),
        ("r", "r"),
        ("LP", "LP"),
        ("IRCUT", "IRCUT"),
        ("None", None),
        ("  ", None),
    ],
)
def test_filter_gets_its_canonical_name_and_unknown_ones_stay(tmp_path, text, name):
    assert one(tmp_path, LIGHT, f"FILTER  = '{text}'")[0].filter == name


@pytest.mark.parametrize("kind", ["DARK", "BIAS", "DARKFLAT"])
def test_filter_of_a_frame_without_light_is_not_taken_and_the_source_says_so(tmp_path, kind):
    frame, _, catalog = one(tmp_path, ("IMAGETYP", f"'{kind}'"), "FILTER  = 'Ha'")
    assert frame.filter is None
    (source,) = [source for source in catalog.entries[0].sources if source.field == "filter"]
    assert (source.raw, source.rule[:9]) == ("Ha", "not taken")


@pytest.mark.parametrize(
    ("cards", "iso"), [(["ISOSPEED= 1600"], 1600.0), (["ISOSPEED= 'ISO800'"], 800.0), (["ISO     = 100"], 100.0)]
)
def test_iso_is_a_number(tmp_path, cards, iso):
    frame = one(tmp_path, LIGHT, *cards)[0]
    assert (frame.iso, frame.gain) == (iso, None)


@pytest.mark.parametrize(
    ("cards", "ra", "dec"),
    [
        (["RA      = 84.0666", "DEC     = -5.38"], 84.0666, -5.38),
        (["OBJCTRA = '05 35 17'", "OBJCTDEC= '-05 23 28'"], 83.820833333, -5.391111111),
        (["RA      = '22:04:08'", "DEC     = '-00:55:31'"], 331.033333333, -0.925277778),
        (["RA      = '167.6425'", "DEC     = '28.75'"], 167.6425, 28.75),
        (["RA      = 5.5", "DEC     = 10.", "INSTRUME= 'DWARFII'"], 82.5, 10.0),
        (["CRVAL1  = 10.0", "CRVAL2  = 20.0", "CTYPE1  = 'RA---TAN'"], 10.0, 20.0),
        (["CRVAL1  = 10.0", "CRVAL2  = 20.0"], None, None),
        (["OBJCTRA = '00 00 00'", "OBJCTDEC= '+00 00 00'"], None, None),
        (["RA      = 84.0"], None, None),
    ],
)
def test_pointing_is_degrees(tmp_path, cards, ra, dec):
    frame, found, _ = one(tmp_path, LIGHT, *cards)
    assert (frame.ra, frame.dec, found) == (ra, dec, [])


@pytest.mark.parametrize("cards", [["RA      = 400.0", "DEC     = 5."], ["RA      = 40.0", "DEC     = 95."]])
def test_impossible_pointing_is_unknown_with_a_finding(tmp_path, cards):
    frame, found, _ = one(tmp_path, LIGHT, *cards)
    assert (frame.ra, frame.dec, found) == (None, None, ["SCN004"])


def test_small_fields_are_read_with_their_units(tmp_path):
    frame, found, catalog = one(
        tmp_path,
        LIGHT,
        "OFFSET  = 30",
        "SET-TEMP= -10",
        "FLENGTH = 0.5",
        "XBINNING= 2",
        "PIXSIZE1= 3.76",
        "ROTATANG= -90.0",
        "PIERSIDE= 'WEST'",
        "READOUTM= 'Low Noise'",
        "OBJECT  = '  M 42  '",
        "INSTRUME= 'ZWO ASI2600MM Pro'",
        "SWCREATE= 'N.I.N.A. 3.1'",
    )
    assert (frame.offset, frame.temp_set, frame.focal_length) == (30.0, -10.0, 500.0)
    assert (frame.pixel_size, frame.rotator, frame.pier_side) == (7.52, 270.0, "west")
    assert (frame.read_mode, frame.object, frame.camera) == ("Low Noise", "M 42", "ZWO ASI2600MM Pro")
    assert (frame.program, found) == ("N.I.N.A.", [])
    said = {source.field for source in catalog.entries[0].sources}
    values = ("offset", "temp_set", "focal_length", "xbinning", "pixel_size", "rotator", "pier_side", "read_mode")
    assert said >= {*values, "object", "camera", "program", "role"}


def test_planned_angle_and_zero_focal_length_are_not_taken(tmp_path):
    frame = one(tmp_path, LIGHT, "OBJCTROT= 88.1", "FOCALLEN= 0.0")[0]
    assert (frame.rotator, frame.focal_length) == (None, None)


def test_values_missing_in_the_header_are_none(tmp_path):
    frame = one(tmp_path, LIGHT)[0]
    for name in ("exposure", "gain", "offset", "temp_ccd", "filter", "xbinning", "camera", "date_obs", "night", "ra"):
        assert getattr(frame, name) is None


# Dates and nights


@pytest.mark.parametrize(
    ("cards", "utc", "night"),
    [
        (["DATE-OBS= '2021-03-02T20:19:00.455'", "DATE-LOC= '2021-03-02T21:19:00.455'"], "2021-03-02T20:19:00.455Z", 2),
        (["DATE-OBS= 2021-03-02T20:19:00.455 / UTC"], "2021-03-02T20:19:00.455Z", 2),
        (["DATE-OBS= '2021-03-03T00:22:49.0968820'"], "2021-03-03T00:22:49.097Z", 2),
        (["DATE-OBS= '2021-03-02T23:59:59.9999'"], "2021-03-03T00:00:00.000Z", 2),
        (["DATE-OBS= '2021-03-03T01:00:00Z'", "SITELONG= '-97 12 12'"], "2021-03-03T01:00:00.000Z", 2),
        (["DATE-OBS= '2021-03-02T13:30:00'", "SITELONG= '-97 12 12'"], "2021-03-02T13:30:00.000Z", 1),
        (["DATE-OBS= '2021-03-02T11:00:00'", "SITELONG= 149.0"], "2021-03-02T11:00:00.000Z", 2),
        (["DATE-OBS= '2021-03-02T11:00:00'"], "2021-03-02T11:00:00.000Z", 1),
        (["DATE-OBS= '2021-03-02T18:33:43.317-0700'"], "2021-03-03T01:33:43.317Z", 2),
        (["DATE-OBS= '02/03/21'", "TIME-OBS= '22:00:01.5'"], "2021-03-02T22:00:01.500Z", 2),
        (["DATE-OBS= '2021-03-02'", "UT      = '22:00:01'"], "2021-03-02T22:00:01.000Z", 2),
        (["UT-OBS  = '2021-03-02T22:00:01'"], "2021-03-02T22:00:01.000Z", 2),
    ],
)
def test_dates_are_utc_and_nights_go_from_noon_to_noon(tmp_path, cards, utc, night):
    frame, found, _ = one(tmp_path, LIGHT, *cards)
    assert (frame.date_obs, frame.night, found) == (utc, f"2021-03-{night:02d}", [])


def test_clock_without_am_and_pm_gives_no_utc_but_the_night_of_the_comment(tmp_path):
    path = write(tmp_path / "a.fit", LIGHT, "SWCREATE= 'Orion Camera Studio'", "DATE-OBS= '2021-09-17 T10:25:28'")
    start = b"SIMPLE  =                    T"
    told = start + b" / C# FITS: 9/17/2021 10:25:28 PM"
    path.write_bytes(path.read_bytes().replace(start.ljust(80), told.ljust(80)))
    frame = read(tmp_path).frames[0]
    assert (frame.date_obs, frame.night) == (None, "2021-09-17")


@pytest.mark.parametrize(
    "value", ["'2021-13-02T20:19:00'", "'yesterday'", "'2021-03-02'", "'0021-03-02T20:19:00'", "5"]
)
def test_date_that_is_not_understood_is_unknown_with_a_finding(tmp_path, value):
    frame, found, _ = one(tmp_path, LIGHT, f"DATE-OBS= {value}")
    assert (frame.date_obs, frame.night, found) == (None, None, ["SCN004"])


def test_nights_counted_in_utc_are_said_once(tmp_path):
    for number in range(3):
        write(tmp_path / f"{number}.fits", LIGHT, "DATE-OBS= '2021-03-02T11:00:00'")
    (finding,) = read(tmp_path).findings
    assert (finding.id, finding.evidence["count"]) == ("SCN014", 3)


# CFA


@pytest.mark.parametrize(
    ("cards", "height", "pattern"),
    [
        (["BAYERPAT= 'RGGB'"], 16, "RGGB"),
        (["BAYERPAT= 'grbg '"], 16, "GRBG"),
        (["BAYERPAT= 'RGGB'", "XBAYROFF= 1"], 16, "GRBG"),
        (["BAYERPAT= 'RGGB'", "YBAYROFF= 1"], 16, "GBRG"),
        (["BAYERPAT= 'RGGB'", "XBAYROFF= 1", "YBAYROFF= 1"], 16, "BGGR"),
        (["BAYERPAT= 'RGGB'", "ROWORDER= 'TOP-DOWN'"], 16, "RGGB"),
        (["BAYERPAT= 'RGGB'", "ROWORDER= 'BOTTOM-UP'"], 16, "GBRG"),
        (["BAYERPAT= 'RGGB'", "ROWORDER= 'bottom-up'"], 17, "RGGB"),
        (["BAYERPAT= 'RGGB'", "ROWORDER= 'BOTTOM-UP'", "YBAYROFF= 1"], 16, "RGGB"),
        (["BAYERPAT= 'GBRG'", "ROWORDER= 'BOTTOM-UP'", "WBPYKIND= 'master_flat'"], 16, "GBRG"),
        (["BAYERPAT= 'INVALID'"], 16, None),
        (["CFAIMAGE= 'no'"], 16, None),
        (["CFAIMAGE= 'RGGB'"], 16, "RGGB"),
        ([], 16, None),
    ],
)
def test_cfa_is_the_pattern_of_the_stored_rows(tmp_path, cards, height, pattern):
    frame, found, _ = one(tmp_path, LIGHT, *cards, shape=(height, 16))
    assert (frame.cfa, found) == (pattern, [])


def test_flipped_pattern_agrees_with_flipped_pixels(tmp_path):
    # What a camera with an RGGB sensor sees, top row first; the file stores the rows the other way round.
    top_down = np.tile(np.array([["R", "G"], ["G", "B"]]), (8, 8))
    stored = top_down[::-1]
    frame = one(tmp_path, LIGHT, "BAYERPAT= 'RGGB'", "ROWORDER= 'BOTTOM-UP'", shape=(16, 16))[0]
    assert "".join(stored[:2, :2].ravel()) == frame.cfa


def test_default_row_order_applies_to_the_pattern_but_is_not_put_into_the_frame(tmp_path):
    frame = one(tmp_path, LIGHT, "BAYERPAT= 'RGGB'", row_order="BOTTOM-UP")[0]
    assert (frame.cfa, frame.row_order) == ("GBRG", None)


def test_colour_sensor_without_a_pattern_is_reported(tmp_path):
    frame, found, _ = one(tmp_path, LIGHT, "COLORTYP= 2", "XBAYROFF= 1")
    assert (frame.cfa, found) == (None, ["SCN037"])
    assert one(tmp_path / "mono", LIGHT, "COLORCCD= 0")[1] == []


def test_pattern_is_forced_for_one_camera_only(tmp_path):
    write(tmp_path / "a.fits", LIGHT, "BAYERPAT= 'GRBG'", "INSTRUME= 'ToupTek IMX715'")
    write(tmp_path / "b.fits", LIGHT, "BAYERPAT= 'RGGB'", "INSTRUME= 'ZWO ASI2600MC Pro'")
    catalog = read(tmp_path, cfa_by_camera={"touptek imx715": "GBRG"})
    assert [frame.cfa for frame in catalog.frames] == ["GBRG", "RGGB"]
    (finding,) = catalog.findings
    assert (finding.id, finding.evidence["used"]) == ("SCN021", "GBRG")
    assert "setting scan.cfa_by_camera" in [source.rule for source in catalog.sources(tmp_path / "a.fits")]


@pytest.mark.parametrize(("x", "y", "odd"), [(0, 0, False), (2, 4, False), (1, 0, True), (0, 3, True)])
def test_cfa_region_that_begins_at_an_odd_pixel_is_reported(tmp_path, x, y, odd):
    _, _, catalog = one(tmp_path, LIGHT, "BAYERPAT= 'RGGB'", f"XORGSUBF= {x}", f"YORGSUBF= {y}")
    assert [finding.id for finding in catalog.findings] == ["SCN035"] * odd


@pytest.mark.parametrize(("x", "inside"), [(6, False), (12, False), (2, True), (9, True)])
def test_xtrans_region_off_the_grid_of_cells_is_reported(tmp_path, x, inside):
    _, _, catalog = one(tmp_path, LIGHT, f"BAYERPAT= '{XTRANS}'", f"XORGSUBF= {x}", "YORGSUBF= 6")
    assert [finding.id for finding in catalog.findings] == ["SCN035"] * inside


def test_unknown_mosaic_is_reported(tmp_path):
    frame, found, _ = one(tmp_path, LIGHT, "MOSAIC  = 'CMYG'")
    assert (frame.cfa, found) == (None, ["SCN004"])


@pytest.mark.parametrize(("setting", "pattern"), [("BGGR", "BGGR"), ("none", None)])
def test_forced_pattern_replaces_the_header_and_is_reported(tmp_path, setting, pattern):
    frame, _, catalog = one(tmp_path, LIGHT, "BAYERPAT= 'RGGB'", "XBAYROFF= 1", cfa=setting)
    assert frame.cfa == pattern
    assert [finding.id for finding in catalog.findings] == ["SCN021"]
    assert catalog.findings[0].evidence["found"] == "RGGB"


# Scale


@pytest.mark.parametrize(
    ("highest", "cards", "scale"),
    [
        (0.7, [], 65535.0),
        (1.0, [], 65535.0),
        (40000.0, [], 1.0),
        (0.0, [], 1.0),
        (40000.0, [("WBPYKIND", "master_bias", ""), ("DNSCALE", 4095.0, "")], 4095.0),
        (40000.0, [("WBPYKIND", "master_bias", "")], 65535.0),
    ],
)
def test_floats_in_the_unit_range_are_scaled_to_dn(tmp_path, highest, cards, scale):
    data = np.linspace(0, highest, 400, dtype=np.float32).reshape(20, 20)
    data[3, 3] = np.nan
    write_fits(tmp_path / "a.fits", data, [("IMAGETYP", "Bias Frame", ""), *cards])
    assert read(tmp_path).frames[0].dn_per_unit == scale


def test_integers_are_dn(tmp_path):
    assert one(tmp_path, LIGHT)[0].dn_per_unit == 1.0


# Files


@pytest.mark.parametrize(
    ("name", "content", "finding"),
    [
        ("a.fits", b"", "FIL001"),
        ("a.fits", b"this is no image at all", "FIL002"),
        ("a.fits", header([LIGHT])[:300], "FIL002"),
        ("a.fits", header([LIGHT]).replace(b"BITPIX  = 16", b"BITPIX  = 17"), "FIL002"),
        ("a.fits.gz", b"\x1f\x8b\x08\x00garbage", "FIL002"),
        ("a.cr2", b"II*\x00" + bytes(30), "FIL002"),
        ("a.nef", b"\xff\xd8\xff\xe1" + bytes(30), "FIL002"),
        ("a.xisf", b"XISF0100" + bytes(30), "FIL002"),
        ("a.jpg", b"\xff\xd8\xff\xe0" + bytes(30), "FIL006"),
        ("a.png", b"\x89PNG\r\n\x1a\n" + bytes(30), "FIL006"),
        ("a.tif", b"II*\x00" + bytes(30), "FIL006"),
        ("a.ser", b"LUCAM-RECORDER" + bytes(30), "FIL006"),
        ("a.avi", b"RIFF\x00\x00\x00\x00AVI " + bytes(30), "FIL006"),
    ],
)
def test_file_that_cannot_be_used_is_one_finding_and_no_exception(tmp_path, name, content, finding):
    (tmp_path / name).write_bytes(content)
    catalog = read(tmp_path)
    assert [one.id for one in catalog.findings] == [finding]
    assert [(Path(held.path).name, held.finding) for held in catalog.held_back] == [(name, finding)]
    assert catalog.frames == ()


def test_file_that_ends_early_is_held_back(tmp_path):
    path = write(tmp_path / "a.fits", LIGHT)
    path.write_bytes(path.read_bytes()[:-10])
    catalog = read(tmp_path)
    assert [finding.id for finding in catalog.findings] == ["FIL003"]
    assert catalog.findings[0].evidence == {"found_bytes": 2880 + 502, "expected_bytes": 2880 + 512}
    assert [held.finding for held in catalog.held_back] == ["FIL003"]
    assert catalog.frames == ()


def test_missing_file_is_one_finding(tmp_path):
    catalog = read(tmp_path / "none.fits")
    assert [finding.id for finding in catalog.findings] == ["FIL002"]


def test_other_files_are_counted(tmp_path):
    (tmp_path / "notes.txt").write_text("SIMPLE  = T, but a text")
    (tmp_path / "x.json").write_text("{}")
    catalog = read(tmp_path)
    (finding,) = catalog.findings
    assert (finding.id, finding.evidence["count"], finding.evidence["kinds"]) == ("SCN013", 2, ".json 1, .txt 1")
    assert catalog.held_back == ()


def test_hidden_files_are_passed_over_with_a_finding(tmp_path):
    write(tmp_path / ".hidden.fits", LIGHT)
    write(tmp_path / ".folder" / "a.fits", LIGHT)
    catalog = read(tmp_path)
    assert catalog.frames == ()
    assert [(finding.id, finding.evidence["count"]) for finding in catalog.findings] == [("SCN012", 2)]


def test_only_masters_of_an_output_folder_are_scanned(tmp_path):
    out = tmp_path / "out"
    write(out / "masters" / "dark.fits", ("WBPYKIND", "'master_dark'"))
    write(out / "integrations" / "m42.fits", ("WBPYKIND", "'integration'"))
    (out / ".store").mkdir()
    (out / "run.json").write_text("{}")
    catalog = read(tmp_path)
    assert [frame.role for frame in catalog.frames] == ["dark"]
    assert [finding.id for finding in catalog.findings] == ["SCN011"]
    (out / "run.json").unlink()
    assert [finding.id for finding in read(tmp_path).findings] == ["SCN006", "SCN012"]


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights on Windows")
def test_links_are_followed_on_request_and_never_in_circles(tmp_path):
    write(tmp_path / "night" / "a.fits", LIGHT)
    write(tmp_path / "elsewhere" / "b.fits", LIGHT)
    (tmp_path / "night" / "loop").symlink_to(tmp_path / "night")
    (tmp_path / "night" / "link").symlink_to(tmp_path / "elsewhere")
    catalog = read(tmp_path / "night")
    assert len(catalog.frames) == 1
    assert [finding.id for finding in catalog.findings] == ["SCN015", "SCN015"]
    catalog = read(tmp_path / "night", follow_links=True)
    assert len(catalog.frames) == 2
    assert [finding.id for finding in catalog.findings] == ["SCN015"]


@pytest.mark.skipif(sys.platform == "win32", reason="inodes are not told on Windows")
def test_same_file_under_two_names_counts_once(tmp_path):
    os.link(write(tmp_path / "a.fits", LIGHT), tmp_path / "b.fits")
    catalog = read(tmp_path)
    assert len(catalog.frames) == 1
    assert [finding.id for finding in catalog.findings] == ["SCN018"]


def test_paths_that_overlap_give_each_file_once_in_any_order(tmp_path):
    first = write(tmp_path / "a" / "1.fits", LIGHT)
    write(tmp_path / "b" / "2.fits", LIGHT)
    paths = [tmp_path, tmp_path / "a", first]
    one_way, other_way = scan(paths, RULES, ScanSettings()), scan(paths[::-1], RULES, ScanSettings())
    assert [Path(frame.path).name for frame in one_way.frames] == ["1.fits", "2.fits"]
    assert one_way.frames == other_way.frames


def test_words_of_the_outermost_given_folder_count_in_any_order(tmp_path):
    write(tmp_path / "darks" / "a.fits")
    paths = [tmp_path / "darks", tmp_path]
    for order in (paths, paths[::-1]):
        assert [frame.role for frame in scan(order, RULES, ScanSettings()).frames] == ["dark"]


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights on Windows")
def test_folder_given_under_two_names_is_searched_once(tmp_path):
    write(tmp_path / "night" / "a.fits", LIGHT)
    (tmp_path / "again").symlink_to(tmp_path / "night")
    catalog = scan([tmp_path / "night", tmp_path / "again"], RULES, ScanSettings())
    assert (len(catalog.frames), catalog.findings) == (1, ())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux allows any bytes in names")
def test_name_that_is_no_text_is_held_back(tmp_path):
    write(tmp_path / "ok.fits", LIGHT)
    os.rename(tmp_path / "ok.fits", os.fsencode(tmp_path) + b"/\xff.fits")
    catalog = read(tmp_path)
    assert [finding.id for finding in catalog.findings] == ["SCN020"]
    catalog.to_json()


def test_names_of_any_script_are_kept(tmp_path):
    frame, _, _ = one(tmp_path, LIGHT, name="北アメリカ星雲 – Lumière.fits")
    assert Path(frame.path).name == "北アメリカ星雲 – Lumière.fits"


def test_folder_that_cannot_be_read_is_an_error_finding_and_the_rest_is_scanned(tmp_path, monkeypatch):
    write(tmp_path / "a" / "1.fits", LIGHT)
    write(tmp_path / "b" / "2.fits", LIGHT)
    real = os.scandir

    def refuse(path):
        if str(path).endswith("a"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    catalog = read(tmp_path)
    assert [(finding.id, finding.severity) for finding in catalog.findings] == [("SCN016", "error")]
    assert len(catalog.frames) == 1


def test_progress_is_told_for_each_file(tmp_path):
    for number in range(3):
        write(tmp_path / f"{number}.fits", LIGHT)
    told = []
    scan([tmp_path], RULES, ScanSettings(), on_progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


# Scanning again


def test_unchanged_files_are_taken_over_changed_ones_read_and_vanished_ones_dropped(tmp_path, monkeypatch):
    for name in "abc":
        write(tmp_path / f"{name}.fits", LIGHT, "EXPTIME = 10.0")
    before = read(tmp_path)
    write(tmp_path / "b.fits", LIGHT, "EXPTIME = 20.0", "GAIN    = 5")
    os.utime(tmp_path / "b.fits", ns=(1, 1))
    (tmp_path / "c.fits").unlink()
    opened = []

    import wbpy.scanning.scanner as scanner

    real = scanner.load_header
    monkeypatch.setattr(scanner, "load_header", lambda path: opened.append(Path(path).name) or real(path))
    after = scan([tmp_path], RULES, ScanSettings(), previous=before)
    assert opened == ["b.fits"]
    assert [frame.exposure for frame in after.frames] == [10.0, 20.0]
    assert after.frames == scan([tmp_path], RULES, ScanSettings()).frames


def test_catalog_of_other_settings_or_another_root_is_not_taken_over(tmp_path):
    write(tmp_path / "darks" / "a.fits")
    before = read(tmp_path)
    assert before.frames[0].role == "dark"
    again = scan([tmp_path / "darks"], RULES, ScanSettings(), previous=before)
    assert again.frames == ()
    as_light = scan([tmp_path / "darks"], RULES, ScanSettings(role="light"), previous=again)
    assert as_light.frames[0].role == "light"


# Rules


def test_dialect_of_a_user_wins_over_the_built_in_one(tmp_path):
    folder = tmp_path / "rules" / "dialects"
    folder.mkdir(parents=True)
    (folder / "mine.toml").write_text(
        '[[dialect]]\nid = "mine"\nname = "Mine"\nidentify = [["SWCREATE", "N.I.N.A."]]\n'
        '[dialect.fields.gain]\nkeywords = ["MYGAIN"]\n'
    )
    rules = load_rules([tmp_path / "rules"])
    write(tmp_path / "in" / "a.fits", LIGHT, "SWCREATE= 'N.I.N.A. 3'", "MYGAIN  = 7", "GAIN    = 1")
    (frame,) = scan([tmp_path / "in"], rules, ScanSettings()).frames
    assert (frame.program, frame.gain) == ("Mine", 7.0)


def test_rule_with_an_unknown_normaliser_says_which_there_are(tmp_path):
    (tmp_path / "fields.toml").write_text(
        '[[field]]\nid = "gain"\nkeywords = ["GAIN"]\ndtype = "float"\nnormalise = "magic"\nmeaning = "x"\n'
    )
    with pytest.raises(RuleError, match=r"fields/gain: there is no normaliser 'magic', expected one of .*camera_gain"):
        scan([tmp_path], load_rules([tmp_path]), ScanSettings())


def test_rule_for_an_unknown_field_is_an_error(tmp_path):
    (tmp_path / "dialects").mkdir()
    (tmp_path / "dialects" / "mine.toml").write_text(
        '[[dialect]]\nid = "mine"\nname = "Mine"\nidentify = [["A", ""]]\n[dialect.fields.gian]\nkeywords = ["X"]\n'
    )
    with pytest.raises(RuleError, match="there is no field 'gian'"):
        scan([tmp_path], load_rules([tmp_path]), ScanSettings())


@pytest.mark.parametrize(
    ("cards", "program"),
    [
        (["SWCREATE= 'SharpCap v4.1'"], "SharpCap"),
        (["CREATOR = 'ZWO ASIAIR Plus'"], "ZWO ASIAIR"),
        (["INSTRUME= 'DWARFII'"], "DWARF II"),
        (["INSTRUME= 'DWARFIII'"], "DWARF III"),
        (["PROGRAM = 'PixInsight 1.8.9'", "COMMENT Generated by INDI"], "INDI / Ekos"),
        (["PROGRAM = 'Siril 1.4.0'"], "Siril"),
        (["SWCREATE= 'N.I.N.A. 3'", "WBPYKIND= 'master_dark'"], "wbpy"),
        (["SWCREATE= 'Something new 1.0'"], "Something new 1.0"),
    ],
)
def test_program_is_told_from_its_own_words(tmp_path, cards, program):
    assert one(tmp_path, ("IMAGETYP", "'DARK'"), *cards)[0].program == program


# Texts beside the images, values in names, user keywords

SETTINGS_TEXT = """[ZWO ASI533MC Pro]
FrameType=Dark
Binning=2
Colour Space=RAW16
Black Level=30
Analogue Gain=101
Exposure=315.0000ms
Temperature=-9.8
Target Temperature=-10
Subtract Dark=None
"""


def test_text_beside_the_image_says_what_the_header_does_not(tmp_path):
    (tmp_path / "x.CameraSettings.txt").write_text(SETTINGS_TEXT)
    frame, found, catalog = one(tmp_path, ("SWCREATE", "'SharpCap v4.1'"), ("GAIN", "350"), name="x.fits")
    assert (frame.role, frame.exposure, frame.gain, frame.offset) == ("dark", 0.315, 350.0, 30.0)
    assert (frame.camera, frame.temp_ccd, frame.temp_set, frame.xbinning) == ("ZWO ASI533MC Pro", -9.8, -10.0, 2)
    assert found == []
    (source,) = [source for source in catalog.sources(tmp_path / "x.fits") if source.field == "exposure"]
    assert (source.keyword, source.raw) == ("x.CameraSettings.txt: Exposure", "315.0000ms")


def test_text_beside_the_image_that_contradicts_the_header_is_reported(tmp_path):
    (tmp_path / "x.CameraSettings.txt").write_text(SETTINGS_TEXT)
    frame, found, catalog = one(tmp_path, LIGHT, name="x.fits")
    assert (frame.role, found) == ("light", ["SCN005"])
    assert catalog.findings[0].evidence["other_keyword"] == "x.CameraSettings.txt: FrameType"


def test_dark_subtracted_while_capturing_is_read_from_the_text_and_held_back(tmp_path):
    (tmp_path / "x.CameraSettings.txt").write_text("FrameType=Light\nSubtract Dark=C:\\darks\\d.fits\n")
    frame, found, _ = one(tmp_path, name="x.fits")
    assert (frame.calibrated, found) == (True, ["SCN007"])


def test_changed_text_beside_an_image_is_read_again(tmp_path):
    text = tmp_path / "x.CameraSettings.txt"
    text.write_text("FrameType=Light\n")
    _, _, before = one(tmp_path, name="x.fits")
    text.write_text("FrameType=Flat \n")
    after = scan([tmp_path], RULES, ScanSettings(), previous=before)
    assert [frame.role for frame in (*before.frames, *after.frames)] == ["light", "flat"]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("dark_exp_60.000000_gain_60_bin_1_20C_stack_8", {"exposure": 60.0, "gain": 60.0, "temp_ccd": 20.0}),
        ("MasterBias_1.0ms_-9.8C_gain100_x", {"exposure": 0.001, "gain": 100.0, "temp_ccd": -9.8}),
        ("DARK_120s_G120_O30_T-10C_bin2", {"exposure": 120.0, "gain": 120.0, "offset": 30.0, "xbinning": 2}),
        ("MasterDark_ISO800_300s", {"iso": 800.0, "exposure": 300.0}),
        ("Flat_M31_60s60_dark", {"exposure": None, "gain": None, "temp_ccd": None}),
        ("bias_2021-09-17_bins_againg100", {"xbinning": None, "gain": None}),
    ],
)
def test_values_in_a_file_name_count_where_the_header_is_silent(tmp_path, name, values):
    frame, _, catalog = one(tmp_path, name=f"{name}.fits")
    assert {field: getattr(frame, field) for field in values} == values
    assert ("SCN039" in [finding.id for finding in catalog.findings]) == any(
        value is not None for value in values.values()
    )


def test_header_wins_over_the_file_name_even_when_it_is_not_understood(tmp_path):
    name = "dark_120s_gain100.fits"
    assert one(tmp_path, ("EXPTIME", "60.0"), name=name)[0].exposure == 60.0
    frame, found, _ = one(tmp_path / "b", ("EXPTIME", "'long'"), name=name)
    assert (frame.exposure, found) == (None, ["SCN004"])


def test_stack_count_in_a_name_marks_masters_and_results(tmp_path):
    dark = one(tmp_path, ("IMAGETYP", "'DARK'"), name="dark_stack_8.fits")[0]
    assert (dark.is_master, dark.stack_count) == (True, 8)
    light, found, _ = one(tmp_path / "b", LIGHT, name="Stacked_614_Sadr_10.0s_LP.fits")
    assert (light.stack_count, found) == (614, ["SCN006"])


def test_keywords_of_the_user_are_kept_and_names_beat_headers(tmp_path):
    write(tmp_path / "SESSION_1" / "rig_left" / "a_SESSION_2.fits", LIGHT, ("SESSION", "'9'"), ("RIG", "'right'"))
    write(tmp_path / "b.fits", LIGHT, ("SESSION", "'9'"))
    first, second = read(tmp_path, keywords=("SESSION", "RIG")).frames
    assert first.keywords == {"SESSION": "2", "RIG": "left"}
    assert second.keywords == {"SESSION": "9"}
    assert read(tmp_path).frames[0].keywords == {}


def test_focal_length_of_the_setting_replaces_the_header(tmp_path):
    frame, _, catalog = one(tmp_path, LIGHT, ("FOCALLEN", "500"), focal_length=478.0)
    assert frame.focal_length == 478.0
    (source,) = [one for one in catalog.sources(frame.path) if one.field == "focal_length"]
    assert (source.raw, source.rule) == ("500", "setting scan.focal_length")


@pytest.mark.parametrize(
    ("cards", "pedestal"),
    [
        ([("SWCREATE", "'MaxIm DL Version 6'"), ("PEDESTAL", "-100")], 100.0),
        ([("SBSTDVER", "'SBFITSEXT Version 1.0'"), ("PEDESTAL", "-100")], 100.0),
        ([("PROGRAM", "'PixInsight 1.8'"), ("PEDESTAL", "100")], 100.0),
        ([("PEDESTAL", "0")], 0.0),
        ([], None),
    ],
)
def test_pedestal_is_what_the_data_carry_whatever_the_sign(tmp_path, cards, pedestal):
    assert one(tmp_path, LIGHT, *cards)[0].pedestal == pedestal


@pytest.mark.parametrize(
    ("cards", "utc", "night"),
    [
        # The end of the exposure, or the moment when the file was made.
        (["SWCREATE= 'INDIGO 2'", "EXPTIME = 60.0", "DATE-OBS= '2021-03-02T20:01:00'"], "20:00:00.000Z", "2021-03-02"),
        (["CREATOR = 'ZWO Seestar S50'", "EXPTIME = 10.0", "DATE-OBS= '2021-03-03T00:00:05'"], "23:59:55.000Z", None),
        # Local time with the distance from UTC in a keyword of its own.
        (
            ["INSTRUME= 'Celestron Origin'", "TIMEZONE= -7", "DATE-OBS= '2021-03-02T22:00:00'"],
            "05:00:00.000Z",
            "2021-03-02",
        ),
        (
            ["INSTRUME= 'Celestron Origin'", "TIMEZONE= '+05:30'", "DATE-OBS= '2021-03-02T22:00:00'"],
            "16:30:00.000Z",
            "2021-03-02",
        ),
    ],
)
def test_date_is_the_start_in_utc_whatever_the_program_means_by_it(tmp_path, cards, utc, night):
    frame = one(tmp_path, LIGHT, *cards)[0]
    assert frame.date_obs.partition("T")[2] == utc
    assert night is None or frame.night == night


def test_local_time_without_its_zone_is_unknown_with_a_finding(tmp_path):
    frame, found, _ = one(tmp_path, LIGHT, "INSTRUME= 'Celestron Origin'", "DATE-OBS= '2021-03-02T22:00:00'")
    assert (frame.date_obs, found) == (None, ["SCN004"])


def test_gain_beside_the_read_noise_is_a_conversion(tmp_path):
    frame = one(tmp_path, LIGHT, ("GAIN", "2"), ("RDNOISE", "5.0"))[0]
    assert (frame.gain, frame.e_per_dn) == (None, 2.0)


def test_noise_of_binary_floats_is_taken_off(tmp_path):
    assert one(tmp_path, LIGHT, ("CCD-TEMP", "-40.007286000000008"))[0].temp_ccd == -40.007286


# While files are written


def test_file_that_grows_while_it_is_read_is_held_back(tmp_path, monkeypatch):
    import wbpy.scanning.scanner as scanner

    path = write(tmp_path / "a.fits", LIGHT)
    load = scanner.load_header

    def growing(name):
        found = load(name)
        with open(name, "ab") as file:
            file.write(bytes(2880))
        return found

    monkeypatch.setattr(scanner, "load_header", growing)
    catalog = read(tmp_path)
    assert catalog.frames == ()
    (finding,) = catalog.findings
    assert (finding.id, finding.evidence["after"] - finding.evidence["before"]) == ("SCN025", 2880)
    monkeypatch.undo()
    assert len(scan([path], RULES, ScanSettings(), previous=catalog).frames) == 1


def test_file_that_vanishes_while_it_is_read_is_one_finding(tmp_path, monkeypatch):
    import wbpy.scanning.scanner as scanner

    write(tmp_path / "a.fits", LIGHT)
    load = scanner.load_header

    def vanishing(name):
        found = load(name)
        os.remove(name)
        return found

    monkeypatch.setattr(scanner, "load_header", vanishing)
    assert [finding.id for finding in read(tmp_path).findings] == ["FIL002"]


# Masters and results of other programs


@pytest.mark.parametrize(
    ("cards", "name", "role"),
    [
        ([("PROGRAM", "'Siril 1.4'"), ("IMAGETYP", "'BIAS'"), ("STACKCNT", "100")], "bias_stacked.fit", "bias"),
        ([("PROGRAM", "'Siril 1.4'")], "masters/dark_stacked.fit", "dark"),
        ([("IMAGETYP", "'FLAT'")], "pp_flat_stacked.fit", "flat"),
        ([("CREATOR", "'ZWO ASIAIR Plus'"), ("IMAGETYP", "'Dark'"), ("STACKCNT", "20")], "x.fit", "dark"),
        ([("HISTORY", "ImageIntegration.x"), ("IMAGETYP", "'Master Flat'")], "masterFlat_BIN-1.fits", "flat"),
        ([("SOFTWARE", "'Astro Pixel Processor'"), ("CALFRAME", "'MasterBias'")], "MB.fits", "bias"),
        ([], "CALI_FRAME/dark/cam_0/dark_exp_60.000000_gain_60_bin_1_20C_stack_8.fits", "dark"),
        ([], "MasterDark_ISO800_300s.fits", "dark"),
    ],
)
def test_masters_of_other_programs_are_usable_and_marked(tmp_path, cards, name, role):
    frame, _, catalog = one(tmp_path, *cards, name=name)
    assert (frame.role, frame.is_master, len(catalog.frames)) == (role, True, 1)
    assert "SCN038" in [finding.id for finding in catalog.findings]


def test_master_that_says_how_it_was_taken_is_not_marked(tmp_path):
    cards = [("IMAGETYP", "'Master Dark'"), ("GAIN", "100"), ("OFFSET", "50"), ("CCD-TEMP", "-10.0")]
    assert one(tmp_path, *cards)[2].findings == ()


@pytest.mark.parametrize(
    ("cards", "name"),
    [
        ([("STACKCNT", "187")], "x.fit"),
        ([], "Stacked_187_NGC_10.0s.fit"),
        ([], "Stacked10_M31.fit"),
        ([], "stacked-16_M31_60s60.fits"),
        ([], "failed_M31_60s60.fits"),
        ([], "result_3600s.fit"),
        ([], "integration_Ha.fits"),
        ([], "Autosave001.fits"),
    ],
)
def test_results_of_other_programs_are_held_back(tmp_path, cards, name):
    frame, found, _ = one(tmp_path, LIGHT, *cards, name=name)
    assert (frame.role, found) == ("light", ["SCN006"])


@pytest.mark.parametrize("name", ["calibrated-T31-user-M31.fit", "pp_light_0001.fit", "calibrated/light.fit"])
def test_calibrated_lights_of_services_and_programs_are_held_back(tmp_path, name):
    assert one(tmp_path, LIGHT, name=name)[1] == ["SCN007"]
