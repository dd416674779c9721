"""Which requests a load test sends, and when: decided beforehand, and the same for every seed.

In an open loop, requests arrive by a Poisson process, whether or not earlier ones have been
answered, as from many people. In a closed loop, each of a number of clients sends its next request
when its last one has ended; a slow server is then asked less often.

What this leaves out: sending (load_client.py, load_run.py).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lm_core.user_error import UserError
from lm_course.load_test.request_texts import (
    PromptLine,
    WordCost,
    body_of,
    draw_code_word,
    draw_words,
)
from lm_course.load_test.token_lengths import TokenLengths

ARRIVALS, REQUEST, SHARED = 0, 1, 2  # what a generator is for; each has a stream of its own
MOST_ARRIVALS = 1_000_000


@dataclass(frozen=True)
class Level:
    """One load: an arrival rate or a number of clients.

    Attributes:
        rate: requests per second, possibly infinite; None in a closed loop.
        clients: in a closed loop; None in an open one.
    """

    rate: float | None = None
    clients: int | None = None

    @property
    def name(self) -> str:
        """The load as tables show it."""
        return str(self.clients) if self.rate is None else f"{self.rate:g}/s"


@dataclass(frozen=True)
class PlannedRequest:
    """A request before it is sent.

    Attributes:
        number: in its level, from 0.
        body: of the request, without the model's name.
        hang_up_after: pieces of the answer after which the client goes away; None if it stays.
        code_word: that its prompt holds; None if it holds none.
    """

    number: int
    body: dict[str, Any]
    hang_up_after: int | None = None
    code_word: str | None = None

    @property
    def path(self) -> str:
        """Where it is sent, below the server's URL."""
        return "chat/completions" if "messages" in self.body else "completions"


@dataclass(frozen=True)
class LoadPlan:
    """All requests of all levels, each made when it is needed.

    Attributes:
        prompt_tokens: of a request's own words, with everything around them.
        answer_tokens: the limit of an answer.
        shared_words: words at the beginning of all prompts.
        hang_up_share: of the requests whose client goes away in the middle.
        has_code_words: whether each prompt holds one.
        is_chat: whether words are sent as a conversation.
        lines: of a file of prompts, used in turn; none to draw words.
        cost: what the words cost in tokens.
        most_tokens: of a prompt with its answer; None if not known.
        fields: of every request besides, such as {"temperature": 0}.
    """

    seed: int
    prompt_tokens: TokenLengths
    answer_tokens: TokenLengths
    shared_words: int = 0
    hang_up_share: float = 0.0
    has_code_words: bool = False
    is_chat: bool = True
    lines: Sequence[PromptLine] = ()
    cost: WordCost = field(default_factory=WordCost)
    most_tokens: int | None = None
    fields: dict[str, Any] = field(default_factory=dict)

    def request(self, level: int, number: int) -> PlannedRequest:
        """Return a request. It depends on the seed, the level and its number only, so that any
        order of sending gives the same requests, and no two levels share a prompt.
        """
        draws = np.random.default_rng((self.seed, REQUEST, level, number))
        num_prompt, limit = self.prompt_tokens.draw(draws), self.answer_tokens.draw(draws)
        if self.most_tokens is not None:  # only a distribution without a largest length gets here
            num_prompt = max(1, min(num_prompt, self.most_tokens - 1))
            limit = max(1, min(limit, self.most_tokens - num_prompt))
        hangs_up = draws.random() < self.hang_up_share
        moment = draws.random()
        code_word = draw_code_word(draws) if self.has_code_words else None
        line = self.lines[number % len(self.lines)] if self.lines else None
        words = "" if line else draw_words(draws, self.cost.words_for(num_prompt))
        if line is not None and line.max_tokens is not None:
            limit = line.max_tokens
        body = body_of(words, self.shared_text(), self.is_chat, line, code_word)
        body |= {"max_tokens": limit, **self.fields}
        after = 1 + int(moment * limit) if hangs_up else None
        return PlannedRequest(number, body, after, code_word)

    def shared_text(self) -> str:
        """Return the beginning that all prompts share."""
        return draw_words(np.random.default_rng((self.seed, SHARED)), self.shared_words)

    def arrivals(
        self, level: int, rate: float, count: int | None, seconds: float | None
    ) -> list[float]:
        """Return the times of the arrivals of a Poisson process, in seconds from the beginning.

        Args:
            level: its number; each has its own arrivals.
            rate: requests per second; infinite for all at once.
            count: how many requests; None if the time is limited.
            seconds: the last arrival is before this; None if the number is limited.

        Raises ValueError for more arrivals than a test can have.
        """
        if math.isinf(rate):
            assert count is not None, "infinitely many requests in a limited time"
            return [0.0] * count
        draws = np.random.default_rng((self.seed, ARRIVALS, level))
        if count is not None:
            return np.cumsum(draws.exponential(1 / rate, count)).tolist()
        assert seconds is not None, "a level is limited by requests or by seconds"
        if rate * seconds > MOST_ARRIVALS:
            raise UserError(
                f"--rate {rate:g} for {seconds:g} seconds: {rate * seconds:,.0f} requests, "
                f"at most {MOST_ARRIVALS:,}"
            )
        times: list[float] = []
        now = draws.exponential(1 / rate)
        while now < seconds:
            times.append(now)
            now += draws.exponential(1 / rate)
        return times
