"""Hot pixels of single lights: gone after cosmetic correction, the stars beside them untouched."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from conftest import Night
from numpy.typing import NDArray

from wbpy.simulate import Sensor, SessionSpec


def kept(night: Night, kind: str, index: int) -> NDArray[np.float64]:
    from astropy.io import fits

    stem = night.truth.lights[index].path.name.split(".fit")[0]
    with fits.open(night.out / "frames" / kind / f"{stem}_{kind}.fits") as units:
        return np.asarray(units[0].data, np.float64) * 65535


@pytest.mark.parametrize("cfa", [None, "RGGB"])
def test_hot_pixels_are_replaced_and_stars_are_not(run_night: Callable[..., Night], cfa: str | None) -> None:
    spec = SessionSpec(
        seed=61,
        # Warm frames: the dark was taken 3 degrees colder, so that each hot pixel leaves a third of its signal behind.
        sensor=Sensor(width=260, height=200, seed=9, cfa=cfa, hot_fraction=0.002),
        n_lights=3,
        n_stars=120,
        nebula_e_per_s=0,
        dark_temperature_c=-12.5,
        n_darks=6,
        n_flats=4,
        n_flat_darks=4,
        n_bias=0,
        cosmic_rays=0.0,
        dialect="nina" if cfa is None else "asiair",
    )
    night = run_night(spec, set=["run.keep=calibrated,cosmetic"])
    truth = night.truth.scene_in(0, "L" if cfa is None else "G") * spec.exposure_s / night.truth.e_per_dn
    before, after = kept(night, "calibrated", 0), kept(night, "cosmetic", 0)
    x, y = night.truth.hot_pixels.T
    inside = (x > 3) & (x < 256) & (y > 3) & (y < 196) & (truth[y, x] < 1.3 * np.median(truth))
    x, y = x[inside], y[inside]
    middle = np.median(before)
    sigma = 1.4826 * np.median(np.abs(before - middle))
    stuck = before[y, x] > middle + 15 * sigma
    assert stuck.sum() >= 10, "the fault must be there to be mended"
    # What replaces a hot pixel is a median of neighbours, whose noise is below that of a pixel.
    assert np.all(after[y, x][stuck] < middle + 5 * sigma)
    stars = night.truth.stars_in(0)
    hot = {(int(u), int(v)) for u, v in night.truth.hot_pixels}
    warm = {(int(u), int(v)) for u, v in night.truth.warm_pixels} | {
        (int(u), int(v)) for u, v in night.truth.cold_pixels
    }
    for star in stars[np.argsort(-stars["G"])][:60]:
        column, row = int(round(star["x"])), int(round(star["y"]))
        if 3 < column < 256 and 3 < row < 196 and (column, row) not in hot | warm:
            assert after[row, column] == before[row, column], (column, row)
