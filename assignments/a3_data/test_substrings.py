"""a3_data.15 and a3_data.16: the suffix array, common prefixes, and spans that came before."""

from itertools import pairwise

import numpy as np
import pytest
from substring_oracle import prefixes_of, sorted_suffixes, spans_of

MODULE = "data_pipeline.substring_dedup"
INPUTS = {
    "banana": list(b"banana"),
    "mississippi": list(b"mississippi"),
    "one-id": [3] * 40,
    "period": [1, 2, 3] * 12,
    "large": [-5, 2**40, -5, 2**40, -6],
    "far-apart": [2**63 - 1, -(2**63), 0, 2**63 - 1, 1],
    "one": [7],
    "empty": [],
    "twice": [*range(30, 0, -1), *range(30, 0, -1)],
}
parametrized = pytest.mark.parametrize("ids", INPUTS.values(), ids=INPUTS)


# a3_data.15


@pytest.mark.task("a3_data.15")
@parametrized
def test_the_suffixes_in_order(implementation, a3_data, ids):
    got = implementation(MODULE).suffix_array(np.array(ids, dtype=np.int64))
    places = [sorted(range(len(ids)), key=lambda start: ids[start : start + first]) for first in
              (1, 2, 4, 8, 16)]  # fmt: skip
    long_first = sorted(range(len(ids)), key=lambda start: [*ids[start:], 2**62])
    causes = {
        "a suffix that is a prefix of another comes before it": long_first,
        "suffixes are compared to their ends; yours only by their first few ids":
            lambda found: found in places,
        "these are the ranks; the result has the starts of the suffixes, in their order": [
            sorted_suffixes(ids).index(start) for start in range(len(ids))
        ],
        "ascending order: the smallest suffix first": sorted_suffixes(ids)[::-1],
    }  # fmt: skip
    what = f"suffix_array of {a3_data.shown(ids)}"
    a3_data.check_array(got, sorted_suffixes(ids), "int64", what, causes)


@pytest.mark.task("a3_data.15")
def test_a_list_has_suffixes_too(implementation, a3_data):
    got = implementation(MODULE).suffix_array([2, 1, 2, 1])
    a3_data.check_array(got, [3, 1, 2, 0], "int64", "suffix_array of the list [2, 1, 2, 1]")


@pytest.mark.task("a3_data.15")
@pytest.mark.parametrize("kind", ["equal", "copied"])
def test_long_repeats_take_little_memory_and_time(implementation, a3_data, kind):
    """A list of all suffixes of 4,000 ids has 8 million numbers: 64 MB."""
    ids = np.zeros(4000, dtype=np.int64)
    if kind == "copied":
        ids[:2000] = ids[2000:] = np.random.default_rng(1).permutation(2000)
    suffix_array = implementation(MODULE).suffix_array
    with a3_data.StepCounter(800_000) as counter:
        suffix_array(ids)
    a3_data.true(
        counter.steps <= 800_000,
        f"suffix_array takes more than 800,000 steps for 4,000 ids ({kind}): the suffixes' ids are "
        "compared one by one. Sort by pairs of ranks, and double the length",
    )
    most = a3_data.peak_bytes(lambda: suffix_array(ids))
    a3_data.true(
        most <= 8 << 20,
        "suffix_array keeps a copy of each suffix: a text of n ids has n^2 / 2 of them. Sort the "
        "starts by ranks",
        {"bytes": most, "at most": 8 << 20},
    )


@pytest.mark.task("a3_data.15")
def test_a_text_of_70_000_ids(implementation, a3_data):
    """Each suffix is less than the next: by its first id, or the rank of the suffix behind it."""
    ids = np.tile(np.random.default_rng(4).integers(0, 2, 35_000), 2)
    got = a3_data.array(implementation(MODULE).suffix_array(ids), "suffix_array of 70,000 ids")
    starts = np.sort(got)
    a3_data.true(
        np.array_equal(starts, np.arange(70_000)),
        "suffix_array of 70,000 ids: each start occurs once",
        {"got": starts},
    )
    ranks = np.append(np.argsort(got), -1)  # the empty suffix is the smallest
    one, other = got[:-1], got[1:]
    first, second = ids[one] - ids[other], ranks[one + 1] - ranks[other + 1]
    wrong = np.flatnonzero((first > 0) | ((first == 0) & (second > 0)))
    a3_data.true(
        not len(wrong),
        "suffix_array of 35,000 ids and the same again: these neighbors are in the wrong order. "
        "Double until all ranks differ, however often that is. Products of ranks need int64",
        {"places": wrong[:5], "how many": len(wrong)},
    )


@pytest.mark.task("a3_data.15")
@parametrized
def test_common_prefixes_of_neighbors(implementation, a3_data, ids):
    suffixes = np.array(sorted_suffixes(ids), dtype=np.int64)
    got = implementation(MODULE).longest_common_prefixes(np.array(ids, dtype=np.int64), suffixes)
    expected = prefixes_of(ids, suffixes.tolist())
    by_start = dict(zip(suffixes.tolist(), expected, strict=True))
    causes = {
        "entry i belongs to place i of the suffix array, not to the suffix that starts at i": [
            by_start[start] for start in range(len(ids))
        ],
        "compare a suffix with the one before it; the first place has 0": [*expected[1:], 0],
    }
    what = f"longest_common_prefixes of {a3_data.shown(ids)}"
    a3_data.check_array(got, expected, "int64", what, causes)


@pytest.mark.task("a3_data.15")
def test_common_prefixes_are_not_counted_again(implementation, a3_data):
    ids = np.zeros(3000, dtype=np.int64)
    suffixes = np.arange(2999, -1, -1)
    with a3_data.StepCounter(150_000) as counter:
        got = implementation(MODULE).longest_common_prefixes(ids, suffixes)
    a3_data.true(
        counter.steps <= 150_000,
        "longest_common_prefixes takes more than 150,000 steps for 3,000 equal ids: if the suffix "
        "at i shares k ids with its neighbor, that at i + 1 shares at least k - 1 with its own, so "
        "begin to compare behind these",
    )
    a3_data.check_array(got, list(range(3000)), "int64", "the prefixes of 3,000 equal ids")


# a3_data.16


def spans(implementation, documents, length):
    got = implementation(MODULE).repeated_spans(documents, length)
    if got is None:
        return None
    return [[(int(start), int(end)) for start, end in each] for each in got]


@pytest.mark.task("a3_data.16")
@pytest.mark.parametrize(
    ("documents", "length", "expected"),
    [
        ([[1, 2, 3, 4], [9, 1, 2, 3]], 2, [[], [(1, 4)]]),
        ([[1, 2, 3, 4], [9, 1, 2, 3]], 3, [[], [(1, 4)]]),
        ([[1, 2, 3, 4], [9, 1, 2, 3]], 4, [[], []]),
        ([[9, 1, 2, 3], [1, 2, 3, 4], [2, 3]], 2, [[], [(0, 3)], [(0, 2)]]),
        ([[5, 6, 7, 5, 6, 8, 5, 6, 7]], 2, [[(3, 5), (6, 9)]]),
        ([[1, 2, 3, 1, 2, 9, 9, 2, 3]], 2, [[(3, 5), (7, 9)]]),
        ([[], [1], [], [1], []], 1, [[], [], [], [(0, 1)], []]),
        ([[1, 2], [3, 4], [1, 2, 3, 4]], 2, [[], [], [(0, 4)]]),
        ([], 3, []),
        ([[], []], 2, [[], []]),
    ],
)  # fmt: skip
def test_what_came_before(implementation, a3_data, documents, length, expected):
    all_of_them = [
        sorted({place for other in documents for start in range(len(other) - length + 1)
                for place in range(len(each) - length + 1)
                if (other is not each or start != place)
                and other[start : start + length] == each[place : place + length]})
        for each in documents
    ]  # fmt: skip
    causes = {
        "the first occurrence stays; all others go": lambda got: (
            [sorted({p for s, e in each for p in range(s, e - length + 1)}) for each in got]
            == all_of_them
            != [[] for _ in documents]
        ),
        "spans that overlap or touch are one": lambda got: any(
            one[1] >= other[0] for each in got for one, other in pairwise(each)
        ),
        "one list for each document, also if it has no span": lambda got: (
            len(got) != len(documents)
        ),
        "a window of exactly `min_tokens` ids is a repeat": [[] for _ in documents],
    }
    got = spans(implementation, documents, length)
    a3_data.expect(got, expected, f"repeated_spans({documents}, {length})", causes)


@pytest.mark.task("a3_data.16")
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 12])
@pytest.mark.parametrize("length", [2, 3])
def test_a_window_that_overlaps_itself(implementation, a3_data, count, length):
    """In a a a a a with windows of two, "a a" stays."""
    documents = [[4] * count]
    causes = {
        "a window is a repeat if an equal one ENDED before it begins; the window one place further "
        "overlaps it": spans_of(documents, length, overlapping=True)
    }
    got = spans(implementation, documents, length)
    what = f"repeated_spans of {count} times the same id, windows of {length}"
    a3_data.expect(got, spans_of(documents, length), what, causes)


@pytest.mark.task("a3_data.16")
@pytest.mark.parametrize(
    "documents",
    [
        [[1, 2], [3, 4], [1, 2], [3, 4]],
        [[1, 2, 9], [3, 4], [0, 2, 9], [3, 5]],
        [[1, 2, 3], [1], [2, 3]],
        [[0, 1], [0, 1], [0, 1], [0, 1]],
    ],
    ids=["halves", "same-border", "joined", "small-ids"],
)
def test_windows_end_with_their_document(implementation, a3_data, documents):
    causes = {
        "a window of three ids does not cross the end of a document: put a separator of its own "
        "behind each, which occurs nowhere else": lambda _: True
    }
    got = spans(implementation, documents, 3)
    what = f"repeated_spans({documents}, 3)"
    a3_data.expect(got, spans_of(documents, 3), what, causes)


@pytest.mark.task("a3_data.16")
def test_spans_that_are_refused(implementation, a3_data):
    repeated_spans = implementation(MODULE).repeated_spans
    for documents, length, named in [([[1, 2]], 0, "0"), ([[1, 2]], -3, "-3"),
                                     ([[1], [5, -7, 2]], 2, "-7"), ([[1, -2]], 5, "-2"),
                                     ([[-2]], 1, "-2"), ([], 0, "0")]:  # fmt: skip
        what = f"repeated_spans({documents}, {length})"
        call = lambda d=documents, n=length: repeated_spans(d, n)  # noqa: E731
        a3_data.raises(ValueError, call, what, [named])


@pytest.mark.task("a3_data.16")
@pytest.mark.parametrize(
    ("texts", "words", "expected", "causes"),
    [
        (["a b c", "x\n\na b c y"], 3, [("a b c", 0), ("x\n\ny", 3)],
         {"blanks before the span stay, and those behind it go": [("a b c", 0), ("x\n\n y", 3)],
          "the first occurrence stays": lambda got: got[0][1] > 0}),
        (["a b c", "x  y\n a\tb c \n"], 3, [("a b c", 0), ("x  y", 3)],
         {"at the end of a text, the blanks before the span go, too": lambda got: got[1][1] == 3}),
        (["a b c", " a b c "], 3, [("a b c", 0), ("", 3)],
         {"a text that is a repeat as a whole becomes empty": lambda got: got[1][1] == 3}),
        (["  a b. \n", "a B. a b"], 2, [("  a b. \n", 0), ("a B. a b", 0)],
         {"words are what blanks separate, with their punctuation and case": lambda _: True}),
        (["我爱你们 吗", "x 爱你们y 吗"], 3, [("我爱你们 吗", 0), ("x y 吗", 3)],
         {"in Chinese, every character is a word: use WORD": [("我爱你们 吗", 0),
                                                            ("x 爱你们y 吗", 0)]}),
        (["a b x y", "a b c d x y e"], 2, [("a b x y", 0), ("c d e", 4)],
         {"the number of words in all spans is returned": [("a b x y", 0), ("c d e", 2)]}),
        (["a b a b a b"], 2, [("a b", 4)], {}),
        ([], 2, [], {}),
    ],
    ids=["between", "end", "whole", "case", "chinese", "two-spans", "one-text", "nothing"],
)  # fmt: skip
def test_texts_without_repeats(implementation, a3_data, texts, words, expected, causes):
    got = implementation(MODULE).drop_repeated_spans(texts, words)
    a3_data.expect(got, expected, f"drop_repeated_spans({texts}, {words})", causes)
