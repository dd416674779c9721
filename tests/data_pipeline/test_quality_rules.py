"""Each rule by itself: a text at its threshold, a text just past it, and the rule's name; measures
of repetition by hand and by another method; texts of other graders.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.quality_rules import (
    GOPHER_RULES,
    REPETITION_RULES,
    RULES,
    QualitySettings,
    RepetitionSettings,
    duplicate_ngram_character_share,
    duplicate_shares,
    first_failed_rule,
    passes_gopher,
    passes_gopher_repetition,
    top_ngram_character_share,
)
from data_pipeline.rule_sets.text_statistics import TextStatistics

SETTINGS = QualitySettings()
SENTENCE = "The quick brown fox jumps over the lazy dog and looks back to see it."  # 15 words
GOOD = "\n".join([SENTENCE] * 8)  # 120 words, 8 lines

WORDS = " ".join([SENTENCE] * 4).split()


def lines(marked: str, how_many: int, plain: str, rest: int) -> str:
    return "\n".join([marked] * how_many + [plain] * rest)


def holds(rule: str, text: str) -> bool:
    return RULES[rule].holds(RULES[rule].measure(TextStatistics(text)), SETTINGS)


# name of the rule -> (just inside the threshold, just outside)
EDGES = {
    "number of words": (" ".join(WORDS[:50]), " ".join(WORDS[:49])),
    "mean word length": (
        "the and ends. " + "x" * 10 + " the" * 60,
        "the and . " + "x" * 12 + (" " + "x" * 12) * 59,
    ),
    "symbols": (GOOD + " " + "# " * 13, GOOD + " " + "# " * 14),
    "bullet lines": (lines("- " + SENTENCE, 9, SENTENCE, 1), lines("- " + SENTENCE, 10, "", 0)),
    "ellipsis lines": (
        lines(SENTENCE + "..", 3, SENTENCE, 7),
        lines(SENTENCE + "..", 4, SENTENCE, 6),
    ),
    "alphabetic words": (GOOD + " 123" * 30, GOOD + " 123" * 31),
    "stop words": ("the have " + "words here. " * 30, "the the " + "words here. " * 30),
    "sentences": (lines(SENTENCE, 1, SENTENCE[:-1], 19), lines(SENTENCE, 1, SENTENCE[:-1], 20)),
    "placeholder": (GOOD, GOOD + " Lorem Ipsum"),
    "curly brackets": (GOOD + "{" * 12, GOOD + "{" * 13),
}


def test_good_text_passes():
    assert first_failed_rule(GOOD, SETTINGS) is None


def test_every_rule_has_an_edge_here():
    assert list(EDGES) == list(RULES)


@pytest.mark.parametrize("rule", EDGES)
def test_the_rule_holds_up_to_its_threshold_and_not_beyond(rule):
    inside, outside = EDGES[rule]
    assert holds(rule, inside), "the threshold itself is allowed"
    assert not holds(rule, outside)


@pytest.mark.parametrize("rule", EDGES)
def test_the_first_broken_rule_is_named(rule):
    assert first_failed_rule(EDGES[rule][1], SETTINGS) == rule


def test_too_many_words_break_the_first_rule():
    text = "the word and " * 33_334
    assert first_failed_rule(text, SETTINGS) == "number of words"
    assert holds("number of words", "a " * 100_000)


def test_short_words_break_the_word_length():
    assert first_failed_rule("to be of " * 30, SETTINGS) == "mean word length"


def test_three_dots_and_the_ellipsis_character_both_count():
    assert not holds("symbols", GOOD + " …" * 14)
    assert not holds("symbols", GOOD + " ..." * 14)
    assert holds("symbols", GOOD + " #" * 7 + " ..." * 7), "each kind has its own ratio"


def test_thresholds_are_settings():
    assert first_failed_rule("the end and more words", QualitySettings(min_words=3)) == "sentences"


@given(st.text(max_size=200))
def test_every_text_can_be_measured(text):
    page = TextStatistics(text)
    for rule in RULES.values():
        assert rule.measure(page) >= 0
    for rule in REPETITION_RULES.values():
        assert 0 <= rule.measure(page) <= 1


VALID = "This should definitely be a valid input text and of high quality by the rules. "


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        (VALID * 100, True),
        ("The string you are reading is a short snippet of text.", False),
        ("The string you are reading is a long snippet of text." * 100, True),
        ("The string you are reading is too long of a text. " * 50_000, False),
        ("the be " * 100, False),
        ("the with " * 100, True),
        ("the and " + "extraordinarily extraordinarily longesest " * 100, False),
        ("A line of the kind that ends with an ellipsis...\n" * 31 + "A plain line.\n" * 69, False),
        ("A line of the kind that ends with an ellipsis…\n" * 30 + "A plain line.\n" * 70, True),
        ("A line... of the kind... that has... and has... some.\n" * 20, False),  # by the words
        ("A line of the kind... that has some and of the words\n" * 20, True),
        ("the and " + "123 " * 8 + "word " * 42, True),
        ("the and " + "123 " * 15 + "word " * 40, False),
        (("- " + VALID + "\n") * 50, False),
        (VALID * 9 + "lorem ipsum { } { } { } { } { } { }", True),
    ],
)
def test_passes_gopher_has_the_rules_of_the_paper_and_no_others(text, passes):
    assert passes_gopher(text) == passes
    assert passes == (first_failed_rule(text, SETTINGS) not in GOPHER_RULES)


def test_repetition_is_judged_by_itself():
    assert not passes_gopher_repetition(VALID * 100)
    assert passes_gopher_repetition(VALID)
    assert passes_gopher_repetition("")


def test_the_thresholds_of_repetition_are_those_of_table_a1():
    bounds = [rule.bounds(RepetitionSettings())[1] for rule in REPETITION_RULES.values()]
    expected = [0.3, 0.3, 0.2, 0.2, 0.2, 0.18, 0.16, 0.15, 0.14, 0.13, 0.12, 0.11, 0.1]
    assert bounds == expected


def measured(rule: str, text: str) -> float:
    return REPETITION_RULES[rule].measure(TextStatistics(text))


def test_lines_and_paragraphs_by_hand():
    text = (
        "ab\n  ab\n\nc\n\n \nab\nab\n"  # lines ab, ab, c, ab, ab; paragraphs "ab ab", "c", "ab ab"
    )
    assert measured("duplicate lines", text) == 3 / 5
    assert measured("duplicate line characters", text) == 6 / 9
    assert measured("duplicate paragraphs", text) == 1 / 3
    assert measured("duplicate paragraph characters", text) == 5 / 11  # with the line break inside
    assert duplicate_shares([]) == (0, 0)


def test_ngrams_by_hand():
    words = ["to", "be", "or", "to", "be"]
    assert top_ngram_character_share(words, 2) == 8 / 10
    assert duplicate_ngram_character_share(words, 2) == 4 / 10
    assert top_ngram_character_share(words, 3) == 0, "an n-gram that occurs once repeats nothing"
    assert top_ngram_character_share(["a"] * 4, 2) == 1, "each word is counted once"
    assert duplicate_ngram_character_share(["a"] * 4, 2) == 3 / 4
    tie = ["a", "b", "x", "a", "b", "y", "long", "long", "z", "long", "long"]
    assert top_ngram_character_share(tie, 2) == 4 / 23, "of several, the one that occurs first"
    assert top_ngram_character_share(["a"], 2) == duplicate_ngram_character_share([], 5) == 0


def covered_by_positions(words: list[str], n: int, starts: list[int]) -> float:
    places = {start + offset for start in starts for offset in range(n)}
    return sum(len(words[i]) for i in places) / max(len("".join(words)), 1)


WORDS_WITH_REPEATS = st.lists(st.sampled_from(["a", "bb", "ccc"]), max_size=25).flatmap(
    lambda words: st.just(words + words[3:17] + ["dd"] + words)
)


@given(WORDS_WITH_REPEATS, st.integers(2, 10))
def test_ngrams_agree_with_a_search_of_every_place(words, n):
    grams = [words[i : i + n] for i in range(len(words) - n + 1)]
    later = [i for i, gram in enumerate(grams) if gram in grams[:i]]
    assert duplicate_ngram_character_share(words, n) == covered_by_positions(words, n, later)
    most = max((grams.count(gram) for gram in grams), default=0)
    top = next((gram for gram in grams if grams.count(gram) == most), None)
    places = [i for i, gram in enumerate(grams) if gram == top] if most > 1 else []
    assert top_ngram_character_share(words, n) == covered_by_positions(words, n, places)
