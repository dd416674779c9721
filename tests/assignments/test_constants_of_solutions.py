"""The constants of a solution become inputs: a limit that only its author knows is found, and
constants without a mistake cost nothing.
"""

import json
import os
import shutil
from pathlib import Path

import preloaded_python
import pytest

from lm_core.stand_ins import STAND_INS_VARIABLE
from lm_course.learning.assignment_file import Assignment, assignment_ids, load_assignment

PROJECT = Path(__file__).parents[2]
SUFFIX = """

NUMBERS = (3, 5, 7, 10, 12, 17, 33, 64, 88, 100, 128, 200, 255, 300, 512, 1000, 4096, 10_000, 30.0)
LARGE = (65_536, 140_000, 10**9, 10**400, 1e-300)
TABLE = {number: chr(0x4E00 + number) for number in range(5)}
TEXTS = ("\\ud800", " a", "\\u3000", "</w>", "##", "<pad>", b"\\xff\\xfe", "Ġ")
"""


def problems_of(assignment: Assignment, folder: Path, *options: str) -> list[dict[str, str]]:
    report = folder / "grades.json"
    command = ["-m", "pytest", f"assignments/{assignment.id}", f"--impl={folder}", *options]
    command += [f"--grade-json={report}", "-p", "no:cacheprovider"]
    environment = {key: value for key, value in os.environ.items() if key != STAND_INS_VARIABLE}
    done = preloaded_python.run(command, PROJECT, environment)
    assert report.exists(), f"the suite did not run\n{done.stdout}{done.stderr}"
    (graded,) = json.loads(report.read_text(encoding="utf-8"))["assignments"]
    return [problem for task in graded["tasks"] for problem in task["problems"]]


def copied(assignment: Assignment, module: str, folder: Path) -> Path:
    source = PROJECT / assignment.package / f"{module}.py"
    target = folder / assignment.package / f"{module}.py"
    target.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(source, target))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the reference is a fork")
def test_a_limit_that_only_the_solution_knows_is_found(tmp_path: Path) -> None:
    assignment = load_assignment("a1")
    file = copied(assignment, "pretokenization", tmp_path)
    code = file.read_text(encoding="utf-8")
    body = "    if text.isascii() and (fast"
    assert body in code
    limited = f"    if len(text) > 1717:\n        return [text]\n{body}"
    file.write_text(code.replace(body, limited, 1), encoding="utf-8")
    (problem,) = problems_of(assignment, tmp_path, "--task=a1.5")
    assert problem["check"] == "test_as_the_reference[pretokenize]"


@pytest.mark.slow
@pytest.mark.parametrize("name", assignment_ids())
def test_constants_without_a_mistake_cost_nothing(name: str, tmp_path: Path) -> None:
    assignment = load_assignment(name)
    for module in {task.module for task in assignment.tasks if task.module}:
        file = copied(assignment, module, tmp_path)
        file.write_text(file.read_text(encoding="utf-8") + SUFFIX, encoding="utf-8")
    (tmp_path / name).mkdir()
    answers = PROJECT / "tests" / "assignments" / f"{name}_answers.toml"
    shutil.copy(answers, tmp_path / name / "answers.toml")
    assert problems_of(assignment, tmp_path) == []
