"""One graded pytest session: it runs each check in its own child, and prints the result at the end.

What this leaves out: options and fixtures (pytest_plugin), wording (check_outcome), and points
(score_table).
"""

import math
import os
import sys
from collections import Counter
from collections.abc import Generator
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lm_core.artifact_paths import write_json
from lm_core.stand_ins import STAND_INS_VARIABLE
from lm_core.user_error import UserError
from lm_course.containment.own_imports import missing_sentence
from lm_course.containment.watched_code import WatchedCode
from lm_course.drawn_inputs.code_constants import note_constants
from lm_course.drawn_inputs.reference_process import ReferenceProcess, spaces_of
from lm_course.grading.check_outcome import (
    NOT_SUBMITTED,
    NOT_WRITTEN,
    PASSED,
    SKIPPED,
    NotSubmitted,
    Outcome,
    outcome_of,
)
from lm_course.grading.code_under_test import (
    REFERENCE,
    Implementation,
    choose_implementation,
    import_quiet_modules,
    own_constants,
    unwritten_tasks,
    use_implementation,
)
from lm_course.grading.forked_check import can_isolate, can_limit_memory, run_check
from lm_course.grading.graded_check import failure_of, limits_of
from lm_course.grading.score_table import (
    AssignmentGrade,
    CheckResult,
    TaskGrade,
    summary_lines,
)
from lm_course.learning.assignment_file import Assignment, Task, load_assignment
from lm_course.learning.learner_progress import progress_file, record_results
from lm_course.locations import WORKSPACE, home_folder

LETTERS = {PASSED: ".", NOT_WRITTEN: "-", NOT_SUBMITTED: "-", SKIPPED: "s"}
COLOURS = {PASSED: {"green": True}, SKIPPED: {"yellow": True}}
THOROUGH = 10
OUTCOME = pytest.StashKey[Outcome | None]()


class GradedRun:
    """One pytest session over one or more assignments."""

    def __init__(self, config: pytest.Config, ids: list[str]) -> None:
        self.config = config
        self.root = config.rootpath
        self.assignments = {name: load_assignment(name, self.root) for name in ids}
        self.chosen_tasks = self._chosen_tasks(config.option.task)
        listed = list(self.assignments.values())
        self.implementation: Implementation = choose_implementation(
            config.option.impl, listed, self.root, config.invocation_params.dir
        )
        self.results: dict[str, dict[str, CheckResult]] = {}  # by task, then by check
        self.collected: Counter[str] = Counter()  # checks of each task
        self.endless_tasks: set[str] = set()
        self.unwritten: set[str] = set()  # tasks whose functions are all stubs
        self.seen_as_stubs: set[str] = set()  # those whose first check has found a stub
        self.last_second = math.inf  # of time.monotonic(): no check may use more time than is left
        # If only a part of a task's checks ran, its best score does not change.
        self.whole_tasks = all((self.root / name).is_dir() for name in config.args)
        self.in_child = False
        self.reference: ReferenceProcess | None = None
        self.watched: WatchedCode | None = None  # None for the reference
        self.quiet = config.option.verbose <= 0
        use_implementation(self.implementation, listed, self.chosen_tasks)

    def _chosen_tasks(self, ids: list[str]) -> list[str]:
        for task_id in ids:
            self._assignment(task_id).task(task_id)
        return list(ids)

    def _assignment(self, task_id: str) -> Assignment:
        name = task_id.rpartition(".")[0]
        if name not in self.assignments:
            raise UserError(f"{task_id}: not a task of {', '.join(self.assignments)}")
        return self.assignments[name]

    def assignment_of(self, item: pytest.Item) -> Assignment:
        return self._assignment(self.task_of(item).id)

    def task_of(self, item: pytest.Item) -> Task:
        marker = item.get_closest_marker("task")
        if marker is None or not marker.args:
            raise pytest.UsageError(f'{item.nodeid}: mark it with @pytest.mark.task("a1.3")')
        try:
            return self._assignment(marker.args[0]).task(marker.args[0])
        except ValueError as error:
            raise pytest.UsageError(f"{item.nodeid}: {error}") from None

    def _assignments_of(self, items: list[pytest.Item]) -> dict[str, Assignment]:
        """The id of each task that these checks are about -> its assignment."""
        return {self.task_of(item).id: self.assignment_of(item) for item in items}

    def import_module(self, item: pytest.Item, name: str) -> ModuleType:
        """Import the module under test; raise NotSubmitted if it would come from the reference."""
        assert self.in_child, (
            "call implementation(...) inside the test function: it runs the learner's code"
        )
        assignment = self.assignment_of(item)
        package, _, module = name.partition(".")
        if package == assignment.package and module in assignment.modules:
            self._require(assignment, module)
        return import_module(name)

    def _require(self, assignment: Assignment, module: str) -> None:
        path = self.implementation.module_file(assignment, module)
        if not path.is_file():
            code = self.implementation.code(assignment)
            raise NotSubmitted(missing_sentence(assignment, path, code))

    def switch_to(self, folder: Path) -> None:
        """From here on, check the code in `folder`; in a process that imports none of it itself."""
        for assignment in self.assignments.values():
            assert assignment.package not in sys.modules, (
                f"{assignment.package} was imported before {folder.name} was chosen"
            )
        self.implementation = replace(self.implementation, name=folder.name, folder=folder)
        os.environ[STAND_INS_VARIABLE] = str(folder)
        self.results.clear()
        self.endless_tasks.clear()

    def reference_process(self, items: list[pytest.Item]) -> ReferenceProcess:
        """Return the process of the reference, begun before any code under test is imported."""
        if self.reference is None:
            note_constants(own_constants(self.implementation, self._assignments_of(items)))
            self.reference = ReferenceProcess(spaces_of(items), self.times, self.unwritten)
        return self.reference

    @property
    def times(self) -> int:
        """How many times as many inputs as usual are drawn."""
        return THOROUGH if self.config.option.thorough else 1

    def import_code(self, items: list[pytest.Item]) -> None:
        """Import the modules that these checks are about, if nothing else happens by it."""
        for assignment in self.assignments.values():
            tasks = [self.task_of(item) for item in items]
            asked = {task.module for task in tasks if task.module and task in assignment.tasks}
            submitted = [
                f"{assignment.package}.{name}"
                for name in sorted(asked)
                if self.implementation.module_file(assignment, name).is_file()
            ]
            code = self.implementation.code(assignment)
            watched = (self.watched.run_check, self.watched.hanging) if self.watched else ()
            import_quiet_modules(submitted, code, *watched)

    def _watch_code(self) -> None:
        """Watch the code under test from here on, unless it is the reference."""
        implementation = self.implementation
        if implementation.is_reference or not can_isolate() or self.config.option.usepdb:
            return
        address = self.reference.address if self.reference else ""
        self.watched = WatchedCode(list(self.assignments.values()), implementation, address)
        self.watched.begin()

    # pytest's hooks, in the order in which they are called.

    @pytest.hookimpl(trylast=True)
    def pytest_sessionstart(self) -> None:
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        if self.quiet and reporter is not None:  # Ctrl-C: do not show where our code was
            reporter._report_keyboardinterrupt = lambda: None
        what = self.implementation.described(asked_for=self.config.option.impl is not None)
        more = f", with {THOROUGH} times as many drawn inputs" if self.times > 1 else ""
        self._write(f"{', '.join(self.assignments)}: {what}{more}")
        if not can_isolate():
            self._write("without os.fork, this system cannot limit time and memory", yellow=True)
        elif not can_limit_memory():
            self._write("this system can limit time, but not memory", yellow=True)

    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        """Skip the files of other tasks, so that their imports need not be loaded."""
        if collection_path.suffix != ".py" or not self.chosen_tasks:
            return None
        files = collection_path.parent.glob("*.py")
        texts = {path: path.read_text(encoding="utf-8") for path in files}
        asked = [f'"{task}"' for task in self.chosen_tasks]
        if not all(any(task in text for text in texts.values()) for task in asked):
            return None  # a suite that names its tasks in another way
        return None if any(task in texts[collection_path] for task in asked) else True

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Keep the chosen tasks, in the handout's order; but checks on drawn inputs come last,
        because the reference's process draws them in the meantime.
        """
        order = [task.id for each in self.assignments.values() for task in each.tasks]
        tasks = {item: self.task_of(item).id for item in items}
        for item, task_id in tasks.items():
            item.user_properties.append(("task", task_id))
        kept = [i for i in items if not self.chosen_tasks or tasks[i] in self.chosen_tasks]
        items[:] = sorted(
            kept, key=lambda item: (bool(spaces_of([item])), order.index(tasks[item]))
        )
        self.collected.update(tasks[item] for item in items)

    def pytest_deselected(self) -> None:
        self.whole_tasks = False  # by -k, -m or --lf; --task does not call this

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed and self.quiet:
            self.whole_tasks = False
            self._write(f"\nthe suite itself is broken: {report.nodeid}", red=True)
            self._write(report.longreprtext)

    def pytest_runtestloop(self, session: pytest.Session) -> None:
        if not session.config.option.collectonly:
            tasks = self._assignments_of(session.items)
            self.unwritten = unwritten_tasks(self.implementation, tasks)
            if spaces_of(session.items) and hasattr(os, "fork"):
                self.reference_process(session.items)
            self._watch_code()
            self.import_code(session.items)

    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> bool | None:
        if self.config.option.usepdb:
            self.in_child = True
            return None
        outcome = self._outcome(pyfuncitem)
        pyfuncitem.stash[OUTCOME] = outcome
        if outcome.status == SKIPPED:
            pytest.skip(outcome.message)
        if outcome.status != PASSED:
            lines = [outcome.message, *outcome.where]
            lines += [] if self.quiet else ["", outcome.traceback]
            text = "\n".join(lines)
            # pytest would filter the frames of the grader, which takes longer than many checks
            pyfuncitem.repr_failure = lambda excinfo, style=None: text
            pytest.fail(text, pytrace=False)
        return True

    def _outcome(self, item: pytest.Function) -> Outcome:
        """Run a check in its child, unless the first check of a task of stubs has told enough."""
        task = self.task_of(item)
        if task.id in self.seen_as_stubs:
            return Outcome(NOT_WRITTEN, f"not run: no function of {task.id} is written yet")
        is_first = task.id not in self.results
        outcome = self._outcome_in_child(item, task)
        self.in_child = False
        if outcome.timed_out:
            self.endless_tasks.add(task.id)
        if is_first and outcome.status == NOT_WRITTEN and task.id in self.unwritten:
            self.seen_as_stubs.add(task.id)
        return outcome

    def _outcome_in_child(self, item: pytest.Function, task: Task) -> Outcome:
        assignment = self.assignment_of(item)
        arguments = {name: item.funcargs[name] for name in item._fixtureinfo.argnames}
        code = self.implementation.code(assignment)

        def check() -> None:
            self.in_child = True
            item.obj(**arguments)

        def failure(error: BaseException) -> Outcome:
            return failure_of(error, check, code, assignment, task.id)

        try:
            if task.module:
                self._require(assignment, task.module)
            run = run_check
            if self.watched is not None:
                run = partial(self.watched.run_check, forbidden_calls=task.forbidden_calls)
            was_endless = task.id in self.endless_tasks
            limits = limits_of(item, self.times, was_endless, self.last_second)
            return run(check, failure, limits, code)
        except NotSubmitted as error:  # nothing to run: no process is started
            return failure(error)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        outcome = item.stash.get(OUTCOME, None) if report.when == "call" else None
        if call.excinfo is not None and outcome is None:  # set-up, tear-down, or under --pdb
            code = self.implementation.code(self.assignment_of(item))
            outcome = outcome_of(call.excinfo.value, code, self.task_of(item).id)
        if outcome is None and report.when == "call":
            outcome = Outcome(PASSED)
        if outcome is not None:
            report.graded = outcome  # for the letter
            name = item.nodeid.split("::", 1)[-1]
            result = CheckResult(name, outcome, report.capstdout + report.capstderr)
            self.results.setdefault(self.task_of(item).id, {})[item.nodeid] = result
        return report

    def pytest_report_teststatus(self, report: Any) -> tuple[str, Any, Any] | None:
        outcome = getattr(report, "graded", None)
        if outcome is None:
            return None
        category = {PASSED: "passed", SKIPPED: "skipped"}.get(outcome.status, "failed")
        letter = LETTERS.get(outcome.status, "F")
        return (
            category,
            letter,
            (outcome.status.upper(), COLOURS.get(outcome.status, {"red": True})),
        )

    def pytest_terminal_summary(self, exitstatus: int) -> None:
        if self.config.option.collectonly:
            return
        width = self._terminal().fullwidth
        some_tasks = bool(self.chosen_tasks) or not self.whole_tasks
        is_reference = self.implementation.name == REFERENCE
        unasked = is_reference and self.config.option.impl != REFERENCE
        stopped = exitstatus == pytest.ExitCode.INTERRUPTED
        for grade in self.grades():
            for text, style in summary_lines(grade, width, some_tasks, stopped, unasked, self.root):
                self._write(text, **({style: True} if style else {}))
        if unasked:
            start = f"lm start {' '.join(self.assignments)}"
            self._write("You have no workspace yet: this was the reference.", yellow=True)
            self._write(f"Begin with `{start}`.", yellow=True)

    def pytest_unconfigure(self) -> None:
        if self.reference is not None:
            self.reference.close()

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        if self.config.option.collectonly or not self.results:
            return
        if self.config.option.grade_json:
            values = {
                "implementation": self.implementation.name,
                "assignments": [grade.as_json() for grade in self.grades()],
            }
            write_json(self.config.invocation_params.dir / self.config.option.grade_json, values)
        finished = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
        whole = finished and self.whole_tasks and not self.config.option.maxfail
        if whole and self.implementation.name == WORKSPACE:
            self._record_progress()

    def grades(self) -> list[AssignmentGrade]:
        return [
            AssignmentGrade(
                assignment,
                [
                    TaskGrade(
                        task,
                        list(self.results.get(task.id, {}).values()),
                        self.collected[task.id],
                    )
                    for task in assignment.tasks
                    if self._is_shown(task)
                ],
            )
            for assignment in self.assignments.values()
        ]

    def _is_shown(self, task: Task) -> bool:
        """Return True for the chosen tasks; or for all, unless only some checks were selected."""
        if self.chosen_tasks:
            return task.id in self.chosen_tasks
        return self.whole_tasks or self.collected[task.id] > 0

    def _record_progress(self) -> None:
        path = progress_file(home_folder(self.root, self.config.invocation_params.dir))
        tasks = [task for grade in self.grades() for task in grade.tasks]
        problem = record_results(path, [(task.task.id, task.passed, task.checks) for task in tasks])
        if problem:
            self._write(f"not recorded: {problem}", yellow=True)

    def _terminal(self) -> Any:
        return self.config.get_terminal_writer()

    def _write(self, text: str, **markup: bool) -> None:
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.ensure_newline()
            reporter.write_line(text, **markup)
