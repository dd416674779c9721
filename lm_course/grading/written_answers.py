"""answers.toml: the learner's answers to an assignment's written questions.

What this leaves out: what is right. Each check knows what it asked.
"""

from pathlib import Path

from lm_course.grading.check_outcome import GradedFailure, NotSubmitted, NotWritten
from lm_course.learning.assignment_file import Assignment, read_toml


class Answers:
    """The answers by key; read when the first is asked for, so that a broken file costs only the
    written questions.
    """

    def __init__(self, path: Path, shown_path: str) -> None:
        self._path = path
        self._name = shown_path  # in messages

    def __getitem__(self, key: str) -> object:
        """The value under `key`; the check is "not written" where it is missing or empty."""
        if not self._path.exists():
            raise NotSubmitted(f"{self._name} is missing")
        try:
            values = read_toml(self._path, "the file of answers")
        except ValueError as error:
            raise GradedFailure(str(error)) from None
        value = values.get(key, "")
        if value == "":
            raise NotWritten(f"no answer yet: write {key} = ... in {self._name}")
        return value

    def number(self, key: str) -> float:
        """The answer as a number: 12, 1.5, "12" and "1,200" are numbers."""
        value = self[key]
        if isinstance(value, str):
            try:
                return float(value.replace(",", "").replace("_", ""))
            except ValueError:
                raise GradedFailure(f"{key}: expected a number, got {value!r}") from None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise GradedFailure(f"{key}: expected a number, got {value!r}")
        return float(value)

    def text(self, key: str) -> str:
        """The answer in lower case, with single spaces and no full stop at its end."""
        return " ".join(str(self[key]).lower().split()).rstrip(".")


def answers_template(assignment: Assignment) -> str:
    """The file as `lm start` writes it: every key, with nothing in it."""
    lines = [
        f"# Your answers to the written questions of {assignment.id}.",
        f"# The questions are in assignments/{assignment.id}/README.md.",
        '# A number may stand with quotes or without: 12 and "12" are the same. Text needs quotes.',
    ]
    for task in assignment.tasks:
        if task.questions:
            lines += ["", f"# {task.id} {task.title}: README.md#{task.section}"]
            lines += [f'{key} = ""' for key in task.questions]
    return "\n".join(lines) + "\n"
