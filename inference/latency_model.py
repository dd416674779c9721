"""The time of a decoding step, predicted from the shape of the model: bytes, FLOPs, roofline.

A step reads every weight matrix once, for all its requests together, and each request's keys and
values once. A machine takes at least as long as its memory needs for these bytes, and at least as
long as its arithmetic needs for the FLOPs. One request that decodes does about one multiplication
for each weight it reads, so the memory decides: twice the bandwidth, or half the bits of a weight,
gives twice the tokens per second. More requests share the weights, until the FLOPs or the caches
take longer.

What this leaves out: writing the new keys and values, activations, norms, biases and the embedding
rows that are looked up (all small), the time to start each operation, and how far real code is from
either limit.

Roofline: Williams, Waterman and Patterson, 2009. Steps of a decoder counted in this way: Pope et
al., 2022 (arXiv 2211.05102), section 2. Waste in blocks: Kwon et al., 2023, section 3.
"""

from collections.abc import Sequence
from typing import NamedTuple

from lm_core.user_error import UserError
from transformer_lm.model_config import ModelConfig

# Matrices of a feed-forward layer, each d_model x d_ff: a gated one has a gate, too.
FEED_FORWARD_MATRICES = {"swiglu": 3, "geglu": 3, "gelu": 2, "squared_relu": 2}


class Machine(NamedTuple):
    """The limits of a machine: bytes read from memory, and FLOPs, in a second."""

    bytes_per_second: float
    flops_per_second: float


class StepCost(NamedTuple):
    """The work of one step: bytes of weights and of the cache to read, and FLOPs."""

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
            f"new_tokens has {len(new_tokens)} requests and cached_tokens {len(cached_tokens)}; "
            "expected one number for each request in both"
        )
    if any(new < 1 for new in new_tokens) or any(cached < 0 for cached in cached_tokens):
        raise UserError(
            f"new_tokens = {list(new_tokens)}, cached_tokens = {list(cached_tokens)}; expected at "
            "least 1 new token and 0 cached ones for each request"
        )
    if not new_tokens:
        return StepCost(0.0, 0.0, 0.0)
    block_weights, head_weights = config.num_layers * _block_weights(config), _head_weights(config)
    requests = list(zip(new_tokens, cached_tokens, strict=True))
    tokens_read = sum(_tokens_read(config, new, cached) for new, cached in requests)
    pairs = sum(_visible_pairs(config, new, cached) for new, cached in requests)
    products = 2 * (block_weights * sum(new_tokens) + head_weights * len(requests))
    attention = 4 * config.num_layers * config.num_heads * config.head_dim * pairs
    return StepCost(
        weight_bytes=(block_weights + head_weights) * weight_bits / 8,
        cache_bytes=tokens_read * _cache_bytes_per_token(config, cache_bits),
        flops=products + attention,
    )


def roofline_seconds(cost: StepCost, machine: Machine) -> float:
    """Return the least time of a step: of the slower of reading and computing, which overlap."""
    bytes_read = cost.weight_bytes + cost.cache_bytes
    return max(bytes_read / machine.bytes_per_second, cost.flops / machine.flops_per_second)


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
    requests = [1] * batch_size, [length] * batch_size
    cost = step_cost(config, *requests, weight_bits, cache_bits)
    return batch_size / roofline_seconds(cost, machine)


def memory_for_cache(
    config: ModelConfig, lengths: Sequence[int], block_size: int, cache_bits: float = 16
) -> CacheMemory:
    """Return the memory of the caches of requests with these numbers of tokens, in blocks.

    Each request has its own blocks, and one int32 in its block table for each of them.
    """
    num_blocks = sum(-(-length // block_size) for length in lengths)  # rounded up
    per_token = _cache_bytes_per_token(config, cache_bits)
    places = num_blocks * block_size
    return CacheMemory(
        block_bytes=places * per_token,
        wasted_bytes=(places - sum(lengths)) * per_token,
        table_bytes=num_blocks * TABLE_ENTRY_BYTES,
    )


def _block_weights(config: ModelConfig) -> int:
    """Return the weights in the matrices of one block."""
    heads = 2 * config.num_heads + 2 * config.num_kv_heads  # query, output; key, value
    attention = heads * config.head_dim * config.d_model
    return attention + FEED_FORWARD_MATRICES[config.mlp] * config.d_model * config.d_ff


def _head_weights(config: ModelConfig) -> int:
    return config.vocab_size * config.d_model


def _cache_bytes_per_token(config: ModelConfig, cache_bits: float) -> float:
    """Return the bytes of a token's keys and values in all layers."""
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim * cache_bits / 8


def _tokens_read(config: ModelConfig, new: int, cached: int) -> int:
    """Return the number of a request's tokens that at least one of its new ones sees."""
    if config.sliding_window is None:
        return cached + new
    return new + min(cached, config.sliding_window - 1)  # the first new one looks back furthest


def _visible_pairs(config: ModelConfig, new: int, cached: int) -> int:
    """Return the pairs of a new token and a token that it sees, itself included."""
    window = config.sliding_window or config.context_length + cached + new
    return sum(min(cached + place + 1, window) for place in range(new))
