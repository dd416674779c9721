"""The vocabulary that a list of merges makes: bytes, then merges, then special tokens."""

from collections.abc import Sequence

from tokenizer_bpe.input_checks import BYTE_VALUES

Pair = tuple[bytes, bytes]
Trained = tuple[dict[int, bytes], list[Pair]]


def vocabulary_of(merges: Sequence[Pair], special_tokens: Sequence[str]) -> dict[int, bytes]:
    """Id -> bytes, in the order in which both trainers number their tokens."""
    tokens = [bytes([value]) for value in range(BYTE_VALUES)]
    tokens += [left + right for left, right in merges]
    tokens += [token.encode("utf-8") for token in special_tokens]
    return dict(enumerate(tokens))


def single_bytes(word: str) -> tuple[bytes, ...]:
    """A word as the tuple of its UTF-8 bytes, each a bytes object."""
    return tuple(bytes([value]) for value in word.encode("utf-8"))
