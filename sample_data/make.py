"""Make the sample night: two simulated targets of one evening, with everything that calibration is for.

    python sample_data/make.py            write sample_data/night and compare it with SHA256SUMS
    python sample_data/make.py --check    the same in a temporary folder; also compare the files in night/
    python sample_data/make.py --update   write sample_data/night and new SHA256SUMS

The exit status is 1 where a file differs. wbpy must be installed.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
import tempfile
from datetime import datetime
from pathlib import Path

from wbpy.simulate import Optics, Sensor, SessionSpec, Truth, write_session

HERE = Path(__file__).resolve().parent
NIGHT = HERE / "night"
SUMS = HERE / "SHA256SUMS"

# Both cameras have 12-bit converters whose numbers the driver scales to 16 bits, one step being 4 e-: realistic for
# planetary cameras, and half of the noise bits of a 16-bit camera to keep in the repository.
MONO = Sensor(
    width=320,
    height=240,
    seed=11,
    adc_bits=12,
    e_per_dn=0.25,
    read_noise_e=2.4,
    full_well_e=18_000.0,
    offset_dn=640.0,
    bias_column_dn=5.0,
    bias_gradient_dn=24.0,
    dark_e_per_s=0.08,
    hot_fraction=0.0009,
    warm_fraction=0.004,
    cold_fraction=0.0003,
    glow_e_per_s=1.6,
    prnu=0.008,
)
COLOUR = Sensor(
    width=384,
    height=256,
    seed=12,
    adc_bits=12,
    e_per_dn=0.25,
    read_noise_e=2.0,
    full_well_e=18_000.0,
    offset_dn=800.0,
    bias_column_dn=4.0,
    bias_gradient_dn=-16.0,
    dark_e_per_s=0.06,
    hot_fraction=0.0008,
    warm_fraction=0.003,
    cold_fraction=0.0002,
    glow_e_per_s=1.2,
    prnu=0.008,
    cfa="RGGB",
)

SPECS = {
    "mono": SessionSpec(
        seed=51,
        sensor=MONO,
        optics=Optics(seed=5, vignetting=0.5, n_dust=7, dust_depth=0.25),
        n_stars=420,
        brightest_e_per_s=9000.0,
        faintest_e_per_s=5.0,
        nebula_e_per_s=7.0,
        sky_e_per_s=2.5,
        filters={"L": 8, "Ha": 6},
        exposure_s=60.0,
        exposures_s={"Ha": 180.0},
        n_darks=4,
        n_flats=5,
        n_flat_darks=4,
        n_bias=4,
        dither_px=4.0,
        drift_px=(0.5, -0.3),
        rotation_deg=0.06,
        meridian_flip_at=5,
        fwhm_px=(2.2, 2.9),
        transparency=(0.9, 1.0),
        sky_gradient=0.25,
        sky_drift=0.02,
        cosmic_rays=2.0,
        satellites=(2,),
        satellite_e=700.0,
        dialect="nina",
        object_name="Sketch Nebula",
        camera="Simulated 12M Mono",
        telescope="Simulated 80 mm refractor",
        focal_length_mm=480.0,
        pixel_um=3.76,
        gain=120,
        offset=40,
        start_utc=datetime(2025, 9, 20, 20, 12, 0),
    ),
    "colour": SessionSpec(
        seed=48,
        sensor=COLOUR,
        optics=Optics(seed=9, vignetting=0.45, n_dust=5, dust_depth=0.25),
        n_stars=460,
        brightest_e_per_s=6000.0,
        faintest_e_per_s=6.0,
        nebula_e_per_s=14.0,
        sky_e_per_s=5.0,
        n_lights=8,
        exposure_s=60.0,
        n_darks=4,
        n_flats=5,
        n_flat_darks=4,
        n_bias=4,
        dither_px=5.0,
        drift_px=(-0.6, 0.4),
        rotation_deg=0.1,
        fwhm_px=(2.4, 3.1),
        transparency=(0.92, 1.0),
        sky_gradient=0.2,
        sky_drift=-0.01,
        cosmic_rays=2.0,
        satellites=(3,),
        satellite_e=900.0,
        faults={6: "cloud"},
        dialect="asiair",
        object_name="Ember Nebula",
        camera="Simulated 12C Colour",
        telescope="Simulated 60 mm refractor",
        focal_length_mm=300.0,
        pixel_um=2.9,
        ra_deg=83.82,
        dec_deg=-5.39,
        gain=90,
        offset=50,
        start_utc=datetime(2025, 9, 20, 21, 5, 0),
        temperature_set_c=0.0,
        temperature_c=0.0,
    ),
}


def write_night(folder: Path) -> dict[str, Truth]:
    """Return the truth of each target written below `folder`, which is emptied first."""
    shutil.rmtree(folder, ignore_errors=True)
    return {name: write_session(folder / name, spec) for name, spec in SPECS.items()}


def sums_of(folder: Path) -> dict[str, str]:
    """Return SHA-256 by path relative to `folder`, sorted by path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder).as_posix()): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def read_sums() -> dict[str, str]:
    """Return SHA256SUMS as SHA-256 by path relative to the night."""
    lines = SUMS.read_text(encoding="utf-8").splitlines()
    return {name.removeprefix("night/"): digest for digest, name in (line.split("  ", 1) for line in lines)}


def compare(found: dict[str, str], expected: dict[str, str], what: str) -> bool:
    """Print how `found` differs from `expected`; return whether it does not."""
    missing = sorted(expected.keys() - found.keys())
    extra = sorted(found.keys() - expected.keys())
    changed = sorted(name for name in expected.keys() & found.keys() if expected[name] != found[name])
    for words, names in (("is missing", missing), ("is not in SHA256SUMS", extra), ("has another sum", changed)):
        for name in names:
            print(f"{what}: {name} {words}")
    if changed:
        print(
            "A few changed files on another machine come from the last digit of exp and sin; every file changed "
            "means that the simulator or the recipe changed: run with --update and commit both."
        )
    print(f"{what}: {len(expected) - len(missing) - len(changed)} of {len(expected)} files as expected")
    return not (missing or extra or changed)


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(description="Make the simulated sample night.")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--check", action="store_true", help="write to a temporary folder; also check night/")
    choice.add_argument("--update", action="store_true", help="write night/ and new SHA256SUMS")
    options = parser.parse_args()
    if options.check:
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "night"
            write_night(made)
            same = compare(sums_of(made), read_sums(), "made now")
        return 0 if compare(sums_of(NIGHT), read_sums(), "night/") and same else 1
    write_night(NIGHT)
    found = sums_of(NIGHT)
    if options.update:
        SUMS.write_text("".join(f"{digest}  night/{name}\n" for name, digest in found.items()), encoding="utf-8")
    return 0 if compare(found, read_sums(), "night/") else 1


if __name__ == "__main__":
    sys.exit(main())
