"""Pixels: every storage type gives the same DN, by bands or at once, and short files are refused at the door."""

import gzip

import numpy as np
import pytest
from astropy.io import fits

from wbpy.errors import ReadError
from wbpy.io.images import open_image

RNG = np.random.default_rng(5)
SHAPE = (23, 17)

STORED = {
    "u8": RNG.integers(0, 256, SHAPE, dtype=np.uint8),
    "u16": RNG.integers(0, 65536, SHAPE, dtype=np.uint16),
    "i16": RNG.integers(-32768, 32768, SHAPE, dtype=np.int16),
    "i32": RNG.integers(-(2**31), 2**31 - 1, SHAPE, dtype=np.int32),
    "u32": RNG.integers(0, 2**32, SHAPE, dtype=np.uint32),
    "i64": RNG.integers(-(2**40), 2**40, SHAPE, dtype=np.int64),
    "f32": RNG.normal(1000, 10, SHAPE).astype(np.float32),
    "f64": RNG.normal(1000, 10, SHAPE),
}


def write(path, data, **cards):
    unit = fits.PrimaryHDU(data)
    unit.header.update(cards)
    unit.writeto(path)
    return path


@pytest.mark.parametrize("kind", STORED)
def test_every_bitpix_reads_as_its_physical_value(tmp_path, kind):
    data = STORED[kind]
    with open_image(write(tmp_path / "a.fits", data)) as image:
        assert (image.height, image.width, image.channels) == (23, 17, 1)
        whole = image.read()
        bands = np.concatenate([image.read(0, 5), image.read(5, 6), image.read(6)])
    assert whole.dtype == np.float32
    assert whole.dtype.isnative
    np.testing.assert_array_equal(whole, data.astype(np.float32))
    np.testing.assert_array_equal(bands, whole)


def test_scaled_integers_are_rounded_once(tmp_path):
    data = RNG.integers(-32768, 32768, SHAPE, dtype=np.int16)
    unit = fits.PrimaryHDU(data)
    path = tmp_path / "a.fits"
    unit.writeto(path)
    content = path.read_bytes().replace(b"END".ljust(160), b"BSCALE  = 0.1".ljust(80) + b"BZERO   = 3.3".ljust(80), 1)
    content = content[:2880].rstrip().ljust(2880 - 80) + b"END".ljust(80) + content[2880:]
    path.write_bytes(content)
    with open_image(path) as image:
        np.testing.assert_array_equal(image.read(), (data.astype(np.float64) * 0.1 + 3.3).astype(np.float32))
        assert image.words() is None


def test_unit_range_floats_become_dn(tmp_path):
    data = RNG.random(SHAPE).astype(np.float32)
    with open_image(write(tmp_path / "a.fits", data), dn_per_unit=65535.0) as image:
        np.testing.assert_allclose(image.read(), data * 65535.0, rtol=1e-6)


def test_blank_and_non_finite_pixels_are_nan(tmp_path):
    data = np.arange(12, dtype=np.int16).reshape(3, 4)
    with open_image(write(tmp_path / "a.fits", data, BLANK=7)) as image:
        pixels = image.read()
        assert np.isnan(pixels[1, 3])
        assert np.isnan(pixels).sum() == 1
        assert image.words() is None
    data = np.array([[1.0, np.nan], [np.inf, -np.inf]], np.float32)
    with open_image(write(tmp_path / "b.fits", data)) as image:
        np.testing.assert_array_equal(image.read(), [[1.0, np.nan], [np.nan, np.nan]])


def test_words_are_the_stored_bytes_of_the_rows(tmp_path):
    data = STORED["u16"]
    with open_image(write(tmp_path / "a.fits", data)) as image:
        words = image.words(4, 9)
        assert words.shape == (5 * 17,)
        decoded = words.byteswap().view(np.int16).astype(np.int32) + int(image.bzero)
    np.testing.assert_array_equal(decoded.reshape(5, 17), data[4:9])


@pytest.mark.parametrize("kind", ["u8", "i32", "f32"])
def test_words_are_none_when_pixels_are_not_16_bit(tmp_path, kind):
    with open_image(write(tmp_path / "a.fits", STORED[kind])) as image:
        assert image.words() is None


def test_words_are_none_when_they_would_have_to_be_scaled(tmp_path):
    with open_image(write(tmp_path / "a.fits", STORED["u16"]), dn_per_unit=2.0) as image:
        assert image.words() is None


def test_planes_are_channels(tmp_path):
    data = RNG.normal(size=(3, 6, 5)).astype(np.float32)
    with open_image(write(tmp_path / "a.fits", data)) as image:
        assert image.channels == 3
        np.testing.assert_array_equal(image.read(2, 4, channel=1), data[1, 2:4])
        assert image.words() is None
        with pytest.raises(ValueError, match="channel 3"):
            image.read(channel=3)
        with pytest.raises(ValueError, match="rows 0 to 7"):
            image.read(0, 7)


@pytest.mark.parametrize("kind", ["u8", "i16", "u16", "i32", "f32", "f64"])
def test_tile_compressed_image_equals_the_plain_one(tmp_path, kind):
    data = STORED[kind]
    fits.CompImageHDU(data, compression_type="GZIP_1", quantize_level=0).writeto(tmp_path / "a.fits.fz")
    with open_image(tmp_path / "a.fits.fz") as image:
        np.testing.assert_array_equal(image.read(3, 20), data[3:20].astype(np.float32))
        assert image.words() is None


def test_gzipped_image_equals_the_plain_one(tmp_path):
    path = write(tmp_path / "a.fits", STORED["u16"])
    zipped = tmp_path / "a.fits.gz"
    zipped.write_bytes(gzip.compress(path.read_bytes()))
    with open_image(zipped) as image:
        np.testing.assert_array_equal(image.read(), STORED["u16"].astype(np.float32))


def test_only_files_without_compression_are_read_by_bands(tmp_path):
    plain = write(tmp_path / "a.fits", STORED["u16"])
    (tmp_path / "a.fits.gz").write_bytes(gzip.compress(plain.read_bytes()))
    fits.CompImageHDU(STORED["u16"]).writeto(tmp_path / "a.fits.fz")
    for name, banded in (("a.fits", True), ("a.fits.gz", False), ("a.fits.fz", False)):
        with open_image(tmp_path / name) as image:
            assert image.banded is banded


def test_image_in_an_extension_is_read(tmp_path):
    path = tmp_path / "a.fits"
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(STORED["u16"])]).writeto(path)
    with open_image(path) as image:
        np.testing.assert_array_equal(image.read(), STORED["u16"].astype(np.float32))


def test_file_cut_off_in_its_pixels_is_refused_before_any_pixel(tmp_path):
    path = write(tmp_path / "a.fits", STORED["u16"])
    path.write_bytes(path.read_bytes()[: 2880 + 100])
    with pytest.raises(ReadError, match=r"a\.fits: the file ends after 2980 of 3662 bytes"):
        open_image(path)
    zipped = tmp_path / "b.fits.gz"
    zipped.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(ReadError, match="ends after 2980 of 3662 bytes"):
        open_image(zipped)


def test_missing_padding_at_the_end_is_no_damage(tmp_path):
    path = write(tmp_path / "a.fits", STORED["u16"])
    path.write_bytes(path.read_bytes()[:3662])
    with open_image(path) as image:
        assert image.read().shape == SHAPE


def test_file_that_shrinks_while_being_read_is_an_error(tmp_path):
    path = write(tmp_path / "a.fits", STORED["u16"])
    with open_image(path) as image:
        path.write_bytes(path.read_bytes()[:3000])
        with pytest.raises(ReadError, match="became shorter"):
            image.read()


def test_damaged_compression_is_a_read_error(tmp_path):
    path = tmp_path / "a.fits.fz"
    fits.CompImageHDU(STORED["u16"], compression_type="GZIP_1").writeto(path)
    content = bytearray(path.read_bytes())
    at = content.rindex(b"\x1f\x8b")
    content[at : at + 8] = b"\xff" * 8
    path.write_bytes(bytes(content))
    with pytest.raises(ReadError, match="compressed image is damaged"):
        open_image(path)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.fits", b"", "is empty"),
        ("a.xisf", b"XISF0100" + bytes(20), "XML header is damaged"),
        ("a.jpg", b"\xff\xd8\xff\xe0" + bytes(20), "format jpeg"),
        ("a.nef", b"II*\x00" + bytes(20), "cannot be decoded"),
        ("a.txt", b"hello hello hello", "no known image format"),
    ],
)
def test_other_formats_are_refused_with_a_sentence(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ReadError, match=says):
        open_image(tmp_path / name)


def test_missing_file_is_a_read_error(tmp_path):
    with pytest.raises(ReadError, match="cannot be read"):
        open_image(tmp_path / "none.fits")
