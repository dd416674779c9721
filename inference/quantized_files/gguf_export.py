"""A model as a GGUF file, for llama.cpp and other programs: weights, shape, tokenizer, template.

The names and the order of rows are the tables that our reader uses (transformer_lm/weights/
gguf_layout.py), in the other direction. Matrices are packed as Q8_0, Q4_0 or float16, and what has
one axis stays in float32. As in llama.cpp, the embedding and the output head of a Q4_0 file have
more bits, here Q8_0; and a matrix whose rows are not whole blocks of 32 is stored in float16.

What this leaves out: architectures other than llama, qwen3 and gpt2, sliding windows (llama.cpp
ignores them for these), yarn, and the 6-bit type that llama.cpp uses for output heads.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inference.engine.text_side import TextSide, text_side_of_gguf
from inference.quantized_files.gguf_tokenizer import tokenizer_metadata
from inference.quantized_files.gguf_writer import PackedTensor, write_gguf_file
from inference.weight_quantization import BLOCK, q4_0_bytes, q8_0_bytes
from lm_core.formats.gguf_container import GGUFFile, GGUFTensor
from lm_core.user_error import UserError
from transformer_lm.language_model import TransformerLM
from transformer_lm.model_config import ModelConfig
from transformer_lm.rotary_embedding import rotary_frequencies
from transformer_lm.weights.gguf_layout import EMBEDDING, HEAD, gguf_config, gguf_sources
from transformer_lm.weights.gguf_rope import ROPE_FACTORS
from transformer_lm.weights.weight_layout import to_their_layout

# Type of the matrices, and llama.cpp's number for a file of them (llama_ftype).
KINDS = {"f16": ("F16", 1), "q8_0": ("Q8_0", 7), "q4_0": ("Q4_0", 2)}
ROTARY_NEEDS = {
    "norm": "rmsnorm",
    "norm_position": "pre",
    "position": "rotary",
    "mlp": "swiglu",
    "biases": False,
    "sliding_window": None,
}
GPT2_NEEDS = {
    "norm": "layernorm",
    "norm_position": "pre",
    "position": "learned",
    "mlp": "gelu",
    "biases": True,
    "qk_norm": False,
    "sliding_window": None,
}
NEEDS: dict[str, dict[str, Any]] = {
    "llama": ROTARY_NEEDS | {"qk_norm": False},
    "qwen3": ROTARY_NEEDS | {"qk_norm": True},
    "gpt2": GPT2_NEEDS,
}


def export_gguf(
    path: Path, model: TransformerLM, side: TextSide, roles: Mapping[str, str], kind: str
) -> list[str]:
    """Write the file atomically.

    Args:
        path: the file to create.
        model: in floats, on any device.
        side: tokenizer, template and the ids that end a text.
        roles: special tokens by their role, such as {"eos_token": "<|im_end|>"}.
        kind: one of KINDS.

    Returns:
        The names of the matrices that are in float16, although `kind` is another.

    Raises:
        ValueError: the kind is not known; no architecture supports the shape; the tokenizer cannot
            be written; a weight is too large for the type; or the file would not be read as the
            same model and tokenizer.
    """
    check_kind(kind)
    architecture = gguf_architecture(model.config)
    metadata = {"general.architecture": architecture, "general.type": "model"}
    metadata |= {"general.quantization_version": 2, "general.file_type": KINDS[kind][1]}
    metadata |= shape_metadata(architecture, model.config)
    metadata |= tokenizer_metadata(side, roles, model.config.vocab_size)
    tensors = packed_tensors(architecture, model, kind)
    _check_what_a_reader_finds(metadata, tensors, model.config, side)
    write_gguf_file(path, metadata, tensors)
    wanted = KINDS[kind][0]
    return [name for name, tensor in tensors.items() if "F16" == tensor.type != wanted]


def check_kind(kind: str) -> None:
    """Raise ValueError if `kind` is not one of KINDS."""
    if kind not in KINDS:
        raise UserError(f"GGUF type {kind!r}: expected {', '.join(KINDS)}")


def gguf_architecture(config: ModelConfig) -> str:
    """Return llama.cpp's architecture for a shape; raise ValueError if there is none."""
    misfits = {
        name: {field: value for field, value in needs.items() if getattr(config, field) != value}
        for name, needs in NEEDS.items()
    }
    name = min(misfits, key=lambda name: len(misfits[name]))
    heads = (config.num_kv_heads, config.num_heads * config.head_dim)
    if name == "gpt2" and not misfits[name] and heads != (config.num_heads, config.d_model):
        misfits[name] = {"num_kv_heads": config.num_heads, "head_dim": "d_model / num_heads"}
    if misfits[name]:
        ours = ", ".join(f"{field} = {getattr(config, field)!r}" for field in misfits[name])
        theirs = ", ".join(f"{field} = {value!r}" for field, value in misfits[name].items())
        raise UserError(
            f"GGUF has no architecture for a decoder with {ours}; the nearest, {name}, needs "
            f"{theirs}"
        )
    return name


def shape_metadata(architecture: str, config: ModelConfig) -> dict[str, Any]:
    """Return the keys of a model's shape."""
    values: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "context_length": config.context_length,
        "embedding_length": config.d_model,
        "block_count": config.num_layers,
        "feed_forward_length": config.d_ff,
        "attention.head_count": config.num_heads,
        "attention.head_count_kv": config.num_kv_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
    }
    if architecture == "gpt2":
        values["attention.layer_norm_epsilon"] = config.norm_eps
    else:
        values["attention.layer_norm_rms_epsilon"] = config.norm_eps
        values["rope.dimension_count"] = config.head_dim
        values["rope.freq_base"] = float(config.rope_theta)
    scaling = config.rope_scaling
    if scaling is not None and scaling.kind == "linear":
        values["rope.scaling.type"] = "linear"
        values["rope.scaling.factor"] = float(scaling.factor)
        values["rope.scaling.original_context_length"] = scaling.original_context_length
    elif scaling is not None and scaling.kind != "llama3":  # whose divisors are a tensor
        raise UserError(f"rope_scaling of the kind {scaling.kind!r} cannot be written as GGUF here")
    return {f"{architecture}.{name}": value for name, value in values.items()}


def packed_tensors(architecture: str, model: TransformerLM, kind: str) -> dict[str, PackedTensor]:
    """Return llama.cpp's tensors by name, packed."""
    config = model.config
    ours = {name: x.detach().float().cpu() for name, x in model.named_parameters()}
    theirs = to_their_layout(ours, gguf_sources(architecture, config), config.head_dim)
    if config.rope_scaling is not None and config.rope_scaling.kind == "llama3":
        plain, scaled = (
            rotary_frequencies(config.head_dim, config.rope_theta, each)
            for each in (None, config.rope_scaling)
        )
        theirs[ROPE_FACTORS] = (plain / scaled).float()
    return {name: _packed(name, weight, kind) for name, weight in theirs.items()}


def _packed(name: str, weight: Tensor, kind: str) -> PackedTensor:
    type_name, shape = KINDS[kind][0], tuple(weight.shape)
    if weight.ndim == 1 or name.startswith("position_embd"):
        return PackedTensor("F32", shape, weight.contiguous().numpy().view(np.uint8))
    if type_name == "Q4_0" and name in (EMBEDDING, HEAD):
        type_name = "Q8_0"
    if type_name != "F16" and shape[-1] % BLOCK:
        type_name = "F16"
    try:
        if type_name == "F16":
            half = weight.half().contiguous()
            if not half.isfinite().all():
                raise UserError("a weight is above 65504, the largest float16")
            return PackedTensor("F16", shape, half.numpy().view(np.uint8))
        packed = {"Q8_0": q8_0_bytes, "Q4_0": q4_0_bytes}[type_name](weight)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    return PackedTensor(type_name, shape, packed.numpy())


def _check_what_a_reader_finds(
    metadata: dict[str, Any],
    tensors: Mapping[str, PackedTensor],
    config: ModelConfig,
    side: TextSide,
) -> None:
    """Raise ValueError if our reader would make another model or tokenizer of the file."""
    listed = {n: GGUFTensor(t.type, t.shape, t.data.reshape(-1)) for n, t in tensors.items()}
    found = GGUFFile(_as_read(metadata), listed)
    _, read = gguf_config(found)
    ours, theirs = config.model_dump(), read.model_dump()
    different = [field for field in ours if ours[field] != theirs[field]]
    if different:
        field = different[0]
        raise UserError(
            f"{field} = {ours[field]!r} would be read as {theirs[field]!r} from the GGUF file"
        )
    other = text_side_of_gguf(found)
    before, after = side.tokenizer, other.tokenizer
    same_ids = before.vocab == after.vocab and before.special_tokens == after.special_tokens
    if not same_ids or list(before.merges) != list(after.merges):
        raise UserError("the tokenizer would be read with other tokens from the GGUF file")
    ends = side.stop_ids
    if ends is None:
        ends = frozenset(after.special_tokens.values())
    lost = ends - (other.stop_ids or frozenset())
    if lost or side.first_id != other.first_id:
        raise UserError(
            f"GGUF has no key for all the tokens that end a text: {sorted(lost)} would be lost"
            if lost
            else f"the first token {side.first_id} would be read as {other.first_id}"
        )


def _as_read(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata as they are after the file: decimals rounded to float32."""
    rounded = {n: float(torch.tensor(v)) for n, v in metadata.items() if isinstance(v, float)}
    return metadata | rounded
