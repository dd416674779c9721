"""Continue a prompt: read it in one pass (prefill), then generate one token per step (decode).

    prompt ids -> [model, filling the cache] -> logits of the last position -> sample -> one id
                  [model, that id alone]     -> logits -> sample -> ... until a stop id or the limit

Prefill uses large matrix products, decode many small ones that are bound by memory: see Pope et al.
2022 ("Efficiently Scaling Transformer Inference", arXiv 2211.05102, section 2).

What this leaves out: prompts of different lengths in one batch (batch_generation.py), and requests
that join or leave while others run (batch_scheduler.py).
"""

from collections.abc import Callable, Collection, Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inference.kv_cache import KVCache
from inference.sampling import (
    MINUS_INFINITY,
    SamplingSettings,
    penalize,
    sample,
    seed_of_sample,
)
from lm_core.user_error import UserError
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig
from transformer_lm.token_id_check import check_token_ids


def check_prompt_fits(num_prompt_tokens: int, context_length: int) -> None:
    """Raise ValueError if a prompt is empty or longer than the model's context length."""
    if num_prompt_tokens == 0:
        raise UserError("the prompt has no tokens; give at least one")
    if num_prompt_tokens > context_length:
        raise UserError(
            f"the prompt has {num_prompt_tokens} tokens, the model's context holds "
            f"{context_length}: shorten the prompt by at least "
            f"{num_prompt_tokens - context_length} tokens"
        )


def check_max_new_tokens(max_new_tokens: int) -> None:
    """Raise ValueError if the limit leaves nothing to generate."""
    if max_new_tokens < 1:
        raise UserError(f"max_new_tokens must be at least 1, got {max_new_tokens}")


def num_new_tokens(
    config: ModelConfig, prompt_ids: Int[Tensor, "*batch prompt"], max_new_tokens: int
) -> int:
    """Return how many tokens a text can get at most, by its limit and by the model's context.

    The last one is never read, so its position may be one past the context: a prompt of n tokens in
    a context of n tokens still gets one.

    Raises ValueError if the limit is below one token, or if the prompt is empty, longer than the
    context or outside the vocabulary.
    """
    check_max_new_tokens(max_new_tokens)
    check_prompt_fits(prompt_ids.shape[-1], config.context_length)
    check_token_ids(prompt_ids, config.vocab_size)
    return min(max_new_tokens, config.context_length - prompt_ids.shape[-1] + 1)


PREFILL_TOKENS = 512  # logits of a whole prompt of 8,192 would be 1.6 GB with 49,152 entries


def prefill(
    model: TransformerLM, prompt_ids: Int[Tensor, "batch prompt"], cache: KVCache
) -> Float[Tensor, "batch vocab"]:
    """Bring the whole prompt into the cache, PREFILL_TOKENS at a time, and return the logits after
    its last token.

    Tokens already in the cache must be a prefix of the prompt, and are not computed again. If the
    cache holds the whole prompt, the last token is computed once more, because its logits were
    never stored.
    """
    prompt_length = prompt_ids.shape[1]
    if cache.length >= prompt_length:
        cache.truncate(prompt_length - 1)
    for part in prompt_ids[:, cache.length :].split(PREFILL_TOKENS, dim=1):
        logits = _last_logits(model, part, cache)
    return logits


def next_token_ids(
    logits: Float[Tensor, "texts vocab"],
    settings: Sequence[SamplingSettings],
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
) -> list[int]:
    """Return the next token id of each text, by its own settings, prompt and answer so far.

    The draw of a text depends on its seed and the length of its answer, but not on the other texts.
    """
    rows = [
        penalize(row, prompt, answer, own) if own.has_penalties else row.float()
        for row, prompt, answer, own in zip(logits, prompts, answers, settings, strict=True)
    ]
    return sample(torch.stack(rows), settings, [len(answer) for answer in answers])


def generate_steps(
    model: TransformerLM,
    prompt_ids: Int[Tensor, "batch prompt"],
    settings: SamplingSettings,
    max_new_tokens: int,
    stop_ids: Collection[int] = (),
    samples_per_prompt: int = 1,
    cache: KVCache | None = None,
    drawable: Bool[Tensor, " vocab"] | None = None,
) -> Iterator[list[int | None]]:
    """Yield, step by step, the next token id of each text; None for a text that has ended.

    A text ends at a stop id (which is not yielded), after `max_new_tokens`, or when the context is
    full. The steps end when every text has ended. Text number i continues prompt i //
    samples_per_prompt. Each prompt is read only once for all its samples, which differ from their
    first token, because the logits are repeated before sampling, and each sample of a prompt has a
    seed of its own (`seed_of_sample`). `drawable` says which rows of the model may be sampled, None
    for all: a model may have more rows than its tokenizer has tokens.

    Raises ValueError, at the first step, for what `num_new_tokens` refuses.
    """
    num_steps = num_new_tokens(model.config, prompt_ids, max_new_tokens)
    if cache is None:
        cache = _new_cache(model, len(prompt_ids), prompt_ids.shape[1] + num_steps - 1)
    logits = prefill(model, prompt_ids, cache)
    if samples_per_prompt > 1:
        logits = logits.repeat_interleave(samples_per_prompt, dim=0)  # (texts, vocab)
        cache = cache.repeat_texts(samples_per_prompt)
    seeds = [seed_of_sample(settings.seed, number) for number in range(samples_per_prompt)]
    each = [settings.model_copy(update={"seed": seed}) for seed in seeds] * len(prompt_ids)
    prompts = [ids for ids in prompt_ids.tolist() for _ in range(samples_per_prompt)]
    answers: list[list[int]] = [[] for _ in prompts]
    ended = [False] * len(prompts)
    for step in range(num_steps):
        if drawable is not None:
            logits = logits.masked_fill(~drawable, MINUS_INFINITY)
        ids = next_token_ids(logits, each, prompts, answers)
        ended = [was or token in stop_ids for was, token in zip(ended, ids, strict=True)]
        if all(ended):
            return
        yield [None if end else token for end, token in zip(ended, ids, strict=True)]
        for answer, token in zip(answers, ids, strict=True):
            answer.append(token)
        if step + 1 < num_steps:
            logits = _last_logits(model, torch.tensor(ids, device=logits.device)[:, None], cache)


def generate(
    model: TransformerLM,
    prompt_ids: Int[Tensor, "batch prompt"],
    settings: SamplingSettings,
    max_new_tokens: int,
    stop_ids: Collection[int] = (),
    samples_per_prompt: int = 1,
    on_token: Callable[[int, int], None] | None = None,
) -> list[list[int]]:
    """Return the new token ids of each text, without the prompt and without the stop id.

    `on_token(text_number, token_id)` is called for each token as it is sampled. See
    `generate_steps`.
    """
    texts: list[list[int]] = [[] for _ in range(len(prompt_ids) * samples_per_prompt)]
    steps = generate_steps(
        model, prompt_ids, settings, max_new_tokens, stop_ids, samples_per_prompt
    )
    for ids in steps:
        for number, token in enumerate(ids):
            if token is None:
                continue
            texts[number].append(token)
            if on_token is not None:
                on_token(number, token)
    return texts


@torch.no_grad()
def _last_logits(
    model: TransformerLM, token_ids: Int[Tensor, "batch new"], cache: KVCache
) -> Float[Tensor, "batch vocab"]:
    return model(token_ids, cache=cache)[:, -1]


def _new_cache(model: TransformerLM, batch_size: int, max_length: int) -> KVCache:
    weight = next(model.parameters())
    return KVCache.for_model(model.config, batch_size, max_length, weight.dtype, weight.device)
