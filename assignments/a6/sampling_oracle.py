"""Penalties, filters, draws and stop strings once more, on lists of Python numbers: the oracles of
a6.1 to a6.3 and a6.8.

What this leaves out: speed, and tensors.
"""

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction

MINUS_INFINITY = float("-inf")
GAMMA = 0x9E3779B97F4A7C15
SMALLEST_TEMPERATURE = 2.0**-126


def shares(logits: Sequence[float]) -> list[float]:
    """Return the softmax of a row."""
    largest = max(logits)
    weights = [math.exp(x - largest) for x in logits]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def most_likely_first(logits: Sequence[float]) -> list[int]:
    """Return the ids, of equal logits the lowest first."""
    return sorted(range(len(logits)), key=lambda token: (-logits[token], token))


def only(logits: Sequence[float], kept: set[int]) -> list[float]:
    return [x if token in kept else MINUS_INFINITY for token, x in enumerate(logits)]


def top_k(logits: Sequence[float], k: int) -> list[float]:
    return only(logits, set(most_likely_first(logits)[:k]))


def top_p(logits: Sequence[float], p: float) -> list[float]:
    if p >= 1:
        return list(logits)
    each, before, kept = shares(logits), 0.0, set()
    for token in most_likely_first(logits):
        if before < p:
            kept.add(token)
        before += each[token]
    return only(logits, kept)


def min_p(logits: Sequence[float], p: float) -> list[float]:
    if p == 0:
        return list(logits)
    bound = max(logits) + math.log(p)
    return only(logits, {token for token, x in enumerate(logits) if x >= bound})


def divided(logits: Sequence[float], temperature: float) -> list[float]:
    """Return the logits less the largest one, divided."""
    largest = max(logits)
    return [(x - largest) / temperature for x in logits]


def probabilities(logits: Sequence[float], settings: dict) -> list[float]:
    """Return the distribution of one row for settings with the four fields of a6.2."""
    if settings["temperature"] < SMALLEST_TEMPERATURE:
        first = most_likely_first(logits)[0]
        return [float(token == first) for token in range(len(logits))]
    row = divided(logits, settings["temperature"])
    if settings["top_k"]:
        row = top_k(row, settings["top_k"])
    return shares(min_p(top_p(row, settings["top_p"]), settings["min_p"]))


def far_p(logits: Sequence[Sequence[float]], place: int) -> float:
    """Return a p for top-p between two sums of the first row, and far from those of all rows."""
    sums = {0.0, 1.0}
    for row in logits:
        total = 0.0
        for share in sorted(shares(row), reverse=True):
            total += share
            sums.add(min(total, 1.0))
    return between(sorted(sums), place)


def far_min_p(logits: Sequence[Sequence[float]], place: int) -> float:
    """Return a p for min-p, likewise."""
    ratios = {0.0, 1.0}
    for row in logits:
        ratios.update(math.exp(x - max(row)) for x in row)
    return between(sorted(ratios), place)


def between(sums: list[float], place: int) -> float:
    """Return the middle of a gap of at least 0.002; the gaps are numbered."""
    gaps = [(a, b) for a, b in itertools.pairwise(sums) if b - a > 0.002]
    first, last = gaps[place % len(gaps)]
    return (first + last) / 2


def penalized(
    logits: Sequence[float], prompt_ids: Sequence[int], answer_ids: Sequence[int], settings: dict
) -> list[float]:
    result = []
    for token, x in enumerate(logits):
        count = list(answer_ids).count(token)
        if count or token in prompt_ids:
            r = settings["repetition_penalty"]
            x = x / r if x > 0 else x * r
        if count:
            x = x - settings["frequency_penalty"] * count - settings["presence_penalty"]
        result.append(x + settings["logit_bias"].get(token, 0.0))
    wrong = [token for token in settings["logit_bias"] if token >= len(logits)]
    if wrong:
        raise ValueError(f"logit_bias names the token {wrong[0]}")
    return result


def mixed(bits: int) -> int:
    bits %= 2**64
    bits = (bits ^ (bits // 2**30)) * 0xBF58476D1CE4E5B9 % 2**64
    bits = (bits ^ (bits // 2**27)) * 0x94D049BB133111EB % 2**64
    return bits ^ (bits // 2**31)


def number_of(seed: int, index: int) -> float:
    return math.ldexp(mixed(mixed(seed + GAMMA) + (index + 1) * GAMMA) // 2**11, -53)


def sample_seed(seed: int, number: int) -> int:
    return seed if number == 0 else mixed(mixed(seed + GAMMA) + number) // 2


def picked(values: Sequence[float], number: float) -> int:
    """Return the id for a number, without rounding."""
    total = sum(map(Fraction, values))
    if total <= 0:
        raise ValueError("the probabilities add up to 0")
    reached = Fraction(0)
    for token, value in enumerate(values):
        reached += Fraction(value)
        if reached > Fraction(number) * total:
            return token
    raise AssertionError("the number is below 1")


def shown(stop: Sequence[str], pieces: Sequence[str]) -> tuple[list[str], str, str | None]:
    """Return what each push gives, what finish gives, and the stop string, by searching in the
    whole text each time.
    """
    text, sent, results = "", 0, []
    for piece in pieces:
        text += piece
        end, by = first_stop(stop, text)
        if by is None:
            end -= len(held(stop, text))
        results.append(text[sent:end])
        sent = max(sent, end)
        if by is not None:
            return results + [""] * (len(pieces) - len(results)), "", by
    return results, text[sent:], None


def first_stop(stop: Sequence[str], text: str) -> tuple[int, str | None]:
    for end in range(len(text) + 1):
        for each in stop:
            if text.endswith(each, 0, end):
                return end - len(each), each
    return len(text), None


def held(stop: Sequence[str], text: str) -> str:
    """Return the longest end of a text that a stop string begins with."""
    for start in range(len(text)):
        if any(each.startswith(text[start:]) for each in stop):
            return text[start:]
    return ""
