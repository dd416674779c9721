"""Weights by logarithms, parts and turns as fractions, one item after the other."""

# ruff: noqa: F821 - the rest of the module, which is the reference's, has the other names

from fractions import Fraction
from heapq import heapify, heapreplace
from itertools import islice
from math import exp, floor, lcm, log

import numpy as np

from lm_core.random_state import derived_seed
from lm_core.user_error import UserError


def temperature_weights(sizes, temperature):
    if not temperature > 0:
        raise ValueError(f"a temperature of {temperature}")
    if small := [source for source, size in sizes.items() if size < 1]:
        raise ValueError(f"{small[0]} has fewer than one document")
    powers = [log(size) / temperature for size in sizes.values()]
    shares = [exp(power - max(powers)) for power in powers]
    return {source: share / sum(shares) for source, share in zip(sizes, shares, strict=True)}


def apportion(total, weights):
    """One at a time: what is left goes to the source that is furthest behind."""
    exact = {}
    for source, weight in weights.items():
        if not 0 <= weight < float("inf"):
            raise ValueError(f"{source} has the weight {weight}")
        exact[source] = Fraction(str(weight))
    if not any(exact.values()):
        raise ValueError(f"no weight is above 0: {list(weights)}")
    one = total / sum(exact.values())
    parts = {source: floor(weight * one) for source, weight in exact.items()}
    behind = {source: exact[source] * one - parts[source] for source in weights}
    while sum(parts.values()) < total:
        source = max(behind, key=behind.get)
        parts[source] += 1
        behind[source] -= 1
    return parts


def budget_per_source(sizes, weights, budget, max_epochs=None):
    if max_epochs is None:
        return apportion(budget, weights)
    limits = {source: floor(size * Fraction(str(max_epochs))) for source, size in sizes.items()}
    return dict.fromkeys(weights, 0) | divide(
        budget, {source: weight for source, weight in weights.items() if weight}, limits
    )


def divide(budget, weights, limits):
    """The parts of these sources, by recursion."""
    if not weights:
        return {}
    parts = apportion(budget, weights)
    full = {source: limits[source] for source in weights if parts[source] >= limits[source]}
    if not full:
        return parts
    others = {source: weight for source, weight in weights.items() if source not in full}
    return full | divide(budget - sum(full.values()), others, limits)


def documents_served(num_documents, amount, size):
    served = floor(Fraction(num_documents * amount, size) + Fraction(1, 2))
    return max(served, 1) if amount else 0


def epoch_order(num_documents, seed, epoch, start=0):
    """Blocks of 1, 2, 4, ... documents, up to 4,096."""
    own, size = derived_seed(seed, f"epoch {epoch}"), 1
    while start < num_documents:
        end = min(start + size, num_documents)
        yield from map(int, shuffled(np.arange(start, end), num_documents, own))
        start, size = end, min(2 * size, 4096)


class MixedOrder:
    """Every source has a next time, half of a step after its last item; the earliest is next."""

    def __init__(self, sizes, counts, seed, served=None):
        self.sizes, self.seed = dict(sizes), seed
        self.counts = {source: count for source, count in counts.items() if count}
        self.served = dict.fromkeys(sizes, 0) | dict(served or {})
        for source in self.counts:
            if self.sizes.get(source, 0) < 1:
                raise UserError(f"source {source!r} has no document; give it the weight 0")

    def __len__(self):
        return sum(self.counts.values())

    def __iter__(self):
        return self.items_from(0)

    def __getitem__(self, position):
        if not 0 <= position < len(self):
            raise IndexError(f"position {position} of a mix of {len(self)} items")
        return next(self.items_from(position))

    def turns(self):
        """Times are fractions with one denominator: twice the least multiple of all counts."""
        whole = 2 * lcm(*self.counts.values())
        waiting = [
            (whole // count // 2, rank, whole // count, source)
            for rank, (source, count) in enumerate(self.counts.items())
        ]
        heapify(waiting)
        for _ in range(len(self)):
            time, rank, step, source = waiting[0]
            yield source
            heapreplace(waiting, (time + step, rank, step, source))

    def items_from(self, position):
        served = self.served_before(position)
        orders = {}
        for source in islice(self.turns(), position, None):
            epoch, place = divmod(served[source], self.sizes[source])
            if source not in orders or place == 0:
                seed = derived_seed(self.seed, f"source {source}")
                orders[source] = epoch_order(self.sizes[source], seed, epoch, place)
            yield MixedItem(source, next(orders[source]), epoch)
            served[source] += 1

    def served_before(self, position):
        if not 0 <= position <= len(self):
            raise ValueError(f"position {position} of {len(self)} items")
        served = {source: self.served[source] for source in self.sizes}
        for source in islice(self.turns(), position):
            served[source] += 1
        return served

    def reweighted(self, position, counts):
        return type(self)(self.sizes, counts, self.seed, self.served_before(position))
