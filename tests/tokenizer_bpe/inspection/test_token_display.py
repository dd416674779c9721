"""Pieces, joined, are the text and are always printable; merge steps end in the ids of `encode`."""

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenizer_bpe.inspection.token_display import (
    MergeStep,
    TextCounts,
    VisiblePart,
    merge_histories,
    merge_steps,
    text_counts,
    token_pieces,
    visible_parts,
    visible_text,
)
from tokenizer_bpe.merge_training import train_bpe
from tokenizer_bpe.pretokenization import GPT2_PATTERN, GPT4_PATTERN
from tokenizer_bpe.tokenizer import Tokenizer

END = "<|endoftext|>"
BYTES = {byte: bytes([byte]) for byte in range(256)}
both_patterns = pytest.mark.parametrize("pattern", [GPT2_PATTERN, GPT4_PATTERN])
# These texts contain the training text of the tokenizers, so that merges happen.
texts = st.one_of(
    st.text(max_size=30),
    st.lists(
        st.sampled_from(["token", "the ", " of", "izer", "aaaa", "\n", "  ", "é", "漢", END, "<|"]),
        max_size=12,
    ).map("".join),
)


@pytest.fixture(scope="module")
def trained():
    """Train tokenizers on this file: pattern -> Tokenizer."""
    return {
        pattern: Tokenizer(*train_bpe(Path(__file__), 500, [END], pattern), [END], pattern)
        for pattern in (GPT2_PATTERN, GPT4_PATTERN)
    }


@both_patterns
@given(text=texts)
def test_pieces_join_to_the_bytes_of_the_text(trained, pattern, text):
    pieces = token_pieces(trained[pattern], text)
    assert b"".join(piece.token for piece in pieces) == text.encode()
    assert [piece.token_id for piece in pieces] == trained[pattern].encode(text)
    assert sum(piece.is_special for piece in pieces) == text.count(END)
    assert text_counts(pieces) == TextCounts(len(pieces), len(text.encode()))


def test_the_line_of_counts():
    assert TextCounts(3, 12_345).line == "3 tokens · 12,345 bytes · 4115.00 bytes per token"
    assert TextCounts(1, 1).line == "1 token · 1 byte · 1.00 bytes per token"
    assert TextCounts(0, 0).line == "0 tokens · 0 bytes"


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (b" the", "␣the"),
        (b"a\n\n", "a⏎⏎"),
        (b"\t\r\n", "⇥<0d>⏎"),
        ("é漢".encode(), "é漢"),
        ("漢".encode()[:2], "<e6><bc>"),
        (b"a\xff ", "a<ff>␣"),
        (b"\x1b[31m", "<1b>[31m"),
        ("\u202e\u200b\xa0".encode(), "<e2><80><ae><e2><80><8b><c2><a0>"),
        ("e\u0301".encode(), "e\u0301"),
        ("\u0301e".encode(), "◌\u0301e"),
        (" \u093e\u0902".encode(), "␣◌\u093e\u0902"),
        (b"", ""),
    ],
)
def test_what_a_token_looks_like(token, shown):
    assert visible_text(token) == shown


def test_marks_can_be_told_from_the_characters_that_they_look_like():
    assert visible_parts("␣ ".encode()) == [VisiblePart("␣", False), VisiblePart("␣", True)]
    assert visible_parts(b"<e2>\xe2") == [VisiblePart("<e2>", False), VisiblePart("<e2>", True)]


@given(token=st.one_of(st.binary(max_size=12), st.text(max_size=12).map(str.encode)))
def test_whatever_a_token_holds_it_can_be_shown(token):
    shown = visible_text(token)
    assert shown.isprintable() and " " not in shown
    assert not shown or not unicodedata.category(shown[0]).startswith("M")
    assert bool(shown) == bool(token)


def test_the_steps_of_a_word_worked_by_hand():
    """aaab: rank 0 merges from the left and leaves no ab for rank 1; so rank 2 comes next."""
    ranks = {(b"a", b"a"): 0, (b"aa", b"ab"): 1, (b"a", b"b"): 2}
    a, b = b"a", b"b"
    assert merge_steps(ranks, b"aaab") == [
        MergeStep(None, [a, a, a, b], []),
        MergeStep(0, [b"aa", a, b], [0]),
        MergeStep(2, [b"aa", b"ab"], [1]),
        MergeStep(1, [b"aaab"], [0]),
    ]
    assert merge_steps(ranks, b"aabaa")[1] == MergeStep(0, [b"aa", b, b"aa"], [0, 2])
    assert merge_steps(ranks, b"b") == [MergeStep(None, [b], [])]


@both_patterns
@given(text=texts)
def test_the_steps_end_in_what_encode_gives(trained, pattern, text):
    tokenizer = trained[pattern]
    histories = list(merge_histories(tokenizer, text))
    assert [i for history in histories for i in history.ids] == tokenizer.encode(text)
    assert "".join(history.word for history in histories) == text
    for history in histories:
        assert [tokenizer.vocab[i] for i in history.ids] == history.steps[-1].tokens
        assert history.is_special == (history.word == END)
        for step in history.steps:
            assert b"".join(step.tokens) == history.word.encode()
        for before, step in zip(history.steps, history.steps[1:], strict=False):
            left, right = tokenizer.merges[step.rank]
            assert step.made
            assert {step.tokens[place] for place in step.made} == {left + right}
            assert len(before.tokens) - len(step.tokens) == len(step.made)


def test_a_special_token_is_one_step(trained):
    history = list(merge_histories(trained[GPT2_PATTERN], f"a{END}b"))[1]
    assert history.steps == [MergeStep(None, [END.encode()], [])]
    assert history.ids == [499]


def test_half_of_a_surrogate_pair_is_refused():
    tokenizer = Tokenizer(BYTES, [])
    for function in (token_pieces, lambda *given: list(merge_histories(*given))):
        with pytest.raises(ValueError, match=r"U\+D800, half of a surrogate pair"):
            function(tokenizer, "a\ud800")
