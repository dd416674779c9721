"""The blocks of a file, joined, are the file, and counting them one by one counts the file."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizer_bpe.inputs import text_files
from tokenizer_bpe.inputs.text_files import (
    check_text_file,
    decode_text,
    safe_separator,
    text_file_blocks,
)
from tokenizer_bpe.pretokenization import (
    GPT2_PATTERN,
    GPT4_PATTERN,
    gpt4_pattern,
    pretokenize,
    split_special_tokens,
)

END = "<|endoftext|>"
TOKENS = [END, f"{END}{END}", "<|a", "b c", "aa", "ab", "ba", "漢語漢", "語漢é", "漢", "1", "d"]
texts = st.lists(
    st.sampled_from([*"abcd1 \n'!é漢語<|", "  ", " \n", "'ll", *TOKENS]), min_size=1, max_size=30
).map("".join)


def blocks_of(folder, content, *arguments):
    path = folder / "blocks.txt"
    path.write_bytes(content)
    return list(text_file_blocks(path, *arguments))


def pieces_of(text, special_tokens, pattern):
    """Return words and special tokens, in order."""
    pieces = []
    for piece in split_special_tokens(text, special_tokens):
        pieces += [piece] if piece in special_tokens else pretokenize(piece, pattern)
    return pieces


@pytest.mark.parametrize("pattern", [GPT2_PATTERN, GPT4_PATTERN, gpt4_pattern(1)])
@settings(max_examples=250, deadline=None)
@given(
    text=texts,
    tokens=st.lists(st.sampled_from(TOKENS), unique=True, max_size=3),
    block_bytes=st.integers(1, 20),
)
def test_the_pieces_of_the_blocks_are_those_of_the_file(
    tmp_path_factory, pattern, text, tokens, block_bytes
):
    folder = tmp_path_factory.getbasetemp()
    blocks = blocks_of(folder, text.encode(), tokens, True, block_bytes)
    assert b"".join(block for _, block in blocks) == text.encode()
    pieces, offset = [], 0
    for start, block in blocks:
        assert start == offset
        assert block
        offset += len(block)
        pieces += pieces_of(block.decode(), tokens, pattern)
    assert pieces == pieces_of(text, tokens, pattern)


@settings(max_examples=100, deadline=None)
@given(text=texts, block_bytes=st.integers(1, 20))
def test_without_cuts_at_spaces_only_special_tokens_begin_a_block(
    tmp_path_factory, text, block_bytes
):
    folder = tmp_path_factory.getbasetemp()
    blocks = blocks_of(folder, text.encode(), ["漢", END], False, block_bytes)
    assert b"".join(block for _, block in blocks) == text.encode()
    assert all(block.startswith(END.encode()) for _, block in blocks[1:])
    assert len(blocks_of(folder, text.encode(), [], False, block_bytes)) == 1


@pytest.mark.parametrize("block_bytes", [1, 7, 64, 5000])
@pytest.mark.parametrize(
    ("stretch", "tokens", "cut_at_spaces"),
    [
        ("word ", [], True),
        ("word ", [END], True),
        ("éé" + END, [END], False),
        ("a" * 9 + "漢語漢語é", ["漢語漢語é"], False),
        ("word b c", ["b c"], True),
    ],
)
def test_no_block_is_much_longer_than_was_asked_for(
    tmp_path, block_bytes, stretch, tokens, cut_at_spaces
):
    """One read, and the text between two cuts before it."""
    content = (stretch * 2000).encode()
    blocks = blocks_of(tmp_path, content, tokens, cut_at_spaces, block_bytes)
    longest = max(len(block) for _, block in blocks)
    assert longest <= block_bytes + 2 * len(stretch.encode())
    assert b"".join(block for _, block in blocks) == content


def test_a_special_token_with_a_space_forbids_cuts_at_spaces(tmp_path):
    """A cut is allowed before "b c", but not inside it."""
    blocks = blocks_of(tmp_path, b"x y b c x y b c", ["b c"], True, 1)
    assert [block for _, block in blocks] == [b"x y ", b"b c x y ", b"b c"]


def test_a_special_token_that_another_may_lie_across_is_no_place_to_cut(tmp_path):
    blocks = blocks_of(tmp_path, b"xaay aab", ["aa", "ab"], False, 1)
    assert [block for _, block in blocks] == [b"xaay aab"]


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([], None),
        (["<x>", END], END),
        (["<x>", "<y>"], "<x>"),
        (["aa"], None),  # across itself: "aaa"
        (["ab", "xa"], "xa"),  # "xab"
        (["ab", "xaby"], "xaby"),  # inside another one
        (["ab", "ba"], None),
        ([END, f"{END}{END}"], None),
        ([f"x{END}y", END], f"x{END}y"),
        (["b", "abc", "cd"], "abc"),
    ],
)
def test_safe_separators_worked_by_hand(tokens, expected):
    assert safe_separator(tokens) == expected


@settings(max_examples=300, deadline=None)
@given(
    tokens=st.lists(st.text("ab", min_size=1, max_size=4), unique=True, max_size=3),
    text=st.text("abc", max_size=14),
)
def test_no_special_token_lies_across_a_safe_separator(tokens, text):
    separator = safe_separator(tokens)
    cut = text.find(separator) if separator else -1
    while cut >= 0:
        halves = [split_special_tokens(half, tokens) for half in (text[:cut], text[cut:])]
        whole = split_special_tokens(text, tokens)
        ours = Counter(piece for half in halves for piece in half if piece in tokens)
        assert ours == Counter(piece for piece in whole if piece in tokens)
        cut = text.find(separator, cut + 1)


def test_a_file_without_cuts_is_searched_once(tmp_path, monkeypatch):
    """It is not searched from its beginning at every read: 2,000 times 1,000 bytes on average."""
    searched = 0
    original = text_files._last_match

    def last_match(pattern, text, start):
        nonlocal searched
        searched += len(text) - start
        return original(pattern, text, start)

    monkeypatch.setattr(text_files, "_last_match", last_match)
    assert len(blocks_of(tmp_path, b"x" * 2000, [END], True, 1)) == 1
    assert 2000 <= searched <= 2000 * (1 + len(END))


@given(places=st.lists(st.integers(0, 30_000), max_size=4), start=st.integers(0, 30_000))
def test_the_last_match_of_a_long_text(places, start):
    """The text is longer than the first windows, so that the search must widen them."""
    text = bytearray(b"x" * 30_000)
    for place in places:
        text[place : place + 3] = b"<e>"
    found = text_files._last_match(text_files.re.compile(b"<e>"), text, start)
    assert found == max(0, bytes(text).rfind(b"<e>", start))


def test_files_that_hold_no_text(tmp_path):
    with pytest.raises(ValueError, match="no such file; give the path"):
        check_text_file(tmp_path / "missing.txt")
    with pytest.raises(ValueError, match="no such file"):
        check_text_file(tmp_path)
    (tmp_path / "empty.txt").touch()
    with pytest.raises(ValueError, match=r"empty\.txt: the file is empty"):
        check_text_file(tmp_path / "empty.txt")
    (tmp_path / "full.txt").write_text(" ")
    check_text_file(tmp_path / "full.txt")


def test_bytes_that_are_not_utf8_are_named_with_their_offset(tmp_path):
    assert decode_text("é漢".encode(), tmp_path, 5) == "é漢"
    with pytest.raises(ValueError, match=r"not UTF-8: byte 0xe6 at offset 102; convert") as error:
        decode_text("é漢".encode()[:4] + b"\xff", tmp_path, 100)
    assert str(error.value).startswith(str(tmp_path))
    assert error.value.__suppress_context__, "the decoder's own error says it a second time"
