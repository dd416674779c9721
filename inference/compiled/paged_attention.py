"""`inference.paged_attention` for all requests of a step at once, compiled with numba.

One task is one key-value head of one request. It goes through the request's blocks, brings each
into float32 in a small buffer, and lets every query of the request that reads this head use it: so
a key is read from memory once for its group of query heads and for all queries of a chunk. Scores
that the mask would hide are not computed, because each query's visible keys are a range.

Blocks may be float32 or bfloat16. NumPy has no bfloat16, so such blocks come as uint16: the upper
half of a float32.

What this leaves out: one long text spread over more threads than it has key-value heads, and
products of whole tiles, with which PyTorch reads a long prompt faster.
"""

import math

import numba
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from inference.compiled.step_tables import StepTables
from inference.compiled.weight_kernels import FAST, ONE_CALLER


@numba.njit(nogil=True, cache=True)
def _load(pages, block, filled, head, is_bfloat16, bits, rows):
    """Bring one head of one block into `rows` [block_size, head_dim]; `bits` is its memory."""
    for place in range(filled):
        if is_bfloat16:
            for i in range(rows.shape[1]):
                bits[place, i] = np.uint32(pages[block, place, head, i]) << np.uint32(16)
        else:
            for i in range(rows.shape[1]):
                rows[place, i] = pages[block, place, head, i]


@numba.njit(nogil=True, cache=True, fastmath=FAST)
def _scores(query, keys, first, stop, scale, scores):
    """Write the scores of keys[first:stop], and return the largest; four keys at a time, so that
    the query is loaded once for them.
    """
    largest = np.float32(-np.inf)
    place = first
    while place + 4 <= stop:
        a = b = c = d = np.float32(0)
        for i in range(len(query)):
            a += query[i] * keys[place, i]
            b += query[i] * keys[place + 1, i]
            c += query[i] * keys[place + 2, i]
            d += query[i] * keys[place + 3, i]
        scores[place], scores[place + 1] = a * scale, b * scale
        scores[place + 2], scores[place + 3] = c * scale, d * scale
        place += 4
    while place < stop:
        a = np.float32(0)
        for i in range(len(query)):
            a += query[i] * keys[place, i]
        scores[place] = a * scale
        place += 1
    for place in range(first, stop):
        largest = max(largest, scores[place])
    return largest


@numba.njit(nogil=True, cache=True, fastmath=FAST)
def _exponentials(scores, largest, first, stop, powers, bits):
    """Replace scores[first:stop] by exp(score - largest), and return their sum.

    exp(x) = 2^k 2^f with k a whole number and |f| <= 1/2: 2^k is k in the exponent's bits of a
    float32, and 2^f a polynomial (its Taylor series, with coefficients of the least error; below
    1e-6). The loop of `math.exp` would call a function for each score, and took 8 times as long.
    `bits` is the memory of `powers`.
    """
    for place in range(first, stop):
        x = max((scores[place] - largest) * np.float32(1.4426950408889634), np.float32(-126))
        k = np.floor(x + np.float32(0.5))
        f = x - k
        y = np.float32(1.535336188319500e-4)
        y = y * f + np.float32(1.339887440266574e-3)
        y = y * f + np.float32(9.618437357674640e-3)
        y = y * f + np.float32(5.550332471162809e-2)
        y = y * f + np.float32(2.402264791363012e-1)
        y = y * f + np.float32(6.931472028550421e-1)
        scores[place] = y * f + np.float32(1)
        bits[place] = np.uint32(np.int32(k) + 127) << np.uint32(23)
    total = np.float32(0)
    for place in range(first, stop):
        scores[place] *= powers[place]
        total += scores[place]
    return total


@numba.njit(nogil=True, cache=True, fastmath=FAST)
def _add_values(weights, values, first, stop, rescale, result):
    """result = result * rescale + weights[first:stop] @ values[first:stop]."""
    for i in range(len(result)):
        result[i] *= rescale
    place = first
    while place + 4 <= stop:
        a, b, c, d = weights[place], weights[place + 1], weights[place + 2], weights[place + 3]
        for i in range(len(result)):
            result[i] += (
                a * values[place, i]
                + b * values[place + 1, i]
                + c * values[place + 2, i]
                + d * values[place + 3, i]
            )
        place += 4
    while place < stop:
        for i in range(len(result)):
            result[i] += weights[place] * values[place, i]
        place += 1


@numba.njit(nogil=True, cache=True)
def _attend_head(q, key_pages, value_pages, is_bfloat16, table, first_row, num_queries, num_keys,
                 kv_head, window, scale, result):  # fmt: skip
    """One key-value head of one request: the queries and heads that read it."""
    block_size, head_dim = key_pages.shape[1], key_pages.shape[3]
    group = q.shape[1] // key_pages.shape[2]
    bits = np.empty((2, block_size, head_dim), np.uint32)
    rows = bits.view(np.float32)
    scores = np.empty(block_size, np.float32)
    power_bits = np.empty(block_size, np.uint32)
    powers = power_bits.view(np.float32)
    largest = np.full((num_queries, group), -np.inf, np.float32)
    total = np.zeros((num_queries, group), np.float32)
    first_query = num_keys - num_queries
    oldest = max(0, first_query - window + 1)
    for start in range(oldest // block_size * block_size, num_keys, block_size):
        block, filled = table[start // block_size], min(block_size, num_keys - start)
        _load(key_pages, block, filled, kv_head, is_bfloat16, bits[0], rows[0])
        _load(value_pages, block, filled, kv_head, is_bfloat16, bits[1], rows[1])
        for query in range(num_queries):
            position = first_query + query
            first = max(0, position - window + 1 - start)  # the keys of the block that it sees
            stop = min(filled, position + 1 - start)
            if first >= stop:
                continue
            for member in range(group):
                head = kv_head * group + member
                vector = q[first_row + query, head]
                best = _scores(vector, rows[0], first, stop, scale, scores)
                best = max(best, largest[query, member])
                rescale = np.float32(math.exp(largest[query, member] - best))
                weight = _exponentials(scores, best, first, stop, powers, power_bits)
                largest[query, member] = best
                total[query, member] = total[query, member] * rescale + weight
                _add_values(scores, rows[1], first, stop, rescale, result[first_row + query, head])
    for query in range(num_queries):
        for member in range(group):
            head = kv_head * group + member
            for i in range(head_dim):
                result[first_row + query, head, i] /= total[query, member]


@numba.njit(parallel=True, nogil=True, cache=True)
def _attend(q, key_pages, value_pages, is_bfloat16, tables, first_rows, num_queries, num_keys,
            window, scale, result):  # fmt: skip
    num_requests = len(num_keys)
    # Head after head, so that each thread gets all requests: they differ in length.
    for task in numba.prange(key_pages.shape[2] * num_requests):
        request = task % num_requests
        _attend_head(q, key_pages, value_pages, is_bfloat16, tables[request], first_rows[request],
                     num_queries[request], num_keys[request], task // num_requests, window, scale,
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
        key_blocks, value_blocks: one layer of the pool, contiguous, float32 or bfloat16; the keys
            and values of the new tokens are already in it.
        tables: of the step.
        sliding_window: see `paged_attention`.
    """
    is_bfloat16 = key_blocks.dtype == torch.bfloat16
    assert is_bfloat16 or key_blocks.dtype == torch.float32, f"no kernel for {key_blocks.dtype}"
    assert q.shape[0] == tables.num_rows, f"{q.shape[0]} rows, {tables.num_rows} in the tables"
    result = np.zeros(tuple(q.shape), np.float32)
    window = sliding_window or np.iinfo(np.int32).max
    arguments = (
        q.detach().float().contiguous().numpy(),
        _as_numpy(key_blocks),
        _as_numpy(value_blocks),
        is_bfloat16,
        tables.blocks,
        tables.first_rows,
        tables.num_queries,
        tables.num_keys,
        window,
        np.float32(1 / math.sqrt(q.shape[2])),
        result,
    )
    with ONE_CALLER:
        _attend(*arguments)
    return torch.from_numpy(result).to(q.dtype)


def _as_numpy(blocks: Tensor) -> np.ndarray:
    """Return the same memory as an array; bfloat16 as uint16."""
    assert blocks.is_contiguous(), "the blocks of a layer are contiguous"
    blocks = blocks.detach()
    if blocks.dtype == torch.bfloat16:
        return blocks.view(torch.int16).numpy().view(np.uint16)
    return blocks.numpy()
