"""`inference.paged_attention` for all requests of a step at once, compiled with numba.

One task is one key-value head of one request. It goes through the request's blocks, brings each
into float32 in a small buffer, and lets every query of the request that reads this head use it: so
a key is read from memory once for its group of query heads and for all queries of a chunk. Scores
that the mask would hide are not computed, because each query's visible keys are a range.

Blocks may be float32, bfloat16 or int8 (cache_rows.py). Keys and values in int8 are brought into
float32 16 rows at a time, and all queries of a group then use them.

What this leaves out: one long text spread over more threads than it has key-value heads, and
products of whole tiles, with which PyTorch reads a long prompt faster.
"""

import math

import numba
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from inference.compiled.cache_rows import (
    numbers_in_row,
    pages_as_numpy,
    read_rows,
    whole_vectors,
)
from inference.compiled.kernel_cache import kernel, parallel_kernel
from inference.compiled.product_kernels import ONE_CALLER
from inference.compiled.product_vectors import (
    zeros,
)
from inference.compiled.row_vectors import (
    add_row,
    dots_of_rows,
    largest_lane,
    load_columns,
    load_row,
    powers_of_e,
    scale_all,
    store_columns,
    store_row,
    sum_of_lanes,
)
from inference.compiled.step_tables import StepTables
from inference.compiled.vectors import (
    LANES,
)

LARGEST, TOTAL, FACTOR = 0, 1, 2  # columns of the state of online softmax


@kernel
def _weigh(found, scores, row, state):
    """Write exp(score - largest so far) of 16 scores to scores[row], and bring state[row] up to
    date: the largest score, the sum of the powers, and the factor of what was added before.
    """
    largest = state[row, LARGEST]
    new = max(largest, largest_lane(found))
    powers = powers_of_e(found, new)
    store_row(powers, scores, row, 0)
    factor = np.float32(math.exp(largest - new))
    state[row, LARGEST], state[row, FACTOR] = new, factor
    state[row, TOTAL] = state[row, TOTAL] * factor + sum_of_lanes(powers)


@kernel
def _add_values(weights, values, base, step, first, stop, factor, sums, row, column, like):
    """Add weights[row, first:stop] @ the values of these places to sums[row] * factor, for as many
    vectors of columns as the bundle `like` has.
    """
    total = scale_all(load_columns(like, sums, row, column), factor)
    for place in range(first, stop):
        total = add_row(total, weights[row, place], values, base + place * step, column)
    store_columns(total, sums, row, column)


@kernel
def _attend_keys(queries, keys, values, base, step, group, first_position, start, filled, window,
                 scores, state, sums):  # fmt: skip
    """Add up to 16 keys to the sums of all queries: key p is row base + p * step of `keys` and
    `values`, and at position start + p.
    """
    for query in range(len(queries) // group):
        position = first_position + query
        first = max(0, position - window + 1 - start)  # the keys that the query sees
        stop = min(filled, position + 1 - start)
        if first >= stop:
            continue
        for own in range(query * group, (query + 1) * group):
            found = dots_of_rows(queries, own, keys, base, step, stop)
            if first > 0:
                store_row(found, scores, own, 0)
                scores[own, :first] = -np.inf
                found = load_row(scores, own, 0)
            _weigh(found, scores, own, state)
            column, factor = 0, state[own, FACTOR]
            while column + 4 * LANES <= sums.shape[1]:
                _add_values(scores, values, base, step, first, stop, factor, sums, own, column,
                            zeros(4))  # fmt: skip
                column += 4 * LANES
            while column < sums.shape[1]:
                _add_values(scores, values, base, step, first, stop, factor, sums, own, column,
                            zeros(1))  # fmt: skip
                column += LANES


@kernel
def _attend_head(q, key_rows, value_rows, block_size, kv_heads, table, first_row, num_queries,
                 num_keys, kv_head, group, window, result):  # fmt: skip
    """One key-value head of one request: the queries and heads that read it."""
    head_dim = numbers_in_row(key_rows)
    width = (head_dim + LANES - 1) // LANES * LANES
    num_rows = num_queries * group
    queries = _scaled_queries(q, first_row, num_queries, kv_head * group, group, head_dim, width)
    scores = np.empty((num_rows, LANES), np.float32)
    state = np.zeros((num_rows, 3), np.float32)
    state[:, LARGEST] = -np.inf
    sums = np.zeros((num_rows, width), np.float32)
    # Vectors are loaded whole; rows from which that cannot be are first brought into a buffer.
    keys, values = whole_vectors(key_rows), whole_vectors(value_rows)
    is_direct = keys.shape[1] == width
    buffer = np.zeros((2, 0 if is_direct else LANES, width), keys.dtype)
    first_query = num_keys - num_queries
    oldest = max(0, first_query - window + 1)
    for start in range(oldest // block_size * block_size, num_keys, block_size):
        block = table[start // block_size] * block_size
        for inside in range(0, min(block_size, num_keys - start), LANES):
            base = (block + inside) * kv_heads + kv_head
            filled = min(LANES, block_size - inside, num_keys - start - inside)
            if is_direct:
                _attend_keys(queries, keys, values, base, kv_heads, group, first_query,
                             start + inside, filled, window, scores, state, sums)  # fmt: skip
                continue
            read_rows(key_rows, base, kv_heads, filled, buffer[0])
            read_rows(value_rows, base, kv_heads, filled, buffer[1])
            _attend_keys(queries, buffer[0], buffer[1], 0, 1, group, first_query, start + inside,
                         filled, window, scores, state, sums)  # fmt: skip
    for row in range(num_rows):
        query, member = divmod(row, group)
        place = (kv_head * group + member) * head_dim
        into = result[first_row + query, place : place + head_dim]
        _scale(sums[row, :head_dim], np.float32(1) / state[row, TOTAL], into)


@kernel
def _scaled_queries(q, first_row, num_queries, first_head, group, head_dim, width):
    """Return the queries of a group of heads / sqrt(head_dim), [queries * group, width]."""
    factor = np.float32(1 / math.sqrt(head_dim))
    queries = np.zeros((num_queries * group, width), np.float32)
    for row in range(len(queries)):
        query, member = divmod(row, group)
        place = (first_head + member) * head_dim
        own = q[first_row + query, place : place + head_dim]
        _scale(own, factor, queries[row, :head_dim])
    return queries


@kernel
def _scale(numbers, factor, out):
    for i in range(len(numbers)):
        out[i] = numbers[i] * factor


@parallel_kernel
def attend(q, num_heads, key_pages, value_pages, tables, window, result):
    """Write the attention of all requests of the tables to `result`.

    q and result are [tokens, at least num_heads * head_dim], the pages of one layer [blocks,
    block_size, kv_heads, head_dim], with a scale behind each row of int8.
    """
    num_requests = len(tables.num_keys)
    _, block_size, kv_heads, size = key_pages.shape
    key_rows, value_rows = key_pages.reshape(-1, size), value_pages.reshape(-1, size)
    # Head after head, so that each thread gets all requests: they differ in length.
    for task in numba.prange(kv_heads * num_requests):
        request = task % num_requests
        _attend_head(q, key_rows, value_rows, block_size, kv_heads, tables.blocks[request],
                     tables.first_rows[request], tables.num_queries[request],
                     tables.num_keys[request], task // num_requests, num_heads // kv_heads, window,
                     result)  # fmt: skip


def attend_step(
    q: Float[Tensor, "tokens heads head_dim"],
    key_blocks: Float[Tensor, "blocks block_size kv_heads head_dim"],
    value_blocks: Float[Tensor, "blocks block_size kv_heads head_dim"],
    tables: StepTables,
    sliding_window: int | None = None,
) -> Float[Tensor, "tokens heads head_dim"]:
    """Return `paged_attention` of every request of a step, in the type of q.

    Args:
        q: the new tokens of all requests, in the order of the tables, on the CPU.
        key_blocks, value_blocks: one layer of the pool, contiguous, in float32, bfloat16, or int8
            of `quantize_rows`; the keys and values of the new tokens are already in it.
        tables: of the step.
        sliding_window: see `paged_attention`.
    """
    known = (torch.float32, torch.bfloat16, torch.int8)
    assert key_blocks.dtype in known, f"no kernel for {key_blocks.dtype}"
    assert q.shape[0] == tables.num_rows, f"{q.shape[0]} rows, {tables.num_rows} in the tables"
    result = np.empty((len(q), q.shape[1] * q.shape[2]), np.float32)
    rows = q.detach().float().flatten(1).contiguous().numpy()
    pages = pages_as_numpy(key_blocks), pages_as_numpy(value_blocks)
    with ONE_CALLER:
        attend(rows, q.shape[1], *pages, tables, window_size(sliding_window), result)
    return torch.from_numpy(result).view(q.shape).to(q.dtype)


def window_size(sliding_window: int | None) -> int:
    """Return the keys that a query sees at most, as a number in any case."""
    return sliding_window or np.iinfo(np.int32).max
