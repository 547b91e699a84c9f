"""Drizzle integrations as whole runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from conftest import Night

import wbpy
from wbpy.io.headers import load_header
from wbpy.io.images import open_image
from wbpy.simulate import Sensor, SessionSpec, write_session
from wbpy.simulate.dng import XTRANS

SPEC = SessionSpec(
    seed=31,
    sensor=Sensor(width=240, height=200, seed=6),
    n_lights=16,
    n_stars=60,
    brightest_e_per_s=6000.0,
    faintest_e_per_s=100.0,
    nebula_e_per_s=0.0,
    fwhm_px=(1.6, 1.6),
    n_darks=6,
    n_flats=6,
    n_flat_darks=6,
    n_bias=0,
    dither_px=4.0,
    satellites=(3,),
)
COLOUR = dataclasses.replace(SPEC, sensor=dataclasses.replace(SPEC.sensor, cfa="RGGB"), fwhm_px=(2.2, 2.2))


@pytest.fixture(scope="module")
def night(run_night: Callable[..., Night]) -> Night:
    return run_night(SPEC, drizzle=2)


@pytest.fixture(scope="module")
def colour(run_night: Callable[..., Night]) -> Night:
    return run_night(COLOUR, set=["drizzle.use=true", "drizzle.scale=1", "drizzle.kernel=gaussian"])


def test_the_drizzle_stands_beside_the_integration_with_its_weights_and_preview(night: Night):
    picture = fits.getdata(night.product("drizzle"))
    weight = fits.getdata(night.product("drizzle_weight"))
    plain = fits.getdata(night.product("integration"))
    assert picture.shape == weight.shape == (2 * plain.shape[0], 2 * plain.shape[1])
    assert night.product("drizzle").name == night.product("integration").stem + "_drizzle_2x.fits"
    assert night.product("drizzle_preview").suffix == ".png" and night.product("drizzle_preview").stat().st_size > 1000
    used = [f.weight for f in night.run.frames if f.role == "light" and f.weight]
    rejected = fits.getdata(night.product("rejection_low")) + fits.getdata(night.product("rejection_high"))
    # Even coverage gives the sum of the lights' weights; what was rejected is missing.
    expected = sum(used) * (1 - rejected[40:-40, 40:-40].mean())
    assert weight[80:-80, 80:-80].mean() == pytest.approx(expected, rel=0.003)


def test_the_drizzle_shows_the_sky_of_the_integration(night: Night):
    """Sums over 2 x 2 pixels against the pixels of the integration: same level, same fluxes."""
    picture = night.pixels("drizzle")
    plain = night.pixels("integration")
    joined = picture.reshape(plain.shape[0], 2, plain.shape[1], 2).mean(axis=(1, 3))
    inner = np.s_[30:-30, 30:-30]
    quiet = plain < np.median(plain) + 20
    difference = (joined - plain)[inner][quiet[inner]]
    noise = next(p for p in night.run.products if p.kind == "integration").measurements["noise_dn"]
    assert noise is not None
    # Both average the same samples; they differ by how they share them out between neighbours.
    assert abs(np.median(difference)) < 0.1 * noise
    assert np.std(difference) < 1.5 * noise
    total = (joined - np.median(joined))[inner].sum(), (plain - np.median(plain))[inner].sum()
    assert total[0] == pytest.approx(total[1], rel=0.02)


def test_satellites_stay_out_of_the_drizzle(night: Night, run_night: Callable[..., Night]):
    """Along the trail of one light the drizzle is as dark as beside it."""
    light = night.truth.lights[3]
    matrix = np.array(night.result(light.path).transform)
    y, x = np.nonzero(light.satellite)
    inverse = np.linalg.inv(matrix)
    places = np.column_stack([x, y, np.ones(x.size)]) @ inverse.T
    column, row = (np.round((places[:, k] / places[:, 2] + 0.5) * 2 - 0.5).astype(int) for k in (0, 1))
    picture = night.pixels("drizzle")
    inside = (column > 60) & (column < picture.shape[1] - 60) & (row > 60) & (row < picture.shape[0] - 60)
    assert inside.sum() > 50
    values = picture[row[inside], column[inside]]
    noise = next(p for p in night.run.products if p.kind == "integration").measurements["noise_dn"]
    assert noise is not None
    # Far below the trail's own light over the number of lights; some pixels of it hit stars, hence the median.
    assert abs(np.median(values) - np.median(picture[60:-60, 60:-60])) < noise


def test_the_header_says_how_it_was_drizzled_and_how_large_its_pixels_are(night: Night):
    header = fits.getheader(night.product("drizzle"))
    plain = fits.getheader(night.product("integration"))
    assert (header["DRIZSCAL"], header["DRIZFRAC"], header["DRIZKERN"]) == (2, 0.9, "square")
    assert header["XPIXSZ"] == plain["XPIXSZ"] / 2
    assert header["WBPYKIND"] == "drizzle" and header["NCOMBINE"] == 16
    assert fits.getheader(night.product("drizzle_weight"))["WBPYKIND"] == "drizzle_weight"
    told = [line for line in header["HISTORY"] if line.startswith("wbpy drizzle")]
    assert len(told) == 1 and "scale=2" in told[0]
    assert any(line.startswith("wbpy integrate") for line in header["HISTORY"])


@pytest.mark.filterwarnings("ignore::astropy.wcs.FITSFixedWarning")
def test_the_drizzle_lies_where_the_integration_does_on_the_sky_and_in_xisf_too(tmp_path: Path):
    small = dataclasses.replace(SPEC, n_lights=5, n_darks=3, n_flats=3, n_flat_darks=3, satellites=())
    truth = write_session(tmp_path / "in", small)
    for light in truth.lights:
        with fits.open(light.path, mode="update") as units:
            units[0].header.update({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRPIX1": 100.0, "CRPIX2": 90.0})
            units[0].header.update({"CRVAL1": 30.0, "CRVAL2": 40.0, "CD1_1": -5e-4, "CD1_2": 1e-5, "CD2_1": 1e-5})
            units[0].header["CD2_2"] = 5e-4
    run = wbpy.run(tmp_path / "in", tmp_path / "out", drizzle=2)
    made = {product.kind: product.path for product in run.products}
    plain, fine = (WCS(fits.getheader(made[kind])) for kind in ("integration", "drizzle"))
    x, y = np.array([0.0, 17.0, 230.5]), np.array([0.0, 120.0, 33.3])
    np.testing.assert_allclose(
        fine.wcs_pix2world((x + 0.5) * 2 - 0.5, (y + 0.5) * 2 - 0.5, 0), plain.wcs_pix2world(x, y, 0), atol=1e-10
    )
    other = wbpy.run(tmp_path / "in", tmp_path / "xisf", drizzle=2, set="run.format=xisf")
    [path] = [product.path for product in other.products if product.kind == "drizzle"]
    assert path.endswith("_drizzle_2x.xisf")
    with open_image(Path(path)) as image:
        np.testing.assert_array_equal(image.read(), fits.getdata(made["drizzle"]))
    assert not [product for product in other.products if product.kind == "drizzle_weight"]


def test_the_plan_names_files_and_reason_and_counts_bytes_by_the_square_of_the_scale(night: Night, tmp_path: Path):
    step = next(s for s in night.plan.steps if s.stage == "drizzle")
    assert "--drizzle asks for 16 lights" in step.why
    assert [Path(a.path or "").name for a in step.outputs] == [
        night.product(kind).name for kind in ("drizzle", "drizzle_preview", "drizzle_weight")
    ]
    folder = Path(night.plan.inputs[0])
    written = {n: wbpy.plan(folder, tmp_path / str(n), drizzle=n).estimate for n in (0, 1, 2, 4)}
    one, two, four = (written[n].bytes_written - written[0].bytes_written for n in (1, 2, 4))
    bits = 16 * 240 * 200 // 8
    assert (two - bits, four - bits) == (4 * (one - bits), 16 * (one - bits))
    assert written[4].seconds > written[2].seconds
    assert not any(s.stage == "drizzle" for s in wbpy.plan(folder, tmp_path / "no").steps)


def test_a_second_run_reuses_the_drizzle_and_another_scale_makes_it_anew(night: Night):
    again = wbpy.run(night.plan)
    outcomes = {result.id.partition("/")[0]: result.outcome for result in again.steps}
    assert outcomes["drizzle"] == outcomes["integrate"] == "reused"
    finer = wbpy.plan(Path(night.plan.inputs[0]), night.out, set=["drizzle.use=true", "drizzle.scale=3"])
    run = wbpy.run(finer)
    outcomes = {result.id.partition("/")[0]: result.outcome for result in run.steps}
    assert (outcomes["drizzle"], outcomes["integrate"]) == ("done", "reused")
    assert fits.getdata(next(p.path for p in run.products if p.kind == "drizzle")).shape == (600, 720)


def test_an_integration_made_without_drizzle_is_made_again_for_what_it_rejects(run_night: Callable[..., Night]):
    small = dataclasses.replace(SPEC, n_lights=5, n_darks=4, n_flats=4, n_flat_darks=4)
    first = run_night(small)
    before = first.product("integration").read_bytes()
    run = wbpy.run(wbpy.plan(Path(first.plan.inputs[0]), first.out, drizzle=1))
    outcomes = {result.id.partition("/")[0]: result.outcome for result in run.steps}
    assert (outcomes["integrate"], outcomes["drizzle"]) == ("done", "done")
    assert first.product("integration").read_bytes() == before
    assert "DRZ001" not in {f.id for f in run.findings}, "five dithered lights do for scale 1"


def test_without_an_integration_there_is_no_drizzle(monkeypatch: pytest.MonkeyPatch, run_night: Callable[..., Night]):
    """It would take in what the integration was to reject."""
    import wbpy.engine.integrating

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(wbpy.engine.integrating, "_write_integration", full_disk)
    small = dataclasses.replace(SPEC, n_lights=5, n_darks=3, n_flats=3, n_flat_darks=3, satellites=())
    made = run_night(small, drizzle=2)
    outcomes = {result.id.partition("/")[0]: result.outcome for result in made.run.steps}
    assert (outcomes["integrate"], outcomes["drizzle"]) == ("failed", "blocked")
    assert not list(made.out.glob("**/*drizzle*")) and not list((made.out / ".store" / "bits").iterdir())


def test_runs_on_one_two_and_three_workers_give_the_same_bits(colour: Night, tmp_path: Path):
    folder = Path(colour.plan.inputs[0])
    sets = ["drizzle.use=true", "drizzle.scale=1", "drizzle.kernel=gaussian"]
    reference = fits.getdata(colour.product("drizzle")).tobytes(), fits.getdata(colour.product("drizzle_weight"))
    for workers, memory in ((1, "300MB"), (3, "2GB")):
        out = tmp_path / str(workers)
        run = wbpy.run(folder, out, set=sets, workers=workers, memory_limit=memory)
        made = {p.kind: p.path for p in run.products}
        assert fits.getdata(made["drizzle"]).tobytes() == reference[0]
        np.testing.assert_array_equal(fits.getdata(made["drizzle_weight"]), reference[1])


def test_lights_of_a_mosaic_are_drizzled_without_debayering(colour: Night):
    header = fits.getheader(colour.product("drizzle"))
    picture = colour.pixels("drizzle")
    plain = colour.pixels("integration")
    assert picture.shape == plain.shape and len(picture) == 3
    assert (header["DRIZSCAL"], header["DRIZFRAC"], header["DRIZKERN"]) == (1, 1.0, "gaussian")
    inner = np.s_[30:-30, 30:-30]
    noise = next(p for p in colour.run.products if p.kind == "integration").measurements["noise_dn"]
    assert noise is not None
    for c in range(3):
        assert abs(np.median(picture[c][inner]) - np.median(plain[c][inner])) < 0.3 * noise
        # Stars: the sum above the sky, which no debayering or drizzling may change.
        totals = [(plane[c][inner] - np.median(plane[c][inner])).sum() for plane in (picture, plain)]
        assert totals[0] == pytest.approx(totals[1], rel=0.03)


def test_lights_of_an_xtrans_sensor_are_drizzled_by_their_own_pattern(run_night: Callable[..., Night]):
    sensor = dataclasses.replace(SPEC.sensor, cfa=XTRANS)
    spec = dataclasses.replace(COLOUR, sensor=sensor, n_lights=8, n_darks=3, n_flats=3, n_flat_darks=3, satellites=())
    made = run_night(spec, drizzle=1)
    picture, plain = made.pixels("drizzle"), made.pixels("integration")
    inner = np.s_[30:-30, 30:-30]
    noise = next(p for p in made.run.products if p.kind == "integration").measurements["noise_dn"]
    assert noise is not None
    for c in range(3):
        assert abs(np.nanmedian(picture[c][inner]) - np.median(plain[c][inner])) < noise


def test_the_share_of_badly_covered_pixels_is_told(colour: Night, night: Night):
    measured = next(p for p in night.run.products if p.kind == "drizzle").measurements
    assert measured["hole_percent"] == 0.0 and measured["thin_percent"] < 1.0
    assert "DRZ002" not in night.finding_ids()
    log = next((night.out / "logs").glob("*.log")).read_text(encoding="utf-8")
    assert "Where all lights overlap, nothing fell into 0.00 % of the pixels" in log


def test_holes_are_reported_with_their_number(run_night: Callable[..., Night]):
    few = dataclasses.replace(COLOUR, n_lights=6, n_darks=4, n_flats=4, n_flat_darks=4, satellites=())
    made = run_night(few, set=["drizzle.use=true", "drizzle.kernel=point"])
    found = next(f for f in made.run.findings if f.id == "DRZ002")
    # Six lights, one red pixel in four, one pixel of the output in four under a centre: (15/16)^6 are empty.
    assert found.evidence["hole_percent"] == pytest.approx(100 * (15 / 16) ** 6, rel=0.1)
    assert found.evidence["channel"] in ("red", "blue")


def test_dithering_and_number_of_lights_are_checked_before_drizzle(night: Night, run_night: Callable[..., Night]):
    assert "DRZ001" not in night.finding_ids(), "16 dithered lights suffice for scale 2"
    assert "MEA003" not in night.finding_ids(), "no hint at what is done already"
    still = dataclasses.replace(SPEC, dither_px=0.0, drift_px=(0.0, 0.0), satellites=())
    found = next(f for f in run_night(still, drizzle=2).run.findings if f.id == "DRZ001")
    assert found.evidence["lights"] == 16 and found.evidence["covered_percent"] < 20


def test_drizzle_of_well_sampled_stars_is_said_to_gain_nothing(night: Night, run_night: Callable[..., Night]):
    assert "DRZ003" not in night.finding_ids()
    wide = dataclasses.replace(SPEC, fwhm_px=(3.2, 3.2), n_lights=5, n_darks=4, n_flats=4, n_flat_darks=4)
    found = next(f for f in run_night(wide, drizzle=2).run.findings if f.id == "DRZ003")
    assert found.evidence["fwhm_px"] == pytest.approx(3.3, abs=0.3)
    assert "DRZ003" not in {f.id for f in run_night(wide, drizzle=1).run.findings}


@pytest.mark.parametrize("suffix", ["fits", "xisf"])
def test_channels_are_drizzled_into_files_of_their_own(run_night: Callable[..., Night], suffix: str):
    spec = dataclasses.replace(COLOUR, n_lights=6, n_flats=0, n_flat_darks=0, satellites=())
    night = run_night(spec, drizzle=2, set=["integrate.channels=both", f"run.format={suffix}"])
    whole, *parts = (Path(p.path) for p in night.run.products if p.kind == "drizzle")
    stem = "Sketch_Nebula_OSC_60s_drizzle_2x"
    assert [path.name for path in (whole, *parts)] == [f"{stem}{end}.{suffix}" for end in ("", "_R", "_G", "_B")]
    cropped = [Path(p.path).name for p in night.run.products if p.kind == "drizzle_autocrop"]
    assert cropped == [f"{stem}{end}_autocrop.{suffix}" for end in ("", "_R", "_G", "_B")]
    for number, path in enumerate(parts):
        with open_image(path) as part, open_image(whole) as image:
            assert part.channels == 1
            np.testing.assert_array_equal(part.read(), image.read(channel=number))
        header = load_header(path)
        assert header.get("FILTER") == "RGB"[number] and header.get("WBPYKIND") == "drizzle"
        assert header.get("DRIZSCAL") == 2
    assert load_header(whole).get("FILTER") is None
    again = wbpy.run(night.plan)
    assert {p.outcome for p in again.products if p.kind == "drizzle"} == {"reused"}


def test_separate_channels_leave_out_the_drizzle_in_colour(run_night: Callable[..., Night]):
    spec = dataclasses.replace(COLOUR, n_lights=4, n_flats=0, n_flat_darks=0, satellites=())
    night = run_night(spec, drizzle=1, set=["integrate.channels=separate"])
    made = [Path(p.path).name for p in night.run.products if p.kind == "drizzle"]
    assert made == [f"Sketch_Nebula_OSC_60s_drizzle_1x_{letter}.fits" for letter in "RGB"]
    assert not (night.out / "integrations" / "Sketch_Nebula_OSC_60s_drizzle_1x.fits").exists()
    assert fits.getdata(night.product("drizzle_weight")).shape[0] == 3
