"""BPE training that touches, for each merge, only the words that hold the pair."""

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from tokenizer_bpe.input_checks import room_for_merges
from tokenizer_bpe.learned_vocabulary import Pair, Trained, single_bytes, vocabulary_of
from tokenizer_bpe.naive_training import merge_pair
from tokenizer_bpe.pretokenization import GPT2_PATTERN, count_words

_INVERTED_BYTES = bytes(range(255, -1, -1))
_AFTER_EVERY_BYTE = "\u0100"

QueueEntry = tuple[int, str, str, Pair]


def _descending(token: bytes) -> str:
    """A string that sorts the other way round: a larger token has a smaller string."""
    return token.translate(_INVERTED_BYTES).decode("latin-1") + _AFTER_EVERY_BYTE


def _queue_entry(pair: Pair, count: int) -> QueueEntry:
    """What `heapq` sorts by: the highest count first, then the larger pair."""
    return -count, _descending(pair[0]), _descending(pair[1]), pair


class PairQueue:
    """Counts of pairs, and a heap over them whose entries may be out of date.

    A count that rises gets a new entry at once. A count that falls does not: its old entry comes
    to the top too early, and is then put back with the count that is true.
    """

    def __init__(self, counts: Mapping[Pair, int]) -> None:
        self._counts = dict(counts)
        self._heap = [_queue_entry(pair, count) for pair, count in self._counts.items()]
        heapq.heapify(self._heap)

    def change(self, pair: Pair, difference: int) -> None:
        """Add to the count of a pair (or take from it)."""
        count = self._counts.get(pair, 0) + difference
        if count > 0:
            self._counts[pair] = count
            if difference > 0:
                heapq.heappush(self._heap, _queue_entry(pair, count))
        else:
            self._counts.pop(pair, None)

    def take_best(self) -> Pair | None:
        """The pair with the highest count, the larger one among equals; None if there is none."""
        while self._heap:
            negative_count, _, _, pair = heapq.heappop(self._heap)
            count = self._counts.get(pair, 0)
            if count == -negative_count:
                return pair
            if 0 < count < -negative_count:
                heapq.heappush(self._heap, _queue_entry(pair, count))
        return None


class WordTable:
    """Words as tuples of tokens, and for each pair the numbers of the words that hold it."""

    def __init__(self, counts: Mapping[str, int]) -> None:
        self._words = [single_bytes(word) for word in counts]
        self._counts = list(counts.values())
        self._holders: defaultdict[Pair, set[int]] = defaultdict(set)
        for number, word in enumerate(self._words):
            for pair in pairwise(word):
                self._holders[pair].add(number)

    def pair_counts(self) -> Counter[Pair]:
        """How often each pair stands in all words."""
        totals: Counter[Pair] = Counter()
        for word, count in zip(self._words, self._counts, strict=True):
            for pair in pairwise(word):
                totals[pair] += count
        return totals

    def merge(self, pair: Pair) -> dict[Pair, int]:
        """Merge the pair in every word that holds it; returns how the counts of pairs change."""
        changes: defaultdict[Pair, int] = defaultdict(int)
        for number in self._holders.pop(pair, ()):
            before = Counter(pairwise(self._words[number]))
            self._words[number] = merge_pair(self._words[number], pair)
            after = Counter(pairwise(self._words[number]))
            self._record(number, before, after, changes)
        return changes

    def _record(
        self,
        number: int,
        before: Counter[Pair],
        after: Counter[Pair],
        changes: defaultdict[Pair, int],
    ) -> None:
        """Add the difference that one word makes to the changes, and mend the index for it."""
        weight = self._counts[number]
        for pair, places in before.items():
            lost = places - after.get(pair, 0)
            if lost:
                changes[pair] -= lost * weight
            if pair not in after and pair in self._holders:
                self._holders[pair].discard(number)
        for pair, places in after.items():
            if pair not in before:
                changes[pair] += places * weight
                self._holders[pair].add(number)


def train_bpe_from_counts(
    counts: Mapping[str, int],
    vocab_size: int,
    special_tokens: Sequence[str],
    on_merge: Callable[[int], None] | None = None,
) -> Trained:
    """Train on counted words; `on_merge` hears after each merge how many there have been."""
    room = room_for_merges(vocab_size, special_tokens)
    words = WordTable(counts)
    queue = PairQueue(words.pair_counts())
    merges: list[Pair] = []
    while len(merges) < room:
        pair = queue.take_best()
        if pair is None:
            break
        merges.append(pair)
        for changed, difference in words.merge(pair).items():
            queue.change(changed, difference)
        if on_merge is not None:
            on_merge(len(merges))
    return vocabulary_of(merges, special_tokens), merges


def train_bpe(
    input_path: Path | str,
    vocab_size: int,
    special_tokens: Sequence[str],
    pattern: str = GPT2_PATTERN,
) -> Trained:
    """Train on a file; the same result as the naive trainer, in much less time."""
    room_for_merges(vocab_size, special_tokens)
    counts = count_words(Path(input_path), special_tokens, pattern)
    return train_bpe_from_counts(counts, vocab_size, special_tokens)
