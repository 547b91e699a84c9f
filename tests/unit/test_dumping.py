"""Headers to send in: one of each kind, without what tells who and where."""

import pytest
from test_scanner import LIGHT, RULES, read, write

import wbpy
from wbpy.io.headers import parse_cards
from wbpy.scanning.dumping import header_text, headers_by_kind


def cards(*lines):
    return parse_cards("".join(line.ljust(80) for line in lines).encode("latin-1"))


def test_personal_values_are_left_out_and_others_stay():
    text = header_text(
        cards(
            "OBSERVER= 'Jane Doe'           / who",
            "SITELAT =                48.13 / [deg]",
            "GAIN    =                  100 / setting",
            "OBJECT  = 'Barnard''s loop'",
            "HIERARCH CAM OBSERVER = 'Jane'",
            "HISTORY read from C:\\Users\\jane\\lights and /home/jane/x",
        ),
        RULES.personal,
    )
    assert "Jane" not in text
    assert "jane" not in text
    assert "48.13" not in text
    lines = text.splitlines()
    assert lines[0] == "OBSERVER= '(removed)'"
    assert lines[2] == "GAIN    =                  100 / setting"
    assert lines[3] == "OBJECT  = 'Barnard''s loop'"
    assert lines[5] == "HISTORY   read from C:\\Users\\(removed)\\lights and /home/(removed)/x"
    assert lines[-1] == "END"


def test_text_reads_back_as_the_same_header():
    made = cards("SIMPLE  =                    T", "EXPTIME =                 60.0 / [s]", "FILTER  = 'Ha      '")
    again = cards(*header_text(made, ()).splitlines()[:-1])
    assert [(card.keyword, card.value, card.comment) for card in again] == [
        (card.keyword, card.value, card.comment) for card in made
    ]


def test_one_header_of_each_kind_is_written(tmp_path):
    for number in range(3):
        write(tmp_path / "in" / f"l{number}.fits", LIGHT)
        write(tmp_path / "in" / f"d{number}.fits", ("IMAGETYP", "'DARK'"))
    write(tmp_path / "in" / "odd name.fits", ("IMAGETYP", "'WHAT'"))
    assert list(headers_by_kind(read(tmp_path / "in"), RULES)) == [
        "001_d0.fits.hdr.txt",
        "002_l0.fits.hdr.txt",
        "003_odd_name.fits.hdr.txt",
    ]


@pytest.mark.parametrize(("out", "files"), [("headers", 2), ("all.txt", 1)])
def test_headers_go_to_a_folder_or_into_one_text(tmp_path, out, files):
    write(tmp_path / "in" / "l.fits", LIGHT, ("OBSERVER", "'Jane'"))
    write(tmp_path / "in" / "d.fits", ("IMAGETYP", "'DARK'"))
    written = wbpy.dump_headers(read(tmp_path / "in"), tmp_path / out)
    assert len(written) == files
    text = "".join(path.read_text() for path in written)
    assert text.count("\nEND\n") == 2
    assert "Jane" not in text


def test_headers_that_cannot_be_written_are_a_configuration_error(tmp_path):
    write(tmp_path / "in" / "l.fits", LIGHT)
    (tmp_path / "file").write_text("")
    with pytest.raises(wbpy.ConfigError, match="cannot be written"):
        wbpy.dump_headers(read(tmp_path / "in"), tmp_path / "file" / "below")


def test_file_that_cannot_be_read_has_no_header_to_send(tmp_path):
    (tmp_path / "a.fits").write_bytes(b"SIMPLE  = nothing")
    assert headers_by_kind(read(tmp_path), RULES) == {}
