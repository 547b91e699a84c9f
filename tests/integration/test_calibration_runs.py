"""Calibration through the whole program: scaled darks, pedestals, statistics, and what header and log say of them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from conftest import Night

import wbpy
from wbpy.simulate import Sensor, SessionSpec, write_session

UNCOOLED = SessionSpec(
    seed=51,
    sensor=Sensor(width=320, height=240, seed=5, dark_e_per_s=0.3, dark_temperature_c=20.0, glow_e_per_s=0.0),
    n_lights=4,
    n_stars=120,
    nebula_e_per_s=0,
    n_darks=9,
    n_flats=6,
    n_flat_darks=6,
    n_bias=9,
    exposure_s=60.0,
    dark_exposures_s=(120.0,),
    temperature_set_c=None,
    temperature_c=20.0,
    temperature_jitter_c=0.0,
)
KEPT = ("run.keep=calibrated", "calibrate.optimize_dark=true")


@pytest.fixture(scope="module")
def night(run_night: Callable[..., Night]) -> Night:
    return run_night(UNCOOLED, set=KEPT)


def kept(night: Night, kind: str = "calibrated") -> list[Path]:
    return sorted((night.out / "frames" / kind).glob("*.fits"))


def log(night: Night) -> str:
    return Path(night.run.log).read_text(encoding="utf-8")


def test_dark_of_twice_the_exposure_is_scaled_by_a_half(night: Night) -> None:
    for light in night.truth.lights:
        numbers = night.result(light.path).measurements
        assert numbers["dark_scale"] == pytest.approx(0.5, rel=0.01)
        assert numbers["dark_scale_error"] < 0.005
    assert not {"CAL005", "CAL006", "CAL007", "CAL008", "CAL009"} & set(night.finding_ids())


def masters_of(night: Night) -> dict[str, np.ndarray]:
    images = {}
    for product in night.run.products:
        if product.kind.startswith("master_"):
            images[product.kind[7:]] = fits.getdata(product.path).astype(np.float64) * 65535.0
    return images


def test_kept_light_is_equation_1_of_the_guide(night: Night) -> None:
    """((L - B) - k (D - B)) / F x s + pedestal in float64, within two float32 steps of the range (1/256 DN each)."""
    masters = masters_of(night)
    flat = np.sort(masters["flat"].ravel())
    cut = int(0.05 * flat.size)
    factor = flat[cut:-cut].mean()
    for path in kept(night):
        with fits.open(path) as units:
            header, found = units[0].header, units[0].data.astype(np.float64) * 65535.0
        light = next(one for one in night.truth.lights if one.path.stem in path.stem)
        raw = fits.getdata(light.path).astype(np.float64)
        signal = (raw - masters["bias"]) - header["DARKSCAL"] * (masters["dark"] - masters["bias"])
        expected = signal / masters["flat"] * factor + header.get("PEDESTAL", 0)
        inside = (expected > 0) & (expected < 65535)
        assert header["FLATF00"] == pytest.approx(factor, rel=1e-6)
        assert np.abs(found - expected)[inside].max() < 2 / 256
        assert header["CALMIN"] == pytest.approx((expected - header.get("PEDESTAL", 0)).min(), abs=0.01)
        assert header["NSTARS"] > 10 and 0 < header["NOISE00"] < 0.01 and 1 < header["FWHM"] < 10


def test_header_and_both_logs_hold_what_was_measured_of_each_light(night: Night) -> None:
    """The values of the guide's section 7.3, in the units of the file as other programs write them."""
    text = log(night)
    events = [json.loads(line) for line in Path(night.run.log).with_suffix(".jsonl").read_text().splitlines()]
    for path in kept(night):
        header = fits.getheader(path)
        light = next(one for one in night.truth.lights if one.path.stem in path.stem)
        numbers = night.result(light.path).measurements
        for keyword, name in (
            ("PSFFLX00", "psf_flux_dn"),
            ("PSFMFL00", "psf_mean_flux_dn"),
            ("PSFMST00", "m_star_dn"),
            ("PSFNST00", "n_star_dn"),
            ("NOISE00", "noise_dn"),
        ):
            assert header[keyword] * 65535 == pytest.approx(numbers[name], rel=1e-6)
        # A flat scaled to its mean leaves the sky of a mean pixel: up to 15 % below that in the middle.
        sky = light.sky_factor * night.truth.scene.sky["L"] * 60 / night.truth.e_per_dn
        assert numbers["m_star_dn"] == pytest.approx(sky, rel=0.15)
        assert header["NOISEA00"] == "mrs" and 0.3 < header["NOISEF00"] == numbers["noise_share"] <= 1
        assert header["DARKTHR"] == numbers["dark_threshold_dn"] > 0
        assert header["DARKNPIX"] == numbers["dark_pixels"] > 100
        assert "PEDESTIN" not in header
        told = {k: v for e in events if e.get("data", {}).get("path") == str(light.path) for k, v in e["data"].items()}
        assert {name: told[name] for name in numbers if name in told} == {n: numbers[n] for n in numbers if n in told}
        assert {"dark_scale", "below_zero", "psf_flux_dn", "noise_method", "mean_dn_mono"} <= set(told)
        data = fits.getdata(light.path)
        assert told["median_dn_mono"] == np.median(data) and told["max_dn_mono"] == data.max()
        assert f"{light.path.name}: mono {data.mean():.6g} {np.median(data):g} " in text
        assert f"{light.path.name}: calibrated to " in text
        assert f"TFlux {numbers['psf_flux_dn']:.5g} DN" in text and f"M* {numbers['m_star_dn']:.2f} DN" in text


def test_a_dark_is_scaled_by_the_exposures_where_that_is_asked_for(tmp_path: Path) -> None:
    """A longer dark is scaled at all only with a finding; by how much is told by the light, or by its exposure."""
    truth = write_session(tmp_path / "in", replace(UNCOOLED, n_lights=2, n_flats=0, n_flat_darks=0))
    plan = wbpy.plan(tmp_path / "in", tmp_path / "out", set=("calibrate.scale_dark=true",))
    assert "MAT011" in [finding.id for finding in plan.findings]
    run = wbpy.run(plan)
    for light in truth.lights:
        numbers = next(f for f in run.frames if f.path == str(light.path)).measurements
        assert numbers["dark_scale"] == 0.5 and numbers["dark_scale_error"] is None
    assert not {"CAL007", "CAL008", "CAL009"} & {finding.id for finding in run.findings}


def test_log_names_masters_threshold_and_factors(night: Night) -> None:
    text = log(night)
    for words in ("Master dark: master_dark", "320 x 240 px", "Dark optimization: threshold", "Flat factors", ", k 0."):
        assert words in text
    events = [
        line for line in Path(night.run.log).with_suffix(".jsonl").read_text().splitlines() if "dark_scale" in line
    ]
    assert len(events) == len(night.truth.lights)


def test_a_dark_is_not_scaled_without_a_bias(tmp_path: Path) -> None:
    write_session(tmp_path / "in", replace(UNCOOLED, n_bias=0, dark_exposures_s=(60.0,), n_lights=2))
    plan = wbpy.plan(tmp_path / "in", tmp_path / "out", set=KEPT)
    assert "CAL005" in [finding.id for finding in plan.findings]
    run = wbpy.run(plan)
    assert run.outcome == "failed" or run.outcome == "partial"
    assert next(s for s in run.steps if s.id.startswith("calibrate")).outcome == "blocked"
    assert not [p for p in run.products if p.kind == "integration"]


def test_a_dark_of_the_exposure_is_used_as_it_is_by_default(tmp_path: Path) -> None:
    write_session(tmp_path / "in", replace(UNCOOLED, dark_exposures_s=(60.0,), n_lights=2))
    plan = wbpy.plan(tmp_path / "in", tmp_path / "out")
    step = next(s for s in plan.steps if s.stage == "calibrate")
    assert "dark" in step.inputs and "bias" not in step.inputs


def rewrite(path: Path, change: Callable[[np.ndarray, fits.Header], np.ndarray]) -> None:
    with fits.open(path) as units:
        data, header = units[0].data, units[0].header.copy()
    data = change(data.astype(np.float64), header)
    for keyword in ("BZERO", "BSCALE"):
        header.remove(keyword, ignore_missing=True)
    fits.writeto(path, np.clip(data, 0, 65535).astype(np.uint16), header, overwrite=True)


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("flats_by", ["flat_dark", "bias"])
def test_a_dark_without_its_bias_is_refused(tmp_path: Path, scaled: bool, flats_by: str) -> None:
    """Scaled or not, and whether this plan makes a master of the bias frames that tell it or not."""
    spec = replace(UNCOOLED, n_lights=2, n_flat_darks=0 if flats_by == "bias" else 6)
    truth = write_session(tmp_path / "in", spec if scaled else replace(spec, dark_exposures_s=(60.0,)))
    for path in truth.files["dark"]:
        rewrite(path, lambda data, header: data - 480)
    plan = wbpy.plan(tmp_path / "in", tmp_path / "out", set=KEPT if scaled else ())
    step = next(step for step in plan.steps if step.stage == "calibrate")
    assert ("bias" in step.inputs) == scaled
    run = wbpy.run(plan)
    found = next(finding for finding in run.findings if finding.id == "CAL006")
    assert found.evidence["dark_dn"] < 0.5 * found.evidence["bias_dn"]
    assert found.evidence["use"] == ("scaled" if scaled else "used as it is")
    assert next(s for s in run.steps if s.id.startswith("calibrate")).outcome == "blocked"
    assert not [p for p in run.products if p.kind == "integration"]


@pytest.mark.parametrize("lowered", [True, False])
def test_a_finished_dark_without_its_bias_is_refused(tmp_path: Path, night: Night, lowered: bool) -> None:
    """Of a library, as other programs write it; the bias of the library tells its level."""
    (tmp_path / "in").mkdir()
    for path in night.truth.files["light"][:2]:
        (tmp_path / "in" / path.name).write_bytes(path.read_bytes())
    for product in night.run.products:
        if product.kind in ("master_dark", "master_bias"):
            data, header = fits.getdata(product.path, header=True)
            below = 480 / 65535 if lowered and product.kind == "master_dark" else 0
            fits.writeto(tmp_path / "in" / Path(product.path).name, np.maximum(data - np.float32(below), 0), header)
    run = wbpy.run(wbpy.plan(tmp_path / "in", tmp_path / "out", set=KEPT))
    assert ("CAL006" in {finding.id for finding in run.findings}) == lowered
    assert bool([p for p in run.products if p.kind == "integration"]) != lowered


@pytest.mark.parametrize("remedy", [False, True])
def test_a_flat_dark_without_its_bias_is_refused(tmp_path: Path, remedy: bool) -> None:
    truth = write_session(tmp_path / "in", replace(UNCOOLED, n_lights=3, dark_exposures_s=(60.0,)))
    for path in truth.files["flat_dark"]:
        rewrite(path, lambda data, header: data - 480)
    options = ("pins.use=flat_dark=none",) if remedy else ()
    run = wbpy.run(wbpy.plan(tmp_path / "in", tmp_path / "out", set=options))
    flat = next(s for s in run.steps if s.id.startswith("masters/flat-"))
    if remedy:
        assert flat.outcome == "done" and [p for p in run.products if p.kind == "integration"]
        return
    found = next(finding for finding in run.findings if finding.id == "CAL006")
    assert (found.subject, found.evidence["use"]) == (flat.id, "subtracted from flats")
    assert flat.outcome == "blocked" and not [p for p in run.products if p.kind == "integration"]


def test_without_a_dark_the_remedy_of_a_refused_one_calibrates_the_lights(tmp_path: Path) -> None:
    truth = write_session(tmp_path / "in", replace(UNCOOLED, n_lights=3, dark_exposures_s=(60.0,)))
    for path in truth.files["dark"]:
        rewrite(path, lambda data, header: data - 480)
    run = wbpy.run(wbpy.plan(tmp_path / "in", tmp_path / "out", set=("pins.use=dark=none",)))
    assert "CAL006" not in {finding.id for finding in run.findings}
    assert [p for p in run.products if p.kind == "integration"]


@pytest.mark.parametrize("with_bias", [True, False])
def test_darks_of_a_camera_without_offset_are_used(tmp_path: Path, with_bias: bool) -> None:
    """Such cameras cut their noise at zero themselves; nothing was subtracted twice, and what is lost is reported."""
    sensor = replace(UNCOOLED.sensor, offset_dn=0.0, dark_e_per_s=0.002)
    spec = replace(UNCOOLED, sensor=sensor, n_lights=3, dark_exposures_s=(60.0,), n_bias=5 if with_bias else 0)
    write_session(tmp_path / "in", spec)
    run = wbpy.run(wbpy.plan(tmp_path / "in", tmp_path / "out"))
    ids = {finding.id for finding in run.findings}
    assert "CAL006" not in ids and "CHK005" in ids
    assert [p for p in run.products if p.kind == "integration"]


def test_lights_without_dark_signal_are_reported(tmp_path: Path) -> None:
    """Lights of a sensor so cold that it has none; the factor is known to 0.001, the limit is 0.005."""
    truth = write_session(tmp_path / "in", replace(UNCOOLED, n_lights=2))
    cold = replace(UNCOOLED.sensor, dark_e_per_s=1e-6)
    for ours, theirs in zip(
        truth.files["light"],
        write_session(tmp_path / "cold", replace(UNCOOLED, n_lights=2, sensor=cold)).files["light"],
        strict=True,
    ):
        ours.write_bytes(theirs.read_bytes())
    run = wbpy.run(wbpy.plan(tmp_path / "in", tmp_path / "out", set=KEPT))
    found = {finding.id: finding for finding in run.findings}
    assert found["CAL007"].evidence["frames"] == 2 and found["CAL007"].evidence["factor"] <= 0.005
    assert "CAL008" not in found


@pytest.mark.parametrize(("claimed", "reported"), [(70.0, False), (290.0, True)])
def test_factor_far_from_the_exposures_is_reported(tmp_path: Path, claimed: float, reported: bool) -> None:
    """The factor is a half; 60 s over 70 s is less than twice that, 60 s over 290 s less than half of it."""
    truth = write_session(tmp_path / "in", replace(UNCOOLED, n_lights=2))

    def claim(data: np.ndarray, header: fits.Header) -> np.ndarray:
        header["EXPTIME"] = header["EXPOSURE"] = claimed
        return data

    for path in truth.files["dark"]:
        rewrite(path, claim)
    run = wbpy.run(wbpy.plan(tmp_path / "in", tmp_path / "out", set=KEPT))
    assert ("CAL008" in {finding.id for finding in run.findings}) == reported


def test_pedestal_of_the_header_is_taken_off(tmp_path: Path, night: Night) -> None:
    """The lights carry 100 DN more and say so: the calibrated frames are those of the night without."""
    truth = write_session(tmp_path / "in", UNCOOLED)
    for path in truth.files["light"]:
        rewrite(path, lambda data, header: (header.set("PEDESTAL", 100), data + 100)[1])
    out = tmp_path / "out"
    run = wbpy.run(wbpy.plan(tmp_path / "in", out, set=KEPT))
    assert "pedestal of 100 DN taken off" in Path(run.log).read_text(encoding="utf-8")
    for ours, theirs in zip(sorted((out / "frames/calibrated").glob("*.fits")), kept(night), strict=True):
        assert fits.getheader(ours)["PEDESTIN"] == 100
        a, b = fits.getdata(ours).astype(np.float64), fits.getdata(theirs).astype(np.float64)
        bright = (a < 0.9) & (b > 1e-3)
        assert np.abs(a - b)[bright].max() * 65535 < 2 / 256


def test_pedestal_of_all_dark_frames_stays_in_the_master_and_in_its_header(tmp_path: Path, night: Night) -> None:
    truth = write_session(tmp_path / "in", UNCOOLED)
    for path in (*truth.files["dark"], *truth.files["bias"][:4]):
        rewrite(path, lambda data, header: (header.set("PEDESTAL", 100), data + 100)[1])
    out = tmp_path / "out"
    run = wbpy.run(wbpy.plan(tmp_path / "in", out, set=KEPT))
    for product in run.products:
        if product.kind in ("master_dark", "master_bias"):
            with fits.open(product.path) as units:
                level = float(np.median(units[0].data)) * 65535.0
                plain = float(np.median(masters_of(night)[product.kind[7:]]))
                assert units[0].header["PEDESTAL"] == 100
                assert level == pytest.approx(plain + 100, abs=0.2)
    for light in night.truth.lights:
        ours = next(f for f in run.frames if Path(f.path).name == light.path.name)
        assert ours.measurements["background_dn"] == pytest.approx(
            night.result(light.path).measurements["background_dn"], abs=0.05
        )


def test_dead_columns_too_little_dark_signal_odd_frames_and_many_defects_are_each_reported(
    tmp_path: Path, night: Night
) -> None:
    """One night with five faults, each of which the good night, with the same settings otherwise, does not have."""
    faults = {"CAL001", "CAL004", "CAL009", "COS001", "MAS003"}
    assert not faults & set(night.finding_ids())
    sensor = replace(UNCOOLED.sensor, bad_columns=(37,))
    truth = write_session(tmp_path / "in", replace(UNCOOLED, sensor=sensor, n_lights=2, sky_e_per_s=0.02))
    rewrite(truth.files["bias"][3], lambda data, header: data + 100)
    options = (
        "calibrate.optimize_window=16",
        "calibrate.pedestal=0",
        "cosmetic.dark_by=share",
        "cosmetic.dark_share=0.03",
    )
    run = wbpy.run(wbpy.plan(tmp_path / "in", tmp_path / "out", set=(*KEPT, *options)))
    found = {finding.id: finding for finding in run.findings}
    assert faults <= set(found)
    # A column without response is left with the noise of the flats, about half of it below zero.
    assert found["CAL001"].evidence["pixels"] == pytest.approx(120, abs=50)
    assert found["CAL004"].evidence["percent"] > 0.1
    # Two lights of 256 pixels; a threshold of three sigma leaves none of them.
    assert found["CAL009"].evidence["frames"] == 2 and found["CAL009"].evidence["factor"] == 0.5
    assert found["COS001"].evidence["percent"] == pytest.approx(3, abs=0.3)
    assert found["MAS003"].subject == str(truth.files["bias"][3])


FAINT = replace(UNCOOLED, sky_e_per_s=0.02, n_lights=2)


def test_automatic_pedestal_leaves_the_allowed_share_below_zero(tmp_path: Path) -> None:
    write_session(tmp_path / "in", FAINT)
    out = tmp_path / "out"
    run = wbpy.run(wbpy.plan(tmp_path / "in", out, set=KEPT))
    for path in (out / "frames/calibrated").glob("*.fits"):
        with fits.open(path) as units:
            cut = np.count_nonzero(units[0].data == 0) / units[0].data.size
            pedestal = units[0].header["PEDESTAL"]
            # One DN less would cut more than is allowed: the share is met within one DN.
            less = np.count_nonzero(units[0].data <= 1.0 / 65535) / units[0].data.size
        assert pedestal > 5
        assert cut <= 0.001 < less
    assert "calibrated.fits: pedestal" in Path(run.log).read_text(encoding="utf-8")
    assert "CAL004" not in {finding.id for finding in run.findings}


def test_literal_pedestal_is_added_and_pixels_are_not_made_anew(tmp_path: Path) -> None:
    write_session(tmp_path / "in", FAINT)
    out = tmp_path / "out"
    wbpy.run(wbpy.plan(tmp_path / "in", out, set=(*KEPT, "calibrate.pedestal=0")))
    first = {p.name: fits.getdata(p) for p in (out / "frames/calibrated").glob("*.fits")}
    images = set((out / ".store" / "image").iterdir()) | set((out / ".store" / "mended").iterdir())
    run = wbpy.run(wbpy.plan(tmp_path / "in", out, set=(*KEPT, "calibrate.pedestal=200")))
    assert images == set((out / ".store" / "image").iterdir()) | set((out / ".store" / "mended").iterdir())
    assert "CHK004" not in {finding.id for finding in run.findings}
    for path in (out / "frames/calibrated").glob("*.fits"):
        assert fits.getheader(path)["PEDESTAL"] == 200
        difference = (fits.getdata(path).astype(np.float64) - first[path.name])[first[path.name] > 0] * 65535
        assert difference == pytest.approx(200, abs=2 / 256)


def test_a_pedestal_that_costs_range_is_reported_once(tmp_path: Path, night: Night) -> None:
    out = tmp_path / "out"
    run = wbpy.run(wbpy.plan(night.out.parent / "in", out, set=(*KEPT, "calibrate.pedestal=3000")))
    found = [finding for finding in run.findings if finding.id == "CHK004"]
    assert len(found) == 1
    assert found[0].evidence["pedestal_dn"] == 3000 and found[0].evidence["frames"] == len(night.truth.lights)
    assert found[0].evidence["needed_dn"] < 100


def test_statistics_of_every_frame_stand_in_a_table_for_each_group(night: Night) -> None:
    tables = sorted((night.out / "statistics").glob("*.csv"))
    rows = [row for table in tables for row in csv.DictReader(table.read_text(encoding="utf-8").splitlines())]
    assert {row["file"] for row in rows} >= {str(p) for files in night.truth.files.values() for p in files}
    for row in rows[::7]:
        data = fits.getdata(row["file"]).astype(np.float64)
        assert float(row["mean_dn"]) == pytest.approx(data.mean(), abs=0.001)
        assert float(row["median_dn"]) == np.median(data)
        assert float(row["mad_dn"]) == np.median(np.abs(data - np.median(data)))
        assert (float(row["min_dn"]), float(row["max_dn"])) == (data.min(), data.max())
        assert int(row["high_count"]) == np.count_nonzero(data >= 60000)
        assert int(row["zero_count"]) == np.count_nonzero(data <= 0)


@pytest.mark.parametrize("rejection", ["none", "winsorized"])
def test_the_rejection_of_masters_can_be_set_and_its_share_is_shown(tmp_path: Path, rejection: str) -> None:
    few = replace(UNCOOLED, n_lights=1, n_flats=0, n_flat_darks=0, n_darks=0, cosmic_rays=0)
    truth = write_session(tmp_path / "in", few)
    hit = truth.files["bias"][2]
    rewrite(hit, lambda data, header: data + 1000 * (np.arange(data.size).reshape(data.shape) % 997 == 5))
    run = wbpy.run(wbpy.plan(tmp_path / "in", tmp_path / "out", set=(f"masters.rejection={rejection}",)))
    master = next(p.path for p in run.products if p.kind == "master_bias")
    pixels = fits.getdata(master).astype(np.float64).ravel()[5::997] * 65535
    # Nine frames, one of which is 1000 DN too bright in these pixels: 111 DN of it stay, or none.
    assert np.median(pixels) == pytest.approx(500 + (111 if rejection == "none" else 0), abs=6)
    share = next(f for f in run.frames if f.path == str(hit)).measurements["rejected_high"]
    assert share == 0 if rejection == "none" else share > 0.001
    assert any(f"rejection={rejection}" in line for line in fits.getheader(master)["HISTORY"])
    assert "% of a frame: master_bias" in Path(run.log).read_text(encoding="utf-8")


def test_masters_report_the_noise_that_their_frames_leave(night: Night) -> None:
    """Read noise 2.5 e- and rounding give 3.14 DN a frame; nine frames leave a third of it."""
    sensor = UNCOOLED.sensor
    single = np.sqrt(sensor.read_variance_e2) / sensor.e_per_dn
    header = fits.getheader(next(p.path for p in night.run.products if p.kind == "master_bias"))
    assert header["FRMNOISE"] == pytest.approx(single, rel=0.05)
    assert header["EXPNOISE"] == pytest.approx(single / 3, rel=0.05)
    assert header["MSTNOISE"] == pytest.approx(single / 3, rel=0.1)
    assert "MAS004" not in night.finding_ids()
    assert "raise it by" in log(night)


def test_master_of_frames_with_a_drifting_pattern_is_reported(tmp_path: Path) -> None:
    truth = write_session(tmp_path / "in", replace(UNCOOLED, n_lights=2))
    pattern = np.random.default_rng(1).normal(0, 6, (240, 320))
    for number, path in enumerate(sorted(truth.files["bias"])):
        # Every other frame shows the pattern, as interference that comes and goes.
        rewrite(path, lambda data, header, on=number % 2: data + on * pattern)
    run = wbpy.run(wbpy.plan(tmp_path / "in", tmp_path / "out", set=KEPT))
    assert [f.subject for f in run.findings if f.id == "MAS004"] == [s.id for s in run.steps if "/bias" in s.id]


def test_a_second_run_takes_the_calibration_from_the_store(night: Night) -> None:
    run = wbpy.run(wbpy.plan(night.out.parent / "in", night.out, set=KEPT))
    assert next(s for s in run.steps if s.id.startswith("calibrate")).outcome == "reused"
    for light in night.truth.lights:
        ours = next(f for f in run.frames if f.path == str(light.path))
        assert ours.measurements == night.result(light.path).measurements


def test_listed_pixels_are_replaced_and_counted(tmp_path: Path, night: Night) -> None:
    listed = tmp_path / "defects.txt"
    listed.write_text("Col 100\nPixel 500 3\n")
    options = ("run.keep=calibrated,cosmetic", "calibrate.optimize_dark=true", f"cosmetic.lists={listed}")
    out = tmp_path / "out"
    run = wbpy.run(wbpy.plan(night.out.parent / "in", out, set=options))
    for before, after in zip(kept(night), sorted((out / "frames/cosmetic").glob("*.fits")), strict=True):
        a, b = fits.getdata(before), fits.getdata(after)
        pedestals = fits.getheader(after).get("PEDESTAL", 0) - fits.getheader(before).get("PEDESTAL", 0)
        assert np.mean(np.abs(a[:, 100] + pedestals / 65535 - b[:, 100]) > 1e-7) > 0.9
    assert "CAL002" not in (found := {f.id for f in run.findings}) and "COS002" in found
    assert "(mono " in Path(run.log).read_text(encoding="utf-8")


def test_missing_defect_list_blocks_the_lights(tmp_path: Path, night: Night) -> None:
    options = (*KEPT, f"cosmetic.lists={tmp_path / 'nowhere.txt'}")
    run = wbpy.run(wbpy.plan(night.out.parent / "in", tmp_path / "out", set=options))
    assert next(s for s in run.steps if s.id.startswith("calibrate")).outcome == "blocked"
    assert next(f for f in run.findings if f.id == "COS003").severity == "error"


LINES = replace(UNCOOLED, n_lights=6, dark_exposures_s=(60.0,), dither_px=6.0)


def test_defective_lines_are_found_among_the_lights_and_corrected(tmp_path: Path) -> None:
    """A column that adds 40 DN to lights of about 20 DN of noise; six lights show it at 8 DN, 240 pixels at 0.6."""
    truth = write_session(tmp_path / "in", LINES)

    def spoil(data: np.ndarray, header: fits.Header) -> np.ndarray:
        data[:, 150] += 40
        data[80:, 220] += 40
        return data

    for path in truth.files["light"]:
        rewrite(path, spoil)
    shifts = {}
    for use in ("false", "true"):
        out = tmp_path / use
        options = ("run.keep=cosmetic", f"linedefects.use={use}", "cosmetic.hot_sigma=0", "cosmetic.cold_sigma=0")
        plan = wbpy.plan(tmp_path / "in", out, set=options)
        assert any(step.stage == "linedefects" for step in plan.steps) == (use == "true")
        run = wbpy.run(plan)
        assert run.outcome == "done"
        seen = [f.evidence["worst"] for f in run.findings if f.id == "CHK033"]
        assert seen == (["column 150"] if use == "false" else [])
        images = [fits.getdata(path).astype(np.float64) * 65535 for path in sorted((out / "frames/cosmetic").glob("*"))]
        beside = [np.median((image[:, 149] + image[:, 151]) / 2) for image in images]
        shifts[use] = np.mean([np.median(image[:, 150]) - b for image, b in zip(images, beside, strict=True)])
    # The flat divides the 40 DN by 0.8 to 1; six lights of 240 pixels tell the rest to 1 DN.
    assert 30 < shifts["false"] < 60 and abs(shifts["true"]) < 4
    text = Path(run.log).read_text(encoding="utf-8")
    assert "2 defective lines" in text and "column 150 (0 to 239)" in text
    assert not {f.id for f in run.findings if f.id.startswith("LIN")}
    # The same lines from a list, of which one entry lies beside the frame.
    listed = tmp_path / "lines.txt"
    listed.write_text("# LinearDefectDetection\nCol 150\nCol 220 80 239\nRow 700\n")
    out = tmp_path / "listed"
    options = ("run.keep=cosmetic", "linedefects.use=true", "linedefects.search=false", f"linedefects.lists={listed}")
    run = wbpy.run(wbpy.plan(tmp_path / "in", out, set=(*options, "cosmetic.hot_sigma=0", "cosmetic.cold_sigma=0")))
    assert [f.evidence["entries"] for f in run.findings if f.id == "LIN003"] == [1]
    corrected = [
        [fits.getdata(p) for p in sorted((one / "frames/cosmetic").glob("*"))] for one in (out, tmp_path / "true")
    ]
    difference = np.abs(np.subtract(*corrected, dtype=np.float64)) * 65535
    # The list knows where the partial column begins; the search finds that to a fifth of its window.
    assert difference[:, :, 220].max() > 30 and difference[:, 90:, 220].max() < 2
    # Defects beside it are replaced by neighbours that lie in it.
    difference[:, :, 217:224] = 0
    assert difference.max() == 0


def test_list_of_lines_that_cannot_be_read_blocks_the_lights(tmp_path: Path, night: Night) -> None:
    listed = tmp_path / "lines.txt"
    listed.write_text("Pixel 3 4\n")
    options = (*KEPT, "linedefects.use=true", f"linedefects.lists={listed}")
    run = wbpy.run(wbpy.plan(night.out.parent / "in", tmp_path / "out", set=options))
    found = next(f for f in run.findings if f.id == "LIN002")
    assert found.severity == "error" and "line 1" in found.message
    assert next(s for s in run.steps if s.id.startswith("calibrate")).outcome == "blocked"


def test_lights_with_a_pattern_of_lines_are_reported(tmp_path: Path) -> None:
    """Every ninth column is brighter in the lights alone: that is banding, not a number of defects."""
    truth = write_session(tmp_path / "in", replace(LINES, n_lights=3))

    def band(data: np.ndarray, header: fits.Header) -> np.ndarray:
        data[:, 4::9] += 60
        return data

    for path in truth.files["light"]:
        rewrite(path, band)
    run = wbpy.run(wbpy.plan(tmp_path / "in", tmp_path / "out", preset="ccd"))
    found = next(f for f in run.findings if f.id == "LIN001")
    # 35 of 320 columns and 240 rows; the limit of 5 % is 28.
    assert found.evidence["lines"] >= 30
