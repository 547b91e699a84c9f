"""Real frames of other people's cameras run to a result."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import wbpy
from wbpy.model import Run


def integration(run: Run) -> np.ndarray:
    from astropy.io import fits

    with fits.open(next(p.path for p in run.products if p.kind == "integration")) as units:
        return np.asarray(units[0].data, np.float64)


def test_m13_with_all_calibration_frames(real_data: Path, tmp_path: Path) -> None:
    run = wbpy.run(wbpy.plan(real_data / "m13_orion_g3", tmp_path))
    kinds = {p.kind for p in run.products}
    assert {"master_dark", "master_bias", "master_flat", "integration"} <= kinds
    used = next(p for p in run.products if p.kind == "integration")
    assert used.frames_used == 7
    for frame in run.frames:
        if frame.role == "light":
            assert (frame.measurements["registration_rms_px"] or 0) < 0.4
    assert integration(run).shape == (582, 752)


def test_m94_without_masters_in_colour(real_data: Path, tmp_path: Path) -> None:
    run = wbpy.run(wbpy.plan(real_data / "m94_seestar_s50", tmp_path))
    used = [p for p in run.products if p.kind == "integration"]
    assert sum(p.frames_used for p in used) == 6
    assert integration(run).shape == (3, 1920, 1080)
    assert not [f for f in run.findings if f.severity == "error"]


def test_hatp32_is_held_back_until_the_role_is_declared(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "hatp32_microobservatory"
    plan = wbpy.plan(folder, tmp_path / "unknown")
    assert len(plan.held_back) >= 8 and not plan.steps
    run = wbpy.run(wbpy.plan(folder, tmp_path / "declared", set=["scan.role=light"]))
    used = next(p for p in run.products if p.kind == "integration")
    assert used.frames_used >= 7
    shifts = [f.measurements.get("shift_px") for f in run.frames]
    assert max(shift or 0 for shift in shifts) > 60, "the field drifts by hundreds of pixels over the night"
