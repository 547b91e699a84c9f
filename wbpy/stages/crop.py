"""Crop: the rectangle that enough lights of every filter cover, so that the pictures of a target stay aligned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from wbpy.stages.base import Input, Output, Params, Stage
from wbpy.stages.framing import covered
from wbpy.stages.register import Transform

PICTURES = {"integrate": "integration", "drizzle": "drizzle"}
"""Stage -> kind of those of its outputs that are cropped."""

CROPPED = "_autocrop"
"""What is added to the name and the kind of a picture whose edges were cut off."""


class CropParams(Params, frozen=True, kw_only=True):
    """How the edges that few lights reach are cut off."""

    use: Annotated[
        bool, Meta(description="write each integration a second time without the edges that few lights reach")
    ] = True
    coverage: Annotated[
        float, Meta(gt=0, le=1, description="share of an integration's lights that must reach every pixel that is kept")
    ] = 0.75


@dataclass(frozen=True)
class Covering:
    """The lights of one integration."""

    transforms: Sequence[Transform]
    """Output grid -> light."""
    frames: Sequence[tuple[int, int]]
    """(height, width) of each light."""


@dataclass(frozen=True)
class Rectangle:
    """Pixels of the output grid, ends excluded."""

    x0: int
    y0: int
    x1: int
    y1: int

    def scaled(self, factor: int) -> Rectangle:
        """Return the same part of a grid with `factor` times as many pixels a side."""
        return Rectangle(*(factor * value for value in (self.x0, self.y0, self.x1, self.y1)))

    def joined(self, side: int) -> Rectangle:
        """Return the part of a grid whose pixels are made of `side` x `side` that lies wholly inside of this one."""
        return Rectangle(-(-self.x0 // side), -(-self.y0 // side), self.x1 // side, self.y1 // side)

    def upside_down(self, height: int) -> Rectangle:
        """Return the same part of a picture of `height` rows that begins with what was its last row."""
        return Rectangle(self.x0, height - self.y1, self.x1, height - self.y0)


def run(params: CropParams, integrations: Sequence[Covering], shape: tuple[int, int]) -> Rectangle | None:
    """Return the largest rectangle that enough lights of every integration cover; None when there is none.

    Parameters
    ----------
    params : CropParams
        The stage's parameters.
    integrations : sequence of Covering
        All integrations on one grid.
    shape : tuple of int
        (height, width) of the grid.
    """
    import numpy as np

    from wbpy.kernels import footprints

    firsts, lasts, owner, needed = [], [], [], []
    for number, integration in enumerate(integrations):
        for transform, frame in zip(integration.transforms, integration.frames, strict=True):
            first, last = footprints.spans(covered(transform, frame), shape)
            firsts.append(first)
            lasts.append(last)
            owner.append(number)
        # The hair less is for shares such as 0.7 of 10 lights, which are no exact numbers.
        needed.append(max(1, math.ceil(params.coverage * len(integration.transforms) - 1e-9)))
    if not firsts:
        return None
    found = footprints.common_rectangle(
        np.stack(firsts), np.stack(lasts), np.array(owner, np.int32), np.array(needed, np.int32), shape[1]
    )
    return None if found is None else Rectangle(*found)


CROP = Stage(
    name="crop",
    version=2,
    per="registration group",
    title="Cut off the edges that few lights reach",
    run=run,
    params=CropParams,
    inputs=(Input("integration", "integration"), Input("drizzle", "drizzle", optional=True)),
    outputs=(Output("autocrop", "integration_autocrop", "1"),),
    findings=("CRP001", "CRP002"),
    memory=lambda height, width: 16_000_000,
)
