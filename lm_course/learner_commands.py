"""The learner's commands: `lm start`, `lm check`, `lm hint` and `lm progress`.

What this leaves out: the work itself (starting, grading, learner_progress). `register` adds them to
the `lm` command.
"""

import importlib.util
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lm_core.user_error import UserError
from lm_course.assignment_file import (
    ASSIGNMENTS,
    PROJECT,
    WORKSPACE,
    Assignment,
    Task,
    assignment_ids,
    load_assignment,
)
from lm_course.grade_table import shown_points
from lm_course.learner_progress import (
    Progress,
    TaskProgress,
    progress_file,
    read_progress,
    write_progress,
)
from lm_course.plain_console import plain_console
from lm_course.starting import KEPT, StartedFile, start_assignment

WIDEST_TITLE = 44  # columns

AssignmentId = Annotated[str | None, typer.Argument(metavar="ASSIGNMENT", help="For example a1.")]
Ids = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="ID", help="An assignment, and tasks of it: a1, or a1.3 a1.4, or a1 3 4."
    ),
]
TaskId = Annotated[str | None, typer.Argument(metavar="TASK", help="For example a1.3.")]


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
        typer.Option("--force", help="Put fresh stubs in place of your files, kept as .bak-1."),
    ] = False,
) -> None:
    """Put an assignment's stubs into workspace/; what you wrote there stays."""
    found = _assignment(assignment or _nothing_given("start", "begins with an assignment"))
    files = start_assignment(found, PROJECT, force)
    minutes = sum(task.minutes for task in found.tasks)
    console = plain_console()
    console.print(f"{found.id}: {found.title}", style="bold")
    size = f"{len(found.tasks)} tasks, {found.points} points, about {_duration(minutes)}"
    console.print(f"{size}\n")
    longest = max(len(_name(file.path)) for file in files)
    for file in files:
        console.print(_file_line(file, longest))
    if any(file.what_happened == KEPT for file in files):
        console.print("\nYour files stay as they are; --force starts them anew, with a backup.")
    _print_next_step(console, found, read_progress(progress_file(PROJECT)))


def check(
    ids: Ids = None,
    implementation: Annotated[
        str | None,
        typer.Option("--impl", metavar="FOLDER", help="reference, workspace or another folder."),
    ] = None,
) -> None:
    """Check an assignment, or some tasks of it, and say what to fix first."""
    what = "checks an assignment, or a task of it"
    folder, tasks = _assignment_and_tasks(ids or [_nothing_given("check", what)])
    if importlib.util.find_spec("pytest") is None:
        raise UserError("pytest is not installed; `make setup` installs it")
    command = [sys.executable, "-m", "pytest", f"{ASSIGNMENTS}/{folder}"]
    command += [f"--task={task}" for task in tasks]
    if implementation is not None:
        if implementation not in ("reference", WORKSPACE):
            implementation = str(Path(implementation).absolute())
        command.append(f"--impl={implementation}")
    sys.exit(_run_to_its_end(command))


def _run_to_its_end(command: list[str]) -> int:
    """The exit status of a command. Ctrl-C reaches it too: let it end by itself, and report 130."""
    interrupted = False

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True

    process = subprocess.Popen(command, cwd=PROJECT)
    before = signal.signal(signal.SIGINT, remember)
    try:
        status = process.wait()
    finally:
        signal.signal(signal.SIGINT, before)
    return 130 if interrupted else status


def hint(
    task: TaskId = None,
    again: Annotated[
        bool, typer.Option("--again", help="Show the hints that you have read, and no new one.")
    ] = False,
) -> None:
    """Give the next of a task's three hints: a nudge, the idea, the code in words."""
    found = _task(task or _nothing_given("hint", "is about a task"))
    path = progress_file(PROJECT)
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
    handout = f"{ASSIGNMENTS}/{task.id.rpartition('.')[0]}/README.md#{task.section}"
    console.print()
    if number == 0:
        console.print(f"No hint read yet: lm hint {task.id}")
    elif number == len(task.hints):
        earlier = "" if again else f" (all three: lm hint {task.id} --again)"
        console.print(f"That was the last hint{earlier}. The handout: {handout}")
    else:
        console.print(f"The next one: lm hint {task.id}. The handout: {handout}")


def progress(assignment: AssignmentId = None) -> None:
    """Show what you have passed so far, over all assignments or in one."""
    ids = [assignment] if assignment else assignment_ids(PROJECT)
    if not ids:
        raise UserError(f"{ASSIGNMENTS}/ holds no assignment")
    assignments = [_assignment(name) for name in ids]
    record = read_progress(progress_file(PROJECT))
    console = plain_console()
    for each in assignments:
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
    # Only the titles give way where the terminal is narrow.
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
    """What to read, write and run next: for the first task that is not done."""
    waiting = [task for task in assignment.tasks if not record.of(task.id).done]
    if not waiting:
        console.print(f"\nAll tasks of {assignment.id} are done.")
        return
    task = waiting[0]
    if task.functions:
        file = f"{WORKSPACE}/{assignment.package}/{task.module}.py"
        work = f"{', '.join(task.functions)} in {file}"
    else:
        work = f"your answers in {WORKSPACE}/{assignment.id}/answers.toml"
    console.print(f"\nNext: {task.id} {task.title}, about {_duration(task.minutes)}", style="bold")
    console.print(f"  read    {ASSIGNMENTS}/{assignment.id}/README.md#{task.section}")
    console.print(f"  write   {work}")
    console.print(f"  check   lm check {task.id}")
    console.print(f"  stuck?  lm hint {task.id}")


def _name(path: Path) -> str:
    return path.relative_to(PROJECT).as_posix()


def _file_line(file: StartedFile, longest: int) -> Text:
    line = Text(f"  {file.what_happened:<12}{_name(file.path):<{longest}}")
    if file.backup:
        line.append(f"  (yours: {file.backup.name})")
    elif file.what_happened != KEPT:
        what = "answer" if file.path.suffix == ".toml" else "function"
        line.append(f"  {file.to_do:>2} {what}{'s' if file.to_do > 1 else ''}", style="dim")
    return line


def _assignment_and_tasks(ids: list[str]) -> tuple[str, list[str]]:
    """(assignment id, task ids) from "a1", "a1 a1.3", "a1.3" or "a1 3"; ValueError for unknown
    ones.
    """
    first, *others = ids
    ids = [first, *(f"{first}.{each}" if each.isdecimal() else each for each in others)]
    names = list(dict.fromkeys(each.partition(".")[0] for each in ids))
    if len(names) > 1:
        raise UserError(f"{' and '.join(names)}: check one assignment at a time")
    assignment = _assignment(names[0], ids[0])
    tasks = [each for each in ids if "." in each]
    return assignment.id, [assignment.task(task_id).id for task_id in tasks]


def _task(task_id: str) -> Task:
    name, point, _ = task_id.partition(".")
    assignment = _assignment(name, task_id)
    if not point:
        raise UserError(f"{task_id}: expected a task, for example {assignment.tasks[0].id}")
    return assignment.task(task_id)


def _assignment(name: str, given: str = "") -> Assignment:
    """The assignment of this id; the ValueError for a near miss, "1.2" or "A1.2", names the right
    one. `given`: the id in which the name stood, if there was more of it.
    """
    given = given or name
    names = assignment_ids(PROJECT)
    if name not in names:
        for known in names:
            if name.lower() in (known, known.lstrip("abcdefghijklmnopqrstuvwxyz")):
                raise UserError(f"{given}: did you mean {known}{given[len(name) :]}?")
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
    further = "" if command == "start" else " (lm progress says which task is next)"
    raise UserError(f"lm {command} {what}: {forms[command]}{further}")


def _duration(minutes: int) -> str:
    if minutes < 60:
        return f"{minutes} minutes"
    halves = round(minutes / 30)
    return f"{halves / 2:g} hours"
