"""A look inside a tokenizer: the pieces of a text in visible form, and the merges that make a word.

What this leaves out: colors and layout, which are up to the caller (`lm tokenizer inspect` and `lm
tokenizer merges`), and speed: `merge_histories` looks at every pair again in every step.
"""

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from tokenizer_bpe.inputs.input_checks import utf8_bytes
from tokenizer_bpe.pretokenization import pretokenize, split_special_tokens
from tokenizer_bpe.templates.added_tokens import control_tokens
from tokenizer_bpe.tokenizer import Tokenizer

NEWLINE_MARK = "⏎"
MARKS = {" ": "␣", "\n": NEWLINE_MARK, "\t": "⇥"}
NOTHING_TO_SIT_ON = "◌"  # Unicode's base for a combining character without one


class Piece(NamedTuple):
    """One token of a text."""

    token_id: int
    token: bytes
    is_special: bool


class VisiblePart(NamedTuple):
    """Characters to show, or a mark for an invisible character, such as "␣" for a space."""

    text: str
    is_mark: bool


class TextCounts(NamedTuple):
    """The size of a text, and the number of its tokens."""

    tokens: int
    bytes: int

    @property
    def line(self) -> str:
        """Return the figures as text: "3 tokens · 12 bytes · 4.00 bytes per token"."""
        line = f"{_count(self.tokens, 'token')} · {_count(self.bytes, 'byte')}"
        return f"{line} · {self.bytes / self.tokens:.2f} bytes per token" if self.tokens else line


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


class MergeStep(NamedTuple):
    """A word after one merge.

    Attributes:
        rank: the index of the merge in the list of merges, from 0; None for the bytes themselves.
        tokens: the word's tokens after the merge.
        made: the indices of the tokens that the merge made.
    """

    rank: int | None
    tokens: list[bytes]
    made: list[int]


class WordHistory(NamedTuple):
    """The steps from a word to its tokens; a special token has one step, without merges."""

    word: str
    is_special: bool
    steps: list[MergeStep]
    ids: list[int]


def token_pieces(tokenizer: Tokenizer, text: str) -> list[Piece]:
    """Return the tokens of `text`; their bytes, joined, are those of the text."""
    special = set(control_tokens(tokenizer).values())
    ids = tokenizer.encode(text)
    return [Piece(token_id, tokenizer.vocab[token_id], token_id in special) for token_id in ids]


def text_counts(pieces: Sequence[Piece]) -> TextCounts:
    """Return the figures to show below a text."""
    return TextCounts(len(pieces), sum(len(piece.token) for piece in pieces))


def visible_parts(token: bytes) -> list[VisiblePart]:
    """Return any token in printable form, without control characters.

    A space becomes "␣", a newline "⏎", a tab "⇥". Bytes that do not form a character, and
    unprintable characters, are written in hex: "<e2>". A combining character at the start of the
    token gets a base character, so that it does not change the token before.
    """
    parts: list[VisiblePart] = []
    for character in token.decode("utf-8", errors="surrogateescape"):
        mark = _mark_of(character)
        if mark is not None:
            parts.append(VisiblePart(mark, True))
            continue
        if unicodedata.category(character).startswith("M") and (not parts or parts[-1].is_mark):
            parts.append(VisiblePart(NOTHING_TO_SIT_ON, True))
        if parts and not parts[-1].is_mark:
            parts[-1] = VisiblePart(parts[-1].text + character, False)
        else:
            parts.append(VisiblePart(character, False))
    return parts


def visible_text(token: bytes) -> str:
    """Return `visible_parts` as one string."""
    return "".join(part.text for part in visible_parts(token))


def _mark_of(character: str) -> str | None:
    """Return the mark for an invisible character; None for a visible one."""
    if character in MARKS:
        return MARKS[character]
    if character.isprintable():
        return None
    # A byte outside a complete character was decoded to half of a surrogate pair.
    return "".join(f"<{byte:02x}>" for byte in character.encode("utf-8", errors="surrogateescape"))


def merge_histories(tokenizer: Tokenizer, text: str) -> Iterator[WordHistory]:
    """Yield the merge history of each pre-token of `text`, in order.

    The ids of all, joined, are `tokenizer.encode(text)`.
    """
    ranks = {pair: rank for rank, pair in enumerate(tokenizer.merges)}
    id_of = {token: token_id for token_id, token in tokenizer.vocab.items()}
    for part in split_special_tokens(text, list(tokenizer.special_tokens)):
        if part in tokenizer.special_tokens:
            step = MergeStep(None, [part.encode()], [])
            yield WordHistory(part, True, [step], [tokenizer.special_tokens[part]])
            continue
        for word in pretokenize(part, tokenizer.pattern):
            steps = merge_steps(ranks, utf8_bytes(word))
            yield WordHistory(word, False, steps, [id_of[token] for token in steps[-1].tokens])


def merge_steps(ranks: Mapping[tuple[bytes, bytes], int], word: bytes) -> list[MergeStep]:
    """Return a word as bytes and after each merge, where the earliest that fits is applied
    everywhere.
    """
    steps = [MergeStep(None, [bytes([byte]) for byte in word], [])]
    while True:
        tokens = steps[-1].tokens
        fitting = [pair for pair in pairwise(tokens) if pair in ranks]
        if not fitting:
            return steps
        pair = min(fitting, key=ranks.__getitem__)
        steps.append(MergeStep(ranks[pair], *_merged(tokens, pair)))


def _merged(tokens: Sequence[bytes], pair: tuple[bytes, bytes]) -> tuple[list[bytes], list[int]]:
    """Merge every `pair` in the tokens, from the left; return the tokens and the indices of the new
    ones.
    """
    merged: list[bytes] = []
    made: list[int] = []
    place = 0
    while place < len(tokens):
        if tuple(tokens[place : place + 2]) == pair:
            made.append(len(merged))
            merged.append(pair[0] + pair[1])
            place += 2
        else:
            merged.append(tokens[place])
            place += 1
    return merged, made
