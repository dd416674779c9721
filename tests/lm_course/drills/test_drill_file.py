"""drills.toml: what it may hold, and what is said about a wrong row."""

import pytest

from lm_core.user_error import UserError
from lm_course.drills.drill_file import drill_named, load_drills
from lm_course.learning.assignment_file import load_assignment


def test_the_drills_in_the_order_of_the_file(course) -> None:
    assignment = load_assignment("t1", course.root)
    drills = load_drills(assignment, course.root)
    assert [drill.name for drill in drills] == ["the-first-wins", "no-words"]
    assert drill_named("no-words", drills, assignment) is drills[1]
    assert drills[1].address == "https://github.com/somebody/something/issues/34"


@pytest.mark.parametrize(
    ("find", "replace", "complaint"),
    [
        ("(counts[letter], letter)", "(counts, letter)", "the-first-wins: `find` occurs 0 times"),
        ("somebody/something#12", "https://example.org", "happened_in"),
        ('symptom = "There are no words."', 'symptom = ""', "symptom"),
        ('happened = "Nobody had any words."', "", "happened"),
        ('"t1.4"', '"t1.9"', "no-words: t1.9: no such task"),
        ("no-words", "the-first-wins", "the-first-wins: two mutants have this name"),
        ('module = "words"', 'module = "letters"', "letters is not one of counting, words"),
    ],
)
def test_a_wrong_row_is_one_line(course, find: str, replace: str, complaint: str) -> None:
    path = course.root / "assignments/t1/drills.toml"
    path.write_text(path.read_text().replace(find, replace))
    with pytest.raises(UserError) as caught:
        load_drills(load_assignment("t1", course.root), course.root)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_assignment_without_drills(toy_course) -> None:
    with pytest.raises(UserError, match=r"^t1 has no drills$"):
        load_drills(load_assignment("t1", toy_course.root), toy_course.root)


def test_an_unknown_name(course) -> None:
    assignment = load_assignment("t1", course.root)
    drills = load_drills(assignment, course.root)
    with pytest.raises(UserError, match="no-word: no such drill; t1 has the-first-wins, no-words"):
        drill_named("no-word", drills, assignment)
