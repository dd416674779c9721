"""Independent solution of a6.5, written from the handout alone.

`generate_steps` keeps the answers in a dict of the texts that are still open: a text that ends
leaves it. Only open texts draw, and the others read their last token again, to keep the batch a
rectangle.
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
    length = prompt_ids.shape[-1]
    check_prompt_fits(length, config.context_length)
    check_max_new_tokens(max_new_tokens)
    check_token_ids(prompt_ids, config.vocab_size)
    # The first new token comes from the prompt; each further one needs a place for the one before.
    return min(max_new_tokens, 1 + config.context_length - length)


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
    # This also mends a cache in which an interrupted pass left layers of different lengths.
    cache.truncate(min(cache.length, prompt_ids.shape[1] - 1))
    first, *others = prompt_ids[:, cache.length :].split(PREFILL_TOKENS, dim=1)
    logits = _last_logits(model, first, cache)
    for part in others:
        logits = _last_logits(model, part, cache)
    return logits


@torch.no_grad()
def _last_logits(
    model: TransformerLM, token_ids: Int[Tensor, "batch new"], cache: KVCache
) -> Float[Tensor, "batch vocab"]:
    """Read new tokens, and return the logits after the last one, without the memory of the rest."""
    return model(token_ids, cache=cache)[:, -1].clone()


def next_token_ids(
    logits: Float[Tensor, "texts vocab"],
    settings: Sequence[SamplingSettings],
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
) -> list[int]:
    """Return the next token id of each text, by its own settings, prompt and answer so far.

    The draw of a text depends on its seed and the length of its answer, but not on the other texts.
    """
    penalized = (
        penalize(row, prompt, answer, own)
        for row, own, prompt, answer in zip(logits, settings, prompts, answers, strict=True)
    )
    return [
        sample(row.unsqueeze(0), [own], [len(answer)])[0]
        for row, own, answer in zip(penalized, settings, answers, strict=True)
    ]


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
    limit = num_new_tokens(model.config, prompt_ids, max_new_tokens)
    if cache is None:
        cache = _cache_for(model, prompt_ids.shape[0], prompt_ids.shape[1] + limit - 1)
    logits = prefill(model, prompt_ids, cache)
    if samples_per_prompt != 1:
        logits = logits.repeat_interleave(samples_per_prompt, dim=0)
        cache = cache.repeat_texts(samples_per_prompt)

    prompts = [prompt for prompt in prompt_ids.tolist() for _ in range(samples_per_prompt)]
    of_sample = [
        settings.model_copy(update={"seed": seed_of_sample(settings.seed, number)})
        for number in range(samples_per_prompt)
    ]
    last_read = [prompt[-1] for prompt in prompts]
    open_texts: dict[int, list[int]] = {text: [] for text in range(len(prompts))}
    for num_before in range(limit):
        if num_before > 0:
            column = torch.tensor(last_read, device=prompt_ids.device).unsqueeze(1)
            logits = _last_logits(model, column, cache)
        if drawable is not None:
            logits = logits.masked_fill(~drawable.to(logits.device), MINUS_INFINITY)
        texts = list(open_texts)
        drawn = next_token_ids(
            logits[texts],
            [of_sample[text % samples_per_prompt] for text in texts],
            [prompts[text] for text in texts],
            list(open_texts.values()),
        )
        step: list[int | None] = [None] * len(prompts)
        for text, token in zip(texts, drawn, strict=True):
            if token in stop_ids:
                del open_texts[text]
            else:
                step[text] = last_read[text] = token
                open_texts[text].append(token)
        if not open_texts:
            return
        yield step


def _cache_for(model: TransformerLM, batch_size: int, max_length: int) -> KVCache:
    """Return an empty cache of the type and on the device of the model's weights."""
    weights = model.token_embedding.weight
    return KVCache.for_model(
        model.config, batch_size, max_length, dtype=weights.dtype, device=weights.device
    )


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
    texts: list[list[int]] = [[] for _ in range(prompt_ids.shape[0] * samples_per_prompt)]
    steps = generate_steps(
        model, prompt_ids, settings, max_new_tokens, stop_ids, samples_per_prompt
    )
    for step in steps:
        for number, (text, token) in enumerate(zip(texts, step, strict=True)):
            if token is None:
                continue
            text.append(token)
            if on_token is not None:
                on_token(number, token)
    return texts
