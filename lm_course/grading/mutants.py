"""Planted mistakes: each must cost points in the task that is meant to catch it.

`python -m lm_course.grading.mutants a1` reads assignments/a1/mutants.toml, plants one mistake at a
time in a copy of the reference, and grades it. A suite that misses a planted mistake would also
miss a learner's. What this leaves out: finding mistakes worth planting; people do that.
"""

import argparse
import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Self

import pydantic

from lm_core.settings import Settings, load_settings
from lm_core.stand_ins import STAND_INS_VARIABLE
from lm_core.user_error import UserError
from lm_course.learning.assignment_file import Assignment, load_assignment
from lm_course.locations import ASSIGNMENTS, PROJECT

FILE_NAME = "mutants.toml"
SECONDS = 120  # for the checks of one task; each check has its own limit
# Loaded once, by the process that all graded runs are forked from. None is ours or a pytest plugin.
# Not torch._dynamo: it loads Triton, and a2's conftest.py must first tell Triton to interpret
# kernels. Otherwise an error that all kernels give "catches" every mistake planted in one.
PRELOADED = ["numpy", "regex", "pydantic", "torch"]


class Mutant(Settings):
    """One mistake: `find`, which occurs once in the module, becomes `replace`.

    Attributes:
        name: in the table that is printed.
        task: the task that must catch it.
        check: the check of that task that is run first, because it should catch it; it saves the
            time of the others. Empty: all, in order.
        module: the graded module to change.
        find: text of the module that is replaced.
        replace: the text with the mistake.
        why: the reason why it is wrong.
    """

    name: str
    task: str
    check: str = ""
    module: str
    find: str = pydantic.Field(min_length=1)
    replace: str
    why: str

    @pydantic.model_validator(mode="after")
    def _changes_something(self) -> Self:
        if self.find == self.replace:
            raise UserError(f"{self.name}: find and replace are equal")
        return self


class MutantFile(Settings):
    """mutants.toml.

    Attributes:
        mutants: one for each `[[mutant]]`.
    """

    mutants: list[Mutant] = pydantic.Field(alias="mutant", min_length=1)


@dataclass(frozen=True)
class Verdict:
    """The result for one mutant: the check that caught it and its message, or neither."""

    mutant: Mutant
    check: str = ""
    message: str = ""

    @property
    def caught(self) -> bool:
        return bool(self.check)


def load_mutants(assignment: Assignment, root: Path = PROJECT) -> list[Mutant]:
    """Read the mutants of an assignment.

    Raises:
        ValueError: `find` does not occur exactly once, the result is not Python, or the module or
            the task does not exist; the message names the mutant.
    """
    path = root / ASSIGNMENTS / assignment.id / FILE_NAME
    if not path.is_file():
        raise UserError(f"{path}: no such file; it should list the mutants of {assignment.id}")
    mutants = load_settings(MutantFile, path).mutants
    names = [mutant.name for mutant in mutants]
    for mutant in mutants:
        if names.count(mutant.name) > 1:
            raise UserError(f"{path}: {mutant.name}: two mutants have this name")
        try:
            assignment.task(mutant.task)
            compile(_planted(mutant, assignment, root), f"{mutant.module}.py", "exec")
        except (ValueError, SyntaxError) as error:
            raise UserError(f"{path}: {mutant.name}: {error}") from None
    return mutants


def _planted(mutant: Mutant, assignment: Assignment, root: Path) -> str:
    """Return the module's text with the mistake in it."""
    if mutant.module not in assignment.modules:
        raise UserError(f"{mutant.module} is not one of {', '.join(assignment.modules)}")
    source = (root / assignment.package / f"{mutant.module}.py").read_text(encoding="utf-8")
    times = source.count(mutant.find)
    if times != 1:
        raise UserError(
            f"`find` occurs {times} times in {mutant.module}.py, expected once: {mutant.find!r}"
        )
    return source.replace(mutant.find, mutant.replace)


def run_mutants(
    assignment: Assignment,
    mutants: list[Mutant],
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
    mutants: list[Mutant],
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

    from lm_course.grading.planted_runs import Failure, PlantedRuns

    tasks = [f"--task={task}" for task in dict.fromkeys(mutant.task for mutant in mutants)]
    arguments = [f"{ASSIGNMENTS}/{assignment.id}", "--impl=reference", *tasks]
    arguments += ["-p", "no:cacheprovider"]  # two runs at a time would write one cache

    def place(name: str, mutant: Mutant | None = None) -> Path:
        """A folder with the graded modules, one of them with the mistake."""
        modules = folder / name / assignment.package
        modules.mkdir(parents=True)
        for module in assignment.modules:
            shutil.copy(root / assignment.package / f"{module}.py", modules)
        if mutant is not None:
            text = _planted(mutant, assignment, root)
            (modules / f"{mutant.module}.py").write_text(text, encoding="utf-8")
        return folder / name

    def tell(number: int, failure: Failure | None) -> None:
        verdicts.send(Verdict(mutants[number], *(failure or ("", ""))))

    folders = ((mutant.task, mutant.check, place(mutant.name, mutant)) for mutant in mutants)
    control = place(f"correct code, {number}")
    runs = PlantedRuns(folders, control, tell, seconds)
    status = pytest.main(arguments, plugins=[runs])
    if runs.refused is not None:
        verdicts.send(
            UserError(f"{root / ASSIGNMENTS / assignment.id / FILE_NAME}: {runs.refused}")
        )
    sys.exit(status)


def verdict_line(verdict: Verdict, width: int) -> str:
    """Return one line of the table: the task, the name, and the check that caught it."""
    mutant = verdict.mutant
    line = f"{mutant.task:<6} {mutant.name:<{width}}  "
    if verdict.caught:
        return f"{line}caught by {verdict.check}"
    return f"{line}SURVIVED" + (f" ({verdict.message})" if verdict.message else "")


def main(arguments: list[str] | None = None) -> int:
    """Print the table; return 0 if every mutant was caught, 1 if one survived, 2 for a bad file."""
    parser = argparse.ArgumentParser(
        prog="python -m lm_course.grading.mutants", description=__doc__
    )
    parser.add_argument("assignment", help="a1")
    parser.add_argument(
        "--only", metavar="NAME", help="run only this mutant, and say why it is wrong"
    )
    options = parser.parse_args(arguments)
    try:
        assignment = load_assignment(options.assignment, PROJECT)
        mutants = load_mutants(assignment, PROJECT)
        if options.only and options.only not in [mutant.name for mutant in mutants]:
            raise UserError(f"{options.only}: no such mutant")
    except ValueError as error:
        print(f"mutants: {error}", file=sys.stderr)
        return 2
    if options.only:
        mutants = [mutant for mutant in mutants if mutant.name == options.only]
    width = max(len(mutant.name) for mutant in mutants)
    survivors = []
    try:
        with closing(run_mutants(assignment, mutants, PROJECT)) as verdicts:
            for verdict in verdicts:
                print(verdict_line(verdict, width), flush=True)
                if options.only:
                    print(f"  why wrong  {verdict.mutant.why}\n  message    {verdict.message}")
                survivors += [] if verdict.caught else [verdict.mutant]
    except UserError as error:
        print(f"mutants: {error}", file=sys.stderr)
        return 2
    print(f"{len(mutants) - len(survivors)} of {len(mutants)} caught")
    for mutant in survivors:
        print(f"  {mutant.task} lets {mutant.name} pass: {mutant.why}")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
