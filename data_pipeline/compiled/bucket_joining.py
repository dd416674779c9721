"""Buckets of many documents compared and joined: `minhash_dedup.join_similar`, compiled.

Components live in one array of parents: a document's parent is a document before it, or itself if
it is the first of its component.
"""

from dataclasses import dataclass

import numba
import numpy as np

_NONE = -1


@numba.njit(nogil=True, cache=True)
def _find(parents, document):
    while parents[document] != document:
        parents[document] = parents[parents[document]]
        document = parents[document]
    return document


@numba.njit(nogil=True, cache=True)
def _reaches(values, starts, first, second, threshold):
    """Return whether the true Jaccard similarity of two documents reaches the threshold."""
    place, end = starts[first], starts[first + 1]
    other, other_end = starts[second], starts[second + 1]
    total = end - place + other_end - other
    if total == 0:
        return True  # two empty sets are equal
    fewer = min(end - place, other_end - other)
    if fewer / (total - fewer) < threshold:
        return False  # even if one contained the other
    shared = 0
    while place < end and other < other_end:
        here, there = values[place], values[other]
        shared += here == there
        place += here <= there
        other += there <= here
    return shared / (total - shared) >= threshold


@numba.njit(nogil=True, cache=True)
def _join(members, begins, start, stop, values, starts, parents, threshold, heads, tails, after,
          num_groups):  # fmt: skip
    """Join the documents of members[start:stop], and return the groups of the last bucket.

    Groups are chains: heads and tails are places in `members`, and after[place] is the next one.
    """
    for place in range(start, stop):
        document = members[place]
        if begins[place]:
            num_groups = 0
        for group in range(num_groups):
            if _find(parents, members[heads[group]]) == _find(parents, document):
                continue
            other = heads[group]
            while other != _NONE:
                if _reaches(values, starts, members[other], document, threshold):
                    one, two = _find(parents, members[other]), _find(parents, document)
                    parents[max(one, two)] = min(one, two)
                    break
                other = after[other]
        own = _find(parents, document)
        home = 0
        while home < num_groups and _find(parents, members[heads[home]]) != own:
            home += 1
        after[place] = _NONE
        if home == num_groups:
            heads[home] = place
            num_groups += 1
        else:
            after[tails[home]] = place
        tails[home] = place
    return num_groups


@numba.njit(nogil=True, cache=True)
def _point_at_first(parents):
    for document in range(len(parents)):
        parents[document] = parents[parents[document]]  # parents come first, so this is enough


def point_at_first(parents: np.ndarray) -> None:
    """Make every document's parent the first document of its component, in place."""
    _point_at_first(parents)


@dataclass
class Buckets:
    """Groups of two or more documents that share a band.

    Attributes:
        members: the documents, bucket after bucket; int64.
        begins: whether a new bucket begins at that member; bool.
    """

    members: np.ndarray
    begins: np.ndarray

    def apart(self, parents: np.ndarray) -> "Buckets":
        """Return the buckets whose documents are not all in one component yet, and make every
        parent the first document of its component.
        """
        if not len(self.members):
            return self
        point_at_first(parents)
        first_places = np.flatnonzero(self.begins)
        sizes = np.diff(first_places, append=len(self.members))
        firsts = parents[self.members]
        differ = firsts != np.repeat(firsts[first_places], sizes)
        wanted = np.repeat(np.logical_or.reduceat(differ, first_places), sizes)
        return Buckets(self.members[wanted], self.begins[wanted])


class BucketJoiner:
    """Joins the documents of buckets, part by part; the components are those of the lesson.

    A bucket may be cut anywhere between two calls, because the groups of its earlier documents are
    kept.
    """

    def __init__(self, buckets: Buckets) -> None:
        self.buckets = buckets
        size = len(buckets.members)
        self.heads, self.tails, self.after = np.empty((3, size), dtype=np.int64)
        self.num_groups = 0

    def join(
        self,
        start: int,
        stop: int,
        values: np.ndarray,
        starts: np.ndarray,
        parents: np.ndarray,
        threshold: float,
    ) -> None:
        """Compare members[start:stop] with each other and with earlier members of their buckets.

        Args:
            start: the `stop` of the call before, or 0.
            stop: how far to go.
            values: the shingles of all documents, see `shingle_sets`; uint64.
            starts: where each document's begin, int64 [documents + 1].
            parents: the components, int64 [documents]; changed in place.
            threshold: Jaccard similarity from which two documents are joined.
        """
        members, begins = self.buckets.members, self.buckets.begins
        groups = (self.heads, self.tails, self.after, self.num_groups)
        self.num_groups = _join(
            members, begins, start, stop, values, starts, parents, threshold, *groups
        )
