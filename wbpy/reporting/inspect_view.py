"""What `wbpy inspect` writes to a terminal: the table of statistics, histograms in text, findings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING

from wbpy.inspecting import Histogram, InspectedFrame, Inspection, planes_of
from wbpy.reporting.terminal import closing_line, print_findings, print_table
from wbpy.reporting.wording import count, plain

if TYPE_CHECKING:
    from rich.console import Console

HISTOGRAMS = 2
"""With so many frames or fewer histograms are shown without -v."""
WIDTH = 50
"""Columns of the longest bar."""
ROWS = 16
"""Rows of a histogram in text."""


def show_inspection(console: Console, inspection: Inspection, verbosity: int = 0) -> None:
    """Write an inspection: one row for each frame and colour, scale and saturation, histograms, findings."""
    if verbosity >= 0 and inspection.frames:
        low, high = inspection.range_dn
        names = ["frame", "plane", "mean", "median", "MAD", "min", "max", "<= 0", f"{low:g}-{high:g}", "levels"]
        print_table(console, names, [row for one in inspection.frames for row in _rows(one)], right=names[2:])
        console.print()
        names = ["frame", "role", "colours", "scale", "noise", "saturation"]
        print_table(console, names, [_facts(one) for one in inspection.frames], right=names[4:])
        console.print()
        console.print("Values in DN of the 16-bit scale. Noise is that of neighbouring pixels.")
        if verbosity > 0 or len(inspection.frames) <= HISTOGRAMS:
            for one in inspection.frames:
                for histogram in one.histograms:
                    console.print()
                    console.print(f"{plain(PurePath(one.path).name)}: histogram {histogram.plane}", style="bold")
                    for line in histogram_lines(histogram):
                        console.print(line, soft_wrap=True)
        console.print()
    print_findings(console, inspection.findings, verbosity)
    if verbosity >= 0 and inspection.pictures:
        folder = PurePath(inspection.pictures[0]).parent
        console.print(f"{count(len(inspection.pictures), 'picture')} in {plain(str(folder))}", soft_wrap=True)
    line = f"Inspected: {count(len(inspection.frames), 'frame')}"
    if inspection.held_back:
        line += f", {count(len(inspection.held_back), 'file')} not readable"
    console.print(closing_line(line, inspection.findings), style="bold")


def _rows(one: InspectedFrame) -> list[list[str]]:
    return [
        [
            PurePath(one.path).name if number == 0 else "",
            plane.name,
            f"{plane.mean:.2f}",
            f"{plane.median:.1f}",
            f"{plane.mad:.1f}",
            f"{plane.minimum:.0f}",
            f"{plane.maximum:.0f}",
            str(plane.at_zero),
            str(one.in_range[plane.name]),
            str(plane.levels),
        ]
        for number, plane in enumerate(planes_of(one.statistics))
    ]


def _facts(one: InspectedFrame) -> list[str]:
    role = "unknown" if one.role is None else one.role.replace("_", "-")
    level = one.statistics.saturation
    return [
        PurePath(one.path).name,
        f"master {role}" if one.master else role,
        _colours(one.cfa),
        one.scale,
        f"{one.statistics.noise:.2f}",
        "not reached" if level is None else f"{level:.0f}",
    ]


def _colours(cfa: str | None) -> str:
    """Return what kind of picture a frame is: one that is not debayered yet is shown in grey, and said to be so."""
    if cfa is None:
        return "mono"
    return f"grey, CFA {cfa}" if len(cfa) == 4 else "grey, CFA X-Trans"


def histogram_lines(histogram: Histogram) -> Sequence[str]:
    """Return a histogram as lines of text: range in DN, bar of logarithmic length, number of pixels."""
    size = max(1, -(-len(histogram.counts) // ROWS))
    sums = [sum(histogram.counts[start : start + size]) for start in range(0, len(histogram.counts), size)]
    edges = [*histogram.edges[:-1:size], histogram.edges[-1]]
    span = math.log1p(max(sums)) if sums and max(sums) > 0 else 1.0
    wide = max(len(str(edge)) for edge in edges)
    return [
        f"{low:>{wide}} to {high - 1:>{wide}} {'#' * round(WIDTH * math.log1p(number) / span):<{WIDTH}} {number}"
        for low, high, number in zip(edges[:-1], edges[1:], sums, strict=True)
    ]
