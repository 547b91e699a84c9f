"""Nights whose bias level drifts from frame to frame, read with the overscan that shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from conftest import Night

import wbpy
from wbpy.errors import ConfigError
from wbpy.simulate import Sensor, SessionSpec, Truth, write_session

SPEC = SessionSpec(
    seed=61,
    sensor=Sensor(width=300, height=220, seed=7, cfa="RGGB"),
    n_lights=3,
    n_stars=100,
    nebula_e_per_s=0,
    n_darks=6,
    n_flats=6,
    n_flat_darks=6,
    n_bias=6,
)
COLUMNS = 20
QUALITY = replace(SPEC, n_lights=1, n_stars=30)
"""For what calibration frames show alone."""


def with_overscan(truth: Truth, drift_dn: float, leak: dict[str, float] | None = None, skip: int = 0) -> None:
    """Give each frame a level of its own and `COLUMNS` columns on the left that show it."""
    rng = np.random.default_rng(3)
    offset = SPEC.sensor.offset_dn
    for role, paths in truth.files.items():
        for number, path in enumerate(paths):
            with fits.open(path) as units:
                data, header = units[0].data.astype(np.float64), units[0].header.copy()
            if role == "light" and number < skip:
                continue
            level = rng.uniform(-drift_dn, drift_dn)
            edge = rng.normal(offset + (leak or {}).get(role, 0.0), 3.0, (data.shape[0], COLUMNS))
            data = np.hstack([edge, data]) + level
            for keyword in ("BZERO", "BSCALE"):
                header.remove(keyword, ignore_missing=True)
            height, width = data.shape
            header["BIASSEC"] = f"[3:{COLUMNS},1:{height}]"
            header["TRIMSEC"] = f"[{COLUMNS + 1}:{width},1:{height}]"
            fits.writeto(path, np.clip(np.rint(data), 0, 65535).astype(np.uint16), header, overwrite=True)


def run(folder: Path, frames: Path | None = None, **options: object) -> wbpy.model.Run:
    return wbpy.run(wbpy.plan(frames or folder / "in", folder / "out", **options))


def backgrounds(frames: wbpy.model.Run) -> list[float]:
    lights = sorted((f for f in frames.frames if f.role == "light"), key=lambda f: Path(f.path).name)
    return [f.measurements["background_g_dn"] for f in lights]


@pytest.fixture(scope="module")
def steady(run_night: Callable[..., Night]) -> Night:
    return run_night(SPEC)


@pytest.mark.parametrize("use", ["header", "regions"])
def test_drift_of_the_level_is_gone(tmp_path: Path, steady: Night, use: str) -> None:
    with_overscan(write_session(tmp_path / "in", SPEC), 40.0)
    regions = "overscan.regions=2:20;0:220 > 20:320;0:220"
    options = (
        ["overscan.use=header"] if use == "header" else ["overscan.use=regions", regions, "overscan.image=20:320;0:220"]
    )
    found = run(tmp_path, set=options)
    # A level is known to 3 DN / sqrt(3960) x 1.25 and half a DN of rounding; so are those of the masters.
    assert backgrounds(found) == pytest.approx(backgrounds(steady.run), abs=0.7)
    product = next(p for p in found.products if p.kind == "integration")
    assert fits.getdata(product.path).shape == (3, 220, 300)
    assert not {"OVS001", "OVS002", "OVS003"} & {f.id for f in found.findings}
    master = next(p.path for p in found.products if p.kind == "master_flat_dark")
    # The level is gone, and the noise about zero is kept above it.
    assert fits.getdata(master).min() >= 0 and fits.getheader(master)["PEDESTAL"] > 0


SENSOR = """
[[sensor]]
id = "SIM"
cameras = ["Simulated Camera"]
overscan = [{ width = 320, height = 220, regions = ["2:20;0:220 > 20:320;0:220"], image = "20:320;0:220" }]
"""


@pytest.mark.parametrize("use", ["camera", "auto"])
def test_what_is_known_of_the_camera_corrects_as_the_header_does(tmp_path: Path, steady: Night, use: str) -> None:
    with_overscan(write_session(tmp_path / "in", SPEC), 40.0)
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "sensors.toml").write_text(SENSOR)
    if use == "camera":
        for path in sorted((tmp_path / "in").rglob("*.fits")):
            with fits.open(path, "update") as units:
                del units[0].header["BIASSEC"]
    plan = wbpy.plan(tmp_path / "in", tmp_path / "out", set=[f"overscan.use={use}"], rules=tmp_path / "rules")
    found = wbpy.run(plan, rules=tmp_path / "rules")
    assert backgrounds(found) == pytest.approx(backgrounds(steady.run), abs=0.7)
    # Without that knowledge the frames are left out, and say so.
    if use == "camera":
        assert {"OVS001"} <= {
            f.id for f in run(tmp_path / "none", tmp_path / "in", set=["overscan.use=camera"]).findings
        }


def test_masters_of_cut_frames_serve_frames_with_overscan_again(tmp_path: Path, steady: Night) -> None:
    """Masters know the size of their frames; the lights of another night are corrected and cut, the masters are not."""
    with_overscan(write_session(tmp_path / "in", SPEC), 40.0)
    first = run(tmp_path, set=["overscan.use=header"])
    again = tmp_path / "again"
    for folder, files in (
        ("LIGHT", (tmp_path / "in/LIGHT").iterdir()),
        ("masters", (tmp_path / "out/masters").iterdir()),
    ):
        (again / folder).mkdir(parents=True)
        for path in files:
            (again / folder / path.name).write_bytes(path.read_bytes())
    for path in (again / "masters").iterdir():
        assert (fits.getheader(path)["PREOVSCW"], fits.getheader(path)["PREOVSCH"]) == (320, 220)
    second = run(tmp_path / "2", again, set=["overscan.use=header"])
    assert {m.role for m in wbpy.plan(again, tmp_path / "3", set=["overscan.use=header"]).matches if m.chosen} == {
        "dark",
        "flat",
    }
    assert backgrounds(second) == pytest.approx(backgrounds(first), abs=0.02)
    # Where the lights are not corrected, the sizes differ and nothing matches.
    assert not any(m.chosen for m in wbpy.plan(again, tmp_path / "4").matches)


def test_without_overscan_the_drift_stays(tmp_path: Path, steady: Night) -> None:
    with_overscan(write_session(tmp_path / "in", SPEC), 40.0)
    found = run(tmp_path)
    assert max(np.abs(np.subtract(backgrounds(found), backgrounds(steady.run)))) > 5


def test_light_without_the_overscan_of_the_others_is_left_out(tmp_path: Path) -> None:
    truth = write_session(tmp_path / "in", SPEC)
    with_overscan(truth, 5.0, skip=1)
    found = run(tmp_path, set=["overscan.use=header"])
    assert [Path(f.subject) for f in found.findings if f.id == "OVS001"] == [truth.files["light"][0]]
    assert found.outcome != "done"


def test_overscan_that_sees_the_light_of_flats_is_reported(tmp_path: Path) -> None:
    with_overscan(write_session(tmp_path / "in", SPEC), 5.0, leak={"flat": 300.0})
    found = run(tmp_path, set=["overscan.use=header", "calibrate.scale_dark=true"])
    assert [f.evidence["role"] for f in found.findings if f.id == "OVS003"] == ["flat"]


def test_overscan_that_warms_up_with_the_darks_is_reported(tmp_path: Path) -> None:
    """The dark signal is 30 DN in 60 s: ten DN in the overscan are more than a tenth of it."""
    with_overscan(write_session(tmp_path / "in", QUALITY), 0.0, leak={"dark": 40.0})
    found = run(tmp_path, set=["overscan.use=header", "calibrate.scale_dark=true"])
    assert [f.evidence["role"] for f in found.findings if f.id == "OVS003"] == ["dark"]


@pytest.mark.parametrize("slope", [0.0, 12.0])
def test_overscan_of_the_bias_that_is_not_even_is_reported(tmp_path: Path, slope: float) -> None:
    truth = write_session(tmp_path / "in", QUALITY)
    with_overscan(truth, 5.0)
    for path in truth.files["bias"]:
        with fits.open(path, "update") as units:
            rows = units[0].data.shape[0]
            units[0].data[:, :COLUMNS] += np.linspace(0, slope, rows)[:, None].round().astype(np.uint16)
    found = run(tmp_path, set=["overscan.use=header", "calibrate.scale_dark=true"])
    assert ("OVS002" in {f.id for f in found.findings}) == (slope > 0)


@pytest.mark.parametrize("drift_dn", [0.0, 5.0])
def test_overscan_that_gains_nothing_is_told(tmp_path: Path, drift_dn: float) -> None:
    """Levels of 3960 pixels of 3 DN are known to 0.06 DN."""
    with_overscan(write_session(tmp_path / "in", QUALITY), drift_dn)
    found = run(tmp_path, set=["overscan.use=header", "calibrate.scale_dark=true"])
    assert ("OVS004" in {f.id for f in found.findings}) == (drift_dn == 0)


def test_mosaic_is_never_cut_at_an_odd_pixel(tmp_path: Path) -> None:
    with_overscan(write_session(tmp_path / "in", SPEC), 5.0)
    options = ["overscan.use=regions", "overscan.regions=2:19;0:220 > 19:320;0:220", "overscan.image=19:320;0:220"]
    with pytest.raises(ConfigError, match="multiples of 2"):
        wbpy.plan(tmp_path / "in", tmp_path / "out", set=options)
