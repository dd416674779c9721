"""The definition of encoding, against words by hand and one merge at a time."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenizer_bpe.merge_training import train_bpe_from_counts
from tokenizer_bpe.naive_encoding import encode, encode_word

END = "<|endoftext|>"
BYTES = {byte: bytes([byte]) for byte in range(256)}
LETTERS = "abcde 'é"


def one_merge_at_a_time(word: bytes, ranks: dict) -> list[bytes]:
    """While any merge fits, make the earliest one, at its leftmost place."""
    tokens = [bytes([byte]) for byte in word]
    while fitting := [(ranks[pair], i) for i, pair in enumerate(pairwise(tokens)) if pair in ranks]:
        _, place = min(fitting)
        tokens[place : place + 2] = [tokens[place] + tokens[place + 1]]
    return tokens


@given(word=st.text(LETTERS, max_size=40), seed=st.integers(0, 10))
def test_all_places_at_once_is_one_place_at_a_time_for_trained_merges(word: str, seed: int) -> None:
    draw = random.Random(seed)
    corpus = {"".join(draw.choices(LETTERS, k=6)): 1 for _ in range(30)}
    _, merges = train_bpe_from_counts(corpus, 330, [])
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    assert list(encode_word(word.encode(), ranks)) == one_merge_at_a_time(word.encode(), ranks)


def test_a_merge_is_made_in_all_its_places_before_any_other() -> None:
    """No trainer makes these merges: (aa, a) is earlier than (a, a), on which it depends."""
    ranks = {(b"aa", b"a"): 0, (b"a", b"a"): 1}
    assert encode_word(b"aaaa", ranks) == (b"aa", b"aa")
    assert one_merge_at_a_time(b"aaaa", ranks) == [b"aaa", b"a"]


def test_a_text_worked_by_hand() -> None:
    vocab = BYTES | {256: b"th", 257: b" th", 258: END.encode()}
    merges = [(b"t", b"h"), (b" ", b"th")]
    assert encode(f"th th{END}é", vocab, merges, [END]) == [256, 257, 258, 195, 169]
    assert encode(f"{END}", vocab, merges) == list(END.encode())
    assert encode("", vocab, merges, [END]) == []


def test_verbose_shows_every_merge(capsys: pytest.CaptureFixture[str]) -> None:
    vocab = BYTES | {256: b"an", 257: b"anan"}
    encode("banana é", vocab, [(b"a", b"n"), (b"an", b"an")], verbose=True)
    assert capsys.readouterr().out.splitlines() == [
        "b a n a n a", "b an an a", "b anan a", r"  \xc3 \xa9",
    ]  # fmt: skip
