"""Hugging Face's layouts of Llama (including SmolLM2), Mistral and Qwen3.

All three use the same names. Llama may have biases, which must be in all linear layers or in none;
Mistral has a sliding window; Qwen3 has a sliding window and a norm over each head's query and key.

What this leaves out: biases in some of the linear layers, windows in some of the layers, rotary
positions on part of a head, and quantized files. Each is rejected by name.

Touvron et al., 2023; Jiang et al., 2023; Qwen team, 2025.
"""

import functools
from typing import Any

from lm_core.user_error import UserError
from transformer_lm.model_config import ModelConfig, RopeScaling
from transformer_lm.weights.config_values import (
    check_positions,
    longest_context,
    made_from,
    refuse_value,
    whole_number,
)
from transformer_lm.weights.weight_layout import Family, Source

LINEAR_NAMES = {
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.o_proj",
    "feed_forward.gate": "mlp.gate_proj",
    "feed_forward.up": "mlp.up_proj",
    "feed_forward.down": "mlp.down_proj",
}
NORM_NAMES = {
    "attention_norm": "input_layernorm",
    "feed_forward_norm": "post_attention_layernorm",
}
HEAD_NORM_NAMES = {
    "attention.query_norm": "self_attn.q_norm",
    "attention.key_norm": "self_attn.k_norm",
}
TURNED = ("attention.query", "attention.key")  # and so are the norms over them
ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
# The defaults of transformers for missing keys of config.json, where the families differ.
DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"num_key_value_heads": 8, "sliding_window": 4096},
    "qwen3": {"num_key_value_heads": 32, "head_dim": 128},
}
ROPE_KEYS = {
    "linear": {"factor": "factor"},
    "llama3": {
        "factor": "factor",
        "low_frequency_factor": "low_freq_factor",
        "high_frequency_factor": "high_freq_factor",
    },
    "yarn": {
        "factor": "factor",
        "beta_fast": "beta_fast",
        "beta_slow": "beta_slow",
        "attention_factor": "attention_factor",
    },
}
ORIGINAL_LENGTH = "original_max_position_embeddings"


def sources(config: ModelConfig) -> dict[str, Source]:
    """Return our parameter's name -> its source in a file of one of these families."""
    found = {
        "token_embedding.weight": Source("model.embed_tokens.weight"),
        "final_norm.weight": Source("model.norm.weight"),
    }
    if not config.tie_embeddings:
        found["output_head.weight"] = Source("lm_head.weight")
    kinds = ["weight", "bias"] if config.biases else ["weight"]
    names = [(pair, kind) for pair in LINEAR_NAMES.items() for kind in kinds]
    norms = NORM_NAMES | (HEAD_NORM_NAMES if config.qk_norm else {})
    names += [(pair, "weight") for pair in norms.items()]
    for layer in range(config.num_layers):
        for (ours, theirs), kind in names:
            place = Source(f"model.layers.{layer}.{theirs}.{kind}", halves=ours.startswith(TURNED))
            found[f"blocks.{layer}.{ours}.{kind}"] = place
    return found


def _needs(family: str, config: ModelConfig) -> dict[str, Any]:
    needs: dict[str, Any] = {
        "norm": "rmsnorm",
        "norm_position": "pre",
        "position": "rotary",
        "mlp": "swiglu",
        "qk_norm": family == "qwen3",
    }
    if family == "llama":
        # transformers rejects a Llama whose number of heads does not divide its width, for any
        # head_dim.
        heads = config.num_heads
        return needs | {"sliding_window": None, "d_model": -(-config.d_model // heads) * heads}
    return needs | {"biases": False}


def _to_config(family: str, config: ModelConfig) -> dict[str, Any]:
    """Return config.json; transformers 4 reads `rope_theta` and `rope_scaling`, 5 reads
    `rope_parameters`.
    """
    rope, scaling = _rope_parameters(config), config.rope_scaling
    length = config.context_length
    if scaling is not None and scaling.kind == "linear" and ORIGINAL_LENGTH not in rope:
        length = scaling.original_context_length  # for "linear", the length before rescaling
    written = {
        "architectures": [ARCHITECTURES[family]],
        "model_type": family,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": length,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.d_ff,
        "hidden_act": "silu",
        "rope_theta": config.rope_theta,
        "rope_parameters": rope,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "attention_bias": config.biases,
        "attention_dropout": 0.0,
        "use_cache": True,
    }
    if config.rope_scaling is not None:
        written["rope_scaling"] = rope
    if family == "llama":
        return written | {"mlp_bias": config.biases}
    written |= {"sliding_window": config.sliding_window}
    if family == "qwen3":
        windowed = config.sliding_window is not None
        kind = "sliding_attention" if windowed else "full_attention"
        written |= {"use_sliding_window": windowed, "max_window_layers": 0}
        written |= {"layer_types": [kind] * config.num_layers}
    return written


def _rope_parameters(config: ModelConfig) -> dict[str, Any]:
    scaling = config.rope_scaling
    if scaling is None:
        return {"rope_type": "default", "rope_theta": config.rope_theta}
    keys = ROPE_KEYS[scaling.kind]
    values = {theirs: getattr(scaling, ours) for ours, theirs in keys.items()}
    written = {key: value for key, value in values.items() if value is not None}
    length = scaling.original_context_length
    # transformers warns of an unknown key, and does not have this one for "linear".
    if scaling.kind != "linear" or config.context_length != round(length * scaling.factor):
        written[ORIGINAL_LENGTH] = length
    return {"rope_type": scaling.kind, "rope_theta": config.rope_theta, **written}


def _from_config(family: str, config: dict[str, Any]) -> ModelConfig:
    given = DEFAULTS[family] | config
    rope = given.get("rope_scaling") or given.get("rope_parameters") or {}
    if not isinstance(rope, dict):
        raise UserError(f"config.json: rope_parameters must be an object, found {rope!r}")
    _refuse_what_is_not_computed(family, given, rope)
    width, heads = whole_number(given, "hidden_size"), whole_number(given, "num_attention_heads")
    length = whole_number(given, "max_position_embeddings")
    scaling = _rope_scaling(given, rope, length)
    if scaling is not None:
        before, factor = scaling.original_context_length, scaling.factor
        length = longest_context(length, scaling.kind, before, factor)
    check_positions(length, "config.json")
    return made_from(
        ModelConfig,
        vocab_size=whole_number(given, "vocab_size"),
        context_length=length,
        d_model=width,
        num_layers=whole_number(given, "num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=given.get("num_key_value_heads") or heads,
        d_ff=whole_number(given, "intermediate_size"),
        biases=given.get("attention_bias", False),
        qk_norm=family == "qwen3",
        sliding_window=_window(family, given),
        rope_theta=rope.get("rope_theta") or given.get("rope_theta") or 10000.0,
        rope_scaling=scaling,
        norm_eps=given.get("rms_norm_eps", 1e-6),
        tie_embeddings=given.get("tie_word_embeddings", False),
        **({"head_dim": given["head_dim"]} if given.get("head_dim") is not None else {}),
    )


def _refuse_what_is_not_computed(family: str, config: dict[str, Any], rope: dict[str, Any]) -> None:
    nested = next((key for key, value in rope.items() if isinstance(value, dict)), None)
    if nested is not None:
        raise UserError(
            f"config.json: rope_parameters has a part for {nested} alone; only one rotary "
            "embedding for all layers is supported"
        )
    computed = {
        "hidden_act": (config.get("hidden_act", "silu"), "silu"),
        "quantization_config": (config.get("quantization_config"), None),
        "partial_rotary_factor": (
            rope.get("partial_rotary_factor", config.get("partial_rotary_factor")) or 1.0,
            1.0,
        ),
        "mscale": (rope.get("mscale"), None),
        "mscale_all_dim": (rope.get("mscale_all_dim"), None),
        "truncate": (rope.get("truncate", True), True),
    }
    attention_bias = config.get("attention_bias", False)
    if family == "llama":
        # Our biases are in all linear layers of a block or in none.
        computed["attention_bias"] = (attention_bias, config.get("mlp_bias", False))
    else:
        computed["attention_bias"] = (attention_bias, False)
    for key, (found, expected) in computed.items():
        refuse_value(key, found, expected)


def _window(family: str, config: dict[str, Any]) -> int | None:
    """Return the sliding window of all layers; raise ValueError if only some layers have it."""
    window = config.get("sliding_window")
    if family == "llama":  # transformers' Llama ignores it in config.json
        return None
    if family == "mistral":
        return window
    if not config.get("use_sliding_window", False):
        window = None
    first = whole_number(config, "max_window_layers", 28, smallest=0)
    listed = config.get("layer_types") or []
    if not isinstance(listed, list):
        raise UserError(f"config.json: layer_types must be a list, found {listed!r}")
    kinds = listed or [
        "sliding_attention" if window is not None and layer >= first else "full_attention"
        for layer in range(whole_number(config, "num_hidden_layers"))
    ]
    count = sum(kind == "sliding_attention" for kind in kinds)
    if 0 < count < len(kinds):
        raise UserError(
            f"config.json: sliding_window applies to {count} of {len(kinds)} layers (layer_types, "
            "max_window_layers); only a window in all layers or in none is supported"
        )
    return window if count else None


def _rope_scaling(
    config: dict[str, Any], rope: dict[str, Any], context_length: int
) -> RopeScaling | None:
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return None
    if not isinstance(kind, str) or kind not in ROPE_KEYS:
        raise UserError(
            f"config.json: rope_type is {kind!r}; supported are default, {', '.join(ROPE_KEYS)}"
        )
    values = {ours: rope.get(theirs) for ours, theirs in ROPE_KEYS[kind].items()}
    factor = values["factor"]
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 1 <= factor < 1e9:
        raise UserError(f"config.json: the rope factor must be a number from 1, found {factor!r}")
    length = config.get(ORIGINAL_LENGTH) or rope.get(ORIGINAL_LENGTH) or context_length
    given = {ours: value for ours, value in values.items() if value is not None}
    return made_from(RopeScaling, kind=kind, original_context_length=length, **given)


def _family(name: str) -> Family:
    return Family(
        name,
        needs=functools.partial(_needs, name),
        sources=sources,
        to_config=functools.partial(_to_config, name),
        from_config=functools.partial(_from_config, name),
        prefix="model.",
        embedding="model.embed_tokens.weight",
        head="lm_head.weight",
        ignored=(".rotary_emb.inv_freq",),
    )


LLAMA, MISTRAL, QWEN3 = _family("llama"), _family("mistral"), _family("qwen3")
