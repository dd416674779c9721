"""A Bloom filter that is one whole number of Python; runs of lines by groupby."""

# ruff: noqa: F821 - the rest of the module, which is the reference's, has the other names

from itertools import groupby
from math import ceil, log, log2

import numpy as np


class BloomFilter:
    """`bits` is made from the number whenever it is read."""

    def __init__(self, capacity, false_positive_rate):
        if capacity < 1 or not 0 < false_positive_rate < 1:
            raise ValueError(f"a filter for {capacity} hashes at a rate of {false_positive_rate}")
        self.num_bits = ceil(-capacity * log(false_positive_rate) / log(2) ** 2)
        self.num_hashes = max(1, round(-log2(false_positive_rate)))
        self.number = 0

    @property
    def bits(self):
        size = (self.num_bits + 7) // 8
        return np.array(list(self.number.to_bytes(size, "little")), dtype=np.uint8)

    def mask(self, key):
        key = int(key)
        step = (key >> 32 | key << 32) % 2**64 | 1
        mask = 0
        for i in range(self.num_hashes):
            mask |= 1 << (key + i * step) % 2**64 % self.num_bits
        return mask

    def add_all(self, hashes):
        masks = {key: self.mask(key) for key in hashes.tolist()}
        before = {key for key, mask in masks.items() if self.number & mask == mask}
        for mask in masks.values():
            self.number |= mask
        answers = []
        for key in hashes.tolist():
            answers.append(key in before)
            before.add(key)
        return np.array(answers, dtype=bool)

    def add(self, key):
        found = key in self
        self.number |= self.mask(key)
        return found

    def __contains__(self, key):
        return not self.mask(key) & ~self.number


def line_hashes(text):
    return set(map(text_hash, filter(None, map(str.strip, text.split("\n")))))


def drop_repeated_lines(text, documents_of_line, settings):
    def is_repeated(line):
        bare = line.strip()
        return bool(bare) and documents_of_line[text_hash(bare)] > settings.max_documents_per_line

    kept, lines = [], text.split("\n")
    for repeated, run in groupby(lines, is_repeated):
        run = list(run)
        longest = max(len(line.strip()) for line in run)
        kept += [] if repeated and longest >= settings.min_line_characters else run
    if len(kept) == len(lines):
        return text, 0
    gaps = groupby(enumerate(kept), lambda each: is_gap(*each, len(kept)))
    shorter = []
    for between, run in gaps:
        run = [line for _, line in run]
        shorter += [""] if between and len(run) > 1 else run
    return "\n".join(shorter).strip("\n"), len(lines) - len(kept)


def is_gap(place, line, size):
    return 0 < place < size - 1 and not line.strip(" \t")


def first_of_each(texts):
    first = {}
    for place, text in enumerate(texts):
        first.setdefault(text_hash(text), place)
    return list(first.values())
