"""a3_data.17: normalized words, hashes of n-grams, the index of evaluation sets, what is cut."""

import unicodedata

import numpy as np
import pytest

pytestmark = pytest.mark.task("a3_data.17")
MODULE = "data_pipeline.decontamination"
ODD = 0x9E3779B97F4A7C15
ITEM = "The quick, brown fox jumps over the lazy dog while eleven bored cats are watching it."


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't re-use the ﬁle", ["don", "t", "re", "use", "the", "file"]),
        ("  A_b\tC,d\r\n1,000 ½ ", ["a", "b", "c", "d", "1", "000", "1⁄2"]),
        ("Straße STRASSE", ["strasse", "strasse"]),
        ("so\u00adft ze\u200bro ‐ “quoted”…", ["soft", "zero", "quoted"]),
        ("東京は、Abc漢字", ["東", "京", "は", "abc", "漢", "字"]),
        ("대한민국의 수도", ["대한민국의", "수도"]),
        ("CRÈME brûlée", ["crème", "brûlée"]),
        ("𝐀bc Ⅳ", ["abc", "iv"]),
        ("e\u200d\u0301t", ["ét"]),
        ("\u200b — ... !", []),
        ("half \ud800 pair \ufffdof bytes\ufffd", ["half", "pair", "of", "bytes"]),
        ("", []),
    ],
    ids=["compatibility", "ascii", "sharp-s", "invisible", "without-spaces", "korean", "accents",
         "forms-of-capitals", "invisible-before-a-mark", "no-word", "not-utf-8", "empty"],
)  # fmt: skip
def test_words_in_one_form(implementation, a3_data, text, words):
    normalized_words = implementation(MODULE).normalized_words
    for form in (None, "NFD", "NFC"):
        written = unicodedata.normalize(form, text) if form else text
        causes = {
            "ß and ss are the same: use casefold(), which is more than lower()": (
                lambda got: isinstance(got, list) and "straße" in got
            ),
            "compatibility forms count in yours: use NFKC": (
                lambda got: isinstance(got, list) and bool({"ﬁle", "½"} & set(got))
            ),
            "remove the invisible characters (\\p{Cf}) within a word": (
                lambda got: isinstance(got, list) and "so\u00adft" in got
            ),
            "normalize to NFKC before casefold(): a letter of another form may become a capital": (
                lambda got: got != words and [word.casefold() for word in got] == words
            ),
            "remove the invisible characters before NFKC, which then composes what is left": (
                lambda got: (
                    got != words and [unicodedata.normalize("NFKC", word) for word in got] == words
                )
            ),
            "compose the characters again (NFKC): é may be written as one or as two": [
                unicodedata.normalize("NFKD", word) for word in words
            ],
            "case does not count": lambda got: (
                isinstance(got, list) and [word.casefold() for word in got] == words
            ),
        }
        try:
            got = normalized_words(written)
        except UnicodeError:
            raise a3_data.GradedFailure(
                f"normalized_words({text!r}) raised a UnicodeError: a text of bytes that were no "
                "UTF-8 may hold such characters; they separate words"
            ) from None
        a3_data.expect(got, words, f"normalized_words({written!r})", causes)


@pytest.mark.parametrize(
    ("words", "length"), [([5, 6, 5, 6, 7], 2), ([5, 6, 7], 3), ([5, 6], 1), ([2**64 - 1] * 4, 3)]
)
def test_hashes_of_ngrams(implementation, a3_data, words, length):
    def hash_of(part, first):
        value = first
        for word in part:
            value = (value * ODD + word) % 2**64
        return value

    starts = range(len(words) - length + 1)
    expected = [hash_of(words[start : start + length], length) for start in starts]
    causes = {
        "begin with h = length, not 0, so that n-grams of different lengths differ": [
            hash_of(words[start : start + length], 0) for start in starts
        ],
        "the last n-gram is missing: there are len(words) - length + 1": expected[:-1],
        "every n-gram in its order, also those that come again": sorted(set(expected)),
        "the first word is multiplied most often": [
            hash_of(words[start : start + length][::-1], length) for start in starts
        ],
    }
    got = implementation(MODULE).ngram_hashes(np.array(words, dtype=np.uint64), length)
    what = f"ngram_hashes of {words}, length {length}"
    a3_data.check_array(got, expected, "uint64", what, causes)


@pytest.mark.parametrize(("count", "length"), [(0, 1), (0, 13), (1, 2), (12, 13), (3, 13)])
def test_ngrams_longer_than_the_document(implementation, a3_data, count, length):
    words = np.arange(count, dtype=np.uint64)
    what = f"ngram_hashes of {count} words, length {length}"
    try:
        got = implementation(MODULE).ngram_hashes(words, length)
    except (ValueError, IndexError) as error:
        raise a3_data.GradedFailure(
            f"{what} raised {type(error).__name__}: {error}; a document of fewer words has no "
            "n-gram: return an empty array"
        ) from None
    a3_data.check_array(got, [], "uint64", what)


def index_of(module, items, **settings):
    sets = items if isinstance(items, dict) else {"set": items}
    return module.EvaluationIndex(sets, module.DecontaminationSettings(**settings))


def found(index, text):
    return [text[hit.start : hit.end] for hit in index.contaminations(text)]


def check_found(implementation, a3_data, items, text, expected, causes, **settings):
    index = index_of(implementation(MODULE), items, **settings)
    what = f"what is found in {a3_data.shown(text)}"
    a3_data.expect(found(index, text), expected, what, causes)


def test_the_shorter_of_two_hits_comes_first(implementation, a3_data):
    causes = {"of hits with the same start, the shorter comes first": ["a b c", "a b"]}
    settings = {"ngram_words": 3, "min_item_words": 2}
    for items in (["a b c", "a b"], ["a b", "a b c"]):
        check_found(implementation, a3_data, items, "a b c", ["a b", "a b c"], causes, **settings)


def test_a_question_in_a_document(implementation, a3_data):
    """16 words have four 13-grams; the document has 14 of them in a row, so two."""
    words = ITEM.split()
    text = "Before. " + " ".join(words[1:15]).upper() + "\n after"
    expected = [" ".join(words[first : first + 13]).upper() for first in (1, 2)]
    causes = {
        "case and punctuation do not count: the words of the document are normalized, too": [],
        "the last n-gram of the document is missing": expected[:1],
    }
    trimmed = [part.rstrip(",.") for part in expected]
    check_found(implementation, a3_data, [ITEM], text, trimmed, causes)


def test_both_sides_are_normalized(implementation, a3_data):
    for item, text in [
        ("Straße, CRÈME; ﬁle", "x (strasse cre\u0300me FILE)"),
        ("strasse crème file", "y STRASSE... Crème ﬁle!"),
        ("so\u00adft—Ze\u200bro 東京", "Soft zero 東 京"),
    ]:
        got = found(index_of(implementation(MODULE), [item], ngram_words=3, min_item_words=2), text)
        a3_data.true(
            bool(got),
            "EvaluationIndex: an item and a document that differ only in case, punctuation and "
            "the form of their characters share their n-grams: normalize both sides",
            {"item": repr(item), "document": repr(text)},
        )


def test_short_items(implementation, a3_data):
    nine, seven = " ".join("abcdefghi"), " ".join("tuvwxyz")
    causes = {
        "an item of 8 to 12 words is searched as a whole": [],
        "an item with fewer than min_item_words words is not searched": [nine, seven],
    }
    text = f"0 {nine} 1 {seven} 2"
    check_found(implementation, a3_data, [nine, seven], text, [nine], causes)
    part = " ".join("abcdefgh")
    causes = {"an item of 8 to 12 words is found as a whole, not in parts": lambda got: bool(got)}
    check_found(implementation, a3_data, [nine], f"0 {part} 1", [], causes)
    causes = {"an item of min_item_words words is searched": []}
    check_found(implementation, a3_data, [part], f"0 {part} 1", [part], causes)


def test_documents_shorter_than_an_ngram(implementation, a3_data):
    index = index_of(implementation(MODULE), [ITEM])
    for text in ("", "...", "The", "The quick, brown fox", " ".join(ITEM.split()[:12])):
        try:
            got = found(index, text)
        except (ValueError, IndexError) as error:
            raise a3_data.GradedFailure(
                f"contaminations({text!r}) raised {type(error).__name__}: {error}; a document of "
                "fewer words than an n-gram contains none"
            ) from None
        a3_data.expect(got, [], f"what is found in {text!r}")


def test_hits_of_several_lengths(implementation, a3_data):
    index = index_of(implementation(MODULE), ["a b", "b c d", "a b", "b c x"], ngram_words=3,
                     min_item_words=2)  # fmt: skip
    text = "A, b; c d a B"
    hits = index.contaminations(text)
    got = [(text[hit.start : hit.end], hit.start, hit.end) for hit in hits]
    expected = [("A, b", 0, 4), ("b; c d", 3, 9), ("a B", 10, 13)]
    causes = {
        "an n-gram that two items have is one hit": lambda each: len(each) > 3,
        "the hits come from the start of the text to its end, whatever their length": (
            lambda each: sorted(each) == sorted(expected)
        ),
        "text[hit.start:hit.end] is the n-gram, from its first character to its last": (
            lambda each: len(each) == 3
        ),
    }
    a3_data.expect(got, expected, f"the hits in {text!r}", causes)
    a3_data.true(
        hits[0].ngram == hits[2].ngram != hits[1].ngram,
        "Hit.ngram: the same words have the same number, other words another one",
        {"got": [hit.ngram for hit in hits]},
    )


def test_sets_that_would_always_look_clean(implementation, a3_data):
    module = implementation(MODULE)
    for sets, named in [
        ({}, []),
        ({"good": [ITEM], "short": ["two words", "seven words are not quite enough here"]},
         ["short", "8"]),
        ({"nothing": []}, ["nothing"]),
    ]:  # fmt: skip
        what = f"EvaluationIndex of {a3_data.shown(sets)}"
        call = lambda each=sets: index_of(module, each)  # noqa: E731
        a3_data.raises(ValueError, call, what, named)


def test_the_words_of_the_items(implementation, a3_data):
    index = index_of(implementation(MODULE), {"one": ["A, b", "x"], "two": ["c d E f"]},
                     ngram_words=3, min_item_words=2)  # fmt: skip
    expected = {"one": [["a", "b"], ["x"]], "two": [["c", "d", "e", "f"]]}
    a3_data.expect(index.words, expected, "EvaluationIndex.words")
    lengths = {name: [len(each) for each in items] for name, items in index.ngrams.items()}
    a3_data.expect(lengths, {"one": [1, 0], "two": [2]}, "the n-grams of each item")


def test_common_ngrams(implementation, a3_data):
    module = implementation(MODULE)
    hits = [[(1, 0), (1, 5), (1, 9), (2, 3)], [(2, 0), (3, 1)], [(2, 7), (2, 8)], [], [(3, 2)]]
    hits = [[module.Hit(ngram, start, start + 4) for ngram, start in each] for each in hits]
    causes = {
        "an n-gram that comes three times in one document is in one document: count documents": (
            lambda each: 1 in each
        ),
        "MORE than `max_documents`": {2, 3},
    }
    got = module.common_ngrams(iter(hits), 2)
    a3_data.expect(got, {2}, "common_ngrams in more than 2 documents", causes)
    a3_data.expect(module.common_ngrams(hits, 1), {2, 3}, "common_ngrams in more than 1 document")


TEXT = "0123456789 bad 5678901234567890 bad 678901234567890"


def pieces_of(module, text, hits, common=frozenset(), **settings):
    hits = [module.Hit(*hit) for hit in hits]
    settings = {"action": "cut", "cut_characters": 2, "min_piece_characters": 3, **settings}
    return module.clean_pieces(text, hits, set(common), module.DecontaminationSettings(**settings))


@pytest.mark.parametrize(
    ("hits", "common", "settings", "expected", "causes"),
    [
        ([], (), {}, [TEXT], {"a document without n-grams stays as it is": lambda _: True}),
        ([(1, 11, 14)], (), {"action": "drop"}, [], {"drop the whole document": lambda _: True}),
        ([(1, 11, 14)], (1,), {"action": "drop"}, [TEXT], {"a common n-gram is ignored": []}),
        (
            [(1, 11, 14)], (), {},
            ["012345678", TEXT[16:]],
            {"2 characters before the n-gram and 2 after it are cut, too": lambda _: True},
        ),
        (
            [(2, 32, 35), (1, 11, 14)], (), {},
            ["012345678", TEXT[16:30], TEXT[37:]],
            {"hits may come in any order": lambda _: True},
        ),
        (
            [(1, 11, 25), (2, 12, 14)], (), {},
            ["012345678", TEXT[27:]],
            {"cuts that overlap are one: the second ends within the first, and what the first "
             "covers stays cut": lambda _: True},
        ),
        ([(1, 0, 4), (2, 48, 51)], (), {"cut_characters": 10}, [TEXT[14:38].strip()], {}),
        (
            [(1, 11, 14), (2, 32, 35)], (), {"max_pieces": 2},
            [], {"a document of more pieces than max_pieces is dropped": lambda _: True},
        ),
        (
            [(1, 2, 10), (2, 32, 35), (3, 47, 48)], (), {"max_pieces": 3, "cut_characters": 0},
            [],
            {"pieces count for max_pieces before the short ones are dropped": lambda _: True},
        ),
        ([(1, 3, 60)], (), {"cut_characters": 0, "min_piece_characters": 4}, [],
         {"a piece shorter than min_piece_characters is dropped": ["012"]}),
    ],
    ids=["clean", "drop", "common", "cut", "any-order", "overlap", "ends", "too-many",
         "too-many-with-short", "short"],
)  # fmt: skip
def test_what_is_left(implementation, a3_data, hits, common, settings, expected, causes):
    got = pieces_of(implementation(MODULE), TEXT, hits, common, **settings)
    what = f"clean_pieces with n-grams at {[hit[1:] for hit in hits]} and {settings}"
    a3_data.expect(got, expected, what, causes)
