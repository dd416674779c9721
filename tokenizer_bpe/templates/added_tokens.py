"""The two kinds of added tokens: control tokens, which only a template may write, and text.

A control token ("special": true in a Hugging Face file) ends a message or begins a document. A text
token ("special": false) is a piece of text with its own id: runs of spaces in GPT-NeoX, <think> in
Qwen3. It may occur in a message, stays in a decoded reply and counts with its bytes. A `Tokenizer`
stores both in `special_tokens`, since both are found before anything else. The class of the key
marks those that are text; every tokenizer keeps that class, including a learner's.

User input is always text: `encode_as_text` encodes the name of a control token as ordinary text, so
that a user cannot end a message and speak for the assistant.

What this leaves out: `lstrip`, `rstrip` and `single_word`, which `foreign_parts` rejects.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from lm_core.user_error import UserError
from tokenizer_bpe.tokenizer_protocol import AnyTokenizer


class TextToken(str):
    """The text of an added token that is not special."""

    __slots__ = ()


def control_tokens(tokenizer: AnyTokenizer) -> dict[str, int]:
    """Return text -> id of the added tokens that are special."""
    added = tokenizer.special_tokens.items()
    return {text: token_id for text, token_id in added if not isinstance(text, TextToken)}


def added_token_rows(special_tokens: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return the rows of "added_tokens" in a tokenizer.json, in the order of the ids.

    Args:
        special_tokens: text -> id.
    """
    return [
        {"id": token_id, "content": text, "single_word": False, "lstrip": False}
        | {"rstrip": False, "normalized": False, "special": not isinstance(text, TextToken)}
        for text, token_id in sorted(special_tokens.items(), key=lambda entry: entry[1])
    ]


def encode_as_text(tokenizer: AnyTokenizer, text: str) -> list[int]:
    """Return the ids of a text, without recognizing control tokens.

    Raises ValueError if the merges of the vocabulary make a control token from plain text.
    """
    controls = control_tokens(tokenizer)
    if not any(token in text for token in controls):
        return tokenizer.encode(text)
    ids = _without_control_tokens(tokenizer).encode(text)
    made = set(ids) & set(controls.values())
    for token, token_id in controls.items():
        if token_id in made and token in text:
            raise UserError(
                f"the text holds {token!r}, which this vocabulary cannot encode as plain text; "
                "remove it"
            )
    return ids


@lru_cache(maxsize=2)
def _without_control_tokens(tokenizer: AnyTokenizer) -> AnyTokenizer:
    """Return a twin that knows text tokens only.

    The entries of control tokens are removed, so that a merge with the same bytes does not give
    their id; entries that a merge or a byte needs stay.
    """
    controls = set(control_tokens(tokenizer).values())
    ordinary = {i: token for i, token in tokenizer.vocab.items() if i not in controls}
    needed = {left + right for left, right in tokenizer.merges} - set(ordinary.values())
    needed |= {bytes([byte]) for byte in range(256)} - set(ordinary.values())
    kept = {i: tokenizer.vocab[i] for i in controls if tokenizer.vocab[i] in needed}
    text_tokens = [text for text in tokenizer.special_tokens if isinstance(text, TextToken)]
    # Text tokens last, because the last of two entries with the same bytes is the one that is
    # found.
    last = {tokenizer.special_tokens[text]: text.encode() for text in text_tokens}
    vocab = {i: token for i, token in (kept | ordinary).items() if i not in last} | last
    return type(tokenizer)(vocab, tokenizer.merges, text_tokens, tokenizer.pattern)
