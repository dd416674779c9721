"""A right scheduler for a6.13 and a6.14, written in another way: it hands out tokens request by
request, and takes them back from a request that is preempted after it got some. Blocks
are objects with a count, not numbers of a pool.

What this leaves out: the contents of blocks, which the simulated model checks (scheduler_runs.py).
"""

from collections.abc import Sequence
from itertools import count
from typing import Any

from scheduler_runs import next_token


class Block:
    """A block: how many tables hold it, and the text from the start to its end if it is cached."""

    def __init__(self) -> None:
        self.holders = 1
        self.text: tuple[int, ...] | None = None


class Blocks:
    """The blocks of a pool: how many are empty, and the cached ones, the oldest first."""

    def __init__(self, number: int, size: int) -> None:
        self.size = size
        self.empty = number
        self.idle: list[Block] = []
        self.known: dict[tuple[int, ...], Block] = {}

    @property
    def available(self) -> int:
        return self.empty + len(self.idle)

    def take(self) -> Block:
        if self.empty:
            self.empty -= 1
        else:
            del self.known[self.idle.pop(0).text]  # type: ignore[arg-type]
        return Block()

    def hold(self, block: Block) -> None:
        if block.holders == 0:
            self.idle.remove(block)
        block.holders += 1

    def drop_all(self, blocks: list[Block]) -> None:
        while blocks:
            block = blocks.pop()
            block.holders -= 1
            if block.holders == 0:
                if block.text is None:
                    self.empty += 1
                else:
                    self.idle.append(block)


class Job:
    """A request of the oracle."""

    def __init__(self, number: int, request: Sequence[Any]) -> None:
        self.name = f"r{number}"
        self.arrival, prompt, self.limit, stops = request
        self.prompt, self.stops = list(prompt), set(stops)
        self.known = list(prompt)
        self.done = 0
        self.blocks: list[Block] = []
        self.state, self.reason, self.preemptions = "WAITING", None, 0

    @property
    def left(self) -> int:
        return len(self.known) - self.done


class Oracle:
    """The same run as `scheduler_runs.traced`."""

    def __init__(
        self, pool: tuple[int, int], limits: tuple[int, int], caching: bool, context: int
    ) -> None:
        self.blocks = Blocks(*pool)
        self.budget, self.most_running = limits
        self.caching, self.context = caching, context
        self.jobs: list[Job] = []  # that have not ended, by arrival
        self.given: dict[Job, int] = {}

    def of_state(self, state: str) -> list[Job]:
        return [job for job in self.jobs if job.state == state]

    def schedule(self) -> list[Job]:
        """Fill `given`, and return the preempted."""
        self.given, out = {}, []
        running = self.of_state("RUNNING")
        decoding = [job for job in running if job.left == 1]
        for job in decoding + [job for job in running if job not in decoding]:
            while job.state == "RUNNING":
                self.given[job] = min(job.left, self.budget - sum(self.given.values()))
                if sum(map(self._missing, self.given)) <= self.blocks.available:
                    break
                last = self.of_state("RUNNING")[-1]
                self.given.pop(last, None)  # it may be one that decodes, or this one
                self.blocks.drop_all(last.blocks)
                last.done, last.state = 0, "WAITING"
                last.preemptions += 1
                out.append(last)
        self.given = {job: number for job, number in self.given.items() if number}
        for job in self.given:
            self._take_blocks(job)
        for job in [] if out else self.of_state("WAITING"):
            left = self.budget - sum(self.given.values())
            if left == 0 or len(self.of_state("RUNNING")) == self.most_running:
                break
            self._find_prefix(job)
            self.given[job] = job.left
            if self._missing(job) > self.blocks.available:
                del self.given[job]
                self.blocks.drop_all(job.blocks)
                job.done = 0
                break
            job.state = "RUNNING"
            self.given[job] = min(job.left, left)
            self._take_blocks(job)
        return out

    def _missing(self, job: Job) -> int:
        return max(0, -(-(job.done + self.given[job]) // self.blocks.size) - len(job.blocks))

    def _take_blocks(self, job: Job) -> None:
        job.blocks += [self.blocks.take() for _ in range(self._missing(job))]

    def _find_prefix(self, job: Job) -> None:
        while self.caching and job.done + self.blocks.size < len(job.known):
            block = self.blocks.known.get(tuple(job.known[: job.done + self.blocks.size]))
            if block is None:
                return
            self.blocks.hold(block)
            job.blocks.append(block)
            job.done += self.blocks.size

    def finish(self) -> list[Job]:
        ended = []
        for job, number in self.given.items():
            if job.state != "RUNNING":
                continue
            full = job.done // self.blocks.size
            job.done += number
            fills = self.caching and job.done // self.blocks.size > full
            for index in range(job.done // self.blocks.size if fills else 0):
                text = tuple(job.known[: (index + 1) * self.blocks.size])
                if text not in self.blocks.known and job.blocks[index].text is None:
                    self.blocks.known[text] = job.blocks[index]
                    job.blocks[index].text = text
            if job.left == 0:
                token = next_token(job.known)
                job.known += [] if token in job.stops else [token]
                length = len(job.known) - len(job.prompt)
                if token in job.stops:
                    self.end(job, "stop")
                elif length == job.limit or len(job.known) == self.context + 1:
                    self.end(job, "length")
            if job.state == "FINISHED":
                ended.append(job)
        return ended

    def end(self, job: Job, reason: str) -> bool:
        if job not in self.jobs:
            return False
        self.blocks.drop_all(job.blocks)
        job.state, job.reason = "FINISHED", reason
        self.jobs.remove(job)
        return True


def traced_by_oracle(
    pool: tuple[int, int],
    limits: tuple[int, int],
    caching: bool,
    context: int,
    requests: Sequence[Sequence[Any]],
    aborts: Sequence[tuple[int, bool, int]],
    steps: int | None = None,
    by_hand: bool = False,
) -> list[Any]:
    """Return what `traced` returns for a right scheduler; without `steps`, until all have ended."""
    oracle = Oracle(pool, limits, caching, context)
    made = [Job(number, request) for number, request in enumerate(requests)]
    trace: list[Any] = []
    for number in count() if steps is None else range(steps):
        oracle.jobs += [job for job in made if job.arrival == number]
        early, late = (
            [made[i] for step, within, i in aborts if (step, within) == (number, when)]
            for when in (False, True)
        )
        aborted = [oracle.end(job, "abort") for job in early]
        preempted = oracle.schedule()
        event: dict[str, Any] = {
            "preempted": [job.name for job in preempted],
            "chunks": [(j.name, j.done, n, n == j.left) for j, n in oracle.given.items()],
            "running": [job.name for job in oracle.of_state("RUNNING")],
            "waiting": [job.name for job in oracle.of_state("WAITING")],
        }
        aborted += [oracle.end(job, "abort") for job in late]
        ended = [job.name for job in oracle.finish()]
        if not by_hand:
            event["ended"] = ended
        trace.append({**event, "aborted": aborted, "available": oracle.blocks.available})
        if steps is None and all(job.state == "FINISHED" for job in made):
            break
    return [
        *trace,
        {
            "answers": [job.known[len(job.prompt) :] for job in made],
            "states": [job.state for job in made],
            "preemptions": [job.preemptions for job in made],
            **({} if by_hand else {"reasons": [job.reason for job in made]}),
        },
    ]
