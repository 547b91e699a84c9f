"""The plan page and the view behind it: what stands there, for plans made from header values."""

import re
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from session_frames import FakeCatalog, frames, night, orion_night

from wbpy.config import load_config
from wbpy.costs import Forecast
from wbpy.model import Finding, Frame, HeldBack, Param, Plan
from wbpy.planner import make_plan
from wbpy.reporting.plan_page import MOST_CALIBRATIONS, plan_page, signed
from wbpy.reporting.plan_view import PlanView, files_text
from wbpy.rules import load_rules
from wbpy.stages import STAGES

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """Checks the nesting of a page and keeps its text, ids and targets."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.ids: list[str] = []
        self.links: list[str] = []
        self.outside: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == [], f"not closed: {self.open}"
        self.text = " ".join(self.text.replace("\N{NO-BREAK SPACE}", " ").split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if values.get("id"):
            self.ids.append(str(values["id"]))
        if tag == "a":
            self.links.append(str(values["href"]))
        self.outside += [str(values[name]) for name in ("src", "href", "action") if name in values and tag != "a"]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """SVG shapes close themselves."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += f" {data}"


def planned(
    taken: list[Frame], *sets: str, held: tuple[HeldBack, ...] = (), findings: tuple[Finding, ...] = ()
) -> Plan:
    rules = load_rules()
    config = load_config(rules, {stage.name: stage.params for stage in STAGES}, sets=sets)
    catalog = FakeCatalog(tuple(taken), findings, held)
    return make_plan(catalog, Path("/out"), rules, config, STAGES)


def changed(taken: list[Frame], role: str, **fields: object) -> list[Frame]:
    return [msgspec.structs.replace(frame, **fields) if frame.role == role else frame for frame in taken]


def without(*roles: str) -> list[Frame]:
    return [frame for frame in night() if frame.role not in roles]


def page(plan: Plan, forecast: Forecast | None = None) -> Page:
    return Page(plan_page(plan, forecast))


FORECAST = Forecast(
    seconds=3725.0,
    phases={"masters": 20.0, "lights": 60.0, "integrations": 20.0},
    runs=4,
    workers=8,
    disk_needed=10**9,
    disk_free=2 * 10**12,
)


@pytest.mark.parametrize(
    "plan",
    [planned(night()), planned(orion_night()), planned([]), planned(without("light"))],
    ids=["night", "orion", "nothing", "no lights"],
)
def test_the_page_is_whole_and_loads_nothing(plan: Plan):
    shown = page(plan, FORECAST)
    assert len(shown.ids) == len(set(shown.ids))
    assert {link.removeprefix("#") for link in shown.links} <= set(shown.ids)
    assert all(one.startswith("data:") for one in shown.outside)
    text = plan_page(plan)
    assert "<script" not in text
    assert not re.search(r"url\(|@import|https?:", text.replace("http://www.w3.org/", ""))


def test_the_same_plan_gives_the_same_page():
    plan = planned(night())
    assert plan_page(plan, FORECAST) == plan_page(plan, FORECAST)


@pytest.mark.parametrize(
    ("taken", "formula"),
    [
        (night(), "(L - D) / F x s"),
        (without("dark"), "(L - B) / F x s"),
        (without("flat"), "L - D"),
        (without("dark", "bias", "flat_dark"), "L"),
        (without("dark", "bias", "flat", "flat_dark"), "L"),
    ],
    ids=["all", "no dark", "no flat", "nothing that takes the offset off", "lights alone"],
)
def test_the_formula_is_that_of_the_masters_that_serve(taken: list[Frame], formula: str):
    plan = planned(taken)
    [one] = PlanView(plan).calibrations
    assert one.formula == formula
    assert f'aria-label="calibrated = {formula}"' in plan_page(plan)


def test_a_scaled_dark_stands_in_the_formula_with_its_bias():
    longer = changed(night(), "dark", exposure=600.0)
    plan = planned(longer)
    [one] = PlanView(plan).calibrations
    assert one.scaled is not None
    assert one.formula == "(L - B - k (D - B)) / F x s"
    assert [operator for operator, _ in one.operations] == ["-", "-k", "/"]
    assert "Master dark, scaled" in page(plan).text


def test_the_diagram_says_what_serves_of_how_many_frames():
    text = page(planned(night())).text
    assert "8 lights" in text
    assert "Master dark 6 frames · 300 s · −10 °C" in text
    assert "Master flat 6 frames · Ha · 2026-01-05" in text
    assert "Master flat-dark 6 frames · 2 s · −10 °C" in text
    assert "master flat, the average of 6 frames, each less O" in text


def test_the_diagram_is_spoken_for_those_who_do_not_see_it():
    assert (
        'aria-label="8 lights; less master dark of 6 frames · 300 s · −10 °C; divided by master flat of 6 frames · Ha '
        '· 2026-01-05; the flats less master flat-dark of 6 frames · 2 s · −10 °C"'
    ) in plan_page(planned(night()))


def test_the_coverage_has_a_row_for_each_night_filter_and_exposure_with_ages_and_temperatures():
    taken = changed(without("light"), "dark", temp_set=-12.0, temp_ccd=-12.0, night="2026-01-02")
    taken += frames(5, "light") + frames(3, "light", "late", night="2026-01-08")
    taken += frames(4, "light", "short", exposure=60.0, filter="OIII")
    plan = planned(taken, "match.scale_darks=false")
    rows = PlanView(plan).coverage
    assert [(row.night, row.filter, row.exposure, row.frames) for row in rows] == [
        ("2026-01-05", "Ha", 300.0, 5),
        ("2026-01-05", "OIII", 60.0, 4),
        ("2026-01-08", "Ha", 300.0, 3),
    ]
    darks = [row.calibration.dark for row in rows]
    assert [(dark.temperature, dark.age) for dark in (darks[0], darks[2])] == [(-2.0, 3), (-2.0, 6)]
    assert darks[1].state == "missing"
    assert rows[1].calibration.flat.state == "missing"
    text = page(plan).text
    assert "dark · 6 × Δ −2 °C · 3 days" in text
    assert "flat · 6 × 3 days" in text


def test_masters_younger_than_the_lights_are_told_apart():
    taken = changed(night(), "flat", night="2026-01-07")
    [one] = PlanView(planned(taken)).calibrations
    assert one.flat.age == -2
    assert "2 days after" in page(planned(taken)).text


def test_a_master_of_unknown_gain_is_shown_as_compromise_and_unknown_on_both_sides_as_unverified():
    [one] = PlanView(planned(changed(night(), "dark", gain=None))).calibrations
    assert (one.dark.state, one.dark.unverified) == ("compromise", ("gain",))
    [orion] = PlanView(planned(orion_night())).calibrations
    assert orion.dark.state == "unverified"
    assert "gain" in orion.dark.unverified
    text = page(planned(orion_night())).text
    assert "gain unknown on both sides (unverified)" in text


def test_what_is_missing_is_named_with_the_nearest_refused_candidate():
    text = page(planned(changed(night(), "flat", filter="OIII"))).text
    assert "No flat vignetting and dust stay" in text
    assert "no flat" in text
    assert "filter OIII instead of Ha" in text


def test_candidates_that_lost_are_there_with_their_reasons():
    other = frames(6, "dark", "long", exposure=600.0)
    text = page(planned([*night(), *other])).text
    assert "candidate not taken" in text or "candidates not taken" in text
    assert "dark-600s-g100-o50-m10C as dark: exposure 600 s instead of 300 s" in text


def test_unused_files_stand_with_the_reason_and_those_of_one_reason_together():
    held = tuple(HeldBack(path=f"/night/preview_{n}.jpg", finding="FIL006") for n in range(7))
    found = tuple(
        Finding(id="FIL006", severity="warning", subject=one.path, message="This is a jpg file.", remedy="Nothing.")
        for one in held
    )
    darks = frames(4, "dark", "cold", temp_set=-30.0, temp_ccd=-30.0)
    plan = planned([*night(), *darks], held=held, findings=found)
    unused = {one.group or one.finding: one for one in PlanView(plan).unused}
    assert (len(unused["FIL006"].paths), unused["FIL006"].reason) == (7, "This is a jpg file.")
    assert "temperature -30 degC instead of -10 degC" in unused["dark-300s-g100-o50-m30C"].reason
    bias = next(one for name, one in unused.items() if name and name.startswith("bias"))
    assert bias.reason.endswith("serves flat-Ha-2026-01-05 better") or "needs a bias" in bias.reason
    assert "preview_0.jpg, preview_1.jpg, preview_2.jpg … preview_6.jpg" in page(plan).text


def test_nothing_is_lost_every_frame_is_used_or_named_as_unused():
    plan = planned([*night(), *frames(4, "dark", "cold", temp_set=-30.0, temp_ccd=-30.0)])
    view = PlanView(plan)
    groups = {group.id: group for group in plan.groups}
    used = {path for step in plan.steps for path in groups[step.group].frames}
    named = {path for one in view.unused for path in one.paths}
    assert used | named == {frame.path for frame in plan.frames}
    assert not used & named


def test_findings_stand_by_severity_with_the_remedy():
    found = tuple(
        Finding(id=id, severity=severity, subject="s", message=f"{id} happened", remedy=f"Undo {id}.", guide="§4.2")
        for id, severity in (("AAA001", "info"), ("BBB001", "warning"), ("CCC001", "error"))
    )
    text = page(planned(night(), findings=found)).text
    assert text.index("CCC001 happened") < text.index("BBB001 happened") < text.index("AAA001 happened")
    assert "To do Undo CCC001. Guide, section 4.2" in text


def test_figures_come_from_this_machine_where_it_is_known():
    plan = planned(night())
    text = page(plan, FORECAST).text
    assert "Time 1 h 2 min 8 threads, from 4 earlier runs here" in text
    assert "2 TB free" in text
    assert "lights 1 min" in text
    assert "an order of magnitude" in page(plan).text
    assert "rates of another machine" in page(plan, with_changes(FORECAST, runs=0)).text


def with_changes(forecast: Forecast, **changes: object) -> Forecast:
    from dataclasses import replace

    return replace(forecast, **changes)


def test_a_disk_that_is_too_small_is_announced():
    assert "will refuse to start" in page(planned(night()), with_changes(FORECAST, disk_free=1000)).text
    assert "will refuse to start" not in page(planned(night()), FORECAST).text


def test_steps_stand_in_order_with_what_is_no_default():
    plan = planned(night(), "integrate.high=2.5")
    text = page(plan).text
    places = [text.index(f"{step.id} {step.why}") for step in plan.steps]
    assert places == sorted(places)
    assert "high 2.5 (--set)" in text


def test_settings_show_what_was_given_and_where():
    plan = msgspec.structs.replace(planned(night()), given={"group.by": Param(value=["night"], origin="mine.toml")})
    assert "group.by night mine.toml" in page(plan).text
    assert "All at their defaults" in page(planned(night())).text


def test_names_that_look_like_markup_or_control_characters_are_shown_as_text():
    evil = "<script>alert(1)</script>\x1b[2J"
    plan = planned(changed(night(), "light", object=evil, filter="<b>&amp;"))
    text = plan_page(plan)
    assert "<script" not in text
    assert "<b>&amp;</b>" not in text
    assert "\x1b" not in text
    assert "<script>alert(1)" in Page(text).text


def test_a_huge_plan_is_cut_and_says_so():
    taken = without("light")
    for number in range(MOST_CALIBRATIONS + 30):
        taken += frames(1, "light", f"l{number}", object=f"Target {number}")
    text = plan_page(planned(taken))
    assert text.count('<details class="card"') == MOST_CALIBRATIONS
    assert "And 30 more groups of lights" in text
    assert len(text) < 5_000_000


@pytest.mark.parametrize(
    ("number", "text"), [(0.04, "0"), (-0.04, "0"), (1.25, "+1.2"), (-22.476, "−22.5"), (3.0, "+3")]
)
def test_differences_carry_a_sign_and_one_decimal(number: float, text: str):
    assert signed(number) == text


def test_many_files_are_named_by_the_first_ones_and_the_last():
    assert files_text(["/a/1.fits", "/b/2.fits"]) == "1.fits, 2.fits"
    assert files_text([f"/a/{n}.fits" for n in range(9)], shown=2) == "0.fits … 8.fits"
