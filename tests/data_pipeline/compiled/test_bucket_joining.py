"""Compiled comparison and joining of buckets, against the lesson's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.compiled.bucket_joining import BucketJoiner, Buckets, point_at_first
from data_pipeline.minhash_dedup import Components, join_similar

SETS = st.lists(st.sets(st.integers(0, 8), max_size=8), min_size=2, max_size=12)


def joined(buckets, sets, threshold, part):
    """Return the components after joining these buckets in parts of `part` members."""
    values = np.array([number for members in sets for number in sorted(members)], dtype=np.uint64)
    starts = np.cumsum([0] + [len(members) for members in sets])
    values.setflags(write=False)  # as a mapped file is
    parents = np.arange(len(sets))
    members = np.array([document for bucket in buckets for document in bucket], dtype=np.int64)
    begins = np.array([place == 0 for bucket in buckets for place in range(len(bucket))])
    joiner = BucketJoiner(Buckets(members, begins))
    for start in range(0, len(members), part):
        stop = min(start + part, len(members))
        joiner.join(start, stop, values, starts, parents, threshold)
    point_at_first(parents)
    return parents.tolist()


@settings(deadline=None)  # compiles at the first call
@given(SETS, st.sampled_from([0.2, 0.5, 0.6, 1.0]), st.integers(1, 5), st.randoms())
def test_components_are_those_of_the_lesson(sets, threshold, part, random):
    documents = list(range(len(sets)))
    buckets = [sorted(random.sample(documents, random.randint(2, len(sets)))) for _ in range(3)]
    components = Components(len(sets))
    arrays = [np.array(sorted(members), dtype=np.uint64) for members in sets]
    for bucket in buckets:
        join_similar(bucket, arrays, threshold, components)
    expected = [components.find(document) for document in documents]
    assert joined(buckets, sets, threshold, part) == expected


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ({1, 2, 3, 4}, {1, 2, 3, 4, 5}, True),  # 4 / 5: exactly the threshold
        ({1, 2, 3, 4}, {0, 1, 2, 3, 4, 5}, False),  # 4 / 6, although one contains the other
        ({1, 2, 3, 4, 5}, {2, 3, 4, 5, 6}, False),  # 4 / 6, of the same size
        (set(), set(), True), (set(), {1}, False),
    ],
)  # fmt: skip
def test_the_threshold_counts_as_reached(first, second, expected):
    assert (joined([[0, 1]], [first, second], 0.8, 2) == [0, 0]) is expected


def test_only_buckets_that_are_apart_are_left():
    members = np.array([0, 2, 1, 3, 4, 0, 4])
    begins = np.array([True, False, True, False, False, True, False])
    parents = np.array([0, 1, 0, 1, 2])  # 4 -> 2 -> 0
    left = Buckets(members, begins).apart(parents)
    assert parents.tolist() == [0, 1, 0, 1, 0]
    assert left.members.tolist() == [1, 3, 4] and left.begins.tolist() == [True, False, False]
    empty = Buckets(members[:0], begins[:0])
    assert len(empty.apart(np.arange(5)).members) == 0
