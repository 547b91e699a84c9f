"""Make further pictures of finished integrations: cropped to what the lights cover, and three filters in colour."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wbpy.engine import products
from wbpy.engine.context import Context
from wbpy.engine.results import Decisions, Treated, grid_of, leader_of
from wbpy.engine.store import make_key
from wbpy.io.headers import FitsHeader, load_header
from wbpy.io.images import ImageFile, open_image
from wbpy.io.preview import write_preview
from wbpy.io.wcs import is_wcs_keyword, read_wcs
from wbpy.model import Outcome, Product, Step
from wbpy.stages import crop, rgb
from wbpy.stages.crop import CROPPED, PICTURES, Covering, CropParams, Rectangle
from wbpy.stages.rgb import RgbParams

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_BAND_PIXELS = 1_000_000
_STRUCTURE = ("SIMPLE", "BITPIX", "EXTEND", "BSCALE", "BZERO", "END", "COMMENT", "HISTORY", "")
_OF_ONE_FILE = ("WBPYKIND", "WBPYKEY", "ROWORDER")


@dataclass(frozen=True)
class Picture:
    """A product that another one is made of."""

    product: Product
    header: FitsHeader

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.product.path)

    @property
    def shape(self) -> tuple[int, ...]:
        """(height, width), or (3, height, width)."""
        return tuple(reversed(self.header.axes[: 3 if self.header.axes[2:] and self.header.axes[2] > 1 else 2]))

    def cards(self) -> list[products.Card]:
        """Return its cards, without those that hold for this file alone or say where it lies on the sky."""
        cards: dict[str, products.Card] = {}
        for card in self.header.cards:
            kept = not (card.keyword in _STRUCTURE or card.keyword in _OF_ONE_FILE or card.keyword.startswith("NAXIS"))
            if kept and not is_wcs_keyword(card.keyword):
                cards.setdefault(card.keyword, (card.keyword, card.value, card.comment))
        return list(cards.values())

    def history(self) -> list[str]:
        """Return its lines of HISTORY."""
        return [str(card.value) for card in self.header.cards if card.keyword == "HISTORY"]


def crop_pictures(
    context: Context, step: Step, treated: dict[str, Treated], decisions: Decisions
) -> tuple[Outcome, str]:
    """Write the integrations of one grid without the edges that few of their lights reach."""
    import numpy as np

    pictures = _made(context, [source for sources in step.inputs.values() for source in sources])
    if not pictures:
        return "blocked", "there is no integration"
    params = context.params(step, CropParams)
    groups = dict.fromkeys(picture.product.group for picture in pictures)
    lights = {group: list(decisions.weights[group]) for group in groups}
    coverings = [
        Covering([decisions.transforms[path] for path in paths], [treated[path].image.shape for path in paths])
        for paths in lights.values()
    ]
    grid = grid_of(context, treated, decisions, next(iter(lights.values())))
    found = crop.run(params, coverings, grid.shape)
    if found is None:
        context.find("CRP001", step.id, percent=100 * params.coverage, integrations=len(coverings))
        return "no_work", "no pixel is covered by enough lights"
    area = (found.x1 - found.x0) * (found.y1 - found.y0)
    removed = 1 - area / (grid.width * grid.height)
    # Of a mosaic most lights reach a part no larger than the reference: what lies outside of that is no loss.
    leader = treated[leader_of(context, decisions, next(iter(lights.values())))]
    reference = leader.image.shape
    share_lost = 1 - area / min(grid.width * grid.height, reference[0] * reference[1])
    limit = context.rules.findings["CRP002"].limits["share"]
    if share_lost > limit:
        context.find("CRP002", step.id, percent=100 * share_lost, limit_percent=100 * limit, coverage=params.coverage)
    count = f"{len(coverings)} integration{'' if len(coverings) == 1 else 's'}"
    context.say(
        f"Columns {found.x0} to {found.x1 - 1} and rows {found.y0} to {found.y1 - 1} of {grid.width} x {grid.height} "
        f"are covered by at least {100 * params.coverage:.0f} % of the lights of {count}; "
        f"{100 * removed:.1f} % of the picture is cut off",
        step,
        x0=found.x0,
        y0=found.y0,
        x1=found.x1,
        y1=found.y1,
        removed=removed,
    )
    wanted = {output.name: context.path_of(output) for output in step.outputs}
    fresh = 0
    for picture in pictures:
        target = wanted[picture.path.stem]
        # A drizzled picture has a whole number of pixels for each of the grid's, and superpixels are made of as many.
        rectangle = found.scaled(max(1, picture.shape[-1] // grid.width)).joined(
            max(1, round(grid.width / picture.shape[-1]))
        )
        if picture.path.suffix == ".xisf" and products.row_order(context.plan, leader.frame) == "BOTTOM-UP":
            # The grid has the rows of the lights; XISF begins with the top one.
            rectangle = rectangle.upside_down(picture.shape[-2])
        key = make_key(context.params_key(step), picture.header.get("WBPYKEY"), [rectangle.x0, rectangle.y0])
        key = make_key(key, [rectangle.x1, rectangle.y1], str(picture.header.get("WBPYKIND")), target.name)
        if context.store.product(key, target) is None:
            fresh += 1
            shift = np.array([[1.0, 0.0, rectangle.x0], [0.0, 1.0, rectangle.y0], [0.0, 0.0, 1.0]])
            size = (*picture.shape[:-2], rectangle.y1 - rectangle.y0, rectangle.x1 - rectangle.x0)
            cards = picture.cards() + _crop_cards(rectangle)
            cards += _cards_of_file(picture, target, f"{picture.header.get('WBPYKIND')}{CROPPED}", key, shift, size[-2])
            notes = [*picture.history(), *products.history([step], {}, [])]
            with products.PictureFiles() as files, open_image(picture.path) as image:
                files.add(target, [("picture", "integration", size)], cards, notes)
                for channel in range(image.channels):
                    for y0, y1 in _bands(rectangle.y0, rectangle.y1, rectangle.x1 - rectangle.x0):
                        rows = image.read(y0, y1, channel)[:, rectangle.x0 : rectangle.x1]
                        files.write_rows("picture", channel, y0 - rectangle.y0, rows)
                files.commit()
            context.store.put_product(key, target, {})
        context.products.append(_product(picture.product, f"{picture.product.kind}{CROPPED}", target, not fresh))
    lost = len(wanted) - len(pictures)
    outcome: Outcome = "partial" if lost else "done" if fresh else "reused"
    return outcome, f"{len(pictures)} pictures of {grid.width} x {grid.height} px"


def combine_colours(
    context: Context, step: Step, treated: dict[str, Treated], decisions: Decisions
) -> tuple[Outcome, str]:
    """Write the pictures in colour of one grid, in every form in which all of their filters exist."""
    params = context.params(step, RgbParams)
    made = {product.path: product for product in context.products}
    fresh = lost = total = 0
    number = dict.fromkeys((output.kind for output in step.outputs), 0)
    previews = [output for output in step.outputs if output.kind == "preview"]
    for output in step.outputs:
        if output.kind == "preview":
            continue
        total += 1
        at = number[output.kind]
        number[output.kind] += 1
        target = context.path_of(output)
        integrations = [step.inputs[name][at] for name in SOURCES if at < len(step.inputs.get(name, ()))]
        wanted = [_source(context, id, output.kind.removeprefix("rgb")) for id in integrations]
        found = [Picture(made[str(path)], load_header(path)) for path in wanted if str(path) in made]
        if len(found) < len(wanted):
            lost += 1
            continue
        if len({picture.shape for picture in found}) > 1:
            sizes = [f"{picture.path.name} of {picture.shape[1]} x {picture.shape[0]} px" for picture in found]
            context.find("RGB002", step.id, filters=sizes[0], others=", ".join(sizes[1:]))
            lost += 1
            continue
        preview = None
        if output.kind == "rgb":
            preview = context.path_of(previews[at])
        reused = _write_colours(context, step, params, found, target, output.kind, preview, treated, decisions)
        fresh += not reused
        like = _product(found[0].product, output.kind, target, reused)
        context.products.append(_summed(like, found))
        if preview is not None:
            context.products.append(_summed(_product(like, "preview", preview, reused), found))
    if lost == total:
        return "blocked", "an integration is missing"
    outcome: Outcome = "partial" if lost else "done" if fresh else "reused"
    return outcome, f"{total - lost} pictures in colour"


SOURCES = ("red", "green", "blue", "luminance")
"""Inputs of a picture in colour, in the order of its planes."""


def _source(context: Context, integration: str, form: str) -> Path:
    """Return the picture of an integration step in one form: plain, ``_autocrop``, ``_drizzle``, or both."""
    step = context.steps[integration]
    kind = "drizzle" if form.startswith("_drizzle") else "integration"
    if kind == "drizzle":
        step = context.steps[f"drizzle/{step.group}"]
    path = next(context.path_of(output) for output in step.outputs if output.kind == kind)
    return path.with_name(f"{path.stem}{CROPPED}{path.suffix}") if form.endswith(CROPPED) else path


def _summed(like: Product, pictures: Sequence[Picture]) -> Product:
    """Return the product with the frames and exposures of all pictures, each counted once."""
    import msgspec

    parts = list({picture.path: picture.product for picture in pictures}.values())
    exposures = [part.exposure_total for part in parts if part.exposure_total is not None]
    return msgspec.structs.replace(
        like,
        frames_used=sum(part.frames_used for part in parts),
        frames_excluded=sum(part.frames_excluded for part in parts),
        exposure_total=sum(exposures) if exposures else None,
    )


def _write_colours(
    context: Context,
    step: Step,
    params: RgbParams,
    pictures: Sequence[Picture],
    target: Path,
    kind: str,
    preview: Path | None,
    treated: dict[str, Treated],
    decisions: Decisions,
) -> bool:
    """Write one picture in colour unless it stands already; return whether it did."""
    import msgspec
    import numpy as np

    key = make_key(context.params_key(step), [picture.header.get("WBPYKEY") for picture in pictures], target.name)
    stands = context.store.product(key, target) is not None
    if stands and (preview is None or context.store.product(make_key(key, "preview"), preview) is not None):
        return True
    height, width = pictures[0].shape
    first = pictures[0]
    paths = list(dict.fromkeys(path for p in pictures for path in decisions.weights[p.product.group]))
    frames = [treated[path].frame for path in paths]
    leader = treated[leader_of(context, decisions, paths)].frame
    order = str(first.header.get("ROWORDER"))
    pedestals = [float(picture.header.get("PEDESTAL") or 0.0) for picture in pictures]
    pedestal = max(pedestals)
    # The rows are those of the pictures, which XISF may have turned over.
    leader = msgspec.structs.replace(leader, row_order=order)
    cards = [card for card in products.integration_cards(frames, leader, kind, key) if card[0] != "FILTER"]
    known = {card[0] for card in cards}
    # What a crop or a drizzle says of itself, and the size of its pixels.
    geometry = ("CROP", "DRIZ", "XPIXSZ")
    cards = [card for card in cards if not card[0].startswith(geometry)]
    cards += [card for card in first.cards() if card[0].startswith(geometry)]
    filters = [str(context.groups[picture.product.group].key["filter"]) for picture in pictures]
    cards += [(f"FILTER{n}", name, "of this plane") for n, name in enumerate(filters[:3], 1)]
    if len(filters) > 3:
        cards.append(("FILTERL", filters[3], "of the brightness"))
    if pedestal and "PEDESTAL" not in known:
        cards.append(("PEDESTAL", round(pedestal), "[DN] added to the result"))
    sky = read_wcs(first.header)
    cards += products.sky_cards(sky, target, order, height)
    notes = products.history([step], {filters[n]: picture.path.name for n, picture in enumerate(pictures)}, [])
    shifts = [np.float32((pedestal - own) / products.DN_RANGE) for own in pedestals]
    with contextlib.ExitStack() as stack:
        images = [stack.enter_context(open_image(picture.path)) for picture in pictures]
        scale, offset = 1.0, 0.0
        if len(images) > 3:
            thumbs = [products.Thumbnail((1, height, width)) for _ in images]
            for y0, y1 in _bands(0, height, width):
                for thumb, plane in zip(thumbs, _rows(images, shifts, y0, y1), strict=True):
                    thumb.add(y0, plane[None])
            small = np.concatenate([thumb.image() for thumb in thumbs])
            scale, offset = rgb.fit_luminance(small[:3], small[3])
        thumbnail = products.Thumbnail((3, height, width))
        files = stack.enter_context(products.PictureFiles())
        files.add(target, [("picture", "integration", (3, height, width))], cards, notes)
        for y0, y1 in _bands(0, height, width):
            rows = _rows(images, shifts, y0, y1)
            colours = rgb.run(np.stack(rows[:3]), rows[3] if len(rows) > 3 else None, scale, offset)
            thumbnail.add(y0, colours)
            colours = np.clip(np.nan_to_num(colours, copy=False, nan=0.0), 0.0, 1.0)
            for channel in range(3):
                files.write_rows("picture", channel, y0, colours[channel])
        files.commit()
    context.store.put_product(key, target, {})
    if preview is not None:
        write_preview(preview, thumbnail.image())
        context.store.put_product(make_key(key, "preview"), preview, {})
    return False


def _rows(images: Sequence[ImageFile], shifts: Sequence[np.float32], y0: int, y1: int) -> list[npt.NDArray[np.float32]]:
    """Return rows of pictures brought to one pedestal; NaN where no light covers, which the files hold as 0."""
    import numpy as np

    found = []
    for image, shift in zip(images, shifts, strict=True):
        rows = image.read(y0, y1)
        empty = rows == 0
        rows += shift
        rows[empty] = np.nan
        found.append(rows)
    return found


def _crop_cards(rectangle: Rectangle) -> list[products.Card]:
    text = "of the whole picture, from 0 on"
    return [
        ("CROPX0", rectangle.x0, f"[px] first column {text}"),
        ("CROPY0", rectangle.y0, f"[px] first row {text}"),
        ("CROPX1", rectangle.x1, "[px] column after the last one"),
        ("CROPY1", rectangle.y1, "[px] row after the last one"),
    ]


def _cards_of_file(
    picture: Picture, target: Path, kind: str, key: str, shift: npt.NDArray[np.float64], height: int
) -> list[products.Card]:
    """Return what differs between a picture and one of the same grid: its kind and key, and its place on the sky."""
    order = picture.header.get("ROWORDER")
    sky = read_wcs(picture.header)
    return [
        ("ROWORDER", order, "order of the stored rows"),
        ("WBPYKIND", kind, "what this file is"),
        ("WBPYKEY", key, "hash of all that decided the pixels"),
        *products.sky_cards(sky and sky.moved(shift), target, str(order), height),
    ]


def _product(like: Product, kind: str, path: Path, reused: bool) -> Product:
    import msgspec

    outcome = "partial" if like.outcome == "partial" else "reused" if reused else "done"
    return msgspec.structs.replace(like, kind=kind, path=str(path), outcome=outcome, measurements={})


def _made(context: Context, steps: Sequence[str]) -> list[Picture]:
    """Return the pictures that some steps of the plan made, in their order."""
    made = {product.path: product for product in context.products}
    pictures = []
    for id in steps:
        for output in context.steps[id].outputs:
            if output.kind not in PICTURES.values():
                continue
            path = context.path_of(output)
            if str(path) in made:
                pictures.append(Picture(made[str(path)], load_header(path)))
    return pictures


def _bands(y0: int, y1: int, width: int) -> Iterator[tuple[int, int]]:
    step = max(1, _BAND_PIXELS // max(width, 1))
    for start in range(y0, y1, step):
        yield start, min(start + step, y1)
