"""The compiled forward pass is the plain one, of the weights that it holds."""

import pytest
import torch

from inference.engine.compiled_forward import CompiledForwardPass, is_supported
from inference.engine.forward_pass import ChunkRows, PlainForwardPass
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


@pytest.mark.parametrize("kind", ["bfloat16", "int8", "int4"])
def test_in_few_bits(kind) -> None:
    """The same as the plain pass of a model that has the restored weights."""
    model = made(tie_embeddings=False)
    compiled = CompiledForwardPass(model, 8, 4, kind)
    got = results(compiled)
    before = results(PlainForwardPass(model, 8, 4))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and name != "token_embedding.weight":
                weight.copy_(compiled._make(weight).restored())
    for expected, found in zip(results(PlainForwardPass(model, 8, 4)), got, strict=True):
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)
    assert max((b - g).abs().max() for b, g in zip(before, got, strict=True)) > 1e-4


def test_a_cache_in_bfloat16() -> None:
    model = made()
    rounded = CompiledForwardPass(model, 8, 4, cache="bfloat16")
    assert rounded.cache.num_bytes * 2 == CompiledForwardPass(model, 8, 4).cache.num_bytes
    for expected, got in zip(results(PlainForwardPass(model, 8, 4)), results(rounded), strict=True):
        torch.testing.assert_close(got, expected, atol=0.05, rtol=0)


def test_copies_of_blocks() -> None:
    model = made()
    forward = CompiledForwardPass(model, 8, 4)
    forward.hidden([ChunkRows(0, [1, 2, 3], 0, [2])])
    forward.copy_blocks([(2, 5)])
    got = forward.hidden([ChunkRows(0, [4], 3, [2]), ChunkRows(1, [4], 3, [5])])
    torch.testing.assert_close(got[0], got[1])


@pytest.mark.parametrize("changes", [
    {"norm": "layernorm"}, {"norm_position": "post"}, {"mlp": "gelu"}, {"biases": True},
    {"position": "learned"},
])  # fmt: skip
def test_what_is_not_supported(changes) -> None:
    config = ModelConfig(**{**SHAPE, **changes})
    assert not is_supported(config, "float32")


def test_int4_needs_whole_blocks() -> None:
    config = ModelConfig(**{**SHAPE, "d_ff": 100})
    assert is_supported(config, "int8")
    assert not is_supported(config, "int4")
