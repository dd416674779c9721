"""FlashAttention-2's backward pass as three Triton kernels.

`tiled_attention_backward` adds to dq in memory for each tile of keys. On a GPU those additions
would come from many programs at once, in no fixed order. So there are two kernels here: one holds a
tile of dk and dv and loops over the queries, and one holds a tile of dq and loops over the keys.
Both recompute the weights. That takes seven products of tiles instead of five, but nothing is
summed in memory, and two equal runs give identical bits. A first kernel computes delta = rowsum(do
* o), which replaces the softmax's sum over the row. A program for dk and dv handles the whole group
of query heads that read its key head, so their sum is computed in registers.

What this leaves out: the same as the forward kernel, and gradients for lse.

Dao, 2023, algorithm 2; delta: Dao et al., 2022 (FlashAttention), appendix B.2.
"""

# ruff: noqa: ANN001, ANN201 - Triton's compiler reads these signatures, and infers the types

import triton
import triton.language as tl

from transformer_lm.flash_attention_forward import (
    LOG2_E,
    add_product,
    key_bounds,
    load_rows,
    matrix_of,
    place_of_program,
    product,
    store_rows,
    visible,
)


@triton.jit
def delta_kernel(
    o,
    grad,
    delta,
    strides,
    cu_seqlens,
    max_lengths,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    QUERY_TILE: tl.constexpr,
):
    """Compute delta = rowsum(grad * o), in float32."""
    sequence, head, start, first, num_queries, _, _ = place_of_program(
        max_lengths[0], cu_seqlens, max_lengths, QUERY_TILE, HEADS
    )
    o_at, grad_at, delta_at = strides
    rows = start + tl.arange(0, QUERY_TILE)
    o += matrix_of(o_at, sequence, head, first)
    grad += matrix_of(grad_at, sequence, head, first)
    o_tile = load_rows(o, rows, num_queries, o_at[2], HEAD_DIM, BLOCK_D)
    grad_tile = load_rows(grad, rows, num_queries, grad_at[2], HEAD_DIM, BLOCK_D)
    row_sums = tl.sum(o_tile.to(tl.float32) * grad_tile.to(tl.float32), 1)
    delta += matrix_of(delta_at, sequence, head, first)
    tl.store(delta + rows, row_sums, mask=rows < num_queries)


@triton.jit
def query_bounds(
    start,
    num_queries,
    num_keys,
    IS_CAUSAL: tl.constexpr,
    WINDOW: tl.constexpr,
    QUERY_TILE: tl.constexpr,
    KEY_TILE: tl.constexpr,
):
    """Return four boundaries in the queries for the tile of keys at row `start`, as `key_bounds`
    does for keys.

    Rows beyond the end of the queries are loaded as 0, and add nothing.
    """
    row = start - (num_keys - num_queries)  # the query at the position of the tile's first key
    first, whole_first, whole_stop, stop = 0, 0, num_queries, num_queries
    if IS_CAUSAL:
        first = tl.minimum(tl.maximum(row, 0), num_queries) // QUERY_TILE * QUERY_TILE
        whole_first = tl.cdiv(tl.maximum(row + KEY_TILE - 1, 0), QUERY_TILE) * QUERY_TILE
        whole_first = tl.minimum(whole_first, num_queries)
    if WINDOW > 0:
        # The last query that sees the tile's first key, then the last that sees any key of the
        # tile.
        whole_stop = tl.minimum(tl.maximum(row + WINDOW, 0), num_queries)
        whole_stop = tl.maximum(whole_stop // QUERY_TILE * QUERY_TILE, first)
        whole_first = tl.minimum(whole_first, whole_stop)
        stop = tl.minimum(tl.maximum(row + KEY_TILE - 1 + WINDOW, 0), num_queries)
    return first, whole_first, whole_stop, stop


@triton.jit
def weights_again(scores, lse):
    """Return exp(scores - lse), for scores that include the factor log2(e).

    A row that sees nothing has lse = -inf and scores of -inf, and its weights are 0.
    """
    return tl.exp2(scores - tl.where(lse == float("-inf"), 0.0, lse * LOG2_E))


@triton.jit
def add_key_gradients(sums, weights, q_tile, grad_tile, v_tile, delta):
    """Add a tile of queries to dk (without the scale) and dv; weights are [keys, queries]."""
    dk, dv = sums
    dv = add_product(weights.to(grad_tile.dtype), grad_tile, dv)
    d_weights = product(v_tile, tl.trans(grad_tile))
    d_scores = (weights * (d_weights - delta[None, :])).to(q_tile.dtype)
    return add_product(d_scores, q_tile, dk), dv


@triton.jit
def key_gradient_kernel(
    q,
    k,
    v,
    grad,
    lse,
    delta,
    dk,
    dv,
    strides,
    cu_seqlens,
    max_lengths,
    length_class,
    scale,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    IS_CAUSAL: tl.constexpr,
    WINDOW: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    QUERY_TILE: tl.constexpr,
    KEY_TILE: tl.constexpr,
):
    """Compute a tile of dk and dv; tables are [keys, queries], so no weights are transposed."""
    sequence, head, start, first_q, num_queries, first_k, num_keys = place_of_program(
        max_lengths[1], cu_seqlens, max_lengths, KEY_TILE, KV_HEADS
    )
    if start >= num_keys:
        return
    q_at, k_at, v_at, grad_at, row_at, dk_at, dv_at = strides
    k_rows = start + tl.arange(0, KEY_TILE)
    k += matrix_of(k_at, sequence, head, first_k)
    v += matrix_of(v_at, sequence, head, first_k)
    k_tile = load_rows(k, k_rows, num_keys, k_at[2], HEAD_DIM, BLOCK_D)
    v_tile = load_rows(v, k_rows, num_keys, v_at[2], HEAD_DIM, BLOCK_D)
    sums = tl.zeros([KEY_TILE, BLOCK_D], tl.float32), tl.zeros([KEY_TILE, BLOCK_D], tl.float32)
    bounds = query_bounds(start, num_queries, num_keys, IS_CAUSAL, WINDOW, QUERY_TILE, KEY_TILE)
    for member in range(GROUP):
        q_head = head * GROUP + member
        q_head_rows = q + matrix_of(q_at, sequence, q_head, first_q)
        grad_rows = grad + matrix_of(grad_at, sequence, q_head, first_q)
        row_numbers = matrix_of(row_at, sequence, q_head, first_q)
        for part in tl.static_range(3):  # the diagonal, whole tiles, the window's edge
            for query_start in range(bounds[part], bounds[part + 1], QUERY_TILE):
                rows = query_start + tl.arange(0, QUERY_TILE)
                q_tile = load_rows(q_head_rows, rows, num_queries, q_at[2], HEAD_DIM, BLOCK_D)
                grad_tile = load_rows(grad_rows, rows, num_queries, grad_at[2], HEAD_DIM, BLOCK_D)
                lse_tile = tl.load(lse + row_numbers + rows, rows < num_queries, other=0.0)
                delta_tile = tl.load(delta + row_numbers + rows, rows < num_queries, other=0.0)
                scores = product(k_tile, tl.trans(q_tile)) * (scale * LOG2_E)
                if part != 1:
                    distance = num_keys - num_queries + rows[None, :] - k_rows[:, None]
                    allowed = visible(distance, k_rows[:, None] < num_keys, IS_CAUSAL, WINDOW)
                    scores = tl.where(allowed, scores, float("-inf"))
                weights = weights_again(scores, lse_tile[None, :])
                sums = add_key_gradients(sums, weights, q_tile, grad_tile, v_tile, delta_tile)
    dk += matrix_of(dk_at, sequence, head, first_k)
    store_rows(dk, k_rows, num_keys, dk_at[2], sums[0] * scale, HEAD_DIM, BLOCK_D)
    dv += matrix_of(dv_at, sequence, head, first_k)
    store_rows(dv, k_rows, num_keys, dv_at[2], sums[1], HEAD_DIM, BLOCK_D)


@triton.jit
def query_gradient_kernel(
    q,
    k,
    v,
    grad,
    lse,
    delta,
    dq,
    strides,
    cu_seqlens,
    max_lengths,
    length_class,
    scale,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    IS_CAUSAL: tl.constexpr,
    WINDOW: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    QUERY_TILE: tl.constexpr,
    KEY_TILE: tl.constexpr,
):
    """Compute a tile of dq, by the same loop over the keys as in the forward kernel."""
    sequence, head, start, first_q, num_queries, first_k, num_keys = place_of_program(
        max_lengths[0], cu_seqlens, max_lengths, QUERY_TILE, HEADS
    )
    if start >= num_queries:
        return
    q_at, k_at, v_at, grad_at, row_at, dq_at = strides
    rows = start + tl.arange(0, QUERY_TILE)
    q += matrix_of(q_at, sequence, head, first_q)
    k += matrix_of(k_at, sequence, head // GROUP, first_k)
    v += matrix_of(v_at, sequence, head // GROUP, first_k)
    grad += matrix_of(grad_at, sequence, head, first_q)
    q_tile = load_rows(q, rows, num_queries, q_at[2], HEAD_DIM, BLOCK_D)
    grad_tile = load_rows(grad, rows, num_queries, grad_at[2], HEAD_DIM, BLOCK_D)
    row_numbers = matrix_of(row_at, sequence, head, first_q) + rows
    lse_tile = tl.load(lse + row_numbers, rows < num_queries, other=0.0)
    delta_tile = tl.load(delta + row_numbers, rows < num_queries, other=0.0)
    dq_tile = tl.zeros([QUERY_TILE, BLOCK_D], tl.float32)
    bounds = key_bounds(start, num_queries, num_keys, IS_CAUSAL, WINDOW, QUERY_TILE, KEY_TILE)
    for part in tl.static_range(3):  # the window's edge, whole tiles, the diagonal or the end
        for key_start in range(bounds[part], bounds[part + 1], KEY_TILE):
            k_rows = key_start + tl.arange(0, KEY_TILE)
            k_tile = load_rows(k, k_rows, num_keys, k_at[2], HEAD_DIM, BLOCK_D)
            v_tile = load_rows(v, k_rows, num_keys, v_at[2], HEAD_DIM, BLOCK_D)
            scores = product(q_tile, tl.trans(k_tile)) * (scale * LOG2_E)
            if part != 1:
                distance = num_keys - num_queries + rows[:, None] - k_rows[None, :]
                allowed = visible(distance, k_rows[None, :] < num_keys, IS_CAUSAL, WINDOW)
                scores = tl.where(allowed, scores, float("-inf"))
            weights = weights_again(scores, lse_tile[:, None])
            d_weights = product(grad_tile, tl.trans(v_tile))
            d_scores = (weights * (d_weights - delta_tile[:, None])).to(k_tile.dtype)
            dq_tile = add_product(d_scores, k_tile, dq_tile)
    dq += matrix_of(dq_at, sequence, head, first_q)
    store_rows(dq, rows, num_queries, dq_at[2], dq_tile * scale, HEAD_DIM, BLOCK_D)
