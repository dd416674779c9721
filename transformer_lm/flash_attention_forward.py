"""FlashAttention-2's forward pass as a Triton kernel: the outer loop of
transformer_lm/tiled_attention.py is the grid, the inner loop is the kernel.

One program handles one tile of queries of one head of one sequence and loops over the keys, which
are loaded through the chip's shared memory while scores and sums stay in registers. It visits the
tiles that some query of its tile may see. It applies a mask only in tiles that the diagonal, the
window's edge or the end of the keys crosses.

Exponentials use base two (exp2 is one instruction; exp is exp2 and a product), so scores are also
scaled by log2(e). A head dimension that is not a power of two is padded to one with zeros inside
the kernel, because tl.arange supports no other lengths: 80 costs as much as 128.

What this leaves out: dropout, biases, float8, split keys (few queries with a long cache run on few
programs), and Hopper's tensor descriptors with specialized warps, which could not be tried without
such a GPU.

Dao, 2023, algorithm 1, section 3.1 (which tiles the diagonal leaves) and 3.2 (the grid).
"""

# ruff: noqa: ANN001, ANN201 - Triton's compiler reads these signatures, and infers the types

import os

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def add_product(x, y, sums):
    """Return sums + x y, in float32; "ieee" keeps float32 factors whole, which TF32 would
    truncate.
    """
    if INTERPRETED:
        # Triton 3.9's interpreter multiplies the bits of bfloat16 as if they were whole numbers.
        x, y = x.to(tl.float32), y.to(tl.float32)
    return tl.dot(x, y, sums, input_precision="ieee")


@triton.jit
def product(x, y):
    return add_product(x, y, tl.zeros([x.shape[0], y.shape[1]], tl.float32))


@triton.jit
def load_rows(base, rows, num_rows, stride, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """Load rows of a [seq, head_dim] matrix as [rows, BLOCK_D]; 0 below its end and beyond its
    width.
    """
    columns = tl.arange(0, BLOCK_D)
    inside = rows[:, None] < num_rows
    if HEAD_DIM != BLOCK_D:
        inside = inside & (columns[None, :] < HEAD_DIM)
    return tl.load(base + rows[:, None] * stride + columns[None, :], mask=inside, other=0.0)


@triton.jit
def store_rows(base, rows, num_rows, stride, x, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """Store rows, the inverse of `load_rows`, rounded to the type of the memory."""
    columns = tl.arange(0, BLOCK_D)
    inside = (rows[:, None] < num_rows) & (columns[None, :] < HEAD_DIM)
    address = base + rows[:, None] * stride + columns[None, :]
    tl.store(address, x.to(base.dtype.element_ty), mask=inside)


@triton.jit
def place_of_program(max_rows, cu_seqlens, max_lengths, TILE: tl.constexpr, HEADS: tl.constexpr):
    """Return the program's sequence, head and first row, and the start and number of the sequence's
    queries and of its keys.

    Packed sequences are concatenated, from cu_seqlens[i] to cu_seqlens[i + 1]. Otherwise cu_seqlens
    is None, and all are as long as the longest.
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
    """Return the offset of the [seq, head_dim] matrix of a head in a tensor.

    It has 64 bits, because a batch may have more than 2^31 values, although one such matrix may not
    (the caller checks).
    """
    offset = sequence.to(tl.int64) * strides[0] + head.to(tl.int64) * strides[1]
    return offset + first.to(tl.int64) * strides[2]


@triton.jit
def visible(distance, allowed, IS_CAUSAL: tl.constexpr, WINDOW: tl.constexpr):
    """Return True where a query may look at a key `distance` positions before it."""
    if IS_CAUSAL:
        allowed = allowed & (distance >= 0)
    if WINDOW > 0:
        allowed = allowed & (distance < WINDOW)
    return allowed


@triton.jit
def key_bounds(
    start,
    num_queries,
    num_keys,
    IS_CAUSAL: tl.constexpr,
    WINDOW: tl.constexpr,
    QUERY_TILE: tl.constexpr,
    KEY_TILE: tl.constexpr,
):
    """Return four boundaries in the keys, for the tile of queries at row `start`.

    Between the first and the last are the keys that any of its queries sees, and between the middle
    two the whole tiles of keys that all of them see.
    """
    position = num_keys - num_queries + start  # the last query is at the position of the last key
    first, whole_first, whole_stop, stop = 0, 0, num_keys, num_keys
    if IS_CAUSAL:
        whole_stop = tl.maximum(tl.minimum(position + 1, num_keys), 0)
        stop = tl.maximum(tl.minimum(position + QUERY_TILE, num_keys), 0)
    whole_stop = whole_stop // KEY_TILE * KEY_TILE
    if WINDOW > 0:
        first = tl.maximum(position - WINDOW + 1, 0) // KEY_TILE * KEY_TILE
        # The start of the last query's window, rounded up to the next tile.
        whole_first = tl.maximum(position + QUERY_TILE - WINDOW, 0)
        whole_first = (whole_first + KEY_TILE - 1) // KEY_TILE * KEY_TILE
        whole_stop = tl.maximum(whole_stop, first)
        whole_first = tl.minimum(whole_first, whole_stop)
    return first, whole_first, whole_stop, stop


@triton.jit
def online_softmax(sums, scores, scale, v_tile):
    """Add one tile of keys to the `sums` of a tile of queries: each row's largest score so far, its
    sum of weights, its weighted sum of values.

    `scale` includes the factor log2(e).
    """
    largest, total, weighted = sums
    new_largest = tl.maximum(largest, tl.max(scores, 1) * scale)
    # A row that has seen nothing yet has -inf, and -inf - -inf is not 0.
    shift = tl.where(new_largest == float("-inf"), 0.0, new_largest)
    weights = tl.exp2(scores * scale - shift[:, None])  # one instruction scales and shifts
    rescale = tl.exp2(largest - shift)
    total = total * rescale + tl.sum(weights, 1)
    weighted = add_product(weights.to(v_tile.dtype), v_tile, weighted * rescale[:, None])
    return new_largest, total, weighted


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
    """Write o and lse = ln(sum(exp(scores))). Strides are (sequence, head, row)."""
    sequence, head, start, first_q, num_queries, first_k, num_keys = place_of_program(
        max_lengths[0], cu_seqlens, max_lengths, QUERY_TILE, HEADS
    )
    if start >= num_queries:
        return  # beyond the end of a packed sequence
    q_rows = start + tl.arange(0, QUERY_TILE)
    q_at, k_at, v_at, o_at, lse_at = strides
    q += matrix_of(q_at, sequence, head, first_q)
    k += matrix_of(k_at, sequence, head // GROUP, first_k)
    v += matrix_of(v_at, sequence, head // GROUP, first_k)
    q_tile = load_rows(q, q_rows, num_queries, q_at[2], HEAD_DIM, BLOCK_D)
    largest = tl.full([QUERY_TILE], float("-inf"), tl.float32)
    weighted = tl.zeros([QUERY_TILE, BLOCK_D], tl.float32)
    sums = largest, tl.zeros([QUERY_TILE], tl.float32), weighted
    bounds = key_bounds(start, num_queries, num_keys, IS_CAUSAL, WINDOW, QUERY_TILE, KEY_TILE)
    for part in tl.static_range(3):  # the window's edge, whole tiles, the diagonal or the end
        for key_start in range(bounds[part], bounds[part + 1], KEY_TILE):
            k_rows = key_start + tl.arange(0, KEY_TILE)
            k_tile = load_rows(k, k_rows, num_keys, k_at[2], HEAD_DIM, BLOCK_D)
            scores = product(q_tile, tl.trans(k_tile))
            if part != 1:
                distance = num_keys - num_queries + q_rows[:, None] - k_rows[None, :]
                allowed = visible(distance, k_rows[None, :] < num_keys, IS_CAUSAL, WINDOW)
                scores = tl.where(allowed, scores, float("-inf"))
            v_tile = load_rows(v, k_rows, num_keys, v_at[2], HEAD_DIM, BLOCK_D)
            sums = online_softmax(sums, scores, scale * LOG2_E, v_tile)
    largest, total, weighted = sums
    total = tl.where(largest == float("-inf"), 1.0, total)  # seen nothing: o = 0, lse = -inf
    o += matrix_of(o_at, sequence, head, first_q)
    weighted = weighted / total[:, None]
    store_rows(o, q_rows, num_queries, o_at[2], weighted, HEAD_DIM, BLOCK_D)
    lse += matrix_of(lse_at, sequence, head, first_q)
    tl.store(lse + q_rows, (largest + tl.log2(total)) / LOG2_E, mask=q_rows < num_queries)
