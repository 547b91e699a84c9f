"""What `wbpy inspect --stars` writes to a terminal: the stars of each frame, profiles and curves of growth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING

from wbpy.reporting.terminal import print_table
from wbpy.reporting.wording import count, plain
from wbpy.star_profiles import FrameStars, StarInspection, StarProfile

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 30
"""Columns of the longest bar."""
ROWS = 12
"""Rows of a profile in text."""


def show_stars(console: Console, inspection: StarInspection, verbosity: int = 0) -> None:
    """Write the stars of each frame; the profiles of all chosen ones with -v, else of the brightest."""
    for frame in inspection.frames if verbosity >= 0 else ():
        console.print(plain(PurePath(frame.path).name), style="bold")
        console.print(_summary(frame), soft_wrap=True)
        for name, cells in (("FWHM, px", frame.fwhm_map_px), ("eccentricity", frame.eccentricity_map)):
            if any(cell is not None for cell in cells):
                rows = ["  ".join(_number(cell, 2) for cell in cells[3 * row : 3 * row + 3]) for row in range(3)]
                console.print(f"{name} over the field: {' | '.join(rows)}", soft_wrap=True)
        names = ["star", "x", "y", "FWHM px", "arcsec", "eccentricity", "angle", "background", "saturated"]
        print_table(console, names, [_row(n, star) for n, star in enumerate(frame.profiles, 1)], right=names[:8])
        for number, star in enumerate(frame.profiles if verbosity > 0 else frame.profiles[:1], 1):
            console.print()
            console.print(f"Star {number}: mean of a ring, and sum within its outer radius, above the background")
            for line in profile_lines(star):
                console.print(line, soft_wrap=True)
        console.print()
    if verbosity >= 0 and inspection.pictures:
        folder = PurePath(inspection.pictures[0]).parent
        console.print(f"{count(len(inspection.pictures), 'picture')} in {plain(str(folder))}", soft_wrap=True)
    line = f"Inspected: {count(len(inspection.frames), 'frame')}"
    if inspection.held_back:
        line += f", {count(len(inspection.held_back), 'file')} not readable"
    console.print(line + ".", style="bold")


def _summary(frame: FrameStars) -> str:
    if frame.fwhm_px is None:
        return f"{count(frame.stars, 'star')}, none of which could be fitted; noise {frame.noise_dn:.2f} DN"
    arcsec = "" if frame.fwhm_arcsec is None else f" ({frame.fwhm_arcsec:.2f} arcsec)"
    profile = "Gaussian" if frame.beta is None else f"Moffat of exponent {frame.beta:.1f}"
    return (
        f"{count(frame.stars, 'star')}, FWHM {frame.fwhm_px:.2f} px{arcsec}, eccentricity "
        f"{_number(frame.eccentricity, 2)} towards {_number(frame.angle_deg, 0)} deg, {profile}, "
        f"residual {_number(frame.residual, 4)}, noise {frame.noise_dn:.2f} DN"
    )


def _row(number: int, star: StarProfile) -> list[str]:
    return [
        str(number),
        f"{star.x:.2f}",
        f"{star.y:.2f}",
        _number(star.fwhm_px, 2),
        _number(star.fwhm_arcsec, 2),
        _number(star.eccentricity, 2),
        _number(star.angle_deg, 0),
        f"{star.background_dn:.1f}",
        "yes" if star.saturated else "no",
    ]


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def profile_lines(star: StarProfile) -> Sequence[str]:
    """Return lines of text: outer radius, mean of the ring with a bar, and sum within the radius."""
    step = max(1, -(-len(star.radius_px) // ROWS))
    top, total = max(*star.profile_dn, 1e-9), max(*star.growth_dn, 1e-9)
    return [
        f"{star.radius_px[k]:5.1f} px {star.profile_dn[k]:10.1f} DN "
        f"{'#' * round(WIDTH * max(star.profile_dn[k], 0.0) / top):<{WIDTH}} "
        f"{star.growth_dn[k]:12.0f} DN {100 * star.growth_dn[k] / total:6.1f} %"
        for k in range(0, len(star.radius_px), step)
    ]
