"""A checkpoint is not trained further or evaluated with another tokenizer than its own."""

import shutil

import pytest

from lm_course.model_steps.checkpoint_companions import check_tokenizer
from tokenizer_bpe.tokenizer import Tokenizer

BYTES = {byte: bytes([byte]) for byte in range(256)}


def test_check_tokenizer(tmp_path):
    checkpoint = tmp_path / "step_000001"
    checkpoint.mkdir()
    Tokenizer(BYTES | {256: b"ab"}, [(b"a", b"b")]).save(checkpoint / "tokenizer.json")
    shutil.copy(checkpoint / "tokenizer.json", tmp_path / "tokenizer.json")
    assert check_tokenizer(checkpoint, tmp_path / "tokenizer.json") == checkpoint
    # The same number of entries, but other merges: only the hash tells them apart.
    Tokenizer(BYTES | {256: b"ba"}, [(b"b", b"a")]).save(tmp_path / "tokenizer.json")
    with pytest.raises(ValueError, match=r"trained with tokenizer .* but .*tokenizer.json is"):
        check_tokenizer(checkpoint, tmp_path / "tokenizer.json")
