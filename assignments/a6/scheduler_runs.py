"""Runs of a scheduler with a simulated model, for the checks of a6.13 and a6.14.

Each place of each block holds what was last written to it: the position and the id of a token. The
simulated model reads the places through the request's table, as attention reads keys and values,
and its next token depends on every id that it reads. So a wrong block, a stale place, a token that
is skipped or a wrong position shows up at the place where it happens.

What this leaves out: what the right schedule is (scheduler_oracle.py).
"""

import zlib
from collections.abc import Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

from lm_course.grading.check_outcome import GradedFailure
from lm_course.grading.comparisons import message_of

VOCAB = 7


def next_token(token_ids: Sequence[int]) -> int:
    """Return the token that the simulated model gives after these (each below 256)."""
    return zlib.crc32(bytes(token_ids)) % VOCAB


def answer_alone(
    prompt: Sequence[int], max_new_tokens: int, stop_ids: frozenset[int], context_length: int
) -> tuple[list[int], str]:
    """Return the answer to a prompt without any scheduler, and why it ends."""
    known = list(prompt)
    while True:
        token = next_token(known)
        if token in stop_ids:
            return known[len(prompt) :], "stop"
        known.append(token)
        if len(known) - len(prompt) == max_new_tokens or len(known) > context_length:
            return known[len(prompt) :], "length"


class SimulatedModel:
    """The contents of the blocks, and a forward pass over a step."""

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self.places: dict[tuple[int, int], tuple[int, int]] = {}

    def run(self, step: Any) -> dict[str, int]:
        """Compute a step; return the next token of each request whose chunk samples."""
        for source, target in step.copies:
            for offset in range(self.block_size):
                if (source, offset) in self.places:
                    self.places[target, offset] = self.places[source, offset]
        for chunk in step.chunks:  # what the chunk relies on was computed in earlier steps
            self._read(chunk, chunk.first, "is counted as computed, but")
        for chunk in step.chunks:
            for position in range(chunk.first, chunk.first + chunk.count):
                token = self._tokens(chunk)[position]
                self.places[self._place(chunk, position)] = position, token
        sampled = {}
        for chunk in step.chunks:
            seen = self._read(chunk, chunk.first + chunk.count, "was just written, but then")
            if chunk.samples:
                sampled[chunk.request.id] = next_token(seen)
        return sampled

    def _read(self, chunk: Any, end: int, what: str) -> list[int]:
        """Return the ids at the first `end` positions, as the blocks hold them."""
        seen = []
        for position, token in enumerate(self._tokens(chunk)[:end]):
            place = self._place(chunk, position)
            held = self.places.get(place)
            if held != (position, token):
                holds = f"position {held[0]}, token {held[1]}" if held else "nothing yet"
                values = {"expected": f"position {position}, token {token}", "got": holds}
                raise GradedFailure(
                    message_of(
                        f"position {position} of request {chunk.request.id!r} {what} its place "
                        f"(block {place[0]}, offset {place[1]}) holds something else",
                        values,
                    )
                )
            seen.append(held[1])
        return seen

    def _place(self, chunk: Any, position: int) -> tuple[int, int]:
        blocks = chunk.request.table.blocks
        if position // self.block_size >= len(blocks):
            raise GradedFailure(
                f"request {chunk.request.id!r} has no block for position {position}: its table "
                f"holds {len(blocks)} blocks of {self.block_size}; reserve the places of each "
                "chunk in schedule"
            )
        return blocks[position // self.block_size], position % self.block_size

    @staticmethod
    def _tokens(chunk: Any) -> list[int]:
        request = chunk.request
        known = [*request.prompt_ids, *request.answer_ids]
        if chunk.first + chunk.count > len(known):
            raise GradedFailure(
                f"the chunk of request {request.id!r} has tokens {chunk.first} to "
                f"{chunk.first + chunk.count - 1}, but only {len(known)} are known"
            )
        return known


def scheduler_of(
    module: ModuleType,
    pool: tuple[int, int],
    limits: tuple[int, int],
    caching: bool = True,
    context: int = 1000,
    model_key: bytes = b"",
) -> Any:
    """Return a new scheduler with a pool of its own: (blocks, block size), (tokens, running)."""
    settings = module.SchedulerSettings(
        max_tokens_per_step=limits[0], max_running=limits[1], prefix_caching=caching
    )
    block_pool = import_module("inference.block_pool")
    return module.Scheduler(block_pool.BlockPool(*pool), settings, context, model_key)


def finish_by_hand(scheduler: Any, step: Any, sampled: Mapping[str, int]) -> None:
    """Do for checks of `schedule` what `finish_step` does when no request ends."""
    block_pool = import_module("inference.block_pool")
    pool = scheduler.pool
    for chunk in step.chunks:
        request = chunk.request
        request.num_computed = end = chunk.first + chunk.count
        fills_a_block = end // pool.block_size > chunk.first // pool.block_size
        if scheduler.settings.prefix_caching and fills_a_block:
            known = [*request.prompt_ids, *request.answer_ids]
            keys = block_pool.block_keys(known, pool.block_size, scheduler.model_key)
            block_pool.record_full_blocks(pool, request.table, keys, request.num_computed)
        if chunk.samples:
            request.answer_ids.append(sampled[request.id])


def end_by_hand(module: ModuleType, scheduler: Any, request: Any) -> None:
    """Do for checks of `schedule` what happens when a running request ends."""
    import_module("inference.block_pool").release_all(scheduler.pool, request.table)
    scheduler.running.remove(request)
    request.state = module.RequestState.FINISHED


def chunks_of(step: Any) -> list[tuple[str, int, int, bool]]:
    return [(each.request.id, each.first, each.count, each.samples) for each in step.chunks]


def ids_of(requests: Sequence[Any]) -> list[str]:
    return [request.id for request in requests]


def traced(
    module: ModuleType,
    pool: tuple[int, int],
    limits: tuple[int, int],
    caching: bool,
    context: int,
    requests: Sequence[tuple[int, Sequence[int], int, Sequence[int]]],
    aborts: Sequence[tuple[int, bool, int]],
    steps: int,
    by_hand: bool = False,
) -> list[Any]:
    """Run requests, and return what happened in each step and how each request ended.

    Args:
        module: `inference.batch_scheduler`.
        pool: number of blocks, and their size.
        limits: tokens of a step, and running requests.
        caching: whether prefixes are cached.
        context: the model's context length.
        requests: each with the step before which it is added, the prompt, the limit of the answer
            and its stop ids. The i-th has the id "ri".
        aborts: each with its step, whether within it (after `schedule`), and the request's number.
        steps: how many are made at most.
        by_hand: whether the checks do what `finish_step` and `make_room` should do.
    """
    scheduler = scheduler_of(module, pool, limits, caching, context)
    if by_hand:
        scheduler.make_room = list  # nobody is preempted
    model = SimulatedModel(pool[1])
    made = [
        module.Request(f"r{i}", list(prompt), max_new, frozenset(stops))
        for i, (_, prompt, max_new, stops) in enumerate(requests)
    ]
    trace: list[Any] = []
    for number in range(steps):
        for request, (arrival, *_) in zip(made, requests, strict=True):
            if arrival == number:
                scheduler.add(request)
        trace.append(_one_step(module, scheduler, model, number, aborts, by_hand))
    reasons = {} if by_hand else {"reasons": [_reason(request) for request in made]}
    return [
        *trace,
        {
            "answers": [list(request.answer_ids) for request in made],
            "states": [request.state.name for request in made],
            "preemptions": [request.num_preemptions for request in made],
            **reasons,
        },
    ]


def _one_step(
    module: ModuleType,
    scheduler: Any,
    model: SimulatedModel,
    number: int,
    aborts: Sequence[tuple[int, bool, int]],
    by_hand: bool,
) -> dict[str, Any]:
    """Make step `number`, with its aborts, and return what happened in it."""
    aborted = [_abort(scheduler, number, False, each) for each in aborts]
    step = scheduler.schedule()
    event = {
        "preempted": ids_of(step.preempted),
        "chunks": chunks_of(step),
        "running": ids_of(scheduler.running),
        "waiting": ids_of(scheduler.waiting),
    }
    sampled = model.run(step)
    aborted += [_abort(scheduler, number, True, each) for each in aborts]
    if by_hand:
        finish_by_hand(scheduler, step, sampled)
        for chunk in step.chunks:
            request = chunk.request
            if len(request.answer_ids) >= request.max_new_tokens:
                end_by_hand(module, scheduler, request)
    else:
        event["ended"] = ids_of(scheduler.finish_step(step, sampled))
    event["aborted"] = [each for each in aborted if each is not None]
    event["available"] = scheduler.pool.num_available
    return event


def _abort(scheduler: Any, number: int, within: bool, abort: tuple[int, bool, int]) -> bool | None:
    return scheduler.abort(f"r{abort[2]}") if abort[:2] == (number, within) else None


def _reason(request: Any) -> str | None:
    return None if request.finish_reason is None else request.finish_reason.value
