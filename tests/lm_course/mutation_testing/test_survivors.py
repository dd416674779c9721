"""survivors.toml: each row names a mutant that is generated, and has a reason."""

import pytest

from lm_core.user_error import UserError
from lm_course.learning.assignment_file import load_assignment
from lm_course.mutation_testing.generated_mutants import generate_mutants
from lm_course.mutation_testing.survivors import load_survivors


def load(course, rows: str):
    course.write("assignments/t1/survivors.toml", rows)
    assignment = load_assignment("t1", course.root)
    return load_survivors(assignment, generate_mutants(assignment, course.root), course.root)


def test_a_row_is_found_by_the_key_of_its_mutant(toy_course) -> None:
    assignment = load_assignment("t1", toy_course.root)
    mutants = generate_mutants(assignment, toy_course.root)
    assert load_survivors(assignment, mutants, toy_course.root) == {}, "there is no file"
    rows = load(toy_course, toy_course.LISTED)
    assert [rows[m.key].reason for m in mutants if m.key in rows] == ["a Counter is a dict"]


@pytest.mark.parametrize(
    ("find", "replace", "complaint"),
    [
        ('"return _counter(text)"', '"return 1"', "no such mutant is generated any more; remove"),
        ('"cast"', '"casts"', "`return _counter(text)`: no such mutant"),
        ('reason = "a Counter is a dict"', "", "reason"),
        ('"a Counter is a dict"', '"equal"', "reason"),
        ("reason", "because", "because"),
        ("[[survivor]]", "[[survivors]]", "survivors"),
        ("[[survivor]]", "[[survivor", "not valid TOML"),
    ],
)
def test_a_row_that_says_nothing_is_refused(
    toy_course, find: str, replace: str, complaint: str
) -> None:
    assert find in toy_course.LISTED
    with pytest.raises(UserError) as caught:
        load(toy_course, toy_course.LISTED.replace(find, replace))
    assert complaint in str(caught.value)
    assert "survivors.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_row_is_listed_once(toy_course) -> None:
    with pytest.raises(UserError, match=r"survivors.toml.*listed twice; remove one"):
        load(toy_course, toy_course.LISTED * 2)
