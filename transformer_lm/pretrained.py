"""Our weights in the layout of Hugging Face's Llama and back, so that a checkpoint folder loads in
`transformers` as it is, and a Llama-shaped folder loads here.

The names differ, and so does the order of the rows of the query and key projections: we turn
adjacent pairs (2i, 2i + 1) of a head, Hugging Face turns (i, i + head_dim / 2), so each head's even
rows come first in their file and its odd rows after. What this leaves out: biases, rescaled rotary
frequencies, other families, GGUF.
"""

from pathlib import Path
from typing import Any

import pydantic
import torch
from jaxtyping import Float
from torch import Tensor

from lm_core.checkpoint_files import read_checkpoint
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig

BLOCK_NAMES = {
    "attention_norm": "input_layernorm",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.o_proj",
    "feed_forward_norm": "post_attention_layernorm",
    "feed_forward.gate": "mlp.gate_proj",
    "feed_forward.up": "mlp.up_proj",
    "feed_forward.down": "mlp.down_proj",
}


def hugging_face_names(config: ModelConfig) -> dict[str, str]:
    """Our parameter names -> theirs."""
    names = {
        "token_embedding.weight": "model.embed_tokens.weight",
        "final_norm.weight": "model.norm.weight",
    }
    if not config.tie_embeddings:
        names["output_head.weight"] = "lm_head.weight"
    for layer in range(config.num_layers):
        for ours, theirs in BLOCK_NAMES.items():
            names[f"blocks.{layer}.{ours}.weight"] = f"model.layers.{layer}.{theirs}.weight"
    return names


def pairs_to_halves(
    weight: Float[Tensor, "width d_in"], head_dim: int
) -> Float[Tensor, "width d_in"]:
    """Within each head, rows (0, 1, 2, 3, ...) -> (0, 2, 4, ..., 1, 3, 5, ...)."""
    pairs = weight.unflatten(0, (-1, head_dim // 2, 2))  # [heads, pair, member, d_in]
    return pairs.transpose(1, 2).flatten(0, 2).contiguous()


def halves_to_pairs(
    weight: Float[Tensor, "width d_in"], head_dim: int
) -> Float[Tensor, "width d_in"]:
    """The inverse of `pairs_to_halves`."""
    halves = weight.unflatten(0, (-1, 2, head_dim // 2))  # [heads, member, pair, d_in]
    return halves.transpose(1, 2).flatten(0, 2).contiguous()


def _is_rotated(name: str) -> bool:
    return name.endswith(("attention.query.weight", "attention.key.weight"))


def to_hugging_face(
    model: TransformerLM, special_token_ids: dict[str, int] | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The model as the tensors and the config.json of a Hugging Face Llama.

    Args:
        model: on any device; the tensors come back on the CPU.
        special_token_ids: entries of config.json such as {"eos_token_id": 2}.
    """
    config = model.config
    names = hugging_face_names(config)
    tensors = {}
    for ours, parameter in model.named_parameters():
        weight = parameter.detach().cpu()
        weight = pairs_to_halves(weight, config.head_dim) if _is_rotated(ours) else weight
        tensors[names[ours]] = weight
    dtype = str(model.token_embedding.weight.dtype).removeprefix("torch.")
    return tensors, _config_json(config, dtype) | (special_token_ids or {})


def _config_json(config: ModelConfig, dtype: str) -> dict[str, Any]:
    """`rope_theta` and `torch_dtype` are what transformers 4 reads, `rope_parameters` and `dtype`
    what 5 does.
    """
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.d_ff,
        "hidden_act": "silu",
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "use_cache": True,
        "bos_token_id": None,
        "eos_token_id": None,
        "dtype": dtype,
        "torch_dtype": dtype,
    }


def model_config_from_hugging_face(config: dict[str, Any]) -> ModelConfig:
    """The shape that a config.json describes.

    Raises:
        ValueError: it is not a Llama, or one with something that this code does not compute.
    """
    if not isinstance(config, dict):
        raise ValueError(f"config.json: expected an object, found a {type(config).__name__}")
    for key in ("hidden_size", "num_attention_heads"):
        if not isinstance(config.get(key), int | None):
            raise ValueError(f"config.json: {key} must be a whole number, found {config[key]!r}")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    width, heads = config.get("hidden_size"), config.get("num_attention_heads")
    checks = {
        "model_type": (config.get("model_type"), "llama"),
        "hidden_act": (config.get("hidden_act", "silu"), "silu"),
        "attention_bias": (config.get("attention_bias", False), False),
        "mlp_bias": (config.get("mlp_bias", False), False),
        "rope_type": (rope.get("rope_type", "default"), "default"),
    }
    if width and heads:
        checks["head_dim"] = (config.get("head_dim") or width // heads, width // heads)
    for key, (found, expected) in checks.items():
        if found != expected:
            raise ValueError(
                f"config.json: {key} is {found!r}, this code reads {expected!r}; "
                "use a Llama-shaped checkpoint"
            )
    try:
        return ModelConfig(
            vocab_size=config["vocab_size"],
            context_length=config["max_position_embeddings"],
            d_model=width,
            num_layers=config["num_hidden_layers"],
            num_heads=heads,
            num_kv_heads=config.get("num_key_value_heads") or heads,
            d_ff=config["intermediate_size"],
            rope_theta=float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0),
            norm_eps=config.get("rms_norm_eps", 1e-6),
            tie_embeddings=config.get("tie_word_embeddings", False),
        )
    except pydantic.ValidationError as error:
        problem = error.errors()[0]
        raise ValueError(f"config.json describes no model: {problem['msg']}") from None
    except KeyError as error:
        raise ValueError(
            f"config.json: {error.args[0]} is missing; it describes no model"
        ) from None


def from_hugging_face(tensors: dict[str, Tensor], config: dict[str, Any]) -> TransformerLM:
    """Build the model and copy the weights in, in float32.

    Raises:
        ValueError: tensors are missing, not known, of another shape, or hold NaN; all are listed.
    """
    shape = model_config_from_hugging_face(config)
    model = TransformerLM(shape)
    names = hugging_face_names(shape)
    parameters = dict(model.named_parameters())
    given = {name for name in tensors if not (shape.tie_embeddings and name == "lm_head.weight")}
    problems = [f"{name} is missing" for name in names.values() if name not in given]
    problems += [f"{name} is not known" for name in sorted(given - set(names.values()))]
    for ours, theirs in names.items():
        found, expected = tensors.get(theirs), tuple(parameters[ours].shape)
        if found is not None and tuple(found.shape) != expected:
            problems.append(f"{theirs} has shape {tuple(found.shape)}, expected {expected}")
        elif found is not None and not torch.isfinite(found).all():
            problems.append(f"{theirs} holds NaN or infinity")
    if problems:
        raise ValueError(f"the checkpoint does not fit its config.json: {'; '.join(problems)}")
    with torch.no_grad():
        for ours, theirs in names.items():
            weight = tensors[theirs]
            weight = halves_to_pairs(weight, shape.head_dim) if _is_rotated(ours) else weight
            parameters[ours].copy_(weight)
    return model


def load_model(folder: Path, device: str | torch.device = "cpu") -> TransformerLM:
    """Read a checkpoint folder, ours or a Hugging Face Llama's, in float32.

    Raises:
        ValueError: the folder is no checkpoint, or its tensors do not fit its config.json.
    """
    tensors, config = read_checkpoint(folder)
    try:
        return from_hugging_face(tensors, config).to(device)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
