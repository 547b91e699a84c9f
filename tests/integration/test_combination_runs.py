"""Parameters of normalization and combination from the command line to the pixels of the products."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from astropy.io import fits
from numpy.typing import NDArray

import wbpy
from wbpy.model import Run
from wbpy.simulate import Sensor, SessionSpec, Truth, write_session
from wbpy.stages import normalize

SPEC = SessionSpec(
    seed=33,
    sensor=Sensor(width=320, height=256, seed=7),
    n_lights=6,
    n_stars=90,
    brightest_e_per_s=3000.0,
    faintest_e_per_s=40.0,
    nebula_e_per_s=0.0,
    n_darks=4,
    n_flats=4,
    n_flat_darks=4,
    n_bias=0,
    dither_px=1.5,
    drift_px=(0.0, 0.0),
    fwhm_px=(2.2, 4.0),
    transparency=(0.7, 1.0),
    sky_gradient=0.3,
    meridian_flip_at=3,
    sky_drift=0.1,
)
INNER = np.s_[30:-30, 30:-30]


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    return write_session(tmp_path_factory.mktemp("combined") / "in", SPEC)


@pytest.fixture(scope="module")
def plains(session: Truth, tmp_path_factory: pytest.TempPathFactory) -> dict[str, NDArray[np.float64]]:
    """The integration by each of two methods with all else as it comes."""
    return {
        method: made(session, tmp_path_factory.mktemp(method), f"normalize.method={method}")[1]
        for method in ("local", "additive_scaling")
    }


def made(session: Truth, tmp_path: Path, *sets: str) -> tuple[Run, NDArray[np.float64]]:
    run = wbpy.run(wbpy.plan(session.lights[0].path.parents[1], tmp_path / "out", set=list(sets)))
    assert run.outcome == "done"
    return run, pixels(run, "integration")


def pixels(run: Run, kind: str) -> NDArray[np.float64]:
    path = next(product.path for product in run.products if product.kind == kind)
    with fits.open(path) as units:
        scale = 65535 if kind == "integration" else 65535**2 if kind.startswith("variance") else 1
        return np.asarray(units[0].data, np.float64) * scale - units[0].header.get("PEDESTAL", 0)


def test_smallest_median_mean_and_largest_stand_in_their_order(session: Truth, tmp_path: Path):
    results = {
        name: made(session, tmp_path / name, f"integrate.combination={name}", "integrate.rejection=none")[1]
        for name in ("min", "median", "mean", "max")
    }
    low, middle, mean, high = (results[name][INNER] for name in ("min", "median", "mean", "max"))
    assert (low <= middle).all() and (middle <= high).all() and (low <= mean).all() and (mean <= high).all()
    spread = np.median(high - low)
    # The range of six samples is 2.53 sigma, mean and median scatter by 0.41 and 0.52.
    noise = spread / 2.53
    assert np.median(np.abs(mean - middle)) < 0.5 * noise
    assert 0.8 * noise < np.median(mean - low) < 1.8 * noise


def test_variance_maps_agree_with_each_other_and_with_the_noise(session: Truth, tmp_path: Path):
    sets = "integrate.maps=variance,variance_expected", "integrate.interpolation=nearest", "integrate.rejection=none"
    run, image = made(session, tmp_path, *sets)
    scatter, expected = pixels(run, "variance")[INNER], pixels(run, "variance_expected")[INNER]
    sky = np.abs(image[INNER] - np.median(image)) < 3 * np.sqrt(np.median(expected))
    # The median of a variance of six samples lies 13 % below its mean (chi-squared of 5), that over 30,000 pixels is
    # good to 0.6 %; the noise of each light, measured among stars, to 3 %, its square to 6 %.
    assert np.median(scatter[sky]) / 0.8703 == pytest.approx(np.median(expected[sky]), rel=0.1)
    header = fits.getheader(next(p.path for p in run.products if p.kind == "variance_expected"))
    assert header["WBPYKIND"] == "variance_expected"
    # On stars the photons of the star count too.
    star = image[INNER] > np.percentile(image[INNER], 99.8)
    assert np.median(expected[star]) > 2 * np.median(expected[sky])


@pytest.mark.parametrize(
    "sets",
    [
        ("normalize.method=adaptive", "normalize.adaptive_cells=6"),
        ("normalize.method=additive_scaling", "normalize.scale=bwmv", "normalize.two_sided=true"),
        ("normalize.method=additive_scaling", "normalize.scale=ikss"),
        ("normalize.method=additive_scaling", "normalize.rejection=equalize"),
        ("normalize.local_reference=frame",),
        ("normalize.local_reference_frames=5",),
        ("integrate.seeing_tolerance=0", "integrate.rejection=percentile"),
    ],
    ids=lambda sets: " ".join(one.partition(".")[2] for one in sets),
)
def test_each_way_to_normalize_changes_the_pixels_and_keeps_the_level(
    session: Truth, plains: dict[str, NDArray[np.float64]], tmp_path: Path, sets: tuple[str, ...]
):
    plain = plains["additive_scaling" if "additive_scaling" in sets[0] else "local"]
    run, image = made(session, tmp_path / "other", *sets)
    difference = image[INNER] - plain[INNER]
    assert np.count_nonzero(difference) > 100
    level = np.median(plain[INNER])
    assert np.median(image[INNER]) == pytest.approx(level, rel=0.1)
    assert not [finding for finding in run.findings if finding.severity == "error" or finding.id == "NRM002"]


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (("normalize.two_sided=true",), "two_sided needs normalize.method"),
        (("normalize.two_sided=true", "normalize.method=additive_scaling"), "they are additive_scaling and stars"),
        (("normalize.method=adaptive", "drizzle.use=true"), "takes one scale"),
    ],
)
def test_two_sides_where_there_is_one_are_refused_before_any_pixel_is_read(
    session: Truth, tmp_path: Path, sets: tuple[str, ...], message: str
):
    with pytest.raises(wbpy.errors.ConfigError, match=message):
        wbpy.plan(session.lights[0].path.parents[1], tmp_path / "out", set=list(sets))


def test_the_log_names_the_frames_whose_background_all_take(session: Truth, tmp_path: Path):
    made(session, tmp_path)
    log = next((tmp_path / "out" / "logs").glob("*.log")).read_text(encoding="utf-8")
    line = next(line for line in log.splitlines() if "Backgrounds follow the 3 best lights together" in line)
    assert sum(light.path.name in line for light in session.lights) == 3


def test_backgrounds_that_another_version_measured_are_not_used(
    session: Truth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    calls = []
    measured = normalize.sketch
    monkeypatch.setattr(normalize, "sketch", lambda *args: calls.append(args[1].shape) or measured(*args))
    plan = wbpy.plan(session.lights[0].path.parents[1], tmp_path / "out")
    wbpy.run(plan)
    size = 256, 320
    assert calls.count(size) == 6
    calls.clear()
    wbpy.run(plan)
    assert size not in calls, "what stands in the store serves again"
    steps = tuple(
        msgspec.structs.replace(step, version=step.version + 1) if step.stage == "normalize" else step
        for step in plan.steps
    )
    wbpy.run(msgspec.structs.replace(plan, steps=steps))
    assert calls.count(size) == 6
