"""Right solutions that are written unlike the reference get all points of their tasks.

Each folder in unusual_solutions/ has one module or more. Its definitions take the place of the
reference's of the same names; the rest of the module is the reference's.
"""

import ast
import json
import os
import shutil
from pathlib import Path

import preloaded_python
import pytest

from lm_core.stand_ins import STAND_INS_VARIABLE
from lm_course.learning.assignment_file import Assignment, load_assignment

PROJECT = Path(__file__).parents[2]
SOLUTIONS = sorted((Path(__file__).parent / "unusual_solutions").glob("a*/*"))
EACH = 5


def with_replacements(reference: str, replacements: str) -> str:
    """The module with `replacements` at the place of its first function or class of one of their
    names, and without the others of these names.
    """
    definitions = ast.FunctionDef | ast.ClassDef
    replaced = {each.name for each in ast.parse(replacements).body if isinstance(each, definitions)}
    lines = reference.splitlines()
    place = len(lines)
    for node in reversed(ast.parse(reference).body):
        if isinstance(node, definitions) and node.name in replaced:
            place = min([node.lineno, *(each.lineno for each in node.decorator_list)]) - 1
            del lines[place : node.end_lineno]
    return "\n".join([*lines[:place], replacements, *lines[place:]])


def place(solution: Path, assignment: Assignment, folder: Path) -> list[str]:
    """Write the modules; return the tasks of those that the solution changes."""
    changed = {path.stem for path in solution.glob("*.py")}
    assert changed, f"{solution} has no module"
    assert changed <= set(assignment.modules)
    package = folder / assignment.package
    package.mkdir()
    for module in assignment.modules:
        source = PROJECT / assignment.package / f"{module}.py"
        shutil.copy(source, package)
        if module in changed:
            replacements = (solution / f"{module}.py").read_text(encoding="utf-8")
            text = with_replacements(source.read_text(encoding="utf-8"), replacements)
            (package / f"{module}.py").write_text(text, encoding="utf-8")
    return [task.id for task in assignment.tasks if task.module in changed]


@pytest.mark.slow
@pytest.mark.parametrize(
    "solution", SOLUTIONS, ids=[f"{p.parent.name}-{p.name}" for p in SOLUTIONS]
)
def test_an_unusual_solution_gets_all_points(solution: Path, tmp_path: Path) -> None:
    assignment = load_assignment(solution.parent.name)
    tasks = place(solution, assignment, tmp_path)
    grades = tmp_path / "grades.json"
    command = ["-m", "pytest", f"assignments/{assignment.id}", f"--impl={tmp_path}"]
    command += [f"--grade-json={grades}", *(f"--task={task}" for task in tasks)]
    command += ["-p", "no:cacheprovider"]
    environment = {key: value for key, value in os.environ.items() if key != STAND_INS_VARIABLE}
    done = preloaded_python.run(command, PROJECT, environment)
    assert grades.exists(), f"the suite did not run\n{done.stdout}{done.stderr}"
    (graded,) = json.loads(grades.read_text(encoding="utf-8"))["assignments"]
    rows = [row for row in graded["tasks"] if row["id"] in tasks]
    problems = [problem for row in rows for problem in row["problems"]]
    assert not problems, json.dumps(problems, indent=1, ensure_ascii=False)
    assert [row["points"] for row in rows] == [assignment.task(row["id"]).points for row in rows]
    assert len(rows) == len(tasks)


def test_there_are_enough() -> None:
    for assignment in ("a1", "a2", "a3", "a3_data", "a6"):
        assert sum(path.parent.name == assignment for path in SOLUTIONS) >= EACH


def test_the_rest_of_a_module_stays() -> None:
    reference = '"""A."""\nLIMIT = 3\n@cache\ndef f():\n    return 1\ndef g():\n    return f()\n'
    mixed = with_replacements(reference, "def f():\n    return 2\n")
    lines = ["LIMIT = 3", "def f():", "    return 2", "", "def g():", "    return f()"]
    assert mixed.splitlines() == ['"""A."""', *lines]
