"""FlashAttention-2 in plain PyTorch: the attention formula in tiles, without the table of scores.

There are T x S scores of queries and keys, and `scaled_dot_product_attention` writes that table to
memory and reads it back in every pass. Here a tile of queries stays in place while the loop runs
over tiles of keys and values. The softmax over a row is computed without ever having the whole row:
the online softmax keeps the largest score and the sum so far, and rescales them whenever a larger
score appears. For the backward pass, only q, k, v, the result o and one number per row are kept,
the logarithm of the row's sum of exponentials. The weights are recomputed from it, tile by tile.

This file shows *what* is computed, and in which order, on any device. It is slow, since every line
is a library call on a tile; kernels/flash_attention.py is the same loop as a GPU kernel, and
transformer_lm/attention_cost.py counts the bytes that this order saves.

What this leaves out: dropout, attention biases, second derivatives.

Dao, 2023 (FlashAttention-2), algorithms 1 and 2. Online softmax: Milakov and Gimelshein, 2018.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from lm_core.user_error import UserError

Tile = tuple[int, int]  # first row, and one past the last


@dataclass(frozen=True)
class VisibleKeys:
    """The keys that each query may look at: always one contiguous run, which only moves to the
    right.

    The queries are the last `num_queries` of `num_keys` positions, as in `causal_mask`. With more
    queries than keys, the first ones are before every key and, if causal, see nothing.

    Attributes:
        is_causal: whether a query sees only its own position and those before it; else it sees all.
        sliding_window: it sees only this many of the last of those, its own included; None for all.
    """

    num_queries: int
    num_keys: int
    is_causal: bool = False
    sliding_window: int | None = None

    def __post_init__(self) -> None:
        if self.sliding_window is not None and not (self.is_causal and self.sliding_window > 0):
            raise UserError(
                f"sliding_window = {self.sliding_window} with is_causal = {self.is_causal}; a "
                "window is a positive number of positions that end at the query, so is_causal "
                "must be True"
            )

    def first(self, query: int) -> int:
        """Return the first visible key of a query, if it sees any."""
        if self.sliding_window is None:
            return 0
        return max(0, self.num_keys - self.num_queries + query - self.sliding_window + 1)

    def end(self, query: int) -> int:
        """Return one past the last visible key of a query; 0 or less if it sees none."""
        if not self.is_causal:
            return self.num_keys
        return self.num_keys - self.num_queries + query + 1

    def touch(self, queries: Tile, keys: Tile) -> bool:
        """Return whether any of these queries sees any of these keys; if not, the pair of tiles is
        skipped.
        """
        return self.first(queries[0]) < keys[1] and self.end(queries[1] - 1) > keys[0]

    def mask(self, queries: Tile, keys: Tile, device: torch.device) -> Tensor | None:
        """Return True where a query of the tile may not look; None if there is no such place."""
        if self.first(queries[1] - 1) <= keys[0] and self.end(queries[0]) >= keys[1]:
            return None
        behind = self.num_keys - self.num_queries
        distance = torch.arange(*queries, device=device)[:, None] + behind
        distance = distance - torch.arange(*keys, device=device)  # [queries, keys]
        hidden = distance < 0
        return hidden if self.sliding_window is None else hidden | (distance >= self.sliding_window)


def tiles(length: int, size: int) -> Iterator[Tile]:
    """Yield tiles of `size` rows; the last one is shorter if `size` does not divide `length`."""
    return ((start, min(start + size, length)) for start in range(0, length, size))


# Every access to whole tensors uses the next two functions, so that a test can count the bytes.


def load_tile(x: Tensor, rows: Tile, dim: int = -2) -> Tensor:
    """Load rows of a tensor from memory, in the type of the sums.

    A GPU would move them into the small fast memory next to its arithmetic units.
    """
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.narrow(dim, rows[0], rows[1] - rows[0]).to(wide)


def store_tile(x: Tensor, rows: Tile, values: Tensor, dim: int = -2) -> None:
    """Write rows back to memory, rounded to the tensor's own type."""
    x.narrow(dim, rows[0], rows[1] - rows[0]).copy_(values)


def tile_scores(
    q_tile: Float[Tensor, "batch kv_heads group queries head_dim"],
    k_tile: Float[Tensor, "batch kv_heads keys head_dim"],
    hidden: Tensor | None,
) -> Float[Tensor, "batch kv_heads group queries keys"]:
    scores = torch.einsum("bngqd,bnkd->bngqk", q_tile, k_tile) / math.sqrt(q_tile.shape[-1])
    return scores if hidden is None else scores.masked_fill(hidden, -math.inf)


def tiled_attention_forward(
    q: Float[Tensor, "batch kv_heads group queries head_dim"],
    k: Float[Tensor, "batch kv_heads keys head_dim"],
    v: Float[Tensor, "batch kv_heads keys d_v"],
    visible: VisibleKeys,
    query_tile: int,
    key_tile: int,
) -> tuple[
    Float[Tensor, "batch kv_heads group queries d_v"], Float[Tensor, "batch kv_heads group queries"]
]:
    """Return the attended values, and each row's ln(sum(exp(scores))).

    A query that sees no key gives 0, and -inf for the logarithm of its empty sum.
    """
    o = v.new_empty(*q.shape[:-1], v.shape[-1])
    lse = torch.empty(q.shape[:-1], dtype=load_tile(q, (0, 0)).dtype, device=q.device)
    for queries in tiles(visible.num_queries, query_tile):
        q_tile = load_tile(q, queries)
        largest = q_tile.new_full(q_tile.shape[:-1], -math.inf)  # largest score of each row so far
        total = torch.zeros_like(largest)  # sum of exp(score - largest) so far
        weighted = q_tile.new_zeros(*largest.shape, v.shape[-1])  # the same sum, weighted with v
        for keys in tiles(visible.num_keys, key_tile):
            if not visible.touch(queries, keys):
                continue
            hidden = visible.mask(queries, keys, q.device)
            scores = tile_scores(q_tile, load_tile(k, keys), hidden)
            new_largest = torch.maximum(largest, scores.amax(-1))
            # Until a row has seen a key, its largest score is -inf, and -inf - -inf is not 0.
            shift = new_largest.masked_fill(new_largest == -math.inf, 0)
            weights = torch.exp(scores - shift[..., None])
            rescale = torch.exp(largest - shift)  # 1 if the largest is unchanged, 0 at first
            total = total * rescale + weights.sum(-1)
            added = torch.einsum("bngqk,bnkd->bngqd", weights, load_tile(v, keys))
            weighted = weighted * rescale[..., None] + added
            largest = new_largest
        # Divided once per row and not once per tile: one of the two changes of version 2.
        divisor = total.masked_fill(total == 0, 1)
        store_tile(o, queries, weighted / divisor[..., None])
        store_tile(lse, queries, largest + torch.log(total), dim=-1)
    return o, lse


def tiled_attention_backward(
    grad: Float[Tensor, "batch kv_heads group queries d_v"],
    saved: tuple[Tensor, Tensor, Tensor, Tensor, Tensor],
    visible: VisibleKeys,
    query_tile: int,
    key_tile: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of q, k and v, from `saved` = (q, k, v, o, lse) and the gradient of o.

    With P the weights and dP = dO v^T: the softmax's gradient is dS = P * (dP - rowsum(P * dP)).
    That row sum would need a whole row, but it equals rowsum(dO * O), which is already available.
    """
    q, k, v, o, lse = saved
    delta = torch.empty_like(lse)
    # All tiles of keys add to dq, so it has the wide type until the end.
    dq = torch.empty_like(q, dtype=lse.dtype)
    for queries in tiles(visible.num_queries, query_tile):
        row_sums = (load_tile(grad, queries) * load_tile(o, queries)).sum(-1)
        store_tile(delta, queries, row_sums, dim=-1)
        store_tile(dq, queries, torch.zeros_like(row_sums)[..., None])
    dk, dv = torch.empty_like(k), torch.empty_like(v)
    for keys in tiles(visible.num_keys, key_tile):
        k_tile, v_tile = load_tile(k, keys), load_tile(v, keys)
        dk_tile, dv_tile = torch.zeros_like(k_tile), torch.zeros_like(v_tile)
        for queries in tiles(visible.num_queries, query_tile):
            if not visible.touch(queries, keys):
                continue
            q_tile, grad_tile = load_tile(q, queries), load_tile(grad, queries)
            lse_tile, delta_tile = load_tile(lse, queries, -1), load_tile(delta, queries, -1)
            scores = tile_scores(q_tile, k_tile, visible.mask(queries, keys, q.device))
            # A row that sees nothing has lse = -inf; every score of it is -inf, and exp(-inf) = 0.
            shift = lse_tile.masked_fill(lse_tile == -math.inf, 0)
            weights = torch.exp(scores - shift[..., None])
            # A key head serves a group of query heads: its gradient is the sum over them, g.
            dv_tile += torch.einsum("bngqk,bngqd->bnkd", weights, grad_tile)
            d_weights = torch.einsum("bngqd,bnkd->bngqk", grad_tile, v_tile)
            d_scores = weights * (d_weights - delta_tile[..., None]) / math.sqrt(q.shape[-1])
            dk_tile += torch.einsum("bngqk,bngqd->bnkd", d_scores, q_tile)
            dq_tile = torch.einsum("bngqk,bnkd->bngqd", d_scores, k_tile)
            store_tile(dq, queries, load_tile(dq, queries) + dq_tile)
        store_tile(dk, keys, dk_tile)
        store_tile(dv, keys, dv_tile)
    return dq.to(q.dtype), dk, dv


class TiledAttention(torch.autograd.Function):
    """The two functions above as one operation for automatic differentiation."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, visible: VisibleKeys, *tile_sizes: int
    ) -> Tensor:
        # Autocast would round every product of the loop to bfloat16, sums included.
        with torch.autocast(q.device.type, enabled=False):
            o, lse = tiled_attention_forward(q, k, v, visible, *tile_sizes)
        ctx.save_for_backward(q, k, v, o, lse)
        ctx.visible, ctx.tile_sizes = visible, tile_sizes
        return o

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast(grad.device.type, enabled=False):
            gradients = tiled_attention_backward(
                grad, ctx.saved_tensors, ctx.visible, *ctx.tile_sizes
            )
        return *gradients, None, None, None


def tiled_attention(
    q: Float[Tensor, "batch heads queries head_dim"],
    k: Float[Tensor, "batch kv_heads keys head_dim"],
    v: Float[Tensor, "batch kv_heads keys d_v"],
    is_causal: bool = False,
    query_tile: int = 256,
    key_tile: int = 256,
    sliding_window: int | None = None,
) -> Float[Tensor, "batch heads queries d_v"]:
    """Return softmax(q k^T / sqrt(head_dim)) v, with memory that grows with T and not with T^2.

    Args:
        q, k, v: of the same type; sums are kept in float32, or float64 for float64. Query head h
            reads key head h // (heads / kv_heads); nothing is repeated in memory.
        is_causal: a query sees its own position and those before it; the queries are the *last*
            positions of the keys. A query that sees nothing gives 0.
        query_tile, key_tile: rows of a tile; any positive numbers give the same result.
        sliding_window: see `VisibleKeys`.
    """
    heads, kv_heads = q.shape[1], k.shape[1]
    if heads % kv_heads:
        raise UserError(
            f"{heads} query heads for {kv_heads} key heads; each key head must serve the same "
            "number"
        )
    visible = VisibleKeys(q.shape[2], k.shape[2], is_causal, sliding_window)
    grouped = q.unflatten(1, (kv_heads, -1))  # [batch, kv_heads, group, queries, head_dim]
    return TiledAttention.apply(grouped, k, v, visible, query_tile, key_tile).flatten(1, 2)
