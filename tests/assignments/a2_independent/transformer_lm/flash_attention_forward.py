"""FlashAttention-2's forward pass as a Triton kernel: the outer loop of
transformer_lm/tiled_attention.py is the grid, the inner loop is the kernel.

One program takes one tile of queries of one head of one sequence and walks along the keys, which
pass through the chip's shared memory while scores and sums stay in registers. It visits the tiles
that some query of its tile may see.

A head dimension that is no power of two is padded to one with zeros
inside the kernel, as tl.arange knows no other lengths: 80 costs as much as 128. What this leaves
out: dropout, biases, float8, split keys (few queries with a long cache run on few programs), and
Hopper's tensor descriptors with specialized warps, which could not be tried without such a GPU.

Dao, 2023, algorithm 1, section 3.1 (which tiles the diagonal leaves) and 3.2 (the grid).
"""

import os

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit
def add_product(x, y, sums):
    """sums + x y, in float32; "ieee" keeps float32 factors whole where TF32 would cut them off."""
    if INTERPRETED:
        # Triton 3.9's interpreter multiplies the bits of bfloat16 as if they were whole numbers.
        x, y = x.to(tl.float32), y.to(tl.float32)
    return tl.dot(x, y, sums, input_precision="ieee")


@triton.jit
def product(x, y):
    return add_product(x, y, tl.zeros([x.shape[0], y.shape[1]], tl.float32))


@triton.jit
def load_rows(base, rows, num_rows, stride, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """Rows of a [seq, head_dim] matrix, [rows, BLOCK_D]; 0 below its end and beyond its width."""
    columns = tl.arange(0, BLOCK_D)
    inside = rows[:, None] < num_rows
    if HEAD_DIM != BLOCK_D:
        inside = inside & (columns[None, :] < HEAD_DIM)
    return tl.load(base + rows[:, None] * stride + columns[None, :], mask=inside, other=0.0)


@triton.jit
def store_rows(base, rows, num_rows, stride, x, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """The inverse of `load_rows`, rounded to the type that lies there."""
    columns = tl.arange(0, BLOCK_D)
    inside = (rows[:, None] < num_rows) & (columns[None, :] < HEAD_DIM)
    address = base + rows[:, None] * stride + columns[None, :]
    tl.store(address, x.to(base.dtype.element_ty), mask=inside)


@triton.jit
def place_of_program(max_rows, cu_seqlens, max_lengths, TILE: tl.constexpr, HEADS: tl.constexpr):
    """The program's sequence, head and first row; and of the sequence's queries and of its keys
    where they start and how many they are.

    Packed sequences lie one after the other, from cu_seqlens[i] to cu_seqlens[i + 1]; otherwise
    cu_seqlens is None, and all are as long as the longest.
    """
    tiles = tl.cdiv(max_rows, TILE)
    sequence, head = tl.program_id(0) // tiles // HEADS, tl.program_id(0) // tiles % HEADS
    start = tl.program_id(0) % tiles * TILE
    first_q, first_k = sequence * 0, sequence * 0
    num_queries, num_keys = max_lengths
    if cu_seqlens is not None:
        cu_seqlens_q, cu_seqlens_k = cu_seqlens
        first_q = tl.load(cu_seqlens_q + sequence)
        num_queries = tl.load(cu_seqlens_q + sequence + 1) - first_q
        first_k = tl.load(cu_seqlens_k + sequence)
        num_keys = tl.load(cu_seqlens_k + sequence + 1) - first_k
    return sequence, head, start, first_q, num_queries, first_k, num_keys


@triton.jit
def matrix_of(strides, sequence, head, first):
    """How far into a tensor the [seq, head_dim] matrix of a head starts. In 64 bits: a batch may be
    larger than 2^31 values, though one such matrix may not (the caller checks).
    """
    offset = sequence.to(tl.int64) * strides[0] + head.to(tl.int64) * strides[1]
    return offset + first.to(tl.int64) * strides[2]


@triton.jit
def visible(distance, allowed, IS_CAUSAL: tl.constexpr, WINDOW: tl.constexpr):
    """True where a query may look at a key that lies `distance` positions before it."""
    if IS_CAUSAL:
        allowed = allowed & (distance >= 0)
    if WINDOW > 0:
        allowed = allowed & (distance < WINDOW)
    return allowed


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
    """Writes o and lse = ln(sum(exp(scores))). Strides are (sequence, head, row)."""
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
    o += matrix_of(strides[3], sequence, head, first_q)
    lse += matrix_of(strides[4], sequence, head, first_q)

    q_tile = load_rows(q, rows, num_queries, strides[0][2], HEAD_DIM, BLOCK_D)
    largest = tl.full([QUERY_TILE], float("-inf"), tl.float32)
    sums = tl.zeros([QUERY_TILE], tl.float32)
    total = tl.zeros([QUERY_TILE, BLOCK_D], tl.float32)

    begin, end = num_keys * 0, num_keys
    if IS_CAUSAL:
        end = tl.minimum(num_keys, behind + start + QUERY_TILE)
    if WINDOW > 0:
        begin = tl.maximum(begin, behind + start - WINDOW + 1)
    for first in range(begin, end, KEY_TILE):
        columns = first + tl.arange(0, KEY_TILE)
        k_tile = load_rows(k, columns, num_keys, strides[1][2], HEAD_DIM, BLOCK_D)
        scores = product(q_tile, tl.trans(k_tile)) * scale
        inside = (rows[:, None] < num_queries) & (columns[None, :] < num_keys)
        allowed = visible(behind + rows[:, None] - columns[None, :], inside, IS_CAUSAL, WINDOW)
        scores = tl.where(allowed, scores, float("-inf"))

        new_largest = tl.maximum(largest, tl.max(scores, 1))
        finite = tl.where(new_largest == float("-inf"), 0.0, new_largest)
        weights = tl.exp(scores - finite[:, None])
        shrink = tl.exp(largest - finite)
        sums = sums * shrink + tl.sum(weights, 1)
        v_tile = load_rows(v, columns, num_keys, strides[2][2], HEAD_DIM, BLOCK_D)
        total = add_product(weights.to(v_tile.dtype), v_tile, total * shrink[:, None])
        largest = new_largest

    is_empty = sums == 0.0
    divisor = tl.where(is_empty, 1.0, sums)
    store_rows(o, rows, num_queries, strides[3][2], total / divisor[:, None], HEAD_DIM, BLOCK_D)
    log_sum = tl.where(is_empty, float("-inf"), largest + tl.log(divisor))
    tl.store(lse + rows, log_sum, mask=rows < num_queries)
