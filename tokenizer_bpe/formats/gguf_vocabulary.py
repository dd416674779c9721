"""The tokenizer of a GGUF file: byte-level BPE, with its chat template.

llama.cpp stores tokens in printable characters as Hugging Face does, merges as "a b", a type for
each token, and only a name for the pattern (`tokenizer.ggml.pre`).

What this leaves out: SentencePiece vocabularies, and patterns that we have not compared; an error
names them.
"""

from lm_core.formats.gguf_container import GGUFFile
from lm_core.user_error import UserError
from tokenizer_bpe.formats.missing_bytes import with_every_byte
from tokenizer_bpe.inputs.input_checks import check_merges
from tokenizer_bpe.pretokenization import (
    GPT2_PATTERN,
    gpt4_pattern,
    pretokenize,
    split_digits_pattern,
)
from tokenizer_bpe.templates.added_tokens import TextToken
from tokenizer_bpe.tokenizer_file import Vocabulary, from_printable
from tokenizer_bpe.tokenizer_protocol import AnyTokenizer

# Names that llama.cpp (src/llama-vocab.cpp) treats as the same pattern, the best known first. With
# those of Llama 3, a word that is a token is not split, and a text begins with the BOS token.
LLAMA_3 = (
    *("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"),
    "jina-v5-nano",
)
GPT_2 = (
    *("gpt-2", "phi-2", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de", "gigachat", "a.x-4.0"),
    *("mellum", "modern-bert", "exaone4", "mpt", "olmo", "jais", "trillion", "granite-docling"),
)
QWEN_2 = (
    *("qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "stablelm2", "hunyuan", "grok-2"),
    "solar-open",
)
ONE_DIGIT = (
    *("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"),
)
PATTERNS = {
    **dict.fromkeys(GPT_2, GPT2_PATTERN),
    **dict.fromkeys((*LLAMA_3, "dbrx", "smaug-bpe", "glm4", "chatglm-bpe"), gpt4_pattern(3)),
    **dict.fromkeys(QWEN_2, gpt4_pattern(1)),
    **dict.fromkeys(ONE_DIGIT, split_digits_pattern(individual=True)),
}
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # llama.cpp's llama_token_type
NAMED_TOKENS = {
    "bos_token": "tokenizer.ggml.bos_token_id",
    "eos_token": "tokenizer.ggml.eos_token_id",
    "pad_token": "tokenizer.ggml.padding_token_id",
}


def read_gguf_vocabulary(file: GGUFFile) -> Vocabulary:
    """Return the vocabulary, merges, special tokens and pattern of a GGUF file.

    Raises:
        ValueError: the tokenizer is of another kind, has an unknown pattern or token type, or is
            inconsistent.
    """
    kind = file.named("tokenizer.ggml.model")
    if kind != "gpt2":
        raise UserError(
            f"the tokenizer is {kind!r}; this code reads byte-level BPE, which is called 'gpt2'"
        )
    name = file.named("tokenizer.ggml.pre", "default")
    if name not in PATTERNS:
        raise UserError(
            f"tokenizer.ggml.pre is {name!r}: this pattern is not supported; supported are "
            f"{', '.join(names[0] for names in (GPT_2, LLAMA_3, QWEN_2, ONE_DIGIT))}, and names "
            "that llama.cpp treats as one of them"
        )
    tokens = file.named("tokenizer.ggml.tokens")
    types = file.named("tokenizer.ggml.token_type", [NORMAL] * len(tokens))
    if len(types) != len(tokens):
        raise UserError(f"the file has {len(tokens)} tokens but {len(types)} token types")
    ends = [token for role, token in named_tokens(file).items() if role != "pad_token"]
    ends += [tokens[token_id] for token_id in end_ids(file) if token_id < len(tokens)]
    vocab, added = {}, {}
    for token_id, (text, token_type) in enumerate(zip(tokens, types, strict=True)):
        if token_type in (CONTROL, USER_DEFINED):
            is_text = token_type == USER_DEFINED and text not in ends
            added[token_id] = TextToken(text) if is_text else text
        elif token_type == NORMAL:
            vocab[token_id] = from_printable(text, f"token {token_id}")
        elif token_type != UNUSED:
            raise UserError(f"token {token_id} has the type {token_type}, which BPE does not have")
    merges = []
    for number, merge in enumerate(file.named("tokenizer.ggml.merges"), 1):
        left, space, right = merge.partition(" ")
        if not space or " " in right:
            raise UserError(f"merge {number} is {merge!r}, expected two tokens")
        where = f"merge {number}"
        merges.append((from_printable(left, where), from_printable(right, where)))
    # Added tokens last, because the last of two entries with the same bytes is the one that is
    # found.
    vocab = with_every_byte(vocab | {i: text.encode() for i, text in added.items()})
    check_merges(vocab, merges, "the vocabulary")
    return Vocabulary(vocab, merges, list(added.values()), PATTERNS[name])


def adds_first_token(file: GGUFFile) -> bool:
    """Return whether every text begins with the BOS token; if the file does not say, it does for
    the names of Llama 3.
    """
    by_name = file.metadata.get("tokenizer.ggml.pre") in LLAMA_3
    return bool(file.metadata.get("tokenizer.ggml.add_bos_token", by_name))


def check_whole_words(tokenizer: AnyTokenizer, file: GGUFFile) -> None:
    """Raise ValueError if llama.cpp would encode a whole word as one token but the merges split it,
    since we use only the merges.
    """
    if file.metadata.get("tokenizer.ggml.pre") not in LLAMA_3:
        return
    special = set(tokenizer.special_tokens.values())
    broken = []
    for token_id, token in tokenizer.vocab.items():
        try:
            text = token.decode()
        except UnicodeDecodeError:
            continue  # a part of a character is not a word
        one_word = token_id not in special and len(pretokenize(text, tokenizer.pattern)) == 1
        if one_word and tokenizer.encode(text) != [token_id]:
            broken.append(text)
    if broken:
        raise UserError(
            f"{len(broken)} tokens, such as {broken[0]!r}, are not made by the merges "
            "(ignore_merges); our ids would differ"
        )


def named_tokens(file: GGUFFile) -> dict[str, str]:
    """Return the tokens that the file names: {"eos_token": "<|im_end|>", ...}."""
    tokens = file.named("tokenizer.ggml.tokens")
    ids = {role: file.metadata.get(key) for role, key in NAMED_TOKENS.items()}
    return {role: tokens[i] for role, i in ids.items() if i is not None and i < len(tokens)}


def end_ids(file: GGUFFile) -> list[int]:
    """Return the ids that end a text or a message."""
    keys = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id")
    return [file.metadata[key] for key in keys if key in file.metadata]
