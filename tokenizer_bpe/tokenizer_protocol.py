"""The interface of a tokenizer for functions that receive one: the lesson's `Tokenizer`, its
compiled twin or a learner's own.

`tokenizer.py` imports the files and templates that take a tokenizer, so they cannot import it, and
use this protocol instead.
"""

from collections.abc import Sequence
from typing import Protocol


class AnyTokenizer(Protocol):
    """A byte-level BPE vocabulary that encodes and decodes.

    Attributes:
        vocab: id -> bytes, added tokens included.
        merges: pairs of byte strings, in order of priority.
        special_tokens: text -> id of the added tokens.
        pattern: the pattern that cuts text into words.
        vocab_size: the largest id, plus one.
    """

    vocab: dict[int, bytes]
    merges: list[tuple[bytes, bytes]]
    special_tokens: dict[str, int]
    pattern: str
    vocab_size: int

    def __init__(
        self,
        vocab: dict[int, bytes],
        merges: list[tuple[bytes, bytes]],
        special_tokens: Sequence[str],
        pattern: str,
    ) -> None: ...

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""
        ...
