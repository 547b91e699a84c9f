"""What all parts of an execution share: plan, store, pool, findings, events."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from wbpy.engine import memory
from wbpy.engine.events import Event, Listener
from wbpy.engine.store import Store, StoredImage, make_key
from wbpy.errors import Cancelled
from wbpy.findings import make_finding
from wbpy.io.images import ImageFile, open_image
from wbpy.model import Artifact, Finding, Frame, FrameResult, Group, Plan, Product, Scalar, Step
from wbpy.rules import Rules
from wbpy.stages import STAGES
from wbpy.stages.base import Params, Work

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

T = TypeVar("T")
R = TypeVar("R")
P = TypeVar("P", bound=Params)


class FrameReader:
    """One raw frame, opened for each call, so that thousands of them need no thousands of open files.

    Formats that can only be decoded as a whole (compressed files, camera raw) are decoded once into the store, from
    which their bands are read like those of any other file.

    Parameters
    ----------
    frame : Frame
        What is read.
    store : Store, optional
        Where a decoded image may be put; without it such a file is decoded at each call.

    Raises
    ------
    ReadError
        If the file cannot be read.
    """

    def __init__(self, frame: Frame, store: Store | None = None) -> None:
        self.frame = frame
        self._dn_per_unit = frame.dn_per_unit
        self._store = store
        self._decoded: StoredImage | None = None
        with open_image(frame.path, frame.dn_per_unit) as image:
            self._shape = (image.height, image.width)
            # Of a file that is decoded as a whole this object would hold the pixels.
            self._image = image if image.banded else None

    @property
    def name(self) -> str:
        """File name."""
        return Path(self.frame.path).name

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self._shape

    def read(self, y0: int, y1: int) -> npt.NDArray[np.float32]:
        """Return rows as (y1 - y0, width) float32, DN."""
        if self._image is None and self._store is not None:
            return self._staged(self._store).read(y0, y1, 0, self._shape[1])
        with self._open() as image:
            return image.read(y0, y1)

    def words(self, y0: int, y1: int) -> tuple[npt.NDArray[np.uint16], float] | None:
        """Return the stored big-endian words of these rows and BZERO; None for other layouts."""
        if self._image is None:
            return None
        with self._image.reopen() as image:
            words = image.words(y0, y1)
            return None if words is None else (words, image.bzero)

    @property
    def words_start(self) -> int | None:
        """Byte of the file at which its words begin, one row after the other; None for other layouts."""
        return None if self._image is None else self._image.words_start

    @property
    def bzero(self) -> float:
        """What is added to a stored word."""
        return 0.0 if self._image is None else self._image.bzero

    def _open(self) -> ImageFile:
        return open_image(self.frame.path, self._dn_per_unit) if self._image is None else self._image.reopen()

    def _staged(self, store: Store) -> StoredImage:
        """Return the decoded image in the store, put there at the first call."""
        if self._decoded is None:
            frame = self.frame
            key = make_key("decoded", store.digest(frame.path, frame.size, frame.modified_ns), frame.dn_per_unit)
            self._decoded = store.image(key)
            if self._decoded is None:
                with open_image(frame.path, self._dn_per_unit) as image:
                    self._decoded = store.put_image(key, image.read())
        return self._decoded


class Context:
    """The state of one execution.

    Parameters
    ----------
    plan : Plan
        What is executed.
    rules : Rules
        Wording of the findings.
    out : Path
        The output folder.
    pool : concurrent.futures.Executor
        Runs the work of the stages.
    workers : int
        Tasks under way at once.
    memory : int
        Bytes that the run may use, the program itself included.
    listeners : sequence of callables
        Receive every event.
    cancel : threading.Event
        Set from outside to stop.
    """

    def __init__(
        self,
        plan: Plan,
        rules: Rules,
        out: Path,
        pool: Executor,
        workers: int,
        memory: int,
        listeners: Sequence[Listener],
        cancel: threading.Event,
    ) -> None:
        self.plan = plan
        self.rules = rules
        self.out = out
        self.store = Store(out / ".store", mapped=memory // 4)
        for folder in ("masters", "integrations", "frames/*"):
            for leftover in out.glob(f"{folder}/.*.tmp"):
                leftover.unlink(missing_ok=True)
        self.workers = workers
        self.memory = memory
        self.frames: dict[str, Frame] = {frame.path: frame for frame in plan.frames}
        self.groups: dict[str, Group] = {group.id: group for group in plan.groups}
        self.steps: dict[str, Step] = {step.id: step for step in plan.steps}
        self.keep: tuple[str, ...] = tuple(plan.settings["run"]["keep"].value)
        self.findings: list[Finding] = list(plan.findings)
        self.frame_results: dict[str, FrameResult] = {}
        self.products: list[Product] = []
        self.timings: dict[str, float] = {**{stage.name: 0.0 for stage in STAGES}, "checks": 0.0}
        self._pool = pool
        self._listeners = listeners
        self._cancel = cancel
        self._lock = threading.Lock()
        self._started = time.monotonic()

    def path_of(self, output: Artifact) -> Path:
        """Return where an output of the plan is written: in the folder of this run, which need not be the plan's."""
        return self.out / Path(output.path or "").relative_to(self.plan.out)

    def emit(self, kind: Any, **fields: Any) -> None:
        """Send an event to all listeners."""
        event = Event(kind=kind, seconds=round(time.monotonic() - self._started, 3), **fields)
        with self._lock:
            for listener in self._listeners:
                listener(event)

    def say(self, message: str, step: Step | None = None, **data: Scalar) -> None:
        """Send a sentence for people, with the numbers behind it for programs."""
        self.emit("message", message=message, step=step.id if step else None, data=data)

    def find(self, id: str, subject: str, **evidence: Scalar) -> Finding:
        """Record a finding and return it."""
        finding = make_finding(self.rules, id, subject, **evidence)
        self.findings.append(finding)
        self.emit("finding", finding=finding)
        return finding

    def frame_result(self, path: str, **changes: Any) -> None:
        """Set what became of a frame, keeping what is known of it."""
        frame = self.frames[path]
        known = self.frame_results.get(path)
        if known is None:
            known = FrameResult(path=path, role=frame.role or "light", outcome="done")
        self.frame_results[path] = msgspec.structs.replace(known, **changes)

    def params(self, step: Step, kind: type[P]) -> P:
        """Return the parameters of a step as the stage declares them."""
        return msgspec.convert({name: param.value for name, param in step.params.items()}, kind)

    def params_key(self, step: Step) -> list[Any]:
        """Return what a step's stage contributes to a key."""
        return [step.stage, step.version, {name: param.value for name, param in step.params.items()}]

    def digest(self, path: str) -> str:
        """Return the content hash of an input file."""
        frame = self.frames[path]
        return self.store.digest(path, frame.size, frame.modified_ns)

    def check_cancelled(self) -> None:
        """Raise if the user asked to stop.

        Raises
        ------
        Cancelled
            If so.
        """
        if self._cancel.is_set():
            raise Cancelled("stopped by the user")

    def map(self, function: Callable[[T], R], items: Iterable[T], limit: int | None = None) -> Iterator[R]:
        """Yield the results in order.

        At most `limit` tasks are under way or finished and waiting, for tasks that hold much memory. Without a
        limit the pool is kept busy with twice as many tasks as there are workers.
        """
        ahead = limit or 2 * self.workers
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                self.check_cancelled()
                waiting.append(self._pool.submit(function, item))
                if len(waiting) >= ahead:
                    yield self._result(waiting.popleft())
            while waiting:
                yield self._result(waiting.popleft())
        finally:
            for future in waiting:
                future.cancel()
            for future in waiting:
                if not future.cancelled():
                    future.exception()

    def _result(self, future: Future[R]) -> R:
        # Waits in short turns, because a signal reaches the main thread only between them.
        while True:
            self.check_cancelled()
            try:
                return future.result(timeout=0.2)
            except TimeoutError:
                if future.done():
                    raise

    def work(self, step: Step) -> Work:
        """Return what a stage needs to spread its work, with progress reported under `step`."""

        def report(done: int, total: int, unit: str) -> None:
            self.emit("progress", step=step.id, stage=step.stage, done=done, total=total, unit=unit)

        return Work(map=self.map, workers=self.workers, memory=self.free_memory(), report=report)

    def free_memory(self) -> int:
        """Return the bytes that are left of the limit beside what the process holds now, at least 64 MB."""
        import psutil

        process = psutil.Process()
        used = int(process.memory_info().rss)
        if 2 * used > self.memory:
            memory.give_back()
            used = int(process.memory_info().rss)
        return max(64_000_000, self.memory - used - 32_000_000)
