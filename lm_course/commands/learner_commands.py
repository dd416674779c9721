"""The learner's commands: `lm start`, `lm check`, `lm hint` and `lm progress`.

What this leaves out: the work itself (starting, grading, learner_progress). `register` adds them to
the `lm` command.
"""

import importlib.util
import os
import sys
import textwrap
from pathlib import Path
from tempfile import gettempdir
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lm_core.user_error import UserError
from lm_course.commands.plain_console import plain_console
from lm_course.grading.code_under_test import ANSWERS
from lm_course.grading.score_table import shown_points
from lm_course.learning.assignment_file import Assignment, Task, assignment_ids, load_assignment
from lm_course.learning.learner_progress import (
    Progress,
    TaskProgress,
    progress_file,
    read_progress,
    write_progress,
)
from lm_course.learning.starting import KEPT, StartedFile, start_assignment
from lm_course.locations import (
    ASSIGNMENTS,
    PROJECT,
    WORKSPACE,
    handout,
    home_folder,
    shipped,
    shown,
)

WIDEST_TITLE = 44  # columns
GRADER = "lm_course.grading.pytest_plugin"  # a plugin of pytest
SUITE_OPTIONS = Path(__file__).parents[1] / "grading" / "graded_suite.ini"

AssignmentId = Annotated[
    str | None, typer.Argument(metavar="ASSIGNMENT", help="The assignment, such as a1.")
]
Ids = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="ID", help="An assignment or some of its tasks: a1, or a1.3 a1.4, or a1 3 4."
    ),
]
TaskIds = Annotated[
    list[str] | None, typer.Argument(metavar="TASK", help="One task: a1.3, or a1 3.")
]


def register(app: typer.Typer) -> None:
    """Add the four commands."""
    app.command("start")(start)
    app.command("check")(check)
    app.command("hint")(hint)
    app.command("progress")(progress)


def start(
    assignment: AssignmentId = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Replace your files with fresh stubs; yours are kept as .bak-1."
        ),
    ] = False,
) -> None:
    """Put an assignment's stubs into workspace/, and keep what you have written there."""
    found = _assignment(assignment or _nothing_given("start", "needs an assignment"))
    files = start_assignment(found, PROJECT, home_folder(PROJECT), force)
    minutes = sum(task.minutes for task in found.tasks)
    console = plain_console()
    console.print(f"{found.id}: {found.title}", style="bold")
    size = f"{len(found.tasks)} tasks, {found.points} points, about {_duration(minutes)}"
    console.print(f"{size}\n")
    longest = max(len(shown(file.path, PROJECT)) for file in files)
    for file in files:
        console.print(_file_line(file, longest))
    if any(file.what_happened == KEPT for file in files):
        console.print("\nYour files were kept; --force replaces them with stubs, after a backup.")
    _print_next_step(console, found, read_progress(progress_file(home_folder(PROJECT))))


def check(
    ids: Ids = None,
    implementation: Annotated[
        str | None,
        typer.Option(
            "--impl", metavar="FOLDER", help="The code to check: reference, workspace or a folder."
        ),
    ] = None,
    thorough: Annotated[
        bool,
        typer.Option(
            "--thorough", help="Draw ten times as many inputs; takes up to ten times as long."
        ),
    ] = False,
) -> None:
    """Check an assignment or some of its tasks, and say what to fix first."""
    what = "needs an assignment or a task"
    found, tasks = _assignment_and_tasks(ids or [_nothing_given("check", what)])
    if importlib.util.find_spec("pytest") is None:
        raise UserError("pytest is not installed; `pip install pytest` installs it")
    arguments = [f"--task={task.id}" for task in tasks]
    arguments += ["--thorough"] if thorough else []
    if implementation is not None:
        arguments.append(f"--impl={implementation}")
    else:
        _refuse_an_empty_workspace(found)
    sys.exit(run_suite(found.id, arguments))


def _refuse_an_empty_workspace(assignment: Assignment) -> None:
    """Raise UserError if there is no file of the learner's: there is nothing of theirs to check."""
    workspace = home_folder(PROJECT) / WORKSPACE
    if not any((workspace / name).is_dir() for name in (assignment.package, assignment.id)):
        raise UserError(
            f"{shown(workspace, PROJECT)}: it has no files for {assignment.id} yet; "
            f"`lm start {assignment.id}` writes the stubs (--impl reference checks the project's "
            "own code)"
        )


def run_suite(assignment_id: str, arguments: list[str]) -> int:
    """Run pytest in this process and return its exit status: the libraries that both need are
    loaded once, and plugins that happen to be installed are not loaded.
    """
    import pytest

    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    # Otherwise Hypothesis would keep its tables in the current folder.
    os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(Path(gettempdir()) / "hypothesis"))
    suite = shipped(ASSIGNMENTS, PROJECT) / assignment_id
    options = ["-c", str(SUITE_OPTIONS), f"--rootdir={PROJECT}", "-p", GRADER, str(suite)]
    status = pytest.main([*options, *arguments])
    return 130 if status == pytest.ExitCode.INTERRUPTED else int(status)


def hint(
    ids: TaskIds = None,
    again: Annotated[
        bool, typer.Option("--again", help="Show only the hints that you have already read.")
    ] = False,
) -> None:
    """Show the next of a task's three hints: a nudge, the idea, the code in words."""
    assignment, tasks = _assignment_and_tasks(ids or [_nothing_given("hint", "needs a task")])
    if len(tasks) != 1:
        example = assignment.tasks[0].id
        raise UserError(f"{' '.join(ids or [])}: expected one task, for example {example}")
    (found,) = tasks
    path = progress_file(home_folder(PROJECT))
    record = read_progress(path)
    read = record.of(found.id).hints
    console = plain_console()
    console.print(f"{found.id} {found.title}", style="bold")
    if again:
        numbers = list(range(1, read + 1))
    else:
        numbers = [min(read + 1, len(found.hints))]
        record.take_hint(found.id, numbers[-1])
        write_progress(path, record)
    for number in numbers:
        console.print(f"\nhint {number} of {len(found.hints)}", style="cyan")
        text = textwrap.indent(textwrap.fill(found.hints[number - 1], console.width - 2), "  ")
        console.print(text)
    _print_after_hint(console, found, max([*numbers, 0]), again)


def _print_after_hint(console: Console, task: Task, number: int, again: bool) -> None:
    read = handout(task.id.rpartition(".")[0], task.section, PROJECT)
    console.print()
    if number == 0:
        console.print(f"No hint read yet: lm hint {task.id}")
    elif number == len(task.hints):
        earlier = "" if again else f" (all three: lm hint {task.id} --again)"
        console.print(f"That was the last hint{earlier}.")
    else:
        console.print(f"Next hint: lm hint {task.id}")
    if number:
        console.print(f"The handout: {read}", soft_wrap=True)


def progress(assignment: AssignmentId = None) -> None:
    """Show what you have passed so far, in all assignments or in one."""
    ids = [assignment] if assignment else assignment_ids(PROJECT)
    if not ids:
        raise UserError(f"{shipped(ASSIGNMENTS, PROJECT)}: this folder has no assignments")
    assignments = [_assignment(name) for name in ids]
    record = read_progress(progress_file(home_folder(PROJECT)))
    console = plain_console()
    for number, each in enumerate(assignments):
        if number:
            console.print()
        _print_progress(console, each, record)
    for each in assignments:
        if any(not record.of(task.id).done for task in each.tasks):
            _print_next_step(console, each, record)
            return
    console.print("Everything is done.")


def _print_progress(console: Console, assignment: Assignment, record: Progress) -> None:
    points = sum(task.points * record.of(task.id).share for task in assignment.tasks)
    done = sum(record.of(task.id).done for task in assignment.tasks)
    console.print(f"{assignment.id}: {assignment.title}", style="bold")
    console.print(
        f"{done} of {len(assignment.tasks)} tasks, "
        f"{shown_points(points)} of {assignment.points} points\n"
    )
    rows = [_progress_cells(task, record.of(task.id)) for task in assignment.tasks]
    header = ("task", "title", "best", "reached", "hints")
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    # In a narrow terminal, only the titles are shortened.
    others = sum(widths) - widths[1] + 2 * (len(header) - 1)
    room = max(len("title"), console.width - others)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in header:
        table.add_column(
            name, no_wrap=True, justify="right" if name in ("best", "hints") else "left"
        )
    for task, (name, title, *figures) in zip(assignment.tasks, rows, strict=True):
        shown = Text(title)
        shown.truncate(min(room, WIDEST_TITLE), overflow="ellipsis")
        result = record.of(task.id)
        style = "green" if result.done else "yellow" if result.passed else ""
        table.add_row(name, shown, *figures, style=style)
    console.print(table)


def _progress_cells(task: Task, result: TaskProgress) -> tuple[str, ...]:
    best = f"{shown_points(task.points * result.share)}/{task.points}"
    reached = result.reached.isoformat() if result.reached else ""
    return task.id, task.title, best, reached, str(result.hints) if result.hints else ""


def _print_next_step(console: Console, assignment: Assignment, record: Progress) -> None:
    """Print what to read, write and run next, for the first task that is not done."""
    waiting = [task for task in assignment.tasks if not record.of(task.id).done]
    if not waiting:
        console.print(f"\nAll tasks of {assignment.id} are done.")
        return
    task = waiting[0]
    workspace = home_folder(PROJECT) / WORKSPACE
    if task.functions:
        file = shown(workspace / assignment.package / f"{task.module}.py", PROJECT)
        work = f"{', '.join(task.functions)} in {file}"
    else:
        work = f"your answers in {shown(workspace / assignment.id / ANSWERS, PROJECT)}"
    console.print(f"\nNext: {task.id} {task.title}, about {_duration(task.minutes)}", style="bold")
    console.print(f"  read    {handout(assignment.id, task.section, PROJECT)}", soft_wrap=True)
    console.print(f"  write   {work}")
    console.print(f"  check   lm check {task.id}")
    console.print(f"  stuck?  lm hint {task.id}")


def _file_line(file: StartedFile, longest: int) -> Text:
    line = Text(f"  {file.what_happened:<12}{shown(file.path, PROJECT):<{longest}}")
    if file.backup:
        line.append(f"  (yours: {file.backup.name})")
    elif file.what_happened != KEPT:
        what = "answer" if file.path.suffix == ".toml" else "function"
        line.append(f"  {file.to_do:>2} {what}{'s' if file.to_do > 1 else ''}", style="dim")
    return line


def _assignment_and_tasks(ids: list[str]) -> tuple[Assignment, list[Task]]:
    """Return the assignment and the tasks that are named, as in "a1", "a1 a1.3", "a1.3", "a1 3 4"
    or "a1.3 4". Raise ValueError for unknown ones.
    """
    first = ids[0]
    name = first.partition(".")[0]
    ids = [first, *(f"{name}.{each}" if each.isdecimal() else each for each in ids[1:])]
    assignment = _assignment(name, first)
    names = list(dict.fromkeys(each.partition(".")[0] for each in ids))
    if len(names) > 1 and set(names) <= set(assignment_ids(PROJECT)):
        raise UserError(f"{' and '.join(names)}: check one assignment at a time")
    for each in ids[1:]:
        if not each.startswith(f"{name}."):
            assignment.task(each)  # raises an error that lists the tasks
    tasks = dict.fromkeys(each for each in ids if "." in each)
    return assignment, [assignment.task(task_id) for task_id in tasks]


def _assignment(name: str, given: str = "") -> Assignment:
    """Return the assignment with this id. For a near miss such as "1.2" or "A1.2", raise ValueError
    with the right id. `given` is the whole id, if it is longer than the name.
    """
    given = given or name
    names = assignment_ids(PROJECT)
    if name not in names:
        for known in names:
            if name.lower() in (known, known.lstrip("abcdefghijklmnopqrstuvwxyz")):
                task = f" (name the assignment before the task: {names[0]} {given})"
                more = task if given.isdecimal() else ""
                raise UserError(f"{given}: did you mean {known}{given[len(name) :]}?{more}")
    return load_assignment(name, PROJECT)


def _nothing_given(command: str, what: str) -> NoReturn:
    known = assignment_ids(PROJECT)
    example = known[0] if known else "a1"
    task = "" if command == "start" else f"{example}.2"
    forms = {
        "start": f"lm start {example}",
        "hint": f"lm hint {task}",
        "check": f"lm check {example} for all of it, or lm check {task}",
    }
    further = "" if command == "start" else " (lm progress shows which task is next)"
    raise UserError(f"lm {command} {what}: {forms[command]}{further}")


def _duration(minutes: int) -> str:
    if minutes < 60:
        return f"{minutes} minutes"
    halves = round(minutes / 30)
    return "1 hour" if halves == 2 else f"{halves / 2:g} hours"
