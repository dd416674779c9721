"""Traffic counted from tables of rows."""

# ruff: noqa: F821 - the rest of the module, which is the reference's, has the other names

from typing import Any

from transformer_lm.tiled_attention import Tile, VisibleKeys


def eager_forward(queries: int, keys: int, head_dim: int, bytes_per_value: int) -> Any:
    table, q, k, rows = queries * keys, queries * head_dim, keys * head_dim, queries
    # (values read, values written) by the operations of the handout's table, without the mask
    operations = [
        *((q + k, table), (table, table), (table, table), (table, rows), (table + rows, table)),
        *((table, table), (table, rows), (table + rows, table), (table + k, q)),
    ]
    return AttentionCost(
        bytes_read=sum(read for read, _ in operations) * bytes_per_value + 2 * table,
        bytes_written=sum(written for _, written in operations) * bytes_per_value + table,
        flops=4 * table * head_dim,
    )


def tile_pairs(visible: VisibleKeys, query_tile: int, key_tile: int) -> list[tuple[Tile, Tile]]:
    pairs = []
    for first in reversed(range(0, visible.num_keys, key_tile)):
        keys = first, min(first + key_tile, visible.num_keys)
        for start in range(0, visible.num_queries, query_tile):
            queries = start, min(start + query_tile, visible.num_queries)
            if visible.touch(queries, keys):
                pairs.append((queries, keys))
    return pairs
