"""Added tokens are of two kinds: control tokens, which only a template may write, and text.

A control token ("special": true in a file of Hugging Face's) ends a message or begins a document.
A text token ("special": false) is a piece of text that was given an id of its own: runs of blanks
in GPT-NeoX, <think> in Qwen3. It may stand in a message, stays in a decoded reply and counts for
its bytes. A `Tokenizer` holds both in `special_tokens`, since both are found before anything else;
which of them are text is said by the class of the key, which every tokenizer keeps, a learner's
included.

What a person writes is text, whatever it looks like: `encode_as_text` spells out the name of a
control token, so that nobody can end a message and speak for the assistant. What this leaves out:
`lstrip`, `rstrip` and `single_word`, which `foreign_parts` refuses.
"""

from functools import lru_cache

from lm_core.user_error import UserError
from tokenizer_bpe.tokenizer_protocol import AnyTokenizer


class TextToken(str):
    """The text of an added token that is not special."""

    __slots__ = ()


def control_tokens(tokenizer: AnyTokenizer) -> dict[str, int]:
    """Text -> id of the added tokens that are special."""
    added = tokenizer.special_tokens.items()
    return {text: token_id for text, token_id in added if not isinstance(text, TextToken)}


def encode_as_text(tokenizer: AnyTokenizer, text: str) -> list[int]:
    """The ids of a text in which no control token is found.

    Raises ValueError where the merges of the vocabulary make a control token out of plain text.
    """
    controls = control_tokens(tokenizer)
    if not any(token in text for token in controls):
        return tokenizer.encode(text)
    ids = _without_control_tokens(tokenizer).encode(text)
    made = set(ids) & set(controls.values())
    for token, token_id in controls.items():
        if token_id in made and token in text:
            raise UserError(
                f"the text holds {token!r}, which this vocabulary cannot write as plain text; "
                "remove it"
            )
    return ids


@lru_cache(maxsize=2)
def _without_control_tokens(tokenizer: AnyTokenizer) -> AnyTokenizer:
    """A twin that knows text tokens only. The entries of the control tokens go, lest a merge that
    makes the same bytes gives their id; those that a merge or a byte needs stay.
    """
    controls = set(control_tokens(tokenizer).values())
    ordinary = {i: token for i, token in tokenizer.vocab.items() if i not in controls}
    needed = {left + right for left, right in tokenizer.merges} - set(ordinary.values())
    needed |= {bytes([byte]) for byte in range(256)} - set(ordinary.values())
    kept = {i: tokenizer.vocab[i] for i in controls if tokenizer.vocab[i] in needed}
    text_tokens = [text for text in tokenizer.special_tokens if isinstance(text, TextToken)]
    # Text tokens last: of two entries with the same bytes, theirs is the one that is found.
    last = {tokenizer.special_tokens[text]: text.encode() for text in text_tokens}
    vocab = {i: token for i, token in (kept | ordinary).items() if i not in last} | last
    return type(tokenizer)(vocab, tokenizer.merges, text_tokens, tokenizer.pattern)
