"""Two drills of the small course: a line that is wrong, and lines that are missing."""

import pytest

TOY_DRILLS = """
[[drill]]
name = "the-first-wins"
task = "t1.3"
module = "counting"
find = "(counts[letter], letter)"
replace = "counts[letter]"
symptom = "Which letter is the largest depends on the order."
happened_in = "somebody/something#12"
happened = "Results changed with the order of a file."
why = "Ties go to the letter that comes first."

[[drill]]
name = "no-words"
task = "t1.4"
module = "words"
find = " if count_letters(word)"
replace = " if not count_letters(word)"
symptom = "There are no words."
happened_in = "somebody/something#34"
happened = "Nobody had any words."
why = "The condition is the wrong way around."
"""


@pytest.fixture
def course(toy_course):
    toy_course.write("assignments/t1/drills.toml", TOY_DRILLS)
    return toy_course
