"""The table of counts against a Counter."""

from collections import Counter

import numpy as np
import pytest

from data_pipeline.hash_counting import hash_counts
from data_pipeline.hash_counting.hash_counts import HashCounts


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(hash_counts, "LEAST_WAITING", 10)


@pytest.mark.usefixtures("small_blocks")
def test_counts_are_those_of_a_counter():
    generator = np.random.default_rng(0)
    table, expected = HashCounts(), Counter()
    for size in [1, 0, 50, 3, 700, 20]:
        block = generator.integers(0, 300, size).astype(np.uint64) * np.uint64(2**64 // 300)
        table.add(block)
        expected.update(block.tolist())
    assert table.above(0) == expected
    assert table.above(3) == {key: times for key, times in expected.items() if times > 3}
    assert len(table) == len(expected)
    assert sum(array.nbytes for part in table.parts for array in part) == 12 * len(expected)
    for number, (hashes, _) in enumerate(table.parts):
        assert (np.diff(hashes) > 0).all()
        assert set(hashes >> np.uint64(60)) == {number}


def test_what_is_contained():
    table = HashCounts()
    keys = np.array([0, 5, 2**64 - 1], dtype=np.uint64)
    assert table.contains(keys).tolist() == [False] * 3
    table.add(keys[[0, 2]])
    table.count_waiting()
    assert table.contains(keys).tolist() == [True, False, True]


@pytest.mark.usefixtures("small_blocks")
def test_a_table_is_copied_a_few_times_however_long_it_is(monkeypatch):
    table, copied = HashCounts(), []
    count_waiting = table.count_waiting

    def counted() -> None:
        count_waiting()
        copied.append(len(table))

    monkeypatch.setattr(table, "count_waiting", counted)
    for start in range(0, 20_000, 5):
        table.add(np.arange(start, start + 5, dtype=np.uint64))
    assert sum(copied) < 12 * 20_000
