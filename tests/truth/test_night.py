"""Whole nights against the truth of the simulator: photometry, noise, alignment, sharpness, outliers."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import numpy as np
import pytest
from conftest import Night
from numpy.typing import NDArray

from wbpy.simulate import Psf, Sensor, SessionSpec, apply_transform

MONO = SessionSpec(
    seed=11,
    sensor=Sensor(width=420, height=320, seed=3),
    n_lights=14,
    n_stars=260,
    brightest_e_per_s=700.0,
    nebula_e_per_s=0.0,
    n_darks=20,
    n_flats=20,
    n_flat_darks=20,
    n_bias=0,
    dither_px=4.0,
    drift_px=(0.7, -0.4),
    rotation_deg=0.12,
    meridian_flip_at=8,
    fwhm_px=(2.6, 3.0),
    transparency=(0.8, 1.0),
    sky_drift=0.06,
    sky_gradient=0.05,
    satellites=(2, 9),
    cosmic_rays=12.0,
    start_utc=datetime(2025, 9, 20, 20, 30),
)
COLOUR = SessionSpec(
    seed=12,
    sensor=Sensor(width=640, height=480, seed=4, cfa="RGGB"),
    n_lights=14,
    n_stars=220,
    brightest_e_per_s=2500.0,
    faintest_e_per_s=10.0,
    nebula_e_per_s=0.0,
    n_darks=20,
    n_flats=20,
    n_flat_darks=20,
    n_bias=0,
    dither_px=4.0,
    drift_px=(-0.6, 0.5),
    rotation_deg=0.1,
    meridian_flip_at=7,
    fwhm_px=(2.8, 3.2),
    transparency=(0.85, 1.0),
    sky_drift=0.04,
    sky_gradient=0.05,
    satellites=(3,),
    cosmic_rays=10.0,
    dialect="asiair",
)


@pytest.fixture(scope="module", params=["mono", "colour"])
def night(request: pytest.FixtureRequest, run_night: Callable[..., Night]) -> Night:
    return run_night(MONO if request.param == "mono" else COLOUR)


def channels(night: Night) -> tuple[str, ...]:
    return ("L",) if night.truth.cfa is None else ("R", "G", "B")


def planes(night: Night) -> NDArray[np.float64]:
    image = night.pixels("integration")
    return image[None] if image.ndim == 2 else image


def reference_index(night: Night) -> int:
    identities = [
        index
        for index, light in enumerate(night.truth.lights)
        if np.allclose(night.result(light.path).transform, np.eye(3))
    ]
    assert len(identities) == 1
    return identities[0]


def expected(night: Night, channel: str, psf: Psf | None = None) -> NDArray[np.float64]:
    """Noiseless scene on the reference's grid in DN of one exposure, on the level that the flat's factor gives it."""
    index = reference_index(night)
    light = night.truth.lights[index]
    scene = night.truth.scene_in(index, channel, psf=psf) * light.exposure_s / night.truth.e_per_dn
    return scene * flat_level(night, channel)


def flat_level(night: Night, channel: str) -> float:
    """Trimmed mean of the response of one colour, 1 in the middle of the frame: what the flat is scaled by."""
    response = night.truth.response(night.truth.lights[0].filter_name)
    if night.truth.cfa is not None:
        colour = night.truth.cfa == "RGB".index(channel)
        rows, columns = np.indices(response.shape)
        response = response[colour[rows % 2, columns % 2]]
    values = np.sort(response.ravel())
    cut = int(0.05 * values.size)
    return float(np.mean(values[cut:-cut]))


def covered(night: Night, margin: int = 24) -> NDArray[np.bool_]:
    """Pixels that all lights see, away from the edges of all."""
    index = reference_index(night)
    there = np.linalg.inv(night.truth.transforms[index])
    height, width = planes(night).shape[1:]
    y, x = np.indices((height, width))
    inside = np.ones((height, width), bool)
    for transform in night.truth.transforms:
        u, v = apply_transform(transform @ there, x.ravel(), y.ravel())
        ok = (u > margin) & (u < width - 1 - margin) & (v > margin) & (v < height - 1 - margin)
        inside &= ok.reshape(height, width)
    return inside


def test_all_lights_are_integrated_and_the_run_is_clean(night: Night) -> None:
    product = next(p for p in night.run.products if p.kind == "integration")
    assert night.run.outcome == "done"
    assert product.frames_used == len(night.truth.lights) and product.frames_excluded == 0
    assert not [f for f in night.run.findings if f.severity == "error"]


def test_registration_is_within_a_tenth_of_a_pixel(night: Night) -> None:
    reference = night.truth.transforms[reference_index(night)]
    height, width = planes(night).shape[1:]
    y, x = np.mgrid[10 : height - 10 : 40, 10 : width - 10 : 40]
    for light in night.truth.lights:
        true = apply_transform(light.transform @ np.linalg.inv(reference), x.ravel(), y.ravel())
        found = apply_transform(np.array(night.result(light.path).transform), x.ravel(), y.ravel())
        error = np.hypot(true[0] - found[0], true[1] - found[1])
        assert np.sqrt(np.mean(error**2)) < 0.1, light.path.name


def photometry(night: Night, channel: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return true and measured flux in DN of isolated unsaturated stars, by apertures of an independent library.

    The radius holds more than 99 % of a Moffat profile of beta 4, and the truth is summed over the same pixels with
    the seeing of the reference, so that what lies outside cancels to better than 0.1 %.
    """
    from photutils.aperture import CircularAnnulus, CircularAperture, aperture_photometry

    name = channels(night)[channel]
    bright = channels(night)[len(channels(night)) // 2]
    stars = night.truth.stars_in(reference_index(night))
    inside = covered(night, margin=30)
    height, width = inside.shape
    psf = Psf(float(np.mean(night.truth.fwhm_px)), 0.0, 0.0, night.truth.spec.beta)
    truth, image = expected(night, name, psf), planes(night)[channel]
    chosen = []
    for number, star in enumerate(stars):
        column, row = int(round(star["x"])), int(round(star["y"]))
        if not (0 <= column < width and 0 <= row < height and inside[row, column]):
            continue
        peak = star[bright] * 60 * 0.08 / night.truth.e_per_dn
        distance = np.hypot(stars["x"] - star["x"], stars["y"] - star["y"])
        near = (distance < 14) & (stars[bright] > 0.004 * star[bright])
        near[number] = False
        if 150 < peak < 40_000 and not near.any():
            chosen.append((star["x"], star["y"]))
    assert len(chosen) >= 12
    aperture, ring = CircularAperture(chosen, r=9.0), CircularAnnulus(chosen, r_in=12.0, r_out=18.0)

    def flux(plane: NDArray[np.float64]) -> NDArray[np.float64]:
        sky = np.array([np.median(mask.get_values(plane)) for mask in ring.to_mask(method="center")])
        return np.asarray(aperture_photometry(plane, aperture)["aperture_sum"]) - sky * aperture.area

    return flux(truth), flux(image)


def test_photometric_slope_is_one_and_no_offset_remains(night: Night) -> None:
    for channel in range(len(channels(night))):
        true, found = photometry(night, channel)
        # Debayering leaves a few percent of scatter on stars of R and B, which the mean over all stars beats down.
        slope = np.sum(true * found) / np.sum(true * true)
        scatter = np.std(found / true - slope)
        tolerance = 0.005 + (0 if night.truth.cfa is None else 3 * scatter / np.sqrt(true.size))
        assert abs(slope - 1) < tolerance, (channel, slope, scatter)
        residual = found - slope * true
        # An additive error per aperture shows as a common residual of the faint half.
        faint = residual[true < np.median(true)]
        error = 1.2533 * np.std(faint) / np.sqrt(faint.size)
        assert abs(np.median(faint)) < 4 * error + 0.002 * np.median(true)


def test_background_follows_the_truth_without_a_trend(night: Night) -> None:
    """The stack keeps the mean gradient of its lights; beyond that no level, slope or fixed pattern may remain."""
    index = reference_index(night)
    inside = covered(night)
    for channel, name in enumerate(channels(night)):
        image = planes(night)[channel]
        truth = expected(night, name)
        sky = inside & (truth < np.percentile(truth[inside], 60))
        difference = (image - truth)[sky]
        y, x = np.nonzero(sky)
        design = np.column_stack([np.ones(x.size), x - x.mean(), y - y.mean()])
        level, *slopes = np.linalg.lstsq(design, difference, rcond=None)[0]
        background = float(np.median(truth[sky]))
        assert abs(level) < 0.01 * background, (name, level, background)
        spread = np.hypot(*slopes) * np.hypot(*inside.shape)
        lights = night.truth.lights
        own = np.hypot(*lights[index].sky_slope) * np.hypot(*inside.shape) * background
        assert spread < 1.2 * own + 0.01 * background, (name, spread, own)


def lanczos_variance(matrix: NDArray[np.float64], points: NDArray[np.float64]) -> float:
    """Return the mean share of the pixel variance that Lanczos-3 interpolation leaves, from its weights."""
    u, v = apply_transform(matrix, points[0], points[1])

    def kept(coordinate: NDArray[np.float64]) -> NDArray[np.float64]:
        taps = coordinate[:, None] - (np.floor(coordinate)[:, None] + np.arange(-2, 4))
        weights = np.sinc(taps) * np.sinc(taps / 3)
        weights /= weights.sum(axis=1, keepdims=True)
        return np.sum(weights**2, axis=1)

    return float(np.mean(kept(u) * kept(v)))


def kept_by_resampling(night: Night, number: int, channel: int, points: NDArray[np.float64]) -> float:
    """Return the share of a raw pixel's variance that is left in a channel of one registered frame.

    Mono: from the weights of the kernel. Colour: white noise of the three colours' relative strengths through debayer
    and resampling, whose kernels are held to twins elsewhere; their chain correlates the noise before it is resampled.
    """
    matrix = np.array(night.result(night.truth.lights[number].path).transform)
    if night.truth.cfa is None:
        identity = np.allclose(matrix, np.eye(3))
        return 1.0 if identity else lanczos_variance(matrix, points)
    from wbpy.kernels.guided import guided
    from wbpy.kernels.warp import lanczos3

    height, width = night.truth.response().shape
    levels = np.array([np.median(night.truth.noise_in(number, name)) for name in "RGB"])
    rows, columns = np.indices((height, width))
    sigma = levels[night.truth.cfa[rows % 2, columns % 2]]
    noise = np.random.default_rng(number).normal(0, sigma).astype(np.float32)
    planes, out = (np.empty((3, height, width), np.float32) for _ in range(2))
    guided(noise, night.truth.cfa, planes)
    lanczos3(planes, 0, 0, matrix, out, 0, 0)
    return float(np.nanvar(out[channel]) / levels[channel] ** 2)


def test_background_noise_is_what_the_frames_allow(night: Night) -> None:
    """Measured noise of the stack within 5 % of the noise predicted from truth, weights and interpolation.

    Prediction per light: photon, dark and read noise, scaled as the light was; interpolation keeps a share of it.
    Masters of 20 frames add 1/40 to the noise of a light, but alike in all lights, and the dither spreads it over
    as many pixels. Rejection of Gaussian noise costs below 1 %.
    """
    inside = covered(night)
    height, width = inside.shape
    generator = np.random.default_rng(5)
    points = np.stack([generator.uniform(30, width - 30, 4000), generator.uniform(30, height - 30, 4000)])
    for channel, name in enumerate(channels(night)):
        truth = expected(night, name)
        faint = inside & (truth < np.percentile(truth[inside], 50))
        variance, weights = 0.0, 0.0
        for number, light in enumerate(night.truth.lights):
            result = night.result(light.path)
            scale, weight = result.measurements["scale"], result.weight
            assert scale is not None and weight is not None
            sigma = float(np.median(night.truth.noise_in(number, name)[faint])) / night.truth.e_per_dn
            sigma *= flat_level(night, name)
            variance += (weight * scale * sigma) ** 2 * kept_by_resampling(night, number, channel, points)
            weights += weight
        predicted = np.sqrt(variance) / weights
        residual = (planes(night)[channel] - truth)[faint]
        middle = np.median(residual)
        residual = residual[np.abs(residual - middle) < 5 * 1.4826 * np.median(np.abs(residual - middle))]
        assert float(np.std(residual)) == pytest.approx(predicted, rel=0.05), name


def test_the_scale_of_each_light_is_that_of_its_stars(night: Night) -> None:
    """Within 0.8 % rms: 50 to 80 stars of 3 to 5 % each, most of it sky noise in an aperture of four FWHM."""
    scales = np.array([night.result(light.path).measurements["scale"] for light in night.truth.lights], float)
    error = scales * night.truth.transparency
    assert np.std(error / np.median(error)) < 0.008


def test_the_weights_fall_with_cloud_and_bright_sky(night: Night) -> None:
    """The weight is the inverse variance of a pixel scaled to the reference's star flux, within 10 %."""
    name = channels(night)[len(channels(night)) // 2]
    truth = expected(night, name)
    faint = truth < np.percentile(truth, 50)
    expected_weights, weights = [], []
    for number, light in enumerate(night.truth.lights):
        sigma = np.median(night.truth.noise_in(number, name)[faint])
        expected_weights.append((light.transparency / sigma) ** 2)
        weights.append(night.result(light.path).weight)
    relative = np.array(weights) / (np.array(expected_weights) / max(expected_weights))
    assert np.all(np.abs(relative / np.median(relative) - 1) < 0.1)


def test_stars_are_as_sharp_as_in_the_lights(night: Night) -> None:
    """FWHM of the stack within 3 % of the lights' weighted mean, both measured the same way."""
    from wbpy.kernels.stars import detect_stars, fit_stars

    lights = [night.result(light.path) for light in night.truth.lights]
    widths = np.array([frame.measurements["fwhm_px"] for frame in lights], float)
    mean = np.average(widths, weights=[frame.weight for frame in lights])
    image = planes(night)[len(channels(night)) // 2].astype(np.float32)
    background = np.full_like(image, np.median(image))
    noise = 1.4826 * float(np.median(np.abs(image - background)))
    found = detect_stars(image, background, noise, 20.0)
    fits = fit_stars(image, found.x[:150], found.y[:150])
    width = float(np.median(np.sqrt(fits.fwhm_major[fits.ok] * fits.fwhm_minor[fits.ok])))
    assert width == pytest.approx(mean, rel=0.03)


def test_satellites_and_cosmic_rays_are_gone(night: Night) -> None:
    """What a trail leaves on its line, and hits on their pixels, is below 5 sigma of a pixel of the stack in the mean,
    and below 1 % of what an average without rejection would hold."""
    index = reference_index(night)
    there = np.linalg.inv(night.truth.transforms[index])
    inside = covered(night)
    name = channels(night)[len(channels(night)) // 2]
    image, truth = planes(night)[len(channels(night)) // 2], expected(night, name)
    residual = image - truth
    sky = inside & (truth < np.percentile(truth[inside], 60))
    middle = np.median(residual[sky])
    sigma = 1.4826 * np.median(np.abs(residual[sky] - middle))
    height, width = inside.shape
    for masks, raised_e in ((night.truth.satellites, night.truth.spec.satellite_e), (night.truth.cosmic_rays, 500.0)):
        seen = np.zeros((height, width), bool)
        for light, mask in zip(night.truth.lights, masks, strict=True):
            rows, columns = np.nonzero(mask)
            u, v = apply_transform(there_to(light.transform, there), columns, rows)
            u, v = np.rint(u).astype(int), np.rint(v).astype(int)
            ok = (u >= 0) & (u < width) & (v >= 0) & (v < height)
            seen[v[ok], u[ok]] = True
        hit = seen & sky
        assert hit.sum() > 50
        excess = float(np.mean(residual[hit] - middle))
        unrejected = raised_e / night.truth.e_per_dn / len(night.truth.lights)
        assert excess < 0.01 * unrejected + 3 * sigma / np.sqrt(hit.sum()), (excess, unrejected, sigma)
        assert np.percentile(residual[hit] - middle, 99) < 5 * sigma


def there_to(transform: NDArray[np.float64], there: NDArray[np.float64]) -> NDArray[np.float64]:
    """Matrix from a light's pixels to the reference's."""
    return np.asarray(np.linalg.inv(transform @ there))


def test_hot_pixels_leave_no_trace(night: Night) -> None:
    """Where hot pixels of the sensor stood in the reference, the stack is sky."""
    inside = covered(night)
    name = channels(night)[len(channels(night)) // 2]
    image, truth = planes(night)[len(channels(night)) // 2], expected(night, name)
    residual = image - truth
    sky = inside & (truth < np.percentile(truth[inside], 60))
    middle = np.median(residual[sky])
    sigma = 1.4826 * np.median(np.abs(residual[sky] - middle))
    x, y = night.truth.hot_pixels.T
    hot = np.zeros_like(inside)
    hot[y, x] = True
    values = residual[hit] - middle if (hit := hot & sky).any() else np.zeros(0)
    assert values.size >= 5
    assert np.all(np.abs(values) < 6 * sigma)
