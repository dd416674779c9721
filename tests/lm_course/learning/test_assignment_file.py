"""assignment.toml is read, or refused with the key that is wrong."""

from pathlib import Path

import pytest

from lm_course.learning.assignment_file import assignment_ids, load_assignment, read_toml


def test_the_tasks_in_order(toy_course) -> None:
    assignment = load_assignment("t1", toy_course.root)
    assert [task.id for task in assignment.tasks] == ["t1.1", "t1.2", "t1.3", "t1.4"]
    assert assignment.points == 10
    assert assignment.modules == ["counting", "words"]
    assert assignment.task("t1.3").functions == ["largest"]
    assert assignment_ids(toy_course.root) == ["t1"]


def test_unknown_ids_are_one_line(toy_course) -> None:
    with pytest.raises(ValueError, match=r"^t9: no such assignment; available: t1$"):
        load_assignment("t9", toy_course.root)
    with pytest.raises(ValueError, match=r"^t1\.9: no such task; t1 has t1\.1, t1\.2"):
        load_assignment("t1", toy_course.root).task("t1.9")


@pytest.mark.parametrize(
    ("find", "replace", "complaint"),
    [
        ("minutes = 5", "minutes = 5\nminute = 5", "unknown setting task.0.minute"),
        ("points = 4", "points = 0", "task.1.points"),
        ('id = "t1.2"', 'id = "t1.1"', "'t1.1' occurs twice"),
        ('id = "t1.2"', 'id = "t2.2"', "'t2.2': expected t1. and a number"),
        ('id = "t1"\n', 'id = "t7"\n', "expected t7."),
        ('questions = ["how_many"]\n', "", "t1.1 needs either functions or questions"),
        ('module = "words"\n', "", "t1.4: functions and module must be given together"),
        ('functions = ["largest"]', 'functions = ["count_letters"]', "belongs to two tasks"),
        ('["a", "b", "c"]', '["a"]', "hints"),
        ('section = "2-count"\n', "", "task.1.section is missing"),
    ],
)
def test_what_is_wrong_is_named(toy_course, find: str, replace: str, complaint: str) -> None:
    assert find in toy_course.ASSIGNMENT
    toy_course.write(
        "assignments/t1/assignment.toml", toy_course.ASSIGNMENT.replace(find, replace, 1)
    )
    with pytest.raises(ValueError) as caught:
        load_assignment("t1", toy_course.root)
    assert complaint in str(caught.value)
    assert "assignment.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_id_is_the_folder_s(toy_course) -> None:
    toy_course.write("assignments/t7/assignment.toml", toy_course.ASSIGNMENT)
    with pytest.raises(ValueError, match="the folder is t7"):
        load_assignment("t7", toy_course.root)


def test_a_toml_file_that_people_edit(tmp_path: Path) -> None:
    path = tmp_path / "answers.toml"
    with pytest.raises(ValueError, match=r"answers\.toml: the answers does not exist"):
        read_toml(path, "the answers")
    path.write_text("a = 1\nb = = 2\n")
    with pytest.raises(ValueError, match="line 2"):
        read_toml(path, "the answers")
