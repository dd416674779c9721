"""Hugging Face's layout of GPT-2.

Its linear layers are `Conv1D`: the matrix is [d_in, d_out]. Query, key and value are one such
matrix, c_attn. Positions are learned vectors, norms are LayerNorms, and the output head is the
token embedding.

What this leaves out: other activations, and other scalings of attention scores. Each is rejected by
name.

Radford et al., 2019.
"""

from typing import Any

from transformer_lm.model_config import ModelConfig
from transformer_lm.weights.config_values import made_from, refuse_value, whole_number
from transformer_lm.weights.weight_layout import Family, Source

LINEAR_SOURCES = {
    "attention.query": Source("attn.c_attn", part=0, parts=3, transposed=True),
    "attention.key": Source("attn.c_attn", part=1, parts=3, transposed=True),
    "attention.value": Source("attn.c_attn", part=2, parts=3, transposed=True),
    "attention.output": Source("attn.c_proj", transposed=True),
    "feed_forward.up": Source("mlp.c_fc", transposed=True),
    "feed_forward.down": Source("mlp.c_proj", transposed=True),
}
NORM_SOURCES = {"attention_norm": Source("ln_1"), "feed_forward_norm": Source("ln_2")}


def _sources(config: ModelConfig) -> dict[str, Source]:
    found = {
        "token_embedding.weight": Source("transformer.wte.weight"),
        "position_embedding.weight": Source("transformer.wpe.weight"),
        "final_norm.weight": Source("transformer.ln_f.weight"),
        "final_norm.bias": Source("transformer.ln_f.bias"),
    }
    if not config.tie_embeddings:
        found["output_head.weight"] = Source("lm_head.weight")
    for layer in range(config.num_layers):
        for ours, source in (LINEAR_SOURCES | NORM_SOURCES).items():
            for kind in ("weight", "bias"):
                name = f"transformer.h.{layer}.{source.name}.{kind}"
                transposed = source.transposed and kind == "weight"
                placed = source._replace(name=name, transposed=transposed)
                found[f"blocks.{layer}.{ours}.{kind}"] = placed
    return found


def _needs(config: ModelConfig) -> dict[str, Any]:
    return {
        "norm": "layernorm",
        "norm_position": "pre",
        "position": "learned",
        "mlp": "gelu",
        "biases": True,
        "qk_norm": False,
        "sliding_window": None,
        "num_kv_heads": config.num_heads,
        "d_model": config.num_heads * config.head_dim,
    }


def _to_config(config: ModelConfig) -> dict[str, Any]:
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": config.vocab_size,
        "n_positions": config.context_length,
        "n_embd": config.d_model,
        "n_layer": config.num_layers,
        "n_head": config.num_heads,
        "n_inner": config.d_ff,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "use_cache": True,
    }


def _from_config(config: dict[str, Any]) -> ModelConfig:
    computed = {
        "activation_function": (config.get("activation_function", "gelu_new"), "gelu_new"),
        "scale_attn_weights": (config.get("scale_attn_weights", True), True),
        "scale_attn_by_inverse_layer_idx": (
            config.get("scale_attn_by_inverse_layer_idx", False),
            False,
        ),
        "add_cross_attention": (config.get("add_cross_attention", False), False),
        "quantization_config": (config.get("quantization_config"), None),
    }
    for key, (found, expected) in computed.items():
        # gelu_pytorch_tanh is another name of the same function.
        refuse_value(key, "gelu_new" if found == "gelu_pytorch_tanh" else found, expected)
    width, heads = whole_number(config, "n_embd"), whole_number(config, "n_head")
    inner = config.get("n_inner")
    return made_from(
        ModelConfig,
        vocab_size=whole_number(config, "vocab_size"),
        context_length=whole_number(config, "n_positions"),
        d_model=width,
        num_layers=whole_number(config, "n_layer"),
        num_heads=heads,
        num_kv_heads=heads,
        d_ff=4 * width if inner is None else inner,
        norm="layernorm",
        position="learned",
        mlp="gelu",
        biases=True,
        norm_eps=config.get("layer_norm_epsilon", 1e-5),
        tie_embeddings=config.get("tie_word_embeddings", True),
    )


GPT2 = Family(
    "gpt2",
    needs=_needs,
    sources=_sources,
    to_config=_to_config,
    from_config=_from_config,
    prefix="transformer.",
    embedding="transformer.wte.weight",
    head="lm_head.weight",
    ignored=(".attn.bias", ".attn.masked_bias"),  # the causal mask, in files of transformers 4
)
