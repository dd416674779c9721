"""Worker processes that leave Ctrl-C to the process that started them.

The terminal sends SIGINT to every process of a command. Workers that handled it would each print a
traceback; these ignore it, and end with the block or with the parent, however that ends. Workers
are spawned, not forked, because fork is unsafe once threads run. So a script that uses them needs
`if __name__ == "__main__":`, as with all of `multiprocessing`.

`multiprocessing.Pool` is not used: it waits forever for a worker that the system killed.
"""

import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import parent_process, resource_tracker
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any

from lm_core.user_error import UserError

SECONDS_TO_END = 10  # for a process that has been told to end
INPUTS_AHEAD = 4  # per worker


class _Worker(SpawnProcess):
    def start(self) -> None:
        """Start with SIGINT blocked: Ctrl-C cannot interrupt Python before `_start` ignores it."""
        resource_tracker.ensure_running()  # which would unblock it
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Context(SpawnContext):
    """A context that remembers the processes that it creates."""

    def __init__(self) -> None:
        super().__init__()
        self._made: list[SpawnProcess] = []

    def Process(self, *arguments: Any, **named: Any) -> SpawnProcess:
        self._made.append(_Worker(*arguments, **named))
        return self._made[-1]

    @property
    def workers(self) -> list[SpawnProcess]:
        """The processes that the system has started; it may refuse one, or Ctrl-C come first."""
        return [process for process in self._made if process.pid is not None]

    def exit_codes(self) -> list[int | None]:
        """Return the exit codes of all workers, once they have ended; None for one that does not.
        Not by `join`: the executor's thread also joins, and the second caller may find no process.
        """
        deadline = time.monotonic() + SECONDS_TO_END
        while None in (codes := [w.exitcode for w in self.workers]) and time.monotonic() < deadline:
            time.sleep(0.01)
        return codes


class WorkerPool(ProcessPoolExecutor):
    """An executor whose `map` never cancels: in Python 3.11, a future that is cancelled when its
    worker dies ends the executor's thread with a traceback on the terminal.

    If a worker's initializer fails, its jobs raise the same exception. Otherwise the executor would
    print a traceback from every worker, and report only that a process had ended.
    """

    def __init__(self, num_processes: int, *start: Any) -> None:
        self.context = _Context()  # `start`: an initializer and its arguments, see `worker_pool`
        super().__init__(num_processes, self.context, _start, start)

    def abandon(self) -> None:
        """Take no more jobs, and wait for none. It does not end the workers."""
        if sys.version_info < (3, 11, 5):  # its thread would write the next job to nobody, forever
            self._call_queue._reader.close()
        self.shutdown(wait=False)

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        return super().submit(_call, function, arguments, named)

    def map(self, function: Callable[[Any], Any], inputs: Iterable[Any]) -> Iterator[Any]:
        """Yield results in the order of the inputs, of which only a few are read ahead."""
        waiting = deque()
        for item in inputs:
            waiting.append(self.submit(function, item))
            if len(waiting) > INPUTS_AHEAD * self._max_workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


_failure: Exception | None = None  # in a worker process: the exception of its initializer


def _call(function: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
    if _failure is not None:
        raise _failure
    return function(*arguments, **named)


def _end_with_the_parent() -> None:
    parent_process().join()
    os._exit(1)


def _start(initializer: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    if initializer is not None:
        try:
            initializer(*arguments)
        except Exception as error:
            global _failure
            _failure = error


@contextmanager
def worker_pool(
    num_processes: int,
    initializer: Callable[..., None] | None = None,
    arguments: tuple[Any, ...] = (),
) -> Iterator[WorkerPool]:
    """Yield a pool of spawned processes, and end them when the block is left, even by an error.

    Args:
        num_processes: the number of processes.
        initializer: called once in each worker with `arguments`; importable by name. If it raises
            an exception, the first job raises it.
        arguments: the arguments of `initializer`.

    Raises UserError if the system killed a worker, and BrokenProcessPool if one ended otherwise.
    """
    pool = WorkerPool(num_processes, initializer, arguments)
    try:
        yield pool
    except BaseException as error:
        pool.abandon()
        if not isinstance(error, BrokenProcessPool):  # which has ended the workers
            for worker in pool.context.workers:
                worker.kill()
        elif -signal.SIGKILL in pool.context.exit_codes():
            raise UserError(
                "the system killed a worker process, most likely for lack of memory; use fewer "
                "processes (--set STEP.num_processes=1 needs the least memory)"
            ) from error
        raise
    pool.shutdown()
