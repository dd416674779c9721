"""Continuous batching: which tokens of which requests the model computes in the next step.

    add -> waiting -> schedule -> running -> schedule -> ... -> finish_step -> finished
                         ^            |
                         +-preempted--+   no blocks left: back to the front of those that wait

A batch is put together anew for every step: a request joins as soon as there is room and leaves as
soon as it ends (Yu et al. 2022, "Orca", OSDI, section 3.1). A step has a budget of tokens. Requests
that decode take one token each, and first; a prompt is cut into chunks that fill up what is left,
so that a long prompt never delays the answers that are being written (Agrawal et al. 2024,
"Sarathi-Serve", arXiv 2403.02310, section 4.2). When the blocks run out, the request that arrived
last gives up its own and is computed again later (Kwon et al. 2023, arXiv 2309.06180, section 4.5).

Nobody overtakes: every running request arrived before every waiting one, so a preempted one belongs
at the front of `waiting`. The oldest gets tokens in every step, so everything ends.

What this leaves out: the model and sampling (the engine calls them between `schedule` and
`finish_step`), priorities, blocks swapped to another memory, several samples that share one prompt.
"""

from collections.abc import Mapping
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
        num_prompt = len(request.prompt_ids)
        if any(request.id == other.id for other in self.waiting + self.running):
            raise UserError(f"a request with the id {request.id!r} has not ended; use another id")
        if num_prompt == 0:
            raise UserError("the prompt has no tokens; give at least one")
        if num_prompt > self.context_length:
            limit = f"the model's context holds {self.context_length}"
            raise UserError(f"the prompt has {num_prompt} tokens, {limit}: shorten the prompt")
        if request.max_new_tokens < 1:
            raise UserError(f"max_new_tokens must be at least 1, got {request.max_new_tokens}")
        # The last token of an answer is never computed.
        most = min(num_prompt + request.max_new_tokens - 1, self.context_length)
        places = self.pool.num_blocks * self.pool.block_size
        if most > places:
            raise UserError(
                f"a prompt of {num_prompt} and an answer of {request.max_new_tokens} tokens need "
                f"{most} places in the blocks, which have {places}: ask for fewer tokens"
            )
        self.waiting.append(request)

    def schedule(self) -> Step:
        """Choose the tokens of the next step, and reserve their places in the blocks.

        First some requests may have to make room. Then running requests with one token to compute
        get theirs, after them the other running ones, at last waiting ones, each by arrival. Nobody
        is admitted in a step that preempts.
        """
        step = Step([], [], self.make_room())
        budget = self.settings.max_tokens_per_step
        for request, count in self._shares():
            budget -= self._plan(step, request, count)
        while budget > 0 and not step.preempted and (request := self._admit_next()):
            budget -= self._plan(step, request, min(request.num_to_compute, budget))
        return step

    def make_room(self) -> list[Request]:
        """Preempt running requests, the latest first, until the others find the blocks that they
        need in this step; return them. Each gives up its blocks and waits in front of all others.
        """
        preempted = []
        while self._blocks_needed() > self.pool.num_available:
            request = self.running.pop()
            release_all(self.pool, request.table)
            request.num_computed = 0
            request.num_preemptions += 1
            request.state = RequestState.WAITING
            self.waiting.insert(0, request)
            preempted.append(request)
        return preempted

    def finish_step(self, step: Step, sampled: Mapping[str, int]) -> list[Request]:
        """Take over the results of a step, and return the requests that ended with it.

        `sampled` maps the id of each request whose chunk samples to the token id drawn. Chunks of
        requests that were aborted since `schedule` are ignored.
        """
        size, ended = self.pool.block_size, []
        for chunk in step.chunks:
            request = chunk.request
            if request.state is not RequestState.RUNNING:
                continue
            request.num_computed = end = chunk.first + chunk.count
            if self.settings.prefix_caching and end // size > chunk.first // size:
                keys = block_keys(request.token_ids, size, self.model_key)
                record_full_blocks(self.pool, request.table, keys, end)
            if chunk.samples and (reason := self._take(request, sampled[request.id])):
                self._end(request, reason)
                ended.append(request)
        return ended

    def abort(self, request_id: str) -> bool:
        """End a request now, even within a step; False if none with this id is left."""
        for request in self.waiting + self.running:
            if request.id == request_id:
                self._end(request, FinishReason.ABORT)
                return True
        return False

    def _shares(self) -> list[tuple[Request, int]]:
        """How many tokens each running request gets in this step, without those that get none."""
        shares = []
        budget = self.settings.max_tokens_per_step
        for request in sorted(self.running, key=lambda request: request.num_to_compute > 1):
            if count := min(request.num_to_compute, budget):
                shares.append((request, count))
                budget -= count
        return shares

    def _blocks_needed(self) -> int:
        return sum(blocks_needed(self.pool, each.table, count) for each, count in self._shares())

    def _plan(self, step: Step, request: Request, count: int) -> int:
        """Reserve places for the next `count` tokens of a request, add them to the step."""
        step.copies.extend(reserve(self.pool, request.table, count))
        samples = count == request.num_to_compute
        step.chunks.append(Chunk(request, request.num_computed, count, samples))
        return count

    def _admit_next(self) -> Request | None:
        """Let the first waiting request run, with the blocks of its beginning that are cached.

        None if it must wait: all its known tokens have to fit into the available blocks, not only
        its first chunk, or it would soon be preempted and computed again.
        """
        if not self.waiting or len(self.running) >= self.settings.max_running:
            return None
        request = self.waiting[0]
        if self.settings.prefix_caching:
            keys = block_keys(request.token_ids, self.pool.block_size, self.model_key)
            request.table = take_cached_prefix(self.pool, request.token_ids, keys)
        available = self.pool.num_available  # until now, the cached blocks above were, too
        num_new = request.num_to_compute - request.table.num_tokens
        if blocks_needed(self.pool, request.table, num_new) > available:
            release_all(self.pool, request.table)
            return None
        request.num_computed = request.table.num_tokens
        request.state = RequestState.RUNNING
        self.running.append(self.waiting.pop(0))
        return request

    def _take(self, request: Request, token: int) -> FinishReason | None:
        """Append the token to the answer unless it is a stop id; why the request ends, if so."""
        if token in request.stop_ids:
            return FinishReason.STOP
        request.answer_ids.append(token)
        # A token at position context_length may be the last of an answer: it is never computed.
        full = len(request.prompt_ids) + len(request.answer_ids) > self.context_length
        at_limit = len(request.answer_ids) >= request.max_new_tokens
        return FinishReason.LENGTH if full or at_limit else None

    def _end(self, request: Request, reason: FinishReason) -> None:
        """Free the blocks of a request, and forget it."""
        release_all(self.pool, request.table)
        request.state = RequestState.FINISHED
        request.finish_reason = reason
        (self.waiting if request in self.waiting else self.running).remove(request)
