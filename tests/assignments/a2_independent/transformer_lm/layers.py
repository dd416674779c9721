"""The layers without positions: softmax, SiLU, GELU, linear, embedding, norms, feed-forward.

Weights follow PyTorch's shape for a linear map, [d_out, d_in], so that a row is one output. What
this leaves out: dropout (a model that sees its data about once does not need it).

RMSNorm: Zhang and Sennrich, 2019, equation 4. LayerNorm: Ba et al., 2016, equation 4. SwiGLU:
Shazeer, 2020, equation 6. GELU: Hendrycks and Gimpel, 2016, section 2.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


def softmax(x: Float[Tensor, "..."], dim: int) -> Float[Tensor, "..."]:
    """exp(x) / sum(exp(x)) along `dim`.

    The largest value is taken off first, so no exponent is above 0: exp(1000) would be infinity. A
    slice in which every value is -inf gives NaN, as there is no distribution over nothing.
    """
    exponentials = torch.exp(x - x.detach().amax(dim, keepdim=True))
    return exponentials / exponentials.sum(dim, keepdim=True)


def silu(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """x * sigmoid(x), element by element (Hendrycks and Gimpel, 2016)."""
    return x * torch.sigmoid(x)


def gelu(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """x times the normal distribution's share below x, in the approximation by tanh that GPT-2 was
    trained with (at most 5e-4 off).
    """
    inner = math.sqrt(2 / math.pi) * x * (1 + 0.044715 * x * x)
    return x * (0.5 + 0.5 * torch.tanh(inner))


def _cut_off_normal(rows: int, columns: int, deviation: float) -> Float[Tensor, "rows columns"]:
    """New weights from a normal distribution with mean 0, cut off at three deviations."""
    weight = torch.empty(rows, columns)
    return nn.init.trunc_normal_(weight, 0.0, deviation, -3 * deviation, 3 * deviation)


class Linear(nn.Module):
    """y = x W^T + b, with W of shape [d_out, d_in]; b only where asked for: Llama has none.

    W starts from a normal distribution of variance 2 / (d_in + d_out) (Glorot and Bengio, 2010,
    equation 12), cut off at three standard deviations; b starts at 0.
    """

    def __init__(self, d_in: int, d_out: int, bias: bool = False) -> None:
        super().__init__()
        deviation = math.sqrt(2 / (d_in + d_out))
        self.weight = nn.Parameter(_cut_off_normal(d_out, d_in, deviation))
        self.bias = nn.Parameter(torch.zeros(d_out)) if bias else None

    def forward(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_out"]:
        y = torch.einsum("...i,oi->...o", x, self.weight)
        return y if self.bias is None else y + self.bias


class Embedding(nn.Module):
    """One row of `weight` [vocab_size, d_model] for each id.

    Starts small (standard deviation 0.5 / sqrt(d_model)): tied to the output head, larger rows
    would make a new model sure of its guesses.
    """

    def __init__(self, vocab_size: int, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(_cut_off_normal(vocab_size, d_model, 0.5 * d_model**-0.5))

    def forward(self, token_ids: Int[Tensor, "..."]) -> Float[Tensor, "... d_model"]:
        rows = self.weight.index_select(0, token_ids.reshape(-1))
        return rows.unflatten(0, token_ids.shape) if token_ids.dim() else rows[0]


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight, over the last axis.

    Computed in float32 whatever x is: the square of a bfloat16 has 8 bits, and a mean over hundreds
    of them is off by more than the layers above can undo. The result has x's type.
    """

    def __init__(self, d_model: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        wide = x.float()
        root = torch.sqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (wide / root * self.weight.float()).to(x.dtype)


class LayerNorm(nn.Module):
    """(x - mean(x)) / sqrt(var(x) + eps) * weight + bias, over the last axis; in float32, as above.

    The variance is the mean of the squared distances (over n, not n - 1).
    """

    def __init__(self, d_model: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model))

    def forward(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        wide = x.float()
        variance, mean = torch.var_mean(wide, dim=-1, correction=0, keepdim=True)
        y = (wide - mean) / torch.sqrt(variance + self.eps)
        return torch.addcmul(self.bias.float(), y, self.weight.float()).to(x.dtype)


class NoNorm(nn.Module):
    """x as it is: what stands in a norm's place where a model has none."""

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
        return self.down(self.up(x) * silu(self.gate(x)))


class GELUMLP(nn.Module):
    """down(gelu(up(x))): GPT-2's feed-forward layer, two matrices where SwiGLU has three."""

    def __init__(self, d_model: int, d_ff: int, bias: bool = False) -> None:
        super().__init__()
        self.up = Linear(d_model, d_ff, bias)
        self.down = Linear(d_ff, d_model, bias)

    def forward(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        return self.down(gelu(self.up(x)))
