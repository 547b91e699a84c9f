"""A night with spoilt lights: what they are called, what limits and lists do to them, what is written."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

import wbpy
from wbpy.model import Run
from wbpy.simulate import Sensor, SessionSpec, Truth, write_session

SPEC = SessionSpec(
    seed=37,
    sensor=Sensor(width=300, height=240),
    n_lights=10,
    n_stars=150,
    nebula_e_per_s=0,
    n_darks=3,
    n_flats=3,
    n_flat_darks=3,
    n_bias=0,
    transparency=(0.97, 1.0),
    fwhm_px=(2.8, 3.0),
    ellipticity=(0.05, 0.1),
    faults={2: "cloud", 4: "trailed", 6: "defocus"},
)


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    return write_session(tmp_path_factory.mktemp("night") / "in", SPEC)


def run(night: Truth, out: Path, **sets: str) -> Run:
    folder = night.files["light"][0].parents[1]
    return wbpy.run(wbpy.plan(folder, out, set=[f"approve.{name}={text}" for name, text in sets.items()]))


def lights_with(night: Truth, found: Run, prefix: str) -> dict[int, set[str]]:
    number = {str(light.path): i for i, light in enumerate(night.lights)}
    ids: dict[int, set[str]] = {}
    for finding in found.findings:
        if finding.id.startswith(prefix) and finding.subject in number:
            ids.setdefault(number[finding.subject], set()).add(finding.id)
    return ids


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def plain(night: Truth, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    out = tmp_path_factory.mktemp("plain")
    return run(night, out), out


def test_cloud_guiding_and_focus_are_named_and_nothing_is_excluded_for_it(
    night: Truth, plain: tuple[Run, Path]
) -> None:
    found, _ = plain
    assert lights_with(night, found, "APP") == {2: {"APP011"}, 4: {"APP013"}, 6: {"APP014"}}
    assert not [f for f in found.frames if (f.excluded_by or "").startswith("APP")]


def test_the_list_that_is_written_holds_every_light_with_its_metrics(night: Truth, plain: tuple[Run, Path]) -> None:
    _, out = plain
    written = rows(out / "approval.csv")
    assert [row["frame"] for row in written] == [str(light.path) for light in night.lights]
    assert {row["approved"] for row in written} == {"yes"}
    assert [row["looks_like"] for row in written if row["looks_like"]] == ["cloud", "trailing", "defocus"]
    assert float(written[6]["fwhm_px"]) > 2 * float(written[5]["fwhm_px"])


def test_lights_beyond_a_limit_are_left_out_and_say_why(night: Truth, tmp_path: Path) -> None:
    found = run(night, tmp_path, fwhm_px="150%median", eccentricity="k8", transparency="50%best")
    assert lights_with(night, found, "APP00") == {i: {"APP001"} for i in (2, 4, 6)}
    product = next(p for p in found.products if p.kind == "integration")
    assert (product.frames_used, product.frames_excluded) == (7, 3)
    assert found.outcome == "done"
    out = {row["frame"]: row for row in rows(tmp_path / "approval.csv")}[str(night.lights[6].path)]
    assert (out["approved"], out["finding"], out["metric"], out["rule"]) == ("no", "APP001", "fwhm_px", "150%median")
    assert float(out["value"]) > float(out["limit"])
    frame = next(f for f in found.frames if f.path == str(night.lights[6].path))
    assert frame.excluded_by == "APP001" and frame.weight == 0.0 and frame.transform is None


def test_your_list_decides_and_is_not_overwritten(night: Truth, plain: tuple[Run, Path], tmp_path: Path) -> None:
    before, out = plain
    mine = out / "approval.csv"
    text = mine.read_text(encoding="utf-8")
    first, second = (str(night.lights[i].path) for i in (0, 1))
    edited = text.replace(f"{first},yes", f"{first},no").replace(f"{second},yes", f"{second},no")
    mine.write_text(edited, encoding="utf-8")
    found = run(night, out, list=str(mine))
    assert lights_with(night, found, "APP00") == {0: {"APP002"}, 1: {"APP002"}}
    used = [next(p for p in one.products if p.kind == "integration").frames_used for one in (before, found)]
    assert used[1] == used[0] - 2
    assert mine.read_text(encoding="utf-8") == edited
    mine.write_text(text, encoding="utf-8")


def test_a_wrong_list_stops_the_integration_and_says_so(night: Truth, plain: tuple[Run, Path]) -> None:
    _, out = plain
    wrong = out / "wrong.csv"
    wrong.write_text("frame,approved\nnobody.fits,no\n", encoding="utf-8")
    found = run(night, out, list=str(wrong))
    [finding] = [f for f in found.findings if f.id == "APP005"]
    assert "nobody.fits" in finding.message and finding.severity == "error"
    assert not [p for p in found.products if p.kind == "integration"]


def test_limits_that_take_most_lights_are_reported(night: Truth, plain: tuple[Run, Path]) -> None:
    _, out = plain
    found = run(night, out, stars="100%median", fwhm_arcsec="100%median")
    [finding] = [f for f in found.findings if f.id == "APP003"]
    assert finding.evidence["excluded"] > 4  # type: ignore[operator]
