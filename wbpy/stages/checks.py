"""Checks: what the pixels say about how frames were taken and calibrated (guide, sections 2 to 9).

Pure functions from statistics to evidence. `measure_frame` reads a frame once, band by band; the checks compare what
it returned, within a set and between sets, with the limits in ``rules/findings/checks.toml``. None of them changes a
pixel or a plan: each result is an :class:`Observation`, which becomes a finding with remedy and section of the guide.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from wbpy.model import Frame, Scalar
from wbpy.rules import Rules, find_sensor
from wbpy.stages.base import Reader
from wbpy.stages.levels import HIGH_DN

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from wbpy.stages.base import FloatArray

TILES = 8
"""Tiles along each side of a frame over which levels are compared."""
ABOVE_STEP = 512
"""DN between the levels above which pixels are counted."""
FEWEST_SPACINGS = 50
"""Distances between levels needed to judge a scale."""
_OFFSETS = ("dark", "flat_dark", "bias")
"""What is subtracted from a frame; the first of these that there is."""
MOST_LIGHTS = 5
"""So many calibrated lights of a group are looked at, evenly chosen: what masters do wrong, they do to all."""


class PlaneStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """One plane of a frame, or all of it."""

    name: str
    """``all`` for the whole frame, else the colour of the CFA position: ``R``, ``G``, ``G2``, ``B``."""
    pixels: int
    mean: float
    """DN, like all levels here."""
    median: float
    mad: float
    """Median absolute deviation from the median, unscaled."""
    minimum: float
    maximum: float
    level: float
    """Mean of the values within four sigma of the median."""
    sigma: float
    """Their standard deviation."""
    at_zero: int
    """Pixels at or below 0 DN."""
    at_maximum: int
    """Pixels on the highest level that occurs."""
    high: int
    """Pixels from `levels.HIGH_DN` on."""
    levels: int
    """Number of different levels."""
    step: int
    """Distance of neighbouring levels: 16 for 12 bits scaled to 16, 4 for 14 bits."""
    spacing: float
    """Mean distance of the levels that occur where pixels are dense; NaN where that cannot be judged."""
    spacings: int
    """Number of distances behind `spacing`."""


class FrameStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What one frame shows, without its pixels."""

    height: int
    width: int
    planes: tuple[PlaneStatistics, ...]
    """One for mono, four in the order of the 2x2 cell for Bayer frames, red, green and blue for X-Trans frames."""
    whole: PlaneStatistics
    missing: int
    """Pixels without a finite value."""
    broken: int
    """Pixels whose value is no whole DN."""
    saturation: float | None
    """Level on which bright pixels pile up, DN; None when none do."""
    above: tuple[int, ...]
    """Number of pixels at or above each multiple of 512 DN, beginning with 0."""
    tiles: tuple[tuple[float, ...], ...]
    """For each plane the levels of `TILES` x `TILES` tiles, row by row, DN."""
    tile_errors: tuple[float, ...]
    """Typical standard error of a tile's level for each plane, DN."""
    noise: float
    """Standard deviation within a tile, median over tiles and mean over planes, DN."""

    @property
    def level(self) -> float:
        """Mean level of the planes, DN."""
        return sum(plane.level for plane in self.planes) / len(self.planes)

    def grid(self) -> npt.NDArray[np.float64]:
        """Return the tile levels as (planes, TILES, TILES), DN."""
        import numpy as np

        return np.array(self.tiles).reshape(len(self.planes), TILES, TILES)


@dataclass(frozen=True)
class Measured:
    """A frame with its statistics."""

    frame: Frame
    statistics: FrameStatistics


@dataclass(frozen=True)
class Observation:
    """What a check saw: the finding it stands for, the subject and the evidence."""

    id: str
    subject: str
    evidence: dict[str, Scalar]


def measure_frame(reader: Reader, cfa: str | None, counts: npt.NDArray[np.int64] | None = None) -> FrameStatistics:
    """Return the statistics of one frame, read once in bands.

    Parameters
    ----------
    reader : Reader
        The frame, DN.
    cfa : str or None
        Colours of the cell, row by row: ``RGGB``, or the 36 letters of X-Trans; None for mono. Frames of other
        patterns are treated as mono.
    counts : (planes, SIZE) int64 ndarray, optional
        Filled with the histogram of each plane; see :mod:`wbpy.kernels.histograms` and `plane_names`.
    """
    import numpy as np

    from wbpy.kernels import calibration, histograms

    names, cell = plane_names(cfa), _cell(cfa)
    each = np.zeros((cell * cell, histograms.SIZE), np.int64)
    height, width = reader.shape
    tiles = np.full((3, cell * cell, TILES, TILES), np.nan)
    # As many pixels of a tile for all colours together as of a Bayer frame.
    most = min(4096, 4 * 4096 // cell**2)
    missing = broken = 0
    # Rows of whole cells, so that a tile holds as many pixels of each colour.
    edges = [cell * (row * (-(-height // cell)) // TILES) for row in range(TILES)] + [height]
    for row in range(TILES):
        y0, y1 = edges[row], edges[row + 1]
        if y1 <= y0:
            continue
        stored = reader.words(y0, y1)
        if stored is None:
            band = reader.read(y0, y1)
            lost, parts = histograms.count_levels(band, y0, cell, each)
            missing, broken = missing + lost, broken + parts
            tiles[:, :, row] = histograms.tile_levels(band, y0, cell, TILES, most=most)
        else:
            words, zero = stored
            calibration.count_words(words, width, y0, cell, int(zero) - 32768 - histograms.FIRST, each)
            tiles[:, :, row] = histograms.tile_levels_of_words(words, width, zero, y0, cell, TILES, most=most)
    if cell * cell > len(names):
        assert cfa is not None
        each, tiles = _by_colour(cfa, each, tiles)
    if counts is None:
        counts = each
    else:
        counts[:] = each
    total = counts.sum(axis=0)
    first = -histograms.FIRST
    above = np.cumsum(total[::-1])[::-1][first : first + 65536 : ABOVE_STEP]
    noise = float(np.mean([_median(plane) for plane in tiles[1]]))
    piles = [level for level in (histograms.saturation(plane, noise) for plane in counts) if not math.isnan(level)]
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = tiles[1] / np.sqrt(tiles[2])
    return FrameStatistics(
        height=height,
        width=width,
        planes=tuple(_describe(name, plane) for name, plane in zip(names, counts, strict=True)),
        whole=_describe("all", total),
        missing=missing,
        broken=broken,
        saturation=min(piles, default=None),
        above=tuple(above.tolist()),
        tiles=tuple(tuple(plane.ravel().tolist()) for plane in tiles[0]),
        tile_errors=tuple(_median(plane) for plane in errors),
        noise=noise,
    )


def join_planes(parts: Mapping[str, FrameStatistics], counts: npt.NDArray[np.int64]) -> FrameStatistics:
    """Return the statistics of an image of several planes from those of each plane, by the name it gets.

    Parameters
    ----------
    parts : mapping of str to FrameStatistics
        Of each plane read as a mono frame.
    counts : (planes, SIZE) int64 ndarray
        Their histograms in the same order.
    """
    frames = list(parts.values())
    return msgspec.structs.replace(
        frames[0],
        planes=tuple(msgspec.structs.replace(part.whole, name=name) for name, part in parts.items()),
        whole=_describe("all", counts.sum(axis=0)),
        missing=sum(part.missing for part in frames),
        broken=sum(part.broken for part in frames),
        saturation=min((part.saturation for part in frames if part.saturation is not None), default=None),
        above=tuple(sum(numbers) for numbers in zip(*(part.above for part in frames), strict=True)),
        tiles=tuple(plane for part in frames for plane in part.tiles),
        tile_errors=tuple(error for part in frames for error in part.tile_errors),
        noise=sum(part.noise for part in frames) / len(frames),
    )


def _by_colour(
    cfa: str, counts: npt.NDArray[np.int64], tiles: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return histograms and tiles of the colours from those of the pixels of a cell; see `tile_levels`."""
    import numpy as np

    sums, merged = [], []
    for colour in "RGB":
        use = np.array(list(cfa)) == colour
        level, deviation, number = tiles[:, use]
        known = np.where(np.isfinite(level), number, 0.0)
        total = known.sum(axis=0)
        with np.errstate(invalid="ignore"):
            mean = np.where(known > 0, known * level, 0.0).sum(axis=0) / total
            variance = np.where(known > 0, known * deviation**2, 0.0).sum(axis=0) / total
        sums.append(counts[use].sum(axis=0))
        merged.append((mean, np.sqrt(variance), total))
    return np.array(sums), np.stack([np.array(one) for one in merged], axis=1)


def plane_names(cfa: str | None) -> tuple[str, ...]:
    """Return the names of the planes that `measure_frame` tells apart; ``all`` for mono."""
    if _cell(cfa) != 2:
        return ("all",) if cfa is None or _cell(cfa) == 1 else ("R", "G", "B")
    assert cfa is not None
    names: list[str] = []
    for colour in cfa:
        names.append(f"{colour}2" if colour in names else colour)
    return tuple(names)


def _describe(name: str, counts: npt.NDArray[np.int64]) -> PlaneStatistics:
    import numpy as np

    from wbpy.kernels import histograms

    mean, median, mad, minimum, maximum = histograms.describe(counts)
    level, sigma = math.nan, math.nan
    if not math.isnan(median):
        reach = max(4.0 * 1.4826 * mad, 40.0)
        first = max(0, math.ceil(median - reach) - histograms.FIRST)
        inner = counts[first : math.floor(median + reach) - histograms.FIRST + 1].astype(np.float64)
        number = inner.sum()
        offsets = np.arange(inner.size, dtype=np.float64)
        # No np.dot: threads of its library would decide the order of summation.
        centre = float((offsets * inner).sum() / number)
        level = centre + first + histograms.FIRST
        sigma = math.sqrt(float(((offsets - centre) ** 2 * inner).sum() / number))
    spacing, spacings = histograms.level_spacing(counts)
    used = np.flatnonzero(counts)
    return PlaneStatistics(
        name=name,
        pixels=int(counts.sum()),
        mean=mean,
        median=median,
        mad=mad,
        minimum=minimum,
        maximum=maximum,
        level=level,
        sigma=sigma,
        at_zero=histograms.count_within(counts, histograms.FIRST, 0),
        at_maximum=int(counts[used[-1]]) if used.size else 0,
        high=histograms.count_within(counts, HIGH_DN, histograms.FIRST + histograms.SIZE),
        levels=int(used.size),
        step=histograms.level_step(counts),
        spacing=spacing,
        spacings=spacings,
    )


def _median(values: Iterable[float] | npt.NDArray[np.float64]) -> float:
    """Return the median of the finite values, NaN when there is none."""
    import numpy as np

    array = np.asarray(list(values) if not isinstance(values, np.ndarray) else values, np.float64).ravel()
    array = array[np.isfinite(array)]
    return float(np.median(array)) if array.size else math.nan


# --------------------------------------------------------------------------------------------------------------
# one set of calibration frames
# --------------------------------------------------------------------------------------------------------------
def check_set(
    rules: Rules,
    subject: str,
    frames: Sequence[Measured],
    *,
    offset_dn: float | None = None,
    saturation_dn: float | None = None,
) -> list[Observation]:
    """Return what a set of equal calibration frames, or one master, shows by itself.

    Parameters
    ----------
    rules : Rules
        Limits of the findings; facts about cameras.
    subject : str
        The group that the frames are.
    frames : sequence of Measured
        Of one role, in the order of capture.
    offset_dn : float, optional
        Level without light, for flats: that of their flat-darks or bias frames; for darks that of the bias frames.
    saturation_dn : float, optional
        Level of saturation measured on any frame of the camera; see `saturation_level`.
    """
    role = frames[0].frame.role
    seen: list[Observation] = []
    if role in ("bias", "dark", "flat_dark"):
        seen += pre_calibrated(rules, frames, offset_dn if role != "bias" else None)
        refused = {one.subject for one in seen}
        seen += low_clipping(rules, [one for one in frames if one.frame.path not in refused])
    if role == "bias":
        seen += bias_drift(rules, subject, frames) + bias_gradient(rules, frames) + long_bias(rules, subject, frames)
        seen += high_offset(rules, subject, frames, saturation_dn) + unexpected_offset(rules, subject, frames)
    if role in ("dark", "flat_dark"):
        seen += light_leak(rules, subject, frames)
    if role == "flat":
        seen += flat_level(rules, subject, frames, offset_dn or 0.0, saturation_dn or saturation_level(frames))
        seen += flat_high_clipping(rules, frames, saturation_dn or saturation_level(frames))
        seen += flat_illumination(rules, frames, offset_dn or 0.0) + short_flats(rules, subject, frames)
    return seen + scaled_colours(rules, subject, frames)


def saturation_level(frames: Sequence[Measured]) -> float:
    """Return the level of saturation, DN: measured where bright pixels pile up, else the end of the bit scale.

    Parameters
    ----------
    frames : sequence of Measured
        Any frames of one camera and setting; the lowest pile-up counts, because a full well below the converter's
        end is what limits.
    """
    measured = [one.statistics.saturation for one in frames if one.statistics.saturation is not None]
    bright = [level for level in measured if level > 4096.0]
    if bright:
        return min(bright)
    step = min((one.statistics.whole.step for one in frames), default=1)
    return float(65536 - step)


def pre_calibrated(rules: Rules, frames: Sequence[Measured], bias_dn: float | None) -> list[Observation]:
    """Return the dark or bias frames from which an offset was subtracted already (guide, 6.2).

    Cut off at zero over a large share of the pixels, or with less than half of the bias level left.
    """
    limits = rules.findings["CHK005"].limits
    seen = []
    for one in frames:
        numbers = one.statistics
        share = numbers.whole.at_zero / max(1, numbers.whole.pixels)
        low = bias_dn is not None and bias_dn > 4 * numbers.noise and numbers.level < limits["level_share"] * bias_dn
        if share > limits["zero_share"] or low:
            evidence: dict[str, Scalar] = {"percent": 100 * share, "level_dn": numbers.level, "bias_dn": bias_dn}
            seen.append(Observation("CHK005", one.frame.path, evidence))
    return seen


def low_clipping(rules: Rules, frames: Sequence[Measured]) -> list[Observation]:
    """Return the frames without light whose lowest pixels are cut off at zero (guide, 2.3.2)."""
    limit = rules.findings["CHK001"].limits["share"]
    seen = []
    for one in frames:
        share = one.statistics.whole.at_zero / max(1, one.statistics.whole.pixels)
        if share > limit and one.statistics.broken == 0:
            evidence: dict[str, Scalar] = {
                "percent": 100 * share,
                "limit_percent": 100 * limit,
                "level_dn": one.statistics.level,
                "noise_dn": one.statistics.noise,
            }
            seen.append(Observation("CHK001", one.frame.path, evidence))
    return seen


def _noise(frames: Sequence[Measured]) -> float:
    return max(_median(one.statistics.noise for one in frames), 1e-3)


def light_leak(rules: Rules, subject: str, frames: Sequence[Measured]) -> list[Observation]:
    """Return darks that differ from their set, and a trend of the levels through it (guide, 5.3).

    Levels of tiles are compared with the median of the set, tile by tile, so that light in one corner shows. A set
    whose temperature wandered is left alone: its dark current explains more.
    """
    import numpy as np

    if len(frames) < 4 or _temperature_span(frames) > rules.findings["CHK008"].limits["temperature_c"]:
        return []
    limits = rules.findings["CHK007"].limits
    noise = _noise(frames)
    grids = np.array([one.statistics.grid() for one in frames])
    error = max(max(one.statistics.tile_errors) for one in frames)
    deviations = grids - np.median(grids, axis=0)
    largest = np.nanmax(np.abs(deviations), axis=(1, 2, 3))
    usual = float(np.median(largest))
    seen = []
    level = np.array([one.statistics.level for one in frames])
    trend = _trend(level)
    for one, grid, value in zip(frames, deviations, largest, strict=True):
        if value > max(limits["noise"] * noise, limits["spread"] * usual, 8 * error):
            at = np.unravel_index(np.nanargmax(np.abs(grid)), grid.shape)
            evidence: dict[str, Scalar] = {
                "deviation_dn": float(grid[at]),
                "noise_dn": noise,
                "level_dn": one.statistics.level,
                "set_dn": float(np.median(level)),
                "place": _place(int(at[1]), int(at[2])),
            }
            seen.append(Observation("CHK007", one.frame.path, evidence))
    limits = rules.findings["CHK008"].limits
    if len(frames) >= 5 and trend[1] >= limits["correlation"] and abs(trend[0]) > limits["noise"] * noise:
        evidence = {"change_dn": trend[0], "noise_dn": noise, "frames": len(frames)}
        seen.append(Observation("CHK008", subject, evidence))
    return seen


def _temperature_span(frames: Sequence[Measured]) -> float:
    known = [one.frame.temp_ccd for one in frames if one.frame.temp_ccd is not None]
    return max(known) - min(known) if known else 0.0


def _trend(levels: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return the change from the first to the last frame along a straight line, and the rank correlation."""
    import numpy as np

    place = np.arange(levels.size, dtype=np.float64)
    if levels.size < 3 or not np.ptp(levels) > 0:
        return 0.0, 0.0
    slopes = [(levels[j] - levels[i]) / (j - i) for i in range(levels.size) for j in range(i + 1, levels.size)]
    ranks = np.argsort(np.argsort(levels)).astype(np.float64)
    correlation = abs(float(np.corrcoef(place, ranks)[0, 1]))
    return float(np.median(slopes)) * (levels.size - 1), correlation


def _place(row: int, column: int) -> str:
    vertical = ("upper", "middle", "lower")[min(2, row * 3 // TILES)]
    horizontal = ("left", "centre", "right")[min(2, column * 3 // TILES)]
    return f"{vertical} {horizontal}"


def bias_drift(rules: Rules, subject: str, frames: Sequence[Measured]) -> list[Observation]:
    """Return a bias level that wanders within the set or between its nights (guide, 4.1 and 7.1)."""
    limit = rules.findings["CHK009"].limits["noise"]
    levels = [one.statistics.level for one in frames]
    noise = _noise(frames)
    if len(frames) < 3 or max(levels) - min(levels) <= limit * noise:
        return []
    nights = len({one.frame.night for one in frames if one.frame.night is not None})
    evidence: dict[str, Scalar] = {
        "range_dn": max(levels) - min(levels),
        "noise_dn": noise,
        "lowest_dn": min(levels),
        "highest_dn": max(levels),
        "nights": max(1, nights),
    }
    return [Observation("CHK009", subject, evidence)]


def bias_gradient(rules: Rules, frames: Sequence[Measured]) -> list[Observation]:
    """Return bias frames whose shape, level aside, differs from that of their set (guide, 4.1)."""
    import numpy as np

    if len(frames) < 3:
        return []
    limit = rules.findings["CHK010"].limits["noise"]
    noise = _noise(frames)
    error = max(max(one.statistics.tile_errors) for one in frames)
    shapes = np.array([one.statistics.grid() - one.statistics.level for one in frames])
    largest = np.nanmax(np.abs(shapes - np.median(shapes, axis=0)), axis=(1, 2, 3))
    return [
        Observation("CHK010", one.frame.path, {"deviation_dn": float(value), "noise_dn": noise})
        for one, value in zip(frames, largest, strict=True)
        if value > max(limit * noise, 8 * error)
    ]


def long_bias(rules: Rules, subject: str, frames: Sequence[Measured]) -> list[Observation]:
    """Return bias frames that were exposed longer than the shortest exposure of any camera (guide, 4.1)."""
    limit = rules.findings["CHK011"].limits["exposure_s"]
    longest = max((one.frame.exposure or 0.0 for one in frames), default=0.0)
    if longest <= limit:
        return []
    return [Observation("CHK011", subject, {"exposure_s": longest, "limit_s": limit})]


def high_offset(
    rules: Rules, subject: str, frames: Sequence[Measured], saturation_dn: float | None
) -> list[Observation]:
    """Return a bias level that takes away much of the range (guide, 2.3.2)."""
    limit = rules.findings["CHK030"].limits["share"]
    top = saturation_dn or saturation_level(frames)
    level = _median(one.statistics.level for one in frames)
    if not level > limit * top:
        return []
    evidence: dict[str, Scalar] = {"level_dn": level, "saturation_dn": top, "percent": 100 * level / top}
    return [Observation("CHK030", subject, evidence)]


def unexpected_offset(rules: Rules, subject: str, frames: Sequence[Measured]) -> list[Observation]:
    """Return a bias level that does not follow from camera and offset setting (guide, 2.3.2: offset x k x n)."""
    limits = rules.findings["CHK031"].limits
    frame = frames[0].frame
    sensor = find_sensor(rules, frame.camera)
    expected = sensor.offset_level_dn(frame.offset) if sensor is not None and frame.offset is not None else None
    level = _median(one.statistics.level for one in frames)
    if expected is None or abs(level - expected) <= max(limits["dn"], limits["share"] * expected):
        return []
    evidence: dict[str, Scalar] = {"level_dn": level, "expected_dn": expected, "offset": frame.offset}
    return [Observation("CHK031", subject, evidence)]


def flat_level(
    rules: Rules, subject: str, frames: Sequence[Measured], offset_dn: float, saturation_dn: float
) -> list[Observation]:
    """Return flats that are far from half way between bias and saturation, as a whole or in one colour (guide, 5.6)."""
    span = saturation_dn - offset_dn
    planes = [
        _median((one.statistics.planes[number].level - offset_dn) / span for one in frames)
        for number in range(len(frames[0].statistics.planes))
    ]
    names = [plane.name for plane in frames[0].statistics.planes]
    level = sum(planes) / len(planes)
    evidence: dict[str, Scalar] = {
        "level_dn": level * span + offset_dn,
        "target_dn": 0.5 * (saturation_dn + offset_dn),
        "saturation_dn": saturation_dn,
        "offset_dn": offset_dn,
        "percent": 100 * level,
    }
    if max(planes) < rules.findings["CHK014"].limits["share"]:
        return [Observation("CHK014", subject, evidence)]
    seen = []
    limits = rules.findings["CHK013"].limits
    if level < limits["lowest"] or max(planes) > limits["highest"]:
        seen.append(Observation("CHK013", subject, {**evidence, "brightest_percent": 100 * max(planes)}))
    weakest = min(range(len(planes)), key=lambda number: planes[number])
    if len(planes) > 1 and planes[weakest] < rules.findings["CHK016"].limits["share"]:
        weak: dict[str, Scalar] = {"colour": names[weakest].rstrip("2"), "percent": 100 * planes[weakest]}
        seen.append(Observation("CHK016", subject, {**weak, "brightest_percent": 100 * max(planes)}))
    return seen


def flat_high_clipping(rules: Rules, frames: Sequence[Measured], saturation_dn: float) -> list[Observation]:
    """Return flats with many pixels near saturation; single hot pixels do not count (guide, 5.6)."""
    limits = rules.findings["CHK015"].limits
    from_dn = math.floor(limits["range"] * saturation_dn / ABOVE_STEP) * ABOVE_STEP
    seen = []
    for one in frames:
        above = one.statistics.above
        number = above[min(len(above) - 1, from_dn // ABOVE_STEP)]
        share = number / max(1, one.statistics.whole.pixels)
        if share > limits["share"]:
            evidence: dict[str, Scalar] = {"pixels": number, "percent": 100 * share, "from_dn": from_dn}
            seen.append(Observation("CHK015", one.frame.path, evidence))
    return seen


def flat_illumination(rules: Rules, frames: Sequence[Measured], offset_dn: float) -> list[Observation]:
    """Return flats whose light falls differently over the frame than in the rest of their set (guide, 4.4)."""
    import numpy as np

    if len(frames) < 3:
        return []
    limit = rules.findings["CHK017"].limits["share"]
    grids = np.array([one.statistics.grid() for one in frames]) - offset_dn
    with np.errstate(divide="ignore", invalid="ignore"):
        shapes = grids / np.median(grids, axis=(2, 3), keepdims=True)
        # Mean over the colours; the fourth largest of the tiles, because light changes over an area, while the edge
        # of a dust shadow in one tile can fall to either side of the clipping.
        ratios = np.abs((shapes / np.median(shapes, axis=0)).mean(axis=1) - 1.0)
        errors = max(
            error / max(1.0, plane.level - offset_dn)
            for one in frames
            for error, plane in zip(one.statistics.tile_errors, one.statistics.planes, strict=True)
        )
    largest = np.sort(np.nan_to_num(ratios.reshape(len(frames), -1)), axis=1)[:, -4]
    return [
        Observation("CHK017", one.frame.path, {"percent": 100 * float(value), "limit_percent": 100 * limit})
        for one, value in zip(frames, largest, strict=True)
        if value > max(limit, 8 * errors)
    ]


def short_flats(rules: Rules, subject: str, frames: Sequence[Measured]) -> list[Observation]:
    """Return flats so short that flicker or a shutter shapes them, with how much their levels differ (guide, 5.5)."""
    limit = rules.findings["CHK018"].limits["exposure_s"]
    exposures = [one.frame.exposure for one in frames if one.frame.exposure is not None]
    if not exposures or min(exposures) >= limit:
        return []
    levels = [one.statistics.level / one.frame.exposure for one in frames if one.frame.exposure]
    spread = 100 * (max(levels) - min(levels)) / max(levels) if levels and max(levels) > 0 else 0.0
    evidence: dict[str, Scalar] = {"exposure_s": min(exposures), "limit_s": limit, "spread_percent": spread}
    return [Observation("CHK018", subject, evidence)]


def scaled_colours(rules: Rules, subject: str, frames: Sequence[Measured]) -> list[Observation]:
    """Return a CFA set whose red or blue was multiplied by the driver: other gaps between levels (guide, 2.1.2)."""
    planes = [one.statistics.planes for one in frames]
    if len(planes[0]) == 1:
        return []
    limit = rules.findings["CHK021"].limits["ratio"]
    pooled: dict[str, list[tuple[float, int]]] = {"R": [], "G": [], "B": []}
    for frame in planes:
        for plane in frame:
            if plane.spacings >= FEWEST_SPACINGS // len(frames) + 1:
                pooled[plane.name[0]].append((plane.spacing, plane.spacings))
    spacing = {
        colour: sum(value * n for value, n in parts) / sum(n for _, n in parts)
        for colour, parts in pooled.items()
        if sum(n for _, n in parts) >= FEWEST_SPACINGS
    }
    if "G" not in spacing:
        return []
    ratios = {colour: spacing[colour] / spacing["G"] for colour in ("R", "B") if colour in spacing}
    if not any(abs(ratio - 1.0) > limit for ratio in ratios.values()):
        return []
    evidence: dict[str, Scalar] = {"red": ratios.get("R"), "blue": ratios.get("B"), "limit": limit}
    return [Observation("CHK021", subject, evidence)]


# --------------------------------------------------------------------------------------------------------------
# between sets
# --------------------------------------------------------------------------------------------------------------
def compare_sets(
    rules: Rules,
    subject: str,
    lights: Sequence[Measured],
    sets: Mapping[str, tuple[str, Sequence[Measured]]],
) -> list[Observation]:
    """Return what raw lights, or flats, show beside the sets that calibrate them.

    Parameters
    ----------
    rules : Rules
    subject : str
        The group that is calibrated.
    lights : sequence of Measured
        Its frames; a few are enough.
    sets : mapping of str to (str, sequence of Measured)
        Role -> group id and frames of what calibrates them: ``dark``, ``flat_dark``, ``bias``, ``flat``.
    """
    seen: list[Observation] = []
    for id, frames in sets.values():
        seen += other_scale(rules, subject, lights, id, frames)
    offset = next((sets[role] for role in _OFFSETS if role in sets), None)
    if offset is not None:
        id, frames = offset
        if all(one.statistics.broken == 0 for one in lights):
            seen += darker_than_calibration(rules, lights, _median(one.statistics.level for one in frames), id)
    return seen


def other_scale(
    rules: Rules, subject: str, frames: Sequence[Measured], other: str, others: Sequence[Measured]
) -> list[Observation]:
    """Return frames whose numbers stand on another scale than those of a set that goes with them (guide, 2.1.2, 2.2).

    12-bit data in steps of 16 DN and the same data in steps of 1 DN differ by a factor that no calibration survives.
    Averages have no steps and are not compared.
    """
    steps = [
        {one.statistics.whole.step for one in group if one.statistics.broken == 0 and one.statistics.whole.levels >= 8}
        for group in (frames, others)
    ]
    if not steps[0] or not steps[1] or steps[0] & steps[1]:
        return []
    evidence: dict[str, Scalar] = {"step_dn": min(steps[0]), "other_step_dn": min(steps[1]), "other": other}
    return [Observation("CHK020", subject, evidence)]


def darker_than_calibration(
    rules: Rules, lights: Sequence[Measured], level_dn: float, calibration: str
) -> list[Observation]:
    """Return raw frames with less than half the level of what is to be subtracted from them (guide, 6.2, 8.2)."""
    limit = rules.findings["CHK006"].limits["level_share"]
    return [
        Observation(
            "CHK006",
            one.frame.path,
            {"level_dn": one.statistics.level, "subtract_dn": level_dn, "calibration": calibration},
        )
        for one in lights
        if level_dn > 4 * one.statistics.noise and one.statistics.level < limit * level_dn
    ]


def amplifier_glow(
    rules: Rules, subject: str, darks: Sequence[Measured], bias: Sequence[Measured]
) -> list[Observation]:
    """Return glow in a set of darks: tiles that stand above the others, the bias taken off (guide, 3.2, 7.2)."""
    import numpy as np

    shape = _mean_grid(darks) - (_mean_grid(bias) if bias else 0.0)
    excess = np.nanmean(shape - np.nanmedian(shape, axis=(1, 2), keepdims=True), axis=0)
    at = np.unravel_index(np.nanargmax(excess), excess.shape)
    limit = rules.findings["CHK023"].limits["noise"]
    noise = _noise(darks)
    if not excess[at] > limit * noise:
        return []
    evidence: dict[str, Scalar] = {
        "glow_dn": float(excess[at]),
        "noise_dn": noise,
        "place": _place(int(at[0]), int(at[1])),
        "exposure_s": darks[0].frame.exposure,
    }
    return [Observation("CHK023", subject, evidence)]


def _mean_grid(frames: Sequence[Measured]) -> npt.NDArray[np.float64]:
    import numpy as np

    return np.asarray(np.mean([one.statistics.grid() for one in frames], axis=0))


def flat_dark_needed(
    rules: Rules,
    subject: str,
    flats: Sequence[Measured],
    bias: Sequence[Measured],
    darks: Sequence[Measured],
) -> list[Observation]:
    """Return flats, calibrated with a bias, in which the dark signal counts (guide, 4.3).

    The test of the guide: darks are compared with the bias, their difference scaled to the exposure of the flats and
    set against the flat's own signal, tile by tile, because glow counts where it is.
    """
    import numpy as np

    exposure, dark_exposure = flats[0].frame.exposure, darks[0].frame.exposure if darks else None
    if not exposure or not dark_exposure:
        return []
    limit = rules.findings["CHK019"].limits["share"]
    offset = _mean_grid(bias)
    # A tile's level knows its noise only so well; a difference below that must not be multiplied into a need.
    noise = 4 * max(max(one.statistics.tile_errors) for one in (*darks, *bias))
    signal = np.maximum(_mean_grid(darks) - offset - noise, 0.0) * (exposure / dark_exposure)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = float(np.nanmax(signal / (_mean_grid(flats) - offset)))
    if not share > limit:
        return []
    evidence: dict[str, Scalar] = {"percent": 100 * share, "exposure_s": exposure, "dark_exposure_s": dark_exposure}
    return [Observation("CHK019", subject, evidence)]


def masters_noise(
    rules: Rules,
    subject: str,
    light_noise_dn: float,
    background_dn: float,
    dark: tuple[float, int] | None,
    flat: tuple[float, float, int] | None,
) -> list[Observation]:
    """Return masters of so few frames that their noise counts beside that of one light (guide, 3.1, 6).

    Parameters
    ----------
    rules : Rules
    subject : str
        The group of lights.
    light_noise_dn, background_dn : float, DN
        Of a calibrated light.
    dark : (float, int), optional
        Noise of one dark (or bias) frame in DN, and their number.
    flat : (float, float, int), optional
        Noise and level of one flat in DN, and their number.
    """
    limit = rules.findings["CHK029"].limits["share"]
    variance = 0.0
    if dark is not None and dark[1] > 0:
        variance += dark[0] ** 2 / dark[1]
    if flat is not None and flat[2] > 0 and flat[1] > 0:
        variance += (max(0.0, background_dn) * flat[0] / flat[1]) ** 2 / flat[2]
    added = math.sqrt(variance)
    if not light_noise_dn > 0 or not added > limit * light_noise_dn:
        return []
    evidence: dict[str, Scalar] = {
        "added_dn": added,
        "light_dn": light_noise_dn,
        "percent": 100 * added / light_noise_dn,
        "darks": dark[1] if dark else 0,
        "flats": flat[2] if flat else 0,
    }
    return [Observation("CHK029", subject, evidence)]


def pedestal_too_high(
    rules: Rules, subject: str, pedestal_dn: float, needed_dn: float, cut_above: int, pixels: int
) -> list[Observation]:
    """Return a pedestal far above what keeps the pixels positive, or that cuts the bright end (guide, 8.1).

    Parameters
    ----------
    rules : Rules
    subject : str
        The frame.
    pedestal_dn, needed_dn : float, DN
        The pedestal added, and the one that would leave 0.1 % of the pixels below zero.
    cut_above : int
        Pixels that are above the range with the pedestal and were not without it.
    pixels : int
        Pixels of the frame.
    """
    limits = rules.findings["CHK004"].limits
    share = cut_above / max(1, pixels)
    if not (pedestal_dn > limits["dn"] + max(0.0, needed_dn) or share > limits["share"]):
        return []
    evidence: dict[str, Scalar] = {"pedestal_dn": pedestal_dn, "needed_dn": needed_dn, "percent": 100 * share}
    return [Observation("CHK004", subject, evidence)]


# --------------------------------------------------------------------------------------------------------------
# calibrated lights
# --------------------------------------------------------------------------------------------------------------
def below_zero(rules: Rules, subject: str, image: FloatArray, cfa: str | None) -> list[Observation]:
    """Return a calibrated light of which much lies below zero, and whether weak signal explains it (guide, 8.1).

    Noise around a background near zero reaches below it, which a pedestal cures. A background below zero, in the
    frame or in some of its tiles, says that too much was subtracted.

    Parameters
    ----------
    rules : Rules
    subject : str
        The frame.
    image : (H, W) float32 ndarray, DN
        Calibrated, negative values kept; NaN is missing.
    cfa : str or None
        Colours of the 2x2 cell.
    """
    import numpy as np

    numbers = measure_frame(_InMemory(image, subject), cfa)
    share = numbers.whole.at_zero / max(1, numbers.whole.pixels)
    limits = rules.findings["CHK002"].limits
    # Tiles without a pixel tell nothing.
    planes = [plane[np.isfinite(plane)] for plane in numbers.grid()]
    tiles = np.concatenate(planes)
    if not tiles.size:
        return []
    low = float(np.mean(tiles < -limits["noise"] * numbers.noise))
    evidence: dict[str, Scalar] = {
        "percent": 100 * share,
        "background_dn": min(float(plane.mean()) for plane in planes if plane.size),
        "noise_dn": numbers.noise,
        "tiles_percent": 100 * low,
    }
    if low > limits["tiles"]:
        return [Observation("CHK002", subject, evidence)]
    if share > rules.findings["CHK003"].limits["share"]:
        values = np.sort(image[np.isfinite(image)], axis=None)
        pedestal = max(0.0, -float(values[int(rules.findings["CHK003"].limits["share"] * values.size)]))
        return [Observation("CHK003", subject, {**evidence, "pedestal_dn": float(math.ceil(pedestal))})]
    return []


@dataclass(frozen=True)
class _InMemory:
    image: FloatArray
    name: str

    @property
    def shape(self) -> tuple[int, int]:
        return self.image.shape[0], self.image.shape[1]

    def read(self, y0: int, y1: int) -> FloatArray:
        return self.image[y0:y1]

    def words(self, y0: int, y1: int) -> None:
        return None


@dataclass(frozen=True)
class _Look:
    """What one calibrated light shows by itself."""

    seen: list[Observation]
    shape: tuple[int, int]
    background: npt.NDArray[np.float64]
    """Median of each plane, DN."""
    isolated: npt.NDArray[np.int64]
    """Flat indices of pixels that stand out alone."""
    field: FloatArray
    """See `field_of`."""
    lines: tuple[Alternation, Alternation] | None
    """Of rows and columns; None with a CFA, whose lines alternate by themselves."""
    profiles: tuple[LineProfile, LineProfile]
    """Of columns and rows."""


def _look(rules: Rules, path: str, image: FloatArray, cfa: str | None) -> _Look:
    import numpy as np

    marked = np.zeros(image.shape, np.uint8)
    mark_isolated(rules, image, cfa, marked)
    cell = _cell(cfa)
    return _Look(
        seen=below_zero(rules, path, image, cfa),
        shape=(image.shape[0], image.shape[1]),
        background=_plane_medians(image, cfa),
        isolated=np.flatnonzero(marked),
        field=field_of(image, cfa),
        lines=(alternation(image), alternation(image.T)) if cfa is None else None,
        profiles=(line_profile(image, cell), line_profile(image.T, cell)),
    )


def examine_lights(
    rules: Rules,
    subject: str,
    lights: Iterable[tuple[str, FloatArray]],
    cfa: str | None,
    *,
    flat: FloatArray | None = None,
    dark: FloatArray | None = None,
    bias: FloatArray | None = None,
    offset_dn: float | None = None,
    spread: Callable[..., Iterable[_Look]] = map,
) -> list[Observation]:
    """Return what calibrated and corrected lights of one group show; each is looked at once.

    Parameters
    ----------
    rules : Rules
    subject : str
        The group of lights.
    lights : iterable of (str, (H, W) float32 ndarray)
        Path and pixels in DN, not registered, negative values kept; NaN is missing.
    cfa : str or None
        Colours of the 2x2 cell.
    flat, dark, bias : (H, W) float32 ndarray, DN, optional
        The masters that calibrated them; the dark still contains the bias.
    offset_dn : float, optional
        Level of bias frames of the same camera and settings.
    spread : callable
        Like the built-in map, in order; may look at several lights at the same time.
    """
    import numpy as np

    from wbpy.kernels import histograms

    seen: list[Observation] = []
    fields: list[FloatArray] = []
    lines: list[tuple[Alternation, Alternation]] = []
    profiles: list[tuple[LineProfile, LineProfile]] = []
    marked: npt.NDArray[np.uint8] | None = None
    background: npt.NDArray[np.float64] | None = None
    for look in spread(lambda light: _look(rules, light[0], light[1], cfa), lights):
        seen += look.seen
        if marked is None:
            marked = np.zeros(look.shape, np.uint8)
        if background is None:
            background = look.background
        marked.reshape(-1)[look.isolated] += 1
        fields.append(look.field)
        if look.lines is not None:
            lines.append(look.lines)
        profiles.append(look.profiles)
    if marked is None or background is None:
        return seen
    seen += hot_pixels_left(rules, subject, marked, len(fields))
    if lines:
        of_flat = (math.nan, math.nan) if flat is None else (alternation(flat).share, alternation(flat.T).share)
        seen += alternating_lines(rules, subject, lines, of_flat)
    seen += standing_lines(rules, subject, profiles)
    field = background_field(fields)
    block = block_side(*marked.shape)
    if flat is not None:
        if offset_dn is not None:
            seen += uncalibrated_flat(rules, subject, flat, offset_dn)
        shape = field_of(flat, cfa)
        correction = flat_correction(rules, subject, field, shape)
        seen += correction
        # A flat that corrects too much or too little brings back its dust as well, where it lies.
        if len(fields) >= 3 and not correction:
            seen += embossed_dust(rules, subject, field, shape, block)
    if dark is not None and (background > 0).all():
        signal = dark - bias if bias is not None else dark
        cell = _cell(cfa)
        for plane, level in enumerate(_plane_medians(signal, cfa)):
            # The level as such is no glow, and a plane that stands apart is no shape.
            signal = signal.copy() if plane == 0 else signal
            signal[plane // cell :: cell, plane % cell :: cell] -= np.float32(level)
        glow = np.empty(field.shape, np.float32)
        histograms.block_medians(signal, block, cell, background, glow)
        if np.isfinite(glow).any() and float(np.nanpercentile(glow, 99.5)) > rules.findings["CHK024"].limits["least"]:
            seen += glow_left(rules, subject, field, glow + np.float32(1.0))
    return seen


def _cell(cfa: str | None) -> int:
    """Return the side of the CFA's cell, px; 1 for mono and unknown patterns."""
    return {4: 2, 36: 6}.get(len(cfa or ""), 1)


def _plane_medians(image: FloatArray, cfa: str | None) -> npt.NDArray[np.float64]:
    import numpy as np

    from wbpy.kernels import statistics

    cell = _cell(cfa)
    # Every so many rows of cells: half a million pixels of a plane know its level to a thousandth of the noise. Of the
    # 36 planes of X-Trans a ninth as many are enough.
    jump = cell * max(1, image.size // (min(cell, 2) ** 2 * 500_000))
    return np.array([statistics.median(image[y::jump, x::cell].ravel()) for y in range(cell) for x in range(cell)])


def block_side(height: int, width: int) -> int:
    """Return the side of the blocks in which fields are compared, px: even, at most 256 blocks along a side."""
    return max(4, 2 * -(-max(height, width) // 512))


def field_of(image: FloatArray, cfa: str | None) -> FloatArray:
    """Return the medians of blocks, each colour relative to its own median: the shape of the background.

    Parameters
    ----------
    image : (H, W) float32 ndarray, DN
        A calibrated light, a master flat or a dark without its bias; NaN is left out.
    cfa : str or None
        Colours of the 2x2 cell.

    Returns
    -------
    (H // b, W // b) float32 ndarray
        About 1; `b` is `block_side`.
    """
    import numpy as np

    from wbpy.kernels import histograms

    cell, scale = _cell(cfa), _plane_medians(image, cfa)
    height, width = image.shape
    block = block_side(height, width)
    out = np.empty((height // block, width // block), np.float32)
    if (scale > 0).all():
        histograms.block_medians(image, block, cell, scale, out)
    else:
        out[:] = np.nan
    return out


def background_field(fields: Sequence[FloatArray]) -> FloatArray:
    """Return what the unregistered fields of several lights have in common: stars move from one to the next.

    Parameters
    ----------
    fields : sequence of (h, w) float32 ndarray
        From `field_of`; the result is NaN where none has a value.
    """
    import numpy as np

    from wbpy.kernels import statistics

    return np.asarray(statistics.median_of_known(np.array(fields)), np.float32)


@dataclass(frozen=True)
class Share:
    """How much of a known shape is found in a field, and how well that is known."""

    value: float
    error: float
    amplitude: float
    """Of the shape found, relative to the background."""


def share_of_shape(field: FloatArray, shape: FloatArray) -> Share | None:
    """Return how much of a shape a field holds beside a plane; None where that cannot be told.

    Least squares on ``c0 + cx x + cy y + a shape`` over the blocks that are left when bright ones (stars, nebulae)
    are cut. The error comes from leaving out each of 16 parts of the frame in turn (jackknife, Efron and Stein 1981),
    because what a nebula leaves is no white noise.

    Parameters
    ----------
    field, shape : (h, w) float32 ndarray
        About 1; NaN is left out.
    """
    import numpy as np

    jump = max(1, max(field.shape) // 64)
    field, shape = field[::jump, ::jump], shape[::jump, ::jump]
    h, w = field.shape
    y, x = np.indices((h, w), dtype=np.float64)
    y, x = y / max(1, h - 1) - 0.5, x / max(1, w - 1) - 0.5
    part = np.minimum((y + 0.5) * 4, 3).astype(int) * 4 + np.minimum((x + 0.5) * 4, 3).astype(int)
    finite = np.isfinite(field) & np.isfinite(shape)
    if finite.sum() < 64:
        return None
    design = np.stack([np.ones((h, w)), x, y, shape - 1.0], axis=-1).astype(np.float64)

    def fit(use: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        keep = use.copy()
        for _ in range(6):
            solution = np.asarray(np.linalg.lstsq(design[keep], field[keep].astype(np.float64), rcond=None)[0])
            rest = field - design @ solution
            centre = float(np.median(rest[keep]))
            sigma = 1.4826 * float(np.median(np.abs(rest[keep] - centre)))
            # Stars and nebulae only add light, so the upper side is cut closer.
            new = use & (rest - centre < 1.5 * sigma) & (rest - centre > -4.0 * sigma)
            if new.sum() < 32 or (new == keep).all():
                break
            keep = new
        return np.asarray(solution, np.float64), keep

    solution, kept = fit(finite)
    parts = [fit(finite & (part != number))[0][3] for number in range(16) if (finite & (part == number)).any()]
    n = len(parts)
    error = math.sqrt((n - 1) / n * float(np.sum((np.array(parts) - np.mean(parts)) ** 2)))
    low, high = np.percentile(shape[kept].astype(np.float64), (2, 98))
    return Share(float(solution[3]), error, abs(float(solution[3])) * float(high - low))


def flat_correction(rules: Rules, subject: str, field: FloatArray, flat: FloatArray) -> list[Observation]:
    """Return vignetting left in the calibrated lights, or turned round (guide, 8.2).

    Parameters
    ----------
    rules : Rules
    subject : str
        The group of lights.
    field : (h, w) float32 ndarray
        From `background_field` of calibrated lights.
    flat : (h, w) float32 ndarray
        From `field_of` of their master flat.
    """
    found = share_of_shape(field, flat)
    if found is None:
        return []
    id = "CHK025" if found.value > 0 else "CHK026"
    limits = rules.findings[id].limits
    if (
        abs(found.value) < limits["share"]
        # No flat can leave more than all of the vignetting: what looks so is a nebula in the middle.
        or found.value > 1.0
        or found.amplitude < limits["amplitude"]
        or abs(found.value) < limits["errors"] * found.error
    ):
        return []
    evidence: dict[str, Scalar] = {
        "percent": 100 * abs(found.value),
        "error_percent": 100 * found.error,
        "amplitude_percent": 100 * found.amplitude,
    }
    return [Observation(id, subject, evidence)]


@dataclass(frozen=True)
class Alternation:
    """How far the rows with odd numbers lie above those with even numbers."""

    difference: float
    """DN."""
    level: float
    """Background, DN."""
    noise: float
    """Spread of the pixels, DN."""
    error: float
    """Standard error of the difference, DN."""

    @property
    def share(self) -> float:
        """The difference over the background; NaN without one."""
        return self.difference / self.level if self.level > 0 else math.nan


def alternation(image: FloatArray) -> Alternation:
    """Return how the two fields of an interlaced sensor differ: the medians of odd and of even rows.

    Parameters
    ----------
    image : (H, W) float32 ndarray, DN
        NaN is left out. Of large frames every so many pairs of rows are taken.
    """
    import numpy as np

    from wbpy.kernels import statistics

    jump = 2 * max(1, image.size // 1_000_000)
    sides = [statistics.median_mad(np.ascontiguousarray(image[start::jump]).ravel()) for start in (0, 1)]
    count = image[::jump].size
    (even, mad), (odd, _) = sides
    # The standard error of a median is 1.2533 sigma / sqrt n.
    error = 1.2533 * 1.4826 * mad * math.sqrt(2.0 / max(1, count))
    return Alternation(odd - even, 0.5 * (odd + even), 1.4826 * mad, error)


def alternating_lines(
    rules: Rules,
    subject: str,
    lights: Sequence[tuple[Alternation, Alternation]],
    flat: tuple[float, float] = (math.nan, math.nan),
) -> list[Observation]:
    """Return rows or columns of which every other differs in most of the calibrated lights (guide, 5.5).

    Parameters
    ----------
    rules : Rules
    subject : str
        The group of lights; mono, because the lines of a CFA alternate by themselves.
    lights : sequence of (Alternation, Alternation)
        Of the rows and of the columns of each.
    flat : (float, float)
        What the master flat has of it in rows and columns, relative; NaN without a flat.
    """
    limits = rules.findings["CHK022"].limits
    seen = []
    for number, lines in enumerate(("Rows", "Columns")):
        each = sorted((light[number] for light in lights), key=lambda one: one.difference)
        one = each[len(each) // 2]
        limit = max(limits["share"] * one.level, limits["noise"] * one.noise, limits["errors"] * one.error)
        if not abs(one.difference) > limit > 0:
            continue
        evidence: dict[str, Scalar] = {
            "lines": lines,
            "difference_dn": one.difference,
            "percent": 100 * one.share,
            "noises": abs(one.difference) / one.noise,
            "flat_percent": None if math.isnan(flat[number]) else 100 * flat[number],
        }
        seen.append(Observation("CHK022", subject, evidence))
    return seen


_PROFILE = 128
"""Pixels of a line that tell its level: enough to know it to a ninth of a pixel's noise."""


@dataclass(frozen=True)
class LineProfile:
    """How far each line of a frame lies above those around it."""

    height: npt.NDArray[np.float64]
    """(n,) in units of `noise`; zero for the two outermost lines of each kind, which have few neighbours on a side."""
    error: float
    """Standard error of a height, likewise."""
    noise: float
    """Of a pixel, DN."""


def line_profile(image: FloatArray, cell: int) -> LineProfile:
    """Return how far each column lies above those around it.

    Parameters
    ----------
    image : (H, W) float32 ndarray, DN
        NaN is left out; a column without values is level.
    cell : int
        Side of the CFA's cell: columns of the same colours are compared.
    """
    import numpy as np
    from scipy import ndimage

    # A copy with one column after the other in memory, to be sorted.
    part = np.array(image[:: cell * max(1, image.shape[0] // (cell * _PROFILE))].T, order="C")
    samples = part.shape[1]
    # The mean of the middle half of the values: stars do not count, and coarse steps of the converter average out,
    # which a median would round to. NaN sorts to the end; with few it only shifts what is the middle.
    part.sort(axis=1)
    first, last = samples // 4, samples - samples // 4
    known = np.isfinite(part[:, last - 1])
    level = np.where(known, part[:, first:last].mean(axis=1, dtype=np.float64), 0.0)
    tenth = samples // 10
    # Of normal noise the inner eight tenths have 0.662 of the standard deviation.
    noise = max(_median(part[known, tenth : samples - tenth].std(axis=1, dtype=np.float64)) / 0.662, 1e-3)
    noise = noise if math.isfinite(noise) else 1e-3
    out = np.zeros(level.size)
    for phase in range(cell):
        own, use = level[phase::cell], known[phase::cell]
        if own.size < 8:
            continue
        # The nearer of the differences to either side, so that a slope or the edge of something bright is no line.
        three = ndimage.median_filter(own, size=3, mode="nearest")
        left, right = own[2:-2] - three[:-4], own[2:-2] - three[4:]
        nearer = np.where(np.abs(left) < np.abs(right), left, right)
        out[phase::cell][2:-2] = np.where(use[2:-2] & (left * right > 0), nearer, 0.0)
    # The middle half knows the mean to 1.09 sigma / sqrt n (Huber 1981, section 3.3); the neighbours add a third.
    return LineProfile(out / noise, 1.3 * 1.09 / math.sqrt(max(1, samples)), noise)


def standing_lines(
    rules: Rules,
    subject: str,
    profiles: Sequence[tuple[LineProfile, LineProfile]],
) -> list[Observation]:
    """Return columns and rows that differ from their neighbours in most of the calibrated lights (guide, 9.1).

    Parameters
    ----------
    rules : Rules
    subject : str
        The group of lights.
    profiles : sequence of (LineProfile, LineProfile)
        Of columns and rows of each light.
    """
    import numpy as np

    limits = rules.findings["CHK033"].limits
    found: list[tuple[float, str]] = []
    for number, name in enumerate(("column", "row")):
        height = np.median([pair[number].height for pair in profiles], axis=0)
        spread = 1.4826 * float(np.median(np.abs(height[height != 0]))) if height.any() else 0.0
        # A median over the lights is a quarter worse than a mean.
        error = 1.25 * profiles[0][number].error / math.sqrt(len(profiles))
        places = np.flatnonzero(np.abs(height) > max(limits["sigma"] * max(spread, error), limits["noise"]))
        found += [(float(height[place]), f"{name} {place}") for place in places]
    if not found:
        return []
    worst, where = max(found, key=lambda one: abs(one[0]))
    evidence: dict[str, Scalar] = {
        "lines": len(found),
        "worst": where,
        "height_dn": worst * _median(pair[0].noise for pair in profiles),
        "noises": abs(worst),
    }
    return [Observation("CHK033", subject, evidence)]


def uncalibrated_flat(rules: Rules, subject: str, flat: FloatArray, offset_dn: float) -> list[Observation]:
    """Return a master flat from which its offset was not subtracted (guide, 6.3.1).

    Told by the pixels that see no light, of which each sensor has some: with an offset they lie together on the level
    of the bias, without one about zero. A sensor without a dead pixel tells nothing.

    Parameters
    ----------
    rules : Rules
    subject : str
        The flat.
    flat : (H, W) float32 ndarray, DN
        The master as it divides the lights; NaN is left out.
    offset_dn : float
        Level of bias frames of the same camera and settings.
    """
    import numpy as np

    from wbpy.kernels import statistics

    limits = rules.findings["CHK012"].limits
    level = statistics.median(flat.reshape(-1))
    if not level > limits["bright"] * offset_dn > 0:
        # So weak a flat has pixels of every level down to the offset.
        return []
    reach = max(limits["share"] * offset_dn, limits["dn"])
    away = flat[flat < offset_dn + 3 * reach].astype(np.float64) - offset_dn
    lowest = away[np.abs(away) < reach]
    number, above = int(lowest.size), int(np.count_nonzero(away >= reach))
    # Above them is a gap; in a flat whose vignetting or dust reaches down to that level there is none.
    if number < limits["pixels"] or np.any(away <= -reach) or 2 * above > number:
        return []
    floor = offset_dn + float(np.median(lowest))
    evidence: dict[str, Scalar] = {
        "pixels": number,
        "floor_dn": floor,
        "offset_dn": offset_dn,
        "level_dn": level,
        "left_percent": 100 * offset_dn / level,
    }
    return [Observation("CHK012", subject, evidence)]


def glow_left(rules: Rules, subject: str, field: FloatArray, glow: FloatArray) -> list[Observation]:
    """Return amplifier glow that the calibration left in the lights, or subtracted too much of (guide, 3.2, 7.2).

    Parameters
    ----------
    rules : Rules
    subject : str
        The group of lights.
    field : (h, w) float32 ndarray
        From `background_field` of calibrated lights.
    glow : (h, w) float32 ndarray
        1 plus the dark signal of the lights' exposure in units of the background.
    """
    found = share_of_shape(field, glow)
    limits = rules.findings["CHK024"].limits
    if (
        found is None
        or abs(found.value) < limits["share"]
        or found.amplitude < limits["amplitude"]
        or abs(found.value) < limits["errors"] * found.error
    ):
        return []
    evidence: dict[str, Scalar] = {
        "percent": 100 * found.value,
        "error_percent": 100 * found.error,
        "amplitude_percent": 100 * found.amplitude,
    }
    return [Observation("CHK024", subject, evidence)]


def embossed_dust(rules: Rules, subject: str, field: FloatArray, flat: FloatArray, block: int) -> list[Observation]:
    """Return dust shadows of the flat that do not fit those of the lights (guide, 8.3).

    Where the flat has a shadow that the lights have elsewhere, the calibrated light is bright by the shadow's depth.
    The share of the flat's shadows that comes back so is 0 for a flat that fits and 1 for one whose dust is gone; the
    shift is where the lights' own shadows fit the flat's best.

    Parameters
    ----------
    rules : Rules
    subject : str
        The group of lights.
    field, flat : (h, w) float32 ndarray
        As for `flat_correction`.
    block : int
        Side of a block, px.
    """
    import numpy as np
    from scipy import ndimage

    limits = rules.findings["CHK027"].limits
    shadow, rest = _fine(flat), _fine(field)
    finite = np.isfinite(shadow) & np.isfinite(rest)
    shadow, rest = np.where(finite, shadow, 0.0), np.where(finite, rest, 0.0)
    noise = max(1e-9, 1.4826 * float(np.median(np.abs(rest[finite])))) if finite.any() else math.inf
    depth = 1.4826 * float(np.median(np.abs(shadow[finite]))) if finite.any() else math.inf
    dust = finite & (shadow < -max(limits["depth"], 6.0 * depth))
    # A star in one block must not decide.
    reach = 2.0 * float(-shadow.min()) + 3.0 * noise
    rest = np.clip(rest, -reach, reach)
    if dust.sum() < 6:
        return []
    weight = float(np.sum(shadow[dust] ** 2))
    share = -float(np.sum(rest[dust] * shadow[dust])) / weight
    # Neighbouring blocks are not independent, hence the factor.
    error = 3.0 * noise / math.sqrt(weight)
    # A bright star may stand in one shadow, not in most of them.
    labels, number = ndimage.label(dust, structure=np.ones((3, 3)))
    each = [
        -float(np.sum(rest[labels == label] * shadow[labels == label]) / np.sum(shadow[labels == label] ** 2))
        for label in range(1, number + 1)
        if np.count_nonzero(labels == label) >= 2
    ]
    if len(each) < 2 or min(share, _median(each)) < max(limits["share"], limits["errors"] * error):
        return []
    own = np.where(dust | (rest < -3.0 * noise), (1.0 + rest) * (1.0 + shadow) - 1.0, 0.0)
    own = np.minimum(own, 0.0)
    template = np.where(dust, shadow, 0.0)
    correlation = np.fft.irfft2(np.fft.rfft2(own) * np.conj(np.fft.rfft2(template)), s=own.shape)
    scale = math.sqrt(float(np.sum(own**2)) * weight)
    at = np.unravel_index(int(np.argmax(correlation)), correlation.shape)
    dy, dx = ((int(i) + n // 2) % n - n // 2 for i, n in zip(at, own.shape, strict=True))
    fits = scale > 0 and float(correlation[at]) / scale > limits["match"]
    if fits and dy == dx == 0:
        # The lights have the shadows where the flat has them: whatever brightens them is no shift.
        return []
    evidence: dict[str, Scalar] = {
        "percent": 100 * share,
        "depth_percent": -100 * float(shadow.min()),
        "shift": f"by about {math.hypot(dx, dy) * block:.0f} px ({dx * block:+d}, {dy * block:+d})" if fits else "away",
    }
    return [Observation("CHK027", subject, evidence)]


def _fine(field: FloatArray) -> npt.NDArray[np.float64]:
    """Return the small-scale part of a field: what is left when a wide running median is divided out."""
    import numpy as np
    from scipy import ndimage

    if not np.isfinite(field).any():
        return np.full(field.shape, np.nan)
    filled = np.where(np.isfinite(field), field, np.nanmedian(field)).astype(np.float64)
    # Wider than any shadow, and no wider: the cost grows with the square.
    side = min(31, max(5, 2 * (min(field.shape) // 6) + 1))
    smooth = ndimage.median_filter(filled, size=side, mode="nearest")
    with np.errstate(divide="ignore", invalid="ignore"):
        fine = np.where(smooth > 0, filled / smooth - 1.0, np.nan)
    return np.where(np.isfinite(field), fine, np.nan)


def hot_pixels_left(rules: Rules, subject: str, marked: npt.NDArray[np.uint8], lights: int) -> list[Observation]:
    """Return hot pixels that are there in most of the corrected lights, which move under the stars (guide, 9.2).

    Parameters
    ----------
    rules : Rules
    subject : str
        The group of lights.
    marked : (H, W) uint8 ndarray
        In how many lights each pixel stood out alone; see `mark_isolated`.
    lights : int
        How many were looked at.
    """
    import numpy as np

    limits = rules.findings["CHK028"].limits
    if lights < 3:
        return []
    number = int(np.count_nonzero(marked >= max(3, math.ceil(0.6 * lights))))
    share = number / marked.size
    if number < limits["pixels"] or share < limits["share"]:
        return []
    return [Observation("CHK028", subject, {"pixels": number, "percent": 100 * share, "lights": lights})]


def mark_isolated(rules: Rules, image: FloatArray, cfa: str | None, marked: npt.NDArray[np.uint8]) -> int:
    """Raise `marked` by one at each pixel that stands out alone in a corrected light; return how many do.

    Pixels of X-Trans frames are held against those beside them, of any colour: those of the same one stand too far
    away to share a star's light. What the colours differ by raises the limit there.
    """
    import numpy as np

    from wbpy.kernels import histograms, statistics

    cell = 2 if _cell(cfa) == 2 else 1
    sigma = rules.findings["CHK028"].limits["sigma"]
    limit = []
    for y in range(cell):
        for x in range(cell):
            plane = image[y :: cell * max(1, image.size // (cell * cell * 500_000)), x::cell]
            _, mad = statistics.median_mad(np.ascontiguousarray(np.diff(plane, axis=1)).ravel())
            limit.append(sigma * 1.4826 * mad / math.sqrt(2.0))
    return int(histograms.isolated_pixels(image, cell, np.array(limit), marked))
