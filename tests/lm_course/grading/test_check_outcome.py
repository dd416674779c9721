"""An exception becomes a status, a sentence, and the learner's lines."""

import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_course.grading.check_outcome import (
    FAILING,
    NOT_SUBMITTED,
    NOT_WRITTEN,
    SKIPPED,
    GradedFailure,
    LearnerCode,
    NotSubmitted,
    NotWritten,
    Outcome,
    outcome_of,
    printable,
)

LEARNER = '''"""Theirs."""


def stub():
    raise NotImplementedError("t1.2: write stub")


def outer(x):
    return inner(x)


def inner(x):
    assert x, "x is empty"
    return 1 / (x - 1)


class Box:
    pass


def slip():
    import math

    return math.square_root(2)


def own_slip():
    from theirs import outter
'''


@pytest.fixture
def code(tmp_path: Path) -> LearnerCode:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "theirs.py").write_text(LEARNER)
    return LearnerCode((tmp_path / "work",), tmp_path)


@pytest.fixture
def theirs(code: LearnerCode) -> ModuleType:
    spec = spec_from_file_location("theirs", code.folders[0] / "theirs.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def outcome(function: Callable[[], object], code: LearnerCode, task_id: str = "t1.2") -> Outcome:
    try:
        function()
    except BaseException as error:
        return outcome_of(error, code, task_id)
    raise AssertionError("nothing was raised")


def test_a_stub_of_this_task_and_of_another(code: LearnerCode, theirs: ModuleType) -> None:
    own = outcome(theirs.stub, code, "t1.2")
    assert (own.status, own.message) == (NOT_WRITTEN, "stub is not written yet")
    assert own.where == ("work/theirs.py:5 in stub",)
    other = outcome(theirs.stub, code, "t1.3")
    assert other.status == NOT_WRITTEN
    assert other.message == "this needs stub, which is not written yet (task t1.2)"


def test_the_learner_s_lines_are_named_and_ours_are_not(
    code: LearnerCode, theirs: ModuleType
) -> None:
    found = outcome(lambda: theirs.outer(1), code)
    assert found.message == "your code raised ZeroDivisionError: division by zero"
    assert found.where == (
        "work/theirs.py:9 in outer\n  return inner(x)",
        "work/theirs.py:14 in inner\n  return 1 / (x - 1)",
    )
    assert "test_check_outcome" in found.traceback


def test_the_learner_s_own_assertion_is_theirs(code: LearnerCode, theirs: ModuleType) -> None:
    found = outcome(lambda: theirs.outer(0), code)
    assert found.message == "your code raised AssertionError: x is empty"


def test_what_the_check_could_not_use(code: LearnerCode) -> None:
    found = outcome(lambda: len(None), code)
    sentence = "the check could not work with the value that your code returned: TypeError"
    assert found.message.startswith(sentence)
    assert found.where == ()


def raising(error: BaseException) -> Callable[[], None]:
    def function() -> None:
        raise error

    return function


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (NotSubmitted("x.py is missing"), NOT_SUBMITTED, "x.py is missing"),
        (NotWritten("no answer"), NOT_WRITTEN, "no answer"),
        (NotImplementedError(), NOT_WRITTEN, "not written yet"),
        (GradedFailure("wrong\n  got 3"), FAILING, "wrong\n  got 3"),
        (AssertionError("a bare one of the suite"), FAILING, "a bare one of the suite"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), FAILING, "your code asked"),
        (pytest.skip.Exception("no GPU"), SKIPPED, "no GPU"),
    ],
)
def test_what_each_exception_means(
    code: LearnerCode, error: BaseException, status: str, message: str
) -> None:
    found = outcome(raising(error), code)
    assert found.status == status
    assert found.message.startswith(message)


HOW = (
    "to get it, set your file aside, let `lm start t1` write the stub in its place, and copy {} "
    "from there into yours"
)


@pytest.fixture
def tasks(code: LearnerCode, theirs: ModuleType, monkeypatch: pytest.MonkeyPatch) -> LearnerCode:
    """Their code, and tasks for a function and a method that it lacks."""
    monkeypatch.setitem(sys.modules, "theirs", theirs)
    return replace(code, functions={"theirs.later": "t1.5", "theirs.Box.weight": "t1.6"})


@pytest.mark.parametrize(
    ("look_up", "named", "what"),
    [
        (lambda theirs: theirs.later, "later", "later, which task t1.5 asks for"),
        (lambda _: import_from_theirs("later"), "later", "later, which task t1.5 asks for"),
        (lambda t: t.Box.weight, "Box.weight", "Box.weight, which task t1.6 asks for"),
        (lambda t: t.Box().weight, "Box.weight", "Box.weight, which task t1.6 asks for"),
        (lambda theirs: theirs.GIVEN, "GIVEN", "GIVEN"),
        (lambda _: import_from_theirs("GIVEN"), "GIVEN", "GIVEN"),
    ],
    ids=["function", "import", "method", "method of an object", "given", "given, import"],
)
def test_a_name_that_is_missing_from_their_file(tasks, theirs, look_up, named, what) -> None:
    """Whether they removed it, or the task was given it after they had started."""
    found = outcome(lambda: look_up(theirs), tasks)
    assert found.status == NOT_WRITTEN
    assert found.message == f"work/theirs.py has no {what}: {HOW.format(named)}"


def import_from_theirs(name: str) -> None:
    exec(f"from theirs import {name}")


@pytest.mark.parametrize(
    ("look_up", "told"),
    [
        (lambda theirs: theirs.slip(), "your code raised AttributeError: module 'math' has no"),
        (lambda theirs: theirs.own_slip(), "your code raised ImportError: cannot import name 'ou"),
        (lambda theirs: theirs.Box().height, "the check could not work with the value that your"),
        (lambda _: Path.no_such_name, "the check could not work with the value that your code"),
    ],
    ids=["of a library", "of their own", "of an object", "not theirs"],
)
def test_a_name_that_no_stub_has(tasks, theirs, look_up, told) -> None:
    found = outcome(lambda: look_up(theirs), tasks)
    assert found.status == FAILING
    assert found.message.startswith(told)


def test_a_syntax_error_names_file_and_line(code: LearnerCode) -> None:
    path = code.folders[0] / "broken.py"
    path.write_text("x = 1\ndef f(:\n    pass\n")
    found = outcome(lambda: compile(path.read_text(), str(path), "exec"), code)
    assert found.message.splitlines()[0].startswith("work/broken.py, line 2, is not valid Python:")
    assert found.message.splitlines()[1] == "  def f(:"


def test_the_smallest_example_of_hypothesis_is_told(code: LearnerCode) -> None:
    @settings(database=None, derandomize=True, deadline=None)
    @given(number=st.integers(min_value=0))
    def check(number: int) -> None:
        if number >= 5:
            raise GradedFailure("too large")

    assert outcome(check, code).message == "too large\n  for example with number=5"


def test_json_round_trip(code: LearnerCode, theirs: ModuleType) -> None:
    found = outcome(lambda: theirs.outer(1), code)
    assert Outcome.from_json(found.as_json()) == found


def test_what_a_terminal_would_obey_is_shown() -> None:
    assert printable("a\x1b[2Jb\ud800\tc\r") == "a\\x1b[2Jb\\ud800\tc\\r"
    assert printable("naïve 東京 🦉\n") == "naïve 東京 🦉\n"
