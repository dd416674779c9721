"""Codes and scales: bit for bit as package `gguf` makes its blocks, bounds of the error, and a
quantized model whose logits stay close.
"""

import copy

import gguf
import numpy as np
import pytest
import torch

from inference.kv_cache import KVCache
from inference.weight_quantization import (
    QuantizedLinear,
    dequantize_int4,
    dequantize_int8,
    pack_nibbles,
    q4_0_bytes,
    q8_0_bytes,
    quantize_int4,
    quantize_int8,
    quantize_model,
    relative_error,
    unpack_nibbles,
)
from transformer_lm.weights.gguf_blocks import dequantized

BLOCKS = {"Q8_0": q8_0_bytes, "Q4_0": q4_0_bytes}


def values_of(seed: int) -> torch.Tensor:
    """Normal numbers, halves of codes, ties of the largest magnitude, zeros, of any size."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(4, 3, 64, generator=generator) * 10.0 ** (seed % 14 - 9)
    if seed % 3 == 0:
        values = torch.randint(-254, 255, values.shape, generator=generator) / 2
        values[..., ::32] = (-1.0) ** seed * 127
    if seed % 4 == 0:
        values = torch.where(values > 0, 3.0, -3.0)
    if seed % 5 == 0:
        values[1, :, :32] = 0
    return values


@pytest.mark.parametrize("kind", BLOCKS)
def test_blocks_are_those_of_package_gguf(kind):
    packing = gguf.GGMLQuantizationType[kind]
    for seed in range(60):
        values = values_of(seed)
        found = BLOCKS[kind](values).numpy()
        np.testing.assert_array_equal(found, gguf.quants.quantize(values.numpy(), packing))
        restored = dequantized(found, kind, tuple(values.shape))
        np.testing.assert_array_equal(restored, gguf.quants.dequantize(found, packing))


def test_no_rows_and_no_columns():
    assert q8_0_bytes(torch.zeros(0, 32)).shape == (0, 34)
    assert q4_0_bytes(torch.zeros(2, 0)).shape == (2, 0)
    codes, scales = quantize_int8(torch.zeros(0, 2, 8))
    assert dequantize_int8(codes, scales).shape == (0, 2, 8)
    assert dequantize_int4(quantize_int4(torch.zeros(0, 5))).shape == (0, 5)


@pytest.mark.parametrize("columns", [1, 2, 31, 32, 33])
def test_nibbles_survive_a_round_trip(columns):
    codes = torch.randint(16, (7, columns), dtype=torch.uint8)
    packed = pack_nibbles(codes)
    assert packed.shape == (7, -(-columns // 2))
    assert torch.equal(unpack_nibbles(packed, columns), codes)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group_size", [1, 7, 32, 1000])
def test_smaller_groups_and_more_bits_are_better(symmetric, group_size):
    weight = torch.randn(20, 70, generator=torch.Generator().manual_seed(0))
    whole = relative_error(weight, dequantize_int8(*quantize_int8(weight)))
    found = dequantize_int4(quantize_int4(weight, group_size, symmetric))
    coarse = dequantize_int4(quantize_int4(weight, 1000, symmetric))
    error = relative_error(weight, found)
    assert error <= relative_error(weight, coarse) + 1e-9
    assert group_size == 1 or whole < error < 0.2


def test_a_zero_point_helps_weights_of_one_sign():
    weight = torch.rand(10, 64, generator=torch.Generator().manual_seed(0)) + 0.2
    errors = [
        relative_error(weight, dequantize_int4(quantize_int4(weight, 32, symmetric)))
        for symmetric in (True, False)
    ]
    assert errors[1] < 0.6 * errors[0]


@pytest.mark.parametrize("settings", [("int8",), ("int4", 8), ("int4", 16, False)])
def test_a_quantized_model_computes_with_the_restored_weights(model, settings):
    quantized = quantize_model(model, *settings)
    replaced = {n: p for n, p in quantized.named_modules() if isinstance(p, QuantizedLinear)}
    assert len(replaced) == 2 * 7
    plain = copy.deepcopy(model)  # in floats, with the restored weights
    for name, layer in replaced.items():
        plain.get_submodule(name).weight.data = layer.dequantized()
    ids = torch.arange(40)[None]
    cache = KVCache.for_model(model.config, 1)
    with torch.no_grad():
        pieces = [quantized(piece, cache=cache) for piece in ids.split([7, 1, 32], dim=1)]
        found = torch.cat(pieces, dim=1)
        assert relative_error(plain(ids), found) < 1e-5
