"""workspace/progress.toml: the best score of each task, when it was reached, and the hints taken;
of each drill, the wrong answers and the day it was solved.

It is a small text file with one line per task, sorted, so that git shows what changed. What this
leaves out: a history; git keeps one.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

from lm_core.artifact_paths import atomic_file
from lm_core.user_error import UserError
from lm_course.learning.assignment_file import read_toml
from lm_course.locations import WORKSPACE

FILE_NAME = "progress.toml"
DRILLS = "drills"  # the table of the file that has them
HEADER = """\
# Written by `lm check`, `lm hint` and `lm drill`: the best result of each task, when it was
# reached, and how many of its three hints have been read. Commit it if you like.
"""


@dataclass(frozen=True)
class TaskProgress:
    """The best result of one task; `reached` is None until a check has passed."""

    passed: int = 0
    checks: int = 0
    reached: date | None = None
    hints: int = 0

    @property
    def share(self) -> float:
        return self.passed / self.checks if self.checks else 0.0

    @property
    def done(self) -> bool:
        return self.checks > 0 and self.passed == self.checks


@dataclass(frozen=True)
class DrillProgress:
    """Wrong answers to a drill, and the day of the right one; `solved` is None until then."""

    wrong: int = 0
    solved: date | None = None


@dataclass
class Progress:
    """All tasks by id and all drills by "a2/name", if the learner has touched them."""

    tasks: dict[str, TaskProgress] = field(default_factory=dict)
    drills: dict[str, DrillProgress] = field(default_factory=dict)

    def of(self, task_id: str) -> TaskProgress:
        return self.tasks.get(task_id, TaskProgress())

    def record(self, task_id: str, passed: int, checks: int, today: date) -> bool:
        """Keep a result if it is better than the best so far; return True if it is."""
        before = self.of(task_id)
        result = replace(before, passed=passed, checks=checks, reached=today)
        if result.share <= before.share:
            return False
        self.tasks[task_id] = result
        return True

    def take_hint(self, task_id: str, number: int) -> None:
        """Remember that hints up to `number` have been read."""
        before = self.of(task_id)
        self.tasks[task_id] = replace(before, hints=max(number, before.hints))

    def of_drill(self, key: str) -> DrillProgress:
        return self.drills.get(key, DrillProgress())

    def answer_drill(self, key: str, solved: date | None) -> None:
        """Count a wrong answer (None), or remember the day of the right one. After that day,
        nothing is counted.
        """
        before = self.of_drill(key)
        if before.solved is None:
            wrong = before.wrong + (solved is None)
            self.drills[key] = DrillProgress(wrong, solved)


def progress_file(home: Path) -> Path:
    return home / WORKSPACE / FILE_NAME


def read_progress(path: Path) -> Progress:
    """Read the file; a missing file means no progress.

    Raises:
        ValueError: it is not what `write_progress` writes; the message names the file and the line.
    """
    if not path.exists():
        return Progress()
    values = read_toml(path, "the record of your progress")
    drills = values.pop(DRILLS, {})
    if not isinstance(drills, dict):
        raise _not_ours(path, DRILLS, drills)
    return Progress(
        {task_id: _task(path, task_id, row) for task_id, row in values.items()},
        {key: _drill(path, key, row) for key, row in drills.items()},
    )


def _task(path: Path, task_id: str, row: Any) -> TaskProgress:
    try:
        task = TaskProgress(**row)
        numbers = (task.passed, task.checks, task.hints)
        whole = all(isinstance(number, int) and number >= 0 for number in numbers)
        if not whole or task.passed > task.checks or not isinstance(task.reached, date | None):
            raise TypeError
    except TypeError:
        raise _not_ours(path, task_id, row) from None
    return task


def _drill(path: Path, key: str, row: Any) -> DrillProgress:
    try:
        drill = DrillProgress(**row)
        if not isinstance(drill.wrong, int) or not isinstance(drill.solved, date | None):
            raise TypeError
    except TypeError:
        raise _not_ours(path, key, row) from None
    return drill


def _not_ours(path: Path, key: str, row: Any) -> UserError:
    return UserError(f"{path}: {key} = {row!r} is not a line that lm wrote; remove that line")


def write_progress(path: Path, progress: Progress) -> None:
    """Write the file atomically."""
    lines = [HEADER]
    for task_id, task in sorted(progress.tasks.items(), key=lambda item: _order(item[0])):
        cells = [f"passed = {task.passed}", f"checks = {task.checks}"]
        cells += [f"reached = {task.reached.isoformat()}"] if task.reached else []
        cells += [f"hints = {task.hints}"] if task.hints else []
        lines.append(f'"{task_id}" = {{ {", ".join(cells)} }}\n')
    if progress.drills:
        lines.append(f"\n[{DRILLS}]  # the wrong answers, and the day of the right one\n")
    for key, drill in sorted(progress.drills.items()):
        cells = [f"wrong = {drill.wrong}"]
        cells += [f"solved = {drill.solved.isoformat()}"] if drill.solved else []
        lines.append(f'"{key}" = {{ {", ".join(cells)} }}\n')
    with atomic_file(path, "w") as file:
        file.write("".join(lines))


def record_results(path: Path, results: Iterable[tuple[str, int, int]]) -> str:
    """Keep the results that are better than the best so far.

    Args:
        path: the record.
        results: the id of a task, the number of its checks that passed, and of all its checks.

    Returns why nothing was recorded, or "".
    """
    try:
        progress = read_progress(path)
    except ValueError as error:
        return str(error)
    better = [progress.record(*result, date.today()) for result in results]
    if any(better):
        write_progress(path, progress)
    return ""


def _order(task_id: str) -> tuple[str, int]:
    """Return a sort key that puts a1.2 before a1.10."""
    assignment, _, number = task_id.rpartition(".")
    return assignment, int(number) if number.isdigit() else 0
