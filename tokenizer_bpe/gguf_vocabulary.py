"""The tokenizer of a GGUF file: byte-level BPE, with its chat template.

llama.cpp keeps tokens in printable characters as Hugging Face does, merges as "a b", and for each
token a type; for the pattern it keeps only a name (`tokenizer.ggml.pre`). What this leaves out,
refused by name: SentencePiece vocabularies, and patterns that we have not compared.
"""

from typing import TYPE_CHECKING

from lm_core.gguf_container import GGUFFile
from lm_core.user_error import UserError
from tokenizer_bpe.input_checks import check_merges
from tokenizer_bpe.missing_bytes import with_every_byte
from tokenizer_bpe.pretokenization import (
    GPT2_PATTERN,
    gpt4_pattern,
    pretokenize,
    split_digits_pattern,
)
from tokenizer_bpe.tokenizer_file import Vocabulary, from_printable

if TYPE_CHECKING:
    from tokenizer_bpe.tokenizer import Tokenizer

PATTERNS = {
    "gpt-2": GPT2_PATTERN,
    "llama-bpe": gpt4_pattern(3),
    "qwen2": gpt4_pattern(1),
    "smollm": split_digits_pattern(individual=True),
}
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # llama.cpp's llama_token_type
TAKES_WHOLE_WORDS = ("llama-bpe",)  # a word that is a token is not looked up in the merges
NAMED_TOKENS = {
    "bos_token": "tokenizer.ggml.bos_token_id",
    "eos_token": "tokenizer.ggml.eos_token_id",
    "pad_token": "tokenizer.ggml.padding_token_id",
}


def read_gguf_vocabulary(file: GGUFFile) -> Vocabulary:
    """The vocabulary, merges, special tokens and pattern of a GGUF file.

    Raises:
        ValueError: the tokenizer is of another kind, has a pattern or a type of token that is not
            known here, or does not fit together.
    """
    kind = file.named("tokenizer.ggml.model")
    if kind != "gpt2":
        raise UserError(
            f"the tokenizer is {kind!r}; this code reads byte-level BPE, which is called 'gpt2'"
        )
    name = file.named("tokenizer.ggml.pre", "default")
    if name not in PATTERNS:
        raise UserError(
            f"tokenizer.ggml.pre is {name!r}: how it cuts words is not known here; known are "
            f"{', '.join(PATTERNS)}"
        )
    tokens = file.named("tokenizer.ggml.tokens")
    types = file.named("tokenizer.ggml.token_type", [NORMAL] * len(tokens))
    if len(types) != len(tokens):
        raise UserError(f"{len(tokens)} tokens, but {len(types)} token types")
    vocab, special = {}, []
    for token_id, (text, token_type) in enumerate(zip(tokens, types, strict=True)):
        if token_type in (CONTROL, USER_DEFINED):
            vocab[token_id] = text.encode()
            special.append(text)
        elif token_type == NORMAL:
            vocab[token_id] = from_printable(text, f"token {token_id}")
        elif token_type != UNUSED:
            raise UserError(f"token {token_id} is of type {token_type}, which BPE has not")
    merges = []
    for number, merge in enumerate(file.named("tokenizer.ggml.merges"), 1):
        left, space, right = merge.partition(" ")
        if not space or " " in right:
            raise UserError(f"merge {number} is {merge!r}, expected two tokens")
        where = f"merge {number}"
        merges.append((from_printable(left, where), from_printable(right, where)))
    vocab = with_every_byte(vocab)
    check_merges(vocab, merges, "the vocabulary")
    return Vocabulary(vocab, merges, special, PATTERNS[name])


def check_whole_words(tokenizer: "Tokenizer", file: GGUFFile) -> None:
    """Raise ValueError where llama.cpp would take a whole word as one token and the merges make
    several of it: we only have the merges.
    """
    if file.metadata.get("tokenizer.ggml.pre") not in TAKES_WHOLE_WORDS:
        return
    special = set(tokenizer.special_tokens.values())
    broken = []
    for token_id, token in tokenizer.vocab.items():
        try:
            text = token.decode()
        except UnicodeDecodeError:
            continue  # a part of a character is no word
        one_word = token_id not in special and len(pretokenize(text, tokenizer.pattern)) == 1
        if one_word and tokenizer.encode(text) != [token_id]:
            broken.append(text)
    if broken:
        raise UserError(
            f"{len(broken)} tokens, such as {broken[0]!r}, are not made by the merges "
            "(ignore_merges); we would give other ids"
        )


def named_tokens(file: GGUFFile) -> dict[str, str]:
    """{"eos_token": "<|im_end|>", ...}: those that the file names."""
    tokens = file.named("tokenizer.ggml.tokens")
    ids = {role: file.metadata.get(key) for role, key in NAMED_TOKENS.items()}
    return {role: tokens[i] for role, i in ids.items() if i is not None and i < len(tokens)}


def end_ids(file: GGUFFile) -> list[int]:
    """The ids that end a text or a message."""
    keys = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id")
    return [file.metadata[key] for key in keys if key in file.metadata]
