"""The cost of a model, computed from its shape: parameters, FLOPs, bytes.

One multiplication and one addition are two FLOPs, and only matrix products are counted: the rest
(norms, softmax, rotations) is under 1 % of the FLOPs of any model worth training.

What this leaves out: run time, and the copies that an implementation makes.

Exact count: Hoffmann et al., 2022, appendix F. The rule C = 6 N D: Kaplan et al., 2020, section
2.1. Activations: after Korthikanti et al., 2022, section 4.
"""

from collections.abc import Mapping

from transformer_lm.model_config import ModelConfig, ModelShape

# Inward matrices of a feed-forward layer: gate and up, or up alone. Down comes in addition.
INWARD_MATRICES = {"swiglu": 2, "gelu": 1, "squared_relu": 1, "geglu": 2}


def _inward_matrices(shape: ModelShape) -> int:
    """Return the number of matrices from d_model to d_ff in a feed-forward layer."""
    assert shape.mlp in INWARD_MATRICES, f"model_cost.INWARD_MATRICES has no row {shape.mlp!r}"
    return INWARD_MATRICES[shape.mlp]


def _matrices(shape: ModelShape) -> dict[str, list[tuple[int, int]]]:
    """Return (d_out, d_in) of the linear maps of one block."""
    width, kv_width = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    d, d_ff = shape.d_model, shape.d_ff
    return {
        "attention": [(width, d), (kv_width, d), (kv_width, d), (d, width)],
        "feed-forward": [(d_ff, d)] * _inward_matrices(shape) + [(d, d_ff)],
    }


def parameters_by_part(config: ModelConfig) -> dict[str, int]:
    """Return the parameters of each part of the model; a tied output head counts as none."""
    layers, d = config.num_layers, config.d_model
    linear = {
        part: layers * sum(d_out * d_in + config.biases * d_out for d_out, d_in in maps)
        for part, maps in _matrices(config).items()
    }
    norm_size = {"rmsnorm": d, "layernorm": 2 * d, "none": 0}[config.norm]
    num_norms = 2 * layers + (config.norm_position == "pre")
    qk_norms = layers * 2 * config.head_dim * config.qk_norm
    learned = config.position == "learned"
    return {
        "token embedding": config.vocab_size * d,
        "positions": config.context_length * d if learned else 0,
        **linear,
        "norms": num_norms * norm_size + qk_norms,
        "output head": 0 if config.tie_embeddings else config.vocab_size * d,
    }


def shares(parts: Mapping[str, int]) -> dict[str, float]:
    """Return each part's share of the sum, from 0 to 1."""
    total = sum(parts.values())
    return {part: number / total for part, number in parts.items()}


def count_parameters(config: ModelConfig) -> int:
    """Return the number of all parameters, embeddings included."""
    return sum(parameters_by_part(config).values())


def forward_flops_by_part(config: ModelConfig, sequence_length: int) -> dict[str, int]:
    """Return the FLOPs of a forward pass over one sequence, by part.

    Attention scores are counted for the whole [sequence, sequence] table, as is customary; a kernel
    that skips the part above the diagonal does about half of that work.
    """
    products = {
        part: config.num_layers * 2 * sequence_length * sum(d_out * d_in for d_out, d_in in maps)
        for part, maps in _matrices(config).items()
    }
    table = config.num_heads * sequence_length**2 * config.head_dim
    return {
        "attention projections": products["attention"],
        "attention scores": config.num_layers * 2 * 2 * table,  # q k^T, and weights times v
        "feed-forward": products["feed-forward"],
        "output head": 2 * sequence_length * config.vocab_size * config.d_model,
    }


def flops_per_token(config: ModelConfig, sequence_length: int) -> float:
    """Return the FLOPs to train on one token.

    The backward pass costs twice the forward pass, because each product has a gradient for both of
    its factors.
    """
    return 3 * sum(forward_flops_by_part(config, sequence_length).values()) / sequence_length


def six_n_flops_per_token(config: ModelConfig) -> int:
    """Return 6 N, with N all parameters (as in Hoffmann et al.): a rule of thumb for the exact
    count.

    It omits the attention scores, and counts an untied embedding, which multiplies nothing.
    """
    return 6 * count_parameters(config)


def kv_cache_bytes_per_token(config: ModelConfig, bytes_per_value: int = 2) -> int:
    """Return the bytes of a key-value cache per token: a key and a value in every layer and key
    head.
    """
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim * bytes_per_value


def activation_bytes_by_part(
    config: ModelConfig,
    batch_size: int,
    sequence_length: int,
    bytes_per_value: int = 2,
    keeps_attention_table: bool = False,
) -> dict[str, int]:
    """Return the bytes that a forward pass must keep for the backward pass, by part.

    It counts the input of every matrix product and of every nonlinear function once, as a careful
    implementation keeps them. A line-by-line implementation keeps more (our readable norms, for
    example, keep float32 copies).

    Args:
        config: the shape.
        batch_size: number of sequences.
        sequence_length: tokens per sequence.
        bytes_per_value: 2 for bfloat16.
        keeps_attention_table: whether the weights [heads, sequence, sequence] are kept, as in the
            plain formula; FlashAttention keeps one float32 number per query and head instead.
    """
    tokens, d = batch_size * sequence_length, config.d_model
    width, kv_width = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    # Inputs of the four projections (one for the first three), and q, k and v for the products.
    attention = d + width + 2 * kv_width + width
    head_norms = (width + kv_width) * config.qk_norm  # their inputs: q and k before the norms
    # The input of down, and the values it is made from: the results of gate and up, or of up alone.
    feed_forward = d + (1 + _inward_matrices(config)) * config.d_ff
    rows = tokens * config.num_heads
    table = rows * (sequence_length * bytes_per_value if keeps_attention_table else 4)
    per_layer = tokens * bytes_per_value * config.num_layers
    last_norm = tokens * d * bytes_per_value * (config.norm_position == "pre")
    norms = (2 * per_layer * d + last_norm) * (config.norm != "none")
    return {
        "norms": norms + per_layer * head_norms,
        "attention": per_layer * attention,
        "attention table": config.num_layers * table,
        "feed-forward": per_layer * feed_forward,
        "output head": tokens * (d + config.vocab_size) * bytes_per_value,
    }


def checkpointed_activation_bytes(
    config: ModelConfig,
    batch_size: int,
    sequence_length: int,
    bytes_per_value: int = 2,
    keeps_attention_table: bool = False,
) -> dict[str, int]:
    """Return the bytes of activations if every block keeps only its input, by part.

    All but "one block" is kept from the forward pass to the backward pass. That part is what a
    block keeps while it is computed again, and is needed once, not once per layer. The arguments
    are those of `activation_bytes_by_part`.
    """
    one_layer = config.model_copy(update={"num_layers": 1})
    parts = activation_bytes_by_part(
        one_layer, batch_size, sequence_length, bytes_per_value, keeps_attention_table
    )
    block_input = batch_size * sequence_length * config.d_model * bytes_per_value
    last_norm = block_input * (config.norm_position == "pre" and config.norm != "none")
    head = parts.pop("output head")
    return {
        "block inputs": config.num_layers * block_input,
        "one block": sum(parts.values()) - last_norm,
        "last norm": last_norm,
        "output head": head,
    }


def recomputed_flops(config: ModelConfig, sequence_length: int) -> int:
    """Return the FLOPs that checkpointed blocks add to training on one sequence: their forward pass
    once more, which is all of the model's but the output head.
    """
    parts = forward_flops_by_part(config, sequence_length)
    return sum(parts.values()) - parts["output head"]
