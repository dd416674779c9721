"""Ids are those of the lesson for every text, cache, number of threads and pattern."""

import argparse
import random
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from shared_data import GPT2_VOCABULARY

from tokenizer_bpe import tokenizer as lesson
from tokenizer_bpe.compiled import tokenizer as tokenizer_module
from tokenizer_bpe.compiled.merge_training import train_bpe_from_words
from tokenizer_bpe.compiled.tokenizer import Tokenizer
from tokenizer_bpe.compiled.word_counting import count_words
from tokenizer_bpe.compiled.word_merging import LONG_WORD
from tokenizer_bpe.pretokenization import GPT2_PATTERN, GPT4_PATTERN, gpt4_pattern

END = "<|endoftext|>"
SPECIAL = [END, f"{END}{END}", "<|a", "<|a|b", "b c", "漢é"]
OWN_PATTERN = r"\w+|\W"
PATTERNS = {"gpt2": GPT2_PATTERN, "gpt4": GPT4_PATTERN, "one digit": gpt4_pattern(1)}
every_pattern = pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
awkward_text = st.lists(
    st.sampled_from(
        [
            *"a bcd1!\n\r\t'é漢\x1c\x85\xa0|",
            *SPECIAL,
            *("  ", "'ll", "'RE", "1234567", "self", "return", "<|end", "<|", "the parser"),
            *("_parse" * 20, "x" * (LONG_WORD + 1)),
        ]
    ),
    max_size=25,
).map("".join)


@pytest.fixture(scope="module")
def corpus():
    """Return about 200 kB of Python, and a few words in other scripts."""
    sources = [Path(module.__file__).read_text(encoding="utf-8") for module in (argparse, random)]
    return "".join(sources) + "漢字 é ñandú жук ½ ٣٤ \n" * 20


@pytest.fixture(scope="module")
def twins(corpus):
    """Return pattern -> (the lesson's tokenizer, the compiled one); the last pattern is not
    compiled.
    """
    pairs = {}
    for pattern in (*PATTERNS.values(), OWN_PATTERN):
        counted_under = GPT2_PATTERN if pattern == OWN_PATTERN else pattern
        words = count_words([corpus], SPECIAL, counted_under)
        vocab, merges = train_bpe_from_words(words, 2000, SPECIAL)
        theirs = lesson.Tokenizer(vocab, merges, SPECIAL, pattern)
        pairs[pattern] = theirs, Tokenizer.of(theirs)
    return pairs


@pytest.fixture(scope="module")
def gpt2_twins():
    if not GPT2_VOCABULARY.is_dir():
        pytest.skip("needs GPT-2's vocabulary")
    paths = GPT2_VOCABULARY / "gpt2_vocab.json", GPT2_VOCABULARY / "gpt2_merges.txt"
    return [made.from_files(*paths, [END]) for made in (lesson.Tokenizer, Tokenizer)]


@pytest.fixture
def small_cache(monkeypatch):
    """Limit the cache to five words, and record how often it is emptied."""
    emptied = []
    original = tokenizer_module.empty
    monkeypatch.setattr(tokenizer_module, "CACHED_WORDS", 5)
    monkeypatch.setattr(
        tokenizer_module, "empty", lambda table: emptied.append(1) or original(table)
    )
    return emptied


def assert_same_array(ours, theirs):
    assert ours.dtype == theirs.dtype
    np.testing.assert_array_equal(ours, theirs)


@every_pattern
@settings(max_examples=150, deadline=None)
@given(text=st.one_of(awkward_text, st.text(max_size=40)))
@example(text="")
@example(text=END)
def test_ids_are_those_of_the_lesson(twins, pattern, text):
    theirs, ours = twins[pattern]
    expected = theirs.encode_to_array(text)
    assert_same_array(ours.encode_to_array(text), expected)
    assert ours.encode(text) == expected.tolist()
    assert list(ours.encode_iterable([text[:9], text[9:]])) == expected.tolist()
    assert ours.decode(expected.tolist()) == text


@every_pattern
def test_the_same_on_a_corpus(twins, corpus, pattern):
    theirs, ours = twins[pattern]
    expected = theirs.encode_to_array(corpus)
    assert len(expected) < len(corpus) / 2
    for num_threads in (1, 2):
        assert_same_array(ours.encode_to_array(corpus, num_threads), expected)


@settings(max_examples=100, deadline=None)
@given(text=st.one_of(awkward_text, st.text(max_size=60)))
def test_the_same_with_the_vocabulary_of_gpt2(gpt2_twins, text):
    theirs, ours = gpt2_twins
    assert_same_array(ours.encode_to_array(text), theirs.encode_to_array(text))


def test_the_same_with_the_vocabulary_of_gpt2_on_a_corpus(gpt2_twins, corpus):
    theirs, ours = gpt2_twins
    assert_same_array(ours.encode_to_array(corpus), theirs.encode_to_array(corpus))


@pytest.mark.parametrize("size", [LONG_WORD - 1, LONG_WORD, LONG_WORD + 1, 300, 5000])
@pytest.mark.parametrize("letters", ["e", "self.", "abcdefghijklmnopqrstuvwxyz", "漢字éж"])
def test_long_words(twins, size, letters):
    """The longer word comes first and last: enlarged working memory must be reused."""
    theirs, ours = twins[GPT2_PATTERN]
    choose = random.Random(size)
    word = "".join(choose.choices(letters.replace(".", "r"), k=size))
    text = f"{word} {word[:200]}\n{word[:97]}é {word}{END}{word}"
    assert_same_array(ours.encode_to_array(text), theirs.encode_to_array(text))


def merged_in_rounds(word, merges):
    """Apply the definition: of the pairs in the word, the one of the earliest rank is merged at all
    its places, from left to right; and again, until no pair can be merged.
    """
    tokens = [bytes([byte]) for byte in word]
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    while fitting := [pair for pair in pairwise(tokens) if pair in ranks]:
        left, right = min(fitting, key=ranks.__getitem__)
        merged, place = [], 0
        while place < len(tokens):
            size = 2 if tokens[place : place + 2] == [left, right] else 1
            merged.append(b"".join(tokens[place : place + size]))
            place += size
        tokens = merged
    return tokens


@st.composite
def hand_made_merges(draw, letters):
    """Draw merges in an order that no trainer makes.

    A token is made in two ways, and a pair that contains it may be ranked between the two.
    """
    tokens, merges = [bytes([letter]) for letter in letters], []
    for _ in range(draw(st.integers(1, 30))):
        pair = draw(st.sampled_from(tokens)), draw(st.sampled_from(tokens))
        if len(b"".join(pair)) <= 12:  # longer ones are very rare
            merges.append(pair)
            tokens += [] if b"".join(pair) in tokens else [b"".join(pair)]
    return merges


@settings(max_examples=300, deadline=None)
@given(data=st.data(), letters=st.sampled_from([b"ab", b"abc"]), seed=st.integers(0, 1 << 30))
def test_hand_made_merges_of_long_words(data, letters, seed):
    """The words are longer than the compiled LONG_WORD, and shorter and longer than the
    lesson's.
    """
    merges = data.draw(hand_made_merges(letters))
    size = data.draw(st.one_of(st.integers(100, 900), st.sampled_from([LONG_WORD, 400, 401])))
    word = bytes(random.Random(seed).choices(letters, k=size))
    made = dict.fromkeys(left + right for left, right in merges)
    vocab = dict(enumerate([*(bytes([byte]) for byte in range(256)), *made]))
    expected = merged_in_rounds(word, merges)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer_module, "CACHED_WORDS", 1 << 8)  # 1.6 s instead of 8
        for kind in (lesson.Tokenizer, Tokenizer):
            ids = kind(vocab, merges).encode(word.decode())
            assert [vocab[token_id] for token_id in ids] == expected, kind


def test_overlapping_special_tokens(twins):
    """The leftmost wins, and of those that begin at the same place, the longest."""
    _, ours = twins[GPT2_PATTERN]
    tokens = [f"{END}{END}", END, "<|a|b", "<|a", "b c", "漢é"]
    assert ours.encode("".join(tokens)) == [ours.special_tokens[token] for token in tokens]
    assert ours.encode("<|a|b c") == [ours.special_tokens["<|a|b"], *ours.encode(" c")]


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(awkward_text, max_size=8), num_threads=st.integers(1, 3))
def test_a_batch_on_threads(twins, texts, num_threads):
    theirs, ours = twins[GPT4_PATTERN]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer_module, "BATCH_CHARACTERS", 30)
        assert ours.encode_batch(iter(texts), num_threads) == theirs.encode_batch(texts)
        arrays = list(ours.encode_batch_to_arrays(iter(texts), num_threads))
    assert len(arrays) == len(texts)
    for array, text in zip(arrays, texts, strict=True):
        assert_same_array(array, theirs.encode_to_array(text))


@every_pattern
@pytest.mark.parametrize("special_tokens", [[], [END, f"{END}{END}"], SPECIAL])
@settings(max_examples=40, deadline=None)
@given(text=awkward_text, num_threads=st.integers(2, 3))
def test_one_text_on_threads(twins, special_tokens, pattern, text, num_threads):
    """Blocks of 5 characters; with "b c" among the special tokens, the text must not be cut."""
    theirs, _ = twins[pattern]
    vocab, merges = theirs.vocab, theirs.merges
    expected = lesson.Tokenizer(vocab, merges, special_tokens, pattern).encode_to_array(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer_module, "BLOCK_CHARACTERS", 5)
        patch.setattr(tokenizer_module, "CACHED_WORDS", 1 << 8)
        patch.setattr(tokenizer_module, "NUMBERS_AT_A_TIME", 3)
        ours = Tokenizer(vocab, merges, special_tokens, pattern)
        assert_same_array(ours.encode_to_array(text, num_threads), expected)


def test_a_long_text_is_shared_by_the_threads(twins, monkeypatch):
    theirs, _ = twins[GPT2_PATTERN]
    ours = Tokenizer(theirs.vocab, theirs.merges, [END])
    monkeypatch.setattr(tokenizer_module, "BLOCK_CHARACTERS", 5)
    pieces = []
    original = Tokenizer._encode_text

    def encode_text(self, encoder, text):
        pieces.append(text)
        return original(self, encoder, text)

    monkeypatch.setattr(Tokenizer, "_encode_text", encode_text)
    text = "some words " * 20
    ours.encode_to_array(text, 2)
    assert len(pieces) > 10
    assert sorted(pieces) == sorted(lesson.text_blocks(text, GPT2_PATTERN, 5))
    ours.encode_to_array(text)
    assert pieces[-1] == text


@pytest.mark.parametrize("cached_bytes", [LONG_WORD, 1 << 12])
def test_a_full_cache_is_emptied(twins, corpus, small_cache, monkeypatch, cached_bytes):
    monkeypatch.setattr(tokenizer_module, "CACHED_BYTES", cached_bytes)
    theirs, _ = twins[GPT2_PATTERN]
    ours = Tokenizer.of(theirs)
    text = corpus[:20_000]
    assert_same_array(ours.encode_to_array(text), theirs.encode_to_array(text))
    assert len(small_cache) > len(text) / 100


def test_a_cache_that_is_full_of_bytes_is_emptied(twins, corpus, small_cache, monkeypatch):
    monkeypatch.setattr(tokenizer_module, "CACHED_WORDS", 1 << 12)
    monkeypatch.setattr(tokenizer_module, "CACHED_BYTES", LONG_WORD)
    theirs, _ = twins[GPT2_PATTERN]
    words = ["a" * LONG_WORD, "b" * LONG_WORD, "a" * LONG_WORD, "c"]
    text = " ".join(word[:-1] for word in words) + corpus[:5000]
    assert_same_array(Tokenizer.of(theirs).encode_to_array(text), theirs.encode_to_array(text))
    assert len(small_cache) > 20


def test_a_word_is_merged_once_and_then_remembered(twins):
    _, ours = twins[GPT2_PATTERN]
    ours = Tokenizer.of(ours)
    ours.encode("one two three three two one")
    table = ours._idle[0]._table
    assert table.size[0] == 4
    ours.encode(" two three" * 50 + "w" * 5000)
    assert ours._idle[0]._table is table
    assert table.size[0] == 4, "a word that is known, or is too long, was entered"


@pytest.mark.parametrize("num_threads", [1, 2])
def test_a_text_is_one_call_of_compiled_code(twins, corpus, monkeypatch, num_threads):
    """After each call, a thread needs the interpreter's lock and waits for the other threads."""
    theirs, _ = twins[GPT2_PATTERN]
    ours = Tokenizer.of(theirs)
    calls = []
    original = tokenizer_module._encode_spans
    monkeypatch.setattr(
        tokenizer_module, "_encode_spans", lambda *given: calls.append(1) or original(*given)
    )
    monkeypatch.setattr(tokenizer_module, "NUMBERS_AT_A_TIME", 1 << 10)
    arrays = list(ours.encode_batch_to_arrays([corpus] * 3, num_threads))
    assert len(arrays[0]) > 20 << 10
    assert len(calls) == 3


def test_memory_that_is_used_again_changes_no_result(twins, corpus, monkeypatch):
    """The longest text is in the middle; one text is too long for its memory to be kept."""
    theirs, _ = twins[GPT2_PATTERN]
    texts = [corpus[:5000], corpus[5000:90_000], corpus[:20], corpus[90_000:100_000]]
    expected = [theirs.encode_to_array(text) for text in texts]
    for most_kept, rooms in ((1 << 22, 2), (50_000, 2), (0, 1)):
        monkeypatch.setattr(tokenizer_module, "MOST_KEPT_IDS", most_kept)
        ours = Tokenizer.of(theirs)
        kept = set()
        arrays = []
        for text in texts:
            arrays.append(ours.encode_to_array(text))
            kept.add(len(ours._idle[0]._room))
        assert max(kept) <= most_kept
        assert len(kept) == rooms
        for array, right in zip(arrays, expected, strict=True):
            assert_same_array(array, right)


def test_a_pattern_of_ones_own_goes_to_the_lesson(twins):
    theirs, ours = twins[OWN_PATTERN]
    text = f"some_words 12 {END}, don't"
    assert ours._rule is None
    assert_same_array(ours.encode_to_array(text, 2), theirs.encode_to_array(text))
    assert ours.encode_batch([text, ""], 2) == theirs.encode_batch([text, ""])
    assert ours.encode(text) != Tokenizer(ours.vocab, ours.merges, SPECIAL).encode(text)


@pytest.mark.parametrize("pattern", [GPT2_PATTERN, OWN_PATTERN])
@pytest.mark.parametrize("text", ["\ud800", "some words \udfff\ud800", f"{END}a\udc80{END}"])
def test_text_that_utf8_cannot_write_is_the_error_of_the_lesson(twins, pattern, text):
    told = "the text holds the byte 0x80" if "\udc80" in text else "half of a surrogate pair"
    messages = []
    for tokenizer in twins[pattern]:
        with pytest.raises(ValueError, match=told) as error:
            tokenizer.encode(text)
        messages.append(str(error.value))
    assert messages[0] == messages[1]
    _, ours = twins[pattern]
    with pytest.raises(ValueError, match=told):
        ours.encode_batch(["fine", text], num_threads=2)
    assert ours.decode(ours.encode("fine again")) == "fine again"


def test_the_twin_of_a_tokenizer(twins):
    theirs, ours = twins[GPT4_PATTERN]
    assert isinstance(ours, Tokenizer)
    for name in ("vocab", "merges", "special_tokens", "vocab_size", "pattern"):
        assert getattr(ours, name) == getattr(theirs, name)


def test_ids_above_65535_make_a_wider_array(twins):
    theirs, _ = twins[GPT2_PATTERN]
    vocab = theirs.vocab | {70_000: b"<big>"}
    for made in (lesson.Tokenizer, Tokenizer):
        ids = made(vocab, theirs.merges, ["<big>"]).encode_to_array("a<big>")
        assert ids.dtype == np.uint32
        assert ids.tolist() == [97, 70_000]


def test_bytes_may_have_any_ids():
    vocab = {300 - byte: bytes([byte]) for byte in range(256)} | {7: b"ab", 5: b"abc"}
    merges = [(b"a", b"b"), (b"ab", b"c")]
    theirs, ours = lesson.Tokenizer(vocab, merges), Tokenizer(vocab, merges)
    assert ours.encode("abcab zé") == theirs.encode("abcab zé") == [
        *(5, 7, 300 - 32, 300 - 122, 300 - 0xC3, 300 - 0xA9)
    ]  # fmt: skip


def test_no_two_threads_have_one_encoder(twins):
    """Neither the threads of one call nor a caller's own threads."""
    _, ours = twins[GPT2_PATTERN]

    def nested(outer, depth):
        if depth == 0:
            return [outer]
        return [outer, *ours._with_encoder(nested, depth - 1)]

    encoders = ours._with_encoder(nested, 3)
    assert len(set(map(id, encoders))) == 4
    assert ours._with_encoder(lambda encoder, _: encoder, None) in encoders


def test_callers_with_threads_of_their_own(twins, corpus):
    theirs, _ = twins[GPT2_PATTERN]
    ours = Tokenizer.of(theirs)
    texts = [corpus[start : start + 9000] for start in range(0, 90_000, 9000)] * 4
    expected = theirs.encode_batch(texts)
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(ours.encode, texts)) == expected
    assert 1 <= len(ours._idle) <= 4
