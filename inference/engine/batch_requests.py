"""The input and output of the engine of many requests: settings, a request with all that its draws
depend on, and new tokens.

What this leaves out: the steps (batch_engine.py).
"""

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import pydantic
from jaxtyping import Bool
from torch import Tensor

from inference.batch_scheduler import FinishReason, Request
from inference.engine.forward_choice import AnyCacheKind, AnyWeightKind
from inference.sampling import SamplingSettings
from lm_core.settings import Settings


class BatchSettings(Settings):
    """How the engine shares its time and memory.

    Attributes:
        block_size: tokens of a block of the cache.
        cache_tokens: tokens for which the cache has room, all requests together.
        max_tokens_per_step: tokens that one step computes at most.
        max_running: requests that run at the same time.
        prefix_caching: whether requests with the same beginning share its blocks.
        num_drafts: tokens that prompt look-up proposes for each request and step; 0 for none.
        max_ngram: longest n-gram that prompt look-up looks for.
        weights: form of the weights; see `forward_for`.
        cache: type of keys and values; see `forward_for`.
    """

    block_size: int = pydantic.Field(default=16, gt=0)
    cache_tokens: int = pydantic.Field(default=16_384, gt=0)
    max_tokens_per_step: int = pydantic.Field(default=512, gt=0)
    max_running: int = pydantic.Field(default=16, gt=0)
    prefix_caching: bool = True
    num_drafts: int = pydantic.Field(default=0, ge=0)
    max_ngram: int = pydantic.Field(default=3, gt=0)
    weights: AnyWeightKind = "auto"
    cache: AnyCacheKind = "auto"

    @property
    def num_blocks(self) -> int:
        """Blocks of the cache; the last one may be more than cache_tokens asks for."""
        return -(-self.cache_tokens // self.block_size)


class NewToken(NamedTuple):
    """One token of one request, or its end.

    Attributes:
        request_id: whose.
        token_id: None if the request ended without a further token (a stop id, an abort).
        log_probability: of this token in the model's own distribution, before temperature and
            filters; None unless the request asked for it.
        alternatives: the likeliest tokens at this place with theirs, best first.
        finish_reason: of the last event of a request; None before.
        error: why the request could not continue, if nothing could be drawn for it.
    """

    request_id: str
    token_id: int | None
    log_probability: float | None = None
    alternatives: tuple[tuple[int, float], ...] = ()
    finish_reason: FinishReason | None = None
    error: str | None = None


@runtime_checkable
class TokenConstraint(Protocol):
    """The tokens that may come next in one answer, such as JSON by a schema."""

    def allowed(self) -> Bool[Tensor, " vocab"]:
        """Return True for each token that may come next."""
        ...

    def accept(self, token_id: int) -> None:
        """Go on after this token, which was allowed."""
        ...


LONGEST_DRAFT_PAUSE = 8  # steps
MIN_NGRAM = 2  # what follows an earlier occurrence of one token is seldom what follows it again


@dataclass
class DraftLength:
    """How many drafts a request gets: computing a draft that is then rejected costs time.

    After a step in which all n were accepted, 2 n + 1; else the least of 1, 3, 7, ... that is no
    fewer than were accepted. With the token before the drafts, 2, 4 or 8 rows are computed, for
    which the compiled products have loops of their own. After steps in a row of which none was
    accepted, the request decodes without drafts for 2, 4, then 8 steps before it tries one again.
    """

    most: int | None = None  # None: as many as are allowed
    pause: int = 0
    misses: int = 0

    def next(self, allowed: int) -> int:
        """Return the number of drafts for the step that begins: 0, 1, 3, 7, ..., and no more than
        are allowed.
        """
        if self.pause:
            self.pause -= 1
            return 0
        most = allowed if self.most is None else min(self.most, allowed)
        return (1 << (most + 1).bit_length() - 1) - 1

    def note(self, num_drafts: int, num_accepted: int) -> None:
        """Learn from a step with drafts."""
        if num_accepted == num_drafts:
            self.most = 2 * num_drafts + 1
        else:
            self.most = (1 << max(num_accepted.bit_length(), 1)) - 1
        self.misses = 0 if num_accepted else self.misses + 1
        self.pause = min(LONGEST_DRAFT_PAUSE, 2 ** (self.misses - 1)) if self.misses > 1 else 0


@dataclass(eq=False)
class Generation:
    """A request with the settings of its draws.

    Attributes:
        request: for the scheduler.
        sampling: temperature and the like; its seed is this sample's own.
        num_alternatives: None for no log-probabilities.
        constraint: what may be drawn; None for everything.
        siblings: further samples of the same prompt, which start once it is computed.
        draft_length: of prompt look-up.
    """

    request: Request
    sampling: SamplingSettings
    num_alternatives: int | None = None
    constraint: TokenConstraint | None = None
    siblings: list["Generation"] = field(default_factory=list)
    draft_length: DraftLength = field(default_factory=DraftLength)
