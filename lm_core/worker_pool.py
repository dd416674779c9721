"""Worker processes that leave Ctrl-C to the process that started them.

The terminal sends SIGINT to every process of a command. Workers that took it would each print a
traceback; these ignore it, and end when the parent leaves the block. Workers are spawned, not
forked, because fork is unsafe once threads run; so a script that gets here needs
`if __name__ == "__main__":`, as with all of `multiprocessing`.

Not `multiprocessing.Pool`: it waits for ever for a worker that the system killed.
"""

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from lm_core.user_error import UserError


def _start(initializer: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if initializer is not None:
        initializer(*arguments)


@contextmanager
def worker_pool(
    num_processes: int,
    initializer: Callable[..., None] | None = None,
    arguments: tuple[Any, ...] = (),
) -> Iterator[ProcessPoolExecutor]:
    """A pool of spawned processes, ended when the block is left, however it is left.

    Args:
        num_processes: how many.
        initializer: called once in each worker with `arguments`; importable by name.
        arguments: see there.

    Raises UserError where a worker ends before its work is done.
    """
    others = multiprocessing.active_children()
    pool = ProcessPoolExecutor(
        num_processes, multiprocessing.get_context("spawn"), _start, (initializer, arguments)
    )
    try:
        yield pool
    except BaseException as error:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            if process not in others:
                process.kill()
        if isinstance(error, BrokenProcessPool):
            raise UserError(
                "a worker process ended before its work was done; most often the system ended it "
                "for want of memory: run the same command again with fewer processes "
                "(num_processes = 1 needs least)"
            ) from error
        raise
    pool.shutdown()
