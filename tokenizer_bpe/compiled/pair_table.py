"""A hash table from a pair of token ids to a number: 0 for the first pair added, 1 for the next.

What this leaves out: deletion. Ids are below 2^31.
"""

from typing import NamedTuple

import numpy as np

from tokenizer_bpe.compiled.kernel_cache import kernel

ABSENT = -1
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_SHIFT_32 = np.uint64(32)


class PairTable(NamedTuple):
    """A table with open addressing and linear probing; half of the slots stay free.

    Attributes:
        slots: number of the pair in each slot, or ABSENT; int32 [a power of two].
        keys: left id * 2^32 + right id, by number; int64 [pairs].
        size: [number of pairs]; int64 [1].
    """

    slots: np.ndarray
    keys: np.ndarray
    size: np.ndarray


def pair_table(max_pairs: int) -> PairTable:
    """Return an empty table with room for `max_pairs`."""
    num_slots = 1 << (2 * max_pairs - 1).bit_length()
    return PairTable(
        slots=np.full(num_slots, ABSENT, dtype=np.int32),
        keys=np.empty(max_pairs, dtype=np.int64),
        size=np.zeros(1, dtype=np.int64),
    )


def pair_table_of(pairs: np.ndarray) -> PairTable:
    """Return the table in which pair number i is `pairs[i]`; int64 [pairs, 2] of ids."""
    table = pair_table(max(len(pairs), 1))
    for_each = np.ascontiguousarray(pairs, dtype=np.int64)
    _add_all(table, for_each)
    return table


def grown_pairs(table: PairTable) -> PairTable:
    """Return a copy with twice the room."""
    larger = pair_table(2 * len(table.keys))
    size = int(table.size[0])
    larger.keys[:size] = table.keys[:size]
    larger.size[0] = size
    _fill_slots(larger)
    return larger


@kernel
def _slot_of(key, num_slots):
    mixed = np.uint64(key) * _GOLDEN
    return np.int64((mixed ^ (mixed >> _SHIFT_32)) & np.uint64(num_slots - 1))


@kernel
def _find_slot(table, key):
    slot = _slot_of(key, len(table.slots))
    while table.slots[slot] != ABSENT and table.keys[table.slots[slot]] != key:
        slot = (slot + 1) & (len(table.slots) - 1)
    return slot


@kernel
def find_pair(table, left, right):
    """Return the number of a pair, or ABSENT."""
    key = (np.int64(left) << 32) | np.int64(right)
    return table.slots[_find_slot(table, key)]


@kernel
def find_or_add_pair(table, left, right):
    """Return the number of a pair, and add the pair if it is new; the caller has checked that there
    is room.
    """
    key = (np.int64(left) << 32) | np.int64(right)
    slot = _find_slot(table, key)
    if table.slots[slot] == ABSENT:
        table.slots[slot] = table.size[0]
        table.keys[table.size[0]] = key
        table.size[0] += 1
    return table.slots[slot]


@kernel
def _fill_slots(table):
    for pair in range(table.size[0]):
        table.slots[_find_slot(table, table.keys[pair])] = pair


@kernel
def _add_all(table, pairs):
    for pair in range(len(pairs)):
        find_or_add_pair(table, pairs[pair, 0], pairs[pair, 1])
