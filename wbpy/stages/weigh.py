"""Weigh: how much each frame counts in its integration (guide, section 9.4)."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

from msgspec import Meta

from wbpy.stages.base import Input, Output, Params, Stage
from wbpy.stages.measure import Measurement
from wbpy.stages.normalize import Normalization

WBPP_FORMULA = (
    "65 + 5 * falling(fwhm_px) + 10 * falling(eccentricity) + 20 * rising(snr) + 0 * rising(stars)"
    " + 0 * psf_signal_weight / psf_signal_weight_max + 0 * psf_snr / psf_snr_max"
)
"""The weighting formula of WBPP 3 with its factors."""

VARIABLES = (
    "stars",
    "fwhm_px",
    "eccentricity",
    "background_dn",
    "noise_dn",
    "snr",
    "psf_signal_weight",
    "psf_snr",
    "scale",
)
"""What formulas may use, also with ``_min``, ``_max`` and ``_median`` over the frames."""

_OPERATORS: dict[type, Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_FUNCTIONS: dict[str, tuple[int, Callable[..., float]]] = {
    "sqrt": (1, math.sqrt),
    "log": (1, math.log),
    "exp": (1, math.exp),
    "abs": (1, abs),
    "min": (2, min),
    "max": (2, max),
}
_RANKS = ("rising", "falling")
_LONGEST = 1000


class WeighParams(Params, frozen=True, kw_only=True):
    """What the weight of a frame follows."""

    method: Annotated[
        Literal["psf_scale_snr", "psf_signal", "psf_snr", "snr", "formula", "keyword", "none"],
        Meta(
            description="psf_scale_snr: inverse variance after scaling by star flux, and sharpness; psf_signal, "
            "psf_snr: from the fluxes of all fitted stars; snr: spread of the background over noise; formula, keyword: "
            "see there; none: all alike"
        ),
    ] = "psf_scale_snr"
    sharpness: Annotated[
        float, Meta(ge=0, le=4, description="psf_scale_snr: power of the FWHM by which sharper frames count more")
    ] = 0.5
    formula: Annotated[
        str,
        Meta(description="weight for the method formula: + - * / **, sqrt, log, exp, abs, min, max, rising, falling"),
    ] = WBPP_FORMULA
    keyword: Annotated[
        str, Meta(description="header keyword with the weight, for the method keyword; name it in scan.keywords too")
    ] = "SSWEIGHT"
    minimum: Annotated[float, Meta(ge=0, lt=1, description="frames below this share of the best are excluded")] = 0.05

    def __post_init__(self) -> None:
        """Refuse a formula that cannot be computed, before any pixel is read.

        Raises
        ------
        ValueError
            If it is not in the grammar.
        """
        parse_formula(self.formula)


def run(
    params: WeighParams,
    measurements: Sequence[Measurement],
    normalizations: Sequence[Normalization],
    keywords: Sequence[str | None] = (),
) -> tuple[list[tuple[float, ...]], list[int]]:
    """Return the weight of each frame, one value a channel, the best frame of a channel 1, and who has none.

    The default is ``1 / (k sigma)^2 / FWHM^sharpness``. The first factor is the inverse variance of a pixel once the
    frame is scaled to the reference's star flux: the weight that gives extended objects the highest signal-to-noise
    ratio; it falls with a bright sky (sigma grows) as with cloud (k grows). For stars the best weight falls with the
    FWHM as well, nearly as its first power; the root serves both. What the others are worth: docs/decisions/0605.

    Parameters
    ----------
    params : WeighParams
        The stage's parameters.
    measurements, normalizations : sequences
        Of all frames, in one order.
    keywords : sequence of str or None
        For the method ``keyword``: what the header of each frame has.

    Returns
    -------
    weights : list of tuple of float
    unknown : list of int
        Indices of frames whose weight cannot be computed: no stars, no such keyword, a formula without a finite
        positive value. Their weight is 0.
    """
    channels = len(measurements[0].noise)
    raw: list[tuple[float, ...]]
    if params.method == "none":
        raw = [(1.0,) * channels for _ in measurements]
    elif params.method == "psf_scale_snr":
        raw = [
            tuple(sharp * _inverse_square(k * sigma) for k, sigma in zip(n.scale, m.noise, strict=True))
            for m, n, sharp in zip(
                measurements, normalizations, _sharpness(params.sharpness, measurements), strict=True
            )
        ]
    elif params.method == "snr":
        raw = [
            tuple(
                (spread / sigma) ** 2 if sigma > 0 else math.nan
                for spread, sigma in zip(m.dispersion, m.noise, strict=True)
            )
            for m in measurements
        ]
    else:
        if params.method == "psf_signal":
            single = [m.psf_signal_weight for m in measurements]
        elif params.method == "psf_snr":
            single = [m.psf_snr for m in measurements]
        elif params.method == "keyword":
            single = [_number(text) for text in keywords]
        else:
            tree = parse_formula(params.formula)
            single = [_value(tree, row) for row in _table(measurements, normalizations)]
        raw = [(value,) * channels for value in single]
    unknown = [i for i, weights in enumerate(raw) if not all(math.isfinite(w) and w > 0 for w in weights)]
    raw = [(0.0,) * channels if i in set(unknown) else weights for i, weights in enumerate(raw)]
    best = [max(weights[c] for weights in raw) for c in range(channels)]
    return [tuple(w / b if b > 0 else 0.0 for w, b in zip(weights, best, strict=True)) for weights in raw], unknown


def _sharpness(power: float, measurements: Sequence[Measurement]) -> list[float]:
    """Return how much each frame counts for its sharpness, a typical one 1; one without a FWHM is taken for typical."""
    import statistics

    known = [m.fwhm for m in measurements if math.isfinite(m.fwhm) and m.fwhm > 0]
    if not known:
        return [1.0] * len(measurements)
    middle = statistics.median(known)
    return [(middle / m.fwhm) ** power if math.isfinite(m.fwhm) and m.fwhm > 0 else 1.0 for m in measurements]


def phases_covered(transforms: Sequence[tuple[Any, tuple[int, int]]], period: int) -> float:
    """Return the share of the positions within a pixel, or a cell of `period` pixels, that the frames' centres take.

    There are sixteen positions: quarters of the period along either axis. Random dithering of n frames takes
    ``1 - (15/16)^n`` of them, 72 % for 20.

    Parameters
    ----------
    transforms : sequence of ((3, 3) array, (int, int))
        Reference to frame, pixels, and height and width, of each frame.
    period : int, px
    """
    import numpy as np

    taken = set()
    for matrix, (height, width) in transforms:
        x, y, w = matrix @ np.array([(width - 1) / 2, (height - 1) / 2, 1.0])
        # Centred on whole pixels, so that frames without any shift fall into one position and not on its edge.
        taken.add(tuple(int(math.floor(4 * v / w / period + 0.5)) % 4 for v in (x, y)))
    return len(taken) / 16


def parse_formula(text: str) -> ast.expr:
    """Return a formula as a tree of numbers, names of `VARIABLES`, the four operations, powers and known functions.

    ``rising(name)`` is 0 for the frame with the least value, 1 for that with the largest, and linear between them;
    ``falling(name)`` the reverse. Both are 0 where all frames have the same value.

    Raises
    ------
    ValueError
        If anything else stands in it; the message names it.
    """
    if len(text) > _LONGEST:
        raise ValueError(f"formula of {len(text)} characters, at most {_LONGEST}")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"formula {text!r} cannot be read: {error}") from None
    _check(tree)
    return tree


def _check(node: ast.expr) -> None:
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and not isinstance(node.value, bool):
        return
    if isinstance(node, ast.Name) and _is_variable(node.id):
        return
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        _check(node.operand)
        return
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        _check(node.left)
        _check(node.right)
        return
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        name = node.func.id
        if name in _RANKS:
            if len(node.args) == 1 and isinstance(node.args[0], ast.Name) and node.args[0].id in VARIABLES:
                return
            raise ValueError(f"{name} in a formula takes one of {', '.join(VARIABLES)}")
        if name in _FUNCTIONS and len(node.args) == _FUNCTIONS[name][0]:
            for argument in node.args:
                _check(argument)
            return
    raise ValueError(
        f"{ast.unparse(node)!r} has no place in a formula: numbers, + - * / **, {', '.join([*_FUNCTIONS, *_RANKS])}, "
        f"and {', '.join(VARIABLES)}, these also with _min, _max, _median"
    )


def _is_variable(name: str) -> bool:
    return name in VARIABLES or any(
        name.endswith(f"_{of}") and name.removesuffix(f"_{of}") in VARIABLES for of in ("min", "max", "median")
    )


def _value(node: ast.expr, row: Mapping[str, float]) -> float:
    """Return the value of a checked formula for one frame; NaN where it has none."""
    try:
        value = _compute(node, row)
    except (ArithmeticError, ValueError):
        return math.nan
    # A negative number to a broken power is complex.
    return float(value) if isinstance(value, (int, float)) else math.nan


def _compute(node: Any, row: Mapping[str, float]) -> Any:
    if isinstance(node, ast.Constant):
        # As a float, so that a tower of powers overflows instead of filling the memory.
        return float(node.value)  # type: ignore[arg-type]
    if isinstance(node, ast.Name):
        return row[node.id]
    if isinstance(node, ast.UnaryOp):
        value = _compute(node.operand, row)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp):
        return _OPERATORS[type(node.op)](_compute(node.left, row), _compute(node.right, row))
    if node.func.id in _RANKS:
        name = node.args[0].id
        low, high = row[f"{name}_min"], row[f"{name}_max"]
        share = (row[name] - low) / (high - low) if high > low else math.nan
        if math.isnan(share):
            return 0.0 if high == low else math.nan
        return share if node.func.id == "rising" else 1.0 - share
    return _FUNCTIONS[node.func.id][1](*(_compute(argument, row) for argument in node.args))


def _table(measurements: Sequence[Measurement], normalizations: Sequence[Normalization]) -> list[dict[str, float]]:
    """Return the variables of each frame; values of the middle channel."""
    import statistics

    rows = []
    for m, n in zip(measurements, normalizations, strict=True):
        c = len(m.noise) // 2
        row = {
            "stars": float(m.count),
            "fwhm_px": m.fwhm,
            "eccentricity": m.eccentricity,
            "background_dn": m.background[c],
            "noise_dn": m.noise[c],
            "snr": (m.dispersion[c] / m.noise[c]) ** 2 if m.noise[c] > 0 else math.nan,
            "psf_signal_weight": m.psf_signal_weight,
            "psf_snr": m.psf_snr,
            "scale": n.scale[c],
        }
        rows.append(row)
    for name in VARIABLES:
        known = [row[name] for row in rows if math.isfinite(row[name])] or [math.nan]
        shared = {f"{name}_min": min(known), f"{name}_max": max(known), f"{name}_median": statistics.median(known)}
        for row in rows:
            row |= shared
    return rows


def _number(text: str | None) -> float:
    try:
        return float(text) if text is not None else math.nan
    except ValueError:
        return math.nan


def _inverse_square(value: float) -> float:
    return 1.0 / value**2 if value > 0 else math.nan


WEIGH = Stage(
    name="weigh",
    version=3,
    per="integration group",
    title="Weigh the frames",
    run=run,
    params=WeighParams,
    inputs=(Input("stars", "measurement"), Input("normalization", "normalization")),
    outputs=(Output("weights", "weight", "1"),),
    findings=("WGT001", "WGT002", "MEA003", "MEA004"),
    memory=lambda height, width: 0,
)
