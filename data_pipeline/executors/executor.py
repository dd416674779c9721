"""The protocol of executors: a function applied to the items of many batches, in processes.

An executor calls `start` once in each worker, and the function that it returns with every item.
Results come in the order of the batches, whatever the number of workers. If a worker is killed, or
is ended because an item takes too long or needs too much memory, `Jobs` decides what is run again:
an item that costs two workers is lost, and nothing else is.

What this leaves out: how workers are started and watched (`local_executor.py`, `ray_executor.py`).
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

KILLED, TOO_SLOW, TOO_MUCH_MEMORY = "killed its worker", "too slow", "too much memory"
CHANCES = 2  # the number of workers that an item may cost
START_FAILURES = 3  # of workers one after the other, before any of them has begun an item

Function = Callable[[Any], Any]
Start = Callable[[], Function]  # can be pickled
Lost = Callable[[Any, str], Any]  # an item and one of the reasons above -> its result


class Limits(NamedTuple):
    """The cost that an item may have.

    Attributes:
        seconds: after which the worker is ended, even inside a call to C code.
        memory: bytes of data that a worker may have, the item's among them.
    """

    seconds: float
    memory: int


class Executor(Protocol):
    """A way to run a function in several processes."""

    def map(
        self, start: Start, batches: Iterable[Sequence[Any]], lost: Lost
    ) -> Iterator[list[Any]]:
        """Yield the list of results of each batch, in order.

        Args:
            start: called once in each worker; returns the function of one item.
            batches: the items; only a few batches are read ahead.
            lost: makes the result of an item that could not be processed, from the item and the
                reason.

        Raises whatever `start` or the function raises, except MemoryError.
        """
        ...


@dataclass(eq=False)
class Job:
    """Items of one batch that a worker gets at once. `positions` are theirs in the batch."""

    batch: int
    positions: list[int]
    items: list[Any]
    again: bool = False  # an earlier worker ended in it, and nobody knows at which item


@dataclass
class _Batch:
    items: Sequence[Any]
    results: dict[int, Any] = field(default_factory=dict)
    ended: Counter[int] = field(default_factory=Counter)  # position -> workers that ended there


class Jobs:
    """The jobs of a map, the results in order, and what is run again.

    Args:
        batches: the items.
        lost: see Executor.map.
        ahead: the number of batches that may be in the works or wait for an earlier one.
    """

    def __init__(self, batches: Iterable[Sequence[Any]], lost: Lost, ahead: int) -> None:
        self._unread = iter(batches)
        self._lost = lost
        self._ahead = ahead
        self._open: dict[int, _Batch] = {}
        self._read = self._yielded = 0
        self._waiting: deque[Job] = deque()
        self._all_read = False

    def next(self) -> Job | None:
        """Return a job that no worker has; None if there is none at the moment."""
        if self._waiting:
            return self._waiting.popleft()
        if self._all_read or self._read - self._yielded >= self._ahead:
            return None
        items = next(self._unread, None)
        if items is None:
            self._all_read = True
            return None
        number, self._read = self._read, self._read + 1
        self._open[number] = _Batch(items)
        return Job(number, list(range(len(items))), list(items))

    @property
    def done(self) -> bool:
        """True if all results have been taken."""
        return self._all_read and not self._open

    def results(self) -> Iterator[list[Any]]:
        """Yield the batches that are complete, up to the first that is not."""
        while (batch := self._open.get(self._yielded)) is not None:
            if len(batch.results) < len(batch.items):
                return
            del self._open[self._yielded]
            self._yielded += 1
            yield [batch.results[position] for position in range(len(batch.items))]

    def finished(self, job: Job, results: Sequence[Any]) -> None:
        """Take the results of a job: those of all its items, or of the first few."""
        self._open[job.batch].results.update(zip(job.positions, results, strict=False))

    def put_back(self, job: Job) -> None:
        """Run a job again that no worker had begun."""
        self._waiting.appendleft(job)

    def ended_at(self, job: Job, index: int, reason: str) -> None:
        """Run the item `index` of a job, where a worker ended, by itself, or give it up; then run
        the others that have no result.
        """
        batch, position = self._open[job.batch], job.positions[index]
        batch.ended[position] += 1
        jobs = [self._part(job, 0, index), self._part(job, index + 1, len(job.items))]
        if batch.ended[position] < CHANCES:
            jobs.insert(0, self._part(job, index, index + 1))
        else:
            batch.results[position] = self._lost(job.items[index], reason)
        self._waiting.extendleft(part for part in reversed(jobs) if part.items)

    def ended_somewhere(self, job: Job, reason: str) -> None:
        """Run a job again in which a worker ended, nobody knows at which item: first as it was,
        then item by item.
        """
        if len(job.items) == 1:
            self.ended_at(job, 0, reason)
        elif not job.again:
            job.again = True
            self._waiting.appendleft(job)
        else:
            for position in job.positions:
                self._open[job.batch].ended[position] = CHANCES - 1
            parts = [self._part(job, i, i + 1) for i in range(len(job.items))]
            self._waiting.extendleft(reversed(parts))

    def _part(self, job: Job, start: int, end: int) -> Job:
        """Return the items of a job from `start` to `end` that have no result yet."""
        have = self._open[job.batch].results
        kept = [i for i in range(start, end) if job.positions[i] not in have]
        return Job(job.batch, [job.positions[i] for i in kept], [job.items[i] for i in kept])


def run_items(
    function: Function, items: Sequence[Any], begin: Callable[[int], None]
) -> tuple[list[Any], bool]:
    """Return the results of the items, in a worker, and whether memory ended before the last.

    `begin` is called with the index of each item before it.
    """
    results: list[Any] = []
    for index, item in enumerate(items):
        begin(index)
        try:
            results.append(function(item))
        except MemoryError:
            return results, True
    return results, False


def same_process(start: Start, batches: Iterable[Sequence[Any]]) -> Iterator[list[Any]]:
    """Yield the results of each batch without another process, so without a limit to anything."""
    function = start()
    for batch in batches:
        yield [function(item) for item in batch]
