"""Keys and values in blocks of one pool, and attention that reads them where they are.

An independent solution, written from the handout of a6 alone. Three things differ from what the
handout proposes: `copy_blocks` first works out which block each target ends up with and then copies
all at once, the places of a request are a grid of blocks and offsets of which a part is cut out,
and attention goes through the blocks twice, once for the largest scores and once for the sums.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from transformer_lm.model_config import ModelConfig


class _Stretch(NamedTuple):
    """Neighboring places of one block, each of which at least one query sees.

    Attributes:
        block: the number of the block.
        start, stop: offsets in the block.
        seen: whether query i sees the key at offset start + j.
    """

    block: int
    start: int
    stop: int
    seen: Bool[Tensor, "queries places"]


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
        places = places.to(self.keys.device)
        block_size = self.keys.shape[2]
        where = (places // block_size, places % block_size)
        for pool, rows in ((self.keys, keys), (self.values, values)):
            pool[layer].index_put_(where, rows.detach().to(pool))

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy whole blocks, keys and values of every layer: (source, target), one pair after the
        other, so that a later pair sees what an earlier one wrote.
        """
        origin: dict[int, int] = {}  # target -> the block that has its content before any copy
        for source, target in pairs:
            origin[target] = origin.get(source, source)
        if not origin:
            return
        targets, sources = list(origin), list(origin.values())
        for pool in (self.keys, self.values):
            pool[:, targets] = pool[:, sources]  # the right side is a copy, read before the writing


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
    skipped, begin = divmod(first, block_size)
    end = begin + count
    touched = blocks[skipped : skipped + math.ceil(end / block_size)]
    rows = torch.tensor(touched, dtype=torch.int64)[:, None]
    grid = rows * block_size + torch.arange(block_size)
    return grid.flatten()[begin:end].clone()


@torch.no_grad()
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
    num_kv_heads = key_blocks.shape[2]
    wide = torch.float64 in (q.dtype, key_blocks.dtype, value_blocks.dtype)
    dtype = torch.float64 if wide else torch.float32
    # Put a key-value head's queries one below the other: [kv_heads, queries * group, head_dim].
    group = num_heads // num_kv_heads
    queries = q.to(dtype).unflatten(1, (num_kv_heads, group)).transpose(0, 1).flatten(1, 2)

    def stretches() -> Iterator[_Stretch]:
        size = key_blocks.shape[1]
        return _stretches(blocks, size, num_keys, num_queries, sliding_window, q.device)

    def scores(stretch: _Stretch) -> Float[Tensor, "kv_heads rows places"]:
        keys = key_blocks[stretch.block, stretch.start : stretch.stop].to(dtype)
        products = queries @ keys.permute(1, 2, 0) / math.sqrt(head_dim)
        hidden = ~stretch.seen.repeat_interleave(group, dim=0)
        return products.masked_fill(hidden, -math.inf)

    # Each query sees its own position, so after the first round every largest score is a number,
    # and no weight of the second round is above 1.
    largest = queries.new_full((num_kv_heads, num_queries * group, 1), -math.inf)
    for stretch in stretches():
        largest = torch.maximum(largest, scores(stretch).amax(dim=-1, keepdim=True))
    total, attended = torch.zeros_like(largest), torch.zeros_like(queries)
    for stretch in stretches():
        weights = torch.exp(scores(stretch) - largest)
        values = value_blocks[stretch.block, stretch.start : stretch.stop].to(dtype)
        total += weights.sum(dim=-1, keepdim=True)
        attended += weights @ values.transpose(0, 1)
    result = (attended / total).unflatten(1, (num_queries, group)).transpose(0, 1)
    return result.flatten(1, 2).to(q.dtype)


def _stretches(
    blocks: Sequence[int],
    block_size: int,
    num_keys: int,
    num_queries: int,
    sliding_window: int | None,
    device: torch.device,
) -> Iterator[_Stretch]:
    """Yield, block by block, the places that the last `num_queries` positions see."""
    first_query = num_keys - num_queries
    window = num_keys if sliding_window is None else sliding_window
    query_positions = torch.arange(first_query, num_keys, device=device)[:, None]
    position = max(0, first_query - window + 1) if num_queries else num_keys
    while position < num_keys:
        number, start = divmod(position, block_size)
        stop = min(block_size, start + num_keys - position)
        behind = query_positions - torch.arange(position, position + stop - start, device=device)
        yield _Stretch(blocks[number], start, stop, (behind >= 0) & (behind < window))
        position += stop - start
