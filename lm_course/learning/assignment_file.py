"""assignment.toml: the one list of an assignment's tasks, with points, hints and handout sections.

The grader, the stub cutter, the mutants and the `lm` commands all read this list and nothing else,
so a task is described in one place. What this leaves out: the wording of the questions (README.md)
and the correct answers (the checks).
"""

import re
import tomllib
from pathlib import Path
from typing import Self

import pydantic

from lm_core.settings import Settings, load_settings
from lm_core.user_error import UserError
from lm_course.locations import ASSIGNMENTS, PROJECT, shipped

FILE_NAME = "assignment.toml"


class Task(Settings):
    """One task: functions to write, or questions to answer.

    Attributes:
        id: "a1.3": the assignment's id, a point, a number.
        title: in tables.
        module: of the assignment's package; empty for a written question.
        functions: "function", "Class.method".
        questions: keys of answers.toml.
        points: of 100 for the assignment.
        minutes: that a learner will need, roughly.
        forbidden_calls: PyTorch's functions that the learner's code may not call in this task's
            checks: parts of their names, such as "scaled_dot_product_attention".
        section: anchor of README.md.
        hints: a nudge, the idea, the code.
    """

    id: str
    title: str
    module: str = ""
    functions: list[str] = pydantic.Field(default=[])
    questions: list[str] = pydantic.Field(default=[])
    points: int = pydantic.Field(gt=0)
    minutes: int = pydantic.Field(gt=0)
    forbidden_calls: list[str] = pydantic.Field(default=[])
    section: str
    hints: list[str] = pydantic.Field(min_length=3, max_length=3)

    @pydantic.model_validator(mode="after")
    def _functions_or_questions(self) -> Self:
        if bool(self.functions) == bool(self.questions):
            raise UserError(f"{self.id} needs either functions or questions, but not both")
        if bool(self.functions) != bool(self.module):
            raise UserError(f"{self.id}: functions and module must be given together")
        return self


class Assignment(Settings):
    """A whole assignment, with its tasks in the order in which a learner does them.

    Attributes:
        id: "a1".
        title: in tables.
        package: the stage that the learner writes.
        given: "module.name": names that stay in the stub although only the tasks' bodies use them.
        given_modules: modules and folders of the package that a graded run always takes from the
            reference, whatever the learner's folder holds.
        answer_modules: modules and folders without a task that hold answers to tasks; code under
            test may not use them.
        tasks: one for each `[[task]]`.
    """

    id: str
    title: str
    package: str
    given: list[str] = pydantic.Field(default=[])
    given_modules: list[str] = pydantic.Field(default=[])
    answer_modules: list[str] = pydantic.Field(default=[])
    tasks: list[Task] = pydantic.Field(alias="task", min_length=1)

    @pydantic.model_validator(mode="after")
    def _tasks_are_told_apart(self) -> Self:
        ids = [task.id for task in self.tasks]
        for task_id in ids:
            if not re.fullmatch(rf"{re.escape(self.id)}\.\d+", task_id):
                raise UserError(f"task id {task_id!r}: expected {self.id}. and a number")
            if ids.count(task_id) > 1:
                raise UserError(f"task id {task_id!r} occurs twice")
        written = [(task.module, name) for task in self.tasks for name in task.functions]
        asked = [("answers.toml", key) for task in self.tasks for key in task.questions]
        for name in self.given:
            if name.partition(".")[0] not in [task.module for task in self.tasks]:
                raise UserError(f"given: {name} is in no module that has a task")
        for place, name in written + asked:
            if (written + asked).count((place, name)) > 1:
                raise UserError(f"{name} of {place} belongs to two tasks")
        return self

    @property
    def points(self) -> int:
        return sum(task.points for task in self.tasks)

    @property
    def modules(self) -> list[str]:
        """The graded modules, in order of their first task."""
        return list(dict.fromkeys(task.module for task in self.tasks if task.module))

    def task(self, task_id: str) -> Task:
        """Return the task with this id; if there is none, raise ValueError with the list of ids."""
        for task in self.tasks:
            if task.id == task_id:
                return task
        known = ", ".join(task.id for task in self.tasks)
        raise UserError(f"{task_id}: no such task; {self.id} has {known}")


def assignment_ids(root: Path = PROJECT) -> list[str]:
    """Return the assignments of this project, sorted: a1, a2, ..."""
    return sorted(path.parent.name for path in shipped(ASSIGNMENTS, root).glob(f"*/{FILE_NAME}"))


def load_assignment(assignment_id: str, root: Path = PROJECT) -> Assignment:
    """Read assignments/<id>/assignment.toml.

    Raises:
        ValueError: there is no such assignment, or a key in its file is wrong.
    """
    known = assignment_ids(root)
    if assignment_id not in known:
        there = ", ".join(known) or "none yet"
        raise UserError(f"{assignment_id}: no such assignment; available: {there}")
    path = shipped(ASSIGNMENTS, root) / assignment_id / FILE_NAME
    assignment = load_settings(Assignment, path)
    if assignment.id != assignment_id:
        raise UserError(f'{path}: id is "{assignment.id}", but the folder is {assignment_id}')
    return assignment


def read_toml(path: Path, what: str) -> dict:
    """Read a TOML file that people edit; ValueError names the file and the line."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: {what} does not exist") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {what} is not valid TOML: {error}") from None
