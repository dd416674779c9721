"""A table of 64-bit hashes and their counts in sorted arrays.

A hash takes 12 bytes, and 16 at the peak, where a Counter takes about 110.
"""

from collections import Counter

import numpy as np

LEAST_WAITING = 1 << 20  # hashes: 8 MiB
PART_BITS = 4  # of a hash: the table has 16 parts, and only one at a time is copied


class HashCounts:
    """How often each 64-bit hash was added.

    Each part of the table has its hashes in order, and their counts. New hashes wait in blocks,
    until there are an eighth as many as in the table. So each hash is copied a few times on
    average, however many there are.

    Attributes:
        parts: (hashes, uint64 [n], sorted and distinct; counts, uint32 [n]), by the first PART_BITS
            bits of the hashes.
    """

    def __init__(self) -> None:
        empty = np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.uint32)
        self.parts = [empty] * (1 << PART_BITS)
        self._waiting: list[np.ndarray] = []

    def __len__(self) -> int:
        return sum(len(hashes) for hashes, _ in self.parts)

    def add(self, block: np.ndarray) -> None:
        """Add uint64 [n] hashes; one that is given twice counts twice."""
        self._waiting.append(block)
        if sum(map(len, self._waiting)) >= max(LEAST_WAITING, len(self) // 8):
            self.count_waiting()

    def count_waiting(self) -> None:
        """Bring `parts` up to date."""
        if not self._waiting:
            return
        waiting = np.concatenate(self._waiting)
        self._waiting = []
        waiting.sort()
        starts = np.arange(1, 1 << PART_BITS, dtype=np.uint64) << np.uint64(64 - PART_BITS)
        for number, new in enumerate(np.split(waiting, np.searchsorted(waiting, starts))):
            self.parts[number] = _merged(*self.parts[number], *np.unique(new, return_counts=True))

    def contains(self, hashes: np.ndarray) -> np.ndarray:
        """Return, for each of uint64 [n] hashes, whether it is among those counted: bool [n]."""
        result = np.zeros(len(hashes), dtype=bool)
        numbers = hashes >> np.uint64(64 - PART_BITS)
        for number, (known, _) in enumerate(self.parts):
            here = numbers == number
            result[here] = _contains(known, hashes[here])
        return result

    def above(self, limit: int) -> Counter[int]:
        """Return the hashes that were added more than `limit` times, and how often."""
        self.count_waiting()
        result: Counter[int] = Counter()
        for hashes, counts in self.parts:
            more = counts > limit
            result |= Counter(dict(zip(hashes[more].tolist(), counts[more].tolist(), strict=True)))
        return result


def _contains(known: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    places = np.searchsorted(known, hashes)
    inside = places < len(known)
    inside[inside] = known[places[inside]] == hashes[inside]
    return inside


def _merged(
    hashes: np.ndarray, counts: np.ndarray, new: np.ndarray, times: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    times = times.astype(np.uint32)
    known, places = _contains(hashes, new), np.searchsorted(hashes, new)
    counts[places[known]] += times[known]
    return (
        np.insert(hashes, places[~known], new[~known]),
        np.insert(counts, places[~known], times[~known]),
    )
