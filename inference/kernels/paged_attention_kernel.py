"""`inference.paged_attention` as a Triton kernel, for all requests of a step at once.

One program handles one key-value head of one request, and a tile of rows. A row is a query and one
of the query heads that read this key-value head, so a key is loaded once for the whole group. The
block table turns each position into a place of the pool. The sums of the online softmax are those
of transformer_lm/flash_attention_forward.py.

What this leaves out: the keys of one long text spread over several programs (with few requests,
most of a large GPU has nothing to do), and blocks in 8 bits.

Kwon et al., 2023, section 5.1 (attention kernels that read the block table); Dao, 2023,
algorithm 1.
"""

# ruff: noqa: ANN001, ANN201 - Triton's compiler reads these signatures, and infers the types

import triton
import triton.language as tl

from transformer_lm.flash_attention_forward import LOG2_E, online_softmax, product, visible


@triton.jit
def places_of(positions, exists, table, BLOCK_SIZE: tl.constexpr):
    """Return the places of a request's positions, with 64 bits: a pool may be large."""
    block = tl.load(table + positions // BLOCK_SIZE, mask=exists, other=0)
    return block.to(tl.int64) * BLOCK_SIZE + positions % BLOCK_SIZE


@triton.jit
def load_places(
    pages, places, exists, stride, kv_head, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr
):
    """Load one head of these places as [places, BLOCK_D]; 0 for those that do not exist."""
    columns = tl.arange(0, BLOCK_D)
    at = (places * stride + kv_head * HEAD_DIM)[:, None] + columns[None, :]
    inside = exists[:, None] & (columns < HEAD_DIM)[None, :]
    return tl.load(pages + at, mask=inside, other=0.0)


@triton.jit
def paged_attention_kernel(
    q,
    keys,
    values,
    result,
    tables,
    first_rows,
    num_queries,
    num_keys,
    most_blocks,
    place_stride,
    scale,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    WINDOW: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ROW_TILE: tl.constexpr,
    KEY_TILE: tl.constexpr,
):
    """Write `result`. q and result are contiguous [tokens, heads, head_dim]; keys and values are
    contiguous [blocks, block_size, kv_heads, head_dim]; WINDOW 0 hides nothing.
    """
    request, kv_head, tile = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    queries, keys_of_request = tl.load(num_queries + request), tl.load(num_keys + request)
    start, num_rows = tile * ROW_TILE, queries * GROUP
    if start >= num_rows:
        return  # another request has more queries
    rows = start + tl.arange(0, ROW_TILE)
    columns = tl.arange(0, BLOCK_D)
    query, head = rows // GROUP, kv_head * GROUP + rows % GROUP
    token = (tl.load(first_rows + request) + query).to(tl.int64)
    q_at = (token * (KV_HEADS * GROUP) + head)[:, None] * HEAD_DIM + columns[None, :]
    q_inside = (rows < num_rows)[:, None] & (columns < HEAD_DIM)[None, :]
    q_tile = tl.load(q + q_at, mask=q_inside, other=0.0)
    first_position = keys_of_request - queries
    last_row = tl.minimum(start + ROW_TILE, num_rows) - 1
    stop = first_position + last_row // GROUP + 1
    first = 0
    if WINDOW > 0:
        first = tl.maximum(first_position + start // GROUP - WINDOW + 1, 0)
    table = tables + request.to(tl.int64) * most_blocks
    largest = tl.full([ROW_TILE], float("-inf"), tl.float32)
    total, weighted = tl.zeros([ROW_TILE], tl.float32), tl.zeros([ROW_TILE, BLOCK_D], tl.float32)
    sums = largest, total, weighted
    for key_start in range(first, stop, KEY_TILE):
        positions = key_start + tl.arange(0, KEY_TILE)
        exists = positions < stop
        places = places_of(positions, exists, table, BLOCK_SIZE)
        k_tile = load_places(keys, places, exists, place_stride, kv_head, HEAD_DIM, BLOCK_D)
        v_tile = load_places(values, places, exists, place_stride, kv_head, HEAD_DIM, BLOCK_D)
        scores = product(q_tile, tl.trans(k_tile.to(q_tile.dtype)))
        distance = (first_position + query)[:, None] - positions[None, :]
        scores = tl.where(visible(distance, exists[None, :], True, WINDOW), scores, float("-inf"))
        sums = online_softmax(sums, scores, scale * LOG2_E, v_tile.to(q_tile.dtype))
    _, total, weighted = sums
    # Rows behind the last one have seen nothing, or whatever is there: they are not stored.
    weighted = weighted / tl.where(total == 0, 1.0, total)[:, None]
    tl.store(result + q_at, weighted.to(result.dtype.element_ty), mask=q_inside)
