"""Masters and calibrated lights against ccdproc on the same frames: an independent implementation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from wbpy.stages import calibrate, masters
from wbpy.stages.base import Work
from wbpy.stages.calibrate import CalibrateParams
from wbpy.stages.masters import MastersParams

ccdproc = pytest.importorskip("ccdproc")
WORK = Work(map=map, workers=1, memory=1 << 22, report=lambda *_: None)


@dataclass
class Frame:
    """A frame in memory that reads like one on disk."""

    image: NDArray[np.uint16]
    name: str = "frame"

    @property
    def shape(self) -> tuple[int, int]:
        return self.image.shape

    def read(self, y0: int, y1: int) -> NDArray[np.float32]:
        return self.image[y0:y1].astype(np.float32)

    def words(self, y0: int, y1: int) -> tuple[NDArray[np.uint16], float]:
        stored = (self.image[y0:y1].astype(np.int32) - 32768).astype(">i2")
        return stored.ravel().view(np.uint16), 32768.0


@pytest.fixture(scope="module")
def frames() -> dict[str, list[Frame]]:
    rng = np.random.default_rng(8)
    y, x = np.mgrid[0:70, 0:90]
    shade = 1 - 0.4 * ((x - 45) ** 2 + (y - 35) ** 2) / 45**2 / 2
    bias = 500 + 3 * np.sin(x / 3)
    dark = bias + rng.exponential(20, shade.shape)

    def draw(mean: NDArray[np.float64]) -> Frame:
        return Frame(np.clip(rng.normal(mean, np.sqrt(mean)), 0, 65535).astype(np.uint16))

    return {
        "bias": [draw(bias) for _ in range(9)],
        "dark": [draw(dark) for _ in range(9)],
        "flat": [draw(bias + level * shade) for level in (20000, 22000, 21000, 19500, 20500)],
        "light": [draw(dark + 900 * shade) for _ in range(2)],
    }


def combined(images: list[Frame], **options: object) -> NDArray[np.float64]:
    data = [ccdproc.CCDData(frame.image.astype(np.float64), unit="adu") for frame in images]
    return np.asarray(ccdproc.combine(data, method="average", **options).data)


@pytest.mark.parametrize("role", ["bias", "dark"])
def test_master_is_the_average_of_ccdproc(frames: dict[str, list[Frame]], role: str) -> None:
    master = masters.run(MastersParams(rejection="none"), WORK, frames[role], role)
    # float32 holds integers up to 65535 x 9 exactly; the mean is rounded once.
    np.testing.assert_allclose(master.image, combined(frames[role]), rtol=1e-6)


def test_master_flat_is_the_scaled_average_of_ccdproc(frames: dict[str, list[Frame]]) -> None:
    bias = masters.run(MastersParams(rejection="none"), WORK, frames["bias"], "bias").image
    master = masters.run(MastersParams(rejection="none"), WORK, frames["flat"], "flat", bias)
    data = [ccdproc.CCDData(frame.image - bias.astype(np.float64), unit="adu") for frame in frames["flat"]]
    first = np.median(data[0].data)
    expected = ccdproc.combine(data, method="average", scale=lambda image: first / np.median(image))
    np.testing.assert_allclose(master.image, expected.data, rtol=2e-6)


def test_calibrated_light_is_that_of_ccdproc(frames: dict[str, list[Frame]]) -> None:
    bias, dark = (masters.run(MastersParams(rejection="none"), WORK, frames[r], r).image for r in ("bias", "dark"))
    flat = masters.run(MastersParams(rejection="none"), WORK, frames["flat"], "flat", bias).image
    calibration = calibrate.prepare(CalibrateParams(), dark, None, flat, None)
    ours = calibrate.run(CalibrateParams(), frames["light"][0], calibration).image
    # Five percent are cut at either end of a flat whose vignetting makes its mean fall below its median.
    assert calibration.flat_factors[0] == pytest.approx(flat.mean(), rel=0.01)
    light = ccdproc.CCDData(frames["light"][0].image.astype(np.float64), unit="adu", meta={"exposure": 60.0})
    dark_frame = ccdproc.CCDData(dark.astype(np.float64), unit="adu", meta={"exposure": 60.0})
    import astropy.units as u

    light = ccdproc.subtract_dark(light, dark_frame, exposure_time="exposure", exposure_unit=u.s)
    master_flat = ccdproc.CCDData(flat.astype(np.float64), unit="adu")
    theirs = ccdproc.flat_correct(light, master_flat, norm_value=calibration.flat_factors[0])
    # Two float32 roundings of a few times 1e3 DN.
    np.testing.assert_allclose(ours, theirs.data, rtol=1e-6, atol=2e-3)


def test_sigma_clipped_average_is_that_of_ccdproc(frames: dict[str, list[Frame]]) -> None:
    """ccdproc clips once per call about the median by the standard deviation; one round of ours must agree on most."""
    hit = [Frame(frame.image.copy()) for frame in frames["dark"]]
    rng = np.random.default_rng(3)
    for frame in hit:
        at = rng.integers(0, frame.image.size, 40)
        frame.image.reshape(-1)[at] = 40000
    master = masters.run(MastersParams(rejection="sigma", low=2.5, high=2.5), WORK, hit, "dark")
    data = [ccdproc.CCDData(frame.image.astype(np.float64), unit="adu") for frame in hit]
    combiner = ccdproc.Combiner(data)
    previous = -1
    while previous != (
        masked := int(
            np.ma.getmaskarray(combiner.data_arr).sum() if hasattr(combiner, "data_arr") else combiner.mask.sum()
        )
    ):
        previous = masked
        combiner.sigma_clipping(
            low_thresh=2.5, high_thresh=2.5, func=np.ma.median, dev_func=lambda a, axis: np.ma.std(a, axis=axis, ddof=1)
        )
    theirs = np.asarray(combiner.average_combine().data)
    close = np.abs(master.image - theirs) < 1e-3 * theirs
    assert close.mean() > 0.98
