"""The metadata of a GGUF file that affect its model's computation: each is supported, has its
neutral value, or is rejected by name.

llama.cpp stores the numbers of a model under the architecture's name ("llama.rope.freq_base"). We
accept three kinds of keys under it: those that gguf_layout.py and gguf_rope.py use, those that do
not affect the numbers, and those whose value switches them off. Any other key, even an unknown one,
is rejected.

What this leaves out: keys under other names (general, tokenizer, quantize), which describe the
file, except "general.type".

Source: gguf's constants.py, and llama.cpp's defaults for missing keys (llama-model.cpp).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from lm_core.formats.gguf_container import BLOCKS, GGUFFile
from lm_core.user_error import UserError
from transformer_lm.model_config import ModelConfig

SHAPE_KEYS = (
    "context_length",
    "embedding_length",
    "block_count",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
)
COMPUTED = {
    "gpt2": (*SHAPE_KEYS, "attention.layer_norm_epsilon"),
    "llama": (*SHAPE_KEYS, "attention.layer_norm_rms_epsilon", "attention.sliding_window"),
    "qwen3": (*SHAPE_KEYS, "attention.layer_norm_rms_epsilon", "attention.sliding_window"),
}
ROPE_KEYS = (
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.attn_factor",
    "rope.scaling.yarn_ext_factor",
    "rope.scaling.yarn_attn_factor",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
)
# Not used in the computation: the rows of the embedding are counted, and the other is a remark.
HARMLESS = ("vocab_size", "rope.scaling.finetuned")
# 0, False or an empty list for each: the model has no such part.
OFF = (
    "attention.clamp_kqv",
    "attention.decay_lora_rank",
    "attention.gate_lora_rank",
    "attention.group_norm_epsilon",
    "attention.group_norm_groups",
    "attention.iclr_lora_rank",
    "attention.indexer.head_count",
    "attention.indexer.key_length",
    "attention.indexer.top_k",
    "attention.key_length_mla",
    "attention.kv_lora_rank",
    "attention.max_alibi_bias",
    "attention.q_lora_rank",
    "attention.relative_buckets_count",
    "attention.shared_kv_layers",
    "attention.temperature_length",
    "attention.temperature_scale",
    "attention.value_length_mla",
    "attention.value_residual_mix_lora_rank",
    "activation_sparsity_scale",
    "attn_logit_softcapping",
    "embedding_length_per_layer_input",
    "expert_chunk_feed_forward_length",
    "expert_count",
    "expert_feed_forward_length",
    "expert_gating_func",
    "expert_group_count",
    "expert_group_scale",
    "expert_group_used_count",
    "expert_shared_count",
    "expert_shared_feed_forward_length",
    "expert_used_count",
    "expert_weights_norm",
    "experts_per_group",
    "final_logit_softcapping",
    "full_attention_interval",
    "interleave_moe_layer_step",
    "leading_dense_block_count",
    "moe_every_n_layers",
    "moe_latent_size",
    "n_deepstack_layers",
    "nextn_predict_layers",
    "rescale_every_n_layers",
    "rope.dimension_sections",
    "rope.scaling.yarn_log_multiplier",
    "router_logit_softcapping",
    "swiglu_clamp_exp",
    "swiglu_clamp_shexp",
    "swin_norm",
    "token_shift_count",
    "use_parallel_residual",
)
# Factors: 1, or 0 for "not given".
FACTORS = (
    "attention.output_scale",
    "embedding_scale",
    "expert_weights_scale",
    "logit_scale",
    "residual_scale",
    "rope.scale",
    "rope.scaling.alpha",
)


class Neutral(NamedTuple):
    """The value of a key with which a model computes the same as ours: its description, and a test
    for it.
    """

    words: str
    holds: Callable[[Any], bool]


def check_keys(file: GGUFFile, architecture: str, config: ModelConfig) -> None:
    """Raise ValueError, naming the key, if the metadata require something that our model does not
    do.

    Args:
        file: the whole file.
        architecture: one of COMPUTED.
        config: the result of the supported keys.
    """
    _check_kind_of_file(file)
    passed = COMPUTED[architecture] + HARMLESS
    neutral = neutral_values(architecture, config)
    if config.position == "rotary":
        passed += ROPE_KEYS
    for key, value in file.metadata.items():
        prefix, _, name = key.partition(".")
        if prefix != architecture or name in passed:
            continue
        if name not in neutral:
            raise UserError(f"{key} is {value!r}: this key is unknown, so the logits could differ")
        if not neutral[name].holds(value):
            raise UserError(
                f"{key} is {value!r}, but only {neutral[name].words} is supported: the logits "
                "would differ"
            )


def neutral_values(architecture: str, config: ModelConfig) -> dict[str, Neutral]:
    """Return key, without the architecture -> its neutral value for a model of this shape."""
    off = Neutral("0", lambda value: not any(value if isinstance(value, list) else [value]))
    head_dim, rotary = config.head_dim, config.position == "rotary"
    layouts = ("reference", "Meta AI original pth") if architecture == "llama" else ("reference",)
    neutral = dict.fromkeys(OFF, off)
    neutral |= dict.fromkeys(FACTORS, Neutral("1", lambda value: value in (0, 1)))
    neutral |= {
        "attention.value_length": exactly(head_dim),
        "attention.causal": exactly(True),
        "attention.scale": nearly(1 / math.sqrt(head_dim)),
        "attention.sliding_window_pattern": Neutral(
            "a window in all layers", lambda value: isinstance(value, list) and all(value)
        ),
        "embedding_length_out": exactly(config.d_model),
        "pooling_type": Neutral("0 (none)", lambda value: value in (0, -1)),
        "tensor_data_layout": Neutral(" or ".join(layouts), lambda value: value in layouts),
    }
    if rotary:
        neutral["rope.dimension_count"] = exactly(head_dim)
        neutral["rope.dimension_count_swa"] = exactly(head_dim)
        neutral["rope.freq_base_swa"] = nearly(config.rope_theta)
        neutral["attention.layer_norm_epsilon"] = nearly(config.norm_eps)
    else:
        neutral |= {
            "attention.sliding_window": off,
            "rope.dimension_count": off,
            "rope.scaling.type": exactly("none"),
        }
    return neutral


def exactly(expected: object) -> Neutral:
    """Accept exactly this value; 1 is not True."""
    return Neutral(
        repr(expected), lambda value: type(value) is type(expected) and value == expected
    )


def nearly(expected: float) -> Neutral:
    """Accept this number, rounded to float32, or 0 for "not given"."""
    return Neutral(
        f"{expected:.8g}",
        lambda value: (
            isinstance(value, int | float)
            and (value == 0 or math.isclose(value, expected, rel_tol=1e-6))
        ),
    )


def _check_kind_of_file(file: GGUFFile) -> None:
    kind = file.metadata.get("general.type", "model")
    if kind != "model":
        raise UserError(f"general.type is {kind!r}: the file does not contain a complete model")
    version = file.metadata.get("general.quantization_version", 2)
    packed = any(BLOCKS.get(tensor.type, (1, 0))[0] > 1 for tensor in file.tensors.values())
    if packed and version != 2:
        raise UserError(f"general.quantization_version is {version!r}: only version 2 is supported")
