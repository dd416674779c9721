"""a3.7: windows of tokens, and the order of an epoch."""

import numpy as np
import pytest
import torch
from batch_oracles import (
    check_apart,
    hash_of_another_process,
    starts_of,
)

from lm_course.containment.counted_work import watched
from lm_course.grading.comparisons import (
    Words,
    check_equal,
    check_raises,
    check_true,
    check_work,
)

pytestmark = pytest.mark.usefixtures("a3")  # one thread
BATCHING = "training.batching"
CPU = torch.device("cpu")


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def windows_of(module, tokens, batch_size, context_length, generator, what):
    """Call random_windows on tokens that are enough."""
    try:
        return module.random_windows(tokens, batch_size, context_length, CPU, generator)
    except (RuntimeError, ValueError) as error:
        if isinstance(error, NotImplementedError):
            raise
        text = str(error).splitlines()[0]
        cause = f"there are len(tokens) - context_length = {len(tokens) - context_length} starts"
        check_true(False, f"{what} fails: {text}", {"likely": Words(cause)})


@pytest.mark.task("a3.7")
def test_the_only_window_by_hand(implementation):
    """Five tokens have one window of four inputs: the handout's example."""
    tokens = np.array([40, 41, 42, 43, 44], dtype=np.uint16)
    what = "random_windows of 5 tokens with context_length 4"
    windows = windows_of(implementation(BATCHING), tokens, 3, 4, seeded(0), what)
    starts = starts_of(tokens, windows, 4, what)
    check_equal(starts, [0, 0, 0], f"starts of {what}")


@pytest.mark.task("a3.7")
def test_every_start_is_drawn(implementation):
    tokens, what = np.arange(20), "700 random_windows of 20 tokens with context_length 6"
    windows = windows_of(implementation(BATCHING), tokens, 700, 6, seeded(1), what)
    counts = np.bincount(starts_of(tokens, windows, 6, what), minlength=14).tolist()
    causes = {
        "the last window begins at len(tokens) - context_length - 1": counts[13] == 0,
        "the first window begins at 0": counts[0] == 0,
        "windows begin anywhere, not only at multiples of context_length": not any(counts[1:6]),
        "starts are drawn one by one, so each has the same chance": True,
    }
    check_equal(len(counts), 14, f"number of different starts of {what}")
    check_true(
        min(counts) > 20 and max(counts) < 85,  # 50 on average, 7 the standard deviation
        f"{what}: each of the 14 starts should be drawn about 50 times",
        {"times": counts, "likely": Words(next(cause for cause, fits in causes.items() if fits))},
    )


@pytest.mark.task("a3.7")
def test_every_start_of_a_long_array_is_drawn(implementation):
    """Of 2^25 starts: a float32 is exact only up to 2^24."""
    tokens, what = np.zeros((1 << 25) + 1, dtype=np.uint8), "random_windows of 2^25 + 1 tokens"
    tokens[1::2] = 1
    x, _ = implementation(BATCHING).random_windows(tokens, 400, 1, CPU, seeded(6))
    odd = int(x.sum())
    check_true(
        140 < odd < 260,  # 200 on average, 10 the standard deviation
        f"{what}: about half of 400 starts should be odd",
        {"odd": odd, "likely": Words("the starts were computed in float32: draw integers")},
    )


@pytest.mark.task("a3.7")
@pytest.mark.parametrize("kind", ["uint16", ">u2", "uint32", "torch"])
def test_windows_of_any_integers(implementation, kind):
    """The largest ids of a type, in an array that is not contiguous and cannot be written."""
    if kind == "torch":
        tokens = torch.arange(40, dtype=torch.int16)[::2]
    else:
        dtype = np.dtype(kind)
        tokens = (np.arange(40) + np.iinfo(dtype).max - 39).astype(dtype)[::2]
        tokens.flags.writeable = False
    what = f"random_windows of every second of 40 tokens of {kind}"
    module = implementation(BATCHING)
    try:
        windows = module.random_windows(tokens, 5, 7, CPU, seeded(2))
    except TypeError as error:
        cause = "PyTorch has no such type: convert the window with NumPy, .astype(np.int64)"
        check_true(False, f"{what} fails: {error}", {"likely": Words(cause)})
    starts_of(tokens, windows, 7, what)


@pytest.mark.task("a3.7")
def test_of_a_memory_map_only_the_windows_are_read(implementation, tmp_path):
    """64 MB of zeros: the file takes no space on disk."""
    path = tmp_path / "tokens.bin"
    with path.open("wb") as file:
        file.truncate(1 << 26)
    tokens = np.memmap(path, dtype=np.uint16, mode="r")
    random_windows = implementation(BATCHING).random_windows
    what = "random_windows of a memory map of 33,554,432 tokens"
    random_windows(tokens[:100], 4, 8, CPU, seeded(0))  # loads what it needs
    hint = ": slice the array, and convert only the window"
    with watched(what, largest_tensor=5000, largest_outside=1 << 18, hint=hint):
        x, y = random_windows(tokens, 4, 8, CPU, seeded(0))
    check_equal([list(x.shape), list(y.shape)], [[4, 8], [4, 8]], f"shapes of {what}")


@pytest.mark.task("a3.7")
def test_more_tokens_than_32_bits_can_count(implementation):
    """An array of one token that is repeated takes no memory."""
    random_windows = implementation(BATCHING).random_windows
    hint = ": slice the array, and convert only the window"
    short = np.broadcast_to(np.uint16(7), 1 << 22)
    random_windows(short[:100], 2, 3, CPU, seeded(0))  # loads what it needs
    what = "random_windows of 2^22 tokens"
    with watched(what, largest_tensor=5000, largest_outside=1 << 18, hint=hint):
        random_windows(short, 2, 3, CPU, seeded(0))
    tokens, what = np.broadcast_to(np.uint16(7), (1 << 31) + 100), "random_windows of 2^31 + 100"
    try:
        x, y = random_windows(tokens, 2, 3, CPU, seeded(0))
    except (RuntimeError, ValueError, OverflowError, IndexError) as error:
        cause = "a start of 32 bits ends at 2^31 - 1: draw starts of 64 bits (torch.int64)"
        text = str(error).splitlines()[0]
        check_true(False, f"{what} tokens fails: {text}", {"likely": Words(cause)})
    check_equal([x.tolist(), y.tolist()], [[[7] * 3] * 2] * 2, f"x and y of {what} tokens 7")


@pytest.mark.task("a3.7")
def test_windows_come_from_the_generator(implementation):
    random_windows = implementation(BATCHING).random_windows
    tokens, what = np.arange(1000), "random_windows of 1,000 tokens"

    def starts(generator, *batches):
        given = () if generator is None else (generator,)
        pairs = [random_windows(tokens, size, 8, CPU, *given) for size in batches or (6,)]
        return [starts_of(tokens, pair, 8, what) for pair in pairs]

    before = torch.get_rng_state()
    first, second = starts(seeded(1), 6, 6)
    check_true(
        torch.equal(torch.get_rng_state(), before),
        f"{what} draws from the global generator, although it has one of its own",
    )
    check_true(first != second, f"{what}: a second batch from the same generator is the first one")
    check_equal(starts(seeded(1), 6, 6), [first, second], f"{what} with the same seed")
    torch.default_generator.manual_seed(3)
    one = starts(None)
    other = starts(None)
    torch.default_generator.manual_seed(3)
    check_equal(starts(None), one, f"{what} from PyTorch's global generator, with the same seed")
    check_true(one != other, f"{what}: without a generator, every batch is the same")
    torch.default_generator.set_state(before)


@pytest.mark.task("a3.7")
def test_windows_belong_to_the_caller(implementation):
    random_windows = implementation(BATCHING).random_windows
    for batch_size in (1, 3):
        tokens = torch.arange(9)
        what = f"x and y of random_windows with batch_size {batch_size}"
        x, y = random_windows(tokens, batch_size, 8, CPU, seeded(0))
        check_apart(x.contiguous(), y.contiguous(), what)
        x += 100
        y += 100
        check_equal(tokens.tolist(), list(range(9)), "the tokens after a change of the windows")
    x, y = random_windows(np.arange(9), 2, 3, torch.device("meta"), seeded(0))
    check_true(x.is_meta and y.is_meta, 'x and y must be on `device`, here "meta"')


@pytest.mark.task("a3.7")
@pytest.mark.parametrize("count", [0, 6])
def test_too_few_tokens_are_refused(implementation, count):
    """6 tokens have 5 that are followed by another."""
    random_windows = implementation(BATCHING).random_windows

    def call():
        return random_windows(np.arange(count), 2, 6, CPU, seeded(0))

    what = f"random_windows of {count} tokens with context_length 6"
    starts_of(
        range(7), windows_of(implementation(BATCHING), np.arange(7), 2, 6, None, what), 6, what
    )
    check_raises(ValueError, call, what, [str(count), "7"])


def orders_of(module, *places):
    orders = [module.epoch_order(24, seed, epoch) for seed, epoch in places]
    for order, place in zip(orders, places, strict=True):
        what = f"epoch_order(24, {place[0]}, {place[1]})"
        check_true(isinstance(order, np.ndarray), f"{what} is not a NumPy array")
        check_equal(sorted(order.tolist()), list(range(24)), f"the sorted items of {what}")
    return [order.tolist() for order in orders]


@pytest.mark.task("a3.7")
def test_every_seed_and_epoch_has_its_order(implementation):
    module = implementation(BATCHING)
    places = [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (10, 1), (1, 10), (0, 11), (2**40, 0)]
    places += [(0, 100), (1, 99), (0, 1000), (0, 10_000), (0, 2**20)]
    large = len(places)
    places += [(2**32, 0), (0, 2**32), (2**53, 0), (2**53 + 1, 0), (2**61 - 1, 0), (2**64, 0)]
    orders = orders_of(module, *places)
    check_true(orders[0] != list(range(24)), "epoch_order(24, 0, 0) is not shuffled")
    likely = {
        (0, 1): "the epoch is ignored: every epoch has the same order",
        (1, 0): "the seed is ignored",
    }
    for one, place in enumerate(places):
        for other in range(one):
            cause = "seed + epoch, or a product, gives two pairs the same number"
            if one >= large:
                cause = (
                    "numbers above 2^32 lose a part: in a type, in Python's hash, or in NumPy's "
                    "SeedSequence([seed, epoch]), which joins the 32-bit words of both numbers"
                )
            if one in (1, 2) and other == 0:
                cause = likely[place]
            check_true(
                orders[one] != orders[other],
                f"(seed, epoch) {places[other]} and {place} have the same order",
                {"likely": Words(cause)},
            )
    check_equal(orders_of(module, *places), orders, "epoch_order, called once more,")


@pytest.mark.task("a3.7")
def test_the_order_is_the_same_in_every_process(implementation, monkeypatch):
    module = implementation(BATCHING)
    orders = orders_of(module, (0, 0), (7, 3))
    monkeypatch.setattr(module, "hash", hash_of_another_process, raising=False)
    monkeypatch.setattr(module, "id", lambda _: 12345, raising=False)
    check_true(
        orders_of(module, (0, 0), (7, 3)) == orders,
        "epoch_order would give another order in another process: Python's hash of a text differs "
        "from process to process, so a resumed run would read other windows",
    )


@pytest.mark.task("a3.7")
def test_every_order_has_the_same_chance(implementation):
    epoch_order = implementation(BATCHING).epoch_order
    counts = {}
    for number in range(1200):
        order = tuple(epoch_order(4, number % 30, number // 30).tolist())
        counts[order] = counts.get(order, 0) + 1
    check_true(
        len(counts) == 24 and min(counts.values()) > 20 and max(counts.values()) < 85,
        "epoch_order: each of the 24 orders of 4 items should come up about 50 times in 1,200 "
        "epochs; use a permutation, not a rotation or single swaps",
        {"different orders": len(counts), "rarest": min(counts.values())},
    )


@pytest.mark.task("a3.7")
def test_every_item_comes_equally_often_at_every_place(implementation):
    """A shuffle that is nearly fair: chi-square of how often each item is at each place."""
    epoch_order, size, epochs = implementation(BATCHING).epoch_order, 10, 3000
    counts = np.zeros((size, size))  # [place, item]
    for epoch in range(epochs):
        counts[np.arange(size), epoch_order(size, 0, epoch)] += 1
    expected = epochs / size
    chi_square = ((counts - expected) ** 2).sum() / expected * (size - 1) / size
    place, item = np.unravel_index(np.abs(counts - expected).argmax(), counts.shape)
    cause = (
        "swap each place with one of those that are left, not with any place: n^n equally likely "
        "runs cannot give n! orders the same chance (generator.permutation does it right)"
    )
    check_true(
        chi_square < 180,  # 81 on average, 13 the standard deviation; a fair one: 1 in 10^9
        f"epoch_order: in {epochs:,} epochs each of {size} items should come about {expected:.0f} "
        "times at each place",
        {
            "got": Words(f"item {item} is {counts[place, item]:.0f} times at place {place}"),
            "chi-square": round(chi_square),
            "likely": Words(cause),
        },
    )


@pytest.mark.task("a3.7")
@pytest.mark.parametrize(("num_items", "batch_size"), [(5, 3), (3, 7), (4, 4), (1, 2)])
def test_batches_run_through_epoch_after_epoch(implementation, num_items, batch_size):
    module = implementation(BATCHING)
    sampler = module.EpochSampler(num_items, batch_size, 9)
    steps = -(-4 * num_items // batch_size)
    got = [sampler.indices_at(step) for step in range(steps)]
    what = f"EpochSampler({num_items}, {batch_size}, 9).indices_at(step)"
    sizes = [len(batch) for batch in got]
    hint = {"a batch continues with the next epoch": lambda got: min(got) < batch_size}
    check_equal(sizes, [batch_size] * steps, f"{what}: items of each batch", hint)
    epochs = [module.epoch_order(num_items, 9, epoch).tolist() for epoch in range(8)]
    expected = [item for epoch in epochs for item in epoch][: steps * batch_size]
    whole = num_items // batch_size * batch_size
    dropped = [item for epoch in epochs for item in epoch[:whole]] if whole else []
    causes = {
        "every epoch has the order of the first": (epochs[0] * 9)[: len(expected)],
        "the last items of an epoch, which fill no batch, are left out": (
            lambda got: bool(dropped) and got[: len(dropped)] == dropped[: len(got)]
        ),
        "epochs are counted from 0: step 0 reads epoch_order(num_items, seed, 0)": (
            lambda got: sorted(got[:num_items]) == list(range(num_items))
        ),
    }
    flat = [item for batch in got for item in batch]
    check_equal(flat, expected, f"{what}: items of steps 0 to {steps - 1}", causes)


@pytest.mark.task("a3.7")
def test_a_resumed_run_reads_on(implementation):
    """A new sampler asked for step 700, and steps in any order, with another sampler between."""
    module = implementation(BATCHING)
    one, other = module.EpochSampler(1000, 3, 1), module.EpochSampler(1000, 3, 2)
    in_order = [one.indices_at(step) for step in range(701)]
    for step in (700, 0, 333, 334, 333):
        other.indices_at(step)
        causes = {
            "the sampler counts its own calls: use `step`": in_order[(step + 1) % 701],
            "a class keeps something that belongs to one object": other.indices_at(step),
        }
        for name, sampler in (("a new", module.EpochSampler(1000, 3, 1)), ("the same", one)):
            got = sampler.indices_at(step)
            check_equal(got, in_order[step], f"{name} EpochSampler at step {step}", causes)
    far = module.EpochSampler(10, 4, 1).indices_at(10**12 + 1)
    order = module.epoch_order(10, 1, (4 * 10**12 + 4) // 10).tolist()
    check_equal(far, order[4:8], "EpochSampler(10, 4, 1).indices_at(10**12 + 1)")


@pytest.mark.task("a3.7")
def test_an_epochs_order_is_computed_once(implementation, monkeypatch):
    module = implementation(BATCHING)
    calls = []
    epoch_order = module.epoch_order
    monkeypatch.setattr(
        module, "epoch_order", lambda *given: calls.append(given) or epoch_order(*given)
    )
    sampler = module.EpochSampler(64, 3, 0)
    for step in range(64):  # three epochs
        sampler.indices_at(step)
    what = "calls of epoch_order in 64 steps, which read 3 epochs"
    check_work(len(calls), 6, what, "self._order(epoch) keeps the last two orders")
