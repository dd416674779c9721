"""Wrong solutions, graded: the reference with one mistake at a time.

What this leaves out: where the mistakes come from (mutants, generated_mutants), and the pytest
session in which they are graded (planted_runs).
"""

import difflib
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

from lm_core.stand_ins import STAND_INS_VARIABLE
from lm_core.user_error import UserError
from lm_course.learning.assignment_file import Assignment
from lm_course.locations import ASSIGNMENTS, PROJECT

SECONDS = 120  # for the checks of one mistake; each check has its own limit
# Loaded once, by the process that all graded runs are forked from. None is ours or a pytest plugin.
# Not torch._dynamo: it loads Triton, and a2's conftest.py must first tell Triton to interpret
# kernels. Otherwise an error that all kernels give "catches" every mistake planted in one.
PRELOADED = ["numpy", "regex", "pydantic", "torch"]


class Mistake(Protocol):
    """A change of one graded module.

    Attributes:
        name: in the table that is printed.
        tasks: those that should catch it: they are graded in this order until a check fails.
        check: the check that is run first; empty for the order of the suite.
        module: the graded module to change.
        why: the reason why it is wrong; empty if nobody has written one.
    """

    @property
    def name(self) -> str: ...

    @property
    def tasks(self) -> tuple[str, ...]: ...

    @property
    def check(self) -> str: ...

    @property
    def module(self) -> str: ...

    @property
    def why(self) -> str: ...

    def planted_in(self, source: str) -> str:
        """Return the module's text with the mistake in it."""
        ...


@dataclass(frozen=True)
class Verdict:
    """The result for one mistake: the check that caught it and its message, or neither."""

    mutant: Mistake
    check: str = ""
    message: str = ""

    @property
    def caught(self) -> bool:
        return bool(self.check)


def run_mutants(
    assignment: Assignment,
    mutants: Sequence[Mistake],
    root: Path = PROJECT,
    processes: int = 2,
    seconds: int = SECONDS,
) -> Iterator[Verdict]:
    """Grade each mutant in the task that should catch it; verdicts come in the order given.

    Each process collects the suite once and forks itself for every mutant of its share, so the
    libraries and the checks are loaded `processes` times, however many mutants there are.

    Raises:
        ValueError: a mutant names a check that its task does not have.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory() as name:
        shares, readers = [], []
        for number in range(min(processes, len(mutants))):
            reader, writer = context.Pipe(duplex=False)
            share = mutants[number::processes]
            arguments = (assignment, share, root, Path(name), number, seconds, writer)
            shares.append(context.Process(target=_grade_share, args=arguments))
            shares[-1].start()
            writer.close()  # so that reading ends where the process does
            readers.append(reader)
        try:
            for number, mutant in enumerate(mutants):
                try:
                    told = readers[number % processes].recv()
                except EOFError:
                    told = (Path(name) / f"output-{number % processes}.txt").read_text("utf-8")
                    raise AssertionError(
                        f"{mutant.name}: the suite gave no verdict\n{told}"
                    ) from None
                if isinstance(told, UserError):
                    raise told
                yield told
        finally:
            for process in shares:
                process.kill()
                process.join()


def _grade_share(
    assignment: Assignment,
    mutants: Sequence[Mistake],
    root: Path,
    folder: Path,
    number: int,
    seconds: int,
    verdicts: Connection,
) -> None:
    """Run pytest in a process of its own, with one run of a suite for each mutant."""
    with (folder / f"output-{number}.txt").open("w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.pop(STAND_INS_VARIABLE, None)
    os.chdir(root)
    sys.path.insert(0, str(root))
    import pytest

    from lm_course.mutation_testing.planted_runs import Failure, PlantedRuns

    tasks = dict.fromkeys(task for mutant in mutants for task in mutant.tasks)
    arguments = [f"{ASSIGNMENTS}/{assignment.id}", "--impl=reference"]
    arguments += [f"--task={task}" for task in tasks]
    arguments += ["-p", "no:cacheprovider"]  # two runs at a time would write one cache

    def place(name: str, mutant: Mistake | None = None) -> Path:
        """A folder with the graded modules, one of them with the mistake."""
        modules = folder / name / assignment.package
        modules.mkdir(parents=True)
        for module in assignment.modules:
            shutil.copy(root / assignment.package / f"{module}.py", modules)
        if mutant is not None:
            file = modules / f"{mutant.module}.py"
            file.write_text(mutant.planted_in(file.read_text("utf-8")), encoding="utf-8")
        return folder / name

    def tell(number: int, failure: Failure | None) -> None:
        verdicts.send(Verdict(mutants[number], *(failure or ("", ""))))

    folders = ((mutant.tasks, mutant.check, place(mutant.name, mutant)) for mutant in mutants)
    control = place(f"correct code, {number}")
    runs = PlantedRuns(folders, control, tell, seconds)
    status = pytest.main(arguments, plugins=[runs])
    if runs.refused is not None:
        verdicts.send(UserError(f"{root / ASSIGNMENTS / assignment.id}: {runs.refused}"))
    sys.exit(status)


def verdict_line(verdict: Verdict, width: int) -> str:
    """Return one line of the table: the task, the name, and the check that caught it."""
    mutant = verdict.mutant
    line = f"{mutant.tasks[0]:<6} {mutant.name:<{width}}  "
    if verdict.caught:
        return f"{line}caught by {verdict.check}"
    return f"{line}SURVIVED" + (f" ({verdict.message})" if verdict.message else "")


def difference(mutant: Mistake, assignment: Assignment, root: Path = PROJECT) -> list[str]:
    """Return what a mistake changes: the place, then the lines, as in "- old" and "+ new"."""
    name = f"{assignment.package}/{mutant.module}.py"
    source = (root / name).read_text("utf-8")
    old, new = source.splitlines(), mutant.planted_in(source).splitlines()
    hunks = list(difflib.unified_diff(old, new, n=0, lineterm=""))[2:]
    place = re.match(r"@@ -(\d+)", hunks[0])
    assert place is not None, f"{mutant.name}: no place in {hunks[0]}"
    lines = [f"{line[0]} {line[1:]}" for line in hunks if not line.startswith("@@")]
    return [f"{name}:{place[1]}", *lines]
