"""The small formulas in float64: softmax, attention over whole tensors, masks, rotation, RMSNorm.

Nothing here imports the code under test. What this leaves out: speed.
"""

import torch
from torch import Tensor


def softmax(x: Tensor, dim: int) -> Tensor:
    return torch.softmax(x.double(), dim)


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """Compute attention by the formula; a query that sees nothing gives 0."""
    q, k, v = q.double(), k.double(), v.double()
    scores = torch.einsum("...qd,...kd->...qk", q, k)
    scores = scores * (q.shape[-1] ** -0.5 if scale is None else scale)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return torch.softmax(scores, -1).nan_to_num(0.0) @ v


def visible(
    num_queries: int, num_keys: int, is_causal: bool = True, window: int | None = None
) -> Tensor:
    """Return a mask that is True where a query may look, computed entry by entry."""
    allowed = torch.ones(num_queries, num_keys, dtype=torch.bool)
    for query in range(num_queries):
        for key in range(num_keys):
            distance = num_keys - num_queries + query - key
            if is_causal and (distance < 0 or (window is not None and distance >= window)):
                allowed[query, key] = False
    return allowed


def frequencies(head_dim: int, theta: float = 10000.0) -> Tensor:
    values = [theta ** (-2 * i / head_dim) for i in range(head_dim // 2)]
    return torch.tensor(values, dtype=torch.float64)


def rotate(
    x: Tensor, positions: Tensor, turns: Tensor | float = 10000.0, pairs: str = "adjacent"
) -> Tensor:
    """Rotate every pair by its 2 x 2 matrix; `turns` are the frequencies, or theta."""
    x = x.double()
    if isinstance(turns, float):
        turns = frequencies(x.shape[-1], turns)
    angles = positions.double()[..., None] * turns
    cos, sin = angles.cos(), angles.sin()
    if pairs == "halves":
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-5) -> Tensor:
    x = x.double()
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight.double()
