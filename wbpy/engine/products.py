"""What is written for the user: masters, integrations, maps and kept frames, each with a full header."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from wbpy.io.products import FitsWriter
from wbpy.model import Frame, Plan, Scalar, Step

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from wbpy.io.wcs import Wcs
    from wbpy.io.xisf import XisfWriter

Card = tuple[str, Any, str]

DN_RANGE = 65535.0
"""DN that become 1.0 in a product."""

COLOURS = "RGB"
"""Channels of frames with a CFA, in order."""

PIXEL_SIZES = ("XPIXSZ", "YPIXSZ", "PIXSIZE1", "PIXSIZE2", "PIXSCALE", "SCALE", "SECPIX", "SECPIX1", "SECPIX2")
"""Keywords with the size of a pixel, for pictures whose pixels are not those of the lights."""

_AGREED: tuple[tuple[str, str, str], ...] = (
    ("camera", "INSTRUME", "camera"),
    ("gain", "GAIN", "camera setting"),
    ("offset", "OFFSET", "camera setting"),
    ("e_per_dn", "EGAIN", "electrons per DN of the raw frames"),
    ("iso", "ISOSPEED", "camera setting"),
    ("read_mode", "READOUTM", "read mode"),
    ("xbinning", "XBINNING", ""),
    ("ybinning", "YBINNING", ""),
    ("temp_set", "SET-TEMP", "[degC] set point"),
    ("filter", "FILTER", ""),
    ("object", "OBJECT", ""),
    ("focal_length", "FOCALLEN", "[mm]"),
    ("pixel_size", "XPIXSZ", "[um]"),
    ("row_order", "ROWORDER", ""),
    ("rotator", "ROTATANG", "[deg]"),
    ("pier_side", "PIERSIDE", ""),
)

_MASTER_TYPES = {"bias": "Master Bias", "dark": "Master Dark", "flat": "Master Flat", "flat_dark": "Master Flat Dark"}


def version() -> str:
    """Return the version of the installed package."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed("wbpy")
    except PackageNotFoundError:
        return "0+unknown"


def agreed_cards(frames: Sequence[Frame], *, exclude: Sequence[str] = ()) -> list[Card]:
    """Return header cards for the values on which all `frames` agree, and for their times and temperatures.

    Parameters
    ----------
    frames : sequence of Frame
        The inputs of a product, at least one.
    exclude : sequence of str
        Fields that do not describe the product, such as the object of a dark.
    """
    cards: list[Card] = []
    for field, keyword, comment in _AGREED:
        values = {getattr(frame, field) for frame in frames}
        if field not in exclude and len(values) == 1 and (value := values.pop()) is not None:
            cards.append((keyword, value, comment))
    exposures = sorted(frame.exposure for frame in frames if frame.exposure is not None)
    if exposures:
        cards.append(("EXPTIME", exposures[len(exposures) // 2], "[s] exposure of one frame (median)"))
        cards.append(("TOTALEXP", round(sum(exposures), 6), "[s] sum over the frames"))
    temperatures = [frame.temp_ccd for frame in frames if frame.temp_ccd is not None]
    if temperatures:
        cards.append(("CCD-TEMP", round(sum(temperatures) / len(temperatures), 3), "[degC] mean over the frames"))
    times = _times(frames)
    if times is not None:
        start, end = (time.isoformat(timespec="milliseconds") for time in times)
        cards.append(("DATE-OBS", start, "[UTC] start of the first exposure"))
        cards.append(("DATE-END", end, "[UTC] end of the last exposure"))
    return cards


def _times(frames: Sequence[Frame]) -> tuple[datetime, datetime] | None:
    """Return when the first exposure began and the last one ended, UTC; None where no frame says it."""
    spans = []
    for frame in frames:
        if frame.date_obs is not None:
            start = datetime.fromisoformat(frame.date_obs.removesuffix("Z"))
            spans.append((start, start + timedelta(seconds=frame.exposure or 0.0)))
    return (min(start for start, _ in spans), max(end for _, end in spans)) if spans else None


def master_cards(role: str, frames: Sequence[Frame], cfa: str | None, key: str) -> list[Card]:
    """Return the header of a master made from `frames`."""
    exclude = ["object", "rotator", "pier_side", "focal_length"] if role != "flat" else ["object"]
    if role != "flat":
        exclude.append("filter")
    cards: list[Card] = [("IMAGETYP", _MASTER_TYPES[role], "type of image")]
    cards += agreed_cards(frames, exclude=exclude)
    if cfa is not None:
        cards.append(("BAYERPAT", cfa, "CFA pattern of the stored rows"))
    return cards + _own_cards(f"master_{role}", len(frames), key)


def integration_cards(
    frames: Sequence[Frame], reference: Frame, kind: str, key: str, row_order: str | None = None
) -> list[Card]:
    """Return the header of an integration of `frames` on the grid of `reference`.

    `row_order` is what counts for a reference that does not say it.
    """
    cards: list[Card] = [("IMAGETYP", "Master Light", "type of image")]
    # The rows are those of the reference, whatever the others' order was.
    cards += agreed_cards(frames, exclude=["rotator", "pier_side", "row_order"])
    order = reference.row_order or row_order
    if order is not None:
        cards.append(("ROWORDER", order, "order of the stored rows"))
    exposures = [frame.exposure for frame in frames if frame.exposure is not None]
    if exposures:
        cards.append(("LIVETIME", round(sum(exposures), 6), "[s] sum over the frames"))
    times = _times(frames)
    if times is not None:
        start, end = (_julian(time) for time in times)
        cards.append(("EXPSTART", start, "[d] Julian date, start of the first exposure"))
        cards.append(("EXPEND", end, "[d] Julian date, end of the last exposure"))
    if reference.ra is not None and reference.dec is not None:
        cards.append(("RA", reference.ra, "[deg] of the registration reference"))
        cards.append(("DEC", reference.dec, "[deg] of the registration reference"))
    cards.append(("REFFRAME", Path(reference.path).name, "registration reference"))
    return cards + _own_cards(kind, len(frames), key)


def row_order(plan: Plan, reference: Frame) -> str:
    """Return the order of the rows of pictures on the grid of `reference`, assumed where its header does not say it."""
    return reference.row_order or str(plan.settings["scan"]["row_order"].value)


def sky_cards(sky: Wcs | None, path: Path, row_order: str | None, height: int) -> list[Card]:
    """Return the cards that place a picture of `height` rows on the sky; none without coordinates.

    In XISF they count rows from the bottom of the picture, as PixInsight does; in FITS as they are stored.
    """
    if sky is None:
        return []
    from_top = path.suffix == ".xisf" and row_order != "BOTTOM-UP"
    return list((sky.upside_down(height) if from_top else sky).cards())


def _julian(time: datetime) -> float:
    """Return the Julian date of a UTC time; that of 1970-01-01 is 2440587.5."""
    return round(2440587.5 + (time - datetime(1970, 1, 1)).total_seconds() / 86400, 8)


def frame_cards(frame: Frame, kind: str, key: str) -> list[Card]:
    """Return the header of one treated frame."""
    cards: list[Card] = [("IMAGETYP", "Light Frame", "type of image"), *agreed_cards([frame])]
    if frame.cfa is not None and kind in ("calibrated", "cosmetic"):
        cards.append(("BAYERPAT", frame.cfa, "CFA pattern of the stored rows"))
    cards.append(("CALSTAT", "wbpy", "calibrated by"))
    return cards + _own_cards(kind, 1, key)


def _own_cards(kind: str, count: int, key: str) -> list[Card]:
    return [
        ("NCOMBINE", count, "frames combined"),
        ("STACKCNT", count, "frames combined"),
        ("DNSCALE", DN_RANGE, "DN of the 16-bit scale that are 1.0 here"),
        ("WBPYKIND", kind, "what this file is"),
        ("WBPYKEY", key, "hash of all that decided the pixels"),
        ("SWCREATE", f"wbpy {version()}", "program"),
    ]


def history(steps: Sequence[Step], inputs: dict[str, str], frames: Sequence[Frame]) -> list[str]:
    """Return HISTORY lines: stages with parameters and decisions by hand, masters by role, names of the frames."""
    lines = []
    for step in steps:
        values = ", ".join(f"{name}={_show(param.value)}" for name, param in step.params.items())
        lines.append(f"wbpy {step.stage} {step.version}: {values}")
        lines += [f"by hand: {note}" for note in step.notes]
    lines += [f"{role}: {name}" for role, name in inputs.items()]
    lines += [f"frame: {Path(frame.path).name}" for frame in frames]
    return lines


def _show(value: Scalar) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def to_unit_range(rows: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], int, int]:
    """Return pixels scaled from DN to [0, 1] and how many were cut below and above; NaN becomes 0.

    Parameters
    ----------
    rows : float32 ndarray, DN
        Of any shape.
    """
    import numpy as np

    scaled = rows * np.float32(1 / DN_RANGE)
    below = int(np.count_nonzero(scaled < 0))
    above = int(np.count_nonzero(scaled > 1))
    np.nan_to_num(scaled, copy=False, nan=0.0)
    np.clip(scaled, 0.0, 1.0, out=scaled)
    return scaled, below, above


def split_name(name: str, channels: int) -> tuple[str, slice]:
    """Return what an output of a step holds, and which planes of it: ``integration_R`` is the first one."""
    what, _, letter = name.rpartition("_")
    if what and letter in tuple(COLOURS):
        channel = COLOURS.index(letter)
        return what, slice(channel, channel + 1)
    return name, slice(0, channels)


class PictureFiles:
    """Pictures and maps that are written tile by tile, each into a FITS file or several into one XISF file.

    Use it in a ``with`` statement: without :meth:`commit` no file appears.
    """

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._writers: list[FitsWriter | XisfWriter] = []
        self._sheets: dict[str, tuple[FitsWriter | XisfWriter, str]] = {}

    def add(
        self,
        path: Path,
        images: Sequence[tuple[str, str, tuple[int, ...]]],
        cards: Sequence[Card],
        history: Sequence[str] = (),
    ) -> None:
        """Open a file for images: name for `write_rows`, name in the file, shape.

        The format follows from the suffix; FITS holds one image and no name.
        """
        writer: FitsWriter | XisfWriter
        if path.suffix == ".xisf":
            from wbpy.io.xisf import XisfWriter

            writer = XisfWriter(path, [image[1:] for image in images], cards, history, creator=f"wbpy {version()}")
        else:
            [(_, _, shape)] = images
            writer = FitsWriter(path, shape, cards, history)
        self._stack.enter_context(writer)
        self._writers.append(writer)
        self._sheets |= {name: (writer, own) for name, own, _ in images}

    def write_rows(self, name: str, channel: int, y0: int, rows: npt.NDArray[np.float32]) -> None:
        """Write `rows` (n, W) float32 of a channel of the image called `name` from row `y0` on."""
        writer, own = self._sheets[name]
        if isinstance(writer, FitsWriter):
            writer.write_rows(channel, y0, rows)
        else:
            writer.write_rows(own, channel, y0, rows)

    def commit(self) -> None:
        """Publish all files under their final names."""
        for writer in self._writers:
            writer.commit()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


class Thumbnail:
    """A reduced copy of an image that arrives in strips.

    Parameters
    ----------
    shape : tuple of int
        (channels, height, width) of the full image.
    largest : int
        Largest side of the copy, px.
    """

    def __init__(self, shape: tuple[int, int, int], largest: int = 1600) -> None:
        import numpy as np

        channels, height, width = shape
        self._factor = max(1, -(-max(height, width) // largest))
        self._sum = np.zeros((channels, -(-height // self._factor), -(-width // self._factor)))
        self._count = np.zeros_like(self._sum)

    def add(self, y0: int, rows: npt.NDArray[np.float32]) -> None:
        """Take in (C, h, W) pixels whose first row is `y0`; NaN counts as missing."""
        import numpy as np

        present = np.isfinite(rows)
        starts = np.arange(0, rows.shape[2], self._factor)
        values = np.add.reduceat(np.where(present, rows, 0), starts, axis=2, dtype=np.float64)
        counts = np.add.reduceat(present, starts, axis=2, dtype=np.float64)
        for row in range(rows.shape[1]):
            target = (y0 + row) // self._factor
            self._sum[:, target] += values[:, row]
            self._count[:, target] += counts[:, row]

    def image(self) -> npt.NDArray[np.float32]:
        """Return the (C, h, w) means; NaN where nothing was present."""
        import numpy as np

        empty = self._count == 0
        mean = self._sum / np.where(empty, 1, self._count)
        mean[empty] = np.nan
        return mean.astype(np.float32)
