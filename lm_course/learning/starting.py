"""`lm start`: put an assignment's stubs into the workspace, and never lose the learner's work.

What this leaves out: printing (learner_commands).
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from lm_core.artifact_paths import atomic_file
from lm_course.grading.code_under_test import ANSWERS
from lm_course.learning.assignment_file import Assignment
from lm_course.learning.stubs import cut_stubs
from lm_course.learning.written_answers import answers_template
from lm_course.locations import WORKSPACE

WROTE = "wrote"
KEPT = "kept"
UNTOUCHED = "as shipped"
REPLACED = "replaced"


@dataclass(frozen=True)
class StartedFile:
    """One file of the workspace, and what `lm start` did to it."""

    path: Path
    what_happened: str  # WROTE, KEPT, UNTOUCHED or REPLACED
    backup: Path | None = None  # where the learner's version went, if it was replaced
    to_do: int = 0  # functions or questions in it


def start_assignment(
    assignment: Assignment, root: Path, home: Path, force: bool
) -> list[StartedFile]:
    """Write every missing file; with `force`, also replace edited files after a backup.

    Args:
        assignment: the assignment whose stubs are written.
        root: the project.
        home: the folder that gets workspace/.
        force: replace edited files with stubs.

    Returns:
        The files in the order of the tasks.

    Raises:
        ValueError: assignment.toml names something that the reference lacks.
    """
    stubs = cut_stubs(assignment, root)
    workspace = home / WORKSPACE
    functions = {
        module: sum(len(task.functions) for task in assignment.tasks if task.module == module)
        for module in stubs
    }
    files = [
        _put(workspace / assignment.package / f"{module}.py", text, force, functions[module])
        for module, text in stubs.items()
    ]
    questions = sum(len(task.questions) for task in assignment.tasks)
    if questions:
        path = workspace / assignment.id / ANSWERS
        files.append(_put(path, answers_template(assignment), force, questions))
    return files


def _put(path: Path, text: str, force: bool, to_do: int) -> StartedFile:
    backup = None
    if path.exists():
        if path.read_bytes() == text.encode():
            return StartedFile(path, UNTOUCHED, to_do=to_do)
        if not force:
            return StartedFile(path, KEPT, to_do=to_do)
        backup = _free_name(path)
        shutil.copy2(path, backup)
    with atomic_file(path, "w") as file:
        file.write(text)
    return StartedFile(path, REPLACED if backup else WROTE, backup, to_do)


def _free_name(path: Path) -> Path:
    """Return x.py.bak-1, or the next number that is not taken."""
    number = 1
    while (backup := path.with_name(f"{path.name}.bak-{number}")).exists():
        number += 1
    return backup
