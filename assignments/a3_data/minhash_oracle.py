"""Slow, obvious oracles of a3_data.11 to a3_data.14: whole numbers of Python, sets and loops."""

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

import numpy as np

ODD, MIX = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9
MASK = 2**64 - 1


def word_hash(word: str) -> int:
    value = 0xCBF29CE484222325
    for byte in word.encode():
        value = (value ^ byte) * 0x100000001B3 & MASK
    return value


def mixed(value: int) -> int:
    return (value ^ value >> 31) * MIX & MASK


def ngram_hash(words: Sequence[str], mixing: bool = True) -> int:
    value = 0
    for word in words:
        value = (value * ODD + word_hash(word)) & MASK
    return mixed(value) if mixing else value


def ngram_hashes(words: Sequence[str], ngram_words: int) -> list[int]:
    """The hashes of the set of n-grams, ascending."""
    length = min(len(words), ngram_words)
    starts = range(len(words) - length + 1) if words else ()
    return sorted({ngram_hash(words[start : start + length]) for start in starts})


def minima(shingles: Any, multipliers: Any, offsets: Any) -> list[int]:
    """The signature, one function at a time."""
    upper = np.asarray(shingles, dtype=np.uint64) >> np.uint64(32)
    found = []
    for multiplier, offset in zip(multipliers, offsets, strict=True):
        values = upper * np.uint64(multiplier) + np.uint64(offset)  # less than 2^64
        found.append(int((values & np.uint64(0xFFFFFFFF)).min()))
    return found


def random_sets(size: int, shared: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two sorted sets of `size` random 64-bit numbers that have `shared` in common."""
    rng = np.random.default_rng(seed)
    numbers = np.unique(rng.integers(0, 2**64, 2 * size - shared, dtype=np.uint64))
    rng.shuffle(numbers)
    assert len(numbers) == 2 * size - shared
    return np.sort(numbers[:size]), np.sort(numbers[size - shared :])


def jaccard(first: Iterable[int], second: Iterable[int]) -> float:
    one, other = set(first), set(second)
    return len(one & other) / len(one | other) if one | other else 1.0


def first_of_group(count: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """The smallest member of each item's group: labels, changed again for every pair."""
    labels = list(range(count))
    for first, second in pairs:
        low, high = sorted((labels[first], labels[second]))
        labels = [low if label == high else label for label in labels]
    return labels


def pairs_above(sets: Sequence[Iterable[int]], threshold: float) -> list[tuple[int, int]]:
    """All pairs whose similarity reaches the threshold, whether they share a band or not."""
    return [
        (first, second)
        for first, second in combinations(range(len(sets)), 2)
        if jaccard(sets[first], sets[second]) >= threshold
    ]
