"""Attention with the heads on the third axis and the groups on one of their own; softmax to base 2;
nothing is repeated or transposed in memory, and every backend is the same code.
"""

import math
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from transformer_lm.layers import Linear, RMSNorm
from transformer_lm.model_config import ModelConfig

LOG2_E = math.log2(math.e)


@runtime_checkable
class KeyValueCache(Protocol):
    @property
    def length(self) -> int: ...

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]: ...


def causal_mask(
    num_queries: int, num_keys: int, device: torch.device, sliding_window: int | None = None
) -> Tensor:
    keys = torch.arange(num_keys, device=device)
    age = keys[num_keys - num_queries :, None] - keys
    window = num_keys if sliding_window is None else sliding_window
    return (age >= 0) & (age < window)


def weights_of(scores: Tensor, mask: Tensor | None) -> Tensor:
    if mask is not None:
        scores = torch.where(mask, scores, scores.new_tensor(-torch.inf))
    powers = torch.exp2((scores - scores.max(dim=-1, keepdim=True).values) * LOG2_E)
    return powers / powers.sum(dim=-1, keepdim=True)


def scaled_dot_product_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None
) -> Tensor:
    scores = torch.einsum("...qd,...kd->...qk", q / q.shape[-1] ** 0.5, k)
    return torch.einsum("...qk,...kd->...qd", weights_of(scores, mask), v)


class CausalSelfAttention(nn.Module):
    def __init__(self, config: ModelConfig, layer: int, attention_backend: str = "auto") -> None:
        super().__init__()
        self.shape = config.num_kv_heads, -1, config.head_dim
        self.layer = layer
        self.window = config.sliding_window
        width, narrow = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.output = Linear(width, config.d_model, config.biases)
        self.value = Linear(config.d_model, narrow, config.biases)
        self.key = Linear(config.d_model, narrow, config.biases)
        self.query = Linear(config.d_model, width, config.biases)
        plain = not config.qk_norm
        self.key_norm = nn.Identity() if plain else RMSNorm(config.head_dim, config.norm_eps)
        self.query_norm = nn.Identity() if plain else RMSNorm(config.head_dim, config.norm_eps)

    def forward(
        self,
        x: Tensor,
        rotary: nn.Module | None,
        positions: Tensor,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        q = self.query_norm(self.query(x).unflatten(-1, self.shape))  # [batch, seq, kv, group, dim]
        k = self.key_norm(self.key(x).unflatten(-1, (-1, self.shape[-1])))  # [batch, seq, kv, dim]
        v = self.value(x).unflatten(-1, (-1, self.shape[-1]))
        if rotary is not None:
            q = rotary(q.movedim(1, -2), positions).movedim(-2, 1)
            k = rotary(k.movedim(1, -2), positions).movedim(-2, 1)
        if cache is not None:
            k, v = (each.movedim(1, 2) for each in (k, v))
            k, v = (each.movedim(2, 1) for each in cache.append(self.layer, k, v))
        scores = torch.einsum("bqngd,bknd->bngqk", q, k) / math.sqrt(q.shape[-1])
        mask = causal_mask(q.shape[1], k.shape[1], x.device, self.window)
        joined = torch.einsum("bngqk,bknd->bqngd", weights_of(scores, mask), v)
        return self.output(joined.flatten(2))
