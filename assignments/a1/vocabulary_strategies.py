"""Strategies of Hypothesis for a1: tokens, words, merges, vocabularies, counts.

What this leaves out: the functions that get them (test_drawn_*.py).
"""

import random
from itertools import islice, pairwise
from typing import Any

from hypothesis import strategies as st
from text_strategies import LENGTHS, PIECES, lengths, special_tokens, texts

from lm_course.drawn_inputs.constant_strategies import near_constants, texts_of_code

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
own = texts_of_code(st.just("a")).map(lambda text: text.encode("utf-8", "replace"))
tokens = st.one_of(alike, characters, st.binary(min_size=1, max_size=6), own)
short_words = st.lists(tokens, max_size=12).map(tuple)
long_words = st.builds(
    lambda some, times: (some * times)[: max(times, 4100)],
    st.lists(tokens, min_size=1, max_size=3).map(tuple),
    lengths,
)
words = st.one_of(short_words, short_words, long_words)
pairs = st.tuples(tokens, tokens)


@st.composite
def counted_pairs(draw: st.DrawFn) -> dict[tuple[bytes, bytes], int]:
    """Pairs and counts, with many ties; some pairs differ only in how a token ends."""
    counts = near_constants(st.integers(1, 2), 1, 10**12)
    found = draw(st.dictionaries(pairs, counts, min_size=1, max_size=12))
    left, right = draw(pairs)
    endings = st.sampled_from([b"", b"\0", b"a", b"\xff", b"\0\0"])
    for _ in range(draw(st.integers(0, 4))):
        found[left + draw(endings), right + draw(endings)] = 2
    return found


@st.composite
def merge_lists(draw: st.DrawFn, text: str, how: str = "at random") -> list[tuple[bytes, bytes]]:
    """Merges that occur in a text, across its words and special tokens too, in an order that no
    trainer need find.

    Args:
        how: "at random"; "from the left": all of the text becomes one token; "neighbors": of any
            two characters, so that the ids show where each word ends.
    """
    if how == "neighbors":
        return _merges_of_neighbors(text)
    generator = random.Random(draw(st.integers(0, 10**6)))
    made = [bytes([byte]) for byte in text.encode("utf-8", "replace")[:600]]
    merges: list[tuple[bytes, bytes]] = []
    number = draw(near_constants(st.integers(0, 40), 0, 600)) if how == "at random" else 40
    for _ in range(number):
        if len(made) < 2:
            break
        place = generator.randrange(len(made) - 1) if how == "at random" else 0
        pair = made[place], made[place + 1]
        merges.append(pair)
        made = merged(made, pair)
        if how == "at random" and generator.random() < 0.1:
            generator.shuffle(made)  # two merges may now make the same token
    return list(dict.fromkeys(merges))


def _merges_of_neighbors(text: str) -> list[tuple[bytes, bytes]]:
    """Return the merges of each character's bytes, and then those of two characters."""
    characters = [character.encode("utf-8", "replace") for character in text[:60]]
    of_bytes = [
        (character[:end], character[end : end + 1])
        for character in characters
        for end in range(1, len(character))
    ]
    return list(dict.fromkeys([*of_bytes, *pairwise(characters)]))


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
    length = draw(lengths)
    part = "".join(generator.choices("abc", k=draw(st.integers(1, 12))))
    text = "".join(generator.choices("abc", k=length)) if draw(st.booleans()) else part * length
    known = list(dict.fromkeys([*(bytes([byte]) for byte in range(256)), *known]))
    vocab = Vocabulary(enumerate(known))
    return {
        "vocab": vocab,
        "merges": merges,
        "special_tokens": [],
        "texts": [text[: max(length, 4100)]],
    }


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
    how: str = "at random",
) -> dict[str, Any]:
    """vocab, merges and special_tokens, with ids in any order and with gaps; for this text and
    these tokens, or for drawn ones.
    """
    text = draw(texts(long=False)) if text is None else text
    merges = draw(merge_lists(text, how))
    special = draw(special_tokens) if special is None else special
    inside = special if draw(st.booleans()) else special[: len(special) // 2]
    known = [bytes([byte]) for byte in range(256)] + [left + right for left, right in merges]
    known = list(dict.fromkeys([*known, *(token.encode() for token in inside)]))
    order = draw(st.sampled_from(["in order", "shuffled", "with gaps", "high", "one is large"]))
    ids = list(range(len(known)))
    if order != "in order":
        random.Random(draw(st.integers(0, 10**6))).shuffle(ids)
    if order == "with gaps":
        ids = [3 * token_id + 1 for token_id in ids]
    elif order == "high":  # as characters, these would be surrogates
        ids = [55_200 + token_id for token_id in ids]
    elif order == "one is large":  # arrays of ids have 16 bits up to 65,535
        ids[0] = draw(near_constants(st.sampled_from([65_535, 65_536]), len(ids), 2**31 - 1))
    vocab = Vocabulary(zip(ids, known, strict=True))
    return {"vocab": vocab, "merges": merges, "special_tokens": special}


@st.composite
def word_counts(draw: st.DrawFn) -> dict[str, int]:
    """Words and their counts: few, hundreds of few letters, or two thousand different pairs."""
    kind = draw(st.integers(0, 7))
    counts = near_constants(st.integers(1, 2), 1, 10**9)
    generator = random.Random(draw(st.integers(0, 10**6)))
    if kind == 3:  # long tokens that begin alike
        ends = ["", "b", "c", "\0", "a\0"]
        return {
            "a" * draw(near_constants(st.sampled_from(LENGTHS[:9]), 1, 2000)) + end: draw(counts)
            for end in ends[: draw(st.integers(1, 5))]
        }
    if kind == 5:
        pairs = [a + b for a in map(chr, range(32, 112)) for b in map(chr, range(32, 112))]
        return {pair: generator.randint(1, 3) for pair in generator.sample(pairs, 2000)}
    if kind in (2, 6):
        letters = [chr(ord("à") + number) for number in range(draw(st.integers(2, 60)))]
        letters = letters if kind == 2 else ["a", "b", "\0"]  # the byte 0 is less than any other
        number = draw(near_constants(st.integers(1, 1000), 1, 70_000))
        some = ("".join(generator.choices(letters, k=generator.randint(1, 6))) for _ in range(1000))
        others = (f"{letters[0]}{number}" for number in range(number))
        words = list(dict.fromkeys([*islice(some, number), *others]))[:number]
        return {word: generator.randint(1, 3) for word in words}
    short = st.lists(texts_of_code(st.sampled_from(PIECES)), min_size=1, max_size=8).map("".join)
    counts = near_constants(st.integers(1, 20), 1, 10**9)
    return draw(st.dictionaries(short, counts, max_size=12))
