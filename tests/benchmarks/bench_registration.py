"""Registration beside astroalign and Siril on the same frames: how well stars lie on each other, and CPU time.

    python tests/benchmarks/bench_registration.py FOLDER [FOLDER ...]

Each folder holds mono lights of one field (FITS). All frames are registered to the first. The registered pixels of all
three are then measured in one way: SEP finds stars in every frame, windowed positions, and for the stars that all
three have the distances from those of the first frame are taken. CPU is user + system of finding stars, matching and
resampling. Peers that are not installed are left out.
"""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]


def read(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in (".fit", ".fits"))


def load(path: Path) -> Image:
    from astropy.io import fits

    return np.ascontiguousarray(fits.getdata(path), dtype=np.float32)


def with_wbpy(images: list[Image]) -> list[Image]:
    from wbpy.kernels import warp
    from wbpy.stages import measure, register

    params = measure.MeasureParams()
    found = [measure.run(params, image, None) for image in images]
    out = [images[0]]
    for image, frame in zip(images[1:], found[1:], strict=True):
        transform = register.run(register.RegisterParams(), found[0], frame, images[0].shape)
        if isinstance(transform, register.Failure):
            raise SystemExit(transform.reason)
        planes = np.empty((1, *images[0].shape), np.float32)
        nodes = register.channel_nodes(transform.displacement, 0)
        warp.lanczos3(image[None], 0, 0, transform.matrix, planes, 0, 0, 0.3, nodes, transform.displacement_step)
        out.append(planes[0])
    return out


def with_astroalign(images: list[Image]) -> list[Image] | None:
    try:
        import astroalign
    except ImportError:
        return None
    out = [images[0]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for image in images[1:]:
            try:
                out.append(np.asarray(astroalign.register(image, images[0])[0], np.float32))
            except (astroalign.MaxIterError, ValueError) as error:
                print("astroalign:", error)
                out.append(np.full_like(image, np.nan))
    return out


def with_siril(paths: list[Path]) -> list[Image] | None:
    if shutil.which("siril-cli") is None:
        return None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, path in enumerate(paths, 1):
            shutil.copy(path, folder / f"light_{number:05d}.fit")
        script = "requires 1.0.0\nsetcpu 1\nsetext fit\nsetref light 1\nregister light\n"
        (folder / "s.ssf").write_text(script)
        subprocess.run(["siril-cli", "-d", name, "-s", str(folder / "s.ssf")], capture_output=True, check=False)
        registered = sorted(folder.glob("r_light_*.fit"))
        if len(registered) != len(paths):
            print(f"Siril registered {len(registered)} of {len(paths)}")
            return None
        return [load(path) for path in registered]


def positions(image: Image) -> NDArray[np.float64]:
    """Return windowed positions of bright stars below saturation, px."""
    import sep

    filled = np.ascontiguousarray(np.nan_to_num(image, nan=float(np.nanmedian(image))))
    background = sep.Background(filled)
    flat = filled - background.back()
    found = sep.extract(flat, 10.0, err=background.globalrms)
    found = found[(found["flag"] == 0) & (found["peak"] < 0.6 * flat.max()) & (found["npix"] > 6)]
    x, y, flag = sep.winpos(flat, found["x"], found["y"], np.full(len(found), 1.3))
    return np.column_stack([x, y])[flag == 0]


def distances(results: dict[str, list[Image]]) -> dict[str, NDArray[np.float64]]:
    """Return for each program the distances of the stars that all have from those of the first frame, px."""
    from scipy.spatial import cKDTree

    first = positions(next(iter(results.values()))[0])
    away: dict[str, list[NDArray[np.float64]]] = {name: [] for name in results}
    for number in range(1, len(next(iter(results.values())))):
        found = {}
        for name, images in results.items():
            # Siril's own first frame is what its others lie on.
            own = positions(images[0]) if name == "siril" else first
            base = cKDTree(own).query(first, distance_upper_bound=1.0)
            tree = cKDTree(positions(images[number]))
            known = np.isfinite(base[0])
            result = np.full(len(first), np.inf)
            result[known] = tree.query(own[base[1][known]], distance_upper_bound=1.5)[0]
            found[name] = result
        common = np.all([np.isfinite(values) for values in found.values()], axis=0)
        for name, values in found.items():
            away[name].append(values[common])
    return {name: np.concatenate(values) for name, values in away.items()}


def main() -> None:
    for folder in map(Path, sys.argv[1:]):
        paths = read(folder)
        images = [load(path) for path in paths]
        with_wbpy([image[:400, :400] for image in images[:2]])
        results: dict[str, list[Image]] = {}
        seconds = {}
        for name, call in (("wbpy", with_wbpy), ("astroalign", with_astroalign), ("siril", with_siril)):
            before, children = time.process_time(), resource.getrusage(resource.RUSAGE_CHILDREN)
            found = call(paths) if name == "siril" else call(images)  # type: ignore[operator]
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            own = time.process_time() - before
            spent = after.ru_utime + after.ru_stime - children.ru_utime - children.ru_stime
            if found is not None:
                results[name], seconds[name] = found, spent if name == "siril" else own
        print(f"\n{folder.name}: {len(paths)} frames of {images[0].shape[1]} x {images[0].shape[0]} px")
        print("| program | stars | median px | rms px (below 3 medians) | CPU s a frame |")
        print("|---|---|---|---|---|")
        for name, values in distances(results).items():
            middle = float(np.median(values))
            inner = values[values < 3 * middle]
            rms = float(np.sqrt(np.mean(inner**2)))
            print(f"| {name} | {len(values)} | {middle:.3f} | {rms:.3f} | {seconds[name] / len(paths):.3f} |")


if __name__ == "__main__":
    main()
