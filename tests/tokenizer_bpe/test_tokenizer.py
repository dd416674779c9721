"""Encoding and decoding, against tiktoken's GPT-2 and against the naive encoder."""

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

from tokenizer_bpe import naive_encoding
from tokenizer_bpe import tokenizer as tokenizer_module
from tokenizer_bpe.merge_training import train_bpe, train_bpe_from_counts
from tokenizer_bpe.pretokenization import GPT2_PATTERN, GPT4_PATTERN, pretokenize
from tokenizer_bpe.tokenizer import Tokenizer

PROJECT = Path(__file__).parents[2]
GPT2 = PROJECT.parent / "shared" / "data" / "gpt2"
END = "<|endoftext|>"
BYTES = {byte: bytes([byte]) for byte in range(256)}
SPECIAL = [END, f"{END}{END}", "<|a", "b c"]

both_patterns = pytest.mark.parametrize("pattern", [GPT2_PATTERN, GPT4_PATTERN])
# Texts of the characters that matter for patterns, special tokens and chunk boundaries.
awkward_text = st.lists(
    st.sampled_from([*"a bcd1!\n\r\t'", "  ", "'ll", "'re", "é", "漢", "\x1c", END, "<|end", "<|"]),
    max_size=25,
).map("".join)


@pytest.fixture(scope="module")
def trained():
    """Train two tokenizers on this file: pattern -> Tokenizer."""
    result = {}
    for pattern in (GPT2_PATTERN, GPT4_PATTERN):
        vocab, merges = train_bpe(Path(__file__), 600, SPECIAL, pattern)
        result[pattern] = Tokenizer(vocab, merges, SPECIAL, pattern)
    return result


@pytest.fixture(scope="module")
def gpt2():
    if not GPT2.is_dir():
        pytest.skip("needs GPT-2's vocabulary")
    ours = Tokenizer.from_files(GPT2 / "gpt2_vocab.json", GPT2 / "gpt2_merges.txt", [END])
    ranks = {token: i for i, token in ours.vocab.items() if token != END.encode()}
    theirs = tiktoken.Encoding(
        "gpt2", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={END: 50256}
    )
    return ours, theirs


def test_a_word_worked_by_hand():
    """aaab: (a, a) comes before (a, b), and is merged from the left: aa, a, b; then aa, ab."""
    vocab = BYTES | {256: b"aa", 257: b"ab", 258: b"aaab"}
    merges = [(b"a", b"a"), (b"a", b"b"), (b"aa", b"ab")]
    assert Tokenizer(vocab, merges[:2]).encode("aaab") == [256, 257]
    assert Tokenizer(vocab, merges).encode("aaab") == [258]
    assert Tokenizer(vocab, merges).encode("aaa b") == [256, 97, 32, 98]


@given(word=st.text("abcde 'é", max_size=40), seed=st.integers(0, 10))
def test_both_ways_of_merging_follow_the_definition(word, seed):
    random.seed(seed)
    corpus = {"".join(random.choices("abcde é", k=6)): 1 for _ in range(30)}
    tokenizer = Tokenizer(*train_bpe_from_counts(corpus, 330, []))
    expected = naive_encoding.encode(word, tokenizer.vocab, tokenizer.merges)
    assert tokenizer.encode(word) == expected
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer_module, "LONG_WORD", 1)
        tokenizer._cache.clear()
        assert tokenizer.encode(word) == expected


@both_patterns
@given(text=awkward_text)
def test_decoding_gives_the_text_back(trained, pattern, text):
    tokenizer = trained[pattern]
    ids = tokenizer.encode(text)
    assert ids == naive_encoding.encode(text, tokenizer.vocab, tokenizer.merges, SPECIAL, pattern)
    assert tokenizer.decode(ids) == text
    assert "".join(tokenizer.decode_stream(ids)) == text
    assert tokenizer.encode_to_array(text).tolist() == ids
    assert tokenizer.encode_batch([text, "x", text]) == [ids, tokenizer.encode("x"), ids]


def test_gpt2_ids_are_those_of_tiktoken(gpt2):
    ours, theirs = gpt2
    for path in sorted(PROJECT.glob("*/*.py"))[:40]:
        text = path.read_text(encoding="utf-8") + END
        assert ours.encode(text) == theirs.encode(text, allowed_special="all"), path.name
    assert ours.encode("<|endoftext|>") == [50256]


@given(text=st.one_of(awkward_text, st.text(max_size=40)))
def test_gpt2_ids_are_those_of_tiktoken_on_odd_text(gpt2, text):
    ours, theirs = gpt2
    assert ours.encode(text) == theirs.encode(text, allowed_special="all")


def test_gpt2_agrees_on_a_long_word(gpt2):
    ours, theirs = gpt2
    random.seed(5)
    for word in ("a" * 3000, "".join(random.choices("etaoinshr", k=3000)), "=" * 1000):
        assert ours.encode(word) == theirs.encode(word)


@pytest.mark.parametrize("letters", ["a", "etaoinshr"])
def test_the_work_for_one_long_word_is_linear_in_heap_steps(letters, monkeypatch):
    """n initial pairs and two more for each merge: at most 3 n pops, each of log n."""
    pops = 0
    heappop = tokenizer_module.heapq.heappop

    def counted(heap):
        nonlocal pops
        pops += 1
        return heappop(heap)

    monkeypatch.setattr(tokenizer_module.heapq, "heappop", counted)
    monkeypatch.setattr(Tokenizer, "_merge", None)  # the quadratic code must not be used
    random.seed(6)
    word = "".join(random.choices(letters, k=20_000))
    vocab, merges = train_bpe_from_counts({word[:450]: 1}, 300, [])
    ids = Tokenizer(vocab, merges).encode(word)
    assert len(ids) < 15_000
    assert 5_000 < pops <= 3 * 20_000


# Special tokens


def test_the_longest_special_token_wins():
    tokenizer = Tokenizer(BYTES, [], SPECIAL)
    assert tokenizer.special_tokens == {t: 256 + i for i, t in enumerate(SPECIAL)}
    assert tokenizer.encode(f"x{END}{END}{END}b c") == [120, 257, 256, 259]


def test_a_special_token_of_the_vocabulary_keeps_its_id_and_another_is_appended():
    tokenizer = Tokenizer(BYTES | {300: END.encode()}, [], ["<new>", END])
    assert tokenizer.special_tokens == {"<new>": 301, END: 300}
    assert tokenizer.vocab[301] == b"<new>"
    assert tokenizer.vocab_size == 302


def test_without_special_tokens_their_text_is_text():
    assert Tokenizer(BYTES, []).encode(END) == list(END.encode())


def test_ids_may_be_in_any_order():
    """GPT-2's bytes are not 0 to 255 in order; an encoder that assumes so is wrong."""
    ids = list(range(258))
    random.Random(0).shuffle(ids)
    tokens = [*BYTES.values(), b"ab", b"abc"]
    tokenizer = Tokenizer(dict(zip(ids, tokens, strict=True)), [(b"a", b"b"), (b"ab", b"c")])
    assert tokenizer.encode("abcab") == [ids[257], ids[256]]
    assert tokenizer.decode([ids[257], ids[100]]) == "abcd"


# Streams


@both_patterns
@given(text=awkward_text, data=st.data())
def test_a_stream_has_the_ids_of_the_whole_wherever_it_is_cut(trained, pattern, text, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    for parts in (pieces, text):  # the second: one character at a time
        assert list(trained[pattern].encode_iterable(parts)) == trained[pattern].encode(text)


@both_patterns
@pytest.mark.parametrize(
    "lines",
    [["a\n", "\n", "\n", "b"], ["a<|endof", "text|>b"], ["'", "l", "l"], ["1888\n\n--", "\n"]],
)
def test_known_traps_of_line_by_line_encoding(trained, pattern, lines):
    assert list(trained[pattern].encode_iterable(lines)) == trained[pattern].encode("".join(lines))


def test_a_stream_holds_back_two_words():
    """After "'" and "l" comes one more "l": the two words become one, and one token."""
    merges = [(b"l", b"l"), (b"'", b"ll")]
    tokenizer = Tokenizer(BYTES | {256: b"ll", 257: b"'ll"}, merges)
    assert list(tokenizer.encode_iterable(["I'l", "l"])) == tokenizer.encode("I'll") == [73, 257]


@pytest.mark.parametrize(
    ("special_tokens", "text"),
    [(["abX", "b"], "ab abX b ab"), (["ab", "bc"], "abc bc abb"), (["a", "aXa"], "aXaXaX aXXa")],
)
def test_streams_with_overlapping_special_tokens(special_tokens, text):
    tokenizer = Tokenizer(BYTES, [], special_tokens)
    assert list(tokenizer.encode_iterable(text)) == tokenizer.encode(text)


def test_a_stream_is_read_only_as_far_as_needed(trained):
    """After every id, the text that was read but not yet encoded stays short."""
    tokenizer = trained[GPT2_PATTERN]
    read = 0

    def lines():
        nonlocal read
        for number in range(2000):
            line = f"line {number} of the text\n"
            read += len(line)
            yield line

    out = 0
    for token_id in tokenizer.encode_iterable(lines()):
        out += len(tokenizer.vocab[token_id])
        assert read - out < 100
    assert out == read


def test_a_stream_of_one_long_word_is_not_scanned_again_for_each_piece(monkeypatch):
    """Characters passed to the pattern: under 4 n for n characters in 5,000 pieces."""
    scanned = 0

    def counted(text, pattern):
        nonlocal scanned
        scanned += len(text)
        return pretokenize(text, pattern)

    monkeypatch.setattr(tokenizer_module, "pretokenize", counted)
    word = "ab" * 10_000
    pieces = [word[i : i + 4] for i in range(0, len(word), 4)]
    assert list(Tokenizer(BYTES, []).encode_iterable(pieces)) == list(word.encode())
    assert scanned <= 4 * len(word)


# Decoding


def test_invalid_utf8_becomes_the_replacement_character():
    tokenizer = Tokenizer(BYTES, [])
    assert tokenizer.decode([0x61, 0xC3, 0x62]) == "a\ufffdb"
    assert tokenizer.decode([0xE6, 0xBC]) == "\ufffd"


@given(st.lists(st.sampled_from([*b"a\xc3\xa9\xe6\xbc\xa2\xf0\x9f\x98\x80\xff"]), max_size=20))
def test_a_stream_of_any_bytes_decodes_as_the_whole(ids):
    tokenizer = Tokenizer(BYTES, [])
    assert "".join(tokenizer.decode_stream(ids)) == tokenizer.decode(ids)
    assert tokenizer.decode(ids) == bytes(ids).decode("utf-8", errors="replace")


def test_a_decoded_stream_never_shows_half_a_character():
    ids = list("é漢\U0001f600".encode())
    assert list(Tokenizer(BYTES, []).decode_stream(ids)) == ["é", "漢", "\U0001f600"]


def test_decoding_a_stream_is_lazy():
    def ids():
        yield 0x61
        raise AssertionError("read further than asked")

    assert next(Tokenizer(BYTES, []).decode_stream(ids())) == "a"


@pytest.mark.parametrize("wrong", [256, -1, 10**9])
def test_ids_out_of_range(wrong):
    tokenizer = Tokenizer(BYTES, [])
    for decode in (tokenizer.decode, lambda ids: list(tokenizer.decode_stream(ids))):
        with pytest.raises(ValueError, match=f"token id {wrong} is not in the vocabulary"):
            decode([97, wrong])


def test_half_a_surrogate_pair_is_refused():
    with pytest.raises(ValueError, match=r"U\+D83D, half of a surrogate pair"):
        Tokenizer(BYTES, []).encode("a \ud83d")


# Arrays and sizes


def test_arrays_are_16_bits_wide_where_ids_fit_and_writable():
    small = Tokenizer(BYTES | {65535: b"ab"}, [(b"a", b"b")])
    large = Tokenizer(BYTES | {65536: b"ab"}, [(b"a", b"b")])
    assert small.encode_to_array("abc").dtype == np.uint16
    assert large.encode_to_array("abc").dtype == np.uint32
    assert small.encode_to_array("abc").tolist() == [65535, 99]
    assert large.encode_to_array("abc").tolist() == [65536, 99]
    assert small.encode_to_array("").shape == (0,)
    small.encode_to_array("abc")[0] = 1


def test_ids_in_the_range_of_surrogates():
    """A token is stored as chr(id), but U+D800 to U+DFFF are only halves of characters."""
    vocab = BYTES | {0xD83D: b"ab", 0xDE00: b"cd"}
    for extra in ({}, {70_000: b"x" * 9}):
        tokenizer = Tokenizer(vocab | extra, [(b"a", b"b"), (b"c", b"d")])
        assert tokenizer.encode("abcd") == [0xD83D, 0xDE00]
        assert tokenizer.encode_to_array("abcdab").tolist() == [0xD83D, 0xDE00, 0xD83D]
        assert list(tokenizer.encode_iterable(["ab", "cd"])) == [0xD83D, 0xDE00]


def test_byte_lengths_count_text_and_not_special_tokens():
    tokenizer = Tokenizer(BYTES | {256: b"ab", 258: "é漢".encode()}, [(b"a", b"b")], [END])
    lengths = tokenizer.byte_lengths()
    assert lengths.dtype == np.int32
    assert lengths[[97, 256, 257, 258, 259]].tolist() == [1, 2, 0, 5, 0]


def test_a_full_cache_is_emptied_and_changes_nothing(trained, monkeypatch):
    tokenizer = trained[GPT2_PATTERN]
    text = Path(__file__).read_text(encoding="utf-8")
    expected = tokenizer.encode(text)
    monkeypatch.setattr(tokenizer_module, "CACHED_WORDS", 10)
    tokenizer._cache.clear()
    assert tokenizer.encode(text) == list(tokenizer.encode_iterable([text])) == expected
    assert len(tokenizer._cache) <= 12


def test_the_package_does_not_import_torch():
    modules = sorted(path.stem for path in (PROJECT / "tokenizer_bpe").glob("*.py"))
    code = "import sys, json\n" + "".join(
        f"import tokenizer_bpe.{name}\n" for name in modules if name != "__init__"
    )
    code += "print(json.dumps([n for n in ('torch', 'numba') if n in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == []
