"""Time a whole night as one process, beside Siril on the same frames.

    python -m tests.benchmarks.bench_end_to_end [--lights 10] [--size 6248x4176] [--rounds 1] [--json PATH]
    python -m tests.benchmarks.bench_end_to_end --memory      peak memory while the number of lights doubles

The night is simulated once (some minutes at full size) and kept in ``--folder`` for further runs. Both programs make
master bias, dark and flat, calibrate, correct, debayer, register and integrate with winsorized sigma 3/3 and additive
normalization with scaling. Wall time, CPU time of the process, its peak memory and the bytes it left are printed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.benchmarks.harness import machine
from wbpy.simulate import Sensor, SessionSpec, write_session

SIRIL_SCRIPT = """requires 1.0.0
setcpu 2
set32bits
cd bias
convert bias -out=../process
cd ../process
stack bias rej 3 3 -nonorm -out=bias_master
cd ../flat
convert flat -out=../process
cd ../process
calibrate_or_preprocess flat -bias=bias_master
stack pp_flat rej 3 3 -norm=mul -out=flat_master
cd ../dark
convert dark -out=../process
cd ../process
stack dark rej 3 3 -nonorm -out=dark_master
cd ../light
convert light -out=../process
cd ../process
calibrate_or_preprocess light -dark=dark_master -flat=flat_master -cc=dark 3 3 -cfa -equalize_cfa -debayer
register pp_light
stack r_pp_light rej 3 3 -norm=addscale -output_norm -out=result
close
"""


@dataclass(frozen=True)
class Figures:
    """What one process took."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    left_mb: float


def make_night(folder: Path, lights: int, width: int, height: int, *, cfa: str | None = "RGGB") -> Path:
    """Return a folder with a simulated night, made unless it is there."""
    night = folder / f"night_{width}x{height}_{lights}_{cfa or 'mono'}"
    if (night / "complete").exists():
        return night
    shutil.rmtree(night, ignore_errors=True)
    spec = SessionSpec(
        seed=7,
        sensor=Sensor(width=width, height=height, cfa=cfa),
        n_lights=lights,
        n_stars=max(150, width * height // 6000),
        nebula_e_per_s=0,
        n_darks=lights,
        n_flats=lights,
        n_flat_darks=0,
        n_bias=lights,
        dither_px=8.0,
        rotation_deg=0.02,
        satellites=(1, 4),
        dialect="nina",
    )
    write_session(night, spec)
    (night / "complete").touch()
    return night


def timed(command: list[str], folder: Path, log: Path) -> Figures:
    """Return the figures of one finished process, `folder` being where it writes."""
    import psutil

    started = time.perf_counter()
    with open(log, "w", encoding="utf-8") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        watched = psutil.Process(process.pid)
        peak = 0
        cpu = 0.0
        while process.poll() is None:
            try:
                peak = max(peak, watched.memory_info().rss)
                times = watched.cpu_times()
                cpu = max(cpu, times.user + times.system)
            except psutil.NoSuchProcess:
                break
            time.sleep(0.02)
        process.wait()
    wall = time.perf_counter() - started
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{log.read_text()[-3000:]}")
    left = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return Figures(wall, cpu, peak / 1e6, left / 1e6)


def run_wbpy(night: Path, scratch: Path, options: list[str]) -> Figures:
    """Return the figures of wbpy, started in an empty folder."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    command = [sys.executable, "-m", "wbpy", "run", str(night), "-o", str(scratch / "out"), "-q", *options]
    return timed(command, scratch, scratch.with_suffix(".wbpy.log"))


def run_siril(night: Path, scratch: Path, program: str) -> Figures:
    """Return the figures of Siril's usual script for one-shot colour on the same frames."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    for role, source in (("bias", "BIAS"), ("dark", "DARK"), ("flat", "FLAT"), ("light", "LIGHT")):
        (scratch / role).mkdir()
        for path in sorted((night / source).iterdir()):
            os.symlink(path, scratch / role / path.name)
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    # The command changed its name in version 1.2.
    name = "preprocess" if "1.0." in version else "calibrate"
    script = scratch.with_suffix(".ssf")
    script.write_text(SIRIL_SCRIPT.replace("calibrate_or_preprocess", name), encoding="ascii")
    return timed([program, "-d", str(scratch), "-s", str(script)], scratch, scratch.with_suffix(".siril.log"))


def show(name: str, figures: list[Figures]) -> dict[str, object]:
    """Print the medians of one program's rounds and return all."""
    middle = {key: statistics.median(asdict(f)[key] for f in figures) for key in asdict(figures[0])}
    print(
        f"  {name:<24} wall {middle['wall_s']:8.1f} s  cpu {middle['cpu_s']:8.1f} s  "
        f"peak {middle['peak_mb']:7.0f} MB  left on disk {middle['left_mb']:8.0f} MB"
    )
    return {"median": middle, "rounds": [asdict(f) for f in figures]}


def compare(arguments: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Run both programs in turn and print the figures and ratios."""
    width, height = (int(part) for part in arguments.size.split("x"))
    night = make_night(folder, arguments.lights, width, height)
    program = shutil.which("siril-cli")
    ours: list[Figures] = []
    theirs: list[Figures] = []
    options = [
        part
        for setting in (
            "integrate.rejection=winsorized",
            "integrate.low=3",
            "integrate.high=3",
            "normalize.method=additive_scaling",
        )
        for part in ("--set", setting)
    ]
    for _ in range(arguments.rounds):
        ours.append(run_wbpy(night, folder / "scratch", options))
        if program:
            theirs.append(run_siril(night, folder / "scratch_siril", program))
    print(f"{arguments.lights} OSC lights of {width} x {height} with {arguments.lights} each of bias, darks, flats")
    results: dict[str, object] = {"wbpy": show("wbpy", ours)}
    if program:
        results["siril"] = show("Siril", theirs)
        ratio = statistics.median(a.wall_s / b.wall_s for a, b in zip(ours, theirs, strict=True))
        cpu = statistics.median(a.cpu_s / b.cpu_s for a, b in zip(ours, theirs, strict=True))
        print(f"  wbpy / Siril: wall {ratio:.3f}, cpu {cpu:.3f}")
        results["ratio"] = {"wall": ratio, "cpu": cpu}
    else:
        print("  peer absent: siril-cli is not installed")
    return results


def memory(folder: Path) -> dict[str, object]:
    """Print peak memory while the number of lights doubles, with a limit that binds."""
    results: dict[str, object] = {}
    for lights in (10, 20, 40, 80):
        night = make_night(folder, lights, 1200, 900)
        figures = run_wbpy(night, folder / "scratch", ["--memory-limit", "600MB"])
        results[str(lights)] = show(f"{lights} lights, 600 MB", [figures])
    return results


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description="Time a whole night beside Siril.")
    parser.add_argument("--lights", type=int, default=10)
    parser.add_argument("--size", default="6248x4176")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "wbpy_benchmark")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    banner = machine()
    print(", ".join(f"{key} {value}" for key, value in banner.items() if not isinstance(value, dict)))
    results = memory(arguments.folder) if arguments.memory else compare(arguments, arguments.folder)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": banner, "results": results}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
