"""Photometry: the stars of a finished integration with their fluxes, a catalogue for further use.

Found and fitted by the kernels of the stage measure, measured by photutils (Bradley et al.): circular apertures with
exact overlaps, a ring for the background.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from wbpy.stages.base import Input, Output, Params, Stage
from wbpy.stages.measure import isolated, likely_beta

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from wbpy.stages.base import FloatArray


class PhotometryParams(Params, frozen=True, kw_only=True):
    """How the stars of an integration are measured."""

    use: Annotated[bool, Meta(description="write a catalogue of the stars beside each integration")] = True
    threshold: Annotated[float, Meta(gt=0, description="a star's peak over the noise of the smoothed picture")] = 5.0
    max_stars: Annotated[int, Meta(ge=1, description="brightest stars that are listed")] = 2000
    saturation: Annotated[float, Meta(gt=0, description="stars that reach this level are marked, DN")] = 58000.0
    aperture: Annotated[float, Meta(gt=0, le=4, description="radius of the aperture, in FWHM")] = 1.5
    inner: Annotated[float, Meta(gt=0, le=10, description="inner radius of the background ring, in FWHM")] = 4.0
    outer: Annotated[float, Meta(gt=0, le=15, description="outer radius of the background ring, in FWHM")] = 6.0

    def __post_init__(self) -> None:
        """Refuse rings that do not lie outside of each other.

        Raises
        ------
        ValueError
            If the radii are not in order.
        """
        if not self.aperture <= self.inner < self.outer:
            raise ValueError(
                f"aperture {self.aperture:g}, inner {self.inner:g} and outer {self.outer:g} must grow in this order"
            )


@dataclass(frozen=True)
class Column:
    """One column of a catalogue."""

    name: str
    unit: str
    """In the notation of the FITS standard; empty for none."""
    description: str
    values: npt.NDArray[np.generic]


@dataclass(frozen=True)
class StarTable:
    """The stars of one integration, brightest first."""

    columns: tuple[Column, ...]
    aperture_px: float
    ring_px: tuple[float, float]
    beta: float
    """Exponent of the Moffat profile; infinity for a Gaussian."""

    def __len__(self) -> int:
        """Return the number of stars."""
        return len(self.columns[0].values)

    def column(self, name: str) -> npt.NDArray[np.generic]:
        """Return the values of a column.

        Raises
        ------
        KeyError
            If there is none of this name.
        """
        for column in self.columns:
            if column.name == name:
                return column.values
        raise KeyError(name)


def run(
    params: PhotometryParams,
    names: Sequence[str],
    read: Callable[[int], FloatArray],
    to_sky: Callable[[npt.NDArray[np.float64], npt.NDArray[np.float64]], tuple[object, object]] | None = None,
) -> StarTable | None:
    """Return the catalogue of one integration; None when it has no star that can be measured.

    Stars are found and their profiles fitted on the middle channel; apertures are laid at the same places of every
    channel. The error of a flux is that of the background: of the sum over the aperture and of its level, from the
    median absolute deviation in the ring. Photons of the star itself are not in it (the gain of a weighted mean of
    scaled frames is not one number), nor is the correlation that the interpolation of the lights leaves between
    pixels.

    Parameters
    ----------
    params : PhotometryParams
        The stage's parameters.
    names : sequence of str
        Of the channels, for the names of columns; empty text for mono.
    read : callable
        Channel number -> (H, W) float32 ndarray, DN; NaN where no light covers.
    to_sky : callable, optional
        0-based x and y, px -> right ascension and declination, degrees.
    """
    import numpy as np

    from wbpy.kernels import stars, statistics

    middle = len(names) // 2
    plane = read(middle)
    sigma, _, _ = statistics.noise_mrs(plane)
    if not sigma > 0.0:
        return None
    level, _ = statistics.background_mesh(plane)
    found = stars.detect_stars(plane, level, sigma, params.threshold, params.max_stars, params.saturation, mesh=64)
    if not len(found):
        return None
    order = np.flatnonzero(found.flags == 0)
    alone = order[isolated(found.x, found.y, order)]
    everyone = np.column_stack([found.x, found.y])
    beta = likely_beta(*stars.typical_beta(plane, found.x[alone], found.y[alone], params.saturation, everyone))
    fits = stars.fit_stars(plane, found.x, found.y, params.saturation, beta, others=everyone)
    ok = fits.ok
    if not ok.any():
        return None
    fwhm = np.where(ok, np.sqrt(fits.fwhm_major * fits.fwhm_minor), math.nan)
    typical = float(np.nanmedian(fwhm))
    angle = np.where(ok, np.degrees(fits.theta), math.nan)
    x, y = np.where(ok, fits.x, found.x), np.where(ok, fits.y, found.y)
    with np.errstate(invalid="ignore"):
        eccentricity = np.where(ok, np.sqrt(1.0 - (fits.fwhm_minor / fits.fwhm_major) ** 2), math.nan)
    columns = [
        Column("id", "", "number, the brightest first", np.arange(1, len(found) + 1)),
        Column("x_px", "pix", "column, the middle of the first pixel is 0", x),
        Column("y_px", "pix", "row, the middle of the first pixel is 0", y),
    ]
    if to_sky is not None:
        ra, dec = (np.asarray(values, np.float64) for values in to_sky(x, y))
        columns += [
            Column("ra_deg", "deg", "right ascension, ICRS", ra),
            Column("dec_deg", "deg", "declination, ICRS", dec),
        ]
    radius, inner, outer = (typical * value for value in (params.aperture, params.inner, params.outer))
    for number, name in enumerate(names):
        image = plane if number == middle else read(number)
        columns += _photometry(image, x, y, radius, inner, outer, f"_{name.lower()}" if name else "", sigma)
    columns += [
        Column("peak_dn", "adu", "highest pixel above the background, middle channel", found.peak),
        Column("fwhm_px", "pix", "full width at half maximum; empty where no profile could be fitted", fwhm),
        Column("eccentricity", "", "of the fitted profile, its noise included", eccentricity),
        Column("angle_deg", "deg", "direction of the long axis, from +x to +y", angle),
        Column("saturated", "", "reaches the level of saturation", (found.flags & stars.SATURATED) > 0),
    ]  # fmt: skip
    return StarTable(tuple(columns), radius, (inner, outer), beta)


def _photometry(
    image: FloatArray,
    x: npt.NDArray[np.float64],
    y: npt.NDArray[np.float64],
    radius: float,
    inner: float,
    outer: float,
    suffix: str,
    sigma: float,
) -> list[Column]:
    """Return flux, its error, signal to noise, magnitude and background of each star in one channel."""
    import numpy as np
    from photutils.aperture import ApertureStats, CircularAnnulus, CircularAperture, aperture_photometry

    at = np.column_stack([x, y])
    missing = ~np.isfinite(image)
    whole = np.where(missing, np.float32(0.0), image)
    aperture = CircularAperture(at, radius)
    ring = ApertureStats(whole, CircularAnnulus(at, inner, outer), mask=missing)
    sums = aperture_photometry(whole, aperture)["aperture_sum"]
    lost = aperture_photometry(missing.astype(np.float32), aperture)["aperture_sum"] if missing.any() else 0.0
    height, width = image.shape
    inside = (x - radius >= -0.5) & (y - radius >= -0.5) & (x + radius <= width - 0.5) & (y + radius <= height - 0.5)
    level = np.asarray(ring.median, np.float64)
    flux = np.where(inside & (np.asarray(lost) == 0), np.asarray(sums, np.float64) - aperture.area * level, math.nan)
    spread = np.asarray(ring.mad_std, np.float64)
    # A ring full of stars says nothing of the noise of the sky; one of equal values neither.
    spread = np.where(spread > 0, spread, sigma)
    counted = np.asarray(ring.sum_aper_area.value, np.float64)
    error = spread * np.sqrt(aperture.area + 0.5 * math.pi * aperture.area**2 / counted)
    with np.errstate(invalid="ignore", divide="ignore"):
        magnitude = np.where(flux > 0, -2.5 * np.log10(flux), math.nan)
        return [
            Column(f"flux{suffix}_dn", "adu", "within the aperture, above the background", flux),
            Column(f"flux_error{suffix}_dn", "adu", "standard deviation that the background gives it", error),
            Column(f"snr{suffix}", "", "flux over its error", flux / error),
            Column(f"magnitude{suffix}", "mag", "instrumental: -2.5 log10 of the flux in DN", magnitude),
            Column(f"background{suffix}_dn", "adu", "median of a pixel in the ring", level),
        ]


PHOTOMETRY = Stage(
    name="photometry",
    version=2,
    per="integration group",
    title="List the stars of the integration",
    run=run,
    params=PhotometryParams,
    inputs=(Input("integration", "integration"),),
    outputs=(Output("stars", "star_catalogue", "DN, px, deg"), Output("stars_ecsv", "star_catalogue", "DN, px, deg")),
    findings=("PHO001",),
    # The middle channel, another one without its missing pixels, and their mask.
    memory=lambda height, width: 13 * height * width,
)
