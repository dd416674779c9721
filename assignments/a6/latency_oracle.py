"""The cost of a step by listing: every matrix with its shape, every key that a token sees.

Each rule is an argument, so that the checks of a6.21 can also compute what a mistake would give.
"""

from collections.abc import Sequence
from typing import Any

from transformer_lm.model_config import ModelConfig

GATED = ("swiglu", "geglu")


def config_of(fields: dict[str, Any]) -> ModelConfig:
    return ModelConfig(**fields)


def block_matrices(config: ModelConfig, kv_heads: int | None = None) -> list[int]:
    """Return the weights of each matrix of one block."""
    d, width = config.d_model, config.num_heads * config.head_dim
    kv_width = (kv_heads or config.num_kv_heads) * config.head_dim
    shapes = [(width, d), (kv_width, d), (kv_width, d), (d, width), (config.d_ff, d)]
    shapes += [(config.d_ff, d)] * (config.mlp in GATED) + [(d, config.d_ff)]
    return [rows * columns for rows, columns in shapes]


def seen_by(config: ModelConfig, position: int) -> set[int]:
    window = config.sliding_window or position + 1
    return set(range(max(0, position + 1 - window), position + 1))


def weights(
    config: ModelConfig, *, heads: float = 1, embeddings: int = 0, gates: int = 0, kv: int = 0
) -> float:
    """Return the weights that a step reads; the options are mistakes."""
    table = config.vocab_size * config.d_model
    block = sum(block_matrices(config, kv or None)) + gates * config.d_model * config.d_ff
    return config.num_layers * block + (heads + embeddings) * table


def tokens_read(config: ModelConfig, new: Sequence[int], cached: Sequence[int]) -> int:
    """Return the tokens, over all requests, that a new token of the same request sees."""
    return sum(
        len(set().union(*(seen_by(config, before + i) for i in range(count))))
        for count, before in zip(new, cached, strict=True)
    )


def bytes_per_token(config: ModelConfig, bits: float, heads: int | None = None) -> float:
    """Return the bytes of a key and a value in every layer and head."""
    numbers = 2 * config.num_layers * (heads or config.num_kv_heads) * config.head_dim
    return numbers * bits / 8


def pairs(config: ModelConfig, new: Sequence[int], cached: Sequence[int]) -> int:
    """Return the pairs of a new token and a token that it sees."""
    return sum(
        len(seen_by(config, before + i))
        for count, before in zip(new, cached, strict=True)
        for i in range(count)
    )


def flops(
    config: ModelConfig,
    new: Sequence[int],
    cached: Sequence[int],
    *,
    head_rows: int | None = None,
    num_pairs: int | None = None,
    heads: int | None = None,
    per_pair: int = 4,
    per_weight: int = 2,
) -> float:
    """Return the FLOPs of a step; the options are mistakes."""
    rows = len(new) if head_rows is None else head_rows
    count = pairs(config, new, cached) if num_pairs is None else num_pairs
    block = config.num_layers * sum(block_matrices(config))
    head = config.vocab_size * config.d_model
    attention = config.num_layers * (heads or config.num_heads) * config.head_dim * count
    return float(per_weight * (block * sum(new) + head * rows) + per_pair * attention)


def cost_of(
    config: ModelConfig,
    new: Sequence[int],
    cached: Sequence[int],
    weight_bits: float,
    cache_bits: float,
) -> tuple[float, float, float]:
    """Return (weight_bytes, cache_bytes, flops), or raise ValueError."""
    if len(new) != len(cached) or min(new, default=1) < 1 or min(cached, default=0) < 0:
        raise ValueError("counts that do not belong together")
    if not new:
        return 0.0, 0.0, 0.0
    cache = tokens_read(config, new, cached) * bytes_per_token(config, cache_bits)
    return weights(config) * weight_bits / 8, cache, flops(config, new, cached)


def memory_of(
    config: ModelConfig, lengths: Sequence[int], block_size: int, cache_bits: float
) -> tuple[float, float, float]:
    """Return (block_bytes, wasted_bytes, table_bytes), by filling the blocks token by token."""
    blocks = filled = 0
    for length in lengths:
        free = 0
        for _ in range(length):
            if free == 0:
                blocks, free = blocks + 1, block_size
            free -= 1
            filled += 1
    token = bytes_per_token(config, cache_bits)
    return blocks * block_size * token, (blocks * block_size - filled) * token, 4.0 * blocks
