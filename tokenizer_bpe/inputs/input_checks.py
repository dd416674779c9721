"""Checks of the inputs for a tokenizer, with one clear ValueError for each mistake.

This module is given, not a lesson; the trainers, the tokenizer and the file readers call it.
"""

from collections.abc import Callable, Mapping, Sequence

from lm_core.user_error import UserError

LARGEST_ID = 0x10FFFF  # a token is stored as one character


def check_special_tokens(special_tokens: Sequence[str]) -> None:
    """Raise ValueError if a special token is empty or repeated."""
    if isinstance(special_tokens, str):
        raise UserError(f"special tokens: expected a list of strings, got {special_tokens!r}")
    for position, token in enumerate(special_tokens):
        if not token:
            raise UserError(f"special token {position} is empty; remove it")
        if token in special_tokens[:position]:
            raise UserError(f"special token {token!r} is named twice; name it once")


def check_vocab_size(vocab_size: int, special_tokens: Sequence[str]) -> None:
    """Raise ValueError if the vocabulary is too small for the 256 bytes and the special tokens."""
    smallest = 256 + len(special_tokens)
    if vocab_size < smallest:
        raise UserError(
            f"vocab_size {vocab_size} is too small: 256 bytes and {len(special_tokens)} special "
            f"tokens need {smallest} or more"
        )


def utf8_bytes(text: str) -> bytes:
    """Return the bytes of `text`; raise ValueError if it has half of a surrogate pair."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        if 0xDC80 <= code <= 0xDCFF:  # how Python stores a command-line byte that is not UTF-8
            raise UserError(
                f"the text holds the byte 0x{code - 0xDC00:02x}, which is not valid UTF-8 there; "
                "convert the text to UTF-8, or set the terminal to UTF-8"
            ) from None
        raise UserError(
            f"the text holds U+{code:04X}, half of a surrogate pair: not UTF-8; replace it"
        ) from None


def check_merges(
    vocab: Mapping[int, bytes],
    merges: Sequence[tuple[bytes, bytes]],
    source: str = "the vocabulary",
    name_of_merge: Callable[[int], str] = lambda index: f"merge {index + 1}",
) -> dict[bytes, int]:
    """Check that merges and vocabulary match, and return bytes -> id.

    Args:
        vocab: id -> bytes.
        merges: in order of priority.
        source: name of the vocabulary in messages, such as the path of its file.
        name_of_merge: index -> name of the merge in messages ("merges.txt, line 7").

    Raises:
        ValueError: an id is negative or above LARGEST_ID, a byte or the parts or the result of a
            merge have no id, or a part is only made by a later merge.
    """
    for token_id in vocab:
        if not 0 <= token_id <= LARGEST_ID:
            raise UserError(
                f"{source}: token id {token_id} is out of range; ids go from 0 to {LARGEST_ID}"
            )
    id_of = {token: token_id for token_id, token in vocab.items()}
    made = {bytes([byte]) for byte in range(256)}
    missing = [byte for byte in range(256) if bytes([byte]) not in id_of]
    if missing:
        raise UserError(
            f"{source} has no token for byte 0x{missing[0]:02x} ({len(missing)} of 256 are "
            "missing); byte-level BPE needs all"
        )
    for index, (left, right) in enumerate(merges):
        for part in (left, right):
            if part not in made:
                raise UserError(
                    f"{name_of_merge(index)} joins {left!r} and {right!r}, but no earlier merge "
                    f"makes {part!r}; are the merges complete and in order?"
                )
        if left + right not in id_of:
            raise UserError(
                f"{name_of_merge(index)} makes {left + right!r}, which {source} lacks; do "
                "the two belong together?"
            )
        made.add(left + right)
    return id_of


def check_order_of_merges(
    merges: Sequence[tuple[bytes, bytes]],
    name_of_merge: Callable[[int], str] = lambda index: f"merge {index + 1}",
) -> None:
    """Reject merges for which other libraries give other ids than we do.

    We follow GPT-2's own code: the earliest merge that fits is made in all its places before
    anything else. `tokenizers` and tiktoken make it in one place, and look again. The two differ
    only if a merge creates a pair that is earlier in the list than itself. It then makes a token
    that an earlier merge also makes, through that pair. No trainer produces such a list: the parts
    of a token are merged in the same order wherever it occurs, so each token has one merge.

    Args:
        merges: in order of priority.
        name_of_merge: index -> name of the merge in messages.

    Raises:
        ValueError: a merge comes later than a pair that contains its result.
    """
    earliest_with: dict[bytes, int] = {}  # token -> the first merge that contains it
    for index, (left, right) in enumerate(merges):
        earlier = earliest_with.get(left + right)
        if earlier is not None:
            raise UserError(
                f"{name_of_merge(index)} makes {left + right!r}, but {name_of_merge(earlier)} "
                f"joins {' and '.join(map(repr, merges[earlier]))} already: `tokenizers` and "
                "tiktoken, which merge one place at a time, would give other ids than we do; no "
                "trainer makes such merges"
            )
        for part in (left, right):
            earliest_with.setdefault(part, index)
