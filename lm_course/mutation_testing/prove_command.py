"""The command for authors of suites: `lm prove`.

What this leaves out: the mistakes and their grading (lm_course.mutation_testing).
"""

import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from lm_core.user_error import UserError
from lm_course.learning.assignment_file import Assignment, load_assignment
from lm_course.locations import ASSIGNMENTS, PROJECT, shipped

if TYPE_CHECKING:
    from lm_course.mutation_testing.mutant_runs import Mistake
    from lm_course.mutation_testing.survivors import Key, Survivor


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("prove")(prove)


def prove(
    assignment: Annotated[
        str, typer.Argument(metavar="ASSIGNMENT", help="The assignment, such as a1.")
    ],
    generated: Annotated[
        bool,
        typer.Option(
            "--generated", help="Grade generated mistakes instead of those in mutants.toml."
        ),
    ] = False,
    task: Annotated[
        str | None, typer.Option("--task", metavar="TASK", help="Only those of one task: a1.5.")
    ] = None,
    only: Annotated[
        str | None,
        typer.Option("--only", metavar="NAME", help="Only this mistake; show its change, too."),
    ] = None,
) -> None:
    """Grade wrong solutions: does each mistake cost points in its task? For authors of suites."""
    from lm_course.mutation_testing.generated_mutants import generate_mutants, sample
    from lm_course.mutation_testing.mutants import load_mutants
    from lm_course.mutation_testing.survivors import load_survivors

    if shipped(ASSIGNMENTS, PROJECT) != PROJECT / ASSIGNMENTS:
        raise UserError(
            "lm prove needs a checkout of the project, with conftest.py and tests/; this is an "
            "installed copy"
        )
    found = load_assignment(assignment, PROJECT)
    listed: Mapping[Key, Survivor] = {}
    mutants: Sequence[Mistake]
    if generated:
        every = generate_mutants(found, PROJECT)
        chosen = sample(every)
        listed = load_survivors(found, chosen, PROJECT)
        mutants = every if only else chosen
    else:
        mutants = load_mutants(found, PROJECT)
    if task is not None:
        found.task(task)
        mutants = [mutant for mutant in mutants if mutant.tasks[0] == task]
    if only is not None:
        mutants = [mutant for mutant in mutants if mutant.name == only]
    if not mutants:
        where = f" in {task}" if task else ""
        raise UserError(f"{only}: no such mutant{where}" if only else f"{task}: it has no mutants")
    sys.exit(_print_verdicts(found, mutants, listed, details=only is not None))


def _print_verdicts(
    assignment: Assignment,
    mutants: "Sequence[Mistake]",
    listed: "Mapping[Key, Survivor]",
    details: bool,
) -> int:
    """Print a line for each mistake and those that survive; return 1 if one is not listed, or if
    one that is listed was caught.
    """
    from lm_course.mutation_testing.mutant_runs import difference, run_mutants, verdict_line

    width = max(len(mutant.name) for mutant in mutants)
    survivors, no_survivors = [], []
    with closing(run_mutants(assignment, mutants, PROJECT)) as verdicts:
        for verdict in verdicts:
            mutant = verdict.mutant
            print(verdict_line(verdict, width), flush=True)
            if details:
                _print_difference(difference(mutant, assignment, PROJECT))
                print(f"  why wrong  {mutant.why}\n  message    {verdict.message}")
            key = getattr(mutant, "key", None)
            survivors += [] if verdict.caught else [(mutant, listed.get(key))]
            no_survivors += [mutant] if verdict.caught and key in listed else []
    caught = len(mutants) - len(survivors)
    print(_figures(caught, len(mutants), sum(row is not None for _, row in survivors)))
    for mutant, row in survivors:
        what = f"survives, as listed: {row.reason}" if row else f"SURVIVED {mutant.why}".strip()
        print(f"\n{mutant.tasks[0]} {mutant.name}: {what}")
        _print_difference(difference(mutant, assignment, PROJECT))
    for mutant in no_survivors:
        print(f"\n{mutant.tasks[0]} {mutant.name} is caught: remove it from survivors.toml")
    return 1 if no_survivors or any(row is None for _, row in survivors) else 0


def _figures(caught: int, mutants: int, listed: int) -> str:
    """Return how many are caught, of all, and of those that are not listed as survivors."""
    line = f"{caught} of {mutants} caught ({100 * caught / mutants:.1f} %)"
    if not listed or listed == mutants:
        return line
    share = 100 * caught / (mutants - listed)
    return f"{line}; {listed} survive as listed, and {share:.1f} % of the others are caught"


def _print_difference(lines: list[str]) -> None:
    for line in lines:
        print(f"  {line}")
