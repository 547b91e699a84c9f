"""Defaults, presets, files and options are merged, and every value remembers where it came from."""

from pathlib import Path
from typing import Annotated

import msgspec
import pytest

from wbpy.config import GroupSettings, MatchSettings, RunSettings, load_config, memory_limit_bytes, store_limit_bytes
from wbpy.errors import ConfigError
from wbpy.rules import load_rules


class Cosmetic(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    hot_sigma: Annotated[float, msgspec.Meta(ge=0)] = 6.0
    cold_sigma: float = 6.0
    lines: bool = False


class Calibrate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    optimize_dark: bool = False


STAGES = {"calibrate": Calibrate, "cosmetic": Cosmetic}


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_say_that_they_are_defaults():
    params = load_config(load_rules(), STAGES).params("cosmetic")
    assert (params["hot_sigma"].value, params["hot_sigma"].origin) == (6.0, "default")


def test_later_sources_win_and_are_remembered(tmp_path: Path):
    first = write(tmp_path / "a.toml", "[cosmetic]\nhot_sigma = 7\ncold_sigma = 7\n[run]\nworkers = 3\n")
    second = write(tmp_path / "b.toml", "[cosmetic]\ncold_sigma = 8\n")
    config = load_config(
        load_rules(),
        STAGES,
        preset="uncooled_dslr",
        files=[first, second],
        options={"run.workers": 2, "run.memory_limit": "4GB"},
        sets=["run.memory_limit=8GB"],
    )
    cosmetic, run = config.params("cosmetic"), config.params("run")
    assert (cosmetic["hot_sigma"].value, cosmetic["hot_sigma"].origin) == (7.0, "a.toml:cosmetic.hot_sigma")
    assert (cosmetic["cold_sigma"].value, cosmetic["cold_sigma"].origin) == (8.0, "b.toml:cosmetic.cold_sigma")
    assert (run["workers"].value, run["workers"].origin) == (2, "--workers")
    assert (run["memory_limit"].value, run["memory_limit"].origin) == ("8GB", "--set")
    assert config.params("match")["temperature"].origin == "preset uncooled_dslr"
    assert config.section("match", MatchSettings).temperature == 8.0


def test_text_of_set_becomes_numbers_flags_lists_and_none():
    sets = ["cosmetic.hot_sigma = 5", "cosmetic.lines=true", "group.by=night, gain", "match.temperature=none"]
    config = load_config(load_rules(), STAGES, sets=sets)
    assert config.section("cosmetic", Cosmetic).hot_sigma == 5.0
    assert config.section("cosmetic", Cosmetic).lines is True
    assert config.section("group", GroupSettings).by == ("night", "gain")
    assert config.section("match", MatchSettings).temperature is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("cosmetic.hot=5", "'cosmetic' has no parameter 'hot'"),
        ("cosmic.hot_sigma=5", "no section 'cosmic'"),
        ("cosmetic.hot_sigma=warm", "cosmetic.hot_sigma = 'warm'"),
        ("cosmetic.hot_sigma=-1", ">= 0"),
        ("cosmetic.hot_sigma", "expected section.name=value"),
        ("hot_sigma=5", "expected section.name=value"),
        ("cosmetic.hot_sigma=none", "cosmetic.hot_sigma"),
        ("run.keep=everything", "it can be calibrated, cosmetic, debayered, registered"),
        ("scan.role=lihgt", "it can be bias, dark, flat, flat_dark, light"),
    ],
)
def test_wrong_setting_names_its_origin_and_what_is_wrong(text: str, told: str):
    with pytest.raises(ConfigError) as caught:
        load_config(load_rules(), STAGES, sets=[text])
    assert "--set" in str(caught.value)
    assert told in str(caught.value)


def test_unknown_preset_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"--preset best: not known; there are .*uncooled_dslr"):
        load_config(load_rules(), STAGES, preset="best")


@pytest.mark.parametrize(
    ("text", "told"), [("run = 3\n", "outside of a"), ("[run\n", "not valid TOML"), (None, "cannot be read")]
)
def test_wrong_file_is_named(tmp_path: Path, text: str | None, told: str):
    path = tmp_path / "mine.toml"
    if text is not None:
        write(path, text)
    with pytest.raises(ConfigError, match=f"mine.toml.*{told}"):
        load_config(load_rules(), STAGES, files=[path])


def test_section_of_another_type_is_a_bug():
    with pytest.raises(TypeError, match="section run is a RunSettings"):
        load_config(load_rules(), STAGES).section("run", GroupSettings)
    assert load_config(load_rules(), STAGES).section("run", RunSettings).workers == 0


@pytest.mark.parametrize(
    ("text", "size"),
    [("8GB", 8_000_000_000), ("512MiB", 512 * 1024**2), ("1.5 gb", 1_500_000_000), (" 2t ", 2_000_000_000_000)],
)
def test_memory_sizes_are_read_with_their_units(text: str, size: int):
    assert memory_limit_bytes(text) == size


def test_automatic_memory_limit_is_half_of_the_machine():
    import psutil

    assert memory_limit_bytes("auto") == psutil.virtual_memory().total // 2


@pytest.mark.parametrize("text", ["", "lots", "8 XB", "1.2.3GB", ".GB", "-8GB", "100MB"])
def test_memory_size_that_makes_no_sense_is_refused(text: str):
    with pytest.raises(ConfigError, match="memory limit"):
        memory_limit_bytes(text)


@pytest.mark.parametrize(("text", "size"), [("50GB", 50_000_000_000), ("0", 0), ("1.5 MiB", 1536 * 1024)])
def test_the_limit_of_the_store_may_be_any_size(text: str, size: int):
    assert store_limit_bytes(text) == size


@pytest.mark.parametrize("text", ["", "auto", "-1GB"])
def test_a_limit_of_the_store_that_is_no_size_is_refused(text: str):
    with pytest.raises(ConfigError, match="run.store_limit"):
        store_limit_bytes(text)
