"""Cut a stream of texts into words and special tokens as soon as they are certain."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tokenizer_bpe.pretokenization import (
    GPT2_PATTERN,
    GPT4_PATTERN,
    pretokenize,
    special_token_pattern,
    split_special_tokens,
)

UNCERTAIN_WORDS = 2


class Unit(NamedTuple):
    """A word or a special token."""

    text: str
    is_special: bool


def cut_units(text: str, special_tokens: Sequence[str], pattern: str) -> Iterator[Unit]:
    """The words and special tokens of a text that is complete."""
    known = set(special_tokens)
    for piece in split_special_tokens(text, special_tokens):
        if piece in known:
            yield Unit(piece, True)
        else:
            for word in pretokenize(piece, pattern):
                yield Unit(word, False)


class StreamCutter:
    """Holds the end of the text so far, whose cut depends on what follows."""

    def __init__(self, special_tokens: Sequence[str], pattern: str) -> None:
        self._special_tokens = list(special_tokens)
        self._finder = special_token_pattern(self._special_tokens)
        self._pattern = pattern
        self._pending = ""

    def feed(self, text: str) -> list[Unit]:
        """Take one more text; returns the units that nothing can change any more."""
        self._pending += text
        units: list[Unit] = []
        begun = self._begun_special_tokens()
        start = 0
        while True:
            limit = next((place for place in begun if place >= start), len(self._pending))
            found = self._finder.search(self._pending, start) if self._finder else None
            if found is None or found.start() >= limit:
                break
            words = pretokenize(self._pending[start : found.start()], self._pattern)
            units += [Unit(word, False) for word in words]
            units.append(Unit(found.group(), True))
            start = found.end()
        for word in self._certain_words(self._pending[start:limit]):
            units.append(Unit(word, False))
            start += len(word)
        self._pending = self._pending[start:]
        return units

    def finish(self) -> list[Unit]:
        """The units of what is left when no text follows."""
        rest, self._pending = self._pending, ""
        return list(cut_units(rest, self._special_tokens, self._pattern))

    def _begun_special_tokens(self) -> list[int]:
        """Where the rest of the text is the beginning of a special token, but not all of it."""
        size = len(self._pending)
        places = {
            size - length
            for token in self._special_tokens
            for length in range(1, min(len(token) - 1, size) + 1)
            if self._pending.endswith(token[:length])
        }
        return sorted(places)

    def _certain_words(self, text: str) -> list[str]:
        """The words at the start of a text that stay as they are, whatever follows.

        Under a pattern of the caller's nobody knows how far a change reaches: none is certain.
        """
        if self._pattern not in (GPT2_PATTERN, GPT4_PATTERN):
            return []
        return pretokenize(text, self._pattern)[:-UNCERTAIN_WORDS]
