"""Look at the pixels of a few frames where headers may be wrong: swapped frame types, the phase of the CFA pattern.

Only levels of small samples are compared; nothing here changes a value. Frames of one camera and one size are taken
together, and a few files of each kind are opened.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wbpy.errors import ReadError
from wbpy.findings import make_finding
from wbpy.io.images import open_image
from wbpy.model import Finding, Frame
from wbpy.rules import Rules

SAMPLED_FILES = 3
"""Files of each kind and exposure that are opened."""
SAMPLED_SIDE = 512
"""Side of the central part that is looked at, pixels."""
KEPT_SAMPLES = 24
"""Samples in memory at once, two megabytes each."""
FEWEST_PIXELS = 1024
"""Smaller samples say nothing about the pattern."""


Sampler = Callable[[Frame], NDArray[np.float64] | None]
"""Gives the central part of a frame in DN, None when it cannot be read."""


class PlaneLevels(NamedTuple):
    """Levels of the four planes of a 2 x 2 mosaic, at [y % 2, x % 2] of the stored image."""

    values: NDArray[np.float64]
    errors: NDArray[np.float64]


def look_at_pixels(frames: Sequence[Frame], rules: Rules) -> list[Finding]:
    """Return what the pixels of some frames say against their headers.

    Parameters
    ----------
    frames : sequence of Frame
        Those that take part. Files that cannot be read are passed by: whoever needs their pixels reports them.
    rules : Rules
        Wording and limits.
    """
    cameras: dict[Hashable, list[Frame]] = defaultdict(list)
    for frame in frames:
        if not frame.is_master and frame.channels == 1:
            cameras[frame.camera, frame.width, frame.height, frame.xbinning, frame.ybinning].append(frame)
    result = []
    for own in cameras.values():
        # Camera raw files are decoded whole, so each file is opened once.
        samples: dict[str, NDArray[np.float64] | None] = {}

        def sample(frame: Frame, known: dict[str, NDArray[np.float64] | None] = samples) -> NDArray[np.float64] | None:
            if frame.path not in known:
                if len(known) >= KEPT_SAMPLES:
                    del known[next(iter(known))]
                known[frame.path] = _sample(frame)
            return known[frame.path]

        for look in (_dark_above_flats, _cfa_phase):
            result += look(own, sample, rules)
    return result


def _spread(frames: Sequence[Frame], count: int = SAMPLED_FILES) -> list[Frame]:
    """Return up to `count` frames, the first and the last among them."""
    if len(frames) <= count:
        return list(frames)
    return [frames[index * (len(frames) - 1) // (count - 1)] for index in range(count)]


def _sample(frame: Frame) -> NDArray[np.float64] | None:
    """Return the central part of a frame in DN, beginning at an even column and row; None when it cannot be read."""
    try:
        with open_image(frame.path, frame.dn_per_unit) as image:
            height, width = image.height, image.width
            y0 = max(0, (height - SAMPLED_SIDE) // 2) // 2 * 2
            x0 = max(0, (width - SAMPLED_SIDE) // 2) // 2 * 2
            rows = image.read(y0, min(height, y0 + SAMPLED_SIDE))
    except ReadError:
        return None
    return rows[:, x0 : x0 + SAMPLED_SIDE].astype(np.float64)


def _level(frame: Frame, sample: Sampler) -> float | None:
    pixels = sample(frame)
    if pixels is None or not np.isfinite(pixels).any():
        return None
    return float(np.nanmedian(pixels))


def _dark_above_flats(frames: Sequence[Frame], sample: Sampler, rules: Rules) -> list[Finding]:
    """Return a finding for darks that are brighter than the flats of the same camera and gain."""
    by_gain: dict[Hashable, dict[str, list[Frame]]] = defaultdict(lambda: defaultdict(list))
    for frame in frames:
        if frame.role in ("dark", "flat_dark", "bias", "flat"):
            by_gain[frame.gain, frame.iso]["flat" if frame.role == "flat" else f"{frame.role} {frame.exposure}"].append(
                frame
            )
    result = []
    for kinds in by_gain.values():
        flats = [
            (level, frame) for frame in _spread(kinds.pop("flat", [])) if (level := _level(frame, sample)) is not None
        ]
        if not flats:
            continue
        flat_level, flat = min(flats, key=lambda one: one[0])
        for own in kinds.values():
            above = [
                (level, frame)
                for frame in _spread(own)
                if (level := _level(frame, sample)) is not None
                and level > flat_level * rules.findings["SCN024"].limits["ratio"]
            ]
            if above:
                level, frame = max(above, key=lambda one: one[0])
                evidence: dict[str, str | float] = {
                    "role": str(frame.role).replace("_", "-"),
                    "level_dn": level,
                    "flat_level_dn": flat_level,
                }
                result.append(make_finding(rules, "SCN024", frame.path, flat=flat.path, **evidence))
    return result


def plane_levels(pixels: NDArray[np.float64]) -> PlaneLevels | None:
    """Return median and standard error of the four planes of a mosaic; None when there are too few pixels.

    Parameters
    ----------
    pixels : (H, W) float64 ndarray, DN
        Beginning at an even column and row of the stored image; NaN is left out.
    """
    values, errors = np.empty((2, 2)), np.empty((2, 2))
    for y in range(2):
        for x in range(2):
            plane = pixels[y::2, x::2]
            plane = plane[np.isfinite(plane)]
            if plane.size < FEWEST_PIXELS // 4:
                return None
            middle = float(np.median(plane))
            values[y, x] = middle
            # The error of a median is 1.25 times that of a mean; 1.4826 MAD stands for the deviation.
            spread = 1.4826 * float(np.median(np.abs(plane - middle)))
            errors[y, x] = 1.2533 * max(spread, 0.5) / np.sqrt(plane.size)
    return PlaneLevels(values, errors)


def green_diagonal(levels: PlaneLevels, limits: dict[str, float]) -> str | None:
    """Return where the two green planes lie: ``rising`` at [0, 1] and [1, 0] as in RGGB, ``falling`` as in GRBG.

    The two planes of one colour have equal levels under any light, red and blue hardly ever have. None when neither
    diagonal is equal where the other one clearly is not: a mono sensor, or light of equal red and blue.
    """
    gaps = {"rising": (0, 1, 1, 0), "falling": (0, 0, 1, 1)}
    mean = float(np.mean(levels.values))
    found = {}
    for name, (ya, xa, yb, xb) in gaps.items():
        gap = abs(float(levels.values[ya, xa] - levels.values[yb, xb]))
        error = float(np.hypot(levels.errors[ya, xa], levels.errors[yb, xb]))
        found[name] = (gap, error)
    small, large = sorted(found, key=lambda name: found[name][0])
    gap, error = found[large]
    clear = gap > limits["sigmas"] * error and gap > limits["share"] * abs(mean)
    return small if clear and found[small][0] < limits["equal"] * gap else None


_DIAGONALS = {"RGGB": "rising", "BGGR": "rising", "GRBG": "falling", "GBRG": "falling"}


def _cfa_phase(frames: Sequence[Frame], sample: Sampler, rules: Rules) -> list[Finding]:
    """Return findings where pixels contradict the pattern of the header, or show one that no header states."""
    if not any(frame.cfa in _DIAGONALS or frame.cfa is None for frame in frames):
        return []
    groups: dict[tuple[str | None, str | None, str], list[Frame]] = defaultdict(list)
    for frame in frames:
        if frame.role in ("flat", "light") and (frame.cfa in _DIAGONALS or frame.cfa is None):
            groups[frame.cfa, frame.row_order, frame.role].append(frame)
    result = []
    for (cfa, _, role), own in groups.items():
        if cfa is None and (frame_bins := own[0].xbinning) is not None and frame_bins > 1:
            continue
        limits = rules.findings["SCN034"].limits
        seen = []
        for frame in _spread(own):
            pixels = sample(frame)
            levels = plane_levels(pixels) if pixels is not None else None
            if levels is not None and (diagonal := green_diagonal(levels, limits)) is not None:
                seen.append((diagonal, frame, levels))
        if not seen or len({diagonal for diagonal, _, _ in seen}) > 1:
            continue
        diagonal, frame, levels = seen[0]
        planes = " ".join(f"{value:.0f}" for value in levels.values.ravel())
        fitting = " or ".join(name for name, own_diagonal in _DIAGONALS.items() if own_diagonal == diagonal)
        count = len(own)
        if cfa is None:
            result.append(
                make_finding(rules, "SCN033", frame.path, count=count, role=role, planes=planes, fits=fitting)
            )
        elif _DIAGONALS[cfa] != diagonal:
            result.append(
                make_finding(
                    rules, "SCN034", frame.path, count=count, role=role, planes=planes, fits=fitting, pattern=cfa
                )
            )
    return result
