"""Rotary positions by 2 x 2 matrices, and rescaled frequencies in plain Python, pair by pair."""

import math

import torch
from torch import Tensor, nn

from transformer_lm.model_config import RopeScaling


def rotary_frequencies(head_dim: int, theta: float, scaling: RopeScaling | None = None) -> Tensor:
    plain = [math.pow(theta, -2 * pair / head_dim) for pair in range(head_dim // 2)]
    if scaling is not None:
        kept = share_kept(torch.tensor(plain, dtype=torch.float64), theta, scaling).tolist()
        plain = [
            frequency * (share + (1 - share) / scaling.factor)
            for frequency, share in zip(plain, kept, strict=True)
        ]
    return torch.tensor(plain, dtype=torch.float64)


def share_kept(frequencies: Tensor, theta: float, scaling: RopeScaling) -> Tensor:
    pairs = len(frequencies)

    def clamped(share: float) -> float:
        return min(max(share, 0.0), 1.0)

    def by_turns(frequency: float) -> float:
        turns = scaling.original_context_length * frequency / math.tau
        low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
        return clamped((turns - low) / (high - low))

    def pair_that_turns(times: float) -> float:
        return pairs * math.log(scaling.original_context_length / (math.tau * times), theta)

    if scaling.kind == "linear":
        shares = [0.0] * pairs
    elif scaling.kind == "llama3":
        shares = list(map(by_turns, frequencies.tolist()))
    else:
        first = max(math.floor(pair_that_turns(scaling.beta_fast)), 0)
        last = min(math.ceil(pair_that_turns(scaling.beta_slow)), 2 * pairs - 1)
        width = max(last - first, 0.001)
        shares = [clamped(1 - (pair - first) / width) for pair in range(pairs)]
    return torch.tensor(shares, dtype=torch.float64)


def attention_factor(scaling: RopeScaling | None) -> float:
    if scaling is None or scaling.kind != "yarn":
        return 1.0
    given = scaling.attention_factor
    return given if given is not None else 1 + math.log(scaling.factor) / 10


class RotaryEmbedding(nn.Module):
    def __init__(
        self,
        head_dim: int,
        context_length: int,
        theta: float = 10000.0,
        scaling: RopeScaling | None = None,
    ) -> None:
        super().__init__()
        if head_dim % 2 == 1:
            raise ValueError(f"a head of {head_dim} values has no whole number of pairs")
        frequencies = rotary_frequencies(head_dim, theta, scaling)
        angles = torch.arange(context_length)[:, None].double() * frequencies
        c, s = angles.cos(), angles.sin()
        matrices = torch.stack([c, -s, s, c], dim=-1).unflatten(-1, (2, 2))
        self.matrices = [(attention_factor(scaling) * matrices).to(torch.float32)]  # a list stays

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        (matrices,) = self.matrices
        chosen = matrices.to(positions.device)[positions]  # [..., seq, pairs, 2, 2]
        pairs = x.to(torch.float32).unflatten(-1, (-1, 2))
        return (chosen @ pairs[..., None]).flatten(-3).to(x.dtype)
