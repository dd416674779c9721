"""Which code a graded run checks: the reference, the learner's workspace, or any other folder.

The folder is put in front of the stages by LM_STAND_INS (`lm_core.stand_ins`), which must be set
before any stage is imported. A graded module that the folder lacks is "not submitted"; the
reference never stands in for it.
"""

import ast
import importlib
import os
import py_compile
import sys
import warnings
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lm_core.stand_ins import STAND_INS_VARIABLE
from lm_core.user_error import UserError
from lm_course.assignment_file import WORKSPACE, Assignment
from lm_course.check_outcome import LearnerCode

REFERENCE = "reference"
ANSWERS = "answers.toml"


@dataclass(frozen=True)
class Implementation:
    """The code under test.

    Attributes:
        name: "reference", "workspace", or the folder as it was given.
        folder: holds <package>/<module>.py and <assignment>/answers.toml.
        root: the project.
    """

    name: str
    folder: Path
    root: Path

    @property
    def is_reference(self) -> bool:
        return self.name == REFERENCE

    def module_file(self, assignment: Assignment, module: str) -> Path:
        return self.folder / assignment.package / f"{module}.py"

    def answers_file(self, assignment: Assignment) -> Path:
        if self.is_reference:
            return self.root / "tests" / "assignments" / f"{assignment.id}_answers.toml"
        return self.folder / assignment.id / ANSWERS

    def code(self, assignment: Assignment) -> LearnerCode:
        """For messages: which files are the learner's."""
        return LearnerCode((self.folder / assignment.package,), self.root)


def choose_implementation(
    given: str | None, assignments: list[Assignment], root: Path, started_in: Path
) -> Implementation:
    """The folder that `--impl` names; without it the workspace if it holds one of the packages.

    Raises:
        ValueError: the folder does not exist, or holds nothing of these assignments.
    """
    workspace = root / WORKSPACE
    if given is None:
        begun = any((workspace / assignment.package).is_dir() for assignment in assignments)
        given = WORKSPACE if begun else REFERENCE
    if given == REFERENCE:
        return Implementation(REFERENCE, root, root)
    # "workspace" is the project's, from whatever folder the command was given.
    folder = workspace if given == WORKSPACE else (started_in / given).resolve()
    first = assignments[0]
    if not folder.is_dir():
        raise UserError(f"--impl {given}: no such folder; `lm start {first.id}` makes workspace")
    if not any(
        (folder / assignment.package).is_dir() or (folder / assignment.id).is_dir()
        for assignment in assignments
    ):
        raise UserError(
            f"--impl {given}: expected {first.package}/ in that folder; name the folder that holds "
            f"{first.package}/"
        )
    return Implementation(WORKSPACE if folder == workspace.resolve() else given, folder, root)


def use_implementation(implementation: Implementation, assignments: list[Assignment]) -> None:
    """Set LM_STAND_INS for this process and all that it starts, and load what every check needs."""
    for assignment in assignments:
        assert assignment.package not in sys.modules, (
            f"{assignment.package} was imported before the implementation was chosen"
        )
    os.environ.pop(STAND_INS_VARIABLE, None)
    if not implementation.is_reference:
        os.environ[STAND_INS_VARIABLE] = str(implementation.folder)
    packages = [assignment.package for assignment in assignments]
    files = [
        path
        for folder in (implementation.folder, implementation.root)
        for package in packages
        for path in sorted((folder / package).glob("*.py"))
    ]
    _import_foreign_modules(files, implementation.root)
    for package in packages:
        _compile_once(sorted((implementation.folder / package).glob("*.py")))


def _import_foreign_modules(files: Iterable[Path], root: Path) -> None:
    """Import the libraries that these files import, so that no check pays for it again: a forked
    child has them. The files themselves are imported in the child alone: they may do anything.
    """
    names: set[str] = set()
    for path in files:
        with suppress(SyntaxError, ValueError, OSError), _no_warnings():
            for node in ast.parse(path.read_bytes()).body:
                if isinstance(node, ast.Import):
                    names |= {alias.name for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    names.add(node.module)
    for name in sorted(names):
        top = name.split(".")[0]
        if top == "lm_core" or not (root / top).is_dir():
            with suppress(Exception), _no_warnings():
                importlib.import_module(name)


def _compile_once(files: Iterable[Path]) -> None:
    """Write bytecode that is checked against a hash of the source. By default Python compares
    times in whole seconds, and would miss a quick edit that leaves the size as it was.
    """
    for path in files:
        with suppress(Exception), _no_warnings():
            py_compile.compile(
                str(path),
                doraise=True,
                invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH,
            )


def _no_warnings() -> warnings.catch_warnings:
    return warnings.catch_warnings(action="ignore")
