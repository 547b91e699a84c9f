"""Look at frames without a plan: statistics, levels, scale, pictures, and the findings that apply.

What Statistics, Blink and HistogramTransformation are used for in the guide (sections 5.3, 5.6, 8.1), in one go.
Frames with equal settings are compared with each other as a set; sets of one camera and setting with each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from wbpy.errors import ReadError
from wbpy.findings import make_finding
from wbpy.model import Finding, Frame, HeldBack
from wbpy.stages import checks
from wbpy.stages.checks import FrameStatistics, Measured, Observation, PlaneStatistics

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from wbpy.catalog import Catalog
    from wbpy.rules import Rules

BARS = 64
"""Bars of a histogram in an :class:`Inspection` up to the level of 99.5 % of the pixels; one more holds the rest."""
_MOST = 0.995

_SET = ("role", "camera", "gain", "iso", "offset", "exposure", "filter", "xbinning", "width", "height", "cfa", "night")
_ALIKE = ("camera", "gain", "iso", "offset", "xbinning", "width", "height", "cfa")


class Histogram(msgspec.Struct, frozen=True, kw_only=True):
    """How the pixels of a plane are spread over the levels that occur in the frame."""

    plane: str
    edges: tuple[int, ...]
    """DN; bar i counts edges[i] <= level < edges[i + 1]. The last may be wider, see `BARS`."""
    counts: tuple[int, ...]


class InspectedFrame(msgspec.Struct, frozen=True, kw_only=True):
    """One frame, what its header says of it and what its pixels show."""

    path: str
    role: str | None
    master: bool
    exposure: float | None
    """Seconds."""
    gain: float | None
    offset: float | None
    filter: str | None
    cfa: str | None
    scale: str
    """Bit scale in words, such as ``12 bits x 16``."""
    in_range: dict[str, int]
    """Plane -> pixels within the range that was asked for, both ends included."""
    statistics: FrameStatistics
    histograms: tuple[Histogram, ...]


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen in some frames."""

    range_dn: tuple[float, float]
    """The range in which pixels were counted."""
    frames: tuple[InspectedFrame, ...]
    findings: tuple[Finding, ...]
    held_back: tuple[HeldBack, ...]
    """Files that could not be looked at."""
    pictures: tuple[str, ...]
    """Paths of the pictures written."""

    def table(self) -> tuple[tuple[str, ...], list[tuple[str | int | float | None, ...]]]:
        """Return the statistics as column names and rows, one row for each plane and, with CFA, one for all."""
        names = (
            "file", "role", "filter", "exposure_s", "plane", "pixels", "mean_dn", "median_dn", "mad_dn", "min_dn",
            "max_dn", "noise_dn", "at_or_below_zero", "at_maximum", "in_range", "levels", "step_dn", "saturation_dn",
        )  # fmt: skip
        rows: list[tuple[str | int | float | None, ...]] = []
        for one in self.frames:
            numbers = one.statistics
            for plane in planes_of(numbers):
                rows.append(
                    (
                        one.path, one.role, one.filter, one.exposure, plane.name, plane.pixels, plane.mean,
                        plane.median, plane.mad, plane.minimum, plane.maximum, numbers.noise, plane.at_zero,
                        plane.at_maximum, one.in_range[plane.name], plane.levels, plane.step, numbers.saturation,
                    )
                )  # fmt: skip
        return names, rows

    def csv(self) -> str:
        """Return the table as comma-separated text with a heading; lines end as RFC 4180 asks."""
        import csv
        import io

        names, rows = self.table()
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(names)
        writer.writerows(rows)
        return text.getvalue()


def planes_of(numbers: FrameStatistics) -> tuple[PlaneStatistics, ...]:
    """Return the rows of a frame: all of it, then the colours of a CFA."""
    return (numbers.whole,) if len(numbers.planes) == 1 else (numbers.whole, *numbers.planes)


def inspect(
    catalog: Catalog,
    rules: Rules,
    *,
    range_dn: tuple[float, float] = (60000.0, 65535.0),
    pictures: Path | None = None,
    workers: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Inspection:
    """Return what the pixels of the frames show.

    Parameters
    ----------
    catalog : Catalog
        From a scan. Files that the scan held back are looked at as well, as far as they can be read.
    rules : Rules
        Wording and limits of the findings.
    range_dn : (float, float), DN
        Pixels within are counted; the default is the guide's range for flats (section 5.6).
    pictures : Path, optional
        Folder for ``contact_sheet.png`` and a histogram for each frame.
    workers : int
        Threads; 0 is one per core.
    on_progress : callable, optional
        Called with (frames done, frames in all).
    """
    import os

    frames, unread = catalog.readable, list(catalog.unreadable)
    if pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)
    names = _picture_names(frames)
    measured: list[Measured] = []
    inspected: list[InspectedFrame] = []
    thumbnails: list[tuple[str, npt.NDArray[np.uint8]]] = []
    written: list[str] = []
    findings = [finding for finding in catalog.findings if finding.severity != "info"]
    count = workers or os.cpu_count() or 1
    with ThreadPoolExecutor(count) as pool:
        looked = pool.map(lambda frame: _look(frame, range_dn, pictures is not None), frames)
        for number, (frame, seen) in enumerate(zip(frames, looked, strict=True), 1):
            if isinstance(seen, str):
                # What the scan told of a file already is not told again.
                if not any(finding.subject == frame.path and finding.severity == "error" for finding in findings):
                    findings.append(make_finding(rules, "CHK032", frame.path, reason=seen))
                unread.append(HeldBack(path=frame.path, finding="CHK032"))
            else:
                one, counts, thumb = seen
                inspected.append(one)
                measured.append(Measured(frame, one.statistics))
                if pictures is not None and thumb is not None:
                    thumbnails.append((Path(frame.path).name, thumb))
                    written.append(_write_histogram(pictures / names[frame.path], one, counts))
            if on_progress is not None:
                on_progress(number, len(frames))
    if pictures is not None and thumbnails:
        from wbpy.io.contact_sheet import write_contact_sheet

        sheet = pictures / "contact_sheet.png"
        write_contact_sheet(sheet, thumbnails)
        written.insert(0, str(sheet))
    known = {(finding.id, finding.subject) for finding in findings}
    for observation in _observe(rules, measured):
        if (observation.id, observation.subject) not in known:
            known.add((observation.id, observation.subject))
            findings.append(make_finding(rules, observation.id, observation.subject, **observation.evidence))
    return Inspection(
        range_dn=range_dn,
        frames=tuple(inspected),
        findings=tuple(findings),
        held_back=tuple(unread),
        pictures=tuple(written),
    )


class _FileReader:
    """One plane of an open image, read by band."""

    def __init__(self, image: Any, name: str, channel: int = 0) -> None:
        self._image = image
        self._channel = channel
        self.name = name
        self.shape: tuple[int, int] = (image.height, image.width)

    def read(self, y0: int, y1: int) -> npt.NDArray[np.float32]:
        rows: npt.NDArray[np.float32] = self._image.read(y0, y1, self._channel)
        return rows

    def words(self, y0: int, y1: int) -> None:
        return None


def _look(
    frame: Frame, range_dn: tuple[float, float], picture: bool
) -> tuple[InspectedFrame, npt.NDArray[np.int64], npt.NDArray[np.uint8] | None] | str:
    """Return what one frame shows, or why it cannot be read."""
    import numpy as np

    from wbpy.io.images import open_image
    from wbpy.kernels import histograms

    planes = len(checks.plane_names(frame.cfa))
    name = Path(frame.path).name
    thumb = None
    try:
        with open_image(frame.path, frame.dn_per_unit) as image:
            counts = np.empty((max(planes, image.channels), histograms.SIZE), np.int64)
            if image.channels == 1:
                numbers = checks.measure_frame(_FileReader(image, name), frame.cfa, counts)
            else:
                colours = "RGB" if image.channels == 3 else [f"plane {n}" for n in range(1, image.channels + 1)]
                parts = {
                    colour: checks.measure_frame(_FileReader(image, name, n), None, counts[n : n + 1])
                    for n, colour in enumerate(colours)
                }
                numbers = checks.join_planes(parts, counts)
            if picture:
                from wbpy.io.contact_sheet import thumbnail

                thumb = thumbnail(image.read(), bottom_up=frame.row_order == "BOTTOM-UP")
    except (ReadError, OSError) as error:
        return str(error)
    names = [plane.name for plane in numbers.planes]
    within = {name: histograms.count_within(plane, *range_dn) for name, plane in zip(names, counts, strict=True)}
    within["all"] = sum(within.values())
    return (
        InspectedFrame(
            path=frame.path,
            role=frame.role,
            master=frame.is_master,
            exposure=frame.exposure,
            gain=frame.gain,
            offset=frame.offset,
            filter=frame.filter,
            cfa=frame.cfa,
            scale=_scale(numbers),
            in_range=within,
            statistics=numbers,
            histograms=_bars(names, counts),
        ),
        counts,
        thumb,
    )


def _scale(numbers: FrameStatistics) -> str:
    """Return the bit scale in words: what the converter has, and what the values were multiplied by."""
    if numbers.broken:
        return "no whole numbers: an average, or scaled"
    if numbers.whole.levels < 8:
        return "too few levels to tell"
    step = numbers.whole.step
    if step > 1:
        return f"{17 - step.bit_length()} bits x {step}"
    for bits in (8, 10, 12, 14):
        if numbers.whole.maximum <= 2**bits - 1 and numbers.saturation == 2**bits - 1:
            return f"{bits} bits x 1"
    return "steps of 1 DN"


def _bars(names: Sequence[str], counts: npt.NDArray[np.int64]) -> tuple[Histogram, ...]:
    import numpy as np

    from wbpy.kernels import histograms

    used = np.flatnonzero(counts.sum(axis=0))
    if not used.size:
        return ()
    low, high = int(used[0]), int(used[-1]) + 1
    # One star would stretch the bars until the sky fits into one: the last bar takes what few bright pixels there are.
    upper = min(high, 2 + int(histograms.level_at(counts.sum(axis=0), _MOST) - histograms.FIRST))
    edges = np.unique([*np.linspace(low, upper, min(BARS, upper - low) + 1).astype(int), high])
    sums = np.concatenate([np.zeros((len(names), 1), np.int64), np.cumsum(counts, axis=1)], axis=1)
    return tuple(
        Histogram(
            plane=name,
            edges=tuple(int(edge) + histograms.FIRST for edge in edges),
            counts=tuple(int(total[b] - total[a]) for a, b in pairwise(edges)),
        )
        for name, total in zip(names, sums, strict=True)
    )


def _picture_names(frames: Sequence[Frame]) -> dict[str, str]:
    """Return a file name for the histogram of each frame, numbered where two frames have one name."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for frame in frames:
        stem = Path(frame.path).name.split(".fit")[0]
        name, number = stem, 1
        while name in taken:
            number += 1
            name = f"{stem}_{number}"
        taken.add(name)
        names[frame.path] = f"{name}_histogram.png"
    return names


def _write_histogram(path: Path, one: InspectedFrame, counts: npt.NDArray[np.int64]) -> str:
    from wbpy.io.contact_sheet import write_histogram
    from wbpy.kernels import histograms

    planes = [(plane.name, row) for plane, row in zip(one.statistics.planes, counts, strict=True)]
    write_histogram(path, Path(one.path).name, planes, histograms.FIRST)
    return str(path)


# --------------------------------------------------------------------------------------------------------------
# findings
# --------------------------------------------------------------------------------------------------------------
def _observe(rules: Rules, measured: Sequence[Measured]) -> list[Observation]:
    """Return what the frames show, set by set and beside each other."""
    sets: dict[tuple[Any, ...], list[Measured]] = {}
    for one in sorted(measured, key=lambda one: (one.frame.date_obs or "", one.frame.path)):
        # A master is a set of its own: it is not one frame among others.
        own = (one.frame.path,) if one.frame.is_master else ()
        sets.setdefault((*(getattr(one.frame, field) for field in _SET), *own), []).append(one)
    seen: list[Observation] = []
    for frames in sets.values():
        frame, subject = frames[0].frame, _subject(frames)
        alike = [other for other in sets.values() if _alike(frame, other[0].frame)]
        by_role: dict[str | None, list[Measured]] = {
            other[0].frame.role: other for other in alike if not other[0].frame.is_master
        }
        bias = by_role.get("bias", [])
        offset = _level(bias) if frame.role != "bias" else None
        if frame.is_master:
            if frame.role in ("bias", "dark", "flat_dark"):
                seen += checks.pre_calibrated(rules, frames, offset)
            continue
        if frame.role == "light":
            companions: dict[str, tuple[str, Sequence[Measured]]] = {}
            for role in ("dark", "bias"):
                if role in by_role:
                    companions[role] = _subject(by_role[role]), by_role[role]
            if not frame.calibrated:
                seen += checks.compare_sets(rules, subject, frames, companions)
            continue
        if frame.role is None:
            continue
        if frame.role == "flat":
            offset = _level(by_role.get("flat_dark", bias))
            flat_sets: dict[str, tuple[str, list[Measured]]] = {
                role: (_subject(by_role[role]), by_role[role]) for role in ("flat_dark",) if role in by_role
            }
            seen += checks.compare_sets(rules, subject, frames, flat_sets)
            if bias and "flat_dark" not in by_role and "dark" in by_role:
                seen += checks.flat_dark_needed(rules, subject, frames, bias, by_role["dark"])
        if frame.role == "dark":
            seen += checks.amplifier_glow(rules, subject, frames, bias)
        saturation = checks.saturation_level([one for other in alike for one in other])
        seen += checks.check_set(rules, subject, frames, offset_dn=offset, saturation_dn=saturation)
    return seen


def _alike(frame: Frame, other: Frame) -> bool:
    return all(getattr(frame, field) == getattr(other, field) for field in _ALIKE)


def _level(frames: Sequence[Measured]) -> float | None:
    import numpy as np

    return float(np.median([one.statistics.level for one in frames])) if frames else None


def _subject(frames: Sequence[Measured]) -> str:
    """Return a set in words: its role, filter, exposure and number of frames; of a single frame the path."""
    frame = frames[0].frame
    if len(frames) == 1:
        return frame.path
    exposure = f"{frame.exposure:.6g} s" if frame.exposure is not None else None
    words = [(frame.role or "frame").replace("_", "-"), frame.filter, exposure]
    return f"{' '.join(word for word in words if word)} ({len(frames)} frames)"
