"""Why tiled attention is faster, by counting: the bytes moved between a chip and its memory, and
the FLOPs done with them.

A GPU multiplies far faster than it reads: for each byte from memory, an H100 can do about 300 FLOPs
in bfloat16. Work with fewer FLOPs per byte (a lower arithmetic intensity) waits for memory, and
becomes faster by moving less, even if it then computes more. The plain formula writes and reads a
table of queries x keys repeatedly. With tiles, the table never leaves the chip. Instead, keys and
values are read once for each tile of queries, so the larger the tiles, the fewer the bytes.

All counts are for one head of one sequence. A tensor that an operation uses is counted as read once
from memory.

What this leaves out: caches between the chip and its memory, the tiles inside a matrix product, and
the FLOPs of exp, sums and the mask (a few per score).

Dao et al., 2022 (FlashAttention), section 3.2, theorem 2: the same count up to constants. The two
limits: Williams, Waterman and Patterson, 2009 (Roofline).
"""

from dataclasses import dataclass

from transformer_lm.tiled_attention import Tile, VisibleKeys, tiles

LSE_BYTES = 4  # for the numbers kept for each row, and for the sums for dq: float32


@dataclass(frozen=True)
class AttentionCost:
    """Bytes read from memory, bytes written to it, and FLOPs (a product and a sum count as two)."""

    bytes_read: int
    bytes_written: int
    flops: int

    def __add__(self, other: "AttentionCost") -> "AttentionCost":
        return AttentionCost(
            self.bytes_read + other.bytes_read,
            self.bytes_written + other.bytes_written,
            self.flops + other.flops,
        )

    @property
    def bytes_moved(self) -> int:
        return self.bytes_read + self.bytes_written

    @property
    def intensity(self) -> float:
        """Arithmetic intensity: FLOPs per byte."""
        return self.flops / self.bytes_moved

    def least_seconds(self, flops_per_second: float, bytes_per_second: float) -> float:
        """Return the time of the slower of computing and moving, if they overlap perfectly."""
        return max(self.flops / flops_per_second, self.bytes_moved / bytes_per_second)


def eager_forward(queries: int, keys: int, head_dim: int, bytes_per_value: int) -> AttentionCost:
    """Count `scaled_dot_product_attention` with a mask, operation by operation.

    Reads of the table: / sqrt(d), the mask's fill, largest of a row, - largest, exp, sum of a row,
    / sum, times v. Writes: q k^T, / sqrt(d), fill, - largest, exp, / sum. The mask has one byte per
    entry: read and written by ~, read by the fill.
    """
    table, row = queries * keys, queries
    q, k = queries * head_dim, keys * head_dim  # v is as large as k, and o as q
    return AttentionCost(
        bytes_read=(8 * table + 2 * row + q + 2 * k) * bytes_per_value + 2 * table,
        bytes_written=(6 * table + 2 * row + q) * bytes_per_value + table,
        flops=2 * 2 * table * head_dim,
    )


def eager_backward(queries: int, keys: int, head_dim: int, bytes_per_value: int) -> AttentionCost:
    """Count its backward pass by PyTorch's automatic differentiation, one operation after another.

    There are 20 reads of tables and 13 writes, most of them for the softmax; counted in PyTorch
    2.13. The gradient of a row's largest value needs its position: a table of bytes, and 8 bytes
    per row.
    """
    table, row = queries * keys, queries
    q, k = queries * head_dim, keys * head_dim
    return AttentionCost(
        bytes_read=(20 * table + 7 * row + 3 * q + 2 * k) * bytes_per_value + 3 * table + 8 * row,
        bytes_written=(13 * table + 3 * row + q + 2 * k) * bytes_per_value + table + 8 * row,
        flops=4 * 2 * table * head_dim,
    )


def tile_pairs(visible: VisibleKeys, query_tile: int, key_tile: int) -> list[tuple[Tile, Tile]]:
    """Return the pairs of tiles in which some query sees some key; only those are computed."""
    return [
        (queries, keys)
        for queries in tiles(visible.num_queries, query_tile)
        for keys in tiles(visible.num_keys, key_tile)
        if visible.touch(queries, keys)
    ]


@dataclass(frozen=True)
class TileRows:
    """Numbers of rows, summed over the pairs of tiles: of queries, of keys, and their product."""

    queries: int
    keys: int
    scores: int

    @staticmethod
    def of(visible: VisibleKeys, query_tile: int, key_tile: int) -> "TileRows":
        sizes = [
            (queries[1] - queries[0], keys[1] - keys[0])
            for queries, keys in tile_pairs(visible, query_tile, key_tile)
        ]
        return TileRows(
            sum(q for q, _ in sizes), sum(k for _, k in sizes), sum(q * k for q, k in sizes)
        )


def flash_forward(
    visible: VisibleKeys, head_dim: int, query_tile: int, key_tile: int, bytes_per_value: int
) -> AttentionCost:
    """Count the forward pass of the lesson and of the Triton kernels.

    Each tile of queries is read once, and k and v once for each of them; o and lse are written.
    """
    rows = TileRows.of(visible, query_tile, key_tile)
    q_bytes = visible.num_queries * head_dim * bytes_per_value
    return AttentionCost(
        bytes_read=q_bytes + 2 * rows.keys * head_dim * bytes_per_value,
        bytes_written=q_bytes + visible.num_queries * LSE_BYTES,
        flops=2 * 2 * rows.scores * head_dim,
    )


def delta_cost(visible: VisibleKeys, head_dim: int, bytes_per_value: int) -> AttentionCost:
    """Count rowsum(do * o): both are read, and one number per row is written."""
    o_bytes = visible.num_queries * head_dim * bytes_per_value
    return AttentionCost(2 * o_bytes, visible.num_queries * LSE_BYTES, 0)


def flash_backward(
    visible: VisibleKeys, head_dim: int, query_tile: int, key_tile: int, bytes_per_value: int
) -> AttentionCost:
    """Count the lesson's loop (the paper's), with five products per pair of tiles.

    k and v are read once; q, do, lse and delta once for each tile of keys; dq is accumulated in
    memory, in float32.
    """
    rows = TileRows.of(visible, query_tile, key_tile)
    k_bytes = visible.num_keys * head_dim * bytes_per_value
    dq_values = visible.num_queries * head_dim
    rounding = AttentionCost(0, 0, 0)
    if bytes_per_value != LSE_BYTES:
        rounding = AttentionCost(dq_values * LSE_BYTES, dq_values * bytes_per_value, 0)
    loop = AttentionCost(
        bytes_read=2 * k_bytes
        + rows.queries * (2 * head_dim * bytes_per_value + 2 * LSE_BYTES + head_dim * LSE_BYTES),
        bytes_written=2 * k_bytes + (dq_values + rows.queries * head_dim) * LSE_BYTES,
        flops=5 * 2 * rows.scores * head_dim,
    )
    return delta_cost(visible, head_dim, bytes_per_value) + loop + rounding


def flash_backward_in_two_kernels(
    visible: VisibleKeys, head_dim: int, query_tile: int, key_tile: int, bytes_per_value: int
) -> AttentionCost:
    """Count the Triton kernels, with seven products per pair of tiles and no sums in memory.

    One kernel keeps k and v on the chip and reads q, do, lse and delta; the other keeps those and
    reads k and v.
    """
    rows = TileRows.of(visible, query_tile, key_tile)
    q_bytes, k_bytes = (
        length * head_dim * bytes_per_value for length in (visible.num_queries, visible.num_keys)
    )
    row_bytes = 2 * head_dim * bytes_per_value + 2 * LSE_BYTES  # q and do, lse and delta
    for_keys = AttentionCost(
        2 * k_bytes + rows.queries * row_bytes, 2 * k_bytes, 4 * 2 * rows.scores * head_dim
    )
    for_queries = AttentionCost(
        visible.num_queries * row_bytes + 2 * rows.keys * head_dim * bytes_per_value,
        q_bytes,
        3 * 2 * rows.scores * head_dim,
    )
    return delta_cost(visible, head_dim, bytes_per_value) + for_keys + for_queries


def on_chip_bytes(query_tile: int, key_tile: int, head_dim: int, bytes_per_value: int) -> int:
    """Return the memory that one tile of the forward pass needs on the chip.

    It holds q, k, v, and in float32 o, the scores and two numbers per row. This memory limits the
    size of the tiles, and therefore the bytes that are saved.
    """
    tiles_in = (query_tile + 2 * key_tile) * head_dim * bytes_per_value
    sums = query_tile * (head_dim + key_tile + 2) * LSE_BYTES
    return tiles_in + sums


def cost_table(length: int, head_dim: int, query_tile: int, key_tile: int) -> list[str]:
    """Return the rows of a Markdown table for one causal head in bfloat16."""
    visible = VisibleKeys(length, length, is_causal=True)
    shape = head_dim, query_tile, key_tile, 2
    costs = {
        "forward, formula": eager_forward(length, length, head_dim, 2),
        "forward, by tiles": flash_forward(visible, *shape),
        "backward, formula": eager_backward(length, length, head_dim, 2),
        "backward, by tiles, one loop": flash_backward(visible, *shape),
        "backward, by tiles, two kernels": flash_backward_in_two_kernels(visible, *shape),
    }
    return [
        f"| {name} | {cost.bytes_moved / 1e6:.1f} | {cost.flops / 1e9:.2f} | {cost.intensity:.0f} |"
        for name, cost in costs.items()
    ]
