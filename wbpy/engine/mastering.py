"""Make the masters of calibration groups."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wbpy.engine import checking, overscanning, products
from wbpy.engine.context import Context, FrameReader
from wbpy.engine.keeping import write_statistics
from wbpy.engine.overscanning import RawReader
from wbpy.engine.results import MasterFile, cfa_matrix
from wbpy.engine.sources import exposure_and_temperature, finite_median, lacks_bias, provide, readable
from wbpy.engine.store import make_key
from wbpy.io.products import write_fits
from wbpy.model import Frame, Outcome, Product, Step
from wbpy.stages import levels, masters
from wbpy.stages.masters import MastersParams

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def make_master(context: Context, step: Step, done: dict[str, MasterFile]) -> tuple[Outcome, str]:
    """Make the master of a calibration group, unless it stands already, and put it into `done`.

    Returns
    -------
    outcome, why
        ``blocked`` when a flat's own master is missing, ``failed`` when no frame can be read.
    """
    import numpy as np

    group = context.groups[step.group]
    role = group.role
    params = context.params(step, MastersParams)
    provider: MasterFile | None = None
    for name in ("flat_dark", "dark", "bias"):
        for source in step.inputs.get(name, ()):
            provider = provide(context, source, done)
            if provider is None:
                context.find("CAL003", step.id, needed=source)
                return "blocked", f"{source} is missing"
            if name != "bias" and lacks_bias(context, step, provider, None, done, "subtracted from flats"):
                return "blocked", context.rules.findings["CAL006"].title
    readers = readable(context, group.frames, "MAS001")
    lost = len(group.frames) - len(readers)
    if not readers:
        context.find("MAS002", step.id, frames=len(group.frames))
        return "failed", "no frame can be read"
    frames = [reader.frame for reader in readers]
    pedestals = [frame.pedestal or 0.0 for frame in frames]
    # What all frames carry may stay in a master, which keeps its pixels above zero; a flat must lose it.
    common = 0.0 if role == "flat" else max(0.0, max(pedestals))
    key = make_key(
        context.params_key(step),
        role,
        [
            [digest, frame.dn_per_unit, frame.pedestal]
            for digest, frame in zip(context.map(context.digest, [frame.path for frame in frames]), frames, strict=True)
        ],
        provider.key if provider else None,
        *overscanning.settings_key(context),
    )
    path = context.path_of(step.outputs[0])
    about = context.store.product(key, path)
    outcome: Outcome = "partial" if lost else "done"
    if about is not None:
        why = "frames, parameters and file are unchanged"
        outcome = "partial" if lost else "reused"
    else:
        why = "made from its frames"
        calibration = provider.read() if provider else None
        lowered = [
            _Lowered(reader, pedestal - common) if pedestal != common else reader
            for reader, pedestal in zip(readers, pedestals, strict=True)
        ]
        master = masters.run(params, context.work(step), lowered, role, calibration)
        # Without an offset the noise of a master reaches below zero, where a file would cut it.
        lift = 0.0 if role == "flat" else float(max(0, math.ceil(-_least(master.image))))
        about = {
            "pedestal": common + lift,
            "level_dn": float(finite_median(master.image)) - common,
            "levels_dn": [level - common for level in master.levels],
            "rejected_low": list(master.rejected_low),
            "rejected_high": list(master.rejected_high),
            "noise": dataclasses.asdict(master.noise),
            "statistics": _statistics(context, readers),
        }
        pixels, _, _ = products.to_unit_range(master.image + np.float32(lift) if lift else master.image)
        path.parent.mkdir(exist_ok=True)
        names = {name: Path(provider.path).name for name in step.inputs if name != "frames" and provider}
        write_fits(
            path,
            pixels,
            products.master_cards(role, frames, frames[0].cfa, key)
            + overscanning.size_cards(frames[0], pixels.shape)
            + _master_numbers(about),
            products.history([step], names, frames),
        )
        context.store.put_product(key, path, about)
    write_statistics(
        context, group, [(frame.path, rows) for frame, rows in zip(frames, about["statistics"], strict=True)]
    )
    for frame, level, low, high in zip(
        frames, about["levels_dn"], about["rejected_low"], about["rejected_high"], strict=True
    ):
        measured = {"level_dn": level, "rejected_low": low, "rejected_high": high}
        context.frame_result(frame.path, measurements=measured)
        limit = context.rules.findings["MAS003"].limits["share"]
        if low + high > limit:
            context.find("MAS003", frame.path, percent=100 * (low + high), limit_percent=100 * limit)
    _report_master(context, step, about, frames, path)
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
    bias_levels = [master.overscan for name, master in done.items() if "/bias" in name and master.overscan is not None]
    level = overscanning.check_levels(
        context, step, role, readers, about["level_dn"], bias_levels[0] if bias_levels else None
    )
    done[step.id] = MasterFile(
        path,
        key,
        products.DN_RANGE,
        about["pedestal"],
        about["noise"]["measured"],
        *exposure_and_temperature(frames),
        overscan=level,
        level=about["level_dn"],
    )
    return outcome, why


def _statistics(context: Context, readers: Sequence[RawReader]) -> list[list[tuple[str | float | int, ...]]]:
    """Return the rows of each frame in the table of statistics.

    The checks have counted the levels of whole raw frames; what is left after an overscan is counted here.
    """
    if all(isinstance(reader, FrameReader) for reader in readers):
        return [checking.table_rows(one) for one in checking.measured(context, [r.frame.path for r in readers])]
    tables = context.map(lambda reader: levels.of_frame(reader, cfa_matrix(reader.frame)), readers)
    return [[plane.row() for plane in planes] for planes in tables]


class _Lowered:
    """A raw frame read with its pedestal, or a part of it, taken off."""

    def __init__(self, reader: RawReader, pedestal: float) -> None:
        self._reader = reader
        self._pedestal = pedestal

    @property
    def name(self) -> str:
        """File name."""
        return self._reader.name

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self._reader.shape

    def read(self, y0: int, y1: int) -> npt.NDArray[np.float32]:
        """Return rows as (y1 - y0, width) float32, DN."""
        import numpy as np

        return self._reader.read(y0, y1) - np.float32(self._pedestal)

    def words(self, y0: int, y1: int) -> tuple[npt.NDArray[np.uint16], float] | None:
        """Return the stored words of these rows and what to add to them."""
        stored = self._reader.words(y0, y1)
        return None if stored is None else (stored[0], stored[1] - self._pedestal)


def _master_numbers(about: dict[str, Any]) -> list[products.Card]:
    """Return header cards for what was measured of a master."""
    cards: list[products.Card] = [("LEVELDN", round(about["level_dn"], 3), "[DN] median, without pedestal")]
    noise = about["noise"]
    for keyword, name, comment in (
        ("FRMNOISE", "frame", "[DN] noise of one frame in time"),
        ("EXPNOISE", "expected", "[DN] noise expected of their average"),
        ("MSTNOISE", "measured", "[DN] noise measured of their average"),
    ):
        if math.isfinite(noise[name]):
            cards.append((keyword, round(noise[name], 4), comment))
    if about["pedestal"]:
        cards.append(("PEDESTAL", about["pedestal"], "[DN] in the pixels, to be subtracted"))
    return cards


def _report_master(context: Context, step: Step, about: dict[str, Any], frames: Sequence[Frame], path: Path) -> None:
    """Say what a master is made of and how even and how noisy it is."""
    role = context.groups[step.group].role.replace("_", "-")
    noise = about["noise"]
    rejected = [low + high for low, high in zip(about["rejected_low"], about["rejected_high"], strict=True)]
    numbers = {name: value if math.isfinite(value) else None for name, value in noise.items()}
    text = (
        f"Master {role} of {len(frames)} frames, level {about['level_dn']:.1f} DN, rejected "
        f"{100 * min(rejected):.3f} to {100 * max(rejected):.3f} % of a frame: {path.name}"
    )
    if numbers["frame"] is not None:
        measured = f"{noise['measured']:.3f} DN measured" if numbers["measured"] is not None else "not measured"
        text += (
            f". Noise of a frame {noise['frame']:.2f} DN, of the master {noise['expected']:.3f} DN expected "
            f"(1/sqrt n), {measured}; levels differ by {noise['level_spread']:.1f} DN, "
            f"gradients by {noise['gradient_spread']:.1f} DN"
        )
    context.say(
        text,
        step,
        frames=len(frames),
        level_dn=about["level_dn"],
        rejected_least=min(rejected),
        rejected_most=max(rejected),
        **{f"noise_{n}_dn" if n in ("frame", "expected", "measured") else f"{n}_dn": v for n, v in numbers.items()},
    )
    factor = context.rules.findings["MAS004"].limits["factor"]
    if math.isfinite(noise["measured"]) and noise["measured"] > factor * noise["expected"] > 0:
        context.find(
            "MAS004", step.id, measured_dn=noise["measured"], expected_dn=noise["expected"], frames=len(frames)
        )


def _least(image: npt.NDArray[np.float32]) -> float:
    import numpy as np

    return float(np.nanmin(image)) if np.isfinite(image).any() else 0.0


def _total(frames: Sequence[Frame]) -> float | None:
    exposures = [frame.exposure for frame in frames if frame.exposure is not None]
    return round(sum(exposures), 6) if exposures else None
