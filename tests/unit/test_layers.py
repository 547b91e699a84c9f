"""Imports point down: each part of wbpy may use only the parts that the table names."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "wbpy"

BASE = {"errors", "model"}
SCANNING = BASE | {"io", "catalog", "rules", "findings", "config"}

# part -> parts that it may import; a part may always import itself.
ALLOWED: dict[str, set[str]] = {
    # 0
    "errors": set(),
    "model": {"errors"},
    # 1
    "kernels": set(),
    "io": BASE,
    "rules": BASE,
    "config": BASE | {"rules"},
    "catalog": BASE | {"rules"},
    "findings": BASE | {"rules"},
    # 2
    "stages": BASE | {"kernels", "rules", "findings"},
    "scanning": set(),
    "scanning.walking": SCANNING,
    "scanning.values": SCANNING,
    "scanning.roles": SCANNING | {"scanning.values", "scanning.walking"},
    "scanning.targets": SCANNING,
    "scanning.second_look": SCANNING,
    "scanning.libraries": SCANNING,
    "scanning.conclusions": SCANNING | {f"scanning.{part}" for part in ("roles", "values", "targets", "second_look")},
    "scanning.scanner": SCANNING
    | {f"scanning.{part}" for part in ("walking", "values", "roles", "conclusions", "libraries")},
    "scanning.dumping": SCANNING,
    "grouping": BASE | {"catalog", "rules", "findings", "config"},
    "hints": BASE,
    "matching": BASE | {"catalog", "rules", "findings", "config", "hints"},
    "selecting": BASE | {"catalog", "grouping"},
    # 3
    "costs": BASE | {"config", "stages"},
    "planner": BASE
    | {"grouping", "matching", "selecting", "costs", "stages", "config", "catalog", "rules", "findings"},
    # 4
    "engine": BASE | {"costs", "stages", "kernels", "io", "config", "rules", "findings"},
    "explaining": BASE | {"catalog", "rules", "hints"},
    "comparing": BASE,
    "inspecting": BASE | {"catalog", "rules", "findings", "io", "kernels", "stages"},
    "star_profiles": BASE | {"catalog", "io", "kernels", "stages"},
    # 5: what is shown depends on values, the event log, and for the pages on declarations.
    "reporting": BASE | {"catalog", "costs", "engine.events"},
    "reporting.inspect_view": BASE | {"reporting", "inspecting"},
    "reporting.stars_view": BASE | {"reporting", "star_profiles"},
    "reporting.pages": BASE | {"reporting", "config", "rules", "stages"},
    # 6
    "cli": BASE | {"", "config", "reporting"},
    "__main__": {"cli"},
    # Aside: a formula shared with the kernels would cancel its own error in the tests of truth.
    "simulate": BASE | {"io"},
}

# The public functions tie everything together; the command line reaches the rest through them alone.
ALLOWED[""] = set(ALLOWED) - {"cli", "__main__", "reporting.pages", "simulate", "kernels", ""}


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(source: str, module: str, is_package: bool) -> set[str]:
    """Return the modules of wbpy that `source` imports anywhere, as names below ``wbpy``."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = ["wbpy", *module.split(".")] if module else ["wbpy"]
                above = above[: len(above) - node.level + is_package]
                base = ".".join([*above, *([base] if base else [])])
            # "from wbpy import model" names a module, "from wbpy import scan" a function of the package.
            names = [f"{base}.{alias.name}" if is_module(f"{base}.{alias.name}") else base for alias in node.names]
        for name in names:
            if name == "wbpy" or name.startswith("wbpy."):
                found.add(name.removeprefix("wbpy").removeprefix("."))
    return found


def is_module(name: str) -> bool:
    if not name.startswith("wbpy."):
        return False
    path = PACKAGE.joinpath(*name.split(".")[1:])
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def part_of(module: str) -> str:
    """Return the longest entry of the table that holds `module`."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        if ".".join(parts[:length]) in ALLOWED:
            return ".".join(parts[:length])
    return module


def is_allowed(module: str, target: str) -> bool:
    own, used = part_of(module), part_of(target)
    if own == used or used.startswith(f"{own}."):
        return True
    return any(used == part or target == part or (part and target.startswith(f"{part}.")) for part in ALLOWED[own])


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_of_the_module_point_down(path: Path):
    module = name_of(path)
    assert part_of(module) in ALLOWED, f"{module} has no place in the table of layers"
    upward = {
        target
        for target in imports_of(path.read_text(encoding="utf-8"), module, path.name == "__init__.py")
        if not is_allowed(module, target)
    }
    assert not upward, f"wbpy.{module} must not import {sorted(upward)}"


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("kernels.warp", "from wbpy.model import Frame"),
        ("model", "import wbpy.rules"),
        ("io.headers", "def f():\n    from wbpy.scanning.scanner import scan"),
        ("io.headers", "from wbpy.scanning import scanner"),
        ("io.headers", "from .. import catalog"),
        ("stages.calibrate", "from wbpy.io.images import open_image"),
        ("matching", "from wbpy.planner import make_plan"),
        ("explaining", "from wbpy.matching import match_masters"),
        ("reporting.terminal", "from wbpy.engine.execute import execute"),
        ("reporting.terminal", "from wbpy import scan"),
        ("simulate.sensor", "from wbpy.kernels import warp"),
        ("cli", "from wbpy.planner import make_plan"),
    ],
)
def test_an_upward_import_is_seen(module: str, source: str):
    targets = imports_of(source, module, is_package=False)
    assert targets
    assert not all(is_allowed(module, target) for target in targets)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("kernels.warp", "from wbpy.kernels.jit import fast"),
        ("stages.masters", "from wbpy.kernels import combine"),
        ("reporting.progress", "from wbpy.engine.events import Event"),
        ("cli", "import wbpy"),
        ("simulate.session", "from .scene import Scene\nfrom wbpy.io import products"),
    ],
)
def test_a_downward_import_is_accepted(module: str, source: str):
    assert all(is_allowed(module, target) for target in imports_of(source, module, is_package=False))


def test_every_upward_edge_would_close_a_circle():
    """The table itself has no circles, so that no chain of allowed imports leads back up."""
    seen: dict[str, int] = {}

    def visit(part: str, above: tuple[str, ...]) -> None:
        assert part not in above, f"circle: {' -> '.join([*above, part])}"
        if part in seen:
            return
        for below in ALLOWED.get(part, set()) - {part}:
            visit(below, (*above, part))
        seen[part] = 1

    for part in ALLOWED:
        visit(part, ())
