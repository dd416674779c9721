"""Many requests at once: the scheduler, the blocks and the model, joined.

    submit ─► schedule ─► one forward pass over all chunks ─► one draw for each request ─► events

Every step computes the tokens that the scheduler chose, of all running requests in one row, and
draws the next token of each request whose last known token was among them. With drafts from prompt
look-up, a step may give a request several tokens. What a request answers does not depend on the
others: its draws come from its own seed, and its attention reads its own blocks.

What this leaves out: text (engine.py), threads and connections. An engine is not thread-safe.

Continuous batching: Yu et al. 2022 ("Orca", OSDI 2022). Blocks: Kwon et al. 2023 (arXiv
2309.06180).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from jaxtyping import Bool, Float
from torch import Tensor

from inference.batch_scheduler import (
    Chunk,
    Request,
    RequestState,
    Scheduler,
    SchedulerSettings,
    Step,
)
from inference.block_pool import BlockPool, blocks_needed, fork, release_all, reserve, truncate
from inference.engine.batch_requests import (
    MIN_NGRAM,
    BatchSettings,
    Generation,
    NewToken,
    TokenConstraint,
)
from inference.engine.draws import draw
from inference.engine.forward_choice import forward_for
from inference.engine.forward_pass import ChunkRows, ForwardPass
from inference.generation import check_max_new_tokens
from inference.sampling import (
    MINUS_INFINITY,
    SamplingSettings,
    penalize,
    seed_of_sample,
)
from inference.speculative_decoding import prompt_lookup
from lm_core.user_error import UserError
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig

WARM_UP_TOKENS = 40  # a long chunk for the compiled pass, whose code differs from a short one's


class BatchEngine:
    """A model that answers many requests at once, token by token.

    Args:
        model: the decoder, in evaluation mode.
        settings: memory and steps.
        drawable: rows of the model that may be drawn; None for all.
        forward: the forward pass with its cache; by default, the fastest that knows the model.
    """

    def __init__(
        self,
        model: TransformerLM,
        settings: BatchSettings | None = None,
        drawable: Bool[Tensor, " vocab"] | None = None,
        forward: ForwardPass | None = None,
    ) -> None:
        self.settings = BatchSettings() if settings is None else settings
        self.config: ModelConfig = model.config
        self.drawable = drawable
        self.pool = BlockPool(self.settings.num_blocks, self.settings.block_size)
        limits = SchedulerSettings(
            max_tokens_per_step=self.settings.max_tokens_per_step,
            max_running=self.settings.max_running,
            prefix_caching=self.settings.prefix_caching,
        )
        self.scheduler = Scheduler(self.pool, limits, model.config.context_length)
        self._model = model
        self._is_given = forward is not None
        self.forward = self._new_forward() if forward is None else forward
        self._generations: dict[str, Generation] = {}

    def _new_forward(self) -> ForwardPass:
        own = self.settings
        return forward_for(self._model, own.num_blocks, own.block_size, own.weights, own.cache)

    @property
    def has_work(self) -> bool:
        """Whether a request waits or runs."""
        return self.scheduler.has_work

    def submit(
        self,
        request_id: str,
        prompt_ids: Sequence[int],
        sampling: SamplingSettings,
        max_new_tokens: int,
        stop_ids: Collection[int] = (),
        num_alternatives: int | None = None,
        num_samples: int = 1,
        constraint: Callable[[], TokenConstraint] | None = None,
    ) -> list[str]:
        """Queue a request, and return the ids of its samples: `request_id` itself for one sample,
        else `request_id/0`, `request_id/1` and so on. `constraint` makes one for each sample.

        Raises ValueError if the prompt is empty, outside the vocabulary, longer than the context,
        or can never fit into the cache, or if a number is below 1.
        """
        check_max_new_tokens(max_new_tokens)
        if num_samples < 1:
            raise UserError(f"the number of samples must be at least 1, got {num_samples}")
        wrong = next((i for i in prompt_ids if not 0 <= i < self.config.vocab_size), None)
        if wrong is not None:
            raise UserError(
                f"token id {wrong} is not in the vocabulary of {self.config.vocab_size}"
            )
        ids = (
            [request_id] if num_samples == 1 else [f"{request_id}/{n}" for n in range(num_samples)]
        )
        samples = [
            Generation(
                Request(each, list(prompt_ids), max_new_tokens, frozenset(stop_ids)),
                sampling.model_copy(update={"seed": seed_of_sample(sampling.seed, number)}),
                num_alternatives,
                None if constraint is None else constraint(),
            )
            for number, each in enumerate(ids)
        ]
        first, *first.siblings = samples
        self.scheduler.add(first.request)
        for each in samples:
            self._generations[each.request.id] = each
        return ids

    def abort(self, request_id: str) -> bool:
        """End a request at once, in any state; return False if it is unknown or has ended."""
        generation = self._generations.pop(request_id, None)
        if generation is None:
            return False
        for each in self._generations.values():
            if generation in each.siblings:  # its prompt is still being computed
                each.siblings.remove(generation)
                return True
        aborted = self.scheduler.abort(request_id)
        self._hand_over(generation)
        return aborted

    def _hand_over(self, generation: Generation) -> None:
        """Let the next sample of the same prompt compute it, in place of one that has ended."""
        siblings, generation.siblings = generation.siblings, []
        if siblings:
            siblings[0].siblings = siblings[1:]
            self.scheduler.add(siblings[0].request)

    def weights_changed(self) -> None:
        """Take the model's weights as they now are, and compute everything again: cached keys and
        values came from the earlier ones. A forward pass that was given must take them itself.
        """
        running, waiting = self.scheduler.running, self.scheduler.waiting
        while running:  # the latest first: they then wait in the order of their arrival
            request = running.pop()
            release_all(self.pool, request.table)
            request.num_computed, request.state = 0, RequestState.WAITING
            waiting.insert(0, request)
        self.pool.forget_all()
        if not self._is_given:
            self.forward = self._new_forward()

    def warm_up(self) -> None:
        """Compute a short text, so that no request waits until the kernels are compiled."""
        room = min(self.config.context_length, self.settings.cache_tokens)
        length = max(1, min(WARM_UP_TOKENS, room - 1))
        most = min(2, room - length + 1)  # the last new token needs no place
        self.submit("warm-up", [0] * length, SamplingSettings(temperature=0), most)
        while self.has_work:
            self.step()
        self.pool.forget_all()

    def step(self) -> list[NewToken]:
        """Compute one step, and return the new tokens and ends of requests."""
        step = self.scheduler.schedule()
        if not step.chunks:
            return []
        copies = list(step.copies)
        drafts = self._drafts(step.chunks, copies)
        rows = _rows(step.chunks, drafts)
        self.forward.copy_blocks(copies)
        hidden = self.forward.hidden(rows)
        logits = self._logits(hidden, step.chunks, rows)
        chunks = list(step.chunks)
        sampled: dict[str, list[int]] = {}
        errors: dict[str, str] = {}
        for chunk in step.chunks:
            if not chunk.samples:
                continue
            name, generation = chunk.request.id, self._generations[chunk.request.id]
            try:
                proposed = drafts.get(name, ())
                sampled[name] = _draw(generation, logits[name], proposed)
                if proposed:
                    generation.draft_length.note(len(proposed), len(sampled[name]) - 1)
            except ValueError as error:  # NaN, or a constraint that allows nothing: it ends alone
                errors[name] = str(error)
                self.scheduler.abort(name)
                self._hand_over(generation)
                continue
            for sibling in generation.siblings:
                beside = self._start_beside(chunk, sibling.request)
                if beside is not None:
                    logits[sibling.request.id] = logits[name]
                    sampled[sibling.request.id] = _draw(sibling, logits[name], ())
                    chunks.append(beside)
            generation.siblings = []
        events = self._finish(chunks, sampled, logits)
        return [event._replace(error=errors.get(event.request_id)) for event in events]

    def _start_beside(self, chunk: Chunk, request: Request) -> Chunk | None:
        """Let another sample of a computed prompt run beside the first, on the same blocks. If too
        many requests run, it waits, and finds what the cache still has of the prompt.
        """
        running = self.scheduler.running
        if len(running) >= self.settings.max_running:
            self.scheduler.add(request)
            return None
        request.table = fork(self.pool, chunk.request.table)
        request.num_computed = chunk.first + chunk.count
        request.state = RequestState.RUNNING
        running.insert(running.index(chunk.request) + 1, request)  # it arrived with the first
        return Chunk(request, request.num_computed, 0, samples=True)

    def _drafts(
        self, chunks: Sequence[Chunk], copies: list[tuple[int, int]]
    ) -> dict[str, list[int]]:
        """Return the drafts of each request that decodes, with their places reserved, as far as the
        budget of the step, the context and the free blocks allow.
        """
        drafts: dict[str, list[int]] = {}
        budget = self.settings.max_tokens_per_step - sum(chunk.count for chunk in chunks)
        for chunk in chunks:
            request = chunk.request
            most = min(
                self.settings.num_drafts,
                budget,
                self.config.context_length - len(request.token_ids),
                request.max_new_tokens - len(request.answer_ids) - 1,
            )
            generation = self._generations[request.id]
            constrained = generation.constraint is not None
            if most < 1 or constrained or not (chunk.samples and request.answer_ids):
                continue
            most = generation.draft_length.next(most)
            if not most:
                continue
            longest = self.settings.max_ngram
            shortest = min(MIN_NGRAM, longest)
            proposed = prompt_lookup(request.token_ids, longest, most, shortest)
            if blocks_needed(self.pool, request.table, len(proposed)) > self.pool.num_available:
                continue
            copies += reserve(self.pool, request.table, len(proposed))
            drafts[request.id] = proposed
            budget -= len(proposed)
        return drafts

    def _logits(
        self,
        hidden: Float[Tensor, "tokens d_model"],
        chunks: Sequence[Chunk],
        rows: list[ChunkRows],
    ) -> dict[str, Float[Tensor, "places vocab"]]:
        """Return the logits at the places of each request that are drawn from: after its last known
        token, and after each draft.
        """
        wanted = {
            chunk.request.id: range(each.first_row + chunk.count - 1, each.rows.stop)
            for chunk, each in zip(chunks, rows, strict=True)
            if chunk.samples
        }
        every = [row for own in wanted.values() for row in own]
        if not every:
            return {}
        logits = self.forward.logits(hidden[every])
        if self.drawable is not None:
            logits = logits.masked_fill(~self.drawable.to(logits.device), MINUS_INFINITY)
        parts = logits.split([len(own) for own in wanted.values()])
        return dict(zip(wanted, parts, strict=True))

    def _finish(
        self, chunks: list[Chunk], sampled: dict[str, list[int]], logits: dict[str, Tensor]
    ) -> list[NewToken]:
        """Tell the scheduler what was drawn, and describe it. A draft that was accepted counts as a
        token of the step like one that was known before.
        """
        before = {chunk.request.id: len(chunk.request.answer_ids) for chunk in chunks}
        computed: list[Chunk] = []
        for chunk in chunks:
            accepted = sampled.get(chunk.request.id, [])[:-1]
            chunk.request.answer_ids += accepted
            computed.append(replace(chunk, count=chunk.count + len(accepted)))
        last = {request_id: tokens[-1] for request_id, tokens in sampled.items()}
        self.scheduler.finish_step(Step(computed, [], []), last)
        events: list[NewToken] = []
        for chunk in chunks:
            request = chunk.request
            generation = self._generations[request.id]
            new = request.answer_ids[before[request.id] :]
            described = [
                NewToken(request.id, token, *_log_probabilities(row, token, generation))
                for token, row in zip(new, logits.get(request.id, ()), strict=False)
            ]
            if request.state is RequestState.FINISHED:
                last = described.pop() if described else NewToken(request.id, None)
                described.append(last._replace(finish_reason=request.finish_reason))
                del self._generations[request.id]
            else:
                truncate(self.pool, request.table, request.num_computed)  # drafts not accepted
            events += described
        return events


def _rows(chunks: Sequence[Chunk], drafts: Mapping[str, Sequence[int]]) -> list[ChunkRows]:
    """Return the rows of each chunk: its tokens, then its drafts."""
    rows: list[ChunkRows] = []
    first_row = 0
    for chunk in chunks:
        request = chunk.request
        ids = request.token_ids[chunk.first : chunk.first + chunk.count]
        ids += drafts.get(request.id, ())
        rows.append(ChunkRows(first_row, ids, chunk.first, list(request.table.blocks)))
        first_row += len(ids)
    return rows


def _draw(
    generation: Generation, logits: Float[Tensor, "places vocab"], drafts: Sequence[int]
) -> list[int]:
    """Draw the next token, and continue at the next place while the draw equals the draft.

    Each place is drawn from the model's distribution there with the request's own number, so the
    text is the same as without drafts; `accept_lookup` is this rule for distributions that are
    already computed.
    """
    request, sampling = generation.request, generation.sampling
    drawn: list[int] = []
    for place, row in enumerate(logits):
        answer = request.answer_ids + drawn
        penalized = row
        if sampling.has_penalties:
            penalized = penalize(row, request.prompt_ids, answer, sampling)
        if generation.constraint is not None:
            allowed = generation.constraint.allowed().to(row.device)
            penalized = penalized.masked_fill(~allowed, MINUS_INFINITY)
        token = draw(penalized, sampling, len(answer))
        drawn.append(token)
        if generation.constraint is not None:
            generation.constraint.accept(token)
        if token in request.stop_ids or place == len(drafts) or token != drafts[place]:
            break
    return drawn


def _log_probabilities(
    logits: Float[Tensor, " vocab"], token: int, generation: Generation
) -> tuple[float | None, tuple[tuple[int, float], ...]]:
    """Return the log-probability of a token, and the likeliest tokens with theirs."""
    if generation.num_alternatives is None:
        return None, ()
    each = logits.float().log_softmax(-1)
    best = each.topk(min(generation.num_alternatives, len(each)))
    alternatives = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return each[token].item(), alternatives
