"""Lights that are made again from their raw words: the same bits as what was treated."""

from __future__ import annotations

import gzip
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import wbpy
from wbpy.engine import remaking
from wbpy.engine.context import FrameReader
from wbpy.engine.remaking import RemadeImage
from wbpy.engine.store import Store, StoredImage
from wbpy.kernels import calibration as kernels
from wbpy.simulate import Sensor, SessionSpec, write_session
from wbpy.stages import calibrate
from wbpy.stages.calibrate import CalibrateParams

HEIGHT, WIDTH = 48, 64
PEDESTAL = 7.5


class Case:
    """A raw light with masters, calibrated."""

    def __init__(self, folder: Path, *, dark: bool = True, flat: bool = True) -> None:
        sensor = Sensor(width=WIDTH, height=HEIGHT)
        spec = SessionSpec(sensor=sensor, n_lights=1, n_darks=0, n_flats=0, n_flat_darks=0, n_bias=0)
        write_session(folder / "night", spec)
        self.reader = FrameReader(wbpy.scan([folder / "night"]).frames[0])
        rng = np.random.default_rng(3)
        master_dark = rng.normal(500, 3, (HEIGHT, WIDTH)).astype(np.float32) if dark else None
        master_flat = rng.normal(20000, 300, (HEIGHT, WIDTH)).astype(np.float32) if flat else None
        if master_flat is not None:
            master_flat[5, 9] = 0.0
        self.calibration = calibrate.prepare(CalibrateParams(), master_dark, None, master_flat, None)
        treated = calibrate.run(CalibrateParams(), self.reader, self.calibration, PEDESTAL)
        self.image = treated.image
        self.folder = folder / ".store"

    def context(self, mapped: int = 0) -> Any:
        return SimpleNamespace(store=Store(self.folder, mapped))

    def keep(self, context: Any) -> remaking.Image:
        group = remaking.share(context, "group", self.calibration, (HEIGHT, WIDTH))
        return remaking.keep(context, "light", self.reader, group, PEDESTAL, self.image)


def same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and bool((one.view(np.int32) == other.view(np.int32)).all())


@pytest.mark.parametrize("mapped", [0, 1 << 20])
@pytest.mark.parametrize(("dark", "flat"), [(True, True), (True, False), (False, True), (False, False)])
def test_a_remade_light_has_the_bits_of_the_treated_one(tmp_path: Path, dark: bool, flat: bool, mapped: int) -> None:
    case = Case(tmp_path, dark=dark, flat=flat)
    case.image[11, 12], case.image[11, 13], case.image[40, 0], case.image[47, 63] = 1.25, np.nan, -3.0, 70000.0
    kept = case.keep(case.context(mapped))
    assert isinstance(kept, RemadeImage) and kept.indices.size == 4
    assert same_bits(kept.read(0, HEIGHT, 0, WIDTH), case.image)
    assert same_bits(kept.read(10, 41, 12, 13), np.ascontiguousarray(case.image[10:41, 12:13]))
    assert kept.read(3, 3, 0, WIDTH).shape == (0, WIDTH)


def test_another_run_finds_the_light_again(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.image[11, 12] = 1.25
    case.keep(case.context())
    later = case.context()
    group = remaking.shared(later, "group")
    found = remaking.kept(later, "light", case.reader, group, PEDESTAL)
    assert isinstance(found, RemadeImage) and same_bits(found.read(0, HEIGHT, 0, WIDTH), case.image)
    assert remaking.kept(later, "other", case.reader, group, PEDESTAL) is None
    assert remaking.shared(later, "other group") is None


def test_shared_frames_that_were_lost_are_missed(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.keep(case.context())
    next((case.folder / "image").glob("*.npy")).unlink()
    assert remaking.shared(case.context(), "group") is None


def test_a_light_with_many_mended_pixels_is_written_as_it_is(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.image[:2] += 1.0
    kept = case.keep(case.context())
    assert isinstance(kept, StoredImage) and same_bits(kept.read(0, HEIGHT, 0, WIDTH), case.image)


def test_a_light_whose_dark_was_scaled_is_written_as_it_is(tmp_path: Path) -> None:
    case = Case(tmp_path)
    dark = np.random.default_rng(1).normal(500, 3, (HEIGHT, WIDTH)).astype(np.float32)
    params = CalibrateParams(scale_dark=True)
    case.calibration = calibrate.prepare(params, dark, dark - 100, None, None)
    assert remaking.share(case.context(), "group", case.calibration, (HEIGHT, WIDTH)) is None
    kept = remaking.keep(case.context(), "light", case.reader, None, PEDESTAL, case.image)
    assert isinstance(kept, StoredImage)


def test_compressed_lights_do_not_suit(tmp_path: Path) -> None:
    case = Case(tmp_path)
    assert remaking.suits(case.reader)
    plain = Path(case.reader.frame.path)
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / f"{plain.name}.gz").write_bytes(gzip.compress(plain.read_bytes()))
    packed = FrameReader(wbpy.scan([tmp_path / "packed"]).frames[0], case.context().store)
    assert not remaking.suits(packed)
    group = remaking.share(case.context(), "group", case.calibration, (HEIGHT, WIDTH))
    assert isinstance(remaking.keep(case.context(), "light", packed, group, PEDESTAL, case.image), StoredImage)


def test_a_rectangle_is_calibrated_as_the_whole_frame_is() -> None:
    rng = np.random.default_rng(2)
    words = rng.integers(0, 65536, (9, 14)).astype(np.uint16)
    subtract, gain = (rng.normal(1, 0.2, (9, 14)).astype(np.float32) for _ in range(2))
    signed = words.view(">i2").astype(np.float64)
    expected = (signed + 32768.0 - subtract) * gain
    out = np.empty((4, 5), np.float32)
    kernels.calibrate_rectangle(words, np.float32(32768.0), subtract, gain, 3, 6, out)
    # Two roundings of numbers up to 2^16.
    np.testing.assert_allclose(out, expected[3:7, 6:11], rtol=2e-7, atol=1e-2)
