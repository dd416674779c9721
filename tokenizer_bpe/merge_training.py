"""Fast BPE training: the merges of `naive_training`, without recounting all pairs.

Three ideas, each a few lines:

- A word is a string whose characters are tokens: `chr(id)`. A pair is then a string of two
  characters, and a merge is slicing, which Python does in C.
- Inverted index: every pair has a list of the words in which it may occur, and a merge visits only
  those. An entry may be stale (an earlier merge removed the pair); the visit then finds nothing.
- Priority queue with lazy deletion: merging can only lower the count of an old pair, and every new
  pair contains the new token. So a pair is pushed once, when its count is highest. If its count has
  fallen by the time it reaches the top, it is pushed again with its current count.

Slicing copies the word, so a word of n tokens costs n steps per merge. A word of more than
LONG_WORD tokens (a line of one letter, base64) is a linked list instead, where the cost of a merge
depends only on the number of changes. One case stays expensive because its result is large: where
every pair occurs once, the rule for ties makes one token longer and longer, and the vocabulary
grows with the square of the number of merges. Repeated words never do that.

What this leaves out: texts whose distinct words do not fit into memory, and threads.

Source: Sennrich et al. 2016, algorithm 1; the index is that of the authors' subword-nmt.
"""

import gc
import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from lm_core.settings import Settings
from lm_core.user_error import UserError
from tokenizer_bpe.inputs.input_checks import check_special_tokens, check_vocab_size
from tokenizer_bpe.pretokenization import GPT2_PATTERN, PATTERNS, count_words, gpt4_pattern

LONG_WORD = 500  # tokens


class TokenizerSettings(Settings):
    """The [tokenizer] section of a recipe.

    Attributes:
        vocab_size: bytes, merges and special tokens together.
        pattern: a key of pretokenization.PATTERNS.
        max_digits: in a word of gpt4; 0: no limit; unset: 3. With gpt2, an error.
        max_training_bytes: of UTF-8 text; the rest is not read.
        num_processes: to count words; threads for compiled code.
    """

    vocab_size: int = Field(default=4096, gt=256)
    pattern: Literal["gpt2", "gpt4"] = "gpt2"
    max_digits: int | None = Field(default=None, ge=0)
    max_training_bytes: int = Field(default=50_000_000, gt=0)
    num_processes: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _digit_rule_has_a_place(self) -> "TokenizerSettings":
        if self.pattern == "gpt2" and self.max_digits is not None:
            raise UserError(
                f"max_digits = {self.max_digits}: GPT-2's pattern has no digit rule; "
                'use pattern = "gpt4"'
            )
        return self

    @property
    def word_pattern(self) -> str:
        """The pattern itself, for `pretokenize`."""
        if self.max_digits is None:
            return PATTERNS[self.pattern]
        return gpt4_pattern(self.max_digits)


def train_bpe(
    input_path: Path | str,
    vocab_size: int,
    special_tokens: Sequence[str],
    pattern: str = GPT2_PATTERN,
) -> tuple[dict[int, bytes], list[tuple[bytes, bytes]]]:
    """Train a byte-level BPE vocabulary on a text file.

    Arguments, results and errors are those of `naive_training.train_bpe`.
    """
    check_special_tokens(special_tokens)
    check_vocab_size(vocab_size, special_tokens)
    counts = count_words(Path(input_path), special_tokens, pattern)
    return train_bpe_from_counts(counts, vocab_size, special_tokens)


def train_bpe_from_counts(
    counts: Mapping[str, int],
    vocab_size: int,
    special_tokens: Sequence[str],
    on_merge: Callable[[int], None] | None = None,
) -> tuple[dict[int, bytes], list[tuple[bytes, bytes]]]:
    """Train on words that have been counted already.

    Args:
        counts: word -> number of occurrences, from `count_words`.
        vocab_size: at most this many entries: the 256 bytes, the merges, the special tokens.
        special_tokens: they take the last ids, in the order given.
        on_merge: called after every merge with the number of merges so far; for a progress bar.

    Returns:
        (id -> bytes, merges in the order in which they were made).

    Raises:
        ValueError: the vocabulary is too small, or a special token is empty or repeated.
    """
    check_special_tokens(special_tokens)
    check_vocab_size(vocab_size, special_tokens)
    tokens = [bytes([byte]) for byte in range(256)]
    merges: list[tuple[bytes, bytes]] = []
    with _garbage_collector_off():
        words = IndexedWords(counts)
        queue = MergeQueue(words.pair_counts, tokens)
        while len(tokens) + len(special_tokens) < vocab_size:
            pair = queue.pop_best()
            if pair is None:
                break
            merges.append((tokens[ord(pair[0])], tokens[ord(pair[1])]))
            queue.add_token(merges[-1][0] + merges[-1][1])
            queue.push(words.merge(pair, chr(len(tokens) - 1)))
            if on_merge is not None:
                on_merge(len(merges))
    tokens += [token.encode() for token in special_tokens]
    return dict(enumerate(tokens)), merges


class MergeQueue:
    """A priority queue of pairs: the highest count first, then the larger pair of byte strings."""

    def __init__(self, pair_counts: dict[str, int], tokens: list[bytes]) -> None:
        self._pair_counts = pair_counts  # kept up to date by IndexedWords.merge
        self._tokens = tokens  # id -> bytes; grows by add_token
        self._reversed_order = [_reversed_order_key(token) for token in tokens]
        self._heap = [self._entry(pair) for pair in pair_counts]
        heapq.heapify(self._heap)

    def _entry(self, pair: str) -> tuple[int, str, str, str]:
        left, right = pair
        order = self._reversed_order
        return -self._pair_counts[pair], order[ord(left)], order[ord(right)], pair

    def add_token(self, token: bytes) -> None:
        """Append a token, so that pairs containing it can be pushed."""
        self._tokens.append(token)
        self._reversed_order.append(_reversed_order_key(token))

    def push(self, pairs: list[str]) -> None:
        """Add new pairs whose count is complete, so that it can only fall from now on."""
        for pair in pairs:
            if self._pair_counts[pair] > 0:
                heapq.heappush(self._heap, self._entry(pair))

    def pop_best(self) -> str | None:
        """Remove and return the best pair; None if no pair is left."""
        heap, pair_counts = self._heap, self._pair_counts
        while heap:
            pair = heap[0][3]
            if pair_counts[pair] == -heap[0][0]:
                return heapq.heappop(heap)[3]
            if pair_counts[pair] > 0:  # the count has fallen: push the pair again
                heapq.heapreplace(heap, self._entry(pair))
            else:
                heapq.heappop(heap)
        return None


def _reversed_order_key(token: bytes) -> str:
    """Return a string that sorts in the opposite order of `token`, since the heap pops the
    smallest.

    The last character ranks a token before its own prefixes: b"ab" > b"a".
    """
    return "".join(chr(256 - byte) for byte in token) + chr(257)


class IndexedWords:
    """All distinct words, the count of every pair, and the words in which a pair may occur."""

    def __init__(self, counts: Mapping[str, int]) -> None:
        self.pair_counts: dict[str, int] = {}
        self._words: list[str] = []  # token characters; "" for a word in _long_words
        self._frequencies: list[int] = []
        self._long_words: dict[int, LinkedWord] = {}
        self._places: dict[str, list[int]] = {}  # pair -> indices of words, equal ones adjacent
        for word, frequency in counts.items():
            # Bytes 0 to 255 are tokens 0 to 255, and Latin-1 maps a byte to the same character.
            self._add(word if word.isascii() else word.encode().decode("latin-1"), frequency)

    def _add(self, word: str, frequency: int) -> None:
        index = len(self._words)
        pairs = map(str.__add__, word, word[1:])
        if len(word) > LONG_WORD:
            self._long_words[index] = LinkedWord(word)
            word = ""
        self._words.append(word)
        self._frequencies.append(frequency)
        counts, places = self.pair_counts, self._places
        for pair in pairs:
            if pair in counts:
                counts[pair] += frequency
                places[pair].append(index)
            else:
                counts[pair] = frequency
                places[pair] = [index]

    def merge(self, pair: str, merged: str) -> list[str]:
        """Merge `pair` into the token `merged` in every word; return the new pairs."""
        counts, places = self.pair_counts, self._places
        new_pairs: list[str] = []
        previous = -1
        for index in places.pop(pair):
            if index == previous:  # a word is listed once per occurrence of the pair
                continue
            previous = index
            frequency = self._frequencies[index]
            for old_pair, new_pair in self._merge_in_word(index, pair, merged):
                counts[old_pair] -= frequency
                if new_pair in counts:
                    counts[new_pair] += frequency
                    if places[new_pair][-1] != index:
                        places[new_pair].append(index)
                else:
                    counts[new_pair] = frequency
                    places[new_pair] = [index]
                    new_pairs.append(new_pair)
        del counts[pair]
        return new_pairs

    def _merge_in_word(self, index: int, pair: str, merged: str) -> Iterable[tuple[str, str]]:
        """Merge in one word, from left to right; return (removed pair, new pair) for each
        change.
        """
        word = self._words[index]
        if not word:
            return self._long_words[index].merge(pair, merged)
        left, right = pair
        changes = []
        start = word.find(pair)
        while start >= 0:
            if start:
                changes.append((word[start - 1] + left, word[start - 1] + merged))
            after = word[start + 2 : start + 3]
            if after:
                changes.append((right + after, merged + after))
            word = word[:start] + merged + word[start + 2 :]
            start = word.find(pair, start + 1)
        self._words[index] = word
        return changes


class LinkedWord:
    """A long word as a doubly linked list of tokens, with the positions of each of its pairs.

    A merge visits the positions of one pair. Each merged position leaves one token fewer and adds
    at most two positions, so all merges together visit at most 3 n positions for n tokens.
    """

    def __init__(self, word: str) -> None:
        self._tokens = list(word)  # "" if the token was merged into the one before it
        self._next = list(range(1, len(word) + 1))
        self._before = list(range(-1, len(word) - 1))
        self._positions: dict[str, list[int]] = {}  # pair -> positions of its left token, ascending
        for position, pair in enumerate(map(str.__add__, word, word[1:])):
            self._positions.setdefault(pair, []).append(position)

    def merge(self, pair: str, merged: str) -> Iterator[tuple[str, str]]:
        """Merge `pair` from left to right; yield (removed pair, new pair)."""
        tokens, following, before = self._tokens, self._next, self._before
        left, right = pair
        end = len(tokens)
        for position in self._positions.pop(pair, []):
            second = following[position]
            if second == end or tokens[position] != left or tokens[second] != right:
                continue  # stale
            third = following[second]
            tokens[position], tokens[second] = merged, ""
            following[position] = third
            first = before[position]
            if first >= 0:
                self._positions.setdefault(tokens[first] + merged, []).append(first)
                yield tokens[first] + left, tokens[first] + merged
            if third < end:
                before[third] = position
                self._positions.setdefault(merged + tokens[third], []).append(position)
                yield right + tokens[third], merged + tokens[third]


@contextmanager
def _garbage_collector_off() -> Iterator[None]:
    """Switch off the search for cycles: among millions of small objects it takes time and finds
    none.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
