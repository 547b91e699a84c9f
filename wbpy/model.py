"""The words of wbpy as values: frames, groups, matches, findings, steps, plans, runs.

Every type is frozen, compares by value and is what the JSON contracts in ``docs/contracts.md`` show: the field
names here are the field names there. Missing is ``None``, never 0 or an empty text.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Role = Literal["light", "dark", "flat", "bias", "flat_dark"]
ROLES: tuple[Role, ...] = ("light", "dark", "flat", "bias", "flat_dark")

MasterRole = Literal["bias", "dark", "flat", "flat_dark"]

Severity = Literal["info", "warning", "error"]

Outcome = Literal["done", "reused", "partial", "no_work", "failed", "blocked", "cancelled"]

Scalar = str | int | float | bool | None


class _Value(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all value types share.

    Those that a scan makes by the hundred thousand have ``gc=False``: they cannot be part of a circle, and leaving
    them out of the garbage collector's rounds halves the time of loading a catalog.
    """


class Finding(_Value, frozen=True, kw_only=True):
    """One thing a user should know about one subject, with the evidence for it."""

    id: str
    """Permanent identifier, for example ``MAT004``; its page is ``docs/findings/MAT004.md``."""
    severity: Severity
    subject: str
    """The path, group id or step id that it is about."""
    message: str
    evidence: dict[str, Scalar] = {}
    """Measured or read values; the names carry the unit."""
    remedy: str
    guide: str | None = None
    """Section of the guide that it comes from."""


class Source(_Value, frozen=True, kw_only=True, gc=False):
    """Where one value of a frame came from."""

    field: str
    keyword: str | None
    """Header keyword, or None when a rule supplied the value."""
    raw: str | None
    """The text as it stood in the header or the path."""
    rule: str
    """The rule that turned the text into the value."""


class Frame(_Value, frozen=True, kw_only=True, gc=False):
    """One image file and what its header says; None means that the header does not say it."""

    path: str
    """Absolute path."""
    role: Role | None
    is_master: bool
    exposure: float | None
    """Seconds."""
    gain: float | None
    """Camera setting in driver units; not e-/DN."""
    offset: float | None
    """Camera setting in driver units."""
    e_per_dn: float | None
    """Conversion gain, electrons per DN of the file."""
    iso: float | None
    temp_ccd: float | None
    """Measured sensor temperature, degC."""
    temp_set: float | None
    """Set point of the cooler, degC."""
    filter: str | None
    """Canonical filter name."""
    xbinning: int | None
    ybinning: int | None
    width: int | None
    """Pixels."""
    height: int | None
    channels: int | None
    cfa: str | None
    """CFA pattern of the stored rows, for example ``RGGB``, 36 letters for X-Trans; None for mono."""
    row_order: Literal["TOP-DOWN", "BOTTOM-UP"] | None
    camera: str | None
    read_mode: str | None
    date_obs: str | None
    """Start of the exposure, ISO 8601 UTC with milliseconds."""
    night: str | None
    """Local date of the evening, YYYY-MM-DD: noon to noon."""
    object: str | None
    ra: float | None
    """Degrees."""
    dec: float | None
    """Degrees."""
    rotator: float | None
    """Mechanical or sky angle, degrees; a planned angle is not used."""
    pier_side: Literal["east", "west"] | None
    focal_length: float | None
    """Millimetres."""
    pixel_size: float | None
    """Micrometres, after binning, as most programs write it."""
    program: str | None
    """The capture program, as its dialect is called in ``rules/dialects``."""
    format: str
    """``fits``, ``xisf``, ``raw``, ..."""
    calibrated: bool
    """True when header or name say that calibration was already applied."""
    stack_count: int | None = None
    """How many frames were combined into this one."""
    dn_per_unit: float = 1.0
    """Stored value x this = DN of the 16-bit scale: 1 for integers, 65535 for files scaled to [0, 1]."""
    size: int = 0
    """Bytes."""
    modified_ns: int = 0
    """Modification time, nanoseconds since 1970."""
    target: str | None = None
    """What a light shows: its `object`, told apart from or joined with others by pointing; None when unknown."""
    panel: int | None = None
    """Panel of a mosaic, counted from 1 along right ascension; None where the target has one field only."""
    pedestal: float | None = None
    """DN that were added to the pixels on purpose: positive when the data are too high by it, whoever wrote it."""
    library: bool = False
    """True for frames of a library root, which only serve as calibration."""
    whole_width: int | None = None
    """Columns of the frames that a master was made of, before their overscan was cut off; None where none was."""
    whole_height: int | None = None
    """Rows, likewise."""
    keywords: dict[str, str] = {}
    """What the user asked for with ``scan.keywords``, from the header or from ``KEY_value`` in the path."""


class Group(_Value, frozen=True, kw_only=True):
    """Frames that are treated as one."""

    id: str
    kind: Literal["calibration", "registration", "integration"]
    """Calibration groups share masters, registration groups share a reference, integration groups one stack.

    The last two hold lights only: they are further groupings of frames that also stand in calibration groups.
    """
    role: Role
    key: dict[str, Scalar]
    """The values that the frames have in common."""
    frames: tuple[str, ...]
    """Absolute paths in order of exposure start."""
    is_master: bool = False
    """True for a finished master found on disk: a group of one."""


class Reason(_Value, frozen=True, kw_only=True):
    """One requirement evaluated for one candidate.

    For the operators ``fixed`` and ``without`` the value that the rule names stands as the subject's.
    """

    rule: str
    field: str
    subject_value: Scalar
    candidate_value: Scalar
    operator: str
    tolerance: float | None
    verdict: Literal["pass", "fail", "unverified"]
    """``unverified``: a value is unknown and the rule accepts that."""


_UNITS = {
    "exposure": " s",
    "temperature": " degC",
    "temp_set": " degC",
    "temp_ccd": " degC",
    "rotator": " degrees",
    "focal_length": " mm",
    "pixel_size": " um",
}

_QUIRKS = {
    "unstable_bias": "the bias level of this sensor is not stable",
    "glow": "this sensor glows, and glow does not scale",
}


def reason_text(reason: Reason, *, limits: bool = True) -> str:
    """Return a reason as words, the candidate's value first: ``gain 200 instead of 100``, with its tolerance or not."""
    field, unit = reason.field.replace("_", " "), _UNITS.get(reason.field, "")

    def shown(value: Scalar) -> str:
        if value is None:
            return "unknown"
        return f"{value:.6g}{unit}" if isinstance(value, float) else f"{value}{unit}"

    ours, theirs = shown(reason.subject_value), shown(reason.candidate_value)
    if reason.field == "calibrated":
        return "offset taken off" if reason.verdict == "pass" else "it has neither flat-dark nor bias"
    if reason.field == "with_bias":
        return "a bias for the scaling" if reason.verdict == "pass" else "no bias fits, without which it is not scaled"
    if reason.operator == "without":
        return "no known quirk of the sensor" if reason.verdict == "pass" else _QUIRKS.get(ours, f"sensor with {ours}")
    if reason.operator == "fixed":
        return f"{field} {theirs}" if reason.verdict == "pass" else f"{field} {theirs}, asked for {ours}"
    if reason.subject_value is None and reason.candidate_value is None:
        return f"{field} unknown on both sides"
    if ours == theirs:
        return f"{field} {theirs}"
    unit = " days" if reason.field == "night" else unit
    limit = f" (at most {reason.tolerance:.6g}{unit} apart)" if reason.tolerance is not None else ""
    if reason.operator in ("not_above", "not_below"):
        side = reason.operator.removeprefix("not_")
        limit = f" (at most {reason.tolerance or 0:.6g}{unit} {side})"
    if not limits:
        limit = ""
    return f"{field} {theirs} {'instead of' if reason.verdict == 'fail' else 'for'} {ours}{limit}"


class Candidate(_Value, frozen=True, kw_only=True):
    """One group that might have served, with every reason for and against."""

    id: str
    rank: int | None
    """1 is the best that satisfies all requirements; None when one failed."""
    verdict: Literal["chosen", "eligible", "rejected"]
    reasons: tuple[Reason, ...]


class Match(_Value, frozen=True, kw_only=True):
    """Which master plays a role for a group, and why."""

    subject: str
    """Id of the calibration group that is served."""
    role: MasterRole
    chosen: str | None
    """Id of the group that serves, or None."""
    rule: str
    """The rung of the ladder in ``rules/matches.toml`` that decided."""
    sets: dict[str, Scalar] = {}
    """Stage parameters that this rung fixes, for example ``{"calibrate.optimize_dark": true}``."""
    candidates: tuple[Candidate, ...]


class Param(_Value, frozen=True, kw_only=True):
    """A parameter's value and where it was set."""

    value: Any
    origin: str
    """``default``, ``preset NAME``, ``FILE:key``, ``--set`` or ``rule NAME``."""


class Artifact(_Value, frozen=True, kw_only=True):
    """Something that a step makes."""

    name: str
    kind: str
    path: str | None = None
    """Absolute path for products; None for what lives in the store."""


class Step(_Value, frozen=True, kw_only=True):
    """One stage applied to one group."""

    id: str
    stage: str
    version: int
    group: str
    inputs: dict[str, tuple[str, ...]] = {}
    """Input name of the stage -> ids of the steps or groups that provide it."""
    params: dict[str, Param]
    outputs: tuple[Artifact, ...]
    why: str
    """One sentence: what makes this step necessary."""
    frames: tuple[str, ...] = ()
    """For the integration of lights: the frames that go into it."""
    notes: tuple[str, ...] = ()
    """What was decided by hand: goes into the headers of what the step makes."""


class HeldBack(_Value, frozen=True, kw_only=True):
    """A file that takes no part, and the finding that says why."""

    path: str
    finding: str


class Estimate(_Value, frozen=True, kw_only=True):
    """What a plan will cost."""

    bytes_read: int
    bytes_written: int
    """Store, products and frames asked for with ``--keep``."""
    peak_memory: int
    """Bytes."""
    seconds: float


class Plan(_Value, frozen=True, kw_only=True):
    """Everything that will be done, in order, with the reasons: what is reviewed is what is executed."""

    schema: int
    wbpy: str
    """Version that made the plan."""
    out: str
    """Absolute path of the output directory."""
    frames: tuple[Frame, ...]
    """All frames that take part, sorted by path."""
    groups: tuple[Group, ...]
    matches: tuple[Match, ...]
    steps: tuple[Step, ...]
    held_back: tuple[HeldBack, ...]
    findings: tuple[Finding, ...]
    settings: dict[str, dict[str, Param]]
    """Every configuration value that is not a stage's parameter: section -> name -> value and origin."""
    estimate: Estimate
    inputs: tuple[str, ...] = ()
    """Absolute paths that were scanned, sorted; empty for a plan of a catalog."""
    given: dict[str, Param] = {}
    """``section.name`` -> what preset, file or option set; everything else is a default or chosen by a rule."""


class Change(_Value, frozen=True, kw_only=True):
    """One difference between two plans."""

    kind: Literal["frame", "held_back", "setting", "group", "match", "step", "finding", "cost"]
    action: Literal["added", "removed", "changed"]
    subject: str
    """The path, group, match, step, finding or value that it is about."""
    before: Scalar = None
    after: Scalar = None
    why: str


class Comparison(_Value, frozen=True, kw_only=True):
    """What changed from one plan to another."""

    old: str
    """Output folder of the older plan."""
    new: str
    changes: tuple[Change, ...]
    unchanged_steps: int
    """Steps that are the same in both, with the same inputs."""


class Product(_Value, frozen=True, kw_only=True):
    """One file that the run made for the user."""

    kind: str
    """``master_bias``, ``master_dark``, ``master_flat``, ``master_flat_dark``, ``integration``, ``preview``, ..."""
    path: str
    group: str
    frames_used: int
    frames_excluded: int
    exposure_total: float | None
    """Seconds over the frames used."""
    outcome: Outcome
    measurements: dict[str, float | None] = {}
    """Of an integration: noise and FWHM beside those of its best light, and what was expected."""


class FrameResult(_Value, frozen=True, kw_only=True):
    """What became of one frame."""

    path: str
    role: Role
    outcome: Outcome
    weight: float | None = None
    """Share in its integration, the best frame 1."""
    measurements: dict[str, float | None] = {}
    transform: tuple[tuple[float, ...], ...] | None = None
    """Registration: 3x3 matrix, homogeneous (x, y, 1) of the reference -> this frame, 0-based pixels."""
    excluded_by: str | None = None
    """Id of the finding that excluded it."""


class StepResult(_Value, frozen=True, kw_only=True):
    """What became of one step."""

    id: str
    outcome: Outcome
    seconds: float
    why: str
    """Why it ran or was reused."""


class Run(_Value, frozen=True, kw_only=True):
    """The record of one execution."""

    outcome: Outcome
    products: tuple[Product, ...]
    frames: tuple[FrameResult, ...]
    steps: tuple[StepResult, ...]
    findings: tuple[Finding, ...]
    timings: dict[str, float]
    """Seconds per stage, summed over workers."""
    versions: dict[str, str]
    log: str
    """Absolute path of the log for people."""


def encode(value: msgspec.Struct) -> bytes:
    """Return `value` as indented UTF-8 JSON; the same value gives the same bytes."""
    return msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n"
