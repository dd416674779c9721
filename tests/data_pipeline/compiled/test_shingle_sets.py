"""Sets of shingles of many documents are the lesson's, bit for bit."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_pipeline.compiled.shingle_sets import shingle_sets, shingle_sets_of_texts
from data_pipeline.minhash_dedup import normalize, shingle_hashes

WORDS = st.lists(st.sampled_from(["a", "b", "é", "東", "long-word", "\x00"]), max_size=12)
PIECES = [
    *" \n\t\r\v\f\x1c\x1f\x00",
    "a",
    "B",
    "word ",
    "!",
    "'",
    "é",
    "東京",
    "\u00a0",
    "\u2003",
    "\u00ad",
]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


def check(found, documents, ngram_words):
    values, starts = found
    assert values.dtype == np.uint64 and starts[0] == 0 and starts[-1] == len(values)
    assert len(starts) == len(documents) + 1
    for number, words in enumerate(documents):
        expected = shingle_hashes(words, ngram_words)
        assert np.array_equal(values[starts[number] : starts[number + 1]], expected)


@settings(deadline=None)  # compiles at the first call
@given(st.lists(WORDS, max_size=6), st.integers(1, 7))
def test_sets_are_those_of_the_lesson(documents, ngram_words):
    check(shingle_sets(documents, ngram_words), documents, ngram_words)


@settings(deadline=None)
@given(st.lists(TEXTS, max_size=6), st.integers(1, 3))
@example(["", " \n", "...", ". . .", "a", " a", "Été, été!", "\x1c", "\u2003"], 2)
def test_sets_of_texts_are_those_of_the_lesson(texts, ngram_words):
    found = shingle_sets_of_texts(texts, ngram_words)
    check(found, [normalize(text) for text in texts], ngram_words)


def test_a_document_may_begin_with_the_shingle_that_ended_the_last_one():
    values, starts = shingle_sets([["a"], ["a"], ["a", "a"]], 1)
    assert starts.tolist() == [0, 1, 2, 3] and len(set(values.tolist())) == 1


def test_white_space_in_a_word_is_our_mistake():
    with pytest.raises(AssertionError, match="white space"):
        shingle_sets([["a b", "c"]], 1)
