"""The table of layer errors: each row against the formula, and the bits per byte of a text."""

import math

import pytest
import torch

from inference.quantized_files.layer_errors import (
    bits_per_byte,
    error_table,
    layer_errors,
    num_bytes,
)
from inference.weight_quantization import quantize_model


@pytest.mark.parametrize(
    ("kind", "settings", "bits"),
    [("int8", (), 8 + 32 / 32), ("int4", (8,), 4 + 32 / 8), ("int4", (8, False), 4 + 40 / 8)],
)
def test_a_row_for_each_layer(model, kind, settings, bits):
    quantized = quantize_model(model, kind, *settings)
    rows = layer_errors(model, quantized)
    assert len(rows) == 2 * 7 and rows[0].name == "blocks.0.attention.query"
    row = rows[0]
    weight = model.blocks[0].attention.query.weight.detach().double()
    restored = quantized.blocks[0].attention.query.dequantized().double()
    assert row.shape == (32, 32) and row.bits_per_weight == bits
    assert row.error == pytest.approx(float((weight - restored).norm() / weight.norm()))
    assert num_bytes(quantized) < num_bytes(model)
    lines = error_table(rows, 2.0, 2.125).splitlines()
    assert len(lines) == 16 and lines[-1].endswith("2.0000 before, 2.1250 after (+0.1250)")
    assert lines[1].startswith(max(rows, key=lambda row: row.error).name)


@pytest.mark.parametrize("length", [2, 30, 48, 49, 50, 100])
def test_bits_per_byte_against_single_tokens(model, length):
    ids = torch.randint(0, 256, (length,), generator=torch.Generator().manual_seed(length))
    nats = 0.0
    for place in range(1, length):
        start = (place - 1) // model.config.context_length * model.config.context_length
        with torch.no_grad():
            logits = model(ids[None, start:place])[0, -1].double()
        nats -= float(logits.log_softmax(-1)[ids[place]])
    got = bits_per_byte(model, ids, length - 1)
    assert got == pytest.approx(nats / math.log(2) / (length - 1), rel=1e-5)


def test_a_text_that_is_too_short_is_refused(model):
    for count, size in ((1, 1), (0, 5), (3, 0)):
        with pytest.raises(ValueError, match=f"no bits per byte for {count} tokens"):
            bits_per_byte(model, torch.zeros(count, dtype=torch.long), size)
