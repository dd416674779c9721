"""SwiGLU with GELU in place of SiLU: (gelu(x W^T) * (x V^T)) W2^T (Shazeer, 2020, equation 6).

What this leaves out: GELU itself, which is GPT-2's approximation in layers.py.
"""

from jaxtyping import Float
from torch import Tensor, nn

from transformer_lm.layers import Linear, gelu


class GEGLU(nn.Module):
    """down(gelu(gate(x)) * up(x)): three matrices with the names and shapes of SwiGLU's."""

    def __init__(self, d_model: int, d_ff: int, bias: bool = False) -> None:
        super().__init__()
        self.gate = Linear(d_model, d_ff, bias)
        self.up = Linear(d_model, d_ff, bias)
        self.down = Linear(d_ff, d_model, bias)

    def forward(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        return self.down(gelu(self.gate(x)) * self.up(x))
