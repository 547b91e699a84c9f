"""What a camera and its optics make of light: response, dark signal, noise and numbers.

Electrons are drawn first (Poisson), read out with Gaussian noise, and only then turned into DN, as in a camera.
All fixed patterns follow from the seed of the sensor or of the optics, never from the exposure.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from wbpy.errors import ConfigError, ShapeError

_COLOURS = {"R": 0, "G": 1, "B": 2}


def stream(seed: int, *key: int | str) -> np.random.Generator:
    """Return the generator that belongs to `seed` and `key`: the same key always starts the same numbers."""
    numbers = tuple(zlib.crc32(part.encode()) if isinstance(part, str) else part for part in key)
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=numbers)))


@dataclass(frozen=True)
class Sensor:
    """A camera. DN are those of the file (16-bit scale).

    Parameters
    ----------
    width, height : int
        Size, px.
    seed : int
        Decides the fixed patterns.
    e_per_dn : float
        Electrons per DN of the file.
    read_noise_e : float
        Standard deviation of the read-out, e-.
    full_well_e : float
        A pixel holds no more than this, e-.
    adc_bits : int
        Resolution of the converter, 8 to 16.
    scaled_to_16 : bool
        Whether the driver shifts the converter's numbers up to 16 bits, as most do.
    offset_dn : float
        Mean bias level, DN.
    bias_column_dn, bias_gradient_dn : float
        Standard deviation of the column pattern, and bias difference from top to bottom, DN.
    dark_e_per_s : float
        Mean dark current at `dark_temperature_c`, e-/s per pixel.
    dark_temperature_c, dark_doubling_c : float
        Temperature that `dark_e_per_s` belongs to, and the step that doubles it, degrees C.
    dark_spread : float
        Log-normal sigma of the dark current from pixel to pixel.
    hot_fraction, warm_fraction, cold_fraction : float
        Share of pixels that are hot (dark current times 300 to 3000), warm (times 20 to 150) and cold (response
        0.1 to 0.4).
    glow_e_per_s, glow_power : float
        Amplifier glow in the lower right corner at its brightest, and the power of the exposure time (in s) that it
        grows with; 1 is a constant rate.
    prnu : float
        Relative standard deviation of the response from pixel to pixel.
    bad_columns : tuple of int
        Columns without any response to light.
    cfa : str or None
        Colour pattern of the top left 2x2 pixels of the picture, such as "RGGB", or 36 letters for the 6x6 pixels of an
        X-Trans sensor, row by row (`wbpy.simulate.dng.XTRANS`); None is a mono sensor.
    row_order : str
        "TOP-DOWN": the first row in the file is the top of the picture; "BOTTOM-UP": it is the bottom.
    """

    width: int = 320
    height: int = 240
    seed: int = 1
    e_per_dn: float = 0.8
    read_noise_e: float = 2.5
    full_well_e: float = 50_000.0
    adc_bits: int = 16
    scaled_to_16: bool = True
    offset_dn: float = 500.0
    bias_column_dn: float = 2.0
    bias_gradient_dn: float = 6.0
    dark_e_per_s: float = 0.02
    dark_temperature_c: float = -10.0
    dark_doubling_c: float = 6.0
    dark_spread: float = 0.3
    hot_fraction: float = 0.0005
    warm_fraction: float = 0.003
    cold_fraction: float = 0.0002
    glow_e_per_s: float = 0.5
    glow_power: float = 1.0
    prnu: float = 0.005
    bad_columns: tuple[int, ...] = ()
    cfa: str | None = None
    row_order: str = "TOP-DOWN"

    def __post_init__(self) -> None:
        if not 8 <= self.adc_bits <= 16:
            raise ConfigError(f"adc_bits is {self.adc_bits}; expected 8 to 16")
        if self.row_order not in ("TOP-DOWN", "BOTTOM-UP"):
            raise ConfigError(f"row_order is {self.row_order!r}; expected TOP-DOWN or BOTTOM-UP")
        if self.cfa is not None and (len(self.cfa) not in (4, 36) or set(self.cfa) - set(_COLOURS)):
            raise ConfigError(f"cfa is {self.cfa!r}; expected 4 or 36 letters of R, G, B")

    @property
    def step_dn(self) -> int:
        """Distance between two neighbouring numbers in the file, DN."""
        return int(2 ** (16 - self.adc_bits)) if self.scaled_to_16 else 1

    @property
    def max_dn(self) -> int:
        """The largest number the converter can give, DN."""
        return int(2**self.adc_bits - 1) * self.step_dn

    @property
    def saturation_dn(self) -> float:
        """Level at which a bright pixel stops growing: the full well or the converter, whichever comes first."""
        return min(float(self.max_dn), self.full_well_e / self.e_per_dn + self.offset_dn)

    @property
    def read_variance_e2(self) -> float:
        """Variance of one reading without light, e-^2: read noise and rounding to whole steps."""
        return self.read_noise_e**2 + (self.step_dn * self.e_per_dn) ** 2 / 12.0

    def dark_electrons(self, exposure_s: float, temperature_c: float) -> NDArray[np.float64]:
        """Return the expected dark signal with glow, (H, W) float64, e-."""
        fixed = fixed_pattern(self)
        heat = math.pow(2.0, (temperature_c - self.dark_temperature_c) / self.dark_doubling_c)
        growth = math.pow(exposure_s, self.glow_power)
        return fixed.dark_e_per_s * (heat * exposure_s) + fixed.glow_e_per_s * growth

    def expose(
        self,
        rate: NDArray[np.float64] | None,
        exposure_s: float,
        temperature_c: float,
        rng: np.random.Generator,
        *,
        extra_e: NDArray[np.float64] | None = None,
    ) -> NDArray[np.uint16]:
        """Return one raw frame, top row first.

        Parameters
        ----------
        rate : (H, W) float64 ndarray, e-/s, or None
            Light that reaches the pixels, behind optics and colour filters; None is a closed shutter.
        exposure_s : float
        temperature_c : float
            Of the sensor.
        rng : numpy.random.Generator
        extra_e : (H, W) float64 ndarray, e-, optional
            Electrons set free by particles; added without noise of their own.

        Returns
        -------
        (H, W) uint16 ndarray, DN

        Raises
        ------
        ShapeError
            If `rate` or `extra_e` has another shape than the sensor.
        """
        fixed = fixed_pattern(self)
        for name, plane in (("rate", rate), ("extra_e", extra_e)):
            if plane is not None and plane.shape != (self.height, self.width):
                raise ShapeError(f"{name} is {plane.shape}; the sensor is {(self.height, self.width)}")
        expected = self.dark_electrons(exposure_s, temperature_c)
        if rate is not None:
            expected = expected + rate * fixed.response * exposure_s
        electrons = rng.poisson(expected).astype(np.float64)
        if extra_e is not None:
            electrons += extra_e
        electrons = np.minimum(electrons, self.full_well_e)
        electrons += rng.normal(0.0, self.read_noise_e, electrons.shape)
        level = electrons / self.e_per_dn + self.offset_dn + fixed.bias_dn
        counts = np.rint(level / self.step_dn) * self.step_dn
        return np.asarray(np.clip(counts, 0, self.max_dn), dtype=np.uint16)


@dataclass(frozen=True)
class FixedPattern:
    """The maps of one sensor, each (H, W), top row first.

    Attributes
    ----------
    bias_dn : float64 ndarray
        Column pattern and gradient about the offset, DN.
    dark_e_per_s, glow_e_per_s : float64 ndarray
        At the sensor's `dark_temperature_c`; the glow is what one second gives.
    response : float64 ndarray
        Relative response to light, one on average.
    hot, warm, cold : bool ndarray
    """

    bias_dn: NDArray[np.float64]
    dark_e_per_s: NDArray[np.float64]
    glow_e_per_s: NDArray[np.float64]
    response: NDArray[np.float64]
    hot: NDArray[np.bool_]
    warm: NDArray[np.bool_]
    cold: NDArray[np.bool_]


@lru_cache(maxsize=8)
def fixed_pattern(sensor: Sensor) -> FixedPattern:
    """Return the maps of `sensor`; they follow from its fields alone."""
    shape = (sensor.height, sensor.width)
    rng = stream(sensor.seed, "bias")
    columns = rng.normal(0.0, sensor.bias_column_dn, sensor.width)
    slope = np.linspace(-0.5, 0.5, sensor.height) * sensor.bias_gradient_dn
    bias = columns[None, :] + slope[:, None]

    rng = stream(sensor.seed, "dark")
    spread = np.exp(rng.normal(0.0, sensor.dark_spread, shape) - 0.5 * sensor.dark_spread**2)
    dark = sensor.dark_e_per_s * spread
    draw = rng.random(shape)
    hot = draw < sensor.hot_fraction
    warm = ~hot & (draw < sensor.hot_fraction + sensor.warm_fraction)
    exponent = rng.random(shape)
    dark = np.where(hot, sensor.dark_e_per_s * 300.0 * 10.0**exponent, dark)
    dark = np.where(warm, sensor.dark_e_per_s * 20.0 * 7.5**exponent, dark)

    y, x = np.indices(shape, dtype=np.float64)
    corner = np.hypot((x - sensor.width + 1.0), (y - sensor.height + 1.0)) / max(shape)
    glow = sensor.glow_e_per_s * np.exp(-corner / 0.12)

    rng = stream(sensor.seed, "response")
    response = 1.0 + rng.normal(0.0, sensor.prnu, shape)
    cold = (rng.random(shape) < sensor.cold_fraction) & ~hot & ~warm
    response = np.where(cold, rng.uniform(0.1, 0.4, shape), response)
    response[:, list(sensor.bad_columns)] = 0.0
    maps = (bias, dark, glow, response, hot, warm, cold)
    for plane in maps:
        plane.setflags(write=False)
    return FixedPattern(*maps)


@dataclass(frozen=True)
class Optics:
    """What the optics do to an evenly lit field: vignetting and the shadows of dust.

    Parameters
    ----------
    seed : int
        Decides where the dust lies.
    vignetting : float
        Light lost in the corner, 0 to 1.
    centre : tuple of float
        Brightest point, as shares of width and height.
    n_dust : int
        Shadows; every second lies on the filter and is seen through that filter only.
    dust_depth : float
        Light lost in a typical shadow.
    dust_shift_px : (float, float)
        How far all shadows were moved, x and y.
    """

    seed: int = 1
    vignetting: float = 0.35
    centre: tuple[float, float] = (0.52, 0.47)
    n_dust: int = 6
    dust_depth: float = 0.12
    dust_shift_px: tuple[float, float] = (0.0, 0.0)

    def flat(self, width: int, height: int, filter_name: str = "") -> NDArray[np.float64]:
        """Return the share of light that reaches each pixel, (height, width) float64, at most 1; top row first."""
        y, x = np.indices((height, width), dtype=np.float64)
        cx, cy = self.centre[0] * (width - 1), self.centre[1] * (height - 1)
        half_diagonal = 0.5 * math.hypot(width, height)
        r2 = ((x - cx) ** 2 + (y - cy) ** 2) / half_diagonal**2
        light = 1.0 - self.vignetting * r2 * (0.6 + 0.4 * r2)
        light = np.maximum(light, 0.05)
        for number in range(self.n_dust):
            place = filter_name if number % 2 else ""
            rng = stream(self.seed, "dust", number, place)
            radius = min(width, height) * rng.uniform(0.025, 0.06) * (1.6 if place else 1.0)
            depth = self.dust_depth * rng.uniform(0.5, 1.3)
            dx, dy = rng.uniform(0.08, 0.92) * width, rng.uniform(0.08, 0.92) * height
            dx, dy = dx + self.dust_shift_px[0], dy + self.dust_shift_px[1]
            distance = np.hypot(x - dx, y - dy)
            # An out-of-focus speck is the shadow of a ring-shaped pupil.
            edge = max(0.12 * radius, 0.7)
            disc = 1.0 / (1.0 + np.exp((distance - radius) / edge))
            hole = 1.0 / (1.0 + np.exp((distance - 0.35 * radius) / edge))
            light *= 1.0 - depth * (disc - 0.8 * hole)
        return light


def cfa_indices(pattern: str) -> NDArray[np.uint8]:
    """Return a pattern such as "RGGB" as (p, p) uint8: 0 red, 1 green, 2 blue at [y % p, x % p]; p is 2 or 6."""
    period = math.isqrt(len(pattern))
    return np.array([_COLOURS[letter] for letter in pattern], dtype=np.uint8).reshape(period, period)


def mosaic(planes: NDArray[np.float64], cfa: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the (H, W) picture behind a colour filter array from (3, H, W) planes in the order R, G, B."""
    out = np.empty(planes.shape[1:])
    period = len(cfa)
    for row in range(period):
        for column in range(period):
            cell = np.s_[row::period, column::period]
            out[cell] = planes[cfa[row, column]][cell]
    return out


def draw_cosmic_rays(rng: np.random.Generator, shape: tuple[int, int], mean_count: float) -> NDArray[np.float64]:
    """Return the electrons that a Poisson number of particles leaves in an (H, W) frame: dots and short tracks."""
    electrons = np.zeros(shape)
    for _ in range(int(rng.poisson(mean_count))):
        x, y = rng.uniform(0, shape[1] - 1), rng.uniform(0, shape[0] - 1)
        length = min(1.0 + rng.exponential(4.0), 25.0)
        angle = rng.uniform(0.0, 2.0 * math.pi)
        per_px = rng.uniform(400.0, 4000.0)
        steps = max(int(length * 4.0), 1)
        along = (np.arange(steps) + 0.5) / steps * length
        column = np.rint(x + along * math.cos(angle)).astype(int)
        row = np.rint(y + along * math.sin(angle)).astype(int)
        inside = (column >= 0) & (column < shape[1]) & (row >= 0) & (row < shape[0])
        np.add.at(electrons, (row[inside], column[inside]), per_px * length / steps)
    return electrons


def draw_satellite(
    rng: np.random.Generator, shape: tuple[int, int], fwhm_px: float, peak_e: float
) -> NDArray[np.float64]:
    """Return the electrons of a straight trail across an (H, W) frame, Gaussian across, `peak_e` on its axis."""
    y, x = np.indices(shape, dtype=np.float64)
    x0, y0 = rng.uniform(0.3, 0.7) * shape[1], rng.uniform(0.3, 0.7) * shape[0]
    angle = rng.uniform(0.0, math.pi)
    distance = (x - x0) * math.sin(angle) - (y - y0) * math.cos(angle)
    return np.asarray(peak_e * np.exp(-4.0 * math.log(2.0) * (distance / fwhm_px) ** 2))
