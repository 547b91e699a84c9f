"""Batch preprocessing of astronomical images: scan, plan, run, explain.

Four functions mirror the four commands; the values that they return are frozen and documented in
``docs/contracts.md``::

    import wbpy

    catalog = wbpy.scan("night")
    plan = wbpy.plan(catalog, "out", set="cosmetic.hot_sigma=5")
    run = wbpy.run(plan)
    print(wbpy.explain("integration-M42-Ha-120s", "out").text())

Importing this module loads nothing heavy: every function imports what it needs when it is called.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import threading

    from wbpy.catalog import Catalog
    from wbpy.config import Config
    from wbpy.costs import Forecast
    from wbpy.engine.events import Event, Listener
    from wbpy.errors import ConfigError, PlanError, ReadError, RuleError, WbpyError
    from wbpy.explaining import Explanation
    from wbpy.inspecting import Inspection
    from wbpy.model import Comparison, Finding, Frame, Group, Match, Param, Plan, Run, Step
    from wbpy.planner import load_plan
    from wbpy.rules import Rules
    from wbpy.stages.base import Stage
    from wbpy.star_profiles import StarInspection

__all__ = [
    "Catalog",
    "Comparison",
    "ConfigError",
    "Event",
    "Explanation",
    "Finding",
    "Forecast",
    "Frame",
    "Group",
    "Match",
    "Plan",
    "PlanError",
    "ReadError",
    "RuleError",
    "Run",
    "Step",
    "WbpyError",
    "__version__",
    "compare",
    "dump_headers",
    "explain",
    "inspect",
    "inspect_stars",
    "forecast",
    "load_plan",
    "plan",
    "run",
    "scan",
]

_HOMES = {
    "Catalog": "wbpy.catalog",
    "Event": "wbpy.engine.events",
    "Explanation": "wbpy.explaining",
    "Forecast": "wbpy.costs",
    "load_plan": "wbpy.planner",
    **dict.fromkeys(("ConfigError", "PlanError", "ReadError", "RuleError", "WbpyError"), "wbpy.errors"),
    **dict.fromkeys(("Comparison", "Finding", "Frame", "Group", "Match", "Plan", "Run", "Step"), "wbpy.model"),
}

SPEEDS = "speeds.json"
"""Name of the record of what runs took, in the user's cache folder."""

StrPath = str | os.PathLike[str]
Paths = StrPath | Sequence[StrPath]


def __getattr__(name: str) -> Any:
    """Return a result type or the version, loaded at first use."""
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("wbpy")
        except PackageNotFoundError:
            return "0+checkout"
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'wbpy' has no attribute {name!r}")


def scan(
    paths: Paths,
    *,
    rules: Paths = (),
    config: Paths = (),
    preset: str | None = None,
    set: str | Sequence[str] = (),
    memory_limit: str | None = None,
    workers: int | None = None,
    keep: str | Sequence[str] = (),
    library: Paths = (),
    previous: Catalog | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Catalog:
    """Return the catalog of all frames under `paths`.

    Parameters
    ----------
    paths : path or sequence of paths
        Folders, which are searched to the bottom, and single files.
    rules : path or sequence of paths
        Folders shaped like ``rules/`` that overlay the built-in rules; later ones win.
    config : path or sequence of paths
        TOML files with sections ``[scan]``, ``[group]``, ``[match]``, ``[run]`` and one for each stage.
    preset : str, optional
        Name of a parameter set in ``rules/presets``.
    set : str or sequence of str
        ``section.name=value`` texts; they win over preset and files.
    memory_limit, workers, keep
        As for :func:`plan`; checked here, so that all functions take the same options, and used there.
    library : path or sequence of paths
        Folders with calibration frames that serve all projects. Their headers are kept in the user's cache folder, so
        that they are read once. Lights in them are left alone.
    previous : Catalog, optional
        An earlier catalog: files whose size and time are unchanged are not read again, provided that the rules and
        the ``[scan]`` settings are the same.
    progress : callable, optional
        Called with the number of files read and the number of all files.

    Raises
    ------
    ConfigError
        If a path does not exist, or a configuration value is not known or out of its limits.
    RuleError
        If a file of the rules is wrong.
    """
    options = _run_options(memory_limit, workers, keep) | _libraries(library)
    knowledge, settings = _settings(rules, config, preset, set, options)
    return _scan(_existing(paths), knowledge, settings, previous, progress)


def dump_headers(catalog: Catalog, out: StrPath, *, rules: Paths = ()) -> tuple[Path, ...]:
    """Write the headers of a catalog as texts that can be sent in, and return their paths.

    One header is written for each kind of file: program, camera, type and what was found. Values that tell who took
    the frames and where, by the keywords of ``rules/personal.toml``, are left out.

    Parameters
    ----------
    catalog : Catalog
        Of a scan.
    out : path
        A folder, made when it does not exist; or a name that ends with ``.txt`` for one text with all headers.
    rules : path or sequence of paths
        As for :func:`scan`.

    Raises
    ------
    ConfigError
        If `out` cannot be written.
    """
    from wbpy.errors import ConfigError
    from wbpy.io.products import write_atomic
    from wbpy.rules import load_rules
    from wbpy.scanning.dumping import headers_by_kind

    texts = headers_by_kind(catalog, load_rules([Path(folder) for folder in _many(rules)]))
    target = Path(out)
    if target.suffix.lower() == ".txt":
        whole = "\n".join(f"# {name}\n{text}" for name, text in texts.items())
        contents = {target: whole}
    else:
        contents = {target / name: text for name, text in texts.items()}
    try:
        for path, text in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise ConfigError(f"{out}: the headers cannot be written: {error.strerror or error}") from error
    return tuple(contents)


def plan(
    source: Catalog | Paths,
    out: StrPath,
    *,
    rules: Paths = (),
    config: Paths = (),
    preset: str | None = None,
    set: str | Sequence[str] = (),
    memory_limit: str | None = None,
    workers: int | None = None,
    keep: str | Sequence[str] = (),
    library: Paths = (),
    group_by: str | Sequence[str] = (),
    merge: str | Sequence[str] = (),
    use: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    force: bool = False,
    drizzle: int | None = None,
    previous: Catalog | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Plan:
    """Return the plan for `source` and save it in `out`: ``plan.json`` for programs, ``plan.html`` for people.

    Nothing else is written.

    Parameters
    ----------
    source : Catalog, path or sequence of paths
        A catalog, or what :func:`scan` takes.
    out : path
        Output folder; it is made when it does not exist.
    rules, config, preset, set, library, previous, progress
        As for :func:`scan`; the last three count only when `source` is paths. Without `previous` the catalog that an
        earlier run left in `out` is used.
    memory_limit : str, optional
        Memory that the run may use, such as ``"8GB"``.
    workers : int, optional
        Threads; 0 is one per core.
    keep : str or sequence of str
        Which images of every frame to write: ``calibrated``, ``cosmetic``, ``debayered``, ``registered``.
    group_by, merge : str or sequence of str
        What also splits the integrations, and what does not: fields, or keywords from header, file or folder name;
        ``KIND:NAME`` for other groups. See ``[group]`` in the configuration.
    use : str or sequence of str
        Masters chosen by hand: ``ROLE=FILE``, ``ROLE=GROUP`` or ``ROLE=none``, for one group with ``@GROUP``.
    exclude : str or sequence of str
        Frames to leave out: a file, or a condition such as ``exposure < 10 and filter == Ha``.
    force : bool
        Accept masters chosen by hand although they break what must be equal.
    drizzle : int, optional
        Scale of drizzle integrations beside the integrations, 1 to 4; 0 for none.

    Raises
    ------
    ConfigError
        If a path does not exist, `out` cannot be written or is one of `source`'s folders, or a configuration value
        is not known or out of its limits.
    RuleError
        If a file of the rules is wrong.
    """
    options = _run_options(memory_limit, workers, keep) | _libraries(library)
    options |= _decisions(group_by, merge, use, exclude, force, drizzle)
    knowledge, settings = _settings(rules, config, preset, set, options)
    _, made = _plan(source, out, knowledge, settings, previous, progress)
    _save_plan(made)
    return made


def forecast(plan: Plan) -> Forecast:
    """Return what a plan will cost on this machine: time by what earlier runs took, disk by what is free.

    ``plan.estimate`` holds the same by fixed rates, because the bytes of a plan must not depend on the machine.
    """
    from wbpy.config import cache_folder
    from wbpy.engine.speed import make_forecast

    return make_forecast(plan, cache_folder() / SPEEDS)


def compare(old: Plan | StrPath, new: Plan | StrPath) -> Comparison:
    """Return what changed from one plan to another, and why.

    Parameters
    ----------
    old, new : Plan or path
        Plans, or the paths of their ``plan.json``.

    Raises
    ------
    PlanError
        If a plan cannot be read.
    """
    from wbpy.comparing import compare_plans
    from wbpy.model import Plan
    from wbpy.planner import load_plan

    first, second = (one if isinstance(one, Plan) else load_plan(Path(one)) for one in (old, new))
    return compare_plans(first, second)


def run(
    source: Plan | Catalog | Paths,
    out: StrPath | None = None,
    *,
    rules: Paths = (),
    config: Paths = (),
    preset: str | None = None,
    set: str | Sequence[str] = (),
    memory_limit: str | None = None,
    workers: int | None = None,
    keep: str | Sequence[str] = (),
    library: Paths = (),
    group_by: str | Sequence[str] = (),
    merge: str | Sequence[str] = (),
    use: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    force: bool = False,
    drizzle: int | None = None,
    previous: Catalog | None = None,
    check_disk: bool | None = None,
    replan: bool = False,
    progress: Callable[[int, int], None] | None = None,
    listeners: Sequence[Listener] = (),
    cancel: threading.Event | None = None,
) -> Run:
    """Execute a plan and return the record of the run; products, logs and ``run.json`` are in the output folder.

    A reviewed plan, given as a value or as the path of its ``plan.json``, is executed exactly; only `memory_limit`
    and `workers`, which change no pixel, may still be given with it. Anything else is planned first.

    What the run took is added to the record in the user's cache folder that :func:`forecast` rests on.

    Parameters
    ----------
    source : Plan, Catalog, path or sequence of paths
        A plan, the path of a ``plan.json``, a catalog, or what :func:`scan` takes.
    out : path, optional
        Output folder; needed unless `source` is a plan, which names its own.
    rules, config, preset, set, memory_limit, workers, keep, library, group_by, merge, use, exclude, force, drizzle,
    previous, progress
        As for :func:`plan`.
    check_disk : bool, optional
        False: start although the disk would fill up by the plan's estimate.
    replan : bool
        Make a reviewed plan again from its own inputs and settings, and execute that; what changed is told to the
        listeners. Without it a plan whose inputs changed is refused.
    listeners : sequence of callable
        Each is called with every :class:`wbpy.Event` of the run, from the threads that work.
    cancel : threading.Event, optional
        Set it to stop the run; finished work is kept and the record's outcome is ``cancelled``.

    Raises
    ------
    ConfigError
        As for :func:`plan`, if options are given that a reviewed plan has already settled, and if the disk would
        fill up.
    PlanError
        If a saved plan cannot be read, or its inputs changed since it was made; they are named.
    RuleError
        If a file of the rules is wrong.
    """
    from wbpy.catalog import Catalog
    from wbpy.errors import ConfigError
    from wbpy.model import Plan
    from wbpy.planner import load_plan

    options = _run_options(memory_limit, workers, keep, check_disk)
    decisions = _decisions(group_by, merge, use, exclude, force, drizzle) | _libraries(library)
    if isinstance(source, Plan):
        reviewed: Plan | None = source
    else:
        file = _plan_file(source)
        reviewed = None if file is None else load_plan(file)
    if reviewed is not None:
        if _many(config) or preset is not None or _many(set) or "run.keep" in options or decisions:
            raise ConfigError(
                "a saved plan is executed as it was reviewed: --set, --config, --preset, --keep, --group-by, --merge, "
                "--drizzle, --use, --exclude and --library cannot change it. Make a new plan "
                "with these options, then run that"
            )
        if out is not None and Path(out).resolve() != Path(reviewed.out):
            raise ConfigError(
                f"the plan writes to {reviewed.out}, not to {Path(out).resolve()}. "
                f"Leave -o out, or make a new plan with -o {out}"
            )
        if replan:
            knowledge, made = _plan_again(reviewed, rules, options, previous, progress, listeners)
        else:
            _check_inputs(reviewed)
            knowledge, settings = _settings(rules, (), None, (), options)
            made = _with_run_settings(reviewed, settings, options)
        _make_folder(Path(made.out))
    else:
        assert not isinstance(source, Plan)
        if replan:
            raise ConfigError("--replan makes a saved plan again; paths are planned anew in any case. Leave it out")
        if not isinstance(source, Catalog):
            _existing(source)
        if out is None:
            raise ConfigError("an output folder is needed: give -o OUT")
        knowledge, settings = _settings(rules, config, preset, set, options | decisions)
        catalog, made = _plan(source, out, knowledge, settings, previous, progress)
        catalog.save(Path(made.out) / "catalog.sqlite")
    _save_plan(made)
    _check_disk(made)

    from wbpy.engine.execute import execute
    from wbpy.engine.speed import timed

    done, seconds = timed(lambda: execute(made, knowledge, listeners=listeners, cancel=cancel))
    _record(made, done, seconds, listeners)
    return done


def explain(target: StrPath, out: Plan | StrPath, *, rules: Paths = ()) -> Explanation:
    """Return why things are as they are for one file, group, step or finding of a plan.

    Parameters
    ----------
    target : str or path
        A file, a group id, a step id or a finding id.
    out : Plan or path
        A plan, or the output folder that holds ``plan.json`` and, after a run, ``run.json`` and the catalog.
    rules : path or sequence of paths
        As for :func:`scan`.

    Raises
    ------
    PlanError
        If the folder holds no plan that can be read.
    WbpyError
        If the target is not known; near matches are named.
    """
    from wbpy.errors import PlanError
    from wbpy.explaining import explain as find_reasons
    from wbpy.model import Plan
    from wbpy.planner import load_plan
    from wbpy.rules import load_rules

    knowledge = load_rules(_many(rules))
    path = Path(target)
    name = str(path.resolve()) if path.is_file() else str(target)
    if isinstance(out, Plan):
        return find_reasons(name, out, rules=knowledge)
    folder = Path(out)
    if not (folder / "plan.json").is_file():
        raise PlanError(f"{folder}: holds no plan.json. Make one first: wbpy plan PATH... -o {folder}")
    made = load_plan(folder / "plan.json")
    return find_reasons(name, made, run=_load_run(folder), catalog=_earlier_catalog(folder), rules=knowledge)


def inspect(
    paths: Paths,
    *,
    range: tuple[float, float] = (60000.0, 65535.0),
    pictures: StrPath | None = None,
    rules: Paths = (),
    config: Paths = (),
    preset: str | None = None,
    set: str | Sequence[str] = (),
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Inspection:
    """Return statistics, histograms, scales and findings of frames, without a plan.

    Parameters
    ----------
    paths : path or sequence of paths
        Folders and single files.
    range : (float, float), DN
        Pixels within are counted, both ends included.
    pictures : path, optional
        Folder for a contact sheet and a histogram of each frame, as PNG.
    rules, config, preset, set
        As for :func:`scan`.
    workers : int, optional
        Threads; 0 is one per core.
    progress : callable, optional
        Called with (frames done, frames in all).

    Raises
    ------
    ConfigError
        If a path does not exist or holds no image, a configuration value is wrong, or the range is empty.
    RuleError
        If a file of the rules is wrong.
    """
    from wbpy.errors import ConfigError
    from wbpy.inspecting import inspect as look

    if not range[0] <= range[1]:
        raise ConfigError(f"the range from {range[0]:g} to {range[1]:g} DN is empty; give the lower end first")
    knowledge, settings = _settings(rules, config, preset, set, _run_options(None, workers, ()))
    catalog = _scan(_existing(paths), knowledge, settings, None, None)
    folder = None if pictures is None else Path(pictures)
    if folder is not None:
        _make_folder(folder)
    threads = settings.params("run")["workers"].value
    return look(catalog, knowledge, range_dn=range, pictures=folder, workers=threads, on_progress=progress)


def inspect_stars(
    paths: Paths,
    *,
    at: Sequence[tuple[float, float]] = (),
    pictures: StrPath | None = None,
    rules: Paths = (),
    config: Paths = (),
    preset: str | None = None,
    set: str | Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> StarInspection:
    """Return radial profiles and curves of growth of some stars of frames, without a plan.

    Parameters
    ----------
    paths : path or sequence of paths
        Folders and single files.
    at : sequence of (float, float), px
        Show the stars nearest to these points; by default bright ones from all parts of the frame.
    pictures : path, optional
        Folder for a picture of the curves of each frame, as PNG.
    rules, config, preset, set
        As for :func:`scan`.
    progress : callable, optional
        Called with (frames done, frames in all).

    Raises
    ------
    ConfigError
        If a path does not exist or holds no image, or a configuration value is wrong.
    RuleError
        If a file of the rules is wrong.
    """
    from wbpy.star_profiles import inspect_stars as look

    knowledge, settings = _settings(rules, config, preset, set, _run_options(None, None, ()))
    catalog = _scan(_existing(paths), knowledge, settings, None, None)
    folder = None if pictures is None else Path(pictures)
    if folder is not None:
        _make_folder(folder)
    return look(catalog, at=at, pictures=folder, on_progress=progress)


def _many(paths: Any) -> tuple[Any, ...]:
    """Return one value or a sequence of values as a tuple."""
    return (paths,) if isinstance(paths, str | os.PathLike) else tuple(paths)


def _stages() -> tuple[Stage, ...]:
    from wbpy.stages import STAGES

    return STAGES


def _settings(
    rules: Paths,
    config: Paths,
    preset: str | None,
    sets: str | Sequence[str],
    options: Mapping[str, Any],
    given: Mapping[str, Param] | None = None,
) -> tuple[Rules, Config]:
    from wbpy.config import RunSettings, load_config, memory_limit_bytes, store_limit_bytes
    from wbpy.rules import load_rules

    knowledge = load_rules([Path(folder) for folder in _many(rules)])
    settings = load_config(
        knowledge,
        {stage.name: stage.params for stage in _stages()},
        given=given,
        preset=preset,
        files=[Path(file) for file in _many(config)],
        options=options,
        sets=_many(sets),
    )
    run = settings.section("run", RunSettings)
    memory_limit_bytes(run.memory_limit)
    store_limit_bytes(run.store_limit)
    return knowledge, settings


def _run_options(
    memory_limit: str | None, workers: int | None, keep: str | Sequence[str], check_disk: bool | None = None
) -> dict[str, Any]:
    given = {
        "run.memory_limit": memory_limit,
        "run.workers": workers,
        "run.keep": list(_many(keep)) or None,
        "run.check_disk": check_disk,
    }
    return {name: value for name, value in given.items() if value is not None}


def _libraries(library: Paths) -> dict[str, Any]:
    folders = [str(Path(folder).expanduser().resolve()) for folder in _many(library)]
    return {"scan.library": folders} if folders else {}


def _decisions(
    group_by: str | Sequence[str],
    merge: str | Sequence[str],
    use: str | Sequence[str],
    exclude: str | Sequence[str],
    force: bool,
    drizzle: int | None,
) -> dict[str, Any]:
    given = {"group.by": group_by, "group.merge": merge, "pins.use": use, "pins.exclude": exclude}
    options: dict[str, Any] = {name: list(_many(value)) for name, value in given.items() if _many(value)}
    if force:
        options["pins.force"] = True
    if drizzle is not None:
        options["drizzle.use"] = drizzle > 0
    if drizzle:
        options["drizzle.scale"] = drizzle
    return options


def _pinned_files(settings: Config) -> tuple[Path, ...]:
    """Return the files that pins name as masters: they are read although they lie elsewhere."""
    from wbpy.config import PinSettings

    targets = [entry.partition("=")[2].strip() for entry in settings.section("pins", PinSettings).use]
    paths = [Path(name) for target in targets for name in (target, target.rpartition("@")[0]) if name]
    return tuple(path for path in paths if path.is_file())


def _existing(paths: Paths) -> tuple[Path, ...]:
    from wbpy.errors import ConfigError

    found = tuple(Path(path) for path in _many(paths))
    if not found:
        raise ConfigError("no path was given: name the folders or files to read")
    for path in found:
        if not path.exists():
            raise ConfigError(
                f"{path}: no such file or folder. Check the spelling, and the current folder: {Path.cwd()}"
            )
    return found


def _scan(
    paths: Sequence[Path],
    knowledge: Rules,
    settings: Config,
    previous: Catalog | None,
    progress: Callable[[int, int], None] | None,
) -> Catalog:
    import msgspec

    from wbpy.config import GroupSettings, ScanSettings, cache_folder
    from wbpy.errors import ConfigError
    from wbpy.grouping import user_keywords
    from wbpy.scanning.scanner import scan as read_frames

    reading = settings.section("scan", ScanSettings)
    wanted = tuple(dict.fromkeys((*reading.keywords, *user_keywords(settings.section("group", GroupSettings)))))
    reading = msgspec.structs.replace(reading, keywords=wanted)
    catalog = read_frames(paths, knowledge, reading, previous=previous, on_progress=progress, cache=cache_folder())
    if not catalog.frames and not catalog.held_back:
        names = ", ".join(str(path) for path in paths)
        notes = "".join(f". {finding.message}" for finding in catalog.findings[:3])
        raise ConfigError(
            f"{names}: no image files were found; wbpy reads FITS (.fits, .fit, .fts, also .gz and .fz), XISF and "
            f"the raw files of photo cameras{notes}"
        )
    return catalog


def _plan(
    source: Catalog | Paths,
    out: StrPath,
    knowledge: Rules,
    settings: Config,
    previous: Catalog | None,
    progress: Callable[[int, int], None] | None,
) -> tuple[Catalog, Plan]:
    import msgspec

    from wbpy.catalog import Catalog
    from wbpy.errors import ConfigError
    from wbpy.planner import make_plan

    folder = Path(out).resolve()
    inputs: tuple[str, ...] = ()
    if isinstance(source, Catalog):
        _make_folder(folder)
        catalog = source
    else:
        paths = _existing(source)
        if any(path.resolve() == folder for path in paths):
            raise ConfigError(
                f"-o {out}: this is also a folder to read from, and results must not mix with inputs. "
                f"Choose a folder of its own, such as {folder / 'wbpy'}"
            )
        _make_folder(folder)
        inputs = tuple(sorted({str(path.resolve()) for path in paths}))
        catalog = _scan(
            (*paths, *_pinned_files(settings)), knowledge, settings, previous or _earlier_catalog(folder), progress
        )
    made = make_plan(catalog, folder, knowledge, settings, _stages())
    return catalog, msgspec.structs.replace(made, inputs=inputs, given=settings.given())


def _make_folder(folder: Path) -> None:
    from wbpy.errors import ConfigError

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"-o {folder}: the output folder cannot be made: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"-o {folder}: the output folder cannot be written to. Choose another, or change its rights")


def _save_plan(made: Plan) -> None:
    from wbpy.io.products import write_atomic
    from wbpy.model import encode
    from wbpy.reporting.plan_page import plan_page

    write_atomic(Path(made.out) / "plan.json", encode(made))
    # Names of files may hold bytes that are no text: shown as escapes, as on the terminal.
    write_atomic(Path(made.out) / "plan.html", plan_page(made, forecast(made)).encode("utf-8", "backslashreplace"))


def _plan_file(source: object) -> Path | None:
    """Return the path of a saved plan, or None when `source` is something else."""
    from wbpy.errors import ConfigError

    if not isinstance(source, str | os.PathLike | Sequence):
        return None
    paths = [Path(path) for path in _many(source)]
    files = [path for path in paths if path.suffix.lower() == ".json"]
    if files and len(paths) > 1:
        raise ConfigError(f"{files[0]}: a saved plan stands alone; give either one plan.json or paths to plan for")
    return _existing(files[0])[0] if files else None


def _check_inputs(reviewed: Plan) -> None:
    from wbpy.errors import PlanError
    from wbpy.planner import check_inputs

    changed = check_inputs(reviewed)
    if changed:
        shown = "\n".join(f"  {path}{'' if os.path.exists(path) else ' (gone)'}" for path in changed[:20])
        more = f"\n  and {len(changed) - 20} more" if len(changed) > 20 else ""
        raise PlanError(
            f"{len(changed)} of the plan's {len(reviewed.frames)} input files changed or vanished since it was made:\n"
            f"{shown}{more}\nMake the plan again with wbpy plan, review it, then run it; or add --replan, which "
            f"does both at once"
        )


def _plan_again(
    reviewed: Plan,
    rules: Paths,
    options: Mapping[str, Any],
    previous: Catalog | None,
    progress: Callable[[int, int], None] | None,
    listeners: Sequence[Listener],
) -> tuple[Rules, Plan]:
    """Return rules and the plan that the inputs and settings of an earlier one give now; tell what changed."""
    from wbpy.comparing import compare_plans
    from wbpy.engine.events import Event
    from wbpy.errors import PlanError
    from wbpy.reporting.wording import comparison_summary

    if not reviewed.inputs:
        raise PlanError("this plan was made of a catalog and does not say which folders to read. Make a new plan")
    knowledge, settings = _settings(rules, (), None, (), options, reviewed.given)
    catalog, made = _plan(reviewed.inputs, reviewed.out, knowledge, settings, previous, progress)
    catalog.save(Path(made.out) / "catalog.sqlite")
    summary = comparison_summary(compare_plans(reviewed, made))
    for listener in listeners:
        listener(Event(kind="message", seconds=0.0, message=f"Planned again: {summary}"))
    return knowledge, made


def _check_disk(made: Plan) -> None:
    """Refuse a plan that would fill the disk."""
    from wbpy.engine.speed import checks_disk
    from wbpy.errors import ConfigError
    from wbpy.reporting.wording import size

    expected = forecast(made)
    if expected.short and expected.disk_free is not None and checks_disk(made):
        raise ConfigError(
            f"{made.out}: the disk has {size(expected.disk_free)} free, and the run would write about "
            f"{size(expected.disk_needed)}. Free some space, choose another disk with -o, keep fewer frames, or start "
            f"all the same with --force-disk"
        )


def _record(made: Plan, done: Run, seconds: float, listeners: Sequence[Listener]) -> None:
    """Keep what the run took for later forecasts; a cache folder that cannot be written does not spoil a run."""
    from wbpy.config import cache_folder
    from wbpy.engine.events import Event
    from wbpy.engine.speed import record_run

    file = cache_folder() / SPEEDS
    try:
        record_run(file, made, done, seconds)
    except OSError as error:
        for listener in listeners:
            listener(Event(kind="message", seconds=seconds, message=f"{file}: what the run took is not kept: {error}"))


def _with_run_settings(reviewed: Plan, settings: Config, options: Mapping[str, Any]) -> Plan:
    """Return the plan with memory limit and workers replaced where options give them."""
    import msgspec

    given = settings.params("run")
    names = [dotted.partition(".")[2] for dotted in options]
    replaced = {**reviewed.settings.get("run", {}), **{name: given[name] for name in names}}
    return msgspec.structs.replace(reviewed, settings={**reviewed.settings, "run": replaced}) if names else reviewed


def _load_run(folder: Path) -> Run | None:
    import msgspec

    from wbpy.errors import PlanError
    from wbpy.model import Run

    file = folder / "run.json"
    if not file.is_file():
        return None
    try:
        return msgspec.json.decode(file.read_bytes(), type=Run)
    except (OSError, msgspec.DecodeError) as error:
        raise PlanError(f"{file}: cannot be read as the record of a run: {error}") from error


def _earlier_catalog(folder: Path) -> Catalog | None:
    """Return the catalog that an earlier run left, or None when there is none that this version can read."""
    from wbpy.catalog import Catalog
    from wbpy.errors import ReadError

    file = folder / "catalog.sqlite"
    try:
        return Catalog.load(file) if file.is_file() else None
    except ReadError:
        # Reading all headers again costs time only.
        return None
