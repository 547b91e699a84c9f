"""Speed of the kernels against the libraries people would use instead.

    python -m tests.benchmarks.bench_kernels [--quick] [--rss] [--json PATH] [names...]

Every case builds its own data from a fixed seed. Where a peer does easier or other work its name says so.
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.benchmarks.harness import Case, main

CASES: dict[str, Callable[[bool], Case]] = {}
ABSENT = np.empty(0, np.float32)
RGGB = np.array([[0, 1], [1, 2]], np.uint8)


def case(name: str) -> Callable[[Callable[[bool], Case]], Callable[[bool], Case]]:
    """Register a function ``quick -> Case`` under a name."""

    def register(build: Callable[[bool], Case]) -> Callable[[bool], Case]:
        CASES[name] = build
        return build

    return register


def missing(*packages: str) -> tuple[str, ...]:
    """Return those of the peers that are not installed, each with the reason."""
    return tuple(f"{p} is not installed" for p in packages if importlib.util.find_spec(p) is None)


def side(quick: bool) -> int:
    return 512 if quick else 2048


# Data


def stack(n: int, pixels: int) -> np.ndarray:
    """A tile ``(n, pixels)``: sky of 1000 DN, noise 10 DN, 2 % of bright outliers."""
    rng = np.random.default_rng(1)
    tile = rng.standard_normal((n, pixels), dtype=np.float32) * np.float32(10) + np.float32(1000)
    hit = rng.random((n, pixels), dtype=np.float32) < 0.02
    tile[hit] += rng.exponential(200, np.count_nonzero(hit)).astype(np.float32)
    return tile


def star_list(n: int, size: int, seed: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Positions ``(n, 2)`` as x, y and fluxes in DN, brightest first."""
    rng = np.random.default_rng(seed)
    positions = rng.uniform(12, size - 12, (n, 2))
    return positions, np.sort(3000 * rng.pareto(1.2, n) + 1500)[::-1]


def star_field(size: int) -> tuple[np.ndarray, np.ndarray]:
    """An image ``(size, size)`` of one Gaussian star of FWHM 3.5 px per 4000 pixels, and their positions."""
    positions, flux = star_list(size * size // 4000, size)
    image = np.random.default_rng(3).normal(1000, 12, (size, size))
    sigma, reach = 3.5 / 2.3548, 10
    offset = np.arange(-reach, reach + 1)
    for (x, y), f in zip(positions, np.minimum(flux, 4e5), strict=True):
        column, row = round(x), round(y)
        gx = np.exp(-0.5 * ((offset + column - x) / sigma) ** 2)
        gy = np.exp(-0.5 * ((offset + row - y) / sigma) ** 2)
        stamp = f / (2 * np.pi * sigma**2) * np.outer(gy, gx)
        image[row - reach : row + reach + 1, column - reach : column + reach + 1] += stamp
    return image.astype(np.float32), positions


# Rejection and combination


def numpy_clip(tile: np.ndarray, winsorized: bool) -> np.ndarray:
    """Sigma clipping about the median in NumPy; winsorized by plain iteration."""
    kept = tile.astype(np.float64)
    for _ in range(10):
        m, sd = np.nanmedian(kept, axis=0), np.nanstd(kept, axis=0, ddof=1)
        for _ in range(12 if winsorized else 0):
            old = sd
            sd = 1.134 * np.nanstd(np.clip(kept, m - 1.5 * sd, m + 1.5 * sd), axis=0, ddof=1)
            if np.all(np.abs(sd - old) <= 5e-4 * sd):
                break
        bad = np.abs(kept - m) > 3 * sd
        if not bad.any():
            break
        kept[bad] = np.nan
    return np.nanmean(kept, axis=0)


def ccdproc_clip(frames: list) -> np.ndarray:
    from ccdproc import Combiner

    combiner = Combiner(frames)
    combiner.sigma_clipping(low_thresh=3, high_thresh=3, func=np.ma.median)
    return combiner.average_combine().data


def astropy_clip(tile: np.ndarray) -> np.ndarray:
    from astropy.stats import sigma_clip

    return np.nanmean(sigma_clip(tile, 3, maxiters=10, axis=0, masked=False), axis=0)


class Integration:
    """The arrays of one integrated tile."""

    def __init__(self, tile: np.ndarray) -> None:
        n, pixels = tile.shape
        self.tile, self.weights = tile, np.linspace(0.5, 1, n)
        self.lo, self.hi, self.out, self.weight_sum, self.variance = np.empty((5, pixels), np.float32)
        self.low, self.high = np.empty((2, pixels), np.uint16)
        self.frames = np.zeros((n, 2), np.int64)

    def bounds(self, algorithm: str, low: float = 3.0, high: float = 3.0) -> None:
        from wbpy.kernels import rejection

        rejection.bounds(self.tile, algorithm, low, high, self.lo, self.hi)

    def mean(self, variance: bool = False) -> None:
        from wbpy.kernels import combine

        combine.mean(
            self.tile, self.tile, self.lo, self.hi, self.weights, self.out, self.weight_sum, self.low,
            self.high, self.frames, self.variance if variance else None,
        )  # fmt: skip

    def both(self, algorithm: str) -> None:
        self.bounds(algorithm)
        self.mean()


def rejection_case(algorithm: str, n: int) -> Callable[[bool], Case]:
    def build(quick: bool) -> Case:
        pixels = 1 << (13 if quick else 16)
        tile = stack(n, pixels)
        work = Integration(tile)
        candidates: dict[str, Callable[[], object]] = {
            "wbpy bounds": lambda: work.bounds(algorithm),
            "wbpy bounds + mean": lambda: work.both(algorithm),
        }
        peer = "numpy"
        if importlib.util.find_spec("ccdproc"):
            from astropy.nddata import CCDData

            frames = [CCDData(frame.reshape(64, -1), unit="adu") for frame in tile]
            peer = "ccdproc Combiner, sigma"
            candidates[peer] = lambda: ccdproc_clip(frames)
        candidates["astropy sigma_clip + nanmean"] = lambda: astropy_clip(tile)
        candidates["numpy"] = lambda: numpy_clip(tile, algorithm == "winsorized")
        name = f"{algorithm}-{n}"
        return Case(name, "Msamples", n * pixels / 1e6, candidates, peer, missing("ccdproc", "bottleneck"))

    return build


for _algorithm in ("sigma", "winsorized"):
    for _n in (10, 20, 50, 100):
        case(f"{_algorithm}-{_n}")(rejection_case(_algorithm, _n))


@case("rejection-other-20")
def other_rejections(quick: bool) -> Case:
    n, pixels = 20, 1 << (13 if quick else 18)
    tile = stack(n, pixels)
    work = Integration(tile)
    candidates: dict[str, Callable[[], object]] = {
        "wbpy none": lambda: work.bounds("none"),
        "wbpy minmax": lambda: work.bounds("minmax", 1, 1),
        "wbpy percentile": lambda: work.bounds("percentile", 0.2, 0.1),
        "numpy sort": lambda: np.sort(tile, axis=0),
    }
    return Case("rejection-other-20", "Msamples", tile.size / 1e6, candidates, "numpy sort")


@case("winsorized-2000")
def winsorized_2000(quick: bool) -> Case:
    tile = stack(2000, 1 << (6 if quick else 10))
    work = Integration(tile)
    candidates: dict[str, Callable[[], object]] = {
        "wbpy bounds": lambda: work.bounds("winsorized"),
        "astropy sigma_clip + nanmean": lambda: astropy_clip(tile),
    }
    return Case("winsorized-2000", "Msamples", tile.size / 1e6, candidates, "astropy sigma_clip + nanmean")


def mean_case(n: int) -> Callable[[bool], Case]:
    def build(quick: bool) -> Case:
        tile = stack(n, 1 << (13 if quick else 18))
        work = Integration(tile)
        work.bounds("sigma")
        copy = np.empty_like(tile)
        candidates: dict[str, Callable[[], object]] = {
            "wbpy mean": work.mean,
            "wbpy mean and variance": lambda: work.mean(variance=True),
            "numpy average, no rejection": lambda: np.average(tile, axis=0, weights=work.weights),
            "numpy float32 mean, unweighted": lambda: np.mean(tile, axis=0),
            "copy of the tile (bandwidth)": lambda: np.copyto(copy, tile),
        }
        return Case(f"mean-{n}", "Msamples", tile.size / 1e6, candidates, "numpy average, no rejection")

    return build


for _n in (20, 50):
    case(f"mean-{_n}")(mean_case(_n))


# Calibration, statistics, defects


@case("calibrate")
def calibrate(quick: bool) -> Case:
    from wbpy.kernels import calibration

    pixels = side(quick) ** 2
    rng = np.random.default_rng(4)
    words = rng.integers(-32000, -20000, pixels).astype(">i2").view(np.uint16)
    dark = rng.normal(500, 3, pixels).astype(np.float32)
    gain = rng.normal(1, 0.01, pixels).astype(np.float32)
    out = np.empty(pixels, np.float32)
    bzero = np.float32(32768)

    def numpy() -> None:
        np.add(words.view(">i2"), bzero, out=out, dtype=np.float32, casting="unsafe")
        np.subtract(out, dark, out=out)
        np.multiply(out, gain, out=out)

    candidates: dict[str, Callable[[], object]] = {
        "wbpy calibrate_int16": lambda: calibration.calibrate_int16(words, bzero, dark, gain, out),
        "numpy in place": numpy,
        "numpy expression": lambda: (words.view(">i2").astype(np.float32) + bzero - dark) * gain,
    }
    return Case("calibrate", "MP", pixels / 1e6, candidates, "numpy in place")


@case("calibrate-26MP")
def calibrate_26(quick: bool) -> Case:
    """A light with a list of known defects, 1 in 1000, from its bytes."""
    from wbpy.kernels import calibration, defects

    h, w = (418, 625) if quick else (4176, 6248)
    rng = np.random.default_rng(4)
    words = rng.integers(-32000, -20000, h * w).astype(">i2").view(np.uint16)
    dark = rng.normal(500, 3, (h, w)).astype(np.float32)
    gain = rng.normal(1, 0.01, (h, w)).astype(np.float32)
    known = np.sort(rng.choice(h * w, h * w // 1000, replace=False))
    out = np.empty((h, w), np.float32)

    def wbpy() -> None:
        calibration.calibrate_int16(words, np.float32(32768), dark.reshape(-1), gain.reshape(-1), out.reshape(-1))
        defects.replace_defects(out, known, 2)

    def wbpy_automatic() -> None:
        wbpy()
        found = defects.detect_outliers(out, 2, 6.0, 6.0)
        defects.replace_defects(out, found, 2)

    def numpy() -> None:
        np.add(words.view(">i2"), np.float32(32768), out=out.reshape(-1), dtype=np.float32, casting="unsafe")
        np.subtract(out, dark, out=out)
        np.multiply(out, gain, out=out)
        y, x = np.divmod(known, w)
        around = [
            out[np.clip(y + dy, 0, h - 1), np.clip(x + dx, 0, w - 1)]
            for dy in (-2, 0, 2)
            for dx in (-2, 0, 2)
            if dy or dx
        ]
        out[y, x] = np.median(around, axis=0)

    candidates: dict[str, Callable[[], object]] = {
        "wbpy, defect list": wbpy,
        "wbpy, list and automatic": wbpy_automatic,
        "numpy in place, defect list": numpy,
    }
    if importlib.util.find_spec("ccdproc"):
        import ccdproc
        from astropy import units
        from astropy.nddata import CCDData

        master, flat = CCDData(dark, unit="adu"), CCDData(1 / gain, unit="adu")

        def by_ccdproc() -> None:
            raw = CCDData(words.view(">i2").astype(np.float32).reshape(h, w) + np.float32(32768), unit="adu")
            plain = ccdproc.subtract_dark(
                raw, master, dark_exposure=1 * units.s, data_exposure=1 * units.s, exposure_unit=units.s
            )
            ccdproc.flat_correct(plain, flat)

        candidates["ccdproc, no defects"] = by_ccdproc
    return Case("calibrate-26MP", "MP", h * w / 1e6, candidates, "numpy in place, defect list", missing("ccdproc"))


@case("median_mad")
def median_mad(quick: bool) -> Case:
    from astropy.stats import mad_std

    from wbpy.kernels import statistics

    values = star_field(side(quick))[0].ravel()
    candidates: dict[str, Callable[[], object]] = {
        "wbpy median_mad": lambda: statistics.median_mad(values),
        "numpy": lambda: np.median(np.abs(values - np.median(values))),
        "astropy mad_std": lambda: mad_std(values),
    }
    return Case("median_mad", "MP", values.size / 1e6, candidates, "numpy")


@case("noise_mrs")
def noise_mrs(quick: bool) -> Case:
    from scipy.ndimage import convolve1d

    from wbpy.kernels import statistics

    image = star_field(side(quick))[0]

    def four_layers() -> None:
        smooth = image
        for layer in range(4):
            kernel = np.zeros(4 * 2**layer + 1, np.float32)
            kernel[:: 2**layer] = np.array([1, 4, 6, 4, 1]) / 16
            smooth = convolve1d(convolve1d(smooth, kernel, axis=0), kernel, axis=1)

    candidates: dict[str, Callable[[], object]] = {
        "wbpy noise_mrs": lambda: statistics.noise_mrs(image),
        "scipy wavelet layers only": four_layers,
    }
    return Case("noise_mrs", "MP", image.size / 1e6, candidates, "scipy wavelet layers only")


@case("background_mesh")
def background_mesh(quick: bool) -> Case:
    from wbpy.kernels import statistics

    image = star_field(side(quick))[0]

    def wbpy_full() -> None:
        level, _ = statistics.background_mesh(image, 64)
        statistics.expand_mesh(level, image.shape, 64)

    candidates: dict[str, Callable[[], object]] = {
        "wbpy mesh": lambda: statistics.background_mesh(image, 64),
        "wbpy mesh + expand": wbpy_full,
    }
    if importlib.util.find_spec("sep"):
        import sep

        candidates["sep mesh"] = lambda: sep.Background(image, bw=64, bh=64)
        candidates["sep mesh + expand"] = lambda: sep.Background(image, bw=64, bh=64).back()
    if importlib.util.find_spec("photutils"):
        from photutils.background import Background2D

        candidates["photutils Background2D"] = lambda: Background2D(image, 64).background
    return Case("background_mesh", "MP", image.size / 1e6, candidates, "sep mesh + expand", missing("sep", "photutils"))


@case("detect_outliers")
def detect_outliers(quick: bool) -> Case:
    from scipy.ndimage import median_filter

    from wbpy.kernels import defects

    image = star_field(side(quick))[0]
    hot = np.random.default_rng(5).integers(0, image.size, image.size // 2000)
    image.ravel()[hot] += 2000

    def by_median_filter() -> np.ndarray:
        excess = image - median_filter(image, 3)
        return np.flatnonzero(excess > 10 * 1.4826 * np.median(np.abs(excess)))

    candidates: dict[str, Callable[[], object]] = {
        "wbpy detect_outliers": lambda: defects.detect_outliers(image, 1, 5.0, 5.0),
        "scipy median_filter, eats stars": by_median_filter,
    }
    return Case(
        "detect_outliers",
        "MP",
        image.size / 1e6,
        candidates,
        "scipy median_filter, eats stars",
        missing("astroscrappy"),
    )


# Debayer and warp


@case("debayer")
def debayer(quick: bool) -> Case:
    from scipy.ndimage import convolve

    from wbpy.kernels import debayer as kernels
    from wbpy.kernels import guided, vng, xtrans
    from wbpy.simulate.dng import XTRANS

    cell = np.array(["RGB".index(colour) for colour in XTRANS], np.uint8).reshape(6, 6)
    image = star_field(side(quick) if quick else 1024)[0]
    out = np.empty((3, *image.shape), np.float32)
    cross = np.array([[0, 1, 0], [1, 4, 1], [0, 1, 0]], np.float32) / 4
    square = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]], np.float32) / 4

    def scipy_bilinear() -> None:
        for colour, kernel in enumerate((square, cross, square)):
            mask = np.tile(colour == RGGB, (image.shape[0] // 2, image.shape[1] // 2))
            convolve(np.where(mask, image, np.float32(0)), kernel, output=out[colour], mode="mirror")

    candidates: dict[str, Callable[[], object]] = {
        "wbpy bilinear": lambda: kernels.bilinear(image, RGGB, out),
        "wbpy malvar": lambda: kernels.malvar(image, RGGB, out),
        "wbpy rcd": lambda: kernels.rcd(image, RGGB, out),
        "wbpy vng": lambda: vng.vng(image, RGGB, out),
        "wbpy guided": lambda: guided.guided(image, RGGB, out),
        "wbpy X-Trans guided": lambda: xtrans.guided(image, cell, out),
        "scipy bilinear": scipy_bilinear,
    }
    return Case(
        "debayer",
        "MP",
        image.size / 1e6,
        candidates,
        "scipy bilinear",
        missing("cv2", "colour_demosaicing"),
    )


@case("lanczos3")
def lanczos3(quick: bool) -> Case:
    from scipy.ndimage import affine_transform

    from wbpy.kernels import warp

    image = star_field(side(quick))[0]
    angle = np.deg2rad(1.7)
    matrix = np.eye(3)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    matrix[:2, 2] = [11.3, -7.8]
    out = np.empty((1, *image.shape), np.float32)
    turned, shift = matrix[1::-1, 1::-1], matrix[1::-1, 2]  # scipy's coordinates are (y, x)

    def by_spline(order: int) -> Callable[[], object]:
        return lambda: affine_transform(image, turned, shift, output=out[0], order=order, cval=np.nan)

    candidates: dict[str, Callable[[], object]] = {
        "wbpy lanczos3": lambda: warp.lanczos3(image[None], 0, 0, matrix, out, 0, 0),
        "wbpy bilinear": lambda: warp.bilinear(image[None], 0, 0, matrix, out, 0, 0),
        "scipy cubic spline": by_spline(3),
        "scipy linear": by_spline(1),
    }
    return Case("lanczos3", "MP", image.size / 1e6, candidates, "scipy cubic spline", missing("cv2"))


@case("drizzle")
def drizzle(quick: bool) -> Case:
    """Twice as fine, drop 0.9; the peer's map of places is made beforehand and not counted."""
    from wbpy.kernels import distortion
    from wbpy.kernels import drizzle as kernels

    image = star_field(side(quick))[0]
    height, width = image.shape
    matrix = np.array([[0.9999, -0.0122, 3.3], [0.0122, 0.9999, -2.1], [0.0, 0.0, 1.0]])
    inverse = np.linalg.inv(matrix)
    blocks = (0, 0, -(-width // kernels.BLOCK), -(-height // kernels.BLOCK))
    drops = {name: kernels.make_drop(name, 0.9, 2 * inverse[:2, :2]) for name in ("square", "gaussian", "point")}
    border = max(int(2 * drop.reach) + 3 for drop in drops.values())
    total = np.zeros((1, 2 * height + 2 * border, 2 * width + 2 * border, 2))
    one, mono, none = np.ones(1), np.zeros((1, 1), np.uint8), np.zeros((1, 1, 1, 1), np.float32)
    whole = (0, 0, -(-width // 8) * 8, height)

    def by_wbpy(name: str) -> Callable[[], object]:
        def run() -> None:
            grid = kernels.places(matrix, distortion.NONE, 0, 2, blocks)
            mask = kernels.NO_MASK
            frame = (image, 0, 0, grid, drops[name], mono, -1, one, one, none, mask, whole, image.shape)
            kernels.deposit(*frame, 2, total, 0, 0, border)

        return run

    candidates = {f"wbpy {name}": by_wbpy(name) for name in drops}
    if importlib.util.find_spec("drizzle"):
        from drizzle.resample import Drizzle

        x, y = np.meshgrid(np.arange(width, dtype=float), np.arange(height, dtype=float))
        places = (np.stack([x, y], axis=-1) @ inverse[:2, :2].T + inverse[:2, 2] + 0.5) * 2 - 0.5
        weights = np.ones_like(image)

        def by_stsci(name: str) -> Callable[[], object]:
            made = Drizzle(kernel=name, out_shape=(2 * height, 2 * width), disable_ctx=True)
            return lambda: made.add_image(
                image, 1.0, places, weight_map=weights, pixfrac=0.9, in_units="cps", pixel_scale_ratio=0.5
            )

        candidates |= {f"drizzle {name}": by_stsci(name) for name in ("square", "turbo", "gaussian", "point")}
    return Case("drizzle", "MP", image.size / 1e6, candidates, "drizzle square", missing("drizzle"))


# Stars


@case("stars")
def stars(quick: bool) -> Case:
    from wbpy.kernels import stars as kernels

    image = star_field(side(quick))[0]
    level = np.full_like(image, 1000)
    found = kernels.detect_stars(image, level, 12.0)
    x, y = found.x, found.y
    candidates: dict[str, Callable[[], object]] = {
        "wbpy detect_stars": lambda: kernels.detect_stars(image, level, 12.0),
        "wbpy fit_stars": lambda: kernels.fit_stars(image, x, y),
    }
    if importlib.util.find_spec("sep"):
        import sep

        candidates["sep extract"] = lambda: sep.extract(image - level, 5.0, err=12.0)
    if importlib.util.find_spec("photutils"):
        from photutils.detection import DAOStarFinder

        candidates["photutils DAOStarFinder"] = lambda: DAOStarFinder(60.0, 3.5)(image - level)
    return Case("stars", "MP", image.size / 1e6, candidates, "sep extract", missing("sep", "photutils"))


@case("match_stars")
def match_stars(quick: bool) -> Case:
    from wbpy.kernels import patterns

    n = 300 if quick else 2000
    reference, _ = star_list(n, 4000)
    angle = np.deg2rad(178.0)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    rng = np.random.default_rng(6)
    seen = rng.random(n) < 0.7
    target = (reference @ turn.T + [4010.0, 3970.0] + rng.normal(0, 0.1, (n, 2)))[seen]
    candidates: dict[str, Callable[[], object]] = {
        "wbpy match_stars": lambda: patterns.match_stars(reference, target),
    }
    if importlib.util.find_spec("astroalign"):
        import astroalign

        candidates["astroalign find_transform"] = lambda: astroalign.find_transform(target, reference)
    return Case(
        "match_stars",
        "pairs of lists",
        1,
        candidates,
        "astroalign find_transform",
        missing("astroalign"),
    )


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.exit(main(CASES, Path(__file__)))
