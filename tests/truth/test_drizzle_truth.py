"""Fluxes, sharpness and colours of drizzled stars against the scene that they were drawn from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from scipy.special import erf

from wbpy.stages import drizzle, integrate
from wbpy.stages.base import Work
from wbpy.stages.debayer import DebayerParams
from wbpy.stages.drizzle import DrizzleParams
from wbpy.stages.integrate import Counts, IntegrateParams, Light

SHAPE = (176, 208)
RGGB = np.array([[0, 1], [1, 2]], np.uint8)
SKY = 200.0


class Pixels:
    """A calibrated frame in memory, read by rectangle."""

    def __init__(self, image: np.ndarray) -> None:
        self.image, self.shape = image.astype(np.float32), image.shape

    def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        return np.ascontiguousarray(self.image[y0:y1, x0:x1])


def transforms(count: int, seed: int) -> list[np.ndarray]:
    """Return dithered transforms, output to frame, half of them after a meridian flip, slightly turned."""
    rng = np.random.default_rng(seed)
    centre = np.array([SHAPE[1] / 2 - 0.5, SHAPE[0] / 2 - 0.5])
    made = []
    for number in range(count):
        angle = np.radians(rng.normal(0, 0.3) + (180.0 if number >= count // 2 else 0.0))
        matrix = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1.0]])
        matrix[:2, 2] = centre - matrix[:2, :2] @ centre + rng.uniform(-5, 5, 2)
        made.append(matrix)
    return made


def grid_of_stars(seed: int, spacing: int = 16) -> np.ndarray:
    """Return (n, 2) places on the output, at fractions of pixels of their own."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[24 : SHAPE[0] - 23 : spacing, 24 : SHAPE[1] - 23 : spacing]
    return np.column_stack([x.ravel(), y.ravel()]) + rng.uniform(-0.5, 0.5, (x.size, 2))


def exposed(stars: np.ndarray, fluxes: np.ndarray, matrix: np.ndarray, sigma: float) -> np.ndarray:
    """Return a frame: Gaussians integrated over its pixels, on a sky."""
    there = stars @ matrix[:2, :2].T + matrix[:2, 2]
    image = np.full(SHAPE, SKY)
    edges_x, edges_y = np.arange(SHAPE[1] + 1) - 0.5, np.arange(SHAPE[0] + 1) - 0.5
    for (x, y), flux in zip(there, fluxes, strict=True):
        along = np.diff(0.5 * erf((edges_x - x) / (sigma * np.sqrt(2))))
        across = np.diff(0.5 * erf((edges_y - y) / (sigma * np.sqrt(2))))
        image += flux * np.outer(across, along)
    return image


def lights_of(images: Sequence[np.ndarray], matrices: Sequence[np.ndarray], channels: int = 1) -> list[Light]:
    return [
        Light(Pixels(image), matrix, (1.0,) * channels, (0.0,) * channels, (1.0,) * channels)
        for image, matrix in zip(images, matrices, strict=True)
    ]


def drizzled(lights: Sequence[Light], cfa: np.ndarray | None = None, **params: object) -> np.ndarray:
    work = Work(map=map, workers=1, memory=1 << 28, report=lambda *_: None)
    coverage = drizzle.no_coverage(1 if cfa is None else 3)
    strips = drizzle.run(DrizzleParams(**params), work, lights, SHAPE, cfa, None, coverage)
    return np.concatenate([strip.image for strip in strips], axis=1).astype(np.float64)


def integrated(lights: Sequence[Light], cfa: np.ndarray | None = None) -> np.ndarray:
    work = Work(map=map, workers=1, memory=1 << 28, report=lambda *_: None)
    counts = Counts(*(np.zeros(len(lights), np.int64) for _ in range(3)))
    params = IntegrateParams(rejection="none")
    strips = list(integrate.run(params, DebayerParams(), work, lights, SHAPE, cfa, counts))
    return np.concatenate([strip.image for strip in strips], axis=1).astype(np.float64)


def photometry(plane: np.ndarray, stars: np.ndarray, scale: int, radius: float) -> np.ndarray:
    """Return the flux within a radius in pixels of the reference, in DN of its pixels, the sky taken off."""
    fluxes = []
    for x, y in (stars + 0.5) * scale - 0.5:
        reach = int(np.ceil(radius * scale)) + 1
        i, j = round(x), round(y)
        part = plane[j - reach : j + reach + 1, i - reach : i + reach + 1]
        yy, xx = np.mgrid[j - reach : j + reach + 1, i - reach : i + reach + 1]
        # The edge of the aperture is soft over one pixel, so that the grid does not show.
        inside = np.clip(radius * scale + 0.5 - np.hypot(xx - x, yy - y), 0, 1)
        fluxes.append(np.nansum(inside * (part - SKY)) / scale**2)
    return np.array(fluxes)


def widths(plane: np.ndarray, stars: np.ndarray, scale: int) -> np.ndarray:
    """Return the full width at half maximum of each star by its second moments, px of the reference."""
    found = []
    for x, y in (stars + 0.5) * scale - 0.5:
        reach = 5 * scale
        i, j = round(x), round(y)
        part = np.nan_to_num(plane[j - reach : j + reach + 1, i - reach : i + reach + 1] - SKY)
        yy, xx = np.mgrid[-reach : reach + 1, -reach : reach + 1]
        total = part.sum()
        mx, my = (part * xx).sum() / total, (part * yy).sum() / total
        found.append(np.sqrt(0.5 * (part * ((xx - mx) ** 2 + (yy - my) ** 2)).sum() / total) * 2.3548 / scale)
    return np.array(found)


@pytest.mark.parametrize("kernel", ["square", "circular", "gaussian", "point"])
@pytest.mark.parametrize("scale", [1, 2, 3])
def test_the_flux_of_stars_is_kept(kernel: str, scale: int):
    """Within 0.3 % in the mean of 80 stars, with photon noise."""
    rng = np.random.default_rng(1)
    stars = grid_of_stars(1)
    fluxes = rng.uniform(40_000, 200_000, len(stars))
    # Points fill a grid three times finer only with many lights.
    matrices = transforms(90 if (kernel, scale) == ("point", 3) else 24, 2)
    images = [rng.poisson(exposed(stars, fluxes, matrix, 1.1)).astype(float) for matrix in matrices]
    picture = drizzled(lights_of(images, matrices), scale=scale, kernel=kernel)[0]
    ratio = photometry(picture, stars, scale, 6.0) / fluxes
    # 24 lights of one electron per DN: a star has sqrt(24 F + 24 x 113 px x 200) / 24 of noise, 0.15 % of 80,000 DN,
    # and the mean of 80 stars 0.02 %.
    assert abs(np.mean(ratio) - 1) < 0.003
    # Single stars: noise, and how evenly an aperture is covered: least so by points.
    assert np.std(ratio) < (0.004 if kernel == "point" else 0.002)


def test_undersampled_stars_become_sharper_than_in_the_integration():
    """Stars of 1.2 px, dithered: the drizzle comes nearer to the truth than the resampled average."""
    stars = grid_of_stars(3)
    fluxes = np.full(len(stars), 50_000.0)
    matrices = transforms(32, 4)
    sigma = 1.2 / 2.3548
    lights = lights_of([exposed(stars, fluxes, matrix, sigma) for matrix in matrices], matrices)
    truth = float(np.hypot(1.2, 2.3548 * np.sqrt(1 / 12)))  # through the pixels of the camera
    assert truth == pytest.approx(1.38, abs=0.01)
    plain = np.median(widths(integrated(lights)[0], stars, 1))
    small = np.median(widths(drizzled(lights, scale=2, drop_shrink=0.5)[0], stars, 2))
    wide = np.median(widths(drizzled(lights, scale=2, drop_shrink=1.0)[0], stars, 2))
    fine = np.median(widths(drizzled(lights, scale=3, kernel="point")[0], stars, 3))
    # The variance of a drop, side^2 / 12, and of a pixel of the output, 1 / (12 scale^2), add to that of the star.
    for found, drop, scale in ((small, 0.5, 2), (wide, 1.0, 2), (fine, 0.0, 3)):
        expected = np.hypot(truth, 2.3548 * np.sqrt((drop**2 + 1 / scale**2) / 12))
        assert found == pytest.approx(expected, rel=0.02)
    # The plain integration carries the width of its interpolation; a large drop is no better, small ones are.
    assert small < 0.95 * plain
    assert fine < 0.91 * plain


@pytest.mark.parametrize(("fwhm", "limit"), [(2.0, 0.015), (2.6, 0.003)])
def test_colours_of_drizzled_stars_scatter_less_than_a_percent_and_a_half(fwhm: float, limit: float):
    """CFA drizzle at scale 1 without noise: nothing is interpolated, only the coverage differs from star to star."""
    stars = grid_of_stars(5)
    fluxes = np.full(len(stars), 100_000.0)
    matrices = transforms(40, 6)
    sigma = fwhm / 2.3548
    lights = lights_of([exposed(stars, fluxes, matrix, sigma) for matrix in matrices], matrices, 3)
    picture = drizzled(lights, RGGB, scale=1)
    scatter = [np.std(photometry(plane, stars, 1, 6.0) / fluxes) for plane in picture]
    mean = [np.mean(photometry(plane, stars, 1, 6.0) / fluxes) for plane in picture]
    # Red and blue are sampled every second pixel: of stars of 2 px less than one pixel per FWHM.
    assert max(scatter) < limit, scatter
    np.testing.assert_allclose(mean, 1.0, atol=limit / 3)
