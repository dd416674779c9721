"""The counts of the latency model are those of real models and caches."""

import pytest
import torch
from torch import nn

from inference.latency_model import (
    CacheMemory,
    Machine,
    StepCost,
    decode_tokens_per_second,
    memory_for_cache,
    roofline_seconds,
    step_cost,
)
from inference.paged_attention import PagedKVCache
from lm_core.user_error import UserError
from transformer_lm.attention import causal_mask
from transformer_lm.language_model import TransformerLM
from transformer_lm.layers import Embedding, Linear
from transformer_lm.model_config import ModelConfig
from transformer_lm.model_cost import forward_flops_by_part, kv_cache_bytes_per_token

SHAPE = {
    "vocab_size": 17,
    "context_length": 32,
    "d_model": 12,
    "num_layers": 3,
    "num_heads": 6,
    "num_kv_heads": 2,
    "d_ff": 20,
}


def config(**changes: object) -> ModelConfig:
    return ModelConfig(**{**SHAPE, **changes})


@pytest.mark.parametrize("mlp", ["swiglu", "gelu", "squared_relu", "geglu"])
@pytest.mark.parametrize("tie_embeddings", [True, False])
@pytest.mark.parametrize("head_dim", [2, 6])
def test_the_weights_are_those_of_a_model(mlp: str, tie_embeddings: bool, head_dim: int) -> None:
    shape = config(mlp=mlp, tie_embeddings=tie_embeddings, head_dim=head_dim, biases=True)
    model = TransformerLM(shape)
    weights = sum(each.weight.numel() for each in model.modules() if isinstance(each, Linear))
    if tie_embeddings:
        weights += model.token_embedding.weight.numel()
    assert step_cost(shape, [1, 2], [3, 0], weight_bits=8).weight_bytes == weights
    assert not any(isinstance(each, nn.Linear) for each in model.modules()), "counted here, too"
    assert isinstance(model.token_embedding, Embedding)


@pytest.mark.parametrize("window", [None, 1, 4, 100])
def test_the_pairs_are_those_of_the_mask(window: int | None) -> None:
    shape = config(sliding_window=window)
    for new, cached in ((1, 0), (1, 9), (5, 0), (4, 7)):
        mask = causal_mask(new, cached + new, torch.device("cpu"), window)
        with_pairs = step_cost(shape, [new], [cached])
        products = forward_flops_by_part(shape, new)
        head = products["output head"] // new
        blocks = products["attention projections"] + products["feed-forward"]
        per_pair = 4 * shape.head_dim * shape.num_heads * shape.num_layers
        assert with_pairs.flops == blocks + head + per_pair * int(mask.sum())
        token = kv_cache_bytes_per_token(shape)
        assert with_pairs.cache_bytes == token * int(mask.any(0).sum())


def test_the_blocks_are_those_of_a_cache() -> None:
    shape, lengths = config(), [5, 8, 0, 17]
    memory = memory_for_cache(shape, lengths, 4, cache_bits=32)
    num_blocks = int(memory.table_bytes) // 4
    assert num_blocks == 2 + 2 + 0 + 5
    assert PagedKVCache.for_model(shape, num_blocks, 4).num_bytes == memory.block_bytes
    empty = num_blocks * 4 - sum(lengths)
    assert memory.wasted_bytes == empty * kv_cache_bytes_per_token(shape, bytes_per_value=4)
    assert memory_for_cache(shape, [], 4) == CacheMemory(0, 0, 0)


def test_memory_decides_for_one_request_and_arithmetic_for_many() -> None:
    machine = Machine(bytes_per_second=1e9, flops_per_second=1e11)
    shape = config(d_model=256, d_ff=512, num_heads=8, num_kv_heads=8)
    one, half = (decode_tokens_per_second(shape, 1, 8, machine, bits) for bits in (16, 8))
    assert half == pytest.approx(2 * one, rel=0.02), "half of the bits, twice the speed"
    rates = [decode_tokens_per_second(shape, batch, 8, machine) for batch in (1, 2, 4, 400, 800)]
    assert rates == sorted(rates)
    assert rates[1] == pytest.approx(2 * rates[0], rel=0.02)
    assert rates[4] == pytest.approx(rates[3], rel=0.02), "the arithmetic is the limit"
    assert roofline_seconds(StepCost(3e9, 1e9, 5e11), machine) == 5.0


def test_refused() -> None:
    with pytest.raises(UserError, match=r"2 requests and cached_tokens 1"):
        step_cost(config(), [1, 1], [0])
    with pytest.raises(UserError, match="at least 1 new token"):
        step_cost(config(), [0], [4])
    assert step_cost(config(), [], []) == StepCost(0, 0, 0)
