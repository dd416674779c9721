"""Models, prompts and sampling settings for drawn inputs of a6's generation.

Nothing here imports the code under test: the settings come from the module `inference.sampling` of
the process that calls.
"""

from collections.abc import Mapping
from functools import lru_cache
from importlib import import_module
from typing import Any

import torch
from hypothesis import strategies as st
from torch import nn

TINY = {
    "vocab_size": 11,
    "context_length": 16,
    "d_model": 8,
    "num_layers": 1,
    "num_heads": 4,
    "num_kv_heads": 2,
    "d_ff": 12,
}
VARIANTS: list[dict[str, Any]] = [
    {},
    {"num_layers": 2},
    {"norm": "layernorm", "position": "learned", "mlp": "gelu", "biases": True},
    {"norm_position": "post", "tie_embeddings": False},
    {"norm": "none", "position": "none", "num_kv_heads": 1},
    {"qk_norm": True, "sliding_window": 3, "rope_theta": 50.0, "head_dim": 6},
]


@st.composite
def fields(draw: Any) -> dict[str, Any]:
    """Draw every field of a small ModelConfig that forward_tokens must heed."""
    position = draw(st.sampled_from(["rotary", "rotary", "learned", "none"]))
    kv_heads = draw(st.integers(1, 2))
    scaling = {"kind": "yarn", "factor": 4.0, "original_context_length": 8}
    return {
        "vocab_size": draw(st.integers(2, 12)),
        "context_length": draw(st.integers(8, 16)),
        "d_model": draw(st.integers(1, 9)),
        "num_layers": draw(st.integers(1, 3)),
        "num_heads": kv_heads * draw(st.integers(1, 3)),
        "num_kv_heads": kv_heads,
        "head_dim": 2 * draw(st.integers(1, 3)),
        "d_ff": draw(st.integers(1, 9)),
        "norm": draw(st.sampled_from(["rmsnorm", "layernorm", "none"])),
        "norm_position": draw(st.sampled_from(["pre", "post"])),
        "position": position,
        "mlp": draw(st.sampled_from(["swiglu", "gelu", "squared_relu", "geglu"])),
        "biases": draw(st.booleans()),
        "qk_norm": draw(st.booleans()),
        "norm_eps": draw(st.sampled_from([1e-5, 0.5])),
        "tie_embeddings": draw(st.booleans()),
        "rope_theta": draw(st.sampled_from([10000.0, 50.0])),
        "rope_scaling": draw(st.sampled_from([None, scaling])) if position == "rotary" else None,
    }


def config_of(changes: Mapping[str, Any]) -> Any:
    return import_module("transformer_lm.model_config").ModelConfig(**{**TINY, **changes})


def model_of(changes: Mapping[str, Any], seed: int, dtype: str = "float32") -> nn.Module:
    """Return a model with weights drawn from the seed, large enough for clear choices."""
    return _model(repr(changes), config_of(changes), seed, dtype)


@lru_cache(maxsize=64)
def _model(_: str, config: Any, seed: int, dtype: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = import_module("transformer_lm.language_model").TransformerLM(config, "eager")
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(torch.randn(weight.shape), alpha=0.5)
    return model.eval().to(getattr(torch, dtype))


settings = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 0.0, 0.7, 1.5]),
        "top_k": st.sampled_from([0, 0, 3]),
        "repetition_penalty": st.sampled_from([1.0, 1.0, 1.6]),
        "presence_penalty": st.sampled_from([0.0, 0.0, 0.9]),
        "frequency_penalty": st.sampled_from([0.0, 0.0, 0.7]),
        "logit_bias": st.sampled_from([{}, {}, {3: 2.5}]),
        "seed": st.integers(0, 9),
    }
)


def settings_of(fields: Mapping[str, Any]) -> Any:
    return import_module("inference.sampling").SamplingSettings(**fields)


def ids(least: int, most: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, 10), min_size=least, max_size=most)
