"""The ends of words, found by a state machine over UTF-8 bytes.

GPT-2's and GPT-4's patterns only distinguish letters, numbers, whitespace, other characters, and a
few specific characters. A table gives the class of every code point; it is built with the installed
`regex` module, because the standard library's Unicode tables are of another version. The rest of a
pattern is a dozen comparisons per word.

What this leaves out: every other pattern (`word_rule` returns None, and the caller uses the
lesson).
"""

from functools import cache

import numpy as np
import regex

from tokenizer_bpe.compiled.kernel_cache import inlined, kernel
from tokenizer_bpe.pretokenization import GPT2_PATTERN, digit_limit

OTHER, LETTER, NUMBER, SPACE = range(4)
WHOLE_SPAN = -2  # a whole span is a word
GPT2_RULE = -1  # GPT-4's rule is the largest number of digits in a word; 0 for no limit
_CODE_POINTS, _SLAB = 0x110000, 0x1000
_APOSTROPHE, _BLANK, _NEWLINE, _RETURN = 0x27, 0x20, 0x0A, 0x0D
_LONG_S = 0x17F  # "ſ": matches s if a pattern ignores case


def word_rule(pattern: str) -> int | None:
    """Return the number of a pattern for the functions below; None for a pattern that is not
    compiled.
    """
    return GPT2_RULE if pattern == GPT2_PATTERN else digit_limit(pattern)


@cache
def character_classes() -> np.ndarray:
    """Return code point -> OTHER, LETTER, NUMBER or SPACE, according to `regex`; uint8
    [0x110000].
    """
    classes = np.zeros(_CODE_POINTS, dtype=np.uint8)
    for first in range(0, _CODE_POINTS, _SLAB):  # a string of all of them would take 100 MB
        characters = "".join(map(chr, range(first, first + _SLAB)))
        for kind, pattern in ((LETTER, r"\p{L}+"), (NUMBER, r"\p{N}+"), (SPACE, r"\s+")):
            for match in regex.finditer(pattern, characters):
                classes[first + match.start() : first + match.end()] = kind
    return classes


@inlined
def _character_at(text, place):
    """Return (code point, its length in bytes); `text` is valid UTF-8."""
    first = np.int64(text[place])
    if first < 0x80:
        return first, 1
    second = np.int64(text[place + 1]) & 0x3F
    if first < 0xE0:
        return ((first & 0x1F) << 6) | second, 2
    third = np.int64(text[place + 2]) & 0x3F
    if first < 0xF0:
        return ((first & 0x0F) << 12) | (second << 6) | third, 3
    fourth = np.int64(text[place + 3]) & 0x3F
    return ((first & 0x07) << 18) | (second << 12) | (third << 6) | fourth, 4


@inlined
def _end_of_run(text, place, stop, classes, kind):
    """Return the end of the run of characters of one class that begins at `place`."""
    while place < stop:
        code, length = _character_at(text, place)
        if classes[code] != kind:
            break
        place += length
    return place


@kernel
def _end_of_spaces(text, place, stop, classes):
    r"""`\s+(?!\S)|\s+`: a run of whitespace leaves its last character to the next word."""
    last = place
    end = place
    while end < stop:
        code, length = _character_at(text, end)
        if classes[code] != SPACE:
            break
        last = end
        end += length
    return last if end < stop and last > place else end


@kernel
def _end_of_contraction(text, place, stop, ignore_case):
    """`'(?:[sdmt]|ll|ve|re)` from the apostrophe at `place`; `place` if it does not match."""
    if place + 1 >= stop:
        return place
    code, length = _character_at(text, place + 1)
    second = np.int64(text[place + 2]) if place + 2 < stop else 0
    if ignore_case:
        if code == _LONG_S:
            return place + 1 + length
        if 0x41 <= code <= 0x5A:
            code += 32
        if 0x41 <= second <= 0x5A:
            second += 32
    if code == ord("s") or code == ord("d") or code == ord("m") or code == ord("t"):
        return place + 2
    if code == ord("l") and second == ord("l"):
        return place + 3
    if (code == ord("v") or code == ord("r")) and second == ord("e"):
        return place + 3
    return place


@inlined
def _end_of_gpt2_word(text, place, stop, classes):
    if text[place] == _APOSTROPHE:
        end = _end_of_contraction(text, place, stop, False)
        if end > place:
            return end
    code, length = _character_at(text, place)
    kind = classes[code]
    begin = place
    if code == _BLANK and place + 1 < stop:  # ` ?` in front of letters, numbers or others
        next_code, next_length = _character_at(text, place + 1)
        if classes[next_code] != SPACE:
            kind, length, begin = classes[next_code], next_length, place + 1
    if kind == SPACE:
        return _end_of_spaces(text, place, stop, classes)
    return _end_of_run(text, begin + length, stop, classes, kind)


@kernel
def _end_of_newlines(text, place, stop):
    while place < stop and (text[place] == _NEWLINE or text[place] == _RETURN):
        place += 1
    return place


@kernel
def _end_of_spaces_and_newlines(text, place, stop, classes):
    r"""`\s*[\r\n]+|\s+(?!\S)|\s+`: up to the last newline of the run, if it has one."""
    end_of_newline = place
    end = place
    while end < stop:
        code, length = _character_at(text, end)
        if classes[code] != SPACE:
            break
        end += length
        if code in (_NEWLINE, _RETURN):
            end_of_newline = end
    return end_of_newline if end_of_newline > place else _end_of_spaces(text, place, stop, classes)


@kernel
def _end_of_gpt4_word(text, place, stop, classes, max_digits):
    if text[place] == _APOSTROPHE:
        end = _end_of_contraction(text, place, stop, True)
        if end > place:
            return end
    code, length = _character_at(text, place)
    kind = classes[code]
    after = place + length
    if kind == LETTER:
        return _end_of_run(text, after, stop, classes, LETTER)
    if kind == NUMBER:
        digits = 1
        while after < stop and (max_digits == 0 or digits < max_digits):
            code, length = _character_at(text, after)
            if classes[code] != NUMBER:
                break
            after += length
            digits += 1
        return after
    next_kind = SPACE
    if after < stop:
        next_kind = classes[_character_at(text, after)[0]]
    if next_kind == LETTER and code != _NEWLINE and code != _RETURN:
        return _end_of_run(text, after, stop, classes, LETTER)
    if kind == OTHER or (code == _BLANK and next_kind == OTHER):
        return _end_of_newlines(text, _end_of_run(text, after, stop, classes, OTHER), stop)
    return _end_of_spaces_and_newlines(text, place, stop, classes)


@inlined
def end_of_word(text, place, stop, classes, rule):
    """Return the end of the word that begins at byte `place` of a text that ends at byte `stop`.

    Args:
        text: valid UTF-8; uint8 [bytes].
        place: where a word or the text begins.
        stop: the pattern does not see the text from here.
        classes: from `character_classes`.
        rule: from `word_rule`, or WHOLE_SPAN.
    """
    if rule == WHOLE_SPAN:
        return stop
    if rule == GPT2_RULE:
        return _end_of_gpt2_word(text, place, stop, classes)
    return _end_of_gpt4_word(text, place, stop, classes, rule)


@kernel
def _word_ends(text, classes, rule, ends):
    place, count = 0, 0
    while place < len(text):
        place = end_of_word(text, place, len(text), classes, rule)
        ends[count] = place
        count += 1
    return count


def word_ends(text: np.ndarray, pattern: str) -> np.ndarray:
    """Return the offsets at which the words of `text` end, int64.

    `text` is uint8 [bytes] of valid UTF-8; `pattern` must be one that `word_rule` knows.
    """
    rule = word_rule(pattern)
    assert rule is not None, "the caller must use the lesson for any other pattern"
    ends = np.empty(len(text), dtype=np.int64)
    return ends[: _word_ends(text, character_classes(), rule, ends)]
