"""Stars of single frames against the truth: numbers, places, fluxes, shapes, noise, over what frames can be like.

Light is averaged over pixels by the simulator's own formula. The width and the eccentricity that are expected are
those of the profile as pixels see it, found from the same formula on a fine grid. The signal-to-noise ratio of a star
is that in an aperture of one FWHM radius.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from wbpy.simulate import Psf
from wbpy.simulate.scene import integrate_psf
from wbpy.stages import measure
from wbpy.stages.measure import Measurement, MeasureParams

SKY, READ_NOISE = 300.0, 5.0


@dataclass(frozen=True)
class Field:
    """A frame of stars and what is true of it."""

    light: NDArray[np.float64]
    """Of the stars alone, e-."""
    at: NDArray[np.float64]
    flux: NDArray[np.float64]
    snr: NDArray[np.float64]
    rng: np.random.Generator

    def exposed(self, sky: float | NDArray[np.float64] = SKY, full: float = math.inf) -> NDArray[np.float32]:
        """Return the frame in e-, which are DN here."""
        photons = self.rng.poisson(self.light + sky)
        return np.minimum(photons + self.rng.normal(0.0, READ_NOISE, self.light.shape), full).astype(np.float32)


def stamp_into(light: NDArray[np.float64], psf: Psf, x: float, y: float, flux: float) -> None:
    # Far enough that the rest of the light is below a thousandth, in the wings of beta 2.5 and bright stars too.
    reach = int(min(60, max(10, 5 * psf.fwhm_px * (1 + 0.6 * math.log10(max(flux / 1e4, 1.0))))))
    i, j = round(x), round(y)
    rows = np.arange(max(j - reach, 0), min(j + reach + 1, light.shape[0]))
    columns = np.arange(max(i - reach, 0), min(i + reach + 1, light.shape[1]))
    light[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] += flux * integrate_psf(psf, columns - x, rows - y)


def field(
    seed: int,
    size: int,
    count: int,
    psf: Psf,
    snr: tuple[float, float] = (20.0, 1000.0),
    sky: float = SKY,
    apart: float = 0.0,
) -> Field:
    """Return a field of stars of uniform log SNR, on a grid `apart` px wide or anywhere."""
    rng = np.random.default_rng(seed)
    ratio = np.exp(rng.uniform(*np.log(snr), count))
    sky_noise = math.pi * psf.fwhm_px**2 * (sky + READ_NOISE**2)
    flux = (ratio**2 + np.sqrt(ratio**4 + 4 * ratio**2 * sky_noise)) / 2
    if apart:
        places = np.stack(np.meshgrid(*2 * (np.arange(apart / 2 + 10, size - apart / 2 - 8, apart),)), -1).reshape(
            -1, 2
        )
        places = rng.permutation(places)[:count]
        at = places + rng.uniform(-0.5, 0.5, places.shape)
    else:
        at = rng.uniform(12, size - 12, (count, 2))
    flux, ratio = flux[: len(at)], ratio[: len(at)]
    light = np.zeros((size, size))
    for (x, y), f in zip(at, flux, strict=True):
        stamp_into(light, psf, x, y, f)
    return Field(light, at, flux, ratio, rng)


def seen(psf: Psf) -> tuple[float, float]:
    """Return FWHM (geometric mean of the axes) and eccentricity of what pixels see of a profile."""
    widths = []
    for turn in (0.0, 90.0):
        c, s = math.cos(math.radians(psf.angle_deg + turn)), math.sin(math.radians(psf.angle_deg + turn))

        def height(r: float, c: float = c, s: float = s) -> float:
            return float(integrate_psf(psf, np.array([r * c]), np.array([r * s]))[0, 0])

        low, high = 0.0, 2 * psf.fwhm_px + 2
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (middle, high) if height(middle) > height(0.0) / 2 else (low, middle)
        widths.append(2 * low)
    return math.sqrt(widths[0] * widths[1]), math.sqrt(1 - (widths[1] / widths[0]) ** 2)


def flux_ratio(m: Measurement, truth: Field, least: float = 50.0) -> tuple[float, float]:
    """Return the weighted mean of measured over true flux of the usable stars, and its standard error."""
    assert m.hybrid_flux is not None
    distance, which = cKDTree(truth.at).query(np.column_stack([m.x, m.y]))
    good = (distance < 1.0) & np.isfinite(m.hybrid_flux) & (truth.snr[which] > least)
    ratio = m.hybrid_flux[good] / truth.flux[which[good]]
    weight = 1.0 / (0.003**2 + truth.snr[which[good]] ** -2.0)
    # A star upon another is not the measurement's fault.
    kept = np.abs(ratio - np.median(ratio)) < 0.2
    return float(np.average(ratio[kept], weights=weight[kept])), float(weight[kept].sum() ** -0.5)


def found_and_false(m: Measurement, truth: Field, snr: tuple[float, float]) -> tuple[float, int]:
    """Return the share of the true stars of an SNR that were found, and how many of the found are none."""
    mine = np.column_stack([m.x, m.y])
    wanted = (truth.snr >= snr[0]) & (truth.snr < snr[1])
    share = float((cKDTree(mine).query(truth.at[wanted])[0] < 1.5).mean())
    return share, int((cKDTree(truth.at).query(mine)[0] > 2.0).sum())


@pytest.mark.parametrize("beta", [2.5, 4.0, 10.0])
@pytest.mark.parametrize("fwhm", [1.2, 1.6, 2.5, 4.0, 8.0])
def test_width_flux_noise_and_roundness_for_every_profile(beta: float, fwhm: float) -> None:
    psf = Psf(fwhm, beta=beta)
    truth = field(1, 500, 100, psf, apart=max(40.0, 10 * fwhm))
    m = measure.run(MeasureParams(), truth.exposed(), None)
    assert m.fwhm == pytest.approx(seen(psf)[0], rel=0.02)
    ratio, error = flux_ratio(m, truth)
    assert error < 0.002
    assert ratio == pytest.approx(1.0, abs=0.01)
    # 250,000 pixels: 0.2 %, and what the wings of stars leave.
    assert m.noise[0] == pytest.approx(math.sqrt(SKY + READ_NOISE**2), rel=0.02)
    # 0.03 would be an ellipticity of 0.0002, which 100 such stars know to 0.001 only.
    assert m.eccentricity < 0.1


@pytest.mark.parametrize(("ellipticity", "angle"), [(0.1, 30.0), (0.3, -70.0), (0.5, 10.0)])
@pytest.mark.parametrize("fwhm", [1.6, 3.0, 5.0])
def test_eccentricity_and_its_angle(ellipticity: float, angle: float, fwhm: float) -> None:
    psf = Psf(fwhm, ellipticity, angle)
    truth = field(2, 500, 120, psf, apart=40.0)
    m = measure.run(MeasureParams(), truth.exposed(), None)
    width, eccentricity = seen(psf)
    assert m.eccentricity == pytest.approx(eccentricity, abs=0.03)
    assert m.angle == pytest.approx(angle, abs=3.0)
    assert m.coherence > 0.75
    assert m.fwhm == pytest.approx(width, rel=0.02)
    assert flux_ratio(m, truth)[0] == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("sky", [100.0, 1000.0])
@pytest.mark.parametrize("shape", ["gradient", "nebula"])
def test_backgrounds_from_faint_to_bright_with_gradients_and_a_nebula(sky: float, shape: str) -> None:
    psf = Psf(3.0)
    truth = field(3, 500, 120, psf, sky=sky, apart=40.0)
    v, u = np.mgrid[:500, :500] / 500 - 0.5
    if shape == "gradient":
        level = sky * (1 + 0.5 * u + 0.25 * v)
    else:
        level = sky * (1 + 2.0 * np.exp(-((u - 0.1) ** 2 + (v + 0.05) ** 2) / 0.02) + 0.4 * np.sin(14 * u + 9 * v) ** 2)
    m = measure.run(MeasureParams(), truth.exposed(level), None)
    assert m.fwhm == pytest.approx(seen(psf)[0], rel=0.02)
    assert flux_ratio(m, truth)[0] == pytest.approx(1.0, abs=0.01)
    # In the median pixel; a nebula adds the noise of its own photons.
    assert m.noise[0] == pytest.approx(
        math.sqrt(np.median(level) + READ_NOISE**2), rel=0.02 if shape == "gradient" else 0.08
    )
    found, false = found_and_false(m, truth, (30.0, 2000.0))
    assert found > 0.97 and false <= 1


@pytest.mark.parametrize(("count", "size"), [(5, 400), (20, 400), (300, 600), (1500, 1000)])
def test_few_stars_and_many(count: int, size: int) -> None:
    psf = Psf(3.0)
    truth = field(4, size, count, psf, (20.0, 1000.0))
    m = measure.run(MeasureParams(), truth.exposed(), None)
    found, false = found_and_false(m, truth, (20.0, 2000.0))
    # Of stars that are not told apart one is found. At one in 670 px^2 one in eight has another within 5 px, at one in
    # 1200 px^2 half as many.
    assert found > (0.99 if count < 30 else 0.88 if count == 300 else 0.83) and false <= 1
    assert m.fwhm == pytest.approx(seen(psf)[0], rel=0.02)
    assert flux_ratio(m, truth)[0] == pytest.approx(1.0, abs=0.015 if count < 10 else 0.01)


def test_twenty_thousand_stars_are_counted_and_measured() -> None:
    psf = Psf(2.5)
    truth = field(5, 2600, 20_000, psf, (15.0, 300.0))
    m = measure.run(MeasureParams(max_stars=30_000), truth.exposed(), None)
    found, false = found_and_false(m, truth, (15.0, 2000.0))
    # One star in 338 px^2: within the 3 px in which two are one stands another for one in twelve.
    assert found > 0.83 and false < 0.001 * m.count
    assert m.count == pytest.approx(found * 20_000, rel=0.05)
    assert m.fwhm == pytest.approx(seen(psf)[0], rel=0.02)
    assert flux_ratio(m, truth)[0] == pytest.approx(1.0, abs=0.01)


def test_faint_stars_are_found_and_noise_is_not() -> None:
    truth = field(6, 900, 380, Psf(3.0), (4.0, 16.0), apart=40.0)
    m = measure.run(MeasureParams(), truth.exposed(), None)
    assert found_and_false(m, truth, (7.0, 20.0))[0] > 0.97
    assert 0.4 < found_and_false(m, truth, (5.0, 7.0))[0] < 0.9
    # Five sigma of some 90,000 independent places: none by chance.
    empty = measure.run(
        MeasureParams(), Field(np.zeros((900, 900)), truth.at, truth.flux, truth.snr, truth.rng).exposed(), None
    )
    assert empty.count <= 1 and found_and_false(m, truth, (5.0, 20.0))[1] <= 1


def test_hot_pixels_and_satellites_are_no_stars_and_change_no_shape() -> None:
    psf = Psf(3.0)
    truth = field(7, 600, 150, psf, apart=45.0)
    image = truth.exposed()
    rows, columns = truth.rng.integers(0, 600, (2, 800))
    image[rows, columns] += np.exp(truth.rng.uniform(np.log(200), np.log(40000), 800)).astype(np.float32)
    yy, xx = np.mgrid[:600, :600]
    for slope, offset, bright in ((0.4, 80.0, 400.0), (-0.9, 560.0, 2500.0)):
        image += (bright * np.exp(-0.5 * ((yy - slope * xx - offset) / math.hypot(1, slope) / 1.3) ** 2)).astype(
            np.float32
        )
    m = measure.run(MeasureParams(), image, None)
    found, false = found_and_false(m, truth, (30.0, 2000.0))
    # The trails cover one in twenty, and a hot pixel stands upon one in twenty.
    assert found > 0.84
    # Where a trail meets a hot pixel, and at its own noise: a few in a thousand pixels of trail.
    assert false <= 6
    usable = np.column_stack([m.x, m.y])[m.usable]
    assert (cKDTree(truth.at).query(usable)[0] > 2.0).sum() <= 1
    assert m.fwhm == pytest.approx(seen(psf)[0], rel=0.02)
    # Stars upon the trails are off; of the rest nothing is.
    assert flux_ratio(m, truth)[0] == pytest.approx(1.0, abs=0.015)


def test_saturated_stars_count_once_and_serve_for_nothing_else() -> None:
    psf = Psf(3.5)
    truth = field(8, 700, 140, psf, (30.0, 4000.0), apart=55.0)
    image = truth.exposed(full=20000.0)
    m = measure.run(MeasureParams(saturation=19000.0), image, None)
    mine = np.column_stack([m.x, m.y])
    full = truth.flux * integrate_psf(psf, np.zeros(1), np.zeros(1))[0, 0] > 25000.0
    assert full.sum() > 20
    near = cKDTree(mine).query_ball_point(truth.at[full], 12.0)
    assert all(len(hits) == 1 for hits in near)
    assert not m.usable[[hits[0] for hits in near]].any()
    assert m.fwhm == pytest.approx(seen(psf)[0], rel=0.02)
    assert flux_ratio(m, truth)[0] == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("distance", [2.0, 3.0])
def test_two_stars_close_together_are_two(distance: float) -> None:
    """Equal stars at two FWHM from each other and more are told apart and have their own fluxes."""
    psf = Psf(3.0)
    rng = np.random.default_rng(9)
    middles = np.stack(np.meshgrid(*2 * (np.arange(40, 561, 40.0),)), -1).reshape(-1, 2) + rng.uniform(
        -0.5, 0.5, (196, 2)
    )
    turn = rng.uniform(0, 2 * math.pi, 196)
    half = 0.5 * distance * 3.0 * np.column_stack([np.cos(turn), np.sin(turn)])
    at = np.concatenate([middles + half, middles - half])
    light = np.zeros((600, 600))
    for x, y in at:
        stamp_into(light, psf, x, y, 3e4)
    truth = Field(light, at, np.full(len(at), 3e4), np.full(len(at), 150.0), rng)
    m = measure.run(MeasureParams(), truth.exposed(), None)
    found, false = found_and_false(m, truth, (100.0, 200.0))
    assert found > 0.98 and false == 0
    # Up to the middle between them the light of both adds: 5 % at two FWHM.
    assert flux_ratio(m, truth)[0] == pytest.approx(1.0, abs=0.06 if distance < 3 else 0.015)


@pytest.mark.parametrize("cfa", ["RGGB", "GBRG"])
def test_stars_of_a_mosaic_have_the_widths_and_fluxes_of_its_green(cfa: str) -> None:
    psf = Psf(3.2)
    truth = field(10, 600, 150, psf, (50.0, 1000.0), apart=45.0)
    image = truth.exposed()
    pattern = np.array(["RGB".index(c) for c in cfa], np.uint8).reshape(2, 2)
    m = measure.run(MeasureParams(), image, pattern)
    # The interpolation of the green plane widens stars a little and takes some of their light.
    assert m.fwhm == pytest.approx(seen(psf)[0], rel=0.03)
    assert flux_ratio(m, truth, 100.0)[0] == pytest.approx(1.0, abs=0.02)
    assert m.noise == pytest.approx([math.sqrt(SKY + READ_NOISE**2)] * 3, rel=0.02)
    assert m.eccentricity < 0.12
