"""The weights of a head against its formula, written out number by number in float64."""

import math

import pytest
import torch

from inference.chat_page.attention_weights import attention_weights
from lm_core.random_state import seed_everything
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig, RopeScaling

IDS = [5, 17, 3, 3, 40, 22, 9, 31, 0, 12]
SHAPE = {"d_model": 24, "num_layers": 3, "num_heads": 4, "num_kv_heads": 2, "d_ff": 32}
SHAPES = {
    "llama": {},
    "one key head for each": {"num_kv_heads": 4},
    "norms of queries and keys": {"qk_norm": True, "head_dim": 8},
    "sliding window": {"sliding_window": 3},
    "gpt-2": {"position": "learned", "norm": "layernorm", "mlp": "gelu", "biases": True},
    "no positions, post-norm": {"position": "none", "norm_position": "post"},
    "scaled rotation": {
        "rope_scaling": RopeScaling(kind="linear", factor=4, original_context_length=8)
    },
}


def model_of(**changes) -> TransformerLM:
    seed_everything(1)
    config = ModelConfig(vocab_size=50, context_length=16, **{**SHAPE, **changes})
    model = TransformerLM(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape) * 0.4)  # also biases and norms
    return model


def vectors(model, projection, norm, x, head) -> list[list[float]]:
    """Queries or keys of one head as lists: projected, normalized and rotated."""
    config, width = model.config, model.config.head_dim
    rows = slice(head * width, (head + 1) * width)
    weight = projection.weight.double()[rows]
    bias = 0 if projection.bias is None else projection.bias.double()[rows]
    found = []
    for position, each in enumerate(x.double()):
        vector = (weight @ each + bias).tolist()
        if config.qk_norm:
            size = math.sqrt(sum(v * v for v in vector) / width + config.norm_eps)
            gains = norm.weight.tolist()
            vector = [v / size * gain for v, gain in zip(vector, gains, strict=True)]
        if config.position == "rotary":
            slower = config.rope_scaling.factor if config.rope_scaling else 1
            turned = []
            for pair in range(width // 2):
                angle = position / slower * config.rope_theta ** (-2 * pair / width)
                turn = complex(math.cos(angle), math.sin(angle))
                product = complex(vector[2 * pair], vector[2 * pair + 1]) * turn
                turned += [product.real, product.imag]
            vector = turned
        found.append(vector)
    return found


def expected_weights(model, layer, head) -> list[list[float]]:
    attention, config, seen = model.blocks[layer].attention, model.config, []
    handle = attention.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    with torch.no_grad():
        model(torch.tensor([IDS]))
    handle.remove()
    x, shared = seen[0][0], config.num_heads // config.num_kv_heads
    query_norm = attention.query_norm if config.qk_norm else None
    key_norm = attention.key_norm if config.qk_norm else None
    queries = vectors(model, attention.query, query_norm, x, head)
    keys = vectors(model, attention.key, key_norm, x, head // shared)
    rows = []
    for i, query in enumerate(queries):
        first = max(0, i + 1 - (config.sliding_window or len(IDS)))
        powers = [0.0] * len(IDS)
        for j in range(first, i + 1):
            product = sum(a * b for a, b in zip(query, keys[j], strict=True))
            powers[j] = math.exp(product / math.sqrt(config.head_dim))
        rows.append([power / sum(powers) for power in powers])
    return rows


@pytest.mark.parametrize("name", SHAPES)
def test_weights_by_the_formula(name):
    model = model_of(**SHAPES[name])
    for layer in range(3):
        for head in range(4):
            found = attention_weights(model, IDS, layer, head).tolist()
            for row, own in zip(found, expected_weights(model, layer, head), strict=True):
                assert row == pytest.approx(own, abs=2e-5)


@pytest.mark.parametrize("window", [None, 4])
def test_rows_are_distributions_over_what_is_seen(window):
    weights = attention_weights(model_of(sliding_window=window), IDS, 1, 2)
    assert weights.sum(1).tolist() == pytest.approx([1.0] * len(IDS))
    for i, row in enumerate(weights.tolist()):
        for j, weight in enumerate(row):
            hidden = j > i or (window is not None and j <= i - window)
            assert (weight == 0) == hidden, (i, j)


def test_one_token_looks_at_itself():
    assert attention_weights(model_of(), [7], 0, 0).tolist() == [[1.0]]
