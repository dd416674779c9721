"""A byte-level BPE tokenizer as the metadata of a GGUF file: the reverse of
tokenizer_bpe/formats/gguf_vocabulary.py.

What this leaves out: tokenizers of characters, and patterns for which llama.cpp has no name.
"""

from collections.abc import Mapping
from typing import Any

from inference.engine.text_side import TextSide
from lm_core.special_tokens import SPECIAL_TOKENS
from lm_core.user_error import UserError
from tokenizer_bpe.chat_template import CHAT_TEMPLATE
from tokenizer_bpe.formats.gguf_vocabulary import (
    CONTROL,
    LLAMA_3,
    NAMED_TOKENS,
    NORMAL,
    PATTERNS,
    UNUSED,
    USER_DEFINED,
)
from tokenizer_bpe.templates.added_tokens import TextToken
from tokenizer_bpe.tokenizer import Tokenizer
from tokenizer_bpe.tokenizer_file import to_printable


def tokenizer_metadata(side: TextSide, roles: Mapping[str, str], vocab_size: int) -> dict[str, Any]:
    """Return the keys of the tokenizer and the chat template.

    Args:
        side: tokenizer, template and the ids that end a text.
        roles: special tokens by their role.
        vocab_size: rows of the embedding; ids without a token are written as unused.

    Raises:
        ValueError: the tokenizer is not byte-level BPE, its pattern has no name in llama.cpp, or
            two tokens have the same text.
    """
    tokenizer = side.tokenizer
    if not isinstance(tokenizer, Tokenizer):
        raise UserError("GGUF files hold byte-level BPE tokenizers; this one has other tokens")
    # Under the names of Llama 3, llama.cpp would not split a word that is a token.
    names = [n for n, p in PATTERNS.items() if p == tokenizer.pattern and n not in LLAMA_3]
    if not names:
        raise UserError(
            f"llama.cpp has no name for the tokenizer's pattern {tokenizer.pattern[:60]!r}"
        )
    tokens, types = _tokens(tokenizer, vocab_size)
    metadata: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": names[0],
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": [
            f"{to_printable(left)} {to_printable(right)}" for left, right in tokenizer.merges
        ],
        "tokenizer.ggml.add_bos_token": side.first_id is not None,
    }
    for role, key in NAMED_TOKENS.items():
        if roles.get(role) in tokenizer.special_tokens:
            metadata[key] = tokenizer.special_tokens[roles[role]]
    known = {tokenizer.special_tokens.get(token) for token in SPECIAL_TOKENS}
    ends = sorted((side.stop_ids or frozenset()) - known)
    end_key = NAMED_TOKENS["eos_token"]
    if end_key not in metadata and ends:
        metadata[end_key] = ends[0]
    others = [token_id for token_id in ends if token_id != metadata.get(end_key)]
    if others:
        metadata["tokenizer.ggml.eot_token_id"] = others[0]
    template = CHAT_TEMPLATE if side.stop_ids is None else side.template and side.template.text
    if template is not None:
        metadata["tokenizer.chat_template"] = template
    return metadata


def _tokens(tokenizer: Tokenizer, vocab_size: int) -> tuple[list[str], list[int]]:
    """Return the text and the type of every id below `vocab_size`."""
    special = {token_id: text for text, token_id in tokenizer.special_tokens.items()}
    tokens, types = [], []
    for token_id in range(vocab_size):
        text = special.get(token_id)
        if text is not None:
            tokens.append(str(text))
            types.append(USER_DEFINED if isinstance(text, TextToken) else CONTROL)
        elif token_id in tokenizer.vocab:
            tokens.append(to_printable(tokenizer.vocab[token_id]))
            types.append(NORMAL)
        else:
            tokens.append(f"[PAD{token_id}]")
            types.append(UNUSED)
    if len(set(tokens)) < len(tokens):
        twice = next(text for text in tokens if tokens.count(text) > 1)
        raise UserError(f"two tokens have the text {twice!r}, which a GGUF file cannot tell apart")
    return tokens, types
