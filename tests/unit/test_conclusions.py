"""What only all frames together tell: flat-darks, contradictions, masters of other programs; and taking it back."""

import msgspec
import pytest
from session_frames import frame

from wbpy.catalog import Catalog, Entry
from wbpy.config import ScanSettings
from wbpy.rules import load_rules
from wbpy.scanning.conclusions import as_read, conclude

RULES = load_rules()
WITHOUT_PIXELS = ScanSettings(pixel_checks=False)


def entries(*frames):
    made = [
        Entry(path=one.path, below=one.path, size=one.size, modified_ns=one.modified_ns, frame=one) for one in frames
    ]
    return sorted(made, key=lambda entry: entry.path)


def roles(*frames):
    made, findings = conclude(entries(*frames), RULES, WITHOUT_PIXELS)
    return {entry.path.rpartition("/")[2][:-5]: entry.frame.role for entry in made}, findings


def test_darks_with_the_exposure_of_the_flats_become_flat_darks():
    found, findings = roles(
        frame("f", "flat"), frame("l"), frame("d2", "dark", exposure=2.0), frame("d300", "dark", exposure=300.0)
    )
    assert (found["d2"], found["d300"]) == ("flat_dark", "dark")
    assert [(one.id, one.evidence["count"]) for one in findings] == [("SCN023", 1)]


@pytest.mark.parametrize(
    ("why", "others"),
    [
        ("a light of the same exposure", [frame("l", exposure=2.0)]),
        ("a shorter light, for which it can be scaled", [frame("l", exposure=1.0)]),
        ("no flats", []),
        ("flats of another gain", [frame("f", "flat", gain=200.0)]),
        ("flats of another exposure", [frame("f", "flat", exposure=3.0)]),
    ],
)
def test_other_darks_stay_darks(why, others):
    flats = [] if why.startswith(("no", "flats")) else [frame("f", "flat")]
    found, _ = roles(frame("d", "dark", exposure=2.0), *flats, *others)
    assert found["d"] == "dark", why


@pytest.mark.parametrize(("exposure", "role"), [(2.1, "flat_dark"), (2.3, "dark"), (20.4, "flat_dark"), (20.6, "dark")])
def test_exposures_match_within_a_tenth_and_half_a_second(exposure, role):
    found, _ = roles(frame("f", "flat"), frame("g", "flat", exposure=20.0), frame("d", "dark", exposure=exposure))
    assert found["d"] == role


def test_master_dark_stays_one():
    found, _ = roles(frame("f", "flat"), frame("d", "dark", exposure=2.0, is_master=True))
    assert found["d"] == "dark"


def test_light_of_another_camera_does_not_keep_a_dark():
    found, _ = roles(frame("f", "flat"), frame("d", "dark", exposure=2.0), frame("l", exposure=2.0, camera="other"))
    assert found["d"] == "flat_dark"


def test_everything_concluded_can_be_taken_back():
    read = entries(
        frame("f", "flat"),
        frame("d", "dark", exposure=2.0),
        frame("a", object="M31", ra=10.0, dec=0.0),
        frame("b", object="M31", ra=10.5, dec=0.0),
    )
    made, _ = conclude(read, RULES, WITHOUT_PIXELS)
    assert [entry.frame.panel for entry in made if entry.frame.role == "light"] == [1, 2]
    assert made != read
    assert [as_read(entry) for entry in made] == read
    assert [as_read(entry) for entry in read] == read


def test_conclusions_survive_saving_and_can_still_be_taken_back(tmp_path):
    read = entries(frame("f", "flat"), frame("d", "dark", exposure=2.0), frame("a", ra=10.0, dec=0.0))
    made, findings = conclude(read, RULES, WITHOUT_PIXELS)
    Catalog(made, findings).save(tmp_path / "c.sqlite")
    loaded = Catalog.load(tmp_path / "c.sqlite")
    assert loaded.entries == tuple(made)
    assert [as_read(entry) for entry in loaded.entries] == read


def ids(*frames):
    return [finding.id for finding in conclude(entries(*frames), RULES, WITHOUT_PIXELS)[1]]


@pytest.mark.parametrize(
    ("id", "one", "other"),
    [
        ("SCN031", {"row_order": "TOP-DOWN"}, {"row_order": "BOTTOM-UP"}),
        ("SCN032", {"cfa": "RGGB"}, {"cfa": "GBRG"}),
        ("SCN041", {"pedestal": 100.0}, {"pedestal": 0.0}),
        ("SCN036", {"dn_per_unit": 1.0}, {"dn_per_unit": 65535.0}),
    ],
)
def test_frames_of_one_camera_that_contradict_each_other_are_reported_once(id, one, other):
    lights = [frame(f"l{n}", **one) for n in range(3)]
    assert ids(*lights, frame("f", "flat", **other), frame("g", "flat", **other)) == [id]
    assert ids(*lights, frame("f", "flat", **one)) == []
    assert ids(*lights, frame("f", "flat", **other, camera="another")) == []


def test_unknown_values_contradict_nothing():
    silent = {"row_order": None, "cfa": None, "pedestal": None}
    assert ids(frame("l", cfa="RGGB", pedestal=0.0), frame("f", "flat", **silent)) == []


def test_held_back_frames_count_for_nothing():
    made = entries(frame("l"), frame("f", "flat", row_order="BOTTOM-UP"))
    made[0] = msgspec.structs.replace(made[0], held_back="SCN007")
    assert conclude(made, RULES, WITHOUT_PIXELS)[1] == []


@pytest.mark.parametrize(
    ("values", "missing"),
    [
        ({"gain": None}, "gain"),
        ({"gain": None, "offset": None, "temp_ccd": None, "temp_set": None}, "gain, offset, temperature"),
        ({"gain": None, "offset": None, "iso": 800.0}, ""),
        ({"gain": None, "program": "wbpy"}, ""),
    ],
)
def test_master_that_lacks_settings_is_marked(values, missing):
    _, findings = conclude(entries(frame("d", "dark", is_master=True, **values)), RULES, WITHOUT_PIXELS)
    assert [one.evidence["missing"] for one in findings] == ([missing] if missing else [])
