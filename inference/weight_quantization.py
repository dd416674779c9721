"""Quantization of weights: small whole numbers and a scale in place of floats.

A decoding step reads every weight once, so half the bytes take half the time. A row, or a group of
neighbors in a row, is stored as codes q with one scale s, and a weight is about s q. Rounding moves
it by at most s / 2, and s follows from the largest weight that shares it.

- int8: one scale per row.
- int4: one scale per group of a row, two codes per byte, with or without a zero point.
- Q8_0 and Q4_0: the blocks of 32 of GGUF files.

What this leaves out: multiplication without unpacking, activations in int8, and methods that choose
codes by a layer's inputs (GPTQ, AWQ).

Zero points: Jacob et al. 2018 (arXiv 1712.05877), equation 1. Scales per row: Dettmers et al. 2022
(arXiv 2208.07339), section 2. Blocks: ggml's `quantize_row_q8_0_ref` and `quantize_row_q4_0_ref`.
"""

import copy
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int8, UInt8
from torch import Tensor, nn

from lm_core.user_error import UserError
from transformer_lm.language_model import TransformerLM
from transformer_lm.layers import Linear

BLOCK = 32  # values in a block of Q8_0 and Q4_0
LARGEST_CODE = 15  # of 4 bits
MIDDLE = 8  # the stored code of 0 without a zero point
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
    x = x.detach().float()
    scales = x.abs().amax(dim=-1, keepdim=True) / 127
    _check_finite(scales, "row")
    # The limits matter if a scale is one of the smallest floats, which have few digits.
    codes = _quotient(x, scales).round().clamp(-127, 127)
    return codes.to(torch.int8), scales


def dequantize_int8(
    codes: Int8[Tensor, "*rows columns"], scales: Float[Tensor, "*rows 1"]
) -> Float[Tensor, "*rows columns"]:
    """Return codes * scales in float32."""
    return codes.float() * scales


def relative_error(weight: Float[Tensor, "..."], restored: Float[Tensor, "..."]) -> float:
    """Return ||weight - restored|| / ||weight||, in float64 over all elements; for a weight of
    zeros, 0 if the two are equal and infinity if not.

    Raises:
        ValueError: the shapes differ.
    """
    if weight.shape != restored.shape:
        raise UserError(
            f"the weight has shape {tuple(weight.shape)}, but the restored one has "
            f"{tuple(restored.shape)}; expected the same shape"
        )
    weight, restored = weight.detach().double(), restored.detach().double()
    error, size = float((weight - restored).norm()), float(weight.norm())
    return error / size if size else 0.0 if error == 0 else float("inf")


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
        raise UserError(f"group_size = {group_size}, expected a whole number from 1")
    rows, columns = weight.shape
    size = min(group_size, max(columns, 1))
    num_groups = -(-columns // size)
    # Zeros behind the row change neither the largest magnitude nor a range that contains 0.
    padded = nn.functional.pad(weight.detach().float(), (0, num_groups * size - columns))
    groups = padded.reshape(rows, num_groups, size)
    if symmetric:
        scales = groups.abs().amax(dim=-1, keepdim=True) / 7
        _check_finite(scales, "row, group")
        codes = _quotient(groups, scales).round().clamp(-7, 7) + MIDDLE
        zeros = None
    else:
        low, high = groups.amin(-1, keepdim=True).clamp(max=0), groups.amax(-1, keepdim=True)
        scales = (high.clamp(min=0) - low) / LARGEST_CODE
        _check_finite(scales, "row, group")
        zeros = _quotient(-low, scales).round().clamp(0, LARGEST_CODE)
        codes = (_quotient(groups, scales).round() + zeros).clamp(0, LARGEST_CODE)
        zeros = zeros.squeeze(-1).to(torch.uint8)
    stored = codes.flatten(1)[:, :columns].to(torch.uint8)  # [rows, columns]
    return Int4Weight(pack_nibbles(stored), scales.squeeze(-1), zeros, columns, group_size)


def pack_nibbles(codes: UInt8[Tensor, "rows columns"]) -> UInt8[Tensor, "rows packed"]:
    """Put codes from 0 to 15 two in a byte: column 2j in the low half of byte j, column 2j + 1 in
    the high half. With an odd number of columns, the last high half is 0.
    """
    pairs = nn.functional.pad(codes, (0, codes.shape[1] % 2)).unflatten(1, (-1, 2))
    return pairs[:, :, 0] | (pairs[:, :, 1] << 4)


def unpack_nibbles(
    packed: UInt8[Tensor, "rows packed"], num_columns: int
) -> UInt8[Tensor, "rows columns"]:
    """Return the codes of the first `num_columns` columns."""
    pairs = torch.stack([packed & 0x0F, packed >> 4], dim=-1)  # [rows, packed, 2]
    return pairs.flatten(1)[:, :num_columns].contiguous()


def dequantize_int4(weight: Int4Weight) -> Float[Tensor, "rows columns"]:
    """Return (code - zero) * scale in float32, each with the zero and scale of its group."""
    group = torch.arange(weight.num_columns, device=weight.packed.device) // weight.group_size
    codes = unpack_nibbles(weight.packed, weight.num_columns).float()
    zeros = MIDDLE if weight.zeros is None else weight.zeros[:, group].float()
    return (codes - zeros) * weight.scales[:, group]


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
        if kind not in ("int8", "int4"):
            raise UserError(f"kind = {kind!r}, expected 'int8' or 'int4'")
        weight, zeros = linear.weight.detach(), None
        self.kind, self.group_size, self.num_columns = kind, group_size, weight.shape[1]
        if kind == "int8":
            codes, scales = quantize_int8(weight)
        else:
            packed = quantize_int4(weight, group_size, symmetric)
            codes, scales, zeros = packed.packed, packed.scales, packed.zeros
        bias = None if linear.bias is None else linear.bias.detach().clone()
        buffers = {"codes": codes, "scales": scales, "zeros": zeros, "bias": bias}
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer)

    def dequantized(self) -> Float[Tensor, "d_out d_in"]:
        """Return the weight in float32."""
        if self.kind == "int8":
            return dequantize_int8(self.codes, self.scales)
        parts = (self.codes, self.scales, self.zeros, self.num_columns, self.group_size)
        return dequantize_int4(Int4Weight(*parts))

    def forward(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_out"]:
        """Return x W^T (+ bias) in the type of x."""
        y = x @ self.dequantized().to(x.dtype).T
        return y if self.bias is None else y + self.bias.to(x.dtype)


def quantize_model(
    model: TransformerLM, kind: Kind, group_size: int = 32, symmetric: bool = True
) -> TransformerLM:
    """Return a copy of the model with every `Linear` replaced by a `QuantizedLinear`: those of the
    blocks, and an output head of its own.

    Embeddings and norms stay as they are, and so does a tied head, which is the embedding. The
    model is not changed. Raises ValueError as `QuantizedLinear` does.
    """
    quantized = copy.deepcopy(model)
    for parent in list(quantized.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Linear):
                setattr(parent, name, QuantizedLinear(child, kind, group_size, symmetric))
    return quantized


def q8_0_bytes(values: Float[Tensor, "*rows columns"]) -> UInt8[Tensor, "*rows bytes"]:
    """Return GGUF's Q8_0: for each 32 values of a row, d in float16, then 32 codes in int8.

    d = largest magnitude / 127 in float32; code = value * (1 / d), a half rounded away from 0. As
    in ggml, the codes belong to d before it is rounded to float16.

    Raises:
        ValueError: the columns are not a multiple of 32, or a d is not a finite float16.
    """
    blocks = _blocks(values)
    d = blocks.abs().amax(dim=-1, keepdim=True) / 127
    scaled = blocks * _quotient(1.0, d)
    codes = scaled.sign() * _rounded_half_up(scaled.abs())
    return _joined(d, codes.to(torch.int8).view(torch.uint8), values)


def q4_0_bytes(values: Float[Tensor, "*rows columns"]) -> UInt8[Tensor, "*rows bytes"]:
    """Return GGUF's Q4_0: for each 32 values of a row, d in float16, then 16 bytes with two codes
    each, those of values 0 to 15 in the low halves, those of values 16 to 31 in the high halves.

    d = m / -8, where m is the value of the largest magnitude, with its sign (the first of several),
    so that m gets code 0; code = value * (1 / d) + 8.5 without its fraction, at most 15. A block of
    zeros has codes of 8, and d is 0 / -8 = -0.

    Raises:
        ValueError: as in `q8_0_bytes`.
    """
    blocks = _blocks(values)
    place = blocks.abs().argmax(dim=-1, keepdim=True)
    d = blocks.gather(-1, place) / -8
    codes = (blocks * _quotient(1.0, d) + 8.5).clamp(0, LARGEST_CODE).to(torch.uint8)
    return _joined(d, codes[:, : BLOCK // 2] | (codes[:, BLOCK // 2 :] << 4), values)


def _quotient(x: Tensor | float, scales: Tensor) -> Tensor:
    """Return x / scales, and 0 where a scale is 0."""
    return torch.where(scales == 0, 0.0, x / scales)


def _rounded_half_up(x: Tensor) -> Tensor:
    """Round numbers from 0; floor(x + 0.5) would round the float below 0.5 to 1."""
    whole = x.floor()
    return whole + (2 * (x - whole)).floor()


def _check_finite(scales: Tensor, axes: str) -> None:
    """Raise ValueError with the place of the first scale that is not finite."""
    broken = (~scales.squeeze(-1).isfinite()).nonzero()
    if len(broken):
        raise UserError(
            f"{axes} {', '.join(map(str, broken[0].tolist()))} has no finite scale: it contains "
            "NaN or infinity, or its range is above the largest float32; expected finite numbers"
        )


def _blocks(values: Tensor) -> Tensor:
    """Return the values in float32, [blocks, 32]."""
    columns = values.shape[-1]
    if columns % BLOCK:
        raise UserError(f"rows of {columns} values, expected a multiple of {BLOCK}")
    return values.detach().float().reshape(-1, BLOCK)


def _joined(d: Tensor, codes: Tensor, values: Tensor) -> Tensor:
    """Return the bytes of all blocks: d in float16, then the codes, in rows as `values` has."""
    scales = d.half()
    broken = (~scales.isfinite()).nonzero()
    if len(broken):
        block = int(broken[0, 0])
        raise UserError(
            f"block {block} has the scale {float(d[block]):.5g}, expected a finite number of at "
            "most 65504, the largest float16"
        )
    joined = torch.cat([scales.flatten().view(torch.uint8).unflatten(0, (-1, 2)), codes], dim=-1)
    return joined.reshape(*values.shape[:-1], values.shape[-1] // BLOCK * joined.shape[1])
