"""Speculative decoding in its slowest form: no cache, no tensors but the rows of a TableModel.

`run` can also make the typical mistakes, so that a check can name the one that was made. What this
leaves out: penalties and filters, which are drawn (test_drawn_speculative.py).
"""

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

from speculative_models import TableModel

GAMMA, MASK = 0x9E3779B97F4A7C15, 2**64 - 1
ACCEPT, DRAFT = 2**32, 2**32 + 1
MISTAKES = {
    "every draft was accepted": "always",
    "drafts of a draft model were accepted where they equal the target's own draw; the rule is "
    "number < p(x) / q(x)": "equality",
    "the numbers that drew the drafts also accepted them": "shared",
    "the numbers that pick the tokens also accepted the drafts": "own",
    "the drafts were drawn with the numbers that pick the tokens": "drafted",
    "the first rejection was noticed one place too late": "late",
    "after a rejection, the token was drawn from the target, not from the residual": "target",
    "no further token was drawn after all drafts were accepted": "no bonus",
    "the places are those of the answer, counted from 0, not those of the whole text": "text",
    "the places are those of the answer, not those of the pass": "pass",
    "drafts are drawn with the places of the answer, not with those of the pass": "draft places",
    "the drafts are the draft model's likeliest tokens, but must be drawn": "likeliest",
    "the penalties of a place count the drafts before it as part of the answer": "penalties",
}


class Run(NamedTuple):
    """An answer, the number of passes, and what each pass but the first was given to read."""

    answer: list[int]
    num_passes: int
    given: list[list[int]]


def mix(bits: int) -> int:
    bits &= MASK
    bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9 & MASK
    bits = (bits ^ bits >> 27) * 0x94D049BB133111EB & MASK
    return bits ^ bits >> 31


def uniform(seed: int, index: int) -> float:
    return (mix(mix(seed + GAMMA) + (index + 1) * GAMMA) >> 11) / 2**53


def stream(seed: int, number: int) -> int:
    return mix(mix(seed + GAMMA) + number) >> 1


def pick(probabilities: Sequence[float], number: float) -> int:
    total, so_far = sum(probabilities), 0.0
    for token, probability in enumerate(probabilities):
        so_far += probability
        if so_far > number * total:
            return token
    return max(token for token, probability in enumerate(probabilities) if probability > 0)


def residual(p: Sequence[float], q: Sequence[float]) -> list[float]:
    lacking = [max(x - y, 0.0) for x, y in zip(p, q, strict=True)]
    return lacking if sum(lacking) > 0 else list(p)


def lookup(text: Sequence[int], max_ngram: int, num_drafts: int, min_ngram: int = 1) -> list[int]:
    """Compare every n-gram of the text with its last one."""
    for n in range(min(max_ngram, len(text) - 1), min_ngram - 1, -1):
        for start in range(len(text) - n - 1, -1, -1):
            if list(text[start : start + n]) == list(text[len(text) - n :]):
                return list(text[start + n : start + n + num_drafts])
    return []


def probabilities(
    model: TableModel, prompt: list[int], answer: list[int], temperature: float, frequency: float
) -> list[float]:
    row = model.row(prompt + answer).tolist()
    row = [logit - frequency * answer.count(token) for token, logit in enumerate(row)]
    return distribution(row, temperature)


def distribution(row: list[float], temperature: float) -> list[float]:
    largest = max(row)
    if temperature == 0:
        return [float(token == row.index(largest)) for token in range(len(row))]
    powers = [math.exp((logit - largest) / temperature) for logit in row]
    return [power / sum(powers) for power in powers]


def accept(
    drafts: Sequence[int],
    rows_of_draft: Sequence[Sequence[float]],
    rows: Sequence[Sequence[float]],
    numbers: Sequence[tuple[float, float]],
    mistake: str = "",
) -> list[int]:
    """Return what `accept_drafts` returns."""
    for place, token in enumerate(drafts):
        p, q = rows[place], rows_of_draft[place]
        first, second = numbers[place]
        accepted = first * q[token] < p[token]
        if mistake == "equality":
            accepted = pick(p, second) == token
        if not accepted and mistake != "always":
            left = p if mistake in ("target", "equality") else residual(p, q)
            kept = place + 1 if mistake == "late" else place
            return [*drafts[:kept], pick(left, second)]
    if mistake == "no bonus" and drafts:
        return list(drafts)
    return [*drafts, pick(rows[len(drafts)], numbers[len(drafts)][1])]


def run(
    model: TableModel,
    draft_model: TableModel | None,
    prompt: list[int],
    max_new_tokens: int,
    *,
    temperature: float = 1.0,
    seed: int = 0,
    stop_ids: Collection[int] = (),
    num_drafts: int = 4,
    max_ngram: int = 3,
    frequency: float = 0.0,
    mistake: str = "",
) -> Run:
    """Return what `speculative_generate` returns, and what its passes read."""
    limit = min(max_new_tokens, model.config.context_length - len(prompt) + 1)
    accepting, drafting = stream(seed, ACCEPT), stream(seed, DRAFT)
    accepting = {"shared": drafting, "own": seed}.get(mistake, accepting)
    drafting = seed if mistake == "drafted" else drafting
    answer: list[int] = []
    drafts: list[int] = []
    rows_of_draft: list[list[float]] = []
    given: list[list[int]] = []
    while True:
        rows = [
            _row(model, prompt, answer, drafts[:number], temperature, frequency, mistake)
            for number in range(len(drafts) + 1)
        ]
        first = {"text": len(prompt + answer), "pass": 0}.get(mistake, len(answer))
        places = range(first, first + len(rows))
        if draft_model is None:
            rows_of_draft = [[float(token == draft) for token in range(len(rows[0]))]
                             for draft in drafts]  # fmt: skip
            numbers = [(0.0, uniform(seed, place)) for place in places]
            kind = mistake if mistake in ("always", "late", "no bonus") else "equality"
            new = accept(drafts, rows_of_draft, rows, numbers, kind)
        else:
            numbers = [(uniform(accepting, place), uniform(seed, place)) for place in places]
            new = accept(drafts, rows_of_draft, rows, numbers, mistake)
        for token in new:
            if token in stop_ids or len(answer) == limit:
                return Run(answer, 1 + len(given), given)
            answer.append(token)
        if len(answer) == limit:
            return Run(answer, 1 + len(given), given)
        count = min(num_drafts, limit - len(answer) - 1)
        if draft_model is None:
            drafts = lookup(prompt + answer, max_ngram, count)
        else:
            drafts, rows_of_draft = [], []
            for place in range(len(answer), len(answer) + count):
                row = _row(draft_model, prompt, answer, drafts, temperature, frequency, mistake)
                rows_of_draft.append(row)
                shift = len(answer) if mistake == "draft places" else 0
                drawn = pick(row, uniform(drafting, place - shift))
                drafts.append(row.index(max(row)) if mistake == "likeliest" else drawn)
        given.append([answer[-1], *drafts])


def _row(
    model: TableModel,
    prompt: list[int],
    answer: list[int],
    drafts: list[int],
    temperature: float,
    frequency: float,
    mistake: str,
) -> list[float]:
    if mistake == "penalties":
        row = model.row(prompt + answer + drafts).tolist()
        row = [logit - frequency * answer.count(token) for token, logit in enumerate(row)]
        return distribution(row, temperature)
    return probabilities(model, prompt, answer + drafts, temperature, frequency)


def likely_answers(run_with_mistake) -> dict[str, list[int]]:
    """Return the causes of a wrong answer: each with the answer of that mistake."""
    return {cause: run_with_mistake(mistake).answer for cause, mistake in MISTAKES.items()}
