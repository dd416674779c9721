"""Repeated substrings: spans of 50 or more words that occurred before, anywhere in the documents.

All documents are joined, with a separator after each that occurs nowhere else, and their suffixes
are sorted. Equal substrings then begin neighboring suffixes: a text is repeated if two neighbors
have a long common prefix (Lee et al. 2022, "Deduplicating Training Data Makes Language Models
Better", section 4.1). Lee et al. drop all occurrences; here the first stays.

The rule: a window of `min_tokens` ids is a repeat if an equal window ended before it begins, in an
earlier document or in the same one. What repeats cover is dropped. Windows do not cross the end of
a document. In "a a a a a" with windows of two, those at positions 2 and 3 are repeats of the one
at 0, so "a a" stays. The window at 1 overlaps that at 0, so it is not a repeat of it.

A megabyte of English takes half a second and some 15 MB at the peak (88 bytes for each word;
measured on 8 MB of books and 4 MB of Python documentation, one core of an AMD EPYC).

What this leaves out: more documents than fit in memory, and repeats that differ in case or
punctuation.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import regex
from pydantic import Field

from lm_core.settings import Settings

# In scripts without spaces between words, every character is a word, as in minhash_dedup.py.
WITHOUT_SPACES = (
    r"\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Yi}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
    r"\p{Tibetan}"
)
WORD = regex.compile(rf"[{WITHOUT_SPACES}]|[^\s{WITHOUT_SPACES}]++")
Span = tuple[int, int]  # from, up to


class SubstringDedupSettings(Settings):
    """Thresholds for repeated substrings.

    Attributes:
        enabled: whether to drop them.
        min_words: fewest words of a repeat. Lee et al. use 50 tokens, which are fewer words.
    """

    enabled: bool = False
    min_words: int = Field(default=50, ge=2)


def _dense_ranks(ids: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return the place of each id among the distinct ids, from 0: int64 [ids]."""
    values = ids.tolist() if isinstance(ids, np.ndarray) else ids
    # Not by NumPy: ids may have more than 64 bits.
    place = {value: number for number, value in enumerate(sorted(set(values)))}
    return np.array(list(map(place.__getitem__, values)), dtype=np.int64)


def suffix_array(ids: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return the starts of all suffixes of `ids` in lexicographic order: int64 [ids].

    A suffix that is a prefix of another comes before it. The ids of "banana" give [5, 3, 1, 0, 4,
    2]: a, ana, anana, banana, na, nana.

    By prefix doubling (Manber and Myers 1990): if the suffixes are sorted by their first k ids, the
    pair (rank of suffix i, rank of suffix i + k) sorts them by their first 2k. Only suffixes that
    are not alone with their rank are sorted again, so the time depends on how long the repeats are:
    O(n log n) for each doubling.
    """
    ranks = _dense_ranks(ids)
    length = len(ranks)
    known = 1  # ids by which the suffixes are sorted
    while True:
        # A suffix that ends within the next ids is the smallest: 0, and ranks begin at 1 there.
        behind = np.zeros(length, dtype=np.int64)
        behind[: max(0, length - known)] = ranks[known:] + 1
        pairs = ranks * (length + 1) + behind
        order = np.argsort(pairs, kind="stable")
        in_order = pairs[order]
        places = np.zeros(length, dtype=np.int64)
        places[1:] = np.cumsum(in_order[1:] != in_order[:-1])
        if length == 0 or places[-1] == length - 1:
            return order.astype(np.int64, copy=False)
        ranks[order] = places
        known *= 2


def longest_common_prefixes(ids: Sequence[int] | np.ndarray, suffixes: np.ndarray) -> np.ndarray:
    """Return, for each place in the suffix array, how many first ids that suffix shares with the
    suffix before it (0 for the first place): int64 [ids].

    For "banana" and its suffix array [5, 3, 1, 0, 4, 2]: [0, 1, 3, 0, 0, 2].

    By Kasai et al. (2001): if the suffix at i shares k ids with its neighbor, the suffix at i + 1
    shares at least k - 1 with its own. So k decreases at most n times in all, and the time is O(n).
    """
    length = len(ids)
    values = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
    order = suffixes.tolist()
    before = [length] * length  # the neighbor of each suffix; the empty one for the first
    for earlier, later in pairwise(order):
        before[later] = earlier
    shared = [0] * length
    common = 0
    for start, neighbor in enumerate(before):
        stop = length - max(start, neighbor)
        common = min(common, stop)
        while common < stop and values[start + common] == values[neighbor + common]:
            common += 1
        shared[start] = common
        common = max(common - 1, 0)
    return np.array(shared, dtype=np.int64)[np.asarray(suffixes, dtype=np.int64)]


def _window_names(ranks: np.ndarray, length: int) -> np.ndarray:
    """Return a number for each window of `length` ids, equal for equal windows: int64 [windows].

    Two windows are equal if their first halves are and their second halves are, so names of windows
    of twice the length are names of pairs. Halves may overlap, so any length can be reached.
    """
    names, known = ranks, 1
    while known < length:
        step = min(known, length - known)
        pairs = names[:-step] * (len(ranks) + 1) + names[step:]
        names = np.unique(pairs, return_inverse=True)[1]
        known += step
    return names


def repeated_spans(documents: Sequence[Sequence[int]], min_tokens: int) -> list[list[Span]]:
    """Return, for each document, the spans that repeats cover, by the rule above: in order, without
    overlap, and never touching.

    For documents [1, 2, 3, 4], [9, 1, 2, 3] and windows of two: [[], [(1, 4)]].

    Args:
        documents: ids, not negative. Equal ids are equal words.
        min_tokens: ids in a window, at least 1.

    Raises:
        ValueError: an id is negative, or min_tokens is less than 1.
    """
    if min_tokens < 1:
        raise ValueError(f"min_tokens is {min_tokens}; expected 1 or more")
    joined = [word for document in documents for word in document]
    if joined and min(joined) < 0:
        raise ValueError(f"a document has the id {min(joined)}; expected 0 or more")
    ends = np.cumsum([0, *(len(document) for document in documents)]).tolist()
    if min_tokens > len(joined):
        return [[] for _ in documents]
    # Windows that lie in one document; no separators are needed.
    inside = np.concatenate(
        [np.zeros(0, dtype=np.int64)]
        + [np.arange(start, max(start, end - min_tokens + 1)) for start, end in pairwise(ends)]
    )
    names = _window_names(_dense_ranks(joined), min_tokens)[inside]
    _, first, same = np.unique(names, return_index=True, return_inverse=True)
    repeats = inside[inside[first[same]] + min_tokens <= inside]
    steps = np.zeros(len(joined) + 1, dtype=np.int64)
    np.add.at(steps, repeats, 1)
    np.add.at(steps, repeats + min_tokens, -1)
    covered = np.cumsum(steps) > 0
    result: list[list[Span]] = []
    for start, end in pairwise(ends):
        edges = np.flatnonzero(np.diff(covered[start:end], prepend=False, append=False)).tolist()
        result.append(list(zip(edges[::2], edges[1::2], strict=True)))
    return result


def drop_repeated_spans(texts: Sequence[str], min_words: int) -> list[tuple[str, int]]:
    """Return, for each text, (the text without repeated spans of words, the number of words
    dropped).

    Words are what spaces separate, with their punctuation and case. In Chinese, Japanese, Thai and
    the like every character is a word. From the first word of a span up to the next word that
    stays, everything goes; at the end of a text, the blanks before the span go too. A text without
    repeats is unchanged, and one that is a repeat as a whole becomes empty.

    For ["a b c", "x\\n\\na b c y"] and three words: [("a b c", 0), ("x\\n\\ny", 3)].
    """
    places = [[match.span() for match in WORD.finditer(text)] for text in texts]
    numbers: dict[str, int] = {}
    documents = [
        [numbers.setdefault(text[start:end], len(numbers)) for start, end in words]
        for text, words in zip(texts, places, strict=True)
    ]
    result = []
    spans_of_texts = repeated_spans(documents, min_words)
    for text, words, spans in zip(texts, places, spans_of_texts, strict=True):
        kept, begin = "", 0
        for first, behind in spans:
            kept += text[begin : words[first][0]]
            begin = words[behind][0] if behind < len(words) else len(text)
        kept += text[begin:]
        if spans and spans[-1][1] == len(words):
            kept = kept.rstrip()
        result.append((kept, sum(behind - first for first, behind in spans)))
    return result
