"""Strategies of Hypothesis for a1: text of all kinds and lengths, special tokens, patterns, merges,
vocabularies.

What is common in practice is rare among random characters, so each strategy mixes both. What this
leaves out: the functions that get them (test_drawn_*.py).
"""

import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

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

SPECIAL = (
    "<|endoftext|>", "<|e|>", "<|e|><|e|>", "<|é|>", "<|end|>", "<|END|>", "<a b>", "||", ".", "\n",
    "東", "<s>", "<s>\n", "\n<|im|>", "<|im|>",
)  # fmt: skip
special_tokens = st.lists(st.sampled_from(SPECIAL), max_size=4, unique=True)
wrong_special_tokens = st.sampled_from([[""], ["<s>", ""], ["<s>", "<s>"], ["<|e|>", "a", "<|e|>"]])


def nearly(special: list[str]) -> list[str]:
    """Return texts that resemble special tokens: in other case, cut off, of another name."""
    changed = [[token.swapcase(), token.title(), token[:-1], token[1:]] for token in special]
    return [text for each in changed for text in each if text] + ["<x>", "<|x|>", "<|"]


runs = st.builds(
    lambda piece, length: (piece * length)[:4100],
    st.sampled_from(["a", "ab", "é", "1", "東", " ", "\n", ".", "'ll", "a b ", "x.\n"]),
    st.sampled_from(LENGTHS),
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
    some = [draw(st.sampled_from(each)) for each in classes]
    generator = random.Random(draw(st.integers(0, 10**6)))
    length = draw(st.sampled_from([7, 40, 2049, 4097] if long else [7, 40]))
    return "".join(generator.choices(some, k=length))[:4100]


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
    return "".join(generator.choices(common, k=draw(st.sampled_from([5, 300, 1000]))))


def texts(*more: str, max_pieces: int = 25, long: bool = True) -> st.SearchStrategy[str]:
    """Text of every script, with `more` pieces in it (special tokens, say); some of few different
    pieces, some with a long word or a long run of whitespace, some of common words.
    """
    kinds = [st.sampled_from([*PIECES, *more]), st.text(max_size=4)]
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


# Tokens with every byte, 0 and 255 among them, and many that begin alike.
alike = st.lists(st.sampled_from([b"a", b"b", b"\0", b"\xff"]), min_size=1, max_size=9).map(
    b"".join
)
# Characters of two to four bytes, and their parts.
characters = st.sampled_from(
    [character[start:end]
     for character in map(str.encode, "éß東🦉")
     for start in range(len(character)) for end in range(start + 1, len(character) + 1)]
)  # fmt: skip
tokens = st.one_of(alike, characters, st.binary(min_size=1, max_size=6))
short_words = st.lists(tokens, max_size=12).map(tuple)
long_words = st.builds(
    lambda some, times: (some * times)[:4100],
    st.lists(tokens, min_size=1, max_size=3).map(tuple),
    st.sampled_from(LENGTHS),
)
words = st.one_of(short_words, short_words, long_words)
pairs = st.tuples(tokens, tokens)


@st.composite
def counted_pairs(draw: st.DrawFn) -> dict[tuple[bytes, bytes], int]:
    """Pairs and counts, with many ties; some pairs differ only in how a token ends."""
    found = draw(st.dictionaries(pairs, st.integers(1, 2), min_size=1, max_size=12))
    left, right = draw(pairs)
    endings = st.sampled_from([b"", b"\0", b"a", b"\xff", b"\0\0"])
    for _ in range(draw(st.integers(0, 4))):
        found[left + draw(endings), right + draw(endings)] = 2
    return found


@st.composite
def merge_lists(
    draw: st.DrawFn, text: str, from_the_left: bool = False
) -> list[tuple[bytes, bytes]]:
    """Merges that occur in a text, across its words and special tokens too, in an order that no
    trainer need find; `from_the_left`: all of the text becomes one token.
    """
    generator = random.Random(draw(st.integers(0, 10**6)))
    made = [bytes([byte]) for byte in text.encode("utf-8", "replace")[:600]]
    merges: list[tuple[bytes, bytes]] = []
    for _ in range(40 if from_the_left else draw(st.integers(0, 40))):
        if len(made) < 2:
            break
        place = 0 if from_the_left else generator.randrange(len(made) - 1)
        pair = made[place], made[place + 1]
        merges.append(pair)
        made = merged(made, pair)
        if not from_the_left and generator.random() < 0.1:
            generator.shuffle(made)  # two merges may now make the same token
    return list(dict.fromkeys(merges))


@st.composite
def rival_merges(draw: st.DrawFn) -> dict[str, Any]:
    """Merges of the letters a, b, c in any order, several of which make the same token, and texts
    of these letters, of lengths around every threshold.
    """
    generator = random.Random(draw(st.integers(0, 10**6)))
    known, merges = [b"a", b"b", b"c"], []
    for _ in range(draw(st.integers(1, 25))):
        pair = generator.choice(known), generator.choice(known)
        if len(b"".join(pair)) <= 6 and pair not in merges:
            merges.append(pair)
            known = [*known, b"".join(pair)]
    length = draw(st.sampled_from(LENGTHS))
    part = "".join(generator.choices("abc", k=draw(st.integers(1, 12))))
    text = "".join(generator.choices("abc", k=length)) if draw(st.booleans()) else part * length
    known = list(dict.fromkeys([*(bytes([byte]) for byte in range(256)), *known]))
    vocab = Vocabulary(enumerate(known))
    return {"vocab": vocab, "merges": merges, "special_tokens": [], "texts": [text[:4100]]}


def merged(made: list[bytes], pair: tuple[bytes, bytes]) -> list[bytes]:
    """Merge `pair` from left to right."""
    result: list[bytes] = []
    position = 0
    while position < len(made):
        size = 2 if tuple(made[position : position + 2]) == pair else 1
        result.append(b"".join(made[position : position + size]))
        position += size
    return result


class Vocabulary(dict[int, bytes]):
    """A dict whose repr leaves out the bytes, if each has its own number as its id."""

    def __repr__(self) -> str:
        if any(self.get(byte) != bytes([byte]) for byte in range(256)):
            return super().__repr__()
        others = {token_id: token for token_id, token in self.items() if token_id > 255}
        return f"{{0 to 255: the single bytes, {repr(others)[1:]}".replace(", }", "}")


@st.composite
def vocabularies(
    draw: st.DrawFn,
    text: str | None = None,
    special: list[str] | None = None,
    from_the_left: bool = False,
) -> dict[str, Any]:
    """vocab, merges and special_tokens, with ids in any order and with gaps; for this text and
    these tokens, or for drawn ones.
    """
    text = draw(texts(long=False)) if text is None else text
    merges = draw(merge_lists(text, from_the_left))
    special = draw(special_tokens) if special is None else special
    inside = special if draw(st.booleans()) else special[: len(special) // 2]
    known = [bytes([byte]) for byte in range(256)] + [left + right for left, right in merges]
    known = list(dict.fromkeys([*known, *(token.encode() for token in inside)]))
    order = draw(
        st.sampled_from(["in order", "shuffled", "with gaps", "high", "to 65,535", "to 65,536"])
    )
    ids = list(range(len(known)))
    if order != "in order":
        random.Random(draw(st.integers(0, 10**6))).shuffle(ids)
    if order == "with gaps":
        ids = [3 * token_id + 1 for token_id in ids]
    elif order == "high":  # as characters, these would be surrogates
        ids = [55_200 + token_id for token_id in ids]
    elif order.startswith("to"):  # arrays of ids have 16 bits up to here
        ids[0] += (65_535 if order == "to 65,535" else 65_536) - ids[0]
    vocab = Vocabulary(zip(ids, known, strict=True))
    return {"vocab": vocab, "merges": merges, "special_tokens": special}


@st.composite
def word_counts(draw: st.DrawFn) -> dict[str, int]:
    """Words and their counts: few, hundreds of few letters, or two thousand different pairs."""
    kind = draw(st.integers(0, 7))
    generator = random.Random(draw(st.integers(0, 10**6)))
    if kind == 3:  # long tokens that begin alike
        ends = ["", "b", "c", "\0", "a\0"]
        return {
            "a" * generator.choice(LENGTHS[:9]) + end: generator.randint(1, 2)
            for end in ends[: draw(st.integers(1, 5))]
        }
    if kind == 5:
        pairs = [a + b for a in map(chr, range(32, 112)) for b in map(chr, range(32, 112))]
        return {pair: generator.randint(1, 3) for pair in generator.sample(pairs, 2000)}
    if kind in (2, 6):
        letters = [chr(ord("à") + number) for number in range(draw(st.integers(2, 60)))]
        letters = letters if kind == 2 else ["a", "b", "\0"]  # the byte 0 is less than any other
        return {
            "".join(generator.choices(letters, k=generator.randint(1, 6))): generator.randint(1, 3)
            for _ in range(draw(st.integers(1, 1000)))
        }
    short = st.lists(st.sampled_from(PIECES), min_size=1, max_size=8).map("".join)
    return draw(st.dictionaries(short, st.integers(1, 20), max_size=12))


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
