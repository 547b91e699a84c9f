"""Draw the pictures of docs/calibration.md: measurements on real frames, and crops of a simulated night.

    python docs/images/calibration.py ../shared/data/m13_orion_g3

The numbers of the page stand in ``calibration.json`` beside the pictures. No pixel of a real frame is shown or written.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

import wbpy
from wbpy.simulate import Optics, Sensor, SessionSpec, write_session
from wbpy.stages import checks

HERE = Path(__file__).parent
HEIGHTS = (100, 150, 200, 300, 500, 700, 1000, 1500, 2000, 3000, 5000)
"""DN above the neighbours."""
BEFORE, BETWEEN, AFTER, OTHER = "#b03a2e", "#b9770e", "#1f618d", "#7b7d7d"

Plane = NDArray[np.float64]


def read(path: Path) -> Plane:
    """Return a FITS image in DN, its pedestal taken off."""
    with fits.open(path) as units:
        unit = 65535.0 if units[0].header.get("DNSCALE") else 1.0
        return np.asarray(units[0].data, np.float64) * unit - units[0].header.get("PEDESTAL", 0)


def standing_out(images: Sequence[Plane]) -> Plane:
    """Return how far each pixel lies above its neighbours of the same field in most of the unregistered lights."""
    # Rows two apart, because the sensor is read in two fields.
    beside = np.array([[1, 1, 1], [0, 0, 0], [1, 0, 1], [0, 0, 0], [1, 1, 1]], bool)
    return np.asarray(np.median([image - ndimage.median_filter(image, footprint=beside) for image in images], axis=0))


def profile(field: Plane, edges: NDArray[np.float64]) -> list[float]:
    """Return the median of a field in rings about the middle, radius 1 in the corners."""
    h, w = field.shape
    y, x = np.indices(field.shape)
    radius = np.hypot(x - (w - 1) / 2, y - (h - 1) / 2) / math.hypot((w - 1) / 2, (h - 1) / 2)
    return [
        float(np.nanmedian(field[(radius >= a) & (radius < b)])) for a, b in zip(edges[:-1], edges[1:], strict=True)
    ]


def measure(folder: Path) -> dict[str, Any]:
    """Return what calibration and correction change in the lights of a night, as numbers."""
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        run = wbpy.run(wbpy.plan(folder, out, set=["run.keep=calibrated,cosmetic"]))
        masters = {p.kind[7:]: read(Path(p.path)) for p in run.products if p.kind.startswith("master_")}
        paths = sorted(Path(frame.path) for frame in run.frames if frame.role == "light")
        raw = [read(path) for path in paths]
        calibrated = [read(out / "frames/calibrated" / f"{path.stem}_calibrated.fits") for path in paths]
        corrected = [read(out / "frames/cosmetic" / f"{path.stem}_cosmetic.fits") for path in paths]
    # The cluster fills the middle of these frames.
    edges = np.arange(0.3, 1.0, 0.07)
    flat = checks.field_of(masters["flat"].astype(np.float32), None)
    found: dict[str, Any] = {
        "radius": [round(float(r), 3) for r in 0.5 * (edges[1:] + edges[:-1])],
        "height_dn": HEIGHTS,
    }
    for kind, images in (("before", [image - masters["dark"] for image in raw]), ("after", corrected)):
        field = checks.background_field([checks.field_of(image.astype(np.float32), None) for image in images])
        ring = profile(field, edges)
        share = checks.share_of_shape(field, flat)
        found[f"background_{kind}"] = [round(value / ring[0], 4) for value in ring]
        found[f"flat_share_{kind}"] = None if share is None else [round(share.value, 3), round(share.error, 3)]
    ring = profile(flat, edges)
    found["flat"] = [round(value / ring[0], 4) for value in ring]
    for kind, images in (("raw", raw), ("calibrated", calibrated), ("corrected", corrected)):
        excess = standing_out(images)
        found[f"pixels_{kind}"] = [int(np.count_nonzero(excess > height)) for height in HEIGHTS]
        found[f"below_{kind}"] = int(np.count_nonzero(excess < -200))
        found[f"rows_differ_{kind}_dn"] = round(
            float(np.median([np.median(image[1::2]) - np.median(image[::2]) for image in images])), 1
        )
    found["findings"] = sorted({f.id for f in run.findings if f.id.startswith(("CHK", "MAS", "CAL", "COS"))})
    return found


class Chart:
    """One panel with axes.

    Parameters
    ----------
    draw : ImageDraw
    box : (int, int, int, int)
        Left, top, right, bottom of the axes, px.
    x, y : (float, float)
        Ranges.
    log : bool
        Logarithms of both, the vertical one of counts plus 1.
    """

    def __init__(
        self,
        draw: ImageDraw.ImageDraw,
        box: tuple[int, int, int, int],
        x: tuple[float, float],
        y: tuple[float, float],
        log: bool,
    ) -> None:
        self.draw, self.box = draw, box
        self._scale: Callable[[float], float] = math.log10 if log else float
        self._x, self._y = [self._scale(v) for v in x], [self._scale(v) for v in y]
        self.font = ImageFont.load_default(15)
        draw.rectangle(box, outline="#444444")

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return where a value lies, px."""
        left, top, right, bottom = self.box
        u = (self._scale(x) - self._x[0]) / (self._x[1] - self._x[0])
        v = (self._scale(y) - self._y[0]) / (self._y[1] - self._y[0])
        return left + u * (right - left), bottom - v * (bottom - top)

    def ticks(self, xs: Sequence[float], ys: Sequence[float], x_title: str, y_title: str) -> None:
        """Draw numbers along both axes and their titles."""
        left, top, right, bottom = self.box
        for x in xs:
            px, _ = self.at(x, self._unscaled_y())
            self.draw.line((px, bottom, px, bottom + 5), fill="#444444")
            self.draw.text((px, bottom + 8), f"{x:g}", fill="#222222", font=self.font, anchor="ma")
        for y in ys:
            _, py = self.at(self._unscaled_x(), y)
            self.draw.line((left, py, right, py), fill="#dddddd")
            self.draw.text((left - 8, py), f"{y:g}", fill="#222222", font=self.font, anchor="rm")
        self.draw.text(((left + right) / 2, bottom + 30), x_title, fill="#222222", font=self.font, anchor="ma")
        self.draw.text((left, top - 22), y_title, fill="#222222", font=self.font, anchor="la")

    def _unscaled_x(self) -> float:
        return 10 ** self._x[0] if self._scale is math.log10 else self._x[0]

    def _unscaled_y(self) -> float:
        return 10 ** self._y[0] if self._scale is math.log10 else self._y[0]

    def line(self, xs: Sequence[float], ys: Sequence[float], colour: str, name: str, row: int) -> None:
        """Draw one curve and its entry in the legend."""
        points = [self.at(x, y) for x, y in zip(xs, ys, strict=True)]
        self.draw.line(points, fill=colour, width=3, joint="curve")
        for px, py in points:
            self.draw.ellipse((px - 4, py - 4, px + 4, py + 4), fill=colour)
        left, top, right, bottom = self.box
        log = self._scale is math.log10
        x0, y0 = (right - 210, top + 16 + 22 * row) if log else (left + 16, bottom - 76 + 22 * row)
        self.draw.line((x0, y0, x0 + 26, y0), fill=colour, width=3)
        self.draw.text((x0 + 34, y0), name, fill="#222222", font=self.font, anchor="lm")


def draw_measured(found: dict[str, Any], path: Path) -> None:
    """Write the chart of what was measured."""
    image = Image.new("RGB", (1120, 430), "white")
    draw = ImageDraw.Draw(image)
    left = Chart(draw, (70, 50, 530, 360), (0.3, 1.0), (0.96, 1.01), False)
    left.ticks(
        (0.4, 0.6, 0.8, 1.0),
        (0.96, 0.97, 0.98, 0.99, 1.0, 1.01),
        "distance from the middle, 1 in the corners",
        "background, relative",
    )
    for row, (name, key, colour) in enumerate(
        (
            ("lights before the flat", "background_before", BEFORE),
            ("master flat", "flat", OTHER),
            ("calibrated lights", "background_after", AFTER),
        )
    ):
        left.line(found["radius"], found[key], colour, name, row)
    right = Chart(draw, (630, 50, 1090, 360), (100, 5000), (0.7, 600), True)
    right.ticks(
        (100, 200, 500, 1000, 2000, 5000),
        (1, 3, 10, 30, 100, 300),
        "DN above the neighbours, in most lights",
        "pixels",
    )
    for row, (name, key, colour) in enumerate(
        (
            ("raw", "pixels_raw", BEFORE),
            ("calibrated", "pixels_calibrated", BETWEEN),
            ("and corrected", "pixels_corrected", AFTER),
        )
    ):
        right.line(found["height_dn"], [max(value, 0.7) for value in found[key]], colour, name, row)
    image.save(path, optimize=True)


def draw_simulated(path: Path) -> None:
    """Write a corner of one simulated light: raw, calibrated, corrected."""
    sensor = Sensor(width=480, height=360, seed=21, hot_fraction=0.002, glow_e_per_s=1.5, bias_column_dn=6.0)
    spec = SessionSpec(
        seed=21,
        sensor=sensor,
        optics=Optics(seed=4, vignetting=0.5, n_dust=9, dust_depth=0.2),
        n_lights=3,
        n_stars=250,
        n_bias=0,
        n_darks=20,
        n_flats=20,
        n_flat_darks=20,
        sky_e_per_s=6.0,
        nebula_e_per_s=3.0,
        # A dark that is 2 degrees too cold leaves a fifth of the hot pixels for the correction.
        dark_temperature_c=-12.0,
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        truth = write_session(folder / "in", spec)
        wbpy.run(
            wbpy.plan(folder / "in", folder / "out", set=["run.keep=calibrated,cosmetic", "calibrate.pedestal=100"])
        )
        stem = truth.lights[0].path.stem
        images = [
            read(truth.lights[0].path),
            *(read(folder / "out/frames" / kind / f"{stem}_{kind}.fits") for kind in ("calibrated", "cosmetic")),
        ]
    tiles = []
    for image in images:
        crop = image[90:350, 170:470]
        middle = float(np.median(crop))
        spread = 1.4826 * float(np.median(np.abs(images[2] - np.median(images[2]))))
        stretched = np.arcsinh(np.clip((crop - middle + 5 * spread) / (5 * spread), 0, 30)) / math.asinh(10)
        tiles.append(np.uint8(255 * np.clip(stretched, 0, 1)))
    gap = np.full((tiles[0].shape[0], 8), 255, np.uint8)
    Image.fromarray(np.hstack([tiles[0], gap, tiles[1], gap, tiles[2]])).save(path, quality=88)


def main() -> None:
    """Measure, draw and write the numbers."""
    found = measure(Path(sys.argv[1]))
    (HERE / "calibration.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    draw_measured(found, HERE / "calibration_measured.png")
    draw_simulated(HERE / "calibration_simulated.jpg")


if __name__ == "__main__":
    main()
