"""Planted mistakes: each must cost points in the task that is meant to catch it.

assignments/a1/mutants.toml lists them. A suite that misses a planted mistake would also miss a
learner's. What this leaves out: grading them (mutant_runs), and mistakes that nobody thought of
(generated_mutants).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import pydantic

from lm_core.settings import Settings, load_settings
from lm_core.user_error import UserError
from lm_course.learning.assignment_file import Assignment
from lm_course.locations import ASSIGNMENTS, PROJECT

FILE_NAME = "mutants.toml"


class Mutant(Settings):
    """One mistake: `find`, which occurs once in the module, becomes `replace`.

    Attributes:
        name: in the table that is printed.
        task: the task that must catch it.
        check: the check of that task that is run first, because it should catch it; it saves the
            time of the others. Empty: all, in order.
        module: the graded module to change.
        find: text of the module that is replaced.
        replace: the text with the mistake.
        why: the reason why it is wrong.
    """

    name: str
    task: str
    check: str = ""
    module: str
    find: str = pydantic.Field(min_length=1)
    replace: str
    why: str

    @pydantic.model_validator(mode="after")
    def _changes_something(self) -> Self:
        if self.find == self.replace:
            raise UserError(f"{self.name}: find and replace are equal")
        return self

    @property
    def tasks(self) -> tuple[str, ...]:
        return (self.task,)

    def planted_in(self, source: str) -> str:
        """Return the module's text with the mistake in it; ValueError if it has no such place."""
        times = source.count(self.find)
        if times != 1:
            raise UserError(
                f"`find` occurs {times} times in {self.module}.py, expected once: {self.find!r}"
            )
        return source.replace(self.find, self.replace)


class MutantFile(Settings):
    """mutants.toml.

    Attributes:
        mutants: one for each `[[mutant]]`.
    """

    mutants: list[Mutant] = pydantic.Field(alias="mutant", min_length=1)


def load_mutants(assignment: Assignment, root: Path = PROJECT) -> list[Mutant]:
    """Read the mutants of an assignment.

    Raises:
        ValueError: `find` does not occur exactly once, the result is not Python, or the module or
            the task does not exist; the message names the mutant.
    """
    path = root / ASSIGNMENTS / assignment.id / FILE_NAME
    if not path.is_file():
        raise UserError(f"{path}: no such file; it should list the mutants of {assignment.id}")
    mutants = load_settings(MutantFile, path).mutants
    check_mutants(mutants, assignment, path, root)
    return mutants


def check_mutants(
    mutants: Sequence[Mutant], assignment: Assignment, path: Path, root: Path = PROJECT
) -> None:
    """Raise ValueError for the first row of `path` that does not fit the assignment."""
    names = [mutant.name for mutant in mutants]
    for mutant in mutants:
        if names.count(mutant.name) > 1:
            raise UserError(f"{path}: {mutant.name}: two mutants have this name")
        try:
            assignment.task(mutant.task)
            if mutant.module not in assignment.modules:
                raise UserError(f"{mutant.module} is not one of {', '.join(assignment.modules)}")
            source = (root / assignment.package / f"{mutant.module}.py").read_text("utf-8")
            compile(mutant.planted_in(source), f"{mutant.module}.py", "exec")
        except (ValueError, SyntaxError) as error:
            raise UserError(f"{path}: {mutant.name}: {error}") from None
