"""The tokenizer in a GGUF file gives the ids of `tokenizers` with the same vocabulary."""

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

from lm_core.formats.gguf_container import GGUFFile, read_gguf
from tokenizer_bpe.formats.gguf_vocabulary import (
    check_whole_words,
    end_ids,
    named_tokens,
    read_gguf_vocabulary,
)
from tokenizer_bpe.inspection.sample_sentences import SENTENCES
from tokenizer_bpe.merge_training import train_bpe_from_counts
from tokenizer_bpe.pretokenization import split_digits_pattern
from tokenizer_bpe.templates.added_tokens import control_tokens
from tokenizer_bpe.tokenizer import Tokenizer
from tokenizer_bpe.tokenizer_file import to_printable

SPECIAL = ["<|endoftext|>", "<|im_start|>"]
COUNTS = {" the": 9, "the": 5, " other": 3, "12": 2, " 12": 2, "é": 4}


@pytest.fixture(scope="module")
def metadata():
    vocab, merges = train_bpe_from_counts(COUNTS, 272, SPECIAL)
    special = {text.encode() for text in SPECIAL}
    tokens = [vocab[i].decode() if vocab[i] in special else to_printable(vocab[i]) for i in vocab]
    return {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if vocab[i] in special else 1 for i in vocab],
        "tokenizer.ggml.merges": [f"{to_printable(a)} {to_printable(b)}" for a, b in merges],
        "tokenizer.ggml.eos_token_id": tokens.index(SPECIAL[1]),
    }


def read(metadata) -> Tokenizer:
    return Tokenizer(*read_gguf_vocabulary(GGUFFile(metadata, {})))


def theirs(metadata) -> tokenizers.Tokenizer:
    """Build the tokenizer from the same parts as SmolLM2's own tokenizer.json."""
    tokens, merges = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.merges"]
    vocab = {token: i for i, token in enumerate(tokens)}
    made = tokenizers.Tokenizer(models.BPE(vocab, [tuple(m.split(" ")) for m in merges]))
    digits = pre_tokenizers.Digits(individual_digits=True)
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    made.decoder = decoders.ByteLevel()
    kinds = metadata["tokenizer.ggml.token_type"]
    made.add_special_tokens([token for token, kind in zip(tokens, kinds, strict=True) if kind == 3])
    return made


@given(pieces=st.lists(st.sampled_from(["the", " the", " 12", "é", *SPECIAL, "\n", "  ", "x"])))
def test_ids_are_those_of_tokenizers(metadata, pieces):
    text = "".join(pieces)
    assert read(metadata).encode(text) == theirs(metadata).encode(text).ids


def test_what_the_file_names(metadata):
    file = GGUFFile(metadata, {})
    assert read(metadata).special_tokens.keys() == set(SPECIAL)
    assert read(metadata).pattern == split_digits_pattern()
    assert named_tokens(file) == {"eos_token": "<|im_start|>"}
    assert end_ids(file) == [metadata["tokenizer.ggml.eos_token_id"]]


def test_added_tokens_are_found_and_unused_ones_have_no_id(metadata):
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    changed = metadata | {
        "tokenizer.ggml.tokens": [*tokens, "<think>", "[PAD]"],
        "tokenizer.ggml.token_type": [*types, 4, 5],
    }
    tokenizer = read(changed)
    assert tokenizer.encode("<think>") == [len(tokens)]
    assert tokenizer.vocab_size == len(tokens) + 1
    assert set(control_tokens(tokenizer)) == set(SPECIAL), "user-defined tokens are text"
    changed["tokenizer.ggml.eot_token_id"] = len(tokens)
    assert "<think>" in control_tokens(read(changed)), "a token that ends a message is not"


ALIASES = {
    "gpt-2": ["phi-2", "mpt", "olmo", "exaone4"],
    "llama-bpe": ["llama3", "llama-v3", "falcon3", "pixtral", "lfm2", "smaug-bpe", "glm4"],
    "qwen2": ["deepseek-r1-qwen", "megrez", "stablelm2"],
    "smollm": ["starcoder", "refact", "command-r", "codeshell"],
}


@pytest.mark.parametrize("name", ALIASES)
def test_other_names_of_the_same_pre_tokenizer(metadata, name):
    text = "It's 1234 of  them,\n\n12 x"
    expected = read(metadata | {"tokenizer.ggml.pre": name})
    for alias in ALIASES[name]:
        found = read(metadata | {"tokenizer.ggml.pre": alias})
        assert found.pattern == expected.pattern
        assert found.encode(text) == expected.encode(text)


REFUSED = [
    ({"tokenizer.ggml.model": "llama"}, "the tokenizer is 'llama'; this code reads byte-level BPE"),
    (
        {"tokenizer.ggml.pre": "tekken"},
        "tokenizer.ggml.pre is 'tekken': .* supported are gpt-2, llama-bpe, qwen2, smollm, and",
    ),
    ({"tokenizer.ggml.token_type": [1]}, "267 tokens but 1 token types"),
    ({"tokenizer.ggml.merges": ["th"]}, "merge 1 is 'th', expected two tokens"),
    ({"tokenizer.ggml.merges": ["qq q"]}, "no earlier merge makes b'qq'"),
]


@pytest.mark.parametrize(("change", "words"), REFUSED)
def test_another_tokenizer_is_refused_by_name(metadata, change, words):
    with pytest.raises(ValueError, match=words) as error:
        read(metadata | change)
    assert "\n" not in str(error.value)


def test_a_type_that_bpe_has_not(metadata):
    types = [6, *metadata["tokenizer.ggml.token_type"][1:]]
    with pytest.raises(ValueError, match="token 0 has the type 6"):
        read(metadata | {"tokenizer.ggml.token_type": types})
    lacking = {k: v for k, v in metadata.items() if k != "tokenizer.ggml.model"}
    with pytest.raises(ValueError, match=r"the metadata lacks tokenizer\.ggml\.model"):
        read(lacking)


def test_words_that_no_merge_makes(metadata):
    """For Llama 3, llama.cpp encodes a whole word as one token; files for which it matters are
    rejected.
    """
    changed = metadata | {"tokenizer.ggml.pre": "llama-bpe"}
    check_whole_words(read(changed), GGUFFile(changed, {}))
    changed["tokenizer.ggml.tokens"] = [*changed["tokenizer.ggml.tokens"], "Ġnever"]
    changed["tokenizer.ggml.token_type"] = [*changed["tokenizer.ggml.token_type"], 1]
    with pytest.raises(ValueError, match="1 tokens, such as ' never', are not made by the merges"):
        check_whole_words(read(changed), GGUFFile(changed, {}))
    changed["tokenizer.ggml.pre"] = "smollm"
    check_whole_words(read(changed), GGUFFile(changed, {}))


def test_smollm2s_ids_are_those_of_tokenizers(smollm2):
    file = read_gguf(smollm2)
    ours, other = Tokenizer(*read_gguf_vocabulary(file)), theirs(file.metadata)
    assert other.get_vocab_size() == 49152
    texts = ["".join(sentences) for sentences in SENTENCES.values()]
    texts += ["The capital of France is", "In 1984,  42 + 7 = 49.\n\n\tx  9"]
    texts.append("<|im_start|>user\nHi<|im_end|>\n")
    for text in texts:
        assert ours.encode(text) == other.encode(text).ids, text
        assert ours.decode(ours.encode(text)) == text
