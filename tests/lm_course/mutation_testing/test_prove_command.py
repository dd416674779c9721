"""`lm prove`: its table, its exit status, and wrong command lines."""

import os

import pytest

from lm_course import cli
from lm_course.mutation_testing import prove_command

ALSO_LISTED = """
[[survivor]]
module = "words"
function = "count_words"
operator = "condition"
original = '''
return {word: text.split().count(word) for word in text.split() if count_letters(word)}'''
changed = "return {word: text.split().count(word) for word in text.split() if True}"
reason = "a word always has letters"
"""
CAUGHT = """
[[survivor]]
module = "counting"
function = "largest"
operator = "order"
original = "return max(counts, key=lambda letter: (counts[letter], letter))"
changed = "return min(counts, key=lambda letter: (counts[letter], letter))"
reason = "nobody has tried it"
"""


@pytest.fixture
def course(toy_course, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(prove_command, "PROJECT", toy_course.root)
    monkeypatch.setenv("PYTHONPATH", f"{toy_course.root}:{toy_course.PROJECT}")
    return toy_course


@pytest.fixture
def lm(course, capsys: pytest.CaptureFixture[str]):
    """Run a command line; return its exit status and what it prints to either side."""

    def run(*arguments: str) -> tuple[int, list[str], str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(["prove", *arguments])
        printed = capsys.readouterr()
        return ended.value.code, printed.out.splitlines(), printed.err

    return run


forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked")


@forks
def test_planted_mistakes(course, lm) -> None:
    assert lm("t1") == (
        0,
        ["t1.3   first-of-equals  caught by test_largest", "1 of 1 caught (100.0 %)"],
        "",
    )
    course.write("assignments/t1/mutants.toml", course.MUTANTS + course.SURVIVOR)
    change = ["  toy_stage/counting.py:5"]
    change += ['  - LETTERS = "abc"  # given', '  + LETTERS = "abcd"  # given']
    assert lm("t1", "--only", "given-constant") == (
        1,
        [
            "t1.2   given-constant  SURVIVED",
            *change,
            "  why wrong  nobody checks it",
            "  message    ",
            "0 of 1 caught (0.0 %)",
            "",
            "t1.2 given-constant: SURVIVED nobody checks it",
            *change,
        ],
        "",
    )
    assert lm("t1", "--task", "t1.3")[1][-1] == "1 of 1 caught (100.0 %)"


@forks
def test_generated_mistakes_from_end_to_end(course, lm) -> None:
    status, printed, _ = lm("t1", "--generated")
    assert status == 1
    head = [line.partition("  ")[0] + "  " + line.rpartition("  ")[2] for line in printed[:5]]
    assert head == [
        "t1.2  SURVIVED",
        "t1.3  caught by test_largest",
        "t1.3  caught by test_largest",
        "t1.4  caught by test_words",
        "t1.4  SURVIVED",
    ]
    assert printed[5] == "3 of 5 caught (60.0 %)"
    assert printed[7].startswith("t1.2 count_letters-cast-")
    assert printed[7].endswith(": SURVIVED")
    assert printed[8:11] == [
        "  toy_stage/counting.py:11",
        "  -     return dict(_counter(text))",
        "  +     return _counter(text)",
    ]
    course.write("assignments/t1/survivors.toml", course.LISTED + ALSO_LISTED)
    status, printed, _ = lm("t1", "--generated")
    assert status == 0
    figures = "3 of 5 caught (60.0 %); 2 survive as listed, and 100.0 % of the others are caught"
    assert printed[5] == figures
    assert printed[7].endswith(": survives, as listed: a Counter is a dict")
    name = printed[7].split()[1].rstrip(":")
    course.write("assignments/t1/survivors.toml", course.LISTED + ALSO_LISTED + CAUGHT)
    assert lm("t1", "--generated", "--only", name)[0] == 0
    status, printed, _ = lm("t1", "--generated", "--task", "t1.3")
    assert status == 1
    assert printed[-1].endswith("is caught: remove it from survivors.toml")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "Missing argument 'ASSIGNMENT'"),
        (["t2"], "t2: no such assignment; available: t1"),
        (["t1.3"], "t1.3: no such assignment"),
        (["t1", "--task", "t1.9"], "t1.9: no such task; t1 has t1.1, t1.2, t1.3, t1.4"),
        (["t1", "--task", "t1.1"], "t1.1: it has no mutants"),
        (["t1", "--only", "nobody"], "nobody: no such mutant"),
        (["t1", "--only", "first-of-equals", "--task", "t1.2"], "no such mutant in t1.2"),
        (["t1", "--generated", "--only", "first-of-equals"], "first-of-equals: no such mutant"),
    ],
)
def test_bad_input_is_one_line(lm, arguments: list[str], complaint: str) -> None:
    status, printed, told = lm(*arguments)
    assert (status, printed) == (2, [])
    assert complaint in told
    assert told.count("\n") == 1


def test_a_bad_file_is_one_line(course, lm) -> None:
    course.write("assignments/t1/mutants.toml", course.MUTANTS.replace('"counts[letter]"', '"("'))
    status, _, told = lm("t1")
    assert (status, told.count("\n")) == (2, 1)
    course.write(
        "assignments/t1/survivors.toml", course.LISTED.replace("cast", "casts") + ALSO_LISTED
    )
    status, _, told = lm("t1", "--generated")
    assert (status, told.count("\n")) == (2, 1)
    assert "remove it" in told


def test_an_installed_copy_says_what_it_lacks(course, lm) -> None:
    course.write("lm_course/assignments/t1/assignment.toml", course.ASSIGNMENT)
    told = "lm: lm prove needs a checkout of the project, with conftest.py and tests/; this is an"
    status, _, said = lm("t1")
    assert (status, said) == (2, f"{told} installed copy\n")
