"""Rotary positions: the pairs of values of a query or key at position p are rotated by an angle
proportional to p, so that the product of a query and a key depends only on their distance.

Su et al., 2021, equations 14, 15 and 34. Pair i of a head is the *adjacent* values (2i, 2i + 1), as
in the paper. Hugging Face pairs (i, i + head_dim / 2) instead, which is the same function after
reordering the projections' rows (as transformer_lm/weights/pretrained.py does).

A pair (a, b) rotated by an angle t is the complex product (a + bi)(cos t + i sin t), equation 12 of
the paper. In this form it takes a quarter of the time of four products of strided halves (0.6
against 2.2 ms forward and backward for 4,096 tokens of width 256, 2 CPU cores).

A model trained on short texts has only seen small angles of the slow pairs. The rescalings for
longer contexts slow these pairs down and leave the fast ones, which distinguish neighbours,
unchanged.

What this leaves out: rescaling that depends on the length of the current text.
"""

import math
from typing import assert_never

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lm_core.user_error import UserError
from transformer_lm.model_config import RopeScaling


def rotary_frequencies(
    head_dim: int, theta: float, scaling: RopeScaling | None = None
) -> Float[Tensor, " pairs"]:
    """Return the radians per position of each of the head_dim / 2 pairs, fastest first; float64."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim
    frequencies = theta**-exponents
    if scaling is None:
        return frequencies
    slowed = frequencies / scaling.factor
    kept = share_kept(frequencies, theta, scaling)
    return kept * frequencies + (1 - kept) * slowed


def share_kept(
    frequencies: Float[Tensor, " pairs"], theta: float, scaling: RopeScaling
) -> Float[Tensor, " pairs"]:
    """Return 1 for a pair that is unchanged, 0 for one that is slowed by the whole factor.

    llama3 uses the number of turns of a pair within the original context, and interpolates linearly
    in that number (Llama 3's reference code). yarn interpolates linearly in the *number of the
    pair*, between the pairs that make beta_fast and beta_slow turns (Peng et al., 2023, equations
    16 to 18).
    """
    match scaling.kind:
        case "linear":
            return torch.zeros_like(frequencies)
        case "llama3":
            turns = scaling.original_context_length * frequencies / (2 * math.pi)
            low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
            return ((turns - low) / (high - low)).clamp(0, 1)
        case "yarn":
            return _share_kept_by_yarn(len(frequencies), theta, scaling)
        case unknown:
            assert_never(unknown)


def _share_kept_by_yarn(
    num_pairs: int, theta: float, scaling: RopeScaling
) -> Float[Tensor, " pairs"]:

    def pair_with(turns: float) -> float:
        within = scaling.original_context_length / (2 * math.pi * turns)
        return num_pairs * math.log(within) / math.log(theta)

    first = max(math.floor(pair_with(scaling.beta_fast)), 0)
    last = min(math.ceil(pair_with(scaling.beta_slow)), 2 * num_pairs - 1)
    pairs = torch.arange(num_pairs, dtype=torch.float64)
    return 1 - ((pairs - first) / max(last - first, 1e-3)).clamp(0, 1)


def attention_factor(scaling: RopeScaling | None) -> float:
    """Return the factor by which yarn multiplies rotated queries and keys, and 1 for other
    rescalings.

    Their products are multiplied by its square, because attention over many more positions would
    otherwise be too flat (Peng et al., 2023, equation 22).
    """
    if scaling is None or scaling.kind != "yarn":
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    return 0.1 * math.log(scaling.factor) + 1


class RotaryEmbedding(nn.Module):
    """Rotates pair i of a vector at position p by the angle p * theta^(-2i / head_dim), modified by
    `scaling`.

    The cosines and sines of every position are computed once, in float64, because at position
    100,000 a float32 angle has an error of a hundredth of a radian. They are neither parameters nor
    buffers, so they are not saved, and converting the module to bfloat16 does not change them.
    """

    def __init__(
        self,
        head_dim: int,
        context_length: int,
        theta: float = 10000.0,
        scaling: RopeScaling | None = None,
    ) -> None:
        super().__init__()
        if head_dim % 2:
            raise UserError(
                f"head_dim = {head_dim} is odd; it must be even, because pairs are rotated"
            )
        positions = torch.arange(context_length, dtype=torch.float64)
        angles = torch.outer(positions, rotary_frequencies(head_dim, theta, scaling))
        factor = attention_factor(scaling)  # angles: [context_length, head_dim / 2]
        self.cosines = (factor * angles.cos()).float()
        self.sines = (factor * angles.sin()).float()

    def forward(
        self, x: Float[Tensor, "*batch seq head_dim"], positions: Int[Tensor, "*positions seq"]
    ) -> Float[Tensor, "*batch seq head_dim"]:
        """Rotate every vector of x by its position.

        Args:
            x: queries or keys.
            positions: the position of each vector, below context_length. Leading axes broadcast
                against those of x, so [seq] gives the positions for every head of every sequence.
        """
        if self.cosines.device != positions.device:  # not a buffer, so not moved automatically
            self.cosines = self.cosines.to(positions.device)
            self.sines = self.sines.to(positions.device)
        cosines, sines = self.cosines[positions], self.sines[positions]
        pairs = x.float().unflatten(-1, (-1, 2))  # [..., seq, head_dim / 2, 2]
        if torch.compiler.is_compiling():  # fuses this into one loop; does not support complex
            first, second = pairs.unbind(-1)
            turned = (first * cosines - second * sines, first * sines + second * cosines)
            return torch.stack(turned, dim=-1).flatten(-2).to(x.dtype)
        product = as_complex(pairs) * torch.complex(cosines, sines)
        return torch.view_as_real(product).flatten(-2).to(x.dtype)


def as_complex(pairs: Float[Tensor, "*batch pairs 2"]) -> Tensor:
    """View pairs as complex numbers; copy them first if they do not lie in memory as such, as in a
    transposed tensor, or in one that begins at an odd place.
    """
    *steps, step = pairs.stride()
    if step != 1 or any(step % 2 for step in [*steps, pairs.storage_offset()]):
        pairs = pairs.clone(memory_format=torch.contiguous_format)
    return torch.view_as_complex(pairs)
