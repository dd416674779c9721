"""Weight matrices in the forms that the compiled decoder multiplies with.

Decoding reads every weight once per token, so its speed is that of memory, and weights of half or a
quarter of the bytes make it two or four times as fast. Four forms, each with the matrices of all
layers in one array:

- float32;
- bfloat16, as uint16: the upper half of a float32;
- int8: codes, and a scale in float16 for each block of 32 columns, as in GGUF's Q8_0: weight = code
  * scale;
- int4: codes from 0 to 15 in such blocks, as in GGUF's Q4_1: weight = code * scale + smallest. In
  each byte, the low half is a code of the first 16 columns of the block.

A matrix that was read from Q8_0 or Q4_1 gets the codes and scales that the file had, because its
blocks reach from the smallest code to the largest.

Rows are in groups of 32, and within a group column by column (product_kernels.py says why). Rows
and columns are filled up with zeros to whole groups and blocks.

What this leaves out: the other forms of GGUF.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8, UInt16
from numba.extending import overload
from torch import Tensor

from inference.compiled.kernel_cache import kernel
from inference.compiled.product_kernels import (
    BLOCK,
    GROUP,
    INT8_OFFSET,
    ONE_CALLER,
    float_product,
    int4_product,
    int8_product,
    rounded_rows,
)


class Float32Parts(NamedTuple):
    """Weights as they are, [layers, groups * columns * 32]."""

    weights: Float32[np.ndarray, "layers weights"]

    @classmethod
    def of(cls, padded: Float32[np.ndarray, "layers rows columns"]) -> "Float32Parts":
        """Keep matrices in float32."""
        return cls(_grouped(padded))

    def restored(self, rows: int) -> Float32[np.ndarray, "layers rows columns"]:
        """Return the weights."""
        return _ungrouped(self.weights, rows)


class BFloat16Parts(NamedTuple):
    """Weights in bfloat16, [layers, groups * columns * 32]."""

    bits: UInt16[np.ndarray, "layers weights"]

    @classmethod
    def of(cls, padded: Float32[np.ndarray, "layers rows columns"]) -> "BFloat16Parts":
        """Round matrices to bfloat16."""
        rounded = torch.from_numpy(padded).bfloat16().view(torch.int16).numpy()
        return cls(_grouped(rounded.view(np.uint16)))

    def restored(self, rows: int) -> Float32[np.ndarray, "layers rows columns"]:
        """Return the weights in float32."""
        return (_ungrouped(self.bits, rows).astype(np.uint32) << 16).view(np.float32)


class Int8Parts(NamedTuple):
    """Codes, 128 too high, four columns of a row beside each other; scales as bits of float16."""

    codes: UInt8[np.ndarray, "layers codes"]
    scales: UInt16[np.ndarray, "layers scales"]

    @classmethod
    def of(cls, padded: Float32[np.ndarray, "layers rows columns"]) -> "Int8Parts":
        """Quantize matrices in blocks of 32 columns: scale = largest / 127."""
        blocks = _blocks(padded)
        scales = (np.abs(blocks).max(-1) / 127).astype(np.float16)
        codes = np.rint(_divided(blocks, scales)).clip(-127, 127) + INT8_OFFSET
        words = codes.astype(np.uint8).reshape(*padded.shape[:2], -1, 4)
        return cls(_grouped(words), _grouped(scales.view(np.uint16)))

    def restored(self, rows: int) -> Float32[np.ndarray, "layers rows columns"]:
        """Return the weights in float32."""
        codes = _ungrouped(self.codes, rows, 4).reshape(len(self.codes), rows, -1, BLOCK)
        scales = _ungrouped(self.scales, rows).view(np.float16).astype(np.float32)
        weights = (codes.astype(np.float32) - INT8_OFFSET) * scales[..., None]
        return weights.reshape(len(weights), rows, -1)


class Int4Parts(NamedTuple):
    """Codes, two to a byte; scales and smallest weights as bits of float16."""

    packed: UInt8[np.ndarray, "layers bytes"]
    scales: UInt16[np.ndarray, "layers scales"]
    smallest: UInt16[np.ndarray, "layers scales"]

    @classmethod
    def of(cls, padded: Float32[np.ndarray, "layers rows columns"]) -> "Int4Parts":
        """Quantize matrices in blocks of 32 columns, from the smallest weight to the largest."""
        blocks = _blocks(padded)
        smallest = blocks.min(-1)
        scales = ((blocks.max(-1) - smallest) / 15).astype(np.float16)
        smallest = smallest.astype(np.float16)
        above = blocks - smallest.astype(np.float32)[..., None]
        codes = np.rint(_divided(above, scales)).clip(0, 15).astype(np.uint8)
        low, high = codes[..., : BLOCK // 2], codes[..., BLOCK // 2 :]
        words = (low | high << 4).reshape(*padded.shape[:2], -1, 4)
        return cls(*map(_grouped, (words, scales.view(np.uint16), smallest.view(np.uint16))))

    def restored(self, rows: int) -> Float32[np.ndarray, "layers rows columns"]:
        """Return the weights in float32."""
        packed = _ungrouped(self.packed, rows, 4).reshape(len(self.packed), rows, -1, BLOCK // 2)
        codes = np.concatenate([packed & 15, packed >> 4], -1).astype(np.float32)
        scales, smallest = (
            _ungrouped(bits, rows).view(np.float16).astype(np.float32)[..., None]
            for bits in (self.scales, self.smallest)
        )
        return (codes * scales + smallest).reshape(len(codes), rows, -1)


Parts = Float32Parts | BFloat16Parts | Int8Parts | Int4Parts
FORMS = {
    "float32": Float32Parts,
    "bfloat16": BFloat16Parts,
    "int8": Int8Parts,
    "int4": Int4Parts,
}


def _multiply_float32(parts, layer, x, out):
    float_product(parts.weights[layer], x, out)


def _multiply_bfloat16(parts, layer, x, out):
    float_product(parts.bits[layer], x, out)


def _multiply_int8(parts, layer, x, out):
    int8_product(parts.codes[layer], parts.scales[layer], rounded_rows(x), out)


def _multiply_int4(parts, layer, x, out):
    int4_product(
        parts.packed[layer], parts.scales[layer], parts.smallest[layer], rounded_rows(x), out
    )


PRODUCTS = {
    Float32Parts: _multiply_float32,
    BFloat16Parts: _multiply_bfloat16,
    Int8Parts: _multiply_int8,
    Int4Parts: _multiply_int4,
}


def multiply_into(parts: Parts, layer: int, x: np.ndarray, out: np.ndarray) -> None:
    """out = x @ weights.T of a layer; for compiled code. x [tokens, columns], contiguous; `out`
    has a column for each row of the padded matrix.
    """
    PRODUCTS[type(parts)](parts, layer, x, out)


@overload(multiply_into)
def _multiply_into(parts, layer, x, out):
    return PRODUCTS[parts.instance_class]


@dataclass(frozen=True)
class Matrices:
    """Matrices of the same shape, one for each layer, in one of the forms."""

    parts: Parts
    num_rows: int
    num_columns: int

    @classmethod
    def of(cls, kind: str, weights: Float[Tensor, "layers rows columns"]) -> "Matrices":
        """Bring matrices into the form that `FORMS` has under a name."""
        layers, rows, columns = weights.shape
        padded = np.zeros((layers, _whole(rows, GROUP), _whole(columns, BLOCK)), np.float32)
        padded[:, :rows, :columns] = weights.detach().cpu().float().numpy()
        return cls(FORMS[kind].of(padded), rows, columns)

    @property
    def num_bytes(self) -> int:
        """Bytes of the form, which one token reads."""
        return sum(part.nbytes for part in self.parts)

    @property
    def padded_rows(self) -> int:
        """Rows, filled up to whole groups."""
        return _whole(self.num_rows, GROUP)

    def restored(self) -> Float[Tensor, "layers rows columns"]:
        """Return the weights in float32."""
        every = self.parts.restored(self.padded_rows)
        return torch.from_numpy(every[:, : self.num_rows, : self.num_columns].copy())

    def product(
        self, x: Float32[np.ndarray, "tokens columns"], layer: int = 0
    ) -> Float32[np.ndarray, "tokens rows"]:
        """Return x @ weights.T of a layer."""
        out = np.empty((len(x), self.padded_rows), np.float32)
        with ONE_CALLER:
            _multiply(self.parts, layer, x, out)
        return out[:, : self.num_rows]


@kernel
def _multiply(parts, layer, x, out):
    multiply_into(parts, layer, x, out)


def _whole(count: int, size: int) -> int:
    return -(-count // size) * size


def _blocks(padded: np.ndarray) -> np.ndarray:
    return padded.reshape(*padded.shape[:2], -1, BLOCK)


def _divided(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Return blocks / scales, and 0 where the scale is."""
    wide = scales.astype(np.float32)[..., None]
    return np.divide(blocks, wide, out=np.zeros_like(blocks), where=wide > 0)


def _grouped(each: np.ndarray) -> np.ndarray:
    """Bring [layers, rows, places, ...] into groups of rows, place after place: [layers, all]."""
    layers, rows, places, *rest = each.shape
    groups = each.reshape(layers, rows // GROUP, GROUP, places, *rest)
    return np.ascontiguousarray(groups.swapaxes(2, 3)).reshape(layers, -1)


def _ungrouped(flat: np.ndarray, rows: int, *rest: int) -> np.ndarray:
    """Undo `_grouped`."""
    groups = flat.reshape(len(flat), rows // GROUP, -1, GROUP, *rest)
    swapped = np.ascontiguousarray(groups.swapaxes(2, 3))
    return swapped.reshape(len(flat), rows, groups.shape[2], *rest)
