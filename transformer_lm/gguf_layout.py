"""The names and the metadata of llama.cpp's files: Llama (SmolLM2 is one), Qwen3 and GPT-2.

llama.cpp turns adjacent pairs for `llama`, as we do, and has the rows reordered on the way into the
file; for `qwen3` it turns halves, and the rows are Hugging Face's. What this leaves out, refused by
name: other architectures, mixtures of experts, rotary positions on a part of a head.
"""

import math
from typing import Any

import numpy as np

from lm_core.gguf_container import GGUFFile
from lm_core.user_error import UserError
from transformer_lm.config_values import SettingsType, made_from
from transformer_lm.gguf_blocks import dequantized
from transformer_lm.model_config import ModelConfig, RopeScaling
from transformer_lm.rotary_embedding import rotary_frequencies
from transformer_lm.weight_layout import Source

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
EMBEDDING, HEAD, ROPE_FACTORS = "token_embd.weight", "output.weight", "rope_freqs.weight"
# Of Llama 3.1 to 3.3, whose files have the finished divisors and not these numbers.
LLAMA3_LENGTH = 8192


def gguf_sources(architecture: str, config: ModelConfig) -> dict[str, Source]:
    """Our parameter's name -> where it lies in a file of this architecture."""
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
    """The architecture and the shape that a file's metadata describes.

    Raises:
        ValueError: it is of another architecture, lacks a number, or has something that this code
            does not compute.
    """
    architecture = file.named("general.architecture")
    if architecture not in ARCHITECTURES:
        raise UserError(
            f"the architecture is {architecture!r}; this code reads {', '.join(ARCHITECTURES)}"
        )
    if EMBEDDING not in file.tensors:
        raise UserError(f"{EMBEDDING} is missing")
    values: dict[str, Any] = {
        "vocab_size": file.tensors[EMBEDDING].shape[0],
        "context_length": file.named(f"{architecture}.context_length"),
        "d_model": file.named(f"{architecture}.embedding_length"),
        "num_layers": file.named(f"{architecture}.block_count"),
        "num_heads": file.named(f"{architecture}.attention.head_count"),
        "d_ff": file.named(f"{architecture}.feed_forward_length"),
        "tie_embeddings": HEAD not in file.tensors,
    }
    if architecture == "gpt2":
        epsilon = _decimal(file, "gpt2.attention.layer_norm_epsilon")
        fixed = {"norm": "layernorm", "position": "learned", "mlp": "gelu", "biases": True}
        values |= fixed | {"num_kv_heads": values["num_heads"], "norm_eps": epsilon}
        return "gpt2", _made(ModelConfig, **values)
    return architecture, _rotary_config(file, architecture, values)


def _rotary_config(file: GGUFFile, architecture: str, values: dict[str, Any]) -> ModelConfig:
    def get(name: str, default: Any = None) -> Any:
        return file.metadata.get(f"{architecture}.{name}", default)

    heads, width = values["num_heads"], values["d_model"]
    if not isinstance(heads, int) or not isinstance(width, int) or heads < 1:
        raise UserError(f"attention.head_count is {heads!r}: one number for all layers is read")
    head_dim = get("attention.key_length", width // heads)
    for name, expected in {
        "attention.value_length": head_dim,
        "rope.dimension_count": head_dim,
        "expert_count": 0,
    }.items():
        if get(name, expected) != expected:
            raise UserError(
                f"{architecture}.{name} is {get(name)!r}, this code computes {expected!r} only"
            )
    shape = _made(
        ModelConfig,
        **values,
        num_kv_heads=get("attention.head_count_kv", heads),
        head_dim=head_dim,
        qk_norm=architecture == "qwen3",
        sliding_window=get("attention.sliding_window") or None,
        norm_eps=_decimal(file, f"{architecture}.attention.layer_norm_rms_epsilon"),
        rope_theta=_decimal(file, f"{architecture}.rope.freq_base", 10000.0),
    )
    scaling = _rope_scaling(file, architecture, shape)
    return _made(ModelConfig, **shape.model_dump() | {"rope_scaling": scaling})


def _made(kind: type[SettingsType], /, **values: Any) -> SettingsType:
    try:
        return made_from(kind, **values)
    except ValueError as error:
        raise UserError(str(error).replace("config.json", "the metadata")) from None


def _decimal(file: GGUFFile, key: str, default: float | None = None) -> float:
    """1e-05 for 9.999999747378752e-06: the file has float32, of which this is the short form."""
    value = file.named(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{key} is {value!r}, expected a number")
    return float(str(np.float32(value)))


def _rope_scaling(file: GGUFFile, architecture: str, shape: ModelConfig) -> RopeScaling | None:
    def get(name: str, default: Any = None) -> Any:
        return file.metadata.get(f"{architecture}.rope.scaling.{name}", default)

    if ROPE_FACTORS in file.tensors:
        return _from_divisors(file, shape.head_dim, shape.rope_theta)
    kind = get("type", "none")
    if kind == "none":
        return None
    if kind not in ("linear", "yarn"):
        raise UserError(
            f"{architecture}.rope.scaling.type is {kind!r}, this code computes none, linear, yarn"
        )
    factor = _decimal(file, f"{architecture}.rope.scaling.factor", 1.0)
    if factor < 1:
        raise UserError(
            f"{architecture}.rope.scaling.factor is {factor:g}, expected a number from 1"
        )
    before = get("original_context_length") or max(1, round(shape.context_length / factor))
    return _made(RopeScaling, kind=kind, factor=factor, original_context_length=before)


def _from_divisors(file: GGUFFile, head_dim: int, theta: float) -> RopeScaling:
    """llama3's rescaling, of which the file has only what every frequency is divided by: the
    largest is the factor; that the others follow is checked.
    """
    packed = file.tensors[ROPE_FACTORS]
    divisors = dequantized(packed.data, packed.type, packed.shape)
    if not divisors.size or not np.isfinite(divisors).all():
        raise UserError(f"{ROPE_FACTORS} is empty, or holds NaN or infinity")
    factor = float(str(divisors.max()))
    scaling = _made(
        RopeScaling,
        kind="llama3",
        factor=max(factor, 1.0),
        original_context_length=LLAMA3_LENGTH,
    )
    before, after = (rotary_frequencies(head_dim, theta, each).numpy() for each in (None, scaling))
    if divisors.shape != before.shape or not np.allclose(before / after, divisors, rtol=1e-4):
        raise UserError(
            f"{ROPE_FACTORS} is not what Llama 3's rescaling by {factor} gives; this code computes "
            "no other that comes as finished divisors"
        )
    return scaling
