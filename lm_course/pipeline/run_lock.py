"""Only one `lm` at a time writes into a folder of runs: a second one would remove files that the
first has not finished, and both would train the same models.

What this leaves out: commands that only read a run (`lm chat`, `lm generate`), which need no lock.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from lm_core.user_error import UserError

LOCK_FILE = ".lock"  # stays there, empty; the system releases it when the process ends


@contextmanager
def run_lock(folder: Path, another_folder: str) -> Iterator[None]:
    """Hold the lock of a folder, which is created if it is missing, and removed again if nothing
    was written into it.

    Args:
        folder: a run's folder, or that of `lm ablate`.
        another_folder: the option that chooses another folder, for the error.

    Raises UserError at once if another process holds the lock.
    """
    new_parents = [parent for parent in folder.parents if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_FILE, mode=0o666)  # a folder may have two users
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise UserError(
            f"{folder}: another lm is running in this folder; wait until it ends, or choose "
            f"another folder with {another_folder}"
        ) from None
    try:
        yield
    finally:
        lock.release()
        if [path.name for path in folder.iterdir()] == [LOCK_FILE]:
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # not empty: another run has begun
                for parent in new_parents:
                    parent.rmdir()
