"""Sessions of header-only files: groups, matches, rungs, findings and explanations as reviewed text.

``WBPY_UPDATE_GOLDEN=1`` writes the texts anew; the change is then read before it is kept.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import wbpy
from wbpy.grouping import field_value
from wbpy.matching import judge
from wbpy.model import Frame, Group, Match, Plan
from wbpy.rules import load_rules

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "sample_data" / "sessions"), str(Path(__file__).parent)]

from expand import load_session, session_names, write_session  # noqa: E402
from wbpp_rules import Choices, Pool  # noqa: E402

EXPECTED = Path(__file__).parent / "scenarios"
PAGE = ROOT / "docs" / "scenarios.md"
NAMES = session_names()
TOLD = r"(Dark|Bias|Flat|Flat-dark) for |Used as|Not used as|Other .* left out|Sensor"
PLANS: dict[str, Plan] = {}
FOLDERS: dict[str, Path] = {}


@pytest.fixture
def plan_of(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the plan of a session; each session is written and planned once."""

    def make(name: str) -> Plan:
        if name not in PLANS:
            session = load_session(name)
            folder = tmp_path_factory.mktemp(name)
            write_session(session, folder / "in")
            PLANS[name] = wbpy.plan(folder / "in", folder / "out", **session.get("options", {}))
            FOLDERS[name] = folder
        return PLANS[name]

    return make


def told(plan: Plan, folder: Path, session: dict[str, Any]) -> str:
    """Return groups, matches, findings and explanations of a plan as text without paths of this run."""
    lines = [f"# {session['title']}", ""]
    for kind in ("calibration", "registration", "integration"):
        groups = [group for group in plan.groups if group.kind == kind]
        lines += [f"{kind}:", *(f"  {group.id}: {len(group.frames)}" for group in groups)]
    lines.append("matches:")
    for match in plan.matches:
        unsure = [r.field for c in match.candidates[:1] if match.chosen for r in c.reasons if r.verdict == "unverified"]
        lines.append(
            f"  {match.subject} {match.role}: {match.chosen or 'none'} by {match.rule}"
            + (f", unverified {', '.join(unsure)}" if unsure else "")
        )
    lines.append("findings:")
    # What the scanner says, and that masters of three frames are noisy, belongs to other tests.
    own = [f for f in plan.findings if f.id[:3] in ("GRP", "MAT", "PLN") and f.id != "PLN002"]
    lines += [f"  {f.id} {f.severity}: {f.message}" for f in own] or ["  none"]
    if plan.held_back:
        lines += ["held back:", *(f"  {Path(one.path).name}: {one.finding}" for one in plan.held_back)]
    for target in session.get("explain", ()):
        lines += ["", f"explain {target}:"]
        for section in wbpy.explain(target, plan).sections:
            if re.match(TOLD, section.title):
                lines += [f"  {section.title}", *(f"    {line}" for line in section.lines)]
    text = "\n".join(lines) + "\n"
    return text.replace(str(folder / "in") + os.sep, "").replace(str(folder), "SESSION").replace(os.sep, "/")


def test_there_are_enough_sessions_and_each_says_what_is_right():
    assert len(NAMES) >= 40
    assert {path.stem for path in EXPECTED.glob("*.txt")} == set(NAMES)
    for name in NAMES:
        session = load_session(name)
        assert session["title"] and session["right"] and session["needs"], name


@pytest.mark.parametrize("name", NAMES)
def test_session_is_grouped_matched_and_explained_as_reviewed(name: str, plan_of: Any):
    session = load_session(name)
    text = told(plan_of(name), FOLDERS[name], session)
    file = EXPECTED / f"{name}.txt"
    if os.environ.get("WBPY_UPDATE_GOLDEN"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_groups_partition_the_frames_and_chosen_masters_satisfy_their_rung(name: str, plan_of: Any):
    plan = plan_of(name)
    groups = {group.id: group for group in plan.groups}
    for kind in ("calibration", "registration", "integration"):
        members = [path for group in plan.groups if group.kind == kind for path in group.frames]
        assert len(members) == len(set(members))
    calibration = {path for group in plan.groups if group.kind == "calibration" for path in group.frames}
    assert calibration == {frame.path for frame in plan.frames}
    rungs = {rung.id: rung for rung in load_rules().matches}
    for match in plan.matches:
        if match.chosen is None or match.rule == "pin":
            continue
        for requirement in rungs[match.rule].require:
            if requirement.field not in ("calibrated", "with_bias"):
                ours = groups[match.subject].key.get(requirement.field)
                theirs = groups[match.chosen].key.get(requirement.field)
                assert judge(requirement, match.rule, ours, theirs).verdict != "fail", (
                    match.subject,
                    requirement.field,
                )


# --------------------------------------------------------------------------------------------------------------------
# side by side with WBPP


def _pool_text(pool: Pool | None, home: dict[str, Group]) -> str:
    if pool is None:
        return "none"
    ids = dict.fromkeys(home[frame.path].id for frame in pool if frame.path in home)
    return " + ".join(f"`{id}`" for id in ids)


def _choice_text(match: Match | None) -> str:
    if match is None:
        return "not needed"
    return "none" if match.chosen is None else f"`{match.chosen}`"


def page(plans: dict[str, Plan]) -> str:
    """Return docs/scenarios.md."""
    lines = [
        "<!-- Written by tests/golden/test_scenarios.py with WBPY_UPDATE_GOLDEN=1. -->",
        "# Scenarios",
        "",
        "What wbpy chooses for a number of sessions, beside what WBPP 3 of PixInsight would choose by its documented",
        "rules, and which of the two is right by the [guide](guide.md). The sessions are header-only files that",
        "`sample_data/sessions` describes; `tests/golden/scenarios` holds groups, matches, findings and explanations.",
        "",
        "WBPP groups by binning, size, filter, CFA and exposure (darks within 10 s, lights within 2 s) and matches by",
        "the same: gain, offset, temperature, camera, night, rotator and read mode count only as keywords the user",
        "declares. Where it pools frames that wbpy keeps apart, the column shows all of wbpy's groups that go into its",
        "master, joined by +. The choice for lights and for flats is shown.",
        "",
    ]
    for name in NAMES:
        session, plan = load_session(name), plans[name]
        lines += [f"## {session['title']}", "", f"Session `{name}`. Right: {session['right']}.", ""]
        rows = list(_rows(plan))
        if rows:
            lines += ["| group | role | wbpy | WBPP 3 |", "|---|---|---|---|", *rows, ""]
        else:
            lines += ["Nothing to match.", ""]
    return "\n".join(lines).rstrip() + "\n"


def _rows(plan: Plan) -> Sequence[str]:
    choices = Choices(plan.frames)
    frames = {frame.path: frame for frame in plan.frames}
    home = {path: group for group in plan.groups if group.kind == "calibration" for path in group.frames}
    matches = {(match.subject, match.role): match for match in plan.matches}
    rows = []
    for group in plan.groups:
        if group.kind != "calibration" or group.is_master or group.role not in ("light", "flat"):
            continue
        first: Frame = frames[group.frames[0]]
        if group.role == "light":
            pairs = [("dark", choices.dark(first)), ("bias", choices.bias(first)), ("flat", choices.flat(first))]
        else:
            pool = next(pool for pool in choices.pools["flat"] if first in pool)
            pools = choices.flat_calibration(pool)
            by_role = {("bias" if pool[0].role == "bias" else "flat_dark"): pool for pool in pools}
            pairs = [("flat_dark", by_role.get("flat_dark")), ("bias", by_role.get("bias"))]
        for role, pool in pairs:
            match = matches.get((group.id, role))
            if role == "bias" and match is None and pool is None:
                continue
            rows.append(f"| `{group.id}` | {role} | {_choice_text(match)} | {_pool_text(pool, home)} |")
    return rows


def test_the_page_shows_every_session_beside_the_rules_of_wbpp(plan_of: Any):
    text = page({name: plan_of(name) for name in NAMES})
    if os.environ.get("WBPY_UPDATE_GOLDEN"):
        PAGE.write_text(text, encoding="utf-8")
    assert text == PAGE.read_text(encoding="utf-8")


def test_wbpp_pools_what_its_rules_do_not_look_at(plan_of: Any):
    frames = plan_of("mixed_gains_with_darks").frames
    dark = Choices(frames).dark(next(frame for frame in frames if frame.role == "light"))
    assert dark is not None
    assert {field_value(frame, "gain") for frame in dark} == {0.0, 100.0}
