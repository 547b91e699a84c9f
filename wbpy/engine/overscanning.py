"""Open raw frames as the stages are to see them: their overscan applied and cut off, where the configuration asks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from wbpy.engine.context import Context, FrameReader
from wbpy.engine.products import Card
from wbpy.io.headers import load_header
from wbpy.model import Frame, Step
from wbpy.rules import find_sensor
from wbpy.stages import overscan
from wbpy.stages.overscan import CorrectedReader, Overscan

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MISSING = "OVS001"
"""Finding about a frame that lacks the overscan that is to be applied."""


class PictureReader(CorrectedReader):
    """A raw frame without its overscan that remembers which frame it is."""

    def __init__(self, reader: FrameReader, where: Overscan) -> None:
        super().__init__(reader, where)
        self.frame = reader.frame


RawReader = FrameReader | PictureReader


def settings_key(context: Context) -> list[Any]:
    """Return what the overscan's settings contribute to a key; empty when it is off."""
    settings = _settings(context)
    if settings["use"] == "off":
        return []
    known = settings["use"] in ("camera", "auto")
    # What is known of cameras decides pixels as settings do; headers are part of the frames' own identity.
    rules = [sensor.overscan for sensor in context.rules.sensors.values() if sensor.overscan] if known else []
    return [settings, *([msgspec.to_builtins(rules)] if rules else [])]


def _settings(context: Context) -> dict[str, Any]:
    return {name: param.value for name, param in context.plan.settings.get("overscan", {}).items()} or {"use": "off"}


def in_use(context: Context) -> bool:
    """Return whether raw frames are corrected by their overscan."""
    return bool(_settings(context)["use"] != "off")


def where(context: Context, frame: Frame) -> Overscan | None:
    """Return the overscan of a frame's camera; None when none is to be applied or none is known."""
    settings = _settings(context)
    use, found = settings["use"], None
    if use == "regions":
        return overscan.from_settings(settings["regions"], settings["image"])
    if use in ("header", "auto"):
        found = overscan.from_header({card.keyword: card.value for card in load_header(frame.path).cards})
    if use in ("camera", "auto") and found is None:
        found = _of_camera(context, frame)
    return found.on_whole_cells(math.isqrt(len(frame.cfa))) if found is not None and frame.cfa is not None else found


def _of_camera(context: Context, frame: Frame) -> Overscan | None:
    """Return the overscan that is known of the camera in frames of this size."""
    sensor = find_sensor(context.rules, frame.camera)
    for known in sensor.overscan if sensor is not None else ():
        if (known.width, known.height) == (frame.width, frame.height):
            found = overscan.from_settings(known.regions, known.image)
            return found.turned(known.height) if frame.row_order == "BOTTOM-UP" else found
    return None


def size_cards(frame: Frame, shape: tuple[int, int]) -> list[Card]:
    """Return header cards with the size of a master's frames, where their overscan was cut off."""
    if (frame.height, frame.width) == shape or frame.width is None or frame.height is None:
        return []
    return [
        ("PREOVSCW", frame.width, "[px] width of the frames before their overscan was cut"),
        ("PREOVSCH", frame.height, "[px] height, likewise"),
    ]


def open_raw(context: Context, frame: Frame) -> RawReader | None:
    """Return a reader for a raw frame, None when it lacks the overscan that is to be applied.

    Raises
    ------
    ReadError
        If the file cannot be read.
    """
    reader = FrameReader(frame, context.store)
    if _settings(context)["use"] == "off":
        return reader
    found = where(context, frame)
    return PictureReader(reader, found) if found is not None and found.matches(reader.shape) else None


def read_master(context: Context, frame: Frame, image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return a finished master found on disk in the geometry of the corrected frames."""
    found = where(context, frame)
    return image if found is None else overscan.of_master(image, found, frame.role == "flat")


def check_levels(
    context: Context, step: Step, role: str, readers: Sequence[RawReader], signal: float, bias_level: float | None
) -> float | None:
    """Report an overscan that cannot be trusted, and return its median level over the frames, DN.

    Parameters
    ----------
    context : Context
        The execution.
    step : Step
        The master's step.
    role : str
        Role of the frames.
    readers : sequence of RawReader
        The frames, opened.
    signal : float, DN
        Level of the master, overscan subtracted.
    bias_level : float, optional
        Overscan level of the bias frames, DN.

    Returns
    -------
    float or None
        None without overscan.
    """
    pictures = [reader for reader in readers if isinstance(reader, PictureReader)]
    found = [pair for reader in pictures for pair in reader.levels if math.isfinite(pair[0])]
    if not found:
        return None
    levels = sorted(level for level, _ in found)
    level = levels[len(levels) // 2]
    spreads = sorted(spread for _, spread in found)
    spread = spreads[len(spreads) // 2]
    limits = context.rules.findings["OVS002"].limits
    if role == "bias" and spread > limits["spread_dn"]:
        context.find("OVS002", step.id, spread_dn=spread, limit_dn=limits["spread_dn"])
    limits = context.rules.findings["OVS004"].limits
    # Of each frame the first region: others may have a level of their own.
    own = [reader.levels[0][0] for reader in pictures if math.isfinite(reader.levels[0][0])]
    if role == "bias" and len(own) >= limits["frames"] and max(own) - min(own) < limits["dn"]:
        context.find("OVS004", step.id, range_dn=max(own) - min(own), frames=len(own))
    if role != "bias" and bias_level is not None:
        limits = context.rules.findings["OVS003"].limits
        allowed = max(limits["dn"], limits["share_of_flat" if role == "flat" else "share_of_dark"] * signal)
        if level - bias_level > allowed:
            context.find("OVS003", step.id, role=role, excess_dn=level - bias_level, limit_dn=allowed)
    context.say(
        f"Overscan {levels[0]:.1f} to {levels[-1]:.1f} DN, parts of it differ by {spread:.2f} DN",
        step,
        overscan_dn=level,
        overscan_lowest_dn=levels[0],
        overscan_highest_dn=levels[-1],
        overscan_spread_dn=spread,
    )
    return level
