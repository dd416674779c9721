"""Counts are those of the lesson, with threads, growing tables, and spilling to disk."""

import queue
import tempfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizer_bpe import pretokenization
from tokenizer_bpe.compiled import word_counting
from tokenizer_bpe.compiled.text_spans import special_token_bytes, text_spans
from tokenizer_bpe.compiled.word_boundaries import word_rule
from tokenizer_bpe.compiled.word_counting import CountedWords, WordCounter, count_words
from tokenizer_bpe.pretokenization import GPT2_PATTERN, GPT4_PATTERN, gpt4_pattern

END = "<|endoftext|>"
SPECIAL = [END, f"{END}{END}", "<|a", "b c"]
both_patterns = pytest.mark.parametrize("pattern", [GPT2_PATTERN, GPT4_PATTERN])
awkward_text = st.lists(
    st.sampled_from(
        [*"a bcd19!\n\r\t'é漢\x1c\xa0", "  ", "'ll", "'RE", *SPECIAL, "<|", "long" * 9]
    ),
    max_size=30,
).map("".join)  # fmt: skip
# Far more distinct words than the small tables below can hold.
MANY_WORDS = [
    " ".join(first + chr(97 + n % 26) + chr(97 + n // 26) * (n % 7 + 1) for n in range(300))
    for first in "abé"
]


@pytest.fixture
def temporary_folder(tmp_path, monkeypatch):
    """Set the folder for files of counts, which must be empty afterwards."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def spills(monkeypatch):
    """Start with tables for four words; return the list of the number of words written to disk each
    time.
    """
    monkeypatch.setattr(word_counting, "_FIRST_WORDS", 4)
    monkeypatch.setattr(word_counting, "_FIRST_LETTERS", 16)
    written = []
    write = word_counting._Partitions.write

    def counting_write(self, words, keys):
        written.append(len(words.counts))
        write(self, words, keys)

    monkeypatch.setattr(word_counting._Partitions, "write", counting_write)
    return written


@both_patterns
@settings(max_examples=100, deadline=None)
@given(
    texts=st.lists(awkward_text, max_size=6),
    tokens=st.lists(st.sampled_from(SPECIAL), unique=True),
    num_threads=st.integers(1, 3),
    at_a_time=st.sampled_from([1, 3, 1 << 10]),
)
def test_counts_are_those_of_the_lesson(pattern, texts, tokens, num_threads, at_a_time):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(word_counting, "_FIRST_WORDS", 4)
        patch.setattr(word_counting, "_FIRST_LETTERS", 16)
        patch.setattr(word_counting, "NUMBERS_AT_A_TIME", at_a_time)
        counted = count_words(texts, tokens, pattern, num_threads)
    assert counted.as_dict() == pretokenization.count_words(texts, tokens, pattern)
    assert len(counted.as_dict()) == len(counted.counts), "a word is listed twice"


def test_on_one_thread_words_come_in_the_order_of_their_first_appearance():
    expected = pretokenization.count_words(MANY_WORDS, [])
    assert list(count_words(MANY_WORDS, []).as_dict().items()) == list(expected.items())


@both_patterns
@pytest.mark.parametrize("tokens", [[], [END], ["漢語漢", "d"], SPECIAL])
@settings(max_examples=60, deadline=None)
@given(
    parts=st.lists(st.one_of(awkward_text, st.just("漢語漢")), min_size=1).filter(any),
    block_bytes=st.integers(1, 9),
    num_threads=st.integers(1, 2),
)
def test_a_file_in_small_blocks(tmp_path_factory, pattern, tokens, parts, block_bytes, num_threads):
    path = tmp_path_factory.getbasetemp() / "counted.txt"
    path.write_bytes("".join(parts).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(word_counting, "BLOCK_BYTES", block_bytes)
        counted = count_words(path, tokens, pattern, num_threads).as_dict()
    assert counted == pretokenization.count_words(path, tokens, pattern)


def test_a_file_goes_through_the_blocks(tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text("some words " * 100)
    monkeypatch.setattr(word_counting, "BLOCK_BYTES", 7)
    blocks = list(word_counting._file_blocks(tmp_path / "text.txt", []))
    assert len(blocks) > 100


def test_a_table_that_may_grow_stays_in_memory(spills, monkeypatch):
    grown = []
    original = word_counting.grown
    monkeypatch.setattr(
        word_counting, "grown", lambda *arguments: grown.append(1) or original(*arguments)
    )
    counted = count_words(MANY_WORDS, [], table_bytes=1 << 24).as_dict()
    assert counted == pretokenization.count_words(MANY_WORDS, [])
    assert len(grown) > 5
    assert spills == []


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_what_does_not_fit_goes_to_the_disk_and_comes_back(spills, temporary_folder, num_threads):
    texts = [*MANY_WORDS, "x" * 5000, *MANY_WORDS, "y" * 40 + END + "y" * 40]
    expected = pretokenization.count_words(texts, [END])
    counted = count_words(texts, [END], num_threads=num_threads, table_bytes=num_threads * 6000)
    assert counted.as_dict() == expected
    assert len(counted.counts) == len(expected)
    assert sum(spills) > len(expected)
    assert len(spills) > 2 * num_threads
    assert list(temporary_folder.iterdir()) == []


def test_a_word_larger_than_the_memory_is_counted(spills, temporary_folder):
    """Its table exceeds the limit, which is better than no count."""
    texts = ["w" * 100 + " a" * 5, "w" * 100]
    counted = count_words(texts, [], table_bytes=0).as_dict()
    assert counted == pretokenization.count_words(texts, [])


def test_tables_whose_sum_does_not_fit_are_added_once(spills, temporary_folder, monkeypatch):
    """Each thread's table fits; adding them up fills the first one, which is written to disk."""

    def in_turn(blocks, special, counters):
        for number, block in enumerate(blocks):
            counters[number % len(counters)].add_text(text_spans(block, special))

    monkeypatch.setattr(word_counting, "_count_blocks", in_turn)
    texts = ["ab bc bc", "ab cd de", "ef fg", "ab gh hi"]
    counted = count_words(texts, [], num_threads=4, table_bytes=0).as_dict()
    assert counted == pretokenization.count_words(texts, [])
    assert spills


def test_a_counter_does_not_exceed_its_memory(spills, tmp_path):
    spill = word_counting._Partitions(tmp_path)
    counter = WordCounter(word_rule(GPT2_PATTERN), 9000, spill)
    for text in MANY_WORDS:
        counter.add_text(text_spans(text.encode(), {}))
        assert counter._table.num_bytes + counter._counts.nbytes <= 9000
    assert spills
    assert max(spills) > 50, "the table is written out long before it is full"


def test_the_words_of_one_partition_are_spread_over_their_table(tmp_path, monkeypatch):
    """If partition and slot used the same bits, the words would share 1 / 64 of the slots, and
    every search would probe hundreds of them.
    """
    monkeypatch.setattr(word_counting, "_FIRST_WORDS", 1 << 12)
    monkeypatch.setattr(word_counting, "PARTITIONS", 1)
    spill = word_counting._Partitions(tmp_path)
    counter = WordCounter(word_rule(GPT2_PATTERN), 1 << 30, spill)
    letters = [chr(97 + n) for n in range(26)]
    words = [f"{a}{b}{c}{d}" for a in letters for b in letters for c in letters for d in "aeiou"]
    counter.add_text(text_spans("\n".join(words).encode(), {}))
    counter.write_out()
    with np.load(spill.written[0] / "0.npz") as file:
        part = CountedWords(**file)
    assert 500 < len(part.counts) < 3000, "one of 64 parts of 88,000 words"
    sum_of_parts = WordCounter(word_rule(GPT2_PATTERN), 1 << 30)
    sum_of_parts.add_words(part)
    taken = np.flatnonzero(sum_of_parts._table.slots >= 0)
    runs = np.split(taken, np.flatnonzero(np.diff(taken) > 1) + 1)
    assert max(map(len, runs)) < 50


def test_nothing_is_left_behind_after_an_error(spills, temporary_folder):
    def texts():
        yield from ["a b c d e f g", "h i j k l m"]
        raise RuntimeError("the text breaks off")

    with pytest.raises(RuntimeError, match="breaks off"):
        count_words(texts(), [], num_threads=2, table_bytes=0)
    assert spills
    assert list(temporary_folder.iterdir()) == []


def test_an_error_in_the_threads_is_raised_and_makes_nobody_wait(monkeypatch):
    class ImpatientQueue(queue.SimpleQueue):
        def get(self):
            return super().get(timeout=2)  # instead of forever

    def disk_full(self, spans):
        raise OSError("no space left on device")

    monkeypatch.setattr(word_counting, "SimpleQueue", ImpatientQueue)
    monkeypatch.setattr(WordCounter, "add_text", disk_full)
    counters = [WordCounter(word_rule(GPT2_PATTERN), 1 << 20) for _ in range(2)]
    errors = []
    submit = word_counting.ThreadPoolExecutor.submit

    def watched(self, *arguments):
        future = submit(self, *arguments)
        future.add_done_callback(lambda done: errors.append(done.exception()))
        return future

    monkeypatch.setattr(word_counting.ThreadPoolExecutor, "submit", watched)
    with pytest.raises(OSError, match="no space"):
        word_counting._count_blocks(iter([b"a"] * 8), {}, counters)
    assert {type(error) for error in errors} == {OSError}


def test_blocks_are_not_read_far_ahead_of_the_counting(monkeypatch):
    """Otherwise a file larger than memory would wait in memory."""
    monkeypatch.setattr(WordCounter, "add_text", lambda self, spans: counted.append(1))
    counted, ahead = [], []

    def blocks():
        for number in range(50):
            ahead.append(number - len(counted))
            yield b"a"

    counters = [WordCounter(word_rule(GPT2_PATTERN), 1 << 20) for _ in range(3)]
    word_counting._count_blocks(blocks(), {}, counters)
    assert len(counted) == 50
    assert max(ahead) <= 2 * 3 + 3


@pytest.mark.parametrize("content", [None, b"", b"some words \xff and more words", b"cut \xe6\xbc"])
@pytest.mark.parametrize("num_threads", [1, 2])
def test_errors_are_those_of_the_lesson(tmp_path, monkeypatch, content, num_threads):
    monkeypatch.setattr(word_counting, "BLOCK_BYTES", 7)
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    messages = []
    for count, workers in ((pretokenization.count_words, 1), (count_words, num_threads)):
        with pytest.raises(ValueError) as error:
            count(path, [END], GPT2_PATTERN, workers)
        messages.append(str(error.value))
    assert messages[0] == messages[1]


def test_arguments_that_make_no_sense():
    with pytest.raises(ValueError, match="named twice"):
        count_words(["a"], ["x", "x"])
    with pytest.raises(ValueError, match="is not compiled; use"):
        count_words(["a"], [], r"\w+|\W")
    with pytest.raises(ValueError, match=r"U\+D800, half of a surrogate pair"):
        count_words(["a\ud800"], [])


def test_the_other_rules_for_digits():
    for digits in (0, 1, 2):
        pattern = gpt4_pattern(digits)
        assert count_words(["1234567 12"], [], pattern).as_dict() == pretokenization.count_words(
            ["1234567 12"], [], pattern
        )


def test_some_of_the_words():
    words = CountedWords(
        np.frombuffer(b"abcdef", dtype=np.uint8), np.array([0, 1, 3, 3, 6]), np.array([1, 2, 3, 4])
    )
    assert words.select(np.array([3, 1])).as_dict() == {"def": 4, "bc": 2}
    assert words.select(np.array([], dtype=np.int64)).as_dict() == {}
    assert words.as_dict() == {"a": 1, "bc": 2, "": 3, "def": 4}


def test_special_tokens_are_no_words():
    spans = text_spans(f"ab{END}ab".encode(), special_token_bytes([END]))
    counter = WordCounter(word_rule(GPT2_PATTERN), 1 << 20)
    counter.add_text(spans)
    assert counter.words().as_dict() == {"ab": 2}
