"""Rows of mutants.toml: one that plants nothing is refused."""

import pytest

from lm_core.user_error import UserError
from lm_course.learning.assignment_file import load_assignment
from lm_course.mutation_testing.mutants import load_mutants


def load(course):
    return load_mutants(load_assignment("t1", course.root), course.root)


def test_a_row_is_planted(toy_course) -> None:
    (mutant,) = load(toy_course)
    assert (mutant.name, mutant.tasks, mutant.check) == ("first-of-equals", ("t1.3",), "")
    planted = mutant.planted_in(toy_course.REFERENCE)
    assert planted == toy_course.REFERENCE.replace("(counts[letter], letter)", "counts[letter]")


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
    toy_course, find: str, replace: str, complaint: str
) -> None:
    assert find in toy_course.MUTANTS
    toy_course.write("assignments/t1/mutants.toml", toy_course.MUTANTS.replace(find, replace))
    with pytest.raises(UserError) as caught:
        load(toy_course)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_mutants_of_one_name_and_no_file(toy_course) -> None:
    toy_course.write("assignments/t1/mutants.toml", toy_course.MUTANTS * 2)
    with pytest.raises(UserError, match="two mutants have this name"):
        load(toy_course)
    (toy_course.root / "assignments/t1/mutants.toml").unlink()
    with pytest.raises(UserError, match="no such file"):
        load(toy_course)
