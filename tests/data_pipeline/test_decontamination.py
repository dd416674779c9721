"""N-grams shared with evaluation sets: by hand, and against comparing tuples of words."""

import pickle
import unicodedata

import numpy as np
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.decontamination import (
    DecontaminationSettings,
    EvaluationIndex,
    Hit,
    clean_pieces,
    common_ngrams,
    contamination_report,
    index_of_files,
    ngram_hashes,
    normalized_words,
)
from lm_core.user_error import UserError

TRIGRAMS = DecontaminationSettings(ngram_words=3, min_item_words=2)
GPT3 = DecontaminationSettings()
CUT = DecontaminationSettings(action="cut", cut_characters=4, max_pieces=3, min_piece_characters=3)
ITEM = "The quick, brown fox jumps over the lazy dog while eleven bored cats are watching it."


def found(index: EvaluationIndex, text: str) -> list[str]:
    return [text[hit.start : hit.end] for hit in index.contaminations(text)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't re-use the ﬁle", ["don", "t", "re", "use", "the", "file"]),
        ("  A_b\tC,d\r\n1,000 ½ ", ["a", "b", "c", "d", "1", "000", "1⁄2"]),
        ("Straße STRASSE", ["strasse", "strasse"]),
        ("so\u00adft ze\u200bro ‐ “quoted”…", ["soft", "zero", "quoted"]),
        ("東京は、日本。Abc漢字", ["東", "京", "は", "日", "本", "abc", "漢", "字"]),
        ("대한민국의 수도", ["대한민국의", "수도"]),
        ("\u200b — ... !", []),
        ("half \ud800 pair", ["half", "pair"]),
        ("", []),
    ],
)
def test_words(text, words):
    assert normalized_words(text) == words
    decomposed = unicodedata.normalize("NFD", text)
    assert normalized_words(decomposed) == words


MARKS = ["\u0316\u0301", "\u0301", "\uff9e\u0301", "\u3099\uff9f"]


@pytest.mark.parametrize("between", ["", "\u200b", "\u00ad\u200d"])
@pytest.mark.parametrize("marks", MARKS)
def test_marks_after_the_30th_of_a_character_do_not_count(marks, between):
    marks = marks * 50
    for count in (1, 29, 30, 31, 32, 100):
        word = unicodedata.normalize("NFKC", "q" + marks[: min(count, 30)] + "b")
        assert normalized_words(between.join("q" + marks[:count] + "b")) == [word], count


def test_ngrams():
    words = np.array([5, 6, 5, 6, 7], dtype=np.uint64)
    pairs = ngram_hashes(words, 2)
    assert (pairs.dtype, len(pairs)) == (np.uint64, 4)
    assert pairs[0] == pairs[2] != pairs[1]
    odd = 0x9E3779B97F4A7C15
    assert int(pairs[1]) == ((2 * odd + 6) * odd + 5) % 2**64
    assert len(ngram_hashes(words, 5)) == 1
    assert len(ngram_hashes(words, 6)) == len(ngram_hashes(words[:0], 1)) == 0


WORDS = st.lists(st.sampled_from("abc"), max_size=25)


@given(st.lists(WORDS, min_size=1, max_size=4), WORDS, st.integers(1, 4))
@settings(max_examples=150, deadline=None)
def test_hits_are_those_of_comparing_tuples(items, document, length):
    chosen = DecontaminationSettings(ngram_words=length, min_item_words=1)
    keys = set()
    for item in items:
        n = min(length, len(item))
        keys |= {tuple(item[i : i + n]) for i in range(len(item) - n + 1) if n}
    if not keys:
        return
    index = EvaluationIndex({"set": [" ".join(item) for item in items]}, chosen)
    expected = sorted(
        (2 * start, 2 * (start + n) - 1)
        for n in range(1, length + 1)
        for start in range(len(document) - n + 1)
        if tuple(document[start : start + n]) in keys
    )
    assert [(hit.start, hit.end) for hit in index.contaminations(" ".join(document))] == expected


def test_an_item_finds_itself_however_it_is_written():
    index = EvaluationIndex({"pangrams": [ITEM, "unrelated words " * 7]}, GPT3)
    assert len(found(index, ITEM)) == 16 - 13 + 1
    other = f"Before:\n{ITEM.upper().replace(' ', chr(10) + ' – ')}\nafter"
    assert len(found(index, other)) == 4
    assert found(index, other)[0].startswith("THE")
    assert found(index, other)[0].endswith("CATS")


def test_both_sides_are_normalized_alike():
    item = "Café “Zürich” liegt ﬁnal am See, o\u0308ffnet um 8 und schließt nie vor Mitternacht"
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        index = EvaluationIndex({"cafe": [unicodedata.normalize(form, item)]}, GPT3)
        for other in ("NFC", "NFD", "NFKC", "NFKD"):
            assert len(found(index, unicodedata.normalize(other, item.upper()))) == 2


def test_a_document_shorter_than_the_ngram_and_an_empty_one_have_no_hit():
    index = EvaluationIndex({"pangrams": [ITEM]}, GPT3)
    for text in ("", " \n", "...", "\u200b", "The quick brown fox", " ".join(ITEM.split()[:12])):
        assert index.contaminations(text) == []


def test_items_of_8_to_12_words_are_searched_whole_and_shorter_ones_are_not():
    items = ["one two three four five six seven", "", "a b c d e f g h", "a b c d e f g h i j k l"]
    index = EvaluationIndex({"short": items}, GPT3)
    assert found(index, "one two three four five six seven eight") == []
    assert found(index, "x a b c d e f g h y") == ["a b c d e f g h"]
    assert found(index, "a b c d e f g h i j k l") == ["a b c d e f g h", "a b c d e f g h i j k l"]
    assert found(index, "b c d e f g h i j k l") == []
    (row,) = contamination_report(index, [], set())["sets"]
    assert (row["items"], row["searched"], row["ngrams"]) == (4, 2, 2)


@pytest.mark.parametrize("items", [[], [""], ["too short", "?!", "\u200b"], ["seven " * 7]])
def test_a_set_that_could_only_look_clean_is_refused(items):
    with pytest.raises(UserError, match="evaluation set empty: none of its"):
        EvaluationIndex({"pangrams": [ITEM], "empty": items}, GPT3)


def test_no_set_and_contradicting_lengths_are_refused():
    with pytest.raises(UserError, match="no evaluation set"):
        EvaluationIndex({}, GPT3)
    with pytest.raises(pydantic.ValidationError, match="more than ngram_words"):
        DecontaminationSettings(ngram_words=5)


def test_a_pickled_index_finds_the_same():
    index = EvaluationIndex({"pangrams": [ITEM]}, GPT3)
    text = f"start {ITEM} end"
    hits = index.contaminations(text)
    assert pickle.loads(pickle.dumps(index)).contaminations(text) == hits
    again = EvaluationIndex({"pangrams": [ITEM]}, GPT3).contaminations(text)
    assert again == hits


def test_an_ngram_counts_once_for_each_document():
    twice, once = [Hit(1, 0, 5), Hit(1, 9, 14), Hit(2, 3, 8)], [Hit(1, 0, 5)]
    assert common_ngrams([twice, twice, once], 2) == {1}
    assert common_ngrams([twice, twice, once], 3) == set()
    assert common_ngrams([twice], 1) == set()


def test_a_document_is_dropped_unless_its_ngrams_are_common():
    hits = [Hit(1, 3, 5), Hit(2, 5, 6)]
    assert clean_pieces("some text", hits, set(), GPT3) == []
    assert clean_pieces("some text", hits, {1}, GPT3) == []
    assert clean_pieces(" some text ", hits, {1, 2}, GPT3) == [" some text "]
    assert clean_pieces(" some text ", [], set(), GPT3) == [" some text "]


@pytest.mark.parametrize(
    ("spans", "pieces"),
    [
        ([(10, 12)], ["012345", "ghijklmnopqrstuvwxyz"]),
        ([(2, 3)], ["789abcdefghijklmnopqrstuvwxyz"]),  # nothing is left before it
        ([(34, 36)], ["0123456789abcdefghijklmnopqrst"]),
        ([(10, 12), (11, 20), (11, 13)], ["012345", "opqrstuvwxyz"]),  # overlapping cuts are one
        ([(10, 12), (24, 26)], ["012345", "ghij", "uvwxyz"]),
        ([(10, 12), (22, 24)], ["012345", "stuvwxyz"]),  # "gh" is too short
        ([(10, 12), (20, 22)], ["012345", "qrstuvwxyz"]),  # cuts that touch
        ([(5, 6), (15, 16), (25, 26)], []),  # "0", "ab", "kl", "uvwxyz": four pieces
        ([(0, 36)], []),
    ],
)
def test_cuts(spans, pieces):
    text = "0123456789abcdefghijklmnopqrstuvwxyz"
    hits = [Hit(number, start, end) for number, (start, end) in enumerate(spans)]
    assert clean_pieces(text, hits, set(), CUT) == pieces
    assert clean_pieces(text, hits[::-1], set(), CUT) == pieces


def test_the_report_names_what_was_found_once():
    sets = {
        "first": ["a b c d e f", "x y", "nothing of this", "z"],
        "second": ["q a b c q", "common words here"],
    }
    index = EvaluationIndex(sets, TRIGRAMS)
    texts = {"page 1": "A b c. a B c d", "page 2": "b, c, d; x y common words here", "page 3": "?"}
    hits = {name: index.contaminations(text) for name, text in texts.items()}
    common = {hits["page 2"][-1].ngram}
    report = contamination_report(index, hits.items(), common)
    assert report["items"] == [
        {"set": "first", "item": 1, "share": 4 / 6, "documents": 2, "ngram": "a b c",
         "first_documents": ["page 1", "page 2"]},
        {"set": "first", "item": 2, "share": 1.0, "documents": 1, "ngram": "x y",
         "first_documents": ["page 2"]},
        {"set": "second", "item": 1, "share": 3 / 5, "documents": 1, "ngram": "a b c",
         "first_documents": ["page 1"]},
    ]  # fmt: skip
    assert report["sets"] == [
        {"set": "first", "items": 4, "searched": 3, "contaminated": 2, "documents": 2,
         "ngrams": 6, "common_ngrams": 0},
        {"set": "second", "items": 2, "searched": 2, "contaminated": 1, "documents": 1,
         "ngrams": 4, "common_ngrams": 1},
    ]  # fmt: skip


def test_from_files_to_pieces(tmp_path):
    (tmp_path / "quiz.jsonl").write_text(f'{{"question": "{ITEM}", "answer": 3}}\n')
    chosen = DecontaminationSettings(evaluation_sets={"quiz": str(tmp_path / "quiz.jsonl")})
    index = index_of_files(chosen)
    texts = [ITEM, "another text", f"it was said: {ITEM}"]
    hits = [index.contaminations(text) for text in texts]
    common = common_ngrams(hits, chosen.max_documents_per_ngram)
    pieces = [clean_pieces(t, h, common, chosen) for t, h in zip(texts, hits, strict=True)]
    assert pieces == [[], ["another text"], []]
