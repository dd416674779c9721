"""One check of a graded run: what it may use, and what its failure means for its task.

What this leaves out: the child that it runs in (forked_check), and the wording (check_outcome).
"""

import math
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from lm_course.containment.own_imports import HangsAtImport
from lm_course.grading.check_outcome import LearnerCode, Outcome, outcome_of, without_return
from lm_course.grading.forked_check import Limits
from lm_course.grading.missing_return import function_without_return, is_about_none
from lm_course.learning.assignment_file import Assignment


def limits_of(
    item: pytest.Item, times: int, was_endless: bool, last_second: float = math.inf
) -> Limits:
    """Return what a check may use.

    Args:
        item: the check; its mark `limit` says what it needs.
        times: how many times as many inputs as usual are drawn; it gets as many times the time.
        was_endless: whether a check of the same task has reached its time limit.
        last_second: of time.monotonic(); no check may use more time than is left.
    """
    marker = item.get_closest_marker("limit")
    limits = Limits(**marker.kwargs) if marker else Limits()
    limits = replace(limits, seconds=times * limits.seconds)
    limits = limits.shorter() if was_endless else limits
    left = max(0.0, last_second - time.monotonic())
    return replace(limits, seconds=min(limits.seconds, left))


def failure_of(
    error: BaseException,
    check: Callable[[], object],
    code: LearnerCode,
    assignment: Assignment,
    task_id: str,
) -> Outcome:
    """Return what an exception of a check means; the check runs again if it is about a None."""
    if isinstance(error, HangsAtImport):
        return error.outcome
    outcome = outcome_of(error, code, task_id)
    if not is_about_none(error):
        return outcome
    graded = {name for task in assignment.tasks for name in task.functions}
    return without_return(outcome, function_without_return(check, code, graded))
