"""The registration reference that the user gives: a light, or the result of an earlier run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

import wbpy
from wbpy.model import Run
from wbpy.simulate import Sensor, SessionSpec, Truth, write_session

SPEC = SessionSpec(
    seed=41,
    sensor=Sensor(width=300, height=240),
    n_lights=5,
    n_stars=150,
    nebula_e_per_s=0,
    n_darks=3,
    n_flats=3,
    n_flat_darks=3,
    n_bias=0,
    dither_px=5.0,
    fwhm_px=(1.7, 1.8),
)


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    return write_session(tmp_path_factory.mktemp("night") / "in", SPEC)


def run(night: Truth, out: Path, frame: str) -> Run:
    folder = night.files["light"][0].parents[1]
    return wbpy.run(wbpy.plan(folder, out, set=[f"reference.frame={frame}"]))


def integration(found: Run) -> Path:
    return next(Path(p.path) for p in found.products if p.kind == "integration")


def transforms(found: Run) -> list[np.ndarray]:
    lights = [f for f in found.frames if f.role == "light"]
    return [np.array(f.transform) for f in lights]


@pytest.fixture(scope="module")
def first(night: Truth, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(night, tmp_path_factory.mktemp("first"), str(night.lights[3].path))


def test_a_light_can_be_named_by_its_path(first: Run) -> None:
    np.testing.assert_allclose(transforms(first)[3], np.eye(3))
    assert "REF002" not in {f.id for f in first.findings}


def test_an_earlier_integration_can_be_the_reference(night: Truth, first: Run, tmp_path: Path) -> None:
    again = run(night, tmp_path, str(integration(first)))
    assert again.outcome == "done"
    corners = np.array([[20, 20, 1], [280, 20, 1], [20, 220, 1], [280, 220, 1]]).T
    for one, two in zip(transforms(first), transforms(again), strict=True):
        moved = (one @ corners)[:2] / (one @ corners)[2] - (two @ corners)[:2] / (two @ corners)[2]
        # Two registrations of some 50 stars, each good to a few hundredths of a pixel.
        assert np.abs(moved).max() < 0.15
    # The stars of both results lie on each other: the difference is small beside the stars themselves.
    a, b = fits.getdata(integration(first)), fits.getdata(integration(again))
    inner = (slice(20, -20), slice(20, -20))
    ours, theirs = (np.nan_to_num(image[inner]).ravel() for image in (a, b))
    assert np.corrcoef(ours, theirs)[0, 1] > 0.98
    assert np.corrcoef(np.roll(a, 1, axis=1)[inner].ravel(), theirs)[0, 1] < 0.9


def test_a_reference_that_is_no_picture_fails_and_says_so(night: Truth, first: Run, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.fits"
    wrong.write_bytes(b"nothing")
    found = run(night, Path(first.log).parents[1], str(wrong))
    [finding] = [f for f in found.findings if f.id == "REF003"]
    assert finding.severity == "error" and str(wrong) in finding.message
    assert not [p for p in found.products if p.kind == "integration"]


def test_undersampled_stars_are_reported_with_the_sub_pixel_positions_that_are_covered(first: Run) -> None:
    [finding] = [f for f in first.findings if f.id == "MEA003"]
    assert 1.5 < finding.evidence["fwhm_px"] < 2.0  # type: ignore[operator]
    # Five lights take at most five of sixteen positions.
    assert 6 < finding.evidence["covered_percent"] <= 32  # type: ignore[operator]
