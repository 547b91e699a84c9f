"""Frames as the stages read them: by band, and compressed ones decoded once."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

import wbpy
from wbpy.engine import context as module
from wbpy.engine.context import FrameReader
from wbpy.engine.store import Store
from wbpy.model import Frame
from wbpy.simulate import Sensor, SessionSpec, write_session


@pytest.fixture
def frame(tmp_path: Path) -> Frame:
    """A gzip-compressed light."""
    spec = SessionSpec(sensor=Sensor(width=64, height=48), n_lights=1, n_darks=0, n_flats=0, n_flat_darks=0, n_bias=0)
    plain = write_session(tmp_path / "night", spec).lights[0].path
    packed = plain.with_name(plain.name + ".gz")
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    return wbpy.scan([tmp_path / "night"]).frames[0]


def test_compressed_frames_are_decoded_once(frame: Frame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = FrameReader(frame).read(0, 48)
    reader = FrameReader(frame, Store(tmp_path / ".store"))
    opened = []
    monkeypatch.setattr(
        module, "open_image", lambda *a: opened.append(a) or pytest.importorskip("wbpy.io.images").open_image(*a)
    )
    bands = [reader.read(y, y + 8) for y in range(0, 48, 8)]
    np.testing.assert_array_equal(np.concatenate(bands), whole)
    assert len(opened) == 1
    assert reader.words(0, 8) is None
    again = FrameReader(frame, Store(tmp_path / ".store"))
    opened.clear()
    np.testing.assert_array_equal(again.read(3, 9), whole[3:9])
    assert opened == []


def test_plain_frames_are_not_copied_into_the_store(tmp_path: Path) -> None:
    spec = SessionSpec(sensor=Sensor(width=64, height=48), n_lights=1, n_darks=0, n_flats=0, n_flat_darks=0, n_bias=0)
    write_session(tmp_path / "night", spec)
    plain = wbpy.scan([tmp_path / "night"]).frames[0]
    FrameReader(plain, Store(tmp_path / ".store")).read(0, 48)
    assert not list((tmp_path / ".store" / "image").iterdir())
