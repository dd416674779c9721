"""The table of words is a dictionary from words to 0, 1, 2, ..., with limited room."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizer_bpe.compiled import word_table as word_table_module
from tokenizer_bpe.compiled.text_spans import (
    NO_SPECIAL,
    padded_text,
    special_token_bytes,
    text_spans,
)
from tokenizer_bpe.compiled.word_boundaries import WHOLE_SPAN, character_classes, word_rule
from tokenizer_bpe.compiled.word_table import FULL, empty, grown, number_words, word_table
from tokenizer_bpe.pretokenization import GPT2_PATTERN

# Short words are their own key: zero bytes at either end must not make two words equal.
short_words = st.lists(st.sampled_from(b"\x00\x01ab\xff"), min_size=1, max_size=9).map(bytes)
words = st.one_of(short_words, st.binary(min_size=1, max_size=40))


ANY_LENGTH = 1 << 62


def numbered(table, words, kernel=number_words):
    """Return the numbers of adjacent words; FULL for the first without room."""
    ends = 1 + np.cumsum([0, *map(len, words)])
    starts, stops, no_special = ends[:-1], ends[1:], np.full(len(words), NO_SPECIAL)
    text = padded_text(b"<" + b"".join(words) + b">")
    numbers = np.empty(len(words), dtype=np.int32)
    *_, count, no_room_for = kernel(
        *text, starts, stops, no_special, 0, 0, character_classes(), WHOLE_SPAN, ANY_LENGTH,
        *table, numbers,
    )  # fmt: skip
    assert no_room_for == (0 if count == len(words) else len(words[count]))
    return numbers[:count].tolist() + [FULL] * (count < len(words))


def add(table, word):
    return numbered(table, [word])[0]


def words_of(table):
    starts = table.starts[: table.size[0] + 1].tolist()
    letters = table.letters.tobytes()
    return [letters[a:b] for a, b in pairwise(starts)]


@settings(deadline=None)
@given(added=st.lists(words, max_size=60), max_words=st.integers(1, 4))
def test_a_table_that_grows_numbers_words_as_a_dictionary_does(added, max_words):
    table, numbers = word_table(max_words, 8), {}
    for word in added:
        number = add(table, word)
        while number == FULL:
            assert word not in numbers
            assert words_of(table) == list(numbers), "a word without room changed the table"
            table = grown(table, len(word))
            number = add(table, word)
        assert number == numbers.setdefault(word, len(numbers))
    assert [add(table, word) for word in numbers] == list(numbers.values())
    assert words_of(table) == list(numbers)
    assert table.size[0] == len(numbers)
    assert 2 * len(table.keys) <= len(table.slots), "half of the slots stay free"


def test_there_is_room_for_so_many_words_and_no_more():
    table = word_table(3, 1000)
    assert [add(table, word) for word in (b"a", b"b", b"c", b"d", b"b")] == [0, 1, 2, FULL, 1]


def test_there_is_room_for_so_many_bytes_and_no_more():
    table = word_table(100, 5)
    assert [add(table, word) for word in (b"abc", b"def", b"de", b"f", b"abc")] == [
        *(0, FULL, 1, FULL, 0)
    ]
    assert add(grown(table, 1), b"f") == 2


def test_growing_makes_room_for_one_word_of_any_length():
    table = grown(word_table(1, 1), 1000)
    assert add(table, b"x" * 1000) == 0


def test_an_emptied_table_has_forgotten_all_and_has_its_room_again():
    table = word_table(2, 10)
    assert [add(table, word) for word in (b"aaaaa", b"bbbbb")] == [0, 1]
    empty(table)
    assert [add(table, word) for word in (b"bbbbb", b"ccccc", b"bbbbb", b"aaaaa")] == [
        0,
        1,
        0,
        FULL,
    ]
    assert words_of(table) == [b"bbbbb", b"ccccc"]


def test_long_words_of_one_hash_are_told_apart(monkeypatch):
    """The search runs as Python, with the same hash and slot for all words."""
    monkeypatch.setattr(word_table_module, "_key_of", lambda *arguments: np.uint64(1 << 63))
    monkeypatch.setattr(word_table_module, "_GOLDEN", np.uint64(0))
    words = [b"0123456789", b"0123456780", b"x123456789", b"01234567", b"01234567" * 2]
    words += [b"01234567x1234567", b"0123456712345678", b"01234567" * 3, b"01234567012345670123456"]
    table = word_table(16, 500)
    for _ in range(2):
        found = numbered(table, words, number_words.py_func)
        assert found == list(range(len(words)))


def pieces_numbered(table, spans, rule, longest, at_a_time):
    """Return the results of `number_words`, call after call, until it needs the caller."""
    numbers, found = np.empty(at_a_time, dtype=np.int32), []
    span, place = 0, 0
    while span < len(spans.starts):
        span, place, count, left_over = number_words(
            *spans.text, *spans[1:], span, place, character_classes(), rule, longest, *table,
            numbers,
        )  # fmt: skip
        found += numbers[:count].tolist()
        if left_over:
            return found, place, left_over
        assert count == at_a_time or span == len(spans.starts)
    return found, place, 0


@pytest.mark.parametrize("at_a_time", [1, 2, 3, 100])
def test_a_text_is_numbered_in_parts_of_any_size(at_a_time):
    """Special tokens are among the words, adjacent, and at either end."""
    spans = text_spans(b"<7>a b<7><8> a b a<8>", {b"<7>": 7, b"<8>": 8})
    table, rule = word_table(10, 100), word_rule(GPT2_PATTERN)
    found = pieces_numbered(table, spans, rule, ANY_LENGTH, at_a_time)
    assert found == ([-2 - 7, 0, 1, -2 - 7, -2 - 8, 2, 1, 2, -2 - 8], 21, 0)
    assert words_of(table) == [b"a", b" b", b" a"]


def test_special_tokens_without_an_id_are_passed_over():
    spans = text_spans(b"a<7>b<7>", special_token_bytes(["<7>"]))
    table, rule = word_table(10, 100), word_rule(GPT2_PATTERN)
    assert pieces_numbered(table, spans, rule, ANY_LENGTH, 100)[0] == [0, 1]


@pytest.mark.parametrize("at_a_time", [1, 2, 100])
def test_a_word_that_is_too_long_is_left_to_the_caller(at_a_time):
    spans = text_spans(b"ab abc abcd ab", {})
    table, rule = word_table(10, 100), word_rule(GPT2_PATTERN)
    assert pieces_numbered(table, spans, rule, 4, at_a_time) == ([0, 1], 6, 5)
    assert words_of(table) == [b"ab", b" abc"]


def test_words_that_begin_or_end_alike_do_not_lie_in_one_slot():
    """Hundreds of probes per word would reveal a hash that ignores bits."""
    table = word_table(1 << 12, 1 << 16)
    for number in range(1 << 12):
        assert add(table, b"%d" % number) == number
    taken = np.flatnonzero(table.slots >= 0)
    runs = np.split(taken, np.flatnonzero(np.diff(taken) > 1) + 1)
    assert max(map(len, runs)) < 100


def test_memory_is_counted():
    table = word_table(10, 7)
    assert table.num_bytes == 4 * 32 + 8 * 10 + 8 * 11 + 7 + table.size.nbytes
