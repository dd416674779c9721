"""Independent solution of a6.1 to a6.3, written from the handout alone.

It differs from the obvious form in these places:

- Penalties are computed for the whole vocabulary at once, from counts of each id, in float64.
- Top-k and top-p share one helper: "keep the n best of each row", with a threshold and a count of
  ties in place of a scatter. Filters and probabilities are computed in float64.
- The steps of the mixer are a table, and `pick` searches in a list of sums.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import torch
from jaxtyping import Float, Int
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
    size = logits.shape[-1]
    for token in settings.logit_bias:
        if token >= size:
            raise UserError(
                f"logit_bias names the token id {token}, but there are only {size} logits"
            )
    x = logits.double()  # no product of two settings overflows to a NaN here
    in_prompt = _occurrences(prompt_ids, size, logits.device)
    in_answer = _occurrences(answer_ids, size, logits.device)

    penalty = settings.repetition_penalty
    repeated = torch.where(x > 0, x / penalty, x * penalty)
    x = torch.where(in_prompt + in_answer > 0, repeated, x)

    said = settings.frequency_penalty * in_answer.double() + settings.presence_penalty
    x = torch.where(in_answer > 0, x - said, x)

    bias = torch.zeros_like(x)
    for token, number in settings.logit_bias.items():
        bias[token] = number
    return (x + bias).masked_fill(logits == MINUS_INFINITY, MINUS_INFINITY).float()


def _occurrences(
    token_ids: Sequence[int], vocab_size: int, device: torch.device
) -> Int[Tensor, " vocab"]:
    """Return how often each token of the vocabulary occurs among the ids."""
    ids = torch.tensor(list(token_ids), dtype=torch.int64, device=device)
    return torch.bincount(ids, minlength=vocab_size)


def keep_top_k(logits: Float[Tensor, "*batch vocab"], k: int) -> Float[Tensor, "*batch vocab"]:
    """Set all but the k largest logits of each row to minus infinity; k is at least 1.

    Exactly k stay, even with ties: of equal logits, those with the lowest ids.
    """
    how_many = torch.full_like(logits[..., :1], min(k, logits.shape[-1]), dtype=torch.int64)
    return _keep_best(logits, how_many)


def _keep_best(
    logits: Float[Tensor, "*batch vocab"], how_many: Int[Tensor, "*batch 1"]
) -> Float[Tensor, "*batch vocab"]:
    """Keep the `how_many` (1 to vocab) largest logits of each row, the lowest ids among equals."""
    ascending = logits.sort(dim=-1).values
    threshold = ascending.gather(-1, logits.shape[-1] - how_many)  # the smallest that may stay
    above = logits > threshold
    equal = logits == threshold
    room_for_equals = how_many - above.sum(dim=-1, keepdim=True)
    kept = above | (equal & (equal.cumsum(dim=-1) <= room_for_equals))
    return logits.masked_fill(~kept, MINUS_INFINITY)


def keep_top_p(logits: Float[Tensor, "*batch vocab"], p: float) -> Float[Tensor, "*batch vocab"]:
    """Keep the smallest set of most likely tokens with probability >= p; set all others to minus
    infinity.

    A token stays if the more likely tokens before it add up to less than p; of equal ones, the
    lowest id is first. So the token that crosses p stays, and so does the most likely token,
    however small p is. With p = 1 all stay.
    """
    if p >= 1:
        return logits.clone()
    likely_first = logits.double().softmax(dim=-1).sort(dim=-1, descending=True).values
    # The sums grow along a row, so the tokens that stay are a beginning of the sorted ones. The
    # first of them stands behind a sum of 0.
    sums = likely_first.cumsum(dim=-1)[..., :-1]
    how_many = 1 + (sums < p).sum(dim=-1, keepdim=True)
    return _keep_best(logits, how_many)


def keep_min_p(logits: Float[Tensor, "*batch vocab"], p: float) -> Float[Tensor, "*batch vocab"]:
    """Set the tokens whose probability is below p times the largest one of their row to minus
    infinity. With p = 0 all stay.
    """
    if p == 0:
        return logits.clone()
    wide = logits.double()
    share_of_largest = (wide - wide.amax(dim=-1, keepdim=True)).exp()
    return logits.masked_fill(share_of_largest < p, MINUS_INFINITY)


def next_token_probabilities(
    logits: Float[Tensor, "*batch vocab"], settings: SamplingSettings
) -> Float[Tensor, "*batch vocab"]:
    """Return the distribution that `sample` draws from, in float32; each row adds up to 1.

    The temperature comes first, then top-k, top-p and min-p. Penalties are not applied here. At
    temperature 0, the token with the largest logit has probability 1; of equal ones, the lowest id.
    """
    if settings.temperature < SMALLEST_TEMPERATURE:
        return (keep_top_k(logits, 1) > MINUS_INFINITY).float()
    # In float64, because 1e300 is infinite in float32.
    wide = logits.double()
    wide = (wide - wide.amax(dim=-1, keepdim=True)) / settings.temperature
    if settings.top_k > 0:
        wide = keep_top_k(wide, settings.top_k)
    wide = keep_min_p(keep_top_p(wide, settings.top_p), settings.min_p)
    return wide.softmax(dim=-1).float()


# The three steps of SplitMix64's mixer: x xor (x >> shift), times a factor.
_MIXER = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1))


def _mix(x: int) -> int:
    """Return the 64 bits that SplitMix64 makes of x modulo 2^64."""
    x &= MASK
    for shift, factor in _MIXER:
        x = (x ^ (x >> shift)) * factor & MASK
    return x


def uniform(seed: int, index: int) -> float:
    """Return random number `index` (0, 1, ...) of a seed, in [0, 1): a multiple of 2**-53.

    It is output number `index` of SplitMix64 whose state is the mixed seed. No earlier number is
    computed. Neighboring seeds are unrelated, because the seed is mixed by itself.
    """
    output = _mix(_mix(seed + GAMMA) + (index + 1) * GAMMA)
    return (output >> 11) / 2**53


def seed_of_sample(seed: int, number: int) -> int:
    """Return the seed (0 to 2**63 - 1) of sample `number` of a prompt; sample 0 keeps the seed."""
    return _mix(_mix(seed + GAMMA) + number) >> 1 if number else seed


def pick(probabilities: Float[Tensor, " vocab"], number: float) -> int:
    """Return the token id that a number in [0, 1) stands for: the first whose cumulative sum, in
    float64, is above `number` times the sum of all.

    A token of probability 0 is never returned, whatever the number.

    Raises ValueError if the probabilities do not add up to a positive number, such as NaN.
    """
    sums = list(accumulate(probabilities.tolist()))  # Python's floats are float64
    total = sums[-1]
    if not 0 < total < math.inf:
        raise UserError(
            f"the probabilities add up to {total}, not to a positive number: the model's logits "
            "are not numbers"
        )
    # The product may be rounded up to the total, which no sum is above.
    bound = min(number * total, math.nextafter(total, 0))
    return bisect_right(sums, bound)


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
