"""A tokenizer.json of characters: what `tokenizers` and `transformers` make of it, and what is
refused.
"""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer as HuggingFaceTokenizer
from transformers import AutoTokenizer

from lm_core.special_tokens import END_OF_TEXT, SPECIAL_TOKENS
from lm_core.user_error import UserError
from tokenizer_bpe import tokenizer_file
from tokenizer_bpe.characters.character_tokenizer import CharacterTokenizer, characters_of
from tokenizer_bpe.characters.either_kind import (
    hugging_face_files,
    read_tokenizer,
    tokenizer_hash,
)
from tokenizer_bpe.chat_template import encode_chat
from tokenizer_bpe.tokenizer import Tokenizer

TEXT = "Hi user, assistant!\r\n\té漢😀 Ġ"


@pytest.fixture
def tokenizer() -> CharacterTokenizer:
    return CharacterTokenizer.of(characters_of([TEXT]), SPECIAL_TOKENS)


def test_tokenizers_reads_the_file_alike(tokenizer: CharacterTokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    assert (tmp_path / "merges.txt").read_text() == "#version: 0.2\n"
    theirs = HuggingFaceTokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = f"{TEXT}{END_OF_TEXT}i"
    assert theirs.encode(text).ids == tokenizer.encode(text)
    assert theirs.decode(tokenizer.encode(text), skip_special_tokens=False) == text
    with pytest.raises(Exception, match="UNK"):
        theirs.encode("Z")


def test_our_reader_gives_the_same_tokenizer(tokenizer: CharacterTokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    again = read_tokenizer(path)
    assert isinstance(again, CharacterTokenizer)
    assert (again.vocab, again.special_tokens) == (tokenizer.vocab, tokenizer.special_tokens)
    other = CharacterTokenizer.of(characters_of([TEXT, "Z"]), SPECIAL_TOKENS)
    other.save(tmp_path / "other.json")
    hashes = [tokenizer_hash(path), tokenizer_hash(tmp_path / "other.json")]
    assert len(set(hashes)) == 2
    assert all(len(found) == 64 for found in hashes)


def test_transformers_reads_the_files_of_a_checkpoint(
    tokenizer: CharacterTokenizer, tmp_path: Path
) -> None:
    for name, content in hugging_face_files(tokenizer).items():
        (tmp_path / name).write_bytes(content)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs(TEXT)["input_ids"] == tokenizer.encode(TEXT)
    assert theirs.decode(tokenizer.encode(TEXT)) == TEXT
    messages = [{"role": "user", "content": "Hi!"}]
    ids, _ = encode_chat(tokenizer, messages, add_generation_prompt=True)
    assert theirs.apply_chat_template(messages, add_generation_prompt=True)["input_ids"] == ids


def test_byte_level_bpe_is_read_as_before(tmp_path: Path) -> None:
    vocab = {byte: bytes([byte]) for byte in range(256)} | {256: b"ab"}
    bpe = Tokenizer(vocab, [(b"a", b"b")], SPECIAL_TOKENS)
    bpe.save(tmp_path / "tokenizer.json")
    again = read_tokenizer(tmp_path / "tokenizer.json")
    assert type(again) is Tokenizer
    assert again.encode("ab") == [256]
    path = tmp_path / "tokenizer.json"
    assert tokenizer_hash(path) == tokenizer_file.tokenizer_hash(path)
    assert hugging_face_files(bpe) == tokenizer_file.hugging_face_files(bpe)


def changed(content: dict, *keys: str, value: object) -> None:
    for key in keys[:-1]:
        content = content[key]
    content[keys[-1]] = value


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("model", "vocab"), {"a": 0, "b": 0}, "two characters have the same id"),
        (("model", "vocab"), {"a": -1}, "or an id is negative"),
        (("model", "vocab"), {"ab": 0}, "token 0 is 'ab', expected one character"),
        (("model", "vocab"), None, "damaged tokenizer of characters"),
        (("added_tokens",), [{"content": "x", "id": 0, "special": True}], "added tokens are not"),
        (("added_tokens",), [{"id": 0}], "damaged tokenizer of characters"),
        (("pre_tokenizer",), None, "the model is 'WordLevel', expected 'BPE'"),
    ],
)
def test_a_changed_file_is_refused(
    tokenizer: CharacterTokenizer,
    tmp_path: Path,
    keys: tuple[str, ...],
    value: object,
    message: str,
) -> None:
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    content = json.loads(path.read_text(encoding="utf-8"))
    if keys == ("model", "vocab"):
        content["added_tokens"] = []
    changed(content, *keys, value=value)
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        read_tokenizer(path)
    path.write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        read_tokenizer(path)
    path.unlink()
    with pytest.raises(UserError, match="no such file"):
        tokenizer_hash(path)
