"""Which integrations become a picture in colour, and what its pixels are."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from session_frames import FakeCatalog, frames

from wbpy.config import load_config
from wbpy.model import Frame, Plan
from wbpy.planner import make_plan
from wbpy.rules import load_rules
from wbpy.stages import STAGES, rgb

OUT = Path("/out")


def planned(given: list[Frame], *sets: str) -> Plan:
    rules = load_rules()
    settings = load_config(rules, {stage.name: stage.params for stage in STAGES}, sets=sets)
    return make_plan(FakeCatalog(tuple(given)), OUT, rules, settings, STAGES)  # type: ignore[arg-type]


def lights(*filters: str, count: int = 4, **changes: Any) -> list[Frame]:
    stem = "-".join(str(value) for value in changes.values())
    return [one for name in filters for one in frames(count, "light", f"{name}{stem}", filter=name, **changes)]


def outputs(plan: Plan, stage: str) -> dict[str, list[str]]:
    """Return kind -> file names of what the steps of a stage make."""
    found: dict[str, list[str]] = {}
    for step in plan.steps:
        for output in step.outputs if step.stage == stage else ():
            found.setdefault(output.kind, []).append(Path(output.path or "").name)
    return found


def told(plan: Plan) -> list[str]:
    return [f.id for f in plan.findings if f.id.startswith("RGB")]


# The plan -------------------------------------------------------------------------------------------------------


def test_three_filters_of_a_target_give_one_picture_in_colour():
    plan = planned(lights("R", "G", "B", "L"))
    assert outputs(plan, "rgb") == {
        "rgb": ["M42_RGB_300s.fits"],
        "rgb_autocrop": ["M42_RGB_300s_autocrop.fits"],
        "preview": ["M42_RGB_300s.png"],
    }
    step = next(step for step in plan.steps if step.stage == "rgb")
    assert step.inputs == {
        "red": ("integrate/integration-M42-R-300s",),
        "green": ("integrate/integration-M42-G-300s",),
        "blue": ("integrate/integration-M42-B-300s",),
        "autocrop": ("crop/registration-M42",),
    }
    assert told(plan) == []


def test_the_crop_holds_all_pictures_of_the_target():
    plan = planned([*lights("R", "G"), *lights("L", object="M31")])
    steps = [step for step in plan.steps if step.stage == "crop"]
    assert [(step.id, len(step.outputs)) for step in steps] == [
        ("crop/registration-M31", 1),
        ("crop/registration-M42", 2),
    ]
    assert outputs(planned(lights("R"), "crop.use=false"), "crop") == {}


def test_every_form_of_the_integrations_becomes_one_of_the_picture():
    plan = planned(lights("R", "G", "B"), "drizzle.use=true", "drizzle.scale=2")
    assert {kind: names[0] for kind, names in outputs(plan, "rgb").items()} == {
        "rgb": "M42_RGB_300s.fits",
        "rgb_autocrop": "M42_RGB_300s_autocrop.fits",
        "rgb_drizzle": "M42_RGB_300s_drizzle_2x.fits",
        "rgb_drizzle_autocrop": "M42_RGB_300s_drizzle_2x_autocrop.fits",
        "preview": "M42_RGB_300s.png",
    }


def test_the_format_of_the_run_is_that_of_every_picture():
    plan = planned(lights("R", "G", "B"), "run.format=xisf")
    for stage in ("integrate", "crop", "rgb"):
        for kind, names in outputs(plan, stage).items():
            assert {Path(name).suffix for name in names} == {".png" if kind == "preview" else ".xisf"}
    assert "rejection_map" not in outputs(plan, "integrate"), "maps are in the same file"


def test_filters_can_be_assigned_and_one_may_serve_twice():
    given = lights("SII", "Ha", "OIII")
    hubble = planned(given, "rgb.red=SII", "rgb.green=Ha", "rgb.blue=OIII")
    assert outputs(hubble, "rgb")["rgb"] == ["M42_SHO_300s.fits"]
    two = planned(given[4:], "rgb.red=Ha", "rgb.green=OIII", "rgb.blue=OIII")
    assert outputs(two, "rgb")["rgb"] == ["M42_HOO_300s.fits"]
    assert outputs(planned(given), "rgb") == {} and told(planned(given)) == []


def test_a_luminance_is_used_when_asked_for():
    plan = planned(lights("R", "G", "B", "L"), "rgb.luminance=L")
    assert outputs(plan, "rgb")["rgb"] == ["M42_LRGB_300s.fits"]
    step = next(step for step in plan.steps if step.stage == "rgb")
    assert step.inputs["luminance"] == ("integrate/integration-M42-L-300s",)


def test_a_luminance_that_is_missing_is_named_and_the_rest_is_made():
    plan = planned(lights("R", "G", "B"), "rgb.luminance=L")
    assert outputs(plan, "rgb")["rgb"] == ["M42_RGB_300s.fits"]
    assert [f.evidence["missing"] for f in plan.findings if f.id == "RGB001"] == ["L"]


def test_exposures_that_all_filters_have_give_a_picture_each():
    plan = planned([*lights("R", "G", "B"), *lights("R", "G", "B", exposure=30.0)])
    assert sorted(outputs(plan, "rgb")["rgb"]) == ["M42_RGB_300s.fits", "M42_RGB_30s.fits"]
    steps = [step for step in plan.steps if step.stage == "rgb"]
    assert len(steps) == 1 and all(len(steps[0].inputs[name]) == 2 for name in ("red", "green", "blue"))


def test_filters_of_different_exposures_belong_together_when_there_is_one_each():
    plan = planned([*lights("R", "G"), *lights("B", exposure=600.0)])
    assert outputs(plan, "rgb")["rgb"] == ["M42_RGB.fits"]
    assert told(plan) == []


def test_several_exposures_of_one_filter_that_fit_no_other_are_reported():
    plan = planned([*lights("R", "G"), *lights("B", exposure=600.0), *lights("B", exposure=900.0)])
    assert outputs(plan, "rgb") == {}
    assert [f.evidence["filters"] for f in plan.findings if f.id == "RGB003"] == ["B"]


def test_a_missing_filter_is_named_when_two_others_exist():
    found = [f for f in planned(lights("R", "B")).findings if f.id == "RGB001"]
    assert [f.evidence for f in found] == [{"filters": "R and B", "missing": "G"}]
    assert told(planned(lights("R", "Ha"))) == [], "a near miss: one filter alone promises nothing"


def test_filters_that_do_not_share_a_reference_are_reported():
    given = [*lights("R", "G", night="2026-01-05"), *lights("B", night="2026-01-06")]
    apart = planned(given, "group.by=registration:night")
    assert outputs(apart, "rgb") == {}
    assert told(apart) == ["RGB002", "RGB002"]
    assert told(planned(given)) == [], "a near miss: one reference for both nights"


def test_a_colour_camera_gives_no_further_picture_in_colour():
    plan = planned(frames(4, "light", cfa="RGGB", filter=None))
    assert outputs(plan, "rgb") == {}
    assert outputs(plan, "integrate")["integration"] == ["M42_OSC_300s.fits"]


def test_channels_of_a_colour_camera_have_files_of_their_own():
    given = [*frames(4, "light", cfa="RGGB", filter=None), *lights("L", camera="Mono")]
    for wanted, endings in (("both", ["", "_R", "_G", "_B"]), ("separate", ["_R", "_G", "_B"])):
        plan = planned(given, f"integrate.channels={wanted}")
        names = [name for name in outputs(plan, "integrate")["integration"] if "OSC" in name]
        assert names == [f"M42_OSC_300s{ending}.fits" for ending in endings]
        assert "M42_L_300s.fits" in outputs(plan, "integrate")["integration"], "mono as ever"


def test_what_the_further_pictures_cost_is_in_the_estimate():
    given = lights("R", "G", "B")
    bare = planned(given, "crop.use=false", "rgb.use=false").estimate
    cropped, both = planned(given, "rgb.use=false").estimate, planned(given).estimate
    plane = 4 * 400 * 300
    assert cropped.bytes_written - bare.bytes_written == 3 * plane
    assert cropped.bytes_read - bare.bytes_read == 3 * plane
    assert both.bytes_written - cropped.bytes_written == 2 * 3 * plane, "whole and cropped"
    osc = frames(4, "light", cfa="RGGB", filter=None)
    assert planned(osc).estimate.bytes_written - planned(osc, "crop.use=false").estimate.bytes_written == 3 * plane


# The pixels -----------------------------------------------------------------------------------------------------


def planes_of(seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return three planes and a luminance of stars on a sky, without noise."""
    random = np.random.default_rng(seed)
    stars = random.uniform(0, 1, (40, 50)) ** 20
    colour = random.uniform(0.5, 1.5, (3, 1, 1))
    planes = (0.02 + 0.3 * stars * colour).astype(np.float32)
    return planes, (0.1 + 0.8 * stars).astype(np.float32)


def test_without_a_luminance_the_planes_stay_as_they_are():
    planes, _ = planes_of()
    np.testing.assert_array_equal(rgb.run(planes, None, 1.0, 0.0), planes)


def test_a_pixel_that_one_filter_lacks_is_missing_in_all():
    planes, light = planes_of()
    planes[1, 3, 4] = np.nan
    for luminance in (None, light):
        found = rgb.run(planes, luminance, 1.0, 0.0)
        assert np.isnan(found[:, 3, 4]).all() and np.isnan(found).sum() == 3
    light[7, 7] = np.nan
    assert np.isnan(rgb.run(planes, light, 1.0, 0.0)[:, 7, 7]).all()


def test_the_brightness_becomes_that_of_the_luminance_and_colours_stay():
    planes, light = planes_of()
    found = rgb.run(planes, light, 0.5, -0.01)
    np.testing.assert_allclose(found.mean(axis=0), 0.5 * light - 0.01, atol=1e-7)
    np.testing.assert_allclose(found[0] - found[2], planes[0] - planes[2], atol=1e-7)


def test_the_luminance_is_fitted_to_the_mean_of_the_planes():
    planes, light = planes_of()
    scale, offset = rgb.fit_luminance(planes, light)
    np.testing.assert_allclose(scale * light + offset, planes.mean(axis=0), atol=1e-6)


def test_a_little_noise_hardly_changes_the_fit():
    """400 stars of up to 0.3 above a noise of 0.002: the slope is good to 1 %."""
    planes, light = planes_of()
    random = np.random.default_rng(5)
    noisy = planes + random.normal(0, 0.002, planes.shape).astype(np.float32)
    scale, _ = rgb.fit_luminance(noisy, light + random.normal(0, 0.002, light.shape).astype(np.float32))
    assert scale == pytest.approx(rgb.fit_luminance(planes, light)[0], rel=0.01)


@pytest.mark.parametrize("light", [np.full((4, 5), 0.3, np.float32), np.full((4, 5), np.nan, np.float32)])
def test_a_luminance_without_structure_keeps_its_scale(light: np.ndarray):
    planes = np.full((3, 4, 5), 0.2, np.float32)
    scale, offset = rgb.fit_luminance(planes, light)
    assert scale == 1.0
    assert offset == pytest.approx(-0.1 if np.isfinite(light).all() else 0.0, abs=1e-7)


def test_each_of_two_pictures_keeps_its_own_luminance():
    # Two exposures of each colour, of which one has a luminance of its own, and two luminances to choose from.
    given = [
        *lights("R", "G", "B", exposure=120.0),
        *lights("R", "G", "B", "L", exposure=300.0),
        *lights("L", exposure=60.0),
    ]
    plan = planned(given, "rgb.luminance=L")
    step = next(step for step in plan.steps if step.stage == "rgb")
    names = [Path(output.path or "").stem for output in step.outputs if output.kind == "rgb"]
    assert names == ["M42_LRGB_300s", "M42_RGB_120s"]
    # The first luminance goes with the first picture.
    assert step.inputs["luminance"] == ("integrate/integration-M42-L-300s",)
    assert step.inputs["red"] == ("integrate/integration-M42-R-300s", "integrate/integration-M42-R-120s")
