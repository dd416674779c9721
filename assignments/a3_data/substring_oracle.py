"""Slow, obvious oracles of a3_data.15 and a3_data.16: every suffix and every pair of windows."""

from collections.abc import Sequence
from itertools import pairwise


def sorted_suffixes(ids: Sequence[int]) -> list[int]:
    return sorted(range(len(ids)), key=lambda start: list(ids[start:]))


def shared_ids(first: Sequence[int], second: Sequence[int]) -> int:
    shared = 0
    while shared < min(len(first), len(second)) and first[shared] == second[shared]:
        shared += 1
    return shared


def prefixes_of(ids: Sequence[int], suffixes: Sequence[int]) -> list[int]:
    pairs = pairwise(suffixes)
    return [0, *(shared_ids(ids[one:], ids[other:]) for one, other in pairs)][: len(ids)]


def spans_of(
    documents: Sequence[Sequence[int]], length: int, overlapping: bool = False
) -> list[list[tuple[int, int]]]:
    """Mark what repeats cover: a window is one if an equal window ended before it begins."""
    covered: list[set[int]] = [set() for _ in documents]
    earliest: dict[tuple[int, ...], tuple[int, int]] = {}
    for number, document in enumerate(documents):
        for start in range(len(document) - length + 1):
            window = tuple(document[start : start + length])
            first, place = earliest.setdefault(window, (number, start))
            apart = 1 if overlapping else length
            if first < number or place + apart <= start:
                covered[number] |= set(range(start, start + length))
    return [runs_of(each) for each in covered]


def runs_of(positions: set[int]) -> list[tuple[int, int]]:
    starts = sorted(each for each in positions if each - 1 not in positions)
    ends = sorted(each + 1 for each in positions if each + 1 not in positions)
    return list(zip(starts, ends, strict=True))
