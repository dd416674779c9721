"""FlashAttention-2 in plain PyTorch: the attention formula by tiles, without the table of scores.

Query by key there are T x S scores, and `scaled_dot_product_attention` writes that table to memory
and reads it back, pass after pass. Here a tile of queries stays where it is while tiles of keys and
values go by. The softmax over a row is finished without ever seeing the row: it keeps the largest
score so far and the sum so far, and rescales what it has whenever a larger score comes (the online
softmax). For the backward pass only q, k, v, the result o and one number a row are kept, the
logarithm of the row's sum of exponentials; the weights are computed again from it, tile by tile.

This file says *what* is computed in which order, on any device. It is slow in itself, since every
line is a library call over a tile; transformer_lm/flash_attention.py is the same loop as a GPU
kernel, and transformer_lm/attention_cost.py counts the bytes that the order saves. What this leaves
out: dropout, attention biases, second derivatives.

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

Tile = tuple[int, int]  # first row, and one past the last


@dataclass(frozen=True)
class VisibleKeys:
    """Which keys each query may look at: always one unbroken run, which only moves to the right.

    The queries are the last `num_queries` of `num_keys` positions, as in `causal_mask`. With more
    queries than keys, the first ones stand before every key and, if causal, see nothing.

    Attributes:
        is_causal: a query looks at its own position and at those before it; else at all.
        sliding_window: of those, only at the last so many, its own included; None for all.
    """

    num_queries: int
    num_keys: int
    is_causal: bool = False
    sliding_window: int | None = None

    def __post_init__(self) -> None:
        if self.sliding_window is not None and not (self.is_causal and self.sliding_window > 0):
            raise ValueError(
                f"sliding_window = {self.sliding_window} with is_causal = {self.is_causal}; a "
                "window is a positive number of positions that end at the query, so is_causal=True"
            )

    def first(self, query: int) -> int:
        """The first visible key of a query, if it sees any."""
        if self.sliding_window is None:
            return 0
        return max(0, self.num_keys - self.num_queries + query - self.sliding_window + 1)

    def end(self, query: int) -> int:
        """One past the last visible key of a query; 0 or less if it sees none."""
        if not self.is_causal:
            return self.num_keys
        return self.num_keys - self.num_queries + query + 1

    def touch(self, queries: Tile, keys: Tile) -> bool:
        """Does any of these queries see any of these keys? If not, the pair of tiles is skipped."""
        return self.first(queries[0]) < keys[1] and self.end(queries[1] - 1) > keys[0]

    def mask(self, queries: Tile, keys: Tile, device: torch.device) -> Tensor | None:
        """True where a query of the tile may not look; None if there is no such place."""
        if self.first(queries[1] - 1) <= keys[0] and self.end(queries[0]) >= keys[1]:
            return None
        behind = self.num_keys - self.num_queries
        distance = torch.arange(*queries, device=device)[:, None] + behind
        distance = distance - torch.arange(*keys, device=device)  # [queries, keys]
        hidden = distance < 0
        return hidden if self.sliding_window is None else hidden | (distance >= self.sliding_window)


def tiles(length: int, size: int) -> Iterator[Tile]:
    """Tiles of `size` rows; the last one is shorter where `size` does not divide `length`."""
    return ((start, min(start + size, length)) for start in range(0, length, size))


# Every access to whole tensors goes through the next two, so that a test can count the bytes.


def load_tile(x: Tensor, rows: Tile, dim: int = -2) -> Tensor:
    """Rows of a tensor in memory, in the type that sums are kept in: a GPU would move them into the
    small fast memory beside its arithmetic units."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.narrow(dim, rows[0], rows[1] - rows[0]).to(wide)


def store_tile(x: Tensor, rows: Tile, values: Tensor, dim: int = -2) -> None:
    """Write rows back to memory, rounded to the tensor's own type."""
    x.narrow(dim, rows[0], rows[1] - rows[0]).copy_(values)


def _zero_where_empty(log_sum: Tensor) -> Tensor:
    """ln(sum(exp)), with 0 for the -inf of an empty sum: -inf less -inf would be NaN."""
    return torch.where(log_sum.isneginf(), 0.0, log_sum)


def _scores(
    q_tile: Tensor, k_tile: Tensor, visible: VisibleKeys, queries: Tile, keys: Tile
) -> Float[Tensor, "batch kv_heads group queries keys"]:
    """Products of the scaled queries of a tile with its keys; -inf where a query may not look."""
    scores = torch.einsum("bhgqd,bhkd->bhgqk", q_tile, k_tile)
    hidden = visible.mask(queries, keys, scores.device)
    return scores if hidden is None else scores.masked_fill_(hidden, -math.inf)


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
    """The attended values, and each row's ln(sum(exp(scores))).

    A query that sees no key gives 0, and -inf for the logarithm of its empty sum.
    """
    scale = 1 / math.sqrt(q.shape[-1])
    o = q.new_zeros(*q.shape[:-1], v.shape[-1])
    lse = load_tile(q, (0, 0))[..., 0].new_zeros(q.shape[:-1])
    for queries in tiles(visible.num_queries, query_tile):
        q_tile = load_tile(q, queries) * scale
        total = q_tile.new_zeros(*q_tile.shape[:-1], v.shape[-1])
        log_sum = q_tile.new_full(q_tile.shape[:-1], -math.inf)
        for keys in reversed(list(tiles(visible.num_keys, key_tile))):
            if not visible.touch(queries, keys):
                continue
            scores = _scores(q_tile, load_tile(k, keys), visible, queries, keys)
            # `total` is always the finished mean over the keys so far.
            new_log_sum = torch.logaddexp(log_sum, torch.logsumexp(scores, -1))
            finite = _zero_where_empty(new_log_sum)
            weights = torch.exp(scores - finite[..., None])
            total *= torch.exp(log_sum - finite)[..., None]
            total += torch.einsum("bhgqk,bhkd->bhgqd", weights, load_tile(v, keys))
            log_sum = new_log_sum
        store_tile(o, queries, total)
        store_tile(lse, queries, log_sum, dim=-1)
    return o, lse


def tiled_attention_backward(
    grad: Float[Tensor, "batch kv_heads group queries d_v"],
    saved: tuple[Tensor, Tensor, Tensor, Tensor, Tensor],
    visible: VisibleKeys,
    query_tile: int,
    key_tile: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v, from `saved` = (q, k, v, o, lse) and the gradient of o.

    With P the weights and dP = dO v^T: the softmax's gradient is dS = P * (dP - rowsum(P * dP)).
    That row sum would need a whole row, but it equals rowsum(dO * O), which is there already.
    """
    q, k, v, o, lse = saved
    scale = 1 / math.sqrt(q.shape[-1])
    dq = torch.zeros_like(q)
    dk, dv = (torch.zeros(x.shape, dtype=lse.dtype, device=x.device) for x in (k, v))
    for queries in tiles(visible.num_queries, query_tile):
        q_tile, grad_tile = load_tile(q, queries) * scale, load_tile(grad, queries)
        delta = (grad_tile * load_tile(o, queries)).sum(-1, keepdim=True)
        log_sum = _zero_where_empty(load_tile(lse, queries, dim=-1))[..., None]
        dq_tile = torch.zeros_like(q_tile)
        for keys in tiles(visible.num_keys, key_tile):
            if not visible.touch(queries, keys):
                continue
            k_tile, v_tile = load_tile(k, keys), load_tile(v, keys)
            weights = torch.exp(_scores(q_tile, k_tile, visible, queries, keys) - log_sum)
            rows = slice(*keys)
            dv[:, :, rows] += torch.einsum("bhgqk,bhgqd->bhkd", weights, grad_tile)
            d_scores = torch.einsum("bhgqd,bhkd->bhgqk", grad_tile, v_tile)
            d_scores = d_scores.sub_(delta).mul_(weights)
            dq_tile += torch.einsum("bhgqk,bhkd->bhgqd", d_scores, k_tile)
            dk[:, :, rows] += torch.einsum("bhgqk,bhgqd->bhkd", d_scores, q_tile)
        store_tile(dq, queries, dq_tile * scale)
    return dq, dk.to(k.dtype), dv.to(v.dtype)


class TiledAttention(torch.autograd.Function):
    """The two functions above as one operation of automatic differentiation."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, visible: VisibleKeys, *tile_sizes: int
    ) -> Tensor:
        o, lse = tiled_attention_forward(q, k, v, visible, *tile_sizes)
        ctx.save_for_backward(q, k, v, o, lse)
        ctx.visible, ctx.tile_sizes = visible, tile_sizes
        return o

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grads = tiled_attention_backward(grad, ctx.saved_tensors, ctx.visible, *ctx.tile_sizes)
        return (*grads, None, *(None for _ in ctx.tile_sizes))


def tiled_attention(
    q: Float[Tensor, "batch heads queries head_dim"],
    k: Float[Tensor, "batch kv_heads keys head_dim"],
    v: Float[Tensor, "batch kv_heads keys d_v"],
    is_causal: bool = False,
    query_tile: int = 256,
    key_tile: int = 256,
    sliding_window: int | None = None,
) -> Float[Tensor, "batch heads queries d_v"]:
    """softmax(q k^T / sqrt(head_dim)) v, with memory that grows with T and not with T^2.

    Args:
        q, k, v: of the same type; sums are kept in float32, or float64 for float64. Query head h
            reads key head h // (heads / kv_heads); nothing is repeated in memory.
        is_causal: a query sees its own position and what is before it; the queries are the *last*
            positions of the keys. A query that sees nothing gives 0.
        query_tile, key_tile: rows of a tile; any positive number, the result is the same.
        sliding_window: see `VisibleKeys`.
    """
    heads, kv_heads = q.shape[1], k.shape[1]
    if heads % kv_heads:
        raise ValueError(f"kv_heads = {kv_heads} does not divide heads = {heads}")
    visible = VisibleKeys(q.shape[2], k.shape[2], is_causal, sliding_window)
    grouped = q.unflatten(1, (kv_heads, heads // kv_heads))
    return TiledAttention.apply(grouped, k, v, visible, query_tile, key_tile).flatten(1, 2)
