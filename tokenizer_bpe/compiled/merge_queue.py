"""A binary heap of pairs: the highest count first, then the larger pair of byte strings.

As in the lesson, a pair is pushed once. If its count has fallen by the time it reaches the top, it
is pushed again with its current count.
"""

from typing import NamedTuple

import numpy as np

from tokenizer_bpe.compiled.kernel_cache import kernel

NONE = -1
_PREFIX = 8


class TokenBytes(NamedTuple):
    """The bytes of every token, for comparison.

    Attributes:
        letters: the bytes of all tokens, concatenated; uint8.
        starts: token t is letters[starts[t] : starts[t + 1]]; int64 [tokens + 1].
        prefixes: the first 8 bytes as a big-endian number, zeros after the end: most comparisons
            need no more; uint64 [tokens].
    """

    letters: np.ndarray
    starts: np.ndarray
    prefixes: np.ndarray

    @classmethod
    def of_bytes(cls, num_merges: int) -> "TokenBytes":
        """Return the 256 bytes, with room for `num_merges` tokens of 16 bytes."""
        tokens = cls(
            letters=np.empty(256 + 16 * num_merges, dtype=np.uint8),
            starts=np.zeros(256 + num_merges + 1, dtype=np.int64),
            prefixes=np.zeros(256 + num_merges, dtype=np.uint64),
        )
        tokens.letters[:256] = np.arange(256)
        tokens.starts[:257] = np.arange(257)
        tokens.prefixes[:256] = np.arange(256, dtype=np.uint64) << np.uint64(56)
        return tokens

    def with_room(self, num_bytes: int) -> "TokenBytes":
        """Return a copy with room for twice `num_bytes` letters."""
        letters = np.empty(2 * num_bytes, dtype=np.uint8)
        letters[: len(self.letters)] = self.letters
        return self._replace(letters=letters)


class MergeQueue(NamedTuple):
    """A heap in two arrays; the children of i are 2 i + 1 and 2 i + 2.

    Attributes:
        counts: the counts when the pairs were pushed; int64 [room].
        pairs: numbers of the pairs; int32 [room].
        size: [number of entries]; int64 [1].
    """

    counts: np.ndarray
    pairs: np.ndarray
    size: np.ndarray

    @classmethod
    def with_room(cls, room: int) -> "MergeQueue":
        return cls(
            np.empty(room, dtype=np.int64), np.empty(room, dtype=np.int32), np.zeros(1, np.int64)
        )

    def with_more_room(self, room: int) -> "MergeQueue":
        larger = MergeQueue.with_room(room)
        for old, new in zip(self, larger, strict=True):
            new[: len(old)] = old
        return larger


@kernel
def token_length(tokens, token):
    return tokens.starts[token + 1] - tokens.starts[token]


@kernel
def add_merged_token(tokens, left, right, new_token):
    """Store left + right as token `new_token`; the caller has checked that there is room."""
    end = tokens.starts[new_token]
    for part in (left, right):
        for place in range(tokens.starts[part], tokens.starts[part + 1]):
            tokens.letters[end] = tokens.letters[place]
            end += 1
    tokens.starts[new_token + 1] = end
    prefix = np.uint64(0)
    for place in range(tokens.starts[new_token], tokens.starts[new_token] + _PREFIX):
        byte = np.uint64(tokens.letters[place]) if place < end else np.uint64(0)
        prefix = (prefix << np.uint64(8)) | byte
    tokens.prefixes[new_token] = prefix


@kernel
def _compare_tokens(tokens, one, other):
    """Return a positive number if the bytes of `one` are larger, a negative one if they are
    smaller.
    """
    if one == other:
        return 0
    if tokens.prefixes[one] != tokens.prefixes[other]:
        return 1 if tokens.prefixes[one] > tokens.prefixes[other] else -1
    one_length, other_length = token_length(tokens, one), token_length(tokens, other)
    one_start, other_start = tokens.starts[one], tokens.starts[other]
    for index in range(min(one_length, other_length)):
        difference = np.int64(tokens.letters[one_start + index]) - np.int64(
            tokens.letters[other_start + index]
        )
        if difference != 0:
            return difference
    return one_length - other_length


@kernel
def _comes_first(count, pair, other_count, other_pair, keys, tokens):
    if count != other_count:
        return count > other_count
    order = _compare_tokens(tokens, keys[pair] >> 32, keys[other_pair] >> 32)
    if order == 0:
        order = _compare_tokens(tokens, keys[pair] & 0xFFFFFFFF, keys[other_pair] & 0xFFFFFFFF)
    return order > 0


@kernel
def _sift_down(queue, place, keys, tokens):
    count, pair = queue.counts[place], queue.pairs[place]
    size = queue.size[0]
    while 2 * place + 1 < size:
        child = 2 * place + 1
        if child + 1 < size and _comes_first(
            queue.counts[child + 1], queue.pairs[child + 1],
            queue.counts[child], queue.pairs[child], keys, tokens,
        ):  # fmt: skip
            child += 1
        if not _comes_first(queue.counts[child], queue.pairs[child], count, pair, keys, tokens):
            break
        queue.counts[place], queue.pairs[place] = queue.counts[child], queue.pairs[child]
        place = child
    queue.counts[place], queue.pairs[place] = count, pair


@kernel
def push(queue, pair, count, keys, tokens):
    """Add a pair; the caller has checked that there is room."""
    place = queue.size[0]
    queue.size[0] += 1
    while place > 0:
        parent = (place - 1) >> 1
        if not _comes_first(count, pair, queue.counts[parent], queue.pairs[parent], keys, tokens):
            break
        queue.counts[place], queue.pairs[place] = queue.counts[parent], queue.pairs[parent]
        place = parent
    queue.counts[place], queue.pairs[place] = count, pair


@kernel
def heapify(queue, keys, tokens):
    """Turn entries in any order into a heap."""
    for place in range(queue.size[0] // 2 - 1, -1, -1):
        _sift_down(queue, place, keys, tokens)


@kernel
def pop_best(queue, keys, counts, tokens):
    """Remove and return the best pair by current counts; NONE if none is left."""
    while queue.size[0] > 0:
        pair, pushed = queue.pairs[0], queue.counts[0]
        if counts[pair] > 0 and counts[pair] != pushed:
            queue.counts[0] = counts[pair]  # it has fallen: push the pair again
            _sift_down(queue, 0, keys, tokens)
            continue
        queue.size[0] -= 1
        last = queue.size[0]
        queue.counts[0], queue.pairs[0] = queue.counts[last], queue.pairs[last]
        _sift_down(queue, 0, keys, tokens)
        if counts[pair] > 0:
            return np.int64(pair)
    return np.int64(NONE)
