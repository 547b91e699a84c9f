"""What PixInsight's WBPP 3 would choose, by its documented rules: the other side of docs/scenarios.md.

Grouping looks at binning, size, filter, CFA and exposure, matching at the same and at nothing else; exposures have
tolerances of 10 s for darks and 2 s for lights, flat-darks are darks, the nearest dark has no limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wbpy.model import Frame

DARK_TOLERANCE_S, LIGHT_TOLERANCE_S, FLAT_DARK_TOLERANCE_S = 10.0, 2.0, 0.5

Pool = list[Frame]


def _key(frame: Frame) -> tuple[Any, ...]:
    return frame.xbinning, frame.width, frame.height


def _exposure(frame: Frame) -> float:
    return frame.exposure or 0.0


def pools(frames: Sequence[Frame], kind: str) -> list[Pool]:
    """Return the groups of one kind, in the order in which their first frames were added."""
    found: list[Pool] = []
    for frame in frames:
        for pool in found:
            first = pool[0]
            same = _key(first) == _key(frame) and first.is_master == frame.is_master
            if kind == "flat":
                same = same and first.filter == frame.filter
            if kind == "light":
                same = same and (first.filter, first.cfa is None) == (frame.filter, frame.cfa is None)
            if kind in ("dark", "light"):
                tolerance = DARK_TOLERANCE_S if kind == "dark" else LIGHT_TOLERANCE_S
                tolerance = 0.01 if frame.is_master else tolerance
                same = same and abs(_exposure(first) - _exposure(frame)) <= tolerance
            if same:
                pool.append(frame)
                break
        else:
            found.append([frame])
    return found


class Choices:
    """The pools of a session and what each light pool and flat pool gets."""

    def __init__(self, frames: Sequence[Frame]) -> None:
        by_kind: dict[str, list[Frame]] = {"bias": [], "dark": [], "flat": [], "light": []}
        for frame in sorted(frames, key=lambda f: f.path):
            if frame.role is not None and not (frame.role == "light" and frame.is_master):
                by_kind["dark" if frame.role == "flat_dark" else frame.role].append(frame)
        self.pools = {kind: pools(members, kind) for kind, members in by_kind.items()}

    def light_pool(self, frame: Frame) -> Pool:
        return next(pool for pool in self.pools["light"] if frame in pool)

    def _of(self, kind: str, frame: Frame) -> list[Pool]:
        # Masters are matched before raw frames of the same values.
        found = [pool for pool in self.pools[kind] if _key(pool[0]) == _key(frame)]
        return sorted(found, key=lambda pool: not pool[0].is_master)

    def dark(self, light: Frame) -> Pool | None:
        first = self.light_pool(light)[0]
        found = self._of("dark", first)
        return min(found, key=lambda p: abs(_exposure(p[0]) - _exposure(first))) if found else None

    def bias(self, light: Frame) -> Pool | None:
        """Return the bias, which counts only where there is no dark."""
        found = self._of("bias", light)
        return found[0] if found and self.dark(light) is None else None

    def flat(self, light: Frame) -> Pool | None:
        found = [
            pool
            for pool in self._of("flat", light)
            if pool[0].filter == light.filter and (pool[0].cfa is None) == (light.cfa is None)
        ]
        return found[0] if found else None

    def flat_calibration(self, flat: Pool) -> list[Pool]:
        bias = self._of("bias", flat[0])[:1]
        darks = self._of("dark", flat[0])
        if bias:
            darks = [p for p in darks if abs(_exposure(p[0]) - _exposure(flat[0])) < FLAT_DARK_TOLERANCE_S]
        nearest = sorted(darks, key=lambda p: abs(_exposure(p[0]) - _exposure(flat[0])))[:1]
        return bias + nearest
