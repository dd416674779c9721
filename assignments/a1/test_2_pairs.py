"""a1.2 to a1.4: count pairs, merge one pair, choose the best pair."""

import pytest
from hypothesis import strategies as st

MODULE = "tokenizer_bpe.naive_training"
COUNT = "count_pairs"
tokens = st.sampled_from([b"a", b"b", b"aa", b"ab", b"\xc3"])


def letters(word):
    return tuple(bytes([byte]) for byte in word.encode())


# a1.2


@pytest.mark.task("a1.2")
def test_the_pairs_of_one_word(implementation, a1):
    got = implementation(MODULE).count_pairs({letters("hello"): 1})
    expected = {(b"h", b"e"): 1, (b"e", b"l"): 1, (b"l", b"l"): 1, (b"l", b"o"): 1}
    wrong_keys = {left + right: count for (left, right), count in expected.items()}
    causes = {"a pair is a tuple of two tokens; yours are joined into one": wrong_keys}
    a1.expect(a1.dict_of(got, COUNT), expected, "the pairs of 'hello' are wrong", causes)


@pytest.mark.task("a1.2")
def test_a_word_counts_as_often_as_it_occurs(implementation, a1):
    got = implementation(MODULE).count_pairs({letters("low"): 5, letters("lot"): 2})
    expected = {(b"l", b"o"): 7, (b"o", b"w"): 5, (b"o", b"t"): 2}
    causes = {
        "each word was counted once: add the word's count, not 1": {
            (b"l", b"o"): 2,
            (b"o", b"w"): 1,
            (b"o", b"t"): 1,
        },
        "a later word replaced the count: add to it": {
            (b"l", b"o"): 2,
            (b"o", b"w"): 5,
            (b"o", b"t"): 2,
        },
        "your pairs are reversed: the left token comes first": {
            (b"o", b"l"): 7,
            (b"w", b"o"): 5,
            (b"t", b"o"): 2,
        },
    }
    a1.expect(
        a1.dict_of(got, COUNT), expected, "the pairs of 5 'low' and 2 'lot' are wrong", causes
    )


@pytest.mark.task("a1.2")
def test_overlapping_pairs_all_count(implementation, a1):
    got = implementation(MODULE).count_pairs({letters("aaa"): 3})
    causes = {
        "'aaa' holds (a, a) twice, at positions 0 and 1: overlaps count": {(b"a", b"a"): 3},
        "the word occurs three times, so each of its pairs counts three times": {(b"a", b"a"): 2},
    }
    a1.expect(a1.dict_of(got, COUNT), {(b"a", b"a"): 6}, "the pairs of 3 'aaa' are wrong", causes)


@pytest.mark.task("a1.2")
def test_tokens_longer_than_a_byte(implementation, a1):
    got = implementation(MODULE).count_pairs({(b"l", b"ow", b"est"): 2, (b"ow",): 4})
    expected = {(b"l", b"ow"): 2, (b"ow", b"est"): 2}
    a1.expect(
        a1.dict_of(got, COUNT),
        expected,
        "the pairs of (l, ow, est) and of the single token (ow) are wrong",
    )


# a1.3


@pytest.mark.task("a1.3")
@pytest.mark.parametrize(
    ("word", "pair", "expected"),
    [
        ("lower", (b"o", b"w"), (b"l", b"ow", b"e", b"r")),
        ("lower", (b"w", b"o"), (b"l", b"o", b"w", b"e", b"r")),
        ("abcab", (b"a", b"b"), (b"ab", b"c", b"ab")),
        ("a", (b"a", b"a"), (b"a",)),
        ("", (b"a", b"a"), ()),
    ],
    ids=["one", "none", "first-and-last", "single", "empty"],
)
def test_one_merge(implementation, a1, word, pair, expected):
    got = implementation(MODULE).merge_pair(letters(word), pair)
    causes = {
        "return a tuple, which can be a key of a dictionary": list(expected),
        "nothing was merged": letters(word),
    }
    if word == "abcab":
        causes |= {
            "only the first occurrence was merged": (b"ab", b"c", b"a", b"b"),
            "the end of the word is lost": (b"ab", b"c"),
        }
    a1.expect(got, expected, f"merging {pair} in {word!r} is wrong", causes)


@pytest.mark.task("a1.3")
@pytest.mark.parametrize("length", [3, 4, 5])
def test_from_left_to_right(implementation, a1, length):
    got = implementation(MODULE).merge_pair((b"a",) * length, (b"a", b"a"))
    expected = (b"aa",) * (length // 2) + (b"a",) * (length % 2)
    causes = {
        "you merge from the right: start with the leftmost pair": expected[::-1],
        "a token was used twice: after a merge, continue with the token after it": (b"aa",)
        * (length - 1),
        "only the first pair was merged": (b"aa",) + (b"a",) * (length - 2),
    }
    a1.expect(got, expected, f"merging (a, a) in {'a' * length!r} is wrong", causes)


@pytest.mark.task("a1.3")
def test_only_whole_tokens_are_merged(implementation, a1):
    word = (b"a", b"b", b"ab", b"xa", b"b", b"a", b"ba")
    got = implementation(MODULE).merge_pair(word, (b"a", b"b"))
    expected = (b"ab", b"ab", b"xa", b"b", b"a", b"ba")
    a1.expect(got, expected, "merging (a, b) is wrong where a token only ends with a")


@pytest.mark.task("a1.3")
@pytest.mark.parametrize(
    ("word", "pair"),
    [((b"a", b"bc"), (b"ab", b"c")), ((b"x", b"ab", b"c", b"y"), (b"a", b"bc"))],
    ids=["longer-left", "longer-right"],
)
def test_the_border_between_the_two_tokens_counts(implementation, a1, word, pair):
    got = implementation(MODULE).merge_pair(word, pair)
    merged = tuple(b"".join(word).replace(b"abc", b"|abc|").strip(b"|").split(b"|"))
    causes = {"you compare the joined bytes: compare each token with its part of the pair": merged}
    a1.expect(got, word, f"merging {pair} in {word}, which does not contain it, is wrong", causes)


# a1.4

RULE = "the larger pair of byte strings must win"
FIRST = f"your ties go to the pair seen first: {RULE}"
LAST = f"your ties go to the pair seen last: {RULE}"
SMALLEST = f"your ties go to the smaller pair: {RULE}"
PRINTED = (
    "you compare the printed form of the bytes: compare the bytes objects themselves, as Python "
    "compares them"
)
JOINED = (
    "you compare the joined bytes: compare the left tokens, and if they are equal, the right ones"
)
LENGTH = "you prefer the longer token: compare the tokens byte by byte"


@pytest.mark.task("a1.4")
@pytest.mark.parametrize(
    ("tied", "expected", "cause"),
    [
        ([(b"a", b"b"), (b"b", b"a")], (b"b", b"a"), SMALLEST),
        ([(b"b", b"a"), (b"a", b"b")], (b"b", b"a"), SMALLEST),
        ([(b"t", b"e"), (b"t", b"h"), (b"t", b"a")], (b"t", b"h"), SMALLEST),
        ([(b"a", b"t"), (b" ", b"t")], (b"a", b"t"), PRINTED),
        ([(b"\xe9", b"a"), (b"z", b"a")], (b"\xe9", b"a"), PRINTED),
        ([(b"~", b"a"), (b"\n", b"a")], (b"~", b"a"), PRINTED),
        ([(b"ab", b"b"), (b"a", b"bc")], (b"ab", b"b"), JOINED),
        ([(b"b", b"a"), (b"ab", b"abc")], (b"b", b"a"), LENGTH),
        ([(b"ab", b"a"), (b"a", b"b")], (b"ab", b"a"), JOINED),
    ],
    ids=["first", "last", "right", "space", "high", "newline", "joined", "longer", "prefix"],
)
def test_ties(implementation, a1, tied, expected, cause):
    best_pair = implementation(MODULE).best_pair
    got = best_pair(dict.fromkeys(tied, 7) | {(b"zz", b"zz"): 6})
    if got != expected and got in tied:
        other_way_round = best_pair(dict.fromkeys(tied[::-1], 7) | {(b"zz", b"zz"): 6})
        if (got, other_way_round) == (tied[0], tied[-1]):
            cause = FIRST
        elif (got, other_way_round) == (tied[-1], tied[0]):
            cause = LAST
    loser = got if got in tied and got != expected else next(p for p in tied if p != expected)
    causes = {f"{cause}, here {expected} over {loser}": loser}
    a1.expect(got, expected, "best_pair of equally frequent pairs is wrong", causes)


@pytest.mark.task("a1.4")
def test_frequency_comes_first(implementation, a1):
    got = implementation(MODULE).best_pair({(b"z", b"z"): 2, (b"a", b"b"): 10, (b"y", b"z"): 9})
    causes = {"the count decides first, and the bytes only between equal counts": (b"z", b"z")}
    a1.expect(got, (b"a", b"b"), "the best pair is not the most frequent one", causes)
