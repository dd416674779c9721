"""`lm drill`: a mistake that happened in public code, hidden in a copy of the reference.

What this leaves out: the drills (assignments/aN/drills.toml). `register` adds the command to `lm`.
"""

import sys
import textwrap
from datetime import date
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from lm_core.user_error import UserError
from lm_course.commands.learner_commands import run_suite
from lm_course.commands.plain_console import plain_console
from lm_course.drills.drill_file import Drill, drill_named, load_drills
from lm_course.drills.hidden_mistake import HiddenMistake, drill_folder, line_number, write_drill
from lm_course.learning.assignment_file import Assignment, assignment_ids, load_assignment
from lm_course.learning.learner_progress import (
    DrillProgress,
    Progress,
    progress_file,
    read_progress,
    write_progress,
)
from lm_course.locations import PROJECT, home_folder, shown

TRIES_BEFORE_HINT = 3
PASSED, FAILED = 0, 1  # pytest's exit status


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("drill")(drill)


def drill(
    assignment: Annotated[
        str | None, typer.Argument(metavar="ASSIGNMENT", help="The assignment, such as a2.")
    ] = None,
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="The drill; without it, the first unsolved one."),
    ] = None,
    listed: Annotated[
        bool, typer.Option("--list", help="List the drills, and which of them you have solved.")
    ] = False,
    line: Annotated[
        str | None,
        typer.Option(
            "--line",
            metavar="FILE:NUMBER",
            help="Your answer: the wrong line, such as attention.py:57. The numbers are those of "
            "the file as it was written.",
        ),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Your answer: you have fixed the file; run the checks of its task."
        ),
    ] = False,
) -> None:
    """Find a mistake that really happened in public code, hidden in a copy of the reference."""
    if assignment is None:
        raise UserError(f"lm drill needs an assignment: lm drill {_example()}")
    if listed + check + (line is not None) > 1:
        raise UserError("expected one of --list, --line and --check")
    found = load_assignment(assignment, PROJECT)
    drills = load_drills(found, PROJECT)
    path = progress_file(home_folder(PROJECT))
    record = read_progress(path)
    if listed:
        _print_list(found, drills, record)
        return
    chosen = drill_named(name, drills, found) if name else _first_unsolved(found, drills, record)
    mistake, written = write_drill(chosen, found, PROJECT, home_folder(PROJECT))
    if line is None and not check:
        _print_question(found, chosen, mistake, written)
        return
    if line is not None:
        right = line_number(line, mistake) in mistake.answers
    else:
        folder = drill_folder(chosen, found, home_folder(PROJECT))
        status = run_suite(found.id, [f"--task={chosen.task}", f"--impl={folder}"])
        if status not in (PASSED, FAILED):  # interrupted: no answer
            sys.exit(status)
        right = status == PASSED
    key = _key(found, chosen)
    record.answer_drill(key, date.today() if right else None)
    write_progress(path, record)
    if right:
        _print_explanation(found, drills, chosen, mistake, record)
        return
    _print_wrong(chosen, mistake, line, record.of_drill(key))
    sys.exit(1)


def _example() -> str:
    return next(iter(assignment_ids(PROJECT)), "a1")


def _key(assignment: Assignment, drill: Drill) -> str:
    return f"{assignment.id}/{drill.name}"


def _first_unsolved(assignment: Assignment, drills: list[Drill], record: Progress) -> Drill:
    for drill in drills:
        if record.of_drill(_key(assignment, drill)).solved is None:
            return drill
    raise UserError(
        f"all {len(drills)} drills of {assignment.id} are solved; to repeat one, name it "
        f"(lm drill {assignment.id} --list)"
    )


def _print_list(assignment: Assignment, drills: list[Drill], record: Progress) -> None:
    console = plain_console()
    width = max(len(drill.name) for drill in drills)
    for drill in drills:
        state = record.of_drill(_key(assignment, drill))
        text = f"solved {state.solved.isoformat()}" if state.solved else ""
        if state.wrong:
            text += f"{', ' if text else ''}{_tries(state.wrong)}"
        console.print(f"{drill.name:<{width}}  {text}".rstrip())
    solved = sum(record.of_drill(_key(assignment, drill)).solved is not None for drill in drills)
    console.print(f"\n{solved} of {len(drills)} drills of {assignment.id} solved")


def _print_question(
    assignment: Assignment, drill: Drill, mistake: HiddenMistake, written: bool
) -> None:
    console = plain_console()
    folder = drill_folder(drill, assignment, home_folder(PROJECT))
    command = f"lm drill {assignment.id} {drill.name}"
    console.print(f"{drill.name}, a drill of {assignment.id}", style="bold")
    _print_paragraph(console, drill.symptom)
    state = "" if written else "  (kept as it was; delete the folder for a fresh copy)"
    console.print(f"  read    {shown(folder / mistake.file, PROJECT)}{state}", soft_wrap=True)
    console.print(f"  answer  {command} --line {Path(mistake.file).name}:NUMBER", soft_wrap=True)
    console.print(f"  or fix  {command} --check", soft_wrap=True)


def _print_explanation(
    assignment: Assignment,
    drills: list[Drill],
    drill: Drill,
    mistake: HiddenMistake,
    record: Progress,
) -> None:
    console = plain_console()
    where = f"{mistake.file}:{mistake.answers[0]}"
    found = f"Right: the mistake is at {where}, in {mistake.place}."
    console.print(found, style="green", soft_wrap=True)
    console.print()
    for line in mistake.difference():
        console.print(f"  {line}", soft_wrap=True)
    _print_paragraph(console, drill.why)
    console.print(f"It happened in {drill.happened_in}:")
    _print_paragraph(console, drill.happened)
    console.print(f"  {drill.address}", soft_wrap=True)
    solved = [each for each in drills if record.of_drill(_key(assignment, each)).solved]
    further = f"; the next: lm drill {assignment.id}" if len(solved) < len(drills) else ""
    console.print(f"\n{len(solved)} of {len(drills)} drills of {assignment.id} solved{further}")


def _print_wrong(
    drill: Drill, mistake: HiddenMistake, line: str | None, state: DrillProgress
) -> None:
    console = plain_console()
    if line is None:
        console.print(f"Not fixed yet: {drill.task} does not pass.", style="yellow")
    else:
        number = line_number(line, mistake)
        console.print(f"No mistake in line {number} of {mistake.file}:", style="yellow")
        console.print(f"  {mistake.wrong[number - 1]}", soft_wrap=True)
    if state.solved is None:
        console.print(f"{_tries(state.wrong)} so far.")
    if state.wrong >= TRIES_BEFORE_HINT:
        console.print(f"Hint: the mistake is in {mistake.place}.")


def _tries(number: int) -> str:
    return f"{number} wrong answer{'s' if number > 1 else ''}"


def _print_paragraph(console: Console, text: str) -> None:
    width = console.width - 2
    console.print(f"\n{textwrap.indent(textwrap.fill(text, width), '  ')}\n")
