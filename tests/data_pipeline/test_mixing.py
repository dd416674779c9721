"""Mixes have exactly the counts that weights ask for, and resume anywhere without repetition."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.mixing import (
    MixedItem,
    MixedOrder,
    apportion,
    budget_per_source,
    documents_served,
    epoch_order,
    shuffled,
    temperature_weights,
)

NAMES = ("a", "b", "c", "d")
SIZES = st.lists(st.integers(1, 12), min_size=1, max_size=4).map(
    lambda sizes: dict(zip(NAMES, sizes, strict=False))
)
WEIGHTS = st.lists(st.integers(0, 50).map(lambda n: n / 10), min_size=1, max_size=4).filter(any)


@st.composite
def mixes(draw: st.DrawFn) -> MixedOrder:
    sizes = draw(SIZES)
    counts = {source: draw(st.integers(0, 3 * size)) for source, size in sizes.items()}
    return MixedOrder(sizes, counts, draw(st.integers(0, 9)))


def test_a_temperature_makes_weights_more_equal():
    sizes = {"english": 900, "korean": 100}
    assert temperature_weights(sizes, 1) == {"english": 0.9, "korean": 0.1}
    assert temperature_weights(sizes, 2) == {"english": 0.75, "korean": 0.25}  # 30 to 10
    assert temperature_weights(sizes, float("inf")) == {"english": 0.5, "korean": 0.5}
    huge = temperature_weights({"a": 10**15, "b": 1}, 1)
    assert huge["b"] == pytest.approx(1e-15), "a small source is not rounded to nothing"


@given(WEIGHTS, st.integers(0, 10**6))
def test_parts_differ_from_the_exact_shares_by_less_than_one(weights, total):
    named = dict(enumerate(weights))
    parts = apportion(total, named)
    assert sum(parts.values()) == total
    for source, part in parts.items():
        assert abs(part - total * named[source] / sum(weights)) < 1 + 1e-6


def test_of_equal_remainders_the_earlier_source_gets_what_is_left():
    assert apportion(5, {"x": 1, "y": 1, "z": 1}) == {"x": 2, "y": 2, "z": 1}
    assert apportion(3, {"x": 0.1, "y": 0.2}) == {"x": 1, "y": 2}, "decimal, not binary, fractions"


@given(WEIGHTS, st.integers(0, 200), st.integers(1, 50))
def test_a_source_never_exceeds_its_epochs(weights, budget, tenths):
    named = dict(enumerate(weights))
    sizes = {source: 7 + 10 * source for source in named}
    given_amounts = budget_per_source(sizes, named, budget, tenths / 10)
    room = {s: size * tenths // 10 for s, size in sizes.items() if named[s]}
    assert sum(given_amounts.values()) == min(budget, sum(room.values()))
    for source, amount in given_amounts.items():
        assert amount <= room.get(source, 0)
    unused = [s for s in room if given_amounts[s] < room[s]]
    for first in unused:
        for second in unused:
            ratio = given_amounts[first] / named[first] - given_amounts[second] / named[second]
            assert abs(ratio) <= 1 / named[first] + 1 / named[second], "still in proportion"


def test_a_part_of_an_epoch_is_rounded_to_the_nearest_document():
    assert documents_served(10, 1700, 1000) == 17
    assert [documents_served(3, amount, 10) for amount in (0, 1, 5, 10, 15)] == [0, 1, 2, 3, 5]


@given(st.integers(1, 3000), st.integers(0, 5), st.integers(0, 3))
@settings(max_examples=40)
def test_an_epoch_contains_every_document_once(num_documents, seed, epoch):
    order = list(epoch_order(num_documents, seed, epoch))
    assert sorted(order) == list(range(num_documents))
    start = num_documents // 3
    assert list(epoch_order(num_documents, seed, epoch, start)) == order[start:]


def test_any_position_of_a_huge_order_can_be_asked_for():
    positions = np.array([0, 1, 10**15, 2**60 - 1])
    documents = shuffled(positions, 2**60, seed=1)
    assert len(set(documents.tolist())) == 4 and documents.max() < 2**60
    assert shuffled(positions[2:3], 2**60, seed=1)[0] == documents[2]


def test_orders_are_the_same_on_every_machine():
    assert list(epoch_order(10, 0, 0)) == [4, 5, 8, 6, 7, 3, 0, 9, 2, 1]
    mix = MixedOrder({"a": 5, "b": 2}, {"a": 5, "b": 3}, seed=1)
    assert [f"{source}{document}" for source, document, _ in mix] == [
        "a0",
        "b1",
        "a3",
        "a2",
        "b0",
        "a4",
        "a1",
        "b0",
    ]


def test_every_order_of_four_documents_is_as_frequent():
    found = Counter(tuple(epoch_order(4, 5, epoch)) for epoch in range(480))
    assert len(found) == 24
    chi_squared = sum((n - 20) ** 2 / 20 for n in found.values())
    assert chi_squared < 50, "23 degrees of freedom: 50 is exceeded once in a thousand"


@given(mixes())
@settings(max_examples=60, deadline=None)
def test_a_mix_has_its_counts_and_repeats_nothing_within_an_epoch(mix):
    items = list(mix)
    assert len(items) == len(mix)
    assert Counter(item.source for item in items) == Counter(mix.counts)
    assert len(set(items)) == len(items), "no document occurs twice in one epoch"
    for source, count in mix.counts.items():
        size = mix.sizes[source]
        epochs = [item.epoch for item in items if item.source == source]
        assert epochs == [n // size for n in range(count)], "one epoch after the other"
        for epoch in range(count // size):
            whole = {item.document for item in items if item[::2] == (source, epoch)}
            assert whole == set(range(size)), "a whole epoch contains every document"


@given(mixes())
@settings(max_examples=12, deadline=None)
def test_a_mix_resumes_at_every_position(mix):
    items = list(mix)
    for position in range(len(mix) + 1):
        assert list(mix.items_from(position)) == items[position:]
        before = Counter(item.source for item in items[:position])
        assert mix.served_before(position) == {source: before[source] for source in mix.sizes}
        for source, count in mix.counts.items():
            share = position * count / len(mix)
            assert abs(before[source] - share) < len(mix.counts) + 1, "even everywhere"


@given(mixes(), st.data())
@settings(max_examples=40, deadline=None)
def test_new_weights_continue_every_epoch_where_it_was(mix, data):
    position = data.draw(st.integers(0, len(mix)))
    counts = {source: data.draw(st.integers(0, 2 * size)) for source, size in mix.sizes.items()}
    later = mix.reweighted(position, counts)
    served = [*islice(mix, position), *later]
    assert len(set(served)) == len(served), "nothing is served twice within an epoch"
    for source, size in mix.sizes.items():
        documents = [item.document for item in served if item.source == source]
        for start in range(0, len(documents) - size + 1, size):
            assert set(documents[start : start + size]) == set(range(size))
    again = MixedOrder(mix.sizes, counts, mix.seed, later.served)
    assert list(again.items_from(len(again) // 2)) == list(later)[len(later) // 2 :]


def test_epochs_and_seeds_have_orders_of_their_own():
    mix = MixedOrder({"a": 50}, {"a": 100}, seed=3)
    first, second = [i.document for i in mix][:50], [i.document for i in mix][50:]
    assert first != second
    assert [i.document for i in MixedOrder({"a": 50}, {"a": 50}, seed=4)] != first
    assert mix[99] == MixedItem("a", second[49], 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: temperature_weights({"a": 1}, 0), "temperature 0: expected a number greater"),
        (lambda: temperature_weights({"a": 0}, 1), "source 'a' has the size 0"),
        (lambda: apportion(5, {"a": -1.0}), "weight -1.0 of 'a'"),
        (lambda: apportion(5, {"a": float("nan")}), "weight nan of 'a'"),
        (lambda: apportion(5, {"a": 0, "b": 0}), "all weights are 0: a, b"),
        (lambda: MixedOrder({"a": 0}, {"a": 1}, 0), "source 'a' has no document"),
        (lambda: MixedOrder({"a": 2}, {"a": 2}, 0).served_before(3), "position 3 of a mix of 2"),
    ],
)
def test_wrong_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
