"""a3_data.19: the order of an epoch, a mix that can be resumed, and new weights on the way."""

from itertools import islice

import pytest

pytestmark = pytest.mark.task("a3_data.19")
MODULE = "data_pipeline.mixing"
SIZES, COUNTS = {"web": 20, "books": 13, "code": 20}, {"web": 30, "books": 45, "code": 15}


@pytest.mark.parametrize("size", [1, 2, 7, 64, 1000, 1024, 2049])
def test_an_epoch_has_every_document_once(implementation, a3_data, size):
    got = list(implementation(MODULE).epoch_order(size, 5, 0))
    causes = {
        "every epoch has all documents, also those behind the last full block": (
            lambda numbers: len(numbers) < size
        ),
        "a document comes twice": lambda numbers: len(set(numbers)) < len(numbers),
    }
    a3_data.expect(
        sorted(got), list(range(size)), f"the documents of epoch_order({size}, 5, 0)", causes
    )


def test_every_epoch_has_its_own_order(implementation, a3_data):
    epoch_order = implementation(MODULE).epoch_order
    orders = {(seed, epoch): list(epoch_order(50, seed, epoch))
              for seed in (0, 1, 2, 3) for epoch in (0, 1, 2, 3)}  # fmt: skip
    a3_data.true(
        any(order != list(range(50)) for order in orders.values()),
        "epoch_order returns the documents in the order of their numbers; use `shuffled`",
    )
    a3_data.true(
        orders[0, 0] != orders[0, 1],
        "epoch_order: epochs 0 and 1 have the same order; derive the seed from the epoch, too",
    )
    a3_data.true(orders[0, 0] != orders[1, 0], "epoch_order: the seeds 0 and 1 give the same order")
    same = [
        (one, other) for one in orders for other in orders
        if one < other and orders[one] == orders[other]
    ]  # fmt: skip
    a3_data.true(
        not same,
        "epoch_order: (seed, epoch) and (seed + 1, epoch - 1) are different orders; do not add "
        "them up, use derived_seed",
        {"the same orders": same},
    )
    a3_data.expect(
        list(epoch_order(50, 2, 3)), orders[2, 3], "epoch_order(50, seed=2, epoch=3), once more"
    )


@pytest.mark.parametrize("start", [0, 1, 49, 50, 1025, 1999, 2000])
def test_an_epoch_from_a_place_on(implementation, a3_data, start):
    epoch_order = implementation(MODULE).epoch_order
    whole = list(epoch_order(2000, 9, 1))
    got = list(epoch_order(2000, 9, 1, start))
    causes = {
        "the documents before `start` came already, and come again": whole,
        "this is another order, not the rest of the same one": (
            lambda numbers: len(numbers) == 2000 - start
        ),
    }
    a3_data.expect(
        got, whole[start:], f"epoch_order(2000, 9, 1, start={start}) after the whole", causes
    )


@pytest.mark.parametrize("apart", [10, 100, 1000, 10_000, 10**6, 2**16])
def test_distant_epochs_have_their_own_orders(implementation, a3_data, apart):
    epoch_order = implementation(MODULE).epoch_order
    one, other = list(epoch_order(50, 0, apart)), list(epoch_order(50, 1, 0))
    a3_data.true(
        one != other,
        f"epoch_order: (seed, epoch) = (0, {apart}) and (1, 0) have the same order; do not "
        "make one number of them, use derived_seed",
    )


def test_an_epoch_is_not_a_list(implementation, a3_data):
    epoch_order = implementation(MODULE).epoch_order
    size, found = 10**12, []
    instead = "ask `shuffled` for a block of positions at a time, and make no list of all"
    with a3_data.StepCounter(20_000) as counter:
        for start in (0, 10**11, size - 4):
            four = lambda start=start: list(islice(epoch_order(size, 3, 0, start), 4))  # noqa: E731
            what = f"epoch_order(10**12, 3, 0, start={start}), of which four items are taken,"
            found += a3_data.with_little_memory(four, what, instead)
    a3_data.true(
        len(found) == 12 and counter.steps <= 20_000,
        "the first items of an epoch of 10^12 documents, and its last ones, cost as little as "
        f"those of 100: {instead}",
        {"items": found, "steps": counter.steps},
    )
    a3_data.true(
        len(set(found)) == 12 and min(found) >= 0 and max(found) < size,
        "12 different documents below 10^12 were expected",
        {"items": found},
    )


def order_of(module, a3_data, seed=1, counts=COUNTS):
    order = module.MixedOrder(SIZES, counts, seed)
    items = list(order.items_from(0))
    if any(len(item) != 3 for item in items):
        raise a3_data.GradedFailure("items_from yields MixedItem(source, document, epoch)")
    return order, [tuple(item) for item in items]


def numbers_of(items, source):
    return [(document, epoch) for name, document, epoch in items if name == source]


def check_epochs(a3_data, sequence, size, served, what):
    """A source's documents, in their order: whole epochs, one after the other, from `served` on."""
    epochs = [epoch for _, epoch in sequence]
    expected = [(served + place) // size for place in range(len(sequence))]
    a3_data.expect(epochs, expected, f"the epochs of {what}")
    for epoch in sorted(set(epochs)):
        documents = [document for document, number in sequence if number == epoch]
        a3_data.true(
            len(set(documents)) == len(documents),
            f"{what}: a document comes twice within epoch {epoch}",
            {"documents": documents},
        )
        a3_data.true(
            set(documents) <= set(range(size)), f"{what}: no such document", {"got": documents}
        )


def test_a_mix_has_its_counts(implementation, a3_data):
    module = implementation(MODULE)
    _, items = order_of(module, a3_data)
    got = {source: len(numbers_of(items, source)) for source in SIZES}
    causes = {
        "the last epoch of a source is not a whole one, and belongs to the mix": {
            "web": 20, "books": 39, "code": 0
        },
    }  # fmt: skip
    a3_data.expect(got, COUNTS, "the items of each source in a mix", causes)
    for source, size in SIZES.items():
        check_epochs(a3_data, numbers_of(items, source), size, 0, f"{source} in a mix")
    books = numbers_of(items, "books")
    a3_data.true(
        books[:13] != [(document, 0) for document, _ in books[13:26]],
        "MixedOrder: the second epoch of a source has the order of the first",
    )
    web, code = (numbers_of(items, source)[:15] for source in ("web", "code"))
    a3_data.true(
        web != code,
        "MixedOrder: two sources of the same size have the same order; derive the seed from the "
        "source's name, too",
    )
    _, others = order_of(module, a3_data, seed=2)
    a3_data.true(items != others, "MixedOrder: the seeds 1 and 2 give the same mix")


class Name(str):
    """A name with another hash(), as each process gives it."""

    __slots__ = ()

    def __hash__(self):
        return str.__hash__(self) ^ 0x5DEECE66D


def test_the_order_does_not_depend_on_hash(implementation, a3_data):
    module = implementation(MODULE)
    _, items = order_of(module, a3_data)
    sizes, counts = ({Name(s): n for s, n in each.items()} for each in (SIZES, COUNTS))
    try:
        got = [tuple(item) for item in module.MixedOrder(sizes, counts, 1).items_from(0)]
    except LookupError:  # its keys are texts of its own, which this check does not reach
        return
    a3_data.true(
        got == items,
        "MixedOrder: the order depends on hash() of the sources' names, which differs in each "
        "process (also the order of a set does): use derived_seed(seed, name)",
        {"expected": items[:6], "got": got[:6]},
    )


def test_two_readers_of_a_mix(implementation, a3_data):
    module = implementation(MODULE)
    order, items = order_of(module, a3_data)
    one, other = order.items_from(2), order.items_from(40)
    pairs = [(tuple(next(one)), tuple(next(other))) for _ in range(50)]
    expected = list(zip(items[2:52], items[40:90], strict=True))
    causes = {"each call of items_from has places of its own: keep none in the object":
              lambda _: True}  # fmt: skip
    what = "items_from(2) and items_from(40) of one mix, read in turns,"
    a3_data.expect(pairs, expected, what, causes)


@pytest.mark.parametrize("counts", [COUNTS, {"web": 1, "books": 60, "code": 2}, {"books": 9}])
def test_a_mix_is_even(implementation, a3_data, counts):
    _, items = order_of(implementation(MODULE), a3_data, counts=counts)
    total = sum(counts.values())
    for source, number in counts.items():
        found = 0
        for place, item in enumerate(items):
            share = place * number / total
            a3_data.true(
                abs(found - share) < len(counts) + 1,
                f"MixedOrder: the sources are not evenly mixed: of the first {place} items, about "
                f"{share:.1f} are from {source!r}",
                {"expected": f"between {share:.1f} - {len(counts) + 1} and + {len(counts) + 1}",
                 "got": found},
            )  # fmt: skip
            found += item[0] == source


@pytest.mark.parametrize("position", [0, 1, 2, 19, 44, 60, 89, 90])
def test_a_mix_resumes(implementation, a3_data, position):
    module = implementation(MODULE)
    _, items = order_of(module, a3_data)
    again = module.MixedOrder(SIZES, COUNTS, 1)
    got = [tuple(item) for item in again.items_from(position)]
    causes = {
        "the mix begins again: the items before `position` come a second time": items,
        "the sources come in the right turn, but their documents begin again": (
            lambda found: [item[0] for item in found] == [item[0] for item in items[position:]]
        ),
        "the items depend on the position where the run resumed": lambda found: (
            len(found) == len(items) - position
        ),
    }
    a3_data.expect(
        got, items[position:], f"items_from({position}) of a mix of 90, after a resume", causes
    )
    served = {s: len(numbers_of(items[:position], s)) for s in SIZES}
    a3_data.expect(again.served_before(position), served, f"served_before({position})")
    if position < 90:
        a3_data.expect(tuple(again[position]), items[position], f"item {position} of the mix")


def test_positions_outside_are_refused(implementation, a3_data):
    module = implementation(MODULE)
    order = module.MixedOrder({"a": 3}, {"a": 5}, 0)
    for position in (-1, 6):
        what = f"items_from({position}) of a mix of 5 items"
        a3_data.raises(
            ValueError, lambda p=position: list(order.items_from(p)), what, [str(position)]
        )
        what = f"served_before({position}) of a mix of 5 items"
        a3_data.raises(ValueError, lambda p=position: order.served_before(p), what, [str(position)])


@pytest.mark.parametrize("position", [0, 7, 41, 90])
def test_new_weights(implementation, a3_data, position):
    """Two changes of the weights, one after the other."""
    module = implementation(MODULE)
    order, items = order_of(module, a3_data)
    first = {"web": 25, "books": 5}
    changed = order.reweighted(position, first)
    middle = [tuple(item) for item in changed.items_from(0)][:20]
    a3_data.expect(len(changed), 30, "the length of a mix with the new counts 25 and 5")
    served = {s: len(numbers_of(items[:position] + middle, s)) for s in SIZES}
    causes = {
        "what came before the first change counts, too": {
            source: len(numbers_of(middle, source)) for source in SIZES
        },
        "what came after the change counts, too": {
            source: len(numbers_of(items[:position], source)) for source in SIZES
        },
    }
    what = f"served_before(20) of a mix that was changed at {position}"
    a3_data.expect(changed.served_before(20), served, what, causes)
    last = changed.reweighted(20, {"code": 30, "books": 10})
    together = items[:position] + middle + [tuple(item) for item in last.items_from(0)]
    for source, size in SIZES.items():
        sequence = numbers_of(together, source)
        what = f"{source} in a mix that was changed at {position} and 20 items later"
        epochs = [epoch for _, epoch in sequence]
        if epochs != [place // size for place in range(len(sequence))] or len(set(sequence)) != len(
            sequence
        ):
            a3_data.true(
                len(set(sequence)) == len(sequence),
                f"{what}: documents that were served already in an epoch come again in it; each "
                "source continues where it was",
                {"served again": sorted({item for item in sequence if sequence.count(item) > 1})},
            )
        check_epochs(a3_data, sequence, size, 0, what)
        for epoch in range(len(sequence) // size):
            whole = {document for document, number in sequence if number == epoch}
            a3_data.expect(whole, set(range(size)), f"epoch {epoch} of {what}")
    a3_data.expect(
        [tuple(item) for item in order.items_from(0)], items, "the first mix after `reweighted`"
    )
    resumed = [tuple(item) for item in changed.items_from(20)]
    rest = [tuple(item) for item in changed.items_from(0)][20:]
    a3_data.expect(resumed, rest, "items_from(20) of a mix with new counts")
