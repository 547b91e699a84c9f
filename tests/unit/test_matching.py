"""Which master serves which group, and the reasons that are kept."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from session_frames import frame, frames, night, orion_night

from wbpy.config import GroupSettings, MatchSettings
from wbpy.grouping import make_groups
from wbpy.matching import CANDIDATES_KEPT, OPERATORS, judge, match_masters
from wbpy.model import Finding, Frame, Match, Reason
from wbpy.rules import MatchRule, Requirement, load_rules


def matched(given: list[Frame], **settings: float) -> tuple[dict[tuple[str, str], Match], list[Finding]]:
    """Return the matches by (subject, role) and the findings of the matching."""
    rules = load_rules()
    groups, _ = make_groups(given, rules, GroupSettings())
    matches, findings = match_masters(groups, rules, MatchSettings(**settings))
    return {(m.subject, m.role): m for m in matches}, list(findings)


def test_every_subject_has_one_match_a_role():
    given = [f for f in night() if f.role not in ("dark", "flat_dark")]
    groups, _ = make_groups(given, load_rules(), GroupSettings())
    matches, _ = match_masters(groups, load_rules(), MatchSettings())
    pairs = [(m.subject.split("-")[0], m.role) for m in matches]
    assert pairs == [("flat", "flat_dark"), ("flat", "bias"), ("light", "dark"), ("light", "bias"), ("light", "flat")]


def of_light(given: list[Frame], role: str, **settings: float) -> Match:
    found = [
        m for (subject, r), m in matched(given, **settings)[0].items() if subject.startswith("light") and r == role
    ]
    assert len(found) == 1
    return found[0]


def failed(match: Match, index: int = 0) -> list[str]:
    refused = [c for c in match.candidates if c.verdict == "rejected"]
    return [r.field for r in refused[index].reasons if r.verdict == "fail"]


def test_complete_night_matches_exactly_and_raises_nothing():
    matches, findings = matched(night())
    assert {pair: (m.chosen, m.rule) for pair, m in matches.items()} == {
        ("flat-Ha-2026-01-05", "flat_dark"): ("flat_dark-2s-g100-o50-m10C", "flat.flat_dark.exact"),
        ("light-M42-Ha-300s", "dark"): ("dark-300s-g100-o50-m10C", "light.dark.exact"),
        ("light-M42-Ha-300s", "flat"): ("flat-Ha-2026-01-05", "light.flat.exact"),
    }
    assert findings == []


def test_dark_of_other_gain_is_refused_and_named_with_the_difference():
    match = of_light(frames(3, "light") + frames(9, "dark", gain=200.0), "dark")
    assert (match.chosen, match.rule) == (None, "light.dark.none")
    assert failed(match) == ["gain"]
    (finding,) = [f for f in matched(frames(3, "light") + frames(9, "dark", gain=200.0))[1] if f.id == "MAT001"]
    assert "gain 200 instead of 100" in finding.message


@pytest.mark.parametrize(
    "change",
    [
        {"camera": "Other"},
        {"width": 200},
        {"height": 200},
        {"xbinning": 2},
        {"offset": 10.0},
        {"read_mode": "High Gain"},
        {"row_order": "BOTTOM-UP"},
        {"iso": 800.0},
    ],
)
def test_dark_of_other_settings_never_serves(change: dict[str, Any]):
    light = frames(3, "light", read_mode="Normal", iso=400.0)
    change = {"read_mode": "Normal", "iso": 400.0} | change
    assert of_light(light + frames(9, "dark", **change), "dark").chosen is None


def test_dark_of_the_same_settings_serves():
    settings = {"read_mode": "Normal", "iso": 400.0}
    assert of_light(frames(3, "light", **settings) + frames(9, "dark", **settings), "dark").rule == "light.dark.exact"


def test_setting_unknown_on_both_sides_is_accepted_as_unverified_without_a_finding():
    matches, findings = matched(night(gain=None, offset=None))
    match = matches["light-M42-Ha-300s", "dark"]
    assert match.rule == "light.dark.exact"
    verdicts = {r.field: r.verdict for r in match.candidates[0].reasons}
    assert (verdicts["gain"], verdicts["offset"], verdicts["exposure"]) == ("unverified", "unverified", "pass")
    assert findings == []


def test_dark_with_unknown_gain_is_reported_and_used_only_when_no_known_one_serves():
    lights, foreign = frames(3, "light"), [frame("m", "dark", is_master=True, gain=None, offset=None)]
    match = of_light(lights + foreign, "dark")
    assert (match.chosen, match.rule) == ("master-dark-300s-m10C", "light.dark.unverified")
    (finding,) = [f for f in matched(lights + foreign)[1] if f.id == "MAT004"]
    assert finding.evidence["unverified"] == "gain, offset"
    assert of_light(lights + foreign + frames(6, "dark"), "dark").chosen == "dark-300s-g100-o50-m10C"


def test_dark_of_unknown_exposure_never_serves():
    assert of_light(frames(3, "light") + frames(9, "dark", exposure=None), "dark").chosen is None


@pytest.mark.parametrize(
    ("exposure", "rule"),
    [
        (300.3, "light.dark.exact"),
        (300.31, "light.dark.exposure"),
        (302.0, "light.dark.exposure"),
        (302.1, "light.dark.none"),
        (120.0, "light.dark.none"),
        (600.0, "light.dark.none"),
    ],
)
def test_dark_exposure_has_a_limit_on_every_rung(exposure: float, rule: str):
    assert of_light(frames(3, "light") + frames(9, "dark", exposure=exposure), "dark").rule == rule


def test_short_exposures_are_compared_by_share_too():
    given = frames(3, "light", exposure=1.0) + frames(9, "dark", exposure=1.5)
    assert of_light(given, "dark").rule == "light.dark.none"


def test_jittered_lights_take_the_dark_of_the_nominal_exposure():
    lights = [frame(f"l{n}", exposure=300 + n / 10) for n in range(3)]
    assert of_light(lights + frames(6, "dark"), "dark").rule == "light.dark.exact"


@pytest.mark.parametrize(
    ("set_point", "rule"),
    [(-10.0, "light.dark.exact"), (-13.0, "light.dark.exact"), (-13.1, "light.dark.none"), (-7.0, "light.dark.exact")],
)
def test_cooled_darks_within_three_degrees_serve(set_point: float, rule: str):
    darks = frames(6, "dark", temp_set=set_point, temp_ccd=set_point)
    assert of_light(frames(3, "light") + darks, "dark").rule == rule


def test_uncooled_darks_within_five_degrees_serve_with_the_difference_told():
    camera = {"temp_set": None, "temp_ccd": 20.0}
    given = frames(3, "light", **camera) + frames(6, "dark", **camera | {"temp_ccd": 15.5})
    assert of_light(given, "dark").rule == "light.dark.uncooled"
    (finding,) = [f for f in matched(given)[1] if f.id == "MAT005"]
    assert finding.evidence["temperature_difference_degc"] == 4.5
    assert "15.5 degC instead of 20 degC" in finding.message
    beyond = frames(3, "light", **camera) + frames(6, "dark", **camera | {"temp_ccd": 14.9})
    assert of_light(beyond, "dark").chosen is None


def test_nearest_temperature_wins_among_eligible_darks():
    darks = [f for t in (-12.0, -11.0, -8.0) for f in frames(6, "dark", f"d{t}", temp_set=t, temp_ccd=t)]
    match = of_light(frames(3, "light") + darks, "dark")
    assert [c.id for c in match.candidates] == [
        "dark-300s-g100-o50-m11C",
        "dark-300s-g100-o50-m12C",
        "dark-300s-g100-o50-m8C",
    ]
    assert [c.rank for c in match.candidates] == [1, 2, 3]
    assert [c.verdict for c in match.candidates] == ["chosen", "eligible", "eligible"]


def test_dark_without_temperature_is_unverified():
    match = of_light(frames(3, "light") + frames(6, "dark", temp_set=None, temp_ccd=None), "dark")
    assert match.rule == "light.dark.unverified"


def test_refused_candidates_stand_with_the_nearest_miss_first():
    darks = (
        frames(3, "dark", "a", gain=200.0, offset=10.0)
        + frames(3, "dark", "b", exposure=310.0)
        + frames(3, "dark", "c", exposure=120.0)
        + frames(3, "dark", "d", camera="Other", gain=0.0, exposure=1.0)
    )
    match = of_light(frames(3, "light") + darks, "dark")
    assert [c.id for c in match.candidates] == [
        "dark-310s-g100-o50-m10C",
        "dark-120s-g100-o50-m10C",
        "dark-300s-g200-o10-m10C",
        "dark-1s-g0-o50-m10C",
    ]
    assert [[r.field for r in c.reasons] for c in match.candidates[:3]] == [["exposure"]] * 2 + [["gain", "offset"]]
    assert {c.verdict for c in match.candidates} == {"rejected"}
    assert {c.rank for c in match.candidates} == {None}


def test_only_the_nearest_misses_of_a_large_library_are_kept():
    library = [frame(f"d{n}", "dark", is_master=True, exposure=float(n)) for n in range(1, 3 * CANDIDATES_KEPT)]
    match = of_light(frames(3, "light") + library, "dark")
    assert len(match.candidates) == CANDIDATES_KEPT
    assert match.candidates[0].id == f"master-dark-{3 * CANDIDATES_KEPT - 1}s-g100-o50-m10C"


def test_bias_serves_a_light_only_when_no_dark_does():
    assert ("light-M42-Ha-300s", "bias") not in matched(night())[0]
    given = [f for f in night() if f.role != "dark"]
    match = of_light(given, "bias")
    assert (match.chosen, match.rule) == ("bias-g100-o50-m10C", "light.bias.exact")


def test_light_without_anything_is_told_three_times():
    matches, findings = matched(frames(4, "light"))
    assert [m.chosen for m in matches.values()] == [None, None, None]
    assert [f.id for f in findings] == ["MAT001", "MAT002", "MAT003"]
    assert "there is no dark at all" in findings[0].message


def test_flat_of_another_filter_is_refused():
    match = of_light([f for f in night() if f.role != "flat"] + frames(6, "flat", filter="OIII"), "flat")
    assert match.chosen is None
    assert failed(match) == ["filter"]


def test_each_filter_takes_its_own_flat():
    given = night() + frames(4, "light", "o", filter="OIII") + frames(6, "flat", "o", filter="OIII")
    matches, _ = matched(given)
    assert matches["light-M42-Ha-300s", "flat"].chosen == "flat-Ha-2026-01-05"
    assert matches["light-M42-OIII-300s", "flat"].chosen == "flat-OIII-2026-01-05"


def test_no_filter_at_all_is_a_filter_of_its_own():
    given = [msgspec.structs.replace(f, filter=None) for f in night(cfa="RGGB")]
    match = of_light(given, "flat")
    verdicts = {r.field: r.verdict for r in match.candidates[0].reasons}
    assert (match.rule, verdicts["filter"]) == ("light.flat.exact", "pass")


def test_flat_of_unknown_filter_is_used_with_a_warning():
    given = [f for f in night() if f.role != "flat"] + frames(6, "flat", filter=None)
    assert of_light(given, "flat").rule == "light.flat.unverified"
    assert [f.evidence["unverified"] for f in matched(given)[1] if f.id == "MAT004"] == ["filter"]


def test_mono_flat_never_serves_a_colour_light():
    given = frames(4, "light", cfa="RGGB", filter=None) + frames(6, "flat", filter=None) + frames(6, "bias")
    assert failed(of_light(given, "flat")) == ["cfa"]


def flats_of(*nights: str) -> list[Frame]:
    return [f for day in nights for f in frames(6, "flat", f"f{day}", night=day)]


def test_flat_of_the_same_night_wins_then_the_nearest():
    rest = [f for f in night() if f.role != "flat"]
    three = flats_of("2026-01-01", "2026-01-05", "2026-01-07")
    match = of_light(rest + three, "flat")
    assert [c.id for c in match.candidates] == ["flat-Ha-2026-01-05", "flat-Ha-2026-01-07", "flat-Ha-2026-01-01"]
    assert of_light(rest + flats_of("2026-01-01", "2026-01-07"), "flat").chosen == "flat-Ha-2026-01-07"


@pytest.mark.parametrize(
    ("night_of_flat", "rule"),
    [
        ("2025-12-06", "light.flat.exact"),
        ("2025-12-05", "light.flat.old"),
        ("2026-02-05", "light.flat.old"),
        ("2024-06-01", "light.flat.none"),
    ],
)
def test_old_flats_are_reported_and_very_old_ones_refused(night_of_flat: str, rule: str):
    given = [f for f in night() if f.role != "flat"] + flats_of(night_of_flat)
    assert of_light(given, "flat").rule == rule
    told = [f.evidence["night_difference_days"] for f in matched(given)[1] if f.id == "MAT007"]
    assert told == ([31] if rule == "light.flat.old" else [])


def test_flat_at_another_rotator_angle_is_refused_except_half_a_turn_away():
    lights = frames(4, "light", rotator=359.8)
    rest = [f for f in night() if f.role not in ("light", "flat")] + lights
    turned, straight, over = (frames(6, "flat", f"f{a}", rotator=a) for a in (90.0, 0.5, 180.4))
    assert of_light(rest + turned + straight + over, "flat").rule == "light.flat.exact"
    match = of_light(rest + turned, "flat")
    assert (match.chosen, failed(match)) == (None, ["rotator"])
    assert of_light(rest + turned + over, "flat").rule == "light.flat.angle"
    (finding,) = [f for f in matched(rest + turned + over)[1] if f.id == "MAT008"]
    assert finding.evidence["rotator_difference_deg"] == pytest.approx(179.4)


def test_flat_dark_must_have_the_exposure_of_the_flat():
    given = [f for f in night() if f.role != "flat_dark"]
    for exposure, chosen in ((2.2, True), (2.21, False), (1.79, False)):
        matches, _ = matched(given + frames(6, "flat_dark", exposure=exposure))
        assert (matches["flat-Ha-2026-01-05", "flat_dark"].chosen is not None) is chosen, exposure
    long_flats = [f for f in given if f.role != "flat"] + frames(6, "flat", exposure=30.0)
    matches, _ = matched(long_flats + frames(6, "flat_dark", exposure=30.6))
    assert matches["flat-Ha-2026-01-05", "flat_dark"].chosen is None


def test_dark_of_the_flats_exposure_serves_as_flat_dark():
    given = [f for f in night() if f.role != "flat_dark"] + frames(6, "dark", "short", exposure=2.0)
    match = matched(given)[0]["flat-Ha-2026-01-05", "flat_dark"]
    assert (match.chosen, match.rule) == ("dark-2s-g100-o50-m10C", "flat.flat_dark.dark")


def test_bias_serves_flats_when_no_flat_dark_does():
    matches, findings = matched([f for f in night() if f.role != "flat_dark"])
    assert matches["flat-Ha-2026-01-05", "flat_dark"].chosen is None
    assert matches["flat-Ha-2026-01-05", "bias"].chosen == "bias-g100-o50-m10C"
    assert findings == []


def test_flat_without_flat_dark_and_bias_is_refused_as_an_error():
    given = [f for f in night() if f.role not in ("flat_dark", "bias")]
    match = of_light(given, "flat")
    assert (match.chosen, failed(match)) == (None, ["calibrated"])
    assert {f.id: f.severity for f in matched(given)[1]} == {"MAT009": "error", "MAT003": "warning"}


def test_master_flat_on_disk_needs_no_bias():
    given = [f for f in night() if f.role in ("light", "dark")] + [frame("mf", "flat", is_master=True)]
    assert of_light(given, "flat").chosen == "master-flat-Ha-2026-01-05"


def test_larger_number_of_exposures_decides_between_master_and_raw_frames():
    def chosen(count: int | None) -> str | None:
        return of_light([*night(), frame("m", "dark", is_master=True, stack_count=count)], "dark").chosen

    assert chosen(50) == "master-dark-300s-g100-o50-m10C"
    assert chosen(6) == chosen(None) == "dark-300s-g100-o50-m10C"


def test_unregulated_night_uses_its_darks_and_its_bias_and_tells_the_difference():
    matches, findings = matched(orion_night())
    chosen = {(m.subject.split("-")[0], m.role): (m.chosen or "")[:4] for m in matches.values()}
    assert chosen == {
        ("flat", "flat_dark"): "",
        ("flat", "bias"): "bias",
        ("light", "dark"): "dark",
        ("light", "flat"): "flat",
    }
    (finding,) = findings
    assert (finding.id, finding.severity) == ("MAT005", "warning")
    assert finding.evidence["temperature_difference_degc"] == pytest.approx(22.476)


def test_configured_tolerance_widens_the_rule_and_is_reported():
    darks = frames(6, "dark", temp_set=-5.0, temp_ccd=-5.0)
    assert of_light(frames(3, "light") + darks, "dark").chosen is None
    match = of_light(frames(3, "light") + darks, "dark", temperature=6.0)
    assert match.rule == "light.dark.exact"
    assert next(r for r in match.candidates[0].reasons if r.field == "temperature").tolerance == 6.0
    findings = matched(frames(3, "light") + darks, temperature=6.0)[1]
    (finding,) = [f for f in findings if f.id == "MAT010"]
    assert (finding.evidence["field"], finding.evidence["tolerance"], finding.evidence["configured"]) == (
        "temperature",
        3.0,
        6.0,
    )


def test_configured_tolerance_can_be_narrower():
    darks = frames(6, "dark", temp_set=-11.0, temp_ccd=-11.0)
    assert of_light(frames(3, "light") + darks, "dark", temperature=0.5).chosen is None


def test_a_users_rung_counts_although_it_comes_after_the_last_one():
    rules = load_rules()
    own = MatchRule(id="mine", subject="light", role="dark", candidates=("dark",), sets={"calibrate.flat_trim": 0.1})
    groups, _ = make_groups(frames(3, "light") + frames(3, "dark", gain=7.0), rules, GroupSettings())
    matches, _ = match_masters(groups, msgspec.structs.replace(rules, matches=(*rules.matches, own)), MatchSettings())
    dark = next(m for m in matches if m.role == "dark")
    assert (dark.rule, dark.sets) == ("mine", {"calibrate.flat_trim": 0.1})


def reason(operator: str, ours: Any, theirs: Any, unknown: str = "reject", **more: Any) -> Reason:
    requirement = Requirement(field="gain", operator=operator, unknown=unknown, **more)  # type: ignore[arg-type]
    return judge(requirement, "rule", ours, theirs)


@pytest.mark.parametrize(
    ("operator", "ours", "theirs", "more", "satisfied"),
    [
        ("equal", 100.0, 100, {}, True),
        ("equal", "Ha", "OIII", {}, False),
        ("within", 10.0, 13.0, {"absolute": 3.0}, True),
        ("within", 10.0, 13.001, {"absolute": 3.0}, False),
        ("within", 10.0, 7.0, {"absolute": 3.0}, True),
        ("within", 300.0, 300.3, {"relative": 0.001}, True),
        ("within", 300.0, 300.31, {"absolute": 0.05, "relative": 0.001}, False),
        ("within", -10.0, -11.0, {"relative": 0.1}, True),
        ("within", "2026-01-05", "2025-12-06", {"absolute": 30.0}, True),
        ("within", "2026-01-05", "2025-12-05", {"absolute": 30.0}, False),
        ("within", "Ha", 3.0, {"absolute": 30.0}, False),
        ("not_above", 300.0, 299.0, {}, True),
        ("not_above", 300.0, 300.5, {}, False),
        ("not_above", 300.0, 300.5, {"absolute": 0.5}, True),
        ("not_below", 300.0, 600.0, {}, True),
        ("not_below", 300.0, 299.9, {}, False),
        ("not_below", 300.0, 299.9, {"absolute": 0.1}, True),
        ("angle_within", 1.0, 180.5, {"absolute": 1.0, "period": 180.0}, True),
        ("angle_within", 1.0, 90.0, {"absolute": 1.0, "period": 180.0}, False),
        ("without", None, "glow unstable_bias", {"value": "glow"}, False),
        ("without", "glow", None, {"value": "glow"}, False),
        ("without", "afterglow", None, {"value": "glow"}, True),
        ("without", None, None, {"value": "glow"}, True),
        ("angle_within", 359.5, 0.5, {"absolute": 1.0}, True),
        ("angle_within", 0.0, 180.0, {"absolute": 1.0}, False),
        ("angle_within", -179.9, 180.0, {"absolute": 0.2}, True),
        ("fixed", None, True, {"value": True}, True),
        ("fixed", None, False, {"value": True}, False),
        ("fixed", "ignored", "Ha", {"value": "Ha"}, True),
    ],
)
def test_operator(operator: str, ours: Any, theirs: Any, more: dict[str, Any], satisfied: bool):
    assert reason(operator, ours, theirs, **more).verdict == ("pass" if satisfied else "fail")


def test_operators_are_a_closed_set():
    assert set(OPERATORS) == {"equal", "within", "not_above", "not_below", "angle_within", "fixed", "without"}
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"field": "gain", "operator": "like", "unknown": "reject"}, Requirement)


@pytest.mark.parametrize("operator", sorted(OPERATORS))
@pytest.mark.parametrize(("ours", "theirs"), [(1.0, None), (None, 1.0), (None, None)])
@pytest.mark.parametrize(("unknown", "verdict"), [("reject", "fail"), ("warn", "unverified"), ("accept", "unverified")])
def test_unknown_value_means_what_the_rule_says(operator: str, ours: Any, theirs: Any, unknown: str, verdict: str):
    if operator == "without" or (operator == "fixed" and theirs is not None):
        return
    assert reason(operator, ours, theirs, unknown, value=1.0).verdict == verdict


def test_both_unknown_may_mean_something_else():
    assert reason("equal", None, None, both_unknown="accept").verdict == "unverified"
    assert reason("equal", None, None, both_unknown="equal").verdict == "pass"
    assert reason("equal", None, 1.0, both_unknown="equal").verdict == "fail"


def test_real_unregulated_night_is_matched_from_its_headers(real_data: Path):
    from wbpy.config import ScanSettings
    from wbpy.scanning.scanner import scan

    catalog = scan([real_data / "m13_orion_g3"], load_rules(), ScanSettings())
    matches, findings = matched(list(catalog.frames))
    served = {(subject.split("-")[0], role): m.rule for (subject, role), m in matches.items()}
    assert served == {
        ("flat", "flat_dark"): "flat.flat_dark.none",
        ("flat", "bias"): "flat.bias.temperature",
        ("light", "dark"): "light.dark.exact",
        ("light", "flat"): "light.flat.exact",
    }
    assert [f.id for f in findings] == ["MAT005"]


# --------------------------------------------------------------------------------------------------------------------
# formats, programs, optics, keywords, preferences


def test_raw_files_of_a_photo_camera_and_fits_files_are_never_matched():
    match = of_light(frames(3, "light", format="raw") + frames(6, "dark", format="fits"), "dark")
    assert (match.chosen, failed(match)) == (None, ["format_family"])
    assert of_light(frames(3, "light", format="raw") + frames(6, "dark", format="raw"), "dark").chosen is not None
    master = [frame("m", "dark", is_master=True, format="xisf")]
    assert of_light(frames(3, "light", format="raw") + master, "dark").chosen is not None


@pytest.mark.parametrize(("size", "chosen"), [(3.76, True), (4.1, True), (7.52, False), (1.88, False), (None, True)])
def test_dark_of_another_pixel_size_never_serves(size: float | None, chosen: bool):
    match = of_light(frames(3, "light") + frames(6, "dark", pixel_size=size), "dark")
    assert (match.chosen is not None) is chosen
    if chosen:
        verdicts = {r.field: r.verdict for r in match.candidates[0].reasons}
        assert verdicts["pixel_size"] == ("unverified" if size is None else "pass")


@pytest.mark.parametrize(("focal_length", "chosen"), [(530.0, True), (556.0, True), (371.0, False), (None, True)])
def test_flats_of_another_focal_length_never_serve(focal_length: float | None, chosen: bool):
    given = [f for f in night() if f.role != "flat"] + frames(6, "flat", focal_length=focal_length)
    assert (of_light(given, "flat").chosen is not None) is chosen


def test_frames_of_another_capture_program_serve_with_a_warning():
    given = [f for f in night() if f.role != "dark"] + frames(6, "dark", program="sharpcap")
    assert of_light(given, "dark").rule == "light.dark.exact"
    (finding,) = [f for f in matched(given)[1] if f.id == "MAT012"]
    assert (finding.evidence["needed"], finding.evidence["found"]) == ("nina", "sharpcap")
    master = [frame("m", "dark", is_master=True, program="pixinsight", stack_count=40)]
    assert not [f for f in matched(night() + master)[1] if f.id == "MAT012"]


def by_keys(given: list[Frame], **by: tuple[str, ...]) -> dict[tuple[str, str], Match]:
    rules = load_rules()
    entries = tuple(f"{scope}:{name}" for scope, names in by.items() for name in names)
    groups, _ = make_groups(given, rules, GroupSettings(by=entries))
    matches, _ = match_masters(groups, rules, MatchSettings(), by=by)
    return {(m.subject, m.role): m for m in matches}


def test_flats_of_a_session_serve_its_lights_and_flats_without_session_any():
    def session(role: str, stem: str, name: str | None, count: int = 3) -> list[Frame]:
        return frames(count, role, stem, keywords={"SESSION": name} if name else {})

    rest = [f for f in night() if f.role not in ("light", "flat")]
    lights = session("light", "a", "1") + session("light", "b", "2")
    flats = session("flat", "fa", "1") + session("flat", "fb", "2")
    found = by_keys(rest + lights + flats, flat=("SESSION",))
    assert {subject[-1]: m.chosen for (subject, role), m in found.items() if role == "flat"} == {
        "1": "flat-Ha-2026-01-05-1",
        "2": "flat-Ha-2026-01-05-2",
    }
    one = by_keys(rest + lights + session("flat", "fa", "1"), flat=("SESSION",))
    (other,) = [m for (subject, role), m in one.items() if role == "flat" and subject.endswith("2")]
    assert (other.chosen, failed(other)) == (None, ["SESSION"])
    common = by_keys(rest + lights + session("flat", "f", None), flat=("SESSION",))
    assert all(m.chosen is not None for (_, role), m in common.items() if role == "flat")


def test_preference_for_raw_frames_or_library_can_be_configured():
    given = [*night(), frame("m", "dark", is_master=True, stack_count=3)]
    rich = [*night(), frame("m", "dark", is_master=True, stack_count=50)]

    def chosen(frames: list[Frame], prefer: str) -> str | None:
        return of_light(frames, "dark", prefer=prefer).chosen  # type: ignore[arg-type]

    master, raw = "master-dark-300s-g100-o50-m10C", "dark-300s-g100-o50-m10C"
    assert [chosen(given, prefer) for prefer in ("auto", "raw", "library")] == [raw, raw, master]
    assert [chosen(rich, prefer) for prefer in ("auto", "raw", "library")] == [master, raw, master]


def test_tenths_of_a_degree_do_not_outweigh_the_number_of_frames():
    camera: dict[str, Any] = {"temp_set": None}
    lights = frames(3, "light", temp_ccd=20.0, **camera)
    few = frames(2, "dark", "few", temp_ccd=20.1, **camera)
    many = [frame("many", "dark", is_master=True, stack_count=40, temp_ccd=20.3, **camera)]
    assert of_light(lights + few + many, "dark").chosen == "master-dark-300s-g100-o50-20C"
    far = [frame("far", "dark", is_master=True, stack_count=40, temp_ccd=22.0, **camera)]
    assert of_light(lights + few + far, "dark").chosen == "dark-300s-g100-o50-20C"


def test_overscan_in_the_lights_alone_refuses_darks_by_name_of_the_size():
    match = of_light(frames(3, "light", width=424, height=302) + frames(6, "dark"), "dark")
    assert (match.chosen, failed(match)) == (None, ["width", "height"])


def test_nearest_miss_is_found_behind_many_farther_ones():
    far = [f for n in range(2 * CANDIDATES_KEPT) for f in frames(1, "dark", f"d{n}", gain=200.0, exposure=100.0 + n)]
    match = of_light(frames(3, "light") + far + frames(1, "dark", "near", gain=300.0), "dark")
    assert match.candidates[0].id == "dark-300s-g300-o50-m10C"
    assert failed(match) == ["gain"]
