"""Make findings from their rules, so that id, severity, wording and remedy stand in one place."""

from __future__ import annotations

from wbpy.errors import RuleError
from wbpy.model import Finding, Scalar
from wbpy.rules import Rules


def make_finding(rules: Rules, id: str, subject: str, **evidence: Scalar) -> Finding:
    """Return the finding `id` about `subject`, its message filled in from the evidence.

    Parameters
    ----------
    rules : Rules
        Where the finding's wording, severity and limits stand.
    id : str
        Permanent identifier, for example ``MAT004``.
    subject : str
        The path, group id or step id that it is about.
    **evidence
        Values named in the message template, units in the names.

    Raises
    ------
    RuleError
        If the id is unknown or the template names evidence that was not given.
    """
    try:
        rule = rules.findings[id]
    except KeyError:
        raise RuleError(f"finding {id} has no entry under rules/findings") from None
    shown = {name: _show(value) for name, value in evidence.items()}
    try:
        message = rule.message.format(subject=subject, **shown)
        remedy = rule.remedy.format(subject=subject, **shown)
    except KeyError as error:
        raise RuleError(f"finding {id}: its wording names {error}, which the evidence lacks") from None
    return Finding(
        id=id,
        severity=rule.severity,
        subject=subject,
        message=message,
        evidence=evidence,
        remedy=remedy,
        guide=rule.guide,
    )


def _show(value: Scalar) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, float):
        # Three digits are what a reader takes in; the evidence keeps them all.
        return f"{value:.0f}" if abs(value) >= 1000 else f"{round(value, 1):g}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)
