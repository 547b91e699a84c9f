"""The store of artifacts: whole or not at all, found again by content, never confused by leftovers."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from wbpy.engine.store import Store, file_digest, make_key


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / ".store")


def test_a_key_follows_values_and_their_order_only() -> None:
    assert make_key("a", {"x": 1, "y": 2.5}) == make_key("a", {"y": 2.5, "x": 1})
    assert len({make_key("a", 1), make_key("a", 1.5), make_key(1, "a"), make_key("a", [1]), make_key("a1")}) == 5


def test_an_image_is_read_back_by_rectangle(store: Store) -> None:
    image = np.random.default_rng(1).normal(size=(40, 50)).astype(np.float32)
    image[3, 4] = np.nan
    store.put_image("k", image)
    found = store.image("k")
    assert found is not None and found.shape == (40, 50)
    part = found.read(2, 11, 3, 20)
    np.testing.assert_array_equal(part, image[2:11, 3:20])
    assert part.flags.c_contiguous and part.flags.writeable


def test_a_record_is_read_back_with_its_arrays(store: Store) -> None:
    store.put_record("k", {"fwhm": float("nan"), "noise": [1.5, 2.0]}, x=np.arange(5.0))
    found = store.record("k")
    assert found is not None
    values, arrays = found
    assert np.isnan(values["fwhm"]) and values["noise"] == [1.5, 2.0]
    np.testing.assert_array_equal(arrays["x"], np.arange(5.0))


@pytest.mark.parametrize("damage", [b"", b"no archive", None])
def test_damaged_or_missing_artifacts_count_as_absent(store: Store, tmp_path: Path, damage: bytes | None) -> None:
    store.put_image("k", np.zeros((4, 4), np.float32))
    store.put_record("k", {"a": 1}, x=np.zeros(3))
    for path in (tmp_path / ".store" / "image" / "k.npy", tmp_path / ".store" / "record" / "k.npz"):
        if damage is None:
            path.unlink()
        else:
            path.write_bytes(damage)
    assert store.image("k") is None
    assert store.record("k") is None


def test_a_record_cut_in_the_middle_counts_as_absent(store: Store, tmp_path: Path) -> None:
    store.put_record("k", {"a": 1}, x=np.zeros(3000))
    path = tmp_path / ".store" / "record" / "k.npz"
    path.write_bytes(path.read_bytes()[:1000])
    assert store.record("k") is None


def test_leftovers_of_a_killed_run_are_removed(store: Store, tmp_path: Path) -> None:
    leftover = tmp_path / ".store" / "image" / ".key.123.tmp"
    leftover.write_bytes(b"half")
    Store(tmp_path / ".store")
    assert not leftover.exists()


def test_a_digest_is_of_the_content_and_remembered(store: Store, tmp_path: Path) -> None:
    one, two = tmp_path / "a.fits", tmp_path / "b.fits"
    one.write_bytes(b"pixels")
    two.write_bytes(b"pixels")
    assert store.digest(str(one), 6, 1) == store.digest(str(two), 6, 2) == file_digest(one)
    one.write_bytes(b"others")
    assert store.digest(str(one), 6, 1) == file_digest(two), "same size and time: remembered"
    assert store.digest(str(one), 6, 3) != file_digest(two), "another time: read again"
    again = Store(tmp_path / ".store")
    one.unlink()
    assert again.digest(str(one), 6, 1) == file_digest(two)


def test_a_torn_line_of_digests_is_passed_over(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "a.fits"
    file.write_bytes(b"pixels")
    digest = store.digest(str(file), 6, 1)
    with open(tmp_path / ".store" / "digests.jsonl", "a", encoding="utf-8") as lines:
        lines.write('["/half/of/a')
    again = Store(tmp_path / ".store")
    assert again.digest(str(file), 6, 1) == digest
    again.digest(str(file), 6, 9)
    file.unlink()
    assert Store(tmp_path / ".store").digest(str(file), 6, 9) == digest, "the line after a torn one is whole"


def test_a_product_counts_only_while_it_stands_as_written(store: Store, tmp_path: Path) -> None:
    product = tmp_path / "m.fits"
    product.write_bytes(b"x" * 100)
    store.put_product("k", product, {"level": 5})
    assert store.product("k", product) == {"level": 5}
    assert store.product("k", tmp_path / "other.fits") is None
    product.write_bytes(b"x" * 99)
    assert store.product("k", product) is None
    product.unlink()
    assert store.product("k", product) is None


def test_images_stay_mapped_within_the_allowance(tmp_path: Path) -> None:
    image = np.random.default_rng(2).normal(size=(40, 50)).astype(np.float32)
    # Room for one of the two.
    store = Store(tmp_path / ".store", mapped=image.nbytes + 100)
    first, second = store.put_image("a", image), store.put_image("b", image + 1)
    maps = store.maps
    assert maps.array(first.path) is maps.array(first.path)
    assert maps.array(second.path) is not maps.array(second.path)
    for stored, expected in ((first, image), (second, image + 1)):
        part = stored.read(5, 9, 1, 50)
        assert part.flags.c_contiguous and part.flags.writeable
        np.testing.assert_array_equal(part, expected[5:9, 1:50])


def written(store: Store, key: str, used_s: int) -> Path:
    """Store an image of 4 kB as if it had been used some seconds after 1970."""
    path = store.put_image(key, np.zeros((32, 32), np.float32)).path
    os.utime(path, (used_s, used_s))
    return path


def test_a_store_above_its_limit_loses_what_was_used_longest_ago(tmp_path: Path) -> None:
    earlier = Store(tmp_path / ".store")
    paths = {key: written(earlier, key, used) for key, used in (("new", 300), ("old", 100), ("middle", 200))}
    size = paths["old"].stat().st_size
    assert Store(tmp_path / ".store").shrink(2 * size + 10) == (1, size, 2 * size)
    assert [key for key, path in paths.items() if path.exists()] == ["new", "middle"]
    assert Store(tmp_path / ".store").shrink(2 * size) == (0, 0, 2 * size)


def test_reading_an_artifact_counts_as_use_in_later_runs(tmp_path: Path) -> None:
    earlier = Store(tmp_path / ".store")
    read, unread = written(earlier, "read", 100), written(earlier, "unread", 200)
    written_at = read.stat().st_mtime_ns
    assert Store(tmp_path / ".store").image("read") is not None
    Store(tmp_path / ".store").shrink(read.stat().st_size)
    assert read.exists() and not unread.exists()
    assert read.stat().st_mtime_ns == written_at, "the time at which it was made stays"


def test_what_a_run_used_itself_is_never_removed(tmp_path: Path) -> None:
    earlier = Store(tmp_path / ".store")
    written(earlier, "image", 100)
    earlier.put_record("record", {"a": 1})
    earlier.put_mended("mended", np.arange(3), np.zeros(3, np.float32))
    with earlier.put_bits("bits", (1, 2, 8, 8)):
        pass
    earlier.put_record("unused", {"a": 2})
    store = Store(tmp_path / ".store")
    for found in (store.image("image"), store.record("record"), store.mended("mended"), store.bits("bits")):
        assert found is not None
    store.put_image("made", np.zeros((8, 8), np.float32))
    removed, freed, left = store.shrink(0)
    assert removed == 1 and freed > 0 and left > 0
    again = Store(tmp_path / ".store")
    assert again.image("image") and again.record("record") and again.mended("mended") and again.bits("bits")
    assert again.image("made") is not None and again.record("unused") is None
