"""FlashAttention-2's backward pass as three Triton kernels.

`tiled_attention_backward` adds to dq in memory as the tiles of keys go by. On a GPU those additions
would come from many programs at once, in no fixed order. So there are two kernels here, one that
holds a tile of dk and dv and walks along the queries, and one that holds a tile of dq and walks
along the keys. Both compute the weights again: seven products of tiles where five would do, and in
return nothing is added up in memory and two equal runs give equal bits. A first kernel computes
delta = rowsum(do * o), which stands for the softmax's sum over the row. A program for dk and dv
serves the whole group of query heads that read its key head, so their sum is made in registers.

What this leaves out: as the forward kernel, and gradients for lse.

Dao, 2023, algorithm 2; delta: Dao et al., 2022 (FlashAttention), appendix B.2.
"""

import triton
import triton.language as tl

from transformer_lm.flash_attention_forward import (
    add_product,
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
    """delta = rowsum(grad * o), in float32."""
    sequence, head, start, first_q, num_queries, _, _ = place_of_program(
        max_lengths[0], cu_seqlens, max_lengths, QUERY_TILE, HEADS
    )
    if start >= num_queries:
        return
    rows = start + tl.arange(0, QUERY_TILE)
    o += matrix_of(strides[0], sequence, head, first_q)
    grad += matrix_of(strides[1], sequence, head, first_q)
    delta += matrix_of(strides[2], sequence, head, first_q)
    o_tile = load_rows(o, rows, num_queries, strides[0][2], HEAD_DIM, BLOCK_D)
    grad_tile = load_rows(grad, rows, num_queries, strides[1][2], HEAD_DIM, BLOCK_D)
    sums = tl.sum(o_tile.to(tl.float32) * grad_tile.to(tl.float32), 1)
    tl.store(delta + rows, sums, mask=rows < num_queries)


@triton.jit
def _weights(
    q_tile,
    k_tile,
    lse_tile,
    rows,
    columns,
    num_queries,
    num_keys,
    scale,
    IS_CAUSAL: tl.constexpr,
    WINDOW: tl.constexpr,
):
    """exp(scores - lse), [queries, keys], float32; 0 where a query may not look."""
    inside = (rows[:, None] < num_queries) & (columns[None, :] < num_keys)
    distance = num_keys - num_queries + rows[:, None] - columns[None, :]
    allowed = visible(distance, inside, IS_CAUSAL, WINDOW)
    finite = tl.where(lse_tile == float("-inf"), 0.0, lse_tile)
    scores = product(q_tile, tl.trans(k_tile)) * scale - finite[:, None]
    return tl.exp(tl.where(allowed, scores, float("-inf")))


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
    """A tile of dk and dv: the sums over all rows and query heads that read these keys."""
    sequence, key_head, start, first_q, num_queries, first_k, num_keys = place_of_program(
        max_lengths[1], cu_seqlens, max_lengths, KEY_TILE, KV_HEADS
    )
    if start >= num_keys:
        return
    columns = start + tl.arange(0, KEY_TILE)
    behind = num_keys - num_queries
    k += matrix_of(strides[1], sequence, key_head, first_k)
    v += matrix_of(strides[2], sequence, key_head, first_k)
    dk += matrix_of(strides[5], sequence, key_head, first_k)
    dv += matrix_of(strides[6], sequence, key_head, first_k)
    k_tile = load_rows(k, columns, num_keys, strides[1][2], HEAD_DIM, BLOCK_D)
    v_tile = load_rows(v, columns, num_keys, strides[2][2], HEAD_DIM, BLOCK_D)
    dk_sums = tl.zeros([KEY_TILE, BLOCK_D], tl.float32)
    dv_sums = tl.zeros([KEY_TILE, BLOCK_D], tl.float32)

    begin, end = num_queries * 0, num_queries
    if IS_CAUSAL:
        begin = tl.maximum(begin, start - behind)
    if WINDOW > 0:
        end = tl.minimum(num_queries, start - behind + KEY_TILE + WINDOW - 1)
    for member in range(GROUP):
        head = key_head * GROUP + member
        q_head = q + matrix_of(strides[0], sequence, head, first_q)
        grad_head = grad + matrix_of(strides[3], sequence, head, first_q)
        row_numbers = matrix_of(strides[4], sequence, head, first_q)
        for first in range(begin, end, QUERY_TILE):
            rows = first + tl.arange(0, QUERY_TILE)
            q_tile = load_rows(q_head, rows, num_queries, strides[0][2], HEAD_DIM, BLOCK_D)
            grad_tile = load_rows(grad_head, rows, num_queries, strides[3][2], HEAD_DIM, BLOCK_D)
            lse_tile = tl.load(lse + row_numbers + rows, rows < num_queries, other=0.0)
            delta_tile = tl.load(delta + row_numbers + rows, rows < num_queries, other=0.0)
            weights = _weights(
                q_tile,
                k_tile,
                lse_tile,
                rows,
                columns,
                num_queries,
                num_keys,
                scale,
                IS_CAUSAL,
                WINDOW,
            )
            dv_sums = add_product(tl.trans(weights.to(grad_tile.dtype)), grad_tile, dv_sums)
            d_weights = product(grad_tile, tl.trans(v_tile))
            d_scores = weights * (d_weights - delta_tile[:, None])
            dk_sums = add_product(tl.trans(d_scores.to(q_tile.dtype)), q_tile, dk_sums)

    store_rows(dk, columns, num_keys, strides[5][2], dk_sums * scale, HEAD_DIM, BLOCK_D)
    store_rows(dv, columns, num_keys, strides[6][2], dv_sums, HEAD_DIM, BLOCK_D)


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
    """A tile of dq, by the same walk along the keys as the forward kernel's."""
    sequence, head, start, first_q, num_queries, first_k, num_keys = place_of_program(
        max_lengths[0], cu_seqlens, max_lengths, QUERY_TILE, HEADS
    )
    if start >= num_queries:
        return
    rows = start + tl.arange(0, QUERY_TILE)
    behind = num_keys - num_queries
    q += matrix_of(strides[0], sequence, head, first_q)
    k += matrix_of(strides[1], sequence, head // GROUP, first_k)
    v += matrix_of(strides[2], sequence, head // GROUP, first_k)
    grad += matrix_of(strides[3], sequence, head, first_q)
    row_numbers = matrix_of(strides[4], sequence, head, first_q)
    dq += matrix_of(strides[5], sequence, head, first_q)
    q_tile = load_rows(q, rows, num_queries, strides[0][2], HEAD_DIM, BLOCK_D)
    grad_tile = load_rows(grad, rows, num_queries, strides[3][2], HEAD_DIM, BLOCK_D)
    lse_tile = tl.load(lse + row_numbers + rows, rows < num_queries, other=0.0)
    delta_tile = tl.load(delta + row_numbers + rows, rows < num_queries, other=0.0)
    sums = tl.zeros([QUERY_TILE, BLOCK_D], tl.float32)

    begin, end = num_keys * 0, num_keys
    if IS_CAUSAL:
        end = tl.minimum(num_keys, behind + start + QUERY_TILE)
    if WINDOW > 0:
        begin = tl.maximum(begin, behind + start - WINDOW + 1)
    for first in range(begin, end, KEY_TILE):
        columns = first + tl.arange(0, KEY_TILE)
        k_tile = load_rows(k, columns, num_keys, strides[1][2], HEAD_DIM, BLOCK_D)
        v_tile = load_rows(v, columns, num_keys, strides[2][2], HEAD_DIM, BLOCK_D)
        weights = _weights(
            q_tile,
            k_tile,
            lse_tile,
            rows,
            columns,
            num_queries,
            num_keys,
            scale,
            IS_CAUSAL,
            WINDOW,
        )
        d_scores = weights * (product(grad_tile, tl.trans(v_tile)) - delta_tile[:, None])
        sums = add_product(d_scores.to(k_tile.dtype), k_tile, sums)

    store_rows(dq, rows, num_queries, strides[5][2], sums * scale, HEAD_DIM, BLOCK_D)
