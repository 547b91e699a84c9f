"""The simulator is the ruler the pipeline is measured with: its own marks are checked here, against other formulas."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits
from scipy import integrate

from wbpy.errors import ConfigError, ShapeError
from wbpy.simulate import (
    FAULTS,
    FOLDERS,
    Optics,
    Psf,
    Scene,
    Sensor,
    SessionSpec,
    apply_transform,
    field_transform,
    make_scene,
    render,
    write_session,
)
from wbpy.simulate.dng import XTRANS
from wbpy.simulate.headers import DIALECTS, Literal, fits_bytes
from wbpy.simulate.scene import CHANNELS, integrate_psf, render_channels
from wbpy.simulate.sensor import cfa_indices, draw_cosmic_rays, draw_satellite, fixed_pattern, stream

PLAIN = Sensor(
    width=200,
    height=160,
    bias_column_dn=0.0,
    bias_gradient_dn=0.0,
    dark_e_per_s=0.0,
    glow_e_per_s=0.0,
    prnu=0.0,
    hot_fraction=0.0,
    warm_fraction=0.0,
    cold_fraction=0.0,
)
SMALL = SessionSpec(
    sensor=Sensor(width=72, height=56),
    n_stars=60,
    n_lights=2,
    n_darks=1,
    n_flats=1,
    n_flat_darks=1,
    n_bias=1,
)


def one_star(x, y, flux=1000.0, size=(90, 70)):
    width, height = size
    empty = np.zeros((height + 8, width + 8))
    return Scene(
        width,
        height,
        4,
        np.array([x]),
        np.array([y]),
        {name: np.array([flux]) for name in CHANNELS},
        dict.fromkeys(CHANNELS, empty),
        dict.fromkeys(CHANNELS, 0.0),
    )


def centroid(picture):
    y, x = np.indices(picture.shape)
    return (picture * x).sum() / picture.sum(), (picture * y).sum() / picture.sum()


# --- scene


@pytest.mark.parametrize(
    "psf",
    [Psf(2.0), Psf(3.3, 0.3, 35.0, 2.5), Psf(1.3, 0.2, 110.0, math.inf), Psf(5.0, 0.5, 80.0, 6.0)],
)
def test_pixel_integral_of_the_psf_equals_adaptive_quadrature(psf):
    """The twin integrates the profile in polar form, written from its definition by full widths."""
    major, minor = psf.axes_fwhm_px

    def profile(y, x):
        towards = math.atan2(y, x) - math.radians(psf.angle_deg)
        radius = math.hypot(x, y)
        # Distance in units of the half width in that direction: one at half of the peak.
        half = math.hypot(2.0 * radius * math.cos(towards) / major, 2.0 * radius * math.sin(towards) / minor)
        if math.isinf(psf.beta):
            return 0.5 ** (half**2) * 4.0 * math.log(2.0) / (math.pi * major * minor)
        core = 2.0 ** (1.0 / psf.beta) - 1.0
        return (1.0 + core * half**2) ** -psf.beta * 4.0 * core * (psf.beta - 1.0) / (math.pi * major * minor)

    dx, dy = np.array([-1.3, -0.3, 0.7, 4.7]), np.array([-2.1, 0.4, 1.4])
    found = integrate_psf(psf, dx, dy)
    for row, y in enumerate(dy):
        for column, x in enumerate(dx):
            truth = integrate.dblquad(profile, x - 0.5, x + 0.5, y - 0.5, y + 0.5)[0]
            assert found[row, column] == pytest.approx(truth, abs=2e-5 * profile(0.0, 0.0))


@pytest.mark.parametrize("fwhm", [1.2, 2.0, 3.7])
@pytest.mark.parametrize("beta", [2.5, 4.0, math.inf])
def test_star_flux_is_conserved(fwhm, beta):
    picture = render(one_star(44.37, 35.81), np.eye(3), Psf(fwhm, 0.15, 30.0, beta), 90, 70, "L")
    # Beta 2.5 sends 0.3 % beyond the edge of the frame (radius 34 px at FWHM 3.7): (1 + (r/alpha)^2)^-1.5.
    assert picture.sum() == pytest.approx(1000.0, rel=4e-3 if beta == 2.5 else 2e-4)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"dx": 3.217, "dy": -4.61},
        {"rotation_deg": 7.3, "dx": 0.5},
        {"flipped": True, "dx": -2.25},
        {"mirrored": True, "rotation_deg": -12.0},
        {"scale": 0.8, "rotation_deg": 33.0},
    ],
)
def test_star_is_drawn_where_the_matrix_says(settings):
    matrix = field_transform(90, 70, **settings)
    picture = render(one_star(50.3, 31.6), matrix, Psf(3.0, beta=math.inf), 90, 70, "L")
    x, y, _ = matrix @ np.array([50.3, 31.6, 1.0])
    assert centroid(picture) == pytest.approx((x, y), abs=1e-4)


def test_field_transform_rotates_about_the_centre_and_flips_to_the_opposite_side():
    x, y = apply_transform(field_transform(101, 51, rotation_deg=90.0), np.array([60.0]), np.array([25.0]))
    assert (x[0], y[0]) == pytest.approx((50.0, 35.0))
    x, y = apply_transform(field_transform(101, 51, flipped=True), np.array([0.0]), np.array([0.0]))
    assert (x[0], y[0]) == (100.0, 50.0)
    assert np.linalg.det(field_transform(101, 51, mirrored=True)[:2, :2]) == pytest.approx(-1.0)


def test_nebula_and_sky_keep_their_light_when_the_scale_changes():
    scene = make_scene(3, 96, 80, 0)
    one = render(scene, np.eye(3), Psf(), 96, 80, "R")
    half = render(scene, field_transform(96, 80, scale=0.5), Psf(), 96, 80, "R")
    # The middle of the half-size picture shows the whole plane.
    assert half[20:60, 24:72].sum() == pytest.approx(one.sum(), rel=0.01)


def test_nebula_moves_with_the_matrix():
    scene = make_scene(3, 96, 80, 0)
    one = render(scene, np.eye(3), Psf(), 96, 80, "R")
    moved = render(scene, field_transform(96, 80, dx=5.0, dy=-3.0), Psf(), 96, 80, "R")
    np.testing.assert_allclose(moved[:-3, 5:], one[3:, :-5], rtol=1e-9)


def test_scene_follows_from_its_seed_and_luminance_is_the_sum_of_the_colours():
    first, again, other = make_scene(5, 64, 64), make_scene(5, 64, 64), make_scene(6, 64, 64)
    np.testing.assert_array_equal(first.nebula["Ha"], again.nebula["Ha"])
    np.testing.assert_array_equal(first.x, again.x)
    assert not np.array_equal(first.x, other.x)
    np.testing.assert_allclose(first.flux["L"], sum(first.flux[c] for c in "RGB"))
    np.testing.assert_allclose(first.nebula["L"], sum(first.nebula[c] for c in "RGB"))
    assert first.nebula["L"].max() == pytest.approx(4.0)


def test_star_counts_follow_the_power_law():
    flux = make_scene(1, 64, 64, 4000, slope=1.0, faintest_e_per_s=1.0, brightest_e_per_s=1e6).flux["L"]
    for limit in (2.0, 10.0, 100.0):
        # N(> F) = N / F; quantiles are stratified, so counts are exact to one star on either side.
        assert abs((flux > limit).sum() - 4000 / limit) <= 2


def test_unknown_channel_is_named():
    with pytest.raises(ConfigError, match="'U' is not in the scene"):
        render(make_scene(1, 32, 32, 3), np.eye(3), Psf(), 32, 32, "U")


# --- sensor


def test_photon_and_read_noise_follow_the_photon_transfer_curve():
    sensor = replace(PLAIN, e_per_dn=0.7, read_noise_e=5.0)
    for rate in (0.0, 2.0, 40.0):
        light = np.full((160, 200), rate)
        frame = sensor.expose(light, 30.0, -10.0, stream(4, "shot", int(rate))).astype(float)
        electrons = rate * 30.0
        variance = (electrons + 25.0) / 0.49 + 1.0 / 12.0
        # 32000 pixels: the mean is good to sqrt(v/N), the variance to sqrt(2/N) = 0.8 %; four sigma each.
        assert frame.mean() - 500.0 == pytest.approx(electrons / 0.7, abs=4.0 * math.sqrt(variance / 32000))
        assert frame.var() == pytest.approx(variance, rel=0.032)


def test_dark_current_doubles_with_temperature_and_glow_grows_with_time():
    sensor = replace(PLAIN, dark_e_per_s=0.5, glow_e_per_s=2.0, glow_power=1.5)
    cold, warm = sensor.dark_electrons(100.0, -10.0), sensor.dark_electrons(100.0, -4.0)
    assert (warm - cold)[5, 5] == pytest.approx(cold[5, 5], rel=1e-2)
    # In the corner the glow dominates: 2 e- at one second, 2 * 100^1.5 at a hundred.
    assert cold[-1, -1] == pytest.approx(2000.0 + 50.0, rel=0.03)
    short = sensor.dark_electrons(1.0, -10.0)
    assert short[-1, -1] == pytest.approx(2.0 + 0.5, rel=0.3)


def test_full_well_and_converter_limit_a_bright_pixel():
    light = np.full((160, 200), 1e4)
    by_well = replace(PLAIN, full_well_e=20_000.0, e_per_dn=1.0)
    frame = by_well.expose(light, 60.0, -10.0, stream(1))
    assert by_well.saturation_dn == 20_500.0
    assert frame.mean() == pytest.approx(20_500.0, abs=1.0)
    by_converter = replace(PLAIN, e_per_dn=0.1, adc_bits=12, scaled_to_16=False)
    frame = by_converter.expose(light, 60.0, -10.0, stream(1))
    assert (frame == 4095).all()
    assert by_converter.saturation_dn == 4095.0


def test_a_twelve_bit_converter_scaled_to_sixteen_gives_multiples_of_sixteen():
    sensor = replace(PLAIN, adc_bits=12)
    frame = sensor.expose(np.full((160, 200), 10.0), 60.0, -10.0, stream(1))
    assert set(np.unique(frame % 16)) == {0}
    assert sensor.step_dn == 16
    assert sensor.max_dn == 65520


def test_fixed_pattern_has_the_requested_shares_and_belongs_to_the_seed():
    sensor = Sensor(width=400, height=300, hot_fraction=0.01, cold_fraction=0.02, prnu=0.01, bad_columns=(7,))
    maps = fixed_pattern(sensor)
    # 120000 pixels: 1200 +- 35 hot, 2400 +- 49 cold (less those that are hot or warm); four sigma.
    assert maps.hot.sum() == pytest.approx(1200, abs=140)
    assert maps.cold.sum() == pytest.approx(2400 * 0.987, abs=196)
    assert maps.dark_e_per_s[maps.hot].min() >= 300 * sensor.dark_e_per_s
    assert (maps.response[:, 7] == 0.0).all()
    assert np.std(maps.response[~maps.cold & (maps.response > 0)]) == pytest.approx(0.01, rel=0.02)
    assert np.array_equal(fixed_pattern(replace(sensor, e_per_dn=9.0)).hot, maps.hot)
    assert not np.array_equal(fixed_pattern(replace(sensor, seed=2)).hot, maps.hot)


def test_dust_on_the_filter_belongs_to_the_filter():
    optics = Optics(n_dust=4, dust_depth=0.2)
    luminance, red = optics.flat(120, 90, "L"), optics.flat(120, 90, "R")
    clean = replace(optics, n_dust=0).flat(120, 90)
    assert clean.max() <= 1.0
    assert clean[0, 0] == pytest.approx(1.0 - optics.vignetting, abs=0.05)
    assert not np.array_equal(luminance, red)
    # Shadows shared by both filters are those of the dust on the sensor window.
    assert ((luminance < 0.95 * clean) & (red < 0.95 * clean)).any()


def test_wrong_shape_of_light_is_named():
    with pytest.raises(ShapeError, match=r"rate is \(3, 3\)"):
        PLAIN.expose(np.zeros((3, 3)), 1.0, 0.0, stream(1))


@pytest.mark.parametrize("setting", [{"adc_bits": 20}, {"row_order": "UPWARD"}, {"cfa": "RGBX"}])
def test_impossible_sensor_is_refused(setting):
    with pytest.raises(ConfigError, match=next(iter(setting))):
        Sensor(**setting)


def test_particles_come_in_the_requested_number_and_stay_short():
    counts = [int((draw_cosmic_rays(stream(k), (200, 200), 6.0) > 0).any()) for k in range(10)]
    assert sum(counts) >= 9
    hits = draw_cosmic_rays(stream(3), (300, 300), 6.0)
    assert 0 < (hits > 0).sum() < 6 * 3 * 25
    assert not draw_cosmic_rays(stream(3), (300, 300), 0.0).any()


@pytest.mark.parametrize(("seed", "size"), [(4609, 40), (5379, 40), (542, 60), (764, 60)])
def test_a_track_that_leaves_the_frame_does_not_come_back_on_the_other_side(seed, size):
    """Seeds with a single particle that crosses the left edge, the top edge or both."""
    hits = draw_cosmic_rays(stream(seed), (size, size), 0.03)
    rows, columns = np.nonzero(hits)
    assert rows.size > 0
    assert max(np.ptp(rows), np.ptp(columns)) <= 26


def test_satellite_trail_has_its_width_and_height():
    trail = draw_satellite(stream(2), (120, 160), 3.0, 500.0)
    assert trail.max() == pytest.approx(500.0, rel=0.02)
    # A line of length l has l * fwhm pixels above half of the peak; a line across is 120 to 200 px long.
    assert 120 * 3 * 0.8 < (trail > 250.0).sum() < 200 * 3 * 1.2


# --- session


def test_pixels_of_a_light_are_the_truth_plus_the_stated_noise(tmp_path):
    spec = replace(
        SMALL,
        sensor=Sensor(width=160, height=120, bad_columns=(31,), e_per_dn=0.6, read_noise_e=8.0),
        meridian_flip_at=1,
        rotation_deg=1.0,
        scale=1.1,
        satellites=(1,),
        cosmic_rays=8.0,
        faults={0: "cloud"},
    )
    truth = write_session(tmp_path, spec)
    for index, light in enumerate(truth.lights):
        pixels = fits.getdata(light.path).astype(float)
        response = truth.response("L")
        signal = truth.scene_in(index, "L") * response * light.exposure_s
        signal += truth.dark_e(light.exposure_s, light.temperature_c)
        expected = signal / truth.e_per_dn + 500.0 + fixed_pattern(spec.sensor).bias_dn
        disturbed = light.satellite | light.cosmic_ray
        good = ~disturbed & (response > 0.05) & (signal < 25_000.0) & (signal > 100.0)
        noise_e = truth.noise_in(index, "L") * response.clip(1e-9)
        error = (pixels - expected) * truth.e_per_dn / noise_e
        n = good.sum()
        assert n > 5000
        assert abs(error[good].mean()) < 4.0 / math.sqrt(n)
        assert error[good].std() == pytest.approx(1.0, abs=4.0 / math.sqrt(2.0 * n))
        assert light.cosmic_ray.any()
        assert np.median(error[light.cosmic_ray & ~light.satellite & (response > 0.05)]) > 10.0
    glow = truth.scene_in(1, "L") - truth.scene_in(1, "L", sky=False)
    # Pixels 1.1 times finer than the sky plane collect 1.21 times less.
    assert glow.mean() == pytest.approx(truth.scene.sky["L"] / 1.21, rel=1e-6)
    assert truth.satellites[1].any()
    assert not truth.satellites[0].any()
    assert truth.transparency[0] < 0.25


def test_rows_from_the_bottom_up_turn_file_and_truth_together(tmp_path):
    spec = replace(SMALL, sensor=replace(SMALL.sensor, cfa="RGGB", hot_fraction=0.005), satellites=(0,))
    down = write_session(tmp_path / "down", spec)
    up = write_session(tmp_path / "up", replace(spec, sensor=replace(spec.sensor, row_order="BOTTOM-UP")))
    for one, other in zip(down.lights, up.lights, strict=True):
        np.testing.assert_array_equal(fits.getdata(one.path)[::-1], fits.getdata(other.path))
        np.testing.assert_array_equal(one.satellite[::-1], other.satellite)
    np.testing.assert_allclose(down.scene_in(1, "G")[::-1], up.scene_in(1, "G"), rtol=1e-9)
    np.testing.assert_array_equal(down.response()[::-1], up.response())
    np.testing.assert_array_equal(down.cfa, [[0, 1], [1, 2]])
    np.testing.assert_array_equal(up.cfa, [[1, 2], [0, 1]])
    assert fits.getval(up.lights[0].path, "ROWORDER") == "BOTTOM-UP"
    dark = fits.getdata(up.files["dark"][0]).astype(float)
    x, y = up.hot_pixels.T
    # The faintest hot pixel makes 300 * 0.02 * 60 s = 360 e- = 450 DN; noise is 24 DN.
    assert len(x) > 5
    assert dark[y, x].min() > 500 + 300


def test_xtrans_sensors_see_each_colour_where_the_pattern_says(tmp_path):
    sensor = replace(PLAIN, cfa=XTRANS, width=100, height=81)
    spec = replace(SMALL, sensor=sensor, optics=Optics(vignetting=0.0, n_dust=0))
    down = write_session(tmp_path / "down", spec)
    up = write_session(tmp_path / "up", replace(spec, sensor=replace(sensor, row_order="BOTTOM-UP")))
    for truth in (down, up):
        flat = fits.getdata(truth.files["flat"][0]).astype(float) - 500.0
        y, x = np.indices(flat.shape) % 6
        level = np.array([flat[truth.cfa[y, x] == colour].mean() for colour in range(3)])
        # Some 1800 pixels of 2e4 e- at least: the mean is good to 0.02 %.
        np.testing.assert_allclose(level / level[1], [0.62, 1.0, 0.74], rtol=2e-3)
    assert fits.getval(down.lights[0].path, "BAYERPAT") == XTRANS


def test_colour_flats_carry_the_colour_of_the_panel_at_the_right_pixels(tmp_path):
    spec = replace(SMALL, sensor=replace(PLAIN, cfa="GBRG"), optics=Optics(vignetting=0.0, n_dust=0))
    truth = write_session(tmp_path, spec)
    flat = fits.getdata(truth.files["flat"][0]).astype(float) - 500.0
    cfa = cfa_indices("GBRG")
    level = [
        np.mean([flat[y::2, x::2].mean() for y, x in zip(*np.nonzero(cfa == colour), strict=True)])
        for colour in range(3)
    ]
    # Quarter planes of 8000 pixels at 2e4 e-: the mean is good to 0.01 %.
    np.testing.assert_allclose(np.array(level) / level[1], [0.62, 1.0, 0.74], rtol=1e-3)


def test_same_spec_gives_the_same_bytes_and_frames_do_not_depend_on_their_number(tmp_path):
    first = write_session(tmp_path / "a", SMALL)
    again = write_session(tmp_path / "b", SMALL)
    more = write_session(tmp_path / "c", replace(SMALL, n_lights=3, n_darks=2, n_flats=3))
    for role in FOLDERS:
        for one, two, three in zip(first.files[role], again.files[role], more.files[role], strict=False):
            assert one.read_bytes() == two.read_bytes()
            if role == "light":
                assert one.read_bytes() == three.read_bytes()
            np.testing.assert_array_equal(fits.getdata(one), fits.getdata(three))
    other = write_session(tmp_path / "d", replace(SMALL, seed=2))
    assert not np.array_equal(fits.getdata(first.lights[0].path), fits.getdata(other.lights[0].path))


def test_lights_move_by_drift_dither_and_flip(tmp_path):
    spec = replace(SMALL, n_lights=4, dither_px=0.0, drift_px=(1.5, -0.5), rotation_deg=0.5, meridian_flip_at=2)
    truth = write_session(tmp_path, spec)
    centre = np.array([35.5, 27.5, 1.0])
    for k, matrix in enumerate(truth.transforms):
        np.testing.assert_allclose(matrix @ centre, centre + [1.5 * k, -0.5 * k, 0.0], atol=1e-9)
        angle = math.degrees(math.atan2(matrix[1, 0], matrix[0, 0])) % 360.0
        assert angle == pytest.approx(0.5 * k + (180.0 if k >= 2 else 0.0))
    sides = [fits.getval(light.path, "PIERSIDE") for light in truth.lights]
    assert sides == ["West", "West", "East", "East"]


def test_each_filter_gets_lights_flats_and_darks_of_its_exposure(tmp_path):
    spec = replace(SMALL, filters={"L": 2, "Ha": 1}, exposures_s={"Ha": 300.0})
    truth = write_session(tmp_path, spec)
    assert [light.filter_name for light in truth.lights] == ["L", "L", "Ha"]
    assert [light.exposure_s for light in truth.lights] == [60.0, 60.0, 300.0]
    assert [fits.getval(path, "FILTER") for path in truth.files["flat"]] == ["L", "Ha"]
    assert [fits.getval(path, "EXPTIME") for path in truth.files["dark"]] == [60.0, 300.0]
    assert truth.scene_in(2, "Ha").mean() < truth.scene_in(0, "L").mean()


def test_stars_table_says_where_the_star_is_in_a_flipped_file(tmp_path):
    spec = replace(SMALL, meridian_flip_at=0, scene=one_star(20.3, 17.8, size=(72, 56)))
    truth = write_session(tmp_path, spec)
    star = truth.stars_in(1)[0]
    picture = truth.scene_in(1, "L", sky=False, psf=Psf(2.5, beta=math.inf), transparency=1.0)
    assert centroid(picture) == pytest.approx((star["x"], star["y"]), abs=1e-4)
    # Half a turn about the centre, then a dither and a drift of a few px.
    assert abs(star["x"] - (71 - 20.3)) < 16
    assert abs(star["y"] - (55 - 17.8)) < 16
    assert star["L"] == 1000.0


def test_darks_at_another_temperature_say_so_and_differ(tmp_path):
    spec = replace(SMALL, dark_temperature_c=5.0, sensor=replace(SMALL.sensor, dark_e_per_s=0.5))
    truth = write_session(tmp_path, spec)
    header = fits.getheader(truth.files["dark"][0])
    assert header["SET-TEMP"] == 5.0
    assert header["CCD-TEMP"] == pytest.approx(5.0, abs=0.5)
    # 0.5 e-/s * 2^(15/6) * 60 s = 170 e- = 212 DN against 38 DN at -10 C.
    assert np.median(fits.getdata(truth.files["dark"][0])) > 500 + 150


# --- headers

LIGHT_CARDS = {
    "nina": {"IMAGETYP": "LIGHT", "EXPTIME": 60.0, "GAIN": 100, "OFFSET": 50, "SET-TEMP": -10.0, "FILTER": "L"},
    "asiair": {"IMAGETYP": "Light", "CREATOR": "ZWO ASIAIR Plus", "EXPOSURE": 60.0, "GAIN": 100, "OFFSET": 50},
    "sgp": {"IMAGETYP": "LIGHT", "EXPOSURE": 60.0, "EXPTIME": None, "FILTER": "L", "FLIPPED": False},
    "maxim": {"IMAGETYP": "Light Frame", "EXPTIME": 60.0, "GAIN": None, "SET-TEMP": -10.0, "PIERSIDE": "WEST"},
    "sharpcap": {"IMAGETYP": None, "EXPTIME": 60.0, "BLKLEVEL": 50, "OFFSET": None, "GAIN": 100},
    "indi": {"IMAGETYP": "Light Frame", "FRAME": "Light", "EXPTIME": 60.0, "GAIN": 100.0, "SET-TEMP": None},
    "apt": {"IMAGETYP": "Light Frame", "EXPTIME": 60.0, "CCD-TEMP": None, "SET-TEMP": -10.0, "FILTER": None},
    "seestar": {"IMAGETYP": "Light", "OFFSET": None, "SET-TEMP": None, "ROWORDER": None, "EXPTIME": 60.0},
    "ccdciel": {"IMAGETYP": "Light", "EXPTIME": 60.0, "ROWORDER": "TOP-DOWN", "ROTATANG": 91.5},
    "orion": {"IMAGETYP": None, "IMAGTYP": "Light Frame", "GAIN": None, "FILTER": None, "EXPTIME": 60.0},
    "dwarf": {"IMAGETYP": None, "ORIGIN": "DWARFLAB", "DET-TEMP": -10, "CCD-TEMP": None},
    "plain": {"IMAGETYP": None, "EXPTIME": 60.0, "GAIN": None, "CCD-TEMP": None},
}
FLAT_DARK_WORD = {"nina": "DARKFLAT", "asiair": "Dark", "sgp": "DARK", "maxim": "Dark Frame", "indi": "Dark Frame"}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_header_of_each_dialect_reads_back_with_its_keywords(tmp_path, dialect):
    truth = write_session(tmp_path, replace(SMALL, dialect=dialect, temperature_jitter_c=0.0))
    paths = [path for role in FOLDERS for path in truth.files[role]]
    assert len(set(paths)) == 6
    for path in paths:
        with fits.open(path) as hdus:
            hdus.verify("exception")
            assert hdus[0].data.dtype == np.uint16
            assert hdus[0].data.shape == (56, 72)
    header = fits.getheader(truth.lights[0].path)
    for keyword, value in LIGHT_CARDS[dialect].items():
        assert header.get(keyword) == value, keyword
    flat_dark = fits.getheader(truth.files["flat_dark"][0])
    if dialect in FLAT_DARK_WORD:
        assert flat_dark["IMAGETYP"] == FLAT_DARK_WORD[dialect]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_colour_camera_names_its_pattern_in_each_dialect(tmp_path, dialect):
    spec = replace(SMALL, dialect=dialect, sensor=replace(SMALL.sensor, cfa="GRBG"), n_lights=1)
    header = fits.getheader(write_session(tmp_path, spec).lights[0].path)
    expected = None if dialect in ("sgp", "orion", "plain") else "GRBG"
    assert header.get("BAYERPAT") == expected
    if dialect in ("nina", "asiair", "indi"):
        assert "FILTER" not in header


def test_clocks_mean_what_each_program_means_by_them(tmp_path):
    def stamp(dialect):
        spec = replace(SMALL, dialect=dialect, n_lights=1)
        return fits.getval(write_session(tmp_path / dialect, spec).lights[0].path, "DATE-OBS")

    assert stamp("nina") == "2025-09-20T20:30:00.250"
    assert stamp("sgp") == "2025-09-20T20:30:00.2500000"
    assert stamp("maxim") == "2025-09-20T20:30:00"
    assert stamp("dwarf") == "2025-09-20T20:31:00.250"  # end of the exposure
    assert stamp("orion") == "2025-09-20 T10:30:00"  # local time on a twelve hour clock


def test_an_uncooled_camera_has_no_set_point(tmp_path):
    spec = replace(SMALL, temperature_set_c=None, temperature_c=12.0, temperature_drift_c=-0.2)
    truth = write_session(tmp_path, spec)
    headers = [fits.getheader(light.path) for light in truth.lights]
    assert all("SET-TEMP" not in header for header in headers)
    assert headers[0]["CCD-TEMP"] == pytest.approx(truth.lights[0].temperature_c)


def test_sharpcap_writes_the_frame_type_next_to_the_frame(tmp_path):
    truth = write_session(tmp_path, replace(SMALL, dialect="sharpcap"))
    sidecar = truth.files["flat"][0].with_suffix(".CameraSettings.txt")
    assert "FrameType=Flat\n" in sidecar.read_text()


def test_a_file_keeps_every_pixel_value_and_every_kind_of_card():
    pixels = np.array([[0, 1, 32767], [32768, 65534, 65535]], dtype=np.uint16)
    cards = [
        ("TEXT", "it's", "quoted"),
        ("NUMBER", 1e-7, ""),
        ("ODD", Literal("6.0E+001"), "as it stands"),
        ("YES", True, ""),
        ("COMMENT", "free words", ""),
    ]
    content = fits_bytes(pixels, cards)
    assert b"'it''s" in content
    hdus = fits.HDUList.fromstring(content)
    np.testing.assert_array_equal(hdus[0].data, pixels)
    header = hdus[0].header
    assert (header["TEXT"], header["NUMBER"], header["ODD"], header["YES"]) == ("it's", 1e-7, 60.0, True)
    assert str(header["COMMENT"]) == "free words"
    with pytest.raises(ValueError, match="does not fit"):
        fits_bytes(pixels, [("LONG", "x" * 80, "")])


# --- faults


def take_fault(tmp_path, fault, **changes):
    spec = replace(SMALL, n_lights=2, dither_px=0.0, faults={1: fault}, **changes)
    return write_session(tmp_path, spec)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_leaves_the_other_light_alone(tmp_path, fault):
    # What a driver does to colours or to the bit scale needs colours, or a scale, to show.
    camera = {"white_balance": {"cfa": "RGGB"}, "unscaled": {"adc_bits": 12}}.get(fault, {})
    sensor = replace(SMALL.sensor, **camera)
    good = write_session(tmp_path / "good", replace(SMALL, dither_px=0.0, sensor=sensor))
    bad = take_fault(tmp_path / "bad", fault, sensor=sensor)
    assert bad.lights[0].path.read_bytes() == good.lights[0].path.read_bytes()
    assert bad.lights[1].path.read_bytes() != good.lights[1].path.read_bytes()
    assert bad.lights[1].fault == fault


def test_drivers_change_the_numbers_as_they_say(tmp_path):
    def both(fault, **camera):
        sensor = replace(SMALL.sensor, **camera)
        good = write_session(tmp_path / fault / "good", replace(SMALL, dither_px=0.0, sensor=sensor))
        bad = take_fault(tmp_path / fault / "bad", fault, sensor=sensor)
        return [fits.getdata(truth.lights[1].path).astype(np.float64) for truth in (good, bad)]

    good, bad = both("white_balance", cfa="RGGB")
    assert (bad[::2, ::2] == np.minimum(np.rint(good[::2, ::2] * 1.04), 65535)).all()
    assert (bad[::2, 1::2] == good[::2, 1::2]).all()
    assert (bad[1::2, 1::2] == np.minimum(np.rint(good[1::2, 1::2] * 1.9), 65535)).all()
    good, bad = both("unscaled", adc_bits=12)
    assert (bad * 16 == good).all()
    good, bad = both("subtracted", offset_dn=500.0)
    assert (bad == np.maximum(good - 500.0, 0.0)).all()


def test_dust_moves_by_the_shift_that_is_asked_for():
    still = Optics(vignetting=0.0, n_dust=1).flat(120, 100)
    moved = Optics(vignetting=0.0, n_dust=1, dust_shift_px=(7.0, -3.0)).flat(120, 100)
    assert moved[10:80, 20:110] == pytest.approx(still[13:83, 13:103])


@pytest.mark.parametrize("fault", ["garbage", "empty"])
def test_damaged_files_cannot_be_opened(tmp_path, fault):
    with pytest.raises(OSError, match="Empty|SIMPLE"):
        fits.getdata(take_fault(tmp_path, fault).lights[1].path)


def test_a_truncated_file_keeps_its_header_and_lacks_pixels(tmp_path):
    truth = take_fault(tmp_path, "truncate")
    sizes = [light.path.stat().st_size for light in truth.lights]
    assert sizes[1] < sizes[0] - 0.3 * 72 * 56 * 2
    assert fits.getheader(truth.lights[0].path)["NAXIS1"] == 72


def test_faults_of_the_header_show_in_the_header(tmp_path):
    def header(fault):
        return fits.getheader(take_fault(tmp_path / fault, fault).lights[1].path)

    assert header("wrong_gain")["GAIN"] == 200
    assert header("wrong_gain")["EGAIN"] == pytest.approx(0.4)
    assert header("wrong_offset")["OFFSET"] == 100
    assert header("wrong_type")["IMAGETYP"] == "DARK"
    assert "IMAGETYP" not in header("no_type")
    assert (header("wrong_size")["NAXIS1"], header("wrong_size")["NAXIS2"]) == (56, 48)
    assert header("warm")["CCD-TEMP"] == pytest.approx(0.0, abs=0.6)


def test_faults_of_the_sky_show_in_the_pixels_and_in_the_truth(tmp_path):
    def levels(fault):
        truth = take_fault(tmp_path / fault, fault)
        return [float(np.median(fits.getdata(light.path))) for light in truth.lights], truth.lights

    (good, closed), _ = levels("closed")
    assert closed < 510 < 600 < good
    (good, twilight), _ = levels("twilight")
    assert twilight > 20_000
    (good, cloud), lights = levels("cloud")
    assert cloud > good
    assert lights[1].transparency < 0.21
    _, lights = levels("defocus")
    assert lights[1].psf.fwhm_px > 7.0
    _, lights = levels("trailed")
    assert lights[1].psf.ellipticity > 0.6
    (_, wrong_offset), _ = levels("wrong_offset")
    assert wrong_offset == pytest.approx(good + 500, abs=30)


def test_a_fault_can_strike_a_calibration_frame(tmp_path):
    truth = write_session(tmp_path, replace(SMALL, n_flats=2, faults={("flat", 1): "wrong_type"}))
    assert [fits.getval(path, "IMAGETYP") for path in truth.files["flat"]] == ["FLAT", "LIGHT"]
    assert [fits.getval(light.path, "IMAGETYP") for light in truth.lights] == ["LIGHT", "LIGHT"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dialect": "voyager"}, "dialect 'voyager' is unknown"),
        ({"filters": {"U": 3}}, "filter 'U' is not known"),
        ({"faults": {0: "eaten"}}, "fault 'eaten' is unknown"),
        ({"faults": {("snap", 0): "empty"}}, "frame role 'snap' is unknown"),
    ],
)
def test_a_wrong_spec_is_refused_before_anything_is_written(tmp_path, change, message):
    with pytest.raises(ConfigError, match=message):
        write_session(tmp_path / "out", replace(SMALL, **change))
    assert not (tmp_path / "out").exists()


def test_several_channels_at_once_equal_one_at_a_time():
    scene = make_scene(2, 64, 48, 40)
    matrix, psf = field_transform(64, 48, rotation_deg=3.0), Psf(2.8, 0.1, 20.0)
    planes = render_channels(scene, matrix, psf, 64, 48, ("R", "G", "B"))
    for plane, channel in zip(planes, "RGB", strict=True):
        # A lone channel sizes the stamp by its own flux; both stop below 2e-4 e-/s.
        np.testing.assert_allclose(plane, render(scene, matrix, psf, 64, 48, channel), atol=1e-3)
