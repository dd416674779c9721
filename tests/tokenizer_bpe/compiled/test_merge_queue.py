"""The queue returns the pair with the highest current count, then the larger byte strings."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizer_bpe.compiled.merge_queue import (
    NONE,
    MergeQueue,
    TokenBytes,
    add_merged_token,
    heapify,
    pop_best,
    push,
    token_length,
)

# Few bytes, including zero: tokens that share their first eight bytes, or differ in zeros.
parts_of_tokens = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=40
)
FIRST = [0, 1, 97, 98, 255]


def tokens_from(parts):
    """Return (TokenBytes, the same as bytes, ids); each part is an earlier token, modulo their
    number.
    """
    content = [bytes([byte]) for byte in range(256)]
    tokens = TokenBytes.of_bytes(len(parts))
    ids = list(FIRST)
    for left, right in parts:
        left, right = ids[left % len(ids)], ids[right % len(ids)]
        new = content[left] + content[right]
        if len(new) > 200:
            continue
        end = int(tokens.starts[len(content)])
        if end + len(new) > len(tokens.letters):
            tokens = tokens.with_room(end + len(new))
        add_merged_token(tokens, left, right, len(content))
        ids.append(len(content))
        content.append(new)
    return tokens, content, ids


@settings(deadline=None)
@given(parts=parts_of_tokens)
def test_tokens_have_their_bytes(parts):
    tokens, content, _ = tokens_from(parts)
    letters, starts = tokens.letters.tobytes(), tokens.starts.tolist()
    for token, expected in enumerate(content):
        assert letters[starts[token] : starts[token + 1]] == expected
        assert token_length(tokens, token) == len(expected)
        assert int(tokens.prefixes[token]).to_bytes(8) == expected[:8].ljust(8, b"\0")


@settings(deadline=None)
@given(parts=parts_of_tokens, seed=st.integers(0, 1 << 20), room=st.integers(1, 20))
def test_pairs_come_in_order_while_counts_fall_and_new_pairs_come(parts, seed, room):
    tokens, content, ids = tokens_from(parts)
    choose = random.Random(seed)
    pairs = sorted({(choose.choice(ids), choose.choice(ids)) for _ in range(30)})
    choose.shuffle(pairs)
    keys = np.array([left << 32 | right for left, right in pairs], dtype=np.int64)
    counts = np.array([choose.randint(0, 5) for _ in pairs], dtype=np.int64)
    first = min(room, len(pairs))
    queue = MergeQueue.with_room(first)
    queue.size[0] = first
    queue.pairs[:first], queue.counts[:first] = np.arange(first), counts[:first]
    heapify(queue, keys, tokens)
    queue = queue.with_more_room(len(pairs))
    waiting, left_over = list(range(first)), list(range(first, len(pairs)))

    def order(pair):
        return counts[pair], content[pairs[pair][0]], content[pairs[pair][1]]

    while True:
        alive = [pair for pair in waiting if counts[pair] > 0]
        best = pop_best(queue, keys, counts, tokens)
        if not alive:
            assert best == NONE
            break
        assert best in alive
        assert order(best) == max(map(order, alive))
        waiting.remove(best)
        for pair in choose.sample(waiting, k=min(len(waiting), 3)):
            counts[pair] = choose.randint(0, counts[pair])
        if left_over and choose.random() < 0.7:
            push(queue, left_over[0], counts[left_over[0]], keys, tokens)
            waiting.append(left_over.pop(0))


@pytest.mark.parametrize(
    ("smaller", "larger"),
    [
        (b"a", b"ab"),
        (b"a", b"a\0"),
        (b"\x7f", b"\x80"),
        (b"abcdefgh", b"abcdefgh\0"),
        (b"abcdefghi", b"abcdefghj"),
        (b"abcdefghij", b"abcdefghj"),
        (b"abcdefgh\x7f", b"abcdefgh\x80"),
    ],
)
def test_the_larger_bytes_come_first(smaller, larger):
    """Check by hand, in both orders of entry, on either side of the pair."""
    tokens, ids = TokenBytes.of_bytes(40), {}
    number = 256
    for word in (smaller, larger):
        left = word[0]
        for byte in word[1:]:
            add_merged_token(tokens, left, byte, number)
            left, number = number, number + 1
        ids[word] = left
    low, high = ids[smaller], ids[larger]
    for pairs in ([(low, 1), (high, 0)], [(high, 0), (low, 1)], [(7, low), (7, high)]):
        keys = np.array([left << 32 | right for left, right in pairs], dtype=np.int64)
        queue = MergeQueue.with_room(2)
        for pair in range(2):
            push(queue, pair, 5, keys, tokens)
        assert high in pairs[pop_best(queue, keys, np.array([5, 5]), tokens)]


def test_more_room_keeps_what_there_is():
    tokens = TokenBytes.of_bytes(1)
    larger = tokens.with_room(1000)
    assert len(larger.letters) >= 1000
    assert larger.letters[:256].tolist() == list(range(256))
    assert larger.starts is tokens.starts
