"""The catalog: a typed table that can be saved, loaded and asked."""

import sqlite3
from pathlib import Path

import pandas as pd
import pytest

from wbpy.catalog import COLUMNS, SCHEMA, Catalog, Entry
from wbpy.errors import ReadError
from wbpy.model import Finding, Frame, Source

# The contract of ``wbpy scan --json``.
LISTED = """
path role is_master exposure gain offset e_per_dn iso temp_ccd temp_set filter xbinning ybinning width height channels
cfa row_order camera read_mode date_obs night object ra dec rotator pier_side focal_length pixel_size program format
calibrated
"""


def frame(path, **values):
    known = dict.fromkeys(Frame.__struct_fields__)
    known.update(path=path, role="light", is_master=False, format="fits", calibrated=False)
    known.update(dn_per_unit=1.0, size=10, modified_ns=20, library=False, keywords={"RIG": "left"})
    return Frame(**{**known, **values})


def finding(id, subject):
    return Finding(id=id, severity="warning", subject=subject, message="m", evidence={"count": 3}, remedy="r")


def entry(path, held_back=None, readable=True, **values):
    return Entry(
        path=path,
        below=Path(path).name,
        size=10,
        modified_ns=20,
        frame=frame(path, **values) if readable else None,
        sources=(Source(field="gain", keyword="GAIN", raw="100", rule="fields/gain"),) if readable else (),
        findings=(finding(held_back, path),) if held_back else (),
        held_back=held_back,
    )


@pytest.fixture
def catalog():
    entries = [
        entry("/n/c.fits", role="dark", exposure=300.0, is_master=True, night="2021-03-02", stack_count=20),
        entry(
            "/n/a.fits", exposure=60.0, filter="Ha", gain=100.0, width=100, night="2021-03-02", object="M 42 – Nébula"
        ),
        entry("/n/b.fits", exposure=60.0, filter="Ha", gain=None, night="2021-03-02"),
        entry("/n/d.fits", exposure=60.0, filter="Ha", night="2021-03-03"),
        entry("/n/e.fits", held_back="SCN001", role=None),
        entry("/n/f.fits", held_back="FIL001", readable=False),
    ]
    return Catalog(entries, [finding("SCN014", "/n/a.fits")], "basis")


def test_every_field_of_a_frame_is_a_column():
    assert tuple(column.name for column in COLUMNS) == Frame.__struct_fields__
    assert all(column.meaning for column in COLUMNS)


def test_frames_are_sorted_and_held_back_files_are_not_among_them(catalog):
    assert [one.path for one in catalog.frames] == ["/n/a.fits", "/n/b.fits", "/n/c.fits", "/n/d.fits"]
    assert [(one.path, one.finding) for one in catalog.held_back] == [("/n/e.fits", "SCN001"), ("/n/f.fits", "FIL001")]
    assert [one.id for one in catalog.findings] == ["SCN001", "FIL001", "SCN014"]


def test_table_is_typed_and_missing_values_are_na(catalog):
    table = catalog.table
    assert {name: str(dtype) for name, dtype in table.dtypes.items()} == {
        **{column.name: column.dtype for column in COLUMNS},
        "held_back": "string",
    }
    assert list(table["path"]) == ["/n/a.fits", "/n/b.fits", "/n/c.fits", "/n/d.fits", "/n/e.fits"]
    assert table["gain"].isna().tolist() == [False, True, True, True, True]
    assert table["width"][0] == 100
    assert table["is_master"].tolist() == [False, False, True, False, False]


def test_select_compares_values_and_none_means_missing(catalog):
    assert list(catalog.select(role="light", filter="Ha")["path"]) == ["/n/a.fits", "/n/b.fits", "/n/d.fits"]
    assert list(catalog.select(role="light", gain=None)["path"]) == ["/n/b.fits", "/n/d.fits"]
    assert list(catalog.select(role=None)["path"]) == ["/n/e.fits"]
    assert list(catalog.select(is_master=True)["path"]) == ["/n/c.fits"]
    with pytest.raises(KeyError, match="no column 'gian'"):
        catalog.select(gian=1)


def test_summary_counts_frames_that_take_part(catalog):
    summary = catalog.summary()
    assert list(summary.columns) == ["role", "filter", "exposure", "night", "frames"]
    rows = [tuple(None if pd.isna(value) else value for value in row) for row in summary.itertuples(index=False)]
    assert rows == [
        ("light", "Ha", 60.0, "2021-03-02", 2),
        ("light", "Ha", 60.0, "2021-03-03", 1),
        ("dark master", None, 300.0, "2021-03-02", 1),
    ]


def test_json_has_the_listed_keys_null_for_missing_and_held_back_frames_too(catalog):
    data = catalog.to_json()
    assert set(data) == {"frames", "findings"}
    assert [one["path"][-6] for one in data["frames"]] == list("abcde")
    assert all(set(LISTED.split()) <= set(one) for one in data["frames"])
    assert data["frames"][1]["gain"] is None
    assert data["frames"][4]["role"] is None
    assert data["findings"][0]["evidence"] == {"count": 3}


def test_sources_are_found_by_path(catalog):
    assert catalog.sources("/n/a.fits")[0].keyword == "GAIN"
    assert catalog.sources("/n/none.fits") == ()


def test_saved_catalog_loads_equal(catalog, tmp_path):
    catalog.save(tmp_path / "catalog.sqlite")
    loaded = Catalog.load(tmp_path / "catalog.sqlite")
    assert loaded.entries == catalog.entries
    assert loaded.findings == catalog.findings
    assert loaded.basis == "basis"
    assert type(loaded.frames[2].is_master) is bool
    assert [path.name for path in tmp_path.iterdir()] == ["catalog.sqlite"]


def test_saved_columns_have_their_types(catalog, tmp_path):
    catalog.save(tmp_path / "catalog.sqlite")
    connection = sqlite3.connect(tmp_path / "catalog.sqlite")
    rows = connection.execute("SELECT path, typeof(exposure), typeof(gain), role FROM files ORDER BY path").fetchall()
    connection.close()
    assert rows[1] == ("/n/b.fits", "real", "null", "light")
    assert rows[4] == ("/n/e.fits", "null", "null", None)


def test_empty_catalog_saves_and_has_an_empty_table(tmp_path):
    empty = Catalog([])
    empty.save(tmp_path / "c.sqlite")
    assert Catalog.load(tmp_path / "c.sqlite").entries == ()
    assert len(empty.table) == 0
    assert len(empty.summary()) == 0
    assert list(empty.table.columns)[:2] == ["path", "role"]


def test_catalog_of_another_version_is_refused(catalog, tmp_path):
    path = tmp_path / "catalog.sqlite"
    catalog.save(path)
    connection = sqlite3.connect(path)
    connection.execute("UPDATE meta SET value = '999' WHERE name = 'schema'")
    connection.commit()
    connection.close()
    with pytest.raises(ReadError, match=f"has version 999, expected {SCHEMA}; scan again"):
        Catalog.load(path)


@pytest.mark.parametrize("content", [b"", b"no database" * 100])
def test_damaged_or_missing_catalog_is_a_read_error(tmp_path, content):
    path = tmp_path / "catalog.sqlite"
    path.write_bytes(content)
    with pytest.raises(ReadError, match="is not a whole catalog"):
        Catalog.load(path)
    with pytest.raises(ReadError, match="no such file"):
        Catalog.load(tmp_path / "none.sqlite")


def test_failed_save_keeps_the_old_catalog(catalog, tmp_path, monkeypatch):
    path = tmp_path / "catalog.sqlite"
    catalog.save(path)
    before = path.read_bytes()

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space"):
        Catalog([]).save(path)
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["catalog.sqlite"]


def test_importing_the_catalog_does_not_import_pandas():
    import subprocess
    import sys

    program = "import sys, wbpy.catalog; sys.exit('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
