"""Checks share the points; the table fits its columns; the first thing to fix comes first."""

import pytest

from lm_course.grading.check_outcome import (
    FAILING,
    NOT_SUBMITTED,
    NOT_WRITTEN,
    PASSED,
    SKIPPED,
    Outcome,
)
from lm_course.grading.score_table import (
    NO_CHECKS,
    NOT_RUN,
    AssignmentGrade,
    CheckResult,
    TaskGrade,
    advice_lines,
    shown_points,
    table_lines,
)
from lm_course.learning.assignment_file import Assignment, load_assignment


@pytest.fixture
def assignment(toy_course) -> Assignment:
    return load_assignment("t1", toy_course.root)


def result(status: str, message: str = "", **more: object) -> CheckResult:
    return CheckResult(f"test_{status}", Outcome(status, message, **more))


def graded(assignment: Assignment, *statuses: list[str]) -> AssignmentGrade:
    """Return a grade from one list of statuses per task."""
    tasks = [
        TaskGrade(task, [result(status, f"{task.id} is {status}") for status in of_task])
        for task, of_task in zip(assignment.tasks, statuses, strict=True)
    ]
    return AssignmentGrade(assignment, tasks)


@pytest.mark.parametrize(
    ("statuses", "status", "points"),
    [
        ([PASSED, PASSED], PASSED, 2),
        ([PASSED, FAILING], FAILING, 1),
        ([FAILING, NOT_WRITTEN], FAILING, 0),
        ([PASSED, NOT_WRITTEN], NOT_WRITTEN, 1),
        ([NOT_WRITTEN, NOT_WRITTEN], NOT_WRITTEN, 0),
        ([NOT_SUBMITTED], NOT_SUBMITTED, 0),
        ([PASSED, SKIPPED], PASSED, 2),
        ([SKIPPED], SKIPPED, 0),
        ([], NO_CHECKS, 0),
    ],
)
def test_status_and_points(
    assignment: Assignment, statuses: list[str], status: str, points: float
) -> None:
    grade = graded(assignment, statuses, [PASSED], [PASSED], [PASSED])
    assert grade.tasks[0].status == status
    assert grade.tasks[0].points == points
    assert grade.points == points + 8
    assert grade.possible == (8 if status == SKIPPED else 10)


@pytest.mark.parametrize(
    ("points", "text"), [(5, "5"), (2.5, "2.5"), (0, "0"), (99.97, "99.9"), (0.1 + 0.2, "0.3")]
)
def test_points_are_never_rounded_up(points: float, text: str) -> None:
    assert shown_points(points) == text


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_table_fits(assignment: Assignment, width: int) -> None:
    grade = graded(assignment, [PASSED], [PASSED, FAILING], [NOT_WRITTEN], [NOT_SUBMITTED])
    lines = [text for text, _ in table_lines(grade, width)]
    assert max(map(len, lines)) <= width
    title = "Count letters, one by one, with a title that is too long for a narrow terminal"
    assert (title in lines[2]) == (width == 120)
    assert ("…" in lines[2]) == (width < 120)
    assert [line.split()[0] for line in lines if line[0] != "-"] == [
        *("task", "t1.1", "t1.2", "t1.3", "t1.4", "total"),
    ]
    assert lines[2].split()[-3:] == ["2/4", "1/2", "failing"]
    assert lines[-1].split() == ["total", "4/10", "2/5", "40", "%"]
    columns = {
        line.index(cell) + len(cell) for line, cell in zip(lines[1:3], ("1/1", "1/2"), strict=True)
    }
    assert len(columns) == 1, "numbers end in one column"


def test_checks_that_did_not_run_are_missing(assignment: Assignment) -> None:
    tasks = [
        TaskGrade(assignment.tasks[0], [result(PASSED)], collected=1),
        TaskGrade(assignment.tasks[1], [result(PASSED)], collected=4),
        TaskGrade(assignment.tasks[2], [], collected=2),
        TaskGrade(assignment.tasks[3], [result(FAILING)], collected=2),
    ]
    assert [task.status for task in tasks] == [PASSED, NOT_RUN, NOT_RUN, FAILING]
    assert [task.points for task in tasks] == [2, 1, 0, 0]
    lines = table_lines(AssignmentGrade(assignment, tasks), 80)
    assert lines[-1][0].split() == ["total", "3/10", "2/9", "30", "%"]


def test_nothing_but_everything_is_100_per_cent(assignment: Assignment) -> None:
    almost = graded(assignment, [PASSED], [PASSED] * 9999 + [FAILING], [PASSED], [PASSED])
    assert table_lines(almost, 80)[-1][0].endswith("99.9 %")
    whole = graded(assignment, [PASSED], [PASSED], [PASSED], [PASSED])
    assert table_lines(whole, 80)[-1][0].endswith("100 %")


def test_a_task_without_checks_is_named_and_is_not_100_per_cent(assignment: Assignment) -> None:
    one = AssignmentGrade(assignment, [TaskGrade(assignment.tasks[1])])
    assert table_lines(one, 80)[-1][0].split() == ["total", "0/4", "0/0", "0", "%"]
    assert advice_lines(one, 120, some_tasks=True)[0][0].endswith(
        ": the suite has no checks for it"
    )
    others = graded(assignment, [PASSED], [], [PASSED], [PASSED])
    assert table_lines(others, 80)[-1][0].split() == ["total", "6/10", "3/3", "60", "%"]
    assert advice_lines(others, 120)[0][0].endswith(": the suite has no checks for it")


def test_a_mistake_comes_before_what_is_still_to_do(assignment: Assignment) -> None:
    grade = graded(assignment, [NOT_WRITTEN], [PASSED], [NOT_WRITTEN, FAILING], [FAILING])
    lines = [text for text, _ in advice_lines(grade, 80)]
    assert lines[0] == "Fix first: t1.3 The largest"
    assert lines[1] == "  t1.3 is failing"
    assert "  check test_failing" in lines
    assert "  read  assignments/t1/README.md#3-largest" in lines
    assert "  hint  lm hint t1.3" in lines
    to_do = graded(assignment, [PASSED], [NOT_WRITTEN], [NOT_WRITTEN], [NOT_SUBMITTED])
    assert advice_lines(to_do, 120)[0][0].startswith("Next: t1.2 Count letters")


def test_when_all_is_well(assignment: Assignment) -> None:
    grade = graded(assignment, [PASSED], [PASSED], [PASSED], [PASSED])
    assert advice_lines(grade, 80) == [("All of t1 passes.", "green")]
    part = AssignmentGrade(assignment, grade.tasks[:2])
    (line,) = advice_lines(part, 80, some_tasks=True)
    assert (
        line[0] == "t1.1, t1.2 pass. For the next task: lm progress t1. "
        "For the whole assignment: lm check t1"
    )


@pytest.mark.parametrize("width", [60, 80, 120])
def test_long_messages_wrap_and_output_is_cut(assignment: Assignment, width: int) -> None:
    message = "word " * 40 + "\n  expected  " + "x" * 300
    outcome = Outcome(FAILING, message, ("work/x.py:3 in f\n  return " + "y + " * 40 + "1",))
    printed = "\n".join(f"line {number}\x1b[2J" for number in range(30))
    grade = graded(assignment, [FAILING], [], [], [])
    grade.tasks[0].results[0] = CheckResult("test_x", outcome, printed)
    lines = [text for text, _ in advice_lines(grade, width)]
    assert max(map(len, lines)) <= min(width, 100)
    assert "  at    work/x.py:3 in f" in lines
    assert "  Your code printed (18 lines above these):" in lines
    assert next(line for line in lines if "| line" in line) == "  | line 18\\x1b[2J"


def test_json(assignment: Assignment) -> None:
    grade = graded(assignment, [PASSED], [PASSED, FAILING], [NOT_WRITTEN], [PASSED])
    values = grade.as_json()
    assert (values["id"], values["points"], values["possible"]) == ("t1", 5.0, 10)
    assert values["tasks"][1]["problems"] == [
        {"check": "test_failing", "status": FAILING, "message": "t1.2 is failing", "where": []}
    ]
