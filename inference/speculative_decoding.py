"""Speculative decoding: guess several tokens cheaply, and check all of them in one forward pass.

    text -> [drafts: a look-up in the text, or a small model] -> d1 d2 d3
         -> [model reads the last token and d1 d2 d3 in one pass] -> four distributions
         -> d1 and d2 accepted, d3 rejected, one token drawn in its place

A pass over a few tokens takes about as long as a pass over one, because reading the weights
dominates. The distribution of the answer is that of the model alone: Leviathan et al. 2023 ("Fast
Inference from Transformers via Speculative Decoding", arXiv 2211.17192, algorithm 1 and appendix
A.1) and Chen et al. 2023 (arXiv 2302.01318, algorithm 2). Drafts from the text itself: Saxena 2023
("Prompt Lookup Decoding").

What this leaves out: several requests in one batch, trees of drafts (Medusa, EAGLE), a number of
drafts that follows the acceptance rate.
"""

from collections.abc import Collection, Sequence

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
            f"min_ngram must be at least 1 and at most max_ngram, got min_ngram {min_ngram} and "
            f"max_ngram {max_ngram}"
        )
    _check_num_drafts(num_drafts)
    longest, follows = 0, len(token_ids)
    for end in range(len(token_ids) - 1, 0, -1):  # the latest occurrence first
        same = 0
        while same < min(max_ngram, end) and token_ids[end - 1 - same] == token_ids[-1 - same]:
            same += 1
        if same > longest:
            longest, follows = same, end
        if longest == max_ngram:
            break
    if longest < min_ngram:
        return []
    return list(token_ids[follows : follows + num_drafts])


def residual(
    target: Float[Tensor, " vocab"], draft: Float[Tensor, " vocab"]
) -> Float[Tensor, " vocab"]:
    """Return max(target - draft, 0), divided by its sum: the distribution after a rejection.

    Where the draft is too likely by some probability, other tokens lack the same probability in
    total; the residual gives it to them. If nothing is left because the two are equal, returns a
    copy of the target. The result has the dtype of the target.
    """
    lacking = (target - draft).clamp(min=0)
    total = lacking.sum()
    return lacking / total if total > 0 else target.clone()


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
    assert len(target_probabilities) == len(numbers) == len(draft_ids) + 1, (
        f"{len(draft_ids)} drafts need one row and one pair of numbers more, got "
        f"{len(target_probabilities)} rows and {len(numbers)} pairs"
    )
    for place, token in enumerate(draft_ids):
        target, draft = target_probabilities[place], draft_probabilities[place]
        accept_number, pick_number = numbers[place]
        # A product, not a quotient, in float64; `<` also refuses what the target excludes when the
        # number is 0.
        if not accept_number * float(draft[token]) < float(target[token]):
            return [*draft_ids[:place], pick(residual(target, draft), pick_number)]
    return [*draft_ids, pick(target_probabilities[-1], numbers[-1][1])]


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
    assert len(target_probabilities) == len(numbers) == len(draft_ids) + 1, (
        f"{len(draft_ids)} drafts need one row and one number more, got "
        f"{len(target_probabilities)} rows and {len(numbers)} numbers"
    )
    drawn: list[int] = []
    for place, number in enumerate(numbers):
        drawn.append(pick(target_probabilities[place], number))
        if place < len(draft_ids) and drawn[place] != draft_ids[place]:
            break
    return drawn


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
    check_max_new_tokens(max_new_tokens)
    check_prompt_fits(len(prompt_ids), model.config.context_length)
    check_token_ids(torch.tensor(prompt_ids), model.config.vocab_size)
    _check_drafting(model, draft_model, num_drafts, max_ngram)
    # The last token is never read, so its position may be one past the context.
    num_new = min(max_new_tokens, model.config.context_length - len(prompt_ids) + 1)
    cache = _new_cache(model, len(prompt_ids) + num_new - 1)
    if draft_model is not None:
        draft_cache = _new_cache(draft_model, len(prompt_ids) + num_new - 1)
    prompt, answer = list(prompt_ids), list[int]()
    drafts, draft_rows = list[int](), torch.empty(0, model.config.vocab_size)
    logits = prefill(model, _one_row(model, prompt), cache)  # (1, vocab)
    num_passes = 1
    while True:
        targets = _probabilities(logits, prompt, answer, drafts, settings)
        places = range(len(answer), len(answer) + len(targets))
        if draft_model is None:
            new = accept_lookup(drafts, targets, [uniform(settings.seed, i) for i in places])
        else:
            accepting = seed_of_sample(settings.seed, ACCEPT_STREAM)
            numbers = [(uniform(accepting, i), uniform(settings.seed, i)) for i in places]
            new = accept_drafts(drafts, draft_rows, targets, numbers)
        for token in new:
            if token in stop_ids:
                return answer, num_passes
            answer.append(token)
        if len(answer) == num_new:
            return answer, num_passes
        # All tokens but the last have been read. What was read after them has been rejected.
        cache.truncate(len(prompt) + len(answer) - 1)
        wanted = min(num_drafts, num_new - len(answer) - 1)  # the pass yields one token more
        if draft_model is None:
            drafts = prompt_lookup(prompt + answer, max_ngram, wanted)
        else:
            drafts, draft_rows = _draft(draft_model, draft_cache, prompt, answer, wanted, settings)
        logits = _read(model, [answer[-1], *drafts], cache)
        num_passes += 1


def _draft(
    draft_model: TransformerLM,
    cache: KVCache,
    prompt: list[int],
    answer: list[int],
    count: int,
    settings: SamplingSettings,
) -> tuple[list[int], Float[Tensor, "drafts vocab"]]:
    """Return `count` drafts that follow the answer, and the distributions they were drawn from.

    The settings are those of the target: the draft model's distribution is nearer to the target's
    if the same filters made it.
    """
    drafting = seed_of_sample(settings.seed, DRAFT_STREAM)
    drafts, rows = list[int](), [torch.empty(0, draft_model.config.vocab_size)]
    # The last draft was not read before, and the last token of the text never is.
    cache.truncate(min(cache.length, len(prompt) + len(answer) - 1))
    for place in range(len(answer), len(answer) + count):
        logits = prefill(draft_model, _one_row(draft_model, [*prompt, *answer, *drafts]), cache)
        rows.append(_probabilities(logits, prompt, answer + drafts, [], settings))
        drafts.append(pick(rows[-1][0], uniform(drafting, place)))
    return drafts, torch.cat(rows)


def _probabilities(
    logits: Float[Tensor, "drafts_and_one vocab"],
    prompt: list[int],
    answer: list[int],
    drafts: list[int],
    settings: SamplingSettings,
) -> Float[Tensor, "drafts_and_one vocab"]:
    """Return the distributions after the answer, after the first draft, and so on.

    The penalties of a row count the drafts before it as part of the answer.
    """
    rows = [
        penalize(row, prompt, answer + drafts[:number], settings)
        for number, row in enumerate(logits)
    ]
    return next_token_probabilities(torch.stack(rows), settings)


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


def _check_num_drafts(num_drafts: int) -> None:
    if num_drafts < 0:
        raise UserError(f"num_drafts must be 0 (no speculation) or more, got {num_drafts}")


def _check_drafting(
    model: TransformerLM, draft_model: TransformerLM | None, num_drafts: int, max_ngram: int
) -> None:
    """Raise ValueError for impossible numbers, and unless the draft model can write drafts for
    every text of the model.
    """
    _check_num_drafts(num_drafts)
    if max_ngram < 1:
        raise UserError(f"max_ngram must be at least 1, got {max_ngram}")
    if draft_model is None:
        return
    ours, theirs = model.config, draft_model.config
    if theirs.vocab_size != ours.vocab_size:
        raise UserError(
            f"the draft model has {theirs.vocab_size} tokens, the model {ours.vocab_size}: both "
            "must use the same tokenizer"
        )
    if theirs.context_length < ours.context_length:
        raise UserError(
            f"the draft model's context holds {theirs.context_length} tokens, the model's "
            f"{ours.context_length}: it must hold as many at least"
        )
