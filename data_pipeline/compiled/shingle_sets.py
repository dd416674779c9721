"""Sets of shingles of many documents at once: the numbers of `minhash_dedup.shingle_hashes`.

Half of the lesson's time goes into hashing words with BLAKE2b and half into numpy calls on a few
hundred numbers. Here a word is hashed when it is first seen, and the loops over a document's
numbers are compiled; only the sorting is numpy's, which is vectorized.
"""

from collections.abc import Sequence
from itertools import chain, pairwise

import numba
import numpy as np

from data_pipeline.minhash_dedup import MIX, ODD, word_hash

MOST_WORDS = 1 << 19  # remembered at a time, about 60 MB


class WordHashes(dict[str, int]):
    """The hashes of the words seen so far."""

    def __missing__(self, word: str) -> int:
        value = self[word] = word_hash(word)
        return value


@numba.njit(nogil=True, cache=True)
def _combine(hashes, word_starts, ngram_words, odd, mix, values, starts):
    """Write the n-grams' hashes, and where those of each document start."""
    place = 0
    for document in range(len(word_starts) - 1):
        starts[document] = place
        first, end = word_starts[document], word_starts[document + 1]
        length = min(ngram_words, end - first)
        if length == 0:
            continue
        for start in range(first, end - length + 1):
            combined = np.uint64(0)
            for word in range(start, start + length):
                combined = combined * odd + hashes[word]
            values[place] = (combined ^ (combined >> np.uint64(31))) * mix
            place += 1
    starts[len(word_starts) - 1] = place


@numba.njit(nogil=True, cache=True)
def _drop_repeats(values, starts):
    """Move the distinct values of each sorted document to the front, and correct `starts`."""
    place = 0
    last = np.uint64(0)
    for document in range(len(starts) - 1):
        begin, end = starts[document], starts[document + 1]
        starts[document] = place
        for old in range(begin, end):
            value = values[old]
            if old == begin or value != last:
                values[place] = last = value
                place += 1
    starts[len(starts) - 1] = place


def shingle_sets(
    documents: Sequence[Sequence[str]], ngram_words: int, known: WordHashes | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the sets of shingles of the documents, one after the other.

    Args:
        documents: the words of each, see `minhash_dedup.normalize`.
        ngram_words: words in a shingle.
        known: hashes of words from earlier calls; emptied when it has MOST_WORDS.

    Returns:
        values: sorted and distinct within each document, uint64.
        starts: where each document's begin, and the end of the last; int64 [documents + 1].
    """
    known = WordHashes() if known is None else known
    if len(known) > MOST_WORDS:
        known.clear()
    word_starts = np.zeros(len(documents) + 1, dtype=np.int64)
    np.cumsum([len(words) for words in documents], out=word_starts[1:])
    total = int(word_starts[-1])
    every_word = map(known.__getitem__, chain.from_iterable(documents))
    hashes = np.fromiter(every_word, dtype=np.uint64, count=total)
    values, starts = np.empty(total, dtype=np.uint64), np.empty_like(word_starts)
    _combine(hashes, word_starts, ngram_words, ODD, MIX, values, starts)
    borders = starts.tolist()
    for start, end in pairwise(borders):
        values[start:end].sort()
    _drop_repeats(values, starts)
    return values[: starts[-1]].copy(), starts
