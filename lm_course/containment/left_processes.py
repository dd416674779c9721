"""Processes that a check leaves behind: named, and ended.

On Linux, the check's process adopts the processes of its processes, so that even those that cut
themselves loose are its children. What this leaves out: other systems, where only the check's own
process group is ended, and nothing is named.
"""

import ctypes
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36  # of prctl(2)
SECONDS_TO_END = 0.5  # for processes that have been told to end


class LeftProcesses:
    """Finds them; made once, before any check."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None) if sys.platform == "linux" else None

    def adopt(self) -> None:
        """From here on, take this process as the parent of what its processes leave behind."""
        if self._library is not None:
            self._library.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def end(self) -> list[str]:
        """End the processes that still run, and return their names."""
        if self._library is None or not _has_children():
            return []
        deadline = time.monotonic() + SECONDS_TO_END
        while left := _running_children():
            if time.monotonic() > deadline:
                break
            time.sleep(0.01)
            _has_children()
        names = [_name_of(process) for process in left]
        for process in left:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        return names


def _has_children() -> bool:
    """Return whether a child still runs; those that have ended are waited for."""
    try:
        while os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG) is not None:
            pass
    except ChildProcessError:
        return False
    return True


def _running_children() -> list[int]:
    """Return the children, without the helpers that `multiprocessing` keeps until its end."""
    found: list[int] = []
    for thread in Path("/proc/self/task").iterdir():
        with suppress(OSError):
            found += map(int, (thread / "children").read_text().split())
    return [process for process in found if process not in _helpers()]


def _helpers() -> set[int]:
    helpers = set()
    for module, name, attribute in (
        ("multiprocessing.resource_tracker", "_resource_tracker", "_pid"),
        ("multiprocessing.forkserver", "_forkserver", "_forkserver_pid"),
    ):
        helper = getattr(sys.modules.get(module), name, None)
        helpers.add(getattr(helper, attribute, None))
    return helpers - {None}


def _name_of(process: int) -> str:
    try:
        words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return f"process {process}"
    program = Path(os.fsdecode(words[0])).name
    return f"{program} (process {process})"
