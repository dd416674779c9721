"""Words, special tokens, counts, and the cuts with which processes share a file."""

import io
import random
import re
from collections import Counter

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence, Split

from tokenizer_bpe import pretokenization
from tokenizer_bpe.pretokenization import (
    GPT2_PATTERN,
    GPT4_PATTERN,
    SPACE_RUNS,
    ascii_pattern,
    count_words,
    digit_limit,
    find_document_boundaries,
    gpt4_pattern,
    pretokenize,
    split_digits_pattern,
    split_special_tokens,
    text_blocks,
)
from tokenizer_bpe.tokenizer_file import from_printable

END = "<|endoftext|>"
PATTERNS = {"gpt2": GPT2_PATTERN} | {f"gpt4_{n}": gpt4_pattern(n) for n in (0, 1, 2, 3, 4, 12)}
every_pattern = pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
# Texts of the characters that the patterns distinguish.
awkward_text = st.text("aZ090123'sltrve.!_ \n\r\t\x1c\x85\xa0\u3000é漢٣½\U0001f600", max_size=60)
ascii_text = st.text(st.characters(max_codepoint=127), max_size=60)


def test_gpt2_words_of_a_known_sentence():
    assert pretokenize("I'll pay 12345 dollars,\n\n  don't!") == [
        *("I", "'ll", " pay", " 12345", " dollars", ",", "\n\n ", " don", "'t", "!")
    ]


def test_gpt4_words_hold_three_digits_at_most_and_end_at_a_newline():
    assert pretokenize("I'LL pay 12345 (dollars).\n\n x", GPT4_PATTERN) == [
        *("I", "'LL", " pay", " ", "123", "45", " (", "dollars", ").\n\n", " x")
    ]


@every_pattern
@given(text=st.one_of(awkward_text, ascii_text))
def test_words_are_those_of_the_regex_module_and_join_to_the_text(pattern, text):
    words = pretokenize(text, pattern)
    assert words == [match.group() for match in regex.finditer(pattern, text)]
    assert "".join(words) == text


@every_pattern
@given(text=awkward_text, size=st.integers(1, 20))
def test_blocks_have_the_words_of_the_text(pattern, text, size):
    blocks = list(text_blocks(text, pattern, size))
    assert [word for block in blocks for word in pretokenize(block, pattern)] == pretokenize(
        text, pattern
    )


@every_pattern
def test_long_text_is_cut_into_short_blocks(pattern):
    """Also if a word may have any number of digits."""
    text = "some words, 1234567 of them\n" * 400
    assert max(map(len, text_blocks(text, pattern, 100))) < 120
    assert list(text_blocks(text, r"\w+|\W", 100)) == [text]


@every_pattern
def test_ascii_text_needs_no_unicode(pattern, monkeypatch):
    """`regex` is half as fast as `re`, so neither blocks nor words of ASCII text use it."""
    text = "It's 12345 o'CLOCK.\r\n\r\n  x\x1c_9 "
    expected = regex.findall(pattern, text)
    monkeypatch.setattr(pretokenization, "regex", None)
    assert pretokenize(text, pattern) == expected


def test_the_limit_of_digits_of_a_pattern():
    assert [digit_limit(gpt4_pattern(n)) for n in (0, 1, 2, 3, 10, 999)] == [0, 1, 2, 3, 10, 999]
    for own in (
        GPT2_PATTERN,
        r"\p{N}{1,3}|.",
        GPT4_PATTERN + "|x",
        GPT4_PATTERN.replace("3", "03"),
    ):
        assert digit_limit(own) is None
        assert (ascii_pattern(own) is None) == (own != GPT2_PATTERN)


@given(text=awkward_text)
def test_without_long_runs_of_spaces_words_end_before_every_space_and_newline(text):
    pieces = []
    for number, part in enumerate(SPACE_RUNS[GPT2_PATTERN].split(text)):
        is_run = number % 2 == 1
        pieces += [part] if is_run else re.split(r"(?=[ \n])", part)
    assert [word for piece in pieces for word in pretokenize(piece)] == pretokenize(text)


def test_the_class_of_white_space_is_that_of_the_regex_module():
    space = re.compile(f"[{pretokenization._SPACE}]")
    everything = "".join(map(chr, range(0x110000)))
    assert space.findall(everything) == regex.findall(r"\s", everything)


def test_special_tokens_are_pieces_and_the_longest_wins():
    tokens = ["<a>", "<a><a>", "<b>"]
    assert split_special_tokens("x<a><a><a>y<b>", tokens) == ["x", "<a><a>", "<a>", "y", "<b>"]
    assert split_special_tokens("a.c", ["."]) == ["a", ".", "c"]
    assert split_special_tokens("", tokens) == []
    assert split_special_tokens("x", []) == ["x"]


@given(st.text("ab<>", max_size=30))
def test_pieces_join_to_the_text_and_hold_no_special_token(text):
    tokens = ["<a>", "<a><b>", ">b"]
    pieces = split_special_tokens(text, tokens)
    assert "".join(pieces) == text
    assert not any(token in piece for piece in pieces for token in tokens if piece not in tokens)


def test_counts_by_hand():
    assert count_words(["low low", f"low{END}er low"], [END]) == {
        "low": 2,
        " low": 2,
        "er": 1,
    }


def test_a_file_counts_as_its_text_and_keeps_carriage_returns(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_bytes(f"one\r\ntwo{END}one".encode())
    assert count_words(path, [END]) == {"one": 2, "\r": 1, "\n": 1, "two": 1}
    assert count_words(str(path), [END]) == count_words(path, [END])


def test_processes_and_parts_change_nothing(tmp_path, monkeypatch):
    random.seed(1)
    text = "".join(random.choice(["the ", "dög ", "\n", END, "'s "]) for _ in range(3000))
    path = tmp_path / "corpus.txt"
    path.write_text(text, encoding="utf-8")
    words = [w for piece in text.split(END) for w in regex.findall(GPT2_PATTERN, piece)]
    assert count_words(path, [END], num_processes=2) == Counter(words)
    assert count_words([text, text], [END], num_processes=2)["the"] == 2 * Counter(words)["the"]
    monkeypatch.setattr(pretokenization, "PART_BYTES", 100)
    assert count_words(path, [END]) == Counter(words)


@pytest.mark.parametrize("tokens", [["ab", "bc"], ["aa"], ["ab", "xab"], ["b", "ab"]])
def test_parts_never_cut_a_special_token(tokens, tmp_path, monkeypatch):
    random.seed(2)
    path = tmp_path / "corpus.txt"
    text = "".join(random.choice("abcx") for _ in range(400))
    path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(pretokenization, "PART_BYTES", 7)
    assert count_words(path, tokens) == count_words([text], tokens)


@given(
    st.lists(st.sampled_from(["ab", "|", "<|", "<|e|>", "xxxxx"]), max_size=40), st.integers(1, 9)
)
def test_boundaries_stand_at_separators(parts, num_chunks):
    content = "".join(parts).encode()
    boundaries = find_document_boundaries(io.BytesIO(content), num_chunks, b"<|e|>")
    assert boundaries[0] == 0
    assert boundaries[-1] == len(content)
    assert boundaries == sorted(set(boundaries))
    assert all(content[b : b + 5] == b"<|e|>" for b in boundaries[1:-1])
    shares = [len(content) * share // num_chunks for share in range(1, num_chunks)]
    found = {content.find(b"<|e|>", share) for share in shares} - {-1}
    assert set(boundaries) == found | {0, len(content)}


def test_a_separator_across_two_reads_is_found():
    """The search starts in the middle of the file, with 65,536 bytes at a time."""
    size = 400_000
    place = size // 2 + 65_536 - 2
    content = (b"x" * place + b"<|e|>").ljust(size, b"y")
    assert find_document_boundaries(io.BytesIO(content), 2, b"<|e|>") == [0, place, size]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"good \xff bad", r"not UTF-8: byte 0xff at offset 5"), (None, "no such")],
)
def test_bad_files(content, message, tmp_path):
    path = tmp_path / "corpus.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        count_words(path, [END])


# The pre-tokenizers of other programs. SmolLM2's file has Digits, those of Llama 3 and Qwen have
# the Split.
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
WORDS, BYTES_ALONE = ByteLevel(add_prefix_space=False), ByteLevel(False, use_regex=False)
THEIRS = {
    "digits": (split_digits_pattern(), Sequence([Digits(individual_digits=True), WORDS])),
    "numbers": (split_digits_pattern(individual=False), Sequence([Digits(False), WORDS])),
    "gpt-2": (GPT2_PATTERN, WORDS),
    "llama-bpe": (gpt4_pattern(3), Sequence([Split(Regex(LLAMA3), "isolated"), BYTES_ALONE])),
    "qwen2": (
        gpt4_pattern(1),
        Sequence([Split(Regex(LLAMA3.replace("{1,3}", "")), "isolated"), BYTES_ALONE]),
    ),
}
odd_text = st.text(
    "abdeilmrstv'SZ\u017fé漢0٣½Ⅷ①𝟙 \t\n\r\x1c\x85\xa0\u200b\u3000.,-\u0301\U0001f600"
)


@pytest.mark.parametrize(("pattern", "theirs"), THEIRS.values(), ids=THEIRS)
@given(text=st.one_of(odd_text, ascii_text))
def test_one_pattern_cuts_as_their_steps_do(pattern, theirs, text):
    cut = [from_printable(word, "a word").decode() for word, _ in theirs.pre_tokenize_str(text)]
    assert pretokenize(text, pattern) == cut


def test_white_space_in_front_of_a_digit_stands_alone():
    assert pretokenize("a  12 b  c", split_digits_pattern()) == [
        *("a", "  ", "1", "2", " b", " ", " c")
    ]


def test_a_single_part_starts_no_process(monkeypatch, tmp_path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text("low low" + END + "low")
    monkeypatch.setattr(pretokenization, "worker_pool", None)
    assert count_words(path, [], num_processes=3)["low"] == 2
    with pytest.raises(TypeError, match="NoneType"):
        count_words(path, [END], num_processes=3)
