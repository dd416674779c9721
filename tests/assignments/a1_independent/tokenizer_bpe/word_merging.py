"""Merges within one word, in time that hardly grows faster than the word."""

import heapq
from collections.abc import Mapping, Sequence

MergeTable = Mapping[tuple[int, int], tuple[int, int]]
"""(left id, right id) -> (place of the merge in the list of merges, id of the result)."""

_REMOVED = -1


class MergeChain:
    """A word as a chain of ids, with the places of all merges that fit, by the merge's rank."""

    def __init__(self, ids: Sequence[int], table: MergeTable) -> None:
        self._ids = list(ids)
        self._table = table
        self._end = len(self._ids)
        self._next = list(range(1, self._end + 1))
        self._previous = list(range(-1, self._end - 1))
        self._places: dict[int, list[int]] = {}
        self._ranks: list[int] = []
        for left in range(self._end - 1):
            self._note(left)

    def merged(self) -> list[int]:
        """The ids after all merges."""
        while self._ranks:
            self._make_merge(heapq.heappop(self._ranks))
        return [token for token in self._ids if token != _REMOVED]

    def _note(self, left: int) -> None:
        """Remember that a merge fits at a place, if one does."""
        right = self._next[left]
        if right == self._end:
            return
        fitting = self._table.get((self._ids[left], self._ids[right]))
        if fitting is None:
            return
        rank = fitting[0]
        if rank in self._places:
            self._places[rank].append(left)
        else:
            self._places[rank] = [left]
            heapq.heappush(self._ranks, rank)

    def _make_merge(self, rank: int) -> None:
        """Make one merge in all its places, from left to right; some may have gone meanwhile."""
        for left in sorted(self._places.pop(rank)):
            right = self._next[left]
            if right == self._end:
                continue
            fitting = self._table.get((self._ids[left], self._ids[right]))
            if fitting is not None and fitting[0] == rank:
                self._join(left, right, fitting[1])

    def _join(self, left: int, right: int, result: int) -> None:
        """Put the result in place of two neighbours and note the two pairs it stands in."""
        self._ids[left] = result
        self._ids[right] = _REMOVED
        after = self._next[right]
        self._next[left] = after
        if after != self._end:
            self._previous[after] = left
            self._note(left)
        before = self._previous[left]
        if before >= 0:
            self._note(before)


def merge_ids(ids: Sequence[int], table: MergeTable) -> list[int]:
    """Apply merges to the ids of single bytes: always the earliest one that fits."""
    if len(ids) < 2:
        return list(ids)
    return MergeChain(ids, table).merged()
