"""What happens during a run, as values: the progress bar, the log for people and the log for programs read these."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from wbpy.model import Finding, Outcome, Scalar

Kind = Literal["run_started", "message", "step_started", "progress", "step_finished", "finding", "run_finished"]


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that happened."""

    kind: Kind
    seconds: float
    """Since the start of the run."""
    step: str | None = None
    stage: str | None = None
    done: int = 0
    """Units finished, for ``progress``."""
    total: int = 0
    unit: str = ""
    """What is counted: ``frames`` or ``tiles``."""
    message: str = ""
    """A plain sentence for people."""
    outcome: Outcome | None = None
    finding: Finding | None = None
    data: dict[str, Scalar] = {}
    """Measured values, units in the names."""


Listener = Callable[[Event], None]
