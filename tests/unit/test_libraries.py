"""Library roots: calibration frames for all projects, whose headers are read once."""

import os

import pytest
from test_scanner import LIGHT, RULES, write

from wbpy.config import ScanSettings
from wbpy.scanning.scanner import scan

DARK = [("IMAGETYP", "'DARK'"), ("EXPTIME", "300.0"), ("GAIN", "100")]


@pytest.fixture
def folders(tmp_path):
    write(tmp_path / "project" / "light.fits", LIGHT)
    for number in range(3):
        write(tmp_path / "library" / "darks" / f"{number}.fits", *DARK)
    return tmp_path


def look(root, cache=None, **settings):
    wanted = ScanSettings(library=(str(root / "library"),), **settings)
    return scan([root / "project"], RULES, wanted, cache=cache)


def test_frames_of_a_library_take_part_and_are_marked(folders):
    catalog = look(folders)
    assert sorted((frame.role, frame.library) for frame in catalog.frames) == [("dark", True)] * 3 + [("light", False)]


def test_lights_of_a_library_are_left_alone_with_a_finding(folders):
    path = write(folders / "library" / "m31.fits", LIGHT)
    catalog = look(folders)
    assert [(one.path, one.finding) for one in catalog.held_back] == [(str(path), "SCN026")]
    assert [one.severity for one in catalog.findings if one.id == "SCN026"] == ["info"]


def test_library_is_read_once_for_several_projects(folders, monkeypatch):
    import wbpy.scanning.scanner as scanner

    read = []
    load = scanner.load_header
    monkeypatch.setattr(scanner, "load_header", lambda path: read.append(os.path.basename(path)) or load(path))
    cache = folders / "cache"
    look(folders, cache)
    assert len(read) == 4
    write(folders / "other" / "light2.fits", LIGHT)
    settings = ScanSettings(library=(str(folders / "library"),))
    first = scan([folders / "other"], RULES, settings, cache=cache)
    assert read[4:] == ["light2.fits"]
    assert sum(frame.library for frame in first.frames) == 3
    write(folders / "library" / "darks" / "3.fits", *DARK)
    (folders / "library" / "darks" / "0.fits").unlink()
    again = scan([folders / "other"], RULES, settings, cache=cache)
    assert read[5:] == ["light2.fits", "3.fits"]
    assert [os.path.basename(frame.path) for frame in again.frames if frame.library] == ["1.fits", "2.fits", "3.fits"]


def test_what_is_concluded_in_one_project_is_not_kept_in_the_index(folders):
    cache = folders / "cache"
    write(folders / "project" / "flat.fits", ("IMAGETYP", "'FLAT'"), ("EXPTIME", "300.0"), ("GAIN", "100"))
    assert {frame.role for frame in look(folders, cache).frames if frame.library} == {"flat_dark"}
    (folders / "project" / "flat.fits").unlink()
    assert {frame.role for frame in look(folders, cache).frames if frame.library} == {"dark"}


def test_folder_that_is_project_and_library_belongs_to_the_project(folders):
    settings = ScanSettings(library=(str(folders / "library"),))
    catalog = scan([folders / "project", folders / "library"], RULES, settings)
    assert [frame.library for frame in catalog.frames] == [False] * 4


def test_library_that_is_not_there_is_an_error_finding(folders):
    catalog = scan([folders / "project"], RULES, ScanSettings(library=(str(folders / "gone"),)))
    assert [(one.id, one.severity) for one in catalog.findings] == [("SCN016", "error")]
    assert len(catalog.frames) == 1


def test_index_that_cannot_be_saved_is_reported(folders):
    (folders / "cache").write_text("a file where the folder should be")
    catalog = look(folders, folders / "cache")
    assert [one.id for one in catalog.findings] == ["SCN040"]
    assert len(catalog.frames) == 4


def test_index_that_is_damaged_is_made_anew(folders):
    cache = folders / "cache"
    look(folders, cache)
    (file,) = cache.iterdir()
    file.write_bytes(b"nothing")
    assert len(look(folders, cache).frames) == 4


def test_index_of_other_settings_is_read_anew(folders):
    cache = folders / "cache"
    write(folders / "library" / "x.fits")
    look(folders, cache)
    assert sum(frame.library for frame in look(folders, cache, role="flat").frames) == 4
