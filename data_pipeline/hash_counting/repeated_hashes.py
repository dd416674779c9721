"""The hashes that occur more than a number of times, from one reading or, with a filter, two.

In most collections, most lines occur once. The first of two readings passes every hash through a
filter (exact_dedup.BloomFilter), which tells those that may have occurred before; the second
counts only these. A hash that occurs twice is always among them, so the result does not depend on
the filter, whose false positives take memory only.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Protocol

import numpy as np

from data_pipeline.hash_counting.hash_counts import HashCounts

HASHES_AT_A_TIME = 1 << 16


class Filter(Protocol):
    """A set that may also claim to hold hashes that it does not."""

    def add_all(self, hashes: np.ndarray) -> np.ndarray:
        """Add uint64 [n] hashes; return which of them it may have held before: bool [n]."""
        ...


def repeated_hashes(
    read_hashes: Callable[[], Iterable[int]], limit: int, seen: Filter | None = None
) -> Counter[int]:
    """Return the hashes that occur more than `limit` times (at least 1), and how often.

    Args:
        read_hashes: returns all hashes, the same ones each time. It is called once, or twice if
            there is a filter.
        limit: see above.
        seen: an empty filter, or None to count all hashes.
    """
    counts, candidates = HashCounts(), HashCounts()
    if seen is not None:
        for block in _blocks(read_hashes()):
            candidates.add(np.unique(block[seen.add_all(block)]))
        candidates.count_waiting()
    for block in _blocks(read_hashes()):
        counts.add(block if seen is None else block[candidates.contains(block)])
    return counts.above(limit)


def _blocks(hashes: Iterable[int]) -> Iterator[np.ndarray]:
    iterator = iter(hashes)
    while len(block := np.fromiter(islice(iterator, HASHES_AT_A_TIME), dtype=np.uint64)):
        yield block
