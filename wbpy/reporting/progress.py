"""Progress while work is under way: live bars on a terminal, plain lines when piped, nothing when quiet.

It listens to the events of a run and writes to standard error, so that standard output holds the report alone.
"""

from __future__ import annotations

import threading
from types import TracebackType
from typing import TYPE_CHECKING

from wbpy.engine.events import Event
from wbpy.reporting.wording import count, duration, plain, rate, sentence

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

LINE_EVERY = 10.0
"""Seconds between two plain progress lines of one step."""

READING_EVERY = 2000
"""Files between two plain lines while headers are read."""


class Display:
    """Shows the reading of headers and the events of a run; use it as a context manager.

    Parameters
    ----------
    verbosity : int
        Below 0 nothing is shown, above 0 notes as well.
    console : rich.console.Console, optional
        Where to write; standard error when it is not given.
    """

    def __init__(self, verbosity: int = 0, console: Console | None = None) -> None:
        self._verbosity = verbosity
        self._lock = threading.Lock()
        self._console = console
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._started: dict[str, float] = {}
        self._last_line: dict[str, float] = {}
        self._steps_done = 0
        self._steps_total = 0

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def reading(self, done: int, total: int) -> None:
        """Show that `done` of `total` files were read."""
        if self._verbosity < 0:
            return
        with self._lock:
            if self._live:
                self._advance("Read headers", done, total, "files")
                if done >= total:
                    self._close()
            elif done and (done >= total or done % READING_EVERY == 0):
                self._line(f"Read headers: {done} of {count(total, 'file')}")

    def __call__(self, event: Event) -> None:
        """Show one event of a run."""
        if self._verbosity < 0:
            return
        with self._lock:
            match event.kind:
                case "run_started":
                    self._steps_total = event.total
                    self._message(event)
                case "message":
                    self._message(event)
                case "finding":
                    self._finding(event)
                case "step_started":
                    self._step_started(event)
                case "progress":
                    self._progress(event)
                case "step_finished":
                    self._step_finished(event)
                case "run_finished":
                    self._close()

    @property
    def _live(self) -> bool:
        return self._out.is_terminal

    @property
    def _out(self) -> Console:
        if self._console is None:
            from rich.console import Console

            self._console = Console(stderr=True, markup=False, highlight=False, emoji=False, soft_wrap=True)
        return self._console

    def _line(self, text: str) -> None:
        self._out.print(plain(text), markup=False, highlight=False, soft_wrap=True)

    def _message(self, event: Event) -> None:
        # Messages of a step are one for each frame: they belong into the log.
        if event.message and (event.step is None or self._verbosity > 0):
            for line in event.message.splitlines():
                self._line(line)

    def _finding(self, event: Event) -> None:
        finding = event.finding
        if finding is not None and (finding.severity != "info" or self._verbosity > 0):
            self._line(f"{finding.severity} {finding.id}: {sentence(finding)}")

    def _step_started(self, event: Event) -> None:
        step = event.step or ""
        self._started[step] = event.seconds
        self._last_line[step] = event.seconds
        if self._live:
            self._overall()
            self._advance(step, 0, None, event.unit)
        elif self._verbosity > 0:
            self._line(f"{step}: started")

    def _progress(self, event: Event) -> None:
        step = event.step or ""
        if self._live:
            self._advance(step, event.done, event.total or None, event.unit)
            return
        if event.seconds - self._last_line.get(step, event.seconds) < LINE_EVERY:
            return
        self._last_line[step] = event.seconds
        spent = event.seconds - self._started.get(step, event.seconds)
        text = f"{step}: {event.done} of {event.total} {event.unit}"
        if event.done and spent > 0:
            left = (event.total - event.done) * spent / event.done
            text += f", {rate(event.done / spent, event.unit)}, {duration(left)} left"
        self._line(text)

    def _step_finished(self, event: Event) -> None:
        step = event.step or ""
        spent = event.seconds - self._started.pop(step, event.seconds)
        self._last_line.pop(step, None)
        self._steps_done += 1
        if self._bars is not None and step in self._tasks:
            self._bars.remove_task(self._tasks.pop(step))
            self._overall()
        # Steps that were done together with another one take no time of their own.
        if event.outcome == "done" and spent < 0.05 and self._verbosity <= 0:
            return
        if event.outcome == "reused":
            text = f"{step}: reused"
        else:
            text = f"{step}: {event.outcome or 'done'} in {duration(spent)}"
        reason = f" ({event.message})" if event.message and (self._verbosity > 0 or event.outcome == "failed") else ""
        self._line(text + reason)

    def _overall(self) -> None:
        if self._steps_total:
            self._advance("All steps", self._steps_done, self._steps_total, "steps")

    def _advance(self, name: str, done: int, total: int | None, unit: str) -> None:
        if self._bars is None:
            self._bars = _bars(self._out)
            self._bars.start()
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(plain(name), total=total, unit=unit)
        if total is None:
            self._bars.update(self._tasks[name], completed=done)
        else:
            self._bars.update(self._tasks[name], completed=done, total=total, unit=unit)

    def _close(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
            self._tasks.clear()


def _bars(console: Console) -> Progress:
    """Return bars with count, rate and the time that is left; they vanish when they are stopped."""
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Amount(ProgressColumn):
        def render(self, task: Task) -> Text:
            if task.total is None:
                return Text("")
            unit = task.fields["unit"]
            speed = f"  {rate(task.speed, unit)}" if task.speed else ""
            return Text(f"{int(task.completed)} of {int(task.total)} {unit}{speed}")

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        Amount(),
        TimeRemainingColumn(compact=True),
        console=console,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
