"""Stars found, widths and cost of wbpy beside SEP, photutils and Siril on the same frames.

    python -m tests.benchmarks.bench_stars [--quick] [FRAME ...]

Without frames: simulated fields whose stars are known, then a very large one (unless --quick) with 100,000 stars. Found
are true stars within 1.5 px of a detection; false are detections farther than 2 px from every star. CPU seconds are
those of this process, for Siril of its own, start-up, loading and resampling included. Widths: median over the stars
that a program calls good; the truth is that of the profile as pixels see it.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from wbpy.kernels import stars, statistics
from wbpy.simulate import Psf
from wbpy.simulate.scene import integrate_psf
from wbpy.stages import measure

SKY, READ_NOISE = 300.0, 5.0
Found = tuple[NDArray[np.float64], float]
"""Places (n, 2) and the typical FWHM, px."""


def simulated(
    seed: int, side: int, count: int, fwhm: float, snr: tuple[float, float]
) -> tuple[NDArray[np.float32], ...]:
    """Return a frame, the places of its stars and their signal-to-noise ratios in one FWHM radius.

    Stars are drawn from 8 x 8 stamps at sub-pixel places, so that a hundred thousand take seconds.
    """
    rng = np.random.default_rng(seed)
    ratio = np.exp(rng.uniform(*np.log(snr), count))
    noise = math.pi * fwhm**2 * (SKY + READ_NOISE**2)
    flux = (ratio**2 + np.sqrt(ratio**4 + 4 * ratio**2 * noise)) / 2
    reach = math.ceil(6 * fwhm)
    offset = np.arange(-reach, reach + 1.0)
    stamps = [
        [integrate_psf(Psf(fwhm), offset - (i - 3.5) / 8, offset - (j - 3.5) / 8) for i in range(8)] for j in range(8)
    ]
    whole = rng.integers(reach + 1, side - reach - 1, (count, 2))
    part = rng.integers(0, 8, (count, 2))
    light = np.full((side, side), SKY)
    for (x, y), (i, j), f in zip(whole, part, flux, strict=True):
        light[y - reach : y + reach + 1, x - reach : x + reach + 1] += f * stamps[j][i]
    image = rng.poisson(light) + rng.normal(0.0, READ_NOISE, light.shape)
    return np.clip(image, 0, 65535).astype(np.float32), whole + (part - 3.5) / 8, ratio


def by_wbpy(image: NDArray[np.float32]) -> Found:
    m = measure.run(measure.MeasureParams(max_stars=200_000), image, None)
    return np.column_stack([m.x, m.y]), m.fwhm


def by_wbpy_detection(image: NDArray[np.float32]) -> Found:
    level, _ = statistics.background_mesh(image, 64, 4)
    noise, _, _ = statistics.noise_mrs(image)
    found = stars.detect_stars(image, level, noise, max_stars=200_000, saturation=58000.0, mesh=64)
    return np.column_stack([found.x, found.y]), math.nan


def by_sep(image: NDArray[np.float32]) -> Found:
    import sep

    sep.set_extract_pixstack(3_000_000)
    background = sep.Background(image)
    found = sep.extract(image - background, 1.5, err=background.globalrms)
    good = found["flag"] == 0
    width = 2.0 * np.sqrt(math.log(2.0) * (found["a"] ** 2 + found["b"] ** 2))
    return np.column_stack([found["x"], found["y"]]), float(np.median(width[good])) if good.any() else math.nan


def by_photutils(image: NDArray[np.float32]) -> Found:
    from photutils.background import Background2D, MADStdBackgroundRMS
    from photutils.detection import DAOStarFinder

    background = Background2D(image, 64).background
    noise = float(MADStdBackgroundRMS()(image[::4, ::4]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = DAOStarFinder(5.0 * noise, 3.0)(image - background)
    if found is None:
        return np.empty((0, 2)), math.nan
    names = ("x_centroid", "y_centroid") if "x_centroid" in found.colnames else ("xcentroid", "ycentroid")
    return np.column_stack([np.asarray(found[name]) for name in names]), math.nan


def by_siril(image: NDArray[np.float32], program: str) -> tuple[int | None, float, float]:
    """Return stars, FWHM and CPU seconds; it does not say where its stars are.

    Scripts cannot call its ``findstar`` before version 1.2. A global registration of the frame with itself finds the
    stars of two frames and resamples one: the seconds are half of those.
    """
    from astropy.io import fits

    with tempfile.TemporaryDirectory() as folder:
        for number in (1, 2):
            fits.PrimaryHDU(np.clip(np.rint(image), 0, 65535).astype(np.uint16)).writeto(f"{folder}/f_0000{number}.fit")
        Path(folder, "run.ssf").write_text("requires 1.0.0\nregister f_\nclose\n", encoding="utf-8")
        before = os.times()
        done = subprocess.run(
            [program, "-d", folder, "-s", f"{folder}/run.ssf"], capture_output=True, text=True, check=False
        )
        after = os.times()
    seconds = after.children_user + after.children_system - before.children_user - before.children_system
    told = re.search(r"Found (\d+) stars", done.stdout)
    widths = re.findall(r"FWHM[xy]: +([\d.]+)", done.stdout)
    width = math.sqrt(float(widths[0]) * float(widths[1])) if len(widths) > 1 else math.nan
    return (int(told[1]) if told else None), width, seconds / 2


def compare(
    title: str, image: NDArray[np.float32], truth: NDArray[np.float64] | None, ratio: NDArray[np.float64] | None
) -> None:
    """Print one table."""
    print(f"\n{title}, {image.shape[1]} x {image.shape[0]} px")
    heads = ("stars", "of SNR 7-20 %", "of SNR > 20 %", "false", "FWHM px", "CPU s")
    print(f"{'':24}" + "".join(f"{head:>15}" for head in heads))
    programs: dict[str, Callable[[NDArray[np.float32]], Found]] = {
        "wbpy measure": by_wbpy,
        "wbpy detection only": by_wbpy_detection,
    }
    for package, run in (("sep", by_sep), ("photutils", by_photutils)):
        if importlib.util.find_spec(package):
            programs[{"sep": "SEP extract", "photutils": "photutils DAOStarFinder"}[package]] = run
        else:
            print(f"  {package} is not installed")
    for name, run in programs.items():
        run(image[:300, :300].copy())
        started = time.process_time()
        at, width = run(image)
        seconds = time.process_time() - started
        shares, false = ["-", "-"], "-"
        if truth is not None and ratio is not None and len(at):
            hit = cKDTree(at).query(truth)[0] < 1.5
            bins = (ratio >= 7) & (ratio < 20), ratio >= 20
            shares = [f"{100 * hit[b].mean():.1f}" if b.any() else "-" for b in bins]
            false = str(int((cKDTree(truth).query(at)[0] > 2.0).sum()))
        print(f"{name:24}{len(at):15}{shares[0]:>15}{shares[1]:>15}{false:>15}{width:15.3f}{seconds:15.2f}")
    program = shutil.which("siril-cli")
    if program is None:
        print("  siril-cli is not installed")
        return
    count, width, seconds = by_siril(image, program)
    found = "?" if count is None else count
    print(f"{'Siril (half a register)':24}{found:>15}{'-':>15}{'-':>15}{'-':>15}{width:15.3f}{seconds:15.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small fields only")
    parser.add_argument("frames", nargs="*", type=Path)
    options = parser.parse_args()
    for path in options.frames:
        from wbpy.io.images import open_image

        with open_image(path) as image:
            compare(path.name, image.read(), None, None)
    if options.frames:
        return
    for title, side, count, fwhm, snr in (
        ("500 stars, FWHM 3 px", 1000, 500, 3.0, (5.0, 500.0)),
        ("3,000 stars, FWHM 2 px", 2000, 3000, 2.0, (5.0, 500.0)),
        ("6,000 stars, FWHM 5 px", 3000, 6000, 5.0, (5.0, 500.0)),
        ("100,000 stars, FWHM 2.5 px", 6000, 100_000, 2.5, (10.0, 500.0)),
    ):
        if options.quick and side > 1000:
            continue
        image, truth, ratio = simulated(1, side, count, fwhm, snr)
        compare(title, image, truth, ratio)


if __name__ == "__main__":
    main()
