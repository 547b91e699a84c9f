"""Colours against the truth: methods of debayering on dithered lights, nights of X-Trans sensors, superpixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pytest
from conftest import Night
from numpy.typing import NDArray

from wbpy.kernels import stars, warp
from wbpy.kernels.debayer import bilinear, rcd
from wbpy.kernels.guided import guided
from wbpy.simulate import Psf, Sensor, SessionSpec
from wbpy.simulate.dng import XTRANS

Planes = NDArray[np.float64]

# --------------------------------------------------------------------------------------------------------------
# methods side by side, on frames that are shifted and nothing else

SIDE, MARGIN = 240, 12
SKY = np.array([120.0, 200.0, 140.0])
READ = 3.0
BAYER = np.array([[0, 1], [1, 2]], np.uint8)


@dataclass(frozen=True)
class Field:
    """Stars of many colours on a grid, each a little off its node."""

    x: Planes
    y: Planes
    flux: Planes

    def picture(self, fwhm: float, dx: float, dy: float, side: int) -> Planes:
        """Return (3, side, side) e- of a frame in which the field lies at (dx, dy): Moffat profiles of beta 4."""
        alpha = fwhm / 2 / np.sqrt(2**0.25 - 1)
        picture = np.zeros((3, side, side)) + SKY[:, None, None]
        y, x = np.indices((side, side), dtype=np.float64)
        for star_x, star_y, flux in zip(self.x + dx, self.y + dy, self.flux.T, strict=True):
            box = np.s_[max(0, int(star_y) - 14) : int(star_y) + 15, max(0, int(star_x) - 14) : int(star_x) + 15]
            profile = (1 + ((x[box] - star_x) ** 2 + (y[box] - star_y) ** 2) / alpha**2) ** -4
            picture[(slice(None), *box)] += flux[:, None, None] * profile * 3 / (np.pi * alpha**2)
        return picture


def make_field(rng: np.random.Generator) -> Field:
    nodes = np.arange(24, SIDE - 16, 32.0)
    x, y = (grid.ravel() + rng.uniform(-3, 3, nodes.size**2) for grid in np.meshgrid(nodes, nodes))
    flux, colour = 10 ** rng.uniform(4.3, 5.0, x.size), rng.normal(0, 0.5, x.size)
    return Field(x, y, np.stack([0.8 * flux * np.exp(colour), flux, 0.7 * flux * np.exp(-0.8 * colour)]))


@dataclass(frozen=True)
class Figures:
    """Of one colour of a stack."""

    scatter: float
    """Standard deviation of the stars' flux over the truth within two FWHM, %."""
    core: float
    """The same within one FWHM."""
    noise: float
    """Of means over 4 x 4 pixels of sky, e-."""
    width: float
    """FWHM over the true one."""


@pytest.fixture(scope="module")
def stacks() -> dict[str, list[Figures]]:
    """Twelve dithered frames of seeing 2.6 px, debayered by each method, resampled and averaged."""
    fwhm, count = 2.6, 12
    rng = np.random.default_rng(7)
    field = make_field(rng)
    methods = {"guided": guided, "rcd": rcd, "bilinear": bilinear}
    totals = {name: np.zeros((3, SIDE, SIDE)) for name in methods}
    side = SIDE + 2 * MARGIN
    rows, columns = np.indices((side, side)) % 2
    for _ in range(count):
        dx, dy = rng.uniform(4, 2 * MARGIN - 5, 2)
        light = rng.poisson(np.take_along_axis(field.picture(fwhm, dx, dy, side), BAYER[rows, columns][None], 0)[0])
        frame = (light + rng.normal(0, READ, light.shape)).astype(np.float32)
        matrix = np.array([[1.0, 0.0, dx], [0.0, 1.0, dy], [0.0, 0.0, 1.0]])
        for name, method in methods.items():
            planes, out = np.empty((3, side, side), np.float32), np.empty((3, SIDE, SIDE), np.float32)
            method(frame, BAYER, planes)
            warp.lanczos3(planes, 0, 0, matrix, out, 0, 0, 0.3)
            totals[name] += out / count
    truth = field.picture(fwhm, 0, 0, SIDE)
    return {
        name: [figures(total[c], truth[c], field, fwhm, SKY[c]) for c in range(3)] for name, total in totals.items()
    }


def figures(image: Planes, truth: Planes, field: Field, fwhm: float, sky: float) -> Figures:
    y, x = np.indices(image.shape)
    distance = np.min([np.hypot(x - u, y - v) for u, v in zip(field.x, field.y, strict=True)], axis=0)
    empty = (distance > 13) & (np.minimum.reduce([x, y, SIDE - 1 - x, SIDE - 1 - y]) >= 8)
    blocks = [part.reshape(SIDE // 4, 4, SIDE // 4, 4) for part in (image - truth, empty)]
    noise = float(np.std(blocks[0].mean(axis=(1, 3))[blocks[1].all(axis=(1, 3))]))
    ratios = []
    for radius in (2 * fwhm, fwhm):
        discs = [np.clip(radius + 0.5 - np.hypot(x - u, y - v), 0, 1) for u, v in zip(field.x, field.y, strict=True)]
        ratios.append([float(np.sum(d * (image - sky)) / np.sum(d * (truth - sky))) for d in discs])
    found, true = (stars.fit_stars(p.astype(np.float32), field.x, field.y, 1e9) for p in (image, truth))
    both = found.ok & true.ok
    widths = [np.sqrt(f.fwhm_major * f.fwhm_minor)[both] for f in (found, true)]
    return Figures(
        100 * float(np.std(ratios[0])), 100 * float(np.std(ratios[1])), noise, float(np.median(widths[0] / widths[1]))
    )


# 49 stars of 2e4 to 1e5 e- in 12 frames: photon noise of the fluxes below 0.3 %, widths below 0.3 %.
def test_guided_keeps_the_fluxes_of_stars_of_all_colours(stacks: dict[str, list[Figures]]) -> None:
    for colour in (0, 1, 2):
        assert stacks["guided"][colour].scatter < 1.4
        assert stacks["guided"][colour].core < 1.8
    # Where the colour of a star decides, ratios carried from green bend its profile.
    assert stacks["rcd"][0].scatter > 4 and stacks["rcd"][2].core > 5


def test_guided_adds_no_noise_of_green_to_red_and_blue(stacks: dict[str, list[Figures]]) -> None:
    noise = {name: np.mean([one.noise for one in found]) for name, found in stacks.items()}
    # About 1800 blocks of each colour: 1 % of uncertainty of the mean.
    assert noise["guided"] < 1.03 * noise["rcd"]


def test_guided_stars_are_as_wide_as_they_are(stacks: dict[str, list[Figures]]) -> None:
    for colour in (0, 1, 2):
        assert stacks["guided"][colour].width == pytest.approx(1.0, abs=0.035)
    assert stacks["bilinear"][0].width > 1.12


# --------------------------------------------------------------------------------------------------------------
# whole nights

NIGHT = SessionSpec(
    seed=21,
    sensor=Sensor(width=486, height=366, seed=5, cfa=XTRANS, hot_fraction=0.001),
    n_lights=8,
    n_stars=70,
    brightest_e_per_s=6000.0,
    faintest_e_per_s=500.0,
    nebula_e_per_s=0.0,
    n_darks=12,
    n_flats=4,
    n_flat_darks=12,
    n_bias=0,
    dither_px=5.0,
    drift_px=(-0.6, 0.5),
    rotation_deg=0.1,
    fwhm_px=(2.8, 3.2),
    transparency=(0.9, 1.0),
    sky_gradient=0.05,
    satellites=(3,),
    cosmic_rays=6.0,
    start_utc=datetime(2025, 9, 20, 20, 30),
)


@pytest.fixture(scope="module", params=["TOP-DOWN", "BOTTOM-UP"])
def xtrans(request: pytest.FixtureRequest, run_night: Callable[..., Night]) -> Night:
    from dataclasses import replace

    return run_night(replace(NIGHT, sensor=replace(NIGHT.sensor, row_order=request.param)))


def reference_index(night: Night) -> int:
    found = [
        number
        for number, light in enumerate(night.truth.lights)
        if np.allclose(night.result(light.path).transform, np.eye(3))
    ]
    assert len(found) == 1
    return found[0]


def flux_ratios(night: Night, side: int = 1) -> Planes:
    """Return (3, n) measured over true flux of isolated stars in a picture whose pixels are `side` of the truth's."""
    from photutils.aperture import CircularAnnulus, CircularAperture, aperture_photometry

    index = reference_index(night)
    light, table = night.truth.lights[index], night.truth.stars_in(index)
    image = night.pixels("integration")
    height, width = image.shape[1:]
    psf = Psf(float(np.mean(night.truth.fwhm_px)), 0.0, 0.0, night.truth.spec.beta)
    chosen = []
    for number, star in enumerate(table):
        distance = np.hypot(table["x"] - star["x"], table["y"] - star["y"])
        near = (distance < 16) & (table["G"] > 0.01 * star["G"])
        near[number] = False
        peak = star["G"] * light.exposure_s * 0.08 / night.truth.e_per_dn
        inside = 34 < star["x"] < side * width - 34 and 34 < star["y"] < side * height - 34
        if inside and 1000 < peak < 40_000 and not near.any():
            chosen.append((star["x"], star["y"]))
    assert len(chosen) >= 8

    radius = 3.0 * psf.fwhm_px

    def flux(plane: Planes, scale: int) -> Planes:
        # Joined pixel X lies at side X + (side - 1) / 2.
        points = (np.array(chosen) - (scale - 1) / 2) / scale
        aperture = CircularAperture(points, r=radius / scale)
        ring = CircularAnnulus(points, r_in=(radius + 3) / scale, r_out=(radius + 9) / scale)
        sky = [np.median(mask.get_values(plane)) for mask in ring.to_mask(method="center")]
        return np.asarray(aperture_photometry(plane, aperture)["aperture_sum"]) - np.array(sky) * aperture.area

    ratios = []
    for channel, name in enumerate("RGB"):
        truth = night.truth.scene_in(index, name, psf=psf) * light.exposure_s / night.truth.e_per_dn
        ratios.append(flux(image[channel], side) * side**2 / flux(truth, 1) / flat_level(night, channel))
    return np.array(ratios)


def flat_level(night: Night, colour: int) -> float:
    """Return the trimmed mean of the response of one colour, 1 in the middle of the frame: the flat's factor."""
    response, pattern = night.truth.response(), night.truth.cfa
    assert pattern is not None
    rows, columns = np.indices(response.shape) % len(pattern)
    values = np.sort(response[pattern[rows, columns] == colour])
    cut = values.size // 20
    return float(np.mean(values[cut:-cut]))


def test_xtrans_lights_pass_through_the_whole_pipeline(xtrans: Night) -> None:
    assert xtrans.run.outcome == "done"
    assert [f.id for f in xtrans.run.findings if f.severity == "error"] == []
    # Four bright flats are enough for a dark sky, when nobody takes their colours for noise.
    assert "CHK029" not in xtrans.finding_ids()
    product = next(p for p in xtrans.run.products if p.kind == "integration")
    assert (product.frames_used, product.frames_excluded) == (8, 0)
    assert xtrans.pixels("integration").shape == (3, 366, 486)


def test_an_xtrans_night_has_the_right_colours(xtrans: Night) -> None:
    ratios = flux_ratios(xtrans)
    middle = np.median(ratios, axis=1)
    assert np.all(np.abs(middle - 1) < 0.02)
    # Stars of 1e5 e-: below 0.5 % of photon noise, and with some ten of them 1.5 % is far out.
    assert abs(middle[0] / middle[1] - 1) < 0.015 and abs(middle[2] / middle[1] - 1) < 0.015
    assert np.all(np.std(ratios / middle[:, None], axis=1) < 0.03)


def test_hot_pixels_and_trails_stay_out_of_an_xtrans_integration(xtrans: Night) -> None:
    index = reference_index(xtrans)
    image = xtrans.pixels("integration")
    light = xtrans.truth.lights[index]
    psf = Psf(float(np.mean(xtrans.truth.fwhm_px)), 0.0, 0.0, xtrans.truth.spec.beta)
    for channel, name in enumerate("RGB"):
        truth = xtrans.truth.scene_in(index, name, psf=psf) * light.exposure_s / xtrans.truth.e_per_dn
        inner = np.s_[34:-34, 34:-34]
        sky = truth[inner] < np.percentile(truth[inner], 60)
        rest = (image[channel] - truth * flat_level(xtrans, channel))[inner][sky]
        rest = rest - np.median(rest)
        sigma = 1.4826 * np.median(np.abs(rest))
        # Of 60,000 correlated pixels of normal noise next to none lies beyond 6 sigma.
        assert np.count_nonzero(np.abs(rest) > 6 * sigma) < 12


@pytest.mark.parametrize(("pattern", "side"), [("RGGB", 2), (XTRANS, 3)])
def test_superpixels_give_a_smaller_integration_of_the_same_fluxes(
    run_night: Callable[..., Night], pattern: str, side: int
) -> None:
    from dataclasses import replace

    spec = replace(
        NIGHT, sensor=replace(NIGHT.sensor, cfa=pattern), n_lights=4, satellites=(), fwhm_px=(2.2 * side, 2.3 * side)
    )
    night = run_night(spec, set="debayer.method=superpixel")
    assert night.run.outcome == "done"
    image = night.pixels("integration")
    assert image.shape == (3, 366 // side, 486 // side)
    ratios = flux_ratios(night, side)
    middle = np.median(ratios, axis=1)
    # The aperture of the joined pixels cuts them at its edge where the truth has almost no light left: below 1 %.
    assert np.all(np.abs(middle - 1) < 0.03)
    assert abs(middle[0] / middle[1] - 1) < 0.02 and abs(middle[2] / middle[1] - 1) < 0.02
