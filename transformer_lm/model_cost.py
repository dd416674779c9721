"""What a model costs, counted from its shape and not measured: parameters, FLOPs, bytes.

One multiplication and one addition are two FLOPs, and only matrix products are counted: what is
left (norms, softmax, rotations) is under 1 % of the FLOPs of any model worth training. What this
leaves out: the time that any of it takes, and the copies that an implementation makes on the way.

Exact count: Hoffmann et al., 2022, appendix F. The rule C = 6 N D: Kaplan et al., 2020, section
2.1. Activations: after Korthikanti et al., 2022, section 4.
"""

from collections.abc import Mapping

from transformer_lm.model_config import ModelConfig, ModelShape

# Of a feed-forward layer: gate and up, or up alone. One more, down, leads out again.
INWARD_MATRICES = {"swiglu": 2, "gelu": 1}


def _matrices(shape: ModelShape) -> dict[str, list[tuple[int, int]]]:
    """(d_out, d_in) of the linear maps of one block."""
    width, kv_width = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    d, d_ff = shape.d_model, shape.d_ff
    return {
        "attention": [(width, d), (kv_width, d), (kv_width, d), (d, width)],
        "feed-forward": [(d_ff, d)] * INWARD_MATRICES[shape.mlp] + [(d, d_ff)],
    }


def parameters_by_part(config: ModelConfig) -> dict[str, int]:
    """Parameters of each part of the model; a tied output head has none of its own."""
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
    """Each part's share of the sum, from 0 to 1."""
    total = sum(parts.values())
    return {part: number / total for part, number in parts.items()}


def count_parameters(config: ModelConfig) -> int:
    """All parameters, embeddings included."""
    return sum(parameters_by_part(config).values())


def forward_flops_by_part(config: ModelConfig, sequence_length: int) -> dict[str, int]:
    """FLOPs of a forward pass over one sequence, by part.

    Attention scores are counted for the whole [sequence, sequence] table, as is the custom; a
    kernel that skips what lies above the diagonal does about half of that part.
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
    """FLOPs to train on one token: forward once, and backward twice that, because each product has
    a gradient for both of its factors.
    """
    return 3 * sum(forward_flops_by_part(config, sequence_length).values()) / sequence_length


def six_n_flops_per_token(config: ModelConfig) -> int:
    """6 N, with N all parameters (as Hoffmann et al.): the rule of thumb beside the exact count. It
    leaves out the attention scores, and counts an untied embedding, which multiplies nothing.
    """
    return 6 * count_parameters(config)


def kv_cache_bytes_per_token(config: ModelConfig, bytes_per_value: int = 2) -> int:
    """Bytes that a cache holds for each token: a key and a value, in every layer and key head."""
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim * bytes_per_value


def activation_bytes_by_part(
    config: ModelConfig,
    batch_size: int,
    sequence_length: int,
    bytes_per_value: int = 2,
    keeps_attention_table: bool = False,
) -> dict[str, int]:
    """Bytes that a forward pass must keep for the backward pass, by part.

    Counted is the input of every matrix product and of every function that is not linear, once:
    what a careful implementation keeps. One that is written out line by line keeps more (our
    readable norms, for one, keep float32 copies).

    Args:
        config: the shape.
        batch_size: sequences.
        sequence_length: tokens of each.
        bytes_per_value: 2 for bfloat16.
        keeps_attention_table: the weights [heads, sequence, sequence] are kept, as by the plain
            formula; FlashAttention keeps one float32 number for each query and head instead.
    """
    tokens, d = batch_size * sequence_length, config.d_model
    width, kv_width = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    # Inputs of the four projections (one for the first three), and q, k and v for the products.
    attention = d + width + 2 * kv_width + width
    head_norms = (width + kv_width) * config.qk_norm  # what they read: q and k before them
    # What down reads, and what it is made from: the results of gate and up, or of up alone.
    feed_forward = d + (1 + INWARD_MATRICES[config.mlp]) * config.d_ff
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
