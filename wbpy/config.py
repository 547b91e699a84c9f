"""The configuration: defaults, presets, files and options merged into frozen values that remember their origin.

Sections are the stages' names, whose parameters the stages declare, and the general sections of this module.
Later sources win: defaults, preset, ``--config`` files in order, command-line options, ``--set``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from wbpy.errors import ConfigError
from wbpy.model import Param, Role
from wbpy.rules import Rules

T = TypeVar("T")


class ScanSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How files are read into the catalog."""

    role: Annotated[Role | None, Meta(description="role of frames whose type is written nowhere")] = None
    row_order: Annotated[
        Literal["TOP-DOWN", "BOTTOM-UP"], Meta(description="row order of FITS files without ROWORDER")
    ] = "TOP-DOWN"
    cfa: Annotated[
        Literal["auto", "none", "RGGB", "BGGR", "GRBG", "GBRG"],
        Meta(description="CFA pattern: from the header, none at all, or this one for every frame"),
    ] = "auto"
    cfa_by_camera: Annotated[
        dict[str, Literal["none", "RGGB", "BGGR", "GRBG", "GBRG"]],
        Meta(description="camera as the header names it -> CFA pattern of its stored rows, none for mono"),
    ] = {}
    follow_links: Annotated[bool, Meta(description="descend into folders that are symbolic links")] = False
    library: Annotated[
        tuple[str, ...], Meta(description="folders with calibration frames that serve all projects")
    ] = ()
    target_by: Annotated[
        Literal["name", "pointing"],
        Meta(description="what tells targets apart: OBJECT together with the pointing, or the pointing alone"),
    ] = "name"
    panel_separation: Annotated[
        float, Meta(gt=0, le=20, description="degrees between pointings from which on they are different fields")
    ] = 0.25
    keywords: Annotated[
        tuple[str, ...],
        Meta(description="further header keywords to keep, also read from NAME_value in folder and file names"),
    ] = ()
    focal_length: Annotated[
        Annotated[float, Meta(gt=0)] | None, Meta(description="focal length of all frames instead of the header's, mm")
    ] = None
    pixel_checks: Annotated[
        bool,
        Meta(description="look at the pixels of a few frames where headers may be wrong: CFA phase, swapped types"),
    ] = True


class GroupSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What splits and what merges the lights."""

    by: Annotated[
        tuple[str, ...],
        Meta(
            description="what also splits the integrations: catalog columns or keywords from header, file or folder "
            "name (`KEY_value`); `KIND:NAME` splits registration, calibration or one role, for example `flat:SESSION`"
        ),
    ] = ()
    merge: Annotated[
        tuple[str, ...],
        Meta(
            description="what does not split the integrations: exposure, camera, binning, filter, object; "
            "`KIND:NAME` for calibration groups, for example `flat:night`"
        ),
    ] = ()


class MatchSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tolerances that replace those of ``rules/matches.toml``; unset ones keep the rule's value."""

    exposure: Annotated[
        Annotated[float, Meta(ge=0)] | None, Meta(description="largest exposure difference of a dark, s")
    ] = None
    temperature: Annotated[
        Annotated[float, Meta(ge=0)] | None, Meta(description="largest temperature difference of a dark, degC")
    ] = None
    scale_darks: Annotated[
        bool, Meta(description="scale a longer dark where none has the exposure and the sensor allows it")
    ] = True
    prefer: Annotated[
        Literal["auto", "raw", "library"],
        Meta(description="raw frames or finished masters, where both fit; auto leaves it to the rule"),
    ] = "auto"


class PinSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is decided by hand. Entries of several sources add up; of two about one match the later one counts."""

    use: Annotated[
        tuple[str, ...],
        Meta(description="masters: `ROLE=FILE`, `ROLE=GROUP` or `ROLE=none`, for one group with `@GROUP`"),
    ] = ()
    exclude: Annotated[
        tuple[str, ...], Meta(description="frames to leave out: a file, or a condition on catalog columns")
    ] = ()
    force: Annotated[bool, Meta(description="accept pins that break hard requirements")] = False


class OverscanSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whether and how the level of the bias is taken from pixels that see no light."""

    use: Annotated[
        Literal["off", "auto", "header", "camera", "regions"],
        Meta(
            description="correct all raw frames by the sections of their headers (BIASSEC with TRIMSEC or DATASEC), by "
            "what rules/sensors.toml knows of the camera, by either (auto), or by overscan.regions"
        ),
    ] = "off"
    regions: Annotated[
        tuple[str, ...],
        Meta(description="up to four `SOURCE > TARGET`, rectangles `x0:x1;y0:y1` from 0 on, ends excluded"),
    ] = ()
    image: Annotated[str, Meta(description="rectangle that is left of the frames")] = ""


class RunSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the plan is executed; nothing here changes a pixel."""

    memory_limit: Annotated[
        str, Meta(description="memory that the run may use, such as 8GB; auto is half of the machine's")
    ] = "auto"
    workers: Annotated[int, Meta(ge=0, description="threads; 0 is one per core")] = 0
    keep: Annotated[
        tuple[Literal["calibrated", "cosmetic", "debayered", "registered"], ...],
        Meta(description="per-frame images to write under frames/"),
    ] = ()
    format: Annotated[
        Literal["fits", "xisf"],
        Meta(description="of integrations; an XISF file holds the rejection maps and other maps as further images"),
    ] = "fits"
    check_disk: Annotated[
        bool, Meta(description="refuse to start when the disk would fill up, by the plan's estimate")
    ] = True
    store_limit: Annotated[
        str,
        Meta(
            description="size of OUT/.store above which a run, when it is through, removes the intermediate results "
            "that it did not use itself, those used longest ago first"
        ),
    ] = "50GB"


SETTINGS: dict[str, type[msgspec.Struct]] = {
    "scan": ScanSettings,
    "group": GroupSettings,
    "match": MatchSettings,
    "pins": PinSettings,
    "overscan": OverscanSettings,
    "run": RunSettings,
}


ACCUMULATED = (("pins", "use"), ("pins", "exclude"))
"""Lists that grow from source to source; of all others the last source counts."""


_OPTIONS = {"group.by": "--group-by", "drizzle.use": "--drizzle", "drizzle.scale": "--drizzle"}
"""Options that do not have the name of what they set."""


class Config:
    """Validated sections with the origin of each value.

    Parameters
    ----------
    sections : mapping of str to msgspec.Struct
        Section name -> frozen settings.
    origins : mapping of (str, str) to str
        (section, name) -> where the value was set; absent means default.
    """

    def __init__(self, sections: Mapping[str, msgspec.Struct], origins: Mapping[tuple[str, str], str]) -> None:
        self._sections = dict(sections)
        self._origins = dict(origins)

    def section(self, name: str, kind: type[T]) -> T:
        """Return one section, which is of type `kind`."""
        value = self._sections[name]
        if not isinstance(value, kind):
            raise TypeError(f"section {name} is a {type(value).__name__}, not a {kind.__name__}")
        return value

    def params(self, name: str) -> dict[str, Param]:
        """Return the values of one section as plain JSON types, each with its origin."""
        # By way of JSON, so that a saved plan reads back equal: to_builtins would keep tuples.
        values = msgspec.json.decode(msgspec.json.encode(self._sections[name]))
        return {
            key: Param(value=value, origin=self._origins.get((name, key), "default")) for key, value in values.items()
        }

    def given(self) -> dict[str, Param]:
        """Return what presets, files and options set: ``"section.name"`` -> value and origin, sorted."""
        return {f"{section}.{name}": self.params(section)[name] for section, name in sorted(self._origins)}

    @property
    def sections(self) -> tuple[str, ...]:
        """Names of all sections."""
        return tuple(self._sections)


def load_config(
    rules: Rules,
    stages: Mapping[str, type[msgspec.Struct]],
    *,
    given: Mapping[str, Param] | None = None,
    preset: str | None = None,
    files: Sequence[Path] = (),
    options: Mapping[str, Any] | None = None,
    sets: Sequence[str] = (),
) -> Config:
    """Return the merged and validated configuration.

    Parameters
    ----------
    rules : Rules
        Source of the presets.
    stages : mapping of str to type
        Stage name -> type of its parameters.
    given : mapping of str to Param, optional
        ``"section.name"`` -> value and origin, as an earlier plan holds them; everything else wins over them.
    preset : str, optional
        Name of a file in ``rules/presets``.
    files : sequence of Path
        TOML files; later ones win.
    options : mapping of str to value, optional
        ``"section.name"`` -> value, from dedicated command-line options or API arguments.
    sets : sequence of str
        ``section.name=value`` texts of ``--set``.

    Raises
    ------
    ConfigError
        If a section, name or value is not known or out of its limits; the message names the origin.
    """
    kinds: dict[str, type[msgspec.Struct]] = {**SETTINGS, **stages}
    values: dict[str, dict[str, Any]] = {name: {} for name in kinds}
    origins: dict[tuple[str, str], str] = {}

    def put(section: str, name: str, value: Any, origin: str) -> None:
        if section not in kinds:
            raise ConfigError(f"{origin}: there is no section {section!r}; the sections are {', '.join(sorted(kinds))}")
        if name not in kinds[section].__struct_fields__:
            known = ", ".join(kinds[section].__struct_fields__) or "none"
            raise ConfigError(f"{origin}: {section!r} has no parameter {name!r}; it has {known}")
        try:
            checked = msgspec.convert({name: value}, kinds[section], strict=False)
        except msgspec.ValidationError as error:
            choices = _choices(kinds[section], name)
            told = f"it can be {', '.join(choices)}" if choices else str(error)
            raise ConfigError(f"{origin}: {section}.{name} = {value!r}: {told}") from error
        found = getattr(checked, name)
        if (section, name) in ACCUMULATED and name in values[section]:
            found = (*values[section][name], *found)
            origin = f"{origins[section, name]}, {origin}"
        values[section][name] = found
        origins[section, name] = origin

    for dotted, param in (given or {}).items():
        section, _, name = dotted.partition(".")
        put(section, name, param.value, param.origin)
    if preset is not None:
        if preset not in rules.presets:
            raise ConfigError(f"--preset {preset}: not known; there are {', '.join(sorted(rules.presets)) or 'none'}")
        for section, entries in rules.presets[preset].items():
            for name, value in entries.items():
                put(section, name, value, f"preset {preset}")
    for file in files:
        for section, entries in _read(file).items():
            if not isinstance(entries, dict):
                raise ConfigError(f"{file}: {section!r} stands outside of a [section]")
            for name, value in entries.items():
                put(section, name, value, f"{file.name}:{section}.{name}")
    for dotted, value in (options or {}).items():
        section, _, name = dotted.partition(".")
        put(section, name, value, _OPTIONS.get(dotted, f"--{name.replace('_', '-')}"))
    for text in sets:
        dotted, equals, raw = text.partition("=")
        section, dot, name = dotted.strip().partition(".")
        if not equals or not dot:
            raise ConfigError(f"--set {text}: expected section.name=value")
        put(section, name, _parse(raw.strip(), kinds.get(section), name), "--set")
    return Config({name: kind(**values[name]) for name, kind in kinds.items()}, origins)


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {file}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {file}: not valid TOML: {error}") from error


def _choices(kind: type[msgspec.Struct], name: str) -> list[str]:
    """Return the words that a parameter can be, or those of which its list can consist; none for other parameters."""
    about = msgspec.inspect.type_info(kind)
    fields = about.fields if isinstance(about, msgspec.inspect.StructType) else ()
    kinds = [field.type for field in fields if field.name == name]
    found: list[str] = []
    while kinds:
        match kinds.pop():
            case msgspec.inspect.LiteralType(values=values):
                found += map(str, values)
            case msgspec.inspect.Metadata(type=inner) | msgspec.inspect.VarTupleType(item_type=inner):
                kinds.append(inner)
            case msgspec.inspect.UnionType(types=inner):
                kinds.extend(inner)
            case _:
                pass
    return sorted(found)


def _parse(raw: str, kind: type[msgspec.Struct] | None, name: str) -> Any:
    """Return the text of ``--set`` as a value: lists split at commas, ``none`` as None, the rest left to msgspec."""
    if raw.lower() == "none" and kind is not None and name in kind.__struct_fields__:
        try:
            msgspec.convert({name: None}, kind)
        except msgspec.ValidationError:
            return raw
        return None
    default = dict(zip(kind.__struct_fields__, kind.__struct_defaults__, strict=True)).get(name) if kind else None
    if isinstance(default, tuple):
        return [part.strip() for part in raw.split(",") if part.strip()]
    return raw


def cache_folder() -> Path:
    """Return the folder in which this platform keeps what programs can make again."""
    import os
    import sys

    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = str(Path.home() / "Library" / "Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "wbpy"


def memory_limit_bytes(text: str) -> int:
    """Return a memory size such as ``8GB``, ``512MiB`` or ``auto`` in bytes.

    Raises
    ------
    ConfigError
        If the text is not a number with one of the units B, kB, MB, GB, TB, KiB, MiB, GiB, TiB, or is below 256 MB.
    """
    import psutil

    if text.strip().lower() == "auto":
        return int(psutil.virtual_memory().total) // 2
    size = _bytes(text)
    if size is None:
        raise ConfigError(f"memory limit {text!r}: expected a size such as 8GB, 512MiB or auto")
    if size < 256_000_000:
        raise ConfigError(f"memory limit {text!r} is below 256MB, which is what the program itself needs")
    return size


def store_limit_bytes(text: str) -> int:
    """Return the size above which the store shrinks, such as ``50GB``, in bytes.

    Raises
    ------
    ConfigError
        If the text is not a number with one of the units of :func:`memory_limit_bytes`.
    """
    size = _bytes(text)
    if size is None:
        raise ConfigError(f"run.store_limit {text!r}: expected a size such as 50GB or 800MB")
    return size


def _bytes(text: str) -> int | None:
    """Return a number with a unit in bytes; None for other texts."""
    import re

    found = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([kmgt]?)(i?)b?\s*", text.lower())
    if not found:
        return None
    base = 1024 if found[3] else 1000
    return int(float(found[1]) * base ** " kmgt".index(found[2] or " "))
