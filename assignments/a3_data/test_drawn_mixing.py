"""a3_data.18 and a3_data.19 on drawn inputs: the space of each graded function.

Orders are free in part, so the call itself checks what the handout says of them.
"""

from collections import Counter
from math import gcd

from hypothesis import strategies as st

from lm_course.drawn_inputs.constant_strategies import near_constants
from lm_course.drawn_inputs.drawn_checks import drawn_checks
from lm_course.drawn_inputs.input_spaces import Space, arguments
from lm_course.drawn_inputs.result_comparison import Within
from lm_course.grading.comparisons import check_equal, check_true

NAME = "data_pipeline.mixing."
NAMES = ("web", "books", "a", "code", "한국어")
seeds = st.sampled_from([0, 1, 2, 17, 2**31, 2**40, -1])

# a3_data.18


def by_name(values, least=1, most=4):
    """Source -> value, in an order that is not that of the names."""
    return st.lists(values, min_size=least, max_size=most).map(
        lambda each: dict(zip(NAMES, each, strict=False))
    )


sizes = near_constants(st.one_of(st.integers(1, 20), st.integers(1, 10**6)), 1, 10**15)
wrong_numbers = st.sampled_from([-1, -0.5, float("nan"), float("inf")])
decimals = st.integers(1, 100).map(lambda number: number / 10)
hundredths = st.integers(1, 100).map(lambda number: number / 100)
right_weights = st.one_of(
    decimals, hundredths, st.integers(1, 5), st.just(0), st.floats(1e-6, 10), st.floats(0.01, 1)
)
amounts = near_constants(st.one_of(st.integers(0, 30), st.integers(0, 10**12)), 0, 10**18)


@st.composite
def weights(draw):
    drawn = draw(by_name(right_weights))
    if draw(st.integers(0, 14)) == 1:
        drawn[draw(st.sampled_from(list(drawn)))] = draw(wrong_numbers)
    return drawn


@st.composite
def budgets(draw):
    chosen = draw(by_name(right_weights).filter(lambda each: any(each.values())))
    each = {source: draw(sizes) for source in chosen}
    epochs = st.sampled_from([1, 1.0, 2, 4, 0.7, 1.5, 0.05, 0])
    return {
        "sizes": each,
        "weights": chosen,
        "budget": draw(st.one_of(amounts, st.integers(0, 3 * sum(each.values())))),
        "max_epochs": draw(st.one_of(st.none(), epochs, epochs, epochs, decimals)),
    }


@st.composite
def near_halves(draw):
    """Numbers whose share is a half, or so near one that 28 digits do not tell."""
    size = draw(st.integers(1, 10**17)) * 2 + 1
    documents = draw(st.integers(1, 10**15))
    if gcd(documents, size) > 1:
        documents = 1
    below = size // 2 + draw(st.integers(0, 1))
    return {
        "num_documents": documents,
        "amount": below * pow(documents, -1, size) % size,
        "size": size,
    }


def close_numbers(found):
    return {source: Within(float(weight), 1e-9, 1e-11) for source, weight in found.items()}


WEIGHTS = [
    Space(
        "a3_data.18",
        f"{NAME}temperature_weights",
        arguments(
            {
                "sizes": by_name(st.one_of(sizes, sizes, sizes, sizes, sizes, st.just(0)), least=0),
                "temperature": st.one_of(
                    st.sampled_from([1, 2, 5.0, 1 / 0.3, 0.5, 0.01, float("inf")]),
                    st.floats(0.1, 20),
                    st.sampled_from([1.5, 3, 0, -1.0]),
                ),
            }
        ),
        view=close_numbers,
    ),
    Space(
        "a3_data.18",
        f"{NAME}apportion",
        arguments({"total": amounts, "weights": weights()}),
        draws=70,
    ),
    Space("a3_data.18", f"{NAME}budget_per_source", budgets(), draws=70),
    Space(
        "a3_data.18",
        f"{NAME}documents_served",
        st.one_of(
            arguments({"num_documents": sizes, "amount": amounts, "size": sizes}), near_halves()
        ),
    ),
]

# a3_data.19


def drawn_places(draw, least, most):
    return [draw(near_constants(st.integers(least, most), least, most)) for _ in range(3)]


@st.composite
def epochs(draw):
    size = draw(near_constants(st.sampled_from([1, 2, 3, 12, 13, 40]), 1, 3000))
    numbers = near_constants(st.integers(0, 30), 0, 10**6)
    return {
        "num_documents": size,
        "seed": draw(seeds),
        "epoch": draw(numbers),
        "apart": draw(st.one_of(st.sampled_from([2, 10, 100, 1000, 10**6]), numbers)),
        "starts": drawn_places(draw, 0, size),
    }


def call_epoch(module, num_documents, seed, epoch, apart, starts):
    """Return the documents of the order; the rest of it is the same from any start."""
    order = [int(each) for each in module.epoch_order(num_documents, seed, epoch)]
    what = f"epoch_order({num_documents}, {seed}, {epoch}"
    for start in starts:
        got = [int(each) for each in module.epoch_order(num_documents, seed, epoch, start)]
        check_equal(got, order[start:], f"{what}, {start}), compared with the whole order")
    if num_documents >= 12:
        places = [
            (seed, epoch + 1),
            (seed + 1, epoch),
            (seed + 1, epoch + 1),
            (seed - 1, epoch + 1),
        ]
        orders = {
            pair: [int(each) for each in module.epoch_order(num_documents, *pair)]
            for pair in [*places, (seed - 1, epoch + apart), (seed, epoch + apart)]
        }
        for other, found in orders.items():
            check_true(
                found != order or other == (seed, epoch),
                f"{what}) has the order of seed {other[0]} and epoch {other[1]}",
            )
    return order


@st.composite
def mixes(draw):
    each = draw(by_name(near_constants(st.integers(1, 12), 1, 1500)))
    counts = {
        source: draw(st.integers(0, min(3 * size, size + 30))) for source, size in each.items()
    }
    total = sum(counts.values())
    if draw(st.booleans()):
        counts = dict(reversed(counts.items()))
    return {
        "sizes": each,
        "counts": counts,
        "seed": draw(seeds),
        "positions": drawn_places(draw, 0, total),
    }


def items_of(order, start=0):
    return [(str(source), int(document), int(epoch))
            for source, document, epoch in order.items_from(start)]  # fmt: skip


def check_sequence(items, sizes, what):
    """Each source's documents: whole epochs one after the other, nothing twice within one."""
    served: Counter = Counter()
    seen = set()
    for item in items:
        source, document, epoch = item
        check_equal(epoch, served[source] // sizes[source], f"the epoch of {item} in {what}")
        check_true(0 <= document < sizes[source], f"{what}: {item} is not a document of {sizes}")
        check_true(item not in seen, f"{what}: {item} comes twice in one epoch")
        served[source] += 1
        seen.add(item)


def call_mix(module, sizes, counts, seed, positions):
    """Return source -> number of items; the rest of the mix is the same from any position."""
    order = module.MixedOrder(sizes, counts, seed)
    items = items_of(order)
    total, number_of_sources = len(items), sum(count > 0 for count in counts.values())
    what = f"the mix of {counts} with the sizes {sizes}"
    check_sequence(items, sizes, what)
    for position in positions:
        found = items_of(module.MixedOrder(sizes, counts, seed), position)
        check_equal(found, items[position:], f"items_from({position}) of {what}")
    found = Counter()
    for place, (source, _, _) in enumerate(items):
        for name, count in counts.items():
            check_true(
                abs(found[name] - place * count / total) < number_of_sources + 1,
                f"{what}: of the first {place} items, {found[name]} are from {name!r}, not about "
                f"{place * count / total:.1f}",
            )
        found[source] += 1
    return dict(found)


def call_served(module, sizes, counts, seed, positions):
    """Return the sum of what is served before each position."""
    order = module.MixedOrder(sizes, counts, seed)
    items, sums = items_of(order), []
    for position in positions:
        served = order.served_before(position)
        before = Counter(source for source, _, _ in items[:position])
        check_equal(
            served, {source: before[source] for source in sizes}, f"served_before({position})"
        )
        sums.append(sum(served.values()))
    return sums


def call_reweighted(module, sizes, counts, seed, positions):
    """Change the counts two times; return the numbers of items of each source."""
    order, items = module.MixedOrder(sizes, counts, seed), []
    for position in positions[:2]:
        position = min(position, len(order))
        items += items_of(order)[:position]
        counts = dict(zip(counts, [*[*counts.values()][1:], 3], strict=True))
        order = order.reweighted(position, counts)
        before = Counter(source for source, _, _ in items)
        check_equal(
            order.served_before(0), {source: before[source] for source in sizes},
            "served_before(0) of a mix with new counts",
        )  # fmt: skip
    last = items_of(order)
    check_sequence(items + last, sizes, f"a mix with new counts {counts} at {positions[:2]}")
    place = min(positions[2], len(last))
    check_equal(items_of(order, place), last[place:], f"items_from({place}), new counts {counts}")
    return dict(Counter(source for source, _, _ in last))


ORDERS = [
    Space("a3_data.19", f"{NAME}epoch_order", epochs(), call=call_epoch, view=sorted, draws=30),
    Space("a3_data.19", f"{NAME}MixedOrder.items_from", mixes(), call=call_mix, draws=30),
    Space("a3_data.19", f"{NAME}MixedOrder.served_before", mixes(), call=call_served, draws=30),
    Space("a3_data.19", f"{NAME}MixedOrder.reweighted", mixes(), call=call_reweighted, draws=30),
]

test_as_the_reference, test_contracts = drawn_checks([*WEIGHTS, *ORDERS])
