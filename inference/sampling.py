"""Sampling of the next token from the model's logits: temperature, top-k, top-p, or greedy
decoding.

Temperature, top-k and top-p are applied in that order, as `transformers` does. Top-p is nucleus
sampling, Holtzman et al. 2020 ("The Curious Case of Neural Text Degeneration", arXiv 1904.09751,
section 3.1): the smallest set of most likely tokens whose probabilities add up to *at least* p, so
that it includes the token that crosses p.

What this leaves out: repetition penalties, beam search, constrained grammars.
"""

import torch
from jaxtyping import Float, Int
from pydantic import model_validator
from torch import Tensor

from lm_core.settings import Settings
from lm_core.user_error import UserError

MINUS_INFINITY = float("-inf")
SMALLEST_TEMPERATURE = torch.finfo(torch.float32).tiny  # 1.2e-38; 0 / 1e-46 is NaN in float32


class SamplingSettings(Settings):
    """How to sample a token.

    Attributes:
        temperature: logits are divided by it; 0, or a number that is 0 in float32, means greedy
            decoding.
        top_k: only the k most likely tokens can be sampled; 0 switches it off.
        top_p: only the smallest set of tokens with at least this probability can be sampled; 1
            switches it off.
        seed: the same seed, prompt and settings give the same text.
    """

    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    @model_validator(mode="after")
    def _check_ranges(self) -> "SamplingSettings":
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"temperature must be 0 or a positive number, got {self.temperature}")
        if self.top_k < 0:
            raise UserError(f"top_k must be 0 (off) or a positive whole number, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p must be above 0 and at most 1, got {self.top_p}")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed must be between 0 and 2**63 - 1, got {self.seed}")
        return self


def keep_top_k(logits: Float[Tensor, "*batch vocab"], k: int) -> Float[Tensor, "*batch vocab"]:
    """Set all but the k largest logits of each row to minus infinity; exactly k stay, even with
    ties.
    """
    if k >= logits.shape[-1]:
        return logits
    largest, indices = logits.topk(k, dim=-1)
    return torch.full_like(logits, MINUS_INFINITY).scatter(-1, indices, largest)


def keep_top_p(logits: Float[Tensor, "*batch vocab"], p: float) -> Float[Tensor, "*batch vocab"]:
    """Keep the smallest set of most likely tokens with probability >= p; set all others to minus
    infinity.

    A token stays if the more likely tokens before it add up to less than p. So the token that
    crosses p stays, and so does the most likely token, however small p is.
    """
    if p >= 1:
        return logits
    sorted_logits, order = logits.sort(dim=-1, descending=True, stable=True)
    probabilities = sorted_logits.softmax(dim=-1)
    probability_before = probabilities.cumsum(dim=-1) - probabilities
    kept = sorted_logits.masked_fill(probability_before >= p, MINUS_INFINITY)
    return torch.empty_like(logits).scatter(-1, order, kept)


def next_token_probabilities(
    logits: Float[Tensor, "*batch vocab"], settings: SamplingSettings
) -> Float[Tensor, "*batch vocab"]:
    """Return the distribution that `sample` draws from, in float32; each row adds up to 1."""
    logits = logits.float()
    if settings.temperature < SMALLEST_TEMPERATURE:
        most_likely = logits.argmax(dim=-1, keepdim=True)
        return torch.zeros_like(logits).scatter(-1, most_likely, 1.0)
    # The largest logit is subtracted first, because at temperature 1e-30 the quotient would
    # overflow.
    logits = (logits - logits.amax(dim=-1, keepdim=True)) / settings.temperature
    if settings.top_k:
        logits = keep_top_k(logits, settings.top_k)
    return keep_top_p(logits, settings.top_p).softmax(dim=-1)


def sample(
    logits: Float[Tensor, "batch vocab"],
    settings: SamplingSettings,
    generator: torch.Generator | None = None,
) -> Int[Tensor, " batch"]:
    """Sample one token id for each row, independently of the other rows.

    `generator` must be on the device of the logits. It advances with every call, but is not used at
    temperature 0.
    """
    if settings.temperature < SMALLEST_TEMPERATURE:
        return logits.argmax(dim=-1)
    probabilities = next_token_probabilities(logits, settings)
    return torch.multinomial(probabilities, num_samples=1, generator=generator).squeeze(-1)
