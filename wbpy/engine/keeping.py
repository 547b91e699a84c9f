"""Write treated frames that were asked for with ``--keep``, and the tables of statistics."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wbpy.engine import products
from wbpy.engine.context import Context
from wbpy.engine.store import make_key
from wbpy.io.products import write_fits
from wbpy.model import Frame, Group, Step
from wbpy.stages import levels

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def write_statistics(context: Context, group: Group, rows: Sequence[tuple[str, Sequence[Sequence[Any]]]]) -> None:
    """Write the statistics of a group's frames as CSV, one line for each frame and plane, and say them in the logs."""
    import csv
    import io
    import re

    from wbpy.io.products import write_atomic

    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["file", *levels.COLUMNS])
    for path, planes in rows:
        for plane in planes:
            table.writerow([path, *plane])
    folder = context.out / "statistics"
    folder.mkdir(exist_ok=True)
    saved = folder / f"{re.sub(r'[^A-Za-z0-9._+-]+', '_', group.id)}.csv"
    write_atomic(saved, text.getvalue().encode("utf-8"))
    step = next((step for step in context.plan.steps if step.group == group.id), None)
    context.say(
        f"Raw frames of {group.id} as in {saved.name}: mean, median, MAD, minimum, maximum in DN, pixels at zero, "
        f"pixels from {levels.HIGH_DN:.0f} DN on",
        step,
        frames=len(rows),
    )
    for file, planes in rows:
        told = "; ".join(
            f"{plane[0]} {' '.join(f'{number:.6g}' for number in plane[1:6])} {plane[6]} {plane[7]}" for plane in planes
        )
        numbers = {
            f"{name}_{plane[0].lower()}": value
            for plane in planes
            for name, value in zip(levels.COLUMNS[1:], plane[1:], strict=True)
        }
        context.say(f"{Path(file).name}: {told}", step, path=file, **numbers)


def kept_path(context: Context, frame: Frame, kind: str) -> Path:
    """Return where a kept frame is written: numbered when two frames have one name."""
    name = Path(frame.path).name.split(".fit")[0]
    same = sorted(path for path in context.frames if Path(path).name.split(".fit")[0] == name)
    number = f"_{same.index(frame.path) + 1}" if len(same) > 1 else ""
    return context.out / "frames" / kind / f"{name}{number}_{kind}.fits"


def write_kept(
    context: Context,
    frame: Frame,
    kind: str,
    image: npt.NDArray[np.float32],
    key: str,
    steps: Sequence[Step],
    pedestal: float = 0.0,
    cards: Sequence[products.Card] = (),
) -> None:
    """Write one treated frame that was asked for with --keep, cut to [0, 1], and report what was cut.

    The cut is the only one of a calibration; `pedestal`, in DN, is added before and stands in the header.
    """
    import numpy as np

    pixels, below, above = products.to_unit_range(image + np.float32(pedestal) if pedestal else image)
    path = kept_path(context, frame, kind)
    own = make_key(kind, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    header = [*products.frame_cards(frame, kind, own), *cards]
    if pedestal:
        header.append(("PEDESTAL", pedestal, "[DN] in the pixels, to be subtracted"))
    write_fits(path, pixels, header, products.history(steps, {}, [frame]))
    context.store.put_product(own, path, {})
    if pedestal or cards:
        context.say(
            f"{path.name}: pedestal {pedestal:g} DN, cut at the ends of the range: {below} pixels below, {above} above",
            steps[0],
            pedestal_dn=pedestal,
            cut_below=below,
            cut_above=above,
        )
    share = (below + above) / image.size
    limit = context.rules.findings["CAL004"].limits["share"]
    if share > limit:
        context.find("CAL004", str(path), percent=100 * share, below=below, above=above)
