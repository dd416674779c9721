"""The pass over all n agrees with the lesson's functions, one n at a time."""

from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.quality_rules import (
    duplicate_ngram_character_share,
    top_ngram_character_share,
)
from data_pipeline.rule_sets.repeated_ngrams import DUPLICATE_NGRAMS, TOP_NGRAMS, ngram_shares

PIECES = st.lists(st.sampled_from(["a", "bb", "ccc", "a bb", "a bb ccc a d e f g h i j k"]))


@given(PIECES)
def test_the_same_shares_as_the_lesson(pieces):
    words = " ".join(pieces).split()
    shares = ngram_shares(words)
    assert shares.top == {n: top_ngram_character_share(words, n) for n in TOP_NGRAMS}
    assert shares.duplicate == {
        n: duplicate_ngram_character_share(words, n) for n in DUPLICATE_NGRAMS
    }


def test_a_text_of_two_copies():
    words = [f"w{i:02}" for i in range(50)] * 2
    shares = ngram_shares(words)
    assert set(shares.duplicate.values()) == {0.5}
    assert shares.top == {2: 4 / 100, 3: 6 / 100, 4: 8 / 100}
    assert ngram_shares([]).top == {2: 0, 3: 0, 4: 0}
