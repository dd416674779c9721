"""Every wrong input is one clear ValueError."""

import os

import pytest

from lm_core.user_error import UserError
from tokenizer_bpe.inputs.input_checks import (
    check_merges,
    check_order_of_merges,
    check_special_tokens,
    check_vocab_size,
    utf8_bytes,
)

BYTES = {byte: bytes([byte]) for byte in range(256)}


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["<a>", ""], "special token 1 is empty"),
        (["<a>", "<b>", "<a>"], "'<a>' is named twice"),
        ("<|endoftext|>", "expected a list of strings"),
    ],
)
def test_special_tokens_must_be_distinct_and_not_empty(tokens, message):
    with pytest.raises(ValueError, match=message):
        check_special_tokens(tokens)


def test_a_vocabulary_must_hold_the_bytes_and_the_special_tokens():
    check_vocab_size(258, ["<a>", "<b>"])
    with pytest.raises(ValueError, match=r"vocab_size 257 is too small.* need 258"):
        check_vocab_size(257, ["<a>", "<b>"])


def test_merges_that_match_give_the_ids():
    vocab = BYTES | {256: b"ab", 257: b"abc"}
    assert check_merges(vocab, [(b"a", b"b"), (b"ab", b"c")])[b"abc"] == 257


@pytest.mark.parametrize(
    ("vocab", "merges", "message"),
    [
        (BYTES, [(b"a", b"b")], "merge 1 makes b'ab', which the vocabulary lacks"),
        (
            BYTES | {256: b"ab", 257: b"abc"},
            [(b"ab", b"c"), (b"a", b"b")],
            "merge 1 joins b'ab' and b'c', but no earlier merge makes b'ab'",
        ),
        ({i: b for i, b in BYTES.items() if i != 7}, [], "no token for byte 0x07"),
        (BYTES | {-1: b"ab"}, [], "token id -1 is out of range"),
        (BYTES | {0x110000: b"ab"}, [], "token id 1114112 is out of range"),
    ],
)
def test_merges_that_do_not_match_the_vocabulary(vocab, merges, message):
    with pytest.raises(ValueError, match=message):
        check_merges(vocab, merges)


def test_a_merge_that_comes_later_than_a_pair_with_its_result():
    in_order = [(b"b", b"c"), (b"a", b"bc"), (b"abc", b"a"), (b"ab", b"c")]
    check_order_of_merges(in_order[:3])
    check_order_of_merges([*in_order[:2], (b"ab", b"c"), (b"abc", b"a")])
    with pytest.raises(ValueError, match=r"^line 4 makes b'abc', but line 3 joins b'abc' and b'a'"):
        check_order_of_merges(in_order, lambda index: f"line {index + 1}")
    with pytest.raises(ValueError, match="merge 3 makes b'ab', but merge 2 joins b'ab' and b'c'"):
        check_order_of_merges([(b"a", b"b"), (b"ab", b"c"), (b"a", b"b")])


def test_a_byte_of_the_command_line_that_is_not_utf8_is_named():
    """Python stores such a byte of an argument as U+DC80 to U+DCFF."""
    with pytest.raises(UserError, match=r"the byte 0xff, which is not valid UTF-8 there"):
        utf8_bytes("a" + os.fsdecode(b"\xff"))
    for text in ("\ud800", "\udc00"):
        with pytest.raises(UserError, match="half of a surrogate pair"):
            utf8_bytes(text)
