"""Weights: what each method follows, the grammar of formulas, lights without a weight."""

import math

import msgspec
import numpy as np
import pytest

from wbpy.stages import weigh
from wbpy.stages.measure import Measurement
from wbpy.stages.normalize import Normalization
from wbpy.stages.weigh import VARIABLES, WeighParams, parse_formula

NONE = np.empty(0)


def frame(**change: float) -> Measurement:
    given = {"count": 300.0, "fwhm": 3.0, "eccentricity": 0.4, "noise": 10.0, "dispersion": 20.0} | change
    return Measurement(
        x=NONE,
        y=NONE,
        flux=NONE,
        usable=NONE.astype(bool),
        count=int(given["count"]),
        fwhm=given["fwhm"],
        eccentricity=given["eccentricity"],
        background=(500.0,),
        noise=(given["noise"],),
        dispersion=(given["dispersion"],),
        total_flux=given.get("flux", 1e6),
        total_brightness=given.get("brightness", 1e5),
        local_level=given.get("level", 500.0),
    )


def weights(params: WeighParams, *frames: Measurement, scales: tuple[float, ...] = (), keywords=()) -> list[float]:
    normalizations = [Normalization((k,), (0.0,), 9) for k in scales or (1.0,) * len(frames)]
    found, unknown = weigh.run(params, frames, normalizations, keywords)
    assert unknown == [i for i, w in enumerate(found) if w == (0.0,)]
    return [w[0] for w in found]


def test_the_default_is_the_inverse_variance_after_scaling_times_the_root_of_sharpness():
    assert WeighParams().method == "psf_scale_snr"
    assert weights(WeighParams(), frame(), frame(noise=20.0), frame(), scales=(1, 1, 2)) == [1.0, 0.25, 0.25]
    assert weights(WeighParams(), frame(), frame(fwhm=12.0)) == pytest.approx([1.0, 0.5])
    assert weights(WeighParams(sharpness=2.0), frame(fwhm=6.0), frame()) == pytest.approx([0.25, 1.0])
    assert weights(WeighParams(sharpness=0.0), frame(fwhm=6.0), frame()) == [1.0, 1.0]


def test_a_light_without_a_width_counts_as_a_typical_one():
    found = weights(WeighParams(), frame(fwhm=3.0), frame(fwhm=math.nan), frame(fwhm=12.0), frame(fwhm=6.0))
    # The median of the known is 6.
    assert found == pytest.approx([1.0, math.sqrt(0.5), 0.5, math.sqrt(0.5)])
    assert weights(WeighParams(), frame(fwhm=math.nan), frame(fwhm=math.nan)) == [1.0, 1.0]


def test_psf_signal_follows_flux_sharpness_noise_and_sky():
    params = WeighParams(method="psf_signal")
    found = weights(
        params,
        frame(),
        frame(flux=5e5),
        frame(brightness=5e4),
        frame(noise=20.0),
        frame(level=1000.0),
        frame(level=-3.0),
    )
    assert found == pytest.approx([1.0, 0.5, 0.5, 0.5, 0.5, 0.0])


def test_psf_snr_and_snr_follow_their_ratios_squared():
    assert weights(WeighParams(method="psf_snr"), frame(), frame(flux=5e5), frame(noise=20.0)) == [1.0, 0.25, 0.25]
    assert weights(WeighParams(method="snr"), frame(), frame(dispersion=10.0)) == [1.0, 0.25]


def test_no_weighing_counts_all_alike():
    assert weights(WeighParams(method="none"), frame(), frame(noise=99.0)) == [1.0, 1.0]


def test_a_keyword_gives_the_weight_and_a_light_without_it_has_none():
    found = weights(WeighParams(method="keyword"), *[frame()] * 5, keywords=["4", "2.0", None, "good", "-1"])
    assert found == [1.0, 0.5, 0.0, 0.0, 0.0]


def test_the_default_formula_is_that_of_wbpp():
    frames = [frame(fwhm=2.0, eccentricity=0.5), frame(fwhm=4.0, eccentricity=0.3, dispersion=30.0), frame(fwhm=3.0)]
    # Falling FWHM 1, 0, 0.5; falling eccentricity 0, 1, 0.5; rising SNR (4, 9, 4) 0, 1, 0.
    scores = np.array([65 + 5 * 1, 65 + 10 * 1 + 20 * 1, 65 + 5 * 0.5 + 10 * 0.5])
    assert weights(WeighParams(method="formula"), *frames) == pytest.approx(scores / scores.max())


@pytest.mark.parametrize(
    ("formula", "wanted"),
    [
        ("1 / fwhm_px ** 2", [1.0, 0.25]),
        ("-fwhm_px + 5", [1.0, 1 / 3]),
        ("sqrt(noise_dn) * 2", [1.0, 1.0]),
        ("max(fwhm_px, 3) / fwhm_px_median", [0.75, 1.0]),
        ("fwhm_px_min / fwhm_px", [1.0, 0.5]),
        ("scale", [1.0, 1.0]),
        ("rising(stars) + 1", [1.0, 1.0]),
        # No finite value above zero: no weight.
        ("log(fwhm_px - 2)", [0.0, 1.0]),
        ("1 / (fwhm_px - 2)", [0.0, 1.0]),
        ("2 - fwhm_px", [0.0, 0.0]),
        ("(0 - fwhm_px) ** 0.5", [0.0, 0.0]),
        ("9 ** 9 ** 9 ** 9", [0.0, 0.0]),
    ],
)
def test_formulas_are_computed_for_each_light(formula: str, wanted: list[float]):
    assert weights(WeighParams(method="formula", formula=formula), frame(fwhm=2.0), frame(fwhm=4.0)) == pytest.approx(
        wanted
    )


@pytest.mark.parametrize(
    "formula",
    [
        "",
        "__import__('os').system('true')",
        "fwhm_px.__class__",
        "[1, 2][0]",
        "lambda: 1",
        "fwhm_px if 1 else 2",
        "fwhm",
        "'a' * 3",
        "True",
        "2j",
        "rising(3)",
        "rising(fwhm_px_min)",
        "sqrt(1, 2)",
        "min(1)",
        "max(*[1])",
        "sqrt(x=1)",
        "fwhm_px % 2",
        "fwhm_px < 3",
        "(" * 300 + "1" + ")" * 300,
        "1+" * 600 + "1",
    ],
)
def test_what_is_not_in_the_grammar_is_refused_before_the_run(formula: str):
    with pytest.raises(ValueError, match="formula"):
        parse_formula(formula)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"formula": formula}, WeighParams)


def test_every_variable_has_a_value_in_every_form():
    for name in VARIABLES:
        for form in (name, f"{name}_min", f"{name}_max", f"{name}_median"):
            assert weights(WeighParams(method="formula", formula=form), frame(), frame()) == [1.0, 1.0]


def test_lights_without_stars_have_no_weight_from_stars():
    blind = frame(flux=math.nan, fwhm=math.nan)
    assert weights(WeighParams(method="psf_snr"), frame(), blind) == [1.0, 0.0]
    assert (
        weights(WeighParams(method="formula", formula="1 + falling(fwhm_px)"), frame(), frame(fwhm=4.0), blind)[2]
        == 0.0
    )


def test_sub_pixel_positions_are_counted_in_pixels_or_in_cells_of_the_cfa():
    def shifted(x: float, y: float) -> tuple[np.ndarray, tuple[int, int]]:
        return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]]), (100, 120)

    assert weigh.phases_covered([shifted(0, 0)] * 9, 1) == 1 / 16
    assert weigh.phases_covered([shifted(3, -7)] * 2 + [shifted(1e-6, -1e-6)], 1) == 1 / 16
    quarters = [shifted(x / 4, y / 4) for x in range(4) for y in range(4)]
    assert weigh.phases_covered(quarters, 1) == 1.0
    # Quarters of a cell of two pixels are half pixels: 0 to 0.75 px lie nearest to three of them.
    assert weigh.phases_covered(quarters, 2) == 9 / 16
    assert weigh.phases_covered([shifted(x / 2, y / 2) for x in range(4) for y in range(4)], 2) == 1.0
