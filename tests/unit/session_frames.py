"""Frames of sessions written in code, for the tests of grouping, matching, planning and explaining."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from wbpy.model import Finding, Frame, HeldBack, Source


def frame(name: str, role: str | None = "light", **changes: Any) -> Frame:
    """Return a frame of a cooled mono camera whose header says everything; `changes` overrides fields."""
    values: dict[str, Any] = {
        "path": f"/night/{role}/{name}.fits",
        "role": role,
        "is_master": False,
        "exposure": {"light": 300.0, "dark": 300.0, "flat": 2.0, "flat_dark": 2.0, "bias": 0.001}.get(role or "", 1.0),
        "gain": 100.0,
        "offset": 50.0,
        "e_per_dn": 0.25,
        "iso": None,
        "temp_ccd": -10.1,
        "temp_set": -10.0,
        "filter": "Ha" if role in ("light", "flat") else None,
        "xbinning": 1,
        "ybinning": 1,
        "width": 400,
        "height": 300,
        "channels": 1,
        "cfa": None,
        "row_order": "TOP-DOWN",
        "camera": "ZWO ASI2600MM Pro",
        "read_mode": None,
        "date_obs": "2026-01-05T21:00:00.000",
        "night": "2026-01-05",
        "object": "M42" if role == "light" else None,
        "ra": 83.8,
        "dec": -5.4,
        "rotator": None,
        "pier_side": None,
        "focal_length": 530.0,
        "pixel_size": 3.76,
        "program": "nina",
        "format": "fits",
        "calibrated": False,
        "size": 242_880,
        "modified_ns": 1_700_000_000_000_000_000,
    }
    return Frame(**(values | changes))


def frames(count: int, role: str, stem: str = "", **changes: Any) -> list[Frame]:
    """Return `count` frames that differ in name and time only."""
    stem = stem or role
    return [
        frame(f"{stem}_{n:04}", role, **{"date_obs": f"2026-01-05T21:{n // 60:02}:{n % 60:02}.000"} | changes)
        for n in range(count)
    ]


def night(**changes: Any) -> list[Frame]:
    """Return a complete night: 8 lights, 6 darks, 6 flats, 6 flat-darks, 6 bias frames."""
    made: list[Frame] = []
    for role, count in (("light", 8), ("dark", 6), ("flat", 6), ("flat_dark", 6), ("bias", 6)):
        made += frames(count, role, **changes)
    return made


@dataclass(frozen=True)
class FakeCatalog:
    """What the planner needs of a catalog."""

    frames: tuple[Frame, ...]
    findings: tuple[Finding, ...] = ()
    held_back: tuple[HeldBack, ...] = ()

    def sources(self, path: str) -> tuple[Source, ...]:
        return (Source(field="gain", keyword="GAIN", raw="100", rule="fields.gain"),)


def orion_night() -> list[Frame]:
    """Return the header values of an unregulated night: the set point was hardly ever reached, settings unknown."""
    unsaid = dict.fromkeys(
        ("gain", "offset", "e_per_dn", "filter", "row_order", "object", "ra", "dec", "focal_length", "pixel_size")
    )
    common: dict[str, Any] = {**unsaid, "camera": "Orion G3", "width": 752, "height": 582, "night": "2021-09-16"}

    def run(role: str, exposure: float, temperatures: list[tuple[float, float]], **more: Any) -> list[Frame]:
        return [
            frame(f"{role}{n}", role, **{**common, "exposure": exposure, "temp_set": point, "temp_ccd": ccd, **more})
            for n, (point, ccd) in enumerate(temperatures)
        ]

    lights = [(1.963, t) for t in (2.128, 2.789, 3.285, 3.120, 2.128, 2.294, 2.955)]
    darks = [(1.963, t) for t in (1.963, 2.128, 1.963, 2.128, 2.789, 2.294)]
    bias = [(1.963, 3.285), (0.0, 2.294), (1.963, 11.383), (0.0, 2.294), (0.0, 2.294), (1.963, 3.120)]
    flats = [(-10.597, t) for t in (24.770, 24.935, 24.770, 24.935, 24.770, 24.770)]
    return [
        *run("light", 20.0, lights),
        *run("dark", 20.0, darks),
        *run("bias", 0.001, bias),
        *run("flat", 0.03, flats, night="2021-09-19"),
    ]
