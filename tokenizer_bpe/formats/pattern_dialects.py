r"""Patterns in a notation that two libraries read differently: `regex`, with which we cut words,
and Oniguruma, which `tokenizers` uses.

`neutral_pattern` rewrites a pattern so that both cut every text alike, or names the obstacle. They
differ silently in many places. \p{N}{1,3}+ is possessive in `regex` and matches up to three digits;
in Oniguruma it matches any number of digits. $ matches before every newline in Oniguruma. (?m)
affects ^ and $ in one and the dot in the other. [a&&b] is the intersection of two sets, or three
characters.

What this leaves out: assertions about the text before a word (^, \b, lookbehind), since words are
also cut without the text before them; references to groups, recursion, conditions, and letters
whose cases the two treat differently. Each is rejected by name.

Sources: Oniguruma's doc/RE, and the documentation of `regex`; a test compares the two libraries.
"""

import re
from functools import lru_cache
from typing import NamedTuple

import regex

from lm_core.user_error import UserError
from tokenizer_bpe.formats.pattern_characters import (
    LINE_ENDS,
    Cursor,
    Dialect,
    Literal,
    PatternError,
    as_written,
    character_class,
    check_case,
    escape,
)
from tokenizer_bpe.pretokenization import GPT2_PATTERN, digit_limit, split_digits_pattern

MOST_REPEATS = 1000
CHARACTERS_AT_A_TIME = 8
ANY_CHARACTER = r"[\s\S]"
TEXT_END = r"(?![\s\S])"
LAST_LINE_END = r"(?!(?>\n?)[\s\S])"  # at the end, or before a final newline
LINE_END = r"(?![^\n])"
FOLDED_TOGETHER = re.compile("ss|ff|fl|st")  # one character, such as ß, may equal two


class Neutral(NamedTuple):
    """A pattern that both read alike.

    Attributes:
        text: the pattern.
        sure: its alternatives that do not look ahead.
    """

    text: str
    sure: tuple[str, ...]


class _Part(NamedTuple):
    """A piece of a pattern as both read it.

    Attributes:
        text: the piece.
        least: the fewest characters that it matches.
        looks: whether it looks ahead.
        lazy: whether its repeat is lazy.
    """

    text: str
    least: int
    looks: bool = False
    lazy: bool = False


class _Flags(NamedTuple):
    ignores_case: bool = False
    dot_all: bool = False
    line_ends: bool = False  # $ matches before every newline


def neutral_pattern(pattern: str, dialect: Dialect) -> Neutral:
    """Rewrite a pattern so that `regex` and Oniguruma cut every text alike by it.

    Raises PatternError, which names the obstacle.
    """
    if dialect is Dialect.REGEX:
        _compiled(pattern)
    cursor = Cursor(pattern, dialect)
    flags = _Flags()
    wrap = False
    if found := cursor.match(r"\(\?([a-zA-Z]+)\)"):
        flags, _ = _with_flags(flags, found[1], "", dialect)
        wrap = flags.ignores_case
    try:
        parts = _alternatives(cursor, flags)
    except RecursionError:
        raise PatternError("has too many nested groups") from None
    if cursor.place < len(pattern):
        raise PatternError("has a ) without its (")
    if any(part.least == 0 for part in parts):
        raise PatternError("can match the empty text")
    text = "|".join(part.text for part in parts)
    sure = [part.text for part in parts if not part.looks]
    if wrap:
        text, sure = f"(?i:{text})", [f"(?i:{each})" for each in sure]
    _compiled(text)
    return Neutral(text, tuple(sure))


def pattern_read(pattern: str, where: str) -> str:
    """Return a pattern of Oniguruma in a form that we can use.

    The text between its matches is a word in `tokenizers` but would be lost here, so it gets its
    own alternative. Raises ValueError, which begins with `where`, for a pattern that `regex` would
    read differently.
    """
    if _is_ours(pattern):
        return pattern
    try:
        found = neutral_pattern(pattern, Dialect.ONIGURUMA)
    except PatternError as error:
        raise UserError(
            f"{where}: the pattern {pattern!r} {error}, which we do not read as Oniguruma does; "
            "use the `tokenizers` library for this file"
        ) from None
    is_whole = _has_gaps(found.text) or unmatched_character(found.sure) is None
    return found.text if is_whole else _with_gaps(found.text)


def pattern_to_write(pattern: str) -> str:
    """Return a pattern with which `tokenizers` cuts the same words as `regex` does with this one.

    Raises ValueError if there is none, or if the pattern does not match every character:
    `tokenizers` would make words of the text that we skip.
    """
    if _is_ours(pattern):
        return pattern
    cannot = f"the pattern {pattern!r} cannot be written to a tokenizer.json: it"
    try:
        found = neutral_pattern(pattern, Dialect.REGEX)
    except PatternError as error:
        raise UserError(f"{cannot} {error}; rewrite it") from None
    left_out = None if _has_gaps(found.text) else unmatched_character(found.sure)
    if left_out is not None:
        raise UserError(
            f"{cannot} does not match {left_out!r}, which would be lost; add a part that matches "
            "every other character"
        )
    return found.text


def _with_gaps(pattern: str) -> str:
    """Return the pattern with an alternative for the text between two matches."""
    return rf"{pattern}|(?:(?!{pattern})[\s\S])+"


def _has_gaps(pattern: str) -> bool:
    """Return whether `_with_gaps` made this pattern, which then contains another pattern twice."""
    once = (len(pattern) - len(_with_gaps(""))) // 2
    return once > 0 and pattern == _with_gaps(pattern[:once])


def _is_ours(pattern: str) -> bool:
    """Return whether the pattern is one of `pretokenization`, which were compared thoroughly."""
    split = [split_digits_pattern(individual) for individual in (True, False)]
    return pattern in (GPT2_PATTERN, *split) or digit_limit(pattern) is not None


@lru_cache(maxsize=256)
def unmatched_character(sure: tuple[str, ...]) -> str | None:
    r"""Return a character that no alternative is sure to match; None if there is none.

    Every character is tried, but not next to every other: in a long text, \s+b rescans all that
    follows from each place. That takes 0.4 to 0.6 s, or 1.6 s with nested repeats, so the answers
    are kept: a tokenizer is often saved and read again.
    """
    if ANY_CHARACTER in sure:
        return None
    compiled = regex.compile(f"(?:{'|'.join(sure) or '(?!)'})++")
    for codes in (range(0xD800), range(0xE000, 0x110000)):
        for start in range(0, len(codes), CHARACTERS_AT_A_TIME):
            text = "".join(map(chr, codes[start : start + CHARACTERS_AT_A_TIME]))
            left_over = compiled.sub("", text)
            if left_over:
                return left_over[0]
    return None


def _compiled(pattern: str) -> None:
    try:
        compiled = regex.compile(pattern)
    except (regex.error, OverflowError, RecursionError) as error:
        raise PatternError(f"cannot be read by the `regex` module: {error}") from None
    if compiled.groups:
        raise PatternError("has a capturing group; write (?:...) for (...)")


def _alternatives(cursor: Cursor, flags: _Flags) -> list[_Part]:
    parts = [_branch(cursor, flags)]
    while cursor.take("|"):
        parts.append(_branch(cursor, flags))
    return parts


def _branch(cursor: Cursor, flags: _Flags) -> _Part:
    parts: list[_Part] = []
    while cursor.place < len(cursor.text) and not (cursor.ahead("|") or cursor.ahead(")")):
        parts.append(_repeated(cursor, _atom(cursor, flags)))
    text = "".join(part.text for part in parts)
    if flags.ignores_case:
        letters = re.sub(r"[^a-z]", "", re.sub(r"\\.", "", text).lower())
        if found := FOLDED_TOGETHER.search(letters):
            raise PatternError(f"ignores the case of {found[0]!r}, two letters that may equal one")
    return _Part(text, sum(part.least for part in parts), any(part.looks for part in parts))


def _atom(cursor: Cursor, flags: _Flags) -> _Part:
    character = cursor.next()
    if character == "(":
        return _group(cursor, flags)
    if character == "[":
        return _Part(character_class(cursor, flags.ignores_case), 1)
    if character == "\\":
        return _escaped(cursor, flags)
    if character == ".":
        return _Part(r"[\s\S]" if flags.dot_all else ".", 1)
    if character == "$":
        lines = cursor.is_oniguruma or flags.line_ends
        return _Part(LINE_END if lines else LAST_LINE_END, 0, looks=True)
    if character == "^":
        raise PatternError("has ^, which looks at the text before a word")
    if character in "*+?":
        raise PatternError(f"has {character} with nothing to repeat")
    if character == "{" and (
        not cursor.is_oniguruma or re.match(r"[\d, ]*\}", cursor.text[cursor.place :])
    ):
        raise PatternError("has { with nothing to repeat; write \\{ for the character")
    return _character(character, flags)


def _character(character: str, flags: _Flags) -> _Part:
    if flags.ignores_case:
        check_case(character)
    special = character in "\\.^$|()[]{}*+?"
    return _Part(f"\\{character}" if special else as_written(character), 1)


def _escaped(cursor: Cursor, flags: _Flags) -> _Part:
    if cursor.take("R"):
        return _Part(LINE_ENDS, 1)
    if cursor.take("z"):
        return _Part(TEXT_END, 0, looks=True)
    if cursor.take("Z"):
        return _Part(LAST_LINE_END if cursor.is_oniguruma else TEXT_END, 0, looks=True)
    found = escape(cursor, False, flags.ignores_case)
    return _character(found.character, flags) if isinstance(found, Literal) else _Part(found, 1)


def _group(cursor: Cursor, flags: _Flags) -> _Part:
    """Read a group after its opening bracket."""
    while cursor.take("?#"):
        while cursor.next("the ) of a comment") != ")":
            pass
        return _Part("", 0)
    if cursor.take("?="):
        return _closed(cursor, "(?=", flags)._replace(least=0, looks=True)
    if cursor.take("?!"):
        return _closed(cursor, "(?!", flags)._replace(least=0, looks=True)
    if cursor.take("?>"):
        return _closed(cursor, "(?>", flags)
    if found := cursor.match(r"\?([a-zA-Z]*)(?:-([a-zA-Z]+))?:"):
        inner, opening = _with_flags(flags, found[1], found[2] or "", cursor.dialect)
        return _closed(cursor, opening, inner)
    if cursor.is_oniguruma and (cursor.match(r"\?<\w+>") or not cursor.ahead("?")):
        return _closed(cursor, "(?:", flags)  # its capture is never used
    raise PatternError(f"has ({cursor.text[cursor.place : cursor.place + 3]}")


def _closed(cursor: Cursor, opening: str, flags: _Flags) -> _Part:
    parts = _alternatives(cursor, flags)
    if not cursor.take(")"):
        raise PatternError("has a ( without its )")
    text = "|".join(part.text for part in parts)
    least = min(part.least for part in parts)
    return _Part(f"{opening}{text})", least, any(part.looks for part in parts))


def _with_flags(flags: _Flags, on: str, off: str, dialect: Dialect) -> tuple[_Flags, str]:
    """Return the flags inside a group, and its opening text."""
    dot_all = "m" if dialect is Dialect.ONIGURUMA else "s"
    fields = {"i": "ignores_case", dot_all: "dot_all"}
    if dialect is Dialect.REGEX:
        fields["m"] = "line_ends"
    for letter in on + off:
        if letter not in fields:
            raise PatternError(f"sets the flag {letter}")
    changes = {fields[letter]: True for letter in on} | {fields[letter]: False for letter in off}
    inner = flags._replace(**changes)
    if inner.ignores_case == flags.ignores_case:
        return inner, "(?:"
    return inner, "(?i:" if inner.ignores_case else "(?-i:"


def _repeated(cursor: Cursor, part: _Part) -> _Part:
    """Return a part with the repeats that follow it."""
    is_repeated = False
    while True:
        if part.text == "" and cursor.match(r"[*+?{]"):  # the two differ on what it repeats
            raise PatternError("repeats a comment")
        if found := cursor.match(r"[*+?]"):
            low, high = {"*": (0, None), "+": (1, None), "?": (0, 1)}[found[0]]
            sign = found[0]
        elif found := cursor.match(r"\{(\d*)(,?)(\d*)\}"):
            low, high, sign = _interval(found, cursor)
        else:
            return part
        if (part.least == 0 and high is None) or part.text.startswith(("(?=", "(?!")):
            raise PatternError(f"repeats a part that can match the empty text ({part.text})")
        suffix = _suffix(cursor, found[0])
        if is_repeated and (part.lazy or suffix == "?"):
            raise PatternError("repeats a lazy repeat")
        inner = f"(?:{part.text})" if is_repeated else part.text
        text = f"{inner}{sign}{suffix}"
        if suffix == "+" and sign.startswith("{"):
            text = f"(?>{inner}{sign})"
        part = _Part(text, part.least * low, part.looks, suffix == "?")
        is_repeated = True


def _interval(found: re.Match[str], cursor: Cursor) -> tuple[int, int | None, str]:
    low = int(found[1] or 0)
    high = int(found[3]) if found[3] else (None if found[2] else low)
    if not (found[1] or found[3]) or max(low, high or 0) > MOST_REPEATS:
        raise PatternError(f"repeats {found[0]}")
    if high is not None and high < max(low, 1):
        raise PatternError(f"repeats {found[0]}")
    return low, high, f"{{{low},{found[3]}}}" if found[2] else found[0]


def _suffix(cursor: Cursor, sign: str) -> str:
    """Read ? for lazy or + for possessive, which only `regex` accepts after an interval."""
    if sign.startswith("{") and cursor.is_oniguruma and cursor.ahead("?") and "," not in sign:
        raise PatternError(f"repeats {sign}?")
    if cursor.take("?"):
        return "" if sign.startswith("{") and "," not in sign else "?"
    if (not sign.startswith("{") or not cursor.is_oniguruma) and cursor.take("+"):
        return "+"
    return ""
