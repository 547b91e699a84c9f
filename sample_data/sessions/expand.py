"""Write a header-only session as FITS files: real headers of a capture program around a few pixels.

A session is a TOML file beside this one. Its top level and each ``series`` take the same keys, of which those of the
series win; a series is ``count`` frames that differ in number and time::

    program     capture program, see wbpy.simulate.headers
    role        light, dark, flat, flat_dark, bias
    count, exposure, filter, object, night, camera, gain, offset, set_temp, temp, cfa, width, height, ...
    exposures, temps    one value for each frame, in turn
    folder      below the session; default is the role
    master      number of frames in a finished master: changes type and name of the file
    header      cards to add or replace; an empty text takes the card out

    python sample_data/sessions/expand.py NAME FOLDER
"""

from __future__ import annotations

import sys
import tomllib
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from wbpy.simulate.headers import FrameInfo, find_dialect, fits_bytes

SESSIONS = Path(__file__).parent

DEFAULTS: dict[str, Any] = {
    "program": "nina",
    "count": 3,
    "camera": "ZWO ASI2600MM Pro",
    "telescope": "Refractor",
    "focal_length": 530.0,
    "pixel": 3.76,
    "gain": 100,
    "offset": 50,
    "e_per_dn": 0.25,
    "set_temp": -10.0,
    "filter": None,
    "cfa": None,
    "row_order": "TOP-DOWN",
    "object": "M 42",
    "ra": 83.82,
    "dec": -5.39,
    "pier_side": "East",
    "rotator": 30.0,
    "night": "2026-01-05",
    "width": 16,
    "height": 12,
    "hour": 21,
}

EXPOSURES = {"light": 300.0, "dark": 300.0, "flat": 2.0, "flat_dark": 2.0, "bias": 0.001}

MASTER_TYPES = {
    "bias": "Master Bias",
    "dark": "Master Dark",
    "flat": "Master Flat",
    "flat_dark": "Master Flat Dark",
}


def load_session(name: str) -> dict[str, Any]:
    """Return a session by its name."""
    return tomllib.loads((SESSIONS / f"{name}.toml").read_text(encoding="utf-8"))


def session_names() -> list[str]:
    """Return the names of all sessions."""
    return sorted(path.stem for path in SESSIONS.glob("*.toml"))


def write_session(session: dict[str, Any], folder: Path) -> list[Path]:
    """Write the files of a session below `folder` and return their paths."""
    common = DEFAULTS | {key: value for key, value in session.items() if key in DEFAULTS or key == "header"}
    written = []
    clock: dict[str, datetime] = {}
    for number, series in enumerate(session["series"]):
        values = common | {"folder": series["role"]} | series
        values["header"] = {**common.get("header", {}), **series.get("header", {})}
        night = str(values["night"])
        # Each series begins after those that the file names before it.
        hour = values["hour"] if series["role"] in ("light", "flat") else 30
        start = clock.get(night, datetime.fromisoformat(night) + timedelta(hours=hour))
        start = max(start, datetime.fromisoformat(night) + timedelta(hours=hour))
        for index in range(values["count"] if "master" not in values else 1):
            exposure = float(_one(values, "exposures", index, values.get("exposure", EXPOSURES[series["role"]])))
            path = _write(folder, values, number, index, start, exposure)
            written.append(path)
            start += timedelta(seconds=exposure + 4)
        clock[night] = start
    return written


def _one(values: dict[str, Any], plural: str, index: int, single: Any) -> Any:
    return values[plural][index % len(values[plural])] if plural in values else single


def _write(folder: Path, values: dict[str, Any], number: int, index: int, start: datetime, exposure: float) -> Path:
    role = values["role"]
    dialect = find_dialect(values["program"])
    set_temp = values["set_temp"] if values["set_temp"] != "none" else None
    info = FrameInfo(
        role=role,
        number=index + 1,
        width=values["width"],
        height=values["height"],
        exposure_s=exposure,
        start=start,
        utc_offset_h=0.0,
        object_name=values["object"],
        camera=values["camera"],
        telescope=values["telescope"],
        focal_length_mm=values["focal_length"],
        pixel_um=values["pixel"],
        gain=values["gain"],
        offset=values["offset"],
        e_per_dn=values["e_per_dn"],
        temp_set_c=set_temp,
        temp_c=float(_one(values, "temps", index, values.get("temp", set_temp if set_temp is not None else 15.0))),
        filter_name=values["filter"],
        cfa=values["cfa"],
        row_order=values["row_order"],
        ra_deg=values["ra"],
        dec_deg=values["dec"],
        pier_side=values["pier_side"],
        rotator_deg=values["rotator"],
    )
    cards = dialect.cards(info, dialect.types[role])
    extra = dict(values["header"])
    name = dialect.file_name(info)
    if "master" in values:
        extra = {"IMAGETYP": MASTER_TYPES[role], "STACKCNT": values["master"]} | extra
        name = f"master_{role}_{number}.fits"
    cards = [card for card in cards if card[0] not in extra]
    cards += [(key, value, "") for key, value in extra.items() if value != ""]
    stem, dot, suffix = name.rpartition(".")
    path = folder / values["folder"] / f"{values.get('prefix', '')}{stem}_s{number:02}{dot}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((values["height"], values["width"]), 1000, np.uint16)
    path.write_bytes(fits_bytes(pixels, cards))
    if dialect.sidecar is not None:
        ending, text = dialect.sidecar(info)
        path.with_suffix(ending).write_text(text, encoding="utf-8")
    return path


if __name__ == "__main__":
    for file in write_session(load_session(sys.argv[1]), Path(sys.argv[2])):
        print(file)
