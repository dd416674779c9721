"""Every packing against the package `gguf`, and one block of each by hand."""

import tracemalloc

import gguf
import numpy as np
import pytest

from lm_core.formats.gguf_container import BLOCKS
from transformer_lm.weights.gguf_blocks import (
    PACKINGS,
    dequantized,
    scales_are_finite,
    unpack_nibbles,
)

KINDS = {
    kind: gguf.GGMLQuantizationType[kind] for kind in ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1")
}


def test_every_packing_is_tested():
    assert KINDS.keys() == PACKINGS.keys() == BLOCKS.keys()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
def test_the_values_are_those_of_gguf(kind, scale):
    values = np.random.default_rng(0).normal(0, scale, (7, 3, 96)).astype(np.float32)
    packed = gguf.quants.quantize(values, KINDS[kind])
    expected = gguf.quants.dequantize(packed, KINDS[kind])
    found = dequantized(packed.view(np.uint8), kind, values.shape)
    assert found.dtype == np.float32 and found.flags.writeable
    np.testing.assert_array_equal(found, expected.reshape(values.shape))
    largest = np.abs(values).max()
    assert np.abs(found - values).max() <= largest / 7


@pytest.mark.parametrize("kind", KINDS)
def test_the_size_of_a_block_is_that_of_gguf(kind):
    assert gguf.GGML_QUANT_SIZES[KINDS[kind]] == BLOCKS[kind]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:(invalid value|overflow) encountered")
def test_any_bytes_are_the_numbers_that_gguf_makes_of_them(kind):
    """This includes blocks that no quantizer writes: every scale, even NaN and infinity."""
    values, size = BLOCKS[kind]
    packed = np.random.default_rng(1).integers(0, 256, (65536, size), dtype=np.uint8)
    packed[:, :2] = np.arange(65536, dtype=np.uint16)[:, None].view(np.uint8)
    expected = gguf.quants.dequantize(packed.reshape(-1), KINDS[kind])
    found = dequantized(packed, kind, (65536 * values,))
    np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))
    for row in range(0, 65536, 97):
        weights = found[row * values : (row + 1) * values]
        quantized = bool(PACKINGS[kind].scales)
        expected = not quantized or np.isfinite(weights).all()
        assert scales_are_finite(packed[row], kind) == expected, row


def test_nothing_of_the_size_of_the_weights_is_made_on_the_way():
    """One array for the weights, and at most one more byte per weight."""
    packed = np.zeros(20 * 40_000, np.uint8)
    tracemalloc.start()
    weights = dequantized(packed, "Q4_1", (40_000, 32))
    assert scales_are_finite(packed, "Q4_1")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert weights.nbytes < peak < weights.nbytes + weights.size


def test_blocks_by_hand():
    half = np.float16(0.5).tobytes()
    quarter = np.float16(0.25).tobytes()
    packed = bytes(range(0x10, 0x20))  # low halves 0 to 15, high halves all 1
    low_then_high = [*range(16), *[1] * 16]
    weights = np.empty((1, 32), np.float32)
    unpack_nibbles(np.frombuffer(packed, np.uint8)[None], weights)
    assert weights.tolist() == [low_then_high]
    found = dequantized(np.frombuffer(half + packed, np.uint8), "Q4_0", (32,))
    assert found.tolist() == [0.5 * (q - 8) for q in low_then_high]
    found = dequantized(np.frombuffer(half + quarter + packed, np.uint8), "Q4_1", (32,))
    assert found.tolist() == [0.5 * q + 0.25 for q in low_then_high]
    signed = np.arange(-16, 16, dtype=np.int8)
    found = dequantized(np.frombuffer(half + signed.tobytes(), np.uint8), "Q8_0", (32,))
    assert found.tolist() == (signed * 0.5).tolist()
    found = dequantized(np.frombuffer(b"\x80\x3f\x00\xc0", np.uint8), "BF16", (2,))
    assert found.tolist() == [1.0, -2.0]
