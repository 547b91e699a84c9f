"""A run that is killed at any moment goes on where it was, with the same bits, and leaves nothing half-written."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import load_json
from filelock import FileLock

from wbpy.engine.execute import LOCK
from wbpy.simulate import Sensor, SessionSpec, write_session

pytestmark = pytest.mark.skipif(os.name == "nt", reason="sends SIGKILL and SIGINT")

SPEC = SessionSpec(
    seed=21,
    sensor=Sensor(width=900, height=700, cfa="RGGB"),
    n_lights=8,
    n_stars=250,
    nebula_e_per_s=0,
    n_darks=4,
    n_flats=4,
    n_flat_darks=4,
    n_bias=0,
)


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    write_session(folder / "in", SPEC)
    return folder / "in"


@pytest.fixture(scope="module")
def undisturbed(night: Path) -> dict[str, str]:
    out = night.parent / "undisturbed"
    finish(night, out)
    return products(out)


def start(night: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "wbpy", "run", str(night), "-o", str(out), "--workers", "1"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(night: Path, out: Path) -> str:
    process = start(night, out)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def products(out: Path) -> dict[str, str]:
    """Return the hash of every pixel product by its name."""
    paths = [*out.glob("masters/*.fits"), *out.glob("integrations/*")]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def stop_when(process: subprocess.Popen[str], happened: object, number: int) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[0]
        if happened():  # type: ignore[operator]
            process.send_signal(number)
            return
        time.sleep(0.002)
    process.kill()
    raise AssertionError("the moment to stop never came")


def lights(out: Path) -> list[Path]:
    """Return what stands in the store of the lights that are finished."""
    return sorted(out.glob(".store/mended/[!.]*.npz"))


def test_killed_in_the_first_pass(night: Path, undisturbed: dict[str, str], tmp_path: Path) -> None:
    process = start(night, tmp_path)
    stop_when(process, lambda: len(lights(tmp_path)) >= 3, signal.SIGKILL)
    process.communicate()
    done = {path: path.stat().st_mtime_ns for path in lights(tmp_path)}
    assert 3 <= len(done) < SPEC.n_lights
    assert not list(tmp_path.glob("integrations/*.fits"))
    finish(night, tmp_path)
    assert products(tmp_path) == undisturbed
    assert {path: path.stat().st_mtime_ns for path in done} == done, "finished lights were treated again"


def test_killed_in_the_second_pass(night: Path, undisturbed: dict[str, str], tmp_path: Path) -> None:
    process = start(night, tmp_path)
    stop_when(process, lambda: list(tmp_path.glob("integrations/.*.tmp")), signal.SIGKILL)
    process.communicate()
    assert not list(tmp_path.glob("integrations/*.fits")), "a half-written file under its final name"
    done = {path: path.stat().st_mtime_ns for path in lights(tmp_path)}
    assert len(done) == SPEC.n_lights
    finish(night, tmp_path)
    assert products(tmp_path) == undisturbed
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert not list(tmp_path.rglob("*.tmp")), "leftovers of the killed run"


def test_interrupted_says_how_to_go_on(night: Path, undisturbed: dict[str, str], tmp_path: Path) -> None:
    process = start(night, tmp_path)
    stop_when(process, lambda: len(lights(tmp_path)) >= 2, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "again" in output and "Traceback" not in output
    assert load_json(tmp_path / "run.json")["outcome"] == "cancelled"
    finish(night, tmp_path)
    assert products(tmp_path) == undisturbed


def test_a_run_in_the_folder_of_a_working_one_is_refused(night: Path, tmp_path: Path) -> None:
    # The lock that a working run holds, held here: two runs would race each other to their ends.
    with FileLock(tmp_path / LOCK):
        process = start(night, tmp_path)
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 2, output
        assert "another run is working in this folder" in output and "Traceback" not in output
        assert not lights(tmp_path)
    finish(night, tmp_path)
