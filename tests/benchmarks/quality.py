"""How good an integration is beside the truth of the simulated night, measured alike for any program's result.

A result has a grid, a unit and an orientation of its own. The grid is that of the light whose transform puts the
stars of the truth on the stars of the picture; the unit follows from their fluxes. What is left are figures that
compare: noise in electrons per exposure, width of the stars, scatter of the fluxes of bright stars, and what a
satellite left of the trail that an average without rejection would show.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize

from wbpy.simulate import Truth, apply_transform

RADIUS, INNER, OUTER = 6.0, 9.0, 13.0  # px: aperture and ring for the background, wide against the stars
BRIGHT = 60  # at most so many stars' fluxes and widths are compared
LEAST_FLUX = 4000.0  # e- per exposure: the noise in the aperture, about 25 e-, is 0.6 % of it
MARGIN = 40  # px from the edge: no ring and no dithered border within


def save_truth(path: Path, truth: Truth) -> None:
    """Write what `measure` needs of a night."""
    scene = truth.scene
    channels = ("R", "G", "B") if truth.spec.sensor.cfa else ("L",)
    np.savez_compressed(
        path,
        stars=np.column_stack([scene.x, scene.y]),
        flux=np.array([scene.flux[channel] for channel in channels]) * truth.spec.exposure_s,
        transforms=np.array(truth.transforms),
        satellites=np.array([np.packbits(mask) for mask in truth.satellites]),
        transparency=truth.transparency,
        lights=np.array([str(light.path.name) for light in truth.lights]),
        e_per_dn=truth.e_per_dn,
    )


def measure(picture: Path, night: Path) -> dict[str, list[float]]:
    """Return the figures of a result, one for each channel.

    Parameters
    ----------
    picture : Path
        FITS, float, in any unit: (H, W) or (3, H, W).
    night : Path
        Folder with ``truth.npz`` and the lights.
    """
    from astropy.io import fits

    truth = np.load(night / "truth.npz")
    planes = np.asarray(fits.getdata(picture), np.float64)
    planes = planes[None] if planes.ndim == 2 else planes
    at, planes = _placed(planes, truth)
    found: dict[str, list[float]] = {
        "noise4_e": [],
        "fwhm_px": [],
        "flux_scatter_percent": [],
        "satellites_percent": [],
    }
    level = ndimage.median_filter(planes[len(planes) // 2][::4, ::4], 15).repeat(4, 0).repeat(4, 1)
    starless = planes[len(planes) // 2] - level[: planes.shape[1], : planes.shape[2]]
    quiet = starless < 3 * 1.4826 * np.median(np.abs(starless))
    for plane, flux in zip(planes, truth["flux"], strict=True):
        chosen = _isolated(at[0], flux, plane.shape)
        measured = np.array([_aperture(plane, x, y) for x, y in at[0][chosen]])
        ratio = measured / flux[chosen]
        per_e = float(np.median(ratio))
        found["flux_scatter_percent"].append(100 * 1.4826 * float(np.median(np.abs(ratio / per_e - 1))))
        found["fwhm_px"].append(float(np.median([_fwhm(plane, x, y) for x, y in at[0][chosen]])))
        found["noise4_e"].append(float(_noise4(plane, quiet)) / per_e)
        found["satellites_percent"].append(100 * _satellites(plane / per_e, truth, night, at[1]))
    return found


def _placed(planes: NDArray, truth: np.lib.npyio.NpzFile) -> tuple[tuple[NDArray, NDArray], NDArray]:
    """Return (star positions, transform) on the grid of the picture, and the picture with its rows as in the lights."""
    green, flux = planes[len(planes) // 2], truth["flux"][len(planes) // 2]
    order = np.argsort(flux)[::-1][: 4 * BRIGHT]
    best: tuple[float, NDArray, bool] = (-np.inf, np.eye(3), False)
    for turned in (False, True):
        smooth = ndimage.gaussian_filter(green[::-1] if turned else green, 1.0)
        for matrix in truth["transforms"]:
            x, y = _moved(matrix, truth["stars"][order]).T
            inside = (x > MARGIN) & (y > MARGIN) & (x < green.shape[1] - MARGIN) & (y < green.shape[0] - MARGIN)
            peaks = ndimage.map_coordinates(smooth, [y[inside], x[inside]], order=3)
            if (score := float(np.sum(np.log(np.maximum(peaks, 1e-9))))) > best[0]:
                best = score, matrix, turned
    _, matrix, turned = best
    planes = planes[:, ::-1] if turned else planes
    return (_moved(matrix, truth["stars"]), matrix), np.ascontiguousarray(planes)


def _moved(matrix: NDArray, points: NDArray) -> NDArray:
    """Return points (N, 2) where a transform puts them."""
    return np.column_stack(apply_transform(matrix, points[:, 0], points[:, 1]))


def _isolated(at: NDArray, flux: NDArray, shape: tuple[int, ...]) -> NDArray:
    """Return the brightest stars inside the picture without another one of 2 % of their flux nearby.

    No star of the simulated nights is saturated.
    """
    chosen = []
    for star in np.argsort(flux)[::-1]:
        x, y = at[star]
        if flux[star] < LEAST_FLUX:
            break
        if not (MARGIN < x < shape[1] - MARGIN and MARGIN < y < shape[0] - MARGIN):
            continue
        near = np.hypot(*(at - at[star]).T) < OUTER + 4
        if np.sum(near & (flux > 0.02 * flux[star])) == 1:
            chosen.append(star)
        if len(chosen) == BRIGHT:
            break
    return np.array(chosen)


def _stamp(plane: NDArray, x: float, y: float) -> tuple[NDArray, NDArray]:
    """Return the pixels around a point without their background, and their distances from it."""
    reach = int(OUTER) + 1
    x0, y0 = round(x) - reach, round(y) - reach
    part = plane[y0 : y0 + 2 * reach + 1, x0 : x0 + 2 * reach + 1]
    rows, columns = np.mgrid[y0 : y0 + part.shape[0], x0 : x0 + part.shape[1]]
    distance = np.hypot(columns - x, rows - y)
    return part - np.median(part[(distance > INNER) & (distance < OUTER)]), distance


def _aperture(plane: NDArray, x: float, y: float) -> float:
    part, distance = _stamp(plane, x, y)
    # Pixels on the rim count with the share that lies within.
    return float(np.sum(part * np.clip(RADIUS + 0.5 - distance, 0, 1)))


def _fwhm(plane: NDArray, x: float, y: float) -> float:
    part, distance = _stamp(plane, x, y)
    near = distance < 5

    def profile(r: NDArray, peak: float, fwhm: float) -> NDArray:
        return peak * (1 + (2 ** (1 / 4) - 1) * (2 * r / fwhm) ** 2) ** -4.0

    found, _ = optimize.curve_fit(profile, distance[near], part[near], p0=(part.max(), 3.0))
    return abs(float(found[1]))


def _noise4(plane: NDArray, quiet: NDArray) -> float:
    """Return the standard deviation of the means of 4 x 4 pixels between the stars, neighbours as the background."""
    h, w = (side // 4 * 4 for side in plane.shape)
    blocks = plane[:h, :w].reshape(h // 4, 4, w // 4, 4)
    means = blocks.mean(axis=(1, 3))
    clean = quiet[:h, :w].reshape(h // 4, 4, w // 4, 4).mean(axis=(1, 3)) > 0.9
    difference = (means[10:-10, 10:-11] - means[10:-10, 11:-10])[clean[10:-10, 10:-11] & clean[10:-10, 11:-10]]
    return 1.4826 * float(np.median(np.abs(difference - np.median(difference)))) / np.sqrt(2)


def _satellites(electrons: NDArray, truth: np.lib.npyio.NpzFile, night: Path, grid: NDArray) -> float:
    """Return what is left of the trails over what an average of all lights would show."""
    from astropy.io import fits

    left, whole = [], []
    count = len(truth["lights"])
    for name, matrix, bits in zip(truth["lights"], truth["transforms"], truth["satellites"], strict=True):
        raw = next((night / "LIGHT").glob(f"{name}*"))
        light = np.asarray(fits.getdata(raw), np.float64)
        mask = np.unpackbits(bits)[: light.size].reshape(light.shape).astype(bool)
        # The middle of the trail: its faint rim is no measure.
        core = ndimage.binary_erosion(mask, iterations=2)
        mask = core if core.any() else mask
        if not mask.any():
            continue
        y, x = np.nonzero(mask & (np.random.default_rng(1).random(mask.shape) < min(1.0, 4000 / mask.sum())))
        beside = 24  # px, even: the same colour of a mosaic
        to_grid = grid @ np.linalg.inv(matrix)
        for signal, image, points in (
            (whole, light * float(truth["e_per_dn"]) / count, np.column_stack([x, y])),
            (left, electrons, _moved(to_grid, np.column_stack([x, y]).astype(np.float64))),
        ):
            column, row = points.T
            values = []
            for shift in (0, -beside, beside):
                values.append(ndimage.map_coordinates(image, [row, column + shift], order=0, cval=np.nan))
            signal.append(np.nanmedian(values[0] - 0.5 * (values[1] + values[2])))
    return float(np.sum(left) / np.sum(whole)) if whole else float("nan")
