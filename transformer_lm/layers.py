"""The layers that do not depend on positions: softmax, SiLU, GELU, linear, embedding, norms,
feed-forward.

Weights have PyTorch's shape for a linear map, [d_out, d_in], so that a row is one output.

What this leaves out: dropout (a model that sees its data about once does not need it).

RMSNorm: Zhang and Sennrich, 2019, equation 4. LayerNorm: Ba et al., 2016, equation 4. SwiGLU:
Shazeer, 2020, equation 6. GELU: Hendrycks and Gimpel, 2016, section 2.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from transformer_lm.initialization import draw_normal, linear_std, tied_embedding_std


def softmax(x: Float[Tensor, "..."], dim: int) -> Float[Tensor, "..."]:
    """Return exp(x) / sum(exp(x)) along `dim`.

    The largest value is subtracted first, so no exponent is above 0; exp(1000) would be infinity. A
    slice in which every value is -inf gives NaN, as there is no distribution over nothing.
    """
    exponentials = torch.exp(x - x.amax(dim=dim, keepdim=True))
    return exponentials / exponentials.sum(dim=dim, keepdim=True)


def silu(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return x * sigmoid(x), element by element (Hendrycks and Gimpel, 2016)."""
    return x * torch.sigmoid(x)


def gelu(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return x times the normal distribution's share below x, approximated by tanh as in GPT-2.

    The approximation has an error of at most 5e-4.
    """
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


class Linear(nn.Module):
    """y = x W^T + b, with W of shape [d_out, d_in]; b is optional, and Llama has none.

    W is drawn from a normal distribution of variance 2 / (d_in + d_out) (Glorot and Bengio, 2010,
    equation 12), truncated at three standard deviations; b is 0. In a model, `initialization.py`
    sets both.
    """

    def __init__(self, d_in: int, d_out: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(d_out, d_in))
        self.bias = nn.Parameter(torch.zeros(d_out)) if bias else None
        draw_normal(self.weight, linear_std(d_in, d_out))

    def forward(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_out"]:
        y = x @ self.weight.T
        return y if self.bias is None else y + self.bias


class Embedding(nn.Module):
    """One row of `weight` [vocab_size, d_model] for each id.

    The initial values are small (standard deviation 0.5 / sqrt(d_model)): with larger rows in a
    tied output head, a new model would be too confident. In a model, `initialization.py` sets them.
    """

    def __init__(self, vocab_size: int, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, d_model))
        draw_normal(self.weight, tied_embedding_std(d_model))

    def forward(self, token_ids: Int[Tensor, "..."]) -> Float[Tensor, "... d_model"]:
        # The gradient of self.weight[token_ids] adds rows in the order in which threads arrive, so
        # two equal runs diverge after some steps. This one has a fixed order, and takes a seventh
        # of the time.
        return torch.nn.functional.embedding(token_ids, self.weight)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight, over the last axis.

    It is computed in float32 for every type of x: the square of a bfloat16 has 8 bits, and the
    error of a mean over hundreds of them is more than the later layers can correct. The result has
    x's type.
    """

    def __init__(self, d_model: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + self.eps)
        return (wide * scale * self.weight).to(x.dtype)


class LayerNorm(nn.Module):
    """(x - mean(x)) / sqrt(var(x) + eps) * weight + bias, over the last axis; in float32, like
    RMSNorm.

    The variance is the mean of the squared distances (over n, not n - 1).
    """

    def __init__(self, d_model: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model))

    def forward(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        centred = x.float() - x.float().mean(dim=-1, keepdim=True)
        scale = torch.rsqrt(centred.square().mean(dim=-1, keepdim=True) + self.eps)
        return (centred * scale * self.weight + self.bias).to(x.dtype)


class NoNorm(nn.Module):
    """The identity, in place of a norm in models without norms."""

    def forward(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        return x


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)): a feed-forward layer whose inner values are gated."""

    def __init__(self, d_model: int, d_ff: int, bias: bool = False) -> None:
        super().__init__()
        self.gate = Linear(d_model, d_ff, bias)
        self.up = Linear(d_model, d_ff, bias)
        self.down = Linear(d_ff, d_model, bias)

    def forward(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        # The same as silu() above, in one pass forward and one backward, which takes half the time
        # (forward and backward of [1024, 864] in float32, one thread: 2.4 against 4.6 ms).
        return self.down(torch.nn.functional.silu(self.gate(x)) * self.up(x))


class GELUMLP(nn.Module):
    """down(gelu(up(x))): GPT-2's feed-forward layer, two matrices where SwiGLU has three."""

    def __init__(self, d_model: int, d_ff: int, bias: bool = False) -> None:
        super().__init__()
        self.up = Linear(d_model, d_ff, bias)
        self.down = Linear(d_ff, d_model, bias)

    def forward(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        return self.down(gelu(self.up(x)))
