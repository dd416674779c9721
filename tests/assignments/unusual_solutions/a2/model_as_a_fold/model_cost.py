"""Counts from one list of matrices."""

from collections.abc import Iterator
from fractions import Fraction

from transformer_lm.model_config import ModelConfig


def matrices(config: ModelConfig) -> Iterator[tuple[str, int, int]]:
    """Yield (part, d_out, d_in) of every matrix of a block."""
    wide, narrow = (heads * config.head_dim for heads in (config.num_heads, config.num_kv_heads))
    yield from (("attention", wide, config.d_model), ("attention", config.d_model, wide))
    yield from [("attention", narrow, config.d_model)] * 2
    inward = 2 if config.mlp == "swiglu" else 1
    yield from [("feed-forward", config.d_ff, config.d_model)] * inward
    yield "feed-forward", config.d_model, config.d_ff


def parameters_by_part(config: ModelConfig) -> dict[str, int]:
    parts = dict.fromkeys(
        ["norms", "output head", "attention", "positions", "feed-forward", "token embedding"], 0
    )
    for part, rows, columns in matrices(config):
        parts[part] += config.num_layers * rows * (columns + bool(config.biases))
    table = config.vocab_size * config.d_model
    parts["token embedding"] = table
    parts["output head"] = 0 if config.tie_embeddings else table
    if config.position == "learned":
        parts["positions"] = config.context_length * config.d_model
    per_value = {"none": 0, "rmsnorm": 1, "layernorm": 2}[config.norm]
    norms = 2 * config.num_layers + (1 if config.norm_position == "pre" else 0)
    parts["norms"] = norms * per_value * config.d_model
    if config.qk_norm:
        parts["norms"] += 2 * config.num_layers * config.head_dim
    return parts


def count_parameters(config: ModelConfig) -> int:
    return sum(parameters_by_part(config).values())


def forward_flops_by_part(config: ModelConfig, sequence_length: int) -> dict[str, int]:
    sums = {"attention": 0, "feed-forward": 0}
    for part, rows, columns in matrices(config):
        sums[part] += 2 * rows * columns * sequence_length * config.num_layers
    scores = sequence_length**2 * config.head_dim * config.num_heads * config.num_layers * 4
    return {
        "output head": 2 * sequence_length * config.vocab_size * config.d_model,
        "feed-forward": sums["feed-forward"],
        "attention scores": scores,
        "attention projections": sums["attention"],
    }


def flops_per_token(config: ModelConfig, sequence_length: int) -> float:
    total = sum(forward_flops_by_part(config, sequence_length).values())
    return float(Fraction(3 * total, sequence_length))


def six_n_flops_per_token(config: ModelConfig) -> int:
    return 6 * count_parameters(config)


def kv_cache_bytes_per_token(config: ModelConfig, bytes_per_value: int = 2) -> int:
    values = config.num_kv_heads * config.head_dim
    return sum(2 * values * bytes_per_value for _ in range(config.num_layers))
