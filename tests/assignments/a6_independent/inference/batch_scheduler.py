"""Continuous batching: which tokens of which requests the model computes in the next step.

An independent solution, written from the handout of a6 alone. `make_room` and `schedule` share one
function that deals out the budget; places are reserved as soon as a chunk is decided, so that the
available blocks are always those that are left; and requests that leave the running ones are
swept out by their state.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum

from pydantic import model_validator

from inference.block_pool import (
    BlockPool,
    BlockTable,
    block_keys,
    blocks_needed,
    record_full_blocks,
    release_all,
    reserve,
    take_cached_prefix,
)
from lm_core.settings import Settings
from lm_core.user_error import UserError


class RequestState(Enum):
    """Where a request is."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


class FinishReason(StrEnum):
    """Why a request ended: a stop id was drawn, a limit was reached, or it was aborted."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"


@dataclass(eq=False)
class Request:
    """A prompt, what was answered so far, and how far its keys and values are computed.

    Attributes:
        id: its name, unique among those that have not ended.
        max_new_tokens: the limit of the answer, in tokens.
        stop_ids: ids that end the answer and do not belong to it.
        num_computed: how many tokens, from the first, have keys and values in the blocks.
        table: the blocks. After `schedule`, it also has places for the tokens of the step.
        finish_reason: None until it ends.
        num_preemptions: how often it lost its blocks.
    """

    id: str
    prompt_ids: list[int]
    max_new_tokens: int
    stop_ids: frozenset[int] = frozenset()
    answer_ids: list[int] = field(default_factory=list)
    num_computed: int = 0
    table: BlockTable = field(default_factory=lambda: BlockTable([], 0))
    state: RequestState = RequestState.WAITING
    finish_reason: FinishReason | None = None
    num_preemptions: int = 0

    @property
    def token_ids(self) -> list[int]:
        """The known tokens: prompt and answer, in a new list."""
        return self.prompt_ids + self.answer_ids

    @property
    def num_to_compute(self) -> int:
        """How many known tokens have no keys and values yet; 1 while it decodes."""
        return len(self.prompt_ids) + len(self.answer_ids) - self.num_computed


class SchedulerSettings(Settings):
    """The limits of a step.

    Attributes:
        max_tokens_per_step: the most tokens that it computes, of all requests together.
        max_running: the most requests that hold blocks at one time.
        prefix_caching: whether requests share the blocks of equal beginnings.
    """

    max_tokens_per_step: int = 512
    max_running: int = 16
    prefix_caching: bool = True

    @model_validator(mode="after")
    def _check_ranges(self) -> "SchedulerSettings":
        if not 1 <= self.max_running <= self.max_tokens_per_step:
            raise UserError(
                f"max_running must be 1 to max_tokens_per_step ({self.max_tokens_per_step}), so "
                f"that each running request gets a token in every step; got {self.max_running}"
            )
        return self


@dataclass(frozen=True)
class Chunk:
    """Tokens `first` to `first + count - 1`; `samples` if the last known one is among them."""

    request: Request
    first: int
    count: int
    samples: bool


@dataclass(frozen=True)
class Step:
    """Chunks of different requests; before, the blocks in `copies` are copied, (source, target)."""

    chunks: list[Chunk]
    copies: list[tuple[int, int]]
    preempted: list[Request]


class Scheduler:
    """Holds the requests that have not ended, and decides step by step what is computed.

    Use `schedule`, compute the step, and `finish_step` in turns; `add` and `abort` at any time.
    `waiting` and `running` are in the order of arrival.
    """

    def __init__(
        self,
        pool: BlockPool,
        settings: SchedulerSettings,
        context_length: int,
        model_key: bytes = b"",
    ) -> None:
        self.pool, self.settings = pool, settings
        self.context_length, self.model_key = context_length, model_key
        self.waiting: list[Request] = []
        self.running: list[Request] = []

    @property
    def has_work(self) -> bool:
        """Whether a request has not ended."""
        return bool(self.waiting or self.running)

    def add(self, request: Request) -> None:
        """Let a new request wait behind all others.

        Raises ValueError if its id is in use, the prompt is empty or longer than the context, the
        limit is below one token, or the request would not fit into the pool even alone.
        """
        prompt, limit = len(request.prompt_ids), request.max_new_tokens
        if any(request.id == other.id for other in (*self.running, *self.waiting)):
            raise UserError(f"the id {request.id!r} is in use by a request that has not ended")
        if prompt == 0:
            raise UserError(f"the prompt of request {request.id!r} is empty; give a token at least")
        if prompt > self.context_length:
            raise UserError(
                f"the prompt of request {request.id!r} has {prompt} tokens, and the context holds "
                f"{self.context_length}; shorten it"
            )
        if limit < 1:
            raise UserError(f"max_new_tokens must be at least 1, got {limit}")
        places = self.pool.num_blocks * self.pool.block_size
        needed = min(prompt + limit - 1, self.context_length)
        if needed > places:
            raise UserError(
                f"request {request.id!r} needs places for {needed} tokens, and all blocks together "
                f"have {places}; lower max_new_tokens, or make a pool of more blocks"
            )
        self.waiting.append(request)

    def schedule(self) -> Step:
        """Choose the tokens of the next step, and reserve their places in the blocks.

        First some requests may have to make room. Then running requests with one token to compute
        get theirs, after them the other running ones, at last waiting ones, each by arrival. Nobody
        is admitted in a step that preempts.
        """
        step = Step([], [], self.make_room())

        def hand_out(request: Request, count: int) -> None:
            samples = count == request.num_to_compute
            step.copies.extend(reserve(self.pool, request.table, count))
            step.chunks.append(Chunk(request, request.num_computed, count, samples))

        left = self.settings.max_tokens_per_step
        for request, count in self._shares():
            hand_out(request, count)
            left -= count
        if step.preempted:
            return step
        while self.waiting and left and len(self.running) < self.settings.max_running:
            request = self.waiting[0]
            if not self._admit(request):
                break
            self.running.append(self.waiting.pop(0))
            count = min(request.num_to_compute, left)
            hand_out(request, count)
            left -= count
        return step

    def make_room(self) -> list[Request]:
        """Preempt running requests, the latest first, until the others find the blocks that they
        need in this step; return them. Each gives up its blocks and waits in front of all others.
        """
        preempted: list[Request] = []
        while self.pool.num_available < sum(
            blocks_needed(self.pool, request.table, count) for request, count in self._shares()
        ):
            latest = self.running.pop()
            release_all(self.pool, latest.table)
            latest.num_computed = 0
            latest.num_preemptions += 1
            latest.state = RequestState.WAITING
            preempted.append(latest)
        self.waiting[:0] = reversed(preempted)
        return preempted

    def _shares(self) -> Iterator[tuple[Request, int]]:
        """Yield the running requests that get tokens of the next step, with their numbers: those
        that decode come first.
        """
        left = self.settings.max_tokens_per_step
        for request in sorted(self.running, key=lambda each: each.num_to_compute != 1):
            if count := min(request.num_to_compute, left):
                left -= count
                yield request, count

    def _admit(self, request: Request) -> bool:
        """Give a waiting request its cached beginning, if there is room for all other known tokens;
        otherwise leave everything as it was.
        """
        if self.settings.prefix_caching:
            known = request.token_ids
            request.table = take_cached_prefix(self.pool, known, self._keys(known))
        cached = request.table.num_tokens
        missing = len(request.prompt_ids) + len(request.answer_ids) - cached
        if blocks_needed(self.pool, request.table, missing) > self.pool.num_available:
            release_all(self.pool, request.table)
            return False
        request.num_computed = cached
        request.state = RequestState.RUNNING
        return True

    def _keys(self, token_ids: list[int]) -> list[bytes]:
        return block_keys(token_ids, self.pool.block_size, self.model_key)

    def _end(self, request: Request, reason: FinishReason) -> None:
        """Take its blocks from a request; the caller takes it out of its list."""
        release_all(self.pool, request.table)
        request.state, request.finish_reason = RequestState.FINISHED, reason

    def finish_step(self, step: Step, sampled: Mapping[str, int]) -> list[Request]:
        """Take over the results of a step, and return the requests that ended with it.

        `sampled` maps the id of each request whose chunk samples to the token id drawn. Chunks of
        requests that were aborted since `schedule` are ignored.
        """
        ended: list[Request] = []
        size = self.pool.block_size
        for chunk in step.chunks:
            request = chunk.request
            if request.state is not RequestState.RUNNING:
                continue
            request.num_computed = chunk.first + chunk.count
            has_filled_block = request.num_computed // size > chunk.first // size
            if has_filled_block and self.settings.prefix_caching:
                keys = self._keys(request.token_ids)
                record_full_blocks(self.pool, request.table, keys, request.num_computed)
            if not chunk.samples:
                continue
            token = sampled[request.id]
            if token in request.stop_ids:
                self._end(request, FinishReason.STOP)
            else:
                request.answer_ids.append(token)
                num_known = len(request.prompt_ids) + len(request.answer_ids)
                is_full = num_known > self.context_length
                if is_full or len(request.answer_ids) >= request.max_new_tokens:
                    self._end(request, FinishReason.LENGTH)
            if request.state is RequestState.FINISHED:
                ended.append(request)
        self.running[:] = [each for each in self.running if each.state is RequestState.RUNNING]
        return ended

    def abort(self, request_id: str) -> bool:
        """End a request now, even within a step; False if none with this id is left."""
        for requests in (self.running, self.waiting):
            for place, request in enumerate(requests):
                if request.id == request_id:
                    self._end(request, FinishReason.ABORT)
                    del requests[place]
                    return True
        return False
