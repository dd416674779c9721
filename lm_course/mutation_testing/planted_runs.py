"""Many graded runs in one pytest session, which collects the suite once.

Every check runs in a child of its own, as always, and only there the code of a folder is imported.
So this process never imports it, and can check one folder after another without another fork.

`mutant_runs` plants its mistakes with it: starting pytest and importing PyTorch takes
seconds, most checks take milliseconds. What this leaves out: points, and whatever follows the first
check that fails.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from _pytest.runner import runtestprotocol

from lm_core.user_error import UserError
from lm_course.grading.check_outcome import FAILING
from lm_course.grading.graded_session import GradedRun


class Failure(NamedTuple):
    """The first check that failed, and the first line of its message."""

    check: str
    message: str


class PlantedRuns:
    """A pytest plugin that takes the place of the loop over all checks.

    Args:
        folders: for each run its tasks, the check to begin with ("" for the first), and a folder
            with the code to check.
        control: a folder with correct code. A check that fails there, too, catches nothing: it
            fails for another reason, such as a broken set-up or a machine that is too busy.
        tell: called after each run, with its number and its first failure, or None.
        seconds: the limit of a run; each check has its own limit.
    """

    def __init__(
        self,
        folders: Iterable[tuple[Sequence[str], str, Path]],
        control: Path,
        tell: Callable[[int, Failure | None], None],
        seconds: int,
    ) -> None:
        self.folders = folders
        self.control = control
        self.tell = tell
        self.seconds = seconds
        self.proven: set[str] = set()  # checks that pass on the control
        self.refused: UserError | None = None  # a row that names no check; no run follows it

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.testsfailed:
            raise session.Interrupted("the suite could not be collected")
        plugins = session.config.pluginmanager.get_plugins()
        (run,) = [plugin for plugin in plugins if isinstance(plugin, GradedRun)]
        set_up_session_fixtures(session.items)
        for number, (tasks, begin, folder) in enumerate(self.folders):
            task, items = " ".join(tasks), checks_of(run, session.items, tasks)
            names = [name_of(item) for item in items]
            if not items or begin not in ("", *names):
                self.refused = UserError(
                    f"{folder.name}: {task} has no check {begin}; it has {', '.join(names)}"
                    if items
                    else f"{folder.name}: {task} has no checks; mark one with "
                    f'@pytest.mark.task("{task}")'
                )
                return True
            items.sort(key=lambda item: name_of(item) != begin)
            failure = first_failure(run, items, folder, self.seconds)
            if failure is not None and failure.check:
                self._prove(run, next(item for item in items if name_of(item) == failure.check))
            self.tell(number, failure)
        return True

    def _prove(self, run: GradedRun, item: pytest.Item) -> None:
        if item.nodeid in self.proven:
            return
        failure = first_failure(run, [item], self.control, self.seconds)
        assert failure is None, f"{item.nodeid} fails on correct code: {failure}"
        self.proven.add(item.nodeid)


def checks_of(run: GradedRun, items: list[pytest.Item], tasks: Sequence[str]) -> list[pytest.Item]:
    """Return the checks of these tasks, task by task."""
    of_task = {item: run.task_of(item).id for item in items}
    return [item for task in tasks for item in items if of_task[item] == task]


def name_of(item: pytest.Item) -> str:
    """Return the name of a check, as a result has it."""
    return item.nodeid.split("::", 1)[-1]


def set_up_session_fixtures(items: list[pytest.Item]) -> None:
    """Run as few checks as bring every fixture of the session into being, so that no run pays for
    it again. The code under test is imported only in their own children.
    """
    chosen, ready = [], set()
    for item in items:
        needed = {
            name
            for name, definitions in item._fixtureinfo.name2fixturedefs.items()
            if definitions[-1].scope == "session"
        }
        if needed - ready:
            chosen.append(item)
            ready |= needed
    for number, item in enumerate(chosen):
        following = next(iter(chosen[number + 1 :]), None) or follower(item, items)
        runtestprotocol(item, nextitem=following, log=False)


def follower(item: pytest.Item, items: list[pytest.Item]) -> pytest.Item | None:
    """Return a check that may be run after this one without a new set-up of the session.

    A session fixture stays as long as another check follows, a fixture of a file as long as the
    next check is in that file.
    """
    others = [other for other in items if other is not item]
    return next((o for o in others if o.path != item.path), next(iter(others), None))


def first_failure(
    run: GradedRun, items: list[pytest.Item], folder: Path, seconds: int
) -> Failure | None:
    """Grade the code in `folder` until a check fails. A run that reaches its limit has a failure
    without a check.
    """
    run.switch_to(folder)
    run.last_second = time.monotonic() + seconds
    for item in items:
        runtestprotocol(item, nextitem=follower(item, item.session.items), log=False)
        result = run.results[run.task_of(item).id][item.nodeid]
        too_late = time.monotonic() >= run.last_second
        if result.outcome.status == FAILING and not (too_late and result.outcome.timed_out):
            return Failure(result.name, result.outcome.message.partition("\n")[0])
        if too_late:
            return Failure("", f"no verdict within {seconds} s")
    return None
