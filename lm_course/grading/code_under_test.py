"""The code that a graded run checks: the reference, the learner's workspace, or any other folder.

LM_STAND_INS (`lm_core.stand_ins`) puts the folder in front of the stages; it must be set before any
stage is imported. A graded module that the folder lacks is "not submitted"; the reference never
replaces it.
"""

import ast
import importlib
import io
import os
import py_compile
import sys
import threading
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from lm_core.stand_ins import STAND_INS_VARIABLE
from lm_core.user_error import UserError
from lm_course.drawn_inputs.code_constants import Constants, constants_of_file
from lm_course.grading.check_outcome import FAILING, PASSED, LearnerCode, Outcome
from lm_course.grading.forked_check import STACK_LINE, Limits, can_isolate, run_check
from lm_course.learning.assignment_file import Assignment
from lm_course.learning.stubs import functions_of, is_stub
from lm_course.locations import WORKSPACE, home_folder, is_stage, shipped, shown

REFERENCE = "reference"
FAILED_INPUTS = ".failed_inputs"  # in the workspace
ANSWERS = "answers.toml"
TRIAL_SECONDS = 2.0  # in which a quiet module is imported; the references take 0.05
SECONDS_TO_IMPORT = 5.0  # a module that has not been imported by then never will be
REFERENCE_ANSWERS = "tests/assignments"  # in a wheel too, below lm_course/


@dataclass(frozen=True)
class Implementation:
    """The code under test.

    Attributes:
        name: "reference", "workspace", or the folder as it was given.
        folder: holds <package>/<module>.py and <assignment>/answers.toml.
        root: the project.
        started_in: the folder in which the command was started.
    """

    name: str
    folder: Path
    root: Path
    started_in: Path

    @property
    def is_reference(self) -> bool:
        return self.name == REFERENCE

    def described(self, asked_for: bool) -> str:
        """Return what is checked; `asked_for` tells whether the learner named it."""
        if self.name == WORKSPACE:
            return f"checking your files in {shown(self.folder, self.root)}/"
        if not self.is_reference:
            return f"checking the files in {self.name}"
        if asked_for:
            return "checking the reference"
        return "you have no workspace yet; checking the reference instead"

    @property
    def failed_inputs(self) -> Path | None:
        """The folder for drawn inputs that failed, which the next run tries first."""
        return self.folder / FAILED_INPUTS if self.name == WORKSPACE else None

    def module_file(self, assignment: Assignment, module: str) -> Path:
        return self.folder / assignment.package / f"{module}.py"

    def answers_file(self, assignment: Assignment) -> Path:
        if self.is_reference:
            return shipped(REFERENCE_ANSWERS, self.root) / f"{assignment.id}_answers.toml"
        return self.folder / assignment.id / ANSWERS

    def code(self, assignment: Assignment) -> LearnerCode:
        """Return which files are the learner's, for messages."""
        home = home_folder(self.root, self.started_in)
        functions = {
            f"{task.module}.{name}": task.id for task in assignment.tasks for name in task.functions
        }
        return LearnerCode((self.folder / assignment.package,), home, self.started_in, functions)


def own_constants(
    implementation: Implementation, tasks: Mapping[str, Assignment]
) -> dict[str, Constants]:
    """Return, by task, the constants of its module that the reference's module lacks.

    Args:
        tasks: the id of each task, and its assignment.
    """
    reference = replace(implementation, folder=implementation.root)
    found = {}
    for name, assignment in tasks.items():
        if module := assignment.task(name).module:
            constants, others = (
                constants_of_file(code.module_file(assignment, module))
                for code in (implementation, reference)
            )
            found[name] = constants - others
    return found


def unwritten_tasks(implementation: Implementation, tasks: Mapping[str, Assignment]) -> set[str]:
    """Return the tasks whose functions are all exactly as `lm start` wrote them, or whose file does
    not exist.
    """
    found = set()
    for name, assignment in tasks.items():
        task = assignment.task(name)
        if task.module:
            path = implementation.module_file(assignment, task.module)
            stubs = {
                function for function, node in functions_of(_parsed(path)) if is_stub(node, name)
            }
            if not path.is_file() or stubs >= set(task.functions):
                found.add(name)
    return found


def _parsed(path: Path) -> ast.Module:
    """Return the syntax tree of a file; an empty one if it is missing, not Python, or too deep."""
    with (
        suppress(SyntaxError, ValueError, OSError, RecursionError, MemoryError),
        _no_warnings(),
    ):
        return ast.parse(path.read_bytes())
    return ast.Module([], [])


def choose_implementation(
    given: str | None, assignments: list[Assignment], root: Path, started_in: Path
) -> Implementation:
    """Return the folder that `--impl` names. Without it, return the workspace if it holds one of
    the packages, otherwise the reference.

    Raises:
        ValueError: the folder does not exist, or has no files of these assignments.
    """
    workspace = home_folder(root, started_in) / WORKSPACE
    if given is None:
        begun = any((workspace / assignment.package).is_dir() for assignment in assignments)
        given = WORKSPACE if begun else REFERENCE
    if given == REFERENCE:
        return Implementation(REFERENCE, root, root, started_in)
    # "workspace" is the one in the home folder, wherever the command was started.
    folder = workspace if given == WORKSPACE else (started_in / given).resolve()
    first = assignments[0]
    if not folder.is_dir():
        raise UserError(f"--impl {given}: no such folder; `lm start {first.id}` makes workspace")
    if not any(
        (folder / assignment.package).is_dir() or (folder / assignment.id).is_dir()
        for assignment in assignments
    ):
        raise UserError(
            f"--impl {given}: expected {first.package}/ in that folder, found none; name the "
            f"folder that holds {first.package}/"
        )
    name = WORKSPACE if folder == workspace.resolve() else given
    return Implementation(name, folder, root, started_in)


def use_implementation(
    implementation: Implementation,
    assignments: list[Assignment],
    chosen_tasks: Collection[str] = (),
) -> None:
    """Set LM_STAND_INS for this process and its children, and load what every check needs.

    Args:
        implementation: the code under test.
        assignments: the assignments to check.
        chosen_tasks: the only tasks to check; empty for all. Libraries that only the modules of
            other tasks import are not loaded.
    """
    for assignment in assignments:
        assert assignment.package not in sys.modules, (
            f"{assignment.package} was imported before the implementation was chosen"
        )
    os.environ.pop(STAND_INS_VARIABLE, None)
    if not implementation.is_reference:
        os.environ[STAND_INS_VARIABLE] = str(implementation.folder)
    _import_foreign_modules(
        [
            f"{assignment.package}.{task.module}"
            for assignment in assignments
            for task in assignment.tasks
            if task.module and (not chosen_tasks or task.id in chosen_tasks)
        ],
        [implementation.folder, implementation.root],
    )
    for assignment in assignments:
        _compile_once(sorted((implementation.folder / assignment.package).glob("*.py")))


def _import_foreign_modules(modules: Iterable[str], folders: list[Path]) -> None:
    """Import the libraries that these modules need, directly or through other modules of ours. A
    forked child then has them, so no check pays for an import again. The modules themselves may do
    anything when they are imported: `import_quiet_modules` tries that in a child.

    Args:
        modules: such as "transformer_lm.layers".
        folders: the folders that hold the learner's and the reference's packages.
    """
    waiting, seen = list(modules), set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        top = name.split(".")[0]
        if any(is_stage(folder / top) for folder in folders):
            files = [folder.joinpath(*name.split(".")).with_suffix(".py") for folder in folders]
            waiting += [needed for file in files for needed in _imports(file)]
        elif top != "lm_course":
            with suppress(Exception), _no_warnings():
                importlib.import_module(name)


def import_quiet_modules(
    modules: Collection[str],
    code: LearnerCode,
    run: Callable[..., Outcome] = run_check,
    hanging: MutableMapping[str, Outcome] | None = None,
) -> None:
    """Import the code under test once for all checks that follow, if nothing else happens by it.

    A child tries it first. If an import ends in an error, prints, starts a thread or takes long,
    nothing is imported here: every check then imports in its own child, so that it shows what
    happened and an accident costs only that check.

    Args:
        modules: such as "transformer_lm.layers".
        code: finds the learner's lines, as in every check.
        run: runs the trial, as every check.
        hanging: takes the modules whose import does not end, each with what was seen. The next
            import of such a module must fail at once.
    """

    def try_import() -> None:
        threads, output, begun = threading.active_count(), io.StringIO(), time.monotonic()
        errors = []
        with redirect_stdout(output), redirect_stderr(output):
            for name in modules:
                try:
                    importlib.import_module(name)
                except Exception as error:
                    errors.append(error)
                    if not hanging:
                        break
        assert not errors
        assert not output.getvalue()
        assert threading.active_count() == threads
        assert time.monotonic() - begun < TRIAL_SECONDS

    hanging = {} if hanging is None else hanging
    if not can_isolate():
        return
    seconds = SECONDS_TO_IMPORT
    while True:
        tried = run(try_import, lambda _: Outcome(FAILING), Limits(seconds), code)
        module = _module_that_hangs(tried, code) if tried.timed_out else ""
        if not module or module in hanging:
            break
        hanging[module] = replace(tried, timed_out=False)
        seconds = TRIAL_SECONDS
    if tried.status == PASSED and not hanging:
        with _no_warnings(), suppress(Exception):  # what happens only now is seen by every check
            for name in modules:
                importlib.import_module(name)


def _module_that_hangs(tried: Outcome, code: LearnerCode) -> str:
    """Return the module that was being imported when the trial was stopped, from its stack."""
    for file, _, function in STACK_LINE.findall(tried.traceback):
        if function == "<module>" and code.holds(file):
            path = Path(file)
            folder = next(each for each in code.folders if path.is_relative_to(each))
            return ".".join([folder.name, *path.relative_to(folder).with_suffix("").parts])
    return ""


def _imports(path: Path) -> set[str]:
    """Return the modules that a file imports when loaded; empty if it is missing or not Python."""
    names: set[str] = set()
    for node in _parsed(path).body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
            if "." not in node.module:  # from package import module, perhaps
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _compile_once(files: Iterable[Path]) -> None:
    """Write bytecode that is checked against a hash of the source. By default, Python compares
    times in whole seconds, and would miss a quick edit that does not change the size.
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
