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


def suffix_array(ids: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return the starts of all suffixes of `ids` in lexicographic order: int64 [ids].

    A suffix that is a prefix of another comes before it. The ids of "banana" give [5, 3, 1, 0, 4,
    2]: a, ana, anana, banana, na, nana.

    By prefix doubling (Manber and Myers 1990): if the suffixes are sorted by their first k ids, the
    pair (rank of suffix i, rank of suffix i + k) sorts them by their first 2k. Only suffixes that
    are not alone with their rank are sorted again, so the time depends on how long the repeats are:
    O(n log n) for each doubling.
    """
    values = np.asarray(ids, dtype=np.int64)
    suffixes = np.argsort(values, kind="stable")
    ranks = np.empty(len(values) + 1, dtype=np.int64)  # the last is that of the empty suffix
    ranks[-1] = -1
    slots = np.arange(len(values))  # the places in `suffixes` that may still change
    keys = values[suffixes]
    length = 1
    while True:
        # a suffix's rank is the place of the first suffix with the same first `length` ids
        is_new = np.append(True, keys[1:] != keys[:-1])[: len(slots)]
        firsts = np.maximum.accumulate(np.where(is_new, slots, 0))
        ranks[suffixes[slots]] = firsts
        is_alone = is_new & np.append(is_new[1:], True)[: len(slots)]
        slots = slots[~is_alone]
        if not len(slots):
            return suffixes
        starts = suffixes[slots]
        following = np.minimum(starts + length, len(values))
        keys = ranks[starts] * (len(values) + 1) + ranks[following]
        order = np.argsort(keys, kind="stable")
        suffixes[slots], keys = starts[order], keys[order]
        length *= 2


def longest_common_prefixes(ids: Sequence[int] | np.ndarray, suffixes: np.ndarray) -> np.ndarray:
    """Return, for each place in the suffix array, how many first ids that suffix shares with the
    suffix before it (0 for the first place): int64 [ids].

    For "banana" and its suffix array [5, 3, 1, 0, 4, 2]: [0, 1, 3, 0, 0, 2].

    By Kasai et al. (2001): if the suffix at i shares k ids with its neighbor, the suffix at i + 1
    shares at least k - 1 with its own. So k decreases at most n times in all, and the time is O(n).
    """
    values = np.asarray(ids, dtype=np.int64)
    places = np.empty_like(suffixes)
    places[suffixes] = np.arange(len(suffixes))
    prefixes = np.zeros(len(suffixes), dtype=np.int64)
    # Python reads single items of a memoryview twice as fast as those of an array
    read_id, read_place, read_suffix = memoryview(values), memoryview(places), memoryview(suffixes)
    size, shared = len(values), 0
    for start in range(size):
        place = read_place[start]
        if place == 0:
            shared = 0
            continue
        other = read_suffix[place - 1]
        most = size - max(start, other)
        while shared < most and read_id[start + shared] == read_id[other + shared]:
            shared += 1
        prefixes[place] = shared
        shared = max(shared - 1, 0)
    return prefixes


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
        raise ValueError(f"expected min_tokens of at least 1, found {min_tokens}")
    parts: list[np.ndarray] = []
    for number, document in enumerate(documents):
        ids = np.asarray(document, dtype=np.int64)
        if len(ids) and ids.min() < 0:
            raise ValueError(f"document {number} has the id {ids.min()}; expected 0 or more")
        parts += [ids, np.array([-1 - number])]  # a separator of its own
    if not parts:
        return []
    joined = np.concatenate(parts)
    suffixes = suffix_array(joined)
    is_first = longest_common_prefixes(joined, suffixes) < min_tokens  # of its group
    groups = np.flatnonzero(is_first)  # suffixes with the same first `min_tokens` ids
    earliest = np.minimum.reduceat(suffixes, groups)[np.cumsum(is_first) - 1]
    repeats = suffixes[suffixes >= earliest + min_tokens]
    # +1 where a window begins and -1 where it ends: the sum counts the windows at each position
    changes = np.bincount(repeats, minlength=len(joined) + 1)
    changes -= np.bincount(repeats + min_tokens, minlength=len(joined) + 1)
    covered = np.cumsum(changes) > 0
    spans, start = [], 0
    for ids in parts[::2]:
        spans.append(_true_runs(covered[start : start + len(ids)]))
        start += len(ids) + 1
    return spans


def _true_runs(mask: np.ndarray) -> list[Span]:
    edges = np.flatnonzero(np.diff(mask, prepend=False, append=False)).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))


def drop_repeated_spans(texts: Sequence[str], min_words: int) -> list[tuple[str, int]]:
    """Return, for each text, (the text without repeated spans of words, the number of words
    dropped).

    Words are what spaces separate, with their punctuation and case. In Chinese, Japanese, Thai and
    the like every character is a word. From the first word of a span up to the next word that
    stays, everything goes; at the end of a text, the blanks before the span go too. A text without
    repeats is unchanged, and one that is a repeat as a whole becomes empty.

    For ["a b c", "x\\n\\na b c y"] and three words: [("a b c", 0), ("x\\n\\ny", 3)].
    """
    numbers: dict[str, int] = {}
    documents = [
        np.array([numbers.setdefault(word, len(numbers)) for word in WORD.findall(text)], np.int64)
        for text in texts
    ]
    return [
        _without(text, spans) if spans else (text, 0)
        for text, spans in zip(texts, repeated_spans(documents, min_words), strict=True)
    ]


def _without(text: str, spans: list[Span]) -> tuple[str, int]:
    starts = [word.start() for word in WORD.finditer(text)]
    kept, position = [], 0
    for first, last in spans:
        kept.append(text[position : starts[first]])
        position = starts[last] if last < len(starts) else len(text)
    kept.append(text[position:])
    result = "".join(kept)
    ends_with_span = position == len(text)
    return result.rstrip() if ends_with_span else result, sum(last - first for first, last in spans)
