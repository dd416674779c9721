"""Attention: each position takes a weighted mean of the values at the positions before it.

`scaled_dot_product_attention` is the formula, and builds the whole [queries, keys] table.
`CausalSelfAttention` adds the projections, the heads, grouped query heads and rotary positions, and
takes a faster way to the same formula where there is one (transformer_lm/attention_backend.py).
What this leaves out: sequences of different lengths in one batch.

Vaswani et al., 2017, equation 1. Grouped query heads: Ainslie et al., 2023, section 2.2.
"""

import math
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from transformer_lm.attention_backend import AttentionBackend
from transformer_lm.layers import Linear, RMSNorm, softmax
from transformer_lm.model_config import ModelConfig
from transformer_lm.rotary_embedding import RotaryEmbedding
from transformer_lm.tiled_attention import tiled_attention


class KeyValueCache(Protocol):
    """What attention needs of a cache: `inference` has one, and this module never imports it."""

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
    """True where a query may look: at itself and at what lies before it; with a sliding window, at
    itself and at the sliding_window - 1 positions before it.

    The queries are the last `num_queries` of `num_keys` positions, so query i is at position
    num_keys - num_queries + i.
    """
    behind = num_keys - num_queries
    everywhere = torch.ones(num_queries, num_keys, dtype=torch.bool, device=device)
    mask = everywhere.tril(behind)
    return mask if sliding_window is None else mask.triu(behind - sliding_window + 1)


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
    scores = torch.einsum("...qd,...kd->...qk", q / math.sqrt(q.shape[-1]), k)
    if mask is not None:
        scores = torch.where(mask, scores, -math.inf)
    return torch.einsum("...qk,...kd->...qd", softmax(scores, -1), v)


class CausalSelfAttention(nn.Module):
    """Grouped query heads over the tokens so far.

    Query head h reads key head h // (num_heads / num_kv_heads): neighbours share.

    Args:
        config: the model's shape.
        layer: this block's number, under which a cache stores its keys.
        attention_backend: "tiled" never builds the table; all others run the formula above.
    """

    def __init__(
        self, config: ModelConfig, layer: int, attention_backend: AttentionBackend = "auto"
    ) -> None:
        super().__init__()
        self.config, self.layer, self.attention_backend = config, layer, attention_backend
        width, kv_width = (n * config.head_dim for n in (config.num_heads, config.num_kv_heads))
        self.query = Linear(config.d_model, width, config.biases)
        self.key = Linear(config.d_model, kv_width, config.biases)
        self.value = Linear(config.d_model, kv_width, config.biases)
        self.output = Linear(width, config.d_model, config.biases)
        self.query_norm = self.key_norm = None
        if config.qk_norm:
            self.query_norm = RMSNorm(config.head_dim, config.norm_eps)
            self.key_norm = RMSNorm(config.head_dim, config.norm_eps)

    def forward(
        self,
        x: Float[Tensor, "batch seq d_model"],
        rotary: RotaryEmbedding | None,
        positions: Int[Tensor, " seq"],
        cache: KeyValueCache | None = None,
    ) -> Float[Tensor, "batch seq d_model"]:
        """Attend from each of x's positions to itself and to all before it, the cached included.

        `rotary` is None for a model that knows positions in another way, or not at all.
        """
        q = self._prepare(self.query(x), self.query_norm, rotary, positions)
        k = self._prepare(self.key(x), self.key_norm, rotary, positions)
        v = self._split_heads(self.value(x), self.config.num_kv_heads)
        if cache is not None:
            k, v = cache.append(self.layer, k, v)
        return self.output(self._attend(q, k, v).transpose(1, 2).flatten(2))

    def _prepare(
        self,
        x: Float[Tensor, "batch seq width"],
        norm: RMSNorm | None,
        rotary: RotaryEmbedding | None,
        positions: Int[Tensor, " seq"],
    ) -> Float[Tensor, "batch heads seq head_dim"]:
        """Projected queries or keys as heads, normed and turned where the model does so."""
        heads = self._split_heads(x, x.shape[-1] // self.config.head_dim)
        if norm is not None:
            heads = norm(heads)
        return heads if rotary is None else rotary(heads, positions)

    def _split_heads(
        self, x: Float[Tensor, "batch seq width"], heads: int
    ) -> Float[Tensor, "batch heads seq head_dim"]:
        return x.unflatten(2, (heads, self.config.head_dim)).transpose(1, 2)

    def _attend(
        self,
        q: Float[Tensor, "batch heads queries head_dim"],
        k: Float[Tensor, "batch kv_heads keys head_dim"],
        v: Float[Tensor, "batch kv_heads keys head_dim"],
    ) -> Float[Tensor, "batch heads queries head_dim"]:
        window = self.config.sliding_window
        if self.attention_backend == "tiled":
            return tiled_attention(q, k, v, is_causal=True, sliding_window=window)
        mask = causal_mask(q.shape[2], k.shape[2], q.device, window)
        grouped = q.unflatten(1, (k.shape[1], -1))  # [batch, kv_heads, group, queries, head_dim]
        return scaled_dot_product_attention(grouped, k[:, :, None], v[:, :, None], mask).flatten(
            1, 2
        )
