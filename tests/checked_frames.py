"""Simulated frames measured for the checks, and all checks of one simulated night."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from wbpy.model import Frame
from wbpy.rules import load_rules
from wbpy.simulate import Sensor, Truth
from wbpy.stages import checks
from wbpy.stages.checks import Measured, Observation
from wbpy.stages.cosmetic import CosmeticParams, defects, run

RULES = load_rules()


class Pixels:
    """An image in memory, read like a file."""

    def __init__(self, image: NDArray[Any], name: str = "frame.fits") -> None:
        self.image, self.name, self.shape = image.astype(np.float32), name, image.shape

    def read(self, y0: int, y1: int) -> NDArray[np.float32]:
        return self.image[y0:y1].copy()

    def words(self, y0: int, y1: int) -> None:
        return None


def frame(name: str, role: str, **header: Any) -> Frame:
    """Return a frame of which nothing is known but what `header` says."""
    about = {"path": f"/night/{role}/{name}.fits", "role": role, "is_master": False, "calibrated": False}
    values: dict[str, Any] = {one.name: None for one in msgspec.structs.fields(Frame) if one.required}
    return Frame(**{**values, **about, "format": "fits", **header})


def measured(image: NDArray[Any], role: str, name: str = "frame", cfa: str | None = None, **header: Any) -> Measured:
    """Return one frame with its statistics; `header` overrides the values of the frame."""
    about = frame(name, role, cfa=cfa, **header)
    return Measured(about, checks.measure_frame(Pixels(image), cfa))


def take(
    role: str,
    count: int,
    sensor: Sensor,
    exposure: float = 0.001,
    *,
    rate: Callable[[int], NDArray[np.float64]] | None = None,
    treat: Callable[[int, NDArray[np.float64]], NDArray[np.float64]] | None = None,
    seed: int = 1,
    **header: Any,
) -> list[Measured]:
    """Return `count` frames of one set; `rate` gives the light of each (e-/s), `treat` changes its numbers."""
    frames = []
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        light = rate(number) if rate else None
        pixels = sensor.expose(light, exposure, -10.0, rng).astype(np.float64)
        if treat is not None:
            pixels = treat(number, pixels)
        frames.append(measured(pixels, role, f"{role}_{number}", sensor.cfa, exposure=exposure, **header))
    return frames


def ids(seen: Sequence[Observation]) -> list[str]:
    return sorted({one.id for one in seen})


def images_of(truth: Truth) -> dict[str, list[NDArray[np.float32]]]:
    """Return the pixels of all frames of a night by role."""
    return {role: [fits.getdata(path).astype(np.float32) for path in paths] for role, paths in truth.files.items()}


def mean(images: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    """Return the mean without the highest value of each pixel, which may be a cosmic ray."""
    return np.mean(np.sort(np.array(images), axis=0)[:-1], axis=0, dtype=np.float64)


def scaled_flat(flat: NDArray[np.float64], cfa: str | None) -> NDArray[np.float64]:
    out = flat.copy()
    cell = 1 if cfa is None else 2
    for y in range(cell):
        for x in range(cell):
            out[y::cell, x::cell] /= out[y::cell, x::cell].mean()
    return np.maximum(out, 1e-3)


def observe(
    truth: Truth,
    *,
    corrected: bool = True,
    subtract: Callable[[dict[str, NDArray[np.float64]]], NDArray[np.float64]] | None = None,
    flat_of: Callable[[dict[str, NDArray[np.float64]]], NDArray[np.float64]] | None = None,
) -> list[Observation]:
    """Return what all checks see in a night that NumPy calibrates: (light - dark) / (flat - flat-dark).

    Parameters
    ----------
    truth : Truth
    corrected : bool
        Replace hot pixels before the lights are looked at.
    subtract, flat_of : callable, optional
        What to subtract from the lights, and the flat, from the masters by role, instead.
    """
    cfa = None if truth.cfa is None else "".join("RGB"[colour] for colour in truth.cfa.ravel())
    images = images_of(truth)
    spec = truth.spec
    exposure = {"bias": spec.bias_exposure_s, "flat": spec.flat_exposure_s, "flat_dark": spec.flat_exposure_s}
    sets = {
        role: [
            measured(image, role, path.stem, cfa, exposure=exposure.get(role, spec.exposure_s), camera=None)
            for path, image in zip(truth.files[role], images[role], strict=True)
        ]
        for role in images
    }
    seen: list[Observation] = []
    offset = float(np.median([one.statistics.level for one in sets["bias"]]))
    top = checks.saturation_level([one for frames in sets.values() for one in frames])
    for role, frames in sets.items():
        if role != "light":
            known = None if role == "bias" else offset
            seen += checks.check_set(RULES, role, frames, offset_dn=known, saturation_dn=top)
    groups = {role: (role, sets[role]) for role in ("dark", "bias", "flat")}
    seen += checks.compare_sets(RULES, "light", sets["light"], groups)
    seen += checks.amplifier_glow(RULES, "dark", sets["dark"], sets["bias"])
    seen += checks.flat_dark_needed(RULES, "flat", sets["flat"], sets["bias"], sets["dark"])
    masters = {role: mean(images[role]) for role in ("bias", "dark", "flat", "flat_dark")}
    dark = masters["dark"] if subtract is None else subtract(masters)
    flat = scaled_flat(masters["flat"] - masters["flat_dark"] if flat_of is None else flat_of(masters), cfa)
    known = defects(CosmeticParams(), masters["dark"].astype(np.float32), truth.cfa)

    def lights():
        for path, image in zip(truth.files["light"], images["light"], strict=True):
            calibrated = ((image - dark) / flat).astype(np.float32)
            yield str(path), run(CosmeticParams(), calibrated, known, truth.cfa).image if corrected else calibrated

    made = list(lights())
    seen += checks.examine_lights(
        RULES,
        "light",
        made,
        cfa,
        flat=flat.astype(np.float32),
        dark=masters["dark"].astype(np.float32),
        bias=masters["bias"].astype(np.float32),
    )
    if flat_of is None:
        seen += checks.uncalibrated_flat(RULES, "flat", np.float32(masters["flat"] - masters["flat_dark"]), offset)
    light = checks.measure_frame(Pixels(made[0][1]), cfa)
    flats = sets["flat"][0].statistics
    seen += checks.masters_noise(
        RULES,
        "light",
        light.noise,
        light.level,
        (sets["dark"][0].statistics.noise, len(sets["dark"])),
        (flats.noise, flats.level - offset, len(sets["flat"])),
    )
    return seen
