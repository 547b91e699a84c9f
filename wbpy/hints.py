"""Tell what would give a match the master that it lacks."""

from __future__ import annotations

import math

from wbpy.model import Candidate, Match, Reason, reason_text

HARD_OPERATORS = ("equal", "fixed", "without")
"""Operators without a tolerance: what fails them can be taken by force only."""

IMPOSSIBLE = ("width", "height")
"""Fields whose difference no force overcomes: the pixels do not lie on each other."""

DARK_ROLES = ("dark", "flat_dark")
"""Roles whose tolerances the settings replace: those that carry dark current."""


ADVISABLE = {"temperature": (10.0, 0.0), "exposure": (0.0, 0.1)}
"""Field -> (absolute, share of the subject's value): the largest difference that a wider tolerance is advised for. A
dark of twice the dark current, or one off by a tenth of the exposure, is as far as a beginner should be led."""


def failures(candidate: Candidate) -> list[Reason]:
    """Return the failed reasons of a candidate, of several about one field the narrowest."""
    tightest: dict[str, Reason] = {}
    for reason in candidate.reasons:
        known = tightest.get(reason.field)
        if reason.verdict == "fail" and (known is None or (reason.tolerance or 0) < (known.tolerance or 0)):
            tightest[reason.field] = reason
    return list(tightest.values())


def _is_advisable(reason: Reason) -> bool:
    ours, theirs = reason.subject_value, reason.candidate_value
    if reason.field not in ADVISABLE or not isinstance(ours, (int, float)) or not isinstance(theirs, (int, float)):
        return reason.field not in ADVISABLE
    absolute, share = ADVISABLE[reason.field]
    return abs(theirs - ours) <= max(absolute, share * abs(ours))


def hint(match: Match) -> str:
    """Return the smallest relaxation with which a match without a master would have one, as a sentence with the option.

    The nearest candidate that fails nothing but tolerances comes first; a candidate that breaks what must be equal is
    named with what it costs, and one of another size never. Empty where there is no way.
    """
    refused = [candidate for candidate in match.candidates if candidate.verdict == "rejected"]
    role = match.role.replace("_", "-")
    for candidate in refused:
        failed = failures(candidate)
        if any(is_hard(reason) or not _is_advisable(reason) for reason in failed):
            continue
        told = "; ".join(reason_text(reason, limits=False) for reason in failed)
        fields = {reason.field for reason in failed}
        if match.role in DARK_ROLES and fields <= {"exposure", "temperature"} and all(map(_is_known, failed)):
            limits = {
                field: max(
                    math.ceil(round(10 * abs(float(r.candidate_value or 0) - float(r.subject_value or 0)), 6)) / 10
                    for r in failed
                    if r.field == field
                )
                for field in sorted(fields)
            }
            options = " ".join(f"--set match.{field}={limit:g}" for field, limit in limits.items())
            return f"{candidate.id} serves as {role} with {options} ({told})."
        return f"{candidate.id} serves as {role} with --use {match.role}={candidate.id}@{match.subject} ({told})."
    for candidate in refused:
        failed = failures(candidate)
        if any(reason.field in (*IMPOSSIBLE, "calibrated", "with_bias") for reason in failed):
            continue
        if not all(is_hard(reason) or _is_advisable(reason) for reason in failed):
            continue
        told = "; ".join(reason_text(reason, limits=False) for reason in failed)
        option = f"--use {match.role}={candidate.id}@{match.subject} --force"
        return f"Only by force, and at the price of a wrong correction ({told}): {option}."
    return ""


def tells_apart(reason: Reason) -> bool:
    """Return whether a reason stands between two values that are known and differ."""
    return (
        reason.operator not in ("fixed", "without")
        and _is_known(reason)
        and reason.subject_value != reason.candidate_value
    )


def is_hard(reason: Reason) -> bool:
    """Return whether a failed reason is about values that must be equal; one that is unknown may be anything."""
    return reason.operator in HARD_OPERATORS and (_is_known(reason) or reason.operator == "fixed")


def _is_known(reason: Reason) -> bool:
    return reason.subject_value is not None and reason.candidate_value is not None
