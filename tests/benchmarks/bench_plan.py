"""Time and memory of a plan for many nights: ``python tests/benchmarks/bench_plan.py [FRAMES [NIGHTS]]``.

Frames are made in memory, as a scan would return them: two targets in four filters a night, flats of each night, a dark
library of several exposures, temperatures and gains, and masters of other years. Shown are the seconds of grouping,
matching and steps, of writing the plan as JSON, its size, and the peak memory of the process.
"""

from __future__ import annotations

import resource
import sys
import time
from datetime import date, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "unit")]

from session_frames import FakeCatalog, frame  # noqa: E402

from wbpy.config import load_config  # noqa: E402
from wbpy.model import Frame, encode  # noqa: E402
from wbpy.planner import make_plan  # noqa: E402
from wbpy.rules import load_rules  # noqa: E402
from wbpy.stages import STAGES  # noqa: E402

FILTERS = ("L", "R", "G", "B", "Ha")


def session(count: int, nights: int) -> list[Frame]:
    """Return about `count` frames of `nights` nights."""
    made: list[Frame] = []
    each = max(1, round(count * 0.7 / (nights * 8)))
    flats = max(1, round(count * 0.25 / (nights * len(FILTERS))))
    first = date(2024, 9, 1)
    for number in range(nights):
        night = (first + timedelta(days=3 * number)).isoformat()

        def add(role: str, n: int, stem: str, night: str = night, **values: Any) -> None:
            for i in range(n):
                stamp = f"{night}T{20 + i // 3600 % 4:02}:{i // 60 % 60:02}:{i % 60:02}.000"
                path = f"/archive/{night}/{role}/{stem}_{i:04}.fits"
                made.append(frame(stem, role, path=path, night=night, date_obs=stamp, **values))

        for target in ("M 31", "M 42"):
            for name in FILTERS[(number % 2) : 4 + number % 2]:
                exposure = 600.0 if name == "Ha" else 180.0
                add("light", each, f"{target}-{name}", object=target, target=target, filter=name, exposure=exposure)
        for name in FILTERS:
            add("flat", flats, name, filter=name)
        if number % 25 == 0:
            for exposure in (60.0, 180.0, 300.0, 600.0):
                for point in (-20.0, -10.0, 0.0):
                    for gain in (0.0, 100.0):
                        dark = {"exposure": exposure, "temp_set": point, "temp_ccd": point, "gain": gain}
                        add("dark", 5, f"{exposure}-{point}-{gain}", **dark)
            add("flat_dark", 20, "2s")
            add("bias", 20, "bias")
    return made


def main(count: int = 100_000, nights: int = 200) -> None:
    """Make the session, plan it, and print what it took."""
    frames = session(count, nights)
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rules = load_rules()
    config = load_config(rules, {stage.name: stage.params for stage in STAGES})
    start, cpu = time.perf_counter(), time.process_time()
    plan = make_plan(FakeCatalog(tuple(frames)), Path("/out"), rules, config, STAGES)  # type: ignore[arg-type]
    planned, planned_cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start = time.perf_counter()
    content = encode(plan)
    written = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    groups = [group for group in plan.groups if group.kind == "calibration"]
    reasons = sum(len(c.reasons) for match in plan.matches for c in match.candidates)
    print(f"{len(frames)} frames of {nights} nights, {len(groups)} calibration groups, {len(plan.matches)} matches")
    print(
        f"plan   {planned:6.1f} s ({planned_cpu:.1f} s CPU), memory {base:.0f} MB with the frames, peak {peak:.0f} MB"
    )
    print(f"JSON   {written:6.1f} s, {len(content) / 1e6:.0f} MB, {reasons} reasons, peak {after:.0f} MB")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
