"""How lights are shifted against each other, and what that means for the pattern of the sensor (guide, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

FEWEST = 5
"""With fewer lights nothing is said."""
FEWEST_FOR_DRIFT = 8


@dataclass(frozen=True)
class Dither:
    """The shifts of a series of lights, px of the reference."""

    lights: int
    step: float
    """Median shift from one light to the next."""
    spread: float
    """Root mean square distance of any two lights."""
    drift: float
    """Distance of the last light from the first along the straight line that fits the series best."""
    straightness: float
    """Length of the way from the first to the last light over the sum of the steps: 1 is a straight march."""
    direction: float
    """Of the drift, degrees from +x towards +y."""


def measure(positions: npt.NDArray[np.float64]) -> Dither:
    """Return the shifts of lights whose centres lie at `positions`.

    Parameters
    ----------
    positions : (n, 2) float64 ndarray, px
        Where the middle of each light's sensor lies on the reference, in the order of capture; n >= 2.
    """
    import numpy as np

    steps = np.diff(positions, axis=0)
    length = np.hypot(steps[:, 0], steps[:, 1])
    away = positions - positions.mean(axis=0)
    # A least-squares line through time: one dither at either end must not look like a drift.
    time = np.arange(len(positions)) - (len(positions) - 1) / 2
    rate = time @ away / (time @ time)
    drift = rate * (len(positions) - 1)
    walked = float(length.sum())
    return Dither(
        lights=len(positions),
        step=float(np.median(length)),
        # The mean over all pairs is 2 n / (n - 1) times the mean square distance from the centre.
        spread=float(np.sqrt(2 * len(away) / (len(away) - 1) * np.mean((away**2).sum(axis=1)))),
        drift=float(np.hypot(*drift)),
        straightness=float(np.hypot(*(positions[-1] - positions[0]))) / walked if walked > 0 else 0.0,
        direction=float(np.degrees(np.arctan2(drift[1], drift[0]))),
    )


def finding(found: Dither, walking: dict[str, float], small: dict[str, float], none: dict[str, float]) -> str | None:
    """Return the id of the finding that a series deserves, or None.

    Parameters
    ----------
    found : Dither
        The series.
    walking, small, none : dict
        Limits of DTH002, DTH003 and DTH001.

    Notes
    -----
    A pattern that stays on the sensor is averaged away only where lights fall on it at random. Where they march over it
    in small steps in one direction it is drawn out to streaks (walking noise); where they stand still it stays whole.
    """
    if found.lights >= FEWEST_FOR_DRIFT and (
        found.straightness >= walking["straightness"]
        and found.drift >= walking["drift_px"]
        and found.step <= walking["step_px"]
    ):
        return "DTH002"
    if found.lights < FEWEST:
        return None
    if found.spread < none["px"]:
        return "DTH001"
    return "DTH003" if found.spread < small["px"] else None
