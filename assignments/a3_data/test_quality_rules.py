"""a3_data.3 and a3_data.4: Gopher's quality rules and repetition rules."""

import sys
from collections import Counter

import pytest
from rule_pages import BOUNDS, REPETITION_BOUNDS, duplicate_share, top_share, words_of

MODULE = "data_pipeline.quality_rules"

# a3_data.3

WORDS = ["To", "be", "or", "not", "to", "be"]


@pytest.mark.task("a3_data.3")
def test_the_mean_length_of_a_word(implementation, a3_data):
    mean = implementation(MODULE).mean_word_length
    causes = {
        "every word counts, also one that occurred before": 9 / 4,
        "white space is not part of a word": 18 / 6,
    }
    a3_data.close(mean(WORDS), 13 / 6, 1e-12, 0, f"mean_word_length({WORDS})", causes)
    a3_data.close(mean([]), 0.0, 1e-12, 0, "mean_word_length([])")
    a3_data.close(mean(["né", "한국어"]), 2.5, 1e-12, 0, "mean_word_length(['né', '한국어'])",
                  {"characters are counted, not bytes": 6.0})  # fmt: skip


@pytest.mark.task("a3_data.3")
@pytest.mark.parametrize(
    ("text", "words", "expected"),
    [
        ("# one ## two", 4, 0.75),
        ("wait... and … and", 4, 0.5),
        ("# wait... no…", 4, 0.5),
        ("###", 0, 3.0),
        ("no. signs..", 2, 0.0),
    ],
    ids=["hashes", "ellipses", "both", "no-words", "points"],
)
def test_symbols_for_each_word(implementation, a3_data, text, words, expected):
    characters = text.count("#") + text.count("...") + text.count("…")
    causes = {
        "hashes and ellipses are not added: the larger of the two counts":
            characters / max(words, 1),
        "both ... and … are ellipses": text.count("#") / max(words, 1),
        "divide by the number of words, not of characters": characters / max(len(text), 1),
    }  # fmt: skip
    got = implementation(MODULE).symbols_per_word(text, words)
    a3_data.close(got, expected, 1e-12, 0, f"symbols_per_word({text!r}, {words})", causes)


LINES = ["- one", "• two", "three - four", "* five…", "six... and more", "seven...", "8.", "‣nine"]


@pytest.mark.task("a3_data.3")
@pytest.mark.parametrize(
    ("name", "expected", "causes"),
    [
        (
            "bullet_line_share",
            4 / 8,
            {
                "a line counts only if it begins with a bullet": 5 / 8,
                "all of BULLETS count": lambda got: 0 < got < 4 / 8,
            },
        ),
        (
            "ellipsis_line_share",
            2 / 8,
            {
                "a line counts only if it ends with the ellipsis": 3 / 8,
                "both ... and … are ellipses": 1 / 8,
                "this is the share of lines, not of characters": lambda got: 0 < got < 0.12,
            },
        ),
        ("sentence_line_share", 2 / 8, {"a point and three points end a sentence": 1 / 8}),
    ],
    ids=["bullets", "ellipses", "sentences"],
)
def test_a_share_of_lines(implementation, a3_data, name, expected, causes):
    share = getattr(implementation(MODULE), name)
    a3_data.close(share(LINES), expected, 1e-12, 0, f"{name}({LINES})", causes)
    a3_data.close(share([]), 0.0, 1e-12, 0, f"{name} of no lines")


@pytest.mark.task("a3_data.3")
@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("bullet_line_share", "- a"),
        ("ellipsis_line_share", "a…"),
        ("sentence_line_share", "a."),
        ("alphabetic_word_share", "a"),
    ],
    ids=["bullets", "ellipses", "sentences", "letters"],
)
def test_a_share_is_one_division(implementation, a3_data, name, line):
    share = getattr(implementation(MODULE), name)
    for others in range(1, 10):
        pieces = [line] * (10 - others) + ["0"] * others
        got = float(share(Counter(pieces) if name.startswith("alpha") else pieces))
        causes = {
            "divide two whole numbers once; 1 - 7 / 10 is not the float 3 / 10": lambda _: True,
        }
        what = f"{name} of {10 - others} right ones in 10"
        a3_data.expect(got, (10 - others) / 10, what, causes)


@pytest.mark.task("a3_data.3")
@pytest.mark.parametrize(
    ("name", "line", "signs"),
    [
        ("bullet_line_share", "{} a", "- * • ‣ ◦ – ·"),
        ("ellipsis_line_share", "a{}", "... …"),
        ("sentence_line_share", "a{}", '. ! ? " ” : )'),
    ],
    ids=["bullets", "ellipses", "sentences"],
)
def test_every_sign_of_a_table_counts(implementation, a3_data, name, line, signs):
    share = getattr(implementation(MODULE), name)
    for sign in signs.split():
        lines = [line.format(sign), "no", "no", "no"]
        causes = {f"{sign} is one of the signs that are given": lambda got: float(got) == 0}
        a3_data.close(share(lines), 1 / 4, 1e-12, 0, f"{name}({lines})", causes)


@pytest.mark.task("a3_data.3")
def test_the_share_of_words_with_a_letter(implementation, a3_data):
    share = implementation(MODULE).alphabetic_word_share
    counts = Counter({"x2": 2, "end.": 1, "12": 3, "한국": 1, "--": 1, "né": 2})
    causes = {
        "one letter is enough: x2 and end. count": 3 / 10,
        "each word counts as often as it occurs": 4 / 6,
        "letters of any script are letters": 5 / 10,
        "digits are not letters": 9 / 10,
    }
    a3_data.close(share(counts), 6 / 10, 1e-12, 0, f"alphabetic_word_share({counts})", causes)
    a3_data.close(share(Counter()), 0.0, 1e-12, 0, "alphabetic_word_share without words")
    counts = Counter({"½": 1, "²": 1, "Ⅳ": 1, "٣": 1, "x": 1})
    causes = {
        "a letter is what str.isalpha says: ½ and ² are none, although they match \\w": (
            lambda got: float(got) > 1 / 5
        )
    }
    a3_data.close(share(counts), 1 / 5, 1e-12, 0, f"alphabetic_word_share({counts})", causes)


@pytest.mark.task("a3_data.3")
@pytest.mark.parametrize(
    ("text", "expected"),
    [("the end of the day", 2), ("other bathed toes", 0), ("be to of and that have with the", 8),
     ("the, and oftener", 1), ("", 0)],
    ids=["twice", "inside-words", "all", "comma", "empty"],
)  # fmt: skip
def test_the_stop_words_found(implementation, a3_data, text, expected):
    causes = {
        "different words are counted, each once": 3,
        "words are separated by white space only: `the,` is another word": (
            lambda got: "," in text and got > expected
        ),
        "a stop word is a whole word, between white space": lambda got: got > expected,
    }
    got = implementation(MODULE).stop_words_found(text)
    a3_data.expect(got, expected, f"stop_words_found({text!r})", causes)


@pytest.mark.task("a3_data.3")
@pytest.mark.parametrize("bound", BOUNDS)
def test_each_bound_of_gopher(implementation, a3_data, bound):
    inside, outside, rule = BOUNDS[bound]
    passes = implementation(MODULE).passes_gopher
    causes = {
        "bounds are inclusive, and each rule counts what its name says": (False, False),
        f'the rule "{rule}" is left out, or its bound is another one': (True, True),
    }
    what = f'passes_gopher of a page at the bound of "{rule}" ({bound}), and just beyond it'
    a3_data.expect((passes(inside), passes(outside)), (True, False), what, causes)


@pytest.mark.task("a3_data.3")
@pytest.mark.parametrize("what", ["repetition", "placeholder", "brackets", "no-sentence"])
def test_no_rule_of_others(implementation, a3_data, what):
    text = {
        "repetition": "The same sentence stands here and again. " * 40,
        "placeholder": words_of(("word.", 60)) + " Lorem ipsum.",
        "brackets": words_of(("{word}", 60)) + ".",
        "no-sentence": words_of(("word", 60)),
    }[what]
    got = implementation(MODULE).passes_gopher(text)
    causes = {"only the seven rules of Gopher's quality filtering count (GOPHER_RULES)": False}
    a3_data.expect(got, True, f"passes_gopher of a page with a fault ({what})", causes)


@pytest.mark.task("a3_data.3")
def test_the_first_rule_that_fails(implementation, a3_data):
    module = implementation(MODULE)
    settings = module.QualitySettings(min_words=3, min_stop_words=1)
    for text, expected in [
        ("the end of all words.", None),
        ("ha the", "number of words"),
        ("12 34 56 {", "mean word length"),
        ("1234 5678 #### 1234 {", "symbols"),
        ("- 1234 5678\n- the 1234", "mean word length"),
        ("12345 the 56789", "alphabetic words"),
        ("some plain words", "stop words"),
        ("the plain words", "sentences"),
        ("the lorem ipsum ends.", "placeholder"),
    ]:
        got = module.first_failed_rule(text, settings)
        causes = {
            "rules are tried in the order of RULES, and the first that fails is named": (
                lambda got: got in module.RULES
            ),
            "the thresholds are those of the settings": "number of words",
        }
        a3_data.expect(got, expected, f"first_failed_rule({text!r}, {settings})", causes)


# a3_data.4


@pytest.mark.task("a3_data.4")
@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["ab", "ab", "c"], (1 / 3, 2 / 5)),
        (["ab", "c", "ab", "ab"], (2 / 4, 4 / 7)),
        (["one", "two"], (0.0, 0.0)),
        ([], (0.0, 0.0)),
        (["", ""], (1 / 2, 0.0)),
    ],
    ids=["twice", "apart", "different", "none", "no-characters"],
)
def test_the_shares_of_duplicates(implementation, a3_data, pieces, expected):
    counts = Counter(pieces)
    repeated = [piece for piece in pieces if counts[piece] > 1]
    characters = max(sum(map(len, pieces)), 1)
    causes = {
        "the first one is not a duplicate: only those that occurred before": lambda got: (
            got[0] == len(repeated) / max(len(pieces), 1) != expected[0]
        ),
        "each duplicate counts, not each text that has duplicates": lambda got: (
            got[0]
            == sum(count > 1 for count in counts.values()) / max(len(pieces), 1)
            != expected[0]
        ),
        "also those count that are not directly behind the first": lambda got: (
            got[0] == 1 / 4 != expected[0]
        ),
        "the second number is a share of characters": lambda got: got[1] == expected[0] != 0,
        "the second number is a share of all characters": lambda got: (
            got[1] == sum(map(len, repeated)) / characters != expected[1]
        ),
    }
    got = implementation(MODULE).duplicate_shares(pieces)
    a3_data.close(got, expected, 1e-12, 0, f"duplicate_shares({pieces})", causes)


NGRAMS = {
    "worked": (["to", "be", "or", "to", "be"], 2),
    "overlap": (["a"] * 4, 2),
    "overlap-by-one": (["a", "b", "a", "b", "a", "x"], 3),
    "tie": (["a", "b", "x", "a", "b", "y", "long", "long", "z", "long", "long"], 2),
    "once": (["to", "be", "or", "to", "be"], 3),
    "as-long-as-the-page": (["a", "a"], 2),
    "longer-than-the-page": (["a", "a"], 3),
    "one-more-time": (["x", "y", "x", "y", "x", "y", "pq", "rs", "pq", "rs"], 2),
    "no-words": ([], 2),
}


FAST = ("repeated_ngrams", "text_statistics")  # modules with the fast version of the package


def written_by_hand(implementation, monkeypatch, name):
    """The function of the code under test, while the fast version may not be called."""

    def refuse(*_):
        raise AssertionError("write it without rule_sets/repeated_ngrams.py")

    function = getattr(implementation(MODULE), name)
    for module in [sys.modules.get(f"data_pipeline.rule_sets.{each}") for each in FAST]:
        if module is not None:
            monkeypatch.setattr(module, "ngram_shares", refuse)
    return function


@pytest.mark.task("a3_data.4")
@pytest.mark.parametrize("case", NGRAMS)
def test_the_share_of_the_top_ngram(implementation, monkeypatch, a3_data, case):
    words, n = NGRAMS[case]
    expected = top_share(words, n)
    characters = max(len("".join(words)), 1)
    grams = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    top, count = max(grams.items(), key=lambda each: each[1], default=((), 0))
    last = max(reversed(grams.items()), key=lambda each: each[1], default=((), 0))[0]
    causes = {
        "an n-gram that occurs once repeats nothing: 0": (
            lambda got: count == 1 and float(got) > 0
        ),
        "a word in two of the n-grams is counted once": sum(map(len, top)) * count / characters,
        "the n-gram is counted at all its places": sum(map(len, top)) / characters,
        "places of the n-gram that overlap count, too": (
            lambda got: case == "overlap-by-one" and float(got) < expected
        ),
        "of several that are the most frequent, take the first": (
            lambda got: last != top and abs(float(got) - len("".join(last)) * count / characters)
            < 1e-9
        ),
        "characters are counted without the spaces between words":
            (len(" ".join(top)) * count) / max(len(" ".join(words)), 1),
    }  # fmt: skip
    function = written_by_hand(implementation, monkeypatch, "top_ngram_character_share")
    got = function(words, n)
    a3_data.close(got, expected, 1e-12, 0, f"top_ngram_character_share({words}, {n})", causes)


@pytest.mark.task("a3_data.4")
@pytest.mark.parametrize("case", NGRAMS)
def test_the_share_of_duplicate_ngrams(implementation, monkeypatch, a3_data, case):
    words, n = NGRAMS[case]
    expected = duplicate_share(words, n)
    characters = max(len("".join(words)), 1)
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    later = [gram for i, gram in enumerate(grams) if gram in grams[:i]]
    causes = {
        "a word in two of the n-grams is counted once":
            sum(len(word) for gram in later for word in gram) / characters,
        "the first of equal n-grams is not a duplicate": top_share(words, n),
        "this is the share of n-grams, not of characters": len(later) / max(len(grams), 1),
    }  # fmt: skip
    function = written_by_hand(implementation, monkeypatch, "duplicate_ngram_character_share")
    got = function(words, n)
    a3_data.close(got, expected, 1e-12, 0, f"duplicate_ngram_character_share({words}, {n})", causes)


@pytest.mark.task("a3_data.4")
@pytest.mark.parametrize("name", ["top_ngram_character_share", "duplicate_ngram_character_share"])
def test_ngrams_that_look_alike_when_joined(implementation, monkeypatch, a3_data, name):
    words = ["ab", "c", "x", "a", "bc"]
    got = written_by_hand(implementation, monkeypatch, name)(words, 2)
    causes = {
        "compare the words of n-grams: joined, (ab, c) and (a, bc) are the same text": (
            lambda got: float(got) > 0
        )
    }
    a3_data.close(got, 0.0, 1e-12, 0, f"{name}({words}, 2)", causes)


@pytest.mark.task("a3_data.4")
@pytest.mark.parametrize("name", ["duplicate_shares", "duplicate_ngram_character_share"])
def test_earlier_ones_are_not_searched(implementation, monkeypatch, a3_data, name):
    """The search of a list makes no steps of Python, so comparisons of words are counted."""
    compared = 0

    class Counted(str):
        __slots__ = ()

        def __eq__(self, other):
            nonlocal compared
            compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    # every second word is the same, so half of the n-grams begin alike
    words = [Counted(f"w{number % 700}" if number % 2 else "w") for number in range(1000)]
    function = written_by_hand(implementation, monkeypatch, name)
    counter = a3_data.StepCounter(200_000)
    with counter:
        function(words) if name == "duplicate_shares" else function(words, 5)
    a3_data.true(
        compared <= 30_000 and counter.steps <= 200_000,
        f"{name} of 1,000 words compares each with many earlier ones: keep those seen in a set",
        {"comparisons": compared, "at most": 30_000},
    )


@pytest.mark.task("a3_data.4")
@pytest.mark.parametrize("rule", REPETITION_BOUNDS)
def test_each_bound_of_repetition(implementation, a3_data, rule):
    inside, outside = REPETITION_BOUNDS[rule]
    passes = implementation(MODULE).passes_gopher_repetition
    causes = {
        "bounds are inclusive, and each rule counts what its name says": (False, False),
        f'the rule "{rule}" is left out, or its bound is another one': (True, True),
    }
    what = f'passes_gopher_repetition of a page at the bound of "{rule}", and just beyond it'
    a3_data.expect((passes(inside), passes(outside)), (True, False), what, causes)
