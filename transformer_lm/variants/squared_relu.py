"""The feed-forward layer of Primer: relu(x W1^T)^2 W2^T (So et al., 2021).

It has two matrices, like the GELU MLP. Squaring lets large inner values count for more, and the
derivative at 0 has no step.

What this leaves out: Primer's other change, a convolution over queries, keys and values.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from transformer_lm.layers import Linear


class SquaredReLU(nn.Module):
    """down(relu(up(x))^2): the negative inner values become 0, the others are squared."""

    def __init__(self, d_model: int, d_ff: int, bias: bool = False) -> None:
        super().__init__()
        self.up = Linear(d_model, d_ff, bias)
        self.down = Linear(d_ff, d_model, bias)

    def forward(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        return self.down(torch.relu(self.up(x)).square())
