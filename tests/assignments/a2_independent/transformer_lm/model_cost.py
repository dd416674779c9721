"""What a model costs, counted from its shape and not measured: parameters, FLOPs, bytes.

One multiplication and one addition are two FLOPs, and only matrix products are counted: what is
left (norms, softmax, rotations) is under 1 % of the FLOPs of any model worth training. What this
leaves out: the time that any of it takes, and the copies that an implementation makes on the way.

Exact count: Hoffmann et al., 2022, appendix F. The rule C = 6 N D: Kaplan et al., 2020, section
2.1. Activations: after Korthikanti et al., 2022, section 4.
"""

from collections.abc import Mapping

from transformer_lm.model_config import ModelConfig


def _attention_weights(config: ModelConfig) -> int:
    """Values in the four projections of a layer, biases left out."""
    heads = 2 * config.num_heads + 2 * config.num_kv_heads
    return heads * config.head_dim * config.d_model


def parameters_by_part(config: ModelConfig) -> dict[str, int]:
    """Parameters of each part of the model; a tied output head has none of its own."""
    d, layers = config.d_model, config.num_layers
    matrices = 3 if config.mlp == "swiglu" else 2
    attention, feed_forward = _attention_weights(config), matrices * d * config.d_ff
    if config.biases:
        attention += (config.num_heads + 2 * config.num_kv_heads) * config.head_dim + d
        feed_forward += (matrices - 1) * config.d_ff + d
    norm = {"rmsnorm": d, "layernorm": 2 * d, "none": 0}[config.norm]
    norms = 2 * layers * norm + (norm if config.norm_position == "pre" else 0)
    if config.qk_norm:
        norms += 2 * layers * config.head_dim
    return {
        "token embedding": config.vocab_size * d,
        "positions": config.context_length * d if config.position == "learned" else 0,
        "attention": layers * attention,
        "feed-forward": layers * feed_forward,
        "norms": norms,
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
    matrices = 3 if config.mlp == "swiglu" else 2
    table = config.num_heads * sequence_length**2
    layer_token = 2 * config.num_layers * sequence_length
    return {
        "attention projections": layer_token * _attention_weights(config),
        "attention scores": 2 * (2 * config.num_layers * table * config.head_dim),
        "feed-forward": layer_token * matrices * config.d_model * config.d_ff,
        "output head": 2 * sequence_length * config.d_model * config.vocab_size,
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
    keys = config.num_layers * config.num_kv_heads * config.head_dim
    return 2 * keys * bytes_per_value


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
    # What down reads, and what it is made from: gate and up, or up alone.
    feed_forward = d + (3 if config.mlp == "swiglu" else 2) * config.d_ff
    rows = tokens * config.num_heads
    table = rows * (sequence_length * bytes_per_value if keeps_attention_table else 4)
    per_layer = tokens * bytes_per_value * config.num_layers
    has_norms = config.norm != "none"
    return {
        "norms": (2 * per_layer * d + tokens * d * bytes_per_value) * has_norms,
        "attention": per_layer * attention,
        "attention table": config.num_layers * table,
        "feed-forward": per_layer * feed_forward,
        "output head": tokens * (d + config.vocab_size) * bytes_per_value,
    }
