"""What makes frames one group, and what the groups are called."""

import random
from typing import Any

import pytest
from session_frames import frame, frames, night, orion_night

from wbpy.config import GroupSettings
from wbpy.errors import ConfigError
from wbpy.grouping import cooled, make_groups, safe_name, temperature, unique_names
from wbpy.model import Finding, Frame, Group
from wbpy.rules import load_rules


def grouped(given: list[Frame], *by: str) -> tuple[dict[str, Group], tuple[Finding, ...]]:
    groups, findings = make_groups(given, load_rules(), GroupSettings(by=by))
    return {group.id: group for group in groups}, findings


def ids(given: list[Frame], kind: str = "calibration", *by: str) -> list[str]:
    return [group.id for group in grouped(given, *by)[0].values() if group.kind == kind]


def test_complete_night_has_one_group_of_each_role_with_readable_ids():
    assert list(grouped(night())[0]) == [
        "bias-g100-o50-m10C",
        "dark-300s-g100-o50-m10C",
        "flat-Ha-2026-01-05",
        "flat_dark-2s-g100-o50-m10C",
        "light-M42-Ha-300s",
        "registration-M42",
        "integration-M42-Ha-300s",
    ]


def test_jittered_exposures_stay_together():
    lights = [frame(f"l{n}", exposure=300 + n / 10) for n in range(3)]
    groups, findings = grouped(lights)
    assert len(groups["light-M42-Ha-300.1s"].frames) == 3
    assert len(groups["integration-M42-Ha-300.1s"].frames) == 3
    assert findings == ()


def test_exposures_of_hdr_cores_are_separate():
    lights = frames(3, "light", "long") + frames(3, "light", "short", exposure=10.0)
    assert ids(lights, "integration") == ["integration-M42-Ha-10s", "integration-M42-Ha-300s"]


def test_short_exposures_are_told_apart_by_their_ratio():
    lights = [*frames(2, "light", "a", exposure=1.0), *frames(2, "light", "b", exposure=1.5)]
    assert len(ids(lights, "integration")) == 2


def test_bands_are_anchored_so_that_a_drift_does_not_chain_values():
    darks = [frame(f"d{n}", "dark", temp_set=None, temp_ccd=float(n)) for n in range(9)]
    groups, findings = grouped(darks)
    assert [sorted(g.key["temperature"] for g in groups.values())] == [[2.0, 7.0]]
    assert [len(g.frames) for g in groups.values()] == [6, 3]
    (finding,) = findings
    assert (finding.id, finding.evidence["field"], finding.evidence["gap"]) == ("GRP001", "temperature", 1.0)
    assert {finding.subject, finding.evidence["neighbour"]} == set(groups)


def test_groups_a_tolerance_apart_are_not_reported():
    _, findings = grouped([frame("a", "dark", exposure=300.0), frame("b", "dark", exposure=300.7)])
    assert findings == ()


def test_order_of_files_does_not_matter():
    given = night() + orion_night()
    expected = make_groups(given, load_rules(), GroupSettings())
    random.Random(3).shuffle(given)
    assert make_groups(given, load_rules(), GroupSettings()) == expected


def test_frames_of_a_group_stand_in_order_of_exposure():
    late, early = frame("a", date_obs="2026-01-05T23:00:00.000"), frame("b", date_obs="2026-01-05T22:00:00.000")
    assert grouped([late, early])[0]["light-M42-Ha-300s"].frames == (early.path, late.path)


@pytest.mark.parametrize(
    ("set_point", "measured", "decides", "regulated"),
    [
        (-10.0, -10.4, -10.0, True),
        (-10.0, -9.0, -10.0, True),
        (-10.0, -8.9, -8.9, False),
        (-10.0, 24.8, 24.8, False),
        (-10.0, None, -10.0, True),
        (None, 12.5, 12.5, False),
        (None, None, None, False),
    ],
)
def test_temperature_is_the_set_point_only_where_it_was_reached(set_point, measured, decides, regulated):
    one = frame("a", temp_set=set_point, temp_ccd=measured)
    assert (temperature(one), cooled(one)) == (decides, regulated)


def test_regulation_noise_does_not_split_a_set():
    darks = [frame(f"d{n}", "dark", temp_ccd=-10.9 + 0.3 * n) for n in range(7)]
    assert ids(darks) == ["dark-300s-g100-o50-m10C"]


def test_set_points_are_separate():
    darks = frames(3, "dark", "a") + frames(3, "dark", "b", temp_set=-12.0, temp_ccd=-12.0)
    assert ids(darks) == ["dark-300s-g100-o50-m10C", "dark-300s-g100-o50-m12C"]


def test_warm_dark_of_a_cooled_camera_does_not_enter_the_cold_set():
    darks = [*frames(3, "dark"), frame("warm", "dark", temp_ccd=-7.9)]
    assert len(ids(darks)) == 2


def test_unregulated_night_keeps_its_sets_whole():
    groups, _ = grouped(orion_night())
    assert {g.role: len(g.frames) for g in groups.values() if g.kind == "calibration"} == {
        "bias": 6,
        "dark": 6,
        "flat": 6,
        "light": 7,
    }


def test_missing_values_are_a_value_of_their_own():
    darks = [*frames(2, "dark", "a"), *frames(2, "dark", "b", gain=None)]
    assert ids(darks) == ["dark-300s-g100-o50-m10C", "dark-300s-o50-m10C"]
    exposures = [*frames(2, "dark", "a"), *frames(2, "dark", "b", exposure=None)]
    assert len(ids(exposures)) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"camera": "Other"},
        {"width": 200},
        {"xbinning": 2},
        {"gain": 200.0},
        {"offset": 10.0},
        {"read_mode": "High Gain"},
        {"row_order": "BOTTOM-UP"},
    ],
)
@pytest.mark.parametrize("role", ["bias", "dark", "flat_dark", "flat", "light"])
def test_settings_that_change_the_pixels_separate_calibration_groups(role, change):
    given = frames(2, role, "a") + frames(2, role, "b", **change)
    names = ids(given)
    assert len(set(names)) == 2


def test_flats_are_separate_by_filter_and_night_but_not_by_exposure():
    flats = frames(2, "flat", "a") + frames(2, "flat", "b", exposure=1.9)
    assert ids(flats) == ["flat-Ha-2026-01-05"]
    flats += frames(2, "flat", "c", filter="OIII") + frames(2, "flat", "d", night="2026-01-06")
    assert ids(flats) == ["flat-Ha-2026-01-05", "flat-Ha-2026-01-06", "flat-OIII-2026-01-05"]


def test_flats_of_varied_exposure_have_no_typical_one():
    twilight = [frame(f"f{n}", "flat", exposure=float(n + 1)) for n in range(5)]
    assert grouped(twilight)[0]["flat-Ha-2026-01-05"].key["exposure"] is None


def test_rotator_angles_on_both_sides_of_north_are_one():
    flats = [frame(f"f{n}", "flat", rotator=angle % 360) for n, angle in enumerate((-0.4, 0.0, 0.3, 90.0, 90.2))]
    groups, _ = grouped(flats)
    assert sorted(len(g.frames) for g in groups.values()) == [2, 3]
    assert sorted(g.key["rotator"] for g in groups.values()) == [0.0, 90.0]


def test_night_splits_calibration_but_not_integration_unless_asked():
    lights = frames(3, "light", "a") + frames(3, "light", "b", night="2026-01-06")
    assert len(ids(lights)) == 2
    assert ids(lights, "integration") == ["integration-M42-Ha-300s"]
    assert ids(lights, "integration", "night") == [
        "integration-M42-Ha-300s-2026-01-05",
        "integration-M42-Ha-300s-2026-01-06",
    ]
    assert len(ids(lights, "registration", "night")) == 1


def test_unknown_field_in_by_is_a_configuration_error():
    with pytest.raises(ConfigError, match="no field 'MOON'"):
        grouped(night(), "moon")


def test_target_is_one_however_it_is_spelled():
    lights = [frame("a", object="M 42"), frame("b", object="m42"), frame("c", object="M 42")]
    groups, _ = grouped(lights)
    assert groups["registration-M_42"].key["target"] == "M 42"


def test_nameless_lights_are_one_target_per_camera_and_reported():
    lights = [frame("a", object=None), frame("b", object=None), frame("c", object=None, camera="Other")]
    groups, findings = grouped(lights)
    assert sorted(len(g.frames) for g in groups.values() if g.kind == "registration") == [1, 2]
    assert [f.id for f in findings] == ["GRP002", "GRP002"]
    assert "registration-unnamed" in {f.subject[:20] for f in findings}


def test_filters_and_cameras_of_one_target_share_a_reference_but_no_integration():
    lights = [frame("a"), frame("b", filter="OIII"), frame("c", camera="OSC", cfa="RGGB", filter=None)]
    assert ids(lights, "registration") == ["registration-M42"]
    assert ids(lights, "integration") == [
        "integration-M42-Ha-300s",
        "integration-M42-OIII-300s",
        "integration-M42-OSC-300s",
    ]


def test_masters_on_disk_are_groups_of_one():
    given = [frame("m1", "dark", is_master=True, stack_count=50), frame("m2", "dark", is_master=True), *night()]
    masters = [group for group in grouped(given)[0].values() if group.is_master]
    assert [len(group.frames) for group in masters] == [1, 1]
    assert {group.key["stack_count"] for group in masters} == {50, None}
    assert len({group.id for group in masters}) == 2
    assert all(group.id.startswith("master-dark-300s") for group in masters)


def test_integrated_lights_are_no_input():
    assert grouped([frame("m", is_master=True)])[0] == {}


def test_ids_that_would_be_equal_name_what_differs():
    darks = frames(2, "dark", "a") + frames(2, "dark", "b", camera="QHY 600/M")
    assert ids(darks) == [
        "dark-300s-g100-o50-m10C-QHY_600_M",
        "dark-300s-g100-o50-m10C-ZWO_ASI2600MM_Pro",
    ]


def test_temperatures_stand_in_ids_as_fine_as_is_needed():
    def names(*values: float) -> list[str]:
        return unique_names(["d"] * len(values), [{"temperature": v} for v in values], ["x"] * len(values), "-")

    assert names(17.5625, 25.5) == ["d-18C", "d-26C"]
    assert names(-9.9, -10.2) == ["d-m9.9C", "d-m10.2C"]


def test_names_without_difference_are_numbered_and_unique_without_case():
    assert unique_names(["a", "A", "b"], [{}, {}, {}], ["2", "1", "3"], "-") == ["a-2", "A", "b"]
    assert unique_names(["a", "a", "a-x"], [{"k": "x"}, {"k": "y"}, {}], ["1", "2", "3"], "-") == [
        "a-x",
        "a-y",
        "a-x-2",
    ]


@pytest.mark.parametrize(
    ("text", "name"),
    [("../../etc", "etc"), ("NGC 7000 / IC 5070", "NGC_7000_IC_5070"), ("???", "_"), ("Ñandú", "Ñandú")],
)
def test_names_hold_nothing_that_a_file_system_objects_to(text, name):
    assert safe_name(text) == name
    assert len(safe_name(text * 100)) <= 60


# --------------------------------------------------------------------------------------------------------------------
# what the user splits and merges


def chosen(given: list[Frame], kind: str, *, by: tuple[str, ...] = (), merge: tuple[str, ...] = ()) -> list[int]:
    """Return the sizes of the groups of one kind, or of one role's calibration groups, by id."""
    groups, _ = make_groups(given, load_rules(), GroupSettings(by=by, merge=merge))
    of_kind = [g for g in groups if kind in (g.kind, g.role) and (kind == g.kind or g.kind == "calibration")]
    return [len(g.frames) for g in sorted(of_kind, key=lambda g: g.id)]


def two_sessions() -> list[Frame]:
    tagged = [("1", "a"), ("2", "b")]
    lights = [f for s, stem in tagged for f in frames(3, "light", stem, keywords={"SESSION": s})]
    flats = [f for s, stem in tagged for f in frames(4, "flat", stem, keywords={"SESSION": s})]
    return [*lights, *flats, *frames(5, "dark"), *frames(5, "bias")]


def test_keyword_splits_the_integrations():
    assert chosen(two_sessions(), "integration", by=("SESSION",)) == [3, 3]
    assert chosen(two_sessions(), "light", by=("SESSION",)) == [6]
    assert chosen(two_sessions(), "registration", by=("SESSION",)) == [6]


def test_keyword_for_flats_splits_flats_and_the_lights_that_they_serve():
    by = ("flat:SESSION",)
    assert chosen(two_sessions(), "flat", by=by) == [4, 4]
    assert chosen(two_sessions(), "light", by=by) == [3, 3]
    assert (chosen(two_sessions(), "dark", by=by), chosen(two_sessions(), "integration", by=by)) == ([5], [6])


def test_keyword_for_calibration_splits_every_role():
    given = two_sessions() + frames(2, "dark", "other", keywords={"SESSION": "1"})
    assert chosen(given, "dark", by=("calibration:SESSION",)) == [2, 5]
    assert chosen(given, "registration", by=("registration:SESSION",)) == [3, 3]


def test_name_in_capitals_is_a_keyword_even_where_a_field_has_it():
    given = frames(2, "light", "a", keywords={"NIGHT": "first"}) + frames(3, "light", "b", keywords={"NIGHT": "second"})
    assert chosen(given, "integration", by=("night",)) == [5]
    assert chosen(given, "integration", by=("NIGHT",)) == [2, 3]
    with pytest.raises(ConfigError, match="for the field of that name write filter"):
        chosen(given, "integration", by=("FILTER",))


@pytest.mark.parametrize("text", ["planet:night", "lights:SESSION"])
def test_unknown_scope_is_a_configuration_error(text: str):
    with pytest.raises(ConfigError, match="neither integration, registration, calibration nor a role"):
        chosen(night(), "light", by=(text,))


@pytest.mark.parametrize(
    ("change", "merge"),
    [
        ({"exposure": 30.0}, "exposure"),
        ({"camera": "Other"}, "camera"),
        ({"xbinning": 2, "ybinning": 2, "width": 200, "height": 150}, "binning"),
        ({"filter": "L"}, "filter"),
    ],
)
def test_integrations_are_merged_by_wish_and_calibrated_apart(change: dict[str, Any], merge: str):
    given = frames(3, "light", "a") + frames(3, "light", "b", **change)
    assert chosen(given, "integration") == [3, 3]
    assert chosen(given, "integration", merge=(merge,)) == [6]
    assert chosen(given, "light", merge=(merge,)) == [3, 3]


def test_flats_of_several_nights_become_one_master_by_wish():
    given = frames(3, "flat", "a", night="2026-01-05") + frames(3, "flat", "b", night="2026-01-07")
    assert (chosen(given, "flat"), chosen(given, "flat", merge=("flat:night",))) == ([3, 3], [6])


@pytest.mark.parametrize("merge", ["gain", "cfa", "dark:gain", "calibration:camera", "width"])
def test_what_must_be_equal_cannot_be_merged(merge: str):
    with pytest.raises(ConfigError, match="cannot be merged"):
        chosen(night(), "light", merge=(merge,))
