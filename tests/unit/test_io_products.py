"""Products appear whole or not at all, and every reader understands them."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from astropy.io import fits

from wbpy.io.headers import read_header
from wbpy.io.images import open_image
from wbpy.io.products import FitsWriter, write_atomic, write_fits

RNG = np.random.default_rng(6)
LONG = "a text of a hundred and more characters, with 'quotes' in it, " * 3

CARDS = (
    ("EXPTIME", 300.0, "s"),
    ("TINY", 1.2345678901234567e-17, ""),
    ("GAIN", 100, "camera setting"),
    ("FLAG", True, ""),
    ("UNKNOWN", None, "not known"),
    ("OBJECT", "M 42", "target " * 20),
    ("NOTE", LONG, "dropped"),
    ("OBSERVER", "Jürgen Ångström", ""),
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("shape", [(31, 17), (3, 31, 17), (1, 1)])
def test_written_image_opens_clean_in_astropy_with_the_same_bits(tmp_path, shape):
    data = RNG.normal(0, 1, shape).astype(np.float32)
    data[..., 0, 0] = np.nan
    path = tmp_path / "a.fits"
    write_fits(path, data, CARDS, ["calibrate pedestal=100", "x" * 100])
    with fits.open(path) as units:
        units.verify("exception")
        np.testing.assert_array_equal(units[0].data, data)
        header = units[0].header
        assert header["EXPTIME"] == 300.0
        assert header["TINY"] == 1.2345678901234567e-17
        assert header["GAIN"] == 100
        assert header["FLAG"] is True
        assert header["UNKNOWN"] is None
        assert header["NOTE"] == LONG.rstrip()
        assert header["OBSERVER"] == "Jurgen Angstrom"
        assert "".join(header["HISTORY"]).endswith("x" * 100)
    assert path.stat().st_size % 2880 == 0
    assert names(tmp_path) == ["a.fits"]


def test_written_image_is_read_back_by_our_own_reader(tmp_path):
    data = RNG.normal(0, 1, (9, 8)).astype(np.float32)
    write_fits(tmp_path / "a.fits", data, CARDS)
    with open_image(tmp_path / "a.fits") as image:
        np.testing.assert_array_equal(image.read(), data)
    values = {card.keyword: card.value for card in read_header(tmp_path / "a.fits")}
    assert (values["NOTE"], values["UNKNOWN"], values["TINY"]) == (LONG.rstrip(), None, 1.2345678901234567e-17)


@pytest.mark.parametrize("length", range(60, 75))
def test_text_with_quotes_at_the_border_of_a_card_survives(tmp_path, length):
    text = "x" * length + "''' & '" + "y" * 70
    write_fits(tmp_path / "a.fits", np.zeros((1, 1), np.float32), [("NOTE", text, "")])
    header = fits.getheader(tmp_path / "a.fits")
    assert header["NOTE"] == text
    assert {card.keyword: card.value for card in read_header(tmp_path / "a.fits")}["NOTE"] == text


@pytest.mark.parametrize("keyword", ["exptime", "TOOLONGKEY", "NAXIS1", "A B", "", "END"])
def test_keyword_that_would_break_the_header_is_refused(tmp_path, keyword):
    with pytest.raises(ValueError, match="cannot be written"):
        write_fits(tmp_path / "a.fits", np.zeros((1, 1), np.float32), [(keyword, 1, "")])
    assert names(tmp_path) == []


def test_number_that_fits_cannot_hold_is_refused(tmp_path):
    with pytest.raises(ValueError, match="finite"):
        write_fits(tmp_path / "a.fits", np.zeros((1, 1), np.float32), [("EXPTIME", float("nan"), "")])
    assert names(tmp_path) == []


def test_tiles_written_by_threads_in_any_order_make_the_image(tmp_path):
    data = RNG.normal(0, 1, (3, 40, 12)).astype(np.float32)
    with FitsWriter(tmp_path / "a.fits", data.shape) as writer:
        tiles = [(channel, y0) for channel in range(3) for y0 in range(0, 40, 7)]
        threads = [
            threading.Thread(target=writer.write_rows, args=(c, y0, data[c, y0 : y0 + 7])) for c, y0 in tiles[::-1]
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not (tmp_path / "a.fits").exists()
        writer.commit()
    np.testing.assert_array_equal(fits.getdata(tmp_path / "a.fits"), data)


def test_writer_left_by_an_exception_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), FitsWriter(tmp_path / "a.fits", (4, 4)) as writer:
        writer.write_rows(0, 0, np.zeros((4, 4), np.float32))
        raise RuntimeError
    assert names(tmp_path) == []


def test_image_with_missing_rows_is_not_published(tmp_path):
    with pytest.raises(ValueError, match="2 rows were not written"), FitsWriter(tmp_path / "a.fits", (4, 4)) as writer:
        writer.write_rows(0, 1, np.zeros((2, 4), np.float32))
        writer.commit()
    assert names(tmp_path) == []


@pytest.mark.parametrize(("y0", "shape"), [(3, (2, 4)), (0, (2, 5)), (-1, (2, 4))])
def test_rows_outside_of_the_image_are_refused(tmp_path, y0, shape):
    with FitsWriter(tmp_path / "a.fits", (4, 4)) as writer, pytest.raises(ValueError, match="do not fit"):
        writer.write_rows(0, y0, np.zeros(shape, np.float32))


def test_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_atomic(path, b"old")

    def full(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.json"]


def test_kill_between_writing_and_commit_leaves_no_final_name(tmp_path):
    program = (
        "import os, sys, numpy as np\n"
        "from wbpy.io.products import FitsWriter\n"
        "writer = FitsWriter(sys.argv[1], (4, 4))\n"
        "writer.write_rows(0, 0, np.zeros((4, 4), np.float32))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "a.fits")], check=False)
    assert all(name.startswith(".") and name.endswith(".tmp") for name in names(tmp_path))
    assert len(names(tmp_path)) == 1
