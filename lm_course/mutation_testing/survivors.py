"""survivors.toml: the generated mistakes that no check can catch, each with its reason.

Most are equivalent mutants: they do what the reference does. Each is named by its function, its
operator and its text, so the list stays right when lines move. What this leaves out: planted
mistakes, which must all be caught.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import pydantic

from lm_core.settings import Settings, load_settings
from lm_core.user_error import UserError
from lm_course.learning.assignment_file import Assignment
from lm_course.locations import ASSIGNMENTS, PROJECT
from lm_course.mutation_testing.generated_mutants import GeneratedMutant

FILE_NAME = "survivors.toml"


class Survivor(Settings):
    """One generated mistake that survives.

    Attributes:
        module: the graded module.
        function: "function" or "Class.method".
        operator: of mutation_operators.
        original: the lines that it changes, without the indentation of the first.
        changed: the same lines with the mistake.
        reason: why no check can catch it.
    """

    module: str
    function: str
    operator: str
    original: str
    changed: str
    reason: str = pydantic.Field(min_length=10)

    @property
    def key(self) -> tuple[str, str, str, str, str]:
        return self.module, self.function, self.operator, self.original, self.changed


class SurvivorFile(Settings):
    """survivors.toml.

    Attributes:
        survivors: one for each `[[survivor]]`.
    """

    survivors: list[Survivor] = pydantic.Field(alias="survivor", default=[])


Key = tuple[str, str, str, str, str]


def load_survivors(
    assignment: Assignment, generated: Iterable[GeneratedMutant], root: Path = PROJECT
) -> Mapping[Key, Survivor]:
    """Return the key of each survivor that is listed -> its row; none if there is no file.

    Args:
        assignment: its folder has the file.
        generated: the mutants that are graded.
        root: the project.

    Raises:
        ValueError: a row lacks its reason, is listed twice, or names no mutant that is generated.
    """
    path = root / ASSIGNMENTS / assignment.id / FILE_NAME
    if not path.is_file():
        return {}
    known = {mutant.key for mutant in generated}
    rows: dict[Key, Survivor] = {}
    for row in load_settings(SurvivorFile, path).survivors:
        if row.key not in known:
            raise UserError(
                f"{path}: {row.function}, {row.operator}, `{row.changed}`: no such mutant is "
                "generated any more; remove it"
            )
        if row.key in rows:
            raise UserError(f"{path}: {row.function}, `{row.changed}`: listed twice; remove one")
        rows[row.key] = row
    return rows
