"""Compiled code is for large texts, known patterns, and nobody's own tokenizer."""

import pytest

from tokenizer_bpe.implementation import COMPILED_FROM_BYTES, takes_compiled, tokenizer_for
from tokenizer_bpe.pretokenization import GPT2_PATTERN, GPT4_PATTERN
from tokenizer_bpe.tokenizer import Tokenizer


@pytest.mark.parametrize(
    ("num_bytes", "pattern", "expected"),
    [
        (COMPILED_FROM_BYTES, GPT2_PATTERN, True),
        (COMPILED_FROM_BYTES, GPT4_PATTERN, True),
        (COMPILED_FROM_BYTES - 1, GPT2_PATTERN, False),
        (COMPILED_FROM_BYTES, r"\S+|\s+", False),
    ],
)
def test_takes_compiled(num_bytes, pattern, expected):
    assert takes_compiled(num_bytes, pattern) is expected


def test_a_learners_own_file_is_never_passed_over(tmp_path, monkeypatch):
    (tmp_path / "tokenizer_bpe").mkdir()
    (tmp_path / "tokenizer_bpe" / "merge_training.py").write_text("")
    monkeypatch.setenv("LM_STAND_INS", str(tmp_path))
    assert not takes_compiled(COMPILED_FROM_BYTES, GPT2_PATTERN)


def test_the_twin_gives_the_same_ids():
    vocab = {byte: bytes([byte]) for byte in range(256)} | {256: b"ab"}
    tokenizer = Tokenizer(vocab, [(b"a", b"b")], ["<|end|>"])
    twin = tokenizer_for(tokenizer, COMPILED_FROM_BYTES)
    assert twin is not tokenizer and tokenizer_for(tokenizer, 5) is tokenizer
    text = "ab<|end|>cab b"
    assert twin.encode(text) == tokenizer.encode(text)
