"""Batches in processes of this machine, which may be killed.

Each worker is a pool of one process, so that the end of one does not touch the others. It writes
into shared memory which item of which job it is at, and since when. The parent reads that: it ends
a worker whose item takes too long, even inside C code, and knows which item a worker died at.

What this leaves out: a worker that is stopped and not killed (SIGSTOP) counts as slow.
"""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any

from data_pipeline.executors.executor import (
    KILLED,
    START_FAILURES,
    TOO_MUCH_MEMORY,
    TOO_SLOW,
    Function,
    Job,
    Jobs,
    Limits,
    Lost,
    Start,
    run_items,
    same_process,
)
from data_pipeline.executors.worker_memory import limit_memory
from lm_core.user_error import UserError
from lm_core.worker_pool import WorkerPool

JOBS_PER_WORKER = 2  # one in the works and one that waits, so that no worker waits for the parent
BATCHES_AHEAD = 8  # per worker: done or not, after the first that is not done
LONGEST_WAIT = 0.5  # seconds between two looks at the clock
JOB, ITEM, SINCE = range(3)  # of a worker's progress: two numbers, and seconds of a monotonic clock
STARTING, IDLE = -2, -1  # in place of the job's number

_function: Function | None = None  # of a worker process, set once by _start_worker
_progress: Any = None


def _start_worker(start: Start, limits: Limits, progress: Any) -> None:
    global _function, _progress
    _function, _progress = start(), progress
    limit_memory(limits.memory)
    progress[JOB] = IDLE


def _run_job(number: int, items: Sequence[Any]) -> tuple[list[Any], bool]:
    assert _function is not None, "the pool was started without _start_worker"

    def begin(index: int) -> None:
        _progress[SINCE] = time.monotonic()  # first: an old item with a new time is not slow
        _progress[ITEM] = index
        _progress[JOB] = number

    try:
        return run_items(_function, items, begin)
    finally:
        _progress[JOB] = IDLE


class _Worker:
    """One worker process, its jobs, and what it is at."""

    def __init__(self, start: Start, limits: Limits) -> None:
        self.limits = limits
        self.progress = get_context("spawn").RawArray("d", [STARTING, 0, 0])
        self.pool = WorkerPool(1, _start_worker, (start, limits, self.progress))
        self.jobs: dict[Future[Any], tuple[int, Job]] = {}
        self.is_slow = False

    def submit(self, number: int, job: Job) -> None:
        self.jobs[self.pool.submit(_run_job, number, job.items)] = (number, job)

    def end_if_slow(self) -> None:
        """Kill the process if its item has taken too long."""
        number, index, since = self.progress
        if number < 0 or self.is_slow or time.monotonic() - since < self.limits.seconds:
            return
        if tuple(self.progress) == (number, index, since):
            self.is_slow = True
            self.kill()

    def is_at(self) -> tuple[int, int | None] | None:
        """Return the number of its job and the index of its item; None between two jobs."""
        number, index, _ = self.progress
        return None if number < 0 else (int(number), int(index))

    @property
    def has_started(self) -> bool:
        return self.progress[JOB] != STARTING

    def end(self) -> None:
        self.pool.abandon()
        self.kill()

    def kill(self) -> None:
        for process in self.pool.context.workers:
            process.kill()


class LocalExecutor:
    """An executor whose workers are processes of this machine.

    Args:
        num_processes: the number of workers; 0 runs everything in the calling process, which
            nothing protects from an item that hangs or kills it.
        limits: see Limits.
    """

    def __init__(self, num_processes: int, limits: Limits) -> None:
        self.num_processes = num_processes
        self.limits = limits

    def map(
        self, start: Start, batches: Iterable[Sequence[Any]], lost: Lost
    ) -> Iterator[list[Any]]:
        """See Executor.map.

        Raises also UserError: workers end, one after the other, before they begin an item.
        """
        if self.num_processes == 0:
            yield from same_process(start, batches)
            return
        jobs = Jobs(batches, lost, BATCHES_AHEAD * self.num_processes)
        team = _Team(lambda: _Worker(start, self.limits), self.num_processes, jobs)
        try:
            while not jobs.done:
                team.hand_out()
                team.collect()
                yield from jobs.results()
        except BaseException:
            team.end()
            raise
        for worker in team.workers:
            worker.pool.shutdown()


class _Team:
    """The workers of a map, each replaced when it ends."""

    def __init__(self, new_worker: Callable[[], _Worker], size: int, jobs: Jobs) -> None:
        self.new_worker = new_worker
        self.size = size
        self.workers: list[_Worker] = []
        self.jobs = jobs
        self.numbers = itertools.count()
        self.start_failures = 0

    def hand_out(self) -> None:
        """Give jobs to all workers that have few, to the one with the fewest first."""
        while (job := self._next_for_a_worker()) is not None:
            if len(self.workers) < self.size and all(worker.jobs for worker in self.workers):
                self.workers.append(self.new_worker())
            worker = min(self.workers, key=lambda worker: len(worker.jobs))
            try:
                worker.submit(next(self.numbers), job)
            except BrokenProcessPool:  # it has ended since we looked
                self.jobs.put_back(job)
                self._replace(worker)

    def _next_for_a_worker(self) -> Job | None:
        full = [len(worker.jobs) >= JOBS_PER_WORKER for worker in self.workers]
        return None if len(full) == self.size and all(full) else self.jobs.next()

    def collect(self) -> None:
        """Wait for a job to end, or for LONGEST_WAIT; take results, and replace dead workers."""
        futures = [future for worker in self.workers for future in worker.jobs]
        if not futures:
            return
        limit = self.workers[0].limits.seconds
        done, _ = wait(futures, min(LONGEST_WAIT, limit / 4), FIRST_COMPLETED)
        for worker in list(self.workers):
            ended = [future for future in worker.jobs if future in done]
            if any(isinstance(future.exception(), BrokenProcessPool) for future in ended):
                self._replace(worker)
            elif sum(self._take(worker, future) for future in ended):  # of all, not until one
                for _, job in reversed(self._discard(worker)):
                    self.jobs.put_back(job)
            else:
                worker.end_if_slow()

    def _take(self, worker: _Worker, future: "Future[Any]") -> bool:
        """Take the results of a job, and return whether the worker's memory was used up."""
        _, job = worker.jobs.pop(future)
        self.start_failures = 0
        if isinstance(future.exception(), MemoryError):  # of the results, on their way to us
            self.jobs.ended_somewhere(job, TOO_MUCH_MEMORY)
            return True
        results, no_memory = future.result()
        self.jobs.finished(job, results)
        if no_memory:
            self.jobs.ended_at(job, len(results), TOO_MUCH_MEMORY)
        return no_memory

    def _discard(self, worker: _Worker) -> list[tuple[int, Job]]:
        """End a worker. Return the numbers and jobs that are not done, oldest first."""
        self.workers.remove(worker)
        worker.end()
        wait(worker.jobs)
        for future in list(worker.jobs):
            if not isinstance(future.exception(), BrokenProcessPool):
                self._take(worker, future)
        return list(worker.jobs.values())

    def _replace(self, worker: _Worker) -> None:
        """Discard a worker that has ended by itself or was slow, and blame the item it was at."""
        at = worker.is_at()
        reason = TOO_SLOW if worker.is_slow else KILLED
        unfinished = self._discard(worker)
        if not worker.has_started:
            self._count_start_failure(worker)
        elif at is None and unfinished:  # it was reading a job or writing results
            at = (unfinished[0][0], None)
        for number, job in reversed(unfinished):
            if at is None or number != at[0]:
                self.jobs.put_back(job)
            elif at[1] is None:
                self.jobs.ended_somewhere(job, reason)
            else:
                self.jobs.ended_at(job, at[1], reason)

    def _count_start_failure(self, worker: _Worker) -> None:
        self.start_failures += 1
        if self.start_failures == START_FAILURES:
            raise UserError(
                f"{START_FAILURES} worker processes ended before their first page (exit status "
                f"{worker.pool.context.exit_codes()[0]}); use fewer with --set "
                "documents.num_processes=1, or see whether the machine has memory left"
            )

    def end(self) -> None:
        """End all workers, and wait until they have ended."""
        for worker in self.workers:
            worker.end()
        for worker in self.workers:
            worker.pool.context.exit_codes()
