"""Quantization of weights: small whole numbers and a scale in place of floats.

An independent solution, written from the handout of a6 alone. The groups of a row are not
padded to a rectangle: each column knows its group, and the extremes of a group are collected by
`scatter_reduce_`. A scale of 0 is replaced by infinity before a division, so that every quotient
is 0. A model is copied by `deepcopy`, with a memo that already has a quantized layer in the place
of each linear one.
"""

import copy
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int, Int8, UInt8
from torch import Tensor, nn

from lm_core.user_error import UserError
from transformer_lm.language_model import TransformerLM
from transformer_lm.layers import Linear

BLOCK = 32  # values in a block of Q8_0 and Q4_0
Kind = Literal["int8", "int4"]


def quantize_int8(
    x: Float[Tensor, "*rows columns"],
) -> tuple[Int8[Tensor, "*rows columns"], Float[Tensor, "*rows 1"]]:
    """Return codes from -127 to 127, and a float32 scale for each row of a weight, or for each
    vector of a cache of keys and values.

    In float32: scale = largest magnitude / 127; code = x / scale, a half rounded to the even
    neighbor. A scale of 0 has only codes of 0. -128 is not used: the codes of -x are those of x,
    negated.

    Raises:
        ValueError: a row contains NaN or infinity.
    """
    rows = x.detach().float()
    largest = nn.functional.pad(rows.abs(), (0, 1)).amax(dim=-1, keepdim=True)  # a row may be empty
    scales = largest / 127
    _check_finite(scales, "a row")
    codes = (rows / _divisor(scales)).round().clamp(-127, 127)
    return codes.to(torch.int8), scales


def dequantize_int8(
    codes: Int8[Tensor, "*rows columns"], scales: Float[Tensor, "*rows 1"]
) -> Float[Tensor, "*rows columns"]:
    """Return codes * scales in float32."""
    return codes.float() * scales.float()


def relative_error(weight: Float[Tensor, "..."], restored: Float[Tensor, "..."]) -> float:
    """Return ||weight - restored|| / ||weight||, in float64 over all elements; for a weight of
    zeros, 0 if the two are equal and infinity if not.

    Raises:
        ValueError: the shapes differ.
    """
    if weight.shape != restored.shape:
        raise UserError(
            f"the shapes differ: {list(weight.shape)} and, restored, {list(restored.shape)}"
        )
    expected, found = weight.detach().double(), restored.detach().double()
    if not expected.any():
        return math.inf if found.any() else 0.0
    unit = expected.abs().amax()  # so that no square is too small or too large
    return float(((expected - found) / unit).norm() / (expected / unit).norm())


@dataclass(eq=False)
class Int4Weight:
    """A matrix of 4-bit codes.

    Attributes:
        packed: two codes per byte, [rows, ceil(num_columns / 2)]; see `pack_nibbles`.
        scales: float32, [rows, groups]; groups = ceil(num_columns / group_size).
        zeros: the code that stands for 0 in each group, [rows, groups]; None for 8 in all groups.
        num_columns: columns of the matrix.
        group_size: columns that share a scale; the last group of a row may be shorter.
    """

    packed: UInt8[Tensor, "rows packed"]
    scales: Float[Tensor, "rows groups"]
    zeros: UInt8[Tensor, "rows groups"] | None
    num_columns: int
    group_size: int


def quantize_int4(
    weight: Float[Tensor, "rows columns"], group_size: int = 32, symmetric: bool = True
) -> Int4Weight:
    """Quantize each group of `group_size` neighbors in a row, in float32.

    Symmetric: scale = largest magnitude / 7; the stored code is round(w / scale) + 8, from 1 to 15.
    Otherwise, the range from the smallest to the largest weight, widened to contain 0, is cut into
    15 steps: scale = (high - low) / 15, zero = round(-low / scale), and the stored code is
    round(w / scale) + zero, limited to 0..15. A half is rounded to the even neighbor. A group whose
    scale is 0 has only codes that stand for 0 (and its zero is 0).

    Raises:
        ValueError: `group_size` is below 1; or a group contains NaN or infinity, or its range is
            above the largest float32.
    """
    if group_size < 1:
        raise UserError(f"group_size must be at least 1, got {group_size}")
    values = weight.detach().float()
    num_rows, num_columns = values.shape
    groups = _group_of_columns(num_columns, group_size, values.device)
    nothing = values.new_zeros(num_rows, math.ceil(num_columns / group_size))
    index = groups.expand_as(values)
    # Both include the zeros from which they start.
    high = nothing.scatter_reduce(1, index, values, "amax")
    low = nothing.scatter_reduce(1, index, values, "amin")
    scales = torch.maximum(high, -low) / 7 if symmetric else (high - low) / 15
    _check_finite(scales, "a group")
    _check_finite(values, "a group")
    steps = (values / _divisor(scales)[:, groups]).round()
    if symmetric:
        stored, zeros = steps.clamp(-7, 7) + 8, None
    else:
        offsets = (-low / _divisor(scales)).round().clamp(0, 15)
        stored, zeros = (steps + offsets[:, groups]).clamp(0, 15), offsets.to(torch.uint8)
    packed = pack_nibbles(stored.to(torch.uint8))
    return Int4Weight(packed, scales, zeros, num_columns, group_size)


def pack_nibbles(codes: UInt8[Tensor, "rows columns"]) -> UInt8[Tensor, "rows packed"]:
    """Put codes from 0 to 15 two in a byte: column 2j in the low half of byte j, column 2j + 1 in
    the high half. With an odd number of columns, the last high half is 0.
    """
    packed = codes[:, ::2].clone()
    high = codes[:, 1::2]
    packed[:, : high.shape[1]] |= high << 4
    return packed


def unpack_nibbles(
    packed: UInt8[Tensor, "rows packed"], num_columns: int
) -> UInt8[Tensor, "rows columns"]:
    """Return the codes of the first `num_columns` columns."""
    columns = torch.arange(num_columns, device=packed.device)
    shifts = (columns % 2 * 4).to(torch.uint8)
    return (packed[:, columns // 2] >> shifts) & 15


def dequantize_int4(weight: Int4Weight) -> Float[Tensor, "rows columns"]:
    """Return (code - zero) * scale in float32, each with the zero and scale of its group."""
    codes = unpack_nibbles(weight.packed, weight.num_columns).float()
    groups = _group_of_columns(weight.num_columns, weight.group_size, codes.device)
    zeros = 8 if weight.zeros is None else weight.zeros.float()[:, groups]
    return (codes - zeros) * weight.scales.float()[:, groups]


class QuantizedLinear(nn.Module):
    """A linear layer whose weight is kept as codes and scales, and restored in each call.

    Codes, scales and bias are buffers: `state_dict` contains them, and there are no parameters.

    Args:
        linear: the layer to quantize; it is not changed.
        kind: "int8" (a scale per row) or "int4".
        group_size, symmetric: for int4, as in `quantize_int4`.

    Raises:
        ValueError: the kind is not known; or as in `quantize_int8` and `quantize_int4`.
    """

    def __init__(
        self, linear: Linear, kind: Kind, group_size: int = 32, symmetric: bool = True
    ) -> None:
        super().__init__()
        self.kind, self.group_size = kind, group_size
        self.num_columns = linear.weight.shape[1]
        if kind == "int8":
            codes, scales = quantize_int8(linear.weight)
            zeros = None
        elif kind == "int4":
            quantized = quantize_int4(linear.weight, group_size, symmetric)
            codes, scales, zeros = quantized.packed, quantized.scales, quantized.zeros
        else:
            raise UserError(f"the kind must be 'int8' or 'int4', got {kind!r}")
        bias = None if linear.bias is None else linear.bias.detach().clone()
        buffers = {"codes": codes, "scales": scales, "zeros": zeros, "bias": bias}
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor)

    def dequantized(self) -> Float[Tensor, "d_out d_in"]:
        """Return the weight in float32."""
        if self.kind == "int8":
            return dequantize_int8(self.codes, self.scales)
        return dequantize_int4(
            Int4Weight(self.codes, self.scales, self.zeros, self.num_columns, self.group_size)
        )

    def forward(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_out"]:
        """Return x W^T (+ bias) in the type of x."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return nn.functional.linear(x, self.dequantized().to(x.dtype), bias)


def quantize_model(
    model: TransformerLM, kind: Kind, group_size: int = 32, symmetric: bool = True
) -> TransformerLM:
    """Return a copy of the model with every `Linear` replaced by a `QuantizedLinear`: those of the
    blocks, and an output head of its own.

    Embeddings and norms stay as they are, and so does a tied head, which is the embedding. The
    model is not changed. Raises ValueError as `QuantizedLinear` does.
    """
    stand_ins: dict[int, Any] = {
        id(module): QuantizedLinear(module, kind, group_size, symmetric).train(module.training)
        for module in model.modules()
        if isinstance(module, Linear)
    }
    return copy.deepcopy(model, stand_ins)  # takes what is in the memo, and copies everything else


def q8_0_bytes(values: Float[Tensor, "*rows columns"]) -> UInt8[Tensor, "*rows bytes"]:
    """Return GGUF's Q8_0: for each 32 values of a row, d in float16, then 32 codes in int8.

    d = largest magnitude / 127 in float32; code = value * (1 / d), a half rounded away from 0. As
    in ggml, the codes belong to d before it is rounded to float16.

    Raises:
        ValueError: the columns are not a multiple of 32, or a d is not a finite float16.
    """
    blocks = _blocks_of(values)
    d = blocks.abs().amax(dim=-1, keepdim=True) / 127
    scaled = blocks * _inverse(d)
    whole = scaled.trunc()
    away = (scaled - whole).abs() >= 0.5  # exact, unlike the sum of a number and 0.5
    codes = whole + away * scaled.sign()
    return _bytes_of_blocks(d, codes.to(torch.int8).view(torch.uint8))


def q4_0_bytes(values: Float[Tensor, "*rows columns"]) -> UInt8[Tensor, "*rows bytes"]:
    """Return GGUF's Q4_0: for each 32 values of a row, d in float16, then 16 bytes with two codes
    each, those of values 0 to 15 in the low halves, those of values 16 to 31 in the high halves.

    d = m / -8, where m is the value of the largest magnitude, with its sign (the first of several),
    so that m gets code 0; code = value * (1 / d) + 8.5 without its fraction, at most 15. A block of
    zeros has codes of 8, and d is 0 / -8 = -0.

    Raises:
        ValueError: as in `q8_0_bytes`.
    """
    blocks = _blocks_of(values)
    first_of_largest = blocks.abs().argmax(dim=-1, keepdim=True)
    d = blocks.gather(-1, first_of_largest) / -8
    codes = (blocks * _inverse(d) + 8.5).trunc().clamp(max=15).to(torch.uint8)
    return _bytes_of_blocks(d, codes[..., : BLOCK // 2] | (codes[..., BLOCK // 2 :] << 4))


def _check_finite(numbers: Float[Tensor, "..."], place: str) -> None:
    """Raise ValueError if a number, which belongs to a row, group or block, is not finite."""
    if not numbers.isfinite().all():
        raise UserError(
            f"{place} contains NaN or infinity, or numbers too large for its scale; "
            "such a weight cannot be quantized"
        )


def _divisor(scales: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return the scales, and infinity for those of 0: whatever is divided by it becomes 0."""
    return scales.masked_fill(scales == 0, math.inf)


def _group_of_columns(
    num_columns: int, group_size: int, device: torch.device
) -> Int[Tensor, " columns"]:
    return torch.arange(num_columns, device=device) // group_size


def _blocks_of(values: Float[Tensor, "*rows columns"]) -> Float[Tensor, "*rows blocks 32"]:
    """Return the values in float32, with an axis of their own for the blocks of a row."""
    *rows, num_columns = values.shape
    if num_columns % BLOCK:
        raise UserError(f"rows must have a multiple of {BLOCK} columns, got {num_columns}")
    return values.detach().float().reshape(*rows, num_columns // BLOCK, BLOCK)


def _inverse(d: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return 1 / d, and 0 for a d of 0."""
    return 1 / _divisor(d)


def _bytes_of_blocks(
    d: Float[Tensor, "*rows blocks 1"], codes: UInt8[Tensor, "*rows blocks code_bytes"]
) -> UInt8[Tensor, "*rows bytes"]:
    """Put d in float16, its low byte first, before the codes of each block, and join the blocks."""
    halves = d.to(torch.float16)
    _check_finite(halves, "a block")
    bits = halves.view(torch.int16)
    parts = [(bits & 0xFF).to(torch.uint8), ((bits >> 8) & 0xFF).to(torch.uint8), codes]
    return torch.cat(parts, dim=-1).flatten(-2)
