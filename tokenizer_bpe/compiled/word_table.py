"""A hash table with words as keys: byte strings that are copied when first seen.

Compiled code never allocates memory here: a table has room for a number of words and bytes. When
one more does not fit, the caller is told, grows or empties the table in Python, and continues.

`number_words` is the one hot loop of this package. It is a single function, and every array is a
separate argument. With inner calls or tuples, numba counts references to the arrays at each word,
which takes twice as long as the work (60 MB of novels: 1.8 against 0.6 seconds).

What this leaves out: deletion of single words, and any protection against texts constructed to
collide.
"""

from typing import NamedTuple

import numpy as np

from tokenizer_bpe.compiled.kernel_cache import inlined, kernel
from tokenizer_bpe.compiled.text_spans import eights_of
from tokenizer_bpe.compiled.word_boundaries import end_of_word

FULL = -1  # the result of `_add` if there is no room
_EMPTY = -1
_SHORT = 7  # up to this many bytes, the key is the word itself

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)
_LONG = np.uint64(1 << 63)
_ONE, _TOP_BYTE, _HALF = np.uint64(1), np.uint64(56), np.uint64(32)


class WordTable(NamedTuple):
    """A table with open addressing and linear probing; half of the slots stay free.

    Attributes:
        slots: number of the word in each slot, or _EMPTY; int32 [a power of two].
        keys: a short word's length and bytes, or a long word's hash with the top bit set; two short
            words never share a key; uint64 [words].
        starts: where the bytes of a word begin in `letters`; int64 [words + 1].
        letters: the words, concatenated; uint8.
        eights: `letters`, eight at a time (text_spans.py).
        size: [number of words, 64 - log2(number of slots)]; int64 [2].
    """

    slots: np.ndarray
    keys: np.ndarray
    starts: np.ndarray
    letters: np.ndarray
    eights: np.ndarray
    size: np.ndarray

    @property
    def num_bytes(self) -> int:
        """Number of bytes of memory."""
        return sum(array.nbytes for array in self if array is not self.eights)


def word_table(max_words: int, max_bytes: int) -> WordTable:
    """Return an empty table with room for `max_words` words of `max_bytes` bytes in total."""
    num_slots = 1 << (2 * max_words - 1).bit_length()
    letters, eights = eights_of(np.zeros(max_bytes + 8, dtype=np.uint8))
    return WordTable(
        slots=np.full(num_slots, _EMPTY, dtype=np.int32),
        keys=np.empty(max_words, dtype=np.uint64),
        starts=np.zeros(max_words + 1, dtype=np.int64),
        letters=letters,
        eights=eights,
        size=np.array([0, 64 - (num_slots.bit_length() - 1)], dtype=np.int64),
    )


def grown(table: WordTable, longest: int) -> WordTable:
    """Return a copy with twice the room, and at least room for one more word of `longest` bytes."""
    size = int(table.size[0])
    used = int(table.starts[size])
    larger = word_table(2 * len(table.keys), max(2 * len(table.letters), used + longest))
    larger.keys[:size] = table.keys[:size]
    larger.starts[: size + 1] = table.starts[: size + 1]
    larger.letters[:used] = table.letters[:used]
    larger.size[0] = size
    _fill_slots(larger)
    return larger


def empty(table: WordTable) -> None:
    """Remove all words, but keep the memory."""
    table.slots.fill(_EMPTY)
    table.size[0] = 0


@inlined
def _key_of(eights, start, stop):
    length = stop - start
    if length <= _SHORT:
        bits = np.uint64(8 * length)
        return (eights[start] & ((_ONE << bits) - _ONE)) | (np.uint64(length) << _TOP_BYTE)
    key = np.uint64(length)
    place = start
    while place + 8 < stop:
        key = (key ^ eights[place]) * _MIX
        key ^= key >> _HALF
        place += 8
    key = (key ^ eights[stop - 8]) * _MIX  # the last eight bytes; some may have been read before
    return key ^ (key >> _HALF) | _LONG


@kernel
def number_words(
    text, text_eights, starts, stops, specials, span, place, classes, rule, longest,
    slots, keys, word_starts, letters, eights, size, numbers,
):  # fmt: skip
    """Look up every word of a text, and add the new ones.

    The arguments are the fields of a TextSpans and of a WordTable, `classes` and `rule` of
    `end_of_word`, and four more. Reading starts at byte `place` of span `span`, or at the span's
    own start if that comes later. A word of more than `longest` bytes is left to the caller.
    `numbers` (int32) receives the number of each word, and -2 - id for a special token.

    Returns (span, place, how many numbers, length of the word at `place` if it is longer than
    `longest` or does not fit, else 0). If it is 0 and spans are left, `numbers` is full.
    """
    count = 0
    mask = len(slots) - 1
    while span < len(starts):
        place = max(place, starts[span])
        stop = stops[span]
        while place < stop:
            if count == len(numbers):
                return span, place, count, 0
            end = end_of_word(text, place, stop, classes, rule)
            length = end - place
            if length > longest:
                return span, place, count, length
            key = _key_of(text_eights, place, end)
            slot = np.int64((key * _GOLDEN) >> np.uint64(size[1]))  # Knuth: multiplicative hashing
            word = slots[slot]
            while word != _EMPTY:
                if keys[word] == key:
                    if length <= _SHORT:
                        break
                    begin = word_starts[word]
                    if word_starts[word + 1] - begin == length:
                        same = text_eights[end - 8] == eights[begin + length - 8]
                        for index in range(0, length - 8, 8):
                            same = same and text_eights[place + index] == eights[begin + index]
                        if same:
                            break
                slot = (slot + 1) & mask
                word = slots[slot]
            if word == _EMPTY:
                word = _add(slots, keys, word_starts, letters, size, text, place, end, key, slot)
                if word == FULL:
                    return span, place, count, length
            numbers[count] = word
            count += 1
            place = end
        if specials[span] >= 0:
            if count == len(numbers):
                return span, place, count, 0
            numbers[count] = -2 - specials[span]
            count += 1
        span += 1
    return span, place, count, 0


@kernel
def _add(slots, keys, word_starts, letters, size, text, start, stop, key, slot):
    word = size[0]
    begin = word_starts[word]
    if word == len(keys) or begin + stop - start > len(letters):
        return np.int32(FULL)
    for place in range(start, stop):
        letters[begin + place - start] = text[place]
    word_starts[word + 1] = begin + stop - start
    keys[word] = key
    slots[slot] = word
    size[0] = word + 1
    return np.int32(word)


@kernel
def _fill_slots(table):
    for word in range(table.size[0]):
        slot = np.int64((table.keys[word] * _GOLDEN) >> np.uint64(table.size[1]))
        while table.slots[slot] != _EMPTY:
            slot = (slot + 1) & (len(table.slots) - 1)
        table.slots[slot] = word
