"""List the stars of finished integrations, as CSV and as ECSV beside the pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wbpy.engine import products
from wbpy.engine.context import Context
from wbpy.engine.store import make_key
from wbpy.io.headers import load_header
from wbpy.io.images import open_image
from wbpy.io.products import write_atomic
from wbpy.io.wcs import read_wcs
from wbpy.model import Outcome, Product, Step
from wbpy.stages import photometry
from wbpy.stages.photometry import PhotometryParams, StarTable

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from wbpy.io.wcs import Wcs


def list_stars(context: Context, step: Step) -> tuple[Outcome, str]:
    """Write the star catalogue of an integration, unless it stands already."""
    params = context.params(step, PhotometryParams)
    source = context.steps[step.inputs["integration"][0]]
    wanted = {output.path for output in source.outputs if output.kind == "integration"}
    made = [
        p
        for p in context.products
        if p.kind == "integration" and p.group == step.group and _planned(context, p) in wanted
    ]
    if not made:
        return "blocked", "there is no integration"
    # Of the combined and the separate channels of a picture one is enough.
    first = Path(made[0].path)
    header = load_header(first)
    files = {output.name: context.path_of(output) for output in step.outputs}
    key = make_key(context.params_key(step), header.get("WBPYKEY"))
    reused = all(context.store.product(make_key(key, name), path) is not None for name, path in files.items())
    if not reused:
        try:
            # The coordinates of the file, whose rows are not those of the lights where XISF turned them over.
            table = _measured(params, [Path(p.path) for p in made], read_wcs(header))
        except _NoStars:
            context.find("PHO001", step.id, name=first.name)
            return "no_work", "no star can be measured"
        _write(context, table, first.name, files)
        for name, path in files.items():
            context.store.put_product(make_key(key, name), path, {"stars": len(table)})
    about = context.store.product(make_key(key, "stars"), files["stars"]) or {}
    for path in files.values():
        context.products.append(
            Product(
                kind="star_catalogue",
                path=str(path),
                group=step.group,
                frames_used=made[0].frames_used,
                frames_excluded=made[0].frames_excluded,
                exposure_total=made[0].exposure_total,
                outcome="reused" if reused else "done",
                measurements={},
            )
        )
    return ("reused" if reused else "done"), f"{about.get('stars', 0)} stars listed"


class _NoStars(Exception):
    """A picture has no star that can be measured."""


def _planned(context: Context, product: Product) -> str:
    return str(Path(context.plan.out) / Path(product.path).relative_to(context.out))


def _measured(params: PhotometryParams, paths: list[Path], sky: Wcs | None) -> StarTable:
    import numpy as np

    with open_image(paths[0]) as image:
        channels = image.channels
    planes = [(paths[0], c) for c in range(channels)] if channels > 1 else [(path, 0) for path in paths]
    names = ("",) if len(planes) == 1 else ("R", "G", "B")

    def read(number: int) -> npt.NDArray[np.float32]:
        path, channel = planes[number]
        with open_image(path, products.DN_RANGE) as image:
            pixels = image.read(0, image.height, channel)
        # Files hold 0 where no light covers.
        pixels[pixels == 0] = np.nan
        return pixels

    table = photometry.run(params, names, read, None if sky is None else _to_sky(sky))
    if table is None:
        raise _NoStars
    return table


def _to_sky(sky: Wcs) -> Callable[[Any, Any], tuple[Any, Any]]:
    """Return the function from pixels to right ascension and declination, by astropy."""
    from astropy.io.fits import Header
    from astropy.wcs import WCS

    header = Header([(keyword, value, comment) for keyword, value, comment in sky.cards()])
    wcs = WCS(header, fix=False)

    def convert(x: Any, y: Any) -> tuple[Any, Any]:
        at = wcs.pixel_to_world(x, y).icrs
        return at.ra.deg, at.dec.deg

    return convert


def _write(context: Context, table: StarTable, picture: str, files: dict[str, Path]) -> None:
    import io

    from astropy.table import Column, Table

    stars = Table(
        [Column(c.values, name=c.name, unit=c.unit or None, description=c.description) for c in table.columns],
        meta={
            "picture": picture,
            "program": f"wbpy {products.version()}",
            "aperture_px": round(table.aperture_px, 4),
            "ring_px": [round(radius, 4) for radius in table.ring_px],
            "dn": "of the 16-bit scale; 65535 is 1.0 in the picture",
        },
    )
    for column in stars.itercols():
        if column.dtype.kind == "f":
            column.info.format = ".8g" if column.name.endswith("_deg") else ".6g"
    for form, path in (("ascii.csv", files["stars"]), ("ascii.ecsv", files["stars_ecsv"])):
        text = io.StringIO()
        # What is not known is an empty field in CSV; ECSV has a word for it.
        content = stars.filled() if form == "ascii.ecsv" else _with_gaps(stars)
        content.write(text, format=form)
        write_atomic(path, text.getvalue().encode("utf-8"))


def _with_gaps(stars: Any) -> Any:
    """Return the table with its NaN masked."""
    import numpy as np
    from astropy.table import MaskedColumn

    masked = stars.copy()
    for name in masked.colnames:
        column = masked[name]
        if column.dtype.kind == "f":
            masked[name] = MaskedColumn(column, mask=~np.isfinite(column))
    return masked
