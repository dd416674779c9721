"""One word -> token ids: apply the earliest merge first, until none fits.

Merges are made in rounds, as in the lesson: the earliest pair is merged at all its places, from
left to right, and only then are the new pairs considered. Merges from a trainer do not need rounds;
others may make one token in two ways and so create a pair of an earlier rank.

A short word is scanned for its earliest pair repeatedly, which takes quadratic time but no memory.
A long one uses a heap over a linked list: n log n for n bytes. From 125,000 to 1,000,000 letters,
that would make a letter a sixth slower (n^2: 8 times as slow). In fact it becomes slower than that,
as the README shows. The heap accesses arrays that outgrow the processor's caches, which may be the
reason. Garbage collection is not: without it, the times are the same.
"""

from typing import NamedTuple

import numpy as np

from tokenizer_bpe.compiled.kernel_cache import kernel
from tokenizer_bpe.compiled.pair_table import ABSENT, PairTable, find_pair, pair_table_of

LONG_WORD = 96  # bytes; from this length, the heap is faster
_NONE = -1
_NO_MERGE = 1 << 31
_UNKNOWN = -1  # the rank of a new pair
_PLACE_BITS = 32


class MergeRules(NamedTuple):
    """The parts of a vocabulary that encoding needs.

    Attributes:
        token_of_byte: ids of the 256 bytes; int32 [256].
        pairs: pair of ids -> rank.
        results: the id that each rank produces; int32 [merges].
    """

    token_of_byte: np.ndarray
    pairs: PairTable
    results: np.ndarray


class Scratch(NamedTuple):
    """Working memory for words of up to `len(tokens)` bytes.

    Attributes:
        tokens: token ids; int32.
        ranks: rank of the pair that begins at each place; int64.
        after: place of the next token; int32.
        before: place of the previous one; int32.
        heap: rank * 2^32 + place; int64. Twice as long: n - 1 pairs at first, and each of at most n
            - 1 merges removes one and adds two.
    """

    tokens: np.ndarray
    ranks: np.ndarray
    after: np.ndarray
    before: np.ndarray
    heap: np.ndarray


def merge_rules(token_of_byte: list[int], merges: list[tuple[int, int, int]]) -> MergeRules:
    """Make rules from the ids of the 256 bytes, and (left, right, result) by rank.

    A pair that occurs twice has the later rank, as in the lesson.
    """
    ranks = {(left, right): rank for rank, (left, right, _) in enumerate(merges)}
    in_order = sorted(ranks, key=ranks.__getitem__)
    pairs = np.array(in_order, dtype=np.int64).reshape(-1, 2)
    results = [merges[ranks[pair]][2] for pair in in_order]
    return MergeRules(
        np.array(token_of_byte, dtype=np.int32),
        pair_table_of(pairs),
        np.array(results, dtype=np.int32),
    )


def scratch_for(longest: int) -> Scratch:
    """Return working memory for words of up to `longest` bytes."""
    return Scratch(
        tokens=np.empty(longest, dtype=np.int32),
        ranks=np.empty(longest, dtype=np.int64),
        after=np.empty(longest, dtype=np.int32),
        before=np.empty(longest, dtype=np.int32),
        heap=np.empty(2 * longest, dtype=np.int64),
    )


def encode_long_word(word: np.ndarray, rules: MergeRules) -> np.ndarray:
    """Return the ids of a word of any length, uint8 [bytes], as int32."""
    scratch = scratch_for(len(word))
    number = encode_word(word, 0, len(word), rules, scratch)
    return scratch.tokens[:number]


@kernel
def _rank_of(rules, left, right):
    rank = find_pair(rules.pairs, left, right)
    return np.int64(_NO_MERGE) if rank == ABSENT else np.int64(rank)


@kernel
def encode_word(text, start, stop, rules, scratch):
    """Write the ids of text[start:stop] to scratch.tokens, which has room; return their number."""
    for place in range(start, stop):
        scratch.tokens[place - start] = rules.token_of_byte[text[place]]
    if stop - start > LONG_WORD:
        return _merge_long(stop - start, rules, scratch)
    return _merge_short(stop - start, rules, scratch)


@kernel
def _merge_short(count, rules, scratch):
    tokens, ranks = scratch.tokens, scratch.ranks
    for place in range(count - 1):
        ranks[place] = _UNKNOWN
    while True:
        earliest = np.int64(_NO_MERGE)
        for place in range(count - 1):
            if ranks[place] == _UNKNOWN:
                ranks[place] = _rank_of(rules, tokens[place], tokens[place + 1])
            earliest = min(earliest, ranks[place])
        if earliest == _NO_MERGE:
            return count
        kept, place = 0, 0
        while place < count:
            if place + 1 < count and ranks[place] == earliest:
                tokens[kept] = rules.results[earliest]
                ranks[kept] = _UNKNOWN
                if kept > 0:
                    ranks[kept - 1] = _UNKNOWN
                place += 2
            else:
                tokens[kept], ranks[kept] = tokens[place], ranks[place]
                place += 1
            kept += 1
        count = kept


@kernel
def _merge_long(count, rules, scratch):
    tokens, ranks, after, before = scratch.tokens, scratch.ranks, scratch.after, scratch.before
    heap = scratch.heap
    for place in range(count):
        before[place] = place - 1
        after[place] = place + 1 if place + 1 < count else _NONE
        ranks[place] = _NO_MERGE
    size, aside = 0, len(heap)  # the heap is heap[:size]; heap[aside:] is for the next round
    for place in range(count - 1):
        aside = _set_aside(rules, scratch, place, aside)
    rank = np.int64(_NO_MERGE)
    while True:
        if size == 0 or heap[0] >> _PLACE_BITS != rank:  # the round is over
            for slot in range(aside, len(heap)):
                _push(heap, heap[slot], size)
                size += 1
            aside = len(heap)
            if size == 0:
                break
            rank = heap[0] >> _PLACE_BITS
        place = heap[0] & 0xFFFFFFFF
        size -= 1
        _sift_down(heap, size)
        if ranks[place] != rank:
            continue  # a merge on either side has removed this pair
        second = after[place]
        third = after[second]
        tokens[place] = rules.results[rank]
        ranks[place] = ranks[second] = _NO_MERGE
        after[place] = third
        if third != _NONE:
            before[third] = place
            aside = _set_aside(rules, scratch, place, aside)
        if before[place] != _NONE:
            aside = _set_aside(rules, scratch, before[place], aside)
    kept, place = 0, 0
    while place != _NONE:
        tokens[kept] = tokens[place]
        kept += 1
        place = after[place]
    return kept


@kernel
def _set_aside(rules, scratch, place, aside):
    """Rank the pair at `place`, keep it for the next round if it can be merged, and return the
    start of the kept entries.
    """
    rank = _rank_of(rules, scratch.tokens[place], scratch.tokens[scratch.after[place]])
    scratch.ranks[place] = rank
    if rank == _NO_MERGE:
        return aside
    scratch.heap[aside - 1] = (rank << _PLACE_BITS) | place
    return aside - 1


@kernel
def _push(heap, entry, size):
    """Add an entry to a heap of `size` entries."""
    slot = size
    while slot > 0 and heap[(slot - 1) >> 1] > entry:
        heap[slot] = heap[(slot - 1) >> 1]
        slot = (slot - 1) >> 1
    heap[slot] = entry


@kernel
def _sift_down(heap, size):
    """Replace the top of the heap of `size` entries by the entry at heap[size]."""
    entry = heap[size]
    slot = 0
    while 2 * slot + 1 < size:
        child = 2 * slot + 1
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= entry:
            break
        heap[slot] = heap[child]
        slot = child
    heap[slot] = entry
