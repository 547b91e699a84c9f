"""Time the scan of many headers, and the scan that finds nothing new.

    python -m tests.benchmarks.bench_scan [scan | rescan | targets] [--quick] [--json PATH]

Files of four capture programs are written to a temporary folder, 10,000 with headers of full length and hardly any
pixels. ``scan`` reads them all and saves the catalog; ``rescan`` loads the catalog, looks at every file's size and
time, and draws the conclusions about targets and flat-darks anew. The peer is astropy reading the same headers.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path

import msgspec
import numpy as np

from tests.benchmarks.harness import Case, main
from wbpy.catalog import Catalog
from wbpy.config import ScanSettings
from wbpy.rules import load_rules
from wbpy.scanning.scanner import scan
from wbpy.scanning.targets import find_targets
from wbpy.simulate.headers import DIALECTS, FrameInfo, fits_bytes

PROGRAMS = ("nina", "asiair", "sgp", "indi")
ROLES = {"light": 60, "dark": 15, "flat": 15, "bias": 10}
"""Frames of each hundred."""


def _info(number: int, role: str) -> FrameInfo:
    night, within = divmod(number, 100)
    return FrameInfo(
        role=role,
        number=within + 1,
        width=32,
        height=32,
        exposure_s={"light": 120.0, "dark": 120.0, "flat": 2.0, "bias": 0.001}[role],
        start=datetime(2025, 1, 1, 20) + timedelta(days=night, seconds=130 * within),
        utc_offset_h=1.0,
        object_name=f"Target {night % 20}",
        camera="ZWO ASI2600MM Pro",
        telescope="refractor",
        focal_length_mm=530.0,
        pixel_um=3.76,
        gain=100,
        offset=50,
        e_per_dn=0.25,
        temp_set_c=-10.0,
        temp_c=-10.0 + 0.1 * (within % 3),
        filter_name="LRGBHO"[within % 6],
        cfa=None,
        row_order="TOP-DOWN",
        ra_deg=18.0 * (night % 20) + 0.001 * within,
        dec_deg=20.0,
        pier_side="East",
        rotator_deg=12.0,
    )


@cache
def _folder(files: int) -> Path:
    root = Path(tempfile.mkdtemp(prefix="wbpy_bench_scan_"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    pixels = np.full((32, 32), 1000, np.uint16)
    roles = [role for role, share in ROLES.items() for _ in range(share)]
    for number in range(files):
        info = _info(number, roles[number % 100])
        dialect = DIALECTS[PROGRAMS[number // 100 % len(PROGRAMS)]]
        folder = root / f"night{number // 100:04d}" / info.role.upper()
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{number:06d}_{dialect.file_name(info)}"
        path.write_bytes(fits_bytes(pixels, dialect.cards(info, dialect.types[info.role])))
    return root


def _headers_by_astropy(root: Path) -> int:
    from astropy.io import fits

    return sum(len(fits.getheader(path)) for path in sorted(root.rglob("*.fit*")))


def _scan(quick: bool) -> Case:
    files = 1000 if quick else 10_000
    root, rules = _folder(files), load_rules()

    def ours() -> Catalog:
        catalog = scan([root], rules, ScanSettings())
        catalog.save(root.parent / f"{root.name}.sqlite")
        return catalog

    atexit.register((root.parent / f"{root.name}.sqlite").unlink, missing_ok=True)
    return Case(
        "scan",
        "headers",
        files,
        {"wbpy": ours, "astropy, headers alone": lambda: _headers_by_astropy(root)},
        "astropy, headers alone",
    )


def _rescan(quick: bool) -> Case:
    files = 1000 if quick else 10_000
    root, rules = _folder(files), load_rules()
    saved = root.parent / f"{root.name}.sqlite"
    scan([root], rules, ScanSettings()).save(saved)
    atexit.register(saved.unlink, missing_ok=True)

    def ours() -> None:
        catalog = scan([root], rules, ScanSettings(), previous=Catalog.load(saved))
        if len(catalog.frames) != files:
            raise RuntimeError(f"{len(catalog.frames)} frames of {files}")

    return Case("rescan", "files", files, {"wbpy": ours}, "wbpy")


def _targets(quick: bool) -> Case:
    """Targets of many lights, of which the headers are read from one scan and multiplied."""
    files, lights = 1000, 10_000 if quick else 100_000
    rules = load_rules()
    seen = [frame for frame in scan([_folder(files)], rules, ScanSettings()).frames if frame.role == "light"]
    many = [
        msgspec.structs.replace(seen[n % len(seen)], path=f"{n:06d}", ra=18.0 * (n % 20) + 1e-6 * n)
        for n in range(lights)
    ]
    return Case("targets", "lights", lights, {"wbpy": lambda: find_targets(many, rules, ScanSettings())}, "wbpy")


CASES = {"scan": _scan, "rescan": _rescan, "targets": _targets}

if __name__ == "__main__":
    raise SystemExit(main(CASES, Path(__file__)))
