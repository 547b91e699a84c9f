"""A night in files: lights with everything that goes wrong with lights, their calibration frames, and the truth.

`write_session` draws every frame from a stream of random numbers of its own, named after its role, filter and number:
the fifth light is the same whether ten or twenty are taken.

Points and masks of the truth are those of the file: row 0 is the first row of the array.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wbpy.errors import ConfigError
from wbpy.simulate.headers import Card, Dialect, FrameInfo, find_dialect, fits_bytes
from wbpy.simulate.scene import (
    CHANNELS,
    Psf,
    Scene,
    apply_transform,
    field_transform,
    make_scene,
    render,
    render_channels,
)
from wbpy.simulate.sensor import (
    Optics,
    Sensor,
    cfa_indices,
    draw_cosmic_rays,
    draw_satellite,
    fixed_pattern,
    mosaic,
    stream,
)

FOLDERS = {"light": "LIGHT", "dark": "DARK", "flat": "FLAT", "flat_dark": "DARKFLAT", "bias": "BIAS"}
"""Sub-folder of the session by frame role."""

FAULTS = {
    "truncate": "the file ends in the middle of the pixels",
    "garbage": "the file holds no FITS at all",
    "empty": "the file has no bytes",
    "no_type": "the cards that name the frame type are missing",
    "wrong_type": "a light whose header says dark, or a calibration frame whose header says light",
    "wrong_gain": "taken at gain + 100 with half the electrons per DN; the header says so",
    "wrong_offset": "taken at twice the offset; the header says so",
    "wrong_size": "16 columns and 8 rows are missing",
    "warm": "taken 10 degrees warmer than the rest; the header says so",
    "cloud": "a fifth of the light arrives and the sky is brighter",
    "defocus": "stars three times as wide",
    "trailed": "stars drawn out by the wind",
    "closed": "the shutter stayed shut: no light at all",
    "twilight": "the sky is at half of saturation",
    "leak": "light falls into the upper left corner past the optics, of a closed camera as well",
    "subtracted": "the camera's offset was subtracted and what was negative cut to zero",
    "white_balance": "the driver multiplied red by 52/50 and blue by 95/50, as the native driver of some cameras does",
    "unscaled": "the converter's numbers were not multiplied to fill 16 bits",
}
"""What `SessionSpec.faults` can do to a frame."""

_CFA_COLOURS = ("R", "G", "B")
_PANEL_COLOUR = {"R": 0.62, "G": 1.0, "B": 0.74}


@dataclass(frozen=True)
class SessionSpec:
    """What is taken, with what, and what goes wrong. Defaults: ten good mono lights and their calibration frames.

    Parameters
    ----------
    seed : int
        Decides everything that is not decided by the seeds of `sensor` and `optics`.
    sensor, optics : Sensor, Optics
    scene : Scene or None
        The sky; None makes one from `seed` and the five fields that follow.
    n_stars, brightest_e_per_s, faintest_e_per_s, nebula_e_per_s, sky_e_per_s
        See `make_scene`.
    filters : mapping of str to int, or None
        Lights by filter, in the order of capture; names are members of `CHANNELS`. None: `n_lights` through L, or
        without any filter on a colour sensor.
    n_lights : int
        Used when `filters` is None.
    exposure_s : float
    exposures_s : mapping of str to float
        Other light exposures by filter.
    n_darks, n_flats, n_flat_darks, n_bias : int
        Darks for each light exposure, flats for each filter, flat-darks for each flat exposure, bias frames.
    dark_exposures_s : tuple of float, or None
        Exposures of the darks; None follows the lights.
    dark_temperature_c : float or None
        Temperature of the darks and the bias frames; None follows the lights.
    flat_exposure_s, flat_level : float
        Exposure of the flats and their level as a share of the range above the offset.
    bias_exposure_s : float
    dither_px, drift_px : float, (float, float)
        Standard deviation of the random shift of each light and axis; steady shift (x, y) from one light to the next.
    rotation_deg : float
        Field rotation from one light to the next.
    scale : float
        Frame pixels per sky-plane pixel.
    meridian_flip_at : int or None
        First light (counted through all filters) that is taken on the other side of the pier.
    fwhm_px, ellipticity : (float, float)
        Ranges of the seeing.
    beta : float
        Moffat exponent of the stars.
    transparency : (float, float)
        Range of the share of light that passes the air.
    sky_gradient : float
        Sky brightness difference across the diagonal, as a share of the mean.
    sky_drift : float
        Relative brightening of the sky from one light to the next.
    cosmic_rays : float
        Mean number of hits in a light of `exposure_s`; darks get theirs by exposure.
    satellites : tuple of int
        Lights with a trail.
    satellite_e : float
        Electrons per pixel on the axis of a trail.
    leak_e_per_s : float
        Electrons per second that a leak of light gives the corner.
    flat_optics : Optics or None
        Optics in front of the flats, where they differ from those of the lights.
    faults : mapping of (int or (str, int)) to str
        Light number (from 0, through all filters), or role and number within the role -> a key of `FAULTS`.
    dialect : str
        A key of `wbpy.simulate.headers.DIALECTS`.
    object_name, camera, telescope : str
    focal_length_mm, pixel_um, ra_deg, dec_deg, rotator_deg : float
    gain, offset : int
        Camera settings for the header.
    start_utc : datetime
        Start of the first light, without time zone. Flats follow the lights, darks and bias frames follow the flats.
    utc_offset_h : float
    temperature_set_c : float or None
        None is a camera without a cooler.
    temperature_c : float
        True sensor temperature at the first light.
    temperature_drift_c, temperature_jitter_c : float
        Steady change from one frame to the next; random change.
    """

    seed: int = 1
    sensor: Sensor = field(default_factory=Sensor)
    optics: Optics = field(default_factory=Optics)
    scene: Scene | None = None
    n_stars: int = 300
    brightest_e_per_s: float = 6000.0
    faintest_e_per_s: float = 4.0
    nebula_e_per_s: float = 4.0
    sky_e_per_s: float = 3.0
    filters: Mapping[str, int] | None = None
    n_lights: int = 10
    exposure_s: float = 60.0
    exposures_s: Mapping[str, float] = field(default_factory=dict)
    n_darks: int = 8
    n_flats: int = 8
    n_flat_darks: int = 8
    n_bias: int = 8
    dark_exposures_s: tuple[float, ...] | None = None
    dark_temperature_c: float | None = None
    flat_exposure_s: float = 2.0
    flat_level: float = 0.45
    bias_exposure_s: float = 0.001
    dither_px: float = 3.0
    drift_px: tuple[float, float] = (0.4, -0.25)
    rotation_deg: float = 0.0
    scale: float = 1.0
    meridian_flip_at: int | None = None
    fwhm_px: tuple[float, float] = (2.6, 3.4)
    ellipticity: tuple[float, float] = (0.0, 0.1)
    beta: float = 4.0
    transparency: tuple[float, float] = (0.95, 1.0)
    sky_gradient: float = 0.1
    sky_drift: float = 0.0
    cosmic_rays: float = 3.0
    satellites: tuple[int, ...] = ()
    satellite_e: float = 3000.0
    leak_e_per_s: float = 0.5
    flat_optics: Optics | None = None
    faults: Mapping[int | tuple[str, int], str] = field(default_factory=dict)
    dialect: str = "nina"
    object_name: str = "Sketch Nebula"
    camera: str = "Simulated Camera"
    telescope: str = "Simulated Refractor"
    focal_length_mm: float = 400.0
    pixel_um: float = 3.76
    ra_deg: float = 312.75
    dec_deg: float = 30.7
    rotator_deg: float = 91.5
    gain: int = 100
    offset: int = 50
    start_utc: datetime = datetime(2025, 9, 20, 20, 30, 0, 250_000)
    utc_offset_h: float = 2.0
    temperature_set_c: float | None = -10.0
    temperature_c: float = -10.0
    temperature_drift_c: float = 0.0
    temperature_jitter_c: float = 0.1

    def light_plan(self) -> list[tuple[str | None, int]]:
        """Return filter name (None without a filter wheel) and number of lights, in the order of capture."""
        if self.filters is not None:
            return list(self.filters.items())
        return [(None if self.sensor.cfa else "L", self.n_lights)]

    def light_exposure_s(self, filter_name: str | None) -> float:
        """Return the exposure of the lights through a filter, s."""
        return self.exposures_s.get(filter_name or "", self.exposure_s)


@dataclass(frozen=True)
class LightTruth:
    """What is known about one light.

    Attributes
    ----------
    path : Path
    filter_name : str or None
    exposure_s, temperature_c : float
    transform : (3, 3) float64 ndarray
        Sky-plane points to file points.
    psf : Psf
        With the angle of the file.
    transparency, sky_factor : float
        Share of the light from above the air; sky glow relative to the scene's.
    sky_slope : (float, float)
        Relative change of the sky glow per pixel along x and y of the file.
    satellite, cosmic_ray : (H, W) bool ndarray
        Pixels that a trail or a particle raised by more than one electron.
    fault : str
        Key of `FAULTS`, or "".
    """

    path: Path
    filter_name: str | None
    exposure_s: float
    temperature_c: float
    transform: NDArray[np.float64]
    psf: Psf
    transparency: float
    sky_factor: float
    sky_slope: tuple[float, float]
    satellite: NDArray[np.bool_]
    cosmic_ray: NDArray[np.bool_]
    fault: str


@dataclass(frozen=True)
class Truth:
    """What `write_session` put into the files.

    Attributes
    ----------
    spec : SessionSpec
    scene : Scene
    lights : tuple of LightTruth
        In the order of capture.
    files : dict of str to tuple of Path
        Files by frame role.
    """

    spec: SessionSpec
    scene: Scene
    lights: tuple[LightTruth, ...]
    files: dict[str, tuple[Path, ...]]

    @property
    def transforms(self) -> list[NDArray[np.float64]]:
        """One 3x3 matrix a light: sky-plane points (x, y) to file points."""
        return [light.transform for light in self.lights]

    @property
    def satellites(self) -> list[NDArray[np.bool_]]:
        """One (H, W) mask a light."""
        return [light.satellite for light in self.lights]

    @property
    def cosmic_rays(self) -> list[NDArray[np.bool_]]:
        """One (H, W) mask a light."""
        return [light.cosmic_ray for light in self.lights]

    @property
    def fwhm_px(self) -> NDArray[np.float64]:
        """(N,) geometric mean of the star widths."""
        return np.array([light.psf.fwhm_px for light in self.lights])

    @property
    def transparency(self) -> NDArray[np.float64]:
        """(N,) share of light that passed the air."""
        return np.array([light.transparency for light in self.lights])

    @property
    def e_per_dn(self) -> float:
        """Electrons per DN of the files."""
        return self.spec.sensor.e_per_dn

    @property
    def cfa(self) -> NDArray[np.uint8] | None:
        """Colour at [y % p, x % p] of the file as (p, p) uint8 (0 R, 1 G, 2 B), or None for mono."""
        sensor = self.spec.sensor
        if sensor.cfa is None:
            return None
        pattern = cfa_indices(sensor.cfa)
        if sensor.row_order != "BOTTOM-UP":
            return pattern
        # The file's first row is the last of the picture.
        return np.roll(pattern[::-1], sensor.height % len(pattern), axis=0)

    @cached_property
    def stars(self) -> NDArray[np.void]:
        """Structured array of the stars on the sky plane: x, y in px and the flux in e-/s for each channel."""
        scene = self.scene
        table = np.zeros(scene.x.size, dtype=[(name, "f8") for name in ("x", "y", *CHANNELS)])
        table["x"], table["y"] = scene.x, scene.y
        for channel in CHANNELS:
            table[channel] = scene.flux[channel]
        return table

    @property
    def hot_pixels(self) -> NDArray[np.intp]:
        """(N, 2) integer x, y of the hot pixels in the file."""
        return self._points(fixed_pattern(self.spec.sensor).hot)

    @property
    def warm_pixels(self) -> NDArray[np.intp]:
        """(N, 2) integer x, y of the warm pixels in the file."""
        return self._points(fixed_pattern(self.spec.sensor).warm)

    @property
    def cold_pixels(self) -> NDArray[np.intp]:
        """(N, 2) integer x, y of the cold pixels in the file."""
        return self._points(fixed_pattern(self.spec.sensor).cold)

    def stars_in(self, index: int) -> NDArray[np.void]:
        """Return `stars` with x and y on the file of light `index`; some lie outside."""
        table = self.stars.copy()
        table["x"], table["y"] = apply_transform(self.lights[index].transform, self.scene.x, self.scene.y)
        return table

    def response(self, filter_name: str | None = None) -> NDArray[np.float64]:
        """Return optics times pixel response, (H, W) float64 in file order; about 1 in the middle."""
        sensor = self.spec.sensor
        light = self.spec.optics.flat(sensor.width, sensor.height, filter_name or "")
        return _file_order(light * fixed_pattern(sensor).response, sensor)

    def dark_e(self, exposure_s: float, temperature_c: float) -> NDArray[np.float64]:
        """Return the expected dark signal with glow, (H, W) float64 in file order, e-."""
        return _file_order(self.spec.sensor.dark_electrons(exposure_s, temperature_c), self.spec.sensor)

    def scene_in(
        self,
        reference_index: int,
        channel: str,
        *,
        psf: Psf | None = None,
        sky: bool = True,
        transparency: float | None = None,
    ) -> NDArray[np.float64]:
        """Return the noiseless light of the scene as light `reference_index` sees it, before optics and sensor.

        Parameters
        ----------
        reference_index : int
            Whose geometry, seeing, transparency and sky glow to use.
        channel : str
            Member of `CHANNELS`; R, G and B of a colour sensor are full planes, not mosaics.
        psf : Psf, optional
            Another seeing, in pixels of that file.
        sky : bool
            Include the sky glow with its gradient.
        transparency : float, optional
            Another transparency; 1 is above the air.

        Returns
        -------
        (H, W) float64 ndarray, e-/s, in file order
            Without satellites, particles, dark signal and bias.
        """
        light = self.lights[reference_index]
        sensor = self.spec.sensor
        shape = (sensor.width, sensor.height)
        plane = render(self.scene, light.transform, psf or light.psf, *shape, channel, sky=False)
        plane *= light.transparency if transparency is None else transparency
        if sky:
            plane += self.scene.sky[channel] * _sky_shape(light, sensor.width, sensor.height, self.spec.scale)
        return plane

    def noise_in(self, index: int, channel: str) -> NDArray[np.float64]:
        """Return the noise of light `index` after perfect calibration, in electrons before the optics.

        Photon noise of scene, sky glow and dark signal, read noise and rounding; no noise of masters, trails or
        particles.

        Returns
        -------
        (H, W) float64 ndarray, e-
            Standard deviation over the exposure; divide by `e_per_dn` for DN. Infinite where there is no response.
        """
        light = self.lights[index]
        response = self.response(light.filter_name)
        signal = self.scene_in(index, channel) * response * light.exposure_s
        variance = signal + self.dark_e(light.exposure_s, light.temperature_c)
        variance += self.spec.sensor.read_variance_e2
        with np.errstate(divide="ignore"):
            noise: NDArray[np.float64] = np.sqrt(variance) / response
        return noise

    def _points(self, mask: NDArray[np.bool_]) -> NDArray[np.intp]:
        rows, columns = np.nonzero(mask[::-1] if self.spec.sensor.row_order == "BOTTOM-UP" else mask)
        return np.stack([columns, rows], axis=1)


def _file_order(plane: NDArray[np.float64], sensor: Sensor) -> NDArray[np.float64]:
    return plane[::-1].copy() if sensor.row_order == "BOTTOM-UP" else plane


def _sky_shape(light: LightTruth, width: int, height: int, scale: float) -> NDArray[np.float64]:
    y, x = np.indices((height, width), dtype=np.float64)
    slope_x, slope_y = light.sky_slope
    tilt = 1.0 + slope_x * (x - (width - 1) / 2.0) + slope_y * (y - (height - 1) / 2.0)
    return np.asarray(light.sky_factor * np.maximum(tilt, 0.0) / scale**2)


@dataclass(frozen=True)
class _Shot:
    """One frame to be taken: its name in the session and the clock."""

    role: str
    number: int
    filter_name: str | None
    exposure_s: float
    start: datetime
    order: int
    fault: str


def write_session(directory: str | Path, spec: SessionSpec) -> Truth:
    """Return the truth about the frames that were written below `directory`.

    Frames go to the sub-folders of `FOLDERS`, which are made; files of the same name are replaced.

    Parameters
    ----------
    directory : str or Path
    spec : SessionSpec

    Returns
    -------
    Truth

    Raises
    ------
    ConfigError
        If `spec` names an unknown filter, fault, frame role or dialect, or filters for a colour sensor that are not
        known; before anything is written.
    """
    folder = Path(directory)
    dialect = find_dialect(spec.dialect)
    _check(spec)
    sensor = spec.sensor
    scene = spec.scene or make_scene(
        spec.seed,
        sensor.width,
        sensor.height,
        spec.n_stars,
        brightest_e_per_s=spec.brightest_e_per_s,
        faintest_e_per_s=spec.faintest_e_per_s,
        nebula_e_per_s=spec.nebula_e_per_s,
        sky_e_per_s=spec.sky_e_per_s,
    )
    lights: list[LightTruth] = []
    files: dict[str, list[Path]] = {role: [] for role in FOLDERS}
    for shot in _shots(spec):
        path_of = folder / FOLDERS[shot.role]
        path_of.mkdir(parents=True, exist_ok=True)
        camera, offset, gain = _camera_of(spec, shot)
        temperature = _temperature(spec, shot)
        info = _frame_info(spec, shot, temperature, gain, offset)
        path = path_of / dialect.file_name(info)
        if shot.role == "light":
            light, pixels = _take_light(spec, camera, scene, shot, temperature, path)
            lights.append(light)
        else:
            pixels = _take_calibration(spec, camera, shot, temperature)
        pixels = _treat(sensor, shot.fault, pixels)
        if sensor.row_order == "BOTTOM-UP":
            pixels = pixels[::-1]
        _write_frame(path, dialect, info, pixels, shot.fault)
        files[shot.role].append(path)
    return Truth(spec, scene, tuple(lights), {role: tuple(paths) for role, paths in files.items()})


def _check(spec: SessionSpec) -> None:
    for name, _ in spec.light_plan():
        if name is not None and name not in CHANNELS and spec.sensor.cfa is None:
            raise ConfigError(f"filter {name!r} is not known to the scene; expected one of {', '.join(CHANNELS)}")
    for key, fault in spec.faults.items():
        if fault not in FAULTS:
            raise ConfigError(f"fault {fault!r} is unknown; expected one of {', '.join(FAULTS)}")
        if not isinstance(key, int) and key[0] not in FOLDERS:
            raise ConfigError(f"frame role {key[0]!r} is unknown; expected one of {', '.join(FOLDERS)}")


def _shots(spec: SessionSpec) -> Iterator[_Shot]:
    """Yield the frames in the order of capture."""
    clock = spec.start_utc
    order = 0
    series: list[tuple[str, str | None, float, int]] = []
    for name, count in spec.light_plan():
        series.append(("light", name, spec.light_exposure_s(name), count))
    for name, _ in spec.light_plan():
        series.append(("flat", name, spec.flat_exposure_s, spec.n_flats))
    wheel = spec.light_plan()[-1][0]
    series.append(("flat_dark", wheel, spec.flat_exposure_s, spec.n_flat_darks))
    exposures = spec.dark_exposures_s
    if exposures is None:
        exposures = tuple(dict.fromkeys(spec.light_exposure_s(name) for name, _ in spec.light_plan()))
    series += [("dark", wheel, exposure, spec.n_darks) for exposure in exposures]
    series.append(("bias", wheel, spec.bias_exposure_s, spec.n_bias))
    taken = dict.fromkeys(FOLDERS, 0)
    for role, name, exposure, count in series:
        if role == "flat" and taken["flat"] == 0:
            clock = max(clock, spec.start_utc + timedelta(hours=9))
        for number in range(count):
            key = taken[role]
            fault = spec.faults.get((role, key), spec.faults.get(key, "") if role == "light" else "")
            yield _Shot(role, number, name, exposure, clock, order, fault)
            taken[role] += 1
            order += 1
            clock += timedelta(seconds=exposure + 4.0)


def _shot_stream(spec: SessionSpec, shot: _Shot, purpose: str) -> np.random.Generator:
    series = f"{shot.role} {shot.filter_name if shot.role in ('light', 'flat') else ''} {shot.exposure_s:g}"
    return stream(spec.seed, series, shot.number, purpose)


def _camera_of(spec: SessionSpec, shot: _Shot) -> tuple[Sensor, int, int]:
    """Return the sensor, the offset setting and the gain setting that a frame is taken with."""
    sensor = spec.sensor
    if shot.fault == "wrong_gain":
        return replace(sensor, e_per_dn=sensor.e_per_dn / 2.0), spec.offset, spec.gain + 100
    if shot.fault == "wrong_offset":
        return replace(sensor, offset_dn=2.0 * sensor.offset_dn), 2 * spec.offset, spec.gain
    return sensor, spec.offset, spec.gain


def _temperature(spec: SessionSpec, shot: _Shot) -> float:
    """Return the true temperature, rounded to the tenth of a degree that headers show."""
    base = spec.temperature_c
    if shot.role in ("dark", "bias") and spec.dark_temperature_c is not None:
        base = spec.dark_temperature_c
    jitter = spec.temperature_jitter_c * float(_shot_stream(spec, shot, "temperature").standard_normal())
    excess = 10.0 if shot.fault == "warm" else 0.0
    # Adding zero turns -0.0 into 0.0.
    return round(base + spec.temperature_drift_c * shot.order + jitter + excess, 1) + 0.0


def _is_flipped(spec: SessionSpec, shot: _Shot) -> bool:
    return spec.meridian_flip_at is not None and shot.order >= spec.meridian_flip_at


def _frame_info(spec: SessionSpec, shot: _Shot, temperature: float, gain: int, offset: int) -> FrameInfo:
    rng = _shot_stream(spec, shot, "pointing")
    scatter = spec.dither_px * spec.pixel_um / spec.focal_length_mm * 1e-3 * math.degrees(1.0)
    ra = spec.ra_deg + scatter * float(rng.standard_normal()) / math.cos(math.radians(spec.dec_deg))
    dec = spec.dec_deg + scatter * float(rng.standard_normal())
    set_point = spec.temperature_set_c
    if set_point is not None and shot.role in ("dark", "bias") and spec.dark_temperature_c is not None:
        set_point = float(round(spec.dark_temperature_c))
    return FrameInfo(
        role=shot.role,
        number=shot.number + 1,
        width=spec.sensor.width,
        height=spec.sensor.height,
        exposure_s=shot.exposure_s,
        start=shot.start,
        utc_offset_h=spec.utc_offset_h,
        object_name=spec.object_name,
        camera=spec.camera,
        telescope=spec.telescope,
        focal_length_mm=spec.focal_length_mm,
        pixel_um=spec.pixel_um,
        gain=gain,
        offset=offset,
        e_per_dn=spec.sensor.e_per_dn if gain == spec.gain else spec.sensor.e_per_dn / 2.0,
        temp_set_c=set_point,
        temp_c=temperature,
        filter_name=shot.filter_name,
        cfa=spec.sensor.cfa,
        row_order=spec.sensor.row_order,
        ra_deg=round(ra, 6),
        dec_deg=round(dec, 6),
        pier_side="East" if _is_flipped(spec, shot) else "West",
        rotator_deg=spec.rotator_deg,
    )


def _channels(sensor: Sensor, filter_name: str | None) -> tuple[str, ...]:
    return _CFA_COLOURS if sensor.cfa else (filter_name or "L",)


def _collapse(planes: NDArray[np.float64], sensor: Sensor) -> NDArray[np.float64]:
    """Return what the sensor's colour filters let through."""
    return mosaic(planes, cfa_indices(sensor.cfa)) if sensor.cfa else planes[0]


def _take_light(
    spec: SessionSpec, sensor: Sensor, scene: Scene, shot: _Shot, temperature: float, path: Path
) -> tuple[LightTruth, NDArray[np.uint16]]:
    width, height = sensor.width, sensor.height
    rng = _shot_stream(spec, shot, "mount")
    dx, dy = spec.dither_px * rng.standard_normal(2) + shot.order * np.array(spec.drift_px)
    transform = field_transform(
        width,
        height,
        dx=float(dx),
        dy=float(dy),
        rotation_deg=spec.rotation_deg * shot.order,
        scale=spec.scale,
        flipped=_is_flipped(spec, shot),
    )
    rng = _shot_stream(spec, shot, "air")
    psf = Psf(rng.uniform(*spec.fwhm_px), rng.uniform(*spec.ellipticity), rng.uniform(0.0, 180.0), spec.beta)
    transparency = rng.uniform(*spec.transparency)
    sky_factor = (1.0 + spec.sky_drift) ** shot.order
    if shot.fault == "cloud":
        transparency, sky_factor = 0.2 * transparency, 1.5 * sky_factor
    elif shot.fault == "defocus":
        psf = replace(psf, fwhm_px=3.0 * psf.fwhm_px)
    elif shot.fault == "trailed":
        psf = replace(psf, fwhm_px=1.6 * psf.fwhm_px, ellipticity=0.65)
    elif shot.fault == "closed":
        transparency = sky_factor = 0.0
    elif shot.fault == "twilight":
        room_e = 0.5 * sensor.saturation_dn * sensor.e_per_dn
        brightest = max(scene.sky[channel] for channel in _channels(sensor, shot.filter_name))
        sky_factor = room_e / (brightest * shot.exposure_s)
    # The gradient points at a town: fixed to the ground, so it turns slowly against the field and flips with it.
    towards = math.radians(20.0 + 1.5 * shot.order + (180.0 if _is_flipped(spec, shot) else 0.0))
    per_px = spec.sky_gradient / math.hypot(width, height)
    slope = (per_px * math.cos(towards), per_px * math.sin(towards))

    none = np.zeros((height, width), dtype=bool)
    light = LightTruth(
        path, shot.filter_name, shot.exposure_s, temperature, transform, psf, float(transparency),
        float(sky_factor), slope, none, none, shot.fault,
    )  # fmt: skip
    channels = _channels(sensor, shot.filter_name)
    planes = render_channels(scene, transform, psf, width, height, channels, sky=False) * light.transparency
    glow = _sky_shape(light, width, height, spec.scale)
    for plane, channel in zip(planes, channels, strict=True):
        plane += scene.sky[channel] * glow
    rate = _collapse(planes, sensor)
    trail = none
    if shot.order in spec.satellites:
        satellite = draw_satellite(
            _shot_stream(spec, shot, "satellite"), (height, width), 1.1 * psf.fwhm_px, spec.satellite_e
        )
        trail = satellite > 1.0
        rate = rate + satellite / shot.exposure_s
    hits = _cosmic_rays(spec, shot, (height, width))
    stray = _leak(spec, (height, width)) if shot.fault == "leak" else 0.0
    optics = spec.optics.flat(width, height, shot.filter_name or "")
    pixels = sensor.expose(
        rate * optics + stray, shot.exposure_s, temperature, _shot_stream(spec, shot, "noise"), extra_e=hits
    )
    light = replace(light, satellite=trail, cosmic_ray=hits > 1.0)
    return (_turn_light(light, height) if sensor.row_order == "BOTTOM-UP" else light), pixels


def _turn_light(light: LightTruth, height: int) -> LightTruth:
    """Return the truth of a light whose rows are stored from the bottom up."""
    turn = np.array([[1.0, 0.0, 0.0], [0.0, -1.0, height - 1.0], [0.0, 0.0, 1.0]])
    return replace(
        light,
        transform=turn @ light.transform,
        psf=replace(light.psf, angle_deg=-light.psf.angle_deg),
        sky_slope=(light.sky_slope[0], -light.sky_slope[1]),
        satellite=light.satellite[::-1].copy(),
        cosmic_ray=light.cosmic_ray[::-1].copy(),
    )


def _leak(spec: SessionSpec, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Return the light of a leak in the upper left corner, e-/s."""
    y, x = np.indices(shape, dtype=np.float64)
    return np.asarray(spec.leak_e_per_s * np.exp(-np.hypot(x, y) / (0.25 * max(shape))))


def _cosmic_rays(spec: SessionSpec, shot: _Shot, shape: tuple[int, int]) -> NDArray[np.float64]:
    mean_count = spec.cosmic_rays * shot.exposure_s / spec.exposure_s
    return draw_cosmic_rays(_shot_stream(spec, shot, "particles"), shape, mean_count)


def _take_calibration(spec: SessionSpec, sensor: Sensor, shot: _Shot, temperature: float) -> NDArray[np.uint16]:
    shape = (sensor.height, sensor.width)
    rng = _shot_stream(spec, shot, "noise")
    hits = _cosmic_rays(spec, shot, shape)
    if shot.fault == "leak":
        return sensor.expose(_leak(spec, shape), shot.exposure_s, temperature, rng, extra_e=hits)
    if shot.role != "flat" or shot.fault == "closed":
        return sensor.expose(None, shot.exposure_s, temperature, rng, extra_e=hits)
    level_e = spec.flat_level * (sensor.saturation_dn - sensor.offset_dn) * sensor.e_per_dn
    if sensor.cfa:
        lamp = np.array([_PANEL_COLOUR[name] for name in _CFA_COLOURS])
    else:
        lamp = np.ones(1)
    planes = lamp[:, None, None] * np.full((lamp.size, *shape), level_e / shot.exposure_s)
    optics = (spec.flat_optics or spec.optics).flat(sensor.width, sensor.height, shot.filter_name or "")
    rate = _collapse(planes, sensor) * optics
    return sensor.expose(rate, shot.exposure_s, temperature, rng, extra_e=hits)


def _treat(sensor: Sensor, fault: str, pixels: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Return what camera driver or capture program make of a frame."""
    values = pixels.astype(np.float64)
    if fault == "subtracted":
        values -= sensor.offset_dn
    elif fault == "white_balance" and sensor.cfa is not None:
        factors = np.array([[[52.0 / 50.0]], [[1.0]], [[95.0 / 50.0]]]) * np.ones((3, *pixels.shape))
        values = np.minimum(values * mosaic(factors, cfa_indices(sensor.cfa)), 65535.0)
    elif fault == "unscaled":
        values /= sensor.step_dn
    else:
        return pixels
    return np.asarray(np.clip(np.rint(values), 0, 65535), dtype=np.uint16)


def _write_frame(path: Path, dialect: Dialect, info: FrameInfo, pixels: NDArray[np.uint16], fault: str) -> None:
    word = dialect.types[info.role]
    if fault == "wrong_type":
        word = dialect.types["dark" if info.role == "light" else "light"]
    if fault == "wrong_size":
        pixels = pixels[8:, 16:]
        info = replace(info, width=info.width - 16, height=info.height - 8)
    cards: list[Card] = dialect.cards(info, word)
    if fault == "no_type":
        cards = [card for card in cards if card[0] not in ("IMAGETYP", "IMAGTYP", "FRAME")]
    content = fits_bytes(pixels, cards)
    if fault == "truncate":
        content = content[: len(content) - int(0.4 * pixels.nbytes) - 1]
    elif fault == "garbage":
        content = b"This is not a FITS file.\n" * 400
    elif fault == "empty":
        content = b""
    path.write_bytes(content)
    if dialect.sidecar is not None:
        suffix, text = dialect.sidecar(info)
        path.with_suffix(suffix).write_text(text, encoding="utf-8")
