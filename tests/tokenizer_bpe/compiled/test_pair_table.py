"""The table of pairs is a dictionary from pairs of ids to 0, 1, 2, ..."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizer_bpe.compiled.pair_table import (
    ABSENT,
    find_or_add_pair,
    find_pair,
    grown_pairs,
    pair_table,
    pair_table_of,
)

ids = st.one_of(st.integers(0, 5), st.sampled_from([255, 256, 50_000, (1 << 31) - 1]))
pairs = st.lists(st.tuples(ids, ids), max_size=60)


@settings(deadline=None)
@given(added=pairs, others=pairs, room=st.integers(1, 3))
def test_a_table_that_grows_numbers_pairs_as_a_dictionary_does(added, others, room):
    table, numbers = pair_table(room), {}
    for left, right in added:
        if table.size[0] == len(table.keys):
            table = grown_pairs(table)
        assert find_or_add_pair(table, left, right) == numbers.setdefault(
            (left, right), len(numbers)
        )
    assert table.size[0] == len(numbers)
    for left, right in added + others:
        assert find_pair(table, left, right) == numbers.get((left, right), ABSENT)
    assert table.size[0] == len(numbers), "looking for a pair must not enter it"
    assert [(key >> 32, key & 0xFFFFFFFF) for key in table.keys[: len(numbers)].tolist()] == list(
        numbers
    )


@settings(deadline=None)
@given(added=pairs.map(lambda pairs: list(dict.fromkeys(pairs))))
def test_a_table_of_pairs_numbers_them_in_order(added):
    table = pair_table_of(np.array(added, dtype=np.int64).reshape(-1, 2))
    assert [find_pair(table, *pair) for pair in added] == list(range(len(added)))
    assert 2 * len(table.keys) <= len(table.slots), "half of the slots stay free"


def test_pairs_of_neighbouring_ids_do_not_lie_in_one_slot():
    """A hash that ignores the left or the right id would make runs of hundreds."""
    grid = np.array([(left, right) for left in range(64) for right in range(64)])
    table = pair_table_of(grid)
    taken = np.flatnonzero(table.slots >= 0)
    runs = np.split(taken, np.flatnonzero(np.diff(taken) > 1) + 1)
    assert max(map(len, runs)) < 100
