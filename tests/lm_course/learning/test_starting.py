"""Starting an assignment: the files that are written, and what happens to existing ones."""

from pathlib import Path

from lm_course.learning.assignment_file import load_assignment
from lm_course.learning.starting import KEPT, REPLACED, UNTOUCHED, WROTE, start_assignment


def happenings(root: Path, force: bool = False) -> dict[str, str]:
    files = start_assignment(load_assignment("t1", root), root, root, force)
    return {file.path.name: file.what_happened for file in files}


def test_what_happens_to_each_file(toy_course) -> None:
    root = toy_course.root
    names = ["counting.py", "words.py", "answers.toml"]
    assert happenings(root) == dict.fromkeys(names, WROTE)
    assert happenings(root) == dict.fromkeys(names, UNTOUCHED)
    toy_course.write("workspace/toy_stage/words.py", "mine")
    (root / "workspace/t1/answers.toml").unlink()
    assert happenings(root) == dict(zip(names, [UNTOUCHED, KEPT, WROTE], strict=True))
    assert happenings(root, force=True)["words.py"] == REPLACED
    assert (root / "workspace/toy_stage/words.py.bak-1").read_text() == "mine"
    assert "raise NotImplementedError" in (root / "workspace/toy_stage/words.py").read_text()


def test_what_there_is_to_do(toy_course) -> None:
    root = toy_course.root
    files = start_assignment(load_assignment("t1", root), root, root, False)
    assert [file.to_do for file in files] == [2, 1, 1]


def test_an_assignment_without_questions_has_no_answers(toy_course) -> None:
    text = toy_course.ASSIGNMENT.replace(
        'questions = ["how_many"]', 'module = "counting"\nfunctions = ["_counter"]'
    )
    toy_course.write("assignments/t1/assignment.toml", text)
    assert "answers.toml" not in happenings(toy_course.root)
