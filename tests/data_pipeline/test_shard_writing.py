"""Documents to shards and back, with a tokenizer of bytes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.shard_writing import (
    ShardSettings,
    encode_as_plain_text,
    split_documents,
    split_of,
    write_token_shards,
)
from lm_core.formats.documents import Document, document_id, write_documents
from lm_core.formats.token_shards import TokenShards
from lm_core.special_tokens import END_OF_TEXT, SPECIAL_TOKENS


class ByteTokenizer:
    """A tokenizer whose ids 0 to 255 are bytes; special tokens follow, and are recognized in the
    text.
    """

    def __init__(self, special_tokens: tuple[str, ...] = SPECIAL_TOKENS) -> None:
        self.special_tokens = {name: 256 + i for i, name in enumerate(special_tokens)}
        self.vocab_size = 256 + len(special_tokens)

    def encode(self, text: str) -> list[int]:
        for name in sorted(self.special_tokens, key=len, reverse=True):
            before, found, after = text.partition(name)
            if found:
                return [*self.encode(before), self.special_tokens[name], *self.encode(after)]
        return list(text.encode("utf-8"))

    def byte_lengths(self) -> np.ndarray:
        return np.array([1] * 256 + [0] * len(self.special_tokens), dtype=np.int32)


def write_texts(folder, texts):
    documents = [Document(document_id(text), text, "test", "") for text in texts]
    write_documents(folder, documents, [{"documents_out": len(documents)}])
    return {document.id: document.text for document in documents}


def texts_in(shards: TokenShards) -> list[str]:
    ids = shards.read(0, shards.num_tokens)
    pieces = np.split(ids, np.flatnonzero(ids == 256) + 1)
    assert len(pieces[-1]) == 0, "the last document has its end-of-text token"
    return [bytes(piece[:-1].astype(np.uint8)).decode("utf-8") for piece in pieces[:-1]]


def test_shards_hold_every_document_once_in_its_split(tmp_path):
    texts = [f"Document {n}: naïve café" for n in range(200)]
    texts[5] = f"This README explains {END_OF_TEXT} and <|im_start|>."
    by_id = write_texts(tmp_path / "documents", texts)
    settings = ShardSettings(validation_share=0.2, tokens_per_file=500)
    summary = write_token_shards(
        tmp_path / "documents", ByteTokenizer(), "abc", tmp_path / "shards", settings
    )
    for split in ("train", "validation"):
        shards = TokenShards.open(tmp_path / "shards", split, "abc")
        expected = [text for key, text in by_id.items() if split_of(key, 0.2) == split]
        assert texts_in(shards) == expected
        assert summary["documents"][split] == len(expected) == shards.num_documents
        assert summary["tokens"][split] == shards.num_tokens
    assert shards.token_byte_lengths[256] == 0


def test_the_split_depends_on_the_document_alone():
    ids = [document_id(str(n)) for n in range(2000)]
    held_out = [key for key in ids if split_of(key, 0.1) == "validation"]
    assert 140 <= len(held_out) <= 260  # 200 expected, standard deviation 13
    assert all(split_of(key, 0.2) == "validation" for key in held_out), (
        "a larger share includes the smaller one"
    )
    assert split_of("0" * 16, 1e-9) == "validation"
    assert split_of("f" * 16, 0.999999) == "train"


def test_the_end_of_one_long_text_is_held_out_at_the_exact_character(tmp_path):
    text = "".join(chr(97 + n % 26) for n in range(1005))
    write_texts(tmp_path / "documents", [text])
    settings = ShardSettings(validation_share=0.1, held_out="end")
    write_token_shards(tmp_path / "documents", ByteTokenizer(), "x", tmp_path / "shards", settings)
    train, validation = (
        TokenShards.open(tmp_path / "shards", split) for split in ("train", "validation")
    )
    assert bytes(train.read(0, train.num_tokens).astype(np.uint8)).decode() == text[:904], (
        "int(0.9 n) characters, and no end-of-text token inside the text"
    )
    assert texts_in(validation) == [text[904:]]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.floats(0.01, 0.99))
def test_the_parts_of_a_split_at_the_end_are_the_text(tmp_path_factory, lengths, share):
    folder = tmp_path_factory.mktemp("documents")
    texts = ["é" * length for length in lengths]
    write_texts(folder, texts)
    parts = list(split_documents(folder, ShardSettings(validation_share=share, held_out="end")))
    train = sum(len(part.document.text) for part in parts if part.split == "train")
    assert train == int(sum(lengths) * (1 - share))
    assert [part.split for part in parts] == sorted(part.split for part in parts)
    assert "".join(p.document.text + "." * p.is_whole for p in parts) == ".".join(texts) + "."


@pytest.mark.parametrize("held_out", ["end", "documents"])
def test_a_document_without_text_is_in_no_split(tmp_path, held_out):
    write_texts(tmp_path, ["", "ab", "", "cd"])
    parts = split_documents(tmp_path, ShardSettings(held_out=held_out, validation_share=0.5))
    assert [part.document.text for part in parts] == ["ab", "cd"]


@pytest.mark.parametrize(
    ("share", "texts", "ends"),
    [(1.0, ["abcde", "fgh"], 2), (0.5, ["abcd"], 0), (0.7, ["abcde"], 1), (1e-9, ["a"], 0)],
)
def test_a_share_of_the_training_split_is_its_beginning(tmp_path, share, texts, ends):
    # The validation split holds the last two of ten characters, in one document of its own.
    write_texts(tmp_path / "documents", ["abcde", "fgh", "ij"])
    settings = ShardSettings(validation_share=0.2, held_out="end", training_share=share)
    out = tmp_path / "shards"
    summary = write_token_shards(tmp_path / "documents", ByteTokenizer(), "x", out, settings)
    train, validation = (TokenShards.open(out, split) for split in ("train", "validation"))
    ids = train.read(0, train.num_tokens)
    assert bytes(ids[ids < 256].astype(np.uint8)).decode() == "".join(texts)
    assert (ids == 256).sum() == ends
    assert texts_in(validation) == ["ij"]
    assert summary["documents"] == {"train": len(texts), "validation": 1}


@pytest.mark.parametrize(("share", "split"), [(1e-12, "validation"), (0.999999999999, "train")])
def test_an_empty_split_is_refused_and_nothing_is_written(tmp_path, share, split):
    write_texts(tmp_path / "documents", ["one", "two"])
    with pytest.raises(ValueError, match=f"no document falls into the {split} split: 2 documents"):
        write_token_shards(
            tmp_path / "documents",
            ByteTokenizer(),
            "x",
            tmp_path / "shards",
            ShardSettings(validation_share=share),
        )
    assert not (tmp_path / "shards").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["documents"]


def test_a_tokenizer_without_end_of_text_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no <\|endoftext\|> token"):
        write_token_shards(tmp_path, ByteTokenizer(()), "x", tmp_path / "shards", ShardSettings())


@given(st.lists(st.sampled_from([*"<|>ab", "aab", "ab", END_OF_TEXT]), max_size=12).map("".join))
def test_special_tokens_in_a_text_are_plain_characters(text):
    tokenizer = ByteTokenizer((END_OF_TEXT, "aab", "ab"))
    assert encode_as_plain_text(tokenizer, text) == list(text.encode("utf-8"))
