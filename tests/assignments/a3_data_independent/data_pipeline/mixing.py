"""Several sources of documents -> one order, with a weight for each source.

Weights say what share of the mix comes from each source. With a budget, they say how often each
source is read: 1.7 epochs are every document once, and 70 % of them a second time. The order is
never stored. Each of its items is computed from the seed and its number, so a run can resume
anywhere, and change the weights there, without repeating a document within an epoch.

What this leaves out: reading the documents (sharding/mixed_shards.py), and good weights. Xie et
al., 2023 (DoReMi) learn them; Muennighoff et al., 2023, measure that up to about 4 epochs are
almost as good as new text. Temperatures: Conneau et al., 2020 (XLM-R), section 3.1, whose alpha is
1 / temperature.
"""

from collections.abc import Iterator, Mapping
from fractions import Fraction
from heapq import merge
from itertools import count, islice
from math import isfinite
from typing import NamedTuple

import numpy as np

from lm_core.random_state import derived_seed
from lm_core.user_error import UserError

ROUNDS = 6  # of the Feistel network; a test measures that all orders of 4 documents are as frequent
LEAST_HALF_BITS = 3
FIRST_BLOCK, LARGEST_BLOCK = 64, 4096  # positions that are shuffled at a time
TIME_BITS, PART_BITS = 96, 32  # of a time in the mix, and of a place in a part of it


def temperature_weights(sizes: Mapping[str, int], temperature: float) -> dict[str, float]:
    """Return weights with the sum 1, proportional to size^(1 / temperature).

    Temperature 1 is proportional to the sizes; a higher one favours small sources, and infinity
    makes all equal. Weights have 12 significant digits, which are the same on every machine.

    >>> temperature_weights({"english": 900, "korean": 100}, 2)
    {'english': 0.75, 'korean': 0.25}

    Args:
        sizes: source -> documents, tokens or bytes, 1 or more.
        temperature: greater than 0.

    Raises:
        ValueError: a size is less than 1, or the temperature is not greater than 0.
    """
    if not temperature > 0:
        raise UserError(f"temperature is {temperature}; expected more than 0")
    for source, size in sizes.items():
        if size < 1:
            raise UserError(f"source {source!r} has the size {size}; expected 1 or more")
    if not sizes:
        return {}
    largest, power = max(sizes.values()), 1 / temperature
    powers = {source: (size / largest) ** power for source, size in sizes.items()}
    total = sum(powers.values())
    return {source: float(f"{value / total:.12g}") for source, value in powers.items()}


def apportion(total: int, weights: Mapping[str, float]) -> dict[str, int]:
    """Divide `total` in proportion to the weights, by the method of the largest remainder.

    Each source gets its exact share, rounded down. What is left goes, one each, to the sources that
    lost most; of equal ones, to the earlier. The sum is exactly `total`.

    >>> apportion(10, {"web": 0.55, "books": 0.3, "code": 0.15})  # of 5.5, 3 and 1.5
    {'web': 6, 'books': 3, 'code': 1}

    Args:
        total: 0 or more.
        weights: source -> weight, of any sum. They are the decimal numbers that Python prints.

    Raises:
        ValueError: a weight is negative or not a number, or all are 0.
    """
    exact: dict[str, Fraction] = {}
    for source, weight in weights.items():
        if not isfinite(weight) or weight < 0:
            raise UserError(f"source {source!r} has the weight {weight}; expected 0 or more")
        exact[source] = Fraction(str(weight))
    whole = sum(exact.values())
    if whole == 0:
        raise UserError("no source has a weight above 0; give at least one of them a weight")
    result, lost = {}, {}
    for source, weight in exact.items():
        share = total * weight / whole
        result[source] = share.numerator // share.denominator
        lost[source] = share - result[source]
    left = total - sum(result.values())
    # The sort is stable: of sources that lost as much, the earlier stays first.
    for source in sorted(lost, key=lost.__getitem__, reverse=True)[:left]:
        result[source] += 1
    return result


def budget_per_source(
    sizes: Mapping[str, int],
    weights: Mapping[str, float],
    budget: int,
    max_epochs: float | None = None,
) -> dict[str, int]:
    """Divide a budget by the weights; no source gives more than int(size max_epochs).

    What a source cannot give is divided among the others, again by their weights. If all with a
    weight are exhausted, the sum is less than the budget.

    >>> budget_per_source({"web": 100, "books": 10}, {"web": 1, "books": 1}, 80, max_epochs=2)
    {'web': 60, 'books': 20}

    Args:
        sizes: source -> tokens or documents.
        weights: source -> weight, for the same sources.
        budget: in the unit of `sizes`.
        max_epochs: how often a source may be read; None for any number.
    """
    if max_epochs is None:
        return apportion(budget, weights)
    epochs = Fraction(str(max_epochs))
    limits = {source: int(size * epochs) for source, size in sizes.items()}
    given = dict.fromkeys(weights, 0)
    still_open = {source: weight for source, weight in weights.items() if weight > 0}
    left = budget
    while still_open:
        parts = apportion(left, still_open)
        closed = [source for source, part in parts.items() if part >= limits[source]]
        if not closed:
            return given | parts
        for source in closed:
            given[source] = limits[source]
            left -= limits[source]
            del still_open[source]
    return given


def documents_served(num_documents: int, amount: int, size: int) -> int:
    """Return how many documents a source serves if it gives `amount` of its `size` tokens.

    That is num_documents amount / size, rounded to the nearest whole number, halves up, and at
    least 1 if `amount` is not 0. More than `num_documents` are whole epochs and a part of another.

    >>> documents_served(10, 1700, 1000)  # 1.7 epochs
    17
    """
    if amount == 0:
        return 0
    return max(1, (2 * num_documents * amount + size) // (2 * size))


def _mixed_bits(values: np.ndarray, key: int) -> np.ndarray:
    """Return 64 bits for each value, by the last steps of splitmix64 (Steele et al., 2014)."""
    bits = values + np.uint64(key)
    bits = (bits ^ bits >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ bits >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return bits ^ bits >> np.uint64(31)


def shuffled(positions: np.ndarray, num_documents: int, seed: int) -> np.ndarray:
    """Return which document is at each position of one order of `num_documents`.

    A Feistel network (Luby and Rackoff, 1988) permutes the numbers 0 to 4^half - 1, enough for all
    documents: (left, right) becomes (right, left XOR f(right)), which can be undone whatever f is.
    A result from `num_documents` on is permuted again until it is below (cycle walking; Black and
    Rogaway, 2002). So every document appears once, and no list of them is needed.

    Args:
        positions: 0 to num_documents - 1; integers [n].
        num_documents: 1 to 2^62.
        seed: decides the order.

    Returns:
        uint64 [n].
    """
    half = max(LEAST_HALF_BITS, ((num_documents - 1).bit_length() + 1) // 2)
    shift, mask = np.uint64(half), np.uint64((1 << half) - 1)
    keys = [derived_seed(seed, "round", number) for number in range(ROUNDS)]
    result = np.array(positions, dtype=np.uint64)
    walking = np.ones(len(result), dtype=bool)
    while walking.any():
        left, right = result[walking] >> shift, result[walking] & mask
        for key in keys:
            left, right = right, left ^ (_mixed_bits(right, key) & mask)
        result[walking] = left << shift | right
        walking = result >= num_documents
    return result


def epoch_order(num_documents: int, seed: int, epoch: int, start: int = 0) -> Iterator[int]:
    """Yield the documents 0 to num_documents - 1, each once, in the order of an epoch.

    The order is a pure function of (num_documents, seed, epoch), and is read from `start` on.
    """
    order_seed = derived_seed(seed, "epoch", epoch)
    length = FIRST_BLOCK
    while start < num_documents:
        end = min(start + length, num_documents)
        yield from shuffled(np.arange(start, end), num_documents, order_seed).tolist()
        start, length = end, min(2 * length, LARGEST_BLOCK)


class MixedItem(NamedTuple):
    """One item of the mix: a document's number within its source, and how often it came before."""

    source: str
    document: int
    epoch: int


class MixedOrder:
    """The order of a mix. Item k depends only on the arguments and on k.

    A source's documents come in the order of its epochs. Its n items are spread evenly: one falls
    into each of n equal parts of the mix, at a random place. So the first k items hold about
    k n / total items of a source; the difference is less than the number of sources + 1.

    Args:
        sizes: source -> number of documents.
        counts: source -> number of items in the mix; more than its size are several epochs.
        seed: decides the order.
        served: source -> items before the first one here; `reweighted` sets it.

    Raises:
        ValueError: a source with items has no document.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        counts: Mapping[str, int],
        seed: int,
        served: Mapping[str, int] | None = None,
    ) -> None:
        self.sizes, self.seed = dict(sizes), seed
        self.counts = {source: count for source, count in counts.items() if count}
        self.served = dict.fromkeys(sizes, 0) | dict(served or {})
        for source in self.counts:
            if self.sizes.get(source, 0) < 1:
                raise UserError(f"source {source!r} has no document; give it the weight 0")

    def __len__(self) -> int:
        return sum(self.counts.values())

    def __iter__(self) -> Iterator[MixedItem]:
        return self.items_from(0)

    def __getitem__(self, position: int) -> MixedItem:
        if not 0 <= position < len(self):
            raise IndexError(f"position {position} of a mix of {len(self)} items")
        return next(self.items_from(position))

    def items_from(self, position: int) -> Iterator[MixedItem]:
        """Yield the items from `position` on: those that a resumed run still has to read."""
        return self._merged(self._turns_before(position))

    def served_before(self, position: int) -> dict[str, int]:
        """Return how many documents of each source come before `position`, the earlier included."""
        turns = self._turns_before(position)
        return {source: self.served[source] + turns.get(source, 0) for source in self.sizes}

    def reweighted(self, position: int, counts: Mapping[str, int]) -> "MixedOrder":
        """Return another order for what follows `position`, with other counts.

        Every source continues in its epoch where it was, so no document is repeated before all
        others of its source have been served.
        """
        return MixedOrder(self.sizes, counts, self.seed, self.served_before(position))

    def _time(self, source: str, turn: int) -> int:
        """Return when in the mix (0 up to 2^TIME_BITS) a source has its turn number `turn`."""
        number = self.served[source] + turn
        place = derived_seed(self.seed, "turn", source, number) >> 63 - PART_BITS
        return ((turn << PART_BITS | place) << TIME_BITS - PART_BITS) // self.counts[source]

    def _times_from(self, source: str, turn: int) -> Iterator[tuple[int, str]]:
        for number in range(turn, self.counts[source]):
            yield self._time(source, number), source

    def _in_turn(self, turns: Mapping[str, int]) -> Iterator[str]:
        """Yield whose turn it is, if each source has had `turns` of them."""
        times = [self._times_from(source, turns[source]) for source in self.counts]
        for _, source in merge(*times):
            yield source

    def _turns_before(self, position: int) -> dict[str, int]:
        """Return how many turns before `position` each source has.

        Before a time, a source has had all turns of its parts that are over, and perhaps one more.
        So at the share (position - sources) / total of the time, fewer than `position` turns were
        had, and only the few from there on are walked through.
        """
        total = len(self)
        if not 0 <= position <= total:
            raise UserError(f"position {position} of a mix of {total} items; expected 0 to {total}")
        turns = dict.fromkeys(self.counts, 0)
        jump = position - len(turns)
        if jump > 0:
            time = (jump << TIME_BITS) // total
            for source, items in self.counts.items():
                turn = min(time * items >> TIME_BITS, items - 1)
                turns[source] = turn + (self._time(source, turn) < time)
        for source in islice(self._in_turn(turns.copy()), position - sum(turns.values())):
            turns[source] += 1
        return turns

    def _documents_from(self, source: str, number: int) -> Iterator[MixedItem]:
        """Yield the items of a source from its item `number` on, without end."""
        size = self.sizes[source]
        epoch, start = divmod(number, size)
        seed = derived_seed(self.seed, "source", source)
        for later in count(epoch):
            for document in epoch_order(size, seed, later, start):
                yield MixedItem(source, document, later)
            start = 0

    def _merged(self, turns: Mapping[str, int]) -> Iterator[MixedItem]:
        documents = {
            source: self._documents_from(source, self.served[source] + turns[source])
            for source in self.counts
        }
        for source in self._in_turn(turns):
            yield next(documents[source])
