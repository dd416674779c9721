"""Compiled code is used for large texts and known patterns, but not with a learner's tokenizer."""

import pytest

from tokenizer_bpe import merge_training
from tokenizer_bpe.compiled import lesson_or_compiled
from tokenizer_bpe.compiled import merge_training as compiled_training
from tokenizer_bpe.compiled import tokenizer as compiled_tokenizer
from tokenizer_bpe.compiled.lesson_or_compiled import (
    COMPILED_FROM_BYTES,
    encode_file,
    takes_compiled,
    tokenizer_for,
    train_bpe,
)
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


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_bytes("the cät<|end|> the ab cab\r\n abab<|end|><|end|>東京 ".encode() * 300)
    return path


def compiled_calls(monkeypatch, module, name):
    """Record calls of this compiled function."""
    calls = []
    function = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *given: calls.append(given) or function(*given))
    return calls


def test_training_takes_compiled_code_for_a_large_file(path, monkeypatch):
    calls = compiled_calls(monkeypatch, compiled_training, "train_bpe")
    expected = merge_training.train_bpe(path, 280, ["<|end|>"])
    assert train_bpe(path, 280, ["<|end|>"]) == expected
    assert train_bpe(str(path), 280, ["<|end|>"], num_processes=2) == expected
    assert calls == []
    monkeypatch.setattr(lesson_or_compiled, "COMPILED_FROM_BYTES", path.stat().st_size)
    assert train_bpe(path, 280, ["<|end|>"], num_processes=2) == expected
    assert calls == [(path, 280, ["<|end|>"], GPT2_PATTERN, 2)]
    assert train_bpe(path, 280, ["<|end|>"], r"\w+|\W")[1]
    assert len(calls) == 1, "a pattern that is not compiled goes to the lesson"
    with pytest.raises(ValueError, match=r"none\.txt: no such file"):
        train_bpe(path.with_name("none.txt"), 280, [])


@pytest.mark.parametrize("pattern", [GPT2_PATTERN, GPT4_PATTERN, r"\w+|\W"])
def test_a_file_is_encoded_in_parts(path, monkeypatch, pattern):
    tokenizer = Tokenizer(*train_bpe(path, 280, ["<|end|>"]), ["<|end|>"], pattern)
    expected = tokenizer.encode(path.read_bytes().decode())
    blocks = lesson_or_compiled.text_file_blocks
    monkeypatch.setattr(
        lesson_or_compiled, "text_file_blocks", lambda *a: blocks(*a, block_bytes=100)
    )
    calls = compiled_calls(monkeypatch, compiled_tokenizer, "text_spans")
    for threshold in (COMPILED_FROM_BYTES, 1):
        monkeypatch.setattr(lesson_or_compiled, "COMPILED_FROM_BYTES", threshold)
        parts = [part.tolist() for part in encode_file(tokenizer, path)]
        assert [token_id for part in parts for token_id in part] == expected
        assert len(parts) > 9
        assert bool(calls) == (threshold == 1 and pattern in (GPT2_PATTERN, GPT4_PATTERN))
