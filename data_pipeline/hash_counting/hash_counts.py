"""A table of 64-bit hashes and their counts in two sorted arrays.

A hash takes 12 bytes, where a Counter takes about 100.
"""

import numpy as np

LEAST_WAITING = 1 << 20  # hashes: 8 MiB


class HashCounts:
    """How often each 64-bit hash was added: two arrays in the order of the hashes, 12 bytes for
    each distinct hash, and blocks that wait to be counted. They are counted when they are a quarter
    as long as the arrays, so each hash is copied a few times on average, however many there are.
    """

    def __init__(self) -> None:
        self.hashes = np.empty(0, dtype=np.uint64)
        self.counts = np.empty(0, dtype=np.uint32)
        self._waiting: list[np.ndarray] = []

    def add(self, block: np.ndarray) -> None:
        """Add uint64 [n] hashes; one that is given twice counts twice."""
        self._waiting.append(block)
        if sum(map(len, self._waiting)) >= max(LEAST_WAITING, len(self.hashes) // 4):
            self.count_waiting()

    def count_waiting(self) -> None:
        """Bring `hashes` and `counts` up to date."""
        new, times = np.unique(
            np.concatenate([*self._waiting, self.hashes[:0]]), return_counts=True
        )
        self._waiting = []
        known, places = self.contains(new), np.searchsorted(self.hashes, new)
        times = times.astype(np.uint32)
        self.counts[places[known]] += times[known]
        self.hashes = np.insert(self.hashes, places[~known], new[~known])
        self.counts = np.insert(self.counts, places[~known], times[~known])

    def contains(self, hashes: np.ndarray) -> np.ndarray:
        """Return, for each of uint64 [n] hashes, whether it is among those counted: bool [n]."""
        places = np.searchsorted(self.hashes, hashes)
        inside = places < len(self.hashes)
        inside[inside] = self.hashes[places[inside]] == hashes[inside]
        return inside
