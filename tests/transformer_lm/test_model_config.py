"""ModelConfig rejects invalid shapes and says why."""

import pytest

from transformer_lm.model_config import ModelConfig

SHAPE = {
    "vocab_size": 100,
    "context_length": 16,
    "d_model": 48,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "d_ff": 64,
}


def test_head_dim_is_the_share_of_one_query_head():
    assert ModelConfig(**SHAPE).head_dim == 12


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_heads": 5}, "num_heads = 5 does not divide d_model = 48"),
        ({"d_model": 20}, "head_dim = 5 .* is odd"),
        ({"num_kv_heads": 3}, "num_kv_heads = 3 does not divide num_heads = 4"),
        ({"vocab_size": 0}, "vocab_size"),
        ({"norm_eps": 0.0}, "norm_eps"),
        ({"dropout": 0.1}, "dropout"),
    ],
)
def test_impossible_shapes_are_refused_with_the_reason(change, words):
    with pytest.raises(ValueError, match=words):
        ModelConfig(**(SHAPE | change))
