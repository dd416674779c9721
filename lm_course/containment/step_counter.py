"""Steps of Python code: lines that run and calls that are made, the same on every machine.

What this leaves out: work inside C functions (only their calls can be counted), and other threads.
"""

import sys
from collections.abc import Callable
from typing import Any


class TooMuchWork(BaseException):
    """The error that stops code with too many steps; `except Exception` does not catch it."""


class StepCounter:
    """A counter of the lines of Python that run and the functions that are called.

    Use it as a context manager. You can read `steps` while it counts. It stops the counted code
    after `limit` steps, so that a failing check is quick too; read `steps` afterwards.

    Args:
        limit: more steps than this stop the code.
        c_calls: whether calls of C functions are counted, too; they stop nothing.

    Attributes:
        steps: so far.
        stopped: whether the code was stopped. `forbidden_acts` reads it, because Python then ends
            the tracing in the frame of that code.
    """

    def __init__(self, limit: float = float("inf"), c_calls: bool = False) -> None:
        self.steps = 0
        self.stopped = False
        self._limit = limit
        self._c_calls = c_calls

    def _trace(self, frame: Any, event: str, argument: Any) -> Callable[..., Any]:
        self.steps += 1
        if self.steps > self._limit:
            self.stopped = True
            raise TooMuchWork
        return self._trace

    def _profile(self, frame: Any, event: str, argument: Any) -> None:
        self.steps += event == "c_call"

    def __enter__(self) -> "StepCounter":
        self._before = sys.gettrace(), sys.getprofile()
        if self._c_calls:
            sys.setprofile(self._profile)
        sys.settrace(self._trace)
        return self

    def __exit__(self, *error: object) -> bool:
        trace, profile = self._before
        sys.settrace(trace)
        if self._c_calls:
            sys.setprofile(profile)
        return bool(error) and error[0] is TooMuchWork
