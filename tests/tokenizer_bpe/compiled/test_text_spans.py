"""The spans between special tokens are the pieces that the lesson cuts."""

import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tokenizer_bpe.compiled.text_spans import (
    NO_SPECIAL,
    padded_text,
    special_token_bytes,
    text_spans,
)
from tokenizer_bpe.pretokenization import split_special_tokens

TOKENS = ["<|a|>", "<|a|><|a|>", "é", "aa", "漢é", "<|a", ".*"]
texts = st.lists(
    st.sampled_from([*TOKENS, *"a b<|>漢é.*", "x", "語"]), max_size=20
).map("".join)  # fmt: skip


@given(text=texts, tokens=st.lists(st.sampled_from(TOKENS), unique=True))
def test_spans_and_special_tokens_are_the_pieces_of_the_lesson(text, tokens):
    ids = {token.encode(): number for number, token in enumerate(tokens)}
    spans = text_spans(text.encode(), ids)
    pieces = []
    for start, stop, special in zip(*map(np.ndarray.tolist, spans[1:]), strict=True):
        pieces.append(spans.text.letters[start:stop].tobytes().decode())
        pieces.append("" if special == NO_SPECIAL else tokens[special])
    assert [piece for piece in pieces if piece] == split_special_tokens(text, tokens)
    assert "".join(pieces) == text
    assert spans.specials[-1] == NO_SPECIAL


def test_types_are_those_that_compiled_code_was_compiled_for():
    for content in (b"", b"a<|a|>b"):
        spans = text_spans(content, special_token_bytes(["<|a|>"]))
        assert spans.text.letters.dtype == np.uint8
        assert [array.dtype for array in spans[1:]] == [np.int64, np.int64, np.int64]


@given(content=st.binary(max_size=20))
def test_a_padded_text_can_be_read_eight_bytes_at_a_time(content):
    for letters in (content, np.frombuffer(content, dtype=np.uint8)):
        text = padded_text(letters)
        assert text.letters.tobytes() == content
        assert len(text.eights) >= len(content)
        for place in range(len(content)):
            eight = (content + bytes(8))[place : place + 8]
            assert int(text.eights[place]) == int.from_bytes(eight, sys.byteorder)


def test_a_padded_text_is_a_copy():
    letters = np.zeros(9, dtype=np.uint8)
    text = padded_text(letters)
    letters[:] = 7
    assert not text.letters.any()


def test_tokens_as_bytes():
    assert list(special_token_bytes(["é", "a"])) == [b"\xc3\xa9", b"a"]
