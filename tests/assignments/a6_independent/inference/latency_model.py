"""The time of a decoding step, predicted from the shape of the model: bytes, FLOPs, roofline.

An independent solution, written from the handout of a6 alone. The pairs of a request are counted
without a loop over its tokens: the first of them see one token more than the one before, the others
as many as the window holds.
"""

from collections.abc import Sequence
from typing import NamedTuple

from lm_core.user_error import UserError
from transformer_lm.model_config import ModelConfig

# Matrices of a feed-forward layer, each d_model x d_ff: a gated one has a gate, too.
FEED_FORWARD_MATRICES = {"swiglu": 3, "geglu": 3, "gelu": 2, "squared_relu": 2}


class Machine(NamedTuple):
    """What a machine can do at most: bytes read from memory, and FLOPs, in a second."""

    bytes_per_second: float
    flops_per_second: float


class StepCost(NamedTuple):
    """What one step must do: bytes of weights and of the cache to read, and FLOPs."""

    weight_bytes: float
    cache_bytes: float
    flops: float


class CacheMemory(NamedTuple):
    """Bytes of all blocks taken, of their places without a token, and of the block tables."""

    block_bytes: float
    wasted_bytes: float
    table_bytes: float


TABLE_ENTRY_BYTES = 4  # a block number in a block table: int32


def step_cost(
    config: ModelConfig,
    new_tokens: Sequence[int],
    cached_tokens: Sequence[int],
    weight_bits: float = 16,
    cache_bits: float = 16,
) -> StepCost:
    """Return the cost of one step of an engine.

    Weights are the matrices of all blocks and the output head, each once, whatever the number of
    requests. A tied head is read like an untied one; the embedding is not, because only some rows
    are looked up. The cache is read once per request and layer: every key and value that at least
    one of the request's new tokens sees, its own included. FLOPs are those of the matrix products,
    two per weight and token; of the output head for one token per request; and of attention, 4 x
    head_dim for each pair of a query (in each head) and a key that it sees.

    Args:
        config: the shape.
        new_tokens: tokens computed for each request: 1 when it decodes, more in a prefill chunk.
        cached_tokens: tokens of each request that were in the cache before the step.
        weight_bits: bits per weight; not always whole, since quantized weights have scales.
        cache_bits: bits per number in the cache.

    Raises:
        UserError: the two lists differ in length, or a count is too small.
    """
    if len(new_tokens) != len(cached_tokens):
        raise UserError(
            f"new_tokens has {len(new_tokens)} numbers and cached_tokens {len(cached_tokens)}; "
            "give one of each for every request"
        )
    if any(new < 1 for new in new_tokens):
        raise UserError(f"each number of new tokens must be at least 1, got {list(new_tokens)}")
    if any(cached < 0 for cached in cached_tokens):
        raise UserError(f"no number of cached tokens may be below 0, got {list(cached_tokens)}")
    if not new_tokens:
        return StepCost(0, 0, 0)

    heads_and_pairs = config.num_heads + config.num_kv_heads
    in_attention = 2 * config.d_model * heads_and_pairs * config.head_dim
    in_feed_forward = FEED_FORWARD_MATRICES[config.mlp] * config.d_model * config.d_ff
    in_blocks = config.num_layers * (in_attention + in_feed_forward)
    in_head = config.vocab_size * config.d_model

    num_read = num_pairs = 0
    for new, cached in zip(new_tokens, cached_tokens, strict=True):
        window = cached + new if config.sliding_window is None else config.sliding_window
        num_read += new + min(cached, window - 1)
        # The first `growing` of the new tokens see every token before them, the others a window.
        growing = min(max(window - cached, 0), new)
        num_pairs += growing * cached + growing * (growing + 1) // 2 + (new - growing) * window

    in_matrices = in_blocks * sum(new_tokens) + in_head * len(new_tokens)
    for_each_pair = 2 * config.head_dim * config.num_heads * config.num_layers
    return StepCost(
        weight_bytes=(in_blocks + in_head) * weight_bits / 8,
        cache_bytes=num_read * _bytes_per_token(config, cache_bits),
        flops=2 * (in_matrices + for_each_pair * num_pairs),
    )


def roofline_seconds(cost: StepCost, machine: Machine) -> float:
    """Return the least time of a step: of the slower of reading and computing, which overlap."""
    reading = (cost.weight_bytes + cost.cache_bytes) / machine.bytes_per_second
    return max(reading, cost.flops / machine.flops_per_second)


def decode_tokens_per_second(
    config: ModelConfig,
    batch_size: int,
    length: int,
    machine: Machine,
    weight_bits: float = 16,
    cache_bits: float = 16,
) -> float:
    """Return the tokens per second, of all requests together, at the limit of the roofline.

    Args:
        config: the shape.
        batch_size: requests that decode one token each; at least 1.
        length: tokens in the cache of each request, before the step.
        machine: what the machine can do.
        weight_bits, cache_bits: as in `step_cost`.
    """
    if batch_size < 1:
        raise UserError(f"batch_size must be at least 1, got {batch_size}")
    cost = step_cost(config, [1] * batch_size, [length] * batch_size, weight_bits, cache_bits)
    return batch_size / roofline_seconds(cost, machine)


def memory_for_cache(
    config: ModelConfig, lengths: Sequence[int], block_size: int, cache_bits: float = 16
) -> CacheMemory:
    """Return the memory of the caches of requests with these numbers of tokens, in blocks.

    Each request has its own blocks, and one int32 in its block table for each of them.
    """
    num_blocks = sum((length + block_size - 1) // block_size for length in lengths)
    num_empty = num_blocks * block_size - sum(lengths)
    per_token = _bytes_per_token(config, cache_bits)
    return CacheMemory(
        block_bytes=num_blocks * block_size * per_token,
        wasted_bytes=num_empty * per_token,
        table_bytes=num_blocks * TABLE_ENTRY_BYTES,
    )


def _bytes_per_token(config: ModelConfig, cache_bits: float) -> float:
    """Return the bytes of a token's keys and values, in all layers."""
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim * cache_bits / 8
