"""Dequantization of weights: the formats of a block.

A row of weights is cut into blocks of 32. A block stores one scale d (some also a smallest value m)
in float16, and a small whole number q for each weight, so that the weight is about d q + m. With 4
bits for q, 32 weights take 18 or 20 bytes instead of 128. All blocks of a tensor are unpacked at
once, from an array [blocks, bytes of a block] directly into the weights, [blocks, 32], without an
intermediate array of that size.

What this leaves out: quantization, multiplication without unpacking (as in llama.cpp), and the
types with a second level of scales (Q4_K and similar).

Source: ggml's quants (`block_q4_0` and similar types in ggml-common.h), which have no paper.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from lm_core.formats.gguf_container import BLOCKS

Blocks = UInt8[np.ndarray, "blocks size"]
Weights = Float[np.ndarray, "blocks values"]


class Packing(NamedTuple):
    """The packing of one type; BLOCKS has its number of values and bytes per block.

    Attributes:
        unpack: fills [blocks, values] from [blocks, bytes of a block].
        scales: the bytes of a block at which its scales begin; none for a type without blocks.
    """

    unpack: Callable[[np.ndarray, np.ndarray], None]
    scales: tuple[int, ...] = ()


def float16_at(blocks: Blocks, place: int) -> Float[np.ndarray, "blocks 1"]:
    """Return the float16 that begins at byte `place` of every block, as float32."""
    return np.ascontiguousarray(blocks[:, place : place + 2]).view(np.float16).astype(np.float32)


def unpack_nibbles(packed: UInt8[np.ndarray, "blocks half"], weights: Weights) -> None:
    """Unpack two 4-bit numbers from every byte: first the low halves of all bytes, then the high
    ones.
    """
    half = packed.shape[1]
    weights[:, :half] = packed & 0x0F
    weights[:, half:] = packed >> 4


def unpack_q8_0(blocks: UInt8[np.ndarray, "blocks 34"], weights: Weights) -> None:
    """Unpack d, then 32 signed bytes: d q."""
    np.multiply(float16_at(blocks, 0), blocks[:, 2:].view(np.int8), out=weights)


def unpack_q4_0(blocks: UInt8[np.ndarray, "blocks 18"], weights: Weights) -> None:
    """Unpack d, then 32 numbers of 4 bits that stand for -8 to 7: d (q - 8)."""
    unpack_nibbles(blocks[:, 2:], weights)
    weights -= 8
    weights *= float16_at(blocks, 0)


def unpack_q4_1(blocks: UInt8[np.ndarray, "blocks 20"], weights: Weights) -> None:
    """Unpack d and m, then 32 numbers of 4 bits from 0 to 15: d q + m."""
    unpack_nibbles(blocks[:, 4:], weights)
    weights *= float16_at(blocks, 0)
    weights += float16_at(blocks, 2)


def unpack_float32(blocks: UInt8[np.ndarray, "blocks 4"], weights: Weights) -> None:
    """Copy the values."""
    weights[:] = np.ascontiguousarray(blocks).view(np.float32)


def unpack_float16(blocks: UInt8[np.ndarray, "blocks 2"], weights: Weights) -> None:
    """Convert float16 values, which float32 represents exactly."""
    weights[:] = np.ascontiguousarray(blocks).view(np.float16)


def unpack_bfloat16(blocks: UInt8[np.ndarray, "blocks 2"], weights: Weights) -> None:
    """Convert bfloat16 values, each the upper half of a float32."""
    upper = np.ascontiguousarray(blocks).view(np.uint16)
    np.left_shift(upper, 16, out=weights.view(np.uint32), dtype=np.uint32)


PACKINGS = {
    "F32": Packing(unpack_float32),
    "F16": Packing(unpack_float16),
    "BF16": Packing(unpack_bfloat16),
    "Q8_0": Packing(unpack_q8_0, scales=(0,)),
    "Q4_0": Packing(unpack_q4_0, scales=(0,)),
    "Q4_1": Packing(unpack_q4_1, scales=(0, 2)),
}


def dequantized(
    data: UInt8[np.ndarray, "..."], kind: str, shape: tuple[int, ...]
) -> Float[np.ndarray, "..."]:
    """Return the values of a tensor in float32.

    Args:
        data: its bytes, in any shape.
        kind: one of PACKINGS.
        shape: shape of the tensor, whose last axis is cut into blocks.
    """
    values, size = BLOCKS[kind]
    blocks = np.asarray(data).reshape(-1, size)
    weights = np.empty((len(blocks), values), np.float32)
    PACKINGS[kind].unpack(blocks, weights)
    return weights.reshape(shape)


def scales_are_finite(data: UInt8[np.ndarray, "..."], kind: str) -> bool:
    """Return whether a quantized tensor can contain neither NaN nor infinity; True for other types.

    It is enough to check the scales, one or two numbers in 32: the largest float16 times 15, plus
    another, is far below float32's maximum.
    """
    blocks = np.asarray(data).reshape(-1, BLOCKS[kind][1])
    places = PACKINGS[kind].scales
    return all(bool(np.isfinite(float16_at(blocks, place)).all()) for place in places)
