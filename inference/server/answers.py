"""One request from its prompt ids to pieces of its answers: text, tokens, calls, ends.

Both kinds of completions are made of these pieces; completion_text.py and completion_chat.py write
them down as JSON. What this leaves out: HTTP.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from inference.answering.answer_text import AnswerText, PlacedToken
from inference.answering.engine_thread import EngineThread, Ticket
from inference.engine.batch_requests import NewToken, TokenConstraint
from inference.sampling import SamplingSettings
from inference.server.api_errors import ApiError
from inference.server.metrics import AnswerClock, ModelMetrics
from inference.server.served_model import ServedModel
from lm_core.user_error import UserError

T = TypeVar("T")
LEAST_LOG_PROBABILITY = -9999.0  # minus infinity is not JSON


@dataclass(frozen=True)
class Question:
    """The prompt of a request, and all that decides about its answers.

    Attributes:
        prompt_ids: the prompt.
        sampling: how each token is drawn.
        max_new_tokens: the limit of an answer.
        num_samples: answers to this prompt.
        stop: strings that end an answer.
        num_alternatives: None without log-probabilities.
        constraint: makes what an answer must follow, if it must follow something.
    """

    prompt_ids: list[int]
    sampling: SamplingSettings
    max_new_tokens: int
    num_samples: int = 1
    stop: Sequence[str] = ()
    num_alternatives: int | None = None
    constraint: Callable[[], TokenConstraint] | None = None


@dataclass
class Piece:
    """The part of an answer that one token, or the end, adds.

    Attributes:
        index: of the sample.
        text: that may be shown now; often empty.
        tokens: those of the text; none where a token showed nothing yet.
        num_new: tokens drawn, shown or not.
        finish_reason: of the last piece of a sample.
    """

    index: int
    text: str = ""
    tokens: list[PlacedToken] = field(default_factory=list)
    num_new: int = 0
    finish_reason: str | None = None


class Answerer:
    """Answers questions with one engine.

    Args:
        model: tokenizer and names.
        thread: runs the engine.
        metrics: are told of every token and answer.
        time_limit: seconds after which a request is ended; None for none.
    """

    def __init__(
        self,
        model: ServedModel,
        thread: EngineThread,
        metrics: ModelMetrics,
        time_limit: float | None = None,
    ) -> None:
        self.model, self.thread, self.metrics = model, thread, metrics
        self.time_limit = time_limit

    async def pieces(self, question: Question) -> AsyncIterator[Piece]:
        """Yield the pieces of all samples as they come. Closing the iterator ends the request.

        Raises ServerBusy, EngineStopped, TimeoutError, and ValueError for what the engine refuses.
        """
        deadline = None if self.time_limit is None else time.monotonic() + self.time_limit
        clocks = [AnswerClock(self.metrics) for _ in range(question.num_samples)]
        submitted = self.thread.submit(
            f"request-{secrets.token_hex(8)}",
            question.num_samples,
            prompt_ids=question.prompt_ids,
            sampling=question.sampling,
            max_new_tokens=question.max_new_tokens,
            stop_ids=self.model.stop_ids,
            num_alternatives=question.num_alternatives,
            constraint=question.constraint,
        )
        ticket = await _before(deadline, submitted)
        try:
            self.metrics.prompt_tokens.inc(len(question.prompt_ids))
            vocab, silent = self.model.tokenizer.vocab, self.model.silent_ids
            texts = [AnswerText(vocab, silent, question.stop) for _ in ticket.ids]
            while ticket.left:
                for event in await _before(deadline, self.thread.next_events(ticket)):
                    if event.error is not None:
                        raise ApiError(500, f"no token can be drawn: {event.error}")
                    index = ticket.ids.index(event.request_id)
                    text = texts[index]
                    if text.finish_reason is not None:  # a token behind a stop string
                        continue
                    if event.token_id is not None:
                        clocks[index].token()
                    shown, tokens = text.push(event)
                    self._note_end(text.finish_reason, event, ticket)
                    num_new = int(event.token_id is not None)
                    yield Piece(index, shown, tokens, num_new, text.finish_reason)
        finally:
            self.thread.close(ticket)

    def _note_end(self, reason: str | None, event: NewToken, ticket: Ticket) -> None:
        """Keep account of a sample that ends; if a stop string ended it, tell the engine."""
        if reason is None:
            return
        ticket.left.discard(event.request_id)
        self.metrics.answers.labels(self.model.name, reason).inc()
        if event.finish_reason is None:
            self.thread.end_sample(ticket, event.request_id)


class Answerers:
    """The models of a server, each with its engine.

    Args:
        answerers: at least one; the first answers requests that name no model.

    Raises:
        ValueError: two models have the same name.
    """

    def __init__(self, answerers: Sequence[Answerer]) -> None:
        self._by_name = {answerer.model.name: answerer for answerer in answerers}
        assert self._by_name, "a server without a model"
        if len(self._by_name) < len(answerers):
            names = [answerer.model.name for answerer in answerers]
            twice = next(name for name in names if names.count(name) > 1)
            raise UserError(
                f"two models are called {twice!r}; give each its own name with --name, once for "
                "each model"
            )

    def __iter__(self) -> Iterator[Answerer]:
        return iter(self._by_name.values())

    def named(self, name: str | None) -> Answerer:
        """Return the answerer of a model; refuse a name that is not served here."""
        if name is None:
            return next(iter(self))
        if name in self._by_name:
            return self._by_name[name]
        served = ", ".join(map(repr, self._by_name))
        raise ApiError(
            404,
            f"the model {name!r} is not served here; this server has {served}",
            "model",
            "model_not_found",
        )


async def _before(deadline: float | None, result: Coroutine[Any, Any, T]) -> T:
    """Await a result; raise TimeoutError if it is not there by the deadline."""
    left = None if deadline is None else max(deadline - time.monotonic(), 0)
    if left == 0:
        result.close()
        raise TimeoutError
    async with asyncio.timeout(left):
        return await result


def logprob_entry(model: ServedModel, token_id: int, log_probability: float) -> dict[str, Any]:
    """Return a token with its log-probability and bytes, as OpenAI's chat API has them."""
    written = model.token_text(token_id)
    return {
        "token": written.decode("utf-8", "replace"),
        "logprob": max(log_probability, LEAST_LOG_PROBABILITY),
        "bytes": list(written),
    }
