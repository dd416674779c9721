r"""Sets of characters in `regex` and Oniguruma: escapes, properties and [classes].

Each set is rewritten in notation that both read alike; if there is none, `PatternError` is raised.
A few differ without an error. \h is a hexadecimal digit in Oniguruma and horizontal space in
`regex`. [[:digit:]] is either all of Unicode's digits or 0 to 9. Oniguruma's \w includes six
fractions and exponents outside a class but not inside. A test compares the sets over all
characters.

What this leaves out: sequences of characters (`pattern_dialects`).
"""

import re
from enum import Enum
from typing import NamedTuple


class Dialect(Enum):
    """The library whose notation a pattern uses."""

    REGEX = "regex"
    ONIGURUMA = "Oniguruma"


class PatternError(Exception):
    """A construct that the two do not read alike; the message names it."""


class Cursor:
    """A position in a pattern."""

    def __init__(self, text: str, dialect: Dialect) -> None:
        self.text = text
        self.place = 0
        self.dialect = dialect

    @property
    def is_oniguruma(self) -> bool:
        return self.dialect is Dialect.ONIGURUMA

    def ahead(self, text: str) -> bool:
        return self.text.startswith(text, self.place)

    def take(self, text: str) -> bool:
        """Move past `text` if it is next, and return whether it was."""
        found = self.ahead(text)
        self.place += len(text) if found else 0
        return found

    def next(self, what: str = "its end") -> str:
        """Return the next character, and move past it."""
        if self.place >= len(self.text):
            raise PatternError(f"ends before {what}")
        self.place += 1
        return self.text[self.place - 1]

    def match(self, pattern: str) -> re.Match[str] | None:
        """Match with the standard library's `re` at the position, and move past the match."""
        found = re.compile(pattern).match(self.text, self.place)
        self.place = found.end() if found else self.place
        return found


CONTROL = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "a": "\a"}
WORD = r"\p{Alphabetic}\p{M}\p{Nd}\p{Pc}"
FRACTIONS = "²³¹¼½¾"  # in Oniguruma's \w outside a class
JOINERS = "\u200c\u200d"  # in \w of `regex`
BLANKS, HEXADECIMAL = r"\t\p{Zs}", "0-9a-fA-F"
LINE_ENDS = "(?>\\r\\n|[\\n-\\r\x85\u2028\u2029])"

CATEGORIES = {
    "L": "Letter", "Lu": "Uppercase_Letter", "Ll": "Lowercase_Letter", "Lt": "Titlecase_Letter",
    "Lm": "Modifier_Letter", "Lo": "Other_Letter",
    "M": "Mark", "Mn": "Nonspacing_Mark", "Mc": "Spacing_Mark", "Me": "Enclosing_Mark",
    "N": "Number", "Nd": "Decimal_Number", "Nl": "Letter_Number", "No": "Other_Number",
    "P": "Punctuation", "Pc": "Connector_Punctuation", "Pd": "Dash_Punctuation",
    "Ps": "Open_Punctuation", "Pe": "Close_Punctuation", "Pi": "Initial_Punctuation",
    "Pf": "Final_Punctuation", "Po": "Other_Punctuation",
    "S": "Symbol", "Sm": "Math_Symbol", "Sc": "Currency_Symbol", "Sk": "Modifier_Symbol",
    "So": "Other_Symbol",
    "Z": "Separator", "Zs": "Space_Separator", "Zl": "Line_Separator", "Zp": "Paragraph_Separator",
    "C": "Other", "Cc": "Control", "Cf": "Format", "Co": "Private_Use", "Cn": "Unassigned",
}  # fmt: skip
SCRIPTS = (
    *("Arabic", "Armenian", "Bengali", "Cyrillic", "Devanagari", "Ethiopic", "Georgian", "Greek"),
    *("Gujarati", "Gurmukhi", "Han", "Hangul", "Hebrew", "Hiragana", "Kannada", "Katakana"),
    *("Khmer", "Lao", "Latin", "Malayalam", "Mongolian", "Myanmar", "Sinhala", "Tamil", "Telugu"),
    *("Thai", "Tibetan"),
)
CASED = ("Lu", "Ll", "Lt")  # `regex` treats them all alike if case is ignored


def _plain(name: str) -> str:
    return re.sub(r"[ _-]", "", name).lower()


PROPERTIES = {
    **{_plain(long): short for short, long in CATEGORIES.items()},
    **{_plain(short): short for short in CATEGORIES},
    **{_plain(script): script for script in SCRIPTS},
    "alphabetic": "Alphabetic",
}

# [[:name:]]: its meaning in Oniguruma and in `regex`.
POSIX = {
    "alpha": (r"\p{Alphabetic}", r"\p{Alphabetic}"),
    "alnum": (r"\p{Alphabetic}\p{Nd}", r"\p{Alphabetic}0-9"),
    "digit": (r"\d", "0-9"),
    "space": (r"\s", r"\s"),
    "blank": (BLANKS, BLANKS),
    "cntrl": (r"\p{Cc}", r"\p{Cc}"),
    "xdigit": (HEXADECIMAL, HEXADECIMAL),
    "word": (WORD, WORD + JOINERS),
}


class Literal(NamedTuple):
    """An escape that represents one character."""

    character: str


def escape(cursor: Cursor, in_class: bool, ignores_case: bool) -> Literal | str:
    r"""Read an escape after its backslash: a character, or a set in notation that both share.

    Inside a class, the set is returned without its brackets.
    """
    letter = cursor.next("the character after a backslash")
    if letter in "dDsS":
        return f"\\{letter}"
    if letter in CONTROL or (letter == "e" and cursor.is_oniguruma):
        return Literal(CONTROL.get(letter, "\x1b"))
    if letter in "pP":
        return _property(cursor, letter == "P", ignores_case)
    if letter in "xuU":
        return Literal(_numbered(cursor, letter))
    if in_class and letter == "b":
        return Literal("\b")
    if letter in "wWhH":
        return _set_of(cursor, letter, in_class)
    if not letter.isascii() or not letter.isalnum():
        return Literal(letter)
    raise PatternError(f"has \\{letter}")


def _set_of(cursor: Cursor, letter: str, in_class: bool) -> str:
    """Read \\w and \\h, and their opposites outside a class."""
    if letter in "wW":
        extra = ("" if in_class else FRACTIONS) if cursor.is_oniguruma else JOINERS
        inside = WORD + extra
    else:
        inside = HEXADECIMAL if cursor.is_oniguruma else BLANKS
    if letter.islower():
        return inside if in_class else f"[{inside}]"
    if in_class:
        raise PatternError(f"has \\{letter} inside [...]")
    return f"[^{inside}]"


def _numbered(cursor: Cursor, letter: str) -> str:
    r"""Read \x41, \x{1F600} (Oniguruma), \u0041, \U0001F600 (`regex`)."""
    if letter == "x" and cursor.is_oniguruma and (found := cursor.match(r"\{([0-9a-fA-F]+)\}")):
        code = int(found[1], 16)
    else:
        digits = {"x": 2, "u": 4, "U": 8}[letter]
        found = cursor.match(rf"[0-9a-fA-F]{{{digits}}}")
        if found is None or (letter == "U" and cursor.is_oniguruma):
            raise PatternError(f"has \\{letter} without its digits")
        code = int(found[0], 16)
        if letter == "x" and cursor.is_oniguruma and code >= 0x80:
            raise PatternError(f"has \\x{found[0]}, a part of a character")
    if code > 0x10FFFF or 0xD800 <= code < 0xE000:
        raise PatternError(f"has the code {code:X}, which is not a character")
    return chr(code)


def _property(cursor: Cursor, negated: bool, ignores_case: bool) -> str:
    """Read \\p{...} by a name that both know."""
    found = cursor.match(r"\{(\^?)([^{}]*)\}")
    if found is None:
        raise PatternError("has \\p without {...}")
    name = found[2]
    if not cursor.is_oniguruma:
        name = re.sub(r"^(?i:script|sc|general_category|gc)\s*[=:]\s*", "", name)
    known = PROPERTIES.get(_plain(name))
    if known is None or (ignores_case and known in CASED):
        raise PatternError(f"has \\p{{{found[2]}}}")
    return rf"\{'P' if negated != bool(found[1]) else 'p'}{{{known}}}"


def check_case(character: str) -> None:
    """Reject a character on whose other cases the two libraries disagree."""
    if not character.isascii() or character in "iI":
        raise PatternError(f"ignores the case of {character!r}")


def character_class(cursor: Cursor, ignores_case: bool) -> str:
    """Read a [class] after its opening bracket."""
    negated = cursor.take("^")
    items = _items(cursor, ignores_case, negated)
    return f"[{'^' if negated else ''}{items}]"


def _items(cursor: Cursor, ignores_case: bool, negated: bool) -> str:
    """Read the contents of a class, up to its closing bracket."""
    items: list[str] = []
    while not cursor.take("]") or not items:
        if items == [] and cursor.place and cursor.text[cursor.place - 1] == "]":
            items.append(r"\]")  # a ] in first position is a character
            continue
        item = _item(cursor, ignores_case, negated)
        if isinstance(item, str):
            items.append(item)
            if cursor.is_oniguruma and cursor.match(r"-(?!\])"):
                raise PatternError("has a - after a set in [...]")
            continue
        low = item.character
        if not (cursor.ahead("-") and not cursor.text.startswith("]", cursor.place + 1)):
            items.append(_written(low, items[-1] if items else ""))
            _check_literal(low, low, ignores_case, negated)
            continue
        cursor.take("-")
        high = _item(cursor, ignores_case, negated)
        if isinstance(high, str) or high.character < low:
            raise PatternError("has a range in [...] without an end")
        items.append(f"{_written(low, '')}-{_written(high.character, '')}")
        _check_literal(low, high.character, ignores_case, negated)
    return "".join(items)


def _item(cursor: Cursor, ignores_case: bool, negated: bool) -> Literal | str:
    """Read the next character or set of a class."""
    if found := cursor.match(r"\[:(\^?)(\w+):\]"):
        if found[1] or found[2] not in POSIX:
            raise PatternError(f"has {found[0]}")
        return POSIX[found[2]][0 if cursor.is_oniguruma else 1]
    if cursor.is_oniguruma and cursor.ahead("&&"):
        raise PatternError("has && (the intersection of two sets)")
    character = cursor.next("the ] of a class")
    if character == "[" and cursor.is_oniguruma:
        if cursor.ahead("^"):
            raise PatternError("has [^...] inside [...]")
        return _items(cursor, ignores_case, negated)
    return escape(cursor, True, ignores_case) if character == "\\" else Literal(character)


def _check_literal(low: str, high: str, ignores_case: bool, negated: bool) -> None:
    if not ignores_case:
        return
    letters = [chr(code) for code in range(ord(low), min(ord(high), 0x80) + 1)]
    for character in [*letters, high]:
        check_case(character)
        if negated and character.isalpha():
            raise PatternError(f"ignores the case of {character!r} in [^...]")


def _written(character: str, before: str) -> str:
    """Write a character inside a class; doubled &, |, ~ or - have a meaning in one of the
    libraries.
    """
    if character in "\\[]-" or (character == "^" and not before):
        return f"\\{character}"
    if character in "&|~" and before.endswith(character):
        return f"\\{character}"
    return as_written(character)


def as_written(character: str) -> str:
    """Write a control character as an escape; any other as it is."""
    names = {character: letter for letter, character in CONTROL.items()}
    return f"\\{names[character]}" if character in names else character
