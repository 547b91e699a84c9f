"""Time a whole night as one process, beside Siril on the same frames.

    python -m tests.benchmarks.bench_end_to_end [--lights 20] [--size 6248x4176] [--mono] [--rounds 1] [--json PATH]
    python -m tests.benchmarks.bench_end_to_end --memory      peak memory of 100, 500 and 1000 small lights

The night is simulated once (some minutes at full size) and kept in ``--folder`` for further runs. Both programs make
master bias, dark and flat, calibrate, correct, debayer, register and integrate with winsorized sigma 3/3 and additive
normalization with scaling; wbpy runs once more with its defaults, local normalization and weights by the stars. Wall
time, CPU time of the process, its peak memory, what it wrote, and the quality of the result against the truth are
printed. The frames are read once before, so that all find them in the cache of the system.
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

from tests.benchmarks import quality
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
MONO_SCRIPT = SIRIL_SCRIPT.replace("-cfa -equalize_cfa -debayer", "")

SAME = ("integrate.rejection=winsorized", "integrate.low=3", "integrate.high=3", "normalize.method=additive_scaling")
"""What makes wbpy do the work of the script and no more."""


@dataclass(frozen=True)
class Figures:
    """What one process took."""

    wall_s: float
    cpu_s: float
    anonymous_mb: float
    """Peak of the memory that belongs to the process alone; pages of files that it has mapped are not in it."""
    peak_mb: float
    written_mb: float
    """Bytes of the files that it left."""


def make_night(
    folder: Path, lights: int, width: int, height: int, *, cfa: str | None = "RGGB", calibration: int | None = None
) -> Path:
    """Return a folder with a simulated night, made unless it is there; as many calibration frames as lights."""
    frames = lights if calibration is None else calibration
    night = folder / f"night_{width}x{height}_{lights}_{cfa or 'mono'}"
    if (night / "truth.npz").exists():
        return night
    shutil.rmtree(night, ignore_errors=True)
    spec = SessionSpec(
        seed=7,
        sensor=Sensor(width=width, height=height, cfa=cfa),
        n_lights=lights,
        n_stars=max(150, width * height // 6000),
        nebula_e_per_s=0,
        n_darks=frames,
        n_flats=frames,
        n_flat_darks=0,
        n_bias=frames,
        dither_px=8.0,
        rotation_deg=0.02,
        satellites=(1, 4),
        dialect="nina",
    )
    quality.save_truth(night / "truth.npz", write_session(night, spec))
    return night


def read_once(night: Path) -> None:
    """Bring the frames into the cache of the system."""
    for path in night.rglob("*.fits"):
        path.read_bytes()


def timed(command: list[str], folder: Path, log: Path) -> Figures:
    """Return the figures of one finished process, `folder` being where it writes."""
    import psutil

    started = time.perf_counter()
    with open(log, "w", encoding="utf-8") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        watched = psutil.Process(process.pid)
        peak = anonymous = 0
        cpu = 0.0
        while process.poll() is None:
            try:
                held = watched.memory_info()
                peak = max(peak, held.rss)
                # On Linux the pages of mapped files count as shared.
                anonymous = max(anonymous, held.rss - getattr(held, "shared", 0))
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
    return Figures(wall, cpu, anonymous / 1e6, peak / 1e6, left / 1e6)


def run_wbpy(night: Path, scratch: Path, options: list[str]) -> Figures:
    """Return the figures of wbpy, started in an empty folder."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    command = [sys.executable, "-m", "wbpy", "run", str(night), "-o", str(scratch / "out"), "-q", *options]
    return timed(command, scratch, scratch.with_suffix(".wbpy.log"))


def run_siril(night: Path, scratch: Path, program: str, text: str) -> Figures:
    """Return the figures of a script of Siril on the same frames."""
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
    script.write_text(text.replace("calibrate_or_preprocess", name), encoding="ascii")
    return timed([program, "-d", str(scratch), "-s", str(script)], scratch, scratch.with_suffix(".siril.log"))


def show(name: str, figures: list[Figures], picture: Path | None, night: Path) -> dict[str, object]:
    """Print the medians of one program's rounds and the quality of its picture, and return all."""
    middle = {key: statistics.median(asdict(f)[key] for f in figures) for key in asdict(figures[0])}
    print(
        f"  {name:<24} wall {middle['wall_s']:8.1f} s  cpu {middle['cpu_s']:8.1f} s  anonymous "
        f"{middle['anonymous_mb']:6.0f} MB  peak {middle['peak_mb']:6.0f} MB  written {middle['written_mb']:7.0f} MB"
    )
    reached = {} if picture is None else quality.measure(picture, night)
    for what, values in reached.items():
        print(f"    {what:<22} " + "  ".join(f"{value:8.3f}" for value in values))
    return {"median": middle, "rounds": [asdict(f) for f in figures], "quality": reached}


def compare(arguments: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Run both programs in turn and print the figures and ratios."""
    width, height = (int(part) for part in arguments.size.split("x"))
    night = make_night(folder, arguments.lights, width, height, cfa=None if arguments.mono else "RGGB")
    program = None if arguments.alone else shutil.which("siril-cli")
    same, full, theirs = folder / "scratch", folder / "scratch_full", folder / "scratch_siril"
    rounds: dict[str, list[Figures]] = {"wbpy": [], "wbpy, local, by stars": [], "Siril": []}
    for _ in range(arguments.rounds):
        read_once(night)
        rounds["wbpy"].append(run_wbpy(night, same, [part for setting in SAME for part in ("--set", setting)]))
        rounds["wbpy, local, by stars"].append(run_wbpy(night, full, ["--set", "integrate.rejection=winsorized"]))
        if program:
            script = MONO_SCRIPT if arguments.mono else SIRIL_SCRIPT
            rounds["Siril"].append(run_siril(night, theirs, program, script))
    kind = "mono" if arguments.mono else "OSC"
    print(f"{arguments.lights} {kind} lights of {width} x {height} with {arguments.lights} each of bias, darks, flats")
    pictures = {
        "wbpy": next(same.glob("out/integrations/*s.fits")),
        "wbpy, local, by stars": next(full.glob("out/integrations/*s.fits")),
        "Siril": next((path for path in theirs.rglob("result.fit*")), None),
    }
    results: dict[str, object] = {
        name: show(name, figures, pictures[name], night) for name, figures in rounds.items() if figures
    }
    if program:
        pairs = list(zip(rounds["wbpy"], rounds["Siril"], strict=True))
        ratio = {
            key: statistics.median(asdict(a)[key] / asdict(b)[key] for a, b in pairs) for key in asdict(pairs[0][0])
        }
        print("  wbpy / Siril: " + ", ".join(f"{key} {value:.3f}" for key, value in ratio.items()))
        results["ratio"] = ratio
    elif not arguments.alone:
        print("  peer absent: siril-cli is not installed")
    return results


def memory(folder: Path) -> dict[str, object]:
    """Print peak memory while the number of lights grows, with a limit that binds."""
    results: dict[str, object] = {}
    for lights in (100, 500, 1000):
        night = make_night(folder, lights, 480, 360, calibration=10)
        figures = run_wbpy(night, folder / "scratch", ["--memory-limit", "400MB"])
        results[str(lights)] = show(f"{lights} lights, 400 MB", [figures], None, night)
    return results


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description="Time a whole night beside Siril.")
    parser.add_argument("--lights", type=int, default=20)
    parser.add_argument("--size", default="6248x4176")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--mono", action="store_true", help="frames without a CFA")
    parser.add_argument("--alone", action="store_true", help="without Siril")
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
