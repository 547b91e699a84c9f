"""Approval: the grammar of limits, what each pattern of measurements is called, the user's list."""

import math
from pathlib import Path

import msgspec
import numpy as np
import pytest

from wbpy.errors import ReadError
from wbpy.io.approval import read_list, write_rows
from wbpy.rules import load_rules
from wbpy.stages import approve
from wbpy.stages.approve import ApproveParams, Candidate, limit_value
from wbpy.stages.measure import Measurement, mean_direction

THRESHOLDS = {name: load_rules().findings[id].limits for name, id in approve.NAMED.items()}


def light(
    number: int = 0,
    *,
    clear: float | None = 1.0,
    stars: int = 200,
    listed: bool | None = None,
    scale: float | None = 1.2,
    exposure: float = 300.0,
    **change: float,
) -> Candidate:
    none = np.empty(0)
    given = {"fwhm": 3.0, "eccentricity": 0.35, "background": 500.0, "noise": 12.0, "coherence": 0.3, "angle": 20.0}
    given |= change
    m = Measurement(
        x=none,
        y=none,
        flux=none,
        usable=none.astype(bool),
        count=stars,
        fwhm=given["fwhm"],
        eccentricity=given["eccentricity"],
        background=(given["background"],),
        noise=(given["noise"],),
        dispersion=(13.0,),
        angle=given["angle"],
        coherence=given["coherence"],
    )
    return Candidate(m, exposure, float(number), scale, clear, listed)


def judged(lights: list[Candidate], **limits: str) -> list[approve.Verdict]:
    return approve.run(ApproveParams(**limits), lights, THRESHOLDS)[0]


# --------------------------------------------------------------------------------------------------------------------
# limits


@pytest.mark.parametrize(
    ("rule", "higher", "wanted"),
    [
        ("4.5", False, 4.5),
        ("150%best", False, 3.0),
        ("150%median", False, 4.5),
        ("150%", False, 4.5),
        ("50%best", True, 5.0),
        # Deviations from 3 are 1, 0, 0, 1, 7: MAD 1.
        ("k2", False, 3 + 2 * 1.4826),
        ("k2", True, 3 - 2 * 1.4826),
    ],
)
def test_limits_are_values_shares_of_best_or_median_or_sigmas(rule: str, higher: bool, wanted: float):
    assert limit_value(rule, [2.0, 3.0, None, 3.0, 4.0, 10.0], higher) == pytest.approx(wanted)


@pytest.mark.parametrize("rule", ["k", "-3", "3%worst", "3 4", "", "__import__('os')", "best", "1e3"])
def test_what_is_not_in_the_grammar_is_refused(rule: str):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"fwhm_px": rule}, ApproveParams)


@pytest.mark.parametrize(
    ("metric", "worse"),
    [
        ("stars", light(3, stars=90)),
        ("fwhm_px", light(3, fwhm=4.0)),
        ("fwhm_arcsec", light(3, fwhm=4.0)),
        ("eccentricity", light(3, eccentricity=0.5)),
        ("background_dn", light(3, background=800.0)),
        ("noise_dn", light(3, noise=20.0)),
        ("transparency", light(3, clear=0.7)),
    ],
)
def test_a_light_beyond_a_limit_is_excluded_with_metric_value_and_limit(metric: str, worse: Candidate):
    share = "80%best" if approve.HIGHER_IS_BETTER[metric] else "125%best"
    lights = [light(0), light(1), light(2), worse, light(4)]
    assert all(v.approved for v in judged(lights))
    verdicts = judged(lights, **{metric: share})
    assert [v.approved for v in verdicts] == [True, True, True, False, True]
    out = verdicts[3]
    assert (out.metric, out.rule) == (metric, share)
    value = out.values[metric]
    assert value is not None and out.limit is not None
    assert value < out.limit if approve.HIGHER_IS_BETTER[metric] else value > out.limit


def test_a_light_on_its_limit_is_kept():
    assert judged([light(0, fwhm=3.0), light(1, fwhm=4.5)], fwhm_px="150%best")[1].approved


def test_lights_are_compared_with_those_of_the_same_exposure():
    lights = [light(i, background=500.0) for i in range(4)] + [
        light(i, background=100.0, exposure=60.0) for i in (4, 5)
    ]
    assert all(v.approved for v in judged(lights, background_dn="120%best"))
    lights[5] = light(5, background=150.0, exposure=60.0)
    assert [v.approved for v in judged(lights, background_dn="120%best")] == [True] * 5 + [False]


def test_a_light_without_the_value_is_excluded_but_a_metric_nobody_has_is_reported():
    lights = [light(0), light(1), light(2, fwhm=math.nan)]
    verdicts, unusable = approve.run(ApproveParams(fwhm_px="9"), lights, THRESHOLDS)
    assert [v.approved for v in verdicts] == [True, True, False]
    assert verdicts[2].values["fwhm_px"] is None and not unusable
    lights = [light(i, scale=None) for i in range(3)]
    verdicts, unusable = approve.run(ApproveParams(fwhm_arcsec="1"), lights, THRESHOLDS)
    assert all(v.approved for v in verdicts) and unusable == ["fwhm_arcsec"]


def test_the_list_overrules_the_limits_both_ways():
    lights = [light(0, fwhm=9.0, listed=True), light(1, listed=False), light(2, fwhm=9.0), light(3), light(4)]
    verdicts = judged(lights, fwhm_px="4")
    assert [v.approved for v in verdicts] == [True, False, False, True, True]
    assert verdicts[1].rule == "list" and verdicts[1].metric is None


# --------------------------------------------------------------------------------------------------------------------
# names


def names(worse: Candidate, count: int = 8) -> list[set[str]]:
    lights = [light(i) for i in range(count)]
    lights[3] = worse
    return [set(v.names) for v in judged(lights)]


@pytest.mark.parametrize(
    ("worse", "name"),
    [
        (light(3, clear=0.4, stars=80, background=900.0, noise=18.0), {"cloud"}),
        (light(3, clear=0.75, stars=170), {"haze"}),
        (light(3, eccentricity=0.75, coherence=0.9, fwhm=5.0), {"trailing"}),
        (light(3, fwhm=5.0, stars=120, clear=0.97), {"defocus"}),
        (light(3, background=1200.0, noise=19.0, stars=140), {"bright_sky"}),
        (light(3, stars=3, clear=None, fwhm=math.nan, eccentricity=math.nan, coherence=0.0), {"no_stars"}),
        (light(3, stars=3, clear=None, fwhm=math.nan, background=9e3, noise=90.0, coherence=0.0), {"no_stars"}),
        # Near misses.
        (light(3, clear=0.9), set()),
        (light(3, clear=None, stars=150), set()),
        (light(3, eccentricity=0.75, coherence=0.3), set()),
        (light(3, eccentricity=0.55, coherence=0.9), set()),
        (light(3, fwhm=4.2), set()),
        (light(3, background=1200.0, noise=12.5), set()),
    ],
)
def test_what_is_wrong_with_a_light_is_named_from_its_pattern(worse: Candidate, name: set[str]):
    found = names(worse)
    assert found[3] == name
    assert not any(found[:3] + found[4:])


def test_the_evidence_holds_what_was_simulated():
    lights = [light(i) for i in range(8)]
    lights[2] = light(2, clear=0.4)
    assert judged(lights)[2].names["cloud"] == {"percent": pytest.approx(40.0), "stars": 200}


def test_extinction_towards_the_end_of_a_night_is_no_passing_haze():
    falling = [light(i, clear=1.0 - 0.04 * i) for i in range(9)]
    assert not any(v.names for v in judged(falling))
    # The same losses in another order are haze.
    assert "haze" in judged([light(i, clear=c) for i, c in enumerate((1.0, 0.98, 0.7, 0.72, 0.97, 1.0))])[3].names


def test_a_wholly_trailed_night_is_named_in_every_frame():
    lights = [light(i, eccentricity=0.8, coherence=0.9) for i in range(6)]
    assert all(set(v.names) == {"trailing"} for v in judged(lights))


def test_few_lights_are_not_named_because_nothing_is_normal_yet():
    assert not any(names(light(3, clear=0.3), count=4))


def test_transparency_is_relative_to_the_median_light():
    found = judged([light(i, clear=c) for i, c in enumerate((0.2, 0.4, None, 0.8))])
    assert [v.values["transparency"] for v in found] == pytest.approx([0.5, 1.0, None, 2.0])
    assert judged([light(0, clear=None)])[0].values["transparency"] is None


def test_directions_are_averaged_without_a_head():
    rng = np.random.default_rng(1)
    angle, agreement = mean_direction(np.radians(88.0 + rng.normal(0.0, 5.0, 400)))
    # Standard error of 5 degrees over 400 stars: 0.25 degrees.
    assert (angle - 88.0 + 90.0) % 180.0 - 90.0 == pytest.approx(0.0, abs=1.0)
    # Mean resultant of a wrapped normal of twice 5 degrees: exp(-2 * 0.0873^2) = 0.985.
    assert agreement == pytest.approx(0.985, abs=0.005)
    assert mean_direction(rng.uniform(-math.pi / 2, math.pi / 2, 4000))[1] < 0.06


# --------------------------------------------------------------------------------------------------------------------
# the list

FRAMES = ["/n/a/one.fits", "/n/b/one.fits", "/n/a/two.fits", "/n/a/three.fits"]


def written(folder: Path, text: str) -> dict[str, bool]:
    path = folder / "list.csv"
    path.write_text(text, encoding="utf-8")
    return read_list(path, FRAMES)


def test_a_list_with_decisions_is_silent_about_the_frames_it_does_not_name(tmp_path: Path):
    found = written(tmp_path, "Frame,weight,Approved\n/n/a/one.fits,1,no\ntwo.fits,0.5,Yes\nthree.fits,0.3,\n")
    assert found == {"/n/a/one.fits": False, "/n/a/two.fits": True}


def test_a_list_of_names_alone_approves_these_and_no_other(tmp_path: Path):
    found = written(tmp_path, "file\none.fits\n")
    assert found == {path: path.endswith("one.fits") for path in FRAMES}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x,approved\na,yes\n", "no column"),
        ("", "no column"),
        ("frame,approved\nfour.fits,yes\n", "line 2: four.fits"),
        ("frame,approved\none.fits,maybe\n", "maybe"),
    ],
)
def test_a_list_that_is_not_understood_is_refused(tmp_path: Path, text: str, reason: str):
    with pytest.raises(ReadError, match=reason):
        written(tmp_path, text)
    with pytest.raises(ReadError, match="cannot be read"):
        read_list(tmp_path / "none.csv", FRAMES)


def test_what_is_written_is_read_back_as_a_list(tmp_path: Path):
    rows = [
        {"frame": path, "approved": "no" if "two" in path else "yes", "fwhm_px": 2.5, "limit": None} for path in FRAMES
    ]
    write_rows(tmp_path / "approval.csv", rows)
    assert read_list(tmp_path / "approval.csv", FRAMES) == {path: "two" not in path for path in FRAMES}
    assert (tmp_path / "approval.csv").read_text().splitlines()[1] == "/n/a/one.fits,yes,2.5,"
