"""Targets and panels: the name together with the pointing, whatever the order of the files."""

import random

import msgspec
import pytest
from session_frames import frame

from wbpy.config import GroupSettings, ScanSettings
from wbpy.grouping import make_groups
from wbpy.rules import load_rules
from wbpy.scanning.targets import find_targets

RULES = load_rules()


def light(number, name, ra=None, dec=None, **more):
    # 400 x 300 pixels of 3.76 um at 530 mm: 0.16 x 0.12 degrees, so that the separation of 0.25 degrees decides.
    return frame(f"{number:03d}", object=name, ra=ra, dec=dec, **more)


def places(lights, **settings):
    found, findings = find_targets(lights, RULES, ScanSettings(**settings))
    return [found[one.path][:2] for one in lights], [one.id for one in findings], findings


def test_lights_of_one_name_and_pointing_are_one_target():
    lights = [light(1, "M 31", 10.68, 41.27), light(2, "m31", 10.70, 41.26), light(3, "M_31", None, None)]
    assert places(lights)[:2] == ([("M 31", None)] * 3, [])


def test_spelling_of_most_lights_is_the_name():
    lights = [light(1, "m31", 10.0, 41.0), light(2, "M 31", 10.0, 41.0), light(3, "M 31", 10.0, 41.0)]
    assert {target for target, _ in places(lights)[0]} == {"M 31"}


@pytest.mark.parametrize(("step", "panels"), [(0.24, [None, None]), (0.26, [1, 2])])
def test_panels_are_told_apart_from_a_quarter_of_a_degree_on(step, panels):
    found, ids, _ = places([light(1, "M31", 10.0, 0.0), light(2, "M31", 10.0, step)])
    assert [panel for _, panel in found] == panels
    assert ids == ["SCN030"] * (panels == [1, 2])


def test_separation_can_be_set():
    lights = [light(1, "M31", 10.0, 0.0), light(2, "M31", 10.0, 0.5)]
    assert {panel for _, panel in places(lights, panel_separation=0.6)[0]} == {None}


def test_fields_that_overlap_by_more_than_half_are_one():
    # 5000 x 4000 pixels: 2.0 x 1.6 degrees.
    wide = {"width": 5000, "height": 4000}
    near = [light(1, "M31", 10.0, 0.0, **wide), light(2, "M31", 10.0, 0.7, **wide)]
    assert {panel for _, panel in places(near)[0]} == {None}
    far = [light(1, "M31", 10.0, 0.0, **wide), light(2, "M31", 10.0, 0.9, **wide)]
    assert {panel for _, panel in places(far)[0]} == {1, 2}


def test_drift_over_the_night_does_not_cut_a_set():
    lights = [light(n, "M31", 10.0, n * 0.1) for n in range(12)]
    assert places(lights)[:2] == ([("M31", None)] * 12, [])


def test_panels_count_along_right_ascension_across_zero():
    lights = [light(n, "NGC 7822", ra, 0.0) for n, ra in enumerate([0.4, 359.6, 0.0])]
    assert [panel for _, panel in places(lights)[0]] == [3, 1, 2]


def test_numbers_in_the_names_are_kept():
    lights = [light(1, "M31 Panel 2", 10.0, 0.0), light(2, "M31_Panel_1", 10.5, 0.0), light(3, "M31 panel 1")]
    assert places(lights)[0] == [("M31", 2), ("M31", 1), ("M31", 1)]


def test_one_name_for_two_fields_is_reported_and_kept_apart():
    found, ids, findings = places([light(1, "M42", 83.8, -5.4), light(2, "M42", 10.7, 41.3), light(3, "M42")])
    assert found == [("M42 RA 83.8 Dec -5.4", None), ("M42 RA 10.7 Dec +41.3", None), ("M42", None)]
    assert ids == ["SCN027", "SCN042"]
    assert findings[0].evidence["fields"] == 2


def test_two_names_for_one_field_are_reported_and_joined_on_request_only():
    lights = [light(1, "M 42", 83.8, -5.4), light(2, "M 42", 83.8, -5.4), light(3, "Orion Nebula", 83.8, -5.4)]
    found, ids, findings = places(lights)
    assert found == [("M 42", None), ("M 42", None), ("Orion Nebula", None)]
    assert ids == ["SCN028"]
    assert findings[0].evidence["names"] == "M 42, Orion Nebula"
    assert places(lights, target_by="pointing")[:2] == ([("M 42", None)] * 3, [])


def test_nameless_lights_join_the_target_that_lies_there():
    found, ids, findings = places([light(1, "M31", 10.0, 41.0), light(2, None, 10.1, 41.0), light(3, None, 80.0, 0.0)])
    assert found == [("M31", None), ("M31", None), ("RA 80.0 Dec +0.0", None)]
    assert ids == ["SCN029"]
    assert findings[0].evidence["target"] == "M31"


def test_light_with_neither_name_nor_pointing_has_no_target():
    assert places([light(1, None)])[:2] == ([(None, None)], [])


def test_name_that_joins_others_gives_way_to_the_one_that_lies_there():
    lights = [light(1, "m42", 83.8, -5.4), light(2, "m33", 23.5, 30.7), light(3, "m42-m33", 23.5, 30.7)]
    found, ids, _ = places(lights)
    assert [target for target, _ in found] == ["m42", "m33", "m33"]
    assert ids == ["SCN043"]


def test_name_with_a_dash_is_no_compound():
    assert places([light(1, "NGC-6992", 314.0, 31.7)])[:2] == ([("NGC-6992", None)], [])


def test_panels_are_registered_and_integrated_apart():
    lights = [light(n, "M31", 10.0, 0.5 * (n % 2)) for n in range(6)]
    found, _ = find_targets(lights, RULES, ScanSettings())
    placed = [
        msgspec.structs.replace(one, target=found[one.path].target, panel=found[one.path].panel) for one in lights
    ]
    groups, _ = make_groups(placed, RULES, GroupSettings())
    for kind in ("registration", "integration"):
        panels = sorted((group.key["target"], group.key["panel"]) for group in groups if group.kind == kind)
        assert panels == [("M31", 1), ("M31", 2)]


def test_order_of_the_files_does_not_matter():
    source = random.Random(3)
    names = ["M31", "M31 Panel 2", "m 31", "M42", None, "M31-M42"]
    lights = [
        light(n, source.choice(names), source.choice([10.0, 10.4, 83.8, None]), source.choice([0.0, 0.3, 41.0]))
        for n in range(40)
    ]
    expected, findings = find_targets(lights, RULES, ScanSettings())
    for _ in range(5):
        source.shuffle(lights)
        assert find_targets(lights, RULES, ScanSettings()) == (expected, findings)


def test_thousands_of_pointings_take_little_time():
    source = random.Random(5)
    lights = [
        light(n, f"T{n % 20}", (n % 20) * 12.0 + source.uniform(0, 0.05), source.uniform(0, 0.05)) for n in range(4000)
    ]
    found, ids, _ = places(lights)
    assert {target for target, _ in found} == {f"T{n}" for n in range(20)}
    assert {panel for _, panel in found} == {None}
    assert ids == []
