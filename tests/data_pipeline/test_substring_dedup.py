"""Suffix arrays against sorting, and repeated spans against comparing all pairs of windows."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.substring_dedup import (
    drop_repeated_spans,
    longest_common_prefixes,
    repeated_spans,
    suffix_array,
)

IDS = st.lists(st.integers(0, 2), max_size=60)
DOCUMENTS = st.lists(st.lists(st.integers(0, 2), max_size=30), max_size=6)


def sorted_suffixes(ids: list[int]) -> list[int]:
    return sorted(range(len(ids)), key=lambda start: ids[start:])


def shared_ids(first: list[int], second: list[int]) -> int:
    shared = 0
    while shared < min(len(first), len(second)) and first[shared] == second[shared]:
        shared += 1
    return shared


def covered_positions(documents: list[list[int]], min_tokens: int) -> list[set[int]]:
    """The rule, read from the docstring: every pair of windows is compared."""
    windows = [
        (number, start, tuple(document[start : start + min_tokens]))
        for number, document in enumerate(documents)
        for start in range(len(document) - min_tokens + 1)
    ]
    covered: list[set[int]] = [set() for _ in documents]
    for number, start, window in windows:
        if any(
            window == other and (earlier < number or at + min_tokens <= start)
            for earlier, at, other in windows
            if earlier <= number
        ):
            covered[number] |= set(range(start, start + min_tokens))
    return covered


def test_the_suffixes_of_banana():
    ids = list(b"banana")
    suffixes = suffix_array(ids)
    assert suffixes.tolist() == [5, 3, 1, 0, 4, 2]
    assert longest_common_prefixes(ids, suffixes).tolist() == [0, 1, 3, 0, 0, 2]


@given(IDS)
@settings(max_examples=150, deadline=None)
def test_suffixes_are_sorted_and_neighbors_compared(ids):
    suffixes = suffix_array(ids)
    assert suffixes.tolist() == sorted_suffixes(ids)
    pairs = zip([len(ids), *suffixes.tolist()], suffixes.tolist(), strict=False)
    expected = [shared_ids(ids[first:], ids[second:]) for first, second in pairs]
    assert longest_common_prefixes(ids, suffixes).tolist() == expected


@pytest.mark.parametrize(
    "ids",
    [[], [7], [-5, 2**40, -5, 2**40], [3] * 200, [1, 2] * 100, list(range(50)) * 3],
    ids=["empty", "one", "large ids", "one id", "period 2", "period 50"],
)
def test_suffixes_of_unusual_inputs(ids):
    suffixes = suffix_array(np.array(ids, dtype=np.int64))
    assert suffixes.tolist() == sorted_suffixes(ids)
    assert longest_common_prefixes(ids, suffixes)[1:].tolist() == [
        shared_ids(ids[first:], ids[second:]) for first, second in itertools.pairwise(suffixes)
    ]


@given(DOCUMENTS, st.integers(1, 5))
@settings(max_examples=200, deadline=None)
def test_spans_are_those_of_comparing_all_windows(documents, min_tokens):
    spans = repeated_spans(documents, min_tokens)
    found = [{i for start, end in of for i in range(start, end)} for of in spans]
    assert found == covered_positions(documents, min_tokens)
    for of in spans:
        flat = [edge for span in of for edge in span]
        assert flat == sorted(set(flat)), "in order, not empty, and apart"


@pytest.mark.parametrize(
    ("documents", "expected"),
    [
        ([[1, 2, 3, 4], [9, 1, 2, 3]], [[], [(1, 4)]]),
        ([[1, 1, 1, 1, 1]], [[(2, 5)]]),  # the first two stay
        ([[1, 1, 1]], [[]]),  # windows that overlap do not repeat each other
        ([[5, 5], [5, 5], [5]], [[], [(0, 2)], []]),
        ([[1, 2], [3, 4], [2, 3]], [[], [], []]),  # 2 3 crosses the end of a document
        ([[1], [1], []], [[], [], []]),  # shorter than a window
        ([[1, 2, 7, 3, 4, 8], [1, 2, 3, 4]], [[], [(0, 4)]]),  # two spans that touch are one
        ([], []),
        ([[]], [[]]),
    ],
)
def test_spans_by_hand(documents, expected):
    assert repeated_spans(documents, 2) == expected


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="document 1 has the id -1"):
        repeated_spans([[1], [2, -1]], 2)
    with pytest.raises(ValueError, match="found 0"):
        repeated_spans([[1]], 0)


def test_words_go_with_the_blanks_behind_them():
    texts = [
        "one two three four",
        "start\n\n  one two three  \n\nend of it",
        "begin one two three\n",
        "One two three",
        "one, two three",
        "three four",
        "",
    ]
    assert drop_repeated_spans(texts, 3) == [
        (texts[0], 0),
        ("start\n\n  end of it", 3),
        ("begin", 3),
        (texts[3], 0),  # another case, another word
        (texts[4], 0),
        (texts[5], 0),
        ("", 0),
    ]


def test_a_whole_copy_becomes_empty():
    assert drop_repeated_spans(["a b c", "a b c\n", "a b c d"], 3)[1:] == [("", 3), ("d", 3)]


def test_a_text_that_ends_with_a_kept_word_keeps_its_end():
    assert drop_repeated_spans(["a b", "a b c \n"], 2)[1] == ("c \n", 2)


def test_characters_of_scripts_without_spaces_are_words():
    first = "東京は日本の首都である。"
    assert drop_repeated_spans([first, f"実は{first}終わり"], 8)[1] == ("実は終わり", 12)
    korean = "서울은 대한민국의 수도이다"
    assert drop_repeated_spans([korean, f"{korean} 라고 한다"], 3)[1] == ("라고 한다", 3)
