"""Attention against hand-worked numbers, a float64 loop over every head, and its own backends."""

import math

import pytest
import torch

from transformer_lm.attention import (
    CausalSelfAttention,
    causal_mask,
    scaled_dot_product_attention,
)
from transformer_lm.model_config import ModelConfig
from transformer_lm.rotary_embedding import RotaryEmbedding

CONFIG = ModelConfig(
    vocab_size=10,
    context_length=32,
    d_model=24,
    num_layers=1,
    num_heads=6,
    num_kv_heads=2,
    d_ff=8,
)


class ListCache:
    """The simplest implementation of the cache's protocol: it concatenates."""

    def __init__(self) -> None:
        self.layers = {}
        self.length = 0

    def append(self, layer, keys, values):
        if layer in self.layers:
            old_keys, old_values = self.layers[layer]
            keys, values = torch.cat([old_keys, keys], 2), torch.cat([old_values, values], 2)
        self.layers[layer] = keys, values
        return keys, values


def attend_in_float64(layer: CausalSelfAttention, x: torch.Tensor) -> torch.Tensor:
    """Compute the definition, one sequence, one head and one query at a time."""
    rotary = RotaryEmbedding(layer.head_dim, x.shape[1]).double()
    positions = torch.arange(x.shape[1])
    w_q, w_k, w_v, w_o = (
        part.weight.detach().double()
        for part in (layer.query, layer.key, layer.value, layer.output)
    )
    width, group = layer.head_dim, layer.num_heads // layer.num_kv_heads
    sequences = []
    for sequence in x.double():
        heads = []
        for head in range(layer.num_heads):
            rows = slice(head * width, (head + 1) * width)
            kv_rows = slice(head // group * width, (head // group + 1) * width)
            q = rotary(sequence @ w_q[rows].T, positions)
            k = rotary(sequence @ w_k[kv_rows].T, positions)
            v = sequence @ w_v[kv_rows].T
            outputs = []
            for t in range(len(sequence)):
                weights = torch.softmax(k[: t + 1] @ q[t] / math.sqrt(width), dim=0)
                outputs.append(weights @ v[: t + 1])
            heads.append(torch.stack(outputs))
        sequences.append(torch.cat(heads, dim=-1) @ w_o.T)
    return torch.stack(sequences)


def run(layer: CausalSelfAttention, x: torch.Tensor, cache=None, past: int = 0) -> torch.Tensor:
    rotary = RotaryEmbedding(layer.head_dim, 32)
    return layer(x, rotary, torch.arange(past, past + x.shape[1]), cache)


def test_attention_by_hand():
    # Scores q k^T / sqrt(4): (2 ln 3) / 2 = ln 3 and 0, so the weights are 3/4 and 1/4.
    q = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    k = torch.tensor([[2 * math.log(3), 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
    v = torch.tensor([[8.0], [0.0]])
    torch.testing.assert_close(scaled_dot_product_attention(q, k, v), torch.tensor([[6.0]]))
    only_second = torch.tensor([[False, True]])
    assert scaled_dot_product_attention(q, k, v, only_second).item() == 0.0


def test_attention_equals_float64_with_other_lengths_and_a_mask():
    generator = torch.Generator().manual_seed(0)
    q, k = (
        torch.randn(2, 3, 5, 8, generator=generator),
        torch.randn(2, 3, 7, 8, generator=generator),
    )
    v = torch.randn(2, 3, 7, 4, generator=generator)
    mask = torch.rand(5, 7, generator=generator) > 0.4
    mask[:, 0] = True
    wide = q.double() @ k.double().mT / math.sqrt(8)
    expected = torch.softmax(wide.masked_fill(~mask, -math.inf), -1) @ v.double()
    result = scaled_dot_product_attention(q, k, v, mask)
    torch.testing.assert_close(result.double(), expected, atol=1e-6, rtol=1e-5)


def test_causal_mask_lines_up_the_last_query_with_the_last_key():
    assert causal_mask(3, 3, torch.device("cpu")).tolist() == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]
    assert causal_mask(2, 4, torch.device("cpu")).tolist() == [
        [True, True, True, False],
        [True, True, True, True],
    ]


@pytest.mark.parametrize("backend", ["auto", "eager", "matmul", "tiled", "sdpa"])
def test_every_backend_equals_the_definition_in_float64(backend):
    torch.manual_seed(0)
    layer = CausalSelfAttention(CONFIG, 0, backend)
    x = torch.randn(2, 9, 24)
    # float32 through three products of 24 terms: errors below 1e-6
    torch.testing.assert_close(
        run(layer, x).double(), attend_in_float64(layer, x), atol=2e-6, rtol=0
    )


@pytest.mark.parametrize("backend", ["matmul", "tiled", "sdpa"])
def test_gradients_of_the_fast_backends_equal_the_lesson(backend):
    torch.manual_seed(0)
    x = torch.randn(2, 9, 24)
    layer = CausalSelfAttention(CONFIG, 0)
    gradients = {}
    for layer.attention_backend in ("eager", backend):
        layer.zero_grad()
        run(layer, x).square().sum().backward()
        gradients[layer.attention_backend] = [p.grad for p in layer.parameters()]
    for expected, found in zip(gradients["eager"], gradients[backend], strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_auto_under_bfloat16_agrees_with_the_lesson():
    torch.manual_seed(0)
    x = torch.randn(2, 9, 24)
    layer = CausalSelfAttention(CONFIG, 0)
    exact = attend_in_float64(layer, x)
    with torch.autocast("cpu", torch.bfloat16):
        result = run(layer, x)
    # four roundings to 8 bits, on values of up to 1
    torch.testing.assert_close(result.double(), exact, atol=0.02, rtol=0)


@pytest.mark.parametrize("backend", ["auto", "eager", "matmul", "tiled", "sdpa"])
@pytest.mark.parametrize("pieces", [[1] * 9, [4, 5], [4, 1, 4], [8, 1]])
def test_reading_in_pieces_through_a_cache_gives_the_same(backend, pieces):
    torch.manual_seed(0)
    layer = CausalSelfAttention(CONFIG, 3, backend)
    x = torch.randn(2, 9, 24)
    cache, outputs, past = ListCache(), [], 0
    for size in pieces:
        outputs.append(run(layer, x[:, past : past + size], cache, past))
        past += size
    torch.testing.assert_close(torch.cat(outputs, 1), run(layer, x), atol=2e-6, rtol=0)
    assert cache.layers[3][0].shape == (2, CONFIG.num_kv_heads, 9, 4), "grouped heads stay grouped"
