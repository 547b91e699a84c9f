"""The command line: arguments in, one of the functions of :mod:`wbpy`, report and exit code out.

Exit codes: 0 clean, 1 finished with error-level findings, 2 usage or configuration, 3 steps failed, 130 stopped by
Ctrl-C.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from wbpy.errors import Cancelled, ConfigError, WbpyError

if TYPE_CHECKING:
    from types import FrameType

    from wbpy import Catalog
    from wbpy.model import Finding, Run

CLEAN, FOUND_ERRORS, WRONG_USE, STEPS_FAILED, INTERRUPTED = 0, 1, 2, 3, 130

GO_ON = "Stopped. To go on, run the same command again: finished work is kept."

Command = TypeVar("Command", bound=Callable[..., Any])


class _Commands(click.Group):
    """The commands; a first argument that is none of them stands for the paths of ``run``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args:
            args = ["--help"]
        elif args[0] not in self.commands and args[0] not in ("--help", "-h", "--version"):
            if not args[0].startswith("-") and not Path(args[0]).exists():
                ctx.fail(
                    f"{args[0]}: no such file or folder, and no command. The commands are {', '.join(self.commands)}; "
                    f"the current folder is {Path.cwd()}."
                )
            args = ["run", *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


def _show_version(ctx: click.Context, _param: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        import wbpy

        click.echo(f"wbpy {wbpy.__version__}")
        ctx.exit()


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="wbpy PATH... -o OUT is short for wbpy run PATH... -o OUT.",
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version."
)
def wbpy_command() -> None:
    """Turn folders of astronomical frames into calibrated, registered, integrated masters, and say why."""


def _together(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_paths = click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=click.Path(path_type=Path))

_presentation = _together(
    click.option("--json", "as_json", is_flag=True, help="Write JSON to standard output, and nothing else there."),
    click.option("-q", "--quiet", count=True, help="Only errors and the closing line."),
    click.option("-v", "--verbose", count=True, help="Also all candidates, parameters and notes."),
)

_rules = click.option(
    "--rules",
    multiple=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Rules that overlay the built-in ones.",
)

_configuration = _together(
    click.option("--set", "sets", multiple=True, metavar="SECTION.NAME=VALUE", help="Set one parameter."),
    click.option(
        "--config", multiple=True, metavar="FILE", type=click.Path(path_type=Path), help="Read parameters from TOML."
    ),
    click.option("--preset", metavar="NAME", help="Start from a named set of parameters."),
    _rules,
    click.option(
        "--library",
        multiple=True,
        metavar="DIR",
        type=click.Path(path_type=Path),
        help="Calibration frames that serve all projects.",
    ),
    click.option("--memory-limit", metavar="SIZE", help="Memory that a run may use, such as 8GB."),
    click.option("--workers", type=int, metavar="N", help="Threads of a run; 0 is one per core."),
    click.option(
        "--keep",
        metavar="WHAT,...",
        help="Frames that a run also writes: calibrated, cosmetic, debayered, registered.",
    ),
)

_choices = _together(
    click.option(
        "--group-by",
        multiple=True,
        metavar="NAME,...",
        help="Split integrations by columns or keywords; other groups by KIND:NAME.",
    ),
    click.option("--merge", multiple=True, metavar="NAME,...", help="What does not split integrations."),
    click.option(
        "--use",
        multiple=True,
        metavar="ROLE=MASTER[@GROUP]",
        help="Take this file or group as master, or none, for one group or all.",
    ),
    click.option("--no-dark", is_flag=True, help="Short for --use dark=none."),
    click.option(
        "--exclude",
        multiple=True,
        metavar="FILE|CONDITION",
        help="Leave frames out, such as 'exposure < 10 and filter == Ha'.",
    ),
    click.option("--force", is_flag=True, help="Take masters of --use that break what must be equal."),
    click.option(
        "--drizzle", type=click.IntRange(0, 4), metavar="SCALE", help="Also drizzle the lights, 1 to 4 times finer."
    ),
)


def _choices_of(options: dict[str, Any]) -> dict[str, Any]:
    """Return the API's arguments for what is grouped, matched and drizzled by hand."""

    def names(texts: tuple[str, ...]) -> list[str]:
        return [name.strip() for text in texts for name in text.split(",") if name.strip()]

    return {
        "group_by": names(options["group_by"]),
        "merge": names(options["merge"]),
        "use": [*options["use"], *(["dark=none"] if options["no_dark"] else [])],
        "exclude": options["exclude"],
        "force": options["force"],
        "drizzle": options["drizzle"],
    }


def _config_of(options: dict[str, Any]) -> dict[str, Any]:
    """Return the API's arguments from the command-line options that all commands share."""
    keep = options["keep"]
    return {
        "set": options["sets"],
        "config": options["config"],
        "preset": options["preset"],
        "rules": options["rules"],
        "library": options["library"],
        "memory_limit": options["memory_limit"],
        "workers": options["workers"],
        "keep": [part.strip() for part in keep.split(",") if part.strip()] if keep is not None else (),
    }


@wbpy_command.command(short_help="Index every frame and print a summary.")
@_paths
@click.option("-o", "--out", metavar="OUT", type=click.Path(path_type=Path), help="Save the catalog in this folder.")
@click.option(
    "--dump-headers",
    metavar="DIR|FILE.txt",
    type=click.Path(path_type=Path),
    help="Write headers that can be sent in, one of each kind.",
)
@_configuration
@_presentation
def scan(paths: tuple[Path, ...], out: Path | None, dump_headers: Path | None, **options: Any) -> int:
    """Index every frame and print a summary by role, filter, exposure and night.

    The catalog is saved in OUT, or in your cache folder, so that the next scan reads only new and changed files.
    """
    import wbpy
    from wbpy.reporting.progress import Display
    from wbpy.reporting.terminal import make_console, show_scan

    verbosity = _verbosity(options)
    file = _catalog_file(paths, out)
    with Display(verbosity) as display:
        catalog = wbpy.scan(paths, **_config_of(options), previous=_earlier(file), progress=display.reading)
    saved = _save_catalog(catalog, file, chosen=out is not None)
    if dump_headers is not None:
        written = wbpy.dump_headers(catalog, dump_headers, rules=options["rules"])
        click.echo(f"Headers to send in: {', '.join(str(path) for path in written) or 'none could be read'}", err=True)
    if options["as_json"]:
        _write_json(catalog.to_json())
    else:
        show_scan(make_console(), catalog, saved, verbosity)
    return _code(catalog.findings)


@wbpy_command.command(short_help="Print what a run would do and why; save it for review.")
@_paths
@click.option(
    "-o",
    "--out",
    metavar="OUT",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder for the plan and the run.",
)
@click.option(
    "--diff",
    metavar="OLD.json",
    type=click.Path(path_type=Path),
    help="Show what changed against an earlier plan, and why.",
)
@_configuration
@_choices
@_presentation
def plan(paths: tuple[Path, ...], out: Path, diff: Path | None, **options: Any) -> int:
    """Print the ordered plan with its reasons and save it as OUT/plan.json and, to read, as OUT/plan.html.

    Nothing is computed and nothing else is written. Run it unchanged with: wbpy run OUT/plan.json
    """
    import wbpy
    from wbpy.reporting.progress import Display
    from wbpy.reporting.terminal import make_console, show_comparison, show_plan

    verbosity = _verbosity(options)
    # Read before the new plan is made: it may be the very file that the new plan replaces.
    earlier = None if diff is None else wbpy.load_plan(diff)
    with Display(verbosity) as display:
        made = wbpy.plan(paths, out, **_config_of(options), **_choices_of(options), progress=display.reading)
    if earlier is not None:
        changes = wbpy.compare(earlier, made)
        if options["as_json"]:
            _write_json(changes)
        else:
            show_comparison(make_console(), changes, made, verbosity)
    elif options["as_json"]:
        _write_json(made)
    else:
        show_plan(make_console(), made, verbosity, wbpy.forecast(made))
    return _code(made.findings)


@wbpy_command.command(short_help="Plan and execute, or execute a reviewed plan.json.")
@_paths
@click.option(
    "-o", "--out", metavar="OUT", type=click.Path(path_type=Path), help="Folder for the results; not with a plan.json."
)
@click.option("--replan", is_flag=True, help="Make a saved plan again, from its inputs as they are now, and run that.")
@click.option("--force-disk", is_flag=True, help="Start although the disk would fill up.")
@_configuration
@_choices
@_presentation
def run(paths: tuple[Path, ...], out: Path | None, replan: bool, force_disk: bool, **options: Any) -> int:
    """Plan and execute, or execute exactly the reviewed plan.json.

    Run it again after an interruption: finished work is kept, only the rest is computed.
    """
    import wbpy
    from wbpy.reporting.progress import Display
    from wbpy.reporting.terminal import make_console, show_run

    verbosity = _verbosity(options)
    with _interruptible() as cancel, Display(verbosity) as display:
        done = wbpy.run(
            paths,
            out,
            **_config_of(options),
            **_choices_of(options),
            check_disk=False if force_disk else None,
            replan=replan,
            progress=display.reading,
            listeners=(display,),
            cancel=cancel,
        )
    if options["as_json"]:
        _write_json(done)
    else:
        show_run(make_console(), done, verbosity)
    if done.outcome == "cancelled":
        click.echo(GO_ON, err=True)
    return _run_code(done)


@wbpy_command.command(short_help="Say why, for one file, group, step or finding.")
@click.argument("target")
@click.option(
    "-o", "--out", metavar="OUT", required=True, type=click.Path(path_type=Path), help="Folder of the plan and the run."
)
@_rules
@_presentation
def explain(target: str, out: Path, rules: tuple[Path, ...], **options: Any) -> int:
    """Say why: this master, not that one, this group, this step again.

    TARGET is a file, a group, a step or a finding, as the plan names them.
    """
    import wbpy

    explanation = wbpy.explain(target, out, rules=rules)
    if options["as_json"]:
        _write_json(explanation)
    else:
        click.echo(explanation.text(), nl=False)
    return CLEAN


@wbpy_command.command(short_help="Show statistics, histograms and pictures of frames.")
@_paths
@click.option("-o", "--out", metavar="DIR", type=click.Path(path_type=Path), help="Write pictures into this folder.")
@click.option("--csv", "table", metavar="FILE", type=click.Path(path_type=Path), help="Write the statistics as CSV.")
@click.option(
    "--range",
    "bounds",
    nargs=2,
    type=float,
    default=(60000.0, 65535.0),
    metavar="LOW HIGH",
    help="Count the pixels from LOW to HIGH DN; 60000 to 65535 if not given.",
)
@click.option("--stars", is_flag=True, help="Show radial profiles and curves of growth of some stars instead.")
@click.option(
    "--at", nargs=2, type=float, multiple=True, metavar="X Y", help="With --stars: the star nearest to this pixel."
)
@_rules
@click.option("--workers", type=int, metavar="N", help="Threads; 0 is one per core.")
@_presentation
def inspect(
    paths: tuple[Path, ...],
    out: Path | None,
    table: Path | None,
    bounds: tuple[float, float],
    stars: bool,
    at: tuple[tuple[float, float], ...],
    rules: tuple[Path, ...],
    workers: int | None,
    **options: Any,
) -> int:
    """Show what the pixels of frames say, without a plan.

    Mean, median, deviation, lowest and highest value of each frame and colour, pixels at zero and in a range, levels,
    bit scale, saturation, histograms, and the findings that apply. With -o also a contact sheet of stretched
    thumbnails and histograms as PNG.
    """
    import wbpy
    from wbpy.reporting.inspect_view import show_inspection
    from wbpy.reporting.progress import Display
    from wbpy.reporting.terminal import make_console

    verbosity = _verbosity(options)
    if stars or at:
        from wbpy.reporting.stars_view import show_stars

        with Display(verbosity) as display:
            seen = wbpy.inspect_stars(paths, at=at, pictures=out, rules=rules, progress=display.reading)
        _write_table(table, seen.csv)
        if options["as_json"]:
            _write_json(seen)
        else:
            show_stars(make_console(), seen, verbosity)
        return CLEAN
    with Display(verbosity) as display:
        inspection = wbpy.inspect(
            paths, range=bounds, pictures=out, rules=rules, workers=workers, progress=display.reading
        )
    _write_table(table, inspection.csv)
    if options["as_json"]:
        _write_json(inspection)
    else:
        show_inspection(make_console(), inspection, verbosity)
    return _code(inspection.findings)


def _write_table(path: Path | None, content: Callable[[], str]) -> None:
    """Write the table of an inspection where that was asked for."""
    if path is None:
        return
    try:
        path.write_text(content(), encoding="utf-8", newline="")
    except OSError as error:
        raise ConfigError(f"--csv {path}: the table cannot be written: {error.strerror}") from error


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit code.

    Parameters
    ----------
    arguments : sequence of str, optional
        Instead of those of the process.
    """
    for stream in (sys.stdout, sys.stderr):
        # A file name that the terminal's encoding cannot show must not end a run.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(_answer(arguments))


def _answer(arguments: Sequence[str] | None) -> int:
    try:
        code = wbpy_command.main(args=arguments, prog_name="wbpy", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return WRONG_USE
    except (KeyboardInterrupt, click.Abort, Cancelled):
        click.echo(GO_ON, err=True)
        return INTERRUPTED
    except WbpyError as error:
        click.echo(f"Error: {error}", err=True)
        return WRONG_USE
    except BrokenPipeError:
        # The reader of a pipe, such as head, has seen enough; nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FOUND_ERRORS
    return int(code or CLEAN)


@contextlib.contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C sets; the second one interrupts at once."""
    cancel = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        click.echo("Stopping after the work under way. Press Ctrl-C again to stop at once.", err=True)
        cancel.set()

    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread():
        yield cancel
        return
    signal.signal(signal.SIGINT, stop)
    try:
        yield cancel
    finally:
        signal.signal(signal.SIGINT, before)


def _verbosity(options: dict[str, Any]) -> int:
    return int(options["verbose"]) - int(options["quiet"])


def _write_json(content: Any) -> None:
    """Write a value to standard output as JSON in UTF-8, whatever the encoding of the terminal."""
    import msgspec

    stream = sys.stdout.buffer
    stream.write(msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n")
    stream.flush()


def _code(findings: Sequence[Finding]) -> int:
    return FOUND_ERRORS if any(finding.severity == "error" for finding in findings) else CLEAN


def _run_code(done: Run) -> int:
    if done.outcome == "cancelled":
        return INTERRUPTED
    if done.outcome in ("failed", "blocked") or any(step.outcome in ("failed", "blocked") for step in done.steps):
        return STEPS_FAILED
    return FOUND_ERRORS if done.outcome == "partial" else _code(done.findings)


def _catalog_file(paths: Sequence[Path], out: Path | None) -> Path:
    """Return where the catalog of `paths` is kept: in `out`, or under a name made of the paths in the cache folder."""
    if out is not None:
        return out / "catalog.sqlite"
    import hashlib

    from wbpy.config import cache_folder

    names = "\n".join(sorted({str(path.resolve()) for path in paths}))
    return (
        cache_folder() / f"catalog-{hashlib.sha256(names.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}.sqlite"
    )


def _earlier(file: Path) -> Catalog | None:
    """Return the catalog of an earlier scan, or None when there is none that this version can read."""
    import wbpy

    try:
        return wbpy.Catalog.load(file) if file.is_file() else None
    except WbpyError:
        # It is a cache: scanning again costs time only.
        return None


def _save_catalog(catalog: Catalog, file: Path, *, chosen: bool) -> Path | None:
    """Save the catalog and return where; a cache folder that cannot be written does not spoil a scan."""
    import sqlite3

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        catalog.save(file)
    except (OSError, sqlite3.Error) as error:
        if chosen:
            raise ConfigError(f"-o {file.parent}: the catalog cannot be saved: {error}") from error
        click.echo(f"The catalog was not saved, the next scan reads all files again: {error}", err=True)
        return None
    return file
