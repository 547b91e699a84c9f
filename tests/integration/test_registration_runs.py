"""Registration in whole runs: distortion, lateral colour, dithering, and real frames on left-out stars."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from numpy.typing import NDArray

import wbpy
from wbpy.model import Finding, Run

Points = NDArray[np.float64]
Lens = Callable[[Points, str], Points]
WIDTH, HEIGHT = 480, 360
CENTRE = np.array([(WIDTH - 1) / 2, (HEIGHT - 1) / 2])
FWHM = 3.0


def draw(at: Points, flux: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return stars of round Gaussian profile, DN."""
    s = FWHM / 2.3548
    image = np.zeros((HEIGHT, WIDTH))
    for (x, y), light in zip(at, flux, strict=True):
        x0, x1 = max(0, round(x) - 9), min(WIDTH, round(x) + 10)
        y0, y1 = max(0, round(y) - 9), min(HEIGHT, round(y) + 10)
        if x0 >= x1 or y0 >= y1:
            continue
        across = np.exp(-((np.arange(x0, x1) - x) ** 2) / (2 * s * s))
        down = np.exp(-((np.arange(y0, y1) - y) ** 2) / (2 * s * s))
        image[y0:y1, x0:x1] += light * np.outer(down, across)
    return image


def night(folder: Path, shifts: Sequence[tuple[float, float]], lens: Lens, cfa: bool = False, top: int = 65535) -> Path:
    """Write one light for each shift of the sky in front of the lens, lens(points, colour) on the sensor."""
    rng = np.random.default_rng(3)
    sky = CENTRE + rng.uniform(-1, 1, (1100, 2)) * [WIDTH, HEIGHT]
    flux = np.minimum(300 * (1 + rng.pareto(0.9, len(sky))), 30000)
    folder.mkdir(parents=True)
    for number, shift in enumerate(shifts):
        moved = sky + shift
        planes = {colour: draw(lens(moved, colour), flux) for colour in ("RGB" if cfa else "G")}
        image = planes["G"].copy()
        if cfa:
            image[0::2, 0::2], image[1::2, 1::2] = planes["R"][0::2, 0::2], planes["B"][1::2, 1::2]
        pixels = np.clip(image + 800 + rng.normal(0, 12, image.shape), 0, top).round().astype(np.uint16)
        header = fits.Header()
        header["IMAGETYP"], header["EXPTIME"], header["INSTRUME"], header["OBJECT"] = "LIGHT", 60.0, "Test", "Field"
        header["DATE-OBS"], header["GAIN"], header["XBINNING"] = f"2025-03-01T22:{number:02d}:00", 100, 1
        if cfa:
            header["BAYERPAT"] = "RGGB"
        fits.writeto(folder / f"light_{number:02d}.fits", pixels, header)
    return folder


def straight(points: Points, colour: str) -> Points:
    return points


def bent(points: Points, colour: str) -> Points:
    """Twenty pixels of third order in the corners."""
    away = (points - CENTRE) / np.hypot(*CENTRE)
    return points + 20.0 * away * (away**2).sum(axis=1, keepdims=True)


def coloured(points: Points, colour: str) -> Points:
    """Red larger, blue smaller than green: 0.45 and 0.3 px in the corners."""
    growth = {"R": 1.0015, "G": 1.0, "B": 0.999}[colour]
    return CENTRE + (points - CENTRE) * growth


def run(folder: Path, out: Path, *settings: str) -> Run:
    return wbpy.run(wbpy.plan(folder, out, set=list(settings)))


def integration(found: Run) -> NDArray[np.float64]:
    with fits.open(next(p.path for p in found.products if p.kind == "integration")) as units:
        return np.asarray(units[0].data, np.float64) * 65535


def one(found: Run, id: str) -> Finding | None:
    return next((finding for finding in found.findings if finding.id == id), None)


def numbers(found: Run, name: str) -> list[float]:
    values = [frame.measurements.get(name) for frame in found.frames if frame.role == "light"]
    return [value for value in values if value is not None]


FAR = [(0.0, 0.0), (45.0, 30.0), (-50.0, 20.0), (30.0, -40.0)]


@pytest.fixture(scope="module")
def lens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return night(tmp_path_factory.mktemp("lens") / "in", FAR, bent)


@pytest.fixture(scope="module")
def uncorrected(lens: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(lens, tmp_path_factory.mktemp("off"), "register.distortion=off", "integrate.rejection=none")


def test_the_distortion_of_a_lens_is_seen_corrected_and_reported(lens: Path, uncorrected: Run, tmp_path: Path) -> None:
    found = run(lens, tmp_path, "integrate.rejection=none")
    finding = one(found, "REG004")
    assert finding is not None and finding.evidence["lights"] == 3
    # Two frames of 20 px in the corners moved by 54 of 300 px against each other, less what a homography takes.
    assert 2.0 < max(numbers(found, "distortion_px")) < 11.0
    # The bar of the issue is 0.1 px against truth; held-out stars have the errors of their own positions on top.
    assert max(numbers(found, "registration_heldout_rms_px")) < 0.12
    assert one(found, "REG003") is None
    # Three of four lights lie 0.4 to 0.7 px (rms) off: sigma^2 grows by some 0.05 px^2 from 1.4, 2 % of the width.
    widths = [edge_width(integration(result)) for result in (found, uncorrected)]
    assert widths[0] < 0.993 * widths[1]


def edge_width(image: NDArray[np.float64]) -> float:
    """Return the median FWHM of the stars in the outer part of a picture, px."""
    from wbpy.kernels import stars

    filled = np.nan_to_num(image, nan=np.nanmedian(image)).astype(np.float32)
    level = np.full((6, 8), np.median(filled), np.float32)
    found = stars.detect_stars(filled, level, 12.0, 20.0, 300, 58000.0, mesh=64)
    away = np.hypot(found.x - CENTRE[0], found.y - CENTRE[1])
    inside = (np.abs(found.x - CENTRE[0]) < WIDTH / 2 - 60) & (np.abs(found.y - CENTRE[1]) < HEIGHT / 2 - 50)
    outer = (away > 110) & inside
    fits = stars.fit_stars(filled, found.x[outer], found.y[outer], 58000.0)
    return float(np.median(np.sqrt(fits.fwhm_major * fits.fwhm_minor)[fits.ok]))


def test_distortion_that_is_left_is_reported_with_its_map(uncorrected: Run) -> None:
    assert one(uncorrected, "REG004") is None and max(numbers(uncorrected, "distortion_px")) == 0.0
    finding = one(uncorrected, "REG003")
    assert finding is not None
    assert 2 * float(str(finding.evidence["better_px"])) < float(str(finding.evidence["heldout_px"]))
    assert "register.distortion" in finding.remedy
    assert "Median residuals" in Path(uncorrected.log).read_text()


def test_a_spline_can_be_asked_for(lens: Path, tmp_path: Path) -> None:
    few = tmp_path / "in"
    few.mkdir()
    for name in ("light_00.fits", "light_01.fits"):
        (few / name).write_bytes((lens / name).read_bytes())
    found = run(few, tmp_path / "out", "register.distortion=spline")
    assert max(numbers(found, "registration_heldout_rms_px")) < 0.12
    assert "spline" in Path(found.log).read_text()


def test_good_optics_are_left_alone_and_saturation_reaches_the_resampling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wbpy.kernels import warp

    levels = []

    def spying(*arguments: object) -> None:
        levels.append(arguments[-1])
        warp.lanczos3(*arguments)  # type: ignore[arg-type]

    monkeypatch.setitem(warp.KERNELS, "lanczos3", spying)
    found = run(night(tmp_path / "in", FAR, straight, top=12000), tmp_path / "out")
    # Pixels pile up at 12000, and count as saturated a little below; the warm-up knows of no saturation.
    known = [float(str(level)) for level in levels if level != np.inf]
    assert known and all(10000 < level <= 12000 for level in known)
    assert not {"REG003", "REG004", "REG005"} & {finding.id for finding in found.findings}
    assert max(numbers(found, "distortion_px")) == 0.0
    for number in range(9):
        assert f"registration_residual_r{number // 3}c{number % 3}_px" in found.frames[0].measurements
    assert max(numbers(found, "registration_heldout_rms_px")) < 0.15


def colour_distance(image: NDArray[np.float64], other: int) -> float:
    """Return the mean distance of a channel's stars from green's, outwards, in the outer half of the picture, px."""
    from scipy import ndimage

    green = np.nan_to_num(image[1], nan=np.nanmedian(image[1]))
    peaks = np.argwhere((green == ndimage.maximum_filter(green, 9)) & (green > np.median(green) + 3000))
    outwards = []
    for y, x in peaks:
        away = np.array([x, y]) - CENTRE
        if np.hypot(*away) < 130 or min(x, y) < 12 or x > WIDTH - 13 or y > HEIGHT - 13:
            continue
        places = []
        for channel in (1, other):
            stamp = np.nan_to_num(image[channel, y - 4 : y + 5, x - 4 : x + 5]) - np.nanmedian(image[channel])
            dy, dx = np.mgrid[-4:5, -4:5]
            places.append(np.array([(stamp * dx).sum(), (stamp * dy).sum()]) / stamp.sum())
        outwards.append((places[1] - places[0]) @ away / np.hypot(*away))
    assert len(outwards) > 15
    return float(np.median(outwards))


def test_red_and_blue_are_brought_onto_green(tmp_path: Path) -> None:
    shifts = [(0.0, 0.0), (7.3, 4.1), (-5.2, 8.7), (3.4, -6.6)]
    folder = night(tmp_path / "in", shifts, coloured, cfa=True)
    found, plain = run(folder, tmp_path / "out"), run(folder, tmp_path / "off", "register.lateral_colour=off")
    finding = one(found, "REG005")
    assert finding is not None and finding.evidence["lights"] == 4
    # 300 px from the centre to the corner: 0.45 and 0.3 px.
    assert finding.evidence["red_px"] == pytest.approx(0.45, abs=0.06)
    assert finding.evidence["blue_px"] == pytest.approx(0.30, abs=0.06)
    assert one(plain, "REG005") is None
    for channel, sign in ((0, 1), (2, -1)):
        before, after = (colour_distance(integration(result), channel) for result in (plain, found))
        assert sign * before > 0.12
        assert abs(after) < 0.05


def test_frames_without_lateral_colour_are_left_alone(tmp_path: Path) -> None:
    folder = night(tmp_path / "in", [(0.0, 0.0), (7.3, 4.1), (-5.2, 8.7)], straight, cfa=True)
    found = run(folder, tmp_path / "out")
    assert one(found, "REG005") is None and not numbers(found, "red_shift_px")


def dithered(folder: Path, shifts: NDArray[np.float64]) -> Run:
    lights = night(folder / "in", [(float(x), float(y)) for x, y in shifts], straight)
    return run(lights, folder / "out", "integrate.rejection=none")


def ids(found: Run) -> set[str]:
    return {finding.id for finding in found.findings if finding.id.startswith("DTH")}


def test_a_slow_drift_is_called_walking_noise(tmp_path: Path) -> None:
    found = dithered(tmp_path, np.arange(9)[:, None] * np.array([0.6, 0.3]))
    assert ids(found) == {"DTH002"}
    finding = one(found, "DTH002")
    assert finding is not None
    assert finding.evidence["drift_px"] == pytest.approx(8 * np.hypot(0.6, 0.3), abs=0.1)
    # The sky moves by +x, so that the sensor moves by -x over the sky.
    assert finding.evidence["direction_deg"] == pytest.approx(180 + np.degrees(np.arctan2(0.3, 0.6)) - 360, abs=2)
    assert "2025-03-01" in str(finding.evidence["session"])


def test_lights_without_dithering_are_reported_and_dithered_ones_are_not(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    assert ids(dithered(tmp_path / "still", rng.normal(0, 0.1, (6, 2)))) == {"DTH001"}
    found = dithered(tmp_path / "moved", rng.normal(0, 6.0, (6, 2)))
    assert not ids(found)
    assert "Dithering of 2025-03-01" in Path(found.log).read_text()


def test_a_frame_of_another_field_is_excluded_with_the_reason(tmp_path: Path) -> None:
    folder = night(tmp_path / "in", [(0.0, 0.0), (5.0, 3.0), (-4.0, 6.0)], straight)
    with fits.open(folder / "light_02.fits") as units:
        header = units[0].header
        image = np.full((HEIGHT, WIDTH), 800, np.uint16)
        image += np.random.default_rng(5).normal(0, 12, image.shape).round().astype(np.int16).astype(np.uint16)
        rng = np.random.default_rng(6)
        stars = draw(rng.uniform(0, 1, (200, 2)) * [WIDTH, HEIGHT], 300 * (1 + rng.pareto(0.9, 200)))
    fits.writeto(folder / "light_02.fits", np.clip(image + stars, 0, 65535).astype(np.uint16), header, overwrite=True)
    found = run(folder, tmp_path / "out")
    finding = one(found, "REG001")
    assert finding is not None and finding.subject.endswith("light_02.fits")
    assert "no transform brings more stars together than chance would" in finding.message
    assert next(p for p in found.products if p.kind == "integration").frames_used == 2


REAL = {
    "hatp32_microobservatory": ("scan.role=light",),
    "m94_seestar_s50": (),
    "m13_orion_g3": (),
}


@pytest.mark.parametrize("name", REAL)
def test_real_frames_are_registered_to_a_quarter_of_a_pixel_on_left_out_stars(
    name: str, real_data: Path, tmp_path: Path
) -> None:
    found = run(real_data / name, tmp_path, *REAL[name])
    left_out = numbers(found, "registration_heldout_rms_px")
    assert len(left_out) >= 5
    assert max(left_out) < 0.25
    assert one(found, "REG001") is None and one(found, "REG003") is None
