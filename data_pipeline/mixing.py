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
BLOCK = 1024  # numbers computed at a time
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
        raise UserError(f"temperature {temperature}: expected a number greater than 0")
    for source, size in sizes.items():
        if size < 1:
            raise UserError(f"source {source!r} has the size {size}; expected 1 or more")
    largest = max(sizes.values(), default=1)
    powers = {source: (size / largest) ** (1 / temperature) for source, size in sizes.items()}
    total = sum(powers.values())
    return {source: float(f"{power / total:.12g}") for source, power in powers.items()}


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
    for source, weight in weights.items():
        if not (isfinite(weight) and weight >= 0):
            raise UserError(f"weight {weight} of {source!r}: expected a number from 0")
    exact = {source: Fraction(str(weight)) for source, weight in weights.items()}
    whole = sum(exact.values())
    if not whole:
        raise UserError(f"all weights are 0: {', '.join(weights) or 'there is no source'}")
    exact = {source: total * weight / whole for source, weight in exact.items()}
    parts = {source: int(share) for source, share in exact.items()}
    lost_most = sorted(parts, key=lambda source: parts[source] - exact[source])  # stable
    for source in lost_most[: total - sum(parts.values())]:
        parts[source] += 1
    return parts


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
        sizes: source -> tokens or documents; at least one source.
        weights: source -> weight, for the same sources, at least one of them above 0.
        budget: in the unit of `sizes`.
        max_epochs: how often a source may be read; None for any number.
    """
    if max_epochs is None:
        return apportion(budget, weights)
    room = {source: int(size * Fraction(str(max_epochs))) for source, size in sizes.items()}
    given = dict.fromkeys(weights, 0)
    open_weights = {source: weight for source, weight in weights.items() if weight > 0}
    while open_weights:
        parts = apportion(budget - sum(given.values()), open_weights)
        exhausted = [source for source, part in parts.items() if part >= room[source]]
        if not exhausted:
            return given | parts
        for source in exhausted:
            given[source] = room[source]
            del open_weights[source]
    return given


def documents_served(num_documents: int, amount: int, size: int) -> int:
    """Return how many documents a source serves if it gives `amount` of its `size` tokens.

    That is num_documents amount / size, rounded to the nearest whole number, halves up, and at
    least 1 if `amount` is not 0. More than `num_documents` are whole epochs and a part of another.

    >>> documents_served(10, 1700, 1000)  # 1.7 epochs
    17
    """
    return max((2 * num_documents * amount + size) // (2 * size), int(amount > 0))


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

    The order is a pure function of (num_documents, seed, epoch), and is read from `start` on. Two
    different pairs (seed, epoch) have different orders.
    """
    epoch_seed = derived_seed(seed, "epoch", epoch)
    for first in range(start, num_documents, BLOCK):
        positions = np.arange(first, min(first + BLOCK, num_documents), dtype=np.uint64)
        yield from shuffled(positions, num_documents, epoch_seed).tolist()


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
        before = self._counts_before(position)
        documents = {s: self._documents(s, self.served[s] + before[s]) for s in self.counts}
        streams = [self._times(rank, s, before[s]) for rank, s in enumerate(self.counts)]
        for _, _, source in merge(*streams):
            yield MixedItem(source, *next(documents[source]))

    def served_before(self, position: int) -> dict[str, int]:
        """Return how many documents of each source come before `position`, the earlier included."""
        before = self._counts_before(position)
        return {source: self.served[source] + before.get(source, 0) for source in self.sizes}

    def reweighted(self, position: int, counts: Mapping[str, int]) -> "MixedOrder":
        """Return another order for what follows `position`, with other counts.

        Every source continues in its epoch where it was, so no document is repeated before all
        others of its source have been served.
        """
        return MixedOrder(self.sizes, counts, self.seed, self.served_before(position))

    def _documents(self, source: str, served: int) -> Iterator[tuple[int, int]]:
        """Yield (document, epoch) of a source that has served this many, without an end."""
        first, start = divmod(served, self.sizes[source])
        seed = derived_seed(self.seed, "source", source)
        for epoch in count(first):
            for document in epoch_order(self.sizes[source], seed, epoch, start):
                yield document, epoch
            start = 0

    def _times(self, rank: int, source: str, first: int) -> Iterator[tuple[int, int, str]]:
        """Yield the times of a source's items, from item `first` on: 0 at the beginning of the mix,
        2^TIME_BITS at its end. The rank decides between equal times.
        """
        number = self.counts[source]
        key = derived_seed(self.seed, "place", source)
        for start in range(first, number, BLOCK):
            items = np.arange(start, min(start + BLOCK, number), dtype=np.uint64)
            places = _mixed_bits(items + np.uint64(self.served[source]), key)
            places >>= np.uint64(64 - PART_BITS)
            for item, place in zip(items.tolist(), places.tolist(), strict=True):
                part = (item << PART_BITS) + place
                yield (part << TIME_BITS - PART_BITS) // number, rank, source

    def _counts_before(self, position: int) -> dict[str, int]:
        """Return how many of the first `position` items each source has.

        Until (position - sources) / total of the mix, a source has at most one item more than its
        share, so all have `position` at most. The few items after that are counted one by one.
        """
        if not 0 <= position <= len(self):
            raise UserError(f"position {position} of a mix of {len(self)} items")
        early = max(0, position - len(self.counts)) << TIME_BITS
        time = early // max(1, len(self))
        before = {}
        for rank, (source, number) in enumerate(self.counts.items()):
            certain = time * number >> TIME_BITS  # the parts that have ended
            following = next(self._times(rank, source, certain), None)
            before[source] = certain + (following is not None and following[0] < time)
        streams = [self._times(rank, s, before[s]) for rank, s in enumerate(self.counts)]
        for _, _, source in islice(merge(*streams), position - sum(before.values())):
            before[source] += 1
        return before
