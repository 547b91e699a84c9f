"""How numbers, sizes, times, counts and names are written for people, the same everywhere."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePath

from wbpy.model import Comparison, Finding, Plan, Scalar

UNITS = {
    "exposure": "s",
    "temperature": "degC",
    "temp_ccd": "degC",
    "temp_set": "degC",
    "rotator": "deg",
    "ra": "deg",
    "dec": "deg",
    "focal_length": "mm",
    "pixel_size": "um",
    "e_per_dn": "e-/DN",
    "width": "px",
    "height": "px",
}


def value(field: str, content: Scalar) -> str:
    """Return a catalog value with its unit, ``unknown`` for None."""
    if content is None:
        return "unknown"
    if isinstance(content, bool):
        return "yes" if content else "no"
    text = f"{content:.6g}" if isinstance(content, float) else str(content)
    unit = UNITS.get(field)
    return f"{text} {unit}" if unit and not isinstance(content, str) else text


def plain(text: str) -> str:
    """Return `text` on one line without characters that control a terminal, each shown as its escape instead."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def count(number: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun: ``1 frame``, ``2 frames``."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def listing(parts: Sequence[str]) -> str:
    """Return ``a``, ``a and b`` or ``a, b and c``."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def size(number: float) -> str:
    """Return a number of bytes in decimal units, three digits at most: ``482 MB``."""
    if number < 1000:
        return f"{int(number)} B"
    for unit in ("kB", "MB", "GB", "TB"):
        number /= 1000
        if number < 999.5 or unit == "TB":
            break
    return f"{number:.3g} {unit}" if number < 999.5 else f"{number:.0f} {unit}"


def duration(seconds: float) -> str:
    """Return a time span with its two largest units: ``0.4 s``, ``45 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        minutes, rest = divmod(whole, 60)
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, rest = divmod(round(whole / 60), 60)
    return f"{hours} h {rest} min" if rest else f"{hours} h"


def rate(per_second: float, unit: str) -> str:
    """Return how many units are done in a second, three digits at most: ``1.25 frames/s``."""
    return f"{per_second:.3g} {unit}/s" if per_second < 999.5 else f"{per_second:.0f} {unit}/s"


def sentence(finding: Finding) -> str:
    """Return a finding's message with its subject ahead, unless the message names it; of a path the file name."""
    path = PurePath(finding.subject)
    subject, known = (path.name, path.stem) if path.is_absolute() else (finding.subject, finding.subject)
    named = re.search(rf"(?<!\w){re.escape(known)}(?!\w)", finding.message)
    return finding.message if named or not subject else f"{subject}: {finding.message}"


def quoted(path: str) -> str:
    """Return a path as it is typed in a shell: in quotes when it holds blanks."""
    return f'"{plain(path)}"' if " " in path else plain(path)


def plan_summary(plan: Plan) -> str:
    """Return a plan in one line: what is made of what, and what takes no part."""
    if not plan.steps:
        return "Nothing to do"
    stages = Counter(step.stage for step in plan.steps)
    groups = {group.id: group for group in plan.groups}
    lights = sum(len(groups[step.group].frames) for step in plan.steps if step.stage == "calibrate")
    parts = [
        f"{count(stages['masters'], 'master')} to make",
        f"{count(lights, 'light')} to calibrate",
        f"{count(stages['integrate'], 'integration')} to make",
    ]
    if plan.held_back:
        parts.append(f"{count(len(plan.held_back), 'file')} held back")
    return ", ".join(parts)


KINDS = {
    "frame": ("file", "files"),
    "held_back": ("file held back", "files held back"),
    "setting": ("setting", "settings"),
    "group": ("group", "groups"),
    "match": ("match", "matches"),
    "step": ("step", "steps"),
    "finding": ("finding", "findings"),
}


def comparison_summary(comparison: Comparison) -> str:
    """Return what changed between two plans in one line: ``2 files added, 1 match changed, 12 steps unchanged``."""
    numbers: Counter[tuple[str, str]] = Counter()
    seen: set[tuple[str, str, str]] = set()
    for change in comparison.changes:
        # A file of which several header values changed is one file.
        if change.kind in KINDS and (change.kind, change.action, change.subject) not in seen:
            seen.add((change.kind, change.action, change.subject))
            numbers[change.kind, change.action] += 1
    if not numbers:
        return "nothing changed"
    parts = [
        f"{count(numbers[kind, action], *words)} {action}"
        for kind, words in KINDS.items()
        for action in ("added", "changed", "removed")
        if numbers[kind, action]
    ]
    return ", ".join([*parts, f"{count(comparison.unchanged_steps, 'step')} unchanged"])
