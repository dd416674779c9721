"""Keys and values in blocks of one pool, and attention that reads them where they are.

A request's tokens fill blocks of `block_size` places. The blocks of a request need not be adjacent
or in order: its block table (block_pool.py) lists them. So a request takes memory as it grows, up
to one partly filled block, and requests with the same beginning share blocks.

Attention goes through the table and updates, after each block, the softmax over all keys so far. It
never needs the scores of all keys at once, and never copies the blocks into one tensor.

What this leaves out: the choice of blocks (block_pool.py), and all requests of a step in one call
(compiled/paged_attention.py on a CPU, kernels/paged_decode.py on a GPU).

Paged attention: Kwon et al., 2023 (arXiv 2309.06180), section 4.1. The softmax that is computed as
the scores arrive: Milakov and Gimelshein, 2018 (arXiv 1805.02867), algorithm 3.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from transformer_lm.model_config import ModelConfig


class PagedKVCache:
    """Keys and values of every layer, in blocks that any request may use.

    A *place* is a token's row in the pool: block * block_size + offset in the block. It is the same
    in every layer.

    Attributes:
        keys, values: [layers, blocks, block_size, kv_heads, head_dim]. What was never written is
            undefined.
    """

    keys: Float[Tensor, "layers blocks block_size kv_heads head_dim"]
    values: Float[Tensor, "layers blocks block_size kv_heads head_dim"]

    def __init__(
        self,
        num_layers: int,
        num_blocks: int,
        block_size: int,
        num_kv_heads: int,
        head_dim: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        shape = (num_layers, num_blocks, block_size, num_kv_heads, head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)

    @classmethod
    def for_model(
        cls,
        config: ModelConfig,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> "PagedKVCache":
        """Return a pool of `num_blocks` blocks with the layers and key-value heads of the model."""
        heads, head_dim = config.num_kv_heads, config.head_dim
        return cls(config.num_layers, num_blocks, block_size, heads, head_dim, dtype, device)

    @property
    def num_bytes(self) -> int:
        """Allocated memory of keys and values, whether used or not."""
        return 2 * self.keys.numel() * self.keys.element_size()

    def write(
        self,
        layer: int,
        places: Int[Tensor, " tokens"],
        keys: Float[Tensor, "tokens kv_heads head_dim"],
        values: Float[Tensor, "tokens kv_heads head_dim"],
    ) -> None:
        """Store one layer's keys and values of new tokens, rounded to the type of the pool.

        Args:
            layer: the number of the layer; the others are left as they are.
            places: where token i goes (`places_of`); no place occurs twice.
            keys, values: of the tokens, which may belong to several requests.
        """
        self.keys[layer].flatten(0, 1)[places] = keys.to(self.keys.dtype)  # flatten: a view
        self.values[layer].flatten(0, 1)[places] = values.to(self.values.dtype)

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy whole blocks, keys and values of every layer: (source, target), one pair after the
        other, so that a later pair sees what an earlier one wrote.
        """
        for source, target in pairs:
            self.keys[:, target] = self.keys[:, source]
            self.values[:, target] = self.values[:, source]


def places_of(
    blocks: Sequence[int], block_size: int, first: int, count: int
) -> Int[Tensor, " count"]:
    """Return the places of a request's positions first .. first + count - 1 (int64).

    Args:
        blocks: the request's block table: position p is in blocks[p // block_size].
        block_size: places in a block.
        first: the first position.
        count: how many; 0 gives an empty tensor.
    """
    assert first + count <= len(blocks) * block_size, (
        f"{len(blocks)} blocks of {block_size} have no place for position {first + count - 1}"
    )
    positions = torch.arange(first, first + count)
    block_of_each = torch.tensor(blocks, dtype=torch.int64)[positions // block_size]
    return block_of_each * block_size + positions % block_size


def paged_attention(
    q: Float[Tensor, "queries heads head_dim"],
    key_blocks: Float[Tensor, "blocks block_size kv_heads head_dim"],
    value_blocks: Float[Tensor, "blocks block_size kv_heads head_dim"],
    blocks: Sequence[int],
    num_keys: int,
    sliding_window: int | None = None,
) -> Float[Tensor, "queries heads head_dim"]:
    """Return softmax(q k^T / sqrt(head_dim)) v for one request, one block after the other.

    Each query sees its own position and those before it. Query head h reads key-value head
    h // (heads / kv_heads). Sums are kept in float32, or float64 if q or the blocks are.

    Args:
        q: the request's last positions before `num_keys`; their keys are already in the blocks.
        key_blocks, value_blocks: one layer of the pool.
        blocks: the request's block table; blocks beyond `num_keys` are not read.
        num_keys: number of the request's tokens in the cache.
        sliding_window: a query sees this many positions, its own the last; None for all.

    Returns the type of q.
    """
    num_queries, num_heads, head_dim = q.shape
    block_size, num_kv_heads = key_blocks.shape[1:3]
    first_query = num_keys - num_queries
    assert first_query >= 0, f"{num_queries} queries for {num_keys} keys"
    dtype = torch.promote_types(torch.promote_types(q.dtype, key_blocks.dtype), torch.float32)
    scaled = q.to(dtype) / math.sqrt(head_dim)
    grouped = scaled.unflatten(1, (num_kv_heads, num_heads // num_kv_heads))
    positions = torch.arange(first_query, num_keys, device=q.device)
    largest = grouped.new_full(grouped.shape[:3], -math.inf)  # [queries, kv_heads, group]
    total = torch.zeros_like(largest)  # sum of exp(score - largest) so far
    weighted = torch.zeros_like(grouped)  # the same sum, each weight times its value
    oldest = 0 if sliding_window is None else max(0, first_query - sliding_window + 1)
    for start in range(oldest - oldest % block_size, num_keys, block_size):
        block, filled = blocks[start // block_size], min(block_size, num_keys - start)
        first = max(0, oldest - start)  # the first place of the block that a query sees
        keys = key_blocks[block, first:filled].to(dtype)  # [keys, kv_heads, head_dim]
        values = value_blocks[block, first:filled].to(dtype)
        scores = torch.einsum("qhgd,khd->qhgk", grouped, keys)
        seen = torch.arange(start + first, start + filled, device=q.device)
        distance = positions[:, None] - seen
        hidden = distance < 0
        if sliding_window is not None:
            hidden |= distance >= sliding_window
        scores.masked_fill_(hidden[:, None, None], -math.inf)
        new_largest = torch.maximum(largest, scores.amax(-1))
        # A query that has seen no key yet has -inf, and -inf - -inf would be NaN.
        shift = new_largest.masked_fill(new_largest == -math.inf, 0.0)
        weights = torch.exp(scores - shift[..., None])
        rescale = torch.exp(largest - shift)  # what the sums so far are worth under the new largest
        total = total * rescale + weights.sum(-1)
        weighted = weighted * rescale[..., None] + torch.einsum("qhgk,khd->qhgd", weights, values)
        largest = new_largest
    return (weighted / total[..., None]).flatten(1, 2).to(q.dtype)
