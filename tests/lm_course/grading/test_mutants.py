"""Planted mistakes are caught or survive, and a row that plants nothing is refused."""

import pytest

from lm_course.grading import mutants as module
from lm_course.grading.mutants import load_mutants, main, run_mutants
from lm_course.learning.assignment_file import load_assignment

SURVIVOR = """
[[mutant]]
name = "given-constant"
module = "counting"
find = 'LETTERS = "abc"'
replace = 'LETTERS = "abcd"'
why = "nobody checks it"
task = "t1.2"
"""
TOO_LATE = """
[[mutant]]
name = "another-task"
module = "counting"
find = "(counts[letter], letter)"
replace = "counts[letter]"
why = "t1.2 does not look at it"
task = "t1.2"
"""


@pytest.fixture
def course(toy_course, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "PROJECT", toy_course.root)
    path = [str(toy_course.root), str(toy_course.PROJECT)]
    monkeypatch.setenv("PYTHONPATH", ":".join(path))
    return toy_course


def test_caught_and_survived(course) -> None:
    course.write("assignments/t1/mutants.toml", course.MUTANTS + SURVIVOR + TOO_LATE)
    assignment = load_assignment("t1", course.root)
    verdicts = list(run_mutants(assignment, load_mutants(assignment, course.root), course.root))
    assert [verdict.mutant.name for verdict in verdicts] == [
        *("first-of-equals", "given-constant", "another-task"),
    ]
    assert [verdict.caught for verdict in verdicts] == [True, False, False]
    assert verdicts[0].check == "test_largest"
    assert verdicts[0].message == "largest of equals: wrong from index 0 on"


def test_the_table_and_the_exit_status(course, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["t1"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "t1.3   first-of-equals  caught by test_largest",
        "1 of 1 caught",
    ]
    course.write("assignments/t1/mutants.toml", course.MUTANTS + SURVIVOR)
    assert main(["t1", "--only", "given-constant"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "t1.2   given-constant  SURVIVED",
        "  why wrong  nobody checks it",
        "  message    ",
        "0 of 1 caught",
        "  t1.2 lets given-constant pass: nobody checks it",
    ]


@pytest.mark.parametrize(
    ("find", "replace", "complaint"),
    [
        ('"(counts[letter], letter)"', '"nowhere"', "`find` occurs 0 times in counting.py"),
        ('"(counts[letter], letter)"', '"return"', "`find` occurs 3 times in counting.py"),
        ('"counts[letter]"', '"counts["', "first-of-equals: "),
        ('"counts[letter]"', '"(counts[letter], letter)"', "find and replace are equal"),
        ('"counting"', '"nowhere"', "nowhere is not one of counting, words"),
        ('"t1.3"', '"t1.9"', "t1.9: no such task"),
        ("why = ", "because = ", "mutant.0."),
    ],
)
def test_a_row_that_plants_nothing_is_refused(
    course, capsys: pytest.CaptureFixture[str], find: str, replace: str, complaint: str
) -> None:
    assert find in course.MUTANTS
    course.write("assignments/t1/mutants.toml", course.MUTANTS.replace(find, replace))
    assert main(["t1"]) == 2
    told = capsys.readouterr().err
    assert complaint in told
    assert told.count("\n") == 1


def test_two_mutants_of_one_name_and_no_file(course, capsys: pytest.CaptureFixture[str]) -> None:
    course.write("assignments/t1/mutants.toml", course.MUTANTS * 2)
    assert main(["t1"]) == 2
    assert "two mutants have this name" in capsys.readouterr().err
    (course.root / "assignments/t1/mutants.toml").unlink()
    assert main(["t1"]) == 2
    assert "no such file" in capsys.readouterr().err


def test_a_mutant_that_only_breaks_an_import_is_not_caught(course) -> None:
    """The suite must notice the mistake, not only that a name is missing."""
    row = course.MUTANTS.replace('"(counts[letter], letter)"', '"def largest"')
    row = row.replace('"counts[letter]"', '"def largest_of"')
    course.write("assignments/t1/mutants.toml", row)
    assignment = load_assignment("t1", course.root)
    (verdict,) = run_mutants(assignment, load_mutants(assignment, course.root), course.root)
    assert not verdict.caught
