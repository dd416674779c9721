"""Causal attention by the backend that was asked for: one table from names to functions.

Every function takes q, k, v and the window, with keys and values as the cache stores them: one head
for each group of query heads. All give what the lesson's formula gives, to rounding. What this
leaves out: "eager", which is that formula (transformer_lm/attention.py).
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lm_core.user_error import UserError
from transformer_lm.kernels.attention_backend import AttentionBackend, choose_backend
from transformer_lm.kernels.matmul_attention import matmul_attention
from transformer_lm.tiled_attention import tiled_attention


def fast_attention(
    backend: AttentionBackend,
    q: Float[Tensor, "batch heads queries head_dim"],
    k: Float[Tensor, "batch kv_heads keys head_dim"],
    v: Float[Tensor, "batch kv_heads keys head_dim"],
    sliding_window: int | None = None,
) -> Float[Tensor, "batch heads queries head_dim"]:
    """softmax(q k^T / sqrt(head_dim)) v, each query seeing its own position and those before it.

    Args:
        backend: a row of KERNELS, or "auto"; where "triton" does not run, "sdpa" takes its place.
        q, k, v: the queries are the last positions of the keys.
        sliding_window: a query sees this many positions, its own the last; None for all.

    Raises:
        UserError: no backend has this name.
    """
    if sliding_window is not None and sliding_window >= k.shape[-2]:
        sliding_window = None  # it covers every key
    chosen = choose_backend(backend, q, k)
    if chosen not in KERNELS:
        names = ", ".join(["auto", *KERNELS])
        raise UserError(
            f"attention_backend is {backend!r}; expected one of {names}, or eager, which is the "
            "formula in transformer_lm/attention.py and not run here"
        )
    return KERNELS[chosen](q, k, v, sliding_window)


def by_sdpa(q: Tensor, k: Tensor, v: Tensor, sliding_window: int | None) -> Tensor:
    """PyTorch's kernel. Its is_causal aligns the first query with the first key, so with cached
    keys it is given the mask instead.
    """
    k, v = repeat_for_groups(q, k, v)
    if q.shape[-2] == k.shape[-2] and sliding_window is None:
        return nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    mask = visible_keys(q, k, sliding_window)
    return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def by_matmul(q: Tensor, k: Tensor, v: Tensor, sliding_window: int | None) -> Tensor:
    k, v = repeat_for_groups(q, k, v)
    return matmul_attention(q, k, v, visible_keys(q, k, sliding_window))


def by_tiles(q: Tensor, k: Tensor, v: Tensor, sliding_window: int | None) -> Tensor:
    return tiled_attention(q, k, v, is_causal=True, sliding_window=sliding_window)


def by_triton(q: Tensor, k: Tensor, v: Tensor, sliding_window: int | None) -> Tensor:
    from transformer_lm.kernels.flash_attention import flash_attention  # Triton is on Linux only

    return flash_attention(q, k, v, is_causal=True, sliding_window=sliding_window)


KERNELS: dict[AttentionBackend, Callable[[Tensor, Tensor, Tensor, int | None], Tensor]] = {
    "matmul": by_matmul,
    "sdpa": by_sdpa,
    "tiled": by_tiles,
    "triton": by_triton,
}


def repeat_for_groups(
    q: Float[Tensor, "batch heads queries head_dim"],
    k: Float[Tensor, "batch kv_heads keys head_dim"],
    v: Float[Tensor, "batch kv_heads keys head_dim"],
) -> tuple[Float[Tensor, "batch heads keys head_dim"], Float[Tensor, "batch heads keys head_dim"]]:
    """Keys and values once for every query head that reads them."""
    group_size = q.shape[1] // k.shape[1]
    if group_size == 1:
        return k, v
    return k.repeat_interleave(group_size, dim=1), v.repeat_interleave(group_size, dim=1)


def visible_keys(
    q: Float[Tensor, "batch heads queries head_dim"],
    k: Float[Tensor, "batch heads keys head_dim"],
    sliding_window: int | None,
) -> Bool[Tensor, "queries keys"]:
    """True where a query may look, from the distance between the two positions."""
    num_queries, num_keys = q.shape[-2], k.shape[-2]
    query_positions = torch.arange(num_keys - num_queries, num_keys, device=q.device)
    distance = query_positions[:, None] - torch.arange(num_keys, device=q.device)
    visible = distance >= 0
    return visible if sliding_window is None else visible & (distance < sliding_window)
