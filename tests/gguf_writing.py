"""Writes GGUF files as llama.cpp's converter does, for tests: from a model of `transformers`."""

from pathlib import Path

import gguf
import numpy as np
import transformers

LLAMA_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
GPT2_NAMES = {
    "transformer.wte": "token_embd",
    "transformer.wpe": "position_embd",
    "transformer.ln_f": "output_norm",
    "ln_1": "attn_norm",
    "ln_2": "ffn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}


def permute(weight: np.ndarray, heads: int) -> np.ndarray:
    """As `LlamaModel.permute` of convert_hf_to_gguf.py."""
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)


def converted(theirs: transformers.PreTrainedModel) -> dict[str, np.ndarray]:
    """The tensors under llama.cpp's names, in llama.cpp's order."""
    config, kind = theirs.config, theirs.config.model_type
    names = GPT2_NAMES if kind == "gpt2" else LLAMA_NAMES
    tensors = {}
    for name, parameter in theirs.named_parameters():
        stem, _, ending = name.rpartition(".")
        parts = stem.split(".")
        layer = next((part for part in parts if part.isdigit()), None)
        inner = stem if layer is None else ".".join(parts[parts.index(layer) + 1 :])
        block = "" if layer is None else f"blk.{layer}."
        weight = parameter.detach().float().numpy()
        if kind == "llama" and inner.endswith("q_proj"):
            weight = permute(weight, config.num_attention_heads)
        if kind == "llama" and inner.endswith("k_proj"):
            weight = permute(weight, config.num_key_value_heads)
        if ".c_" in name and ending == "weight":
            weight = weight.T
        tensors[f"{block}{names[inner]}.{ending}"] = np.ascontiguousarray(weight)
    return tensors


def write_gguf(
    path: Path,
    theirs: transformers.PreTrainedModel,
    kind: str = "F32",
    tensors: dict[str, np.ndarray] | None = None,
    **metadata: object,
) -> None:
    """Write the model; matrices are packed as `kind`, what has one axis is kept in F32.

    Args:
        path: the file to make.
        theirs: a Llama, Qwen3 or GPT-2.
        kind: a type such as "Q8_0".
        tensors: in place of `converted(theirs)`.
        metadata: further values; one whose name has no dot belongs to the architecture.
    """
    config = theirs.config
    architecture = config.model_type
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    if architecture == "gpt2":
        writer.add_feed_forward_length(config.n_inner or 4 * config.hidden_size)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
    else:
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    for name, value in metadata.items():
        add = {str: writer.add_string, float: writer.add_float32, int: writer.add_uint32}
        add |= {list: writer.add_array, bool: writer.add_bool}
        add[type(value)](name.replace("__", "."), value)
    for name, weight in (converted(theirs) if tensors is None else tensors).items():
        packing = gguf.GGMLQuantizationType["F32" if weight.ndim == 1 else kind]
        writer.add_tensor(name, gguf.quants.quantize(weight, packing), raw_dtype=packing)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
