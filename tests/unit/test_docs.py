"""The documentation agrees with the code: contracts, generated parts, guide rows, links, examples."""

import ast
import re
import tomllib
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest
from msgspec import Meta

from wbpy import cli, model
from wbpy.config import load_config
from wbpy.reporting import pages
from wbpy.rules import load_rules
from wbpy.stages import STAGES

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

VALUE_TYPES = {
    name: kind
    for name, kind in vars(model).items()
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and not name.startswith("_")
}

# Not part of any contract: it stands in the catalog and shows in explain.
INTERNAL = {"Source"}


def documented_fields(name: str) -> list[str]:
    """Return the first column of the table under the heading `name` of contracts.md."""
    text = (DOCS / "contracts.md").read_text(encoding="utf-8")
    section = re.search(rf"^### {name}\n(.*?)(?=^##)", text, re.MULTILINE | re.DOTALL)
    assert section, f"docs/contracts.md has no section {name}"
    return re.findall(r"^\| `(\w+)` \|", section[1], re.MULTILINE)


@pytest.mark.parametrize("name", sorted(set(VALUE_TYPES) - INTERNAL))
def test_every_field_of_a_contract_is_documented_and_no_other(name: str):
    assert documented_fields(name) == list(VALUE_TYPES[name].__struct_fields__)


def test_exit_codes_are_documented():
    text = (DOCS / "contracts.md").read_text(encoding="utf-8")
    table = dict(re.findall(r"^\| (\d+) \| (.*) \|$", text.partition("## Exit codes")[2], re.MULTILINE))
    codes = {cli.CLEAN, cli.FOUND_ERRORS, cli.WRONG_USE, cli.STEPS_FAILED, cli.INTERRUPTED}
    assert {int(code) for code in table} == codes


def test_generated_parts_are_up_to_date():
    wanted = pages.contents(DOCS, load_rules(), STAGES)
    stale = [str(path.relative_to(ROOT)) for path, text in wanted.items() if not path.is_file() or read(path) != text]
    assert not stale, f"run: python -m wbpy.reporting.pages docs (stale: {', '.join(stale)})"
    extra = set((DOCS / "findings").glob("*.md")) - set(wanted)
    assert not extra, f"pages of findings that are gone: {sorted(path.name for path in extra)}"


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def test_every_stage_has_a_page_and_every_page_a_stage():
    names = [stage.name for stage in STAGES]
    assert {path.stem for path in (DOCS / "stages").glob("*.md")} - {"README"} == set(names)
    assert re.findall(r"^- \[(\w+)\]", read(DOCS / "stages" / "README.md"), re.MULTILINE) == names


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_the_page_of_a_stage_follows_the_template(stage: object):
    headings = re.findall(r"^## (.*)$", read(DOCS / "stages" / f"{stage.name}.md"), re.MULTILINE)
    assert headings == ["How", "Why so", "Limits of this version", "Declaration"]


def test_every_finding_of_a_stage_has_a_rule():
    known = load_rules().findings
    missing = {id for stage in STAGES for id in stage.findings} - set(known)
    assert not missing


def test_a_page_without_marks_is_refused(tmp_path: Path):
    (tmp_path / "stages").mkdir()
    page = tmp_path / "stages" / f"{STAGES[0].name}.md"
    page.write_text("# Stage\n", encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(page.name)):
        pages.contents(tmp_path, load_rules(), STAGES[:1])


def test_parameter_tables_name_default_limits_and_meaning():
    kind = msgspec.defstruct(
        "Params",
        [
            ("sigma", Annotated[float, Meta(gt=0, le=9, description="a | limit")], 3.0),
            ("way", Annotated[Literal["b", "a"], Meta(description="which")], "a"),
            ("names", Annotated[tuple[str, ...], Meta(description="more")], ()),
            ("limit", Annotated[Annotated[float, Meta(ge=0)] | None, Meta(description="at most")], None),
            ("on", bool, True),
        ],
        frozen=True,
        kw_only=True,
    )
    assert pages.parameters_table(kind).splitlines()[2:] == [
        "| `sigma` | `3.0` | above 0 and at most 9 | a \\| limit |",
        "| `way` | `a` | `a`, `b` | which |",
        "| `names` | empty | list | more |",
        "| `limit` | not set | at least 0 | at most |",
        "| `on` | `true` | `true`, `false` |  |",
    ]


# --------------------------------------------------------------------------------------------------------------------
# the guide

ROW = re.compile(r"^\| (G-\d{3}) \| (.*?) \| ([DARU]) \| (.*?) \| (\w+) \| (.*?) \| (.*?) \|$", re.MULTILINE)


def guide_rows() -> list[tuple[str, ...]]:
    return ROW.findall(read(DOCS / "guide.md"))


def test_the_guide_has_all_rows_in_order():
    assert [row[0] for row in guide_rows()] == [f"G-{number:03}" for number in range(1, 147)]


def test_every_row_of_the_guide_is_live_or_planned_and_live_rows_name_a_test():
    for id, _, _, _, state, _, tests in guide_rows():
        assert state in ("live", "planned"), id
        assert (state == "live") <= (tests != "-"), f"{id} is live but no test holds it"


def test_every_finding_that_the_guide_names_exists():
    known = set(load_rules().findings)
    for id, _, _, _, _, findings, _ in guide_rows():
        named = set() if findings == "-" else set(findings.split(", "))
        links = dict(re.findall(r"\[(\w+)\]\(findings/(\w+)\.md\)", findings))
        assert findings == "-" or len(links) == len(named), f"{id}: findings are links separated by commas"
        for shown, target in links.items():
            assert shown == target, id
            assert shown in known, f"{id} names {shown}, which no rule defines"


def test_every_test_that_the_guide_names_exists():
    functions: dict[str, set[str]] = {}
    for id, _, _, _, _, _, tests in guide_rows():
        if tests == "-":
            continue
        named = re.findall(r"`([^`]+)`", tests)
        assert ", ".join(f"`{name}`" for name in named) == tests, f"{id}: tests are separated by commas"
        for name in named:
            file, _, function = name.partition("::")
            if file not in functions:
                assert (ROOT / file).is_file(), f"{id} names {file}, which does not exist"
                tree = ast.parse(read(ROOT / file))
                functions[file] = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
            assert function in functions[file], f"{id} names {name}, which does not exist"


# --------------------------------------------------------------------------------------------------------------------
# links and examples

PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md")), ROOT / "changes" / "README.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", read(page)):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        linked = (page.parent / file).resolve() if file else page
        assert linked.exists(), f"{page.name} links to {target}"
        if anchor:
            headings = {heading.lower().replace(" ", "-") for heading in re.findall(r"^#+ (.*)$", read(linked), re.M)}
            assert anchor in headings, f"{page.name} links to {target}"


def blocks(page: Path) -> list[str]:
    """Return the indented code blocks of a page, unindented."""
    found = re.findall(r"(?:^    .*\n|^\n(?=    ))+", read(page), re.MULTILINE)
    return ["\n".join(line[4:] for line in block.strip("\n").splitlines()) for block in found]


def test_examples_of_rules_load_over_the_built_in_ones(tmp_path: Path):
    examples = [block for block in blocks(DOCS / "rules.md") if block.startswith("# mine/")]
    assert len(examples) == 2
    for example in examples:
        name = example.splitlines()[0].removeprefix("# mine/")
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(example, encoding="utf-8")
    rules = load_rules([tmp_path])
    assert "observatory" in rules.dialects
    assert len(rules.filters) > 3


def test_examples_of_configuration_are_accepted(tmp_path: Path):
    [example] = [block for block in blocks(DOCS / "configuration.md") if block.startswith("[scan]")]
    assert tomllib.loads(example)
    (tmp_path / "example.toml").write_text(example, encoding="utf-8")
    stages = {stage.name: stage.params for stage in STAGES}
    sets = re.findall(r"--set ([a-z_]+\.[a-z_]+=\w+)", read(DOCS / "configuration.md"))
    assert sets
    load_config(load_rules(), stages, files=[tmp_path / "example.toml"], sets=sets)


def test_commands_in_the_documentation_exist():
    for page in (ROOT / "README.md", DOCS / "start.md", ROOT / "sample_data" / "README.md"):
        for line in "\n".join(blocks(page)).splitlines():
            found = re.search(r"(?:^|[\\/])wbpy\s+(\S+)", line)
            if found and "=" not in line:
                assert found[1] in (*cli.wbpy_command.commands, "PATH..."), f"{page.name}: {line}"


def test_ci_finds_the_test_command_in_the_readme():
    script = read(ROOT / ".ci" / "run")
    mark = "The command that .ci/run executes"
    assert mark.replace("/", "\\/") in script
    command = next(line for line in read(ROOT / "README.md").partition(mark)[2].splitlines() if line.startswith("    "))
    assert command.strip().startswith("python3 -m venv .venv && ")
    assert command.endswith("/pytest")


def test_change_fragments_are_named_after_issue_and_part():
    for path in (ROOT / "changes").glob("*.md"):
        assert path.name == "README.md" or re.fullmatch(r"\d+\.[a-z_]+\.md", path.name)
        assert read(path).strip()


def test_the_contract_names_every_value_of_an_inspection():
    from wbpy.inspecting import Histogram, InspectedFrame, Inspection
    from wbpy.star_profiles import FrameStars, StarInspection, StarProfile

    text = (DOCS / "contracts.md").read_text(encoding="utf-8")
    section = text.split("## `wbpy inspect --json`")[1].split("\n## ")[0]
    for kind in (Inspection, InspectedFrame, Histogram, StarInspection, FrameStars, StarProfile):
        missing = [name for name in kind.__struct_fields__ if f"`{name}`" not in section]
        assert not missing, f"{kind.__name__}: {missing}"
