"""What integrations look like to other programs: their grid, their place on the sky, crops, channels, colours, XISF."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from conftest import Night
from numpy.typing import NDArray

import wbpy
from wbpy.simulate import Sensor, SessionSpec, Truth, write_session

MONO = SessionSpec(
    seed=31,
    sensor=Sensor(width=260, height=200, seed=5),
    n_lights=6,
    n_stars=90,
    brightest_e_per_s=3000.0,
    faintest_e_per_s=60.0,
    nebula_e_per_s=0.0,
    n_darks=4,
    n_flats=4,
    n_flat_darks=4,
    n_bias=0,
    dither_px=2.0,
    drift_px=(6.0, -4.0),
    rotation_deg=0.4,
    cosmic_rays=0.0,
)
SCALE = np.array([[-5.4e-4, 2e-5], [1.8e-5, 5.4e-4]])
"""Degrees for each pixel of the plane on which the simulator's stars lie."""
ORIGIN = np.array([120.0, 90.0])
SKY = (312.75, 30.7)


def sky_cards(transform: NDArray[np.float64]) -> dict[str, Any]:
    """Return the cards of a light whose pixels are ``transform`` (linear) of the plane's."""
    turn = transform[:2, :2] / transform[2, 2]
    point = turn @ ORIGIN + transform[:2, 2] / transform[2, 2]
    cd = SCALE @ np.linalg.inv(turn)
    cards: dict[str, Any] = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN"}
    for n in (0, 1):
        cards |= {f"CRVAL{n + 1}": SKY[n], f"CRPIX{n + 1}": point[n] + 1}
        cards |= {f"CD{n + 1}_{m + 1}": cd[n, m] for m in (0, 1)}
    return cards


def solve(truth: Truth, numbers: Sequence[int] | None = None) -> None:
    """Write the place on the sky into the headers of some lights, as a plate solver would."""
    for number, light in enumerate(truth.lights):
        if numbers is None or number in numbers:
            with fits.open(light.path, mode="update") as units:
                units[0].header.update(sky_cards(light.transform))


def of_the_plane(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the true place on the sky, degrees, of points of the plane."""
    return celestial(fits.Header(sky_cards(np.eye(3)))).all_pix2world(points, 0)


def celestial(header: fits.Header) -> WCS:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return WCS(header).celestial


def bright_stars(truth: Truth) -> NDArray[np.float64]:
    """Return the places (n, 2) of the stars in the plane, the brightest first."""
    stars = np.sort(truth.stars, order="L")[::-1]
    return np.column_stack([stars["x"], stars["y"]])


def centroids(image: NDArray[np.float64], guesses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the places (n, 2) of stars near guesses in an image, NaN beside the picture."""
    found = np.full(guesses.shape, np.nan)
    sky = np.median(image[image > 0])
    for number, (x, y) in enumerate(guesses):
        for _ in range(4):
            if not (8 <= x < image.shape[1] - 8 and 8 <= y < image.shape[0] - 8):
                break
            x0, y0 = round(x), round(y)
            yy, xx = np.mgrid[y0 - 6 : y0 + 7, x0 - 6 : x0 + 7]
            weight = (image[y0 - 6 : y0 + 7, x0 - 6 : x0 + 7] - sky) * np.exp(-((xx - x) ** 2 + (yy - y) ** 2) / 8)
            # Of a star that has the width of the window the weighted mean lies half way: twice the step goes there.
            x, y = x + 2 * ((xx * weight).sum() / weight.sum() - x), y + 2 * ((yy * weight).sum() / weight.sum() - y)
        else:
            found[number] = x, y
    return found


def assert_on_the_sky(path: Path, truth: Truth, tolerance_px: float = 0.1) -> None:
    """Assert that the header puts the bright stars where the picture has them."""
    with fits.open(path) as units:
        image, header = np.asarray(units[0].data, float), units[0].header
    plane = image if image.ndim == 2 else image[1]
    stars = bright_stars(truth)
    expected = celestial(header).all_world2pix(of_the_plane(stars), 0)
    off = centroids(plane, expected) - expected
    seen = np.flatnonzero(np.isfinite(off).all(axis=1))[:15]
    assert seen.size >= 8
    # Single stars may be blends; a bright star alone is good to 0.02 px.
    assert np.hypot(*np.median(off[seen], axis=0)) < tolerance_px / 2
    assert np.median(np.hypot(*off[seen].T)) < tolerance_px


@pytest.fixture(scope="module")
def solved(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Night]:
    """Run one simulated mono night, whose lights know their place on the sky, with other settings."""
    folder = tmp_path_factory.mktemp("solved")
    truth = write_session(folder / "in", MONO)
    solve(truth)

    def run(name: str, **options: Any) -> Night:
        plan = wbpy.plan(folder / "in", folder / name, **options)
        return Night(truth, plan, wbpy.run(plan), folder / name)

    return run


def leader_of(night: Night) -> int:
    name = fits.getheader(night.product("integration"))["REFFRAME"]
    return next(number for number, light in enumerate(night.truth.lights) if light.path.name == name)


def corners_on_reference(night: Night) -> list[NDArray[np.float64]]:
    """Return where the corners of each light lie in the reference, from the truth."""
    h, w = night.truth.spec.sensor.height, night.truth.spec.sensor.width
    corners = np.array([(0, 0, 1), (w - 1, 0, 1), (w - 1, h - 1, 1), (0, h - 1, 1)], float).T
    lights = night.truth.lights
    back = [lights[leader_of(night)].transform @ np.linalg.inv(light.transform) @ corners for light in lights]
    return [(points[:2] / points[2]).T for points in back]


# Framing --------------------------------------------------------------------------------------------------------


def test_by_default_the_grid_is_the_references_and_no_step_stands_for_it(solved: Callable[..., Night]):
    night = solved("reference", set=["integrate.maps=coverage"])
    assert fits.getdata(night.product("integration")).shape == (200, 260)
    assert not [step for step in night.plan.steps if step.stage == "framing"]
    assert_on_the_sky(night.product("integration"), night.truth)


def test_a_mosaic_holds_all_lights_and_no_more(solved: Callable[..., Night]):
    night = solved("max", set=["framing.grid=max"])
    assert [step.id for step in night.plan.steps if step.stage == "framing"] == ["framing/registration-Sketch_Nebula"]
    points = np.concatenate(corners_on_reference(night))
    size = np.ceil(np.maximum(points.max(axis=0), (259, 199))) - np.floor(np.minimum(points.min(axis=0), 0)) + 1
    height, width = fits.getdata(night.product("integration")).shape
    # Transforms are good to a tenth of a pixel, so that a corner near a whole number may ask for one pixel more.
    assert abs(width - size[0]) <= 1 and abs(height - size[1]) <= 1
    assert width > 285
    rows, columns = rectangle_of(night.product("integration_autocrop"))
    kept = (rows.stop - rows.start) * (columns.stop - columns.start)
    assert kept < 0.7 * height * width and "CRP002" not in night.finding_ids(), "outside of it few lights reach anyway"
    assert_on_the_sky(night.product("integration"), night.truth)


def test_the_common_part_is_covered_by_every_light(solved: Callable[..., Night]):
    night = solved("min", set=["framing.grid=min", "integrate.maps=coverage"])
    coverage = fits.getdata(night.product("coverage"))
    assert (coverage == 6).all()
    assert coverage.shape[1] < 240 and coverage.shape[0] < 190
    assert_on_the_sky(night.product("integration"), night.truth)


def test_the_centre_of_gravity_lies_in_the_middle_of_the_picture(solved: Callable[..., Night]):
    night = solved("cog", set=["framing.grid=cog"])
    image = fits.getdata(night.product("integration"))
    assert image.shape == (200, 260)
    centre = np.mean([points.mean(axis=0) for points in corners_on_reference(night)], axis=0)
    truth = night.truth.lights[leader_of(night)].transform
    plane = np.linalg.inv(truth) @ [*centre, 1]
    x, y = celestial(fits.getheader(night.product("integration"))).all_world2pix(of_the_plane(plane[None, :2]), 0)[0]
    assert abs(x - 129.5) < 0.6 and abs(y - 99.5) < 0.6, "half a pixel for the whole number of pixels"
    assert_on_the_sky(night.product("integration"), night.truth)


def test_a_mosaic_is_never_larger_than_allowed(solved: Callable[..., Night]):
    night = solved("limited", set=["framing.grid=max", "framing.largest=1.1"])
    assert "FRM001" in night.finding_ids()
    height, width = fits.getdata(night.product("integration")).shape
    assert 1.0 < height * width / (200 * 260) <= 1.1
    assert_on_the_sky(night.product("integration"), night.truth)


def test_filters_of_a_target_share_the_grid(tmp_path: Path):
    spec = replace(MONO, n_lights=3, filters={"R": 3, "B": 3})
    write_session(tmp_path / "in", spec)
    plan = wbpy.plan(tmp_path / "in", tmp_path / "out", set=["framing.grid=max"])
    run = wbpy.run(plan)
    shapes = {fits.getdata(p.path).shape for p in run.products if p.kind == "integration"}
    assert len(shapes) == 1 and shapes != {(200, 260)}


# Place on the sky -----------------------------------------------------------------------------------------------


def test_coordinates_of_another_light_are_carried_over_and_reported(tmp_path: Path):
    truth = write_session(tmp_path / "in", MONO)
    first = wbpy.plan(tmp_path / "in", tmp_path / "out")
    night = Night(truth, first, wbpy.run(first), tmp_path / "out")
    assert "WCS001" not in night.finding_ids(), "no light has coordinates"
    assert "CTYPE1" not in fits.getheader(night.product("integration"))
    other = (leader_of(night) + 3) % 6
    solve(truth, [other])
    plan = wbpy.plan(tmp_path / "in", tmp_path / "out")
    night = Night(truth, plan, wbpy.run(plan), tmp_path / "out")
    found = [f for f in night.run.findings if f.id == "WCS001"]
    assert len(found) == 1 and found[0].evidence["name"] == truth.lights[other].path.name
    # The nights' transforms are similarities, up to what 40 star positions leave of a perspective.
    assert found[0].evidence["error_px"] < 0.1
    assert_on_the_sky(night.product("integration"), truth)


def test_headers_say_when_and_how_long(solved: Callable[..., Night]):
    night = solved("reference", set=["integrate.maps=coverage"])
    header = fits.getheader(night.product("integration"))
    starts = sorted(frame.date_obs for frame in night.plan.frames if frame.role == "light")
    assert header["LIVETIME"] == header["TOTALEXP"] == 6 * 60
    assert header["NCOMBINE"] == header["STACKCNT"] == 6
    first, last = (datetime.fromisoformat(text.removesuffix("Z")) for text in (starts[0], starts[-1]))
    assert datetime.fromisoformat(header["DATE-OBS"]) == first
    assert (datetime.fromisoformat(header["DATE-END"]) - last).total_seconds() == pytest.approx(60)
    # JD 2460939.5 is 2025-09-21, 0 h.
    days = (first - datetime(2025, 9, 21)).total_seconds() / 86400
    assert header["EXPSTART"] == pytest.approx(2460939.5 + days, abs=1e-6)
    assert header["EXPEND"] - header["EXPSTART"] == pytest.approx(
        ((last - first).total_seconds() + 60) / 86400, abs=1e-7
    )
    assert header["ROWORDER"] == "TOP-DOWN"
    product = next(p for p in night.run.products if p.kind == "integration")
    assert product.exposure_total == 360


# Crop -----------------------------------------------------------------------------------------------------------


def rectangle_of(path: Path) -> tuple[slice, slice]:
    header = fits.getheader(path)
    return slice(header["CROPY0"], header["CROPY1"]), slice(header["CROPX0"], header["CROPX1"])


def test_the_crop_keeps_what_three_quarters_of_the_lights_reach(solved: Callable[..., Night]):
    night = solved("reference", set=["integrate.maps=coverage"])
    whole, cropped = night.product("integration"), night.product("integration_autocrop")
    assert cropped.name == "Sketch_Nebula_L_60s_autocrop.fits"
    rows, columns = rectangle_of(cropped)
    np.testing.assert_array_equal(fits.getdata(cropped), fits.getdata(whole)[rows, columns])
    coverage = fits.getdata(night.product("coverage"))
    # 75 % of 6 lights are 4.5, so 5 are asked for.
    assert (coverage[rows, columns] >= 5).all()
    wider = [
        (slice(max(rows.start - 6, 0), rows.stop), columns),
        (slice(rows.start, rows.stop + 6), columns),
        (rows, slice(max(columns.start - 6, 0), columns.stop)),
        (rows, slice(columns.start, columns.stop + 6)),
    ]
    for wide in wider:
        grown = coverage[wide]
        # Four pixels at a light's edges do not count, and the light itself turns by up to 2 degrees.
        assert grown.shape == coverage[rows, columns].shape or (grown < 5).any()
    assert_on_the_sky(cropped, night.truth)
    header = fits.getheader(cropped)
    assert header["WBPYKIND"] == "integration_autocrop" and header["LIVETIME"] == 360
    assert "wbpy crop 2: use=True, coverage=0.75" in list(header["HISTORY"])
    assert header["WBPYKEY"] != fits.getheader(whole)["WBPYKEY"]


def test_the_crop_can_be_switched_off_and_asks_for_the_wanted_coverage(solved: Callable[..., Night]):
    off = solved("off", set=["crop.use=false"])
    assert not [step for step in off.plan.steps if step.stage == "crop"]
    assert not list(off.out.glob("integrations/*autocrop*"))
    sizes = {}
    for share in ("0.2", "1"):
        night = solved(f"share{share}", set=[f"crop.coverage={share}", "integrate.maps=coverage"])
        rows, columns = rectangle_of(night.product("integration_autocrop"))
        sizes[share] = (rows.stop - rows.start) * (columns.stop - columns.start)
        least = fits.getdata(night.product("coverage"))[rows, columns].min()
        assert least >= {"0.2": 2, "1": 6}[share]
    assert sizes["1"] < 0.9 * sizes["0.2"]


def test_much_that_is_cut_off_is_reported(solved: Callable[..., Night]):
    night = solved("share1", set=["crop.coverage=1", "integrate.maps=coverage"])
    rows, columns = rectangle_of(night.product("integration_autocrop"))
    removed = 1 - (rows.stop - rows.start) * (columns.stop - columns.start) / (200 * 260)
    assert removed > 0.3
    found = [f for f in night.run.findings if f.id == "CRP002"]
    assert len(found) == 1 and found[0].evidence["percent"] == pytest.approx(100 * removed)
    assert "CRP002" not in solved("share0.2", set=["crop.coverage=0.2", "integrate.maps=coverage"]).finding_ids()


def test_a_drizzled_picture_is_cropped_alike(tmp_path: Path):
    truth = write_session(tmp_path / "in", replace(MONO, n_lights=4))
    solve(truth)
    plan = wbpy.plan(tmp_path / "in", tmp_path / "out", set=["drizzle.use=true", "drizzle.scale=2"])
    night = Night(truth, plan, wbpy.run(plan), tmp_path / "out")
    plain, fine = night.product("integration_autocrop"), night.product("drizzle_autocrop")
    assert fine.name == "Sketch_Nebula_L_60s_drizzle_2x_autocrop.fits"
    assert [s.start * 2 for s in rectangle_of(plain)] == [s.start for s in rectangle_of(fine)]
    assert [s.stop * 2 for s in rectangle_of(plain)] == [s.stop for s in rectangle_of(fine)]
    np.testing.assert_array_equal(fits.getdata(fine), fits.getdata(night.product("drizzle"))[rectangle_of(fine)])
    assert_on_the_sky(night.product("drizzle"), truth, tolerance_px=0.2)
    assert_on_the_sky(fine, truth, tolerance_px=0.2)
    assert fits.getheader(fine)["DRIZSCAL"] == 2


def test_lights_without_a_common_part_keep_the_reference_grid_and_are_not_cropped(tmp_path: Path):
    """Each light is 135 px of 260 away from the next: two overlap by 125 px, three by nothing."""
    spec = replace(MONO, n_lights=3, n_stars=300, drift_px=(135.0, 0.0), rotation_deg=0.0, dither_px=0.5)
    truth = write_session(tmp_path / "in", spec)
    sets = [f"reference.frame={truth.lights[1].path.name}", "framing.grid=min", "crop.coverage=1"]
    plan = wbpy.plan(tmp_path / "in", tmp_path / "out", set=sets)
    night = Night(truth, plan, wbpy.run(plan), tmp_path / "out")
    product = next(p for p in night.run.products if p.kind == "integration")
    assert product.frames_used == 3, "all lights are registered"
    assert {"FRM002", "CRP001"} <= set(night.finding_ids())
    assert fits.getdata(product.path).shape == (200, 260)
    assert not [p for p in night.run.products if "autocrop" in p.kind]
    assert next(step.outcome for step in night.run.steps if step.id.startswith("crop/")) == "no_work"
    assert night.run.outcome == "done"
    near = wbpy.plan(tmp_path / "in", tmp_path / "out", set=[*sets[:1], "crop.coverage=0.6"])
    assert not {"FRM002", "CRP001"} & {f.id for f in wbpy.run(near).findings}, "two of three lights have a common part"


# Colours --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def filters(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Night]:
    """Run one night of three filters with other settings."""
    folder = tmp_path_factory.mktemp("filters")
    # A sky so dark that every filter needs a pedestal of its own.
    filters = {"L": 3, "R": 3, "G": 3, "B": 3}
    truth = write_session(folder / "in", replace(MONO, filters=filters, drift_px=(2.0, 1.0), sky_e_per_s=0.1))
    solve(truth)

    def run(name: str, **options: Any) -> Night:
        plan = wbpy.plan(folder / "in", folder / name, **options)
        return Night(truth, plan, wbpy.run(plan), folder / name)

    return run


def integration_of(night: Night, word: str, kind: str = "integration") -> NDArray[np.float32]:
    return fits.getdata(next(p.path for p in night.run.products if p.kind == kind and f"_{word}_" in Path(p.path).name))


def test_three_filters_become_one_picture_and_are_cropped_alike(filters: Callable[..., Night]):
    night = filters("rgb", set=["drizzle.use=true", "drizzle.scale=1"])
    kinds = {p.kind for p in night.run.products if p.kind.startswith("rgb")}
    assert kinds == {"rgb", "rgb_autocrop", "rgb_drizzle", "rgb_drizzle_autocrop"}
    for kind in kinds:
        of_filter = kind.removeprefix("rgb_")
        of_filter = {"rgb": "integration", "autocrop": "integration_autocrop"}.get(of_filter, of_filter)
        path = night.product(kind)
        picture, header = fits.getdata(path), fits.getheader(path)
        planes = [integration_of(night, word, of_filter) for word in "RGB"]
        own = pedestals(night, of_filter)
        assert header["PEDESTAL"] == max(own) > min(own)
        shift = (header["PEDESTAL"] - np.array(own)) / 65535
        common = np.all([plane > 0 for plane in planes], axis=0)
        for own, plane, by in zip(picture, planes, shift, strict=True):
            np.testing.assert_allclose(own[common], np.clip(plane[common] + by, 0, 1), atol=1e-7)
            assert (own[~common] == 0).all()
        assert (header["FILTER1"], header["FILTER2"], header["FILTER3"]) == ("R", "G", "B")
        assert header["NCOMBINE"] == 9 and header["LIVETIME"] == 9 * 60
        assert ("CROPX0" in header) == ("autocrop" in kind) and ("DRIZSCAL" in header) == ("drizzle" in kind)
        # A drizzle of three lights leaves holes, in which centroids scatter.
        assert_on_the_sky(path, night.truth, tolerance_px=0.2 if "drizzle" in kind else 0.1)
    assert night.product("rgb").name == "Sketch_Nebula_RGB_60s.fits"
    assert night.product("rgb").with_suffix(".png").is_file()
    product = next(p for p in night.run.products if p.kind == "rgb")
    assert (product.frames_used, product.exposure_total) == (9, 540)
    rectangles = {str(rectangle_of(Path(p.path))) for p in night.run.products if p.kind == "integration_autocrop"}
    assert len(rectangles) == 1, "one rectangle for the four filters"


def pedestals(night: Night, kind: str) -> list[float]:
    paths = [p.path for word in "RGB" for p in night.run.products if p.kind == kind and f"_{word}_" in p.path]
    return [fits.getheader(path).get("PEDESTAL", 0) for path in paths]


def test_other_filters_and_a_luminance_can_be_assigned(filters: Callable[..., Night]):
    sets = ["rgb.red=B", "rgb.green=G", "rgb.blue=B", "rgb.luminance=L", "integrate.pedestal=0"]
    night = filters("lbgb", set=sets)
    path = night.product("rgb")
    assert path.name == "Sketch_Nebula_LBGB_60s.fits"
    picture = fits.getdata(path).astype(float)
    blue, green, light = (integration_of(night, word).astype(float) for word in "BGL")
    kept = (picture > 0).all(axis=0) & (picture < 1).all(axis=0)
    np.testing.assert_allclose((picture[1] - picture[0])[kept], (green - blue)[kept], atol=2e-7)
    np.testing.assert_array_equal(picture[0], picture[2])
    mean = picture.mean(axis=0)[kept]
    # The brightness is the luminance, scaled: rounding to float32 aside they are on one line.
    slope, offset = np.polyfit(light[kept], mean, 1)
    assert np.abs(slope * light[kept] + offset - mean).max() < 1e-6
    assert slope > 0.1
    assert fits.getheader(path)["FILTERL"] == "L"
    assert fits.getheader(path)["NCOMBINE"] == 9, "B once, although it stands for two colours"


def test_a_second_run_reuses_every_picture(filters: Callable[..., Night]):
    night = filters("again")
    before = {path.name: path.read_bytes() for path in night.out.glob("integrations/*.fits")}
    again = filters("again")
    assert {step.outcome for step in again.run.steps if step.id.split("/")[0] in ("crop", "rgb")} == {"reused"}
    for path in night.out.glob("integrations/*autocrop.fits"):
        path.unlink()
    next(night.out.glob("integrations/*_RGB_*.fits")).unlink()
    third = filters("again")
    assert {step.outcome for step in third.run.steps if step.id.split("/")[0] in ("crop", "rgb")} == {"done"}
    assert {path.name: path.read_bytes() for path in night.out.glob("integrations/*.fits")} == before


def test_a_lost_filter_costs_the_picture_in_colour_alone(tmp_path: Path):
    truth = write_session(tmp_path / "in", replace(MONO, filters={"R": 3, "G": 3, "B": 3}, drift_px=(2.0, 1.0)))
    plan = wbpy.plan(tmp_path / "in", tmp_path / "out")
    for light in truth.lights:
        if light.filter_name == "G":
            known = light.path.stat()
            light.path.write_bytes(bytes(known.st_size))
            os.utime(light.path, ns=(known.st_atime_ns, known.st_mtime_ns))
    run = wbpy.run(plan)
    outcomes = {step.id.split("/")[0]: step.outcome for step in run.steps}
    assert outcomes["rgb"] == "blocked" and outcomes["crop"] == "partial"
    assert sum(p.kind == "integration_autocrop" for p in run.products) == 2


# Channels and formats -------------------------------------------------------------------------------------------

COLOUR = replace(
    MONO, seed=32, sensor=Sensor(width=240, height=200, seed=6, cfa="GRBG"), n_lights=4, drift_px=(1.0, 2.0)
)


@pytest.fixture(scope="module")
def colour(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Night]:
    """Run one night of a colour camera with other settings."""
    folder = tmp_path_factory.mktemp("colour")
    truth = write_session(folder / "in", COLOUR)
    solve(truth)

    def run(name: str, **options: Any) -> Night:
        plan = wbpy.plan(folder / "in", folder / name, **options)
        return Night(truth, plan, wbpy.run(plan), folder / name)

    return run


def test_channels_of_a_colour_camera_stand_in_files_of_their_own(colour: Callable[..., Night]):
    night = colour("both", set=["integrate.channels=both"])
    whole, *parts = (Path(p.path) for p in night.run.products if p.kind == "integration")
    assert [path.name for path in parts] == [f"Sketch_Nebula_OSC_60s_{letter}.fits" for letter in "RGB"]
    for number, path in enumerate(parts):
        np.testing.assert_array_equal(fits.getdata(path), fits.getdata(whole)[number])
        header = fits.getheader(path)
        assert header["FILTER"] == "RGB"[number] and header["NAXIS"] == 2
        assert header["WBPYKIND"] == "integration" and header["NCOMBINE"] == 4
        assert_on_the_sky(path, night.truth)
    assert "FILTER" not in fits.getheader(whole)
    assert_on_the_sky(whole, night.truth)
    assert sum(p.kind == "integration_autocrop" for p in night.run.products) == 4
    assert not [step for step in night.plan.steps if step.stage == "rgb"]


def test_channels_alone_take_the_place_of_the_picture_in_colour(colour: Callable[..., Night]):
    night = colour("separate", set=["integrate.channels=separate"])
    made = [Path(p.path).name for p in night.run.products if p.kind == "integration"]
    assert made == [f"Sketch_Nebula_OSC_60s_{letter}.fits" for letter in "RGB"]
    assert not (night.out / "integrations" / "Sketch_Nebula_OSC_60s.fits").exists()
    assert night.run.outcome == "done" and next(p for p in night.run.products if p.measurements).kind == "integration"


def test_xisf_holds_picture_and_maps_with_the_same_keywords(colour: Callable[..., Night]):
    from wbpy.io.headers import load_header
    from wbpy.io.images import open_image

    plain = colour("both", set=["integrate.channels=both", "integrate.maps=coverage"])
    night = colour("xisf", set=["integrate.maps=coverage", "run.format=xisf"])
    path, cropped = night.product("integration"), night.product("integration_autocrop")
    assert path.name == "Sketch_Nebula_OSC_60s.xisf" and cropped.name == "Sketch_Nebula_OSC_60s_autocrop.xisf"
    assert not list(night.out.glob("integrations/*.fits")), "the maps are in the same file"
    reference = fits.getdata(plain.product("integration"))
    with open_image(path) as image:
        np.testing.assert_array_equal(np.stack([image.read(channel=c) for c in range(3)]), reference)
    with open_image(cropped) as image:
        x0, y0 = (load_header(cropped).get(name) for name in ("CROPX0", "CROPY0"))
        inner = reference[0, y0 : y0 + image.height, x0 : x0 + image.width]
        np.testing.assert_array_equal(image.read(), inner)
    ours, theirs = load_header(path), fits.getheader(plain.product("integration"))
    for keyword in ("OBJECT", "NCOMBINE", "LIVETIME", "EXPTIME", "DATE-OBS", "REFFRAME", "CRVAL1", "CRPIX1", "CD1_1"):
        assert ours.get(keyword) == theirs[keyword], keyword
    # PixInsight counts rows of coordinates from the bottom.
    assert ours.get("CRPIX2") == pytest.approx(200 + 1 - theirs["CRPIX2"])
    assert ours.get("CD2_2") == pytest.approx(-theirs["CD2_2"])


def test_another_reader_of_xisf_finds_all_images(colour: Callable[..., Night]):
    xisf = pytest.importorskip("xisf", reason="the package xisf is not installed")
    plain = colour("both", set=["integrate.channels=both", "integrate.maps=coverage"])
    night = colour("xisf", set=["integrate.maps=coverage", "run.format=xisf"])
    file = xisf.XISF(str(night.product("integration")))
    names = [image["id"] for image in file.get_images_metadata()]
    assert names == ["integration", "rejection_low", "rejection_high", "coverage"]
    for number, name in enumerate(names):
        found = np.moveaxis(file.read_image(number), -1, 0)
        np.testing.assert_array_equal(found, fits.getdata(plain.product(name)))
    keywords = file.get_images_metadata()[0]["FITSKeywords"]
    assert keywords["STACKCNT"][0]["value"] == "4"
    assert any("wbpy integrate" in line["comment"] for line in keywords["HISTORY"])


def test_rows_from_the_bottom_are_turned_over_in_xisf_and_kept_in_fits(tmp_path: Path):
    truth = write_session(tmp_path / "in", replace(MONO, n_lights=3, drift_px=(1.0, 1.0)))
    for path in [*(light.path for light in truth.lights), *(p for paths in truth.files.values() for p in paths)]:
        with fits.open(path, mode="update") as units:
            units[0].header["ROWORDER"] = "BOTTOM-UP"
    solve(truth)
    found = {}
    for form in ("fits", "xisf"):
        plan = wbpy.plan(tmp_path / "in", tmp_path / form, set=[f"run.format={form}"])
        found[form] = Night(truth, plan, wbpy.run(plan), tmp_path / form)
    from wbpy.io.headers import load_header
    from wbpy.io.images import open_image
    from wbpy.io.wcs import read_wcs

    plain, turned = found["fits"].product("integration"), found["xisf"].product("integration")
    assert fits.getheader(plain)["ROWORDER"] == "BOTTOM-UP"
    assert_on_the_sky(plain, truth)
    with open_image(turned) as image:
        np.testing.assert_array_equal(image.read(), fits.getdata(plain)[::-1])
    ours, theirs = read_wcs(load_header(plain)), read_wcs(load_header(turned))
    assert ours is not None and theirs is not None
    np.testing.assert_allclose(theirs.upside_down(200).crpix, ours.crpix, atol=1e-9)
    np.testing.assert_allclose(theirs.upside_down(200).cd, ours.cd, atol=1e-15)
