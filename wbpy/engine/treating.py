"""The first pass over the lights: each read once, calibrated, corrected and measured."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from wbpy.engine import overscanning, products, remaking
from wbpy.engine.context import Context
from wbpy.engine.keeping import kept_path, write_kept, write_statistics
from wbpy.engine.overscanning import RawReader
from wbpy.engine.remaking import Shared
from wbpy.engine.results import MasterFile, Treated, cfa_matrix
from wbpy.engine.sources import lacks_bias, provide, readable
from wbpy.engine.store import make_key
from wbpy.errors import ReadError
from wbpy.model import Frame, Outcome, Step
from wbpy.stages import calibrate, checks, cosmetic, linedefects, measure
from wbpy.stages.calibrate import CalibrateParams, Calibration
from wbpy.stages.checks import Observation
from wbpy.stages.cosmetic import CosmeticParams
from wbpy.stages.linedefects import LineDefectsParams
from wbpy.stages.measure import Measurement, MeasureParams

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


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
            master = provide(context, source, done)
            if master is None:
                context.find("CAL003", step.id, needed=source)
                for path in group.frames:
                    context.frame_result(path, outcome="blocked", excluded_by="CAL003")
                return "blocked", f"{source} is missing"
            sources[name] = master
    refused = _refused(context, step, sources, done)
    if refused:
        for path in group.frames:
            context.frame_result(path, outcome="blocked", excluded_by=refused)
        return "blocked", context.rules.findings[refused].title
    try:
        chain = _Chain(context, steps, sources)
    except _UnreadableList as error:
        context.find(error.finding, error.path, reason=str(error))
        for path in group.frames:
            context.frame_result(path, outcome="blocked", excluded_by=error.finding)
        return "blocked", f"{error.path} cannot be read"
    readers = readable(context, group.frames, "CAL002")
    results: list[Treated] = []
    reused = 0
    chain.find_lines(readers)
    limit = max(1, min(2 * context.workers, context.free_memory() // chain.memory(readers))) if readers else 1
    for number, (light, fresh) in enumerate(context.map(chain.treat, readers, limit), 1):
        context.emit("progress", step=step.id, stage="calibrate", done=number, total=len(readers), unit="frames")
        if isinstance(light, Treated):
            reused += not fresh
            results.append(light)
            treated[light.frame.path] = light
            numbers = {**light.numbers, **light.measurement.numbers()}
            context.frame_result(
                light.frame.path, outcome="done" if fresh else "reused", measurements=numbers, excluded_by=None
            )
            context.say(_describe_calibration(light), steps["calibrate"], path=light.frame.path, **light.numbers)
            context.say(
                _describe_measurement(light),
                steps["measure"],
                path=light.frame.path,
                noise_method=" ".join(light.measurement.noise_method),
                **light.measurement.numbers(),
            )
            if light.measurement.count < (fewest := context.rules.findings["MEA001"].limits["stars"]):
                context.find("MEA001", light.frame.path, stars=light.measurement.count, fewest=fewest)
        else:
            path, reason = light
            context.find("CAL002", path, reason=reason)
            context.frame_result(path, outcome="failed", excluded_by="CAL002")
    chain.finish(results)
    if not results:
        return "failed", "no light can be read"
    if len(results) < len(group.frames):
        return "partial", f"{len(group.frames) - len(results)} of {len(group.frames)} lights cannot be read"
    if reused == len(results):
        return "reused", "lights, masters and parameters are unchanged"
    return "done", f"{len(results) - reused} lights treated, {reused} taken from the store"


class _UnreadableList(Exception):
    """A file with known defects cannot be used."""

    def __init__(self, path: str, finding: str, reason: str) -> None:
        super().__init__(reason)
        self.path = path
        self.finding = finding


def _list_text(path: str, finding: str) -> str:
    """Return a list of defects that can be parsed; `finding` tells what it is a list of."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        if finding == "LIN002":
            linedefects.parse_list(text, (1, 1))
        else:
            cosmetic.parse_list(text, (1, 1), path.lower().endswith(".lst"))
    except (OSError, ValueError) as error:
        raise _UnreadableList(path, finding, str(error)) from error
    return text


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
        step = steps.get("linedefects")
        self._lines = LineDefectsParams() if step is None else context.params(step, LineDefectsParams)
        self._lines_found: npt.NDArray[np.int64] | None = None
        self._lines_key: list[Any] = []
        self._masters: tuple[Calibration, npt.NDArray[np.int64]] | None = None
        self._lock = threading.Lock()
        self._seconds = {"calibrate": 0.0, "linedefects": 0.0, "cosmetic": 0.0, "measure": 0.0}
        self._per_plane: dict[str, int] = {}
        self._hot = self._cold = 0
        self._lists = {path: _list_text(path, "COS003") for path in self._cosmetic.lists}
        self._line_lists = {path: _list_text(path, "LIN002") for path in self._lines.lists if self._lines.use}
        self._replaced = 0
        self._too_high: list[Observation] = []
        self._pixels = 0
        # What only the looks of kept files depend on must not make the night's pixels anew.
        stage, version, values = context.params_key(steps["calibrate"])
        self._calibrate_key = [stage, version, {n: v for n, v in values.items() if n not in calibrate.FILES_ONLY}]
        group = context.groups[steps["calibrate"].group]
        first = context.frames[group.frames[0]]
        self._shared_key = [self._calibrate_key, self._masters_key(), overscanning.settings_key(context), first.cfa]
        self._worth_sharing = len(group.frames) >= remaking.FEWEST
        self._shared = remaking.shared(context, self._shared_key)

    def _known_defects(
        self, dark: npt.NDArray[np.float32] | None, shape: tuple[int, int], cfa: npt.NDArray[np.uint8] | None
    ) -> npt.NDArray[np.int64]:
        """Return the defects of dark and lists, and report entries of lists that lie outside of the frames."""
        import numpy as np

        known = cosmetic.defects(self._cosmetic, dark, cfa)
        for path, text in self._lists.items():
            listed = cosmetic.parse_list(text, shape, path.lower().endswith(".lst"))
            if listed.outside:
                height, width = shape
                self._context.find("COS002", path, entries=listed.outside, width=width, height=height)
            known = np.union1d(known, listed.indices)
        return known

    def memory(self, readers: Sequence[RawReader]) -> int:
        """Return the bytes that one light needs while it is treated."""
        height, width = readers[0].shape
        copy = 4 * height * width if "calibrated" in self._context.keep else 0
        return copy + sum(
            stage.memory(height, width) for stage in (calibrate.CALIBRATE, cosmetic.COSMETIC, measure.MEASURE)
        )

    def _load(
        self, shape: tuple[int, int], cfa: npt.NDArray[np.uint8] | None
    ) -> tuple[Calibration, npt.NDArray[np.int64]]:
        with self._lock:
            if self._masters is None:
                images = {name: master.read() for name, master in self._sources.items()}
                calibration = calibrate.prepare(
                    self._calibrate, images.get("dark"), images.get("bias"), images.get("flat"), cfa
                )
                if calibration.flat_dead:
                    self._context.find("CAL001", self._steps["calibrate"].id, pixels=calibration.flat_dead)
                self._masters = calibration, self._known_defects(images.get("dark"), shape, cfa)
                self._describe_masters(images, calibration, self._masters[1].size)
            return self._masters

    def _share(self, reader: RawReader, calibration: Calibration) -> Shared | None:
        """Return what the lights have in common in the store, put there with the first light that can do with it."""
        with self._lock:
            if self._shared is None and self._worth_sharing and remaking.suits(reader):
                self._shared = remaking.share(self._context, self._shared_key, calibration, reader.shape)
            return self._shared

    def _describe_masters(self, images: dict[str, npt.NDArray[np.float32]], calibration: Calibration, hot: int) -> None:
        """Say which masters are applied and what was found in them (guide, section 7.3)."""
        step = self._steps["calibrate"]
        for name, image in images.items():
            source = self._sources[name]
            height, width = image.shape
            planes = "" if len(calibration.planes) == 1 else f", CFA {''.join(p[0] for p in calibration.planes)}"
            self._context.say(f"Master {name}: {Path(source.path).name}, {width} x {height} px{planes}", step)
        if calibration.dark_set is not None:
            chosen = calibration.dark_set
            self._context.say(
                f"Dark optimization: threshold {chosen.threshold:.2f} DN, {chosen.pixels} pixels above it "
                f"({100 * chosen.share:.3f} %)",
                step,
                dark_threshold_dn=chosen.threshold,
                dark_pixels=chosen.pixels,
            )
        factors = ", ".join(f"{factor:.1f}" for factor in calibration.flat_factors) or "none"
        self._context.say(f"Flat factors {factors} DN; {hot} known defects in dark and lists", step, known_defects=hot)

    def find_lines(self, readers: Sequence[RawReader]) -> None:
        """Find the defective lines that the lights have in common; only where that was asked for."""
        if not self._lines.use or not readers:
            return
        context, step = self._context, self._steps["linedefects"]
        count = min(self._lines.frames, len(readers))
        chosen = [readers[number * len(readers) // count] for number in range(count)]
        # What is found depends on these lights and their masters, and with it the pixels of all lights.
        self._lines_key = [context.params_key(step), [context.digest(reader.frame.path) for reader in chosen]]
        key = make_key("lines", self._lines_key, self._calibrate_key, self._masters_key())
        stored = context.store.record(key)
        cfa = cfa_matrix(chosen[0].frame)
        if not self._lines.search:
            found = linedefects.find(self._lines, (), cfa)
        elif stored is not None:
            found = stored[1]["lines"]
        else:
            started = time.perf_counter()
            found = linedefects.find(self._lines, (self._calibrated(reader, cfa) for reader in chosen), cfa)
            context.store.put_record(key, {}, lines=found)
            self._seconds["linedefects"] += time.perf_counter() - started
        height, width = chosen[0].shape
        listed = [linedefects.parse_list(text, (height, width)) for text in self._line_lists.values()]
        for path, one in zip(self._line_lists, listed, strict=True):
            if one.outside:
                context.find("LIN003", path, entries=one.outside, width=width, height=height)
        names = [
            f"{'column' if axis == 0 else 'row'} {index} ({start} to {stop - 1})" for axis, index, start, stop in found
        ]
        known = sum(len(one.lines) for one in listed)
        context.say(
            (
                f"{len(names)} defective lines in the average of {count} lights"
                if self._lines.search
                else "Not looked for"
            )
            + (": " if names else "")
            + ", ".join(names)
            + (f"; {known} lines in lists" if listed else ""),
            step,
            lines=len(names),
            listed=known,
        )
        self._lines_found = linedefects.merged(found, *(one.lines for one in listed))
        self._lines_key.append(list(self._line_lists.values()))
        share, limit = len(names) / (height + width), context.rules.findings["LIN001"].limits["share"]
        if share > limit:
            context.find("LIN001", step.id, lines=len(names), percent=100 * share, limit_percent=100 * limit)

    def _calibrated(self, reader: RawReader, cfa: npt.NDArray[np.uint8] | None) -> npt.NDArray[np.float32]:
        calibration, _ = self._load(reader.shape, cfa)
        frame = reader.frame
        return calibrate.run(
            self._calibrate, reader, calibration, frame.pedestal or 0.0, self._exposure_ratio(frame)
        ).image

    def _masters_key(self) -> list[Any]:
        return [[name, master.key] for name, master in sorted(self._sources.items())]

    def treat(self, reader: RawReader) -> tuple[Treated | tuple[str, str], bool]:
        """Return the treated light and whether any work was done, or (path, reason) when it cannot be read."""
        context, frame = self._context, reader.frame
        try:
            digest = context.digest(frame.path)
            image_key = make_key(
                self._calibrate_key,
                context.params_key(self._steps["cosmetic"]),
                list(self._lists.values()),
                [digest, frame.dn_per_unit, frame.cfa, frame.pedestal, self._exposure_ratio(frame)],
                overscanning.settings_key(context),
                self._masters_key(),
                self._lines_key,
            )
            stars_key = make_key(context.params_key(self._steps["measure"]), image_key)
            facts_key = make_key("calibrated", image_key)
            pedestal = frame.pedestal or 0.0
            stored = remaking.kept(context, image_key, reader, self._shared, pedestal)
            known, facts = context.store.record(stars_key), context.store.record(facts_key)
            cfa = cfa_matrix(frame)
            if stored and facts and not self._must_keep(frame, image_key):
                found = facts[0]
                if known:
                    measurement, fresh = _from_record(*known), False
                else:
                    pixels = stored.read(0, stored.shape[0], 0, stored.shape[1])
                    measurement, fresh = measure.run(self._saturating(found["numbers"]), pixels, cfa), True
                    _to_record(context, stars_key, measurement)
                light = Treated(frame, image_key, stars_key, stored, measurement, found["numbers"], found["statistics"])
                return light, fresh
            calibration, defects = self._load(reader.shape, cfa)
            started = time.perf_counter()
            calibrated = calibrate.run(self._calibrate, reader, calibration, pedestal, self._exposure_ratio(frame))
            image = calibrated.image
            after_calibrate = time.perf_counter()
            uncorrected = image.copy() if "calibrated" in context.keep else None
            if self._lines_found is not None:
                linedefects.run(self._lines, image, self._lines_found, cfa)
            before_cosmetic = time.perf_counter()
            corrected = cosmetic.run(self._cosmetic, image, defects, cfa)
            chosen = calibration.dark_set
            numbers = {
                **calibrated.numbers(),
                "dark_pixels": None if chosen is None else float(calibrated.dark_pixels),
                "dark_threshold_dn": None if chosen is None else chosen.threshold,
                "input_pedestal_dn": frame.pedestal,
            }
            statistics = [list(plane.row()) for plane in calibrated.levels]
            # Before the image: an image in the store is then a finished light, whenever the run is killed.
            context.store.put_record(facts_key, {"numbers": numbers, "statistics": statistics})
            stored = remaking.keep(
                context, image_key, reader, self._share(reader, calibration), pedestal, corrected.image
            )
            after_cosmetic = time.perf_counter()
            measurement = measure.run(self._saturating(numbers), image, cfa)
            _to_record(context, stars_key, measurement)
            finished = time.perf_counter()
            if uncorrected is not None:
                self._write(frame, "calibrated", uncorrected, image_key, calibration, numbers, measurement)
            if "cosmetic" in context.keep:
                self._write(frame, "cosmetic", image, image_key, calibration, numbers, measurement)
        except (ReadError, OSError) as error:
            if isinstance(error, OSError) and error.filename != frame.path:
                raise
            return (frame.path, str(error)), True
        with self._lock:
            self._seconds["calibrate"] += after_calibrate - started
            self._seconds["linedefects"] += before_cosmetic - after_calibrate
            self._seconds["cosmetic"] += after_cosmetic - before_cosmetic
            self._seconds["measure"] += finished - after_cosmetic
            self._replaced += sum(corrected.planes)
            for plane, count in zip(calibration.planes, corrected.planes, strict=True):
                self._per_plane[plane] = self._per_plane.get(plane, 0) + count
            self._hot += corrected.hot
            self._cold += corrected.cold
            self._pixels += image.size
        return Treated(frame, image_key, stars_key, stored, measurement, numbers, statistics), True

    def _saturating(self, numbers: dict[str, float | None]) -> MeasureParams:
        """Return the parameters of measure with the saturation that the raw frame showed, where that is lower."""
        level = numbers["saturation_dn"]
        if level is None or level >= self._measure.saturation:
            return self._measure
        return msgspec.structs.replace(self._measure, saturation=level)

    def _exposure_ratio(self, frame: Frame) -> float | None:
        """Return the light's exposure over the dark's, where the dark may be scaled by it."""
        dark = self._sources.get("dark")
        scaled = self._calibrate.optimize_dark or self._calibrate.scale_dark
        if not scaled or dark is None or not dark.exposure or frame.exposure is None:
            return None
        return frame.exposure / dark.exposure

    def finish(self, results: Sequence[Treated]) -> None:
        """Report what concerns the group as a whole."""
        for stage, seconds in self._seconds.items():
            self._context.timings[stage] += seconds
        if self._pixels:
            share = self._replaced / self._pixels
            limit = self._context.rules.findings["COS001"].limits["share"]
            planes = ", ".join(f"{plane} {count}" for plane, count in self._per_plane.items())
            self._context.say(
                f"Cosmetic correction replaced {100 * share:.3f} % of the pixels ({planes}); {self._hot} hot and "
                f"{self._cold} cold ones were found in the lights, the others were known",
                self._steps["cosmetic"],
                replaced_share=share,
                hot=self._hot,
                cold=self._cold,
                **{f"replaced_{plane.lower()}": count for plane, count in self._per_plane.items()},
            )
            if share > limit:
                self._context.find("COS001", self._steps["cosmetic"].id, percent=100 * share, limit_percent=100 * limit)
        if self._too_high:
            worst = max(self._too_high, key=lambda one: (one.evidence["percent"], one.evidence["pedestal_dn"]))
            self._context.find(worst.id, worst.subject, **worst.evidence, frames=len(self._too_high))
        if results:
            group = self._context.groups[self._steps["calibrate"].group]
            write_statistics(self._context, group, [(light.frame.path, light.statistics) for light in results])
            self._report_dark_scales(results)
            self._report_added_noise(results)

    def _report_dark_scales(self, results: Sequence[Treated]) -> None:
        """Report factors of the dark signal that cannot be right."""
        if not self._calibrate.optimize_dark or self._calibrate.scale_dark or "dark" not in self._sources:
            return
        context, step, limits = self._context, self._steps["calibrate"], self._context.rules.findings
        untold, near_zero, implausible = [], [], []
        for light in results:
            k, expected = light.numbers["dark_scale"], self._expected_scale(light.frame)
            if k is None:
                continue
            if not light.numbers["dark_pixels"]:
                untold.append(light)
            elif k <= limits["CAL007"].limits["factor"]:
                near_zero.append(light)
            elif expected is not None:
                factor = limits["CAL008"].limits["factor" if expected[1] else "factor_without_temperature"]
                if not expected[0] / factor <= k <= expected[0] * factor:
                    implausible.append((light, expected[0]))
        if untold:
            names = _some_names(untold)
            context.find("CAL009", step.id, frames=len(untold), names=names, factor=untold[0].numbers["dark_scale"])
        if near_zero:
            least = min(light.numbers["dark_scale"] or 0.0 for light in near_zero)
            context.find("CAL007", step.id, frames=len(near_zero), names=_some_names(near_zero), factor=least)
        if implausible:
            worst, expected_k = max(
                implausible, key=lambda pair: abs(math.log((pair[0].numbers["dark_scale"] or 1.0) / pair[1]))
            )
            context.find(
                "CAL008",
                step.id,
                frames=len(implausible),
                names=_some_names([light for light, _ in implausible]),
                factor=worst.numbers["dark_scale"],
                expected=expected_k,
            )

    def _expected_scale(self, frame: Frame) -> tuple[float, bool] | None:
        """Return the factor by exposures and temperatures, and whether the temperatures were known."""
        ratio, dark = self._exposure_ratio(frame), self._sources["dark"]
        if ratio is None:
            return None
        if frame.temp_ccd is None or dark.temperature is None:
            return ratio, False
        doubling = self._context.rules.findings["CAL008"].limits["doubling_degc"]
        return float(ratio * 2.0 ** ((frame.temp_ccd - dark.temperature) / doubling)), True

    def _report_added_noise(self, results: Sequence[Treated]) -> None:
        """Say by how much the noise of the masters raises that of a calibrated light (guide, section 3.1)."""
        noises = sorted(light.measurement.noise[len(light.measurement.noise) // 2] for light in results)
        total = noises[len(noises) // 2]
        offset = self._sources.get("dark") or self._sources.get("bias")
        if offset is None or not math.isfinite(offset.noise) or not total > offset.noise:
            return
        added = 1.0 / math.sqrt(1.0 - (offset.noise / total) ** 2) - 1.0
        self._context.say(
            f"Noise of a calibrated light {total:.2f} DN; the {offset.noise:.2f} DN of the master "
            f"{'dark' if 'dark' in self._sources else 'bias'} raise it by {100 * added:.1f} %",
            self._steps["calibrate"],
            light_noise_dn=total,
            master_noise_dn=offset.noise,
            added_noise=added,
        )

    def _kept_key(self, image_key: str) -> str:
        return make_key(image_key, self._calibrate.pedestal, self._calibrate.pedestal_limit)

    def _must_keep(self, frame: Frame, key: str) -> bool:
        """Return whether a frame asked for with --keep is still to be written."""
        own = self._kept_key(key)
        return any(
            kind in self._context.keep
            and self._context.store.product(make_key(kind, own), kept_path(self._context, frame, kind)) is None
            for kind in ("calibrated", "cosmetic")
        )

    def _write(
        self,
        frame: Frame,
        kind: str,
        image: npt.NDArray[np.float32],
        key: str,
        calibration: Calibration,
        numbers: dict[str, float | None],
        measurement: Measurement,
    ) -> None:
        import numpy as np

        from wbpy.kernels import calibration as kernels

        steps = [self._steps["calibrate"]] + ([self._steps["cosmetic"]] if kind == "cosmetic" else [])
        needed = kernels.needed_pedestal(image, self._calibrate.pedestal_limit)
        pedestal = needed if self._calibrate.pedestal == "auto" else self._calibrate.pedestal
        lost = int(np.count_nonzero((image <= products.DN_RANGE) & (image + np.float32(pedestal) > products.DN_RANGE)))
        seen = checks.pedestal_too_high(
            self._context.rules, self._steps["calibrate"].id, pedestal, needed, lost, image.size
        )
        with self._lock:
            self._too_high += seen
        cards = _calibration_cards(calibration, numbers, measurement)
        write_kept(self._context, frame, kind, image, self._kept_key(key), steps, float(pedestal), cards)


def _refused(context: Context, step: Step, sources: dict[str, MasterFile], done: dict[str, MasterFile]) -> str | None:
    """Report a dark that cannot be applied; return the finding's id, None when all is well.

    A dark without its bias leaves the bias in the lights when it is used as it is, and when it is scaled what was cut
    at zero is missing.
    """
    params = context.params(step, CalibrateParams)
    if "dark" not in sources:
        return None
    scaled = params.optimize_dark or params.scale_dark
    if scaled and "bias" not in sources:
        context.find("CAL005", step.id, dark=sources["dark"].path.name)
        return "CAL005"
    use = "scaled" if scaled else "used as it is"
    return "CAL006" if lacks_bias(context, step, sources["dark"], sources.get("bias"), done, use) else None


def _some_names(lights: Sequence[Treated]) -> str:
    names = [Path(light.frame.path).name for light in lights]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _calibration_cards(
    calibration: Calibration, numbers: dict[str, float | None], measurement: Measurement
) -> list[products.Card]:
    """Return header cards for what the log says of a calibrated light; noise in units of the file, as PixInsight."""
    cards: list[products.Card] = []
    for name, keyword, comment in (
        ("dark_scale", "DARKSCAL", "factor of the dark signal"),
        ("dark_scale_error", "DARKSCER", "standard error of DARKSCAL"),
        ("dark_threshold_dn", "DARKTHR", "[DN] dark signal that tells DARKSCAL, from here on"),
        ("dark_pixels", "DARKNPIX", "pixels that told DARKSCAL"),
        ("input_pedestal_dn", "PEDESTIN", "[DN] pedestal that was taken off first"),
        ("saturation_dn", "SATLEVEL", "[DN] pixels may be saturated from here on"),
        ("lowest_dn", "CALMIN", "[DN] least calibrated value"),
        ("highest_dn", "CALMAX", "[DN] largest calibrated value"),
        ("below_zero", "CALBELOW", "share of the pixels below zero"),
    ):
        value = numbers[name]
        if value is not None:
            cards.append((keyword, value, comment))
    for number, factor in enumerate(calibration.flat_factors):
        cards.append((f"FLATF{number:02d}", factor, "[DN] trimmed mean of the master flat"))
    shares = measurement.noise_share or (math.nan,) * len(measurement.noise)
    methods = measurement.noise_method or ("",) * len(measurement.noise)
    for number, (noise, level, share, method) in enumerate(
        zip(measurement.noise, measurement.background, shares, methods, strict=True)
    ):
        if math.isfinite(noise):
            cards.append((f"NOISE{number:02d}", noise / products.DN_RANGE, "noise standard deviation"))
            if math.isfinite(share):
                cards.append((f"NOISEF{number:02d}", share, "share of the pixels behind it"))
                cards.append((f"NOISEA{number:02d}", method, "how it was measured"))
        if math.isfinite(level):
            cards.append((f"BACKGR{number:02d}", level, "[DN] median"))
    # Stars are measured on one plane, mono or green, hence the number 00.
    for value, keyword, comment in (
        (measurement.total_flux, "PSFFLX00", "sum of the fluxes of the fitted stars"),
        (measurement.total_brightness, "PSFMFL00", "sum of their mean surface brightnesses"),
        (measurement.local_level, "PSFMST00", "M*, median of the large-scale background"),
        (measurement.local_noise, "PSFNST00", "N*, noise below the large-scale background"),
    ):
        if math.isfinite(value):
            cards.append((keyword, value / products.DN_RANGE, comment))
    cards.append(("NSTARS", measurement.count, "stars found"))
    if math.isfinite(measurement.fwhm):
        cards.append(("FWHM", measurement.fwhm, "[px] median over the stars"))
    return cards


def _to_record(context: Context, key: str, m: Measurement) -> None:
    import numpy as np

    fields = {field.name: getattr(m, field.name) for field in dataclasses.fields(m)}
    arrays = {name: value for name, value in fields.items() if isinstance(value, np.ndarray)}
    context.store.put_record(key, {n: v for n, v in fields.items() if n not in arrays}, **arrays)


def _from_record(values: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> Measurement:
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in {**values, **arrays}.items()
    }
    return Measurement(**fields)


def _describe_calibration(light: Treated) -> str:
    found = light.numbers
    scale, error = found["dark_scale"], found["dark_scale_error"]
    text = (
        f"{Path(light.frame.path).name}: calibrated to {found['lowest_dn'] or 0:.1f} to "
        f"{found['highest_dn'] or 0:.1f} DN, {100 * (found['below_zero'] or 0):.3f} % below zero"
    )
    if found["input_pedestal_dn"]:
        text += f", pedestal of {found['input_pedestal_dn']:g} DN taken off"
    if scale is not None:
        text += f", k {scale:.4f}" + (f" +- {error:.4f}" if error is not None else "")
        text += f" told by {found['dark_pixels'] or 0:.0f} pixels" if found["dark_pixels"] else ""
    if found["saturation_dn"] is not None:
        text += f", saturated from {found['saturation_dn']:.0f} DN"
    return text


def _describe_measurement(light: Treated) -> str:
    m = light.measurement
    shares = "/".join(f"{100 * share:.0f}" for share in m.noise_share)
    return (
        f"{Path(light.frame.path).name}: {m.count} stars, FWHM {m.fwhm:.2f} px, eccentricity {m.eccentricity:.2f}, "
        f"background {'/'.join(f'{value:.1f}' for value in m.background)} DN, "
        f"noise {'/'.join(f'{value:.2f}' for value in m.noise)} DN ({'/'.join(m.noise_method)}, {shares} % of the "
        f"pixels), TFlux {m.total_flux:.5g} DN, TMeanFlux {m.total_brightness:.5g} DN, M* {m.local_level:.2f} DN, "
        f"N* {m.local_noise:.3f} DN"
    )
