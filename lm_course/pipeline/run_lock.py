"""One `lm` at a time writes into a run's folder: a second one would remove the files that the first
has not finished, and both would train the same steps.

What this leaves out: commands that only read a run (`lm chat`, `lm generate`), which need no lock.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from lm_core.user_error import UserError

LOCK_FILE = ".lock"  # stays there, empty; the system releases it when the process ends


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a run's folder, which is created if it is missing.

    Raises UserError at once if another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise UserError(
            f"{folder}: another lm is running in this folder; wait until it ends, or give this run "
            "a folder of its own with --set run.name=NAME"
        ) from None
    try:
        yield
    finally:
        lock.release()
