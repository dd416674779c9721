"""The naive, the lesson's and the compiled trainer agree; the work of the last is n log n."""

import argparse
import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizer_bpe import merge_training as lesson
from tokenizer_bpe import naive_training
from tokenizer_bpe.compiled import merge_queue, merge_training
from tokenizer_bpe.compiled.merge_training import (
    train_bpe,
    train_bpe_from_counts,
    train_bpe_from_words,
)
from tokenizer_bpe.compiled.word_counting import count_words
from tokenizer_bpe.pretokenization import GPT4_PATTERN

END = "<|endoftext|>"

# Few letters make long runs, overlaps and ties; é and 漢 make tokens that are parts of characters.
corpora = st.lists(
    st.one_of(
        st.text("a", max_size=40),
        st.text("ab ", max_size=30),
        st.text("abcé漢 '\n1\x00", max_size=30),
        st.just(END),
    ),
    min_size=1,
    max_size=12,
).filter(any)


@pytest.fixture
def corpus_path(tmp_path):
    """Return a path to which each example writes its corpus."""
    return tmp_path / "corpus.txt"


@settings(max_examples=200, deadline=None)
@given(
    parts=corpora,
    merges=st.integers(0, 60),
    first_pairs=st.sampled_from([1, 3, 1 << 10]),
    num_threads=st.integers(1, 2),
)
def test_the_merges_are_those_of_the_naive_trainer_and_of_the_lesson(
    tmp_path_factory, parts, merges, first_pairs, num_threads
):
    path = tmp_path_factory.getbasetemp() / "compiled_corpus.txt"
    path.write_bytes("".join(parts).encode())
    arguments = path, 258 + merges, [END, "<x>"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merge_training, "_FIRST_PAIRS", first_pairs)
        compiled = train_bpe(*arguments, num_threads=num_threads)
    assert compiled == lesson.train_bpe(*arguments) == naive_training.train_bpe(*arguments)


def test_the_same_on_real_text_and_under_the_other_pattern(corpus_path):
    text = Path(random.__file__).read_text(encoding="utf-8")[:20_000] + END + "12345 é" * 9
    corpus_path.write_bytes(text.encode())
    arguments = corpus_path, 400, [END], GPT4_PATTERN
    compiled = train_bpe(*arguments)
    assert compiled == naive_training.train_bpe(*arguments)
    assert len(compiled[1]) == 400 - 257


def test_the_same_as_the_lesson_until_no_pair_is_left():
    """Thousands of merges on about 3,000 words, most of them ties, with some long tokens."""
    text = Path(argparse.__file__).read_text(encoding="utf-8")
    counts = count_words([text, "abcdefgh" * 50, "abcdefgh" * 25 + "x"], []).as_dict()
    compiled = train_bpe_from_counts(counts, 50_000, [END])
    assert compiled == lesson.train_bpe_from_counts(counts, 50_000, [END])
    assert 2000 < len(compiled[1]) < 49_000


def test_a_run_of_one_letter_is_merged_from_the_left():
    assert train_bpe_from_counts({"aaaaa": 1}, 300, [])[1] == [
        (b"a", b"a"),
        (b"aa", b"aa"),
        (b"aaaa", b"a"),
    ]


def test_room_for_pairs_and_for_bytes_grows(monkeypatch):
    """A few merges make tokens of thousands of bytes, and one merge makes hundreds of pairs."""
    grown = []
    for owner, name in ((merge_training, "grown_pairs"), (merge_queue.TokenBytes, "with_room")):
        original = getattr(owner, name)

        def counting(*arguments, original=original, name=name):
            grown.append(name)
            return original(*arguments)

        monkeypatch.setattr(owner, name, counting)
    monkeypatch.setattr(merge_training, "_FIRST_PAIRS", 2)
    letters = [chr(0x100 + number) for number in range(200)]
    counts = {"a" * 5000: 3} | {f"xy{letter}": 1 for letter in letters}
    compiled = train_bpe_from_counts(counts, 256 + 30, [])
    assert compiled == lesson.train_bpe_from_counts(counts, 256 + 30, [])
    assert max(map(len, compiled[0].values())) > 4000
    assert {"grown_pairs", "with_room"} == set(grown)


def test_words_are_not_changed():
    words = count_words(["abc abd abe"], [])
    before = [array.copy() for array in words]
    assert train_bpe_from_words(words, 300, []) == train_bpe_from_words(words, 300, [])
    for array, as_it_was in zip(words, before, strict=True):
        np.testing.assert_array_equal(array, as_it_was)


@pytest.mark.parametrize("counts", [{}, {"a": 3}, {"": 1}, {"": 2, "ab": 1, "é": 4}])
def test_corpora_with_little_in_them(counts):
    assert train_bpe_from_counts(counts, 300, [END]) == lesson.train_bpe_from_counts(
        counts, 300, [END]
    )


def test_on_merge_is_told_how_many_merges_are_made(monkeypatch):
    monkeypatch.setattr(merge_training, "REPORT_EVERY", 4)
    seen = []
    train_bpe_from_counts({"abcdefghijk": 1}, 300, [], on_merge=seen.append)
    assert seen == [4, 8, 10]
    seen.clear()
    train_bpe_from_counts({"abcdefghijk": 1}, 256 + 8, [], on_merge=seen.append)
    assert seen == [4, 8]
    seen.clear()
    train_bpe_from_counts({"abcdefghijk": 1}, 256, [], on_merge=seen.append)
    assert seen == []


@pytest.mark.parametrize("first_pairs", [1, 2, 3, 1 << 10])
@pytest.mark.parametrize("every", [1, 2, 5])
def test_on_merge_is_told_ascending_numbers(monkeypatch, first_pairs, every):
    """Also if room has to be made before a merge, and if no pair is left after a report."""
    monkeypatch.setattr(merge_training, "REPORT_EVERY", every)
    monkeypatch.setattr(merge_training, "_FIRST_PAIRS", first_pairs)
    seen = []
    train_bpe_from_counts({"abcdefghijk": 1, "a" * 40: 1}, 400, [], on_merge=seen.append)
    assert seen[0] > 0
    assert all(0 < later - sooner <= every for sooner, later in pairwise(seen))
    merges = train_bpe_from_counts({"abcdefghijk": 1, "a" * 40: 1}, 400, [])[1]
    assert seen[-1] == len(merges) < 400 - 256


@pytest.mark.parametrize(
    ("vocab_size", "special_tokens"),
    [(255, []), (256, [END]), (300, ["a", "a"]), (300, [""]), (300, END)],
)
def test_errors_are_those_of_the_lesson(corpus_path, vocab_size, special_tokens):
    words = count_words(["some text"], [])
    messages = []
    missing = corpus_path.with_name("missing.txt")  # not read before the checks
    for train, corpus in (
        (lesson.train_bpe, missing),
        (train_bpe, missing),
        (train_bpe_from_counts, {"ab": 1}),
        (train_bpe_from_words, words),
    ):
        with pytest.raises(ValueError) as error:
            train(corpus, vocab_size, special_tokens)
        messages.append(str(error.value))
    assert len(set(messages)) == 1


def test_the_smallest_vocabularies(corpus_path):
    corpus_path.write_text("aaaa")
    for size in (257, 258):
        compiled = train_bpe(corpus_path, size, [END])
        assert compiled == lesson.train_bpe(corpus_path, size, [END])
        assert len(compiled[1]) == size - 257


@pytest.mark.parametrize("content", [None, b"", b"fine \xff", b"cut \xe6\xbc"])
def test_files_that_cannot_be_read_give_the_errors_of_the_lesson(corpus_path, content):
    if content is not None:
        corpus_path.write_bytes(content)
    messages = []
    for train in (lesson.train_bpe, train_bpe):
        with pytest.raises(ValueError) as error:
            train(corpus_path, 300, [END])
        messages.append(str(error.value))
    assert messages[0] == messages[1]


def letters_of(kind, size):
    choose = random.Random(4)
    if kind == "one letter":
        return "a" * size
    alphabet = [chr(ord("a") + i) for i in range(2 if kind == "two letters" else 26)]
    if kind == "Chinese":
        alphabet = [chr(0x4E00 + i) for i in range(400)]
        size //= 3
    return "".join(choose.choices(alphabet, k=size))


def run_as_python(monkeypatch, work):
    """Run the trainer's kernels as Python, and count accesses to the words and comparisons."""
    for name in ("_link_all", "_link", "_unlink", "_merge", "_merge_until"):
        kernel = getattr(merge_training, name)
        monkeypatch.setattr(merge_training, name, getattr(kernel, "py_func", kernel))
    for name in ("pop_best", "push", "heapify"):
        kernel = getattr(merge_training, name)
        monkeypatch.setattr(merge_training, name, getattr(kernel, "py_func", kernel))
    sift_down = merge_queue._sift_down
    monkeypatch.setattr(merge_queue, "_sift_down", getattr(sift_down, "py_func", sift_down))
    monkeypatch.setattr(merge_queue, "_comes_first", work.counted_calls(merge_queue._comes_first))
    indexed = merge_training._indexed_words
    monkeypatch.setattr(
        merge_training, "_indexed_words", lambda words: work.counted(indexed(words))
    )


@pytest.mark.parametrize("kind", ["one letter", "two letters", "random letters", "Chinese"])
def test_training_on_one_long_word_costs_n_log_n(kind, monkeypatch, new_work, assert_n_log_n):
    """Make all possible merges: in random text, about as many as letters."""
    steps = []
    for size in (600, 2400):
        work = new_work()
        counts = {letters_of(kind, size): 1}
        expected = lesson.train_bpe_from_counts(counts, 256 + size, [])
        with monkeypatch.context() as patch:
            run_as_python(patch, work)
            assert train_bpe_from_counts(counts, 256 + size, []) == expected
        steps.append(work.steps)
    assert_n_log_n(steps, 600)
