"""RGB: the integrations of three filters become one picture in colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from wbpy.model import Group, Scalar
from wbpy.stages.base import Input, Output, Params, Stage

if TYPE_CHECKING:
    from wbpy.stages.base import FloatArray


class RgbParams(Params, frozen=True, kw_only=True):
    """Which filters become which colours."""

    use: Annotated[
        bool, Meta(description="write one picture in colour where a target has integrations of all three filters")
    ] = True
    red: Annotated[str, Meta(min_length=1, description="filter that becomes red, for example SII")] = "R"
    green: Annotated[str, Meta(min_length=1, description="filter that becomes green, for example Ha")] = "G"
    blue: Annotated[str, Meta(min_length=1, description="filter that becomes blue, for example OIII")] = "B"
    luminance: Annotated[
        str, Meta(min_length=1, description="filter whose integration takes the place of the brightness, or none")
    ] = "none"


@dataclass(frozen=True)
class ColourSet:
    """Integrations that become one picture in colour."""

    red: Group
    green: Group
    blue: Group
    luminance: Group | None

    @property
    def members(self) -> tuple[Group, ...]:
        """Its groups, red first; one filter may stand for two colours."""
        groups = (self.red, self.green, self.blue)
        return groups if self.luminance is None else (*groups, self.luminance)

    @property
    def word(self) -> str:
        """Initials of its filters, such as ``RGB``, ``LRGB`` or ``SHO``."""
        groups = self.members if self.luminance is None else (self.luminance, *self.members[:3])
        return "".join(str(group.key["filter"])[0].upper() for group in groups)


@dataclass(frozen=True)
class ColourSets:
    """What the integrations of one reference give in colour."""

    sets: tuple[ColourSet, ...]
    missing: tuple[str, ...] = ()
    """Filters that are not there, although enough others are to expect them."""
    several: tuple[str, ...] = ()
    """Filters of which there are several integrations, none of which fits those of the others."""


def colour_sets(params: RgbParams, integrations: Sequence[Group]) -> ColourSets:
    """Return which integrations of one reference become pictures in colour.

    Integrations that differ in nothing but the filter belong together. Where no three do, the one of each filter is
    taken if it is the only one, whatever its exposure.

    Parameters
    ----------
    params : RgbParams
        The stage's parameters.
    integrations : sequence of Group
        Integration groups on one grid; those of colour cameras are left out.
    """
    wanted = (params.red, params.green, params.blue)
    of_filter: dict[str, list[Group]] = {}
    for group in integrations:
        if group.key.get("cfa") is None and group.key.get("filter") is not None:
            of_filter.setdefault(str(group.key["filter"]), []).append(group)
    present = [name for name in dict.fromkeys(wanted) if name in of_filter]
    missing = tuple(name for name in dict.fromkeys(wanted) if name not in of_filter)
    if missing:
        return ColourSets((), missing if len(present) >= max(1, len(set(wanted)) - 1) else ())
    alike: dict[tuple[tuple[str, Scalar], ...], dict[str, Group]] = {}
    for groups in of_filter.values():
        for group in groups:
            rest = tuple((name, value) for name, value in group.key.items() if name != "filter")
            alike.setdefault(rest, {})[str(group.key["filter"])] = group
    complete = [filters for filters in alike.values() if all(name in filters for name in wanted)]
    if not complete:
        several = tuple(name for name in present if len(of_filter[name]) > 1)
        if several:
            return ColourSets((), several=several)
        complete = [{name: of_filter[name][0] for name in wanted}]
    luminances = of_filter.get(params.luminance, [])
    sets = []
    for filters in complete:
        luminance = filters.get(params.luminance) or (luminances[0] if len(luminances) == 1 else None)
        red, green, blue = (filters[name] for name in wanted)
        sets.append(ColourSet(red, green, blue, luminance))
    # Those with a luminance first, so that the n-th luminance of a plan belongs to the n-th picture.
    sets.sort(key=lambda one: one.luminance is None)
    absent = params.luminance != "none" and any(found.luminance is None for found in sets)
    return ColourSets(tuple(sets), (params.luminance,) if absent else ())


def run(planes: FloatArray, luminance: FloatArray | None, scale: float, offset: float) -> FloatArray:
    """Return rows of the picture in colour.

    Without a luminance the planes as they are. With one, its difference from the mean of the planes is added to all
    three: the differences between the colours stay, and nothing is divided by a noisy sky.

    Parameters
    ----------
    planes : (3, h, w) float32 ndarray
        Red, green, blue, all with one pedestal. NaN where no light covers.
    luminance : (h, w) float32 ndarray or None
    scale, offset : float
        Bring the luminance to the level and scale of the planes' mean, see `fit_luminance`.

    Returns
    -------
    (3, h, w) float32 ndarray
        NaN where any of them is NaN.
    """
    import numpy as np

    missing = np.isnan(planes).any(axis=0)
    if luminance is None:
        result = planes.copy()
    else:
        mean = planes.mean(axis=0, dtype=np.float64)
        result = (planes + (scale * luminance.astype(np.float64) + offset - mean)).astype(np.float32)
    result[:, missing] = np.nan
    return result


def fit_luminance(planes: FloatArray, luminance: FloatArray) -> tuple[float, float]:
    """Return scale and offset that bring a luminance to the mean of three planes.

    Least squares through the medians, on reduced copies, in which the sky's noise does not count for much against
    stars and nebulae.

    Parameters
    ----------
    planes : (3, h, w) float32 ndarray
    luminance : (h, w) float32 ndarray
    """
    import numpy as np

    mean = planes.mean(axis=0, dtype=np.float64)
    kept = np.isfinite(mean) & np.isfinite(luminance)
    x, y = luminance[kept].astype(np.float64), mean[kept]
    if not x.size:
        return 1.0, 0.0
    dx, dy = x - np.median(x), y - np.median(y)
    spread = float((dx * dx).sum())
    scale = float((dx * dy).sum()) / spread if spread > 0 else 1.0
    if scale <= 0:
        scale = 1.0
    return scale, float(np.median(y) - scale * np.median(x))


RGB = Stage(
    name="rgb",
    version=2,
    per="registration group",
    title="Combine three filters into one picture in colour",
    run=run,
    params=RgbParams,
    inputs=(
        Input("red", "integration"),
        Input("green", "integration"),
        Input("blue", "integration"),
        Input("luminance", "integration", optional=True),
        Input("drizzle", "drizzle", optional=True),
        Input("autocrop", "integration_autocrop", optional=True),
    ),
    outputs=(Output("rgb", "rgb", "1"), Output("preview", "preview", "")),
    findings=("RGB001", "RGB002", "RGB003"),
    memory=lambda height, width: 64_000_000,
)
