"""The command line: arguments, exit codes, what goes to standard output and what to standard error."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import click
import pytest

import wbpy
from wbpy import cli, config
from wbpy.errors import ConfigError, PlanError
from wbpy.model import Estimate, Finding, Plan, Run, StepResult

ROOT = Path(__file__).parents[2]
HEAVY = {"numpy", "pandas", "astropy", "numba", "rich", "scipy", "llvmlite", "PIL", "msgspec"}


def note(severity: str) -> Finding:
    return Finding(id="MAT009", severity=severity, subject="s", message="something was found", remedy="Do it.")


def make_plan(*findings: Finding) -> Plan:
    return Plan(
        schema=1,
        wbpy="0",
        out="/out",
        frames=(),
        groups=(),
        matches=(),
        steps=(),
        held_back=(),
        findings=findings,
        settings={},
        estimate=Estimate(bytes_read=0, bytes_written=0, peak_memory=0, seconds=0.0),
    )


def make_run(outcome: str, *findings: Finding, steps: tuple[StepResult, ...] = ()) -> Run:
    return Run(
        outcome=outcome,
        products=(),
        frames=(),
        steps=steps,
        findings=findings,
        timings={},
        versions={},
        log="/out/logs/x.log",
    )


class Calls(list):
    """Records the arguments of a replaced function and answers with a value or an exception."""

    def answer(self, value: object):
        def function(*args: object, **kwargs: object) -> object:
            self.append((args, kwargs))
            if isinstance(value, BaseException):
                raise value
            return value

        return function


@pytest.fixture
def calls() -> Calls:
    return Calls()


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    written = capsys.readouterr()
    return left.value.code, written.out, written.err


def python(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=False, **options
    )


def test_help_loads_no_heavy_module():
    shown = python("-X", "importtime", "-m", "wbpy", "--help")
    assert shown.returncode == 0
    assert "explain" in shown.stdout
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in shown.stderr.splitlines() if "|" in line}
    assert "click" in loaded, "the list of imports was not understood"
    assert not loaded & HEAVY


def test_importing_the_package_loads_no_heavy_module():
    shown = python("-c", "import wbpy, sys; print(*{name.partition('.')[0] for name in sys.modules})")
    assert not set(shown.stdout.split()) & HEAVY


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]):
    code, out, _ = call(capsys, *arguments)
    assert code == 0
    assert re.findall(r"^  (\w+)  ", out.partition("Commands:")[2], re.MULTILINE) == [
        "scan",
        "plan",
        "run",
        "explain",
        "inspect",
    ]


@pytest.mark.parametrize("command", ["scan", "plan", "run"])
def test_common_options_stand_in_the_help_of_each_command(capsys: pytest.CaptureFixture[str], command: str):
    _, out, _ = call(capsys, command, "--help")
    for option in ("--json", "--set", "--config", "--preset", "--rules", "--memory-limit", "--workers", "--keep"):
        assert option in out
    assert "-q" in out
    assert "-v" in out


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]):
    assert call(capsys, "--version")[:2] == (0, f"wbpy {wbpy.__version__}\n")


def test_options_reach_the_function(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], calls: Calls):
    monkeypatch.setattr(wbpy, "plan", calls.answer(make_plan()))
    options = ["--set", "a.b=1", "--set", "c.d=2", "--config", "x.toml", "--preset", "ccd", "--rules", "mine"]
    options += ["--memory-limit", "8GB", "--workers", "3", "--keep", "calibrated, registered"]
    code, _, _ = call(capsys, "plan", "night", "more", "-o", "out", *options)
    assert code == 0
    [(args, kwargs)] = calls
    assert args == ((Path("night"), Path("more")), Path("out"))
    kwargs.pop("progress")
    common = {
        "set": ("a.b=1", "c.d=2"),
        "config": (Path("x.toml"),),
        "preset": "ccd",
        "rules": (Path("mine"),),
        "memory_limit": "8GB",
        "workers": 3,
        "keep": ["calibrated", "registered"],
    }
    assert {name: kwargs[name] for name in common} == common


@pytest.mark.parametrize("command", ["plan", "run"])
def test_choices_by_hand_reach_the_function(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], calls: Calls, command: str
):
    monkeypatch.setattr(wbpy, command, calls.answer(make_plan() if command == "plan" else make_run("done")))
    options = [
        "--group-by",
        "night, flat:SESSION",
        "--group-by",
        "PANEL",
        "--merge",
        "exposure",
        "--no-dark",
        "--force",
        "--drizzle=2",
    ]
    options += ["--use", "flat=f.fits@light-*", "--exclude", "exposure < 10", "--exclude", "a,b.fits"]
    assert call(capsys, command, "night", "-o", "out", *options)[0] == 0
    [(_, kwargs)] = calls
    assert {name: kwargs[name] for name in ("group_by", "merge", "use", "exclude", "force", "drizzle")} == {
        "group_by": ["night", "flat:SESSION", "PANEL"],
        "merge": ["exposure"],
        "use": ["flat=f.fits@light-*", "dark=none"],
        "exclude": ("exposure < 10", "a,b.fits"),
        "force": True,
        "drizzle": 2,
    }


@pytest.mark.parametrize("arguments", [("night", "-o", "out"), ("-o", "out", "night"), ("run", "night", "-o", "out")])
def test_a_path_instead_of_a_command_means_run(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    calls: Calls,
    tmp_path: Path,
    arguments: tuple[str, ...],
):
    monkeypatch.setattr(wbpy, "run", calls.answer(make_run("done")))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "night").mkdir()
    assert call(capsys, *arguments)[0] == 0
    assert calls[0][0] == ((Path("night"),), Path("out"))


def test_a_word_that_is_neither_command_nor_path_is_refused(capsys: pytest.CaptureFixture[str]):
    code, _, err = call(capsys, "scna", "-o", "out")
    assert code == 2
    assert "scna: no such file or folder, and no command. The commands are scan, plan, run, explain" in err


FAILED_STEP = StepResult(id="integrate/i", outcome="failed", seconds=0.1, why="the disk is full")


@pytest.mark.parametrize(
    ("run", "code"),
    [
        (make_run("done"), 0),
        (make_run("reused"), 0),
        (make_run("done", note("warning")), 0),
        (make_run("done", note("error")), 1),
        (make_run("partial", note("error")), 1),
        (make_run("partial"), 1),
        (make_run("partial", note("error"), steps=(FAILED_STEP,)), 3),
        (make_run("failed", steps=(FAILED_STEP,)), 3),
        (make_run("cancelled"), 130),
    ],
)
def test_exit_code_of_a_run_tells_how_it_ended(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], calls: Calls, run: Run, code: int
):
    monkeypatch.setattr(wbpy, "run", calls.answer(run))
    assert call(capsys, "run", "night", "-o", "out")[0] == code


@pytest.mark.parametrize(("severity", "code"), [("info", 0), ("warning", 0), ("error", 1)])
def test_exit_code_of_a_plan_tells_about_errors(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], calls: Calls, severity: str, code: int
):
    monkeypatch.setattr(wbpy, "plan", calls.answer(make_plan(note(severity))))
    assert call(capsys, "plan", "night", "-o", "out")[0] == code


@pytest.mark.parametrize("error", [ConfigError("--set a.b=1: no section"), PlanError("2 input files changed")])
def test_wrong_configuration_is_a_message_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], calls: Calls, error: Exception
):
    monkeypatch.setattr(wbpy, "plan", calls.answer(error))
    code, out, err = call(capsys, "plan", "night", "-o", "out")
    assert (code, out) == (2, "")
    assert err == f"Error: {error}\n"


@pytest.mark.parametrize(
    "arguments", [("plan", "night"), ("scan",), ("plan", "x", "-o", "y", "--speed"), ("explain", "x")]
)
def test_wrong_arguments_are_exit_code_2_with_usage(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]):
    code, out, err = call(capsys, *arguments)
    assert (code, out) == (2, "")
    assert "Usage: wbpy" in err


def test_a_defect_ends_in_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], calls: Calls
):
    monkeypatch.setattr(wbpy, "plan", calls.answer(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        cli.main(["plan", "night", "-o", "out"])


def test_json_is_all_that_goes_to_standard_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], calls: Calls
):
    monkeypatch.setattr(wbpy, "plan", calls.answer(make_plan(note("warning"))))
    monkeypatch.setattr(wbpy, "run", calls.answer(make_run("done")))
    for command, key in (("plan", "estimate"), ("run", "outcome")):
        _, out, _ = call(capsys, command, "night", "-o", "out", "--json")
        assert key in json.loads(out)


def test_json_of_a_plan_is_the_saved_plan(
    monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes], calls: Calls
):
    from wbpy.model import encode

    made = make_plan(note("warning"))
    monkeypatch.setattr(wbpy, "plan", calls.answer(made))
    with pytest.raises(SystemExit):
        cli.main(["plan", "night", "-o", "out", "--json"])
    assert capsysbinary.readouterr().out == encode(made)


def test_interruption_while_reading_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], calls: Calls
):
    monkeypatch.setattr(wbpy, "plan", calls.answer(KeyboardInterrupt()))
    code, _, err = call(capsys, "plan", "night", "-o", "out")
    assert code == 130
    assert "run the same command again: finished work is kept" in err


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """The usual handling of SIGINT, which a shell takes away from what it starts in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_first_ctrl_c_asks_the_run_to_stop_and_the_second_stops_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ctrl_c: None
):
    seen = []

    def run(*_args: object, cancel: threading.Event, **_kwargs: object) -> Run:
        signal.raise_signal(signal.SIGINT)
        seen.append(cancel.is_set())
        return make_run("cancelled")

    monkeypatch.setattr(wbpy, "run", run)
    before = signal.getsignal(signal.SIGINT)
    code, _, err = call(capsys, "run", "night", "-o", "out")
    assert (code, seen) == (130, [True])
    assert "Stopping after the work under way" in err
    assert "run the same command again" in err
    assert signal.getsignal(signal.SIGINT) is before

    def stubborn(*_args: object, **_kwargs: object) -> Run:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the second Ctrl-C did not interrupt")

    monkeypatch.setattr(wbpy, "run", stubborn)
    assert call(capsys, "run", "night", "-o", "out")[0] == 130


def fake_catalog(tmp_path: Path, fails: bool = False) -> SimpleNamespace:
    def save(path: Path) -> None:
        if fails:
            raise PermissionError(13, "Permission denied")
        path.write_text("catalog")

    return SimpleNamespace(
        frames=(), held_back=(), findings=(), summary=list, save=save, to_json=lambda: {"frames": [], "findings": []}
    )


def test_scan_saves_the_catalog_in_the_cache_folder_under_a_name_made_of_the_paths(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], calls: Calls, tmp_path: Path
):
    monkeypatch.setattr(wbpy, "scan", calls.answer(fake_catalog(tmp_path)))
    monkeypatch.setattr(cli, "_earlier", lambda file: None)
    monkeypatch.setattr(config, "cache_folder", lambda: tmp_path / "cache")
    assert call(capsys, "scan", "a", "b")[0] == 0
    assert call(capsys, "scan", "b", "a")[0] == 0
    assert len(list((tmp_path / "cache").iterdir())) == 1
    code, out, _ = call(capsys, "scan", "a")
    assert code == 0
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert str(tmp_path / "cache") in out


def test_scan_saves_the_catalog_in_the_folder_that_is_given(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], calls: Calls, tmp_path: Path
):
    monkeypatch.setattr(wbpy, "scan", calls.answer(fake_catalog(tmp_path)))
    code, out, _ = call(capsys, "scan", "a", "-o", str(tmp_path / "out"), "--json")
    assert (code, json.loads(out)) == (0, {"frames": [], "findings": []})
    assert (tmp_path / "out" / "catalog.sqlite").is_file()


def test_scan_goes_on_when_the_cache_folder_cannot_be_written_but_not_when_a_folder_was_chosen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], calls: Calls, tmp_path: Path
):
    monkeypatch.setattr(wbpy, "scan", calls.answer(fake_catalog(tmp_path, fails=True)))
    monkeypatch.setattr(config, "cache_folder", lambda: tmp_path / "cache")
    code, _, err = call(capsys, "scan", "a")
    assert code == 0
    assert "The catalog was not saved" in err
    code, _, err = call(capsys, "scan", "a", "-o", str(tmp_path / "out"))
    assert code == 2
    assert str(tmp_path / "out") in err


@pytest.mark.parametrize(
    ("platform", "variable", "folder"),
    [("linux", "XDG_CACHE_HOME", "base/wbpy"), ("win32", "LOCALAPPDATA", "base/wbpy"), ("linux", None, ".cache/wbpy")]
    + [("darwin", None, "Library/Caches/wbpy"), ("win32", None, "AppData/Local/wbpy")],
)
def test_cache_folder_follows_the_platform(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, platform: str, variable: str | None, folder: str
):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    if variable:
        monkeypatch.setenv(variable, str(tmp_path / "base"))
    assert config.cache_folder() == tmp_path / folder


def test_explain_writes_text_or_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], calls: Calls):
    class Explained(Estimate, frozen=True, kw_only=True):
        def text(self) -> str:
            return "because\n"

    answer = Explained(bytes_read=1, bytes_written=0, peak_memory=0, seconds=0.0)
    monkeypatch.setattr(wbpy, "explain", calls.answer(answer))
    assert call(capsys, "explain", "MAT009", "-o", "out")[:2] == (0, "because\n")
    assert json.loads(call(capsys, "explain", "MAT009", "-o", "out", "--json")[1])["bytes_read"] == 1


@pytest.mark.skipif(sys.platform == "win32", reason="pipes close differently on Windows")
def test_a_reader_that_closes_the_pipe_gets_no_traceback():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "wbpy", "--help"],
        cwd=ROOT,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert "Traceback" not in done.stderr


def test_every_command_has_the_name_of_its_function():
    assert set(cli.wbpy_command.commands) <= set(wbpy.__all__)
    assert isinstance(cli.wbpy_command, click.Group)


def test_a_comparison_reads_the_earlier_plan_before_the_new_one_replaces_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    from wbpy.model import encode

    file = tmp_path / "plan.json"
    file.write_bytes(encode(make_plan(note("warning"))))

    def plan(*_args: object, **_kwargs: object) -> Plan:
        file.write_bytes(encode(make_plan()))
        return make_plan()

    monkeypatch.setattr(wbpy, "plan", plan)
    code, out, _ = call(capsys, "plan", "night", "-o", str(tmp_path), "--diff", str(file), "--json")
    assert code == 0
    [change] = json.loads(out)["changes"]
    assert (change["action"], change["subject"], change["before"]) == ("removed", "MAT009 s", "warning")
    file.write_bytes(encode(make_plan(note("warning"))))
    _, out, _ = call(capsys, "plan", "night", "-o", str(tmp_path), "--diff", str(file))
    assert "1 finding removed" in out
    code, _, err = call(capsys, "plan", "night", "-o", str(tmp_path), "--diff", str(tmp_path / "absent.json"))
    assert code == 2
    assert "absent.json" in err


@pytest.mark.parametrize(
    ("options", "expected"), [((), (False, None)), (("--replan",), (True, None)), (("--force-disk",), (False, False))]
)
def test_run_passes_on_what_it_may_do_to_plan_and_disk(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    calls: Calls,
    options: tuple[str, ...],
    expected: tuple[bool, bool | None],
):
    monkeypatch.setattr(wbpy, "run", calls.answer(make_run("done")))
    assert call(capsys, "run", "night", "-o", "out", *options)[0] == 0
    assert (calls[0][1]["replan"], calls[0][1]["check_disk"]) == expected


# Libraries and headers to send in


def make_file(path: Path, *cards: str) -> Path:
    """Write a FITS file with 16 x 16 pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        "SIMPLE  =                    T",
        "BITPIX  = 16",
        "NAXIS   = 2",
        "NAXIS1  = 16",
        "NAXIS2  = 16",
        *cards,
        "END",
    ]
    path.write_bytes("".join(line.ljust(80) for line in lines).encode().ljust(2880) + bytes(512))
    return path


def test_library_of_the_command_line_takes_part(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(config, "cache_folder", lambda: tmp_path / "cache")
    make_file(tmp_path / "night" / "l.fits", "IMAGETYP= 'LIGHT'")
    make_file(tmp_path / "library" / "d.fits", "IMAGETYP= 'DARK'")
    arguments = ("scan", str(tmp_path / "night"), "--json", "-o", str(tmp_path / "out"))
    code, out, _ = call(capsys, *arguments, "--library", str(tmp_path / "library"))
    assert code == 0
    assert [(frame["role"], frame["library"]) for frame in json.loads(out)["frames"]] == [
        ("dark", True),
        ("light", False),
    ]
    assert len(list((tmp_path / "cache").glob("library-*.sqlite"))) == 1


def test_headers_to_send_in_are_written_and_named(tmp_path, capsys):
    make_file(tmp_path / "night" / "l.fits", "IMAGETYP= 'LIGHT'", "OBSERVER= 'Jane'")
    arguments = ("scan", str(tmp_path / "night"), "--json", "-o", str(tmp_path / "out"))
    code, out, err = call(capsys, *arguments, "--dump-headers", str(tmp_path / "headers"))
    assert (code, json.loads(out)["frames"][0]["role"]) == (0, "light")
    (file,) = (tmp_path / "headers").iterdir()
    assert str(file) in err
    assert "Jane" not in file.read_text()
    assert "IMAGETYP= 'LIGHT   '" in file.read_text()
