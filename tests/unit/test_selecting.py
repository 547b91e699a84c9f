"""Conditions on catalog columns select frames; what is not in the grammar is refused with a message."""

import pytest
from session_frames import frame

from wbpy.errors import ConfigError
from wbpy.selecting import parse_condition, parse_exclusion

LIGHT = frame("m42_0001", "light", exposure=30.0, filter="Ha", temp_set=None, temp_ccd=-7.5)
BARE = frame("bare", "dark", exposure=None, gain=None, is_master=True)


@pytest.mark.parametrize(
    ("condition", "selected"),
    [
        ("exposure < 60", True),
        ("exposure<30", False),
        ("exposure <= 30 and filter == ha", True),
        ("exposure < 10 or filter=Ha", True),
        ("not exposure < 10 and role == light", True),
        ("not (exposure < 60 and role == light)", False),
        ("exposure < 10 or exposure > 20 and filter == OIII", False),
        ("(exposure < 10 or exposure > 20) and filter == Ha", True),
        ("temperature > -8", True),
        ("temp_set is unknown", True),
        ("exposure is not unknown", True),
        ("filter in (L, Ha, 'O III')", True),
        ("gain in (0, 200)", False),
        ("name ~ m42_*", True),
        ('object == "M42"', True),
        ("night >= 2026-01-05", True),
        ("night != 2026-01-05", False),
        ("is_master", False),
        ("is_master == no", True),
        ("not is_master", True),
        ("camera ~ *asi2600*", True),
    ],
)
def test_condition(condition: str, selected: bool):
    assert parse_condition(condition)(LIGHT) is selected


@pytest.mark.parametrize("sign", ["<", "<=", ">", ">=", "==", "!="])
def test_missing_value_satisfies_no_comparison(sign: str):
    assert not parse_condition(f"exposure {sign} 60")(BARE)
    assert not parse_condition(f"filter {sign} Ha")(BARE)


def test_keywords_of_the_user_are_columns():
    tagged = frame("a", keywords={"SESSION": "2"})
    assert parse_condition("SESSION == 2", ["SESSION"])(tagged)
    assert not parse_condition("session == 3", ["SESSION"])(tagged)
    with pytest.raises(ConfigError, match="no column 'SESSION'"):
        parse_condition("SESSION == 2")


@pytest.mark.parametrize(
    ("condition", "told"),
    [
        ("exposure <", "it ends too early"),
        ("exposure < long", "exposure is a number, and 'long' is none"),
        ("fwhm < 3", "there is no column 'fwhm'"),
        ("exposure", "after exposure comes a comparison"),
        ("exposure < 3 filter == Ha", "'filter' is one too many"),
        ("(exposure < 3", "a bracket is not closed"),
        ("filter in (L, Ha", "the list of 'in' is not closed"),
        ("filter in L", "after 'in' comes a list"),
        ("exposure is 3", "after 'is' it says"),
        ("is_master == maybe", "is_master is true or false"),
        ("exposure < < 3", "a value was expected before '<'"),
        ("filter == 'Ha", "cannot read"),
        ("__import__('os') == 1", "there is no column '__import__'"),
        ("", "it ends too early"),
    ],
)
def test_what_is_no_condition_is_refused_with_the_place(condition: str, told: str):
    with pytest.raises(ConfigError, match="Expected a file, or a condition") as caught:
        parse_condition(condition)
    assert told in str(caught.value)


@pytest.mark.parametrize("name", [LIGHT.path, "m42_0001.fits", "light/m42_0001.fits", "m42_*", "./m42_0001.fits"])
def test_file_is_excluded_by_path_name_or_pattern(name: str):
    selects = parse_exclusion(name, [LIGHT, BARE])
    assert (selects(LIGHT), selects(BARE)) == (True, False)


def test_name_of_no_file_selects_nothing():
    assert not any(map(parse_exclusion("m43_0001.fits", [LIGHT, BARE]), [LIGHT, BARE]))


def test_exclusion_may_be_a_condition():
    assert [parse_exclusion("exposure < 60", [LIGHT, BARE])(f) for f in (LIGHT, BARE)] == [True, False]
    assert [parse_exclusion("is_master", [LIGHT, BARE])(f) for f in (LIGHT, BARE)] == [False, True]
