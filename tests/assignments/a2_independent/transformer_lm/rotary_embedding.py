"""Rotary positions: a query or key at position p has its pairs of values turned by an angle
proportional to p, so that the product of a query and a key depends only on how far apart they are.

Su et al., 2021, equations 14, 15 and 34. Pair i of a head is the *adjacent* values (2i, 2i + 1), as
in the paper; Hugging Face pairs (i, i + head_dim / 2) instead, which is the same function after a
reordering of the projections' rows (transformer_lm/pretrained.py does it).

A pair (a, b) turned by an angle t is (a cos t - b sin t, a sin t + b cos t).

A model that was trained on short texts has never seen the slow pairs turn far. The rescalings for
longer contexts slow those down and leave the fast ones, which tell neighbours apart, as they are.
What this leaves out: rescaling that changes with the length of the text at hand.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from transformer_lm.model_config import RopeScaling


def rotary_frequencies(
    head_dim: int, theta: float, scaling: RopeScaling | None = None
) -> Float[Tensor, " pairs"]:
    """Radians per position of each of the head_dim / 2 pairs, fastest first; float64."""
    pair = torch.arange(head_dim // 2, dtype=torch.float64)
    frequencies = torch.exp(pair * (-2 * math.log(theta) / head_dim))
    if scaling is None:
        return frequencies
    return torch.lerp(
        frequencies / scaling.factor, frequencies, share_kept(frequencies, theta, scaling)
    )


def share_kept(
    frequencies: Float[Tensor, " pairs"], theta: float, scaling: RopeScaling
) -> Float[Tensor, " pairs"]:
    """1 for a pair that turns as before, 0 for one that is slowed by the whole factor.

    llama3 goes by how many turns a pair makes within the original context, and blends linearly in
    that number (Llama 3's reference code); yarn blends linearly in the *number of the pair*,
    between the pairs that make beta_fast and beta_slow turns (Peng et al., 2023, equations 16 to
    18).
    """
    pairs = len(frequencies)
    length = scaling.original_context_length
    if scaling.kind == "linear":
        return torch.zeros_like(frequencies)
    if scaling.kind == "llama3":
        turns = frequencies * (length / (2 * math.pi))
        low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
        return ((turns - low) / (high - low)).clamp(0, 1)

    def pair_with(turns: float) -> float:
        return pairs * math.log(length / (2 * math.pi * turns)) / math.log(theta)

    first = max(math.floor(pair_with(scaling.beta_fast)), 0)
    last = min(math.ceil(pair_with(scaling.beta_slow)), 2 * pairs - 1)
    pair = torch.arange(pairs, dtype=frequencies.dtype, device=frequencies.device)
    return (1 - (pair - first) / max(last - first, 0.001)).clamp(0, 1)


def attention_factor(scaling: RopeScaling | None) -> float:
    """yarn multiplies turned queries and keys by this, so their products by its square: attention
    over many more positions would otherwise be too flat (Peng et al., 2023, equation 22).
    """
    if scaling is None or scaling.kind != "yarn":
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    return 1 + 0.1 * math.log(scaling.factor)


class RotaryEmbedding(nn.Module):
    """Turns pair i of a vector at position p by the angle p * theta^(-2i / head_dim), or as
    `scaling` says.

    The cosines and sines of every position are computed once, in float64, because at position
    100,000 a float32 angle is off by a hundredth of a radian. They are not parameters and are not
    saved.
    """

    cosines: Tensor
    sines: Tensor

    def __init__(
        self,
        head_dim: int,
        context_length: int,
        theta: float = 10000.0,
        scaling: RopeScaling | None = None,
    ) -> None:
        super().__init__()
        if head_dim % 2:
            raise ValueError(f"head_dim = {head_dim} is odd; rotary positions turn pairs of values")
        frequencies = rotary_frequencies(head_dim, theta, scaling)
        angles = torch.outer(torch.arange(context_length, dtype=torch.float64), frequencies)
        length = attention_factor(scaling)
        self.register_buffer("cosines", (angles.cos() * length).float(), persistent=False)
        self.register_buffer("sines", (angles.sin() * length).float(), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "RotaryEmbedding":
        """Tables move to another device with the model, but stay float32 in a bfloat16 one."""

        def move(table: Tensor) -> Tensor:
            moved = fn(table)
            return moved if moved.dtype == table.dtype else table.to(moved.device)

        return super()._apply(move, recurse)

    def forward(
        self, x: Float[Tensor, "*batch seq head_dim"], positions: Int[Tensor, "*positions seq"]
    ) -> Float[Tensor, "*batch seq head_dim"]:
        """Turn every vector of x by its position.

        Args:
            x: queries or keys.
            positions: of each vector, below context_length; leading axes broadcast against x's, so
                [seq] is one row of positions for every head of every sequence.
        """
        cosines, sines = self.cosines[positions], self.sines[positions]
        a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
        turned = torch.stack((a * cosines - b * sines, a * sines + b * cosines), dim=-1)
        return turned.flatten(-2).to(x.dtype)
