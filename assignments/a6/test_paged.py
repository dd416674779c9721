"""a6.12: keys and values in blocks, and attention that reads them where they are."""

import math

import pytest
import torch
from paged_oracle import attention_in_float64, pool_with

pytestmark = pytest.mark.task("a6.12")
MODULE = "inference.paged_attention"


def cache_of(module, layers=2, blocks=4, size=3, heads=2, dim=2, dtype=torch.float32):
    """A cache whose numbers say where they are, keys positive and values negative."""
    made = module.PagedKVCache(layers, blocks, size, heads, dim, dtype)
    numbers = torch.arange(made.keys.numel(), dtype=torch.float32).reshape(made.keys.shape) + 1
    made.keys.copy_(numbers)
    made.values.copy_(-numbers)
    return made


# Places


def test_places_across_a_border(implementation, a6):
    places_of = implementation(MODULE).places_of
    got = places_of([5, 0, 9], 4, 2, 7)
    causes = {
        "these are the positions: look each one up in the block table": list(range(2, 9)),
        "a block's first place is its number times the block size": [7, 8, 0, 1, 2, 3, 9],
        "after a border, the next block of the table follows": list(range(22, 29)),
        "`first` is a position, not a number of blocks": lambda got: got[0] in (36, 38),
        "the request's first position is 0, but here the first one asked for is 2": (
            [20, 21, 22, 23, 0, 1, 2]
        ),
    }
    a6.true(
        isinstance(got, torch.Tensor) and got.dtype == torch.int64,
        "places_of: expected a tensor of int64",
        {"got": got},
    )
    what = "the places of positions 2 to 8 in the blocks 5, 0, 9 of 4"
    a6.expect(got.tolist(), [22, 23, 0, 1, 2, 3, 36], what, causes)


def test_places_at_the_edges(implementation, a6):
    for blocks, size, first, count, expected in (
        ([7, 2], 1, 0, 2, [7, 2]),
        ([3], 4, 3, 1, [15]),
        ([3, 1], 4, 4, 4, [4, 5, 6, 7]),
        ([3, 1], 4, 8, 0, []),
        ([], 4, 0, 0, []),
        ([2, 2], 2, 1, 2, [5, 4]),
    ):
        got = implementation(MODULE).places_of(blocks, size, first, count)
        what = f"places_of({blocks}, {size}, {first}, {count})"
        a6.expect(list(got.shape), [count], f"the shape of {what}")
        a6.true(got.dtype == torch.int64, f"{what}: expected int64, got {got.dtype}")
        a6.expect(got.tolist(), expected, what)


# Writing and copying


def test_write_changes_these_places_of_one_layer(implementation, a6):
    module = implementation(MODULE)
    made = cache_of(module)
    before = made.keys.clone(), made.values.clone()
    places = torch.tensor([5, 6, 0])  # the end of block 1, the beginnings of blocks 2 and 0
    keys, values = a6.random(3, 2, 2, seed=1), a6.random(3, 2, 2, seed=2)
    made.write(1, places, keys, values)
    for name, rows, others in (("keys", keys, values), ("values", values, keys)):
        got, old = getattr(made, name), before[name == "values"]
        expected = old.clone()
        expected[1].flatten(0, 1)[places] = rows
        exchanged, first_layer, all_layers = old.clone(), old.clone(), expected.clone()
        exchanged[1].flatten(0, 1)[places] = others
        first_layer[0].flatten(0, 1)[places] = rows
        all_layers[0] = expected[1]
        all_layers[0].flatten(0, 1)[places] = rows
        causes = {
            "nothing was written: `flatten` and `reshape` of a tensor whose values do not lie in "
            "a row copy it, and indexing with a tensor copies, too": old,
            "keys and values are exchanged": exchanged,
            "it was written to layer 0; `layer` is 1": first_layer,
            "only `layer` may change": lambda got, old=old: bool((got[0] != old[0]).any()),
            "place p is in block p // block_size, at p % block_size": (
                lambda got, old=old: int((got[1] != old[1]).any(-1).any(-1).sum()) != 3
            ),
        }
        a6.tensor(got, expected, f"the {name} after write(1, [5, 6, 0], ...)", causes, rtol=0)


def test_write_keeps_the_tensors_and_rounds(implementation, a6):
    module = implementation(MODULE)
    made = module.PagedKVCache(1, 2, 2, 1, 4, torch.bfloat16)
    keys, values = made.keys, made.values
    rows = a6.random(2, 1, 4, seed=3)
    made.write(0, torch.tensor([3, 0]), rows, rows + 1)
    a6.true(
        made.keys is keys and made.values is values,
        "write replaced the attribute keys or values by another tensor: write into the one that "
        "was allocated",
    )
    got = made.keys[0].flatten(0, 1)[[3, 0]]
    what = "the keys of a bfloat16 cache"
    a6.tensor(got, rows.bfloat16(), what, dtype=torch.bfloat16, rtol=0, atol=0)
    got = made.values[0].flatten(0, 1)[[3, 0]]
    what = "the values of a bfloat16 cache"
    a6.tensor(got, (rows + 1).bfloat16(), what, dtype=torch.bfloat16, rtol=0, atol=0)


def test_nothing_to_write_or_copy(implementation, a6):
    made = cache_of(implementation(MODULE))
    expected = made.keys.clone()
    made.write(0, torch.zeros(0, dtype=torch.int64), torch.zeros(0, 2, 2), torch.zeros(0, 2, 2))
    made.copy_blocks([])
    a6.tensor(made.keys, expected, "the keys after a write of no tokens", rtol=0)


@pytest.mark.parametrize(
    ("pairs", "sources"),
    [
        ([(3, 1)], [0, 3, 2, 3]),
        ([(0, 2), (2, 1)], [0, 0, 0, 3]),  # the second copies what the first wrote
        ([(0, 2), (3, 2)], [0, 1, 3, 3]),
        ([(1, 0), (2, 1)], [1, 2, 2, 3]),
        ([(2, 2)], [0, 1, 2, 3]),
    ],
)
def test_copy_blocks(implementation, a6, pairs, sources):
    for name in ("keys", "values"):
        made = cache_of(implementation(MODULE), layers=3)
        old = getattr(made, name).clone()
        made.copy_blocks(pairs)
        swapped = old.clone()
        for source, target in pairs:
            swapped[:, source] = swapped[:, target]
        together = old.clone()
        for source, target in pairs:
            together[:, target] = old[:, source]
        expected = old[:, sources]
        other_layers = expected.clone()
        other_layers[1:] = old[1:]
        got = getattr(made, name)
        causes = {
            f"the {name} were not copied": old,
            "a pair is (source, target), not the other way round": swapped,
            "only layer 0 was copied; a block has its place in every layer": other_layers,
            "a later pair copies what an earlier one wrote: one pair after the other": together,
        }
        a6.tensor(got, expected, f"the {name} after copy_blocks({pairs})", causes, rtol=0)


# Attention


def problem(a6, queries, keys, heads, kv_heads, dim, blocks, size, seed=0, dtype=torch.float32):
    """Random q, and pools with NaN everywhere but at the places of the request's tokens."""
    q = a6.random(queries, heads, dim, seed=seed, dtype=dtype)
    k = a6.random(keys, kv_heads, dim, seed=seed + 1, dtype=dtype)
    v = a6.random(keys, kv_heads, dim, seed=seed + 2, dtype=dtype)
    pools = [pool_with(rows, blocks, max(blocks) + 2, size) for rows in (k, v)]
    return q, *pools, blocks, keys


def causes_of(arguments, window=None):
    """The result of each mistake in the rules; computed only if the result is wrong."""
    q, key_blocks, _, blocks, num_keys = arguments
    dim, kv_heads = q.shape[2], key_blocks.shape[2]

    def like(window=window, blocks=blocks, **rules):
        wrong = (*arguments[:3], blocks, num_keys, window)
        return lambda got: torch.allclose(
            got.double(), attention_in_float64(*wrong, **rules), rtol=1e-3, atol=1e-4
        )

    causes = {
        "divide the scores by sqrt(head_dim)": like(scale=1.0),
        "divide by the square root of head_dim, not by head_dim": like(scale=1 / dim),
        "query head h reads key-value head h // (heads / kv_heads), not h % kv_heads": like(
            head_of=lambda head: head % kv_heads
        ),
        "every query sees all keys: it may see its own position and those before it": like(
            seen_beyond=num_keys
        ),
        "a query also sees the position after its own": like(seen_beyond=1),
        "a query must see its own position": like(seen_beyond=-1),
        "the queries are the last positions, not the first": like(first_position=0),
        "the blocks are read in order of their numbers; their order in the table counts": like(
            blocks=sorted(blocks)
        ),
        "the blocks 0, 1, 2, ... are read in place of those in the table": like(
            blocks=range(len(blocks))
        ),
        "NaN: places behind the request's last token, or blocks of others, were read. In the last "
        "block, only num_keys - start places are filled; a weight of 0 times NaN is NaN": (
            lambda got: bool(got.isnan().any())
        ),
    }
    if window is not None:
        for wrong in (window - 1, window + 1):
            causes[f"with sliding_window = {window}, each query sees {wrong} positions"] = like(
                window=wrong
            )
        causes["the sliding window is ignored"] = like(window=None)
    return causes


def check_attention(implementation, a6, arguments, what, window=None, **tolerance):
    got = implementation(MODULE).paged_attention(*arguments, window)
    expected = attention_in_float64(*arguments, window)
    causes = causes_of(arguments, window)
    a6.tensor(got, expected, what, causes, dtype=arguments[0].dtype, **tolerance)


def test_the_example_of_the_handout(implementation, a6):
    keys = torch.tensor([0.0, math.log(2), math.log(5)]).reshape(3, 1, 1)
    values = torch.tensor([8.0, 16.0, 24.0]).reshape(3, 1, 1)
    pools = [pool_with(rows, [2, 0], 3, 2) for rows in (keys, values)]
    got = implementation(MODULE).paged_attention(torch.ones(1, 1, 1), *pools, [2, 0], 3)
    causes = {
        "the sums so far were not rescaled when the largest score grew: multiply both by "
        "exp(old largest - new largest)": torch.tensor(17.6).reshape(1, 1, 1),
        "only the sum of weights was rescaled": torch.tensor(27.5).reshape(1, 1, 1),
        "only the weighted sum of values was rescaled": torch.tensor(12.8).reshape(1, 1, 1),
        "this is the mean of the two blocks' own softmaxes": torch.tensor(56 / 3).reshape(1, 1, 1),
        "this is the sum of the two blocks' own softmaxes": torch.tensor(112 / 3).reshape(1, 1, 1),
        "NaN: the place behind the last token was read": lambda got: bool(got.isnan().any()),
    }
    expected = torch.full((1, 1, 1), 20.0)
    a6.tensor(got, expected, "the example of the handout", causes, rtol=1e-5)


def test_one_new_token(implementation, a6):
    """On both sides of each border of the blocks 6, 1, 4 of 4 places."""
    for keys in (1, 2, 3, 4, 5, 8, 9):
        arguments = problem(a6, 1, keys, 2, 1, 4, [6, 1, 4], 4)
        what = f"one query of 2 heads over {keys} keys in the blocks 6, 1, 4 of 4 places"
        check_attention(implementation, a6, arguments, what)


def test_a_chunk_of_a_prompt(implementation, a6):
    for queries, keys in ((3, 3), (3, 4), (4, 9), (2, 8), (5, 8)):
        arguments = problem(a6, queries, keys, 2, 2, 4, [2, 5, 0], 4, seed=10)
        what = f"the last {queries} of {keys} positions, blocks of 4 places"
        check_attention(implementation, a6, arguments, what)


def test_heads_that_share_keys(implementation, a6):
    for heads, kv_heads in ((4, 2), (6, 2), (3, 1)):
        arguments = problem(a6, 2, 7, heads, kv_heads, 4, [1, 3], 4, seed=20)
        what = f"{heads} query heads that read {kv_heads} key-value heads"
        check_attention(implementation, a6, arguments, what)


@pytest.mark.parametrize("queries", [1, 4])
def test_a_sliding_window(implementation, a6, queries):
    for window in (1, 2, 3, 8, 40):
        arguments = problem(a6, queries, 11, 2, 1, 4, [4, 2, 7, 0], 3, seed=30)
        what = f"{queries} queries over 11 keys with sliding_window = {window}"
        check_attention(implementation, a6, arguments, what, window)


def test_blocks_before_the_window_are_not_read(implementation, a6):
    """They may have been handed to another request."""
    paged_attention = implementation(MODULE).paged_attention
    for queries, window, first in ((1, 3, 8), (2, 4, 4), (1, 1, 8), (3, 2, 8)):
        arguments = problem(a6, queries, 12, 2, 1, 4, [3, 0, 2], 4)
        _, key_blocks, value_blocks, blocks, _ = arguments
        expected = attention_in_float64(*arguments, window)
        for block in blocks[: first // 4]:
            key_blocks[block] = value_blocks[block] = math.nan
        got = paged_attention(*arguments, window)
        causes = {
            f"NaN: the first block that a query sees is that of position {first}; those before it "
            "belong to nobody any more, and were read": lambda got: bool(got.isnan().any()),
        }
        what = f"{queries} queries over 12 keys, window {window}, with NaN in the blocks before it"
        a6.tensor(got, expected, what, causes)


def test_places_before_the_window_have_no_effect(implementation, a6):
    """They may lie in the first block that a query sees."""
    for queries, keys, window, first in ((1, 6, 4, 2), (2, 7, 3, 3), (1, 12, 2, 10)):
        arguments = problem(a6, queries, keys, 2, 1, 4, [3, 0, 2], 4)
        _, key_blocks, value_blocks, blocks, _ = arguments
        expected = attention_in_float64(*arguments, window)
        for place in range(first):
            for pool in (key_blocks, value_blocks):
                pool[blocks[place // 4], place % 4] = math.nan
        got = implementation(MODULE).paged_attention(*arguments, window)
        causes = {
            f"NaN: the first position that a query sees is {first}; those before it were read. "
            "Begin the first block at that position: a weight of 0 times NaN is NaN": (
                lambda got: bool(got.isnan().any())
            ),
        }
        what = (
            f"queries: {queries}, keys: {keys}, window {window}, blocks of 4, with NaN at the "
            f"positions before {first}"
        )
        a6.tensor(got, expected, what, causes)


def test_a_block_that_occurs_twice(implementation, a6):
    q, keys, values = (a6.random(*shape, seed=40 + n) for n, shape in
                       enumerate([(1, 2, 4), (3, 4, 1, 4), (3, 4, 1, 4)]))  # fmt: skip
    arguments = q, keys, values, [2, 0, 2], 11
    check_attention(implementation, a6, arguments, "a block table with the blocks 2, 0, 2")


@pytest.mark.parametrize(
    ("q_size", "k_size"),
    [(300.0, 300.0), (300.0, -300.0)],
    ids=["large", "far-below-0"],
)
def test_large_scores(implementation, a6, q_size, k_size):
    """All scores around q_size * k_size * 2: exp of them is infinity, or 0."""
    arguments = problem(a6, 3, 7, 2, 1, 4, [1, 2], 4, seed=50)
    q, key_blocks, value_blocks, blocks, keys = arguments
    q = q / 100 + q_size
    key_blocks = key_blocks / (k_size * 10) + k_size
    arguments = q, key_blocks, value_blocks, blocks, keys
    got = implementation(MODULE).paged_attention(*arguments)
    causes = {
        "subtract the largest score before exp, or it is infinity": lambda got: (
            bool(got.isnan().any()) and k_size > 0
        ),
        "the largest score so far starts at minus infinity: from 0, every weight of a score far "
        "below 0 is 0, and so is their sum": lambda got: (
            bool((got.isnan() | (got == 0)).any()) and k_size < 0
        ),
    }
    expected = attention_in_float64(*arguments)
    what = f"scores around {2 * q_size * k_size:.0e}"
    a6.tensor(got, expected, what, causes, rtol=0.3, atol=0.3)


def test_a_first_block_that_one_query_does_not_see(implementation, a6):
    """With a window, the last queries of a chunk see nothing of the first block."""
    arguments = problem(a6, 6, 8, 2, 1, 4, [1, 2, 0, 4], 2, seed=60)
    what = "6 queries over 8 keys with a window of 2: the last ones see none of the first blocks"
    check_attention(implementation, a6, arguments, what, 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_types_of_the_pool_and_of_the_sums(implementation, a6, dtype):
    """300 keys in a pool of 16 bits, and queries in float32: only the sums can lose digits."""
    blocks = list(range(19, 0, -1))
    arguments = problem(a6, 1, 300, 2, 1, 8, blocks, 16, seed=70)
    q, key_blocks, value_blocks, *others = arguments
    arguments = q, key_blocks.to(dtype), value_blocks.to(dtype), *others
    got = implementation(MODULE).paged_attention(*arguments)
    expected = attention_in_float64(*arguments)
    in_half = attention_in_float64(q.to(dtype), *arguments[1:])
    causes = {
        f"the queries were rounded to {dtype}: convert the blocks to the type of the sums "
        "instead": in_half,
        f"scores, weights or sums have the type {dtype}: convert each block to float32 first": (
            lambda got: got.dtype == torch.float32
        ),
    }
    what = f"queries of float32 over a pool of {dtype}"
    a6.tensor(got, expected, what, causes, rtol=1e-4, atol=1e-5)


def test_float64_of_the_blocks_or_of_q_alone(implementation, a6):
    """The difference of the two scores is lost if either is rounded to float32."""
    values = torch.tensor([0.0, 1.0])
    for q, keys, expected, what in (
        ([1.0], [[1e8], [1e8 + 1]], 0.7310586, "q = 1 in float32, float64 keys 1e8 and 1e8 + 1"),
        ([1 + 1e-9, -1.0], [[0.0, 0.0], [1e9, 1e9]], 0.6697615,
         "q = (1 + 1e-9, -1) in float64, float32 keys (0, 0) and (1e9, 1e9)"),
    ):  # fmt: skip
        dim = len(q)
        of_q, of_blocks = torch.float32, torch.float64
        if dim == 2:
            of_q, of_blocks = of_blocks, of_q
        got = implementation(MODULE).paged_attention(
            torch.tensor(q, dtype=of_q).reshape(1, 1, dim),
            torch.tensor(keys, dtype=of_blocks).reshape(1, 2, 1, dim),
            values.to(of_blocks).reshape(1, 2, 1, 1).expand(1, 2, 1, dim),
            [0],
            2,
        )
        causes = {
            "the scores were computed in float32, where they are equal: the sums are in float64 if "
            "q or the blocks are": lambda got: torch.allclose(
                got.double(), torch.full_like(got.double(), 0.5), atol=1e-3
            ),
        }
        right = torch.full((1, 1, dim), expected)
        a6.tensor(got, right, f"{what}, values 0 and 1", causes, dtype=of_q, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_type_of_the_result(implementation, a6, dtype):
    arguments = problem(a6, 2, 40, 2, 1, 4, [5, 3, 1], 16, seed=80, dtype=dtype)
    got = implementation(MODULE).paged_attention(*arguments)
    within = {torch.bfloat16: 5e-3, torch.float16: 6e-4, torch.float64: 1e-9}[dtype]
    causes = {
        f"the sums are in {dtype}: keep them in float32, and round the result once": (
            lambda got: got.dtype == dtype and dtype != torch.float64
        ),
        "for queries and blocks of float64, compute in float64": (
            lambda got: dtype == torch.float64
        ),
    }
    expected = attention_in_float64(*arguments)
    what = f"queries and pool of {dtype}"
    a6.tensor(got, expected, what, causes, dtype=dtype, rtol=within, atol=within / 10)


MOST_BYTES_PER_KEY = 64


@pytest.mark.parametrize("queries", [1, 4])
def test_the_blocks_are_not_copied(implementation, a6, queries):
    """The memory grows with the keys by less than a copy of them, or all their scores."""
    paged_attention = implementation(MODULE).paged_attention
    peaks = []
    for keys in (64, 1024):
        blocks = list(range(keys // 64 - 1, -1, -1))
        q = a6.random(queries, 8, 16, seed=90)
        key_blocks = a6.random(16, 64, 4, 16, seed=91)
        value_blocks = a6.random(16, 64, 4, 16, seed=92)
        if not peaks:
            with a6.watched("paged_attention"):
                paged_attention(q, key_blocks, value_blocks, blocks, keys)
        with a6.watched("paged_attention", largest_outside=200_000) as counter:
            counter.ignore(q, key_blocks, value_blocks)
            paged_attention(q, key_blocks, value_blocks, blocks, keys)
        peaks.append(counter.peak_bytes)
    more, allowed = peaks[1] - peaks[0], MOST_BYTES_PER_KEY * (1024 - 64)
    a6.true(
        more <= allowed,
        f"paged_attention takes {more:,} bytes more for 1,024 keys than for 64, of which "
        f"{allowed:,} are allowed: read one block after the other, keep neither a copy of the "
        "blocks nor the scores of all keys, and convert a block, not the whole pool",
    )
    least = key_blocks.numel() * 4
    a6.true(
        peaks[0] < least,
        f"paged_attention takes {peaks[0]:,} bytes for 64 keys: the pool, which has {least:,}, was "
        "copied or converted",
    )


def test_no_queries(implementation, a6):
    arguments = problem(a6, 0, 5, 2, 1, 4, [1, 2], 4)
    got = implementation(MODULE).paged_attention(*arguments)
    a6.expect(list(got.shape), [0, 2, 4], "the shape of the result for no queries")
