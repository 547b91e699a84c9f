"""Look at the stars of frames without a plan: radial profiles and curves of growth of chosen stars, by photutils."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from wbpy.errors import ReadError
from wbpy.model import Frame, HeldBack

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from wbpy.catalog import Catalog
    from wbpy.stages.measure import Measurement

CHOSEN = 5
"""Stars that are shown of a frame."""
_STEP = 0.5


class StarProfile(msgspec.Struct, frozen=True, kw_only=True):
    """One star: what was fitted, and how its light is spread."""

    x: float
    """px, the middle of the first pixel is 0."""
    y: float
    fwhm_px: float | None
    """Of the fitted profile; None where none could be fitted."""
    fwhm_arcsec: float | None
    """None where the header lacks focal length or pixel size, too."""
    eccentricity: float | None
    angle_deg: float | None
    """Direction of the long axis, from +x towards +y."""
    background_dn: float
    """Median of a ring around the star."""
    saturated: bool
    radius_px: tuple[float, ...]
    """Outer radii of the rings, and radii of the apertures."""
    profile_dn: tuple[float, ...]
    """Mean pixel of each ring above the background."""
    growth_dn: tuple[float, ...]
    """Sum over each aperture above the background."""


class FrameStars(msgspec.Struct, frozen=True, kw_only=True):
    """The stars of one frame; of CFA frames those of an interpolated green plane."""

    path: str
    stars: int
    """Stars found."""
    fwhm_px: float | None
    fwhm_arcsec: float | None
    eccentricity: float | None
    angle_deg: float | None
    beta: float | None
    """Exponent of the Moffat profile that the stars share; None for a Gaussian."""
    residual: float | None
    """Median absolute residual of the fits over the amplitude."""
    noise_dn: float
    fwhm_map_px: tuple[float | None, ...]
    """Medians in three rows of three cells, the first row of the file first."""
    eccentricity_map: tuple[float | None, ...]
    profiles: tuple[StarProfile, ...]


class StarInspection(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of the stars of some frames."""

    frames: tuple[FrameStars, ...]
    held_back: tuple[HeldBack, ...]
    """Files that could not be looked at."""
    pictures: tuple[str, ...]
    """Paths of the pictures written."""

    def csv(self) -> str:
        """Return profiles and curves of growth as comma-separated text with a heading, one row for each radius."""
        import csv
        import io

        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(("file", "star", "x_px", "y_px", "fwhm_px", "radius_px", "profile_dn", "growth_dn"))
        for frame in self.frames:
            for number, star in enumerate(frame.profiles, 1):
                for row in zip(star.radius_px, star.profile_dn, star.growth_dn, strict=True):
                    writer.writerow((frame.path, number, star.x, star.y, star.fwhm_px, *row))
        return text.getvalue()


def inspect_stars(
    catalog: Catalog,
    *,
    at: Sequence[tuple[float, float]] = (),
    pictures: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> StarInspection:
    """Return profiles and curves of growth of some stars of each frame.

    Parameters
    ----------
    catalog : Catalog
        From a scan.
    at : sequence of (float, float), px
        Show the stars nearest to these points; by default the brightest of each part of the frame that are neither
        saturated nor near another star.
    pictures : Path, optional
        Folder for a picture of the curves of each frame, as PNG.
    on_progress : callable, optional
        Called with (frames done, frames in all).
    """
    frames, unread = catalog.readable, list(catalog.unreadable)
    looked: list[FrameStars] = []
    written: list[str] = []
    if pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames, 1):
        try:
            found = _look(frame, at)
        except (ReadError, OSError):
            unread.append(HeldBack(path=frame.path, finding="CHK032"))
        else:
            looked.append(found)
            if pictures is not None and found.profiles:
                path = pictures / f"{Path(frame.path).stem}_{number}_stars.png"
                _draw(path, found)
                written.append(str(path))
        if on_progress is not None:
            on_progress(number, len(frames))
    return StarInspection(frames=tuple(looked), held_back=tuple(unread), pictures=tuple(written))


def _look(frame: Frame, at: Sequence[tuple[float, float]]) -> FrameStars:
    import numpy as np

    from wbpy.io.images import open_image
    from wbpy.kernels import stars
    from wbpy.stages import measure

    with open_image(frame.path, frame.dn_per_unit) as image:
        # Of a picture in colour the green plane, as of a mosaic.
        pixels = image.read(channel=image.channels // 2)
    cfa = None
    if frame.cfa is not None:
        period = math.isqrt(len(frame.cfa))
        cfa = np.array(["RGB".index(colour) for colour in frame.cfa], np.uint8).reshape(period, period)
    plane = measure.star_plane(pixels, cfa)
    params = measure.MeasureParams()
    measured = measure.run(params, pixels, cfa)
    x, y = measured.x, measured.y
    chosen = _nearest(x, y, at) if at else _choose(measured, plane.shape)
    fits = stars.fit_stars(plane, x[chosen], y[chosen], params.saturation, measured.beta)
    scale = None
    if frame.focal_length is not None and frame.pixel_size is not None:
        scale = math.degrees(1e-3 * frame.pixel_size / frame.focal_length) * 3600
    fwhm = _known(measured.fwhm)
    return FrameStars(
        path=frame.path,
        stars=measured.count,
        fwhm_px=fwhm,
        fwhm_arcsec=None if fwhm is None or scale is None else fwhm * scale,
        eccentricity=_known(measured.eccentricity),
        angle_deg=_known(measured.angle),
        beta=_known(measured.beta),
        residual=_known(measured.residual),
        noise_dn=measured.noise[len(measured.noise) // 2],
        fwhm_map_px=tuple(map(_known, measured.fwhm_map)),
        eccentricity_map=tuple(map(_known, measured.eccentricity_map)),
        profiles=tuple(
            _profile(plane, float(x[k]), float(y[k]), fit, fwhm or 4.0, scale)
            for k, fit in zip(chosen, fits, strict=True)
        ),
    )


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _nearest(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], at: Sequence[tuple[float, float]]) -> list[int]:
    import numpy as np

    return [int(np.argmin((x - px) ** 2 + (y - py) ** 2)) for px, py in at] if x.size else []


def _choose(measured: Measurement, shape: tuple[int, ...]) -> list[int]:
    """Return the brightest usable lone star of each ninth of the frame, the brightest of these first."""
    import numpy as np

    from wbpy.stages import measure

    usable = np.flatnonzero(measured.usable)
    order = usable[measure.isolated(measured.x, measured.y, usable)]
    cell = 3 * (3 * measured.y[order] / shape[0]).astype(int) + (3 * measured.x[order] / shape[1]).astype(int)
    _, first = np.unique(cell, return_index=True)
    return [int(k) for k in order[np.sort(first)][:CHOSEN]]


def _profile(plane: Any, x: float, y: float, fit: Any, fwhm: float, scale: float | None) -> StarProfile:
    import numpy as np
    from photutils.profiles import CurveOfGrowth, RadialProfile

    ok = bool(fit["ok"])
    if ok:
        x, y = float(fit["x"]), float(fit["y"])
    reach = max(4.0 * fwhm, 6.0)
    half = math.ceil(1.5 * reach) + 1
    y0, x0 = max(round(y) - half, 0), max(round(x) - half, 0)
    box = np.array(plane[y0 : round(y) + half + 1, x0 : round(x) + half + 1], np.float64)
    missing = ~np.isfinite(box)
    yy, xx = np.mgrid[: box.shape[0], : box.shape[1]]
    away = np.hypot(xx + x0 - x, yy + y0 - y)
    ring = box[(away >= reach) & (away <= 1.5 * reach) & ~missing]
    background = float(np.median(ring)) if ring.size else 0.0
    box = np.where(missing, 0.0, box - background)
    edges = np.arange(0.0, reach + _STEP, _STEP)
    centre = (x - x0, y - y0)
    profile = RadialProfile(box, centre, edges, mask=missing).profile
    growth = CurveOfGrowth(box, centre, edges[1:], mask=missing).profile
    width = math.sqrt(float(fit["fwhm_major"]) * float(fit["fwhm_minor"])) if ok else None
    ratio = float(fit["fwhm_minor"]) / float(fit["fwhm_major"]) if ok else 1.0
    return StarProfile(
        x=x,
        y=y,
        fwhm_px=width,
        fwhm_arcsec=None if width is None or scale is None else width * scale,
        eccentricity=math.sqrt(1 - ratio**2) if ok else None,
        angle_deg=math.degrees(float(fit["theta"])) if ok else None,
        background_dn=background,
        saturated=bool(fit["saturated"]),
        radius_px=tuple(float(r) for r in edges[1:]),
        profile_dn=tuple(float(v) for v in np.nan_to_num(profile)),
        growth_dn=tuple(float(v) for v in np.nan_to_num(growth)),
    )


def _draw(path: Path, found: FrameStars) -> None:
    from wbpy.io.contact_sheet import write_curves

    def curve(values: Sequence[float]) -> list[float]:
        most = max(max(values), 1e-9)
        return [value / most for value in values]

    write_curves(
        path,
        Path(found.path).name,
        [
            ("mean of a ring over that of the middle", [(s.radius_px, curve(s.profile_dn)) for s in found.profiles]),
            ("sum within a radius over the largest", [(s.radius_px, curve(s.growth_dn)) for s in found.profiles]),
        ],
        "px",
    )
