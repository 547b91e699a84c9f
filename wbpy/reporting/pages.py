"""The parts of ``docs/`` that follow from declarations: findings, parameters, configuration sections, modules.

``python -m wbpy.reporting.pages docs`` writes them; a test fails when one is out of date.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from wbpy.config import SETTINGS
from wbpy.rules import FieldOverride, FindingRule, Rules, load_rules, page_text
from wbpy.stages import STAGES
from wbpy.stages.base import Stage

BEGIN = "<!-- From here to the end mark: python -m wbpy.reporting.pages docs -->"
END = "<!-- End of the generated part -->"
PROGRAMS = (
    "<!-- Generated from rules/dialects, fields.toml, roles.toml and filters.toml by "
    "python -m wbpy.reporting.pages docs; edit the rules instead. -->"
)
WHOLE = "<!-- Generated from rules/findings by python -m wbpy.reporting.pages docs; edit the rules instead. -->"


def finding_page(rule: FindingRule, raised_by: Sequence[str]) -> str:
    """Return the page of one finding as Markdown."""
    facts = [f"Severity: {rule.severity}."]
    if raised_by:
        facts.append(f"Raised by: {', '.join(f'[{name}](../stages/{name}.md)' for name in raised_by)}.")
    if rule.guide:
        facts.append(f"Guide: {_section(rule.guide)}.")
    parts = [
        WHOLE,
        f"# {rule.id}: {rule.title}",
        " ".join(facts),
        f"## Message\n\n> {page_text(_line(rule.message))}",
        f"## Why it matters\n\n{rule.why.strip()}",
        f"## What to do\n\n{page_text(rule.remedy)}",
    ]
    if rule.limits:
        table = _table(("limit", "value"), [(f"`{name}`", f"{limit:g}") for name, limit in rule.limits.items()])
        parts.append(f"## Limits\n\nA folder given with `--rules` may change them.\n\n{table}")
    return "\n\n".join(parts) + "\n"


def findings_index(rules: Rules) -> str:
    """Return the list of all findings as Markdown."""
    rows = [(f"[{rule.id}]({rule.id}.md)", rule.severity, _cell(rule.title)) for rule in _sorted(rules)]
    return (
        "\n\n".join(
            [
                WHOLE,
                "# Findings",
                "Everything that wbpy can report about frames, groups, matches, plans and runs. An error means that "
                "something was lost or that a result is wrong, a warning that it is worse than it could be, an info "
                "that you may want to know. The ids are permanent.",
                _table(("id", "severity", "title"), rows),
            ]
        )
        + "\n"
    )


def stage_block(stage: Stage) -> str:
    """Return what the declaration of a stage says, as Markdown."""
    inputs = [(one.name, one.kind.replace("_", " "), "yes" if one.optional else "no") for one in stage.inputs]
    outputs = [(one.name, one.kind.replace("_", " "), one.unit or "-") for one in stage.outputs]
    findings = ", ".join(f"[{id}](../findings/{id}.md)" for id in stage.findings) or "none"
    return "\n\n".join(
        [
            f"{stage.title}. Version {stage.version}; once for each {stage.per}.",
            "### Inputs",
            _table(("name", "kind", "optional"), inputs),
            "### Outputs",
            _table(("name", "kind", "unit"), outputs),
            "### Parameters",
            f"Section `[{stage.name}]` of a configuration file, or `--set {stage.name}.NAME=VALUE`.",
            parameters_table(stage.params),
            f"Findings: {findings}.",
        ]
    )


def programs_page(rules: Rules) -> str:
    """Return the list of the programs that are understood, and what is read of each, as Markdown."""
    names = sorted(rules.dialects.values(), key=lambda dialect: dialect.name.casefold())
    parts = [
        PROGRAMS,
        "# Which programs are understood",
        f"wbpy knows the headers of {len(names)} capture and processing programs. What is not among them is read by "
        "the general keywords below, which nearly all programs share. How to add a program or a keyword: "
        "[teach wbpy your camera](teach_your_camera.md).",
        _table(
            ("program", "recognised by", "read differently", "to know"),
            [
                (
                    _cell(dialect.name),
                    "; ".join(_mark(keyword, start) for keyword, start in dialect.identify),
                    "; ".join(f"`{field}`: {_override(change)}" for field, change in dialect.fields.items()) or "-",
                    _cell(" ".join(dialect.notes)) or "-",
                )
                for dialect in names
            ],
        ),
        "## Keywords that are read of every program",
        "In this order; the first that is there and can be understood counts. What means unknown is not taken as a "
        "value.",
        _table(
            ("field", "keywords", "unit", "means unknown", "meaning"),
            [
                (
                    f"`{field.id}`",
                    " ".join(f"`{keyword}`" for keyword in field.keywords),
                    field.unit or "-",
                    ", ".join(f"`{value}`" for value in field.missing if value != "") or "-",
                    _cell(field.meaning),
                )
                for field in rules.fields.values()
            ],
        ),
        "## Frame types",
        f"The type stands in {', '.join(f'`{keyword}`' for keyword in rules.roles.keywords)}. Values are compared "
        "whole, without regard to case, blanks, dashes and underscores.",
        _table(
            ("type", "spellings in headers", "words in folder and file names"),
            [
                (
                    role.replace("_", "-"),
                    ", ".join(f"`{value}`" for value in values),
                    ", ".join(f"`{word}`" for word in rules.roles.path_words.get(role, ())) or "-",
                )
                for role, values in rules.roles.header.items()
            ],
        ),
        "## Filters",
        _table(
            ("filter", "other spellings"),
            [
                (f"`{one.id}`", ", ".join(f"`{alias}`" for alias in one.aliases) or "-")
                for one in rules.filters.values()
            ],
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _mark(keyword: str, start: str) -> str:
    return f"`{keyword}` begins with `{_cell(start)}`" if start else f"`{keyword}` is there"


def _override(change: FieldOverride) -> str:
    said = []
    if change.keywords is not None:
        said.append(" ".join(f"`{keyword}`" for keyword in change.keywords) or "not taken")
    if change.normalise is not None:
        said.append(f"as {change.normalise.replace('_', ' ')}")
    if change.by_keyword is not None:
        said.append(", ".join(f"`{keyword}` as {way.replace('_', ' ')}" for keyword, way in change.by_keyword.items()))
    if change.missing is not None:
        said.append(f"unknown when {', '.join(f'`{value}`' for value in change.missing)}")
    return ", ".join(said)


def parameters_table(kind: type[msgspec.Struct]) -> str:
    """Return the parameters of a section as a Markdown table: name, default, allowed values, meaning."""
    schema = msgspec.json.schema(kind)
    properties = schema["$defs"][kind.__name__]["properties"]
    rows = []
    for name, entry in properties.items():
        meaning = _cell(str(entry.get("description", "")))
        rows.append((f"`{name}`", _default(entry.get("default")), _allowed(entry), meaning))
    return _table(("name", "default", "allowed", "meaning"), rows) if rows else "None."


def configuration_block() -> str:
    """Return the sections that belong to no stage, as Markdown."""
    parts = []
    for name, kind in SETTINGS.items():
        parts += [f"### [{name}]", (kind.__doc__ or "").split("\n")[0], parameters_table(kind)]
    return "\n\n".join(parts)


def code_block() -> str:
    """Return what each module of wbpy says of itself in the first line of its docstring, as Markdown."""
    package = Path(__file__).parents[1]
    tables: dict[str, list[tuple[str, str]]] = {}
    for path in sorted(package.rglob("*.py")):
        if path.name == "__init__.py" and path.parent == package:
            continue
        own = path.name == "__init__.py"
        folder = "" if path.parent == package else path.parent.name
        said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        tables.setdefault(folder, []).append(("" if own else f"`{path.stem}`", _cell(said.split("\n\n")[0])))
    parts = []
    for folder, rows in tables.items():
        about = "".join(text for name, text in rows if not name)
        listed = _table(("module", "what it does"), [row for row in rows if row[0]])
        parts += [f"### {folder or 'wbpy'}", *([about] if about else []), listed]
    return "\n\n".join(parts)


def contents(docs: Path, rules: Rules, stages: Sequence[Stage]) -> dict[Path, str]:
    """Return every page with generated parts as it should be; hand-written text is taken from the page in `docs`.

    Raises
    ------
    ValueError
        If a page lacks the marks of its generated part.
    """
    raised: dict[str, list[str]] = {}
    for stage in stages:
        for id in stage.findings:
            raised.setdefault(id, []).append(stage.name)
    pages = {docs / "findings" / "README.md": findings_index(rules)}
    for rule in _sorted(rules):
        pages[docs / "findings" / f"{rule.id}.md"] = finding_page(rule, raised.get(rule.id, []))
    blocks = {docs / "stages" / f"{stage.name}.md": stage_block(stage) for stage in stages}
    blocks[docs / "configuration.md"] = configuration_block()
    blocks[docs / "code.md"] = code_block()
    pages[docs / "programs.md"] = programs_page(rules)
    return pages | {path: _replace(path, block) for path, block in blocks.items()}


def main(arguments: Sequence[str]) -> None:
    """Write the generated parts into the folder that is the only argument."""
    if len(arguments) != 1:
        raise SystemExit("usage: python -m wbpy.reporting.pages DOCS_FOLDER")
    docs = Path(arguments[0])
    pages = contents(docs, load_rules(), STAGES)
    for stale in set((docs / "findings").glob("*.md")) - set(pages):
        stale.unlink()
    for path, text in pages.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")


def _sorted(rules: Rules) -> list[FindingRule]:
    return sorted(rules.findings.values(), key=lambda rule: rule.id)


def _replace(path: Path, block: str) -> str:
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path}: the marks of the generated part are missing; it starts with {BEGIN!r}")
    return f"{before}{BEGIN}\n\n{block}\n\n{END}{after}"


def _section(guide: str) -> str:
    return f"section {guide.removeprefix('§')}"


def _line(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    return _line(text).replace("|", "\\|")


def _default(content: Any) -> str:
    if content is None:
        return "not set"
    if isinstance(content, bool):
        return f"`{str(content).lower()}`"
    if isinstance(content, list | tuple):
        return f"`{','.join(str(part) for part in content)}`" if content else "empty"
    return f"`{content}`"


def _allowed(entry: Mapping[str, Any]) -> str:
    """Return the values that a JSON schema allows, in words."""
    choices = [entry, *entry.get("anyOf", ())]
    items = entry.get("items")
    if isinstance(items, dict) and "enum" in items:
        return f"any of {', '.join(f'`{choice}`' for choice in items['enum'])}"
    parts = []
    for choice in choices:
        if "enum" in choice:
            parts.append(", ".join(f"`{one}`" for one in choice["enum"] if one is not None))
        limits = [
            f"{words} {choice[key]:g}"
            for key, words in (
                ("minimum", "at least"),
                ("exclusiveMinimum", "above"),
                ("maximum", "at most"),
                ("exclusiveMaximum", "below"),
            )
            if key in choice
        ]
        if limits:
            parts.append(" and ".join(limits))
        elif choice.get("type") in ("boolean", "integer", "number", "string") and "enum" not in choice:
            parts.append({"boolean": "`true`, `false`", "string": "text"}.get(choice["type"], choice["type"]))
        elif choice.get("type") == "array":
            parts.append("list")
    return " or ".join(parts)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


if __name__ == "__main__":
    main(sys.argv[1:])
