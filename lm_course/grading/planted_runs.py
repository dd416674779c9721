"""Many graded runs in one pytest session: the suite is collected once, and the session forks itself
for every folder that is to be graded.

`lm_course.grading.mutants` plants its mistakes with it: starting pytest and importing PyTorch takes
seconds, most checks take milliseconds. What this leaves out: points, and whatever follows the first
check that fails.
"""

import json
import os
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import pytest
from _pytest.runner import runtestprotocol

from lm_course.grading.check_outcome import FAILING
from lm_course.grading.forked_check import fork
from lm_course.grading.graded_session import GradedRun


class Failure(NamedTuple):
    """The first check that failed, and the first line of its message."""

    check: str
    message: str


class PlantedRuns:
    """A pytest plugin that takes the place of the loop over all checks.

    Args:
        folders: a task and a folder with the code to check it on, for each run.
        tell: called after each run, with its number and its first failure, or None.
        seconds: that a run may take; each check has its own limit.
    """

    def __init__(
        self,
        folders: Iterable[tuple[str, Path]],
        tell: Callable[[int, Failure | None], None],
        seconds: int,
    ) -> None:
        self.folders = folders
        self.tell = tell
        self.seconds = seconds

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.testsfailed:
            raise session.Interrupted("the suite could not be collected")
        plugins = session.config.pluginmanager.get_plugins()
        (run,) = [plugin for plugin in plugins if isinstance(plugin, GradedRun)]
        set_up_session_fixtures(session.items)
        for number, (task, folder) in enumerate(self.folders):
            items = [item for item in session.items if run.task_of(item).id == task]
            self.tell(number, first_failure(run, items, task, folder, self.seconds))
        return True


def set_up_session_fixtures(items: list[pytest.Item]) -> None:
    """Run as few checks as bring every fixture of the session into being, so that no run pays for
    it again. The code under test is imported in their own children alone.
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
        # A fixture of the session stays as long as another check follows; one of a file, as long as
        # a check of that file does: an item of another file, so that nothing of this one stays.
        others = sorted(set(items) - {item}, key=lambda other: other.path == item.path)
        following = next(iter([*chosen[number + 1 :], *others]), None)
        runtestprotocol(item, nextitem=following, log=False)


def first_failure(
    run: GradedRun, items: list[pytest.Item], task: str, folder: Path, seconds: int
) -> Failure | None:
    """Grade the code in `folder` in a fork of this process, until a check fails."""
    verdict = folder / "verdict.json"
    child = fork()
    if child == 0:
        try:
            signal.alarm(seconds)
            run.switch_to(folder)
            failure = None
            for number, item in enumerate(items):
                following = next(iter(items[number + 1 :]), None)
                runtestprotocol(item, nextitem=following, log=False)
                result = run.results[task][item.nodeid]
                if result.outcome.status == FAILING:
                    failure = result.name, result.outcome.message.partition("\n")[0]
                    break
            verdict.write_text(json.dumps(failure), encoding="utf-8")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert verdict.exists(), f"{task}: the run on {folder.name} ended without a verdict"
    failure = json.loads(verdict.read_text(encoding="utf-8"))
    return None if failure is None else Failure(*failure)
