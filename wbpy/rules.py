"""Load and validate ``rules/``: what wbpy knows, as data.

Every file is TOML with a fixed shape. A user's folder of files with the same names overlays the built-in ones:
entries with a known ``id`` replace, others are added; in tables, keys replace. A mistake raises
:class:`~wbpy.errors.RuleError` with file, key and what was expected.
"""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from wbpy.errors import RuleError
from wbpy.model import Frame, MasterRole, Severity

Unknown = Literal["reject", "warn", "accept"]

Trait = Literal["unstable_bias", "glow"]
"""What rules may ask of a sensor: its bias level is not constant; its amplifiers glow."""


class _Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all rule types share."""


class FieldRule(_Rule, frozen=True, kw_only=True):
    """How one canonical field is read from a header."""

    id: str
    """Name of the field in :class:`wbpy.model.Frame`."""
    keywords: tuple[str, ...]
    """In order of preference; the first present and usable value wins."""
    dtype: Literal["float", "int", "text", "bool"]
    normalise: str = "plain"
    """Name of the normaliser in the scanner that turns the raw text into the value."""
    unit: str = ""
    missing: tuple[str | float, ...] = ()
    """Values that mean "not known"."""
    by_keyword: dict[str, str] = {}
    """Keyword -> normaliser, for keywords that hold the value in another unit or form."""
    names: tuple[str, ...] = ()
    """Patterns for file names without suffix, case ignored, whose first group is the value: tried last."""
    meaning: str


class DialectRule(_Rule, frozen=True, kw_only=True):
    """One capture program: how it is recognised and what it writes differently."""

    id: str
    name: str
    identify: tuple[tuple[str, str], ...]
    """(keyword, start of value) pairs; any one suffices. An empty start asks for the keyword only."""
    fields: dict[str, FieldOverride] = {}
    role_default: str | None = None
    """Role of frames that carry no type at all, for programs that write lights only."""
    notes: tuple[str, ...] = ()


class FieldOverride(_Rule, frozen=True, kw_only=True):
    """What a dialect changes in a field's rule; None keeps the general rule."""

    keywords: tuple[str, ...] | None = None
    normalise: str | None = None
    missing: tuple[str | float, ...] | None = None
    by_keyword: dict[str, str] | None = None


class RolesRules(_Rule, frozen=True, kw_only=True):
    """Spellings of frame types."""

    keywords: tuple[str, ...]
    header: dict[str, tuple[str, ...]]
    """Role, ``master_<role>`` or ``ignore`` -> normalised header values (upper case, single blanks)."""
    codes: dict[str, dict[str, str]] = {}
    """Keyword -> code -> role, for numeric types such as PICTTYPE."""
    path_words: dict[str, tuple[str, ...]]
    """Role -> words between non-letters in file or folder names, upper case."""
    master_words: tuple[str, ...]
    """Words in file names that mark a finished master."""
    result_words: tuple[str, ...]
    """Words in file names that mark results that are never input, for example ``Stacked``."""
    result_folders: tuple[str, ...] = ()
    """Folder names, upper case, in which other programs leave treated frames."""
    calibrated_prefixes: tuple[str, ...] = ()
    """Starts of file names, lower case, of frames that were calibrated already."""
    calibrated_endings: tuple[str, ...] = ()
    """Ends of file names before the suffix, as written; they count for floating-point files only."""
    calibrated_history: tuple[str, ...] = ()
    """Starts of HISTORY lines, lower case, that say that calibration was applied."""


class FilterRule(_Rule, frozen=True, kw_only=True):
    """One filter and its other spellings."""

    id: str
    aliases: tuple[str, ...]


class BandRule(_Rule, frozen=True, kw_only=True):
    """Values of `field` within the tolerance of a group's first value belong together."""

    field: str
    absolute: float
    relative: float = 0.0
    """The larger of `absolute` and `relative` x value counts, unless `smaller` is true."""
    smaller: bool = False
    uncooled: float | None = None
    """Replaces `absolute` between two frames of which neither reached a set point."""
    period: float = 0.0
    """For angles: 360, so that 359.9 and 0.1 are neighbours."""


class GroupRule(_Rule, frozen=True, kw_only=True):
    """What makes two frames one group."""

    id: str
    """``<kind>.<role>``, for example ``calibration.dark``."""
    exact: tuple[str, ...]
    bands: tuple[BandRule, ...] = ()


class Requirement(_Rule, frozen=True, kw_only=True):
    """One condition between a group and a candidate."""

    field: str
    operator: Literal["equal", "within", "not_above", "not_below", "angle_within", "fixed", "without"]
    """A closed set, implemented in the matching engine: ``equal`` exact; ``within`` |difference| <= tolerance;
    ``not_above`` candidate <= subject + tolerance; ``not_below`` candidate >= subject - tolerance; ``angle_within``
    wrap-aware degrees; ``fixed`` the candidate has `value`; ``without`` neither side has the word `value`, and a side
    of which nothing is known has no words."""
    absolute: float = 0.0
    relative: float = 0.0
    """Tolerance = max(absolute, relative x subject value)."""
    period: float = 360.0
    """Of ``angle_within``, degrees: 180 where half a turn makes no difference."""
    value: str | float | bool | None = None
    unknown: Unknown | Literal["equal"]
    """What an unknown value on either side means: ``reject`` the candidate, ``warn`` (use it with a finding),
    ``accept`` (use it, shown as unverified) or ``equal`` (it says nothing against the candidate)."""
    both_unknown: Unknown | Literal["equal"] | None = None
    """What it means when both values are unknown, if not the same as `unknown`; ``equal`` where a missing value is
    a value of its own, such as no filter."""


class Advice(Requirement, frozen=True, kw_only=True):
    """A condition whose failure does not refuse a candidate but is reported when it is chosen."""

    finding: str


class Preference(_Rule, frozen=True, kw_only=True):
    """One criterion of the ranking among candidates that satisfy all requirements; earlier ones weigh more."""

    by: Literal["nearest", "same", "most_frames", "master_first", "raw_first", "newest"]
    field: str = ""
    step: float = 0.0
    """For ``nearest``: differences count in whole steps, so that noise of a measurement does not decide."""


class MatchRule(_Rule, frozen=True, kw_only=True):
    """One rung of a ladder."""

    id: str
    subject: str
    """Role of the group that is served."""
    role: MasterRole
    """Role that the master plays."""
    candidates: tuple[str, ...] = ()
    """Roles of groups that may play it; empty for a rung that decides for none."""
    when_chosen: tuple[str, ...] = ()
    """This rung counts only when a master of one of these roles was chosen for the group before. Without
    candidates it says that no master of `role` is needed then."""
    unless_rung: tuple[str, ...] = ()
    """This rung does not count when one of these rungs chose a master for the group before."""
    needs_parameter: str | None = None
    """``stage.parameter``: this rung counts only where the stages have it."""
    meaning: str = ""
    """One sentence for people: what this rung asks for and what it costs."""
    like: str | None = None
    """Id of a rung whose candidates, requirements and preferences this one takes over where it has none of its own;
    own requirements replace those on the same field."""
    unknown: Unknown | None = None
    """Replaces ``reject`` for values unknown on one side in what `like` brings."""
    require: tuple[Requirement, ...] = ()
    advise: tuple[Advice, ...] = ()
    prefer: tuple[Preference, ...] = ()
    sets: dict[str, str | int | float | bool] = {}
    finding: str | None = None
    """Id of the finding that this rung raises."""


class SensorOverscan(_Rule, frozen=True, kw_only=True):
    """Where a sensor's overscan lies in frames of one size; frames of another size have none, or another one."""

    width: int
    """Pixels of the frames that hold it."""
    height: int
    regions: tuple[str, ...]
    """As in the section `overscan` of a configuration, rows counted from the top of the picture."""
    image: str
    """What is left, likewise."""


class SensorRule(_Rule, frozen=True, kw_only=True):
    """What is known of one sensor and of the cameras that are built around it."""

    id: str
    cameras: tuple[str, ...]
    """Names, or beginnings of names up to the end of a word, as programs write them; blanks, case and signs do not
    count."""
    maker: str = ""
    adc_bits: int | None = None
    scale: int | None = None
    """DN of a 16-bit file for one step of the converter."""
    offset_dn: float | None = None
    """DN of the converter by which one step of the offset setting raises the bias (the guide's k)."""
    traits: tuple[Trait, ...] = ()
    overscan: tuple[SensorOverscan, ...] = ()
    notes: tuple[str, ...] = ()
    """One sentence each, with its source."""

    @property
    def saturation_dn(self) -> int | None:
        """Largest value of a 16-bit file, DN: ``(2^bits - 1) x scale`` (guide, section 2.1)."""
        return None if self.adc_bits is None or self.scale is None else (2**self.adc_bits - 1) * self.scale

    def offset_level_dn(self, offset: float) -> float | None:
        """Return the level to which an offset setting should raise the bias, DN of a 16-bit file.

        ``offset x k x n`` of the guide, section 2.3.2; None where k or n is not known.
        """
        return None if self.offset_dn is None or self.scale is None else offset * self.offset_dn * self.scale


class RejectionRule(_Rule, frozen=True, kw_only=True):
    """Which rejection serves which number of frames."""

    up_to: int
    """Largest number of frames; 0 for any."""
    algorithm: str
    low: float
    high: float
    reason: str


class AlgorithmRule(_Rule, frozen=True, kw_only=True):
    """One rejection algorithm: its limits where nobody sets them, and the fewest frames that it suits."""

    low: float
    high: float
    frames: int
    """With fewer it rejects too much, or cannot reject at all."""
    reason: str
    """Why so many frames; ends a sentence that begins "because"."""


class IntegrationRules(_Rule, frozen=True, kw_only=True):
    """Rejection algorithms and the choice among them by number of frames."""

    algorithms: dict[str, AlgorithmRule]

    lights: tuple[RejectionRule, ...]
    masters: tuple[RejectionRule, ...]
    flats: tuple[RejectionRule, ...]


class FindingRule(_Rule, frozen=True, kw_only=True):
    """The page of one finding."""

    id: str
    title: str
    severity: Severity
    message: str
    """Template; the names in braces are keys of the evidence, and ``{subject}``."""
    why: str
    remedy: str
    guide: str | None = None
    limits: dict[str, float] = {}


class _Personal(_Rule, frozen=True, kw_only=True):
    keywords: tuple[str, ...]


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """All rules of one run."""

    fields: dict[str, FieldRule]
    dialects: dict[str, DialectRule]
    roles: RolesRules
    filters: dict[str, FilterRule]
    groups: dict[str, GroupRule]
    matches: tuple[MatchRule, ...]
    integration: IntegrationRules
    sensors: dict[str, SensorRule]
    findings: dict[str, FindingRule]
    presets: dict[str, dict[str, dict[str, Any]]]
    """Preset name -> section -> parameter -> value."""
    personal: tuple[str, ...] = ()
    """Keywords whose values are left out of headers that are written to be sent in."""


def page_text(template: str) -> str:
    """Return the wording of a finding for its page, where there is no evidence: the names of the values in italics."""
    import re

    text = template.replace("{hint}", "").strip()
    return re.sub(r"\{(\w+)\}", lambda found: f"*{found[1].replace('_', ' ')}*", text)


def builtin_folder() -> Path:
    """Return the folder with the built-in rules: inside the installed package, or beside it in a checkout."""
    inside = Path(__file__).parent / "_rules"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "rules"


def load_rules(overlays: Sequence[Path] = ()) -> Rules:
    """Return the validated rules, the built-in ones overlaid by the user's folders in order.

    Parameters
    ----------
    overlays : sequence of Path
        Folders shaped like ``rules/``; files that are not there keep the built-in content.

    Raises
    ------
    RuleError
        If a folder is missing, or a file is not TOML or has an unknown, missing or wrong entry.
    """
    return _load(tuple(Path(folder).resolve() for folder in overlays))


@functools.lru_cache(maxsize=8)
def _load(overlays: tuple[Path, ...]) -> Rules:
    for folder in overlays:
        if not folder.is_dir():
            raise RuleError(f"{folder}: not a folder. --rules expects a folder shaped like rules/")
    folders = (builtin_folder(), *overlays)
    rules = Rules(
        fields=_entries(folders, "fields.toml", "field", FieldRule),
        dialects=_entries(folders, "dialects/*.toml", "dialect", DialectRule),
        roles=_table(folders, "roles.toml", RolesRules),
        filters=_entries(folders, "filters.toml", "filter", FilterRule),
        groups=_entries(folders, "groups.toml", "group", GroupRule),
        matches=_resolve(_entries(folders, "matches.toml", "match", MatchRule)),
        integration=_table(folders, "integration.toml", IntegrationRules),
        sensors=_entries(folders, "sensors.toml", "sensor", SensorRule),
        personal=_table(folders, "personal.toml", _Personal).keywords,
        findings=_entries(folders, "findings/*.toml", "finding", FindingRule),
        presets={path.stem: _read(path) for path in _files(folders, "presets/*.toml")},
    )
    _check(rules)
    return rules


def _resolve(rungs: dict[str, MatchRule]) -> tuple[MatchRule, ...]:
    """Return the rungs with what they take over from others filled in."""

    def whole(rung: MatchRule, path: tuple[str, ...]) -> MatchRule:
        if rung.like is None:
            return rung
        where = f"matches.toml, [[match]] {rung.id}"
        if rung.like not in rungs:
            raise RuleError(f"{where}: like = {rung.like!r}, but there is no such rung")
        if rung.like in path:
            raise RuleError(f"{where}: like = {rung.like!r} leads back to itself")
        model = whole(rungs[rung.like], (*path, rung.like))
        own = {requirement.field for requirement in rung.require}
        inherited = tuple(
            msgspec.structs.replace(
                requirement, unknown=rung.unknown, both_unknown=requirement.both_unknown or requirement.unknown
            )
            if rung.unknown is not None and requirement.unknown == "reject"
            else requirement
            for requirement in model.require
            if requirement.field not in own
        )
        return msgspec.structs.replace(
            rung,
            candidates=rung.candidates or model.candidates,
            require=(*inherited, *rung.require),
            advise=rung.advise or model.advise,
            prefer=rung.prefer or model.prefer,
        )

    return tuple(whole(rung, (rung.id,)) for rung in rungs.values())


def find_sensor(rules: Rules, camera: str | None) -> SensorRule | None:
    """Return the sensor of a camera by the camera's name; None when it is not known.

    Examples
    --------
    >>> find_sensor(load_rules(), "ZWO CCD ASI294MC Pro(Cool)").id
    'IMX294'
    """
    if camera is None:
        return None
    words = _words(camera)
    best: tuple[int, SensorRule] | None = None
    for sensor in rules.sensors.values():
        for name in sensor.cameras:
            wanted = _words(name)
            found = any(words[i : i + len(wanted)] == wanted for i in range(len(words)))
            if found and (best is None or len(wanted) > best[0]):
                best = (len(wanted), sensor)
    return best[1] if best else None


def _words(name: str) -> list[str]:
    """Return the words of a camera's name without the maker's, which programs write or leave out."""
    words = re.sub(r"[^a-z0-9]+", " ", name.lower()).split()
    return [word for word in words if word not in ("zwo", "ccd", "camera", "cool")]


DERIVED_FIELDS = ("temperature", "cooled", "calibrated", "with_bias", "format_family", "capture_program", "traits")
"""Names that rules may use besides those of :class:`wbpy.model.Frame`; :mod:`wbpy.grouping` says what they hold."""


def _check(rules: Rules) -> None:
    """Raise for names that point nowhere: fields, findings, and requirements that cannot be evaluated."""
    known = {*Frame.__struct_fields__, *DERIVED_FIELDS}

    def field(where: str, name: str) -> None:
        if name not in known:
            raise RuleError(f"{where}: there is no field {name!r}; the fields are {', '.join(sorted(known))}")

    for group in rules.groups.values():
        where = f"groups.toml, [[group]] {group.id}"
        for name in (*group.exact, *(band.field for band in group.bands)):
            field(where, name)
    for rung in rules.matches:
        where = f"matches.toml, [[match]] {rung.id}"
        if rung.finding is not None and rung.finding not in rules.findings:
            raise RuleError(f"{where}: finding {rung.finding!r} has no entry under findings/")
        for requirement in rung.require:
            field(where, requirement.field)
            if requirement.operator in ("fixed", "without") and requirement.value is None:
                raise RuleError(f"{where}: operator {requirement.operator!r} on {requirement.field!r} expects a value")
        for advice in rung.advise:
            field(where, advice.field)
            if advice.finding not in rules.findings:
                raise RuleError(f"{where}: finding {advice.finding!r} has no entry under findings/")
        for name in rung.unless_rung:
            if name not in {other.id for other in rules.matches}:
                raise RuleError(f"{where}: unless_rung names {name!r}, but there is no such rung")
        for preference in rung.prefer:
            if preference.by in ("nearest", "same"):
                field(where, preference.field)


def _files(folders: Sequence[Path], pattern: str) -> list[Path]:
    return [path for folder in folders for path in sorted(folder.glob(pattern))]


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RuleError(f"{path}: not valid TOML: {error}") from error


def _convert(path: Path, where: str, data: object, kind: type[Any]) -> Any:
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise RuleError(f"{path}, {where}: {error}") from error


def _entries(folders: Sequence[Path], pattern: str, table: str, kind: type[Any]) -> dict[str, Any]:
    """Return the ``[[table]]`` entries of all matching files by id, later files replacing earlier ones."""
    found: dict[str, Any] = {}
    homes: dict[str, Path] = {}
    for path in _files(folders, pattern):
        content = _read(path)
        if unexpected := set(content) - {table}:
            raise RuleError(f"{path}: unknown table {sorted(unexpected)[0]!r}, expected [[{table}]]")
        for number, entry in enumerate(content.get(table, []), 1):
            label = entry.get("id", f"entry {number}") if isinstance(entry, dict) else f"entry {number}"
            rule = _convert(path, f"[[{table}]] {label}", entry, kind)
            root = next(folder for folder in folders if path.is_relative_to(folder))
            if homes.get(rule.id) == root:
                raise RuleError(f"{path}, [[{table}]] {label}: the id {rule.id!r} stands twice in {root}")
            homes[rule.id] = root
            found[rule.id] = rule
    return found


def _table(folders: Sequence[Path], name: str, kind: type[Any]) -> Any:
    """Return one file read as a whole, later folders replacing single keys."""
    merged: dict[str, Any] = {}
    last = folders[0] / name
    for path in _files(folders, name):
        merged = _merge(merged, _read(path))
        last = path
    return _convert(last, "top level", merged, kind)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged
