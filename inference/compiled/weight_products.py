"""Products of weights in few bits with activations in float32, compiled with numba.

Decoding reads every weight once per token, so its speed is that of memory, and weights of half or a
quarter of the bytes make it two or four times as fast. A tile of a few rows is brought into float32
in the cache of the processor and used for all tokens of the step. With one token, the conversion
and the product are one loop. Many tokens (a prompt) are different: there a matrix product in
PyTorch is faster, and the conversion of the whole matrix costs little beside it.

Three forms of a matrix [rows, columns]:

- bfloat16, as uint16: the upper half of a float32;
- int8: codes, and one scale for each row;
- int4: codes from 0 to 15 in blocks of 32 columns; weight = code * scale + smallest. The first 16
  columns of a block are the low halves of its 16 bytes, the last 16 the high halves, as in GGUF.

What this leaves out: activations in int8, with which processors that have such instructions go
further.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int8, UInt8, UInt16
from torch import Tensor

from inference.compiled.weight_kernels import (
    BLOCK,
    HALF,
    ONE_CALLER,
    bfloat16_product,
    int4_product,
    int8_product,
    restore_int4,
)
from inference.weight_quantization import quantize_int4, quantize_int8, unpack_nibbles

FEW_TOKENS = 32  # beyond, PyTorch's product of the restored matrix is faster


class BFloat16Matrix(NamedTuple):
    """Weights in bfloat16."""

    bits: UInt16[np.ndarray, "rows columns"]

    @classmethod
    def of(cls, weight: Float[Tensor, "rows columns"]) -> "BFloat16Matrix":
        """Round a matrix to bfloat16."""
        rounded = weight.detach().cpu().bfloat16().contiguous()
        return cls(rounded.view(torch.int16).numpy().view(np.uint16))

    @property
    def num_rows(self) -> int:
        return len(self.bits)

    def multiply(self, x: np.ndarray, out: np.ndarray) -> None:
        """out = x @ weights.T, for few tokens."""
        bfloat16_product(self.bits, x, out)

    def restored(self) -> Float[Tensor, "rows columns"]:
        """Return the weights in float32."""
        return torch.from_numpy(self.bits.view(np.int16)).view(torch.bfloat16).float()


class Int8Matrix(NamedTuple):
    """weight = code * scale of its row."""

    codes: Int8[np.ndarray, "rows columns"]
    scales: Float32[np.ndarray, " rows"]

    @classmethod
    def of(cls, weight: Float[Tensor, "rows columns"]) -> "Int8Matrix":
        """Quantize a matrix as `quantize_int8` does."""
        codes, scales = quantize_int8(weight.detach().cpu().float())
        return cls(codes.contiguous().numpy(), scales.flatten().contiguous().numpy())

    @property
    def num_rows(self) -> int:
        return len(self.codes)

    def multiply(self, x: np.ndarray, out: np.ndarray) -> None:
        """out = x @ weights.T, for few tokens."""
        int8_product(self.codes, self.scales, x, out)

    def restored(self) -> Float[Tensor, "rows columns"]:
        """Return the weights in float32."""
        return torch.from_numpy(self.codes).float() * torch.from_numpy(self.scales)[:, None]


class Int4Matrix(NamedTuple):
    """weight = code * scale + smallest, both of its block of 32 columns."""

    packed: UInt8[np.ndarray, "rows half_columns"]
    scales: Float32[np.ndarray, "rows blocks"]
    smallest: Float32[np.ndarray, "rows blocks"]

    @classmethod
    def of(cls, weight: Float[Tensor, "rows columns"]) -> "Int4Matrix":
        """Quantize a matrix as `quantize_int4` does with a zero point; columns are whole blocks."""
        made = quantize_int4(weight.detach().cpu().float(), BLOCK, symmetric=False)
        codes = unpack_nibbles(made.packed, made.num_columns).numpy()
        blocks = codes.reshape(len(codes), -1, 2, HALF)
        packed = (blocks[:, :, 0] | blocks[:, :, 1] << 4).reshape(len(codes), -1)
        scales = made.scales.float().numpy()
        smallest = -scales * made.zeros.float().numpy()
        return cls(*map(np.ascontiguousarray, (packed, scales, smallest)))

    @property
    def num_rows(self) -> int:
        return len(self.packed)

    def multiply(self, x: np.ndarray, out: np.ndarray) -> None:
        """out = x @ weights.T, for few tokens."""
        int4_product(self.packed, self.scales, self.smallest, x, out)

    def restored(self) -> Float[Tensor, "rows columns"]:
        """Return the weights in float32."""
        weights = np.empty((self.num_rows, self.scales.shape[1] * BLOCK), np.float32)
        restore_int4(self.packed, self.scales, self.smallest, weights)
        return torch.from_numpy(weights)


class Float32Matrix(NamedTuple):
    """Weights as they are."""

    weights: Float[Tensor, "rows columns"]

    @classmethod
    def of(cls, weight: Float[Tensor, "rows columns"]) -> "Float32Matrix":
        """Keep a matrix in float32."""
        return cls(weight.detach().cpu().float().contiguous())

    @property
    def num_rows(self) -> int:
        return len(self.weights)

    def multiply(self, x: np.ndarray, out: np.ndarray) -> None:
        """out = x @ weights.T."""
        torch.mm(torch.from_numpy(x), self.weights.T, out=torch.from_numpy(out))

    def restored(self) -> Float[Tensor, "rows columns"]:
        """Return the weights."""
        return self.weights


Matrix = Float32Matrix | BFloat16Matrix | Int8Matrix | Int4Matrix
MATRICES = {
    "float32": Float32Matrix,
    "bfloat16": BFloat16Matrix,
    "int8": Int8Matrix,
    "int4": Int4Matrix,
}


def product(
    matrix: Matrix, x: Float32[np.ndarray, "tokens columns"]
) -> Float32[np.ndarray, "tokens rows"]:
    """Return x @ weights.T, [tokens, rows]."""
    out = np.empty((len(x), matrix.num_rows), np.float32)
    with ONE_CALLER:
        if len(x) <= FEW_TOKENS:
            matrix.multiply(x, out)
            return out
        restored = matrix.restored()
    torch.mm(torch.from_numpy(x), restored.T, out=torch.from_numpy(out))
    return out
