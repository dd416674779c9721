"""The learner's copy of the code with the mistake in it, and the lines that answer the drill.

The copy of the module begins with a line that says so: its line numbers are not the reference's.
What this leaves out: hiding the reference. Whoever compares the two files has found the line, but
has not practised.
"""

import ast
import difflib
import itertools
from dataclasses import dataclass
from pathlib import Path

from lm_core.artifact_paths import atomic_folder
from lm_core.user_error import UserError
from lm_course.drills.drill_file import Drill
from lm_course.learning.assignment_file import Assignment
from lm_course.locations import DRILLS, PROJECT, WORKSPACE


@dataclass(frozen=True)
class HiddenMistake:
    """A module with the mistake, and the same module without it.

    Attributes:
        file: the module, as "transformer_lm/attention.py".
        wrong, right: the lines of the two, without their line ends. Both have the line at the top.
    """

    file: str
    wrong: list[str]
    right: list[str]

    @property
    def answers(self) -> list[int]:
        """The line numbers that are right answers: from the first changed line to the last. Where
        lines are only missing, the two lines beside the gap.
        """
        before = _equal_lines(self.wrong, self.right)
        behind = _equal_lines(self.wrong[before:][::-1], self.right[before:][::-1])
        stop = len(self.wrong) - behind
        return list(range(before + 1, stop + 1)) or [before, before + 1]

    @property
    def place(self) -> str:
        """The function with the mistake, or the name at the top level of the module."""
        line = self.answers[0]
        names: list[str] = []
        body: list[ast.stmt] = ast.parse("\n".join(self.wrong)).body
        while around := [each for each in body if each.lineno <= line <= (each.end_lineno or 0)]:
            (node,) = around
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                names.append(node.name)
            elif not names and isinstance(node, ast.Assign):
                names.append(ast.unparse(node.targets[0]))
            body = node.body if isinstance(node, ast.ClassDef) else []
        return ".".join(names) or "the top of the file"

    def difference(self) -> list[str]:
        """Return the wrong lines after "-" and the right ones after "+", with a line around."""
        lines = difflib.unified_diff(self.wrong, self.right, n=1, lineterm="")
        return [line for line in lines if not line.startswith(("---", "+++", "@@"))]


def _equal_lines(some: list[str], others: list[str]) -> int:
    """Return how many lines are equal before the first that differs."""
    pairs = zip(some, others, strict=False)
    return len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)))


def hidden_mistake(drill: Drill, assignment: Assignment, root: Path = PROJECT) -> HiddenMistake:
    """Return the drill's module with the mistake, and without it."""
    file = f"{assignment.package}/{drill.module}.py"
    source = (root / file).read_text(encoding="utf-8")
    top = f"# {drill.name}, a drill of {assignment.id}: one mistake is in this file.\n"
    wrong, right = top + drill.planted_in(source), top + source
    return HiddenMistake(file, wrong.splitlines(), right.splitlines())


def drill_folder(drill: Drill, assignment: Assignment, home: Path) -> Path:
    """Return workspace/drills/a2/NAME."""
    return home / WORKSPACE / DRILLS / assignment.id / drill.name


def write_drill(
    drill: Drill, assignment: Assignment, root: Path, home: Path
) -> tuple[HiddenMistake, bool]:
    """Write the graded modules, one of them with the mistake, unless the folder is there already.

    Returns:
        The mistake, and whether the folder was written.
    """
    mistake = hidden_mistake(drill, assignment, root)
    folder = drill_folder(drill, assignment, home)
    if folder.exists():
        return mistake, False
    with atomic_folder(folder) as unfinished:
        package = unfinished / assignment.package
        package.mkdir()
        for module in assignment.modules:
            path = package / f"{module}.py"
            path.write_bytes((root / assignment.package / path.name).read_bytes())
        (unfinished / mistake.file).write_text("\n".join([*mistake.wrong, ""]), "utf-8")
    return mistake, True


def line_number(given: str, mistake: HiddenMistake) -> int:
    """Return the line that an answer names: "57", "attention.py:57" or the path with the line.

    Raises:
        ValueError: the drill's file has no such line.
    """
    file, _, number = given.rpartition(":")
    expected = f"expected a line of {mistake.file}, such as {Path(mistake.file).name}:1"
    if file and Path(file).name != Path(mistake.file).name:
        raise UserError(f"--line {given}: {expected}; the mistake is in no other file")
    if not number.isdecimal():
        raise UserError(f"--line {given}: {expected}")
    if not 1 <= int(number) <= len(mistake.wrong):
        raise UserError(f"--line {given}: {expected}; it has {len(mistake.wrong)} lines")
    return int(number)
