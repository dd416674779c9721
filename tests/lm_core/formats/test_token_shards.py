"""Shards return exactly the ids that were written, and files that do not fit them are refused."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_core.formats.token_shards import ShardWriter, TokenShards


def write(folder: Path, documents: list[list[int]], vocab_size: int = 300, **options: int) -> None:
    lengths = np.ones(vocab_size, dtype=np.int32)
    with ShardWriter(folder, "hash-a", vocab_size, lengths, **options) as writer:
        for document in documents:
            writer.add("train", document)


def test_reading_crosses_the_boundaries_of_files(tmp_path: Path) -> None:
    documents = [[1, 2, 3, 0], [4, 5, 0], [6, 0], [7, 8, 9, 10, 0]]
    write(tmp_path / "shards", documents, tokens_per_file=4)
    assert len(list((tmp_path / "shards").glob("train-0*.bin"))) == 3
    shards = TokenShards.open(tmp_path / "shards", "train")
    flat = [token for document in documents for token in document]
    assert shards.num_tokens == len(flat)
    assert shards.document_starts.tolist() == [0, 4, 7, 9]
    for start in range(len(flat) + 1):
        for count in range(len(flat) - start + 1):
            assert shards.read(start, count).tolist() == flat[start : start + count]


@given(st.lists(st.lists(st.integers(0, 70_000), min_size=1, max_size=9), min_size=1, max_size=9))
def test_round_trip_with_ids_past_16_bits(tmp_path_factory: pytest.TempPathFactory, documents):
    folder = tmp_path_factory.mktemp("run") / "shards"
    write(folder, documents, vocab_size=70_001, tokens_per_file=5)
    shards = TokenShards.open(folder, "train")
    assert shards.read(0, shards.num_tokens).tolist() == list(itertools.chain(*documents))


def test_small_vocabularies_take_two_bytes_a_token(tmp_path: Path) -> None:
    write(tmp_path / "shards", [[1, 2, 299]])
    assert (tmp_path / "shards" / "train-00000.bin").read_bytes() == b"\x01\x00\x02\x00\x2b\x01"


def test_a_failure_while_writing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="token id 300 is outside the vocabulary of 300"):
        write(tmp_path / "shards", [[1], [300]])
    assert list(tmp_path.iterdir()) == []


def test_another_tokenizer_is_refused_and_both_are_named(tmp_path: Path) -> None:
    write(tmp_path / "shards", [[1]])
    TokenShards.open(tmp_path / "shards", "train", tokenizer_hash="hash-a")
    with pytest.raises(ValueError, match=r"made with tokenizer hash-a, .* is hash-b; .*lm data sh"):
        TokenShards.open(tmp_path / "shards", "train", tokenizer_hash="hash-b")


def test_missing_split_truncated_file_and_newer_format(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"does not exist; make it with `lm data shard RECIPE`"):
        TokenShards.open(tmp_path / "shards", "train")
    write(tmp_path / "shards", [[1, 2, 3]])
    with pytest.raises(ValueError, match="no split 'validation'; it has train"):
        TokenShards.open(tmp_path / "shards", "validation")
    binary = tmp_path / "shards" / "train-00000.bin"
    binary.write_bytes(binary.read_bytes()[:-1])
    with pytest.raises(ValueError, match="has 5 bytes, but the manifest says 6 bytes"):
        TokenShards.open(tmp_path / "shards", "train")
    manifest = tmp_path / "shards" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format_version": 2}))
    with pytest.raises(ValueError, match="format version 2, but this code reads 1"):
        TokenShards.open(tmp_path / "shards", "train")


def test_reading_past_the_end_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "shards", [[1, 2, 3]])
    with pytest.raises(ValueError, match="train has 3"):
        TokenShards.open(tmp_path / "shards", "train").read(1, 3)
