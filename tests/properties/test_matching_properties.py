"""Grouping is a partition that ignores order; matches satisfy their rules and do not depend on what is irrelevant."""

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from wbpy.config import GroupSettings, MatchSettings
from wbpy.grouping import make_groups
from wbpy.matching import CANDIDATES_KEPT, _judge, judge, match_masters
from wbpy.model import Frame, Group, Match
from wbpy.rules import load_rules

RULES = load_rules()
bounded = settings(max_examples=50, deadline=None)

VARIED: dict[str, st.SearchStrategy[Any]] = {
    "role": st.sampled_from(["light", "dark", "flat", "flat_dark", "bias"]),
    "exposure": st.sampled_from([None, 0.001, 2.0, 2.1, 299.9, 300.0, 300.2, 301.0, 302.1]),
    "gain": st.sampled_from([None, 0.0, 100.0]),
    "offset": st.sampled_from([None, 50.0]),
    "temp_ccd": st.one_of(st.none(), st.floats(-20, 30).map(lambda t: round(t, 1))),
    "temp_set": st.sampled_from([None, -10.0, 0.0]),
    "filter": st.sampled_from([None, "Ha", "L"]),
    "camera": st.sampled_from([None, "A", "B"]),
    "night": st.sampled_from([None, "2026-01-01", "2026-01-05", "2026-03-01"]),
    "object": st.sampled_from([None, "M42", "m 42", "M31"]),
    "rotator": st.one_of(st.none(), st.floats(0, 360).map(round).map(float)),
    "is_master": st.sampled_from([False, False, False, True]),
}


def build(number: int, values: dict[str, Any]) -> Frame:
    same = dict.fromkeys(
        ("e_per_dn", "iso", "cfa", "row_order", "read_mode", "date_obs", "ra", "dec", "pier_side", "program")
    )
    fixed = {"xbinning": 1, "ybinning": 1, "width": 64, "height": 48, "channels": 1, "focal_length": None}
    return Frame(
        path=f"/n/{number:03}.fits", format="fits", calibrated=False, pixel_size=None, **same, **fixed, **values
    )


sessions = st.lists(st.fixed_dictionaries(VARIED), min_size=1, max_size=24).map(
    lambda rows: [build(number, row) for number, row in enumerate(rows)]
)


def groups_of(frames: list[Frame]) -> tuple[Group, ...]:
    return make_groups(frames, RULES, GroupSettings())[0]


def matches_of(groups: tuple[Group, ...], **limits: float) -> tuple[Match, ...]:
    return match_masters(groups, RULES, MatchSettings(**limits))[0]


@bounded
@given(sessions)
def test_groups_of_each_kind_partition_the_frames(frames: list[Frame]):
    groups = groups_of(frames)
    usable = [f for f in frames if not (f.role == "light" and f.is_master)]
    lights = sorted(f.path for f in usable if f.role == "light")
    expected = {"calibration": sorted(f.path for f in usable), "registration": lights, "integration": lights}
    for kind, paths in expected.items():
        assert sorted(path for g in groups if g.kind == kind for path in g.frames) == paths
    ids = [group.id.casefold() for group in groups]
    assert len(set(ids)) == len(ids)


@bounded
@given(sessions, st.randoms(use_true_random=False))
def test_order_of_files_changes_nothing(frames: list[Frame], random: Any):
    groups, findings = make_groups(frames, RULES, GroupSettings())
    shuffled = list(frames)
    random.shuffle(shuffled)
    again = make_groups(shuffled, RULES, GroupSettings())
    assert again == (groups, findings)
    by_pair = {(m.subject, m.role): m for m in matches_of(groups)}
    assert {(m.subject, m.role): m for m in matches_of(groups[::-1])} == by_pair


@bounded
@given(sessions)
def test_values_of_a_group_stay_within_its_bands(frames: list[Frame]):
    by_path = {f.path: f for f in frames}
    for group in groups_of(frames):
        if group.is_master:
            continue
        rule = RULES.groups[f"{group.kind}.{group.role}"]
        members = [by_path[path] for path in group.frames]
        for band in rule.bands:
            if band.field == "exposure":
                values = [f.exposure for f in members]
                assert len({value is None for value in values}) == 1
                if values[0] is not None:
                    known = [value for value in values if value is not None]
                    width = max(band.absolute, band.relative * min(known))
                    assert max(known) - min(known) <= width + 1e-9


@bounded
@given(sessions)
def test_a_chosen_master_satisfies_every_requirement_of_its_rung(frames: list[Frame]):
    groups = groups_of(frames)
    by_id = {group.id: group for group in groups}
    rungs = {rung.id: rung for rung in RULES.matches}
    matches = matches_of(groups)
    for match in matches:
        accepted = [c for c in match.candidates if c.verdict != "rejected"]
        assert [c.rank for c in accepted] == list(range(1, len(accepted) + 1))
        assert (match.chosen is None) is (not accepted)
        assert all(any(r.verdict == "fail" for r in c.reasons) for c in match.candidates if c.verdict == "rejected")
        if match.chosen is None:
            continue
        assert match.candidates[0].id == match.chosen
        rung, subject, chosen = rungs[match.rule], by_id[match.subject], by_id[match.chosen]
        assert chosen.role in rung.candidates
        for requirement in rung.require:
            if requirement.field != "calibrated":
                ours, theirs = subject.key.get(requirement.field), chosen.key.get(requirement.field)
                assert judge(requirement, rung.id, ours, theirs).verdict != "fail"


@bounded
@given(sessions)
def test_frames_of_another_camera_change_no_match(frames: list[Frame]):
    def named(session: list[Frame]) -> set[tuple[Any, ...]]:
        groups = groups_of(session)
        members = {group.id: group.frames for group in groups} | {None: None}
        return {(members[m.subject], m.role, members[m.chosen], m.rule) for m in matches_of(groups)}

    strangers = [
        build(900 + number, {**values, "camera": "C", "role": role, "is_master": False})
        for number, role in enumerate(("dark", "bias", "flat_dark"))
        for values in [dict.fromkeys(VARIED) | {"exposure": 300.0, "gain": 100.0}]
    ]
    # A camera that one side does not name may be any; only known ones are irrelevant to each other.
    known = [f for f in frames if f.camera is not None]
    assert named(known) == named(known + strangers)


@bounded
@given(sessions, st.floats(0, 10), st.floats(0, 10))
def test_a_wider_tolerance_never_loses_a_match(frames: list[Frame], first: float, second: float):
    groups = groups_of(frames)
    narrow, wide = sorted((first, second))
    for name in ("temperature", "exposure"):
        few, more = ({(m.subject, m.role): m for m in matches_of(groups, **{name: v})} for v in (narrow, wide))
        for pair, match in few.items():
            if match.role == "dark" and match.chosen is not None:
                assert more[pair].chosen is not None


@bounded
@given(sessions)
def test_the_indexed_search_finds_what_a_search_through_everything_finds(frames: list[Frame]):
    groups = [g for g in groups_of(frames) if g.kind == "calibration"]
    matches = {(m.subject, m.role): m for m in matches_of(tuple(groups))}
    served = {g.id for g in groups if g.is_master}
    served |= {m.subject for m in matches.values() if m.chosen is not None and m.role in ("flat_dark", "bias")}

    def misses(rung: Any, subject: Group, candidate: Group) -> tuple[int, float]:
        found = []
        for requirement in rung.require:
            ours, theirs = subject.key.get(requirement.field), candidate.key.get(requirement.field)
            if requirement.field == "calibrated":
                ours, theirs = None, candidate.id in served
            found.append(_judge(requirement, rung.id, ours, theirs).miss)
        return sum(miss > 0 for miss in found), sum(found)

    for (subject_id, role), match in matches.items():
        subject = next(g for g in groups if g.id == subject_id)
        rungs = [r for r in RULES.matches if (r.subject, r.role) == (subject.role, role)]
        rungs = [r for r in rungs if r.candidates and r.needs_parameter is None]
        scores: dict[str, tuple[int, float]] = {}
        for rung in rungs:
            own = {g.id: misses(rung, subject, g) for g in groups if g.role in rung.candidates}
            good = {id for id, (failures, _) in own.items() if failures == 0}
            if good:
                assert match.rule == rung.id
                assert {c.id for c in match.candidates if c.verdict != "rejected"} <= good
                scores |= own
                break
            scores |= {id: min(score, scores.get(id, score)) for id, score in own.items()}
        else:
            assert match.chosen is None
            good = set()
        nearest = sorted((score, id) for id, score in scores.items() if id not in good)[:CANDIDATES_KEPT]
        assert [c.id for c in match.candidates if c.verdict == "rejected"] == [id for _, id in nearest]


@bounded
@given(
    sessions, st.lists(st.sampled_from(["light", "dark", "flat"]), max_size=2), st.sampled_from(["exposure", "camera"])
)
def test_groups_stay_a_partition_however_they_are_split_and_merged(frames: list[Frame], split: list[str], merge: str):
    tagged = [msgspec.structs.replace(f, keywords={"TILE": str(n % 3)}) for n, f in enumerate(frames)]
    settings = GroupSettings(by=("TILE", *(f"{scope}:TILE" for scope in split)), merge=(merge,))
    groups, _ = make_groups(tagged, RULES, settings)
    usable = sorted(f.path for f in tagged if not (f.role == "light" and f.is_master))
    assert sorted(path for g in groups if g.kind == "calibration" for path in g.frames) == usable
    again, _ = make_groups(tagged[::-1], RULES, settings)
    assert again == groups
