"""The answers of a6's experiments are what the reference computes."""

import tomllib
from itertools import count
from pathlib import Path

import pytest

from inference.latency_model import (
    Machine,
    decode_tokens_per_second,
    memory_for_cache,
    step_cost,
)
from transformer_lm.model_config import ModelConfig

ANSWERS = tomllib.loads((Path(__file__).parent / "a6_answers.toml").read_text("utf-8"))
LLAMA = ModelConfig(
    vocab_size=128256, context_length=131072, d_model=4096, num_layers=32, num_heads=32,
    num_kv_heads=8, d_ff=14336, tie_embeddings=False,
)  # fmt: skip
MINE = ModelConfig(
    vocab_size=16384, context_length=64, d_model=1024, num_layers=6, num_heads=16, num_kv_heads=4,
    d_ff=2816,
)  # fmt: skip
SMALL = ModelConfig(
    vocab_size=4096, context_length=2048, d_model=64, num_layers=2, num_heads=4, num_kv_heads=1,
    d_ff=128,
)  # fmt: skip
H100 = Machine(3.35e12, 989e12)
LENGTHS = [17, 1030, 256, 255, 257, 64, 511, 3, 700, 48, 129, 1500]


@pytest.mark.parametrize(
    ("key", "batch", "bits"),
    [
        ("tokens_per_second_of_1", 1, 16),
        ("tokens_per_second_of_64", 64, 16),
        ("tokens_per_second_in_4_bits", 1, 4.5),
    ],
)
def test_the_predictions(key: str, batch: int, bits: float) -> None:
    found = decode_tokens_per_second(LLAMA, batch, 4096, H100, bits)
    assert ANSWERS[key] == pytest.approx(found, rel=1e-3)


def test_the_limits() -> None:
    costs = ((n, step_cost(LLAMA, [1] * n, [4096] * n)) for n in count(1))
    outweigh = next(n for n, cost in costs if cost.cache_bytes > cost.weight_bytes)
    assert ANSWERS["requests_whose_caches_outweigh_the_weights"] == outweigh
    costs = ((n, step_cost(LLAMA, [1] * n, [128] * n)) for n in count(1))
    limited = next(
        n
        for n, cost in costs
        if cost.flops / H100.flops_per_second
        >= (cost.weight_bytes + cost.cache_bytes) / H100.bytes_per_second
    )
    assert ANSWERS["smallest_batch_limited_by_arithmetic"] == limited


def test_the_measured_numbers_belong_together() -> None:
    machine = Machine(ANSWERS["my_gigabytes_per_second"] * 1e9, 1e30)
    predicted = decode_tokens_per_second(MINE, 1, 32, machine, 32, 32)
    assert ANSWERS["my_predicted_tokens_per_second"] == pytest.approx(predicted, rel=2e-3)
    share = ANSWERS["my_measured_tokens_per_second"] / predicted
    assert ANSWERS["my_measured_share_of_prediction"] == pytest.approx(share, rel=5e-3)


def test_the_block_size() -> None:
    beyond = {}
    for power in range(9):
        memory = memory_for_cache(SMALL, LENGTHS, 2**power, 8)
        beyond[2**power] = memory.wasted_bytes + memory.table_bytes
    best = min(beyond, key=beyond.__getitem__)
    assert (ANSWERS["best_block_size"], ANSWERS["bytes_beyond_the_tokens"]) == (best, beyond[best])
    for key, size in (("wasted_percent_in_blocks_of_16", 16), ("wasted_percent_if_reserved", 2048)):
        memory = memory_for_cache(LLAMA, LENGTHS, size)
        assert ANSWERS[key] == round(100 * memory.wasted_bytes / memory.block_bytes, 2)
