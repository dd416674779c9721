"""A text as bytes, with its spans between special tokens: the input of compiled code."""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

NO_SPECIAL = -1


class PaddedText(NamedTuple):
    """Bytes that can be read one at a time or, from any offset, eight at a time.

    Attributes:
        letters: uint8 [bytes].
        eights: eights[i] is letters[i : i + 8], the first byte the lowest; uint64 [bytes].
    """

    letters: np.ndarray
    eights: np.ndarray


def padded_text(letters: bytes | np.ndarray) -> PaddedText:
    """Return a copy of the bytes, padded with eight more."""
    padded = np.empty(len(letters) + 8, dtype=np.uint8)
    padded[: len(letters)] = np.frombuffer(letters, dtype=np.uint8)
    padded[len(letters) :] = 0
    return eights_of(padded)


def eights_of(padded: np.ndarray) -> PaddedText:
    """Return views of an array whose last eight bytes are padding.

    Elements of `eights` overlap, because their stride is one byte. On a big-endian machine only the
    byte order within an element differs.
    """
    size = len(padded) - 8
    eights = np.ndarray((size + 1,), dtype=np.uint64, buffer=padded, strides=(1,))
    return PaddedText(padded[:size], eights)


class TextSpans(NamedTuple):
    """Spans of ordinary text, in order.

    Attributes:
        text: UTF-8.
        starts: first byte of each span; int64 [spans].
        stops: one past its last byte; a span may be empty; int64 [spans].
        specials: id of the special token that follows the span, or NO_SPECIAL; int64 [spans].
    """

    text: PaddedText
    starts: np.ndarray
    stops: np.ndarray
    specials: np.ndarray


def special_token_bytes(special_tokens: Sequence[str]) -> dict[bytes, int]:
    """Return tokens as bytes, for callers that only need to cut them out."""
    return {token.encode(): NO_SPECIAL for token in special_tokens}


@lru_cache
def _pattern_of(tokens: tuple[bytes, ...]) -> re.Pattern[bytes]:
    return re.compile(
        b"|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True))
    )


def text_spans(content: bytes, special_ids: Mapping[bytes, int]) -> TextSpans:
    """Cut the special tokens out of a text; if two match at the same place, the longer one wins."""
    starts, stops, specials = [0], [], []
    # Matches are whole characters: in UTF-8, no character's bytes begin inside another's.
    for match in _pattern_of(tuple(special_ids)).finditer(content) if special_ids else ():
        stops.append(match.start())
        specials.append(special_ids[match.group()])
        starts.append(match.end())
    stops.append(len(content))
    specials.append(NO_SPECIAL)
    return TextSpans(
        padded_text(content),
        np.array(starts, dtype=np.int64),
        np.array(stops, dtype=np.int64),
        np.array(specials, dtype=np.int64),
    )
