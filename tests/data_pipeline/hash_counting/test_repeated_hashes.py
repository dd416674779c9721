"""The filter takes memory from the count, and nothing from the result."""

from collections import Counter

import numpy as np
import pytest

from data_pipeline.exact_dedup import BloomFilter
from data_pipeline.hash_counting import repeated_hashes as module
from data_pipeline.hash_counting.repeated_hashes import repeated_hashes

HASHES = np.random.default_rng(3).integers(0, 2000, 3000).tolist()


@pytest.mark.parametrize("limit", [1, 3])
@pytest.mark.parametrize("capacity", [None, 1, 100, 10_000])
def test_the_result_does_not_depend_on_the_filter(limit, capacity, monkeypatch):
    monkeypatch.setattr(module, "HASHES_AT_A_TIME", 700)
    seen = None if capacity is None else BloomFilter(capacity, 0.01)
    readings = []

    def read():
        readings.append(1)
        return iter(HASHES)

    expected = Counter({key: times for key, times in Counter(HASHES).items() if times > limit})
    assert repeated_hashes(read, limit, seen) == expected
    assert len(readings) == (1 if capacity is None else 2)


def test_the_filter_keeps_what_occurs_once_out_of_the_table(monkeypatch):
    sizes = []

    class Recorded(module.HashCounts):
        def count_waiting(self) -> None:
            super().count_waiting()
            sizes.append(len(self))

    monkeypatch.setattr(module, "HashCounts", Recorded)
    generator = np.random.default_rng(4)
    hashes = generator.integers(0, 2**64, 20_000, dtype=np.uint64).tolist() + list(range(50)) * 2
    assert len(repeated_hashes(lambda: hashes, 1, BloomFilter(20_050, 0.01))) == 50
    assert max(sizes) < 50 + 2 * 0.01 * 20_000


def test_no_hash_at_all():
    assert repeated_hashes(list, 1) == {}
    assert repeated_hashes(list, 1, BloomFilter(10, 0.1)) == {}
