"""Time candidates side by side and say on which machine.

A `Case` names what is done and how much of it; its candidates do the same work in different ways. Every round
runs each candidate once, so that other users of the machine slow all of them alike; the median over the rounds
counts. CPU seconds (all threads of the process) are the figure to compare: wall time depends on who else is busy.

    case = Case("sort 1e6 numbers", "Mnumbers", 1.0, {"numpy": lambda: np.sort(x), "list": lambda: sorted(y)}, "numpy")
    result = measure(case, rounds=5)
    print(table([result]))
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("numpy", "numba", "scipy", "astropy", "ccdproc", "sep", "photutils", "astroalign")


@dataclass(frozen=True)
class Case:
    """Work to time: `amount` of `unit` by each candidate; ratios are against the candidate `peer`."""

    name: str
    unit: str
    amount: float
    candidates: Mapping[str, Callable[[], object]]
    peer: str
    absent: tuple[str, ...] = ()
    """What could not take part, each with its reason."""


@dataclass(frozen=True)
class Timing:
    """Medians over the rounds of one candidate; `rate` is in units per CPU second, `speedup` over the peer."""

    candidate: str
    cpu_s: float
    wall_s: float
    wall_best_s: float
    rate: float
    speedup: float | None


@dataclass(frozen=True)
class Result:
    case: str
    unit: str
    amount: float
    peer: str
    rounds: int
    timings: tuple[Timing, ...]
    absent: tuple[str, ...] = ()
    peak_rss_mb: dict[str, float] = field(default_factory=dict)


def measure(case: Case, rounds: int = 5) -> Result:
    """Return the timings of a case; every candidate runs once beforehand, to compile and to fill caches."""
    cpu: dict[str, list[float]] = {name: [] for name in case.candidates}
    wall: dict[str, list[float]] = {name: [] for name in case.candidates}
    for run in case.candidates.values():
        run()
    gc.collect()
    for _ in range(rounds):
        for name, run in case.candidates.items():
            cpu_start, wall_start = time.process_time(), time.perf_counter()
            run()
            wall[name].append(time.perf_counter() - wall_start)
            cpu[name].append(time.process_time() - cpu_start)
    medians = {name: max(statistics.median(seconds), 1e-9) for name, seconds in cpu.items()}
    timings = tuple(
        Timing(
            candidate=name,
            cpu_s=medians[name],
            wall_s=statistics.median(wall[name]),
            wall_best_s=min(wall[name]),
            rate=case.amount / medians[name],
            speedup=medians[case.peer] / medians[name] if case.peer in medians else None,
        )
        for name in case.candidates
    )
    return Result(case.name, case.unit, case.amount, case.peer, rounds, timings, case.absent)


def peak_rss(command: Sequence[str]) -> float:
    """Return the peak resident memory of a child process, in MB of 10^6 bytes.

    Asked for every few milliseconds, because what ``wait4`` reports on Linux is never less than the peak of the
    process that started the child. Its own children are not counted. Raises `subprocess.CalledProcessError` if the
    command fails.
    """
    child = subprocess.Popen(command, cwd=ROOT)
    peak = 0
    while child.poll() is None:
        peak = max(peak, _peak_so_far(child.pid))
        time.sleep(0.005)
    if child.returncode != 0:
        raise subprocess.CalledProcessError(child.returncode, command)
    return peak / 1e6


def machine() -> dict[str, object]:
    """Return what a reader needs to place the numbers: processor, memory, load and versions."""
    import psutil

    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "absent"
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load": [round(x, 2) for x in psutil.getloadavg()],
        "system": platform.platform(),
        "python": platform.python_version(),
        **versions,
        "revision": _revision(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def table(results: Sequence[Result]) -> str:
    """Return the results as text, one block a case."""
    lines = []
    for result in results:
        lines.append(f"{result.case}  ({result.amount:g} {result.unit}, median of {result.rounds} rounds)")
        for t in result.timings:
            versus = "" if t.speedup is None else f"{t.speedup:9.2f} x"
            memory = f"{result.peak_rss_mb[t.candidate]:8.0f} MB" if t.candidate in result.peak_rss_mb else ""
            lines.append(
                f"  {t.candidate:<32} cpu {t.cpu_s * 1e3:9.2f} ms  wall {t.wall_s * 1e3:9.2f} ms"
                f"  {t.rate:9.1f} {result.unit}/core-s {versus} {memory}".rstrip()
            )
        lines.extend(f"  peer absent: {reason}" for reason in result.absent)
    return "\n".join(lines)


def main(cases: Mapping[str, Callable[[bool], Case]], script: Path, arguments: Sequence[str] | None = None) -> int:
    """Run the chosen cases; print a table, and write JSON where asked. Return the exit code.

    Parameters
    ----------
    cases : mapping of name to function
        Each function takes ``quick`` and returns the `Case`; it is called only for the cases that run.
    script : Path
        The calling file; started again as a child where ``--rss`` asks for the memory of one candidate.
    arguments : sequence of str, optional
        Command line without the program; by default that of the process.
    """
    parser = argparse.ArgumentParser(description="Benchmarks against named peers.")
    parser.add_argument("names", nargs="*", help=f"cases or beginnings of their names; all: {', '.join(cases)}")
    parser.add_argument("--quick", action="store_true", help="small sizes, fewer rounds")
    parser.add_argument("--rounds", type=int, help="rounds a case (5, or 3 with --quick)")
    parser.add_argument("--rss", action="store_true", help="also the peak memory of a process a candidate")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write machine and results here")
    parser.add_argument("--child", metavar="CANDIDATE", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    chosen = [n for n in cases if not options.names or _is_named(n, options.names, cases)]
    if not chosen:
        parser.error(f"no case is named {' or '.join(options.names)}; there are {', '.join(cases)}")
    if options.child:
        cases[options.names[0]](options.quick).candidates[options.child]()
        return 0
    rounds = options.rounds or (3 if options.quick else 5)
    banner = machine()
    print("\n".join(f"{key}: {value}" for key, value in banner.items()), end="\n\n")
    results = []
    for name in chosen:
        result = measure(cases[name](options.quick), rounds)
        if options.rss:
            flags = ["--quick"] if options.quick else []
            for t in result.timings:
                command = [sys.executable, str(script), name, *flags, "--child", t.candidate]
                result.peak_rss_mb[t.candidate] = peak_rss(command)
        results.append(result)
        print(table([result]), end="\n\n", flush=True)
    if options.json:
        report = {"machine": banner, "results": [asdict(result) for result in results]}
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


def _is_named(name: str, asked: Sequence[str], cases: Mapping[str, object]) -> bool:
    """Return whether a case is asked for: by its full name, or by a beginning that is no full name itself."""
    return any(name == a or (a not in cases and name.startswith(a)) for a in asked)


def _peak_so_far(pid: int) -> int:
    """Return the peak memory of a running process in bytes, 0 once it has ended."""
    import psutil

    try:
        status = Path(f"/proc/{pid}/status")
        if status.exists():
            for line in status.read_text(encoding="ascii", errors="replace").splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
            return 0
        memory = psutil.Process(pid).memory_info()
    except (OSError, psutil.NoSuchProcess):
        return 0
    return int(getattr(memory, "peak_wset", memory.rss))


def _processor() -> str:
    """Return the model of the processor."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _revision() -> str:
    """Return the commit of the working tree, marked where it has changes."""
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return run.stdout.strip()
