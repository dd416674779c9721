"""Attention over a block table in float64, with each rule as an argument: the checks of a6.12 also
compute what a mistake in one rule would give.

The blocks are gathered into one matrix here, because nothing is simpler.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def gathered(pool: Tensor, blocks: Sequence[int], num_keys: int) -> Tensor:
    """Return [num_keys, kv_heads, head_dim] in float64."""
    size = pool.shape[1]
    rows = [pool[blocks[place // size], place % size] for place in range(num_keys)]
    return torch.stack(rows).double()


def attention_in_float64(
    q: Tensor,
    key_blocks: Tensor,
    value_blocks: Tensor,
    blocks: Sequence[int],
    num_keys: int,
    sliding_window: int | None = None,
    *,
    scale: float | None = None,
    seen_beyond: int = 0,
    first_position: int | None = None,
    head_of: Callable[[int], int] | None = None,
) -> Tensor:
    """Return [queries, heads, head_dim] in float64.

    Args:
        scale: of the scores; 1 / sqrt(head_dim) by default.
        seen_beyond: positions after its own that a query sees.
        first_position: of the first query; by default the queries are the last positions.
        head_of: the key-value head of a query head.
    """
    num_queries, num_heads, head_dim = q.shape
    group = num_heads // key_blocks.shape[2]
    head_of = head_of or (lambda head: head // group)
    k = gathered(key_blocks, blocks, num_keys)
    v = gathered(value_blocks, blocks, num_keys)
    scale = head_dim**-0.5 if scale is None else scale
    first_position = num_keys - num_queries if first_position is None else first_position
    result = torch.zeros(q.shape, dtype=torch.float64)
    for query in range(num_queries):
        position = first_position + query
        first = 0 if sliding_window is None else max(0, position - sliding_window + 1)
        seen = slice(first, min(num_keys, position + 1 + seen_beyond))
        for head in range(num_heads):
            scores = k[seen, head_of(head)] @ q[query, head].double() * scale
            result[query, head] = torch.softmax(scores, 0) @ v[seen, head_of(head)]
    return result


def pool_with(
    rows: Tensor, blocks: Sequence[int], num_blocks: int, block_size: int, fill: float = math.nan
) -> Tensor:
    """Return blocks [num_blocks, block_size, kv_heads, head_dim] that hold `rows` at the positions
    of the table, and `fill` everywhere else.
    """
    pool = torch.full((num_blocks, block_size, *rows.shape[1:]), fill, dtype=rows.dtype)
    for position, row in enumerate(rows):
        pool[blocks[position // block_size], position % block_size] = row
    return pool
