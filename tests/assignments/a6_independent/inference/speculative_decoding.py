"""Speculative decoding: guess several tokens cheaply, and check all of them in one forward pass.

An independent solution, written from the handout of a6 alone. `prompt_lookup` does not search for
each length by itself: the Z algorithm (Gusfield, 1997, "Algorithms on Strings, Trees and
Sequences", section 1.4), run on the reversed text, gives for every earlier place how many tokens
before it equal the last ones. The draft model reads through `prefill`, which computes only what its
cache lacks.
"""

from collections.abc import Collection, Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inference.generation import check_max_new_tokens, check_prompt_fits, prefill
from inference.kv_cache import KVCache
from inference.sampling import (
    SamplingSettings,
    next_token_probabilities,
    penalize,
    pick,
    seed_of_sample,
    uniform,
)
from lm_core.user_error import UserError
from transformer_lm.language_model import TransformerLM
from transformer_lm.token_id_check import check_token_ids

# Numbers of "samples" whose seeds give the random numbers for accepting and for drafting. Above
# every number of a real sample, because no number may serve two purposes.
ACCEPT_STREAM = 2**32
DRAFT_STREAM = 2**32 + 1


def prompt_lookup(
    token_ids: Sequence[int], max_ngram: int, num_drafts: int, min_ngram: int = 1
) -> list[int]:
    """Return the tokens that followed the latest earlier occurrence of the text's last n tokens.

    n is the largest number from `min_ngram` to `max_ngram` for which there is an earlier
    occurrence, which may overlap with the last n tokens. At most `num_drafts` tokens are returned;
    fewer if the text ends before, none if nothing occurred earlier.

    Raises ValueError unless 1 <= min_ngram <= max_ngram and num_drafts >= 0.
    """
    if not 1 <= min_ngram <= max_ngram:
        raise UserError(
            f"min_ngram must be between 1 and max_ngram, got min_ngram = {min_ngram} and max_ngram "
            f"= {max_ngram}"
        )
    if num_drafts < 0:
        raise UserError(f"num_drafts must be at least 0, got {num_drafts}")
    text = list(token_ids)
    longest, end = 0, len(text)
    for distance, length in enumerate(_repeated_endings(text), start=1):
        if length > longest:  # a longer one than all that are later
            longest, end = length, len(text) - distance
            if length >= max_ngram:
                break
    return text[end : end + num_drafts] if longest >= min_ngram else []


def _repeated_endings(text: list[int]) -> Iterator[int]:
    """Yield for distance 1, 2, ... how many of the last tokens are there that much earlier, too."""
    backwards = text[::-1]
    size = len(backwards)
    lengths = [size] * size
    begin = end = 0  # the stretch backwards[begin:end] equals the beginning, and reaches furthest
    for start in range(1, size):
        length = lengths[start - begin] if start < end else 0
        if start + length >= end:
            length = max(end - start, 0)
            while start + length < size and backwards[length] == backwards[start + length]:
                length += 1
            begin, end = start, start + length
        lengths[start] = length
        yield length


def residual(
    target: Float[Tensor, " vocab"], draft: Float[Tensor, " vocab"]
) -> Float[Tensor, " vocab"]:
    """Return max(target - draft, 0), divided by its sum: the distribution after a rejection.

    Where the draft is too likely by some probability, other tokens lack the same probability in
    total; the residual gives it to them. If nothing is left because the two are equal, returns a
    copy of the target. The result has the dtype of the target.
    """
    lacking = torch.where(target > draft, target.double() - draft.double(), 0.0)
    total = lacking.sum()
    return (lacking / total).to(target.dtype) if total > 0 else target.clone()


def accept_drafts(
    draft_ids: Sequence[int],
    draft_probabilities: Float[Tensor, "drafts vocab"],
    target_probabilities: Float[Tensor, "drafts_and_one vocab"],
    numbers: Sequence[tuple[float, float]],
) -> list[int]:
    """Return the accepted drafts and one token more, which are distributed as the target's.

    Draft i was drawn from row i of `draft_probabilities`, and row i of `target_probabilities` is
    the model's distribution at the same place, given the drafts before. `numbers[i]` holds two
    random numbers in [0, 1) for place i: draft i is accepted if the first is below target / draft
    probability. At the first rejection, the second one draws from the residual instead, and the
    drafts that follow are dropped. If all are accepted, `numbers[-1][1]` draws from the last row.
    """
    for place, token in enumerate(draft_ids):
        target, draft = target_probabilities[place], draft_probabilities[place]
        accepting, drawing = numbers[place]
        if accepting >= float(target[token]) / float(draft[token]):
            return [*draft_ids[:place], pick(residual(target, draft), drawing)]
    return [*draft_ids, pick(target_probabilities[len(draft_ids)], numbers[len(draft_ids)][1])]


def accept_lookup(
    draft_ids: Sequence[int],
    target_probabilities: Float[Tensor, "drafts_and_one vocab"],
    numbers: Sequence[float],
) -> list[int]:
    """Return the tokens that the target draws with its own numbers, as far as the drafts are right.

    At each place, `numbers[place]` draws from the target's row. If the result equals the draft, the
    next row is valid, too; at the first difference, the drawn token is the last one. So the text is
    the one without speculation. A draft of target probability p is right with probability p, as
    often as rejection sampling would accept a draft that is certain.
    """
    tokens: list[int] = []
    for expected in (*draft_ids, None):  # behind the last draft, nothing is expected
        place = len(tokens)
        tokens.append(pick(target_probabilities[place], numbers[place]))
        if tokens[place] != expected:
            break
    return tokens


class _Draws:
    """The distributions and the random numbers of one answer, by place."""

    def __init__(self, settings: SamplingSettings, prompt: list[int]) -> None:
        self.settings, self.prompt = settings, prompt

    def own(self, place: int) -> float:
        """Return the number with which the token of a place is drawn."""
        return uniform(self.settings.seed, place)

    def accepting(self, place: int) -> float:
        """Return the number that accepts or rejects the draft of a place."""
        return uniform(seed_of_sample(self.settings.seed, ACCEPT_STREAM), place)

    def drafting(self, place: int) -> float:
        """Return the number with which the draft of a place is drawn."""
        return uniform(seed_of_sample(self.settings.seed, DRAFT_STREAM), place)

    def distribution(
        self, logits: Float[Tensor, " vocab"], answer: list[int]
    ) -> Float[Tensor, " vocab"]:
        """Return the distribution of the token after prompt and answer."""
        penalized = penalize(logits, self.prompt, answer, self.settings)
        return next_token_probabilities(penalized, self.settings)

    def drafts(
        self, draft_model: TransformerLM, cache: KVCache, answer: list[int], count: int
    ) -> tuple[list[int], list[Float[Tensor, " vocab"]]]:
        """Let the draft model write `count` tokens; return them and what they were drawn from."""
        cache.truncate(min(cache.length, len(self.prompt) + len(answer) - 1))
        drafts: list[int] = []
        rows: list[Float[Tensor, " vocab"]] = []
        while len(drafts) < count:
            written = answer + drafts
            # `prefill` reads only the tokens that are not in the cache.
            logits = prefill(draft_model, _one_row(draft_model, self.prompt + written), cache)
            rows.append(self.distribution(logits[0], written))
            drafts.append(pick(rows[-1], self.drafting(len(written))))
        return drafts, rows


def _check_drafts(
    model: TransformerLM, draft_model: TransformerLM | None, num_drafts: int, max_ngram: int
) -> None:
    if num_drafts < 0:
        raise UserError(f"num_drafts must be at least 0, got {num_drafts}")
    if max_ngram < 1:
        raise UserError(f"max_ngram must be at least 1, got {max_ngram}")
    if draft_model is not None:
        _check_draft_model(draft_model, model)


def speculative_generate(
    model: TransformerLM,
    draft_model: TransformerLM | None,
    prompt_ids: Sequence[int],
    settings: SamplingSettings,
    max_new_tokens: int,
    stop_ids: Collection[int] = (),
    num_drafts: int = 4,
    max_ngram: int = 3,
) -> tuple[list[int], int]:
    """Return the answer, without its stop id, and the number of forward passes of `model`.

    Without a draft model, drafts come from `prompt_lookup`, and the answer is that of `generate`
    with the same settings. With one, the answer has the same distribution, and also depends on the
    drafts. The prompt counts as one pass; without any accepted draft, there is one for each token.

    The answer's token number i (from 0) is drawn with `uniform(settings.seed, i)`. A draft model
    needs two further numbers for it, of other streams: `uniform(seed_of_sample(settings.seed,
    ACCEPT_STREAM), i)` accepts, and the one of DRAFT_STREAM draws the draft.

    Raises ValueError for what `generate` refuses, for a negative `num_drafts`, for a `max_ngram`
    below 1, and for a draft model with another vocabulary or a shorter context than the model.
    """
    config = model.config
    prompt = list(prompt_ids)
    check_max_new_tokens(max_new_tokens)
    check_prompt_fits(len(prompt), config.context_length)
    check_token_ids(torch.tensor(prompt), config.vocab_size)
    _check_drafts(model, draft_model, num_drafts, max_ngram)
    limit = min(max_new_tokens, config.context_length - len(prompt) + 1)
    draws = _Draws(settings, prompt)
    cache = _new_cache(model, len(prompt) + limit - 1)
    first = prefill(model, _one_row(model, prompt), cache)
    fresh, passes = [pick(draws.distribution(first[0], []), draws.own(0))], 1
    draft_cache = None if draft_model is None else _new_cache(draft_model, cache.max_length)
    answer: list[int] = []
    while True:
        for token in fresh:
            if token in stop_ids:
                return answer, passes
            answer.append(token)
        start = len(answer)
        if start == limit:
            return answer, passes

        num_wanted = min(num_drafts, limit - start - 1)
        rows: list[Float[Tensor, " vocab"]] = []
        if draft_model is None:
            drafts = prompt_lookup(prompt + answer, max_ngram, num_wanted)
        else:
            drafts, rows = draws.drafts(draft_model, draft_cache, answer, num_wanted)

        cache.truncate(len(prompt) + start - 1)
        logits = _read(model, [answer[-1], *drafts], cache)
        passes += 1
        targets = torch.stack(
            [draws.distribution(row, answer + drafts[:n]) for n, row in enumerate(logits)]
        )
        places = range(start, start + len(drafts) + 1)
        if draft_model is None:
            fresh = accept_lookup(drafts, targets, [draws.own(place) for place in places])
        else:
            pairs = [(draws.accepting(place), draws.own(place)) for place in places]
            sources = torch.stack(rows) if rows else targets[:0]
            fresh = accept_drafts(drafts, sources, targets, pairs)


@torch.no_grad()
def _read(
    model: TransformerLM, token_ids: list[int], cache: KVCache
) -> Float[Tensor, "tokens vocab"]:
    return model(_one_row(model, token_ids), cache=cache)[0]


def _one_row(model: TransformerLM, token_ids: list[int]) -> Int[Tensor, "1 tokens"]:
    return torch.tensor([token_ids], device=next(model.parameters()).device)


def _new_cache(model: TransformerLM, max_length: int) -> KVCache:
    weight = next(model.parameters())
    return KVCache.for_model(model.config, 1, max_length, weight.dtype, weight.device)


def _check_draft_model(draft_model: TransformerLM, model: TransformerLM) -> None:
    draft, target = draft_model.config, model.config
    if draft.vocab_size != target.vocab_size:
        raise UserError(
            f"the draft model has a vocabulary of {draft.vocab_size} tokens and the model one of "
            f"{target.vocab_size}; both need the same tokenizer"
        )
    if draft.context_length < target.context_length:
        raise UserError(
            f"the draft model's context of {draft.context_length} tokens is shorter than the "
            f"model's of {target.context_length}; it cannot read every text"
        )
