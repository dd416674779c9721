"""Functions, files and lm_core stay short enough to read in one sitting."""

import ast
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
LONGEST_FUNCTION = 60
LONGEST_FILE = 400
LM_CORE_BUDGET = 1_850
VAGUE_NAMES = {"utils", "util", "common", "helpers", "misc", "base"}

PACKAGES = sorted(path.parent for path in PROJECT.glob("*/__init__.py"))
CODE = sorted(path for package in PACKAGES for path in package.rglob("*.py"))
# Except the independent solutions, which stay as their authors wrote them.
TESTS = sorted(p for p in (PROJECT / "tests").rglob("*.py") if "_independent" not in str(p))


def long_functions(source: str) -> list[str]:
    return [
        f"{node.name} has {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno - node.lineno + 1 > LONGEST_FUNCTION
    ]


def number_of_lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("path", CODE + TESTS, ids=lambda path: str(path.relative_to(PROJECT)))
def test_functions_and_names(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert not long_functions(source), f"limit {LONGEST_FUNCTION}: split what does two things"
    assert path.stem not in VAGUE_NAMES, "name the file after its one idea"
    assert not source.strip() or ast.get_docstring(ast.parse(source)), (
        "a file opens with a docstring"
    )


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(PROJECT)))
def test_files(path: Path) -> None:
    assert number_of_lines(path) <= LONGEST_FILE, "split this file: one idea per file"


def test_a_long_function_is_seen() -> None:
    body = "    x = 1\n" * LONGEST_FUNCTION
    assert long_functions(f"def f():\n{body}") == ["f has 61 lines"]


def test_lm_core_keeps_its_line_budget() -> None:
    lines = sum(number_of_lines(path) for path in (PROJECT / "lm_core").rglob("*.py"))
    assert lines <= LM_CORE_BUDGET, f"lm_core has {lines} lines: move code to the stage it serves"


def test_stage_packages_hold_a_docstring_and_the_stand_in_line() -> None:
    for package in PACKAGES:
        if package.name in ("lm_core", "lm_course"):
            continue
        tree = ast.parse((package / "__init__.py").read_text(encoding="utf-8"))
        statements = [ast.unparse(node) for node in tree.body[1:]]
        assert ast.get_docstring(tree)
        assert statements == [
            "from lm_core.stand_ins import stand_ins_first",
            "__path__ = stand_ins_first(__name__, __path__)",
        ], package.name


def test_no_init_file_below_tests() -> None:
    found = list((PROJECT / "tests").rglob("__init__.py"))
    assert not found, "an __init__.py here would shadow the package of the same name"
