"""The rules as shipped are consistent, overlays work, and mistakes are named."""

from pathlib import Path

import msgspec
import pytest

from wbpy.config import load_config
from wbpy.errors import RuleError
from wbpy.model import ROLES, Frame
from wbpy.rules import DERIVED_FIELDS, load_rules
from wbpy.stages import STAGES


def overlay(folder: Path, name: str, text: str) -> tuple[Path]:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return (folder,)


def test_every_role_has_its_group_rules():
    groups = load_rules().groups
    assert {f"calibration.{role}" for role in ROLES} | {"registration.light", "integration.light"} == set(groups)


def test_group_and_match_rules_name_known_fields_only():
    known = {*Frame.__struct_fields__, *DERIVED_FIELDS}
    rules = load_rules()
    for group in rules.groups.values():
        assert {*group.exact, *(band.field for band in group.bands)} <= known
    for rung in rules.matches:
        assert {requirement.field for requirement in rung.require} <= known


def test_every_ladder_ends_by_deciding_for_none():
    last = {(rung.subject, rung.role): rung for rung in load_rules().matches}
    assert {pair: rung.candidates for pair, rung in last.items()} == dict.fromkeys(last, ())


def test_no_rung_accepts_any_difference_in_exposure_temperature_or_age():
    for rung in load_rules().matches:
        for requirement in rung.require:
            if requirement.operator in ("within", "not_above"):
                assert requirement.absolute or requirement.relative, rung.id


def test_every_rung_holds_the_hard_keys():
    hard = {"camera", "width", "height", "xbinning", "ybinning", "gain", "offset", "read_mode"}
    for rung in load_rules().matches:
        if rung.candidates:
            wanted = hard | ({"cfa", "filter"} if rung.role == "flat" else set())
            equal = {r.field for r in rung.require if r.operator == "equal"}
            assert wanted <= equal, rung.id


def test_rungs_say_what_they_ask_for():
    assert all(rung.meaning.endswith(".") for rung in load_rules().matches)


@pytest.mark.parametrize("which", ["lights", "masters", "flats"])
def test_rejection_is_defined_for_any_number_of_frames(which: str):
    from wbpy.kernels.rejection import ALGORITHMS

    rows = getattr(load_rules().integration, which)
    limits = [row.up_to for row in rows]
    assert limits[-1] == 0 and limits[:-1] == sorted(set(limits[:-1]))
    assert {row.algorithm for row in rows} <= set(ALGORITHMS)
    suited = load_rules().integration.algorithms
    smallest = [1, *(limit + 1 for limit in limits[:-1])]
    assert all(suited[row.algorithm].frames <= count for row, count in zip(rows, smallest, strict=True))


def test_every_rejection_algorithm_has_limits_of_its_own():
    from typing import get_args

    from wbpy.kernels.rejection import ALGORITHMS
    from wbpy.stages.masters import Rejection

    assert set(load_rules().integration.algorithms) == set(ALGORITHMS) == set(get_args(Rejection)) - {"auto"}


def test_presets_set_only_parameters_that_exist():
    rules = load_rules()
    assert {"cooled_cmos_glow", "uncooled_dslr", "ccd"} <= set(rules.presets)
    for preset in rules.presets:
        load_config(rules, {stage.name: stage.params for stage in STAGES}, preset=preset)


def test_rung_takes_over_what_it_does_not_say_itself():
    rungs = {rung.id: rung for rung in load_rules().matches}
    exact, unverified = rungs["light.dark.exact"], rungs["light.dark.unverified"]
    assert unverified.candidates == exact.candidates and unverified.prefer == exact.prefer
    policy = {r.field: r.unknown for r in unverified.require}
    assert policy["gain"] == "warn"
    both = {r.field: r.both_unknown for r in unverified.require}
    assert (both["width"], both["gain"]) == ("reject", "accept"), "what both sides lack keeps its meaning"
    assert policy["exposure"] == "reject", "a dark of unknown exposure never serves"
    assert next(r for r in exact.require if r.field == "gain").unknown == "reject"


def test_overlay_replaces_entries_by_id_and_adds_others(tmp_path: Path):
    text = """
[[filter]]
id = "Ha"
aliases = ["HYDROGEN"]
[[filter]]
id = "MyFilter"
aliases = ["MINE"]
"""
    filters = load_rules(overlay(tmp_path, "filters.toml", text)).filters
    assert filters["Ha"].aliases == ("HYDROGEN",)
    assert filters["MyFilter"].aliases == ("MINE",)
    assert set(load_rules().filters) < set(filters)


def test_overlay_replaces_single_keys_of_a_table(tmp_path: Path):
    text = 'lights = [{ up_to = 0, algorithm = "sigma", low = 3.0, high = 3.0, reason = "mine" }]'
    integration = load_rules(overlay(tmp_path, "integration.toml", text)).integration
    assert [row.algorithm for row in integration.lights] == ["sigma"]
    assert integration.flats == load_rules().integration.flats


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("groups.toml", "[[group]\n", "not valid TOML"),
        ("groups.toml", '[[groups]]\nid = "x"\n', "unknown table 'groups', expected [[group]]"),
        ("groups.toml", '[[group]]\nid = "calibration.dark"\nexact = "gain"\n', "[[group]] calibration.dark"),
        ("groups.toml", '[[group]]\nid = "calibration.dark"\nexact = ["gian"]\n', "no field 'gian'"),
        ("groups.toml", "[[group]]\nexact = []\n", "entry 1"),
        ("groups.toml", '[[group]]\nid = "a"\nexact = []\n[[group]]\nid = "a"\nexact = []\n', "'a' stands twice"),
        ("integration.toml", "lights = 3\n", "top level"),
        ("matches.toml", '[[match]]\nid = "x"\nsubject = "light"\nrole = "drak"\n', "[[match]] x"),
        ("matches.toml", '[[match]]\nid = "x"\nsubject = "light"\nrole = "dark"\nfinding = "MAT999"\n', "'MAT999'"),
        ("matches.toml", '[[match]]\nid = "x"\nsubject = "light"\nrole = "dark"\nlike = "y"\n', "no such rung"),
        ("matches.toml", '[[match]]\nid = "x"\nsubject = "light"\nrole = "dark"\nlike = "x"\n', "back to itself"),
        (
            "matches.toml",
            '[[match]]\nid = "x"\nsubject = "light"\nrole = "dark"\ncandidates = ["dark"]\n'
            'require = [{ field = "cooled", operator = "fixed", unknown = "reject" }]\n',
            "expects a value",
        ),
    ],
)
def test_mistake_names_file_and_key(tmp_path: Path, name: str, text: str, told: str):
    with pytest.raises(RuleError) as caught:
        load_rules(overlay(tmp_path, name, text))
    assert name in str(caught.value)
    assert told in str(caught.value)


def test_missing_folder_is_named(tmp_path: Path):
    with pytest.raises(RuleError, match="not a folder"):
        load_rules((tmp_path / "nowhere",))


def test_rules_are_frozen():
    with pytest.raises((AttributeError, msgspec.ValidationError)):
        load_rules().matches[0].id = "other"  # type: ignore[misc]
