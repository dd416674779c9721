"""answers.toml: the learner's answers to an assignment's written questions.

What this leaves out: the correct answers. Each check knows its own.
"""

from pathlib import Path

from lm_course.grading.check_outcome import GradedFailure, NotSubmitted, NotWritten
from lm_course.learning.assignment_file import Assignment, read_toml


class Answers:
    """The answers by key. The file is read at the first access, so that a broken file costs only
    the written questions.
    """

    def __init__(self, path: Path, shown_path: str) -> None:
        self._path = path
        self._name = shown_path  # in messages

    def __getitem__(self, key: str) -> object:
        """Return the value under `key`; the check is "not written" if it is missing or empty."""
        if not self._path.exists():
            raise NotSubmitted(f"{self._name} is missing")
        try:
            values = read_toml(self._path, "the answers file")
        except ValueError as error:
            raise GradedFailure(str(error)) from None
        value = values.get(key, "")
        if value == "":
            raise NotWritten(f"no answer yet: write {key} = ... in {self._name}")
        return value

    def number(self, key: str) -> float:
        """Return the answer as a number: 12, 1.5, "12" and "1,200" are numbers."""
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
        """Return the answer in lower case, with single spaces and no period at the end."""
        return " ".join(str(self[key]).lower().split()).rstrip(".")


def answers_template(assignment: Assignment) -> str:
    """Return the file as `lm start` writes it: every key, with an empty answer."""
    lines = [
        f"# Your answers to the written questions of {assignment.id}.",
        f"# The questions are in assignments/{assignment.id}/README.md.",
        '# Numbers may have quotes or not: 12 and "12" are the same. Text needs quotes.',
    ]
    for task in assignment.tasks:
        if task.questions:
            lines += ["", f"# {task.id} {task.title}: README.md#{task.section}"]
            lines += [f'{key} = ""' for key in task.questions]
    return "\n".join(lines) + "\n"
