"""What is in the sky: stars, a nebula and the sky glow, and how a telescope draws them on a pixel grid.

A scene lives on the *sky plane*: a pixel grid of the size of a frame on which nothing is shifted or rotated.
Rates are photo-electrons per second that an unvignetted pixel of response one would collect. A frame looks at the
sky plane through a 3x3 matrix that maps sky-plane points (x, y) to frame points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from wbpy.errors import ConfigError

CHANNELS = ("L", "R", "G", "B", "Ha", "OIII", "SII")
"""Pass-bands of a scene; R, G and B are also the colours of a CFA sensor."""

_LUMINANCE_SHARE = {"R": 0.34, "G": 0.38, "B": 0.28}
_NARROW_SHARE = {"Ha": ("R", 0.07), "OIII": ("G", 0.07), "SII": ("R", 0.07)}

# A star is drawn out to the radius where its surface brightness falls below this, e-/s per pixel: a five minute
# exposure then hides the step at the edge of the stamp far below the read noise.
_EDGE_E_PER_S = 2e-4
_MIN_RADIUS_FWHM = 5.0


@dataclass(frozen=True)
class Psf:
    """The image of a point: an elliptical Moffat or Gaussian profile, in pixels of the frame.

    Parameters
    ----------
    fwhm_px : float
        Geometric mean of the full widths at half maximum along the two axes.
    ellipticity : float
        ``1 - minor / major``, in [0, 1).
    angle_deg : float
        Direction of the major axis, from +x towards +y.
    beta : float
        Moffat exponent, above one; ``math.inf`` is the Gaussian.
    """

    fwhm_px: float = 3.0
    ellipticity: float = 0.0
    angle_deg: float = 0.0
    beta: float = 4.0

    @property
    def axes_fwhm_px(self) -> tuple[float, float]:
        """Full widths at half maximum along the major and the minor axis, px."""
        squeeze = math.sqrt(1.0 - self.ellipticity)
        return self.fwhm_px / squeeze, self.fwhm_px * squeeze


@dataclass(frozen=True)
class Scene:
    """A piece of sky with known contents.

    Attributes
    ----------
    width, height : int
        Size of the sky plane, px.
    margin : int
        The sky is known this many pixels beyond the plane on every side.
    x, y : (N,) float64 ndarray
        Star positions on the sky plane, 0-based, pixel centres on integers; some lie in the margin.
    flux : dict of str to (N,) float64 ndarray
        Star fluxes by channel, e-/s over the whole profile.
    nebula : dict of str to (height + 2 margin, width + 2 margin) float64 ndarray
        Smooth light by channel, e-/s per pixel, as seen through the seeing; its first sample lies at
        ``(-margin, -margin)``.
    sky : dict of str to float
        Mean sky glow by channel, e-/s per pixel.
    """

    width: int
    height: int
    margin: int
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    flux: dict[str, NDArray[np.float64]]
    nebula: dict[str, NDArray[np.float64]]
    sky: dict[str, float]


def field_transform(
    width: int,
    height: int,
    *,
    dx: float = 0.0,
    dy: float = 0.0,
    rotation_deg: float = 0.0,
    scale: float = 1.0,
    flipped: bool = False,
    mirrored: bool = False,
) -> NDArray[np.float64]:
    """Return the 3x3 matrix from sky-plane points to frame points.

    The field is mirrored in x, turned by 180 degrees (meridian flip), rotated (+x towards +y) and scaled about
    the centre of the frame ``((width - 1) / 2, (height - 1) / 2)``, then shifted by `dx`, `dy`.

    Parameters
    ----------
    width, height : int
        Frame size, px.
    dx, dy : float
        Shift of the stars on the frame, px.
    rotation_deg : float
        Rotation of the stars on the frame, degrees.
    scale : float
        Frame pixels per sky-plane pixel.
    flipped, mirrored : bool
        Seen after a meridian flip; seen in a mirror.

    Returns
    -------
    (3, 3) float64 ndarray
        Affine; last row ``0 0 1``.
    """
    cx, cy = (width - 1) / 2.0, (height - 1) / 2.0
    angle = math.radians(rotation_deg)
    # Exact signs for the half turn: cos(pi) times a coordinate would leave rounding noise in pure flips.
    turn = -scale if flipped else scale
    c, s = turn * math.cos(angle), turn * math.sin(angle)
    mirror = -1.0 if mirrored else 1.0
    linear = np.array([[c * mirror, -s], [s * mirror, c]])
    shift = np.array([cx + dx, cy + dy]) - linear @ np.array([cx, cy])
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = shift
    return matrix


def apply_transform(
    matrix: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the points (x, y) mapped by an affine 3x3 matrix, as two arrays of the shape of `x`."""
    return (
        matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2],
        matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2],
    )


def make_scene(
    seed: int,
    width: int,
    height: int,
    n_stars: int = 300,
    *,
    brightest_e_per_s: float = 6000.0,
    faintest_e_per_s: float = 4.0,
    slope: float = 0.75,
    cluster_fraction: float = 0.12,
    nebula_e_per_s: float = 4.0,
    sky_e_per_s: float = 3.0,
    margin: int = 64,
) -> Scene:
    """Return a scene of field stars, a small cluster, a nebula with filaments and a sky glow.

    Parameters
    ----------
    seed : int
        Decides everything that is random.
    width, height : int
        Sky-plane size, px.
    n_stars : int
        Stars over the plane and its margin.
    brightest_e_per_s, faintest_e_per_s : float
        Flux range in channel L, e-/s.
    slope : float
        Power law of the counts, N(> F) ~ F^-slope; above zero.
    cluster_fraction : float
        Share of the stars that belong to the cluster.
    nebula_e_per_s : float
        Brightest nebula pixel in channel L, e-/s; 0 for none.
    sky_e_per_s : float
        Sky glow in channel L, e-/s per pixel.
    margin : int
        Sky known beyond the plane, px. Larger than the largest shift of any frame, or the nebula is continued
        flat and stars are missing out there.

    Returns
    -------
    Scene
    """
    streams = [np.random.Generator(np.random.PCG64(s)) for s in np.random.SeedSequence(seed).spawn(2)]
    x, y, luminance, colour = _draw_stars(
        streams[0],
        (width, height, margin),
        n_stars,
        (faintest_e_per_s, brightest_e_per_s),
        slope,
        cluster_fraction,
    )
    flux = _star_colours(luminance, colour)
    shape = (height + 2 * margin, width + 2 * margin)
    nebula = _draw_nebula(streams[1], shape, min(width, height), nebula_e_per_s)
    sky = {name: sky_e_per_s * share for name, share in _LUMINANCE_SHARE.items()}
    sky["L"] = sky_e_per_s
    for name, (parent, share) in _NARROW_SHARE.items():
        sky[name] = sky[parent] * share
    return Scene(width, height, margin, x, y, flux, nebula, sky)


def _draw_stars(
    rng: np.random.Generator,
    size: tuple[int, int, int],
    n_stars: int,
    flux_range: tuple[float, float],
    slope: float,
    cluster_fraction: float,
) -> tuple[NDArray[np.float64], ...]:
    width, height, margin = size
    n_cluster = int(n_stars * cluster_fraction)
    n_field = n_stars - n_cluster
    cluster_x = rng.uniform(0.25, 0.75) * width
    cluster_y = rng.uniform(0.25, 0.75) * height
    radius = 0.05 * min(width, height) * np.sqrt(-np.log1p(-rng.random(n_cluster))) * 1.3
    azimuth = rng.uniform(0.0, 2.0 * math.pi, n_cluster)
    x = np.concatenate([rng.uniform(-margin, width - 1 + margin, n_field), cluster_x + radius * np.cos(azimuth)])
    y = np.concatenate([rng.uniform(-margin, height - 1 + margin, n_field), cluster_y + radius * np.sin(azimuth)])
    # Stratified quantiles: every seed has its bright stars, so that no test depends on a lucky draw.
    faint, bright = flux_range
    quantile = (rng.permutation(n_stars) + rng.random(n_stars)) / max(n_stars, 1)
    ratio = (faint / bright) ** slope
    luminance = faint * (1.0 - quantile * (1.0 - ratio)) ** (-1.0 / slope)
    colour = np.concatenate([rng.normal(0.75, 0.4, n_field), rng.normal(0.05, 0.15, n_cluster)])
    return x, y, luminance, np.clip(colour, -0.35, 1.9)


def _star_colours(luminance: NDArray[np.float64], colour: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    tilt = 0.4 * (colour - 0.6)
    weight = {
        "R": _LUMINANCE_SHARE["R"] * 10.0 ** (0.55 * tilt),
        "G": _LUMINANCE_SHARE["G"] * np.ones_like(colour),
        "B": _LUMINANCE_SHARE["B"] * 10.0 ** (-0.9 * tilt),
    }
    total = weight["R"] + weight["G"] + weight["B"]
    flux = {name: luminance * w / total for name, w in weight.items()}
    flux["L"] = luminance.copy()
    for name, (parent, share) in _NARROW_SHARE.items():
        flux[name] = flux[parent] * share
    return flux


def _clouds(rng: np.random.Generator, shape: tuple[int, int], scale_px: float) -> NDArray[np.float64]:
    """Return smooth noise of mean zero and standard deviation one, correlated over `scale_px`."""
    # Blurred in Fourier space: at a scale of a tenth of the picture, twenty times faster than a convolution.
    fy = np.fft.fftfreq(shape[0])[:, None]
    fx = np.fft.rfftfreq(shape[1])[None, :]
    transfer = np.exp(-2.0 * (math.pi * scale_px) ** 2 * (fy**2 + fx**2))
    transfer[0, 0] = 0.0
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal(shape)) * transfer, s=shape)
    return np.asarray(field / field.std(), dtype=np.float64)


def _filaments(rng: np.random.Generator, shape: tuple[int, int], scale_px: float) -> NDArray[np.float64]:
    """Return threads in [0, 1]: ridges along the zero lines of smooth noise, bent by more smooth noise."""
    ridges = np.zeros(shape)
    total = 0.0
    for octave, weight in enumerate((1.0, 0.6, 0.35)):
        scale = max(scale_px / 2.0**octave, 3.0)
        ridges += weight / (1.0 + (_clouds(rng, shape, scale) / 0.16) ** 2)
        total += weight
    rows, columns = np.indices(shape, dtype=np.float64)
    rows += 0.55 * scale_px * _clouds(rng, shape, 0.7 * scale_px)
    columns += 0.55 * scale_px * _clouds(rng, shape, 0.7 * scale_px)
    bent = ndimage.map_coordinates(ridges / total, [rows, columns], order=3, mode="grid-wrap")
    return np.asarray(np.clip(ndimage.gaussian_filter(bent, 1.5), 0.0, 1.0), dtype=np.float64)


def _draw_nebula(
    rng: np.random.Generator, shape: tuple[int, int], size: int, peak: float
) -> dict[str, NDArray[np.float64]]:
    if peak == 0.0:
        return {name: np.zeros(shape) for name in CHANNELS}
    rows, columns = np.indices(shape, dtype=np.float64)
    cy = shape[0] / 2.0 + rng.uniform(-0.08, 0.08) * size
    cx = shape[1] / 2.0 + rng.uniform(-0.08, 0.08) * size
    distance = np.hypot(rows - cy, columns - cx) / size
    shell = np.exp(-(((distance - 0.36) / 0.16) ** 2))
    heart = np.exp(-((distance / 0.26) ** 2))
    billow = np.exp(0.75 * _clouds(rng, shape, 0.09 * size))
    dust = 1.0 / (1.0 + np.exp(2.6 * (_clouds(rng, shape, 0.06 * size) - 1.0)))
    threads = _filaments(rng, shape, 0.075 * size)
    hydrogen = dust * billow * (0.25 * shell + 0.14 * heart + 1.5 * shell * threads + 0.35 * heart * threads)
    oxygen = dust * (0.6 * heart * billow + 0.6 * heart * _filaments(rng, shape, 0.05 * size))
    sulphur = dust * billow * (0.1 * shell + 0.9 * shell**2 * threads)
    reflection = 0.05 * np.exp(0.8 * _clouds(rng, shape, 0.14 * size))
    planes = {
        "R": hydrogen + 0.35 * sulphur + 0.5 * reflection,
        "G": 0.16 * hydrogen + 0.75 * oxygen + 0.7 * reflection,
        "B": 0.22 * hydrogen + 0.62 * oxygen + 1.1 * reflection,
        "Ha": 0.9 * hydrogen,
        "OIII": 0.9 * oxygen,
        "SII": 0.9 * sulphur,
    }
    planes["L"] = planes["R"] + planes["G"] + planes["B"]
    factor = peak / float(planes["L"].max())
    return {name: plane * factor for name, plane in planes.items()}


def render(
    scene: Scene,
    transform: NDArray[np.float64],
    psf: Psf,
    width: int,
    height: int,
    channel: str,
    *,
    sky: bool = True,
) -> NDArray[np.float64]:
    """Return the noiseless picture of a scene in one channel; see `render_channels`.

    Returns
    -------
    (height, width) float64 ndarray, e-/s per pixel
    """
    plane: NDArray[np.float64] = render_channels(scene, transform, psf, width, height, (channel,), sky=sky)[0]
    return plane


def render_channels(
    scene: Scene,
    transform: NDArray[np.float64],
    psf: Psf,
    width: int,
    height: int,
    channels: tuple[str, ...],
    *,
    sky: bool = True,
) -> NDArray[np.float64]:
    """Return the noiseless picture of a scene in several channels.

    Stars are integrated over every pixel (Gauss-Legendre nodes inside the pixel), at their exact subpixel
    position. The nebula and the sky glow are read at the pixel centre from a cubic spline; both are diluted by the
    area scale of the transform, so that the light of the whole sky is kept.

    Parameters
    ----------
    scene : Scene
    transform : (3, 3) float64 ndarray
        Affine, sky-plane points to frame points.
    psf : Psf
        In frame pixels; not turned by the transform.
    width, height : int
        Frame size, px.
    channels : tuple of str
        Members of `CHANNELS`.
    sky : bool
        Add the mean sky glow.

    Returns
    -------
    (C, height, width) float64 ndarray, e-/s per pixel

    Raises
    ------
    ConfigError
        If a channel is not in the scene.
    """
    for channel in channels:
        if channel not in scene.flux:
            raise ConfigError(f"channel {channel!r} is not in the scene; it has {', '.join(scene.flux)}")
    planes = np.zeros((len(channels), height, width))
    inverse = np.linalg.inv(transform).astype(np.float64)
    area = abs(float(np.linalg.det(transform[:2, :2])))
    rows, columns = np.indices((height, width), dtype=np.float64)
    sky_x, sky_y = apply_transform(inverse, columns, rows)
    where = [sky_y + scene.margin, sky_x + scene.margin]
    for plane, channel in zip(planes, channels, strict=True):
        nebula = scene.nebula[channel]
        if nebula.any():
            plane += ndimage.map_coordinates(nebula, where, order=3, mode="nearest") / area
        if sky:
            plane += scene.sky[channel] / area
    x, y = apply_transform(transform, scene.x, scene.y)
    fluxes = np.stack([scene.flux[channel] for channel in channels], axis=1)
    for star_x, star_y, flux in zip(x, y, fluxes, strict=True):
        _add_star(planes, float(star_x), float(star_y), flux, psf)
    return planes


def _add_star(planes: NDArray[np.float64], x: float, y: float, flux: NDArray[np.float64], psf: Psf) -> None:
    height, width = planes.shape[1:]
    radius = _stamp_radius(psf, float(flux.max()))
    x0, x1 = max(math.floor(x) - radius, 0), min(math.floor(x) + radius + 2, width)
    y0, y1 = max(math.floor(y) - radius, 0), min(math.floor(y) + radius + 2, height)
    if x0 >= x1 or y0 >= y1:
        return
    stamp = integrate_psf(psf, np.arange(x0, x1) - x, np.arange(y0, y1) - y)
    planes[:, y0:y1, x0:x1] += flux[:, None, None] * stamp


def _stamp_radius(psf: Psf, flux: float) -> int:
    smallest = _MIN_RADIUS_FWHM * psf.axes_fwhm_px[0]
    peak = flux / psf.fwhm_px**2
    if math.isinf(psf.beta) or peak <= _EDGE_E_PER_S:
        return math.ceil(smallest)
    alpha = psf.axes_fwhm_px[0] / (2.0 * math.sqrt(math.pow(2.0, 1.0 / psf.beta) - 1.0))
    return math.ceil(max(smallest, alpha * math.pow(peak / _EDGE_E_PER_S, 0.5 / psf.beta)))


def integrate_psf(psf: Psf, dx: NDArray[np.float64], dy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share of a star's light that falls on each pixel of a grid.

    Moffat (1969, A&A 3, 455): ``(beta - 1) / (pi a b) (1 + u^2/a^2 + v^2/b^2)^-beta``, with unit integral over the
    plane, u and v along the major and the minor axis.

    Parameters
    ----------
    psf : Psf
    dx : (W,) float64 ndarray
        Pixel centres relative to the star, px.
    dy : (H,) float64 ndarray
        The same for rows.

    Returns
    -------
    (H, W) float64 ndarray
        Integral of the profile over every pixel.
    """
    major, minor = psf.axes_fwhm_px
    # Three nodes a side integrate a well sampled profile to 1e-6 of its peak; sharper ones need more.
    count = 3 if minor >= 2.4 else 5 if minor >= 1.4 else 11
    nodes, weights = np.polynomial.legendre.leggauss(count)
    angle = math.radians(psf.angle_deg)
    c, s = math.cos(angle), math.sin(angle)
    gx = (dx[:, None] + 0.5 * nodes).ravel()
    gy = (dy[:, None] + 0.5 * nodes).ravel()
    u = c * gx[None, :] + s * gy[:, None]
    v = -s * gx[None, :] + c * gy[:, None]
    if math.isinf(psf.beta):
        width = 2.0 * math.sqrt(2.0 * math.log(2.0))
        a, b = major / width, minor / width
        values = np.exp(-0.5 * ((u / a) ** 2 + (v / b) ** 2)) / (2.0 * math.pi * a * b)
    else:
        width = 2.0 * math.sqrt(2.0 ** (1.0 / psf.beta) - 1.0)
        a, b = major / width, minor / width
        values = (1.0 + (u / a) ** 2 + (v / b) ** 2) ** -psf.beta * ((psf.beta - 1.0) / (math.pi * a * b))
    cells = values.reshape(dy.size, count, dx.size, count)
    return np.asarray(np.einsum("yjxi,j,i->yx", cells, 0.5 * weights, 0.5 * weights))
