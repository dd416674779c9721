"""Sets of shingles of many documents at once: the numbers of `minhash_dedup.shingle_hashes`.

The words of a document become one string of bytes with white space between them, so compiled loops
find the words and hash them; ASCII texts are never cut into Python strings. Only the sorting of a
document's shingles is numpy's, which is vectorized.
"""

from collections.abc import Sequence
from itertools import pairwise

import numba
import numpy as np

from data_pipeline.minhash_dedup import ASCII_PUNCTUATION_TO_SPACE, MIX, ODD, normalize

_FNV_START, _FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
_IS_SPACE = np.array([chr(byte).isspace() and byte < 128 for byte in range(256)])


@numba.njit(nogil=True, cache=True)
def _hash_words(text, byte_starts, one_word, is_space, hashes, word_starts):
    """Write the hashes of all words, and where those of each document start.

    A document is one word if `one_word` says so, even if there is white space in it.
    """
    count = 0
    for document in range(len(byte_starts) - 1):
        word_starts[document] = count
        place, end = byte_starts[document], byte_starts[document + 1]
        whole = one_word[document]
        while place < end or whole:
            value = _FNV_START
            start = place
            while place < end and (whole or not is_space[text[place]]):
                value = (value ^ np.uint64(text[place])) * _FNV_PRIME
                place += 1
            if place > start or whole:
                hashes[count] = value
                count += 1
            whole = False
            place += 1
    word_starts[len(byte_starts) - 1] = count


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


def _sets(
    documents: list[bytes], one_word: list[bool], ngram_words: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return values and starts, see `shingle_sets`, and the number of words of each document."""
    byte_starts = np.zeros(len(documents) + 1, dtype=np.int64)
    np.cumsum([len(document) for document in documents], out=byte_starts[1:])
    text = np.frombuffer(b"".join(documents), dtype=np.uint8)
    most_words = len(text) // 2 + len(documents)
    hashes = np.empty(most_words, dtype=np.uint64)
    word_starts, starts = np.empty_like(byte_starts), np.empty_like(byte_starts)
    flags = np.array(one_word, dtype=np.bool_)
    _hash_words(text, byte_starts, flags, _IS_SPACE, hashes, word_starts)
    values = np.empty(word_starts[-1], dtype=np.uint64)
    _combine(hashes, word_starts, ngram_words, ODD, MIX, values, starts)
    for start, end in pairwise(starts.tolist()):
        values[start:end].sort()
    _drop_repeats(values, starts)
    return values[: starts[-1]].copy(), starts, np.diff(word_starts)


def shingle_sets(
    documents: Sequence[Sequence[str]], ngram_words: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the sets of shingles of the documents, one after the other.

    Args:
        documents: the words of each, see `minhash_dedup.normalize`; there is no white space in
            them, unless a document is one word.
        ngram_words: words in a shingle.

    Returns:
        values: sorted and distinct within each document, uint64.
        starts: where each document's begin, and the end of the last; int64 [documents + 1].
    """
    joined = ["\n".join(words).encode("utf-8") for words in documents]
    lengths = [len(words) for words in documents]
    values, starts, found = _sets(joined, [length == 1 for length in lengths], ngram_words)
    assert found.tolist() == lengths, "a word is empty or has white space in it"
    return values, starts


def shingle_sets_of_texts(texts: Sequence[str], ngram_words: int) -> tuple[np.ndarray, np.ndarray]:
    """Return what `shingle_sets` returns for the normalized texts, in less time for ASCII texts."""
    documents, one_word = [], []
    for text in texts:
        spaced = text.lower().translate(ASCII_PUNCTUATION_TO_SPACE) if text.isascii() else ""
        if spaced and not spaced.isspace():
            documents.append(spaced.encode("ascii"))
            one_word.append(False)
        else:
            words = normalize(text)
            documents.append("\n".join(words).encode("utf-8"))
            one_word.append(len(words) == 1)
    values, starts, _ = _sets(documents, one_word, ngram_words)
    return values, starts
