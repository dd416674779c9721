"""Layers and models for drawn inputs: their weights by seed, and the rotary table and the cache
that they are called with.

Nothing here imports the code under test: the caller passes its module.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from lm_course.drawn_inputs.constant_strategies import near_constants
from lm_course.drawn_inputs.differentiated import Differentiated


def filled(layer: nn.Module, seed: int, dtype: str = "float32") -> nn.Module:
    """Convert the layer, load weights drawn from the seed into it, and return it."""
    layer.to(getattr(torch, dtype))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(layer.named_parameters()):
            values = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim < 2:
                values = 0.3 * values + name.endswith("weight")
            else:
                values = values / parameter.shape[-1] ** 0.5
            parameter.copy_(values)
    return layer


def called(
    layers: list[nn.Module],
    leaves: list[Mapping[str, Tensor]],
    wanted: bool,
    step: float | None = 1e-2,
    rounds: bool = False,
) -> Differentiated:
    """Call several layers after all of them were made, and return all results with gradients: no
    layer may know another.
    """
    for layer in layers:
        layer.train(wanted)
    names = [{f"{name} of {i}": x for name, x in each.items()} for i, each in enumerate(leaves)]

    def function(**inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(
            layer(*(inputs[name] for name in each))
            for layer, each in zip(layers, names, strict=True)
        )

    parameters = {
        f"{name} of {i}": x
        for i, layer in enumerate(layers)
        for name, x in layer.named_parameters()
    }
    return Differentiated(
        function,
        {name: x for each in names for name, x in each.items()},
        parameters if wanted else {},
        wanted=wanted,
        step=step,
        rounds=rounds,
    )


ROPE_SCALING = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["linear", "llama3", "yarn"]),
        "factor": st.sampled_from([1.0, 1.7, 4.0, 32.0]),
        "original_context_length": st.sampled_from([7, 64, 512, 8192]),
        "low_frequency_factor": st.sampled_from([0.5, 1.0, 1.9]),
        "high_frequency_factor": st.sampled_from([2.3, 4.0, 9.0]),
        "beta_fast": st.sampled_from([32.0, 8.5, 80.0]),
        "beta_slow": st.sampled_from([1.0, 0.3, 5.0]),
        "attention_factor": st.sampled_from([None, 0.6, 1.3]),
    }
)


def scaling_of(fields: Mapping[str, Any] | None) -> Any:
    if fields is None:
        return None
    return import_module("transformer_lm.model_config").RopeScaling(**fields)


@st.composite
def configs(draw: Any, scaled: bool = True) -> dict[str, Any]:
    """Draw every field of a small ModelConfig."""
    few = near_constants(st.integers(1, 3), 1, 17)
    kv_heads, group = draw(few), draw(few)
    position = draw(st.sampled_from(["rotary", "rotary", "learned", "none"]))
    fields = {
        "vocab_size": draw(near_constants(st.integers(2, 12), 2, 300)),
        "context_length": draw(near_constants(st.integers(6, 16), 6, 130)),
        "d_model": draw(near_constants(st.integers(1, 9), 1, 130)),
        "num_layers": draw(near_constants(st.integers(1, 2), 1, 4)),
        "num_heads": kv_heads * group,
        "num_kv_heads": kv_heads,
        "head_dim": 2 * draw(near_constants(st.integers(1, 3), 1, 70)),
        "d_ff": draw(near_constants(st.integers(1, 9), 1, 130)),
        "norm": draw(st.sampled_from(["rmsnorm", "layernorm", "none"])),
        "norm_position": draw(st.sampled_from(["pre", "post"])),
        "position": position,
        "mlp": draw(st.sampled_from(["swiglu", "gelu"])),
        "biases": draw(st.booleans()),
        "qk_norm": draw(st.booleans()),
        "sliding_window": draw(near_constants(st.sampled_from([None, 1, 2, 3, 100]), 1, 300)),
        "norm_eps": draw(st.sampled_from([1e-5, 1e-3, 0.5])),
        "tie_embeddings": draw(st.booleans()),
        "rope_theta": draw(st.sampled_from([10000.0, 50.0, 500000.0])),
    }
    if scaled and position == "rotary":
        fields["rope_scaling"] = draw(st.none() | ROPE_SCALING)
    return fields


def config_of(fields: Mapping[str, Any]) -> Any:
    return import_module("transformer_lm.model_config").ModelConfig(**fields)


def rotary_of(config: Any) -> Any:
    if config.position != "rotary":
        return None
    module = import_module("transformer_lm.rotary_embedding")
    return module.RotaryEmbedding(
        config.head_dim, config.context_length, config.rope_theta, config.rope_scaling
    )


class KeptCache:
    """The cache of the handout."""

    def __init__(self) -> None:
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}
        self.appended: list[int] = []

    def __len__(self) -> int:
        """An empty cache is false, but it is not None."""
        return self.length

    @property
    def length(self) -> int:
        return max((keys.shape[2] for keys, _ in self.layers.values()), default=0)

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        self.appended.append(layer)
        if layer in self.layers:
            old = self.layers[layer]
            keys, values = torch.cat([old[0], keys], 2), torch.cat([old[1], values], 2)
        self.layers[layer] = keys, values
        return keys, values


def pieces_of(length: int, cuts: list[int]) -> list[slice]:
    """Return the pieces between the cuts, in order; a cut beyond the length does not count."""
    ends = sorted({cut for cut in cuts if 0 < cut < length} | {length})
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
