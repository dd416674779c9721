"""A learner's code while it is graded: which acts are watched, and the verdict on a check.

The watch begins once, before any of that code is imported, and holds in every check. The reference
is not watched.
"""

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from lm_course.containment.forbidden_acts import ActsWatch
from lm_course.containment.left_processes import LeftProcesses
from lm_course.containment.own_imports import OwnImports
from lm_course.containment.protected_files import ProtectedFiles
from lm_course.containment.recorded_acts import FAILING as FAILING_ACT
from lm_course.containment.recorded_acts import FORBIDDEN, Act, RecordedActs
from lm_course.containment.replaced_functions import GraderFunctions
from lm_course.grading.check_outcome import FAILING, LearnerCode, Outcome
from lm_course.grading.code_under_test import Implementation
from lm_course.grading.forked_check import Limits, run_check
from lm_course.learning.assignment_file import Assignment
from lm_course.locations import ASSIGNMENTS, shipped


class WatchedCode:
    """The code of one folder.

    Args:
        assignments: whose packages and modules are graded.
        implementation: the folder under test.
        reference_address: of the socket at which the reference answers; "" if it does not run.
    """

    def __init__(
        self,
        assignments: list[Assignment],
        implementation: Implementation,
        reference_address: str,
    ) -> None:
        self.acts = RecordedActs()
        answers = {each.package: [*each.modules, *each.answer_modules] for each in assignments}
        folder, root = implementation.folder, implementation.root
        code = implementation.code(assignments[0])
        code = replace(code, folders=tuple(folder / each.package for each in assignments))
        files = ProtectedFiles(folder, root, answers, implementation.started_in)
        self._watch = ActsWatch(files, code, self.acts, reference_address)
        self._imports = OwnImports(assignments, folder, root, code, self.acts)
        self._suites = shipped(ASSIGNMENTS, root)
        self._processes = LeftProcesses()

    def begin(self) -> None:
        """Watch this process, and all that are forked from it."""
        self._functions = GraderFunctions(self._suites, self._watch.is_learner)
        self._imports.begin()
        self._watch.begin()

    @property
    def hanging(self) -> dict[str, Outcome]:
        """Modules whose import does not end, each with what was seen; importing one fails."""
        return self._imports.hanging

    def run_check(
        self,
        check: Callable[[], object],
        outcome_of: Callable[[BaseException], Outcome],
        limits: Limits,
        code: LearnerCode,
        forbidden_calls: Sequence[str] = (),
    ) -> Outcome:
        """Run a check in a child, as forked_check.run_check does, and judge what it did."""
        self.acts.clear()

        def watched() -> None:
            self._processes.adopt()
            try:
                with self._heard(forbidden_calls):
                    check()
            finally:
                self._look_back()

        outcome = run_check(watched, outcome_of, limits, code)
        forbidden, failing = self.acts.first(FORBIDDEN), self.acts.first(FAILING_ACT)
        if forbidden is not None:
            return _judged(outcome, forbidden, forbidden=True)
        return outcome if failing is None else _judged(outcome, failing, forbidden=False)

    def _heard(self, forbidden_calls: Sequence[str]) -> AbstractContextManager[Any]:
        if not forbidden_calls or "torch" not in sys.modules:
            return nullcontext()
        from lm_course.containment.counted_work import CallsWatch  # loads PyTorch

        return CallsWatch(forbidden_calls, self._watch.forbid_call)

    def _look_back(self) -> None:
        """Record what the check has left changed, or running."""
        name = self._functions.replaced()
        if name:
            act = Act(f"your code replaced {name}, which the grader uses: put nothing in its place")
            self.acts.record(FORBIDDEN, act)
        processes = self._processes.end()
        if processes:
            sentence = f"your code left {_listed(processes)} running: end what it starts"
            self.acts.record(FAILING_ACT, Act(sentence))


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more processes"


def _judged(outcome: Outcome, act: Act, forbidden: bool) -> Outcome:
    where = (act.place,) if act.place else outcome.where
    return replace(outcome, status=FAILING, message=act.sentence, where=where, forbidden=forbidden)
