"""Packages import only lower layers (the table in docs/architecture.md, which this test reads),
modules never import each other in a circle, and some layers never import torch.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]


def allowed_imports() -> dict[str, set[str]]:
    """Map each package to the packages that it may import, from docs/architecture.md."""
    text = (PROJECT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = text[text.index("| package | stage | may import |") :].partition("\n\n")[0]
    rows = re.findall(r"^\| (\w+) \| [-\d] \| ([^|]+) \|$", table, flags=re.MULTILINE)
    packages = {name for name, _ in rows}
    allowed = {}
    for name, cell in rows:
        if cell.strip() == "all of the above":
            allowed[name] = packages
        elif cell.strip() == "no other package":
            allowed[name] = {name}
        else:
            allowed[name] = {name, *(part.strip() for part in cell.split(","))}
    return allowed


def imported_names(source: str) -> set[str]:
    """Return the top-level names that this code imports, at any depth of its syntax tree.

    What this leaves out: names passed to importlib as strings.
    """
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import: use the absolute name of the package"
            names.add(node.module.split(".")[0])
    return names


def violations(package: str, source: str, allowed: dict[str, set[str]]) -> set[str]:
    return (imported_names(source) & set(allowed)) - allowed[package]


ALLOWED = allowed_imports()


def test_the_table_names_every_package() -> None:
    packages = {path.parent.name for path in PROJECT.glob("*/__init__.py")}
    assert packages == set(ALLOWED)
    assert ALLOWED["transformer_lm"] == {"transformer_lm", "lm_core"}


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_imports_go_down_only(package: str) -> None:
    for path in (PROJECT / package).rglob("*.py"):
        climbing = violations(package, path.read_text(encoding="utf-8"), ALLOWED)
        assert not climbing, (
            f"{path.relative_to(PROJECT)} imports {', '.join(climbing)}, which is not in a lower "
            "layer: see the table in docs/architecture.md"
        )


def test_a_climbing_import_is_seen() -> None:
    source = "def later():\n    from training.loss import cross_entropy\n"
    assert violations("transformer_lm", source, ALLOWED) == {"training"}


def modules() -> dict[str, Path]:
    """Map the dotted name of every module of every package to its file."""
    found = {}
    for package in ALLOWED:
        for path in (PROJECT / package).rglob("*.py"):
            name = ".".join(path.relative_to(PROJECT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


def imported_modules(source: str, known: Collection[str]) -> set[str]:
    """Return the modules of `known` that this code imports, including imports inside functions
    and for types only.
    """
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= parts & set(known) or {node.module}
    return names & set(known)


def circle(imports: dict[str, set[str]]) -> list[str]:
    """Return a chain of modules, each importing the next, that ends where it began; else []."""
    done: set[str] = set()

    def follow(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for other in sorted(imports[name]):
            if found := follow(other, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(imports) if (found := follow(name, []))), [])


def test_no_module_imports_itself_by_way_of_others() -> None:
    known = modules()
    imports = {
        name: imported_modules(path.read_text(encoding="utf-8"), known) - {name}
        for name, path in known.items()
    }
    assert sum(map(len, imports.values())) > 500
    assert " -> ".join(circle(imports)) == ""


def test_a_circle_is_seen() -> None:
    late = "def later():\n    from stage import one\n"
    for_types = "if TYPE_CHECKING:\n    from stage.two import Two\n"
    known = ("stage", "stage.one", "stage.two", "stage.three")
    imports = {
        "stage": set(),
        "stage.one": imported_modules(for_types, known),
        "stage.two": imported_modules("import stage.three", known),
        "stage.three": imported_modules(late, known),
    }
    assert circle(imports) == ["stage.one", "stage.two", "stage.three", "stage.one"]
    assert circle({**imports, "stage.three": {"stage"}}) == []


@pytest.mark.parametrize("package", ["lm_core", "tokenizer_bpe", "data_pipeline"])
def test_layers_without_torch(package: str) -> None:
    modules = [
        ".".join(path.relative_to(PROJECT).with_suffix("").parts)
        for path in sorted((PROJECT / package).rglob("*.py"))
        if path.stem not in ("__init__", "__main__")
    ]
    code = f"import importlib, sys\nfor name in {modules}: importlib.import_module(name)\n"
    code += "sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=False)
    assert modules
    assert done.returncode == 0, f"importing {package} imports torch"
