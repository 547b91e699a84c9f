"""The first pass over the pixels: masters, and each light read once, calibrated, corrected and measured."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wbpy.engine import products
from wbpy.engine.context import Context, FrameReader
from wbpy.engine.store import StoredImage, make_key
from wbpy.errors import ReadError
from wbpy.io.products import write_fits
from wbpy.model import Frame, Group, Outcome, Product, Step
from wbpy.stages import calibrate, cosmetic, masters, measure
from wbpy.stages.calibrate import CalibrateParams, Calibration
from wbpy.stages.cosmetic import CosmeticParams
from wbpy.stages.masters import MastersParams
from wbpy.stages.measure import Measurement, MeasureParams

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class MasterFile:
    """A master on disk: made by this run, by an earlier one or by another program."""

    path: Path
    key: str
    dn_per_unit: float

    def read(self) -> npt.NDArray[np.float32]:
        """Return the (H, W) image, DN."""
        from wbpy.io.images import open_image

        with open_image(self.path, self.dn_per_unit) as image:
            return image.read()


@dataclass(frozen=True)
class Treated:
    """One light after the first pass."""

    frame: Frame
    key: str
    image: StoredImage
    measurement: Measurement


def cfa_matrix(frame: Frame) -> npt.NDArray[np.uint8] | None:
    """Return the (2, 2) colours of a frame's CFA, 0 R, 1 G, 2 B; None for mono."""
    import numpy as np

    if frame.cfa is None:
        return None
    return np.array(["RGB".index(colour) for colour in frame.cfa], np.uint8).reshape(2, 2)


def make_master(context: Context, step: Step, done: dict[str, MasterFile]) -> tuple[Outcome, str]:
    """Make the master of a calibration group, unless it stands already, and put it into `done`.

    Returns
    -------
    outcome, why
        ``blocked`` when a flat's own master is missing, ``failed`` when no frame can be read.
    """
    group = context.groups[step.group]
    role = group.role
    params = context.params(step, MastersParams)
    provider: MasterFile | None = None
    for name in ("flat_dark", "dark", "bias"):
        for source in step.inputs.get(name, ()):
            provider = _provider(context, source, done)
            if provider is None:
                context.find("CAL003", step.id, needed=source)
                return "blocked", f"{source} is missing"
    readers = _readable(context, group.frames, "MAS001")
    lost = len(group.frames) - len(readers)
    if not readers:
        context.find("MAS002", step.id, frames=len(group.frames))
        return "failed", "no frame can be read"
    frames = [reader.frame for reader in readers]
    key = make_key(
        context.params_key(step),
        role,
        [[context.digest(frame.path), frame.dn_per_unit] for frame in frames],
        provider.key if provider else None,
    )
    path = context.out / Path(step.outputs[0].path or "").relative_to(context.plan.out)
    about = context.store.product(key, path)
    outcome: Outcome = "partial" if lost else "done"
    if about is not None:
        why = "frames, parameters and file are unchanged"
        outcome = "partial" if lost else "reused"
    else:
        why = "made from its frames"
        calibration = provider.read() if provider else None
        master = masters.run(params, context.work(step), readers, role, calibration)
        about = {
            "level_dn": float(_finite_median(master.image)),
            "levels_dn": list(master.levels),
            "rejected_low": list(master.rejected_low),
            "rejected_high": list(master.rejected_high),
        }
        pixels, _, _ = products.to_unit_range(master.image)
        path.parent.mkdir(exist_ok=True)
        names = {name: Path(provider.path).name for name in step.inputs if name != "frames" and provider}
        write_fits(
            path,
            pixels,
            products.master_cards(role, frames, frames[0].cfa, key),
            products.history([step], names, frames),
        )
        context.store.put_product(key, path, about)
    for frame, level, low, high in zip(
        frames, about["levels_dn"], about["rejected_low"], about["rejected_high"], strict=True
    ):
        measured = {"level_dn": level, "rejected_low": low, "rejected_high": high}
        context.frame_result(frame.path, measurements=measured)
        limit = context.rules.findings["MAS003"].limits["share"]
        if low + high > limit:
            context.find("MAS003", frame.path, percent=100 * (low + high), limit_percent=100 * limit)
    context.say(
        f"Master {role.replace('_', '-')} of {len(frames)} frames, level {about['level_dn']:.1f} DN: {path.name}",
        step,
        frames=len(frames),
        level_dn=about["level_dn"],
    )
    context.products.append(
        Product(
            kind=f"master_{role}",
            path=str(path),
            group=group.id,
            frames_used=len(frames),
            frames_excluded=lost,
            exposure_total=_total(frames),
            outcome=outcome,
        )
    )
    done[step.id] = MasterFile(path, key, products.DN_RANGE)
    return outcome, why


def treat_lights(
    context: Context, steps: dict[str, Step], done: dict[str, MasterFile], treated: dict[str, Treated]
) -> tuple[Outcome, str]:
    """Calibrate, correct and measure the lights of one calibration group; put the results into `treated`.

    Parameters
    ----------
    context : Context
        The execution.
    steps : dict of str to Step
        The group's steps of the stages calibrate, cosmetic and measure.
    done : dict of str to MasterFile
        Masters by step id; masters found on disk are added.
    treated : dict of str to Treated
        By path of the light; filled.
    """
    step = steps["calibrate"]
    group = context.groups[step.group]
    sources: dict[str, MasterFile] = {}
    for name in ("dark", "bias", "flat"):
        for source in step.inputs.get(name, ()):
            master = _provider(context, source, done)
            if master is None:
                context.find("CAL003", step.id, needed=source)
                for path in group.frames:
                    context.frame_result(path, outcome="blocked", excluded_by="CAL003")
                return "blocked", f"{source} is missing"
            sources[name] = master
    chain = _Chain(context, steps, sources)
    readers = _readable(context, group.frames, "CAL002")
    results: list[Treated] = []
    reused = 0
    limit = max(1, min(2 * context.workers, context.free_memory() // chain.memory(readers))) if readers else 1
    for number, (light, fresh) in enumerate(context.map(chain.treat, readers, limit), 1):
        context.emit("progress", step=step.id, stage="calibrate", done=number, total=len(readers), unit="frames")
        if isinstance(light, Treated):
            reused += not fresh
            results.append(light)
            treated[light.frame.path] = light
            numbers = light.measurement.numbers()
            context.frame_result(
                light.frame.path, outcome="done" if fresh else "reused", measurements=numbers, excluded_by=None
            )
            context.say(_describe(light), step, path=light.frame.path, **numbers)
            if light.measurement.count < (fewest := context.rules.findings["MEA001"].limits["stars"]):
                context.find("MEA001", light.frame.path, stars=light.measurement.count, fewest=fewest)
        else:
            path, reason = light
            context.find("CAL002", path, reason=reason)
            context.frame_result(path, outcome="failed", excluded_by="CAL002")
    chain.finish()
    if not results:
        return "failed", "no light can be read"
    if len(results) < len(group.frames):
        return "partial", f"{len(group.frames) - len(results)} of {len(group.frames)} lights cannot be read"
    if reused == len(results):
        return "reused", "lights, masters and parameters are unchanged"
    return "done", f"{len(results) - reused} lights treated, {reused} taken from the store"


class _Chain:
    """calibrate -> cosmetic -> measure for the lights of one group, their masters loaded at the first need."""

    def __init__(self, context: Context, steps: dict[str, Step], sources: dict[str, MasterFile]) -> None:
        import threading

        self._context = context
        self._steps = steps
        self._sources = sources
        self._calibrate = context.params(steps["calibrate"], CalibrateParams)
        self._cosmetic = context.params(steps["cosmetic"], CosmeticParams)
        self._measure = context.params(steps["measure"], MeasureParams)
        self._masters: tuple[Calibration, npt.NDArray[np.int64]] | None = None
        self._lock = threading.Lock()
        self._seconds = {"calibrate": 0.0, "cosmetic": 0.0, "measure": 0.0}
        self._replaced = 0
        self._pixels = 0

    def memory(self, readers: Sequence[FrameReader]) -> int:
        """Return the bytes that one light needs while it is treated."""
        height, width = readers[0].shape
        return sum(stage.memory(height, width) for stage in (calibrate.CALIBRATE, cosmetic.COSMETIC, measure.MEASURE))

    def _load(self, cfa: npt.NDArray[np.uint8] | None) -> tuple[Calibration, npt.NDArray[np.int64]]:
        with self._lock:
            if self._masters is None:
                images = {name: master.read() for name, master in self._sources.items()}
                calibration = calibrate.prepare(
                    self._calibrate, images.get("dark"), images.get("bias"), images.get("flat"), cfa
                )
                if calibration.flat_dead:
                    self._context.find("CAL001", self._steps["calibrate"].id, pixels=calibration.flat_dead)
                self._masters = calibration, cosmetic.defects(self._cosmetic, images.get("dark"), cfa)
                factors = ", ".join(f"{factor:.1f}" for factor in calibration.flat_factors) or "none"
                self._context.say(
                    f"Flat factors {factors} DN; {self._masters[1].size} hot pixels in the master dark",
                    self._steps["calibrate"],
                    hot_in_dark=int(self._masters[1].size),
                )
            return self._masters

    def treat(self, reader: FrameReader) -> tuple[Treated | tuple[str, str], bool]:
        """Return the treated light and whether any work was done, or (path, reason) when it cannot be read."""
        context, frame = self._context, reader.frame
        try:
            digest = context.digest(frame.path)
            image_key = make_key(
                context.params_key(self._steps["calibrate"]),
                context.params_key(self._steps["cosmetic"]),
                [digest, frame.dn_per_unit, frame.cfa],
                [[name, master.key] for name, master in sorted(self._sources.items())],
            )
            stars_key = make_key(context.params_key(self._steps["measure"]), image_key)
            stored = context.store.image(image_key)
            known = context.store.record(stars_key)
            cfa = cfa_matrix(frame)
            if stored and not self._must_keep(frame, image_key):
                if known:
                    return Treated(frame, image_key, stored, _from_record(*known)), False
                measurement = measure.run(self._measure, stored.read(0, stored.shape[0], 0, stored.shape[1]), cfa)
                _to_record(context, stars_key, measurement)
                return Treated(frame, image_key, stored, measurement), True
            calibration, defects = self._load(cfa)
            started = time.perf_counter()
            image = calibrate.run(self._calibrate, reader, calibration)
            after_calibrate = time.perf_counter()
            if "calibrated" in context.keep:
                self._write(frame, "calibrated", image, image_key)
            before_cosmetic = time.perf_counter()
            corrected = cosmetic.run(self._cosmetic, image, defects, cfa)
            stored = context.store.put_image(image_key, corrected.image)
            after_cosmetic = time.perf_counter()
            if "cosmetic" in context.keep:
                self._write(frame, "cosmetic", image, image_key)
            before_measure = time.perf_counter()
            measurement = measure.run(self._measure, image, cfa)
            _to_record(context, stars_key, measurement)
            finished = time.perf_counter()
        except (ReadError, OSError) as error:
            if isinstance(error, OSError) and error.filename != frame.path:
                raise
            return (frame.path, str(error)), True
        with self._lock:
            self._seconds["calibrate"] += after_calibrate - started
            self._seconds["cosmetic"] += after_cosmetic - before_cosmetic
            self._seconds["measure"] += finished - before_measure
            self._replaced += corrected.from_dark + corrected.automatic
            self._pixels += image.size
        return Treated(frame, image_key, stored, measurement), True

    def finish(self) -> None:
        """Report what concerns the group as a whole."""
        for stage, seconds in self._seconds.items():
            self._context.timings[stage] += seconds
        if self._pixels:
            share = self._replaced / self._pixels
            limit = self._context.rules.findings["COS001"].limits["share"]
            self._context.say(
                f"Cosmetic correction replaced {100 * share:.3f} % of the pixels", self._steps["cosmetic"]
            )
            if share > limit:
                self._context.find("COS001", self._steps["cosmetic"].id, percent=100 * share, limit_percent=100 * limit)

    def _must_keep(self, frame: Frame, key: str) -> bool:
        """Return whether a frame asked for with --keep is still to be written."""
        return any(
            kind in self._context.keep
            and self._context.store.product(make_key(kind, key), kept_path(self._context, frame, kind)) is None
            for kind in ("calibrated", "cosmetic")
        )

    def _write(self, frame: Frame, kind: str, image: npt.NDArray[np.float32], key: str) -> None:
        steps = [self._steps["calibrate"]] + ([self._steps["cosmetic"]] if kind == "cosmetic" else [])
        write_kept(self._context, frame, kind, image, key, steps)


def kept_path(context: Context, frame: Frame, kind: str) -> Path:
    """Return where a kept frame is written: numbered when two frames have one name."""
    name = Path(frame.path).name.split(".fit")[0]
    same = sorted(path for path in context.frames if Path(path).name.split(".fit")[0] == name)
    number = f"_{same.index(frame.path) + 1}" if len(same) > 1 else ""
    return context.out / "frames" / kind / f"{name}{number}_{kind}.fits"


def write_kept(
    context: Context, frame: Frame, kind: str, image: npt.NDArray[np.float32], key: str, steps: Sequence[Step]
) -> None:
    """Write one treated frame that was asked for with --keep, cut to [0, 1], and report what was cut."""
    pixels, below, above = products.to_unit_range(image)
    path = kept_path(context, frame, kind)
    own = make_key(kind, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_fits(path, pixels, products.frame_cards(frame, kind, own), products.history(steps, {}, [frame]))
    context.store.put_product(own, path, {})
    share = (below + above) / image.size
    limit = context.rules.findings["CAL004"].limits["share"]
    if share > limit:
        context.find("CAL004", str(path), percent=100 * share, below=below, above=above)


def _readable(context: Context, paths: Sequence[str], finding: str) -> list[FrameReader]:
    """Return readers for the files that open; the others become findings."""
    readers = []
    for path in paths:
        try:
            readers.append(FrameReader(context.frames[path]))
        except ReadError as error:
            context.find(finding, path, reason=str(error))
            context.frame_result(path, outcome="failed", excluded_by=finding)
    return readers


def _provider(context: Context, source: str, done: dict[str, MasterFile]) -> MasterFile | None:
    """Return the master that a step or a group of one provides; None when its step failed."""
    if source in done:
        return done[source]
    if source not in context.groups:
        return None
    group: Group = context.groups[source]
    frame = context.frames[group.frames[0]]
    try:
        FrameReader(frame)
    except ReadError as error:
        context.find("MAS001", frame.path, reason=str(error))
        return None
    done[source] = MasterFile(
        Path(frame.path), make_key(context.digest(frame.path), frame.dn_per_unit), frame.dn_per_unit
    )
    return done[source]


def _to_record(context: Context, key: str, m: Measurement) -> None:
    values: dict[str, Any] = {
        "count": m.count,
        "fwhm": m.fwhm,
        "eccentricity": m.eccentricity,
        "background": m.background,
        "noise": m.noise,
        "dispersion": m.dispersion,
    }
    context.store.put_record(key, values, x=m.x, y=m.y, flux=m.flux, usable=m.usable)


def _from_record(values: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> Measurement:
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in {**values, **arrays}.items()
    }
    return Measurement(**fields)


def _describe(light: Treated) -> str:
    m = light.measurement
    return (
        f"{Path(light.frame.path).name}: {m.count} stars, FWHM {m.fwhm:.2f} px, eccentricity {m.eccentricity:.2f}, "
        f"background {'/'.join(f'{value:.1f}' for value in m.background)} DN, "
        f"noise {'/'.join(f'{value:.2f}' for value in m.noise)} DN"
    )


def _finite_median(image: npt.NDArray[np.float32]) -> float:
    from wbpy.kernels import statistics

    return statistics.median(image.reshape(-1))


def _total(frames: Sequence[Frame]) -> float | None:
    exposures = [frame.exposure for frame in frames if frame.exposure is not None]
    return round(sum(exposures), 6) if exposures else None
