"""a3.7 and a3.8 on drawn inputs: windows, the order of an epoch, rows, packed and padded batches.

Windows, orders and rows are free in part, so the call itself checks what the handout says of them.
"""

import pytest
import torch
from batch_oracles import (
    ARRAY_LAYOUTS,
    KINDS,
    TENSOR_KINDS,
    DocumentsInput,
    TokensInput,
    check_apart,
    check_rows,
    starts_of,
)
from hypothesis import strategies as st

from lm_course.drawn_inputs.constant_strategies import near_constants
from lm_course.drawn_inputs.drawn_checks import drawn_checks
from lm_course.drawn_inputs.input_spaces import Space
from lm_course.grading.comparisons import check_equal, check_true

pytestmark = pytest.mark.usefixtures("a3")  # one thread
kinds = st.sampled_from(KINDS + tuple(f"tensor {kind}" for kind in TENSOR_KINDS))
layouts = st.sampled_from(ARRAY_LAYOUTS)
seeds = st.sampled_from([0, 1, 2, 17, 2**31, 2**40])


# a3.7


@st.composite
def windows(draw):
    context_length = draw(near_constants(st.integers(1, 12), 1, 600))
    more = draw(near_constants(st.sampled_from([1, 1, 2, 3, 9, 40, 0, -1]), -1, 600))
    count = max(0, context_length + more)
    kind = draw(kinds)
    if kind.endswith("uint8") and count > 200:
        kind = "uint16"
    return {
        "tokens": TokensInput(count, kind, draw(layouts)),
        "batch_size": draw(near_constants(st.integers(1, 9), 1, 300)),
        "context_length": context_length,
        "seed": draw(seeds),
        "by_name": draw(st.booleans()),
    }


def call_windows(module, tokens, batch_size, context_length, seed, by_name):
    """Draw two batches from one generator, and the first again from an equal one."""
    device = "cpu" if by_name else torch.device("cpu")
    generators = [torch.Generator().manual_seed(seed) for _ in range(2)]

    def batch(number):
        return module.random_windows(tokens, batch_size, context_length, device, generators[number])

    what = f"random_windows of {len(tokens)} tokens"
    batches = [batch(0), batch(0), batch(1)]
    starts = [starts_of(tokens, each, context_length, what) for each in batches]
    check_equal(starts[2], starts[0], f"starts of {what}, once more with the same seed")
    x, y = batches[0]
    check_apart(x.contiguous(), y.contiguous(), f"x and y of {what}")
    return batches[0]


def view_windows(batch):
    return [(tuple(each.shape), str(each.dtype), str(each.device)) for each in batch]


@st.composite
def orders(draw):
    numbers = near_constants(st.integers(0, 30), 0, 10**6)
    places = draw(st.lists(st.tuples(numbers, numbers), min_size=2, max_size=5, unique=True))
    return {
        "num_items": draw(near_constants(st.sampled_from([1, 2, 3, 12, 13, 40]), 1, 3000)),
        "places": [(seed + draw(seeds), epoch) for seed, epoch in places],
        "step": draw(near_constants(st.sampled_from([1, 2, 10, 100]), 1, 10**7)),
    }


# Where two numbers become one: in 32 or 64 bits, and in Python's hash of an integer.
PERIODS = (2**32, 2**61 - 1, 2**64)


def call_orders(module, num_items, places, step):
    """Return the order for each (seed, epoch); different pairs have different orders."""
    seed, epoch = places[0]  # the next two are the same for a seed of step * seed + epoch
    places = [*places, (seed, epoch + step), (seed + 1, epoch), (epoch, seed)]
    for period in PERIODS:
        places += [(seed + period, epoch), (seed + epoch, period)]
    places = list(dict.fromkeys(places))
    found = [module.epoch_order(num_items, seed, epoch) for seed, epoch in places]
    if num_items >= 12:
        different = {tuple(order.tolist()) for order in found}
        what = f"the number of different orders for (seed, epoch) in {places}"
        check_equal(len(different), len(places), what)
    return found


def view_orders(found):
    return [
        (type(order).__name__, str(order.dtype), order.ndim, sorted(order.tolist()))
        for order in found
    ]


@st.composite
def samplers(draw):
    steps = st.integers(0, 12) | st.sampled_from([699, 700, 10**6, 10**9])
    return {
        "num_items": draw(near_constants(st.sampled_from([1, 2, 3, 7, 16]), 1, 3000)),
        "batch_size": draw(near_constants(st.sampled_from([1, 2, 3, 7, 16, 40]), 1, 300)),
        "seeds": draw(st.lists(seeds, min_size=2, max_size=2, unique=True)),
        "steps": draw(st.lists(near_constants(steps, 0, 10**6), min_size=1, max_size=4)),
    }


def call_samplers(module, num_items, batch_size, seeds, steps):
    """Ask two samplers in turn, and compare with the epochs one after another."""
    made = [module.EpochSampler(num_items, batch_size, seed) for seed in seeds]
    module.EpochSampler(num_items + 1, batch_size + 1, seeds[0])
    found = []
    for step in steps:
        for sampler, seed in zip(made, seeds, strict=True):
            expected = []
            for place in range(step * batch_size, (step + 1) * batch_size):
                epoch, position = divmod(place, num_items)
                expected.append((seed, epoch, position))
            epochs = {(seed, epoch) for seed, epoch, _ in expected}
            known = {each: module.epoch_order(num_items, *each).tolist() for each in epochs}
            right = [known[seed, epoch][position] for seed, epoch, position in expected]
            what = f"EpochSampler({num_items}, {batch_size}, {seed}).indices_at({step})"
            found.append(sampler.indices_at(step))
            check_equal(found[-1], right, f"{what}, against the orders of epoch_order")
    return found


def view_samplers(found):
    return [(len(batch), sorted({type(item).__name__ for item in batch})) for batch in found]


# a3.8


@st.composite
def lengths_of_documents(draw):
    context_length = draw(near_constants(st.sampled_from([1, 2, 5, 10, 10, 17, 40]), 1, 600))
    count = draw(near_constants(st.integers(0, 25), 0, 300))
    longest = context_length
    if draw(st.integers(0, 4)) == 3:  # long rows: less than a percent may be left
        context_length, count = draw(st.sampled_from([600, 1000, 2048])), draw(st.integers(2, 25))
        longest = context_length // 3
    usual = st.integers(1, longest)
    few = draw(st.lists(usual, min_size=1, max_size=3))  # lengths that come again
    each = draw(st.sampled_from([usual, st.sampled_from(few)]))
    lengths = draw(st.lists(each, min_size=min(count, 40), max_size=min(count, 40)))
    lengths = (lengths * (count // 40 + 1))[:count]
    if lengths and draw(st.integers(0, 7)) == 3:
        lengths[draw(st.integers(0, len(lengths) - 1))] = draw(
            st.sampled_from([0, context_length + 1, context_length + 2, 3 * context_length])
        )
    return {"lengths": lengths, "context_length": context_length, "as_tuple": draw(st.booleans())}


def call_rows(module, lengths, context_length, as_tuple):
    given = tuple(lengths) if as_tuple else lengths
    rows = module.best_fit_rows(given, context_length)
    check_rows(rows, lengths, context_length, f"best_fit_rows(lengths, {context_length})")
    check_true(
        module.best_fit_rows(given, context_length) == rows,
        "best_fit_rows gives other rows when it is called again with the same lengths",
    )
    return rows


def view_rows(rows):
    """The rows were checked, and which of several right ones they are is free."""
    return type(rows).__name__


@st.composite
def documents(draw):
    count = draw(near_constants(st.integers(1, 6), 1, 300))
    usual = near_constants(st.integers(2, 9), 2, 300)
    lengths = draw(st.lists(usual, min_size=min(count, 9), max_size=min(count, 9)))
    lengths = (lengths * (count // 9 + 1))[:count]
    if draw(st.integers(0, 9)) == 3:
        lengths[draw(st.integers(0, count - 1))] = draw(st.integers(0, 1))
    ways = st.tuples(st.sampled_from(KINDS), layouts)  # of each document in turn
    given = DocumentsInput(tuple(lengths), tuple(draw(st.lists(ways, min_size=1, max_size=3))))
    return {"documents": given if draw(st.integers(0, 19)) != 7 else DocumentsInput(())}


@st.composite
def padded_documents(draw):
    inputs = draw(documents())
    longest = max(inputs["documents"].lengths, default=2)
    more = st.sampled_from([0, 1, 5, 5, -1, -longest])
    widths = near_constants(more, 0, 300).map(lambda extra: max(0, longest - 1 + extra))
    return inputs | {
        "width": draw(st.none() | widths),
        "padding_id": draw(st.sampled_from([None, 0, 1, 3, 65_535, -100])),
    }


def call_packed(module, documents):
    batch = module.packed_batch(documents)
    check_true(isinstance(batch, module.PackedBatch), "packed_batch must return a PackedBatch")
    return owned(batch, "packed_batch")


def call_padded(module, documents, width, padding_id):
    options = {} if padding_id is None else {"padding_id": padding_id}
    return owned(module.padded_batch(documents, width, **options), "padded_batch")


def owned(batch, what):
    check_apart(batch["token_ids"], batch["targets"], f"token_ids and targets of {what}")
    return dict(batch.tensors), batch.num_tokens


SPACES = [
    Space(
        "a3.7",
        "training.batching.random_windows",
        windows(),
        call_windows,
        view_windows,
        told=r"\d+(?= tokens)|(?<== )\d+",
    ),
    Space("a3.7", "training.batching.epoch_order", orders(), call_orders, view_orders, draws=40),
    Space(
        "a3.7",
        "training.batching.EpochSampler.indices_at",
        samplers(),
        call_samplers,
        view_samplers,
        draws=40,
    ),
    Space(
        "a3.8",
        "training.packed_documents.best_fit_rows",
        lengths_of_documents(),
        call_rows,
        view_rows,
        told=r"(?<=document )\d+|(?<=has )\d+",
    ),
    Space("a3.8", "training.packed_documents.packed_batch", documents(), call_packed),
    Space("a3.8", "training.packed_documents.padded_batch", padded_documents(), call_padded),
]

test_as_the_reference, test_contracts = drawn_checks(SPACES)
