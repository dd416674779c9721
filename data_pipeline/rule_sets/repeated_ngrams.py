"""Characters in repeated n-grams for all n of Gopher's rules in one pass: the same numbers as
`quality_rules.top_ngram_character_share` and `quality_rules.duplicate_ngram_character_share`.

An n-gram can occur more than once only if its first n - 1 words do. So the pass for n looks only at
the places where the pass for n - 1 found a repeat, which in ordinary text are soon few. Words are
numbered, and n-grams compared as pairs (number of the first n - 1 words, number of the last word).
"""

from dataclasses import dataclass

import numpy as np

TOP_NGRAMS = (2, 3, 4)
DUPLICATE_NGRAMS = (5, 6, 7, 8, 9, 10)


@dataclass(frozen=True)
class NgramShares:
    """Shares of the characters of all words, without whitespace.

    Attributes:
        top: n -> share of the characters in the most frequent n-gram.
        duplicate: n -> share of the characters in n-grams that occurred before.
    """

    top: dict[int, float]
    duplicate: dict[int, float]


def _number_in_order(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (number of each key, index of each number's first key, how often each occurs)."""
    _, first, numbers, counts = np.unique(
        keys, return_index=True, return_inverse=True, return_counts=True
    )
    return numbers.reshape(-1), first, counts


def _characters_covered(starts: np.ndarray, n: int, lengths: np.ndarray) -> int:
    """Return the characters of the words that the n-grams at `starts` cover, each word once."""
    edges = np.zeros(len(lengths) + 1, np.int64)
    edges[starts] += 1
    edges[starts + n] -= 1  # distinct starts have distinct ends
    return int(lengths[np.cumsum(edges[:-1]) > 0].sum())


def ngram_shares(words: list[str]) -> NgramShares:
    """Return the shares of the characters in repeated n-grams.

    Args:
        words: the words of a text, in order.
    """
    shares = NgramShares(dict.fromkeys(TOP_NGRAMS, 0.0), dict.fromkeys(DUPLICATE_NGRAMS, 0.0))
    numbers_of = {word: number for number, word in enumerate(dict.fromkeys(words))}
    word_numbers = np.fromiter(map(numbers_of.__getitem__, words), np.int64, len(words))
    lengths = np.fromiter(map(len, words), np.int64, len(words))
    total = max(int(lengths.sum()), 1)
    starts = np.flatnonzero(np.bincount(word_numbers)[word_numbers] > 1)
    prefixes = word_numbers[starts]
    for n in range(2, DUPLICATE_NGRAMS[-1] + 1):
        inside = starts + n <= len(words)
        starts, prefixes = starts[inside], prefixes[inside]
        if len(starts) < 2:
            break
        keys = prefixes * len(numbers_of) + word_numbers[starts + n - 1]
        prefixes, first, counts = _number_in_order(keys)
        repeated = counts[prefixes] > 1
        if n in shares.top and repeated.any():
            most = np.flatnonzero(counts == counts.max())
            top = most[np.argmin(first[most])]  # of several, the one that occurs first
            covered = _characters_covered(starts[prefixes == top], n, lengths)
            shares.top[n] = covered / total
        if n in shares.duplicate:
            later = np.arange(len(starts)) != first[prefixes]
            shares.duplicate[n] = _characters_covered(starts[later], n, lengths) / total
        starts, prefixes = starts[repeated], prefixes[repeated]
    return shares
