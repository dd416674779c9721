"""Attention: each position takes a weighted mean of the values at the positions before it.

`scaled_dot_product_attention` is the formula, and builds the whole [queries, keys] table.
`CausalSelfAttention` adds the projections, the heads, grouped query heads and rotary positions.
What this leaves out: faster ways to the same result (kernels/fast_attention.py), and how packed
documents are kept apart (kernels/packed_attention.py).

Vaswani et al., 2017, equation 1. Grouped query heads: Ainslie et al., 2023, section 2.2.
"""

import math
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from transformer_lm.kernels.attention_backend import AttentionBackend
from transformer_lm.kernels.fast_attention import fast_attention
from transformer_lm.kernels.packed_attention import packed_attention
from transformer_lm.layers import Linear, RMSNorm, softmax
from transformer_lm.model_config import ModelConfig
from transformer_lm.rotary_embedding import RotaryEmbedding


@runtime_checkable
class KeyValueCache(Protocol):
    """The interface that attention needs from a cache. `inference` implements it; this module never
    imports `inference`.
    """

    @property
    def length(self) -> int:
        """Tokens already stored. The model reads it once a forward pass, before any `append`."""
        ...

    def append(
        self,
        layer: int,
        keys: Float[Tensor, "batch kv_heads new head_dim"],
        values: Float[Tensor, "batch kv_heads new head_dim"],
    ) -> tuple[
        Float[Tensor, "batch kv_heads all head_dim"], Float[Tensor, "batch kv_heads all head_dim"]
    ]:
        """Store the new positions of one layer (keys already turned by their positions), and return
        all of that layer's, the old ones first.
        """
        ...


def causal_mask(
    num_queries: int, num_keys: int, device: torch.device, sliding_window: int | None = None
) -> Bool[Tensor, "queries keys"]:
    """True where a query may look: its own and every position before it; with a sliding window, its
    own and the sliding_window - 1 positions before it.

    The queries are the last `num_queries` of `num_keys` positions, so query i is at position
    num_keys - num_queries + i.
    """
    diagonal = num_keys - num_queries
    allowed = torch.ones(num_queries, num_keys, dtype=torch.bool, device=device).tril(diagonal)
    return allowed if sliding_window is None else allowed.triu(diagonal - sliding_window + 1)


def scaled_dot_product_attention(
    q: Float[Tensor, "*batch queries d_k"],
    k: Float[Tensor, "*batch keys d_k"],
    v: Float[Tensor, "*batch keys d_v"],
    mask: Bool[Tensor, "*mask_batch queries keys"] | None = None,
) -> Float[Tensor, "*batch queries d_v"]:
    """softmax(q k^T / sqrt(d_k)) v.

    Args:
        q, k, v: queries, keys and values; the leading axes are batch and heads.
        mask: True where the query may look at the key; None for everywhere. A query that may look
            nowhere gives NaN.
    """
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # [*batch, queries, keys]
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return softmax(scores, dim=-1) @ v


class CausalSelfAttention(nn.Module):
    """Grouped query heads over the tokens so far.

    Query head h reads key head h // (num_heads / num_kv_heads): neighbours share.

    Args:
        config: the model's shape.
        layer: this block's number, under which a cache stores its keys.
        attention_backend: "eager" runs the formula above, "matmul" the same in fewer passes. "sdpa"
            (PyTorch's), "tiled" (ours) and "triton" (ours, for GPUs) never build the table. "auto"
            takes "matmul" or "sdpa". All give the same result to rounding.
    """

    def __init__(
        self, config: ModelConfig, layer: int, attention_backend: AttentionBackend = "auto"
    ) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.num_kv_heads = config.num_kv_heads
        self.head_dim = config.head_dim
        self.sliding_window = config.sliding_window
        self.layer = layer
        self.attention_backend: AttentionBackend = attention_backend
        width, kv_width = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.query = Linear(config.d_model, width, config.biases)
        self.key = Linear(config.d_model, kv_width, config.biases)
        self.value = Linear(config.d_model, kv_width, config.biases)
        self.output = Linear(width, config.d_model, config.biases)
        if config.qk_norm:
            self.query_norm = RMSNorm(config.head_dim, config.norm_eps)
            self.key_norm = RMSNorm(config.head_dim, config.norm_eps)
        self.qk_norm = config.qk_norm

    def forward(
        self,
        x: Float[Tensor, "batch seq d_model"],
        rotary: RotaryEmbedding | None,
        positions: Int[Tensor, " seq"],
        cache: KeyValueCache | None = None,
        cu_seqlens: Int[Tensor, " documents_and_one"] | None = None,
    ) -> Float[Tensor, "batch seq d_model"]:
        """Attend from each of x's positions to itself and to all before it, the cached included.

        `rotary` is None for a model that knows positions in another way, or not at all. With
        `cu_seqlens`, x holds packed documents (kernels/packed_attention.py), and none sees another.
        """
        q = self._split_heads(self.query(x), self.num_heads)
        k = self._split_heads(self.key(x), self.num_kv_heads)
        v = self._split_heads(self.value(x), self.num_kv_heads)
        if self.qk_norm:
            q, k = self.query_norm(q), self.key_norm(k)
        if rotary is not None:
            q, k = rotary(q, positions), rotary(k, positions)
        if cache is not None:
            k, v = cache.append(self.layer, k, v)
        if cu_seqlens is None:
            attended = self._attend(q, k, v)
        else:
            backend, window = self.attention_backend, self.sliding_window
            attended = packed_attention(self._attend, q, k, v, cu_seqlens, backend, window)
        return self.output(attended.transpose(1, 2).flatten(-2))  # heads joined: [.., d_model]

    def _split_heads(
        self, x: Float[Tensor, "batch seq width"], heads: int
    ) -> Float[Tensor, "batch heads seq head_dim"]:
        return x.unflatten(-1, (heads, self.head_dim)).transpose(1, 2)

    def _attend(
        self,
        q: Float[Tensor, "batch heads queries head_dim"],
        k: Float[Tensor, "batch kv_heads keys head_dim"],
        v: Float[Tensor, "batch kv_heads keys head_dim"],
    ) -> Float[Tensor, "batch heads queries head_dim"]:
        if self.attention_backend != "eager":
            return fast_attention(self.attention_backend, q, k, v, self.sliding_window)
        group_size = self.num_heads // self.num_kv_heads
        k = k.repeat_interleave(group_size, dim=1)  # [batch, heads, keys, head_dim]
        v = v.repeat_interleave(group_size, dim=1)
        mask = causal_mask(q.shape[-2], k.shape[-2], q.device, self.sliding_window)
        return scaled_dot_product_attention(q, k, v, mask)
