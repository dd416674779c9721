"""Text tokens are text, and only templates write control tokens; the oracles are `tokenizers` and
`transformers`.
"""

import json
import pickle

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from lm_core.user_error import UserError
from tokenizer_bpe.compiled.tokenizer import Tokenizer as CompiledTokenizer
from tokenizer_bpe.inspection.token_display import token_pieces
from tokenizer_bpe.merge_training import train_bpe_from_counts
from tokenizer_bpe.templates.added_tokens import (
    TextToken,
    added_token_rows,
    control_tokens,
    encode_as_text,
)
from tokenizer_bpe.tokenizer import Tokenizer
from tokenizer_bpe.tokenizer_file import hugging_face_files, tokenizer_hash, tokenizer_json

ADDED = ["<|end|>", TextToken("  "), TextToken("    "), TextToken("<think>"), "<|x y|>"]
COUNTS = {" the": 9, "the": 5, " other": 3, "<|": 4, "|>": 4, "end": 4}


def made(added=ADDED) -> Tokenizer:
    return Tokenizer(*train_bpe_from_counts(COUNTS, 275 + len(added), []), added)


def theirs(tokenizer) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_str(tokenizer_json(tokenizer).decode())


def test_the_flag_survives_every_way(tmp_path):
    ours = made()
    ours.save(tmp_path / "tokenizer.json")
    again = Tokenizer.from_hugging_face(tmp_path / "tokenizer.json")
    theirs(ours).save(str(tmp_path / "resaved.json"))
    for found in (
        again,
        Tokenizer.from_hugging_face(tmp_path / "resaved.json"),
        CompiledTokenizer.of(again),
        pickle.loads(pickle.dumps(again)),
    ):
        assert found.special_tokens == ours.special_tokens
        assert set(control_tokens(found)) == {"<|end|>", "<|x y|>"}
    flags = {t["content"]: t["special"] for t in json.loads(tokenizer_json(again))["added_tokens"]}
    assert flags == {text: not isinstance(text, TextToken) for text in ADDED}
    assert tokenizer_hash(tmp_path / "resaved.json") == tokenizer_hash(tmp_path / "tokenizer.json")


def test_they_skip_what_we_call_control():
    ours = made()
    ids = list(ours.special_tokens.values())
    kept = [i for i in ids if i not in control_tokens(ours).values()]
    assert theirs(ours).decode(ids, skip_special_tokens=True) == ours.decode(kept)


def test_text_tokens_count_for_their_bytes():
    ours = made()
    lengths = ours.byte_lengths()
    assert {text: int(lengths[i]) for text, i in ours.special_tokens.items()} == {
        "<|end|>": 0,
        "  ": 2,
        "    ": 4,
        "<think>": 7,
        "<|x y|>": 0,
    }
    text = "def f():\n    return '<think>'"
    assert lengths[ours.encode(text)].sum() == len(text.encode())
    assert CompiledTokenizer.of(ours).byte_lengths().tolist() == lengths.tolist()
    assert [p.is_special for p in token_pieces(ours, "<think><|end|>")] == [False, True]


pieces = st.lists(
    st.sampled_from(["<|end|>", "  ", "<think>", "<|x y|>", "<|", "|>", " the", "end", " ", "é"])
)


@given(pieces)
def test_what_is_encoded_as_text_has_no_control_token(pieces):
    """The oracle is `split_special_tokens` of `transformers`, their `encode_special_tokens`."""
    ours, text = made(), "".join(pieces)
    other = theirs(ours)
    other.encode_special_tokens = True
    ids = encode_as_text(ours, text)
    assert ids == other.encode(text).ids
    assert ours.decode(ids) == text
    assert not set(ids) & set(control_tokens(ours).values())


def test_a_control_token_that_the_merges_make_is_refused():
    vocab, merges = train_bpe_from_counts({"<s>": 9}, 258, [])
    tokenizer = Tokenizer(vocab, merges, ["<s>"], r"[\s\S]+")
    assert tokenizer.encode("<s>") == [257]
    with pytest.raises(
        UserError, match="the text holds '<s>', which this vocabulary cannot encode"
    ):
        encode_as_text(tokenizer, "a<s>")
    newline = Tokenizer({byte: bytes([byte]) for byte in range(256)}, [], ["\n"])
    with pytest.raises(UserError, match=r"the text holds '\\n', which"):
        encode_as_text(newline, "a\nb")


def test_an_ordinary_token_with_the_same_bytes_keeps_its_id(tmp_path):
    """GPT-NeoX has two spaces twice: made by a merge, and added."""
    vocab, merges = train_bpe_from_counts({"  ": 9, " the": 3}, 258, [])
    assert vocab[256] == b"  "
    content = json.loads(tokenizer_json(Tokenizer(vocab, merges)))
    token = {"id": max(vocab) + 1, "content": "  ", "special": False}
    flags = dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word"), False)
    content["added_tokens"] = [token | flags]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    found = Tokenizer.from_hugging_face(tmp_path / "tokenizer.json")
    other = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in ("a  b", " the   other", "    "):
        assert found.encode(text) == other.encode(text).ids
    found.save(tmp_path / "again.json")
    assert Tokenizer.from_hugging_face(tmp_path / "again.json").vocab == found.vocab


def test_auto_tokenizer_agrees(tmp_path):
    ours = made()
    roles = {"eos_token": "<|end|>"}
    for name, content in hugging_face_files(ours, None, roles).items():
        (tmp_path / name).write_bytes(content)
    other = AutoTokenizer.from_pretrained(tmp_path)
    text = "x  <think> the<|end|>    <|x y|>"
    assert other(text)["input_ids"] == ours.encode(text)
    skipped = other.decode(ours.encode(text), skip_special_tokens=True)
    silent = set(control_tokens(ours).values())
    assert skipped == ours.decode(i for i in ours.encode(text) if i not in silent)


def test_rows_of_a_file_are_in_the_order_of_the_ids() -> None:
    rows = added_token_rows({"<|b|>": 7, TextToken("  "): 2})
    assert [(row["id"], row["content"], row["special"]) for row in rows] == [
        (2, "  ", False),
        (7, "<|b|>", True),
    ]
