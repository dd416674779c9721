"""Choose the next token from the model's logits: penalties, filters, and a draw that can be
repeated.

    logits -> penalize -> temperature -> top-k -> top-p -> min-p -> probabilities -> pick -> id

The filters come in the order of `transformers`. Their sources: top-p (nucleus sampling), Holtzman
et al. 2020 (arXiv 1904.09751, section 3.1); min-p, Nguyen et al. 2024 (arXiv 2407.01082, section
3); the repetition penalty, Keskar et al. 2019 (CTRL, arXiv 1909.05858, section 4.1); presence and
frequency penalty and the bias, the API reference of OpenAI.

The random number of a token depends only on the seed and on the token's place in its answer
(`uniform`), as in counter-based generators (Salmon et al. 2011, "Parallel random numbers: as easy
as 1, 2, 3"). So a request gets the same text whatever else is in its batch, and a request that was
interrupted resumes with the numbers that it would have had.

What this leaves out: beam search, constrained grammars, typical and mirostat sampling.
"""

import math
from collections import Counter
from collections.abc import Sequence

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from lm_core.settings import Settings
from lm_core.user_error import UserError

MINUS_INFINITY = float("-inf")
SMALLEST_TEMPERATURE = torch.finfo(torch.float32).tiny  # 1.2e-38; smaller ones are greedy decoding
GAMMA = 0x9E3779B97F4A7C15  # 2**64 divided by the golden ratio, made odd; step of SplitMix64
MASK = 2**64 - 1


class SamplingSettings(Settings):
    """How to choose a token.

    Attributes:
        temperature: logits are divided by it; 0, or a number that is 0 in float32, means greedy
            decoding.
        top_k: only the k most likely tokens can be drawn; 0 switches it off.
        top_p: only the smallest set of tokens with at least this probability can be drawn; 1
            switches it off.
        min_p: tokens less likely than min_p times the most likely one cannot be drawn; 0 switches
            it off.
        repetition_penalty: makes tokens of the prompt and of the answer less likely if above 1;
            1 switches it off.
        presence_penalty: subtracted from the logit of each token that the answer has; 0 is off.
        frequency_penalty: the same, times the number of its occurrences in the answer; 0 is off.
        logit_bias: token id -> number added to its logit.
        seed: the same seed, prompt and settings give the same text.
    """

    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = Field(default_factory=dict)
    seed: int = 0

    @model_validator(mode="after")
    def _check_ranges(self) -> "SamplingSettings":
        if not 0 <= self.temperature < math.inf:
            raise UserError(f"temperature must be 0 or a positive number, got {self.temperature}")
        if self.top_k < 0:
            raise UserError(f"top_k must be 0 (off) or a positive whole number, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p must be above 0 and at most 1, got {self.top_p}")
        if not 0 <= self.min_p <= 1:
            raise UserError(f"min_p must be between 0 (off) and 1, got {self.min_p}")
        if not 0 < self.repetition_penalty < math.inf:
            raise UserError(
                "repetition_penalty must be a positive number (1 is off), got "
                f"{self.repetition_penalty}"
            )
        for name in ("presence_penalty", "frequency_penalty"):
            if not math.isfinite(getattr(self, name)):
                raise UserError(f"{name} must be a finite number, got {getattr(self, name)}")
        for token, bias in self.logit_bias.items():
            if token < 0 or not math.isfinite(bias):
                raise UserError(
                    "logit_bias must map token ids from 0 up to finite numbers, got "
                    f"{token}: {bias}"
                )
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed must be between 0 and 2**63 - 1, got {self.seed}")
        return self

    @property
    def has_penalties(self) -> bool:
        """Whether `penalize` would change any logits."""
        return bool(
            self.repetition_penalty != 1
            or self.presence_penalty
            or self.frequency_penalty
            or self.logit_bias
        )


def penalize(
    logits: Float[Tensor, " vocab"],
    prompt_ids: Sequence[int],
    answer_ids: Sequence[int],
    settings: SamplingSettings,
) -> Float[Tensor, " vocab"]:
    """Return the logits with the penalties and the bias of the settings, in float32.

    In this order: the repetition penalty r divides the positive logits of tokens in the prompt or
    the answer by r and multiplies the negative ones by r, once for each token; the frequency
    penalty, times the number of occurrences, and the presence penalty, once, are subtracted for
    tokens in the answer; the bias is added.

    Raises ValueError if the bias names a token that the model does not have.
    """
    result = logits.to(torch.float32, copy=True)
    seen = result.new_tensor(list({*prompt_ids, *answer_ids}), dtype=torch.int64)
    before = result[seen]
    r = settings.repetition_penalty
    result[seen] = torch.where(before > 0, before / r, before * r)
    counts = Counter(answer_ids)
    answered = result.new_tensor(list(counts), dtype=torch.int64)
    times = result.new_tensor(list(counts.values()))
    result[answered] -= settings.frequency_penalty * times + settings.presence_penalty
    for token, bias in settings.logit_bias.items():
        if token >= len(result):
            raise UserError(
                f"logit_bias names the token {token}, the model has the tokens 0 to "
                f"{len(result) - 1}"
            )
        result[token] += bias
    return result


def keep_top_k(logits: Float[Tensor, "*batch vocab"], k: int) -> Float[Tensor, "*batch vocab"]:
    """Set all but the k largest logits of each row to minus infinity; k is at least 1.

    Exactly k stay, even with ties: of equal logits, those with the lowest ids.
    """
    smallest = logits.topk(min(k, logits.shape[-1]), dim=-1).values[..., -1:]
    above, tied = logits > smallest, logits == smallest
    room = k - above.sum(dim=-1, keepdim=True)  # for tied ones
    return logits.masked_fill(~(above | (tied & (tied.cumsum(dim=-1) <= room))), MINUS_INFINITY)


def keep_top_p(logits: Float[Tensor, "*batch vocab"], p: float) -> Float[Tensor, "*batch vocab"]:
    """Keep the smallest set of most likely tokens with probability >= p; set all others to minus
    infinity.

    A token stays if the more likely tokens before it add up to less than p; of equal ones, the
    lowest id is first. So the token that crosses p stays, and so does the most likely token,
    however small p is. With p = 1 all stay.
    """
    if p >= 1:  # the sums can reach 1 before the last tokens, because of rounding
        return logits.clone()
    sorted_logits, order = logits.sort(dim=-1, descending=True, stable=True)
    probabilities = sorted_logits.double().softmax(dim=-1)
    probability_before = probabilities.cumsum(dim=-1) - probabilities
    kept = sorted_logits.masked_fill(probability_before >= p, MINUS_INFINITY)
    return torch.empty_like(logits).scatter(-1, order, kept)


def keep_min_p(logits: Float[Tensor, "*batch vocab"], p: float) -> Float[Tensor, "*batch vocab"]:
    """Set the tokens whose probability is below p times the largest one of their row to minus
    infinity. With p = 0 all stay.
    """
    if p <= 0:
        return logits.clone()
    # The ratio of two probabilities is the exponential of the difference of their logits.
    below_largest = logits.double() - logits.double().amax(dim=-1, keepdim=True)
    return logits.masked_fill(below_largest < math.log(p), MINUS_INFINITY)


def next_token_probabilities(
    logits: Float[Tensor, "*batch vocab"], settings: SamplingSettings
) -> Float[Tensor, "*batch vocab"]:
    """Return the distribution that `sample` draws from, in float32; each row adds up to 1.

    The temperature comes first, then top-k, top-p and min-p. Penalties are not applied here. At
    temperature 0, the token with the largest logit has probability 1; of equal ones, the lowest id.
    """
    if settings.temperature < SMALLEST_TEMPERATURE:
        most_likely = logits.argmax(dim=-1, keepdim=True)
        return torch.zeros_like(logits, dtype=torch.float32).scatter(-1, most_likely, 1.0)
    # In float64, and less the largest logit: float32 overflows at the temperature 1e-30, and at
    # 1e300 a logit of minus infinity would be infinity / infinity.
    logits = logits.double()
    logits = (logits - logits.amax(dim=-1, keepdim=True)) / settings.temperature
    if settings.top_k:
        logits = keep_top_k(logits, settings.top_k)
    if settings.top_p < 1:
        logits = keep_top_p(logits, settings.top_p)
    if settings.min_p:
        logits = keep_min_p(logits, settings.min_p)
    return logits.softmax(dim=-1).float()


def mix(bits: int) -> int:
    """Return 64 bits that all depend on all of the 64 given ones: the finalizer of SplitMix64
    (Steele, Lea and Flood 2014). Different bits give different results, and 0 gives 0.
    """
    bits &= MASK
    bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9 & MASK
    bits = (bits ^ bits >> 27) * 0x94D049BB133111EB & MASK
    return bits ^ bits >> 31


def uniform(seed: int, index: int) -> float:
    """Return random number `index` (0, 1, ...) of a seed, in [0, 1): a multiple of 2**-53.

    It is output number `index` of SplitMix64 whose state is the mixed seed. No earlier number is
    computed. Neighboring seeds are unrelated, because the seed is mixed by itself.
    """
    return (mix(mix(seed + GAMMA) + (index + 1) * GAMMA) >> 11) / 2**53


def seed_of_sample(seed: int, number: int) -> int:
    """Return the seed (0 to 2**63 - 1) of sample `number` of a prompt; sample 0 keeps the seed."""
    return mix(mix(seed + GAMMA) + number) >> 1 if number else seed


def pick(probabilities: Float[Tensor, " vocab"], number: float) -> int:
    """Return the token id that a number in [0, 1) stands for: the first whose cumulative sum, in
    float64, is above `number` times the sum of all.

    A token of probability 0 is never returned, whatever the number.

    Raises ValueError if the probabilities do not add up to a positive number, such as NaN.
    """
    assert 0 <= number < 1, f"expected a number in [0, 1), got {number}"
    sums = probabilities.double().cumsum(dim=0)
    total = sums[-1].item()  # the last sum and no other, so that one is always above the number
    if not 0 < total < math.inf:
        raise UserError(f"the probabilities of the next token add up to {total}; expected 1")
    return int(torch.searchsorted(sums, number * total, right=True))


def sample(
    logits: Float[Tensor, "batch vocab"],
    settings: Sequence[SamplingSettings],
    indices: Sequence[int],
) -> list[int]:
    """Draw one token id for each row, which does not depend on the other rows.

    `settings[i]` are those of row i, and `indices[i]` is the number of tokens that its answer
    already has. Raises ValueError if a row's probabilities are not numbers.
    """
    return [
        pick(next_token_probabilities(row, of_row), uniform(of_row.seed, index))
        for row, of_row, index in zip(logits, settings, indices, strict=True)
    ]
