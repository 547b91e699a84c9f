"""Register: the transform that lays each frame on the reference, from star patterns (guide, section 9.5)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from wbpy.stages.base import Input, Output, Params, Stage, Window
from wbpy.stages.measure import Measurement

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


FEWEST_TRUSTED = 6
"""With fewer stars of good profile, all detections are matched."""
MODELS: tuple[Literal["similarity", "affine", "homography"], ...] = ("similarity", "affine", "homography")
COLOUR_STARS = 300
"""Brightest stars that are measured in each colour."""
COLOUR_ORDERS = (0, 1, 2, 3)
LEAST_COLOUR_SHIFT = 0.05
"""Distance of red or blue from green that is worth a correction, px."""


class RegisterParams(Params, frozen=True, kw_only=True):
    """How star patterns are matched."""

    model: Annotated[
        Literal["auto", "similarity", "affine", "homography"],
        Meta(description="form of the transform; auto takes the simplest that explains the stars"),
    ] = "auto"
    tolerance_px: Annotated[float, Meta(gt=0, description="largest distance of a matched star, px")] = 2.0
    distortion: Annotated[
        Literal["off", "auto", "polynomial", "spline"],
        Meta(description="what is added to the transform; auto: polynomial and spline where left-out stars ask for it"),
    ] = "auto"
    lateral_colour: Annotated[
        Literal["off", "auto", "on"],
        Meta(description="one-shot colour: bring red and blue onto green; auto: where left-out stars ask for it"),
    ] = "auto"


def no_displacement() -> npt.NDArray[np.float64]:
    """Return the displacement of a transform that has none."""
    import numpy as np

    return np.zeros((0, 0, 0, 2))


@dataclass(frozen=True)
class Transform:
    """Where the reference's pixels lie in a frame."""

    matrix: npt.NDArray[np.float64]
    """(3, 3): homogeneous (x, y, 1) of the reference -> frame, pixels, 0-based."""
    rms: float
    """Residual of the matched stars, weighted by the accuracy of their positions, px."""
    stars: int
    """Matched stars."""
    model: str
    displacement: npt.NDArray[np.float64] = field(default_factory=no_displacement)
    """(K, gy, gx, 2): what is added to the mapped point, dx and dy in px of the frame, at every `displacement_step` px
    of the reference; for all channels or one for each; K = 0 without. See `wbpy.kernels.distortion`."""
    displacement_step: int = 0
    """Distance of its nodes, px of the reference."""
    heldout_rms: float = math.nan
    """Like `rms`, of stars that each were predicted from the other four fifths; NaN with fewer than ten stars."""
    distortion: str = "none"
    """What was added to the plane transform: "none", "polynomial" with its order, "spline"."""
    better_rms: float = math.nan
    """What `heldout_rms` would be with a distortion that left-out stars ask for but is switched off; else NaN."""
    residual_map: tuple[tuple[float, float], ...] = ((math.nan, math.nan),) * 9
    """Median residual (dx, dy) of the stars in three rows of three cells of the reference, px; of all stars within the
    tolerance, those that were left out of the fit included; NaN with fewer than three."""
    colour_shift: tuple[float, ...] = ()
    """Largest distance of red and of blue from green within the frame, px; empty where it was not corrected."""

    @property
    def distortion_px(self) -> float:
        """Largest displacement of the middle channel, px of the frame; 0 without any."""
        import numpy as np

        nodes = channel_nodes(self.displacement, 1)
        return float(np.hypot(nodes[..., 0], nodes[..., 1]).max()) if nodes.size else 0.0

    def apply(self, points: npt.NDArray[np.float64], channel: int = 0) -> npt.NDArray[np.float64]:
        """Return points (n, 2) of the reference in the frame, as a channel of it sees them."""
        from wbpy.kernels import distortion

        nodes = channel_nodes(self.displacement, channel)
        return distortion.apply(self.matrix, nodes, self.displacement_step, points)

    def invert(self, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return points (n, 2) of the frame, as its middle channel sees them, in the reference."""
        from wbpy.kernels import distortion

        return distortion.invert(self.matrix, channel_nodes(self.displacement, 1), self.displacement_step, points)


def channel_nodes(displacement: npt.NDArray[np.float64], channel: int) -> npt.NDArray[np.float64]:
    """Return the nodes (gy, gx, 2) of a channel from a displacement (K, gy, gx, 2); without rows when there is none."""
    from wbpy.kernels import distortion

    return displacement[min(channel, len(displacement) - 1)] if len(displacement) else distortion.NONE


@dataclass(frozen=True)
class Failure:
    """Why a frame could not be registered."""

    reason: str


def run(
    params: RegisterParams, reference: Measurement, frame: Measurement, shape: tuple[int, int] = (0, 0)
) -> Transform | Failure:
    """Return the transform from the reference's pixels to the frame's, or why there is none.

    The pattern is sought among stars with a good profile; cosmic rays and saturated stars would mislead it. The
    transform is then fitted again with each star weighted by what its position is worth, because a faint star may be
    off by half a pixel where a bright one is good to a hundredth, and with distortion where left-out stars ask for it.

    Parameters
    ----------
    params : RegisterParams
        The stage's parameters.
    reference, frame : Measurement
        Star lists, brightest first.
    shape : tuple of int
        (height, width) of the reference, over which a distortion is laid out.
    """
    import numpy as np

    from wbpy.kernels import distortion, patterns

    if frame is reference:
        return Transform(np.eye(3), 0.0, frame.count, "identity")
    ours, theirs = _trusted(reference), _trusted(frame)
    here = np.column_stack([reference.x, reference.y])[ours]
    there = np.column_stack([frame.x, frame.y])[theirs]
    found = patterns.match_stars(here, there, model=params.model, tolerance_px=params.tolerance_px)
    if isinstance(found, patterns.Mismatch):
        return Failure(found.reason)
    refined = distortion.refine(
        found.matrix,
        MODELS if params.model == "auto" else (params.model,),
        here,
        there,
        _position_error(reference)[ours],
        _position_error(frame)[theirs],
        found.pairs,
        params.distortion,
        params.tolerance_px,
    )
    displacement, step = no_displacement(), 0
    if refined.surface is not None:
        displacement, step = distortion.sampled([refined.surface], shape[1], shape[0])
    return Transform(
        matrix=refined.matrix,
        rms=refined.rms,
        stars=len(refined.pairs),
        model=refined.model,
        displacement=displacement,
        displacement_step=step,
        heldout_rms=refined.heldout_rms,
        distortion=refined.kind,
        better_rms=refined.better_rms,
        residual_map=_residual_map(here[refined.near[:, 0]], refined.residuals, shape),
    )


def _residual_map(
    at: npt.NDArray[np.float64], residuals: npt.NDArray[np.float64], shape: tuple[int, int]
) -> tuple[tuple[float, float], ...]:
    """Return the median residual in three rows of three cells of the reference; see `Transform.residual_map`."""
    import numpy as np

    column = np.clip((3 * (at[:, 0] + 0.5) / max(shape[1], 1)).astype(int), 0, 2)
    row = np.clip((3 * (at[:, 1] + 0.5) / max(shape[0], 1)).astype(int), 0, 2)
    cells = [residuals[(row == j) & (column == i)] for j in range(3) for i in range(3)]
    middles = [np.median(cell, axis=0) if len(cell) >= 3 else (math.nan, math.nan) for cell in cells]
    return tuple((float(dx), float(dy)) for dx, dy in middles)


def correct_colour(
    params: RegisterParams,
    transform: Transform,
    frame: Measurement,
    window: Window,
    cfa: npt.NDArray[np.uint8],
    shape: tuple[int, int],
) -> Transform:
    """Return the transform with displacements that bring red and blue onto green, where they are needed.

    Stars are measured in each colour of the raw pixels. What red and blue are off by is a polynomial of the position
    in the frame: a shift (dispersion of the air), a change of scale, a lens's third order. It is used when left-out
    stars ask for it and it reaches 0.05 px somewhere in the frame; less is not worth a resampling of its own.

    Parameters
    ----------
    params : RegisterParams
        The stage's parameters.
    transform : Transform
        Of the green channel, on which the stars were measured.
    frame : Measurement
        Stars of the frame.
    window : Window
        The calibrated frame, un-debayered.
    cfa : (p, p) uint8 ndarray
        Its colours.
    shape : tuple of int
        (height, width) of the reference.
    """
    from dataclasses import replace

    import numpy as np

    from wbpy.kernels import distortion

    at, shifts, sigma = _colour_shifts(frame, window, cfa)
    corners = np.array(
        [[x, y] for y in np.linspace(0, window.shape[0] - 1, 5) for x in np.linspace(0, window.shape[1] - 1, 5)]
    )
    surfaces, largest = [], []
    for colour in range(2):
        good = np.isfinite(sigma[:, colour])
        surface, _ = distortion.chosen(
            at[good], shifts[good, colour], sigma[good, colour], COLOUR_ORDERS, params.lateral_colour == "on"
        )
        surfaces.append(surface)
        largest.append(0.0 if surface is None else float(np.hypot(*surface(corners).T).max()))
    if max(largest) < (0.0 if params.lateral_colour == "on" else LEAST_COLOUR_SHIFT) or surfaces == [None, None]:
        return transform
    nodes, step = channel_nodes(transform.displacement, 1), transform.displacement_step

    def displaced(surface: distortion.Surface | None) -> distortion.Surface:
        def total(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
            own = distortion.at(nodes, step, points) if nodes.size else np.zeros_like(points)
            return own if surface is None else own + surface(distortion.apply(transform.matrix, nodes, step, points))

        return total

    channels = [displaced(surfaces[0]), displaced(None), displaced(surfaces[1])]
    displacement, step = distortion.sampled(channels, shape[1], shape[0])
    return replace(transform, displacement=displacement, displacement_step=step, colour_shift=tuple(largest))


def _colour_shifts(
    frame: Measurement, window: Window, cfa: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return positions (n, 2) of bright stars, how far (n, 2, 2) red and blue lie from green, and its error (n, 2)."""
    import numpy as np

    from wbpy.kernels import lateral

    fwhm = frame.fwhm if np.isfinite(frame.fwhm) else 3.0
    reach = max(4, math.ceil(1.5 * fwhm))
    height, width = window.shape
    chosen = np.flatnonzero(frame.usable)[:COLOUR_STARS]
    at = np.column_stack([frame.x[chosen], frame.y[chosen]])
    shifts, sigma = np.full((len(at), 2, 2), np.nan), np.full((len(at), 2), np.nan)
    for number, (x, y) in enumerate(at):
        x0, y0 = max(0, round(x) - reach), max(0, round(y) - reach)
        stamp = window.read(y0, min(height, round(y) + reach + 1), x0, min(width, round(x) + reach + 1))
        red, green, blue = lateral.colour_positions(stamp, x0, y0, cfa, x, y, fwhm / 2.3548)
        for colour, found in enumerate((red, blue)):
            shifts[number, colour] = found[:2] - green[:2]
            # What undersampling leaves, beside the noise.
            sigma[number, colour] = math.hypot(found[2], green[2], 0.02 * fwhm)
    return at, shifts, sigma


def _trusted(measurement: Measurement) -> npt.NDArray[np.intp]:
    """Return the indices of the stars to be matched: those with a good profile, or all where these are few."""
    import numpy as np

    good = np.flatnonzero(measurement.usable)
    return good if good.size >= FEWEST_TRUSTED else np.arange(measurement.x.size)


def _position_error(measurement: Measurement) -> npt.NDArray[np.float64]:
    """Return the standard deviation of each star's position per axis, px.

    Background noise gives ``sqrt(8 pi) s^2 n / F`` with the profile's sigma s, the pixel noise n and the flux F (King
    1983, PASP 95, 163); one percent of the FWHM stands for what no noise explains: undersampling, the profile's
    departure from the model.
    """
    import numpy as np

    fwhm = measurement.fwhm if np.isfinite(measurement.fwhm) else 3.0
    noise = measurement.noise[len(measurement.noise) // 2]
    s = fwhm / 2.3548
    flux = np.where(measurement.flux > 0, measurement.flux, np.nan)
    error = np.hypot(np.sqrt(8 * np.pi) * s**2 * noise / flux, 0.01 * fwhm)
    return np.where(np.isfinite(error), np.minimum(error, fwhm), fwhm)


REGISTER = Stage(
    name="register",
    version=2,
    per="registration group",
    title="Find each frame's transform to the reference",
    run=run,
    params=RegisterParams,
    inputs=(Input("stars", "measurement"), Input("reference", "decision")),
    outputs=(Output("transforms", "transform", "px"),),
    findings=("REG001", "REG002", "REG003", "REG004", "REG005", "DTH001", "DTH002", "DTH003"),
    memory=lambda height, width: 0,
)
