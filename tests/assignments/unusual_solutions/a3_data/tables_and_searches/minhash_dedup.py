"""Signatures in 64 bits that wrap and are cut to 32; clusters by a breadth-first search."""

# ruff: noqa: F821 - the rest of the module, which is the reference's, has the other names

from collections import deque
from itertools import combinations

import numpy as np


def signature(shingles, functions):
    multipliers, offsets = (each.astype(np.uint64)[:, None] for each in functions)
    result = np.full((len(multipliers), 1), 2**32 - 1, dtype=np.uint64)
    for part in np.array_split(shingles, len(shingles) // 500 + 1):
        values = (part >> np.uint64(32)) * multipliers + offsets & np.uint64(2**32 - 1)
        result = np.hstack([result, values]).min(axis=1, keepdims=True)
    return result[:, 0].astype(np.uint32)


def shingle_hashes(words, ngram_words):
    numbers = [word_hash(word) for word in words]
    length = min(ngram_words, len(numbers))
    found = set()
    for start in range(len(numbers) - length + 1 if length else 0):
        value = 0
        for number in numbers[start : start + length]:
            value = (value * int(ODD) + number) % 2**64
        found.add((value ^ value >> 31) * int(MIX) % 2**64)
    return np.array(sorted(found), dtype=np.uint64)


def choose_bands(num_hashes, threshold):
    choices = ((num_hashes // rows, rows) for rows in range(2, num_hashes + 1))
    enough = [
        choice for choice in choices if false_negative_rate(*choice, threshold) <= 1 - WANTED_RECALL
    ]
    return max(enough, key=lambda choice: choice[1], default=(num_hashes, 1))


def jaccard(first, second):
    one, other = set(first.tolist()), set(second.tolist())
    return len(one & other) / len(one | other) if one or other else 1.0


class Components:
    """The edges, and a search from an item whenever somebody asks."""

    def __init__(self, size):
        self.neighbors = [set() for _ in range(size)]

    def reached(self, item):
        found, waiting = {item}, deque([item])
        while waiting:
            new = self.neighbors[waiting.popleft()] - found
            found |= new
            waiting.extend(new)
        return found

    def find(self, item):
        return min(self.reached(item))

    def join(self, first, second):
        self.neighbors[first].add(second)
        self.neighbors[second].add(first)


def band_buckets(signatures, bands, rows):
    for band in range(bands):
        columns = signatures[:, band * rows : (band + 1) * rows]
        keys = [tuple(row) for row in columns.tolist()]
        members = {key: [] for key in keys}
        for document, key in enumerate(keys):
            members[key].append(document)
        yield from (each for each in members.values() if each[1:])


def duplicate_components(sets, settings):
    """Copies of one set count once; of the others, all pairs of a bucket are compared."""
    cut = bands_and_rows(settings)
    functions = hash_functions(settings)
    copies = {}
    for document, each in enumerate(sets):
        copies.setdefault(each.tobytes(), []).append(document)
    firsts = [documents[0] for documents in copies.values()]
    table = np.array([signature(sets[first], functions) for first in firsts], dtype=np.uint32)
    pairs = {
        pair
        for bucket in band_buckets(table.reshape(-1, settings.num_hashes), *cut)
        for pair in combinations(bucket, 2)
    }
    components = Components(len(firsts))
    for one, other in pairs:
        if jaccard(sets[firsts[one]], sets[firsts[other]]) >= settings.threshold:
            components.join(one, other)
    result = [0] * len(sets)
    for number, documents in enumerate(copies.values()):
        for document in documents:
            result[document] = firsts[components.find(number)]
    return result
