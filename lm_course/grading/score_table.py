"""Turn outcomes into points, into the table that a learner reads, and into the first thing to fix.

A task's points are shared equally among its checks. What this leaves out: running anything, and
printing the lines (graded_session).
"""

import math
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lm_course.grading.check_outcome import (
    FAILING,
    NOT_SUBMITTED,
    NOT_WRITTEN,
    PASSED,
    SKIPPED,
    Outcome,
    printable,
)
from lm_course.learning.assignment_file import Assignment, Task
from lm_course.locations import PROJECT, handout

NO_CHECKS = "no checks"
NOT_RUN = "not run"  # Ctrl-C or -x came first
NOT_ALLOWED = "not allowed"  # a forbidden act: the task scores nothing
NARROWEST_TITLE = 12  # columns; a terminal narrower than about 55 wraps the table
WIDEST_TEXT = 100  # columns of a message, however wide the terminal is
MOST_OUTPUT_LINES = 12  # of what the learner's code printed
STYLES = {
    PASSED: "green",
    FAILING: "red",
    NOT_ALLOWED: "red",
    NOT_SUBMITTED: "yellow",
    NO_CHECKS: "red",
}

Line = tuple[str, str]  # text, and a colour's name or ""


@dataclass(frozen=True)
class CheckResult:
    """One test item: its name, its outcome, and the output of the learner's code."""

    name: str
    outcome: Outcome
    printed: str = ""


@dataclass
class TaskGrade:
    """The grade of one task; `collected` is the number of its checks, run or not."""

    task: Task
    results: list[CheckResult] = field(default_factory=list)
    collected: int = 0

    @property
    def counted(self) -> list[CheckResult]:
        return [result for result in self.results if result.outcome.status != SKIPPED]

    @property
    def forbidden(self) -> CheckResult | None:
        """The first check in which the code under test did what no solution may do."""
        return next((result for result in self.results if result.outcome.forbidden), None)

    @property
    def passed(self) -> int:
        """The number of checks that passed; none if there was a forbidden act."""
        if self.forbidden is not None:
            return 0
        return sum(result.outcome.status == PASSED for result in self.results)

    @property
    def checks(self) -> int:
        return len(self.counted) + max(0, self.collected - len(self.results))

    @property
    def points(self) -> float:
        return self.task.points * self.passed / max(1, self.checks)

    @property
    def possible(self) -> int:
        """The task's points, or 0 if this machine can run none of its checks."""
        return 0 if self.status == SKIPPED else self.task.points

    @property
    def status(self) -> str:
        """ "failing" if a check found a mistake, otherwise the reason why checks are missing."""
        if self.forbidden is not None:
            return NOT_ALLOWED
        kinds = {result.outcome.status for result in self.counted}
        for kind in (FAILING, NOT_SUBMITTED, NOT_WRITTEN):
            if kind in kinds:
                return kind
        if len(self.results) < self.collected:
            return NOT_RUN
        return PASSED if kinds else SKIPPED if self.results else NO_CHECKS

    @property
    def first_problem(self) -> CheckResult | None:
        """The first check with a forbidden act, or else the first that found a mistake, or else the
        first that found nothing to check.
        """
        if self.forbidden is not None:
            return self.forbidden
        problems = [result for result in self.counted if result.outcome.status != PASSED]
        wrong = [result for result in problems if result.outcome.status == FAILING]
        return next(iter(wrong + problems), None)


@dataclass
class AssignmentGrade:
    """The grade of one assignment, task by task in the handout's order."""

    assignment: Assignment
    tasks: list[TaskGrade]

    @property
    def points(self) -> float:
        return sum(task.points for task in self.tasks)

    @property
    def possible(self) -> int:
        return sum(task.possible for task in self.tasks)

    @property
    def first_to_fix(self) -> TaskGrade | None:
        """The first task with a mistake; if there is none, the first that is still to do."""
        by_urgency = ((NOT_ALLOWED,), (FAILING, NO_CHECKS), (NOT_WRITTEN, NOT_SUBMITTED, NOT_RUN))
        return next((t for kinds in by_urgency for t in self.tasks if t.status in kinds), None)

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.assignment.id,
            "title": self.assignment.title,
            "points": round(self.points, 4),
            "possible": self.possible,
            "tasks": [_task_as_json(task) for task in self.tasks],
        }


def _task_as_json(grade: TaskGrade) -> dict[str, Any]:
    return {
        "id": grade.task.id,
        "title": grade.task.title,
        "status": grade.status,
        "points": round(grade.points, 4),
        "possible": grade.possible,
        "passed": grade.passed,
        "checks": grade.checks,
        "forbidden": grade.forbidden.outcome.message if grade.forbidden else "",
        "problems": [
            {
                "check": result.name,
                "status": result.outcome.status,
                "message": result.outcome.message,
                "where": list(result.outcome.where),
            }
            for result in grade.results
            if result.outcome.status != PASSED
        ],
    }


def shown_points(points: float) -> str:
    """Return the points with at most one decimal, rounded down: 99.97 is not yet 100."""
    return f"{math.floor(points * 10 + 1e-6) / 10:g}"


def summary_lines(
    grade: AssignmentGrade,
    width: int,
    some_tasks: bool,
    stopped: bool,
    unasked: bool,
    root: Path = PROJECT,
) -> list[Line]:
    """Return the table, and then the first thing to fix.

    Args:
        grade: the result of the checks.
        width: the width of the terminal, in columns.
        some_tasks: whether only a part of the assignment was checked.
        stopped: whether the run was stopped early.
        unasked: whether the reference was checked because there is no workspace. Praise and next
            steps are only for code that somebody has written.
        root: the project, which has the handout.
    """
    lines = [("", ""), *table_lines(grade, width)]
    if stopped:
        return [*lines, ("stopped early: what did not run counts as missing", "")]
    if unasked and grade.first_to_fix is None:
        return [*lines, ("", "")]
    return [*lines, ("", ""), *advice_lines(grade, width, some_tasks, root)]


def table_lines(grade: AssignmentGrade, width: int) -> list[Line]:
    """Return the table, at most `width` columns wide; the titles are shortened to fit."""
    rows = [
        (
            task.task.id,
            task.task.title,
            f"{shown_points(task.points)}/{task.possible}",
            f"{task.passed}/{task.checks}",
            task.status,
        )
        for task in grade.tasks
    ]
    checks = sum(task.checks for task in grade.tasks)
    passed = sum(task.passed for task in grade.tasks)
    total = f"{shown_points(grade.points)}/{grade.possible}"
    share = f"{100 * grade.points / max(1, grade.possible):.1f}".rstrip("0").rstrip(".")
    everything_passed = all(task.status in (PASSED, SKIPPED) for task in grade.tasks)
    share = "100" if everything_passed else min(share, "99.9", key=float)
    header = ("task", "title", "points", "checks", "status")
    last = ("total", "", total, f"{passed}/{checks}", f"{share} %")
    everything = [header, *rows, last]
    widths = [max(len(row[column]) for row in everything) for column in range(5)]
    room = width - sum(widths) + widths[1] - 2 * 4
    widths[1] = max(NARROWEST_TITLE, min(widths[1], room))
    lines = [(_row(header, widths), "bold")]
    lines += [(_row(row, widths), STYLES.get(row[4], "")) for row in rows]
    rule = "-" * min(width, sum(widths) + 2 * 4)
    return [*lines, (rule, ""), (_row(last, widths), "bold")]


def _row(cells: tuple[str, ...], widths: list[int]) -> str:
    name, title, points, checks, status = cells
    if len(title) > widths[1]:
        title = title[: widths[1] - 1].rstrip() + "…"
    parts = [
        name.ljust(widths[0]),
        title.ljust(widths[1]),
        points.rjust(widths[2]),
        checks.rjust(widths[3]),
        status,
    ]
    return "  ".join(parts).rstrip()


def advice_lines(
    grade: AssignmentGrade, width: int, some_tasks: bool = False, root: Path = PROJECT
) -> list[Line]:
    """Return the first thing to fix: what is wrong, where, what to read and how to get a hint.

    Args:
        grade: the result of the checks.
        width: the width of the terminal, in columns.
        some_tasks: whether only a part of the assignment was checked.
        root: the project, which has the handout.
    """
    first = grade.first_to_fix
    if first is None and some_tasks:
        names = ", ".join(task.task.id for task in grade.tasks)
        passes = "passes" if len(grade.tasks) == 1 else "pass"
        assignment = grade.assignment.id
        further = f"lm progress {assignment}. For the whole assignment: lm check {assignment}"
        return [(f"{names} {passes}. For the next task: {further}", "green")]
    if first is None:
        return [(f"All of {grade.assignment.id} passes.", "green")]
    task, problem = first.task, first.first_problem
    if problem is None:
        what = "its checks did not run" if first.collected else "the suite has no checks for it"
        return [(f"{task.id} {task.title}: {what}", "red")]
    fix = problem.outcome.status == FAILING
    width = min(width, WIDEST_TEXT)
    title = f"{'Fix first' if fix else 'Next'}: {task.id} {task.title}"
    lines: list[Line] = [(part, "bold") for part in textwrap.wrap(title, width)]
    for number, line in enumerate(problem.outcome.message.splitlines()):
        lines += [(part, "red" if fix and number == 0 else "") for part in _wrapped(line, width)]
    lines += _labelled("at", "\n".join(problem.outcome.where), width)
    printed = printable(problem.printed).splitlines()
    if printed:
        shown = printed[-MOST_OUTPUT_LINES:]
        left_out = len(printed) - len(shown)
        label = f"Your code printed ({left_out:,} lines above these):" if left_out else ""
        lines.append((f"  {label or 'Your code printed:'}", ""))
        lines += [(part, "") for line in shown for part in _wrapped(f"| {line}", width)[:3]]
    lines.append(("", ""))
    lines += _labelled("check", problem.name, width)
    # Do not wrap the path: a path on two lines can be neither clicked nor copied.
    lines.append((f"  read  {handout(grade.assignment.id, task.section, root)}", ""))
    lines += _labelled("hint", f"lm hint {task.id}", width)
    return lines + _labelled("again", f"lm check {task.id}", width)


def _labelled(label: str, text: str, width: int) -> list[Line]:
    """Return `text` beside a label of six columns, wrapped with a hanging indent."""
    lines: list[Line] = []
    for line in text.splitlines():
        first, rest = f"  {label:<6}", " " * 8
        parts = textwrap.wrap(
            line, width, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False
        )
        lines += [(part, "") for part in parts]
        label = ""
    return lines


def _wrapped(line: str, width: int) -> list[str]:
    """Return a message line indented by two columns; continuation lines have four more."""
    indent = "  " + line[: len(line) - len(line.lstrip())]
    parts = textwrap.wrap(
        line.strip(),
        width,
        initial_indent=indent,
        subsequent_indent=indent + "    ",
        break_on_hyphens=False,
        replace_whitespace=False,
        drop_whitespace=True,
    )
    return parts or [""]
