"""Train byte-level BPE with the lesson's priority queue and inverted index, in flat arrays.

All distinct words are concatenated, one array element per token. A merge keeps the left element and
removes the right one from a doubly linked list, so its cost depends on the number of changes, not
on the length of the word. The places of a pair form a doubly linked list as well. Every list is in
ascending order, because a pair arises in a single merge, which visits its places in ascending
order. So "aaa" is merged from the left without sorting.

Compiled code never allocates memory: `_merge_until` stops before a merge that might not fit, and
Python makes room and calls it again.

Sources: those of the lesson, `tokenizer_bpe/merge_training.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tokenizer_bpe.compiled.kernel_cache import kernel
from tokenizer_bpe.compiled.merge_queue import (
    MergeQueue,
    TokenBytes,
    add_merged_token,
    heapify,
    pop_best,
    push,
    token_length,
)
from tokenizer_bpe.compiled.pair_table import PairTable, find_or_add_pair, grown_pairs, pair_table
from tokenizer_bpe.compiled.word_counting import CountedWords, count_words
from tokenizer_bpe.inputs.input_checks import check_special_tokens, check_vocab_size
from tokenizer_bpe.pretokenization import GPT2_PATTERN

NONE = -1
REPORT_EVERY = 256  # merges between two calls of `on_merge`
_FIRST_PAIRS = 1 << 16


class IndexedWords(NamedTuple):
    """The words with their links; every array except the last has one element per byte.

    Attributes:
        token: id of the token that begins at this place, NONE inside a token; int32.
        after: place of the next token of the word, or NONE; int32.
        before: place of the previous one, or NONE; int32.
        word: number of the word; int32.
        pair: number of the pair that begins here, or NONE; int32.
        next_place: where the same pair begins next, or NONE; int32.
        previous_place: where it began before, or NONE; int32.
        frequency: how often each word occurs; int64 [words].
    """

    token: np.ndarray
    after: np.ndarray
    before: np.ndarray
    word: np.ndarray
    pair: np.ndarray
    next_place: np.ndarray
    previous_place: np.ndarray
    frequency: np.ndarray


class PairPlaces(NamedTuple):
    """For each pair, by its number in the PairTable: its count and the list of its places.

    Attributes:
        count: count over all words; int64 [pairs].
        num_places: length of the list; int32 [pairs].
        first: place, or NONE; int32 [pairs].
        last: place, or NONE; int32 [pairs].
    """

    count: np.ndarray
    num_places: np.ndarray
    first: np.ndarray
    last: np.ndarray


def train_bpe(
    input_path: Path | str,
    vocab_size: int,
    special_tokens: Sequence[str],
    pattern: str = GPT2_PATTERN,
    num_threads: int = 1,
) -> tuple[dict[int, bytes], list[tuple[bytes, bytes]]]:
    """Train a byte-level BPE vocabulary on a text file.

    Arguments, results and errors are those of `naive_training.train_bpe`; `num_threads` threads
    count words.
    """
    check_special_tokens(special_tokens)
    check_vocab_size(vocab_size, special_tokens)
    words = count_words(Path(input_path), special_tokens, pattern, num_threads)
    return train_bpe_from_words(words, vocab_size, special_tokens)


def train_bpe_from_counts(
    counts: Mapping[str, int],
    vocab_size: int,
    special_tokens: Sequence[str],
    on_merge: Callable[[int], None] | None = None,
) -> tuple[dict[int, bytes], list[tuple[bytes, bytes]]]:
    """Train as the lesson's `train_bpe_from_counts` does.

    `on_merge` is called at least every REPORT_EVERY merges, with ascending numbers.
    """
    encoded = [word.encode() for word in counts]
    starts = np.zeros(len(encoded) + 1, dtype=np.int64)
    np.cumsum([len(word) for word in encoded], out=starts[1:])
    letters = np.frombuffer(bytearray(b"".join(encoded)), dtype=np.uint8)
    frequencies = np.fromiter(counts.values(), dtype=np.int64, count=len(encoded))
    words = CountedWords(letters, starts, frequencies)
    return train_bpe_from_words(words, vocab_size, special_tokens, on_merge)


def train_bpe_from_words(
    words: CountedWords,
    vocab_size: int,
    special_tokens: Sequence[str],
    on_merge: Callable[[int], None] | None = None,
) -> tuple[dict[int, bytes], list[tuple[bytes, bytes]]]:
    """Train as `train_bpe_from_counts` does, from the result of
    `compiled.word_counting.count_words`.
    """
    check_special_tokens(special_tokens)
    check_vocab_size(vocab_size, special_tokens)
    tokens = [bytes([byte]) for byte in range(256)]
    merges: list[tuple[bytes, bytes]] = []
    for left, right in _merged_pairs(words, vocab_size - 256 - len(special_tokens), on_merge):
        merges.append((tokens[left], tokens[right]))
        tokens.append(tokens[left] + tokens[right])
    tokens += [token.encode() for token in special_tokens]
    return dict(enumerate(tokens)), merges


def _merged_pairs(
    words: CountedWords, num_merges: int, on_merge: Callable[[int], None] | None
) -> list[tuple[int, int]]:
    """Return the pairs of token ids in the order in which they are merged; at most `num_merges`."""
    size = int(words.starts[-1])
    assert size < 1 << 31, "places are 32-bit numbers: the distinct words must stay below 2 GiB"
    indexed = _indexed_words(words)
    table, places = pair_table(_FIRST_PAIRS), _no_places(_FIRST_PAIRS)
    start = 0
    while (start := _link_all(indexed, table, places, start)) < size:
        table, places = _with_more_pairs(table, places)
    tokens = TokenBytes.of_bytes(num_merges)
    queue = MergeQueue.with_room(len(table.keys))
    queue.size[0] = table.size[0]
    queue.pairs[: table.size[0]] = np.arange(table.size[0])
    queue.counts[: table.size[0]] = places.count[: table.size[0]]
    heapify(queue, table.keys, tokens)
    merged = np.empty((num_merges, 2), dtype=np.int32)
    visited = np.empty(size, dtype=np.int32)
    done = reported = 0
    while done < num_merges:
        until = min(done + REPORT_EVERY, num_merges)
        done, wants_pairs, wants_bytes = _merge_until(
            until, done, indexed, table, places, queue, tokens, merged, visited
        )
        if on_merge is not None and done > reported:  # not if it stopped only for lack of room
            on_merge(done)
            reported = done
        if wants_bytes:
            tokens = tokens.with_room(wants_bytes)
        elif wants_pairs:
            while len(table.keys) < wants_pairs:
                table, places = _with_more_pairs(table, places)
            queue = queue.with_more_room(len(table.keys))
        elif done < until:
            break  # no pair is left
    return [(left, right) for left, right in merged[:done].tolist()]


def _no_places(num_pairs: int) -> PairPlaces:
    return PairPlaces(
        count=np.zeros(num_pairs, dtype=np.int64),
        num_places=np.zeros(num_pairs, dtype=np.int32),
        first=np.full(num_pairs, NONE, dtype=np.int32),
        last=np.full(num_pairs, NONE, dtype=np.int32),
    )


def _with_more_pairs(table: PairTable, places: PairPlaces) -> tuple[PairTable, PairPlaces]:
    larger = grown_pairs(table)
    more = _no_places(len(larger.keys))
    for old, new in zip(places, more, strict=True):
        new[: len(old)] = old
    return larger, more


def _indexed_words(words: CountedWords) -> IndexedWords:
    size = int(words.starts[-1])
    lengths = np.diff(words.starts)
    after = np.arange(1, size + 1, dtype=np.int32)
    before = np.arange(-1, size - 1, dtype=np.int32)
    after[words.starts[1:][lengths > 0] - 1] = NONE
    before[words.starts[:-1][lengths > 0]] = NONE
    return IndexedWords(
        token=words.letters[:size].astype(np.int32),
        after=after,
        before=before,
        word=np.repeat(np.arange(len(lengths), dtype=np.int32), lengths),
        pair=np.full(size, NONE, dtype=np.int32),
        next_place=np.full(size, NONE, dtype=np.int32),
        previous_place=np.full(size, NONE, dtype=np.int32),
        frequency=words.counts.astype(np.int64),
    )


@kernel
def _link_all(words, table, places, start):
    """Add the pairs of the places from `start`; return the first place without room."""
    for place in range(start, len(words.token)):
        if table.size[0] == len(table.keys):
            return place
        if words.after[place] != NONE:
            _link(words, table, places, place)
    return len(words.token)


@kernel
def _link(words, table, places, place):
    """Append `place` to the list of the pair that begins there."""
    pair = find_or_add_pair(table, words.token[place], words.token[words.after[place]])
    last = places.last[pair]
    words.pair[place] = pair
    words.previous_place[place] = last
    words.next_place[place] = NONE
    if last == NONE:
        places.first[pair] = place
    else:
        words.next_place[last] = place
    places.last[pair] = place
    places.num_places[pair] += 1
    places.count[pair] += words.frequency[words.word[place]]


@kernel
def _unlink(words, places, place):
    """Remove `place` from the list of the pair that begins there."""
    pair = words.pair[place]
    previous, following = words.previous_place[place], words.next_place[place]
    if previous == NONE:
        places.first[pair] = following
    else:
        words.next_place[previous] = following
    if following == NONE:
        places.last[pair] = previous
    else:
        words.previous_place[following] = previous
    words.pair[place] = NONE
    places.num_places[pair] -= 1
    places.count[pair] -= words.frequency[words.word[place]]


@kernel
def _merge_until(until, done, words, table, places, queue, tokens, merged, visited):
    """Make merges number `done` to `until - 1`.

    Returns (merges made, pairs to make room for, bytes to make room for); the last two are 0 if all
    merges were made or no pair is left.
    """
    while done < until:
        pair = pop_best(queue, table.keys, places.count, tokens)
        if pair == NONE:
            return done, 0, 0
        wants_pairs = table.size[0] + 2 * places.num_places[pair]
        left, right = table.keys[pair] >> 32, table.keys[pair] & 0xFFFFFFFF
        wants_bytes = (
            tokens.starts[256 + done] + token_length(tokens, left) + token_length(tokens, right)
        )
        if wants_pairs > len(table.keys) or wants_bytes > len(tokens.letters):
            push(queue, pair, places.count[pair], table.keys, tokens)
            if wants_bytes > len(tokens.letters):
                return done, 0, wants_bytes
            return done, wants_pairs, 0
        merged[done, 0], merged[done, 1] = left, right
        add_merged_token(tokens, left, right, 256 + done)
        first_new = table.size[0]
        _merge(words, table, places, pair, right, 256 + done, visited)
        done += 1
        for new_pair in range(first_new, table.size[0]):
            if places.count[new_pair] > 0:
                push(queue, new_pair, places.count[new_pair], table.keys, tokens)
    return done, 0, 0


@kernel
def _merge(words, table, places, pair, right, new_token, visited):
    """Replace the pair by the token everywhere, from left to right."""
    num_places = 0
    place = places.first[pair]
    while place != NONE:
        visited[num_places] = place
        num_places += 1
        place = words.next_place[place]
    for index in range(num_places):
        place = visited[index]
        if words.pair[place] != pair:  # "aaa": the previous merge used its first token
            continue
        second = words.after[place]
        first, third = words.before[place], words.after[second]
        if first != NONE:
            _unlink(words, places, first)
        _unlink(words, places, place)
        if third != NONE:
            _unlink(words, places, second)
            words.before[third] = place
        words.token[place] = new_token
        words.token[second] = NONE
        words.after[place] = third
        if first != NONE:
            _link(words, table, places, first)
        if third != NONE:
            _link(words, table, places, place)
