"""`wbpy inspect`: statistics, counts, scales, pictures and findings of frames, without a plan."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from PIL import Image

import wbpy
from wbpy import cli
from wbpy.errors import ConfigError
from wbpy.inspecting import Histogram
from wbpy.reporting.inspect_view import WIDTH, histogram_lines
from wbpy.simulate import Sensor, SessionSpec, write_session

SPEC = SessionSpec(
    sensor=Sensor(width=96, height=80, cfa="RGGB", glow_e_per_s=0.0, adc_bits=14, read_noise_e=20.0),
    n_lights=2,
    n_darks=5,
    n_flats=3,
    n_flat_darks=0,
    n_bias=3,
    faults={("dark", 1): "leak", ("flat", 2): "closed"},
    leak_e_per_s=10.0,
)


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inspect")
    write_session(folder, SPEC)
    return folder


def test_the_table_holds_what_numpy_says(night: Path):
    seen = wbpy.inspect(night / "LIGHT", range=(510.0, 530.0))
    names, rows = seen.table()
    table = [dict(zip(names, row, strict=True)) for row in rows]
    assert [row["plane"] for row in table] == ["all", "R", "G", "G2", "B"] * 2
    for row in table:
        pixels = fits.getdata(row["file"]).astype(np.float64)
        places = {"R": (0, 0), "G": (0, 1), "G2": (1, 0), "B": (1, 1)}
        if row["plane"] != "all":
            y, x = places[row["plane"]]
            pixels = pixels[y::2, x::2]
        assert row["pixels"] == pixels.size
        assert row["mean_dn"] == pytest.approx(pixels.mean(), abs=1e-9)
        assert row["median_dn"] == np.median(pixels)
        assert row["mad_dn"] == np.median(np.abs(pixels - np.median(pixels)))
        assert (row["min_dn"], row["max_dn"]) == (pixels.min(), pixels.max())
        assert row["in_range"] == np.count_nonzero((pixels >= 510) & (pixels <= 530))
        assert row["levels"] == np.unique(pixels).size


def test_scale_and_histogram_are_told(night: Path):
    [one] = wbpy.inspect(sorted((night / "DARK").iterdir())[0]).frames
    assert one.scale == "14 bits x 4"
    assert one.role == "dark"
    assert [histogram.plane for histogram in one.histograms] == ["R", "G", "G2", "B"]
    assert sum(sum(histogram.counts) for histogram in one.histograms) == 96 * 80
    assert all(len(histogram.edges) == len(histogram.counts) + 1 for histogram in one.histograms)


def test_findings_are_raised_without_a_plan(night: Path):
    found = {(finding.id, Path(finding.subject).name) for finding in wbpy.inspect(night).findings}
    darks, flats = (sorted((night / folder).iterdir()) for folder in ("DARK", "FLAT"))
    assert ("CHK007", darks[1].name) in found
    # The flat without light is darker than half of what would be subtracted, or differs from its set.
    assert any(name == flats[2].name and id.startswith("CHK") for id, name in found)
    assert not any(name == darks[2].name and id.startswith("CHK") for id, name in found)


def test_pictures_are_written_into_the_folder(night: Path, tmp_path: Path):
    from PIL import Image

    seen = wbpy.inspect(night / "LIGHT", pictures=tmp_path / "out")
    names = sorted(Path(path).name for path in seen.pictures)
    assert names == sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names[0].endswith("_histogram.png")
    assert "contact_sheet.png" in names
    with Image.open(tmp_path / "out" / "contact_sheet.png") as sheet:
        # Two frames of 96 x 80 px side by side in columns of 240 px, margins of 8 px, a line of text of 14 px.
        assert sheet.size == (2 * 248 + 8, 80 + 14 + 2 * 8)
        assert np.asarray(sheet).std() > 10
    assert wbpy.inspect(night / "LIGHT").pictures == ()


def test_a_mosaic_is_shown_in_grey_and_tagged_with_its_pattern(
    night: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    mosaic = np.full((400, 480), 1000, np.uint16)
    mosaic[::2, ::2] = 9000
    mosaic[1::2, 1::2] = 200
    header = fits.Header({"IMAGETYP": "Light Frame", "BAYERPAT": "RGGB"})
    fits.PrimaryHDU(mosaic, header).writeto(tmp_path / "even.fits")
    with pytest.raises(SystemExit) as end:
        cli.main(["inspect", str(tmp_path / "even.fits"), "-o", str(tmp_path / "pictures")])
    assert end.value.code == 0 and "grey, CFA RGGB" in capsys.readouterr().out
    with Image.open(tmp_path / "pictures" / "contact_sheet.png") as sheet:
        assert sheet.mode == "L"
        # The middle of the thumbnail: no pattern of colours is left in it.
        assert np.unique(np.asarray(sheet)[40:180, 40:200]).size == 1
    with pytest.raises(SystemExit):
        cli.main(["inspect", str(sorted((night / "LIGHT").iterdir())[0])])
    assert "grey, CFA RGGB" in capsys.readouterr().out


def test_a_damaged_file_is_named_and_the_others_are_shown(night: Path, tmp_path: Path):
    good, bad = sorted((night / "BIAS").iterdir())[:2]
    (tmp_path / "good.fits").write_bytes(good.read_bytes())
    (tmp_path / "bad.fits").write_bytes(bad.read_bytes()[:-6000])
    seen = wbpy.inspect(tmp_path)
    assert [Path(one.path).name for one in seen.frames] == ["good.fits"]
    assert [Path(one.path).name for one in seen.held_back] == ["bad.fits"]
    assert [finding.id for finding in seen.findings if Path(finding.subject).name == "bad.fits"] == ["FIL003"]


def test_a_file_whose_damage_only_its_pixels_show_is_named(tmp_path: Path):
    for name, whole in (("good.fits", True), ("bad.fits", False)):
        image = np.random.default_rng(2).integers(400, 600, (64, 64)).astype(np.int16)
        header = fits.Header([("IMAGETYP", "DARK")])
        fits.CompImageHDU(image, header, compression_type="GZIP_1").writeto(tmp_path / name)
        content = bytearray((tmp_path / name).read_bytes())
        if not whole:
            # The tiles lie behind the headers and the table of their places.
            content[-2880 * 2 : -2880] = bytes(2880)
        (tmp_path / name).write_bytes(bytes(content))
    seen = wbpy.inspect(tmp_path)
    assert [Path(one.path).name for one in seen.frames] == ["good.fits"]
    told = [(finding.id, Path(finding.subject).name) for finding in seen.findings if finding.severity == "error"]
    assert told == [("CHK032", "bad.fits")]


def test_a_calibrated_frame_with_missing_pixels_is_shown(tmp_path: Path):
    image = np.random.default_rng(1).normal(3.0, 8.0, (64, 64)).astype(np.float32)
    image[5, 6] = np.nan
    fits.writeto(tmp_path / "light.fits", image, fits.Header([("IMAGETYP", "LIGHT")]))
    [one] = wbpy.inspect(tmp_path).frames
    assert one.statistics.missing == 1
    assert one.scale.startswith("no whole numbers")


def test_the_command_writes_table_json_and_csv(night: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as left:
        cli.main(["inspect", str(night / "BIAS"), "--csv", str(tmp_path / "t.csv"), "--range", "480", "520"])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    assert "480-520" in shown
    assert "Inspected: 3 frames." in shown
    rows = list(csv.DictReader((tmp_path / "t.csv").read_text(encoding="utf-8").splitlines()))
    assert len(rows) == 3 * 5
    assert float(rows[0]["median_dn"]) == pytest.approx(500, abs=8)
    with pytest.raises(SystemExit):
        cli.main(["inspect", str(night / "BIAS"), "--json", "-q"])
    told = json.loads(capsys.readouterr().out)
    assert [frame["role"] for frame in told["frames"]] == ["bias"] * 3
    assert set(told) == {"range_dn", "frames", "findings", "held_back", "pictures"}


def test_an_empty_range_and_an_unwritable_table_are_refused(night: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="empty"):
        wbpy.inspect(night / "BIAS", range=(10.0, 5.0))
    with pytest.raises(SystemExit) as left:
        cli.main(["inspect", str(night / "BIAS"), "-q", "--csv", str(tmp_path / "none" / "t.csv")])
    assert left.value.code == cli.WRONG_USE


def test_a_histogram_in_text_has_bars_of_logarithmic_length():
    lines = histogram_lines(Histogram(plane="all", edges=(0, 10, 20, 100), counts=(1, 0, 99)))
    assert [line.count("#") for line in lines] == [round(WIDTH * np.log(2) / np.log(100)), 0, WIDTH]
    assert lines[0].split()[:3] == ["0", "to", "9"]
    assert lines[2].endswith(" 99")


def test_equal_frames_of_two_cameras_are_not_one_set(tmp_path: Path):
    for number, (name, level) in enumerate((("A", 500.0), ("B", 800.0))):
        sensor = replace(SPEC.sensor, offset_dn=level, cfa=None, adc_bits=16, read_noise_e=3.0)
        quiet = replace(SPEC, sensor=sensor, n_lights=1, n_flats=0, n_darks=0, faults={}, camera=name, seed=number)
        write_session(tmp_path / name, quiet)
    found = {finding.id for finding in wbpy.inspect([tmp_path / "A" / "BIAS", tmp_path / "B" / "BIAS"]).findings}
    assert "CHK009" not in found


def test_every_plane_of_a_picture_in_colour_is_shown(tmp_path: Path):
    pixels = np.random.default_rng(2).integers(100, 900, (3, 60, 80)) * np.array([1, 2, 3])[:, None, None]
    header = fits.Header([("IMAGETYP", "Master Light"), ("STACKCNT", 9)])
    fits.writeto(tmp_path / "picture.fits", pixels.astype(np.uint16), header)
    seen = wbpy.inspect(tmp_path / "picture.fits", range=(1000.0, 2000.0), pictures=tmp_path / "out")
    names, rows = seen.table()
    table = {row["plane"]: row for row in (dict(zip(names, row, strict=True)) for row in rows)}
    assert list(table) == ["all", "R", "G", "B"]
    for name, plane in zip(table, (pixels, *pixels), strict=True):
        assert table[name]["pixels"] == plane.size
        assert table[name]["mean_dn"] == pytest.approx(plane.mean(), abs=1e-9)
        assert table[name]["median_dn"] == np.median(plane)
        assert table[name]["in_range"] == np.count_nonzero((plane >= 1000) & (plane <= 2000))
    assert [histogram.plane for histogram in seen.frames[0].histograms] == ["R", "G", "B"]
    assert (tmp_path / "out" / "picture_histogram.png").exists()
