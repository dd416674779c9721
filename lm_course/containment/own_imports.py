"""Imports while a learner's code is graded: they find the learner's modules, and never the answers.

A finder that is asked first. The given files come from the grader's own copy, whatever the folder
under test holds. What this leaves out: modules that are loaded without an import, by a path
(forbidden_acts.py sees them opened).
"""

import ast
import re
import sys
from collections.abc import Iterator
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from lm_course.containment.forbidden_acts import OWN_CODE, ForbiddenAct
from lm_course.containment.recorded_acts import FORBIDDEN, Act, RecordedActs
from lm_course.grading.check_outcome import GradedFailure, LearnerCode, NotSubmitted, Outcome
from lm_course.learning.assignment_file import Assignment

GRADER = re.compile(r"(lm_course|_pytest)(\.|$)")


class HangsAtImport(GradedFailure):
    """Raised at once by the import of a module whose import did not end when it was tried.

    Args:
        outcome: what was seen then.
    """

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.message)
        self.outcome = outcome


class OwnImports(MetaPathFinder):
    """Finds the modules of the packages that the learner writes.

    Args:
        assignments: name their packages, the graded modules and the given ones.
        folder: the folder under test.
        root: the project, which holds the reference.
        code: names files in messages.
        acts: takes what was seen.
    """

    def __init__(
        self,
        assignments: list[Assignment],
        folder: Path,
        root: Path,
        code: LearnerCode,
        acts: RecordedActs,
    ) -> None:
        self.assignments = {assignment.package: assignment for assignment in assignments}
        self.folder = folder
        self.root = root
        self.code = code
        self.acts = acts
        self.hanging: dict[str, Outcome] = {}  # module -> what was seen when it was imported

    def begin(self) -> None:
        """Be asked first by every import of this process, and of its forks."""
        sys.meta_path.insert(0, self)

    def find_spec(
        self, fullname: str, path: object = None, target: object = None
    ) -> ModuleSpec | None:
        package, _, module = fullname.partition(".")
        assignment = self.assignments.get(package)
        if assignment is None or not module:
            return None
        if fullname in self.hanging:
            raise HangsAtImport(self.hanging[fullname])
        if module.split(".")[0] in assignment.given_modules:
            parent = self.root.joinpath(*fullname.split(".")[:-1])
            return PathFinder.find_spec(fullname, [str(parent)])
        file = self.folder / package / f"{module}.py"
        if module in assignment.modules and not file.is_file():
            raise NotSubmitted(missing_sentence(assignment, file, self.code))
        spec = PathFinder.find_spec(fullname, path)
        if spec is not None and spec.origin and self.code.holds(spec.origin):
            self._look_through(Path(spec.origin))
        return spec

    def _look_through(self, file: Path) -> None:
        """Refuse a file that names the grader's modules in its code."""
        try:
            tree = ast.parse(file.read_bytes())
        except (SyntaxError, ValueError, OSError):
            return  # its import says what is wrong
        for line, name in _named_modules(tree):
            if GRADER.match(name):
                place = self.code.line(str(file), line, "<module>")
                act = Act(f"your code names {name} of the grader: {OWN_CODE}", place)
                self.acts.record(FORBIDDEN, act)
                raise ForbiddenAct(act.sentence)


def missing_sentence(assignment: Assignment, file: Path, code: LearnerCode) -> str:
    return f"{code.name(file)} is missing; `lm start {assignment.id}` writes its stub"


def _named_modules(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the modules that a file imports, and its string constants other than docstrings."""
    docstrings = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            docstrings.add(node.value)
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.lineno, node.module
        elif isinstance(node, ast.Constant) and node not in docstrings:
            yield node.lineno, str(node.value)
