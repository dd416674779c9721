"""The compiled forward pass is the plain one, of the weights that it holds."""

import numpy as np
import pytest
import torch

from inference.compiled import cache_rows
from inference.compiled.cache_rows import pages_as_numpy
from inference.compiled.decoder_layers import write_rows
from inference.compiled.paged_attention import attend
from inference.compiled.step_tables import StepTables
from inference.compiled.weight_products import Int4Parts, Int8Parts
from inference.engine import compiled_forward
from inference.engine.compiled_forward import LONG_CHUNK, CompiledForwardPass, unsupported_variant
from inference.engine.forward_pass import ChunkRows, PlainForwardPass
from inference.quantized_cache import (
    LARGEST_CODE,
    SCALE_BYTES,
    quantize_rows,
    restore_rows,
)
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig

SHAPE = {
    "vocab_size": 99,
    "context_length": 128,
    "d_model": 64,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "d_ff": 96,
}
# Two requests in blocks out of order, then their next tokens, and a third that joins.
STEPS = [
    [ChunkRows(0, [1, 2, 3, 4, 5, 6, 7], 0, [3, 1]), ChunkRows(7, [9], 0, [0])],
    [
        ChunkRows(0, [8, 8], 7, [3, 1, 4]),
        ChunkRows(2, [5], 1, [0]),
        ChunkRows(3, [40, 41, 42], 0, [6]),
    ],
]


def made(**changes: object) -> TransformerLM:
    torch.manual_seed(0)
    return TransformerLM(ModelConfig(**{**SHAPE, **changes})).eval()


def results(forward) -> list[torch.Tensor]:
    hidden = [forward.hidden(step) for step in STEPS]
    return [*hidden, forward.logits(hidden[1][[1, 2]])]


@pytest.mark.parametrize("changes", [
    {}, {"qk_norm": True, "tie_embeddings": False}, {"sliding_window": 5}, {"position": "none"},
    {"head_dim": 24},
])  # fmt: skip
def test_in_float32(changes) -> None:
    model = made(**changes)
    plain = results(PlainForwardPass(model, 8, 4))
    for expected, got in zip(plain, results(CompiledForwardPass(model, 8, 4)), strict=True):
        torch.testing.assert_close(got, expected, atol=2e-5, rtol=0)


# Rounding of the activations, which the plain pass does not have; the weights of int4 differ by
# 15 times as much.
@pytest.mark.parametrize(
    ("kind", "tolerance"), [("bfloat16", 2e-5), ("int8", 0.02), ("int4", 0.02)]
)
def test_in_few_bits(kind, tolerance) -> None:
    """The same as the plain pass of a model that has the restored weights."""
    model = made(tie_embeddings=False)
    compiled = CompiledForwardPass(model, 8, 4, kind, cache="float32")
    got = results(compiled)
    before = results(PlainForwardPass(model, 8, 4))
    restore_into(model, compiled)
    for expected, found in zip(results(PlainForwardPass(model, 8, 4)), got, strict=True):
        torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)
    assert max((b - g).abs().max() for b, g in zip(before, got, strict=True)) > 1e-3


@torch.no_grad()
def restore_into(model: TransformerLM, compiled: CompiledForwardPass) -> None:
    """Give a model the weights that the compiled pass has."""
    restored = {name: each.restored() for name, each in compiled.matrices.items()}
    for layer, block in enumerate(model.blocks):
        attention, forward = block.attention, block.feed_forward
        parts = {
            "query_key_value": [attention.query, attention.key, attention.value],
            "output": [attention.output],
            "gate_up": [forward.gate, forward.up],
            "down": [forward.down],
        }
        for name, modules in parts.items():
            rows = [len(module.weight) for module in modules]
            for module, weight in zip(modules, restored[name][layer].split(rows), strict=True):
                module.weight.copy_(weight)
    model.output_head.weight.copy_(compiled.head.restored()[0])


@pytest.mark.parametrize(
    ("window", "cache", "tolerance"), [(None, None, 2e-5), (60, None, 2e-5), (None, "int8", 0.02)]
)
def test_long_chunks_beside_short_ones(window, cache, tolerance) -> None:
    """Their attention is PyTorch's; a chunk may follow another, and other requests decode."""
    model = made(sliding_window=window)
    first, rest = list(range(50)), list(range(50, 90))
    steps = [
        [ChunkRows(0, [7], 0, [9]), ChunkRows(1, first, 0, list(range(10, 33)))],
        [
            ChunkRows(0, rest, 50, list(range(10, 33))),
            ChunkRows(40, [8], 1, [9]),
            ChunkRows(41, first, 0, list(range(33, 46))),
        ],
    ]
    assert len(rest) > LONG_CHUNK
    plain, compiled = PlainForwardPass(model, 50, 4), CompiledForwardPass(model, 50, 4, cache=cache)
    for step in steps:
        expected = plain.hidden(step)
        torch.testing.assert_close(compiled.hidden(step), expected, atol=tolerance, rtol=0)


def test_the_attention_of_long_chunks_is_computed_once(monkeypatch) -> None:
    attended = []

    def watched(*arguments):
        attended.append([each for each in arguments if isinstance(each, StepTables)])
        return attend(*arguments)

    monkeypatch.setattr(compiled_forward, "attend", watched)
    long = ChunkRows(1, list(range(40)), 0, list(range(10, 20)))
    CompiledForwardPass(made(), 50, 4).hidden([ChunkRows(0, [7], 0, [9]), long])
    assert [tables.num_keys.tolist() for [tables] in attended] == [[1]] * SHAPE["num_layers"]


def test_the_head_of_int4_has_eight_bits() -> None:
    model = made()
    compiled = CompiledForwardPass(model, 8, 4, "int4")
    assert isinstance(compiled.head.parts, Int8Parts)
    assert all(isinstance(each.parts, Int4Parts) for each in compiled.matrices.values())
    sizes = [each.num_bytes for each in compiled.matrices.values()]
    assert compiled.weight_bytes == compiled.head.num_bytes + sum(sizes)


def test_a_cache_in_bfloat16() -> None:
    model = made()
    rounded = CompiledForwardPass(model, 8, 4, cache="bfloat16")
    assert rounded.cache.num_bytes * 2 == CompiledForwardPass(model, 8, 4).cache.num_bytes
    for expected, got in zip(results(PlainForwardPass(model, 8, 4)), results(rounded), strict=True):
        torch.testing.assert_close(got, expected, atol=0.05, rtol=0)


def test_rows_in_int8_are_those_of_the_lesson() -> None:
    """Also of a width at which the scale is not aligned, and of rows with NaN or infinity."""
    assert (cache_rows.LARGEST_CODE, cache_rows.SCALE_BYTES) == (LARGEST_CODE, SCALE_BYTES)
    for size in (16, 18, 21):
        rows = torch.randn(6, size) * 10
        rows[1], rows[2, 3], rows[3, 4], rows[4] = 0, torch.nan, torch.inf, 2e-43
        pages = torch.zeros(1, 8, 1, size + 4, dtype=torch.int8)
        places = np.arange(1, 7)
        write_rows(rows.numpy(), 0, places, pages_as_numpy(pages))
        assert torch.equal(pages[0, places, 0, :size], quantize_rows(rows)[:, :size])
        torch.testing.assert_close(
            restore_rows(pages[0, places, 0]), restore_rows(quantize_rows(rows)), equal_nan=True
        )


def test_rows_in_bfloat16_are_rounded_as_in_torch() -> None:
    """Half to even: 1 + 1/256 and 1 + 3/256 are halfway between two numbers of bfloat16."""
    rows = torch.randn(3, 16) * 10
    rows[0, :6] = torch.tensor([1 + 1 / 256, 1 + 3 / 256, -1 - 1 / 256, 2e-43, 3.4e38, -0.0])
    rows[1, :3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    pages = torch.zeros(1, 4, 1, 16, dtype=torch.bfloat16)
    write_rows(rows.numpy(), 0, np.arange(1, 4), pages_as_numpy(pages))
    torch.testing.assert_close(pages[0, 1:, 0], rows.bfloat16(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("head_dim", [16, 24])
def test_a_cache_in_int8(head_dim) -> None:
    """It has the codes and scales of the lesson, which say less than float32."""
    model = made(head_dim=head_dim)
    rounded, exact = (
        CompiledForwardPass(model, 8, 4, cache="int8"),
        CompiledForwardPass(model, 8, 4),
    )
    assert rounded.cache.num_bytes * 4 * head_dim == exact.cache.num_bytes * (head_dim + 4)
    for expected, got in zip(results(exact), results(rounded), strict=True):
        torch.testing.assert_close(got, expected, atol=0.02, rtol=0)
        assert not torch.equal(got, expected)
    first = exact.cache.keys[0]  # nothing before the first layer's keys has been rounded
    assert torch.equal(rounded.cache.keys[0], quantize_rows(first))


@pytest.mark.parametrize("kind", ["bfloat16", "int8", "int4"])
def test_the_cache_is_no_wider_than_the_weights(kind) -> None:
    assert CompiledForwardPass(made(), 8, 4, kind).cache.keys.dtype == torch.bfloat16


def test_numbers_are_rounded_to_bfloat16_half_to_even() -> None:
    """The compiled code rounds as PyTorch does."""
    x = torch.randn(1, 64) * 100
    pages = torch.zeros(1, 2, 1, 64, dtype=torch.bfloat16)
    write_rows(x.numpy(), 0, np.array([1]), pages_as_numpy(pages))
    torch.testing.assert_close(pages[0, 1, 0], x[0].bfloat16(), atol=0, rtol=0)


@pytest.mark.parametrize("cache", ["float32", "int8"])
def test_copies_of_blocks(cache) -> None:
    model = made()
    forward = CompiledForwardPass(model, 8, 4, cache=cache)
    forward.hidden([ChunkRows(0, [1, 2, 3], 0, [2])])
    forward.copy_blocks([(2, 5)])
    got = forward.hidden([ChunkRows(0, [4], 3, [2]), ChunkRows(1, [4], 3, [5])])
    torch.testing.assert_close(got[0], got[1])


@pytest.mark.parametrize(("name", "value"), [
    ("norm", "layernorm"), ("norm_position", "post"), ("mlp", "gelu"), ("biases", True),
    ("position", "learned"),
])  # fmt: skip
def test_what_is_not_supported(name, value) -> None:
    config = ModelConfig(**{**SHAPE, name: value})
    assert unsupported_variant(config) == f"{name} = {value}"


def test_widths_need_not_be_whole_blocks() -> None:
    model = made(d_ff=100, d_model=60, head_dim=20)
    for kind, tolerance in (("float32", 2e-5), ("int8", 0.05)):
        plain, compiled = PlainForwardPass(model, 8, 4), CompiledForwardPass(model, 8, 4, kind)
        for expected, got in zip(results(plain), results(compiled), strict=True):
            torch.testing.assert_close(got, expected, atol=tolerance, rtol=0)
