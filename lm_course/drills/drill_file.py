"""drills.toml: mistakes that happened in public code, each as an edit of the reference.

A drill is a planted mistake, so its task must catch it. What this leaves out: mistakes that nobody
has reported.
"""

from pathlib import Path

import pydantic

from lm_core.settings import Settings, load_settings
from lm_core.user_error import UserError
from lm_course.learning.assignment_file import Assignment
from lm_course.locations import ASSIGNMENTS, PROJECT, shipped
from lm_course.mutation_testing.mutants import Mutant, check_mutants

FILE_NAME = "drills.toml"
ISSUE = r"[\w.-]+/[\w.-]+#[0-9]+"


class Drill(Mutant):
    """A planted mistake with its story. `why`, the explanation, is told after the right answer.

    Attributes:
        name: named after the symptom, since the learner sees it before the answer.
        symptom: what one notices; the question.
        happened_in: the report of the same mistake, as "owner/repository#number" on GitHub.
        happened: what it did there.
    """

    symptom: str = pydantic.Field(min_length=1)
    happened_in: str = pydantic.Field(pattern=rf"^{ISSUE}$")
    happened: str = pydantic.Field(min_length=1)

    @property
    def address(self) -> str:
        """The report's address; GitHub redirects it if the number is that of a pull request."""
        repository, _, number = self.happened_in.partition("#")
        return f"https://github.com/{repository}/issues/{number}"


class DrillFile(Settings):
    """drills.toml.

    Attributes:
        drills: one for each `[[drill]]`.
    """

    drills: list[Drill] = pydantic.Field(alias="drill", min_length=1)


def load_drills(assignment: Assignment, root: Path = PROJECT) -> list[Drill]:
    """Read the drills of an assignment, in the order of its file.

    Raises:
        ValueError: the assignment has none, or a row is wrong; the message names the drill.
    """
    path = shipped(ASSIGNMENTS, root) / assignment.id / FILE_NAME
    if not path.is_file():
        raise UserError(f"{assignment.id} has no drills")
    drills = load_settings(DrillFile, path).drills
    check_mutants(drills, assignment, path, root)
    return drills


def drill_named(name: str, drills: list[Drill], assignment: Assignment) -> Drill:
    """Return the drill of this name; if there is none, raise ValueError with the list of names."""
    for drill in drills:
        if drill.name == name:
            return drill
    known = ", ".join(drill.name for drill in drills)
    raise UserError(f"{name}: no such drill; {assignment.id} has {known}")
