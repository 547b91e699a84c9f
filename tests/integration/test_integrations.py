"""What a run writes beside an integration, and what it says about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits
from conftest import Night

from wbpy.simulate import Sensor, SessionSpec

SPEC = SessionSpec(
    seed=21,
    sensor=Sensor(width=320, height=240, seed=5),
    n_lights=8,
    n_stars=70,
    brightest_e_per_s=6000.0,
    faintest_e_per_s=60.0,
    nebula_e_per_s=0.0,
    n_darks=8,
    n_flats=8,
    n_flat_darks=8,
    n_bias=0,
    dither_px=2.0,
    drift_px=(0.3, 0.2),
    meridian_flip_at=4,
    transparency=(0.7, 1.0),
    sky_gradient=0.4,
    sky_drift=0.1,
    satellites=(2,),
)


@pytest.fixture(scope="module")
def night(run_night: Callable[..., Night]) -> Night:
    sets = [
        "integrate.maps=coverage,variance,weight",
        "integrate.rejection=winsorized",
        "integrate.large_scale_high=true",
        "normalize.local_cell=32",
        "normalize.local_scale=96",
    ]
    return run_night(SPEC, set=sets)


def test_maps_that_were_asked_for_stand_beside_the_integration(night: Night):
    image = fits.getdata(night.product("integration")).astype(np.float64)
    maps = {name: fits.getdata(night.product(name)).astype(np.float64) for name in ("coverage", "variance", "weight")}
    assert all(plane.shape == image.shape for plane in maps.values())
    middle = np.s_[60:180, 80:240]
    assert (maps["coverage"][middle] == 8).all()
    assert maps["coverage"].min() < 8, "dithered lights do not all reach the edges"
    weights = [frame.weight for frame in night.run.frames if frame.role == "light"]
    rejected = fits.getdata(night.product("rejection_low")) + fits.getdata(night.product("rejection_high"))
    full = np.zeros(image.shape, bool)
    full[middle] = rejected[middle] == 0
    np.testing.assert_allclose(maps["weight"][full], sum(weights), rtol=1e-5)
    # The variance map against the scatter of the picture: median over the sky, 8 lights give each pixel's variance
    # with a relative error of sqrt(2 / 7) and the median of a chi-squared of 7 lies 9 % below its mean.
    noise = next(p for p in night.run.products if p.kind == "integration").measurements["noise_dn"]
    assert noise is not None
    assert np.sqrt(np.median(maps["variance"][full]) / 0.907) * 65535 == pytest.approx(noise, rel=0.15)
    headers = {name: fits.getheader(night.product(name)) for name in maps}
    assert [headers[name]["WBPYKIND"] for name in maps] == list(maps)


def test_noise_and_sharpness_are_compared_with_the_best_light_and_the_prediction(night: Night):
    found = next(p for p in night.run.products if p.kind == "integration").measurements
    assert found["snr_gain"] is not None and found["snr_gain_predicted"] is not None
    # Eight lights of transparencies 0.7 to 1 and a brightening sky: between 2 and sqrt(8); rejection costs below 5 %.
    assert 2 < found["snr_gain_predicted"] < np.sqrt(8)
    assert found["snr_gain"] == pytest.approx(found["snr_gain_predicted"], rel=0.1)
    assert found["fwhm_px"] == pytest.approx(float(np.mean(night.truth.fwhm_px)), rel=0.15)
    log = next((night.out / "logs").glob("*.log")).read_text(encoding="utf-8")
    assert "times below that of the best light" in log


def test_the_gradient_that_the_reference_leaves_is_reported(night: Night):
    found = [f for f in night.run.findings if f.id == "NRM003"]
    assert len(found) == 1
    # 40 % across the diagonal of the sky glow, which is nearly all of the background once the dark is off.
    assert found[0].evidence["percent"] == pytest.approx(40, rel=0.4)


def test_the_scale_of_each_light_is_that_of_its_stars(night: Night):
    """Within 1 %: some 20 isolated stars with 1 to 3 % of photon noise each."""
    lights = night.truth.lights
    scales = np.array([night.result(light.path).measurements["scale"] for light in lights], float)
    expected = 1 / np.array([light.transparency for light in lights])
    ratio = scales / expected
    assert np.all(np.abs(ratio / np.median(ratio) - 1) < 0.01)


def test_gradients_that_turned_with_the_meridian_flip_leave_no_seam(night: Night):
    """Rows and columns that only some of the lights reach continue the sky of the others."""
    image = night.pixels("integration")
    coverage = fits.getdata(night.product("coverage"))
    left, inside = image[40:200, 1:4], image[40:200, 8:20]
    assert coverage[40:200, 1:4].mean() < 8
    # Sky of about 150 DN with 40 % of gradient that turned by 180 degrees: 60 DN of difference at the edges.
    assert abs(np.median(left) - np.median(inside)) < 4


def test_the_rejected_share_of_each_light_is_reported(night: Night):
    """The trail of one light covers its share of the frame; the others lose the tails of their noise."""
    shares = [night.result(light.path).measurements["rejected_high"] for light in night.truth.lights]
    trail = night.truth.lights[2].satellite.mean()
    assert all(share is not None for share in shares)
    assert shares[2] > 0.7 * trail
    assert shares[2] > 1.5 * max(share for number, share in enumerate(shares) if number != 2)


def test_lights_that_cannot_be_normalized_locally_are_named_and_kept(run_night: Callable[..., Night]):
    spec = replace(SPEC, n_lights=4, n_darks=4, n_flats=4, n_flat_darks=4, satellites=(), sky_gradient=0.05)
    small = run_night(spec, set=["normalize.local_cell=400"])
    found = [f for f in small.run.findings if f.id == "NRM002"]
    assert len(found) == 4, "the reference too, which would have taken the background of the best"
    assert {f.subject for f in found} <= {str(light.path) for light in small.truth.lights}
    assert next(p for p in small.run.products if p.kind == "integration").frames_used == 4
    assert "NRM003" not in small.finding_ids(), "5 % of gradient are below its limit"
