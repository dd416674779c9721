"""Each text is an object with its settings and its answer, and draws its tokens itself."""

# ruff: noqa: F821 - the rest of the module, which is the reference's, has the other names

from dataclasses import dataclass, field
from typing import Any

import torch

PASS = 100  # positions


def num_new_tokens(config, prompt_ids, max_new_tokens):
    check_max_new_tokens(max_new_tokens)
    size = prompt_ids.size(-1)
    check_prompt_fits(size, config.context_length)
    for token in prompt_ids.flatten().tolist():
        if token not in range(config.vocab_size):
            raise ValueError(f"the id {token}, a vocabulary of {config.vocab_size}")
    return min(max_new_tokens, 1 + config.context_length - size)


def prefill(model, prompt_ids, cache):
    size = prompt_ids.size(1)
    cache.truncate(min(cache.length, size - 1))
    with torch.no_grad():
        while cache.length < size:
            logits = model(prompt_ids[:, cache.length : cache.length + PASS], cache)
    return logits[:, -1].clone()


def next_token_ids(logits, settings, prompts, answers):
    texts = map(Text, prompts, settings, answers)
    return [text.drawn(row) for text, row in zip(texts, logits, strict=True)]


@dataclass
class Text:
    prompt: Any
    settings: Any
    answer: Any = field(default_factory=list)
    ended: bool = False

    def drawn(self, logits):
        row = penalize(logits, self.prompt, self.answer, self.settings)
        return sample(row[None], [self.settings], [len(self.answer)])[0]

    def take(self, token, stop_ids):
        """Return the ids to yield."""
        self.ended |= token in stop_ids
        self.answer.append(token)
        return None if self.ended else token


def generate_steps(
    model,
    prompt_ids,
    settings,
    max_new_tokens,
    stop_ids=(),
    samples_per_prompt=1,
    cache=None,
    drawable=None,
):
    left = num_new_tokens(model.config, prompt_ids, max_new_tokens)
    texts = [
        Text(prompt, settings.model_copy(update={"seed": seed_of_sample(settings.seed, number)}))
        for prompt in prompt_ids.tolist()
        for number in range(samples_per_prompt)
    ]
    if cache is None:
        like, room = model.token_embedding.weight, prompt_ids.size(1) + left
        cache = KVCache.for_model(model.config, len(prompt_ids), room, like.dtype, like.device)
    logits = prefill(model, prompt_ids, cache)
    logits = logits[[i for i in range(len(logits)) for _ in range(samples_per_prompt)]]
    if samples_per_prompt != 1:
        cache = cache.repeat_texts(samples_per_prompt)
    while True:
        if drawable is not None:
            logits[:, ~drawable] = -torch.inf
        drawn = [text.drawn(row) for text, row in zip(texts, logits, strict=True)]
        step = [text.take(token, stop_ids) for text, token in zip(texts, drawn, strict=True)]
        if all(text.ended for text in texts):
            return
        yield step
        left -= 1
        if left == 0:
            return
        with torch.no_grad():
            logits = model(prompt_ids.new_tensor(drawn).view(-1, 1), cache)[:, 0]


def generate(
    model, prompt_ids, settings, max_new_tokens, stop_ids=(), samples_per_prompt=1, on_token=None
):
    steps = generate_steps(
        model, prompt_ids, settings, max_new_tokens, stop_ids, samples_per_prompt
    )
    answers = [[] for _ in range(len(prompt_ids) * samples_per_prompt)]
    for step in steps:
        for text, token in enumerate(step):
            if token is not None:
                answers[text].append(token)
                if on_token:
                    on_token(text, token)
    return answers
