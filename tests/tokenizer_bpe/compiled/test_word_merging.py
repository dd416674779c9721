"""Encoding a word follows the definition, short or long, and costs n log n."""

import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tokenizer_bpe.compiled import word_merging
from tokenizer_bpe.compiled.merge_training import train_bpe_from_counts
from tokenizer_bpe.compiled.word_merging import (
    LONG_WORD,
    Scratch,
    encode_word,
    merge_rules,
    scratch_for,
)
from tokenizer_bpe.tokenizer import Tokenizer as LessonTokenizer

BYTE_IDS = list(range(256))


def numbered(merges):
    """Convert pairs of byte strings to (left, right, result) as ids; a repeated result has one
    id.
    """
    ids = {bytes([byte]): byte for byte in range(256)}
    for left, right in merges:
        ids.setdefault(left + right, len(ids))
    return [(ids[left], ids[right], ids[left + right]) for left, right in merges], ids


def by_definition(word, merges):
    """Merge the earliest pair that occurs at all its places, left to right; then repeat."""
    ranks = {(left, right): rank for rank, (left, right, _) in enumerate(merges)}
    tokens = list(word)
    while True:
        fitting = [ranks[pair] for pair in pairwise(tokens) if pair in ranks]
        if not fitting:
            return tokens
        left, right, result = merges[min(fitting)]
        merged, place = [], 0
        while place < len(tokens):
            fits = tokens[place : place + 2] == [left, right]
            merged.append(result if fits else tokens[place])
            place += 2 if fits else 1
        tokens = merged


def encoded(word, merges, scratch=None):
    """Encode with the compiled code, from the middle of a text."""
    text = np.frombuffer(b"ab" + word + b"ba", dtype=np.uint8)
    scratch = scratch or scratch_for(max(len(word), 1))
    rules = merge_rules(BYTE_IDS, merges)
    count = encode_word(text, 2, 2 + len(word), rules, scratch)
    return scratch.tokens[:count].tolist()


def random_merges(choose, number):
    """Return merges of two existing tokens each, so that many tokens are made in two ways."""
    tokens, merges = [b"a", b"b", b"c"], []
    for _ in range(number):
        left, right = choose.choice(tokens), choose.choice(tokens)
        merges.append((left, right))
        if left + right not in tokens:
            tokens.append(left + right)
    return numbered(merges)[0]


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    number=st.integers(0, 40),
    size=st.one_of(
        st.integers(0, 30),
        st.sampled_from([LONG_WORD - 1, LONG_WORD, LONG_WORD + 1]),
        st.integers(LONG_WORD + 1, 400),
    ),
    letters=st.sampled_from([b"a", b"ab", b"abc"]),
)
@example(seed=1, number=30, size=LONG_WORD, letters=b"abc")
def test_any_list_of_merges_follows_the_definition(seed, number, size, letters):
    choose = random.Random(seed)
    merges = random_merges(choose, number)
    word = bytes(choose.choices(letters, k=size))
    assert encoded(word, merges) == by_definition(word, merges)


@pytest.mark.parametrize("times", [1, LONG_WORD])
def test_a_merge_that_brings_in_an_earlier_pair_is_finished_first(times):
    """(a, bc), the last merge, makes abc, after which (abc, a) would be an earlier one; but both
    places of (a, bc) are merged before it is considered.
    """
    pairs = [(b"b", b"c"), (b"a", b"b"), (b"ab", b"c"), (b"abc", b"a"), (b"a", b"bc")]
    merges, ids = numbered(pairs)
    word = b"abcabc" * times
    assert encoded(word, merges) == [ids[b"abc"]] * (2 * times)
    vocab = {token_id: token for token, token_id in ids.items()}
    lesson = LessonTokenizer(vocab, pairs)
    assert lesson.encode("abcabc") == [ids[b"abc"]] * 2


@pytest.mark.parametrize("times", [1, LONG_WORD])
def test_a_pair_of_an_earlier_rank_is_merged_in_the_next_round(times):
    pairs = [(b"b", b"c"), (b"a", b"b"), (b"ab", b"c"), (b"abc", b"d"), (b"a", b"bc"), (b"d", b"a")]
    merges, ids = numbered(pairs)
    assert encoded(b"abcd" * times, merges) == [ids[b"abcd"]] * times


def test_a_pair_that_is_named_twice_has_the_later_rank():
    """As in the lesson: (a, b) comes after (b, c) here."""
    pairs = [(b"a", b"b"), (b"b", b"c"), (b"a", b"b")]
    merges, ids = numbered(pairs)
    assert encoded(b"abcab", merges) == [97, ids[b"bc"], ids[b"ab"]]
    vocab = {token_id: token for token, token_id in ids.items()}
    assert LessonTokenizer(vocab, pairs).encode("abcab") == encoded(b"abcab", merges)


def test_bytes_have_the_ids_that_the_vocabulary_gives_them():
    backwards = merge_rules(BYTE_IDS[::-1], [(255 - 97, 255 - 98, 1000)])
    scratch = scratch_for(3)
    assert encode_word(np.frombuffer(b"abc", dtype=np.uint8), 0, 3, backwards, scratch) == 2
    assert scratch.tokens[:2].tolist() == [1000, 255 - 99]


@pytest.mark.parametrize("letters", [b"a", b"ab"])
def test_scratch_is_long_enough(letters):
    """If every pair can be merged, the heap and the entries set aside fill their memory."""
    choose = random.Random(5)
    size, margin = 4 * LONG_WORD, 8
    tokens = [b"a", b"b"]
    pairs = []
    while len(tokens) < 60:
        new = [(left, right) for left in tokens[-6:] for right in tokens[-6:]]
        pairs += [pair for pair in new if pair not in pairs]
        tokens += [left + right for left, right in new if left + right not in tokens]
    merges, _ = numbered(pairs)
    wide = [np.full(len(array) + 2 * margin, -7, array.dtype) for array in scratch_for(size)]
    scratch = Scratch(*(array[margin:-margin] for array in wide))
    word = bytes(choose.choices(letters, k=size))
    assert encoded(word, merges, scratch) == by_definition(word, merges)
    for array in wide:
        assert set(array[:margin].tolist() + array[-margin:].tolist()) == {-7}


def letters_of(kind, size):
    choose = random.Random(9)
    if kind == "one letter":
        return "a" * size
    alphabet = [chr(ord("a") + i) for i in range(2 if kind == "two letters" else 26)]
    if kind == "Chinese":
        alphabet = [chr(0x4E00 + i) for i in range(400)]
    return "".join(choose.choices(alphabet, k=size))


@pytest.mark.parametrize("kind", ["one letter", "two letters", "random letters", "Chinese"])
def test_a_long_word_costs_n_log_n(kind, monkeypatch, new_work, assert_n_log_n):
    """The kernels run as Python, on counting arrays."""
    _, merges = train_bpe_from_counts({letters_of(kind, 6000): 1}, 256 + 400, [])
    rules = merge_rules(BYTE_IDS, numbered(merges)[0])
    for name in ("_merge_long", "_merge_short", "_set_aside", "_push", "_sift_down"):
        monkeypatch.setattr(word_merging, name, getattr(word_merging, name).py_func)
    compiled_rank_of, steps = word_merging._rank_of, []

    def rank_of(*arguments):
        return np.int64(compiled_rank_of(*arguments))

    for size in (1500, 6000):
        word = letters_of(kind, size).encode()[:size]
        work = new_work()
        scratch = work.counted(scratch_for(size))
        monkeypatch.setattr(word_merging, "_rank_of", work.counted_calls(rank_of))
        text = np.frombuffer(word, dtype=np.uint8)
        count = encode_word.py_func(text, 0, size, rules, scratch)
        steps.append(work.steps)
        assert count < 0.8 * size, "too few merges for this test"
    assert_n_log_n(steps, 1500)
