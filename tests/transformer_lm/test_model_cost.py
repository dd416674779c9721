"""Costs against the model itself and torch's own count of the FLOPs it ran."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from transformer_lm import model_cost
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig

SHAPES = [
    ModelConfig(
        vocab_size=301,
        context_length=32,
        d_model=48,
        num_layers=3,
        num_heads=6,
        num_kv_heads=kv_heads,
        d_ff=100,
        tie_embeddings=tied,
    )
    for kv_heads in (2, 6)
    for tied in (True, False)
]


@pytest.mark.parametrize("config", SHAPES)
def test_parameters_are_those_of_the_model(config):
    assert model_cost.count_parameters(config) == sum(
        p.numel() for p in TransformerLM(config).parameters()
    )


@pytest.mark.parametrize("config", SHAPES)
def test_flops_are_those_that_torch_counts(config):
    model = TransformerLM(config, attention_backend="eager")
    ids = torch.zeros(2, 20, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        logits = model(ids)
    forward = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        logits.sum().backward()
    both = forward + counter.get_total_flops()
    assert forward == 2 * sum(model_cost.forward_flops_by_part(config, 20).values())
    assert both == 2 * 20 * model_cost.flops_per_token(config, 20)


def test_six_n_leaves_out_the_scores_and_little_else():
    config = SHAPES[0]
    parts = model_cost.forward_flops_by_part(config, 32)
    exact_without_scores = 3 * (sum(parts.values()) - parts["attention scores"]) / 32
    norms = model_cost.parameters_by_part(config)["norms"]
    assert model_cost.six_n_flops_per_token(config) == exact_without_scores + 6 * norms


def test_cache_bytes_by_hand():
    # 2 (key, value) * 3 layers * 2 heads * 8 wide * 2 bytes
    assert model_cost.kv_cache_bytes_per_token(SHAPES[0]) == 192
    assert model_cost.kv_cache_bytes_per_token(SHAPES[2], bytes_per_value=4) == 1152


@pytest.mark.parametrize(
    ("changes", "values"),
    [
        ({}, 2 * 3 * 48 + 48),  # two norms in each of 3 layers, and the last
        ({"norm_position": "post"}, 2 * 3 * 48),  # without the last norm
        ({"qk_norm": True}, 2 * 3 * 48 + 48 + 3 * (6 + 2) * 8),  # 6 query and 2 key heads of 8
        ({"norm": "none", "qk_norm": True}, 3 * (6 + 2) * 8),
        ({"norm": "none"}, 0),
    ],
    ids=str,
)
def test_what_norms_keep_by_hand(changes, values):
    config = ModelConfig(**SHAPES[0].model_dump() | changes)
    found = model_cost.activation_bytes_by_part(config, batch_size=2, sequence_length=5)
    assert found["norms"] == 2 * 5 * 2 * values  # 2 sequences of 5 tokens, 2 bytes each


@pytest.mark.parametrize(
    ("norm", "position"), [("rmsnorm", "pre"), ("none", "pre"), ("rmsnorm", "post")]
)
def test_checkpointed_blocks_keep_their_inputs_and_one_block(norm, position):
    config = ModelConfig(**SHAPES[0].model_dump() | {"norm": norm, "norm_position": position})
    given = {"batch_size": 2, "sequence_length": 5, "bytes_per_value": 4}
    with_all = model_cost.activation_bytes_by_part(config, **given)
    parts = model_cost.checkpointed_activation_bytes(config, **given)
    assert parts["block inputs"] == 3 * 2 * 5 * 48 * 4
    assert parts["output head"] == with_all["output head"]
    # Three blocks, without what comes after them, are all that is kept without checkpointing.
    assert 3 * parts["one block"] + parts["last norm"] + parts["output head"] == sum(
        with_all.values()
    )


@pytest.mark.parametrize("config", SHAPES)
def test_the_recomputed_flops_are_all_but_the_head(config):
    head = 2 * 20 * config.vocab_size * config.d_model
    forward = model_cost.flops_per_token(config, 20) * 20 / 3
    assert model_cost.recomputed_flops(config, 20) == forward - head
