"""Strategies of Hypothesis for texts and files, with what people forget."""

import unicodedata
from typing import Any

from hypothesis import strategies as st

from lm_course.drawn_inputs.constant_strategies import near_constants, texts_of_code

# Letters of scripts with and without marks, signs, blanks, and what is invisible.
PIECES = [
    "the", "The", "ROSE", "a", "b", "I", "word", "3", "x2", "é", "É", "ñ", "ø", "ß", "Ǆ", "ﬁ", "ĳ",
    "Ａ", "ａ", "１", "½", "²", "ά", "Σ", "ς", "й", "и", "ё", "ї", "は", "ば", "パ", "ﾊﾞ", "東",
    "ー", "ภา", "ษา", "한국", "어", "가", "שָׁ", "عَلَّم", "कि", "ကိ", "İ", "ı", "K", "Å", "e\u0301",
    "a\u0328\u0301", "и\u0306", "は\u3099", "\u1100\u1161", "1\u0301", "\u0301", "東\u0301",
    "\u00ad", "\u200b", "\u200d", "\ufeff", "\U0001f600", "\U00020000",
]  # fmt: skip
SIGNS = [*"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", "…", "«", "»", "—", "、", "。", "€", "©", "→", "·"]
BLANKS = [" ", " ", " ", "\n", "\r\n", "\t", "\u00a0", "\u3000", "\u2003", "\x0b", "\x1c", "\u0085"]
REPLACED = ["\ufffd", "\x00"]

pieces = st.sampled_from([*PIECES, *PIECES, *SIGNS, *BLANKS, *BLANKS, *REPLACED])
any_character = st.characters(exclude_categories=["Cs", "Mn", "Mc", "Me"])
forms = st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"])


@st.composite
def texts(draw: st.DrawFn) -> str:
    """Texts of these pieces and of any characters, in any normalization form."""
    piece = st.one_of(pieces, pieces, pieces, any_character, texts_of_code(pieces))
    text = "".join(draw(st.lists(piece, max_size=14)))
    if draw(st.booleans()):
        text = unicodedata.normalize(draw(forms), text)
    if size := draw(near_constants(st.just(0), 2, 20_000)):
        text = ((text or "a b ") * (1 + size // max(1, len(text))))[:size]
    return text


# What the order of normalizing, lower case and removing decides.
IN_THIS_ORDER = [
    "a", "e", "Σ", "ΑΣ", "'", ".", " ", "İ", "ǆ", "𝐀", "ſ", "ϓ", "\u0301", "\u0307", "\u030c",
    "\u034f", "\u0345", "\u20d7", "\u200d", "\u00ad", "ﬁ", "Ⓐ",
]  # fmt: skip
few_forms = st.lists(st.sampled_from(IN_THIS_ORDER), max_size=8).map("".join)

words = st.sampled_from(["a", "rose", "is", "Rose", "é", "", " ", "東", "🦉"])
letters = st.sampled_from("abcdefgh")


@st.composite
def word_lists(draw: st.DrawFn) -> list[str]:
    """Words, often repeated; some lists are as long as the code's own numbers say."""
    drawn = draw(st.lists(words, max_size=12))
    if size := draw(near_constants(st.just(0), 2, 4000)):
        drawn = [f"{number % 97}" for number in range(size)]
    return drawn


@st.composite
def similar_texts(draw: st.DrawFn, most: int = 6) -> list[str]:
    """Short texts of which some are edits of earlier ones: other case, a word more or less."""
    made: list[str] = []
    for _ in range(draw(st.integers(0, most))):
        kind = draw(st.integers(0, 6))
        text = " ".join(draw(st.lists(letters, max_size=10)))
        if made and kind >= 2:
            text = draw(st.sampled_from(made))
            parts = text.split(" ")
            place = draw(st.integers(0, len(parts)))
            if kind == 2:
                text = text.upper() + draw(st.sampled_from(["!", " ", "\n", ""]))
            elif kind == 3:
                text = " ".join([*parts[:place], draw(letters), *parts[place:]])
            elif kind == 4:
                text = " ".join(parts[:place] + parts[place + 1 :])
        elif kind == 1:
            text = draw(texts())
        made.append(text)
    return made


@st.composite
def contents(draw: st.DrawFn, most: int = 6) -> dict[str, bytes]:
    """File name -> bytes, in an order that is not that of the names; some are not UTF-8."""
    each = draw(similar_texts(most))
    names = draw(st.permutations([f"{number}.txt" for number in range(len(each))]))
    endings = st.sampled_from(
        [b"", b"", b"\n", b"\r\n", b"\xff", b"\xc3", b"\x00", b"\xef\xbb\xbf"]
    )
    return {
        name: text.encode("utf-8", "replace") + draw(endings)
        for name, text in zip(names, each, strict=True)
    }


def one_in(number: int, rare: st.SearchStrategy[Any], usual: st.SearchStrategy[Any]) -> Any:
    """Mostly the usual ones. (Hypothesis tries 0 more often, so 0 is not the rare one.)"""
    return st.integers(0, number - 1).flatmap(lambda drawn: rare if drawn == 1 else usual)
