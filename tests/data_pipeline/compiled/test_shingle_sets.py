"""Sets of shingles of many documents are the lesson's, bit for bit."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.compiled import shingle_sets as module
from data_pipeline.compiled.shingle_sets import WordHashes, shingle_sets
from data_pipeline.minhash_dedup import shingle_hashes, word_hash

WORDS = st.lists(st.sampled_from(["a", "b", "é", "東", "long-word"]), max_size=12)


@settings(deadline=None)  # compiles at the first call
@given(st.lists(WORDS, max_size=6), st.integers(1, 7))
def test_sets_are_those_of_the_lesson(documents, ngram_words):
    values, starts = shingle_sets(documents, ngram_words)
    assert values.dtype == np.uint64 and starts.tolist()[0] == 0 and starts[-1] == len(values)
    for number, words in enumerate(documents):
        expected = shingle_hashes(words, ngram_words)
        assert np.array_equal(values[starts[number] : starts[number + 1]], expected)


def test_a_document_may_begin_with_the_shingle_that_ended_the_last_one():
    values, starts = shingle_sets([["a"], ["a"], ["a", "a"]], 1)
    assert starts.tolist() == [0, 1, 2, 3] and len(set(values.tolist())) == 1


def test_remembered_words_are_bounded_and_change_nothing(monkeypatch):
    monkeypatch.setattr(module, "MOST_WORDS", 3)
    known = WordHashes()
    for words in (["a", "b", "c", "d"], ["e"], ["a", "f"]):
        values, _ = shingle_sets([words], 2, known)
        assert np.array_equal(values, shingle_hashes(words, 2))
    assert known == {word: word_hash(word) for word in "eaf"}
