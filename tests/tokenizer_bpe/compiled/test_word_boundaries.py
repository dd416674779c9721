"""The state machine cuts where `regex` cuts: for every code point, and in the hard cases."""

from itertools import pairwise

import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

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


@every_pattern
def test_every_code_point_in_several_contexts(pattern):
    """Each context tests another alternative: inside a word, after a space, after an apostrophe, at
    the end of a run, before a newline.
    """
    for plane in range(17):
        codes = [plane << 16 | code for code in range(1 << 16)]
        characters = [chr(code) for code in codes if not 0xD800 <= code < 0xE000]
        text = "".join([f"a{c}b {c}1'{c}{c}\n x" for c in characters])
        theirs = np.cumsum(np.fromiter(map(len, regex.findall(pattern, text)), dtype=np.int64))
        content = as_array(text)
        begins_character = (content & 0xC0) != 0x80
        ours = np.cumsum(begins_character)[word_ends(content, pattern) - 1]
        if len(ours) != len(theirs) or (ours != theirs).any():
            wrong = sorted(set(ours.tolist()) ^ set(theirs.tolist()))[0]
            around = text[max(0, wrong - 9) : wrong + 9]
            pytest.fail(f"plane {plane}: a cut differs in the middle of {around!a}")


def test_the_classes_are_those_of_the_regex_module():
    classes = character_classes()
    assert classes.shape == (0x110000,)
    kinds = {"a": LETTER, "漢": LETTER, "٣": NUMBER, "½": NUMBER, "\x85": SPACE, "\x1c": OTHER}
    assert {character: classes[ord(character)] for character in kinds} == kinds
    for kind, pattern in ((LETTER, r"\p{L}"), (NUMBER, r"\p{N}"), (SPACE, r"\s")):
        matching = [code for code in range(0, 0x110000, 7) if regex.match(pattern, chr(code))]
        assert np.flatnonzero(classes[::7] == kind).tolist() == [code // 7 for code in matching]


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
