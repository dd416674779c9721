"""The lesson's `Tokenizer` with compiled encoding, and threads.

Every thread has a table of the words it has seen, with their ids. Decoding, files and
`encode_iterable` use the lesson's code, as does all encoding under a pattern that is not compiled.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from tokenizer_bpe import tokenizer as lesson
from tokenizer_bpe.compiled.kernel_cache import kernel
from tokenizer_bpe.compiled.text_spans import TextSpans, text_spans
from tokenizer_bpe.compiled.word_boundaries import character_classes, word_rule
from tokenizer_bpe.compiled.word_merging import (
    LONG_WORD,
    MergeRules,
    encode_long_word,
    encode_word,
    merge_rules,
    scratch_for,
)
from tokenizer_bpe.compiled.word_table import empty, number_words, word_table
from tokenizer_bpe.inputs.input_checks import utf8_bytes
from tokenizer_bpe.pretokenization import GPT2_PATTERN, text_blocks

CACHED_WORDS, CACHED_BYTES = 1 << 19, 1 << 22
BLOCK_CHARACTERS = 1 << 19  # block size of a text that several threads share
BATCH_CHARACTERS = 1 << 17
NUMBERS_AT_A_TIME = 1 << 14
MOST_KEPT_IDS = 1 << 22

Item = TypeVar("Item")
Result = TypeVar("Result")


class Tokenizer(lesson.Tokenizer):
    """A tokenizer with exactly the ids of `tokenizer_bpe.tokenizer.Tokenizer`."""

    def __init__(
        self,
        vocab: Mapping[int, bytes],
        merges: Sequence[tuple[bytes, bytes]],
        special_tokens: Sequence[str] | None = None,
        pattern: str = GPT2_PATTERN,
    ) -> None:
        super().__init__(vocab, merges, special_tokens, pattern)
        id_of = {token: token_id for token_id, token in self.vocab.items()}
        self._rule = word_rule(pattern)
        self._special_ids = {text.encode(): i for text, i in self.special_tokens.items()}
        self._rules = merge_rules(
            [id_of[bytes([byte])] for byte in range(256)],
            [(id_of[left], id_of[right], id_of[left + right]) for left, right in self.merges],
        )
        self._idle: list[_SpanEncoder] = []  # encoders that no thread is using

    @property
    def encodes_in_threads(self) -> bool:
        """Whether threads encode at the same time: compiled code does not hold the interpreter's
        lock.
        """
        return self._rule is not None

    @classmethod
    def of(cls, tokenizer: lesson.Tokenizer) -> "Tokenizer":
        """Return the compiled twin of a tokenizer."""
        return cls(
            tokenizer.vocab, tokenizer.merges, list(tokenizer.special_tokens), tokenizer.pattern
        )

    def encode_to_array(self, text: str, num_threads: int = 1) -> np.ndarray:
        """Encode as the lesson does; several threads share a text that is long enough to be
        split.
        """
        if self._rule is None:
            return super().encode_to_array(text)
        if num_threads == 1 or len(text) <= BLOCK_CHARACTERS or self._cut_would_hurt():
            return self._with_encoder(self._encode_text, text)
        blocks = text_blocks(text, self.pattern, BLOCK_CHARACTERS)
        return np.concatenate(list(self._on_threads(self._encode_text, blocks, num_threads)))

    def encode_batch(self, texts: Iterable[str], num_threads: int = 1) -> list[list[int]]:
        """Return the ids of each text, in order; each thread encodes one text at a time."""
        # All arrays first: building a list holds the interpreter's lock, and the threads would wait
        # for it after each kernel (60 MB, two threads: 1.09 against 0.93 s).
        arrays = list(self.encode_batch_to_arrays(texts, num_threads))
        return [ids.tolist() for ids in arrays]

    def encode_batch_to_arrays(
        self, texts: Iterable[str], num_threads: int = 1
    ) -> Iterator[np.ndarray]:
        """As `encode_batch`, as arrays, one after the other: what a data set is made from. (To make
        a list of Python integers takes longer than to find the ids.)
        """
        if self._rule is None:
            yield from map(self.encode_to_array, texts)
            return

        def encode(encoder: "_SpanEncoder", batch: list[str]) -> list[np.ndarray]:
            return [self._encode_text(encoder, text) for text in batch]

        for part in self._on_threads(encode, _batches(texts), num_threads):
            yield from part

    def _cut_would_hurt(self) -> bool:
        """Return whether a special token may span a place at which `text_blocks` cuts."""
        return any(" " in token for token in self.special_tokens)

    def _encode_text(self, encoder: "_SpanEncoder", text: str) -> np.ndarray:
        return encoder.encode(text_spans(utf8_bytes(text), self._special_ids), self._dtype)

    def _on_threads(
        self,
        encode: "Callable[[_SpanEncoder, Item], Result]",
        items: Iterable[Item],
        num_threads: int,
    ) -> Iterator[Result]:
        """Yield `encode` of each item, in order."""
        if num_threads == 1:
            yield from (self._with_encoder(encode, item) for item in items)
            return
        with ThreadPoolExecutor(num_threads) as threads:
            yield from threads.map(lambda item: self._with_encoder(encode, item), items)

    def _with_encoder(self, encode: "Callable[[_SpanEncoder, Item], Result]", item: Item) -> Result:
        """Call `encode` with an encoder that no other thread uses, neither ours nor the
        caller's.
        """
        assert self._rule is not None, "a pattern that is not compiled is left to the lesson"
        try:
            encoder = self._idle.pop()
        except IndexError:
            encoder = _SpanEncoder(self._rules, self._rule)
        try:
            return encode(encoder, item)
        finally:
            self._idle.append(encoder)


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Yield groups of texts with BATCH_CHARACTERS in total, enough to be worth waking a thread."""
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class _SpanEncoder:
    """An encoder for one thread, which remembers the words it has seen."""

    def __init__(self, rules: MergeRules, rule: int) -> None:
        self._rules = rules
        self._rule = rule
        self._table = word_table(CACHED_WORDS, CACHED_BYTES)
        # A word has at most as many ids as bytes, so its ids are stored at the offset of its
        # letters.
        self._ids = np.empty(CACHED_BYTES, dtype=np.int32)
        # Number of ids of a word * 2^32 + the first id; most words have only one.
        self._found = np.empty(CACHED_WORDS, dtype=np.int64)
        self._known = 0  # number of words in the table whose ids are known
        self._numbers = np.empty(NUMBERS_AT_A_TIME, dtype=np.int32)
        self._scratch = scratch_for(LONG_WORD)
        self._room = np.empty(0, dtype=np.int32)

    def encode(self, spans: TextSpans, dtype: str) -> np.ndarray:
        """Return the ids of the spans and of the special tokens between them."""
        ids = self._room_for(len(spans.text.letters))
        table = self._table
        span, place, count = 0, 0, 0
        while span < len(spans.starts):
            span, place, count, self._known, left_over = _encode_spans(
                spans, span, place, character_classes(), self._rule, table, self._numbers,
                self._known, self._rules, self._scratch, self._ids, self._found, ids, count,
            )  # fmt: skip
            if left_over > LONG_WORD:  # rarely seen twice, so not cached
                long = encode_long_word(spans.text.letters[place : place + left_over], self._rules)
                ids[count : count + len(long)] = long
                count += len(long)
                place += left_over
            elif left_over:
                empty(table)
                self._known = 0
        return ids[:count].astype(dtype)

    def _room_for(self, num_ids: int) -> np.ndarray:
        """Return an int32 buffer that is reused for the next text, since the system clears fresh
        memory.
        """
        if num_ids > MOST_KEPT_IDS:
            return np.empty(num_ids, dtype=np.int32)
        if len(self._room) < num_ids:
            self._room = np.empty(num_ids, dtype=np.int32)
        return self._room


@kernel
def _encode_spans(
    spans, span, place, classes, rule, table, numbers, known, rules, scratch, cached_ids, found,
    ids, count,
):  # fmt: skip
    """Encode from byte `place` of span `span`, up to the end or to a word left to the caller.

    Returns (span, place, number of ids, number of known words, `left_over` as in number_words).
    Usually one call encodes a whole text: a thread that returns from compiled code needs the
    interpreter's lock, and with a return after every 16,384 words two threads mostly waited for it.
    """
    left_over = 0
    while span < len(spans.starts) and left_over == 0:
        span, place, num_words, left_over = number_words(
            spans.text.letters, spans.text.eights, spans.starts, spans.stops, spans.specials,
            span, place, classes, rule, LONG_WORD,
            table.slots, table.keys, table.starts, table.letters, table.eights, table.size,
            numbers,
        )  # fmt: skip
        known = _encode_new_words(known, table, rules, scratch, cached_ids, found)
        count = _write_ids(numbers[:num_words], table.starts, cached_ids, found, ids, count)
    return span, place, count, known, left_over


@kernel
def _encode_new_words(known, table, rules, scratch, cached_ids, found):
    """Encode the words from number `known`; return how many words are now known."""
    for word in range(known, table.size[0]):
        begin = table.starts[word]
        number = encode_word(table.letters, begin, table.starts[word + 1], rules, scratch)
        for index in range(number):
            cached_ids[begin + index] = scratch.tokens[index]
        found[word] = (np.int64(number) << 32) | np.int64(scratch.tokens[0])
    return table.size[0]


@kernel
def _write_ids(numbers, word_starts, cached_ids, found, ids, count):
    """Replace words by their ids; return how many ids there are now."""
    for word in numbers:
        if word < 0:
            ids[count] = -2 - word
            count += 1
            continue
        number = found[word] >> 32
        ids[count] = found[word] & 0xFFFFFFFF
        for index in range(1, number):
            ids[count + index] = cached_ids[word_starts[word] + index]
        count += number
    return count
