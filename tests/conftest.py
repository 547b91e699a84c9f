"""Fixtures shared by all tests: a simulated night run through the whole program."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from wbpy.model import FrameResult, Plan, Run
from wbpy.simulate import Sensor, SessionSpec, Truth, write_session

ROOT = Path(__file__).parent.parent
REAL_DATA = ROOT.parent / "shared" / "data"
STARS_ALONE = SessionSpec(
    seed=31,
    sensor=Sensor(width=220, height=160, seed=5),
    n_lights=4,
    n_stars=90,
    brightest_e_per_s=3000.0,
    faintest_e_per_s=60.0,
    nebula_e_per_s=0.0,
    n_darks=3,
    n_flats=3,
    n_flat_darks=3,
    n_bias=0,
    dither_px=2.0,
    cosmic_rays=0.0,
)
"""A night of small frames with plain stars and nothing that goes wrong; tests replace what they are about."""


@dataclass
class Night:
    """A night that was run: what is true, what was planned, what came out."""

    truth: Truth
    plan: Plan
    run: Run
    out: Path

    def result(self, path: Path) -> FrameResult:
        return next(frame for frame in self.run.frames if frame.path == str(path))

    def product(self, kind: str, index: int = 0) -> Path:
        return [Path(p.path) for p in self.run.products if p.kind == kind][index]

    def pixels(self, kind: str, index: int = 0) -> NDArray[np.float64]:
        """Return a product in DN, the pedestal taken off."""
        from astropy.io import fits

        with fits.open(self.product(kind, index)) as units:
            data = np.asarray(units[0].data, np.float64)
            if kind.startswith("rejection"):
                return data
            return data * 65535.0 - units[0].header.get("PEDESTAL", 0)

    def finding_ids(self) -> list[str]:
        return [finding.id for finding in self.run.findings]


@pytest.fixture(scope="session", autouse=True)
def own_cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what runs record about the machine out of the user's cache folder, and the user's records out of tests."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
            patch.setenv(variable, str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def run_night(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Night]:
    """Write a simulated night and run it; keyword arguments go to `wbpy.plan`."""
    import wbpy

    def make(spec: SessionSpec, **options: Any) -> Night:
        folder = tmp_path_factory.mktemp("night")
        truth = write_session(folder / "in", spec)
        out = folder / "out"
        plan = wbpy.plan(folder / "in", out, **options)
        return Night(truth, plan, wbpy.run(plan), out)

    return make


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real frames of other people's cameras; skips where it is absent."""
    if not REAL_DATA.is_dir():
        reason = f"real frames are not here ({REAL_DATA.name} beside the checkout)"
        if os.environ.get("WBPY_REQUIRE_REAL_DATA"):
            pytest.fail(reason)
        pytest.skip(reason)
    return REAL_DATA


def load_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
