"""Quantized weights as numbers again: what a block is.

A row of weights is cut into blocks of 32. A block keeps one scale d (some also a smallest value m)
in float16, and for each weight a small whole number q, so that the weight is about d q + m. With 4
bits for q, 32 weights take 18 or 20 bytes in place of 128. All blocks of a tensor are unpacked at
once: an array [blocks, bytes of a block] becomes one [blocks, 32].

What this leaves out: making such blocks, multiplying without unpacking them (llama.cpp does), and
the types with a second level of scales (Q4_K and its kin).

Source: ggml's quants (`block_q4_0` and the like in ggml-common.h), which have no paper.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8


class Packing(NamedTuple):
    """How one type packs its values.

    Attributes:
        values, size: values of a block, and its bytes.
        unpack: [blocks, size] -> [blocks, values].
    """

    values: int
    size: int
    unpack: Callable[[np.ndarray], np.ndarray]


def float16_at(
    blocks: UInt8[np.ndarray, "blocks size"], place: int
) -> Float[np.ndarray, "blocks 1"]:
    """The float16 that begins at byte `place` of every block, as float32."""
    return np.ascontiguousarray(blocks[:, place : place + 2]).view(np.float16).astype(np.float32)


def nibbles(packed: UInt8[np.ndarray, "blocks half"]) -> UInt8[np.ndarray, "blocks full"]:
    """Two numbers of 4 bits from every byte: first the low halves of all bytes, then the high."""
    return np.concatenate([packed & 0x0F, packed >> 4], axis=1)


def unpack_q8_0(blocks: UInt8[np.ndarray, "blocks 34"]) -> Float[np.ndarray, "blocks 32"]:
    """d, then 32 signed bytes: d q."""
    return float16_at(blocks, 0) * blocks[:, 2:].view(np.int8)


def unpack_q4_0(blocks: UInt8[np.ndarray, "blocks 18"]) -> Float[np.ndarray, "blocks 32"]:
    """d, then 32 numbers of 4 bits that stand for -8 to 7: d (q - 8)."""
    return float16_at(blocks, 0) * (nibbles(blocks[:, 2:]).astype(np.float32) - 8)


def unpack_q4_1(blocks: UInt8[np.ndarray, "blocks 20"]) -> Float[np.ndarray, "blocks 32"]:
    """d and m, then 32 numbers of 4 bits from 0 to 15: d q + m."""
    return float16_at(blocks, 0) * nibbles(blocks[:, 4:]) + float16_at(blocks, 2)


def unpack_bfloat16(blocks: UInt8[np.ndarray, "blocks 2"]) -> Float[np.ndarray, "blocks 1"]:
    """The upper half of a float32."""
    return (np.ascontiguousarray(blocks).view(np.uint16).astype(np.uint32) << 16).view(np.float32)


PACKINGS = {
    "F32": Packing(1, 4, lambda blocks: np.ascontiguousarray(blocks).view(np.float32)),
    "F16": Packing(1, 2, lambda blocks: float16_at(blocks, 0)),
    "BF16": Packing(1, 2, unpack_bfloat16),
    "Q8_0": Packing(32, 34, unpack_q8_0),
    "Q4_0": Packing(32, 18, unpack_q4_0),
    "Q4_1": Packing(32, 20, unpack_q4_1),
}


def dequantized(
    data: UInt8[np.ndarray, "..."], kind: str, shape: tuple[int, ...]
) -> Float[np.ndarray, "..."]:
    """The values of a tensor in float32.

    Args:
        data: its bytes, in any shape.
        kind: one of PACKINGS.
        shape: of the tensor; the last axis is cut into blocks.
    """
    packing = PACKINGS[kind]
    blocks = np.asarray(data).reshape(-1, packing.size)
    return packing.unpack(blocks).astype(np.float32).reshape(shape)  # a copy, not the file's map
