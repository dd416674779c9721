"""Planted mistakes are caught or survive, and their change is shown line by line."""

import os

import pytest

from lm_course.learning.assignment_file import load_assignment
from lm_course.mutation_testing.mutant_runs import difference, run_mutants
from lm_course.mutation_testing.mutants import load_mutants

TOO_LATE = """
[[mutant]]
name = "another-task"
module = "counting"
find = "(counts[letter], letter)"
replace = "counts[letter]"
why = "t1.2 does not look at it"
task = "t1.2"
"""

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked")


def verdicts_of(course, rows: str):
    course.write("assignments/t1/mutants.toml", rows)
    assignment = load_assignment("t1", course.root)
    return list(run_mutants(assignment, load_mutants(assignment, course.root), course.root))


def test_caught_and_survived(course) -> None:
    verdicts = verdicts_of(course, course.MUTANTS + course.SURVIVOR + TOO_LATE)
    assert [verdict.mutant.name for verdict in verdicts] == [
        *("first-of-equals", "given-constant", "another-task"),
    ]
    assert [verdict.caught for verdict in verdicts] == [True, False, False]
    assert verdicts[0].check == "test_largest"
    assert verdicts[0].message == "largest of equals: wrong from index 0 on"


def test_a_mutant_that_only_breaks_an_import_is_not_caught(course) -> None:
    """The suite must notice the mistake, not only that a name is missing."""
    row = course.MUTANTS.replace('"(counts[letter], letter)"', '"def largest"')
    (verdict,) = verdicts_of(course, row.replace('"counts[letter]"', '"def largest_of"'))
    assert not verdict.caught


def test_the_change_of_a_mistake(toy_course) -> None:
    assignment = load_assignment("t1", toy_course.root)
    (mutant,) = load_mutants(assignment, toy_course.root)
    assert difference(mutant, assignment, toy_course.root) == [
        "toy_stage/counting.py:20",
        "-     return max(counts, key=lambda letter: (counts[letter], letter))",
        "+     return max(counts, key=lambda letter: counts[letter])",
    ]
