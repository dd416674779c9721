"""Strategies of Hypothesis for a1: text of all kinds and lengths, special tokens, patterns, files.

What is common in practice is rare among random characters, so each strategy mixes both. What this
leaves out: tokens and vocabularies (vocabulary_strategies.py).
"""

import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from lm_course.drawn_inputs.constant_strategies import near_constants, texts_of_code

GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
GPT4 = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = (
    GPT2,
    GPT4,
    GPT4.replace("{1,3}", "{1,1}"),
    GPT4.replace("{1,3}", "+"),
    r"\s+|\S+",
    r"(?s:.)",
    r"[a-m]+|[^a-m]+",
)
patterns = st.sampled_from([GPT2, GPT4, GPT2, GPT4, *PATTERNS])

PIECES = (
    "a", "b", "ab", "aaa", "low", " low", "lower", "the", " the", " cat", "They", "don",
    "'s", "'S", "'ll", "'LL", "'Ve", "'t", "'", "’s", "'ſ",
    " ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", "\x0b", "\x1c", "\x85", "\xa0", "\u2028",
    "\u3000",
    "é", "e\u0301", "ï", "ß", "İ", "ı", "Ａ", "한", "\u1112\u1161\u11ab", "東京", "ไทย", "नमस्ते",
    "1", "2024", "12345678", "²", "½", "١٢", "Ⅷ", "3.14",
    ".", "!", "?!", "...", ".\n", "!\r\n", "-", "—", "_", "«", "$", "#", "<", "|", ">", "<|", "|>",
    "\0", "\x7f", "\ufeff", "\u200b", "\u200d", "\ufffd", "\U0010ffff", "🦉", "👩‍👩‍👧", "🇯🇵",
)  # fmt: skip
LENGTHS = (2, 3, 40, 127, 255, 256, 257, 399, 401, 512, 1025, 2049, 4097)  # around usual limits
LONGEST = 20_000  # of a length that the code names
lengths = near_constants(st.sampled_from(LENGTHS), 1, LONGEST)

SPECIAL = (
    "<|endoftext|>", "<|e|>", "<|e|><|e|>", "<|é|>", "<|end|>", "<|END|>", "<a b>", "||", ".", "\n",
    "東", "<s>", "<s>\n", "\n<|im|>", "<|im|>",
    "‹début de texte›", f"<{'long' * 80}>",
)  # fmt: skip


@st.composite
def special_tokens_of_any_number(draw: st.DrawFn) -> list[str]:
    """Up to four special tokens; more if the code knows a number. Some begin and end alike, of two
    letters.
    """
    if draw(st.integers(0, 4)) == 3:
        return draw(st.lists(st.text("<a", min_size=1, max_size=5), max_size=4, unique=True))
    some = draw(st.lists(texts_of_code(st.sampled_from(SPECIAL)), max_size=4, unique=True))
    number = draw(near_constants(st.just(0), 5, 300))
    return [*some, *(f"<|{i}|>" for i in range(number - len(some)))]


special_tokens = special_tokens_of_any_number()
wrong_special_tokens = st.sampled_from([[""], ["<s>", ""], ["<s>", "<s>"], ["<|e|>", "a", "<|e|>"]])


def nearly(special: list[str]) -> list[str]:
    """Return texts that resemble special tokens: in other case, cut off, of another name."""
    changed = [[token.swapcase(), token.title(), token[:-1], token[1:]] for token in special]
    return [text for each in changed for text in each if text] + ["<x>", "<|x|>", "<|"]


runs = st.builds(
    lambda piece, length: (piece * min(length, LONGEST // len(piece)))[: max(length, 4100)],
    texts_of_code(
        st.sampled_from(["a", "ab", "é", "1", "東", " ", "\n", ".", "'ll", "a b ", "x.\n"])
    ),
    lengths,
)


# What patterns tell apart.
SPACES = (
    " ", "  ", "\n", "\n\n", "\r\n", " \n", "\r", "\t", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e",
    "\x1f",
    "\x85", "\xa0", "\u1680", "\u2028", "\u200b", "\u3000",
)  # fmt: skip
MARKS = (".", "!", "'", "-", "_", "<", "|", "\0", "…", "$", "\u0301", "🦉", "\ufeff")
LETTERS = ("a", "low", "Z", "s", "ll", "é", "ß", "İ", "ª", "東", "नि", "\u1112\u1161")
NUMBERS = ("1", "2024", "²", "½", "Ⅷ", "١")


@st.composite
def dense(draw: st.DrawFn, more: tuple[str, ...], long: bool) -> str:
    """A text of a few pieces of each class in any order, so that each stands beside each."""
    classes = [SPACES, SPACES, MARKS, LETTERS, NUMBERS + more]
    if draw(st.booleans()):
        classes = [[each for each in some if each.isascii()] for some in classes]
    some = [draw(texts_of_code(st.sampled_from(each))) for each in classes]
    generator = random.Random(draw(st.integers(0, 10**6)))
    usual = st.sampled_from([7, 40, 2049, 4097] if long else [7, 40])
    length = draw(near_constants(usual, 5, LONGEST if long else 5000))
    return "".join(generator.choices(some, k=length))[: max(length, 4100)]


@st.composite
def prose(draw: st.DrawFn, more: tuple[str, ...]) -> str:
    """Common words, as long as a page: longer than the blocks in which people read."""
    generator = random.Random(draw(st.integers(0, 10**6)))
    common = [
        *(f" {word}" for word in ("the", "low", "It's", "of", "a1", "Élan")),
        ", ",
        ".\n",
        *more,
    ]
    return "".join(
        generator.choices(common, k=draw(near_constants(st.sampled_from([5, 300, 1000]), 1, 5000)))
    )


def texts(*more: str, max_pieces: int = 25, long: bool = True) -> st.SearchStrategy[str]:
    """Text of every script, with `more` pieces in it (special tokens, say); some of few different
    pieces, some with a long word or a long run of whitespace, some of common words.
    """
    kinds = [texts_of_code(st.sampled_from([*PIECES, *more])), st.text(max_size=4)]
    piece = st.one_of(*kinds[:1], *kinds)  # two thirds from the list
    short = st.lists(piece, max_size=max_pieces).map("".join)
    if not long:
        return st.one_of(short, dense(more, long))
    beside = st.builds(lambda a, run, b: a + run + b, short, runs, short)
    return st.one_of(short, dense(more, long), beside, prose(more))


def with_wrong(right: st.SearchStrategy[Any], wrong: st.SearchStrategy[Any]) -> Any:
    """Mostly the right ones; one draw in eight is wrong. (Hypothesis tries 0 more often.)"""
    return st.integers(0, 7).flatmap(lambda number: wrong if number == 5 else right)


@st.composite
def texts_and_special_tokens(draw: st.DrawFn, long: bool = True, number: int = 1) -> dict[str, Any]:
    """`texts` and `special_tokens`: texts with these tokens, and with what looks like them."""
    special = draw(special_tokens)
    each = texts(*special, *SPECIAL, *nearly(special), long=long)
    drawn = draw(st.lists(each, min_size=1, max_size=number))
    return {
        "texts": drawn,
        "special_tokens": draw(with_wrong(st.just(special), wrong_special_tokens)),
    }


@contextmanager
def file_of(content: bytes | str | None, as_text: bool = False) -> Iterator[Path | str]:
    """A file with this content, as a Path or a str; a path without a file for None, and a folder
    for "folder".
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "corpus.txt")
        if content == "folder":
            path.mkdir()
        elif content is not None:
            path.write_bytes(content)
        yield str(path) if as_text else path
