"""The learner's copy, and the lines that count as found."""

from pathlib import Path

import pytest

from lm_core.user_error import UserError
from lm_course.drills import hidden_mistake as module
from lm_course.drills.drill_file import load_drills
from lm_course.drills.hidden_mistake import HiddenMistake, line_number, write_drill
from lm_course.learning.assignment_file import load_assignment

RIGHT = """# top
LIMIT = (
    3,
)


def f():
    a = 1
    b = 2
    c = 3
    return a


class C:
    size = 0

    def g(self):
        return [
            1,
        ]
"""


def mistake(find: str, replace: str) -> HiddenMistake:
    assert RIGHT.count(find) == 1
    return HiddenMistake(
        "stage/m.py", RIGHT.replace(find, replace).splitlines(), RIGHT.splitlines()
    )


@pytest.mark.parametrize(
    ("find", "replace", "answers", "place"),
    [
        ("b = 2", "b = 4", [9], "f"),
        ("    b = 2\n    c = 3\n", "    b = 3\n    c = 2\n", [9, 10], "f"),
        ("    b = 2\n", "", [8, 9], "f"),  # a missing line: either side of the gap
        ("    b = 2\n", "    b = 2\n    b = 5\n", [10], "f"),
        ("    a = 1\n    b = 2\n", "    b = 2\n    a = 1\n", [8, 9], "f"),
        ("            1,", "            2,", [19], "C.g"),
        ("size = 0", "size = 1", [15], "C"),
        ("    3,", "    4,", [3], "LIMIT"),
        ("# top", "# bottom", [1], "the top of the file"),
    ],
)
def test_the_lines_of_the_change_are_right_answers(
    find: str, replace: str, answers: list[int], place: str
) -> None:
    hidden = mistake(find, replace)
    assert hidden.answers == answers
    assert hidden.place == place


def test_the_difference_begins_with_what_is_wrong() -> None:
    assert mistake("b = 2", "b = 4").difference() == [
        *("     a = 1", "-    b = 4", "+    b = 2", "     c = 3"),
    ]


@pytest.mark.parametrize("given", ["9", "m.py:9", "stage/m.py:9", "/somewhere/stage/m.py:9"])
def test_an_answer_names_a_line(given: str) -> None:
    assert line_number(given, mistake("b = 2", "b = 4")) == 9


@pytest.mark.parametrize("given", ["", "x", "m.py", "m.py:", "0", "21", "other.py:9", "-1", "9.0"])
def test_what_is_no_line_of_the_file_is_refused(given: str) -> None:
    with pytest.raises(UserError, match=r"expected a line of stage/m\.py, such as m\.py:1"):
        line_number(given, mistake("b = 2", "b = 4"))


def test_the_folder_has_all_graded_modules_and_no_trace_of_the_line(course) -> None:
    assignment = load_assignment("t1", course.root)
    drill = load_drills(assignment, course.root)[0]
    hidden, written = write_drill(drill, assignment, course.root, course.root)
    assert written
    folder = course.root / "workspace/drills/t1/the-first-wins"
    files = {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*.py")}
    assert sorted(files) == ["toy_stage/counting.py", "toy_stage/words.py"]
    assert files["toy_stage/words.py"] == course.OTHER
    top, _, rest = files["toy_stage/counting.py"].partition("\n")
    assert top == "# the-first-wins, a drill of t1: one mistake is in this file."
    assert rest == course.REFERENCE.replace("(counts[letter], letter)", "counts[letter]")
    assert files["toy_stage/counting.py"].splitlines() == hidden.wrong


def test_what_the_learner_changed_is_kept(course) -> None:
    assignment = load_assignment("t1", course.root)
    drill = load_drills(assignment, course.root)[0]
    write_drill(drill, assignment, course.root, course.root)
    path = course.root / "workspace/drills/t1/the-first-wins/toy_stage/counting.py"
    path.write_text("mine = 1\n")
    _, written = write_drill(drill, assignment, course.root, course.root)
    assert not written
    assert path.read_text() == "mine = 1\n"


def test_no_half_of_a_folder_is_left(course, monkeypatch: pytest.MonkeyPatch) -> None:
    assignment = load_assignment("t1", course.root)
    drill = load_drills(assignment, course.root)[0]

    def disk_full(self: Path, *_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.Path, "write_text", disk_full)
    with pytest.raises(OSError, match="No space"):
        write_drill(drill, assignment, course.root, course.root)
    assert list((course.root / "workspace/drills/t1").iterdir()) == []
