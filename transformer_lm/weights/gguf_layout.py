"""The names and metadata of llama.cpp's files: Llama (including SmolLM2), Qwen3 and GPT-2.

llama.cpp rotates adjacent pairs for `llama`, as we do, and reorders the rows when writing the file;
for `qwen3` it rotates halves, and the rows are in Hugging Face's order. For the accepted metadata
keys see gguf_keys.py, for the rescaling of rotary frequencies gguf_rope.py.

What this leaves out: other architectures, mixtures of experts, and rotary positions on part of a
head. Each is rejected by name.
"""

from typing import Any

from lm_core.formats.gguf_container import GGUFFile
from lm_core.user_error import UserError
from transformer_lm.model_config import ModelConfig
from transformer_lm.weights.config_values import check_positions, longest_context
from transformer_lm.weights.gguf_keys import check_keys
from transformer_lm.weights.gguf_rope import decimal, made, rope_scaling
from transformer_lm.weights.weight_layout import Source

BLOCK_NAMES = {
    "attention_norm": "attn_norm",
    "attention.query": "attn_q",
    "attention.key": "attn_k",
    "attention.value": "attn_v",
    "attention.output": "attn_output",
    "feed_forward_norm": "ffn_norm",
    "feed_forward.gate": "ffn_gate",
    "feed_forward.up": "ffn_up",
    "feed_forward.down": "ffn_down",
}
HEAD_NORM_NAMES = {"attention.query_norm": "attn_q_norm", "attention.key_norm": "attn_k_norm"}
GPT2_PARTS = ("attention.query", "attention.key", "attention.value")
TURNED = ("attention.query", "attention.key")  # and so are the norms over them
ARCHITECTURES = ("gpt2", "llama", "qwen3")
EMBEDDING, HEAD = "token_embd.weight", "output.weight"


def gguf_sources(architecture: str, config: ModelConfig) -> dict[str, Source]:
    """Return our parameter's name -> its source in a file of this architecture."""
    gpt2 = architecture == "gpt2"
    kinds = ["weight", "bias"] if gpt2 else ["weight"]
    found = {"token_embedding.weight": Source(EMBEDDING)}
    if gpt2:
        found["position_embedding.weight"] = Source("position_embd.weight")
    if not config.tie_embeddings:
        found["output_head.weight"] = Source(HEAD)
    found |= {f"final_norm.{kind}": Source(f"output_norm.{kind}") for kind in kinds}
    names = BLOCK_NAMES | (HEAD_NORM_NAMES if config.qk_norm else {})
    for layer in range(config.num_layers):
        for ours, theirs in names.items():
            for kind in kinds:
                place = Source(f"blk.{layer}.{theirs}.{kind}")
                if gpt2 and ours in GPT2_PARTS:
                    name = f"blk.{layer}.attn_qkv.{kind}"
                    place = Source(name, part=GPT2_PARTS.index(ours), parts=3)
                elif gpt2 and ours == "feed_forward.gate":
                    continue
                halves = architecture == "qwen3" and ours.startswith(TURNED)
                found[f"blocks.{layer}.{ours}.{kind}"] = place._replace(halves=halves)
    return found


def gguf_config(file: GGUFFile) -> tuple[str, ModelConfig]:
    """Return the architecture and the shape that a file's metadata describe.

    Raises:
        ValueError: the architecture is not supported, a number is missing, or a feature is not
            supported.
    """
    architecture = file.named("general.architecture")
    if architecture not in ARCHITECTURES:
        raise UserError(
            f"the architecture is {architecture!r}; this code reads {', '.join(ARCHITECTURES)}"
        )
    if EMBEDDING not in file.tensors or not file.tensors[EMBEDDING].shape:
        raise UserError(f"{EMBEDDING} is missing")
    values: dict[str, Any] = {
        "vocab_size": file.tensors[EMBEDDING].shape[0],
        "context_length": whole(file, f"{architecture}.context_length"),
        "d_model": whole(file, f"{architecture}.embedding_length"),
        "num_layers": whole(file, f"{architecture}.block_count"),
        "num_heads": whole(file, f"{architecture}.attention.head_count"),
        "d_ff": whole(file, f"{architecture}.feed_forward_length"),
        "tie_embeddings": HEAD not in file.tensors,
    }
    layers = values["num_layers"]
    if f"blk.{layers - 1}.{BLOCK_NAMES['attention_norm']}.weight" not in file.tensors:
        raise UserError(f"{architecture}.block_count is {layers:,}, but there are fewer blocks")
    heads, width = values["num_heads"], values["d_model"]
    values |= {
        "num_kv_heads": whole(file, f"{architecture}.attention.head_count_kv", heads),
        "head_dim": whole(file, f"{architecture}.attention.key_length", max(1, width // heads)),
    }
    kind = _gpt2_config if architecture == "gpt2" else _rotary_config
    config = kind(file, architecture, values)
    check_keys(file, architecture, config)
    return architecture, config


def whole(file: GGUFFile, key: str, default: int | None = None) -> int:
    """Return a whole number from 1; some files have a list with one per layer, which must agree."""
    value = file.named(key, default)
    layers = value if isinstance(value, list) else [value]
    if len({*map(str, layers)}) != 1:
        raise UserError(f"{key} differs from layer to layer, which is not supported")
    number = layers[0]
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise UserError(f"{key} is {value!r}, expected a whole number from 1")
    return number


def _gpt2_config(file: GGUFFile, architecture: str, values: dict[str, Any]) -> ModelConfig:
    fixed = {"norm": "layernorm", "position": "learned", "mlp": "gelu", "biases": True}
    epsilon = decimal(file, f"{architecture}.attention.layer_norm_epsilon")
    return made(ModelConfig, **values | fixed, norm_eps=epsilon)


def _rotary_config(file: GGUFFile, architecture: str, values: dict[str, Any]) -> ModelConfig:
    window = f"{architecture}.attention.sliding_window"
    shape = made(
        ModelConfig,
        **values,
        qk_norm=architecture == "qwen3",
        sliding_window=whole(file, window) if file.metadata.get(window) else None,
        norm_eps=decimal(file, f"{architecture}.attention.layer_norm_rms_epsilon"),
        rope_theta=decimal(file, f"{architecture}.rope.freq_base", 10000.0),
    )
    scaling, length = rope_scaling(file, architecture, shape), shape.context_length
    if scaling is not None and scaling.kind != "llama3":  # for which the file lacks the length
        original, factor = scaling.original_context_length, scaling.factor
        length = longest_context(length, scaling.kind, original, factor)
    check_positions(length, "the metadata")
    changed = {"rope_scaling": scaling, "context_length": length}
    return made(ModelConfig, **shape.model_dump() | changed)
