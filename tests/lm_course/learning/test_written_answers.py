"""answers.toml: missing answers, answers of the wrong type, and a broken file."""

import tomllib
from pathlib import Path

import pytest

from lm_course.grading.check_outcome import GradedFailure, NotSubmitted, NotWritten
from lm_course.learning.assignment_file import load_assignment
from lm_course.learning.written_answers import Answers, answers_template


def answers(tmp_path: Path, text: str) -> Answers:
    path = tmp_path / "answers.toml"
    path.write_text(text)
    return Answers(path, "workspace/t1/answers.toml")


def test_answers(tmp_path: Path) -> None:
    given = answers(tmp_path, 'n = 3\nf = 1.5\nt = "1,200"\nw = "  The\\n Owl. "\nl = [1]\n')
    assert given["n"] == 3
    assert [given.number(key) for key in "nft"] == [3.0, 1.5, 1200.0]
    assert given.text("w") == "the owl"
    for key in "wl":
        with pytest.raises(GradedFailure, match=f"{key}: expected a number"):
            given.number(key)


@pytest.mark.parametrize("text", ['n = ""', ""])
def test_no_answer_yet(tmp_path: Path, text: str) -> None:
    with pytest.raises(NotWritten, match=r"write n = \.\.\. in workspace/t1/answers\.toml"):
        answers(tmp_path, text)["n"]


def test_no_file_and_a_broken_file(tmp_path: Path) -> None:
    with pytest.raises(NotSubmitted, match=r"workspace/t1/answers\.toml is missing"):
        Answers(tmp_path / "no.toml", "workspace/t1/answers.toml")["n"]
    with pytest.raises(GradedFailure, match="line 1"):
        answers(tmp_path, "n = = 3")["n"]


def test_the_template_asks_every_question_and_answers_none(toy_course) -> None:
    text = answers_template(load_assignment("t1", toy_course.root))
    assert tomllib.loads(text) == {"how_many": ""}
    assert "# t1.1 An answer (written): README.md#1-how-many" in text
    assert 'quotes or not: 12 and "12" are the same' in text
