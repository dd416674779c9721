"""Every setting is described in one way: under `Attributes:` in the docstring of its class."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
# What a settings class derives from.
SHAPES = ("Settings", "ModelShape", "AnyRecipe", "OptimizerSettings")


def settings_classes() -> Iterator[tuple[str, ast.ClassDef]]:
    """File and class, for every settings class with fields of its own."""
    for package in sorted(PROJECT.glob("*/__init__.py")):
        for path in sorted(package.parent.rglob("*.py")):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef) and any(
                    isinstance(base, ast.Name) and base.id in SHAPES for base in node.bases
                ):
                    yield path.relative_to(PROJECT).as_posix(), node


CLASSES = list(settings_classes())


def fields(node: ast.ClassDef) -> list[ast.AnnAssign]:
    written = [line for line in node.body if isinstance(line, ast.AnnAssign)]
    return [line for line in written if not ast.unparse(line.annotation).startswith("ClassVar")]


@pytest.mark.parametrize(("file", "node"), CLASSES, ids=[node.name for _, node in CLASSES])
def test_every_field_is_among_the_attributes(file: str, node: ast.ClassDef) -> None:
    described = (ast.get_docstring(node) or "").partition("Attributes:\n")[2]
    entries = re.findall(r"^    (\w[\w, ]*):", described, re.MULTILINE)
    names = {name for entry in entries for name in entry.split(", ")}
    written = {line.target.id for line in fields(node)}
    assert names == written, f"{file}: {node.name}"


@pytest.mark.parametrize(("file", "node"), CLASSES, ids=[node.name for _, node in CLASSES])
def test_no_field_is_described_anywhere_else(file: str, node: ast.ClassDef) -> None:
    lines = (PROJECT / file).read_text(encoding="utf-8").splitlines()
    for line in fields(node):
        assert "#" not in lines[line.end_lineno - 1][line.end_col_offset :], line.target.id
        keywords = [
            keyword.arg
            for call in ast.walk(line)
            if isinstance(call, ast.Call)
            for keyword in call.keywords
        ]
        assert "description" not in keywords, f"{file}: {line.target.id}"


def test_the_classes_were_found() -> None:
    names = {node.name for _, node in CLASSES}
    assert {"ModelShape", "ModelConfig", "TrainingSettings", "TokenizerSettings"} <= names
