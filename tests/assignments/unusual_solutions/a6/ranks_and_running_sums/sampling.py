"""Penalties on a list of floats; filters by the rank of each token; draws by a running sum."""

# ruff: noqa: F821 - the rest of the module, which is the reference's, has the other names

from itertools import accumulate

import torch

WORD = 2**64


def penalize(logits, prompt_ids, answer_ids, settings):
    """One occurrence after the other, in float64."""
    row, factor = logits.double().tolist(), settings.repetition_penalty
    for token in set(answer_ids) | set(prompt_ids):
        row[token] = row[token] * factor if row[token] < 0 else row[token] / factor
    for token in set(answer_ids):
        row[token] -= settings.presence_penalty
    for token in answer_ids:
        row[token] -= settings.frequency_penalty
    for token in settings.logit_bias:
        if token > len(row) - 1:
            raise ValueError(f"no token {token}")
        row[token] += settings.logit_bias[token]
    return torch.tensor(row, dtype=torch.float32, device=logits.device)


def ranks(logits):
    """The place of each token in the order of the most likely, and this order."""
    order = logits.argsort(dim=-1, descending=True, stable=True)
    return order.argsort(dim=-1), order


def keep_top_k(logits, k):
    return torch.where(ranks(logits)[0] < k, logits, MINUS_INFINITY)


def keep_top_p(logits, p):
    if p == 1:
        return logits + 0
    rank, order = ranks(logits)
    shares = logits.float().softmax(-1).gather(-1, order)
    before = torch.nn.functional.pad(shares.cumsum(-1)[..., :-1], (1, 0))
    return torch.where((before < p).gather(-1, rank), logits, MINUS_INFINITY)


def keep_min_p(logits, p):
    shares = logits.float().softmax(-1)
    return torch.where(shares >= p * shares.amax(-1, keepdim=True), logits, MINUS_INFINITY)


def next_token_probabilities(logits, settings):
    rows = logits.double().reshape(-1, logits.shape[-1])
    return torch.stack([of_row(row, settings) for row in rows]).view(logits.shape)


def of_row(row, settings):
    if settings.temperature < SMALLEST_TEMPERATURE:
        return (ranks(row)[0] == 0).float()
    row = (row - row.max()) / settings.temperature
    if settings.top_k:
        row = keep_top_k(row, settings.top_k)
    return keep_min_p(keep_top_p(row, settings.top_p), settings.min_p).softmax(0).float()


def mix(x):
    x %= WORD
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % WORD
    x = (x ^ x >> 27) * 0x94D049BB133111EB % WORD
    return x ^ x >> 31


def uniform(seed, index):
    return mix(mix(seed + GAMMA) + (index + 1) * GAMMA) // 2048 * 2.0**-53


def seed_of_sample(seed, number):
    return mix(mix(seed + GAMMA) + number) // 2 if number > 0 else seed


def pick(probabilities, number):
    sums = list(accumulate(probabilities.tolist()))
    if not 0 < sums[-1] < float("inf"):
        raise ValueError(f"probabilities with the sum {sums[-1]}")
    return next(token for token, each in enumerate(sums) if each > number * sums[-1])


def sample(logits, settings, indices):
    chosen = []
    for row, one, index in zip(logits, settings, indices, strict=True):
        chosen.append(pick(next_token_probabilities(row, one), uniform(one.seed, index)))
    return chosen
