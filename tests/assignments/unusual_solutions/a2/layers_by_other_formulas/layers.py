"""Layers by other formulas: logsumexp, the logarithm of the sigmoid, products by einsum, weights
drawn by rejection; the parameters are created in another order.
"""

import math

import torch
from torch import Tensor, nn


def softmax(x: Tensor, dim: int) -> Tensor:
    below = x - x.amax(dim, keepdim=True)  # logsumexp of large values would round them
    return (below - torch.logsumexp(below, dim, keepdim=True)).exp()


def silu(x: Tensor) -> Tensor:
    return x * torch.exp(nn.functional.logsigmoid(x))


def gelu(x: Tensor) -> Tensor:
    inner = math.sqrt(2 / math.pi) * x * (1 + 0.044715 * x * x)
    return x * torch.special.expit(2 * inner)


def drawn(rows: int, columns: int, std: float) -> nn.Parameter:
    """Draw again what is beyond three standard deviations."""
    values = torch.randn(rows, columns)
    while (far := values.abs() > 3).any():
        values[far] = torch.randn(int(far.sum()))
    return nn.Parameter(values * std)


class Linear(nn.Module):
    def __init__(self, d_in: int, d_out: int, bias: bool = False) -> None:
        super().__init__()
        self.register_parameter("bias", nn.Parameter(torch.zeros(d_out)) if bias else None)
        self.weight = drawn(d_out, d_in, (2 / (d_in + d_out)) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        product = torch.einsum("...i,oi->...o", x, self.weight)
        return product if self.bias is None else torch.add(product, self.bias)


class Embedding(nn.Module):
    def __init__(self, vocab_size: int, d_model: int) -> None:
        super().__init__()
        self.weight = drawn(vocab_size, d_model, 0.5 * d_model**-0.5)

    def forward(self, token_ids: Tensor) -> Tensor:
        rows = self.weight.index_select(0, token_ids.reshape(-1))
        return rows.reshape(*token_ids.shape, -1)


class RMSNorm(nn.Module):
    def __init__(self, d_model: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.float32)
        mean_square = torch.einsum("...d,...d->...", wide, wide) / wide.shape[-1]
        return (wide / (mean_square + self.eps).sqrt()[..., None] * self.weight).to(x.dtype)


class LayerNorm(nn.Module):
    def __init__(self, d_model: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(d_model))
        self.weight = nn.Parameter(torch.ones(d_model))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.float32)
        variance, mean = torch.var_mean(wide, dim=-1, correction=0, keepdim=True)
        normal = (wide - mean) * (variance + self.eps) ** -0.5
        return torch.addcmul(self.bias, normal, self.weight).to(x.dtype)


class SwiGLU(nn.Module):
    def __init__(self, d_model: int, d_ff: int, bias: bool = False) -> None:
        super().__init__()
        self.down = Linear(d_ff, d_model, bias)
        self.up = Linear(d_model, d_ff, bias)
        self.gate = Linear(d_model, d_ff, bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(silu(self.gate(x)).mul(self.up(x)))


class GELUMLP(nn.Module):
    def __init__(self, d_model: int, d_ff: int, bias: bool = False) -> None:
        super().__init__()
        for name, sizes in {"down": (d_ff, d_model), "up": (d_model, d_ff)}.items():
            self.add_module(name, Linear(*sizes, bias))

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.up, gelu, self.down):
            x = layer(x)
        return x
