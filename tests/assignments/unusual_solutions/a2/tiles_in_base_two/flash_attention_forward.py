"""The kernel with one loop, a mask in every tile, and exponentials to base e."""

# ruff: noqa: F821 - the rest of the module, which is the reference's, has the other names

import triton
import triton.language as tl


@triton.jit
def forward_kernel(
    q,
    k,
    v,
    o,
    lse,
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
    sequence, head, start, first_q, num_queries, first_k, num_keys = place_of_program(
        max_lengths[0], cu_seqlens, max_lengths, QUERY_TILE, HEADS
    )
    rows = start + tl.arange(0, QUERY_TILE)
    q_matrix = q + matrix_of(strides[0], sequence, head, first_q)
    k_matrix = k + matrix_of(strides[1], sequence, head // GROUP, first_k)
    v_matrix = v + matrix_of(strides[2], sequence, head // GROUP, first_k)
    o_matrix = o + matrix_of(strides[3], sequence, head, first_q)
    lse_rows = lse + matrix_of(strides[4], sequence, head, first_q) + rows
    q_tile = load_rows(q_matrix, rows, num_queries, strides[0][2], HEAD_DIM, BLOCK_D)
    largest = tl.full([QUERY_TILE], float("-inf"), tl.float32)
    total = tl.zeros([QUERY_TILE], tl.float32)
    weighted = tl.zeros([QUERY_TILE, BLOCK_D], tl.float32)
    for key_start in range(0, num_keys, KEY_TILE):
        columns = key_start + tl.arange(0, KEY_TILE)
        k_tile = load_rows(k_matrix, columns, num_keys, strides[1][2], HEAD_DIM, BLOCK_D)
        v_tile = load_rows(v_matrix, columns, num_keys, strides[2][2], HEAD_DIM, BLOCK_D)
        scores = product(q_tile, tl.trans(k_tile)) * scale
        distance = num_keys - num_queries + rows[:, None] - columns[None, :]
        allowed = columns[None, :] < num_keys
        if IS_CAUSAL:
            allowed = allowed & (distance >= 0)
        if WINDOW > 0:
            allowed = allowed & (distance < WINDOW)
        scores = tl.where(allowed, scores, float("-inf"))
        new = tl.maximum(largest, tl.max(scores, 1))
        level = tl.where(new == float("-inf"), 0.0, new)
        weights = tl.exp(scores - level[:, None])
        rescale = tl.exp(largest - level)
        total = total * rescale + tl.sum(weights, 1)
        weighted = add_product(weights.to(v_tile.dtype), v_tile, weighted * rescale[:, None])
        largest = new
    total = tl.where(largest == float("-inf"), 1.0, total)
    store_rows(
        o_matrix, rows, num_queries, strides[3][2], weighted / total[:, None], HEAD_DIM, BLOCK_D
    )
    tl.store(lse_rows, largest + tl.log(total), mask=rows < num_queries)
