"""The state machine cuts where `regex` cuts: for every code point, and in the hard cases."""

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizer_bpe.compiled import word_boundaries
from tokenizer_bpe.compiled.word_boundaries import (
    LETTER,
    NUMBER,
    OTHER,
    SPACE,
    character_classes,
    end_of_word,
    word_ends,
    word_rule,
)
from tokenizer_bpe.pretokenization import GPT2_PATTERN, gpt4_pattern

PATTERNS = {"gpt2": GPT2_PATTERN} | {
    f"gpt4_{digits}": gpt4_pattern(digits) for digits in (0, 1, 2, 3, 12)
}
every_pattern = pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)

SPACES = " \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2003\u2028\u2029\u202f\u205f\u3000"
NO_SPACES = "\u180e\u200b\u200d\ufeff"  # format characters that look like spaces
CONTRACTIONS = ["'s", "'S", "'ſ", "'t", "'M", "'d", "'ll", "'lL", "'LL", "'ve", "'Ve", "'re", "'rE"]
DIGITS = "07²½٣৪Ⅷ௧𝟘"
LETTERS = "aszKAZlvrTMſKéßΩжअ漢한ʰ𐍈ﬁ"
MARKS = "\u0301\u093f\u20dd\ufe0f"
OTHERS = "!'’-_%😀🏽\x00\x7f\u0378\U000e0080\uffff\U0010ffff"
awkward_text = st.lists(
    st.sampled_from(
        [*SPACES, *NO_SPACES, *CONTRACTIONS, *DIGITS, *LETTERS, *MARKS, *OTHERS, *"'''   \n\n\r\r"]
    ),
    max_size=40,
).map("".join)

EVERY_CHARACTER = "".join(map(chr, range(0x110000)))
CATEGORIES = (
    *("Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "Pc", "Pd", "Ps", "Pe"),
    *("Pi", "Pf", "Po", "Sm", "Sc", "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Cs", "Co", "Cn"),
)
TRIED_WHOLE = 1000  # code points


def as_array(text):
    return np.frombuffer(text.encode(), dtype=np.uint8)


def words_of(text, pattern):
    ends = word_ends(as_array(text), pattern).tolist()
    content = text.encode()
    return [content[a:b].decode() for a, b in pairwise([0, *ends])]


@every_pattern
@settings(max_examples=300, deadline=None)
@given(text=st.one_of(awkward_text, st.text(max_size=30)))
def test_words_are_those_of_the_regex_module(pattern, text):
    assert words_of(text, pattern) == regex.findall(pattern, text)


@every_pattern
@settings(max_examples=50, deadline=None)
@given(text=awkward_text, rest=awkward_text)
def test_what_lies_behind_the_stop_does_not_exist(pattern, text, rest):
    """Otherwise "'l" in front of a special token would become a contraction with the token's
    "l".
    """
    both, stop = as_array(text + rest), len(text.encode())
    place, ends = 0, []
    while place < stop:
        place = end_of_word(both, place, stop, character_classes(), word_rule(pattern))
        ends.append(place)
    assert ends == word_ends(as_array(text), pattern).tolist()


def test_the_stop_may_cut_a_contraction():
    text, classes = as_array("'ll"), character_classes()
    gpt2, gpt4 = word_rule(GPT2_PATTERN), word_rule(gpt4_pattern())
    assert [end_of_word(text, 0, stop, classes, gpt2) for stop in (1, 2, 3)] == [1, 1, 3]
    assert [end_of_word(text, 0, stop, classes, gpt4) for stop in (1, 2, 3)] == [1, 2, 3]


def test_the_classes_are_those_of_the_regex_module():
    classes = character_classes()
    assert classes.shape == (0x110000,)
    kinds = {"a": LETTER, "漢": LETTER, "٣": NUMBER, "½": NUMBER, "\x85": SPACE, "\x1c": OTHER}
    assert {character: classes[ord(character)] for character in kinds} == kinds
    for kind, pattern in ((LETTER, r"\p{L}"), (NUMBER, r"\p{N}"), (SPACE, r"\s")):
        expected = [ord(character) for character in regex.findall(pattern, EVERY_CHARACTER)]
        assert np.flatnonzero(classes == kind).tolist() == expected


def test_every_code_point_is_read_from_its_bytes(monkeypatch):
    """The class of a character is set to one bit of its code point after another: a word that
    begins with the letter "a" ends before the next character if the bit is 0.
    """
    codes = np.r_[0x80:0xD800, 0xE000:0x110000]
    classes = np.empty(0x110000, dtype=np.uint8)
    monkeypatch.setattr(word_boundaries, "character_classes", lambda: classes)
    text = as_array("a".join(["", *EVERY_CHARACTER[0x80:0xD800], *EVERY_CHARACTER[0xE000:]]))
    starts = np.flatnonzero(text == ord("a")) + 1
    ends = np.append(starts[1:] - 1, len(text))
    for bit in range(21):
        classes[:] = np.where(np.arange(0x110000) >> bit & 1, LETTER, NUMBER)
        classes[ord("a")] = LETTER
        is_alone = codes >> bit & 1 == 0
        expected = np.stack([starts[is_alone], ends[is_alone]], axis=1).ravel()
        if not is_alone[-1]:
            expected = np.append(expected, len(text))
        assert np.array_equal(word_ends(text, GPT2_PATTERN), expected), f"bit {bit}"


def test_contractions_know_every_character_that_equals_one_of_their_letters():
    assert regex.findall("(?i:[sdmtlvre])", EVERY_CHARACTER) == [*"DELMRSTVdelmrstvſ"]


@cache
def in_several_contexts():
    """Return a text that tests another alternative of a pattern with each context of a character:
    inside a word, after a space, after an apostrophe, at the end of a run, before a newline.

    Of a long run of code points of one general category, such as Chinese characters or unassigned
    planes, only the edges are tried. That suffices because a pattern distinguishes only letters,
    numbers, whitespace, and single characters in short runs. The three tests above compare with
    `regex` the class of every code point, and the characters that equal others if case is ignored,
    and prove that every code point is read correctly.
    """
    parts = []
    runs = "|".join(rf"(?P<{name}>\p{{{name}}}+)" for name in CATEGORIES)
    for run in regex.finditer(runs, EVERY_CHARACTER):
        if run.lastgroup != "Cs":  # surrogates are in no valid text
            is_short = len(run[0]) <= TRIED_WHOLE
            parts += run[0] if is_short else run[0][:2] + run[0][-2:]
    assert {*EVERY_CHARACTER[:128], *SPACES, "ſ"} <= set(parts)
    return "".join([f"a{c}b {c}1'{c}{c}\n x" for c in parts])


@every_pattern
def test_every_kind_of_character_in_several_contexts(pattern):
    text = in_several_contexts()
    theirs = np.cumsum(np.fromiter(map(len, regex.findall(pattern, text)), dtype=np.int64))
    content = as_array(text)
    begins_character = (content & 0xC0) != 0x80
    ours = np.cumsum(begins_character)[word_ends(content, pattern) - 1]
    if len(ours) != len(theirs) or (ours != theirs).any():
        wrong = sorted(set(ours.tolist()) ^ set(theirs.tolist()))[0]
        pytest.fail(f"a cut differs in the middle of {text[max(0, wrong - 9) : wrong + 9]!a}")


def test_patterns_of_ones_own_are_not_compiled():
    assert word_rule(r"\w+|\W") is None
    assert word_rule(GPT2_PATTERN + "|x") is None
    rules = [word_rule(pattern) for pattern in PATTERNS.values()]
    assert None not in rules
    assert len(set(rules)) == len(rules)
    with pytest.raises(AssertionError, match="the lesson"):
        word_ends(as_array("a"), r"\w+|\W")


def test_no_text_has_no_words():
    assert word_ends(as_array(""), GPT2_PATTERN).tolist() == []
