"""Compile or load every pixel kernel before the workers start, on frames of a few pixels.

Compiling takes about a minute once per machine; afterwards the kernels come from the cache on disk in a second or
two. Done here, it never looks like a progress bar that stands still.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from wbpy.engine.context import Context
from wbpy.engine.results import cfa_matrix
from wbpy.stages import calibrate, cosmetic, drizzle, integrate, linedefects, masters, measure, normalize, register
from wbpy.stages.base import Work
from wbpy.stages.calibrate import CalibrateParams
from wbpy.stages.cosmetic import CosmeticParams
from wbpy.stages.debayer import DebayerParams
from wbpy.stages.drizzle import DrizzleParams
from wbpy.stages.integrate import Counts, IntegrateParams, Light
from wbpy.stages.linedefects import LineDefectsParams
from wbpy.stages.masters import MastersParams, Rejection
from wbpy.stages.measure import MeasureParams
from wbpy.stages.normalize import NormalizeParams
from wbpy.stages.register import RegisterParams, Transform

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

SIDE = 96
KERNELS: tuple[Literal["square", "point"], ...] = ("square", "point")
"""One with corners, one without."""
KINDS = {0: "mono", 2: "Bayer"}
"""By the period of the mosaic."""
ALGORITHMS: tuple[Rejection, ...] = ("winsorized", "sigma", "percentile", "minmax", "none")


@dataclass(frozen=True)
class _Frame:
    """A frame in memory that reads like one on disk."""

    image: npt.NDArray[np.float32]
    as_words: bool
    name: str = "warm-up"

    @property
    def shape(self) -> tuple[int, int]:
        return self.image.shape[0], self.image.shape[1]

    def read(self, y0: int, y1: int, x0: int = 0, x1: int = SIDE) -> npt.NDArray[np.float32]:
        import numpy as np

        return np.ascontiguousarray(self.image[y0:y1, x0:x1])

    def words(self, y0: int, y1: int) -> tuple[npt.NDArray[np.uint16], float] | None:
        import numpy as np

        if not self.as_words:
            return None
        return (self.image[y0:y1] - 32768).astype(">i2").ravel().view(np.uint16), 32768.0


def warm_up(context: Context) -> None:
    """Run each stage once on tiny frames, mono or CFA as the plan's lights are, and say so when it takes long."""
    patterns = {frame.cfa: cfa_matrix(frame) for frame in context.plan.frames if frame.role == "light"}
    # One of each kind: mono, Bayer, X-Trans.
    kinds = {0 if cfa is None else len(cfa): cfa for cfa in patterns.values()} or {0: None}
    context.say("Loading the pixel kernels")
    compiling = threading.Event()

    def say_so() -> None:
        compiling.set()
        context.say("Compiling the pixel kernels for this machine, once; this takes one to two minutes")

    slow = threading.Timer(4.0, say_so)
    slow.daemon = True
    slow.start()
    stages = {step.stage for step in context.plan.steps}
    try:
        for kind in sorted(kinds):
            for part in _treat(kinds[kind], stages):
                context.check_cancelled()
                if compiling.is_set():
                    context.say(f"Compiled for {KINDS.get(kind, 'X-Trans')} frames: {part}")
    finally:
        slow.cancel()


def _treat(cfa: npt.NDArray[np.uint8] | None, stages: set[str]) -> Iterator[str]:
    """Run all stages on one frame; yield the name of each part that is done."""
    import numpy as np

    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
    image = 1000 + 5 * np.sin(x * 12.9898 + y * 78.233)
    for at_x, at_y in ((20.3, 30.1), (60.7, 25.2), (40.5, 70.9), (75.1, 62.4), (15.8, 78.3)):
        image += 4000 * np.exp(-((x - at_x) ** 2 + (y - at_y) ** 2) / 4.5)
    image = image.astype(np.float32)
    work = Work(map=map, workers=1, memory=1 << 26, report=lambda *_: None)
    flat = np.full((SIDE, SIDE), 20000, np.float32)
    dark = np.full((SIDE, SIDE), 100, np.float32) + np.float32(0.5) * np.sin(x * 3.7 + y).astype(np.float32)
    for algorithm in ALGORITHMS:
        masters.run(MastersParams(rejection=algorithm), work, [_Frame(image, True)] * 3, "flat", dark)
    yield "masters"
    calibration = calibrate.prepare(CalibrateParams(), dark, None, flat, cfa)
    known = cosmetic.defects(CosmeticParams(), dark, cfa)
    calibrate.run(CalibrateParams(), _Frame(image, False), calibration)
    treated = calibrate.run(CalibrateParams(), _Frame(image, True), calibration).image
    scaling = CalibrateParams(optimize_dark=True)
    scaled = calibrate.prepare(scaling, dark + np.float32(50), dark, flat, cfa)
    calibrate.run(scaling, _Frame(image, True), scaled)
    if "linedefects" in stages:
        linedefects.run(LineDefectsParams(), treated, linedefects.find(LineDefectsParams(), [treated], cfa), cfa)
    cosmetic.run(CosmeticParams(), treated, known, cfa)
    yield "calibration and cosmetic correction"
    measured = [measure.run(MeasureParams(), treated, cfa)] * 2
    yield "stars and noise"
    channels = 1 if cfa is None else 3
    matrix = np.array([[1, 0.001, 0.4], [-0.001, 1, 0.3], [0, 0, 1]])
    here = Transform(np.eye(3), 0.0, 5, "identity")
    normalizing = NormalizeParams(local_cell=32)
    sketch = normalize.sketch(normalizing, treated, cfa, here, (SIDE, SIDE))
    local = normalize.run(normalizing, 0, measured, [here] * 2, [sketch] * 2, (SIDE, SIDE))[1]
    yield "normalization"
    light = Light(
        _Frame(treated, False),
        matrix,
        (1.0,) * channels,
        (0.0,) * channels,
        (1.0,) * channels,
        local.surfaces,
        local.surface_step,
    )
    counts = Counts(*(np.zeros(3, np.int64) for _ in range(3)))
    parameters = IntegrateParams(rejection="winsorized")
    changing = [replace(light, fwhm=width, noise=(10.0,) * channels) for width in (2.0, 3.0, 4.0)]
    # A frame that is turned, and one with a displacement, are resampled by code of their own.
    changing[0] = replace(changing[0], matrix=np.array([[0.8, -0.6, 40.0], [0.6, 0.8, -20.0], [0, 0, 1]]))
    changing[1] = replace(changing[1], displacement=np.full((1, 2, 2, 2), 0.1), displacement_step=SIDE)
    if cfa is not None:
        register.correct_colour(RegisterParams(), here, measured[0], _Frame(treated, False), cfa, (SIDE, SIDE))
    for _ in integrate.run(parameters, DebayerParams(), work, changing, (SIDE, SIDE), cfa, counts):
        pass
    yield "integration"
    if "drizzle" in stages:
        for form in KERNELS:
            finer = DrizzleParams(kernel=form)
            for _ in drizzle.run(finer, work, [light] * 3, (SIDE, SIDE), cfa, None, drizzle.no_coverage(channels)):
                pass
        yield "drizzle"
