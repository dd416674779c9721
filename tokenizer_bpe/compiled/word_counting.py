"""Count the words of a text that may be larger than memory, on several threads.

Each thread counts into its own table. A table that would exceed its share of the memory is written
out instead, in partitions by hash, and emptied. At the end, the partitions are added up one at a
time. Only the distinct words, which the trainer needs, are then in memory.

What this leaves out: distinct words that do not fit into memory.
"""

import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

import numpy as np

from lm_core.user_error import UserError
from tokenizer_bpe.compiled.kernel_cache import kernel
from tokenizer_bpe.compiled.text_spans import (
    NO_SPECIAL,
    TextSpans,
    padded_text,
    special_token_bytes,
    text_spans,
)
from tokenizer_bpe.compiled.word_boundaries import WHOLE_SPAN, character_classes, word_rule
from tokenizer_bpe.compiled.word_table import (
    WordTable,
    empty,
    grown,
    number_words,
    word_table,
)
from tokenizer_bpe.inputs.input_checks import check_special_tokens, utf8_bytes
from tokenizer_bpe.inputs.text_files import check_text_file, decode_text, text_file_blocks
from tokenizer_bpe.pretokenization import GPT2_PATTERN

TABLE_BYTES = 1 << 29  # for all tables together; beyond it, words are written to disk
BLOCK_BYTES = 1 << 20
PARTITIONS = 64
NUMBERS_AT_A_TIME = 1 << 14  # words; their numbers fit into the L1 cache
ANY_LENGTH = 1 << 62
_FIRST_WORDS, _FIRST_LETTERS = 1 << 16, 1 << 20


class CountedWords(NamedTuple):
    """Distinct words and the number of times that each occurs.

    Attributes:
        letters: the words' UTF-8 bytes, concatenated; uint8.
        starts: word i is letters[starts[i] : starts[i + 1]]; int64 [words + 1].
        counts: int64 [words].
    """

    letters: np.ndarray
    starts: np.ndarray
    counts: np.ndarray

    def as_dict(self) -> dict[str, int]:
        """Return word -> count, as the lesson does."""
        letters, starts = self.letters.tobytes(), self.starts.tolist()
        words = (letters[a:b].decode() for a, b in pairwise(starts))
        return dict(zip(words, self.counts.tolist(), strict=True))

    def select(self, words: np.ndarray) -> "CountedWords":
        """Return the words with the numbers `words`, int64."""
        starts = np.zeros(len(words) + 1, dtype=np.int64)
        np.cumsum(self.starts[words + 1] - self.starts[words], out=starts[1:])
        letters = np.empty(starts[-1], dtype=np.uint8)
        _gather(self.letters, self.starts, words, starts, letters)
        return CountedWords(letters, starts, self.counts[words])


def count_words(
    path_or_texts: Path | str | Iterable[str],
    special_tokens: Sequence[str],
    pattern: str = GPT2_PATTERN,
    num_threads: int = 1,
    table_bytes: int = TABLE_BYTES,
) -> CountedWords:
    """Count every word of a file, or of some texts, outside the special tokens.

    Args:
        path_or_texts: the path of a UTF-8 file, or the texts themselves, read as they come.
        special_tokens: no word contains any part of one.
        pattern: one that `word_rule` knows.
        num_threads: number of threads that count in parallel.
        table_bytes: memory for the tables; the rest is kept in the system's folder for temporary
            files (TMPDIR) until the end.

    Raises:
        ValueError: the file is missing, empty or not UTF-8; a special token is empty or repeated;
            the pattern is not known here.
    """
    check_special_tokens(special_tokens)
    rule = word_rule(pattern)
    if rule is None:
        raise UserError(
            f"pattern {pattern!r} is not compiled; use tokenizer_bpe.pretokenization.count_words"
        )
    if isinstance(path_or_texts, Path | str):
        blocks = _file_blocks(Path(path_or_texts), special_tokens)
    else:
        blocks = (utf8_bytes(text) for text in path_or_texts)
    special = special_token_bytes(special_tokens)
    with tempfile.TemporaryDirectory(prefix="word_counts_") as folder:
        spill = _Partitions(Path(folder))
        counters = [
            WordCounter(rule, table_bytes // num_threads, spill) for _ in range(num_threads)
        ]
        _count_blocks(blocks, special, counters)
        first, *others = counters
        while others and not spill.written:
            first.add_words(others.pop().words())
        if not spill.written:
            return first.words()
        for counter in [first, *others]:
            counter.write_out()
        return spill.add_up(rule)


def _file_blocks(path: Path, special_tokens: Sequence[str]) -> Iterator[bytes]:
    check_text_file(path)
    for offset, block in text_file_blocks(path, special_tokens, True, BLOCK_BYTES):
        decode_text(block, path, offset)  # compiled code requires valid UTF-8
        yield block


def _count_blocks(
    blocks: Iterable[bytes], special: dict[bytes, int], counters: list["WordCounter"]
) -> None:
    """Give each block to a free counter; at most twice as many blocks wait as are being counted."""
    if len(counters) == 1:
        for block in blocks:
            counters[0].add_text(text_spans(block, special))
        return
    free: SimpleQueue[WordCounter] = SimpleQueue()
    for counter in counters:
        free.put(counter)

    def count(block: bytes) -> None:
        counter = free.get()
        try:
            counter.add_text(text_spans(block, special))
        finally:
            free.put(counter)  # otherwise, after an error, the others would wait for it forever

    waiting: deque[Future[None]] = deque()
    with ThreadPoolExecutor(len(counters)) as threads:
        for block in blocks:
            waiting.append(threads.submit(count, block))
            if len(waiting) >= 2 * len(counters):
                waiting.popleft().result()
        for future in waiting:
            future.result()


class WordCounter:
    """A table of words with counts, within `max_bytes` of memory.

    Args:
        rule: from `word_rule`.
        max_bytes: if doubling the table would exceed this, it is written to `spill` and emptied.
        spill: the partitions to write to.
    """

    def __init__(self, rule: int, max_bytes: int, spill: "_Partitions | None" = None) -> None:
        self._rule = rule
        self._max_bytes = max_bytes
        self._spill = spill
        self._table: WordTable = word_table(_FIRST_WORDS, _FIRST_LETTERS)
        self._counts = np.zeros(_FIRST_WORDS, dtype=np.int64)
        self._numbers = np.empty(NUMBERS_AT_A_TIME, dtype=np.int32)

    def add_text(self, spans: TextSpans) -> None:
        """Count the words of the spans."""
        for numbers in self._number_words(spans, self._rule):
            _add_ones(numbers, self._counts)

    def add_words(self, words: CountedWords) -> None:
        """Add counts from another counter."""
        no_specials = np.full(len(words.counts), NO_SPECIAL, dtype=np.int64)
        text = padded_text(words.letters)
        spans = TextSpans(text, words.starts[:-1], words.starts[1:], no_specials)
        done = 0
        for numbers in self._number_words(spans, WHOLE_SPAN):
            self._counts[numbers] += words.counts[done : done + len(numbers)]  # distinct numbers
            done += len(numbers)

    def _number_words(self, spans: TextSpans, rule: int) -> Iterator[np.ndarray]:
        """Yield the numbers of the words of the spans in this table, in parts."""
        span, place = 0, 0
        while span < len(spans.starts):
            span, place, count, no_room_for = number_words(
                *spans.text, *spans[1:], span, place, character_classes(), rule, ANY_LENGTH,
                *self._table, self._numbers,
            )  # fmt: skip
            yield self._numbers[:count]
            if no_room_for:
                self._make_room(no_room_for)

    def _make_room(self, longest: int) -> None:
        bytes_needed = 2 * self._table.num_bytes + 2 * self._counts.nbytes + longest
        if self._spill is not None and bytes_needed > self._max_bytes and self._table.size[0]:
            self.write_out()
            return
        self._table = grown(self._table, longest)
        counts = np.zeros(len(self._table.keys), dtype=np.int64)
        counts[: len(self._counts)] = self._counts
        self._counts = counts

    def words(self) -> CountedWords:
        """Return the counts since the table was last written out."""
        size = int(self._table.size[0])
        starts = self._table.starts[: size + 1]
        return CountedWords(self._table.letters[: starts[-1]], starts, self._counts[:size])

    def write_out(self) -> None:
        """Move all words to the partitions."""
        assert self._spill is not None, "a counter without partitions cannot write out"
        self._spill.write(self.words(), self._table.keys[: self._table.size[0]])
        empty(self._table)
        self._counts.fill(0)


class _Partitions:
    """Counted words on disk, split by the hash of the word so that each part fits into memory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.written: list[Path] = []

    def write(self, words: CountedWords, keys: np.ndarray) -> None:
        """Write one file per partition and call, with a name that no other thread uses."""
        # Not the bits that select slots in the table, as these would be the same within a
        # partition.
        partition = (keys * np.uint64(0xBF58476D1CE4E5B9)) >> np.uint64(64 - 6)
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        for number in range(PARTITIONS):
            part = words.select(np.flatnonzero(partition == number))
            np.savez(folder / f"{number}.npz", **part._asdict())
        self.written.append(folder)

    def add_up(self, rule: int) -> CountedWords:
        """Return the sum of all written counts, partition by partition."""
        parts = []
        for number in range(PARTITIONS):
            counter = WordCounter(rule, 0)
            for folder in self.written:
                with np.load(folder / f"{number}.npz") as file:
                    counter.add_words(CountedWords(**file))
            parts.append(CountedWords(*(array.copy() for array in counter.words())))
        lengths = np.concatenate([np.diff(part.starts) for part in parts])
        return CountedWords(
            letters=np.concatenate([part.letters for part in parts]),
            starts=np.concatenate([[0], np.cumsum(lengths)]),
            counts=np.concatenate([part.counts for part in parts]),
        )


@kernel
def _add_ones(numbers, counts):
    for number in numbers:
        counts[number] += 1


@kernel
def _gather(letters, starts, words, new_starts, new_letters):
    for index in range(len(words)):
        begin = starts[words[index]]
        for place in range(new_starts[index], new_starts[index + 1]):
            new_letters[place] = letters[begin + place - new_starts[index]]
