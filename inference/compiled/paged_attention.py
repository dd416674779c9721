"""`inference.paged_attention` for all requests of a step at once, compiled with numba.

One task is one key-value head of one request. It computes the scores of all keys, their softmax,
and the sum of the values. Four rows (queries, or query heads that share the key-value head) use a
key or value once it is loaded. The lesson updates the softmax after each block; here one number for
each key and row is little memory, and the softmax of a whole row takes less time than its updates.

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

from inference.compiled.attention_vectors import add_weighted_rows, dots_of_rows, prefetch_rows
from inference.compiled.cache_rows import (
    numbers_in_row,
    pages_as_numpy,
    read_rows,
    whole_vectors,
)
from inference.compiled.kernel_cache import kernel, parallel_kernel
from inference.compiled.product_kernels import ONE_CALLER
from inference.compiled.product_vectors import store, zeros
from inference.compiled.row_vectors import (
    largest_lane,
    load_row,
    powers_of_e,
    store_row,
    sum_of_lanes,
)
from inference.compiled.step_tables import StepTables
from inference.compiled.vectors import LANES

QUERIES_AT_ONCE = 4  # queries and heads that a loaded key or value serves at the same time


@kernel
def _score_keys(queries, keys, base, step, filled, scores, start):
    """scores[:, start : start + 16] = queries @ the keys, which are rows base + i * step."""
    if len(queries) == 1:
        dots = dots_of_rows(zeros(1), queries, 0, keys, base, step, filled)
        store(dots, scores, 0, start)
        return
    for row in range(0, len(queries), QUERIES_AT_ONCE):
        dots = dots_of_rows(zeros(QUERIES_AT_ONCE), queries, row, keys, base, step, filled)
        store(dots, scores, row, start)


@kernel
def _add_values(weights, start, values, base, step, filled, sums):
    """sums += weights[:, start : start + filled] @ the values, which are rows base + i * step."""
    if len(sums) == 1:
        for column in range(0, sums.shape[1], LANES):
            add_weighted_rows(zeros(1), zeros(1), weights, 0, start, values, base, step, filled,
                              sums, column)  # fmt: skip
        return
    for row in range(0, len(sums), QUERIES_AT_ONCE):
        column = 0
        while column + 4 * LANES <= sums.shape[1]:
            add_weighted_rows(zeros(QUERIES_AT_ONCE), zeros(4), weights, row, start, values, base,
                              step, filled, sums, column)  # fmt: skip
            column += 4 * LANES
        while column < sums.shape[1]:
            add_weighted_rows(zeros(QUERIES_AT_ONCE), zeros(1), weights, row, start, values, base,
                              step, filled, sums, column)  # fmt: skip
            column += LANES


@kernel
def _softmax_row(scores, row, first, stop):
    """scores[row] = exp(scores - the largest) from `first` to `stop`, else 0; return their sum."""
    scores[row, :first] = -np.inf
    scores[row, stop:] = -np.inf
    largest, total = np.float32(-np.inf), np.float32(0)
    for column in range(0, scores.shape[1], LANES):
        largest = max(largest, largest_lane(load_row(scores, row, column)))
    for column in range(0, scores.shape[1], LANES):
        powers = powers_of_e(load_row(scores, row, column), largest)
        store_row(powers, scores, row, column)
        total += sum_of_lanes(powers)
    return total


@kernel
def _attend_head(q, key_rows, value_rows, block_size, kv_heads, table, first_row, num_queries,
                 num_keys, kv_head, group, window, result):  # fmt: skip
    """One key-value head of one request: the queries and heads that read it."""
    head_dim = numbers_in_row(key_rows)
    width = (head_dim + LANES - 1) // LANES * LANES
    queries = _scaled_queries(q, first_row, num_queries, kv_head * group, group, head_dim, width)
    first_query = num_keys - num_queries
    oldest = max(0, first_query - window + 1) // block_size * block_size
    columns = (num_keys - oldest + 2 * LANES - 2) // LANES * LANES  # vectors are stored whole
    scores = np.empty((len(queries), columns), np.float32)
    sums, totals = np.zeros((len(queries), width), np.float32), np.empty(len(queries), np.float32)
    # Vectors are loaded whole; rows from which that cannot be are first brought into a buffer.
    keys, values = whole_vectors(key_rows), whole_vectors(value_rows)
    buffer = np.zeros((0 if keys.shape[1] == width else LANES, width), keys.dtype)
    if len(buffer):
        keys = values = buffer
    runs = _runs(table, oldest, num_keys, block_size, kv_heads, kv_head)
    for i in range(len(runs) - 1):
        row, step = _bring_run(key_rows, runs, i, kv_heads, buffer)
        _score_keys(queries, keys, row, step, runs[i, 2], scores, runs[i, 0])
    for row in range(num_queries * group):
        stop = first_query + row // group + 1
        totals[row] = _softmax_row(scores, row, max(0, stop - window - oldest), stop - oldest)
    for i in range(len(runs) - 1):
        row, step = _bring_run(value_rows, runs, i, kv_heads, buffer)
        _add_values(scores, runs[i, 0], values, row, step, runs[i, 2], sums)
    for row in range(num_queries * group):
        query, member = divmod(row, group)
        place = (kv_head * group + member) * head_dim
        into = result[first_row + query, place : place + head_dim]
        _scale(sums[row, :head_dim], np.float32(1) / totals[row], into)


@kernel
def _runs(table, oldest, num_keys, block_size, kv_heads, kv_head):
    """Return the runs of up to 16 positions in the same block, from `oldest` on: the first one's
    place after `oldest`, its row among all rows of the pages, and how many there are; their rows
    are `kv_heads` apart. A run of none comes last.
    """
    in_block = (block_size + LANES - 1) // LANES
    runs = np.zeros(((num_keys - oldest) // block_size * in_block + in_block + 1, 3), np.int64)
    count, position = 0, oldest
    while position < num_keys:
        block, offset = divmod(position, block_size)
        runs[count, 0] = position - oldest
        runs[count, 1] = (table[block] * block_size + offset) * kv_heads + kv_head
        runs[count, 2] = min(LANES, block_size - offset, num_keys - position)
        position += runs[count, 2]
        count += 1
    return runs[: count + 1]


@kernel
def _bring_run(rows, runs, i, step, buffer):
    """Bring run i into the buffer, if there is one, and ask for run i + 1 in advance. Return the
    first row of the run, in the buffer or among all rows, and the distance to the next.
    """
    row, filled = runs[i, 1], runs[i, 2]
    prefetch_rows(rows, runs[i + 1, 1], step, runs[i + 1, 2])
    if len(buffer) == 0:
        return row, step
    read_rows(rows, row, step, filled, buffer)
    return 0, 1


@kernel
def _scaled_queries(q, first_row, num_queries, first_head, group, head_dim, width):
    """Return the queries of a group of heads / sqrt(head_dim), [queries * group, width], filled up
    with rows of zeros unless there is only one.
    """
    factor = np.float32(1 / math.sqrt(head_dim))
    rows = num_queries * group
    filled_up = (rows + QUERIES_AT_ONCE - 1) // QUERIES_AT_ONCE * QUERIES_AT_ONCE if rows > 1 else 1
    queries = np.zeros((filled_up, width), np.float32)
    for row in range(rows):
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
    # Request after request: the heads of a token lie beside each other in memory.
    for task in numba.prange(kv_heads * num_requests):
        request = task // kv_heads
        _attend_head(q, key_rows, value_rows, block_size, kv_heads, tables.blocks[request],
                     tables.first_rows[request], tables.num_queries[request],
                     tables.num_keys[request], task % kv_heads, num_heads // kv_heads, window,
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
