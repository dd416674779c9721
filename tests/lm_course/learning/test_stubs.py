"""Stubs keep the given code, lose the tasks' bodies, and can be imported."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lm_core.stand_ins import STAND_INS_VARIABLE
from lm_course.learning.assignment_file import Assignment, assignment_ids, load_assignment
from lm_course.learning.stubs import cut_stubs

PROJECT = Path(__file__).parents[3]

SOURCE = '''"""A lesson."""

import heapq
from functools import (
    cache,
)

from toy_stage.words import count_words, shared, solution

GIVEN = 1  # stays, with its comment
_SECRET = 2  # used by the body of task alone


# Only a blanked body needs this.
class _Queue:
    """Goes."""

    def push(self) -> int:
        return _deeper() + _SECRET


def _deeper() -> int:
    return heapq.__name__ + _deeper() if False else 0
    # a comment at the end of a body that goes


# Stays, with this comment.
@cache
def given(x: int) -> int:
    # why
    return _both(x) + GIVEN


def _both(x: int) -> int:
    return x


@cache
def task(
    x: int,  # the comment of an argument
) -> "_Named":
    """What to do.

    >>> task(1)
    """

    # how to do it
    def inner() -> int:
        return 1

    return _Queue().push() + _both(x) + solution(x) + shared(x) + count_words("") + inner()
    # a comment at the end


def one_line(x): return x + 1


def only_a_docstring() -> None:
    """Écris ça: "东京"."""


class _Named:
    """Stays: a signature names it."""


class Counter:
    """A class with given parts."""

    size = 3

    def method(self) -> int:
        return self._private() + self._kept()

    def other(self) -> int:
        """Given."""
        return self._kept()

    def _private(self) -> int:
        return 1

    def _kept(self) -> int:
        return 2
'''

WORDS = '''"""Another lesson."""


def count_words(text: str) -> int:
    """A task."""
    return len(solution(text))


def solution(text: str) -> str:
    return text


def shared(x: int) -> int:
    return x


def used_by_the_project() -> int:
    return 1


def words_task() -> int:
    return used_by_the_project()
'''

EXPECTED = '''"""A lesson."""

import heapq
from functools import (
    cache,
)

from toy_stage.words import count_words, shared

GIVEN = 1  # stays, with its comment


# Stays, with this comment.
@cache
def given(x: int) -> int:
    # why
    return _both(x) + GIVEN


def _both(x: int) -> int:
    return x


@cache
def task(
    x: int,  # the comment of an argument
) -> "_Named":
    """What to do.

    >>> task(1)
    """
    # 4 points: assignments/t1/README.md#s
    raise NotImplementedError("t1.1: write task")


def one_line(x): raise NotImplementedError("t1.2: write one_line")


def only_a_docstring() -> None:
    """Écris ça: "东京"."""
    # 1 point: assignments/t1/README.md#s
    raise NotImplementedError("t1.3: write only_a_docstring")


class _Named:
    """Stays: a signature names it."""


class Counter:
    """A class with given parts."""

    size = 3

    def method(self) -> int:
        # 4 points: assignments/t1/README.md#s
        raise NotImplementedError("t1.4: write Counter.method")

    def other(self) -> int:
        """Given."""
        return self._kept()

    def _kept(self) -> int:
        return 2
'''


def assignment_of(*tasks: tuple[str, str, int], given: tuple[str, ...] = ()) -> Assignment:
    """Return an assignment with tasks of (module, function, points)."""
    rest = {"title": "t", "minutes": 1, "section": "s", "hints": ["a", "b", "c"]}
    listed = [
        {"id": f"t1.{number}", "module": module, "functions": [name], "points": points, **rest}
        for number, (module, name, points) in enumerate(tasks, 1)
    ]
    return Assignment.model_validate(
        {"id": "t1", "title": "t", "package": "toy_stage", "given": list(given), "task": listed}
    )


@pytest.fixture
def lessons(toy_course) -> Path:
    toy_course.write("toy_stage/counting.py", SOURCE)
    toy_course.write("toy_stage/words.py", WORDS)
    # Another stage uses two names; one of them as an attribute.
    user = "from toy_stage import words\nfrom toy_stage.words import shared\n"
    user += "words.used_by_the_project()\n"
    user += "def solution():\n    pass\nsolution()\n"  # its own, of the same name
    toy_course.write("user_stage/__init__.py", '"""Uses it."""\n')
    toy_course.write("user_stage/user.py", user)
    return toy_course.root


def test_every_line_of_a_stub(lessons: Path) -> None:
    names = [("task", 4), ("one_line", 4), ("only_a_docstring", 1), ("Counter.method", 4)]
    tasks = [("counting", name, points) for name, points in names]
    stubs = cut_stubs(assignment_of(*tasks, ("words", "count_words", 1)), lessons)
    assert stubs["counting"] == EXPECTED
    assert list(stubs) == ["counting", "words"]


def test_what_other_code_uses_stays(lessons: Path) -> None:
    tasks = [("words", "words_task", 1), ("words", "count_words", 1), ("counting", "task", 1)]
    words = cut_stubs(assignment_of(*tasks), lessons)["words"]
    assert "def used_by_the_project" in words, "the project calls it"
    assert "def shared" in words, "the project imports it"
    assert "def solution" not in words, "only tasks used it"


def test_what_a_lesson_without_tasks_here_uses_stays(lessons: Path) -> None:
    words = cut_stubs(assignment_of(("words", "count_words", 1)), lessons)["words"]
    assert "def solution" in words, "counting.py is not part of this assignment, and imports it"


def test_a_name_of_another_module_is_another_name(lessons: Path, toy_course) -> None:
    words = "LIMIT = 2\n\n\ndef words():\n    return 1\n\n\ndef given():\n    return LIMIT\n"
    toy_course.write("toy_stage/counting.py", "LIMIT = 1\n\n\ndef task():\n    return LIMIT\n")
    toy_course.write("toy_stage/words.py", words)
    stubs = cut_stubs(assignment_of(("counting", "task", 1), ("words", "words", 1)), lessons)
    assert "LIMIT" not in stubs["counting"]
    assert stubs["words"].count("LIMIT") == 2


def test_what_is_given_stays_with_all_that_it_uses(lessons: Path) -> None:
    given = "counting._Queue", "words.solution"
    assignment = assignment_of(("counting", "task", 1), ("words", "count_words", 1), given=given)
    stubs = cut_stubs(assignment, lessons)
    assert "class _Queue" in stubs["counting"]
    assert "def push" in stubs["counting"]
    assert "def _deeper" in stubs["counting"], "the given class uses it"
    assert "def solution" in stubs["words"]


@pytest.mark.parametrize("name", ["counting.no_such", "counting.task"])
def test_given_names_that_cannot_be(lessons: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"given: counting\.py has no (no_such|task), or it is"):
        cut_stubs(assignment_of(("counting", "task", 1), given=(name,)), lessons)


def test_a_given_name_of_a_module_without_tasks() -> None:
    with pytest.raises(ValueError, match=r"given: nowhere\.x is in no module that has a task"):
        assignment_of(("counting", "task", 1), given=("nowhere.x",))


@pytest.mark.parametrize(
    ("module", "name", "complaint"),
    [
        ("counting", "no_such", "t1.1: counting.py has no function no_such"),
        ("counting", "Counter.no_such", "counting.py has no function Counter.no_such"),
        ("counting", "GIVEN", "counting.py has no function GIVEN"),
        ("nowhere", "task", "nowhere.py does not exist"),
    ],
)
def test_a_task_that_names_nothing(lessons: Path, module: str, name: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        cut_stubs(assignment_of((module, name, 1)), lessons)


def test_a_blank_line_stays_below_the_imports(lessons: Path) -> None:
    """Also if the constant that followed them is removed, with the blank line above it."""
    path = lessons / "toy_stage" / "imports.py"
    path.write_text("import re\n\nRULE = 1\nKEPT = 2\n\n\ndef task():\n    return RULE\n")
    stub = cut_stubs(assignment_of(("imports", "task", 1)), lessons)["imports"]
    assert stub.startswith("import re\n\nKEPT = 2\n\n\ndef task():\n")


@pytest.mark.parametrize("name", assignment_ids(PROJECT))
def test_the_stubs_of_this_project(tmp_path: Path, name: str) -> None:
    assignment = load_assignment(name, PROJECT)
    stubs = cut_stubs(assignment, PROJECT)
    for module, text in stubs.items():
        path = tmp_path / assignment.package / f"{module}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        reference = (PROJECT / assignment.package / f"{module}.py").read_text(encoding="utf-8")
        kept = set(text.splitlines()) - {""}
        added = {line for line in kept - set(reference.splitlines()) if "import" not in line}
        assert all("NotImplementedError(" in line or "points: " in line for line in added)
        asked = [(t.id, f) for t in assignment.tasks if t.module == module for f in t.functions]
        for task_id, function in asked:
            assert f'raise NotImplementedError("{task_id}: write {function}")' in text
    configuration = PROJECT / "pyproject.toml"
    formatted = subprocess.run(
        [sys.executable, *("-m", "ruff", "format", "--diff", "--config"), configuration, tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert formatted.returncode == 0, formatted.stdout
    code = "".join(f"import {assignment.package}.{module}\n" for module in stubs)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=PROJECT,
        env={**os.environ, STAND_INS_VARIABLE: str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ["pretokenization", "naive_training", "merge_training"])
def test_every_function_of_a_lesson_can_be_cut(module: str) -> None:
    """Whatever an assignment asks for, the stub is valid Python with every docstring in place."""
    source = (PROJECT / "tokenizer_bpe" / f"{module}.py").read_text(encoding="utf-8")
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    assignment = assignment_of(*[(module, node.name, 1) for node in functions])
    assignment = assignment.model_copy(update={"package": "tokenizer_bpe"})
    stub = ast.parse(cut_stubs(assignment, PROJECT)[module])
    found = {node.name: node for node in stub.body if isinstance(node, ast.FunctionDef)}
    for node in functions:
        assert ast.get_docstring(found[node.name]) == ast.get_docstring(node)
        assert ast.unparse(found[node.name].args) == ast.unparse(node.args)
        assert isinstance(found[node.name].body[-1], ast.Raise)
