"""The metadata of a tokenizer, read back by our reader: the same vocabulary, merges and pattern."""

import pytest

from inference.engine.text_side import TextSide
from inference.quantized_files.gguf_tokenizer import tokenizer_metadata
from lm_core.formats.gguf_container import GGUFFile
from lm_core.special_tokens import SPECIAL_TOKENS
from tokenizer_bpe.formats.gguf_vocabulary import read_gguf_vocabulary
from tokenizer_bpe.pretokenization import GPT2_PATTERN, gpt4_pattern, split_digits_pattern
from tokenizer_bpe.templates.added_tokens import TextToken
from tokenizer_bpe.tokenizer import Tokenizer

BYTES = {byte: bytes([byte]) for byte in range(256)}
NAMES = {
    GPT2_PATTERN: "gpt-2",
    gpt4_pattern(3): "dbrx",
    gpt4_pattern(1): "qwen2",
    split_digits_pattern(individual=True): "smollm",
}


@pytest.mark.parametrize("pattern", NAMES)
def test_the_vocabulary_is_the_same(pattern):
    special = [*SPECIAL_TOKENS, TextToken("<think>")]
    made = Tokenizer(BYTES | {256: b"ab"}, [(b"a", b"b")], special, pattern)
    metadata = tokenizer_metadata(TextSide(made), {}, 264)
    assert metadata["tokenizer.ggml.pre"] == NAMES[pattern]
    assert metadata["tokenizer.ggml.token_type"][256:] == [1, 3, 3, 3, 4, 5, 5, 5]
    found = read_gguf_vocabulary(GGUFFile(metadata, {}))
    assert found.vocab == made.vocab and found.merges == made.merges and found.pattern == pattern
    assert found.special_tokens == special
    assert [type(text) for text in found.special_tokens] == [str, str, str, TextToken]


def test_tokens_that_a_file_cannot_tell_apart_are_refused():
    made = Tokenizer(BYTES, [], ["Ġ"], GPT2_PATTERN)  # the printable form of a space
    with pytest.raises(ValueError, match="two tokens have the text 'Ġ'"):
        tokenizer_metadata(TextSide(made), {}, 257)
